"""Velocity and divergence together, for one solve, with gradients written by hand.

An evaluation consists of many operations on small tensors; recording a graph of them
costs more than doing them. These dynamics therefore have `forward` and `vjp`, which
:func:`skjko.flow.ode.integrate` uses in place of torch's graph: 36 to 38 ms in place of
42 to 46 ms for a training iteration of 1000 x 8 samples (`benchmarks/NOTES.md`).
"""

# SPDX-License-Identifier: BSD-3-Clause

import copy

import torch

from skjko.flow.activations import Fourier


class TwoLayers:
    """Dynamics of a field with two hidden layers, whose divergence has a closed form.

    f = W3 s2(W2 s1(W1 x + b1 + t c) + b2) + b3 + A x,
    div f = s2' [mixing] s1' + tr A, with mixing = W2 * (W1 W3)'.

    Parameters
    ----------
    field : MLP
        With two hidden layers.
    bias : Tensor of shape (n_units,) or (n, n_units)
        Of the first layer, at time zero; one a sample where there is a context.
    """

    has_vjp = True

    def __init__(self, field, bias):
        loop = field.out_weight.mT @ field.weights[0].mT
        first, second = field.nonlinearity(0), field.nonlinearity(1)
        if first is Fourier:
            loop = torch.cat([loop, loop], -1)
        self.tensors = (
            bias,
            field.weights[0],
            field.weights[1],
            field.weights[1] * loop,
            field.biases[1],
            field.out_weight,
            field.out_bias,
            field.linear,
            field.linear.trace(),
            *(() if field.time_weight is None else (field.time_weight,)),
        )
        self._first, self._second = first, second
        # For few samples the number of operations is the cost: what does not change
        # within a solve is computed once.
        _, w1, w2, mixing, b2, w3, b3, linear, trace = self.tensors[:9]
        self._parts = (
            w1.mT.contiguous(),
            w2.mT,
            mixing.mT,
            b2,
            w3.mT,
            b3,
            linear.mT,
            trace,
        )

    def in_float32(self):
        """Return the dynamics of the hidden layers alone, in float32."""
        layers = copy.copy(self)
        layers.tensors = tuple(tensor.float() for tensor in self.tensors)
        *parts, linear, trace = (part.float() for part in self._parts)
        layers._parts = (*parts, torch.zeros_like(linear), torch.zeros_like(trace))
        return layers

    def _bias(self, t):
        if len(self.tensors) == 9:
            return self.tensors[0]
        return torch.add(self.tensors[0], self.tensors[9], alpha=t)

    def __call__(self, t, x):
        """Return velocity and divergence."""
        return self.forward(t, x)[:2]

    def forward(self, t, x):
        """Return velocity, divergence, and what `vjp` needs."""
        w1, w2, mixing, b2, w3, b3, linear, trace = self._parts
        first = self._first.value_and_slope(torch.addmm(self._bias(t), x, w1))
        second = self._second.value_and_slope(torch.addmm(b2, first[0], w2))
        mixed = first[1] @ mixing
        divergence = torch.linalg.vecdot(mixed, second[1]) + trace
        velocity = torch.addmm(torch.addmm(b3, second[0], w3), x, linear)
        return velocity, divergence, (t, x, first, second, mixed)

    def vjp(self, saved, g_velocity, g_divergence, grads):
        """Add to the gradients of `tensors`; return that of the positions.

        Parameters
        ----------
        saved : tuple
            Of one evaluation, from `forward`.
        g_velocity : Tensor of shape (n, d)
        g_divergence : Tensor of shape (n,)
        grads : list of Tensor
            Sums of gradients, one for each of `tensors`.
        """
        t, x, first, second, mixed = saved
        _, w1, w2, mixing, _, w3, _, linear = self.tensors[:8]
        g_sample = g_divergence[:, None]
        g_z2 = self._second.vjp(*second, g_velocity @ w3, mixed * g_sample)
        g_mixed = second[1] * g_sample
        g_z1 = self._first.vjp(*first, g_z2 @ w2, g_mixed @ mixing)
        g_bias = g_z1.sum(0)
        grads[0].add_(g_bias if grads[0].ndim == 1 else g_z1)
        for i, gradient, samples in (
            (1, g_z1, x),
            (2, g_z2, first[0]),
            (3, g_mixed, first[1]),
            (5, g_velocity, second[0]),
            (7, g_velocity, x),
        ):
            torch.addmm(grads[i], gradient.mT, samples, out=grads[i])
        grads[4].add_(g_z2.sum(0))
        grads[6].add_(g_velocity.sum(0))
        grads[8].add_(g_divergence.sum())
        if len(grads) == 10:
            grads[9].add_(g_bias, alpha=t)
        return torch.addmm(g_z1 @ w1, g_velocity, linear)


