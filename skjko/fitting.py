"""From validated arrays to a fitted model."""

# SPDX-License-Identifier: BSD-3-Clause

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state

from skjko.candidates import Candidate, as_part, fold_of, grow
from skjko.data import chunks, repeats, splits
from skjko.fitted import Fitted
from skjko.flow import step_selection
from skjko.flow.base import StandardNormal
from skjko.flow.blocks import Block
from skjko.flow.flow_trainer import FlowTrainer
from skjko.flow.folds import pooled
from skjko.flow.mixture_growth import Part, choose
from skjko.flow.run import Task
from skjko.flow.stack import Flow
from skjko.model import Model
from skjko.selection import CandidateRecord, Selection, fit_chain, plain_candidate
from skjko.transforms.asinh import Asinh
from skjko.transforms.base import Chain
from skjko.transforms.mixture_map import MixtureMap
from skjko.transforms.whitening import Whitening

# Samples in each of the sets of points on which the scoring grids are chosen.
N_POINTS = 256
# Floating-point operations of a mixture that grows until validation gains no more, and
# of the first trial of one as the base.
_OPERATIONS, _TRIAL_OPERATIONS = 2e12, 3e10
# Shares of the time left: of the mixture in front, of the flow where a mixture may be
# its base, and of the trial of one.
_MIXTURE_SHARE, _FLOW_SHARE, _TRIAL_SHARE = 0.7, 0.6, 0.2

_BASE = StandardNormal()


def fit(X, weight, X_val, groups, config, run, seed, earlier=None):
    """Fit a model, or train the flow of an earlier one on.

    Parameters
    ----------
    X : ndarray of shape (n, d)
    weight : ndarray of shape (n,)
        Positive.
    X_val : ndarray of shape (n_val, d) or None
        Validation samples in place of a part of X.
    groups : ndarray of int of shape (n,) or None
        Samples of one group stay together.
    config : FitConfig
    run : Run
    seed : int
        Of the splits.
    earlier : Fitted or None
        Of the same samples.

    Returns
    -------
    fitted : Fitted
    points : ndarray
        Samples on which the scoring grids may be chosen.
    """
    data = chunks.fingerprint(X, weight, X_val, groups)
    run.group.check({"samples": data})
    if earlier is not None and earlier.data != data:
        raise ValueError(
            "With warm_start=True, fit goes on from the fit before it on the same "
            "samples, weights and X_val. These are others. Set warm_start=False to "
            "start again."
        )
    X, X_val = _dequantized(X, X_val, config.support, seed)
    few = repeats.effective_number(weight, groups) <= splits.GAUSSIAN_SAMPLES
    if config.validation_fraction is None or few:
        run.report(None, "split", n_folds=0, points=lambda: X)
        fitted = _without_validation(X, weight, config, run, earlier, few)
        return replace(fitted, data=data, seed=seed), X
    pairs = splits.train_validation_splits(
        X, weight, X_val, config.validation_fraction, check_random_state(seed), groups
    )

    def points():
        return np.concatenate([validation for _, (validation, _) in pairs])

    run.report(None, "split", n_folds=len(pairs), points=points)
    interrupted = False
    try:
        chosen = _chosen(pairs, config, run, earlier)
    except KeyboardInterrupt:
        if run.group.size > 1:
            # The others may be elsewhere.
            raise
        interrupted, chosen = True, Chosen(plain_candidate(pairs, config), "gaussian")
    result = _trained(chosen, pairs, config, run, earlier, interrupted)
    fallback = chosen.fallback
    if fallback and not result.trainer.ended and fallback.score > result.score:
        # If the trained flow scores worse than the mixture, the mixture is used.
        records = _reached(chosen.records, result.score)
        chosen = _with_mixture(fallback, "mixture", records, config, run)
        result = _trained(chosen, pairs, config, run, None, False)
    fitted = Fitted(
        _model(config, chosen.candidate.chains[0], result.trainer.flows[0], Chain([])),
        chosen.start,
        config.training.divergence,
        data=data,
        seed=seed,
        rounds=result.trainer.rounds,
        base_scores=[result.before, result.score],
        candidates=_reached(chosen.records, result.score),
        failed=result.trainer.failed,
        interrupted=result.trainer.interrupted,
    )
    if len(pairs) > 1:
        fitted = _on_all(X, weight, config, run, earlier, chosen, result, fitted)
    else:
        fitted.model.base = _base_of(result.growth, lambda: result.growth.best())
    return fitted, points()


