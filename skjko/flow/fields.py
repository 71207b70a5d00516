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

from skjko.flow import divergence

ACTIVATIONS = ("fourier", "tanh", "silu")


class VelocityField(nn.Module):
    """Base class of velocity fields; a new field needs only `forward`.

    `forward(t, x, context=None)` must treat every row apart from the others, or the
    divergence and the log-density lose their meaning.
    """

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


class _Fourier:
    """Sine and cosine, each on all inputs: half the width gives the full width."""

    # They are each other's derivative up to sign, so two transcendental functions on
    # half the width give value, slope and curvature at the full width.
    @staticmethod
    def value(z):
        return torch.cat([torch.sin(z), torch.cos(z)], 1)

    @staticmethod
    def value_and_slope(z):
        s, c = torch.sin(z), torch.cos(z)
        return torch.cat([s, c], 1), torch.cat([c, -s], 1)

    @classmethod
    def with_curvature(cls, z):
        value, slope = cls.value_and_slope(z)
        return value, slope, -value

    @staticmethod
    def fold(grad):
        """Gradient with respect to z from that of the two copies of z."""
        first, second = grad.chunk(2, 1)
        return first + second


class _Tanh:
    @staticmethod
    def value(z):
        return torch.tanh(z)

    @staticmethod
    def value_and_slope(z):
        # tanh(z) = 2 sigmoid(2z) - 1; torch's sigmoid is vectorised better.
        a = 2 * torch.sigmoid(2 * z) - 1
        return a, 1 - a * a

    @classmethod
    def with_curvature(cls, z):
        value, slope = cls.value_and_slope(z)
        return value, slope, (value * slope).mul_(-2)

    @staticmethod
    def fold(grad):
        return grad


class _SiLU(_Tanh):
    @staticmethod
    def value(z):
        return nn.functional.silu(z)

    @staticmethod
    def value_and_slope(z):
        s = torch.sigmoid(z)
        a = z * s
        return a, torch.addcmul(s, a, 1 - s)

    @classmethod
    def with_curvature(cls, z):
        # With s = sigmoid(z) and a = z s: a' = s + a (1 - s), and its derivative is
        # s (1 - s) (1 - a) + a' (1 - s).
        s = torch.sigmoid(z)
        a, rest = z * s, 1 - s
        slope = torch.addcmul(s, a, rest)
        s.mul_(rest)
        return a, slope, s.addcmul_(s, a, value=-1).addcmul_(slope, rest)


_ACTIVATIONS = {"fourier": _Fourier, "tanh": _Tanh, "silu": _SiLU}


class _TwoLayers:
    """Velocity and divergence of a field with two hidden layers, for one solve.

    f = W3 s2(W2 s1(W1 x + b1 + t c) + b2) + b3 + A x,
    div f = s2' [mixing] s1' + tr A, with mixing = W2 * (W1 W3)'.

    Called, it is like any dynamics. Training spends its time here, so it also records
    an evaluation and pulls gradients back through it, as :func:`ode.integrate` asks:
    what value and divergence share is computed once on the way back too.
    """

    records = True

    def __init__(self, bias, time_weight, field, context):
        first = field.nonlinearity(0)
        mixing = field.weights[0] @ field.out_weight
        if first is _Fourier:
            mixing = torch.cat([mixing, mixing])
        self.tensors = (
            bias,
            field.weights[0],
            field.weights[1],
            field.weights[1] * mixing.T,
            field.biases[1],
            field.out_weight,
            field.out_bias,
            field.linear,
            *(() if time_weight is None else (time_weight,)),
        )
        self._first, self._second = first, field.nonlinearity(1)
        _, w1, w2, mixing, b2, w3, b3, linear = self.tensors[:8]
        # On few rows the number of operations is what an evaluation costs: what does
        # not change is worked out once a solve.
        self._parts = w1.T, w2.T, mixing.T, b2, w3.T, b3, linear.T, linear.trace()

    def _bias(self, t):
        bias, *_, last = self.tensors
        return torch.add(bias, last, alpha=t) if len(self.tensors) == 9 else bias

    def __call__(self, t, x):
        w1, w2, mixing, b2, w3, b3, linear, trace = self._parts
        a1, slope1 = self._first.value_and_slope(torch.addmm(self._bias(t), x, w1))
        a2, slope2 = self._second.value_and_slope(torch.addmm(b2, a1, w2))
        v = torch.addmm(torch.addmm(b3, a2, w3), x, linear)
        return v, torch.linalg.vecdot(slope1 @ mixing, slope2) + trace

    def record(self, t, x):
        """Return velocity, divergence, and what `pull` needs."""
        w1, w2, mixing, b2, w3, b3, linear, trace = self._parts
        z1 = torch.addmm(self._bias(t), x, w1)
        a1, slope1, curvature1 = self._first.with_curvature(z1)
        z2 = torch.addmm(b2, a1, w2)
        a2, slope2, curvature2 = self._second.with_curvature(z2)
        mixed = slope1 @ mixing
        div = torch.linalg.vecdot(mixed, slope2).add_(trace)
        # Only their product is needed on the way back.
        curvature2.mul_(mixed)
        v = torch.addmm(b3, a2, w3).addmm_(x, linear)
        return v, div, (t, x, a1, slope1, curvature1, a2, slope2, curvature2)

    def pull(self, tape, g_v, g_div, grads):
        """Add to the gradients of `tensors`; return that of the positions.

        Parameters
        ----------
        tape : tuple
            Of one evaluation.
        g_v, g_div : Tensor
            Gradients of the velocity (n, d) and the divergence (n,).
        grads : list of Tensor
            Sums of gradients, one for each of `tensors`.
        """
        t, x, a1, slope1, curvature1, a2, slope2, curvature2 = tape
        _, w1, w2, mixing, _, w3, _, linear = self.tensors[:8]
        g_row = g_div[:, None]
        g_z2 = (curvature2 * g_row).addcmul_(g_v @ w3, slope2)
        g_mixed = slope2 * g_row
        grads[3].addmm_(g_mixed.T, slope1)
        g_z1 = (g_mixed @ mixing).mul_(curvature1).addcmul_(g_z2 @ w2, slope1)
        g_z1 = self._first.fold(g_z1)
        g_bias = g_z1.sum(0)
        grads[0].add_(g_bias if grads[0].ndim == 1 else g_z1)
        grads[1].addmm_(g_z1.T, x)
        grads[2].addmm_(g_z2.T, a1)
        grads[4].add_(g_z2.sum(0))
        grads[5].addmm_(g_v.T, a2)
        grads[6].add_(g_v.sum(0))
        grads[7].addmm_(g_v.T, x).diagonal().add_(g_div.sum())
        if len(grads) == 9:
            grads[8].add_(g_bias, alpha=t)
        return torch.addmm(g_z1 @ w1, g_v, linear)


