"""JKOFlowDensity as its users see it: densities, maps, samples, errors."""

import math
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import process_state, quick
from scipy import sparse
from scipy.stats import kstest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skjko import JKOFlowDensity
from skjko.datasets import moons
from skjko.flow import devices


def normal(n, d, seed=0):
    return np.random.RandomState(seed).standard_normal((n, d))


def log_normal(Z):
    """Log-density of the standard normal, row by row."""
    return -0.5 * (Z**2).sum(axis=1) - 0.5 * Z.shape[1] * math.log(2 * math.pi)


def fitted_attributes(density):
    """What decides a fit, in numbers that can be compared."""
    return {
        name: getattr(density, name)
        for name in (
            "n_blocks_",
            "step_sizes_",
            "movements_",
            "n_iter_per_block_",
            "loss_curve_",
            "validation_scores_",
            "n_ode_steps_",
        )
    } | {"mean": density.gaussian_.mean_, "components": density.gaussian_.components_}


def assert_same_fit(a, b, rtol=1e-12):
    expected = fitted_attributes(b)
    for name, value in fitted_attributes(a).items():
        np.testing.assert_allclose(value, expected[name], rtol, 1e-12, err_msg=name)


@pytest.fixture(scope="module")
def X():
    return moons().sample(2000, random_state=0)


@pytest.fixture(scope="module")
def fresh():
    """Rows that no model here has seen."""
    return moons().sample(300, random_state=1)


@pytest.fixture(scope="module", params=[None, "auto"], ids=["flow", "mixture"])
def density(request, X):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        density = JKOFlowDensity(
            max_blocks=2,
            hidden_layer_sizes=(32, 32),
            max_iter=80,
            mixture_map=request.param,
            random_state=0,
        ).fit(X)
    if request.param is None:
        assert density.n_blocks_ >= 1
    else:
        assert density.mixture_map_ is not None
    return density


# ------------------------------------------------------------------- a density


def test_density_integrates_to_one(density, X):
    # The trapezoidal rule converges faster than any power of the spacing on a density
    # that vanishes at the border, once the spacing resolves its finest structure: at
    # half the moons' width it is off by 7e-3, at a quarter by 1e-3. What is left is
    # the solver, whose log-determinant is good to 1e-3 nats in the mean.
    # Some 0.3 % of the mass are farther out than any of the rows, which end at 3.
    spacing = 0.04
    axis = np.arange(-8, 8, spacing)
    assert abs(X).max() < 3.5
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    mass = np.exp(density.score_samples(grid)).sum() * spacing**2
    assert mass == pytest.approx(1, abs=3e-3)


def test_score_is_change_of_variables(density, fresh):
    step = 1e-5
    columns = [
        (density.transform(fresh + e) - density.transform(fresh - e)) / (2 * step)
        for e in step * np.eye(2)
    ]
    log_det = np.linalg.slogdet(np.stack(columns, axis=2))[1]
    expected = log_normal(density.transform(fresh)) + log_det
    difference = np.abs(density.score_samples(fresh) - expected)
    # The log-determinant is integrated, not that of the discrete map: it agrees with
    # the Jacobian to the order of the solver, whose tolerances these are.
    assert difference.mean() < 4e-3
    assert np.quantile(difference, 0.99) < 4e-2


def test_scores_are_float64_rows(density, fresh):
    scores = density.score_samples(fresh)
    assert scores.dtype == np.float64
    assert scores.shape == (len(fresh),)
    assert np.isfinite(scores).all()


def test_a_score_does_not_depend_on_other_rows(density):
    rows = moons().sample(10_000, random_state=2)
    scores = density.score_samples(rows)
    some = [0, 1, 1023, 1024, 9999]
    alone = [density.score_samples(rows[[i]])[0] for i in some]
    np.testing.assert_allclose(alone, scores[some], atol=1e-7, rtol=0)
    order = np.random.RandomState(0).permutation(len(rows))
    permuted = density.score_samples(rows[order])
    np.testing.assert_allclose(permuted, scores[order], atol=1e-7, rtol=0)


