"""Gaussian mixtures: log-density, expectation-maximization, growth, and their map."""

# SPDX-License-Identifier: BSD-3-Clause

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.special import logsumexp
from scipy.stats import kstest, multivariate_normal
from sklearn.mixture import GaussianMixture

from skjko import datasets, metrics
from skjko.flow.gaussian_mixture import Mixture, fit_em, fit_gaussian, split
from skjko.flow.mixture_growth import (
    STRONG_PRIOR,
    WEAK_PRIOR,
    Growth,
    Operations,
    Part,
    choose,
)
from skjko.transforms import MixtureMap


def some_mixture(n_components, d, seed, apart=3.0):
    rng = np.random.RandomState(seed)
    roots = rng.standard_normal((n_components, d, d + 2))
    covariances = roots @ roots.transpose(0, 2, 1) / (d + 2)
    weights = rng.dirichlet(np.ones(n_components))
    means = apart * rng.standard_normal((n_components, d))
    return Mixture(*map(torch.tensor, (weights, means, covariances)))


def drawn_from(mixture, n, seed):
    rng = np.random.RandomState(seed)
    weights, means, covariances = (value.numpy() for value in mixture)
    which = rng.choice(len(weights), n, p=weights)
    factors = np.linalg.cholesky(covariances)[which]
    noise = rng.standard_normal((n, means.shape[1], 1))
    return means[which] + (factors @ noise)[:, :, 0]


def true_log_prob(mixture, X):
    parts = [
        np.log(w) + multivariate_normal(m, c).logpdf(X)
        for w, m, c in zip(*(value.numpy() for value in mixture), strict=True)
    ]
    return logsumexp(np.reshape(parts, (len(parts), len(X))), axis=0)


def with_wide(log_prob, X):
    """The log-density with the component that every map has."""
    normal = -0.5 * ((X**2).sum(axis=1) + X.shape[1] * math.log(2 * math.pi))
    return np.logaddexp(math.log(0.999) + log_prob, math.log(0.001) + normal)


def part(X, weight=None):
    weight = np.ones(len(X)) if weight is None else weight
    return Part(torch.tensor(X), torch.tensor(weight, dtype=torch.float64))


SHAPES = st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**16)

# --------------------------------------------------------------------- log-density


@given(*SHAPES)
@settings(max_examples=30)
def test_log_prob_is_that_of_scipy(n_components, d, seed):
    one = some_mixture(n_components, d, seed)
    X = np.concatenate([drawn_from(one, 50, 1), 20 * np.eye(d)])
    found = one.log_prob(torch.tensor(X)).numpy()
    assert_allclose(found, true_log_prob(one, X), rtol=1e-9, atol=1e-7)


def test_a_batch_is_as_if_each_mixture_were_alone():
    ones = [some_mixture(3, 2, seed) for seed in range(4)]
    batch = Mixture(*(torch.stack(values) for values in zip(*ones, strict=True)))
    x = torch.randn(4, 3000, 2, dtype=torch.float64)
    alone = torch.stack([m.log_prob(rows) for m, rows in zip(ones, x, strict=True)])
    torch.testing.assert_close(batch.log_prob(x), alone)
    for i, one in enumerate(ones):
        for a, b in zip(batch.select(i), one, strict=True):
            assert torch.equal(a, b)


# ------------------------------------------------------------------------- the map


@given(*SHAPES)
@settings(max_examples=30)
def test_a_normal_behind_the_map_is_the_mixture(n_components, d, seed):
    one = some_mixture(n_components, d, seed)
    mapped = MixtureMap.of(one)
    X = np.concatenate([drawn_from(one, 50, 1), 20 * np.eye(d)])
    Z, log_det = mapped.forward(X)
    normal = -0.5 * ((Z**2).sum(axis=1) + d * math.log(2 * math.pi))
    expected = with_wide(true_log_prob(one, X), X)
    assert_allclose(log_det + normal, expected, rtol=1e-9, atol=1e-7)
    assert_allclose(mapped.log_prob(X), expected, rtol=1e-9, atol=1e-7)


