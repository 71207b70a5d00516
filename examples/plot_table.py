"""
Can a table have integers, text and yes-or-no columns?
======================================================

Yes. Columns of a data frame are taken as they are: categories need no encoding, and
samples come back as a data frame with the same columns and types.
"""

# SPDX-License-Identifier: BSD-3-Clause

# %%
# Age in whole years, an income, a city and whether someone is a customer.
import numpy as np
import pandas as pd

from skjko import JKOFlowDensity
from skjko.plots import PairDisplay

rng = np.random.default_rng(0)
n = 1200
a = rng.standard_normal(n)
table = pd.DataFrame(
    {
        "age": np.round(40 + 9 * a + 3 * rng.standard_normal(n)).astype(int),
        "income": np.exp(3 + 0.5 * a + 0.3 * rng.standard_normal(n)),
        "city": np.where(a > 0.5, "Rome", np.where(a > -0.5, "Oslo", "Cairo")),
        "customer": rng.random(n) < 1 / (1 + np.exp(-2 * a)),
    }
)
density = JKOFlowDensity(
    init="mixture", max_blocks=0, bounds={"income": (0, None)}, random_state=0
).fit(table)
samples = density.sample(n, random_state=0)
samples.head()

# %%
# Data are below the diagonal, samples above it.
PairDisplay.from_predictions(table, samples)

# %%
# A score is a log-probability in the columns that are discrete, and a log-density in
# the others. The share of every city is that of the data:
print(
    pd.DataFrame(
        {
            "data": table["city"].value_counts(normalize=True),
            "samples": samples["city"].value_counts(normalize=True),
        }
    ).round(3)
)
