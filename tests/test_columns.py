"""Bounds, asinh maps and discrete grids: alone, and as part of a density."""

# SPDX-License-Identifier: BSD-3-Clause

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from helpers import quick
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, johnsonsu, lognorm, norm, weibull_max

from skjko import JKOFlowOutlierDetector, JKOSchedule
from skjko.datasets import fractal_tree, moons
from skjko.transforms import Asinh, Bounds, Chain, MarginalMixtures, Whitening
from skjko.transforms.discrete import DiscreteGrid


def gaussian(**parameters):
    return quick(**{"max_blocks": 0, "transforms": None, **parameters})


def normal(n, d=1, seed=0):
    return np.random.RandomState(seed).standard_normal((n, d))


def detect(x, is_integer=False, is_bounded=False):
    """The step of one feature."""
    x = np.asarray(x, dtype=float)[:, np.newaxis]
    return DiscreteGrid.detect(x, np.array([is_integer]), np.array([is_bounded])).step[
        0
    ]


def asinh(n_features, column, centre, width):
    """A map of one feature."""
    fitted = {
        "n_features_in_": n_features,
        "columns_": np.array([column]),
        "centre_": np.array([float(centre)]),
        "width_": np.array([float(width)]),
    }
    return Asinh.from_state({"params": {}, "fitted": fitted})


def bounds_of(lower, upper):
    """Fitted bounds."""
    lower, upper = np.array(lower, dtype=float), np.array(upper, dtype=float)
    return Bounds(lower, upper).fit(np.zeros((1, len(lower))))


# ------------------------------------------------------------------- feature by feature


number = st.floats(-1e3, 1e3)
width = st.floats(1e-3, 1e3)


def check_map(one, X, back_tol):
    """Invertible, and the log-determinant is that of central differences."""
    Y, log_det = one.forward(X)
    assert np.isfinite(Y).all()
    back = one.inverse(Y)
    assert (np.abs(back - X) <= back_tol).all()
    slopes = []
    for j in range(X.shape[1]):
        # Small beside the scale on which the map bends there, whatever it is.
        h = 1e-5 * back_tol[:, j] / 1e-10
        up, down = X.copy(), X.copy()
        up[:, j] += h
        down[:, j] -= h
        rise = one.forward(up)[0][:, j] - one.forward(down)[0][:, j]
        assert (rise > 0).all()
        slopes.append(rise / (up[:, j] - down[:, j]))
    expected = np.log(slopes).sum(axis=0)
    np.testing.assert_allclose(log_det, expected, rtol=0, atol=1e-4)


@settings(max_examples=100)
@given(a=number, size=width, share=st.floats(1e-3, 0.999))
def test_bounds_invert(a, size, share):
    lower = np.array([a, -np.inf, a, -np.inf])
    upper = np.array([np.inf, a, a + size, np.inf])
    x = np.array([[a + size * share, a - size * share, a + size * share, a]])
    near = np.minimum(x - lower, upper - x)
    scale = np.where(np.isfinite(near), near, 1 + abs(a))
    rounding = 1e-13 * (abs(a) + size)
    one = bounds_of(lower, upper)
    if (1e-5 * scale[:, :3] > 1e4 * rounding).all():
        check_map(one, x, 1e-10 * scale)
    else:
        back = one.inverse(one.forward(x)[0])
        np.testing.assert_allclose(back, x, atol=10 * rounding)


@settings(max_examples=100)
@given(centre=number, size=width, u=st.floats(-1e4, 1e4))
def test_asinh_maps_invert(centre, size, u):
    one = asinh(2, 1, centre, size)
    x = np.array([[0.3, centre + size * u]])
    scale = np.array([[1.0, size * math.hypot(1, u) + 1e-4 * abs(centre)]])
    if 1e-4 * abs(centre) < size:
        check_map(one, x, 1e-10 * scale)
    back = one.inverse(one.forward(x)[0])
    np.testing.assert_allclose(back, x, rtol=1e-10, atol=1e-10 * scale.max())


