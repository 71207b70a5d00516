"""How far samples, densities and latent positions are from what they should be.

Use them on samples that the estimator was not fitted to.
"""

# SPDX-License-Identifier: BSD-3-Clause

from skjko.metrics.densities import (
    generalization_gap,
    kl_divergence,
    latent_normality,
    round_trip_error,
)
from skjko.metrics.two_samples import mmd, mmd_test, sliced_wasserstein

__all__ = [
    "generalization_gap",
    "kl_divergence",
    "latent_normality",
    "mmd",
    "mmd_test",
    "round_trip_error",
    "sliced_wasserstein",
]
