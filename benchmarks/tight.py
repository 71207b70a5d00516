"""The referee of all benchmarks: log-densities by a tight adaptive solve."""

# SPDX-License-Identifier: BSD-3-Clause

from functools import partial
from types import SimpleNamespace

import numpy as np

from skjko.flow import accuracy


def tight_log_density(model, X):
    """Log-density by Dormand-Prince at 1e-8 in float64, block after block."""
    arrays = model._model
    if arrays.preprocessing.n_flat_:
        raise ValueError("flat directions have no place in a benchmark")
    # All else is as in scoring: columns, whitening, cells of discrete values.
    arrays.flow = SimpleNamespace(
        n_features=model.flow_.n_features,
        blocks=model.flow_.blocks,
        log_prob=partial(accuracy.tight_log_prob, model.flow_),
    )
    return arrays.log_density(np.asarray(X, dtype=np.float64))