def test_chains_of_maps_invert():
    rng = np.random.RandomState(0)
    X = np.c_[rng.exponential(size=500), rng.uniform(size=500), rng.normal(size=500)]
    bounds = Bounds(np.array([0, 0, -np.inf]), np.array([np.inf, 1, np.inf]))
    chain = Chain([bounds, Asinh(), MarginalMixtures(), Whitening("scale")]).fit(X)
    assert chain.find(Bounds) is chain.steps[0]
    assert len(chain) > 2
    check_map(chain, X[:50], 1e-9 * np.minimum(np.abs(X), np.abs(1 - X))[:50])
    Y = chain.forward(X)[0]
    np.testing.assert_allclose(Y.std(axis=0), 1)
    expected = norm.logpdf(Y).sum(axis=1) + chain.forward(X)[1]
    np.testing.assert_allclose(chain.log_prob(X), expected)


def test_maps_are_finite_everywhere():
    far = np.array([[1e300], [-1e300], [0.0]])
    one = asinh(1, 0, 1.0, 0.1)
    assert all(np.isfinite(part).all() for part in one.forward(far))
    assert np.isfinite(one.inverse(far)).all()
    for lower, upper in ((0, np.inf), (-np.inf, 0), (-1e300, 1e300), (1, 1.5)):
        bounds = bounds_of([lower], [upper])
        back = bounds.inverse(far)
        assert not bounds.outside(back).any()
        _, log_det = bounds.forward(back)
        assert np.isfinite(log_det).all()


def test_outside_of_the_bounds_there_is_no_density():
    bounds = bounds_of([0, -np.inf], [1, np.inf])
    X = np.array([[0.0, 1], [1, 1], [-3, 1], [0.5, 1], [7, 1]])
    Y, log_det = bounds.forward(X)
    assert np.isfinite(Y).all()
    assert list(log_det == -np.inf) == [True, True, True, False, True]


@pytest.mark.parametrize(
    "lower, upper", [([1.0], [1.0]), ([2.0], [1.0]), ([np.nan], [1.0])]
)
def test_bounds_that_are_not_below_one_another(lower, upper):
    with pytest.raises(ValueError, match="below one another"):
        bounds_of(lower, upper)


@settings(max_examples=30)
@given(
    slope=st.floats(1e-6, 1e6),
    sign=st.sampled_from([-1, 1]),
    shift=st.floats(-5, 5),
    seed=st.integers(0, 10),
)
def test_asinh_maps_do_not_depend_on_units(slope, sign, shift, seed):
    x = np.sinh(1.5 * normal(400, seed=seed)) + 0.5 * normal(400, seed=seed + 1) ** 2
    a = sign * slope
    plain, scaled = Asinh().fit(x), Asinh().fit(a * (x + shift))
    assert not plain.is_identity_
    np.testing.assert_allclose(scaled.width_ / slope, plain.width_, rtol=1e-3)
    Y, mapped = plain.forward(x)[0], scaled.forward(a * (x + shift))[0]
    np.testing.assert_allclose(sign * mapped, Y, atol=1e-3 * np.abs(Y).max())


def test_asinh_map_finds_its_own_distribution():
    x = johnsonsu(1.0, 1.2, loc=3, scale=2).rvs(4000, random_state=0)[:, np.newaxis]
    one = Asinh().fit(x)
    assert one.centre_ == pytest.approx([3], abs=0.5)
    assert one.width_ == pytest.approx([2], abs=0.5)


@pytest.mark.parametrize(
    "X",
    [
        pytest.param(normal(4000, 5), id="normal"),
        pytest.param(np.random.RandomState(0).uniform(size=(4000, 5)), id="uniform"),
        pytest.param(moons().sample(4000, random_state=0), id="moons"),
        pytest.param(fractal_tree().sample(4000, random_state=0), id="fractal tree"),
        pytest.param(np.sinh(2 * normal(50, 3)), id="few samples"),
        pytest.param(np.full((200, 2), 3.0), id="constant"),
        pytest.param(np.tile(np.sinh(2 * normal(300)), 2) * [1, -3], id="a copy"),
        pytest.param(np.sinh(2 * normal(150, 200)), id="fewer samples than features"),
    ],
)
def test_no_asinh_map_where_it_does_not_help(X):
    assert Asinh().fit(X).is_identity_


def test_only_features_that_gain_are_mapped():
    X = np.c_[normal(2000), np.sinh(2 * normal(2000, seed=1)), normal(2000, seed=2)]
    assert Asinh().fit(X).columns_.tolist() == [1]


