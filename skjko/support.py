"""Where the values of a table can be: bounds, discrete features and atoms."""

# SPDX-License-Identifier: BSD-3-Clause

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skjko.data import chunks
from skjko.data.frames import Table
from skjko.per_feature import (
    are_names,
    check_free,
    named_grid,
    parse_bounds,
    parse_steps,
)
from skjko.transforms.atoms import Atoms
from skjko.transforms.base import Transform, is_array
from skjko.transforms.bounds import Bounds
from skjko.transforms.discrete import DiscreteGrid, average, cell_noise
from skjko.transforms.normal_cells import NormalCells
from skjko.typing import Floats, State

# Samples have no other values of discrete features than those seen, if they are so few.
_MOST_SEEN = 30


class Support:
    """The discrete grid, the atoms and the bounds of the features.

    Parameters
    ----------
    grid : DiscreteGrid
        Of the discrete features.
    lower, upper : ndarray of shape (n_features,)
        In data units, infinite for none. Only values of discrete features reach them.
    seen : dict of int to ndarray, default=None
        The values of discrete features that have few of them: samples have no others.
    atoms : Atoms, default=None
        Point masses of continuous features. None is for none.
    nominal : array-like of int, default=()
        Numbers of the discrete features whose values have no order, or are only two.

    Attributes
    ----------
    is_open : ndarray of bool of shape (n_features,)
        Whether no value reaches the bounds: not where they are discrete or atoms.

    bounds : Bounds
        Of dequantized, opened values, fitted.
    cells : NormalCells
        Of the values of nominal features, fitted.

    Examples
    --------
    >>> import numpy as np
    >>> from skjko.support import Support
    >>> from skjko.transforms.discrete import DiscreteGrid
    >>> lower, upper = np.array([0.0, -np.inf]), np.array([np.inf, np.inf])
    >>> Support(DiscreteGrid.none(2), lower, upper)
    Support(n_features=2, n_discrete=0, n_bounded=1, n_atoms=0)
    """

    def __init__(
        self,
        grid: DiscreteGrid,
        lower: Floats,
        upper: Floats,
        seen: dict[int, Floats] | None = None,
        atoms: Atoms | None = None,
        nominal: ArrayLike = (),
    ) -> None:
        self.grid, self.lower, self.upper = grid, lower, upper
        self.seen = {} if seen is None else seen
        self.atoms = Atoms.none(len(lower)) if atoms is None else atoms
        j = self.atoms.columns
        at_bound = np.isin(self.atoms.values, np.r_[lower[j], upper[j]])
        self.is_open = grid.step == 0
        self.is_open[j[at_bound]] = False
        low, high = grid.widened(lower, upper)
        self.bounds = Bounds(low, self.atoms.widened(high)).fit(None)
        self.nominal = np.asarray(nominal, dtype=np.int64)
        cells = np.zeros((2, len(lower)))
        cells[:, self.nominal] = grid.start[self.nominal], grid.step[self.nominal]
        self.cells = NormalCells(*cells).fit(None)

    def __repr__(self) -> str:
        """Return the numbers of discrete and bounded features."""
        n_discrete = len(self.grid.columns)
        n_bounded = np.count_nonzero(np.isfinite(self.lower) | np.isfinite(self.upper))
        return (
            f"Support(n_features={len(self.lower)}, n_discrete={n_discrete}, "
            f"n_bounded={n_bounded}, n_atoms={len(self.atoms.values)})"
        )

    @property
    def maps(self) -> list[Transform]:
        """The maps of opened positions that stand in front of all others."""
        maps: list[Transform] = [self.atoms, self.cells, self.bounds]
        return [one for one in maps if not one.is_identity_]

    @classmethod
    def learn(
        cls,
        X: NDArray[Any],
        table: Table,
        bounds: Any,
        discrete: Any,
        owner: str,
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
            check_free(value, name, table, owner)
        lower, upper = parse_bounds(bounds, table, d, owner)
        bounded = np.isfinite(lower) | np.isfinite(upper)
        atoms = None
        if discrete is None:
            grid = DiscreteGrid.none(d)
        elif isinstance(discrete, str):
            grid = DiscreteGrid.detect(X, table.is_integer, bounded)
            is_continuous = grid.step == 0
            is_continuous[list(coded)] = False
            atoms = Atoms.detect(X, is_continuous)
        elif are_names(discrete):
            grid = named_grid(discrete, X, table, owner)
        else:
            steps = parse_steps(discrete, table, d, owner)
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
        seen = _seen(X, grid)
        two = [j for j, values in seen.items() if len(values) == 2]
        return cls(grid, lower, upper, seen, atoms, np.union1d(two, list(coded)))

    def dequantize(self, X: NDArray[Any], rng: np.random.RandomState) -> NDArray[Any]:
        """Make discrete values and atoms uniform in their cells.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            In data units.
        rng : RandomState
            Source of randomness.

        Returns
        -------
        U : ndarray of shape (n_samples, n_features)
            Opened positions; the same array if there are neither.
        """
        X = self.grid.dequantize(X, rng)
        if self.atoms.is_identity_:
            return X
        opened = chunks.empty(X.shape, np.float64)
        for where, rows in chunks.in_float64(X):
            noise = cell_noise(len(rows), len(self.atoms.features), rng)
            opened[where] = self.atoms.open(rows, noise)
        return opened

    def is_tied(self, X: NDArray[Any]) -> NDArray[np.bool_]:
        """Return whether all continuous values of a sample are atoms.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            In data units.

        Returns
        -------
        is_tied : ndarray of bool of shape (n_samples,)
            Samples that are equal then need not be copies.
        """
        if len(self.atoms.features) < np.count_nonzero(self.grid.step == 0):
            return np.zeros(len(X), dtype=bool)
        return np.all(self.atoms.cells(X) > 0, axis=1)

    def average(
        self, log_density: Callable[[NDArray[Any]], Floats], X: NDArray[Any]
    ) -> Floats:
        """Average a density of opened positions over the cells around samples.

        Parameters
        ----------
        log_density : callable
            Maps opened positions to their log-densities, of shape (..., n_samples).
        X : ndarray of shape (n_samples, n_features)
            In data units.

        Returns
        -------
        averaged : ndarray of shape (..., n_samples)
            In nats. The value of a sample does not depend on the others.
        """
        if self.atoms.is_identity_:
            return self.grid.average(log_density, X)
        row_bytes = 8 * 6 * X.shape[1]
        parts = [
            self._average_opened(log_density, chunks.as_float64(X[where]))
            for where in chunks.batches(len(X), row_bytes)
        ]
        return np.concatenate(parts, axis=-1)

    def _average_opened(
        self, log_density: Callable[[NDArray[Any]], Floats], X: Floats
    ) -> Floats:
        U, columns, widths = self.cells_of(X)
        is_atom = widths[:, len(self.grid.columns) :].any(axis=1)
        averaged = self.grid.average(log_density, U[~is_atom])
        scores = np.empty((*averaged.shape[:-1], len(X)))
        scores[..., ~is_atom] = averaged
        if is_atom.any():
            part = U[is_atom], columns, widths[is_atom]
            scores[..., is_atom] = average(log_density, *part)
        return scores

    def cells_of(self, X: Floats) -> tuple[Floats, NDArray[np.int_], Floats]:
        """Return the cells that samples are in.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            In data units.

        Returns
        -------
        U : ndarray of shape (n_samples, n_features)
            Opened positions of the centres.
        columns : ndarray of int of shape (n_columns,)
            Discrete features, and those with atoms.
        widths : ndarray of shape (n_samples, n_columns)
            Of the cells, in data units; 0 where a value is no atom.
        """
        columns = np.r_[self.grid.columns, self.atoms.features]
        steps = np.tile(self.grid.step[self.grid.columns], (len(X), 1))
        return self.atoms.open(X), columns, np.hstack([steps, self.atoms.cells(X)])

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
        atoms = self.atoms.among(len(grid.start))
        return Support(grid, *bounds, self.seen, atoms, self.nominal)

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
        outside = chunks.first_true(self._outside, X)
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

    def _outside(self, X: Floats) -> NDArray[np.bool_]:
        return self.bounds.outside(self.atoms.open(X)) & ~np.isnan(X)

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
        outside = self._outside(chunks.as_float64(X[rows]))
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
            Of "grid", "lower", "upper", "seen", "atoms" and "nominal".
        """
        seen = {str(j): values for j, values in self.seen.items()}
        parts = {"grid": self.grid, "lower": self.lower, "upper": self.upper}
        return {**parts, "seen": seen, "atoms": self.atoms, "nominal": self.nominal}

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
        names = {"grid", "lower", "upper", "seen", "atoms", "nominal"}
        if (
            state.keys() != names
            or not isinstance(state["grid"], DiscreteGrid)
            or not isinstance(state["atoms"], Atoms)
        ):
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
        nominal = state["nominal"]
        if (
            not is_array(nominal, (None,), kind="i")
            or not np.isin(nominal, columns).all()
        ):
            raise ValueError("the nominal features are not discrete")
        lower, upper, shape = state["lower"], state["upper"], state["grid"].start.shape
        if not all(is_array(a, shape, finite=False) for a in (lower, upper)):
            raise ValueError("the bounds are not those of the features")
        if not (lower < upper).all():
            raise ValueError("the lower bounds are not below the upper ones")
        with np.errstate(over="ignore", invalid="ignore"):
            return cls(state["grid"], lower, upper, seen, state["atoms"], nominal)


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
