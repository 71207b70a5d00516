"""JKOFlowDensity through its public interface: densities, maps, samples, errors."""

# SPDX-License-Identifier: BSD-3-Clause

import importlib.util
import math
import pickle
import re
import sys
import threading
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from helpers import process_state, quick
from scipy import sparse
from scipy.stats import kstest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skjko import JKOFlowDensity, JKOSchedule, MLPField, RungeKutta, VelocityField
from skjko.callbacks import EarlyStopping
from skjko.datasets import moons
from skjko.transforms import Asinh, MixtureMap, Transform, Whitening


def normal(n, d, seed=0):
    return np.random.RandomState(seed).standard_normal((n, d))


def log_normal(Z):
    """Log-density of the standard normal, of every sample."""
    return -0.5 * (Z**2).sum(axis=1) - 0.5 * Z.shape[1] * math.log(2 * math.pi)


def gaussian(**parameters):
    """A Gaussian with full covariance."""
    return quick(transforms=None, max_blocks=0, **parameters)


def fitted_attributes(density):
    """Numbers that decide a fit, for a comparison."""
    whitening = density.transforms_.find(Whitening)
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
    } | {"mean": whitening.mean_, "vectors": whitening.vectors_}


def assert_same_fit(a, b, rtol=1e-12):
    expected = fitted_attributes(b)
    for name, value in fitted_attributes(a).items():
        np.testing.assert_allclose(value, expected[name], rtol, 1e-12, err_msg=name)


@pytest.fixture(scope="module")
def X():
    return moons().sample(2000, random_state=0)


@pytest.fixture(scope="module")
def fresh():
    """Samples that no model here has seen."""
    return moons().sample(300, random_state=1)


@pytest.fixture(scope="module", params=["gaussian", "mixture"])
def density(request, X):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        density = JKOFlowDensity(
            init=request.param,
            transforms=None,
            field=MLPField((32, 32)),
            max_blocks=2,
            max_iter=80,
            solver=RungeKutta(tol=2e-4),
            random_state=0,
        ).fit(X)
    if request.param == "gaussian":
        assert density.n_blocks_ >= 1
    else:
        assert density.transforms_.find(MixtureMap).n_components_ > 1
    return density


# ------------------------------------------------------------------- a density


def test_density_integrates_to_one(density, X):
    # The trapezoidal rule converges faster than any power of the spacing on a density
    # that vanishes at the border, once the spacing resolves its finest structure: at
    # half the moons' width it is off by 7e-3, at a quarter by 1e-3. What is left is
    # the solver, whose log-determinant is good to 1e-3 nats in the mean.
    # Some 0.3 % of the mass are farther out than any of the samples, which end at 3.
    # There the density has no fine structure.
    assert abs(X).max() < 3.5

    def mass(reach, spacing, beyond=0):
        axis = np.arange(-reach, reach, spacing) + spacing / 2
        grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
        grid = grid[np.abs(grid).max(axis=1) > beyond]
        return np.exp(density.score_samples(grid)).sum() * spacing**2

    assert mass(4, 0.04) + mass(8, 0.2, beyond=4) == pytest.approx(1, abs=3e-3)


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


def test_scores_are_float64(density, fresh):
    scores = density.score_samples(fresh)
    assert scores.dtype == np.float64
    assert scores.shape == (len(fresh),)
    assert np.isfinite(scores).all()


def test_scores_do_not_depend_on_other_samples(density):
    samples = moons().sample(10_000, random_state=2)
    scores = density.score_samples(samples)
    some = [0, 1, 1023, 1024, 9999]
    alone = [density.score_samples(samples[[i]])[0] for i in some]
    np.testing.assert_allclose(alone, scores[some], atol=1e-7, rtol=0)
    order = np.random.RandomState(0).permutation(len(samples))
    permuted = density.score_samples(samples[order])
    np.testing.assert_allclose(permuted, scores[order], atol=1e-7, rtol=0)


def test_score_is_the_weighted_mean(density, fresh):
    scores = density.score_samples(fresh)
    weight = np.random.RandomState(0).uniform(size=len(fresh))
    assert isinstance(density.score(fresh), float)
    assert density.score(fresh) == pytest.approx(scores.mean(), abs=1e-9)
    expected = (weight * scores).sum() / weight.sum()
    assert density.score(fresh, sample_weight=weight) == pytest.approx(expected)
    assert abs(expected - scores.mean()) > 1e-3


def test_scores_are_above_those_of_a_gaussian(density, X, fresh):
    truth = moons().score(fresh)
    assert gaussian().fit(X).score(fresh) + 0.5 < density.score(fresh) < truth + 0.1


@pytest.mark.parametrize("angle", np.arange(0, 2 * np.pi, np.pi / 4))
def test_scores_of_far_samples_decrease_with_distance(density, X, angle):
    direction = X.std(axis=0) * [np.cos(angle), np.sin(angle)]
    distances = np.array([10.0, 30.0, 100.0, 1e3, 1e4, 1e5, 1e6])
    scores = density.score_samples(X.mean(axis=0) + distances[:, None] * direction)
    assert np.isfinite(scores).all()
    assert (np.diff(scores) < 0).all()


