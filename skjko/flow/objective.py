"""The JKO objective (Xu, Cheng, Xie 2023, Proposition 3.1) as pure functions."""

# SPDX-License-Identifier: BSD-3-Clause

import math


def potential(y):
    """V(y) = |y|^2 / 2 of the standard normal base, row by row."""
    return 0.5 * y.square().sum(-1)


def negative_log_likelihood(y, log_det):
    """Row-wise -log p in nats, for base positions y of shape (n, d)."""
    return potential(y) + 0.5 * y.shape[-1] * math.log(2 * math.pi) - log_det


def squared_displacement(x, y):
    """|y - x|^2 row by row."""
    return (y - x).square().sum(-1)


def jko(x, y, log_det, step_size):
    """Row-wise JKO objective of moving x to y with step size h.

    The mean over rows is KL(p_k || q) + W2^2 / (2h) up to a constant that does not
    depend on the map. An infinite step size leaves the transport term out.

    Parameters
    ----------
    x, y : Tensor of shape (n, d)
        Positions before and after the block.
    log_det : Tensor of shape (n,)
        log|det dy/dx|.
    step_size : float
        h > 0, possibly infinite.
    """
    value = potential(y) - log_det
    if math.isinf(step_size):
        return value
    return value + squared_displacement(x, y) / (2 * step_size)
