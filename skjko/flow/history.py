"""What is told of the training: its rounds, their blocks, and events on the way."""

# SPDX-License-Identifier: BSD-3-Clause

from dataclasses import dataclass

GROW, REGULARIZE = "grow", "regularize"
REPARAMETERIZE, REFINE = "reparameterize", "refine"

ADDING = (GROW, REGULARIZE)
"""Rounds that add blocks, and may drop one; the others train again those there are."""


@dataclass(frozen=True)
class Event:
    """One report of the training: a block was scored, kept or dropped in a round."""

    kind: str
    round: str
    block: int
    n_iter: int
    validation_nll: float | None


def silent(event):
    """Ignore an event."""


@dataclass(frozen=True)
class BlockRecord:
    """What was decided about a block, and what training it looked like.

    `n_planned` are the iterations in which its learning rate would have gone to zero,
    `n_iter` those after which its weights were taken.
    """

    step_size: float
    n_iter: int
    n_planned: int
    movement: float
    losses: list[float]
    validation_nll: float | None = None


@dataclass(frozen=True)
class Round:
    """One pass of training: the blocks of the flow that it made, in order.

    Attributes
    ----------
    kind : str
        GROW, REGULARIZE, REPARAMETERIZE or REFINE.
    records : list of BlockRecord
        Of all blocks after the round.
    n_kept : int
        How many of them, from the first on, the round took over untrained.
    accepted : bool
        Whether the flow that it made stays, or the one from before it.
    n_minibatches : int
        Minibatches that the round used in all folds, those of dropped blocks too.
    """

    kind: str
    records: list[BlockRecord]
    n_kept: int
    accepted: bool
    n_minibatches: int
