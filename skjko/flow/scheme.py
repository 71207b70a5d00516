"""The JKO scheme: which blocks are trained, for how long, and which of them stay.

A flow is trained on one or several *folds*, each a pair of training and held-out rows,
in step: all folds train block k, then the held-out rows of all folds together decide
for how many iterations a block trains and whether it stays. One fold is the usual
validation split; several are cross-validation, after which :func:`replay` trains on
all rows what the folds decided.
"""

# SPDX-License-Identifier: BSD-3-Clause

import copy
import math
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from skjko.flow import objective, schedule
from skjko.flow.fields import Confined
from skjko.flow.flow import Block, in_chunks
from skjko.flow.training import BlockTrainer, Rows


@dataclass(frozen=True)
class Event:
    """One report of the training: a block was scored, kept, dropped or trained."""

    kind: str
    block: int
    n_iter: int
    validation_nll: float | None


def silent(event):
    """Ignore an event."""


@dataclass(frozen=True)
class BlockRecord:
    """What was decided about a block that stays, and what training it looked like."""

    step_size: float
    n_iter: int
    movement: float
    losses: list[float]
    validation_nll: float | None = None


@dataclass
class Result:
    """The blocks of a flow in training precision, with a record of each."""

    blocks: list[Block]
    records: list[BlockRecord] = field(default_factory=list)
    base_nll: float | None = None


class Fold:
    """Training and held-out rows, pushed through the blocks trained so far.

    Attributes
    ----------
    train, held_out : Rows
        Where the rows are now; `held_out` may be None.
    nll : Tensor of shape (n_held_out,)
        Negative log-likelihood of the held-out rows through the blocks so far, in the
        units in which the `log_det` that the fold started with is.
    """

    def __init__(self, train, held_out=None, log_det=None):
        self.train = train
        self.held_out = held_out
        if held_out is not None:
            self._log_det = log_det
            self.nll = objective.negative_log_likelihood(held_out.x, self._log_det)

    @torch.no_grad()
    def _extend(self, block):
        def solve(x, context):
            return block(x, context)[:2]

        y, log_det = in_chunks(solve, self.held_out.x, self.held_out.context)
        return y, self._log_det + log_det

    def score(self, block):
        """What `nll` would be with one more block."""
        return objective.negative_log_likelihood(*self._extend(block))

    @torch.no_grad()
    def mean_square_move(self, block, max_rows=20_000):
        """Mean square displacement of (the first) training rows by a block."""
        rows = self.train.take(slice(max_rows))
        (y,) = in_chunks(lambda x, c: (block.push(x, c),), rows.x, rows.context)
        return rows.mean(objective.squared_displacement(rows.x, y))

    @torch.no_grad()
    def push(self, block):
        """Push all rows through a block, ready for the next one."""
        train = self.train
        (y,) = in_chunks(lambda x, c: (block.push(x, c),), train.x, train.context)
        self.train = Rows(y, train.weight, train.context)
        if self.held_out is not None:
            rows = self.held_out
            x, self._log_det = self._extend(block)
            self.held_out = Rows(x, rows.weight, rows.context)
            self.nll = objective.negative_log_likelihood(x, self._log_det)


def _block(velocity_field, step_size, options):
    # Twice the steps of training: pushing and validation must not see its solver.
    return Block(velocity_field, step_size, 2 * options.n_ode_steps)


def _confined(velocity_field, rows):
    """The field, faded out beyond the farthest of the rows it is trained on."""
    radius = 1.25 * rows.x.square().sum(1).max().sqrt().item()
    return Confined(velocity_field, radius)


def _mean_and_error(values, weight):
    """Weighted mean of pooled rows and its standard error."""
    total = weight.sum()
    mean = torch.dot(values, weight) / total
    error = (weight * (values - mean)).square().sum().sqrt() / total
    return mean.item(), error.item()


class _Stage:
    """One block in training on all folds, in step."""

    def __init__(self, folds, fields, step_size, options, generators):
        self.folds, self.options, self.step_size = folds, options, step_size
        self.trainers = [
            BlockTrainer(_confined(f, fold.train), fold.train, step_size, options, g)
            for f, fold, g in zip(fields, folds, generators, strict=True)
        ]
        self.weight = torch.cat([fold.held_out.weight for fold in folds])
        self.before = torch.cat([fold.nll for fold in folds])
        self.best_nll, _ = _mean_and_error(self.before, self.weight)
        self.best_gain, self.best_error = 0.0, math.inf
        self.best_iter, self.best_fields = 0, None

    def run(self, report):
        """Train until the held-out likelihood has stopped improving."""
        every = math.ceil(self.options.max_iter / self.options.n_evaluations)
        since_best = 0
        while self.n_iter < self.options.max_iter:
            for trainer in self.trainers:
                trainer.advance(min(every, self.options.max_iter - self.n_iter))
            nll = self._evaluate()
            report("scored", self.n_iter, nll)
            since_best = 0 if self.best_iter == self.n_iter else since_best + 1
            if since_best >= self.options.patience:
                break

    @property
    def n_iter(self):
        return self.trainers[0].n_iter

    def _evaluate(self):
        after = torch.cat(
            [
                fold.score(_block(trainer.average, self.step_size, self.options))
                for fold, trainer in zip(self.folds, self.trainers, strict=True)
            ]
        )
        nll, _ = _mean_and_error(after, self.weight)
        if nll < self.best_nll:
            self.best_nll, self.best_iter = nll, self.n_iter
            self.best_gain, self.best_error = _mean_and_error(
                self.before - after, self.weight
            )
            self.best_fields = [copy.deepcopy(t.average) for t in self.trainers]
        return nll