# ------------------------------------------------------------------- maps, samples


def test_round_trips(density, X, fresh):
    for samples in (X, fresh, 3 * X):
        back = density.inverse_transform(density.transform(samples))
        assert np.abs(back - samples).max() < 1e-6
    Z = 2 * normal(300, 2)
    assert np.abs(density.transform(density.inverse_transform(Z)) - Z).max() < 1e-6


def test_trajectory_leads_from_the_data_to_transform(density, fresh):
    n_transforms, n_blocks = len(density.transforms_), density.n_blocks_
    positions = density.trajectory(fresh)
    assert positions.shape == (1 + n_transforms + n_blocks, *fresh.shape)
    Y = fresh
    for expected, transform in zip(positions, density.transforms_, strict=False):
        np.testing.assert_array_equal(expected, Y)
        Y, _ = transform.forward(Y)
    np.testing.assert_array_equal(positions[n_transforms], Y)
    np.testing.assert_allclose(positions[-1], density.transform(fresh), atol=1e-12)


@pytest.mark.parametrize("n_between", [0, 2])
def test_trajectory_behind_the_transforms(density, fresh, n_between):
    whole = density.trajectory(fresh, n_between)
    positions = density.trajectory(fresh, n_between, transforms=False)
    assert len(positions) == 1 + (n_between + 1) * density.n_blocks_
    np.testing.assert_array_equal(positions, whole[len(density.transforms_) :])
    # Positions between the ends of a block are those of a finer grid.
    ends = positions[:: n_between + 1]
    coarse = density.trajectory(fresh, transforms=False)
    np.testing.assert_allclose(ends, coarse, atol=1e-2)


@pytest.mark.parametrize("n_between", [-1, 0.5, "1", True])
def test_bad_number_of_positions_between(density, fresh, n_between):
    with pytest.raises(ValueError, match="n_between"):
        density.trajectory(fresh, n_between)


def test_movements_are_those_of_the_training_samples(X):
    density = quick(early_stopping=False).fit(X)
    moved = np.diff(density.trajectory(X, transforms=False), axis=0)
    expected = np.sqrt((moved**2).sum(axis=2).mean(axis=1))
    # Training moves samples in float32, on its own grid.
    np.testing.assert_allclose(density.movements_, expected, rtol=0.02)


def test_latent_positions_of_samples_are_normal_draws(density):
    samples = density.sample(500, random_state=0)
    if density.n_blocks_ == 0:
        # Then they are drawn from the mixture itself.
        for column in density.transform(samples).T:
            assert kstest(column, "norm").pvalue > 0.001
        return
    Z = np.random.RandomState(0).standard_normal((500, 2))
    # Up to the solver: `inverse_transform` is the one that is exact.
    assert np.abs(density.transform(samples) - Z).max() < 1e-3
    exact = density.inverse_transform(Z)
    assert np.abs(samples - exact).max() < 1e-3 * exact.std()


def test_samples_keep_more_digits_than_single_precision(X):
    class Close(np.random.RandomState):
        """Draws closer to each other than single precision tells apart."""

        def standard_normal(self, size):
            return 1 + 1e-10 * np.arange(np.prod(size)).reshape(size)

    density = quick(max_blocks=1, early_stopping=False).fit(X[:200])
    assert density.n_blocks_ >= 1
    assert len(np.unique(density.sample(100, random_state=Close(0)), axis=0)) == 100


def test_samples_resemble_the_data(density, X):
    samples = density.sample(4000, random_state=1)
    error = X.std(axis=0) / np.sqrt(len(X))
    assert (np.abs(samples.mean(axis=0) - X.mean(axis=0)) < 6 * error).all()
    assert np.abs(np.cov(samples.T) - np.cov(X.T)).max() < 0.15 * np.cov(X.T).max()
    # A blur of the narrow arms lowers their true density, a Gaussian's samples far
    # more.
    others = gaussian().fit(X).sample(4000, random_state=1)
    assert moons().score(samples) > moons().score(others) / 2


def test_transformed_samples_are_about_standard_normal(density, fresh):
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
    first, again, other = (
        quick(random_state=s, max_blocks=1, max_iter=5).fit(X[:n]) for s in (0, 0, 1)
    )
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
    brief = {"max_blocks": 1, "max_iter": 3}
    expected = quick(**brief).fit(X[:200]).score_samples(fresh)
    torch.set_default_dtype(torch.float64)
    try:
        scores = quick(**brief).fit(X[:200]).score_samples(fresh)
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_allclose(scores, expected, atol=1e-7)


def test_fit_does_not_change_its_input(X):
    samples = X[:200].copy()
    weight = np.linspace(0, 2, 200)
    quick(max_blocks=1, max_iter=3).fit(samples, sample_weight=weight)
    np.testing.assert_array_equal(samples, X[:200])
    np.testing.assert_array_equal(weight, np.linspace(0, 2, 200))