def _dequantized(X, X_val, support, seed):
    """Discrete values with noise: the same in every fit that goes on."""
    noise = np.random.RandomState([seed, 1])
    X = support.dequantize(X, noise)
    return X, None if X_val is None else support.dequantize(X_val, noise)


@dataclass
class Result:
    """What the training of a flow behind a candidate came to.

    Attributes
    ----------
    trainer : FlowTrainer
    growth : Growth or None
        Of the base.
    before, score : float
        Mean validation log-density before any block, and in the end.
    """

    trainer: FlowTrainer
    growth: Any
    before: float
    score: float


def _trained(chosen, pairs, config, run, earlier, interrupted):
    """Train the flow behind a candidate, and fit its base."""
    candidate, growth = chosen.candidate, None
    candidate.use_all(pairs, config.device)
    trainer = _trainer(candidate, config, run, earlier)
    trainer.interrupted = interrupted
    plain = candidate.plain_score()
    front = candidate.chains[0], chosen.start, chosen.records
    _tell(run, config, *front, plain)
    # Cross-validation is followed by a training on all samples.
    share = len(pairs) / (len(pairs) + 1) if len(pairs) > 1 else 1.0
    rounds = config.rounds
    if chosen.may_have_base:
        # What is finer than one smooth block is left to the base.
        trainer.config = trainer.config.regularized()
        rounds = replace(rounds, step_sizes=rounds.step_sizes[-1:])
    if _can_train(trainer):
        trainer.train(rounds, share * (_FLOW_SHARE if chosen.may_have_base else 1.0))
    if chosen.may_have_base and not trainer.ended:
        growth = _base_growth(trainer, config, run, share)
    score = trainer.score
    if growth is not None:
        # Of the latents, where the blocks and all before them have a log-determinant.
        gain = float(growth.scores) - _latent_score(trainer)
        score, growth = (score + gain, growth) if gain > 0 else (score, None)
    return Result(trainer, growth, plain, score)


def _latent_score(trainer):
    """Mean log-density of the latent validation samples by a standard normal base."""
    folds = trainer.behind
    return pooled(folds, [_BASE.log_prob(fold.validation.x) for fold in folds])[0]


def _on_all(X, weight, config, run, earlier, chosen, result, fitted):
    """Fit the model of cross-validation to all samples, by what it decided."""
    candidate, decided, growth = chosen.candidate, result.trainer, result.growth
    if earlier is None:
        steps = list(candidate.chains[0])
        maps = steps[:-1] if candidate.has_mixture else steps
        chain, mapped = Chain(maps).fit_forward(X, weight)
        if candidate.has_mixture:
            n_active = mapped.shape[1] - chain.n_degenerate_
            x = torch.tensor(mapped[:, :n_active])
            part = Part(x, torch.tensor(weight / weight.mean()))
            mixture = choose(candidate.growth).grown_again(part)
            chain = Chain([*chain, MixtureMap.of(mixture)])
    else:
        chain = earlier.model.transforms
    fold = fold_of(chain, X, weight, None, config.device)
    flows = None if earlier is None else [_blocks(earlier.model.flow, config)]
    n_before = 0 if earlier is None else len(earlier.rounds)
    trainer = FlowTrainer(
        [fold],
        config.new_field,
        config.training,
        run,
        "all",
        flows,
        decided.rounds[:n_before],
    )
    _tell(run, config, chain, chosen.start)
    trainer.follow(decided.rounds[n_before:])

    def of_all():
        samples = trainer.behind[0].train
        return growth.grown_again(as_part(samples))

    base = _base_of(growth, of_all)
    folds = [
        (chain, [block.get_state() for block in flow])
        for chain, flow in zip(candidate.chains, decided.flows, strict=True)
    ]
    return replace(
        fitted,
        model=_model(config, chain, trainer.flows[0], base),
        rounds=trainer.rounds,
        folds=folds,
        failed=[*fitted.failed, *trainer.failed],
        interrupted=fitted.interrupted or trainer.interrupted,
    )


