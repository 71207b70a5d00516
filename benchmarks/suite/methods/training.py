"""The training loop of all rivals with networks."""

# SPDX-License-Identifier: BSD-3-Clause

import copy
import math
from time import perf_counter

import torch

# Without a deadline; early stopping usually ends training before.
MAX_ITER = 30_000
# When validation has not improved for so many checks, training goes back to the best
# weights and on at a fifth of the learning rate; it stops after so many times.
PATIENCE, N_DROPS = 8, 3


def train(
    module,
    X,
    loss,
    validate,
    deadline,
    *,
    lr,
    batch_size,
    generator,
    max_iter=MAX_ITER,
    averaging=0.99,
):
    """Train by Adam and return the best weights.

    The learning rate falls along a cosine to zero at the deadline, for any budget. The
    running average of the weights is validated and kept. Validation takes a fifth of
    the time at most.

    Parameters
    ----------
    module : torch.nn.Module
        Trained in place.
    X : Tensor of shape (n, d)
        Training samples.
    loss : callable
        `(module, batch) -> scalar`.
    validate : callable
        `(module) -> float`, lower is better.
    deadline : float
        Time of `perf_counter` to be done by, validation included.

    Returns
    -------
    best : torch.nn.Module
    value : float
        Its validation.
    n_iter : int
        Iterations run.
    """
    start = perf_counter()
    average = copy.deepcopy(module).requires_grad_(False)
    optimizer = torch.optim.Adam(module.parameters(), lr=lr)
    best, value, waited, drops = copy.deepcopy(average), math.inf, 0, 0
    seconds, n_since, last, batches = 0.0, 0, start, iter(())

    def check():
        nonlocal best, value, waited, drops, seconds, n_since, last
        begin = perf_counter()
        with torch.no_grad():
            now = float(validate(average))
        waited += 1
        if now < value:
            best, value, waited = copy.deepcopy(average), now, 0
        elif waited == PATIENCE:
            waited, drops = 0, drops + 1
            module.load_state_dict(best.state_dict())
            average.load_state_dict(best.state_dict())
        last = perf_counter()
        seconds, n_since = last - begin, 0

    n_iter = 0
    while n_iter < max_iter and drops < N_DROPS:
        now = perf_counter()
        if now + seconds >= deadline and n_iter > 0:
            break
        batch = next(batches, None)
        if batch is None:
            n, size = len(X), min(batch_size, len(X))
            order = torch.randperm(n, generator=generator)
            batches = iter(order[: n - n % size].split(size))
            batch = next(batches)
        # Infinite deadlines give 0.
        progress = max(n_iter / max_iter, (now - start) / max(deadline - start, 1e-9))
        fall = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        rate = lr * fall * 0.2**drops * min(1.0, (n_iter + 1) / 20)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss(module, X[batch]).backward()
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 5.0)
        if torch.isfinite(norm):
            optimizer.step()
        n_iter += 1
        n_since += 1
        keep = min(averaging, (n_iter + 1) / (n_iter + 10))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(average.parameters()),
                [p.detach() for p in module.parameters()],
                1 - keep,
            )
        since = perf_counter() - last
        # Often at first: on small tables the best weights come early.
        if math.isfinite(deadline):
            is_time = since >= (deadline - start) / 25
            due = is_time or n_since >= max(50, n_iter // 10)
        else:
            due = n_since >= min(max(10, n_iter // 10), 200)
        if due and since >= 4 * seconds:
            check()
    if n_since or not math.isfinite(value):
        check()
    return best, value, n_iter
