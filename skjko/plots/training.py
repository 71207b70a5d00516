"""Displays of the training: losses, validation scores and displacements."""

# SPDX-License-Identifier: BSD-3-Clause

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted

from skjko.plots.common import BLUE, COLORS, GREY, Axes, new_axes


class TrainingDisplay:
    """Losses of the iterations, and validation scores of the blocks.

    Make one with `from_estimator`. The left axes have the JKO objective of every
    minibatch, with borders between the blocks; the right ones the validation score
    before any block and after every one, for every round of training.

    Parameters
    ----------
    history : list of Bunch
        The `history_` of a fitted estimator.
    validation_scores : ndarray, default=None
        Its `validation_scores_`; None without validation.
    base : bool, default=False
        Whether the last of these scores is that behind the base's mixture.

    Attributes
    ----------
    axes_ : ndarray of Axes
        One or two: there are no scores without validation.
    figure_ : Figure
        The figure that has them.
    losses_ : list of Line2D
        One for every block that was trained in a round that was accepted.
    scores_ : list of Line2D
        One for every round.

    See Also
    --------
    MovementsDisplay : How far the blocks move samples.

    Examples
    --------
    >>> from skjko import JKOFlowDensity, MLPField
    >>> from skjko.datasets import moons
    >>> from skjko.plots import TrainingDisplay
    >>> X = moons().sample(1000, random_state=0)
    >>> density = JKOFlowDensity(
    ...     init="gaussian", transforms=None, field=MLPField((16, 16)), max_blocks=1,
    ...     max_iter=30, random_state=0,
    ... ).fit(X)
    >>> display = TrainingDisplay.from_estimator(density)
    >>> len(display.losses_), len(display.scores_)
    (1, 1)
    """

    def __init__(
        self,
        history: Sequence[Bunch],
        *,
        validation_scores: Any = None,
        base: bool = False,
    ) -> None:
        self.history, self.base = history, base
        self.validation_scores = validation_scores

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Axes = None) -> Self:
        """Draw the losses and validation scores of a fit.

        Parameters
        ----------
        estimator : JKOFlowDensity or JKOFlowOutlierDetector
            Fitted.
        ax : array-like of Axes, default=None
            One for the losses and, with validation, one for the scores. None makes a
            new figure.

        Returns
        -------
        display : TrainingDisplay
            With `axes_` and `figure_`.

        Raises
        ------
        ValueError
            If the fit trained no block and has no validation scores.
        """
        density = _density_of(estimator)
        display = cls(
            density.history_,
            validation_scores=density.validation_scores_,
            base=density.base_ is not None,
        )
        return display.plot(ax=ax)

    def plot(self, ax: Axes = None) -> Self:
        """Draw the losses and the scores.

        Parameters
        ----------
        ax : array-like of Axes, default=None
            One for the losses and, with validation, one for the scores. None makes a
            new figure.

        Returns
        -------
        display : TrainingDisplay
            With `axes_`, `figure_`, `losses_` and `scores_`.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there is nothing to draw.
        """
        caller = f"{type(self).__name__}.plot"
        trained = [losses for r in self.history if r.accepted for losses in r.losses]
        has_losses = any(map(len, trained))
        has_scores = self.validation_scores is not None
        if not has_losses and not has_scores:
            raise ValueError(
                "There is nothing to draw: the fit trained no block, and it has no "
                "validation scores."
            )
        n = has_losses + has_scores
        self.axes_, self.figure_ = new_axes(ax, n, caller, (4.6, 3.4))
        self.losses_: list[Any] = []
        self.scores_: list[Any] = []
        axes = list(self.axes_)
        if has_losses:
            self._draw_losses(axes.pop(0), has_legend=not has_scores)
        if has_scores:
            self._draw_scores(axes.pop(0))
        return self

    def _draw_losses(self, ax: Axes, has_legend: bool) -> None:
        start, spans = 0, []
        for which, r in enumerate(self.history):
            if not r.accepted:
                continue
            first = len(r.step_sizes) - len(r.losses)
            for k, losses in enumerate(r.losses, start=first + 1):
                x = start + 1 + np.arange(len(losses))
                color = COLORS[which % len(COLORS)]
                label = r.round if k == first + 1 else None
                line = ax.plot(x, losses, color=color, lw=0.9, label=label)
                self.losses_ += line
                spans.append((start, len(losses), k))
                start += len(losses)
        for i, (x, length, k) in enumerate(spans):
            if i:
                ax.axvline(x + 0.5, color=GREY, lw=0.6, ls=":")
            if length > 0.06 * start:
                ax.text(
                    x + 0.5 + length / 2,
                    0.98,
                    f"block {k}" if length > 0.2 * start else str(k),
                    transform=ax.get_xaxis_transform(),
                    ha="center",
                    va="top",
                    fontsize=8,
                    color=GREY,
                )
        values = np.concatenate([line.get_ydata() for line in self.losses_])
        low, high = np.quantile(values, [0.0, 0.99])
        margin = 0.08 * (high - low) + 1e-12
        ax.set(xlim=(0, start + 1), ylim=(low - margin, high + 2.5 * margin))
        ax.set_xlabel("iteration")
        ax.set_ylabel("JKO objective (nats)")
        if has_legend and len(self.history) > 1:
            ax.legend(fontsize=8, loc="center right")
        ax.set_title("training loss of the blocks", fontsize=10)

    def _draw_scores(self, ax: Axes) -> None:
        final = np.asarray(self.validation_scores)
        n_most = max([len(r.step_sizes) for r in self.history], default=0)
        for which, r in enumerate(self.history):
            label = r.round if r.accepted else f"{r.round} (rejected)"
            self.scores_ += ax.plot(
                r.validation_scores,
                "o-" if r.accepted else "o--",
                color=COLORS[which % len(COLORS)] if r.accepted else GREY,
                ms=4,
                label=label,
            )
        if not self.history:
            self.scores_ += ax.plot(final[: len(final) - self.base], "o", color=BLUE)
        ticks = [str(k) for k in range(n_most + 1)]
        if self.base:
            x = len(final) - 1
            ax.plot([x - 1, x], final[-2:], "o:", color="black", ms=4)
            ticks = [*ticks[:x], "base", *ticks[x + 1 :]]
        ax.set_xticks(range(len(ticks)), ticks)
        ax.set_xlim(-0.5, len(ticks) - 0.5)
        ax.set_xlabel("number of blocks")
        ax.set_ylabel("mean log-density (nats)")
        if len(self.history) > 1:
            ax.legend(fontsize=8)
        ax.set_title("validation score", fontsize=10)


