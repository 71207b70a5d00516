"""A Gaussian mixture as an invertible map to the standard normal distribution."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from collections.abc import Callable
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

from skjko.flow import gaussian_mixture, threads
from skjko.flow.mixture_growth import WEAK_PRIOR, Growth, Operations, Part
from skjko.transforms import rosenblatt
from skjko.transforms.base import Transform, is_array, normal_log_prob
from skjko.typing import Floats, State

# Weight of the standard normal component that every mixture has: between and beyond the
# others the map is no steeper, and no flatter.
_WIDE_WEIGHT = 1e-3
# Samples farther out stay where they are: no square overflows below.
_FARTHEST = 1e75
# Normal scores at which the first feature's quantiles are kept, and the largest.
_N_KNOTS, _LAST_KNOT = 385, 6.0
# Numbers, samples times components, that are worked on together.
_CHUNK_VALUES = 2**17
# Components have standard deviations and means in this range, in those of the samples.
_LEAST_DEVIATION, _LARGEST_VALUE = 1e-6, 1e12
# Share of the samples that decide how many components `fit` has.
_VALIDATION_SHARE = 0.25


class MixtureMap(Transform):
    """A mixture of Gaussians to the standard normal, by Rosenblatt's transformation.

    Feature j of the image is Phi^-1(F(x_j | x_1, ..., x_{j-1})) with the conditional
    distribution function F of the mixture and that of the standard normal distribution
    Phi (Rosenblatt, "Remarks on a multivariate transformation", Annals of Mathematical
    Statistics 23, 1952). A standard normal distribution behind the map is the mixture.
    The samples should have about zero mean and unit covariance.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
        Weights of the components, one of which is standard normal.
    means_ : ndarray of shape (n_components, n_features)
    factors_ : ndarray of shape (n_components, n_features, n_features)
        Lower Cholesky factors of the covariances.
    n_features_in_ : int
        Number of features.

    Examples
    --------
    >>> import numpy as np
    >>> from skjko.transforms import MixtureMap
    >>> rng = np.random.default_rng(0)
    >>> X = rng.choice([-1, 1], (1000, 1)) + 0.1 * rng.normal(size=(1000, 1))
    >>> Z, log_det = MixtureMap().fit(X).forward(X)
    >>> bool(abs(Z.mean()) < 0.1 and abs(Z.std() - 1) < 0.1)
    True
    """

    def fit(self, X: Floats, sample_weight: Floats | None = None) -> Self:
        """Fit a mixture, with as many components as validation samples prefer.

        See :meth:`Transform.fit`. A quarter of the samples decides; all are fitted.
        """
        x = torch.tensor(np.asarray(X, dtype=np.float64))
        weight = torch.ones(len(x), dtype=x.dtype)
        if sample_weight is not None:
            weight = torch.tensor(sample_weight / np.mean(sample_weight))
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        whole = Part(x[order], weight[order])
        n = math.ceil(_VALIDATION_SHARE * len(x))
        train = Part(whole.x[n:], whole.weight[n:])
        growth = Growth([(train, whole.first(n))], WEAK_PRIOR)
        growth.advance(Operations())
        return self._take(growth.grown_again(whole))

    @classmethod
    def of(cls, mixture: gaussian_mixture.Mixture) -> Self:
        """Return the map of a mixture.

        Parameters
        ----------
        mixture : Mixture
            Of `skjko.flow.gaussian_mixture`.

        Returns
        -------
        transform : MixtureMap
            With a standard normal component of little weight besides.
        """
        return cls()._take(mixture)

    def _take(self, mixture: gaussian_mixture.Mixture) -> Self:
        d = mixture.means.shape[1]
        factors = torch.linalg.cholesky(mixture.covariances).numpy()
        weights = (1 - _WIDE_WEIGHT) * mixture.weights.numpy()
        self.weights_ = np.append(weights, _WIDE_WEIGHT)
        self.means_ = np.concatenate([mixture.means.numpy(), np.zeros((1, d))])
        self.factors_ = np.concatenate([factors, np.eye(d)[np.newaxis]])
        self.n_features_in_ = d
        self._complete()
        return self

    def _complete(self) -> None:
        n, d = len(self.weights_), self.n_features_in_
        if not (
            is_array(self.weights_, (n,))
            and is_array(self.means_, (n, d))
            and is_array(self.factors_, (n, d, d))
            and n > 0
            and (self.weights_ > 0).all()
            and abs(self.weights_.sum() - 1) < 1e-6
            and (np.diagonal(self.factors_, axis1=1, axis2=2) > _LEAST_DEVIATION).all()
            and (np.triu(self.factors_, 1) == 0).all()
            and max(np.abs(self.means_).max(), np.abs(self.factors_).max())
            < _LARGEST_VALUE
        ):
            raise ValueError("the attributes of the mixture map do not make one")
        weights, means, factors = map(
            torch.tensor, (self.weights_, self.means_, self.factors_)
        )
        # inverse @ x - offset is standard normal in its component.
        inverse = torch.linalg.inv(factors)
        offset = (inverse @ means[..., None])[..., 0]
        slopes = inverse.diagonal(dim1=1, dim2=2)
        # By features, for one follows the other.
        self._inverse = inverse.permute(1, 2, 0).contiguous()
        self._offset, self._slopes = offset.T.contiguous(), slopes.T.contiguous()
        self._log_slopes, self._log_weights = self._slopes.log(), weights.log()
        self._coefficients = gaussian_mixture.coefficients(weights, means, factors)

    @property
    def n_components_(self) -> int:
        """Number of components, the wide one aside."""
        return len(self.weights_) - 1

    def forward(self, X: Floats) -> tuple[Floats, Floats]:
        """Map samples; see :meth:`Transform.forward`."""
        Z = self._by_chunks(self._forward, X)
        # Samples that stay where they are may have an infinite log-density.
        with np.errstate(invalid="ignore"):
            log_det = self.log_prob(X) - normal_log_prob(Z)
        return Z, np.where((np.abs(X) <= _FARTHEST).all(axis=1), log_det, 0.0)

    def inverse(self, Y: Floats) -> Floats:
        """Map samples back; see :meth:`Transform.inverse`."""
        return self._by_chunks(self._backward, Y)

    @threads.isolated()
    def log_prob(self, X: Floats) -> Floats:
        """Return the log-density of the mixture in nats, faster than by the map."""
        near = (np.abs(X) <= _FARTHEST).all(axis=1)
        if near.all():
            x = torch.from_numpy(np.ascontiguousarray(X))
            return gaussian_mixture.log_prob(self._coefficients, x).numpy()
        values = normal_log_prob(X)
        values[near] = self.log_prob(X[near])
        return values

    def sample(self, n_samples: int, rng: np.random.RandomState) -> Floats:
        """Draw samples from the mixture, faster than by the map."""
        counts = rng.multinomial(n_samples, self.weights_)
        X = rng.standard_normal((n_samples, self.n_features_in_))
        ends = np.cumsum(counts)
        for k in np.flatnonzero(counts):
            rows = X[ends[k] - counts[k] : ends[k]]
            rows[:] = self.means_[k] + rows @ self.factors_[k].T
        rng.shuffle(X)
        return X

    def __getstate__(self) -> State:
        """Return the state for pickle, which use does not change."""
        state = super().__getstate__().copy()
        state.pop("_knots", None)
        return state

    @threads.isolated()
    def _by_chunks(self, function: Callable[[Tensor], Tensor], X: Floats) -> Floats:
        """Map the samples that are not too far out, chunk by chunk."""
        mapped = np.empty(X.shape)
        size = max(1, _CHUNK_VALUES // len(self.weights_))
        for start in range(0, len(X), size):
            # A tensor of its own: results would depend on the alignment of X.
            x = torch.tensor(X[start : start + size])
            near = (x.abs() <= _FARTHEST).all(1)
            if near.all():
                x = function(x)
            else:
                x[near] = function(x[near])
            mapped[start : start + size] = x.numpy()
        return mapped

    def _forward(self, x: Tensor) -> Tensor:
        z, logs = torch.empty_like(x), self._log_weights
        for j in range(x.shape[1]):
            y = torch.addmm(-self._offset[j], x[:, : j + 1], self._inverse[j, : j + 1])
            weights = rosenblatt.shares(logs).expand_as(y)
            z[:, j] = rosenblatt.normal_score(logs, weights, y)
            logs = self._extended(logs, j, y)
        return z

    def _backward(self, z: Tensor) -> Tensor:
        x, logs = torch.zeros_like(z), self._log_weights
        for j in range(z.shape[1]):
            # y = slope x_j + shift, for every component.
            shift = torch.addmm(-self._offset[j], x[:, :j], self._inverse[j, :j])
            bounds = self._bounds(z[:, 0].contiguous()) if j == 0 else None
            x[:, j] = rosenblatt.quantile(logs, self._slopes[j], shift, z[:, j], bounds)
            y = torch.addcmul(shift, x[:, j, None], self._slopes[j])
            logs = self._extended(logs, j, y)
        return x

    def _extended(self, logs: Tensor, j: int, y: Tensor) -> Tensor:
        """Log-weights of the components given one more feature, up to a constant."""
        if j == 0:
            return torch.addcmul(logs + self._log_slopes[j], y, y, value=-0.5)
        return logs.add_(self._log_slopes[j]).addcmul_(y, y, value=-0.5)

    def _bounds(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Bounds of the first feature's quantiles, and what they are about."""
        scores, quantiles = self._knots
        # One knot more on both sides: those at hand may be the solution.
        i = torch.searchsorted(scores, z)
        start = np.interp(z.numpy(), scores.numpy(), quantiles[2:-2].numpy())
        return quantiles[i], torch.from_numpy(start), quantiles[i + 3]

    @cached_property
    def _knots(self) -> tuple[Tensor, Tensor]:
        """Normal scores, and the first feature's quantiles there, padded twice."""
        scores = torch.linspace(-_LAST_KNOT, _LAST_KNOT, _N_KNOTS).double()
        shift = (-self._offset[0]).expand(_N_KNOTS, -1)
        found = rosenblatt.quantile(self._log_weights, self._slopes[0], shift, scores)
        ends = found.new_full((2,), math.inf)
        return scores, torch.cat([-ends, found, ends])
