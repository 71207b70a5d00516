"""What stands in front of the flow: every start, its selection, and its parts."""

# SPDX-License-Identifier: BSD-3-Clause

import engine
import numpy as np
import pytest
import torch
from helpers import quick
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.mixture import GaussianMixture

from skjko import JKOFlowDensity, MLPField, metrics
from skjko.candidates import Candidate
from skjko.datasets import correlated_mixture, heavy_tails, moons
from skjko.flow.run import Clock, Run, TimeLimit
from skjko.flow.training_config import TrainingConfig
from skjko.transforms import (
    Asinh,
    Chain,
    MarginalMixtures,
    MixtureMap,
    Radial,
    Transform,
    Whitening,
)


def kinds(density):
    return [type(step) for step in density.transforms_]


@pytest.fixture(scope="module")
def clusters():
    truth = correlated_mixture(4, random_state=1)
    return truth.sample(1500, random_state=0), truth.sample(1500, random_state=1)


# -------------------------------------------------------------------------- starts


def test_a_gaussian_without_blocks_is_a_gaussian():
    X = np.random.RandomState(0).standard_normal((400, 3)) @ np.diag([1.0, 2, 3])
    density = quick(init="gaussian", transforms=None, max_blocks=0).fit(X)
    assert kinds(density) == [Whitening]
    assert density.n_blocks_ == 0
    truth = stats.multivariate_normal(X.mean(axis=0), np.cov(X.T, bias=True))
    gap = density.score_samples(X) - truth.logpdf(X)
    assert abs(gap.mean()) < 0.01
    assert np.abs(gap).mean() < 0.1


def test_no_blocks_behind_a_mixture_are_the_mixture(clusters):
    X, T = clusters
    density = quick(init="mixture", transforms=None, max_blocks=0).fit(X)
    assert kinds(density) == [Whitening, MixtureMap]
    whitening, mixture = density.transforms_
    Z, log_det = whitening.forward(T)
    assert_allclose(density.score_samples(T), mixture.log_prob(Z) + log_det)
    assert density.selection_[0].start == "mixture"
    drawn = density.sample(1000, random_state=0)
    assert metrics.mmd_test(drawn, T, random_state=0).p_value > 0.01


@pytest.mark.parametrize("n", [300, 1500])
def test_the_better_start_is_chosen(clusters, n):
    X, T = clusters[0][:n], clusters[1]
    settings = {"field": MLPField((8, 8)), "max_iter": 10, "max_blocks": 1}
    scores = {}
    for init in ("auto", "gaussian", "mixture"):
        density = JKOFlowDensity(init=init, random_state=0, **settings).fit(X)
        scores[init] = density.score_samples(T)
        assert (density.transforms_.find(MixtureMap) is None) == (init == "gaussian")
    gap = scores["auto"] - scores["mixture"]
    assert gap.mean() > -2 * gap.std() / np.sqrt(len(gap)) - 1e-9
    assert scores["auto"].mean() > scores["gaussian"].mean() + 0.1


@pytest.mark.parametrize("n", [400, 1500])
def test_a_normal_distribution_has_neither_mixture_nor_blocks(n):
    X = np.random.RandomState(0).standard_normal((n, 3))
    density = quick(init="auto", transforms="auto").fit(X)
    assert kinds(density) == [Whitening]
    assert density.n_blocks_ == 0
    assert density.base_ is None
    assert "Gaussian, no flow blocks" in density.summary()


@pytest.mark.parametrize("init", ["gaussian", "mixture", "auto"])
def test_samples_resemble_the_data_behind_every_start(init):
    X, T = (moons().sample(2000, random_state=i) for i in (0, 1))
    settings = {"field": MLPField((32, 32)), "max_blocks": 1, "max_iter": 200}
    density = JKOFlowDensity(init=init, random_state=0, **settings).fit(X)
    drawn = density.sample(1000, random_state=0)
    assert metrics.mmd_test(drawn, T[:1000], random_state=0).p_value > 0.01
    far = density.sample(1000, random_state=0) * [1.0, 1.3]
    assert metrics.mmd_test(far, T[:1000], random_state=0).p_value <= 0.01


# ---------------------------------------------------------------------- transforms


class Cube(Transform):
    """y = x^3, as a transform of a user's own."""

    def fit(self, X, sample_weight=None):
        self.n_features_in_ = X.shape[1]
        return self

    def forward(self, X):
        return X**3, np.log(3 * X**2).sum(axis=1)

    def inverse(self, Y):
        return np.cbrt(Y)


def test_given_transforms_stand_in_front_of_the_whitening():
    X = np.cbrt(np.random.RandomState(0).standard_normal((500, 2)))
    density = quick(transforms=[Cube()], max_blocks=0).fit(X)
    assert kinds(density) == [Cube, Whitening]
    plain = quick(transforms=None, max_blocks=0).fit(X)
    assert density.score(X) > plain.score(X) + 0.1
    truth = stats.norm.logpdf(X**3).sum(axis=1) + np.log(3 * X**2).sum(axis=1)
    assert abs((truth - density.score_samples(X)).mean()) < 0.05


def test_a_whitening_among_the_transforms_is_the_last_one():
    X = np.random.RandomState(0).standard_normal((500, 2))
    density = quick(transforms=[Whitening("scale")], max_blocks=0).fit(X)
    assert kinds(density) == [Whitening]
    assert density.transforms_.steps[0].method == "scale"


@pytest.mark.parametrize("transforms", ["none", Whitening(), [1], [Whitening]])
def test_bad_transforms(transforms):
    X = np.random.RandomState(0).standard_normal((50, 2))
    with pytest.raises(ValueError, match="'transforms' parameter"):
        quick(transforms=transforms).fit(X)


