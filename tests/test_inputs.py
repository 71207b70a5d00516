"""What is checked of tables before anything else, and what errors say of it."""

import datetime
import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest
from helpers import quick
from scipy import sparse
from sklearn import config_context

from skjko import JKOFlowDensity, JKOFlowOutlierDetector


def gaussian(**parameters):
    return quick(**{"max_blocks": 0, "early_stopping": False, **parameters})


def positive(n=60, d=3):
    return np.abs(np.random.RandomState(0).standard_normal((n, d))) + 0.1


def detector(**parameters):
    return JKOFlowOutlierDetector(density=gaussian(**parameters), random_state=0)


def objects(value, row=1, column=1):
    X = np.arange(12.0).reshape(-1, 2).astype(object)
    X[row, column] = value
    return X


def framed(value):
    return pd.DataFrame(objects(value), columns=["a", "b"])


DAY = datetime.date(2020, 2, 3)
TIMES = [
    DAY,
    datetime.time(3),
    datetime.datetime(2020, 2, 3),
    datetime.timedelta(3),
    np.datetime64("2020-02-03"),
    np.timedelta64(3, "s"),
    pd.Timestamp("2020-02-03"),
    pd.Period("2020-02"),
    pd.NaT,
]
MISSING = r"X contains NaN: a missing value in column {} \(1\), first in row 1.*X = X"
COLUMN = {"array": "1", "frame": "'b'"}
FORMS = {"array": objects, "frame": framed}


@pytest.mark.parametrize("estimator", [gaussian, detector])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "value, message",
    [
        *((value, "X hold dates or times: {} {first}.*numbers") for value in TIMES),
        *((v, "X hold categories or text: {} {first}.*Enc") for v in ("x", b"x", "3")),
        (np.inf, r"Input X contains infinity.* in column {} \(1\), first in row 1"),
        (10**400, "X has a value that is no number in row 1 of column {}"),
    ],
)
def test_one_value_that_is_no_number(estimator, form, value, message):
    message = message.format(COLUMN[form], first=r"\(first in row 1\)")
    with pytest.raises(ValueError, match=message):
        estimator().fit(FORMS[form](value))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [None, np.nan, pd.NA, Decimal("NaN")])
def test_one_value_that_is_missing(form, value):
    X = FORMS[form](value)
    with pytest.raises(ValueError, match=MISSING.format(COLUMN[form])):
        detector().fit(X)
    X = np.random.default_rng(0).normal(size=(6, 2)).astype(object)
    X[1, 1] = value
    X = pd.DataFrame(X) if form == "frame" else X
    assert gaussian().fit(X).missing_.seen.tolist() == [False, True]


@pytest.mark.parametrize("estimator", [gaussian, detector])
@pytest.mark.parametrize(
    "X, message",
    [
        (np.array([["2020", "2021"]] * 3, "M8[D]"), "dates or times: 0, 1"),
        (np.array([["NaT", "2021"]] * 3, "M8[D]"), "dates or times: 0, 1"),
        (np.array([[1, 2]] * 3, "m8[s]"), "dates or times: 0, 1"),
        (np.array([["a", "1"]] * 3), "categories or text: 0, 1"),
        ([[1, "a"], [2, "b"]], r"categories or text: 1 \(first in row 0\)"),
        (
            pd.DataFrame({"a": [1, 2], "t": pd.to_timedelta([1, None])}),
            "dates or times: 't'",
        ),
        (
            pd.DataFrame({"a": [1, 2], "t": pd.period_range("2020", periods=2)}),
            "dates or times: 't'",
        ),
        (pl.DataFrame({"t": [datetime.time(3)] * 2}), "dates or times: 't'"),
        (
            np.ma.array([[1.0, 2], [3, 4]], mask=[[False, False], [True, False]]),
            r"X is a masked array with 1 masked entries.* row 1 of column 0.*compress",
        ),
        (np.eye(3) + 1j, "Complex data not supported"),
        (pd.DataFrame({"a": [1j, 2], "b": ["x", "y"]}), "Complex data not supported"),
        (pl.LazyFrame({"a": [1, 2]}), r"X is a lazy frame.*\.collect\(\)"),
    ],
)
def test_tables_that_hold_no_numbers(estimator, X, message):
    with pytest.raises(ValueError, match=message):
        estimator().fit(X)


