"""The JKO scheme: which blocks are trained, for how long, and which of them stay.

A :class:`FlowTrainer` trains one flow on every fold, a pair of training and validation
samples: all folds train block k, then the validation samples of all folds together
decide for how many iterations a block trains and whether it stays. One fold is the
usual validation split; several are cross-validation, after which a trainer with all
samples in one fold follows their decisions.

Training goes in rounds. "grow" adds blocks; "extend" trains the last one on;
"regularize" trains one block with weight decay in place of those that overfit;
"reparameterize" and "refine" train all blocks again, with step sizes that make their
displacements even, or each split in two.
"""

# SPDX-License-Identifier: BSD-3-Clause

import math
from dataclasses import replace
from functools import partial

from skjko.flow import schedule
from skjko.flow.block_training import BlockFit, radius
from skjko.flow.blocks import Block
from skjko.flow.folds import Fold, displacement, displacement_share, gain, pooled
from skjko.flow.pilot import n_affordable
from skjko.flow.records import BlockRecord, Round
from skjko.flow.run import Task, part_of

GROW, REGULARIZE, EXTEND = "grow", "regularize", "extend"
REPARAMETERIZE, REFINE = "reparameterize", "refine"

EVEN = 1.25
"""Displacements are even, and not reparameterized any more, within this ratio."""

# Gain in validation log-likelihood, in standard errors, without which the flow of a
# round is not kept: evenness may cost no more than noise, twice as many blocks have to
# pay.
_LEAST_GAIN = {
    GROW: 0.0,
    REGULARIZE: 0.0,
    EXTEND: 0.0,
    REPARAMETERIZE: -1.0,
    REFINE: 1.0,
}
# A block that was best after no more than this share of its iterations overfits.
_EARLY = 0.6


