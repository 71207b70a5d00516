"""Whitening against closed forms, scikit-learn and SciPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf

from skjko.transforms import Whitening


def normal(n, d, seed=0):
    return np.random.RandomState(seed).standard_normal((n, d))


def correlated(n, d=4, seed=0):
    """Rows with correlated columns of different scale, away from the origin."""
    scale = 10.0 ** np.arange(d)
    return (normal(n, d, seed) @ normal(d, d, seed + 1)) * scale + 5 * scale


def linear_map(whitening, d):
    """The matrix A of z = A (x - mean), from the map itself."""
    return (whitening.forward(whitening.mean_ + np.eye(d))[0]).T


def log_density(whitening, X):
    Z, log_det = whitening.forward(X)
    return log_det - 0.5 * (Z**2).sum(axis=1) - 0.5 * X.shape[1] * np.log(2 * np.pi)


@pytest.mark.parametrize("n", [3, 50])
def test_log_det_is_that_of_the_map(n):
    X = correlated(n)
    whitening = Whitening().fit(X)
    log_det = whitening.forward(X)[1]
    assert log_det.shape == (n,)
    expected = np.linalg.slogdet(linear_map(whitening, 4))[1]
    np.testing.assert_allclose(log_det, expected, rtol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 50])
def test_inverse_undoes_forward(n):
    X = correlated(n)
    whitening = Whitening().fit(X)
    back = whitening.inverse(whitening.forward(X)[0])
    np.testing.assert_allclose(back, X, rtol=1e-10)
    # Not along degenerate directions, where a unit of z is lost in the digits of x.
    Z = normal(100, 4)
    Z[:, 4 - whitening.n_degenerate_ :] = 0
    back, _ = whitening.forward(whitening.inverse(Z))
    np.testing.assert_allclose(
        back[:, : 4 - whitening.n_degenerate_],
        Z[:, : 4 - whitening.n_degenerate_],
        atol=1e-9,
    )


def test_many_samples_are_whitened():
    X = normal(20_000, 3) @ [[1.0, 0, 0], [1, 30, 0], [0, 20, 0.1]] + 7
    Z, _ = Whitening().fit(X).forward(X)
    np.testing.assert_allclose(Z.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(Z.T @ Z / len(Z), np.eye(3), atol=0.01)


@pytest.mark.parametrize("n", [5, 9])
def test_shrinkage_is_ledoit_wolf_on_standardised_features(n):
    X = correlated(n)
    whitening = Whitening().fit(X)
    standardised = (X - X.mean(axis=0)) / X.std(axis=0)
    covariance, shrinkage = ledoit_wolf(standardised)
    assert whitening.shrinkage_ == pytest.approx(shrinkage, rel=1e-9)
    assert whitening.shrinkage_ > 0
    A = linear_map(whitening, 4)
    implied = np.linalg.inv(A.T @ A) / np.outer(X.std(axis=0), X.std(axis=0))
    np.testing.assert_allclose(implied, covariance, atol=1e-8)


def test_shrinkage_where_other_samples_gain_by_it():
    independent, X = normal(60, 20), normal(60, 20, seed=1)
    assert Whitening().fit(independent).shrinkage_ > 0.1
    # Strong correlations, and more samples than numbers: shrinkage would hide them.
    X[:, 1] = X[:, 0] + 1e-4 * X[:, 1]
    assert Whitening().fit(X[:, :4]).shrinkage_ == 0


def test_nearly_equal_features():
    rng = np.random.RandomState(0)
    a = 20 + 5 * rng.standard_normal(2000)
    X = np.column_stack([a, a + 4e-4 * rng.standard_normal(2000)])
    whitening = Whitening().fit(X[:1000])
    assert whitening.n_degenerate_ == 0
    truth = multivariate_normal(X.mean(axis=0), np.cov(X.T)).logpdf(X[1000:])
    assert whitening.log_prob(X[1000:]).mean() == pytest.approx(truth.mean(), abs=0.01)
    off = whitening.log_prob(X[1000:] + np.array([0, 0.2]))
    assert (off < whitening.log_prob(X[1000:]) - 1000).all()


def test_exact_relations_hold_in_samples():
    X = normal(800, 3)
    X[:, 2] = 1e3 + X[:, 0] - 5 * X[:, 1]
    whitening = Whitening().fit(X)
    drawn = whitening.sample(500, np.random.RandomState(0))
    total = drawn[:, 0] - 5 * drawn[:, 1] - drawn[:, 2]
    np.testing.assert_allclose(total, -1e3, rtol=1e-12)


def test_one_feature_is_not_shrunk():
    X = correlated(50, d=1)
    whitening = Whitening().fit(X)
    assert whitening.shrinkage_ == 0
    expected = multivariate_normal(X.mean(), X.var()).logpdf(X[:, 0])
    np.testing.assert_allclose(log_density(whitening, X), expected, rtol=1e-10)


@pytest.mark.parametrize("n", [3, 30])
def test_log_density_is_the_gaussian_one(n):
    X, scale = normal(n, 3) @ normal(3, 3, seed=1) + 2, np.array([0.1, 1.0, 10.0])
    X *= scale
    whitening = Whitening().fit(X)
    standardised = (X - X.mean(axis=0)) / X.std(axis=0)
    covariance, _ = ledoit_wolf(standardised)
    if whitening.shrinkage_ == 0:
        covariance = np.cov(standardised.T, bias=True)
    covariance *= np.outer(X.std(axis=0), X.std(axis=0))
    rows = X.mean(axis=0) + 3 * normal(20, 3, seed=2) * scale
    np.testing.assert_allclose(
        log_density(whitening, rows),
        multivariate_normal(X.mean(axis=0), covariance).logpdf(rows),
        rtol=1e-9,
    )


def test_weights_are_repeated_samples():
    X = correlated(40)
    times = np.random.RandomState(0).randint(1, 5, 40)
    weighted = Whitening().fit(X, times.astype(float))
    repeated = Whitening().fit(np.repeat(X, times, axis=0))
    np.testing.assert_allclose(weighted.mean_, repeated.mean_, rtol=1e-12)
    np.testing.assert_allclose(weighted.scale_, repeated.scale_, rtol=1e-12)
    expected = np.average(X, axis=0, weights=times)
    np.testing.assert_allclose(weighted.mean_, expected, rtol=1e-12)


def test_weights_have_no_unit():
    X, weight = correlated(40), np.random.RandomState(0).uniform(0.1, 1, 40)
    a = Whitening().fit(X, weight)
    b = Whitening().fit(X, 4 * weight)
    np.testing.assert_array_equal(a.forward(X)[0], b.forward(X)[0])
    ones = Whitening().fit(X, np.ones(40))
    np.testing.assert_array_equal(ones.forward(X)[0], Whitening().fit(X).forward(X)[0])


@pytest.mark.parametrize(
    "X, n_degenerate",
    [
        pytest.param(normal(50, 3), 0, id="none"),
        pytest.param(np.tile(normal(50, 2), 2), 2, id="duplicated columns"),
        pytest.param(np.c_[normal(50, 2), np.full(50, 7.1)], 1, id="constant column"),
        pytest.param(np.full((50, 2), -0.3), 2, id="all constant"),
        pytest.param(np.zeros((50, 2)), 2, id="all zero"),
        pytest.param(normal(5, 8), 4, id="fewer rows than columns"),
        pytest.param(normal(2, 3), 2, id="two rows"),
        pytest.param(1e8 + normal(50, 1), 0, id="far from the origin"),
        pytest.param(1e12 + 1e-6 * normal(50, 1), 1, id="rounding noise"),
    ],
)
def test_degenerate_directions_come_last(X, n_degenerate):
    whitening = Whitening().fit(X)
    assert whitening.n_degenerate_ == n_degenerate
    Z, log_det = whitening.forward(X)
    assert np.isfinite(log_det).all()
    active = X.shape[1] - n_degenerate
    # Samples vary along the others, and along these by no more than rounding.
    assert (Z[:, :active].std(axis=0) > 0.1).all()
    assert np.abs(Z[:, active:]).max(initial=0) < 10


def test_a_sample_off_a_degenerate_direction_is_far():
    # How far depends on the shrinkage, which vanishes as 1 / n.
    X = np.tile(normal(1000, 1), 2)
    whitening = Whitening().fit(X)
    off = X + np.array([0.0, 1.0])
    assert log_density(whitening, off).max() < log_density(whitening, X).min() - 50


@settings(max_examples=50)
@given(
    exponents=st.lists(st.integers(-12, 12), min_size=1, max_size=4),
    offsets=st.lists(st.integers(-3, 3), min_size=4, max_size=4),
    n=st.integers(2, 12),
    seed=st.integers(0, 100),
)
def test_any_scale_is_finite_and_invertible(exponents, offsets, n, seed):
    scale = 10.0 ** np.array(exponents)
    X = (normal(n, len(scale), seed) + offsets[: len(scale)]) * scale
    whitening = Whitening().fit(X)
    Z, log_det = whitening.forward(X)
    assert np.isfinite(Z).all()
    assert np.isfinite(log_det).all()
    back = whitening.inverse(Z)
    assert (np.abs(back - X) / np.abs(X).max(axis=0)).max() < 1e-10


@settings(max_examples=50)
@given(
    exponents=st.lists(st.integers(-40, 40), min_size=3, max_size=3),
    seed=st.integers(0, 100),
)
def test_units_do_not_matter(exponents, seed):
    """Powers of two are exact in floating point, and so must be their effect."""
    scale = 2.0 ** np.array(exponents)
    X = normal(10, 3, seed)
    a, b = Whitening().fit(X), Whitening().fit(X * scale)
    np.testing.assert_array_equal(a.forward(X)[0], b.forward(X * scale)[0])
    log_det = [w.forward(x)[1][0] for w, x in ((a, X), (b, X * scale))]
    expected = log_det[0] - np.log(scale).sum()
    assert log_det[1] == pytest.approx(expected, abs=1e-9)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [3, 50])
def test_as_far_as_numbers_go(n):
    X = 1e-9 * correlated(n)
    whitening = Whitening().fit(X)
    largest = np.finfo(float).max
    far = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [0, 0, -1, 0]]) * largest
    Z, log_det = whitening.forward(far)
    assert np.isfinite(Z).all()
    assert (np.abs(Z).max(axis=1) > 1e290).all()
    assert np.isfinite(log_det).all()
    assert np.isfinite(whitening.inverse(Z)).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("x", [[5e-324, 5e-324], [0, 5e-324], [1e-310, -3e-310]])
def test_subnormal_numbers_are_constant(x):
    X = np.array(x)[:, np.newaxis]
    whitening = Whitening().fit(X)
    assert whitening.n_degenerate_ == 1
    Z, log_det = whitening.forward(X)
    assert np.isfinite(Z).all()
    assert np.isfinite(log_det).all()


def test_scaling_keeps_features_apart():
    X = correlated(50)
    X[:, 1] = 3.0
    whitening = Whitening("scale").fit(X)
    Z, log_det = whitening.forward(X)
    assert whitening.n_degenerate_ == 1
    # The constant feature comes last, all others are scaled alone.
    others = X[:, [0, 2, 3]]
    expected = (others - others.mean(axis=0)) / others.std(axis=0)
    np.testing.assert_allclose(Z[:, :3], expected, rtol=1e-9)
    np.testing.assert_allclose(whitening.inverse(Z), X, rtol=1e-9)
    assert np.isfinite(log_det).all()


def test_zca_turns_the_principal_components_back():
    X = correlated(200)
    zca = Whitening("zca").fit(X)
    Z, log_det = zca.forward(X)
    pca = Whitening().fit(X)
    np.testing.assert_allclose(Z @ pca.vectors_, pca.forward(X)[0], atol=1e-9)
    np.testing.assert_allclose(log_det, pca.forward(X)[1])
    np.testing.assert_allclose(zca.inverse(Z), X, rtol=1e-9)
    # The map of scaled features is symmetric: no feature is turned into another.
    matrix = linear_map(zca, 4) * zca.scale_
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-9)


def test_zca_with_degenerate_directions_is_pca():
    X = correlated(50)
    X = np.column_stack([X, X[:, 0] - X[:, 1]])
    zca, pca = Whitening("zca").fit(X), Whitening().fit(X)
    assert zca.n_degenerate_ == 1
    np.testing.assert_array_equal(zca.forward(X)[0], pca.forward(X)[0])
