"""Skewed and heavy-tailed features, drawn in by an inverse hyperbolic sine."""

# SPDX-License-Identifier: BSD-3-Clause

from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from skjko.transforms.base import Elementwise, is_array, is_int
from skjko.transforms.whitening import Whitening
from skjko.typing import Floats

# Samples beyond this number would cost time and no longer change two parameters.
_MAX_SAMPLES = 4000
# With fewer samples a tail cannot be told from an outlier.
MIN_SAMPLES = 100
# A feature is mapped if that gains this much in the likelihood of other samples, in
# nats, and this many standard errors; and if all features gain this much together, for
# a flow makes smaller gains itself, and better.
_LEAST_GAIN, _STANDARD_ERRORS, _LEAST_TOTAL = 0.02, 2.0, 0.2
# The gain of one sample is cut off here, in nats: in heavy tails a few samples would
# make up most of the gain.
_LARGEST_GAIN = 5.0
# Features of narrower values have no digits left below.
_LEAST_SCALE = 1e-300
# Widths in robust standard deviations: narrower maps would make a peak of a few equal
# values, wider ones are affine.
_WIDTHS = (0.05, 20.0)


def subsample(n: int, size: int = _MAX_SAMPLES) -> NDArray[np.int_]:
    """Return the numbers of at most `size` of n samples, evenly spaced."""
    return np.linspace(0, n - 1, min(n, size)).astype(int)


class Asinh(Elementwise):
    """Heavy tails drawn in: y = asinh((x - centre) / width), feature by feature.

    Near its centre the map is affine, many widths away a logarithm. A Gaussian behind
    it is Johnson's S_U distribution, which has skew and heavy tails. A feature is
    mapped if that gains in the likelihood of samples that were not fitted.

    Attributes
    ----------
    columns_ : ndarray of int of shape (n_mapped,)
        Features that are mapped; the others stay as they are.
    centre_, width_ : ndarray of shape (n_mapped,)
        In data units.
    n_features_in_ : int
        Number of features.

    Examples
    --------
    >>> import numpy as np
    >>> from skjko.transforms import Asinh
    >>> rng = np.random.default_rng(0)
    >>> X = np.c_[rng.normal(size=1000), rng.standard_cauchy(size=1000)]
    >>> Asinh().fit(X).columns_
    array([1])
    """

    def fit(self, X: Floats, sample_weight: Floats | None = None) -> Self:
        """Choose features and fit their maps; see :meth:`Transform.fit`."""
        self.n_features_in_ = X.shape[1]
        some = subsample(len(X))
        weight = np.ones(len(X)) if sample_weight is None else sample_weight
        found = _choose(np.asarray(X[some], dtype=np.float64), weight[some])
        self.columns_, self.centre_, self.width_ = found
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
        ):
            raise ValueError("the attributes of the asinh map do not make one")
        self.is_identity_ = not len(self.columns_)

    def by_features(self, X: Floats) -> tuple[Floats, Floats]:
        """Map samples; see :meth:`Elementwise.by_features`."""
        Y, u = X.copy(), in_widths(X, self.columns_, self.centre_, self.width_)
        Y[:, self.columns_] = np.arcsinh(u)
        slopes = np.zeros(X.shape)
        # hypot, for the square of u may overflow.
        slopes[:, self.columns_] = -np.log(np.hypot(1.0, u)) - np.log(self.width_)
        return Y, slopes

    def inverse(self, Y: Floats) -> Floats:
        """Map samples back; what would overflow becomes the largest numbers."""
        X, largest = Y.copy(), np.finfo(float).max
        y = np.clip(Y[:, self.columns_], -700.0, 700.0)
        with np.errstate(over="ignore"):
            x = self.centre_ + self.width_ * np.sinh(y)
        X[:, self.columns_] = np.clip(x, -largest, largest)
        return X


def in_widths(
    X: Floats, columns: NDArray[np.int_], centre: Floats, width: Floats
) -> Floats:
    """Return features relative to their centres, in widths, at most the largest."""
    largest = np.finfo(float).max
    with np.errstate(over="ignore"):
        u = (X[:, columns] - centre) / width
    return np.clip(u, -largest, largest)


def _choose(X: Floats, weight: Floats) -> tuple[NDArray[np.int_], Floats, Floats]:
    """Return columns, centres and widths of the features that gain by a map.

    Two halves of the samples score each other. Features have to gain in the likelihood
    of a Gaussian each, and together in that of the Gaussian of all features: linear
    relations stay linear where that is worth more.
    """
    nothing = np.zeros(0, int), np.zeros(0), np.zeros(0)
    if len(X) < MIN_SAMPLES:
        return nothing
    gained = np.array([_gain(x, weight) for x in X.T])
    columns = np.flatnonzero(gained > 0)
    if not gained.sum() > _LEAST_TOTAL:
        return nothing
    columns = columns[~Whitening().fit(X, weight).degenerate_features_[columns]]
    if not len(columns):
        return nothing
    first = np.arange(len(X)) % 2 == 0
    gains = np.empty(len(X))
    for a, b in ((first, ~first), (~first, first)):
        plain = Whitening().fit(X[a], weight[a])
        centre, width = _fit(X[a], weight[a], columns)
        half = Asinh()
        half.columns_, half.centre_, half.width_ = columns, centre, width
        mapped = Whitening().fit(half.forward(X[a])[0], weight[a])
        Y, log_det = half.forward(X[b])
        with np.errstate(invalid="ignore"):
            gains[b] = log_det + mapped.log_prob(Y) - plain.log_prob(X[b])
    if not _pays(gains, weight, least=0.0, errors=1.0):
        return nothing
    return columns, *_fit(X, weight, columns)


