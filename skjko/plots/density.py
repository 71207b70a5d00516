"""Display of a density in the plane of two features."""

# SPDX-License-Identifier: BSD-3-Clause

import warnings
from typing import Any, Literal, Self

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_is_fitted

from skjko.data.columns import frame_of
from skjko.plots.common import (
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

_LABELS = {
    "density": "density",
    "log_density": "log-density (nats)",
    "p_values": "p-value",
}
# Log-densities so far below the highest are not told apart, in nats.
_RANGE = 15.0


class DensityDisplay:
    """A density in the plane of two features.

    Make one with `from_estimator`. Of more than two features it shows the marginal
    density of two, as a histogram of new samples, or the joint density where the others
    have given values.

    Parameters
    ----------
    xx0, xx1 : ndarray of shape (n_values_1, n_values_0)
        Values of the two features, as of `numpy.meshgrid`.
    response : ndarray of shape (n_values_1, n_values_0)
        What is shown at these values.
    name : str, default="density"
        What the response is: label of the colour bar.
    title : str, default=None
        Title of the axes.
    xlabel, ylabel : str, default=None
        Names of the two features.
    points : ndarray of shape (n_samples, 2), default=None
        Samples to draw over it.

    Attributes
    ----------
    ax_ : Axes
        Where the density is drawn.
    figure_ : Figure
        The figure that has it.
    surface_ : QuadMesh or QuadContourSet
        The density.
    points_ : PathCollection or None
        The samples.
    colorbar_ : Colorbar or None
        The scale of the response.

    See Also
    --------
    sklearn.inspection.DecisionBoundaryDisplay : The same for any response method.

    Examples
    --------
    >>> from skjko import JKOFlowDensity
    >>> from skjko.datasets import moons
    >>> from skjko.plots import DensityDisplay
    >>> X = moons().sample(500, random_state=0)
    >>> density = JKOFlowDensity(init="mixture", max_blocks=0, random_state=0).fit(X)
    >>> display = DensityDisplay.from_estimator(density, X, points=True)
    >>> display.response.shape
    (100, 100)
    """

    def __init__(
        self,
        xx0: Floats,
        xx1: Floats,
        response: Floats,
        *,
        name: str = "density",
        title: str | None = None,
        xlabel: str | None = None,
        ylabel: str | None = None,
        points: Floats | None = None,
    ) -> None:
        self.xx0, self.xx1, self.response = xx0, xx1, response
        self.name, self.title = name, title
        self.xlabel, self.ylabel, self.points = xlabel, ylabel, points

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        *,
        features: Features = None,
        at: ArrayLike | None = None,
        response: Literal["density", "log_density", "p_values"] = "density",
        grid_resolution: int = 100,
        eps: float = 0.1,
        points: bool = False,
        n_samples: int = 20_000,
        random_state: Seed = 0,
        ax: Axes = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the density where samples are.

        Parameters
        ----------
        estimator : estimator
            Fitted, with `score_samples`, such as JKOFlowDensity,
            JKOFlowOutlierDetector or scikit-learn's GaussianMixture.
        X : array-like of shape (n_samples, n_features)
            Samples in data units. They give the range of the axes.
        features : pair of int or str, default=None
            Which two features to show. None is the first two.
        at : array-like of shape (1, n_features), default=None
            With more than two features, a row with the values of the others: what is
            shown is the joint density at these values. None shows the marginal density
            of the two features, of `n_samples` new samples.
        response : {"density", "log_density", "p_values"}, default="density"
            What to show: exp(score_samples), score_samples or p_values.
        grid_resolution : int, default=100
            Number of values of each feature. One with at most half as many values, on
            a grid such as integers, has these.
        eps : float, default=0.1
            By which share of the range the axes are wider than the samples, at either
            end.
        points : bool, default=False
            Whether to draw the samples, at most 1000 of them.
        n_samples : int, default=20_000
            Number of samples for a marginal density.
        random_state : int, RandomState instance or None, default=0
            Source of these samples.
        ax : Axes, default=None
            Where to draw. None makes a new figure.
        **kwargs
            Of `plot`.

        Returns
        -------
        display : DensityDisplay
            With `ax_` and `figure_`.

        Raises
        ------
        ValueError
            If a parameter is invalid, there are fewer than two features, or one of the
            two is of text or categories.
        """
        caller = f"{cls.__name__}.from_estimator"
        check_matplotlib_support(caller)
        check_is_fitted(estimator)
        if response not in _LABELS:
            raise ValueError(
                f"The 'response' parameter of {caller} must be one of "
                f"{list(_LABELS)}. Got {response!r} instead."
            )
        (table,), texts = columns_of([X])
        names = names_of(estimator, X, table.shape[1])
        if len(names) < 2:
            raise ValueError(f"{caller} needs two features. X has {len(names)}.")
        which = find_features(features, names, caller, 2)
        for j in which:
            if texts[j] is not None:
                raise ValueError(
                    f"{caller} draws features of numbers. {names[j]!r} has text or "
                    "categories: choose others with 'features'; PairDisplay shows it."
                )
        marginal = len(names) > 2 and at is None
        if marginal and response != "density":
            raise ValueError(
                f"With more than two features, response={response!r} needs 'at', a "
                "row with the values of the others, such as X[:1]."
            )
        n = grid_resolution
        edges = [edges_of(table[:, j], n, n // 2, eps) for j in which]
        if marginal:
            (new,), _ = columns_of([_drawn(estimator, n_samples, random_state)])
            a, b = which
            counts, *_ = np.histogram2d(new[:, a], new[:, b], bins=tuple(edges))
            areas = np.outer(*(np.diff(one) for one in edges))
            values = (counts / areas / len(new)).T
        ticks = [(one[1:] + one[:-1]) / 2 for one in edges]
        xx0, xx1 = np.meshgrid(*ticks)
        title = None
        if marginal:
            title = f"marginal density, histogram of {n_samples:,} samples"
        else:
            if len(names) > 2:
                title = "joint density at given values of the other features"
            rows = _rows(X if at is None else at, xx0, xx1, which)
            with warnings.catch_warnings():
                # Of what is outside of the bounds, which is meant to be seen.
                warnings.simplefilter("ignore", UserWarning)
                method = "p_values" if response == "p_values" else "score_samples"
                values = np.asarray(getattr(estimator, method)(rows))
            values = values.reshape(xx0.shape)
            values = np.exp(values) if response == "density" else values
        display = cls(
            xx0,
            xx1,
            values,
            name=_LABELS[response],
            title=title,
            xlabel=names[which[0]],
            ylabel=names[which[1]],
            points=thinned(table, 1000)[:, which] if points else None,
        )
        return display.plot(ax=ax, **kwargs)

    def plot(
        self,
        ax: Axes = None,
        *,
        plot_method: Literal["pcolormesh", "contourf", "contour"] = "pcolormesh",
        colorbar: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Draw the density.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw. None makes a new figure.
        plot_method : {"pcolormesh", "contourf", "contour"}, default="pcolormesh"
            Method of matplotlib that draws it.
        colorbar : bool, default=True
            Whether there is a scale of the response.
        **kwargs
            Of the method.

        Returns
        -------
        display : DensityDisplay
            With `ax_`, `figure_`, `surface_`, `points_` and `colorbar_`.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there is no such method.
        """
        caller = f"{type(self).__name__}.plot"
        if plot_method not in ("pcolormesh", "contourf", "contour"):
            raise ValueError(
                f"The 'plot_method' parameter of {caller} must be 'pcolormesh', "
                f"'contourf' or 'contour'. Got {plot_method!r} instead."
            )
        (self.ax_,), self.figure_ = new_axes(ax, 1, caller, (5.0, 4.0))
        values = np.ma.masked_invalid(self.response)
        style: dict[str, Any] = {"cmap": "Blues"}
        if self.name == _LABELS["log_density"] and values.count():
            top = float(values.max())
            bottom = max(float(values.min()), top - _RANGE)
            if plot_method == "pcolormesh":
                style.update(vmin=bottom, vmax=top)
            elif top > bottom:
                from matplotlib.ticker import MaxNLocator

                levels = MaxNLocator(12).tick_values(bottom, top)
                style.update(levels=levels, extend="min")
        if "colors" in kwargs:
            style.pop("cmap")
        draw = getattr(self.ax_, plot_method)
        self.surface_ = draw(self.xx0, self.xx1, values, **{**style, **kwargs})
        self.points_ = None
        if self.points is not None:
            self.points_ = self.ax_.scatter(
                *self.points.T, s=3, c=ORANGE, alpha=0.5, linewidths=0
            )
        self.colorbar_ = None
        if colorbar:
            self.colorbar_ = self.figure_.colorbar(self.surface_, ax=self.ax_)
            self.colorbar_.set_label(self.name)
        self.ax_.set(xlabel=self.xlabel, ylabel=self.ylabel)
        if self.title is not None:
            self.ax_.set_title(self.title, fontsize=10)
        return self


def _drawn(estimator: Any, n_samples: int, random_state: Seed) -> Any:
    """New samples, of estimators with and without a seed and labels in `sample`."""
    if hasattr(estimator, "density_"):
        estimator = estimator.density_
    if not hasattr(estimator, "sample"):
        raise ValueError(
            f"{type(estimator).__name__} has no method sample, which a marginal "
            "density needs. Set 'at' to a row with the values of the other features."
        )
    try:
        drawn = estimator.sample(n_samples, random_state=random_state)
    except TypeError:
        # Scikit-learn's mixtures have no seed there, and return components too.
        drawn = estimator.sample(n_samples)
    return drawn[0] if isinstance(drawn, tuple) else drawn


def _rows(table: Any, xx0: Floats, xx1: Floats, which: list[int]) -> Any:
    """The first row of a table, repeated, with other values of two features."""
    n, frame = xx0.size, frame_of(table)
    values = dict(zip(which, (xx0.ravel(), xx1.ravel()), strict=True))
    if frame is None:
        rows = np.repeat(np.asarray(table)[:1].astype(float), n, axis=0)
        for j, column in values.items():
            rows[:, j] = column
        return rows
    rows = frame[[0] * n]
    return rows.with_columns(
        nw.new_series(
            frame.columns[j], column, nw.Float64, backend=frame.implementation
        )
        for j, column in values.items()
    ).to_native()