# ------------------------------------------------------------------- discrete grids


@pytest.mark.parametrize(
    "values, step",
    [
        pytest.param(np.arange(10), 1, id="integers"),
        pytest.param(np.arange(10) * 5 + 3, 5, id="every fifth"),
        pytest.param([0, 6, 10, 25], 1, id="gaps without a common factor"),
        pytest.param([0, 6, 10, 24], 2, id="gaps with one"),
        pytest.param(np.round(np.arange(3, 9, 0.1), 1), 0.1, id="tenths"),
        pytest.param(np.arange(3, 9, 0.1), 0.1, id="tenths with rounding errors"),
        pytest.param(np.float32(np.arange(30) / 100), 0.01, id="float32"),
        pytest.param(1e6 + np.arange(30) / 100, 0.01, id="far from zero"),
        pytest.param([0, 1], 1, id="two values"),
        pytest.param([-0.37, 12.1], 12.47, id="any two values"),
        pytest.param(np.arange(20) / 3, 1 / 3, id="no decimals"),
        pytest.param([5], np.inf, id="one value"),
        pytest.param(np.sqrt([2, 3, 5, 7, 11]), 0, id="irrational"),
        pytest.param(normal(20)[:, 0], 0, id="random"),
        pytest.param(np.float32(normal(20)[:, 0]), 0, id="random float32"),
        pytest.param([0, 1e-9, 5], 0, id="too fine for its range"),
    ],
)
def test_steps_of_repeated_values(values, step):
    x = np.repeat(np.asarray(values, dtype=float), 30)
    found = detect(np.random.RandomState(0).permutation(x))
    assert found == pytest.approx(step, rel=1e-6)


def test_ties_make_a_discrete_feature():
    rng = np.random.RandomState(0)
    rounded = np.round(rng.standard_normal(1000), 3)
    assert len(np.unique(rounded)) > 500
    assert detect(rounded) == 0
    assert detect(np.round(rounded, 1)) == 0.1
    # Without ties only an integer type does, and only of few steps.
    assert detect(np.arange(100)) == 0
    assert detect(np.arange(100), is_integer=True) == 1
    assert detect(rng.randint(0, 10**6, 100), is_integer=True) == 0
    assert detect(rng.randint(0, 10**6, 100), is_integer=True, is_bounded=True) == 1
    # Most values are equal, the others anywhere: no grid has them all.
    assert detect(np.where(rng.uniform(size=1000) < 0.6, 0, rng.normal(size=1000))) == 0


def test_dequantized_values_stay_in_their_cells():
    x = np.random.RandomState(0).randint(0, 5, (1000, 2)) * [1, 0.5]
    grid = DiscreteGrid(np.zeros(2), np.array([1, 0.5]))
    dequantized = grid.dequantize(x, np.random.RandomState(0))
    assert (np.abs(dequantized - x) < [0.5, 0.25]).all()
    np.testing.assert_array_equal(grid.round(dequantized), x)
    assert np.abs((dequantized - x).mean(axis=0)).max() < 0.05


@pytest.mark.parametrize("n_discrete", [1, 2, 3])
def test_averages_over_cells(n_discrete):
    grid = DiscreteGrid(
        np.zeros(3),
        np.array([1.0, 0.5, 2.0]) * ([1] * n_discrete + [0] * (3 - n_discrete)),
    )
    X = np.array([[0.0, 1.0, 2.0], [3.0, -1.5, 0.0]])
    found = grid.average(lambda x: norm.logpdf(x).sum(axis=1), X)
    expected = norm.logpdf(X)
    j, half = np.arange(n_discrete), grid.step[:n_discrete] / 2
    mass = norm.cdf(X[:, j] + half) - norm.cdf(X[:, j] - half)
    expected[:, j] = np.log(mass / (2 * half))
    np.testing.assert_allclose(found, expected.sum(axis=1), atol=2e-2)


def test_given_steps_have_to_fit():
    X = np.c_[normal(50), np.arange(50) % 5]
    density = gaussian(discrete=[None, 1]).fit(X)
    np.testing.assert_array_equal(density.support_.grid.step, [0, 1])
    density = gaussian(discrete={1: 1.0}).fit(X)
    np.testing.assert_array_equal(density.support_.grid.step, [0, 1])
    with pytest.raises(ValueError, match=r"'discrete'.*column 0 are 1 apart"):
        gaussian(discrete=[1, 1]).fit(X)
    assert not len(gaussian(discrete=None).fit(X).support_.grid.columns)


