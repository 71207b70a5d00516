"""Training of one block by the JKO objective, on rows pushed through those before.

It may be trained on several folds at once, by fields of their own that share nothing
but the operations: on few rows, three fields take about as long together as two alone.
"""

# SPDX-License-Identifier: BSD-3-Clause

import copy
import math
from dataclasses import dataclass
from functools import partial

import torch

from skjko.flow import accuracy, divergence, fields, objective, ode
from skjko.flow.optimizers import Adam, Muon
from skjko.flow.pace import Pace
from skjko.flow.rows import Rows

# Of more rows batches are drawn with replacement: shuffled numbers of all would take
# memory, and in so many rows few of them meet again.
_MAX_SHUFFLED = 2**22

# How often a block sees every row before more iterations, or another block in their
# place, pay less: see `benchmarks/NOTES.md`.
_N_EPOCHS = 25

# Rows on which a finer grid checks the one that a block is trained on, and the steps at
# which it is refined no more.
_N_CHECKED, _ENOUGH_STEPS = 128, 8


@dataclass(frozen=True)
class Options:
    """Settings of the training; names and meanings as in `JKOFlowDensity`."""

    max_iter: int = 500
    batch_size: int = 1000
    learning_rate: float = 1e-2
    alpha: float = 0.0
    n_ode_steps: int = 2
    divergence: str = "exact"
    n_probes: int = 1
    probe_scale: float = 0.01
    movement_tol: float = 0.01
    # Weight of the solver's error estimate in the loss, and how far (as a share of the
    # spacing) interior grid points move at random: together they keep a field from
    # exploiting the coarse grid it is trained on.
    error_weight: float = 2.0
    grid_jitter: float = 0.3
    # Share of the iterations in which the learning rate rises; how often held-out rows
    # are scored in all of them, and how often in a row they may disappoint.
    warm_up: float = 0.05
    n_evaluations: int = 10
    patience: int = 5
    averaging: float = 0.98
    max_grad_norm: float = 10.0
    # Whether Muon trains the matrices between hidden layers, and their learning rate
    # over that of the rest.
    muon: bool = True
    muon_rate: float = 10.0
    # How often the weights are kept to fall back on, in iterations, and how often a
    # block may fall back, each time to half the learning rate, before it is given up.
    keep_every: int = 20
    max_rollbacks: int = 8
    # Nats, in the mean, that rows may gain by nothing but the solver's steps being
    # coarse, before the block is trained with finer ones.
    max_solver_gain: float = 2.0


def iterations_of(n_passes, n_rows, batch_size):
    """Iterations in which a block sees as many rows so often."""
    return n_passes * n_rows // min(batch_size, n_rows)


def enough_iterations(n_rows, batch_size):
    """Iterations in which a block sees as many rows often enough to have learned."""
    return iterations_of(_N_EPOCHS, n_rows, batch_size)


def _optimizers(parameters, n_features, n_fields, options):
    """Pairs of an optimizer and its share of the learning rate.

    Muon for matrices between hidden layers (larger than d both ways), Adam for the
    rest. Biases do not decay.
    """
    hidden, rest, of_matrix = [], [], 2 + (n_fields > 1)
    for p in parameters:
        is_matrix = p.ndim == of_matrix
        is_hidden = options.muon and is_matrix and min(p.shape[-2:]) > n_features
        (hidden if is_hidden else rest).append(p)
    decaying = [p for p in rest if p.ndim >= of_matrix]
    ratio = options.muon_rate
    muon = [(Muon(hidden, options.alpha / ratio), ratio)] if hidden else []
    return [(Adam(rest, decaying, options.alpha), 1.0), *muon]


