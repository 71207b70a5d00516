"""From validated arrays to a trained flow: block 0, folds, and the scoring grids."""

# SPDX-License-Identifier: BSD-3-Clause

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.utils import check_random_state

from skjko import chunks, splitting
from skjko.flow import accuracy, history, scheme
from skjko.flow.flow import Block
from skjko.flow.journal import Journal
from skjko.flow.pace import Deadline
from skjko.flow.training import Options
from skjko.preprocessing import Preprocessing
from skjko.splitting import GAUSSIAN_ROWS, held_out_splits
from skjko.start import Start, active, fold, whitened
from skjko.support import Support

# Rows of each of the sets of points on which the scoring grids are chosen.
N_PROBES = 256


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
    radial : bool
        Whether a radial map is tried, where mixtures are.
    mixture_work : float
        Floating-point operations that mixtures in block 0 may take, 0 for no mixture.
        Not seconds: a fit that goes on from a checkpoint has to come to the same
        mixture.
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
    radial: bool
    mixture_work: float
    journal: Journal

    def crew(
        self, folds, rng, flows=None, rounds=(), share=1.0, part="all", fields=None
    ):
        """Return a crew with some blocks to start from, here in training precision.

        It gets a share of the time that is left, a part of the journal, and what the
        first block begins with if there is none yet.
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
            fields,
        )

    def do(self, crew):
        """Let a crew do all of it, if there is time, and a direction to move rows in.

        What a journal remembers has had its time.
        """
        has_time = self.deadline.left > 0 or self.journal.remembers
        if crew.interrupted or not has_time:
            return
        if all(fold.train.x.shape[1] for fold in crew.folds):
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
    start = Start(splits, work, rng, seed, earlier)
    if len(splits) == 1:
        held_out = splits[0][1]
        flows = earlier and [earlier.blocks]
        crew = work.crew(start.folds, rng, flows, rounds, fields=start.fields)
        crew.interrupted = start.interrupted
        preprocessing = start.preprocessings[0]
        # What may be two copies of all rows has done its work.
        start = start if start.may_fall_back else None
        del X, splits
        work.do(crew)
        if start and start.falls_back(crew):
            preprocessing = start.preprocessings[0]
            crew = _behind_mixtures(start, work, rng)
        return _fitted(preprocessing, crew, data, seed, crew.base_nll), held_out[0]

    def of_all(preprocessing, flows=None, rounds=()):
        """A crew of all rows, none of which are held out."""
        folds = [fold(preprocessing, (X, weight), None, work.device)]
        return work.crew(folds, rng, flows, rounds)

    preprocessing = (
        start.preprocessing(X, weight) if earlier is None else earlier.preprocessing
    )
    crew = of_all(preprocessing, earlier and [earlier.blocks], rounds)
    if not splits:
        work.do(crew)
        return _fitted(preprocessing, crew, data, seed), X
    share = len(splits) / (len(splits) + 1)
    deciding = work.crew(
        start.folds, rng, earlier and earlier.fold_flows, rounds, share, "folds"
    )
    deciding.interrupted = start.interrupted
    work.do(deciding)
    if start.falls_back(deciding):
        preprocessing = start.preprocessing(X, weight)
        crew = of_all(preprocessing)
        deciding = _behind_mixtures(start, work, rng, share)
    crew.follow(deciding.rounds[len(rounds) :])
    fitted = _fitted(preprocessing, crew, data, seed, deciding.base_nll)
    fitted.fold_flows = [
        _moved(flow[: len(fitted.blocks)], "cpu", torch.float32)
        for flow in deciding.flows
    ]
    fitted.troubles += [t for t in _troubles(deciding) if t not in fitted.troubles]
    return fitted, np.concatenate([held_out[0] for _, held_out in splits])


def _behind_mixtures(start, work, rng, share=1.0):
    """A crew that has trained behind mixtures, after one that was worse than these."""
    crew = work.crew(start.folds, rng, share=share, part="behind mixtures")
    work.do(crew)
    return crew


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
        active(preprocessing, rows),
        whitened(preprocessing, farthest),
        own,
        whitened(preprocessing, box),
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
