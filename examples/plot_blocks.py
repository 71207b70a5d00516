"""
What does every block do to the samples?
========================================

A flow moves samples from the data to the standard normal distribution, block by block.
``FlowDisplay`` and ``TrajectoryDisplay`` show the way.
"""

# SPDX-License-Identifier: BSD-3-Clause

# %%
# ``init="gaussian"`` and ``transforms=None`` ask for a flow with nothing but whitening
# in front of it. Small steps need several blocks, and show more.
from skjko import JKOFlowDensity, JKOSchedule, MLPField
from skjko.datasets import moons
from skjko.plots import FlowDisplay, TrajectoryDisplay

X = moons().sample(2000, random_state=0)
density = JKOFlowDensity(
    init="gaussian",
    transforms=None,
    field=MLPField((32, 32)),
    schedule=JKOSchedule(step_size=0.15, free_block=False),
    max_blocks=3,
    max_iter=100,
    random_state=0,
).fit(X)
print(density.summary())

# %%
# A sample keeps its colour. Dotted circles are one, two and three standard deviations
# of the base distribution; arrows show what the next block does.
FlowDisplay.from_estimator(density, X, arrows=True)

# %%
# The paths of single samples, from behind the whitening on.
TrajectoryDisplay.from_estimator(density, X, n_samples=60)

# %%
# The positions themselves are in ``trajectory``: the data, then behind every transform
# and every block.
print(density.trajectory(X).shape)
