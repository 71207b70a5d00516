"""Tables of any form: what samples keep of it, and what is said of what is missing."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

from skjko import JKOFlowDensity, MLPField, RungeKutta
from skjko.data.frames import Table
from skjko.transforms.discrete import DiscreteGrid


def quick(**parameters):
    """An estimator that trains in well under a second."""
    settings = {
        "max_blocks": 1,
        "field": MLPField((8, 8)),
        "max_iter": 8,
        "solver": RungeKutta(n_steps=1),
        "early_stopping": False,
        "random_state": 0,
        **parameters,
    }
    return JKOFlowDensity(**settings)


def mixed(n=200):
    rng = np.random.RandomState(0)
    return {
        "real": rng.standard_normal(n),
        "single": rng.standard_normal(n).astype(np.float32),
        "count": rng.poisson(3, n).astype(np.int16),
        "byte": rng.randint(0, 9, n).astype(np.uint8),
        "flag": rng.uniform(size=n) < 0.3,
        "id": rng.randint(0, 10**9, n),
        "price": np.round(rng.uniform(1, 3, n), 1),
        "same": np.full(n, 7, dtype=np.int32),
    }


BOUNDS = {"count": (0, None), "byte": (0, 8), "single": (-6, 6), "price": (1, 3)}


@pytest.fixture(scope="module", params=["pandas", "nullable", "polars"])
def frame(request):
    data = mixed()
    if request.param == "polars":
        return pl.DataFrame(data)
    frame = pd.DataFrame(data)
    return frame.convert_dtypes() if request.param == "nullable" else frame


@pytest.fixture(scope="module")
def fitted(frame):
    return quick(bounds=BOUNDS).fit(frame)


def test_samples_have_the_form_of_the_table(frame, fitted, tmp_path):
    fitted.save(tmp_path / "model")
    loaded = JKOFlowDensity.load(tmp_path / "model")
    for density in (fitted, loaded):
        sample = density.sample(300, random_state=0)
        assert type(sample) is type(frame)
        assert list(sample.columns) == list(frame.columns)
        assert list(sample.dtypes) == list(frame.dtypes)
        values = {name: np.asarray(sample[name]).astype(float) for name in mixed()}
        assert all(np.isfinite(v).all() for v in values.values())
        assert values["count"].min() >= 0
        assert 0 <= values["byte"].min() <= values["byte"].max() <= 8
        assert (np.abs(values["single"]) < 6).all()
        assert (values["same"] == 7).all()
        # Not only near the grid: the very numbers of the data.
        assert np.isin(values["price"], np.round(np.arange(1, 3.01, 0.1), 1)).all()
    np.testing.assert_array_equal(
        np.asarray(loaded.score_samples(frame)), fitted.score_samples(frame)
    )


def test_steps_are_found(fitted):
    step = dict(zip(mixed(), fitted.support_.grid.step, strict=True))
    expected = {
        "real": 0,
        "single": 0,
        "count": 1,
        "byte": 1,
        "flag": 1,
        "id": 0,
        "price": 0.1,
        "same": np.inf,
    }
    assert step == expected


def test_scores_are_those_of_the_array(frame, fitted):
    array = np.column_stack([np.asarray(v, float) for v in mixed().values()])
    with pytest.warns(UserWarning, match="feature names"):
        scores = fitted.score_samples(array)
    np.testing.assert_array_equal(scores, fitted.score_samples(frame))


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int64", "uint64"])
def test_arrays_of_integers_give_integers(dtype):
    X = (np.random.RandomState(0).poisson(1, (100, 2))).astype(dtype)
    sample = quick().fit(X).sample(50, random_state=0)
    assert isinstance(sample, np.ndarray)
    assert sample.dtype == dtype
    ids = np.arange(200).reshape(-1, 2) ** 3
    assert quick().fit(ids).sample(5).dtype == np.float64


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_arrays_of_floats_give_such_floats(dtype):
    X = np.random.RandomState(0).standard_normal((100, 2)).astype(dtype)
    assert quick().fit(X).sample(5).dtype == dtype


def test_lists_give_arrays():
    assert quick().fit([[1.5, 2], [2.5, 1], [0.5, 0.1]]).sample(2).dtype == np.float64


def test_memory_maps(tmp_path):
    X = np.random.RandomState(0).standard_normal((300, 2))
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    expected = quick().fit(X).score_samples(X)
    np.testing.assert_array_equal(quick().fit(mapped).score_samples(mapped), expected)
    np.testing.assert_array_equal(np.load(tmp_path / "X.npy"), X)


@pytest.mark.parametrize("dtype", ["int64", "uint64", "int8", "bool", "float32"])
def test_values_fit_their_type(dtype):
    table = Table.of(np.zeros((1, 1), dtype))
    grid = DiscreteGrid(np.zeros(1), np.ones(1))
    low, high = np.array([-np.inf]), np.array([np.inf])
    rows = np.array([[-1e300], [0.0], [1e300]])
    sample = table.rebuild(len(rows), [(slice(None), rows)], grid, low, high)
    assert sample.dtype == dtype
    assert sample[0, 0] <= 0 <= sample[2, 0]
    assert sample[1, 0] == 0
    assert sample[2, 0] > 0


@pytest.mark.parametrize("dtype", ["int8", "uint16", "float16", "int32"])
@pytest.mark.parametrize("bounds", [(-np.inf, np.inf), (-200, 150)])
def test_values_at_the_end_of_their_type_are_on_the_grid(dtype, bounds):
    table = Table.of(np.zeros((1, 1), dtype))
    step = 7.0 if dtype == "int8" else 48.0
    low, high = (np.array([float(bound)]) for bound in bounds)
    rows = np.array([[-1e300], [step], [1e300]])
    grid = DiscreteGrid(np.zeros(1), np.array([step]))
    sample = table.rebuild(len(rows), [(slice(None), rows)], grid, low, high)
    values = sample[:, 0].astype(object)
    assert [int(value) % int(step) for value in values] == [0, 0, 0]
    assert bounds[0] <= values[0] <= values[1] == step < values[2] <= bounds[1]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_bounds_are_open_in_every_type(dtype):
    table = Table.of(np.zeros((1, 1), dtype))
    low, high = np.array([0.1]), np.array([0.7])
    rows = np.array([[-9.0], [0.1], [0.7], [9.0]])
    grid = DiscreteGrid.none(1)
    sample = table.rebuild(len(rows), [(slice(None), rows)], grid, low, high)
    assert sample.dtype == dtype
    assert (sample.astype(float) > 0.1).all()
    assert (sample.astype(float) < 0.7).all()


# ------------------------------------------------------------------- what is wrong


NAN = np.nan


@pytest.mark.parametrize(
    "X, message",
    [
        (
            pd.DataFrame({"a": [1, NAN, NAN], "b": [0.5, 1, 2], "c": [NAN, 1, 2]}),
            r"contains NaN: 3 missing values in columns 'a' \(2\), 'c' \(1\).*dropna",
        ),
        (
            pd.DataFrame({"a": pd.array([1, None, 3], "Int64")}),
            r"contains NaN: a missing value in column 'a' \(1\).*impute",
        ),
        (
            pl.DataFrame({"a": [1, None, 3], "b": [1.0, NAN, None]}),
            r"3 missing values in columns 'a' \(1\), 'b' \(2\).*drop_nulls",
        ),
        (
            np.array([[0, 1], [NAN, 1]]),
            r"contains NaN: a missing value in column 0 \(1\).*isnan",
        ),
        (
            pd.DataFrame({"a": [1.0, 2, 3], "kind": ["x", "y", "x"]}),
            r"categories or text: 'kind'.*[Ee]ncode.*leave",
        ),
        (
            pd.DataFrame({"a": pd.Categorical([1, 2, 1])}),
            r"categories or text: 'a'",
        ),
        (
            pd.DataFrame({"a": np.array(["x", 1, 2], dtype=object)}),
            r"categories or text: 'a'",
        ),
        (pl.DataFrame({"a": ["x", "y"]}), r"categories or text: 'a'"),
        (
            pl.DataFrame({"a": pl.Series(["x", "y"], dtype=pl.Categorical)}),
            r"categories or text: 'a'",
        ),
        (
            pd.DataFrame({"day": pd.to_datetime(["2020-01-01", "2021-01-01"])}),
            r"dates or times: 'day'",
        ),
        (
            pd.DataFrame({f"c{j}": ["x", "y"] for j in range(8)}),
            r"'c4' and 3 more",
        ),
    ],
)
def test_what_is_no_number_is_named(X, message):
    with pytest.raises(ValueError, match=message):
        quick().fit(X)


def test_missing_values_are_named_at_use(fitted, frame):
    rows = pd.DataFrame(mixed(5)).astype({"count": float})
    rows.loc[2, "count"] = NAN
    with pytest.raises(ValueError, match=r"a missing value in column 'count' \(1\)"):
        fitted.score_samples(rows)
