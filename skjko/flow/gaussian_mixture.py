"""Gaussian mixtures: log-density, expectation-maximization, and splitting.

The covariance of a component is shrunk towards a prior one, as by an inverse Wishart
prior: towards the half of the component that it was split off from. With few samples a
component keeps the shape of its parent, with many it finds its own.

All arrays may have a batch dimension in front, for tables of the same shape that are
fitted at once: the single features of one table, say.
"""

# SPDX-License-Identifier: BSD-3-Clause

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

# Expectation-maximization ends when the mean log-likelihood gains less, in nats.
_TOL = 1e-3
# Means after a split, in standard deviations along the longest axis: those of the
# halves of a normal distribution.
_SPLIT_DISTANCE = math.sqrt(2 / math.pi)
# Share of the variance along that axis that the prior of a half lacks.
_SPLIT_NARROWING = 0.36
# Least variance, for samples of about unit variance: narrower components are spikes.
_MIN_VARIANCE = 1e-6
# A component with fewer samples is removed.
_MIN_SAMPLES = 1.0
# Numbers (samples times features of the quadratic form) in one chunk, and samples.
_CHUNK_VALUES, _CHUNK_SAMPLES = 2**20, (64, 1024)
# Log of the smallest responsibility, relative to the largest: smaller numbers are
# subnormal, which processors are slow at.
_MIN_LOG_RATIO = -100.0
# Log-weight of a removed component: finite, so that no NaN arises.
_REMOVED = -1e100


class Mixture(NamedTuple):
    """Parameters of one Gaussian mixture, or of a batch of mixtures.

    Attributes
    ----------
    weights : Tensor of shape (..., n_components)
        Of sum one. Zero for removed components of a batch.
    means : Tensor of shape (..., n_components, n_features)
    covariances : Tensor of shape (..., n_components, n_features, n_features)
    """

    weights: torch.Tensor
    means: torch.Tensor
    covariances: torch.Tensor

    @property
    def n_components(self):
        """Number of components with a positive weight."""
        return (self.weights > 0).sum(-1)

    def log_prob(self, x):
        """Return the log-density in nats, shape (..., n), of x of shape (..., n, d)."""
        return log_prob(self.coefficients(), x)

    def coefficients(self):
        """Return the `coefficients` that :func:`log_prob` takes."""
        d = self.means.shape[-1]
        # LAPACK takes one small matrix after another.
        root = torch.sqrt if d == 1 else torch.linalg.cholesky
        factors = root(self.covariances)
        return coefficients(self.weights, self.means, factors)

    def select(self, index=...):
        """Return part of a batch, without components that none of it has."""
        part = [value[index] for value in self]
        used = part[0] > 0
        if used.ndim > 1:
            used = used.flatten(0, -2).any(0)
        return Mixture(
            part[0][..., used], part[1][..., used, :], part[2][..., used, :, :]
        )


def log_prob(coefficients, x):
    """Return the log-density in nats of a mixture given by its `coefficients`.

    Parameters
    ----------
    coefficients : Tensor of shape (..., n_components, n_terms)
        As from :func:`coefficients`.
    x : Tensor of shape (..., n, d)

    Returns
    -------
    log_prob : Tensor of shape (..., n)
    """
    parts = [log_sum for _, log_sum, _ in _responsibilities(coefficients, x)]
    return torch.cat(parts, -1) if parts else x.new_zeros(x.shape[:-1])


