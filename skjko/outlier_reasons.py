"""An outlier detector in words, and why it finds samples unusual."""

# SPDX-License-Identifier: BSD-3-Clause

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from skjko.calibration import conformal_p_values
from skjko.explanation import Changes, conditional_gains, smallest_changes
from skjko.fitted_flow import draw, log_density
from skjko.outlier_calibration import CalibratedScores
from skjko.summary import summarize_detector
from skjko.typing import ArrayOrFrame, Floats

# Own samples that `top` takes values of pairs from.
_N_REFERENCES = 500
# Shares of the calibration samples that score lower than what is usual, after much
# change and after little.
_USUAL = (0.05, 0.25)
# Names of features in columns of their own.
_N_REASONS = 3


class OutlierReasons(CalibratedScores):
    """Methods of a fitted detector that explain."""

    def explain(self, X: ArrayLike) -> ArrayOrFrame:
        """Tell which features make samples unusual.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples in the units of the data fitted.

        Returns
        -------
        gains : ndarray of shape (n_samples, n_features), or DataFrame
            What the score of the sample would gain if the feature had its best value
            given all others; 0 where it has it already. In the units of
            `score_samples`; in nats of log-density with `statistic="likelihood"` or
            "typicality". A pandas DataFrame with the names of the features, and the
            index of `X`, if the detector was fitted on one.

        See Also
        --------
        most_likely_values : The values that would gain as much.
        top : The most unusual samples, with the features that matter in a sentence.

        Notes
        -----
        Since p(x) = p(x_j | others) p(others), a gain in log-density is how much less
        likely the value is than the best one, given the others. It needs no gradients
        and no randomness, and about 40 scores a value. Two features that are wrong
        together and agree with each other gain little one by one; `top` looks at pairs.
        """
        return self._explanation(X, 0)

    def most_likely_values(self, X: ArrayLike) -> ArrayOrFrame:
        """Compute the most likely value of every feature given all others.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples in the units of the data fitted.

        Returns
        -------
        values : ndarray of shape (n_samples, n_features), or DataFrame
            To hold against those of `X`. Column by column: not a row of the data.
            Within the bounds of `density`; discrete features have possible values.
            Categories are codes in arrays.

        See Also
        --------
        explain : What they would gain.
        """
        return self._explanation(X, 1)

    def _explanation(self, X: ArrayLike, which: int) -> ArrayOrFrame:
        index = _index_of(X)
        X = self._validated(X)
        values = conditional_gains(
            self._score_to_explain(), X, self._candidates, self._possible
        )[which]
        if not self._returns_frame:
            return values
        import pandas as pd

        frame = pd.DataFrame(values, index=index, columns=self.feature_names_in_)
        if which == 1:
            for j, column in self._categories.columns.items():
                names = [column.values[int(code)] for code in values[:, j]]
                frame[self.feature_names_in_[j]] = names
        return frame

    def _score_to_explain(self) -> Callable[[Floats], Floats]:
        if self._fitted_statistic == "typicality":
            return partial(log_density, self.density_)
        return self._score

    def _possible(self, values: Floats, j: int) -> Floats:
        """The nearest values that feature j can have."""
        support = self.density_.support_
        rows = np.zeros((values.size, self.n_features_in_))
        rows[:, j] = values.ravel()
        rounded = support.round(rows, support.lower, support.upper)
        return rounded[:, j].reshape(values.shape)

    def top(self, X: ArrayLike, n: int = 10) -> ArrayOrFrame:
        """Return the most unusual samples, with the features that make them so.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples in the units of the data fitted.
        n : int, default=10
            Number of samples to return, at most.

        Returns
        -------
        found : DataFrame
            Most unusual first, with the index of `X`. Without pandas a structured array
            with the same columns:

            row : int
                Number of the sample in `X`.
            score : float
                As `score_samples`.
            p_value : float
                As `p_values`, if there are calibration samples. It does not hold for
                samples that the detector was fitted on.
            reasons : str
                One sentence: the features, their values, and those expected given all
                other features.
            reason_1, reason_2, reason_3 : object
                Names, or numbers, of these features; missing where there are fewer.

        Raises
        ------
        ValueError
            If `n` is not a positive integer, or the data are not like those fitted.

        See Also
        --------
        explain : What every single feature would gain.
        select : Outliers, with a bound on the false discoveries.

        Notes
        -----
        Reasons are the few features, at most three, that would have to change for the
        sample to score higher than a quarter of the calibration samples, or nearly so
        [1]_ (of the model's own samples, if there are none). They are found one by one,
        and in pairs where that is not enough.

        "or" stands between two features that contradict each other: a change of one
        gains about as much as a change of the other, and nothing in the data says which
        is wrong. In the same way two wrong features that agree look like a wrong third
        one that depends on both, unless their values are unusual by themselves.

        References
        ----------
        .. [1] S. Wachter, B. Mittelstadt, C. Russell, "Counterfactual explanations
           without opening the black box", Harvard Journal of Law & Technology 31(2),
           2018.

        Examples
        --------
        >>> import numpy as np
        >>> from skjko import JKOFlowDensity, JKOFlowOutlierDetector
        >>> x = np.random.default_rng(0).standard_normal((500, 1))
        >>> X = np.hstack([x, -x, x**2])
        >>> density = JKOFlowDensity(init="mixture", max_blocks=0, discrete=None)
        >>> detector = JKOFlowOutlierDetector(density=density, random_state=0).fit(X)
        >>> found = detector.top([[0.1, -0.1, 0.0], [0.1, -0.1, 3.0]], n=1)
        >>> int(found["row"].iloc[0]), int(found["reason_1"].iloc[0])
        (1, 2)
        """
        index = _index_of(X)
        X = self._validated(X)
        self._check_count(n, "n", "top", least=1)
        scores = self._statistic(X, self._told_log_density(X))
        rows = np.argsort(scores, kind="stable")[:n]
        found = {"row": rows, "score": scores[rows]}
        if self.calibration_scores_ is not None:
            found["p_value"] = conformal_p_values(
                scores[rows], self.calibration_scores_
            )
        score = self._score_to_explain()
        references = draw(self.density_, _N_REFERENCES, np.random.RandomState(0))
        usual = self.calibration_scores_
        if usual is None or self._fitted_statistic == "typicality":
            usual = score(references)
        low, level = np.quantile(usual, _USUAL, method="lower")
        sentences, names = [], np.full((len(rows), _N_REASONS), None, dtype=object)
        for i, x in enumerate(X[rows]):
            changes = smallest_changes(
                score, x, self._candidates, self._possible, references, low, level
            )
            # By typicality a sample can be an outlier for being too likely.
            is_low = scores[rows[i]] < self.offset_
            sentences.append(self._in_words(x, changes, is_low))
            named = [*changes.columns, changes.alternative]
            for k, j in enumerate(j for j in named if j is not None):
                names[i, k] = j if self._table.names is None else self._table.names[j]
        found["reasons"] = np.array(sentences, dtype=object)
        found |= {f"reason_{k + 1}": names[:, k] for k in range(_N_REASONS)}
        if find_spec("pandas") is None:
            types = [(name, column.dtype) for name, column in found.items()]
            array = np.empty(len(rows), dtype=types)
            for name, column in found.items():
                array[name] = column
            return array
        import pandas as pd

        index = rows if index is None else index[rows]
        return pd.DataFrame(found, index=index)

    def summary(self) -> str:
        """Describe the fitted detector in words.

        Returns
        -------
        summary : str
            What scores, with median and lower quartile of the log-densities that are
            combined; the threshold; the calibration samples; and the density, as its
            own `summary` describes it.
        """
        check_is_fitted(self)
        n_kernels = 0 if self._kernels is None else len(self._kernels.centers)
        return summarize_detector(self, self._fitted_statistic, n_kernels, self._scales)

    def _in_words(self, x: Floats, changes: Changes, is_low: bool) -> str:
        """A sentence about the features that make a sample unusual."""
        if not changes.columns and not changes.is_enough:
            return "No change of one or two features makes it more usual."
        if not changes.columns and is_low:
            return "More likely than typical samples are; no feature stands out."
        if not changes.columns:
            return "As usual as other samples."

        def told(j: int) -> str:
            values = x[j], changes.expected[j]
            for digits in (4, 7, 17):
                now, expected = (self._in_word(j, v, digits) for v in values)
                if now != expected:
                    break
            return f"{self._table.label(j)} is {now} where {expected} is expected"

        if changes.alternative is None:
            text = " and ".join(map(told, changes.columns))
        else:
            text = f"{told(changes.columns[0])}, or {told(changes.alternative)}"
        rest = "" if changes.is_enough else ", and other features are unusual too"
        return f"{text[0].upper()}{text[1:]}{rest}."

    def _in_word(self, j: int, value: float, digits: int) -> str:
        """A value of a feature."""
        is_coded = j in self._categories.columns
        return self._table.value(j, value) if is_coded else f"{value:.{digits}g}"


def _index_of(X: Any) -> Any:
    """The index of a pandas data frame."""
    return X.index if hasattr(X, "iloc") else None
