"""Training of one block, on every fold at once, stopped by validation."""

# SPDX-License-Identifier: BSD-3-Clause

import copy
import math
from dataclasses import dataclass
from functools import partial

import torch

from skjko.flow import (
    divergence,
    objective,
    ode,
    optimizers,
    schedule,
    step_selection,
)
from skjko.flow.blocks import Block
from skjko.flow.folds import displacement, pooled
from skjko.flow.group import ALONE

# The radius where a field fades out, over the length of the longest training sample.
_RADIUS = 1.25
# Reparameterization corrects a step size so often, in this share of the training.
_N_CORRECTIONS, _CORRECTED_SHARE = 15, 0.6
# Tolerance of validation in nats, on so many samples, and the most steps: a field that
# needs more is a bad one.
_TOL, _N_POINTS, _MAX_STEPS = 1e-2, 256, 32
# Validation samples that say when to stop.
_N_VALIDATION = 1000
# Standard errors beyond which a loss is no noise.
_NOISE = 2.0
# Samples have to be seen so often before validation that gets worse means overfitting,
# and not a learning rate that is still high.
_MIN_EPOCHS = 5
# Samples on which a finer grid checks the one that a block is trained on, and the
# number of steps that is not doubled any more.
_N_CHECKED, _ENOUGH_STEPS = 128, 8


@dataclass
class BlockResult:
    """What came of training a block.

    Attributes
    ----------
    blocks : list of dict or None
        States of the blocks, one a fold; None if validation prefers none.
    failed : bool
        Whether training exploded too often.
    step_size : float
        JKO step size h in the end.
    n_iter : int
        Iterations after which the weights were taken.
    n_planned : int
        Iterations in which the learning rate goes to zero.
    n_minibatches : int
        Of all folds.
    losses : list of float
        JKO objective of the first fold's minibatches, up to `n_iter`.
    evaluations : list of (int, float)
        Iterations, and the mean objective of the validation samples after them.
    seconds : float
        Of an iteration.
    """

    blocks: list[dict] | None
    failed: bool
    step_size: float
    n_iter: int
    n_planned: int
    n_minibatches: int
    losses: list[float]
    evaluations: list[tuple[int, float]]
    seconds: float

    def blocks_like(self, start):
        """Return the blocks, with fields of the form of those of the start."""
        return [
            Block.from_state(state, block.field)
            for state, block in zip(self.blocks, start, strict=True)
        ]

    @property
    def overfits(self):
        """Whether the first of several evaluations was the best."""
        return len(self.evaluations) > 1 and self.n_iter == self.evaluations[0][0]


def radius(folds):
    """Return where the fields of the next block should fade out."""
    return _RADIUS * max(fold.train.radius for fold in folds)


