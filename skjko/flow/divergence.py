"""Divergence of a velocity field: exact, or estimated along random probes.

All of them work for any field. Fields with a cheaper closed form override
:meth:`skjko.flow.fields.VelocityField.dynamics` and are tested against :func:`exact`.
Estimates serve training alone: scores are exact always.
"""

# SPDX-License-Identifier: BSD-3-Clause

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.func import jvp, vmap

from skjko.flow import threads

Velocity: TypeAlias = Callable[[Tensor], Tensor]
Estimate: TypeAlias = Callable[[Velocity, Tensor], tuple[Tensor, Tensor]]


def exact(velocity, x):
    """Velocity and exact divergence, by one batched Jacobian-vector product a column.

    Parameters
    ----------
    velocity : callable
        Maps positions of shape (n, d) to velocities of shape (n, d), row by row.
    x : Tensor of shape (n, d)
        Positions.

    Returns
    -------
    velocity : Tensor of shape (n, d)
    divergence : Tensor of shape (n,)
        Sum over j of the derivative of component j with respect to coordinate j.
    """
    d = x.shape[1]
    basis = torch.eye(d, dtype=x.dtype, device=x.device)

    def diagonal_entry(direction):
        value, derivative = jvp(velocity, (x,), (direction.expand_as(x),))
        return value, derivative @ direction

    # The velocity is the same for every direction: out_dims=None keeps one of them.
    with threads.forward_mode():
        value, diagonal = vmap(diagonal_entry, out_dims=(None, 0))(basis)
    return value, diagonal.sum(0)


def rademacher(n_probes, x, generator=None):
    """Random signs of shape (n_probes, n, d): the probes of one solve for x."""
    signs = torch.randint(0, 2, (n_probes, *x.shape), generator=generator)
    return (2 * signs - 1).to(x)


def hutchinson(velocity, x, probes):
    """Velocity, and the mean of e' J e over probes e: unbiased (Hutchinson, 1990).

    Parameters
    ----------
    velocity : callable
        As in :func:`exact`.
    x : Tensor of shape (n, d)
        Positions.
    probes : Tensor of shape (n_probes, n, d)
        Independent draws with mean zero and unit covariance. Keep them fixed within a
        solve, so that what is integrated is one function.

    Returns
    -------
    velocity : Tensor of shape (n, d)
    divergence : Tensor of shape (n,)
    """

    def along(probe):
        value, derivative = jvp(velocity, (x,), (probe,))
        return value, torch.linalg.vecdot(derivative, probe)

    with threads.forward_mode():
        value, estimates = vmap(along, out_dims=(None, 0))(probes)
    return value, estimates.mean(0)


def finite_difference(velocity, x, probes, scale):
    """Hutchinson's estimate with a difference quotient in place of the derivative.

    e' (f(x + s e) - f(x)) / s with s = scale / sqrt(d) (Appendix B.2 of Xu, Cheng, Xie,
    2023): no derivative of the field is taken, at a bias of order s.

    Parameters
    ----------
    velocity, x, probes
        As in :func:`hutchinson`.
    scale : float
        sigma_0, the length of the step in units of the positions.

    Returns
    -------
    velocity : Tensor of shape (n, d)
    divergence : Tensor of shape (n,)
    """
    step = scale / math.sqrt(x.shape[1])
    value = velocity(x)
    estimates = [
        torch.linalg.vecdot(probe, velocity(x + step * probe) - value) / step
        for probe in probes
    ]
    return value, torch.stack(estimates).mean(0)