def test_score_is_the_weighted_mean(density, fresh):
    scores = density.score_samples(fresh)
    weight = np.random.RandomState(0).uniform(size=len(fresh))
    assert isinstance(density.score(fresh), float)
    assert density.score(fresh) == pytest.approx(scores.mean(), abs=1e-9)
    expected = (weight * scores).sum() / weight.sum()
    assert density.score(fresh, sample_weight=weight) == pytest.approx(expected)
    assert abs(expected - scores.mean()) > 1e-3


def test_flow_learns_more_than_the_gaussian(density, fresh):
    gaussian = JKOFlowDensity(max_blocks=0).fit(fresh)
    truth = moons().score(fresh)
    assert gaussian.score(fresh) + 0.5 < density.score(fresh) < truth + 0.1


@pytest.mark.parametrize("angle", np.arange(0, 2 * np.pi, np.pi / 4))
def test_far_rows_score_lower_the_farther_they_are(density, X, angle):
    direction = X.std(axis=0) * [np.cos(angle), np.sin(angle)]
    distances = np.array([10.0, 30.0, 100.0, 1e3, 1e4, 1e5, 1e6])
    scores = density.score_samples(X.mean(axis=0) + distances[:, None] * direction)
    assert np.isfinite(scores).all()
    assert (np.diff(scores) < 0).all()


# ------------------------------------------------------------------- maps, samples


def test_round_trips(density, X, fresh):
    for rows in (X, fresh, 3 * X):
        back = density.inverse_transform(density.transform(rows))
        assert np.abs(back - rows).max() < 1e-6
    Z = 2 * normal(300, 2)
    assert np.abs(density.transform(density.inverse_transform(Z)) - Z).max() < 1e-6


def test_trajectory_leads_from_whitened_rows_to_transform(density, fresh):
    positions = density.trajectory(fresh)
    assert positions.shape == (density.n_blocks_ + 1, *fresh.shape)
    np.testing.assert_array_equal(
        positions[0], density._preprocessing.forward(fresh)[0]
    )
    np.testing.assert_array_equal(positions[-1], density.transform(fresh))


def test_movements_are_those_of_the_training_rows(X):
    density = quick(early_stopping=False).fit(X)
    moved = np.diff(density.trajectory(X), axis=0)
    expected = np.sqrt((moved**2).sum(axis=2).mean(axis=1))
    # Training pushes rows in float32, on its own grid.
    np.testing.assert_allclose(density.movements_, expected, rtol=0.02)


def test_samples_are_pulled_back_normal_draws(density):
    rows = density.sample(500, random_state=0)
    if density.n_blocks_ == 0:
        # Then they are drawn from the mixture itself.
        for column in density.transform(rows).T:
            assert kstest(column, "norm").pvalue > 0.001
        return
    Z = np.random.RandomState(0).standard_normal((500, 2))
    # Up to the solver: `inverse_transform` is the one that is exact.
    assert np.abs(density.transform(rows) - Z).max() < 1e-3
    exact = density.inverse_transform(Z)
    assert np.abs(rows - exact).max() < 1e-3 * exact.std()


def test_samples_keep_more_digits_than_single_precision(density):
    # Draws closer to each other than single precision tells apart.
    Z = 1 + 1e-10 * np.arange(200).reshape(100, 2)
    rows = density._model.generate(Z)
    assert len(np.unique(rows, axis=0)) == 100


def test_samples_resemble_the_data(density, X):
    rows = density.sample(4000, random_state=1)
    error = X.std(axis=0) / np.sqrt(len(X))
    assert (np.abs(rows.mean(axis=0) - X.mean(axis=0)) < 6 * error).all()
    assert np.abs(np.cov(rows.T) - np.cov(X.T)).max() < 0.15 * np.cov(X.T).max()
    # The truth punishes a blur of its narrow arms, but a Gaussian's samples far more.
    gaussian = JKOFlowDensity(max_blocks=0).fit(X).sample(4000, random_state=1)
    assert moons().score(rows) > moons().score(gaussian) / 2


