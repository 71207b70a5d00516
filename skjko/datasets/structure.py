"""Random matrices and norms that synthetic tables share."""

# SPDX-License-Identifier: BSD-3-Clause

from numbers import Integral, Real

import numpy as np

from skjko.datasets.base import check_number
from skjko.typing import Floats

LOG_2PI = np.log(2 * np.pi)

# Beyond this condition number rounding errors would show in the log-density.
_LARGEST_CONDITION = 1e6


def check_structure(
    n_features: int, random_state: int, caller: str, condition: float = 1.0
) -> np.random.RandomState:
    """Check the parameters that several tables share; return a RandomState."""
    check_number(n_features, "n_features", caller, Integral, 1, closed="left")
    check_number(
        condition, "condition", caller, Real, 1, _LARGEST_CONDITION, closed="both"
    )
    check_number(
        random_state, "random_state", caller, Integral, 0, 2**32, closed="left"
    )
    # The stream of a RandomState is the same in every version of NumPy.
    return np.random.RandomState(random_state)


def random_orthogonal(n: int, rng: np.random.RandomState) -> Floats:
    """Draw an orthogonal matrix of shape (n, n), uniformly."""
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    # Without its signs, what QR returns would depend on its algorithm.
    return q * np.sign(np.diag(r))


def random_factor(
    n_features: int, condition: float, rng: np.random.RandomState
) -> Floats:
    """Draw a factor A of a covariance A A^T with eigenvalues in [1 / condition, 1].

    The logarithms of the eigenvalues are spread evenly: one in each of `n_features`
    equal parts of their range. The eigenvectors are uniform.
    """
    depth = (np.arange(n_features) + rng.uniform(size=n_features)) / n_features
    return random_orthogonal(n_features, rng) * condition ** (-depth / 2)


def log_norms(X: Floats, matrix: Floats | None = None) -> Floats:
    """Return the log of the norm of each sample of X, or of X @ matrix.T.

    None is so long that it overflows: each is divided by its largest element first.
    """
    largest = np.abs(X).max(axis=1, initial=0.0)
    largest[largest == 0] = 1.0
    X = X / largest[:, None]
    if matrix is not None:
        X = X @ matrix.T
    with np.errstate(divide="ignore"):
        return np.log(largest) + np.log(np.linalg.norm(X, axis=1))


def half_squared_norms(X: Floats, matrix: Floats) -> Floats:
    """Return |matrix x|^2 / 2 for each sample x of X; inf where it overflows."""
    with np.errstate(over="ignore"):
        return 0.5 * np.exp(2 * log_norms(X, matrix))
