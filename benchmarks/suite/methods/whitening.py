"""Whitening around a rival: skjko has it inside, so the tuning of rivals has it too."""

# SPDX-License-Identifier: BSD-3-Clause

import numpy as np

from .tuning import thinned, tune

# Learning rate, and whether samples are whitened or only standardised: whitening helps
# with strong correlations, but rotates the axes of autoregressive flows.
SETTINGS = (
    {"lr": 1e-3, "whiten": True},
    {"lr": 3e-3, "whiten": False},
    {"lr": 3e-3, "whiten": True},
    {"lr": 1e-3, "whiten": False},
    {"lr": 3e-4, "whiten": True},
    {"lr": 1e-2, "whiten": True},
)


class Whitening:
    """Linear map of samples to zero mean and unit covariance."""

    def __init__(self, X):
        X = X.astype(np.float64)
        self.mean = X.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov(X.T).reshape(X.shape[1], -1))
        # Directions without spread stay finite.
        deviations = np.sqrt(np.maximum(values, 1e-8 * values.max()))
        self.forward_matrix = vectors / deviations
        self.inverse_matrix = (vectors * deviations).T
        self.log_det = -np.log(deviations).sum()

    def forward(self, X):
        """Whitened samples, in the type of X."""
        return ((X - self.mean) @ self.forward_matrix).astype(X.dtype)

    def inverse(self, Z):
        """The samples that are whitened to Z."""
        return Z @ self.inverse_matrix + self.mean


class Whitened:
    """A fitted method on whitened samples, as one on the samples themselves."""

    def __init__(self, fitted, whitening):
        self.fitted, self.whitening = fitted, whitening
        self.note = fitted.note
        self.trace = getattr(fitted, "trace", "")
        # Only continuous-time flows have a solver.
        if hasattr(fitted, "gap"):
            self.gap = self._gap

    def log_prob(self, X):
        """Log-densities in nats."""
        Z = self.whitening.forward(np.asarray(X, dtype=np.float64))
        return self.fitted.log_prob(Z) + self.whitening.log_det

    def _gap(self, X):
        # The whitening does not change a difference of log-densities.
        return self.fitted.gap(self.whitening.forward(np.asarray(X, dtype=np.float64)))

    def sample(self, n, seed):
        """Draw samples."""
        return self.whitening.inverse(self.fitted.sample(n, seed))


def tune_network(train, val, deadline, n_trials, fit_one, settings=SETTINGS):
    """Tune a method by a list of settings, "whiten" among them.

    `fit_one(train, held_out, deadline, **others)` returns (validation NLL, fitted).
    """

    def fit_around(chosen, share):
        others = {name: value for name, value in chosen.items() if name != "whiten"}
        held_out = thinned(val)
        if not chosen["whiten"]:
            return fit_one(train, held_out, share, **others)
        whitening = Whitening(train)
        samples, held_out = whitening.forward(train), whitening.forward(held_out)
        nll, fitted = fit_one(samples, held_out, share, **others)
        return nll - whitening.log_det, Whitened(fitted, whitening)

    return tune(settings[:n_trials], fit_around, deadline)
