"""Scores of dask arrays and data frames, partition by partition; needs dask.

Nothing is computed until dask is asked to, and a worker holds one partition at a time.
"""

# SPDX-License-Identifier: BSD-3-Clause

from typing import Any

import dask.array as da
import numpy as np

from skjko.batches import empty_output, output_for, output_of

__all__ = ["predict", "score_samples", "transform"]


def score_samples(estimator: Any, X: Any) -> Any:
    """Return the log-densities of samples, lazily.

    Parameters
    ----------
    estimator : JKOFlowDensity or JKOFlowOutlierDetector
        Fitted.
    X : dask Array of shape (n_samples, n_features), or dask DataFrame
        Samples in data units.

    Returns
    -------
    scores : dask Array of shape (n_samples,), or dask Series
        What `score_samples` of the estimator returns for every partition.

    Raises
    ------
    TypeError
        If X is neither.

    Examples
    --------
    >>> import dask.array as da
    >>> from skjko import JKOFlowDensity
    >>> from skjko.dask import score_samples
    >>> from skjko.datasets import moons
    >>> X = moons().sample(1000, random_state=0)
    >>> density = JKOFlowDensity(max_blocks=0).fit(X)
    >>> scores = score_samples(density, da.from_array(X, chunks=(250, 2)))
    >>> scores.compute().shape
    (1000,)
    """
    return _by_partitions(estimator, "score_samples", X)


def predict(estimator: Any, X: Any) -> Any:
    """Return the predictions for samples, lazily.

    Parameters
    ----------
    estimator : JKOFlowOutlierDetector or JKOFlowConditionalDensity
        Fitted; of one target.
    X : dask Array of shape (n_samples, n_features), or dask DataFrame
        Samples in data units.

    Returns
    -------
    predictions : dask Array of shape (n_samples,), or dask Series
        What `predict` of the estimator returns for every partition.

    Raises
    ------
    TypeError
        If X is neither.
    """
    return _by_partitions(estimator, "predict", X)


def transform(estimator: Any, X: Any) -> Any:
    """Return the latent positions of samples, lazily.

    Parameters
    ----------
    estimator : JKOFlowDensity
        Fitted.
    X : dask Array of shape (n_samples, n_features), or dask DataFrame
        Samples in data units.

    Returns
    -------
    Z : dask Array of shape (n_samples, n_features), or dask DataFrame
        What `transform` of the estimator returns for every partition.

    Raises
    ------
    TypeError
        If X is neither.
    """
    return _by_partitions(estimator, "transform", X)


def _by_partitions(estimator: Any, method: str, X: Any) -> Any:
    columns, dtype = output_of(estimator, method)
    if isinstance(X, da.Array):
        if X.ndim != 2:
            raise ValueError(f"X has {X.ndim} dimensions, not 2.")
        # A sample is in one chunk, with all of its features.
        X = X.rechunk({1: -1})
        return X.map_blocks(
            output_for,
            estimator,
            method,
            columns,
            dtype,
            dtype=dtype,
            drop_axis=1 if columns is None else None,
            meta=empty_output(columns, dtype),
        )
    if not hasattr(X, "map_partitions"):
        raise TypeError(
            f"X must be a dask Array or a dask DataFrame. Got a {type(X).__name__} "
            f"instead: the estimator's own {method} takes it."
        )
    import pandas as pd
    from dask.dataframe.dispatch import make_meta

    empty = make_meta(X).index
    if columns is None:
        meta: Any = pd.Series(index=empty, dtype=dtype, name=method)
    else:
        meta = pd.DataFrame(index=empty, columns=columns, dtype=dtype)
    return X.map_partitions(_frame, estimator, method, columns, dtype, meta=meta)


def _frame(
    rows: Any, estimator: Any, method: str, columns: list[str] | None, dtype: np.dtype
) -> Any:
    import pandas as pd

    values = output_for(rows, estimator, method, columns, dtype)
    if columns is None:
        return pd.Series(values, index=rows.index, name=method)
    return pd.DataFrame(values, index=rows.index, columns=columns)