def coefficients(weights, means, factors):
    """Return the quadratic forms of all components' log-densities.

    Of a sample, the log-densities of the components with their weights are one product
    of this matrix with the vector of 1, the values and their pairwise products.

    Parameters
    ----------
    weights : Tensor of shape (..., n_components)
    means : Tensor of shape (..., n_components, d)
    factors : Tensor of shape (..., n_components, d, d)
        Lower Cholesky factors of the covariances.

    Returns
    -------
    coefficients : Tensor of shape (..., n_components, (d + 1) * (d + 2) / 2)
    """
    d = means.shape[-1]
    precisions = factors**-2 if d == 1 else torch.cholesky_inverse(factors)
    linear = (precisions @ means[..., None])[..., 0]
    constant = (
        weights.log().clamp_min(_REMOVED)
        - 0.5 * (means * linear).sum(-1)
        - factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        - 0.5 * d * math.log(2 * math.pi)
    )
    i, j = _upper(d)
    quadratic = -precisions[..., i, j]
    quadratic[..., i == j] /= 2
    return torch.cat([constant[..., None], linear, quadratic], -1)


def fit_gaussian(x, weight):
    """Return the mixture of one component that fits weighted samples best.

    Parameters
    ----------
    x : Tensor of shape (..., n, d)
    weight : Tensor of shape (..., n)

    Returns
    -------
    mixture : Mixture
    """
    share = weight / weight.sum(-1, keepdim=True)
    mean = (share[..., None, :] @ x)[..., 0, :]
    centred = x - mean[..., None, :]
    covariance = centred.mT @ (centred * share[..., None])
    covariance = covariance + _MIN_VARIANCE * torch.eye(x.shape[-1]).to(x)
    # Torch's own function of this name imports sympy.
    shape = np.broadcast_shapes(x.shape[:-2], weight.shape[:-1])
    return Mixture(
        x.new_ones((*shape, 1)),
        mean.expand(*shape, -1)[..., None, :],
        covariance.expand(*shape, -1, -1)[..., None, :, :],
    )


def split(mixture):
    """Split every component in two, across its longest axis.

    Mean and covariance of every pair together stay those of the component.

    Returns
    -------
    halves : Mixture
    prior : Tensor
        Covariances that those of the halves may be shrunk towards.
    """
    weights, means, covariances = mixture
    values, vectors = torch.linalg.eigh(covariances)
    axis = values[..., -1:].sqrt() * vectors[..., -1]
    square = axis[..., :, None] * axis[..., None, :]
    narrow = covariances - _SPLIT_DISTANCE**2 * square
    prior = covariances - _SPLIT_NARROWING * square
    shift = _SPLIT_DISTANCE * axis
    halves = Mixture(
        torch.cat([weights / 2, weights / 2], -1),
        torch.cat([means + shift, means - shift], -2),
        torch.cat([narrow, narrow], -3),
    )
    return halves, torch.cat([prior, prior], -3)


def fit_em(x, weight, start, prior, prior_samples, n_iter):
    """Fit mixtures by expectation-maximization, with covariances shrunk to a prior.

    Parameters
    ----------
    x : Tensor of shape (..., n, d)
    weight : Tensor of shape (..., n)
    start : Mixture
    prior : Tensor of shape (..., n_components, d, d)
        Covariances to shrink towards.
    prior_samples : float
        Number of samples that the prior counts as, relative to d + 2.
    n_iter : int
        Largest number of iterations. Every mixture of a batch stops by itself, and one
        without any weight is left as it is.

    Returns
    -------
    mixture : Mixture
        Components with next to no samples have weight zero; where none has enough
        samples, all have.
    """
    count = prior_samples * (x.shape[-1] + 2)
    result, mixture = start, start
    goes_on = (start.weights > 0).any(-1)
    before = x.new_full(goes_on.shape, -math.inf)
    # Of a batch, the mixtures that have not stopped.
    left = torch.arange(goes_on.numel()) if goes_on.ndim else None
    for _ in range(n_iter):
        if not goes_on.any():
            break
        if not goes_on.all():
            left, before, prior, x = (v[goes_on] for v in (left, before, prior, x))
            weight = weight[goes_on] if weight.ndim > 1 else weight
            mixture = Mixture(*(value[goes_on] for value in mixture))
        log_likelihood, statistics = _expectation(x, weight, mixture)
        alive = statistics[..., 0] > _MIN_SAMPLES
        mixture = _maximization(statistics, prior, count, alive)
        goes_on = alive.any(-1) & (log_likelihood - before >= _TOL)
        before = log_likelihood
        if left is None or len(left) == len(result.weights):
            result = mixture
        else:
            pairs = zip(result, mixture, strict=True)
            result = Mixture(*(old.index_copy(0, left, new) for old, new in pairs))
    return result


