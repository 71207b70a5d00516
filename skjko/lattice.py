"""Columns of discrete values: found, spread over their cells, averaged, rounded."""

# SPDX-License-Identifier: BSD-3-Clause

import numpy as np

from skjko import chunks

# Columns are first looked at in this number of rows: one that has hardly any ties there
# is as good as continuous.
_SCREENED_ROWS = 1000
_SCREENED_SHARE = 0.9

# Values that are on a lattice are off it by rounding errors only, this many units in
# the last place of the largest; and a step has to be many of these errors.
_ULPS = 8
_ERRORS_PER_STEP = 50

# Steps finer than this share of the range are not worth spreading over.
_FINEST = 1e-6

# More values than this, known up to rounding errors, make finer steps. They are no
# longer collected then.
_MOST_VALUES = 2 / _FINEST

# Lattices that are decimal to this many places are kept so.
_MOST_DECIMALS = 12

# A column of an integer type is on a lattice, ties or not, up to this many steps wide.
_INTEGER_STEPS = 1000

# Points in a cell at which densities are averaged: by the Gauss-Legendre rule along one
# column, by a lattice rule (whose number of points is prime) in several.
_POINTS_ONE = 16
_POINTS_SEVERAL = 61

_LARGEST = np.finfo(float).max

# Rows, times points, that are scored together.
_ROWS_AT_ONCE = 61 * 256


