"""
What do I do about missing values?
==================================

Missing values are an error that names the columns and the rows. Drop the rows if few
have gaps; impute if many have. What the imputation does to the density can be seen.
"""

# SPDX-License-Identifier: BSD-3-Clause

# %%
# Two correlated measurements; a quarter of the second one is missing.
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, SimpleImputer

from skjko import JKOFlowDensity

rng = np.random.default_rng(0)
whole = pd.DataFrame({"pressure": rng.standard_normal(800)})
whole["flow rate"] = np.tanh(2 * whole["pressure"]) + 0.2 * rng.standard_normal(800)
gaps = whole.mask(rng.random((800, 2)) < [0.0, 0.25])
density = JKOFlowDensity(init="mixture", max_blocks=0, random_state=0)
try:
    density.fit(gaps)
except ValueError as error:
    print(error)

# %%
# Three ways to go on, judged by the mean log-density of whole rows that no fit saw. A
# constant in every gap makes a line that is not there. Random draws of a linear
# regression keep the width, but not the shape. Rows may be dropped where gaps do not
# depend on the values, as here.
pressure = rng.standard_normal(2000)
X_test = pd.DataFrame(
    {
        "pressure": pressure,
        "flow rate": np.tanh(2 * pressure) + 0.2 * rng.standard_normal(2000),
    }
)
draws = IterativeImputer(sample_posterior=True, random_state=0)
tables = {
    "rows dropped": gaps.dropna(),
    "mean imputed": SimpleImputer().set_output(transform="pandas").fit_transform(gaps),
    "drawn": draws.set_output(transform="pandas").fit_transform(gaps),
}
fig, axes = plt.subplots(
    1, 3, figsize=(11, 3.6), sharex=True, sharey=True, layout="constrained"
)
for ax, (name, X) in zip(axes, tables.items(), strict=True):
    score = density.fit(X).score(X_test)
    ax.scatter(*X.to_numpy().T, s=4, linewidths=0)
    ax.set(title=f"{name}, {len(X)} rows\nscore {score:.3f}", xlabel="pressure")
axes[0].set_ylabel("flow rate")
plt.show()
