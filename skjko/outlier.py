"""The outlier detector: scikit-learn's contract around the log-density of a flow."""

# SPDX-License-Identifier: BSD-3-Clause

import math
import warnings
from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    validate_data,
)

from skjko import smoothing
from skjko.calibration import (
    conformal_p_values,
    false_alarm_threshold,
    weighted_quantile,
)
from skjko.density import JKOFlowDensity
from skjko.explanation import conditional_gains
from skjko.outlier_persistence import DETECTOR
from skjko.persistence import Saved
from skjko.table import check_values

# Own samples that the typical log-density, the level sets and the candidate values of
# `explain` are taken from: the quantile at 5 % is then known to 0.5 % of the mass.
_N_SAMPLES = 2000

# Values of every column that `explain` tries first: equally spaced quantiles.
_N_CANDIDATES = 33

# Calibration rows beyond this number would only cost training rows: with as many, the
# rate of false alarms at 5 % is known to 0.3 %.
_MAX_CALIBRATION_ROWS = 5000

_RATE = Interval(Real, 0, 1, closed="neither")


class JKOFlowOutlierDetector(OutlierMixin, Saved, BaseEstimator):
    """Outlier and novelty detection by the density of a normalizing flow (JKO-iFlow).

    Rows are scored by the log-density of a flow that was trained on copies of the rows
    with a little Gaussian noise. What the flow has learned is then the smoothed density
    of the data: ties, duplicates and few rows do no harm, and there are no spikes that
    would make unusual rows out of usual ones. Some rows are kept from training; they
    turn scores into p-values that hold whatever the distribution [1]_.

    Parameters
    ----------
    contamination : "auto" or float, default="auto"
        Where `predict` draws the line. A float in (0, 0.5] is the share of the rows
        given to `fit` that will be called outliers. "auto" leaves it to `threshold`.

    threshold : {"false_alarm", "hdr"}, default="false_alarm"
        With `contamination="auto"`: "false_alarm" calls a row an outlier if its p-value
        is at most `false_alarm_rate`; "hdr" if it is outside the highest-density region
        that holds a share of `1 - false_alarm_rate` of the model's own mass, by its
        samples. The first needs calibration rows and then holds for any model; the
        second needs none, but trusts the model (and counts its noise as part of it).

    false_alarm_rate : float, default=0.05
        Share of normal rows that may be called outliers, with `contamination="auto"`.

    statistic : {"likelihood", "typicality"}, default="likelihood"
        What scores a row: its log-density, or how near its log-density is to that of
        the model's own samples. See Notes.

    noise : "auto" or float, default="auto"
        Standard deviation of the noise added in training, in standard deviations of
        every column. "auto" is 0.3 for 1000 training rows and falls as one over the
        square root of their number, from 1 to 0.1. 0 adds none: for continuous columns
        and many rows.

    trim : float, default=0.0
        Share of the training rows, less than 1/2, that may be outliers themselves. A
        first flow is trained briefly on all rows, with much noise; the rows that it
        finds least likely are left out, and a second one is trained on the others. 0 is
        for clean rows.

    calibration_fraction : float, default=0.1
        Share of the rows, at most 5000, that do not train, for p-values and the
        threshold by false alarms. Not used when `X_calibration` is given to `fit`. 0
        keeps none: all rows train, there are no p-values, and "false_alarm" takes the
        quantile of the training rows, which promises nothing.

    max_blocks : int, default=1
        Number of flow blocks, the free block included.

    hidden_layer_sizes : tuple of int, default=(64, 64)
        Widths of the hidden layers of every block.

    max_iter : int, default=500
        Minibatch iterations of every block.

    batch_size : int, default=250
        Rows in a minibatch.

    learning_rate_init : float, default=0.02
        Peak learning rate.

    time_limit : float or None, default=None
        Seconds that training may take, about; None for no limit.

    random_state : int, RandomState instance or None, default=None
        Calibration rows, noise, starting weights, minibatches, own samples. Pass an
        int for a reproducible detector.

    verbose : bool, default=False
        Whether to print a line for every block.

    device : str, default="auto"
        torch device for training; see `JKOFlowDensity`.

    Attributes
    ----------
    offset_ : float
        `decision_function` is `score_samples` less this: the threshold.

    density_ : JKOFlowDensity
        The fitted density, in the units of the data.

    calibration_scores_ : ndarray of shape (n_calibration,) or None
        Sorted scores of the rows that did not train. None if there were none.

    typical_log_density_ : float
        Mean log-density of the model's own samples, in nats (its negative entropy).

    noise_ : float
        The noise added in training, in standard deviations of every column.

    n_trimmed_ : int
        Number of training rows left out as outliers.

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
    The likelihood has a known weakness [2]_: in many dimensions a row can be more
    likely than any row that the distribution ever draws. Of a standard normal in 100
    columns, the zero row has the highest density of all, but the rows drawn lie at a
    distance of about 10 from it, where the density is 50 nats lower. Rows that are too
    smooth, too average or constant are such cases, and `statistic="typicality"` calls
    them outliers; in exchange it no longer tells a row that is slightly too likely from
    one slightly too unlikely. Neither statistic is right for all anomalies.

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
    >>> detector = JKOFlowOutlierDetector(max_iter=40, random_state=1).fit(X)
    >>> detector.predict([[9.0, 9.0]])
    array([-1])
    >>> bool((detector.predict(X) == 1).mean() > 0.9)
    True
    >>> bool(detector.p_values([[9.0, 9.0]])[0] < 0.01)
    True
    """

    _form = DETECTOR

    _parameter_constraints: dict = {  # noqa: RUF012
        "contamination": [
            StrOptions({"auto"}),
            Interval(Real, 0, 0.5, closed="right"),
        ],
        "threshold": [StrOptions({"false_alarm", "hdr"})],
        "false_alarm_rate": [_RATE],
        "statistic": [StrOptions({"likelihood", "typicality"})],
        "noise": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "trim": [Interval(Real, 0, 0.5, closed="left")],
        "calibration_fraction": [Interval(Real, 0, 1, closed="left")],
        **{
            name: JKOFlowDensity._parameter_constraints[name]
            for name in (
                "max_blocks",
                "hidden_layer_sizes",
                "max_iter",
                "learning_rate_init",
                "time_limit",
                "random_state",
                "verbose",
                "device",
            )
        },
        "batch_size": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        *,
        contamination="auto",
        threshold="false_alarm",
        false_alarm_rate=0.05,
        statistic="likelihood",
        noise="auto",
        trim=0.0,
        calibration_fraction=0.1,
        max_blocks=1,
        hidden_layer_sizes=(64, 64),
        max_iter=500,
        batch_size=250,
        learning_rate_init=0.02,
        time_limit=None,
        random_state=None,
        verbose=False,
        device="auto",
    ):
        self.contamination = contamination
        self.threshold = threshold
        self.false_alarm_rate = false_alarm_rate
        self.statistic = statistic
        self.noise = noise
        self.trim = trim
        self.calibration_fraction = calibration_fraction
        self.max_blocks = max_blocks
        self.hidden_layer_sizes = hidden_layer_sizes
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.time_limit = time_limit
        self.random_state = random_state
        self.verbose = verbose
        self.device = device

    # ------------------------------------------------------------------ fitting

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None, X_calibration=None):
        """Fit the detector to rows of data.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The data, in any units. At least two rows.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows. A row of weight 0 is as good as absent.
            Calibration counts rows, whatever their weight.
        X_calibration : array-like of shape (n_calibration, n_features), default=None
            Normal rows to calibrate by instead of a random part of `X`: for time series
            and groups, and where `X` has outliers but clean rows are at hand too.

        Returns
        -------
        self : JKOFlowOutlierDetector
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data hold NaN, infinity, strings or fewer than two rows of positive
            weight, or a parameter is out of its range.
        """
        from_pandas = hasattr(X, "iloc")
        X = self._checked(X, ensure_min_samples=2, reset=True)
        weight = _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True
        )
        check_values(X, type(self).__name__)
        X, weight = X[weight > 0], weight[weight > 0]
        if len(X) < 2:
            raise ValueError(
                f"{type(self).__name__} requires at least 2 samples with a positive "
                f"sample_weight. Got {len(X)} instead."
            )
        rng = check_random_state(self.random_state)
        train = np.arange(len(X))
        if X_calibration is not None:
            X_calibration = self._checked(X_calibration)
        else:
            n_calibration = int(self.calibration_fraction * len(X))
            n_calibration = min(n_calibration, _MAX_CALIBRATION_ROWS, len(X) - 2)
            if n_calibration > 0:
                train = rng.permutation(len(X))
                X_calibration = X[train[:n_calibration]]
                train = train[n_calibration:]
        self.density_, self.noise_, self.n_trimmed_ = smoothing.fit(
            self, X[train], weight[train], rng
        )
        self._describe(from_pandas, rng)
        self._calibrate(X_calibration)
        self._set_offset(X, weight, rng)
        return self

    @classmethod
    def from_density(cls, density, X_calibration, **parameters):
        """Make a detector of a density that is fitted already, without training.

        Parameters
        ----------
        density : JKOFlowDensity
            Fitted. It is neither copied nor changed.
        X_calibration : array-like of shape (n_calibration, n_features)
            Normal rows, in the units of the density's data. They must have played no
            part in its training, not even as held-out rows that ended it.
        **parameters
            Of the detector. `contamination` (here a share of the calibration rows),
            `threshold`, `false_alarm_rate`, `statistic` and `random_state` have an
            effect; the others would have one in a new `fit`.

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
        self = cls(**parameters)
        self._validate_params()
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
        X = self._checked(X_calibration)
        rng = check_random_state(self.random_state)
        self.density_, self.noise_, self.n_trimmed_ = density, 0.0, 0
        self._describe(from_pandas, rng)
        self._calibrate(X)
        self._set_offset(X, np.ones(len(X)), rng)
        return self

    def _describe(self, from_pandas, rng):
        """Keep of the model's own samples what scoring and explaining need."""
        samples = self._own_samples(_N_SAMPLES, rng)
        scores = self.density_._model.log_density(samples)
        self.typical_log_density_ = float(scores.mean())
        levels = np.linspace(0, 1, _N_CANDIDATES)
        self._candidates = np.quantile(samples, levels, axis=0)
        self._returns_frame = from_pandas and hasattr(self, "feature_names_in_")
        self.n_iter_ = self.density_.n_iter_

    def _calibrate(self, X_calibration):
        self.calibration_scores_ = (
            None if X_calibration is None else np.sort(self._score(X_calibration))
        )

    def _set_offset(self, X, weight, rng):
        """Draw the line as `contamination` and `threshold` say."""
        if self.contamination != "auto":
            self.offset_ = weighted_quantile(self._score(X), weight, self.contamination)
        elif self.threshold == "hdr":
            self.offset_ = self._level(1 - self.false_alarm_rate, _N_SAMPLES, rng)
        elif self.calibration_scores_ is None:
            self.offset_ = weighted_quantile(
                self._score(X), weight, self.false_alarm_rate
            )
        else:
            self.offset_ = false_alarm_threshold(
                self.calibration_scores_, self.false_alarm_rate
            )
            if self.offset_ == -math.inf:
                self.offset_ = float(self.calibration_scores_[0])
                warnings.warn(
                    f"{len(self.calibration_scores_)} calibration rows are too few for "
                    f"a false_alarm_rate of {self.false_alarm_rate}: that takes "
                    f"{math.ceil(1 / self.false_alarm_rate) - 1}. The threshold is the "
                    "lowest of their scores.",
                    stacklevel=3,
                )

    # ------------------------------------------------------------------ using

    def _validated(self, X):
        check_is_fitted(self)
        return self._checked(X)

    def _checked(self, X, reset=False, **kwargs):
        # Scikit-learn adds all values up, to see whether they are finite.
        with np.errstate(over="ignore", invalid="ignore"):
            return validate_data(self, X, dtype=np.float64, reset=reset, **kwargs)

    def _score(self, X):
        """Score validated rows."""
        log_density = self.density_._model.log_density(X)
        if self.statistic == "typicality":
            return -np.abs(log_density - self.typical_log_density_)
        return log_density

    def _own_samples(self, n_samples, rng):
        Z = rng.standard_normal((n_samples, self.n_features_in_))
        return self.density_._model.inverse_transform(Z)

    def _level(self, mass, n_samples, rng):
        """Score above which a share `mass` of the model's samples lies."""
        return float(
            np.quantile(self._score(self._own_samples(n_samples, rng)), 1 - mass)
        )

    def score_samples(self, X):
        """Score rows: the higher, the more normal.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the data fitted.

        Returns
        -------
        scores : ndarray of shape (n_samples,)
            With `statistic="likelihood"` the log-density in nats, per unit of the data;
            with "typicality" minus its distance in nats to that of the model's samples.
        """
        return self._score(self._validated(X))

    def decision_function(self, X):
        """Score rows so that outliers are negative.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the data fitted.

        Returns
        -------
        decision : ndarray of shape (n_samples,)
            `score_samples` less `offset_`, in nats.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X):
        """Tell outliers from inliers.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the data fitted.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            -1 for outliers, +1 for inliers.
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X):
        """Compute the probability that a normal row scores as low as these.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the data fitted.

        Returns
        -------
        p : ndarray of shape (n_samples,)
            Split-conformal p-values, at least `1 / (n_calibration + 1)`. For a row that
            comes from where the calibration rows come from, p is at most a with
            probability at most a, whatever the distribution and the model, if the
            calibration rows are drawn anew. Calibration rows with outliers among them
            make p-values too large, never too small.

        Raises
        ------
        ValueError
            If there are no calibration rows.

        Notes
        -----
        Among many rows tested, hold the share of false alarms among the alarms down
        with `scipy.stats.false_discovery_control`.
        """
        X = self._validated(X)
        return conformal_p_values(self._score(X), self._calibrated())

    def _calibrated(self):
        if self.calibration_scores_ is None:
            raise ValueError(
                f"{type(self).__name__} has no calibration rows. Fit it with "
                "calibration_fraction > 0 or X_calibration, or use from_density."
            )
        return self.calibration_scores_

    def typicality(self, X):
        """Compute how near the log-densities of rows are to those of own samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the data fitted.

        Returns
        -------
        typicality : ndarray of shape (n_samples,)
            Minus the distance in nats to `typical_log_density_`; at most 0.
        """
        X = self._validated(X)
        log_density = self.density_._model.log_density(X)
        return -np.abs(log_density - self.typical_log_density_)

    def false_alarm_threshold(self, rate):
        """Score below which the p-value is at most a rate.

        Parameters
        ----------
        rate : float
            Between 0 and 1.

        Returns
        -------
        threshold : float
            For `score_samples`. -inf if there are less than `1 / rate - 1` calibration
            rows.

        Raises
        ------
        ValueError
            If there are no calibration rows, or the rate is out of its range.
        """
        check_is_fitted(self)
        self._check_rate(rate, "rate", "false_alarm_threshold")
        return false_alarm_threshold(self._calibrated(), rate)

    def hdr_threshold(self, mass=0.95, n_samples=10_000, random_state=0):
        """Score at the border of the highest-density region that holds a given mass.

        Parameters
        ----------
        mass : float, default=0.95
            Between 0 and 1.
        n_samples : int, default=10_000
            Samples of the model that the level is a quantile of.
        random_state : int, RandomState instance or None, default=0
            Source of the samples.

        Returns
        -------
        threshold : float
            For `score_samples`. A share `mass` of the model's own samples is above.
            The model has the noise of its training in it, so of data like those it was
            trained on, rather more are.

        Raises
        ------
        ValueError
            If a parameter is out of its range.
        """
        check_is_fitted(self)
        self._check_rate(mass, "mass", "hdr_threshold")
        is_int = isinstance(n_samples, Integral) and not isinstance(n_samples, bool)
        if not is_int or n_samples < 1:
            raise ValueError(
                f"The 'n_samples' parameter of {type(self).__name__}.hdr_threshold "
                f"must be an int in the range [1, inf). Got {n_samples!r} instead."
            )
        return self._level(mass, n_samples, check_random_state(random_state))

    def explain(self, X):
        """Tell which columns make rows unusual.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the data fitted.

        Returns
        -------
        gains : ndarray of shape (n_samples, n_features), or DataFrame
            Nats of log-density that the row would gain if the column had its most
            likely value given all others; 0 where it has it already. A pandas DataFrame
            with the names of the columns, and the index of `X`, if the detector was
            fitted on one.

        See Also
        --------
        most_likely_values : The values that would gain as much.

        Notes
        -----
        Since p(x) = p(x_j | others) p(others), the gain is how much less likely the
        value is than the best one, given the others. It needs no gradients and no
        randomness, and about 40 scores a value. Two columns that are wrong together and
        vouch for each other gain little one by one.
        """
        return self._explanation(X, 0)

    def most_likely_values(self, X):
        """Compute the most likely value of every column given all others.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the data fitted.

        Returns
        -------
        values : ndarray of shape (n_samples, n_features), or DataFrame
            To hold against those of `X`. Column by column: not a row of the data.

        See Also
        --------
        explain : What they would gain.
        """
        return self._explanation(X, 1)

    def _explanation(self, X, which):
        index = getattr(X, "index", None) if hasattr(X, "iloc") else None
        X = self._validated(X)
        values = conditional_gains(
            self.density_._model.log_density, X, self._candidates
        )[which]
        if not self._returns_frame:
            return values
        import pandas as pd

        return pd.DataFrame(values, index=index, columns=self.feature_names_in_)

    def _check_rate(self, value, name, method):
        is_real = isinstance(value, Real) and not isinstance(value, bool)
        if not is_real or value not in _RATE:
            raise ValueError(
                f"The {name!r} parameter of {type(self).__name__}.{method} must be a "
                f"float in the range (0, 1). Got {value!r} instead."
            )