class Lattice:
    """Where the values of each column can be: start + k * step for an integer k.

    A density of values that come again and again has no upper bound. So training sees
    each value spread evenly over its cell, half a step to both sides, and the score of
    a row is the density averaged over the cell around it: with the volume of the cell
    that is the probability of the lattice point.

    Parameters
    ----------
    start : ndarray of shape (n_features,)
        One of the values, in data units.
    step : ndarray of shape (n_features,)
        In data units; 0 in continuous columns, infinite in columns with one value.
    """

    def __init__(self, start, step):
        self.start, self.step = start, step
        self._decimals = [_decimals(a, b) for a, b in zip(start, step, strict=True)]
        self.columns = np.flatnonzero((step > 0) & np.isfinite(step))
        self.constant = np.flatnonzero(np.isinf(step))

    @classmethod
    def none(cls, n_features):
        """Return the lattice of a table in which every column is continuous."""
        return cls(np.zeros(n_features), np.zeros(n_features))

    @classmethod
    def detect(cls, X, is_integer, is_bounded):
        """Find the discrete columns of finite rows.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
        is_integer : ndarray of bool of shape (n_features,)
            Whether the column came in an integer or boolean type.
        is_bounded : ndarray of bool of shape (n_features,)
            Whether there are bounds: integers can reach them, where a continuous column
            cannot, so they are discrete however many there are.
        """
        values = _distinct_values(X, is_integer, is_integer & is_bounded)
        kinds = zip(values, is_integer, is_integer & is_bounded, strict=True)
        found = [_detect(len(X), *column) for column in kinds]
        return cls(*np.array(found, dtype=float).reshape(-1, 2).T)

    @classmethod
    def given(cls, X, steps):
        """Take steps as given, 0 for continuous columns, and the place from the rows.

        Returns
        -------
        lattice : Lattice
        off : tuple of int or None
            The row and the column of the first value that is not on it.
        """
        lattice = cls(np.where(steps > 0, X[0].astype(np.float64), 0.0), steps)
        parts = [np.abs(rows).max(axis=0) for _, rows in chunks.in_float64(X)]
        tolerance = 1e-3 * steps + _ULPS * np.spacing(np.max(parts, axis=0))

        def is_off(rows):
            return (np.abs(rows - lattice.round(rows)) > tolerance) & (steps > 0)

        return lattice, chunks.first_true(is_off, X)

    def spread(self, X, rng):
        """Spread values evenly over their cells."""
        if not len(self.columns):
            return X
        spread = chunks.empty(X.shape, np.float64)
        for where, rows in chunks.in_float64(X):
            # Never exactly at the border of a cell, which may be that of the support.
            noise = rng.randint(2**30, size=(len(rows), len(self.columns)))
            noise = (noise + 0.5) / 2**30 - 0.5
            spread[where] = rows
            spread[where, self.columns] += noise * self.step[self.columns]
        return spread

    def average(self, log_density, X):
        """Average a density over the cells around rows.

        Parameters
        ----------
        log_density : callable
            Maps rows to their log-densities, of shape (..., n_rows).
        X : ndarray of shape (n_samples, n_features)

        Returns
        -------
        averaged : ndarray of shape (..., n_samples)
            The logarithm of the averages, in nats. The points are the same in every
            cell, so that the value of a row does not depend on the others.
        """
        if not len(self.columns):
            return log_density(X)
        offsets, weight = self._rule()
        m = len(weight)
        parts = []
        # The points of a row, their offsets, and what comes of them.
        row_bytes = 3 * 8 * m * X.shape[1]
        for where in chunks.batches(len(X), row_bytes, at_most=_ROWS_AT_ONCE // m):
            rows = np.repeat(X[where].astype(np.float64), m, axis=0)
            with np.errstate(over="ignore"):
                rows[:, self.columns] += np.tile(offsets, (len(rows) // m, 1))
            np.clip(rows, -_LARGEST, _LARGEST, out=rows)
            values = log_density(rows)
            values = values.reshape(*values.shape[:-1], -1, m) + np.log(weight)
            parts.append(np.logaddexp.reduce(values, axis=-1))
        return np.concatenate(parts, axis=-1)

    def round(self, X, lower=None, upper=None):
        """Move values to the nearest of the lattice that is within closed bounds."""
        X = X.copy()
        j = self.columns
        with np.errstate(over="ignore"):
            steps = np.rint((X[:, j] - self.start[j]) / self.step[j])
            if lower is not None:
                steps = np.clip(steps, *self._ends(lower, upper))
            rounded = self.start[j] + steps * self.step[j]
        X[:, j] = np.clip(rounded, -_LARGEST, _LARGEST)
        for i in j:
            # Three steps of 0.1 from 0 are 0.3 in the data, not 0.30000000000000004.
            if self._decimals[i] is not None:
                # NumPy multiplies first: the largest numbers would become infinite.
                small = np.abs(X[:, i]) < _LARGEST / 10.0**_MOST_DECIMALS
                X[small, i] = np.round(X[small, i], self._decimals[i])
        X[:, self.constant] = self.start[self.constant]
        return X

    def widened(self, lower, upper):
        """Move closed bounds of the values to the open bounds of their cells."""
        lower, upper = lower.copy(), upper.copy()
        j = self.columns
        start, step = self.start[j], self.step[j]
        first, last = self._ends(lower, upper)
        lower[j], upper[j] = start + (first - 0.5) * step, start + (last + 0.5) * step
        return lower, upper

    def _ends(self, lower, upper):
        """Steps to the outermost lattice points within bounds."""
        j = self.columns
        start, step = self.start[j], self.step[j]
        # With some slack for rounding. As good as infinite is how far some bounds are.
        with np.errstate(over="ignore"):
            first = np.ceil((lower[j] - start) / step - 1e-6)
            last = np.floor((upper[j] - start) / step + 1e-6)
        return first, last

    def _rule(self):
        """Offsets of shape (n_points, n_columns) in data units, and their weights."""
        k, step = len(self.columns), self.step[self.columns]
        if k == 1:
            nodes, weight = np.polynomial.legendre.leggauss(_POINTS_ONE)
            return nodes[:, np.newaxis] / 2 * step, weight / 2
        # A shifted lattice rule: in every column the points are the centres of m equal
        # parts of the cell, in another order. The orders are those of affine maps
        # modulo a prime, different ones in up to m (m - 1) columns.
        m = _POINTS_SEVERAL
        j = np.arange(k)
        # Powers of a primitive root (2 is one of 61) reach every factor in turn.
        factor = np.array([pow(2, 7 * int(i), m) for i in j])
        shift = (23 * (j // (m - 1)) + 17 * j) % m
        order = (np.arange(m)[:, np.newaxis] * factor + shift) % m
        return ((order + 0.5) / m - 0.5) * step, np.full(m, 1 / m)


def _distinct_values(X, is_integer, is_always):
    """Return the distinct values of each column, or None where they are no lattice's.

    For that they are too many: hardly any come again among the first that are looked
    at, or there are more of them than a lattice may have steps.
    """
    n, d = X.shape
    first = X[np.linspace(0, n - 1, min(n, _SCREENED_ROWS)).astype(int)]
    values = [
        None
        if not integer and len(np.unique(x)) > _SCREENED_SHARE * len(x)
        else np.empty(0)
        for x, integer in zip(first.T, is_integer, strict=True)
    ]
    for _, rows in chunks.in_float64(X):
        for j in range(d):
            if values[j] is not None:
                values[j] = np.union1d(values[j], rows[:, j])
                if len(values[j]) > _MOST_VALUES and not is_always[j]:
                    values[j] = None
    return values


def _detect(n, values, is_integer, is_always):
    """Return the start and step of one column; step 0 if it is continuous.

    From its distinct values, sorted, and the number n of all.
    """
    continuous = 0.0, 0.0
    if values is None:
        return continuous
    if len(values) == 1:
        return values[0], np.inf
    tied = 2 * len(values) <= n
    if not (tied or is_integer):
        return continuous
    # Numbers that have been float32 carry its rounding errors; integers have none.
    largest = np.abs(values).max()
    single = largest < 1e38 and (values == np.float32(values)).all() and not is_integer
    error = _ULPS * np.spacing(np.float32(largest) if single else largest)
    step = _common_step(values, float(error))
    if step == 0 and single:
        # What float32 can hold may still be a lattice to float64's precision.
        step = _common_step(values, float(_ULPS * np.spacing(largest)))
    width = values[-1] - values[0]
    narrow = tied or width <= _INTEGER_STEPS * step
    fine = not is_always and (step < _FINEST * width or not narrow)
    start = float(str(np.float32(values[0]))) if single else values[0]
    return continuous if step == 0 or fine else (start, step)


def _common_step(values, error):
    """Return the largest step of a lattice with all sorted values, 0 if there is none.

    Values are known up to an error, so this is Euclid's algorithm with a tolerance.
    """
    gaps = np.diff(values)
    gaps = gaps[gaps > error]
    if not len(gaps):
        return 0.0
    step = gaps.min()
    while True:
        if step < _ERRORS_PER_STEP * error:
            return 0.0
        remainder = np.abs(gaps - np.rint(gaps / step) * step)
        # An error of the step counts as often as it fits into a gap.
        left = remainder[remainder > 2 * error * np.maximum(1, np.rint(gaps / step))]
        if not len(left):
            break
        step = left.min()
    # The step by least squares: its own error no longer adds up over the range.
    k = np.rint(np.cumsum(np.r_[0.0, np.rint(np.diff(values) / step)]))
    distance = values - values[0]
    # By a power of two, which changes no digit, below where the sum would overflow.
    exponent = np.frexp(distance[-1])[1]
    step = float(np.ldexp(k @ np.ldexp(distance, -exponent) / (k @ k), exponent))
    # Data are written in decimals: a step that cannot be told from a short one is it.
    for decimals in range(_MOST_DECIMALS + 1):
        short = round(step, decimals)
        if abs(short - step) * k[-1] <= error:
            step = short
            break
    fits = np.abs(distance - k * step) <= 2 * error
    return step if step > 0 and fits.all() else 0.0


def _decimals(start, step):
    """Return the number of decimals that a lattice needs, None if it is too large."""
    if 0 < step < np.inf:
        for decimals in range(_MOST_DECIMALS + 1):
            if round(start, decimals) == start and round(step, decimals) == step:
                return decimals
    return None
