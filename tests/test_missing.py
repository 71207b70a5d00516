"""Missing values: marginal densities, draws given the others, and what is refused."""

# SPDX-License-Identifier: BSD-3-Clause

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, multivariate_normal

from skjko import JKOFlowDensity, MLPField, completion
from skjko.datasets import moons
from skjko.plots import DensityDisplay, PairDisplay
from skjko.transforms.mixture_given import MixtureGiven
from skjko.transforms.mixture_map import MixtureMap

NAN = np.nan
MEAN = np.array([1.0, -2.0, 30.0])
COVARIANCE = np.array([[1.0, 1.6, 0.3], [1.6, 4.0, 1.0], [0.3, 1.0, 1.0]])


def normal_samples(n, seed):
    return np.random.default_rng(seed).multivariate_normal(MEAN, COVARIANCE, n)


def with_gaps(X, share, seed, columns=None):
    """Return samples with values missing completely at random."""
    X = X.copy()
    gaps = np.random.default_rng(seed).random(X.shape) < share
    if columns is not None:
        gaps[:, np.setdiff1d(np.arange(X.shape[1]), columns)] = False
    X[gaps] = NAN
    return X


def gaussian(**parameters):
    parameters = {"init": "gaussian", "max_blocks": 0, "random_state": 0} | parameters
    return JKOFlowDensity(**parameters)


@pytest.fixture(scope="module")
def moon():
    """A flow of one block, fitted to moons of which many lack the second feature."""
    X = with_gaps(moons().sample(2000, random_state=0), 0.3, 0, [1])
    density = JKOFlowDensity(
        init="gaussian",
        transforms=None,
        field=MLPField((32, 32)),
        max_blocks=1,
        max_iter=150,
        random_state=0,
    )
    return density.fit(X)


@pytest.fixture(scope="module")
def frame():
    """A table of categories, counts, zeros and numbers, and what is missing of it."""
    rng = np.random.default_rng(0)
    kind = rng.choice(["a", "b", "c"], 800, p=[0.5, 0.3, 0.2])
    x = np.select([kind == "a", kind == "b"], [0.0, 5.0], -5.0) + rng.normal(size=800)
    rain = np.where(rng.random(800) < 0.3, 0.0, np.exp(rng.normal(size=800)))
    columns = {"kind": kind, "x": x, "n": rng.poisson(3, 800), "rain": rain}
    table = pd.DataFrame(columns).astype({"n": "Int64"})
    return table, table.mask(rng.random(table.shape) < 0.15)


@pytest.fixture(scope="module")
def of_frame(frame):
    density = JKOFlowDensity(
        init="mixture", bounds={"rain": (0, None)}, max_blocks=0, random_state=0
    )
    return density.fit(frame[1])


# ----------------------------------------------------------------------- scores


def test_scores_are_the_marginal_density_of_a_gaussian():
    density = gaussian().fit(with_gaps(normal_samples(4000, 0), 0.25, 1))
    X = with_gaps(normal_samples(200, 2), 0.4, 3)
    # The mean and the covariance of the fitted Gaussian.
    grid = density.inverse_transform(np.vstack([np.zeros(3), np.eye(3)]))
    root = grid[1:] - grid[0]
    mean, covariance = grid[0], root.T @ root
    expected = []
    for x in X:
        j = np.flatnonzero(~np.isnan(x))
        one = multivariate_normal(mean[j], covariance[np.ix_(j, j)]) if len(j) else None
        expected.append(one.logpdf(x[j]) if one is not None else 0.0)
    np.testing.assert_allclose(density.score_samples(X), expected, atol=1e-8)
    assert density.missing_.is_exact
    assert density.missing_.error == 0
    np.testing.assert_allclose(mean, MEAN, atol=0.15)
    np.testing.assert_allclose(covariance, COVARIANCE, atol=0.4)


