"""Scores held against a tight adaptive solve, whatever the training settings."""

import numpy as np
import pytest
import torch

from skjko import JKOFlowDensity
from skjko.datasets import rose
from skjko.flow import accuracy

SMALL = {"max_blocks": 2, "max_iter": 60, "mixture_map": None, "random_state": 0}


def heavy_tails(n, seed):
    """Correlated columns, skewed and with heavy tails, in unlike units."""
    rng = np.random.RandomState(seed)
    mixing = [[1, 0.5, 0, 0], [0, 1, -0.8, 0], [0.3, 0, 1, 0.6], [0, 0.2, 0, 1]]
    Z = rng.standard_t(3, size=(n, 4)) @ np.array(mixing)
    Z[:, 0] = np.exp(0.5 * Z[:, 0].clip(-6, 6))
    return Z * [1e-3, 1.0, 50.0, 1e6]


def flower(n, seed):
    return rose().sample(n, random_state=seed)


def tight_log_density(model, X):
    """Log-density by Dormand-Prince at 1e-8 in float64, block after block."""
    Z, log_det = model._preprocessing.forward(X)
    return accuracy.tight_log_prob(model.flow_, torch.as_tensor(Z)).numpy() + log_det


def three_kinds_of_points(model, X, X_test):
    low, high = X.min(axis=0), X.max(axis=0)
    centre, half = (low + high) / 2, (high - low) / 2
    rng = np.random.RandomState(42)
    return {
        "test rows": X_test,
        "own samples": model.sample(len(X_test), random_state=1),
        "a box three times as wide": centre
        + 3 * half * rng.uniform(-1, 1, X_test.shape),
    }


@pytest.mark.slow
@pytest.mark.parametrize("draw", [heavy_tails, flower])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"activation": "silu", "time_dependent": True},
        {"activation": "fourier", "frequency": 12.0, "n_ode_steps": 1},
        {"activation": "tanh", "frequency": 4.0, "learning_rate_init": 0.05},
        {"hidden_layer_sizes": (32,), "activation": "silu"},
        {"hidden_layer_sizes": (16, 16, 16), "time_dependent": True},
        {"step_size": 0.2, "free_block": False, "early_stopping": False},
        {"mixture_map": "auto"},
    ],
    ids=lambda settings: ", ".join(f"{k}={v}" for k, v in settings.items()) or "-",
)
def test_scores_agree_with_a_tight_adaptive_solve(draw, settings):
    X, X_test = draw(1500, 0), draw(400, 1)
    model = JKOFlowDensity(**SMALL | {"hidden_layer_sizes": (32, 32)} | settings)
    model.fit(X)
    for kind, points in three_kinds_of_points(model, X, X_test).items():
        gap = np.abs(model.score_samples(points) - tight_log_density(model, points))
        assert gap.mean() <= 0.01, kind
        assert np.quantile(gap, 0.99) <= 0.1, kind


def test_a_gap_that_cannot_be_closed_is_warned_of_by_block(monkeypatch):
    monkeypatch.setattr("skjko.flow.accuracy.MAX_STEPS", 2)
    from sklearn.exceptions import ConvergenceWarning

    model = JKOFlowDensity(**SMALL, activation="fourier", frequency=20.0)
    with pytest.warns(ConvergenceWarning, match=r"blocks .* finer solver grid: 1 "):
        model.set_params(early_stopping=False, hidden_layer_sizes=(32, 32)).fit(
            flower(300, 0)
        )
    assert model.solver_gaps_[0, 0] > 2e-3
