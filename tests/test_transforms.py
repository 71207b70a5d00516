"""All transforms by the same properties, and each by what it is for."""

# SPDX-License-Identifier: BSD-3-Clause

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import integrate, stats
from sklearn.base import clone

from skjko.io.registry import CLASSES
from skjko.io.state import pack, unpack
from skjko.transforms import (
    Asinh,
    Bounds,
    Chain,
    MarginalMixtures,
    MixtureMap,
    NormalCells,
    Radial,
    StudentT,
    Whitening,
)

INF = np.inf


def table(n=1500, seed=0):
    """A skewed feature, a lumpy one, and one that depends on both."""
    rng = np.random.default_rng(seed)
    skewed = rng.lognormal(0.0, 1.0, n)
    lumpy = rng.choice([-2.0, 0.0, 3.0], n) + 0.2 * rng.standard_normal(n)
    third = np.tanh(lumpy) + 0.3 * np.log(skewed) + 0.2 * rng.standard_normal(n)
    return np.column_stack([skewed, lumpy, third])


def student(n=1500, d=3, freedom=2.0, seed=0):
    """Samples of one shape and many lengths."""
    rng = np.random.default_rng(seed)
    size = np.sqrt(freedom / rng.chisquare(freedom, (n, 1)))
    return size * rng.standard_normal((n, d))


TRANSFORMS = {
    "bounds": (Bounds(np.array([0.0, -INF, -4]), np.array([INF, 9.0, 4])), table),
    "normal cells": (NormalCells(np.zeros(3), np.array([1.0, 2.0, 0.0])), table),
    "asinh": (Asinh(), table),
    "marginal mixtures": (MarginalMixtures(), table),
    "whitening": (Whitening(), table),
    "scaling": (Whitening("scale"), table),
    "radial": (Radial(), student),
    "student": (StudentT(), student),
    "mixture map": (MixtureMap(), lambda: Whitening().fit(table()).forward(table())[0]),
    "chain": (Chain([Asinh(), Whitening(), Radial(), MixtureMap()]), table),
}


@pytest.fixture(scope="module", params=TRANSFORMS)
def fitted(request):
    """A fitted transform, and the samples that it was fitted to."""
    transform, make = TRANSFORMS[request.param]
    X = make()
    return clone(transform).fit(X), X


def test_every_transform_changes_something(fitted):
    transform, X = fitted
    assert not transform.is_identity_
    assert transform.n_features_in_ == X.shape[1]
    assert np.abs(transform.forward(X)[0] - X).max() > 0.1


def test_the_inverse_undoes_the_map(fitted):
    transform, X = fitted
    Y, _ = transform.forward(X)
    assert_allclose(transform.inverse(Y), X, rtol=1e-7, atol=1e-8)


def test_the_log_determinant_is_that_of_the_jacobian(fitted):
    transform, X = fitted
    x, step = X[:40], 1e-6
    _, log_det = transform.forward(x)
    columns = [
        (transform.forward(x + step * e)[0] - transform.forward(x - step * e)[0])
        / (2 * step)
        for e in np.eye(X.shape[1])
    ]
    jacobians = np.stack(columns, axis=2)
    assert_allclose(np.linalg.slogdet(jacobians)[1], log_det, atol=1e-4)


def test_log_prob_is_that_of_a_normal_image(fitted):
    transform, X = fitted
    Y, log_det = transform.forward(X)
    expected = stats.norm.logpdf(Y).sum(axis=1) + log_det
    assert_allclose(transform.log_prob(X), expected, rtol=1e-9, atol=1e-9)


