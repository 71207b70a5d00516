"""Velocity fields f(t, x, context): the right-hand sides of the flow's blocks.

A field maps a time, positions of shape (n, d) and, optionally, a condition of shape
(n, c) to velocities of shape (n, d). What the integrator needs is `dynamics`: velocity
and divergence together, with everything that does not change within one solve (the
condition, products of weights) worked out once.
"""

# SPDX-License-Identifier: BSD-3-Clause

import copy
import math
from functools import partial

import torch
from torch import nn

from skjko.flow import activations, divergence
from skjko.flow.dynamics import ConfinedDynamics, Slowed, TwoLayers, envelope

ACTIVATIONS = tuple(activations.BY_NAME)


class VelocityField(nn.Module):
    """Base class of velocity fields; a new field needs only `forward`.

    `forward(t, x, context=None)` must treat every row apart from the others, or the
    divergence and the log-density lose their meaning.
    """

    stacks = False
    """Whether `dynamics` works for a stack of fields, too: see :func:`stack`."""

    def velocity(self, context=None):
        """Return `(t, x) -> (velocity, 0)`: the dynamics of positions alone."""
        return lambda t, x: (self(t, x, context), 0.0)

    def dynamics(self, context=None):
        """Return `(t, x) -> (velocity, divergence)` for one solve."""
        return self.dynamics_with(divergence.exact, context)

    def dynamics_with(self, estimate, context=None):
        """Return the dynamics whose divergence is `estimate(velocity, x)`'s."""
        return lambda t, x: estimate(partial(self._at, t, context), x)

    def _at(self, t, context, x):
        return self(t, x, context)

    def halves(self):
        """Return the fields that, one after the other, have the flow of this one."""
        return Part(self, 0.0, 0.5), Part(self, 0.5, 0.5)


def stack(fields):
    """Fields of the same form as one, whose parameters have a dimension in front.

    Its dynamics move rows of shape (n_fields, n, d), those of every field by that field
    alone. Only `dynamics` works, and only where the fields say that they stack.
    """
    stacked = copy.deepcopy(fields[0])
    of_fields = (field.parameters() for field in fields)
    for parameter, *parts in zip(stacked.parameters(), *of_fields, strict=True):
        parameter.data = torch.stack([part.detach() for part in parts])
    return stacked


def unstack(stacked, n_fields):
    """Return copies of the fields of a stack."""
    fields = [copy.deepcopy(stacked) for _ in range(n_fields)]
    for i, field in enumerate(fields):
        for parameter in field.parameters():
            parameter.data = parameter.detach()[i].clone()
    return fields


