"""Rounds of training: step sizes, halves, what stays, and how a fit goes on."""

import itertools
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from skjko import JKOFlowDensity
from skjko.datasets import eight_gaussians, moons
from skjko.flow import history, ode, schedule, scheme
from skjko.flow.fields import Confined, MLPField, Part
from skjko.flow.flow import Flow
from skjko.flow.fold import Fold
from skjko.flow.pace import Deadline, Pace
from skjko.flow.rows import Rows
from skjko.flow.training import Options


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def random_field(time_dependent=True):
    field = MLPField(
        3, (12, 12), "tanh", time_dependent=time_dependent, generator=generator()
    ).double()
    for i, parameter in enumerate(field.parameters()):
        parameter.data = 0.4 * normal(*parameter.shape, seed=i)
    return field.requires_grad_(False)


# -------------------------------------------------------------------- step sizes


def test_step_sizes_move_halfway_to_even_movements():
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


# ------------------------------------------------------------------------ halves


def flow_of(fields, x, n_steps):
    log_det = 0.0
    for field in fields:
        solution = ode.integrate(field.dynamics(), x, ode.uniform_grid(n_steps))
        x, log_det = solution.y, log_det + solution.log_det
    return x, log_det


@pytest.mark.parametrize("time_dependent", [False, True])
@pytest.mark.parametrize("confine", [False, True])
def test_halves_have_the_flow_of_the_whole(time_dependent, confine):
    field, x = random_field(time_dependent), normal(20, 3, seed=9)
    if confine:
        field = Confined(field, 2.5)
    first, second = field.halves()
    quarters = [*first.halves(), *second.halves()]
    # The halves on half as many steps are the same discrete map, to rounding.
    whole = flow_of([field], x, 16)
    torch.testing.assert_close(flow_of([first, second], x, 8), whole)
    torch.testing.assert_close(flow_of(quarters, x, 4), whole)
    inner = [getattr(q, "field", q) if confine else q for q in quarters]
    assert all(isinstance(q, Part) and not isinstance(q.field, Part) for q in inner)
    pointers = [{p.data_ptr() for p in q.parameters()} for q in quarters]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(pointers, 2))


# ------------------------------------------------------------------------ rounds


def planar_crew(n=1500, held_out=True, max_iter=60, seed=0):
    truth = eight_gaussians()

    def rows(n, seed):
        x = torch.tensor(truth.sample(n, random_state=seed) / 2, dtype=torch.float32)
        return Rows(x, torch.ones(n))

    fold = Fold(rows(n, 0))
    if held_out:
        fold = Fold(rows(n, 0), rows(1000, 1), torch.zeros(1000))
    return scheme.Crew(
        [fold],
        lambda d, g: MLPField(d, (32, 32), "fourier", 6.0, generator=g),
        Options(max_iter=max_iter, batch_size=500),
        [generator(seed)],
    )


def plan(*n_iters):
    return [history.BlockRecord(math.nan, n, n, math.nan, []) for n in n_iters]


@pytest.fixture(scope="module")
def crew():
    crew = planar_crew()
    crew.grow((0.5, 1.0, math.inf), plan=plan(60, 60, 60))
    return crew


def double(blocks):
    return Flow(2, pickle.loads(pickle.dumps(blocks))).double()


def test_a_refined_flow_equals_its_parent_before_training(crew):
    (halves,), sizes = crew._split()
    assert len(halves) == 2 * len(crew.flows[0])
    assert tuple(block.step_size for block in halves) == sizes
    x = crew.folds[0].held_out.x[:200].double()
    parent, refined = double(crew.flows[0]), double(halves)
    for flow, n_steps in ((parent, 32), (refined, 16)):
        for block in flow.blocks:
            block.n_ode_steps = n_steps
    torch.testing.assert_close(parent(x), refined(x))


def copied(crew):
    return scheme.Crew(
        crew.folds,
        crew.new_field,
        crew.options,
        [generator(1)],
        flows=list(crew.flows),
        rounds=crew.rounds,
    )


