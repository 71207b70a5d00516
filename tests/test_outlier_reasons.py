"""JKOFlowOutlierDetector.top: the most unusual samples, and the features to change."""

import re

import numpy as np
import pandas as pd
import pytest

from skjko import JKOFlowDensity, JKOFlowOutlierDetector
from skjko.explanation import smallest_changes

# Of a Gaussian: b follows a, d follows c, and e is the sum of both.
NAMES = list("abcde")


def rows(n, seed=0):
    rng = np.random.RandomState(seed)
    a, c = rng.standard_normal((2, n))
    columns = np.column_stack([a, a, c, c, a + c])
    return pd.DataFrame(columns + 0.1 * rng.standard_normal((n, 5)), columns=NAMES)


@pytest.fixture(scope="module")
def detector():
    density = JKOFlowDensity(init="gaussian", max_blocks=0, discrete=None)
    return JKOFlowOutlierDetector(density=density, random_state=0).fit(rows(500))


def reasons(found):
    """Names of the features of every sample."""
    named = found[["reason_1", "reason_2", "reason_3"]].to_numpy()
    return [{name for name in row if isinstance(name, str)} for row in named]


def usual(n):
    """Rows at the middle of their linear dependence."""
    a, c = np.random.RandomState(1).uniform(-1, 1, (2, n))
    return pd.DataFrame(np.column_stack([a, a, c, c, a + c]), columns=NAMES)


def test_the_lowest_scores_come_first(detector):
    X = rows(60, seed=1)
    X.index = [f"row {i}" for i in range(60)]
    found = detector.top(X, n=7)
    order = np.argsort(detector.score_samples(X))[:7]
    np.testing.assert_array_equal(found["row"], order)
    np.testing.assert_array_equal(found.index, X.index[order])
    np.testing.assert_array_equal(found["score"], detector.score_samples(X)[order])
    np.testing.assert_array_equal(found["p_value"], detector.p_values(X)[order])
    assert len(detector.top(X.iloc[:3])) == 3


@pytest.mark.parametrize("planted", [["a"], ["e"], ["a", "b"], ["c", "d"], ["b", "d"]])
def test_planted_features_are_the_reasons(detector, planted):
    """Two that are wrong and agree with each other, too."""
    X = usual(5)
    before = X[planted].to_numpy()
    X[planted] += 6.0
    found = detector.top(X)
    assert reasons(found) == [set(planted)] * 5
    assert not found["reasons"].str.contains("too|, or").any()
    row, name, sentence = found["row"][0], planted[0], found["reasons"][0]
    told = re.search(rf"olumn '{name}' is (\S+) where (\S+) is expected", sentence)
    assert float(told[1]) == pytest.approx(X[name][row], rel=1e-3)
    assert float(told[2]) == pytest.approx(before[row, 0], abs=0.4)


def test_two_features_that_contradict_each_other():
    """A change of either is enough: both are named, and an "or" between them."""
    table = rows(500)[["a", "b"]]
    density = JKOFlowDensity(init="gaussian", max_blocks=0, discrete=None)
    detector = JKOFlowOutlierDetector(density=density, random_state=0).fit(table)
    found = detector.top(pd.DataFrame({"a": [1.5], "b": [-1.5]}))
    assert reasons(found) == [{"a", "b"}]
    assert ", or column" in found["reasons"].iloc[0]
    usual = detector.top(pd.DataFrame({"a": [0.2], "b": [0.2]}))
    assert reasons(usual) == [set()]
    assert usual["reasons"].iloc[0] == "As usual as other samples."


def test_values_are_told_in_as_many_digits_as_it_takes():
    a = 1000 + np.random.RandomState(0).standard_normal(500)
    table = np.column_stack(
        [a, a + 1e-4 * np.random.RandomState(1).standard_normal(500)]
    )
    density = JKOFlowDensity(init="gaussian", max_blocks=0, discrete=None)
    detector = JKOFlowOutlierDetector(density=density, random_state=0).fit(table)
    (sentence,) = detector.top([[1000.12, 1000.13]])["reasons"]
    told = re.findall(r"is (\S+) where (\S+) is expected", sentence)
    assert told
    assert all(now != expected for now, expected in told)


