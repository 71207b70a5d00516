"""What a training remembers of the blocks that it has trained, so that it can go on.

A training decides by nothing but its rows, its parameters, its random numbers and what
came of the blocks before. So it needs no account of where it was when it ended: it
starts from the beginning, takes the outcome of every block that is in its journal, and
trains the others.
"""

# SPDX-License-Identifier: BSD-3-Clause

from dataclasses import dataclass

import torch

from skjko.flow.fields import VelocityField
from skjko.flow.flow import Block


@dataclass(frozen=True)
class Task:
    """A block to train.

    Attributes
    ----------
    round, attempt : int
        Numbers of the round, and of the block among all that the round tries: those
        that do not stay count.
    kind : str
        GROW, REGULARIZE, REPARAMETERIZE or REFINE.
    block : int
        Its number in the flow, from 1 on.
    n_left : int
        Blocks that the round has left to try, this one included.
    step_size : float
        To start with.
    n_iter : int or None
        Iterations to train for; None lets the held-out rows decide.
    fields : list of VelocityField
        To start from, one a fold.
    states : list of Tensor
        Of the generators of all folds.
    """

    round: int
    attempt: int
    kind: str
    block: int
    n_left: int
    step_size: float
    n_iter: int | None
    fields: list[VelocityField]
    states: list[torch.Tensor]


@dataclass(frozen=True)
class Outcome:
    """What came of a task.

    Attributes
    ----------
    blocks : list of Block or None
        One a fold; None if they are not worth it.
    broken : bool
        Whether the training of one of them has been given up.
    step_size : float
        In the end.
    n_iter, n_planned, n_minibatches : int
        As in `BlockRecord` and `Round`.
    losses : list of float
        JKO objective of the first fold's batches.
    scores : list of (int, float)
        Iterations after which the held-out rows were scored, and what they said.
    seconds : float
        What the training took.
    states : list of Tensor
        Of the generators of all folds, afterwards.
    """

    blocks: list[Block] | None
    broken: bool
    step_size: float
    n_iter: int
    n_planned: int
    n_minibatches: int
    losses: list[float]
    scores: list[tuple[int, float]]
    seconds: float
    states: list[torch.Tensor]

    @property
    def overfits(self):
        """Whether the first of several scores was the best."""
        return len(self.scores) > 1 and self.n_iter == self.scores[0][0]


class Journal:
    """A journal that remembers nothing; others override all of it.

    Attributes
    ----------
    remembers : bool
        Whether what is recorded may be recalled.
    """

    remembers = False

    def part(self, name):
        """Return the journal of one of several crews."""
        return self

    def n_tasks(self, round_number):
        """Return how many tasks a round had time for, or None if it is not known."""
        return None

    def recall(self, task):
        """Return the outcome of a task, or None if it is not known."""
        return None

    def record(self, task, outcome):
        """Remember the outcome of a task."""
