"""Whitening: an affine map to zero mean and unit covariance."""

# SPDX-License-Identifier: BSD-3-Clause

from collections.abc import Callable, Iterator
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from skjko.data import chunks
from skjko.transforms.base import Transform, is_array, is_int
from skjko.typing import Floats

# Standard deviation of a constant feature, as a share of its magnitude (of 1 if that is
# zero): far above rounding errors, so that any other value stands out.
_CONSTANT_SCALE = 1e-5
# Principal directions of the correlation matrix whose variance is rounding, of so many
# units in the last place, are degenerate: no flow is trained along them.
_ULPS = 16
# Samples that decide whether the covariance is shrunk, and what that may cost in nats.
_MAX_SAMPLES, _LARGEST_LOSS = 4000, 1.0
# The least normal number, and the greatest.
_TINY, _LARGEST = np.finfo(float).tiny, np.finfo(float).max

FARTHEST = 1e300
"""The largest whitened value: its square, and the log-density, overflow long before."""


class Whitening(Transform):
    """Samples to zero mean and unit covariance, by their principal components.

    Features are scaled to unit variance first, so that shrinkage (Ledoit and Wolf,
    2004) does not depend on their units. It is left out where it costs other samples
    more than a nat. A standard normal distribution behind the map is a Gaussian with
    full covariance.

    Parameters
    ----------
    method : {"pca", "scale", "zca"}, default="pca"
        "pca" scales the principal components; "scale" only the features, which stay
        apart. "zca" scales the principal components and turns back: features come as
        close to what they were as uncorrelated ones can. Velocity fields on graphs and
        images need one of the latter two. With degenerate directions "zca" is "pca".

    Attributes
    ----------
    mean_ : ndarray of shape (n_features,)
        Weighted mean, in data units.
    scale_ : ndarray of shape (n_features,)
        Weighted standard deviation of every feature, in data units.
    vectors_ : ndarray of shape (n_features, n_features)
        Principal directions of the correlation matrix, in columns.
    deviation_ : ndarray of shape (n_features,)
        Standard deviations along them, of scaled features.
    n_degenerate_ : int
        Number of directions without a density; they are the last columns of the image.
    shrinkage_ : float
        Share of the identity in the correlation matrix used.
    n_features_in_ : int
        Number of features.

    Examples
    --------
    >>> import numpy as np
    >>> from skjko.transforms import Whitening
    >>> X = np.random.default_rng(0).normal(size=(1000, 2)) @ [[1, 2], [0, 3]]
    >>> Z, log_det = Whitening().fit(X).forward(X)
    >>> np.cov(Z.T).round(1) + 0.0
    array([[1., 0.],
           [0., 1.]])
    """

    def __init__(self, method: Literal["pca", "scale", "zca"] = "pca") -> None:
        self.method = method

    def fit(self, X: Floats, sample_weight: Floats | None = None) -> Self:
        """Estimate mean and covariance; see :meth:`Transform.fit`."""
        n, d = X.shape
        weight = np.broadcast_to(1.0, n) if sample_weight is None else sample_weight
        total = weight.sum()

        def parts(
            function: Callable[[Floats], Floats] = lambda rows: rows,
        ) -> Iterator[tuple[Floats, Floats]]:
            """Yield shares of samples in the weight, and a function of the samples."""
            for where, rows in chunks.in_float64(X):
                yield weight[where] / total, function(rows)

        # A shift by a sample first: the mean of numbers of like size is exact to
        # rounding, and a constant feature becomes exactly zero.
        shift = next(rows[0].copy() for _, rows in parts())
        offset = sum(share @ rows for share, rows in parts(lambda rows: rows - shift))

        def centred(rows: Floats) -> Floats:
            return (rows - shift) - offset

        mean = shift + offset
        peak = np.max([np.abs(rows).max(axis=0) for _, rows in parts(centred)], axis=0)
        magnitude = np.abs(mean) + peak
        safe_peak = np.where(peak > 0, peak, 1.0)
        spread = safe_peak * np.sqrt(
            sum(share @ (rows / safe_peak) ** 2 for share, rows in parts(centred))
        )
        # A spread that is rounding of the magnitude: no digits tell the values apart.
        eps = np.finfo(float).eps
        constant = (peak == 0) | (spread <= _ULPS * eps * magnitude)
        # Subnormal numbers have no digits left to be told apart by.
        constant |= spread < _TINY
        narrow = _CONSTANT_SCALE * np.where(magnitude > 0, magnitude, 1.0)
        scale = np.where(constant, np.maximum(narrow, _TINY), spread)
        squares, fourths, trace = np.zeros((d, d)), np.zeros((d, d)), np.zeros(d)
        for share, rows in parts(centred):
            rows = np.where(constant, 0.0, rows / scale)
            rows *= np.sqrt(share * n)[:, np.newaxis]
            squares = squares + rows.T @ rows
            rows **= 2
            fourths, trace = fourths + rows.T @ rows, trace + rows.sum(axis=0)
        correlation = squares / n
        if self.method == "scale":
            self.shrinkage_ = 0.0
            # Constant features, which have no density, come last all the same.
            order = np.argsort(constant, kind="stable")
            values, vectors = np.diagonal(correlation)[order], np.eye(d)[:, order]
        else:
            self.shrinkage_ = 0.0
            if d > 1:
                self.shrinkage_ = _shrinkage(squares, fourths, trace, n)
                some = np.linspace(0, n - 1, min(n, _MAX_SAMPLES)).astype(int)
                rows = np.asarray(X[some], dtype=np.float64)
                rows = np.where(constant, 0.0, centred(rows) / scale)
                if not _prefer_shrinkage(rows, weight[some]):
                    self.shrinkage_ = 0.0
            values, vectors = np.linalg.eigh(correlation)
            values, vectors = values[::-1], vectors[:, ::-1]
            # The largest entry of every direction is positive: eigh leaves signs open.
            largest = np.abs(vectors).argmax(axis=0)
            vectors = vectors * np.sign(vectors[largest, np.arange(d)])
        mean_variance = np.trace(correlation) / d or 1.0
        # Of the eigenvalues, and of the features.
        rounding = d * eps + (np.square(eps * magnitude / scale) @ ~constant)
        floor = _ULPS * rounding * mean_variance
        self.n_degenerate_ = int((values <= floor).sum())
        shrunk = (1 - self.shrinkage_) * values + self.shrinkage_ * mean_variance
        deviation = np.sqrt(np.maximum(shrunk, floor))
        if n > d and self.n_degenerate_:
            # What is constant in more samples than there are directions is constant:
            # its deviation is that of rounding.
            last = vectors[:, d - self.n_degenerate_ :]
            residual = sum(
                share @ (np.where(constant, 0.0, rows / scale) @ last) ** 2
                for share, rows in parts(centred)
            )
            least = _ULPS * eps * np.sqrt(mean_variance)
            deviation[d - self.n_degenerate_ :] = np.maximum(np.sqrt(residual), least)
        self.deviation_ = deviation
        self.mean_, self.scale_, self.vectors_ = mean, scale, vectors
        self.n_features_in_ = d
        self._complete()
        return self

    def _complete(self) -> None:
        d, vectors, deviation = self.n_features_in_, self.vectors_, self.deviation_
        if not (
            is_int(d, 1)
            and is_int(self.n_degenerate_, 0, d + 1)
            and all(is_array(a, (d,)) for a in (self.mean_, self.scale_, deviation))
            and is_array(vectors, (d, d))
            and (self.scale_ > 0).all()
            and (deviation > 0).all()
            and np.abs(vectors.T @ vectors - np.eye(d)).max(initial=0) < 1e-6
            and 0 <= self.shrinkage_ <= 1
        ):
            raise ValueError("the attributes of the whitening do not make one")
        self._components = (vectors / deviation).T
        self._inverse = (vectors * deviation).T
        if self.method == "zca" and not self.n_degenerate_:
            self._components = vectors @ self._components
            self._inverse = vectors @ self._inverse
        reach = np.abs(self._components).sum(axis=1).max(initial=1.0)
        self._farthest = FARTHEST / reach
        self._log_det = float(-np.log(deviation).sum() - np.log(self.scale_).sum())

    @property
    def directions(self) -> Floats:
        """What one unit of each whitened direction, a row, is in scaled features."""
        return self._inverse

    @property
    def degenerate_features_(self) -> NDArray[np.bool_]:
        """Whether each feature is part of a degenerate direction.

        Single features among them must not be mapped: a bent degenerate direction is a
        thin curved one, which no flow can learn.
        """
        last = self.vectors_[:, self.n_features_in_ - self.n_degenerate_ :]
        return np.any(np.abs(last) > 1e-6, axis=1)

    def forward(self, X: Floats) -> tuple[Floats, Floats]:
        """Map samples; see :meth:`Transform.forward`.

        Samples beyond the largest whitened value get about that.
        """
        with np.errstate(over="ignore"):
            U = (X - self.mean_) / self.scale_
        U = np.clip(U, -self._farthest, self._farthest)
        Y = U @ self._components.T
        if self.n_degenerate_:
            # In units of rounding, which must not depend on the samples beside.
            last = self._components[-self.n_degenerate_ :]
            Y[:, -self.n_degenerate_ :] = np.einsum("ij,kj->ik", U, last)
        return Y, np.full(len(X), self._log_det)

    def inverse(self, Y: Floats) -> Floats:
        """Map samples back; what overflows gets the largest numbers."""
        with np.errstate(over="ignore"):
            X = (Y @ self._inverse) * self.scale_ + self.mean_
        return np.clip(X, -_LARGEST, _LARGEST)


