"""The JKO scheme against closed forms: objective, blocks, rounds."""

# SPDX-License-Identifier: BSD-3-Clause

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from engine import (
    block,
    budget,
    flow_trainer,
    fold,
    generator,
    normal,
    samples,
    small_field,
)

from skjko.datasets import eight_gaussians
from skjko.flow import ode, run, schedule
from skjko.flow.base import StandardNormal
from skjko.flow.block_training import BlockFit, BlockTrainer
from skjko.flow.fields import MLP, dynamics
from skjko.flow.folds import displacement
from skjko.flow.records import BlockRecord, Round
from skjko.flow.run import Job
from skjko.flow.training_config import RoundsConfig, TrainingConfig

# ---------------------------------------------------------------------- step sizes


def test_a_geometric_schedule_is_capped_and_ends_free():
    assert schedule.geometric(0.25, 2.0, 1.0, 4) == (0.25, 0.5, 1.0, 1.0)
    assert schedule.plan(0.25, 2.0, 1.0, 3, True) == (0.25, 0.5, math.inf)
    assert schedule.plan(1.0, 2.0, 1.0, 0, False) == ()
    assert schedule.plan(1.0, 2.0, 1.0, 0, True) == ()


def test_step_sizes_move_halfway_to_even_displacements():
    sizes = schedule.reparameterize((1.0, 2.0, math.inf), (0.6, 0.2, 9.0), 8.0)
    # Mean 0.4: h1 halfway to 1 * 0.4 / 0.6, h2 halfway to 2 * 0.4 / 0.2.
    assert sizes == pytest.approx((1 - (1 - 0.4 / 0.6) / 2, 3.0, math.inf))
    capped = schedule.reparameterize((1.0, 2.0, math.inf), (0.6, 0.2, 9.0), 2.5)
    assert capped[1] == 2.5
    even = (0.5, 1.0, math.inf)
    assert schedule.reparameterize(even, (0.3, 0.3, 1.0), 8.0) == pytest.approx(even)
    assert schedule.reparameterize((1.0,), (0.0,), 8.0) == (1.0,)


def test_refined_step_sizes():
    assert schedule.refine((1.0, 3.0, math.inf)) == (0.5, 0.5, 1.5, 1.5, 1.0, math.inf)
    assert schedule.refine(()) == ()


def test_evenness_leaves_the_free_block_out():
    assert schedule.evenness((1.0, 2.0, math.inf), (0.6, 0.2, 9.0)) == pytest.approx(3)
    assert schedule.evenness((1.0, math.inf), (0.6, 9.0)) == 1.0
    assert math.isinf(schedule.evenness((1.0, 1.0), (0.6, 0.0)))


# ------------------------------------------------------ steps between Gaussians


def standardised(n, seed=0):
    """Samples whose own mean and standard deviation are 0 and 1 exactly."""
    x = normal(n, 1, seed=seed)
    return (x - x.mean()) / x.std(correction=0)


def jko_mean_and_std(mean, std, h):
    """One exact JKO step from N(mean, std^2) towards N(0, 1)."""
    return mean / (1 + h), (std + np.sqrt(std**2 + 4 * h * (h + 1))) / (2 * (1 + h))


def trained(field, x, h, max_iter=300, **config):
    config = TrainingConfig(**{"n_steps": 4, "max_iter": max_iter, **config})
    trainer = BlockTrainer(block(field, h), samples(x), config, generator())
    for i in range(max_iter):
        trainer.step(i / max_iter, 1 / max_iter)
    return trainer


def affine_step(x, h, max_iter=300, **config):
    field = MLP(1, ()).double()
    config = {"batch_size": len(x), "learning_rate": 0.05, **config}
    one = trained(field, x, h, max_iter, **config).average
    one.n_steps = 8
    return one.push(x)


