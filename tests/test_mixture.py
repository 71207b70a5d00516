"""Mixtures of Gaussians: how they grow, and the way from them to the normal."""

# SPDX-License-Identifier: BSD-3-Clause

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.special import logsumexp
from scipy.stats import kstest, multivariate_normal
from sklearn.exceptions import ConvergenceWarning

from skjko import (
    JKOFlowDensity,
    datasets,
    fitting,
    growth,
    metrics,
    mixture,
    start,
    trials,
)
from skjko.flow import history
from skjko.flow.pace import Clock
from skjko.flow.scheme import Crew
from skjko.growth import choose_mixture, choose_mixtures
from skjko.marginals import MarginalMixtures, choose_marginal_mixtures
from skjko.mixture import Mixture
from skjko.preprocessing import Preprocessing
from skjko.rosenblatt import RosenblattMap
from skjko.settings import training_seconds
from tests.helpers import lumps, quick


def some_mixture(n_parts, d, seed, apart=3.0):
    rng = np.random.RandomState(seed)
    roots = rng.standard_normal((n_parts, d, d + 2))
    covariances = roots @ roots.transpose(0, 2, 1) / (d + 2)
    weights = rng.dirichlet(np.ones(n_parts))
    return Mixture(weights, apart * rng.standard_normal((n_parts, d)), covariances)


def drawn_from(mixture, n, seed):
    rng = np.random.RandomState(seed)
    parts = rng.choice(len(mixture.weights), n, p=mixture.weights)
    factors = np.linalg.cholesky(mixture.covariances)[parts]
    noise = rng.standard_normal((n, mixture.means.shape[1], 1))
    return mixture.means[parts] + (factors @ noise)[:, :, 0]


def true_log_density(mixture, X):
    parts = [
        np.log(w) + multivariate_normal(m, c).logpdf(X)
        for w, m, c in zip(
            mixture.weights, mixture.means, mixture.covariances, strict=True
        )
    ]
    return logsumexp(np.reshape(parts, (len(parts), len(X))), axis=0)


def map_of(mixture):
    """The map of the mixture alone, without a wide part."""
    factors = np.linalg.cholesky(mixture.covariances)
    return RosenblattMap(mixture.weights, mixture.means, factors)


def normal_log_density(Z):
    return -0.5 * ((Z**2).sum(axis=1) + Z.shape[1] * math.log(2 * math.pi))


MIXTURES = {
    "parts": (st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**16)),
}


# ------------------------------------------------------------------- the map


@given(*MIXTURES["parts"])
@settings(max_examples=30)
def test_a_normal_behind_the_map_is_the_mixture(n_parts, d, seed):
    given_one = some_mixture(n_parts, d, seed)
    X = np.concatenate([drawn_from(given_one, 50, 1), 20 * np.eye(d)])
    Z, log_det = map_of(given_one).forward(X)
    expected = true_log_density(given_one, X)
    assert_allclose(log_det + normal_log_density(Z), expected, rtol=1e-9, atol=1e-9)
    assert_allclose(given_one.log_density(X), expected, rtol=1e-6, atol=1e-6)


