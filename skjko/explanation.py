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
# Share of the distance to what is usual that is not worth another feature.
_NEGLIGIBLE = 0.1
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
        Whether the sample with the features changed is usual enough.
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
    low: float,
    level: float,
) -> Changes:
    """Few features that, changed to their best values, make a sample usual.

    The search is greedy: it changes the feature that gains most, then the next one.
    Where that does not make the sample usual it starts with the best pair instead, for
    two wrong features that agree with each other gain little one by one. In the end it
    puts back what was not needed.

    A sample is usual at a level of its score. One that is far from it is usual enough
    when a tenth of the distance is left, if that is not too low.

    Parameters
    ----------
    log_density : callable
        From samples (n, d) to values (n,).
    x : ndarray of shape (d,)
    candidates, possible
        As `conditional_gains` takes them.
    references : ndarray of shape (n_references, d)
        Usual samples. A pair of features is given values of those of them that are near
        in all other features.
    low, level : float
        Scores that are usual enough after much change, and after little.

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

    start = score(x)
    enough = level
    if np.isfinite(start):
        enough = max(level - _NEGLIGIBLE * (level - start), low)
    middle, spread = np.median(references, axis=0), references.std(axis=0)
    spread[spread == 0] = 1.0
    first = one_by_one(x)

    def grown(changed: Floats, columns: list[int]) -> tuple[Floats, list[int]]:
        """Change one feature after the other, and put back what is not needed."""
        now = score(changed)
        while len(columns) < _MOST_CHANGES and now < enough:
            gains, best = one_by_one(changed) if columns else first
            gains = np.where(np.isin(np.arange(len(x)), columns), -1.0, gains)
            j = int(gains.argmax())
            if gains[j] <= 0 and np.isneginf(now):
                # Outside in several features, none of which gains anything alone.
                away = np.abs((changed - middle) / spread)
                away[columns] = -1.0
                j, best = int(away.argmax()), middle
            elif gains[j] <= (_NEGLIGIBLE * (level - now) if columns else 0.0):
                break
            columns = [*columns, j]
            changed = refined(_with(changed, [j], best), columns)
            now = score(changed)
        for k in columns:
            others = [j for j in columns if j != k]
            back = refined(_with(changed, [k], x), others)
            if others and score(back) >= min(enough, score(changed)):
                changed, columns = back, others
        return changed, columns

    changed, columns = grown(x, [])
    if score(changed) < enough and len(x) > 1:
        far = np.minimum(np.abs((references - x) / spread), _FARTHEST)
        pair, both = _best_pair(log_density, x, references, far**2)
        both, others = grown(refined(both, pair), pair)
        if score(both) >= enough:
            changed, columns = both, others
    is_enough, alternative = score(changed) >= enough, None
    if len(columns) == 1:
        gains, best = first
        rivals = np.where(np.arange(len(x)) == columns[0], 0.0, gains)
        k = int(rivals.argmax())
        if rivals[k] > 0 and rivals[k] >= _AS_GOOD * gains[columns[0]]:
            alternative, changed = k, _with(changed, [k], best)
    return Changes(columns, alternative, changed, bool(is_enough))


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
