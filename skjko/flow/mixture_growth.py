"""The number of components of a mixture: it doubles for as long as validation gains.

Every component is split in two and expectation-maximization fits all of them, again and
again. A component keeps to the shape of its parent (see
:mod:`skjko.flow.gaussian_mixture`), so that hundreds of them do not overfit small
tables, and no start is drawn at random.
"""

# SPDX-License-Identifier: BSD-3-Clause

import math
from typing import NamedTuple

import torch

from skjko.flow.gaussian_mixture import (
    Mixture,
    em_operations,
    fit_em,
    fit_gaussian,
    split,
)

# Samples that a covariance's prior counts as, relative to d + 2. The strong prior is
# tried too where components have fewer samples than so many times d + 2.
WEAK_PRIOR, STRONG_PRIOR, _FEW_SAMPLES = 1.0, 3.0, 5.0
# Growth does not end before so many components, or before they have fewer samples than
# the number below: a few can be no better than one where many are. It ends at the
# largest number.
_MIN_COMPONENTS, MAX_COMPONENTS = 16, 512
_N_ITER, _N_LAST_ITER = 15, 6
# Samples that a fit on the way looks at: so many, or so many for each component, and
# more with more features. The last fit sees all.
_SAMPLES, _SAMPLES_PER_COMPONENT, _SAMPLES_PER_FEATURE = 10_000, 250, 25


class Operations:
    """A number of floating-point operations, within the time of a task if there is one.

    Parameters
    ----------
    limit : float
    budget : Budget, optional
        Of the task; see :mod:`skjko.flow.run`.
    """

    def __init__(self, limit=math.inf, budget=None):
        self._left, self._budget, self._done = limit, budget, 0.0
        self._begin = budget.clock() if budget else 0.0

    def take(self, operations):
        """Return whether so many more may be done, and count them."""
        if operations > self._left:
            return False
        if self._budget is not None:
            passed = self._budget.clock() - self._begin
            # As fast as those before: machines differ, and so do their hours.
            seconds = operations * passed / self._done if self._done else 0.0
            if seconds >= self._budget.seconds:
                return False
        self._left -= operations
        self._done += operations
        return True


class Part(NamedTuple):
    """Weighted samples: x of shape (..., n, d) and weight of shape (..., n)."""

    x: torch.Tensor
    weight: torch.Tensor

    def first(self, n):
        """Return the first n samples."""
        return Part(self.x[..., :n, :], self.weight[..., :n])