def test_scores_are_the_integral_over_what_is_missing(moon):
    first = np.array([-1.0, -0.3, 0.2, 0.8])
    grid = np.linspace(-6, 6, 2401)
    rows = np.stack(np.meshgrid(first, grid, indexing="ij"), -1)
    inside = np.exp(moon.score_samples(rows.reshape(-1, 2))).reshape(len(first), -1)
    expected = np.log(inside.sum(axis=1) * (grid[1] - grid[0]))
    found = moon.score_samples(np.c_[first, np.full(len(first), NAN)])
    assert not moon.missing_.is_exact
    np.testing.assert_allclose(found, expected, atol=8 * moon.missing_.error)
    assert moon.missing_.error < 0.05


def test_the_score_of_a_sample_does_not_depend_on_those_beside(moon):
    X = with_gaps(moons().sample(50, random_state=1), 0.5, 1, [1])
    scores = moon.score_samples(X)
    alone = [moon.score_samples(x[np.newaxis])[0] for x in X]
    np.testing.assert_allclose(scores, alone, atol=1e-9)
    np.testing.assert_array_equal(moon.score_samples(X), scores)


def test_scores_of_complete_samples_are_as_without_missing_values(moon):
    X = moons().sample(50, random_state=1)
    both = np.vstack([X, [[0.0, NAN]]])
    np.testing.assert_allclose(
        moon.score_samples(both)[:-1], moon.score_samples(X), atol=1e-9
    )


def test_probabilities_of_categories_counts_and_zeros(frame, of_frame):
    table, _ = frame
    nothing = {"kind": [None], "x": [NAN], "n": [pd.NA], "rain": [NAN]}

    def probability(**known):
        row = pd.DataFrame({**nothing, **{k: [v] for k, v in known.items()}})
        row = row.astype({"n": "Int64"})
        return np.exp(of_frame.score_samples(row))[0]

    for kind in "abc":
        share = (table["kind"] == kind).mean()
        assert probability(kind=kind) == pytest.approx(share, abs=0.05)
    counts = [probability(n=n) for n in range(3)]
    shares = [(table["n"] == n).mean() for n in range(3)]
    np.testing.assert_allclose(counts, shares, atol=0.05)
    share = (table["rain"] == 0).mean()
    assert probability(rain=0.0) == pytest.approx(share, abs=0.05)
    assert probability() == pytest.approx(1.0, abs=0.1)


def test_out_of_bounds_and_far_away_there_is_no_density(frame, of_frame, moon):
    table, _ = frame
    row = table.iloc[:1].assign(rain=-1.0, x=NAN)
    with pytest.warns(UserWarning, match="1 of 1 samples are outside of the bounds"):
        assert of_frame.score_samples(row)[0] == -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        far = moon.score_samples([[1e3, NAN], [1e200, NAN]])
    assert -np.inf < far[0] < -100
    assert far[1] == -np.inf


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), d=st.integers(1, 5), n=st.integers(1, 4))
def test_marginal_and_conditional_densities_make_the_joint_one(seed, d, n):
    rng = np.random.default_rng(seed)
    factors = np.tril(rng.normal(size=(n, d, d)) * 0.3) + np.eye(d)
    fitted = {
        "weights_": rng.dirichlet(np.ones(n)),
        "means_": rng.normal(size=(n, d)),
        "factors_": factors * np.sign(np.einsum("kii->ki", factors))[:, np.newaxis],
        "n_features_in_": d,
    }
    mixture = MixtureMap.from_state({"params": {}, "fitted": fitted})
    covariances = mixture.factors_ @ mixture.factors_.transpose(0, 2, 1)
    one = MixtureGiven(mixture, covariances, rng.random((2, d)) < 0.5)
    number = np.array([0, 1, 0])
    x = rng.normal(size=(3, d))
    drawn, log_q = one.draw(x, number, rng.random((3, 4)), rng.normal(size=(3, 4, d)))
    joint = mixture.log_prob(drawn.reshape(-1, d)).reshape(3, 4)
    expected = one.log_marginal(x, number)[:, np.newaxis] + log_q
    np.testing.assert_allclose(expected, joint, atol=1e-7)


