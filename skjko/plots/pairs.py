"""Display of data against samples, in pairs of features."""

# SPDX-License-Identifier: BSD-3-Clause

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_is_fitted

from skjko.plots.common import (
    BLUE,
    ORANGE,
    Axes,
    Features,
    columns_of,
    edges_of,
    find_features,
    names_of,
    new_axes,
    thinned,
)
from skjko.typing import Floats, Seed

# Features with at most so many values get one bar for each of them.
_MOST_VALUES = 30


class PairDisplay:
    """Data against samples of a density, for every pair of features.

    Make one with `from_estimator` or `from_predictions`. Below the diagonal are the
    data, above it the samples, and on it the histograms of both.

    Parameters
    ----------
    data, samples : ndarray of shape (n_samples, n_features)
        Rows to compare. Their numbers may differ.
    names : list of str
        Names of the features.
    texts : list of (list of str or None), default=None
        For every feature of categories, what 0, 1, ... stand for; None for numbers.

    Attributes
    ----------
    axes_ : ndarray of shape (n_features, n_features) of Axes
        One for every pair; [i, j] has feature j on its horizontal axis.
    figure_ : Figure
        The figure that has them.

    Examples
    --------
    >>> from skjko import JKOFlowDensity
    >>> from skjko.datasets import moons
    >>> from skjko.plots import PairDisplay
    >>> X = moons().sample(500, random_state=0)
    >>> density = JKOFlowDensity(init="mixture", max_blocks=0, random_state=0).fit(X)
    >>> display = PairDisplay.from_estimator(density, X)
    >>> display.axes_.shape
    (2, 2)
    """

    def __init__(
        self,
        data: Floats,
        samples: Floats,
        names: list[str],
        *,
        texts: list[list[str] | None] | None = None,
    ) -> None:
        self.data, self.samples = data, samples
        self.names, self.texts = names, texts

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        *,
        features: Features = None,
        n_samples: int | None = 1000,
        random_state: Seed = 0,
        ax: Axes = None,
        **kwargs: Any,
    ) -> Self:
        """Draw data beside as many new samples.

        Parameters
        ----------
        estimator : JKOFlowDensity
            Fitted, with `sample`. Of an outlier detector, take its `density_`.
        X : array-like of shape (n_samples, n_features)
            The data, in data units.
        features : sequence of int or str, default=None
            Which features to show. None is the first five.
        n_samples : int or None, default=1000
            Largest number of rows of data and of samples; None shows all.
        random_state : int, RandomState instance or None, default=0
            Source of the samples.
        ax : array-like of Axes, default=None
            One for every pair. None makes a new figure.
        **kwargs
            Of matplotlib's `scatter`.

        Returns
        -------
        display : PairDisplay
            With `axes_` and `figure_`.

        Raises
        ------
        ValueError
            If the estimator has no `sample`, or there are no such features.
        """
        caller = f"{cls.__name__}.from_estimator"
        check_matplotlib_support(caller)
        if not hasattr(estimator, "sample"):
            inside = " Take its density_." if hasattr(estimator, "density_") else ""
            raise ValueError(
                f"{caller} needs an estimator with sample, such as JKOFlowDensity. Got "
                f"{type(estimator).__name__} instead.{inside}"
            )
        check_is_fitted(estimator)
        X = thinned(X, n_samples)
        n_rows = len(columns_of([X])[0][0])
        new = estimator.sample(n_rows, random_state=random_state)
        names = names_of(estimator, X, estimator.n_features_in_)
        return cls.from_predictions(
            X, new, features=features, names=names, ax=ax, **kwargs
        )

    @classmethod
    def from_predictions(
        cls,
        X: ArrayLike,
        samples: ArrayLike,
        *,
        features: Features = None,
        names: list[str] | None = None,
        ax: Axes = None,
        **kwargs: Any,
    ) -> Self:
        """Draw data beside samples that are there already.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The data.
        samples : array-like of shape (n_new_samples, n_features)
            The samples.
        features : sequence of int or str, default=None
            Which features to show. None is the first five.
        names : list of str, default=None
            Names of the features. None takes those of a data frame.
        ax : array-like of Axes, default=None
            One for every pair. None makes a new figure.
        **kwargs
            Of matplotlib's `scatter`.

        Returns
        -------
        display : PairDisplay
            With `axes_` and `figure_`.

        Raises
        ------
        ValueError
            If the tables have not the same features, or there are no such features.
        """
        (data, new), texts = columns_of([X, samples])
        if names is None:
            names = names_of(None, X, data.shape[1])
        if features is None:
            features = list(range(min(5, len(names))))
        which = find_features(features, names, f"{cls.__name__}.from_predictions")
        display = cls(
            data[:, which],
            new[:, which],
            [names[j] for j in which],
            texts=[texts[j] for j in which],
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Axes = None, **kwargs: Any) -> Self:
        """Draw all pairs.

        Parameters
        ----------
        ax : array-like of Axes, default=None
            One for every pair. None makes a new figure.
        **kwargs
            Of matplotlib's `scatter`.

        Returns
        -------
        display : PairDisplay
            With `axes_` and `figure_`.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        caller = f"{type(self).__name__}.plot"
        d = len(self.names)
        axes, self.figure_ = new_axes(ax, d * d, caller, (1.9, 1.8), wide=d)
        self.axes_ = axes.reshape(d, d)
        both = np.vstack([self.data, self.samples])
        bins = [edges_of(both[:, j], 30, _MOST_VALUES, 0.02) for j in range(d)]
        style = {"s": 5, "alpha": 0.5, "linewidths": 0, **kwargs}
        tables = ((self.data, BLUE, "data"), (self.samples, ORANGE, "samples"))
        shown = [(_jittered(table, bins), color) for table, color, _ in tables]
        for i, j in np.ndindex(d, d):
            axes = self.axes_[i, j]
            if i != j:
                points, color = shown[0 if i > j else 1]
                axes.scatter(points[:, j], points[:, i], **{"c": color, **style})
                axes.set_ylim(bins[i][0], bins[i][-1])
            else:
                for table, color, label in tables:
                    weights = np.full(len(table), 1 / len(table))
                    axes.hist(
                        table[:, i],
                        bins[i],
                        weights=weights,
                        color=color,
                        label=label,
                        histtype="stepfilled" if label == "data" else "step",
                        alpha=0.5 if label == "data" else 1.0,
                    )
                axes.set_yticks([])
            axes.set_xlim(bins[j][0], bins[j][-1])
            self._label(axes, i, j)
        handles, labels = self.axes_[0, 0].get_legend_handles_labels()
        if ax is None:
            self.figure_.legend(
                handles, labels, loc="outside upper right", ncols=2, fontsize=9
            )
        return self

    def _label(self, axes: Axes, i: int, j: int) -> None:
        """Name the features at the left and at the bottom."""
        d = len(self.names)
        texts = self.texts or [None] * d
        axes.tick_params(labelsize=7, labelbottom=i == d - 1, labelleft=j == 0)
        below, left = texts[j], texts[i]
        if below is not None:
            turned = 90 if len("".join(below)) > 14 else 0
            axes.set_xticks(range(len(below)), below, rotation=turned)
        if left is not None and i != j:
            axes.set_yticks(range(len(left)), left)
        if i == d - 1:
            axes.set_xlabel(self.names[j], fontsize=9)
        if j == 0:
            axes.set_ylabel(self.names[i], fontsize=9)


def _jittered(table: Floats, bins: list[Floats]) -> Floats:
    """Samples, moved within their bins where there are few values."""
    rng, table = np.random.RandomState(0), table.copy()
    for j, edges in enumerate(bins):
        middles = (edges[1:] + edges[:-1]) / 2
        step = edges[1] - edges[0]
        nearest = np.abs(table[:, j, None] - middles).min(axis=1)
        if (nearest < 1e-9 * step).all():
            table[:, j] += step * rng.uniform(-0.3, 0.3, len(table))
    return table