def _settle_allocator():
    """Let memory that one iteration frees stay at hand for the next.

    The C library gives what is free at the end of its heap back to the system beyond a
    threshold, twice the largest block freed so far (of at most 32 MiB, in glibc). An
    iteration frees tens of MB, and pays with page faults for asking again.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


def trainers(velocity_fields, rows, step_size, options, generators, pace=None):
    """Return trainers of a block on some folds: one of all folds, or one for each.

    Parameters
    ----------
    velocity_fields : list of VelocityField
        Of the same form and, if they are confined, to the same region.
    rows : list of Rows
    step_size : float
    options : Options
    generators : list of torch.Generator
    pace : Pace, optional
    """
    if _may_stack(velocity_fields, rows, options):
        return [
            BlockTrainer(velocity_fields, rows, step_size, options, generators, pace)
        ]
    of_folds = zip(velocity_fields, rows, generators, strict=True)
    return [
        BlockTrainer([field], [own], step_size, options, [generator], pace)
        for field, own, generator in of_folds
    ]


def _may_stack(velocity_fields, rows, options):
    # Estimates of the divergence know nothing of stacks, and a column that one fold
    # moves may be constant in another.
    return (
        options.divergence == "exact"
        and all(field.stacks for field in velocity_fields)
        and len({own.x.shape[1] for own in rows}) == 1
    )


class _Batches:
    """Random batches of rows, without end."""

    def __init__(self, rows, size, generator):
        self._rows, self._size, self._generator = rows, size, generator
        self._order = iter(())

    def next(self):
        """Return the next batch."""
        batch = next(self._order, None)
        if batch is None:
            # Without replacement within an epoch; an incomplete last batch is left for
            # the next shuffle, so that all batches weigh the same.
            n, size = len(self._rows), self._size
            if n > _MAX_SHUFFLED:
                numbers = torch.randint(n, (size,), generator=self._generator)
            else:
                numbers = torch.randperm(n, generator=self._generator)
            self._order = iter(
                numbers[: len(numbers) - len(numbers) % size].split(size)
            )
            batch = next(self._order)
        return self._rows.take(batch.to(self._rows.x.device))


class BlockTrainer:
    """Training of one block on the JKO objective; `advance` runs some iterations.

    The learning rate warms up and falls along a cosine to zero, as the pace says (by
    default that of `max_iter` iterations). Beside the weights in training stands their
    running average, which is the block's field.

    Parameters
    ----------
    velocity_fields : list of VelocityField
        One for every fold; several have to stack.
    rows : list of Rows
        Of every fold.
    step_size : float
    options : Options
    generators : list of torch.Generator
        One for every fold. Where the solver's steps end is the same on all of them, and
        so are the learning rate and what is undone when one of them explodes.
    pace : Pace, optional
    """

    def __init__(
        self, velocity_fields, rows, step_size, options, generators, pace=None
    ):
        self.step_size = step_size
        self.options = options
        self._pace = pace or Pace(options.max_iter)
        self.losses = []
        self.n_iter = 0
        self.n_rollbacks = 0
        self.n_ode_steps = options.n_ode_steps
        self._kept = None
        self._n_fields = len(velocity_fields)
        if self._n_fields == 1:
            self._field = copy.deepcopy(velocity_fields[0])
        else:
            self._field = fields.stack(velocity_fields)
        self._average = copy.deepcopy(self._field).requires_grad_(False)
        self._field.requires_grad_(True)
        self._parameters = list(self._field.parameters())
        size = min(options.batch_size, *map(len, rows))
        self._batches = [
            _Batches(own, size, generator)
            for own, generator in zip(rows, generators, strict=True)
        ]
        self._generator = generators[0]
        _settle_allocator()
        n_features = rows[0].x.shape[1]
        self._optimizers = _optimizers(
            self._parameters, n_features, self._n_fields, options
        )

    @property
    def averages(self):
        """Running averages of the fields, one for every fold."""
        if self._n_fields == 1:
            return [self._average]
        return fields.unstack(self._average, self._n_fields)

    @property
    def n_minibatches(self):
        """Batches so far, of all folds."""
        return self.n_iter * self._n_fields

    def _next_batch(self):
        """Return a batch, or those of all folds with a dimension in front."""
        batches = [one.next() for one in self._batches]
        if len(batches) == 1:
            return batches[0]
        x, weight = zip(*((one.x, one.weight) for one in batches), strict=True)
        return Rows(torch.stack(x), torch.stack(weight))

    def _grid(self):
        n, jitter = self.n_ode_steps, self.options.grid_jitter
        draw = torch.rand(n - 1, generator=self._generator).mul(2 * jitter).sub(jitter)
        return (0.0, *((i + 1 + u) / n for i, u in enumerate(draw.tolist())), 1.0)

    def _learning_rate(self):
        progress, first = self._pace.progress(self.n_iter), 1 / self._pace.max_iter
        rise = min(1.0, (progress + first) / (self.options.warm_up + first))
        fall = 0.5 * (1 + math.cos(math.pi * progress))
        return self.options.learning_rate * rise * fall

    def _dynamics(self, batch):
        o = self.options
        if o.divergence == "exact":
            return self._field.dynamics(batch.context)
        probes = divergence.rademacher(o.n_probes, batch.x, self._generator)
        if o.divergence == "hutchinson":
            estimate = partial(divergence.hutchinson, probes=probes)
        else:
            estimate = partial(
                divergence.finite_difference, probes=probes, scale=o.probe_scale
            )
        return self._field.dynamics_with(estimate, batch.context)

    def loss(self, batch):
        """Return the mean JKO objective of every fold, guarded against the solver."""
        o = self.options
        solution = ode.integrate(
            self._dynamics(batch), batch.x, self._grid(), with_error=True
        )
        value = objective.jko(batch.x, solution.y, solution.log_det, self.step_size)
        value = value + o.error_weight * solution.error
        return self._mean(value, batch)

    def _mean(self, value, batch):
        """Weighted mean over the rows of every fold."""
        total = torch.linalg.vecdot(value, batch.weight)
        return (total / batch.weight.sum(-1)).reshape(self._n_fields)

    def advance(self, n_iter):
        """Run `n_iter` iterations, falling back where one explodes."""
        for _ in range(n_iter):
            batch = self._next_batch()
            if not self.broken:
                self.losses.append(self._iterate(batch))
            self.n_iter += 1

    @property
    def broken(self):
        """Whether the block has exploded too often to be trained any further."""
        return self.n_rollbacks > self.options.max_rollbacks

    def _iterate(self, batch):
        """One step; return the first fold's loss before it."""
        if self.n_iter % self.options.keep_every == 0:
            self._keep_honest(batch)
        losses = self.loss(batch)
        for parameter in self._parameters:
            parameter.grad = None
        # No field has a part in the others' losses.
        losses.sum().backward()
        losses, bounds = losses.detach(), self._bounds(batch)
        # A comparison with NaN is false.
        is_sound = torch.isfinite(self._clip()) & (losses <= bounds)
        if not is_sound.all():
            self._fall_back()
            return self.losses[-1] if self.losses else bounds[0].item()
        rate = self._learning_rate() * 0.5**self.n_rollbacks
        for optimizer, ratio in self._optimizers:
            optimizer.step(ratio * rate)
        # Short runs average less: the start must be forgotten.
        keep = min(self.options.averaging, (self.n_iter + 2) / (self.n_iter + 11))
        torch._foreach_lerp_(
            list(self._average.parameters()),
            [p.detach() for p in self._parameters],
            1 - keep,
        )
        return losses[0].item()

    def _clip(self):
        """Shorten the gradient of every field that is too long; return the lengths."""
        grads = [p.grad for p in self._parameters if p.grad is not None]
        of_fields = [grad.reshape(self._n_fields, -1) for grad in grads]
        lengths = sum(torch.linalg.vecdot(part, part) for part in of_fields).sqrt()
        largest = self.options.max_grad_norm
        if (lengths > largest).any():
            shares = (largest / lengths).clamp(max=1.0)
            for grad in grads:
                grad.mul_(shares.reshape(-1, *[1] * (grad.ndim - 1)))
        return lengths

    def _bounds(self, batch):
        """Losses that no block on its way has: well above those of not moving."""
        still = self._mean(objective.potential(batch.x), batch)
        return 10 * (still + batch.x.shape[-1])

    def _keep_honest(self, batch):
        """Keep the weights, if need be earlier ones and with finer steps from now on.

        A field that has come to be too fast for the solver can gain without end by its
        error, to which the estimate in the loss is blind then.
        """
        limit = self.options.max_solver_gain
        while (
            self.n_ode_steps < _ENOUGH_STEPS and not self._solver_gain(batch) <= limit
        ):
            self.n_ode_steps *= 2
            if self._kept is not None:
                self._restore()
        self._keep()

    def _solver_gain(self, batch):
        """Nats that some rows lose on a finer grid, in the fold that loses most."""
        rows = batch.first(_N_CHECKED)
        dynamics = self._dynamics(rows)
        return accuracy.coarse_gain(dynamics, rows.x, self.n_ode_steps).max().item()

    def _keep(self):
        """Keep the weights to fall back on."""
        weights = self._field.state_dict(), self._average.state_dict()
        states = [optimizer.state for optimizer, _ in self._optimizers]
        self._kept = copy.deepcopy(weights), states

    def _fall_back(self):
        """Return to the weights that were kept, and go on at half the rate."""
        self._restore()
        self.n_rollbacks += 1

    def _restore(self):
        (field, average), states = self._kept
        self._field.load_state_dict(field)
        self._average.load_state_dict(average)
        for (optimizer, _), state in zip(self._optimizers, states, strict=True):
            optimizer.state = state