# ------------------------------------------------------------------------ draws


def test_draws_have_the_conditional_distribution_of_a_gaussian():
    density = gaussian().fit(with_gaps(normal_samples(4000, 0), 0.2, 1))
    X = np.tile([2.0, NAN, 31.0], (4000, 1))
    completed = density.impute(X, random_state=0)
    np.testing.assert_array_equal(completed[:, [0, 2]], X[:, [0, 2]])
    j, o = [1], [0, 2]
    slope = COVARIANCE[np.ix_(j, o)] @ np.linalg.inv(COVARIANCE[np.ix_(o, o)])
    mean = MEAN[1] + slope @ [1.0, 1.0]
    variance = COVARIANCE[1, 1] - slope @ COVARIANCE[np.ix_(o, j)]
    assert completed[:, 1].mean() == pytest.approx(mean.item(), abs=0.15)
    assert completed[:, 1].var() == pytest.approx(variance.item(), rel=0.15)


def test_draws_of_a_flow_are_on_the_moons(moon):
    X = moons().sample(1000, random_state=2)
    completed = moon.impute(np.c_[X[:, 0], np.full(1000, NAN)], random_state=0)
    assert moon.score(completed) == pytest.approx(moon.score(X), abs=0.2)
    again = moon.impute(np.c_[X[:, 0], np.full(1000, NAN)], random_state=0)
    np.testing.assert_array_equal(again, completed)


def test_latent_positions_are_those_of_draws(moon):
    X = moons().sample(1000, random_state=2)
    gaps = with_gaps(X, 0.5, 3, [1])
    Z = moon.transform(gaps)
    np.testing.assert_array_equal(Z, moon.transform(moon.impute(gaps, 0)))
    there = ~np.isnan(gaps).any(axis=1)
    np.testing.assert_allclose(Z[there], moon.transform(X[there]), atol=1e-9)
    for column in Z.T:
        assert kstest(column, "norm").pvalue > 1e-4


def test_draws_do_not_lose_who_is_missing_because_of_others():
    # The larger the first feature, the more often the second is missing: complete
    # samples have another mean.
    X = normal_samples(4000, 0)
    often = 1 / (1 + np.exp(2 * (MEAN[0] - X[:, 0])))
    X[np.random.default_rng(1).random(4000) < often, 1] = NAN
    assert np.nanmean(X[:, 1]) < MEAN[1] - 0.8
    density = gaussian().fit(X)
    assert density.inverse_transform(np.zeros((1, 3)))[0, 1] == pytest.approx(
        MEAN[1], abs=0.2
    )


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_tables_are_completed_in_their_form(frame, of_frame, library):
    _, gaps = frame
    given = gaps
    density = of_frame
    if library != "pandas":
        columns = {
            name: [None if pd.isna(value) else value for value in gaps[name]]
            for name in gaps
        }
        given = pl.DataFrame(columns)
        if library == "pyarrow":
            given = pytest.importorskip("pyarrow").table(columns)
        density = JKOFlowDensity(
            init="mixture", bounds={"rain": (0, None)}, max_blocks=0, random_state=0
        ).fit(given)
    completed = density.impute(given, random_state=0)
    assert type(completed) is type(given)
    there, values = gaps.notna(), {}
    for name in gaps:
        column = completed[name]
        values[name] = column.to_pylist() if library == "pyarrow" else list(column)
        kept = np.array(values[name], dtype=object)[there[name]].tolist()
        assert kept == gaps[name][there[name]].tolist()
    assert set(values["kind"]) == {"a", "b", "c"}
    assert min(values["rain"]) >= 0
    assert all(n % 1 == 0 for n in values["n"])


