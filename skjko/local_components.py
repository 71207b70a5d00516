"""Velocity fields for images and graphs, and how fields of a file are built."""

# SPDX-License-Identifier: BSD-3-Clause

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval

from skjko.components import MLPField, VelocityField
from skjko.flow.local_fields import Chebyshev, LocalField, Windows


class ConvField(VelocityField):
    """Convolutional velocity field, for samples that are images.

    Both hidden layers have the same weights at every pixel. The first one sees a window
    around the pixel, the last one moves a window around it. Images are zero outside.
    The divergence has a closed form.

    Parameters
    ----------
    image_shape : tuple of int
        (height, width), or (height, width, n_channels): samples are
        `images.reshape(len(images), -1)`.

    hidden_channels : int, default=32
        Width of both hidden layers, for every pixel.

    kernel_size : int, default=5
        Odd side length of a window, in pixels.

    Notes
    -----
    All columns take part: constant ones have to be dropped from the images, or get
    noise. A condition, of `JKOFlowConditionalDensity`, acts on all pixels alike, but
    for the location and the scale of each.

    Examples
    --------
    >>> from skjko import ConvField
    >>> field = ConvField(image_shape=(8, 8), hidden_channels=16)
    >>> sum(weight.numel() for weight in field.build(n_features=64).parameters())
    1114
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        "image_shape": ["array-like"],
        "hidden_channels": [Interval(Integral, 1, None, closed="left")],
        "kernel_size": [Interval(Integral, 1, None, closed="left")],
    }
    whitening = "zca"

    def __init__(
        self,
        image_shape: Sequence[int],
        hidden_channels: int = 32,
        kernel_size: int = 5,
    ) -> None:
        self.image_shape = image_shape
        self.hidden_channels = hidden_channels
        self.kernel_size = kernel_size

    def check(self) -> None:
        """Raise an error if a parameter is invalid."""
        super().check()
        height, width, _ = self._shape()
        largest = max(3, min(height, width) + 1)
        if self.kernel_size % 2 == 0 or self.kernel_size > largest:
            raise ValueError(
                "The 'kernel_size' parameter of ConvField must be odd, and at most "
                f"{largest} for {height} x {width} pixels. Got {self.kernel_size!r} "
                "instead."
            )

    def _shape(self) -> tuple[int, int, int]:
        shape = tuple(self.image_shape)
        good = all(isinstance(n, Integral) and int(n) > 0 for n in shape)
        if not good or len(shape) not in (2, 3):
            raise ValueError(
                "The 'image_shape' parameter of ConvField must be two or three "
                "positive ints: height, width, and perhaps the number of channels. "
                f"Got {self.image_shape!r} instead."
            )
        height, width, channels = (*map(int, shape), 1)[:3]
        return height, width, channels

    def build(
        self,
        n_features: int,
        generator: torch.Generator | None = None,
        n_context: int = 0,
    ) -> LocalField:
        """Return a new :class:`skjko.flow.local_fields.LocalField`."""
        height, width, n_channels = self._shape()
        if n_features != height * width * n_channels:
            raise ValueError(
                f"ConvField with image_shape={tuple(self.image_shape)!r} is for "
                f"{height * width * n_channels} features, not {n_features}. {_VARY}"
            )
        return LocalField(
            Windows(height, width, int(self.kernel_size)),
            n_channels,
            int(self.hidden_channels),
            _of_places((n_channels, n_channels), n_features, n_context),
            n_context,
            generator=generator,
        )


class GraphField(VelocityField):
    """Velocity field on the nodes of a graph, by filters of its normalized Laplacian.

    Both hidden layers have the same weights at every node. The first one sees the nodes
    within `order` edges, by Chebyshev polynomials [1]_, the last one moves those. With
    the nodes in another order, of columns and of `adjacency`, it is the same field. The
    divergence has a closed form.

    Parameters
    ----------
    adjacency : array-like of shape (n_nodes, n_nodes)
        Symmetric, non-negative weights of the edges; zero for none.

    hidden_channels : int, default=32
        Width of both hidden layers, for every node.

    order : int, default=2
        Degree of the polynomials, at most 10.

    n_node_conditions : int, default=0
        Number of features of every node at the front of the X of
        `JKOFlowConditionalDensity`, such as 1 for earlier values of all nodes. Other
        columns of X are the same for all nodes.

    Notes
    -----
    The columns of a sample go node by node: all features of the first node, then those
    of the second. All of them take part: constant ones have to be dropped, or get
    noise.

    References
    ----------
    .. [1] M. Defferrard, X. Bresson, P. Vandergheynst, "Convolutional neural networks
       on graphs with fast localized spectral filtering", NeurIPS 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from skjko import GraphField
    >>> ring = np.roll(np.eye(6), 1, axis=0) + np.roll(np.eye(6), -1, axis=0)
    >>> field = GraphField(ring, hidden_channels=16)
    >>> field.build(n_features=12).n_channels
    2
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        "adjacency": ["array-like"],
        "hidden_channels": [Interval(Integral, 1, None, closed="left")],
        "order": [Interval(Integral, 0, 10, closed="both")],
        "n_node_conditions": [Interval(Integral, 0, None, closed="left")],
    }
    whitening = "zca"

    def __init__(
        self,
        adjacency: ArrayLike,
        hidden_channels: int = 32,
        order: int = 2,
        n_node_conditions: int = 0,
    ) -> None:
        self.adjacency = adjacency
        self.hidden_channels = hidden_channels
        self.order = order
        self.n_node_conditions = n_node_conditions

    def check(self) -> None:
        """Raise an error if a parameter is invalid."""
        super().check()
        self._edges()

    def _edges(self) -> NDArray[np.float64]:
        what = "The 'adjacency' parameter of GraphField must be"
        try:
            edges = np.asarray(self.adjacency, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{what} an array of numbers ({error}).") from error
        if edges.ndim != 2 or edges.shape[0] != edges.shape[1] or not len(edges):
            raise ValueError(
                f"{what} a square array. Got one of shape {edges.shape} instead."
            )
        if not np.isfinite(edges).all() or edges.min() < 0:
            raise ValueError(f"{what} finite and non-negative.")
        if np.abs(edges - edges.T).max() > 1e-6 * edges.max():
            raise ValueError(
                f"{what} symmetric. That of a directed graph A can be made so: A + A.T."
            )
        return (edges + edges.T) / 2

    def build(
        self,
        n_features: int,
        generator: torch.Generator | None = None,
        n_context: int = 0,
    ) -> LocalField:
        """Return a new :class:`skjko.flow.local_fields.LocalField`."""
        edges = self._edges()
        n_nodes, n_own = len(edges), int(self.n_node_conditions)
        n_channels, rest = divmod(n_features, n_nodes)
        if rest or not n_channels:
            raise ValueError(
                f"GraphField with an adjacency of {n_nodes} nodes is for {n_nodes} "
                f"features, or a multiple of that, not {n_features}. {_VARY}"
            )
        if n_context and n_own and 2 * n_features + n_own * n_nodes > n_context:
            raise ValueError(
                f"GraphField with n_node_conditions={n_own} takes the first "
                f"{n_own * n_nodes} columns of X as features of the {n_nodes} nodes, "
                f"but X has {n_context - 2 * n_features} that are not constant."
            )
        return LocalField(
            Chebyshev(edges, int(self.order)),
            n_channels,
            int(self.hidden_channels),
            _of_places((n_channels, n_channels, n_own), n_features, n_context),
            n_context,
            generator=generator,
        )


def _of_places(
    channels: tuple[int, ...], n_features: int, n_context: int
) -> tuple[int, ...]:
    """Channels of the context that belong to places: of a classifier it has none.

    That of a conditional density begins with the location and the scale of every
    feature, that of a classifier has a column for every class only.
    """
    return channels if n_context >= 2 * n_features else ()


_VARY = (
    "Constant features, and directions in which others do not vary, do not count: drop "
    "them, or add noise."
)
OWN_FIELDS = (MLPField, ConvField, GraphField)
"""Fields of the library, whose buffers follow from their parameters."""


def build_on_meta(
    field: VelocityField, n_features: int, n_context: int = 0
) -> torch.nn.Module:
    """Return a field without memory for its weights, of any size that is asked for.

    Of a user's own, which may hold more than its state does, it is built in memory.
    """
    context = {"n_context": n_context} if n_context else {}
    build: Any = field.build
    if not isinstance(field, OWN_FIELDS):
        return build(n_features, **context)
    try:
        with torch.device("meta"):
            return build(n_features, **context)
    except RuntimeError as error:
        raise ValueError(f"no field of {field!r} can be built ({error})") from error
