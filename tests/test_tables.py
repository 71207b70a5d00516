"""Tests of the synthetic tables with known log-density."""

import pickle
from dataclasses import FrozenInstanceError
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.special import logsumexp

from skjko.datasets import (
    Distribution,
    correlated_mixture,
    funnel,
    heavy_tails,
    noisy_manifold,
    skewed_copula,
)
from skjko.datasets.base import BLOCK_SIZE

MAKERS = {
    make.__name__: make
    for make in (correlated_mixture, funnel, heavy_tails, noisy_manifold, skewed_copula)
}
SIZES = [1, 2, 10, 50]
CLOSED_FORM = ["funnel", "heavy_tails", "skewed_copula"]
SEEDED = sorted(MAKERS.keys() - {"funnel"})


@cache
def default(name, n_features):
    return MAKERS[name](n_features)


@pytest.fixture(params=[(name, n) for name in MAKERS for n in SIZES], ids=str)
def table(request):
    return default(*request.param)


def covariance(factor):
    return factor @ factor.T


def log_uniform_points(n_samples, n_features, low=-3, high=3):
    """Points of both signs whose elements have all orders of magnitude."""
    rng = np.random.RandomState(0)
    sign = rng.choice([-1.0, 1.0], size=(n_samples, n_features))
    return sign * 10 ** rng.uniform(low, high, size=(n_samples, n_features))


def integral(distribution, *axes):
    """Integrate the density by the trapezoidal rule.

    An axis is (u, x, dx / du): equally spaced nodes and the map that makes the density
    smooth and compact enough in u.
    """
    columns = np.meshgrid(*(x for _, x, _ in axes), indexing="ij")
    X = np.column_stack([column.ravel() for column in columns])
    density = np.exp(distribution.score_samples(X)).reshape(columns[0].shape)
    for u, _, slope in reversed(axes):
        density = density @ slope * (u[1] - u[0])
    return density


def linear(low, high, spacing):
    u = np.arange(low, high, spacing)
    return u, u, np.ones_like(u)


def sinh(high, spacing):
    u = np.arange(-high, high, spacing)
    return u, np.sinh(u), np.cosh(u)


def exp(low, high, spacing):
    u = np.arange(low, high, spacing)
    return u, np.exp(u), np.exp(u)


# The trapezoidal rule of spacing h has relative error 2 exp(-2 (pi s / h)^2) for a
# Gaussian of standard deviation s: below 1e-8 for h = s. All but a share of 1e-7 of
# each distribution lies between the ends.
@pytest.mark.parametrize(
    "distribution, axes",
    [
        (correlated_mixture(1), [linear(-40, 40, 0.02)]),
        (correlated_mixture(1, n_components=1, condition=1), [linear(-10, 10, 0.5)]),
        (correlated_mixture(2), [linear(-15, 15, 0.07)] * 2),
        (heavy_tails(1), [sinh(15, 0.02)]),
        (heavy_tails(1, df=1), [sinh(25, 0.02)]),
        (heavy_tails(2), [sinh(8, 0.02)] * 2),
        (heavy_tails(2, df=1e6), [linear(-6, 6, 0.05)] * 2),
        (funnel(1), [linear(-18, 18, 0.5)]),
        (funnel(2, sigma=1.5), [linear(-8, 8, 0.25), sinh(7, 0.015)]),
        (skewed_copula(1), [exp(-5, 5, 0.05)]),
        (skewed_copula(2), [exp(-5, 5, 0.04), exp(-14, 3, 0.04)]),
        (skewed_copula(2, sigma=0.2, shape=0.7), [exp(-2, 2, 0.02), exp(-30, 5, 0.05)]),
        (
            skewed_copula(3, condition=3),
            [exp(-5, 5, 0.2), exp(-14, 3, 0.2), linear(-20, 4, 0.2)],
        ),
        (noisy_manifold(1), [linear(-5, 5, 0.05)]),
        (noisy_manifold(2), [linear(-5, 5, 0.06)] * 2),
        (noisy_manifold(2, n_harmonics=1, sigma=0.5), [linear(-7, 7, 0.2)] * 2),
    ],
)
def test_integrates_to_one(distribution, axes):
    assert_allclose(integral(distribution, *axes), 1.0, rtol=0, atol=1e-6)