def _prefer_shrinkage(Z: Floats, weight: Floats) -> bool:
    """Whether a covariance that is shrunk costs other samples no more than a nat.

    A mixture behind the whitening gains by shrinkage even where one Gaussian loses
    some. Z are scaled samples of about zero mean; their halves score each other.
    """
    n, d = Z.shape
    first = np.arange(n) % 2 == 0
    gain = 0.0
    for a, b in ((first, ~first), (~first, first)):
        if a.sum() <= d + 1:
            return True
        share = weight[a] / weight[a].sum()
        rows = (Z[a] - share @ Z[a]) * np.sqrt(share * a.sum())[:, np.newaxis]
        squares, fourths = rows.T @ rows, (rows**2).T @ (rows**2)
        shrinkage = _shrinkage(squares, fourths, (rows**2).sum(axis=0), a.sum())
        values, vectors = np.linalg.eigh(squares / a.sum())
        mean_variance = values.mean() or 1.0
        others = weight[b] @ ((Z[b] - share @ Z[a]) @ vectors) ** 2 / weight[b].sum()
        for sign, by in ((1, shrinkage), (-1, 0.0)):
            shrunk = (1 - by) * values + by * mean_variance
            shrunk = np.maximum(shrunk, _ULPS * d * np.finfo(float).eps * mean_variance)
            gain -= sign * (np.log(shrunk) + others / shrunk).sum()
    # Of two halves, in twice their nats a sample.
    return gain > -4 * _LARGEST_LOSS


def _shrinkage(squares: Floats, fourths: Floats, trace: Floats, n: int) -> float:
    """Share of the identity that makes the best covariance, by Ledoit and Wolf.

    It is the variance of the covariance's entries over their distance from a multiple
    of the identity. From sums over n samples z of mean zero: of z_i z_j, of
    z_i^2 z_j^2, and of z_i^2.
    """
    d = len(trace)
    variances = trace / n
    scale = variances.sum() / d
    length = (squares**2).sum() / n**2
    noise = 1.0 / (d * n) * (fourths.sum() / n - length)
    distance = (length - 2.0 * scale * variances.sum() + d * scale**2) / d
    noise = min(noise, distance)
    return float(noise / distance) if noise != 0 else 0.0
