"""Divergence of a velocity field by automatic differentiation.

Works for any field. Fields with a cheaper closed form override
:meth:`skjko.flow.fields.VelocityField.dynamics` and are tested against this.
"""

# SPDX-License-Identifier: BSD-3-Clause

import torch
from torch.func import jvp, vmap


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
    value, diagonal = vmap(diagonal_entry, out_dims=(None, 0))(basis)
    return value, diagonal.sum(0)
