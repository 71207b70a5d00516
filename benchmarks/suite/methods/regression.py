"""What flow matching and diffusion share: a field by regression, then a solve."""

# SPDX-License-Identifier: BSD-3-Clause

from time import perf_counter

import torch

from . import solves
from .training import train
from .whitening import tune_network

# Settings are chosen on the NLL of so many validation samples by a loose solve, with so
# many random directions where there are more features.
SOLVED_SAMPLES, TOLERANCE, N_PROBES = 256, 1e-3, 16
# Samples of the validation loss.
LOSS_SAMPLES = 1024
# Evaluations of the field that such a solve takes, about: time set aside for it.
N_EVALUATIONS = 100


def fit(train_samples, val, deadline, n_trials, seed, make, loss, times, batch_size):
    """Fit by `loss(field, samples, generator)`.

    Within a trial the validation loss under fixed noise, which is cheap, stops training
    and selects the weights. Between trials the validation NLL decides.
    """
    d = train_samples.shape[1]
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

    def fit_one(samples, held_out, share, lr):
        torch.manual_seed(seed)
        X, held_out = torch.as_tensor(samples), torch.as_tensor(held_out[:LOSS_SAMPLES])
        x = held_out[:SOLVED_SAMPLES]

        def validate(field):
            return loss(field, held_out, torch.Generator().manual_seed(0))

        generator = torch.Generator().manual_seed(seed)
        field = make(d)
        reserve, now = solve_seconds(field, x), perf_counter()
        # The solve must leave time for training.
        end = max(share - reserve, now + 0.5 * (share - now))
        best, _, n_iter = train(
            field,
            X,
            lambda module, samples: loss(module, samples, generator),
            validate,
            end,
            lr=lr,
            batch_size=batch_size,
            generator=generator,
        )
        nll = -solves.log_prob(best, x, times, TOLERANCE, n_probes).mean().item()
        return nll, solves.ContinuousFlow(best, d, *times, note=f"{n_iter} iterations")

    return tune_network(train_samples, val, deadline, n_trials, fit_one)
