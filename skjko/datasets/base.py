"""What all the distributions share: their interface, checks and arithmetic."""

# SPDX-License-Identifier: BSD-3-Clause

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral, Rational, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_array, check_random_state, gen_batches

from skjko.typing import Floats, Seed

# Elements in one block of the (rows, terms) table of a mixture: half a megabyte, so
# that the successive in-place passes over a block stay within the processor's cache.
BLOCK_SIZE = 2**16

# Distance between neighbouring components along a curve, in units of their sigma. The
# relative ripple of a row of Gaussians is 2 exp(-2 (pi / spacing)^2), here 7e-6: the
# curve looks continuous.
SPACING = 1.25


def check_number(
    value: Any,
    name: str,
    caller: str,
    kind: Any,
    low: float,
    high: float = np.inf,
    closed: str = "neither",
) -> Any:
    """Return `value` if it is of `kind` and in the interval, else raise ValueError."""
    left, right = closed in ("left", "both"), closed in ("right", "both")
    if (
        isinstance(value, kind)
        and not isinstance(value, (bool, np.bool_))
        and (low <= value if left else low < value)
        and (value <= high if right else value < high)
    ):
        return value
    nouns: dict[type, str] = {
        Integral: "an int",
        Rational: "an int or Fraction",
        Real: "a float",
    }
    interval = f"{'[' if left else '('}{low}, {high}{']' if right else ')'}"
    raise ValueError(
        f"The {name!r} parameter of {caller} must be {nouns[kind]} in the range "
        f"{interval}. Got {value!r} instead."
    )


