"""Synthetic tables: distributions with any number of columns.

The shape of each is drawn at random from its own `random_state`, so that equal
parameters make equal distributions; what is sampled from it depends on the
`random_state` of `sample`.
"""

# SPDX-License-Identifier: BSD-3-Clause

from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Real

import numpy as np
from scipy.special import digamma, exprel, gammaln, log_ndtr, ndtri_exp

from skjko.datasets.base import (
    SPACING,
    Distribution,
    IsotropicMixture,
    along_curve,
    check_number,
    frozen,
    logsumexp_rows,
)

__all__ = [
    "correlated_mixture",
    "funnel",
    "heavy_tails",
    "noisy_manifold",
    "skewed_copula",
]

_LOG_2PI = np.log(2 * np.pi)

# Beyond this condition number rounding errors would show in the log-density.
_LARGEST_CONDITION = 1e6


def _check_structure(n_features, random_state, caller, condition=1.0):
    """Check the parameters that several tables share; return a RandomState."""
    check_number(n_features, "n_features", caller, Integral, 1, closed="left")
    check_number(
        condition, "condition", caller, Real, 1, _LARGEST_CONDITION, closed="both"
    )
    check_number(
        random_state, "random_state", caller, Integral, 0, 2**32, closed="left"
    )
    # The stream of a RandomState is the same in every version of NumPy.
    return np.random.RandomState(random_state)


def _random_orthogonal(n, rng):
    """Draw an orthogonal matrix of shape (n, n), uniformly."""
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    # Without its signs, what QR returns would depend on its algorithm.
    return q * np.sign(np.diag(r))


def _random_factor(n_features, condition, rng):
    """Draw a factor A of a covariance A A^T with eigenvalues in [1 / condition, 1].

    The logarithms of the eigenvalues are spread evenly: one in each of `n_features`
    equal parts of their range. The eigenvectors are uniform.
    """
    depth = (np.arange(n_features) + rng.uniform(size=n_features)) / n_features
    return _random_orthogonal(n_features, rng) * condition ** (-depth / 2)


def _log_norms(X, matrix=None):
    """Return the log of the norm of each row of X, or of X @ matrix.T.

    No row is so long that it overflows: each is divided by its largest element first.
    """
    largest = np.abs(X).max(axis=1, initial=0.0)
    largest[largest == 0] = 1.0
    X = X / largest[:, None]
    if matrix is not None:
        X = X @ matrix.T
    with np.errstate(divide="ignore"):
        return np.log(largest) + np.log(np.linalg.norm(X, axis=1))


def _half_squared_norms(X, matrix):
    """Return |matrix x|^2 / 2 for each row x of X; inf where it overflows."""
    with np.errstate(over="ignore"):
        return 0.5 * np.exp(2 * _log_norms(X, matrix))


@dataclass(frozen=True, eq=False, repr=False)
class _GaussianMixture(Distribution):
    """Mixture of Gaussians, each with mean m and covariance A A^T of its own."""

    name: str
    means: np.ndarray
    factors: np.ndarray
    weights: np.ndarray

    def __post_init__(self):
        object.__setattr__(self, "means", frozen(self.means))
        object.__setattr__(self, "factors", frozen(self.factors))
        object.__setattr__(self, "weights", frozen(self.weights / self.weights.sum()))

    @property
    def n_features(self):
        return self.means.shape[1]

    @property
    def _n_terms(self):
        return len(self.means) + 3 * self.n_features

    @cached_property
    def _whiteners(self):
        return frozen(np.linalg.inv(self.factors))

    @cached_property
    def _log_peaks(self):
        """Log of each weighted component's density at its own mean."""
        log_volume = self.n_features / 2 * _LOG_2PI + np.linalg.slogdet(self.factors)[1]
        return frozen(np.log(self.weights) - log_volume)

    def _sample(self, n_samples, rng):
        component = rng.choice(len(self.means), size=n_samples, p=self.weights)
        X = rng.standard_normal((n_samples, self.n_features))
        for k, (mean, factor) in enumerate(zip(self.means, self.factors, strict=True)):
            X[component == k] = mean + X[component == k] @ factor.T
        return X

    def _log_density(self, X):
        terms = np.empty((len(X), len(self.means)))
        for k, whitener in enumerate(self._whiteners):
            terms[:, k] = -_half_squared_norms(X - self.means[k], whitener)
        terms += self._log_peaks
        return logsumexp_rows(terms)