@pytest.mark.parametrize(
    "mean, std, h, kind",
    [
        (2.0, 0.5, 0.2, "exact"),
        (-1.0, 2.0, 4.0, "exact"),
        (0.0, 1.0, 4.0, "exact"),
        # In one feature the estimates of an affine field's divergence have no noise.
        (2.0, 0.5, 1.0, "hutchinson"),
        (-1.0, 2.0, 0.2, "finite_difference"),
    ],
)
def test_an_affine_block_takes_the_exact_jko_step(mean, std, h, kind):
    y = affine_step(mean + std * standardised(64), h, divergence=kind, n_steps=2)
    expected_mean, expected_std = jko_mean_and_std(mean, std, h)
    assert y.mean().item() == pytest.approx(expected_mean, abs=2e-3)
    assert y.std(correction=0).item() == pytest.approx(expected_std, abs=2e-3)


@pytest.mark.slow
def test_small_steps_follow_the_ornstein_uhlenbeck_process():
    mean, std, time = 2.0, 0.5, 1.0

    def end(n_steps):
        x = mean + std * standardised(64)
        for _ in range(n_steps):
            x = affine_step(x, time / n_steps, max_iter=150, n_steps=2)
        return np.array([x.mean().item(), x.std(correction=0).item()])

    decay = math.exp(-time)
    exact = np.array([mean * decay, math.sqrt(1 + (std**2 - 1) * decay**2)])
    errors = [np.abs(end(k) - exact).max() for k in (2, 4)]
    # The scheme is of first order: half the step, half the error.
    assert errors[1] / errors[0] == pytest.approx(0.5, abs=0.12)


@pytest.mark.slow
def test_a_jko_step_of_a_network_is_the_exact_one_and_curl_free():
    # From N(mean, diag(std^2)) the exact step is affine, feature by feature, and the
    # gradient of a convex function, as every optimal transport map.
    d, h = 5, 0.5
    mean, std = torch.linspace(-1, 1, d), torch.linspace(0.5, 1.6, d)
    z = normal(20_000, d).float()
    x = mean + std * (z - z.mean(0)) / z.std(0)
    field = MLP(d, (16, 16), "silu", generator=generator(1))
    settings = {"batch_size": 1000, "learning_rate": 0.02, "n_steps": 2}
    one = trained(field, x, h, 300, **settings).average
    one.n_steps = 8
    expected_mean, expected_std = jko_mean_and_std(mean.numpy(), std.numpy(), h)
    exact = torch.tensor(expected_mean) + torch.tensor(expected_std / std.numpy()) * (
        x - mean
    )
    y = one.push(x)
    error = (y - exact).square().sum(1).mean().sqrt()
    moved = (exact - x).square().sum(1).mean().sqrt()
    assert error < 0.08 * moved
    points, step = x[:200].double(), 1e-4
    one = one.double()
    columns = [
        (one.push(points + step * e) - one.push(points - step * e)) / (2 * step)
        for e in torch.eye(d, dtype=torch.float64)
    ]
    jacobians = torch.stack(columns, 2) - torch.eye(d)
    curl = (jacobians - jacobians.mT).square().sum((1, 2)).mean().sqrt()
    assert curl < 0.15 * jacobians.square().sum((1, 2)).mean().sqrt()


# ------------------------------------------------------------- one block in training


def spiky(n, seed):
    """A comb: fine structure on which a coarse solver's error can be exploited."""
    teeth = torch.randint(0, 12, (n, 1), generator=generator(seed)).double()
    x = (teeth - 5.5) / 3.5 + 0.03 * normal(n, 1, seed=seed + 1)
    return torch.cat([x, normal(n, 1, seed=seed + 2)], 1).float()


def solver_error(**config):
    """Mean difference of scores by the training grid and by a tight adaptive solve."""
    field = MLP(2, (64, 64), "fourier", 16.0, generator=generator(1))
    settings = {"n_steps": 2, "batch_size": 250, "learning_rate": 2e-2, **config}
    one = trained(field, spiky(2000, seed=3), math.inf, 250, **settings).average
    test, evaluate = spiky(200, seed=30).double(), dynamics(one.field.double())
    grid = ode.integrate(evaluate, test, ode.uniform_grid(2))
    tight = ode.integrate_adaptive(evaluate, test, 1e-8, 1e-8)

    def score(solution):
        return 0.5 * solution.y.square().sum(1) - solution.log_det

    return (score(grid) - score(tight)).abs().mean().item()


