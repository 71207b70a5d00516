"""A trained model on arrays: whitening and flow as one map, in float64."""

# SPDX-License-Identifier: BSD-3-Clause

import copy
from functools import partial

import numpy as np
import torch

from skjko import chunks
from skjko.flow import objective, threads
from skjko.flow.flow import CHUNK_SIZE, in_chunks
from skjko.preprocessing import FARTHEST
from skjko.rosenblatt import normal_logpdf

# So many float64 arrays of the rows live at once, at most, on their way through block 0
# and the flow.
_N_COPIES = 10


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

    @property
    def n_features(self):
        """Number of columns."""
        return len(self.preprocessing.gaussian_.mean_)

    def slices(self, n_rows):
        """Yield slices of rows that fit into scikit-learn's working memory.

        They are made of whole chunks of the flow, which so are always the same.
        """
        row_bytes = 8 * _N_COPIES * (self.n_features + 1)
        return chunks.batches(n_rows, row_bytes, CHUNK_SIZE)

    def _by_rows(self, function, X, axis=0):
        return chunks.map_rows(function, X, self.slices(len(X)), axis)

    def whiten(self, X):
        """Columns that the flow moves, flat ones, and log|det| of every row."""
        Z, log_det = self.preprocessing.forward(X)
        n_active = self.flow.n_features
        return torch.as_tensor(Z[:, :n_active].copy()), Z[:, n_active:], log_det

    def log_density(self, X):
        """Log-density of every row in nats and units of the data.

        In discrete columns it is averaged over the cell around the row.
        """
        lattice = self.preprocessing.support.lattice
        return lattice.average(partial(self._by_rows, self._log_density), X)

    def _log_density(self, X):
        if not self.flow.blocks:
            return self.preprocessing.log_density(X)
        z, flat, log_det = self.whiten(X)
        (log_prob,) = self._in_chunks(lambda x: (self.flow.log_prob(x),), z)
        score = log_prob + log_det + normal_logpdf(flat)
        return np.where(_is_finite(z), score, -np.inf)

    def staged_log_density(self, X):
        """Yield the log-density if the flow ended after block 0, 1, ..., K."""
        lattice = self.preprocessing.support.lattice
        if len(lattice.columns):
            # Averages are taken part by part, so all stages have to be there at once.
            yield from lattice.average(lambda x: np.stack(list(self._stages(x))), X)
        else:
            yield from self._stages(X)

    def _stages(self, X):
        n, slices = len(X), list(self.slices(len(X)))
        x = chunks.empty((n, self.flow.n_features), np.float64)
        scores, log_det, is_finite = np.empty(n), np.empty(n), np.empty(n, dtype=bool)
        for rows in slices:
            z, flat, increment = self.whiten(X[rows])
            x[rows], log_det[rows] = z, increment + normal_logpdf(flat)
            is_finite[rows] = _is_finite(z)
            scores[rows] = log_det[rows] + normal_logpdf(x[rows])
        yield np.where(is_finite, scores, -np.inf)
        for block in self.flow.blocks:
            for rows in slices:
                x[rows], log_det[rows], nll = self._stage(block, x[rows], log_det[rows])
                scores[rows] = -nll
            yield np.where(is_finite, scores, -np.inf)

    @threads.fork_safe()
    def _stage(self, block, x, log_det):
        """Rows and log|det| behind one more block, and the loss if it is the last."""
        y, increment = self._in_chunks(lambda x: block(x)[:2], torch.as_tensor(x))
        log_det = log_det + increment
        nll = objective.negative_log_likelihood(
            torch.as_tensor(y), torch.as_tensor(log_det)
        )
        return y, log_det, nll.numpy()

    def trajectory(self, X, n_between=0):
        """Whitened positions after block 0 and every other block, and in between."""
        return self._by_rows(partial(self._trajectory, n_between=n_between), X, axis=1)

    def _trajectory(self, X, n_between):
        z, flat, _ = self.whiten(X)
        positions = self._in_chunks(
            lambda x: tuple(self.flow.trajectory(x, n_between=n_between)), z
        )
        return np.stack([np.hstack([p, flat]) for p in positions])

    def transform(self, X):
        """Latent positions of data."""
        return self._by_rows(self._transform, X)

    def _transform(self, X):
        z, flat, _ = self.whiten(X)
        (latent,) = self._in_chunks(lambda x: (self.flow.push(x),), z)
        return np.hstack([latent, flat])

    def inverse_transform(self, Z):
        """Data of latent positions."""
        return self._by_rows(partial(self._back, self.flow.inverse), Z)

    def draw(self, n_samples, rng):
        """Yield slices of rows, until they are so many, with rows drawn for them."""
        for where in self.slices(n_samples):
            n = min(where.stop, n_samples) - where.start
            if self.flow.blocks:
                Z = rng.standard_normal((n, self.n_features))
                yield where, self.generate(Z)
            else:
                yield where, self.preprocessing.draw(n, rng)

    def generate(self, Z):
        """Data of latent positions up to the error of solver and single precision."""
        single = copy.deepcopy(self.flow).float()

        def move(z):
            # Only the way of a row is rounded: rows that are distinct stay distinct.
            start = z.float()
            return z + (single.generate(start) - start)

        return self._back(move, Z)

    def _back(self, function, Z):
        n_active = self.flow.n_features
        Z = np.clip(Z, -FARTHEST, FARTHEST)
        z = torch.as_tensor(Z[:, :n_active].copy())
        (moved,) = self._in_chunks(lambda x: (function(x),), z)
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


def _is_finite(z):
    """Whether the square of a row's length is no overflow.

    Beyond about 1e154 standard deviations the logarithm of the density overflows too:
    there it is -inf.
    """
    with np.errstate(over="ignore"):
        return np.isfinite(np.square(z.numpy()).sum(1))
