"""Two-dimensional distributions: drawings that are easy to see and hard to fit."""

# SPDX-License-Identifier: BSD-3-Clause

from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral, Rational, Real

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import i0e

from skjko.datasets.base import (
    SPACING,
    Distribution,
    IsotropicMixture,
    along_curve,
    check_number,
    frozen,
    logsumexp_rows,
)
from skjko.typing import Floats

__all__ = [
    "checkerboard",
    "eight_gaussians",
    "fractal_tree",
    "moons",
    "rings",
    "rose",
    "spirals",
]


@dataclass(frozen=True, eq=False, repr=False)
class _Rings(Distribution):
    """Equal mixture of circles about the origin, each blurred by the same Gaussian."""

    name: str
    radii: Floats
    sigma: float

    n_features = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "radii", frozen(self.radii))

    @property
    def _n_terms(self) -> int:
        return len(self.radii)

    def _sample(self, n_samples: int, rng: np.random.RandomState) -> Floats:
        radius = rng.choice(self.radii, size=n_samples)
        angle = rng.uniform(0.0, 2 * np.pi, size=n_samples)
        noise = self.sigma * rng.standard_normal((n_samples, 2))
        return radius[:, None] * _directions(angle) + noise

    def _log_density(self, X: Floats) -> Floats:
        # Averaging a Gaussian over the circle's angle leaves the Bessel function
        # I0(r R / sigma^2). Its scaled form i0e keeps that from overflowing and turns
        # the exponent into (r - R)^2; unlike `ive` it takes arguments of any size.
        precision = 1 / self.sigma**2
        with np.errstate(over="ignore", divide="ignore"):
            r = np.hypot(X[:, :1], X[:, 1:])
            terms = np.log(i0e(precision * r * self.radii))
            terms -= 0.5 * precision * (r - self.radii) ** 2
        terms += np.log(precision / (2 * np.pi * len(self.radii)))
        return logsumexp_rows(terms)


@dataclass(frozen=True, eq=False, repr=False)
class _Checkerboard(Distribution):
    """Uniform distribution on the dark cells of a centered square board."""

    name: str
    n_cells: int
    cell_size: float

    n_features = 2

    @property
    def _log_area(self) -> float:
        n_dark = (self.n_cells**2 + 1) // 2
        return float(np.log(n_dark) + 2 * np.log(self.cell_size))

    def _sample(self, n_samples: int, rng: np.random.RandomState) -> Floats:
        dark = np.argwhere(np.indices([self.n_cells] * 2).sum(axis=0) % 2 == 0)
        cell = dark[rng.randint(len(dark), size=n_samples)]
        position = rng.uniform(size=(n_samples, 2))
        return self.cell_size * (cell + position - self.n_cells / 2)

    def _log_density(self, X: Floats) -> Floats:
        # Clipping keeps points far outside from overflowing; -1 and n_cells are
        # still outside.
        cell = np.floor(X / self.cell_size + self.n_cells / 2)
        cell = np.clip(cell, -1, self.n_cells)
        inside = np.all((cell >= 0) & (cell < self.n_cells), axis=1)
        dark = cell.sum(axis=1) % 2 == 0
        return np.where(inside & dark, -self._log_area, -np.inf)

    def _exact_entropy(self) -> float:
        return self._log_area


def _directions(angle: Floats) -> Floats:
    """Return the unit vectors of some angles, shape (n, 2)."""
    return np.column_stack([np.cos(angle), np.sin(angle)])


def _rotated_copies(points: Floats, n_copies: int) -> Floats:
    """Return `n_copies` of points of shape (n, 2), spread over the full turn."""
    angle = 2 * np.pi * np.arange(n_copies) / n_copies
    # With u = (cos, sin) a rotation sends (x, y) to x u + y u', u' = (-sin, cos).
    x, y = points[:, :1], points[:, 1:]
    u, u_prime = _directions(angle), _directions(angle + np.pi / 2)
    copies = x * u[:, None] + y * u_prime[:, None]
    return copies.reshape(-1, 2)