class SinglePrecision:
    """Dynamics of two hidden layers in float32, at positions in float64.

    The affine part and the sums over the solver's stages stay in float64: only the
    velocities of the layers are rounded. The products of the layers, unlike that of the
    affine part, have one order of summation for all samples of a batch, if these are
    :func:`padded`: a sample's result does not depend on the others.

    Parameters
    ----------
    exact : TwoLayers
        In float64, of at least two features.
    """

    def __init__(self, exact):
        self._linear, self._trace = exact.tensors[7].mT, exact.tensors[8]
        self._layers = exact.in_float32()

    def __call__(self, t, x):
        """Return velocity and divergence."""
        # The field fades out long before float32 overflows.
        velocity, divergence = self._layers(t, x.clamp(-1e18, 1e18).float())
        return torch.addmm(velocity.double(), x, self._linear), divergence + self._trace


def padded(*tensors):
    """Repeat last rows, so that products have one order of summation for every row.

    Matrix products have other kernels for the rows beyond a multiple of their tiles, in
    the share of every thread.
    """
    multiple = 16 * torch.get_num_threads()
    n_missing = -len(tensors[0]) % multiple
    if not n_missing:
        return tensors
    return tuple(
        None if rows is None else torch.cat([rows, rows[-1:].expand(n_missing, -1)])
        for rows in tensors
    )


class TimeRescaled:
    """Dynamics over an interval of time, on a unit of time of its own.

    f(t, x) becomes length f(start + length t, x).
    """

    def __init__(self, inner, start, length):
        self._inner, self._start, self._length = inner, start, length
        self.has_vjp = getattr(inner, "has_vjp", False)
        if self.has_vjp:
            self.tensors = inner.tensors

    def __call__(self, t, x):
        """Return velocity and divergence."""
        velocity, divergence = self._inner(self._start + self._length * t, x)
        return self._length * velocity, self._length * divergence

    def forward(self, t, x):
        """Return velocity, divergence, and what `vjp` needs."""
        time = self._start + self._length * t
        velocity, divergence, saved = self._inner.forward(time, x)
        return self._length * velocity, self._length * divergence, saved

    def vjp(self, saved, g_velocity, g_divergence, grads):
        """Add to the gradients of `tensors`; return that of the positions."""
        g_velocity, g_divergence = (
            self._length * g_velocity,
            self._length * g_divergence,
        )
        return self._inner.vjp(saved, g_velocity, g_divergence, grads)


class Cutoff:
    """Dynamics that fade out beyond a radius R, where no sample was trained on.

    f becomes e(q) f with q = |x|^2 / R^2 and e = 1 / (1 + q^4), close to one on the
    data. Far samples keep still: their density is the base's, falling with distance,
    and solvers stay accurate.

    By the product rule, with s x the gradient of e and b x that of s,
    div(e f) = e div f + s <x, f>, s = -8 q^3 e^2 / R^2 and
    b = -16 q^2 e^2 (8 e - 5) / R^4.
    """

    def __init__(self, inner, radius):
        self._inner, self._scale = inner, radius**-2
        # Factors of s, and, relative to it, of b <x, f>.
        self._rate = -8 * self._scale
        self._bend = -self._rate * 5 / 4
        self.has_vjp = getattr(inner, "has_vjp", False)
        if self.has_vjp:
            self.tensors = inner.tensors

    def __call__(self, t, x):
        """Return velocity and divergence."""
        return self._faded(x, *self._inner(t, x))[:2]

    def forward(self, t, x):
        """Return velocity, divergence, and what `vjp` needs."""
        velocity, divergence, saved = self._inner.forward(t, x)
        *faded, parts = self._faded(x, velocity, divergence)
        return *faded, (saved, x, velocity, divergence, *parts)

    def vjp(self, saved, g_velocity, g_divergence, grads):
        """Add to the gradients of `tensors`; return that of the positions."""
        saved, x, velocity, divergence, e, column, square, steep, radial = saved
        along = torch.linalg.vecdot(g_velocity, velocity)
        along = along.addcmul_(g_divergence, divergence).mul_(steep)
        bent = square * radial
        # b is a multiple of bent (1 - 8/5 e).
        bent = torch.addcmul(bent, bent, e, value=-1.6).mul_(g_divergence)
        along = along.sub_(bent, alpha=self._bend)[:, None]
        across = (steep * g_divergence)[:, None]
        inner = torch.addcmul(g_velocity * column, across, x, value=self._rate)
        g_x = self._inner.vjp(saved, inner, g_divergence * e, grads)
        g_x.addcmul_(along, x, value=self._rate)
        return g_x.addcmul_(across, velocity, value=self._rate)

    def _faded(self, x, velocity, divergence):
        # Clamped, so that powers of a far sample's length stay finite in float32.
        q = torch.clamp_max(torch.linalg.vecdot(x, x) * self._scale, 1e4)
        second = q * q
        e = torch.addcmul(q.new_ones(()), second, second).reciprocal()
        root = q * e
        square = root * root
        steep = square * q
        radial = torch.linalg.vecdot(x, velocity)
        divergence = torch.addcmul(divergence * e, steep, radial, value=self._rate)
        column = e[:, None]
        return velocity * column, divergence, (e, column, square, steep, radial)
