"""
How sure is a prediction?
=========================

``JKOFlowConditionalDensity`` is a regressor that has the whole distribution of a target
given features: intervals whose width follows the features, quantiles and samples.
"""

# SPDX-License-Identifier: BSD-3-Clause

# %%
# Noise that grows with x and is skewed.
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import gamma

from skjko import JKOFlowConditionalDensity
from skjko.plots import CalibrationDisplay


def draw(n, seed):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 10, n)
    truth = gamma(3.0, loc=np.sin(x), scale=0.05 + 0.1 * x)
    return x[:, None], truth.rvs(random_state=rng), truth


X, y, _ = draw(600, 0)
X_test, y_test, truth = draw(600, 1)
model = JKOFlowConditionalDensity(random_state=0).fit(X, y)
low, high = model.predict_interval(X_test, coverage=0.9).T
print(f"coverage of 90 % intervals: {((low <= y_test) & (y_test <= high)).mean():.1%}")
print(f"mean log-density: {model.score(X_test, y_test):.3f} nats")
print(f"true density:     {truth.logpdf(y_test).mean():.3f} nats")

# %%
# Quantiles follow the width and the skew of the noise.
x = np.linspace(0, 10, 100)
levels = [0.05, 0.5, 0.95]
predicted = model.predict_quantile(x[:, None], levels)
exact = gamma(3.0, loc=np.sin(x), scale=0.05 + 0.1 * x)
fig, ax = plt.subplots(figsize=(7, 3.8), layout="constrained")
ax.scatter(X_test[:, 0], y_test, s=5, color="0.75", linewidths=0)
for i, level in enumerate(levels):
    ax.plot(x, predicted[:, i], color="C0", label="model" if i == 0 else None)
    label = "truth" if i == 0 else None
    ax.plot(x, exact.ppf(level), "k--", lw=1, label=label)
ax.set(xlabel="x", ylabel="y", title="Quantiles at 5, 50 and 95 %")
ax.legend()

# %%
# The distribution function at test targets is uniform if the model is calibrated.
CalibrationDisplay.from_predictions(model.cdf(X_test, y_test), name="F(y | x)")
plt.show()
