"""Smooth invertible maps of single columns: bounds, skew and heavy tails."""

# SPDX-License-Identifier: BSD-3-Clause

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

# Rows beyond this number would cost time and no longer change two parameters.
_MAX_ROWS = 4000
# Below this number of rows a tail cannot be told from an outlier.
MIN_ROWS = 100
# A column is mapped if that gains this much in held-out likelihood, in nats, and this
# many standard errors.
_LEAST_GAIN = 0.02
_STANDARD_ERRORS = 2.0
# ... and if the columns of the table gain this much together. A flow makes smaller
# gains itself, and better: a drawing in the plane, where the map of a column gained
# 0.12, was learned worse by 0.03 behind it.
_WORTHWHILE_GAIN = 0.2
# The gain of one row is cut off here, in nats: in heavy tails a few rows would make up
# most of the gain, and more of its standard error.
LARGEST_GAIN = 5.0
# Columns with less than this share of a flat direction are no part of it.
_FLAT_SHARE = 1e-6
# Columns of narrower values are left alone: numbers have no digits left below.
_LEAST_SCALE = 1e-300
# Width of a map in robust standard deviations. Narrower ones would make a peak of a
# few equal values, wider ones are affine.
_WIDTHS = (0.05, 20.0)


class Bounds:
    """Bounded columns to unbounded ones, by logarithm or logit.

    With a lower bound a alone y = log(x - a), with an upper bound b alone
    y = -log(b - x), with both y = log((x - a) / (b - x)). Columns without bounds stay
    as they are.

    Parameters
    ----------
    lower, upper : ndarray of shape (n_features,)
        In data units; infinite for none.
    """

    def __init__(self, lower, upper):
        self.lower, self.upper = lower, upper
        has_lower, has_upper = np.isfinite(lower), np.isfinite(upper)
        self._below = np.flatnonzero(has_lower & ~has_upper)
        self._above = np.flatnonzero(~has_lower & has_upper)
        self._both = np.flatnonzero(has_lower & has_upper)

    def outside(self, X):
        """Whether each value is outside of the open interval of its column."""
        return ~((self.lower < X) & (self.upper > X))

    def forward(self, X):
        """Map rows; return them and log|det dy/dx| of every row.

        Rows that are not inside have no image: they get any position, and a
        log-determinant of -inf, so that their density is zero.
        """
        Y, log_det = X.copy(), np.zeros(len(X))
        inside = ~self.outside(X).any(axis=1)
        x = X[inside]
        j = self._below
        Y[np.ix_(inside, j)] = y = np.log(x[:, j] - self.lower[j])
        part = -y.sum(axis=1)
        j = self._above
        Y[np.ix_(inside, j)] = y = -np.log(self.upper[j] - x[:, j])
        part += y.sum(axis=1)
        j = self._both
        below, above = np.log(x[:, j] - self.lower[j]), np.log(self.upper[j] - x[:, j])
        Y[np.ix_(inside, j)] = below - above
        # Halves, for the width itself may overflow.
        width = np.log(self.upper[j] / 2 - self.lower[j] / 2) + np.log(2)
        part += (width - below - above).sum(axis=1)
        log_det[inside] = part
        bounded = np.r_[self._below, self._above, self._both]
        Y[np.ix_(~inside, bounded)] = 0.0
        log_det[~inside] = -np.inf
        return Y, log_det

    def inverse(self, Y):
        """Map back, into the open intervals however far out Y is."""
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
        return self.clip(X)

    def clip(self, X):
        """Move values outside of the open intervals to just inside."""
        largest = np.finfo(float).max
        low = np.where(
            np.isfinite(self.lower), np.nextafter(self.lower, np.inf), -largest
        )
        high = np.where(
            np.isfinite(self.upper), np.nextafter(self.upper, -np.inf), largest
        )
        return np.clip(X, low, high)


class MarginalMap:
    """Long tails drawn in: y = asinh((x - centre) / width), column by column.

    Near its centre the map is affine, many widths away a logarithm, on one side if the
    centre is at the other end of the data: a Gaussian behind it is Johnson's S_U
    distribution, which has skew and heavy tails.

    Parameters
    ----------
    columns : ndarray of int of shape (n_mapped,)
        Those that are mapped; the others stay as they are.
    centre, width : ndarray of shape (n_mapped,)
        In data units.
    """

    def __init__(self, columns, centre, width):
        self.columns, self.centre, self.width = columns, centre, width

    def forward(self, X):
        """Map rows; return them and log|det dy/dx| of every row."""
        Y, u = X.copy(), in_widths(X, self)
        Y[:, self.columns] = np.arcsinh(u)
        # hypot, for the square of u may overflow.
        return Y, -(np.log(np.hypot(1.0, u)) + np.log(self.width)).sum(axis=1)

    def inverse(self, Y):
        """Map back; what would overflow becomes the largest numbers there are."""
        X = Y.copy()
        y = np.clip(Y[:, self.columns], -700.0, 700.0)
        largest = np.finfo(float).max
        with np.errstate(over="ignore"):
            x = self.centre + self.width * np.sinh(y)
        X[:, self.columns] = np.clip(x, -largest, largest)
        return X


def in_widths(X, marginal):
    """Columns of a marginal map from its centres in its widths, at most the largest."""
    largest = np.finfo(float).max
    with np.errstate(over="ignore"):
        u = (X[:, marginal.columns] - marginal.centre) / marginal.width
    return np.clip(u, -largest, largest)


def looked_at(n):
    """Return the numbers of the rows, of n, that a map is chosen by."""
    return np.linspace(0, n - 1, min(n, _MAX_ROWS)).astype(int)


