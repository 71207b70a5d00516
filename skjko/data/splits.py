"""Training and validation sets."""

# SPDX-License-Identifier: BSD-3-Clause

import math

import numpy as np
from sklearn.model_selection import KFold
from sklearn.utils.random import sample_without_replacement

from skjko.data import chunks

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


def train_validation_splits(X, weight, X_val, validation_fraction, rng):
    """Return pairs of training and validation sets, each (samples, weights).

    One pair if `X_val` is given or there are enough samples, else one for every fold.
    """
    if X_val is not None:
        return [((X, weight), (X_val, np.ones(len(X_val))))]
    n = len(X)
    if n < CROSS_VALIDATION_SAMPLES:
        folds = KFold(N_FOLDS, shuffle=True, random_state=rng).split(X)
        return [((X[a], weight[a]), (X[b], weight[b])) for a, b in folds]
    n_val = min(math.ceil(validation_fraction * n), MAX_VALIDATION_SAMPLES, n - 2)
    if chunks.is_large(X):
        # The others stay in their order, for disks read one after another far faster.
        b = draw(n, n_val, rng)
        stays = np.ones(n, dtype=bool)
        stays[b] = False
        train_set = chunks.select(X, stays), chunks.select(weight, stays)
    else:
        order = rng.permutation(n)
        a, b = order[n_val:], order[:n_val]
        train_set = X[a], weight[a]
    return [(train_set, (X[b], weight[b]))]
