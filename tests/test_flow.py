"""The engine against closed forms: solver, divergence, objective, JKO scheme."""

import copy
import gc
import math
import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skjko.flow import accuracy, divergence, ode, schedule, scheme
from skjko.flow.fields import Confined, MLPField, Part, VelocityField
from skjko.flow.flow import Block, Flow, in_chunks
from skjko.flow.fold import Fold
from skjko.flow.rows import Rows
from skjko.flow.training import BlockTrainer, Options


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def random_field(n_features=3, sizes=(16, 16), activation="tanh", seed=0, **kwargs):
    """A field in float64 whose every parameter is random, none of them zero."""
    field = MLPField(
        n_features, sizes, activation, generator=generator(seed), **kwargs
    ).double()
    for i, parameter in enumerate(field.parameters()):
        parameter.data = 0.4 * normal(*parameter.shape, seed=seed + i)
    return field.requires_grad_(False)


class Linear(VelocityField):
    """f = A x, whose flow is known: expm(A), log-determinant tr A."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = matrix

    def forward(self, t, x, context=None):
        return x @ self.matrix.T


class Pulsing(VelocityField):
    """f = sin(x + w t): depends on time, and fast."""

    def __init__(self, frequency, size=2.0):
        super().__init__()
        self.frequency, self.size = frequency, size

    def forward(self, t, x, context=None):
        return self.size * torch.sin(x + self.frequency * t)


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
    v, div = field.dynamics(context)(0.3, x)
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
@pytest.mark.parametrize("wrap", [Confined, Part], ids=["confined", "part"])
@pytest.mark.parametrize("with_error", [True, False])
def test_gradients_written_by_hand_match_finite_differences(
    activation, n_context, wrap, with_error
):
    inner = random_field(
        3, (4, 6), activation, time_dependent=True, n_context=n_context
    )
    field = wrap(inner, *((1.5,) if wrap is Confined else (0.25, 0.5))).double()
    field.requires_grad_(True)
    x = normal(3, 3, seed=1).requires_grad_(True)
    context = normal(3, n_context, seed=2) if n_context else None

    def solve(x, *parameters):
        dynamics = field.dynamics(context)
        assert dynamics.records
        solution = ode.integrate(dynamics, x, (0.0, 0.4, 1.0), with_error)
        return solution if with_error else solution[:2]

    assert torch.autograd.gradcheck(solve, (x, *field.parameters()))


@pytest.mark.parametrize("of_field", [False, True])
@pytest.mark.parametrize("of_rows", [False, True])
def test_only_a_solve_whose_gradients_are_wanted_is_recorded(
    monkeypatch, of_field, of_rows
):
    recorded, pull = [], ode._Recorded.apply

    def apply(*args):
        recorded.append(args)
        return pull(*args)

    monkeypatch.setattr(ode._Recorded, "apply", apply)
    field = random_field(3, (4, 6)).requires_grad_(of_field)
    x = normal(3, 3).requires_grad_(of_rows)
    y = ode.integrate(field.dynamics(), x, (0.0, 1.0)).y
    assert len(recorded) == y.requires_grad == (of_field or of_rows)


def test_a_recorded_solve_frees_what_it_holds():
    field = random_field(3, (4, 6)).requires_grad_(True)
    solution = ode.integrate(field.dynamics(), normal(3, 3), (0.0, 1.0))
    stages = weakref.ref(solution.y.grad_fn.stages[0][0])
    gc.disable()
    try:
        del solution
        assert stages() is None
    finally:
        gc.enable()


def test_confined_field_keeps_the_divergence_and_vanishes_far_away():
    confined = Confined(random_field(3, (8, 8), "silu"), 2.0).double()
    x = normal(20, 3) * 3
    v, div = confined.dynamics()(0.0, x)
    expected_v, expected_div = divergence.exact(lambda p: confined(0.0, p), x)
    torch.testing.assert_close(v, expected_v)
    torch.testing.assert_close(div, expected_div)
    far_v, far_div = confined.dynamics()(0.0, 1e8 * x / x.norm(dim=1, keepdim=True))
    assert (far_div.abs() < 1e-3).all()
    assert torch.isfinite(far_v).all()


def test_a_new_field_is_the_identity_map():
    x = normal(4, 3).float()
    for sizes in [(), (8, 8)]:
        block = Block(MLPField(3, sizes, "silu", generator=generator()), 1.0, 4)
        y, log_det, _ = block(x)
        assert torch.equal(y, x)
        assert (log_det == 0).all()


# ----------------------------------------------------------------------- solver


def test_linear_field_gives_the_matrix_exponential():
    matrix = 0.5 * normal(3, 3)
    x = normal(10, 3, seed=1)
    y, log_det, _ = ode.integrate(Linear(matrix).dynamics(), x, ode.uniform_grid(64))
    torch.testing.assert_close(
        y, x @ torch.linalg.matrix_exp(matrix).T, rtol=1e-7, atol=1e-7
    )
    torch.testing.assert_close(log_det, matrix.trace().expand(10))


def order(errors, steps):
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


@pytest.mark.parametrize(
    "field", [random_field(2, (16, 16), time_dependent=True), Pulsing(3.0)]
)
def test_runge_kutta_converges_with_order_four(field):
    x = normal(50, 2)
    exact = ode.integrate_adaptive(field.dynamics(), x, 1e-12, 1e-12)
    steps = [8, 16, 32, 64]
    solutions = [ode.integrate(field.dynamics(), x, ode.uniform_grid(n)) for n in steps]
    for part in (0, 1):
        errors = [(s[part] - exact[part]).abs().max().item() for s in solutions]
        assert order(errors, steps) == pytest.approx(4.0, abs=0.25)


def test_error_estimate_is_of_third_order_and_zero_for_a_constant_field():
    field = random_field(2, (16, 16))
    x = normal(50, 2)
    steps = [4, 8, 16, 32]
    errors = [
        ode.integrate(field.dynamics(), x, ode.uniform_grid(n), with_error=True)
        .error.mean()
        .item()
        for n in steps
    ]
    # Summed over 1/h steps, a local error of order h^4 is of order h^3.
    assert order(errors, steps) == pytest.approx(3.0, abs=0.4)
    field.out_weight.zero_()
    field.linear.zero_()
    constant = ode.integrate(field.dynamics(), x, ode.uniform_grid(2), with_error=True)
    assert constant.error.max() < 1e-20


@pytest.mark.parametrize("n_steps", [1, 2, 8])
def test_the_inverse_undoes_the_discrete_map_on_any_grid(n_steps):
    field = random_field(3, (16, 16), "silu", time_dependent=True)
    block = Block(field, 1.0, n_steps)
    x = normal(100, 3)
    torch.testing.assert_close(block.inverse(block.push(x)), x, rtol=1e-9, atol=1e-9)


def test_one_solve_backwards_is_the_inverse_to_fifth_order():
    # One more than the solver's: an odd local error is the same both ways.
    fields = [random_field(2, (16, 16), seed=seed) for seed in (0, 1)]
    y, steps = normal(100, 2), [4, 8, 16, 32]
    errors = []
    for n in steps:
        flow = Flow(2, [Block(field, 1.0, n) for field in fields])
        errors.append((flow.generate(y) - flow.inverse(y)).abs().max().item())
    assert order(errors, steps) == pytest.approx(5.0, abs=0.25)


def test_the_inverse_holds_where_a_step_is_no_contraction():
    # h L = 3 in one step: correcting by the backward step alone runs away.
    block = Block(Linear(torch.diag(torch.tensor([3.0, -0.5]).double())), 1.0, 1)
    x = normal(20, 2)
    torch.testing.assert_close(block.inverse(block.push(x)), x)


@given(seed=st.integers(0, 2**16), n=st.integers(1, 40), d=st.integers(1, 6))
@settings(max_examples=25)
def test_rows_do_not_see_each_other(seed, n, d):
    field = random_field(d, (8, 8), seed=seed)
    flow = Flow(d, [Block(Confined(field, 5.0).double(), 1.0, 3)])
    x = normal(n, d, seed=seed)
    together = flow.log_prob(x)
    alone = torch.cat([flow.log_prob(row[None]) for row in x])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    back = flow.inverse(x)
    torch.testing.assert_close(back[:1], flow.inverse(x[:1]), rtol=1e-9, atol=1e-9)


def test_chunks_join_to_the_whole():
    x = normal(5000, 2)
    (doubled,) = in_chunks(lambda rows, context: (2 * rows + context,), x, x)
    torch.testing.assert_close(doubled, 3 * x)


# -------------------------------------------------------------------- JKO scheme


def test_geometric_schedule_is_capped_and_ends_free():
    assert schedule.geometric(0.25, 2.0, 1.0, 4) == (0.25, 0.5, 1.0, 1.0)
    assert schedule.plan(0.25, 2.0, 1.0, 3, True) == (0.25, 0.5, math.inf)
    assert schedule.plan(1.0, 2.0, 1.0, 0, False) == ()
    assert schedule.plan(1.0, 2.0, 1.0, 0, True) == ()


def standardised(n, seed=0):
    """Rows whose own mean and standard deviation are 0 and 1 exactly."""
    x = normal(n, 1, seed=seed)
    return (x - x.mean()) / x.std(correction=0)


def jko_mean_and_std(mean, std, h):
    """One exact JKO step from N(mean, std^2) towards N(0, 1)."""
    return mean / (1 + h), (std + math.sqrt(std**2 + 4 * h * (h + 1))) / (2 * (1 + h))


def train_affine(x, h, max_iter=300):
    options = Options(
        max_iter=max_iter, batch_size=len(x), learning_rate=0.05, n_ode_steps=4
    )
    rows = Rows(x, torch.ones(len(x), dtype=x.dtype))
    field = MLPField(1, ()).double()
    trainer = BlockTrainer([field], [rows], h, options, [generator()])
    trainer.advance(max_iter)
    return Block(trainer.averages[0], h, 8), trainer


@pytest.mark.parametrize("h", [0.2, 1.0, 4.0])
@pytest.mark.parametrize(("mean", "std"), [(2.0, 0.5), (-1.0, 2.0), (0.0, 1.0)])
def test_the_block_trainer_takes_the_exact_jko_step_between_gaussians(mean, std, h):
    x = mean + std * standardised(64)
    block, _ = train_affine(x, h)
    y = block.push(x)
    expected_mean, expected_std = jko_mean_and_std(mean, std, h)
    assert y.mean().item() == pytest.approx(expected_mean, abs=2e-3)
    assert y.std(correction=0).item() == pytest.approx(expected_std, abs=2e-3)


@pytest.mark.slow
def test_small_steps_follow_the_ornstein_uhlenbeck_process():
    mean, std, time = 2.0, 0.5, 1.0

    def end(n_steps):
        x = mean + std * standardised(64)
        for _ in range(n_steps):
            block, _ = train_affine(x, time / n_steps, max_iter=200)
            x = block.push(x)
        return np.array([x.mean().item(), x.std(correction=0).item()])

    exact = np.array(
        [
            mean * math.exp(-time),
            math.sqrt(1 + (std**2 - 1) * math.exp(-2 * time)),
        ]
    )
    errors = [np.abs(end(k) - exact).max() for k in (2, 4, 8)]
    # The scheme is of first order: half the step, half the error.
    assert errors[1] / errors[0] == pytest.approx(0.5, abs=0.12)
    assert errors[2] / errors[1] == pytest.approx(0.5, abs=0.12)


def spiky(n, seed):
    """A comb: fine structure that a coarse solver can be fooled on."""
    teeth = torch.randint(0, 12, (n, 1), generator=generator(seed)).double()
    x = (teeth - 5.5) / 3.5 + 0.03 * normal(n, 1, seed=seed + 1)
    return torch.cat([x, normal(n, 1, seed=seed + 2)], 1).float()


def solver_gap(error_weight, grid_jitter):
    """Held-out NLL by the training grid, and by a tight adaptive solve."""
    options = Options(
        max_iter=500,
        batch_size=500,
        n_ode_steps=2,
        learning_rate=2e-2,
        error_weight=error_weight,
        grid_jitter=grid_jitter,
    )
    x = spiky(2000, seed=3)
    trainer = BlockTrainer(
        [MLPField(2, (64, 64), "fourier", 16.0, generator=generator(1))],
        [Rows(x, torch.ones(len(x)))],
        math.inf,
        options,
        [generator(2)],
    )
    trainer.advance(options.max_iter)
    field = trainer.averages[0].double()
    test = spiky(500, seed=30).double()
    grid = ode.integrate(field.dynamics(), test, ode.uniform_grid(2))
    tight = ode.integrate_adaptive(field.dynamics(), test, 1e-8, 1e-8)

    def score(solution):
        return 0.5 * solution.y.square().sum(1) - solution.log_det

    return (score(grid) - score(tight)).abs().mean().item()


@pytest.mark.slow
def test_the_guard_closes_the_gap_between_training_grid_and_tight_solve():
    assert solver_gap(error_weight=0.0, grid_jitter=0.0) > 1.0
    assert solver_gap(error_weight=2.0, grid_jitter=0.3) < 0.15


def fold(train, held_out):
    def rows(x):
        return Rows(x, torch.ones(len(x)))

    return Fold(rows(train), rows(held_out), torch.zeros(len(held_out)))


def small_field(n_features, generator):
    return MLPField(n_features, (16, 16), "tanh", 2.0, generator=generator)


def two_modes(n, seed):
    side = torch.randint(0, 2, (n, 1), generator=generator(seed)) * 2 - 1
    return (0.9 * side + 0.3 * normal(n, 1, seed=seed + 1)).float()


def grown(folds, step_sizes, **options):
    crew = scheme.Crew(folds, small_field, Options(**options), [generator()])
    crew.grow(step_sizes)
    return crew


def rows_of(x):
    return Rows(x, torch.ones(len(x)))


def test_blocks_stay_only_where_they_pay_on_held_out_rows():
    settings = {"max_iter": 100, "batch_size": 200}
    sizes = (1.0, 2.0, math.inf)
    crew = grown([fold(two_modes(1000, 0), two_modes(500, 5))], sizes, **settings)
    nll = [crew.base_nll, *(r.validation_nll for r in crew.records)]
    assert len(crew.flows[0]) == len(crew.records) >= 1
    assert all(after < before for before, after in pairwise(nll))
    # Rows that are standard normal already: nothing to gain, nothing stays.
    x = normal(4000, 1, seed=9).float()
    none = grown([fold(x[:2000], x[2000:])], sizes, **settings)
    gains = [none.base_nll] + [r.validation_nll for r in none.records]
    assert gains[0] - gains[-1] < 0.01


def test_a_free_block_lifts_the_transport_cost():
    folds = [Fold(rows_of(two_modes(500, 0)))]
    moved = [
        grown(folds, (h,), max_iter=100, batch_size=500).movements[0]
        for h in (0.05, math.inf)
    ]
    assert moved[1] > 3 * moved[0]


def test_training_survives_rows_that_overflow():
    x = torch.full((50, 1), 1e30)
    rows = Rows(x, torch.ones(50))
    options = Options(max_iter=5, batch_size=50)
    trainer = BlockTrainer(
        [small_field(1, generator())], [rows], 1.0, options, [generator()]
    )
    before = copy.deepcopy(trainer.averages[0])
    trainer.advance(5)
    for a, b in zip(before.parameters(), trainer.averages[0].parameters(), strict=True):
        assert torch.equal(a, b)


# ----------------------------------------------------------------------- accuracy


@pytest.mark.parametrize("frequency", [4.0, 16 * math.pi, 64 * math.pi])
def test_grids_see_fast_oscillation_in_time(frequency):
    flow = Flow(1, [Block(Pulsing(frequency), 1.0, 2)])
    x = normal(200, 1)
    gaps = accuracy.choose_grids(flow, [x])
    assert not gaps[0].exceeds()
    tight = ode.integrate_adaptive(Pulsing(frequency).dynamics(), x, 1e-10, 1e-10)
    exact = -0.5 * tight.y.square().sum(1) - 0.5 * math.log(2 * math.pi) + tight.log_det
    assert (flow.log_prob(x) - exact).abs().mean() < 0.01


def test_a_gap_that_no_grid_closes_is_told():
    class Rough(VelocityField):
        def forward(self, t, x, context=None):
            return 3 * torch.sin(1e5 * x)

    gaps = accuracy.choose_grids(Flow(1, [Block(Rough(), 1.0, 2)]), [normal(50, 1)])
    assert gaps[0].exceeds()
    assert accuracy.Gap(math.nan, 0.0).exceeds()
