"""Rows that repeat: equal ones become one, and nearly equal ones make a group.

Copies of a row on both sides of a validation split reward a spike on every row. Rows
that are equal are therefore one row with their summed weight, and rows that are equal
up to rounding stay on one side of every split.
"""

# SPDX-License-Identifier: BSD-3-Clause

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.utils import check_consistent_length, column_or_1d

from skjko.data import chunks

# Rows are nearly equal if all features are within this share of their interquartile
# range, or less, where many rows in few features would be so near by chance: the number
# of such pairs to expect.
_TOLERANCE, _BY_CHANCE = 1e-3, 0.01
# Grids of cells in which nearly equal rows are looked for. Rows that are nearer than a
# third of a cell in one or two features share a cell of one of them. The quartiles are
# rows, and at no border.
_SHIFTS = (0.151, 0.484, 0.818)
# Rows that tell the interquartile ranges.
_N_RANGE = 10_000
# A larger share of the rows in one group means that the cells are too coarse for them.
_LARGEST_SHARE = 1 / 3


def distinct(X, weight, groups, is_continuous, is_tied=None):
    """Return distinct rows, their weights, and the groups that splits keep together.

    Rows that make one chunk are put into an order of their own: a fit does not depend
    on the one in which they come.

    Parameters
    ----------
    X : ndarray of shape (n, d)
    weight : ndarray of shape (n,)
        Positive.
    groups : ndarray of int of shape (n,) or None
        Of the user.
    is_continuous : ndarray of bool of shape (d,)
        Ties in other features are natural. Without one, no row is a copy.
    is_tied : callable, optional
        Maps rows to bools: whether ties are natural in all features of a row.

    Returns
    -------
    X : ndarray of shape (n_distinct, d)
    weight : ndarray of shape (n_distinct,)
        Of all copies of a row together.
    groups : ndarray of int of shape (n_distinct,) or None
        None if every row is a group of its own.

    Raises
    ------
    ValueError
        If copies link all of the user's groups to one.
    """
    given = groups is not None
    if not chunks.is_large(X):
        order = _order(X, weight)
        X, weight = X[order], weight[order]
        groups = None if groups is None else groups[order]
    views = [] if groups is None else [groups]
    # Constants tell nothing.
    is_continuous = is_continuous & (np.fmin.reduce(X) < np.fmax.reduce(X))
    if is_continuous.any():
        tied = np.zeros(len(X), dtype=bool) if is_tied is None else is_tied(X)
        values = hashes(X)
        # Rows like no other ones: what is missing of equal ones need not be equal.
        alone = tied | np.isnan(X).any(axis=1)
        values[alone] = np.random.RandomState(1).randint(2**63, size=alone.sum())
        ordered = np.sort(values)
        if (ordered[1:] == ordered[:-1]).any():
            _, first, number = np.unique(values, return_index=True, return_inverse=True)
            # In the order in which they come.
            rank = np.argsort(np.argsort(first))[number]
            weight = np.bincount(rank, weight)
            stays = np.zeros(len(X), dtype=bool)
            stays[first] = True
            if groups is not None:
                components = _components([groups, rank])
                views = [components[stays]]
            X, tied = chunks.select(X, stays), tied[stays]
        # They may be as large as a feature.
        del values, ordered
        views += _near(X, is_continuous, tied)
    groups = _components(views) if views else None
    if groups is not None and groups.max() == 0:
        if given:
            raise ValueError(
                "All samples of positive weight are in one group: by their labels in "
                "groups, and by samples that are equal in several. Leave groups out."
            )
        groups = None
    if not chunks.is_large(X):
        # Parts of the rows have to be like the whole.
        order = np.random.RandomState(0).permutation(len(X))
        X, weight = X[order], weight[order]
        groups = None if groups is None else groups[order]
    return X, weight, groups


def check_groups(groups, X, owner):
    """Return groups as numbers from 0 on; raise a ValueError if there is only one."""
    groups = column_or_1d(groups)
    check_consistent_length(X, groups)
    labels, number = np.unique(groups, return_inverse=True)
    if len(labels) < 2:
        raise ValueError(
            f"groups has one label, {labels.tolist()[0]!r}, for all samples. {owner} "
            "needs at least two: it trains on some and validates on others. Leave "
            "groups out, or set early_stopping=False."
        )
    return number


