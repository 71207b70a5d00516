"""From validated arrays to a trained flow: block 0, folds, and the scoring grids."""

# SPDX-License-Identifier: BSD-3-Clause

import copy
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from sklearn.utils import check_random_state

from skjko import chunks, splitting
from skjko.flow import accuracy, history, scheme
from skjko.flow.flow import Block
from skjko.flow.fold import Fold
from skjko.flow.journal import Journal
from skjko.flow.pace import Deadline
from skjko.flow.rows import Rows
from skjko.flow.training import Options
from skjko.preprocessing import Preprocessing
from skjko.rosenblatt import normal_logpdf
from skjko.splitting import GAUSSIAN_ROWS, held_out_splits
from skjko.support import Support

# Rows of each of the sets of points on which the scoring grids are chosen.
N_PROBES = 256

# Mixtures in more columns than these would cost more than they gain.
MIXTURE_COLUMNS = 128
# Iterations, and share of the time, in which a flow of one block shows what it gains,
# and how many times that it may gain yet.
RACE_ITERATIONS, RACE_SHARE, RACE_HOPE = 100, 0.25, 2.5
# Share of the mixtures' work in which one shows what it is good for, and with what
# maps; floating-point operations, and rows, that this takes at most; and the share of
# the work in which one may come to be better after all than a flow.
TRIAL_SHARE, TRIAL_WORK, TRIAL_ROWS = 0.1, 3e11, 20_000
DOUBTFUL_SHARE = 0.4
# Share of the time left then that the growth may take.
GROWING_SHARE = 0.65


@dataclass(frozen=True)
class Work:
    """What there is to train, and what to train it with.

    Attributes
    ----------
    step_sizes : tuple of float
        Of the blocks to grow.
    n_reparameterizations, n_refinements : int
        Largest numbers of rounds.
    max_step_size : float
        Cap of reparameterized step sizes.
    validation_fraction : float or None
        Share of the rows to hold out; None holds none out.
    new_field : callable
        Maps a dimension and a generator to a fresh velocity field.
    options : Options
    device : torch.device
    on_event : callable
    deadline : Deadline
        When the training has to be done.
    support : Support
        Of the columns.
    marginals : tuple of callable or None
        What may choose their marginal maps: the first does for the flow, and all of
        them are tried with mixtures.
    mixture_work, mixture_rate : float
        Floating-point operations that mixtures in block 0 may take, 0 for no mixture,
        and how many of them are done in a second, about. Not seconds: a fit that goes
        on from a checkpoint has to come to the same mixture.
    journal : Journal
        Remembers every block that is trained.
    """

    step_sizes: tuple[float, ...]
    n_reparameterizations: int
    n_refinements: int
    max_step_size: float
    validation_fraction: float | None
    new_field: Callable
    options: Options
    device: torch.device
    on_event: Callable
    deadline: Deadline
    support: Support
    marginals: tuple
    mixture_work: float
    mixture_rate: float
    journal: Journal

    def crew(self, folds, rng, flows=None, rounds=(), share=1.0, part="all"):
        """Return a crew with some blocks to start from, here in training precision.

        It gets a share of the time that is left, and a part of the journal.
        """
        if flows:
            flows = [_moved(flow, self.device, torch.float32) for flow in flows]
        generators = [_generator(rng) for _ in folds]
        return scheme.Crew(
            folds,
            self.new_field,
            self.options,
            generators,
            self.on_event,
            flows,
            rounds,
            self.deadline.part(share),
            self.journal.part(part),
        )

    def do(self, crew):
        """Let a crew do all of it, if there is a direction to move rows in."""
        if not crew.interrupted and all(fold.train.x.shape[1] for fold in crew.folds):
            crew.train(
                self.step_sizes,
                self.n_reparameterizations,
                self.n_refinements,
                self.max_step_size,
            )