class _Slowed:
    """Dynamics over a part of their time: see :class:`Part`."""

    def __init__(self, inside, start, length):
        self._inside, self._start, self._length = inside, start, length
        self.records = getattr(inside, "records", False)
        if self.records:
            self.tensors = inside.tensors

    def __call__(self, t, x):
        v, div = self._inside(self._start + self._length * t, x)
        return self._length * v, self._length * div

    def record(self, t, x):
        v, div, tape = self._inside.record(self._start + self._length * t, x)
        return self._length * v, self._length * div, tape

    def pull(self, tape, g_v, g_div, grads):
        return self._inside.pull(tape, self._length * g_v, self._length * g_div, grads)


def _envelope(x, scale):
    """Squared lengths q = |x|^2 / R^2, and the envelope e = 1 / (1 + q^4).

    The scale is 1 / R^2.
    """
    # Clamped, so that powers of a far row's length stay finite in float32.
    q = (torch.linalg.vecdot(x, x) * scale).clamp(max=1e4)
    square = q * q
    return q, (square * square + 1).reciprocal()


class _ConfinedDynamics:
    """Dynamics faded out far away: see :class:`Confined`.

    Product rule: with the envelope e(q), q = |x|^2 / R^2, whose gradient is s x,
    div(e f) = e div f + s <x, f>. The gradient of s is b x. Here s = -8 q^3 e^2 / R^2
    and b = -16 q^2 e^2 (8 e - 5) / R^4.
    """

    def __init__(self, inside, scale):
        self._inside, self._scale = inside, scale
        self._rates = -8 * scale, -128 * scale**2
        self.records = getattr(inside, "records", False)
        if self.records:
            self.tensors = inside.tensors

    def __call__(self, t, x):
        return self._confine(x, *self._inside(t, x))[:2]

    def record(self, t, x):
        v, div, tape = self._inside.record(t, x)
        *confined, e, square, s, radial = self._confine(x, v, div)
        bent = (e - 0.625).mul_(square).mul_(radial).mul_(self._rates[1])
        return *confined, (tape, x, v, div, e, s, bent)

    def pull(self, tape, g_v, g_div, grads):
        tape, x, v, div, e, s, bent = tape
        along = torch.linalg.vecdot(g_v, v).addcmul_(g_div, div).mul_(s)
        along = along.addcmul_(g_div, bent)[:, None]
        across, e = (g_div * s)[:, None], e[:, None]
        inner = (g_v * e).addcmul_(across, x)
        g_x = self._inside.pull(tape, inner, g_div * e[:, 0], grads)
        return g_x.addcmul_(along, x).addcmul_(across, v)

    def _confine(self, x, v, div):
        q, e = _envelope(x, self._scale)
        root = q * e
        square = root * root
        s = square * q * self._rates[0]
        radial = torch.linalg.vecdot(x, v)
        div = torch.addcmul(div * e, s, radial)
        return v * e[:, None], div, e, square, s, radial


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
        return _ACTIVATIONS["tanh" if kind == "fourier" and layer > 0 else kind]

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
        return _TwoLayers(self._bias(context), self.time_weight, self, context)


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
        return _Slowed(self.field.dynamics(context), self.start, self.length)

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
        return self.field(t, x, context) * _envelope(x, self._scale)[1][:, None]

    def dynamics(self, context=None):
        """Return `(t, x) -> (velocity, divergence)` for one solve."""
        return _ConfinedDynamics(self.field.dynamics(context), self._scale)

    def halves(self):
        """Halves of the field inside, confined to the same region."""
        radius = float(self.radius)
        return tuple(Confined(half, radius) for half in self.field.halves())