def test_transformed_rows_are_about_standard_normal(density, fresh):
    for column in density.transform(fresh).T:
        assert kstest(column, "norm").pvalue > 1e-4


def test_sample_size_and_seed(density):
    assert density.sample().shape == (1, 2)
    assert density.sample(np.int64(3)).shape == (3, 2)
    a, b = (density.sample(3, random_state=s) for s in (0, 1))
    assert not np.allclose(a, b)
    np.testing.assert_array_equal(a, density.sample(3, random_state=0))
    rng = np.random.RandomState(0)
    np.testing.assert_array_equal(a, density.sample(3, random_state=rng))
    assert not np.allclose(a, density.sample(3, random_state=rng))


@pytest.mark.parametrize("n_samples", [0, -1, 1.5, "3", None, True])
def test_bad_number_of_samples(density, n_samples):
    with pytest.raises(ValueError, match="n_samples"):
        density.sample(n_samples)


# ------------------------------------------------------------------- reproducibility


@pytest.mark.parametrize("n", [200, 1100])
def test_seed_determines_the_model(X, fresh, n):
    first, again, other = (quick(random_state=s).fit(X[:n]) for s in (0, 0, 1))
    assert first.n_blocks_ >= 1
    assert_same_fit(first, again, rtol=1e-7)
    scores = first.score_samples(fresh)
    np.testing.assert_allclose(again.score_samples(fresh), scores, atol=1e-7, rtol=0)
    assert np.abs(other.score_samples(fresh) - scores).max() > 1e-3


def test_global_state_is_left_alone(X, fresh):
    before = process_state()
    density = quick().fit(X)
    assert process_state() == before
    density.score_samples(fresh)
    assert process_state() == before
    density.sample(3, random_state=0)
    assert process_state() == before


def test_fit_does_not_depend_on_torch_default_dtype(X, fresh):
    expected = quick().fit(X[:200]).score_samples(fresh)
    torch.set_default_dtype(torch.float64)
    try:
        scores = quick().fit(X[:200]).score_samples(fresh)
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_allclose(scores, expected, atol=1e-7)


def test_fit_does_not_change_its_input(X):
    rows = X[:200].copy()
    weight = np.linspace(0, 2, 200)
    quick().fit(rows, sample_weight=weight)
    np.testing.assert_array_equal(rows, X[:200])
    np.testing.assert_array_equal(weight, np.linspace(0, 2, 200))


def test_use_does_not_change_the_model(density, fresh):
    before = pickle.dumps(density)
    density.score_samples(fresh)
    density.score(fresh)
    density.transform(fresh)
    density.trajectory(fresh)
    density.inverse_transform(fresh)
    density.sample(3)
    assert pickle.dumps(density) == before


def test_refit_forgets_the_first_fit(X, fresh):
    refitted = quick().fit(normal(150, 3)).fit(X[:200])
    expected = quick().fit(X[:200])
    assert_same_fit(refitted, expected)
    np.testing.assert_array_equal(
        refitted.score_samples(fresh), expected.score_samples(fresh)
    )


# ------------------------------------------------------------------- scikit-learn


def test_clone_is_unfitted_with_the_same_parameters(density, X):
    copy = clone(density)
    assert copy.get_params() == density.get_params()
    with pytest.raises(NotFittedError):
        copy.score(X)


def test_pickle_round_trip(density, fresh):
    copy = pickle.loads(pickle.dumps(density))
    np.testing.assert_array_equal(
        copy.score_samples(fresh), density.score_samples(fresh)
    )
    np.testing.assert_array_equal(
        copy.sample(5, random_state=0), density.sample(5, random_state=0)
    )


