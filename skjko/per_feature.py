"""What the parameters `bounds` and `discrete` say of single features."""

# SPDX-License-Identifier: BSD-3-Clause

from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skjko.data.frames import Table
from skjko.transforms.discrete import DiscreteGrid
from skjko.typing import Floats


def check_free(value: Any, parameter: str, table: Table, owner: str) -> None:
    """Raise a ValueError if a parameter speaks of a column of categories."""
    if not table.categories or value is None or isinstance(value, str):
        return
    if isinstance(value, Mapping) or are_names(value):
        columns = [_column(key, parameter, table, owner) for key in value]
    else:
        columns = [j for j, item in enumerate(value) if item is not None]
    for j in columns:
        if j in table.categories.columns:
            raise ValueError(
                f"The {parameter!r} parameter of {owner} names {table.label(j)}, which "
                "holds categories: they need neither bounds nor steps. Leave it out."
            )


def parse_bounds(
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


def parse_steps(discrete: Any, table: Table, d: int, owner: str) -> Floats:
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


def are_names(discrete: Any) -> bool:
    """Whether a parameter is a list of names alone."""
    return (
        not isinstance(discrete, Mapping)
        and len(discrete) > 0
        and all(isinstance(item, str) for item in discrete)
    )


def named_grid(names: Any, X: NDArray[Any], table: Table, owner: str) -> DiscreteGrid:
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