def narrower_relative(table, X, shrink=0.9):
    """Log-density at X, by SciPy, of a distribution which `table` dominates."""
    if table.name == "correlated_mixture":
        terms = [
            stats.multivariate_normal(mean, shrink * covariance(factor)).logpdf(X)
            for mean, factor in zip(table.means, table.factors, strict=True)
        ]
        return logsumexp(terms, axis=0, b=table.weights[:, None])
    if table.name == "noisy_manifold":
        # The pairs are many: expand |x - c|^2, and rely on x and c being small.
        squares = (X**2).sum(axis=1)[:, None] + (table.centers**2).sum(axis=1)
        squares -= 2 * X @ table.centers.T
        variance = shrink * table.sigmas[0] ** 2
        terms = -squares / (2 * variance)
        n_features = table.n_features
        volume = n_features / 2 * np.log(2 * np.pi * variance)
        return logsumexp(terms, axis=1) - np.log(len(table.centers)) - volume
    if table.name == "heavy_tails":
        shape = shrink * covariance(table.factor)
        return stats.multivariate_t(shape=shape, df=table.df + 1).logpdf(X)
    if table.name == "funnel":
        v, scale = X[:, :1], np.sqrt(shrink) * np.exp(X[:, :1] / 2)
        log_density = stats.norm.logpdf(v, scale=np.sqrt(shrink) * table.sigma)
        return np.hstack([log_density, stats.norm.logpdf(X[:, 1:], 0, scale)]).sum(1)
    return scipy_copula(table, X, shrink)


def marginals_of_copula(copula):
    kinds = [stats.lognorm(copula.sigma), stats.weibull_min(copula.shape)]
    kinds.append(stats.gumbel_l())
    return [kinds[j % 3] for j in range(copula.n_features)]


def scipy_copula(copula, X, shrink=1.0):
    marginals = marginals_of_copula(copula)
    Z = stats.norm.ppf([m.cdf(x) for m, x in zip(marginals, X.T, strict=True)]).T
    scales = shrink * covariance(copula.factor)
    log_density = stats.multivariate_normal(cov=scales).logpdf(Z)
    for m, x, z in zip(marginals, X.T, Z.T, strict=True):
        log_density += m.logpdf(x) - stats.norm.logpdf(z)
    return log_density


def mean_ratio(table, X):
    """Mean over X of q / p, and its standard error."""
    ratio = np.exp(narrower_relative(table, X) - table.score_samples(X))
    return ratio.mean(), stats.sem(ratio)


def test_importance_identity(table):
    # If X follows p, the mean of q / p is one for every density q that p dominates.
    mean, standard_error = mean_ratio(table, table.sample(20_000, random_state=1))
    assert 0 < standard_error < 0.02
    assert abs(mean - 1) < 5 * standard_error


@pytest.mark.parametrize("name", MAKERS)
def test_importance_identity_notices_other_samples(name):
    table = default(name, 10)
    mean, standard_error = mean_ratio(table, 1.03 * table.sample(20_000, 1))
    assert abs(mean - 1) > 5 * standard_error


@pytest.mark.parametrize("n_features", SIZES)
@pytest.mark.parametrize("name", CLOSED_FORM)
def test_closed_form_entropy_against_monte_carlo(name, n_features):
    distribution = default(name, n_features)
    entropy, error = distribution.entropy()
    assert error == 0.0
    assert isinstance(entropy, float)
    n_samples = 50_000
    log_density = distribution.score_samples(distribution.sample(n_samples, 3))
    standard_error = stats.sem(log_density)
    # The funnel's grows with n_features, as its first column scales all the others.
    assert standard_error < 0.01 * (1 + n_features)
    assert abs(entropy + log_density.mean()) < 5 * standard_error


