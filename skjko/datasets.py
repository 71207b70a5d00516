"""Two-dimensional distributions whose log-density is known exactly.

Every function here returns a small immutable :class:`Distribution`, which can be
sampled and scored. The score is the true log-density, in nats, so the mean score of
held-out samples is minus the entropy up to Monte Carlo error: the best that any
density estimator can hope for.
"""

# SPDX-License-Identifier: BSD-3-Clause

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from numbers import Integral, Rational, Real

import numpy as np
from scipy.special import i0e
from sklearn.utils import check_array, check_random_state, gen_batches

__all__ = [
    "Distribution",
    "checkerboard",
    "eight_gaussians",
    "fractal_tree",
    "moons",
    "rings",
    "rose",
    "spirals",
]

# Elements in one block of the (rows, terms) table of a mixture: half a megabyte, so
# that the successive in-place passes over a block stay within the processor's cache.
_BLOCK_SIZE = 2**16

# Distance between neighbouring components along a curve, in units of their sigma. The
# relative ripple of a row of Gaussians is 2 exp(-2 (pi / spacing)^2), here 7e-6: the
# curve looks continuous.
_SPACING = 1.25


def _check_number(value, name, caller, kind, low, high=np.inf, closed="neither"):
    """Return `value` if it is of `kind` and in the interval, else raise ValueError."""
    left, right = closed in ("left", "both"), closed in ("right", "both")
    if (
        isinstance(value, kind)
        and not isinstance(value, (bool, np.bool_))
        and (low <= value if left else low < value)
        and (value <= high if right else value < high)
    ):
        return value
    noun = {Integral: "an int", Rational: "an int or Fraction", Real: "a float"}[kind]
    interval = f"{'[' if left else '('}{low}, {high}{']' if right else ')'}"
    raise ValueError(
        f"The {name!r} parameter of {caller} must be {noun} in the range {interval}. "
        f"Got {value!r} instead."
    )