def _without_validation(X, weight, config, run, earlier, few):
    """Train all blocks for all iterations, on all samples."""
    if earlier is not None:
        chain, start = earlier.model.transforms, earlier.start
    else:
        maps = config.transforms if isinstance(config.transforms, list) else []
        if config.transforms == "auto" and not few:
            maps = [Asinh()]
        chain, mapped = fit_chain(config, maps, X, weight)
        start = "gaussian"
        n_active = mapped.shape[1] - chain.n_degenerate_
        if config.init == "mixture" and n_active and not few:
            one = MixtureMap().fit(mapped[:, :n_active], weight)
            chain, start = Chain([*chain, one]), "mixture"
    trainer = FlowTrainer(
        [fold_of(chain, X, weight, None, config.device)],
        config.new_field,
        config.training,
        run,
        "all",
        None if earlier is None else [_blocks(earlier.model.flow, config)],
        [] if earlier is None else earlier.rounds,
    )
    _tell(run, config, chain, start)
    if not few and _can_train(trainer):
        trainer.train(config.rounds, 1.0)
    return Fitted(
        _model(config, chain, trainer.flows[0], Chain([])),
        start,
        config.training.divergence,
        rounds=trainer.rounds,
        failed=trainer.failed,
        interrupted=trainer.interrupted,
    )


def _tell(run, config, chain, start, candidates=(), score=None):
    """Tell listeners what stands in front of the blocks that come.

    With it go the candidates of the selection, the validation score before any block,
    and a function that makes the model of some blocks.
    """

    def model(blocks):
        return _model(config, chain, blocks, Chain([]))

    run.report(
        None,
        "selected",
        chain=chain,
        start=start,
        candidates=list(candidates),
        score=score,
        model=model,
        divergence=config.training.divergence,
    )


@dataclass
class Chosen:
    """A candidate that was chosen, what stands in front of its flow, and the others."""

    candidate: Candidate
    start: str
    may_have_base: bool = False
    records: list[CandidateRecord] = field(default_factory=list)
    fallback: Candidate | None = None


def _chosen(pairs, config, run, earlier):
    """Select a candidate, or take that of an earlier fit."""
    if earlier is not None:
        chains = [chain for chain, _ in earlier.folds] or [earlier.model.transforms]
        folds = [
            fold_of(chain, X, weight, validation, config.device)
            for chain, ((X, weight), validation) in zip(chains, pairs, strict=True)
        ]
        candidate = Candidate("earlier", chains, folds, len(pairs[0][0][0]))
        has_base = not earlier.model.base.is_identity_
        return Chosen(candidate, earlier.start, has_base, earlier.candidates)
    selection = Selection(pairs, config, run)
    candidate, start = selection.choose()
    if start == "mixture":
        return _with_mixture(candidate, start, selection.records, config, run)
    return Chosen(
        candidate, start, selection.base_gains, selection.records, selection.fallback
    )


def _reached(records, score):
    """Records with the score that the chosen candidate reached in the end."""
    return [replace(r, score=score) if r.chosen else r for r in records]


def _with_mixture(candidate, start, records, config, run):
    """A candidate behind its mixture, which grows until validation gains no more."""
    candidate.grow_mixture(run, _MIXTURE_SHARE, _OPERATIONS)
    candidate = candidate.behind_mixture(run)
    records = [
        replace(record, chosen=record.start == start) if start == "mixture" else record
        for record in records
    ]
    return Chosen(candidate, start, False, records)


def _trainer(candidate, config, run, earlier):
    """The trainer of a candidate's flow, where it is."""
    if candidate.trainer is not None:
        candidate.trainer.use(candidate.folds)
        return candidate.trainer
    flows = None if earlier is None else _earlier_flows(earlier, config)
    return FlowTrainer(
        candidate.folds,
        config.new_field,
        config.training,
        run,
        candidate.name,
        flows,
        () if earlier is None else earlier.rounds,
    )