def test_one_round_makes_movements_even(crew):
    before = schedule.evenness(crew.step_sizes, crew.movements)
    other = copied(crew)
    other.reparameterize(8.0)
    made = other.rounds[-1]
    sizes = [r.step_size for r in made.records]
    after = schedule.evenness(sizes, [r.movement for r in made.records])
    assert before > 2
    assert after < 1.5
    assert math.isinf(sizes[-1])


def test_refinement_doubles_the_blocks_where_it_pays():
    crew = planar_crew(max_iter=25)
    crew.grow((1.0,))
    nll = crew.records[-1].validation_nll
    assert crew.refine()
    assert len(crew.flows[0]) == len(crew.records) == 2
    assert crew.step_sizes == (0.5, 0.5)
    assert crew.records[-1].validation_nll < nll
    # With one half the parent's time, a half moves less far than the parent did.
    assert max(crew.movements) < crew.rounds[0].records[0].movement


def test_a_round_that_loses_changes_nothing(crew, monkeypatch):
    monkeypatch.setitem(scheme._LEAST_GAIN, history.REFINE, math.inf)
    other = copied(crew)
    assert not other.refine()
    assert other.flows[0] is crew.flows[0]
    assert other.records == crew.records
    assert not other.rounds[-1].accepted
    assert len(other.rounds[-1].records) == 6


@pytest.mark.parametrize("max_iter", [4, 38])
@pytest.mark.parametrize("held_out", [True, False])
def test_steered_blocks_train_for_no_longer_than_the_others(max_iter, held_out):
    crew = planar_crew(held_out=held_out, max_iter=max_iter)
    crew.grow((0.5, 1.0), plan=plan(max_iter, max_iter))
    crew.reparameterize(8.0)
    made = crew.rounds[-1]
    assert made.n_minibatches == 2 * max_iter
    for record in made.records:
        assert 0 < record.n_iter <= max_iter
        assert len(record.losses) == record.n_iter


@pytest.mark.parametrize(
    "n_rows, patience, n_done",
    [
        # Rows that were seen often: it ends with the first score that is a loss.
        pytest.param(100, 5, 20, id="many passes"),
        # Five passes are 50 iterations, before which no loss counts.
        pytest.param(1000, 5, 50, id="few passes, a loss"),
        pytest.param(700, 2, 50, id="few passes, patience"),
    ],
)
def test_what_was_lost_in_few_passes_may_come_back(
    monkeypatch, n_rows, patience, n_done
):
    rows = [Rows(torch.randn(n, 2), torch.ones(n)) for n in (n_rows, 50)]
    options = Options(max_iter=100, batch_size=100, patience=patience)
    stage = scheme.Stage(
        [Fold(*rows, torch.zeros(50))],
        [MLPField(2, (4, 4), "tanh", generator=generator(0))],
        math.inf,
        options,
        [generator(0)],
        Pace(100),
    )
    # Before, after ten iterations, and from then on: worse than no block, or than best.
    loss = 2.0 if patience == 5 else 0.95
    values = iter([1.0, 0.9, *[loss] * 9])
    monkeypatch.setattr(
        stage, "_objective", lambda *_: [torch.full((50,), next(values))]
    )
    stage.search(lambda *_: None)
    assert stage.n_iter == 10
    assert stage.n_done == n_done


# ------------------------------------------------------------------- regularization


def noisy_crew(held_out=True, **options):
    """A crew on few rows of eight columns, which a wide field learns by heart."""

    def rows(n, seed):
        x = torch.randn(n, 8, generator=generator(seed))
        x[:, 0] = 0.3 * x[:, 0] + torch.sin(2 * x[:, 1]) + torch.sin(2 * x[:, 2])
        return Rows(x / x.std(0), torch.ones(n))

    folds = [Fold(rows(1000, 0), rows(1000, 1), torch.zeros(1000))]
    return scheme.Crew(
        folds if held_out else [Fold(folds[0].train)],
        lambda d, g: MLPField(d, (64, 64), "silu", generator=g),
        Options(**{"max_iter": 300, "batch_size": 100, **options}),
        [generator(2)],
    )