@given(*MIXTURES["parts"])
@settings(max_examples=30)
def test_the_map_and_its_inverse_undo_each_other(n_parts, d, seed):
    one = RosenblattMap.of(some_mixture(n_parts, d, seed))
    Z = np.random.RandomState(seed).standard_normal((50, d)) * [[1.0]] * 2
    X = one.inverse(Z)
    assert_allclose(one.forward(X)[0], Z, rtol=1e-11, atol=1e-11)
    rows = drawn_from(some_mixture(n_parts, d, seed), 50, 1)
    assert_allclose(one.inverse(one.forward(rows)[0]), rows, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("d", [1, 3])
def test_the_log_determinant_is_that_of_the_jacobian(d):
    one = RosenblattMap.of(some_mixture(4, d, 0))
    X, step = drawn_from(some_mixture(4, d, 0), 20, 1), 1e-6
    _, log_det = one.forward(X)
    columns = [
        (one.forward(X + step * e)[0] - one.forward(X - step * e)[0]) / (2 * step)
        for e in np.eye(d)
    ]
    jacobians = np.stack(columns, axis=2)
    # A column depends on those before it alone.
    assert (np.triu(jacobians, 1) == 0).all()
    assert_allclose(np.linalg.slogdet(jacobians)[1], log_det, atol=1e-6)


def test_rows_of_the_mixture_become_normal():
    one = some_mixture(5, 3, 2)
    Z, _ = map_of(one).forward(drawn_from(one, 5000, 0))
    for column in Z.T:
        assert kstest(column, "norm").pvalue > 0.001
    correlation = np.corrcoef(Z.T)
    assert np.abs(correlation - np.eye(3)).max() < 4 / math.sqrt(5000)


@given(*MIXTURES["parts"])
@settings(max_examples=30)
def test_log_density_is_that_of_the_map(n_parts, d, seed):
    one = RosenblattMap.of(some_mixture(n_parts, d, seed))
    far = np.array([[30.0], [1e5], [1e60], [1e80], [1e200]]) * np.ones(d)
    X = np.concatenate([drawn_from(some_mixture(n_parts, d, seed), 50, 1), far])
    Z, log_det = one.forward(X)
    with np.errstate(over="ignore"):
        expected = log_det + normal_log_density(Z)
    assert_allclose(one.log_density(X), expected, rtol=1e-9, atol=1e-9)


def test_draws_are_from_the_mixture():
    one = RosenblattMap.of(some_mixture(5, 3, 2))
    X = one.draw(5000, np.random.RandomState(0))
    Z, _ = one.forward(X)
    for column in Z.T:
        assert kstest(column, "norm").pvalue > 0.001
    assert np.abs(np.corrcoef(Z.T) - np.eye(3)).max() < 4 / math.sqrt(5000)
    # In no order: the first half is as good a sample as the second.
    assert kstest(X[:2500, 0], X[2500:, 0]).pvalue > 0.001


def test_one_gaussian_is_mapped_by_its_cholesky_factor():
    gaussian = some_mixture(1, 4, 0)
    X = drawn_from(gaussian, 10, 1)
    Z, _ = map_of(gaussian).forward(X)
    factor = np.linalg.cholesky(gaussian.covariances[0])
    assert_allclose(Z, np.linalg.solve(factor, (X - gaussian.means).T).T, rtol=1e-10)


def test_rows_far_out_stay_finite_and_come_back():
    one = RosenblattMap.of(some_mixture(4, 2, 0))
    sizes = np.array([1e2, 1e5, 1e20, 1e70, 1e80, 1e300])
    X = np.concatenate([np.outer(sign * sizes, [1, -0.5]) for sign in (1, -1)])
    Z, log_det = one.forward(X)
    assert np.isfinite(Z).all()
    assert np.isfinite(log_det).all()
    assert_allclose(one.inverse(Z), X, rtol=1e-9)
    # As well where there are no others.
    alone, increment = one.forward(X[-1:])
    assert_allclose(alone, X[-1:])
    assert increment.tolist() == [0]
    assert_allclose(one.inverse(X[-1:]), X[-1:])


def test_gaps_are_no_wider_than_the_wide_part_lets_them():
    # Two parts so far apart that between them there is no density but the wide part's.
    means = np.array([[-40.0], [40.0]])
    one = RosenblattMap.of(Mixture(np.full(2, 0.5), means, np.full((2, 1, 1), 1e-2)))
    X = np.linspace(-5, 5, 21)[:, np.newaxis]
    Z, log_det = one.forward(X)
    assert (np.diff(Z[:, 0]) > 0).all()
    assert_allclose(one.inverse(Z), X, atol=1e-9)
    expected = math.log(1e-3) + normal_log_density(X)
    assert_allclose(log_det + normal_log_density(Z), expected, atol=1e-9)


@pytest.mark.parametrize("apart", [0.0, 3.0, 300.0])
def test_quantiles_of_one_column_are_exact_at_between_and_beyond_those_kept(apart):
    one = RosenblattMap.of(some_mixture(6, 1, seed=3, apart=apart))
    z = np.arange(-9, 9 + 1 / 128, 1 / 128)[:, np.newaxis]
    x = one.inverse(z)
    assert (np.diff(x[:, 0]) > 0).all()
    back, log_det = one.forward(x)
    # In a gap scores fall by less than a number's rounding moves them.
    rounding = np.spacing(np.abs(x[:, 0])) * np.exp(log_det)
    assert (np.abs(back - z)[:, 0] <= 1e-13 * np.abs(z[:, 0]).clip(1) + rounding).all()


def test_no_rows():
    one = RosenblattMap.of(some_mixture(2, 3, 0))
    Z, log_det = one.forward(np.empty((0, 3)))
    assert Z.shape == (0, 3)
    assert log_det.shape == (0,)
    assert one.inverse(Z).shape == (0, 3)


# ------------------------------------------------------------------- growth


def moments(one):
    mean = one.weights @ one.means
    centred = one.means - mean
    within = np.einsum("k,kij->ij", one.weights, one.covariances)
    return mean, within + (one.weights * centred.T) @ centred


def levels(X, weight, n_levels):
    """Mixtures of one table that grow, at most so many."""
    grown, found = growth._Growth(X[None, None], weight[None], 1.0), []
    while len(grown.tables) and len(found) < n_levels:
        found.append(grown.children.single())
        grown.go_on([0])
    return found


def test_a_split_leaves_mean_and_covariance():
    one = some_mixture(3, 4, 0)
    halves, prior = mixture.split(one)
    assert len(halves.weights) == 6
    for before, after in zip(moments(one), moments(halves), strict=True):
        assert_allclose(after, before, atol=1e-12)
    # Narrower than the whole, but no narrower than a half of it.
    parents = np.tile(one.covariances, (2, 1, 1))
    assert np.linalg.eigvalsh(parents - prior).min() > -1e-12
    assert np.linalg.eigvalsh(prior - halves.covariances).min() > -1e-12


def test_iterations_never_lose_what_they_maximize():
    # The likelihood times the inverse Wishart densities of the covariances.
    one = some_mixture(3, 2, 0)
    X, weight = drawn_from(one, 200, 1), np.random.RandomState(2).rand(200) + 0.1
    rows, before = 5.0, -math.inf
    here, prior = mixture.split(mixture.split(one)[0])
    for _ in range(30):
        precisions = np.linalg.inv(here.covariances)
        penalty = rows * (
            np.linalg.slogdet(here.covariances)[1]
            + np.einsum("kij,kji->k", precisions, prior)
        )
        value = weight @ here.log_density(X) - 0.5 * penalty.sum()
        assert value > before - 1e-6 * abs(value)
        before = value
        _, statistics = mixture._expectation(X, weight, here)
        here = mixture._maximization(statistics, prior, rows)


def test_weights_are_repetitions():
    X = drawn_from(some_mixture(3, 2, 0), 100, 1)
    counts = np.random.RandomState(2).randint(1, 4, 100)
    weighted = levels(X, counts.astype(float), 4)
    repeated = levels(np.repeat(X, counts, axis=0), np.ones(counts.sum()), 4)
    assert len(weighted[-1].weights) > 4
    for a, b in zip(weighted, repeated, strict=True):
        assert_allclose(a.log_density(X), b.log_density(X), rtol=1e-6, atol=1e-6)


def test_the_statistics_do_not_depend_on_the_chunks(monkeypatch):
    one = some_mixture(3, 2, 0)
    X, weight = drawn_from(one, 500, 1), np.random.RandomState(0).rand(500)
    whole = mixture._expectation(X, weight, one)
    monkeypatch.setattr(mixture, "_CHUNK_ROWS", (7, 7))
    parts = mixture._expectation(X, weight, one)
    for a, b in zip(whole, parts, strict=True):
        assert_allclose(a, b, rtol=1e-12)


def test_one_gaussian_stays_one():
    X = np.random.RandomState(0).standard_normal((2000, 3))
    chosen = choose_mixture(X, np.ones(2000)).mixture
    assert len(chosen.weights) == 1
    assert_allclose(chosen.means[0], X.mean(axis=0), atol=1e-12)
    assert_allclose(chosen.covariances[0], np.cov(X.T, bias=True), atol=1e-5)


def test_as_many_parts_as_there_are_clusters():
    truth = datasets.eight_gaussians()
    X = truth.sample(4000, random_state=0)
    scale = X.std()
    chosen = choose_mixture(X / scale, np.ones(4000)).mixture
    assert len(chosen.weights) == 8
    T = truth.sample(4000, random_state=1)
    scores = chosen.log_density(T / scale) - 2 * math.log(scale)
    divergence, error = metrics.kl_divergence(truth.score_samples(T), scores)
    # 47 numbers of 4000 rows: half of one in 4000 nats each.
    assert divergence - 3 * error < 0.01


def test_rings_around_each_other_are_told_apart():
    # Slices through all rings at once fit next to nothing better than a Gaussian.
    truth = datasets.rings()
    X, T = truth.sample(8000, random_state=0), truth.sample(4000, random_state=1)
    chosen = choose_mixture(X / X.std(), np.ones(8000)).mixture
    scores = chosen.log_density(T / X.std()) - 2 * math.log(X.std())
    divergence, error = metrics.kl_divergence(truth.score_samples(T), scores)
    assert divergence + 3 * error < 0.1


@pytest.mark.parametrize("name, seed", [("rings", 0), ("rings", 3), ("rose", 1)])
def test_growth_passes_by_levels_that_gain_nothing(name, seed):
    # Halves of them, or quarters, are no better than the whole, by 250 held-out rows.
    X = getattr(datasets, name)().sample(1000, random_state=seed)
    Z = (X - X.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(X.T))).T
    chosen = choose_mixture(Z, np.ones(1000)).mixture
    assert len(chosen.weights) > 16


