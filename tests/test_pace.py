"""Time limits, by a clock that only the test moves."""

import itertools
import math

import numpy as np
import pytest
import torch

from skjko import JKOFlowDensity
from skjko.datasets import moons
from skjko.flow import scheme
from skjko.flow.fields import MLPField
from skjko.flow.fold import Fold
from skjko.flow.pace import Deadline, Pace
from skjko.flow.rows import Rows
from skjko.flow.training import BlockTrainer, Options
from skjko.settings import _RATE, _mixture_work, _options, training_seconds


class Clock:
    """Moves by `tick` seconds every time it is read."""

    def __init__(self, tick=0.0):
        self.now, self.tick = 0.0, tick

    def __call__(self):
        self.now += self.tick
        return self.now


def test_progress_is_that_of_iterations_or_of_the_clock_whichever_is_ahead():
    clock = Clock()
    pace = Pace(10, Deadline(100.0, clock))
    assert pace.progress(0) == 0.0
    assert pace.progress(3) == pytest.approx(0.3)
    clock.now = 60.0
    assert pace.progress(3) == pytest.approx(0.6)
    assert pace.progress(8) == pytest.approx(0.8)
    clock.now = 1e6
    assert pace.progress(3) == 1.0
    assert pace.progress(30) == 1.0


def test_no_deadline_never_comes():
    pace = Pace(4)
    assert [pace.progress(n) for n in range(6)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert math.isinf(Deadline().part(0.5).left)


def test_parts_of_a_deadline():
    clock = Clock()
    whole = Deadline(90.0, clock)
    clock.now = 30.0
    third = whole.part(1 / 3)
    assert third.left == pytest.approx(20.0)
    clock.now = 100.0
    assert whole.left == third.left == whole.part(0.5).left == 0.0
    assert Pace(10, whole).progress(0) == 1.0


def crew(clock, seconds, held_out=True, max_iter=10**6, batch_size=100):
    def rows(n, seed):
        x = torch.tensor(moons().sample(n, random_state=seed), dtype=torch.float32)
        return Rows(x, torch.ones(n))

    fold = Fold(rows(500, 0))
    if held_out:
        fold = Fold(rows(500, 0), rows(200, 1), torch.zeros(200))
    return scheme.Crew(
        [fold],
        lambda d, g: MLPField(d, (16, 16), "tanh", generator=g),
        Options(max_iter=max_iter, batch_size=batch_size, patience=100),
        [torch.Generator().manual_seed(0)],
        deadline=Deadline(seconds, clock),
    )


@pytest.mark.parametrize("held_out", [True, False])
def test_blocks_share_the_time(held_out):
    # Every reading of the clock takes a second, so that iterations take a few.
    clock = Clock(tick=1.0)
    limited, ends = crew(clock, 1000.0, held_out), []
    limited.on_event = lambda event: event.kind == "scored" or ends.append(event)
    limited.grow((0.5, 1.0, math.inf))
    # All have their turn, whether they stay or not.
    assert len(ends) == 3
    records = limited.rounds[-1].records
    # Not one iteration after the deadline but the one in flight.
    assert 1000 <= clock.now < 1020
    if not held_out:
        assert len(records) == 3
        n_iters = [record.n_iter for record in records]
        assert max(n_iters) < 1.1 * min(n_iters)
    for record in records:
        assert 0 < record.n_iter <= record.n_planned < 400


def test_the_learning_rate_falls_with_the_time():
    clock = Clock()
    pace = Pace(10**6, Deadline(100.0, clock))
    fold = crew(clock, 1.0).folds[0]
    trainer = BlockTrainer(
        [MLPField(2, (8,), "tanh")],
        [fold.train],
        1.0,
        Options(),
        [torch.Generator()],
        pace,
    )
    rates = []
    for now in (5.0, 50.0, 99.0):
        clock.now = now
        rates.append(trainer._learning_rate())
    expected = [0.01 * (1 + math.cos(math.pi * p)) / 2 for p in (0.05, 0.5, 0.99)]
    assert rates == pytest.approx(expected, rel=1e-4)


def test_who_follows_a_limited_crew_does_what_was_decided():
    decided = crew(Clock(tick=1.0), 3000.0)
    decided.grow((1.0, math.inf))
    assert len(decided.records) == 2
    follower = crew(Clock(), math.inf, held_out=False)
    # Little time is no reason to do something else than what was decided.
    follower._affordable = None
    follower.follow(decided.rounds)
    for made, record in zip(follower.records, decided.records, strict=True):
        assert (made.n_iter, made.n_planned) == (record.n_iter, record.n_planned)


@pytest.mark.parametrize(
    "limit, seconds",
    [(None, math.inf), (1.0, 0.9), (40.0, 36.0), (60.0, 56.0), (1000.0, 960.0)],
)
def test_some_time_is_kept_for_what_comes_after(limit, seconds):
    assert training_seconds(limit) == pytest.approx(seconds)


def test_no_time_at_all_leaves_the_gaussian():
    X = moons().sample(1200, random_state=0)
    density = JKOFlowDensity(time_limit=1e-9, random_state=0).fit(X)
    gaussian = JKOFlowDensity(max_blocks=0).fit(X)
    assert density.n_blocks_ == 0
    assert abs(density.score(X) - gaussian.score(X)) < 0.01
    assert np.isfinite(density.score_samples(X)).all()


def test_nobody_waits_for_rows_that_there_is_no_time_to_train_on(monkeypatch):
    def asked(*args):
        raise AssertionError("training rows are mapped")

    monkeypatch.setattr("skjko.start._training_rows", asked)
    X = moons().sample(1200, random_state=0)
    density = JKOFlowDensity(time_limit=1e-9, mixture_map=None, random_state=0).fit(X)
    assert density.n_blocks_ == 0
    assert len(density.validation_scores_) == 1
    with pytest.raises(AssertionError, match="are mapped"):
        density.set_params(time_limit=1e3).fit(X)


def test_training_rows_are_made_once_and_when_asked_for():
    made = []

    def make():
        made.append(Rows(torch.zeros(50, 2), torch.ones(50)))
        return made[-1]

    fold = Fold(make)
    assert not made
    assert fold.train is fold.train
    assert len(made) == 1


def test_a_limit_that_does_not_bind_changes_nothing():
    X = moons().sample(1200, random_state=0)
    settings = {
        "max_blocks": 2, "max_iter": 10, "hidden_layer_sizes": (8, 8), "random_state": 0
    }  # fmt: skip
    free = JKOFlowDensity(**settings).fit(X)
    limited = JKOFlowDensity(**settings, time_limit=1e9).fit(X)
    np.testing.assert_array_equal(free.score_samples(X), limited.score_samples(X))
    assert all(
        math.isclose(a, b)
        for a, b in itertools.zip_longest(free.loss_curve_, limited.loss_curve_)
    )


# Ten seconds an iteration, and 400 of them a block.
@pytest.mark.parametrize(
    "seconds, batch_size, max_iter, n_blocks",
    [
        (50.0, 100, 10**6, 1),
        (1e4, 100, 10**6, 2),
        (1e6, 100, 10**6, 3),
        # 25 passes over 500 rows are 3125 iterations.
        (1e4, 4, 10**6, 1),
        (7e4, 4, 10**6, 2),
        # What no block does takes no time.
        (1e4, 4, 100, 2),
    ],
)
def test_little_time_is_spent_on_few_blocks(seconds, batch_size, max_iter, n_blocks):
    class Working(Clock):
        """Moves by ten seconds every iteration, and only then."""

    clock = Working()
    limited = crew(clock, seconds, max_iter=max_iter, batch_size=batch_size)
    sizes = (0.5, 1.0, math.inf)
    original = BlockTrainer.advance

    def advance(self, n_iter):
        clock.now += 10.0 * n_iter
        return original(self, n_iter)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BlockTrainer, "advance", advance)
        fields = [limited.new_field(2, limited.generators[0])]
        made = limited._affordable(sizes, limited.folds, fields)
    assert made == (*sizes[: n_blocks - 1], math.inf)


