"""Features with tails heavier than normal ones, made normal."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from typing import Self

import numpy as np
from scipy.optimize import minimize
from scipy.special import gammaln, log_ndtr, ndtri_exp, psi, stdtr, stdtrit

from skjko.transforms.base import Transform, is_array, is_int
from skjko.typing import Floats

# Degrees of freedom: at least, and at most. With 15 a normal distribution loses 0.003
# nats a feature, and a value 15 standard deviations away costs 20 nats and not 112.
_LEAST, _MOST = 1.5, 15.0
# Fewer samples than this have the most degrees of freedom.
_MIN_SAMPLES = 20
# Logarithm of a tail probability from where the tail is a power to all digits.
_FAR = -300.0
_LARGEST = 1e150


class StudentT(Transform):
    """Features to normal ones: y = Phi^-1(T((x - centre) / width)), feature by feature.

    T is the distribution function of Student's t with few enough degrees of freedom
    for a single value far away not to be impossible, however few samples there are.

    Attributes
    ----------
    centre_, width_ : ndarray of shape (n_features,)
        Location and scale of every feature, in data units.
    freedom_ : ndarray of shape (n_features,)
        Degrees of freedom, by maximum likelihood, from 1.5 to 15.
    n_features_in_ : int
        Number of features.

    Examples
    --------
    >>> import numpy as np
    >>> from skjko.transforms import StudentT
    >>> X = np.random.default_rng(0).standard_t(3, size=(1000, 1))
    >>> one = StudentT().fit(X)
    >>> bool(2 < one.freedom_[0] < 5)
    True
    >>> np.allclose(one.inverse(one.forward(X)[0]), X)
    True
    """

    def fit(self, X: Floats, sample_weight: Floats | None = None) -> Self:
        """Fit location, scale and degrees of freedom; see `Transform.fit`."""
        n, d = X.shape
        self.n_features_in_ = d
        weight = np.ones(n) if sample_weight is None else sample_weight
        found = [_fit(x, weight / weight.sum()) for x in X.T]
        self.centre_, self.width_, self.freedom_ = np.array(found).reshape(-1, 3).T
        self._complete()
        return self

    def _complete(self) -> None:
        d = self.n_features_in_
        if not (
            is_int(d, 1)
            and is_array(self.centre_, (d,))
            and is_array(self.width_, (d,))
            and is_array(self.freedom_, (d,))
            and (self.width_ > 0).all()
            and ((self.freedom_ >= _LEAST) & (self.freedom_ <= _MOST)).all()
        ):
            raise ValueError("the attributes of Student's distributions are none")
        # Density at zero, and log T(-x) + freedom log x far out.
        v = self.freedom_
        self._peak = gammaln((v + 1) / 2) - gammaln(v / 2) - 0.5 * np.log(v * math.pi)
        self._tail = self._peak + (v + 1) / 2 * np.log(v) - np.log(v)

    def forward(self, X: Floats) -> tuple[Floats, Floats]:
        """Map samples; see :meth:`Transform.forward`."""
        v = self.freedom_
        with np.errstate(over="ignore"):
            T = np.clip((X - self.centre_) / self.width_, -_LARGEST, _LARGEST)
        size = np.abs(T)
        with np.errstate(divide="ignore"):
            log_tail = np.log(stdtr(v, -size))
            far = self._tail - v * np.log(np.maximum(size, 1.0))
        log_tail = np.where(far < _FAR, far, log_tail)
        # Of the smaller tail, whose digits are all there.
        z = -ndtri_exp(log_tail)
        log_density = self._peak - (v + 1) / 2 * np.log1p(size**2 / v)
        log_normal = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
        log_det = (log_density - log_normal - np.log(self.width_)).sum(axis=1)
        return np.copysign(z, T), log_det

    def inverse(self, Y: Floats) -> Floats:
        """Map samples back; what would overflow becomes the largest numbers."""
        v, size = self.freedom_, np.abs(Y)
        log_tail = log_ndtr(-size)
        with np.errstate(over="ignore"):
            far = np.exp(np.minimum((self._tail - log_tail) / v, math.log(_LARGEST)))
            near = -stdtrit(v, np.exp(np.maximum(log_tail, _FAR)))
        T = np.where(log_tail < _FAR, far, near)
        T[size == 0] = 0.0
        return self.centre_ + self.width_ * np.copysign(T, Y)


def _fit(x: Floats, weight: Floats) -> tuple[float, float, float]:
    """Return location, scale and degrees of freedom of weighted values."""
    largest = float(np.abs(x).max()) or 1.0
    order = np.argsort(x)
    reached = np.cumsum(weight[order])
    low, centre, high = x[order][np.searchsorted(reached, (0.25, 0.5, 0.75))]
    width = (high - low) / 1.35
    if not width > 1e-9 * largest:
        width = math.sqrt(weight @ ((x - centre) / largest) ** 2) * largest
    if not width > 1e-9 * largest:
        return float(centre), largest, _MOST
    u = (x - centre) / width

    def loss(p: Floats) -> tuple[float, Floats]:
        centre, log_width, log_freedom = p
        v, s = np.exp(log_freedom), np.exp(log_width)
        t = (u - centre) / s
        pull = t / (v + t * t)
        constant = gammaln((v + 1) / 2) - gammaln(v / 2) - 0.5 * np.log(v)
        size, spread = weight @ np.log1p(t * t / v), weight @ (pull * t)
        value = log_width - constant + (v + 1) / 2 * size
        by_freedom = psi(v / 2) - psi((v + 1) / 2) + 1 / v + size - (v + 1) / v * spread
        gradient = [-(v + 1) / s * (weight @ pull), 1 - (v + 1) * spread]
        return value, np.array([*gradient, 0.5 * v * by_freedom])

    bounds = [(-1.0, 1.0), (-3.0, 3.0), (math.log(_LEAST), math.log(_MOST))]
    if len(x) < _MIN_SAMPLES:
        bounds[2] = (math.log(_MOST), math.log(_MOST))
    start = [0.0, 0.0, bounds[2][1]]
    best = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    freedom = min(max(math.exp(best[2]), _LEAST), _MOST)
    return float(centre + width * best[0]), float(width * math.exp(best[1])), freedom