@pytest.mark.parametrize("n, work", [(301, math.inf), (301, 3e7), (1500, math.inf)])
def test_tables_side_by_side_are_as_if_alone(n, work):
    # A Gaussian, clusters, and a spike with a few rows around it.
    rng = np.random.RandomState(0)
    spike = np.where(rng.rand(n, 2) < 0.9, 1e-3, 1.0) * rng.standard_normal((n, 2))
    tables = np.stack(
        [
            rng.standard_normal((n, 2)),
            datasets.eight_gaussians().sample(n, random_state=0) / 3,
            spike / spike.std(axis=0),
        ]
    )
    weight = rng.rand(n) + 0.5
    together = choose_mixtures(tables, weight, work)
    alone = [choose_mixture(X, weight, work) for X in tables]
    n_parts = {len(one.mixture.weights) for one in together}
    assert len(n_parts) > 1
    for X, (a, *took), (b, *alone_took) in zip(tables, together, alone, strict=True):
        assert took == alone_took
        assert (a.weights > 0).all()
        assert_allclose(a.weights, b.weights, rtol=1e-9)
        assert_allclose(a.log_density(X), b.log_density(X), rtol=1e-7, atol=1e-7)


def test_every_fold_stops_by_itself():
    # In clusters it is sooner clear what belongs where than in one cloud.
    near, far = drawn_from(some_mixture(4, 2, 0, apart=0.3), 200, 1), np.zeros((200, 2))
    far[::2] = 4
    X = np.stack([near, far + np.random.RandomState(0).standard_normal((200, 2))])
    weight = np.ones((2, 200))
    together = mixture.gaussian(X[None], weight)
    alone = [mixture.gaussian(rows[None, None], weight[:1]) for rows in X]
    together = mixture.settle(X[None], weight, mixture.split(together.mixture), 1.0, 15)
    for i, one in enumerate(alone):
        rows, halves = X[None, i : i + 1], mixture.split(one.mixture)
        one = mixture.settle(rows, weight[:1], halves, 1.0, 15)
        assert_allclose(
            together.mixture.means[0, i], one.mixture.means[0, 0], rtol=1e-9
        )


