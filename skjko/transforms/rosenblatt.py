"""Conditional distribution functions of Gaussian mixtures, and their inverses.

All of it works in normal scores, Phi^-1 of probabilities, and to full precision in both
tails.
"""

# SPDX-License-Identifier: BSD-3-Clause

import math

import torch
from scipy.special import ndtri_exp
from torch import Tensor

# Below this probability logarithms are used. Above it, components with less than
# exp(-100) of the largest, and tails beyond 14 (10 for erfc), count as these: smaller
# numbers are subnormal, which processors are slow at.
_MIN_PROBABILITY, _MIN_LOG, _FAR_TAIL = 1e-25, -100.0, 10.0
# Up to here a tail is as exact as the other one.
_SMALL_TAIL = 0.75
# Error of a normal score, relative to it if it is above one, that is rounding.
_TOL = 1e-14
# Steps of Newton's method, or bisections, until rounding ends them.
_N_STEPS = 100


def shares(logs: Tensor) -> Tensor:
    """Return exponentials relative to their sum over the last dimension."""
    largest = logs.amax(-1, keepdim=True)
    ratios = (logs - largest).clamp_(min=_MIN_LOG).exp_()
    return ratios.div_(ratios.sum(-1, keepdim=True))


def normal_score(logs: Tensor, weights: Tensor, y: Tensor) -> Tensor:
    """Return Phi^-1 of the weighted mean of Phi(y) over the components.

    Parameters
    ----------
    logs : Tensor of shape (..., n_components)
        Logarithms of the weights, up to a constant.
    weights : Tensor of shape (..., n_components)
        Of sum one.
    y : Tensor of shape (..., n_components)

    Returns
    -------
    z : Tensor of shape (...,)
    """
    about = torch.linalg.vecdot(weights, y)
    return _normal_score(logs, weights, y, about)


def _normal_score(logs: Tensor, weights: Tensor, y: Tensor, about: Tensor) -> Tensor:
    """The same; `about` may tell whether the result is positive."""
    # The nearer tail is the one that is small, and exact.
    side = torch.ones_like(about).copysign_(about)
    tail = _tail(weights, side, y)
    wrong = tail > _SMALL_TAIL
    if wrong.any():
        side[wrong] = -side[wrong]
        tail[wrong] = _tail(weights[wrong], side[wrong], y[wrong])
    z = -side * torch.special.ndtri(tail)
    far = tail < _MIN_PROBABILITY
    if far.any():
        tails = torch.special.log_ndtr(-side[far, None] * y[far])
        log_weights = logs.expand_as(y)[far].log_softmax(-1)
        nearest = ndtri_exp((log_weights + tails).logsumexp(-1).numpy())
        z[far] = -side[far] * torch.from_numpy(nearest)
    return z


def _tail(weights: Tensor, side: Tensor, y: Tensor) -> Tensor:
    """Mean of Phi(-side y) over the components."""
    y = (y * (side * math.sqrt(0.5))[..., None]).clamp_(-_FAR_TAIL, _FAR_TAIL)
    return y.erfc_().mul_(weights).sum(-1) / 2


def quantile(
    logs: Tensor,
    slopes: Tensor,
    shift: Tensor,
    z: Tensor,
    bounds: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """Solve normal_score(slopes x + shift) = z for x.

    The solution is between those of the single components. Newton's method works on
    normal scores, in which the function is affine for one component, within a bracket.

    Parameters
    ----------
    logs : Tensor of shape (n, n_components) or (n_components,)
        Logarithms of the weights, up to a constant.
    slopes : Tensor of shape (n_components,)
    shift : Tensor of shape (n, n_components)
    z : Tensor of shape (n,)
    bounds : tuple of Tensor of shape (n,), optional
        What is known of the solution: a lower bound, a start, and an upper bound.

    Returns
    -------
    x : Tensor of shape (n,)
    """
    of_components = (z[:, None] - shift) / slopes
    low, high = of_components.amin(1), of_components.amax(1)
    weights = shares(logs).expand_as(shift)
    logs = logs.expand_as(shift)
    solution = torch.linalg.vecdot(weights, of_components)
    if bounds is not None:
        solution = bounds[1]
        low, high = torch.maximum(low, bounds[0]), torch.minimum(high, bounds[2])
    solution = solution.clamp(low, high)
    left, at = torch.arange(len(z)), solution
    before = torch.full_like(z, math.inf)
    for _ in range(_N_STEPS):
        y = torch.addcmul(shift, at[:, None], slopes)
        score = _normal_score(logs, weights, y, z)
        gap = score - z
        low = torch.where(gap < 0, at, low)
        high = torch.where(gap > 0, at, high)
        # The density relative to that at the score: both may underflow.
        half = 0.5 * score.square()
        relative = torch.addcmul(half[:, None], y, y, value=-0.5)
        slope = relative.clamp_(min=_MIN_LOG).exp_().mul_(weights) @ slopes
        moved = at - gap / slope
        halved = low + (high - low) / 2
        # Newton's step, if it stays inside, and for as long as the steps pay.
        newton = (moved > low) & (moved < high) & (gap.abs() < before / 2)
        moved = torch.where(newton, moved, halved)
        open_ = (gap.abs() > _TOL * score.abs().clamp(1)) & (moved != at)
        solution[left] = at = torch.where(open_, moved, at)
        before = gap.abs()
        if not open_.any():
            break
        # Solved ones are left out once they are half: that costs a copy of the others.
        if 2 * open_.sum() <= len(at):
            open_ = open_.nonzero()[:, 0]
            left, at, before, z = left[open_], at[open_], before[open_], z[open_]
            low, high, shift = low[open_], high[open_], shift[open_]
            logs, weights = logs[open_], weights[open_]
    return solution
