"""How many parts a mixture has: it grows by splitting, as long as that pays.

Every Gaussian is split in two, expectation-maximization settles all of them, and so on,
for as long as held-out rows gain: on a sample of the rows that grows with the number of
parts, and at last on all of them. For parts keep to what they came from (see
:mod:`skjko.mixture`), hundreds of them are no danger to small tables, and no start has
to be drawn at random.
"""

# SPDX-License-Identifier: BSD-3-Clause

import math
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import KFold

from skjko.mixture import Mixture, gaussian, of_tables, settle, split

# Prior rows of a covariance, relative to its degrees of freedom. The stronger prior is
# tried as well where the parts that were found have few rows, relative to these.
_WEAK, _STRONG = 1.0, 3.0
_FEW_ROWS = 5.0

# Growth ends no sooner: two or four parts can be no better than one where eight are, as
# in a rose, of which every slice looks alike.
_SURE_PARTS, _MAX_PARTS = 16, 512
_N_ITER = 15
# ... and on all rows, from what has settled on many of them.
_N_LAST_ITER = 6
# Rows that the growth to more parts looks at: so many, or so many for each of them, and
# more in more columns. All rows settle what has grown.
_GROWING_ROWS, _ROWS_PER_PART, _ROWS_PER_COLUMN = 10_000, 250, 25
# Below this number of rows one split is too few of them to decide by.
_CROSS_VALIDATION_ROWS, _N_FOLDS, _HELD_OUT = 1000, 3, 0.25


class Chosen(NamedTuple):
    """A mixture, and what it took.

    Attributes
    ----------
    mixture : Mixture
        Of one Gaussian if more are no better.
    is_grown : bool
        Whether more work would not make another one of it.
    work : float
        Floating-point operations that were done for it, about.
    """

    mixture: Mixture
    is_grown: bool
    work: float


def choose_mixture(X, weight, work=math.inf):
    """Return the mixture that is best on held-out rows, fitted to all of them.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows of about zero mean and unit covariance, in random order: the first of them
        are a sample of all.
    weight : ndarray of shape (n_samples,)
        Positive.
    work : float
        Floating-point operations that it may take, about. Growth ends there.

    Returns
    -------
    chosen : Chosen
    """
    return choose_mixtures(X[np.newaxis], weight, work)[0]


def choose_mixtures(X, weight, work=math.inf):
    """Choose a mixture for each of some tables, as :func:`choose_mixture` does for one.

    Parameters
    ----------
    X : ndarray of shape (n_tables, n_samples, n_features)
    weight : ndarray of shape (n_samples,)
        The same for all tables.
    work : float
        For each table.

    Returns
    -------
    chosen : list of Chosen
    """
    weight = weight / weight.mean()
    n, d = X.shape[1:]
    if n < _CROSS_VALIDATION_ROWS:
        splits = list(KFold(_N_FOLDS).split(X[0]))
    else:
        n_held_out = math.ceil(_HELD_OUT * n)
        splits = [(slice(n_held_out, None), slice(n_held_out))]
    best = _best_levels(X, weight, splits, _WEAK, [work] * len(X))
    few = [i for i, b in enumerate(best) if n < _FEW_ROWS * (d + 2) * b.n_parts]
    left = [best[i].work for i in few]
    others = []
    if few:
        others = _best_levels(of_tables(X, few), weight, splits, _STRONG, left)
    for i, other in zip(few, others, strict=True):
        best[i] = best[i].or_better(other)
    mixtures = {}
    # Some of few rows lack too much of what all of them show.
    again = [i for i, b in enumerate(best) if len(splits) > 1 or b.number == 0]
    for strength in (_WEAK, _STRONG):
        which = [i for i in again if best[i].strength == strength]
        if which:
            numbers = [best[i].number for i in which]
            grown = _grown(of_tables(X, which), weight, strength, numbers)
            mixtures.update(zip(which, grown, strict=True))
    for i, b in enumerate(best):
        if i not in mixtures:
            rows = _gathered(X[i : i + 1], weight, [slice(None)])
            settled = settle(*rows, b.settled, b.strength, _N_LAST_ITER)
            mixtures[i] = settled if settled.n_parts.all() else b.settled
    return [
        Chosen(
            mixtures[i].single(),
            b.is_grown,
            b.done + _operations(n, b.n_parts, d, _N_LAST_ITER),
        )
        for i, b in enumerate(best)
    ]


class _Best:
    """The level that the growth of a table is best at.

    Attributes
    ----------
    number : int
        How often its mixture was split.
    settled : Settled
        On the first fold.
    score : float
        Of the held-out rows.
    work, done : float
        What is left, and what was done.
    is_grown : bool
        Whether it was enough. For one part it always is; for others, to settle them on
        all rows too.
    """

    def __init__(self, strength, work):
        self.strength, self.work, self.done = strength, work, 0.0
        self.number, self.score, self.is_grown = -1, -math.inf, True

    @property
    def n_parts(self):
        """Number of parts."""
        return self.settled.n_parts[0, 0]

    def or_better(self, other):
        """Return another one if its score is higher; both had to be grown."""
        is_grown = self.is_grown and other.is_grown
        better = other if other.score > self.score else self
        better.is_grown, better.done = is_grown, self.done + other.done
        return better

    def take(self, number, settled, score):
        """Take a level for the best."""
        self.number, self.settled, self.score = number, settled, score

    def pays(self, operations, at_last):
        """Whether there is work for a level, which it takes, and for the end."""
        self.is_grown = bool(operations + at_last <= self.work)
        if self.is_grown:
            self.work -= operations
            self.done += operations
        return self.is_grown