def test_filled_up_rows_and_parts_change_nothing():
    one, other = some_mixture(3, 2, 0), some_mixture(2, 2, 1)
    X, weight = drawn_from(one, 50, 1), np.random.RandomState(0).rand(50)
    filled = [np.concatenate([a, b[:1]]) for a, b in zip(one, other, strict=True)]
    filled[0][-1] = 0
    rows = np.concatenate([X, X[:1]])
    a = mixture._expectation(X, weight, one)
    b = mixture._expectation(rows, np.append(weight, 0.0), Mixture(*filled))
    assert_allclose(a[0], b[0], rtol=1e-12)
    assert_allclose(a[1], b[1][:3], rtol=1e-12)
    assert (b[1][3] < 1e-30).all()


def test_parts_without_rows_lose_their_weight_on_their_table_alone():
    X = np.random.RandomState(0).standard_normal((2, 1, 100, 1))
    X[1] += np.where(np.arange(100) < 30, 20, 0)[:, np.newaxis]
    means = np.broadcast_to([[0.0], [20.0]], (2, 1, 2, 1))
    here = Mixture(np.full((2, 1, 2), 0.5), means, np.ones((2, 1, 2, 1, 1)))
    start = mixture.Settled(here, here.covariances)
    both = mixture.settle(X, np.ones((1, 100)), start, 1.0, 15)
    assert both.n_parts.tolist() == [[1], [2]]
    assert_allclose(both.mixture.weights[:, 0], [[1, 0], [0.7, 0.3]], atol=1e-9)
    one = mixture.settle(X[:1], np.ones((1, 100)), start.of([0]), 1.0, 15)
    assert one.mixture.weights.tolist() == [[[1.0]]]
    # Where no part has rows, none is left.
    few = mixture.settle(X[:1, :, :1], np.full((1, 1), 0.5), start.of([0]), 1.0, 15)
    assert few.n_parts.tolist() == [[0]]


@pytest.mark.parametrize("n, some_work", [(300, 3e7), (3000, 3e8)])
def test_growth_ends_with_the_work(n, some_work):
    X = datasets.checkerboard().sample(n, random_state=0)
    X, weight = (X - X.mean(axis=0)) / X.std(axis=0), np.ones(n)
    works = 0, some_work, 10 * some_work
    chosen = [choose_mixture(X, weight, work) for work in works]
    n_parts = [len(one.mixture.weights) for one in chosen]
    assert n_parts[0] == 1
    assert n_parts[0] < n_parts[1] < n_parts[2]
    # What was done is less than what was given, but more than another level leaves.
    for one, work in list(zip(chosen, works, strict=True))[1:]:
        assert not one.is_grown
        assert work / 8 < one.work <= work


def test_few_rows_keep_the_shape_of_their_parent():
    # Three rows of a thin, long cloud, far from the others: without a prior they would
    # be a part of next to no volume.
    rng = np.random.RandomState(0)
    X = rng.standard_normal((60, 5)) * [1, 0.3, 0.3, 0.3, 0.01]
    for chosen in levels(X, np.ones(60), 5):
        values = np.linalg.eigvalsh(chosen.covariances)
        assert (values[:, 0] > 1e-5).all()


# ------------------------------------------------------------------- the density


def clusters(n, seed=0):
    return datasets.correlated_mixture(3).sample(n, random_state=seed)


def test_a_density_starts_from_a_mixture_where_that_is_better():
    X, T = clusters(1500), clusters(2000, 1)
    plain, mixed = (quick(mixture_map=m).fit(X) for m in (None, "auto"))
    assert plain.mixture_map_ is None
    assert len(mixed.mixture_map_.weights) > 2
    assert mixed.score(T) > plain.score(T)
    divergence, error = metrics.kl_divergence(
        datasets.correlated_mixture(3).score_samples(T), mixed.score_samples(T)
    )
    assert divergence - 3 * error < 0.05
    assert "parts" in mixed.summary()