def test_categories_are_told_by_name():
    table = rows(400)[["a", "b"]]
    table["kind"] = np.where(table["a"] > 0, "high", "low")
    density = JKOFlowDensity(init="gaussian", max_blocks=0, discrete=None)
    detector = JKOFlowOutlierDetector(density=density, random_state=0).fit(table)
    strange = pd.DataFrame({"a": [1.5], "b": [1.5], "kind": ["low"]})
    (sentence,) = detector.top(strange)["reasons"]
    assert "column 'kind' is 'low' where 'high' is expected" in sentence.lower()


def test_arrays_have_numbers_of_columns(detector):
    X = usual(4)
    X.loc[2, "e"] += 4.0
    density = JKOFlowDensity(init="gaussian", max_blocks=0, discrete=None)
    plain = JKOFlowOutlierDetector(
        density=density, calibration_fraction=0, random_state=0
    ).fit(rows(500).to_numpy())
    found = plain.top(X.to_numpy(), n=1)
    assert found.index.tolist() == found["row"].tolist() == [2]
    assert "p_value" not in found
    assert found["reason_1"].tolist() == [4]
    assert found["reasons"].iloc[0].startswith("Column 4 is ")


def test_without_pandas_it_is_a_structured_array(detector, monkeypatch):
    X = usual(3).assign(e=9.0)
    expected = detector.top(X)
    monkeypatch.setattr("skjko.outlier_reasons.find_spec", lambda name: None)
    found = detector.top(X)
    assert found.dtype.names == tuple(expected)
    np.testing.assert_array_equal(found["score"], expected["score"])
    assert found["reasons"].tolist() == expected["reasons"].tolist()


def test_samples_far_out_in_several_features(detector):
    X = usual(2)
    X.loc[0, ["a", "e"]] = 1e200, -1e200
    X.loc[1, ["a", "d"]] = 1e9
    found = detector.top(X)
    assert reasons(found) == [{"a", "e"}, {"a", "d"}]
    X.loc[:] = 1e6 * np.random.RandomState(0).standard_normal((2, 5))
    assert detector.top(X)["reasons"].str.endswith("are unusual too.").all()


def test_too_likely_samples_have_no_features():
    table = np.random.RandomState(0).standard_normal((500, 30))
    density = JKOFlowDensity(init="gaussian", max_blocks=0, discrete=None)
    detector = JKOFlowOutlierDetector(
        density=density, statistic="typicality", random_state=0
    ).fit(table)
    found = detector.top(np.zeros((1, 30)))
    assert found["p_value"].iloc[0] < 0.05
    assert found["reasons"].iloc[0].startswith("More likely than")


@pytest.mark.parametrize("n", [0, 2.0, True, "all"])
def test_bad_numbers(detector, n):
    with pytest.raises(ValueError, match=r"'n' .*top must be an int"):
        detector.top(rows(5), n=n)


def test_changes_of_a_function_that_is_known():
    """Only both together gain anything; the third has nothing to do with it."""
    usual = np.random.RandomState(0).standard_normal((200, 3))
    usual[:, 1] = usual[:, 0]

    def score(x):
        return np.where(np.abs(x[:, :2]).max(axis=1) < 4, 0.0, -10.0)

    candidates = np.quantile(usual, np.linspace(0, 1, 33), axis=0)
    x = np.array([5.0, 5.0, 0.5])
    changes = smallest_changes(
        score, x, candidates, lambda values, j: values, usual, -2.0, -1.0
    )
    assert changes.is_enough
    assert sorted(changes.columns) == [0, 1]
    assert changes.expected[2] == 0.5