def test_categories_are_drawn_given_the_others(frame, of_frame):
    table, gaps = frame
    completed = of_frame.impute(gaps, random_state=0)
    lost = gaps["kind"].isna() & gaps["x"].notna()
    right = (completed["kind"] == table["kind"])[lost]
    drawn = of_frame.sample(2000, random_state=0)
    nearest = np.select([drawn["x"] < -2.5, drawn["x"] < 2.5], ["c", "a"], "b")
    # As in samples of the density: by chance it would be 0.38.
    assert right.mean() == pytest.approx((drawn["kind"] == nearest).mean(), abs=0.1)
    assert right.mean() > 0.8


# ------------------------------------------------------------------------- fits


def test_fits_repeat_whatever_the_order_of_the_samples():
    X = with_gaps(normal_samples(500, 0), 0.2, 1)
    X = np.vstack([X, X[:20]])
    order = np.random.default_rng(0).permutation(len(X))
    first, second = gaussian().fit(X), gaussian().fit(X[order])
    rows = with_gaps(normal_samples(20, 2), 0.3, 3)
    np.testing.assert_allclose(
        first.score_samples(rows), second.score_samples(rows), atol=1e-9
    )


def test_training_goes_on_with_the_same_draws():
    X = with_gaps(moons().sample(1200, random_state=0), 0.2, 0, [1])
    density = gaussian(max_blocks=1, max_iter=10, field=MLPField((8, 8)))
    density.set_params(warm_start=True, transforms=None).fit(X)
    density.set_params(max_blocks=2).fit(X)
    assert np.isfinite(density.score_samples(X)).all()


def test_files_keep_what_is_missing(moon, tmp_path):
    moon.save(tmp_path / "moon.skjko")
    loaded = JKOFlowDensity.load(tmp_path / "moon.skjko")
    X = with_gaps(moons().sample(50, random_state=1), 0.5, 1, [1])
    np.testing.assert_array_equal(loaded.score_samples(X), moon.score_samples(X))
    assert loaded.summary() == moon.summary()
    assert "missing values: in feature 1" in moon.summary()


def test_validation_samples_may_lack_what_others_lack():
    X = with_gaps(normal_samples(600, 0), 0.2, 1, [1])
    density = gaussian().fit(X[:400], X_val=X[400:])
    assert np.isfinite(density.score(X))
    message = "X_val contains NaN in row 0 of column 0, of which fit saw no missing"
    with pytest.raises(ValueError, match=message):
        gaussian().fit(X[:400], X_val=[[NAN, 0.0, 30.0]])


