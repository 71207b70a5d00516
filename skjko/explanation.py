"""Which features make a sample unusual: what changing a single one would gain."""

# SPDX-License-Identifier: BSD-3-Clause

from collections.abc import Callable

import numpy as np

from skjko.typing import Floats

# Values tried between the two neighbours of the best candidate. The maximum is then
# known to a few percent of the distance between candidates; its value, which is flat
# there, far better.
_N_BETWEEN = 7


def conditional_gains(
    log_density: Callable[[Floats], Floats],
    X: Floats,
    candidates: Floats,
    possible: Callable[[Floats, int], Floats] = lambda values, j: values,
) -> tuple[Floats, Floats]:
    """Log-density that a sample would gain from the best value of a single feature.

    The gain of feature j is max over v of log p(x with x_j = v), less log p(x). The
    joint density is p(x_j | others) p(others), and the second factor does not change:
    so the gain is the log-density of the best value of the feature, given the others,
    over that of its actual value. It is zero where the value is the most likely one.

    Parameters
    ----------
    log_density : callable
        From samples (n, d) to values (n,).
    X : ndarray of shape (n_samples, d)
    candidates : ndarray of shape (n_candidates, d)
        Values of every feature to try, sorted.
    possible : callable, optional
        From values and the number of a feature to the nearest values that it can have.

    Returns
    -------
    gains : ndarray of shape (n_samples, d)
        In nats, at least 0.
    best : ndarray of shape (n_samples, d)
        The values that would gain them.
    """
    now = log_density(X)
    gains, best = np.zeros(X.shape), X.copy()
    for j in range(X.shape[1]):
        tried = possible(candidates[:, j], j)
        values = np.broadcast_to(tried, (len(X), len(candidates)))
        scores = _with_column(log_density, X, j, values)
        k = scores.argmax(axis=1)
        last = len(candidates) - 1
        low, high = tried[np.maximum(k - 1, 0)], tried[np.minimum(k + 1, last)]
        steps = np.linspace(0, 1, _N_BETWEEN + 2)[1:-1]
        finer = possible(low[:, None] + steps * (high - low)[:, None], j)
        values = np.hstack([values, finer, X[:, [j]]])
        scores = np.hstack([scores, _with_column(log_density, X, j, finer)])
        scores = np.hstack([scores, now[:, None]])
        k = scores.argmax(axis=1)
        rows = np.arange(len(X))
        best[:, j] = values[rows, k]
        # A sample so far out that it has no density gains without bound, in any feature
        # that brings it back; where none does, nothing is known.
        with np.errstate(invalid="ignore"):
            gain = scores[rows, k] - now
        gains[:, j] = np.where(np.isnan(gain), 0.0, gain)
    return gains, best


def _with_column(
    log_density: Callable[[Floats], Floats], X: Floats, j: int, values: Floats
) -> Floats:
    """Log-densities of samples with feature j replaced by each of (n, m) values."""
    n, m = values.shape
    rows = np.repeat(X, m, axis=0)
    rows[:, j] = values.ravel()
    return log_density(rows).reshape(n, m)
