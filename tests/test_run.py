"""Tasks, listeners and time limits."""

# SPDX-License-Identifier: BSD-3-Clause

import math

import pytest
import torch
from engine import flow_trainer, fold, normal

from skjko.config import training_seconds
from skjko.flow.records import BlockRecord
from skjko.flow.run import Clock, Listener, Run, Task, TimeLimit
from skjko.flow.training_config import RoundsConfig


class FakeClock(Clock):
    """A clock that moves when it is told to."""

    def __init__(self, step=0.0):
        super().__init__()
        self.now, self.step = 0.0, step

    def __call__(self):
        self.now += self.step
        return self.now

    def add(self, seconds):
        self.now += seconds


class Recorder(Listener):
    """Takes note of everything, and knows the results of some tasks."""

    def __init__(self, known=()):
        self.known, self.seen = dict(known), []

    def on_begin(self, task):
        self.seen.append(("begin", task.key))
        return self.known.get(task.key)

    def on_event(self, event):
        self.seen.append((event.kind, event.values))

    def on_end(self, task, result, seconds):
        self.seen.append(("end", task.key, result, seconds))


def test_listeners_are_told_of_tasks_in_order():
    recorder, clock = Recorder(), FakeClock()

    def compute(budget, generator):
        budget.report("evaluation", score=1.0)
        clock.add(2.0)
        return 7

    assert Run(0, [recorder], clock).do(Task("a"), compute) == 7
    assert recorder.seen == [
        ("begin", "a"),
        ("evaluation", {"score": 1.0}),
        ("end", "a", 7, 2.0),
    ]


@pytest.mark.parametrize("answers", [(None, None), (True, None), (None, True)])
def test_all_listeners_are_told_of_an_event_and_one_may_ask_for_the_end(answers):
    class Asking(Recorder):
        def __init__(self, answer):
            super().__init__()
            self.answer = answer

        def on_event(self, event):
            super().on_event(event)
            return self.answer

    listeners = [Asking(answer) for answer in answers]
    run = Run(0, listeners)
    told = run.do(Task("a"), lambda budget, _: budget.report("evaluation", n_iter=1))
    assert told == any(answers)
    assert all(one.seen[1] == ("evaluation", {"n_iter": 1}) for one in listeners)


def test_a_known_result_is_not_computed_and_takes_its_time():
    clock = FakeClock()
    run = Run(0, [Recorder({"a": (5, 3.0)})], clock)
    assert run.do(Task("a"), lambda *_: pytest.fail("computed")) == 5
    assert clock() == 3.0


def test_random_numbers_depend_on_seed_and_key_alone():
    def draw(run, key):
        return run.do(Task(key), lambda _, g: torch.rand(3, generator=g).tolist())

    first, second = Run(0), Run(0)
    draw(second, "another")
    assert draw(first, "a") == draw(second, "a")
    assert draw(Run(1), "a") != draw(first, "a")
    assert draw(first, "b") != draw(first, "a")


def test_tasks_get_their_share_of_the_time_left():
    clock = FakeClock()
    run = Run(0, [TimeLimit(100.0, clock)], clock)
    seen = []

    def compute(budget, generator):
        seen.append(budget.seconds)
        assert budget.progress == 0
        clock.add(budget.seconds / 2)
        assert budget.progress == pytest.approx(0.5)
        clock.add(budget.seconds)
        assert budget.progress == 1

    for share in (0.2, 0.5, 1.0):
        run.do(Task(f"{share}", share), compute)
    assert seen == pytest.approx([20.0, 40.0, 40.0])


def test_without_a_limit_there_is_no_progress_by_time():
    def compute(budget, generator):
        assert budget.progress == 0
        assert math.isinf(budget.seconds)

    Run(0).do(Task("a"), compute)


@pytest.mark.parametrize(
    ("limit", "seconds"), [(1.0, 0.9), (20.0, 18.0), (60.0, 56.0), (1000.0, 960.0)]
)
def test_some_time_is_kept_for_the_choice_of_scoring_steps(limit, seconds):
    assert training_seconds(limit) == pytest.approx(seconds)


def plan(*n_iters):
    return [BlockRecord(math.nan, n, n, math.nan, []) for n in n_iters]


def two_folds():
    x = normal(400, 2).float()
    return [fold(x[:200], x[200:])]


@pytest.mark.parametrize("validation", [True, False])
def test_blocks_share_the_time_and_learning_ends_with_it(validation):
    x = normal(400, 2).float() ** 3
    folds = [fold(x[:200], x[200:] if validation else None)]
    # Every reading of the clock takes a hundredth of a second.
    clock = FakeClock(step=0.01)
    run = Run(0, [TimeLimit(10.0, clock)], clock)
    trainer = flow_trainer(folds, run=run, max_iter=10_000, batch_size=100)
    trainer.grow((0.5, math.inf), plan=None if validation else plan(10_000, 10_000))
    assert clock.now <= 10.1
    if not validation:
        assert clock.now == pytest.approx(10.0, abs=0.1)
        planned = [r.n_planned for r in trainer.records]
        assert min(planned) > 0.5 * max(planned)


def test_a_limit_that_does_not_bind_changes_nothing():
    clock = FakeClock()
    limited = Run(0, [TimeLimit(1e9, clock)], clock)
    settings = {"max_iter": 20, "batch_size": 100}
    one, other = (
        flow_trainer(two_folds(), run=run, **settings) for run in (limited, Run(0))
    )
    for trainer in (one, other):
        trainer.grow((0.5, math.inf))
    assert one.records == other.records


def test_no_time_leaves_no_blocks():
    clock = FakeClock()
    run = Run(0, [TimeLimit(0.0, clock)], clock)
    trainer = flow_trainer(two_folds(), run=run, max_iter=20, batch_size=100)
    trainer.train(RoundsConfig((0.5, math.inf), 1, 1, 8.0))
    assert trainer.records == []
    assert trainer.flows == [[]]