@pytest.mark.slow
def test_grid_search_in_parallel(X):
    search = GridSearchCV(
        quick(), {"max_blocks": [0, 1]}, cv=2, n_jobs=2, error_score="raise"
    ).fit(X[:400])
    assert search.best_params_ == {"max_blocks": 1}
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.sample(3).shape == (3, 2)


def test_pipeline_with_a_column_selector(X):
    rows = np.hstack([X[:200], normal(200, 1)])
    pipeline = make_pipeline(FunctionTransformer(lambda A: A[:, :2]), quick())
    pipeline.fit(rows)
    expected = quick().fit(X[:200])
    assert pipeline.score(rows) == pytest.approx(expected.score(X[:200]))
    np.testing.assert_array_equal(
        pipeline.score_samples(rows), expected.score_samples(X[:200])
    )
    np.testing.assert_array_equal(pipeline.transform(rows), expected.transform(X[:200]))


def test_data_frames(X):
    frame = pd.DataFrame(X[:200], columns=["east", "north"])
    density = quick().fit(frame)
    assert list(density.feature_names_in_) == ["east", "north"]
    rows = density.sample(3, random_state=0)
    assert isinstance(rows, pd.DataFrame)
    assert list(rows.columns) == ["east", "north"]
    plain = quick().fit(X[:200])
    np.testing.assert_array_equal(rows, plain.sample(3, random_state=0))
    np.testing.assert_array_equal(
        density.score_samples(frame), plain.score_samples(X[:200])
    )
    with pytest.raises(ValueError, match="feature names"):
        density.score(frame[["north", "east"]])

    names = ["jkoflowdensity0", "jkoflowdensity1"]
    assert list(density.get_feature_names_out()) == names
    Z = density.set_output(transform="pandas").transform(frame)
    assert isinstance(Z, pd.DataFrame)
    assert list(Z.columns) == names
    np.testing.assert_array_equal(Z, plain.transform(X[:200]))
    # Names are forgotten with the data they came from.
    assert isinstance(density.fit(X[:200]).sample(3), np.ndarray)


# ------------------------------------------------------------------- weights


@pytest.mark.parametrize("n", [300, 1100])
def test_weight_zero_is_absence(X, fresh, n):
    """Cross-validation for n = 300, a single split for n = 1100."""
    keep = np.zeros(len(X), dtype=bool)
    keep[np.random.RandomState(0).permutation(len(X))[:n]] = True
    weighted = quick().fit(X, sample_weight=keep.astype(float))
    subset = quick().fit(X[keep])
    assert subset.n_blocks_ >= 1
    assert_same_fit(weighted, subset)
    np.testing.assert_allclose(
        weighted.score_samples(fresh), subset.score_samples(fresh), atol=1e-12, rtol=0
    )


