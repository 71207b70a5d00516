"""Columns by the distribution functions of mixtures of their own."""

# SPDX-License-Identifier: BSD-3-Clause

import numpy as np
import pytest
from scipy import stats

from skjko import JKOFlowDensity
from skjko.marginals import MarginalMixtures, choose_marginal_mixtures
from skjko.mixture import Mixture
from skjko.preprocessing import GaussianWhitening
from skjko.rosenblatt import RosenblattMap

# Three lumps of one column, far apart: weights, means and deviations.
LUMPS = (
    np.array([0.5, 0.3, 0.2]),
    np.array([-1.0, 0.5, 2.0]),
    np.array([0.1, 0.05, 0.2]),
)


def whiten(X, weight):
    return GaussianWhitening().fit(X, weight)


def chosen(X, weight=None):
    weight = np.ones(len(X)) if weight is None else weight
    return choose_marginal_mixtures(X, weight, whiten)


def lumpy(n, seed=0):
    rng = np.random.default_rng(seed)
    weights, means, deviations = LUMPS
    part = rng.choice(3, n, p=weights)
    return means[part] + deviations[part] * rng.standard_normal(n)


def log_density(x):
    weights, means, deviations = LUMPS
    parts = stats.norm.logpdf(x[:, np.newaxis], means, deviations)
    return np.log(np.exp(parts) @ weights)


def known(centre=0.0, width=1.0):
    """The map of the lumps, written down."""
    weights, means, deviations = LUMPS
    mixture = Mixture(weights, means[:, np.newaxis], (deviations**2)[:, None, None])
    return MarginalMixtures(
        np.array([1]),
        np.array([centre]),
        np.array([width]),
        [RosenblattMap.of(mixture)],
    )


def test_the_map_is_the_distribution_function():
    x = np.linspace(-1.4, 2.6, 41)
    X = np.column_stack([x, x, x])
    Y, log_det = known().forward(X)
    weights, means, deviations = LUMPS
    # A little of a standard normal is in every mixture.
    exact = 0.999 * stats.norm.cdf(x[:, None], means, deviations) @ weights
    exact += 0.001 * stats.norm.cdf(x)
    np.testing.assert_allclose(stats.norm.cdf(Y[:, 1]), exact, rtol=1e-12)
    np.testing.assert_array_equal(Y[:, [0, 2]], X[:, [0, 2]])
    density = 0.999 * np.exp(log_density(x)) + 0.001 * stats.norm.pdf(x)
    expected = np.log(density) - stats.norm.logpdf(Y[:, 1])
    np.testing.assert_allclose(log_det, expected, rtol=1e-9, atol=1e-9)


def test_columns_at_once_are_as_if_each_were_alone():
    # Of 2 to 130 parts, and values beyond all of them.
    rng = np.random.default_rng(0)
    maps = [
        RosenblattMap.of(
            Mixture(
                rng.dirichlet(np.ones(n)),
                3 * rng.standard_normal((n, 1)),
                rng.exponential(size=(n, 1, 1)),
            )
        )
        for n in (2, 4, 3, 130, 70, 5)
    ]
    U = rng.standard_normal((300, 6)) * np.r_[np.ones(290), np.full(10, 20.0)][:, None]
    U[0], U[1, ::2], U[2] = 30.0, 1e80, -1e300
    one = MarginalMixtures(np.arange(6), np.zeros(6), np.ones(6), maps)
    Y, log_det = one.forward(U)
    alone = [each.forward(u[:, np.newaxis]) for each, u in zip(maps, U.T, strict=True)]
    expected = np.column_stack([y for y, _ in alone])
    np.testing.assert_allclose(Y, expected, rtol=1e-12, atol=1e-13)
    total = sum(increment for _, increment in alone)
    np.testing.assert_allclose(log_det, total, rtol=1e-11, atol=1e-11)
    # Nor does a row know of others.
    few = one.forward(U[:7])
    np.testing.assert_array_equal(few[0], Y[:7])


@pytest.mark.parametrize(("centre", "width"), [(0.0, 1.0), (-3e5, 1e-4), (1e-7, 1e8)])
def test_the_map_inverts(centre, width):
    one = known(centre, width)
    X = centre + width * np.column_stack([lumpy(200), lumpy(200, 1)])
    back = one.inverse(one.forward(X)[0])
    rounding = np.abs(centre) * 1e-15
    np.testing.assert_allclose(back, X, rtol=1e-9, atol=1e-9 * width + rounding)


