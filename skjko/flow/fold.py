"""Training and held-out rows on their way through the blocks, and what they tell."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from functools import partial

import torch

from skjko.flow import objective
from skjko.flow.flow import in_chunks
from skjko.flow.rows import Rows

# Rows that the movement of a block is measured on.
_N_MOVED = 20_000


class Fold:
    """Training and held-out rows, where the blocks so far have pushed them.

    Parameters
    ----------
    train : Rows or callable
        A callable returns the rows, when somebody asks for them first: behind the last
        block of a flow nobody does.
    held_out : Rows or None
    log_det : Tensor of shape (n_held_out,)
        log|det| of all that happened to the held-out rows.
    """

    def __init__(self, train, held_out=None, log_det=None):
        self.held_out, self.log_det = held_out, log_det
        self._train = train

    @property
    def train(self):
        """Training rows, where they are."""
        if callable(self._train):
            self._train = self._train()
        return self._train

    @property
    def nll(self):
        """Negative log-likelihood of every held-out row if the flow ended here."""
        return objective.negative_log_likelihood(self.held_out.x, self.log_det)

    @torch.no_grad()
    def push_held_out(self, block):
        """Return the held-out rows and their log|det| behind one more block."""

        def solve(x, context):
            return block(x, context)[:2]

        rows = self.held_out
        y, log_det = in_chunks(solve, rows.x, rows.context)
        return Rows(y, rows.weight, rows.context), self.log_det + log_det

    def push(self, block):
        """Return the fold behind one more block."""
        held_out = self.push_held_out(block) if self.held_out else (None, None)
        return Fold(partial(_pushed, self.train, block), *held_out)

    def mean_squares(self, block, max_rows):
        """E|x - T(x)|^2 and E|T(x)|^2 of (about so many) training rows."""
        rows = self.train.some(max_rows)
        pushed = _pushed(rows, block)
        moved = objective.squared_displacement(rows.x, pushed.x)
        return rows.mean(moved), rows.mean(pushed.x.square().sum(1))


@torch.no_grad()
def _pushed(rows, block):
    return rows.mapped(block.push)


def _mean_and_error(values, weight):
    """Weighted mean of pooled rows and its standard error."""
    total = weight.sum()
    mean = torch.dot(values, weight) / total
    error = (weight * (values - mean)).square().sum().sqrt() / total
    return mean.item(), error.item()


def pooled(folds, values):
    """Mean over the held-out rows of all folds, with its standard error."""
    weight = torch.cat([fold.held_out.weight for fold in folds])
    return _mean_and_error(torch.cat(values), weight)


def movement(folds, blocks, max_rows=_N_MOVED):
    """Root mean square movement of (about so many) training rows of every fold."""
    pairs = zip(folds, blocks, strict=True)
    squares = [fold.mean_squares(block, max_rows)[0] for fold, block in pairs]
    return math.sqrt(sum(squares) / len(squares))


def movement_share(folds, blocks):
    """E|x - T(x)|^2 / E|T(x)|^2 over the training rows of the first fold."""
    moved, length = folds[0].mean_squares(blocks[0], _N_MOVED)
    return moved / length if length > 0 else 0.0