# ------------------------------------------------------------------- densities


@pytest.mark.parametrize("parameters", [{"max_blocks": 0}, {"max_iter": 20}])
def test_probabilities_of_discrete_values_sum_to_one(parameters):
    X = np.random.RandomState(0).poisson(4, (1200, 1))
    density = quick(transforms=None, **parameters).fit(X)
    grid = np.arange(-60, 80)[:, np.newaxis]
    probability = np.exp(density.score_samples(grid))
    assert probability.sum() == pytest.approx(1, abs=2e-3)
    # The same with a step that is not one: per unit of the data.
    half = quick(transforms=None, **parameters).fit(X / 2).score_samples(grid / 2)
    np.testing.assert_allclose(
        half - math.log(2), density.score_samples(grid), atol=1e-6
    )


def test_probabilities_within_bounds_sum_to_one():
    X = np.random.RandomState(0).binomial(5, 0.7, (1200, 1))
    density = quick(bounds=[(0, 5)], transforms=None, max_iter=60).fit(X)
    probability = np.exp(density.score_samples(np.arange(-3, 9)[:, np.newaxis]))
    assert probability[3:9].sum() == pytest.approx(1, abs=0.02)
    assert (probability[:3] == 0).all()
    assert (probability[9:] == 0).all()
    frequency = np.bincount(X[:, 0], minlength=6) / len(X)
    assert np.abs(probability[3:9] - frequency).max() < 0.06


def test_probabilities_of_several_features_sum_to_one():
    rng = np.random.RandomState(0)
    a = rng.binomial(3, 0.4, 1500)
    X = np.c_[a, a + rng.binomial(2, 0.5, 1500)]
    density = quick(transforms=None, max_iter=60).fit(X)
    grid = np.stack(np.meshgrid(np.arange(-9, 15), np.arange(-9, 15)), -1)
    mass = np.exp(density.score_samples(grid.reshape(-1, 2))).sum()
    assert mass == pytest.approx(1, abs=0.02)


def test_a_discrete_and_a_continuous_feature():
    rng = np.random.RandomState(0)
    flag = rng.uniform(size=1500) < 0.3
    X = np.c_[flag, rng.standard_normal(1500) + 3 * flag]
    density = quick(transforms=None, max_iter=60).fit(X)
    spacing = 0.05
    axis = np.arange(-8, 10, spacing)
    for value, share in ((0, 0.7), (1, 0.3)):
        points = np.c_[np.full(len(axis), value), axis]
        mass = np.exp(density.score_samples(points)).sum() * spacing
        assert mass == pytest.approx(share, abs=0.1)


@pytest.mark.parametrize(
    "bounds, truth",
    [
        ((0, None), lognorm(0.8)),
        ((0, 1), beta(0.8, 2.0)),
        ((None, 0), weibull_max(0.7)),
    ],
)
def test_bounded_densities_integrate_to_one(bounds, truth):
    X = truth.rvs((1500, 1), random_state=0)
    density = quick(bounds=[bounds], transforms=None, max_iter=30).fit(X)
    # Substituted by quantiles, so that no peak at a bound is missed.
    level = (np.arange(20_000) + 0.5) / 20_000
    nodes = truth.ppf(level)
    ratio = np.exp(density.score_samples(nodes[:, np.newaxis]) - truth.logpdf(nodes))
    assert ratio.mean() == pytest.approx(1, abs=0.02)
    plain = quick(max_iter=30, transforms=None).fit(X)
    fresh = truth.rvs((1000, 1), random_state=1)
    assert density.score(fresh) > plain.score(fresh)
    sample = density.sample(1000, random_state=0)
    assert (sample > (-np.inf if bounds[0] is None else bounds[0])).all()
    assert (sample < (np.inf if bounds[1] is None else bounds[1])).all()


