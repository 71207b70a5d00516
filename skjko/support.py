"""Where the values of a table can be: what is declared of it, and what it shows."""

# SPDX-License-Identifier: BSD-3-Clause

from collections.abc import Mapping
from numbers import Real

import numpy as np

from skjko import chunks
from skjko.columns import Bounds
from skjko.lattice import Lattice


class Support:
    """The lattice and the bounds of the columns.

    Parameters
    ----------
    lattice : Lattice
        Of the discrete columns.
    lower, upper : ndarray of shape (n_features,)
        In data units, infinite for none. The values of discrete columns can reach them.

    Attributes
    ----------
    bounds : Bounds or None
        Of values that are spread over their cells; None if no column has any.
    """

    def __init__(self, lattice, lower, upper):
        self.lattice, self.lower, self.upper = lattice, lower, upper
        bounded = np.isfinite(lower) | np.isfinite(upper)
        self.bounds = Bounds(*lattice.widened(lower, upper)) if bounded.any() else None

    @classmethod
    def learn(cls, X, table, bounds, discrete, owner):
        """Work out the support from parameters and rows.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Finite rows.
        table : Table
            Their form.
        bounds, discrete
            Parameters of the estimator.
        owner : str
            Its name.

        Raises
        ------
        ValueError
            If a parameter cannot be understood, or the rows contradict it.
        """
        d = X.shape[1]
        lower, upper = _parse_bounds(bounds, table, d, owner)
        bounded = np.isfinite(lower) | np.isfinite(upper)
        if discrete is None:
            lattice = Lattice.none(d)
        elif isinstance(discrete, str):
            lattice = Lattice.detect(X, table.is_integer, bounded)
        else:
            steps = _parse_steps(discrete, table, d, owner)
            lattice, off = Lattice.given(X, steps)
            if off is not None:
                i, j = off
                raise ValueError(
                    f"The 'discrete' parameter of {owner} says that values of "
                    f"{table.label(j)} are {steps[j]:g} apart, but row {i} has "
                    f"{float(X[i, j]):.15g} and row 0 has {float(X[0, j]):.15g}."
                )
        return cls(lattice, lower, upper)

    def check(self, X, table, name="X"):
        """Raise a ValueError that names the first value outside of the bounds."""
        if self.bounds is None:
            return
        outside = chunks.first_true(self.bounds.outside, X)
        if outside is not None:
            i, j = outside
            discrete = self.lattice.step[j] > 0
            raise ValueError(
                f"{name} has values outside of the bounds: {float(X[i, j]):.15g} in "
                f"row {i} of {table.label(j)}, whose bounds are ({self.lower[j]:g}, "
                f"{self.upper[j]:g})"
                f"{'' if discrete else ', which no value of it may reach'}. Correct "
                "the value, drop the row or widen the bounds."
            )


def _parse_bounds(bounds, table, d, owner):
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


def _parse_steps(discrete, table, d, owner):
    """Return an array of steps, 0 for continuous columns."""
    steps = np.zeros(d)
    for j, step in _by_column(discrete, "discrete", table, d, owner):
        if step is None:
            continue
        if not (isinstance(step, Real) and 0 <= step < np.inf):
            raise ValueError(
                f"The 'discrete' parameter of {owner} must have for every column None "
                "or the positive distance between its values. Got "
                f"{step!r} for {table.label(j)} instead."
            )
        steps[j] = step
    return steps


def _by_column(value, parameter, table, d, owner):
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
