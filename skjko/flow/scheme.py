"""The JKO scheme: which blocks are trained, for how long, and which of them stay.

A :class:`Crew` trains flows in step, one on each of several *folds*, pairs of training
and held-out rows: all folds train block k, then the held-out rows of all folds together
decide for how many iterations a block trains and whether it stays. One fold is the
usual validation split; several are cross-validation, after which a crew with all rows
in one fold follows what they decided. A fold without held-out rows decides nothing: all
blocks train for as long as they are told.

The work goes in rounds. `grow` adds blocks; `regularize` trains one in place of those
that learned noise; `reparameterize` and `refine` train all of them again, with step
sizes that make their movements even, or each split in two.
"""

# SPDX-License-Identifier: BSD-3-Clause

import math
from dataclasses import replace
from functools import partial

import torch

from skjko.flow import schedule
from skjko.flow.flow import Block
from skjko.flow.fold import movement, movement_share, pooled
from skjko.flow.history import (
    ADDING,
    GROW,
    REFINE,
    REGULARIZE,
    REPARAMETERIZE,
    BlockRecord,
    Event,
    Round,
    silent,
)
from skjko.flow.journal import Journal, Task
from skjko.flow.pace import Deadline, Pace
from skjko.flow.stage import Stage, confined
from skjko.flow.training import enough_iterations, trainers

EVEN = 1.25
"""Movements are even, and not reparameterized any more, within this ratio."""

# Gain in held-out log-likelihood, in its standard errors, without which the flow that a
# round made does not stay: evenness may cost no more than noise, twice as many blocks
# have to pay.
_LEAST_GAIN = {GROW: 0.0, REGULARIZE: 0.0, REPARAMETERIZE: -1.0, REFINE: 1.0}

# A block that was best after no more than this share of its iterations learned noise.
# The one that is trained in its place has a weight decay of at least so much, and a
# learning rate so many times as high: decay is relative to it.
_EARLY, _LEAST_DECAY, _FASTER = 0.6, 0.5, 2.0

# With little time, few blocks that are trained for so many iterations each, or more on
# many rows, are better than many that are not; a pilot of a few iterations tells how
# many there is time for.
_LEAST_ITERATIONS, _N_WARM_UP, _N_PILOT = 400, 2, 4