def test_use_does_not_change_the_model(density, fresh):
    before = pickle.dumps(density)
    density.score_samples(fresh)
    density.score(fresh)
    density.transform(fresh)
    density.trajectory(fresh)
    density.inverse_transform(fresh)
    density.likelihood_error(fresh)
    list(density.staged_score_samples(fresh))
    density.summary()
    density.sample(3)
    assert pickle.dumps(density) == before


def test_refit_forgets_the_first_fit(X, fresh):
    brief = {"max_blocks": 1, "max_iter": 3}
    refitted = quick(**brief).fit(normal(150, 3)).fit(X[:200])
    expected = quick(**brief).fit(X[:200])
    assert_same_fit(refitted, expected)
    np.testing.assert_array_equal(
        refitted.score_samples(fresh), expected.score_samples(fresh)
    )


# ------------------------------------------------------------------- scikit-learn


def test_clone_is_unfitted_with_the_same_parameters(density, X):
    copy = clone(density)
    parameters = copy.get_params(), density.get_params()
    for name in ("field", "solver"):
        one, other = (p.pop(name) for p in parameters)
        assert one is not other
        assert one.get_params() == other.get_params()
    assert parameters[0] == parameters[1]
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


def test_grid_search(X):
    grid = {"max_blocks": [0, 1], "field__hidden_layer_sizes": [(8, 8), 4]}
    density = quick(early_stopping=False)
    search = GridSearchCV(density, grid, cv=2, error_score="raise").fit(X[:400])
    assert search.best_params_["max_blocks"] == 1
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.sample(3).shape == (3, 2)


def test_nested_parameters():
    density = quick(schedule=JKOSchedule(), transforms=[Asinh(), Whitening()])
    density.set_params(
        field__hidden_layer_sizes=4, schedule__growth=3.0, solver__n_steps=2
    )
    parameters = density.get_params()
    assert parameters["field__hidden_layer_sizes"] == 4
    assert density.schedule.growth == parameters["schedule__growth"] == 3
    assert density.solver.n_steps == parameters["solver__n_steps"] == 2


@pytest.mark.parametrize("size", [16, np.int64(16)])
def test_one_width_is_that_of_two_layers(size):
    field = MLPField(size).resolve(1000, 2)
    assert field.hidden_layer_sizes == (16, 16)
    assert MLPField((16,)).resolve(1000, 2).hidden_layer_sizes == (16,)


def test_a_fit_leaves_its_components_alone(X):
    field, transforms = MLPField(hidden_layer_sizes=8), [Asinh(), Whitening("scale")]
    before = [one.get_params() for one in (field, *transforms)]
    density = quick(field=field, transforms=transforms, max_blocks=1, max_iter=2).fit(
        X[:200]
    )
    assert [one.get_params() for one in (field, *transforms)] == before
    assert not any(hasattr(one, "n_features_in_") for one in transforms)
    assert density.field_.get_params() == {
        "hidden_layer_sizes": (8, 8),
        "activation": "fourier",
        "frequency": 3.0,
        "time_dependent": False,
        "residual": False,
    }


def test_pipeline_with_a_column_selector(X):
    wide = np.hstack([X[:200], normal(200, 1)])
    density = quick(early_stopping=False)
    pipeline = make_pipeline(FunctionTransformer(lambda A: A[:, :2]), density)
    pipeline.fit(wide)
    expected = clone(density).fit(X[:200])
    assert pipeline.score(wide) == pytest.approx(expected.score(X[:200]))
    np.testing.assert_array_equal(
        pipeline.score_samples(wide), expected.score_samples(X[:200])
    )
    np.testing.assert_array_equal(pipeline.transform(wide), expected.transform(X[:200]))


# ------------------------------------------------------------------- own components


class Shear(torch.nn.Module):
    """The velocity of a coordinate is a polynomial of the one before it."""

    def __init__(self, n_features):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3, n_features))

    def forward(self, t, x, context=None):
        before = x.roll(1, dims=-1)
        a, b, c = self.weight
        return a + b * before + c * before**2


class ShearField(VelocityField):
    def build(self, n_features, generator=None):
        return Shear(n_features)


class Cubic(Transform):
    """y = x + x^3."""

    def fit(self, X, sample_weight=None):
        self.n_features_in_ = X.shape[1]
        return self

    def forward(self, X):
        return X + X**3, np.log1p(3 * X**2).sum(axis=1)

    def inverse(self, Y):
        half = Y / 2
        root = np.sqrt(half**2 + 1 / 27)
        return np.cbrt(half + root) + np.cbrt(half - root)


def test_a_field_of_ones_own():
    Z = normal(1000, 2)
    Z[:, 1] += Z[:, 0] ** 2
    # A rotation would mix the features.
    scale = Whitening(method="scale")
    density = quick(
        field=ShearField(),
        transforms=[scale],
        max_blocks=1,
        max_iter=15,
        learning_rate_init=0.1,
        early_stopping=False,
    ).fit(Z)
    assert density.n_blocks_ == 1
    assert isinstance(density.field_, ShearField)
    assert density.score(Z) > gaussian().fit(Z).score(Z) + 0.2
    Z = Z[:100]
    back = density.inverse_transform(density.transform(Z))
    np.testing.assert_allclose(back, Z, atol=1e-6)
    assert np.abs(density.likelihood_error(Z)).mean() < 0.01


