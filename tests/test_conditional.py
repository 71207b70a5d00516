"""The conditional density against closed forms, and its contract."""

# SPDX-License-Identifier: BSD-3-Clause

import copy
import pickle

import numpy as np
import pytest
from scipy.stats import kstest, norm
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from skjko import JKOFlowConditionalDensity, MLPField
from skjko.predictors import Stack
from skjko.transforms import Chain, LocationScale, StudentT
from tests.helpers import QUICK

LINEAR = LinearRegression()


def quick(**parameters):
    """A conditional density that is fitted in about a second."""
    return JKOFlowConditionalDensity(
        **{**copy.deepcopy(QUICK), "regressor": LINEAR, **parameters}
    )


def plain(**parameters):
    """One without blocks."""
    return quick(**{"max_blocks": 0, **parameters})


def linear(n, seed=0):
    """Features, targets, and the log-density of a linear heteroscedastic Gaussian."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, size=(n, 2))
    scale = np.exp(X[:, 1])
    e = rng.normal(size=n)
    return X, 3 * X[:, 0] + 5 + scale * e, norm.logpdf(e) - np.log(scale)


def skewed(n, seed=0):
    """A sine with noise that is skewed, and grows with x."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, size=(n, 1))
    noise = rng.gamma(2.0, size=n) - 2
    return X, np.sin(2 * X[:, 0]) + 0.2 * (1.5 + X[:, 0] / 2) * noise