def rose(
    *,
    k: int | Fraction = Fraction(5, 2),
    n_layers: int = 2,
    radius: float = 3.2,
    sigma: float = 0.03,
) -> Distribution:
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
    k = Fraction(check_number(k, "k", "rose", Rational, 0))
    check_number(n_layers, "n_layers", "rose", Integral, 1, closed="left")
    check_number(radius, "radius", "rose", Real, 0)
    check_number(sigma, "sigma", "rose", Real, 0)

    both_odd = k.numerator % 2 and k.denominator % 2
    n_petals = k.numerator if both_odd else 2 * k.numerator
    half_width = np.pi / (2 * float(k))
    layers = []
    for layer_radius in radius * np.arange(1, n_layers + 1) / n_layers:

        def petal(theta: Floats, scale: float = layer_radius) -> Floats:
            return scale * np.cos(float(k) * theta)[:, None] * _directions(theta)

        outline = along_curve(petal, -half_width, half_width, SPACING * sigma)
        layers.append(_rotated_copies(outline, n_petals))
    centers = np.concatenate(layers)
    weights = np.linalg.norm(centers, axis=1)
    return IsotropicMixture("rose", centers, frozen(sigma), weights)


def fractal_tree(
    *,
    depth: int = 7,
    angle: float = 0.46,
    shrink: float = 0.77,
    taper: float = 0.84,
    sigma: float = 0.07,
) -> Distribution:
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
    check_number(depth, "depth", caller, Integral, 0, 12, closed="both")
    check_number(angle, "angle", caller, Real, 0, np.pi, closed="left")
    check_number(shrink, "shrink", caller, Real, 0, 1)
    check_number(taper, "taper", caller, Real, 0, 1, closed="right")
    check_number(sigma, "sigma", caller, Real, 0)

    # The left child turns less and grows longer than the right one.
    turns = angle * np.array([0.9, -1.1])
    ratios = shrink * np.array([1.04, 0.96])
    parts = []
    feet, headings, lengths = np.zeros((1, 2)), np.array([np.pi / 2]), np.array([1.4])
    for _ in range(depth + 1):
        tips = feet + lengths[:, None] * _directions(headings)
        for foot, tip, length in zip(feet, tips, lengths, strict=True):
            n_points = int(np.ceil(length / (SPACING * taper * sigma)))
            t = (np.arange(n_points) + 0.5) / n_points
            width = sigma * (1 - (1 - taper) * t)
            center = foot + t[:, None] * (tip - foot)
            parts.append((center, width, width * length / n_points))
        feet = np.repeat(tips, 2, axis=0)
        headings = (headings[:, None] + turns).ravel()
        lengths = (lengths[:, None] * ratios).ravel()
        sigma *= taper
    centers, sigmas, weights = map(np.concatenate, zip(*parts, strict=True))
    centers -= np.average(centers, axis=0, weights=weights)
    return IsotropicMixture("fractal_tree", centers, sigmas, weights)


def spirals(
    *, n_arms: int = 2, n_turns: float = 1.5, radius: float = 3.2, sigma: float = 0.1
) -> Distribution:
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
    check_number(n_arms, "n_arms", "spirals", Integral, 1, closed="left")
    check_number(n_turns, "n_turns", "spirals", Real, 0)
    check_number(radius, "radius", "spirals", Real, 0)
    check_number(sigma, "sigma", "spirals", Real, 0)

    def arm(t: Floats) -> Floats:
        return radius * t[:, None] * _directions(2 * np.pi * n_turns * t)

    centers = _rotated_copies(along_curve(arm, 0.0, 1.0, SPACING * sigma), n_arms)
    return IsotropicMixture("spirals", centers, frozen(sigma))


def moons(*, radius: float = 2.0, sigma: float = 0.1) -> Distribution:
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
    check_number(radius, "radius", "moons", Real, 0)
    check_number(sigma, "sigma", "moons", Real, 0)

    def upper(t: Floats) -> Floats:
        return radius * (_directions(t) - [0.5, 0.25])

    centers = _rotated_copies(along_curve(upper, 0.0, np.pi, SPACING * sigma), 2)
    return IsotropicMixture("moons", centers, frozen(sigma))


def rings(
    *, radii: ArrayLike = (0.75, 1.5, 2.25, 3.0), sigma: float = 0.08
) -> Distribution:
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
    check_number(sigma, "sigma", "rings", Real, 0)
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


def eight_gaussians(*, radius: float = 2.8, sigma: float = 0.35) -> Distribution:
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
    check_number(radius, "radius", "eight_gaussians", Real, 0)
    check_number(sigma, "sigma", "eight_gaussians", Real, 0)
    centers = _rotated_copies(np.array([[radius, 0.0]]), 8)
    return IsotropicMixture("eight_gaussians", centers, frozen(sigma))


def checkerboard(*, n_cells: int = 4, cell_size: float = 2.0) -> Distribution:
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
    check_number(n_cells, "n_cells", "checkerboard", Integral, 1, closed="left")
    check_number(cell_size, "cell_size", "checkerboard", Real, 0)
    return _Checkerboard("checkerboard", int(n_cells), float(cell_size))