def _best_levels(X, weight, splits, strength, work):
    """Grow to the levels that are best on held-out rows, each table to its own."""
    n, d = X.shape[1:]
    growth = _Growth(*_gathered(X, weight, [a for a, _ in splits]), strength)
    held_out, held_weight = _gathered(X, weight, [b for _, b in splits])
    n_train = sum(len(weight[a]) for a, _ in splits)
    best = [_Best(strength, one) for one in work]

    def scores(settled):
        logs = settled.mixture.log_density(of_tables(held_out, growth.tables))
        return (held_weight * logs).sum(axis=(1, 2)) / held_weight.sum()

    def goes_on(one, number, i):
        child = growth.children.first_fold(i)
        if number > 0 and one.number == number - 1:
            one.take(one.number, growth.parents.first_fold(i), of_parents[i])
        if of_children[i] > one.score:
            one.take(number, child, of_children[i])
        elif child.n_parts[0, 0] >= _SURE_PARTS:
            return False
        n_parts = 2 * child.n_parts[0, 0]
        return one.pays(
            _operations(_n_rows(n_train, n_parts, d), n_parts, d),
            _operations(n, n_parts, d, _N_LAST_ITER),
        )

    number = 0
    while len(growth.tables):
        of_parents, of_children = scores(growth.parents), scores(growth.children)
        growth.go_on(
            [i for i, t in enumerate(growth.tables) if goes_on(best[t], number, i)]
        )
        number += 1
    return best


def _grown(X, weight, strength, numbers):
    """Grow again, on all rows, every table to its level or the last there is."""
    growth = _Growth(*_gathered(X, weight, [slice(None)]), strength)
    grown, number = {}, 0
    while len(growth.tables):
        grown.update(
            (t, growth.children.first_fold(i)) for i, t in enumerate(growth.tables)
        )
        growth.go_on([i for i, t in enumerate(growth.tables) if numbers[t] > number])
        number += 1
    return [grown[t] for t in range(len(X))]


def _gathered(X, weight, parts):
    """Rows of the parts, of shape (n_tables, n_parts, n, d), and their weights.

    What is filled up has no weight.
    """
    if len(parts) == 1:
        return X[:, np.newaxis, parts[0]], weight[np.newaxis, parts[0]]
    which = np.zeros((len(parts), max(map(len, parts))), int)
    of_parts = np.zeros(which.shape)
    for i, part in enumerate(parts):
        which[i, : len(part)], of_parts[i, : len(part)] = part, weight[part]
    return X[:, which], of_parts


def _operations(n_rows, n_parts, d, n_iter=_N_ITER):
    """Floating-point operations in all iterations, about.

    Those of matrix products; exponentials, and making the features, take as long as so
    many more of them.
    """
    n_statistics = (d + 1) * (d + 2) / 2
    return n_rows * n_iter * (n_parts * (4 * n_statistics + 120) + 100 * n_statistics)


def _n_rows(n, n_parts, d):
    """Rows of n that tell what so many parts are about like."""
    return min(n, max(_GROWING_ROWS, n_parts * (_ROWS_PER_PART + _ROWS_PER_COLUMN * d)))


class _Growth:
    """Mixtures of one part, two, four, ... until there are rows for no more.

    Parameters
    ----------
    X : ndarray of shape (n_tables, n_folds, n, d)
    weight : ndarray of shape (n_folds, n)
    strength : float

    Attributes
    ----------
    tables : ndarray of int
        Those that grow; what follows is of these alone.
    children : Settled
        Mixtures of this level.
    parents : Settled
        Those of half as many parts, settled on the same rows, that what more rows tell
        is not taken for what more parts do.
    """

    def __init__(self, X, weight, strength):
        self._X, self._weight, self._strength = X, weight, strength
        self._n_seen = X.shape[-2]
        self.tables = np.arange(len(X))
        self.parents = self.children = gaussian(X, weight)

    def go_on(self, which):
        """Split the parts of some of the tables; the others grow no more.

        Nor do those that have rows for no more parts.
        """
        may = (self.children.n_parts <= _MAX_PARTS // 2).all(axis=1)
        self._keep([i for i in which if may[i]])
        if not len(self.tables):
            return
        n_parts, (*_, n, d) = self.children.n_parts, self._X.shape
        n_rows = _n_rows(n, 2 * n_parts.max(), d)
        some = self._X[:, :, :n_rows], self._weight[:, :n_rows]
        self.parents = self.children
        if n_rows > self._n_seen:
            settled = settle(*some, self.parents, self._strength, _N_ITER)
            self.parents = settled if settled.n_parts.all() else self.parents
        self.children = settle(
            *some, split(self.parents.mixture), self._strength, _N_ITER
        )
        self._n_seen = n_rows
        self._keep(np.flatnonzero((self.children.n_parts > n_parts).all(axis=1)))

    def _keep(self, which):
        if len(which) < len(self.tables):
            self._X, self.tables = self._X[which], self.tables[which]
            self.parents = self.parents.of(which)
            self.children = self.children.of(which)
