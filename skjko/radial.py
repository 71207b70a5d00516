"""Rows of one shape and many sizes, drawn to one size by a map of their length."""

# SPDX-License-Identifier: BSD-3-Clause

import math

import numpy as np
from scipy.optimize import minimize_scalar

# Fewer rows do not tell heavy tails from outliers; and one column has marginal maps.
_MIN_ROWS, _MIN_COLUMNS = 100, 2
# Nats that the map has to gain on the rows it is fitted to, with its two numbers.
_LEAST_GAIN = 0.02
# The radius is no smaller than this quantile of the lengths: nearer to the centre there
# are no rows to tell of a density. So many root mean squares of them make the map
# straight for all rows.
_NEAREST, _FARTHEST = 0.05, 150.0
# Logarithms between which lengths stay.
_SHORTEST, _LONGEST = -300.0, 690.0


class RadialMap:
    """Long rows drawn in: y = k x with |y| = scale sqrt(log(1 + |x|^2 / radius^2)).

    Near the centre the map multiplies, far away the density of a Gaussian behind it
    falls as a power of the length, as Student's t does. It is a radial Gaussianization
    (S. Lyu, E. P. Simoncelli, "Nonlinear extraction of independent components of
    natural images using radial Gaussianization", Neural Computation 2009) of two
    numbers.

    Parameters
    ----------
    radius, scale : float
        Positive, in units of the rows x and y.
    """

    def __init__(self, radius, scale):
        self.radius, self.scale = radius, scale
        self._log_growth = math.log(scale) - math.log(radius)

    def forward(self, X):
        """Map rows; return them and log|det dy/dx| of every row."""
        drawn, shrunk = _drawn_in(_log_length(X) - math.log(self.radius))
        Y = X * np.exp(self._log_growth + shrunk / 2)[:, np.newaxis]
        d = X.shape[1]
        return Y, d * self._log_growth + (d / 2 - 1) * shrunk - drawn

    def inverse(self, Y):
        """Map back; what would be longer than all numbers gets about the longest."""
        log_length = _log_length(Y)
        with np.errstate(over="ignore"):
            drawn = np.exp(2 * (log_length - math.log(self.scale)))
        # The logarithm of exp(drawn) - 1.
        log_square = drawn + np.log(-np.expm1(-drawn))
        moved = np.minimum(math.log(self.radius) + log_square / 2, _LONGEST)
        return Y * np.exp(moved - log_length)[:, np.newaxis]


def choose_radial_map(Z, weight):
    """Return the map behind which whitened rows are most likely normal, or None.

    Parameters
    ----------
    Z : ndarray of shape (n_samples, n_features)
        Of about zero mean and unit covariance.
    weight : ndarray of shape (n_samples,)
        Positive.

    Returns
    -------
    radial : RadialMap or None
        None if it would gain next to nothing.
    """
    n, d = Z.shape
    if n < _MIN_ROWS or d < _MIN_COLUMNS:
        return None
    log_length, share = _log_length(Z), weight / weight.sum()
    with np.errstate(over="ignore"):
        mean_square = share @ np.exp(2 * log_length)
    if not 0 < mean_square < np.inf:
        return None

    def log_scale(drawn):
        # The scale of the greatest likelihood: the mean of |y|^2 is d.
        return 0.5 * math.log(d / (share @ drawn))

    def loss(log_radius):
        drawn, shrunk = _drawn_in(log_length - log_radius)
        growth = log_scale(drawn) - log_radius
        return -(d * growth + share @ ((d / 2 - 1) * shrunk - drawn))

    least = np.quantile(log_length, _NEAREST)
    most = 0.5 * math.log(mean_square) + math.log(_FARTHEST)
    log_radius = minimize_scalar(loss, bounds=(least, most), method="bounded").x
    gain = -0.5 * d * math.log(d / mean_square) - loss(log_radius)
    if not gain > _LEAST_GAIN:
        return None
    drawn, _ = _drawn_in(log_length - log_radius)
    return RadialMap(math.exp(log_radius), math.exp(log_scale(drawn)))


def _log_length(X):
    """Logarithm of the length of every row, without squares that overflow."""
    size = np.maximum(np.abs(X).max(axis=1), math.exp(_SHORTEST))
    relative = np.linalg.norm(X / size[:, np.newaxis], axis=1)
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(size) + np.log(relative), _SHORTEST)


def _drawn_in(log_length):
    """Return log(1 + q) and log(log(1 + q) / q) of q = |x|^2, by log|x|."""
    log_square = 2 * log_length
    drawn = np.logaddexp(0, log_square)
    return drawn, np.log(drawn) - log_square
