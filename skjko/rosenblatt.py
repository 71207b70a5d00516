"""A mixture of Gaussians as an invertible map to the standard normal distribution."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from functools import cached_property

import numpy as np
import torch
from scipy.special import ndtri_exp
from sklearn.utils import gen_batches

from skjko.flow import objective, threads

# Share of a standard normal that is in every mixture. Between and beyond the other
# parts the map is so steep, or so flat, and no more.
_WIDE = 1e-3
# Below this probability the logarithms are worked with. Above it, parts that have less
# than exp(-100) of the largest, and tails beyond 14 (10 for erfc), are as good as
# these: processors are slow at the numbers that they would make.
_LEAST_PROBABILITY, _LEAST_LOG, _FAR_TAIL = 1e-25, -100.0, 10.0
# Rows farther out than this stay where they are: no square overflows below.
_FARTHEST = 1e75
# Up to here a tail is as exact as the other one.
_SMALL_TAIL = 0.75
# Error of a normal score, relative to it if it is above one, that is rounding.
_TOL = 1e-14
# Steps of Newton's method, or bisections, until rounding ends them.
_N_STEPS = 100
# Normal scores at which the first column's quantiles are kept, and the largest.
_N_KNOTS, _LAST_KNOT = 385, 6.0
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
        self._shares = _shares(self._log_weights)

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
            near = (x.abs() <= _FARTHEST).all(1)
            if near.all():
                x, increment = function(x)
            else:
                increment = x.new_zeros(len(x))
                x[near], increment[near] = function(x[near])
            moved[start : start + size] = x.numpy()
            log_det.append(increment.numpy())
        return moved, np.concatenate(log_det) if log_det else np.zeros(0)

    def _forward(self, x):
        z, logs = torch.empty_like(x), self._log_weights
        for j, y in enumerate(self._standardized(x)):
            shares = self._shares.expand_as(y) if j == 0 else _shares(logs)
            about = torch.linalg.vecdot(shares, y)
            z[:, j] = _normal_score(logs.expand_as(y), shares, y, about)
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
        """Log-densities of the parts with those of one more column: no new tensor.

        Only before the first column they are the same for all rows.
        """
        if j == 0:
            return torch.addcmul(logs + self._log_slopes[j], y, y, value=-0.5)
        return logs.add_(self._log_slopes[j]).addcmul_(y, y, value=-0.5)

    def _backward(self, z):
        x, logs = torch.zeros_like(z), self._log_weights
        for j in range(z.shape[1]):
            # y = slope x_j + shift, for every part.
            shift = torch.addmm(-self._offset[j], x[:, :j], self._inverse[j, :j])
            near = self._near(z[:, 0].contiguous()) if j == 0 else None
            x[:, j] = _quantile(logs, self._slopes[j], shift, z[:, j], near)
            y = torch.addcmul(shift, x[:, j, None], self._slopes[j])
            logs = self._extended(logs, j, y)
        return x, x.new_zeros(len(x))

    def _near(self, z):
        """Bounds of the first column's quantiles, and what they are about."""
        scores, quantiles = self._knots
        # A knot more on both sides: those at hand may be the solution.
        i = torch.searchsorted(scores, z)
        low, high = quantiles[i], quantiles[i + 3]
        start = np.interp(z.numpy(), scores.numpy(), quantiles[2:-2].numpy())
        return low, torch.from_numpy(start), high

    def __getstate__(self):
        """Use does not change what is pickled."""
        state = self.__dict__.copy()
        state.pop("_knots", None)
        return state

    @cached_property
    def _knots(self):
        """Normal scores, and the first column's quantiles there, padded twice."""
        scores = torch.linspace(-_LAST_KNOT, _LAST_KNOT, _N_KNOTS).double()
        shift = (-self._offset[0]).expand(_N_KNOTS, -1)
        quantiles = _quantile(self._log_weights, self._slopes[0], shift, scores)
        ends = quantiles.new_full((2,), math.inf)
        return scores, torch.cat([-ends, quantiles, ends])