@pytest.mark.slow
def test_the_error_estimate_in_the_loss_keeps_fields_solvable():
    assert solver_error(error_weight=0.0, grid_jitter=0.0, max_solver_gain=1e9) > 1.0
    assert solver_error(error_weight=2.0, grid_jitter=0.3) < 0.15


def test_training_survives_samples_that_overflow():
    x = torch.full((50, 1), 1e30)
    config = TrainingConfig(max_iter=5, batch_size=50)
    start = block(small_field(1, generator()))
    trainer = BlockTrainer(start, samples(x), config, generator())
    before = copy.deepcopy(trainer.average)
    for _ in range(5):
        trainer.step(0.5, 0.2)
    assert trainer.n_rollbacks == 5
    for a, b in zip(before.parameters(), trainer.average.parameters(), strict=True):
        assert torch.equal(a, b)


def expanding(rate):
    """The field rate x, whose exact flow multiplies x by e^rate."""
    field = MLP(2, (4, 4), "tanh", generator=generator())
    with torch.no_grad():
        field.linear.copy_(rate * torch.eye(2))
    return field


def circle(length):
    """Samples of one length."""
    angle = torch.linspace(0, 6, 100)
    return length * torch.stack([angle.cos(), angle.sin()], 1)


def factor(rate, n_steps):
    """What so many Runge-Kutta steps make of e^rate."""
    z = rate / n_steps
    return (1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24) ** n_steps


@pytest.mark.parametrize("rate, n_steps", [(4.0, 1), (6.0, 2)])
@pytest.mark.parametrize("gain, is_refined", [(1.9, False), (2.1, True)])
def test_steps_are_doubled_where_samples_gain_by_the_solver(
    rate, n_steps, gain, is_refined
):
    # The divergence is constant: the solver errs in positions alone.
    coarse, fine = factor(rate, n_steps), factor(rate, 2 * n_steps + 1)
    length = math.sqrt(2 * gain / (fine**2 - coarse**2))
    config = TrainingConfig(batch_size=50, n_steps=n_steps)
    start, x = block(expanding(rate), math.inf), circle(length)
    trainer = BlockTrainer(start, samples(x), config, generator())
    trainer.step(0.0, 0.01)
    assert trainer.average.n_steps == (2 * n_steps if is_refined else n_steps)


def test_steps_stay_where_samples_lose_by_the_solver():
    # One step makes an expansion of a contraction, which nothing learns to exploit.
    config = TrainingConfig(batch_size=50, n_steps=1)
    start = block(expanding(-6.0), math.inf)
    trainer = BlockTrainer(start, samples(circle(1.0)), config, generator())
    trainer.step(0.0, 0.01)
    assert trainer.average.n_steps == 1


def test_steps_are_not_doubled_without_end():
    config = TrainingConfig(batch_size=50, n_steps=1, max_solver_gain=-1.0)
    start = block(expanding(0.0), math.inf)
    trainer = BlockTrainer(start, samples(circle(1.0)), config, generator())
    for i in range(41):
        trainer.step(i / 41, 1 / 41)
    assert trainer.average.n_steps == 8
    assert trainer.n_rollbacks == 0
    assert np.isfinite(trainer.losses).all()


def test_a_block_of_fewer_samples_than_a_minibatch_trains():
    one = trained(small_field(1, generator()), normal(10, 1).float(), 1.0, 5)
    assert one.n_iter == 5
    assert len(one.losses) == 5


# -------------------------------------------------------------------- early stopping


def two_modes(n, seed):
    side = torch.randint(0, 2, (n, 1), generator=generator(seed)) * 2 - 1
    return (0.9 * side + 0.3 * normal(n, 1, seed=seed + 1)).float()


