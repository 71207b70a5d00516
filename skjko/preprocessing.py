"""Block 0 of the flow: everything that is done before any block is trained."""

# SPDX-License-Identifier: BSD-3-Clause

import math

import numpy as np

from skjko import chunks, columns, splitting
from skjko.growth import choose_mixture
from skjko.marginals import MarginalMixtures
from skjko.radial import choose_radial_map
from skjko.rosenblatt import RosenblattMap, normal_logpdf

# A column whose spread is below this share of its magnitude is constant: the digits
# that would tell its values apart are rounding errors.
_CONSTANT_TOL = 1e-10

# Standard deviation of a constant column, as a share of its magnitude (of 1 if that is
# zero): rounding errors are far below it, and any other value stands out.
_CONSTANT_SCALE = 1e-5

# Principal directions of the correlation matrix with less than this share of the mean
# variance are flat: no density exists along them, so no flow is trained on them, and
# they stay Gaussian with what variance the shrinkage gives them, but at least this.
_FLAT_TOL = 1e-8

# The least normal number, and the greatest.
_TINY, _LARGEST = np.finfo(float).tiny, np.finfo(float).max

# Rows beyond these, in all or for each number that makes a part, would cost a mixture
# more time than they are worth; and values, memory.
_MIXTURE_ROWS, _MIXTURE_ROWS_PER_NUMBER, _MIXTURE_VALUES = 50_000, 150, 2 * 10**7

# The largest z there is: far beyond where its square, and with it the log-density,
# overflows, but with some room for what fields make of it.
FARTHEST = 1e300