class MovementsDisplay:
    """Displacement of the samples by every block, for every round of training.

    Make one with `from_estimator`. A round "reparameterize" makes displacements more
    even; the round before it is drawn beside it.

    Parameters
    ----------
    rounds : list of str
        Names of the rounds.
    movements : list of ndarray of shape (n_blocks,)
        Root mean squared displacements by the blocks of every round, in standard
        deviations of the whitened data.
    accepted : list of bool, default=None
        Which rounds were accepted; None is all.

    Attributes
    ----------
    ax_ : Axes
        Where the bars are drawn.
    figure_ : Figure
        The figure that has it.
    bars_ : list of BarContainer
        One for every round.

    See Also
    --------
    TrainingDisplay : Losses and scores of the rounds.

    Examples
    --------
    >>> from skjko import JKOFlowDensity, MLPField
    >>> from skjko.datasets import moons
    >>> from skjko.plots import MovementsDisplay
    >>> X = moons().sample(1000, random_state=0)
    >>> density = JKOFlowDensity(
    ...     init="gaussian", transforms=None, field=MLPField((16, 16)), max_blocks=1,
    ...     max_iter=30, random_state=0,
    ... ).fit(X)
    >>> display = MovementsDisplay.from_estimator(density)
    >>> display.rounds
    ['grow']
    """

    def __init__(
        self,
        rounds: list[str],
        movements: list[Any],
        *,
        accepted: list[bool] | None = None,
    ) -> None:
        self.rounds, self.movements, self.accepted = rounds, movements, accepted

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Axes = None, **kwargs: Any) -> Self:
        """Draw how far every block moves the samples, in every round.

        Parameters
        ----------
        estimator : JKOFlowDensity or JKOFlowOutlierDetector
            Fitted.
        ax : Axes, default=None
            Where to draw. None makes a new figure.
        **kwargs
            Of matplotlib's `bar`.

        Returns
        -------
        display : MovementsDisplay
            With `ax_` and `figure_`.

        Raises
        ------
        ValueError
            If the fit has no blocks.
        """
        rounds = [r for r in _density_of(estimator).history_ if len(r.movements)]
        display = cls(
            [r.round for r in rounds],
            [r.movements for r in rounds],
            accepted=[r.accepted for r in rounds],
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Axes = None, **kwargs: Any) -> Self:
        """Draw the displacements.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw. None makes a new figure.
        **kwargs
            Of matplotlib's `bar`.

        Returns
        -------
        display : MovementsDisplay
            With `ax_`, `figure_` and `bars_`.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there are no blocks.
        """
        caller = f"{type(self).__name__}.plot"
        if not self.movements:
            raise ValueError(
                "There are no displacements to draw: the density has no blocks."
            )
        (self.ax_,), self.figure_ = new_axes(ax, 1, caller, (5.2, 3.4))
        n = len(self.movements)
        accepted = self.accepted or [True] * n
        width, self.bars_ = 0.8 / n, []
        for i, (name, values) in enumerate(
            zip(self.rounds, self.movements, strict=True)
        ):
            x = 1 + np.arange(len(values)) + (i - (n - 1) / 2) * width
            color = COLORS[i % len(COLORS)]
            style: dict[str, Any] = {"color": color, "label": name}
            if not accepted[i]:
                style = {
                    "color": "white",
                    "edgecolor": GREY,
                    "hatch": "////",
                    "label": f"{name} (rejected)",
                }
            bars = self.ax_.bar(x, values, 0.92 * width, **{**style, **kwargs})
            self.bars_.append(bars)
        most = max(len(values) for values in self.movements)
        self.ax_.set_xticks(range(1, most + 1))
        self.ax_.set_xlim(0.4, most + 0.6)
        self.ax_.set_xlabel("block")
        self.ax_.set_ylabel("displacement (standard deviations)")
        self.ax_.set_title("root mean squared displacement of the samples", fontsize=10)
        if n > 1:
            self.ax_.margins(y=0.25)
            self.ax_.legend(fontsize=8, ncols=n)
        return self


def _density_of(estimator: Any) -> Any:
    """The density of an estimator, with its history."""
    check_is_fitted(estimator)
    density = getattr(estimator, "density_", estimator)
    if not hasattr(density, "history_"):
        raise ValueError(
            "This display needs a fitted JKOFlowDensity or JKOFlowOutlierDetector. Got "
            f"{type(estimator).__name__} instead."
        )
    return density
