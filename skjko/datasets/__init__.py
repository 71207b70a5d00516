"""Distributions whose log-density is known exactly.

Every function here returns a small immutable :class:`Distribution`, which can be
sampled and scored. The score is the true log-density, in nats, so the mean score of
held-out samples is minus the entropy up to Monte Carlo error: the best that any
density estimator can hope for.

The planar ones are drawings in two dimensions. The others are tables with any number
of features, each with one difficulty of real tables: clusters, heavy tails, a spread
that changes from sample to sample, skewed features, or few degrees of freedom.
"""

# SPDX-License-Identifier: BSD-3-Clause

from skjko.datasets.base import Distribution
from skjko.datasets.copulas import skewed_copula
from skjko.datasets.planar import (
    checkerboard,
    eight_gaussians,
    fractal_tree,
    moons,
    rings,
    rose,
    spirals,
)
from skjko.datasets.tables import (
    correlated_mixture,
    funnel,
    heavy_tails,
    noisy_manifold,
)

__all__ = [
    "Distribution",
    "checkerboard",
    "correlated_mixture",
    "eight_gaussians",
    "fractal_tree",
    "funnel",
    "heavy_tails",
    "moons",
    "noisy_manifold",
    "rings",
    "rose",
    "skewed_copula",
    "spirals",
]
