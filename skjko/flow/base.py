"""Base distributions q: what the flow carries the data to.

The JKO objective takes its potential V = -log q from here, and from nowhere else.
"""

# SPDX-License-Identifier: BSD-3-Clause

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_LOG_2PI = math.log(2 * math.pi)


class StandardNormal:
    """The standard normal distribution, N(0, I)."""

    def potential(self, z: Tensor) -> Tensor:
        """Return V(z) = -log q(z) in nats, up to a constant, of every sample."""
        return 0.5 * torch.linalg.vecdot(z, z)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density in nats, shape (...,), of z of shape (..., d)."""
        return -self.potential(z) - 0.5 * z.shape[-1] * _LOG_2PI

    def sample(
        self, shape: Sequence[int], generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw a float64 tensor of a shape (..., d)."""
        return torch.randn(shape, dtype=torch.float64, generator=generator)