def test_samples_that_a_mixture_is_better_without_are_left_out(monkeypatch):
    X = with_gaps(normal_samples(600, 0), 0.2, 1, [1, 2])
    given = {"sample_weight": np.linspace(1, 2, 600), "groups": np.arange(600) // 2}
    assert gaussian().fit(X, **given).missing_.n_left_out == 0
    # Which of both a mixture prefers is noise where neither is better by far.
    monkeypatch.setattr(completion, "_pays", lambda *_: False)
    there = ~np.isnan(X).any(axis=1)
    density = gaussian(transforms=None).fit(X, **given)
    assert density.missing_.n_left_out == 600 - there.sum()
    assert f"training: {600 - there.sum()} incomplete samples" in density.summary()
    weight, rows = given["sample_weight"][there], X[there]
    mean = density.inverse_transform(np.zeros((1, 3)))[0]
    np.testing.assert_allclose(mean, np.average(rows, axis=0, weights=weight))


# ------------------------------------------------------------------ what is refused


def test_features_without_gaps_in_the_fit_have_none_later(moon):
    message = "X contains NaN in row 1 of column 0, of which fit saw no missing value"
    with pytest.raises(ValueError, match=message):
        moon.score_samples([[0.0, NAN], [NAN, 0.0]])
    complete = gaussian().fit(normal_samples(100, 0))
    assert complete.missing_ is None
    with pytest.raises(ValueError, match="contains NaN"):
        complete.score_samples([[0.0, NAN, 0.0]])
    rows = normal_samples(3, 1)
    np.testing.assert_array_equal(complete.impute(rows), rows)


@pytest.mark.parametrize(
    "method", ["trajectory", "likelihood_error", "staged_score_samples"]
)
def test_what_needs_all_values_says_how_to_get_them(moon, method):
    with pytest.raises(ValueError, match=r"row 0 of column 1, .* by impute"):
        getattr(moon, method)([[0.0, NAN]])


@pytest.mark.parametrize("value", [NAN, 3.0])
def test_a_feature_needs_values_that_differ(value):
    X = pd.DataFrame(normal_samples(50, 0), columns=["a", "b", "c"])
    X["b"] = value
    X.loc[3, "b"] = NAN
    with pytest.raises(ValueError, match=r"NaN in column 'b', which has no value"):
        gaussian().fit(X)


def test_what_follows_from_other_features_is_not_to_be_missing():
    x, y = np.random.default_rng(0).normal(size=(2, 200))
    X = pd.DataFrame({"x": x, "double": 2 * x, "y": y})
    X.loc[::5, "double"] = NAN
    with pytest.raises(ValueError, match=r"column 'double', of which .* follow from"):
        gaussian().fit(X)
    # Others may.
    X = pd.DataFrame({"x": x, "double": 2 * x, "y": y})
    X.loc[::5, "y"] = NAN
    assert np.isfinite(gaussian().fit(X).score(X))


def test_samples_without_any_value_change_nothing():
    X = normal_samples(300, 0)
    X[0, 1] = NAN
    more = np.vstack([X, np.full((200, 3), NAN)])
    rows = normal_samples(20, 1)
    np.testing.assert_array_equal(
        gaussian().fit(more).score_samples(rows), gaussian().fit(X).score_samples(rows)
    )
    with pytest.raises(ValueError, match="X has no values at all"):
        gaussian().fit(np.full((20, 3), NAN))


def test_equal_samples_with_gaps_are_no_copies():
    # Of half of the samples only a category is left: each of them stands for a value.
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 2000).astype(float)
    x = 3 * kind + rng.normal(size=2000)
    x[rng.random(2000) < 0.5] = NAN
    completed = gaussian(init="mixture").fit(np.c_[kind, x]).sample(4000, 0)
    assert completed[completed[:, 0] == 1, 1].std() == pytest.approx(1, abs=0.15)
    assert completed[:, 0].mean() == pytest.approx(kind.mean(), abs=0.05)


def test_a_column_without_any_value_is_no_text(of_frame):
    row = pd.DataFrame({"kind": ["a"], "x": [None], "n": [None], "rain": [0.5]})
    known = row.assign(x=NAN, n=NAN)
    np.testing.assert_array_equal(
        of_frame.score_samples(row), of_frame.score_samples(known)
    )


@pytest.mark.parametrize("share", [0.8, 0.95])
def test_most_of_a_feature_may_be_missing(share):
    x, noise = np.random.default_rng(0).normal(size=(2, 2000))
    X = np.c_[x, x + 0.3 * noise]
    completed = gaussian().fit(with_gaps(X, share, 1, [1])).sample(4000, 0)
    assert np.corrcoef(completed.T)[0, 1] == pytest.approx(0.958, abs=0.02)


def test_a_few_samples_are_a_gaussian():
    X = [[0.0, 1.0], [NAN, 1.5], [2.0, 3.0]]
    assert np.isfinite(gaussian().fit(X).score_samples(X)).all()


def test_infinity_is_none_of_the_missing_values():
    X = with_gaps(normal_samples(50, 0), 0.2, 1)
    X[4, 2] = np.inf
    with pytest.raises(ValueError, match=r"infinity .* column 2 \(1\), first in row 4"):
        gaussian().fit(X)


def test_pictures_say_that_values_are_missing(moon):
    pytest.importorskip("matplotlib")
    X = with_gaps(moons().sample(50, random_state=1), 0.5, 1, [1])
    for display in (DensityDisplay, PairDisplay):
        with pytest.raises(ValueError, match=r"X contains NaN, .*impute"):
            display.from_estimator(moon, X)
