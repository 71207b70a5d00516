"""Training that explodes, and training that is broken off, leave a usable model."""

import itertools
import math

import numpy as np
import pytest
import torch
from engine import block, generator, samples
from sklearn.exceptions import ConvergenceWarning

from skjko import JKOFlowDensity, JKOSchedule, MLPField, RungeKutta, VelocityField
from skjko.datasets import moons
from skjko.flow.block_training import BlockTrainer
from skjko.flow.fields import MLP
from skjko.flow.training_config import TrainingConfig


class Faulty(MLP):
    """A network to whose velocities something happens in some of the iterations."""

    # A function of the iteration, counted over all blocks, and of velocities.
    fault, iterations = None, None

    def dynamics(self, context=None):
        inner, number = super().dynamics(context), None

        def evaluate(t, x):
            nonlocal number
            velocity, divergence = inner(t, x)
            # Nothing else than training needs gradients.
            if Faulty.fault is not None and torch.is_grad_enabled():
                number = next(Faulty.iterations) if number is None else number
                velocity = Faulty.fault(number, velocity)
            return velocity, divergence

        return evaluate


class FaultyField(VelocityField):
    def build(self, n_features, generator=None):
        return Faulty(n_features, (16, 16), "tanh", 2.0, generator=generator)


@pytest.fixture
def happens():
    """Return what sets the fault of the fields above, until the test is over."""

    def start(fault):
        Faulty.fault, Faulty.iterations = fault, itertools.count()

    yield start
    Faulty.fault = None


@pytest.fixture(scope="module")
def X():
    return moons().sample(1500, random_state=0)


def quick(**parameters):
    settings = {
        "max_blocks": 3,
        "field": FaultyField(),
        "solver": RungeKutta(n_steps=1),
        "max_iter": 20,
        "learning_rate_init": 0.03,
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
    start = block(FaultyField().build(2, generator()))
    return BlockTrainer(start, samples(x), config, generator(1))


def train(one, n_iter):
    for _ in range(n_iter):
        one.step(one.n_iter / 100, 1 / 100)


def nan_from(first):
    """A fault that begins at an iteration and does not end."""
    return lambda i, v: v * math.nan if i >= first else v


@pytest.mark.parametrize(
    "poison", [lambda v: v * math.nan, lambda v: v * math.inf, lambda v: v + 1e4]
)
def test_an_iteration_that_explodes_is_undone(happens, X, poison):
    happens(lambda i, v: poison(v) if i == 47 else v)
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


def test_a_block_that_explodes_for_ever_is_given_up(happens, X):
    happens(nan_from(30))
    one = trainer(X)
    train(one, 100)
    assert one.failed
    assert one.n_iter == 100
    assert np.isfinite(one.losses).all()
    assert all(torch.isfinite(p).all() for p in one.average.parameters())


@pytest.mark.parametrize("early_stopping", [True, False])
def test_a_block_given_up_is_named_and_the_others_stay(happens, X, early_stopping):
    happens(nan_from(20))
    density = quick(early_stopping=early_stopping)
    with pytest.warns(ConvergenceWarning, match="Block 2 was left out"):
        density.fit(X)
    assert density.n_blocks_ == 1
    assert_usable(density, X)


def test_nothing_but_explosions_leaves_the_gaussian(happens, X):
    happens(nan_from(0))
    with pytest.warns(ConvergenceWarning, match="Block 1 was left out"):
        density = quick().fit(X)
    assert density.n_blocks_ == 0
    assert_usable(density, X)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("rate, n", [(3.0, 1500), (300.0, 1500), (300.0, 200)])
def test_absurd_learning_rates(X, rate, n):
    density = quick(learning_rate_init=rate, field=MLPField((16, 16)), max_blocks=2)
    assert_usable(density.fit(X[:n]), X)


def interrupt_at(iteration):
    """Press Ctrl-C in an iteration."""

    def fault(i, velocity):
        if i == iteration:
            raise KeyboardInterrupt
        return velocity

    return fault


@pytest.fixture(scope="module")
def movements(X):
    """Those of whole fits, with early stopping and without."""
    fits = [quick(early_stopping=e).fit(X) for e in (False, True)]
    assert all(fit.n_blocks_ >= 2 for fit in fits)
    return [fit.movements_ for fit in fits]


@pytest.mark.parametrize("after, n_finished", [(0, 0), (19, 0), (20, 1), (45, 2)])
@pytest.mark.parametrize("early_stopping", [True, False])
def test_ctrl_c_keeps_the_finished_blocks(
    happens, X, movements, after, n_finished, early_stopping
):
    happens(interrupt_at(after))
    with pytest.warns(ConvergenceWarning, match=f"has the {n_finished} flow blocks"):
        density = quick(early_stopping=early_stopping).fit(X)
    assert density.n_blocks_ == n_finished
    assert_usable(density, X)
    whole = movements[early_stopping]
    np.testing.assert_array_equal(density.movements_, whole[:n_finished])


def test_ctrl_c_in_a_later_round_keeps_the_flow_before_it(happens, X):
    parent = quick(max_blocks=1, early_stopping=False).fit(X)
    happens(interrupt_at(30))
    schedule = JKOSchedule(n_refinements=1)
    with pytest.warns(ConvergenceWarning, match="has the 1 flow blocks"):
        density = quick(max_blocks=1, schedule=schedule, early_stopping=False).fit(X)
    np.testing.assert_array_equal(density.movements_, parent.movements_)
    assert [r.accepted for r in density.history_] == [True, False]
    assert_usable(density, X)


# Three folds train a block; then all samples do.
@pytest.mark.parametrize("after", [20, 65])
def test_ctrl_c_in_cross_validation(happens, X, after):
    happens(interrupt_at(after))
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        density = quick(max_blocks=2).fit(X[:300])
    assert_usable(density, X)