def test_weights_have_no_unit(X, fresh):
    weight = np.random.RandomState(0).uniform(0.5, 1.5, 200)
    a, b = (quick().fit(X[:200], sample_weight=c * weight) for c in (1.0, 1024.0))
    np.testing.assert_allclose(
        a.score_samples(fresh), b.score_samples(fresh), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("n", [300, 1500])
def test_weights_move_the_density(n):
    rows = normal(n, 1)
    weight = np.where(rows[:, 0] > 0, 1.0, 0.05)
    density = quick(max_iter=60).fit(rows, sample_weight=weight)
    share = (density.sample(2000, random_state=0) > 0).mean()
    assert share > 0.85


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_bad_weights(X, weight):
    weights = np.ones(50)
    weights[3] = weight
    with pytest.raises(ValueError, match=r"(?i)weight"):
        quick().fit(X[:50], sample_weight=weights)


@pytest.mark.parametrize("n_positive", [0, 1])
def test_too_few_positive_weights(X, n_positive):
    weight = np.zeros(50)
    weight[:n_positive] = 1
    with pytest.raises(ValueError, match=r"(?i)sample.weight"):
        quick().fit(X[:50], sample_weight=weight)


# ------------------------------------------------------------------- units


@pytest.mark.parametrize("n", [300, 1100])
def test_powers_of_two_shift_scores(X, n):
    exponents = np.array([7, -20])
    rows, scale = X[:n], 2.0**exponents
    density, scaled = quick().fit(rows), quick().fit(rows * scale)
    assert density.n_blocks_ >= 1
    np.testing.assert_array_equal(density.movements_, scaled.movements_)
    np.testing.assert_allclose(
        scaled.score_samples(rows * scale),
        density.score_samples(rows) - exponents.sum() * math.log(2),
        atol=1e-9,
        rtol=0,
    )


def test_gaussian_is_equivariant_under_affine_maps_of_columns(X, fresh):
    a, b = np.array([0.3, 170.0]), np.array([-5.0, 12.0])
    density = JKOFlowDensity(max_blocks=0)
    expected = density.fit(X).score_samples(fresh) - np.log(a).sum()
    scores = density.fit(a * X + b).score_samples(a * fresh + b)
    np.testing.assert_allclose(scores, expected, atol=1e-9, rtol=0)


# ------------------------------------------------------------------- held-out rows


@pytest.mark.parametrize("n", range(2, 11))
def test_few_rows_get_the_gaussian(X, fresh, n):
    density = quick().fit(X[:n])
    assert density.n_blocks_ == 0
    assert density.n_iter_ == 1
    scores = density.score_samples(fresh)
    assert np.isfinite(scores).all()
    expected = quick(max_blocks=0).fit(X[:n]).score_samples(fresh)
    np.testing.assert_array_equal(scores, expected)


@pytest.mark.parametrize("n", [11, 12, 25])
def test_a_few_more_rows_may_train(n):
    rows = normal(n, 3)
    assert np.isfinite(quick().fit(rows).score_samples(100 * rows)).all()


def test_cross_validation_uses_all_rows(X):
    density = quick().fit(X[:300])
    assert density.n_blocks_ >= 1
    np.testing.assert_allclose(density.gaussian_.mean_, X[:300].mean(axis=0))
    assert len(density.loss_curve_) == density.n_iter_


def test_single_split_holds_rows_out(X):
    density = quick(validation_fraction=0.25).fit(X[:1100])
    # The Gaussian is that of the rows trained on, and no others.
    assert np.abs(density.gaussian_.mean_ - X[:1100].mean(axis=0)).max() > 1e-6


def test_without_early_stopping_all_rows_train(X):
    density = quick(early_stopping=False).fit(X[:1100])
    np.testing.assert_allclose(density.gaussian_.mean_, X[:1100].mean(axis=0))
    assert density.validation_scores_ is None
    np.testing.assert_array_equal(density.n_iter_per_block_, [10, 10])
    np.testing.assert_array_equal(density.step_sizes_, [0.5, np.inf])


@pytest.mark.parametrize("n", [200, 1100])
def test_validation_rows_are_used(X, n):
    X_val = moons().sample(400, random_state=5) + 0.1
    density = quick().fit(X[:n], X_val=X_val)
    np.testing.assert_allclose(density.gaussian_.mean_, X[:n].mean(axis=0))
    gaussian = quick(max_blocks=0).fit(X[:n])
    values = density.validation_scores_
    assert values[0] == pytest.approx(gaussian.score(X_val), abs=1e-5)
    # Up to the grid, which is finer in scoring.
    assert values[-1] == pytest.approx(density.score(X_val), abs=5e-3)


def test_validation_rows_are_checked(X):
    with pytest.raises(ValueError, match="3 features"):
        quick().fit(X[:50], X_val=normal(20, 3))
    with pytest.raises(ValueError, match="NaN"):
        quick().fit(X[:50], X_val=[[0.0, np.nan]])


@pytest.mark.parametrize("n", [300, 2000])
def test_held_out_scores_increase_from_block_to_block(X, n):
    density = quick(max_blocks=3, max_iter=20).fit(X[:n])
    values = density.validation_scores_
    assert density.n_blocks_ >= 1
    assert len(values) == density.n_blocks_ + 1
    assert (np.diff(values) > 0).all()
    for name in ("step_sizes_", "movements_", "n_iter_per_block_", "n_ode_steps_"):
        assert getattr(density, name).shape == (density.n_blocks_,), name
    assert density.solver_gaps_.shape == (density.n_blocks_, 2)


@pytest.mark.parametrize("n", [300, 1500])
def test_gaussian_data_stay_gaussian(n):
    """Held-out rows must keep the flow from learning noise."""
    mixing = np.array([[2.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.5, 0.1]])
    rows, unseen = normal(n, 3) @ mixing.T, normal(5000, 3, seed=1) @ mixing.T
    flow = quick(hidden_layer_sizes=(16, 16), max_iter=60, n_ode_steps=2).fit(rows)
    gaussian = quick(max_blocks=0).fit(rows)
    assert flow.score(unseen) > gaussian.score(unseen) - 0.02


# ------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "rows, message",
    [
        ([[0.0, 1.0], [np.nan, 1.0], [2.0, 3.0]], "NaN"),
        ([[0.0, 1.0], [np.inf, 1.0], [2.0, 3.0]], "infinity"),
        ([["a", "b"], ["c", "d"]], "convert"),
        ([[0.0, 1.0]], "minimum of 2"),
        (np.empty((0, 2)), "minimum of 2"),
        (np.empty((5, 0)), "0 feature"),
        ([0.0, 1.0, 2.0], "2D array"),
        (np.zeros((5, 2, 2)), "dim 3"),
        (np.eye(3) * 1j, "Complex"),
    ],
)
def test_bad_rows(rows, message):
    with pytest.raises(ValueError, match=message):
        quick().fit(rows)


