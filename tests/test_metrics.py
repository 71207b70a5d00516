"""Tests of the metrics: closed forms, invariances, and the level of the tests."""

import inspect
import tracemalloc

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.optimize import linprog
from scipy.spatial.distance import pdist
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.utils import Bunch

from skjko import metrics
from skjko.metrics import (
    generalization_gap,
    kl_divergence,
    latent_normality,
    mmd,
    mmd_test,
    round_trip_error,
    sliced_wasserstein,
    two_samples,
)

TWO_SAMPLES = [mmd, mmd_test, sliced_wasserstein]


def samples(n_features, max_rows=8):
    """Small arrays of moderate numbers, with ties."""
    return st.integers(1, max_rows).flatmap(
        lambda n: arrays(
            float, (n, n_features), elements=st.integers(-40, 40).map(lambda k: k / 8)
        )
    )


def pairs(max_rows=8):
    return st.integers(1, 3).flatmap(
        lambda d: st.tuples(samples(d, max_rows), samples(d, max_rows))
    )


def gaussians(n, d, seed=0, shift=0.0, scale=1.0):
    return shift + scale * np.random.RandomState(seed).standard_normal((n, d))


def direct_mmd(X, Y, bandwidth):
    """Squared biased MMD from its definition, with whole matrices."""

    def mean_kernel(A, B):
        squared = np.square(A[:, np.newaxis] - B).sum(axis=2)
        return np.exp(-squared / (2 * bandwidth**2)).mean()

    return mean_kernel(X, X) - 2 * mean_kernel(X, Y) + mean_kernel(Y, Y)


# ---------------------------------------------------------------- mmd


@pytest.mark.parametrize("r", [0.0, 0.3, 2.0, 100.0])
@pytest.mark.parametrize("bandwidth", [0.5, 3])
def test_mmd_of_two_point_masses(r, bandwidth):
    expected = 2 - 2 * np.exp(-(r**2) / (2 * bandwidth**2))
    X, Y = [[1.0, 2.0]] * 3, [[1.0 + r, 2.0]] * 5
    # Three equal weights of 1/3 sum to one only up to rounding.
    assert_allclose(mmd(X, Y, bandwidth=bandwidth), expected, rtol=0, atol=1e-15)


def test_mmd_of_gaussians_has_its_expectation():
    # The Gaussian integral of the kernel is closed, and the biased estimate adds
    # (1 - E k(x, x')) / n for each sample: left out, it would be 20 standard errors.
    n, m, d, bandwidth, scale, shift = 50, 80, 2, 0.7, 1.5, 0.4

    def mean_kernel(variance, distance):
        total = bandwidth**2 + variance
        factor = (bandwidth**2 / total) ** (d / 2)
        return factor * np.exp(-d * distance**2 / (2 * total))

    xx, yy = mean_kernel(2, 0), mean_kernel(2 * scale**2, 0)
    population = xx - 2 * mean_kernel(1 + scale**2, shift) + yy
    expected = population + (1 - xx) / n + (1 - yy) / m
    values = [
        mmd(
            gaussians(n, d, seed),
            gaussians(m, d, 1000 + seed, shift, scale),
            bandwidth=bandwidth,
        )
        for seed in range(400)
    ]
    standard_error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert standard_error < 0.02 * expected
    assert abs(np.mean(values) - expected) < 4 * standard_error


@pytest.mark.parametrize("block_size", [1, 100, 800])
def test_blocks_change_nothing(monkeypatch, block_size):
    X, Y = gaussians(33, 3), gaussians(20, 3, seed=1, shift=0.5)

    def values():
        result = mmd_test(X, Y, bandwidth=0.8, n_permutations=50, random_state=0)
        distance = sliced_wasserstein(X, Y, n_projections=31, random_state=0)
        return mmd(X, Y, bandwidth=0.8), result.statistic, result.threshold, distance

    in_one_block = values()
    assert_allclose(in_one_block[:2], direct_mmd(X, Y, 0.8), rtol=1e-12)
    monkeypatch.setattr(two_samples, "_BLOCK_SIZE", block_size)
    assert_allclose(values(), in_one_block, rtol=1e-12)