class Distribution(ABC):
    """Base class of the distributions with a known log-density.

    A concrete distribution has the attributes `name` and `n_features` and implements
    `_sample` and `_log_density`; validation, blocking and entropy are done here, for
    any number of dimensions.

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

    # How many intermediate float64 numbers `_log_density` holds for each row.
    _n_terms = 1

    def __repr__(self):
        """Return a short description."""
        return f"<Distribution {self.name!r}, n_features={self.n_features}>"

    @abstractmethod
    def _sample(self, n_samples, rng):
        """Draw an array of shape (n_samples, n_features) with a RandomState."""

    @abstractmethod
    def _log_density(self, X):
        """Return the log-density of a small validated block of rows, shape (n,)."""

    def sample(self, n_samples=1, random_state=None):
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
        _check_number(n_samples, "n_samples", caller, Integral, 1, closed="left")
        return self._sample(int(n_samples), check_random_state(random_state))

    def score_samples(self, X):
        """Compute the exact log-density at each row.

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
        for rows in gen_batches(X.shape[0], max(1, _BLOCK_SIZE // self._n_terms)):
            log_density[rows] = self._log_density(X[rows])
        return log_density

    def score(self, X):
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

    def entropy(self, n_samples=100_000, random_state=0):
        """Estimate the differential entropy.

        Parameters
        ----------
        n_samples : int, default=100_000
            Number of Monte Carlo samples; unused where the entropy has a closed form.
        random_state : int, RandomState instance or None, default=0
            Source of randomness of the samples.

        Returns
        -------
        entropy : float
            Estimate of -E[log p(x)], in nats.
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
        _check_number(n_samples, "n_samples", caller, Integral, 2, closed="left")
        log_density = self.score_samples(self.sample(n_samples, random_state))
        standard_error = log_density.std(ddof=1) / np.sqrt(n_samples)
        return -float(log_density.mean()), float(standard_error)


def _logsumexp_rows(terms):
    """Return log(sum(exp(terms), axis=1)), overwriting `terms`."""
    largest = terms.max(axis=1)
    # A point so far away that every squared distance overflows has density zero.
    largest[np.isneginf(largest)] = 0.0
    terms -= largest[:, None]
    np.exp(terms, out=terms)
    with np.errstate(divide="ignore"):
        return largest + np.log(terms.sum(axis=1))


def _frozen(values):
    """Return a read-only float64 copy."""
    values = np.array(values, dtype=np.float64)
    values.flags.writeable = False
    return values


@dataclass(frozen=True, eq=False, repr=False)
class _IsotropicMixture(Distribution):
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
    centers: np.ndarray
    sigmas: np.ndarray
    weights: np.ndarray = 1.0

    def __post_init__(self):
        n_components = len(self.centers)
        weights = np.broadcast_to(self.weights, n_components)
        sigmas = np.broadcast_to(self.sigmas, n_components)
        object.__setattr__(self, "centers", _frozen(self.centers))
        object.__setattr__(self, "sigmas", _frozen(sigmas))
        object.__setattr__(self, "weights", _frozen(weights / weights.sum()))

    @property
    def n_features(self):
        return self.centers.shape[1]

    @property
    def _n_terms(self):
        return self.centers.shape[0]

    @cached_property
    def _log_peaks(self):
        """Log of each weighted component's density at its own center."""
        log_volume = np.log(2 * np.pi) / 2 + np.log(self.sigmas)
        return _frozen(np.log(self.weights) - self.n_features * log_volume)

    @cached_property
    def _half_precisions(self):
        return _frozen(0.5 / self.sigmas**2)

    def _sample(self, n_samples, rng):
        component = rng.choice(self._n_terms, size=n_samples, p=self.weights)
        noise = rng.standard_normal((n_samples, self.n_features))
        return self.centers[component] + self.sigmas[component, None] * noise

    def _log_density(self, X):
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
        return _logsumexp_rows(terms)


@dataclass(frozen=True, eq=False, repr=False)
class _Rings(Distribution):
    """Equal mixture of circles about the origin, each blurred by the same Gaussian."""

    name: str
    radii: np.ndarray
    sigma: float

    n_features = 2

    def __post_init__(self):
        object.__setattr__(self, "radii", _frozen(self.radii))

    @property
    def _n_terms(self):
        return len(self.radii)

    def _sample(self, n_samples, rng):
        radius = rng.choice(self.radii, size=n_samples)
        angle = rng.uniform(0.0, 2 * np.pi, size=n_samples)
        noise = self.sigma * rng.standard_normal((n_samples, 2))
        return radius[:, None] * _directions(angle) + noise

    def _log_density(self, X):
        # Averaging a Gaussian over the circle's angle leaves the Bessel function
        # I0(r R / sigma^2). Its scaled form i0e keeps that from overflowing and turns
        # the exponent into (r - R)^2; unlike `ive` it takes arguments of any size.
        precision = 1 / self.sigma**2
        with np.errstate(over="ignore", divide="ignore"):
            r = np.hypot(X[:, :1], X[:, 1:])
            terms = np.log(i0e(precision * r * self.radii))
            terms -= 0.5 * precision * (r - self.radii) ** 2
        terms += np.log(precision / (2 * np.pi * len(self.radii)))
        return _logsumexp_rows(terms)


@dataclass(frozen=True, eq=False, repr=False)
class _Checkerboard(Distribution):
    """Uniform distribution on the dark cells of a centered square board."""

    name: str
    n_cells: int
    cell_size: float

    n_features = 2

    @property
    def _log_area(self):
        n_dark = (self.n_cells**2 + 1) // 2
        return float(np.log(n_dark) + 2 * np.log(self.cell_size))

    def _sample(self, n_samples, rng):
        dark = np.argwhere(np.indices([self.n_cells] * 2).sum(axis=0) % 2 == 0)
        cell = dark[rng.randint(len(dark), size=n_samples)]
        position = rng.uniform(size=(n_samples, 2))
        return self.cell_size * (cell + position - self.n_cells / 2)

    def _log_density(self, X):
        # Clipping keeps points far outside from overflowing; -1 and n_cells are
        # still outside.
        cell = np.floor(X / self.cell_size + self.n_cells / 2)
        cell = np.clip(cell, -1, self.n_cells)
        inside = np.all((cell >= 0) & (cell < self.n_cells), axis=1)
        dark = cell.sum(axis=1) % 2 == 0
        return np.where(inside & dark, -self._log_area, -np.inf)

    def entropy(self, n_samples=100_000, random_state=0):
        """Return the exact entropy, the log of the area, and the error 0.0."""
        return self._log_area, 0.0


def _directions(angle):
    """Return the unit vectors of some angles, shape (n, 2)."""
    return np.column_stack([np.cos(angle), np.sin(angle)])


def _along_curve(curve, start, stop, spacing):
    """Place points at equal arc length along a curve.

    Parameters
    ----------
    curve : callable
        Maps parameters of shape (n,) to points of shape (n, 2).
    start, stop : float
        Range of the curve's parameter.
    spacing : float
        Largest distance between neighbouring points.

    Returns
    -------
    points : ndarray of shape (n_points, 2)
        Midpoints of pieces of equal length.
    """
    t = np.linspace(start, stop, 10_001)
    steps = np.linalg.norm(np.diff(curve(t), axis=0), axis=1)
    length = np.concatenate([[0.0], np.cumsum(steps)])
    n_points = int(np.ceil(length[-1] / spacing))
    middle = (np.arange(n_points) + 0.5) / n_points
    return curve(np.interp(middle * length[-1], length, t))


def _rotated_copies(points, n_copies):
    """Return `n_copies` of points of shape (n, 2), spread over the full turn."""
    angle = 2 * np.pi * np.arange(n_copies) / n_copies
    # With u = (cos, sin) a rotation sends (x, y) to x u + y u', u' = (-sin, cos).
    x, y = points[:, :1], points[:, 1:]
    u, u_prime = _directions(angle), _directions(angle + np.pi / 2)
    copies = x * u[:, None] + y * u_prime[:, None]
    return copies.reshape(-1, 2)


def rose(*, k=Fraction(5, 2), n_layers=2, radius=3.2, sigma=0.03):
    """Make nested rose curves r = radius cos(k theta), drawn with a fine brush.

    The curves are rows of narrow isotropic Gaussians. Mass per unit of length is
    proportional to the distance from the origin, where all the petals meet: without
    that fading the heart of the flower would swallow the drawing.

    Parameters
    ----------
    k : int or Fraction, default=Fraction(5, 2)
        Angular frequency n / d. In lowest terms, the rose has n petals if n and d are
        both odd, otherwise 2 n.
    n_layers : int, default=2
        Number of roses inside each other, with equally spaced radii.
    radius : float, default=3.2
        Length of the outermost petals.
    sigma : float, default=0.03
        Standard deviation across the curve. The cost of scoring grows as 1 / sigma.

    Returns
    -------
    distribution : Distribution
        The flower, invariant under a rotation by one petal.

    Examples
    --------
    >>> from skjko.datasets import rose
    >>> flower = rose(k=4, n_layers=1)
    >>> X = flower.sample(1000, random_state=0)
    >>> flower.score_samples(X).shape
    (1000,)
    """
    k = Fraction(_check_number(k, "k", "rose", Rational, 0))
    _check_number(n_layers, "n_layers", "rose", Integral, 1, closed="left")
    _check_number(radius, "radius", "rose", Real, 0)
    _check_number(sigma, "sigma", "rose", Real, 0)

    both_odd = k.numerator % 2 and k.denominator % 2
    n_petals = k.numerator if both_odd else 2 * k.numerator
    half_width = np.pi / (2 * float(k))
    layers = []
    for layer_radius in radius * np.arange(1, n_layers + 1) / n_layers:

        def petal(theta, scale=layer_radius):
            return scale * np.cos(float(k) * theta)[:, None] * _directions(theta)

        outline = _along_curve(petal, -half_width, half_width, _SPACING * sigma)
        layers.append(_rotated_copies(outline, n_petals))
    centers = np.concatenate(layers)
    weights = np.linalg.norm(centers, axis=1)
    return _IsotropicMixture("rose", centers, sigma, weights)


def fractal_tree(*, depth=7, angle=0.46, shrink=0.77, taper=0.84, sigma=0.07):
    """Make a tree whose branches fork, shorten and thin out recursively.

    Each branch is a row of isotropic Gaussians whose width decreases steadily from
    foot to tip. Mass per unit of length is proportional to the width, so that thick
    and thin branches have the same density at their middle. Each fork leans a little
    to one side, as a natural tree does.

    Parameters
    ----------
    depth : int, default=7
        Number of forks between the trunk and a twig, at most 12.
    angle : float, default=0.46
        Mean angle between a branch and its two children, in radians.
    shrink : float, default=0.77
        Mean ratio of a child's length to its parent's.
    taper : float, default=0.84
        Ratio of the width at a branch's tip to that at its foot.
    sigma : float, default=0.07
        Standard deviation at the foot of the trunk, which is 1.4 long. The cost of
        scoring grows as 1 / sigma.

    Returns
    -------
    distribution : Distribution
        The tree, upright, with its mean at the origin.

    Examples
    --------
    >>> from skjko.datasets import fractal_tree
    >>> tree = fractal_tree(depth=4)
    >>> X = tree.sample(1000, random_state=0)
    >>> X.shape
    (1000, 2)
    """
    caller = "fractal_tree"
    _check_number(depth, "depth", caller, Integral, 0, 12, closed="both")
    _check_number(angle, "angle", caller, Real, 0, np.pi, closed="left")
    _check_number(shrink, "shrink", caller, Real, 0, 1)
    _check_number(taper, "taper", caller, Real, 0, 1, closed="right")
    _check_number(sigma, "sigma", caller, Real, 0)

    # The left child turns less and grows longer than the right one.
    turns = angle * np.array([0.9, -1.1])
    ratios = shrink * np.array([1.04, 0.96])
    centers, sigmas, weights = [], [], []
    feet, headings, lengths = np.zeros((1, 2)), np.array([np.pi / 2]), np.array([1.4])
    for _ in range(depth + 1):
        tips = feet + lengths[:, None] * _directions(headings)
        for foot, tip, length in zip(feet, tips, lengths, strict=True):
            n_points = int(np.ceil(length / (_SPACING * taper * sigma)))
            t = (np.arange(n_points) + 0.5) / n_points
            width = sigma * (1 - (1 - taper) * t)
            centers.append(foot + t[:, None] * (tip - foot))
            sigmas.append(width)
            weights.append(width * length / n_points)
        feet = np.repeat(tips, 2, axis=0)
        headings = (headings[:, None] + turns).ravel()
        lengths = (lengths[:, None] * ratios).ravel()
        sigma *= taper
    centers, sigmas, weights = map(np.concatenate, (centers, sigmas, weights))
    centers -= np.average(centers, axis=0, weights=weights)
    return _IsotropicMixture("fractal_tree", centers, sigmas, weights)


def spirals(*, n_arms=2, n_turns=1.5, radius=3.2, sigma=0.1):
    """Make spiral arms that wind out from the origin at a constant pitch.

    Parameters
    ----------
    n_arms : int, default=2
        Number of arms, rotated copies of each other.
    n_turns : float, default=1.5
        Number of turns of each arm.
    radius : float, default=3.2
        Distance of the arms' ends from the origin.
    sigma : float, default=0.1
        Standard deviation across the arms. The cost of scoring grows as 1 / sigma.

    Returns
    -------
    distribution : Distribution
        The spirals, uniform along their length.

    Examples
    --------
    >>> from skjko.datasets import spirals
    >>> spirals(n_arms=3).sample(5, random_state=0).shape
    (5, 2)
    """
    _check_number(n_arms, "n_arms", "spirals", Integral, 1, closed="left")
    _check_number(n_turns, "n_turns", "spirals", Real, 0)
    _check_number(radius, "radius", "spirals", Real, 0)
    _check_number(sigma, "sigma", "spirals", Real, 0)

    def arm(t):
        return radius * t[:, None] * _directions(2 * np.pi * n_turns * t)

    centers = _rotated_copies(_along_curve(arm, 0.0, 1.0, _SPACING * sigma), n_arms)
    return _IsotropicMixture("spirals", centers, sigma)


def moons(*, radius=2.0, sigma=0.1):
    """Make two interleaved half circles.

    Parameters
    ----------
    radius : float, default=2.0
        Radius of the half circles.
    sigma : float, default=0.1
        Standard deviation across the curve. The cost of scoring grows as 1 / sigma.

    Returns
    -------
    distribution : Distribution
        The moons, point-symmetric about the origin.

    Examples
    --------
    >>> from skjko.datasets import moons
    >>> moons().sample(5, random_state=0).shape
    (5, 2)
    """
    _check_number(radius, "radius", "moons", Real, 0)
    _check_number(sigma, "sigma", "moons", Real, 0)

    def upper(t):
        return radius * (_directions(t) - [0.5, 0.25])

    centers = _rotated_copies(_along_curve(upper, 0.0, np.pi, _SPACING * sigma), 2)
    return _IsotropicMixture("moons", centers, sigma)


def rings(*, radii=(0.75, 1.5, 2.25, 3.0), sigma=0.08):
    """Make concentric circles, equally likely, blurred by an isotropic Gaussian.

    Parameters
    ----------
    radii : array-like of shape (n_rings,), default=(0.75, 1.5, 2.25, 3.0)
        Radii of the circles.
    sigma : float, default=0.08
        Standard deviation of the Gaussian in each coordinate.

    Returns
    -------
    distribution : Distribution
        The rings.

    Notes
    -----
    With r = |x|, the log-density of one ring of radius R is
    -log(2 pi sigma^2) - (r - R)^2 / (2 sigma^2) + log(I0(z) exp(-z)), where
    z = r R / sigma^2 and I0 is the modified Bessel function of order zero.

    Examples
    --------
    >>> from skjko.datasets import rings
    >>> rings(radii=[1.0, 2.0]).sample(5, random_state=0).shape
    (5, 2)
    """
    _check_number(sigma, "sigma", "rings", Real, 0)
    try:
        values = np.asarray(radii, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    valid = np.isfinite(values) & (values > 0)
    if values.ndim != 1 or values.size == 0 or not valid.all():
        raise ValueError(
            "The 'radii' parameter of rings must be a non-empty 1D array-like of "
            f"positive floats. Got {radii!r} instead."
        )
    return _Rings("rings", values, float(sigma))


def eight_gaussians(*, radius=2.8, sigma=0.35):
    """Make eight equal isotropic Gaussians on a circle.

    Parameters
    ----------
    radius : float, default=2.8
        Distance of the means from the origin.
    sigma : float, default=0.35
        Standard deviation of each Gaussian in each coordinate.

    Returns
    -------
    distribution : Distribution
        The mixture, invariant under an eighth of a turn.

    Examples
    --------
    >>> from skjko.datasets import eight_gaussians
    >>> eight_gaussians().sample(5, random_state=0).shape
    (5, 2)
    """
    _check_number(radius, "radius", "eight_gaussians", Real, 0)
    _check_number(sigma, "sigma", "eight_gaussians", Real, 0)
    centers = _rotated_copies(np.array([[radius, 0.0]]), 8)
    return _IsotropicMixture("eight_gaussians", centers, sigma)


def checkerboard(*, n_cells=4, cell_size=2.0):
    """Make a uniform distribution on the dark cells of a board.

    Parameters
    ----------
    n_cells : int, default=4
        Number of cells along each side. The lower left cell is dark.
    cell_size : float, default=2.0
        Side of a cell.

    Returns
    -------
    distribution : Distribution
        The board, centered at the origin. Its log-density is -inf outside the dark
        cells and its entropy is exact.

    Examples
    --------
    >>> from skjko.datasets import checkerboard
    >>> round(checkerboard(n_cells=2, cell_size=1.0).score([[-0.5, -0.5]]), 6)
    -0.693147
    """
    _check_number(n_cells, "n_cells", "checkerboard", Integral, 1, closed="left")
    _check_number(cell_size, "cell_size", "checkerboard", Real, 0)
    return _Checkerboard("checkerboard", int(n_cells), float(cell_size))