def stages_of(monkeypatch):
    """Return the list that the settings of all stages to come go into."""
    made = []

    class Spy(scheme.Stage):
        def __init__(self, folds, fields, step_size, options, *rest):
            made.append(options)
            super().__init__(folds, fields, step_size, options, *rest)

    monkeypatch.setattr(scheme, "Stage", Spy)
    return made


def test_what_has_learned_noise_is_trained_again_with_decay(monkeypatch):
    made = stages_of(monkeypatch)
    crew = noisy_crew()
    crew.train((0.5, math.inf), 0, 0, 8.0)
    grown, regularized = crew.rounds
    first = grown.records[0]
    assert first.n_iter < 0.6 * first.n_planned
    assert (grown.kind, regularized.kind) == ("grow", "regularize")
    assert regularized.accepted
    assert crew.step_sizes == (math.inf,)
    assert len(crew.flows[0]) == 1
    nlls = [r.records[-1].validation_nll for r in crew.rounds]
    assert nlls[1] < nlls[0]
    *of_growth, of_regularization = made
    assert all(o == crew.options for o in of_growth)
    assert of_regularization.alpha > 0
    assert of_regularization.learning_rate > crew.options.learning_rate
    # No other round is to follow the same way.
    assert not crew._has_learned_noise


def test_without_time_nothing_is_regularized(monkeypatch):
    crew = noisy_crew()
    grow = crew.grow

    def grow_until_time_is_up(step_sizes):
        grow(step_sizes)
        crew._round_deadline = Deadline(0.0)

    monkeypatch.setattr(crew, "grow", grow_until_time_is_up)
    crew.train((0.5, math.inf), 0, 0, 8.0)
    assert crew._has_learned_noise
    assert [r.kind for r in crew.rounds] == ["grow"]


def test_a_larger_decay_that_was_asked_for_stays(monkeypatch):
    made = stages_of(monkeypatch)
    crew = noisy_crew(alpha=7.0, max_iter=4)
    crew.regularize()
    assert [o.alpha for o in made] == [7.0]


def test_a_regularization_that_loses_changes_nothing(monkeypatch):
    crew = noisy_crew(max_iter=20)
    crew.grow((0.5, math.inf))
    flow, records = crew.flows[0], crew.records
    monkeypatch.setitem(scheme._LEAST_GAIN, history.REGULARIZE, math.inf)
    assert not crew.regularize()
    assert crew.flows[0] is flow
    assert crew.records == records
    assert not crew.rounds[-1].accepted


@pytest.mark.parametrize("n_iters", [(40, 100), (100, 40), (100, 61)])
def test_blocks_that_were_best_in_the_end_have_learned_no_noise(n_iters):
    crew = noisy_crew()
    records = [history.BlockRecord(0.5, n, 100, 1.0, [], 1.0) for n in n_iters]
    crew.rounds = [history.Round("grow", records, 0, True, 200)]
    assert crew._has_learned_noise == (min(n_iters) < 60)


def test_a_follower_regularizes_as_was_decided(monkeypatch):
    decided = noisy_crew(max_iter=20)
    decided.grow((0.5, math.inf))
    monkeypatch.setitem(scheme._LEAST_GAIN, history.REGULARIZE, -math.inf)
    assert decided.regularize()
    made = stages_of(monkeypatch)
    follower = noisy_crew(held_out=False, max_iter=20)
    follower.follow(decided.rounds)
    # Blocks that make way are not trained on all rows.
    assert [o.alpha > 0 for o in made] == [True]
    assert [r.kind for r in follower.rounds] == ["grow", "regularize"]
    assert follower.step_sizes == (math.inf,)
    assert len(follower.flows[0]) == 1


def test_without_held_out_rows_all_rounds_run_in_full_and_stay():
    crew = planar_crew(held_out=False, max_iter=20)
    crew.train((0.5, math.inf), 1, 1, 8.0)
    assert [r.kind for r in crew.rounds] == ["grow", "refine"]  # one block is even
    assert all(r.accepted for r in crew.rounds)
    assert all(b.n_iter == 20 for r in crew.rounds for b in r.records)
    assert len(crew.flows[0]) == 4


