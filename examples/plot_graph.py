"""
What happens next on a graph?
=============================

``GraphField`` has the same weights at every node of a graph. A conditional density with
it has the next values of all nodes, given those before, and samples of it are values of
the whole graph.
"""

# SPDX-License-Identifier: BSD-3-Clause

# %%
# Speeds at 20 places of a road network. In half of the steps there is an incident at a
# random place, which slows its neighbours too; the rest is what the speeds were in the
# neighbourhood, and noise. The true density is a mixture of 21 normal distributions.
import matplotlib.pyplot as plt
import numpy as np
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.linear_model import LinearRegression

from skjko import GraphField, JKOFlowConditionalDensity, MLPField

n_nodes, n_steps, noise = 20, 2000, 2.0
rng = np.random.default_rng(0)
place = rng.uniform(size=(n_nodes, 2))
distance = np.linalg.norm(place[:, None] - place, axis=-1)
edges = np.zeros((n_nodes, n_nodes))
np.put_along_axis(edges, np.argsort(distance, axis=1)[:, 1:4], 1.0, axis=1)
edges = np.maximum(edges, edges.T)
spread = (np.eye(n_nodes) + edges / edges.sum(axis=1, keepdims=True)) / 2

# What an incident at each place takes away, and what none does.
loss = np.vstack([40 * spread.T, np.zeros(n_nodes)])
share = np.append(np.full(n_nodes, 0.5 / n_nodes), 0.5)


def usual(before):
    """Speeds after those before, without an incident and noise."""
    return 60 + 0.7 * (before - 60) @ spread.T


speeds = np.full((n_steps, n_nodes), 60.0)
for t in range(1, n_steps):
    lost = loss[rng.choice(n_nodes + 1, p=share)]
    speeds[t] = usual(speeds[t - 1]) - lost + noise * rng.normal(size=n_nodes)
X, y, X_test, y_test = speeds[:1499], speeds[1:1500], speeds[1500:-1], speeds[1501:]
gaps = (y_test - usual(X_test))[:, None] + loss
truth = logsumexp(norm(scale=noise).logpdf(gaps).sum(axis=-1), b=share, axis=1)
print(f"truth: {truth.mean():.2f} nats")

# %%
# The same edges between other nodes are another model.
order = rng.permutation(n_nodes)
models = {}
for name, field in (
    ("GraphField", GraphField(edges, n_node_conditions=1)),
    ("wrong edges", GraphField(edges[order][:, order], n_node_conditions=1)),
    ("MLPField", MLPField()),
):
    models[name] = JKOFlowConditionalDensity(
        regressor=LinearRegression(),
        field=field,
        transforms=None,
        init="gaussian",
        max_blocks=1,
        max_iter=100,
        random_state=0,
    ).fit(X, y)
    print(f"{name}: {models[name].score(X_test, y_test):.2f} nats")

# %%
# Speeds, those a step later, and three samples given the speeds before: in some of them
# there is an incident, at one place and in its neighbourhood.
before = X_test[:1]
drawn = models["GraphField"].sample(before, n_samples=3, random_state=0)
pictures = [before[0], y_test[0], *drawn.reshape(3, n_nodes)]
titles = ["before", "next", "sample", "sample", "sample"]
fig, axes = plt.subplots(1, 5, figsize=(11, 2.6), layout="constrained")
first, second = np.nonzero(np.triu(edges))
for ax, values, title in zip(axes, pictures, titles, strict=True):
    ax.plot(*place[[first, second]].transpose(2, 0, 1), color="0.8", lw=1, zorder=0)
    dots = ax.scatter(*place.T, c=values, vmin=35, vmax=65, cmap="viridis", s=45)
    ax.set(title=title, xticks=[], yticks=[])
fig.colorbar(dots, ax=axes, label="speed")
plt.show()