@given(*SHAPES)
@settings(max_examples=30)
def test_the_map_and_its_inverse_undo_each_other(n_components, d, seed):
    one = some_mixture(n_components, d, seed)
    mapped = MixtureMap.of(one)
    Z = 2 * np.random.RandomState(seed).standard_normal((50, d))
    assert_allclose(mapped.forward(mapped.inverse(Z))[0], Z, rtol=1e-11, atol=1e-11)
    X = drawn_from(one, 50, 1)
    assert_allclose(mapped.inverse(mapped.forward(X)[0]), X, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("d", [1, 3])
def test_a_feature_of_the_image_depends_on_those_before_it(d):
    mapped = MixtureMap.of(some_mixture(4, d, 0))
    X, step = drawn_from(some_mixture(4, d, 0), 20, 1), 1e-6
    _, log_det = mapped.forward(X)
    columns = [
        (mapped.forward(X + step * e)[0] - mapped.forward(X - step * e)[0]) / (2 * step)
        for e in np.eye(d)
    ]
    jacobians = np.stack(columns, axis=2)
    assert (np.triu(jacobians, 1) == 0).all()
    assert_allclose(np.linalg.slogdet(jacobians)[1], log_det, atol=1e-6)


def test_samples_are_from_the_mixture():
    mapped = MixtureMap.of(some_mixture(5, 3, 2))
    X = mapped.sample(5000, np.random.RandomState(0))
    for z in mapped.forward(X)[0].T:
        assert kstest(z, "norm").pvalue > 0.001
    # In no order: the first half is as good a sample as the second.
    assert kstest(X[:2500, 0], X[2500:, 0]).pvalue > 0.001


def test_far_samples_stay_where_they_are():
    mapped = MixtureMap.of(some_mixture(4, 2, 0))
    sizes = np.array([1e2, 1e5, 1e20, 1e70, 1e80, 1e300])
    X = np.concatenate([np.outer(sign * sizes, [1, -0.5]) for sign in (1, -1)])
    Z, log_det = mapped.forward(X)
    assert np.isfinite(Z).all()
    assert np.isfinite(log_det).all()
    assert_allclose(mapped.inverse(Z), X, rtol=1e-9)
    alone, increment = mapped.forward(X[-1:])
    assert_allclose(alone, X[-1:])
    assert increment.tolist() == [0]


def test_gaps_are_no_wider_than_the_wide_component_allows():
    means = torch.tensor([[-40.0], [40.0]], dtype=torch.float64)
    weights = torch.full((2,), 0.5, dtype=torch.float64)
    narrow = torch.full((2, 1, 1), 1e-2, dtype=torch.float64)
    mapped = MixtureMap.of(Mixture(weights, means, narrow))
    X = np.linspace(-5, 5, 21)[:, np.newaxis]
    Z, _ = mapped.forward(X)
    assert (np.diff(Z[:, 0]) > 0).all()
    assert_allclose(mapped.inverse(Z), X, atol=1e-9)
    normal = -0.5 * (X[:, 0] ** 2 + math.log(2 * math.pi))
    assert_allclose(mapped.log_prob(X), math.log(1e-3) + normal, atol=1e-9)


@pytest.mark.parametrize("apart", [0.0, 3.0, 300.0])
def test_quantiles_of_the_first_feature_are_exact(apart):
    mapped = MixtureMap.of(some_mixture(6, 1, seed=3, apart=apart))
    z = np.arange(-9, 9 + 1 / 128, 1 / 128)[:, np.newaxis]
    x = mapped.inverse(z)
    assert (np.diff(x[:, 0]) > 0).all()
    back, log_det = mapped.forward(x)
    # In a gap scores fall by less than a number's rounding moves them.
    rounding = np.spacing(np.abs(x[:, 0])) * np.exp(log_det)
    assert (np.abs(back - z)[:, 0] <= 1e-13 * np.abs(z[:, 0]).clip(1) + rounding).all()


# --------------------------------------------------------- expectation-maximization


def moments(one):
    weights, means, covariances = (value.numpy() for value in one)
    mean = weights @ means
    centred = means - mean
    within = np.einsum("k,kij->ij", weights, covariances)
    return mean, within + (weights * centred.T) @ centred


def test_one_gaussian_is_that_of_numpy():
    X = np.random.RandomState(0).standard_normal((200, 3)) @ np.diag([1.0, 2, 3])
    weight = np.random.RandomState(1).randint(1, 4, 200)
    one = fit_gaussian(*part(X, weight))
    assert_allclose(one.means[0], np.average(X, axis=0, weights=weight))
    expected = np.cov(X.T, bias=True, fweights=weight)
    assert_allclose(one.covariances[0], expected, atol=1e-5)


def test_a_split_keeps_mean_and_covariance():
    one = some_mixture(3, 4, 0)
    halves, prior = split(one)
    assert len(halves.weights) == 6
    for before, after in zip(moments(one), moments(halves), strict=True):
        assert_allclose(after, before, atol=1e-12)
    # The prior is narrower than the whole, but no narrower than a half of it.
    parents = one.covariances.repeat(2, 1, 1)
    assert torch.linalg.eigvalsh(parents - prior).min() > -1e-12
    assert torch.linalg.eigvalsh(prior - halves.covariances).min() > -1e-12


def test_iterations_never_lose_what_they_maximize():
    # The likelihood times the inverse Wishart densities of the covariances.
    one = some_mixture(3, 2, 0)
    X, weight = drawn_from(one, 200, 1), np.random.RandomState(2).rand(200) + 0.1
    here, prior = split(split(one)[0])
    rows, before = WEAK_PRIOR * (2 + 2), -math.inf
    for _ in range(30):
        precisions = torch.linalg.inv(here.covariances)
        penalty = rows * (
            torch.logdet(here.covariances)
            + torch.einsum("kij,kji->k", precisions, prior)
        )
        samples = part(X, weight)
        value = samples.weight @ here.log_prob(samples.x) - 0.5 * penalty.sum()
        assert value > before - 1e-6 * abs(value)
        before = value
        here = fit_em(*samples, here, prior, WEAK_PRIOR, 1)


def test_without_a_prior_it_comes_to_the_same_as_scikit_learn():
    one = some_mixture(2, 2, 0, apart=4.0)
    X = drawn_from(one, 2000, 1)
    theirs = GaussianMixture(2, tol=1e-6, max_iter=500, random_state=0).fit(X)
    halves, prior = split(fit_gaussian(*part(X)))
    ours = halves
    for _ in range(20):
        ours = fit_em(*part(X), ours, prior, 0.0, 50)
    assert float(ours.log_prob(torch.tensor(X)).mean()) == pytest.approx(
        theirs.score(X), abs=1e-3
    )


def test_components_without_samples_are_removed():
    X = np.random.RandomState(0).standard_normal((300, 2))
    far = Mixture(
        torch.tensor([0.5, 0.5]).double(),
        torch.tensor([[0.0, 0], [1e3, 1e3]]).double(),
        torch.eye(2).double().expand(2, -1, -1),
    )
    found = fit_em(*part(X), far, far.covariances, WEAK_PRIOR, 5)
    assert found.n_components == 1
    assert len(found.select().weights) == 1
    assert torch.isfinite(found.log_prob(torch.tensor(X))).all()


# -------------------------------------------------------------------------- growth


def grown(X, weight=None, prior=WEAK_PRIOR, operations=math.inf):
    """A growth that a quarter of the samples decides on."""
    weight = np.ones(len(X)) if weight is None else weight
    n = len(X) // 4
    growth = Growth([(part(X[n:], weight[n:]), part(X[:n], weight[:n]))], prior)
    growth.advance(Operations(operations))
    return growth


def test_one_gaussian_stays_one():
    X = np.random.RandomState(0).standard_normal((2000, 3))
    growth = grown(X)
    assert growth.finished
    assert growth.n_components == 1
    assert_allclose(growth.best().means[0], X[500:].mean(axis=0), atol=1e-12)


def test_as_many_components_as_there_are_clusters():
    truth = datasets.eight_gaussians()
    X, T = truth.sample(4000, random_state=0), truth.sample(4000, random_state=1)
    growth, scale = grown(X / X.std()), X.std()
    assert growth.n_components == 8
    log_prob = growth.best().log_prob(torch.tensor(T / scale)).numpy()
    scores = log_prob - 2 * math.log(scale)
    divergence, error = metrics.kl_divergence(truth.score_samples(T), scores)
    # 47 numbers of 3000 samples: half of one in 3000 nats each.
    assert divergence - 3 * error < 0.012


@pytest.mark.parametrize("name, seed", [("rings", 0), ("rings", 3), ("rose", 1)])
def test_growth_passes_by_levels_that_gain_nothing(name, seed):
    # Halves of them, or quarters, are no better than the whole, by 250 samples.
    X = getattr(datasets, name)().sample(1000, random_state=seed)
    Z = (X - X.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(X.T))).T
    assert grown(Z).n_components > 16


