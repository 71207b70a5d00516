"""Velocity and divergence in closed form, with gradients written by hand.

A solve asks for many operations on few numbers, and to write down a graph of them
costs more than to do them. So these dynamics `record` an evaluation and `pull`
gradients back through it, as :func:`skjko.flow.ode.integrate` asks: what velocity and
divergence share is computed once on the way back too.
"""

# SPDX-License-Identifier: BSD-3-Clause

import torch

from skjko.flow.activations import Fourier


class TwoLayers:
    """Velocity and divergence of a field with two hidden layers, for one solve.

    f = W3 s2(W2 s1(W1 x + b1 + t c) + b2) + b3 + A x,
    div f = s2' [mixing] s1' + tr A, with mixing = W2 * (W1 W3)'.

    Called, it is like any dynamics. Parameters may have a dimension in front, those of
    a stack of fields; so have positions then, and all that comes of them.

    Parameters
    ----------
    field : MLPField
        With two hidden layers.
    bias : Tensor of shape (n_units,) or (n, n_units)
        Of the first layer, at time zero; one a row where there are conditions.
    """

    records = True

    def __init__(self, field, bias):
        self._stacked = field.linear.ndim == 3
        self._affine = torch.baddbmm if self._stacked else torch.addmm
        first = field.nonlinearity(0)
        loop = field.out_weight.mT @ field.weights[0].mT
        if first is Fourier:
            loop = torch.cat([loop, loop], -1)
        last = field.time_weight
        self.tensors = (
            self._of_rows(bias),
            field.weights[0],
            field.weights[1],
            field.weights[1] * loop,
            self._of_rows(field.biases[1]),
            field.out_weight,
            self._of_rows(field.out_bias),
            field.linear,
            field.linear.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True),
            *(() if last is None else (self._of_rows(last),)),
        )
        self._first, self._second = first, field.nonlinearity(1)
        _, w1, w2, mixing, b2, w3, b3, linear, trace = self.tensors[:9]
        # On few rows the number of operations is what an evaluation costs: what does
        # not change is worked out once a solve.
        w1 = w1.mT.contiguous()
        self._parts = w1, w2.mT, mixing.mT, b2, w3.mT, b3, linear.mT, trace

    def _of_rows(self, vector):
        """A vector, or those of a stack, as what is added to every row."""
        return vector.unsqueeze(-2) if self._stacked else vector

    def _bias(self, t):
        bias, *_, last = self.tensors
        return torch.add(bias, last, alpha=t) if len(self.tensors) == 10 else bias

    def __call__(self, t, x):
        """Return velocity and divergence."""
        return self.record(t, x)[:2]

    def record(self, t, x):
        """Return velocity, divergence, and what `pull` needs."""
        w1, w2, mixing, b2, w3, b3, linear, trace = self._parts
        first = self._first.value_and_slope(self._affine(self._bias(t), x, w1))
        second = self._second.value_and_slope(self._affine(b2, first[0], w2))
        mixed = first[1] @ mixing
        div = torch.linalg.vecdot(mixed, second[1]) + trace
        v = self._affine(self._affine(b3, second[0], w3), x, linear)
        return v, div, (t, x, first, second, mixed)

    def pull(self, tape, g_v, g_div, grads):
        """Add to the gradients of `tensors`; return that of the positions.

        Parameters
        ----------
        tape : tuple
            Of one evaluation.
        g_v, g_div : Tensor
            Gradients of the velocity (..., n, d) and the divergence (..., n).
        grads : list of Tensor
            Sums of gradients, one for each of `tensors`.
        """
        t, x, first, second, mixed = tape
        _, w1, w2, mixing, _, w3, _, linear = self.tensors[:8]
        g_row = g_div[..., None]
        g_z2 = self._second.pull(*second, g_v @ w3, mixed * g_row)
        g_mixed = second[1] * g_row
        g_z1 = self._first.pull(*first, g_z2 @ w2, g_mixed @ mixing)
        g_bias = self._over_rows(g_z1)
        grads[0].add_(g_bias if grads[0].shape == g_bias.shape else g_z1)
        self._add_product(grads[1], g_z1, x)
        self._add_product(grads[2], g_z2, first[0])
        self._add_product(grads[3], g_mixed, first[1])
        grads[4].add_(self._over_rows(g_z2))
        self._add_product(grads[5], g_v, second[0])
        grads[6].add_(self._over_rows(g_v))
        self._add_product(grads[7], g_v, x)
        grads[8].add_(g_div.sum(-1, keepdim=True))
        if len(grads) == 10:
            grads[9].add_(g_bias, alpha=t)
        return self._affine(g_z1 @ w1, g_v, linear)

    def _over_rows(self, gradient):
        return gradient.sum(-2, keepdim=self._stacked)

    def _add_product(self, total, gradient, rows):
        self._affine(total, gradient.mT, rows, out=total)


