"""
How do I correct a sample that is not representative?
=====================================================

``sample_weight`` counts samples differently: a survey that asked one group too often,
importance weights, or copies of samples.
"""

# SPDX-License-Identifier: BSD-3-Clause

# %%
# Of two groups of equal size one is asked four times as often as the other.
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import norm

from skjko import JKOFlowDensity

rng = np.random.default_rng(0)
group = rng.random(1500) < 0.2
X = np.where(group, rng.normal(2.0, 0.6, 1500), rng.normal(-1.0, 0.8, 1500))[:, None]
weight = np.where(group, 1 / 0.2, 1 / 0.8)

density = JKOFlowDensity(init="mixture", max_blocks=0, random_state=0)
grid = np.linspace(-5, 5, 400)[:, None]
curves = {
    "without weights": np.exp(density.fit(X).score_samples(grid)),
    "with weights": np.exp(density.fit(X, sample_weight=weight).score_samples(grid)),
}

# %%
# With weights the density is that of the whole population.
truth = 0.5 * norm.pdf(grid, 2.0, 0.6) + 0.5 * norm.pdf(grid, -1.0, 0.8)
fig, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
ax.hist(X[:, 0], bins=60, density=True, color="0.88", label="samples")
ax.plot(grid, truth, "k--", lw=1, label="population")
for name, values in curves.items():
    ax.plot(grid, values, label=name)
ax.set(xlabel="x", ylabel="density")
ax.legend()
plt.show()

# %%
# Weights cost precision: as many equal samples would tell as much.
print(f"{weight.sum() ** 2 / (weight**2).sum():.0f} of {len(X)} effective samples")
