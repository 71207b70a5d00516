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

# The defaults, more iterations with a lower rate, and a smaller, steadier network.
TRIALS = (
    {},
    {"max_iter": 1500, "learning_rate_init": 0.005},
    {"max_iter": 1500, "hidden_layer_sizes": (64, 64), "learning_rate_init": 0.003},
    {"max_iter": 1500, "hidden_layer_sizes": (256, 256)},
    {"max_iter": 1500, "step_size": 2.0},
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


def limited(settings, share, X, val, seed):
    """Settings under which a fit is done by the deadline `share`."""
    if not math.isfinite(share):
        return settings
    left = max(share - perf_counter(), 0.1)
    if "time_limit" in JKOFlowDensity().get_params():
        return {**settings, "time_limit": left}
    # A pilot tells the seconds of an iteration, and choosing the grids: blocks that
    # have moved need finer ones, which the factor allows for.
    pilot = JKOFlowDensity(**{**settings, "max_iter": 5, "max_blocks": 1})
    start = perf_counter()
    pilot.set_params(random_state=seed).fit(X, X_val=val)
    an_iteration = (perf_counter() - start) / 5
    model = JKOFlowDensity(**settings)
    left = 0.8 * (share - perf_counter())
    n_iter = int(np.clip(left / an_iteration / model.max_blocks, 5, model.max_iter))
    return {**settings, "max_iter": n_iter}


def fit(train, val, deadline, n_trials, seed):
    """Fit the defaults and settings beside them."""
    held_out = thinned(val)

    def fit_one(settings, share):
        with warnings.catch_warnings():
            # The solver gap is a result of its own.
            warnings.simplefilter("ignore", ConvergenceWarning)
            settings = limited(settings, share, train, held_out, seed)
            model = JKOFlowDensity(random_state=seed, **settings)
            model.fit(train, X_val=held_out)
        return -model.score(held_out), Flow(model)

    return tune(TRIALS[:n_trials], fit_one, deadline)
