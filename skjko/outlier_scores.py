"""What a fitted outlier detector says of samples: scores and labels."""

# SPDX-License-Identifier: BSD-3-Clause

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from skjko.base import warn_outside
from skjko.calibration import median_and_spread
from skjko.data.frames import Table
from skjko.density import JKOFlowDensity
from skjko.export.estimators import Exported, scorer
from skjko.export.scorer import Detector
from skjko.fitted_flow import draw, log_density
from skjko.inputs import CheckedInput
from skjko.kernel_density import KernelDensity
from skjko.support import Support
from skjko.typing import Floats, Seed

RATE = Interval(Real, 0, 1, closed="neither")
"""A rate, or a mass."""

N_SAMPLES = 2000
"""Own samples that level sets and the candidate values of `explain` are taken from: the
quantile at 5 % is then known to 0.5 % of the mass."""

# Those of them that the typical log-density is the mean of: it is then known to about
# 0.03 nats times the square root of the number of features.
_N_TYPICAL = 500

# Values of every feature that `explain` tries first: equally spaced quantiles.
_N_CANDIDATES = 33

# Share of a threshold that is rounding.
_ROUNDING = 1e-10


def rounding_of(offset: float) -> float:
    """Return how much of a difference to a threshold is rounding."""
    return _ROUNDING * max(1.0, abs(offset) if np.isfinite(offset) else 0.0)


def decisions(scores: Floats, offset: float) -> Floats:
    """Return scores less a threshold, 0 where they are equal up to rounding.

    Parameters
    ----------
    scores : ndarray of shape (n,)
    offset : float

    Returns
    -------
    decisions : ndarray of shape (n,)
        Negative for outliers.
    """
    with np.errstate(invalid="ignore"):
        decision = np.where(scores == offset, 0.0, scores - offset)
    # The rounding of a score depends on its batch; the side of a sample at the
    # threshold, which is the score of a sample, must not.
    return np.where(np.abs(decision) <= rounding_of(offset), 0.0, decision)


