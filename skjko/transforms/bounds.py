"""Bounded features to unbounded ones."""

# SPDX-License-Identifier: BSD-3-Clause

from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from skjko.transforms.base import Elementwise, is_array
from skjko.typing import Floats


class Bounds(Elementwise):
    """Features with bounds to the real line, by a logarithm or a logit.

    With a lower bound a alone y = log(x - a), with an upper bound b alone
    y = -log(b - x), with both y = log((x - a) / (b - x)). Features without bounds stay
    as they are.

    Parameters
    ----------
    lower, upper : ndarray of shape (n_features,)
        In data units; infinite for none.

    Attributes
    ----------
    n_features_in_ : int
        Number of features.

    Examples
    --------
    >>> import numpy as np
    >>> from skjko.transforms import Bounds
    >>> X = np.array([[1.0, 0.5], [np.e, 0.5]])
    >>> bounds = Bounds(lower=np.zeros(2), upper=np.array([np.inf, 1.0])).fit(X)
    >>> bounds.forward(X)[0]
    array([[0., 0.],
           [1., 0.]])
    """

    def __init__(self, lower: Floats, upper: Floats) -> None:
        self.lower, self.upper = lower, upper

    def fit(self, X: Floats | None, sample_weight: Floats | None = None) -> Self:
        """Take note of the bounded features; nothing depends on the samples."""
        self.n_features_in_ = len(self.lower)
        self._complete()
        return self

    def _complete(self) -> None:
        d = self.n_features_in_
        arrays = (self.lower, self.upper)
        if (
            not all(is_array(a, (d,), finite=False) for a in arrays)
            or not (self.lower < self.upper).all()
        ):
            raise ValueError("the bounds are not below one another")
        has_lower, has_upper = np.isfinite(self.lower), np.isfinite(self.upper)
        self._below = np.flatnonzero(has_lower & ~has_upper)
        self._above = np.flatnonzero(~has_lower & has_upper)
        self._both = np.flatnonzero(has_lower & has_upper)
        self.is_identity_ = not (has_lower | has_upper).any()

    def outside(self, X: Floats) -> NDArray[np.bool_]:
        """Return whether each value is outside of the open interval of its feature.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Samples in data units.

        Returns
        -------
        outside : ndarray of bool of shape (n_samples, n_features)
            True at the bounds, too.
        """
        return ~((self.lower < X) & (self.upper > X))

    def by_features(self, X: Floats) -> tuple[Floats, Floats]:
        """Map samples; see :meth:`Elementwise.by_features`.

        Samples that are not inside have no image: they get any position, and
        log-derivatives of -inf, so that their density is zero.
        """
        Y, slopes = X.copy(), np.zeros(X.shape)
        inside = ~self.outside(X).any(axis=1)
        x = X[inside]
        j = self._below
        Y[np.ix_(inside, j)] = y = np.log(x[:, j] - self.lower[j])
        slopes[np.ix_(inside, j)] = -y
        j = self._above
        Y[np.ix_(inside, j)] = y = -np.log(self.upper[j] - x[:, j])
        slopes[np.ix_(inside, j)] = y
        j = self._both
        below, above = np.log(x[:, j] - self.lower[j]), np.log(self.upper[j] - x[:, j])
        Y[np.ix_(inside, j)] = below - above
        # Halves, for the width itself may overflow.
        width = np.log(self.upper[j] / 2 - self.lower[j] / 2) + np.log(2)
        slopes[np.ix_(inside, j)] = width - below - above
        bounded = np.r_[self._below, self._above, self._both]
        Y[np.ix_(~inside, bounded)] = 0.0
        slopes[np.ix_(~inside, bounded)] = -np.inf
        return Y, slopes

    def inverse(self, Y: Floats) -> Floats:
        """Map back into the open intervals, however far out Y is."""
        X = Y.copy()
        with np.errstate(over="ignore"):
            j = self._below
            X[:, j] = self.lower[j] + np.exp(Y[:, j])
            j = self._above
            X[:, j] = self.upper[j] - np.exp(-Y[:, j])
        j = self._both
        # From the nearer end, so that no digits are lost there.
        half = self.upper[j] / 2 - self.lower[j] / 2
        near_lower = self.lower[j] + half * (2 * expit(np.minimum(Y[:, j], 0.0)))
        near_upper = self.upper[j] - half * (2 * expit(np.minimum(-Y[:, j], 0.0)))
        X[:, j] = np.where(Y[:, j] < 0, near_lower, near_upper)
        largest = np.finfo(float).max
        has_lower, has_upper = np.isfinite(self.lower), np.isfinite(self.upper)
        low = np.where(has_lower, np.nextafter(self.lower, np.inf), -largest)
        high = np.where(has_upper, np.nextafter(self.upper, -np.inf), largest)
        return np.clip(X, low, high)
