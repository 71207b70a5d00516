"""Features with discrete values: found, dequantized, averaged over cells, rounded."""

# SPDX-License-Identifier: BSD-3-Clause

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from skjko.data import chunks
from skjko.transforms.base import is_array
from skjko.typing import Floats, State

# Features are looked at in so many samples first: one that has hardly any ties there is
# continuous.
_SCREENED_SAMPLES, _SCREENED_SHARE = 1000, 0.9
# Values on a grid are off it by rounding errors only, so many units in the last place
# of the largest; and a step has to be many of these errors.
_ULPS, _ERRORS_PER_STEP = 8, 50
# Steps finer than this share of the range are not worth dequantizing.
_FINEST = 1e-6
# More values than this make finer steps, and are no longer collected.
_MOST_VALUES = 2 / _FINEST
# Grids that are decimal to this many places are kept so.
_MOST_DECIMALS = 12
# A feature of an integer type is on a grid, ties or not, up to this many steps wide.
_INTEGER_STEPS = 1000
# Points in a cell at which densities are averaged: by the Gauss-Legendre rule along one
# feature, by a lattice rule (whose number of points is prime) in several.
_POINTS_ONE, _POINTS_SEVERAL = 16, 61
_LARGEST = np.finfo(float).max
# Samples, times points, that are scored together.
_SAMPLES_AT_ONCE = 61 * 256


