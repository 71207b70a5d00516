"""Training and validation sets."""

# SPDX-License-Identifier: BSD-3-Clause

import math

import numpy as np
from sklearn.model_selection import GroupKFold, KFold
from sklearn.utils.random import sample_without_replacement

from skjko.data import chunks
from skjko.data.repeats import effective_number

# With up to so many samples nothing but a shrunk Gaussian can be told from noise.
GAUSSIAN_SAMPLES = 10
# Below this number of samples cross-validation decides, and all samples train in the
# end: a tenth of them would be too few to decide by.
CROSS_VALIDATION_SAMPLES, N_FOLDS = 1000, 3
# More validation samples would cost time and no longer change a decision.
MAX_VALIDATION_SAMPLES = 5000
# Up to this number, samples are drawn by a permutation of all.
_MAX_SHUFFLED = 2**22


def draw(n, size, rng):
    """Return the numbers of some of n rows, none of them twice."""
    if n <= _MAX_SHUFFLED:
        return rng.permutation(n)[:size]
    return sample_without_replacement(n, size, random_state=rng)


def train_validation_splits(X, weight, X_val, validation_fraction, rng, groups=None):
    """Return pairs of training and validation sets, each (samples, weights).

    One pair if `X_val` is given or there are enough samples, else one for every fold.

    Parameters
    ----------
    X : ndarray of shape (n, d)
    weight : ndarray of shape (n,)
        Positive. What counts as enough goes by the effective number of groups.
    X_val : ndarray of shape (n_val, d) or None
    validation_fraction : float
    rng : RandomState
    groups : ndarray of int of shape (n,) or None
        Samples of one group stay together.
    """
    if X_val is not None:
        return [((X, weight), (X_val, np.ones(len(X_val))))]
    n, n_effective = len(X), effective_number(weight, groups)
    n_groups = n if groups is None else len(np.unique(groups))
    if n_effective < CROSS_VALIDATION_SAMPLES:
        n_folds = min(N_FOLDS, n_groups)
        kind = KFold if groups is None else GroupKFold
        folds = kind(n_folds, shuffle=True, random_state=rng)
        pairs = folds.split(X, groups=groups)
        return [((X[a], weight[a]), (X[b], weight[b])) for a, b in pairs]
    most = math.ceil(MAX_VALIDATION_SAMPLES * n / n_effective)
    n_val = min(math.ceil(validation_fraction * n), most, n - 2)
    if groups is not None:
        stays = _without_groups(groups, n_groups, n_val, rng)
        b = np.flatnonzero(~stays)
    if chunks.is_large(X) or groups is not None:
        # The others stay in their order, for disks read one after another far faster.
        if groups is None:
            b = draw(n, n_val, rng)
            stays = np.ones(n, dtype=bool)
            stays[b] = False
        train_set = chunks.select(X, stays), chunks.select(weight, stays)
    else:
        order = rng.permutation(n)
        a, b = order[n_val:], order[:n_val]
        train_set = X[a], weight[a]
    return [(train_set, (X[b], weight[b]))]


def _without_groups(groups, n_groups, n_val, rng):
    """Return which samples stay when whole groups of about n_val samples go."""
    number = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(number)
    order = rng.permutation(n_groups)
    # At least one group goes, and one stays.
    n_gone = 1 + np.searchsorted(np.cumsum(sizes[order]), n_val)
    gone = order[: min(n_gone, n_groups - 1)]
    return ~np.isin(number, gone)
