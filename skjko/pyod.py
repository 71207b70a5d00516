"""The outlier detector as one of PyOD's; needs PyOD."""

# SPDX-License-Identifier: BSD-3-Clause

from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from pyod.models.base import BaseDetector
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from skjko.outlier import JKOFlowOutlierDetector
from skjko.typing import Floats, Seed

__all__ = ["JKOFlow"]

# In place of infinite scores, outside of bounds: PyOD scales scores.
_LARGEST_SCORE = 1e300


class JKOFlow(BaseDetector):
    """`JKOFlowOutlierDetector` with the API of PyOD.

    Scores are negative log-densities: the higher, the more abnormal. `predict`,
    `predict_proba` and the others are PyOD's own [1]_.

    Parameters
    ----------
    contamination : float, default=0.1
        Share of outliers among the training samples, in (0, 0.5]. It sets
        `threshold_`.

    detector : JKOFlowOutlierDetector or None, default=None
        The detector to fit; it is cloned. None trains the default one on all samples,
        with none kept for p-values, which PyOD has not.

    random_state : int, RandomState instance or None, default=None
        In place of the detector's.

    Attributes
    ----------
    detector_ : JKOFlowOutlierDetector
        The fitted detector.

    decision_scores_ : ndarray of shape (n_samples,)
        Scores of the training samples.

    threshold_ : float
        Samples with a higher score are outliers.

    labels_ : ndarray of int of shape (n_samples,)
        Of the training samples: 0 for inliers, 1 for outliers.

    References
    ----------
    .. [1] Y. Zhao, Z. Nasrullah, Z. Li, "PyOD: a Python toolbox for scalable outlier
       detection", Journal of Machine Learning Research 20 (2019).

    Examples
    --------
    >>> from skjko.datasets import moons
    >>> from skjko.pyod import JKOFlow
    >>> X = moons().sample(500, random_state=0)
    >>> model = JKOFlow(contamination=0.05, random_state=0).fit(X)
    >>> model.predict([[9.0, 9.0]])
    array([1])
    """

    def __init__(
        self,
        contamination: float = 0.1,
        detector: JKOFlowOutlierDetector | None = None,
        random_state: Seed = None,
    ) -> None:
        super().__init__(contamination=contamination)
        self.detector = detector
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Fit the detector to samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The data, in any units.
        y : Ignored
            Present for API consistency.

        Returns
        -------
        self : JKOFlow
            The fitted detector.
        """
        self._set_n_classes(y)
        detector = self.detector or JKOFlowOutlierDetector(calibration_fraction=0.0)
        detector = clone(detector)
        if self.random_state is not None:
            detector.set_params(random_state=self.random_state)
        self.detector_ = detector.fit(X)
        self.decision_scores_ = self.decision_function(X)
        self._process_decision_scores()
        return self

    def decision_function(self, X: ArrayLike) -> Floats:
        """Score samples: the higher, the more abnormal.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples in the units of the data fitted.

        Returns
        -------
        scores : ndarray of shape (n_samples,)
            Negative `score_samples` of the detector, at most 1e300.
        """
        check_is_fitted(self, "detector_")
        return np.minimum(-self.detector_.score_samples(X), _LARGEST_SCORE)
