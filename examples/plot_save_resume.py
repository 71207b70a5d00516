"""
How do I save a model, and go on with a fit that was killed?
============================================================

``save`` writes one file without pickle. ``checkpoint`` keeps the result of every task
of a fit, so that the same fit, run again, does only what is missing.
"""

# SPDX-License-Identifier: BSD-3-Clause

# %%
import tempfile
from pathlib import Path
from time import process_time

import matplotlib.pyplot as plt
import numpy as np

from skjko import JKOFlowDensity, MLPField
from skjko.datasets import moons
from skjko.io import file_info

X = moons().sample(1500, random_state=0)
folder = Path(tempfile.mkdtemp())
flow = JKOFlowDensity(
    init="gaussian",
    transforms=None,
    field=MLPField((32, 32)),
    max_blocks=3,
    max_iter=80,
    checkpoint=folder / "runs",
    random_state=0,
)

# %%
# A callback that fails stands for whatever ends a fit: a full disk, a time limit of a
# cluster, a power cut.


class PowerCut:
    def setup(self, estimator, context):
        self.n_blocks = 0

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        self.n_blocks += context.task_name == "block"
        if self.n_blocks == 2:
            raise RuntimeError("power cut")

    def teardown(self, estimator, context):
        pass


def seconds(fit):
    start = process_time()
    try:
        fit(X)
    except RuntimeError as error:
        print(error)
    return process_time() - start


killed = seconds(flow.set_callbacks(PowerCut()).fit)
resumed = seconds(flow.set_callbacks().fit)
nothing = seconds(flow.fit)

# %%
# The second fit reads the blocks that are there, and the third one all of them. The
# model is the same as without an interruption.
fig, ax = plt.subplots(figsize=(6, 2.2), layout="constrained")
ax.barh(["killed", "resumed", "once more"], [killed, resumed, nothing])
ax.invert_yaxis()
ax.set(xlabel="processor seconds of fit")
plt.show()
whole = JKOFlowDensity(**{**flow.get_params(deep=False), "checkpoint": None}).fit(X)
print(np.array_equal(whole.score_samples(X), flow.score_samples(X)))

# %%
# A file can be looked into without loading it, and loaded on another machine.
flow.save(folder / "moons.skjko")
info = file_info(folder / "moons.skjko")
print(info["class"], info["transforms"], info["step_sizes"], f"{info['n_bytes']} bytes")
loaded = JKOFlowDensity.load(folder / "moons.skjko")
print(np.array_equal(loaded.score_samples(X), flow.score_samples(X)))
