"""The density of rows with noise, without those of them that may be outliers."""

# SPDX-License-Identifier: BSD-3-Clause

import math

import numpy as np

from skjko.density import JKOFlowDensity
from skjko.table import LARGEST_VALUE

# Rows with noise that training draws from: enough for no row to be seen with the same
# noise more than a few times, few enough for memory.
_MAX_COPIED_ROWS = 30_000

# Noise, and share of the iterations, of the first flow where outliers are trimmed.
_COARSE_NOISE = 3.0
_COARSE_SHARE = 0.3


def fit(detector, X, weight, rng):
    """Fit a density to rows with noise; with `trim`, a second one without the outliers.

    Parameters
    ----------
    detector : JKOFlowOutlierDetector
        Its parameters count.
    X : ndarray of shape (n_samples, n_features)
    weight : ndarray of shape (n_samples,)
        Positive.
    rng : RandomState

    Returns
    -------
    density : JKOFlowDensity
    noise : float
        In standard deviations of every column.
    n_trimmed : int
        Number of rows left out.
    """
    n_trimmed = int(detector.trim * len(X))
    if n_trimmed > 0:
        # Fine detail is where a small cluster of outliers would hide.
        noise = max(_noise(detector, len(X)), _COARSE_NOISE)
        n_iter = math.ceil(_COARSE_SHARE * detector.max_iter)
        coarse = _density(detector, X, weight, noise, n_iter, rng)
        scores = coarse._model.log_density(X)
        stay = np.sort(np.argsort(scores, kind="stable")[n_trimmed:])
        X, weight = X[stay], weight[stay]
    noise = _noise(detector, len(X))
    density = _density(detector, X, weight, noise, detector.max_iter, rng)
    return density, noise, n_trimmed


def _noise(detector, n_samples):
    """Noise for as many rows: few tell less of the density, and need more of it."""
    if detector.noise != "auto":
        return float(detector.noise)
    return min(1.0, max(0.1, 0.3 * math.sqrt(1000 / n_samples)))


def _density(detector, X, weight, noise, max_iter, rng):
    """Return a density of the rows with noise."""
    if noise > 0:
        # So many copies that training seldom sees the same noise again.
        n_draws = max(detector.max_blocks, 1) * max_iter * detector.batch_size
        n_copies = math.ceil(min(n_draws, _MAX_COPIED_ROWS) / len(X))
        spread = _spread(X, weight / weight.sum())
        X = np.tile(X, (n_copies, 1))
        X += noise * spread * rng.standard_normal(X.shape)
        np.clip(X, -LARGEST_VALUE, LARGEST_VALUE, out=X)
        weight = np.tile(weight, n_copies)
    # All rows train for all iterations. Held-out rows that decide would have to be
    # kept from calibration too, and the noise keeps the flow from learning rows.
    return JKOFlowDensity(
        max_blocks=detector.max_blocks,
        hidden_layer_sizes=detector.hidden_layer_sizes,
        activation="silu",
        max_iter=max_iter,
        batch_size=detector.batch_size,
        learning_rate_init=detector.learning_rate_init,
        early_stopping=False,
        time_limit=detector.time_limit,
        random_state=rng.randint(2**31 - 1),
        verbose=detector.verbose,
        device=detector.device,
    ).fit(X, sample_weight=weight)


def _spread(X, share):
    """Weighted standard deviation of every column."""
    # Near one by a power of two, which changes no digit: squares are taken.
    exponent = np.frexp(np.abs(X).max(axis=0))[1]
    X = np.ldexp(X, -exponent)
    return np.ldexp(np.sqrt(share @ (X - share @ X) ** 2), exponent)
