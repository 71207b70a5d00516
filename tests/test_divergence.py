"""Estimated divergences against the exact one, alone and in training."""

import itertools
import math

import numpy as np
import pytest
import torch

from skjko import JKOFlowDensity
from skjko.datasets import moons
from skjko.flow import divergence
from skjko.flow.fields import Confined, MLPField
from skjko.flow.rows import Rows
from skjko.flow.training import BlockTrainer, Options


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def random_field(n_features=3, sizes=(16, 16), n_context=0, activation="silu"):
    field = MLPField(
        n_features, sizes, activation, n_context=n_context, generator=generator()
    ).double()
    for i, parameter in enumerate(field.parameters()):
        parameter.data = 0.4 * normal(*parameter.shape, seed=i)
    return field.requires_grad_(False)


def all_signs(x):
    """Every sign vector of d entries, the same for all rows: (2^d, n, d)."""
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=x.shape[1])))
    return signs.to(x)[:, None].expand(-1, *x.shape)


def test_the_mean_over_all_signs_is_the_trace():
    field, x = random_field(4), normal(6, 4, seed=9)
    velocity, trace = divergence.exact(lambda p: field(0.3, p), x)
    estimated = divergence.hutchinson(lambda p: field(0.3, p), x, all_signs(x))
    torch.testing.assert_close(estimated, (velocity, trace))
    # One probe alone is not: the mean is what makes it exact.
    one = divergence.hutchinson(lambda p: field(0.3, p), x, all_signs(x)[:1])[1]
    assert (one - trace).abs().max() > 1e-2


def test_finite_differences_converge_with_their_step():
    field, x = random_field(), normal(20, 3, seed=9)
    probes = divergence.rademacher(2, x, generator())

    def velocity(p):
        return field(0.3, p)

    _, expected = divergence.hutchinson(velocity, x, probes)
    scales = [0.2, 0.1, 0.05, 0.025]
    errors = []
    for scale in scales:
        v, estimate = divergence.finite_difference(velocity, x, probes, scale)
        torch.testing.assert_close(v, velocity(x))
        errors.append((estimate - expected).abs().mean().item())
    slope = np.polyfit(np.log(scales), np.log(errors), 1)[0]
    assert slope == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_finite_differences_of_a_linear_field_have_no_bias(scale):
    matrix, x = normal(3, 3), normal(5, 3, seed=1)
    _, estimate = divergence.finite_difference(
        lambda p: p @ matrix.T, x, all_signs(x), scale
    )
    torch.testing.assert_close(estimate, matrix.trace().expand(5))


def test_probes_are_signs_that_differ_by_row_and_repeat_by_seed():
    x = normal(50, 4)
    probes = divergence.rademacher(3, x, generator(1))
    assert probes.shape == (3, 50, 4)
    assert probes.dtype == x.dtype
    assert set(probes.unique().tolist()) == {-1.0, 1.0}
    assert abs(probes.mean()) < 0.2
    assert not torch.equal(probes[0, 0].expand(50, 4), probes[0])
    assert torch.equal(probes, divergence.rademacher(3, x, generator(1)))
    assert not torch.equal(probes, divergence.rademacher(3, x, generator(2)))


@pytest.mark.parametrize("n_context", [0, 2])
def test_any_field_can_be_estimated(n_context):
    field = Confined(random_field(3, n_context=n_context), 2.0).double()
    x = normal(7, 3, seed=1)
    context = normal(7, n_context, seed=2) if n_context else None

    def estimate(velocity, x):
        return divergence.hutchinson(velocity, x, all_signs(x))

    torch.testing.assert_close(
        field.dynamics_with(estimate, context)(0.3, x), field.dynamics(context)(0.3, x)
    )


