"""Mixtures of Gaussians that grow by splitting, each part shrunk to what it came from.

Every Gaussian is split in two, expectation-maximization settles all of them, and so on,
for as long as held-out rows gain: on a sample of the rows that grows with the number of
parts, and at last on all of them. The covariance of a part is pulled towards that of
the half it was when it was split off, as by an inverse Wishart prior around it: in few
rows a part keeps the shape of its parent, in many it finds its own. So hundreds of
parts are no danger to small tables, and no start has to be drawn at random.
"""

# SPDX-License-Identifier: BSD-3-Clause

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import KFold
from sklearn.utils import gen_batches

# Prior rows of a covariance, relative to its degrees of freedom. The stronger prior is
# tried as well where the parts that were found have few rows, relative to these.
_WEAK, _STRONG = 1.0, 3.0
_FEW_ROWS = 5.0

# Growth ends no sooner: two or four parts can be no better than one where eight are, as
# in a rose, of which every slice looks alike.
_SURE_PARTS, _MAX_PARTS = 16, 512
_N_ITER = 15
# ... and on all rows, from what has settled on many of them.
_N_LAST_ITER = 6
# Rows that the growth to more parts looks at: so many, or so many for each of them, and
# more in more columns. All rows settle what has grown.
_GROWING_ROWS, _ROWS_PER_PART, _ROWS_PER_COLUMN = 10_000, 250, 25
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
# Numbers, rows times sufficient statistics or parts, that are worked on together, and
# rows at least and at most.
_CHUNK_VALUES, _CHUNK_ROWS = 2**20, (64, 1024)
# A part's density at a row relative to that of the largest, as a logarithm, at least.
_LEAST_LOG = -100.0


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


def choose_mixture(X, weight, work=math.inf):
    """Return the mixture that is best on held-out rows, fitted to all of them.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows of about zero mean and unit covariance, in random order: the first of them
        are a sample of all.
    weight : ndarray of shape (n_samples,)
        Positive.
    work : float
        Floating-point operations that it may take, about. Growth ends there.

    Returns
    -------
    mixture : Mixture
        Of one Gaussian if more are no better.
    is_grown : bool
        Whether more work would not make another one of it.
    """
    weight = weight / weight.mean()
    if len(X) < _CROSS_VALIDATION_ROWS:
        splits = list(KFold(_N_FOLDS).split(X))
    else:
        n_held_out = math.ceil(_HELD_OUT * len(X))
        splits = [(slice(n_held_out, None), slice(n_held_out))]
    best, work, is_grown = _best_level(X, weight, splits, _WEAK, work)
    strength = _WEAK
    if len(X) < _FEW_ROWS * (X.shape[1] + 2) * best.n_parts:
        strong, _, too = _best_level(X, weight, splits, _STRONG, work)
        is_grown = is_grown and too
        if strong.score > best.score:
            best, strength = strong, _STRONG
    if len(splits) > 1 or best.number == 0:
        # Some of few rows lack too much of what all of them show.
        *_, (_, grown) = islice(_grow(X, weight, strength), best.number + 1)
        return grown.mixture, is_grown
    settled = _settle(X, weight, best.settled, strength, _N_LAST_ITER) or best.settled
    return settled.mixture, is_grown


class _Settled(NamedTuple):
    """A mixture, and the covariances that its own were shrunk to."""

    mixture: Mixture
    prior: np.ndarray


class _Level(NamedTuple):
    """How often a mixture was split to come to these parts, and its held-out score."""

    number: int
    settled: _Settled
    score: float

    @property
    def n_parts(self):
        return len(self.settled.mixture.weights)


def _best_level(X, weight, splits, strength, work):
    """Grow to the level that is best on held-out rows.

    Returns that of the first split, the work that is left, and whether it was enough.
    For one part it always is; for others, to settle them on all rows too.
    """
    growths = [_grow(X[a], weight[a], strength) for a, _ in splits]
    total = sum(weight[b].sum() for _, b in splits)
    n, d = X.shape
    n_train = sum(len(weight[a]) for a, _ in splits)

    def level(number, settled):
        score = sum(
            weight[b] @ one.mixture.log_density(X[b])
            for one, (_, b) in zip(settled, splits, strict=True)
        )
        return _Level(number, settled[0], score / total)

    best = None
    for number, grown in enumerate(zip(*growths, strict=False)):
        parents, children = zip(*grown, strict=True)
        child = level(number, children)
        if number > 0 and best.number == number - 1:
            best = level(best.number, parents)
        if best is None or child.score > best.score:
            best = child
        elif child.n_parts >= _SURE_PARTS:
            return best, work, True
        n_parts = 2 * child.n_parts
        growing = _operations(_n_rows(n_train, n_parts, d), n_parts, d)
        if growing + _operations(n, n_parts, d, _N_LAST_ITER) > work:
            return best, work, False
        work -= growing
    return best, work, True


def _operations(n_rows, n_parts, d, n_iter=_N_ITER):
    """Floating-point operations in all iterations, about.

    Those of matrix products; exponentials, and making the features, take as long as so
    many more of them.
    """
    n_statistics = (d + 1) * (d + 2) / 2
    return n_rows * n_iter * (n_parts * (4 * n_statistics + 120) + 100 * n_statistics)


