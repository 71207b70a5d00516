"""Where the values of a table can be: its bounds and its discrete features."""

# SPDX-License-Identifier: BSD-3-Clause

from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from skjko.data import chunks
from skjko.data.frames import Table
from skjko.transforms.base import is_array
from skjko.transforms.bounds import Bounds
from skjko.transforms.discrete import DiscreteGrid
from skjko.typing import Floats, State

# Samples have no other values of discrete features than those seen, if they are so few.
_MOST_SEEN = 30


class Support:
    """The discrete grid and the bounds of the features.

    Parameters
    ----------
    grid : DiscreteGrid
        Of the discrete features.
    lower, upper : ndarray of shape (n_features,)
        In data units, infinite for none. Only values of discrete features reach them.
    seen : dict of int to ndarray, default=None
        The values of discrete features that have few of them: samples have no others.

    Attributes
    ----------
    bounds : Bounds
        Of dequantized values, fitted.

    Examples
    --------
    >>> import numpy as np
    >>> from skjko.support import Support
    >>> from skjko.transforms.discrete import DiscreteGrid
    >>> lower, upper = np.array([0.0, -np.inf]), np.array([np.inf, np.inf])
    >>> Support(DiscreteGrid.none(2), lower, upper)
    Support(n_features=2, n_discrete=0, n_bounded=1)
    """

    def __init__(
        self,
        grid: DiscreteGrid,
        lower: Floats,
        upper: Floats,
        seen: dict[int, Floats] | None = None,
    ) -> None:
        self.grid, self.lower, self.upper = grid, lower, upper
        self.seen = {} if seen is None else seen
        self.bounds = Bounds(*grid.widened(lower, upper)).fit(None)

    def __repr__(self) -> str:
        """Return the numbers of discrete and bounded features."""
        n_discrete = len(self.grid.columns)
        n_bounded = np.count_nonzero(np.isfinite(self.lower) | np.isfinite(self.upper))
        return (
            f"Support(n_features={len(self.lower)}, n_discrete={n_discrete}, "
            f"n_bounded={n_bounded})"
        )

    @classmethod
    def learn(
        cls, X: NDArray[Any], table: Table, bounds: Any, discrete: Any, owner: str
    ) -> Self:
        """Determine the support from parameters and samples.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Finite.
        table : Table
            The form of the data.
        bounds : array-like, dict or None
            Parameter of the estimator.
        discrete : "auto", array-like, dict, list of str or None
            Parameter of the estimator.
        owner : str
            Its name.

        Returns
        -------
        support : Support
            That all samples are in, unless bounds say otherwise; see `check`.

        Raises
        ------
        ValueError
            If a parameter cannot be understood, or the samples contradict it.
        """
        d = X.shape[1]
        coded = table.categories.columns
        for name, value in (("bounds", bounds), ("discrete", discrete)):
            _check_free(value, name, table, owner)
        lower, upper = _parse_bounds(bounds, table, d, owner)
        bounded = np.isfinite(lower) | np.isfinite(upper)
        if discrete is None:
            grid = DiscreteGrid.none(d)
        elif isinstance(discrete, str):
            grid = DiscreteGrid.detect(X, table.is_integer, bounded)
        elif _are_names(discrete):
            grid = _named_grid(discrete, X, table, owner)
        else:
            steps = _parse_steps(discrete, table, d, owner)
            grid, off = DiscreteGrid.given(X, steps)
            if off is not None:
                i, j = off
                raise ValueError(
                    f"The 'discrete' parameter of {owner} says that values of "
                    f"{table.label(j)} are {steps[j]:g} apart, but row {i} has "
                    f"{float(X[i, j]):.15g} and row 0 has {float(X[0, j]):.15g}."
                )
        start, step = grid.start.copy(), grid.step.copy()
        for j, column in coded.items():
            start[j], step[j] = 0.0, 1.0
            lower[j], upper[j] = 0.0, len(column.values) - 1
        if coded:
            grid = DiscreteGrid(start, step)
        return cls(grid, lower, upper, _seen(X, grid))

    def with_context(self, n_context: int) -> "Support":
        """Return the support of samples with more columns, of a condition.

        Parameters
        ----------
        n_context : int
            Number of columns, which have neither bounds nor steps.

        Returns
        -------
        support : Support
            Of all columns.
        """
        none, infinite = np.zeros(n_context), np.full(n_context, np.inf)
        grid = DiscreteGrid(np.r_[self.grid.start, none], np.r_[self.grid.step, none])
        bounds = np.r_[self.lower, -infinite], np.r_[self.upper, infinite]
        return Support(grid, *bounds, self.seen)

    def round(self, X: Floats, lower: Floats, upper: Floats) -> Floats:
        """Move values to the nearest that samples can have.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            In data units.
        lower, upper : ndarray of shape (n_features,)
            Closed bounds of discrete features.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Continuous features are as they were.
        """
        X = self.grid.round(X, lower, upper)
        for j, values in self.seen.items():
            between = values[:-1] / 2 + values[1:] / 2
            X[:, j] = values[np.searchsorted(between, X[:, j])]
        return X

    def check(self, X: NDArray[Any], table: Table, name: str = "X") -> None:
        """Raise a ValueError that names the first value outside of the bounds.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Samples in data units.
        table : Table
            Names of the features.
        name : str, default="X"
            Of the samples, in the message.
        """
        if self.bounds.is_identity_:
            return
        outside = chunks.first_true(self.bounds.outside, X)
        if outside is not None:
            i, j = outside
            discrete = self.grid.step[j] > 0
            if j in table.categories.columns:
                raise ValueError(
                    f"{name} has {table.value(j, X[i, j])} in row {i} of "
                    f"{table.label(j)}. Drop the row, or fit on data that have it."
                )
            raise ValueError(
                f"{name} has values outside of the bounds: {float(X[i, j]):.15g} in "
                f"row {i} of {table.label(j)}, whose bounds are ({self.lower[j]:g}, "
                f"{self.upper[j]:g})"
                f"{'' if discrete else ', which no value of it may reach'}. Correct "
                "the value, drop the row or widen the bounds."
            )

    def outside_message(
        self, X: NDArray[Any], scores: Floats, table: Table
    ) -> str | None:
        """Return what to say of samples outside of the bounds, None if there are none.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Samples in data units.
        scores : ndarray of shape (n_samples,)
            Their log-densities: only those of -inf are looked at.
        table : Table
            Names of the features.

        Returns
        -------
        message : str or None
            With their number, and the first one's row and column.
        """
        if self.bounds.is_identity_:
            return None
        rows = np.flatnonzero(np.isneginf(scores))
        outside = self.bounds.outside(chunks.as_float64(X[rows]))
        rows, outside = rows[outside.any(axis=1)], outside[outside.any(axis=1)]
        if not len(rows):
            return None
        i, j = rows[0], int(outside[0].argmax())
        bounds = f", whose bounds are ({self.lower[j]:g}, {self.upper[j]:g})"
        remedy = ", or fit with wider bounds"
        if j in table.categories.columns:
            bounds = remedy = ""
        return (
            f"{len(rows)} of {len(X)} samples are outside of the bounds, where the "
            f"log-density is -inf. The first is row {i}, with "
            f"{table.value(j, X[i, j])} in {table.label(j)}{bounds}. Correct or drop "
            f"such rows{remedy}."
        )

    def get_state(self) -> State:
        """Return what `from_state` needs.

        Returns
        -------
        state : dict
            Of "grid", "lower", "upper" and "seen".
        """
        seen = {str(j): values for j, values in self.seen.items()}
        parts = {"grid": self.grid, "lower": self.lower, "upper": self.upper}
        return {**parts, "seen": seen}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return the support of a state.

        Parameters
        ----------
        state : dict
            As `get_state` returns it.

        Returns
        -------
        support : Support
            As it was.

        Raises
        ------
        ValueError
            If the state is none.
        """
        names = {"grid", "lower", "upper", "seen"}
        if state.keys() != names or not isinstance(state["grid"], DiscreteGrid):
            raise ValueError("the state of the support is incomplete")
        columns, seen = state["grid"].columns, {}
        for j, values in state["seen"].items():
            seen[int(j)] = values
            if not (
                int(j) in columns
                and is_array(values, (None,))
                and len(values) > 0
                and (values[1:] > values[:-1]).all()
            ):
                raise ValueError("the values seen are none of a discrete feature")
        lower, upper, shape = state["lower"], state["upper"], state["grid"].start.shape
        if not all(is_array(a, shape, finite=False) for a in (lower, upper)):
            raise ValueError("the bounds are not those of the features")
        if not (lower < upper).all():
            raise ValueError("the lower bounds are not below the upper ones")
        with np.errstate(over="ignore", invalid="ignore"):
            return cls(state["grid"], lower, upper, seen)


def _seen(X: NDArray[Any], grid: DiscreteGrid) -> dict[int, Floats]:
    """Return the values of discrete features, of those that have few."""
    values = {int(j): np.empty(0) for j in grid.columns}
    for _, part in chunks.in_float64(X) if values else ():
        rows = grid.round(part)
        for j in list(values):
            values[j] = np.union1d(values[j], rows[:, j])
            if len(values[j]) > _MOST_SEEN:
                del values[j]
    return values


def _check_free(value: Any, parameter: str, table: Table, owner: str) -> None:
    """Raise a ValueError if a parameter speaks of a column of categories."""
    if not table.categories or value is None or isinstance(value, str):
        return
    if isinstance(value, Mapping) or _are_names(value):
        columns = [_column(key, parameter, table, owner) for key in value]
    else:
        columns = [j for j, item in enumerate(value) if item is not None]
    for j in columns:
        if j in table.categories.columns:
            raise ValueError(
                f"The {parameter!r} parameter of {owner} names {table.label(j)}, which "
                "holds categories: they need neither bounds nor steps. Leave it out."
            )


def _parse_bounds(
    bounds: Any, table: Table, d: int, owner: str
) -> tuple[Floats, Floats]:
    """Return arrays of lower and upper bounds."""
    lower, upper = np.full(d, -np.inf), np.full(d, np.inf)
    for j, pair in _by_column(bounds, "bounds", table, d, owner):
        if pair is None:
            continue
        try:
            low, high = pair
            low = -np.inf if low is None else float(low)
            high = np.inf if high is None else float(high)
            finite = [b for b in (low, high) if np.isfinite(b)]
            # Beyond that, distances from bounds would overflow.
            good = low < high and all(abs(b) < 1e300 for b in finite)
        except (TypeError, ValueError):
            good = False
        if not good:
            raise ValueError(
                f"The 'bounds' parameter of {owner} must have for every column None or "
                "a pair (lower, upper) with lower < upper, either of which may be "
                f"None. Got {pair!r} for {table.label(j)} instead."
            )
        lower[j], upper[j] = low, high
    return lower, upper


def _parse_steps(discrete: Any, table: Table, d: int, owner: str) -> Floats:
    """Return an array of steps, 0 for continuous features."""
    steps = np.zeros(d)
    for j, step in _by_column(discrete, "discrete", table, d, owner):
        if step is None:
            continue
        if not (isinstance(step, Real) and 0 <= float(step) < np.inf):
            raise ValueError(
                f"The 'discrete' parameter of {owner} must have for every column None "
                "or the positive distance between its values. Got "
                f"{step!r} for {table.label(j)} instead."
            )
        steps[j] = step
    return steps


def _are_names(discrete: Any) -> bool:
    """Whether a parameter is a list of names alone."""
    return (
        not isinstance(discrete, Mapping)
        and len(discrete) > 0
        and all(isinstance(item, str) for item in discrete)
    )


def _named_grid(names: Any, X: NDArray[Any], table: Table, owner: str) -> DiscreteGrid:
    """Return the grid where the features of these names are discrete."""
    named = np.zeros(X.shape[1], dtype=bool)
    for name in names:
        named[_column(name, "discrete", table, owner)] = True
    columns = np.flatnonzero(named)
    every = np.ones(len(columns), dtype=bool)
    found = DiscreteGrid.detect(
        X[:, columns], table.is_integer[columns], every, is_named=every
    )
    start, step = np.zeros((2, X.shape[1]))
    start[columns], step[columns] = found.start, found.step
    if not found.step.all():
        j = int(columns[found.step == 0][0])
        raise ValueError(
            f"The 'discrete' parameter of {owner} names {table.label(j)}, whose values "
            "are on no grid. Give the distance between them, as by "
            f"discrete={{{table.names[j]!r}: 0.01}}, or leave the column out."
        )
    return DiscreteGrid(start, step)


def _column(key: Any, parameter: str, table: Table, owner: str) -> int:
    """Return the number of the column that a parameter names."""
    try:
        return table.find(key)
    except ValueError as error:
        raise ValueError(
            f"The {parameter!r} parameter of {owner} names {error}."
        ) from None


def _by_column(
    value: Any, parameter: str, table: Table, d: int, owner: str
) -> Iterator[tuple[int, Any]]:
    """Yield pairs of a column's number and what a parameter says of it."""
    if value is None:
        return
    if isinstance(value, Mapping):
        keys: dict[int, Any] = {}
        for key, item in value.items():
            j = _column(key, parameter, table, owner)
            if j in keys:
                raise ValueError(
                    f"The {parameter!r} parameter of {owner} has two items for "
                    f"{table.label(j)}: {keys[j]!r} and {key!r}. Leave one of them out."
                )
            keys[j] = key
            yield j, item
        return
    items = list(value)
    if len(items) != d:
        raise ValueError(
            f"The {parameter!r} parameter of {owner} must have an item for every one "
            f"of the {d} columns, or be a dict of some. Got {len(items)} items instead."
        )
    yield from enumerate(items)