def fit_of(folds, **config):
    config = TrainingConfig(**{"max_iter": 60, "batch_size": 100, **config})
    start = [block(small_field(1, generator(i)), math.inf) for i in range(len(folds))]
    return BlockFit(folds, start, config, Job(budget(), generator()))


def test_the_best_weights_on_validation_samples_are_taken():
    folds = [fold(two_modes(1000, 0), two_modes(500, 5))]
    fit = fit_of(folds, n_evaluations=6)
    fit.search()
    result = fit.result()
    values = [value for _, value in result.evaluations]
    assert [n for n, _ in result.evaluations][: len(values)] == [
        10 * (i + 1) for i in range(len(values))
    ]
    assert result.n_iter == result.evaluations[int(np.argmin(values))][0]
    assert len(result.losses) == result.n_iter
    assert result.n_planned == 60


def test_a_block_that_is_worse_than_none_is_dropped():
    x = normal(4000, 1, seed=9).float()
    folds = [fold(x[:200], x[2000:])]
    fit = fit_of(folds, learning_rate=0.5, max_iter=30)
    fit.search()
    assert fit.result().blocks is None


def test_folds_share_their_decisions():
    folds = [fold(two_modes(300, s), two_modes(300, s + 50)) for s in (0, 10, 20)]
    fit = fit_of(folds)
    fit.search()
    result = fit.result()
    assert len(result.blocks) == 3
    assert result.n_minibatches == 3 * max(n for n, _ in result.evaluations)
    weights = [one["weights"]["linear"] for one in result.blocks]
    assert not torch.equal(weights[0], weights[1])


# -------------------------------------------------------------------------- rounds


def grown(folds, step_sizes, **config):
    trainer = flow_trainer(folds, **config)
    trainer.grow(step_sizes)
    return trainer


def test_blocks_are_kept_only_where_validation_gains():
    settings = {"max_iter": 100, "batch_size": 200}
    sizes = (1.0, 2.0, math.inf)
    trainer = grown([fold(two_modes(1000, 0), two_modes(500, 5))], sizes, **settings)
    before = -trainer.folds[0].nll(StandardNormal()).mean().item()
    scores = [before, *(r.validation_score for r in trainer.records)]
    assert len(trainer.flows[0]) == len(trainer.records) >= 1
    assert all(after > before for before, after in pairwise(scores))
    assert -trainer.losses()[0].mean().item() == pytest.approx(scores[-1], abs=1e-5)
    # Samples that are standard normal already: nothing to gain, nothing is kept.
    x = normal(4000, 1, seed=9).float()
    none = grown([fold(x[:2000], x[2000:])], sizes, **settings)
    assert sum(r.validation_score is not None for r in none.records) <= 1


def test_a_free_block_has_no_transport_cost():
    moved = [
        grown([fold(two_modes(500, 0))], (h,), max_iter=100, batch_size=500)
        for h in (0.05, math.inf)
    ]
    assert moved[1].displacements[0] > 3 * moved[0].displacements[0]


def test_displacements_are_those_of_the_training_samples():
    trainer = grown([fold(two_modes(500, 0))], (1.0, math.inf), max_iter=40)
    x = trainer.folds[0].train.x
    for one, moved in zip(trainer.flows[0], trainer.displacements, strict=True):
        y = one.push(x)
        assert moved == pytest.approx((y - x).square().mean().sqrt().item(), rel=1e-4)
        assert moved == pytest.approx(displacement([fold(x)], [one]), rel=1e-6)
        x = y


def planar(n=1500, validation=True, seed=0, **config):
    """A trainer of planar flows."""
    x, y = (
        torch.tensor(eight_gaussians().sample(k, random_state=s) / 2).float()
        for k, s in ((n, 0), (1000, 1))
    )
    return flow_trainer(
        [fold(x, y if validation else None)],
        lambda d, g: MLP(d, (32, 32), "fourier", 6.0, generator=g),
        **{"max_iter": 60, "batch_size": 500, **config},
    )


