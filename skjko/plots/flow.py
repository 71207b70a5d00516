"""Display of what the transforms and blocks of a density do to samples."""

# SPDX-License-Identifier: BSD-3-Clause

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils._optional_dependencies import check_matplotlib_support

from skjko.plots.common import (
    Axes,
    Features,
    directions,
    draw_circles,
    followed,
    new_axes,
)
from skjko.typing import Floats

_NAMES = {
    "Bounds": "after mapping the bounds",
    "Whitening": "after whitening",
    "MixtureMap": "after the mixture map",
}
# Of the latent positions, this share is inside of the axes.
_SHOWN = 0.995


class FlowDisplay:
    """Positions of samples from the data to the base distribution, block by block.

    Make one with `from_estimator`. One panel has the data, one each has the positions
    behind every transform, and one each those behind every block. A density without
    blocks has the panels of its transforms only.

    Parameters
    ----------
    positions : ndarray of shape (n_positions, n_samples, 2)
        Positions of the samples, first in data units, then in standard deviations.
    titles : list of str
        What every panel shows.
    panels : list of int
        Which of the positions each panel shows.
    n_transforms : int, default=0
        Number of panels before the blocks.
    labels : list of (str, str), default=None
        Names of the axes of every panel.

    Attributes
    ----------
    axes_ : ndarray of Axes
        One for every panel.
    figure_ : Figure
        The figure that has them.
    scatters_ : list of PathCollection
        The samples of every panel.
    arrows_ : list of Quiver or None
        The displacements by the next block; None where there is no next block.

    See Also
    --------
    TrajectoryDisplay : Paths of single samples through the blocks.

    Examples
    --------
    >>> from skjko import JKOFlowDensity, MLPField
    >>> from skjko.datasets import moons
    >>> from skjko.plots import FlowDisplay
    >>> X = moons().sample(1000, random_state=0)
    >>> density = JKOFlowDensity(
    ...     init="gaussian", transforms=None, field=MLPField((16, 16)), max_blocks=1,
    ...     max_iter=30, random_state=0,
    ... ).fit(X)
    >>> display = FlowDisplay.from_estimator(density, X, arrows=True)
    >>> [ax.get_title() for ax in display.axes_]
    ['data', 'after whitening', 'after block 1']
    """

    def __init__(
        self,
        positions: Floats,
        titles: list[str],
        panels: list[int],
        *,
        n_transforms: int = 0,
        labels: list[tuple[str, str]] | None = None,
    ) -> None:
        self.positions, self.titles, self.panels = positions, titles, panels
        self.n_transforms, self.labels = n_transforms, labels

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        *,
        features: Features = None,
        n_samples: int | None = 1000,
        n_between: int = 7,
        transforms: bool = True,
        ax: Axes = None,
        arrows: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Draw the positions of samples behind every transform and block.

        Parameters
        ----------
        estimator : JKOFlowDensity
            Fitted. Of an outlier detector, take its `density_`.
        X : array-like of shape (n_samples, n_features)
            Samples in data units.
        features : pair of int or str, default=None
            Which two features to show, and behind the whitening which two components.
            None is the first two.
        n_samples : int or None, default=1000
            Largest number of samples to draw; None draws all.
        n_between : int, default=7
            Number of positions within every block, for `animate`.
        transforms : bool, default=True
            Whether there are panels of the data and of the transforms.
        ax : array-like of Axes, default=None
            One for every panel. None makes a new figure.
        arrows : bool, default=False
            Whether arrows show where the next block takes samples.
        **kwargs
            Of matplotlib's `scatter`.

        Returns
        -------
        display : FlowDisplay
            With `axes_` and `figure_`.

        Raises
        ------
        ValueError
            If the estimator has no `trajectory`, or there are no two such features.
        """
        caller = f"{cls.__name__}.from_estimator"
        check_matplotlib_support(caller)
        X, which, names = followed(estimator, X, features, n_samples, caller)
        way = estimator.trajectory(X, n_between=n_between, transforms=transforms)
        titles, steps = [], [type(step).__name__ for step in estimator.transforms_]
        if transforms:
            titles = ["data", *(_NAMES.get(s, f"after {s}") for s in steps)]
        else:
            titles = ["before the blocks"]
        n_transforms = len(titles) - 1
        first, n_blocks = n_transforms, estimator.n_blocks_
        stride = n_between + 1
        panels = [*range(first), *(first + k * stride for k in range(n_blocks + 1))]
        titles += [f"after block {k + 1}" for k in range(n_blocks)]
        if len(way) > panels[-1] + 1:
            panels.append(panels[-1] + 1)
            titles.append("after the base's mixture")
        way = way[:, :, which]
        labels = [(names[0], names[1])] * len(titles)
        whitened = steps.index("Whitening") + 1 if "Whitening" in steps else first
        for k in range(whitened if transforms else 0, len(titles)):
            labels[k] = (f"component {which[0]}", f"component {which[1]}")
        # Without those of transforms that leave both features as they are.
        kept = [
            k
            for k in range(len(panels))
            if not 0 < k < n_transforms or (way[k] != way[k - 1]).any()
        ]
        display = cls(
            way,
            [titles[k] for k in kept],
            [panels[k] for k in kept],
            n_transforms=n_transforms - len(panels) + len(kept),
            labels=[labels[k] for k in kept],
        )
        return display.plot(ax=ax, arrows=arrows, **kwargs)

    def plot(
        self,
        ax: Axes = None,
        *,
        arrows: bool = False,
        n_arrows: int = 150,
        **kwargs: Any,
    ) -> Self:
        """Draw the panels.

        Parameters
        ----------
        ax : array-like of Axes, default=None
            One for every panel. None makes a new figure, of at most five in a row.
        arrows : bool, default=False
            Whether arrows show where the next block takes samples.
        n_arrows : int, default=150
            Largest number of arrows in a panel.
        **kwargs
            Of matplotlib's `scatter`.

        Returns
        -------
        display : FlowDisplay
            With `axes_`, `figure_`, `scatters_` and `arrows_`.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        caller = f"{type(self).__name__}.plot"
        n = len(self.panels)
        self.axes_, self.figure_ = new_axes(ax, n, caller, (2.5, 2.8))
        style = {"s": 5, "c": directions(self.positions[0]), "linewidths": 0, **kwargs}
        self.scatters_, self.arrows_ = [], []
        half = self._half()
        for k, axes in enumerate(self.axes_):
            here = self.positions[self.panels[k]]
            self.scatters_.append(axes.scatter(*here.T, **style))
            axes.set_title(self.titles[k], fontsize=10)
            axes.tick_params(labelsize=7)
            if self.labels is not None:
                axes.set_xlabel(self.labels[k][0], fontsize=8)
                axes.set_ylabel(self.labels[k][1], fontsize=8)
            self.arrows_.append(None)
            if k < self.n_transforms:
                axes.set_box_aspect(1)
                continue
            axes.set(xlim=(-half, half), ylim=(-half, half), aspect="equal")
            if arrows and k + 1 < n:
                self.arrows_[-1] = self._draw_arrows(axes, k, n_arrows)
        draw_circles(self.axes_[-1])
        return self

    def animate(
        self, ax: Axes = None, *, interval: int = 60, hold: int = 12, **kwargs: Any
    ) -> Any:
        """Animate the samples on their way through the blocks.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw. None makes a new figure.
        interval : int, default=60
            Milliseconds between two frames.
        hold : int, default=12
            Number of further frames of the start and of the end.
        **kwargs
            Of matplotlib's `scatter`.

        Returns
        -------
        animation : matplotlib.animation.FuncAnimation
            Save it with `animation.save("blocks.gif", writer="pillow")`; its
            `to_jshtml()` is HTML with buttons.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there are no blocks.
        """
        caller = f"{type(self).__name__}.animate"
        first = self.panels[self.n_transforms]
        if len(self.positions) == first + 1:
            raise ValueError(
                "There is nothing to animate: the density has no blocks. With "
                'init="gaussian" it is less likely that validation drops all of them.'
            )
        (axes,), self.figure_ = new_axes(ax, 1, caller, (4.2, 4.4))
        from matplotlib.animation import FuncAnimation

        self.axes_ = np.array([axes], dtype=object)
        style = {"s": 6, "c": directions(self.positions[0]), "linewidths": 0, **kwargs}
        half = self._half()
        points = axes.scatter(*self.positions[first].T, **style)
        self.scatters_, self.arrows_ = [points], [None]
        axes.set(xlim=(-half, half), ylim=(-half, half), aspect="equal")
        if self.labels is not None:
            axes.set_xlabel(self.labels[-1][0])
            axes.set_ylabel(self.labels[-1][1])
        draw_circles(axes)
        last = len(self.positions) - 1
        frames = [first] * hold + list(range(first, last + 1)) + [last] * hold

        def show(position: int) -> tuple:
            points.set_offsets(self.positions[position])
            axes.set_title(self._when(position))
            return (points,)

        show(first)
        if ax is None:
            # Laid out once: every frame has the same, and it takes most of its time.
            self.figure_.canvas.draw()
            self.figure_.set_layout_engine("none")
        return FuncAnimation(
            self.figure_, show, frames=frames, interval=interval, blit=False
        )

    def _when(self, position: int) -> str:
        """What a position shows, in words."""
        if position in self.panels:
            return self.titles[self.panels.index(position)]
        after = next(k for k, panel in enumerate(self.panels) if panel > position)
        start, end = self.panels[after - 1], self.panels[after]
        share = (position - start) / (end - start)
        return f"within {self.titles[after].removeprefix('after ')}, t = {share:.2f}"

    def _half(self) -> float:
        """Half the width of the axes of latent positions."""
        latent = np.abs(self.positions[self.panels[self.n_transforms] :])
        return max(3.2, 1.05 * float(np.quantile(latent, _SHOWN)))

    def _draw_arrows(self, axes: Axes, k: int, n_arrows: int) -> Any:
        start = self.positions[self.panels[k]]
        end = self.positions[self.panels[k + 1]]
        stride = max(1, -(-len(start) // n_arrows))
        start, end = start[::stride], end[::stride]
        return axes.quiver(
            *start.T,
            *(end - start).T,
            angles="xy",
            scale_units="xy",
            scale=1,
            width=0.005,
            headwidth=4,
            color="black",
            alpha=0.6,
        )
