"""Radial maps against integrals, closed forms and the densities they are for."""

# SPDX-License-Identifier: BSD-3-Clause

import math

import numpy as np
import pytest
from helpers import lumps, quick
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from skjko import datasets, trials
from skjko.flow.pace import Clock
from skjko.marginals import MarginalMixtures
from skjko.radial import RadialMap, choose_radial_map

positive = st.floats(1e-3, 1e3)


def student(n, d, freedom=2.0, seed=0):
    """Rows of one shape and many sizes."""
    rng = np.random.RandomState(seed)
    size = np.sqrt(freedom / rng.chisquare(freedom, (n, 1)))
    return size * rng.standard_normal((n, d))


def log_density(radial, X):
    Y, log_det = radial.forward(X)
    return log_det + stats.norm.logpdf(Y).sum(axis=1)


@given(positive, positive, st.integers(1, 20), st.floats(-9, 9), st.integers(0, 9))
def test_the_map_inverts(radius, scale, d, magnitude, seed):
    radial = RadialMap(radius, scale)
    X = radius * 10**magnitude * np.random.RandomState(seed).standard_normal((5, d))
    np.testing.assert_allclose(radial.inverse(radial.forward(X)[0]), X, rtol=1e-9)


@pytest.mark.parametrize("d", [1, 2, 3, 10])
@pytest.mark.parametrize("radius, scale", [(0.5, 2.0), (3.0, 4.0), (1.0, 9.0)])
def test_a_normal_behind_it_is_a_density(d, radius, scale):
    radial = RadialMap(radius, scale)
    log_sphere = math.log(2) + d / 2 * math.log(math.pi) - math.lgamma(d / 2)

    def shell(log_length):
        row = np.zeros((1, d))
        row[0, -1] = math.exp(log_length)
        return math.exp(log_sphere + d * log_length + log_density(radial, row)[0])

    total, _ = integrate.quad(shell, -30, 60, limit=400, points=[-1, 0, 1, 3, 6])
    assert total == pytest.approx(1, abs=1e-6)


def test_directions_are_kept():
    X = student(50, 3)
    Y, _ = RadialMap(0.7, 2.0).forward(X)
    lengths = np.linalg.norm(X, axis=1)
    expected = 2.0 * np.sqrt(np.log1p(lengths**2 / 0.7**2))
    np.testing.assert_allclose(Y, X / lengths[:, None] * expected[:, None], rtol=1e-12)


def test_every_row_is_finite():
    radial = RadialMap(1.0, 2.0)
    X = np.array([[0.0, 0], [1e-300, 0], [1e-160, 1e-160], [3, -1e160], [1e300, 1e300]])
    Y, log_det = radial.forward(X)
    assert np.isfinite(Y).all()
    assert np.isfinite(log_det).all()
    # At the centre the map multiplies by scale / radius.
    np.testing.assert_allclose(log_det[:3], 2 * math.log(2.0))
    assert (np.diff(log_det[2:]) < 0).all()
    assert (radial.inverse(np.zeros((1, 2))) == 0).all()
    far = radial.inverse(np.array([[1e300, 0.0], [50.0, 60.0]]))
    assert np.isfinite(far).all()
    assert (np.abs(far).max(axis=1) > 1e290).all()


@pytest.mark.parametrize("d", [2, 6])
def test_it_comes_near_to_a_student_t(d):
    X, X_test = student(4000, d, 3.0), student(4000, d, 3.0, seed=1)
    radial = choose_radial_map(X, np.ones(4000))
    truth = stats.multivariate_t(np.zeros(d), np.eye(d), 3.0).logpdf(X_test)
    normal = stats.multivariate_normal(np.zeros(d), np.cov(X.T)).logpdf(X_test)
    missing = (truth - log_density(radial, X_test)).mean()
    assert 0 < missing < 0.1 * (truth - normal).mean()


def test_the_numbers_are_the_most_likely_ones():
    X = student(3000, 4)
    radial = choose_radial_map(X, np.ones(3000))
    best = log_density(radial, X).mean()
    for radius, scale in ((1.1, 1), (0.9, 1), (1, 1.02), (1, 0.98), (1.05, 1.01)):
        other = RadialMap(radius * radial.radius, scale * radial.scale)
        assert log_density(other, X).mean() < best