@pytest.mark.parametrize("kind", ["exact", "hutchinson", "finite_difference"])
@pytest.mark.parametrize(("mean", "std", "h"), [(2.0, 0.5, 1.0), (-1.0, 2.0, 0.2)])
def test_the_exact_jko_step_between_gaussians(kind, mean, std, h):
    """In one column the estimates of an affine field have no noise."""
    z = normal(64, 1)
    x = mean + std * (z - z.mean()) / z.std(correction=0)
    options = Options(
        max_iter=300,
        batch_size=64,
        learning_rate=0.05,
        n_ode_steps=4,
        divergence=kind,
        n_probes=2,
    )
    rows = Rows(x, torch.ones(64, dtype=x.dtype))
    trainer = BlockTrainer(
        [MLPField(1, ()).double()], [rows], h, options, [generator()]
    )
    trainer.advance(300)
    field = trainer.averages[0]
    matrix, shift = field.linear.item(), field.out_bias.item()
    growth = math.exp(matrix)
    end = mean * growth + shift * math.expm1(matrix) / matrix
    root = math.sqrt(std**2 + 4 * h * (h + 1))
    assert end == pytest.approx(mean / (1 + h), abs=2e-3)
    assert std * growth == pytest.approx((std + root) / (2 * (1 + h)), abs=2e-3)


@pytest.mark.parametrize("kind", ["hutchinson", "finite_difference"])
def test_estimates_serve_training_and_scores_stay_exact(kind):
    X = moons().sample(1200, random_state=0)
    settings = {
        "max_blocks": 1,
        "hidden_layer_sizes": (16, 16),
        "max_iter": 60,
        "learning_rate_init": 0.02,
        "mixture_map": None,
        "random_state": 0,
    }
    density = JKOFlowDensity(divergence=kind, n_probes=2, **settings).fit(X)
    assert density.validation_scores_[-1] > density.validation_scores_[0] + 0.2
    exact = JKOFlowDensity(**settings).fit(X)
    assert density.score(X) == pytest.approx(exact.score(X), abs=0.2)
    assert density.score(X) != exact.score(X)
    np.testing.assert_array_equal(density.score_samples(X), density.score_samples(X))
    alone = density.score_samples(X[5:6])
    np.testing.assert_allclose(alone, density.score_samples(X)[5:6], atol=1e-9)


# ------------------------------------------------------- probes, solves and seeds


@pytest.mark.parametrize("kind", ["hutchinson", "finite_difference"])
def test_several_probes_are_averaged(kind):
    field, x = random_field(), normal(8, 3, seed=9)
    probes = divergence.rademacher(4, x, generator())

    def estimate(probes):
        if kind == "hutchinson":
            return divergence.hutchinson(lambda p: field(0.3, p), x, probes)
        return divergence.finite_difference(lambda p: field(0.3, p), x, probes, 0.1)

    singles = [estimate(probe[None])[1] for probe in probes]
    torch.testing.assert_close(estimate(probes)[1], torch.stack(singles).mean(0))
    # The probes disagree, or the average would say nothing.
    assert (singles[0] - singles[1]).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["hutchinson", "finite_difference"])
def test_probes_stay_within_a_solve_and_change_between_solves(kind, monkeypatch):
    drawn = []
    draw = divergence.rademacher

    def counted(n_probes, x, generator=None):
        drawn.append(draw(n_probes, x, generator))
        return drawn[-1]

    monkeypatch.setattr(divergence, "rademacher", counted)
    x = normal(16, 3)
    rows = Rows(x, torch.ones(16, dtype=x.dtype))
    options = Options(
        max_iter=3, batch_size=16, n_ode_steps=4, divergence=kind, n_probes=2
    )
    trainer = BlockTrainer([random_field()], [rows], 1.0, options, [generator()])
    trainer.advance(3)
    # Four Runge-Kutta steps are many evaluations, but one draw, and so is the check of
    # them by finer ones that the first iteration begins with.
    assert [probes.shape for probes in drawn] == [(2, 16, 3)] * 4
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(drawn))


@pytest.mark.parametrize("kind", ["hutchinson", "finite_difference"])
@pytest.mark.parametrize("n", [60, 1000])
def test_a_seed_determines_a_fit_by_estimates(kind, n):
    X = moons().sample(n, random_state=0)

    def fitted(seed):
        return JKOFlowDensity(
            max_blocks=1,
            hidden_layer_sizes=(8, 8),
            max_iter=6,
            divergence=kind,
            random_state=seed,
            early_stopping=False,
        ).fit(X)

    first = fitted(0)
    scores = first.score_samples(X)
    np.testing.assert_allclose(fitted(0).score_samples(X), scores, rtol=0, atol=1e-7)
    assert np.abs(fitted(1).score_samples(X) - scores).max() > 1e-3
