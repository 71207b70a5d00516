"""The referee of all benchmarks: log-densities by a tight adaptive solve."""

# SPDX-License-Identifier: BSD-3-Clause

import numpy as np
import torch

from skjko.flow import accuracy


def tight_log_density(model, X):
    """Log-density by Dormand-Prince at 1e-8 in float64, block after block."""
    Z, log_det = model.gaussian_.forward(np.asarray(X, dtype=np.float64))
    n_active = model.flow_.n_features
    if n_active < Z.shape[1]:
        raise ValueError("flat directions have no place in a benchmark")
    return accuracy.tight_log_prob(model.flow_, torch.as_tensor(Z)).numpy() + log_det