class Slowed:
    """Dynamics over a part of their time: see :class:`skjko.flow.fields.Part`."""

    def __init__(self, inside, start, length):
        self._inside, self._start, self._length = inside, start, length
        self.records = getattr(inside, "records", False)
        if self.records:
            self.tensors = inside.tensors

    def __call__(self, t, x):
        """Return velocity and divergence."""
        v, div = self._inside(self._start + self._length * t, x)
        return self._length * v, self._length * div

    def record(self, t, x):
        """Return velocity, divergence, and what `pull` needs."""
        v, div, tape = self._inside.record(self._start + self._length * t, x)
        return self._length * v, self._length * div, tape

    def pull(self, tape, g_v, g_div, grads):
        """Add to the gradients of `tensors`; return that of the positions."""
        return self._inside.pull(tape, self._length * g_v, self._length * g_div, grads)


def envelope(x, scale):
    """Squared lengths q = |x|^2 / R^2, and the envelope e = 1 / (1 + q^4).

    The scale is 1 / R^2, a tensor.
    """
    # Clamped, so that powers of a far row's length stay finite in float32.
    q = torch.clamp_max(torch.linalg.vecdot(x, x) * scale, 1e4)
    square = q * q
    return q, torch.addcmul(q.new_ones(()), square, square).reciprocal()


class ConfinedDynamics:
    """Dynamics faded out far away: see :class:`skjko.flow.fields.Confined`.

    Product rule: with the envelope e(q), q = |x|^2 / R^2, whose gradient is s x,
    div(e f) = e div f + s <x, f>. The gradient of s is b x. Here s = -8 q^3 e^2 / R^2
    and b = -16 q^2 e^2 (8 e - 5) / R^4.
    """

    def __init__(self, inside, scale):
        self._inside, self._scale = inside, scale
        rate = -8 * scale.item()
        # Of s, and, relative to it, of b <x, f>.
        self._rate, self._bend = rate, -rate * 5 / 4
        self.records = getattr(inside, "records", False)
        if self.records:
            self.tensors = inside.tensors

    def __call__(self, t, x):
        """Return velocity and divergence."""
        return self._confine(x, *self._inside(t, x))[:2]

    def record(self, t, x):
        """Return velocity, divergence, and what `pull` needs."""
        v, div, tape = self._inside.record(t, x)
        *confined, parts = self._confine(x, v, div)
        return *confined, (tape, x, v, div, *parts)

    def pull(self, tape, g_v, g_div, grads):
        """Add to the gradients of `tensors`; return that of the positions."""
        tape, x, v, div, e, column, square, steep, radial = tape
        along = torch.linalg.vecdot(g_v, v).addcmul_(g_div, div).mul_(steep)
        bent = square * radial
        # b is a multiple of bent (1 - 8/5 e).
        bent = torch.addcmul(bent, bent, e, value=-1.6).mul_(g_div)
        along = along.sub_(bent, alpha=self._bend)[..., None]
        across = (steep * g_div)[..., None]
        inner = torch.addcmul(g_v * column, across, x, value=self._rate)
        g_x = self._inside.pull(tape, inner, g_div * e, grads)
        g_x.addcmul_(along, x, value=self._rate)
        return g_x.addcmul_(across, v, value=self._rate)

    def _confine(self, x, v, div):
        q, e = envelope(x, self._scale)
        root = q * e
        square = root * root
        steep = square * q
        radial = torch.linalg.vecdot(x, v)
        div = torch.addcmul(div * e, steep, radial, value=self._rate)
        column = e[..., None]
        return v * column, div, (e, column, square, steep, radial)
