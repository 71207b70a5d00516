"""What displays share: axes, colours, and features by name."""

# SPDX-License-Identifier: BSD-3-Clause

from collections.abc import Sequence
from numbers import Integral
from typing import Any, TypeAlias

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_is_fitted

from skjko.data.columns import frame_of, labels_of
from skjko.typing import Floats

Axes: TypeAlias = Any
"""Axes of matplotlib, which is not imported before something is drawn."""

Features: TypeAlias = Sequence[int | str] | None
"""Numbers or names of features."""

BLUE, ORANGE, GREY = "#1f6fb4", "#e07b1f", "#8a8a8a"
COLORS = (BLUE, ORANGE, "#3a923a", "#9467bd", "#c44e52", "#8c613c")


def new_axes(
    ax: Axes, n: int, caller: str, size: tuple[float, float], wide: int = 5
) -> tuple[Any, Any]:
    """Return n axes, in rows of at most `wide`, and their figure.

    Parameters
    ----------
    ax : Axes, array-like of Axes, or None
        None makes a new figure.
    n : int
    caller : str
        Of the method, for messages.
    size : (float, float)
        Width and height of one of them, in inches.
    wide : int, default=5

    Raises
    ------
    ImportError
        If there is no matplotlib.
    ValueError
        If the number of axes is another.
    """
    check_matplotlib_support(caller)
    if ax is not None:
        axes = np.array([ax], dtype=object) if not np.ndim(ax) else np.ravel(ax)
        if len(axes) != n:
            raise ValueError(
                f"The 'ax' parameter of {caller} must be {n} axes. Got {len(axes)} "
                "instead."
            )
        return axes, axes[0].figure
    import matplotlib.pyplot as plt

    columns = min(n, wide)
    rows = -(-n // columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(columns * size[0], rows * size[1]),
        squeeze=False,
        layout="constrained",
    )
    for unused in grid.ravel()[n:]:
        unused.remove()
    return grid.ravel()[:n], figure


