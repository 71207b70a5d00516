"""Mixtures of Gaussians that grow by splitting, each part shrunk to what it came from.

Every Gaussian is split in two, expectation-maximization settles all of them, and so on,
for as long as held-out rows gain. The covariance of a part is pulled towards that of
the half it was when it was split off, as by an inverse Wishart prior around it: in few
rows a part keeps the shape of its parent, in many it finds its own. So hundreds of
parts are no danger to small tables, and no start has to be drawn at random.
"""

# SPDX-License-Identifier: BSD-3-Clause

import math
from dataclasses import dataclass
from itertools import islice

import numpy as np
from sklearn.model_selection import KFold, ShuffleSplit
from sklearn.utils import gen_batches

# Prior rows of a covariance, relative to its degrees of freedom. The stronger prior is
# tried as well where the parts that were found have few rows, relative to these.
_WEAK, _STRONG = 1.0, 3.0
_FEW_ROWS = 5.0

_MAX_PARTS = 512
_N_ITER = 15
# Iterations end when the mean log-likelihood gains less than this, in nats.
_TOL = 1e-3
# Where a split puts the means, in standard deviations along the longest direction.
_APART = 0.6
# Least variance: rows have about unit variance. Narrower parts are spikes, of values
# that repeat.
_LEAST_VARIANCE = 1e-6
# A part of fewer rows is no part.
_LEAST_ROWS = 1.0
# Below this number of rows one split is too few of them to decide by.
_CROSS_VALIDATION_ROWS, _N_FOLDS, _HELD_OUT = 1000, 3, 0.25
# Numbers, rows times columns of sufficient statistics, that are worked on together.
_CHUNK_VALUES, _LEAST_CHUNK = 2**17, 64


@dataclass(frozen=True)
class Mixture:
    """Gaussians and their shares.

    Attributes
    ----------
    weights : ndarray of shape (n_parts,)
        Positive, of sum one.
    means : ndarray of shape (n_parts, n_features)
    covariances : ndarray of shape (n_parts, n_features, n_features)
    """

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    def log_density(self, X):
        """Log-density of every row, in nats."""
        densities = [m for _, _, m in _responsibilities(X, self)]
        return np.concatenate(densities)


def choose_mixture(X, weight, rng, work=math.inf):
    """Return the mixture that is best on held-out rows, fitted to all of them.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows of about zero mean and unit covariance.
    weight : ndarray of shape (n_samples,)
        Positive.
    rng : RandomState
    work : float
        Floating-point operations that it may take, about. Growth ends there.

    Returns
    -------
    mixture : Mixture
        Of one Gaussian if more are no better.
    """
    weight = weight / weight.mean()
    if len(X) < _CROSS_VALIDATION_ROWS:
        splitter = KFold(_N_FOLDS, shuffle=True, random_state=rng)
    else:
        splitter = ShuffleSplit(1, test_size=_HELD_OUT, random_state=rng)
    splits = list(splitter.split(X))
    # Once to choose a level, and once more to fit it to all rows; with two priors.
    last = _last_level(X, work / 4)
    score, level = _best_level(X, weight, splits, _WEAK, last)
    mixture = _nth(_grow(X, weight, _WEAK), level)
    if len(X) < _FEW_ROWS * (X.shape[1] + 2) * len(mixture.weights):
        strong_score, level = _best_level(X, weight, splits, _STRONG, last)
        if strong_score > score:
            mixture = _nth(_grow(X, weight, _STRONG), level)
    return mixture


def _last_level(X, work):
    """Number of the last level to which growing takes no more than so much work."""
    n, d = X.shape
    n_features = (d + 1) * (d + 2) // 2
    # Two matrix products, and some operations for the exponentials.
    level_1 = 2 * n * _N_ITER * (4 * n_features + 20)
    level, total = 0, 0
    while total + level_1 * 2**level <= work and 2 ** (level + 1) <= _MAX_PARTS:
        total += level_1 * 2**level
        level += 1
    return level


def _best_level(X, weight, splits, strength, last):
    """Return the mean held-out log-density of the best level, and its number."""
    growths = [_grow(X[a], weight[a], strength) for a, _ in splits]
    total = sum(weight[b].sum() for _, b in splits)
    best, best_level = -math.inf, 0
    for level, mixtures in enumerate(islice(zip(*growths, strict=False), last + 1)):
        score = sum(
            weight[b] @ mixture.log_density(X[b])
            for mixture, (_, b) in zip(mixtures, splits, strict=True)
        )
        if not score / total > best:
            break
        best, best_level = score / total, level
    return best, best_level


def _nth(growth, level):
    """Return the mixture of a level, or the last one before it."""
    *_, mixture = islice(growth, level + 1)
    return mixture


