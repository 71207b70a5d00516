"""What flow matching and diffusion share: a field by regression, then a solve."""

# SPDX-License-Identifier: BSD-3-Clause

from time import perf_counter

import torch

from . import solves
from .training import train
from .whitening import tune_network

# Settings are chosen on the NLL of so many validation rows by a loose solve, with so
# many random directions where there are more columns.
SOLVED_ROWS, TOLERANCE, N_PROBES = 256, 1e-3, 16
# Rows of the validation loss.
LOSS_ROWS = 1024
# Evaluations of the field that such a solve takes, about: time set aside for it.
N_EVALUATIONS = 100


def fit(train_rows, val, deadline, n_trials, seed, make, loss, times, batch_size):
    """Fit by `loss(field, rows, generator)`.

    Within a trial the validation loss, under fixed noise, stops training and picks the
    weights: it is the cheap one. Between trials the validation NLL decides.
    """
    d = train_rows.shape[1]
    n_probes = N_PROBES if d > N_PROBES else None

    def solve_seconds(field, x):
        axes, factor = solves.directions(x, n_probes)
        # The first evaluation of a process also imports and compiles.
        for _ in range(2):
            start = perf_counter()
            with torch.no_grad():
                t = torch.tensor(0.5)
                solves.velocity_and_divergence(field, t, x, axes, factor)
        return N_EVALUATIONS * (perf_counter() - start)

    def fit_one(rows, held_out, lr, share):
        torch.manual_seed(seed)
        X, held_out = torch.as_tensor(rows), torch.as_tensor(held_out[:LOSS_ROWS])
        x = held_out[:SOLVED_ROWS]

        def validate(field):
            return loss(field, held_out, torch.Generator().manual_seed(0))

        generator = torch.Generator().manual_seed(seed)
        field = make(d)
        reserve, now = solve_seconds(field, x), perf_counter()
        # A solve must not take the budget of the training.
        end = max(share - reserve, now + 0.5 * (share - now))
        best, _, n_iter = train(
            field,
            X,
            lambda module, rows: loss(module, rows, generator),
            validate,
            end,
            lr=lr,
            batch_size=batch_size,
            generator=generator,
        )
        nll = -solves.log_prob(best, x, times, TOLERANCE, n_probes).mean().item()
        return nll, solves.ContinuousFlow(best, d, *times, note=f"{n_iter} iterations")

    return tune_network(train_rows, val, deadline, n_trials, fit_one)
