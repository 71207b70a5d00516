"""Fields, divergences, solver and scoring steps against closed forms."""

import gc
import itertools
import math
import weakref

import numpy as np
import pytest
import torch
from engine import Linear, Pulsing, block, generator, normal, random_field
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from skjko.flow import divergence, fields, ode, step_selection
from skjko.flow.base import StandardNormal
from skjko.flow.dynamics import Cutoff, TimeRescaled
from skjko.flow.fields import MLP
from skjko.flow.stack import Flow, in_chunks

BASE = StandardNormal()


def log_prob(flow, x):
    z, log_det = flow(x)
    return BASE.log_prob(z) + log_det


# ------------------------------------------------------------------- divergence


@pytest.mark.parametrize("activation", ["fourier", "tanh", "silu"])
@pytest.mark.parametrize("sizes", [(), (8,), (8, 6), (8, 6, 10)])
@pytest.mark.parametrize("time_dependent", [False, True])
@pytest.mark.parametrize("n_context", [0, 2])
def test_divergence_is_the_trace_of_the_jacobian(
    activation, sizes, time_dependent, n_context
):
    field = random_field(
        3, sizes, activation, time_dependent=time_dependent, n_context=n_context
    )
    x = normal(5, 3, seed=1)
    context = normal(5, n_context, seed=2) if n_context else None
    v, div = fields.dynamics(field, context)(0.3, x)
    torch.testing.assert_close(v, field(0.3, x, context))
    for i in range(len(x)):
        c = None if context is None else context[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda row, c=c: field(0.3, row[None], c)[0], x[i]
        )
        torch.testing.assert_close(div[i], jacobian.trace())


def test_closed_form_and_products_agree_in_gradients_too():
    field = random_field(4, (12, 10), "silu", time_dependent=True)
    field.requires_grad_(True)
    x = normal(6, 4)
    closed = field.dynamics()(0.7, x)[1].square().sum()
    products = divergence.exact(lambda p: field(0.7, p), x)[1].square().sum()
    parameters = list(field.parameters())
    gradients = [
        torch.autograd.grad(value, parameters, materialize_grads=True)
        for value in (closed, products)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("activation", ["fourier", "tanh", "silu"])
@pytest.mark.parametrize("n_context", [0, 2])
@pytest.mark.parametrize("wrap", ["cutoff", "interval"])
@pytest.mark.parametrize("with_error", [True, False])
def test_gradients_written_by_hand_match_finite_differences(
    activation, n_context, wrap, with_error
):
    field = random_field(
        3, (4, 6), activation, time_dependent=True, n_context=n_context
    )
    field.requires_grad_(True)
    x = normal(3, 3, seed=1).requires_grad_(True)
    context = normal(3, n_context, seed=2) if n_context else None

    def solve(x, *parameters):
        dynamics = field.dynamics(context)
        if wrap == "cutoff":
            dynamics = Cutoff(dynamics, 1.5)
        else:
            dynamics = TimeRescaled(dynamics, 0.25, 0.5)
        assert dynamics.has_vjp
        solution = ode.integrate(dynamics, x, (0.0, 0.4, 1.0), with_error)
        return solution if with_error else solution[:2]

    assert torch.autograd.gradcheck(solve, (x, *field.parameters()))


@pytest.mark.parametrize("of_field", [False, True])
@pytest.mark.parametrize("of_samples", [False, True])
def test_a_solve_has_a_graph_only_where_gradients_are_needed(of_field, of_samples):
    field = random_field(3, (4, 6)).requires_grad_(of_field)
    x = normal(3, 3).requires_grad_(of_samples)
    y = ode.integrate(field.dynamics(), x, (0.0, 1.0)).y
    assert y.requires_grad == (of_field or of_samples)
    with torch.no_grad():
        assert not ode.integrate(field.dynamics(), x, (0.0, 1.0)).y.requires_grad


def test_a_solve_frees_its_stages():
    field = random_field(3, (4, 6)).requires_grad_(True)
    solution = ode.integrate(field.dynamics(), normal(3, 3), (0.0, 1.0))
    stages = weakref.ref(solution.y.grad_fn.stages[0][0])
    gc.disable()
    try:
        del solution
        assert stages() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("estimated", [False, True])
def test_the_cutoff_keeps_the_divergence_and_vanishes_far_away(estimated):
    one = block(random_field(3, (8, 8), "silu"), radius=2.0)
    x = normal(20, 3) * 3
    estimate = divergence.exact if estimated else None
    v, div = one.dynamics(estimate=estimate)(0.0, x)
    expected_v, expected_div = divergence.exact(lambda p: one.velocity()(0.0, p)[0], x)
    torch.testing.assert_close(v, expected_v)
    torch.testing.assert_close(div, expected_div)
    far_v, far_div = one.dynamics()(0.0, 1e8 * x / x.norm(dim=1, keepdim=True))
    assert (far_div.abs() < 1e-3).all()
    assert torch.isfinite(far_v).all()


def test_a_new_field_is_the_identity_map():
    x = normal(4, 3).float()
    for sizes in [(), (8, 8)]:
        y, log_det, _ = block(MLP(3, sizes, "silu", generator=generator()))(x)
        assert torch.equal(y, x)
        assert (log_det == 0).all()


# --------------------------------------------------------- estimated divergence


def all_signs(x):
    """Every sign vector of d entries, the same for all samples: (2^d, n, d)."""
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=x.shape[1])))
    return signs.to(x)[:, None].expand(-1, *x.shape)