@pytest.mark.parametrize(
    "X",
    [
        pytest.param(student(4000, 5, 1e9), id="normal"),
        pytest.param(np.random.RandomState(0).uniform(-1, 1, (4000, 5)), id="uniform"),
        pytest.param(student(90, 5), id="few rows"),
        pytest.param(student(4000, 1), id="one column"),
        pytest.param(np.zeros((200, 2)), id="one point"),
    ],
)
def test_no_map_without_need(X):
    assert choose_radial_map(X, np.ones(len(X))) is None


@pytest.mark.parametrize("unit", [1e-3, 1e2])
def test_units_do_not_matter(unit):
    X, ones = student(500, 3), np.ones(500)
    a, b = choose_radial_map(X, ones), choose_radial_map(unit * X, ones)
    assert b.radius == pytest.approx(unit * a.radius, rel=1e-4)
    assert b.scale == pytest.approx(a.scale, rel=1e-4)


def test_weights_count_as_repetitions():
    X = student(200, 3)
    times = np.random.RandomState(0).randint(1, 5, 200)
    weighted = choose_radial_map(X, times.astype(float))
    repeated = choose_radial_map(np.repeat(X, times, axis=0), np.ones(times.sum()))
    # A quantile bounds the radius, and it knows no weights.
    assert weighted.radius == pytest.approx(repeated.radius, rel=1e-4)
    assert weighted.scale == pytest.approx(repeated.scale, rel=1e-4)


# ------------------------------------------------------------------- in a density


@pytest.mark.parametrize("n, d", [(400, 6), (1500, 15)])
def test_a_density_starts_behind_it(n, d):
    mixing = np.random.RandomState(2).standard_normal((d, d))
    X, X_test = student(n, d) @ mixing, student(2000, d, seed=1) @ mixing
    density = quick(mixture_map="auto").fit(X)
    assert density.radial_map_ is not None
    plain = quick(mixture_map="auto", radial_map=None).fit(X)
    assert plain.radial_map_ is None
    gain = density.score_samples(X_test) - plain.score_samples(X_test)
    # Without it, single rows far out are hundreds of nats too low.
    gain = np.clip(gain, -5, 5)
    assert gain.mean() > 2 * gain.std() / math.sqrt(len(gain))
    truth = stats.multivariate_t(np.zeros(d), mixing.T @ mixing, 2.0).logpdf(X_test)
    assert 0 < (truth - density.score_samples(X_test)).mean() < 0.2
    # There and back, and what it draws is as far out as what it was fitted to.
    Z = density.transform(X_test)
    np.testing.assert_allclose(density.inverse_transform(Z), X_test, rtol=1e-6)
    drawn = density.sample(2000, random_state=0) @ np.linalg.inv(mixing)
    lengths = [np.linalg.norm(rows, axis=1) for rows in (drawn, student(2000, d, 2, 3))]
    assert stats.ks_2samp(*lengths).pvalue > 0.001


def test_it_draws_in_tails_in_place_of_marginal_maps():
    truth = datasets.heavy_tails(5)
    X, X_test = (truth.sample(3000, random_state=i) for i in (0, 1))
    assert quick(max_blocks=0).fit(X).marginal_map_ is not None
    density = quick(mixture_map="auto").fit(X)
    assert density.radial_map_ is not None
    assert density.marginal_map_ is None
    plain = quick(mixture_map="auto", radial_map=None).fit(X)
    gain = density.score_samples(X_test) - plain.score_samples(X_test)
    assert gain.mean() > 2 * gain.std() / math.sqrt(len(gain))