def _gain(x: Floats, weight: Floats) -> float:
    """Return what the map of one feature gains on other samples; 0 if that is noise."""
    quarter = slice(None, None, 4)
    sample, share = x[quarter], weight[quarter]
    # Most features end here, for the price of one fit to few samples: what is not
    # gained on the samples fitted will not be gained on others.
    fitted = _fit_one(sample, share)
    if fitted is None:
        return 0.0
    gain = _score(sample, share, fitted, sample) - _score(sample, share, None, sample)
    if np.average(gain, weights=share) < _LEAST_GAIN:
        return 0.0
    first = np.arange(len(x)) % 2 == 0
    gains = np.empty(len(x))
    for a, b in ((first, ~first), (~first, first)):
        fitted = _fit_one(x[a], weight[a])
        if fitted is None:
            return 0.0
        with_map = _score(x[a], weight[a], fitted, x[b])
        gains[b] = with_map - _score(x[a], weight[a], None, x[b])
    gains = np.clip(gains, -_LARGEST_GAIN, _LARGEST_GAIN)
    pays = _pays(gains, weight, _LEAST_GAIN, _STANDARD_ERRORS)
    return np.average(gains, weights=weight) if pays else 0.0


def _pays(gains: Floats, weight: Floats, least: float, errors: float) -> bool:
    """Whether the mean gain is more than `least`, and than its standard errors."""
    # What overflows, or is the difference of what did, is too uncertain to pay.
    with np.errstate(over="ignore", invalid="ignore"):
        mean = np.average(gains, weights=weight)
        error = np.sqrt((weight**2 * (gains - mean) ** 2).sum()) / weight.sum()
        return bool(mean - errors * error > 0 and mean > least)


def _fit(X: Floats, weight: Floats, columns: NDArray[np.int_]) -> tuple[Floats, Floats]:
    """Return centres and widths of the features' maps."""
    fitted = [_fit_one(X[:, j], weight) for j in columns]
    # Where rounding denies a feature its map, one so wide that it is affine serves.
    spread = [np.abs(X[:, j]).max() for j in columns]
    pairs = zip(fitted, spread, strict=True)
    centre, width = np.array([(0.0, 1e6 * s) if f is None else f for f, s in pairs]).T
    return centre.copy(), width.copy()


def _fit_one(x: Floats, weight: Floats) -> tuple[float, float] | None:
    """Return the centre and width of the greatest likelihood, or None.

    Units do not matter: everything is in robust standard deviations from the median.
    The Gaussian behind the map is profiled out.
    """
    low, median, high = np.quantile(x, [0.25, 0.5, 0.75])
    scale = (high - low) / 1.349
    # With half of the values equal there is no telling the middle from the tails.
    if not scale > max(1e-9 * (abs(low) + abs(high)), _LEAST_SCALE):
        return None
    s = (x - median) / scale
    share = weight / weight.sum()

    def loss(theta: Floats) -> tuple[float, Floats]:
        centre, width = theta[0], np.exp(theta[1])
        u = (s - centre) / width
        root = np.hypot(1.0, u)
        w = np.arcsinh(u)
        w = w - share @ w
        variance = share @ w**2
        value = 0.5 * np.log(variance) + theta[1] + share @ np.log(root)
        # dw/du = 1 / root, and du is -1/width by the centre, -u by the logarithm of
        # the width.
        with np.errstate(over="ignore"):
            by_u = w / (variance * root) + u / root**2
        return value, np.array([-(share @ by_u) / width, 1 - share @ (by_u * u)])

    inner = np.quantile(s, [0.001, 0.999])
    found = minimize(
        loss,
        np.zeros(2),
        jac=True,
        method="L-BFGS-B",
        bounds=[tuple(inner), tuple(np.log(_WIDTHS))],
        options={"ftol": 1e-12, "gtol": 1e-8},
    )
    if not np.isfinite(found.fun):
        return None
    return median + scale * found.x[0], scale * np.exp(found.x[1])


def _score(
    x: Floats, weight: Floats, fitted: tuple[float, float] | None, others: Floats
) -> Floats:
    """Log-density in nats of other values, by a Gaussian fitted to x behind the map."""
    log_det = 0.0
    if fitted is not None:
        centre, width = fitted
        u = (others - centre) / width
        log_det = -np.log(np.hypot(1.0, u)) - np.log(width)
        x, others = np.arcsinh((x - centre) / width), np.arcsinh(u)
    mean = np.average(x, weights=weight)
    x, others = x - mean, others - mean
    # Squares may leave the range of numbers: the unit is a power of two near the
    # values, which changes no digit.
    exponent = np.frexp(np.abs(x).max())[1]
    log_det = log_det - exponent * np.log(2)
    variance = np.average(np.ldexp(x, -exponent) ** 2, weights=weight)
    with np.errstate(over="ignore"):
        others = np.ldexp(others, -exponent)
        return log_det - 0.5 * (others**2 / variance + np.log(variance))