class GaussianWhitening:
    """Full-covariance Gaussian with Ledoit-Wolf shrinkage, as an affine map to N(0, I).

    Columns are scaled to unit variance first, so that shrinkage does not depend on
    their units; then the principal components are scaled to unit variance. This is
    block 0 of the flow: alone, it is a Gaussian density.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features,)
        Weighted mean, in data units.
    components_ : ndarray of shape (n_features, n_features)
        The map is z = (x - mean_) @ components_.T after division by `scale_`.
    scale_ : ndarray of shape (n_features,)
        Weighted standard deviation of every column, in data units.
    log_det_ : float
        log|det dz/dx| in nats.
    n_flat_ : int
        Number of flat directions; they are the last columns of z.
    shrinkage_ : float
        Share of the identity in the correlation matrix used.
    """

    def fit(self, X, sample_weight=None):
        """Estimate the Gaussian from finite rows with positive weights."""
        n, d = X.shape
        weight = np.broadcast_to(1.0, n) if sample_weight is None else sample_weight
        total = weight.sum()

        def parts(function=lambda rows: rows):
            """Yield the shares of rows in the weight, and a function of the rows."""
            for where, rows in chunks.in_float64(X):
                yield weight[where] / total, function(rows)

        # A shift by a data point first: the mean of numbers of like size is exact to
        # rounding, and a constant column becomes exactly zero.
        shift = next(rows[0].copy() for _, rows in parts())
        offset = sum(share @ rows for share, rows in parts(lambda rows: rows - shift))

        def centered(rows):
            return (rows - shift) - offset

        self.mean_ = shift + offset
        peaks = [np.abs(rows).max(axis=0) for _, rows in parts(centered)]
        peak = np.max(peaks, axis=0)
        magnitude = np.abs(self.mean_) + peak
        safe_peak = np.where(peak > 0, peak, 1.0)
        spread = safe_peak * np.sqrt(
            sum(share @ (rows / safe_peak) ** 2 for share, rows in parts(centered))
        )
        constant = (peak == 0) | (spread <= _CONSTANT_TOL * magnitude)
        # Numbers below the normal ones have no digits left to be told apart by.
        constant |= spread < _TINY
        narrow = _CONSTANT_SCALE * np.where(magnitude > 0, magnitude, 1.0)
        self.scale_ = np.where(constant, np.maximum(narrow, _TINY), spread)
        squares, fourths, trace = 0.0, 0.0, 0.0
        for share, rows in parts(centered):
            rows = np.where(constant, 0.0, rows / self.scale_)
            rows *= np.sqrt(share * n)[:, np.newaxis]
            squares = squares + rows.T @ rows
            rows **= 2
            fourths, trace = fourths + rows.T @ rows, trace + rows.sum(axis=0)
        correlation = squares / n
        self.shrinkage_ = _shrinkage(squares, fourths, trace, n) if d > 1 else 0.0
        mean_variance = np.trace(correlation) / d or 1.0
        values, vectors = np.linalg.eigh(correlation)
        values, vectors = values[::-1], vectors[:, ::-1]
        # The largest entry of every direction is positive: eigh leaves signs open.
        largest = np.abs(vectors).argmax(axis=0)
        vectors = vectors * np.sign(vectors[largest, np.arange(d)])
        flat = values <= _FLAT_TOL * mean_variance
        self.n_flat_ = int(flat.sum())
        shrunk = (1 - self.shrinkage_) * values + self.shrinkage_ * mean_variance
        deviation = np.sqrt(np.maximum(shrunk, _FLAT_TOL * mean_variance))
        return self._complete(vectors, deviation)

    @classmethod
    def from_parts(cls, mean, scale, vectors, deviation, n_flat, shrinkage):
        """Return the fitted whitening that these `parts` were taken from.

        Raises
        ------
        ValueError
            If no fit can have had these parts.
        """
        d = len(mean)
        if not (
            all(a.shape == (d,) for a in (mean, scale, deviation))
            and vectors.shape == (d, d)
            and all(np.isfinite(a).all() for a in (mean, scale, vectors, deviation))
            and (scale > 0).all()
            and (deviation > 0).all()
            and np.abs(vectors.T @ vectors - np.eye(d)).max(initial=0) < 1e-6
            and 0 <= n_flat <= d
            and 0 <= shrinkage <= 1
        ):
            raise ValueError("the parts of the Gaussian do not make one")
        self = cls()
        self.mean_, self.scale_ = mean, scale
        self.n_flat_, self.shrinkage_ = n_flat, shrinkage
        return self._complete(vectors, deviation)

    @property
    def parts(self):
        """What `from_parts` rebuilds the map from, to the last bit."""
        return {
            "mean": self.mean_,
            "scale": self.scale_,
            "vectors": self._vectors,
            "deviation": self._deviation,
            "n_flat": self.n_flat_,
            "shrinkage": self.shrinkage_,
        }

    def _complete(self, vectors, deviation):
        """Work out the map from principal directions and standard deviations."""
        self._vectors, self._deviation = vectors, deviation
        self.components_ = (vectors / deviation).T
        self._inverse = (vectors * deviation).T
        reach = np.abs(self.components_).sum(axis=1).max(initial=1.0)
        self._farthest = FARTHEST / reach
        self.log_det_ = float(-np.log(deviation).sum() - np.log(self.scale_).sum())
        return self

    def forward(self, X):
        """Map rows to z; return z and log|det dz/dx| of every row.

        Rows that would have a z beyond the largest one get about that.
        """
        with np.errstate(over="ignore"):
            U = (X - self.mean_) / self.scale_
        U = np.clip(U, -self._farthest, self._farthest)
        return U @ self.components_.T, np.full(len(X), self.log_det_)

    def inverse(self, Z):
        """Map z back to rows in data units; what overflows gets the largest numbers."""
        with np.errstate(over="ignore"):
            X = (Z @ self._inverse) * self.scale_ + self.mean_
        return np.clip(X, -_LARGEST, _LARGEST)


