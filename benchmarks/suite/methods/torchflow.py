"""Flows of torchflows, by the training that comes with it (`fit`)."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from time import perf_counter

import torch
from torchflows.bijections.finite.autoregressive import architectures
from torchflows.flows import Flow

from .autoregressive import Distribution
from .whitening import tune_network

# The learning rate is the default of `fit`, or a tenth of it.
SETTINGS = (
    {"architecture": "CouplingRQNSF", "lr": 5e-3, "whiten": True},
    {"architecture": "MaskedAutoregressiveRQNSF", "lr": 5e-3, "whiten": False},
    {"architecture": "RealNVP", "lr": 5e-2, "whiten": True},
    {"architecture": "MAF", "lr": 5e-3, "whiten": True},
    {"architecture": "MaskedAutoregressiveDeepSF", "lr": 5e-3, "whiten": False},
    {"architecture": "CouplingRQNSF", "lr": 5e-2, "whiten": False},
)
# Without a deadline; early stopping usually ends training before.
MAX_EPOCHS = 2000


def fit(train, val, deadline, n_trials, seed):
    """Early stopping on the validation samples, and the weights that are best there."""

    def fit_one(samples, held_out, share, architecture, lr):
        torch.manual_seed(seed)
        flow = Flow(getattr(architectures, architecture)(samples.shape[1]))
        limit = max(share - perf_counter(), 0.1)
        flow.fit(
            torch.as_tensor(samples),
            n_epochs=MAX_EPOCHS,
            lr=lr,
            x_val=torch.as_tensor(held_out),
            early_stopping=True,
            time_limit_seconds=None if math.isinf(limit) else limit,
        )
        fitted = Distribution(flow.double().eval())
        return -fitted.log_prob(held_out).mean(), fitted

    return tune_network(train, val, deadline, n_trials, fit_one, SETTINGS)
