"""The number of solver steps: so many that a finer grid changes next to nothing."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from typing import NamedTuple

import torch

from skjko.flow import ode

QUANTILE_RATIO = 10.0
"""Tolerance of the 99th percentile over that of the mean."""

MIN_STEPS, MAX_STEPS = 1, 256


class Discretization(NamedTuple):
    """How far log-densities on a grid are from those on a finer one, in nats."""

    mean: float
    quantile: float

    def exceeds(self, tol):
        """Return whether the mean or the 99th percentile is too large; NaN is."""
        return not (self.mean <= tol and self.quantile <= QUANTILE_RATIO * tol)


def finer(n_steps):
    """Return the number of steps of the grid that checks a grid of `n_steps`.

    Not twice as many but 2n + 1: the stages of both grids then have no common period,
    so that no oscillation of a field in time is invisible to both.
    """
    return 2 * n_steps + 1


def _difference(coarse, fine, sizes):
    parts = (coarse - fine).abs().split(sizes)
    return Discretization(
        max(part.mean().item() for part in parts),
        max(torch.quantile(part, 0.99).item() for part in parts),
    )


def _solve(base, dynamics, x, n_steps):
    solution = ode.integrate(dynamics, x, ode.uniform_grid(n_steps))
    return solution.y, base.log_prob(solution.y) + solution.log_det


@torch.no_grad()
def choose_steps(flow, base, points, tol, context=None):
    """Set every block's number of solver steps; return the errors that are left.

    Each block gets the fewest steps at which its own contribution to the log-density
    agrees with a finer grid's, within its share of the tolerance; then the whole flow
    is compared with itself on finer grids and refined until it agrees too.

    Parameters
    ----------
    flow : Flow
        In float64; the `n_steps` of its blocks are set in place.
    base : StandardNormal
    points : list of Tensor of shape (n_i, d)
        Sets of points. The tolerance holds for every set by itself.
    tol : float
        Largest mean change of a log-density by a finer grid, in nats.
    context : Tensor or None
        Contexts of all the points, joined.

    Returns
    -------
    errors : list of Discretization
        One for every block.
    """
    sizes = [len(samples) for samples in points]
    start = x = torch.cat(points)
    share = tol / max(len(flow), 1)
    errors = []
    for block in flow.blocks:
        block.n_steps = MIN_STEPS
        dynamics = block.dynamics(context, fast=True)
        error, x = _refine(block, dynamics, base, x, sizes, share, MAX_STEPS)
        errors.append(error)
    if not any(error.exceeds(share) for error in errors):
        _refine_together(flow, base, start, sizes, tol, context)
    return errors


def _refine_together(flow, base, x, sizes, tol, context):
    """Refine all grids until the whole flow agrees with itself on finer ones."""

    def log_prob():
        z, log_det = flow(x, context, fast=True)
        return base.log_prob(z) + log_det

    blocks = list(flow.blocks)
    coarse = log_prob()
    while blocks:
        steps = [block.n_steps for block in blocks]
        for block, n in zip(blocks, steps, strict=True):
            block.n_steps = finer(n)
        fine = log_prob()
        agrees = not _difference(coarse, fine, sizes).exceeds(tol)
        if agrees or max(steps) > MAX_STEPS:
            for block, n in zip(blocks, steps, strict=True):
                block.n_steps = n
            break
        coarse = fine


@torch.no_grad()
def refine(block, base, x, context, tol, max_steps):
    """Set the steps of one block so that finer ones change nothing on the points x.

    Parameters
    ----------
    block : Block
        Its `n_steps` is where the search starts.
    base : StandardNormal
    x : Tensor of shape (n, d)
    context : Tensor or None
    tol : float
        Largest mean change of a log-density, in nats.
    max_steps : int
        No grid with more steps is chosen.
    """
    _refine(block, block.dynamics(context), base, x, [len(x)], tol, max_steps)


def _refine(block, dynamics, base, x, sizes, tol, max_steps):
    """Set one block's steps on the points x; return its error and the points pushed."""
    while True:
        n_steps = block.n_steps
        _, coarse = _solve(base, dynamics, x, n_steps)
        fine_y, fine = _solve(base, dynamics, x, finer(n_steps))
        error = _difference(coarse, fine, sizes)
        if not error.exceeds(tol) or finer(n_steps) > max_steps:
            return error, fine_y
        block.n_steps = min(_next(n_steps, error, tol), max_steps)


def _next(n_steps, error, tol):
    """Return the steps at which a solver of fourth order should reach the tolerance."""
    worst = max(error.mean / tol, error.quantile / (QUANTILE_RATIO * tol))
    # At most the grid that checked: far from the tolerance the order does not hold.
    factor = worst**0.25 if math.isfinite(worst) else 2.0
    return max(n_steps + 1, min(math.ceil(n_steps * factor), finer(n_steps)))


@torch.no_grad()
def coarse_gain(base, dynamics, x, n_steps):
    """Return the mean gain in nats of n_steps over a finer grid, by their error."""
    (_, coarse), (_, fine) = (
        _solve(base, dynamics, x, n) for n in (n_steps, finer(n_steps))
    )
    return (coarse - fine).mean().item()


@torch.no_grad()
def tight_solve(flow, x, context=None):
    """Return positions and log|det| by a tight adaptive solve of every block."""
    log_det = x.new_zeros(len(x))
    for block in flow.blocks:
        solution = ode.integrate_adaptive(block.dynamics(context), x)
        x, log_det = solution.y, log_det + solution.log_det
    return x, log_det