class BlockFit:
    """Training of one block on every fold, iteration by iteration.

    Parameters
    ----------
    folds : list of Fold
        All with validation samples, or one without.
    blocks : list of Block
        Where to start, one a fold.
    config : TrainingConfig
    job : Job
        Budget and random numbers.
    planned : BlockRecord, optional
        What to train without validation: the iterations in which the learning rate goes
        to zero, in place of `max_iter`, and how many of them.
    """

    def __init__(self, folds, blocks, config, job, planned=None):
        self._folds, self._config, self._budget = folds, config, job.budget
        self._planned = planned
        self._validation = [fold.first_validation(_N_VALIDATION) for fold in folds]
        self._n_steps = [config.n_steps] * len(folds)
        self._max_iter = config.max_iter if planned is None else planned.n_planned
        seeds = torch.randint(2**62, (len(folds),), generator=job.generator).tolist()
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._group = job.budget.group
        self._trainers = [
            BlockTrainer(block, fold.train, config, generator, self._group)
            for block, fold, generator in zip(blocks, folds, generators, strict=True)
        ]
        self._n_done, self._begin = 0, job.budget.clock()
        self._best, self._n_best = None, 0
        self._evaluations = []

    # ------------------------------------------------------------------- training

    @property
    def progress(self):
        """Share of the training that is over, by iterations or by the clock."""
        return min(max(self._n_done / self._max_iter, self._budget.progress), 1.0)

    @property
    def _is_limited(self):
        return math.isfinite(self._budget.seconds)

    @property
    def failed(self):
        """Whether training exploded too often on one of the folds."""
        return any(trainer.failed for trainer in self._trainers)

    def _advance(self, until=1.0, n_iter=math.inf):
        """Train until some progress or number of iterations, for one or more."""
        done = False
        while not done:
            progress = self.progress
            for trainer in self._trainers:
                trainer.step(progress, 1 / self._max_iter)
            self._n_done += 1
            # Time may have run out since the caller looked: there is no more than all.
            done = self.progress >= min(until, 1.0) or self._n_done >= n_iter

    def run(self, n_iter, fallback=None):
        """Train for so many iterations, or for as long as there is time."""
        n, report, stop = self._config.n_evaluations, self._budget.report, False
        while self._n_done < n_iter and self.progress < 1 and not stop:
            target = (math.floor(self.progress * n) + 1) / n
            report("iterations", n_iter=self._n_done)
            self._advance(target, n_iter)
            stop = report("evaluation", n_iter=self._n_done, objective=None)
        self._best, self._n_best = fallback, 0
        if not self.failed:
            self._best, self._n_best = self._averages(), self._n_done

    def even_out(self, target, max_step_size):
        """Train with a step size that makes the displacement approach a target.

        The update of Section 4.2 of Xu, Cheng, Xie (2023), while the block trains: its
        displacement answers to the step size within a few iterations.
        """
        if math.isinf(self._trainers[0].step_size):
            return
        for i in range(1, _N_CORRECTIONS + 1):
            until = i / _N_CORRECTIONS * _CORRECTED_SHARE
            if self.progress >= until:
                continue
            self._advance(until)
            moved = displacement(self._folds, self._averages())
            step_size = schedule.toward(
                self._trainers[0].step_size, moved, target, max_step_size
            )
            for trainer in self._trainers:
                trainer.step_size = step_size

    def search(self, start=None, is_pretrained=False):
        """Train for as long as validation improves, and take the best weights.

        A new block, with `start` None, is judged by the likelihood that it gives, and
        has to be better than none. One that is trained again, from the blocks `start`,
        serves the blocks after it, and is judged by the JKO objective. Where the
        iterations are planned, so many are run. A new block that is pretrained may also
        stay as it is.
        """
        if self._planned is not None:
            self.run(self._planned.n_iter, start)
            return
        if start is not None and self._n_done > 0:
            # Blocks with another step size than they were trained with are no start.
            start = self._averages()
        step_size = schedule.FREE if start is None else self._trainers[0].step_size
        # A block that is trained again loses at first, by its learning rate.
        patience = self._config.patience if start is None else math.inf
        before = self._objective(start, step_size)
        best = pooled(self._validation, before)[0]
        self._best, self._n_best = copy.deepcopy(start), self._n_done
        if is_pretrained:
            values = self._objective(self._averages(), step_size)
            value = pooled(self._validation, values)[0]
            if value < best:
                best, self._best = value, copy.deepcopy(self._averages())
        # What it was by an earlier learning rate's end is not reached again at once.
        latest = math.inf if is_pretrained else best
        n_few = self._iterations_of(_MIN_EPOCHS)
        n_worse, n = 0, self._config.n_evaluations
        seconds, clock, report = 0.0, self._budget.clock, self._budget.report
        stop = False
        while self.progress < 1 and not self.failed and not stop:
            target = (math.floor(self.progress * n) + 1) / n
            report("iterations", n_iter=self._n_done)
            begin = clock()
            self._advance(target)
            # Under a time limit, evaluations take no more of it than the training.
            while self._is_limited and clock() - begin < seconds and self.progress < 1:
                self._advance(self.progress)
            averages, begin = self._averages(), clock()
            values = self._objective(averages, step_size)
            seconds = clock() - begin
            value = pooled(self._validation, values)[0]
            self._evaluations.append((self._n_done, value))
            stop = report("evaluation", n_iter=self._n_done, objective=value)
            if value < best:
                best = value
                self._best, self._n_best = copy.deepcopy(averages), self._n_done
            if value < latest:
                latest, n_worse = value, 0
                continue
            if self._n_done < n_few:
                continue
            n_worse += 1
            is_worse = start is None and self._best and self._is_worse(values, before)
            if is_worse or n_worse >= patience:
                break

    # ------------------------------------------------------------------- results

    def result(self):
        """Return the :class:`BlockResult`."""
        first, n_done, blocks = self._trainers[0], self._n_done, None
        if self._best is not None:
            blocks = [block.get_state() for block in self._solved(self._best)]
        return BlockResult(
            blocks=blocks,
            failed=self.failed,
            step_size=first.step_size,
            n_iter=self._n_best,
            n_planned=round(n_done / self.progress) if n_done else 0,
            n_minibatches=n_done * len(self._trainers),
            losses=first.losses[: self._n_best],
            evaluations=self._evaluations,
            seconds=(self._budget.clock() - self._begin) / max(n_done, 1),
        )

    def _averages(self):
        return [trainer.average for trainer in self._trainers]

    def _iterations_of(self, n_epochs):
        return max(
            iterations(n_epochs, len(fold.train), self._config.batch_size)
            for fold in self._folds
        )

    @torch.no_grad()
    def _objective(self, blocks, step_size):
        """JKO objective of every fold's validation samples; None is no block."""
        base, values = self._config.base, []
        blocks = [None] * len(self._folds) if blocks is None else self._solved(blocks)
        for fold, block in zip(self._validation, blocks, strict=True):
            samples, log_det = fold.validation, fold.log_det
            if block is not None:
                samples, log_det = fold.push_validation(block)
            x = fold.validation.x
            value = objective.jko(base, x, samples.x, log_det, step_size)
            values.append(self._group.same(value))
        return values

    def _is_worse(self, values, before):
        losses = [a - b for a, b in zip(values, before, strict=True)]
        mean, error = pooled(self._validation, losses)
        return mean > _NOISE * error

    def _solved(self, blocks):
        """Blocks of the same fields, on grids whose error the fields cannot exploit."""
        base, solved = self._config.base, []
        for i, (block, fold) in enumerate(zip(blocks, self._folds, strict=True)):
            samples = fold.train if fold.validation is None else fold.validation
            samples, n_steps = samples.some(_N_POINTS), block.n_steps
            one = Block(
                block.field,
                block.radius,
                block.step_size,
                max(n_steps, self._n_steps[i]),
                block.interval,
            )
            step_selection.refine(
                one, base, samples.x, samples.context, _TOL, _MAX_STEPS
            )
            # A field seldom comes to need fewer steps.
            self._n_steps[i] = max(1, one.n_steps - 1)
            solved.append(one)
        return solved