def test_the_mean_over_all_signs_is_the_trace():
    field, x = random_field(4, activation="silu"), normal(6, 4, seed=9)
    velocity, trace = divergence.exact(lambda p: field(0.3, p), x)
    estimated = divergence.hutchinson(lambda p: field(0.3, p), x, all_signs(x))
    torch.testing.assert_close(estimated, (velocity, trace))
    # One probe alone is not exact.
    one = divergence.hutchinson(lambda p: field(0.3, p), x, all_signs(x)[:1])[1]
    assert (one - trace).abs().max() > 1e-2


def test_finite_differences_converge_with_their_step():
    field, x = random_field(activation="silu"), normal(20, 3, seed=9)
    probes = divergence.rademacher(2, x, generator())

    def velocity(p):
        return field(0.3, p)

    _, expected = divergence.hutchinson(velocity, x, probes)
    scales, errors = [0.2, 0.1, 0.05, 0.025], []
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


def test_probes_are_signs_that_differ_by_sample_and_repeat_by_seed():
    x = normal(50, 4)
    probes = divergence.rademacher(3, x, generator(1))
    assert probes.shape == (3, 50, 4)
    assert probes.dtype == x.dtype
    assert set(probes.unique().tolist()) == {-1.0, 1.0}
    assert abs(probes.mean()) < 0.2
    assert not torch.equal(probes[0, 0].expand(50, 4), probes[0])
    assert torch.equal(probes, divergence.rademacher(3, x, generator(1)))
    assert not torch.equal(probes, divergence.rademacher(3, x, generator(2)))


@pytest.mark.parametrize("kind", ["hutchinson", "finite_difference"])
def test_several_probes_are_averaged(kind):
    field, x = random_field(activation="silu"), normal(8, 3, seed=9)
    probes = divergence.rademacher(4, x, generator())

    def estimate(probes):
        if kind == "hutchinson":
            return divergence.hutchinson(lambda p: field(0.3, p), x, probes)
        return divergence.finite_difference(lambda p: field(0.3, p), x, probes, 0.1)

    singles = [estimate(probe[None])[1] for probe in probes]
    torch.testing.assert_close(estimate(probes)[1], torch.stack(singles).mean(0))
    # The probes disagree, or the average would say nothing.
    assert (singles[0] - singles[1]).abs().max() > 1e-2


@pytest.mark.parametrize("n_context", [0, 2])
def test_any_block_can_be_estimated(n_context):
    one = block(random_field(3, n_context=n_context), radius=2.0)
    x = normal(7, 3, seed=1)
    context = normal(7, n_context, seed=2) if n_context else None

    def estimate(velocity, x):
        return divergence.hutchinson(velocity, x, all_signs(x))

    torch.testing.assert_close(
        one.dynamics(context, estimate)(0.3, x), one.dynamics(context)(0.3, x)
    )


# ----------------------------------------------------------------------- solver