@dataclass(frozen=True, eq=False, repr=False)
class _StudentT(Distribution):
    """Multivariate Student t about the origin: x = A z / sqrt(w), w ~ chi2(df) / df."""

    name: str
    factor: np.ndarray
    df: float

    def __post_init__(self):
        object.__setattr__(self, "factor", frozen(self.factor))

    @property
    def n_features(self):
        return len(self.factor)

    @property
    def _n_terms(self):
        return 3 * self.n_features

    @cached_property
    def _whitener(self):
        return frozen(np.linalg.inv(self.factor))

    @cached_property
    def _log_peak(self):
        n, df = self.n_features, self.df
        log_constant = gammaln((df + n) / 2) - gammaln(df / 2)
        log_volume = n / 2 * np.log(np.pi * df) + np.linalg.slogdet(self.factor)[1]
        return float(log_constant - log_volume)

    def _sample(self, n_samples, rng):
        Z = rng.standard_normal((n_samples, self.n_features))
        w = rng.chisquare(self.df, size=n_samples) / self.df
        return Z @ self.factor.T / np.sqrt(w)[:, None]

    def _log_density(self, X):
        # With the logarithm of r, log(1 + r^2 / df) is right where r^2 overflows.
        log_ratio = 2 * _log_norms(X, self._whitener) - np.log(self.df)
        power = (self.df + self.n_features) / 2
        return self._log_peak - power * np.logaddexp(0.0, log_ratio)

    def _exact_entropy(self):
        power = (self.df + self.n_features) / 2
        return power * (digamma(power) - digamma(self.df / 2)) - self._log_peak


@dataclass(frozen=True, eq=False, repr=False)
class _Funnel(Distribution):
    """A Gaussian first column v; given it, the others have variance exp(v)."""

    name: str
    n_features: int
    sigma: float

    @property
    def _n_terms(self):
        return 2 * self.n_features

    def _sample(self, n_samples, rng):
        X = rng.standard_normal((n_samples, self.n_features))
        X[:, 0] *= self.sigma
        X[:, 1:] *= np.exp(X[:, :1] / 2)
        return X

    def _log_density(self, X):
        v, n_others = X[:, 0], self.n_features - 1
        with np.errstate(over="ignore"):
            # A factored sum, whose terms cannot become inf - inf.
            log_density = -v / 2 * (v / self.sigma**2 + n_others)
            log_density -= 0.5 * np.exp(2 * _log_norms(X[:, 1:]) - v)
        return log_density - self.n_features / 2 * _LOG_2PI - np.log(self.sigma)

    def _exact_entropy(self):
        return self.n_features / 2 * (1 + _LOG_2PI) + np.log(self.sigma)


def _normal_scores(w):
    """Return z such that a standard normal is below z as often as log(E) is below w.

    E is a standard exponential variable. The smaller of the two tail probabilities
    decides, by its logarithm, so that z is right however far out.
    """
    low, high = np.minimum(w, 0.0), np.maximum(w, 0.0)
    # Here 1 - exp(-e) = e exprel(-e), and e = exp(low).
    log_below = low + np.log(exprel(-np.exp(low)))
    return np.where(w < 0, ndtri_exp(log_below), -ndtri_exp(-np.exp(high)))