@dataclass
class Fitted:
    """A model as training leaves it, and what training it on needs.

    Attributes
    ----------
    preprocessing : Preprocessing
        Block 0.
    blocks : list of Block
        On the CPU.
    data : str
        Fingerprint of the rows, their weights and the rows given to hold out.
    split_seed : int
        Draws the same held-out rows from the same data again, so that none ever trains.
    rounds : list of history.Round
    base_nll : float or None
        Mean negative log-likelihood of the held-out rows behind block 0.
    fold_flows : list of list of Block
        The flows of the folds, where cross-validation decided; empty otherwise.
    troubles : list of str
        What the user should know of the training.
    """

    preprocessing: Preprocessing
    blocks: list[Block]
    data: str
    split_seed: int
    rounds: list[history.Round] = field(default_factory=list)
    base_nll: float | None = None
    fold_flows: list[list[Block]] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)


def train(X, weight, X_val, work, rng, earlier=None):
    """Train a flow, or train an earlier one on.

    Parameters
    ----------
    X : ndarray of shape (n, d)
    weight : ndarray of shape (n,)
        Positive.
    X_val : ndarray of shape (n_val, d) or None
        Rows to hold out in place of a part of X.
    work : Work
    rng : RandomState
    earlier : Fitted or None
        Trained on the same rows.

    Returns
    -------
    fitted : Fitted
    rows : ndarray
        Those that decided, or all if none did.

    Raises
    ------
    ValueError
        If the data are others than those of the earlier fit.
    """
    data = fingerprint(X, weight, X_val)
    if earlier is not None and data != earlier.data:
        raise ValueError(
            "With warm_start=True, X, sample_weight and X_val must be those of the fit "
            f"to continue. Got other values, in {len(X)} rows of positive weight. Set "
            "warm_start=False to start again."
        )
    rounds = [] if earlier is None else earlier.rounds
    seed = rng.randint(2**31 - 1) if earlier is None else earlier.split_seed
    # Discrete values are spread once, the same way whenever training goes on.
    noise = np.random.RandomState([seed, 1])
    lattice = work.support.lattice
    X = lattice.spread(X, noise)
    X_val = None if X_val is None else lattice.spread(X_val, noise)
    if not (work.step_sizes or rounds) or len(X) <= GAUSSIAN_ROWS:
        plain = Preprocessing(work.support).fit(X, weight, work.marginals[0])
        return Fitted(plain, [], data, seed), X
    splits = []
    if work.validation_fraction is not None:
        splits = held_out_splits(
            X, weight, X_val, work.validation_fraction, check_random_state(seed)
        )
    start = _Start(splits, work, rng, seed, earlier)
    if len(splits) == 1:
        held_out = splits[0][1]
        preprocessing, folds = start.preprocessings[0], start.folds
        interrupted = start.interrupted
        # What may be two copies of all rows has done its work.
        del X, splits, start
        crew = work.crew(folds, rng, earlier and [earlier.blocks], rounds)
        crew.interrupted = interrupted
        work.do(crew)
        return _fitted(preprocessing, crew, data, seed, crew.base_nll), held_out[0]

    preprocessing = (
        start.preprocessing(X, weight) if earlier is None else earlier.preprocessing
    )
    folds = [_fold(preprocessing, (X, weight), None, work.device)]
    crew = work.crew(folds, rng, earlier and [earlier.blocks], rounds)
    if not splits:
        work.do(crew)
        return _fitted(preprocessing, crew, data, seed), X
    deciding = work.crew(
        start.folds,
        rng,
        earlier and earlier.fold_flows,
        rounds,
        len(splits) / (len(splits) + 1),
        "folds",
    )
    deciding.interrupted = start.interrupted
    work.do(deciding)
    crew.follow(deciding.rounds[len(rounds) :])
    fitted = _fitted(preprocessing, crew, data, seed, deciding.base_nll)
    fitted.fold_flows = [
        _moved(flow[: len(fitted.blocks)], "cpu", torch.float32)
        for flow in deciding.flows
    ]
    fitted.troubles += [t for t in _troubles(deciding) if t not in fitted.troubles]
    return fitted, np.concatenate([held_out[0] for _, held_out in splits])