def weighted(X, weight, groups, owner):
    """Return the samples of positive weight, with their weights, at most 1."""
    if not weight.all():
        keep = weight > 0
        groups = None if groups is None else groups[keep]
        X, weight = (chunks.select(array, keep) for array in (X, weight))
    if len(X) < 2:
        raise ValueError(
            f"{owner} requires at least 2 samples with a positive sample_weight. Got "
            f"{len(X)} instead."
        )
    # Divided by the largest, so that no sum of weights can overflow.
    return X, weight / weight.max(), groups


def effective_number(weight, groups=None):
    """Return the exponential of the entropy of the weights, of samples or of groups.

    One sample that is a third of all leaves the others their number; the inverse of the
    sum of squares would be nine, whatever there is beside it.
    """
    if groups is not None:
        weight = np.bincount(groups, weight)
    share = weight[weight > 0] / weight.sum()
    return float(np.exp(-(share @ np.log(share))))


def _order(X, weight):
    """Return an order of rows by their values, whatever the units of the features."""
    low = np.fmin.reduce(X).astype(np.float64)
    high = np.fmax.reduce(X).astype(np.float64)
    X = np.where(np.isnan(X), high, X)
    # Halves first: sums and differences of the largest numbers would overflow.
    half = np.maximum(high / 2 - low / 2, np.finfo(float).tiny)
    away = np.abs((X - (low / 2 + high / 2)) / half)
    key = away.sum(axis=1)
    order = np.argsort(key, kind="stable")
    if (np.diff(key[order]) == 0).any():
        order = np.lexsort((weight, *X.T[::-1], *away.T[::-1], key))
    return order


def _near(X, is_continuous, tied):
    """Return labels that nearly equal rows share; none if there are no such rows."""
    n = len(X)
    some = X[np.linspace(0, n - 1, min(n, _N_RANGE)).astype(int)][:, is_continuous]
    low, high = np.nanquantile(some.astype(np.float64), (0.25, 0.75), axis=0)
    d = some.shape[1]
    tolerance = min(_TOLERANCE, (_BY_CHANCE / n**2) ** (1 / d))
    with np.errstate(over="ignore"):
        width = tolerance * (high - low)
    # Of features that are mostly one value, only that value counts as near.
    width[width == 0] = np.finfo(float).tiny
    factors = np.random.RandomState(0).randint(1, 2**30, d).astype(float)
    views = []
    for shift in _SHIFTS:
        cells = np.empty(n)
        for where, rows in chunks.in_float64(X):
            with np.errstate(over="ignore", invalid="ignore"):
                from_low = (rows[:, is_continuous] - low) / width
                cells[where] = np.floor(from_low + shift) @ factors
        # Those of others are whole numbers. Of missing values nothing is near.
        alone = tied | np.isnan(cells)
        cells[alone] = np.arange(alone.sum()) + 0.5
        ordered = np.sort(cells)
        if not (ordered[1:] == ordered[:-1]).any():
            continue
        _, number, counts = np.unique(cells, return_inverse=True, return_counts=True)
        if counts.max() > _LARGEST_SHARE * n:
            return []
        views.append(number)
    return views


def _components(views):
    """Return labels of rows that are linked by sharing a label in any of the views."""
    n = len(views[0])
    rows, columns, n_labels = [], [], 0
    for view in views:
        _, number = np.unique(view, return_inverse=True)
        rows.append(np.arange(n))
        columns.append(number + n + n_labels)
        n_labels += number.max() + 1
    rows, columns = np.concatenate(rows), np.concatenate(columns)
    shape = (n + n_labels, n + n_labels)
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape)
    return connected_components(graph, directed=False)[1][:n]


def hashes(X):
    """Return a hash of every row, by random multiples of its features' bits."""
    factors = np.random.RandomState(0).randint(2**63, size=X.shape[1], dtype=np.uint64)
    values = np.empty(len(X), dtype=np.uint64)
    for where, rows in chunks.in_float64(X):
        # Zeros of both signs are equal. The last bits of short numbers are all zero.
        bits = np.ascontiguousarray(rows + 0.0).view(np.uint64)
        values[where] = (bits ^ (bits >> np.uint64(32))) @ (2 * factors + np.uint64(1))
    return values
