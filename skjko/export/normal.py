"""The normal distribution by exponentials and logarithms alone, as ONNX has them.

ONNX has neither erfc nor its inverse, and runtimes have erf in single precision only.
"""

# SPDX-License-Identifier: BSD-3-Clause

import math
from functools import cache

import numpy as np
import torch
from numpy.polynomial import Chebyshev
from scipy.special import erfcx
from torch import Tensor

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
# log((1 + y) erfcx(y / sqrt(2))) is smooth in s = (k - y) / (k + y), from -1 to 1: the
# polynomial has an error of 1e-14.
_MIDDLE, _DEGREE = 3.0, 22
# Newton's method converges from one side, quadratically.
_N_STEPS = 6
# Numbers that single precision does not hold are tensors: exporters may round others.
_LARGEST = torch.tensor(np.finfo(float).max, dtype=torch.float64, device="cpu")
_LEAST_LOG = torch.tensor(-1e300, dtype=torch.float64, device="cpu")


@cache
def _coefficients() -> tuple[float, ...]:
    def function(s: np.ndarray) -> np.ndarray:
        y = _MIDDLE * (1 - s) / (1 + s)
        return np.log((1 + y) * erfcx(y / math.sqrt(2)) / 2)

    return tuple(Chebyshev.interpolate(function, _DEGREE).coef.tolist())


def log_scaled_tail(y: Tensor) -> Tensor:
    """Return log(Phi(-y) exp(y^2 / 2)) of y >= 0."""
    s = (_MIDDLE - y) / (_MIDDLE + y)
    # Clenshaw's recurrence.
    first, *others = _coefficients()
    twice, b, after = 2 * s, torch.zeros_like(s), torch.zeros_like(s)
    for c in reversed(others):
        b, after = twice * b - after + c, b
    return s * b - after + first - torch.log(1 + y)


def log_tails(y: Tensor) -> tuple[Tensor, Tensor]:
    """Return log Phi(y) and log Phi(-y), both exact in their tails."""
    size = y.abs()
    near = log_scaled_tail(size) - 0.5 * size * size
    far = torch.log(1 - torch.exp(near))
    return torch.where(y > 0, far, near), torch.where(y > 0, near, far)


def normal_score(log_below: Tensor, log_above: Tensor) -> Tensor:
    """Return Phi^-1(p) from log p and log(1 - p).

    Newton's method on log Phi(-z), from the bound Phi(-z) <= exp(-z^2 / 2) / 2: the
    function is concave, so that the steps go one way.
    """
    smaller = torch.minimum(log_below, log_above)
    z = torch.sqrt(torch.clamp_min(-2 * (smaller + math.log(2)), 0.0))
    for _ in range(_N_STEPS):
        scaled = log_scaled_tail(z)
        gap = scaled - 0.5 * z * z - smaller
        z = torch.clamp_min(z + gap * torch.exp(scaled + _HALF_LOG_2PI), 0.0)
    return torch.where(log_below < log_above, -z, z)


def finite(x: Tensor) -> Tensor:
    """Return the largest numbers in place of infinite ones."""
    return torch.maximum(torch.minimum(x, _LARGEST), -_LARGEST)


def log_sum_exp(logs: Tensor) -> Tensor:
    """Return the logarithm of the sum of exponentials over the last dimension."""
    largest = torch.maximum(logs.amax(-1, keepdim=True), _LEAST_LOG)
    return largest.squeeze(-1) + torch.log(torch.exp(logs - largest).sum(-1))


def log_prob(z: Tensor) -> Tensor:
    """Return the standard normal log-density, shape (n,), of z of shape (n, d)."""
    return -0.5 * (z * z).sum(-1) - z.shape[-1] * _HALF_LOG_2PI
