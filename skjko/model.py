"""A trained model on arrays: whitening and flow as one map, in float64."""

# SPDX-License-Identifier: BSD-3-Clause

import copy
import math

import numpy as np
import torch

from skjko.flow import objective, threads
from skjko.flow.flow import in_chunks
from skjko.preprocessing import FARTHEST


def normal_logpdf(Z):
    """Standard normal log-density of every row of Z; zero for no columns."""
    with np.errstate(over="ignore"):
        squares = np.square(Z).sum(axis=1)
    return -0.5 * squares - 0.5 * Z.shape[1] * math.log(2 * math.pi)


class Model:
    """Block 0 and the flow, from data to latent rows and back.

    Parameters
    ----------
    preprocessing : Preprocessing
        Block 0. Its flat directions, the last ones, pass by the flow.
    flow : Flow
        In float64 on the CPU.
    device : torch.device
        Where to compute.
    """

    def __init__(self, preprocessing, flow, device="cpu"):
        self.preprocessing = preprocessing
        self.device = torch.device(device)
        # A copy elsewhere: the fitted flow stays on the CPU, unchanged.
        self.flow = (
            flow if self.device.type == "cpu" else copy.deepcopy(flow).to(device)
        )

    def whiten(self, X):
        """Columns that the flow moves, flat ones, and log|det| of every row."""
        Z, log_det = self.preprocessing.forward(X)
        n_active = self.flow.n_features
        return torch.as_tensor(Z[:, :n_active].copy()), Z[:, n_active:], log_det

    def log_density(self, X):
        """Log-density of every row in nats and units of the data.

        In discrete columns it is averaged over the cell around the row.
        """
        return self.preprocessing.support.lattice.average(self._log_density, X)

    def _log_density(self, X):
        z, flat, log_det = self.whiten(X)
        (log_prob,) = self._in_chunks(lambda x: (self.flow.log_prob(x),), z)
        return _finite_or_zero(z, log_prob + log_det + normal_logpdf(flat))

    def staged_log_density(self, X):
        """Yield the log-density if the flow ended after block 0, 1, ..., K."""
        lattice = self.preprocessing.support.lattice
        if len(lattice.columns):
            # Averages are taken part by part, so all stages have to be there at once.
            yield from lattice.average(lambda x: np.stack(list(self._stages(x))), X)
        else:
            yield from self._stages(X)

    def _stages(self, X):
        z, flat, log_det = self.whiten(X)
        log_det = log_det + normal_logpdf(flat)
        x = z
        yield _finite_or_zero(z, log_det + normal_logpdf(x.numpy()))
        for block in self.flow.blocks:
            x, log_det, nll = self._stage(block, x, log_det)
            yield _finite_or_zero(z, -nll.numpy())

    @threads.fork_safe()
    def _stage(self, block, x, log_det):
        y, increment = self._in_chunks(lambda x: block(x)[:2], x)
        x, log_det = torch.as_tensor(y), log_det + increment
        nll = objective.negative_log_likelihood(x, torch.as_tensor(log_det))
        return x, log_det, nll

    def trajectory(self, X, n_between=0):
        """Whitened positions after block 0 and every other block, and in between."""
        z, flat, _ = self.whiten(X)
        positions = self._in_chunks(
            lambda x: tuple(self.flow.trajectory(x, n_between=n_between)), z
        )
        return np.stack([np.hstack([p, flat]) for p in positions])

    def transform(self, X):
        """Latent positions of data."""
        z, flat, _ = self.whiten(X)
        (latent,) = self._in_chunks(lambda x: (self.flow.push(x),), z)
        return np.hstack([latent, flat])

    def inverse_transform(self, Z):
        """Data of latent positions."""
        n_active = self.flow.n_features
        Z = np.clip(Z, -FARTHEST, FARTHEST)
        z = torch.as_tensor(Z[:, :n_active].copy())
        (moved,) = self._in_chunks(lambda x: (self.flow.inverse(x),), z)
        return self.preprocessing.inverse(np.hstack([moved, Z[:, n_active:]]))

    @threads.fork_safe()
    def _in_chunks(self, function, x):
        """Apply a function of rows on the device; its tensors come back as arrays."""
        parts = in_chunks(
            lambda rows, context: tuple(
                part.cpu() for part in function(rows.to(self.device))
            ),
            x,
        )
        return tuple(part.numpy() for part in parts)


def _finite_or_zero(z, scores):
    """Scores, or -inf where the square of a row's length overflows.

    Beyond about 1e154 standard deviations the logarithm of the density overflows too.
    """
    with np.errstate(over="ignore"):
        return np.where(np.isfinite(np.square(z.numpy()).sum(1)), scores, -np.inf)
