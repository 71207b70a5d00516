"""Mixtures of Gaussians by expectation-maximization, with shrunk covariances.

The covariance of a part is pulled towards another one, as by an inverse Wishart prior
around it: of the half it was when it was split off. In few rows a part keeps the shape
of its parent, in many it finds its own.

Arrays may have dimensions in front, those of tables of the same shape that are worked
on side by side: single columns, and folds. On few rows the number of operations is what
all this costs.
"""

# SPDX-License-Identifier: BSD-3-Clause

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from sklearn.utils import gen_batches

# Iterations end when the mean log-likelihood gains less than this, in nats.
_TOL = 1e-3
# Where a split puts the means, in standard deviations along the longest direction:
# where those of the halves of a normal are. Nearer ones take long to part.
_APART = math.sqrt(2 / math.pi)
# What of the variance in that direction the prior of a half lacks. Halves of a normal
# lack 2 / pi, but then narrow parts, of few rows, are made much of.
_NARROWER = 0.36
# Least variance: rows have about unit variance. Narrower parts are spikes, of values
# that repeat.
_LEAST_VARIANCE = 1e-6
# A part of fewer rows is no part.
_LEAST_ROWS = 1.0
# Numbers, rows times sufficient statistics or parts, that are worked on together, and
# rows at least and at most.
_CHUNK_VALUES, _CHUNK_ROWS = 2**20, (64, 1024)
# A part's density at a row relative to that of the largest, as a logarithm, at least.
_LEAST_LOG = -100.0
# Logarithm of no weight, with which there is still no NaN.
_NEVER = -1e100


def of_tables(X, which):
    """Return the rows of some tables: no copy, if these are all."""
    return X if len(which) == len(X) else X[which]


class Mixture(NamedTuple):
    """Gaussians and their shares.

    Attributes
    ----------
    weights : ndarray of shape (..., n_parts)
        Of sum one, and positive. Of several tables, the one with the most parts says
        how many there are, and the others' are filled up with parts of no weight.
    means : ndarray of shape (..., n_parts, n_features)
    covariances : ndarray of shape (..., n_parts, n_features, n_features)
    """

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    def log_density(self, X):
        """Log-density of every row, in nats."""
        densities = [m for _, _, m in _responsibilities(X, self)]
        return np.concatenate(densities, axis=-1)


class Settled(NamedTuple):
    """A mixture, and the covariances that its own were shrunk to."""

    mixture: Mixture
    prior: np.ndarray

    @property
    def n_parts(self):
        """Number of parts that have a weight."""
        return np.count_nonzero(self.mixture.weights, axis=-1)

    def of(self, which):
        """Return what belongs to some of the tables, and parts that one of them has."""
        alive = (self.mixture.weights[which] > 0).any(axis=(0, 1))
        some = [array[which][:, :, alive] for array in (*self.mixture, self.prior)]
        return Settled(Mixture(*some[:-1]), some[-1])

    def first_fold(self, i):
        """Return what belongs to a table's first fold."""
        return self.of(np.s_[i : i + 1, :1])

    def single(self):
        """Return the mixture of a table that is alone, and its only fold."""
        return Mixture(*(array[0, 0] for array in self.mixture))


def gaussian(X, weight):
    """Return mixtures of one part, fitted to all rows."""
    *tables, _, d = X.shape
    shape = (*tables, 1, d, d)
    # Everything is of one part, whatever that is.
    standard = np.broadcast_to(np.eye(d), shape)
    one = Mixture(np.ones(shape[:-2]), np.zeros(shape[:-1]), standard)
    _, statistics = _expectation(X, weight, one)
    mixture = _maximization(statistics, np.zeros(shape), 0.0)
    return Settled(mixture, mixture.covariances)


def settle(X, weight, start, strength, n_iter):
    """Iterate, with covariances shrunk to the prior; every fold stops by itself.

    Parts that few rows belong to lose their weight: where there are no others, all do.
    """
    rows = strength * (X.shape[-1] + 2)
    (mixture, prior), settled = start, [array.copy() for array in start.mixture]
    moving, before = np.arange(len(X)), -math.inf
    # Tables are left when all their folds have stopped; until then those stay as is.
    goes_on = np.ones(X.shape[:2], bool)
    for left in reversed(range(n_iter)):
        loglik, statistics = _expectation(of_tables(X, moving), weight, mixture)
        alive = statistics[..., 0] > _LEAST_ROWS
        found = _maximization(statistics, prior[moving], rows, alive)
        for array, new in zip(mixture, found, strict=True):
            new[~goes_on] = array[~goes_on]
        mixture = found
        goes_on = goes_on & alive.any(axis=-1) & (loglik - before >= _TOL)
        stops = ~goes_on.any(axis=1) | (left == 0)
        for whole, array in zip(settled, mixture, strict=True):
            whole[moving[stops]] = array[stops]
        if stops.all():
            break
        moving, before, goes_on = moving[~stops], loglik[~stops], goes_on[~stops]
        mixture = Mixture(*(array[~stops] for array in mixture))
    return Settled(Mixture(*settled), prior).of(slice(None))


