"""One block in training on several folds, in step, and when it is at its best."""

# SPDX-License-Identifier: BSD-3-Clause

import copy
import math

import torch

from skjko.flow import accuracy, objective, schedule
from skjko.flow.fields import Confined
from skjko.flow.flow import Block
from skjko.flow.fold import movement, pooled
from skjko.flow.journal import Outcome
from skjko.flow.training import iterations_of, trainers

# A reparameterized block corrects its step size so often, in this share of its
# iterations, by the movement of so many rows; then it settles at the last one.
_N_STEERS, _STEERED_SHARE, _N_STEERING = 15, 0.6, 4000

# Decisions tolerate so many times the solver's error of scores, on so many rows, and
# look at no grid with more steps: a field that needs them is a bad one.
_SLACK, _N_PROBES, _MAX_STEPS = 10.0, 512, 32

# Standard errors within which a loss may be noise.
_NOISE = 2.0

# Noise is learned from rows that are seen again and again. What held-out rows lose in
# so few passes is by a learning rate that will fall.
_FEW_PASSES = 5


def confined(velocity_fields, folds):
    """The fields, faded out beyond the farthest of all rows they are trained on."""
    radius = 1.25 * max(fold.train.radius for fold in folds)
    return [Confined(field, radius) for field in velocity_fields]


def _solved(velocity_field, step_size, options, fold):
    """Block with a grid on which the field cannot fool the solver as in training."""
    rows = fold.train if fold.held_out is None else fold.held_out
    rows = rows.some(_N_PROBES)
    block = Block(velocity_field, step_size, options.n_ode_steps)
    accuracy.refine(block, rows.x, rows.context, _SLACK, _MAX_STEPS)
    return block


