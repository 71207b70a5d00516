"""Synthetic tables: distributions with any number of features.

The shape of each is drawn at random from its own `random_state`, so that equal
parameters make equal distributions; what is sampled from it depends on the
`random_state` of `sample`.
"""

# SPDX-License-Identifier: BSD-3-Clause

from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral, Real

import numpy as np
from scipy.special import digamma, gammaln

from skjko.datasets.base import (
    SPACING,
    Distribution,
    IsotropicMixture,
    along_curve,
    check_number,
    frozen,
    logsumexp_rows,
)
from skjko.datasets.structure import (
    LOG_2PI,
    check_structure,
    half_squared_norms,
    log_norms,
    random_factor,
    random_orthogonal,
)
from skjko.typing import Floats

__all__ = [
    "correlated_mixture",
    "funnel",
    "heavy_tails",
    "noisy_manifold",
]


@dataclass(frozen=True, eq=False, repr=False)
class _GaussianMixture(Distribution):
    """Mixture of Gaussians, each with mean m and covariance A A^T of its own."""

    name: str
    means: Floats
    factors: Floats
    weights: Floats
    n_features: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "means", frozen(self.means))
        object.__setattr__(self, "factors", frozen(self.factors))
        object.__setattr__(self, "weights", frozen(self.weights / self.weights.sum()))
        object.__setattr__(self, "n_features", self.means.shape[1])

    @property
    def _n_terms(self) -> int:
        return len(self.means) + 3 * self.n_features

    @cached_property
    def _whiteners(self) -> Floats:
        return frozen(np.linalg.inv(self.factors))

    @cached_property
    def _log_peaks(self) -> Floats:
        """Log of each weighted component's density at its own mean."""
        log_volume = self.n_features / 2 * LOG_2PI + np.linalg.slogdet(self.factors)[1]
        return frozen(np.log(self.weights) - log_volume)

    def _sample(self, n_samples: int, rng: np.random.RandomState) -> Floats:
        component = rng.choice(len(self.means), size=n_samples, p=self.weights)
        X = rng.standard_normal((n_samples, self.n_features))
        for k, (mean, factor) in enumerate(zip(self.means, self.factors, strict=True)):
            X[component == k] = mean + X[component == k] @ factor.T
        return X

    def _log_density(self, X: Floats) -> Floats:
        terms = np.empty((len(X), len(self.means)))
        for k, whitener in enumerate(self._whiteners):
            terms[:, k] = -half_squared_norms(X - self.means[k], whitener)
        terms += self._log_peaks
        return logsumexp_rows(terms)


@dataclass(frozen=True, eq=False, repr=False)
class _StudentT(Distribution):
    """Multivariate Student t about the origin: x = A z / sqrt(w), w ~ chi2(df) / df."""

    name: str
    factor: Floats
    df: float
    n_features: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", frozen(self.factor))
        object.__setattr__(self, "n_features", len(self.factor))

    @property
    def _n_terms(self) -> int:
        return 3 * self.n_features

    @cached_property
    def _whitener(self) -> Floats:
        return frozen(np.linalg.inv(self.factor))

    @cached_property
    def _log_peak(self) -> float:
        n, df = self.n_features, self.df
        log_constant = gammaln((df + n) / 2) - gammaln(df / 2)
        log_volume = n / 2 * np.log(np.pi * df) + np.linalg.slogdet(self.factor)[1]
        return float(log_constant - log_volume)

    def _sample(self, n_samples: int, rng: np.random.RandomState) -> Floats:
        Z = rng.standard_normal((n_samples, self.n_features))
        w = rng.chisquare(self.df, size=n_samples) / self.df
        return Z @ self.factor.T / np.sqrt(w)[:, None]

    def _log_density(self, X: Floats) -> Floats:
        # With the logarithm of r, log(1 + r^2 / df) is right where r^2 overflows.
        log_ratio = 2 * log_norms(X, self._whitener) - np.log(self.df)
        power = (self.df + self.n_features) / 2
        return self._log_peak - power * np.logaddexp(0.0, log_ratio)

    def _exact_entropy(self) -> float:
        power = (self.df + self.n_features) / 2
        return power * (digamma(power) - digamma(self.df / 2)) - self._log_peak


@dataclass(frozen=True, eq=False, repr=False)
class _Funnel(Distribution):
    """A Gaussian first feature v; given it, the others have variance exp(v)."""

    name: str
    n_features: int
    sigma: float

    @property
    def _n_terms(self) -> int:
        return 2 * self.n_features

    def _sample(self, n_samples: int, rng: np.random.RandomState) -> Floats:
        X = rng.standard_normal((n_samples, self.n_features))
        X[:, 0] *= self.sigma
        X[:, 1:] *= np.exp(X[:, :1] / 2)
        return X

    def _log_density(self, X: Floats) -> Floats:
        v, n_others = X[:, 0], self.n_features - 1
        with np.errstate(over="ignore"):
            # A factored sum, whose terms cannot become inf - inf.
            log_density = -v / 2 * (v / self.sigma**2 + n_others)
            log_density -= 0.5 * np.exp(2 * log_norms(X[:, 1:]) - v)
        return log_density - self.n_features / 2 * LOG_2PI - np.log(self.sigma)

    def _exact_entropy(self) -> float:
        return self.n_features / 2 * (1 + LOG_2PI) + np.log(self.sigma)