@pytest.mark.parametrize(
    "n, settings, n_iter",
    [
        (1200, {}, 200),
        (1200, {"batch_size": 24, "time_limit": 1e9}, 200),
        (2500, {"batch_size": 100}, 500),
        (2000, {"batch_size": 80}, 500),
        # 25 passes.
        (2000, {"batch_size": 80, "time_limit": 1e9}, 625),
        (2500, {"batch_size": 250, "time_limit": 1e9}, 500),
    ],
)
def test_within_a_limit_all_of_many_rows_are_seen_often_enough(n, settings, n_iter):
    X = np.random.RandomState(0).standard_normal((n, 4))
    density = JKOFlowDensity(
        max_blocks=1, hidden_layer_sizes=(2, 2), early_stopping=False, **settings
    )
    assert density.fit(X).n_iter_ == n_iter


@pytest.mark.parametrize(
    "n, d, n_batch",
    [
        (100, 2, 100),
        (1000, 5, 128),
        (4000, 5, 250),
        (20_000, 3, 1000),
        (10**6, 3, 1000),
        (20_000, 4, 500),
        (75_000, 4, 500),
        (150_000, 4, 1000),
        (10**6, 60, 2000),
    ],
)
def test_batches_follow_the_rows(n, d, n_batch):
    density = JKOFlowDensity()
    density.n_features_in_ = d
    assert _options(density, n).batch_size == n_batch


@pytest.mark.parametrize(
    "n, d, settings, n_steps",
    [
        (2000, 4, {}, 1),
        (2000, 4, {"activation": "tanh"}, 1),
        (1999, 4, {}, 2),
        (2000, 3, {}, 2),
        (2000, 3, {"activation": "silu"}, 1),
        (2000, 4, {"activation": "fourier"}, 2),
        (2000, 4, {"time_dependent": True}, 2),
        (100, 2, {"n_ode_steps": 1}, 1),
        (2000, 4, {"n_ode_steps": 3}, 3),
    ],
)
def test_one_solver_step_is_enough_where_it_holds(n, d, settings, n_steps):
    density = JKOFlowDensity(**settings)
    density.n_features_in_ = d
    assert _options(density, n).n_ode_steps == n_steps


def test_a_long_limit_gives_mixtures_no_more_than_some_minutes():
    hour = 3600.0
    work = [
        _mixture_work(JKOFlowDensity(time_limit=limit))
        for limit in (hour / 60, hour, 10 * hour)
    ]
    assert work[0] < work[1] == work[2] <= _RATE * hour / 10