@dataclass(frozen=True, eq=False, repr=False)
class _SkewedCopula(Distribution):
    """Correlated standard normal columns z = A u, each mapped to a skewed marginal.

    Three kinds of column take turns: log-normal, Weibull and reflected Gumbel. With
    y = log x for the two positive kinds and y = x for the last one, w = y / scale is
    z itself where x is log-normal, else the logarithm of an exponential variable.
    """

    name: str
    factor: np.ndarray
    sigma: float
    shape: float

    def __post_init__(self):
        object.__setattr__(self, "factor", frozen(self.factor))

    @property
    def n_features(self):
        return len(self.factor)

    @property
    def _n_terms(self):
        return 8 * self.n_features

    @cached_property
    def _whitener(self):
        return frozen(np.linalg.inv(self.factor))

    @cached_property
    def _log_volume(self):
        return float(np.linalg.slogdet(self.factor)[1])

    @property
    def _columns(self):
        """Whether each column is positive, is made of an exponential, and its scale."""
        kind = np.arange(self.n_features) % 3
        scale = np.array([self.sigma, 1 / self.shape, 1.0])[kind]
        return kind < 2, kind > 0, scale

    def _sample(self, n_samples, rng):
        positive, exponential, scale = self._columns
        W = rng.standard_normal((n_samples, self.n_features)) @ self.factor.T
        W[:, exponential] = np.log(-log_ndtr(-W[:, exponential]))
        X = scale * W
        X[:, positive] = np.exp(X[:, positive])
        return X

    def _log_density(self, X):
        positive, exponential, scale = self._columns
        inside = (X[:, positive] > 0).all(axis=1)
        X = np.where(inside[:, None], X, 1.0)
        log_X = np.log(X[:, positive])
        X[:, positive] = log_X
        with np.errstate(over="ignore"):
            Z = X / scale
            w = Z[:, exponential]
            Z[:, exponential] = _normal_scores(w)
            squares = Z**2
            # Where squares overflow the density is zero, but its factors are 0 and inf.
            inside &= np.isfinite(squares.sum(axis=1))
        Z, squares, w = (np.where(inside[:, None], a, 0.0) for a in (Z, squares, w))

        # The density of z = A u, times |dz / dw|, |dw / dy| and |dy / dx|.
        log_density = -_half_squared_norms(Z, self._whitener)
        log_density -= self._log_volume + self.n_features / 2 * _LOG_2PI
        log_density += (w - np.exp(w)).sum(axis=1)
        log_density += (squares[:, exponential] + _LOG_2PI).sum(axis=1) / 2
        log_density -= np.log(scale).sum() + log_X.sum(axis=1)
        return np.where(inside, log_density, -np.inf)

    def _exact_entropy(self):
        positive, exponential, scale = self._columns
        mean = np.where(exponential, -np.euler_gamma, 0.0)
        entropy = np.where(exponential, 1 + np.euler_gamma, (1 + _LOG_2PI) / 2)
        marginals = entropy + np.log(scale) + np.where(positive, scale * mean, 0.0)
        return marginals.sum() + self._log_volume


def correlated_mixture(
    n_features=10,
    *,
    n_components=5,
    separation=4.0,
    condition=100.0,
    random_state=0,
):
    """Make a mixture of Gaussians with full covariances and distant means.

    Along the line between two means no component has a standard deviation above one,
    so with `separation` s at most a share Phi(-s / 2) of a component lies on the wrong
    side of the middle: 2.3 % for s = 4. In many dimensions it is much less.

    Parameters
    ----------
    n_features : int, default=10
        Number of columns.
    n_components : int, default=5
        Number of Gaussians. The largest weight is less than three times the smallest.
    separation : float, default=4.0
        Smallest distance between two means.
    condition : float, default=100.0
        All eigenvalues of all covariances lie between 1 / condition and 1, so no
        covariance has a larger condition number; at most 1e6.
    random_state : int, default=0
        Seed of the means, covariances and weights.

    Returns
    -------
    distribution : Distribution
        The mixture. Its entropy has no closed form.

    Notes
    -----
    The density is sum_k w_k N(x; m_k, Q_k D_k Q_k^T). The orthogonal Q_k are uniform
    [1]_, and the eigenvalues in D_k are spread evenly on a logarithmic scale, one at
    random in each of `n_features` equal parts of the range.

    References
    ----------
    .. [1] F. Mezzadri, "How to generate random matrices from the classical compact
       groups", Notices of the AMS 54(5), 592-604, 2007.

    Examples
    --------
    >>> from skjko.datasets import correlated_mixture
    >>> clusters = correlated_mixture(20, n_components=3)
    >>> X = clusters.sample(1000, random_state=0)
    >>> X.shape, clusters.score_samples(X).shape
    ((1000, 20), (1000,))
    """
    caller = "correlated_mixture"
    rng = _check_structure(n_features, random_state, caller, condition)
    check_number(n_components, "n_components", caller, Integral, 1, closed="left")
    check_number(separation, "separation", caller, Real, 0, closed="left")

    # Two draws are at about this distance from each other. The cloud grows as long as
    # there is no room, so that the means stay close to their neighbours.
    spread = separation / np.sqrt(2 * n_features)
    means = np.empty((0, n_features))
    while len(means) < n_components:
        mean = spread * rng.standard_normal(n_features)
        if (np.linalg.norm(means - mean, axis=1) >= separation).all():
            means = np.vstack([means, mean])
        else:
            spread *= 1.01
    factors = [_random_factor(n_features, condition, rng) for _ in means]
    weights = rng.uniform(1.0, 3.0, size=n_components)
    return _GaussianMixture(caller, means, factors, weights)


