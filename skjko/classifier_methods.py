"""Methods of a fitted classifier."""

# SPDX-License-Identifier: BSD-3-Clause

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax, logsumexp
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skjko.base import warn_outside
from skjko.calibration import conformal_p_values
from skjko.data.frames import Table
from skjko.fitted_flow import FittedFlow
from skjko.flow import devices
from skjko.inputs import CheckedInput
from skjko.model import Model
from skjko.support import Support
from skjko.typing import ArrayOrFrame, Floats, Seed

# A density of zero, in nats: classes that have none are as unlikely as one another.
_NONE = -1e300


class ClassifierMethods(FittedFlow, CheckedInput):
    """Probabilities, p-values and samples of classes by their densities."""

    classes_: NDArray[Any]
    priors_: Floats
    temperature_: float
    calibration_scores_: Floats | None
    support_: Support
    _device: str
    _table: Table

    @property
    def _scorer(self) -> Model:
        """The model where scores are computed."""
        return self._model.to(devices.for_scoring(self._device))

    def _joint(self, X: NDArray[Any]) -> Floats:
        """Log-density of a sample times the prior of a class, for every class."""
        k, n = len(self.classes_), len(X)
        rows = np.hstack([np.repeat(X, k, axis=0), np.tile(np.eye(k), (n, 1))])
        with np.errstate(divide="ignore"):
            joint = self._scorer.log_density_at(rows).reshape(n, k)
            joint += np.log(self.priors_)
        return np.maximum(joint, _NONE)

    def _told_joint(self, X: ArrayLike) -> Floats:
        """The same of samples that are not checked, with a warning of bounds."""
        check_is_fitted(self)
        X = self._checked(X)
        joint = self._joint(X)
        scores = np.where(joint.max(axis=1) <= _NONE, -np.inf, 0.0)
        warn_outside(self.support_, X, scores, self._table)
        return joint

    def score_samples(self, X: ArrayLike) -> Floats:
        """Compute the marginal log-density of every sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples in data units.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            Logarithm of the sum over the classes of prior times density, in nats. It is
            -inf outside of the bounds. In discrete features it is that at the centre of
            a cell.
        """
        joint = self._told_joint(X)
        return np.where(joint.max(axis=1) <= _NONE, -np.inf, logsumexp(joint, axis=1))

    def p_values(self, X: ArrayLike) -> Floats:
        """Compute how rarely a sample of the classes has as low a density.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples in data units.

        Returns
        -------
        p : ndarray of shape (n_samples,)
            Split-conformal p-values of `score_samples`, at least
            `1 / (n_calibration + 1)`. For a sample that comes from where those of `fit`
            come from, p is at most a with probability at most a.

        Raises
        ------
        ValueError
            If there are no calibration samples.
        """
        scores = self.score_samples(X)
        if self.calibration_scores_ is None:
            raise ValueError(
                f"{type(self).__name__} has no calibration samples. Fit it with a "
                "calibration_fraction that leaves some in every class."
            )
        return conformal_p_values(scores, self.calibration_scores_)

    def predict_log_proba(self, X: ArrayLike) -> Floats:
        """Compute the logarithms of `predict_proba`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples in data units.

        Returns
        -------
        log_probability : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        return log_softmax(self._told_joint(X) / self.temperature_, axis=1)

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Compute the probability of every class, given that it is one of them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples in data units.

        Returns
        -------
        probability : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: ArrayLike, reject: float | None = None) -> NDArray[Any]:
        """Predict the most likely class, or none.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples in data units.
        reject : float or None, default=None
            Share of samples of the classes that may be rejected, in (0, 1): None stands
            in place of a class where the p-value is at most that.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            Labels; with `reject` an array of objects, some of which may be None.

        Raises
        ------
        ValueError
            If `reject` is out of its range, or there are too few calibration samples.
        """
        check_is_fitted(self)
        if reject is None:
            return self.classes_[self._told_joint(X).argmax(axis=1)]
        is_real = isinstance(reject, Real) and not isinstance(reject, bool)
        calibration = self.calibration_scores_
        n = 0 if calibration is None else len(calibration)
        if not is_real or not 0 < float(reject) < 1:
            raise ValueError(
                f"The 'reject' parameter of {type(self).__name__}.predict must be a "
                f"float in the range (0, 1) or None. Got {reject!r} instead."
            )
        if calibration is None or 1 / (n + 1) > float(reject):
            raise ValueError(
                f"{n} calibration samples are too few for reject={reject}: no p-value "
                f"is less than 1 / {n + 1}. Raise it or calibration_fraction."
            )
        joint = self._told_joint(X)
        labels = self.classes_[joint.argmax(axis=1)].astype(object)
        p = conformal_p_values(logsumexp(joint, axis=1), calibration)
        labels[p <= float(reject)] = None
        return labels

    def sample(
        self, label: Any, n_samples: int = 1, random_state: Seed = None
    ) -> ArrayOrFrame:
        """Draw samples of a class.

        Parameters
        ----------
        label : str or number
            One of `classes_`.
        n_samples : int, default=1
            Number of samples.
        random_state : int, RandomState instance or None, default=None
            Source of randomness.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features), or DataFrame
            In data units and in the form of the data, as of `JKOFlowDensity`.
        """
        check_is_fitted(self)
        self._check_count(n_samples, "n_samples", "sample", least=1)
        at = np.flatnonzero(self.classes_ == label)
        if not len(at):
            raise ValueError(
                f"The 'label' parameter of {type(self).__name__}.sample must be one of "
                f"{self.classes_.tolist()}. Got {label!r} instead."
            )
        context = np.eye(len(self.classes_))[np.full(n_samples, at[0])]
        rng = check_random_state(random_state)
        parts = self._scorer.sample(n_samples, rng, context)
        return self._table.rebuild(n_samples, parts, self.support_)
