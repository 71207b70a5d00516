"""Training and validation samples on their way through the blocks of a flow."""

# SPDX-License-Identifier: BSD-3-Clause

import math

import torch

from skjko.flow import objective
from skjko.flow.samples import Samples
from skjko.flow.stack import in_chunks

# Samples that the displacement of a block is measured on.
_N_DISPLACED = 4000


class Fold:
    """Training and validation samples, where the blocks so far have pushed them.

    Parameters
    ----------
    train : Samples or callable
        A callable returns the samples when they are first needed: behind the last block
        of a flow they never are.
    validation : Samples or None
    log_det : Tensor of shape (n_validation,)
        log|det| of everything before, for the validation samples.
    """

    def __init__(self, train, validation=None, log_det=None):
        self.validation, self.log_det = validation, log_det
        self._train = train

    @property
    def train(self):
        """Training samples."""
        if callable(self._train):
            self._train = self._train()
        return self._train

    def first_validation(self, n):
        """Return the fold with the first n validation samples, and no others."""
        if self.validation is None:
            return self
        return Fold(self._train, self.validation.first(n), self.log_det[:n])

    def nll(self, base):
        """Return -log p of every validation sample if the flow ended here."""
        return objective.negative_log_likelihood(base, self.validation.x, self.log_det)

    @torch.no_grad()
    def push_validation(self, block):
        """Return the validation samples and their log|det| behind one more block."""
        samples = self.validation
        y, log_det = in_chunks(
            lambda x, context: block(x, context)[:2], samples.x, samples.context
        )
        pushed = Samples(y, samples.weight, samples.context)
        return pushed, self.log_det + log_det

    def push(self, block):
        """Return the fold behind one more block."""
        validation, log_det = None, None
        if self.validation is not None:
            validation, log_det = self.push_validation(block)
        return Fold(lambda: self.train.map(block.push), validation, log_det)

    def mean_squares(self, block, n):
        """Return E|x - T(x)|^2 and E|T(x)|^2 of (at most n) training samples."""
        samples = self.train.some(n)
        pushed = samples.map(block.push)
        moved = objective.squared_displacement(samples.x, pushed.x)
        return samples.mean(moved), samples.mean(pushed.x.square().sum(1))


def displacement(folds, blocks):
    """Return the root mean squared displacement of training samples by a block."""
    pairs = zip(folds, blocks, strict=True)
    squares = [fold.mean_squares(block, _N_DISPLACED)[0] for fold, block in pairs]
    return math.sqrt(sum(squares) / len(squares))


def displacement_share(folds, blocks):
    """Return E|x - T(x)|^2 / E|T(x)|^2 over the training samples of the first fold."""
    moved, length = folds[0].mean_squares(blocks[0], _N_DISPLACED)
    return moved / length if length > 0 else 0.0


def pooled(folds, values):
    """Return the mean over the validation samples of all folds, and its error.

    Parameters
    ----------
    folds : list of Fold
    values : list of Tensor
        One value a validation sample, for every fold.

    Returns
    -------
    mean, standard_error : float
        Weighted. The error goes by the effective number of samples.
    """
    weight = torch.cat([fold.validation.weight for fold in folds])
    values, total = torch.cat(values), weight.sum()
    mean = torch.dot(values, weight) / total
    error = (weight * (values - mean)).square().sum().sqrt() / total
    return mean.item(), error.item()


def gain(folds, before, after):
    """Return the mean of before - after in its standard errors, paired by sample."""
    gains = [b - a for b, a in zip(before, after, strict=True)]
    mean, error = pooled(folds, gains)
    return mean / error if error > 0 else math.inf * mean if mean else 0.0
