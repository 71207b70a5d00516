"""The outlier detector: scikit-learn's contract around the log-density of a flow."""

# SPDX-License-Identifier: BSD-3-Clause

import copy
import math
from numbers import Real
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin, _fit_context, clone
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from skjko.base import new_estimator, set_names, table_of
from skjko.calibration import median_and_spread, threshold_of, weighted_quantile
from skjko.callback_support import CallbackSupport
from skjko.data import repeats, splits
from skjko.data.frames import Table, check_values
from skjko.density import JKOFlowDensity
from skjko.inputs import warn_user
from skjko.io.persistence import Saved
from skjko.io.registry import CLASSES
from skjko.kernel_density import KernelDensity, scores_by_others
from skjko.outlier_calibration import MAX_CALIBRATION_ROWS
from skjko.outlier_density import default_density, set_support
from skjko.outlier_reasons import OutlierReasons
from skjko.outlier_scores import N_SAMPLES, RATE
from skjko.support import Support
from skjko.transforms.base import is_array, is_int
from skjko.typing import Floats, Seed, State, typed

# Scales of scores take so many samples at least, but no larger share of them.
_LEAST_TO_SCALE, _MOST_TO_SCALE = 20, 0.2

_STATISTICS = ("combined", "likelihood", "typicality")
# Of kernels for `trim`: fine detail would hide a small cluster.
_BANDWIDTH_TO_TRIM = 3.0
# Distances from the median to the lower quartile below which `trim="auto"` begins.
_FAR_BELOW = 8.0


