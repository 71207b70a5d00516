"""
How do I watch a fit, and end it early?
=======================================

Callbacks are called after every block. Those of scikit-learn 1.9 show progress and
scores; those of skjko stop a fit, or keep positions and samples of every block.
"""

# SPDX-License-Identifier: BSD-3-Clause

# %%
# ``EarlyStopping`` ends the fit when samples of your own gain too little.
import matplotlib.pyplot as plt

from skjko import JKOFlowDensity, JKOSchedule, MLPField
from skjko.callbacks import EarlyStopping, Snapshot
from skjko.datasets import moons

X, X_val = moons().sample(2000, random_state=0), moons().sample(500, random_state=1)
snapshot = Snapshot(X[:500], n_samples=500)
stopping = EarlyStopping(X_val=X_val, min_delta=0.05, patience=1)
density = JKOFlowDensity(
    init="gaussian",
    transforms=None,
    field=MLPField((32, 32)),
    schedule=JKOSchedule(step_size=0.15, free_block=False),
    max_blocks=6,
    max_iter=80,
    random_state=0,
    verbose=1,
)
density.set_callbacks(stopping, snapshot).fit(X)
print(f"{density.n_blocks_} of at most {density.max_blocks} blocks")

# %%
# Samples of the density with one block, two blocks, and so on.
n = len(snapshot.samples_)
fig, axes = plt.subplots(
    1,
    n + 1,
    figsize=(2.6 * (n + 1), 3),
    sharex=True,
    sharey=True,
    layout="constrained",
)
for k, samples in enumerate(snapshot.samples_, start=1):
    axes[k - 1].scatter(*samples.T, s=3, linewidths=0)
    axes[k - 1].set_title(f"block {k}: {stopping.scores_[k - 1]:.2f} nats")
axes[n].scatter(*X[:500].T, s=3, color="k", linewidths=0)
axes[n].set_title("data")
for ax in axes:
    ax.set_aspect("equal")
plt.show()
