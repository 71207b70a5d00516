"""The methods, all behind one function and two methods.

`fit(train, val, deadline, n_trials, seed)` takes standardised float32 arrays, a time of
`time.perf_counter` (infinite for no limit) by which it should be done, tuning included,
and a number of tuning trials. What it returns has

- `log_prob(X)`: log-densities in nats, float64, by a solve that is accurate;
- `sample(n, seed)`: samples;
- `chosen`, `trials`: the settings with the best validation NLL, and how many were tried
  (set by `tune`);
- optionally `gap(X)`: mean absolute difference to a tighter solve, `trace`: how the
  divergence is computed, `n_blocks`, `start` and `base` of skjko's models, and `note`.
"""

# SPDX-License-Identifier: BSD-3-Clause

from importlib import import_module

METHODS = {
    "gaussian": ("classical", "fit_gaussian"),
    "gmm": ("classical", "fit_mixture"),
    "kde": ("classical", "fit_kernel"),
    "nsf": ("autoregressive", "fit_nsf"),
    "maf": ("autoregressive", "fit_maf"),
    "nsf_tuned": ("autoregressive", "fit_tuned_nsf"),
    "naf": ("autoregressive", "fit_naf"),
    "made_mog": ("autoregressive", "fit_mixtures"),
    "torchflows": ("torchflow", "fit"),
    "vine": ("vine", "fit"),
    "cnf": ("cnf", "fit"),
    "flow_matching": ("matching", "fit"),
    "diffusion": ("diffusion", "fit"),
    "skjko": ("jko", "fit"),
    "skjko_flow": ("jko", "fit_flow"),
    "skjko_mixture": ("jko", "fit_mixture"),
}
# Variants of skjko with a fixed `init`; they run only if asked for.
VARIANTS = ("skjko_flow", "skjko_mixture")


def fitter(name):
    """Return the function `fit` of a method; imports only what that one needs."""
    module, function = METHODS[name]
    return getattr(import_module(f"{__name__}.{module}"), function)
