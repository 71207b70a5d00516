"""Display of values that are uniform where a model is right."""

# SPDX-License-Identifier: BSD-3-Clause

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_is_fitted

from skjko.plots.common import BLUE, GREY, Axes, new_axes
from skjko.typing import Floats


class CalibrationDisplay:
    """Distribution of p-values or probability integral transforms against uniform.

    Make one with `from_estimator` or `from_predictions`. The curve is the share of the
    values that are at most u; it is near the diagonal where the values are uniform.

    Parameters
    ----------
    values : ndarray of shape (n_samples,)
        Between 0 and 1.
    name : str, default="value"
        What they are: label of the horizontal axis.
    n_calibration : int, default=None
        Number of calibration samples that the values are p-values by, which widens the
        band; None for values of no such origin.
    level : float, default=0.95
        Probability that the curve of uniform values is within the band, everywhere.

    Attributes
    ----------
    ax_ : Axes
        Where the curve is drawn.
    figure_ : Figure
        The figure that has it.
    line_ : Line2D
        The curve.
    band_ : FillBetweenPolyCollection
        Where it is, with probability `level`, if the values are uniform.

    Notes
    -----
    The band is that of Dvoretzky, Kiefer and Wolfowitz; of p-values, which share their
    calibration samples, it is that of the two-sample test of Kolmogorov and Smirnov for
    large samples.

    Examples
    --------
    >>> import numpy as np
    >>> from skjko.plots import CalibrationDisplay
    >>> u = np.random.default_rng(0).uniform(size=200)
    >>> display = CalibrationDisplay.from_predictions(u, name="p-value")
    >>> display.ax_.get_xlabel()
    'p-value'
    """

    def __init__(
        self,
        values: Floats,
        *,
        name: str = "value",
        n_calibration: int | None = None,
        level: float = 0.95,
    ) -> None:
        self.values, self.name = values, name
        self.n_calibration, self.level = n_calibration, level

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        *,
        level: float = 0.95,
        ax: Axes = None,
        **kwargs: Any,
    ) -> Self:
        """Draw how uniform the p-values or transforms of new samples are.

        Parameters
        ----------
        estimator : JKOFlowOutlierDetector or JKOFlowDensity
            Fitted. Of a detector the values are the `p_values`; of a density they are
            the probability integral transforms of the squared length of `transform`,
            which is chi-squared where the density is right.
        X : array-like of shape (n_samples, n_features)
            Samples that played no part in the fit, normal ones for a detector.
        level : float, default=0.95
            Probability of the band.
        ax : Axes, default=None
            Where to draw. None makes a new figure.
        **kwargs
            Of matplotlib's `step`.

        Returns
        -------
        display : CalibrationDisplay
            With `ax_` and `figure_`.

        Raises
        ------
        ValueError
            If the estimator has neither `p_values` nor `transform`, or no calibration
            samples.
        """
        caller = f"{cls.__name__}.from_estimator"
        check_matplotlib_support(caller)
        check_is_fitted(estimator)
        if hasattr(estimator, "p_values"):
            values = estimator.p_values(X)
            n_calibration = len(estimator.calibration_scores_)
            return cls.from_predictions(
                values,
                name="p-value",
                n_calibration=n_calibration,
                level=level,
                ax=ax,
                **kwargs,
            )
        if not hasattr(estimator, "transform"):
            raise ValueError(
                f"{caller} needs an estimator with p_values or transform, such as "
                f"JKOFlowOutlierDetector. Got {type(estimator).__name__} instead."
            )
        Z = np.asarray(estimator.transform(X))
        values = stats.chi2.cdf(np.square(Z).sum(axis=1), Z.shape[1])
        name = "distribution function of the latent squared length"
        return cls.from_predictions(values, name=name, level=level, ax=ax, **kwargs)

    @classmethod
    def from_predictions(
        cls,
        values: ArrayLike,
        *,
        name: str = "value",
        n_calibration: int | None = None,
        level: float = 0.95,
        ax: Axes = None,
        **kwargs: Any,
    ) -> Self:
        """Draw how uniform values are.

        Parameters
        ----------
        values : array-like of shape (n_samples,)
            Probability integral transforms, F(y | x) at the actual y, or p-values.
        name : str, default="value"
            What they are.
        n_calibration : int, default=None
            Number of calibration samples that the values are p-values by.
        level : float, default=0.95
            Probability of the band.
        ax : Axes, default=None
            Where to draw. None makes a new figure.
        **kwargs
            Of matplotlib's `step`.

        Returns
        -------
        display : CalibrationDisplay
            With `ax_` and `figure_`.

        Raises
        ------
        ValueError
            If there are no values, or some are not between 0 and 1.
        """
        u = np.sort(np.asarray(values, dtype=float).ravel())
        # NaN is not between them either.
        if not len(u) or not ((u >= 0) & (u <= 1)).all():
            raise ValueError(
                f"The 'values' parameter of {cls.__name__}.from_predictions must be "
                "numbers between 0 and 1, at least one."
            )
        display = cls(u, name=name, n_calibration=n_calibration, level=level)
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Axes = None, **kwargs: Any) -> Self:
        """Draw the curve, the diagonal and the band.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw. None makes a new figure.
        **kwargs
            Of matplotlib's `step`.

        Returns
        -------
        display : CalibrationDisplay
            With `ax_`, `figure_`, `line_` and `band_`.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        caller = f"{type(self).__name__}.plot"
        (self.ax_,), self.figure_ = new_axes(ax, 1, caller, (4.4, 4.2))
        u = np.sort(self.values)
        n = len(u)
        counts = n
        if self.n_calibration is not None:
            counts = n * self.n_calibration / (n + self.n_calibration)
        half = np.sqrt(np.log(2 / (1 - self.level)) / (2 * counts))
        line = np.linspace(0, 1, 201)
        self.band_ = self.ax_.fill_between(
            line,
            np.clip(line - half, 0, 1),
            np.clip(line + half, 0, 1),
            color=GREY,
            alpha=0.2,
            linewidth=0,
            label=f"{self.level:.0%} band of uniform values",
        )
        self.ax_.plot([0, 1], [0, 1], "--", color=GREY, lw=1)
        style = {"color": BLUE, "label": f"{n} samples", "where": "post", **kwargs}
        (self.line_,) = self.ax_.step(
            np.concatenate([[0], u, [1]]),
            np.concatenate([[0], np.arange(1, n + 1) / n, [1]]),
            **style,
        )
        self.ax_.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        self.ax_.set_xlabel(self.name)
        self.ax_.set_ylabel("share of samples at most there")
        self.ax_.legend(fontsize=8, loc="lower right")
        return self
