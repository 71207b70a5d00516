"""
How do I tune a density, alone and in a pipeline?
=================================================

``score`` is the mean log-density, so ``GridSearchCV`` needs no scorer. Parameters of
the field and of the schedule have names with two underscores.
"""

# SPDX-License-Identifier: BSD-3-Clause

# %%
# ``init="gaussian"`` tunes the flow itself. With the default the density may be a
# mixture, on which parameters of the field have no effect.
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skjko import JKOFlowDensity, MLPField
from skjko.datasets import moons

X = moons().sample(2400, random_state=0)
flow = JKOFlowDensity(
    init="gaussian",
    transforms=None,
    field=MLPField((32, 32)),
    max_blocks=1,
    max_iter=40,
    random_state=0,
)
# Data may be sorted: shuffle.
cv = KFold(2, shuffle=True, random_state=0)
grid = {"field__frequency": [1.0, 3.0, 9.0], "learning_rate_init": [0.003, 0.03]}
search = GridSearchCV(flow, grid, cv=cv).fit(X)
results = pd.DataFrame(search.cv_results_)
print(search.best_params_)

# %%
# One cell for every pair of values: yellow is best.
scores = results.pivot(
    index="param_field__frequency",
    columns="param_learning_rate_init",
    values="mean_test_score",
)
fig, ax = plt.subplots(figsize=(5, 3.6), layout="constrained")
image = ax.imshow(scores, cmap="viridis", aspect="auto")
ax.set_xticks(range(scores.shape[1]), scores.columns)
ax.set_yticks(range(scores.shape[0]), scores.index)
ax.set(xlabel="learning_rate_init", ylabel="field__frequency")
for (i, j), value in np.ndenumerate(scores.to_numpy()):
    color = "black" if image.norm(value) > 0.5 else "white"
    ax.text(j, i, f"{value:.2f}", ha="center", va="center", color=color)
ax.set_title("Mean log-density of held-out samples")
plt.show()

# %%
# The density may be the last step of a pipeline. Scores are those of the data behind
# the other steps, so compare pipelines by them only if these steps are the same: a
# scaler alone changes the score by its Jacobian, and is not needed.
pipe = make_pipeline(FunctionTransformer(), flow)
inner = GridSearchCV(pipe, {"jkoflowdensity__max_iter": [10, 40]}, cv=cv).fit(X)
print(inner.best_params_)

# %%
# Searches and pipelines have no ``sample``; the density inside has.
print(inner.best_estimator_[-1].sample(2, random_state=0))
