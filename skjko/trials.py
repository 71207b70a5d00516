"""Mixtures of little work, behind several maps, and what held-out rows say of them."""

# SPDX-License-Identifier: BSD-3-Clause

from collections.abc import Callable
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from skjko import columns, splitting
from skjko.preprocessing import Preprocessing

# Share of the mixtures' work in which one shows what it is good for, and with what
# maps; and floating-point operations, and rows, that this takes at most.
TRIAL_SHARE, TRIAL_WORK, TRIAL_ROWS = 0.1, 3e11, 20_000
# A trial of less work, or of a smaller share of the rows, says little of what a mixture
# comes to.
TELLING_WORK, TELLING_ROWS = 5e10, 0.5
# Share of the time in which trials may begin, and in which they may where nothing is
# left to grow.
TRIALS_SHARE, GROWN_SHARE = 0.25, 0.5
# Seconds that no clock tells from none.
_INSTANT = 1e-9


class Maps(NamedTuple):
    """What stands before the Gaussian of all columns, and right behind it.

    Attributes
    ----------
    marginal : callable or None
        Chooses a marginal map.
    radial : bool
        Whether there is a radial map where that gains anything.
    """

    marginal: Callable | None
    radial: bool = False

    def as_in(self, preprocessing):
        """Return these maps without a marginal one that a radial map replaced."""
        radial = preprocessing.radial_ is not None
        is_replaced = radial and preprocessing.marginal_ is None
        return Maps(None if is_replaced else self.marginal, radial)

    def fitted(self, support, train_set):
        """Return a preprocessing of these maps."""
        plain = Preprocessing(support).fit(*train_set, self.marginal)
        return plain.with_radial(*train_set) if self.radial else plain


class Trial(NamedTuple):
    """Preprocessings of all splits, and what mixtures of some work make of them.

    Attributes
    ----------
    maps : Maps
    plain, mixed : list of Preprocessing
        Without mixtures of all columns, and with them.
    is_of_all : bool
        Whether they were fitted to all training rows.
    is_grown : bool
        Whether more work, and more rows, would make no others of them.
    losses, shares : ndarray
        Negative log-likelihoods of the held-out rows, and their weights.
    """

    maps: Maps
    plain: list
    mixed: list
    is_of_all: bool
    is_grown: bool
    losses: np.ndarray
    shares: np.ndarray

    @property
    def nll(self):
        """Mean negative log-likelihood of the held-out rows."""
        return np.average(self.losses, weights=self.shares)

    def is_better_than(self, nll):
        """Whether there are mixtures, and of a lower negative log-likelihood."""
        return self.nll < nll and any(one.has_mixtures for one in self.mixed)

    def is_clearly_better_than(self, other):
        """Whether held-out rows gain more than the standard error of their gain."""
        largest = columns.LARGEST_GAIN
        gains = np.clip(other.losses - self.losses, -largest, largest)
        return columns.pays(gains, self.shares, least=0.0, errors=1.0)


