"""
How do I keep samples positive, or between two values?
======================================================

``bounds`` maps bounded features to the real line. The density is zero outside, and no
sample leaves the interval. Values that come again and again, such as days without rain,
are found and have a probability of their own.
"""

# SPDX-License-Identifier: BSD-3-Clause

# %%
# Days without rain, the amount of rain on the others, and the share of the sky that is
# covered by clouds.
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from skjko import JKOFlowDensity

rng = np.random.default_rng(0)
cloud = rng.beta(1.2, 0.8, 1500)
rain = np.where(rng.random(1500) < cloud**2, rng.gamma(0.7, 8 * cloud), 0.0)
weather = pd.DataFrame({"rain": rain, "cloud": np.clip(cloud, 1e-4, 1 - 1e-4)})

free = JKOFlowDensity(
    init="mixture", max_blocks=0, discrete=None, transforms=None, random_state=0
).fit(weather)
bounded = JKOFlowDensity(
    init="mixture",
    max_blocks=0,
    bounds={"rain": (0, None), "cloud": (0, 1)},
    random_state=0,
).fit(weather)
print(bounded.summary())

# %%
# Without bounds there is rain below zero, and no dry day.
samples = {
    "data": weather,
    "without bounds": free.sample(1500, random_state=0),
    "with bounds": bounded.sample(1500, random_state=0),
}
fig, axes = plt.subplots(
    1, 3, figsize=(11, 3.6), sharex=True, sharey=True, layout="constrained"
)
for ax, (name, table) in zip(axes, samples.items(), strict=True):
    dry, below = (table["rain"] == 0).mean(), (table["rain"] < 0).mean()
    ax.scatter(table["rain"], table["cloud"], s=4, alpha=0.4, linewidths=0)
    ax.set_title(f"{name}\ndry days {dry:.0%}, rain below zero {below:.0%}")
    ax.set_xlabel("rain, mm")
axes[0].set_ylabel("share of clouds")
axes[0].set_xlim(-10, 40)
plt.show()

# %%
# Outside of the bounds the log-density is minus infinity, and a warning says so.
print(bounded.score_samples(pd.DataFrame({"rain": [1.0, -1.0], "cloud": [0.5, 0.5]})))
