"""Vine copula of nonparametric pair copulas behind kernel marginals (pyvinecopulib)."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from time import perf_counter

import numpy as np
import pyvinecopulib
from scipy.stats import multivariate_normal

from .whitening import tune_network

# Local likelihood of the pairs: degree of the polynomial, and factor of its bandwidth.
SETTINGS = (
    {"method": "quadratic", "multiplier": 1.0, "whiten": False},
    {"method": "constant", "multiplier": 1.0, "whiten": False},
    {"method": "quadratic", "multiplier": 1.0, "whiten": True},
    {"method": "quadratic", "multiplier": 0.5, "whiten": False},
    {"method": "linear", "multiplier": 1.0, "whiten": True},
    {"method": "quadratic", "multiplier": 2.0, "whiten": False},
)
# Samples whose fit tells how long one of more samples takes.
FIRST_SAMPLES = 500


# Kernel marginals end with the data: so much of the density is a Gaussian, with so many
# times the standard deviations of the samples, or a single test sample would decide.
WIDE_WEIGHT, WIDE_SCALE = 0.01, 3.0


class Vine:
    """A fitted `pyvinecopulib.core.Vinedist`, and a wide Gaussian."""

    def __init__(self, model, X, note):
        self.model, self.note = model, note
        self.mean, self.covariance = X.mean(axis=0), WIDE_SCALE**2 * np.cov(X.T)

    def log_prob(self, X):
        """Log-densities in nats."""
        X = np.asarray(X, dtype=np.float64)
        vine = np.log1p(-WIDE_WEIGHT) + self.model.logpdf(X)
        wide = multivariate_normal.logpdf(
            X, self.mean, self.covariance, allow_singular=True
        )
        return np.logaddexp(vine, np.log(WIDE_WEIGHT) + wide)

    def sample(self, n, seed):
        """Draw samples."""
        rng = np.random.default_rng(seed)
        n_wide = rng.binomial(n, WIDE_WEIGHT)
        wide = rng.multivariate_normal(self.mean, self.covariance, n_wide)
        vine = self.model.sample(n - n_wide, seeds=[seed])
        return rng.permutation(np.concatenate([vine, wide]))


def fit(train, val, deadline, n_trials, seed):
    """A fit cannot be stopped: it takes as many samples as there is time for."""

    def fit_one(samples, held_out, share, method, multiplier):
        X = samples.astype(np.float64)
        controls = pyvinecopulib.FitControlsVinecop(
            family_set=[pyvinecopulib.BicopFamily.indep, pyvinecopulib.BicopFamily.tll],
            nonparametric_method=method,
            nonparametric_mult=multiplier,
        )
        start, n = perf_counter(), min(FIRST_SAMPLES, len(X))
        model = pyvinecopulib.core.Vinedist.from_data(X[:n], controls)
        seconds = perf_counter() - start
        # A first fit has fixed costs: a tenth of the time stays for validation.
        left = 0.9 * (share - perf_counter())
        most = len(X) if math.isinf(left) else int(n * left / seconds)
        if most > n < len(X):
            n = min(most, len(X))
            model = pyvinecopulib.core.Vinedist.from_data(X[:n], controls)
        fitted = Vine(model, X, f"{n} samples")
        return -fitted.log_prob(held_out).mean(), fitted

    return tune_network(train, val, deadline, n_trials, fit_one, SETTINGS)
