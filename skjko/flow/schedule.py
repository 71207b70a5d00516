"""Step sizes of the JKO scheme, as plain tuples of floats."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from collections.abc import Sequence

FREE = math.inf
"""Step size of a block without the transport term (the paper's free block)."""


def geometric(
    step_size: float, growth: float, max_step_size: float, n_blocks: int
) -> tuple[float, ...]:
    """Step sizes h_k = min(growth^k step_size, max_step_size), k = 0 … n_blocks - 1.

    Section 5.1 of Xu, Cheng, Xie (2023) uses 0.25 and 1.2 to 1.4.
    """
    sizes = []
    for _ in range(n_blocks):
        sizes.append(min(step_size, max_step_size))
        step_size = sizes[-1] * growth
    return tuple(sizes)


def plan(
    step_size: float,
    growth: float,
    max_step_size: float,
    max_blocks: int,
    free_block: bool,
) -> tuple[float, ...]:
    """Step sizes of at most `max_blocks` blocks, the last one free if so wished."""
    n_free = int(free_block and max_blocks > 0)
    sizes = geometric(step_size, growth, max_step_size, max_blocks - n_free)
    return sizes + (FREE,) * n_free


def evenness(step_sizes: Sequence[float], displacements: Sequence[float]) -> float:
    """Largest over smallest displacement of the blocks, without the free one."""
    moved = _of_finite(step_sizes, displacements)
    if len(moved) < 2:
        return 1.0
    return max(moved) / min(moved) if min(moved) > 0 else math.inf


def mean_displacement(
    step_sizes: Sequence[float], displacements: Sequence[float]
) -> float:
    """Mean of the blocks' displacements, the free one aside; 0 for none."""
    moved = _of_finite(step_sizes, displacements)
    return sum(moved) / max(len(moved), 1)


def toward(
    step_size: float,
    displacement: float,
    target: float,
    max_step_size: float,
    rate: float = 0.5,
) -> float:
    """Step size under which a block's displacement comes nearer to a target.

    h + rate (target h / S - h), capped, where S is the block's root mean square
    displacement (Section 4.2 of Xu, Cheng, Xie, 2023). A free block stays free.
    """
    if math.isinf(step_size) or displacement == 0:
        return step_size
    even = target * step_size / displacement
    return min(step_size + rate * (even - step_size), max_step_size)


def reparameterize(
    step_sizes: Sequence[float],
    displacements: Sequence[float],
    max_step_size: float,
    rate: float = 0.5,
) -> tuple[float, ...]:
    """Step sizes that bring the displacements of all blocks nearer to their mean."""
    mean = mean_displacement(step_sizes, displacements)
    return tuple(
        toward(h, s, mean, max_step_size, rate)
        for h, s in zip(step_sizes, displacements, strict=True)
    )


def refine(step_sizes: Sequence[float]) -> tuple[float, ...]:
    """Step sizes of twice as many blocks, each one half of the time of one before.

    Half the time is half the step size. A free block's first half has size 1: on
    Gaussians a step of size h goes h / (1 + h) of the way to the base, here half of it.
    """
    halves = []
    for h in step_sizes:
        halves += [1.0, h] if math.isinf(h) else [h / 2, h / 2]
    return tuple(halves)


def _of_finite(step_sizes: Sequence[float], values: Sequence[float]) -> list[float]:
    return [v for h, v in zip(step_sizes, values, strict=True) if not math.isinf(h)]