class Growth:
    """Growth of mixtures of batches of tables, decided on validation samples.

    Parameters
    ----------
    folds : list of (Part, Part)
        Training and validation samples, in random order. All tables of a batch have
        the same shape.
    prior_samples : float
        Samples that the prior of a covariance counts as, relative to d + 2.
    state : dict, optional
        Of a growth on the same samples, to go on from.
    min_components : int, default=16
        Growth does not end before so many.
    n_samples : int, optional
        Number of training samples, where equal ones have been made one.

    Attributes
    ----------
    finished : bool
        Whether no table gains by more components.
    levels : Tensor of int
        Number of splits that is best, one for every table of the batch.
    scores : Tensor
        Mean validation log-density at that level, in nats.
    """

    def __init__(
        self,
        folds,
        prior_samples=WEAK_PRIOR,
        state=None,
        min_components=_MIN_COMPONENTS,
        n_samples=None,
    ):
        self._folds, self._prior_samples = folds, prior_samples
        self._min_components = min_components
        self._n = n_samples or max(train.x.shape[-2] for train, _ in folds)
        self._d = folds[0][0].x.shape[-1]
        if state is not None:
            self._level, self.finished = state["level"], state["finished"]
            self._current = [mixture_of(parts) for parts in state["current"]]
            self.scores = torch.as_tensor(state["scores"], dtype=torch.float64)
            self.levels = torch.as_tensor(state["levels"], dtype=torch.long)
            self._kept = {
                level: [mixture_of(parts) for parts in mixtures]
                for level, mixtures in state["kept"]
            }
            return
        self._level, self.finished = 0, False
        self._current = [fit_gaussian(*train) for train, _ in folds]
        self.scores = self._score(self._current)
        self.levels = torch.zeros(self.scores.shape, dtype=torch.long)
        self._kept = {0: self._current}

    def get_state(self):
        """Return how far the growth is, without the samples."""
        return {
            "prior_samples": self._prior_samples,
            "level": self._level,
            "finished": self.finished,
            "current": [list(mixture) for mixture in self._current],
            "scores": self.scores,
            "levels": self.levels,
            "kept": [
                [level, [list(mixture) for mixture in mixtures]]
                for level, mixtures in self._kept.items()
            ],
        }

    def advance(self, operations):
        """Double the components while that pays, within some :class:`Operations`.

        Of a batch, every table has so many, and ends where it does by itself.
        """
        while not self.finished:
            n_components = 2 ** (self._level + 1)
            n = self._n_samples(n_components)
            if n_components > MAX_COMPONENTS:
                self.finished = True
                break
            work = len(self._folds) * em_operations(n, n_components, self._d, _N_ITER)
            if not operations.take(work):
                break
            self._grow(n)

    def _grow(self, n):
        children = []
        for (train, _), mixture in zip(self._folds, self._current, strict=True):
            some = train.first(n)
            halves, prior = split(mixture)
            child = fit_em(*some, halves, prior, self._prior_samples, _N_ITER)
            children.append(child.select())
        more = [
            child.n_components > parent.n_components
            for child, parent in zip(children, self._current, strict=True)
        ]
        self._level += 1
        scores = self._score(children)
        better = scores > self.scores
        self.scores = torch.where(better, scores, self.scores)
        self.levels = torch.where(better, self._level, self.levels)
        self._kept[self._level] = children
        needed = set(self.levels.flatten().tolist())
        self._kept = {k: v for k, v in self._kept.items() if k in needed}
        enough = max(self._min_components, self._n / self._samples_per_component)
        many = torch.stack([c.n_components >= enough for c in children]).all(0)
        may_gain = torch.stack(more).all(0) & (better | ~many)
        self.finished = not may_gain.any()
        self._current = [_only(may_gain, child) for child in children]

    @property
    def _samples_per_component(self):
        return _SAMPLES_PER_COMPONENT + _SAMPLES_PER_FEATURE * self._d

    def _n_samples(self, n_components):
        n = n_components * self._samples_per_component
        return min(self._n, max(_SAMPLES, n))

    def _score(self, mixtures):
        total, weights = 0.0, 0.0
        for (_, held_out), mixture in zip(self._folds, mixtures, strict=True):
            total = total + (held_out.weight * mixture.log_prob(held_out.x)).sum(-1)
            weights = weights + held_out.weight.sum(-1)
        return total / weights

    def best(self, fold=0):
        """Return the mixtures of the best levels of one fold, fitted to all samples.

        Returns
        -------
        mixtures : list of Mixture, or Mixture
            One for every table of the batch; a single one where there is no batch.
        """
        train, _ = self._folds[fold]
        levels = self.levels.flatten().tolist()
        found = []
        for i, level in enumerate(levels):
            mixture, part = self._kept[level][fold], train
            if self.levels.ndim:
                mixture, part = (
                    mixture.select(i),
                    Part(train.x[i], _row(train.weight, i)),
                )
            if level and self._n_samples(2**level) < part.x.shape[-2]:
                start = mixture.covariances
                again = fit_em(*part, mixture, start, self._prior_samples, _N_LAST_ITER)
                mixture = again if again.n_components > 0 else mixture
            found.append(mixture.select())
        return found if self.levels.ndim else found[0]

    def grown_again(self, part):
        """Return mixtures of the best levels, grown on other samples.

        Parameters
        ----------
        part : Part
            With the same batch of tables.
        """
        grown = [fit_gaussian(*part)]
        reached = torch.zeros_like(self.levels)
        for level in range(1, int(self.levels.max()) + 1):
            may_grow = (reached == level - 1) & (self.levels >= level)
            halves, prior = split(_only(may_grow, grown[-1]))
            child = fit_em(*part, halves, prior, self._prior_samples, _N_ITER)
            grown.append(child.select())
            reached = torch.where(child.n_components > 0, level, reached)
        if not self.levels.ndim:
            return grown[reached]
        return [grown[k].select(i) for i, k in enumerate(reached.tolist())]

    def mixture(self, fold=0):
        """Return the mixture of the best level of a fold as it is; no batch."""
        return self._kept[int(self.levels)][fold]

    @property
    def n_components(self):
        """Number of components of the best level in the first fold; no batch."""
        return int(self.mixture().n_components)

    @property
    def is_sparse(self):
        """Whether components have so few samples that a stronger prior may help."""
        return self._n < _FEW_SAMPLES * (self._d + 2) * self.n_components


def _only(tables, mixture):
    """The mixtures of some tables of a batch; those of others without weight."""
    weights, means, covariances = mixture
    return Mixture(weights * tables[..., None], means, covariances)


def _row(weight, i):
    return weight if weight.ndim == 1 else weight[i]


def mixture_of(parts):
    """Return a mixture of its weights, means and covariances."""
    return Mixture(*(torch.as_tensor(part) for part in parts))


def choose(growths):
    """Return the growth with the best validation score."""
    return max(growths, key=lambda growth: float(growth.scores))