def _grow(X, weight, strength):
    """Yield mixtures of one part, two, four, ... until there are rows for no more."""
    d = X.shape[1]
    total, mean, square = weight.sum(), weight @ X, (X * weight[:, np.newaxis]).T @ X
    mean = mean / total
    covariance = square / total - np.outer(mean, mean)
    covariance += _LEAST_VARIANCE * np.eye(d)
    mixture = Mixture(np.ones(1), mean[np.newaxis], covariance[np.newaxis])
    yield mixture
    rows = strength * (d + 2)
    n_before = 0
    while n_before < len(mixture.weights) <= _MAX_PARTS // 2:
        n_before = len(mixture.weights)
        mixture = _split(mixture)
        prior, before = mixture.covariances, -math.inf
        for _ in range(_N_ITER):
            loglik, statistics = _expectation(X, weight, mixture)
            alive = statistics[:, 0] > _LEAST_ROWS
            if not alive.any():
                return
            prior = prior[alive]
            mixture = _maximization(statistics[alive], prior, rows)
            if loglik - before < _TOL:
                break
            before = loglik
        yield mixture


def _split(mixture):
    """Halve every part across its longest direction; mean and covariance stay."""
    values, vectors = np.linalg.eigh(mixture.covariances)
    step = _APART * np.sqrt(values[:, -1:]) * vectors[:, :, -1]
    halves = mixture.covariances - step[:, :, np.newaxis] * step[:, np.newaxis, :]
    return Mixture(
        np.tile(mixture.weights / 2, 2),
        np.concatenate([mixture.means + step, mixture.means - step]),
        np.tile(halves, (2, 1, 1)),
    )


def _expectation(X, weight, mixture):
    """Mean log-likelihood, and the sufficient statistics that the parts get."""
    loglik, statistics = 0.0, 0.0
    for where, (shares, features), logs in _responsibilities(X, mixture):
        shares *= weight[where, np.newaxis]
        statistics = statistics + shares.T @ features
        loglik += weight[where] @ logs
    return loglik / weight.sum(), statistics


def _maximization(statistics, prior, rows):
    """Means, and covariances shrunk to their priors as by so many rows."""
    d = prior.shape[1]
    counts = statistics[:, 0]
    means = statistics[:, 1 : d + 1] / counts[:, np.newaxis]
    i, j = np.triu_indices(d)
    scatter = np.empty_like(prior)
    scatter[:, i, j] = scatter[:, j, i] = statistics[:, d + 1 :]
    scatter -= counts[:, np.newaxis, np.newaxis] * (
        means[:, :, np.newaxis] * means[:, np.newaxis, :]
    )
    divisor = (counts + rows)[:, np.newaxis, np.newaxis]
    covariances = (scatter + rows * prior) / divisor + _LEAST_VARIANCE * np.eye(d)
    return Mixture(counts / counts.sum(), means, covariances)


def _responsibilities(X, mixture):
    """Yield slices of rows, their shares in the parts and features, log-densities.

    The features of a row are 1, its values and their products, so that the logarithms
    of all parts' densities are one matrix product, and so are the statistics.
    """
    n, d = X.shape
    i, j = np.triu_indices(d)
    coefficients = _coefficients(mixture, i, j)
    size = max(_LEAST_CHUNK, _CHUNK_VALUES // max(coefficients.shape))
    for where in gen_batches(n, size):
        rows = X[where]
        features = np.ones((len(rows), len(coefficients)))
        features[:, 1 : d + 1] = rows
        end = d + 1
        for k in range(d):
            start, end = end, end + d - k
            np.multiply(rows[:, k, np.newaxis], rows[:, k:], features[:, start:end])
        logs = features @ coefficients
        largest = logs.max(axis=1)
        shares = np.exp(logs - largest[:, np.newaxis], out=logs)
        sums = shares.sum(axis=1)
        shares /= sums[:, np.newaxis]
        yield where, (shares, features), largest + np.log(sums)


def _coefficients(mixture, i, j):
    """Coefficients of the features in the logarithms of the parts' densities."""
    means, d = mixture.means, mixture.means.shape[1]
    factors = np.linalg.cholesky(mixture.covariances)
    inverse = np.linalg.inv(factors)
    precision = inverse.transpose(0, 2, 1) @ inverse
    linear = np.einsum("kij,kj->ki", precision, means)
    constant = (
        np.log(mixture.weights)
        - 0.5 * (means * linear).sum(axis=1)
        - np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
        - 0.5 * d * math.log(2 * math.pi)
    )
    quadratic = -precision[:, i, j]
    quadratic[:, i == j] /= 2
    return np.hstack([constant[:, np.newaxis], linear, quadratic]).T
