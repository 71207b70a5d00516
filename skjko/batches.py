"""Results of an estimator's method for batches of samples: what adapters share."""

# SPDX-License-Identifier: BSD-3-Clause

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import OutlierMixin
from sklearn.utils.validation import check_is_fitted


def output_of(estimator: Any, method: str) -> tuple[list[str] | None, np.dtype]:
    """Return the names and the dtype of what a method returns.

    Parameters
    ----------
    estimator : JKOFlowDensity, JKOFlowOutlierDetector or JKOFlowConditionalDensity
        Fitted.
    method : {"score_samples", "predict", "transform"}

    Returns
    -------
    columns : list of str or None
        None for one value per sample.
    dtype : dtype

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    """
    check_is_fitted(estimator)
    columns = None
    if method == "transform":
        columns = [str(name) for name in estimator.get_feature_names_out()]
    is_label = method == "predict" and isinstance(estimator, OutlierMixin)
    return columns, np.dtype(int if is_label else float)


def empty_output(columns: list[str] | None, dtype: np.dtype) -> NDArray[Any]:
    """Return what a method returns for no samples; the estimators refuse them.

    Parameters
    ----------
    columns : list of str or None
    dtype : dtype
    """
    return np.empty((0,) if columns is None else (0, len(columns)), dtype)


def output_for(
    rows: Any, estimator: Any, method: str, columns: list[str] | None, dtype: np.dtype
) -> NDArray[Any]:
    """Return what a method returns for a batch, which may be empty.

    Parameters
    ----------
    rows : array-like of shape (n_samples, n_features)
    estimator : estimator
        Fitted.
    method : str
    columns : list of str or None
    dtype : dtype
        Both of `output_of`.
    """
    if not len(rows):
        return empty_output(columns, dtype)
    return np.asarray(getattr(estimator, method)(rows))
