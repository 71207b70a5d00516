"""Draw outliers.png, beside this file."""

# SPDX-License-Identifier: BSD-3-Clause

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from skjko import JKOFlowOutlierDetector
from skjko.datasets import moons

normal = moons().sample(2000, random_state=0)
detector = JKOFlowOutlierDetector(random_state=0).fit(normal)
noise = np.random.default_rng(1).uniform(-3.6, 3.6, (25, 2))
new = np.vstack([moons().sample(100, random_state=1), noise])

figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.6), sharex=True, sharey=True)
axes[0].scatter(*normal.T, s=2, color="0.5")
axes[0].set_title("training and calibration samples", fontsize=10)
ticks = np.linspace(-3.8, 3.8, 150)
x, y = np.meshgrid(ticks, ticks)
p = detector.p_values(np.c_[x.ravel(), y.ravel()]).reshape(x.shape)
axes[1].contourf(x, y, p, levels=[0.05, 0.2, 0.5, 1], cmap="Blues", alpha=0.6)
is_inlier = detector.predict(new) == 1
axes[1].scatter(*new[is_inlier].T, s=8, color="C0", label="inlier")
axes[1].scatter(*new[~is_inlier].T, s=20, color="C1", marker="x", label="outlier")
axes[1].set_title("new samples; p > 0.05, 0.2, 0.5 shaded", fontsize=10)
axes[1].legend(loc="upper right", fontsize=8)
figure.tight_layout()
figure.savefig(Path(__file__).with_suffix(".png"), dpi=80)
