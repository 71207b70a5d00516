"""A fitted density on arrays: transforms, flow and base as one map."""

# SPDX-License-Identifier: BSD-3-Clause

import copy
from functools import partial

import numpy as np
import torch

from skjko.data import chunks
from skjko.flow import step_selection, threads
from skjko.flow.stack import CHUNK_SIZE, Flow, in_chunks
from skjko.missing import Proposal
from skjko.transforms.base import Chain, normal_log_prob
from skjko.transforms.whitening import FARTHEST

# Float64 arrays of the samples that live at once on their way, at most.
_N_COPIES = 10


class Model:
    """Transforms, flow and base, from data to the standard normal and back.

    Parameters
    ----------
    support : Support
        Bounds and discrete values of the data, and of a condition, which has neither.
    transforms : Chain
        In front of the flow. Degenerate directions, the last columns of their image, do
        not take part in the flow. Behind them stand the columns of a condition, on
        which the flow depends: they are the last ones of samples, too.
    flow : Flow
        In float64 on the CPU.
    base : Chain
        From the flow's base distribution to the standard normal; without steps the base
        is standard normal itself.
    missing : Proposal, optional
        Of missing values, where samples may have them.
    """

    def __init__(self, support, transforms, flow, base, missing=None):
        self.support, self.transforms = support, transforms
        self.flow, self.base, self.missing = flow, base, missing
        self.device = torch.device("cpu")

    @property
    def n_features(self):
        """Number of columns of samples."""
        return len(self.support.lower)

    @property
    def n_context(self):
        """Number of those that are a condition."""
        return self.transforms.n_context_

    @property
    def n_targets(self):
        """Number of those that have a density."""
        return self.n_features - self.n_context

    @property
    def n_active(self):
        """Number of features that the flow acts on."""
        return self.n_features - self.transforms.n_degenerate_

    def to(self, device):
        """Return the model with its flow on a device; this one stays as it is."""
        if device.type == "cpu":
            return self
        moved = Model(
            self.support,
            self.transforms,
            copy.deepcopy(self.flow),
            self.base,
            self.missing,
        )
        moved.flow, moved.device = moved.flow.to(device), device
        return moved

    def log_density(self, X):
        """Return the log-density of every sample, in nats and units of the data.

        In discrete features it is averaged over the cell around the sample. With
        missing values it is that of the others.
        """
        if self.missing is not None:
            incomplete = np.isnan(X).any(axis=1)
            if incomplete.any():
                scores = np.empty(len(X))
                scores[~incomplete] = self._averaged(X[~incomplete])
                scores[incomplete] = self.missing.log_density(self, X[incomplete])
                return np.where(np.isnan(scores), -np.inf, scores)
        return self._averaged(X)

    def _averaged(self, X):
        scores = self.support.average(self.log_density_of_opened, X)
        # What is no number, where nobody has looked for it, has no density.
        return np.where(np.isnan(scores), -np.inf, scores)

    def log_density_of_opened(self, U):
        """Return log-densities of opened positions, not averaged over cells."""
        return self._by_samples(self._log_density, U)

    def log_density_at(self, X):
        """Return the same at the centres of cells, which is faster by far."""
        return self._by_samples(lambda X: self._log_density(self._opened(X)), X)

    def _log_density(self, X):
        if not len(self.flow) and self.base.is_identity_:
            return self.transforms.log_prob(X)
        z, degenerate, context, log_det = self._forward(X)
        y, increment = self._in_chunks(self._pushed, z, context)
        # Samples so far out that their image is infinite have no density.
        with np.errstate(invalid="ignore"):
            score = self.base.log_prob(y) + increment + log_det
            score += normal_log_prob(degenerate)
        return np.where(_is_finite(z.numpy()), score, -np.inf)

    def _pushed(self, x, context):
        return self.flow(x, context, fast=True)

    def solver_error(self, X):
        """Return log-densities minus those of a tight adaptive solve, in nats."""

        def error(X):
            z, _, context, _ = self._forward(self._opened(X))
            y, log_det = self._in_chunks(self._pushed, z, context)
            solve = partial(step_selection.tight_solve, self.flow)
            tight, tight_log_det = self._in_chunks(solve, z, context)
            change = self.base.log_prob(y) - self.base.log_prob(tight)
            return change + log_det - tight_log_det

        return self._by_samples(error, X)

    def staged_log_density(self, X):
        """Yield the log-density if the flow ended after block 0, 1, ..., K.

        The last one has the base behind it.
        """
        support = self.support
        if len(support.grid.columns) or not support.atoms.is_identity_:
            # Averages are taken part by part: all stages have to be there at once.
            yield from support.average(lambda x: np.stack(list(self._stages(x))), X)
        else:
            yield from self._stages(X)

    def _stages(self, X):
        n, slices = len(X), list(self._slices(len(X)))
        x = chunks.empty((n, self.n_active), np.float64)
        given = chunks.empty((n, self.n_context), np.float64)
        scores, log_det, is_finite = np.empty(n), np.empty(n), np.empty(n, dtype=bool)
        for k, block in enumerate([None, *self.flow.blocks]):
            # One stage for every block, and the base behind the last.
            base = self.base if k == len(self.flow) else Chain([])
            # Nothing of torch's settings may leak to the caller between two stages.
            with threads.isolated():
                for rows in slices:
                    if block is None:
                        z, degenerate, context, increment = self._forward(X[rows])
                        x[rows] = z
                        if context is not None:
                            given[rows] = context
                        log_det[rows] = increment + normal_log_prob(degenerate)
                        is_finite[rows] = _is_finite(x[rows])
                    else:
                        solution = self._in_chunks(
                            lambda x, c, block=block: block(x, c, fast=True)[:2],
                            torch.as_tensor(x[rows]),
                            torch.as_tensor(given[rows]) if self.n_context else None,
                        )
                        x[rows] = solution[0]
                        log_det[rows] += solution[1]
                    with np.errstate(invalid="ignore"):
                        scores[rows] = base.log_prob(x[rows]) + log_det[rows]
            yield np.where(is_finite, scores, -np.inf)

    def trajectory(self, X, n_between=0, transforms=True):
        """Return positions of samples from the data to the base, along axis 0."""
        function = partial(self._trajectory, n_between=n_between, transforms=transforms)
        return self._by_samples(function, X, axis=1)

    def _trajectory(self, X, n_between, transforms):
        positions, Y = [], self._opened(X)
        for step in self.transforms:
            if transforms:
                positions.append(Y)
            Y = Chain([step]).forward(Y)[0]
        z, degenerate, context = self._parts(Y)
        latent = self._in_chunks(
            lambda x, c: tuple(self.flow.trajectory(x, c, n_between)), z, context
        )
        positions += [np.hstack([p, degenerate]) for p in latent]
        if not self.base.is_identity_:
            last = self.base.forward(latent[-1])[0]
            positions.append(np.hstack([last, degenerate]))
        return np.stack(positions)

    def forward(self, X, offsets=0.0):
        """Return the latent, standard normal positions of samples.

        Atoms are where the offsets say, in widths of their cells from the centre.
        """
        return self._by_samples(partial(self._latent, offsets=offsets), X)

    def _latent(self, X, offsets):
        z, degenerate, context, _ = self._forward(self._opened(X, offsets))
        (y,) = self._in_chunks(lambda x, c: (self.flow.push(x, c),), z, context)
        return np.hstack([self.base.forward(y)[0], degenerate])

    def inverse(self, Z, exact=True):
        """Return the data of latent positions, with the columns of the condition.

        Exact but for rounding, or only up to the solver's error, and ten times faster.
        """
        function = self.flow.inverse if exact else self.flow.generate
        return self._by_samples(partial(self._back, function), Z)

    def sample(self, n_samples, rng, context=None):
        """Yield slices of rows, until there are so many, with samples for them.

        Parameters
        ----------
        n_samples : int
        rng : RandomState
        context : ndarray of shape (n_samples, n_context), optional
            The condition of every sample.
        """
        for where in self._slices(n_samples):
            n = min(where.stop, n_samples) - where.start
            yield (
                where,
                self._drawn(n, rng, None if context is None else context[where]),
            )

    @threads.isolated()
    def _drawn(self, n, rng, context):
        if context is None and not len(self.flow) and self.base.is_identity_:
            return self.support.atoms.close(self.transforms.sample(n, rng))
        y = rng.standard_normal((n, self.n_targets))
        if not self.base.is_identity_:
            y[:, : self.n_active] = self.base.sample(n, rng)
        if context is not None:
            y = np.hstack([y, context])
        return self._from_flow(self._generator(), y)[:, : self.n_targets]

    def _generator(self):
        """One solve backwards in single precision: exact up to the solver's error."""
        single = copy.deepcopy(self.flow).float()

        def generate(z, context):
            # Only the displacement is rounded: distinct samples stay distinct.
            start, given = z.float(), None if context is None else context.float()
            return z + (single.generate(start, given) - start)

        return generate

    def _back(self, function, Z):
        Z = Z.copy()
        Z[:, : self.n_targets] = np.clip(Z[:, : self.n_targets], -FARTHEST, FARTHEST)
        if not self.base.is_identity_:
            Z = np.hstack(
                [self.base.inverse(Z[:, : self.n_active].copy()), Z[:, self.n_active :]]
            )
        return self._from_flow(function, Z)

    def _from_flow(self, function, Z):
        y, _, context = self._parts(Z)
        (z,) = self._in_chunks(lambda x, c: (function(x, c),), y, context)
        opened = self.transforms.inverse(np.hstack([z, Z[:, self.n_active :]]))
        return self.support.atoms.close(opened)

    def _opened(self, X, offsets=0.0):
        return self.support.atoms.open(chunks.as_float64(X), offsets)

    def _forward(self, X):
        """Features that the flow acts on, degenerate ones, condition, and log|det|."""
        Y, log_det = self.transforms.forward(X)
        return *self._parts(Y), log_det

    def _parts(self, Y):
        """Features that the flow acts on, degenerate ones, and the condition."""
        active, end = self.n_active, self.n_targets
        context = torch.tensor(Y[:, end:]) if self.n_context else None
        return torch.tensor(Y[:, :active]), Y[:, active:end], context

    def _slices(self, n):
        """Slices of samples that fit into memory, of whole chunks of the flow."""
        row_bytes = 8 * _N_COPIES * (self.n_features + 1)
        return chunks.batches(n, row_bytes, CHUNK_SIZE)

    @threads.isolated()
    def _by_samples(self, function, X, axis=0):
        return chunks.map_rows(function, X, self._slices(len(X)), axis)

    @torch.no_grad()
    def _in_chunks(self, function, x, context):
        """Apply a function of samples on the device; its tensors return as arrays."""

        def on_device(rows, given):
            given = None if given is None else given.to(self.device)
            return tuple(part.cpu() for part in function(rows.to(self.device), given))

        parts = in_chunks(on_device, x, context)
        return tuple(part.numpy() for part in parts)

    def get_state(self):
        """Return what `from_state` needs, but for the flow."""
        return {
            "support": self.support,
            "transforms": self.transforms,
            "base": self.base,
            "missing": self.missing,
        }

    @classmethod
    def from_state(cls, state):
        """Return a model without blocks of a state."""
        kinds = {
            "support": object,
            "transforms": Chain,
            "base": Chain,
            "missing": (Proposal, type(None)),
        }
        if state.keys() != kinds.keys() or not all(
            isinstance(state[name], kind) for name, kind in kinds.items()
        ):
            raise ValueError("the state of the model is incomplete")
        parts = state["support"], state["transforms"], Flow(), state["base"]
        return cls(*parts, state["missing"])


def _is_finite(z):
    """Whether the square of a sample's length is no overflow.

    Beyond about 1e154 standard deviations the log-density overflows too: it is -inf.
    """
    with np.errstate(over="ignore"):
        return np.isfinite(np.square(z).sum(axis=1))
