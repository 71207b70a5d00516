"""Density estimation with JKO-iFlow normalizing flows, for scikit-learn."""

# SPDX-License-Identifier: BSD-3-Clause

import importlib
from typing import TYPE_CHECKING, Any

from skjko.version import __version__

if TYPE_CHECKING:
    from skjko.classifier import JKOFlowClassifier
    from skjko.components import JKOSchedule, MLPField, RungeKutta, VelocityField
    from skjko.conditional import JKOFlowConditionalDensity
    from skjko.density import JKOFlowDensity
    from skjko.local_components import ConvField, GraphField
    from skjko.outlier import JKOFlowOutlierDetector

__all__ = [
    "ConvField",
    "GraphField",
    "JKOFlowClassifier",
    "JKOFlowConditionalDensity",
    "JKOFlowDensity",
    "JKOFlowOutlierDetector",
    "JKOSchedule",
    "MLPField",
    "RungeKutta",
    "VelocityField",
    "__version__",
]

# Imported when they are asked for: torch takes seconds, which `skjko --help` and
# `skjko info` do not need.
_MODULES = {
    "ConvField": "skjko.local_components",
    "GraphField": "skjko.local_components",
    "JKOFlowClassifier": "skjko.classifier",
    "JKOFlowConditionalDensity": "skjko.conditional",
    "JKOFlowDensity": "skjko.density",
    "JKOFlowOutlierDetector": "skjko.outlier",
    "JKOSchedule": "skjko.components",
    "MLPField": "skjko.components",
    "RungeKutta": "skjko.components",
    "VelocityField": "skjko.components",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
