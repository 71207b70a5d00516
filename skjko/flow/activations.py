"""Nonlinearities of the hidden layers, with slopes and vector-Jacobian products.

`value_and_slope(z)` returns both, and what else `vjp` needs. `vjp` returns the gradient
with respect to z from those with respect to value and slope, which it overwrites:
g_z = slope g_value + curvature g_slope.
"""

# SPDX-License-Identifier: BSD-3-Clause

from typing import TypeAlias

import torch
from torch import nn


class Fourier:
    """Sine and cosine, each of all inputs: half the width gives the full width."""

    # They are each other's derivative up to sign: two transcendental functions of half
    # the width give value, slope and curvature of the full width.
    @staticmethod
    def value(z):
        """Return the activations."""
        return torch.cat([torch.sin(z), torch.cos(z)], -1)

    @staticmethod
    def value_and_slope(z):
        """Return activations and slopes."""
        s, c = torch.sin(z), torch.cos(z)
        return torch.cat([s, c], -1), torch.cat([c, -s], -1), None

    @staticmethod
    def vjp(value, slope, _, g_value, g_slope):
        """Return the gradient with respect to z."""
        both = g_value.mul_(slope).addcmul_(value, g_slope, value=-1)
        first, second = both.chunk(2, -1)
        return first + second


class Tanh:
    """Hyperbolic tangent."""

    @staticmethod
    def value(z):
        """Return the activations."""
        return torch.tanh(z)

    @staticmethod
    def value_and_slope(z):
        """Return activations and slopes."""
        a = torch.tanh(z)
        return a, torch.addcmul(a.new_ones(()), a, a, value=-1), None

    @staticmethod
    def vjp(value, slope, _, g_value, g_slope):
        """Return the gradient with respect to z."""
        return g_value.addcmul_(value, g_slope, value=-2).mul_(slope)


class SiLU:
    """Sigmoid linear unit, z sigmoid(z)."""

    @staticmethod
    def value(z):
        """Return the activations."""
        return nn.functional.silu(z)

    @staticmethod
    def value_and_slope(z):
        """Return activations, slopes, and sigmoid(z)."""
        s = torch.sigmoid(z)
        a = z * s
        # a' = s + a (1 - s), without a tensor of ones.
        return a, torch.add(s, a).addcmul_(a, s, value=-1), s

    @staticmethod
    def vjp(value, slope, s, g_value, g_slope):
        """Return the gradient with respect to z."""
        # a'' = (1 - s) (2 a' - a).
        bend = torch.sub(value, slope, alpha=2)
        bend.addcmul_(bend, s, value=-1)
        return g_value.mul_(slope).addcmul_(bend, g_slope, value=-1)


Activation: TypeAlias = type[Fourier] | type[Tanh] | type[SiLU]

BY_NAME: dict[str, Activation] = {"fourier": Fourier, "tanh": Tanh, "silu": SiLU}