def test_a_transform_of_ones_own():
    X = Cubic().inverse(2 * normal(2000, 2))
    density = gaussian().set_params(transforms=[Cubic()]).fit(X)
    assert [type(one) for one in density.transforms_] == [Cubic, Whitening]
    truth = log_normal(Cubic().forward(X)[0] / 2) - 2 * math.log(2)
    truth += Cubic().forward(X)[1]
    assert np.abs(density.score_samples(X) - truth).mean() < 0.05
    assert density.score(X) > gaussian().fit(X).score(X) + 0.1


def test_a_whitening_of_ones_own_is_the_only_one(X):
    whitening = Whitening("scale")
    density = gaussian().set_params(transforms=[whitening, Asinh()]).fit(X)
    assert [type(one) for one in density.transforms_][:1] == [Whitening]
    assert density.transforms_.find(Whitening).method == "scale"
    assert sum(isinstance(one, Whitening) for one in density.transforms_) == 1


def test_data_frames(X):
    frame = pd.DataFrame(X[:200], columns=["east", "north"])
    density = quick(early_stopping=False).fit(frame)
    assert list(density.feature_names_in_) == ["east", "north"]
    samples = density.sample(3, random_state=0)
    assert isinstance(samples, pd.DataFrame)
    assert list(samples.columns) == ["east", "north"]
    plain = clone(density).fit(X[:200])
    np.testing.assert_array_equal(samples, plain.sample(3, random_state=0))
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
    brief = {"max_blocks": 1, "max_iter": 5}
    weighted = quick(**brief).fit(X, sample_weight=keep.astype(float))
    subset = quick(**brief).fit(X[keep])
    assert subset.n_blocks_ >= 1
    assert_same_fit(weighted, subset)
    np.testing.assert_allclose(
        weighted.score_samples(fresh), subset.score_samples(fresh), atol=1e-12, rtol=0
    )


