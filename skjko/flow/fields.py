"""Velocity fields f(t, x, context): the right-hand sides of the flow's blocks.

A field is any `torch.nn.Module` whose `forward(t, x, context=None)` maps a time,
positions of shape (n, d) and, optionally, a context of shape (n, c) to velocities of
shape (n, d), every sample apart from the others. A field with a cheap exact divergence
has a method `dynamics(context)` too, which returns `(t, x) -> (velocity, divergence)`;
where it is None, or missing, there is none.
"""

# SPDX-License-Identifier: BSD-3-Clause

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from skjko.flow import activations, divergence
from skjko.flow.divergence import Estimate
from skjko.flow.dynamics import SinglePrecision, TwoLayers
from skjko.flow.ode import Dynamics

ACTIVATIONS = tuple(activations.BY_NAME)


def has_closed_form(field: nn.Module) -> bool:
    """Return whether a field has a divergence of its own, which is cheap and exact."""
    return getattr(field, "dynamics", None) is not None


def velocity(field: nn.Module, context: Tensor | None = None) -> Dynamics:
    """Return `(t, x) -> (velocity, 0)`: the dynamics of positions alone."""
    return lambda t, x: (field(t, x, context), x.new_zeros(()))


def dynamics(
    field: nn.Module, context: Tensor | None = None, estimate: Estimate | None = None
) -> Dynamics:
    """Return `(t, x) -> (velocity, divergence)` of a field, for one solve.

    Parameters
    ----------
    field : Module
    context : Tensor of shape (n, c) or None
    estimate : callable or None
        `(velocity, x) -> (velocity, divergence)` as in :mod:`skjko.flow.divergence`;
        None for the exact divergence, by the field's own `dynamics` if it has one.
    """
    if estimate is None:
        if has_closed_form(field):
            return cast(Any, field).dynamics(context)
        estimate = divergence.exact

    def evaluate(t: float, x: Tensor) -> tuple[Tensor, Tensor]:
        return estimate(partial(_at, field, t, context), x)

    return evaluate


def scores_in_float32(field: nn.Module) -> bool:
    """Return whether scores of a field may be in float32: see `SinglePrecision`.

    Products with one column, as of one feature, and those of GPUs have an order of
    summation that depends on the batch.
    """
    return (
        type(field) is MLP
        and field.n_hidden == 2
        and has_closed_form(field)
        and len(field.out_bias) > 1
        and field.out_bias.device.type == "cpu"
    )


def score_dynamics(field: nn.Module, context: Tensor | None = None) -> Dynamics:
    """Return the exact dynamics of a field in float64; in float32 where it may be."""
    if not scores_in_float32(field):
        return dynamics(field, context)
    context = None if context is None else context.clamp(-1e18, 1e18)
    return SinglePrecision(dynamics(field, context))


def _at(field: nn.Module, t: float, context: Tensor | None, x: Tensor) -> Tensor:
    return field(t, x, context)