def test_linear_field_gives_the_matrix_exponential():
    matrix, x = 0.5 * normal(3, 3), normal(10, 3, seed=1)
    dynamics = fields.dynamics(Linear(matrix))
    y, log_det, _ = ode.integrate(dynamics, x, ode.uniform_grid(64))
    expected = x @ torch.linalg.matrix_exp(matrix).T
    torch.testing.assert_close(y, expected, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(log_det, matrix.trace().expand(10))


def order(errors, steps):
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


@pytest.mark.parametrize(
    "field", [random_field(2, (16, 16), time_dependent=True), Pulsing(3.0)]
)
def test_runge_kutta_converges_with_order_four(field):
    x, dynamics = normal(50, 2), fields.dynamics(field)
    exact = ode.integrate_adaptive(dynamics, x, 1e-12, 1e-12)
    steps = [8, 16, 32, 64]
    solutions = [ode.integrate(dynamics, x, ode.uniform_grid(n)) for n in steps]
    for part in (0, 1):
        errors = [(s[part] - exact[part]).abs().max().item() for s in solutions]
        assert order(errors, steps) == pytest.approx(4.0, abs=0.25)


def test_error_estimate_is_of_third_order_and_zero_for_a_constant_field():
    field, x, steps = random_field(2, (16, 16)), normal(50, 2), [4, 8, 16, 32]

    def errors(n):
        grid = ode.uniform_grid(n)
        return ode.integrate(field.dynamics(), x, grid, with_error=True).error

    # Summed over 1/h steps, a local error of order h^4 is of order h^3.
    means = [errors(n).mean().item() for n in steps]
    assert order(means, steps) == pytest.approx(3.0, abs=0.4)
    field.out_weight.zero_()
    field.linear.zero_()
    assert errors(2).max() < 1e-20


@pytest.mark.parametrize("n_steps", [1, 2, 8])
def test_the_inverse_undoes_the_discrete_map_on_any_grid(n_steps):
    one = block(random_field(3, (16, 16), "silu", time_dependent=True), 1.0, n_steps)
    x = normal(100, 3)
    torch.testing.assert_close(one.inverse(one.push(x)), x, rtol=1e-9, atol=1e-9)


def test_one_solve_backwards_is_the_inverse_to_fifth_order():
    # One more than the solver's: an odd local error is the same both ways.
    own = [random_field(2, (16, 16), seed=seed) for seed in (0, 1)]
    y, steps, errors = normal(100, 2), [4, 8, 16, 32], []
    for n in steps:
        flow = Flow([block(field, 1.0, n) for field in own])
        errors.append((flow.generate(y) - flow.inverse(y)).abs().max().item())
    assert order(errors, steps) == pytest.approx(5.0, abs=0.25)


def test_the_inverse_holds_where_a_step_is_no_contraction():
    # h L = 3 in one step: correcting by the backward step alone diverges.
    one = block(Linear(torch.diag(torch.tensor([3.0, -0.5]).double())), 1.0, 1)
    x = normal(20, 2)
    torch.testing.assert_close(one.inverse(one.push(x)), x)


@given(seed=st.integers(0, 2**16), n=st.integers(1, 40), d=st.integers(1, 6))
@settings(max_examples=25)
def test_samples_are_solved_apart_from_their_batch(seed, n, d):
    flow = Flow([block(random_field(d, (8, 8), seed=seed), 1.0, 3, radius=5.0)])
    x = normal(n, d, seed=seed)
    alone = torch.cat([log_prob(flow, row[None]) for row in x])
    torch.testing.assert_close(log_prob(flow, x), alone, rtol=1e-12, atol=1e-12)
    back = flow.inverse(x)
    torch.testing.assert_close(back[:1], flow.inverse(x[:1]), rtol=1e-9, atol=1e-9)


def scored(field, x, context):
    """Positions and log-determinants by the dynamics of scores, joined."""
    y, log_det = Flow([block(field, radius=8.0)])(x, context, fast=True)
    return torch.hstack([y, log_det[:, None]])


SCORED = {
    "two layers": {"sizes": (32, 32)},
    "fourier, in time": {
        "sizes": (32, 32), "activation": "fourier", "time_dependent": True,
    },
    "context": {"sizes": (32, 32), "n_context": 2},
    "one feature": {"sizes": (32, 32), "n_features": 1},
    "one layer": {"sizes": (32,)},
    "residual": {"sizes": (16, 16), "residual": True},
}  # fmt: skip


@pytest.mark.parametrize("kwargs", SCORED.values(), ids=SCORED)
def test_velocities_of_scores_are_rounded_and_nothing_else(kwargs):
    field = random_field(**{"n_features": 3, **kwargs})
    x = normal(100, field.out_bias.shape[0])
    context = normal(100, 2, seed=1) if "n_context" in kwargs else None
    y, log_det = Flow([block(field, radius=8.0)])(x, context)
    exact = torch.hstack([y, log_det[:, None]])
    found = scored(field, x, context)
    assert found.dtype == torch.float64
    assert (found - exact).abs().max() < 2e-6
    # Far samples keep still, to all digits: they are not rounded.
    far = torch.full_like(x[:3], 1e200)
    given = None if context is None else 1e200 * context[:3]
    assert (scored(field, far, given)[:, :-1] == far).all()


@pytest.mark.parametrize("kwargs", SCORED.values(), ids=SCORED)
def test_scored_samples_do_not_depend_on_their_batch(kwargs):
    field = random_field(**{"n_features": 3, **kwargs})
    x = normal(200, field.out_bias.shape[0])
    context = normal(200, 2, seed=1) if "n_context" in kwargs else None
    expected = scored(field, x, context)
    for n in (1, 2, 3, 5, 17, 50, 131):
        rows = torch.randperm(200, generator=generator(n))[:n]
        found = scored(field, x[rows], None if context is None else context[rows])
        torch.testing.assert_close(found, expected[rows], rtol=0, atol=1e-8)


def test_chunks_join_to_the_whole():
    x = normal(5000, 2)
    (doubled,) = in_chunks(lambda rows, context: (2 * rows + context,), x, x)
    torch.testing.assert_close(doubled, 3 * x)


@pytest.mark.parametrize("time_dependent", [False, True])
@pytest.mark.parametrize("radius", [2.5, 1e6])
def test_halves_have_the_flow_of_the_whole(time_dependent, radius):
    field = random_field(3, (12, 12), time_dependent=time_dependent)
    whole, x = block(field, 1.0, 16, radius), normal(20, 3, seed=9)
    halves = whole.halves()
    quarters = [quarter for half in halves for quarter in half.halves()]
    # Halves on half as many steps are the same discrete map, to rounding.
    for parts, n in ((halves, 8), (quarters, 4)):
        for part in parts:
            part.n_steps = n
        torch.testing.assert_close(Flow(parts)(x), whole(x)[:2])
    pointers = [{p.data_ptr() for p in q.parameters()} for q in quarters]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(pointers, 2))