class Stage:
    """One block in training on all folds, in step.

    Attributes
    ----------
    fields : list of VelocityField or None
        Confined, one a fold: the best on the held-out rows, or, with no rows held out,
        the last. None if none was better than no block at all.
    n_iter : int
        Iterations after which they were the best.
    scores : list of (int, float)
        Iterations after which the held-out rows were scored, and what they said.
    """

    def __init__(self, folds, fields, step_size, options, generators, pace):
        self.folds, self.step_size, self.options = folds, step_size, options
        self.pace = pace
        rows = [fold.train for fold in folds]
        self.trainers = trainers(
            confined(fields, folds), rows, step_size, options, generators, pace
        )
        self.fields, self.n_iter, self.scores = None, 0, []

    def train(self, report, planned=None, parents=None, steering=None):
        """Train a new block, or the parents again, by a plan or by the held-out rows.

        Parameters
        ----------
        report : callable
            Told of the held-out rows.
        planned : BlockRecord or None
            Train for as many iterations as this.
        parents : list of VelocityField or None
            Confined; what the block was before. None if it is new.
        steering : tuple of float or None
            Movement to steer the block to, and the largest step size.
        """
        if steering is not None:
            self.steer(*steering)
        if planned is not None:
            self.run(planned.n_iter)
            self.fields = self.fields or parents
        elif parents is not None and self.n_done > 0:
            # What moves by another step size than it learned with is no parent.
            self.search(report, self.averages)
        else:
            self.search(report, parents)

    def run(self, n_iter):
        """Train up to so many iterations, or for as long as there is time."""
        while self.n_done < n_iter and self.progress < 1:
            self._advance()
        if not self.broken:
            self.fields, self.n_iter = self.averages, self.n_done

    def steer(self, aim, max_step_size):
        """Train with a step size that makes the block move by `aim`.

        Reparameterization as training goes on: a movement answers to the step size
        within few iterations, and need not wait for the next round.
        """
        if math.isinf(self.step_size):
            return
        for i in range(1, _N_STEERS + 1):
            target = i / _N_STEERS * _STEERED_SHARE
            if self.progress >= target:
                continue
            while self.progress < target:
                self._advance()
            self.step_size = schedule.toward(
                self.step_size, self._movement(), aim, max_step_size
            )
            for trainer in self.trainers:
                trainer.step_size = self.step_size

    def search(self, report, start=None):
        """Train until held-out rows no longer improve on the start.

        A new block, with `start` None, is judged by the likelihood it gives, and has to
        be better than none. One that is trained again, from the fields `start`, serves
        the blocks after it, and is judged by the JKO objective that it minimises.
        """
        self.fields = copy.deepcopy(start)
        step_size = schedule.FREE if start is None else self.step_size
        # A block that has learned loses at first by the learning rate that it starts
        # again with, and needs all of the schedule to gain.
        patience = self.options.patience if start is None else math.inf
        before = self._objective(start, step_size)
        best, self.n_iter = pooled(self.folds, before)[0], self.n_done
        n_rows = max(len(fold.train) for fold in self.folds)
        n_few = iterations_of(_FEW_PASSES, n_rows, self.options.batch_size)
        disappointments = 0
        while (progress := self.progress) < 1 and not self.broken:
            n = self.options.n_evaluations
            target = (math.floor(progress * n) + 1) / n
            self._advance()
            while self.progress < target:
                self._advance()
            values = self._objective(averages := self.averages, step_size)
            value = pooled(self.folds, values)[0]
            self.scores.append((self.n_done, value))
            report("scored", self.n_done, value)
            if value < best:
                best, disappointments = value, 0
                self.fields = copy.deepcopy(averages)
                self.n_iter = self.n_done
                continue
            if self.n_done < n_few:
                continue
            disappointments += 1
            # What was better than no block, and is no more, has had its day.
            is_over = start is None and self.fields and self._is_worse(values, before)
            if is_over or disappointments >= patience:
                break

    def outcome(self, seconds, states):
        """What came of it, in so many seconds, with the generators in these states."""
        return Outcome(
            blocks=None if self.fields is None else self._solved(self.fields),
            broken=self.broken,
            step_size=self.step_size,
            n_iter=self.n_iter,
            n_planned=self.n_planned,
            n_minibatches=sum(trainer.n_minibatches for trainer in self.trainers),
            losses=self.trainers[0].losses[: self.n_iter],
            scores=self.scores,
            seconds=seconds,
            states=states,
        )

    @property
    def n_done(self):
        """Iterations done."""
        return self.trainers[0].n_iter

    @property
    def broken(self):
        """Whether the training of one of the fields has been given up."""
        return any(trainer.broken for trainer in self.trainers)

    @property
    def n_planned(self):
        """Iterations that end the schedule of the learning rate."""
        return round(self.n_done / self.progress) if self.n_done else 0

    @property
    def progress(self):
        """Share of the training that is over."""
        return self.pace.progress(self.n_done)

    def _advance(self):
        for trainer in self.trainers:
            trainer.advance(1)

    @property
    def averages(self):
        """Running averages of the fields in training, one a fold."""
        return [field for trainer in self.trainers for field in trainer.averages]

    def _movement(self):
        """Root mean square movement of (some) training rows by the fields so far."""
        n_steps = max(trainer.n_ode_steps for trainer in self.trainers)
        blocks = [Block(f, self.step_size, n_steps) for f in self.averages]
        return movement(self.folds, blocks, _N_STEERING)

    @torch.no_grad()
    def _objective(self, fields, step_size):
        """JKO objective of every fold's held-out rows; None is no block."""
        blocks = [None] * len(self.folds) if fields is None else self._solved(fields)
        values = []
        for fold, block in zip(self.folds, blocks, strict=True):
            rows, log_det = fold.held_out, fold.log_det
            if block is not None:
                rows, log_det = fold.push_held_out(block)
            values.append(objective.jko(fold.held_out.x, rows.x, log_det, step_size))
        return values

    def _is_worse(self, values, before):
        """Whether the held-out rows have lost, by more than noise (paired by row)."""
        losses = [a - b for a, b in zip(values, before, strict=True)]
        mean, error = pooled(self.folds, losses)
        return mean > _NOISE * error

    def _solved(self, fields):
        return [
            _solved(field, self.step_size, self.options, fold)
            for field, fold in zip(fields, self.folds, strict=True)
        ]