class Crew:
    """Flows trained in step, one on every fold, from the same decisions.

    Parameters
    ----------
    folds : list of Fold
        All with held-out rows, or one without.
    new_field : callable
        Maps a dimension and a generator to a fresh velocity field.
    options : Options
    generators : list of torch.Generator
        One for every fold.
    on_event : callable
        Called with every :class:`Event`.
    flows : list of list of Block, optional
        Where to start: the blocks so far, for every fold.
    rounds : sequence of Round
        How those came to be.
    deadline : Deadline, optional
        When all has to be done: every round, and in it every block, gets an equal part
        of the time that is left.
    journal : Journal, optional
        Remembers what came of every block: an earlier training of the same goes on.
    fields : list of VelocityField, optional
        What the first block to grow begins with, in place of fresh ones.

    Attributes
    ----------
    flows : list of list of Block
        The blocks of every fold's flow, in training precision.
    rounds : list of Round
        All rounds so far.
    broken : list of int
        Numbers of the blocks that could not be trained, however small the steps.
    interrupted : bool
        Whether the user broke off the training. What was finished stays.
    """

    def __init__(
        self,
        folds,
        new_field,
        options,
        generators,
        on_event=silent,
        flows=None,
        rounds=(),
        deadline=None,
        journal=None,
        fields=None,
    ):
        self.deadline = self._round_deadline = deadline or Deadline()
        self.folds, self.new_field, self.options = folds, new_field, options
        self.generators, self.on_event = generators, on_event
        self.journal = journal or Journal()
        self.flows = flows or [[] for _ in folds]
        self.first_fields = fields
        self.rounds = list(rounds)
        self.broken, self.interrupted = [], False

    @property
    def decides(self):
        """Whether there are held-out rows to decide by."""
        return self.folds[0].held_out is not None

    @property
    def base_nll(self):
        """Mean negative log-likelihood of the held-out rows before any block."""
        return self._mean_nll(self.folds)

    @property
    def nll(self):
        """Mean negative log-likelihood of the held-out rows by the flow."""
        return self.records[-1].validation_nll if self.records else self.base_nll

    @property
    def losses(self):
        """Negative log-likelihoods of the held-out rows by the flow, fold by fold."""
        return [fold.nll for fold in self._behind(self.flows)]

    @property
    def records(self):
        """Records of the blocks of the flow as it is."""
        accepted = [r for r in self.rounds if r.accepted]
        return accepted[-1].records if accepted else []

    @property
    def step_sizes(self):
        """Step size of every block of the flow as it is."""
        return tuple(r.step_size for r in self.records)

    @property
    def movements(self):
        """Root mean square movement of the training rows by every block."""
        return tuple(r.movement for r in self.records)

    # ------------------------------------------------------------------- rounds

    def grow(self, step_sizes, plan=None):
        """Add blocks one after another until they stop paying on held-out rows.

        The blocks so far stay before them, but a free one at the end makes way. A block
        stays, with its best weights on the way, when its mean gain in held-out
        log-likelihood exceeds the gain's own standard error (paired by row). Growth
        ends when a block gains nothing. When its gain is within that noise and its
        movement is small as well (E|x - T(x)|^2 / E|T(x)|^2 below `movement_tol`), or
        it lost from the first score on, only the free block, if there is one, is still
        tried: a small movement alone can resolve fine structure.

        Parameters
        ----------
        step_sizes : sequence of float
        plan : sequence of BlockRecord, optional
            Train for as many iterations as these instead of letting the held-out rows
            decide.
        """
        has_free = bool(self.records) and math.isinf(self.records[-1].step_size)
        return self._grow(GROW, step_sizes, plan, len(self.records) - has_free)

    def regularize(self):
        """Train a free block with weight decay in place of all blocks so far.

        The flow stays as it was, and False is returned, if the held-out likelihood does
        not gain.
        """
        return self._grow(REGULARIZE, (schedule.FREE,), None, 0)

    def _grow(self, kind, step_sizes, plan, n_kept):
        """One round that adds blocks to some of those so far."""
        records, n_minibatches = self.records[:n_kept], 0
        flows = [flow[:n_kept] for flow in self.flows]
        folds = self._behind(flows)
        fields = self._begun(kind, flows, folds)
        if plan is None:
            step_sizes = self._affordable(step_sizes, folds, fields)
        plan = self._plan(step_sizes, plan)
        queue, n_tried = list(step_sizes), 0
        try:
            while queue:
                block, n_left, h = len(records) + 1, len(queue), queue.pop(0)
                planned = plan and plan[n_tried]
                # Warm start: a block begins with the weights of the one before.
                task = self._task(kind, n_tried, block, n_left, h, fields, planned)
                n_tried += 1
                report = partial(self._report, kind, task.block)
                outcome = self._trained(task, report, folds, planned)
                n_minibatches += outcome.n_minibatches
                blocks = outcome.blocks
                if blocks is None:
                    if outcome.broken:
                        self.broken.append(task.block)
                    report("dropped", 0, None)
                    break
                pushed = [f.push(b) for f, b in zip(folds, blocks, strict=True)]
                record = self._record(outcome, folds, pushed)
                if plan is None and not self._gain(folds, pushed) > 1:
                    share = movement_share(folds, blocks)
                    if share < self.options.movement_tol or outcome.overfits:
                        queue = [h for h in queue if math.isinf(h)]
                    report("dropped", outcome.n_iter, record.validation_nll)
                    continue
                for flow, block in zip(flows, blocks, strict=True):
                    flow.append(block)
                fields = [block.field.field for block in blocks]
                folds = pushed
                records.append(record)
                became = "trained" if plan else "kept"
                report(became, outcome.n_iter, record.validation_nll)
        except KeyboardInterrupt:
            self.interrupted = True
            flows = [flow[: len(records)] for flow in flows]
            folds = self._behind(flows)
        return self._conclude(kind, flows, folds, records, n_kept, n_minibatches)

    def _begun(self, kind, flows, folds):
        """Fields that a round's first block begins with: of the block before, if any.

        What learns anew, with weight decay, begins afresh.
        """
        if kind == GROW and self.first_fields and not any(flows):
            return self.first_fields
        return [
            flow[-1].field.field if flow else self.new_field(fold.train.x.shape[1], g)
            for flow, fold, g in zip(flows, folds, self.generators, strict=True)
        ]

    def reparameterize(self, max_step_size):
        """Make the movements even: train all blocks again, each towards the mean.

        The flow stays as it was, and False is returned, if the held-out likelihood
        falls by more than noise.
        """
        sizes = schedule.reparameterize(self.step_sizes, self.movements, max_step_size)
        target = schedule.mean_movement(self.step_sizes, self.movements)
        return self._train_again(
            REPARAMETERIZE, self.flows, sizes, steering=(target, max_step_size)
        )

    def refine(self):
        """Split every block's time in two and train all of them again.

        The flow stays as it was, and False is returned, unless the held-out likelihood
        gains more than noise.
        """
        return self._train_again(REFINE, *self._split())

    def train(self, step_sizes, n_reparameterizations, n_refinements, max_step_size):
        """Grow, then at most so many rounds of the others, as long as they help."""
        if step_sizes:
            self._share_time(1 + n_reparameterizations + n_refinements)
            self.grow(step_sizes)
            may_be_better = math.isinf(step_sizes[-1]) and self._has_learned_noise
            if may_be_better and self._round_deadline.left > 0:
                self.regularize()
        for i in range(n_reparameterizations):
            if self.interrupted:
                break
            even = schedule.evenness(self.step_sizes, self.movements) <= EVEN
            self._share_time(n_reparameterizations - i + n_refinements)
            if even or not self.reparameterize(max_step_size):
                break
        for i in range(n_refinements):
            if self.interrupted:
                break
            self._share_time(n_refinements - i)
            if not self.records or not self.refine():
                break

    @property
    def _has_learned_noise(self):
        """Whether a block was at its best well before its training was over."""
        if self.interrupted or not (self.decides and self.records):
            return False
        latest = [r for r in self.rounds if r.accepted][-1]
        early = any(r.n_iter <= _EARLY * r.n_planned for r in latest.records)
        return early and latest.kind != REGULARIZE

    def follow(self, rounds):
        """Do on the folds of this crew what another one has decided."""
        anew = [i for i, r in enumerate(rounds) if r.kind == REGULARIZE and r.accepted]
        for i, decided in enumerate(rounds):
            if self.interrupted:
                break
            # What another round replaced altogether need not be done.
            is_replaced = any(i < k for k in anew)
            if is_replaced or not decided.accepted:
                self.rounds.append(decided)
                continue
            self._share_time(len(rounds) - i)
            trained = decided.records[decided.n_kept :]
            sizes = tuple(record.step_size for record in trained)
            if decided.kind in ADDING:
                self._grow(decided.kind, sizes, trained, decided.n_kept)
            else:
                flows = self._split()[0] if decided.kind == REFINE else self.flows
                self._train_again(decided.kind, flows, sizes, trained)
            self.rounds[-1] = _joined(self.rounds[-1], decided)
            if len(self.records) < len(decided.records):
                break

    # ------------------------------------------------------------------- their parts

    def _share_time(self, n_rounds):
        """Give the next of so many rounds an equal part of the time that is left."""
        self._round_deadline = self.deadline.part(1 / n_rounds)

    def _train_again(self, kind, parents, step_sizes, plan=None, steering=None):
        """One round over all blocks, each starting as its parent.

        `steering` is a movement to steer every block to, and the largest step size.
        """
        plan = self._plan(step_sizes, plan)
        folds, flows, records, n_minibatches = self.folds, [[] for _ in parents], [], 0
        try:
            for k, h in enumerate(step_sizes):
                own = [parent[k].field for parent in parents]
                fields, planned = [one.field for one in own], plan and plan[k]
                n_left = len(step_sizes) - k
                task = self._task(kind, k, k + 1, n_left, h, fields, planned)
                report = partial(self._report, kind, task.block)
                outcome = self._trained(task, report, folds, planned, own, steering)
                n_minibatches += outcome.n_minibatches
                blocks = outcome.blocks
                pushed = [f.push(b) for f, b in zip(folds, blocks, strict=True)]
                records.append(self._record(outcome, folds, pushed))
                for flow, block in zip(flows, blocks, strict=True):
                    flow.append(block)
                folds = pushed
                report("kept", outcome.n_iter, records[-1].validation_nll)
        except KeyboardInterrupt:
            # A round half done is none.
            self.interrupted = True
            self.rounds.append(Round(kind, records, 0, False, n_minibatches))
            return False
        return self._conclude(kind, flows, folds, records, 0, n_minibatches)

    def _conclude(self, kind, flows, folds, records, n_kept, n_minibatches):
        """Take over the flows that a round made if they are good enough."""
        accepted = (
            not (self.decides and self.records)
            or self._gain(self._behind(self.flows), folds) >= _LEAST_GAIN[kind]
        )
        self.rounds.append(Round(kind, records, n_kept, accepted, n_minibatches))
        if accepted:
            self.flows = flows
        return accepted

    def _plan(self, step_sizes, plan):
        """What a round follows: nothing if held-out rows decide."""
        if plan is None and not self.decides:
            n = self.options.max_iter
            plan = [BlockRecord(h, n, n, 0.0, []) for h in step_sizes]
        return plan

    def _affordable(self, step_sizes, folds, fields):
        """Return as many step sizes as there is time for: the first, and the last."""
        deadline = self._round_deadline
        if len(step_sizes) == 1 or math.isinf(deadline.left):
            return step_sizes
        n = self.journal.n_tasks(len(self.rounds))
        if n is None:
            n = self._n_affordable(step_sizes, folds, fields, deadline)
        n = max(1, min(n, len(step_sizes)))
        return (*step_sizes[: n - 1], step_sizes[-1])

    def _n_affordable(self, step_sizes, folds, fields, deadline):
        generators = [torch.Generator().manual_seed(0) for _ in folds]
        rows = [fold.train for fold in folds]
        pilots = trainers(
            confined(fields, folds), rows, step_sizes[0], self.options, generators
        )
        for pilot in pilots:
            pilot.advance(_N_WARM_UP)
        start = deadline.left
        for pilot in pilots:
            pilot.advance(_N_PILOT)
        seconds = (start - deadline.left) / _N_PILOT
        if seconds == 0:
            return len(step_sizes)
        o = self.options
        enough = enough_iterations(max(map(len, rows)), o.batch_size)
        # A block that has few of them to do leaves its time to others.
        least = max(_LEAST_ITERATIONS, min(enough, o.max_iter))
        return int(deadline.left / (seconds * least))

    def _options_of(self, kind):
        """Settings of the training in a round."""
        if kind != REGULARIZE:
            return self.options
        return replace(
            self.options,
            alpha=max(self.options.alpha, _LEAST_DECAY),
            learning_rate=_FASTER * self.options.learning_rate,
        )

    def _pace(self, n_left, planned=None):
        """Pace of the next of so many blocks that share the time of the round."""
        n = self.options.max_iter if planned is None else planned.n_planned
        return Pace(n, self._round_deadline.part(1 / n_left))

    def _task(self, kind, attempt, block, n_left, step_size, fields, planned):
        n_iter = planned and planned.n_iter
        states = [generator.get_state() for generator in self.generators]
        number = len(self.rounds)
        return Task(
            number, attempt, kind, block, n_left, step_size, n_iter, fields, states
        )

    def _trained(self, task, report, folds, planned, parents=None, steer=None):
        """Return what came of a task: earlier, if the journal has it, or now."""
        outcome = self.journal.recall(task)
        if outcome is not None:
            for score in outcome.scores:
                report("scored", *score)
            for generator, state in zip(self.generators, outcome.states, strict=True):
                generator.set_state(state)
            self.deadline.clock.spend(outcome.seconds)
            for block in outcome.blocks or ():
                block.to(self.folds[0].train.x.device)
            return outcome
        start = self.deadline.clock()
        pace = self._pace(task.n_left, planned)
        options = self._options_of(task.kind)
        stage = Stage(
            folds, task.fields, task.step_size, options, self.generators, pace
        )
        stage.train(report, planned, parents, steer)
        states = [generator.get_state() for generator in self.generators]
        outcome = stage.outcome(self.deadline.clock() - start, states)
        self.journal.record(task, outcome)
        return outcome

    def _behind(self, flows):
        """Return the folds behind all blocks of their flows."""
        folds = []
        for fold, flow in zip(self.folds, flows, strict=True):
            for block in flow:
                fold = fold.push(block)
            folds.append(fold)
        return folds

    def _split(self):
        """Flows with every block in two halves, and their step sizes."""
        sizes = schedule.refine(self.step_sizes)
        flows = []
        for flow in self.flows:
            halves = [half for block in flow for half in block.field.halves()]
            pairs = zip(halves, sizes, strict=True)
            n_steps = self.options.n_ode_steps
            flows.append([Block(half, h, n_steps) for half, h in pairs])
        return flows, sizes

    def _record(self, outcome, folds, pushed):
        return BlockRecord(
            outcome.step_size,
            outcome.n_iter,
            outcome.n_planned,
            movement(folds, outcome.blocks),
            outcome.losses,
            self._mean_nll(pushed),
        )

    def _mean_nll(self, folds):
        if not self.decides:
            return None
        return pooled(folds, [fold.nll for fold in folds])[0]

    def _gain(self, before, after):
        """Gain in held-out log-likelihood, in standard errors of the mean (paired)."""
        gains = [b.nll - a.nll for b, a in zip(before, after, strict=True)]
        mean, error = pooled(before, gains)
        return mean / error if error > 0 else math.inf * mean if mean else 0.0

    def _report(self, round_kind, block, kind, n_iter, nll):
        self.on_event(Event(kind, round_kind, block, n_iter, nll))


def _joined(made, plan):
    """Return a round with what was seen on the held-out rows when it was decided."""
    records = [
        replace(record, validation_nll=decided.validation_nll)
        # Fewer have been made where the training was broken off.
        for record, decided in zip(made.records, plan.records, strict=False)
    ]
    n_minibatches = made.n_minibatches + plan.n_minibatches
    return replace(made, records=records, n_minibatches=n_minibatches)
