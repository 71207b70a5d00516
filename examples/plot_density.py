"""
How do I estimate a density in the plane?
=========================================

Fit ``JKOFlowDensity`` to samples. It has the log-density of any point, draws new
samples, and says what it consists of.
"""

# SPDX-License-Identifier: BSD-3-Clause

# %%
# The distribution is known here, so the estimate can be compared with the truth.
import matplotlib.pyplot as plt

from skjko import JKOFlowDensity
from skjko.datasets import spirals
from skjko.plots import DensityDisplay

truth = spirals(n_turns=1.0, sigma=0.2)
X, X_test = truth.sample(2000, random_state=0), truth.sample(1000, random_state=1)

density = JKOFlowDensity(random_state=0).fit(X)
print(f"estimate: {density.score(X_test):.3f} nats")
print(f"truth:    {truth.score_samples(X_test).mean():.3f} nats")
print(density.summary())

# %%
# Samples of the density and the data should look alike.
fig, axes = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained")
DensityDisplay.from_estimator(density, X, ax=axes[1])
samples = density.sample(len(X), random_state=0)
for ax, points, title in ((axes[0], X, "Data"), (axes[2], samples, "Samples")):
    ax.scatter(*points.T, s=2, color="C0", linewidths=0)
    ax.set(title=title, xlim=axes[1].get_xlim(), ylim=axes[1].get_ylim())
    ax.set_aspect("equal")