class Distribution(ABC):
    """Base class of the distributions with a known log-density.

    A concrete distribution has the attributes `name` and `n_features` and implements
    `_sample` and `_log_density`, and `_exact_entropy` if it knows one; validation,
    blocking and Monte Carlo are done here, for any number of dimensions.

    Attributes
    ----------
    name : str
        Name of the distribution, as it appears in error messages.
    n_features : int
        Number of dimensions of the sample space.

    Examples
    --------
    >>> from skjko.datasets import Distribution, moons
    >>> isinstance(moons(), Distribution)
    True
    """

    name: str
    n_features: int

    def __repr__(self) -> str:
        """Return a short description."""
        return f"<Distribution {self.name!r}, n_features={self.n_features}>"

    @property
    def _n_terms(self) -> int:
        """Intermediate float64 numbers that `_log_density` holds for each sample."""
        return 1

    @abstractmethod
    def _sample(self, n_samples: int, rng: np.random.RandomState) -> Floats:
        """Draw an array of shape (n_samples, n_features) with a RandomState."""

    @abstractmethod
    def _log_density(self, X: Floats) -> Floats:
        """Return the log-density of a small validated block of samples, shape (n,)."""

    def _exact_entropy(self) -> float | None:
        """Return the entropy where it has a closed form, else None."""
        return None

    def sample(self, n_samples: int = 1, random_state: Seed = None) -> Floats:
        """Draw independent samples.

        Parameters
        ----------
        n_samples : int, default=1
            Number of samples to draw.
        random_state : int, RandomState instance or None, default=None
            Source of randomness. Pass an int for reproducible samples. Only None uses
            NumPy's global state.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            The samples, of type float64.

        Examples
        --------
        >>> from skjko.datasets import rose
        >>> rose().sample(3, random_state=0).shape
        (3, 2)
        """
        caller = f"{self.name}.sample"
        check_number(n_samples, "n_samples", caller, Integral, 1, closed="left")
        return self._sample(int(n_samples), check_random_state(random_state))

    def score_samples(self, X: ArrayLike) -> Floats:
        """Compute the exact log-density at each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The points.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            Log-density of each point in nats; -inf outside the support.

        Examples
        --------
        >>> from skjko.datasets import checkerboard
        >>> checkerboard().score_samples([[-3.0, -3.0], [-1.0, -3.0]]).round(3)
        array([-3.466,   -inf])
        """
        X = check_array(X, dtype=np.float64, input_name="X")
        if X.shape[1] != self.n_features:
            raise ValueError(
                f"X has {X.shape[1]} features, but {self.name} is expecting "
                f"{self.n_features} features as input."
            )
        log_density = np.empty(X.shape[0])
        for rows in gen_batches(X.shape[0], max(1, BLOCK_SIZE // self._n_terms)):
            log_density[rows] = self._log_density(X[rows])
        return log_density

    def score(self, X: ArrayLike) -> float:
        """Compute the mean log-density.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The points.

        Returns
        -------
        score : float
            Mean log-density of the points, in nats.

        Examples
        --------
        >>> from skjko.datasets import eight_gaussians
        >>> true = eight_gaussians()
        >>> true.score([[2.8, 0.0]]) > true.score([[0.0, 0.0]])
        True
        """
        return float(self.score_samples(X).mean())

    def entropy(
        self, n_samples: int = 100_000, random_state: Seed = 0
    ) -> tuple[float, float]:
        """Compute the differential entropy, by Monte Carlo where it has no closed form.

        Parameters
        ----------
        n_samples : int, default=100_000
            Number of Monte Carlo samples; unused where the entropy has a closed form.
        random_state : int, RandomState instance or None, default=0
            Source of randomness of the samples.

        Returns
        -------
        entropy : float
            The entropy -E[log p(x)], in nats.
        standard_error : float
            Standard error of the estimate; 0.0 where it is exact.

        Examples
        --------
        >>> from skjko.datasets import checkerboard
        >>> entropy, standard_error = checkerboard().entropy()
        >>> round(entropy, 4), standard_error
        (3.4657, 0.0)
        """
        caller = f"{self.name}.entropy"
        check_number(n_samples, "n_samples", caller, Integral, 2, closed="left")
        exact = self._exact_entropy()
        if exact is not None:
            return float(exact), 0.0
        log_density = self.score_samples(self.sample(n_samples, random_state))
        standard_error = log_density.std(ddof=1) / np.sqrt(n_samples)
        return -float(log_density.mean()), float(standard_error)


def logsumexp_rows(terms: Floats) -> Floats:
    """Return log(sum(exp(terms), axis=1)), overwriting `terms`."""
    largest = terms.max(axis=1)
    # A point so far away that every squared distance overflows has density zero.
    largest[np.isneginf(largest)] = 0.0
    terms -= largest[:, None]
    np.exp(terms, out=terms)
    with np.errstate(divide="ignore"):
        return largest + np.log(terms.sum(axis=1))


def frozen(values: ArrayLike) -> Floats:
    """Return a read-only float64 copy."""
    values = np.array(values, dtype=np.float64)
    values.flags.writeable = False
    return values


def along_curve(
    curve: Callable[[Floats], Floats], start: float, stop: float, spacing: float
) -> Floats:
    """Place points at equal arc length along a curve.

    Parameters
    ----------
    curve : callable
        Maps parameters of shape (n,) to points of shape (n, n_features).
    start, stop : float
        Range of the curve's parameter.
    spacing : float
        Largest distance between neighbouring points.

    Returns
    -------
    points : ndarray of shape (n_points, n_features)
        Midpoints of pieces of equal length.
    """
    t = np.linspace(start, stop, 10_001)
    steps = np.linalg.norm(np.diff(curve(t), axis=0), axis=1)
    length = np.concatenate([[0.0], np.cumsum(steps)])
    n_points = int(np.ceil(length[-1] / spacing))
    middle = (np.arange(n_points) + 0.5) / n_points
    return curve(np.interp(middle * length[-1], length, t))


@dataclass(frozen=True, eq=False, repr=False)
class IsotropicMixture(Distribution):
    """Mixture of isotropic Gaussians, in any number of dimensions.

    Parameters
    ----------
    name : str
        Name of the distribution.
    centers : array-like of shape (n_components, n_features)
        Means of the components.
    sigmas : array-like broadcastable to (n_components,)
        Standard deviations of the components.
    weights : array-like broadcastable to (n_components,), default=1.0
        Positive weights of the components; they need not sum to one.
    """

    name: str
    centers: Floats
    sigmas: Floats
    weights: Floats = field(default_factory=lambda: frozen(1.0))
    n_features: int = field(init=False)

    def __post_init__(self) -> None:
        n_components = len(self.centers)
        weights = np.broadcast_to(self.weights, n_components)
        sigmas = np.broadcast_to(self.sigmas, n_components)
        object.__setattr__(self, "centers", frozen(self.centers))
        object.__setattr__(self, "sigmas", frozen(sigmas))
        object.__setattr__(self, "weights", frozen(weights / weights.sum()))
        object.__setattr__(self, "n_features", self.centers.shape[1])

    @property
    def _n_terms(self) -> int:
        return self.centers.shape[0]

    @cached_property
    def _log_peaks(self) -> Floats:
        """Log of each weighted component's density at its own center."""
        log_volume = np.log(2 * np.pi) / 2 + np.log(self.sigmas)
        return frozen(np.log(self.weights) - self.n_features * log_volume)

    @cached_property
    def _half_precisions(self) -> Floats:
        return frozen(0.5 / self.sigmas**2)

    def _sample(self, n_samples: int, rng: np.random.RandomState) -> Floats:
        component = rng.choice(self._n_terms, size=n_samples, p=self.weights)
        noise = rng.standard_normal((n_samples, self.n_features))
        return self.centers[component] + self.sigmas[component, None] * noise

    def _log_density(self, X: Floats) -> Floats:
        # Differences are squared as they are: expanding |x - c|^2 into products would
        # be faster but cancels badly where sigma is small beside |x|.
        terms = np.zeros((X.shape[0], self._n_terms))
        with np.errstate(over="ignore"):
            for x, center in zip(X.T, self.centers.T, strict=True):
                gap = x[:, None] - center
                gap *= gap
                terms -= gap
            terms *= self._half_precisions
        terms += self._log_peaks
        return logsumexp_rows(terms)