def test_sparse_rows(density):
    for method in (quick().fit, density.score_samples):
        with pytest.raises(TypeError, match=r"(?i)sparse"):
            method(sparse.csr_matrix(np.eye(2)))


@pytest.mark.parametrize(
    "method", ["score_samples", "score", "transform", "trajectory", "inverse_transform"]
)
def test_bad_rows_at_use(density, method):
    use = getattr(density, method)
    with pytest.raises(ValueError, match="3 features"):
        use(np.zeros((5, 3)))
    with pytest.raises(ValueError, match="NaN"):
        use([[np.nan, 0.0]])
    with pytest.raises(ValueError, match="2D array"):
        use([0.0, 0.0])
    with pytest.raises(NotFittedError):
        getattr(quick(), method)(np.zeros((5, 2)))


@pytest.mark.parametrize(
    "name, value",
    [
        ("max_blocks", -1),
        ("max_blocks", 1.5),
        ("hidden_layer_sizes", 8),
        ("hidden_layer_sizes", np.array(8)),
        ("hidden_layer_sizes", "8"),
        ("hidden_layer_sizes", None),
        ("hidden_layer_sizes", (8, 0)),
        ("hidden_layer_sizes", (8, 8.0)),
        ("hidden_layer_sizes", (7, 8)),
        ("hidden_layer_sizes", ((8, 8),)),
        ("activation", "relu"),
        ("activation", None),
        ("frequency", 0),
        ("frequency", "high"),
        ("time_dependent", "yes"),
        ("step_size", 0),
        ("step_size", np.inf),
        ("step_size", np.nan),
        ("step_size_growth", 0.5),
        ("max_step_size", 0.0),
        ("free_block", None),
        ("movement_tol", -1e-9),
        ("n_reparameterizations", -1),
        ("n_refinements", 0.5),
        ("divergence", "approximate"),
        ("n_probes", 0),
        ("probe_scale", 0.0),
        ("n_ode_steps", 0),
        ("batch_size", 0),
        ("batch_size", "all"),
        ("batch_size", 10.0),
        ("learning_rate_init", 0.0),
        ("alpha", -1.0),
        ("max_iter", 0),
        ("time_limit", 0.0),
        ("time_limit", "soon"),
        ("early_stopping", "auto"),
        ("validation_fraction", 0.0),
        ("validation_fraction", 1.0),
        ("bounds", "positive"),
        ("bounds", [(0, 1)]),
        ("bounds", [(1, 0), None]),
        ("bounds", [3, None]),
        ("bounds", {"a": (0, 1)}),
        ("bounds", {2: (0, 1)}),
        ("discrete", "all"),
        ("discrete", [1.0]),
        ("discrete", [-1.0, None]),
        ("discrete", {0: np.inf}),
        ("discrete", {True: 1.0}),
        ("marginal_map", "always"),
        ("radial_map", "always"),
        ("mixture_map", "always"),
        ("random_state", "zero"),
        ("warm_start", "yes"),
        ("verbose", "loud"),
        ("device", 0),
        ("device", "abacus"),
        ("checkpoint", 3),
    ],
)
def test_bad_parameters(X, name, value):
    with pytest.raises(ValueError, match=f"'{name}'"):
        quick(**{name: value}).fit(X[:50])