class MLP(nn.Module):
    """Multi-layer perceptron plus an affine map, f = MLP(x, t, context) + A x + b.

    It starts as the zero field, so that a new block starts as the identity map. Without
    hidden layers it is the affine field.

    Parameters
    ----------
    n_features : int
        Dimension d of the positions.
    hidden_layer_sizes : tuple of int
        Widths of the hidden layers.
    activation : {"fourier", "tanh", "silu"}
        Nonlinearity of the hidden layers. "fourier" means random frequencies in the
        first layer (sine and cosine, half of the width each) and tanh in the others.
    frequency : float
        Scale of the first layer's weights at the start. With "fourier" the units'
        frequencies go from 1 to this number.
    time_dependent : bool
        Whether the time enters the first layer.
    n_context : int
        Number of columns of the context; 0 for none.
    residual : bool
        Whether every hidden layer but the first adds to what it is given. All have one
        width then.
    generator : torch.Generator or None
        Source of the starting weights.

    Examples
    --------
    >>> import torch
    >>> from skjko.flow.fields import MLP
    >>> field = MLP(n_features=2, hidden_layer_sizes=(8, 8)).requires_grad_(False)
    >>> field(0.0, torch.ones(3, 2)).abs().max()  # It starts as the zero field.
    tensor(0.)
    """

    def __init__(
        self,
        n_features: int,
        hidden_layer_sizes: Sequence[int] = (128, 128),
        activation: str = "tanh",
        frequency: float = 1.0,
        time_dependent: bool = False,
        n_context: int = 0,
        residual: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_hidden, self.activation = len(hidden_layer_sizes), activation
        self.residual = residual and self.n_hidden > 1
        if self.residual or self.n_hidden > 2:
            # No closed form of the divergence.
            self.dynamics = None  # type: ignore[assignment, method-assign]
        # Float32 whatever torch's default is: one seed, one field.
        options = {"dtype": torch.float32}
        randn = partial(torch.randn, generator=generator, **options)
        zeros = partial(torch.zeros, **options)
        is_fourier = activation == "fourier" and self.n_hidden > 0
        n_inputs = [n_features, *hidden_layer_sizes]
        n_outputs = list(hidden_layer_sizes)
        if is_fourier:
            n_outputs[0] //= 2
        weights, biases = [], []
        for i, (n_in, n_out) in enumerate(zip(n_inputs, n_outputs, strict=False)):
            scale = (frequency if i == 0 else 1.0) / math.sqrt(max(n_in, 1))
            weights.append(scale * randn(n_out, n_in))
            biases.append(zeros(n_out))
        if is_fourier:
            # Frequencies evenly spaced in their logarithm: coarse structure is learned
            # as readily as fine structure.
            lowest = math.log10(min(1.0, frequency) / frequency)
            spaced = torch.logspace(lowest, 0.0, n_outputs[0], dtype=torch.float32)
            weights[0] *= spaced[:, None]
        elif self.n_hidden:
            # Spread the bends of the first layer over samples of unit scale.
            biases[0] += frequency * randn(n_outputs[0])
        n_first = n_outputs[0] if self.n_hidden else n_features
        first = randn if self.n_hidden else zeros
        self.weights = nn.ParameterList(map(nn.Parameter, weights))
        self.biases = nn.ParameterList(map(nn.Parameter, biases))
        self.out_weight = nn.Parameter(zeros(n_features, n_inputs[-1]))
        self.out_bias = nn.Parameter(zeros(n_features))
        self.linear = nn.Parameter(zeros(n_features, n_features))
        self.time_weight = nn.Parameter(first(n_first)) if time_dependent else None
        self.context_weight = (
            nn.Parameter(first(n_first, n_context) / math.sqrt(n_context))
            if n_context
            else None
        )

    def nonlinearity(self, layer: int) -> activations.Activation:
        """Return the activation of a hidden layer.

        Parameters
        ----------
        layer : int
            Its number, from 0.

        Returns
        -------
        activation : class
            Of :mod:`skjko.flow.activations`.
        """
        is_later = self.activation == "fourier" and layer > 0
        return activations.BY_NAME["tanh" if is_later else self.activation]

    def _bias(self, context: Tensor | None) -> Tensor:
        """Bias of the first layer (of the output where there is none) at time zero."""
        bias = self.biases[0] if self.n_hidden else self.out_bias
        if self.context_weight is None:
            return bias
        assert context is not None
        return bias + context @ self.context_weight.T

    def forward(self, t: float, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the velocities at a time and at positions.

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
        bias = self._bias(context)
        if self.time_weight is not None:
            bias = bias + t * self.time_weight
        if not self.n_hidden:
            return torch.addmm(bias, x, self.linear.T)
        a = x
        for layer, weight in enumerate(self.weights):
            z = torch.addmm(bias if layer == 0 else self.biases[layer], a, weight.T)
            value = self.nonlinearity(layer).value(z)
            a = a + value if self.residual and layer else value
        affine = torch.addmm(self.out_bias, x, self.linear.T)
        return torch.addmm(affine, a, self.out_weight.T)

    def dynamics(self, context: Tensor | None = None) -> Dynamics:
        """Return `(t, x) -> (velocity, divergence)` for one solve.

        Up to two hidden layers the divergence has a closed form whose cost does not
        grow with d. With more of them, or residual ones, this is None.

        Parameters
        ----------
        context : Tensor of shape (n, n_context), optional
            What the velocities depend on besides.

        Returns
        -------
        dynamics : callable
            With the exact divergence.
        """
        if self.n_hidden == 2:
            return TwoLayers(self, self._bias(context))
        trace, bias = self.linear.trace(), self._bias(context)
        if self.n_hidden == 0:
            return lambda t, x: (self(t, x, context), trace.expand(len(x)))
        activation = self.nonlinearity(0)
        loop = torch.linalg.vecdot(
            self.weights[0].repeat(self.out_weight.shape[1] // len(self.biases[0]), 1),
            self.out_weight.T,
        )

        def evaluate(t: float, x: Tensor) -> tuple[Tensor, Tensor]:
            first = bias if self.time_weight is None else bias + t * self.time_weight
            z = torch.addmm(first, x, self.weights[0].T)
            value, slope, _ = activation.value_and_slope(z)
            affine = torch.addmm(self.out_bias, x, self.linear.T)
            return torch.addmm(affine, value, self.out_weight.T), slope @ loop + trace

        return evaluate
