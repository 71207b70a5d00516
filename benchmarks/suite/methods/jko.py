"""skjko itself."""

# SPDX-License-Identifier: BSD-3-Clause

import math
import warnings
from time import perf_counter

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from tight import tight_log_density

from skjko import JKOFlowDensity

from .tuning import thinned, tune


def trials(n_features):
    """Settings to choose from, the defaults first."""
    smoother = {"frequency": 4.0} if n_features <= 3 else {"batch_size": 250}
    return (
        {},
        {"mixture_map": None, "learning_rate_init": 0.02, "alpha": 0.3},
        smoother,
        {"hidden_layer_sizes": (256, 256)},
        {"step_size": 2.0},
    )


class Flow:
    """A fitted JKOFlowDensity."""

    trace = "exact"

    def __init__(self, model):
        self.model = model
        self.note = f"{model.n_blocks_} blocks, {model.n_iter_} iterations"

    def log_prob(self, X):
        """Log-densities in nats."""
        return self.model.score_samples(X)

    def sample(self, n, seed):
        """Draw rows."""
        return self.model.sample(n, random_state=seed)

    def gap(self, X):
        """Mean absolute difference to a solve at 1e-8."""
        return np.abs(self.log_prob(X) - tight_log_density(self.model, X)).mean()


def limited(settings, share):
    """Settings under which a fit is done by the deadline `share`."""
    if not math.isfinite(share):
        return settings
    # A limit is about that of the training: what is before and after takes time too.
    return {"time_limit": max(0.9 * (share - perf_counter()), 0.1), **settings}


def fit(train, val, deadline, n_trials, seed):
    """Fit the defaults and settings beside them."""
    held_out = thinned(val)

    def fit_one(settings, share):
        with warnings.catch_warnings():
            # The solver gap is a result of its own.
            warnings.simplefilter("ignore", ConvergenceWarning)
            settings = limited(settings, share)
            model = JKOFlowDensity(random_state=seed, **settings)
            model.fit(train, X_val=held_out)
        return -model.score(held_out), Flow(model)

    return tune(trials(train.shape[1])[:n_trials], fit_one, deadline)