@given(pair=pairs(), bandwidth=st.floats(0.1, 10))
def test_mmd_is_a_symmetric_function_of_two_sets(pair, bandwidth):
    X, Y = pair
    value = mmd(X, Y, bandwidth=bandwidth)
    assert 0 <= value <= 2
    assert_allclose(value, direct_mmd(X, Y, bandwidth), rtol=0, atol=1e-14)
    for other in [
        mmd(Y, X, bandwidth=bandwidth),
        mmd(X[::-1], Y, bandwidth=bandwidth),
        mmd(X + 100, Y + 100, bandwidth=bandwidth),
        mmd(8 * X, 8 * Y, bandwidth=8 * bandwidth),
        mmd(np.repeat(X, 3, axis=0), Y, bandwidth=bandwidth),
    ]:
        assert_allclose(other, value, rtol=0, atol=1e-14)
    assert mmd(X, X[::-1], bandwidth=bandwidth) <= 1e-14


def test_mmd_far_from_the_origin():
    # Nothing is lost where |x|^2 has no digits left for the distances.
    X, Y = gaussians(30, 2).round(3), gaussians(40, 2, seed=1).round(3)
    shifted = mmd(X + 2.0**30, Y + 2.0**30, bandwidth=0.5)
    assert_allclose(shifted, mmd(X, Y, bandwidth=0.5), rtol=1e-5)


def test_median_bandwidth_is_a_tenth_of_the_median_distance():
    X, Y = gaussians(40, 3), gaussians(25, 3, seed=1, shift=2.0)
    expected = 0.1 * np.median(pdist(np.vstack([X, Y])))
    assert_allclose(mmd_test(X, Y, random_state=0).bandwidth, expected, rtol=1e-14)
    assert mmd(X, Y) == mmd(X, Y, bandwidth="median")
    assert_allclose(mmd(X, Y), mmd(X, Y, bandwidth=expected), rtol=1e-12)
    assert mmd_test(X, Y, bandwidth=2, random_state=0).bandwidth == 2.0


def test_median_bandwidth_of_many_rows():
    # In one dimension |x - y| of two normal draws has median sqrt(2) 0.6745.
    X = gaussians(6001, 1)
    bandwidth = two_samples._resolve_bandwidth("median", X)
    assert_allclose(bandwidth, 0.1 * np.sqrt(2) * stats.norm.ppf(0.75), rtol=0.04)
    # The test would not be exact if the rows' order or labels mattered.
    shuffled = np.random.RandomState(1).permutation(X)
    assert_allclose(
        two_samples._resolve_bandwidth("median", shuffled), bandwidth, 1e-14
    )


