"""Displays: pictures of densities, blocks and fits, in scikit-learn's manner.

They need matplotlib, which `pip install "skjko[plot]"` brings.
"""

# SPDX-License-Identifier: BSD-3-Clause

from skjko.plots.calibration import CalibrationDisplay
from skjko.plots.density import DensityDisplay
from skjko.plots.flow import FlowDisplay
from skjko.plots.pairs import PairDisplay
from skjko.plots.paths import TrajectoryDisplay
from skjko.plots.reasons import ReasonsDisplay
from skjko.plots.training import MovementsDisplay, TrainingDisplay

__all__ = [
    "CalibrationDisplay",
    "DensityDisplay",
    "FlowDisplay",
    "MovementsDisplay",
    "PairDisplay",
    "ReasonsDisplay",
    "TrainingDisplay",
    "TrajectoryDisplay",
]
