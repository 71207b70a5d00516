"""skjko itself: the default, and with what stands in front of the blocks fixed."""

# SPDX-License-Identifier: BSD-3-Clause

import math
import warnings
from time import perf_counter

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skjko import JKOFlowDensity, JKOSchedule, MLPField

from .tuning import thinned, tune


def trials(n_features, init="auto"):
    """Settings to choose from, the defaults first."""
    regularized = {"learning_rate_init": 0.02, "alpha": 0.3}
    smoother = {"field__frequency": 4.0} if n_features <= 3 else {"batch_size": 250}
    others = (
        smoother,
        {"field__hidden_layer_sizes": (256, 256)},
        {"schedule__step_size": 2.0},
    )
    if init == "auto":
        first = ({}, {"init": "gaussian", **regularized}, {"init": "mixture"})
        return first + others
    return tuple({"init": init, **more} for more in ({}, regularized, *others))


class Flow:
    """A fitted JKOFlowDensity."""

    trace = "exact"

    def __init__(self, model):
        self.model = model
        self.n_blocks = model.n_blocks_
        # No selection is made where there is nothing to choose from.
        chosen = [c for c in model.selection_ if c.chosen]
        self.start = chosen[-1].start if chosen else model.init
        self.base = "normal" if model.base_ is None else "mixture"
        transforms = chosen[-1].transforms if chosen else "none"
        self.note = f"{model.n_iter_} iterations, transforms {transforms}"

    def log_prob(self, X):
        """Log-densities in nats."""
        return self.model.score_samples(X)

    def sample(self, n, seed):
        """Draw samples."""
        return self.model.sample(n, random_state=seed)

    def gap(self, X):
        """Mean absolute difference to a solve at 1e-8."""
        return np.abs(self.model.likelihood_error(X)).mean()


def limited(settings, share):
    """Settings under which a fit is done by the deadline `share`."""
    if not math.isfinite(share):
        return settings
    # The limit is for `fit`; validation of the setting takes time too.
    return {"time_limit": max(0.9 * (share - perf_counter()), 0.1), **settings}


def fit(train, val, deadline, n_trials, seed, init="auto"):
    """Fit the defaults and the settings after them."""
    held_out = thinned(val)

    def fit_one(settings, share):
        with warnings.catch_warnings():
            # The solver's error is recorded in the results.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = JKOFlowDensity(
                field=MLPField(), schedule=JKOSchedule(), random_state=seed
            )
            model.set_params(**limited(settings, share))
            model.fit(train, X_val=held_out)
        return -model.score(held_out), Flow(model)

    return tune(trials(train.shape[1], init)[:n_trials], fit_one, deadline)


def fit_flow(train, val, deadline, n_trials, seed):
    """The flow alone, behind a whitening."""
    return fit(train, val, deadline, n_trials, seed, "gaussian")


def fit_mixture(train, val, deadline, n_trials, seed):
    """The flow behind a mixture."""
    return fit(train, val, deadline, n_trials, seed, "mixture")
