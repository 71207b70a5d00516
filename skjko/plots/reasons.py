"""Display of the features that make a sample an outlier."""

# SPDX-License-Identifier: BSD-3-Clause

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_is_fitted

from skjko.data.columns import frame_of
from skjko.plots.common import BLUE, GREY, ORANGE, Axes, names_of, new_axes
from skjko.typing import Floats


class ReasonsDisplay:
    """Features that make a sample unusual, as a bar chart.

    Make one with `from_estimator` or `from_predictions`. A bar is what the sample would
    gain if the feature had its most likely value given the others. A dashed line is
    what it lacks to be an inlier: a feature beyond it is a reason all by itself.

    Parameters
    ----------
    gains : ndarray of shape (n_features,)
        Gains of the score, at least 0.
    names : list of str
        Names of the features, with their values.
    needed : float, default=None
        Nats between the score of the sample and the threshold; None if it is not known,
        or the sample is an inlier.
    title : str, default=None
        Title of the axes.

    Attributes
    ----------
    ax_ : Axes
        Where the bars are drawn.
    figure_ : Figure
        The figure that has it.
    bars_ : BarContainer
        From the largest gain to the smallest.
    needed_ : Line2D or None
        The dashed line.

    See Also
    --------
    skjko.JKOFlowOutlierDetector.explain : The numbers.

    Examples
    --------
    >>> from skjko.plots import ReasonsDisplay
    >>> display = ReasonsDisplay.from_predictions([0.1, 4.2, 0.0], names=list("abc"))
    >>> [label.get_text() for label in display.ax_.get_yticklabels()]
    ['b', 'a', 'c']
    """

    def __init__(
        self,
        gains: Floats,
        names: list[str],
        *,
        needed: float | None = None,
        title: str | None = None,
    ) -> None:
        self.gains, self.names = gains, names
        self.needed, self.title = needed, title

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        *,
        max_features: int = 10,
        ax: Axes = None,
        **kwargs: Any,
    ) -> Self:
        """Draw why a detector finds a sample unusual.

        Parameters
        ----------
        estimator : JKOFlowOutlierDetector
            Fitted.
        X : array-like of shape (1, n_features)
            One sample, in data units.
        max_features : int, default=10
            Largest number of bars.
        ax : Axes, default=None
            Where to draw. None makes a new figure.
        **kwargs
            Of matplotlib's `barh`.

        Returns
        -------
        display : ReasonsDisplay
            With `ax_` and `figure_`.

        Raises
        ------
        ValueError
            If the estimator has no `explain`, or `X` is not one sample.
        """
        caller = f"{cls.__name__}.from_estimator"
        check_matplotlib_support(caller)
        if not hasattr(estimator, "explain"):
            raise ValueError(
                f"{caller} needs an estimator with explain, such as "
                f"JKOFlowOutlierDetector. Got {type(estimator).__name__} instead."
            )
        check_is_fitted(estimator)
        frame = frame_of(X)
        n_rows = len(np.atleast_2d(np.asarray(X))) if frame is None else len(frame)
        if n_rows != 1:
            raise ValueError(
                f"The 'X' parameter of {caller} must be one sample, such as X[:1]. Got "
                f"{n_rows} samples instead."
            )
        gains = np.asarray(estimator.explain(X), dtype=float)[0]
        likely = list(np.asarray(estimator.most_likely_values(X), dtype=object)[0])
        values = list(np.asarray(X)[0]) if frame is None else list(frame.row(0))
        names = [
            f"{name} = {_text(value)}, likely {_text(other)}"
            if gain > 0
            else f"{name} = {_text(value)}"
            for name, value, other, gain in zip(
                names_of(estimator, X, len(gains)), values, likely, gains, strict=True
            )
        ]
        decision = float(estimator.decision_function(X)[0])
        needed, title = None, "inlier"
        if decision < 0:
            title = "outlier"
            # The gains of typicality are of log-densities.
            needed = -decision if estimator.statistic != "typicality" else None
        if estimator.calibration_scores_ is not None:
            title += f", p = {estimator.p_values(X)[0]:.3g}"
        return cls.from_predictions(
            gains,
            names=names,
            needed=needed,
            title=title,
            max_features=max_features,
            ax=ax,
            **kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        gains: ArrayLike,
        *,
        names: list[str] | None = None,
        needed: float | None = None,
        title: str | None = None,
        max_features: int = 10,
        ax: Axes = None,
        **kwargs: Any,
    ) -> Self:
        """Draw gains that are known.

        Parameters
        ----------
        gains : array-like of shape (n_features,)
            A row of `explain`.
        names : list of str, default=None
            Names of the features. None numbers them.
        needed : float, default=None
            Between the score of the sample and the threshold.
        title : str, default=None
            Title of the axes.
        max_features : int, default=10
            Largest number of bars.
        ax : Axes, default=None
            Where to draw. None makes a new figure.
        **kwargs
            Of matplotlib's `barh`.

        Returns
        -------
        display : ReasonsDisplay
            With `ax_` and `figure_`.

        Raises
        ------
        ValueError
            If there is not one name for every gain.
        """
        values = np.asarray(gains, dtype=float).ravel()
        if names is None:
            names = [f"feature {j}" for j in range(len(values))]
        if len(names) != len(values):
            raise ValueError(
                f"There are {len(values)} gains and {len(names)} names. Give one name "
                "for every gain."
            )
        order = np.argsort(-values, kind="stable")[:max_features]
        display = cls(
            values[order], [names[j] for j in order], needed=needed, title=title
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Axes = None, **kwargs: Any) -> Self:
        """Draw the bars.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw. None makes a new figure.
        **kwargs
            Of matplotlib's `barh`.

        Returns
        -------
        display : ReasonsDisplay
            With `ax_`, `figure_`, `bars_` and `needed_`.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        caller = f"{type(self).__name__}.plot"
        n = len(self.gains)
        size = (6.5, 1.1 + 0.32 * n)
        (self.ax_,), self.figure_ = new_axes(ax, 1, caller, size)
        finite = self.gains[np.isfinite(self.gains)]
        longest = max([1.0, *finite, self.needed or 0.0])
        longest = 1.0 if not np.isfinite(longest) else longest
        shown = np.where(np.isfinite(self.gains), self.gains, 1.2 * longest)
        needed = self.needed
        if needed is not None and not np.isfinite(needed):
            needed = None
        style: dict[str, Any] = {"height": 0.7, "color": BLUE}
        if needed is not None:
            style["color"] = [ORANGE if g >= needed else BLUE for g in self.gains]
        self.bars_ = self.ax_.barh(range(n), shown, **{**style, **kwargs})
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
        texts = [f"{g:.1f}" if np.isfinite(g) else "∞" for g in self.gains]
        self.ax_.bar_label(self.bars_, texts, padding=3, fontsize=8, bbox=box)
        self.ax_.set_yticks(range(n), self.names, fontsize=9)
        self.ax_.set_ylim(n - 0.4, -0.6)
        self.ax_.set_xlim(0, 1.15 * max(longest, shown.max(initial=0.0)))
        self.ax_.set_xlabel("gain with the best value")
        self.needed_ = None
        if needed is not None:
            self.needed_ = self.ax_.axvline(
                needed, color=GREY, ls="--", label="lacking to be an inlier"
            )
            self.ax_.legend(fontsize=8, loc="lower right")
        if self.title is not None:
            self.ax_.set_title(self.title, fontsize=10)
        return self


def _text(value: Any) -> str:
    """A value in a few characters."""
    if isinstance(value, str):
        return value
    return f"{float(value):.4g}"
