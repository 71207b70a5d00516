"""Display of the paths of samples through the blocks."""

# SPDX-License-Identifier: BSD-3-Clause

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils._optional_dependencies import check_matplotlib_support

from skjko.plots.common import (
    GREY,
    Axes,
    Features,
    directions,
    draw_circles,
    followed,
    new_axes,
)
from skjko.typing import Floats


class TrajectoryDisplay:
    """Paths of samples through the blocks, to the base distribution.

    Make one with `from_estimator`.

    Parameters
    ----------
    positions : ndarray of shape (n_positions, n_samples, 2)
        Positions of the samples along their paths, in standard deviations.
    title : str, default=None
        Title of the axes.
    labels : (str, str), default=None
        Names of the axes.

    Attributes
    ----------
    ax_ : Axes
        Where the paths are drawn.
    figure_ : Figure
        The figure that has it.
    lines_ : LineCollection
        One line for every sample.
    starts_ : PathCollection
        Where they start.
    ends_ : PathCollection
        Where they end.

    See Also
    --------
    FlowDisplay : All samples, block by block.

    Examples
    --------
    >>> from skjko import JKOFlowDensity, MLPField
    >>> from skjko.datasets import moons
    >>> from skjko.plots import TrajectoryDisplay
    >>> X = moons().sample(1000, random_state=0)
    >>> density = JKOFlowDensity(
    ...     init="gaussian", transforms=None, field=MLPField((16, 16)), max_blocks=1,
    ...     max_iter=30, random_state=0,
    ... ).fit(X)
    >>> display = TrajectoryDisplay.from_estimator(density, X, n_samples=50)
    >>> display.ax_.get_title()
    'paths of 50 samples through 1 block'
    """

    def __init__(
        self,
        positions: Floats,
        *,
        title: str | None = None,
        labels: tuple[str, str] | None = None,
    ) -> None:
        self.positions, self.title, self.labels = positions, title, labels

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        *,
        features: Features = None,
        n_samples: int | None = 60,
        n_between: int = 15,
        ax: Axes = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the paths of samples from behind the transforms to the base.

        Parameters
        ----------
        estimator : JKOFlowDensity
            Fitted. Of an outlier detector, take its `density_`.
        X : array-like of shape (n_samples, n_features)
            Samples in data units.
        features : pair of int or str, default=None
            Which two components to show. None is the first two.
        n_samples : int or None, default=60
            Largest number of samples to draw; None draws all.
        n_between : int, default=15
            Number of positions within every block.
        ax : Axes, default=None
            Where to draw. None makes a new figure.
        **kwargs
            Of matplotlib's `LineCollection`.

        Returns
        -------
        display : TrajectoryDisplay
            With `ax_` and `figure_`.

        Raises
        ------
        ValueError
            If the estimator has no blocks and no mixture as its base.
        """
        caller = f"{cls.__name__}.from_estimator"
        check_matplotlib_support(caller)
        X, which, _ = followed(estimator, X, features, n_samples, caller)
        way = estimator.trajectory(X, n_between=n_between, transforms=False)
        if len(way) == 1:
            raise ValueError(
                "There are no paths to draw: the density has no blocks. FlowDisplay "
                "shows what its transforms do."
            )
        n = estimator.n_blocks_
        blocks = f"{n} block{'' if n == 1 else 's'}"
        if estimator.base_ is not None:
            blocks = f"{blocks} and the base's mixture" if n else "the base's mixture"
        display = cls(
            way[:, :, which],
            title=f"paths of {way.shape[1]} samples through {blocks}",
            labels=(f"component {which[0]}", f"component {which[1]}"),
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Axes = None, **kwargs: Any) -> Self:
        """Draw the paths.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw. None makes a new figure.
        **kwargs
            Of matplotlib's `LineCollection`.

        Returns
        -------
        display : TrajectoryDisplay
            With `ax_`, `figure_`, `lines_`, `starts_` and `ends_`.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        caller = f"{type(self).__name__}.plot"
        (self.ax_,), self.figure_ = new_axes(ax, 1, caller, (4.6, 4.7))
        from matplotlib.collections import LineCollection

        colors = directions(self.positions[0])
        style = {"colors": colors, "linewidths": 1.0, "alpha": 0.8, **kwargs}
        lines = LineCollection(list(self.positions.transpose(1, 0, 2)), **style)
        self.lines_ = self.ax_.add_collection(lines)
        self.starts_ = self.ax_.scatter(
            *self.positions[0].T, s=16, facecolors="white", edgecolors=colors, zorder=3
        )
        self.ends_ = self.ax_.scatter(
            *self.positions[-1].T, s=16, c=colors, linewidths=0, zorder=3
        )
        draw_circles(self.ax_)
        half = max(3.2, 1.05 * float(np.abs(self.positions).max()))
        self.ax_.set(xlim=(-half, half), ylim=(-half, half), aspect="equal")
        self.ax_.scatter(
            [], [], s=16, facecolors="white", edgecolors=GREY, label="start"
        )
        self.ax_.scatter([], [], s=16, c=GREY, linewidths=0, label="end")
        self.ax_.legend(fontsize=8, loc="upper right")
        if self.title is not None:
            self.ax_.set_title(self.title, fontsize=10)
        if self.labels is not None:
            self.ax_.set_xlabel(self.labels[0])
            self.ax_.set_ylabel(self.labels[1])
        return self