@pytest.mark.parametrize("estimator", [gaussian, detector])
def test_what_is_no_number_at_all(estimator):
    for X, name in ((objects({}), "1"), (framed([1, 2]), "'b'")):
        with pytest.raises(TypeError, match=f"row 1 of column {name}: .*argument must"):
            estimator().fit(X)
    with pytest.raises(TypeError, match="Sparse data was passed"):
        estimator().fit(sparse.csr_matrix(np.eye(3)))


def test_masked_arrays_without_masked_entries_are_arrays():
    X = positive()
    expected = gaussian().fit(X).score_samples(X)
    for mask in (False, np.zeros(X.shape, dtype=bool)):
        masked = np.ma.array(X, mask=mask)
        found = gaussian().fit(masked).score_samples(masked)
        np.testing.assert_array_equal(found, expected)
        assert not isinstance(found, np.ma.MaskedArray)


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame])
def test_all_bad_columns_are_in_one_message(make):
    X = make(
        {
            "kind": [b"x", b"y"],
            "day": [datetime.datetime(2020, 1, 1)] * 2,
            "hole": [1.0, None],
            "name": [b"x", None],
            "fine": [1, 2],
        }
    )
    with pytest.raises(ValueError, match="text") as error:
        gaussian().fit(X)
    text = str(error.value)
    assert "text: 'kind', 'name'" in text.replace(" (first in row 0)", "")
    assert "times: 'day'" in text
    assert "a missing value in column 'hole' (1), first in row 1" in text
    assert "'fine'" not in text
    recipe = "columns=['kind', 'name']" if make is pd.DataFrame else "['kind', 'name']"
    assert f"X = X.drop({recipe})" in text


SPOILED = {
    "NaN": (lambda X: X.__setitem__((2, 1), np.nan), "contains NaN.* row 2"),
    "infinity": (lambda X: X.__setitem__((2, 1), -np.inf), "infinity.* row 2"),
    "text": (lambda X: X.__setitem__((2, 1), "x"), "categories or text: 1.* row 2"),
    "dates": (lambda X: X.__setitem__((2, 1), DAY), "dates or times: 1.* row 2"),
}


@pytest.mark.parametrize("how", SPOILED)
@pytest.mark.parametrize("argument", ["X_val", "X_calibration", "Z"])
def test_messages_name_the_argument(how, argument):
    X = positive()
    rows = X.astype(object)
    spoil, message = SPOILED[how]
    spoil(rows)
    use = {
        "X_val": lambda: gaussian(early_stopping=True).fit(X, X_val=rows),
        "X_calibration": lambda: detector().fit(X, X_calibration=rows),
        "Z": lambda: gaussian().fit(X).inverse_transform(rows),
    }[argument]
    with pytest.raises(ValueError, match=rf"\b{argument}\b.*{message}"):
        use()


@pytest.mark.parametrize(
    "rows, message",
    [
        (np.zeros((3, 2)), r"^X_val has 2 features, but JKOFlowDensity is expecting 3"),
        (np.zeros(3), "^X_val: Expected 2D array"),
        (np.zeros((0, 3)), "^X_val: Found array with 0 sample"),
        (np.full((3, 3), 1j), "^X_val: Complex data not supported"),
        (
            np.full((3, 3), 1e301),
            r"^X_val has values beyond 1e\+300 in column 0.* row 0",
        ),
        (
            pd.DataFrame(np.zeros((3, 3)), columns=list("abd")),
            "^X_val: The feature names",
        ),
    ],
)
def test_other_messages_name_the_argument(rows, message):
    X = pd.DataFrame(positive(), columns=list("abc"))
    table = X if isinstance(rows, pd.DataFrame) else X.to_numpy()
    with pytest.raises(ValueError, match=message):
        gaussian(early_stopping=True).fit(table, X_val=rows)


def test_calibration_samples_of_a_fitted_density_are_called_so():
    X = pd.DataFrame(positive(), columns=list("abc"))
    rows = X.assign(b="x")
    with pytest.raises(ValueError, match=r"columns of X_calibration hold .* 'b'"):
        JKOFlowOutlierDetector.from_density(gaussian().fit(X), rows)


