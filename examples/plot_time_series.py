"""
How do I forecast a distribution?
=================================

Give a conditional density the last values as features. Samples of it, fed back as
features, are scenarios of the future.
"""

# SPDX-License-Identifier: BSD-3-Clause

# %%
# A daily demand with a weekly rhythm, whose noise grows with the demand.
import matplotlib.pyplot as plt
import numpy as np

from skjko import JKOFlowConditionalDensity

rng = np.random.default_rng(0)
n_days, n_lags = 700, 7
demand = np.full(n_days, 20.0)
for t in range(1, n_days):
    level = 8 + 0.6 * demand[t - 1] + 4 * np.sin(2 * np.pi * t / 7)
    demand[t] = level * np.exp(0.05 * rng.standard_normal())


def features(history, t):
    """The last values, and the day of the week as a point on a circle."""
    angle = 2 * np.pi * t / 7
    return [*history[-n_lags:], np.sin(angle), np.cos(angle)]


X = np.array([features(demand[:t], t) for t in range(n_lags, n_days)])
y = demand[n_lags:]
n_train = 500
model = JKOFlowConditionalDensity(bounds=(0, None), random_state=0)
model.fit(X[:n_train], y[:n_train])
print(f"mean log-density of later days: {model.score(X[n_train:], y[n_train:]):.3f}")

# %%
# Two weeks ahead: 200 scenarios, drawn day by day.
start, n_paths, n_ahead = n_train + n_lags, 200, 14
paths = np.tile(demand[:start], (n_paths, 1))
for t in range(start, start + n_ahead):
    rows = np.array([features(path, t) for path in paths])
    new = model.sample(rows, n_samples=1, random_state=t)
    paths = np.column_stack([paths, new])

# %%
# The band widens with the distance, and the week remains.
days = np.arange(start - 21, start + n_ahead)
ahead = np.arange(start, start + n_ahead)
low, middle, high = np.quantile(paths[:, start:], [0.05, 0.5, 0.95], axis=0)
fig, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
ax.fill_between(ahead, low, high, alpha=0.25, label="90 % of the scenarios")
ax.plot(ahead, middle, label="median")
ax.plot(ahead, paths[:5, start:].T, color="C0", lw=0.6, alpha=0.5)
ax.plot(days, demand[days], "k.-", lw=0.8, label="demand")
ax.axvline(start - 0.5, color="0.7", lw=1)
ax.set(xlabel="day", ylabel="demand")
ax.legend(loc="upper left")
plt.show()
