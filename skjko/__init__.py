"""Density estimation with JKO-iFlow normalizing flows, for scikit-learn."""

from skjko.density import JKOFlowDensity
from skjko.outlier import JKOFlowOutlierDetector

__all__ = ["JKOFlowDensity", "JKOFlowOutlierDetector"]
__version__ = "0.1.0.dev0"