@pytest.mark.parametrize(
    "distribution",
    [
        funnel(4, sigma=0.3),
        heavy_tails(4, df=1),
        heavy_tails(4, df=200.5, condition=1e4),
        skewed_copula(7, sigma=0.1, shape=4.0),
        skewed_copula(7, sigma=2.0, shape=0.5, condition=2.0),
    ],
)
def test_closed_form_entropy_of_other_shapes(distribution):
    log_density = distribution.score_samples(distribution.sample(50_000, 4))
    difference = distribution.entropy()[0] + log_density.mean()
    assert abs(difference) < 5 * stats.sem(log_density)


@pytest.mark.parametrize("name", ["correlated_mixture", "noisy_manifold"])
def test_monte_carlo_entropy(name):
    distribution = default(name, 10)
    estimate, standard_error = distribution.entropy(2_000, random_state=5)
    log_density = distribution.score_samples(distribution.sample(2_000, 5))
    assert_allclose(estimate, -log_density.mean(), rtol=1e-12)
    assert_allclose(standard_error, stats.sem(log_density), rtol=1e-12)


@pytest.mark.parametrize("n_features", SIZES)
def test_mixture_against_scipy(n_features):
    mixture = default("correlated_mixture", n_features)
    X = np.vstack([mixture.sample(50, 6), log_uniform_points(50, n_features)])
    terms = [
        stats.multivariate_normal(mean, covariance(factor)).logpdf(X)
        for mean, factor in zip(mixture.means, mixture.factors, strict=True)
    ]
    expected = logsumexp(terms, axis=0, b=mixture.weights[:, None])
    assert_allclose(mixture.weights.sum(), 1.0, rtol=1e-12)
    assert_allclose(mixture.score_samples(X), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("df", [1, 3.5, 80])
@pytest.mark.parametrize("n_features", SIZES)
def test_heavy_tails_against_scipy(n_features, df):
    tails = heavy_tails(n_features, df=df)
    shape = covariance(tails.factor)
    X = np.vstack([tails.sample(50, 7), log_uniform_points(50, n_features)])
    reference = stats.multivariate_t(shape=shape, df=df)
    assert_allclose(tails.score_samples(X), reference.logpdf(X), rtol=1e-10, atol=1e-10)
    assert_allclose(tails.entropy()[0], reference.entropy(), rtol=1e-10)


def test_heavy_tails_become_gaussian():
    tails = heavy_tails(5, df=1e6)
    gaussian = stats.multivariate_normal(cov=covariance(tails.factor))
    X = gaussian.rvs(50, random_state=8)
    assert_allclose(tails.score_samples(X), gaussian.logpdf(X), atol=1e-4)
    assert_allclose(tails.entropy()[0], gaussian.entropy(), atol=1e-4)


@pytest.mark.parametrize("n_features", SIZES)
def test_funnel_against_scipy(n_features):
    distribution = funnel(n_features, sigma=2.0)
    X = np.vstack(
        [distribution.sample(50, 9), log_uniform_points(50, n_features, -3, 1)]
    )
    v, others = X[:, 0], X[:, 1:]
    expected = stats.norm.logpdf(v, scale=2.0)
    expected += stats.norm.logpdf(others, scale=np.exp(v / 2)[:, None]).sum(axis=1)
    assert_allclose(distribution.score_samples(X), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("n_features", SIZES)
def test_copula_against_scipy(n_features):
    copula = default("skewed_copula", n_features)
    X = copula.sample(100, random_state=10)
    expected = scipy_copula(copula, X)
    assert_allclose(copula.score_samples(X), expected, rtol=1e-8, atol=1e-8)

    entropy = sum(m.entropy() for m in marginals_of_copula(copula))
    entropy += np.linalg.slogdet(covariance(copula.factor))[1] / 2
    assert_allclose(copula.entropy()[0], entropy, rtol=1e-9)


def test_independent_copula_in_the_tails():
    # Without correlations the log-density is the sum of the marginal ones, which SciPy
    # knows at all distances, from columns of elements between 1e-300 and 1e300.
    copula = skewed_copula(3, condition=1)
    X = np.abs(log_uniform_points(2_000, 3, -300, 300))
    X[:, 1] = np.abs(log_uniform_points(2_000, 1, -300, 100)[:, 0])
    X[:, 2] = np.r_[np.linspace(-1e4, -1, 1_000), np.linspace(-1, 200, 1_000)]
    expected = sum(
        m.logpdf(x) for m, x in zip(marginals_of_copula(copula), X.T, strict=True)
    )
    assert np.isfinite(expected).all()
    assert_allclose(copula.score_samples(X), expected, rtol=1e-11, atol=1e-11)


def test_copula_support():
    copula = default("skewed_copula", 10)
    X = copula.sample(10, random_state=11)
    positive = np.arange(10) % 3 < 2
    np.fill_diagonal(X, -np.abs(X.diagonal()))
    inside = np.isfinite(copula.score_samples(X))
    # Negative values are impossible in all columns but the reflected Gumbel ones.
    assert_array_equal(inside, ~positive)
    np.fill_diagonal(X, 0.0)
    assert_array_equal(np.isfinite(copula.score_samples(X)), ~positive)


def test_manifold_against_scipy():
    manifold = default("noisy_manifold", 10)
    X = np.vstack([manifold.sample(50, 12), log_uniform_points(50, 10, -3, 1)])
    noise = stats.multivariate_normal(cov=0.1**2 * np.eye(10))
    terms = noise.logpdf(X[:, None] - manifold.centers)
    expected = logsumexp(terms, axis=1) - np.log(len(manifold.centers))
    assert_allclose(manifold.score_samples(X), expected, rtol=1e-10, atol=1e-10)


def assert_follows(x, cdf):
    assert stats.kstest(x, cdf).pvalue > 1e-4


@pytest.mark.parametrize("n_features", SIZES)
def test_marginals(n_features):
    columns = sorted({0, n_features // 2, n_features - 1})

    copula = default("skewed_copula", n_features)
    X = copula.sample(5_000, random_state=13)
    for j in columns:
        assert_follows(X[:, j], marginals_of_copula(copula)[j].cdf)

    tails = heavy_tails(n_features, df=2.5)
    X = tails.sample(5_000, random_state=14)
    scale = np.sqrt(np.diag(covariance(tails.factor)))
    for j in columns:
        assert_follows(X[:, j], stats.t(2.5, scale=scale[j]).cdf)

    X = default("funnel", n_features).sample(5_000, random_state=15)
    assert_follows(X[:, 0], stats.norm(scale=3.0).cdf)
    for j in columns[1:]:
        assert_follows(X[:, j] * np.exp(-X[:, 0] / 2), stats.norm.cdf)

    mixture = default("correlated_mixture", n_features)
    X = mixture.sample(5_000, random_state=16)
    scales = [np.sqrt(np.diag(covariance(factor))) for factor in mixture.factors]
    for j in columns:
        parts = stats.norm(mixture.means[:, j], np.array(scales)[:, j])
        assert_follows(
            X[:, j], lambda x, parts=parts: parts.cdf(x[:, None]) @ mixture.weights
        )


@pytest.mark.parametrize("n_features", [2, 10, 50])
def test_dependence(n_features):
    # Rank correlations do not see the marginals, nor how heavy the tails are.
    copula = default("skewed_copula", n_features)
    tails = default("heavy_tails", n_features)
    for distribution in (copula, tails):
        scales = covariance(distribution.factor)
        scales /= np.sqrt(np.outer(scales.diagonal(), scales.diagonal()))
        X = distribution.sample(4_000, random_state=17)
        for i, j in [(0, 1), (n_features - 2, n_features - 1), (0, n_features - 1)]:
            tau = stats.kendalltau(X[:, i], X[:, j]).statistic
            # The standard error of tau is at most 1 / sqrt(n), here 0.016.
            assert abs(tau - 2 / np.pi * np.arcsin(scales[i, j])) < 0.06


@pytest.mark.parametrize("n_components", [1, 2, 5, 40])
@pytest.mark.parametrize("n_features", SIZES)
def test_mixture_is_a_real_one(n_features, n_components):
    mixture = correlated_mixture(
        n_features, n_components=n_components, separation=5, condition=30
    )
    assert mixture.means.shape == (n_components, n_features)
    gaps = np.linalg.norm(mixture.means[:, None] - mixture.means, axis=2)
    between = gaps[np.triu_indices(n_components, 1)]
    assert (between >= 5).all()
    assert mixture.weights.max() < 3 * mixture.weights.min()
    for factor in mixture.factors:
        eigenvalues = np.linalg.eigvalsh(covariance(factor))
        assert (eigenvalues > (1 - 1e-9) / 30).all()
        assert (eigenvalues < 1 + 1e-9).all()
        # One in each equal part of the logarithmic range.
        part = np.floor(n_features * (1 + np.log(eigenvalues) / np.log(30)) + 1e-9)
        assert_array_equal(part, np.arange(n_features))
    if n_components == 5:
        # Distant, but neighbours.
        assert between.min() < 1.5 * 5
        assert between.max() < 10 * 5


@pytest.mark.parametrize("n_features", SIZES)
def test_mixture_components_overlap_little(n_features):
    mixture = default("correlated_mixture", n_features)
    rng = np.random.RandomState(18)
    for k, factor in enumerate(mixture.factors):
        X = mixture.means[k] + rng.standard_normal((2_000, n_features)) @ factor.T
        for other in np.delete(mixture.means, k, axis=0):
            middle, line = (mixture.means[k] + other) / 2, other - mixture.means[k]
            wrong = np.mean((X - middle) @ line > 0)
            # The bound in the docstring, and five standard errors.
            assert wrong < stats.norm.cdf(-2) + 5 * np.sqrt(0.023 / 2_000)


@pytest.mark.parametrize("condition", [1, 10, 1e6])
@pytest.mark.parametrize("n_features", SIZES)
def test_correlations_are_bounded(n_features, condition):
    scales = covariance(heavy_tails(n_features, condition=condition).factor)
    assert np.linalg.cond(scales) <= condition * (1 + 1e-6)
    # The extreme eigenvalues lie in the first and last of n_features parts.
    least = condition ** (1 - 2 / n_features) if n_features > 1 else 1.0
    assert np.linalg.cond(scales) >= least * (1 - 1e-6)

    correlations = covariance(skewed_copula(n_features, condition=condition).factor)
    assert_allclose(correlations.diagonal(), 1.0, rtol=1e-12)
    assert np.linalg.cond(correlations) <= n_features * condition * (1 + 1e-6)
    if condition == 1:
        assert_allclose(correlations, np.eye(n_features), atol=1e-12)
    elif n_features > 1:
        assert np.abs(correlations - np.eye(n_features)).max() > 0.2


@pytest.mark.parametrize("n_features", [6, 10, 50])
def test_manifold_is_a_closed_curve(n_features):
    centers = noisy_manifold(n_features, sigma=0.05, radius=2.0).centers
    assert_allclose(np.linalg.norm(centers, axis=1), 2.0, rtol=1e-9)
    gaps = np.linalg.norm(centers - np.roll(centers, 1, axis=0), axis=1)
    assert_allclose(gaps, gaps.mean(), rtol=1e-4)
    assert gaps.max() < 1.25 * 0.05
    # Three harmonics take six dimensions, each pair in its share of the variance.
    shares = np.linalg.svd(centers, compute_uv=False) ** 2 / len(centers)
    expected = np.repeat([1, 1 / 4, 1 / 9], 2)
    expected *= 2.0**2 / expected.sum()
    assert_allclose(shares[:6], expected, rtol=1e-3)
    assert_allclose(shares[6:], 0.0, atol=1e-12)


@pytest.mark.parametrize("n_features", [1, 2, 5])
def test_manifold_in_few_dimensions_is_a_projection(n_features):
    distance = np.linalg.norm(noisy_manifold(n_features).centers, axis=1)
    assert 0.3 < distance.max() <= 3.0
    assert distance.min() < 0.99 * distance.max()


def test_sample(table):
    X = table.sample(7, random_state=19)
    assert X.shape == (7, table.n_features)
    assert X.dtype == np.float64
    assert table.sample().shape == (1, table.n_features)
    assert isinstance(table, Distribution)
    assert np.isfinite(table.score_samples(X)).all()
    assert isinstance(table.score(X), float)
    expected = f"<Distribution {table.name!r}, n_features={table.n_features}>"
    assert repr(table) == expected


@pytest.mark.parametrize("n_features", [np.int64(4), 4])
@pytest.mark.parametrize("name", MAKERS)
def test_name_and_n_features(name, n_features):
    table = MAKERS[name](n_features=n_features)
    assert table.name == name
    assert table.n_features == 4
    assert MAKERS[name]().n_features == 10


def test_random_state_of_sample(table):
    np.random.seed(0)
    before = np.random.get_state()
    X = table.sample(50, random_state=20)
    MAKERS[table.name](table.n_features).entropy(10)
    after = np.random.get_state()
    assert_array_equal(before[1], after[1])
    assert before[2:] == after[2:]

    rng = np.random.RandomState(20)
    assert_array_equal(X, table.sample(50, random_state=rng))
    assert not np.array_equal(X, table.sample(50, random_state=rng))
    # None, and None only, is NumPy's global state.
    np.random.seed(20)
    assert_array_equal(X, table.sample(50))


@pytest.mark.parametrize("n_features", SIZES)
@pytest.mark.parametrize("name", SEEDED)
def test_random_state_of_structure(name, n_features):
    make = MAKERS[name]
    X = default(name, n_features).sample(20, random_state=21)
    log_density = make(n_features).score_samples(X)
    assert_array_equal(make(n_features, random_state=0).score_samples(X), log_density)
    other = make(n_features, random_state=1).score_samples(X)
    # A correlation matrix of one column is one, whatever the seed.
    same = name == "skewed_copula" and n_features == 1
    assert np.array_equal(other, log_density) == same


def test_score_samples_does_not_depend_on_blocks(table):
    # More rows than one block, in a number which no block size divides.
    X = table.sample(min(BLOCK_SIZE // table._n_terms, 10_000) + 13, random_state=22)
    log_density = table.score_samples(X)
    assert log_density.shape == (len(X),)
    assert log_density.dtype == np.float64
    some = np.r_[0:5, len(X) - 5 : len(X)]
    one_by_one = [table.score_samples(X[[i]])[0] for i in some]
    assert_allclose(log_density[some], one_by_one, rtol=1e-12, atol=1e-12)
    backwards = table.score_samples(X[::-1])[::-1]
    assert_allclose(log_density, backwards, rtol=1e-12, atol=1e-12)


# One sign a row, because check_array adds the elements up and warns of inf - inf.
@pytest.mark.parametrize("x", [0.0, 5e-324, 1e-160, 1e160, 1e300, 1.7e308])
def test_no_nan_at_any_distance(table, x):
    with np.errstate(all="raise", under="ignore"):
        log_density = table.score_samples(np.full((1, table.n_features), x))
        log_density = np.append(
            log_density, table.score_samples(np.full((1, table.n_features), -x))
        )
        mixed = x * np.resize([1.0, -1.0, -1.0, 1.0, 1.0], (1, table.n_features))
        log_density = np.append(log_density, table._log_density(mixed))
    assert not np.isnan(log_density).any()
    assert (log_density < np.inf).all()
    if x >= 1e160 and table.name in ("correlated_mixture", "noisy_manifold"):
        assert np.isneginf(log_density).all()
    if table.name == "heavy_tails":
        assert np.isfinite(log_density).all()


@pytest.mark.parametrize("name", MAKERS)
@given(
    log10_distance=st.floats(-3, 6),
    direction=st.lists(st.floats(0.01, 1), min_size=5, max_size=5),
)
def test_density_falls_far_away(name, log10_distance, direction):
    # Positive directions, where all have their support.
    x = 10**log10_distance * np.array([direction, 2 * np.array(direction)])
    near, far = default(name, 5).score_samples(x)
    # The exponential in the copula's reflected Gumbel column overflows at 710.
    assert np.isfinite(near) or (name == "skewed_copula" and x[0].max() > 500)
    if log10_distance > 4:
        assert far < near or far == -np.inf


@pytest.mark.parametrize("n_features", SIZES)
def test_power_law_of_heavy_tails(n_features):
    tails = heavy_tails(n_features, df=1.5)
    x = np.linspace(-1, 2, n_features)[None]
    steps = np.diff([tails.score_samples(x * 10.0**k)[0] for k in (20, 100, 200, 300)])
    expected = -(1.5 + n_features) * np.log(10) * np.array([80, 100, 100])
    assert_allclose(steps, expected, rtol=1e-12)


def test_immutable(table):
    table.score_samples(table.sample(2, random_state=23))
    with pytest.raises(FrozenInstanceError):
        table.name = "other"
    arrays = [value for value in vars(table).values() if isinstance(value, np.ndarray)]
    assert len(arrays) > 0 or table.name == "funnel"
    for value in arrays:
        with pytest.raises(ValueError, match="read-only"):
            value[0] = 0.0


def test_pickle(table):
    copy = pickle.loads(pickle.dumps(table))
    X = table.sample(20, random_state=24)
    assert_array_equal(copy.sample(20, random_state=24), X)
    assert_array_equal(copy.score_samples(X), table.score_samples(X))
    assert copy.entropy(100) == table.entropy(100)


@pytest.mark.parametrize(
    "make, parameter, value",
    [
        *((make, "n_features", 0) for make in MAKERS.values()),
        *((make, "n_features", 2.0) for make in MAKERS.values()),
        *((make, "n_features", True) for make in MAKERS.values()),
        *((MAKERS[name], "random_state", None) for name in SEEDED),
        *((MAKERS[name], "random_state", -1) for name in SEEDED),
        *((MAKERS[name], "random_state", 2**32) for name in SEEDED),
        (correlated_mixture, "n_components", 0),
        (correlated_mixture, "n_components", 1.5),
        (correlated_mixture, "separation", -1.0),
        (correlated_mixture, "separation", np.inf),
        (correlated_mixture, "condition", 0.5),
        (correlated_mixture, "condition", 1e7),
        (heavy_tails, "df", 0.9),
        (heavy_tails, "df", 1e7),
        (heavy_tails, "df", "heavy"),
        (heavy_tails, "condition", np.nan),
        (funnel, "sigma", 0.0),
        (funnel, "sigma", 101),
        (skewed_copula, "sigma", 0),
        (skewed_copula, "sigma", 11.0),
        (skewed_copula, "shape", 0.09),
        (skewed_copula, "shape", [1.0]),
        (skewed_copula, "condition", 0),
        (noisy_manifold, "n_harmonics", 0),
        (noisy_manifold, "n_harmonics", 2.0),
        (noisy_manifold, "radius", 0.0),
        (noisy_manifold, "sigma", -0.1),
        (noisy_manifold, "sigma", None),
    ],
)
def test_bad_parameters(make, parameter, value):
    match = (
        rf"The '{parameter}' parameter of {make.__name__} must be .*\. Got .*instead"
    )
    with pytest.raises(ValueError, match=match):
        make(**{parameter: value})


def test_bad_points_and_sizes(table):
    n = table.n_features
    with pytest.raises(ValueError, match=f"X has {n + 1} features, .* expecting {n}"):
        table.score_samples(np.zeros((3, n + 1)))
    with pytest.raises(ValueError, match="Input X contains NaN"):
        table.score_samples(np.full((3, n), np.nan))
    with pytest.raises(
        ValueError, match=rf"'n_samples' parameter of {table.name}\.sam"
    ):
        table.sample(0)
    # Checked even where the entropy is exact and needs no samples.
    with pytest.raises(
        ValueError, match=rf"'n_samples' parameter of {table.name}\.ent"
    ):
        table.entropy(1)