def correlated_mixture(
    n_features: int = 10,
    *,
    n_components: int = 5,
    separation: float = 4.0,
    condition: float = 100.0,
    random_state: int = 0,
) -> Distribution:
    """Make a mixture of Gaussians with full covariances and distant means.

    Along the line between two means no component has a standard deviation above one,
    so with `separation` s at most a share Phi(-s / 2) of a component lies on the wrong
    side of the middle: 2.3 % for s = 4. In many dimensions it is much less.

    Parameters
    ----------
    n_features : int, default=10
        Number of features.
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
    rng = check_structure(n_features, random_state, caller, condition)
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
    factors = np.array([random_factor(n_features, condition, rng) for _ in means])
    weights = rng.uniform(1.0, 3.0, size=n_components)
    return _GaussianMixture(caller, means, factors, weights)


def heavy_tails(
    n_features: int = 10,
    *,
    df: float = 3.0,
    condition: float = 100.0,
    random_state: int = 0,
) -> Distribution:
    """Make a correlated multivariate Student t distribution about the origin.

    A sample that is far out is so in all its features at once, since they share the
    random scale.

    Parameters
    ----------
    n_features : int, default=10
        Number of features.
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
    rng = check_structure(n_features, random_state, "heavy_tails", condition)
    check_number(df, "df", "heavy_tails", Real, 1, 1e6, closed="both")
    factor = random_factor(n_features, condition, rng)
    return _StudentT("heavy_tails", factor, float(df))


def funnel(n_features: int = 10, *, sigma: float = 3.0) -> Distribution:
    """Make Neal's funnel, where the first feature sets the spread of all the others.

    Parameters
    ----------
    n_features : int, default=10
        Number of features. A single one is Gaussian.
    sigma : float, default=3.0
        Standard deviation of the first feature, at most 100. Within two of them, the
        spread of the other features changes by a factor of exp(2 sigma).

    Returns
    -------
    distribution : Distribution
        The funnel; its entropy is exact.

    Notes
    -----
    The first feature v is normal with mean 0 and variance sigma^2, the others are
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
    check_structure(n_features, 0, "funnel")
    check_number(sigma, "sigma", "funnel", Real, 0, 100, closed="right")
    return _Funnel("funnel", int(n_features), float(sigma))


def noisy_manifold(
    n_features: int = 10,
    *,
    n_harmonics: int = 3,
    radius: float = 3.0,
    sigma: float = 0.1,
    random_state: int = 0,
) -> Distribution:
    """Make a closed curve that winds through the space, blurred by isotropic noise.

    The density is concentrated about one dimension, however many features there are.

    Parameters
    ----------
    n_features : int, default=10
        Number of features.
    n_harmonics : int, default=3
        Number of planes in which the curve turns: once, twice, and so on.
    radius : float, default=3.0
        Distance of the curve from the origin. If there are fewer than
        2 n_harmonics features, the curve is a random projection and may come closer.
    sigma : float, default=0.1
        Standard deviation of the noise in each feature. The cost of scoring grows as
        1 / sigma.
    random_state : int, default=0
        Seed of the curve's orientation.

    Returns
    -------
    distribution : Distribution
        The blurred curve, uniform along its length. Its entropy has no closed form.

    Notes
    -----
    Before a random rotation, harmonic h takes two features,
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
    rng = check_structure(n_features, random_state, caller)
    check_number(n_harmonics, "n_harmonics", caller, Integral, 1, closed="left")
    check_number(radius, "radius", caller, Real, 0)
    check_number(sigma, "sigma", caller, Real, 0)

    harmonics = np.arange(1, n_harmonics + 1)
    amplitudes = radius / harmonics / np.linalg.norm(1 / harmonics)
    rotation = random_orthogonal(max(n_features, 2 * n_harmonics), rng)
    rotation = rotation[:n_features, : 2 * n_harmonics]

    def curve(t: Floats) -> Floats:
        angle = t[:, None] * harmonics
        circles = np.hstack([amplitudes * np.cos(angle), amplitudes * np.sin(angle)])
        return circles @ rotation.T

    centers = along_curve(curve, 0.0, 2 * np.pi, SPACING * sigma)
    return IsotropicMixture(caller, centers, frozen(sigma))
