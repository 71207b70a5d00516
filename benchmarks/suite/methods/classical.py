"""Estimators without networks: a Gaussian, mixtures of them, and kernels."""

# SPDX-License-Identifier: BSD-3-Clause

import warnings
from time import perf_counter

import numpy as np
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from .tuning import thinned, tune

# Every score visits all kernels: more would take minutes to score a test set.
KERNEL_SAMPLES = 50_000


class Gaussian:
    """Full-covariance Gaussian by maximum likelihood."""

    def __init__(self, X):
        self.mean = X.mean(axis=0)
        # As much on the diagonal as scikit-learn's mixtures have by default.
        self.covariance = np.cov(X.T) + 1e-6 * np.eye(X.shape[1])

    def log_prob(self, X):
        """Log-densities in nats."""
        return multivariate_normal.logpdf(X, self.mean, self.covariance)

    def sample(self, n, seed):
        """Draw samples."""
        rng = np.random.default_rng(seed)
        return rng.multivariate_normal(self.mean, self.covariance, n)


class Scored:
    """A scikit-learn estimator behind the interface of the suite."""

    def __init__(self, model, note=""):
        self.model, self.note = model, note

    def log_prob(self, X):
        """Log-densities in nats."""
        return self.model.score_samples(np.asarray(X, dtype=np.float64))

    def sample(self, n, seed):
        """Draw samples."""
        if isinstance(self.model, GaussianMixture):
            return self.model.set_params(random_state=seed).sample(n)[0]
        return self.model.sample(n, random_state=seed)


def fit_gaussian(train, val, deadline, n_trials, seed):
    """Nothing to tune."""

    def fit_one(settings, _):
        return 0.0, Gaussian(train.astype(np.float64))

    return tune([{}], fit_one, deadline)


def fit_mixture(train, val, deadline, n_trials, seed):
    """Mixture of full-covariance Gaussians; trials are numbers of components."""
    X = train.astype(np.float64)
    # Every component should have about five samples a free direction at least.
    largest = int(np.clip(len(X) // (5 * (X.shape[1] + 1)), 2, 100))
    sizes = np.unique(np.geomspace(1, largest, n_trials + 1).round().astype(int)[1:])
    if len(sizes) < n_trials:
        sizes = np.arange(1, n_trials + 1)

    def fit_one(settings, share):
        model = GaussianMixture(**settings, warm_start=True, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            # It has no time limit: k-means and the first iterations on a part of the
            # samples, then all samples, an iteration at a time.
            model.set_params(max_iter=20).fit(X[:5000])
            model.set_params(max_iter=1)
            seconds, last = 0.0, -np.inf
            for _ in range(200):
                start = perf_counter()
                if start + seconds > share:
                    break
                bound = model.fit(X).lower_bound_
                seconds = perf_counter() - start
                if abs(bound - last) < 1e-3:
                    break
                last = bound
        return -model.score(thinned(val)), Scored(model)

    return tune([{"n_components": int(n)} for n in sizes], fit_one, deadline)


def fit_kernel(train, val, deadline, n_trials, seed):
    """Gaussian kernels; trials are bandwidths, as shares of Scott's."""
    X, held_out = thinned(train, KERNEL_SAMPLES).astype(np.float64), thinned(val)
    scott = len(X) ** (-1 / (X.shape[1] + 4))

    def fit_one(settings, share):
        model = KernelDensity(**settings).fit(X)
        # The time goes into scoring: as many validation samples as there is time for.
        start, n = perf_counter(), min(20, len(held_out))
        model.score_samples(held_out[:n])
        a_sample = (perf_counter() - start) / n
        left = max(share - perf_counter(), 0.0) / a_sample
        samples = held_out[: int(np.clip(left, n, len(held_out)))]
        note = f"{len(X)} kernels, tuned on {len(samples)} samples"
        return -model.score(samples) / len(samples), Scored(model, note)

    factors = np.geomspace(0.25, 1.0, n_trials)[::-1]
    return tune([{"bandwidth": float(f * scott)} for f in factors], fit_one, deadline)
