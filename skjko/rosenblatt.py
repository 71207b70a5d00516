"""A mixture of Gaussians as an invertible map to the standard normal distribution."""

# SPDX-License-Identifier: BSD-3-Clause

import math

import numpy as np
import torch
from scipy.special import ndtri_exp

from skjko.flow import objective, threads

# Share of a standard normal that is in every mixture. Between and beyond the other
# parts the map is so steep, or so flat, and no more.
_WIDE = 1e-3
# Below this probability the logarithms are worked with. Above it, parts that have less
# than exp(-100) of the largest, and tails beyond 14, are as good as these: processors
# are slow at the numbers that they would make.
_LEAST_PROBABILITY, _LEAST_LOG, _FAR_TAIL = 1e-25, -100.0, 14.0
# Rows farther out than this stay where they are: no square overflows below.
_FARTHEST = 1e75
# Error of a normal score, relative to it if it is above one, that is rounding.
_TOL = 1e-14
# Steps of Newton's method, or bisections, until rounding ends them.
_N_STEPS = 100
# Numbers, rows times parts, that are worked on together.
_CHUNK_VALUES = 2**17


def normal_logpdf(Z):
    """Standard normal log-density of every row of Z; zero for no columns."""
    with np.errstate(over="ignore"):
        squares = np.square(Z).sum(axis=1)
    return -0.5 * squares - 0.5 * Z.shape[1] * math.log(2 * math.pi)