def in_flat(gaussian):
    """Whether each column is part of a flat direction of a `GaussianWhitening`.

    Columns without a density, such as copies and sums of others, have to stay as they
    are: bent, a flat direction is a thin curved one, which no flow can learn.
    """
    parts = gaussian.parts
    flat = parts["vectors"][:, len(parts["mean"]) - parts["n_flat"] :]
    return (np.abs(flat) > _FLAT_SHARE).any(axis=1)


def choose_marginal_map(X, weight, gaussian_of):
    """Return the map of the columns that it helps on held-out rows, or None.

    Two halves of the rows score each other. A column is mapped if that gains in the
    likelihood of a Gaussian of its own, and any are if together that is much, and if
    together they gain in the likelihood of the Gaussian of all columns: relations that
    are linear stay linear where that is worth more.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    weight : ndarray of shape (n_samples,)
        Positive.
    gaussian_of : callable
        Maps rows and weights to a fitted `GaussianWhitening`.

    Returns
    -------
    marginal : MarginalMap or None
    """
    if len(X) < MIN_ROWS:
        return None
    some = looked_at(len(X))
    X, weight = X[some], weight[some]
    gained = np.array([_gain(x, weight) for x in X.T])
    helped = np.flatnonzero(gained > 0) if gained.sum() > _WORTHWHILE_GAIN else []
    if len(helped):
        without_density = in_flat(gaussian_of(X, weight))
        helped = [j for j in helped if not without_density[j]]
    if not len(helped):
        return None
    first = np.arange(len(X)) % 2 == 0
    gains = np.empty(len(X))
    for a, b in ((first, ~first), (~first, first)):
        plain, marginal = gaussian_of(X[a], weight[a]), _fit(X[a], weight[a], helped)
        mapped = gaussian_of(marginal.forward(X[a])[0], weight[a])
        Y, log_det = marginal.forward(X[b])
        with np.errstate(invalid="ignore"):
            gains[b] = log_det + _log_density(mapped, Y) - _log_density(plain, X[b])
    if not pays(gains, weight, least=0.0, errors=1.0):
        return None
    return _fit(X, weight, helped)


def _gain(x, weight):
    """Return what the map of one column gains on held-out rows; 0 if that is noise."""
    quarter = slice(None, None, 4)
    sample, share = x[quarter], weight[quarter]
    # Most columns end here, for the price of one fit to few rows: what is not gained on
    # the rows fitted will not be gained on others.
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
        gains[b] = _score(x[a], weight[a], fitted, x[b]) - _score(
            x[a], weight[a], None, x[b]
        )
    gains = np.clip(gains, -LARGEST_GAIN, LARGEST_GAIN)
    is_gain = pays(gains, weight, _LEAST_GAIN, _STANDARD_ERRORS)
    return np.average(gains, weights=weight) if is_gain else 0.0


def pays(gains, weight, least, errors):
    """Whether gains of rows are more than `least` in the mean, and than its errors.

    Parameters
    ----------
    gains, weight : ndarray of shape (n_samples,)
    least : float
    errors : float
        Standard errors of the mean.
    """
    # What overflows, or is the difference of what did, is too uncertain to pay.
    with np.errstate(over="ignore", invalid="ignore"):
        mean = np.average(gains, weights=weight)
        error = np.sqrt((weight**2 * (gains - mean) ** 2).sum()) / weight.sum()
        return mean - errors * error > 0 and mean > least


def _fit(X, weight, columns):
    fitted = [_fit_one(X[:, j], weight) for j in columns]
    # A column that no half could do without has a fit to all rows; if rounding denies
    # it, a map so wide that it is affine changes nothing.
    spread = [np.abs(X[:, j]).max() for j in columns]
    fitted = [
        (0.0, 1e6 * s) if f is None else f for f, s in zip(fitted, spread, strict=True)
    ]
    centre, width = np.array(fitted).T
    return MarginalMap(np.array(columns), centre, width)


def _fit_one(x, weight):
    """Return the centre and width of the greatest likelihood, or None.

    Units do not matter: everything happens in robust standard deviations from the
    median. The Gaussian behind the map is profiled out.
    """
    low, median, high = np.quantile(x, [0.25, 0.5, 0.75])
    scale = (high - low) / 1.349
    # With half of the values equal there is no telling the middle from the tails.
    if not scale > max(1e-9 * (abs(low) + abs(high)), _LEAST_SCALE):
        return None
    s = (x - median) / scale
    share = weight / weight.sum()

    def loss(theta):
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


def _score(x, weight, fitted, rows):
    """Log-density of rows in nats, by a Gaussian fitted to x behind the map."""
    log_det = 0.0
    if fitted is not None:
        centre, width = fitted
        u = (rows - centre) / width
        log_det = -np.log(np.hypot(1.0, u)) - np.log(width)
        x, rows = np.arcsinh((x - centre) / width), np.arcsinh(u)
    mean = np.average(x, weights=weight)
    x, rows = x - mean, rows - mean
    # Squares may leave the range of numbers, so that the unit is a power of two near
    # the values, which changes no digit.
    exponent = np.frexp(np.abs(x).max())[1]
    log_det = log_det - exponent * np.log(2)
    variance = np.average(np.ldexp(x, -exponent) ** 2, weights=weight)
    with np.errstate(over="ignore"):
        rows = np.ldexp(rows, -exponent)
        return log_det - 0.5 * (rows**2 / variance + np.log(variance))


def _log_density(gaussian, rows):
    """Log-density of rows up to a constant, in nats."""
    Z, log_det = gaussian.forward(rows)
    with np.errstate(over="ignore"):
        return log_det - 0.5 * np.square(Z).sum(axis=1)
