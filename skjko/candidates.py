"""Candidates of the selection: transforms, on every split, and what stands behind."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from sklearn.base import clone

from skjko.data import chunks
from skjko.flow.base import StandardNormal
from skjko.flow.flow_trainer import FlowTrainer
from skjko.flow.folds import Fold, gain, pooled
from skjko.flow.mixture_growth import (
    STRONG_PRIOR,
    WEAK_PRIOR,
    Growth,
    Operations,
    Part,
    choose,
    mixture_of,
)
from skjko.flow.run import Task
from skjko.flow.samples import Samples
from skjko.transforms.base import Chain, normal_log_prob
from skjko.transforms.mixture_map import MixtureMap

_BASE = StandardNormal()
# The largest coordinate of a validation sample in a direction in which the training
# samples do not vary: they may lack what only other splits have.
_FARTHEST = 10.0


class Candidate:
    """Transforms in front of a flow, fitted on every split, with what they gained.

    Parameters
    ----------
    name : str
        Of the transforms; part of the keys of all tasks.
    chains : list of Chain
        Fitted, one for every split.
    folds : list of Fold
        Training and validation samples behind them.
    n_samples : int
        Number of training samples in the first fold.

    Attributes
    ----------
    growth : list of Growth
        Of a mixture in front of the flow; of two where a stronger prior is tried too.
    n_components : int
        Number of components of the mixture in front; 1 for none.
    has_mixture : bool
        Whether the last transform is that mixture.
    losses : list of Tensor
        -log p of the validation samples by what the candidate has reached.
    """

    def __init__(self, name, chains, folds, n_samples):
        self.name, self.chains, self.folds = name, chains, folds
        self.n_samples = n_samples
        self.growth, self.n_components, self._n_slices = [], 1, 0
        self.trainer, self.has_mixture, self._rate = None, False, 0.0
        self.losses = [fold.nll(_BASE) for fold in folds]

    def __repr__(self):
        return f"Candidate({self.name!r}, score={self.score:.4f})"

    @property
    def score(self):
        """Mean validation log-density, in nats."""
        return -pooled(self.folds, self.losses)[0]

    def plain_score(self):
        """Mean validation log-density without any block, in nats."""
        return -pooled(self.folds, [fold.nll(_BASE) for fold in self.folds])[0]

    def use_all(self, pairs, device):
        """Train on all samples from now on, where selection looked at some of them."""
        for i, ((X, weight), _) in enumerate(pairs):
            fold, chain = self.folds[i], self.chains[i]
            if len(X) > self.n_samples:

                def train(chain=chain, X=X, weight=weight):
                    return train_samples(chain, X, weight, device)

                self.folds[i] = Fold(train, fold.validation, fold.log_det)

    def gain_over(self, other):
        """Return the mean validation gain over another candidate, in its errors."""
        return gain(self.folds, other.losses, self.losses)

    # ------------------------------------------------------------------- mixture

    def grow_mixture(self, run, share, operations):
        """Grow a mixture behind the transforms, from where it is; update the losses.

        Parameters
        ----------
        run : Run
        share : float
            Of the time left.
        operations : float
            Largest number of floating-point operations.
        """
        key = f"{self.name}/mixture/{self._n_slices}"
        task = Task(key, share, {"kind": "mixture"})
        self._n_slices += 1
        self.growth = grow(self.folds, self.growth, operations, run, task)
        best = choose(self.growth)
        plain = [fold.nll(_BASE) for fold in self.folds]
        mixed = [
            loss - _gain_of(best.mixture(i), fold.validation.x)
            for i, (loss, fold) in enumerate(zip(plain, self.folds, strict=True))
        ]
        # Less than its standard error is no gain.
        gains = best.n_components > 1 and gain(self.folds, plain, mixed) > 1
        self.n_components = best.n_components if gains else 1
        self.losses = mixed if gains else plain

    def behind(self, transform, name):
        """Return the candidate behind one more transform; None if it changes nothing.

        The transform is fitted to what comes out of those before it.
        """
        chains, folds = [], []
        for chain, fold in zip(self.chains, self.folds, strict=True):
            samples = fold.train
            x = samples.x.double().cpu().numpy()
            one = clone(transform).fit(x, samples.weight.double().cpu().numpy())
            if one.is_identity_:
                return None
            chains.append(Chain([*chain, one]))
            folds.append(_mapped(fold, one))
        return Candidate(f"{self.name}+{name}", chains, folds, self.n_samples)

    def behind_mixture(self, run):
        """Return the candidate with its mixture as one more transform.

        A mixture of one component is none.
        """
        if self.n_components == 1:
            return self
        best = choose(self.growth)
        task = Task(f"{self.name}/mixture/last", 1.0, {"kind": "mixture"})

        def compute(budget, generator):
            return [list(best.best(i)) for i in range(len(self.folds))]

        maps = [MixtureMap.of(mixture_of(parts)) for parts in run.do(task, compute)]
        chains = [
            Chain([*chain, one]) for chain, one in zip(self.chains, maps, strict=True)
        ]
        folds = [_mapped(f, one) for f, one in zip(self.folds, maps, strict=True)]
        candidate = Candidate(f"{self.name}+mixture", chains, folds, self.n_samples)
        candidate.growth, candidate.has_mixture = self.growth, True
        return candidate

    # ------------------------------------------------------------------- flow

    def start_flow(self, new_field, config, run):
        """Make the trainer of a flow behind the transforms."""
        self.trainer = FlowTrainer(self.folds, new_field, config, run, self.name)

    def pretrain(self, share, n_iter):
        """Train a first block for some time, from where it is; update the losses."""
        trainer = self.trainer
        n_before, before = trainer.n_pretrained, trainer.score
        self.losses = trainer.pretrain(share, n_iter)
        if trainer.n_pretrained > n_before > 0:
            more = math.log(trainer.n_pretrained / n_before)
            self._rate = max(trainer.score - before, 0.0) / more

    def may_reach(self, score, run, share):
        """Return whether a block that is trained on may come to a validation score.

        Parameters
        ----------
        score : float
        run : Run
        share : float
            Of the time left, for the training.

        Notes
        -----
        The gain falls in the logarithm of the iterations: to go on at the latest rate
        is the most that can be hoped for.
        """
        trainer, n_done = self.trainer, self.trainer.n_pretrained
        task = Task(f"{trainer.name}/pretrain/{n_done}/plan", share, {"kind": "plan"})

        def affordable(budget, generator):
            if math.isinf(budget.seconds):
                return trainer.config.max_iter
            return int(budget.seconds / trainer.seconds)

        n_left = run.do(task, affordable) if n_done else 0
        if n_left <= 0:
            return False
        return self.score + self._rate * math.log(1 + n_left / n_done) > score

    def try_base(self, run, name, share, operations, n_samples=None):
        """Fit a mixture to the latents; update the losses, and return if it gains.

        Parameters
        ----------
        run : Run
        name : str
            Of the trial, among those behind the same block.
        share : float
            Of the time left.
        operations : float
            Largest number of floating-point operations.
        n_samples : int, optional
            Largest number of training samples; all by default.
        """
        key = f"{self.name}/base/{name}/{self.trainer.n_slices}"
        folds = self.trainer.behind_some(n_samples or len(self.folds[0].train))
        task = Task(key, share, {"kind": "base"})
        growth = choose(grow(folds, [], operations, run, task))
        losses = [
            loss - _gain_of(growth.mixture(i), fold.validation.x)
            for i, (loss, fold) in enumerate(
                zip(self.trainer.losses(), folds, strict=True)
            )
        ]
        if growth.n_components == 1 or gain(folds, self.losses, losses) <= 1:
            return False
        self.losses = losses
        return True


def grow(folds, growth, operations, run, task):
    """Return growths of a mixture that went on, as a task, for some operations.

    With few samples a component, a stronger prior is tried as well.
    """
    parts = [(as_part(fold.train), as_part(fold.validation)) for fold in folds]

    def compute(budget, generator):
        left = Operations(operations, budget)
        growths = list(growth) or [Growth(parts, WEAK_PRIOR)]
        for one in growths:
            one.advance(left)
        if len(growths) == 1 and growths[0].finished and growths[0].is_sparse:
            growths.append(Growth(parts, STRONG_PRIOR))
            growths[1].advance(left)
        return [one.get_state() for one in growths]

    states = run.do(task, compute)
    return [Growth(parts, state["prior_samples"], state) for state in states]


def fold_of(chain, X, weight, validation, device, mapped=None):
    """Return the fold of samples behind a chain.

    Parameters
    ----------
    chain : Chain
    X : ndarray of shape (n, d)
        Training samples in data units.
    weight : ndarray of shape (n,)
    validation : tuple of ndarray or None
        Validation samples in data units, and their weights.
    device : torch.device
    mapped : ndarray of shape (n, d), optional
        The training samples behind the chain, where they are known.
    """
    train = train_samples(chain, X, weight, device, mapped)
    if validation is None:
        return Fold(train)
    V, val_weight = validation
    Y, log_det = chain.forward(V)
    n_active, end = V.shape[1] - chain.n_degenerate_, V.shape[1] - chain.n_context_
    off = np.clip(Y[:, n_active:end], -_FARTHEST, _FARTHEST)
    log_det = log_det + normal_log_prob(off)
    to = partial(torch.as_tensor, dtype=torch.float32, device=device)
    samples = Samples(
        to(Y[:, :n_active].copy()),
        to(val_weight / val_weight.mean()),
        to(Y[:, end:].copy()) if chain.n_context_ else None,
    )
    return Fold(train, samples, to(log_det))


def train_samples(chain, X, weight, device, mapped=None):
    """Return samples behind a chain in single precision, on the device or on disk."""
    n_active, end = X.shape[1] - chain.n_degenerate_, X.shape[1] - chain.n_context_
    x = chunks.empty((len(X), n_active), np.float32)
    relative = chunks.empty((len(X),), np.float32)
    context = chunks.empty((len(X), chain.n_context_), np.float32)
    mean = weight.mean()
    for where, rows in chunks.in_float64(X):
        Y = chain.forward(rows)[0] if mapped is None else mapped[where]
        x[where] = Y[:, :n_active]
        relative[where] = weight[where] / mean
        context[where] = Y[:, end:]
    tensors = [torch.from_numpy(x), torch.from_numpy(relative)]
    if chain.n_context_:
        tensors.append(torch.from_numpy(context))
    if chunks.fits_memory(x.shape, x.dtype):
        return Samples(*(tensor.to(device) for tensor in tensors))
    return Samples(*tensors, to=device)


def _mapped(fold, one):
    """The fold behind one more transform of the features that are not degenerate."""

    def forward(x, context=None):
        return torch.from_numpy(one.forward(x.double().cpu().numpy())[0]).to(x)

    x = fold.validation.x
    Y, log_det = one.forward(x.double().cpu().numpy())
    validation = replace(fold.validation, x=torch.from_numpy(Y).to(x))
    total = fold.log_det + torch.from_numpy(log_det).to(x)
    return Fold(lambda: fold.train.map(forward), validation, total)


def as_part(samples):
    """Return samples in double precision on the CPU, for mixtures."""
    return Part(samples.x.double().cpu(), samples.weight.double().cpu())


def _gain_of(mixture, x):
    """Gain in log-density of a mixture over the standard normal."""
    values = x.double().cpu()
    return (mixture.log_prob(values) - _BASE.log_prob(values)).to(x)