def test_every_parameter_has_a_bad_value():
    marks = test_bad_parameters.pytestmark[0].args[1]
    assert {name for name, _ in marks} == set(JKOFlowDensity().get_params())


def test_step_sizes_stop_at_the_largest_however_fast_they_grow(X):
    density = quick(
        max_blocks=4, step_size_growth=1e200, max_iter=2, early_stopping=False
    ).fit(X[:50])
    np.testing.assert_array_equal(density.step_sizes_, [0.5, 8, 8, np.inf])


@pytest.mark.parametrize("sizes", [(), (8,), (8, 8, 8), [8, 8], np.array([8, 8])])
def test_any_number_of_hidden_layers(X, sizes):
    density = quick(
        hidden_layer_sizes=sizes, max_iter=5, early_stopping=False, activation="tanh"
    ).fit(X[:100])
    rows = density.transform(X[:100])
    assert np.isfinite(density.score(X[:100]))
    assert np.abs(density.inverse_transform(rows) - X[:100]).max() < 1e-6


# ------------------------------------------------------------------- degenerate data


def outer_columns(n):
    return normal(n, 2) * [1e12, 1e-12] + [3e12, 0]


@pytest.mark.parametrize("early_stopping", [True, False])
@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(normal(20, 30), id="more columns than rows"),
        pytest.param(np.c_[normal(40, 2), np.full(40, 7.1)], id="constant column"),
        pytest.param(np.full((40, 2), 0.1), id="all constant"),
        pytest.param(np.zeros((40, 2)), id="all zero"),
        pytest.param(outer_columns(40), id="wide and narrow"),
        pytest.param(np.repeat(normal(10, 2), 5, axis=0), id="duplicated rows"),
        pytest.param(np.tile(normal(40, 2), 2), id="duplicated columns"),
        pytest.param(normal(40, 1), id="one column"),
        pytest.param(normal(40, 2).astype(np.float32), id="float32"),
        pytest.param(np.random.RandomState(0).poisson(3, (40, 2)), id="ints"),
        pytest.param(normal(40, 2) > 0, id="bools"),
        pytest.param(normal(40, 2).tolist(), id="lists"),
    ],
)
def test_degenerate_data(rows, early_stopping):
    density = quick(max_blocks=1, max_iter=5, early_stopping=early_stopping).fit(rows)
    assert np.isfinite(density.score_samples(rows)).all()
    samples = density.sample(50, random_state=0)
    assert np.isfinite(samples).all()
    assert np.isfinite(density.score_samples(samples)).all()
    back = density.inverse_transform(density.transform(rows))
    size = np.abs(np.asarray(rows, float)).max(axis=0) + 1e-300
    assert (np.abs(back - np.asarray(rows, float)) / size).max() < 1e-6


