"""Where the flow starts: behind a Gaussian, or behind mixtures of Gaussians."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from skjko import chunks
from skjko.flow.fold import Fold, pooled
from skjko.flow.rows import Rows
from skjko.rosenblatt import normal_logpdf
from skjko.trials import Maps, Trials

# Mixtures in more columns than these would cost more than they gain.
MIXTURE_COLUMNS = 128
# Iterations, and share of the time, in which a flow of one block shows what it gains,
# and how many times that it may gain yet.
RACE_ITERATIONS, RACE_SHARE, RACE_HOPE = 100, 0.25, 2.5
# Standard errors by which a flow has to be behind on one fold to be so on all.
CLEAR = 2.0
# Share of the mixtures' work in which one may come to be better after all than a flow.
DOUBTFUL_SHARE = 0.4
# Share of the time that is left after trials and race which the growth may take, and
# that it may where a flow is ahead already.
GROWING_SHARE, BEHIND_SHARE = 0.75, 0.1


class Start:
    """The choice of block 0, on held-out rows, and the rows behind it.

    Mixtures have to be better than what a flow of one block promises: what such a flow
    can do after little training, more training will do better. Where it does not keep
    that, mixtures that are grown already are taken after all.

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
        self._splits, self._work = splits, work
        self._trials = Trials(splits, work, seed)
        self._spurned = None
        self.fields, self.interrupted = None, False
        # By the flow in its race.
        self._reached = math.inf
        self._has_mixtures = earlier is not None and earlier.preprocessing.has_mixtures
        self._maps = Maps(work.marginals[0])
        if earlier is not None and not self._has_mixtures:
            # What mixtures stand behind is chosen again, as it was.
            self._maps = self._maps.as_in(earlier.preprocessing)
        self.folds = None
        if earlier is not None and len(splits) == 1:
            self.preprocessings = [earlier.preprocessing]
            self.folds = self._folds()
            return
        self.preprocessings = self._trials.fitted(self._maps)
        may_have = earlier is None and work.mixture_work and splits
        if self._has_mixtures or (may_have and self._n_active_fits):
            self._choose(rng)
        if self.folds is None:
            self.folds = self._folds()

    def _choose(self, rng):
        """Let the best mixture grow, and take it if it is better than a flow."""
        first, trial = self._trials.compare(self.preprocessings)
        self._spurned = trial if trial.is_grown else None
        if first.maps.radial:
            self.preprocessings, self._maps = self._plain(first), first.maps
        below = math.inf if self._has_mixtures else self._to_beat(trial, rng)
        if below == -math.inf:
            return
        self._left = self._growing_work(trial.nll, below)
        if self._left == 0:
            return
        if not (trial.is_grown or self.interrupted):
            plain = self._plain(trial)
            trial = self._trials.grow(trial.maps, plain, self._left)
        if self._has_mixtures or trial.is_better_than(below):
            self._take(trial)

    def _take(self, trial):
        """Stand behind the mixtures of a trial."""
        self._has_mixtures, self._spurned = True, None
        self._maps, self.preprocessings = trial.maps, trial.mixed
        self.folds, self.fields = None, None

    @property
    def may_fall_back(self):
        """Whether there are mixtures to take in place of a flow, if that is worse."""
        return self._spurned is not None

    def falls_back(self, crew):
        """Take the mixtures after all, where a crew has come to worse; return whether.

        Who breaks off gets what was finished.
        """
        trial = self._spurned
        if trial is None or crew.interrupted or not trial.is_better_than(crew.nll):
            return False
        self._reached = math.inf
        self._left = self._growing_work(trial.nll, math.inf)
        self._take(trial)
        self.folds = self._folds()
        return True

    def _plain(self, trial):
        """Preprocessings of all rows that its mixtures may stand behind."""
        if trial.maps == self._maps:
            return self.preprocessings
        if trial.is_of_all:
            return trial.plain
        return self._trials.fitted(trial.maps)

    def _to_beat(self, trial, rng):
        """What mixtures have to be below; minus infinity if they cannot be."""
        plain = self._nll(self.preprocessings)
        if trial.is_grown and not trial.is_better_than(plain):
            return -math.inf
        return min(plain, self._promise(trial, rng))

    def _growing_work(self, nll, below):
        """Operations for the growth: less, or none, where it may not pay.

        Of little time a flow that is ahead after little training makes more.
        """
        is_behind = self._reached < nll and self._trials.tell
        left = self._trials.left
        if nll >= below:
            left = min(left, DOUBTFUL_SHARE * self._work.mixture_work)
        if not self._work.journal.remembers:
            share = BEHIND_SHARE if is_behind else GROWING_SHARE
            seconds = share * self._work.deadline.left
            left = min(left, self._trials.affordable(seconds))
        if left < self._trials.trial_work and is_behind:
            return 0
        return max(left, self._trials.trial_work)

    def preprocessing(self, X, weight):
        """Return the preprocessing of all rows."""
        plain = self._maps.fitted(self._work.support, (X, weight))
        if not self._has_mixtures:
            return plain
        return self._trials.mixed(plain, (X, weight), self._left)[0]

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
        of_mixtures, _ = self._trials.losses(trial.mixed[:1])
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
        losses, shares = self._trials.losses(preprocessings)
        return np.average(losses, weights=shares)


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
