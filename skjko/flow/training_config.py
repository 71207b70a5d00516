"""Settings of the training of a flow."""

# SPDX-License-Identifier: BSD-3-Clause

from dataclasses import dataclass, field, replace

from skjko.flow.base import StandardNormal

# A block in place of those that overfit has at least so much weight decay, and a
# learning rate so many times as high: decay is relative to it.
_LEAST_DECAY, _FASTER = 0.5, 2.0


@dataclass(frozen=True)
class RoundsConfig:
    """Which rounds of training there are.

    Attributes
    ----------
    step_sizes : tuple of float
        Of the blocks to grow.
    n_reparameterizations, n_refinements : int
        Largest numbers of rounds.
    max_step_size : float
        Cap of reparameterized step sizes.
    """

    step_sizes: tuple[float, ...]
    n_reparameterizations: int
    n_refinements: int
    max_step_size: float


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of the training; names and meanings as in `JKOFlowDensity`."""

    max_iter: int = 500
    batch_size: int = 1000
    learning_rate: float = 1e-2
    alpha: float = 0.0
    n_steps: int = 2
    divergence: str = "exact"
    n_probes: int = 1
    probe_scale: float = 0.01
    movement_tol: float = 0.01
    # Weight of the solver's error estimate in the loss, and how far interior grid
    # points move at random, as a share of the spacing: together they keep a field from
    # exploiting the coarse grid that it is trained on.
    error_weight: float = 2.0
    grid_jitter: float = 0.3
    # Share of the training in which the learning rate rises; evaluations on validation
    # samples, and how many in a row may be no better.
    warm_up: float = 0.05
    n_evaluations: int = 10
    patience: int = 5
    # Iterations of pretraining between evaluations: few samples overfit within tens.
    pretraining_stride: int = 10
    # Largest share that the running average of the weights keeps in an iteration.
    averaging: float = 0.98
    max_grad_norm: float = 10.0
    # Whether Muon trains the matrices between hidden layers, and their learning rate
    # over that of the others.
    muon: bool = True
    muon_rate: float = 10.0
    # Iterations between copies of the weights to return to, and how often a block may
    # return, each time to half the learning rate, before it is given up.
    keep_every: int = 20
    max_rollbacks: int = 8
    # Standard errors that the blocks have to gain before one is tried in place of those
    # that overfit: it gains up to a quarter of that on top (benchmarks/NOTES.md).
    regularized_from: float = 4.0
    # Mean gain in nats that may be the solver's error before its steps are doubled.
    max_solver_gain: float = 2.0
    base: StandardNormal = field(default_factory=StandardNormal)

    @property
    def is_regularized(self):
        """Whether weights decay as much as in place of blocks that overfit."""
        return self.alpha >= _LEAST_DECAY

    def regularized(self):
        """Return the settings of a block in place of those that overfit."""
        alpha = max(self.alpha, _LEAST_DECAY)
        return replace(self, alpha=alpha, learning_rate=_FASTER * self.learning_rate)
