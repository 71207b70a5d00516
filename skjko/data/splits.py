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
    if chunks.is_large(X):
        # The others stay in their order, for disks read one after another far faster.
        _, b = train_rest(n, n_val, rng, groups, shuffled=False)
        stays = np.ones(n, dtype=bool)
        stays[b] = False
        train_set = chunks.select(X, stays), chunks.select(weight, stays)
    else:
        a, b = train_rest(n, n_val, rng, groups)
        train_set = X[a], weight[a]
    return [(train_set, (X[b], weight[b]))]


def train_rest(n, n_rest, rng, groups=None, shuffled=True):
    """Return the numbers of n rows but for about n_rest, and of these, at random.

    Parameters
    ----------
    n, n_rest : int
    rng : RandomState
    groups : ndarray of int of shape (n,), optional
        Whole groups go, at least one; at least one stays.
    shuffled : bool, default=True
        Whether the rows that stay are wanted, in random order.
    """
    if groups is None:
        if not shuffled:
            return None, draw(n, n_rest, rng)
        order = rng.permutation(n)
        return order[n_rest:], order[:n_rest]
    number = np.unique(groups, return_inverse=True)[1]
    order = rng.permutation(number.max() + 1)
    sizes = np.bincount(number)[order]
    n_gone = 1 + int(np.searchsorted(np.cumsum(sizes), n_rest))
    goes = np.isin(number, order[: min(n_gone, len(order) - 1)])
    return tuple(rng.permutation(np.flatnonzero(part)) for part in (~goes, goes))


def set_aside(rows, n, rng, groups=None):
    """Split the numbers of rows at random, but leave two at least.

    Parameters
    ----------
    rows : ndarray of int of shape (n_rows,)
    n : int
        Number of rows to set aside.
    rng : RandomState
    groups : ndarray of int, optional
        Of all rows that there are. Whole groups go.

    Returns
    -------
    kept, aside : ndarray of int
    """
    n = min(n, len(rows) - 2)
    if n <= 0:
        return rows, rows[:0]
    own = None if groups is None else groups[rows]
    kept, rest = train_rest(len(rows), n, rng, own)
    return rows[kept], rows[rest]