def test_skewed_features_are_mapped_and_normal_ones_are_not():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.lognormal(size=(2000, 1)), rng.normal(size=(2000, 2))])
    density = quick(init="auto", transforms="auto", max_blocks=0).fit(X)
    first = next(iter(density.transforms_))
    assert isinstance(first, (Asinh, MarginalMixtures))
    assert_array_equal(first.columns_, [0])
    assert type(first).__name__ in density.summary()
    plain = quick(init="gaussian", transforms=None, max_blocks=0).fit(X)
    assert density.score(X) > plain.score(X) + 0.1


def test_long_samples_are_drawn_in():
    truth = heavy_tails(5)
    X, T = (truth.sample(3000, random_state=i) for i in (2, 3))
    density = quick(init="auto", transforms="auto").fit(X)
    assert density.transforms_.find(Radial) is not None
    plain = quick(init="auto", transforms=None).fit(X)
    gain = density.score_samples(T) - plain.score_samples(T)
    assert gain.mean() > 2 * gain.std() / np.sqrt(len(gain))


def test_degenerate_directions_pass_by_mixture_and_flow(clusters):
    X = clusters[0]
    X = np.column_stack([X, X[:, 0] + X[:, 1], np.full(len(X), 3.0)])
    for init in ("gaussian", "mixture"):
        density = quick(init=init).fit(X)
        assert density.transforms_.n_degenerate_ == 2
        assert np.isfinite(density.score_samples(X)).all()
        drawn = density.sample(200, random_state=0)
        assert_allclose(drawn[:, 4], drawn[:, 0] + drawn[:, 1], atol=1e-6)
        assert_array_equal(drawn[:, 5], 3.0)


# ----------------------------------------------------------- what selection promises


@pytest.mark.parametrize("n", [400, 1500])
def test_a_chosen_candidate_fitted_alone_is_the_same_model(n):
    """The selection leaves no trace in the model but the choice."""
    X = moons().sample(n, random_state=0)
    density = quick(init="auto", transforms="auto", max_blocks=1).fit(X)
    chosen = next(one for one in density.selection_ if one.chosen)
    maps = {"none": None, "Asinh": [Asinh()], "MarginalMixtures": [MarginalMixtures()]}
    alone = quick(init=chosen.start, max_blocks=1, transforms=maps[chosen.transforms])
    alone.fit(X)
    if density.base_ is None:
        assert_allclose(alone.score_samples(X), density.score_samples(X), atol=1e-6)


@pytest.mark.parametrize(
    "load", [load_iris, load_wine, load_diabetes, load_breast_cancer]
)
def test_no_worse_than_a_mixture_of_scikit_learn(load):
    X = load().data
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    rng = np.random.RandomState(0)
    X = X + 0.05 * rng.standard_normal(X.shape)
    order = rng.permutation(len(X))
    test, train = np.split(X[order], [len(X) // 4])
    settings = {"field": MLPField((32, 32)), "max_blocks": 1, "max_iter": 40}
    density = JKOFlowDensity(random_state=0, **settings).fit(train)
    candidates = [
        GaussianMixture(k, reg_covar=r, random_state=0).fit(train)
        for k in (1, 2, 4)
        for r in (1e-3, 1e-1)
    ]
    # Theirs is chosen on the test samples themselves.
    best = max(candidates, key=lambda m: m.score(test))
    gap = density.score_samples(test) - best.score_samples(test)
    assert gap.mean() > -2 * gap.std() / np.sqrt(len(gap)) - 0.05 * X.shape[1]


def test_scores_do_not_depend_on_the_order_of_features(clusters):
    X, T = clusters
    order = [2, 0, 3, 1]
    settings = {"init": "auto", "transforms": "auto", "max_blocks": 1}
    one = quick(**settings).fit(X)
    other = quick(**settings).fit(X[:, order])
    gap = one.score_samples(T) - other.score_samples(T[:, order])
    assert abs(gap.mean()) < 0.05


def test_what_was_selected_is_told(clusters):
    density = quick(init="auto", max_blocks=1).fit(clusters[0])
    assert sum(one.chosen for one in density.selection_) == 1
    best = max(density.selection_, key=lambda one: one.score)
    assert best.chosen
    assert best.score == density.validation_scores_[-1]
    text = density.summary()
    assert "mixture of" in text
    assert "validation preferred" in text
    assert text.splitlines()[0] in density._repr_html_()


# ----------------------------------------------------------- flows that may catch up


@pytest.fixture(scope="module")
def halfway():
    """A candidate after 60 iterations of its flow, and what the last 40 gained."""
    field = MLPField((16, 16), "silu", 1.0).build
    X, T = (torch.tensor(moons().sample(500, random_state=s)).float() for s in (0, 1))
    candidate = Candidate("none", [Chain([])], [engine.fold(X, T)], len(X))
    config = TrainingConfig(max_iter=100, batch_size=100, learning_rate=0.01)
    candidate.start_flow(field, config, Run(0))
    candidate.pretrain(1.0, 20)
    before = candidate.score
    candidate.pretrain(1.0, 40)
    assert candidate.score > before
    return candidate, candidate.score - before


def test_a_flow_goes_on_while_its_latest_gain_could_do(halfway):
    candidate, gain = halfway
    # 100 more iterations after 60, at the gain in their logarithm from 20 to 60.
    reach = candidate.score + gain * np.log(160 / 60) / np.log(60 / 20)
    assert candidate.may_reach(reach - 1e-6, Run(0), 1.0)
    assert not candidate.may_reach(reach + 1e-6, Run(0), 1.0)


def test_a_flow_without_time_does_not_go_on(halfway):
    candidate, _ = halfway
    clock = Clock()
    run = Run(0, [TimeLimit(0.0, clock)], clock)
    assert not candidate.may_reach(candidate.score - 1.0, run, 1.0)
