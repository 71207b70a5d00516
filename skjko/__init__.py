"""Density estimation with JKO-iFlow normalizing flows, for scikit-learn."""

from skjko.density import JKOFlowDensity
from skjko.outlier import JKOFlowOutlierDetector
from skjko.version import __version__

__all__ = ["JKOFlowDensity", "JKOFlowOutlierDetector", "__version__"]