# ---------------------------------------------------------------- scoring steps


@pytest.mark.parametrize("frequency", [4.0, 16 * math.pi, 64 * math.pi])
def test_grids_see_fast_oscillation_in_time(frequency):
    flow, x = Flow([block(Pulsing(frequency), 1.0, 2)]), normal(200, 1)
    errors = step_selection.choose_steps(flow, BASE, [x], 1e-3)
    assert not errors[0].exceeds(1e-3)
    tight, log_det = step_selection.tight_solve(flow, x)
    exact = BASE.log_prob(tight) + log_det
    assert (log_prob(flow, x) - exact).abs().mean() < 0.01


def test_an_error_that_no_grid_closes_is_returned():
    class Rough(nn.Module):
        def forward(self, t, x, context=None):
            return 3 * torch.sin(1e5 * x)

        def dynamics(self, context=None):
            return lambda t, x: (
                3 * torch.sin(1e5 * x),
                3e5 * torch.cos(1e5 * x).sum(1),
            )

    flow = Flow([block(Rough())])
    errors = step_selection.choose_steps(flow, BASE, [normal(50, 1)], 1e-3)
    assert errors[0].exceeds(1e-3)
    assert step_selection.Discretization(math.nan, 0.0).exceeds(1e-3)


def test_a_smaller_tolerance_takes_finer_grids():
    flow = Flow([block(random_field(2, (16, 16)))])
    steps = []
    for tol in (1e-3, 1e-6, 1e-9):
        step_selection.choose_steps(flow, BASE, [normal(200, 2)], tol)
        steps.append(flow.blocks[0].n_steps)
    assert steps[0] < steps[1] < steps[2]
