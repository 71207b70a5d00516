"""The density of an outlier detector."""

# SPDX-License-Identifier: BSD-3-Clause

from collections.abc import Collection

import numpy as np

from skjko.components import MLPField
from skjko.density import JKOFlowDensity
from skjko.support import Support


def default_density() -> JKOFlowDensity:
    """Return the density that a detector fits if it is not given one."""
    # Maps of single features would make spikes of values that are repeated.
    return JKOFlowDensity(
        transforms=None,
        init="mixture",
        discrete=None,
        field=MLPField((64, 64), "silu"),
        max_blocks=1,
        max_iter=300,
        batch_size=250,
        learning_rate_init=0.005,
    )


def set_support(
    density: JKOFlowDensity, support: Support, coded: Collection[int]
) -> None:
    """Set bounds and discrete features, known by name, of a density of arrays."""
    lower, upper, steps = support.lower, support.upper, support.grid.step
    density.bounds = None
    if np.isfinite(lower).any() or np.isfinite(upper).any():
        density.bounds = list(zip(lower.tolist(), upper.tolist(), strict=True))
    if coded or not isinstance(density.discrete, str):
        density.discrete = {int(j): float(steps[j]) for j in support.grid.columns}