def test_a_density_is_normalized_and_invertible_behind_a_mixture():
    X = datasets.moons().sample(400, random_state=0)
    density = quick(mixture_map="auto").fit(X)
    assert density.mixture_map_ is not None
    axis = np.linspace(-8, 8, 401)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    mass = np.exp(density.score_samples(grid)).sum() * (axis[1] - axis[0]) ** 2
    assert mass == pytest.approx(1, abs=1e-3)
    back = density.inverse_transform(density.transform(X))
    assert_allclose(back, X, atol=1e-5)


@pytest.mark.parametrize(
    "parameters",
    [{"max_blocks": 0}, {"early_stopping": False}, {"mixture_map": None}],
)
def test_a_density_without_a_mixture(parameters):
    density = quick(**{"mixture_map": "auto", **parameters}).fit(clusters(300))
    assert density.mixture_map_ is None


def test_a_gaussian_needs_no_mixture():
    X = np.random.RandomState(0).standard_normal((1200, 2))
    assert quick(mixture_map="auto").fit(X).mixture_map_ is None


def test_flat_directions_pass_by_the_mixture():
    X = clusters(600)
    X = np.hstack([X, X[:, :1] + X[:, 1:2], np.ones((600, 1))])
    density = quick(mixture_map="auto").fit(X)
    assert density.mixture_map_.means.shape[1] == 3
    assert_allclose(density.inverse_transform(density.transform(X)), X, atol=1e-5)


def test_too_many_columns_have_no_mixture(monkeypatch):
    monkeypatch.setattr(start, "MIXTURE_COLUMNS", 2)
    assert quick(mixture_map="auto").fit(clusters(300)).mixture_map_ is None


def test_growth_looks_at_a_part_of_many_rows(monkeypatch):
    # A tenth of the rows grows, and all of them settle what has grown.
    looked_at = set()

    def seen(X, *args, settle=growth.settle):
        looked_at.add(X.shape[-2])
        return settle(X, *args)

    monkeypatch.setattr(growth, "settle", seen)
    monkeypatch.setattr(growth, "_GROWING_ROWS", 500)
    monkeypatch.setattr(growth, "_ROWS_PER_PART", 50)
    monkeypatch.setattr(growth, "_ROWS_PER_COLUMN", 0)
    truth = datasets.eight_gaussians()
    X, T = truth.sample(8000, random_state=0), truth.sample(4000, random_state=1)
    chosen = choose_mixture(X / X.std(), np.ones(8000)).mixture
    assert looked_at == {500, 800, 8000}
    assert len(chosen.weights) == 8
    scores = chosen.log_density(T / X.std()) - 2 * math.log(X.std())
    divergence, error = metrics.kl_divergence(truth.score_samples(T), scores)
    assert divergence - 3 * error < 0.01


def test_work_is_that_of_all_levels_of_both_priors(monkeypatch):
    paid, strengths, pays = [], set(), growth._Best.pays

    def seen(self, *args):
        paid.append(pays(self, *args))
        strengths.add(self.strength)
        return paid[-1]

    monkeypatch.setattr(growth._Best, "pays", seen)
    # A level is one operation, and so is to settle all rows in the end.
    monkeypatch.setattr(growth, "_operations", lambda *args: 1.0)
    X = datasets.checkerboard().sample(300, random_state=0)
    chosen = choose_mixture((X - X.mean(axis=0)) / X.std(axis=0), np.ones(300), 9.0)
    assert len(strengths) == 2
    assert chosen.work == sum(paid) + 1


@pytest.mark.parametrize("n", [300, 1500])
def test_a_fit_goes_on_from_the_same_mixture(n):
    X = clusters(n)
    once = quick(mixture_map="auto", warm_start=True, max_blocks=1).fit(X)
    parts = once.mixture_map_.means.copy()
    once.set_params(max_blocks=3).fit(X)
    np.testing.assert_array_equal(once.mixture_map_.means, parts)