def test_samples_have_a_normal_image(fitted):
    transform, X = fitted
    drawn = transform.sample(2000, np.random.RandomState(0))
    assert drawn.shape == (2000, X.shape[1])
    Y, _ = transform.forward(drawn)
    for y in Y.T:
        assert stats.kstest(y, "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(Y.T) - np.eye(3)).max() < 4 / math.sqrt(2000)


def test_a_sample_does_not_depend_on_its_batch(fitted):
    transform, X = fitted
    together, log_det = transform.forward(X)
    for i in (0, 7):
        alone, one = transform.forward(X[i : i + 1])
        assert_allclose(alone[0], together[i], rtol=1e-12, atol=1e-12)
        assert_allclose(one[0], log_det[i], rtol=1e-12, atol=1e-12)


def test_use_changes_neither_transform_nor_data(fitted):
    transform, X = fitted
    before, rows = pickle.dumps(transform), X.copy()
    transform.inverse(transform.forward(X)[0])
    transform.log_prob(X)
    transform.sample(3, np.random.RandomState(0))
    assert pickle.dumps(transform) == before
    assert_array_equal(X, rows)


def test_no_samples(fitted):
    transform, X = fitted
    Y, log_det = transform.forward(X[:0])
    assert Y.shape == X[:0].shape
    assert log_det.shape == (0,)
    assert transform.inverse(Y).shape == X[:0].shape


@pytest.mark.filterwarnings("error")
def test_far_samples_are_finite(fitted):
    transform, X = fitted
    if isinstance(transform, Bounds):
        return
    far = X.mean(axis=0) + np.array([[1e3], [1e30], [1e80], [-1e290]]) * np.ones(3)
    Y, log_det = transform.forward(far)
    assert np.isfinite(Y).all()
    assert np.isfinite(log_det).all()
    assert np.isfinite(transform.inverse(Y)).all()


@pytest.mark.parametrize("way", ["pickle", "state"])
def test_round_trips(fitted, way):
    transform, X = fitted
    if way == "pickle":
        again = pickle.loads(pickle.dumps(transform))
    else:
        arrays = {}
        plain = pack(transform, arrays, "transform", CLASSES)
        again = unpack(plain, arrays, CLASSES)
        assert not arrays
    for a, b in zip(again.forward(X), transform.forward(X), strict=True):
        assert_array_equal(a, b)
    assert repr(again) == repr(transform)


@pytest.mark.parametrize(
    "name", ["asinh", "marginal mixtures", "whitening", "scaling", "radial"]
)
def test_weights_are_repetitions(name):
    transform, make = TRANSFORMS[name]
    X = make()[:300]
    times = np.random.RandomState(0).randint(1, 4, len(X))
    chain = Chain([transform, Whitening()])
    weighted = chain.fit(X, times.astype(float))
    repeated = chain.fit(np.repeat(X, times, axis=0))
    gap = weighted.log_prob(X) - repeated.log_prob(X)
    # Quantiles know no weights, shrinkage counts samples: about the same.
    assert abs(gap.mean()) < 0.1


# ------------------------------------------------------------------- single maps


@given(
    a=st.floats(-1e3, 1e3), size=st.floats(1e-3, 1e3), share=st.floats(1e-6, 1 - 1e-6)
)
def test_bounds_invert(a, size, share):
    lower = np.array([a, -INF, a])
    upper = np.array([INF, a, a + size])
    bounds = Bounds(lower, upper).fit(None)
    X = np.array([[a + size * share, a - size * share, a + size * share]])
    if bounds.outside(X).any():
        return
    Y, log_det = bounds.forward(X)
    assert np.isfinite(Y).all()
    assert np.isfinite(log_det).all()
    assert_allclose(bounds.inverse(Y), X, rtol=1e-9, atol=1e-9 * (abs(a) + size))


def test_outside_of_the_bounds_there_is_no_density():
    bounds = Bounds(np.array([0.0]), np.array([1.0])).fit(None)
    log_prob = bounds.log_prob(np.array([[-1.0], [0.0], [0.5], [1.0], [2.0]]))
    assert_array_equal(np.isfinite(log_prob), [False, False, True, False, False])
    far = bounds.inverse(np.array([[-1e300], [1e300]]))
    assert ((far > 0) & (far < 1)).all()


def test_uniform_positions_in_cells_become_normal_ones():
    cells = NormalCells(np.array([0.5]), np.array([2.0])).fit(None)
    inside = np.random.RandomState(0).uniform(-1, 1, size=(4000, 1))
    Y, log_det = cells.forward(2.5 + inside)
    shape = stats.truncnorm(-2.5, 2.5, loc=2.5, scale=0.4)
    assert stats.kstest(Y[:, 0], shape.cdf).pvalue > 1e-3
    # The density of the image, by the change of variables from 1/2.
    assert_allclose(np.log(0.5) - log_det, shape.logpdf(Y[:, 0]), atol=1e-9)
    ends = np.array([[1.5], [3.5]])
    assert_allclose(cells.forward(ends)[0], ends, atol=1e-12)


@pytest.mark.parametrize(
    "X",
    [
        pytest.param(np.random.RandomState(0).standard_normal((2000, 3)), id="normal"),
        pytest.param(np.random.RandomState(0).uniform(size=(2000, 3)), id="uniform"),
        pytest.param(np.random.RandomState(0).standard_cauchy((50, 3)), id="few"),
        pytest.param(np.repeat(np.eye(3), 100, axis=0), id="ties"),
        pytest.param(np.full((200, 2), 3.0), id="constant"),
    ],
)
def test_asinh_is_the_identity_where_it_does_not_help(X):
    assert Asinh().fit(X).is_identity_


def test_asinh_maps_only_features_that_gain():
    assert_array_equal(Asinh().fit(table(4000)).columns_, [0])


@pytest.mark.parametrize("transform", [Asinh(), MarginalMixtures()])
def test_features_of_degenerate_directions_are_not_mapped(transform):
    X = table(1000)[:, :2]
    X = np.column_stack([X, X[:, 0], 2 * X[:, 1]])
    assert clone(transform).fit(X).is_identity_


LUMPS = (
    np.array([0.5, 0.3, 0.2]),
    np.array([-1.0, 0.5, 2.0]),
    np.array([0.1, 0.05, 0.2]),
)


def lumpy(n, seed=0):
    rng = np.random.default_rng(seed)
    weights, means, deviations = LUMPS
    part = rng.choice(3, n, p=weights)
    return means[part] + deviations[part] * rng.standard_normal(n)


def test_marginal_mixtures_find_lumps():
    maps = MarginalMixtures().fit(lumpy(4000)[:, None])
    x = lumpy(4000, 1)[:, None]
    Y, _ = maps.forward(x)
    weights, means, deviations = LUMPS
    truth = np.log(np.exp(stats.norm.logpdf(x, means, deviations)) @ weights)
    gap = truth - maps.log_prob(x)
    assert gap.mean() < 0.01 + 2 * gap.std() / np.sqrt(len(gap))
    assert stats.kstest(Y[:, 0], "norm").pvalue > 1e-3


@pytest.mark.parametrize("n", [50, 300, 4000])
def test_marginal_mixtures_leave_normal_features_alone(n):
    X = np.random.default_rng(0).standard_normal((n, 4))
    assert MarginalMixtures().fit(X).is_identity_


def test_marginal_mixtures_of_repeated_samples_are_those_of_weighted_ones():
    X = lumpy(300)[:, None]
    times = np.random.RandomState(1).randint(1, 4, len(X))
    weighted = MarginalMixtures().fit(X, times.astype(float))
    repeated = MarginalMixtures().fit(np.repeat(X, times, axis=0))
    assert_allclose(weighted.log_prob(X), repeated.log_prob(X), rtol=1e-9)


@pytest.mark.parametrize("digits", [1, 6])
def test_a_feature_has_the_same_marginal_mixture_whatever_is_beside_it(digits):
    # One that is done soon, one of many peaks, and with few digits, equal values.
    X = np.column_stack([lumpy(900), 7 * lumpy(900, 1), table(900)[:, 0]])
    X = X.round(digits) + [0, 0.01, 0] * np.random.RandomState(0).rand(900, 3)
    together = MarginalMixtures().fit(X)
    assert_array_equal(together.columns_, [0, 1, 2])
    Y, _ = together.forward(X)
    for j in range(3):
        # The other columns tell the samples apart, and count for nothing.
        alone = MarginalMixtures(np.array([j])).fit(X)
        assert_allclose(alone.forward(X)[0][:, j], Y[:, j], rtol=1e-6, atol=1e-6)


def test_marginal_mixtures_map_features_one_by_one():
    X = np.column_stack([lumpy(1500), table()[:, 0], lumpy(1500, 1) ** 3])
    together = MarginalMixtures().fit(X)
    assert_array_equal(together.columns_, [0, 1, 2])
    Y, log_det = together.forward(X)
    total = np.zeros(len(X))
    for j, one in enumerate(together.maps_):
        u = (X[:, [j]] - together.centre_[j]) / together.width_[j]
        y, increment = one.forward(u)
        assert_allclose(Y[:, [j]], y, rtol=1e-12, atol=1e-12)
        total += increment - np.log(together.width_[j])
    assert_allclose(log_det, total, rtol=1e-10, atol=1e-10)


@given(st.floats(1e-3, 1e3), st.floats(-9, 9), st.integers(1, 20), st.integers(0, 9))
@settings(max_examples=30)
def test_radial_maps_invert_at_all_lengths(size, magnitude, d, seed):
    radial = Radial().fit(size * student(300, max(d, 2), seed=seed))
    rng = np.random.RandomState(seed)
    X = size * 10**magnitude * rng.standard_normal((5, max(d, 2)))
    assert_allclose(radial.inverse(radial.forward(X)[0]), X, rtol=1e-9)


@pytest.mark.parametrize("d", [2, 3, 10])
def test_a_radial_density_integrates_to_one(d):
    radial = Radial().fit(student(1000, d))
    log_sphere = math.log(2) + d / 2 * math.log(math.pi) - math.lgamma(d / 2)

    def shell(log_length):
        row = np.zeros((1, d))
        row[0, -1] = math.exp(log_length)
        return math.exp(log_sphere + d * log_length + radial.log_prob(row)[0])

    total, _ = integrate.quad(shell, -30, 60, limit=400, points=[-1, 0, 1, 3, 6])
    assert total == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("d", [2, 6])
def test_a_radial_density_is_near_to_a_student_t(d):
    X, X_test = student(4000, d, 3.0), student(4000, d, 3.0, seed=1)
    truth = stats.multivariate_t(np.zeros(d), np.eye(d), 3.0).logpdf(X_test)
    normal = stats.multivariate_normal(np.zeros(d), np.cov(X.T)).logpdf(X_test)
    missing = (truth - Radial().fit(X).log_prob(X_test)).mean()
    assert 0 < missing < 0.1 * (truth - normal).mean()


def test_radial_parameters_are_the_most_likely_ones():
    X = student(3000, 4)
    radial = Radial().fit(X)
    best = radial.log_prob(X).mean()
    for radius, scale in ((1.1, 1), (0.9, 1), (1, 1.02), (1, 0.98), (1.05, 1.01)):
        state = radial.get_state()
        state["fitted"]["radius_"] *= radius
        state["fitted"]["scale_"] *= scale
        assert Radial.from_state(state).log_prob(X).mean() < best


@pytest.mark.parametrize(
    "X",
    [
        pytest.param(student(4000, 5, 1e9), id="normal"),
        pytest.param(np.random.RandomState(0).uniform(-1, 1, (4000, 5)), id="uniform"),
        pytest.param(student(90, 5), id="few samples"),
        pytest.param(student(4000, 1), id="one feature"),
        pytest.param(np.zeros((200, 2)), id="one point"),
    ],
)
def test_a_radial_map_is_the_identity_without_need(X):
    assert Radial().fit(X).is_identity_


# ------------------------------------------------------------------------ chains


def test_a_chain_acts_on_features_with_a_density():
    X = table()
    X = np.column_stack([X, X[:, 0] - 2 * X[:, 1], np.full(len(X), 7.0)])
    chain = Chain([Whitening(), Radial(), MixtureMap()]).fit(X)
    assert chain.n_degenerate_ == 2
    assert chain.find(MixtureMap).n_features_in_ == 3
    assert chain.find(Bounds) is None
    Y, log_det = chain.forward(X)
    assert Y.shape == X.shape
    assert_allclose(chain.inverse(Y), X, rtol=1e-6, atol=1e-6)
    expected = stats.norm.logpdf(Y).sum(axis=1) + log_det
    assert_allclose(chain.log_prob(X), expected, rtol=1e-9)
    drawn = chain.sample(500, np.random.RandomState(0))
    assert_allclose(drawn[:, 3], drawn[:, 0] - 2 * drawn[:, 1], atol=1e-9)


def test_a_chain_leaves_identities_out():
    X = np.random.default_rng(0).standard_normal((500, 2))
    chain = Chain([Asinh(), Radial(), Whitening()]).fit(X)
    assert [type(step) for step in chain] == [Whitening]
    assert Chain([]).is_identity_
    assert_array_equal(Chain([]).forward(X)[0], X)
    assert_allclose(Chain([]).log_prob(X), stats.norm.logpdf(X).sum(axis=1))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_bad_states_are_refused(name):
    transform, make = TRANSFORMS[name]
    state = clone(transform).fit(make()).get_state()
    cls = type(transform)
    if cls is Chain:
        steps = state["steps"]
        bad = [{"steps": [*steps[:2], 1]}, {"steps": 1}, {}]
    else:
        fitted = state["fitted"]
        bad = [{}, {"params": {"more": 1}, "fitted": fitted}, {**state, "more": 1}]
        arrays = [k for k, v in fitted.items() if isinstance(v, np.ndarray) and v.size]
        bad += [
            {**state, "fitted": {**fitted, key: fitted[key][:-1]}} for key in arrays
        ]
        bad += [
            {**state, "fitted": {**fitted, key: np.full_like(fitted[key], np.nan)}}
            for key in arrays
            if fitted[key].dtype.kind == "f"
        ]
        bad += [{**state, "fitted": {**fitted, "__class__": Bounds}}]
    for one in bad:
        with pytest.raises((ValueError, AttributeError, KeyError, TypeError)):
            cls.from_state(one)
