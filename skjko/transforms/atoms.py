"""Single values of continuous features that have a probability of their own."""

# SPDX-License-Identifier: BSD-3-Clause

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from skjko.data import repeats
from skjko.transforms.base import Elementwise, is_array
from skjko.typing import Floats

# An atom has at least this share of the samples, and is in so many times as many
# different samples as the median value.
_LEAST_SHARE, _LEAST_RATIO = 0.05, 10
# Samples in which atoms are looked for.
_N_SAMPLES = 10_000
# Share of the other values that the range leaves out at both ends, as wide as a cell.
_TAIL = 0.05


class Atoms(Elementwise):
    """Point masses of continuous features, opened to cells of some width.

    A zero of rainfall or a cap of an income repeats, though the other values of its
    feature do not: there the distribution has no density, but a probability. The line
    is cut at every such atom, and a cell is put in, where training sees the atom
    uniformly distributed. Positions are opened by `open` and closed by `close`; as a
    transform of opened positions this is the identity, whose log-determinant measures
    cells in units of their widths. The density averaged over a cell, which scores are,
    is then the probability of the atom.

    Parameters
    ----------
    columns : ndarray of int of shape (n_atoms,)
        Number of the feature of every atom, ascending.
    values : ndarray of shape (n_atoms,)
        In data units, ascending in every feature.
    widths : ndarray of shape (n_atoms,)
        Of the cells, in data units.
    shares : ndarray of shape (n_atoms,)
        Of the samples.
    n_features : int
        Number of features.
    is_end : ndarray of int of shape (n_atoms,)
        -1 where no value is below the atom, 1 where none is above, else 0.

    Attributes
    ----------
    n_features_in_ : int
        Number of features.

    Examples
    --------
    >>> import numpy as np
    >>> from skjko.transforms.atoms import Atoms
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((1000, 1)).clip(min=0)
    >>> atoms = Atoms.detect(X, np.array([True]))
    >>> atoms
    Atoms(columns=array([0]), n_features=1, values=array([0.]))
    >>> np.allclose(atoms.close(atoms.open(X)), X)
    True
    """

    def __init__(
        self,
        columns: NDArray[np.int_],
        values: Floats,
        widths: Floats,
        shares: Floats,
        n_features: int,
        is_end: NDArray[np.int_],
    ) -> None:
        self.columns, self.values, self.widths = columns, values, widths
        self.shares, self.n_features, self.is_end = shares, n_features, is_end

    def __repr__(self) -> str:
        """Return where the atoms are."""
        return (
            f"Atoms(columns={self.columns!r}, n_features={self.n_features}, "
            f"values={self.values!r})"
        )

    @classmethod
    def none(cls, n_features: int) -> Self:
        """Return the atoms of a table without any.

        Parameters
        ----------
        n_features : int
            Number of features.

        Returns
        -------
        atoms : Atoms
            Fitted.
        """
        return cls._of([], n_features)

    def among(self, n_features: int) -> "Atoms":
        """Return the atoms of a table with more features, which have none.

        Parameters
        ----------
        n_features : int
            Number of all features; these are the first of them.

        Returns
        -------
        atoms : Atoms
            Fitted.
        """
        return clone(self).set_params(n_features=n_features).fit(None)

    @classmethod
    def _of(cls, found: list[tuple[Any, ...]], d: int) -> Self:
        columns, values, widths, shares, is_end = np.array(found).reshape(-1, 5).T
        atoms = cls(
            columns.astype(int),
            values.astype(float),
            widths.astype(float),
            shares.astype(float),
            d,
            is_end.astype(int),
        )
        return atoms.fit(None)

    @classmethod
    def detect(cls, X: NDArray[Any], is_continuous: NDArray[np.bool_]) -> Self:
        """Find the values of continuous features that repeat though others do not.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Finite samples in data units.
        is_continuous : ndarray of bool of shape (n_features,)
            Other features have no atoms.

        Returns
        -------
        atoms : Atoms
            Fitted. Values of rows that repeat as a whole are none: they are copies.
        """
        n, d = X.shape
        rows = X[np.linspace(0, n - 1, min(n, _N_SAMPLES)).astype(int)]
        columns = np.flatnonzero(is_continuous).tolist()
        different = np.arange(len(rows))
        if len(columns) > 1:
            different = np.unique(repeats.hashes(rows), return_index=True)[1]
        found = []
        for j in columns:
            values, number = np.unique(rows[:, j].astype(float), return_inverse=True)
            counts, once = np.bincount(number), np.bincount(number[different])
            is_atom = counts >= _LEAST_SHARE * len(rows)
            is_atom &= once >= _LEAST_RATIO * np.median(once)
            others = np.repeat(values[~is_atom], counts[~is_atom])
            if not (is_atom.any() and len(others)):
                continue
            low, high = np.quantile(others, (_TAIL, 1 - _TAIL))
            width = high - low or np.ptp(values)
            lowest, highest = X[:, j].min(), X[:, j].max()
            for value, count in zip(values[is_atom], counts[is_atom], strict=True):
                end = int(value == highest) - int(value == lowest)
                found.append((j, value, width, count / len(rows), end))
        return cls._of(found, d)

    def fit(self, X: Floats | None, sample_weight: Floats | None = None) -> Self:
        """Take note of the features; nothing depends on the samples."""
        self.n_features_in_ = self.n_features
        self._complete()
        return self

    def _complete(self) -> None:
        columns, d = self.columns, self.n_features_in_
        arrays = (self.values, self.widths, self.shares)
        if not (
            is_array(columns, (None,), "i")
            and is_array(self.is_end, columns.shape, "i")
            and all(is_array(a, columns.shape) for a in arrays)
            and d == self.n_features
            and ((columns >= 0) & (columns < d)).all()
            and (self.widths > 0).all()
        ):
            raise ValueError("the atoms are not those of the features")
        same = np.diff(columns) == 0
        if not ((np.diff(columns) > 0) | same & (np.diff(self.values) > 0)).all():
            raise ValueError("the atoms are in no order")
        self.is_identity_ = not len(columns)
        self.features = np.unique(columns)

    def _by_feature(self) -> Iterator[tuple[int, Floats, Floats, NDArray[np.int_]]]:
        """Yield features, their atoms, cumulated widths from 0 on, and ends."""
        for j in self.features:
            at = self.columns == j
            yield (
                j,
                self.values[at],
                np.r_[0, self.widths[at].cumsum()],
                self.is_end[at],
            )

    def widened(self, upper: Floats) -> Floats:
        """Return upper bounds of opened positions.

        Parameters
        ----------
        upper : ndarray of shape (n_features,)
            In data units.

        Returns
        -------
        upper : ndarray of shape (n_features,)
            Farther up by the widths of all cells of a feature.
        """
        return upper + np.bincount(self.columns, self.widths, len(upper))

    def cells(self, X: NDArray[Any]) -> Floats:
        """Return the widths of the cells of samples, 0 where a value is no atom.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            In data units.

        Returns
        -------
        widths : ndarray of shape (n_samples, len(features))
        """
        widths = np.zeros((len(X), len(self.features)))
        for i, (j, atoms, edges, _) in enumerate(self._by_feature()):
            k = np.minimum(np.searchsorted(atoms, X[:, j]), len(atoms) - 1)
            widths[:, i] = np.where(atoms[k] == X[:, j], np.diff(edges)[k], 0.0)
        return widths

    def open(self, X: Floats, offsets: Floats | float = 0.0) -> Floats:
        """Open the line at the atoms.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            In data units.
        offsets : ndarray of shape (n_samples, len(features)), default=0
            Where in its cell an atom goes, in widths from the centre.

        Returns
        -------
        U : ndarray of shape (n_samples, n_features)
            Opened positions, in data units.
        """
        if self.is_identity_:
            return X
        U = X.copy()
        within = self.cells(X) * (0.5 + offsets)
        for i, (j, atoms, edges, _) in enumerate(self._by_feature()):
            U[:, j] += edges[np.searchsorted(atoms, X[:, j])] + within[:, i]
        return U

    def close(self, U: Floats) -> Floats:
        """Close the cells: all of a cell is the atom.

        Parameters
        ----------
        U : ndarray of shape (n_samples, n_features)
            Opened positions.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            In data units. Beyond an atom at the end of the data there is nothing else.
        """
        if self.is_identity_:
            return U
        X = U.copy()
        for j, atoms, edges, is_end in self._by_feature():
            # The number of cells that are wholly below.
            k = np.searchsorted(atoms + edges[1:], U[:, j])
            last = np.minimum(k, len(atoms) - 1)
            is_atom = (k <= last) & (U[:, j] >= atoms[last] + edges[last])
            is_atom |= (k == 0) & (is_end[0] < 0)
            is_atom |= (k > last) & (is_end[-1] > 0)
            X[:, j] = np.where(is_atom, atoms[last], U[:, j] - edges[k])
        return X

    def by_features(self, X: Floats) -> tuple[Floats, Floats]:
        """Map opened positions; see :meth:`Elementwise.by_features`."""
        slopes = np.zeros(X.shape)
        for j, atoms, edges, _ in self._by_feature():
            for k, atom in enumerate(atoms):
                is_in = (X[:, j] >= atom + edges[k]) & (X[:, j] <= atom + edges[k + 1])
                slopes[is_in, j] = np.log(edges[k + 1] - edges[k])
        return X.copy(), slopes

    def inverse(self, Y: Floats) -> Floats:
        """Map back: the positions are the same."""
        return Y.copy()