def split(mixture):
    """Halve every part across its longest direction; mean and covariance stay."""
    values, vectors = np.linalg.eigh(mixture.covariances)
    axis = np.sqrt(values[..., -1:]) * vectors[..., -1]
    square = axis[..., :, np.newaxis] * axis[..., np.newaxis, :]
    weights, means, covariances = mixture
    halves = Mixture(
        np.concatenate([weights / 2, weights / 2], axis=-1),
        np.concatenate([means + _APART * axis, means - _APART * axis], axis=-2),
        np.concatenate([covariances - _APART**2 * square] * 2, axis=-3),
    )
    prior = np.concatenate([covariances - _NARROWER * square] * 2, axis=-3)
    return Settled(halves, prior)


@lru_cache(maxsize=8)
def _upper(d):
    """Rows and columns of the upper triangle; few small mixtures ask often."""
    return np.triu_indices(d)


def _expectation(X, weight, mixture):
    """Mean log-likelihood, and the sufficient statistics that the parts get."""
    loglik, statistics = 0.0, 0.0
    for where, (ratios, sums, features), logs in _responsibilities(X, mixture):
        share = weight[..., where]
        ratios *= (share / sums)[..., np.newaxis, :]
        statistics = statistics + ratios @ features.swapaxes(-1, -2)
        loglik = loglik + (share * logs).sum(axis=-1)
    return loglik / weight.sum(axis=-1), statistics


def _maximization(statistics, prior, rows, alive=True):
    """Means, and covariances shrunk to their priors as by so many rows.

    The weights are those of the parts that are alive.
    """
    d = prior.shape[-1]
    counts = statistics[..., 0, np.newaxis]
    means = statistics[..., 1 : d + 1] / counts
    i, j = _upper(d)
    scatter = np.empty_like(prior)
    scatter[..., i, j] = scatter[..., j, i] = statistics[..., d + 1 :]
    outer = means[..., :, np.newaxis] * means[..., np.newaxis, :]
    scatter -= counts[..., np.newaxis] * outer
    divisor = counts[..., np.newaxis] + rows
    covariances = (scatter + rows * prior) / divisor + _LEAST_VARIANCE * np.eye(d)
    weights = np.where(alive, counts[..., 0], 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    return Mixture(weights / np.where(total > 0, total, 1.0), means, covariances)


def _responsibilities(X, mixture):
    """Yield slices of rows, how they belong to parts, features, and log-densities.

    The parts' densities come relative to the largest, and with their sum.

    The features of a row are 1, its values and their products, so that the logarithms
    of all parts' densities are one matrix product, and so are the statistics. Rows are
    columns here: a feature, and a part, of all of them lie side by side.
    """
    *tables, n, d = X.shape
    coefficients = _coefficients(mixture, *_upper(d))
    n_parts, n_features = coefficients.shape[-2:]
    values = math.prod(tables) * max(n_parts, n_features)
    size = int(np.clip(_CHUNK_VALUES // values, *_CHUNK_ROWS))
    buffer = np.ones((*tables, n_features, min(n, size)))
    for where in gen_batches(n, size):
        features = buffer[..., : where.stop - where.start]
        values = features[..., 1 : d + 1, :]
        values[:] = X[..., where, :].swapaxes(-1, -2)
        end = d + 1
        for k in range(d):
            start, end = end, end + d - k
            np.multiply(
                values[..., k : k + 1, :],
                values[..., k:, :],
                out=features[..., start:end, :],
            )
        logs = coefficients @ features
        largest = logs.max(axis=-2)
        logs -= largest[..., np.newaxis, :]
        # Numbers too small for the processor's fast path, and nothing beside one.
        np.maximum(logs, _LEAST_LOG, out=logs)
        ratios = np.exp(logs, out=logs)
        sums = ratios.sum(axis=-2)
        yield where, (ratios, sums, features), largest + np.log(sums)


def _coefficients(mixture, i, j):
    """Coefficients of the features in the logarithms of the parts' densities."""
    means, d = mixture.means, mixture.means.shape[-1]
    factors = np.linalg.cholesky(mixture.covariances)
    inverse = np.linalg.inv(factors)
    precision = inverse.swapaxes(-1, -2) @ inverse
    linear = (precision @ means[..., np.newaxis])[..., 0]
    weights = mixture.weights
    log_weights = np.log(weights, where=weights > 0, out=np.full(weights.shape, _NEVER))
    constant = (
        log_weights
        - 0.5 * (means * linear).sum(axis=-1)
        - np.log(np.diagonal(factors, axis1=-2, axis2=-1)).sum(axis=-1)
        - 0.5 * d * math.log(2 * math.pi)
    )
    quadratic = -precision[..., i, j]
    quadratic[..., i == j] /= 2
    return np.concatenate([constant[..., np.newaxis], linear, quadratic], axis=-1)
