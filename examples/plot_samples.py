"""
Do the samples look like the data?
==================================

Look at pairs of features, and let tests decide what the eye cannot.
"""

# SPDX-License-Identifier: BSD-3-Clause

# %%
# A density of four measurements of flowers, by half of them.
import matplotlib.pyplot as plt
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split

from skjko import JKOFlowDensity
from skjko.metrics import generalization_gap, latent_normality, mmd_test
from skjko.plots import PairDisplay

iris = load_iris(as_frame=True).data
X, X_test = train_test_split(iris, test_size=0.5, random_state=0)
density = JKOFlowDensity(init="mixture", max_blocks=0, random_state=0).fit(X)
single = JKOFlowDensity(
    init="gaussian", max_blocks=0, transforms=None, random_state=0
).fit(X)

# %%
# Data are below the diagonal, samples above it.
PairDisplay.from_estimator(density, X, random_state=0)
plt.show()

# %%
# A two-sample test by the maximum mean discrepancy: a small p-value says that test
# samples and samples of the model differ. A single Gaussian stands beside it.
for name, model in (("skjko", density), ("one Gaussian", single)):
    samples = model.sample(len(X_test), random_state=0)
    found = mmd_test(X_test, samples, random_state=0)
    print(f"{name}: p = {found.p_value:.3f}, score {model.score(X_test):.2f} nats")

# %%
# Latent positions of test samples are standard normal if the density fits. A gap
# between training and test samples says how much of the fit is memory.
normality = latent_normality(density.transform(X_test))
print(f"latent positions: p = {normality.radius_p_value:.3f}")
gap, error = generalization_gap(density, X, X_test)
print(f"gap: {gap:.2f} ± {error:.2f} nats")