@pytest.mark.parametrize("value", [0.0, 7.1, -1e9])
def test_a_violated_constant_stands_out(value):
    rows = np.c_[normal(100, 2), np.full(100, value)]
    density = quick().fit(rows)
    violation = rows.copy()
    violation[:, 2] += 0.1 * max(abs(value), 1)
    lowest = density.score_samples(rows).min()
    assert (density.score_samples(violation) < lowest - 100).all()


def test_held_out_rows_decide_where_a_fold_is_constant():
    rows = np.zeros((30, 1))
    rows[0] = 1.0
    density = quick().fit(rows)
    # No fold can tell whether a flow helps, so none may be trained on trust.
    assert density.n_blocks_ == 0 or density.validation_scores_ is not None


# ------------------------------------------------------------------- device, reports


def test_cpu(X, fresh):
    expected = quick().fit(X[:200]).score_samples(fresh)
    scores = quick(device="cpu").fit(X[:200]).score_samples(fresh)
    if not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        np.testing.assert_array_equal(scores, expected)
    assert np.isfinite(scores).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_absent_device(X, density, fresh):
    with pytest.raises(ValueError, match=r"'device'.*cuda"):
        quick(device="cuda").fit(X[:50])
    moved = pickle.loads(pickle.dumps(density)).set_params(device="cuda")
    np.testing.assert_array_equal(
        moved.score_samples(fresh), density.score_samples(fresh)
    )
    assert moved.sample(3).shape == (3, 2)


def test_scoring_elsewhere_leaves_the_model_on_the_cpu(density, fresh, monkeypatch):
    # torch's device without storage stands in for a GPU: only parameters are moved.
    copy = pickle.loads(pickle.dumps(density))
    monkeypatch.setattr(devices, "for_scoring", lambda device: torch.device("meta"))
    assert copy._model.device.type == "meta"
    monkeypatch.undo()
    assert {p.device.type for p in copy.flow_.parameters()} <= {"cpu"}
    np.testing.assert_array_equal(
        copy.score_samples(fresh), density.score_samples(fresh)
    )


def test_fitted_model_is_frozen_float64(density):
    for parameter in density.flow_.parameters():
        assert parameter.dtype == torch.float64
        assert parameter.device.type == "cpu"
        assert not parameter.requires_grad


@pytest.mark.parametrize("n", [200, 1100])
def test_verbose_prints_blocks(X, capsys, n):
    density = quick(verbose=True).fit(X[:n])
    lines = capsys.readouterr().out.splitlines()
    assert density.n_blocks_ >= 1
    assert all(line.startswith("[JKOFlowDensity] block ") for line in lines)
    assert sum(" kept " in line for line in lines) == density.n_blocks_
    assert "validation score" in lines[0]
    quick().fit(X[:n])
    assert capsys.readouterr().out == ""


def test_normal_fits_do_not_warn(X):
    with warnings.catch_warnings():
        # ConvergenceWarning among them; deprecations are errors everywhere here.
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("error", RuntimeWarning)
        for rows in (X[:100], X[:1100], normal(100, 5)):
            quick().fit(rows)
            quick(early_stopping=False).fit(rows)


@pytest.mark.parametrize("value", [1.1e300, -1.7e308])
def test_values_too_large_are_named(value):
    rows = [[0.0, 1.0], [1.0, value], [2.0, 3.0]]
    with pytest.raises(ValueError, match=r"X has.* 1e\+300 in column 1.*JKOFlowDens"):
        quick().fit(rows)
    with pytest.raises(ValueError, match=r"X_val has.* 1e\+300 in column 1"):
        quick().fit(normal(5, 2), X_val=rows)


@pytest.mark.filterwarnings("error")
def test_rows_as_far_as_numbers_go(density):
    """Whose sum, by which scikit-learn looks for infinities, is none itself."""
    rows = np.array([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]) * np.finfo(float).max
    assert (density.score_samples(rows) == -np.inf).all()
    assert np.isfinite(density.transform(rows)).all()
    assert np.isfinite(density.inverse_transform(rows)).all()