class Trials:
    """Mixtures that grow a little, on some of the rows, and one that grows on.

    Parameters
    ----------
    splits : list
        As `held_out_splits` makes them.
    work : Work
    seed : int
        Fits the same mixtures to the same rows again.

    Attributes
    ----------
    n_made : int
        Number of trials so far.
    """

    def __init__(self, splits, work, seed):
        self._splits, self._work, self._seed = splits, work, seed
        self.n_made = 0
        # Operations of mixtures so far, and their seconds.
        self._done, self._seconds = 0.0, 0.0

    def compare(self, preprocessings):
        """Let mixtures grow a little, behind marginal maps and without any.

        A map may serve one Gaussian and not many: the tails that it draws in are those
        of a wide part, and what was one plane for all parts it bends. Another serves
        many: what every column has by itself, lumps and gaps, the parts need not learn.
        A radial map, which does not know of parts either, is tried behind the maps that
        a flow gets, for what many Gaussians say of it a flow says too, behind those
        that mixtures are best with, and behind none: it draws in tails as well.

        Parameters
        ----------
        preprocessings : list of Preprocessing
            Of all rows, with the maps that a flow gets.

        Returns
        -------
        first, best : Trial
            With the maps that a flow gets, and that mixtures are best with.
        """
        splits = [(self._some(*train_set), held) for train_set, held in self._splits]
        until = self._work.deadline.part(TRIALS_SHARE)
        until_grown = self._work.deadline.part(GROWN_SHARE)
        trials = {}

        def has_time():
            are_grown = all(trial.is_grown for trial in trials.values())
            return self._is_before(until_grown if are_grown else until)

        for i, marginal in enumerate(self._work.marginals):
            if i > 0 and not has_time():
                break
            maps = Maps(marginal)
            plain = self._fitted(maps, splits) if i else preprocessings
            if all(one.marginal_ is None for one in plain):
                maps = Maps(None)
            # All without maps are the same.
            if maps not in trials:
                trials[maps] = self._little(maps, plain, splits)
        first = next(iter(trials.values()))
        best = min(trials.values(), key=attrgetter("nll"))
        if not self._work.radial:
            return first, best
        candidates = dict.fromkeys([first.maps, best.maps, Maps(None)])
        curved = [
            self._radial(maps, trials[maps].plain, splits)
            for maps in candidates
            if maps in trials and has_time()
        ]
        curved = [trial for trial in curved if trial is not None]
        of_flow = [
            one for one in curved if one.maps.marginal in (None, first.maps.marginal)
        ]
        return _best(first, of_flow), _best(best, curved)

    def grow(self, maps, plain, work):
        """Let mixtures of all rows grow with so much work, behind these."""
        return self._trial(maps, plain, self._splits, work)

    def fitted(self, maps):
        """Return preprocessings of these maps, fitted to all rows."""
        return self._fitted(maps, self._splits)

    def mixed(self, preprocessing, train_set, work):
        """Return a preprocessing with a mixture, and whether more work changes nothing.

        Of the work for all splits it gets its part.
        """
        # Where there are folds, all rows come after them.
        n_fits = len(self._splits) + (len(self._splits) > 1)
        clock = self._work.deadline.clock
        start = clock()
        mixed, is_grown, done = preprocessing.with_mixture(
            *train_set, np.random.RandomState([self._seed, 2]), work / n_fits
        )
        self._seconds += clock() - start
        self._done += done
        return mixed, is_grown

    def losses(self, preprocessings):
        """Negative log-likelihoods of the rows that splits hold out, and shares."""
        losses, shares = [], []
        for one, (_, (X, weight)) in zip(preprocessings, self._splits, strict=False):
            losses.append(-one.log_density(X))
            shares.append(weight / weight.mean())
        return np.concatenate(losses), np.concatenate(shares)

    @property
    def trial_work(self):
        """Floating-point operations of one trial."""
        return min(TRIAL_SHARE * self._work.mixture_work, TRIAL_WORK)

    @property
    def left(self):
        """Operations that trials have left of all."""
        return self._work.mixture_work - self.n_made * self.trial_work

    def affordable(self, seconds):
        """Operations in so many seconds, as fast as mixtures went so far.

        Machines differ, and so do their hours.
        """
        return self._done * seconds / max(self._seconds, _INSTANT)

    @property
    def tell(self):
        """Whether what trials come to says what mixtures come to."""
        n_rows = max(len(X) for (X, _), _ in self._splits)
        is_of_many = n_rows * TELLING_ROWS <= TRIAL_ROWS
        return is_of_many and self.trial_work >= TELLING_WORK

    def _is_before(self, until):
        """Whether there is time for another trial.

        There is if the same ones have to be made again: by a fit that goes on from a
        checkpoint, and behind the maps of folds by one that goes on from a model.
        """
        is_made_again = self._work.journal.remembers or len(self._splits) > 1
        return until.left > 0 or is_made_again

    def _fitted(self, maps, splits):
        return [maps.fitted(self._work.support, train_set) for train_set, _ in splits]

    def _some(self, X, weight):
        """Rows that are enough for a trial: all of them, if these are not many."""
        if len(X) <= TRIAL_ROWS:
            return X, weight
        some = np.random.RandomState([self._seed, 3])
        some = np.sort(splitting.draw(len(X), TRIAL_ROWS, some))
        return X[some], weight[some]

    def _little(self, maps, plain, splits):
        """A trial, of little work."""
        self.n_made += 1
        return self._trial(maps, plain, splits, self.trial_work)

    def _radial(self, maps, plain, splits):
        """A trial with radial maps behind these, or None if there are none."""
        behind = [
            one.with_radial(*train_set)
            for one, (train_set, _) in zip(plain, splits, strict=True)
        ]
        if all(one.radial_ is None for one in behind):
            return None
        return self._little(maps._replace(radial=True), behind, splits)

    def _trial(self, maps, plain, splits, work):
        grown = [
            self.mixed(one, train_set, work)
            for one, (train_set, _) in zip(plain, splits, strict=True)
        ]
        mixed = [one for one, _ in grown]
        is_of_all = all(
            len(some) == len(X)
            for ((some, _), _), ((X, _), _) in zip(splits, self._splits, strict=True)
        )
        is_grown = is_of_all and all(is_grown for _, is_grown in grown)
        return Trial(maps, plain, mixed, is_of_all, is_grown, *self.losses(mixed))


def _best(trial, others):
    """Return the best of the others if it is clearly better than a trial, or that."""
    others = [other for other in others if other.is_clearly_better_than(trial)]
    return min([*others, trial], key=attrgetter("nll"))