def test_growth_goes_on_from_where_it_is():
    X = datasets.rings().sample(3000, random_state=0)
    X /= X.std()
    whole = grown(X)
    halves = grown(X, operations=3e8)
    assert not halves.finished
    n = len(X) // 4
    folds = [(part(X[n:]), part(X[:n]))]
    again = Growth(folds, WEAK_PRIOR, halves.get_state())
    again.advance(Operations())
    assert again.finished
    assert again.n_components == whole.n_components
    for a, b in zip(again.best(), whole.best(), strict=True):
        assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("operations", [0.0, 2e8, 1e9])
def test_growth_ends_with_its_operations(operations):
    class Counted(Operations):
        done = 0.0

        def take(self, n):
            taken = super().take(n)
            self.done += n if taken else 0.0
            return taken

    X = datasets.rings().sample(3000, random_state=0)
    counted = Counted(operations)
    growth = Growth([(part(X[750:]), part(X[:750]))])
    growth.advance(counted)
    assert counted.done <= operations
    assert not growth.finished
    assert (counted.done > 0) == (operations > 0)


def test_tables_of_a_batch_are_as_if_alone():
    # A Gaussian, clusters, and a spike with a few samples around it.
    rng, n = np.random.RandomState(0), 1500
    spike = np.where(rng.rand(n, 2) < 0.9, 1e-3, 1.0) * rng.standard_normal((n, 2))
    tables = np.stack(
        [
            rng.standard_normal((n, 2)),
            datasets.eight_gaussians().sample(n, random_state=0) / 3,
            spike / spike.std(axis=0),
        ]
    )
    weight = rng.rand(n) + 0.5

    def growth(x):
        folds = [
            (
                Part(torch.tensor(x[..., 500:, :]), torch.tensor(weight[500:])),
                Part(torch.tensor(x[..., :500, :]), torch.tensor(weight[:500])),
            )
        ]
        one = Growth(folds)
        one.advance(Operations())
        return one

    together = growth(tables)
    for i, table in enumerate(tables):
        alone = growth(table)
        assert int(together.levels[i]) == int(alone.levels)
        for a, b in zip(together.best()[i], alone.best(), strict=True):
            assert_allclose(a, b, rtol=1e-6, atol=1e-9)


