"""Scores of ray datasets, block by block; needs ray.

Nothing is computed until the dataset is consumed, and a task holds one block at a time.
The results are columns beside those of the dataset: ray may change the order of blocks.
"""

# SPDX-License-Identifier: BSD-3-Clause

from functools import partial
from typing import Any

import numpy as np
import ray
from ray.data import Dataset

from skjko.batches import output_for, output_of

__all__ = ["predict", "score_samples", "transform"]

# The column of datasets that `ray.data.from_numpy` and `read_numpy` return.
_TENSOR = "data"


def score_samples(estimator: Any, dataset: Any) -> Any:
    """Add the log-densities of samples to a dataset, lazily.

    Parameters
    ----------
    estimator : JKOFlowDensity or JKOFlowOutlierDetector
        Fitted.
    dataset : ray Dataset
        Samples in data units: the columns of the fit, in any order and beside others;
        or a tensor column "data" of shape (n_samples, n_features).

    Returns
    -------
    scored : ray Dataset
        The dataset with one more column, "score_samples", of what `score_samples` of
        the estimator returns, in nats.

    Raises
    ------
    TypeError
        If the dataset is no ray Dataset.

    Examples
    --------
    >>> import ray
    >>> from skjko import JKOFlowDensity
    >>> from skjko.datasets import moons
    >>> from skjko.ray import score_samples
    >>> X = moons().sample(1000, random_state=0)
    >>> density = JKOFlowDensity(max_blocks=0).fit(X)
    >>> with ray.init(num_cpus=1):
    ...     score_samples(density, ray.data.from_numpy(X)).columns()
    ['data', 'score_samples']
    """
    return _by_blocks(estimator, "score_samples", dataset)


def predict(estimator: Any, dataset: Any) -> Any:
    """Add the predictions for samples to a dataset, lazily.

    Parameters
    ----------
    estimator : JKOFlowOutlierDetector or JKOFlowConditionalDensity
        Fitted; of one target.
    dataset : ray Dataset
        Samples in data units, as for `score_samples`.

    Returns
    -------
    predicted : ray Dataset
        The dataset with one more column, "predict", of what `predict` of the estimator
        returns.

    Raises
    ------
    TypeError
        If the dataset is no ray Dataset.
    """
    return _by_blocks(estimator, "predict", dataset)


def transform(estimator: Any, dataset: Any) -> Any:
    """Add the latent positions of samples to a dataset, lazily.

    Parameters
    ----------
    estimator : JKOFlowDensity
        Fitted.
    dataset : ray Dataset
        Samples in data units, as for `score_samples`.

    Returns
    -------
    transformed : ray Dataset
        The dataset with more columns, those of `get_feature_names_out`, of what
        `transform` of the estimator returns.

    Raises
    ------
    TypeError
        If the dataset is no ray Dataset.
    """
    return _by_blocks(estimator, "transform", dataset)


def _by_blocks(estimator: Any, method: str, dataset: Any) -> Any:
    columns, dtype = output_of(estimator, method)
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"dataset must be a ray Dataset. Got a {type(dataset).__name__} instead: "
            f"the estimator's own {method} takes it."
        )
    add = partial(
        _with_output,
        # Stored once, for the tasks of all executions.
        stored=ray.put(estimator),
        method=method,
        columns=columns,
        dtype=dtype,
    )
    # Whole blocks: the estimator takes them in chunks.
    return dataset.map_batches(add, batch_size=None, batch_format="pandas")


def _with_output(
    batch: Any, stored: Any, method: str, columns: list[str] | None, dtype: np.dtype
) -> Any:
    estimator = ray.get(stored)
    names = [method] if columns is None else columns
    for name in names:
        if name in batch:
            raise ValueError(
                f"The dataset has a column {name!r} already, which {method} would "
                "replace. Drop it with dataset.drop_columns, or rename it."
            )
    rows = _samples(batch, getattr(estimator, "feature_names_in_", None))
    values = output_for(rows, estimator, method, columns, dtype)
    values = values.reshape(len(batch), len(names))
    return batch.assign(**dict(zip(names, values.T, strict=True)))


def _samples(batch: Any, names: Any) -> Any:
    """Return the columns of the fit, or the tensors, or all columns."""
    found = [] if names is None else [name for name in names if name in batch]
    if found:
        # The estimator names those that are missing.
        return batch[found]
    if _TENSOR in batch and len(batch):
        tensors = batch[_TENSOR]
        if isinstance(tensors.iloc[0], np.ndarray):
            return np.stack(tensors)
    return batch
