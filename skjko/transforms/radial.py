"""Samples of many lengths, drawn to one length."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from typing import Self

import numpy as np
from scipy.optimize import minimize_scalar

from skjko.transforms.asinh import subsample
from skjko.transforms.base import Transform, is_int
from skjko.typing import Floats

# Fewer samples do not tell heavy tails from outliers; one feature has other maps.
_MIN_SAMPLES, _MIN_FEATURES = 100, 2
# Nats that the map has to gain on the samples it is fitted to, with its two numbers.
_LEAST_GAIN = 0.02
# The radius is no smaller than this quantile of the lengths. So many root mean squares
# of them make the map straight for all samples.
_NEAREST, _FARTHEST = 0.05, 150.0
# Logarithms between which lengths stay.
_SHORTEST, _LONGEST = -300.0, 690.0


class Radial(Transform):
    """Long samples drawn in: y = k x, |y| = scale sqrt(log(1 + |x|^2 / radius^2)).

    Near the centre the map multiplies; far away the density of a Gaussian behind it
    falls as a power of the length, as Student's t does. It is a radial Gaussianization
    (Lyu and Simoncelli, "Nonlinear extraction of independent components of natural
    images using radial Gaussianization", Neural Computation 2009) of two numbers, for
    whitened samples.

    Attributes
    ----------
    radius_, scale_ : float
        Positive, in units of the samples x and y. Both are 0 where the map would gain
        next to nothing, and is the identity.
    n_features_in_ : int
        Number of features.

    Examples
    --------
    >>> import numpy as np
    >>> from skjko.transforms import Radial
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(1000, 2)) / np.sqrt(rng.chisquare(3, (1000, 1)) / 3)
    >>> Y, log_det = Radial().fit(X).forward(X)
    >>> bool(abs(X).max() > 10 and abs(Y).max() < 6)
    True
    """

    def fit(self, X: Floats, sample_weight: Floats | None = None) -> Self:
        """Fit radius and scale; see :meth:`Transform.fit`."""
        self.n_features_in_ = X.shape[1]
        some = subsample(len(X))
        weight = np.ones(len(X)) if sample_weight is None else sample_weight
        self.radius_, self.scale_ = _fit(np.asarray(X[some]), weight[some])
        self._complete()
        return self

    def _complete(self) -> None:
        self.is_identity_ = self.radius_ == 0
        if not is_int(self.n_features_in_, 1) or not (
            self.is_identity_
            or (0 < self.radius_ < math.inf and 0 < self.scale_ < math.inf)
        ):
            raise ValueError("radius and scale of the radial map are not positive")
        if not self.is_identity_:
            self._log_growth = math.log(self.scale_) - math.log(self.radius_)

    def forward(self, X: Floats) -> tuple[Floats, Floats]:
        """Map samples; see :meth:`Transform.forward`."""
        drawn, shrunk = _drawn_in(_log_length(X) - math.log(self.radius_))
        Y = X * np.exp(self._log_growth + shrunk / 2)[:, np.newaxis]
        d = X.shape[1]
        return Y, d * self._log_growth + (d / 2 - 1) * shrunk - drawn

    def inverse(self, Y: Floats) -> Floats:
        """Map samples back; longer ones than all numbers get about the longest."""
        log_length = _log_length(Y)
        with np.errstate(over="ignore"):
            drawn = np.exp(2 * (log_length - math.log(self.scale_)))
        # The logarithm of exp(drawn) - 1.
        log_square = drawn + np.log(-np.expm1(-drawn))
        moved = np.minimum(math.log(self.radius_) + log_square / 2, _LONGEST)
        return Y * np.exp(moved - log_length)[:, np.newaxis]


def _fit(Z: Floats, weight: Floats) -> tuple[float, float]:
    """Return radius and scale of the greatest likelihood; 0 for no map."""
    n, d = Z.shape
    if n < _MIN_SAMPLES or d < _MIN_FEATURES:
        return 0.0, 0.0
    log_length, share = _log_length(Z), weight / weight.sum()
    with np.errstate(over="ignore"):
        mean_square = share @ np.exp(2 * log_length)
    if not 0 < mean_square < np.inf:
        return 0.0, 0.0

    def log_scale(drawn: Floats) -> float:
        # The scale of the greatest likelihood: the mean of |y|^2 is d.
        return 0.5 * math.log(d / (share @ drawn))

    def loss(log_radius: float) -> float:
        drawn, shrunk = _drawn_in(log_length - log_radius)
        growth = log_scale(drawn) - log_radius
        return -(d * growth + share @ ((d / 2 - 1) * shrunk - drawn))

    least = np.quantile(log_length, _NEAREST)
    most = 0.5 * math.log(mean_square) + math.log(_FARTHEST)
    log_radius = minimize_scalar(loss, bounds=(least, most), method="bounded").x
    gain = -0.5 * d * math.log(d / mean_square) - loss(log_radius)
    if not gain > _LEAST_GAIN:
        return 0.0, 0.0
    drawn, _ = _drawn_in(log_length - log_radius)
    return math.exp(log_radius), math.exp(log_scale(drawn))


def _log_length(X: Floats) -> Floats:
    """Logarithm of the length of every sample, without squares that overflow."""
    size = np.maximum(np.abs(X).max(axis=1), math.exp(_SHORTEST))
    relative = np.linalg.norm(X / size[:, np.newaxis], axis=1)
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(size) + np.log(relative), _SHORTEST)


def _drawn_in(log_length: Floats) -> tuple[Floats, Floats]:
    """Return log(1 + q) and log(log(1 + q) / q) of q = |x|^2, from log|x|."""
    log_square = 2 * log_length
    drawn = np.logaddexp(0, log_square)
    return drawn, np.log(drawn) - log_square