def test_units_do_not_matter():
    x = np.column_stack([lumpy(1000), np.random.default_rng(1).normal(size=1000)])
    one, other = chosen(x), chosen(7.0 - 1e-3 * x)
    assert one.columns.tolist() == other.columns.tolist() == [0]
    Y, log_det = one.forward(x)
    Z, log_det_other = other.forward(7.0 - 1e-3 * x)
    # Which of the equally good splits comes first is open where signs change.
    assert (
        abs(
            np.mean(stats.norm.logpdf(Y[:, 0]) + log_det)
            - np.mean(stats.norm.logpdf(Z[:, 0]) + log_det_other + np.log(1e-3))
        )
        < 0.02
    )


def test_lumps_are_found():
    marginal = chosen(lumpy(4000)[:, np.newaxis])
    x = lumpy(4000, 1)[:, np.newaxis]
    Y, log_det = marginal.forward(x)
    gap = log_density(x[:, 0]) - (stats.norm.logpdf(Y[:, 0]) + log_det)
    assert gap.mean() < 0.01 + 2 * gap.std() / np.sqrt(len(gap))
    assert stats.kstest(Y[:, 0], "norm").pvalue > 1e-3


@pytest.mark.parametrize("n", [100, 300, 4000])
def test_normal_columns_are_left_alone(n):
    X = np.random.default_rng(n).normal(size=(n, 3)) @ np.diag([1.0, 1e-8, 1e8])
    assert chosen(X) is None


def test_columns_without_a_density_are_left_alone():
    lumps, rng = lumpy(500), np.random.default_rng(2)
    X = np.column_stack([lumps, 2 * lumps, np.ones(500), rng.exponential(size=500)])
    assert chosen(X).columns.tolist() == [3]


def test_few_rows_are_left_alone():
    assert chosen(lumpy(99)[:, np.newaxis]) is None


def test_weights_count_as_repetitions():
    """Rows of next to no weight are as good as not there."""
    x = np.concatenate([lumpy(500), 30 + np.random.default_rng(3).normal(size=500)])
    weight = np.repeat([1.0, 1e-9], 500)
    marginal = chosen(x[:, np.newaxis], weight)
    Y, log_det = marginal.forward(x[:500, np.newaxis])
    gap = log_density(x[:500]) - (stats.norm.logpdf(Y[:, 0]) + log_det)
    assert gap.mean() < 0.05


@pytest.mark.parametrize("far", [1e3, 1e80, 1e300])
def test_far_values_stay_finite(far):
    X = np.array([[0.0, far], [0.0, -far]])
    Y, log_det = known().forward(X)
    assert np.isfinite(Y).all()
    assert np.isfinite(log_det).all()
    assert Y[0, 1] > 5
    assert Y[1, 1] < -5
    assert np.isfinite(known().inverse(1e300 * np.sign(X))).all()


def test_a_density_starts_behind_them():
    """Two lumpy columns that have to do with each other, smoothly.

    A mixture of all columns would need a part for each of their nine or more lumps.
    """

    def table(n, seed):
        rng = np.random.default_rng(seed)
        a = rng.standard_normal(n)
        b = 0.9 * a + np.sqrt(1 - 0.81) * rng.standard_normal(n)
        one = known()
        Y = np.column_stack([a, b])
        X = one.inverse(np.column_stack([a, a]))[:, 1], one.inverse(Y)[:, 1]
        log_det = sum(one.forward(np.column_stack([x, x]))[1] for x in X)
        normal = stats.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]]).logpdf(Y)
        return np.column_stack(X), normal + log_det

    X, _ = table(400, 0)
    X_test, truth = table(2000, 1)
    density = JKOFlowDensity(max_iter=50, random_state=0).fit(X)
    assert isinstance(density.marginal_map_, MarginalMixtures)
    gap = truth - density.score_samples(X_test)
    plain = truth - JKOFlowDensity(marginal_map=None, max_iter=50, random_state=0).fit(
        X
    ).score_samples(X_test)
    gain = plain - gap
    assert gain.mean() > 2 * gain.std() / np.sqrt(len(gain))
    assert gap.mean() < 0.15
    # It is a density: its integral over a box around all rows is one.
    grid = np.linspace(-2.5, 3.5, 301)
    cells = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
    mass = np.exp(density.score_samples(cells)).sum() * (grid[1] - grid[0]) ** 2
    assert mass == pytest.approx(1.0, abs=0.01)
    # Samples come from it.
    Z = density.transform(density.sample(2000, random_state=0))
    for z in Z.T:
        assert stats.kstest(z, "norm").pvalue > 1e-3
