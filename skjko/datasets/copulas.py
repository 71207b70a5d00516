"""Tables with skewed features."""

# SPDX-License-Identifier: BSD-3-Clause

from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real

import numpy as np
from numpy.typing import NDArray
from scipy.special import exprel, log_ndtr, ndtri_exp

from skjko.datasets.base import Distribution, check_number, frozen
from skjko.datasets.structure import (
    LOG_2PI,
    check_structure,
    half_squared_norms,
    random_factor,
)
from skjko.typing import Floats


def _normal_scores(w: Floats) -> Floats:
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
    """Correlated standard normal features z = A u, each mapped to a skewed marginal.

    Three kinds of feature take turns: log-normal, Weibull and reflected Gumbel. With
    y = log x for the two positive kinds and y = x for the last one, w = y / scale is
    z itself where x is log-normal, else the logarithm of an exponential variable.
    """

    name: str
    factor: Floats
    sigma: float
    shape: float
    n_features: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", frozen(self.factor))
        object.__setattr__(self, "n_features", len(self.factor))

    @property
    def _n_terms(self) -> int:
        return 8 * self.n_features

    @cached_property
    def _whitener(self) -> Floats:
        return frozen(np.linalg.inv(self.factor))

    @cached_property
    def _log_volume(self) -> float:
        return float(np.linalg.slogdet(self.factor)[1])

    @property
    def _columns(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_], Floats]:
        """Whether each feature is positive, and made of an exponential; its scale."""
        kind = np.arange(self.n_features) % 3
        scale = np.array([self.sigma, 1 / self.shape, 1.0])[kind]
        return kind < 2, kind > 0, scale

    def _sample(self, n_samples: int, rng: np.random.RandomState) -> Floats:
        positive, exponential, scale = self._columns
        W = rng.standard_normal((n_samples, self.n_features)) @ self.factor.T
        W[:, exponential] = np.log(-log_ndtr(-W[:, exponential]))
        X = scale * W
        X[:, positive] = np.exp(X[:, positive])
        return X

    def _log_density(self, X: Floats) -> Floats:
        positive, exponential, scale = self._columns
        inside = np.all(X[:, positive] > 0, axis=1)
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
        log_density = -half_squared_norms(Z, self._whitener)
        log_density -= self._log_volume + self.n_features / 2 * LOG_2PI
        log_density += (w - np.exp(w)).sum(axis=1)
        log_density += (squares[:, exponential] + LOG_2PI).sum(axis=1) / 2
        log_density -= np.log(scale).sum() + log_X.sum(axis=1)
        return np.where(inside, log_density, -np.inf)

    def _exact_entropy(self) -> float:
        positive, exponential, scale = self._columns
        mean = np.where(exponential, -np.euler_gamma, 0.0)
        entropy = np.where(exponential, 1 + np.euler_gamma, (1 + LOG_2PI) / 2)
        marginals = entropy + np.log(scale) + np.where(positive, scale * mean, 0.0)
        return marginals.sum() + self._log_volume


def skewed_copula(
    n_features: int = 10,
    *,
    sigma: float = 0.75,
    shape: float = 1.5,
    condition: float = 100.0,
    random_state: int = 0,
) -> Distribution:
    """Make skewed features of three kinds, joined by a Gaussian copula.

    The features are in turn log-normal and Weibull, which are positive and have their
    long tail on the right, and reflected Gumbel, with its long tail on the left.

    Parameters
    ----------
    n_features : int, default=10
        Number of features.
    sigma : float, default=0.75
        Standard deviation of the logarithm of the log-normal features, at most 10.
    shape : float, default=1.5
        Shape of the Weibull features, at least 0.1. At 1 they are exponential; below,
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
        where a positive feature is not.

    Notes
    -----
    With F_j and f_j the distribution function and density of feature j,
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
    rng = check_structure(n_features, random_state, caller, condition)
    check_number(sigma, "sigma", caller, Real, 0, 10, closed="right")
    check_number(shape, "shape", caller, Real, 0.1, closed="left")
    factor = random_factor(n_features, condition, rng)
    # Rows of length one make A A^T a matrix of correlations.
    factor /= np.linalg.norm(factor, axis=1, keepdims=True)
    return _SkewedCopula(caller, factor, float(sigma), float(shape))