def _n_rows(n, n_parts, d):
    """Rows of n that tell what so many parts are about like."""
    return min(n, max(_GROWING_ROWS, n_parts * (_ROWS_PER_PART + _ROWS_PER_COLUMN * d)))


def _grow(X, weight, strength):
    """Yield mixtures of one part, two, four, ... until there are rows for no more.

    Before each comes the one of half as many parts, settled on the same rows, that what
    more rows tell is not taken for what more parts do.
    """
    n, d = X.shape
    # Everything is of one part, whatever that is.
    standard = Mixture(np.ones(1), np.zeros((1, d)), np.eye(d)[np.newaxis])
    _, statistics = _expectation(X, weight, standard)
    mixture = _maximization(statistics, np.zeros((1, d, d)), 0.0)
    parent = one = _Settled(mixture, mixture.covariances)
    n_parts, n_seen = 0, n
    while one is not None and n_parts < len(one.mixture.weights):
        yield parent, one
        n_parts = len(one.mixture.weights)
        if n_parts > _MAX_PARTS // 2:
            return
        n_rows = _n_rows(n, 2 * n_parts, d)
        some = X[:n_rows], weight[:n_rows]
        parent = one
        if n_rows > n_seen:
            parent = _settle(*some, one, strength) or one
        one = _settle(*some, _split(parent.mixture), strength)
        n_seen = n_rows


def _settle(X, weight, start, strength, n_iter=_N_ITER):
    """Iterate, with covariances shrunk to the prior.

    Returns the parts that are left, or None if there are none.
    """
    rows = strength * (X.shape[1] + 2)
    (mixture, prior), before = start, -math.inf
    for _ in range(n_iter):
        loglik, statistics = _expectation(X, weight, mixture)
        alive = statistics[:, 0] > _LEAST_ROWS
        if not alive.any():
            return None
        prior = prior[alive]
        mixture = _maximization(statistics[alive], prior, rows)
        if loglik - before < _TOL:
            break
        before = loglik
    return _Settled(mixture, prior)


def _split(mixture):
    """Halve every part across its longest direction; mean and covariance stay."""
    values, vectors = np.linalg.eigh(mixture.covariances)
    axis = np.sqrt(values[:, -1:]) * vectors[:, :, -1]
    square = axis[:, :, np.newaxis] * axis[:, np.newaxis, :]
    halves = Mixture(
        np.tile(mixture.weights / 2, 2),
        np.concatenate([mixture.means + _APART * axis, mixture.means - _APART * axis]),
        np.tile(mixture.covariances - _APART**2 * square, (2, 1, 1)),
    )
    return _Settled(
        halves, np.tile(mixture.covariances - _NARROWER * square, (2, 1, 1))
    )


@lru_cache(maxsize=8)
def _upper(d):
    """Rows and columns of the upper triangle; few small mixtures ask often."""
    return np.triu_indices(d)


def _expectation(X, weight, mixture):
    """Mean log-likelihood, and the sufficient statistics that the parts get."""
    loglik, statistics = 0.0, 0.0
    for where, (ratios, sums, features), logs in _responsibilities(X, mixture):
        ratios *= weight[where] / sums
        statistics = statistics + ratios @ features.T
        loglik += weight[where] @ logs
    return loglik / weight.sum(), statistics


def _maximization(statistics, prior, rows):
    """Means, and covariances shrunk to their priors as by so many rows."""
    d = prior.shape[1]
    counts = statistics[:, 0]
    means = statistics[:, 1 : d + 1] / counts[:, np.newaxis]
    i, j = _upper(d)
    scatter = np.empty_like(prior)
    scatter[:, i, j] = scatter[:, j, i] = statistics[:, d + 1 :]
    scatter -= counts[:, np.newaxis, np.newaxis] * (
        means[:, :, np.newaxis] * means[:, np.newaxis, :]
    )
    divisor = (counts + rows)[:, np.newaxis, np.newaxis]
    covariances = (scatter + rows * prior) / divisor + _LEAST_VARIANCE * np.eye(d)
    return Mixture(counts / counts.sum(), means, covariances)


def _responsibilities(X, mixture):
    """Yield slices of rows, how they belong to parts, features, and log-densities.

    The parts' densities come relative to the largest, and with their sum.

    The features of a row are 1, its values and their products, so that the logarithms
    of all parts' densities are one matrix product, and so are the statistics. Rows are
    columns here: a feature, and a part, of all of them lie side by side.
    """
    n, d = X.shape
    i, j = _upper(d)
    coefficients = _coefficients(mixture, i, j)
    size = int(np.clip(_CHUNK_VALUES // max(coefficients.shape), *_CHUNK_ROWS))
    buffer = np.ones((coefficients.shape[1], min(n, size)))
    for where in gen_batches(n, size):
        features = buffer[:, : where.stop - where.start]
        features[1 : d + 1] = X[where].T
        values = features[1 : d + 1]
        end = d + 1
        for k in range(d):
            start, end = end, end + d - k
            np.multiply(values[k], values[k:], out=features[start:end])
        logs = coefficients @ features
        largest = logs.max(axis=0)
        logs -= largest
        # Numbers too small for the processor's fast path, and nothing beside one.
        np.maximum(logs, _LEAST_LOG, out=logs)
        ratios = np.exp(logs, out=logs)
        sums = ratios.sum(axis=0)
        yield where, (ratios, sums, features), largest + np.log(sums)


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
    return np.hstack([constant[:, np.newaxis], linear, quadratic])