def _shrinkage(squares, fourths, trace, n):
    """Share of the identity that makes the best covariance, by Ledoit and Wolf.

    It is the variance of the covariance's entries over their distance from a multiple
    of the identity. From sums over n rows z of mean zero: of z_i z_j, of z_i^2 z_j^2,
    and of z_i^2.
    """
    d = len(trace)
    variances = trace / n
    scale = variances.sum() / d
    length = (squares**2).sum() / n**2
    noise = 1.0 / (d * n) * (fourths.sum() / n - length)
    distance = (length - 2.0 * scale * variances.sum() + d * scale**2) / d
    noise = min(noise, distance)
    return float(noise / distance) if noise != 0 else 0.0


class Preprocessing:
    """Block 0: maps of single columns, a Gaussian of all, and what may stand behind it.

    Without bounds, helpful maps and a mixture it is `GaussianWhitening`, to the last
    bit.

    Parameters
    ----------
    support : Support
        Where values can be.

    Attributes
    ----------
    marginal_ : MarginalMap, MarginalMixtures or None
        Of the columns, behind the bounds' maps.
    gaussian_ : GaussianWhitening
        Of the mapped columns.
    radial_ : RadialMap or None
        Of the whitened columns that are not flat.
    mixture_ : RosenblattMap or None
        Of what comes out of that.
    """

    def __init__(self, support):
        self.support = support

    def fit(self, X, sample_weight=None, choose_marginal=None):
        """Fit to rows inside of the bounds, spread over their cells.

        `choose_marginal` chooses a marginal map, as `columns.choose_marginal_map` does;
        None chooses none.
        """
        weight = sample_weight
        if weight is None:
            weight = np.broadcast_to(1.0, len(X))
        bounds = self.support.bounds
        marginal = None
        if choose_marginal is not None:
            some = columns.looked_at(len(X))
            Y = X[some].astype(np.float64)
            marginal = choose_marginal(
                Y if bounds is None else bounds.forward(Y)[0],
                weight[some],
                lambda rows, share: GaussianWhitening().fit(rows, share),
            )
        self._maps = [one for one in (bounds, marginal) if one is not None]
        gaussian = GaussianWhitening().fit(self._all_mapped(X), weight)
        return self.complete(marginal, gaussian)

    def _all_mapped(self, X):
        """Rows of mapped columns, to be looked at several times."""
        if not self._maps:
            return X
        Y = chunks.empty(X.shape, np.float64)
        for where, rows in chunks.in_float64(X):
            Y[where] = self.map_columns(rows)[0]
        return Y

    def complete(self, marginal, gaussian, radial=None, mixture=None):
        """Take fitted parts."""
        self.marginal_, self.gaussian_ = marginal, gaussian
        self.radial_, self.mixture_ = radial, mixture
        self._maps = [m for m in (self.support.bounds, marginal) if m is not None]
        return self

    def with_radial(self, X, sample_weight):
        """Return the same with a radial map fitted to (some of) the rows behind it.

        Where it would gain next to nothing, that is this one itself.
        """
        some = columns.looked_at(len(X))
        Z = self.forward(X[some])[0][:, : X.shape[1] - self.n_flat_]
        radial = choose_radial_map(Z, sample_weight[some])
        if radial is None:
            return self
        return Preprocessing(self.support).complete(
            self.marginal_, self.gaussian_, radial
        )

    def with_mixture(self, X, sample_weight, rng, work):
        """Return the same with a mixture fitted to (some of) the rows behind it.

        A mixture of one part is none.

        Parameters
        ----------
        X : ndarray of shape (n, d)
        sample_weight : ndarray of shape (n,)
        rng : RandomState
        work : float
            Floating-point operations that it may take, about.

        Returns
        -------
        mixed : Preprocessing
        is_grown : bool
            Whether more work would change nothing.
        done : float
            Operations that were done.
        """
        d = X.shape[1] - self.n_flat_
        size = max(_MIXTURE_ROWS, _MIXTURE_ROWS_PER_NUMBER * d * (d + 3) // 2)
        some = splitting.draw(len(X), min(size, _MIXTURE_VALUES // d), rng)
        Z = chunks.empty((len(some), d), np.float32)
        # Read in order, for disks, and kept in none.
        order = np.argsort(some)
        n_chunks = math.ceil(len(order) * X.shape[1] / chunks.CHUNK_VALUES)
        for rows in np.array_split(order, n_chunks):
            Z[rows] = self.forward(X[some[rows]])[0][:, :d]
        mixture, is_grown, done = choose_mixture(Z, sample_weight[some], work)
        if len(mixture.weights) == 1:
            return self, is_grown, done
        mixed = Preprocessing(self.support).complete(
            self.marginal_, self.gaussian_, self.radial_, RosenblattMap.of(mixture)
        )
        return mixed, is_grown, done

    @property
    def has_mixtures(self):
        """Whether there are mixtures in it, of single columns or of all."""
        return self.mixture_ is not None or isinstance(self.marginal_, MarginalMixtures)

    @property
    def n_flat_(self):
        """Number of flat directions; they are the last columns of z."""
        return self.gaussian_.n_flat_

    def map_columns(self, X):
        """Map single columns; return them and log|det| of every row.

        It is -inf for rows outside of the bounds.
        """
        X, log_det = chunks.as_float64(X), np.zeros(len(X))
        for one in self._maps:
            X, increment = one.forward(X)
            log_det += increment
        return X, log_det

    def forward(self, X):
        """Map rows to z; return z and log|det dz/dx| of every row."""
        if not self._maps:
            return self.whiten(chunks.as_float64(X))
        Y, log_det = self.map_columns(X)
        Z, increment = self.whiten(Y)
        return Z, log_det + increment

    def log_density(self, X):
        """Log-density of every row, in nats, if z is standard normal."""
        Y, log_det = self.map_columns(X)
        Z, increment = self._whiten(Y)
        log_det += increment
        if self.mixture_ is None:
            return log_det + normal_logpdf(Z)
        n_active = Z.shape[1] - self.n_flat_
        log_density = self.mixture_.log_density(Z[:, :n_active])
        return log_det + log_density + normal_logpdf(Z[:, n_active:])

    def whiten(self, Y):
        """Map rows of mapped columns to z; return z and log|det| of every row."""
        Z, log_det = self._whiten(Y)
        if self.mixture_ is not None:
            active = Z[:, : Z.shape[1] - self.n_flat_]
            log_det += self.mixture_.forward(active, out=active)[1]
        return Z, log_det

    def _whiten(self, Y):
        """Map rows of mapped columns to where the mixture, or the flow, finds them."""
        Z, log_det = self.gaussian_.forward(Y)
        if self.radial_ is not None:
            active = Z[:, : Z.shape[1] - self.n_flat_]
            active[:], increment = self.radial_.forward(active)
            log_det += increment
        return Z, log_det

    def inverse(self, Z):
        """Map z back to rows in data units."""
        if self.mixture_ is not None:
            Z = self._with_active(Z, self.mixture_.inverse)
        return self._data(Z)

    def draw(self, n_samples, rng):
        """Draw rows whose z are standard normal."""
        Z = rng.standard_normal((n_samples, len(self.gaussian_.mean_)))
        if self.mixture_ is not None:
            n_active = Z.shape[1] - self.n_flat_
            Z[:, :n_active] = self.mixture_.draw(n_samples, rng)
        return self._data(Z)

    def _with_active(self, Z, function):
        """Return rows whose columns that are not flat are mapped."""
        Z, n_active = Z.copy(), Z.shape[1] - self.n_flat_
        Z[:, :n_active] = function(Z[:, :n_active])
        return Z

    def _data(self, Z):
        """Map rows that are behind the radial map, if there is one, to data units."""
        if self.radial_ is not None:
            Z = self._with_active(Z, self.radial_.inverse)
        X = self.gaussian_.inverse(Z)
        for one in reversed(self._maps):
            X = one.inverse(X)
        return X