def _earlier_flows(earlier, config):
    """The blocks of an earlier fit, for every fold."""
    blocks = earlier.model.flow.blocks
    if not earlier.folds:
        return [_blocks(earlier.model.flow, config)]
    return [
        [Block.from_state(one, b.field) for one, b in zip(states, blocks, strict=True)]
        for _, states in earlier.folds
    ]


def _can_train(trainer):
    """Whether there are features that blocks can move, and no interruption."""
    return not trainer.ended and all(f.train.x.shape[1] for f in trainer.folds)


def _base_growth(trainer, config, run, share):
    """Grow a mixture on the latents, if that pays; else train the flow on."""
    name, folds = trainer.name, trainer.behind
    info = {"kind": "base"}
    task = Task(f"{name}/base/trial", _TRIAL_SHARE, info)
    growths = grow(folds, [], _TRIAL_OPERATIONS, run, task)
    if choose(growths).n_components == 1:
        trainer.extend(share)
        return None
    task = Task(f"{name}/base", share, info)
    return choose(grow(folds, growths, _OPERATIONS, run, task))


def _base_of(growth, mixture):
    """The chain from the base to the standard normal."""
    if growth is None:
        return Chain([])
    return Chain([MixtureMap.of(mixture())])


def _blocks(flow, config):
    """Copies of blocks, in training precision on the device of the training."""
    return [copy.deepcopy(block).to(config.device).float() for block in flow.blocks]


def _model(config, chain, blocks, base):
    flow = Flow([copy.deepcopy(block) for block in blocks])
    flow = flow.to("cpu").to(torch.float64).requires_grad_(False)
    return Model(config.support, chain, flow, base)


def choose_steps(model, points, X, seed, tol):
    """Choose the scoring grids; return the discretization errors that are left.

    Four sets of points: validation samples, the training samples that are farthest from
    their mean, own samples, and a box three times as wide as the data, where single
    features are mapped (it has no end at a bound there).
    """
    if not len(model.flow):
        return []
    rng = np.random.RandomState(seed)
    if len(points) > N_POINTS:
        points = points[splits.draw(len(points), N_POINTS, rng)]
    steps = list(model.transforms)
    at = next(i for i, step in enumerate(steps) if isinstance(step, Whitening))
    columns, rest = Chain(steps[:at]), Chain(steps[at:])
    whitening, n_active, n_targets = Chain([steps[at]]), model.n_active, model.n_targets
    low, high = np.inf, -np.inf
    farthest = np.empty((0, X.shape[1]))
    for _, part in chunks.in_float64(X):
        Y, _ = columns.forward(model.support.atoms.open(part))
        low, high = np.minimum(low, Y.min(axis=0)), np.maximum(high, Y.max(axis=0))
        Y = np.concatenate([farthest, Y]) if len(farthest) else Y
        lengths = np.square(whitening.forward(Y)[0][:, :n_active]).sum(axis=1)
        farthest = Y[np.argsort(-lengths, kind="stable")[: N_POINTS // 4]]
    centre, half = low + (high - low) / 2, (high - low) / 2
    box = centre + 3 * half * rng.uniform(-1, 1, (N_POINTS, X.shape[1]))
    latent = torch.as_tensor(rng.standard_normal((N_POINTS, n_active)))
    # A condition has values of its own, but not three times as far out.
    given = columns.forward(points)[0]
    given = given[rng.randint(len(given), size=N_POINTS), n_targets:]
    box[:, n_targets:] = given
    # About where samples are; the same whatever grids the flow came with.
    for block in model.flow.blocks:
        block.n_steps = 4
    mapped = [rest.forward(Y)[0] for Y in (columns.forward(points)[0], farthest, box)]
    sets = [torch.tensor(Y[:, :n_active]) for Y in mapped]
    given, context = torch.tensor(given), None
    if model.n_context:
        contexts = [torch.tensor(Y[:, n_targets:]) for Y in mapped]
        context = torch.cat([*contexts[:2], given, contexts[2]])
    sets.insert(2, model.flow.generate(latent, given if model.n_context else None))
    return step_selection.choose_steps(model.flow, _BASE, sets, tol, context)
