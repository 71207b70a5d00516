"""Training of one block by the JKO objective, on rows pushed through those before."""

# SPDX-License-Identifier: BSD-3-Clause

import copy
import math
from dataclasses import dataclass

import torch

from skjko.flow import objective, ode


@dataclass(frozen=True)
class Options:
    """Settings of the training; names and meanings as in `JKOFlowDensity`."""

    step_sizes: tuple[float, ...]
    max_iter: int = 500
    batch_size: int = 1000
    learning_rate: float = 1e-2
    alpha: float = 0.0
    n_ode_steps: int = 2
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


@dataclass
class Rows:
    """Rows x of shape (n, d) with weights (n,) of mean 1 and, perhaps, conditions."""

    x: torch.Tensor
    weight: torch.Tensor
    context: torch.Tensor | None = None

    def __len__(self):
        return len(self.x)

    def take(self, index):
        """Return the rows at `index`."""
        context = None if self.context is None else self.context[index]
        return Rows(self.x[index], self.weight[index], context)

    def mean(self, values):
        """Weighted mean of one value a row."""
        return torch.dot(values, self.weight).item() / self.weight.sum().item()


class BlockTrainer:
    """Adam on the JKO objective of one block; `advance` runs some iterations.

    The learning rate warms up and falls along a cosine to zero at `max_iter`. Beside
    the weights in training stands their running average, which is the block's field.
    """

    def __init__(self, velocity_field, rows, step_size, options, generator):
        self.step_size = step_size
        self.options = options
        self.average = copy.deepcopy(velocity_field).requires_grad_(False)
        self.losses = []
        self.n_iter = 0
        self._field = copy.deepcopy(velocity_field).requires_grad_(True)
        self._parameters = list(self._field.parameters())
        self._rows = rows
        self._generator = generator
        self._order = iter(())
        self._adam = torch.optim.AdamW(
            self._parameters,
            lr=options.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=options.alpha,
        )

    def _next_batch(self):
        batch = next(self._order, None)
        if batch is None:
            # Without replacement within an epoch; an incomplete last batch is left for
            # the next shuffle, so that all batches weigh the same.
            n, size = len(self._rows), min(self.options.batch_size, len(self._rows))
            shuffled = torch.randperm(n, generator=self._generator)
            self._order = iter(shuffled[: n - n % size].split(size))
            batch = next(self._order)
        return self._rows.take(batch.to(self._rows.x.device))

    def _grid(self):
        n, jitter = self.options.n_ode_steps, self.options.grid_jitter
        draw = torch.rand(n - 1, generator=self._generator).mul(2 * jitter).sub(jitter)
        return (0.0, *((i + 1 + u) / n for i, u in enumerate(draw.tolist())), 1.0)

    def _learning_rate(self):
        o = self.options
        rise = min(1.0, (self.n_iter + 1) / (o.warm_up * o.max_iter + 1))
        fall = 0.5 * (1 + math.cos(math.pi * min(self.n_iter / o.max_iter, 1.0)))
        return o.learning_rate * rise * fall

    def loss(self, batch):
        """Return the mean JKO objective of a batch, guarded against the solver."""
        o = self.options
        solution = ode.integrate(
            self._field.dynamics(batch.context), batch.x, self._grid(), with_error=True
        )
        value = objective.jko(batch.x, solution.y, solution.log_det, self.step_size)
        value = value + o.error_weight * solution.error
        return torch.dot(value, batch.weight) / batch.weight.sum()

    def advance(self, n_iter):
        """Run `n_iter` iterations; one whose gradient is not finite changes nothing."""
        for _ in range(n_iter):
            for group in self._adam.param_groups:
                group["lr"] = self._learning_rate()
            loss = self.loss(self._next_batch())
            self._adam.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(
                self._parameters, self.options.max_grad_norm
            )
            if torch.isfinite(norm):
                self._adam.step()
            self.n_iter += 1
            self.losses.append(loss.item())
            # Short runs average less: the start must be forgotten.
            keep = min(self.options.averaging, (self.n_iter + 1) / (self.n_iter + 10))
            torch._foreach_lerp_(
                list(self.average.parameters()),
                [p.detach() for p in self._parameters],
                1 - keep,
            )
