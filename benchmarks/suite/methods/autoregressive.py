"""Autoregressive models: flows of zuko, and a network with mixture outputs."""

# SPDX-License-Identifier: BSD-3-Clause

import torch
import zuko

from .networks import MaskedMixtures
from .training import train
from .whitening import SETTINGS, tune_network

BATCH_SIZE = 512

# Settings of the tuned splines, of which zuko has 8 bins by default.
SPLINES = (
    {"lr": 1e-3, "whiten": True, "bins": 8, "transforms": 3},
    {"lr": 3e-3, "whiten": False, "bins": 16, "transforms": 2},
    {"lr": 1e-3, "whiten": False, "bins": 8, "transforms": 5},
    {"lr": 3e-3, "whiten": True, "bins": 16, "transforms": 3},
    {"lr": 1e-3, "whiten": True, "bins": 32, "transforms": 2},
    {"lr": 3e-4, "whiten": False, "bins": 32, "transforms": 5},
)
MIXTURES = (
    {"lr": 3e-3, "whiten": False, "width": 128, "n_components": 10},
    {"lr": 1e-3, "whiten": False, "width": 256, "n_components": 30},
    {"lr": 1e-3, "whiten": True, "width": 256, "n_components": 10},
    {"lr": 3e-3, "whiten": False, "width": 128, "n_components": 10, "shuffle": True},
    {"lr": 3e-3, "whiten": True, "width": 128, "n_components": 20},
    {"lr": 3e-4, "whiten": False, "width": 512, "n_components": 30, "shuffle": True},
)


class Distribution:
    """A fitted distribution of torch in float64."""

    def __init__(self, distribution, note=""):
        self.distribution, self.note = distribution, note

    @torch.no_grad()
    def log_prob(self, X):
        """Log-densities in nats."""
        parts = torch.as_tensor(X, dtype=torch.float64).split(2048)
        return torch.cat([self.distribution.log_prob(part) for part in parts]).numpy()

    @torch.no_grad()
    def sample(self, n, seed):
        """Draw samples."""
        torch.manual_seed(seed)
        return self.distribution.sample((n,)).numpy()


def fit(train_samples, val, deadline, n_trials, seed, make, settings=SETTINGS):
    """Maximum likelihood."""

    def fit_one(samples, held_out, share, lr, **others):
        torch.manual_seed(seed)
        X, held_out = torch.as_tensor(samples), torch.as_tensor(held_out)
        best, nll, n_iter = train(
            make(X.shape[1], **others),
            X,
            lambda module, samples: -module().log_prob(samples).mean(),
            lambda module: -module().log_prob(held_out).mean(),
            share,
            lr=lr,
            batch_size=BATCH_SIZE,
            generator=torch.Generator().manual_seed(seed),
        )
        distribution = best.double().eval()()
        return nll, Distribution(distribution, f"{n_iter} iterations")

    return tune_network(train_samples, val, deadline, n_trials, fit_one, settings)


def fit_nsf(train, val, deadline, n_trials, seed):
    """Three autoregressive maps by splines of 8 bins."""

    def make(d):
        return zuko.flows.NSF(d, transforms=3, hidden_features=(128, 128))

    return fit(train, val, deadline, n_trials, seed, make)


def fit_tuned_nsf(train, val, deadline, n_trials, seed):
    """Maps by splines; trials are numbers of bins and of maps as well."""

    def make(d, bins, transforms):
        hidden = (128, 128)
        return zuko.flows.NSF(
            d, bins=bins, transforms=transforms, hidden_features=hidden
        )

    return fit(train, val, deadline, n_trials, seed, make, SPLINES)


def fit_maf(train, val, deadline, n_trials, seed):
    """Five affine autoregressive maps."""

    def make(d):
        return zuko.flows.MAF(d, transforms=5, hidden_features=(128, 128))

    return fit(train, val, deadline, n_trials, seed, make)


def fit_naf(train, val, deadline, n_trials, seed):
    """Two autoregressive maps by monotone networks (neural autoregressive flow)."""

    def make(d):
        return zuko.flows.NAF(d, transforms=2, hidden_features=(128, 128))

    return fit(train, val, deadline, n_trials, seed, make)


def fit_mixtures(train, val, deadline, n_trials, seed):
    """One masked network; a mixture of Gaussians for every conditional (MADE-MoG)."""
    return fit(train, val, deadline, n_trials, seed, MaskedMixtures, MIXTURES)
