"""What is known of the training: its rounds, and their blocks."""

# SPDX-License-Identifier: BSD-3-Clause

from dataclasses import dataclass, replace


@dataclass
class BlockRecord:
    """What training a block came to; the iterations as in `BlockResult`.

    Of `n_iter` and `n_planned`, `n_pretrained` were run before its round.
    """

    step_size: float
    n_iter: int
    n_planned: int
    displacement: float
    losses: list[float]
    validation_score: float | None = None
    n_pretrained: int = 0

    def was_best_within(self, share):
        """Return whether the best weights came in this share of its round."""
        n_planned = self.n_planned - self.n_pretrained
        return self.n_iter - self.n_pretrained <= share * n_planned


@dataclass
class Round:
    """One round of training.

    Attributes
    ----------
    kind : str
        "grow", "extend", "regularize", "reparameterize" or "refine".
    records : list of BlockRecord
        Of all blocks after the round.
    n_kept : int
        How many of them, from the first on, were not trained in the round.
    accepted : bool
        Whether the flow of the round is kept, or the one before it.
    n_minibatches : int
        Minibatches of all folds, those of dropped blocks included.
    """

    kind: str
    records: list[BlockRecord]
    n_kept: int
    accepted: bool
    n_minibatches: int

    def with_scores(self, decided):
        """Return the round with the validation scores of when it was decided."""
        records = [
            replace(record, validation_score=other.validation_score)
            # Fewer were trained where the training was interrupted.
            for record, other in zip(self.records, decided.records, strict=False)
        ]
        n_minibatches = self.n_minibatches + decided.n_minibatches
        return replace(self, records=records, n_minibatches=n_minibatches)