def test_weights_have_no_unit(X, fresh):
    weight = np.random.RandomState(0).uniform(0.5, 1.5, 200)
    a, b = (
        quick(max_blocks=1, max_iter=5).fit(X[:200], sample_weight=c * weight)
        for c in (1.0, 1024.0)
    )
    np.testing.assert_allclose(
        a.score_samples(fresh), b.score_samples(fresh), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("n", [300, 1500])
def test_weights_move_the_density(n):
    X = normal(n, 1)
    weight = np.where(X[:, 0] > 0, 1.0, 0.05)
    density = quick(max_blocks=1, max_iter=60).fit(X, sample_weight=weight)
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
    X, scale = X[:n], 2.0**exponents
    density = quick(max_blocks=1, max_iter=5).fit(X)
    scaled = clone(density).fit(X * scale)
    assert density.n_blocks_ >= 1
    np.testing.assert_array_equal(density.movements_, scaled.movements_)
    np.testing.assert_allclose(
        scaled.score_samples(X * scale),
        density.score_samples(X) - exponents.sum() * math.log(2),
        atol=1e-9,
        rtol=0,
    )


def test_gaussian_is_equivariant_under_affine_maps_of_columns(X, fresh):
    a, b = np.array([0.3, 170.0]), np.array([-5.0, 12.0])
    density = gaussian()
    expected = density.fit(X).score_samples(fresh) - np.log(a).sum()
    scores = density.fit(a * X + b).score_samples(a * fresh + b)
    np.testing.assert_allclose(scores, expected, atol=1e-9, rtol=0)


# ------------------------------------------------------------------- validation


@pytest.mark.parametrize("init", ["auto", "gaussian", "mixture"])
@pytest.mark.parametrize("n", [2, 3, 10])
def test_few_samples_get_the_gaussian(X, fresh, n, init):
    density = quick(init=init).fit(X[:n])
    assert density.n_blocks_ == 0
    assert density.n_iter_ == 1
    scores = density.score_samples(fresh)
    assert np.isfinite(scores).all()
    expected = gaussian().fit(X[:n]).score_samples(fresh)
    np.testing.assert_array_equal(scores, expected)


@pytest.mark.parametrize("init", ["auto", "gaussian", "mixture"])
@pytest.mark.parametrize("n", [11, 12, 25])
def test_a_few_more_samples_may_train(n, init):
    X = normal(n, 3)
    density = quick(init=init).fit(X)
    assert np.isfinite(density.score_samples(100 * X)).all()


def test_cross_validation_uses_all_samples(X):
    density = quick(max_blocks=1, max_iter=5).fit(X[:300])
    assert density.n_blocks_ >= 1
    mean = density.transforms_.find(Whitening).mean_
    np.testing.assert_allclose(mean, X[:300].mean(axis=0))
    assert len(density.loss_curve_) == density.n_iter_


def test_a_single_split_keeps_samples_for_validation(X):
    density = quick(transforms=None, validation_fraction=0.25).fit(X[:1100])
    # The mean is that of the training samples, and no others.
    mean = density.transforms_.find(Whitening).mean_
    assert np.abs(mean - X[:1100].mean(axis=0)).max() > 1e-6


def test_without_early_stopping_all_samples_train(X):
    density = quick(early_stopping=False).fit(X[:1100])
    mean = density.transforms_.find(Whitening).mean_
    np.testing.assert_allclose(mean, X[:1100].mean(axis=0))
    assert density.validation_scores_ is None
    np.testing.assert_array_equal(density.n_iter_per_block_, [10, 10])
    np.testing.assert_array_equal(density.step_sizes_, [0.5, np.inf])


@pytest.mark.parametrize("n", [200, 1100])
def test_given_validation_samples_are_used(X, n):
    X_val = moons().sample(400, random_state=5) + 0.1
    density = quick(transforms=None).fit(X[:n], X_val=X_val)
    before = gaussian().fit(X[:n], X_val=X_val)
    mean = density.transforms_.find(Whitening).mean_
    np.testing.assert_allclose(mean, X[:n].mean(axis=0))
    values = density.validation_scores_
    assert values[0] == pytest.approx(before.score(X_val), abs=1e-5)
    # Up to the grid, which is finer in scoring.
    assert values[-1] == pytest.approx(density.score(X_val), abs=5e-3)


def test_given_validation_samples_are_checked(X):
    with pytest.raises(ValueError, match="3 features"):
        quick().fit(X[:50], X_val=normal(20, 3))
    with pytest.raises(ValueError, match="NaN"):
        quick().fit(X[:50], X_val=[[0.0, np.nan]])
    with pytest.raises(ValueError, match="early_stopping"):
        quick(early_stopping=False).fit(X[:50], X_val=X[50:])


@pytest.mark.parametrize("n", [300, 2000])
def test_validation_scores_increase_from_block_to_block(X, n):
    density = quick(max_blocks=3, max_iter=20).fit(X[:n])
    values = density.validation_scores_
    assert density.n_blocks_ >= 1
    assert len(values) == density.n_blocks_ + 1
    assert (np.diff(values) > 0).all()
    for name in ("step_sizes_", "movements_", "n_iter_per_block_", "n_ode_steps_"):
        assert getattr(density, name).shape == (density.n_blocks_,), name
    assert density.solver_errors_.shape == (density.n_blocks_, 2)


@pytest.mark.parametrize("n", [300, 1500])
def test_a_flow_of_gaussian_data_learns_no_noise(n):
    mixing = np.array([[2.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.5, 0.1]])
    X, fresh = normal(n, 3) @ mixing.T, normal(5000, 3, seed=1) @ mixing.T
    flow = quick(field=MLPField((16, 16)), max_iter=60, solver=RungeKutta(2)).fit(X)
    assert flow.score(fresh) > gaussian().fit(X).score(fresh) - 0.02


# ------------------------------------------------------------------- mixture as base


def curved(n, seed=0):
    """Ten features, each second one bent along those before it.

    A flow learns them sooner than a mixture, but not all of them in a few iterations.
    """
    X = normal(n, 10, seed)
    for j in range(1, 10, 2):
        before = X[:, j - 1] + (X[:, j - 2] if j > 1 else 0)
        X[:, j] = np.sin(before + X[:, j - 1]) + 0.1 * X[:, j]
    return X


@pytest.fixture(scope="module")
def with_base():
    density = JKOFlowDensity(
        transforms=None,
        field=MLPField((32, 32)),
        max_blocks=1,
        max_iter=60,
        random_state=0,
    ).fit(curved(2000))
    assert density.n_blocks_ == 1
    assert density.base_.n_components_ > 1
    return density


def test_score_with_a_mixture_as_base_is_change_of_variables(with_base):
    X, step = curved(50, seed=1), 1e-5
    columns = [
        (with_base.transform(X + e) - with_base.transform(X - e)) / (2 * step)
        for e in step * np.eye(10)
    ]
    log_det = np.linalg.slogdet(np.stack(columns, axis=2))[1]
    expected = log_normal(with_base.transform(X)) + log_det
    assert np.abs(with_base.score_samples(X) - expected).mean() < 4e-3


def test_round_trips_with_a_mixture_as_base(with_base):
    X = curved(300, seed=1)
    back = with_base.inverse_transform(with_base.transform(X))
    np.testing.assert_allclose(back, X, atol=1e-6)
    for column in with_base.transform(X).T:
        assert kstest(column, "norm").pvalue > 1e-4
    positions = with_base.trajectory(X)
    assert len(positions) == 4
    np.testing.assert_allclose(positions[-1], with_base.transform(X), atol=1e-12)
    np.testing.assert_array_equal(
        positions[-1], with_base.base_.forward(positions[-2])[0]
    )


def test_scores_with_a_mixture_as_base(with_base):
    X = curved(2000, seed=1)
    stages = list(with_base.staged_score_samples(X))
    assert len(stages) == with_base.n_blocks_ + 1
    np.testing.assert_allclose(stages[-1], with_base.score_samples(X), rtol=1e-12)
    # The validation scores have one more: behind the block, and with the base.
    values = with_base.validation_scores_
    assert len(values) == with_base.n_blocks_ + 2
    assert values[-1] >= values[-2] > values[0]
    assert [c.start for c in with_base.selection_ if c.chosen] == ["gaussian"]


def test_samples_with_a_mixture_as_base(with_base):
    X, samples = curved(4000, seed=1), with_base.sample(4000, random_state=0)
    assert np.abs(samples.mean(axis=0) - X.mean(axis=0)).max() < 0.15
    assert np.abs(np.cov(samples.T) - np.cov(X.T)).max() < 0.25
    for column in with_base.transform(samples).T:
        assert kstest(column, "norm").pvalue > 1e-4


# ------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "X, message",
    [
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
def test_bad_samples(X, message):
    with pytest.raises(ValueError, match=message):
        quick().fit(X)


def test_sparse_samples(density):
    for method in (quick().fit, density.score_samples):
        with pytest.raises(TypeError, match=r"(?i)sparse"):
            method(sparse.csr_matrix(np.eye(2)))


@pytest.mark.parametrize(
    "method",
    [
        *("score_samples", "score", "transform", "trajectory", "inverse_transform"),
        *("staged_score_samples", "likelihood_error"),
    ],
)
def test_bad_samples_at_use(density, method):
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
        ("init", "flow"),
        ("init", None),
        ("transforms", "always"),
        ("transforms", ["asinh"]),
        ("transforms", [Asinh]),
        ("transforms", Asinh()),
        ("field", (8, 8)),
        ("field", MLPField),
        ("schedule", 0.5),
        ("solver", "rk4"),
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


FIELDS = [
    ("hidden_layer_sizes", 0),
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
    ("residual", "yes"),
]
SCHEDULES = [
    ("step_size", 0),
    ("step_size", np.inf),
    ("step_size", np.nan),
    ("growth", 0.5),
    ("max_step_size", 0.0),
    ("free_block", None),
    ("movement_tol", -1e-9),
    ("n_reparameterizations", -1),
    ("n_refinements", 0.5),
]
SOLVERS = [
    ("n_steps", 0),
    ("tol", 0.0),
    ("divergence", "approximate"),
    ("n_probes", 0),
    ("probe_scale", 0.0),
]


@pytest.mark.parametrize(
    "component, name, value",
    [
        *((MLPField, *pair) for pair in FIELDS),
        *((JKOSchedule, *pair) for pair in SCHEDULES),
        *((RungeKutta, *pair) for pair in SOLVERS),
    ],
)
def test_bad_parameters_of_components(X, component, name, value):
    part = {MLPField: "field", JKOSchedule: "schedule", RungeKutta: "solver"}[component]
    density = quick(**{part: component(**{name: value})})
    with pytest.raises(ValueError, match=f"'{name}' parameter of {component.__name__}"):
        density.fit(X[:50])


@pytest.mark.parametrize(
    "component, pairs",
    [(MLPField, FIELDS), (JKOSchedule, SCHEDULES), (RungeKutta, SOLVERS)],
)
def test_every_parameter_of_components_has_a_bad_value(component, pairs):
    assert {name for name, _ in pairs} == set(component().get_params())


def test_step_sizes_stop_at_the_largest_however_fast_they_grow(X):
    density = quick(
        schedule=JKOSchedule(growth=1e200),
        max_blocks=4,
        max_iter=2,
        early_stopping=False,
    ).fit(X[:50])
    np.testing.assert_array_equal(density.step_sizes_, [0.5, 8, 8, np.inf])


@pytest.mark.parametrize("sizes", [(), 8, (8,), (8, 8, 8), [8, 8], np.array([8, 8])])
def test_any_number_of_hidden_layers(X, sizes):
    density = quick(
        field=MLPField(sizes, "tanh"), max_iter=2, early_stopping=False
    ).fit(X[:100])
    Z = density.transform(X[:100])
    assert np.isfinite(density.score(X[:100]))
    assert np.abs(density.inverse_transform(Z) - X[:100]).max() < 1e-6


# ------------------------------------------------------------------- degenerate data


def wide_and_narrow(n):
    return normal(n, 2) * [1e12, 1e-12] + [3e12, 0]


@pytest.mark.parametrize("early_stopping", [True, False])
@pytest.mark.parametrize(
    "X",
    [
        pytest.param(normal(20, 30), id="more features than samples"),
        pytest.param(np.c_[normal(40, 2), np.full(40, 7.1)], id="constant feature"),
        pytest.param(np.full((40, 2), 0.1), id="all constant"),
        pytest.param(np.zeros((40, 2)), id="all zero"),
        pytest.param(wide_and_narrow(40), id="wide and narrow"),
        pytest.param(np.repeat(normal(10, 2), 5, axis=0), id="duplicated samples"),
        pytest.param(np.tile(normal(40, 2), 2), id="duplicated features"),
        pytest.param(normal(40, 1), id="one feature"),
        pytest.param(normal(40, 2).astype(np.float32), id="float32"),
        pytest.param(np.random.RandomState(0).poisson(3, (40, 2)), id="ints"),
        pytest.param(normal(40, 2) > 0, id="bools"),
        pytest.param(normal(40, 2).tolist(), id="lists"),
    ],
)
@pytest.mark.parametrize("init", ["gaussian", "mixture"])
def test_degenerate_data(X, init, early_stopping):
    density = quick(
        init=init, max_blocks=1, max_iter=2, early_stopping=early_stopping
    ).fit(X)
    assert np.isfinite(density.score_samples(X)).all()
    samples = density.sample(50, random_state=0)
    assert np.isfinite(samples).all()
    assert np.isfinite(density.score_samples(samples)).all()
    back = density.inverse_transform(density.transform(X))
    size = np.abs(np.asarray(X, float)).max(axis=0) + 1e-300
    assert (np.abs(back - np.asarray(X, float)) / size).max() < 1e-6


@pytest.mark.parametrize("value", [0.0, 7.1, -1e9])
def test_other_values_of_a_constant_feature_score_far_lower(value):
    X = np.c_[normal(100, 2), np.full(100, value)]
    density = quick(max_blocks=1, early_stopping=False).fit(X)
    violation = X.copy()
    violation[:, 2] += 0.1 * max(abs(value), 1)
    lowest = density.score_samples(X).min()
    assert (density.score_samples(violation) < lowest - 100).all()


def test_validation_decides_where_a_fold_is_constant():
    X = np.zeros((30, 1))
    X[0] = 1.0
    density = quick().fit(X)
    # No fold can decide whether a flow helps, so none may be trained all the same.
    assert density.n_blocks_ == 0 or density.validation_scores_ is not None


# ------------------------------------------------------------------- device, reports


def test_cpu(X, fresh):
    brief = {"max_blocks": 1, "max_iter": 3}
    expected = quick(**brief).fit(X[:200]).score_samples(fresh)
    scores = quick(**brief, device="cpu").fit(X[:200]).score_samples(fresh)
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


def test_moving_a_model_to_a_device_leaves_it_on_the_cpu(density, fresh):
    # torch's device without storage stands in for a GPU: only parameters are moved.
    copy = pickle.loads(pickle.dumps(density))
    moved = copy._model.to(torch.device("meta"))
    assert moved.device.type == "meta"
    assert {p.device.type for p in moved.flow.parameters()} <= {"meta"}
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
    assert lines[0] == "fit of JKOFlowDensity"
    assert "higher is better" in lines[1]
    assert ("3-fold cross-validation" in lines[1]) == (n < 1000)
    assert lines[2] == "selection: the flow starts from a Gaussian"
    before, *scores = density.validation_scores_
    assert lines[3].endswith(f": {before:.4f}")
    titles = "round block step size displacement validation score gain seconds"
    assert lines[4].split() == titles.split()
    assert density.n_blocks_ >= 1
    rows = [line.split() for line in lines if line.startswith("grow ")]
    kept = [row for row in rows if row[-1] != "dropped"]
    # After cross-validation, blocks are trained again on all samples.
    tables = [kept[: density.n_blocks_], kept[density.n_blocks_ :]]
    assert len(tables[1]) == (density.n_blocks_ if n < 1000 else 0)
    for row, score, i in zip(tables[0], scores, range(100), strict=False):
        last = density.validation_scores_[i]
        assert row[1] == f"{i + 1}"
        assert row[4:6] == [f"{score:.4f}", f"{score - last:+.4f}"]
    for row in tables[1]:
        assert row[4:6] == ["-", "-"]
    moved = tables[1] or tables[0]
    assert [row[3] for row in moved] == [f"{m:.3f}" for m in density.movements_]
    quick(max_blocks=1, max_iter=2).fit(X[:n])
    assert capsys.readouterr().out == ""


def test_verbose_lines_of_threads_begin_with_their_names(X, capsys):
    def fit():
        quick(verbose=1, early_stopping=False, max_blocks=1).fit(X[:100])

    thread = threading.Thread(target=fit, name="second")
    thread.start()
    thread.join()
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("[second] ") for line in lines)
    # Fits that run at the same time differ in parameters.
    assert lines[0].startswith("[second] fit of JKOFlowDensity(")
    assert "early_stopping=False" in lines[0]
    assert lines[1].startswith("[second] no validation; ")
    assert lines[-1].split()[1:3] == ["grow", "1"]


def test_verbose_output_says_what_was_chosen_and_what_became_of_rounds(X, capsys):
    schedule = JKOSchedule(n_reparameterizations=0, n_refinements=1)
    one = quick(init="auto", transforms="auto", schedule=schedule, verbose=1)
    density = one.set_params(random_state=3).fit(X[:1100])
    lines = capsys.readouterr().out.splitlines()
    # A flow was chosen, but its short training leaves it behind the mixture.
    (selection,) = (line for line in lines if line.startswith("selection: "))
    assert "the flow starts from a Gaussian" in selection
    n = len(density.selection_) - 1
    assert f"preferred to {n} other candidate" in selection
    assert next(c for c in density.selection_ if c.chosen).start == "mixture"
    at = [line.startswith("the mixture of Gaussians") for line in lines].index(True)
    scores = [line for line in lines if line.startswith("validation score before")]
    assert lines[at + 1] == scores[1]
    assert scores[1].endswith(f"{density.validation_scores_[0]:.4f}")
    lines = lines[at:]
    rounds = [r for r in density.history_ if r.round != "grow"]
    told = [line for line in lines if line.startswith("round ") and ":" in line]
    assert len(told) == len(rounds) > 0
    for line, one in zip(told, rounds, strict=True):
        assert line.startswith(f"round {one.round} (")
        assert ("): accepted" in line) == one.accepted
        # The summary has the number of blocks besides.
        assert f"\n{line}" in density.summary()


def test_callbacks_of_an_old_scikit_learn_are_a_clear_error(monkeypatch):
    # As with scikit-learn 1.8. Where it is that, the estimators say so, too.
    have_callbacks = importlib.util.find_spec("sklearn.callback") is not None
    monkeypatch.setitem(sys.modules, "sklearn.callback", None)
    spec = importlib.util.find_spec("skjko.callback_support")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    installed = re.escape(sklearn.__version__)
    with pytest.raises(ImportError, match=rf"1\.9 or later.* {installed}\. Install"):
        module.CallbackSupport().set_callbacks(EarlyStopping())
    if not have_callbacks:
        with pytest.raises(ImportError, match=r"pip install 'scikit-learn>=1\.9'"):
            quick().set_callbacks()


def test_normal_fits_do_not_warn(X):
    with warnings.catch_warnings():
        # ConvergenceWarning among them; deprecations are errors everywhere here.
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("error", RuntimeWarning)
        for samples in (X[:100], X[:1100], normal(100, 5)):
            quick(max_iter=5).fit(samples)
            quick(max_iter=5, early_stopping=False).fit(samples)


@pytest.mark.parametrize("value", [1.1e300, -1.7e308])
def test_values_too_large_are_named(value):
    large = [[0.0, 1.0], [1.0, value], [2.0, 3.0]]
    with pytest.raises(ValueError, match=r"X has.* 1e\+300 in column 1.*JKOFlowDens"):
        quick().fit(large)
    with pytest.raises(ValueError, match=r"X_val has.* 1e\+300 in column 1"):
        quick().fit(normal(5, 2), X_val=large)


@pytest.mark.filterwarnings("error")
def test_samples_of_the_largest_numbers(density):
    """Their sum, by which scikit-learn looks for infinities, overflows."""
    X = np.array([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]) * np.finfo(float).max
    assert (density.score_samples(X) == -np.inf).all()
    assert np.isfinite(density.transform(X)).all()
    assert np.isfinite(density.inverse_transform(X)).all()


# ------------------------------------------------------------------- warm starts


@pytest.mark.parametrize("n", [200, 1100])
@pytest.mark.parametrize("early_stopping", [True, False])
def test_a_warm_start_goes_on(X, n, early_stopping):
    density = quick(
        max_blocks=1, max_iter=3, warm_start=True, early_stopping=early_stopping
    )
    schedule = JKOSchedule(free_block=False)
    density.set_params(schedule=schedule).fit(X[:n])
    first, n_iter = density.flow_.blocks[0], density.n_iter_
    density.set_params(max_blocks=2).fit(X[:n])
    assert density.n_blocks_ == 2
    assert density.n_iter_ > n_iter
    for a, b in zip(
        first.parameters(), density.flow_.blocks[0].parameters(), strict=True
    ):
        assert torch.equal(a, b)
    refined = JKOSchedule(free_block=False, n_refinements=1)
    n_blocks = density.n_blocks_
    density.set_params(schedule=refined).fit(X[:n])
    assert density.history_[-1].round == "refine"
    assert density.n_blocks_ in (n_blocks, 2 * n_blocks)


def test_a_warm_start_needs_the_same_samples_and_more_to_do(X):
    density = quick(max_blocks=1, max_iter=3, warm_start=True).fit(X[:200])
    with pytest.warns(UserWarning, match="Nothing to train"):
        density.fit(X[:200])
    density.set_params(max_blocks=2)
    with pytest.raises(ValueError, match="same samples"):
        density.fit(X[:201])
    with pytest.raises(ValueError, match="same samples"):
        density.fit(X[:200], sample_weight=np.arange(1.0, 201.0))
    with pytest.raises(ValueError, match=r"'init' .* cannot change"):
        density.set_params(init="mixture").fit(X[:200])
    with pytest.raises(ValueError, match=r"'max_blocks' .* at least 1"):
        density.set_params(init="gaussian", max_blocks=0).fit(X[:200])
