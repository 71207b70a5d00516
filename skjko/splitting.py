"""Which rows train the flow and which are held out to decide about it."""

# SPDX-License-Identifier: BSD-3-Clause

import math

import numpy as np
from sklearn.model_selection import KFold
from sklearn.utils.random import sample_without_replacement

from skjko import chunks

# The rule for small samples. Up to GAUSSIAN_ROWS rows nothing but the shrunk Gaussian
# can be told from noise; below CROSS_VALIDATION_ROWS a tenth held out is too few rows
# to decide by, so all rows take turns and the flow is then trained again on all.
GAUSSIAN_ROWS = 10
CROSS_VALIDATION_ROWS = 1000
N_FOLDS = 3

# Held-out rows beyond this number would cost time and no longer change a decision.
MAX_VALIDATION_ROWS = 5000

# Up to this number, rows are drawn by shuffling the numbers of all.
_MAX_SHUFFLED = 2**22


def draw(n, size, rng):
    """Return the numbers of some of n rows, none of them twice."""
    if n <= _MAX_SHUFFLED:
        return rng.permutation(n)[:size]
    return sample_without_replacement(n, size, random_state=rng)


def held_out_splits(X, weight, X_val, validation_fraction, rng):
    """Pairs of ((rows, weights) to train on, (rows, weights) to hold out).

    One pair if `X_val` is given or there are enough rows, else one for every fold.
    """
    if X_val is not None:
        return [((X, weight), (X_val, np.ones(len(X_val))))]
    n = len(X)
    if n < CROSS_VALIDATION_ROWS:
        folds = KFold(N_FOLDS, shuffle=True, random_state=rng).split(X)
        return [((X[a], weight[a]), (X[b], weight[b])) for a, b in folds]
    n_val = min(math.ceil(validation_fraction * n), MAX_VALIDATION_ROWS, n - 2)
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