def em_operations(n_samples, n_components, d, n_iter):
    """Return about how many floating-point operations :func:`fit_em` takes."""
    n_terms = (d + 1) * (d + 2) / 2
    # Exponentials, and making the terms, take as long as so many more of products.
    a_sample = n_components * (4 * n_terms + 120) + 100 * n_terms
    return n_samples * n_iter * a_sample


@lru_cache(maxsize=8)
def _upper(d):
    return torch.triu_indices(d, d)


def _expectation(x, weight, mixture):
    """Mean log-likelihood, and the sufficient statistics of every component."""
    total, statistics, start = 0.0, 0.0, 0
    for ratios, log_sum, (terms, sums) in _responsibilities(mixture.coefficients(), x):
        share = weight[..., start : start + log_sum.shape[-1]]
        start += log_sum.shape[-1]
        ratios *= (share / sums)[..., None, :]
        statistics = statistics + ratios @ terms.mT
        total = total + (share * log_sum).sum(-1)
    return total / weight.sum(-1), statistics


def _maximization(statistics, prior, prior_count, alive):
    """Weights, means, and covariances shrunk to their priors."""
    d = prior.shape[-1]
    counts = statistics[..., :1]
    means = statistics[..., 1 : d + 1] / counts
    i, j = _upper(d)
    scatter = torch.empty_like(prior)
    scatter[..., i, j] = statistics[..., d + 1 :]
    scatter[..., j, i] = statistics[..., d + 1 :]
    scatter -= counts[..., None] * means[..., :, None] * means[..., None, :]
    covariances = (scatter + prior_count * prior) / (counts[..., None] + prior_count)
    covariances.diagonal(dim1=-2, dim2=-1).add_(_MIN_VARIANCE)
    weights = torch.where(alive, counts[..., 0], 0.0)
    total = weights.sum(-1, keepdim=True)
    return Mixture(weights / torch.where(total > 0, total, 1.0), means, covariances)


def _responsibilities(coefficients, x):
    """Yield, chunk by chunk, responsibilities and log-densities.

    Yields
    ------
    ratios : Tensor of shape (..., n_components, n)
        Densities of the components relative to the largest.
    log_sum : Tensor of shape (..., n)
        Log-density of the mixture.
    terms, sums : Tensor
        1, values and pairwise products, of shape (..., n_terms, n), and sums of the
        ratios. Samples are columns, so that all of one term lie side by side.
    """
    n, d = x.shape[-2:]
    n_components, n_terms = coefficients.shape[-2:]
    batch = math.prod(x.shape[:-2])
    size = _CHUNK_VALUES // max(1, batch * max(n_components, n_terms))
    size = min(max(size, _CHUNK_SAMPLES[0]), _CHUNK_SAMPLES[1])
    buffer = x.new_ones((*x.shape[:-2], n_terms, min(n, size)))
    for start in range(0, n, size):
        rows = x[..., start : start + size, :]
        terms = buffer[..., : rows.shape[-2]]
        values = terms[..., 1 : d + 1, :]
        values.copy_(rows.mT)
        end = d + 1
        for k in range(d):
            begin, end = end, end + d - k
            torch.mul(
                values[..., k : k + 1, :],
                values[..., k:, :],
                out=terms[..., begin:end, :],
            )
        logs = coefficients @ terms
        largest = logs.amax(-2)
        ratios = logs.sub_(largest[..., None, :]).clamp_(min=_MIN_LOG_RATIO).exp_()
        sums = ratios.sum(-2)
        yield ratios, largest + sums.log(), (terms, sums)
