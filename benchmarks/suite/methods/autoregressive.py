"""Autoregressive flows of zuko: neural splines (NSF) and masked affine maps (MAF)."""

# SPDX-License-Identifier: BSD-3-Clause

import torch
import zuko

from .training import train
from .whitening import tune_network

BATCH_SIZE = 512


class Autoregressive:
    """A fitted zuko flow, scored in float64."""

    def __init__(self, flow, note):
        self.flow = flow.double().eval()
        self.note = note

    @torch.no_grad()
    def log_prob(self, X):
        """Log-densities in nats."""
        x = torch.as_tensor(X, dtype=torch.float64)
        return torch.cat([self.flow().log_prob(part) for part in x.split(2048)]).numpy()

    @torch.no_grad()
    def sample(self, n, seed):
        """Draw samples."""
        torch.manual_seed(seed)
        return self.flow().sample((n,)).numpy()


def fit(train_samples, val, deadline, n_trials, seed, make):
    """Maximum likelihood."""

    def fit_one(samples, held_out, lr, share):
        torch.manual_seed(seed)
        X, held_out = torch.as_tensor(samples), torch.as_tensor(held_out)
        best, nll, n_iter = train(
            make(X.shape[1]),
            X,
            lambda flow, samples: -flow().log_prob(samples).mean(),
            lambda flow: -flow().log_prob(held_out).mean(),
            share,
            lr=lr,
            batch_size=BATCH_SIZE,
            generator=torch.Generator().manual_seed(seed),
        )
        return nll, Autoregressive(best, f"{n_iter} iterations")

    return tune_network(train_samples, val, deadline, n_trials, fit_one)


def fit_nsf(train, val, deadline, n_trials, seed):
    """Three autoregressive maps by splines of 8 bins."""

    def make(d):
        return zuko.flows.NSF(d, transforms=3, hidden_features=(128, 128))

    return fit(train, val, deadline, n_trials, seed, make)


def fit_maf(train, val, deadline, n_trials, seed):
    """Five affine autoregressive maps."""

    def make(d):
        return zuko.flows.MAF(d, transforms=5, hidden_features=(128, 128))

    return fit(train, val, deadline, n_trials, seed, make)