def heavy_tails(n_features=10, *, df=3.0, condition=100.0, random_state=0):
    """Make a correlated multivariate Student t distribution about the origin.

    A row that is far out is so in all its columns at once, since they share the
    random scale.

    Parameters
    ----------
    n_features : int, default=10
        Number of columns.
    df : float, default=3.0
        Degrees of freedom, between 1 (Cauchy) and 1e6 (all but Gaussian). Moments of
        order `df` and above do not exist.
    condition : float, default=100.0
        The eigenvalues of the scale matrix lie between 1 / condition and 1; at most
        1e6.
    random_state : int, default=0
        Seed of the scale matrix.

    Returns
    -------
    distribution : Distribution
        The Student t distribution; its entropy is exact.

    Notes
    -----
    With n = `n_features`, nu = `df` and the scale matrix S, the density is [1]_

        Gamma((nu + n) / 2) / Gamma(nu / 2) (nu pi)^(-n / 2) |S|^(-1 / 2)
        (1 + x^T S^-1 x / nu)^(-(nu + n) / 2).

    The entropy is minus its logarithm at the origin plus
    (nu + n) / 2 (psi((nu + n) / 2) - psi(nu / 2)), where psi is the digamma function.

    References
    ----------
    .. [1] S. Kotz and S. Nadarajah, "Multivariate t Distributions and Their
       Applications", Cambridge University Press, 2004.

    Examples
    --------
    >>> from skjko.datasets import heavy_tails
    >>> tails = heavy_tails(5, df=2.0)
    >>> tails.sample(3, random_state=0).shape
    (3, 5)
    >>> tails.entropy()[1]
    0.0
    """
    rng = _check_structure(n_features, random_state, "heavy_tails", condition)
    check_number(df, "df", "heavy_tails", Real, 1, 1e6, closed="both")
    factor = _random_factor(n_features, condition, rng)
    return _StudentT("heavy_tails", factor, float(df))


def funnel(n_features=10, *, sigma=3.0):
    """Make Neal's funnel, where the first column sets the spread of all the others.

    Parameters
    ----------
    n_features : int, default=10
        Number of columns. A single one is Gaussian.
    sigma : float, default=3.0
        Standard deviation of the first column, at most 100. Within two of them, the
        spread of the other columns changes by a factor of exp(2 sigma).

    Returns
    -------
    distribution : Distribution
        The funnel; its entropy is exact.

    Notes
    -----
    The first column v is normal with mean 0 and variance sigma^2, the others are
    independent given v, normal with mean 0 and variance exp(v) [1]_. In the entropy,
    n_features (1 + log(2 pi)) / 2 + log(sigma), the changing spread cancels out: v has
    mean zero.

    References
    ----------
    .. [1] R. M. Neal, "Slice sampling", The Annals of Statistics 31(3), 705-767, 2003.

    Examples
    --------
    >>> from skjko.datasets import funnel
    >>> # The neck is much narrower than the mouth.
    >>> funnel(3).score_samples([[-6.0, 0.0, 0.0], [6.0, 0.0, 0.0]]).round(2)
    array([  0.14, -11.86])
    """
    _check_structure(n_features, 0, "funnel")
    check_number(sigma, "sigma", "funnel", Real, 0, 100, closed="right")
    return _Funnel("funnel", int(n_features), float(sigma))


