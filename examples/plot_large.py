"""
What if the data do not fit into memory, or time is short?
==========================================================

``fit`` takes memory maps and reads them in chunks. ``time_limit`` says how many seconds
it may take.
"""

# SPDX-License-Identifier: BSD-3-Clause

# %%
# A file of samples, one after another. A small one here; it works the same with ten
# million rows.
import tempfile
from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from sklearn import config_context

from skjko import JKOFlowDensity
from skjko.datasets import correlated_mixture

path = Path(tempfile.mkdtemp(), "samples.npy")
np.save(path, correlated_mixture(10).sample(20_000, random_state=0))
X = np.load(path, mmap_mode="r")
X_test = correlated_mixture(10).sample(1000, random_state=1)
truth = correlated_mixture(10).score_samples(X_test).mean()

# %%
# ``working_memory``, in MB, bounds what is in memory at a time.
scores, taken = [], []
for limit in (1, 2, 4, 8):
    start = perf_counter()
    with config_context(working_memory=16):
        density = JKOFlowDensity(time_limit=limit, random_state=0).fit(X)
    taken.append(perf_counter() - start)
    scores.append(density.score(X_test))
    print(f"limit {limit} s: {taken[-1]:.1f} s, {scores[-1]:.3f} nats")

# %%
# More time is put to use until nothing is left to gain.
fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
ax.plot(taken, scores, "o-", label="skjko")
ax.axhline(truth, color="k", ls="--", lw=1, label="true density")
ax.set(xlabel="seconds of fit", ylabel="mean log-density of test samples, nats")
ax.legend()
plt.show()
