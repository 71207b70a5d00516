"""The classes that files may hold, by their names."""

# SPDX-License-Identifier: BSD-3-Clause

import dataclasses

from torch.nn import Module

from skjko import components, local_components, predictors
from skjko.condition import Condition, Encoder
from skjko.data.categories import Categories
from skjko.data.frames import Table
from skjko.fitted import Fitted
from skjko.flow.block_training import BlockResult
from skjko.flow.records import BlockRecord, Round
from skjko.flow.step_selection import Discretization
from skjko.kernel_density import KernelDensity
from skjko.missing import Proposal
from skjko.model import Model
from skjko.selection import CandidateRecord
from skjko.support import Support
from skjko.transforms.asinh import Asinh
from skjko.transforms.atoms import Atoms
from skjko.transforms.base import Chain
from skjko.transforms.bounds import Bounds
from skjko.transforms.class_location_scale import ClassLocationScale
from skjko.transforms.discrete import DiscreteGrid
from skjko.transforms.location_scale import LocationScale
from skjko.transforms.marginals import MarginalMixtures
from skjko.transforms.mixture_map import MixtureMap
from skjko.transforms.normal_cells import NormalCells
from skjko.transforms.radial import Radial
from skjko.transforms.student import StudentT
from skjko.transforms.whitening import Whitening

CLASSES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        components.JKOSchedule,
        components.MLPField,
        components.RungeKutta,
        local_components.ConvField,
        local_components.GraphField,
        Asinh,
        Atoms,
        Bounds,
        Chain,
        ClassLocationScale,
        LocationScale,
        MarginalMixtures,
        MixtureMap,
        NormalCells,
        Radial,
        StudentT,
        Whitening,
        BlockRecord,
        BlockResult,
        CandidateRecord,
        Categories,
        Condition,
        Discretization,
        DiscreteGrid,
        Encoder,
        Fitted,
        KernelDensity,
        Model,
        Proposal,
        Round,
        Support,
        Table,
        predictors.Process,
        predictors.Ridge,
        predictors.Stack,
        predictors.Trees,
    )
}
"""All classes that need no trust: making one of them runs no code of the file."""


def own_classes(value):
    """Return the classes, by name, of fields and transforms of the user's own.

    Parameters
    ----------
    value : object
        Parameters or the state of an estimator, with all that is in them.
    """
    found, left = {}, [value]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, (list, tuple)):
            left += value
        elif dataclasses.is_dataclass(value):
            left += vars(value).values()
        elif hasattr(type(value), "from_state") and not isinstance(value, Module):
            if type(value).__name__ not in CLASSES:
                found[type(value).__name__] = type(value)
            left += value.get_state().values()
    return found