class FlowTrainer:
    """Training of one flow on every fold, by the same decisions.

    Parameters
    ----------
    folds : list of Fold
        All with validation samples, or one without.
    new_field : callable
        `(n_features, generator) -> field`.
    config : TrainingConfig
    run : Run
    name : str
        Part of the keys of all tasks.
    flows : list of list of Block, optional
        Blocks to start from, for every fold.
    rounds : sequence of Round
        How those came to be.

    Attributes
    ----------
    flows : list of list of Block
        The blocks of every fold's flow.
    rounds : list of Round
    failed : list of int
        Numbers of blocks that could not be trained.
    interrupted : bool
        Whether the user interrupted the training. Finished blocks are kept.
    ended : bool
        Whether the user or a listener ended it.
    behind : list of Fold
        The folds behind all blocks.
    n_slices, n_pretrained : int
        How often a first block was pretrained, and for how many iterations in all.
    seconds : float
        Of such an iteration.
    """

    def __init__(self, folds, new_field, config, run, name, flows=None, rounds=()):
        self.folds, self.config, self.run, self.name = folds, config, run, name
        self._new_field = new_field
        self.flows = flows or [[] for _ in folds]
        self.rounds = list(rounds)
        self.failed, self.interrupted, self._stopped = [], False, False
        self.behind = self._pushed(self.flows)
        self._start, self._pretraining = None, []
        self._dropped_early = False
        self.n_slices, self.n_pretrained, self.seconds = 0, 0, 0.0

    # ------------------------------------------------------------------- results

    @property
    def decides(self):
        """Whether there are validation samples to decide by."""
        return self.folds[0].validation is not None

    @property
    def ended(self):
        """Whether the user or a listener ended the training."""
        return self.interrupted or self._stopped

    def behind_some(self, n):
        """Return the folds behind all blocks, with at most n training samples."""
        blocks = [list(flow) for flow in self.flows]
        if self._start is not None and not any(blocks):
            blocks = [[block] for block in self._start]

        def train(fold, flow):
            samples = fold.train.some(n)
            for block in flow:
                samples = samples.map(block.push)
            return samples

        return [
            Fold(partial(train, fold, flow), behind.validation, behind.log_det)
            for fold, flow, behind in zip(self.folds, blocks, self.behind, strict=True)
        ]

    @property
    def records(self):
        """Records of the blocks of the flow as it is."""
        accepted = [r for r in self.rounds if r.accepted]
        return accepted[-1].records if accepted else []

    @property
    def step_sizes(self):
        """Step sizes of the blocks."""
        return tuple(r.step_size for r in self.records)

    @property
    def displacements(self):
        """Root mean square displacements of the training samples by the blocks."""
        return tuple(r.displacement for r in self.records)

    @property
    def score(self):
        """Mean validation log-density behind all blocks, in nats."""
        return self._score(self.behind)

    def losses(self):
        """Return -log p of the validation samples, one tensor a fold."""
        return [fold.nll(self.config.base) for fold in self.behind]

    # ------------------------------------------------------------------- rounds

    def use(self, folds):
        """Train on other folds from now on, of the same validation samples."""
        self.folds = folds
        self.behind = self._pushed(self.flows)

    def train(self, rounds, share=1.0):
        """Grow, then at most so many rounds of the others, while they help.

        Parameters
        ----------
        rounds : RoundsConfig
        share : float
            Of the time left.
        """
        sizes, cap = rounds.step_sizes, rounds.max_step_size
        n_rounds = rounds.n_reparameterizations + rounds.n_refinements
        if sizes:
            part = part_of(share, 0, 1 + n_rounds)
            self._round(GROW, sizes, part, n_kept=self._n_kept())
            if math.isinf(sizes[-1]) and self._overfits:
                self.regularize(part)
        for i in range(rounds.n_reparameterizations):
            part = part_of(share, 0, n_rounds - i)
            even = schedule.evenness(self.step_sizes, self.displacements) <= EVEN
            if self.ended or even or not self.reparameterize(cap, part):
                break
        for i in range(rounds.n_refinements):
            part = part_of(share, 0, rounds.n_refinements - i)
            if self.ended or not self.records or not self.refine(part):
                break

    def pretrain(self, share, n_iter):
        """Train a first block on, for selection, and return the losses that it gives.

        It is free, and what `grow` begins with. Its learning rate goes to zero every
        time.

        Parameters
        ----------
        share : float
            Of the time left.
        n_iter : int
            Largest number of iterations.
        """
        n_iter = min(n_iter, self.config.max_iter)
        config, most = self.config, self.config.n_evaluations
        n = min(max(1, n_iter // config.pretraining_stride), most)
        patience = config.patience if n == most else 1
        config = replace(config, max_iter=n_iter, n_evaluations=n, patience=patience)
        start = self._start or self._new_blocks(self.folds, schedule.FREE, 0)
        info = {"kind": "pretrain", "n_parts": n}
        task = Task(f"{self.name}/pretrain/{self.n_slices}", share, info)
        with self.run.running(task) as job:
            if job.result is None:
                fit = BlockFit(self.folds, start, config, job)
                fit.search()
                job.result = fit.result()
        result = job.result
        self.n_slices += 1
        self.n_pretrained += result.n_minibatches // len(self.folds)
        self.seconds = result.seconds
        if result.blocks is not None:
            blocks = result.blocks_like(start)
            behind = self._pushed([[block] for block in blocks])
            if self._start is None or self._gain(self.behind, behind) > 0:
                self._start, self.behind = blocks, behind
                self._pretraining += result.losses
        return self.losses()

    def grow(self, step_sizes, share=1.0, plan=None):
        """Add blocks one after another until validation gains no more.

        The blocks so far stay, but a free one at the end is replaced. A block is kept,
        with its best weights, if its mean gain in validation log-likelihood exceeds the
        gain's standard error (paired by sample). Growth ends when a block gains
        nothing. If its gain is within that noise and its displacement is small
        (E|x - T(x)|^2 / E|T(x)|^2 below `movement_tol`), or if its first evaluation was
        its best, only the free block at the end, if there is one, is still tried: a
        small displacement alone can resolve fine structure.

        Parameters
        ----------
        step_sizes : sequence of float
        share : float
            Of the time left, for the round.
        plan : sequence of BlockRecord, optional
            Train for as many iterations as these, without validation.
        """
        return self._round(GROW, step_sizes, share, plan, self._n_kept())

    def regularize(self, share=1.0):
        """Train a free block with weight decay in place of all blocks so far."""
        return self._round(REGULARIZE, (schedule.FREE,), share)

    def extend(self, share=1.0):
        """Train the last block on, with a learning rate that goes to zero again."""
        if not self.records:
            return False
        sizes, n_kept = self.step_sizes[-1:], len(self.records) - 1
        return self._round(EXTEND, sizes, share, n_kept=n_kept)

    def reparameterize(self, max_step_size, share=1.0, plan=None):
        """Train all blocks again, with displacements closer to their mean."""
        if plan is not None:
            sizes, evenly = tuple(record.step_size for record in plan), None
        else:
            old, moved = self.step_sizes, self.displacements
            sizes = schedule.reparameterize(old, moved, max_step_size)
            evenly = schedule.mean_displacement(old, moved), max_step_size
        return self._round(REPARAMETERIZE, sizes, share, plan, 0, self.flows, evenly)

    def refine(self, share=1.0, plan=None):
        """Split every block's time in two and train all blocks again."""
        sizes = schedule.refine(self.step_sizes)
        flows = [[h for block in flow for h in block.halves()] for flow in self.flows]
        return self._round(REFINE, sizes, share, plan, 0, flows)

    def follow(self, rounds):
        """Do on this trainer's folds what validation decided elsewhere."""
        replaced = [
            i for i, r in enumerate(rounds) if r.kind == REGULARIZE and r.accepted
        ]
        for i, decided in enumerate(rounds):
            if self.ended:
                break
            if not decided.accepted or any(i < k for k in replaced):
                self.rounds.append(decided)
                continue
            plan = decided.records[decided.n_kept :]
            share = 1 / (len(rounds) - i)
            if decided.kind in (GROW, REGULARIZE, EXTEND):
                sizes = tuple(record.step_size for record in plan)
                self._round(decided.kind, sizes, share, plan, decided.n_kept)
            elif decided.kind == REFINE:
                self.refine(share, plan)
            else:
                self.reparameterize(math.inf, share, plan)
            self.rounds[-1] = self.rounds[-1].with_scores(decided)
            if len(self.records) < len(decided.records):
                break

    # ------------------------------------------------------------------- inside

    def _n_kept(self):
        """Number of blocks that growth keeps: all but a free one at the end."""
        has_free = bool(self.records) and math.isinf(self.records[-1].step_size)
        return len(self.records) - has_free

    def _round(
        self, kind, step_sizes, share, plan=None, n_kept=0, again=None, evenly=None
    ):
        """Train blocks one after another; return whether the flow of the round is kept.

        Parameters
        ----------
        kind : str
        step_sizes : sequence of float
        share : float
        plan : sequence of BlockRecord, optional
        n_kept : int
            Number of blocks, from the first on, that stay as they are.
        again : list of list of Block, optional
            For every fold, blocks to train again; all of them stay. Without, a block
            has to gain.
        evenly : tuple of float, optional
            Target of the displacements, and largest step size.
        """
        flows = [flow[:n_kept] for flow in self.flows]
        folds, records, n_minibatches = self._pushed(flows), self.records[:n_kept], 0
        config, left = self.config, list(step_sizes)
        if kind == REGULARIZE:
            config = config.regularized()
        if plan is None and again is None:
            left, plan = self._affordable(kind, left, folds, share, config)
        elif plan is None and not self.decides:
            plan = self._whole_plan(left)
        try:
            for i in range(len(left)):
                if not left:
                    break
                part, h = part_of(share, i, i + len(left)), left.pop(0)
                start = self._begin(kind, flows, folds, h, i, again)
                is_pretrained = start[0].field in [b.field for b in self._start or []]
                task = self._task(kind, i, len(records) + 1, h, part)
                with self.run.running(task) as job:
                    if job.result is None:
                        planned = plan and plan[i]
                        fit = BlockFit(folds, start, config, job, planned)
                        if evenly is not None:
                            fit.even_out(*evenly)
                        fit.search(again and start, is_pretrained)
                        job.result = fit.result()
                result = job.result
                n_minibatches += result.n_minibatches
                if result.blocks is None:
                    if result.failed:
                        self.failed.append(len(records) + 1)
                    self._report(task, "dropped", None, flows, records, False)
                    break
                blocks = result.blocks_like(start)
                pushed = [f.push(b) for f, b in zip(folds, blocks, strict=True)]
                before = self._pretraining if is_pretrained else []
                record = self._record(result, folds, blocks, pushed, before)
                has_to_gain = plan is None and again is None
                if has_to_gain and not self._gain(folds, pushed) > 1:
                    moved = displacement_share(folds, blocks)
                    self._dropped_early |= result.overfits and kind == GROW
                    if moved < config.movement_tol or result.overfits:
                        left = [h for h in left if math.isinf(h)]
                    if self._report(task, "dropped", record, flows, records, False):
                        break
                    continue
                for flow, block in zip(flows, blocks, strict=True):
                    flow.append(block)
                folds = pushed
                records.append(record)
                is_whole = again is None or not left
                if self._report(task, "kept", record, flows, records, is_whole):
                    break
        except KeyboardInterrupt:
            if self.run.group.size > 1:
                raise  # The other processes may be elsewhere.
            self.interrupted = True
            flows = [flow[: len(records)] for flow in flows]
            folds = self._pushed(flows)
        if again is not None and self.ended and len(records) < len(step_sizes):
            # Half of a round is none.
            self.rounds.append(Round(kind, records, 0, False, n_minibatches))
            return False
        return self._conclude(kind, flows, folds, records, n_kept, n_minibatches)

    def _conclude(self, kind, flows, folds, records, n_kept, n_minibatches):
        """Take over the flows of a round if they are good enough."""
        accepted = True
        if self.decides and self.records:
            accepted = self._gain(self._pushed(self.flows), folds) >= _LEAST_GAIN[kind]
        self.rounds.append(Round(kind, records, n_kept, accepted, n_minibatches))
        if accepted:
            self.flows, self.behind = flows, folds
        self.run.report(None, "round", round=kind, accepted=accepted)
        return accepted

    def _begin(self, kind, flows, folds, step_size, attempt, again=None):
        """Blocks to begin with: those of before, or pretrained ones, or new ones."""
        if again is not None:
            start = [blocks[attempt] for blocks in again]
            for block in start:
                block.step_size = step_size
            return start
        before = [flow[-1] for flow in flows if flow]
        if kind == EXTEND:
            before = [flow[-1] for flow in self.flows]
        if kind == GROW and not before and self._start:
            before = self._start
        if not before:
            return self._new_blocks(folds, step_size, attempt)
        r, n_steps = radius(folds), self.config.n_steps
        return [
            Block(block.field, r, step_size, n_steps, block.interval)
            for block in before
        ]

    def _new_blocks(self, folds, step_size, number):
        r, n_steps, blocks = radius(folds), self.config.n_steps, []
        for i, fold in enumerate(folds):
            generator = self.run.generator(f"{self.name}/field/{number}/{i}")
            field = self._new_field(fold.train.x.shape[1], generator)
            blocks.append(Block(field.to(fold.train.x.device), r, step_size, n_steps))
        return blocks

    def _affordable(self, kind, step_sizes, folds, share, config):
        """Return as many step sizes as there is time for: the first, and the last.

        With no validation samples there is a plan, too: all iterations of all blocks.
        """
        key = f"{self.name}/{len(self.rounds)}-{kind}/plan"
        with self.run.running(Task(key, share, {"kind": "plan"})) as job:
            if job.result is None:

                def new_blocks():
                    empty = [[] for _ in folds]
                    return self._begin(kind, empty, folds, step_sizes[0], 0)

                job.result = n_affordable(
                    len(step_sizes), folds, new_blocks, config, job
                )
        sizes = [*step_sizes[:-1][: max(job.result, 1) - 1], step_sizes[-1]]
        return sizes, None if self.decides else self._whole_plan(sizes)

    def _whole_plan(self, step_sizes):
        n = self.config.max_iter
        return [BlockRecord(h, n, n, 0.0, []) for h in step_sizes]

    @property
    def _overfits(self):
        """Whether blocks that gained were best well before their training was over."""
        if self.ended or self.config.is_regularized:
            return False
        has_gained = self.decides and self.records
        gained = self._gain(self.folds, self.behind) if has_gained else 0.0
        if gained < self.config.regularized_from:
            return False
        if not has_gained:
            return self._dropped_early
        latest = [r for r in self.rounds if r.accepted][-1]
        is_early = any(record.was_best_within(_EARLY) for record in latest.records)
        return is_early and latest.kind != REGULARIZE

    def _task(self, kind, attempt, number, step_size, share):
        n = self.config.n_evaluations
        info = {"kind": kind, "block": number, "step_size": step_size, "n_parts": n}
        key = f"{self.name}/{len(self.rounds)}-{kind}/{attempt}"
        return Task(key, share, info)

    def _report(self, task, became, record, flows, records, is_whole=True):
        """Tell what became of a block; return whether a listener ends the training."""
        blocks = list(flows[0]) if is_whole else None
        values = {"record": record, "records": list(records), "blocks": blocks}
        self._stopped |= self.run.report(task, became, **values)
        return self._stopped

    def _pushed(self, flows):
        """The folds behind all blocks of their flows."""
        behind = []
        for fold, flow in zip(self.folds, flows, strict=True):
            for block in flow:
                fold = fold.push(block)
            behind.append(fold)
        return behind

    def _record(self, result, folds, blocks, pushed, before):
        score = self._score(pushed) if self.decides else None
        return BlockRecord(
            result.step_size,
            result.n_iter + len(before),
            result.n_planned + len(before),
            displacement(folds, blocks),
            [*before, *result.losses],
            score,
            len(before),
        )

    def _score(self, folds):
        return -pooled(folds, [fold.nll(self.config.base) for fold in folds])[0]

    def _gain(self, before, after):
        base = self.config.base
        return gain(before, [f.nll(base) for f in before], [f.nll(base) for f in after])
