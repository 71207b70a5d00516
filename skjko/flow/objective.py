"""The JKO objective (Xu, Cheng, Xie 2023, Proposition 3.1) as pure functions."""

# SPDX-License-Identifier: BSD-3-Clause

import math


def negative_log_likelihood(base, y, log_det):
    """Return -log p in nats of every sample that is mapped to y with log|det|."""
    return -base.log_prob(y) - log_det


def squared_displacement(x, y):
    """Return |y - x|^2 of every sample."""
    return (y - x).square().sum(-1)


def jko(base, x, y, log_det, step_size):
    """Return the JKO objective of moving every sample x to y with step size h.

    The mean over samples is KL(p_k || q) + W2^2 / (2h), up to a constant that does not
    depend on the map.

    Parameters
    ----------
    base : StandardNormal
        The base distribution q, with a `potential`.
    x, y : Tensor of shape (n, d)
        Positions before and after the block.
    log_det : Tensor of shape (n,)
        log|det dy/dx|.
    step_size : float
        h > 0; infinite for no transport cost.

    Returns
    -------
    objective : Tensor of shape (n,)
        In nats.
    """
    value = base.potential(y) - log_det
    if math.isinf(step_size):
        return value
    return value + squared_displacement(x, y) / (2 * step_size)