@pytest.mark.parametrize("n", [300, 1500])
def test_more_time_later_does_not_change_where_the_flow_starts(monkeypatch, n):
    # A mixture that had more work would have more parts. None takes any time here.
    monkeypatch.setattr(Clock, "__call__", lambda self: 0.0)
    X = datasets.checkerboard().sample(n, random_state=0)
    once = quick(
        mixture_map="auto",
        marginal_map=None,
        warm_start=True,
        max_blocks=1,
        time_limit=0.05,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        parts = once.fit(X).mixture_map_.means.copy()
    once.set_params(max_blocks=2, time_limit=None).fit(X)
    np.testing.assert_array_equal(once.mixture_map_.means, parts)


@pytest.mark.parametrize(
    "truth, n_folds",
    [(datasets.moons(), [1]), (datasets.skewed_copula(2), [1, 3])],
    ids=["far ahead", "not far ahead"],
)
def test_the_first_fold_speaks_for_all_where_mixtures_are_far_ahead(
    monkeypatch, truth, n_folds
):
    raced, race = [], start.Start._race

    def seen(self, part, n_iter, rng, folds):
        raced.append(len(folds))
        return race(self, part, n_iter, rng, folds)

    monkeypatch.setattr(start.Start, "_race", seen)
    density = quick(mixture_map="auto", max_iter=100, hidden_layer_sizes=(32, 32))
    density.set_params(marginal_map=None).fit(truth.sample(300, random_state=0))
    # A longer race may follow.
    assert raced[:2] == n_folds


@pytest.mark.parametrize("n, goes_on", [(1500, True), (300, False)])
def test_the_first_block_goes_on_from_the_races(monkeypatch, n, goes_on):
    """But behind folds: all rows follow them, and have run no race."""
    begun, trained, anew, train = [], [], [], Crew._trained

    def seen(self, task, *args):
        outcome = train(self, task, *args)
        if task.kind == history.GROW:
            begun.append(task.fields)
            trained.append([block.field.field for block in outcome.blocks])
        else:
            anew.extend(task.fields)
        return outcome

    monkeypatch.setattr(Crew, "_trained", seen)
    # A block with weight decay is tried too, and is not to know what others learned.
    monkeypatch.setattr(Crew, "_has_learned_noise", True)
    # Mixtures may be better yet, but are not in the end.
    trial = trials.Trials._trial
    monkeypatch.setattr(
        trials.Trials, "_trial", lambda *args: trial(*args)._replace(is_grown=False)
    )
    monkeypatch.setattr(trials.Trial, "is_better_than", lambda *args: False)
    # It is never clear who will be ahead, and a longer race follows.
    monkeypatch.setattr(trials.Trial, "nll", -1e9)
    monkeypatch.setattr(start, "RACE_HOPE", math.inf)
    monkeypatch.setattr(start.Start, "_is_beaten", lambda *args: False)
    X = datasets.skewed_copula(2).sample(n, random_state=0)
    density = quick(mixture_map="auto", marginal_map=None, max_blocks=1).fit(X)
    assert density.n_blocks_ == 1

    def weights(fields):
        return [tensor for field in fields for tensor in field.state_dict().values()]

    assert len(begun) == (3 if goes_on else 4)
    for before, after in zip(trained[: len(begun) - 1], begun[1:], strict=True):
        pairs = zip(weights(before), weights(after), strict=goes_on)
        assert all(torch.equal(a, b) for a, b in pairs) == goes_on
    assert anew
    assert not any(field.out_weight.any() for field in anew)


@pytest.mark.parametrize("n", [300, 1500])
@pytest.mark.parametrize("hope, n_races", [(0.0, 1), (math.inf, 2)])
def test_the_last_race_tells_what_a_flow_has_reached(monkeypatch, n, hope, n_races):
    raced, told, race = [], [], start.Start._race
    growing_work = start.Start._growing_work

    def seen(self, part, n_iter, rng, folds):
        losses, gained = race(self, part, n_iter, rng, folds)
        raced.append(torch.cat(losses).mean().item())
        return losses, gained

    def counted(self, *args):
        told.append(float(self._reached))
        return growing_work(self, *args)

    monkeypatch.setattr(start.Start, "_race", seen)
    monkeypatch.setattr(start.Start, "_growing_work", counted)
    monkeypatch.setattr(start.Start, "_is_beaten", lambda *args: False)
    monkeypatch.setattr(trials.Trial, "is_better_than", lambda *args: True)
    monkeypatch.setattr(trials.Trial, "nll", -1e9)
    monkeypatch.setattr(start, "RACE_HOPE", hope)
    X = datasets.skewed_copula(2).sample(n, random_state=0)
    quick(mixture_map="auto", marginal_map=None).fit(X)
    assert len(raced) == n_races
    assert told == pytest.approx(raced[-1:], rel=1e-5)


@pytest.mark.parametrize(
    "seconds, checkpoint, reached, trial_rows, grows",
    [
        (20.0, None, -1e8, 20_000, False),
        # Trials of so little work do not tell, nor do those of few of the rows.
        (10.0, None, -1e8, 20_000, True),
        (20.0, None, -1e8, 550, False),
        (20.0, None, -1e8, 530, True),
        (1e4, None, -1e8, 20_000, True),
        (None, None, -1e8, 20_000, True),
        (20.0, "fit", -1e8, 20_000, True),
        # What is promised only may be the other way round.
        (20.0, None, 1e8, 20_000, True),
    ],
)
def test_little_time_is_not_for_mixtures_that_are_behind(
    monkeypatch, tmp_path, seconds, checkpoint, reached, trial_rows, grows
):
    now, works, trial = [0.0], [], trials.Trials._trial
    with_mixture = Preprocessing.with_mixture

    def slow(self, *args):
        now[0] += 0.1
        return with_mixture(self, *args)

    def seen(self, maps, plain, splits, work):
        works.append(work)
        return trial(self, maps, plain, splits, work)._replace(is_grown=False)

    def won(self, *args):
        now[0] = 0.8 * (seconds or 0.0)
        self._reached = reached
        return -1e9

    monkeypatch.setattr(Preprocessing, "with_mixture", slow)
    monkeypatch.setattr(trials, "TRIAL_ROWS", trial_rows)
    monkeypatch.setattr(trials.Trials, "_trial", seen)
    monkeypatch.setattr(start.Start, "_to_beat", won)
    monkeypatch.setattr(Clock, "__call__", lambda self: now[0])
    monkeypatch.chdir(tmp_path)
    density = quick(mixture_map="auto", marginal_map=None, radial_map=None)
    density.set_params(time_limit=seconds, checkpoint=checkpoint).fit(clusters(1200))
    assert density.mixture_map_ is None
    assert len(works) == 1 + grows


@pytest.mark.parametrize("of_a_trial", [20.0, 40.0])
def test_growth_is_as_fast_as_trials_were(monkeypatch, of_a_trial):
    """So that a slow machine, or a slow hour of it, is done in time as well."""
    now, asked = [0.0], []
    with_mixture = Preprocessing.with_mixture

    def slow(self, X, weight, rng, work):
        asked.append(work)
        now[0] += of_a_trial
        mixed, is_grown, _ = with_mixture(self, X, weight, rng, 1e8)
        return mixed, is_grown, 0.5 * work

    monkeypatch.setattr(Preprocessing, "with_mixture", slow)
    monkeypatch.setattr(start.Start, "_to_beat", lambda *args: math.inf)
    monkeypatch.setattr(Clock, "__call__", lambda self: now[0])
    X = datasets.checkerboard().sample(1200, random_state=0)
    density = quick(mixture_map="auto", marginal_map=None, radial_map=None)
    density.set_params(time_limit=1000.0).fit(X)
    trial, of_growth = asked
    left = training_seconds(1000.0) - of_a_trial
    rate = 0.5 * trial / of_a_trial
    assert of_growth == pytest.approx(start.GROWING_SHARE * rate * left)


@pytest.mark.parametrize("trial_rows, n_fits", [(20_000, 1), (200, 2)])
def test_what_trials_of_all_rows_stand_behind_is_fitted_once(
    monkeypatch, trial_rows, n_fits
):
    fitted, fit = [], Preprocessing.fit

    def counted(self, X, weight, choose_marginal=None):
        if getattr(choose_marginal, "func", None) is choose_marginal_mixtures:
            fitted.append(len(X))
        return fit(self, X, weight, choose_marginal)

    monkeypatch.setattr(Preprocessing, "fit", counted)
    monkeypatch.setattr(trials, "TRIAL_ROWS", trial_rows)
    monkeypatch.setattr(start.Start, "_to_beat", lambda *args: math.inf)
    trial = trials.Trials._trial
    monkeypatch.setattr(
        trials.Trials, "_trial", lambda *args: trial(*args)._replace(is_grown=False)
    )
    density = quick(mixture_map="auto", radial_map=None).fit(lumps(), X_val=lumps(3))
    assert isinstance(density.marginal_map_, MarginalMixtures)
    assert len(fitted) == n_fits


@pytest.mark.parametrize("n", [300, 1500])
@pytest.mark.parametrize("comes_to, falls_back", [(1e9, True), (-1e9, False)])
def test_a_flow_that_breaks_its_promise_makes_way(monkeypatch, n, comes_to, falls_back):
    X = clusters(n)
    expected = quick(mixture_map="auto").fit(X)
    assert expected.mixture_map_ is not None
    monkeypatch.setattr(start.Start, "_promise", lambda *args: -math.inf)
    monkeypatch.setattr(Crew, "nll", comes_to)
    density = quick(mixture_map="auto", warm_start=True, max_blocks=1).fit(X)
    assert (density.mixture_map_ is not None) == falls_back
    # Blocks are trained behind what was taken.
    first = density.validation_scores_[0]
    assert (first > expected.validation_scores_[0] - 1e-9) == falls_back
    if falls_back:
        parts = density.mixture_map_.means.copy()
        np.testing.assert_array_equal(parts, expected.mixture_map_.means)
        density.set_params(max_blocks=2).fit(X)
        np.testing.assert_array_equal(density.mixture_map_.means, parts)


def test_all_rows_follow_behind_the_mixture_then(monkeypatch):
    def followed(self, rounds):
        seen.append(self.folds[0].train.x.numpy())
        follow(self, rounds)

    seen, follow = [], Crew.follow
    monkeypatch.setattr(Crew, "follow", followed)
    monkeypatch.setattr(start.Start, "_promise", lambda *args: -math.inf)
    monkeypatch.setattr(Crew, "nll", 1e9)
    X = clusters(300)
    density = quick(mixture_map="auto").fit(X)
    assert_allclose(seen[0], density.trajectory(X)[0], atol=1e-5)


def test_mixtures_that_have_yet_to_grow_are_no_way_back(monkeypatch):
    """Their rows need not be kept while a flow trains."""
    monkeypatch.setattr(trials, "TRIAL_ROWS", 500)
    monkeypatch.setattr(start.Start, "_promise", lambda *args: -math.inf)
    monkeypatch.setattr(Crew, "nll", 1e9)
    assert quick(mixture_map="auto").fit(clusters(1500)).mixture_map_ is None


@pytest.mark.parametrize("n", [300, 1500])
def test_a_broken_promise_is_remembered(monkeypatch, tmp_path, n):
    X = clusters(n)
    monkeypatch.setattr(start.Start, "_promise", lambda *args: -math.inf)
    monkeypatch.setattr(Crew, "nll", 1e9)
    parameters = {"mixture_map": "auto", "checkpoint": tmp_path, "max_blocks": 1}
    first = quick(**parameters).fit(X)

    def trained(*args):
        raise AssertionError("nothing is left to train")

    monkeypatch.setattr("skjko.flow.stage.Stage.train", trained)
    again = quick(**parameters).fit(X)
    np.testing.assert_array_equal(first.score_samples(X), again.score_samples(X))


@pytest.mark.parametrize("n", [300, 1500])
def test_who_breaks_off_keeps_the_flow(monkeypatch, n):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(start.Start, "_promise", lambda *args: -math.inf)
    monkeypatch.setattr("skjko.flow.stage.Stage.train", interrupted)
    with pytest.warns(match="interrupted"):
        density = quick(mixture_map="auto").fit(clusters(n))
    assert density.mixture_map_ is None


@pytest.mark.parametrize("n", [300, 1500])
def test_a_promise_may_be_broken_when_no_time_is_left(monkeypatch, n):
    X = clusters(n)
    expected = quick(mixture_map="auto").fit(X)

    def ahead(self, *args):
        self._reached = -math.inf
        return -math.inf

    def slowly(self, crew):
        do(self, crew)
        self.deadline.clock.spend(1e6)

    do = fitting.Work.do
    monkeypatch.setattr(fitting.Work, "do", slowly)
    monkeypatch.setattr(start.Start, "_promise", ahead)
    monkeypatch.setattr(trials.Trials, "tell", True)
    monkeypatch.setattr(Crew, "nll", 1e9)
    density = quick(mixture_map="auto", time_limit=600).fit(X)
    assert density.n_blocks_ == 0
    means = density.mixture_map_.means
    np.testing.assert_array_equal(means, expected.mixture_map_.means)


@pytest.mark.parametrize("n", [300, 1500])
def test_an_interrupted_choice_leaves_a_model(monkeypatch, n):
    def interrupted(*args):
        raise KeyboardInterrupt

    X = clusters(n)
    # The first block that is trained is that of the race.
    monkeypatch.setattr("skjko.flow.stage.Stage.train", interrupted)
    with pytest.warns(match="interrupted"):
        density = quick(mixture_map="auto").fit(X)
    assert density.n_blocks_ == 0
    assert np.isfinite(density.score(X))


def test_an_interrupted_choice_grows_no_further(monkeypatch):
    """Who breaks off does not wait for the mixture of all rows."""
    seen = []

    def interrupted(*args):
        seen.append("trained")
        raise KeyboardInterrupt

    def fitted(self, *args, **kwargs):
        seen.append("fitted")
        return with_mixture(self, *args, **kwargs)

    with_mixture = Preprocessing.with_mixture
    monkeypatch.setattr(Preprocessing, "with_mixture", fitted)
    monkeypatch.setattr("skjko.flow.stage.Stage.train", interrupted)
    monkeypatch.setattr(trials, "TRIAL_ROWS", 500)
    with pytest.warns(match="interrupted"):
        density = quick(mixture_map="auto").fit(clusters(1500))
    assert np.isfinite(density.score(clusters(100)))
    assert seen.count("trained") == 1
    assert seen[-1] == "trained"


def test_a_checkpoint_remembers_the_choice(tmp_path, monkeypatch):
    X = datasets.moons().sample(1200, random_state=0)
    first = quick(mixture_map="auto", checkpoint=tmp_path).fit(X)

    def trained(*args):
        raise AssertionError("nothing is left to train")

    monkeypatch.setattr("skjko.flow.stage.Stage.train", trained)
    again = quick(mixture_map="auto", checkpoint=tmp_path).fit(X)
    np.testing.assert_array_equal(first.score_samples(X), again.score_samples(X))


def test_a_mixture_chooses_whether_columns_are_mapped():
    # Of heavy tails a few wide parts make more than marginal maps do; of the logarithms
    # of clusters they do not.
    tails = datasets.heavy_tails(5).sample(3000, random_state=0)
    parts = np.exp(2 * datasets.correlated_mixture(3).sample(3000, random_state=0))
    for X, is_mapped in ((tails, False), (parts, True)):
        gaussian = quick(max_blocks=0).fit(X)
        assert gaussian.marginal_map_ is not None
        density = quick(mixture_map="auto", radial_map=None).fit(X)
        assert density.mixture_map_ is not None
        assert (density.marginal_map_ is not None) == is_mapped


def test_weights_move_the_mixture():
    X = np.concatenate([clusters(600), clusters(600, 1) + 20])
    weight = np.r_[np.full(600, 3.0), np.ones(600)]
    density = JKOFlowDensity(max_blocks=1, max_iter=5, random_state=0)
    density.fit(X, sample_weight=weight)
    sample = density.sample(4000, random_state=0)
    share = (sample.mean(axis=1) < 10).mean()
    assert share == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / 4000) + 0.03)
