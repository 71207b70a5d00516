"""Columns of categories, and discrete features with few values."""

import re
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skjko import JKOFlowDensity, JKOFlowOutlierDetector

CITIES = ["Cairo", "Oslo", "Rome"]
TEMPERATURE = {"Cairo": 30.0, "Oslo": 5.0, "Rome": 20.0}


def mixture(**parameters):
    settings = {"init": "mixture", "transforms": None, "max_blocks": 0}
    return JKOFlowDensity(random_state=0, **{**settings, **parameters})


def weather(n=300, seed=0, dtype="category"):
    rng = np.random.RandomState(seed)
    city = rng.choice(CITIES, n, p=[0.2, 0.3, 0.5])
    middle = np.array([TEMPERATURE[c] for c in city])
    return pd.DataFrame(
        {
            "city": pd.Series(city, dtype=dtype),
            "temperature": middle + 2 * rng.standard_normal(n),
            "sun": rng.rand(n) < 0.4,
        }
    )


@pytest.fixture(scope="module")
def fitted():
    return mixture().fit(weather())


def of_cities(cities, temperature=20.0):
    return pd.DataFrame({"city": cities, "temperature": temperature, "sun": True})


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda X: X[X.columns[::-1]], "same order.*\\n.*feature_names_in_"),
        (lambda X: X.assign(name="Bob"), "unseen.*\\n- name\\n.*feature_names_in_"),
        (lambda X: X.drop(columns="temperature"), "missing:\\n- temperature\\n$"),
        (lambda X: pl.DataFrame(X[X.columns[::-1]].to_dict("list")), r"X\.select\("),
    ],
    ids=["order", "extra", "lacking", "polars"],
)
def test_names_of_columns_are_checked_before_their_values(fitted, change, expected):
    X = weather(20, seed=1)
    with pytest.raises(ValueError, match=expected):
        fitted.score(change(X))
    extra = X.assign(name="Bob")[["name", *X.columns]]
    assert fitted.score(extra[fitted.feature_names_in_]) == fitted.score(X)


@pytest.mark.parametrize("dtype", ["category", "str", "object", "string"])
def test_samples_are_categories_of_the_same_type(dtype):
    X = weather(dtype=dtype)
    samples = mixture().fit(X).sample(200, random_state=0)
    assert samples["city"].dtype == X["city"].dtype
    assert set(samples["city"]) == set(CITIES)
    assert samples["sun"].dtype == bool


@pytest.mark.parametrize(
    "dtype", [pl.Categorical, pl.String, pl.Enum(["Lima", *CITIES])], ids=str
)
def test_samples_of_polars(dtype):
    columns = {name: weather()[name].to_list() for name in weather()}
    X = pl.DataFrame(columns).with_columns(pl.col("city").cast(dtype))
    samples = mixture().fit(X).sample(200, random_state=0)
    assert samples.schema == X.schema
    assert set(samples["city"]) == set(CITIES)


def test_samples_of_pyarrow():
    pa = pytest.importorskip("pyarrow")
    table = pa.table({name: weather()[name].to_list() for name in weather()})
    city = table["city"].combine_chunks().dictionary_encode()
    for X in (table, table.set_column(0, "city", city)):
        samples = mixture().fit(X).sample(100, random_state=0)
        assert samples.column_names == X.column_names
        assert set(samples["city"].to_pylist()) == set(CITIES)


def test_containers_and_types_give_equal_models():
    X, T = weather(), weather(50, seed=1)
    expected = mixture().fit(X).score_samples(T)
    columns = {name: weather()[name].to_list() for name in weather()}
    for one in (weather(dtype="str"), pl.DataFrame(columns)):
        got = mixture().fit(one).score_samples(T)
        np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_scores_are_log_probabilities(fitted):
    grid = np.linspace(-20, 60, 1601)
    total = sum(
        np.exp(
            fitted.score_samples(
                pd.DataFrame({"city": city, "temperature": grid, "sun": sun})
            )
        ).sum()
        * (grid[1] - grid[0])
        for city in CITIES
        for sun in (False, True)
    )
    # What is beyond 0 and 1 for the feature of truth values is missing.
    assert 0.9 < total < 1.0 + 1e-3
    scores = fitted.score_samples(of_cities(CITIES))
    assert scores.argmax() == CITIES.index("Rome")


def test_one_feature_of_categories():
    X = pd.DataFrame({"city": pd.Series(["a"] * 60 + ["b"] * 30 + ["c"] * 10)})
    density = mixture().fit(X)
    probability = np.exp(density.score_samples(pd.DataFrame({"city": ["a", "b", "c"]})))
    assert probability.sum() == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(probability, [0.6, 0.3, 0.1], atol=0.12)


def test_the_order_helps(fitted):
    # Alphabetic order would have Oslo, the coldest, in the middle.
    renamed = weather().assign(
        city=weather()["city"].astype(str).map({"Cairo": "b", "Oslo": "c", "Rome": "a"})
    )
    other = mixture().fit(renamed)
    T = weather(200, seed=1)
    same = T.assign(
        city=T["city"].astype(str).map({"Cairo": "b", "Oslo": "c", "Rome": "a"})
    )
    np.testing.assert_allclose(
        other.score_samples(same), fitted.score_samples(T), rtol=1e-9
    )