class OutlierScores(CheckedInput, Exported):
    """Methods of a fitted detector that need its density and its kernels."""

    n_features_in_: int
    feature_names_in_: np.ndarray
    density_: JKOFlowDensity
    offset_: float
    statistic: str
    n_iter_: int
    typical_log_density_: float
    _candidates: Floats
    _fitted_statistic: str
    _kernels: KernelDensity | None
    _scales: list[tuple[float, float]]
    _table: Table
    _returns_frame: bool

    def _checked(self, *args: Any, **kwargs: Any) -> Floats:
        """Check samples, as float64."""
        return np.asarray(super()._checked(*args, **kwargs), dtype=np.float64)

    def _validated(self, X: ArrayLike) -> Floats:
        check_is_fitted(self)
        return self._checked(X)

    def _describe(
        self, from_pandas: bool, rng: np.random.RandomState, support: Support
    ) -> None:
        """Keep of the model's own samples what scoring and explaining need."""
        self._fitted_statistic = self.statistic
        samples = draw(self.density_, N_SAMPLES, rng)
        scores = log_density(self.density_, samples[:_N_TYPICAL])
        self.typical_log_density_ = float(scores.mean())
        levels = np.linspace(0, 1, _N_CANDIDATES)
        self._candidates = np.quantile(samples, levels, axis=0)
        self._candidates = self._candidates.clip(support.lower, support.upper)
        self._returns_frame = from_pandas and hasattr(self, "feature_names_in_")
        self.n_iter_ = self.density_.n_iter_

    def _set_kernels(
        self, kernels: KernelDensity | None, X: Floats, held_out: Floats
    ) -> None:
        """Keep kernels, and median and spread of both log-densities.

        Those of samples held out, or of the training samples if there are none.
        """
        self._kernels, self._scales = kernels, []
        if kernels is not None:
            if len(held_out):
                X, scores = held_out, kernels.score_samples(held_out)
            else:
                scores = kernels.leave_one_out_scores()
            both = log_density(self.density_, X), scores
            self._scales = [median_and_spread(one) for one in both]

    def _score(self, X: Floats) -> Floats:
        """Score validated samples."""
        return self._statistic(X, log_density(self.density_, X))

    def _statistic(self, X: Floats, log_densities: Floats) -> Floats:
        """Scores of samples and their log-densities."""
        if self._fitted_statistic == "typicality":
            return -np.abs(log_densities - self.typical_log_density_)
        if self._kernels is None:
            return log_densities
        both = (log_densities, self._kernels.score_samples(X))
        median, spread = np.array(self._scales).T[:, :, None]
        return ((np.array(both) - median) / spread).min(axis=0)

    def _told_log_density(self, X: Floats) -> Floats:
        """Log-densities of samples, with a warning of those out of bounds."""
        scores = log_density(self.density_, X)
        warn_outside(self.density_.support_, X, scores, self._table)
        return scores

    def _told_score(self, X: ArrayLike) -> Floats:
        """Scores of samples, with a warning of those out of bounds."""
        X = self._validated(X)
        return self._statistic(X, self._told_log_density(X))

    def _level(self, mass: float, n_samples: int, rng: np.random.RandomState) -> float:
        """Score above which a share `mass` of the model's samples lies."""
        samples = draw(self.density_, n_samples, rng)
        return float(np.quantile(self._score(samples), 1 - mass))

    def score_samples(self, X: ArrayLike) -> Floats:
        """Score samples: the higher, the more normal.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples in the units of the data fitted.

        Returns
        -------
        scores : ndarray of shape (n_samples,)
            With `statistic="combined"` the lower of two log-densities, by the flow and
            by kernels, each standardized: less its median, over the distance from there
            to its lower quartile, both of samples held out. By each of the two a half
            of them is below 0, and a quarter below -1. With "likelihood" the
            log-density in nats, per unit of the data; with "typicality" minus its
            distance in nats to that of the model's samples.
        """
        return self._told_score(X)

    def decision_function(self, X: ArrayLike) -> Floats:
        """Score samples so that outliers are negative.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples in the units of the data fitted.

        Returns
        -------
        decision : ndarray of shape (n_samples,)
            `score_samples` less `offset_`; 0 where they are equal, -inf too.
        """
        return decisions(self.score_samples(X), self.offset_)

    def _scoring_module(self) -> tuple[Detector, tuple[str, ...]]:
        is_typical = self._fitted_statistic == "typicality"
        typical = self.typical_log_density_ if is_typical else None
        module = Detector(
            scorer(self.density_, self._table),
            typical,
            self._kernels,
            self._scales,
            self.offset_,
            rounding_of(self.offset_),
        )
        return module, ("score", "decision")

    def predict(self, X: ArrayLike) -> NDArray[np.int_]:
        """Tell outliers from inliers.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples in the units of the data fitted.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            -1 for outliers, +1 for inliers.
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def typicality(self, X: ArrayLike) -> Floats:
        """Compute how near the log-densities of samples are to those of own samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples in the units of the data fitted.

        Returns
        -------
        typicality : ndarray of shape (n_samples,)
            Minus the distance in nats to `typical_log_density_`; at most 0.
        """
        log_densities = self._told_log_density(self._validated(X))
        return -np.abs(log_densities - self.typical_log_density_)

    def hdr_threshold(
        self, mass: float = 0.95, n_samples: int = 10_000, random_state: Seed = 0
    ) -> float:
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

        Raises
        ------
        ValueError
            If a parameter is out of its range.
        """
        check_is_fitted(self)
        self._check_rate(mass, "mass", "hdr_threshold")
        self._check_count(n_samples, "n_samples", "hdr_threshold", least=1)
        return self._level(mass, n_samples, check_random_state(random_state))

    def _check_rate(self, value: object, name: str, method: str) -> None:
        is_real = isinstance(value, Real) and not isinstance(value, bool)
        if not is_real or value not in RATE:
            raise ValueError(
                f"The {name!r} parameter of {type(self).__name__}.{method} must be a "
                f"float in the range (0, 1). Got {value!r} instead."
            )