def test_bounds_at_use():
    X = np.random.RandomState(0).exponential(size=(200, 2))
    frame = pd.DataFrame(X, columns=["time", "load"])
    density = quick(bounds={"time": (0, None)}, early_stopping=False).fit(frame)
    assert density.support_.lower.tolist() == [0, -np.inf]
    others = pd.DataFrame({"time": [0.0, -1.0, 1e-300, 1.0], "load": 0.5})
    with pytest.warns(UserWarning, match="2 of 4 samples are outside"):
        scores = density.score_samples(others)
    assert scores[0] == scores[1] == -np.inf
    assert np.isfinite(scores[2:]).all()
    for method in ("transform", "trajectory", "likelihood_error"):
        with pytest.raises(ValueError, match="outside of the bounds: 0 in row 0 of"):
            getattr(density, method)(others)
    back = density.inverse_transform(density.transform(frame))
    np.testing.assert_allclose(back, X, rtol=1e-6)
    stages = list(density.staged_score_samples(frame))
    np.testing.assert_allclose(stages[-1], density.score_samples(frame), rtol=1e-9)
    X[3, 0] = 0
    with pytest.raises(ValueError, match=r"0 in row 3 of column 0, .* \(0, inf\)"):
        quick(bounds=[(0, np.inf), None]).fit(X)
    X[3, 0] = 1
    with pytest.raises(ValueError, match=r"X_val has values outside .* -2 in row 1"):
        quick(bounds={0: (0, 9)}).fit(np.clip(X, 0.1, 8), X_val=[[1, 1], [-2, 1]])


def test_samples_outside_of_the_bounds_are_told():
    X = np.random.RandomState(0).exponential(size=(100, 2))
    frame = pd.DataFrame(X, columns=["time", "load"])
    density = gaussian(bounds={"load": (0, 50)}).fit(frame)
    detector = JKOFlowOutlierDetector.from_density(density, frame, random_state=0)
    others = frame.copy()
    others.loc[[7, 9], "load"] = [-2.0, 60.0]
    uses = [
        *(density.score_samples, density.score, detector.score_samples),
        *(detector.decision_function, detector.predict, detector.p_values),
    ]
    for use in uses:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            use(others)
        assert [one.category for one in seen] == [UserWarning]
        # The line of the caller.
        assert seen[0].filename == __file__
        text = str(seen[0].message)
        assert "2 of 100 samples are outside of the bounds" in text
        assert "row 7, with -2 in column 'load', whose bounds are (0, 50)" in text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for use in uses:
            use(frame)
        # Far away is not outside.
        assert density.score_samples(frame.assign(time=1e200))[0] == -np.inf
        detector.explain(others[:2])


def test_integers_reach_their_bounds():
    X = np.arange(1000)[:, np.newaxis] * 977 % 100_003
    X = np.r_[X, [[0]], [[100_003]]]
    density = gaussian(bounds=[(0, 100_003)]).fit(X)
    assert np.isfinite(density.score_samples(X)).all()
    sample = density.sample(1000, random_state=0)
    assert sample.dtype == X.dtype
    assert 0 <= sample.min() <= sample.max() <= 100_003


def test_scores_of_discrete_features_do_not_depend_on_other_samples():
    X = np.random.RandomState(0).poisson([3, 5, 1], (700, 3))
    density = quick(max_blocks=1, early_stopping=False).fit(X)
    scores = density.score_samples(X)
    assert density.n_blocks_ == 1
    np.testing.assert_array_equal(scores, density.score_samples(X))
    alone = [density.score_samples(X[[i]])[0] for i in (0, 255, 256, 699)]
    np.testing.assert_allclose(alone, scores[[0, 255, 256, 699]], rtol=1e-9)
    order = np.random.RandomState(1).permutation(700)
    np.testing.assert_allclose(
        density.score_samples(X[order]), scores[order], rtol=1e-9
    )
    stages = list(density.staged_score_samples(X))
    assert len(stages) == density.n_blocks_ + 1
    np.testing.assert_allclose(stages[-1], scores, rtol=1e-9)
    # A function of the sample alone: off the grid too.
    assert np.isfinite(density.score_samples(X + 0.3)).all()


def test_two_values_get_their_frequencies():
    X = np.random.RandomState(0).binomial(1, 0.4, (1500, 1)).astype(float)
    density = quick(transforms=None, max_iter=60).fit(X)
    entropy = -0.4 * math.log(0.4) - 0.6 * math.log(0.6)
    assert density.score(X) < -entropy + 0.05
    assert density.score(X) > -entropy - 0.15
    sample = density.sample(2000, random_state=0)
    assert set(np.unique(sample)) <= {-1.0, 0.0, 1.0, 2.0}
    assert sample.mean() == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize("transforms", ["auto", [Asinh()]])
