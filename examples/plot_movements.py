"""
How do I make the blocks move samples equally far?
==================================================

The first blocks of a flow often move samples far and the last ones hardly.
Reparameterization changes the step sizes and trains all blocks again.
"""

# SPDX-License-Identifier: BSD-3-Clause

# %%
# ``n_reparameterizations`` is the largest number of such rounds.
import matplotlib.pyplot as plt

from skjko import JKOFlowDensity, JKOSchedule, MLPField
from skjko.datasets import eight_gaussians
from skjko.plots import MovementsDisplay, TrainingDisplay

X = eight_gaussians().sample(2000, random_state=0)
density = JKOFlowDensity(
    init="gaussian",
    transforms=None,
    field=MLPField((32, 32)),
    schedule=JKOSchedule(step_size=0.1, free_block=False, n_reparameterizations=2),
    max_blocks=4,
    max_iter=60,
    random_state=0,
).fit(X)
for record in density.history_:
    print(record.round, "accepted" if record.accepted else "dropped")

# %%
# The displacement of the samples by every block, in standard deviations, for every
# round of training.
MovementsDisplay.from_estimator(density)

# %%
# The loss of the iterations, and the validation score after every block.
TrainingDisplay.from_estimator(density)
plt.show()