class _Trial(NamedTuple):
    """Preprocessings of all splits, and what mixtures of little work make of them."""

    marginal: Callable | None
    mixed: list
    is_grown: bool
    nll: float

    def is_better_than(self, nll):
        """Whether there are mixtures, and of a lower negative log-likelihood."""
        return self.nll < nll and any(one.has_mixtures for one in self.mixed)


class _Start:
    """Where the flow starts: behind a Gaussian, or behind mixtures of them.

    What it is better than is a flow of one block that has trained for little: what such
    a flow can do, more training will do better.

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
    interrupted : bool
        Whether the user broke off the choice.
    """

    def __init__(self, splits, work, rng, seed, earlier):
        self._splits, self._work, self._seed = splits, work, seed
        self.interrupted = False
        self._marginal = work.marginals[0]
        self._has_mixtures = earlier is not None and earlier.preprocessing.has_mixtures
        self.folds = None
        if earlier is not None and len(splits) == 1:
            self.preprocessings = [earlier.preprocessing]
            self.folds = self._folds()
            return
        self.preprocessings = self._fitted(self._marginal, splits)
        may_have = earlier is None and work.mixture_work and splits
        if self._has_mixtures or (may_have and self._n_active_fits):
            self._choose(rng)
        if self.folds is None:
            self.folds = self._folds()

    def _choose(self, rng):
        """Let the best mixture grow, and take it if it is better than a flow."""
        trials = self._trials()
        trial = min(trials, key=lambda trial: trial.nll)
        plain = self._nll(self.preprocessings)
        promise = -math.inf
        if self._has_mixtures:
            promise = math.inf
        elif trial.is_better_than(plain) or not trial.is_grown:
            promise = min(plain, self._promise(trial.nll, rng))
        if promise == -math.inf:
            return
        total = self._work.mixture_work
        self._left = total - len(trials) * self._trial_work
        if not trial.nll < promise:
            self._left = min(self._left, DOUBTFUL_SHARE * total)
        if not self._work.journal.remembers:
            affordable = GROWING_SHARE * self._work.deadline.left
            self._left = min(self._left, self._work.mixture_rate * affordable)
        self._left = max(self._left, self._trial_work)
        if not trial.is_grown:
            marginal = trial.marginal
            fitted = self._fitted(marginal, self._splits)
            trial = self._trial(marginal, fitted, self._splits, self._left)
        self._has_mixtures = self._has_mixtures or trial.is_better_than(promise)
        if self._has_mixtures:
            self._marginal = trial.marginal
            self.preprocessings, self.folds = trial.mixed, None

    def preprocessing(self, X, weight):
        """Return the preprocessing of all rows."""
        plain = Preprocessing(self._work.support).fit(X, weight, self._marginal)
        if not self._has_mixtures:
            return plain
        return self._mixed(plain, (X, weight), self._left)[0]

    def _fitted(self, marginal, splits):
        support = self._work.support
        return [
            Preprocessing(support).fit(*train_set, marginal) for train_set, _ in splits
        ]

    @property
    def _n_active_fits(self):
        """Whether the columns that a flow moves are some, and not too many."""
        d = self._splits[0][0][0].shape[1]
        n_active = [d - one.n_flat_ for one in self.preprocessings]
        return min(n_active) > 0 and max(n_active) <= MIXTURE_COLUMNS

    def _folds(self):
        return [
            _fold(one, *split, self._work.device)
            for one, split in zip(self.preprocessings, self._splits, strict=True)
        ]

    @property
    def _trial_work(self):
        return min(TRIAL_SHARE * self._work.mixture_work, TRIAL_WORK)

    def _trials(self):
        """Mixtures that have grown a little, behind marginal maps and without any.

        A map may serve one Gaussian and not many: the tails that it draws in are those
        of a wide part, and what was one plane for all parts it bends. Another serves
        many: what every column has by itself, lumps and gaps, the parts need not learn.
        """
        splits = [(self._some(*train_set), held) for train_set, held in self._splits]
        # All without maps are the same.
        different = {}
        for i, marginal in enumerate(self._work.marginals):
            plain = self._fitted(marginal, splits) if i else self.preprocessings
            has_maps = any(one.marginal_ is not None for one in plain)
            different[marginal if has_maps else None] = plain
        return [
            self._trial(marginal, plain, splits, self._trial_work)
            for marginal, plain in different.items()
        ]

    def _some(self, X, weight):
        """Rows that are enough for a trial: all of them, if these are not many."""
        if len(X) <= TRIAL_ROWS:
            return X, weight
        some = np.random.RandomState([self._seed, 3])
        some = np.sort(splitting.draw(len(X), TRIAL_ROWS, some))
        return X[some], weight[some]

    def _trial(self, marginal, plain, splits, work):
        pairs = [
            self._mixed(one, train_set, work)
            for one, (train_set, _) in zip(plain, splits, strict=True)
        ]
        mixed = [one for one, _ in pairs]
        is_grown = all(is_grown for _, is_grown in pairs) and all(
            len(some) == len(X)
            for ((some, _), _), ((X, _), _) in zip(splits, self._splits, strict=True)
        )
        return _Trial(marginal, mixed, is_grown, self._nll(mixed))

    def _mixed(self, preprocessing, train_set, work):
        # Where there are folds, all rows come after them.
        n_fits = len(self._splits) + (len(self._splits) > 1)
        return preprocessing.with_mixture(
            *train_set, np.random.RandomState([self._seed, 2]), work / n_fits
        )

    def _promise(self, nll, rng):
        """What a flow promises to come to, on held-out rows, if it matters to be below.

        As much again as it gained in the later half of a short training is to be
        expected of it. Where it would take a few times that, a longer training tells.
        """
        self.folds = self._folds()
        reached, gained = self._race("start", RACE_ITERATIONS, rng)
        if reached - gained <= nll or reached - RACE_HOPE * gained > nll:
            return reached - gained
        return self._race("longer start", math.inf, rng)[0]

    def _race(self, part, n_iter, rng):
        """What a flow of one block reaches, and what its later half gained, in nats."""
        options = self._work.options
        options = replace(options, max_iter=min(n_iter, options.max_iter))
        scores = []

        def listen(event):
            if event.kind == "scored":
                scores.append(event.validation_nll)
            self._work.on_event(event)

        crew = replace(self._work, options=options, on_event=listen).crew(
            self.folds, rng, share=RACE_SHARE, part=part
        )
        crew.grow([math.inf])
        self.interrupted = crew.interrupted
        # What has begun to overfit will gain no more.
        if not scores or scores[-1] > min(scores):
            return crew.nll, 0.0
        return crew.nll, scores[(len(scores) - 1) // 2] - scores[-1]

    def _nll(self, preprocessings):
        """Mean negative log-likelihood of the held-out rows behind block 0."""
        losses, shares = [], []
        for one, (_, (X, weight)) in zip(preprocessings, self._splits, strict=True):
            losses.append(-one.log_density(X))
            shares.append(weight / weight.mean())
        return np.average(np.concatenate(losses), weights=np.concatenate(shares))


def choose_grids(flow, preprocessing, rows, X, seed):
    """Choose the scoring grids on four sets of points; return the gaps that are left.

    Held-out rows, the training rows that are farthest from their mean, own samples,
    and a box three times as wide as the data, where single columns are mapped: it has
    no end at a bound there.
    """
    rng = np.random.RandomState(seed)
    if len(rows) > N_PROBES:
        rows = rows[splitting.draw(len(rows), N_PROBES, rng)]
    low, high = np.inf, -np.inf
    farthest = np.empty((0, X.shape[1]))
    n_active = X.shape[1] - preprocessing.n_flat_
    for _, part in chunks.in_float64(X):
        Y, _ = preprocessing.map_columns(part)
        low, high = np.minimum(low, Y.min(axis=0)), np.maximum(high, Y.max(axis=0))
        Y = np.concatenate([farthest, Y]) if len(farthest) else Y
        Z = torch.as_tensor(preprocessing.gaussian_.forward(Y)[0][:, :n_active])
        far = Z.square().sum(1).topk(min(N_PROBES // 4, len(Z))).indices
        farthest = Y[far.numpy()]
    centre, half = low + (high - low) / 2, (high - low) / 2
    box = centre + 3 * half * rng.uniform(-1, 1, (N_PROBES, X.shape[1]))
    base = rng.standard_normal((N_PROBES, flow.n_features))
    # About where samples fall; the same whatever grids the flow came with.
    for block in flow.blocks:
        block.n_ode_steps = 4
    own = flow.generate(torch.as_tensor(base))
    probes = [
        _active(preprocessing, rows),
        _whitened(preprocessing, farthest),
        own,
        _whitened(preprocessing, box),
    ]
    return accuracy.choose_grids(flow, probes)


def fingerprint(*arrays):
    """What tells data from others, in later versions and on other machines too."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(None if array is None else array.shape).encode())
        if array is not None:
            table = array.reshape(len(array) if array.ndim else 1, -1)
            for _, part in chunks.in_float64(table):
                digest.update(part.tobytes())
    return digest.hexdigest()


def _active(preprocessing, X):
    """Return the columns of z that a flow moves, for rows."""
    return _whitened(preprocessing, preprocessing.map_columns(X)[0])


def _whitened(preprocessing, Y):
    """Return the columns of z that a flow moves, for rows of mapped columns."""
    Z, _ = preprocessing.whiten(Y)
    return torch.as_tensor(Z[:, : Z.shape[1] - preprocessing.n_flat_].copy())


def _fold(preprocessing, train_set, held_out, device):
    """Whiten rows and weights; `held_out` may be None."""
    train = _training_rows(preprocessing, *train_set, device)
    if held_out is None:
        return Fold(train)
    to = partial(torch.as_tensor, dtype=torch.float32, device=device)
    X, weight = held_out
    Z, log_det = preprocessing.forward(X)
    flat = Z[:, Z.shape[1] - preprocessing.n_flat_ :]
    rows = Rows(to(_active(preprocessing, X)), to(weight / weight.mean()))
    return Fold(train, rows, to(log_det + normal_logpdf(flat)))


def _training_rows(preprocessing, X, weight, device):
    """Whiten rows chunk by chunk: to the device, or to a file if they are too many."""
    x = chunks.empty((len(X), X.shape[1] - preprocessing.n_flat_), np.float32)
    relative = chunks.empty((len(X),), np.float32)
    mean = weight.mean()
    for where, rows in chunks.in_float64(X):
        x[where] = _active(preprocessing, rows)
        relative[where] = weight[where] / mean
    tensors = torch.from_numpy(x), torch.from_numpy(relative)
    if chunks.fits_memory(x.shape, x.dtype):
        return Rows(*(tensor.to(device) for tensor in tensors))
    return Rows(*tensors, to=device)


def _moved(blocks, device, dtype):
    """Copies of blocks, somewhere else."""
    return [copy.deepcopy(block).to(device).to(dtype) for block in blocks]


def _fitted(preprocessing, crew, data, seed, base_nll=None):
    blocks = _moved(crew.flows[0], "cpu", torch.float32)
    return Fitted(
        preprocessing,
        blocks,
        data,
        seed,
        crew.rounds,
        base_nll,
        troubles=_troubles(crew),
    )


def _troubles(crew):
    troubles = [
        f"Block {k} was left out: its training exploded again and again, at ever "
        "smaller learning rates. Lower learning_rate_init or frequency, or look for "
        "extreme values in the data."
        for k in crew.broken
    ]
    if crew.interrupted:
        troubles.append(
            f"The training was interrupted. The model has the {len(crew.flows[0])} "
            "flow blocks that were finished."
        )
    return troubles


def _generator(rng):
    return torch.Generator().manual_seed(int(rng.randint(2**31 - 1)))