def test_a_crew_follows_what_another_one_decided(crew):
    decided = copied(crew)
    decided.reparameterize(8.0)
    decided.refine()
    follower = planar_crew(held_out=False)
    follower.follow(decided.rounds)
    assert len(follower.rounds) == 3
    assert follower.step_sizes == decided.step_sizes
    for made, other in zip(follower.rounds, decided.rounds, strict=True):
        assert (made.kind, made.accepted) == (other.kind, other.accepted)
        for a, b in zip(made.records, other.records, strict=True):
            assert (a.step_size, a.n_iter) == (b.step_size, b.n_iter)
            assert a.validation_nll == b.validation_nll


# --------------------------------------------------------------------- estimator


def quick(**parameters):
    settings = {
        "max_blocks": 2,
        "hidden_layer_sizes": (16, 16),
        "max_iter": 30,
        "mixture_map": None,
        "random_state": 0,
        **parameters,
    }
    return JKOFlowDensity(**settings)


@pytest.fixture(scope="module")
def X():
    return moons().sample(1500, random_state=0)


def assert_history_ends_in_the_flow(density):
    assert density.history_[0].round == "grow"
    last = [r for r in density.history_ if r.accepted][-1]
    np.testing.assert_array_equal(last.step_sizes, density.step_sizes_)
    np.testing.assert_array_equal(last.movements, density.movements_)
    np.testing.assert_array_equal(last.n_iter_per_block, density.n_iter_per_block_)
    assert len(density.loss_curve_) == density.n_iter_
    assert len(density.flow_.blocks) == density.n_blocks_
    if density.validation_scores_ is not None:
        assert len(density.validation_scores_) == density.n_blocks_ + 1


@pytest.mark.parametrize("n", [300, 1500])
@pytest.mark.parametrize("early_stopping", [True, False])
def test_rounds_of_an_estimator(X, n, early_stopping):
    density = quick(
        max_blocks=3,
        n_reparameterizations=1,
        n_refinements=1,
        early_stopping=early_stopping,
    ).fit(X[:n])
    assert_history_ends_in_the_flow(density)
    assert len(density.history_) > 1
    assert all(r.n_minibatches >= r.n_iter_per_block.sum() for r in density.history_)
    assert np.isfinite(density.score(X))
    back = density.inverse_transform(density.transform(X[:50]))
    assert np.abs(back - X[:50]).max() < 1e-6


@pytest.mark.parametrize("n", [300, 1500])
@pytest.mark.parametrize("early_stopping", [True, False])
def test_a_fit_goes_on_with_more_blocks(X, n, early_stopping):
    rows = X[:n]
    settings = {"early_stopping": early_stopping, "random_state": None}
    density = quick(warm_start=True, **settings).fit(rows)
    n_before, before = density.n_blocks_, density.validation_scores_
    first = [p.clone() for p in density.flow_.blocks[0].parameters()]
    density.set_params(max_blocks=4).fit(rows)
    assert_history_ends_in_the_flow(density)
    rounds = [r for r in density.history_ if r.round != "regularize"]
    assert [r.round for r in rounds] == ["grow", "grow"]
    for a, b in zip(first, density.flow_.blocks[0].parameters(), strict=True):
        assert torch.equal(a, b)
    if early_stopping:
        # The same rows are held out, whatever the seed, and they never lose.
        after = density.validation_scores_
        assert after[0] == before[0]
        assert after[-1] >= before[-1]
    else:
        assert n_before == 2
        np.testing.assert_array_equal(density.step_sizes_, [0.5, 1, 2, np.inf])


@pytest.mark.parametrize("n", [300, 1500])
def test_a_fit_goes_on_with_more_rounds(X, n):
    rows = X[:n]
    density = quick(warm_start=True).fit(rows)
    before = density.validation_scores_[-1]
    copy = pickle.loads(pickle.dumps(density))
    for model in (density, copy):
        model.set_params(n_refinements=1).fit(rows)
    assert [r.round for r in density.history_] == ["grow", "refine"]
    assert density.validation_scores_[-1] >= before
    assert_history_ends_in_the_flow(density)
    np.testing.assert_array_equal(density.score_samples(X), copy.score_samples(X))


