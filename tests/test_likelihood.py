"""Scores held against a tight adaptive solve, whatever the training settings."""

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from skjko import JKOFlowDensity, JKOSchedule, MLPField, RungeKutta
from skjko.datasets import rose
from skjko.transforms import MarginalMixtures, Radial, Whitening

SMALL = {"max_blocks": 2, "max_iter": 40, "init": "gaussian", "random_state": 0}
# Where divergences have no closed form, which take most of the time of a test.
BRIEF = {"max_blocks": 1, "max_iter": 15, "early_stopping": False}


def heavy_tails(n, seed):
    """Correlated columns, skewed and with heavy tails, in unlike units."""
    rng = np.random.RandomState(seed)
    mixing = [[1, 0.5, 0, 0], [0, 1, -0.8, 0], [0.3, 0, 1, 0.6], [0, 0.2, 0, 1]]
    Z = rng.standard_t(3, size=(n, 4)) @ np.array(mixing)
    Z[:, 0] = np.exp(0.5 * Z[:, 0].clip(-6, 6))
    return Z * [1e-3, 1.0, 50.0, 1e6]


def flower(n, seed):
    return rose().sample(n, random_state=seed)


def three_kinds_of_points(model, X, X_test):
    low, high = X.min(axis=0), X.max(axis=0)
    centre, half = (low + high) / 2, (high - low) / 2
    rng = np.random.RandomState(42)
    return {
        "test samples": X_test,
        "own samples": model.sample(len(X_test), random_state=1),
        "a box three times as wide": centre
        + 3 * half * rng.uniform(-1, 1, X_test.shape),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"field": MLPField((32, 32), activation="silu", time_dependent=True)},
        {
            "field": MLPField((32, 32), activation="fourier", frequency=12.0),
            "solver": RungeKutta(n_steps=1),
        },
        {
            "field": MLPField((32, 32), activation="tanh", frequency=4.0),
            "learning_rate_init": 0.05,
        },
        {"field": MLPField((16,), activation="silu"), **BRIEF},
        {"field": MLPField((8, 8, 8), time_dependent=True), **BRIEF},
        {
            "schedule": JKOSchedule(step_size=0.2, free_block=False),
            "early_stopping": False,
        },
        {"transforms": None},
        {"transforms": [MarginalMixtures()]},
        {"transforms": [Whitening(), Radial()]},
        {"init": "mixture"},
        {"init": "auto"},
    ],
    ids=str,
)
def test_scores_agree_with_a_tight_adaptive_solve(settings):
    draw = flower if "schedule" in settings or "init" in settings else heavy_tails
    X, X_test = draw(1000, 0), draw(60, 1)
    model = JKOFlowDensity(**SMALL | {"field": MLPField((32, 32))} | settings)
    model.fit(X)
    for kind, points in three_kinds_of_points(model, X, X_test).items():
        gap = np.abs(model.likelihood_error(points))
        assert gap.mean() <= 0.01, kind
        assert np.quantile(gap, 0.99) <= 0.1, kind


def test_errors_of_the_grid_that_stay_are_warned_of_by_block(monkeypatch):
    monkeypatch.setattr("skjko.flow.step_selection.MAX_STEPS", 2)
    field = MLPField((32, 32), activation="fourier", frequency=20.0)
    model = JKOFlowDensity(**SMALL, field=field, early_stopping=False)
    with pytest.warns(ConvergenceWarning, match=r"blocks .* finer solver grid: 1 "):
        model.fit(flower(300, 0))
    assert model.solver_errors_[0, 0] > 2e-3