def plan(*n_iters):
    return [BlockRecord(math.nan, n, n, math.nan, []) for n in n_iters]


@pytest.fixture(scope="module")
def three():
    trainer = planar()
    trainer.grow((0.5, 1.0, math.inf), plan=plan(60, 60, 60))
    return trainer


def another(trainer, **config):
    """A trainer that goes on from where one is."""
    flows = [copy.deepcopy(flow) for flow in trainer.flows]
    one = planar(**config)
    one.folds, one.flows, one.rounds = trainer.folds, flows, list(trainer.rounds)
    one.use(trainer.folds)
    return one


def test_one_round_makes_displacements_even(three):
    before = schedule.evenness(three.step_sizes, three.displacements)
    other = another(three)
    other.reparameterize(8.0)
    records = other.rounds[-1].records
    sizes = [r.step_size for r in records]
    after = schedule.evenness(sizes, [r.displacement for r in records])
    assert before > 2
    assert after < 1.5
    assert math.isinf(sizes[-1])


def test_refinement_doubles_the_blocks_where_it_pays():
    trainer = planar(max_iter=25)
    trainer.grow((1.0,))
    score = trainer.records[-1].validation_score
    moved = trainer.displacements[0]
    assert trainer.refine()
    assert len(trainer.flows[0]) == len(trainer.records) == 2
    assert trainer.step_sizes == (0.5, 0.5)
    assert trainer.records[-1].validation_score > score
    # With half of the parent's time, a half moves less far than the parent did.
    assert max(trainer.displacements) < moved


def test_a_refined_flow_begins_as_its_parent(three):
    # A training without iterations: the halves as they start.
    other = planar(validation=False, max_iter=1)
    other.flows, other.rounds = copy.deepcopy(three.flows), list(three.rounds)
    other.refine(plan=plan(*[0] * 6))
    x = three.folds[0].validation.x[:200].double()

    def pushed(blocks, n_steps):
        y = x
        for one in copy.deepcopy(blocks):
            one.double().n_steps = n_steps
            y = one.push(y)
        return y

    refined = other.flows[0]
    assert len(refined) == 6
    torch.testing.assert_close(pushed(refined, 16), pushed(three.flows[0], 32))


def test_a_round_that_loses_changes_nothing():
    trainer = planar(max_iter=40)
    trainer.grow((0.5, math.inf))
    flows, records = trainer.flows, trainer.records
    # Learning rates under which retrained blocks are worse.
    other = another(trainer, max_iter=3, learning_rate=0.5, averaging=0.0)
    accepted = other.refine()
    assert not accepted
    assert [len(flow) for flow in other.flows] == [len(flow) for flow in flows]
    assert other.records == records
    assert not other.rounds[-1].accepted


@pytest.mark.parametrize("max_iter", [4, 38])
@pytest.mark.parametrize("validation", [True, False])
def test_reparameterized_blocks_train_for_no_longer(max_iter, validation):
    trainer = planar(validation=validation, max_iter=max_iter)
    trainer.grow((0.5, 1.0), plan=plan(max_iter, max_iter))
    trainer.reparameterize(8.0)
    made = trainer.rounds[-1]
    assert made.n_minibatches == 2 * max_iter
    for record in made.records:
        assert 0 < record.n_iter <= max_iter
        assert len(record.losses) == record.n_iter


def test_extension_goes_on_from_the_last_block():
    trainer = planar(max_iter=30)
    trainer.grow((math.inf,))
    score, weights = trainer.records[0].validation_score, trainer.flows[0][0].field
    before = weights.out_weight.clone()
    assert trainer.extend()
    assert len(trainer.flows[0]) == 1
    assert trainer.records[0].validation_score > score
    assert torch.equal(weights.out_weight, before)
    assert [r.kind for r in trainer.rounds] == ["grow", "extend"]


