"""Training of one block by the JKO objective, on rows pushed through those before."""

# SPDX-License-Identifier: BSD-3-Clause

import copy
import math
from dataclasses import dataclass
from functools import partial

import torch

from skjko.flow import divergence, objective, ode
from skjko.flow.optimizers import Adam, Muon
from skjko.flow.pace import Pace

# Of more rows batches are drawn with replacement: shuffled numbers of all would take
# memory, and in so many rows few of them meet again.
_MAX_SHUFFLED = 2**22


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


def _optimizers(parameters, n_features, options):
    """Pairs of an optimizer and its share of the learning rate.

    Muon for matrices between hidden layers (larger than d both ways), Adam for the
    rest.
    """
    hidden, rest = [], []
    for p in parameters:
        is_hidden = options.muon and p.ndim == 2 and min(p.shape) > n_features
        (hidden if is_hidden else rest).append(p)
    ratio = options.muon_rate
    muon = [(Muon(hidden, options.alpha / ratio), ratio)] if hidden else []
    return [(Adam(rest, options.alpha), 1.0), *muon]


def _settle_allocator():
    """Let memory that one iteration frees stay at hand for the next.

    The C library gives what is free at the end of its heap back to the system beyond a
    threshold, twice the largest block freed so far (of at most 32 MiB, in glibc). An
    iteration frees tens of MB, and pays with page faults for asking again.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


class BlockTrainer:
    """Training of one block on the JKO objective; `advance` runs some iterations.

    The learning rate warms up and falls along a cosine to zero, as the pace says (by
    default that of `max_iter` iterations). Beside the weights in training stands their
    running average, which is the block's field.
    """

    def __init__(self, velocity_field, rows, step_size, options, generator, pace=None):
        self.step_size = step_size
        self.options = options
        self._pace = pace or Pace(options.max_iter)
        self.average = copy.deepcopy(velocity_field).requires_grad_(False)
        self.losses = []
        self.n_iter = 0
        self.n_rollbacks = 0
        self._field = copy.deepcopy(velocity_field).requires_grad_(True)
        self._parameters = list(self._field.parameters())
        self._rows = rows
        self._generator = generator
        self._order = iter(())
        _settle_allocator()
        self._optimizers = _optimizers(self._parameters, rows.x.shape[1], options)

    def _next_batch(self):
        batch = next(self._order, None)
        if batch is None:
            # Without replacement within an epoch; an incomplete last batch is left for
            # the next shuffle, so that all batches weigh the same.
            n, size = len(self._rows), min(self.options.batch_size, len(self._rows))
            if n > _MAX_SHUFFLED:
                numbers = torch.randint(n, (size,), generator=self._generator)
            else:
                numbers = torch.randperm(n, generator=self._generator)
            self._order = iter(
                numbers[: len(numbers) - len(numbers) % size].split(size)
            )
            batch = next(self._order)
        return self._rows.take(batch.to(self._rows.x.device))

    def _grid(self):
        n, jitter = self.options.n_ode_steps, self.options.grid_jitter
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
        """Return the mean JKO objective of a batch, guarded against the solver."""
        o = self.options
        solution = ode.integrate(
            self._dynamics(batch), batch.x, self._grid(), with_error=True
        )
        value = objective.jko(batch.x, solution.y, solution.log_det, self.step_size)
        value = value + o.error_weight * solution.error
        return torch.dot(value, batch.weight) / batch.weight.sum()

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
        """One step; return the loss before it, or the last one if it has exploded."""
        if self.n_iter % self.options.keep_every == 0:
            self._keep()
        loss = self.loss(batch)
        for parameter in self._parameters:
            parameter.grad = None
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(
            self._parameters, self.options.max_grad_norm
        )
        if not torch.isfinite(norm) or loss.item() > self._bound(batch):
            self._fall_back()
            return self.losses[-1] if self.losses else self._bound(batch)
        rate = self._learning_rate() * 0.5**self.n_rollbacks
        for optimizer, ratio in self._optimizers:
            optimizer.step(ratio * rate)
        # Short runs average less: the start must be forgotten.
        keep = min(self.options.averaging, (self.n_iter + 2) / (self.n_iter + 11))
        torch._foreach_lerp_(
            list(self.average.parameters()),
            [p.detach() for p in self._parameters],
            1 - keep,
        )
        return loss.item()

    def _bound(self, batch):
        """A loss that no block on its way has: well above that of not moving."""
        still = torch.dot(objective.potential(batch.x), batch.weight) / len(batch)
        return 10 * (still.item() + batch.x.shape[1])

    def _keep(self):
        """Keep the weights to fall back on."""
        fields = self._field.state_dict(), self.average.state_dict()
        states = [optimizer.state for optimizer, _ in self._optimizers]
        self._kept = copy.deepcopy(fields), states

    def _fall_back(self):
        """Return to the weights that were kept, and go on at half the rate."""
        (field, average), states = self._kept
        self._field.load_state_dict(field)
        self.average.load_state_dict(average)
        for (optimizer, _), state in zip(self._optimizers, states, strict=True):
            optimizer.state = state
        self.n_rollbacks += 1
