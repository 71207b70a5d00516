"""GaussianWhitening against closed forms, scikit-learn and SciPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf

from skjko.preprocessing import GaussianWhitening


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
    whitening = GaussianWhitening().fit(X)
    log_det = whitening.forward(X)[1]
    assert log_det.shape == (n,)
    expected = np.linalg.slogdet(linear_map(whitening, 4))[1]
    np.testing.assert_allclose(log_det, expected, rtol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 50])
def test_inverse_undoes_forward(n):
    X = correlated(n)
    whitening = GaussianWhitening().fit(X)
    back = whitening.inverse(whitening.forward(X)[0])
    np.testing.assert_allclose(back, X, rtol=1e-10)
    # Not along flat directions, where a unit of z is lost in the digits of x.
    Z = normal(100, 4)
    Z[:, 4 - whitening.n_flat_ :] = 0
    back, _ = whitening.forward(whitening.inverse(Z))
    np.testing.assert_allclose(
        back[:, : 4 - whitening.n_flat_], Z[:, : 4 - whitening.n_flat_], atol=1e-9
    )


def test_many_rows_are_whitened():
    X = normal(20_000, 3) @ [[1.0, 0, 0], [1, 30, 0], [0, 20, 0.1]] + 7
    Z, _ = GaussianWhitening().fit(X).forward(X)
    np.testing.assert_allclose(Z.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(Z.T @ Z / len(Z), np.eye(3), atol=0.01)


@pytest.mark.parametrize("n", [5, 30, 1000])
def test_shrinkage_is_ledoit_wolf_on_standardised_columns(n):
    X = correlated(n)
    whitening = GaussianWhitening().fit(X)
    standardised = (X - X.mean(axis=0)) / X.std(axis=0)
    covariance, shrinkage = ledoit_wolf(standardised)
    assert whitening.shrinkage_ == pytest.approx(shrinkage, rel=1e-9)
    assert whitening.shrinkage_ > 0
    A = linear_map(whitening, 4)
    implied = np.linalg.inv(A.T @ A) / np.outer(X.std(axis=0), X.std(axis=0))
    np.testing.assert_allclose(implied, covariance, atol=1e-8)


def test_one_column_is_not_shrunk():
    X = correlated(50, d=1)
    whitening = GaussianWhitening().fit(X)
    assert whitening.shrinkage_ == 0
    expected = multivariate_normal(X.mean(), X.var()).logpdf(X[:, 0])
    np.testing.assert_allclose(log_density(whitening, X), expected, rtol=1e-10)


@pytest.mark.parametrize("n", [3, 30])
def test_log_density_is_the_gaussian_one(n):
    X, scale = normal(n, 3) @ normal(3, 3, seed=1) + 2, np.array([0.1, 1.0, 10.0])
    X *= scale
    whitening = GaussianWhitening().fit(X)
    covariance, _ = ledoit_wolf((X - X.mean(axis=0)) / X.std(axis=0))
    covariance *= np.outer(X.std(axis=0), X.std(axis=0))
    rows = X.mean(axis=0) + 3 * normal(20, 3, seed=2) * scale
    np.testing.assert_allclose(
        log_density(whitening, rows),
        multivariate_normal(X.mean(axis=0), covariance).logpdf(rows),
        rtol=1e-9,
    )


def test_weights_are_repeated_rows():
    X = correlated(40)
    times = np.random.RandomState(0).randint(1, 5, 40)
    weighted = GaussianWhitening().fit(X, times.astype(float))
    repeated = GaussianWhitening().fit(np.repeat(X, times, axis=0))
    np.testing.assert_allclose(weighted.mean_, repeated.mean_, rtol=1e-12)
    np.testing.assert_allclose(weighted.scale_, repeated.scale_, rtol=1e-12)
    expected = np.average(X, axis=0, weights=times)
    np.testing.assert_allclose(weighted.mean_, expected, rtol=1e-12)


def test_weights_have_no_unit():
    X, weight = correlated(40), np.random.RandomState(0).uniform(0.1, 1, 40)
    a = GaussianWhitening().fit(X, weight)
    b = GaussianWhitening().fit(X, 4 * weight)
    np.testing.assert_array_equal(a.forward(X)[0], b.forward(X)[0])
    ones = GaussianWhitening().fit(X, np.ones(40))
    np.testing.assert_array_equal(
        ones.forward(X)[0], GaussianWhitening().fit(X).forward(X)[0]
    )


@pytest.mark.parametrize(
    "X, n_flat",
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
def test_flat_directions_come_last(X, n_flat):
    whitening = GaussianWhitening().fit(X)
    assert whitening.n_flat_ == n_flat
    Z, log_det = whitening.forward(X)
    assert np.isfinite(log_det).all()
    active = X.shape[1] - n_flat
    # Rows are spread along the others, and lie still along these.
    assert (Z[:, :active].std(axis=0) > 0.1).all()
    assert np.abs(Z[:, active:]).max(initial=0) < 0.1


def test_a_row_off_a_flat_direction_is_far():
    # How far depends on the shrinkage, which vanishes as 1 / n.
    X = np.tile(normal(1000, 1), 2)
    whitening = GaussianWhitening().fit(X)
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
    whitening = GaussianWhitening().fit(X)
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
    a, b = GaussianWhitening().fit(X), GaussianWhitening().fit(X * scale)
    np.testing.assert_array_equal(a.forward(X)[0], b.forward(X * scale)[0])
    assert b.log_det_ == pytest.approx(a.log_det_ - np.log(scale).sum(), abs=1e-9)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [3, 50])
def test_as_far_as_numbers_go(n):
    X = 1e-9 * correlated(n)
    whitening = GaussianWhitening().fit(X)
    largest = np.finfo(float).max
    far = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [0, 0, -1, 0]]) * largest
    Z, log_det = whitening.forward(far)
    assert np.isfinite(Z).all()
    assert (np.abs(Z).max(axis=1) > 1e290).all()
    assert np.isfinite(log_det).all()
    assert np.isfinite(whitening.inverse(Z)).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("x", [[5e-324, 5e-324], [0, 5e-324], [1e-310, -3e-310]])
def test_numbers_below_the_normal_ones_are_constant(x):
    X = np.array(x)[:, np.newaxis]
    whitening = GaussianWhitening().fit(X)
    assert whitening.n_flat_ == 1
    Z, log_det = whitening.forward(X)
    assert np.isfinite(Z).all()
    assert np.isfinite(log_det).all()
