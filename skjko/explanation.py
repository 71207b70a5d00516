"""Which features make a sample unusual: what changing one, or a few, would gain."""

# SPDX-License-Identifier: BSD-3-Clause

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from skjko.typing import Floats

# Values tried between the two neighbours of the best candidate. The maximum is then
# known to a few percent of the distance between candidates; its value, which is flat
# there, far better.
_N_BETWEEN = 7
# Features that are changed together, at most: more are no explanation.
_MOST_CHANGES = 3
# Bounds on the time that pairs take: features that are paired, by distances alone;
# pairs that are scored; and the values of each.
_N_IN_PAIRS, _N_PAIRS, _N_NEAREST = 40, 20, 16
# Share that a pair leaves, at most, of what one feature lacks to the level.
_GAP_OF_PAIR = 0.5
# Another feature would do as well if it gains this share of what the first gains.
_AS_GOOD = 0.8
# Standard deviations from which on what is farther is as far.
_FARTHEST = 1e3


def conditional_gains(
    log_density: Callable[[Floats], Floats],
    X: Floats,
    candidates: Floats,
    possible: Callable[[Floats, int], Floats] = lambda values, j: values,
    columns: Iterable[int] | None = None,
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
    columns : iterable of int, optional
        The features to change. All by default.

    Returns
    -------
    gains : ndarray of shape (n_samples, d)
        In nats, at least 0.
    best : ndarray of shape (n_samples, d)
        The values that would gain them.
    """
    now = log_density(X)
    gains, best = np.zeros(X.shape), X.copy()
    for j in range(X.shape[1]) if columns is None else columns:
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


@dataclass
class Changes:
    """Features of a sample that make it unusual.

    Attributes
    ----------
    columns : list of int
        The features to change together, in the order in which they were found.
    alternative : int or None
        Another feature that would do in place of the only one of `columns`.
    expected : ndarray of shape (d,)
        The values that these features should have; those of the sample elsewhere.
    is_enough : bool
        Whether the sample with the features changed reaches the level.
    """

    columns: list[int]
    alternative: int | None
    expected: Floats
    is_enough: bool


def smallest_changes(
    log_density: Callable[[Floats], Floats],
    x: Floats,
    candidates: Floats,
    possible: Callable[[Floats, int], Floats],
    references: Floats,
    level: float,
) -> Changes:
    """Few features that, changed to their best values, make a sample usual.

    The search is greedy. It changes the feature that gains most, or, where one is not
    enough, the pair that gains most: two wrong features that agree with each other gain
    little one by one. In the end it puts back what was not needed.

    Parameters
    ----------
    log_density : callable
        From samples (n, d) to values (n,).
    x : ndarray of shape (d,)
        A sample below the level.
    candidates, possible
        As `conditional_gains` takes them.
    references : ndarray of shape (n_references, d)
        Usual samples. A pair of features is given values of those of them that are near
        in all other features.
    level : float
        Log-density from which on a sample is usual.

    Returns
    -------
    changes : Changes
    """

    def score(row: Floats) -> float:
        return float(log_density(row[None])[0])

    def one_by_one(row: Floats) -> tuple[Floats, Floats]:
        gains, best = conditional_gains(log_density, row[None], candidates, possible)
        return gains[0], best[0]

    def refined(row: Floats, columns: list[int]) -> Floats:
        for j in columns:
            given = log_density, row[None], candidates, possible, [j]
            row = conditional_gains(*given)[1][0]
        return row

    middle, spread = np.median(references, axis=0), references.std(axis=0)
    spread[spread == 0] = 1.0
    first = gains, best = one_by_one(x)
    changed, columns, now = x, list[int](), score(x)
    while len(columns) < _MOST_CHANGES and now < level:
        if columns:
            gains, best = one_by_one(changed)
        taken = [int(gains.argmax())]
        if gains[taken] == 0 and np.isneginf(now):
            # Outside in several features, none of which gains anything alone.
            away = np.abs((changed - middle) / spread)
            away[columns] = -1.0
            taken, best = [int(away.argmax())], middle
        other = _with(changed, taken, best)
        reached = score(other)
        if reached < level and len(x) > 1 and len(columns) + 2 <= _MOST_CHANGES:
            far = np.minimum(np.abs((references - changed) / spread), _FARTHEST)
            pair, both = _best_pair(log_density, changed, references, far**2)
            both = refined(both, pair)
            if level - score(both) <= _GAP_OF_PAIR * (level - reached):
                taken, other, reached = pair, both, score(both)
        if reached <= now and np.isfinite(now):
            break
        columns += [k for k in taken if k not in columns]
        changed = refined(other, columns)
        now = score(changed)
    for k in list(columns):
        others = [j for j in columns if j != k]
        back = refined(_with(changed, [k], x), others)
        if others and score(back) >= min(level, now):
            changed, columns, now = back, others, score(back)
    alternative, is_enough = None, now >= level
    if len(columns) == 1:
        gains, best = first
        others = np.where(np.arange(len(x)) == columns[0], 0.0, gains)
        k = int(others.argmax())
        if others[k] > 0 and others[k] >= _AS_GOOD * gains[columns[0]]:
            alternative, changed = k, _with(changed, [k], best)
    return Changes(columns, alternative, changed, is_enough)


def _with(x: Floats, columns: list[int], values: Floats) -> Floats:
    """A sample with some features as in other values."""
    changed = x.copy()
    changed[columns] = values[columns]
    return changed


def _best_pair(
    log_density: Callable[[Floats], Floats],
    x: Floats,
    references: Floats,
    distances: Floats,
) -> tuple[list[int], Floats]:
    """Return the pair of features that gains most, and the sample with its values.

    The values are those of references that are near in all other features; `distances`
    of shape (n_references, d) are squares.
    """
    n_nearest = min(_N_NEAREST, len(references))
    total = distances.sum(axis=1)

    def nearness(without: Floats) -> Floats:
        """Mean distance of the nearest references, less that in some features."""
        rest = total[:, None] - without
        return np.partition(rest, n_nearest - 1, axis=0)[:n_nearest].mean(axis=0)

    columns = np.sort(nearness(distances).argsort(kind="stable")[:_N_IN_PAIRS])
    pairs = np.array(list(itertools.combinations(columns, 2)))
    of_pairs = distances[:, pairs[:, 0]] + distances[:, pairs[:, 1]]
    rows, owners = [], []
    for k in nearness(of_pairs).argsort(kind="stable")[:_N_PAIRS]:
        nearest = (total - of_pairs[:, k]).argsort(kind="stable")[:n_nearest]
        tried = np.repeat(x[None], n_nearest, axis=0)
        tried[:, pairs[k]] = references[nearest][:, pairs[k]]
        rows.append(tried)
        owners += [k] * n_nearest
    tried = np.concatenate(rows)
    best = int(log_density(tried).argmax())
    return pairs[owners[best]].tolist(), tried[best]