def test_weights_are_repetitions():
    X = drawn_from(some_mixture(3, 2, 0), 400, 1)
    counts = np.random.RandomState(2).randint(1, 4, 400)
    validation = part(drawn_from(some_mixture(3, 2, 0), 400, 3))
    weighted = Growth([(part(X, counts), validation)])
    repeated = Growth([(part(np.repeat(X, counts, axis=0)), validation)])
    for growth in (weighted, repeated):
        growth.advance(Operations())
    assert weighted.n_components > 1
    assert_allclose(weighted.scores, repeated.scores, atol=1e-6)


def test_a_strong_prior_keeps_the_shape_of_the_parent():
    X = np.random.RandomState(0).standard_normal((40, 3))
    halves, prior = split(fit_gaussian(*part(X)))
    gaps = [
        (fit_em(*part(X), halves, prior, strength, 15).covariances - prior).norm()
        for strength in (WEAK_PRIOR, STRONG_PRIOR, 1e6)
    ]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-4


def test_the_growth_with_the_best_score_is_chosen():
    X = datasets.eight_gaussians().sample(200, random_state=0)
    ones = [grown(X / X.std(), prior=p) for p in (WEAK_PRIOR, STRONG_PRIOR)]
    assert choose(ones).scores == max(one.scores for one in ones)
