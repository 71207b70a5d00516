"""Densities and samples of continuous-time flows, by tight adaptive solves."""

# SPDX-License-Identifier: BSD-3-Clause

import copy
import math

import torch
from torch.func import jvp, vmap
from torchdiffeq import odeint

# Up to so many features the divergence is the exact trace of the Jacobian.
EXACT_FEATURES = 64
N_PROBES = 64
# A field that needs more steps than this is broken: an error, not an endless solve.
# The first step is given: the solver's own guess fails where a field is nearly zero.
OPTIONS = {"max_num_steps": 20_000, "first_step": 0.01}


def directions(x, n_probes=None):
    """Directions that give the divergence at x: the axes, or random signs.

    Returns (k, d) directions and the factor of their sum.
    """
    d = x.shape[1]
    if n_probes is None:
        return torch.eye(d, dtype=x.dtype), 1.0
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (n_probes, d), generator=generator)
    return (2 * signs - 1).to(x.dtype), 1 / n_probes


def velocity_and_divergence(field, t, x, axes, factor):
    """Velocity and divergence by one Jacobian-vector product a direction."""

    def along(axis):
        tangent = axis.expand_as(x)
        return (jvp(lambda y: field(t, y), (x,), (tangent,))[1] * axis).sum(1)

    # In chunks, so that memory does not grow with the number of features.
    return field(t, x), factor * vmap(along, chunk_size=8)(axes).sum(0)


@torch.no_grad()
def log_prob(field, x, times, tol, n_probes=None):
    """Log-density of samples whose flow over `times` ends in the standard normal."""
    axes, factor = directions(x, n_probes)

    def dynamics(t, state):
        return velocity_and_divergence(field, t, state[0], axes, factor)

    z, log_det = odeint(
        dynamics,
        (x, x.new_zeros(len(x))),
        torch.tensor(times, dtype=x.dtype),
        rtol=tol,
        atol=tol,
        method="dopri5",
        options=OPTIONS,
    )
    normal = -0.5 * z[-1].square().sum(1) - 0.5 * x.shape[1] * math.log(2 * math.pi)
    return normal + log_det[-1]


class ContinuousFlow:
    """A fitted field `(t, x) -> velocity` and the times of data and base."""

    def __init__(self, field, n_features, data_time, base_time, note=""):
        self.field = copy.deepcopy(field).double().eval()
        self.n_features = n_features
        self.times = (data_time, base_time)
        self.note = note
        exact = n_features <= EXACT_FEATURES
        self.n_probes = None if exact else N_PROBES
        self.trace = "exact" if exact else f"hutchinson {N_PROBES}"

    def log_prob(self, X, tol=1e-6):
        """Log-densities in nats."""
        x = torch.as_tensor(X, dtype=torch.float64)
        return log_prob(self.field, x, self.times, tol, self.n_probes).numpy()

    def gap(self, X):
        """What a tolerance a hundred times tighter changes, on a hundred samples."""
        X = X[:100]
        return abs(self.log_prob(X) - self.log_prob(X, tol=1e-8)).mean()

    @torch.no_grad()
    def sample(self, n, seed, tol=1e-5):
        """Draw samples."""
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(n, self.n_features, generator=generator, dtype=torch.float64)
        times = torch.tensor(self.times[::-1], dtype=torch.float64)
        x = odeint(
            self.field,
            z,
            times,
            rtol=tol,
            atol=tol,
            method="dopri5",
            options=OPTIONS,
        )
        return x[-1].numpy()
