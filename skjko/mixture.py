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
    best, work = _best_level(X, weight, splits, _WEAK, work)
    strength = _WEAK
    if len(X) < _FEW_ROWS * (X.shape[1] + 2) * len(best.mixture.weights):
        strong, _ = _best_level(X, weight, splits, _STRONG, work)
        if strong.score > best.score:
            best, strength = strong, _STRONG
    if len(splits) > 1 or best.number == 0:
        # Some of few rows lack too much of what all of them show.
        *_, (mixture, _) = islice(_grow(X, weight, strength), best.number + 1)
        return mixture
    settled = _settle(X, weight, best.mixture, best.prior, strength)
    return best.mixture if settled is None else settled[0]


@dataclass(frozen=True)
class _Level:
    """A mixture, the covariances that its own were shrunk to, its held-out score."""

    number: int
    mixture: Mixture
    prior: np.ndarray
    score: float


def _best_level(X, weight, splits, strength, work):
    """Grow to the level that is best on held-out rows.

    Returns that of the first split, and the work that is left. For one part there is
    always enough; for others, to settle them on all rows too.
    """
    growths = [_grow(X[a], weight[a], strength) for a, _ in splits]
    total = sum(weight[b].sum() for _, b in splits)
    n_rows = sum(len(a) for a, _ in splits)
    best = None
    for number, grown in enumerate(zip(*growths, strict=False)):
        score = sum(
            weight[b] @ mixture.log_density(X[b])
            for (mixture, _), (_, b) in zip(grown, splits, strict=True)
        )
        if best is not None and not score / total > best.score:
            break
        best = _Level(number, *grown[0], score / total)
        growing = n_rows * _operations(best.mixture)
        # The next level has twice as many parts.
        if 2 * (growing + len(X) * _operations(best.mixture)) > work:
            break
        work -= 2 * growing
    return best, work


def _operations(mixture):
    """Floating-point operations for a row, in all iterations."""
    n_parts, d = mixture.means.shape
    # Two matrix products, and some operations for the exponentials.
    return n_parts * _N_ITER * (2 * (d + 1) * (d + 2) + 20)


def _grow(X, weight, strength):
    """Yield mixtures of one part, two, four, ... until there are rows for no more.

    With each come the covariances that its own are shrunk to.
    """
    total, mean, square = weight.sum(), weight @ X, (X * weight[:, np.newaxis]).T @ X
    mean = mean / total
    covariance = square / total - np.outer(mean, mean)
    covariance += _LEAST_VARIANCE * np.eye(X.shape[1])
    covariance = covariance[np.newaxis]
    settled = Mixture(np.ones(1), mean[np.newaxis], covariance), covariance
    n_parts = 0
    while settled is not None and n_parts < len(settled[0].weights):
        yield settled
        n_parts = len(settled[0].weights)
        if n_parts > _MAX_PARTS // 2:
            return
        settled = _settle(X, weight, *_split(settled[0]), strength)


def _settle(X, weight, mixture, prior, strength):
    """Iterate, with covariances shrunk to the prior.

    Returns mixture and prior of the parts that are left, or None if there are none.
    """
    rows = strength * (X.shape[1] + 2)
    before = -math.inf
    for _ in range(_N_ITER):
        loglik, statistics = _expectation(X, weight, mixture)
        alive = statistics[:, 0] > _LEAST_ROWS
        if not alive.any():
            return None
        prior = prior[alive]
        mixture = _maximization(statistics[alive], prior, rows)
        if loglik - before < _TOL:
            break
        before = loglik
    return mixture, prior


def _split(mixture):
    """Halve every part across its longest direction; mean and covariance stay.

    Returns the halves, and the covariances to shrink theirs to.
    """
    values, vectors = np.linalg.eigh(mixture.covariances)
    axis = np.sqrt(values[:, -1:]) * vectors[:, :, -1]
    square = axis[:, :, np.newaxis] * axis[:, np.newaxis, :]
    halves = Mixture(
        np.tile(mixture.weights / 2, 2),
        np.concatenate([mixture.means + _APART * axis, mixture.means - _APART * axis]),
        np.tile(mixture.covariances - _APART**2 * square, (2, 1, 1)),
    )
    return halves, np.tile(mixture.covariances - _NARROWER * square, (2, 1, 1))


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