def iterations(n_epochs, n_samples, batch_size):
    """Return the iterations in which so many samples are seen so often."""
    return n_epochs * n_samples // min(batch_size, n_samples)


class BlockTrainer:
    """Training of one block on the samples of one fold.

    The learning rate warms up and falls along a cosine to zero as the progress goes
    from 0 to 1. Beside the weights in training stands their running average, which is
    what the block is.

    Parameters
    ----------
    block : Block
        Where to start. It is copied.
    samples : Samples
    config : TrainingConfig
    generator : torch.Generator
    group : Group, optional
        Processes that share the minibatches.
    """

    def __init__(self, block, samples, config, generator, group=ALONE):
        self.config, self.losses, self._group = config, [], group
        self.n_iter, self.n_rollbacks = 0, 0
        self._block = copy.deepcopy(block).requires_grad_(True)
        self._block.n_steps = config.n_steps
        self.average = copy.deepcopy(self._block).requires_grad_(False)
        self._parameters = list(self._block.parameters())
        self._averages = list(self.average.parameters())
        size = min(config.batch_size, len(samples))
        self._batches = samples.minibatches(size, generator)
        self._generator, self._kept = generator, None
        self._optimizers = optimizers.of(self._parameters, samples.x.shape[1], config)
        _keep_freed_memory()

    @property
    def step_size(self):
        """JKO step size h of the block."""
        return self._block.step_size

    @step_size.setter
    def step_size(self, value):
        self._block.step_size = self.average.step_size = value

    @property
    def failed(self):
        """Whether the training exploded too often to go on."""
        return self.n_rollbacks > self.config.max_rollbacks

    def step(self, progress, first):
        """Run one iteration; return to earlier weights if it explodes.

        Parameters
        ----------
        progress : float
            Share of the training that is over.
        first : float
            Share that the first iteration takes, about.
        """
        batch = next(self._batches)
        n_before, self.n_iter = self.n_iter, self.n_iter + 1
        if self.failed:
            return
        if n_before % self.config.keep_every == 0:
            self._check_solver(batch)
            self._keep()
        loss = self._loss(batch)
        for parameter in self._parameters:
            parameter.grad = None
        loss.backward()
        loss = loss.detach()
        grads = [p.grad for p in self._parameters if p.grad is not None]
        self._group.sum([loss, *grads])
        length = torch.nn.utils.get_total_norm(grads)
        # A loss that no block has on its way: well above that of not moving.
        potential = self.config.base.potential(batch.x)
        still = torch.dot(potential, batch.weight) / batch.weight.sum()
        bound = 10 * (still + batch.x.shape[1])
        value = loss.item()
        # A comparison with NaN is false.
        if not (math.isfinite(length.item()) and value <= bound.item()):
            self._restore()
            self.n_rollbacks += 1
            self.losses.append(self.losses[-1] if self.losses else bound.item())
            return
        if length > self.config.max_grad_norm:
            torch._foreach_mul_(grads, (self.config.max_grad_norm / length).item())
        learning_rate = self._learning_rate(progress, first)
        for optimizer, ratio in self._optimizers:
            optimizer.step(ratio * learning_rate * 0.5**self.n_rollbacks)
        # Short trainings average less: the start has to be forgotten.
        keep = min(self.config.averaging, (n_before + 2) / (n_before + 11))
        values = [p.detach() for p in self._parameters]
        torch._foreach_lerp_(self._averages, values, 1 - keep)
        self.losses.append(value)

    def _loss(self, batch):
        """Mean JKO objective, with the solver's error estimate added.

        Of several processes, the share that this one's part of the minibatch has in it.
        """
        c, where = self.config, self._group.part(len(batch))
        part, estimate = batch.take(where), self._estimate(batch, where)
        dynamics = self._block.dynamics(part.context, estimate)
        solution = ode.integrate(dynamics, part.x, self._grid(), with_error=True)
        value = objective.jko(
            c.base, part.x, solution.y, solution.log_det, self.step_size
        )
        value = value + c.error_weight * solution.error
        return torch.dot(value, part.weight) / batch.weight.sum()

    def _estimate(self, batch, where):
        """The estimate of the divergence in a part, or None for the exact one."""
        c = self.config
        if c.divergence == "exact":
            return None
        probes = divergence.rademacher(c.n_probes, batch.x, self._generator)[:, where]
        if c.divergence == "hutchinson":
            return partial(divergence.hutchinson, probes=probes)
        return partial(divergence.finite_difference, probes=probes, scale=c.probe_scale)

    def _grid(self):
        n, jitter = self._block.n_steps, self.config.grid_jitter
        draw = torch.rand(n - 1, generator=self._generator).mul(2 * jitter).sub(jitter)
        return (0.0, *((i + 1 + u) / n for i, u in enumerate(draw.tolist())), 1.0)

    def _learning_rate(self, progress, first):
        rise = min(1.0, (progress + first) / (self.config.warm_up + first))
        fall = 0.5 * (1 + math.cos(math.pi * progress))
        return self.config.learning_rate * rise * fall

    def _check_solver(self, batch):
        """Double the solver's steps where the block exploits its error.

        A field that has become too fast for the solver can gain without end by the
        solver's error, which the estimate in the loss does not see then.
        """
        some = batch.first(_N_CHECKED)
        x = some.x

        def dynamics():
            estimate = self._estimate(some, slice(None))
            return self._block.dynamics(some.context, estimate)

        present = dynamics()
        while self._block.n_steps < _ENOUGH_STEPS:
            n = self._block.n_steps
            solver_gain = step_selection.coarse_gain(self.config.base, present, x, n)
            if solver_gain <= self.config.max_solver_gain:
                break
            self._block.n_steps = self.average.n_steps = 2 * n
            if self._kept is not None:
                self._restore()
                present = dynamics()

    def _keep(self):
        modules = self._block.state_dict(), self.average.state_dict()
        states = [optimizer.state for optimizer, _ in self._optimizers]
        self._kept = copy.deepcopy(modules), states

    def _restore(self):
        (block, average), states = self._kept
        self._block.load_state_dict(block)
        self.average.load_state_dict(average)
        for (optimizer, _), state in zip(self._optimizers, states, strict=True):
            optimizer.state = state


def _keep_freed_memory():
    """Let memory that one iteration frees stay at hand for the next.

    The C library returns free memory at the end of its heap to the system beyond a
    threshold, twice the largest block freed so far (of at most 32 MiB, in glibc). An
    iteration frees tens of MB, and would pay with page faults.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8, device="cpu")