class MLPField(VelocityField):
    """Multi-layer perceptron plus an affine map, f = MLP(x, t, context) + A x + b.

    Starts as the zero field, so that a new block starts as the identity map. With no
    hidden layers it is the affine field.

    Parameters
    ----------
    n_features : int
        Dimension d of the positions.
    hidden_layer_sizes : tuple of int
        Widths of the hidden layers.
    activation : {"fourier", "tanh", "silu"}
        Nonlinearity of the hidden layers. "fourier" means random frequencies in the
        first layer (sine and cosine of half the width each, so that width must be
        even) and tanh in those after it.
    frequency : float
        Scale of the first layer's weights at the start: a unit sees the projection of
        x on a random direction, times a number of this size. With "fourier", the
        units' numbers go from 1 to this one. High frequencies resolve fine structure;
        they need more rows in higher dimension.
    time_dependent : bool
        Whether the time enters the first layer.
    n_context : int
        Number of columns of the condition; 0 for none.
    generator : torch.Generator or None
        Source of the starting weights.
    """

    def __init__(
        self,
        n_features,
        hidden_layer_sizes=(128, 128),
        activation="tanh",
        frequency=1.0,
        time_dependent=False,
        n_context=0,
        generator=None,
    ):
        super().__init__()
        self.n_features = n_features
        self.hidden_layer_sizes = tuple(hidden_layer_sizes)
        self.activation = activation
        self.time_dependent = time_dependent
        self.n_context = n_context
        # Float32 whatever torch's default is: the same seed means the same weights.
        randn = partial(torch.randn, generator=generator, dtype=torch.float32)
        zeros = partial(torch.zeros, dtype=torch.float32)

        widths = list(self.hidden_layer_sizes)
        inputs = [n_features, *widths]
        outputs = list(widths)
        if widths and activation == "fourier":
            outputs[0] //= 2
        scales = [
            (frequency if i == 0 else 1.0) / math.sqrt(max(fan_in, 1))
            for i, fan_in in enumerate(inputs[:-1])
        ]
        self.weights = nn.ParameterList(
            nn.Parameter(scale * randn(n_out, n_in))
            for n_in, n_out, scale in zip(inputs[:-1], outputs, scales, strict=True)
        )
        self.biases = nn.ParameterList(nn.Parameter(zeros(n)) for n in outputs)
        if widths and activation == "fourier":
            # All frequencies up to the highest, evenly in their logarithm: coarse
            # structure is learned as readily as fine structure.
            lowest, highest = min(1.0, frequency), frequency
            spread = torch.logspace(
                math.log10(lowest / highest), 0.0, outputs[0], dtype=torch.float32
            )
            with torch.no_grad():
                self.weights[0].mul_(spread[:, None])
        elif widths:
            # Spread the kinks of the first layer over the data, which have unit scale.
            with torch.no_grad():
                self.biases[0].copy_(frequency * randn(outputs[0]))
        self.out_weight = nn.Parameter(zeros(n_features, inputs[-1]))
        self.out_bias = nn.Parameter(zeros(n_features))
        self.linear = nn.Parameter(zeros(n_features, n_features))
        first = outputs[0] if outputs else n_features
        self.time_weight = (
            nn.Parameter(randn(first) if outputs else zeros(first))
            if time_dependent
            else None
        )
        self.context_weight = (
            nn.Parameter(
                randn(first, n_context) / math.sqrt(n_context)
                if outputs
                else zeros(first, n_context)
            )
            if n_context
            else None
        )

    @property
    def stacks(self):
        """Whether `dynamics` works for a stack of fields, too."""
        return len(self.hidden_layer_sizes) == 2 and self.n_context == 0

    def _bias(self, context):
        """Bias of the first layer (of the output when there is none) at time zero."""
        bias = self.biases[0] if self.hidden_layer_sizes else self.out_bias
        if self.context_weight is None:
            return bias
        return bias + context @ self.context_weight.T

    def _hidden(self, x, bias, layer):
        z = torch.addmm(bias, x, self.weights[layer].T)
        return self.nonlinearity(layer).value(z)

    def nonlinearity(self, layer):
        """Return the activation of a hidden layer."""
        kind = self.activation
        if kind == "fourier" and layer > 0:
            kind = "tanh"
        return activations.BY_NAME[kind]

    def forward(self, t, x, context=None):
        """Velocities of shape (n, d) at time t and positions x of shape (n, d)."""
        shift = self._bias(context)
        if self.time_weight is not None:
            shift = shift + t * self.time_weight
        n_hidden = len(self.hidden_layer_sizes)
        if n_hidden == 0:
            return torch.addmm(shift, x, self.linear.T)
        a = x
        for layer in range(n_hidden):
            a = self._hidden(a, shift if layer == 0 else self.biases[layer], layer)
        return torch.addmm(
            torch.addmm(self.out_bias, a, self.out_weight.T), x, self.linear.T
        )

    def dynamics(self, context=None):
        """Return `(t, x) -> (velocity, divergence)` for one solve.

        Two hidden layers have a closed form whose cost does not grow with d: with
        slopes s1, s2 of the hidden units,
        div f = s2' [W2 * (W1 W3)'] s1 + tr A.
        """
        if not self.hidden_layer_sizes:
            trace = self.linear.trace()
            return lambda t, x: (self(t, x, context), trace.expand(len(x)))
        if len(self.hidden_layer_sizes) != 2:
            return super().dynamics(context)
        return TwoLayers(self, self._bias(context))


class Part(VelocityField):
    """A field over a part of its unit of time, on a unit of time of its own.

    f(t, x) becomes length f(start + length t, x). The parts of a field share nothing:
    each has weights of its own.
    """

    def __init__(self, field, start, length):
        super().__init__()
        self.field = copy.deepcopy(field)
        self.start, self.length = start, length

    def forward(self, t, x, context=None):
        """Velocities of shape (n, d) at time t and positions x of shape (n, d)."""
        return self.length * self.field(self.start + self.length * t, x, context)

    def dynamics(self, context=None):
        """Return `(t, x) -> (velocity, divergence)` for one solve."""
        return Slowed(self.field.dynamics(context), self.start, self.length)

    @property
    def stacks(self):
        """Whether the field inside does."""
        return self.field.stacks

    def halves(self):
        """Parts of the field inside, so that refining again does not nest."""
        half = self.length / 2
        middle = self.start + half
        return Part(self.field, self.start, half), Part(self.field, middle, half)


class Confined(VelocityField):
    """A field faded out beyond the region where it was trained: f(t, x) e(|x| / R).

    e(u) = 1 / (1 + u^8) is close to one on the data and vanishes far from them, where
    a trained field is an extrapolation that nothing holds to anything. Far points keep
    still, so that their density is the Gaussian's, falling with distance, and solvers
    stay accurate there.

    Parameters
    ----------
    field : VelocityField
        The field inside.
    radius : float
        R, about the largest length of a training row.
    """

    def __init__(self, field, radius):
        super().__init__()
        self.field = field
        self.register_buffer("radius", torch.tensor(radius, dtype=torch.float32))

    @property
    def _scale(self):
        return self.radius**-2

    def forward(self, t, x, context=None):
        """Velocities of shape (n, d) at time t and positions x of shape (n, d)."""
        return self.field(t, x, context) * envelope(x, self._scale)[1][:, None]

    def dynamics(self, context=None):
        """Return `(t, x) -> (velocity, divergence)` for one solve."""
        return ConfinedDynamics(self.field.dynamics(context), self._scale)

    @property
    def stacks(self):
        """Whether the field inside does."""
        return self.field.stacks

    def halves(self):
        """Halves of the field inside, confined to the same region."""
        radius = float(self.radius)
        return tuple(Confined(half, radius) for half in self.field.halves())
