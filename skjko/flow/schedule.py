"""Step sizes of the JKO scheme, as plain tuples of floats."""

# SPDX-License-Identifier: BSD-3-Clause

import math

FREE = math.inf
"""Step size of a block without the transport term (the paper's free block)."""


def geometric(step_size, growth, max_step_size, n_blocks):
    """Step sizes h_k = min(growth^k step_size, max_step_size), k = 0 … n_blocks - 1.

    Section 5.1 of Xu, Cheng, Xie (2023) uses 0.25 and 1.2 to 1.4.
    """
    sizes = []
    for _ in range(n_blocks):
        sizes.append(min(step_size, max_step_size))
        step_size = sizes[-1] * growth
    return tuple(sizes)