def test_what_a_fit_cannot_go_on_with(X):
    density = quick(warm_start=True).fit(X)
    with pytest.raises(ValueError, match=r"'max_blocks'.*at least 2.*Got 1"):
        density.set_params(max_blocks=1).fit(X)
    density.set_params(max_blocks=3)
    with pytest.raises(ValueError, match=r"'hidden_layer_sizes'.*cannot change"):
        density.set_params(hidden_layer_sizes=(8, 8)).fit(X)
    density.set_params(hidden_layer_sizes=(16, 16))
    with pytest.raises(ValueError, match="2 features"):
        density.fit(np.hstack([X, X]))
    others = [
        (X[:700], {}),
        (X[::-1], {}),
        (X, {"sample_weight": np.linspace(1, 2, 1500)}),
        (X, {"X_val": X[:50] + 0.1}),
    ]
    for rows, more in others:
        with pytest.raises(ValueError, match="X_val must be those of the fit"):
            density.fit(rows, **more)
    # Nothing of this has changed what was fitted.
    assert density.n_blocks_ == len(density.flow_.blocks)
    density.set_params(max_blocks=2)
    scores = density.score_samples(X)
    with pytest.warns(UserWarning, match="Nothing to train"):
        density.fit(X)
    np.testing.assert_array_equal(density.score_samples(X), scores)


def test_warm_start_without_a_fit_before_is_a_plain_fit(X):
    warm, plain = quick(warm_start=True).fit(X), quick().fit(X)
    np.testing.assert_array_equal(warm.score_samples(X), plain.score_samples(X))
    again = warm.set_params(warm_start=False).fit(X)
    np.testing.assert_array_equal(again.score_samples(X), plain.score_samples(X))
    assert len(again.history_) == 1


# ------------------------------------------------------------------------- views


@pytest.fixture(scope="module")
def density(X):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return quick(n_refinements=1).fit(X)


def test_staged_scores_lead_from_the_gaussian_to_the_flow(density, X):
    stages = list(density.staged_score_samples(X))
    assert len(stages) == density.n_blocks_ + 1
    Z, log_det = density.gaussian_.forward(X)
    gaussian = log_det - 0.5 * (Z**2).sum(axis=1) - math.log(2 * math.pi)
    np.testing.assert_allclose(stages[0], gaussian, rtol=1e-12)
    np.testing.assert_allclose(stages[-1], density.score_samples(X), rtol=1e-12)
    assert stages[0].mean() < stages[1].mean() < stages[-1].mean()
    far = np.full((1, 2), 1e200)
    assert all(s == -np.inf for s in density.staged_score_samples(far))
    with pytest.raises(ValueError, match="3 features"):
        density.staged_score_samples(np.zeros((1, 3)))


def test_trajectory_between_the_blocks(density, X):
    ends = density.trajectory(X[:50])
    fine = density.trajectory(X[:50], n_between=2)
    assert len(fine) == 1 + 3 * density.n_blocks_
    np.testing.assert_array_equal(ends[-1], density.transform(X[:50]))
    # The same times on finer grids.
    np.testing.assert_allclose(fine[::3], ends, atol=1e-2)
    steps = np.linalg.norm(np.diff(fine, axis=0), axis=2)
    whole = np.linalg.norm(np.diff(ends, axis=0), axis=2)
    assert (steps.reshape(density.n_blocks_, 3, 50).sum(1) > whole - 1e-2).all()
    for value in (-1, 1.5, True):
        with pytest.raises(ValueError, match="'n_between'"):
            density.trajectory(X[:5], n_between=value)