def test_an_order_of_the_type_stays():
    levels = pd.CategoricalDtype(["low", "middle", "high"], ordered=True)
    X = pd.DataFrame(
        {"level": pd.Series(["low", "high", "middle"] * 40, dtype=levels)}
    ).assign(x=np.random.RandomState(0).standard_normal(120))
    samples = mixture().fit(X).sample(50, random_state=0)
    assert samples["level"].dtype == levels


def test_categories_that_were_not_there(fitted):
    strange = of_cities(["Rome", "Lima", "Lima"])
    with pytest.warns(UserWarning, match="2 of 3 samples .* row 1, with a category"):
        scores = fitted.score_samples(strange)
    np.testing.assert_array_equal(np.isneginf(scores), [False, True, True])
    with pytest.raises(ValueError, match="has not seen in row 1 of column 'city'"):
        fitted.transform(strange)
    with pytest.raises(ValueError, match="NaN: a missing value in column 'city'"):
        fitted.score_samples(of_cities(["Rome", None, "Oslo"]))


def test_too_many_categories():
    X = weather(100).assign(city=[f"row {i // 2}" for i in range(100)])
    with pytest.raises(ValueError, match="'city' of X has 50 categories"):
        mixture().fit(X)
    with pytest.raises(ValueError, match=r"'bounds' .* names column 'city', which"):
        mixture(bounds={"city": (0, 3)}).fit(weather())
    with pytest.raises(ValueError, match=r"'discrete' .* names column 'city', which"):
        mixture(discrete=["city"]).fit(weather())


def test_lists_are_by_position_whatever_the_labels():
    X = weather().set_axis([1, 2, 3], axis=1)
    density = mixture(bounds=[None, (-60, 60), None]).fit(X)
    np.testing.assert_array_equal(density.support_.lower, [0, -60, -np.inf])
    with pytest.raises(ValueError, match=r"'bounds' .* names column 1, which"):
        mixture(bounds=[(0, 3), None, None]).fit(X)


def test_one_category_only():
    for X in (weather().assign(city="Rome"), pl.DataFrame({"city": ["Rome"] * 20})):
        with pytest.raises(ValueError, match="'city' of X is 'Rome' in every row"):
            mixture().fit(X)


@given(
    st.lists(st.sampled_from("abcd"), min_size=30, max_size=60).filter(
        lambda letters: len(set(letters)) > 1
    ),
    st.integers(0, 9),
)
@settings(max_examples=10)
def test_all_samples_are_values_that_were_seen(letters, seed):
    rng = np.random.RandomState(seed)
    X = pd.DataFrame(
        {
            "letter": letters,
            "grade": rng.choice([1, 3, 10], len(letters)),
            "x": rng.standard_normal(len(letters)),
        }
    )
    samples = mixture(init="gaussian").fit(X).sample(300, random_state=0)
    assert set(samples["letter"]) <= set(letters)
    assert set(samples["grade"]) <= set(X["grade"])


def test_files(fitted, tmp_path):
    fitted.save(tmp_path / "model.skjko")
    loaded = JKOFlowDensity.load(tmp_path / "model.skjko")
    T = weather(50, seed=1)
    np.testing.assert_array_equal(loaded.score_samples(T), fitted.score_samples(T))
    one, other = (d.sample(50, random_state=0) for d in (loaded, fitted))
    pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("statistic", ["combined", "likelihood"])
def test_the_detector(statistic, tmp_path):
    density = mixture(bounds={"temperature": (-60, 60)})
    detector = JKOFlowOutlierDetector(
        statistic=statistic, density=density, random_state=0
    )
    detector.fit(weather(600))
    usual, strange = of_cities(["Rome"], 20.0), of_cities(["Oslo"], 31.0)
    usual, strange = (x.assign(sun=False) for x in (usual, strange))
    assert detector.score_samples(usual) > detector.score_samples(strange) + 2
    assert detector.explain(strange)["city"][0] > 0
    values = detector.most_likely_values(pd.concat([usual, strange]))
    assert set(values["city"]) <= set(CITIES)
    assert values["temperature"].between(-60, 60).all()
    assert set(values["sun"]) <= {0.0, 1.0}
    with pytest.warns(UserWarning, match="a category that fit has not seen"):
        assert detector.predict(of_cities(["Lima"])) == -1
    detector.save(tmp_path / "model.skjko")
    loaded = JKOFlowOutlierDetector.load(tmp_path / "model.skjko")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for rows in (usual, strange, of_cities(["Lima"])):
            assert loaded.score_samples(rows) == detector.score_samples(rows)
    fixed = JKOFlowOutlierDetector.from_density(
        mixture().fit(weather(400)), weather(200, seed=3), random_state=0
    )
    assert fixed.score_samples(usual) > fixed.score_samples(strange)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("2025-{:02}-11", "look like dates, such as '2025-01-11': .*to_datetime"),
        ("1.{}.2025", "look like dates, such as '1.1.2025'"),
        ("2025/{}/3 10:15", "look like dates"),
        ("0,1{}", "look like numbers.*: convert them with a decimal point"),
        (" -{}.5e3", "look like numbers, such as ' -1.5e3': convert them, as by"),
        ("10.0.0.{}", None),
        ("{}.2025 1", None),
        ("Bo {}", None),
    ],
)
def test_dates_and_numbers_as_text_are_told(text, expected):
    X = pd.DataFrame({"city": [text.format(i + 1) for i in range(12)]})
    with pytest.raises(ValueError, match="12 categories in 12 rows") as error:
        mixture().fit(X)
    found = str(error.value)
    if expected is None:
        assert found.endswith("merge rare categories into one.")
    else:
        assert re.search(expected, found), found