def train(folds, new_field, options, generators, on_event=silent):
    """Train blocks one after another until they stop paying on held-out rows.

    A block stays, with its best weights on the way, when its mean gain on held-out rows
    exceeds the gain's own standard error (paired by row). Training ends when a block
    gains nothing. When its gain is within that noise and its movement is small as well
    (E|x - T(x)|^2 / E|T(x)|^2 below `movement_tol`), only the free block, if there is
    one, is still tried: a small movement alone can resolve fine structure.

    Parameters
    ----------
    folds : list of Fold
        With held-out rows.
    new_field : callable
        Maps a dimension and a generator to a fresh velocity field.
    options : Options
    generators : list of torch.Generator
        One for every fold.
    on_event : callable
        Called with every :class:`Event`.

    Returns
    -------
    Result
        The blocks of the first fold; validation values are pooled over the folds.
    """
    base_nll, _ = _mean_and_error(
        torch.cat([fold.nll for fold in folds]),
        torch.cat([fold.held_out.weight for fold in folds]),
    )
    result = Result([], base_nll=base_nll)
    fields = [
        new_field(fold.train.x.shape[1], g)
        for fold, g in zip(folds, generators, strict=True)
    ]
    queue = list(options.step_sizes)
    while queue:
        h = queue.pop(0)
        report = partial(_report, on_event, len(result.blocks) + 1)
        # Warm start: a block begins with the weights of the one before.
        stage = _Stage(folds, fields, h, options, generators)
        stage.run(report)
        if stage.best_fields is None:
            report("dropped", stage.n_iter, stage.best_nll)
            break
        blocks = [_block(f, h, options) for f in stage.best_fields]
        if stage.best_gain > stage.best_error:
            pairs = list(zip(folds, blocks, strict=True))
            moved = sum(fold.mean_square_move(block) for fold, block in pairs)
            losses = stage.trainers[0].losses[: stage.best_iter]
            movement = math.sqrt(moved / len(folds))
            result.blocks.append(blocks[0])
            result.records.append(
                BlockRecord(h, stage.best_iter, movement, losses, stage.best_nll)
            )
            fields = [confined.field for confined in stage.best_fields]
            if queue:
                for fold, block in pairs:
                    fold.push(block)
            report("kept", stage.best_iter, stage.best_nll)
        else:
            if _movement_share(folds[0].held_out, blocks[0]) < options.movement_tol:
                queue = [h for h in queue if math.isinf(h)]
            report("dropped", stage.best_iter, stage.best_nll)
    return result


def _report(on_event, block, kind, n_iter, nll):
    on_event(Event(kind, block, n_iter, nll))


@torch.no_grad()
def _movement_share(rows, block):
    """E|x - T(x)|^2 / E|T(x)|^2."""
    (y,) = in_chunks(lambda x, c: (block.push(x, c),), rows.x, rows.context)
    moved = rows.mean(objective.squared_displacement(rows.x, y))
    length = rows.mean(y.square().sum(1))
    return moved / length if length > 0 else 0.0


def whole_schedule(options):
    """Return the plan that trains every block for all of its iterations."""
    return Result(
        [], [BlockRecord(h, options.max_iter, 0.0, []) for h in options.step_sizes]
    )


def replay(fold, new_field, plan, options, generator, on_event=silent):
    """Train the blocks of a plan on one fold, without looking at held-out rows.

    Parameters
    ----------
    fold : Fold
    new_field : callable
        Maps a dimension and a generator to a fresh velocity field.
    plan : Result
        Its records say which step sizes to use and for how many iterations; what they
        say of held-out rows stays.
    options : Options
    generator : torch.Generator
    on_event : callable

    Returns
    -------
    Result
    """
    result = Result([], base_nll=plan.base_nll)
    velocity_field = new_field(fold.train.x.shape[1], generator)
    for number, record in enumerate(plan.records, start=1):
        h = record.step_size
        confined = _confined(velocity_field, fold.train)
        trainer = BlockTrainer(confined, fold.train, h, options, generator)
        trainer.advance(record.n_iter)
        block = _block(trainer.average, h, options)
        moved = fold.mean_square_move(block)
        fold.push(block)
        result.blocks.append(block)
        result.records.append(
            replace(record, movement=math.sqrt(moved), losses=trainer.losses)
        )
        on_event(Event("trained", number, record.n_iter, record.validation_nll))
        velocity_field = trainer.average.field
    return result


def step_sizes(step_size, growth, max_step_size, max_blocks, free_block):
    """Step sizes of at most `max_blocks` blocks, the last one free if so wished."""
    n_free = int(free_block and max_blocks > 0)
    sizes = schedule.geometric(step_size, growth, max_step_size, max_blocks - n_free)
    return sizes + (schedule.FREE,) * n_free
