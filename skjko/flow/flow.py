"""A flow: a stack of blocks, each the time-one map of its velocity field."""

# SPDX-License-Identifier: BSD-3-Clause

import torch
from torch import nn

from skjko.flow import objective, ode

# Rows that go through a field at once: the activations of a usual width stay within
# the processor's cache, and memory does not grow with the number of rows.
CHUNK_SIZE = 1024


def in_chunks(function, x, context=None):
    """Apply `function(x, context)` to chunks of rows and join its tuple of results."""
    results = []
    for start in range(0, max(len(x), 1), CHUNK_SIZE):
        rows = slice(start, start + CHUNK_SIZE)
        results.append(function(x[rows], None if context is None else context[rows]))
    return tuple(torch.cat(parts) for parts in zip(*results, strict=True))


class Block(nn.Module):
    """One JKO step: a velocity field, its step size h, and the grid that solves it.

    Time runs from the data (t = 0) towards the base (t = 1).
    """

    def __init__(self, field, step_size, n_ode_steps):
        super().__init__()
        self.field = field
        self.step_size = float(step_size)
        self.n_ode_steps = int(n_ode_steps)

    @property
    def grid(self):
        """Times of the fixed-step solver."""
        return ode.uniform_grid(self.n_ode_steps)

    def forward(self, x, context=None):
        """Data to base, with log|det|: an :class:`ode.Solution`."""
        return ode.integrate(self.field.dynamics(context), x, self.grid)

    def push(self, x, context=None):
        """Data to base, positions alone."""
        return ode.integrate(self.field.velocity(context), x, self.grid).y

    def trajectory(self, x, context=None, n_between=0):
        """Positions at n_between + 1 equally spaced times, the last one 1.

        Each stretch of time gets as many steps as the whole block has in scoring, so
        the last position is that of `push` only up to the solver's error: with none in
        between it is the same.
        """
        velocity = self.field.velocity(context)
        positions = []
        for start in range(n_between + 1):
            part = n_between + 1
            grid = tuple((start + t) / part for t in self.grid)
            positions.append(x := ode.integrate(velocity, x, grid).y)
        return positions

    def inverse(self, y, context=None):
        """Base to data: the inverse of the discrete map that `push` computes."""
        return ode.invert(self.field.velocity(context), y, self.grid)

    def generate(self, y, context=None):
        """Base to data by one solve backwards: `inverse` up to the solver's error."""
        return ode.integrate(self.field.velocity(context), y, self.grid[::-1]).y


class Flow(nn.Module):
    """Blocks one after another, between data of unit scale and the standard normal.

    Parameters
    ----------
    n_features : int
        Dimension d.
    blocks : iterable of Block
        None at all is the identity map.
    """

    def __init__(self, n_features, blocks=()):
        super().__init__()
        self.n_features = n_features
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x, context=None):
        """Return the base positions and log|det dz/dx| of data x of shape (n, d)."""
        log_det = x.new_zeros(len(x))
        for block in self.blocks:
            solution = block(x, context)
            x, log_det = solution.y, log_det + solution.log_det
        return x, log_det

    def push(self, x, context=None):
        """Return the base positions of data x."""
        for block in self.blocks:
            x = block.push(x, context)
        return x

    def trajectory(self, x, context=None, n_between=0):
        """Positions before the first and after every block, and `n_between` inside."""
        positions = [x]
        for block in self.blocks:
            positions += block.trajectory(positions[-1], context, n_between)
        return positions

    def inverse(self, z, context=None):
        """Map base positions back to data; undoes the positions of `forward`."""
        for block in reversed(self.blocks):
            z = block.inverse(z, context)
        return z

    def generate(self, z, context=None):
        """Map base positions to data, up to the solver's error, in a tenth of the time.

        Good for samples, whose distribution is the flow's up to the solver's error
        either way. Where rows have to come back exactly, use `inverse`.
        """
        for block in reversed(self.blocks):
            z = block.generate(z, context)
        return z

    def log_prob(self, x, context=None):
        """Log-density of every row in nats, shape (n,)."""
        z, log_det = self(x, context)
        return -objective.negative_log_likelihood(z, log_det)
