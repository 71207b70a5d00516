"""What a fit starts from, and what it yields."""

# SPDX-License-Identifier: BSD-3-Clause

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from skjko.flow.records import Round
from skjko.flow.training_config import RoundsConfig, TrainingConfig
from skjko.model import Model
from skjko.selection import CandidateRecord
from skjko.support import Support
from skjko.transforms.base import Chain
from skjko.transforms.location_scale import LocationScale


@dataclass(frozen=True)
class FitConfig:
    """What there is to fit, and with what.

    Attributes
    ----------
    init : {"auto", "gaussian", "mixture"}
    transforms : "auto", None or list of Transform
    support : Support
    rounds : RoundsConfig
    validation_fraction : float or None
        None for no validation.
    new_field : callable
        `(n_features, generator) -> field`.
    training : TrainingConfig
    device : torch.device
    tol : float
        Tolerance of the scoring grids, in nats.
    location_scale : LocationScale or None
        What a conditional density starts with: the columns behind its targets are the
        condition.
    whitening : {"pca", "scale", "zca"}
        Method of the whitening, where the transforms have none.
    """

    init: str
    transforms: Any
    support: Support
    rounds: RoundsConfig
    validation_fraction: float | None
    new_field: Callable
    training: TrainingConfig
    device: torch.device
    tol: float
    location_scale: LocationScale | None = None
    whitening: Literal["pca", "scale", "zca"] = "pca"


@dataclass
class Fitted:
    """A fitted model, and what a later fit needs to go on from it.

    Attributes
    ----------
    model : Model
    start : str
        "gaussian" or "mixture": what stands in front of the blocks.
    divergence : str
        That of the training; see `RungeKutta`.
    parameters : dict
        Of the estimator.
    data : str
        Fingerprint of the samples, their weights and the validation samples.
    seed : int
        Splits the samples again as they were.
    rounds : list of Round
    base_scores : list of float
        Mean validation log-density before any block, and behind all of them and the
        base; empty without validation.
    candidates : list of CandidateRecord
    folds : list of (Chain, list of dict)
        Transforms and states of the blocks of every fold of cross-validation.
    failed : list of int
        Numbers of blocks that could not be trained.
    interrupted : bool
    """

    model: Model
    start: str
    divergence: str
    parameters: dict = field(default_factory=dict)
    data: str = ""
    seed: int = 0
    rounds: list[Round] = field(default_factory=list)
    base_scores: list[float] = field(default_factory=list)
    candidates: list[CandidateRecord] = field(default_factory=list)
    folds: list[tuple[Chain, list[dict]]] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    interrupted: bool = False

    def check(self, n_features):
        """Raise a ValueError if no fit to so many features can have had this."""
        model = self.model
        chains = [model.transforms, *(chain for chain, _ in self.folds)]
        steps = [step for chain in (*chains, model.base) for step in chain]
        if not (
            all(hasattr(step, "n_features_in_") for step in steps)
            and self.start in ("gaussian", "mixture")
            and model.n_features == n_features
            and all(chain.n_features_in_ == n_features for chain in chains)
            and (model.base.is_identity_ or model.base.n_features_in_ == model.n_active)
        ):
            raise ValueError("the parts of the model do not fit together")
        scored = [
            r.validation_score is not None for one in self.rounds for r in one.records
        ]
        if len(self.base_scores) not in (0, 2) or any(
            is_scored != bool(self.base_scores) for is_scored in scored
        ):
            raise ValueError("only some of the validation scores are there")

    def check_blocks(self, blocks):
        """Raise a ValueError if blocks are not those of the last accepted round."""
        accepted = [one for one in self.rounds if one.accepted]
        sizes = [r.step_size for r in accepted[-1].records] if accepted else []
        folds = [
            [state.get("step_size") for state in states] for _, states in self.folds
        ]
        if any(found != sizes for found in ([b.step_size for b in blocks], *folds)):
            raise ValueError("the blocks are not those of the last accepted round")
