"""Score-based diffusion: variance preserving, likelihood by its probability flow.

After Y. Song et al., "Score-based generative modeling through stochastic differential
equations", ICLR 2021, with their schedule of noise.
"""

# SPDX-License-Identifier: BSD-3-Clause

import torch
from torch import nn

from . import regression
from .networks import TimedMLP

BETA_MIN, BETA_MAX = 0.1, 20.0
# The flow starts a little after time 0, where the score may be infinite. It is a map
# of data to noise all the same, and so its density is a proper one.
FIRST_TIME = 1e-3
BATCH_SIZE = 512


def beta(t):
    """Rate of noise."""
    return BETA_MIN + t * (BETA_MAX - BETA_MIN)


def signal_and_noise(t):
    """Factor of the data and standard deviation of the noise at a time."""
    integral = BETA_MIN * t + 0.5 * (BETA_MAX - BETA_MIN) * t**2
    return torch.exp(-0.5 * integral), torch.sqrt(-torch.expm1(-integral))


class ProbabilityFlow(nn.Module):
    """Velocity of the flow that has the marginal densities of the diffusion."""

    def __init__(self, n_features):
        super().__init__()
        self.network = TimedMLP(n_features)

    def noise(self, t, x):
        """Expected noise in x: that of standard normal data, and a correction."""
        return signal_and_noise(t)[1] * x + self.network(t, x)

    def forward(self, t, x):
        """Velocity of shape (n, d)."""
        # An adaptive solver may look beyond the end, where there is no noise left.
        t = t.clamp(min=FIRST_TIME)
        sigma = signal_and_noise(t)[1]
        return 0.5 * beta(t) * (self.noise(t, x) / sigma - x)


def loss(field, x, generator):
    """Denoising score matching, every time with the same weight."""
    t = FIRST_TIME + (1 - FIRST_TIME) * torch.rand(len(x), 1, generator=generator)
    z = torch.randn(x.shape, generator=generator)
    signal, sigma = signal_and_noise(t)
    return (field.noise(t, signal * x + sigma * z) - z).square().sum(1).mean()


def fit(train, val, deadline, n_trials, seed):
    """Time runs from data at 0 to noise at 1."""
    return regression.fit(
        train,
        val,
        deadline,
        n_trials,
        seed,
        ProbabilityFlow,
        loss,
        (FIRST_TIME, 1.0),
        BATCH_SIZE,
    )