class SingleColumns:
    """Maps of single columns that have nothing to do with each other, forward at once.

    Parameters
    ----------
    maps : list of RosenblattMap
        Of one column each. Those that have fewer parts than others are filled up.
    """

    def __init__(self, maps):
        n_parts = max(len(one.weights) for one in maps)

        def filled(tensors, value):
            parts = [t.new_full((n_parts,), value) for t in tensors]
            for part, t in zip(parts, tensors, strict=True):
                part[: len(t)] = t
            return torch.stack(parts)

        # What is filled up is like the wide part, of no weight.
        self._slopes = filled([one._slopes[0] for one in maps], 1.0)
        self._offset = filled([one._offset[0] for one in maps], 0.0)
        self._log_weights = filled([one._log_weights for one in maps], -math.inf)
        self._shares = filled([one._shares for one in maps], 0.0)
        log_slopes = filled([one._log_slopes[0] for one in maps], 0.0)
        self._log_densities = self._log_weights + log_slopes

    @threads.fork_safe()
    def forward(self, U):
        """Map rows; return them and log|det dz/du| of every row, in nats."""
        Z, log_det = np.empty(U.shape), np.empty(len(U))
        for where in gen_batches(len(U), max(1, _CHUNK_VALUES // self._slopes.numel())):
            u = torch.tensor(U[where])
            near = u.abs() <= _FARTHEST
            z, increment = self._forward(torch.where(near, u, 0.0))
            Z[where] = torch.where(near, z, u).numpy()
            log_det[where] = torch.where(near, increment, 0.0).sum(1).numpy()
        return Z, log_det

    def _forward(self, u):
        y = torch.addcmul(-self._offset, u[..., None], self._slopes)
        shares = self._shares.expand_as(y)
        about = torch.linalg.vecdot(shares, y)
        z = _normal_score(self._log_weights.expand_as(y), shares, y, about)
        logs = torch.addcmul(self._log_densities, y, y, value=-0.5)
        return z, objective.negative_log_likelihood(z[..., None], -_log_sum(logs))


def _ratios(logs):
    """Exponentials relative to the largest, which is one; and the largest logarithm."""
    largest = logs.amax(-1, keepdim=True)
    return (logs - largest).clamp_(min=_LEAST_LOG).exp_(), largest.squeeze(-1)


def _log_sum(logs):
    ratios, largest = _ratios(logs)
    return ratios.sum(-1).log() + largest


def _shares(logs):
    ratios, _ = _ratios(logs)
    return ratios.div_(ratios.sum(-1, keepdim=True))


def _tail(shares, side, y):
    """Mean of Phi(-side y) over the parts."""
    y = (y * (side * math.sqrt(0.5))[..., None]).clamp_(-_FAR_TAIL, _FAR_TAIL)
    return y.erfc_().mul_(shares).sum(-1) / 2


def _normal_score(logs, shares, y, about):
    """Phi^-1 of the mean of Phi(y), to full precision in both tails.

    The parts are weighted by `shares`, the exponentials of `logs` relative to their
    sum. Whether it is positive, `about` may tell.
    """
    # The nearer tail is the one that is small, and exact.
    side = torch.ones_like(about).copysign_(about)
    tail = _tail(shares, side, y)
    wrong = tail > _SMALL_TAIL
    if wrong.any():
        side[wrong] = -side[wrong]
        tail[wrong] = _tail(shares[wrong], side[wrong], y[wrong])
    z = -side * torch.special.ndtri(tail)
    far = tail < _LEAST_PROBABILITY
    if far.any():
        tails = torch.special.log_ndtr(-side[far, None] * y[far])
        logs = logs[far].log_softmax(-1)
        nearest = ndtri_exp((logs + tails).logsumexp(1).numpy())
        z[far] = -side[far] * torch.from_numpy(nearest)
    return z


def _quantile(logs, slopes, shift, z, near=None):
    """Solve the normal score of slopes x + shift for x.

    The solution is between those of the single parts. Newton's method goes by normal
    scores, in which the function is affine for one part, and the bracket holds it. What
    is known of the solution is in `near`: a lower bound, a start, and an upper bound.
    """
    of_parts = (z[:, None] - shift) / slopes
    low, high = of_parts.amin(1), of_parts.amax(1)
    logs, shares = logs.expand_as(shift), _shares(logs).expand_as(shift)
    solution = torch.linalg.vecdot(shares, of_parts)
    if near is not None:
        solution = near[1]
        low, high = torch.maximum(low, near[0]), torch.minimum(high, near[2])
    solution = solution.clamp(low, high)
    left, at = torch.arange(len(z)), solution
    before = torch.full_like(z, math.inf)
    for _ in range(_N_STEPS):
        y = torch.addcmul(shift, at[:, None], slopes)
        score = _normal_score(logs, shares, y, z)
        gap = score - z
        low = torch.where(gap < 0, at, low)
        high = torch.where(gap > 0, at, high)
        # The density relative to that at the score, both of which may be too small.
        half = 0.5 * score.square()
        relative = torch.addcmul(half[:, None], y, y, value=-0.5)
        slope = relative.clamp_(min=_LEAST_LOG).exp_().mul_(shares) @ slopes
        moved = at - gap / slope
        halved = low + (high - low) / 2
        # Newton's step, if it stays inside, and for as long as the steps pay.
        newton = (moved > low) & (moved < high) & (gap.abs() < before / 2)
        moved = torch.where(newton, moved, halved)
        open_ = (gap.abs() > _TOL * score.abs().clamp(1)) & (moved != at)
        solution[left] = at = torch.where(open_, moved, at)
        before = gap.abs()
        if not open_.any():
            break
        # Rows that are done stay for a while: to leave them costs a copy of the others.
        if 2 * open_.sum() <= len(at):
            open_ = open_.nonzero()[:, 0]
            left, at, before, z = left[open_], at[open_], before[open_], z[open_]
            low, high, shift = low[open_], high[open_], shift[open_]
            logs, shares = logs[open_], shares[open_]
    return solution