def bimodal(n, seed=0):
    """Two branches that part with x, and the log-density."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, size=n)
    centre = 1.5 + x
    y = rng.choice([-1, 1], n) * centre + 0.2 * rng.normal(size=n)
    log_density = np.logaddexp(
        norm.logpdf(y, centre, 0.2), norm.logpdf(y, -centre, 0.2)
    ) - np.log(2)
    return x[:, np.newaxis], y, log_density


@pytest.fixture(scope="module")
def fitted():
    X, y = skewed(800)
    model = quick(max_blocks=1, init="auto", max_iter=60, early_stopping=False)
    model = model.fit(X, y)
    assert model.n_blocks_ == 1
    return model


# ------------------------------------------------------------------- closed forms


def test_score_is_near_the_entropy_of_a_linear_gaussian():
    X, y, _ = linear(1500)
    model = plain().fit(X, y)
    X, y, log_density = linear(4000, seed=1)
    # At most 0.02 nats are lost, and nothing is gained.
    assert 0 < log_density.mean() - model.score(X, y) < 0.02
    np.testing.assert_allclose(model.predict(X), 3 * X[:, 0] + 5, atol=0.25)
    inside = norm.ppf(0.95) * np.exp(X[:, 1])
    width = np.diff(model.predict_interval(X))[:, 0]
    np.testing.assert_allclose(np.median(width / inside), 2, rtol=0.05)


def test_own_regression_finds_what_is_not_linear():
    X, y = skewed(400)
    model = JKOFlowConditionalDensity(max_blocks=0, random_state=0).fit(X, y)
    X = np.linspace(-1.9, 1.9, 50)[:, np.newaxis]
    assert np.abs(model.predict(X) - np.sin(2 * X[:, 0])).mean() < 0.1
    assert all(isinstance(one, Stack) for one in model.condition_.locations)


def test_blocks_find_two_modes_that_location_and_scale_cannot():
    X, y, _ = bimodal(1500)
    parameters = {"regressor": None, "random_state": 0, "init": "gaussian"}
    parameters |= {"transforms": None, "field": MLPField((64, 64))}
    without = JKOFlowConditionalDensity(max_blocks=0, **parameters).fit(X, y)
    model = JKOFlowConditionalDensity(max_blocks=1, max_iter=200, **parameters)
    model.fit(X, y)
    X, y, log_density = bimodal(1000, seed=1)
    assert without.score(X, y) < log_density.mean() - 0.7
    assert model.score(X, y) > log_density.mean() - 0.25
    # Between the branches, which part, there is next to nothing.
    samples = model.sample([[-1.0], [1.0]], 1000, random_state=0)
    assert np.median(np.abs(samples[0])) < 1 < 2 < np.median(np.abs(samples[1]))
    assert (np.abs(samples[1]) < 1).mean() < 0.05


def test_density_integrates_to_one(fitted):
    y, step = np.linspace(-8, 12, 4001, retstep=True)
    for x in (-1.7, 0.0, 1.3):
        X = np.full((len(y), 1), x)
        assert np.exp(fitted.score_samples(X, y)).sum() * step == pytest.approx(1, 1e-3)


def test_cdf_is_the_integral_of_the_density(fitted):
    y, step = np.linspace(-2, 2, 2001, retstep=True)
    X = np.full((len(y), 1), 0.4)
    cdf, density = fitted.cdf(X, y), np.exp(fitted.score_samples(X, y))
    assert (np.diff(cdf) > 0).all()
    np.testing.assert_allclose(np.gradient(cdf, step)[1:-1], density[1:-1], atol=2e-3)


def test_cdf_is_the_inverse_of_the_quantiles(fitted):
    X, _ = skewed(20, seed=2)
    q = np.array([0.001, 0.3, 0.5, 0.999])
    Y = fitted.predict_quantile(X, q)
    assert Y.shape == (20, 4)
    assert (np.diff(Y) > 0).all()
    for column, level in zip(Y.T, q, strict=True):
        np.testing.assert_allclose(fitted.cdf(X, column), level, rtol=1e-7)
    np.testing.assert_array_equal(fitted.predict_quantile(X, 0.3), Y[:, 1])
    np.testing.assert_array_equal(fitted.predict_quantile(X), Y[:, 2])


@pytest.mark.slow
def test_distribution_function_of_fresh_targets_is_uniform():
    X, y = skewed(3000)
    model = JKOFlowConditionalDensity(max_blocks=1, max_iter=100, random_state=0)
    model.fit(X, y)
    X, y = skewed(1000, seed=1)
    assert kstest(model.cdf(X, y), "uniform").statistic < 0.06
    interval = model.predict_interval(X, 0.8)
    inside = (interval[:, 0] < y) & (y < interval[:, 1])
    assert inside.mean() == pytest.approx(0.8, abs=0.04)


def test_mean_of_samples_is_the_prediction(fitted):
    X = np.array([[-1.5], [0.5], [1.5]])
    samples = fitted.sample(X, 20_000, random_state=0)
    error = 4 * samples.std(axis=1) / np.sqrt(20_000)
    np.testing.assert_array_less(
        np.abs(samples.mean(axis=1) - fitted.predict(X)), error + 0.005
    )
    q = fitted.predict_quantile(X, [0.1, 0.9])
    np.testing.assert_allclose(np.quantile(samples, [0.1, 0.9], axis=1).T, q, atol=0.03)


def test_latent_positions_are_there_and_back(fitted):
    X, y = skewed(50, seed=3)
    Z = fitted.to_latent(X, y)
    assert Z.shape == (50, 1)
    np.testing.assert_allclose(fitted.from_latent(X, Z), y, rtol=1e-7)


def test_one_far_target_costs_little():
    X, y, _ = linear(500)
    model = plain().fit(X, y)
    x, at = np.zeros((1, 2)), model.predict(np.zeros((1, 2)))
    # 40 standard deviations would be 800 nats of a Gaussian.
    assert model.score_samples(x, at + 40)[0] > -50
    y = y.copy()
    y[0] += 50
    far = plain().fit(X, y)
    X, y, log_density = linear(1000, seed=1)
    assert far.score(X, y) > log_density.mean() - 0.1


# ------------------------------------------------------------------- kinds of targets


def test_several_targets():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1000, 2))
    e = rng.normal(size=(1000, 2)) @ [[1.0, 0.8], [0.0, 0.6]]
    Y = X @ [[1.0, 2.0], [0.0, -1.0]] + e
    model = plain().fit(X, Y)
    exact = norm.logpdf(e[:, 0]) + norm.logpdf((e[:, 1] - 0.8 * e[:, 0]) / 0.6)
    assert model.score(X, Y) == pytest.approx((exact - np.log(0.6)).mean(), abs=0.05)
    assert model.predict(X).shape == (1000, 2)
    np.testing.assert_allclose(model.predict(X), Y - e, atol=0.3)
    assert model.sample(X[:3], 4, random_state=0).shape == (3, 4, 2)
    assert model.predict_quantile(X[:3], [0.1, 0.5, 0.9]).shape == (3, 3, 2)
    assert model.predict_quantile(X[:3]).shape == (3, 2)
    assert model.predict_interval(X[:3]).shape == (3, 2, 2)
    samples = model.sample(X[:1], 5000, random_state=0)[0]
    assert np.corrcoef(samples.T)[0, 1] == pytest.approx(0.8, abs=0.05)
    with pytest.raises(ValueError, match="cdf is for one target"):
        model.cdf(X, Y)


def test_probabilities_of_discrete_targets_sum_to_one():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(400, 1))
    y = np.clip(np.rint(5 + 2 * X[:, 0] + rng.normal(size=400)), 1, 9).astype(int)
    model = quick(bounds=(1, 9), early_stopping=False).fit(X, y)
    assert model.support_.grid.step[0] == 1
    values = np.arange(1, 10)
    for x in (-0.9, 0.4):
        given = np.full((9, 1), x)
        probability = np.exp(model.score_samples(given, values))
        assert probability.sum() == pytest.approx(1, abs=1e-3)
        np.testing.assert_allclose(
            model.cdf(given, values), np.cumsum(probability), atol=1e-3
        )
    for found in (
        model.sample(X, 10, random_state=0),
        model.predict_quantile(X, [0.01, 0.5, 0.99]),
    ):
        assert set(np.unique(found)) <= set(values)


@pytest.mark.parametrize("bounds", [(0, None), [(0, None)], {0: (0, None)}])
def test_bounds_are_kept(bounds):
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(300, 1))
    y = np.exp(X[:, 0] + 0.5 * rng.normal(size=300))
    model = quick(bounds=bounds, early_stopping=False).fit(X, y)
    assert (model.sample(X, 50, random_state=0) > 0).all()
    assert (model.predict_quantile(X, 1e-6) > 0).all()
    with pytest.warns(UserWarning, match="outside of the bounds"):
        assert np.isneginf(model.score_samples(X[:1], [-1.0]))
    np.testing.assert_array_equal(model.cdf(X[:2], [-1.0, 1e9]) > 0.5, [False, True])
    exact = norm.logpdf(np.log(y), X[:, 0], 0.5) - np.log(y)
    assert model.score(X, y) == pytest.approx(exact.mean(), abs=0.1)


def test_units_of_the_target_do_not_matter():
    X, y, _ = linear(200)
    one = quick(early_stopping=False).fit(X, y)
    other = quick(early_stopping=False).fit(X, 1e6 * y - 1e8)
    expected = one.score_samples(X, y) - np.log(1e6)
    scores = other.score_samples(X, 1e6 * y - 1e8)
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_constant_target_and_constant_features():
    X = np.ones((30, 2))
    model = quick(early_stopping=False).fit(X, np.arange(30.0))
    assert np.isfinite(model.score(X, np.arange(30.0)))
    model = quick(early_stopping=False)
    model.fit(np.arange(60.0).reshape(30, 2), np.full(30, 4.0))
    np.testing.assert_allclose(model.predict(X), 4.0, atol=1e-3)


def test_many_equal_targets_among_others_have_a_probability():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(600, 1))
    # Rain: none where the latent amount is negative.
    latent = 1 + 2 * X[:, 0] + rng.normal(size=600)
    model = quick(transforms="auto", max_iter=20).fit(X, np.maximum(latent, 0))
    assert model.support_.atoms.values.tolist() == [0]
    dry = np.exp(model.score_samples(X, np.zeros(600)))
    # No block has bent what location and scale leave.
    assert dry.mean() == pytest.approx((latent < 0).mean(), abs=0.1)
    assert np.corrcoef(dry, norm.cdf(-1 - 2 * X[:, 0]))[0, 1] > 0.95
    x = np.array([[-0.8], [0.0], [0.8]])
    # Samples, distribution function and quantiles tell the same.
    cdf = model.cdf(x, np.zeros(3))
    samples = model.sample(x, 2000, random_state=0)
    np.testing.assert_allclose((samples == 0).mean(axis=1), cdf, atol=0.05)
    np.testing.assert_array_equal(model.cdf(x, np.full(3, -0.1)), 0)
    assert (samples >= 0).all()
    assert model.predict_quantile(x, 0.05)[0] == 0
    assert model.predict_quantile(x, 0.5)[2] > 0


# ------------------------------------------------------------------- contract


def test_missing_features_are_told_to_the_model(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 2))
    y = 3 * X[:, 0] + X[:, 1] + 0.1 * rng.normal(size=300)
    X[::3, 0] = np.nan
    model = plain().fit(X, y)
    width = np.diff(model.predict_interval([[0.5, 0.0], [np.nan, 0.0]]))[:, 0]
    # Of what is not known the variance is that of all of it.
    assert width[0] < 2
    assert width[1] == pytest.approx(2 * 1.645 * 3, rel=0.35)
    model = plain(regressor=None).fit(X, y)
    path = tmp_path / "model.safetensors"
    model.save(path)
    loaded = JKOFlowConditionalDensity.load(path)
    np.testing.assert_array_equal(loaded.score_samples(X, y), model.score_samples(X, y))
    with pytest.raises(ValueError, match="NaN in row 1 of column 1, of which fit saw"):
        model.predict([[np.nan, 0.0], [0.0, np.nan]])


def test_scores_do_not_depend_on_the_samples_beside(fitted):
    X, y = skewed(1500, seed=4)
    scores = fitted.score_samples(X, y)
    np.testing.assert_allclose(fitted.score_samples(X[::-7], y[::-7]), scores[::-7])
    np.testing.assert_allclose(fitted.score_samples(X[:1], y[:1]), scores[:1])
    predicted = fitted.predict(X)
    np.testing.assert_allclose(fitted.predict(X[::-7]), predicted[::-7])


def test_same_seed_same_model_and_weights_are_copies():
    X, y, _ = linear(120)
    parameters = {"early_stopping": False, "max_blocks": 1}
    one, other = (quick(**parameters).fit(X, y) for _ in range(2))
    np.testing.assert_array_equal(one.score_samples(X, y), other.score_samples(X, y))
    weight = np.random.default_rng(0).integers(0, 3, 120)
    weighted = quick(**parameters).fit(X, y, sample_weight=weight)
    rows = np.repeat(np.arange(120), weight)
    repeated = quick(**parameters).fit(X[rows], y[rows])
    expected = repeated.score_samples(X, y)
    np.testing.assert_allclose(weighted.score_samples(X, y), expected, rtol=1e-6)
    score = weighted.score(X, y, sample_weight=weight)
    assert score == pytest.approx(np.average(expected, weights=weight))


def test_validation_samples_and_groups():
    X, y, _ = linear(300)
    quick(max_iter=3).fit(X[:200], y[:200], X_val=X[200:], y_val=y[200:])
    groups = np.repeat(np.arange(30), 10)
    model = quick(max_iter=3).fit(X, y, groups=groups)
    assert np.isfinite(model.score(X, y))


@pytest.mark.parametrize("regressor", ["auto", None])
def test_files_hold_the_model(tmp_path, regressor):
    X, y, _ = linear(150)
    model = quick(regressor=regressor, bounds=(-20, None), early_stopping=False)
    model.fit(X, y)
    path = tmp_path / "model.safetensors"
    model.save(path)
    loaded = JKOFlowConditionalDensity.load(path)
    np.testing.assert_array_equal(loaded.score_samples(X, y), model.score_samples(X, y))
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    np.testing.assert_array_equal(loaded.cdf(X, y), model.cdf(X, y))
    assert loaded.summary() == model.summary()
    assert loaded.get_params().keys() == model.get_params().keys()
    for copied in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(copied.predict(X), model.predict(X))


def test_files_do_not_hold_a_regressor_of_the_user(tmp_path):
    X, y, _ = linear(60)
    model = plain().fit(X, y)
    with pytest.raises(ValueError, match=r"LinearRegression.*'auto'.*pickle"):
        model.save(tmp_path / "model.safetensors")
    copied = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copied.predict(X), model.predict(X))


@pytest.mark.parametrize("wrong", ["condition", "support", "n_features_in", "table"])
def test_state_of_another_model_is_refused(wrong):
    X, y, _ = linear(60)
    one = plain(regressor=None).fit(X, y).get_state()
    other = plain(regressor=None).fit(X[:, :1], np.column_stack([y, y**2])).get_state()
    with pytest.raises(ValueError, match=r"do not fit|has not"):
        JKOFlowConditionalDensity.from_state({**one, wrong: other[wrong]})


def test_pipelines_and_grids():
    X, y, _ = linear(120)
    grid = GridSearchCV(
        make_pipeline(StandardScaler(), plain()),
        {"jkoflowconditionaldensity__regressor": [None, RidgeCV()]},
        cv=2,
    ).fit(X, y)
    assert isinstance(
        grid.best_params_["jkoflowconditionaldensity__regressor"], RidgeCV
    )
    scores = cross_val_score(plain(), X, y, cv=2)
    assert np.isfinite(scores).all()
    assert clone(grid.best_estimator_).fit(X, y).predict(X).shape == (120,)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_with_text(library):
    module = pytest.importorskip(library)
    rng = np.random.default_rng(0)
    kind = rng.choice(["a", "b", "c"], 300)
    x = rng.normal(size=300)
    shift = np.select([kind == "a", kind == "b"], [0.0, 5.0], -5.0)
    y = shift + x + 0.1 * rng.normal(size=300)
    X = module.DataFrame({"kind": kind, "x": x, "flag": x > 0})
    model = plain().fit(X, module.Series("y", y) if library == "polars" else y)
    assert model.feature_names_in_.tolist() == ["kind", "x", "flag"]
    np.testing.assert_allclose(model.predict(X), shift + x, atol=0.1)
    new = module.DataFrame({"kind": ["unseen"], "x": [0.0], "flag": [False]})
    assert np.isfinite(model.predict(new)).all()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"X": [[np.inf, 0.0]] * 40}, "contains infinity"),
        ({"X_val": [[np.nan, 0.0]] * 4, "y_val": np.zeros(4)}, "X_val contains NaN"),
        ({"y": [np.nan] * 40}, "contains NaN"),
        ({"y": ["a"] * 40}, "y"),
        ({"y": np.zeros(39)}, "inconsistent numbers of samples"),
        ({"y": None}, "requires y"),
        ({"X_val": np.zeros((4, 2))}, "X_val without y_val"),
        ({"y_val": np.zeros(4)}, "y_val without X_val"),
        ({"X_val": np.zeros((4, 2)), "y_val": np.zeros((4, 2))}, "y_val has 2 columns"),
        ({"X_val": np.zeros((4, 3)), "y_val": np.zeros(4)}, "X_val has 3 features"),
        ({"groups": np.zeros(40)}, "groups has one label"),
        ({"sample_weight": np.full(40, -1.0)}, "[Nn]egative"),
    ],
)
def test_errors_of_fit(change, message):
    X, y, _ = linear(40)
    with pytest.raises(ValueError, match=message):
        plain().fit(**{"X": X, "y": y, **change})


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"bounds": (0, 1)}, "y has values outside of the bounds"),
        ({"bounds": (1, 0)}, "'bounds'"),
        ({"discrete": 0.5}, "'discrete'"),
        ({"regressor": "forest"}, "'regressor'"),
        ({"transforms": [3]}, "'transforms'"),
        ({"max_blocks": -1}, "'max_blocks'"),
    ],
)
def test_errors_of_parameters(parameters, message):
    X, y, _ = linear(40)
    with pytest.raises(ValueError, match=message):
        plain(**parameters).fit(X, y)


def test_errors_of_methods(fitted):
    X, y = skewed(5)
    with pytest.raises(NotFittedError):
        quick().predict(X)
    with pytest.raises(ValueError, match="y has 2 columns"):
        fitted.score_samples(X, np.zeros((5, 2)))
    with pytest.raises(ValueError, match="features"):
        fitted.score_samples(np.zeros((5, 2)), y)
    for q in (0, 1.0, [0.5, 2], [[0.5]]):
        with pytest.raises(ValueError, match="'q' parameter"):
            fitted.predict_quantile(X, q)
    with pytest.raises(ValueError, match="'coverage' parameter"):
        fitted.predict_interval(X, 1.5)
    with pytest.raises(ValueError, match="'n_samples' parameter"):
        fitted.sample(X, 0)
    with pytest.raises(ValueError, match="Z has 2 columns"):
        fitted.from_latent(X, np.zeros((5, 2)))


def test_few_samples():
    X, y, _ = linear(3)
    model = JKOFlowConditionalDensity(random_state=0).fit(X, y)
    assert np.isfinite(model.score(X, y))
    assert model.n_blocks_ == 0


# ------------------------------------------------------------------- parts


def test_location_and_scale_are_a_chain_with_a_condition():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 6))
    first = LocationScale(np.array([1.0, 2.0]), np.array([2.0, 3.0]), n_context=4)
    chain = Chain([first, StudentT()]).fit(X)
    assert (chain.n_features_in_, chain.n_degenerate_, chain.n_context_) == (6, 4, 4)
    Y, log_det = chain.forward(X)
    np.testing.assert_array_equal(Y[:, 2:], X[:, 2:])
    np.testing.assert_allclose(chain.inverse(Y), X)
    # The density is that of the targets alone.
    expected = norm.logpdf(Y[:, :2]).sum(axis=1) + log_det
    np.testing.assert_allclose(chain.log_prob(X), expected)


# It takes X and y, which these checks do not know.
OF_TWO = "score_samples needs y"
EXPECTED = {
    "check_methods_subset_invariance": OF_TWO,
    "check_methods_sample_order_invariance": OF_TWO,
}


@parametrize_with_checks(
    [
        # Its default regressor would take most of the time of these checks.
        JKOFlowConditionalDensity(
            regressor=LINEAR, field=MLPField((4, 4)), max_iter=2, max_blocks=1,
            early_stopping=False, init="gaussian", random_state=0,
        ),
    ],
    expected_failed_checks=lambda estimator: EXPECTED,
)  # fmt: skip
def test_sklearn_check(estimator, check):
    check(estimator)