@pytest.mark.parametrize(
    "method", ["predict", "score_samples", "decision_function", "p_values", "explain"]
)
def test_the_detector_names_columns_at_use(method):
    X = pd.DataFrame(positive(), columns=list("abc"))
    use = getattr(detector(discrete=None).fit(X), method)
    with pytest.raises(ValueError, match="X hold categories or text: 'b'"):
        use(X.assign(b="x"))
    with pytest.raises(ValueError, match=r"NaN: 60 missing values in column 'c'"):
        use(X.assign(c=np.nan))


def test_values_too_large_are_named_by_their_column():
    X = pd.DataFrame({"a": [1.0, 2, 3], "b": [1.0, 2, -1e301]})
    for estimator in (gaussian(), detector()):
        with pytest.raises(
            ValueError, match=r"in column 'b', such as -1e\+301 in row 2"
        ):
            estimator.fit(X)


def test_nan_that_nobody_looked_for():
    X = np.random.RandomState(0).standard_normal((50, 2))
    bad = X.copy()
    bad[3, 1] = np.nan
    density = JKOFlowDensity(max_blocks=0, random_state=0).fit(X)
    with config_context(assume_finite=True):
        with pytest.raises(ValueError, match="Input X contains NaN in column 1"):
            JKOFlowOutlierDetector().fit(bad)
        with pytest.raises(ValueError, match="X_val contains NaN in row 3 of column 1"):
            JKOFlowDensity(max_blocks=0).fit(X, X_val=bad)
        scores = density.score_samples(bad)
        assert scores[3] == -np.inf
        assert np.isfinite(np.delete(scores, 3)).all()
        for method in ("transform", "inverse_transform", "trajectory"):
            with pytest.raises(ValueError, match="contains NaN"):
                getattr(density, method)(bad)


def test_warnings_point_at_the_line_of_the_user():
    X = np.random.RandomState(0).standard_normal((60, 2))
    weight = np.r_[np.ones(5), np.full(55, 1e-6)]
    detector = JKOFlowOutlierDetector(
        density=JKOFlowDensity(max_blocks=0), calibration_fraction=0.1
    )
    fits = (
        lambda: JKOFlowDensity(max_blocks=0).fit(X, sample_weight=weight),
        lambda: detector.fit(X),
    )
    for fit in fits:
        with pytest.warns(UserWarning, match="samples") as seen:
            fit()
        assert {one.filename for one in seen} == {__file__}


NUMBERS = np.random.RandomState(0).permutation(150)


@pytest.mark.parametrize("estimator", [gaussian, detector])
@pytest.mark.parametrize(
    "numbered",
    [
        lambda: np.c_[np.arange(150) // 2, NUMBERS],
        lambda: pd.DataFrame({"x": NUMBERS % 7, "Row": NUMBERS + 10**6}),
        lambda: pl.DataFrame({"x": NUMBERS / 3, "Row": NUMBERS * 1.9 // 1}).cast(
            {"Row": pl.Int32}
        ),
    ],
    ids=["array", "pandas", "polars with gaps"],
)
def test_integers_that_number_the_rows_are_warned_of(estimator, numbered):
    X = numbered()
    column = "1" if isinstance(X, np.ndarray) else "'Row'"
    message = f"^Every row of X has another integer in column {column}. Leave the"
    with pytest.warns(UserWarning, match=message) as caught:
        model = estimator().fit(X)
    assert sum("numbers the rows" in str(one.message) for one in caught) == 1
    assert {one.filename for one in caught} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.score_samples(X)


@pytest.mark.parametrize(
    "column",
    [
        NUMBERS.astype(float),  # no integers
        NUMBERS**2,  # far apart
        NUMBERS % 149,  # one of them twice
        np.r_[NUMBERS[NUMBERS < 90], 1000:1060],
    ],
)
def test_other_numbers_are_not_warned_of(column):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gaussian().fit(pd.DataFrame({"a": column, "b": NUMBERS % 7}))
        gaussian().fit(np.arange(60).reshape(30, 2))
