"""What flow matching and diffusion share: a field by regression, then a solve."""

# SPDX-License-Identifier: BSD-3-Clause

from time import perf_counter

import torch

from . import solves
from .training import learning_rates, train
from .tuning import thinned, tune

# Settings are chosen on the NLL of so many validation rows by a loose solve, with so
# many random directions where there are more columns.
N_ROWS, TOLERANCE, N_PROBES = 256, 1e-3, 16
# Evaluations of the field that such a solve takes, about: time set aside for it.
N_EVALUATIONS = 100


def fit(train_rows, val, deadline, n_trials, seed, make, loss, times, batch_size):
    """Fit by `loss(field, rows, generator)`, with trials of the learning rate.

    Within a trial the validation loss, under fixed noise, stops training and picks the
    weights: it is the cheap one. Between trials the validation NLL decides.
    """
    X = torch.as_tensor(train_rows)
    d = X.shape[1]
    held_out = torch.as_tensor(thinned(val))
    n_probes = N_PROBES if d > N_PROBES else None

    def validate(field):
        return loss(field, held_out, torch.Generator().manual_seed(0))

    def fit_one(settings, share):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        field = make(d)
        x, start = held_out[:N_ROWS], perf_counter()
        with torch.no_grad():
            axes, factor = solves.directions(x, n_probes)
            t = torch.tensor(0.5)
            solves.velocity_and_divergence(field, t, x, axes, factor)
        reserve = N_EVALUATIONS * (perf_counter() - start)
        # A solve must not take the budget of the training.
        now = perf_counter()
        end = max(share - reserve, now + 0.5 * (share - now))
        best, _, n_iter = train(
            field,
            X,
            lambda module, rows: loss(module, rows, generator),
            validate,
            end,
            batch_size=batch_size,
            generator=generator,
            **settings,
        )
        nll = -solves.log_prob(best, x, times, TOLERANCE, n_probes).mean().item()
        return nll, solves.ContinuousFlow(best, d, *times, note=f"{n_iter} iterations")

    return tune(learning_rates(n_trials), fit_one, deadline)
