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


class Support:
    """The discrete grid and the bounds of the features.

    Parameters
    ----------
    grid : DiscreteGrid
        Of the discrete features.
    lower, upper : ndarray of shape (n_features,)
        In data units, infinite for none. Only values of discrete features reach them.

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

    def __init__(self, grid: DiscreteGrid, lower: Floats, upper: Floats) -> None:
        self.grid, self.lower, self.upper = grid, lower, upper
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
        discrete : "auto", array-like, dict or None
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
        lower, upper = _parse_bounds(bounds, table, d, owner)
        bounded = np.isfinite(lower) | np.isfinite(upper)
        if discrete is None:
            grid = DiscreteGrid.none(d)
        elif isinstance(discrete, str):
            grid = DiscreteGrid.detect(X, table.is_integer, bounded)
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
        return cls(grid, lower, upper)

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
            raise ValueError(
                f"{name} has values outside of the bounds: {float(X[i, j]):.15g} in "
                f"row {i} of {table.label(j)}, whose bounds are ({self.lower[j]:g}, "
                f"{self.upper[j]:g})"
                f"{'' if discrete else ', which no value of it may reach'}. Correct "
                "the value, drop the row or widen the bounds."
            )

    def get_state(self) -> State:
        """Return what `from_state` needs.

        Returns
        -------
        state : dict
            Of "grid", "lower" and "upper".
        """
        return {"grid": self.grid, "lower": self.lower, "upper": self.upper}

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
        if state.keys() != {"grid", "lower", "upper"} or not isinstance(
            state["grid"], DiscreteGrid
        ):
            raise ValueError("the state of the support is incomplete")
        lower, upper, shape = state["lower"], state["upper"], state["grid"].start.shape
        if not all(is_array(a, shape, finite=False) for a in (lower, upper)):
            raise ValueError("the bounds are not those of the features")
        if not (lower < upper).all():
            raise ValueError("the lower bounds are not below the upper ones")
        with np.errstate(over="ignore", invalid="ignore"):
            return cls(state["grid"], lower, upper)


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


def _by_column(
    value: Any, parameter: str, table: Table, d: int, owner: str
) -> Iterator[tuple[int, Any]]:
    """Yield pairs of a column's number and what a parameter says of it."""
    if value is None:
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            named = table.names is not None and key in table.names
            j = table.names.index(key) if named else key
            is_number = isinstance(j, (int, np.integer)) and not isinstance(j, bool)
            if not (is_number and 0 <= j < d):
                raise ValueError(
                    f"The {parameter!r} parameter of {owner} names {key!r}, which is "
                    "no column of X."
                )
            yield int(j), item
        return
    items = list(value)
    if len(items) != d:
        raise ValueError(
            f"The {parameter!r} parameter of {owner} must have an item for every one "
            f"of the {d} columns, or be a dict of some. Got {len(items)} items instead."
        )
    yield from enumerate(items)