def test_summary_has_a_line_for_every_block(density):
    lines = density.summary().splitlines()
    assert "2 columns" in lines[0]
    assert lines[2].split()[:2] == ["0", "Gaussian"]
    for k in range(density.n_blocks_):
        cells = lines[3 + k].split()
        assert cells[0] == str(k + 1)
        assert float(cells[-1]) == pytest.approx(
            -density.validation_scores_[k + 1], abs=1e-4
        )
        assert int(cells[4]) == density.n_ode_steps_[k]
    assert "refine" in lines[-1]
    for method in (quick().summary, lambda: quick().staged_score_samples([[0.0]])):
        with pytest.raises(NotFittedError):
            method()


# ------------------------------------------------------ what the tests above leave out


def test_a_block_at_rest_keeps_its_step_size_among_moving_ones():
    sizes = schedule.reparameterize((1.0, 2.0, 4.0), (0.6, 0.0, 0.3), 8.0)
    # Mean 0.3: h1 halfway to 1 * 0.3 / 0.6, h3 is there already.
    assert sizes == pytest.approx((0.75, 2.0, 4.0))
    assert schedule.reparameterize((), (), 8.0) == ()


@pytest.mark.parametrize("time_dependent", [False, True])
@pytest.mark.parametrize("n_context", [0, 2])
@pytest.mark.parametrize("confine", [False, True])
def test_the_divergence_of_a_part_is_the_trace(time_dependent, n_context, confine):
    field = MLPField(
        3,
        (8, 8),
        "tanh",
        time_dependent=time_dependent,
        n_context=n_context,
        generator=generator(),
    ).double()
    for i, parameter in enumerate(field.parameters()):
        parameter.data = 0.4 * normal(*parameter.shape, seed=i)
    field.requires_grad_(False)
    if confine:
        field = Confined(field, 2.0)
    x = normal(4, 3, seed=9)
    context = normal(4, n_context, seed=10) if n_context else None
    for part, middle in zip(field.halves(), (0.2, 0.7), strict=True):
        v, div = part.dynamics(context)(0.4, x)
        # Time 0.4 of a half is time 0.2 or 0.7 of the whole, passing half as fast.
        torch.testing.assert_close(v, 0.5 * field(middle, x, context))
        for i in range(len(x)):
            c = None if context is None else context[i : i + 1]
            jacobian = torch.autograd.functional.jacobian(
                lambda row, c=c, part=part: part(0.4, row[None], c)[0], x[i]
            )
            torch.testing.assert_close(div[i], jacobian.trace())


def test_halves_share_no_weights_with_their_parent():
    field, x = random_field(), normal(5, 3, seed=9)
    first, second = field.halves()
    before = [half(0.3, x).clone() for half in (first, second)]
    for parameter in field.parameters():
        parameter.zero_()
    torch.testing.assert_close([half(0.3, x) for half in (first, second)], before)


def test_a_reparameterization_that_loses_changes_nothing(crew, monkeypatch):
    monkeypatch.setitem(scheme._LEAST_GAIN, history.REPARAMETERIZE, math.inf)
    other = copied(crew)
    weights = [p.clone() for b in crew.flows[0] for p in b.parameters()]
    assert not other.reparameterize(8.0)
    assert other.flows[0] is crew.flows[0]
    kept = [p for b in other.flows[0] for p in b.parameters()]
    for a, b in zip(weights, kept, strict=True):
        assert torch.equal(a, b)
    assert other.step_sizes == crew.step_sizes
    assert other.rounds[-1].kind == "reparameterize"
    assert not other.rounds[-1].accepted


def test_a_follower_passes_over_rejected_rounds():
    decided = planar_crew(max_iter=5)
    decided.grow((0.5, math.inf), plan=plan(5, 5))
    grown = decided.rounds[0]
    lost = history.Round("refine", [grown.records[0]] * 4, 0, False, 20)
    follower = planar_crew(held_out=False, max_iter=5)
    follower.follow([grown, lost])
    assert [r.accepted for r in follower.rounds] == [True, False]
    assert follower.rounds[1] is lost
    assert follower.step_sizes == (0.5, math.inf)
    assert len(follower.flows[0]) == 2


