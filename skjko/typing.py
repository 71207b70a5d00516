"""Types that recur in annotations."""

# SPDX-License-Identifier: BSD-3-Clause

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]

Seed: TypeAlias = int | np.random.RandomState | None
"""A `random_state`, as scikit-learn takes it."""

PerFeature: TypeAlias = ArrayLike | Sequence[Any] | Mapping[Any, Any]
"""An item for every feature, or a dict of some."""

State: TypeAlias = dict[str, Any]
"""What is saved of an object: plain values, arrays, and objects with a state."""

ArrayOrFrame: TypeAlias = Any
"""An array, or a DataFrame of pandas or polars where the data were one."""

F = TypeVar("F", bound=Callable[..., Any])


def typed(decorator: Any) -> Callable[[F], F]:
    """Return a decorator without type hints as one that keeps those of a function."""
    return decorator