class JKOFlowOutlierDetector(
    OutlierReasons, OutlierMixin, Saved, CallbackSupport, BaseEstimator
):
    """Outlier and novelty detection by the density of a normalizing flow (JKO-iFlow).

    Samples are scored by the log-density of a flow, and by a kernel density: the flow
    knows the fine structure, and the kernels what is far from all samples. The lower of
    the two scores counts. Some samples are kept from training; they turn scores into
    p-values that hold whatever the distribution [1]_.

    Parameters
    ----------
    contamination : "auto" or float, default="auto"
        Where `predict` draws the line. A float in (0, 0.5] is the share of the samples
        given to `fit` that will be called outliers. "auto" leaves it to `threshold`.

    threshold : {"false_alarm", "hdr"}, default="false_alarm"
        With `contamination="auto"`: "false_alarm" calls a sample an outlier if its
        p-value is at most `false_alarm_rate`; "hdr" if it is outside the
        highest-density region that holds a share of `1 - false_alarm_rate` of the
        model's own mass, by its samples. The first needs calibration samples and then
        holds for any model; the second needs none, but trusts the model.

    false_alarm_rate : float, default=0.05
        Share of normal samples that may be called outliers, with
        `contamination="auto"`.

    statistic : {"combined", "likelihood", "typicality"}, default="combined"
        What scores a sample: the lower of its log-densities by the flow and by kernels,
        each standardized (see `score_samples`); that by the flow alone; or how near
        that is to the log-density of the model's own samples. See Notes.

    trim : "auto" or float, default="auto"
        Training samples that are left out as outliers. Their log-density is estimated
        by Gaussian kernels at the other samples, three standard deviations wide. "auto"
        leaves out samples that are more than eight times as far below the median as the
        lower quartile is. A float, less than 1/2, is the share of the samples that is
        left out, those of the lowest log-density; 0 leaves out none.

    calibration_fraction : float, default=0.1
        Share of the samples, at most 5000, that do not train, for p-values and the
        threshold by false alarms. Not used when `X_calibration` is given to `fit`. As
        many others (20, or a fifth, of few) standardize the scores of "combined". 0
        keeps none: all samples train, there are no p-values, and "false_alarm" takes
        the quantile of the training samples, which promises nothing.

    density : JKOFlowDensity or None, default=None
        The density to fit; it is cloned. None is a flow of at most one block behind a
        mixture, without other transforms, which takes the values of discrete features
        for continuous ones.

    random_state : int, RandomState instance or None, default=None
        Calibration samples, the density's random state (if it has none), kernels, own
        samples. Pass an int for a reproducible detector.

    Attributes
    ----------
    offset_ : float
        `decision_function` is `score_samples` less this: the threshold.

    density_ : JKOFlowDensity
        The fitted density, in the units of the data.

    calibration_scores_ : ndarray of shape (n_calibration,) or None
        Sorted scores of the samples that did not train. None if there were none.

    typical_log_density_ : float
        Mean log-density of the model's own samples, in nats (its negative entropy).

    n_trimmed_ : int
        Number of training samples left out as outliers.

    n_iter_ : int
        Number of iterations of the flow that was kept.

    n_features_in_ : int
        Number of features seen during fit.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of features seen during fit, when all of them are strings.

    See Also
    --------
    JKOFlowDensity : The density itself.
    sklearn.ensemble.IsolationForest : Detection by random splits.
    sklearn.neighbors.LocalOutlierFactor : Detection by the density of neighbours.

    Notes
    -----
    The likelihood has a known weakness [2]_: in many dimensions a sample can be more
    likely than any sample that the distribution ever draws. Of a standard normal in 100
    features, zero has the highest density of all, but the samples drawn lie at a
    distance of about 10 from it, where the density is 50 nats lower. Samples that are
    too smooth, too average or constant are such cases, and `statistic="typicality"`
    calls them outliers; in exchange it no longer tells a sample that is slightly too
    likely from one slightly too unlikely. Neither statistic is right for all anomalies.

    References
    ----------
    .. [1] S. Bates, E. Candes, L. Lei, Y. Romano, M. Sesia, "Testing for outliers with
       conformal p-values", Annals of Statistics 51(1), 2023.
    .. [2] E. Nalisnick, A. Matsukawa, Y. W. Teh, B. Lakshminarayanan, "Detecting
       out-of-distribution inputs to deep generative models using typicality", 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from skjko import JKOFlowOutlierDetector
    >>> from skjko.datasets import moons
    >>> X = moons().sample(1000, random_state=0)
    >>> detector = JKOFlowOutlierDetector(random_state=1).fit(X)
    >>> detector.predict([[9.0, 9.0]])
    array([-1])
    >>> bool((detector.predict(X) == 1).mean() > 0.9)
    True
    >>> bool(detector.p_values([[9.0, 9.0]])[0] < 0.01)
    True
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        "contamination": [
            StrOptions({"auto"}),
            Interval(Real, 0, 0.5, closed="right"),
        ],
        "threshold": [StrOptions({"false_alarm", "hdr"})],
        "false_alarm_rate": [RATE],
        "statistic": [StrOptions(set(_STATISTICS))],
        "trim": [StrOptions({"auto"}), Interval(Real, 0, 0.5, closed="left")],
        "calibration_fraction": [Interval(Real, 0, 1, closed="left")],
        "density": [None, JKOFlowDensity],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        *,
        contamination: float | Literal["auto"] = "auto",
        threshold: Literal["false_alarm", "hdr"] = "false_alarm",
        false_alarm_rate: float = 0.05,
        statistic: Literal["combined", "likelihood", "typicality"] = "combined",
        trim: float | Literal["auto"] = "auto",
        calibration_fraction: float = 0.1,
        density: JKOFlowDensity | None = None,
        random_state: Seed = None,
    ) -> None:
        self.contamination = contamination
        self.threshold = threshold
        self.false_alarm_rate = false_alarm_rate
        self.statistic = statistic
        self.trim = trim
        self.calibration_fraction = calibration_fraction
        self.density = density
        self.random_state = random_state

    # ------------------------------------------------------------------ fitting

    @typed(_fit_context(prefer_skip_nested_validation=False))
    def fit(
        self,
        X: ArrayLike,
        y: object = None,
        sample_weight: ArrayLike | None = None,
        X_calibration: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Fit the detector to samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The data, in any units. At least two samples.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the samples. A sample of weight 0 is as good as
            absent. Samples that are equal are one, with their summed weight.
            Calibration counts samples, whatever their weight.
        X_calibration : array-like of shape (n_calibration, n_features), default=None
            Normal samples to calibrate by instead of a random part of `X`: for time
            series, and where `X` has outliers but clean samples are at hand too.
        groups : array-like of shape (n_samples,), default=None
            Labels of samples that belong together: they stay on one side of every
            split. Samples that are equal up to rounding do so anyway.

        Returns
        -------
        self : JKOFlowOutlierDetector
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data hold NaN, infinity, strings or fewer than two samples of
            positive weight, or a parameter is out of its range.
        """
        from_pandas, given = hasattr(X, "iloc"), (X, y, sample_weight)
        X, table = self._checked(X, ensure_min_samples=2, reset=True), X
        weight = _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True
        )
        owner = type(self).__name__
        if groups is not None:
            groups = repeats.check_groups(groups, X, owner)
        check_values(X, owner, table=table)
        X, weight, groups = repeats.weighted(X, weight, groups, owner)
        self._table = Table.of(table, self._categories)
        density = clone(self.density or default_density())
        learned = density.bounds, density.discrete, type(density).__name__
        support = Support.learn(X, self._table, *learned)
        support.check(X, self._table)
        n_given = len(X)
        X, weight, groups = repeats.distinct(
            X, weight, groups, support.grid.step == 0, support.is_tied
        )
        is_distinct = X_calibration is None and len(X) < n_given
        rng, train = check_random_state(self.random_state), np.arange(len(X))
        n_aside = min(int(self.calibration_fraction * len(X)), MAX_CALIBRATION_ROWS)
        if X_calibration is not None:
            X_calibration = self._checked(X_calibration, "X_calibration")
        else:
            train, rest = splits.set_aside(train, n_aside, rng, groups)
            X_calibration = X[rest] if len(rest) else None
        held_out = train[:0]
        if self.statistic == "combined" and self.calibration_fraction > 0:
            least = min(_LEAST_TO_SCALE, int(_MOST_TO_SCALE * len(X)))
            train, held_out = splits.set_aside(train, max(n_aside, least), rng, groups)
        coded = {j: len(c.values) for j, c in self._categories.columns.items()}
        trimmed = self._to_trim(X[train], weight[train], coded, rng)
        self.n_trimmed_, train = len(trimmed), np.delete(train, trimmed)
        kernels = None
        if self.statistic == "combined":
            kernels = KernelDensity.fit(X[train], weight[train], None, coded, rng)
        set_support(density, support, coded)
        if density.random_state is None:
            density.random_state = rng.randint(2**31 - 1)
        fit_params = {"sample_weight": weight[train]}
        if groups is not None and density.early_stopping:
            fit_params["groups"] = groups[train]
        with self._around_fits(*given, n_fits=1) as around:
            with around(density):
                self.density_ = density.fit(X[train], **fit_params)
            self._describe(from_pandas, rng, support)
            self._set_kernels(kernels, X[train], X[held_out])
            self._calibrate(X_calibration, is_distinct)
            self._set_offset(X, weight, rng)
        return self

    @classmethod
    def from_density(
        cls, density: JKOFlowDensity, X_calibration: ArrayLike, **parameters: Any
    ) -> Self:
        """Make a detector of a density that is fitted already, without training.

        Parameters
        ----------
        density : JKOFlowDensity
            Fitted. It is not changed, and what becomes of it later has no effect.
        X_calibration : array-like of shape (n_calibration, n_features)
            Normal samples, in the units of the density's data. They must have played no
            part in its training, not even as held-out samples that ended it.
        **parameters
            Of the detector. `contamination` (here a share of the calibration rows),
            `threshold`, `false_alarm_rate`, `statistic` and `random_state` have an
            effect; the others would have one in a new `fit`. `statistic` is
            "likelihood" if it is not given; there are no kernels to combine it with.

        Returns
        -------
        detector : JKOFlowOutlierDetector
            As good as fitted.

        Raises
        ------
        ValueError
            If `density` is none, or a parameter is out of its range.
        sklearn.exceptions.NotFittedError
            If the density is not fitted.

        Examples
        --------
        >>> from skjko import JKOFlowDensity, JKOFlowOutlierDetector
        >>> from skjko.datasets import moons
        >>> X = moons().sample(600, random_state=0)
        >>> density = JKOFlowDensity(max_blocks=0).fit(X[:300])
        >>> detector = JKOFlowOutlierDetector.from_density(density, X[300:])
        >>> detector.predict([[9.0, 9.0]])
        array([-1])
        """
        self = cls(**{"statistic": "likelihood", **parameters})
        self._validate_params()
        if self.statistic == "combined":
            raise ValueError(
                f"The 'statistic' parameter of {cls.__name__}.from_density must be "
                "'likelihood' or 'typicality', for it has no training samples to put "
                "kernels at. Got 'combined' instead."
            )
        if not isinstance(density, JKOFlowDensity):
            raise ValueError(
                f"The 'density' parameter of {cls.__name__}.from_density must be a "
                f"fitted JKOFlowDensity. Got {density!r} instead."
            )
        check_is_fitted(density)
        self.n_features_in_ = density.n_features_in_
        if hasattr(density, "feature_names_in_"):
            self.feature_names_in_ = density.feature_names_in_
        from_pandas = hasattr(X_calibration, "iloc")
        self._table = table_of(density)
        self._categories = self._table.categories
        X = self._checked(X_calibration, "X_calibration")
        rng = check_random_state(self.random_state)
        # The user's may be fitted again.
        self.density_, self.n_trimmed_ = copy.copy(density), 0
        self._describe(from_pandas, rng, density.support_)
        self._set_kernels(None, X, X)
        self._calibrate(X)
        self._set_offset(X, np.ones(len(X)), rng)
        return self

    def _to_trim(
        self,
        X: Floats,
        weight: Floats,
        coded: dict[int, int],
        rng: np.random.RandomState,
    ) -> NDArray[np.int_]:
        """Return the numbers of training samples that are left out."""
        is_auto = self.trim == "auto"
        if self.trim == 0 or (is_auto and len(X) < _LEAST_TO_SCALE):
            return np.arange(0)
        scores = scores_by_others(X, weight, _BANDWIDTH_TO_TRIM, coded, rng)
        if is_auto:
            median, spread = median_and_spread(scores)
            return np.flatnonzero(scores < median - _FAR_BELOW * spread)
        return np.argsort(scores, kind="stable")[: int(self.trim * len(X))]

    def _set_offset(
        self, X: Floats, weight: Floats, rng: np.random.RandomState
    ) -> None:
        """Draw the line as `contamination` and `threshold` say."""
        if self.contamination != "auto":
            self.offset_ = weighted_quantile(self._score(X), weight, self.contamination)
        elif self.threshold == "hdr":
            self.offset_ = self._level(1 - self.false_alarm_rate, N_SAMPLES, rng)
        elif self.calibration_scores_ is None:
            self.offset_ = weighted_quantile(
                self._score(X), weight, self.false_alarm_rate
            )
        else:
            self.offset_, warning = threshold_of(
                self.calibration_scores_, self.false_alarm_rate
            )
            if warning is not None:
                warn_user(warning)

    @classmethod
    def _classes(cls) -> dict[str, type]:
        return {**CLASSES, "JKOFlowDensity": JKOFlowDensity}

    def get_state(self) -> State:
        """Return everything that is saved of the fitted detector.

        Returns
        -------
        state : dict
            Of plain values, arrays and objects that have a state themselves.
        """
        names = getattr(self, "feature_names_in_", None)
        density = None
        if self.density is not None:
            density = self.density.get_params(deep=False)
        return {
            "params": {**self.get_params(deep=False), "density": None},
            "statistic": self._fitted_statistic,
            "table": self._table,
            "density": density,
            "density_": self.density_,
            "feature_names_in": None if names is None else [str(n) for n in names],
            "returns_frame": bool(self._returns_frame),
            "offset": float(self.offset_),
            "typical_log_density": float(self.typical_log_density_),
            "kernels": self._kernels,
            "scales": [list(pair) for pair in self._scales],
            "n_trimmed": int(self.n_trimmed_),
            "candidates": self._candidates,
            "calibration_scores": self.calibration_scores_,
            "calibration_rows": self._calibration_rows,
            "is_distinct": bool(self._is_distinct),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return the fitted detector of a state from `get_state`.

        Parameters
        ----------
        state : dict
            As `get_state` returns it.

        Returns
        -------
        detector : JKOFlowOutlierDetector
            As it was.

        Raises
        ------
        ValueError
            If no fit can have had this state.
        """
        params = dict(state["params"])
        if state["density"] is not None:
            params["density"] = new_estimator(JKOFlowDensity, state["density"])
        self, density = new_estimator(cls, params), state["density_"]
        if not isinstance(density, JKOFlowDensity):
            raise ValueError("the density is missing")
        self.density_, self.n_iter_ = density, density.n_iter_
        d = self.n_features_in_ = density.n_features_in_
        set_names(self, state["feature_names_in"])
        if not isinstance(state["table"], Table):
            raise ValueError("the table is missing")
        self._table = state["table"]
        self._table.check(d, state["feature_names_in"])
        self._categories = self._table.categories
        self._restore_calibration(state, d)
        offset = state["offset"]
        numbers = (offset, state["typical_log_density"])
        if not (
            all(isinstance(n, float) and not math.isnan(n) for n in numbers)
            and is_int(state["n_trimmed"], 0)
            and is_array(state["candidates"], (None, d))
            and len(state["candidates"]) > 0
            and isinstance(state["returns_frame"], bool)
        ):
            raise ValueError("the detector has no threshold, or no values to try")
        if state["returns_frame"] and state["feature_names_in"] is None:
            raise ValueError("there are no names for the data frames that it returns")
        self.offset_, self.typical_log_density_ = numbers
        self.n_trimmed_, self._candidates = state["n_trimmed"], state["candidates"]
        if state["statistic"] not in _STATISTICS:
            raise ValueError("the statistic is none")
        kernels, scales = state["kernels"], [tuple(pair) for pair in state["scales"]]
        if state["statistic"] == "combined":
            if not isinstance(kernels, KernelDensity) or not kernels.fits(d):
                raise ValueError("the kernels are missing")
            scale = np.array(scales, dtype=float)
            if not is_array(scale, (2, 2)) or not (scale[:, 1] > 0).all():
                raise ValueError("the scales of the scores are none")
        elif kernels is not None or scales:
            raise ValueError("the statistic has no kernels")
        self._kernels, self._scales = kernels, scales
        self._fitted_statistic = state["statistic"]
        self._returns_frame = state["returns_frame"]
        return self