class DiscreteGrid:
    """Where the values of each feature can be: start + k * step for an integer k.

    A density of values that repeat has no upper bound. Training therefore sees every
    value dequantized, uniformly in its cell, half a step to both sides; and the score
    of a sample is the density averaged over the cell around it: with the volume of the
    cell that is the probability of the value.

    Parameters
    ----------
    start : ndarray of shape (n_features,)
        One of the values, in data units.
    step : ndarray of shape (n_features,)
        In data units; 0 in continuous features, infinite in those with one value.

    Attributes
    ----------
    columns : ndarray of int
        Numbers of the discrete features.
    constant : ndarray of int
        Numbers of the features with one value.

    Examples
    --------
    >>> import numpy as np
    >>> from skjko.transforms.discrete import DiscreteGrid
    >>> grid = DiscreteGrid(start=np.array([0.0, 0.0]), step=np.array([0.5, 0.0]))
    >>> grid.round(np.array([[1.3, 1.3]]))
    array([[1.5, 1.3]])
    """

    def __init__(self, start: Floats, step: Floats) -> None:
        self.start, self.step = start, step
        self._decimals = [_decimals(a, b) for a, b in zip(start, step, strict=True)]
        self.columns = np.flatnonzero((step > 0) & np.isfinite(step))
        self.constant = np.flatnonzero(np.isinf(step))

    @classmethod
    def none(cls, n_features: int) -> Self:
        """Return the grid of a table in which every feature is continuous.

        Parameters
        ----------
        n_features : int
            Number of features.

        Returns
        -------
        grid : DiscreteGrid
            Of steps of zero.
        """
        return cls(np.zeros(n_features), np.zeros(n_features))

    @classmethod
    def detect(
        cls,
        X: NDArray[Any],
        is_integer: NDArray[np.bool_],
        is_bounded: NDArray[np.bool_],
        is_named: NDArray[np.bool_] | None = None,
    ) -> Self:
        """Find the discrete features of finite samples.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Samples in data units.
        is_integer : ndarray of bool of shape (n_features,)
            Whether the feature came in an integer or boolean type.
        is_bounded : ndarray of bool of shape (n_features,)
            Whether there are bounds: integers can reach them, so that such features are
            discrete however many values they have.
        is_named : ndarray of bool of shape (n_features,), optional
            Whether the user calls the feature discrete: it is, if there is any grid.

        Returns
        -------
        grid : DiscreteGrid
            With a step of zero in all other features.
        """
        is_always = is_integer & is_bounded
        if is_named is not None:
            is_always = is_always | is_named
        values = _distinct_values(X, is_integer, is_always)
        kinds = zip(values, is_integer, is_always, strict=True)
        found = [_detect(len(X), *column) for column in kinds]
        return cls(*np.array(found, dtype=float).reshape(-1, 2).T.copy())

    @classmethod
    def given(
        cls, X: NDArray[Any], steps: Floats
    ) -> tuple[Self, tuple[int, int] | None]:
        """Take steps as given, and the start from the first sample.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Finite.
        steps : ndarray of shape (n_features,)
            In data units; 0 for continuous features.

        Returns
        -------
        grid : DiscreteGrid
            With these steps.
        off : tuple of int or None
            Sample and feature of the first value that is not on the grid.
        """
        grid = cls(np.where(steps > 0, X[0].astype(np.float64), 0.0), steps)
        parts = [np.abs(rows).max(axis=0) for _, rows in chunks.in_float64(X)]
        tolerance = 1e-3 * steps + _ULPS * np.spacing(np.max(parts, axis=0))

        def is_off(rows: Floats) -> NDArray[np.bool_]:
            return (np.abs(rows - grid.round(rows)) > tolerance) & (steps > 0)

        return grid, chunks.first_true(is_off, X)

    def dequantize(self, X: NDArray[Any], rng: np.random.RandomState) -> NDArray[Any]:
        """Make discrete values uniform in their cells.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Samples in data units.
        rng : RandomState
            Source of randomness.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            The same array if no feature is discrete.
        """
        if not len(self.columns):
            return X
        dequantized = chunks.empty(X.shape, np.float64)
        for where, rows in chunks.in_float64(X):
            noise = cell_noise(len(rows), len(self.columns), rng)
            dequantized[where] = rows
            dequantized[where, self.columns] += noise * self.step[self.columns]
        return dequantized

    def average(
        self, log_density: Callable[[NDArray[Any]], Floats], X: NDArray[Any]
    ) -> Floats:
        """Average a density over the cells around samples.

        Parameters
        ----------
        log_density : callable
            Maps samples to their log-densities, of shape (..., n_samples).
        X : ndarray of shape (n_samples, n_features)
            Samples in data units.

        Returns
        -------
        averaged : ndarray of shape (..., n_samples)
            Logarithms of the averages, in nats. The points are the same in every cell,
            so that the value of a sample does not depend on the others.
        """
        if not len(self.columns):
            return log_density(X)
        return average(log_density, X, self.columns, self.step[self.columns])

    def round(
        self, X: Floats, lower: Floats | None = None, upper: Floats | None = None
    ) -> Floats:
        """Move values to the nearest of the grid that is within closed bounds.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            In float64.
        lower, upper : ndarray of shape (n_features,), default=None
            The bounds, infinite for none.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Continuous features are as they were.
        """
        X = X.copy()
        j = self.columns
        with np.errstate(over="ignore"):
            steps = np.rint((X[:, j] - self.start[j]) / self.step[j])
            if lower is not None and upper is not None:
                steps = np.clip(steps, *self._ends(lower, upper))
            rounded = self.start[j] + steps * self.step[j]
        X[:, j] = np.clip(rounded, -_LARGEST, _LARGEST)
        for i in j:
            # Three steps of 0.1 from 0 are 0.3 in the data, not 0.30000000000000004.
            decimals = self._decimals[i]
            if decimals is not None:
                # NumPy multiplies first: the largest numbers would become infinite.
                small = np.abs(X[:, i]) < _LARGEST / 10.0**_MOST_DECIMALS
                X[small, i] = np.round(X[small, i], decimals)
        X[:, self.constant] = self.start[self.constant]
        return X

    def widened(self, lower: Floats, upper: Floats) -> tuple[Floats, Floats]:
        """Move closed bounds of the values to the open bounds of their cells.

        Parameters
        ----------
        lower, upper : ndarray of shape (n_features,)
            In data units, infinite for none.

        Returns
        -------
        lower, upper : ndarray of shape (n_features,)
            Half a step beyond the outermost values, in discrete features.
        """
        lower, upper = lower.copy(), upper.copy()
        j = self.columns
        start, step = self.start[j], self.step[j]
        first, last = self._ends(lower, upper)
        lower[j], upper[j] = start + (first - 0.5) * step, start + (last + 0.5) * step
        return lower, upper

    def get_state(self) -> State:
        """Return what `from_state` needs.

        Returns
        -------
        state : dict
            Of "start" and "step".
        """
        return {"start": self.start, "step": self.step}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return the grid of a state.

        Parameters
        ----------
        state : dict
            As `get_state` returns it.

        Returns
        -------
        grid : DiscreteGrid
            As it was.

        Raises
        ------
        ValueError
            If the state is none.
        """
        start, step = state.get("start"), state.get("step")
        if not (
            state.keys() == {"start", "step"}
            and is_array(start, (None,))
            and is_array(step, start.shape, finite=False)
            and (step >= 0).all()
        ):
            raise ValueError("the state of the discrete grid is none")
        return cls(start, step)

    def _ends(self, lower: Floats, upper: Floats) -> tuple[Floats, Floats]:
        """Steps to the outermost values within bounds."""
        j = self.columns
        start, step = self.start[j], self.step[j]
        # With some slack for rounding. Some bounds are as good as infinitely far.
        with np.errstate(over="ignore"):
            first = np.ceil((lower[j] - start) / step - 1e-6)
            last = np.floor((upper[j] - start) / step + 1e-6)
        return first, last


def cell_noise(n: int, k: int, rng: np.random.RandomState) -> Floats:
    """Draw positions in cells, in widths from their centres.

    Parameters
    ----------
    n, k : int
        Numbers of samples and of features.
    rng : RandomState
        Source of randomness.

    Returns
    -------
    noise : ndarray of shape (n, k)
        Uniform, but never exactly at the border of a cell, which may be a bound.
    """
    return (rng.randint(2**30, size=(n, k)) + 0.5) / 2**30 - 0.5


def average(
    log_density: Callable[[NDArray[Any]], Floats],
    X: NDArray[Any],
    columns: NDArray[np.int_],
    widths: Floats,
) -> Floats:
    """Average a density over cells around samples.

    Parameters
    ----------
    log_density : callable
        Maps samples to their log-densities, of shape (..., n_samples).
    X : ndarray of shape (n_samples, n_features)
        Centres of the cells.
    columns : ndarray of int of shape (n_columns,)
        Features in which a cell is wide.
    widths : ndarray of shape (n_samples, n_columns) or (n_columns,)
        Of the cells; may be 0.

    Returns
    -------
    averaged : ndarray of shape (..., n_samples)
        Logarithms of the averages, in nats.
    """
    offsets, weight = cell_rule(len(columns))
    m, parts = len(weight), []
    widths = np.broadcast_to(widths, (len(X), len(columns)))
    # The points of a sample, their offsets, and what comes of them.
    row_bytes = 3 * 8 * m * X.shape[1]
    for where in chunks.batches(len(X), row_bytes, at_most=_SAMPLES_AT_ONCE // m):
        rows = np.repeat(X[where].astype(np.float64), m, axis=0)
        with np.errstate(over="ignore"):
            moved = widths[where][:, np.newaxis] * offsets
            rows[:, columns] += moved.reshape(-1, len(columns))
        np.clip(rows, -_LARGEST, _LARGEST, out=rows)
        values = log_density(rows)
        values = values.reshape(*values.shape[:-1], -1, m) + np.log(weight)
        parts.append(np.logaddexp.reduce(values, axis=-1))
    return np.concatenate(parts, axis=-1)


def cell_rule(k: int) -> tuple[Floats, Floats]:
    """Offsets of shape (n_points, k) in widths of a cell, and their weights."""
    if k == 1:
        nodes, weight = np.polynomial.legendre.leggauss(_POINTS_ONE)
        return nodes[:, np.newaxis] / 2, weight / 2
    # A shifted lattice rule: in every feature the points are the centres of m equal
    # parts of the cell, in another order. The orders are those of affine maps
    # modulo a prime, different ones in up to m (m - 1) features.
    m = _POINTS_SEVERAL
    j = np.arange(k)
    # Powers of a primitive root (2 is one of 61) reach every factor in turn.
    factor = np.array([pow(2, 7 * int(i), m) for i in j])
    shift = (23 * (j // (m - 1)) + 17 * j) % m
    order = (np.arange(m)[:, np.newaxis] * factor + shift) % m
    return (order + 0.5) / m - 0.5, np.full(m, 1 / m)


def _distinct_values(
    X: NDArray[Any], is_integer: NDArray[np.bool_], is_always: NDArray[np.bool_]
) -> list[Floats | None]:
    """Return the distinct values of each feature, or None where they make no grid.

    They are too many for that if hardly any repeats among the first that are looked at,
    or if there are more of them than a grid may have steps.
    """
    n, d = X.shape
    first = X[np.linspace(0, n - 1, min(n, _SCREENED_SAMPLES)).astype(int)]
    values = [
        None
        if not (integer or always) and len(np.unique(x)) > _SCREENED_SHARE * len(x)
        else np.empty(0)
        for x, integer, always in zip(first.T, is_integer, is_always, strict=True)
    ]
    for _, rows in chunks.in_float64(X):
        for j in range(d):
            found = values[j]
            if found is not None:
                found = np.union1d(found, rows[:, j])
                too_many = len(found) > _MOST_VALUES and not is_always[j]
                values[j] = None if too_many else found
    return values


def _detect(
    n: int, values: Floats | None, is_integer: bool, is_always: bool
) -> tuple[float, float]:
    """Return start and step of one feature; step 0 if it is continuous.

    From its distinct values, sorted, and the number n of samples.
    """
    continuous = 0.0, 0.0
    if values is None:
        return continuous
    if len(values) == 1:
        return values[0], np.inf
    tied = 2 * len(values) <= n
    if not (tied or is_integer or is_always):
        return continuous
    # Numbers that have been float32 carry its rounding errors; integers have none.
    largest = np.abs(values).max()
    single = largest < 1e38 and (values == np.float32(values)).all() and not is_integer
    error = _ULPS * np.spacing(np.float32(largest) if single else largest)
    step = _common_step(values, float(error))
    if step == 0 and single:
        # What float32 can hold may still be a grid to float64's precision.
        step = _common_step(values, float(_ULPS * np.spacing(largest)))
    width = values[-1] - values[0]
    narrow = tied or width <= _INTEGER_STEPS * step
    fine = not is_always and (step < _FINEST * width or not narrow)
    start = float(str(np.float32(values[0]))) if single else values[0]
    return continuous if step == 0 or fine else (start, step)


def _common_step(values: Floats, error: float) -> float:
    """Return the largest step of a grid with all sorted values, 0 if there is none.

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


def _decimals(start: float, step: float) -> int | None:
    """Return the number of decimals that a grid needs, None if it is too large."""
    if 0 < step < np.inf:
        for decimals in range(_MOST_DECIMALS + 1):
            if round(start, decimals) == start and round(step, decimals) == step:
                return decimals
    return None
