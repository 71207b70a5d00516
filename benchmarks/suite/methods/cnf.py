"""Continuous normalizing flow of zuko, trained by maximum likelihood as FFJORD is."""

# SPDX-License-Identifier: BSD-3-Clause

import torch
import zuko
from torch import nn

from .solves import ContinuousFlow
from .training import train
from .whitening import tune_network

BATCH_SIZE = 512
# Above so many features training estimates the trace by one random direction.
EXACT_FEATURES = 4
# Validation solves as training does; 500 samples are enough to compare settings.
VALIDATION_SAMPLES = 500
# Fewer than for other methods without a deadline: an iteration solves twice.
MAX_ITER = 5_000


class Field(nn.Module):
    """The field inside a zuko flow, as `(t, x) -> velocity`."""

    def __init__(self, transform):
        super().__init__()
        self.transform = transform

    def forward(self, t, x):
        """Velocity of shape (n, d)."""
        return self.transform.f(t, x)


def fit(train_samples, val, deadline, n_trials, seed):
    """Time runs from data at 0 to noise at 1."""
    d = train_samples.shape[1]

    def fit_one(samples, held_out, share, lr):
        torch.manual_seed(seed)
        X = torch.as_tensor(samples)
        held_out = torch.as_tensor(held_out[:VALIDATION_SAMPLES])

        def validate(flow):
            flow.eval()
            return -flow().log_prob(held_out).mean()

        flow = zuko.flows.CNF(
            d,
            hidden_features=(64, 64, 64),
            exact=d <= EXACT_FEATURES,
            atol=1e-5,
            rtol=1e-4,
        )
        # A field of zero is the identity map: a start near standardised data.
        nn.init.zeros_(flow.transform.ode[-1].weight)
        nn.init.zeros_(flow.transform.ode[-1].bias)
        best, nll, n_iter = train(
            flow,
            X,
            lambda flow, samples: -flow().log_prob(samples).mean(),
            validate,
            share,
            lr=lr,
            max_iter=MAX_ITER,
            batch_size=BATCH_SIZE,
            generator=torch.Generator().manual_seed(seed),
        )
        field = Field(best.transform)
        return nll, ContinuousFlow(field, d, 0.0, 1.0, note=f"{n_iter} iterations")

    return tune_network(train_samples, val, deadline, n_trials, fit_one)