def test_recorded_scores_are_those_of_the_held_out_rows(crew):
    flow, rows = double(crew.flows[0]), crew.folds[0].held_out.x.double()
    for k, record in enumerate(crew.records, start=1):
        nll = -Flow(2, flow.blocks[:k]).log_prob(rows).mean().item()
        assert record.validation_nll == pytest.approx(nll, abs=1e-4)
    base = -Flow(2).log_prob(rows).mean().item()
    assert crew.base_nll == pytest.approx(base, abs=1e-5)


def test_the_free_block_makes_way_for_more_blocks(X):
    rows = X[:60]
    density = quick(
        max_blocks=3, max_iter=5, early_stopping=False, warm_start=True
    ).fit(rows)
    np.testing.assert_array_equal(density.step_sizes_, [0.5, 1, np.inf])
    before = [[p.clone() for p in b.parameters()] for b in density.flow_.blocks]
    density.set_params(max_blocks=5).fit(rows)
    np.testing.assert_array_equal(density.step_sizes_, [0.5, 1, 2, 4, np.inf])
    after = [list(b.parameters()) for b in density.flow_.blocks]
    for k in (0, 1):
        for a, b in zip(before[k], after[k], strict=True):
            assert torch.equal(a, b)
    # Where the free block was there is another one now.
    pairs = zip(before[2], after[2], strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)
    # Three blocks of five iterations, then the three that are new.
    assert density.n_iter_ == len(density.loss_curve_) == 30


def test_history_scores_end_in_those_of_the_flow(density):
    accepted = [r for r in density.history_ if r.accepted]
    np.testing.assert_array_equal(
        accepted[-1].validation_scores, density.validation_scores_
    )
    for made in density.history_:
        n = len(made.step_sizes)
        assert made.movements.shape == made.n_iter_per_block.shape == (n,)
        assert made.validation_scores.shape == (n + 1,)
        assert made.validation_scores[0] == density.validation_scores_[0]
        assert isinstance(made.accepted, bool)


@pytest.mark.parametrize("name", ["n_reparameterizations", "n_refinements"])
def test_a_fit_cannot_go_on_with_fewer_rounds(X, name):
    rows = X[:60]
    density = quick(
        max_blocks=1, max_iter=2, early_stopping=False, warm_start=True, **{name: 1}
    ).fit(rows)
    with pytest.raises(ValueError, match=rf"'{name}'.*at least 1.*Got 0"):
        density.set_params(**{name: 0}).fit(rows)


def test_stages_are_made_one_at_a_time(density, X, monkeypatch):
    solved = []
    forward = type(density.flow_.blocks[0]).forward

    def counted(block, *args):
        solved.append(block)
        return forward(block, *args)

    monkeypatch.setattr(type(density.flow_.blocks[0]), "forward", counted)
    stages = density.staged_score_samples(X[:5])
    assert len(solved) == 0
    next(stages)
    assert len(solved) == 0
    next(stages)
    assert len(solved) == 1


def test_the_first_stage_is_the_gaussian_model(X):
    rows = X[:60]
    density = quick(max_blocks=1, max_iter=2, early_stopping=False).fit(rows)
    gaussian = quick(max_blocks=0, early_stopping=False).fit(rows)
    first, last = density.staged_score_samples(X)
    np.testing.assert_allclose(first, gaussian.score_samples(X), rtol=1e-12)
    np.testing.assert_allclose(last, density.score_samples(X), atol=1e-9, rtol=0)
    assert np.abs(first - last).max() > 1e-4
    (only,) = gaussian.staged_score_samples(X)
    np.testing.assert_array_equal(only, first)
    assert gaussian.trajectory(X[:5], n_between=2).shape == (1, 5, 2)


def test_summary_tells_of_rejected_rounds(X, monkeypatch):
    monkeypatch.setitem(scheme._LEAST_GAIN, history.REFINE, math.inf)
    density = quick(max_blocks=1, max_iter=10, n_refinements=1).fit(X)
    assert density.n_blocks_ == 1
    lines = density.summary().splitlines()
    assert lines[-1] == "round refine: rejected, 2 blocks"
    assert len(lines) == 3 + density.n_blocks_ + 1