def skewed_copula(
    n_features=10, *, sigma=0.75, shape=1.5, condition=100.0, random_state=0
):
    """Make skewed columns of three kinds, joined by a Gaussian copula.

    The columns are in turn log-normal and Weibull, which are positive and have their
    long tail on the right, and reflected Gumbel, with its long tail on the left.

    Parameters
    ----------
    n_features : int, default=10
        Number of columns.
    sigma : float, default=0.75
        Standard deviation of the logarithm of the log-normal columns, at most 10.
    shape : float, default=1.5
        Shape of the Weibull columns, at least 0.1. At 1 they are exponential; below,
        their density has a pole at zero.
    condition : float, default=100.0
        The correlations are those of a covariance with eigenvalues between
        1 / condition and 1; at most 1e6.
    random_state : int, default=0
        Seed of the correlations.

    Returns
    -------
    distribution : Distribution
        The copula with its marginals; its entropy is exact. Its log-density is -inf
        where a positive column is not.

    Notes
    -----
    With F_j and f_j the distribution function and density of column j,
    z_j = Phi^-1(F_j(x_j)), and R the matrix of correlations, the log-density is [1]_

        sum_j log f_j(x_j) - (log |R| + z^T R^-1 z - z^T z) / 2.

    The entropy is the sum of the marginal ones plus log |R| / 2. The condition number
    of R is at most `n_features` times `condition` [2]_.

    References
    ----------
    .. [1] P. X.-K. Song, "Multivariate dispersion models generated from Gaussian
       copula", Scandinavian Journal of Statistics 27(2), 305-320, 2000.
    .. [2] A. van der Sluis, "Condition numbers and equilibration of matrices",
       Numerische Mathematik 14, 14-23, 1969.

    Examples
    --------
    >>> from skjko.datasets import skewed_copula
    >>> skewed = skewed_copula(6)
    >>> skewed.sample(1000, random_state=0).min(axis=0) > 0
    array([ True,  True, False,  True,  True, False])
    """
    caller = "skewed_copula"
    rng = _check_structure(n_features, random_state, caller, condition)
    check_number(sigma, "sigma", caller, Real, 0, 10, closed="right")
    check_number(shape, "shape", caller, Real, 0.1, closed="left")
    factor = _random_factor(n_features, condition, rng)
    # Rows of length one make A A^T a matrix of correlations.
    factor /= np.linalg.norm(factor, axis=1, keepdims=True)
    return _SkewedCopula(caller, factor, float(sigma), float(shape))


def noisy_manifold(
    n_features=10, *, n_harmonics=3, radius=3.0, sigma=0.1, random_state=0
):
    """Make a closed curve that winds through the space, blurred by isotropic noise.

    The density is concentrated about one dimension, however many columns there are.

    Parameters
    ----------
    n_features : int, default=10
        Number of columns.
    n_harmonics : int, default=3
        Number of planes in which the curve turns: once, twice, and so on.
    radius : float, default=3.0
        Distance of the curve from the origin. If there are fewer than
        2 n_harmonics columns, the curve is a random projection and may come closer.
    sigma : float, default=0.1
        Standard deviation of the noise in each column. The cost of scoring grows as
        1 / sigma.
    random_state : int, default=0
        Seed of the curve's orientation.

    Returns
    -------
    distribution : Distribution
        The blurred curve, uniform along its length. Its entropy has no closed form.

    Notes
    -----
    Before a random rotation, harmonic h takes two columns,
    a_h cos(h t) and a_h sin(h t), with a_h proportional to 1 / h: each contributes the
    same to the speed. The distribution *is* a row of isotropic Gaussians so close
    along the curve that they cannot be told from a line, so its density is a finite
    sum, and exact.

    Examples
    --------
    >>> from skjko.datasets import noisy_manifold
    >>> curve = noisy_manifold(20, sigma=0.05)
    >>> X = curve.sample(1000, random_state=0)
    >>> X.shape, curve.score_samples(X).shape
    ((1000, 20), (1000,))
    """
    caller = "noisy_manifold"
    rng = _check_structure(n_features, random_state, caller)
    check_number(n_harmonics, "n_harmonics", caller, Integral, 1, closed="left")
    check_number(radius, "radius", caller, Real, 0)
    check_number(sigma, "sigma", caller, Real, 0)

    harmonics = np.arange(1, n_harmonics + 1)
    amplitudes = radius / harmonics / np.linalg.norm(1 / harmonics)
    rotation = _random_orthogonal(max(n_features, 2 * n_harmonics), rng)
    rotation = rotation[:n_features, : 2 * n_harmonics]

    def curve(t):
        angle = t[:, None] * harmonics
        circles = np.hstack([amplitudes * np.cos(angle), amplitudes * np.sin(angle)])
        return circles @ rotation.T

    centers = along_curve(curve, 0.0, 2 * np.pi, SPACING * sigma)
    return IsotropicMixture(caller, centers, sigma)
