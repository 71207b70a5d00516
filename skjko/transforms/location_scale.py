"""Targets less a location and over a scale, both of which are given with the sample."""

# SPDX-License-Identifier: BSD-3-Clause

from typing import Self

import numpy as np

from skjko.transforms.base import Transform, is_array, is_int
from skjko.typing import Floats


class LocationScale(Transform):
    """Targets to residuals: r = ((y - centre) / width - m) exp(-l).

    A sample has d targets y, their locations m, the logarithms l of their scales, and
    perhaps more columns. All columns behind the targets are its condition: they stay as
    they are, and have no density.

    Parameters
    ----------
    centre, width : ndarray of shape (n_targets,)
        In data units; locations and scales are relative to them.
    n_context : int
        Number of columns of the condition, at least twice that of the targets.

    Attributes
    ----------
    n_features_in_ : int
        Number of targets and columns of the condition.

    Examples
    --------
    >>> import numpy as np
    >>> from skjko.transforms import LocationScale
    >>> one = LocationScale(centre=np.array([5.0]), width=np.array([2.0]), n_context=2)
    >>> X = np.array([[9.0, 1.0, np.log(0.5)]])
    >>> Y, log_det = one.fit(X).forward(X)
    >>> Y[:, 0], np.exp(log_det)
    (array([2.]), array([1.]))
    """

    def __init__(self, centre: Floats, width: Floats, n_context: int) -> None:
        self.centre, self.width, self.n_context = centre, width, n_context

    def fit(self, X: Floats | None, sample_weight: Floats | None = None) -> Self:
        """Take note of the columns; nothing depends on the samples."""
        self.n_features_in_ = len(self.centre) + self.n_context
        self._complete()
        return self

    def _complete(self) -> None:
        d = len(self.centre)
        if not (
            d > 0
            and is_array(self.centre, (d,))
            and is_array(self.width, (d,))
            and (self.width > 0).all()
            and is_int(self.n_context, 2 * d)
            and self.n_features_in_ == d + self.n_context
        ):
            raise ValueError("the location and the scale are not those of the targets")

    @property
    def n_context_(self) -> int:
        """Number of columns of the condition."""
        return self.n_context

    @property
    def n_degenerate_(self) -> int:
        """Number of columns without a density."""
        return self.n_context

    def forward(self, X: Floats) -> tuple[Floats, Floats]:
        """Map samples; see :meth:`Transform.forward`."""
        d, Y = len(self.centre), X.copy()
        scale = X[:, 2 * d : 3 * d]
        with np.errstate(over="ignore"):
            Y[:, :d] = (X[:, :d] - self.centre) / self.width - X[:, d : 2 * d]
            Y[:, :d] *= np.exp(-scale)
        return Y, -scale.sum(axis=1) - np.log(self.width).sum()

    def inverse(self, Y: Floats) -> Floats:
        """Map samples back; what would overflow becomes the largest numbers."""
        d, X, largest = len(self.centre), Y.copy(), np.finfo(float).max
        with np.errstate(over="ignore"):
            X[:, :d] *= np.exp(Y[:, 2 * d : 3 * d])
            X[:, :d] = (X[:, :d] + Y[:, d : 2 * d]) * self.width + self.centre
        X[:, :d] = np.clip(X[:, :d], -largest, largest)
        return X
