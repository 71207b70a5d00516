"""Where the flow starts: behind a Gaussian, or behind mixtures of Gaussians."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import torch

from skjko import chunks, columns, splitting
from skjko.flow.fold import Fold, pooled
from skjko.flow.rows import Rows
from skjko.preprocessing import Preprocessing
from skjko.rosenblatt import normal_logpdf

# Mixtures in more columns than these would cost more than they gain.
MIXTURE_COLUMNS = 128
# Iterations, and share of the time, in which a flow of one block shows what it gains,
# and how many times that it may gain yet.
RACE_ITERATIONS, RACE_SHARE, RACE_HOPE = 100, 0.25, 2.5
# Standard errors by which a flow has to be behind on one fold to be so on all.
CLEAR = 2.0
# Share of the mixtures' work in which one shows what it is good for, and with what
# maps; floating-point operations, and rows, that this takes at most; and the share of
# the work in which one may come to be better after all than a flow.
TRIAL_SHARE, TRIAL_WORK, TRIAL_ROWS = 0.1, 3e11, 20_000
DOUBTFUL_SHARE = 0.4
# A trial of less work, or of a smaller share of the rows, says little of what a mixture
# comes to.
TELLING_WORK, TELLING_ROWS = 5e10, 0.5
# Share of the time in which trials may begin, and in which they may where nothing is
# left to grow; and of what is left then that the growth may take, and that it may where
# a flow is ahead already.
TRIALS_SHARE, GROWN_SHARE, GROWING_SHARE, BEHIND_SHARE = 0.25, 0.5, 0.75, 0.1
# Seconds that no clock tells from none.
_INSTANT = 1e-9


class _Maps(NamedTuple):
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
        return _Maps(None if is_replaced else self.marginal, radial)

    def fitted(self, support, train_set):
        """Return a preprocessing of these maps."""
        plain = Preprocessing(support).fit(*train_set, self.marginal)
        return plain.with_radial(*train_set) if self.radial else plain


class _Trial(NamedTuple):
    """Preprocessings of all splits, and what mixtures of little work make of them.

    Attributes
    ----------
    maps : _Maps
    plain, mixed : list of Preprocessing
        Without mixtures of all columns, and with them.
    is_of_all : bool
        Whether they were fitted to all training rows.
    is_grown : bool
        Whether more work, and more rows, would make no others of them.
    losses, shares : ndarray
        Negative log-likelihoods of the held-out rows, and their weights.
    """

    maps: _Maps
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


class Start:
    """The choice of block 0, on held-out rows, and the rows behind it.

    Mixtures have to be better than what a flow of one block promises: what such a flow
    can do after little training, more training will do better.

    Parameters
    ----------
    splits : list
        As `held_out_splits` makes them.
    work : Work
    rng : RandomState
    seed : int
        Fits the same mixtures to the same rows again.
    earlier : Fitted or None
        Has chosen already.

    Attributes
    ----------
    preprocessings : list of Preprocessing
        One for every split.
    folds : list of Fold
    fields : list of VelocityField or None
        What the race has trained, for the first block to go on from; one a fold.
    interrupted : bool
        Whether the user broke off the choice.
    """

    def __init__(self, splits, work, rng, seed, earlier):
        self._splits, self._work, self._seed = splits, work, seed
        self.fields, self.interrupted = None, False
        # Operations of mixtures so far, and their seconds.
        self._done, self._seconds = 0.0, 0.0
        # By the flow in its race.
        self._reached = math.inf
        self._has_mixtures = earlier is not None and earlier.preprocessing.has_mixtures
        self._maps = _Maps(work.marginals[0])
        if earlier is not None and not self._has_mixtures:
            # What mixtures stand behind is chosen again, as it was.
            self._maps = self._maps.as_in(earlier.preprocessing)
        self.folds = None
        if earlier is not None and len(splits) == 1:
            self.preprocessings = [earlier.preprocessing]
            self.folds = self._folds()
            return
        self.preprocessings = self._fitted(self._maps, splits)
        may_have = earlier is None and work.mixture_work and splits
        if self._has_mixtures or (may_have and self._n_active_fits):
            self._choose(rng)
        if self.folds is None:
            self.folds = self._folds()

    def _choose(self, rng):
        """Let the best mixture grow, and take it if it is better than a flow."""
        first, trial, n_trials = self._trials()
        if first.maps.radial:
            self.preprocessings, self._maps = self._plain(first), first.maps
        below = math.inf if self._has_mixtures else self._to_beat(trial, rng)
        if below == -math.inf:
            return
        self._left = self._growing_work(n_trials, trial.nll, below)
        if self._left == 0:
            return
        if not (trial.is_grown or self.interrupted):
            plain = self._plain(trial)
            trial = self._trial(trial.maps, plain, self._splits, self._left)
        self._has_mixtures = self._has_mixtures or trial.is_better_than(below)
        if self._has_mixtures:
            self._maps = trial.maps
            self.preprocessings, self.folds, self.fields = trial.mixed, None, None

    def _plain(self, trial):
        """Preprocessings of all rows that its mixtures may stand behind."""
        if trial.maps == self._maps:
            return self.preprocessings
        if trial.is_of_all:
            return trial.plain
        return self._fitted(trial.maps, self._splits)

    def _to_beat(self, trial, rng):
        """What mixtures have to be below; minus infinity if they cannot be."""
        plain = self._nll(self.preprocessings)
        if trial.is_grown and not trial.is_better_than(plain):
            return -math.inf
        return min(plain, self._promise(trial, rng))

    def _growing_work(self, n_trials, nll, below):
        """Operations for the growth: less, or none, where it may not pay.

        Of little time a flow that is ahead after little training makes more.
        """
        total = self._work.mixture_work
        is_behind = self._reached < nll and self._trials_tell
        left = total - n_trials * self._trial_work
        if nll >= below:
            left = min(left, DOUBTFUL_SHARE * total)
        if not self._work.journal.remembers:
            share = BEHIND_SHARE if is_behind else GROWING_SHARE
            affordable = share * self._work.deadline.left
            # As fast as the trials went: machines differ, and so do their hours.
            left = min(left, self._done * affordable / max(self._seconds, _INSTANT))
        if left < self._trial_work and is_behind:
            return 0
        return max(left, self._trial_work)

    def preprocessing(self, X, weight):
        """Return the preprocessing of all rows."""
        plain = self._maps.fitted(self._work.support, (X, weight))
        if not self._has_mixtures:
            return plain
        return self._mixed(plain, (X, weight), self._left)[0]

    def _fitted(self, maps, splits):
        return [maps.fitted(self._work.support, train_set) for train_set, _ in splits]

    @property
    def _n_active_fits(self):
        """Whether the columns that a flow moves are some, and not too many."""
        d = self._splits[0][0][0].shape[1]
        n_active = [d - one.n_flat_ for one in self.preprocessings]
        return min(n_active) > 0 and max(n_active) <= MIXTURE_COLUMNS

    def _folds(self):
        return [
            fold(one, *split, self._work.device)
            for one, split in zip(self.preprocessings, self._splits, strict=True)
        ]

    @property
    def _trials_tell(self):
        """Whether what trials come to says what mixtures come to."""
        n_rows = max(len(X) for (X, _), _ in self._splits)
        is_of_many = n_rows * TELLING_ROWS <= TRIAL_ROWS
        return is_of_many and self._trial_work >= TELLING_WORK

    @property
    def _trial_work(self):
        return min(TRIAL_SHARE * self._work.mixture_work, TRIAL_WORK)

    def _trials(self):
        """Mixtures that have grown a little, behind marginal maps and without any.

        A map may serve one Gaussian and not many: the tails that it draws in are those
        of a wide part, and what was one plane for all parts it bends. Another serves
        many: what every column has by itself, lumps and gaps, the parts need not learn.
        A radial map, which does not know of parts either, is tried behind the maps that
        a flow gets, for what many Gaussians say of it a flow says too, behind those
        that mixtures are best with, and behind none: it draws in tails as well.

        Returns
        -------
        first, best : _Trial
            With the maps that a flow gets, and that mixtures are best with.
        n_trials : int
        """
        splits = [(self._some(*train_set), held) for train_set, held in self._splits]
        until = self._work.deadline.part(TRIALS_SHARE)
        until_grown = self._work.deadline.part(GROWN_SHARE)
        plains, trials = {}, {}

        def has_time():
            are_grown = all(trial.is_grown for trial in trials.values())
            return self._is_before(until_grown if are_grown else until)

        for i, marginal in enumerate(self._work.marginals):
            if i > 0 and not has_time():
                break
            maps = _Maps(marginal)
            plain = self._fitted(maps, splits) if i else self.preprocessings
            if all(one.marginal_ is None for one in plain):
                maps = _Maps(None)
            # All without maps are the same.
            if maps not in trials:
                plains[maps] = plain
                trials[maps] = self._trial(maps, plain, splits, self._trial_work)
        first = next(iter(trials.values()))
        best = min(trials.values(), key=attrgetter("nll"))
        if not self._work.radial:
            return first, best, len(trials)
        candidates = dict.fromkeys([first.maps, best.maps, _Maps(None)])
        curved = [
            self._radial_trial(maps, plains[maps], splits)
            for maps in candidates
            if maps in plains and has_time()
        ]
        curved = [trial for trial in curved if trial is not None]
        n_trials = len(trials) + len(curved)
        of_flow = [
            one for one in curved if one.maps.marginal in (None, first.maps.marginal)
        ]
        return _best(first, of_flow), _best(best, curved), n_trials

    def _is_before(self, until):
        """Whether there is time for another trial.

        There is if the same ones have to be made again: by a fit that goes on from a
        checkpoint, and behind the maps of folds by one that goes on from a model.
        """
        is_made_again = self._work.journal.remembers or len(self._splits) > 1
        return until.left > 0 or is_made_again

    def _radial_trial(self, maps, plain, splits):
        """A trial with radial maps behind these, or None if there are none."""
        behind = [
            one.with_radial(*train_set)
            for one, (train_set, _) in zip(plain, splits, strict=True)
        ]
        if all(one.radial_ is None for one in behind):
            return None
        maps = maps._replace(radial=True)
        return self._trial(maps, behind, splits, self._trial_work)

    def _some(self, X, weight):
        """Rows that are enough for a trial: all of them, if these are not many."""
        if len(X) <= TRIAL_ROWS:
            return X, weight
        some = np.random.RandomState([self._seed, 3])
        some = np.sort(splitting.draw(len(X), TRIAL_ROWS, some))
        return X[some], weight[some]

    def _trial(self, maps, plain, splits, work):
        grown = [
            self._mixed(one, train_set, work)
            for one, (train_set, _) in zip(plain, splits, strict=True)
        ]
        mixed = [one for one, _ in grown]
        is_of_all = all(
            len(some) == len(X)
            for ((some, _), _), ((X, _), _) in zip(splits, self._splits, strict=True)
        )
        is_grown = is_of_all and all(is_grown for _, is_grown in grown)
        return _Trial(maps, plain, mixed, is_of_all, is_grown, *self._losses(mixed))

    def _mixed(self, preprocessing, train_set, work):
        # Where there are folds, all rows come after them.
        n_fits = len(self._splits) + (len(self._splits) > 1)
        start = self._work.deadline.clock()
        mixed, is_grown, done = preprocessing.with_mixture(
            *train_set, np.random.RandomState([self._seed, 2]), work / n_fits
        )
        self._seconds += self._work.deadline.clock() - start
        self._done += done
        return mixed, is_grown

    def _promise(self, trial, rng):
        """What a flow promises to come to, on held-out rows, if it matters to be below.

        As much again as it gained in the later half of a short training is to be
        expected of it. Where it would take a few times that, a longer training tells.
        """
        self.folds = self._folds()
        if len(self.folds) > 1 and self._is_beaten(trial, rng):
            return math.inf
        reached, gained = self._race("start", RACE_ITERATIONS, rng, self.folds)
        self._reached = reached = _mean(self.folds, reached)
        is_clear = (
            reached - gained <= trial.nll or reached - RACE_HOPE * gained > trial.nll
        )
        if is_clear or self.interrupted:
            return reached - gained
        reached, _ = self._race("longer start", math.inf, rng, self.folds)
        self._reached = _mean(self.folds, reached)
        return self._reached

    def _is_beaten(self, trial, rng):
        """Whether the first fold alone shows that a flow will not be below mixtures.

        It counts as shown where nobody wants to wait for more.
        """
        folds = self.folds[:1]
        reached, gained = self._race("first start", RACE_ITERATIONS, rng, folds)
        of_mixtures, _ = self._losses(trial.mixed[:1])
        behind = reached[0] - torch.as_tensor(of_mixtures).to(reached[0])
        mean, error = pooled(folds, [behind - RACE_HOPE * gained])
        return self.interrupted or mean > CLEAR * error

    def _race(self, part, n_iter, rng, folds):
        """What rows lose by a flow of one block, and what its later half gained."""
        options = self._work.options
        options = replace(options, max_iter=min(n_iter, options.max_iter))
        scores = []

        def listen(event):
            if event.kind == "scored":
                scores.append(event.validation_nll)
            self._work.on_event(event)

        crew = replace(self._work, options=options, on_event=listen).crew(
            folds, rng, share=RACE_SHARE, part=part, fields=self.fields
        )
        crew.grow([math.inf])
        self.interrupted = crew.interrupted
        # Where there are folds, all rows follow them, and have run no race.
        if len(self._splits) == 1 and crew.flows[0]:
            self.fields = [crew.flows[0][0].field.field]
        # What has begun to overfit will gain no more.
        if not scores or scores[-1] > min(scores):
            return crew.losses, 0.0
        return crew.losses, scores[(len(scores) - 1) // 2] - scores[-1]

    def _nll(self, preprocessings):
        """Mean negative log-likelihood of the held-out rows behind block 0."""
        losses, shares = self._losses(preprocessings)
        return np.average(losses, weights=shares)

    def _losses(self, preprocessings):
        """Negative log-likelihoods of the rows that splits hold out, and shares."""
        losses, shares = [], []
        for one, (_, (X, weight)) in zip(preprocessings, self._splits, strict=False):
            losses.append(-one.log_density(X))
            shares.append(weight / weight.mean())
        return np.concatenate(losses), np.concatenate(shares)


def _best(trial, others):
    """Return the best of the others if it is clearly better than a trial, or that."""
    others = [other for other in others if other.is_clearly_better_than(trial)]
    return min([*others, trial], key=attrgetter("nll"))


def _mean(folds, losses):
    """Mean loss of the held-out rows of all folds."""
    return pooled(folds, losses)[0]


def active(preprocessing, X):
    """Return the columns of z that a flow moves, for rows."""
    return whitened(preprocessing, preprocessing.map_columns(X)[0])


def whitened(preprocessing, Y):
    """Return the columns of z that a flow moves, for rows of mapped columns."""
    Z, _ = preprocessing.whiten(Y)
    return torch.as_tensor(Z[:, : Z.shape[1] - preprocessing.n_flat_].copy())


def fold(preprocessing, train_set, held_out, device):
    """Whiten rows and weights; `held_out` may be None.

    Training rows wait for somebody to ask for them: mapping many of them through a
    mixture takes a while.
    """
    train = partial(_training_rows, preprocessing, *train_set, device)
    if held_out is None:
        return Fold(train)
    to = partial(torch.as_tensor, dtype=torch.float32, device=device)
    X, weight = held_out
    Z, log_det = preprocessing.forward(X)
    flat = Z[:, Z.shape[1] - preprocessing.n_flat_ :]
    rows = Rows(to(active(preprocessing, X)), to(weight / weight.mean()))
    return Fold(train, rows, to(log_det + normal_logpdf(flat)))


def _training_rows(preprocessing, X, weight, device):
    """Whiten rows chunk by chunk: to the device, or to a file if they are too many."""
    x = chunks.empty((len(X), X.shape[1] - preprocessing.n_flat_), np.float32)
    relative = chunks.empty((len(X),), np.float32)
    mean = weight.mean()
    for where, rows in chunks.in_float64(X):
        x[where] = active(preprocessing, rows)
        relative[where] = weight[where] / mean
    tensors = torch.from_numpy(x), torch.from_numpy(relative)
    if chunks.fits_memory(x.shape, x.dtype):
        return Rows(*(tensor.to(device) for tensor in tensors))
    return Rows(*tensors, to=device)
