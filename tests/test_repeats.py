"""Rows that repeat, groups, and weights with few effective samples."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import KernelDensity

from skjko import JKOFlowDensity, JKOFlowOutlierDetector, MLPField
from skjko.data import repeats, splits
from skjko.datasets import moons
from skjko.transforms import MixtureMap

EVERY = np.ones(2, dtype=bool)


def quick(**parameters):
    settings = {"field": MLPField((16, 16)), "max_blocks": 1, "max_iter": 30}
    return JKOFlowDensity(random_state=0, **{**settings, **parameters})


def normal(n, d=2, seed=0):
    return np.random.RandomState(seed).standard_normal((n, d))


def metropolis(n):
    """A chain in the plane whose states repeat; its target is standard normal."""
    rng = np.random.RandomState(1)
    x, chain = np.zeros(2), []
    for _ in range(n):
        y = x + 2.2 * rng.standard_normal(2)
        if np.log(rng.uniform()) < 0.5 * (x @ x - y @ y):
            x = y
        chain.append(x)
    return np.array(chain)


@pytest.mark.parametrize("early_stopping", [True, False])
def test_repeated_rows_are_rows_with_weights(early_stopping):
    X = normal(200)
    counts = np.random.RandomState(1).randint(1, 5, len(X))
    order = np.random.RandomState(2).permutation(counts.sum())
    brief = {"max_iter": 10, "early_stopping": early_stopping}
    one = quick(**brief).fit(X, sample_weight=counts)
    many = quick(**brief).fit(np.repeat(X, counts, 0)[order])
    np.testing.assert_array_equal(one.score_samples(X), many.score_samples(X))


def test_weights_of_copies_are_added():
    X, weight = normal(100), np.random.RandomState(1).uniform(1, 2, 100)
    one = quick(max_iter=5).fit(X, sample_weight=weight)
    split = np.r_[0.25 * weight, 0.75 * weight]
    two = quick(max_iter=5).fit(np.r_[X, X], sample_weight=split)
    np.testing.assert_allclose(one.score_samples(X), two.score_samples(X), rtol=1e-6)


def test_a_model_does_not_depend_on_the_order_of_the_rows():
    X = normal(150)
    one, other = (quick(max_iter=5).fit(rows) for rows in (X, X[::-1].copy()))
    np.testing.assert_array_equal(one.score_samples(X), other.score_samples(X))


def test_a_chain_claims_what_fresh_rows_get():
    X = metropolis(1500)
    density = JKOFlowDensity(random_state=0, max_iter=60).fit(X)
    fresh = normal(3000, seed=9)
    score = density.score(fresh)
    assert score > KernelDensity(bandwidth=0.4).fit(X).score(fresh) / len(fresh) - 0.1
    assert abs(density.validation_scores_[-1] - score) < 0.3


@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_a_table_that_was_exported_five_times(noise):
    rng = np.random.RandomState(0)
    X = np.concatenate([normal(200) + noise * normal(200, seed=i) for i in range(5)])
    density = quick().fit(rng.permutation(X))
    score = density.score(normal(3000, seed=9))
    assert score > quick().fit(normal(200)).score(normal(3000, seed=9)) - 0.2
    assert abs(density.validation_scores_[-1] - score) < 0.3


def test_ties_in_discrete_features_are_no_copies():
    counts = np.random.RandomState(0).poisson(3, (500, 2))
    X, weight, groups = repeats.distinct(
        counts.astype(float), np.ones(500), None, ~EVERY
    )
    assert len(X) == len(weight) == 500
    assert groups is None
    # Beside a continuous feature rows are equal in both, or not at all.
    mixed = np.c_[counts[:100, 0], normal(100)[:, 0]]
    one = quick(max_iter=5).fit(mixed).score_samples(mixed)
    twice = quick(max_iter=5).fit(np.r_[mixed, mixed]).score_samples(mixed)
    np.testing.assert_array_equal(one, twice)


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 6))
@settings(max_examples=30)
def test_no_weight_is_lost(seed, d, most):
    rng = np.random.RandomState(seed)
    X = rng.standard_normal((40, d))
    counts = rng.randint(1, most + 1, 40)
    many, weight, groups = repeats.distinct(
        np.repeat(X, counts, 0), np.ones(counts.sum()), None, np.ones(d, dtype=bool)
    )
    assert len(many) == 40
    assert weight.sum() == counts.sum()
    expected = {tuple(x): c for x, c in zip(X, counts, strict=True)}
    assert {tuple(x): w for x, w in zip(many, weight, strict=True)} == expected
    assert groups is None or len(np.unique(groups)) <= 40


def test_small_integers_do_not_collide():
    grid = np.stack(np.meshgrid(*[np.arange(12.0)] * 4), -1).reshape(-1, 4)
    X, _, _ = repeats.distinct(grid, np.ones(len(grid)), None, np.ones(4, dtype=bool))
    assert len(X) == len(grid)


def test_nearly_equal_rows_are_a_group():
    X = normal(400)
    near = X[:50] + 1e-7
    _, _, groups = repeats.distinct(np.r_[X, near], np.ones(450), None, EVERY)
    sizes = np.bincount(groups)
    assert np.count_nonzero(sizes == 2) == 50
    assert np.count_nonzero(sizes == 1) == 350


def test_rows_in_a_spike_are_no_copies():
    # Most rows are within a cell as wide as the others' spread would make it.
    rng = np.random.RandomState(0)
    X = np.r_[normal(200), 1e-8 * rng.standard_normal((400, 2))]
    _, _, groups = repeats.distinct(X, np.ones(600), None, EVERY)
    assert groups is None or np.bincount(groups).max() < 10


@pytest.mark.parametrize("n", [60, 3000])
def test_groups_stay_on_one_side(n):
    X, groups = normal(n), np.arange(n) // 5
    pairs = splits.train_validation_splits(
        X, np.ones(n), None, 0.1, np.random.RandomState(0), groups
    )
    number = {tuple(x): g for x, g in zip(X, groups, strict=True)}
    for (train, _), (validation, _) in pairs:
        assert len(train) + len(validation) == n
        sides = [{number[tuple(x)] for x in part} for part in (train, validation)]
        assert sides[0].isdisjoint(sides[1])
        assert len(validation) >= 0.1 * n


def test_a_feature_that_only_one_group_varies_in_leaves_selection_its_scores():
    # Where the group validates, the training samples of the split lack that direction.
    X, groups = normal(300, 3), np.arange(300)
    X[:, 2], groups[:5] = 0, 0
    X[:5, 2] = 1 + 0.1 * normal(5)[:, 0]
    model = quick(init="mixture", max_blocks=0, discrete=None).fit(X, groups=groups)
    assert np.isfinite([c.score for c in model.selection_]).all()
    assert np.isfinite(model.validation_scores_).all()
    # Two clusters, which one Gaussian takes for one.
    assert model.transforms_.find(MixtureMap).n_components_ > 1


def test_groups_of_the_user_decide():
    # Patients with many nearly equal samples each: split at random, spikes are best.
    rng = np.random.RandomState(0)
    patient = np.repeat(np.arange(40), 6)
    X = 3 * normal(40)[patient] + 0.02 * rng.standard_normal((240, 2))
    fresh = 3 * normal(2000, seed=5)
    grouped = quick().fit(X, groups=patient)
    alone = quick().fit(X)
    assert grouped.score(fresh) > alone.score(fresh) + 1
    assert grouped.validation_scores_[-1] < alone.validation_scores_[-1]


def test_groups_that_are_of_no_use():
    X = normal(40)
    with pytest.raises(ValueError, match="groups has one label, 'a', for all"):
        quick().fit(X, groups=["a"] * 40)
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[40, 3\]"):
        quick().fit(X, groups=[0, 1, 2])
    with pytest.raises(
        ValueError, match=r"groups is of no use .* early_stopping=False"
    ):
        quick(early_stopping=False).fit(X, groups=np.arange(40))
    half = np.arange(40) // 20
    with pytest.raises(ValueError, match="positive weight are in one group"):
        quick().fit(X, groups=half, sample_weight=1.0 - half)
    with pytest.raises(ValueError, match="positive weight are in one group"):
        JKOFlowOutlierDetector().fit(X, groups=half, sample_weight=1.0 - half)
    with pytest.raises(ValueError, match="X_val or groups, not both"):
        quick().fit(X, X_val=X[:5], groups=np.arange(40))


def test_few_effective_samples_are_told():
    X = 3 * normal(2000, 5)
    weight = np.exp(-2 * np.square(X - 1).sum(1) + np.square(X).sum(1) / 18)
    share = weight / weight.sum()
    effective = np.exp(-(share @ np.log(share)))
    with pytest.warns(ConvergenceWarning, match=f"is {effective:.1f} of 2000"):
        quick().fit(X, sample_weight=weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quick().fit(X[:40], sample_weight=np.linspace(1, 2, 40))
        quick().fit(X[:30])


def test_one_value_of_many_copies_leaves_the_others_their_number():
    """A third of the rows are one: it is no reason to take a Gaussian."""
    rows = moons().sample(600, random_state=0)
    rows = np.r_[rows, np.repeat(rows[:1], 300, axis=0)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        density = JKOFlowDensity(max_blocks=0, random_state=0).fit(rows)
    gaussian = JKOFlowDensity(max_blocks=0, init="gaussian", transforms=None).fit(rows)
    fresh = moons().sample(500, random_state=1)
    assert density.score(fresh) > gaussian.score(fresh) + 0.3


def test_cross_validation_goes_by_the_effective_number():
    X, rng = normal(3000), np.random.RandomState(0)
    weight = np.where(np.arange(3000) < 100, 1.0, 1e-4)
    pairs = splits.train_validation_splits(X, weight, None, 0.1, rng)
    assert len(pairs) == splits.N_FOLDS
    pairs = splits.train_validation_splits(X, np.ones(3000), None, 0.1, rng)
    assert len(pairs) == 1