def noisy(validation=True, **config):
    """A trainer on few samples of eight features, which a wide field overfits."""

    def table(n, seed):
        x = torch.randn(n, 8, generator=generator(seed))
        x[:, 0] = 0.3 * x[:, 0] + torch.sin(2 * x[:, 1]) + torch.sin(2 * x[:, 2])
        return x / x.std(0)

    return flow_trainer(
        [fold(table(1000, 0), table(1000, 1) if validation else None)],
        lambda d, g: MLP(d, (64, 64), "silu", generator=g),
        **{"max_iter": 300, "batch_size": 100, **config},
    )


def test_a_flow_that_overfits_is_trained_again_with_decay():
    trainer = noisy()
    trainer.train(RoundsConfig((0.5, math.inf), 0, 0, 8.0))
    grow, regularize = trainer.rounds
    assert grow.records[0].n_iter < 0.6 * grow.records[0].n_planned
    assert (grow.kind, regularize.kind) == ("grow", "regularize")
    assert regularize.accepted
    assert trainer.step_sizes == (math.inf,)
    scores = [r.records[-1].validation_score for r in trainer.rounds]
    assert scores[1] > scores[0]


def test_pretrained_weights_are_no_reason_to_end_at_a_high_learning_rate():
    # It loses at first what the end of the pretraining had gained, and gains it again.
    trainer = planar(max_iter=200, learning_rate=0.05, patience=4)
    trainer.pretrain(1.0, 200)
    before = trainer.score
    trainer.grow((math.inf,))
    record = trainer.records[0]
    assert record.n_iter - record.n_pretrained > 100
    assert trainer.score > before + 0.01


def test_training_ends_whenever_time_runs_out():
    class Ticking(run.Clock):
        """A clock that goes on whenever it is read, and breaks if nothing ends."""

        def __init__(self):
            super().__init__()
            self.n_read = 0

        def __call__(self):
            self.n_read += 1
            assert self.n_read < 1000
            return float(self.n_read)

    for seconds in range(30, 40):
        clock = Ticking()
        limited = run.Run(0, [run.TimeLimit(seconds, clock)], clock)
        planar(n=200, max_iter=10_000, run=limited).grow((math.inf,))


def test_all_rounds_run_in_full_without_validation():
    trainer = planar(validation=False, max_iter=20)
    trainer.train(RoundsConfig((0.5, math.inf), 1, 1, 8.0))
    # The displacement of one block that is not free is even.
    assert [r.kind for r in trainer.rounds] == ["grow", "refine"]
    assert all(r.accepted for r in trainer.rounds)
    assert all(b.n_iter == 20 for r in trainer.rounds for b in r.records)
    assert len(trainer.flows[0]) == 4


def test_a_trainer_follows_the_decisions_of_another():
    settings = {"n": 500, "max_iter": 5, "batch_size": 250}
    decided = planar(**settings)
    decided.grow((0.5, 1.0, math.inf), plan=plan(5, 5, 5))
    decided.reparameterize(8.0)
    decided.refine()
    follower = planar(**settings, validation=False)
    follower.follow(decided.rounds)
    assert len(follower.rounds) == 3
    assert follower.step_sizes == pytest.approx(decided.step_sizes)
    for made, other in zip(follower.rounds, decided.rounds, strict=True):
        assert (made.kind, made.accepted) == (other.kind, other.accepted)
        for a, b in zip(made.records, other.records, strict=True):
            assert (a.step_size, a.n_iter) == (b.step_size, b.n_iter)
            assert a.validation_score == b.validation_score


def test_a_follower_leaves_out_what_was_replaced():
    decided = noisy(max_iter=20)
    decided.grow((0.5, math.inf))
    decided.regularize()
    rounds = list(decided.rounds)
    rounds[1] = Round(**{**vars(rounds[1]), "accepted": True})
    follower = noisy(validation=False, max_iter=20)
    follower.follow(rounds)
    assert [r.kind for r in follower.rounds] == ["grow", "regularize"]
    assert follower.step_sizes == (math.inf,)
    assert len(follower.flows[0]) == 1
