"""Training that explodes, and training that is broken off, leave a usable model."""

import math

import numpy as np
import pytest
import torch
from engine import block, generator, samples, small_field
from sklearn.exceptions import ConvergenceWarning

from skjko import JKOFlowDensity, JKOSchedule, MLPField
from skjko.datasets import moons
from skjko.flow.block_training import BlockTrainer
from skjko.flow.training_config import TrainingConfig


@pytest.fixture(scope="module")
def X():
    return moons().sample(1500, random_state=0)


def quick(**parameters):
    settings = {
        "max_blocks": 3,
        "field": MLPField((16, 16)),
        "max_iter": 40,
        "init": "gaussian",
        "transforms": None,
        "random_state": 0,
        **parameters,
    }
    return JKOFlowDensity(**settings)


def assert_usable(density, X):
    assert np.isfinite(density.score_samples(X)).all()
    assert np.isfinite(density.loss_curve_).all()
    np.testing.assert_allclose(
        density.inverse_transform(density.transform(X[:50])), X[:50], rtol=1e-6
    )
    assert all(torch.isfinite(p).all() for p in density.flow_.parameters())


def trainer(X):
    x = torch.tensor(X, dtype=torch.float32)
    config = TrainingConfig(max_iter=100, batch_size=200)
    start = block(small_field(2, generator()))
    return BlockTrainer(start, samples(x), config, generator(1))


def train(one, n_iter):
    for _ in range(n_iter):
        one.step(one.n_iter / 100, 1 / 100)


def poisoned(monkeypatch, when, poison):
    """Let iterations, counted over all blocks, have a loss that is poisoned."""
    original, count = BlockTrainer.loss, iter(range(10**9))

    def loss(self, batch):
        value = original(self, batch)
        return poison(value) if when(next(count)) else value

    monkeypatch.setattr(BlockTrainer, "loss", loss)


@pytest.mark.parametrize(
    "poison", [lambda v: v * math.nan, lambda v: v * math.inf, lambda v: v + 1e4]
)
def test_an_iteration_that_explodes_is_undone(monkeypatch, X, poison):
    poisoned(monkeypatch, lambda i: i == 47, poison)
    one = trainer(X)
    train(one, 40)
    kept = [p.clone() for p in one.average.parameters()]
    train(one, 8)
    # Back at the weights of iteration 40, and on from there at half the rate.
    for before, after in zip(kept, one.average.parameters(), strict=True):
        torch.testing.assert_close(before, after, rtol=0, atol=0)
    assert one.n_rollbacks == 1
    assert not one.failed
    train(one, 52)
    assert len(one.losses) == one.n_iter == 100
    assert np.isfinite(one.losses).all()
    assert np.mean(one.losses[-10:]) < np.mean(one.losses[:10])


def test_a_block_that_explodes_for_ever_is_given_up(monkeypatch, X):
    poisoned(monkeypatch, lambda i: i >= 30, lambda v: v * math.nan)
    one = trainer(X)
    train(one, 100)
    assert one.failed
    assert one.n_iter == 100
    assert np.isfinite(one.losses).all()
    assert all(torch.isfinite(p).all() for p in one.average.parameters())


@pytest.mark.parametrize("early_stopping", [True, False])
def test_a_block_given_up_is_named_and_the_others_stay(monkeypatch, X, early_stopping):
    poisoned(monkeypatch, lambda i: i >= 40, lambda v: v * math.nan)
    density = quick(early_stopping=early_stopping)
    with pytest.warns(ConvergenceWarning, match="Block 2 was left out"):
        density.fit(X)
    assert density.n_blocks_ == 1
    assert_usable(density, X)


def test_nothing_but_explosions_leaves_the_gaussian(monkeypatch, X):
    poisoned(monkeypatch, lambda i: True, lambda v: v * math.nan)
    with pytest.warns(ConvergenceWarning, match="Block 1 was left out"):
        density = quick().fit(X)
    assert density.n_blocks_ == 0
    assert_usable(density, X)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("rate", [3.0, 300.0])
@pytest.mark.parametrize("n", [400, 1500])
def test_absurd_learning_rates(X, rate, n):
    assert_usable(quick(learning_rate_init=rate).fit(X[:n]), X)


def interrupted(monkeypatch, after):
    """Press Ctrl-C at a certain iteration, counted over all blocks."""
    original, count = BlockTrainer.loss, iter(range(10**9))

    def loss(self, batch):
        if next(count) == after:
            raise KeyboardInterrupt
        return original(self, batch)

    monkeypatch.setattr(BlockTrainer, "loss", loss)


@pytest.fixture(scope="module")
def movements(X):
    """Those of whole fits, with early stopping and without."""
    fits = [quick(early_stopping=e).fit(X) for e in (False, True)]
    assert all(fit.n_blocks_ >= 2 for fit in fits)
    return [fit.movements_ for fit in fits]


@pytest.mark.parametrize("after, n_finished", [(0, 0), (39, 0), (40, 1), (90, 2)])
@pytest.mark.parametrize("early_stopping", [True, False])
def test_ctrl_c_keeps_the_finished_blocks(
    monkeypatch, X, movements, after, n_finished, early_stopping
):
    interrupted(monkeypatch, after)
    with pytest.warns(ConvergenceWarning, match=f"has the {n_finished} flow blocks"):
        density = quick(early_stopping=early_stopping).fit(X)
    assert density.n_blocks_ == n_finished
    assert_usable(density, X)
    whole = movements[early_stopping]
    np.testing.assert_array_equal(density.movements_, whole[:n_finished])


def test_ctrl_c_in_a_later_round_keeps_the_flow_before_it(monkeypatch, X):
    parent = quick(max_blocks=1, early_stopping=False).fit(X)
    interrupted(monkeypatch, 60)
    schedule = JKOSchedule(n_refinements=1)
    with pytest.warns(ConvergenceWarning, match="has the 1 flow blocks"):
        density = quick(max_blocks=1, schedule=schedule, early_stopping=False).fit(X)
    np.testing.assert_array_equal(density.movements_, parent.movements_)
    assert [r.accepted for r in density.history_] == [True, False]
    assert_usable(density, X)


@pytest.mark.parametrize("after", [20, 130])
def test_ctrl_c_in_cross_validation(monkeypatch, X, after):
    interrupted(monkeypatch, after)
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        density = quick(max_blocks=2).fit(X[:300])
    assert_usable(density, X)
