"""What a fitted outlier detector says of samples by its calibration samples."""

# SPDX-License-Identifier: BSD-3-Clause

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import false_discovery_control
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted

from skjko.calibration import (
    conformal_p_values,
    false_alarm_threshold,
    two_sample_test,
)
from skjko.outlier_scores import OutlierScores
from skjko.transforms.base import is_array
from skjko.typing import Floats, State

MAX_CALIBRATION_ROWS = 5000
"""Calibration samples beyond this number would only cost training samples: with as
many, the rate of false alarms at 5 % is known to 0.3 %."""


class CalibratedScores(OutlierScores):
    """Methods of a fitted detector that need its calibration samples."""

    calibration_scores_: Floats | None
    _calibration_rows: Floats | None
    _is_distinct: bool

    def _calibrate(self, X: Floats | None, is_distinct: bool = False) -> None:
        """Keep calibration samples and their scores.

        `is_distinct` is whether samples that were equal count once among them.
        """
        self._is_distinct = is_distinct
        self.calibration_scores_ = self._calibration_rows = None
        if X is not None:
            self.calibration_scores_ = np.sort(self._score(X))
            order = np.random.RandomState(0).permutation(len(X))
            self._calibration_rows = X[order[:MAX_CALIBRATION_ROWS]]

    def _restore_calibration(self, state: State, d: int) -> None:
        """Take calibration samples and their scores from a state, or a ValueError."""
        scores, rows = state["calibration_scores"], state["calibration_rows"]
        is_none = scores is None and rows is None
        if not isinstance(state["is_distinct"], bool) or not (
            is_none
            or (
                is_array(scores, (None,), finite=False)
                and len(scores) > 0
                and not np.isnan(scores).any()
                and (scores[1:] >= scores[:-1]).all()
                and is_array(rows, (min(len(scores), MAX_CALIBRATION_ROWS), d))
            )
        ):
            raise ValueError("the calibration samples are none")
        self.calibration_scores_, self._calibration_rows = scores, rows
        self._is_distinct = state["is_distinct"]

    def p_values(self, X: ArrayLike) -> Floats:
        """Compute the probability that a normal sample scores as low as these.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples in the units of the data fitted.

        Returns
        -------
        p : ndarray of shape (n_samples,)
            Split-conformal p-values, at least `1 / (n_calibration + 1)`. For a sample
            that comes from where the calibration samples come from, p is at most a with
            probability at most a, whatever the distribution and the model, if the
            calibration samples are drawn anew. Calibration samples with outliers among
            them make p-values too large, never too small.

        Raises
        ------
        ValueError
            If there are no calibration samples.

        See Also
        --------
        select : Outliers among many samples, with a bound on the false discoveries.
        """
        return conformal_p_values(self._told_score(X), self._calibrated())

    def select(self, X: ArrayLike, fdr: float = 0.1) -> NDArray[np.bool_]:
        """Select outliers with a bound on the rate of false discoveries.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples in the units of the data fitted: all that are tested together.
        fdr : float, default=0.1
            Bound on the expected share of normal samples among those selected.

        Returns
        -------
        selected : ndarray of bool of shape (n_samples,)
            By the procedure of Benjamini and Hochberg on `p_values`. The bound holds
            for normal samples that are independent draws from where the calibration
            samples come from [1]_, whatever the distribution and the model.

        Raises
        ------
        ValueError
            If there are no calibration samples, or `fdr` is out of its range.

        Notes
        -----
        No p-value is below `1 / (n_calibration + 1)`. For k of m samples to be selected
        it takes about `m / (k * fdr)` calibration samples.

        References
        ----------
        .. [1] S. Bates, E. Candes, L. Lei, Y. Romano, M. Sesia, "Testing for outliers
           with conformal p-values", Annals of Statistics 51(1), 2023.

        Examples
        --------
        >>> import numpy as np
        >>> from skjko import JKOFlowDensity, JKOFlowOutlierDetector
        >>> X = np.random.default_rng(0).standard_normal((600, 2))
        >>> density = JKOFlowDensity(max_blocks=0).fit(X[:300])
        >>> detector = JKOFlowOutlierDetector.from_density(density, X[300:])
        >>> detector.select([[0.0, 0.1], [9.0, 9.0]])
        array([False,  True])
        """
        check_is_fitted(self)
        self._check_rate(fdr, "fdr", "select")
        # Where the adjusted p-value is the rate itself, rounding must not decide.
        p = false_discovery_control(self.p_values(X))
        return p <= fdr * (1 + 1e-12)

    def drift_test(self, X: ArrayLike, level: float = 0.05) -> Bunch:
        """Test whether new samples come from where the calibration samples come from.

        The scores of the new samples, and their values in every feature, are compared
        with those of the calibration samples, which did not train, by the two-sample
        test of Kolmogorov and Smirnov. Half of the level is for the scores and half for
        all features together [1]_.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            New samples in the units of the data fitted.
        level : float, default=0.05
            For the features to name: the probability of naming any if there is no
            drift is at most half of it.

        Returns
        -------
        result : Bunch
            With the attributes

            p_value : float
                Of both tests together. Without drift it is at most a with probability
                at most a.
            statistic : float
                Largest difference between the distribution functions of the scores.
            score_p_value : float
                Of this statistic alone.
            feature_statistics : ndarray of shape (n_features,)
                The same differences, of the values of every feature.
            feature_p_values : ndarray of shape (n_features,)
                Of these, times the number of features.
            moved : list of str or int
                Names, or numbers, of the features whose p-value is at most half of the
                level, by p-value.

        Raises
        ------
        ValueError
            If there are no calibration samples, or `level` is out of its range.

        See Also
        --------
        skjko.metrics.mmd_test : Test of all features together, of any two samples.

        Notes
        -----
        It holds for independent samples, whatever the distribution and the model, over
        draws of the calibration samples and of the new ones. Samples that trained score
        too high; tests of several tables share the calibration samples.

        It does not see changes that leave the distribution of every feature and that
        of the scores as they were, such as between two clusters whose samples are alike
        in both. Where `fit` had equal samples, they count once in calibration, and here
        too: it does not see that some became more frequent, and is approximate if many
        are equal, unless there is an `X_calibration`.

        References
        ----------
        .. [1] S. Rabanser, S. Günnemann, Z. Lipton, "Failing loudly: an empirical study
           of methods for detecting dataset shift", NeurIPS 2019.

        Examples
        --------
        >>> import numpy as np
        >>> from skjko import JKOFlowDensity, JKOFlowOutlierDetector
        >>> X = np.random.default_rng(0).standard_normal((900, 3))
        >>> density = JKOFlowDensity(init="gaussian", max_blocks=0).fit(X[:300])
        >>> detector = JKOFlowOutlierDetector.from_density(density, X[300:600])
        >>> detector.drift_test(X[600:]).p_value > 0.05
        True
        >>> detector.drift_test(X[600:] + [0.0, 1.0, 0.0]).moved
        [1]
        """
        check_is_fitted(self)
        self._check_rate(level, "level", "drift_test")
        self._calibrated()
        X, usual = self._validated(X), np.asarray(self._calibration_rows)
        if self._is_distinct:
            X, usual = np.unique(X, axis=0), np.unique(usual, axis=0)
        scores = self._statistic(X, self._told_log_density(X))
        statistic, p_scores = two_sample_test(scores, self._score(usual))
        tests = [two_sample_test(*pair) for pair in zip(X.T, usual.T, strict=True)]
        statistics, p = np.array(tests).T
        p = np.minimum(p * len(p), 1.0)
        names = self._table.names
        return Bunch(
            p_value=min(1.0, 2 * min(p_scores, float(p.min()))),
            statistic=statistic,
            score_p_value=p_scores,
            feature_statistics=statistics,
            feature_p_values=p,
            moved=[
                int(j) if names is None else names[j]
                for j in np.argsort(p, kind="stable")
                if p[j] <= level / 2
            ],
        )

    def _calibrated(self) -> Floats:
        if self.calibration_scores_ is None:
            raise ValueError(
                f"{type(self).__name__} has no calibration samples. Fit it with "
                "calibration_fraction > 0 or X_calibration, or use from_density."
            )
        return self.calibration_scores_

    def false_alarm_threshold(self, rate: float) -> float:
        """Score below which the p-value is at most a rate.

        Parameters
        ----------
        rate : float
            Between 0 and 1.

        Returns
        -------
        threshold : float
            For `score_samples`. -inf if there are less than `1 / rate - 1` calibration
            samples.

        Raises
        ------
        ValueError
            If there are no calibration samples, or the rate is out of its range.
        """
        check_is_fitted(self)
        self._check_rate(rate, "rate", "false_alarm_threshold")
        return false_alarm_threshold(self._calibrated(), rate)
