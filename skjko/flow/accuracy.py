"""Solver grids fine enough for scores to be trusted, chosen by step doubling."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from typing import NamedTuple

import torch

from skjko.flow import objective, ode

MEAN_TOL = 1e-3
"""Largest mean change of a log-density, in nats, that a finer grid may still make."""

QUANTILE_TOL = 1e-2
"""Largest 99th percentile of that change."""

MIN_STEPS, MAX_STEPS = 2, 256


class Gap(NamedTuple):
    """How far scores on a grid are from scores on a finer one, in nats."""

    mean: float
    quantile: float

    def exceeds(self, share=1.0):
        """Whether the gap is too wide, of a share of the tolerance; NaN is."""
        return not (
            self.mean <= share * MEAN_TOL and self.quantile <= share * QUANTILE_TOL
        )


def finer(n_steps):
    """Return the number of steps of the grid that checks a grid of `n_steps`.

    Not twice but 2n + 1: the stages of both grids then have no common period, so no
    oscillation of a field in time can hide from both.
    """
    return 2 * n_steps + 1


def _gap(coarse, fine, sets):
    difference = (coarse - fine).abs()
    parts = difference.split(sets)
    return Gap(
        max(part.mean().item() for part in parts),
        max(torch.quantile(part, 0.99).item() for part in parts),
    )


def _solve(dynamics, x, n_steps):
    solution = ode.integrate(dynamics, x, ode.uniform_grid(n_steps))
    score = -objective.negative_log_likelihood(solution.y, solution.log_det)
    return solution.y, score


@torch.no_grad()
def choose_grids(flow, probes, context=None):
    """Set every block's number of solver steps; return the gaps that were reached.

    Each block gets the fewest steps at which its own contribution to the log-density
    agrees with a finer grid's, within its share of the tolerance; then the whole flow
    is held against itself on finer grids and refined until it agrees too.

    Parameters
    ----------
    flow : Flow
        In float64; its blocks' `n_ode_steps` are set in place.
    probes : list of Tensor of shape (n_i, d)
        Points to agree on: held-out rows, own samples, points around the data. The
        tolerance holds for every set by itself.
    context : Tensor or None
        Conditions of all the probes, joined.

    Returns
    -------
    gaps : list of Gap
        One for every block.
    """
    sizes = [len(rows) for rows in probes]
    start = x = torch.cat(probes)
    share = 1 / max(len(flow.blocks), 1)
    gaps = []
    for block in flow.blocks:
        block.n_ode_steps = MIN_STEPS
        gap, x = _refine(block, x, sizes, share, context, MAX_STEPS)
        gaps.append(gap)
    if not any(gap.exceeds(share) for gap in gaps):
        _refine_together(flow, start, sizes, context)
    return gaps


def _refine_together(flow, x, sizes, context):
    """Refine all grids until the whole flow agrees with itself on finer ones."""
    blocks = list(flow.blocks)
    coarse = flow.log_prob(x, context)
    while blocks:
        steps = [block.n_ode_steps for block in blocks]
        for block, n in zip(blocks, steps, strict=True):
            block.n_ode_steps = finer(n)
        fine = flow.log_prob(x, context)
        agreed = not _gap(coarse, fine, sizes).exceeds()
        if agreed or max(steps) > MAX_STEPS:
            for block, n in zip(blocks, steps, strict=True):
                block.n_ode_steps = n
            break
        coarse = fine


@torch.no_grad()
def coarse_gain(dynamics, x, n_steps):
    """Return what rows gain, in the mean, by steps that are coarse.

    Parameters
    ----------
    dynamics : callable
        `(t, x) -> (velocity, divergence)`.
    x : Tensor of shape (n, d), or those of a stack of fields
    n_steps : int

    Returns
    -------
    gain : Tensor
        Nats by which log-densities are higher than on a finer grid; one a field.
    """
    (_, coarse), (_, fine) = (_solve(dynamics, x, n) for n in (n_steps, finer(n_steps)))
    return (coarse - fine).mean(-1)


@torch.no_grad()
def refine(block, x, context, slack, max_steps):
    """Set the steps of one block so that finer ones change nothing on the points x.

    Parameters
    ----------
    block : Block
        Its `n_ode_steps` is where the search starts.
    x : Tensor of shape (n, d)
    context : Tensor or None
    slack : float
        How many times the tolerance of scores is good enough.
    max_steps : int
        No grid with more steps is chosen.
    """
    _refine(block, x, [len(x)], slack, context, max_steps)


def _refine(block, x, sizes, share, context, max_steps):
    """Set one block's steps on the points x; return its gap and the points pushed."""
    dynamics = block.field.dynamics(context)
    while True:
        n_steps = block.n_ode_steps
        _, score = _solve(dynamics, x, n_steps)
        fine_y, fine_score = _solve(dynamics, x, finer(n_steps))
        gap = _gap(score, fine_score, sizes)
        if not gap.exceeds(share) or finer(n_steps) > max_steps:
            return gap, fine_y
        block.n_ode_steps = min(_promising(n_steps, gap, share), max_steps)


def _promising(n_steps, gap, share):
    """Return the steps at which the solver's fourth order promises the tolerance."""
    worst = max(gap.mean / MEAN_TOL, gap.quantile / QUANTILE_TOL) / share
    # Half of the tolerance, not to miss it by a little; at most the grid that checked,
    # since far from the tolerance the order is not to be relied on.
    factor = (2 * worst) ** 0.25 if math.isfinite(worst) else 2.0
    return max(n_steps + 1, min(math.ceil(n_steps * factor), finer(n_steps)))


@torch.no_grad()
def tight_log_prob(flow, x, context=None):
    """Log-density of rows by a tight adaptive solve of every block: the referee."""
    log_det = x.new_zeros(len(x))
    for block in flow.blocks:
        solution = ode.integrate_adaptive(block.field.dynamics(context), x)
        x, log_det = solution.y, log_det + solution.log_det
    return -objective.negative_log_likelihood(x, log_det)
