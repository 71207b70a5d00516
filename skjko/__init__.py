"""Density estimation with JKO-iFlow normalizing flows, for scikit-learn."""

from skjko.density import JKOFlowDensity

__all__ = ["JKOFlowDensity"]
__version__ = "0.1.0.dev0"