def test_ten_thousand_rows_fit_in_memory():
    X, Y = gaussians(10_000, 2), gaussians(10_000, 2, seed=1)
    tracemalloc.start()
    value = mmd(X, Y)
    result = mmd_test(X, Y, level=0.5, n_permutations=9, random_state=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6  # the pooled kernel matrix would be 3200e6
    assert 1e-4 < value < 3e-4  # about 2/n
    assert_allclose(result.statistic, value, rtol=1e-9)


# ---------------------------------------------------------------- mmd_test


@pytest.mark.parametrize("bandwidth", ["median", 1.0])
def test_level_under_the_null(bandwidth):
    # With 99 permutations of data without ties, p is uniform on {0.01, ..., 1} exactly.
    p_values = []
    for seed in range(300):
        Z = gaussians(60, 2, seed)
        X, Y = Z[:25], Z[25:]
        result = mmd_test(
            X, Y, bandwidth=bandwidth, n_permutations=99, random_state=seed
        )
        assert (result.statistic > result.threshold) == (result.p_value <= 0.05)
        p_values.append(result.p_value)
    n_rejected = np.sum(np.array(p_values) <= 0.05)
    low, high = stats.binom.ppf([1e-3, 1 - 1e-3], len(p_values), 0.05)
    assert low <= n_rejected <= high
    assert min(p_values) >= 0.01
    counts = np.histogram(p_values, bins=np.arange(11) / 10 + 0.005)[0]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_level_with_many_ties():
    # Six rows of two values: without a tolerance, rounding breaks the ties at random.
    p_values = []
    for seed in range(400):
        Z = np.random.RandomState(seed).randint(2, size=(12, 1)) * 0.1 + 0.7
        p_values.append(
            mmd_test(
                Z[:6], Z[6:], bandwidth=0.3, n_permutations=39, random_state=seed
            ).p_value
        )
    p_values = np.array(p_values)
    for level in (0.05, 0.1, 0.25, 0.5):
        highest = stats.binom.ppf(1 - 1e-3, len(p_values), level)
        assert np.sum(p_values <= level) <= highest
    # Splits in equal halves are at the lowest statistic, which all splits reach.
    assert np.mean(p_values == 1) > 0.2


def test_power_on_a_shift():
    rejected = [
        mmd_test(
            gaussians(60, 2, seed),
            gaussians(60, 2, 500 + seed, shift=0.8),
            bandwidth=1.0,
            n_permutations=99,
            random_state=seed,
        ).p_value
        <= 0.05
        for seed in range(50)
    ]
    assert np.mean(rejected) > 0.9


def test_threshold_is_a_quantile_of_permuted_statistics():
    X, Y = gaussians(15, 2), gaussians(10, 2, seed=1)
    Z = np.vstack([X, Y])
    result = mmd_test(
        X, Y, bandwidth=1.0, level=0.1, n_permutations=2000, random_state=0
    )
    rng = np.random.RandomState(1)
    permuted = np.sort(
        [
            direct_mmd(*np.split(Z[rng.permutation(25)], [15]), bandwidth=1.0)
            for _ in range(2000)
        ]
    )
    # Ranks of 2000 draws of the 0.9-quantile scatter by sqrt(2000 0.9 0.1) = 13, and
    # so do those of the other 2000.
    assert permuted[1740] < result.threshold < permuted[1860]
    share = np.mean(permuted >= direct_mmd(X, Y, 1.0))
    assert_allclose(result.p_value, share, rtol=0, atol=0.06)


@given(
    level=st.sampled_from([0.01, 0.05, 0.1, 0.29, 0.5, 0.99]),
    n_permutations=st.integers(99, 130),
    shift=st.floats(-1, 1),
)
def test_threshold_and_p_value_agree(level, n_permutations, shift):
    result = mmd_test(
        gaussians(8, 1),
        gaussians(9, 1, seed=1, shift=shift),
        bandwidth=0.5,
        level=level,
        n_permutations=n_permutations,
        random_state=0,
    )
    assert (result.statistic > result.threshold) == (result.p_value <= level)


def test_equal_samples_are_never_told_apart():
    X = gaussians(50, 2)
    result = mmd_test(X, np.random.RandomState(0).permutation(X), random_state=0)
    assert result.p_value == 1
    assert 0 <= result.statistic < 1e-14


def test_random_state():
    X, Y = gaussians(20, 2), gaussians(20, 2, seed=1)
    before = np.random.get_state()[1].copy()
    for function in (mmd_test, sliced_wasserstein):
        first, again, other = (
            function(X, Y, random_state=seed)
            for seed in [0, np.random.RandomState(0), 1]
        )
        assert first == again
        assert first != other
    assert_array_equal(np.random.get_state()[1], before)


def test_test_result():
    result = mmd_test([[0.0], [1.0]], [[3.0]], n_permutations=19, random_state=0)
    assert isinstance(result, Bunch)
    assert set(result) == {"statistic", "threshold", "p_value", "bandwidth"}
    assert all(type(value) is float for value in result.values())


def test_too_few_permutations_for_the_level():
    match = (
        r"^The 'n_permutations' parameter of mmd_test must be at least 1 / level - 1 = "
        r"99, or no p-value could reach the level\. Got 98 instead\.$"
    )
    with pytest.raises(ValueError, match=match):
        mmd_test([[0.0]], [[1.0]], level=0.01, n_permutations=98)
    mmd_test([[0.0]], [[1.0]], level=0.01, n_permutations=99)


# ---------------------------------------------------------------- sliced_wasserstein


@given(X=samples(1), shift=st.floats(-50, 50), scale=st.floats(0, 5))
def test_shift_and_scale_of_one_column(X, shift, scale):
    # The optimal map of one dimension is the increasing one, here x -> scale x + shift.
    expected = np.sqrt(np.mean((scale * X + shift - X) ** 2))
    distance = sliced_wasserstein(X, scale * X + shift, n_projections=3)
    assert_allclose(distance, expected, rtol=1e-9, atol=1e-9)


@given(x=samples(1), y=samples(1))
def test_one_column_is_the_linear_program(x, y):
    # Independent of sorting: the transport problem itself, over all couplings.
    n, m = len(x), len(y)
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    plan = linprog(
        np.square(x - y.T).ravel(),
        A_eq=np.vstack([rows, columns]),
        b_eq=np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)]),
    )
    distance = sliced_wasserstein(x, y, n_projections=1)
    assert_allclose(distance**2, plan.fun, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("d", [2, 7])
def test_shift_of_many_columns(d):
    # The mean of (direction . c)^2 over the sphere is |c|^2 / d, with the relative
    # standard error sqrt(2 (d - 1) / ((d + 2) n_projections)), halved by the root.
    X, shift = gaussians(30, d), np.arange(1.0, d + 1)
    expected = np.linalg.norm(shift) / np.sqrt(d)
    relative_error = np.sqrt(2 * (d - 1) / ((d + 2) * 4000)) / 2
    distance = sliced_wasserstein(X, X + shift, n_projections=4000, random_state=0)
    assert relative_error < 0.01
    assert abs(distance / expected - 1) < 4 * relative_error


def test_directions_are_uniform():
    # Pairs of points on two axes project on -+|cos a| and -+|sin a|, so the squared
    # distance is 1 - |sin 2a|. Directions from a square instead: 1 - log 2 = 0.31.
    X, Y = [[1, 0], [-1, 0]], [[0, 1], [0, -1]]
    squared = sliced_wasserstein(X, Y, n_projections=4000, random_state=0) ** 2
    standard_error = np.sqrt((1 / 2 - (2 / np.pi) ** 2) / 4000)
    assert abs(squared - (1 - 2 / np.pi)) < 4 * standard_error


def test_gaussians_of_different_width():
    # In every direction the distance between N(0, 1) and N(0, 9) is 2.
    distance = sliced_wasserstein(
        gaussians(20_000, 4),
        gaussians(30_000, 4, seed=1, scale=3.0),
        n_projections=50,
        random_state=0,
    )
    assert_allclose(distance, 2.0, rtol=0, atol=0.05)


@given(pair=pairs(), n_copies=st.integers(1, 4))
def test_sliced_wasserstein_is_a_distance_of_distributions(pair, n_copies):
    X, Y = pair

    def distance(X, Y):
        return sliced_wasserstein(X, Y, n_projections=5, random_state=0)

    value = distance(X, Y)
    copies = np.repeat(X, n_copies, axis=0)
    assert distance(X, copies) < 1e-7
    for other in [
        distance(Y, X),
        distance(copies, Y),
        distance(X[::-1], Y),
        distance(X + 3, Y + 3),
        distance(-2 * X, -2 * Y) / 2,
    ]:
        assert_allclose(other, value, rtol=1e-9, atol=1e-9)
    Z = np.vstack([X[:1], Y])
    assert value <= distance(X, Z) + distance(Z, Y) + 1e-9


@given(n=st.integers(1, 60), m=st.integers(1, 60))
def test_common_pieces(n, m):
    in_X, in_Y, lengths = two_samples._common_pieces(n, m)
    assert len(lengths) == n + m - np.gcd(n, m)
    assert_allclose(np.bincount(in_X, lengths), np.full(n, 1 / n))
    assert_allclose(np.bincount(in_Y, lengths), np.full(m, 1 / m))


# ---------------------------------------------------------------- log-densities


def test_kl_divergence_of_gaussians():
    n, shift, scale = 20_000, 0.5, 1.3
    x = gaussians(n, 1).ravel()
    log_p, log_q = stats.norm.logpdf(x), stats.norm.logpdf(x, shift, scale)
    exact = np.log(scale) + (1 + shift**2) / (2 * scale**2) - 0.5
    divergence, standard_error = kl_divergence(log_p, log_q)
    assert abs(divergence - exact) < 4 * standard_error
    # log p - log q = a x + b x^2 + constant, whose variance is a^2 + 2 b^2.
    a, b = -shift / scale**2, (1 / scale**2 - 1) / 2
    assert_allclose(standard_error, np.sqrt((a**2 + 2 * b**2) / n), rtol=0.05)


def test_kl_divergence_is_a_paired_estimate():
    log_p = np.array([0.0, -1000.0, 500.0])
    assert kl_divergence(log_p, log_p - 2) == (2.0, 0.0)
    assert kl_divergence([0.0, 1.0], [0.0, 0.0]) == (0.5, 0.5)


def test_kl_divergence_where_q_has_no_mass():
    assert kl_divergence([0.0, 0.0], [-1.0, -np.inf]) == (np.inf, np.inf)


@pytest.mark.parametrize(
    "log_p, log_q, message",
    [
        ([0.0, np.nan], [0, 0], "log_p must be log-densities.* NaN in 1 samples and"),
        ([0, 0], [np.nan, np.inf], "log_q .* NaN in 1 samples and \\+inf in 1 samples"),
        ([0, np.inf], [0, 0], "log_p .* \\+inf in 1 samples instead"),
        ([0, -np.inf], [0, 0], "log_p must be finite .* -inf in 1 samples instead"),
        ([0, -np.inf], [0, -np.inf], "log_p must be finite"),
        ([0, 0], [0, 0, 0], "log_q must score the same samples .* has 2\\. Got 3"),
        ([[0], [0]], [0, 0], r"log_p must be one log-density for each .* \(2, 1\)"),
        ([0], [0], "a minimum of 2 is required"),
        (["a", "b"], [0, 0], "could not convert string"),
    ],
)
def test_bad_log_densities(log_p, log_q, message):
    with pytest.raises(ValueError, match=message):
        kl_divergence(log_p, log_q)


class Scorer:
    """A density whose log-density is the first column."""

    def score_samples(self, X):
        return np.asarray(X, dtype=float)[:, 0]


def test_generalization_gap_is_the_difference_of_two_means():
    gap, standard_error = generalization_gap(Scorer(), [[1], [3]], [[0], [0], [3]])
    assert_allclose(gap, 1.0)
    assert_allclose(standard_error, np.sqrt(2 / 2 + 3 / 3))


def test_generalization_gap_grows_with_overfitting():
    X = gaussians(200, 2)
    train, val = X[:100], X[100:]

    def gap_in_errors(n_components):
        model = GaussianMixture(n_components, reg_covar=1e-6, random_state=0)
        gap, standard_error = generalization_gap(model.fit(train), train, val)
        return gap / standard_error

    assert abs(gap_in_errors(1)) < 3
    assert gap_in_errors(25) > 5


@pytest.mark.parametrize(
    "train, val, expected",
    [(0, -np.inf, np.inf), (-np.inf, 0, -np.inf), (-np.inf, -np.inf, np.nan)],
)
def test_generalization_gap_outside_the_support(train, val, expected):
    gap, standard_error = generalization_gap(Scorer(), [[0], [train]], [[0], [val]])
    assert_array_equal(gap, expected)
    assert standard_error == np.inf


def test_bad_generalization_gap():
    X = [[0.0], [1.0]]
    with pytest.raises(ValueError, match="The scores of X_val must be log-densities"):
        generalization_gap(Scorer(), X, [[0], [np.nan]])
    with pytest.raises(ValueError, match=r"scores of X_train .* \+inf in 1 samples"):
        generalization_gap(Scorer(), [[0], [np.inf]], X)
    with pytest.raises(ValueError, match="a minimum of 2 is required"):
        generalization_gap(Scorer(), X, X[:1])
    with pytest.raises(ValueError, match="'density' parameter of generalization_gap"):
        generalization_gap(None, X, X)
    with pytest.raises(NotFittedError):
        generalization_gap(GaussianMixture(), X, X)


# ---------------------------------------------------------------- round_trip_error


class Affine:
    """z = (x - shift) / scale, and back with an error."""

    def __init__(self, shift=0.0, scale=1.0, error=0.0):
        self.shift, self.scale, self.error = shift, scale, error

    def transform(self, X):
        return (np.asarray(X) - self.shift) / self.scale

    def inverse_transform(self, Z):
        return np.asarray(Z) * self.scale + self.shift + self.error


def test_exact_round_trip():
    X = gaussians(50, 3, scale=[1e-6, 1.0, 1e6])
    assert round_trip_error(Affine(), X) == 0
    assert round_trip_error(Affine(shift=2.0, scale=np.array([1, 3, 7])), X) < 1e-9


def test_round_trip_error_is_in_standard_deviations():
    X = np.tile([[-1.0, -100.0], [1.0, 100.0]], (5, 1))  # deviations 1 and 100
    errors = np.array([0.3, 40.0])
    expected = np.sqrt((0.3**2 + 0.4**2) / 2)
    assert_allclose(round_trip_error(Affine(error=errors), X), expected)
    # Neither units, nor copies of rows and columns, nor a common shift matter.
    for Y in (X + 1000, np.vstack([X] * 3)):
        assert_allclose(round_trip_error(Affine(error=errors), Y), expected)
    assert_allclose(round_trip_error(Affine(error=7 * errors), 7 * X), expected)
    doubled = Affine(error=np.tile(errors, 2))
    assert_allclose(round_trip_error(doubled, np.hstack([X, X])), expected)


def test_round_trip_error_of_a_constant_column_is_absolute():
    # The standard deviation of ten times 0.1 is rounding noise, not zero.
    X = np.column_stack([np.full(10, 0.1), np.arange(10.0)])
    error = round_trip_error(Affine(error=np.array([0.5, 0.0])), X)
    assert_allclose(error, 0.5 / np.sqrt(2))


def test_round_trip_that_ends_nowhere():
    X = gaussians(5, 2)
    assert round_trip_error(Affine(error=np.array([0.0, np.nan])), X) == np.inf
    assert round_trip_error(Affine(error=np.inf), X) == np.inf


def test_round_trip_keeps_the_names_of_columns():
    frame = pd.DataFrame(gaussians(5, 2), columns=["a", "b"])

    class Named(Affine):
        def transform(self, X):
            assert list(X.columns) == ["a", "b"]
            return X

    assert round_trip_error(Named(error=1.0), frame) > 0


def test_bad_round_trip():
    class Short(Affine):
        def inverse_transform(self, Z):
            return Z[:-1]

    with pytest.raises(ValueError, match=r"of X, \(5, 2\)\. Got \(4, 2\) instead"):
        round_trip_error(Short(), gaussians(5, 2))
    with pytest.raises(ValueError, match="Input X contains NaN"):
        round_trip_error(Affine(), [[np.nan]])
    with pytest.raises(ValueError, match="'density' parameter of round_trip_error"):
        round_trip_error(Scorer(), gaussians(5, 2))


# ---------------------------------------------------------------- latent_normality

P_VALUES = ["mean_p_value", "kolmogorov_smirnov_p_value", "radius_p_value"]


def test_p_values_of_normal_rows():
    n_repeats = 1000
    results = [latent_normality(gaussians(40, 3, seed)) for seed in range(n_repeats)]
    p_values = {name: np.array([r[name] for r in results]) for name in P_VALUES}
    for name in ("mean_p_value", "radius_p_value"):
        assert stats.kstest(p_values[name], "uniform").pvalue > 1e-3
    # The smallest of three independent p-values, times three, is below a level with
    # probability 1 - (1 - level / 3)^3.
    p = p_values["kolmogorov_smirnov_p_value"]
    for level in (0.05, 0.2, 0.5):
        probability = 1 - (1 - level / 3) ** 3
        low, high = stats.binom.ppf([1e-3, 1 - 1e-3], n_repeats, probability)
        assert low <= np.sum(p <= level) <= high
    assert p.max() == 1


@pytest.mark.parametrize(
    "n, d", [(2000, 1), (2000, 10), pytest.param(4000, 200, id="many columns")]
)
def test_normal_rows_are_as_far_as_chance_takes_them(n, d):
    result = latent_normality(gaussians(n, d, seed=3))
    ratio = np.sqrt(d / n)
    assert 0.2 * ratio < result.mean < 2 * ratio + 3 / np.sqrt(n)
    assert 0.1 * ratio < result.covariance < 1.2 * (2 * ratio + ratio**2)
    assert min(result[name] for name in P_VALUES) > 0.001


def test_shifted_rows():
    shift = np.array([0.3, 0.0, -0.4])
    result = latent_normality(gaussians(20_000, 3, shift=shift))
    assert_allclose(result.mean, 0.5, atol=0.03)
    assert result.covariance < 0.05
    # Two unit normal distributions 0.4 apart differ by 2 Phi(0.2) - 1 at most.
    largest = 2 * stats.norm.cdf(0.2) - 1
    assert_allclose(result.kolmogorov_smirnov, largest, atol=0.02)
    assert max(result[name] for name in P_VALUES) < 1e-6


def test_scaled_rows():
    result = latent_normality(gaussians(20_000, 2, scale=1.5))
    assert result.mean < 0.05
    assert result.mean_p_value > 1e-4
    assert_allclose(result.covariance, 1.25, atol=0.07)
    # The squared length of two normal columns is exponential, of mean 2 and 4.5.
    x = np.linspace(0, 20, 2001)
    largest = np.max(np.exp(-x / 4.5) - np.exp(-x / 2))
    assert_allclose(result.radius, largest, atol=0.02)
    assert result.radius_p_value < 1e-6
    assert result.kolmogorov_smirnov_p_value < 1e-6


def test_correlation_shows_in_covariance_and_radius():
    Z = gaussians(20_000, 2) @ np.linalg.cholesky([[1, 0.6], [0.6, 1]]).T
    result = latent_normality(Z)
    assert_allclose(result.covariance, 0.6, atol=0.05)
    assert result.kolmogorov_smirnov_p_value > 1e-3
    assert result.radius_p_value < 1e-6


def test_sphere_shows_in_the_radius():
    # Rows of exactly the mean squared length: columns and covariance look right.
    Z = gaussians(500, 100)
    Z *= 10 / np.linalg.norm(Z, axis=1, keepdims=True)
    result = latent_normality(Z)
    assert result.kolmogorov_smirnov_p_value > 1e-3
    # All the mass of one sample on one side or the other of its only value.
    below = stats.chi2.cdf(100, 100)
    assert_allclose(result.radius, max(below, 1 - below), rtol=1e-6)
    assert result.radius_p_value < 1e-6


@given(pair=pairs(max_rows=20))
def test_kolmogorov_smirnov_is_that_of_scipy(pair):
    Z = np.vstack(pair)
    result = latent_normality(Z)
    expected = [stats.kstest(column, "norm") for column in Z.T]
    assert_allclose(
        result.kolmogorov_smirnov, max(e.statistic for e in expected), rtol=1e-12
    )
    smallest = min(stats.kstest(z, "norm", method="exact").pvalue for z in Z.T)
    assert_allclose(
        result.kolmogorov_smirnov_p_value, min(1, Z.shape[1] * smallest), rtol=1e-9
    )


def test_latent_result():
    result = latent_normality([[0.0], [1.0]])
    assert isinstance(result, Bunch)
    assert all(type(value) is float for value in result.values())
    assert_allclose(result.mean, 0.5)
    assert_allclose(result.covariance, 0.5)  # the unbiased variance is 1/2


# ---------------------------------------------------------------- validation


@pytest.mark.parametrize("function", TWO_SAMPLES)
@pytest.mark.parametrize(
    "X, Y, message",
    [
        ([[0.0]], [[0.0, 1.0]], "Y must have as many features as X, .* 1. Got 2"),
        ([0.0], [[0.0]], "Expected 2D array"),
        ([[0.0]], np.zeros((0, 1)), "Found array with 0 sample"),
        ([[np.nan]], [[0.0]], "Input X contains NaN"),
        ([[0.0]], [[np.inf]], "Input Y contains infinity"),
    ],
)
def test_bad_samples(function, X, Y, message):
    with pytest.raises(ValueError, match=message):
        function(X, Y)


@pytest.mark.parametrize("function", TWO_SAMPLES)
def test_samples_in_data_frames(function):
    numbers = {"a": [0.5, 1.5, 2.5], "b": [3, 4, 5], "c": [True, False, True]}
    X, Y = pd.DataFrame(numbers), pd.DataFrame(numbers) + 1
    arrays = X.to_numpy(dtype=float), Y.to_numpy(dtype=float)
    fixed = {} if function is mmd else {"random_state": 0}
    assert function(X, Y, **fixed) == function(*arrays, **fixed)
    assert function(pl.DataFrame(numbers), Y, **fixed) == function(*arrays, **fixed)
    with pytest.raises(ValueError, match=r"^Y must have its columns in the order of X"):
        function(X, Y[["b", "a", "c"]])
    days = pd.date_range("2024-01-01", periods=3)
    text = X.assign(city=["u", "v", "v"], day=days, kind=pd.Categorical([1, 2, 2]))
    expected = (
        "text, categories or dates in these columns: 'city', 'day', 'kind'. .*One"
    )
    with pytest.raises(ValueError, match=f"^X has {expected}"):
        function(text, text)
    with pytest.raises(ValueError, match=r"^Y has .* columns: 'city'\. "):
        function(X, pl.DataFrame({**numbers, "city": ["u", "v", "v"]}))


@pytest.mark.parametrize(
    "function, parameter, value",
    [
        (mmd, "bandwidth", 0.0),
        (mmd, "bandwidth", -1),
        (mmd, "bandwidth", np.nan),
        (mmd, "bandwidth", np.inf),
        (mmd, "bandwidth", "mean"),
        (mmd, "bandwidth", None),
        (mmd_test, "bandwidth", 0),
        (mmd_test, "level", 0),
        (mmd_test, "level", 1.0),
        (mmd_test, "level", "5%"),
        (mmd_test, "n_permutations", 0),
        (mmd_test, "n_permutations", 99.0),
        (mmd_test, "random_state", "seed"),
        (sliced_wasserstein, "n_projections", 0),
        (sliced_wasserstein, "n_projections", 1.5),
        (sliced_wasserstein, "random_state", -1),
    ],
)
def test_bad_parameters(function, parameter, value):
    match = rf"The '{parameter}' parameter of {function.__name__} must be .* Got .*"
    with pytest.raises(ValueError, match=match):
        function([[0.0]], [[1.0]], **{parameter: value})


@pytest.mark.parametrize("function", [mmd, mmd_test])
@pytest.mark.parametrize(
    "X, found", [([[1.0], [1.0]], "0.0"), ([[1e200], [-1e200]], "inf")]
)
def test_median_distance_of_no_use(function, X, found):
    match = f"bandwidth='median' needs a median distance .* Got {found} instead"
    with pytest.raises(ValueError, match=match):
        function(X, X)


@pytest.mark.parametrize(
    "Z, message",
    [
        ([[np.nan], [0.0]], "Input Z contains NaN"),
        ([[0.0]], "a minimum of 2 is required"),
        ([0.0, 1.0], "Expected 2D array"),
    ],
)
def test_bad_latent_rows(Z, message):
    with pytest.raises(ValueError, match=message):
        latent_normality(Z)


def test_lists_and_float32_are_accepted():
    X, Y = gaussians(6, 2).astype(np.float32), gaussians(5, 2, seed=1)
    assert mmd(X.tolist(), Y, bandwidth=1) == mmd(X, Y, bandwidth=1)
    assert latent_normality(X.tolist()) == latent_normality(X)
    assert type(mmd(X, X, bandwidth=1)) is float
    assert type(sliced_wasserstein(X, X)) is float


@pytest.mark.parametrize("name", metrics.__all__)
def test_options_are_keyword_only(name):
    for parameter in inspect.signature(getattr(metrics, name)).parameters.values():
        has_default = parameter.default is not parameter.empty
        assert has_default == (parameter.kind is parameter.KEYWORD_ONLY)
