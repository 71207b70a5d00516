"""Tuning by a fixed list of settings, on validation NLL, before a deadline."""

# SPDX-License-Identifier: BSD-3-Clause

from time import perf_counter

import numpy as np

# Rows that a validation NLL is taken over at most, so that deciding stays cheap beside
# training on large tables.
VALIDATION_SAMPLES = 2000


def tune(candidates, fit_one, deadline):
    """Fit with every setting in turn and return the best.

    The time left is shared equally between the settings left. A setting that fails is
    left out; one at least is tried, whatever the time.

    Parameters
    ----------
    candidates : sequence of dict
        Settings, in the order in which they are tried.
    fit_one : callable
        `(settings, deadline) -> (validation NLL, fitted)`.
    deadline : float
        Time of `perf_counter` to be done by.
    """
    best, failure, trials = None, None, 0
    for i, settings in enumerate(candidates):
        now = perf_counter()
        if best is not None and now >= deadline:
            break
        try:
            share = now + max(deadline - now, 0.0) / (len(candidates) - i)
            nll, fitted = fit_one(settings, share)
        except (ArithmeticError, AssertionError, RuntimeError, ValueError) as error:
            failure = error
            continue
        trials += 1
        nll = nll if np.isfinite(nll) else np.inf
        if best is None or nll < best[0]:
            best = nll, fitted, settings
    if best is None:
        raise failure
    _, fitted, fitted.chosen = best
    fitted.trials = trials
    return fitted


def thinned(X, n=VALIDATION_SAMPLES):
    """The first n samples: parts are shuffled already."""
    return X[:n]
