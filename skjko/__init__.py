"""Density estimation with JKO-iFlow normalizing flows, for scikit-learn."""

# SPDX-License-Identifier: BSD-3-Clause

from skjko.components import JKOSchedule, MLPField, RungeKutta, VelocityField
from skjko.conditional import JKOFlowConditionalDensity
from skjko.density import JKOFlowDensity
from skjko.outlier import JKOFlowOutlierDetector
from skjko.version import __version__

__all__ = [
    "JKOFlowConditionalDensity",
    "JKOFlowDensity",
    "JKOFlowOutlierDetector",
    "JKOSchedule",
    "MLPField",
    "RungeKutta",
    "VelocityField",
    "__version__",
]