def test_the_asinh_map_is_part_of_the_density(transforms):
    X = np.sinh(2 * normal(1500, 2)) * [1, 100]
    density = gaussian(transforms=transforms).fit(X)
    plain = gaussian().fit(X)
    assert density.transforms_.find(Asinh).columns_.tolist() == [0, 1]
    assert plain.transforms_.find(Asinh) is None
    fresh = np.sinh(2 * normal(1500, 2, seed=1)) * [1, 100]
    assert density.score(fresh) > plain.score(fresh) + 1
    back = density.inverse_transform(density.transform(fresh))
    np.testing.assert_allclose(back, fresh, rtol=1e-8)
    # The truth, by the change of variables.
    z = np.arcsinh(fresh / [1, 100]) / 2
    slope = np.log(2 * np.cosh(2 * z) * [1, 100])
    truth = (norm.logpdf(z) - slope).sum(axis=1).mean()
    assert density.score(fresh) == pytest.approx(truth, abs=0.05)


def test_normal_and_continuous_features_need_no_maps():
    x, noise = normal(1100), normal(1100, seed=1)
    X = np.c_[x, np.where(np.abs(x) < 1, x, -x) + 0.3 * noise]
    auto = quick().fit(X)
    none = quick(discrete=None, transforms=None).fit(X)
    assert auto.support_.bounds.is_identity_
    assert [type(one) for one in auto.transforms_] == [Whitening]
    assert auto.n_blocks_ >= 1
    np.testing.assert_array_equal(auto.score_samples(X), none.score_samples(X))
    np.testing.assert_array_equal(
        auto.sample(9, random_state=0), none.sample(9, random_state=0)
    )


def test_bounds_and_maps_and_discrete_features_in_a_warm_start():
    rng = np.random.RandomState(0)
    X = np.c_[rng.poisson(2, 300), np.sinh(2 * rng.standard_normal(300)), rng.rand(300)]
    density = quick(
        bounds=[None, None, (0, 1)],
        transforms="auto",
        max_blocks=1,
        early_stopping=False,
        schedule=JKOSchedule(free_block=False),
    ).fit(X)
    assert 1 in density.transforms_.find(Asinh).columns_
    before = density.score_samples(X)
    density.set_params(warm_start=True, max_blocks=2).fit(X)
    first = list(density.staged_score_samples(X))[1]
    np.testing.assert_allclose(first, before, atol=0.01)
    with pytest.raises(ValueError, match=r"'bounds'.*cannot change"):
        density.set_params(bounds=None).fit(X)
    density.set_params(bounds=[None, None, (0, 1)], max_blocks=3).fit(X)
    assert density.n_blocks_ == 3


# ------------------------------------------------------------------- extreme numbers


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("unit", [2.0**-900, 2.0**900])
def test_asinh_maps_are_chosen_in_any_unit(unit):
    X = np.exp(1.5 * normal(300, 2))
    one, other = Asinh().fit(X), Asinh().fit(X * unit)
    assert one.columns_.tolist() == other.columns_.tolist() == [0, 1]
    np.testing.assert_allclose(other.centre_, one.centre_ * unit, rtol=1e-12)
    np.testing.assert_allclose(other.width_, one.width_ * unit, rtol=1e-12)


@pytest.mark.filterwarnings("error")
def test_numbers_below_the_normal_ones_get_no_map():
    X = np.exp(1.5 * normal(300)) * 2e-323
    assert Asinh().fit(X).is_identity_


@pytest.mark.filterwarnings("error")
def test_tails_so_heavy_that_squares_overflow():
    X = normal(200, 2)
    X[::50] = [[1e200, -1e180], [-1e200, 0], [1e170, 1], [1e290, -1e290]]
    density = quick(max_blocks=1, early_stopping=False).fit(X)
    assert np.isfinite(density.score_samples(X)).all()


