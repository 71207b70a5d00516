"""Blocks of a flow as modules that export, whatever their field is."""

# SPDX-License-Identifier: BSD-3-Clause

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vjp

from skjko.flow import ode
from skjko.flow.blocks import Block
from skjko.flow.divergence import Velocity


class _Solved(nn.Module):
    """A block as a map to positions and log|det|."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        solution = self.block(x)
        return solution.y, solution.log_det


def _exact(velocity: Velocity, x: Tensor) -> tuple[Tensor, Tensor]:
    """Velocity and exact divergence by vector-Jacobian products.

    Forward mode, which scores use, cannot be traced for any number of samples.
    """
    solved: Any = vjp(velocity, x)
    value, pullback = solved
    diagonal = []
    for j in range(x.shape[1]):
        direction = torch.zeros_like(value)
        direction[:, j] = 1.0
        diagonal.append(pullback(direction)[0][:, j])
    return value, torch.stack(diagonal).sum(0)


def translate(block: Block, n_features: int) -> nn.Module:
    """Return a module that maps x to positions and log|det|, and can be exported.

    Parameters
    ----------
    block : Block
        In float64, on the CPU.
    n_features : int
        Of its positions.
    """
    own = getattr(block.field, "dynamics", None)
    if own is not None and getattr(own(None), "has_vjp", False):
        # The divergence has a closed form.
        return _Solved(block)
    # It takes long to import.
    from torch.fx.experimental.proxy_tensor import make_fx

    def solve(x: Tensor) -> tuple[Tensor, Tensor]:
        solution = ode.integrate(block.dynamics(None, _exact), x, block.grid)
        return solution.y, solution.log_det

    # torch.export does not see into derivatives, so that they are operations before.
    # Sizes that are equal in the example are equal in the graph.
    example = torch.zeros(1009 + n_features, n_features, dtype=torch.float64)
    with torch.no_grad():
        trace = make_fx(solve, tracing_mode="symbolic", _allow_non_fake_inputs=True)
        return trace(example)