@pytest.mark.parametrize(
    "seconds, are_grown, parameters, n_trials",
    # Ten seconds each, and no more of them after a quarter of all.
    [
        (1e-3, False, {}, 1),
        (30.0, False, {}, 1),
        (60.0, False, {}, 2),
        (100.0, False, {}, 3),
        (125.0, False, {}, 3),
        (130.0, False, {}, 4),
        (1000.0, False, {}, 4),
        (None, False, {}, 4),
        # Or after a half, where growth needs no time.
        (1e-3, True, {}, 1),
        (20.0, True, {}, 1),
        (30.0, True, {}, 2),
        (60.0, True, {}, 3),
        (70.0, True, {}, 4),
        # What goes on has to come to the same.
        (60.0, False, {"checkpoint": "fit"}, 4),
        (60.0, False, {"folds": True}, 4),
    ],
)
def test_trials_stop_in_time(
    monkeypatch, tmp_path, seconds, are_grown, parameters, n_trials
):
    now, counted = [0.0], []
    little, compare = trials.Trials._little, trials.Trials.compare

    def slow(self, *args):
        now[0] += 10.0
        return little(self, *args)._replace(is_grown=are_grown)

    def seen(self, *args):
        # What comes before them takes a second.
        now[0] += 1.0
        before, chosen = now[0], compare(self, *args)
        counted.append(round((now[0] - before) / 10))
        assert self.n_made == counted[-1]
        return chosen

    monkeypatch.setattr(Clock, "__call__", lambda self: now[0])
    monkeypatch.setattr(trials.Trials, "_little", slow)
    monkeypatch.setattr(trials.Trials, "compare", seen)
    monkeypatch.chdir(tmp_path)
    parameters = dict(parameters)
    held_out = None if parameters.pop("folds", False) else lumps(3)
    density = quick(mixture_map="auto", time_limit=seconds, **parameters)
    density.fit(lumps(), X_val=held_out)
    assert counted == [n_trials]


def test_it_is_tried_behind_no_marginal_maps_too(monkeypatch):
    tried, radial_trial = [], trials.Trials._radial

    def seen(self, maps, *args):
        tried.append(maps.marginal)
        return radial_trial(self, maps, *args)

    monkeypatch.setattr(trials.Trials, "_radial", seen)
    X = lumps()
    density = quick(mixture_map="auto").fit(X)
    assert isinstance(density.marginal_map_, MarginalMixtures)
    assert len(tried) == len(set(tried)) == 3
    assert None in tried


@pytest.mark.parametrize(
    "gains, is_clear",
    [
        pytest.param([0.1, 0.3], True, id="all gain"),
        pytest.param([0.9, -0.7], False, id="within the error"),
        pytest.param([-0.1, -0.3], False, id="all lose"),
        # One row of a hundred far out.
        pytest.param([0.1, 0.3] * 49 + [0.2, -500.0], True, id="all gain but one"),
        pytest.param([-0.1, -0.3] * 49 + [-0.2, 500.0], False, id="only one gains"),
    ],
)
def test_a_clear_gain(gains, is_clear):
    losses = np.zeros(len(gains))
    one, other = (
        trials.Trial(trials.Maps(None), [], [], True, True, loss, np.ones(len(gains)))
        for loss in (losses - gains, losses)
    )
    assert one.is_clearly_better_than(other) == is_clear


def test_rows_of_one_size_have_none():
    X = np.random.RandomState(0).standard_normal((1200, 3))
    X[:600] += 4
    density = quick(mixture_map="auto").fit(X)
    assert density.mixture_map_ is not None
    assert density.radial_map_ is None


def test_not_without_mixtures_to_try_it_with():
    X = student(400, 3)
    for parameters in ({}, {"mixture_map": "auto", "early_stopping": False}):
        assert quick(**parameters).fit(X).radial_map_ is None


def test_flat_columns_pass_by_it():
    X = student(1200, 6)
    X = np.column_stack([X, np.full(1200, 7.0), X[:, 0]])
    density = quick(mixture_map="auto").fit(X)
    assert density.radial_map_ is not None
    assert np.isfinite(density.score_samples(X)).all()
    Z = density.transform(X)
    np.testing.assert_allclose(density.inverse_transform(Z), X, rtol=1e-6)


@pytest.mark.parametrize("n", [400, 1500])
def test_a_longer_fit_keeps_it(n):
    X = student(n, 6)
    parameters = {"mixture_map": "auto", "learning_rate_init": 0.01}
    once = quick(**parameters, max_blocks=1, warm_start=True).fit(X)
    before, scores = once.radial_map_, once.validation_scores_
    once.set_params(max_blocks=3).fit(X)
    assert once.radial_map_.radius == before.radius
    # The rows that decide are where they were.
    assert once.validation_scores_[0] == pytest.approx(scores[0], abs=1e-6)