@pytest.mark.filterwarnings("error")
def test_an_asinh_map_whose_argument_overflows():
    one = asinh(1, 0, -1e10, 1e-3)
    largest = np.finfo(float).max
    Y, log_det = one.forward(np.array([[largest], [-largest]]))
    # The logarithm of twice the largest number, which is 709.8.
    np.testing.assert_allclose(Y[:, 0], [710.48, -710.48], atol=0.01)
    assert np.isfinite(log_det).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("unit", [2.0**-900, 1.0, 2.0**990])
def test_steps_are_found_in_any_unit(unit):
    values = np.random.RandomState(0).randint(0, 1000, 3000)
    assert detect(3.0 * unit * values) == 3 * unit


@pytest.mark.filterwarnings("error")
def test_the_largest_numbers_are_rounded():
    grid = DiscreteGrid(np.zeros(1), np.array([0.1]))
    rounded = grid.round(np.array([[0.301], [1e308], [-1.7e308]]))[:, 0]
    assert rounded[0] == 0.3
    np.testing.assert_array_equal(np.sign(rounded[1:]), [1, -1])
    assert (np.abs(rounded[1:]) >= 1e308).all()
    assert np.isfinite(rounded).all()


def test_steps_of_integers_are_integers():
    """65000 / 2.99995... is whole; in float32 that is no other number than 3."""
    values = np.random.RandomState(0).choice([0, 3, 65000], 200)
    assert detect(values, is_integer=True) == 1


@pytest.mark.filterwarnings("error")
def test_cells_at_the_end_of_numbers():
    X = 1e290 * np.random.RandomState(0).randint(0, 5, (50, 1)).astype(float)
    density = gaussian().fit(X)
    largest = np.finfo(float).max
    scores = density.score_samples([[largest], [-largest], [1e290]])
    assert not np.isnan(scores).any()
    assert np.isfinite(scores[2])
    assert (scores[:2] < scores[2]).all()


# ------------------------------------------------------------------- degenerate data


@pytest.mark.parametrize("value", [0.0, 1e-300, 1e-12, 3.0, -1e9])
@pytest.mark.parametrize("n", [5, 12, 200])
def test_other_values_of_a_constant_feature_score_far_lower(value, n):
    X = np.c_[normal(n), np.full(n, value)]
    density = quick(max_blocks=1, early_stopping=n < 200).fit(X)
    scores = density.score_samples(X)
    assert np.isfinite(scores).all()
    for violation in (1e-2, 1, 1e6, 1e12):
        others = X.copy()
        others[:, 1] += violation * (abs(value) or 1)
        assert (density.score_samples(others) < scores.min() - 100).all()
    assert (density.sample(20, random_state=0)[:, 1] == value).all()


@pytest.mark.parametrize("noise", [1e-16, 1e-12, 1e-9, 1e-6])
def test_nearly_constant_features(noise):
    X = np.c_[normal(150), 5 + noise * normal(150, seed=1)]
    density = quick(max_blocks=1, early_stopping=False).fit(X)
    scores = density.score_samples(X)
    assert np.isfinite(scores).all()
    assert np.isfinite(density.sample(20)).all()
    others = X.copy()
    others[:, 1] = 5.1
    assert (density.score_samples(others) < scores.min() - 100).all()


def test_one_value_out_of_many_is_other():
    x = np.zeros((500, 1))
    x[7] = 1.0
    density = quick().fit(x)
    scores = density.score_samples([[0.0], [1.0], [2.0], [50.0]])
    assert np.isfinite(scores).all()
    assert scores[0] > scores[1] > scores[2] > scores[3]


@pytest.mark.parametrize("n, d", [(12, 40), (300, 1), (3, 1)])
def test_any_shape(n, d):
    for X in (normal(n, d), np.random.RandomState(0).poisson(2, (n, d))):
        density = quick(early_stopping=n < 300).fit(X)
        assert np.isfinite(density.score_samples(X)).all()
        assert density.sample(3).shape == (3, d)


@pytest.mark.slow
def test_a_thousand_features():
    X = np.random.RandomState(0).standard_normal((300, 1000))
    X[:, :10] = np.random.RandomState(1).poisson(2, (300, 10))
    X[:, 10:20] = np.sinh(2 * X[:, 10:20])
    density = quick(max_iter=2, max_blocks=1, early_stopping=False).fit(X)
    assert density.support_.grid.columns.tolist() == list(range(10))
    assert np.isfinite(density.score_samples(X[:20])).all()
    assert density.sample(3).shape == (3, 1000)
