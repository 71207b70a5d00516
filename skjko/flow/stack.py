"""A flow: blocks one after another, and samples that go through it by chunks."""

# SPDX-License-Identifier: BSD-3-Clause

from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from skjko.flow.blocks import Block

# Samples that go through a field at once: the activations of a usual width stay within
# the processor's cache, and memory does not grow with the number of samples.
CHUNK_SIZE = 1024


def in_chunks(
    function: Callable[..., Iterable[Tensor]], x: Tensor, context: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Apply `function(x, context)` to chunks of samples; join its tuple of results."""
    results = []
    for start in range(0, max(len(x), 1), CHUNK_SIZE):
        rows = slice(start, start + CHUNK_SIZE)
        results.append(function(x[rows], None if context is None else context[rows]))
    return tuple(torch.cat(parts) for parts in zip(*results, strict=True))


class Flow(nn.Module):
    """Blocks one after another, from samples of about unit scale towards the base.

    Parameters
    ----------
    blocks : iterable of Block
        None at all is the identity map.

    Examples
    --------
    >>> import torch
    >>> from skjko import MLPField
    >>> from skjko.flow.blocks import Block
    >>> from skjko.flow.stack import Flow
    >>> field = MLPField((8, 8), "tanh", frequency=1.0).build(n_features=2)
    >>> flow = Flow([Block(field, radius=10.0, step_size=h) for h in (0.5, 1.0)])
    >>> z, log_det = flow.requires_grad_(False)(torch.ones(3, 2))
    >>> log_det
    tensor([0., 0., 0.])
    """

    def __init__(self, blocks: Iterable[Block] = ()) -> None:
        super().__init__()
        self.blocks = cast(Sequence[Block], nn.ModuleList(blocks))

    def __len__(self) -> int:
        return len(self.blocks)

    def forward(
        self, x: Tensor, context: Tensor | None = None, fast: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Map positions through all blocks, with log|det|.

        Parameters
        ----------
        x : Tensor of shape (n, d)
            Positions in front of the blocks.
        context : Tensor of shape (n, n_context), optional
            What the field depends on besides.
        fast : bool, default=False
            As in :meth:`Block.forward`.

        Returns
        -------
        z : Tensor of shape (n, d)
            Positions behind the blocks.
        log_det : Tensor of shape (n,)
            The logarithm of |det dz/dx|, in nats.
        """
        log_det = x.new_zeros(len(x))
        for block in self.blocks:
            solution = block(x, context, fast)
            x, log_det = solution.y, log_det + solution.log_det
        return x, log_det

    def push(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map positions through all blocks.

        Parameters
        ----------
        x : Tensor of shape (n, d)
            Positions in front of the blocks.
        context : Tensor of shape (n, n_context), optional
            What the field depends on besides.

        Returns
        -------
        z : Tensor of shape (n, d)
            Positions behind the blocks.
        """
        for block in self.blocks:
            x = block.push(x, context)
        return x

    def trajectory(
        self, x: Tensor, context: Tensor | None = None, n_between: int = 0
    ) -> list[Tensor]:
        """Return positions before the first and after every block, and inside.

        Parameters
        ----------
        x : Tensor of shape (n, d)
            Positions in front of the blocks.
        context : Tensor of shape (n, n_context), optional
            What the field depends on besides.
        n_between : int, default=0
            Number of positions within a block.

        Returns
        -------
        positions : list of Tensor of shape (n, d)
            The first is x; then there are `n_between + 1` for every block.
        """
        positions = [x]
        for block in self.blocks:
            positions += block.trajectory(positions[-1], context, n_between)
        return positions

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Map positions back through all blocks: the exact inverse of `push`.

        Parameters
        ----------
        z : Tensor of shape (n, d)
            Positions behind the blocks.
        context : Tensor of shape (n, n_context), optional
            What the field depends on besides.

        Returns
        -------
        x : Tensor of shape (n, d)
            Positions in front of the blocks.
        """
        for block in reversed(self.blocks):
            z = block.inverse(z, context)
        return z

    def generate(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Do as `inverse` up to the solver's error, ten times faster.

        Parameters
        ----------
        z : Tensor of shape (n, d)
            Positions behind the blocks.
        context : Tensor of shape (n, n_context), optional
            What the field depends on besides.

        Returns
        -------
        x : Tensor of shape (n, d)
            Positions in front of the blocks.
        """
        for block in reversed(self.blocks):
            z = block.generate(z, context)
        return z
