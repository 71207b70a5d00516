"""Samples a chunk at a time, and arrays on disk where memory does not hold them.

Training uses chunks of a fixed size, so that a model depends on no setting of the
machine. A score is a function of its sample alone: chunks of scoring are as large as
scikit-learn's `working_memory` allows.
"""

# SPDX-License-Identifier: BSD-3-Clause

import hashlib
import math

import numpy as np
from sklearn import get_config
from sklearn.utils import gen_batches

from skjko.flow import spill

CHUNK_VALUES = 2**22
"""Values, samples times features, of one chunk in training."""

# Of the working memory, for one array: training has up to four as long as the data.
_SHARE = 1 / 4


def _working_memory():
    """In bytes."""
    return get_config()["working_memory"] * 2**20


def dtypes(X):
    """Return the types that an array may have in validation, the first by default.

    Arrays that convert to float64 without loss are converted a chunk at a time.
    """
    narrow = isinstance(X, np.ndarray) and X.dtype.isnative and X.dtype.kind in "fiub"
    if not narrow or X.dtype.itemsize > 8 or X.dtype == np.float16:
        return np.float64
    return [np.float64, X.dtype]


def is_large(X):
    """Whether rows make more than one chunk in training."""
    return X.size > CHUNK_VALUES


def as_float64(X):
    """Return rows in float64, and in C order: sums may depend on it in the last bit."""
    return np.asarray(X, dtype=np.float64, order="C")


def in_float64(X):
    """Yield the slices of rows that make a chunk in training, with the rows in float64.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Of numbers of any type; in memory or not.

    Yields
    ------
    where : slice
    rows : ndarray of shape (n_rows, n_features)
        To be read only: if X is in float64, they are its own.
    """
    for where in gen_batches(len(X), max(1, CHUNK_VALUES // X.shape[1])):
        yield where, as_float64(X[where])


def first_true(test, X):
    """Return the row and the column of the first value that a test finds, or None.

    Parameters
    ----------
    test : callable
        Maps float64 rows to as many rows of bools.
    X : ndarray of shape (n_samples, n_features)
    """
    for where, rows in in_float64(X):
        found = test(rows)
        if found.any():
            i, j = np.argwhere(found)[0]
            return where.start + i, j
    return None


def extremes(X):
    """Return the rows of the smallest and of the largest value of every column."""
    lowest, highest = np.full(X.shape[1], np.inf), np.full(X.shape[1], -np.inf)
    rows = np.zeros((2, X.shape[1]), dtype=int)
    columns = np.arange(X.shape[1])
    for where, part in in_float64(X):
        for i, index in enumerate((part.argmin(axis=0), part.argmax(axis=0))):
            values = part[index, columns]
            better = values < lowest if i == 0 else values > highest
            rows[i, better] = where.start + index[better]
            (lowest, highest)[i][better] = values[better]
    return rows


def fits_memory(shape, dtype):
    """Whether an array is no larger than its share of the working memory."""
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    return n_bytes <= _SHARE * _working_memory()


def empty(shape, dtype):
    """Return an array, on disk if it does not fit into memory."""
    return (np if fits_memory(shape, dtype) else spill).empty(shape, dtype)


def select(X, keep):
    """Return rows of an array, in their order.

    Parameters
    ----------
    X : ndarray of shape (n, ...)
    keep : ndarray of bool of shape (n,)
    """
    kept = empty((np.count_nonzero(keep), *X.shape[1:]), X.dtype)
    done = 0
    for where in gen_batches(len(X), max(1, CHUNK_VALUES // math.prod(X.shape[1:]))):
        part = X[where][keep[where]]
        kept[done : done + len(part)] = part
        done += len(part)
    return kept


def batches(n_rows, row_bytes, multiple=1, at_most=None):
    """Yield the slices of rows that fit into the working memory.

    Parameters
    ----------
    n_rows : int
        With no row at all there is one slice, of none.
    row_bytes : int
        Memory that a row takes on its way.
    multiple : int
        Where a slice can be longer than this, its length is a multiple of it.
    at_most : int, optional
        Largest number of rows.
    """
    size = max(1, int(_working_memory() // row_bytes))
    if at_most is not None:
        size = max(1, min(size, at_most))
    if size > multiple:
        size -= size % multiple
    # Not `gen_batches`, whose checks are felt in the scoring of one row.
    end = max(n_rows, 1)
    for start in range(0, end, size):
        yield slice(start, min(start + size, end))


def map_rows(function, X, slices, axis=0):
    """Apply a function to slices of rows and join the results.

    Parameters
    ----------
    function : callable
        Maps float64 rows to an array that has as many along `axis`.
    X : ndarray of shape (n_samples, n_features)
    slices : iterable of slice
    axis : int
    """
    joined = None
    for where in slices:
        part = function(as_float64(X[where]))
        if part.shape[axis] == len(X):
            return part
        if joined is None:
            shape = (*part.shape[:axis], len(X), *part.shape[axis + 1 :])
            joined = np.empty(shape, part.dtype)
        joined[(slice(None),) * axis + (where,)] = part
    return joined


def fingerprint(*arrays):
    """Return a hash of arrays that is the same in other versions and on any machine."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(None if array is None else array.shape).encode())
        if array is not None and array.size:
            table = array.reshape(len(array) if array.ndim else 1, -1)
            for _, part in in_float64(table):
                digest.update(part.tobytes())
    return digest.hexdigest()