def names_of(estimator: Any, X: ArrayLike | None, n_features: int) -> list[str]:
    """Return names of the features, from the estimator or from the samples."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is None and X is not None:
        names = labels_of(frame_of(X))
    if names is None:
        return [f"feature {j}" for j in range(n_features)]
    return [str(name) for name in names]


def find_features(
    features: Features, names: list[str], caller: str, n: int | None = None
) -> list[int]:
    """Return the numbers of features that are given by number or name.

    Parameters
    ----------
    features : sequence of int or str, or None
        None for the first n.
    names : list of str
    caller : str
        Of the method, for messages.
    n : int, optional
        How many there have to be.

    Raises
    ------
    ValueError
        If there is no such feature, or their number is another.
    """
    if features is None:
        features = list(range(len(names) if n is None else n))
    if isinstance(features, str) or (n is not None and len(features) != n):
        raise ValueError(
            f"The 'features' parameter of {caller} must be {n or 'several'} features. "
            f"Got {features!r} instead."
        )
    found = []
    for feature in features:
        is_number = isinstance(feature, Integral) and not isinstance(feature, bool)
        if is_number and 0 <= int(feature) < len(names):
            found.append(int(feature))
        elif feature in names:
            found.append(names.index(str(feature)))
        else:
            raise ValueError(
                f"The 'features' parameter of {caller} has {feature!r}, which is "
                f"neither a name nor a number of a feature. There are {names}."
            )
    return found


def columns_of(
    tables: Sequence[ArrayLike],
) -> tuple[list[Floats], list[list[str] | None]]:
    """Return tables as arrays of numbers, and the texts that numbers stand for.

    Parameters
    ----------
    tables : sequence of array-like of shape (n_samples, n_features)
        Of the same features. Columns of text and categories get numbers, the same ones
        in all of them.

    Returns
    -------
    arrays : list of ndarray of shape (n_samples, n_features)
    texts : list of (list of str or None)
        For each feature: None for numbers.
    """
    columns = [_columns(table) for table in tables]
    if len({len(one) for one in columns}) != 1:
        counts = " and ".join(str(len(one)) for one in columns)
        raise ValueError(f"The tables have {counts} features. They must have the same.")
    texts: list[list[str] | None] = []
    for parts in zip(*columns, strict=True):
        is_text = any(part.dtype.kind not in "biuf" for part in parts)
        seen = {str(value) for part in parts for value in part} if is_text else set()
        texts.append(sorted(seen) if is_text else None)
    arrays = [
        np.column_stack(
            [
                part.astype(float) if text is None else _codes(part, text)
                for part, text in zip(one, texts, strict=True)
            ]
        )
        for one in columns
    ]
    if any(np.isnan(array).any() for array in arrays):
        raise ValueError(
            "X contains NaN, which no picture can show. Draw the missing values first, "
            "as by JKOFlowDensity.impute, or drop their rows."
        )
    return arrays, texts


def _columns(table: Any) -> list[Any]:
    frame = frame_of(table)
    if frame is None:
        array = np.asarray(table)
        if array.ndim != 2:
            raise ValueError(f"Expected a table, got an array of shape {array.shape}.")
        return list(array.T)
    return [_values(series) for series in frame.iter_columns()]


def _values(series: Any) -> Any:
    """Numbers of a column, or its texts."""
    if isinstance(series.dtype, (nw.Boolean, nw.String, nw.Categorical, nw.Enum)):
        return np.array([str(value) for value in series.to_list()], dtype=object)
    values = series.to_numpy()
    try:
        return values.astype(float)
    except (TypeError, ValueError):
        return np.array([str(value) for value in values], dtype=object)


def _codes(values: Any, texts: list[str]) -> Floats:
    numbers = {text: i for i, text in enumerate(texts)}
    return np.array([numbers[str(value)] for value in values], dtype=float)


def directions(X: Floats) -> Floats:
    """Return a colour for every sample of the plane, by its direction from the median.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        The first two features count.
    """
    centred = X - np.median(X, axis=0)
    scale = np.median(np.abs(centred), axis=0)
    centred = centred / np.where(scale > 0, scale, 1.0)
    if X.shape[1] < 2:
        angle = np.pi * np.tanh(centred[:, 0] / 3)
    else:
        angle = np.arctan2(centred[:, 1], centred[:, 0])
    thirds = 2 * np.pi / 3 * np.arange(3)
    return 0.45 + 0.4 * np.cos(angle[:, None] - thirds)


def edges_of(values: Floats, n: int, most_values: int, eps: float) -> Floats:
    """Return edges of bins: one bin for every value where there are few on a grid.

    Parameters
    ----------
    values : ndarray of shape (n_samples,)
    n : int
        Number of bins otherwise.
    most_values : int
        The most values, and half as many steps, that get a bin each.
    eps : float
        Share of the range by which the bins go beyond it, at either end.
    """
    levels = np.unique(values)
    low, high = levels[0], levels[-1]
    if len(levels) <= most_values:
        step = float(np.diff(levels).min()) if len(levels) > 1 else 1.0
        n_steps = (levels - low) / step
        is_grid = np.allclose(n_steps, np.round(n_steps), atol=1e-6)
        if is_grid and n_steps[-1] <= 2 * most_values:
            more = int(eps * n_steps[-1])
            return low + step * (np.arange(-more, round(n_steps[-1]) + more + 2) - 0.5)
    margin = eps * (high - low) if high > low else 1.0
    return np.linspace(low - margin, high + margin, n + 1)


def draw_circles(ax: Axes) -> None:
    """Draw circles of one, two and three standard deviations about zero."""
    from matplotlib.patches import Circle

    for radius in (1, 2, 3):
        ax.add_patch(Circle((0, 0), radius, fill=False, ec=GREY, lw=0.6, ls=":"))


def thinned(X: Any, n: int | None, seed: int = 0) -> Any:
    """Return at most n random rows of a table, in their order."""
    frame = frame_of(X)
    n_rows = len(np.asarray(X)) if frame is None else len(frame)
    if n is None or n_rows <= n:
        return X
    rows = np.sort(np.random.RandomState(seed).permutation(n_rows)[:n])
    if frame is None:
        return np.asarray(X)[rows]
    return frame[rows.tolist()].to_native()


def followed(
    estimator: Any, X: ArrayLike, features: Features, n_samples: int | None, caller: str
) -> tuple[Any, list[int], list[str]]:
    """Return samples to follow, the numbers of two features, and their names.

    Raises
    ------
    ValueError
        If the estimator has no `trajectory`, or there are no two such features.
    """
    if not hasattr(estimator, "trajectory"):
        inside = " Take its density_." if hasattr(estimator, "density_") else ""
        raise ValueError(
            f"{caller} needs an estimator with the method trajectory, such as "
            f"JKOFlowDensity. Got {type(estimator).__name__} instead.{inside}"
        )
    check_is_fitted(estimator)
    d = estimator.n_features_in_
    if d < 2:
        raise ValueError(f"{caller} needs at least two features. The estimator has 1.")
    names = names_of(estimator, X, d)
    which = find_features(features, names, caller, 2)
    return thinned(X, n_samples), which, [names[j] for j in which]
