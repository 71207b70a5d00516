"""Invertible maps that may stand in front of the flow."""

# SPDX-License-Identifier: BSD-3-Clause

from skjko.transforms.asinh import Asinh
from skjko.transforms.base import Chain, Transform
from skjko.transforms.bounds import Bounds
from skjko.transforms.class_location_scale import ClassLocationScale
from skjko.transforms.location_scale import LocationScale
from skjko.transforms.marginals import MarginalMixtures
from skjko.transforms.mixture_map import MixtureMap
from skjko.transforms.normal_cells import NormalCells
from skjko.transforms.radial import Radial
from skjko.transforms.student import StudentT
from skjko.transforms.whitening import Whitening

__all__ = [
    "Asinh",
    "Bounds",
    "Chain",
    "ClassLocationScale",
    "LocationScale",
    "MarginalMixtures",
    "MixtureMap",
    "NormalCells",
    "Radial",
    "StudentT",
    "Transform",
    "Whitening",
]
