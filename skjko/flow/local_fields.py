"""Velocity fields on images and graphs, with the same weights at every place.

A place is a pixel or a node, and has channels: its columns of a sample. A fixed matrix
B_r for every tap r, between places, says what a place sees of its neighbourhood; what
it moves there is by the transposes.
"""

# SPDX-License-Identifier: BSD-3-Clause

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from skjko.flow.activations import SiLU
from skjko.flow.ode import Dynamics


class Windows(nn.Module):
    """Square windows around the pixels of an image; outside of it there are zeros.

    Parameters
    ----------
    height, width : int
        Of the image.
    kernel_size : int
        Odd side length of a window.
    """

    def __init__(self, height: int, width: int, kernel_size: int) -> None:
        super().__init__()
        self.n_places, self.n_taps = height * width, kernel_size**2
        self.shape, self.kernel_size = (height, width), kernel_size
        reach = kernel_size // 2
        places = np.indices(self.shape).reshape(2, -1, 1)
        taps = np.indices((kernel_size, kernel_size)).reshape(2, 1, -1) - reach
        size = np.reshape(self.shape, (2, 1, 1))
        seen = places + taps
        inside = np.all((seen >= 0) & (seen < size), axis=0)
        # On the CPU, wherever weights are made: not in files, but computed anew.
        self.inside: Tensor
        self.register_buffer("inside", _tensor(inside), persistent=False)

    def see(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return (n, places, units): what units at every place see around it.

        Parameters
        ----------
        x : Tensor of shape (n, places, channels)
        weight : Tensor of shape (units, channels * taps)
        """
        kernel = weight.view(len(weight), -1, self.kernel_size, self.kernel_size)
        reach = self.kernel_size // 2
        return _pixels(functional.conv2d(self._image(x), kernel, padding=reach))

    def move(self, units: Tensor, weight: Tensor) -> Tensor:
        """Return (n, places, channels): what units at every place do around it.

        Parameters
        ----------
        units : Tensor of shape (n, places, units)
        weight : Tensor of shape (channels * taps, units)
        """
        kernel = weight.T.reshape(units.shape[2], -1, *2 * (self.kernel_size,))
        reach = self.kernel_size // 2
        return _pixels(
            functional.conv_transpose2d(self._image(units), kernel, padding=reach)
        )

    def _image(self, x: Tensor) -> Tensor:
        return x.mT.unflatten(2, self.shape)

    def loops(self, first: Tensor, last: Tensor) -> Tensor:
        """Return how the units of every place depend on themselves.

        Parameters
        ----------
        first : Tensor of shape (units, channels, taps)
        last : Tensor of shape (channels, taps, units)

        Returns
        -------
        loops : Tensor of shape (places, units, units)
            By unit of the second layer, and of the first.
        """
        by_tap = torch.einsum("jcr,crk->rkj", first, last)
        return torch.einsum("pr,rkj->pkj", self.inside, by_tap)

    def traces(self) -> Tensor:
        """Return the trace of every tap's matrix."""
        middle = torch.arange(self.n_taps, device=self.inside.device)
        return (middle == self.n_taps // 2).to(self.inside) * self.n_places


class Chebyshev(nn.Module):
    """Chebyshev polynomials of a graph's normalized Laplacian.

    Defferrard, Bresson, Vandergheynst (2016).

    Parameters
    ----------
    adjacency : ndarray of shape (n_nodes, n_nodes)
        Symmetric, non-negative weights of the edges.
    order : int
        Largest degree: a node sees those within so many edges.
    """

    def __init__(self, adjacency: NDArray[np.float64], order: int) -> None:
        super().__init__()
        self.n_places, self.n_taps = len(adjacency), order + 1
        degree = adjacency.sum(axis=1)
        root = np.sqrt(np.divide(1.0, degree, where=degree > 0, out=0.0 * degree))
        # The Laplacian less one: its eigenvalues are from -1 to 1.
        scaled = -root[:, np.newaxis] * adjacency * root
        terms = [np.eye(self.n_places), scaled]
        while len(terms) < self.n_taps:
            terms.append(2 * scaled @ terms[-1] - terms[-2])
        filters = np.stack(terms[: self.n_taps])
        self.filters: Tensor
        self.register_buffer("filters", _tensor(filters), persistent=False)

    def see(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return (n, places, units): what units at every place see around it."""
        seen = torch.einsum("rpq,nqc->npcr", self.filters, x).flatten(2)
        return seen @ weight.T

    def move(self, units: Tensor, weight: Tensor) -> Tensor:
        """Return (n, places, channels): what units at every place do around it."""
        moves = (units @ weight.T).unflatten(2, (-1, self.n_taps))
        return torch.einsum("rpq,npcr->nqc", self.filters, moves)

    def loops(self, first: Tensor, last: Tensor) -> Tensor:
        """Return how the units of every place depend on themselves; see `Windows`."""
        by_taps = torch.einsum("jcr,csk->rskj", first, last)
        overlap = torch.einsum("rpq,spq->prs", self.filters, self.filters)
        return torch.einsum("prs,rskj->pkj", overlap, by_taps)

    def traces(self) -> Tensor:
        """Return the trace of every tap's matrix."""
        return self.filters.diagonal(dim1=1, dim2=2).sum(1)


def _pixels(image: Tensor) -> Tensor:
    return image.flatten(2).mT


def _tensor(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


class LocalField(nn.Module):
    """Velocity of a place by its neighbourhood, with the same weights at every place.

    f = B'(V a2 + A x) + b3, a2 = s(W a1 + b2), a1 = s(U B x + b1), where B collects
    what places see, by all taps; W acts at every place by itself. It starts as the zero
    field. The divergence has a closed form that costs about as much as the second
    layer: the trace of B'A, and the sum over places p of

        s'(z2)' [W * loops_p] s'(z1).

    Parameters
    ----------
    neighbours : Windows or Chebyshev
        What places see, and move, around them.
    n_channels : int
        Columns of a sample for every place. All those of one place are side by side.
    width : int
        Units of each of both hidden layers, for every place.
    place_context : tuple of int
        Channels of the context's first columns: blocks of so many columns for every
        place, side by side, one block after another.
    n_context : int
        Number of columns of the context. Those behind the blocks act on all places.
    generator : torch.Generator or None
        Source of the starting weights.

    Examples
    --------
    >>> import torch
    >>> from skjko.flow.local_fields import LocalField, Windows
    >>> field = LocalField(Windows(4, 4, 3), 1, width=8).requires_grad_(False)
    >>> field(0.0, torch.ones(5, 16)).abs().max()  # It starts as the zero field.
    tensor(0.)
    """

    def __init__(
        self,
        neighbours: Windows | Chebyshev,
        n_channels: int,
        width: int,
        place_context: tuple[int, ...] = (),
        n_context: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.neighbours, self.n_channels = neighbours, n_channels
        self.place_context = place_context
        n_taps, n_local = neighbours.n_taps, n_channels + sum(place_context)
        n_global = n_context - sum(place_context) * neighbours.n_places
        options = {"dtype": torch.float32}
        randn = partial(torch.randn, generator=generator, **options)
        zeros = partial(torch.zeros, **options)
        # About as much of the sample and of what is known of the place besides.
        scale = 1 / math.sqrt(n_local * n_taps)
        self.first_weight = nn.Parameter(scale * randn(width, n_local * n_taps))
        self.first_bias = nn.Parameter(randn(width))
        self.hidden_weight = nn.Parameter(randn(width, width) / math.sqrt(width))
        self.hidden_bias = nn.Parameter(zeros(width))
        self.out_weight = nn.Parameter(zeros(n_channels * n_taps, width))
        self.out_bias = nn.Parameter(zeros(n_channels))
        self.linear = nn.Parameter(zeros(n_channels * n_taps, n_channels))
        self.context_weight = (
            nn.Parameter(randn(width, n_global) / math.sqrt(n_global))
            if n_global
            else None
        )

    @property
    def _n_own(self) -> int:
        """Columns of the first weight that are of the sample."""
        return self.n_channels * self.neighbours.n_taps

    def _bias(self, context: Tensor | None) -> Tensor:
        """Bias of the first layer: of the units, or of samples and places as well."""
        bias, n_places = self.first_bias, self.neighbours.n_places
        if context is None:
            return bias
        blocks, end = [], 0
        for channels in self.place_context:
            start, end = end, end + channels * n_places
            blocks.append(context[:, start:end].unflatten(1, (n_places, channels)))
        if blocks:
            weight = self.first_weight[:, self._n_own :]
            bias = bias + self.neighbours.see(torch.cat(blocks, dim=2), weight)
        if self.context_weight is not None:
            bias = bias + (context[:, end:] @ self.context_weight.T)[:, None]
        return bias

    def _places(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.neighbours.n_places, self.n_channels))

    def _first(self, places: Tensor, bias: Tensor) -> Tensor:
        weight = self.first_weight[:, : self._n_own]
        return self.neighbours.see(places, weight) + bias

    def _out(self, second: Tensor, places: Tensor) -> Tensor:
        moved = self.neighbours.move(second, self.out_weight)
        moved = moved + self.neighbours.move(places, self.linear)
        return (moved + self.out_bias).flatten(1)

    def forward(self, t: float, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the velocities at positions, the same at all times.

        Parameters
        ----------
        t : float
            From 0 to 1.
        x : Tensor of shape (n, d)
            Positions.
        context : Tensor of shape (n, n_context), optional
            What the velocities depend on besides.

        Returns
        -------
        velocity : Tensor of shape (n, d)
            One for every position.
        """
        places = self._places(x)
        first = SiLU.value(self._first(places, self._bias(context)))
        hidden = first @ self.hidden_weight.T + self.hidden_bias
        return self._out(SiLU.value(hidden), places)

    def dynamics(self, context: Tensor | None = None) -> Dynamics:
        """Return `(t, x) -> (velocity, divergence)` for one solve.

        Parameters
        ----------
        context : Tensor of shape (n, n_context), optional
            What the velocities depend on besides.

        Returns
        -------
        dynamics : callable
            With the exact divergence.
        """
        bias, (c, r) = self._bias(context), (self.n_channels, self.neighbours.n_taps)
        loops = self.neighbours.loops(
            self.first_weight[:, : self._n_own].unflatten(1, (c, r)),
            self.out_weight.unflatten(0, (c, r)),
        )
        mixing = (self.hidden_weight * loops).mT
        own = self.linear.unflatten(0, (c, r)).diagonal(dim1=0, dim2=2).sum(1)
        trace = own @ self.neighbours.traces()

        def evaluate(t: float, x: Tensor) -> tuple[Tensor, Tensor]:
            places = self._places(x)
            first, slope, _ = SiLU.value_and_slope(self._first(places, bias))
            hidden = first @ self.hidden_weight.T + self.hidden_bias
            second, second_slope, _ = SiLU.value_and_slope(hidden)
            mixed = (slope.transpose(0, 1) @ mixing).transpose(0, 1)
            total = (mixed * second_slope).sum((1, 2))
            return self._out(second, places), total + trace

        return evaluate
