"""Features made normal one by one, each by a mixture of its own."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import KFold
from torch import Tensor

from skjko.flow import gaussian_mixture, threads
from skjko.flow.mixture_growth import Growth, Operations, Part
from skjko.transforms import rosenblatt
from skjko.transforms.asinh import MIN_SAMPLES, in_widths, subsample
from skjko.transforms.base import Elementwise, is_array, is_int
from skjko.transforms.mixture_map import MixtureMap
from skjko.transforms.whitening import Whitening
from skjko.typing import Floats

# A feature gets a mixture if it seems to lack this much of a normal feature's entropy,
# in nats: that of n samples rarely seems to.
_LEAST_NEGENTROPY, _TIMES_SAMPLES = 0.01, 16.0
# Floating-point operations for each feature's mixture, and components before which its
# growth does not end: narrow peaks side by side need many.
_OPERATIONS, _MIN_COMPONENTS = 1e9, 64
# Below this number of samples several splits decide on the components, above it one
# that holds out a share.
_CROSS_VALIDATION_SAMPLES, _N_FOLDS, _VALIDATION_SHARE = 1000, 3, 0.25
_FARTHEST = 1e75
# Numbers, samples times features times components, that are worked on together.
_CHUNK_VALUES = 2**17


class MarginalMixtures(Elementwise):
    """Features to normal ones: y = Phi^-1(F((x - centre) / width)), feature by feature.

    F is the distribution function of a mixture of normal distributions, with as many
    components as lumps, gaps, skew and tails of the feature ask for.

    Parameters
    ----------
    columns : ndarray of int, default=None
        Features that may be mapped; all by default.

    Attributes
    ----------
    columns_ : ndarray of int of shape (n_mapped,)
        Features that are mapped; the others stay as they are.
    centre_, width_ : ndarray of shape (n_mapped,)
        In data units.
    maps_ : list of MixtureMap
        Of one feature each.
    n_features_in_ : int
        Number of features.

    Examples
    --------
    >>> import numpy as np
    >>> from skjko.transforms import MarginalMixtures
    >>> rng = np.random.default_rng(0)
    >>> lumps = rng.choice([-1, 1], 1000) + 0.1 * rng.normal(size=1000)
    >>> X = np.c_[rng.normal(size=1000), lumps]
    >>> MarginalMixtures().fit(X).columns_
    array([1])
    """

    def __init__(self, columns: NDArray[np.int_] | None = None) -> None:
        self.columns = columns

    def fit(self, X: Floats, sample_weight: Floats | None = None) -> Self:
        """Fit a mixture to every feature that is not normal; see `Transform.fit`."""
        self.n_features_in_ = X.shape[1]
        some = subsample(len(X))
        weight = np.ones(len(X)) if sample_weight is None else sample_weight
        may = np.arange(X.shape[1]) if self.columns is None else self.columns
        found = _fit(np.asarray(X[some], dtype=np.float64), weight[some], may)
        self.columns_, self.centre_, self.width_, self.maps_ = found
        self._complete()
        return self

    def _complete(self) -> None:
        size = (len(self.columns_),)
        if not (
            is_int(self.n_features_in_, 1)
            and is_array(self.columns_, size, "i")
            and is_array(self.centre_, size)
            and is_array(self.width_, size)
            and (self.width_ > 0).all()
            and (np.diff(self.columns_) > 0).all()
            and ((self.columns_ >= 0) & (self.columns_ < self.n_features_in_)).all()
            and isinstance(self.maps_, list)
            and len(self.maps_) == len(self.columns_)
            and all(isinstance(m, MixtureMap) for m in self.maps_)
            and all(m.n_features_in_ == 1 for m in self.maps_)
        ):
            raise ValueError("the attributes of the marginal mixtures do not make one")
        self.is_identity_ = not self.maps_
        if self.is_identity_:
            return
        # All features at once: those with fewer components are padded, by components
        # of no weight.
        n = max(len(m.weights_) for m in self.maps_)

        def padded(arrays: list[Floats], value: float) -> Tensor:
            rows = [np.append(a, np.full(n - len(a), value)) for a in arrays]
            return torch.tensor(np.array(rows))

        weights = padded([m.weights_ for m in self.maps_], 0.0)
        means = padded([m.means_[:, 0] for m in self.maps_], 0.0)
        deviations = padded([m.factors_[:, 0, 0] for m in self.maps_], 1.0)
        self._weights, self._logs = weights, weights.log()
        self._slopes, self._offset = 1 / deviations, means / deviations
        self._coefficients = gaussian_mixture.coefficients(
            weights, means[..., None], deviations[..., None, None]
        )

    @threads.isolated()
    def by_features(self, X: Floats) -> tuple[Floats, Floats]:
        """Map samples; see :meth:`Elementwise.by_features`."""
        Y, slopes = X.copy(), np.zeros(X.shape)
        U = in_widths(X, self.columns_, self.centre_, self.width_)
        Z, changes = np.empty_like(U), np.empty_like(U)
        size = max(1, _CHUNK_VALUES // self._weights.numel())
        for start in range(0, len(X), size):
            where = slice(start, start + size)
            u = torch.tensor(U[where])
            near = u.abs() <= _FARTHEST
            x = torch.where(near, u, 0.0)
            y = torch.addcmul(-self._offset, x[..., None], self._slopes)
            weights = self._weights.expand_as(y)
            z = rosenblatt.normal_score(self._logs, weights, y)
            log_prob = gaussian_mixture.log_prob(self._coefficients, x.T[..., None]).T
            change = log_prob + 0.5 * z.square() + 0.5 * math.log(2 * math.pi)
            Z[where] = torch.where(near, z, u).numpy()
            changes[where] = torch.where(near, change, 0.0).numpy()
        Y[:, self.columns_] = Z
        slopes[:, self.columns_] = changes - np.log(self.width_)
        return Y, slopes

    def inverse(self, Y: Floats) -> Floats:
        """Map samples back; what would overflow becomes the largest numbers."""
        X, largest = Y.copy(), np.finfo(float).max
        for j, centre, width, one in zip(
            self.columns_, self.centre_, self.width_, self.maps_, strict=True
        ):
            u = one.inverse(Y[:, j, np.newaxis])[:, 0]
            with np.errstate(over="ignore"):
                X[:, j] = np.clip(centre + width * u, -largest, largest)
        return X


def _fit(
    X: Floats, weight: Floats, may: NDArray[np.int_]
) -> tuple[NDArray[np.int_], Floats, Floats, list[MixtureMap]]:
    """Return columns, centres, widths and maps of the features that are not normal."""
    none: list[MixtureMap] = []
    nothing = np.zeros(0, int), np.zeros(0), np.zeros(0), none
    # Equal samples would validate each other.
    X, number = np.unique(X, axis=0, return_inverse=True)
    weight = np.bincount(number.ravel(), weight).astype(np.float64)
    n = len(X)
    if n < MIN_SAMPLES:
        return nothing
    gaussian = Whitening().fit(X, weight)
    # In random order: the first samples validate.
    order = np.random.RandomState(0).permutation(n)
    X, weight = (X[order] - gaussian.mean_) / gaussian.scale_, weight[order]
    normal = _LEAST_NEGENTROPY + _TIMES_SAMPLES / n
    may = may[~gaussian.degenerate_features_[may]]
    which = [j for j in may if _negentropy(X[:, j], weight) >= normal]
    if not which:
        return nothing
    tables = torch.tensor(X[:, which].T[..., np.newaxis].copy())
    mixtures = _mixtures(tables, torch.tensor(weight / weight.mean()))
    found = [(j, m) for j, m in zip(which, mixtures, strict=True) if m.n_components > 1]
    if not found:
        return nothing
    columns = np.array([j for j, _ in found])
    maps = [MixtureMap.of(mixture) for _, mixture in found]
    return columns, gaussian.mean_[columns], gaussian.scale_[columns], maps


def _mixtures(x: Tensor, weight: Tensor) -> list[gaussian_mixture.Mixture]:
    """Return the mixture of every table of x, shape (n_tables, n, 1)."""
    n = x.shape[1]
    if n < _CROSS_VALIDATION_SAMPLES:
        pairs = list(KFold(_N_FOLDS).split(x[0]))
    else:
        n_held = math.ceil(_VALIDATION_SHARE * n)
        pairs = [(np.arange(n_held, n), np.arange(n_held))]
    folds = [
        (_distinct(x[:, a], weight[a]), _distinct(x[:, b], weight[b])) for a, b in pairs
    ]
    n_train = len(pairs[0][0])
    growth = Growth(folds, min_components=_MIN_COMPONENTS, n_samples=n_train)
    growth.advance(Operations(_OPERATIONS))
    if len(folds) == 1:
        return growth.best()
    return growth.grown_again(_distinct(x, weight))


def _distinct(x: Tensor, weight: Tensor) -> Part:
    """Return tables in which equal values are one, where that saves half of the work.

    Tables with fewer values than others have some of no weight.
    """
    ordered, order = x[..., 0].sort()
    number = torch.zeros_like(order)
    number[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).cumsum(1)
    n_distinct = int(number.max()) + 1
    if 2 * n_distinct > x.shape[1]:
        return Part(x, weight)
    values = x.new_zeros((len(x), n_distinct)).scatter_(1, number, ordered)
    total = x.new_zeros(values.shape).scatter_add_(1, number, weight[order])
    return Part(values[..., None], total)


def _negentropy(u: Floats, weight: Floats) -> float:
    """What values of unit variance lack of a normal feature's entropy, in nats, about.

    The entropy by the spacings of their order statistics (Vasicek, "A test for
    normality based on sample entropy", 1976).
    """
    order, n = np.argsort(u), len(u)
    # As many quantiles as samples: the samples themselves where all weigh the same.
    reached = np.cumsum(weight[order])
    quantiles = np.searchsorted(reached, (np.arange(n) + 0.5) / n * reached[-1])
    u, m = u[order][quantiles], round(math.sqrt(n))
    padded = np.concatenate([np.full(m, u[0]), u, np.full(m, u[-1])])
    spacings = padded[2 * m :] - padded[: -2 * m]
    # Many equal values have no density at all.
    spacings = np.maximum(spacings, 1e-6)
    entropy = np.log(n / (2 * m) * spacings).mean()
    return 0.5 * math.log(2 * math.pi * math.e) - entropy