class RosenblattMap:
    """The way from a mixture of Gaussians to the standard normal, column by column.

    The j-th column of z is Phi^-1(F(x_j | x_1, ..., x_{j-1})) with the conditional
    distribution function F of the mixture, itself one of a mixture, and that of the
    standard normal distribution Phi (Rosenblatt, "Remarks on a Multivariate
    Transformation", 1952). A standard normal behind it is the mixture.

    Parameters
    ----------
    weights : ndarray of shape (n_parts,)
        Positive, of sum one.
    means : ndarray of shape (n_parts, n_features)
    factors : ndarray of shape (n_parts, n_features, n_features)
        Lower Cholesky factors of the covariances.
    """

    def __init__(self, weights, means, factors):
        self.weights, self.means, self.factors = weights, means, factors
        # y = inverse @ (x - mean) is standard normal in its part.
        inverse = np.linalg.inv(factors)
        offset = np.einsum("kij,kj->ki", inverse, means)
        slopes = np.diagonal(inverse, axis1=1, axis2=2)
        # By columns, for one follows the other.
        self._inverse = torch.tensor(inverse.transpose(1, 2, 0).copy())
        self._offset = torch.tensor(offset.T.copy())
        self._slopes = torch.tensor(slopes.T.copy())
        self._log_slopes = self._slopes.log() - 0.5 * math.log(2 * math.pi)
        self._log_weights = torch.tensor(np.log(weights))

    @classmethod
    def of(cls, mixture):
        """Return the map of a `Mixture`, with a little of a standard normal in it."""
        d = mixture.means.shape[1]
        return cls(
            np.append((1 - _WIDE) * mixture.weights, _WIDE),
            np.concatenate([mixture.means, np.zeros((1, d))]),
            np.linalg.cholesky(
                np.concatenate([mixture.covariances, np.eye(d)[np.newaxis]])
            ),
        )

    def forward(self, X, out=None):
        """Map rows to z; return z and log|det dz/dx| of every row, in nats.

        `out` is where to put z: it may be X itself.
        """
        return self._by_chunks(self._forward, X, out)

    def log_density(self, X):
        """Log-density of the mixture at every row: forward's, and much sooner."""
        _, relative = self._by_chunks(self._relative, X)
        return relative + normal_logpdf(X)

    def inverse(self, Z):
        """Map z back to rows."""
        return self._by_chunks(self._backward, Z)[0]

    def draw(self, n_samples, rng):
        """Draw rows from the mixture, sooner than the inverse of normal ones."""
        counts = rng.multinomial(n_samples, self.weights)
        X = rng.standard_normal((n_samples, self.means.shape[1]))
        ends = np.cumsum(counts)
        for k in np.flatnonzero(counts):
            rows = X[ends[k] - counts[k] : ends[k]]
            rows[:] = self.means[k] + rows @ self.factors[k].T
        rng.shuffle(X)
        return X

    @threads.fork_safe()
    def _by_chunks(self, function, rows, out=None):
        """Move the rows that are not too far out, chunk by chunk."""
        moved, log_det = np.empty(rows.shape) if out is None else out, []
        size = max(1, _CHUNK_VALUES // len(self.weights))
        for start in range(0, len(rows), size):
            # A tensor of its own: results would depend on where in memory rows are.
            x = torch.tensor(rows[start : start + size])
            increment = x.new_zeros(len(x))
            near = (x.abs() <= _FARTHEST).all(1)
            if near.any():
                x[near], increment[near] = function(x[near])
            moved[start : start + size] = x.numpy()
            log_det.append(increment.numpy())
        return moved, np.concatenate(log_det) if log_det else np.zeros(0)

    def _forward(self, x):
        z, logs = torch.empty_like(x), self._log_weights
        for j, y in enumerate(self._standardized(x)):
            z[:, j] = _normal_score(logs, y)
            logs = self._extended(logs, j, y)
        return z, objective.negative_log_likelihood(z, -_log_sum(logs))

    def _relative(self, x):
        logs = self._log_weights
        for j, y in enumerate(self._standardized(x)):
            logs = self._extended(logs, j, y)
        return x, objective.negative_log_likelihood(x, -_log_sum(logs))

    def _standardized(self, x):
        """Yield column by column, given those before it, in units of every part."""
        for j in range(x.shape[1]):
            inverse = self._inverse[j, : j + 1]
            yield torch.addmm(-self._offset[j], x[:, : j + 1], inverse)

    def _extended(self, logs, j, y):
        """Log-densities of the parts with those of one more column."""
        return logs + torch.add(self._log_slopes[j], y.square(), alpha=-0.5)

    def _backward(self, z):
        x, logs = torch.zeros_like(z), self._log_weights
        for j in range(z.shape[1]):
            # y = slope x_j + shift, for every part.
            shift = torch.addmm(-self._offset[j], x[:, :j], self._inverse[j, :j])
            logs = logs.expand_as(shift)
            x[:, j] = _quantile(logs, self._slopes[j], shift, z[:, j])
            logs = self._extended(logs, j, x[:, j, None] * self._slopes[j] + shift)
        return x, x.new_zeros(len(x))


def _ratios(logs):
    """Exponentials relative to the largest, which is one; and the largest logarithm."""
    largest = logs.amax(-1, keepdim=True)
    return (logs - largest).clamp_(min=_LEAST_LOG).exp_(), largest.squeeze(-1)


def _log_sum(logs):
    ratios, largest = _ratios(logs)
    return ratios.sum(-1).log() + largest


def _shares(logs):
    ratios, _ = _ratios(logs)
    return ratios / ratios.sum(-1, keepdim=True)


def _normal_score(logs, y):
    """Phi^-1 of the mean of Phi(y), to full precision in both tails.

    The parts are weighted by the exponentials of `logs`, whatever their sum.
    """
    shares = _shares(logs)
    tails = torch.erfc(y.abs().clamp_(max=_FAR_TAIL).mul_(math.sqrt(0.5))) / 2
    negative = y < 0
    low = (shares * torch.where(negative, tails, 1 - tails)).sum(1)
    high = (shares * torch.where(negative, 1 - tails, tails)).sum(1)
    # The nearer tail is the one that is small, and exact.
    sign = torch.where(low < high, 1.0, -1.0).to(y)
    z = sign * torch.special.ndtri(torch.minimum(low, high))
    far = (torch.minimum(low, high) < _LEAST_PROBABILITY).nonzero()[:, 0]
    if len(far):
        sign = sign[far]
        tails = torch.special.log_ndtr(sign[:, None] * y[far])
        logs = logs.log_softmax(-1).expand_as(y)[far]
        nearest = ndtri_exp((logs + tails).logsumexp(1).numpy())
        z[far] = sign * torch.from_numpy(nearest)
    return z


def _quantile(logs, slopes, shift, z):
    """Solve the normal score of slopes x + shift for x.

    The solution is between those of the single parts. Newton's method goes by normal
    scores, in which the function is affine for one part, and the bracket holds it.
    """
    of_parts = (z[:, None] - shift) / slopes
    low, high = of_parts.amin(1), of_parts.amax(1)
    shares = _shares(logs)
    x = (shares * of_parts).sum(1).clamp(low, high)
    left, before = torch.arange(len(x)), torch.full_like(x, math.inf)
    for _ in range(_N_STEPS):
        at, y = x[left], x[left, None] * slopes + shift[left]
        score = _normal_score(logs[left], y)
        gap = score - z[left]
        low[left] = torch.where(gap < 0, at, low[left])
        high[left] = torch.where(gap > 0, at, high[left])
        # The density relative to that at the score, both of which may be too small.
        relative = (0.5 * (score[:, None].square() - y.square())).exp()
        slope = (shares[left] * relative * slopes).sum(1)
        moved = at - gap / slope
        halved = low[left] + (high[left] - low[left]) / 2
        # Newton's step, if it stays inside, and for as long as the steps pay.
        newton = (moved > low[left]) & (moved < high[left])
        newton &= gap.abs() < before[left] / 2
        moved = torch.where(newton, moved, halved)
        before[left] = gap.abs()
        open_ = (gap.abs() > _TOL * score.abs().clamp(1)) & (moved != at)
        left = left[open_]
        x[left] = moved[open_]
        if not len(left):
            break
    return x
