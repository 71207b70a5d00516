"""The density of samples with noise, without those of them that may be outliers."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from skjko.components import MLPField
from skjko.data.frames import LARGEST_VALUE
from skjko.density import JKOFlowDensity
from skjko.support import Support
from skjko.typing import Floats

# Noisy samples that training draws from: enough for no sample to be seen with the same
# noise more than a few times, few enough for memory.
_MAX_COPIED = 30_000
# Noise, and share of the iterations, of the first flow where outliers are trimmed: fine
# detail is where a small cluster of outliers would hide.
_COARSE_NOISE, _COARSE_SHARE = 3.0, 0.3


def default_density() -> JKOFlowDensity:
    """Return the density that a detector fits if it is not given one.

    All samples train for all iterations: validation samples would have to be kept from
    calibration too, and the noise keeps the flow from overfitting.
    """
    return JKOFlowDensity(
        init="gaussian",
        field=MLPField((64, 64), "silu"),
        max_blocks=1,
        max_iter=500,
        batch_size=250,
        learning_rate_init=0.02,
        early_stopping=False,
    )


def fit(
    density: JKOFlowDensity,
    X: Floats,
    weight: Floats,
    groups: NDArray[np.int_] | None,
    noise: float | Literal["auto"],
    trim: float,
    rng: np.random.RandomState,
    support: Support,
    coded: Collection[int] = (),
    around: Callable[[Any], AbstractContextManager[Any]] = nullcontext,
) -> tuple[JKOFlowDensity, float, int]:
    """Fit a density to samples with noise; with `trim`, again without the outliers.

    Parameters
    ----------
    density : JKOFlowDensity
        Not fitted; it is cloned.
    X : ndarray of shape (n_samples, n_features)
    weight : ndarray of shape (n_samples,)
        Positive.
    groups : ndarray of int of shape (n_samples,) or None
        Samples of one group stay on one side of a validation split.
    noise : float or "auto"
        In standard deviations of every feature.
    trim : float
        Share of the samples that may be outliers.
    rng : RandomState
    support : Support
        Where values can be. The `bounds` and `discrete` of `density` have no effect,
        but for whether `discrete` is "auto".
    coded : collection of int, default=()
        Features that are codes of categories, which get no noise.
    around : callable, default=nullcontext
        Returns a context in which a density is fitted.

    Returns
    -------
    density : JKOFlowDensity
    noise : float
    n_trimmed : int
        Number of samples left out.
    """
    n_trimmed = int(trim * len(X))
    if n_trimmed > 0:
        coarse = clone(density)
        if coarse.max_iter != "auto":
            coarse.max_iter = math.ceil(_COARSE_SHARE * coarse.max_iter)
        level = max(_noise(noise, len(X)), _COARSE_NOISE)
        with around(coarse):
            coarse = _fitted(coarse, X, weight, groups, level, rng, support, coded)
        scores = coarse.score_samples(X)
        kept = np.sort(np.argsort(scores, kind="stable")[n_trimmed:])
        X, weight = X[kept], weight[kept]
        groups = None if groups is None else groups[kept]
    level = _noise(noise, len(X))
    density = clone(density)
    with around(density):
        density = _fitted(density, X, weight, groups, level, rng, support, coded)
    return density, level, n_trimmed


def _noise(noise: float | Literal["auto"], n_samples: int) -> float:
    """Noise for so many samples: few tell less of the density, and need more of it."""
    if noise != "auto":
        return float(noise)
    return min(1.0, max(0.1, 0.3 * math.sqrt(1000 / n_samples)))


def _fitted(
    density: JKOFlowDensity,
    X: Floats,
    weight: Floats,
    groups: NDArray[np.int_] | None,
    noise: float,
    rng: np.random.RandomState,
    support: Support,
    coded: Collection[int],
) -> JKOFlowDensity:
    """Fit a density to samples with noise."""
    deviation = noise * _spread(X, weight / weight.sum())
    deviation[list(coded)] = 0.0
    # No continuous value reaches a bound, but discrete ones and atoms do.
    reach = np.where(support.is_open, 0.0, deviation)
    lower, upper = support.lower - reach, support.upper + reach
    _tell(density, lower, upper, support, coded, noise)
    if noise > 0:
        # So many copies that training seldom sees the same noise again; with validation
        # only one, for copies would be on both sides of the split.
        n_copies = 1
        n_iter, size = density.max_iter, density.batch_size
        if not (
            density.early_stopping or isinstance(n_iter, str) or isinstance(size, str)
        ):
            n_drawn = max(density.max_blocks, 1) * n_iter * size
            n_copies = max(1, math.ceil(min(n_drawn, _MAX_COPIED) / len(X)))
        X = np.tile(X, (n_copies, 1))
        X += deviation * rng.standard_normal(X.shape)
        np.clip(X, -LARGEST_VALUE, LARGEST_VALUE, out=X)
        X = reflected(X, lower, upper, deviation > 0)
        weight = np.tile(weight, n_copies)
        groups = None if groups is None else np.tile(groups, n_copies)
    if density.random_state is None:
        density.random_state = rng.randint(2**31 - 1)
    if groups is not None and len(np.unique(groups)) > 1 and density.early_stopping:
        return density.fit(X, sample_weight=weight, groups=groups)
    return density.fit(X, sample_weight=weight)


def _tell(
    density: JKOFlowDensity,
    lower: Floats,
    upper: Floats,
    support: Support,
    coded: Collection[int],
    noise: float,
) -> None:
    """Set bounds and discrete features of a density of arrays."""
    density.bounds = None
    if np.isfinite(lower).any() or np.isfinite(upper).any():
        density.bounds = list(zip(lower.tolist(), upper.tolist(), strict=True))
    steps, auto = support.grid.step, isinstance(density.discrete, str)
    if not auto or coded:
        # Discrete features with noise are continuous; categories get none.
        density.discrete = {
            int(j): float(steps[j])
            for j in support.grid.columns
            if not auto or noise == 0 or j in coded
        }


def reflected(
    X: Floats, lower: Floats, upper: Floats, noisy: NDArray[np.bool_]
) -> Floats:
    """Values that noise has taken out of bounds, reflected into them."""
    below, above = noisy & np.isfinite(lower), noisy & np.isfinite(upper)
    both = below & above
    for j in np.flatnonzero(both):
        width = upper[j] - lower[j]
        distance = np.mod(X[:, j] - lower[j], 2 * width)
        X[:, j] = lower[j] + np.minimum(distance, 2 * width - distance)
    for j in np.flatnonzero(below & ~both):
        X[:, j] = lower[j] + np.abs(X[:, j] - lower[j])
    for j in np.flatnonzero(above & ~both):
        X[:, j] = upper[j] - np.abs(upper[j] - X[:, j])
    # Rounding may reach a bound; nothing else of the noise does.
    low = np.where(noisy, np.nextafter(lower, np.inf), -np.inf)
    high = np.where(noisy, np.nextafter(upper, -np.inf), np.inf)
    return np.clip(X, low, high)


def _spread(X: Floats, share: Floats) -> Floats:
    """Weighted standard deviation of every feature."""
    # Near one by a power of two, which changes no digit: squares are taken.
    exponent = np.frexp(np.abs(X).max(axis=0))[1]
    X = np.ldexp(X, -exponent)
    return np.ldexp(np.sqrt(share @ (X - share @ X) ** 2), exponent)
