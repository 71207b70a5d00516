"""Values that are uniform in cells to values that are normal in them."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from typing import Self

import numpy as np
from scipy.special import ndtr, ndtri

from skjko.transforms.base import Elementwise, is_array
from skjko.typing import Floats

WIDTH = 0.2
"""Standard deviation of the normal distribution, in widths of a cell."""

BELOW = float(ndtr(-0.5 / WIDTH))
"""Its probability below a cell, and above."""


class NormalCells(Elementwise):
    """Positions in cells by the quantile function of a normal that ends with the cell.

    Codes of categories have no neighbours. Dequantized uniformly, the values of one
    begin where those of the next end, and what smooth densities blur there becomes
    samples of the wrong category. Behind this map each category is a peak of its own.
    Densities of cells do not change by it.

    Parameters
    ----------
    start : ndarray of shape (n_features,)
        The centre of a cell, in data units.
    step : ndarray of shape (n_features,)
        Widths of the cells; 0 in features that stay as they are.

    Attributes
    ----------
    n_features_in_ : int
        Number of features.

    References
    ----------
    J. Ho, X. Chen, A. Srinivas, Y. Duan, P. Abbeel, "Flow++: Improving flow-based
    generative models with variational dequantization and architecture design", ICML
    2019: noise of another distribution than the uniform one.

    Examples
    --------
    >>> import numpy as np
    >>> from skjko.transforms import NormalCells
    >>> cells = NormalCells(start=np.array([0.0]), step=np.array([1.0])).fit(None)
    >>> cells.forward(np.array([[1.0], [1.25], [1.5]]))[0].round(3).ravel()
    array([1.   , 1.133, 1.5  ])
    """

    def __init__(self, start: Floats, step: Floats) -> None:
        self.start, self.step = start, step

    def fit(self, X: Floats | None, sample_weight: Floats | None = None) -> Self:
        """Take note of the features; nothing depends on the samples."""
        self.n_features_in_ = len(self.start)
        self._complete()
        return self

    def _complete(self) -> None:
        arrays, d = (self.start, self.step), self.n_features_in_
        if not all(is_array(a, (d,)) for a in arrays) or (self.step < 0).any():
            raise ValueError("the cells are none")
        self._columns = np.flatnonzero(self.step)
        self.is_identity_ = not len(self._columns)

    def _positions(self, X: Floats) -> tuple[Floats, Floats]:
        """Return the centres of cells, and positions in widths, -1/2 to 1/2."""
        j = self._columns
        start, step = self.start[j], self.step[j]
        with np.errstate(over="ignore", invalid="ignore"):
            centres = start + np.rint((X[:, j] - start) / step) * step
            inside = (X[:, j] - centres) / step
        # What is too far out to be in a cell is its centre.
        far = ~np.isfinite(inside)
        return np.where(far, X[:, j], centres), np.clip(
            np.where(far, 0.0, inside), -0.5, 0.5
        )

    def by_features(self, X: Floats) -> tuple[Floats, Floats]:
        """Map samples; see :meth:`Elementwise.by_features`."""
        j, Y, slopes = self._columns, X.copy(), np.zeros(X.shape)
        centres, inside = self._positions(X)
        z = ndtri(0.5 + inside * (1 - 2 * BELOW))
        Y[:, j] = centres + z * (WIDTH * self.step[j])
        slope = math.log(WIDTH * (1 - 2 * BELOW) * math.sqrt(2 * math.pi))
        slopes[:, j] = slope + 0.5 * np.square(z)
        return Y, slopes

    def inverse(self, Y: Floats) -> Floats:
        """Map samples back; see :meth:`Transform.inverse`."""
        j, X = self._columns, Y.copy()
        centres, inside = self._positions(Y)
        share = (ndtr(inside / WIDTH) - 0.5) / (1 - 2 * BELOW)
        X[:, j] = centres + share * self.step[j]
        return X
