"""Tables of any form: what samples keep of it, and what is said of what is missing."""

import pickle
from decimal import Decimal

import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest

from skjko import JKOFlowDensity, JKOFlowOutlierDetector, MLPField, RungeKutta
from skjko.data.columns import numbers
from skjko.data.frames import Table
from skjko.support import Support
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
    sample = table.rebuild(len(rows), [(slice(None), rows)], Support(grid, low, high))
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
    sample = table.rebuild(len(rows), [(slice(None), rows)], Support(grid, low, high))
    values = sample[:, 0].astype(object)
    assert [int(value) % int(step) for value in values] == [0, 0, 0]
    assert bounds[0] <= values[0] <= values[1] == step < values[2] <= bounds[1]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_bounds_are_open_in_every_type(dtype):
    table = Table.of(np.zeros((1, 1), dtype))
    low, high = np.array([0.1]), np.array([0.7])
    rows = np.array([[-9.0], [0.1], [0.7], [9.0]])
    grid = DiscreteGrid.none(1)
    sample = table.rebuild(len(rows), [(slice(None), rows)], Support(grid, low, high))
    assert sample.dtype == dtype
    assert (sample.astype(float) > 0.1).all()
    assert (sample.astype(float) < 0.7).all()


# ------------------------------------------------------------------- what is wrong


NAN = np.nan


@pytest.mark.parametrize(
    "X, message",
    [
        (
            pd.DataFrame({"a": [1.0, 2, 3], "kind": [b"x", b"y", b"x"]}),
            r"categories or text: 'kind'.*[Ee]ncode.*leave",
        ),
        (
            pd.DataFrame({"a": [1.0, 2, 3], "kind": ["x", "x", "x"]}),
            r"Column 'kind' of X is 'x' in every row.*Leave the column out",
        ),
        (
            pd.DataFrame({"a": np.array(["x", 1, 2], dtype=object)}),
            r"categories or text: 'a'",
        ),
        (pl.DataFrame({"a": [b"x", b"y"]}), r"categories or text: 'a'"),
        (
            pd.DataFrame({"day": pd.to_datetime(["2020-01-01", "2021-01-01"])}),
            r"dates or times: 'day'",
        ),
        (
            pd.DataFrame({f"c{j}": [b"x", b"y"] for j in range(8)}),
            r"'c4'.* and 3 more",
        ),
    ],
)
def test_what_is_no_number_is_named(X, message):
    with pytest.raises(ValueError, match=message):
        quick().fit(X)


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
    ],
)
def test_missing_values_of_a_detector_are_named(X, message):
    with pytest.raises(ValueError, match=message):
        JKOFlowOutlierDetector().fit(X)


def test_missing_values_are_named_at_use(fitted, frame):
    rows = pd.DataFrame(mixed(5)).astype({"count": float})
    rows.loc[2, "count"] = NAN
    with pytest.raises(ValueError, match=r"a missing value in column 'count' \(1\)"):
        fitted.score_samples(rows)


# ------------------------------------------------------------- columns by label


def gaussian(**parameters):
    return quick(**{"max_blocks": 0, "transforms": None, **parameters})


def positive(n=60, d=3):
    return np.abs(np.random.RandomState(0).standard_normal((n, d))) + 0.1


@pytest.mark.parametrize("labels", [[1, 2, 3], [7, 2, 1], np.array([30, 2, 10])])
def test_integer_labels_come_before_positions(labels):
    X = pd.DataFrame(positive(), columns=labels)
    density = gaussian(bounds={2: (0, None)}).fit(X)
    assert density.support_.lower.tolist() == [-np.inf, 0, -np.inf]
    sample = density.sample(3, random_state=0)
    assert list(sample.columns) == list(labels)
    assert not hasattr(density, "feature_names_in_")


def test_integer_labels_of_discrete_features():
    X = pd.DataFrame({2: positive()[:, 0], 1: np.arange(60) % 5, 0: np.arange(60) % 7})
    density = gaussian(discrete={1: 1}).fit(X)
    assert density.support_.grid.step.tolist() == [0, 1, 0]
    # Lists are by position.
    density = gaussian(discrete=[None, None, 1]).fit(X)
    assert density.support_.grid.step.tolist() == [0, 0, 1]


def test_numbers_that_are_no_labels_are_refused():
    X = pd.DataFrame(positive(), columns=[1, 2, 3])
    with pytest.raises(ValueError, match=r"'bounds'.* names 0, .*no label.*integers"):
        gaussian(bounds={0: (0, None)}).fit(X)
    with pytest.raises(ValueError, match=r"'discrete'.* names 9, .*no label"):
        gaussian(discrete={9: 1}).fit(X)
    with pytest.raises(ValueError, match=r"names True, which is no column"):
        gaussian(bounds={True: (0, None)}).fit(X)


def test_numbers_are_positions_among_names():
    X = pd.DataFrame(positive(), columns=["a", "b", "c"])
    density = gaussian(bounds={2: (0, None), "a": (0, 9)}).fit(X)
    assert density.support_.lower.tolist() == [0, -np.inf, 0]
    with pytest.raises(ValueError, match=r"two items for column 'a': 0 and 'a'"):
        gaussian(bounds={0: (0, None), "a": (0, None)}).fit(X)


@pytest.mark.parametrize("label", ["a", 1])
def test_labels_that_occur_twice_are_refused(label):
    X = pd.DataFrame(positive(), columns=[label, label, 5 if label == 1 else "b"])
    with pytest.raises(ValueError, match=rf"label {label!r} occurs 2 times.*columns"):
        gaussian(bounds={label: (0, None)}).fit(X)


def test_other_labels_give_arrays():
    pairs = pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)])
    for labels in (pairs, pd.to_datetime(["2020", "2021", "2022"]), [0.5, 1.5, 2.5]):
        density = gaussian(bounds={1: (0, None)})
        density.fit(pd.DataFrame(positive(), columns=labels))
        assert density.support_.lower.tolist() == [-np.inf, 0, -np.inf]
        sample = density.sample(3, random_state=0)
        assert isinstance(sample, np.ndarray)
        assert sample.dtype == float


def test_integer_labels_in_files(tmp_path):
    X = pd.DataFrame(positive(), columns=[3, 1, 2])
    density = gaussian().fit(X)
    density.save(tmp_path / "model")
    loaded = JKOFlowDensity.load(tmp_path / "model")
    pd.testing.assert_frame_equal(
        loaded.sample(3, random_state=0), density.sample(3, random_state=0)
    )


@pytest.mark.parametrize(
    "names, features", [([1, 2], ["a", "b"]), ([1], None), ([True, False], None)]
)
def test_labels_that_are_none_of_the_features(names, features):
    table = Table("pandas", names, ["int64", "int64"])
    with pytest.raises(ValueError, match="names of the table"):
        table.check(2, features)


def test_discrete_features_by_their_names_alone():
    rng = np.random.RandomState(0)
    X = pd.DataFrame(
        {
            # So few ties that it is not found to be discrete.
            "price": np.round(rng.uniform(0, 40, 200), 1),
            "single": (np.round(rng.uniform(0, 40, 200), 1)).astype(np.float32),
            "id": rng.randint(0, 10**6, 200),
            "count": rng.poisson(3, 200),
            "real": rng.standard_normal(200),
        }
    )
    assert gaussian().fit(X).support_.grid.step.tolist() == [0, 0, 0, 1, 0]
    named = gaussian(discrete=["single", "price", "id"]).fit(X)
    assert named.support_.grid.step == pytest.approx([0.1, 0.1, 1, 0, 0])
    with pytest.raises(ValueError, match=r"'discrete'.*'real'.* no grid.*\{'real': 0"):
        gaussian(discrete=["price", "real"]).fit(X)
    with pytest.raises(ValueError, match=r"'discrete'.* names 'age', .*no column"):
        gaussian(discrete=["age"]).fit(X)
    with pytest.raises(ValueError, match=r"'discrete'.* names 'age', .*no column"):
        gaussian(discrete=["age"]).fit(X.to_numpy())


# ------------------------------------------------------------- types of columns


class Frame(pd.DataFrame):
    """A subclass whose methods return data frames of pandas."""


class Keeper(pd.DataFrame):
    """A subclass whose methods return such ones."""

    @property
    def _constructor(self):
        return Keeper


COUNTS = np.random.RandomState(0).poisson(3, 80)
REALS = np.random.RandomState(1).standard_normal(80)


def as_decimals(values):
    return [Decimal(str(value)) for value in values.tolist()]


def in_pandas(count=COUNTS, real=REALS, kind=pd.DataFrame):
    return kind({"count": count, "real": real})


def in_polars(count=COUNTS, real=REALS):
    return pl.DataFrame({"count": count, "real": real})


def with_arrow(make):
    def made():
        pytest.importorskip("pyarrow")
        return make()

    return made


def arrow_table():
    import pyarrow as pa

    decimals = pa.array(as_decimals(COUNTS), type=pa.decimal128(10, 0))
    return pa.table({"count": decimals, "real": REALS})


def arrow_decimals():
    import pyarrow as pa

    dtype = pd.ArrowDtype(pa.decimal128(10, 0))
    return in_pandas(pd.array(as_decimals(COUNTS), dtype=dtype))


SAME = {
    "narwhals": lambda: nw.from_native(in_pandas()),
    "a subclass": lambda: in_pandas(kind=Frame),
    "a subclass that stays": lambda: in_pandas(kind=Keeper),
    "big-endian": lambda: in_pandas(COUNTS.astype(">i8"), REALS.astype(">f8")),
    "objects": lambda: in_pandas(COUNTS.astype(object), REALS.astype(object)),
    "objects of NumPy": lambda: in_pandas(np.array([*COUNTS], dtype=object)),
    "nullable": lambda: in_pandas().convert_dtypes(),
    "sparse": lambda: in_pandas(pd.arrays.SparseArray(COUNTS, fill_value=3)),
    "all sparse": lambda: in_pandas(*map(pd.arrays.SparseArray, (COUNTS, REALS))),
    "polars": in_polars,
    "polars Decimal": lambda: in_polars(
        pl.Series(as_decimals(COUNTS), dtype=pl.Decimal(12, 0))
    ),
    "polars Object": lambda: in_polars(pl.Series(COUNTS.tolist(), dtype=pl.Object)),
    "pyarrow in pandas": with_arrow(
        lambda: in_pandas(
            pd.array(COUNTS, dtype="int64[pyarrow]"),
            pd.array(REALS, dtype="double[pyarrow]"),
        )
    ),
    "decimals of pyarrow in pandas": with_arrow(arrow_decimals),
    "pyarrow": with_arrow(arrow_table),
}
if hasattr(pl, "Int128"):
    SAME["polars Int128"] = lambda: in_polars(pl.Series(COUNTS).cast(pl.Int128))


def types_of(X):
    return (
        list(X.schema.types)
        if hasattr(X, "schema") and hasattr(X.schema, "types")
        else list(X.dtypes)
    )


@pytest.mark.parametrize("make", SAME.values(), ids=SAME)
def test_equal_values_have_equal_models(make, tmp_path):
    X = make()
    density = gaussian().fit(X)
    X = nw.to_native(X, pass_through=True)
    plain = gaussian().fit(in_pandas())
    np.testing.assert_array_equal(
        density.score_samples(X), plain.score_samples(in_pandas())
    )
    assert density.support_.grid.step.tolist() == [1, 0]
    density.save(tmp_path / "model")
    loaded = JKOFlowDensity.load(tmp_path / "model")
    kind = pd.DataFrame if type(X) is Frame else type(X)
    for one in (density, loaded, pickle.loads(pickle.dumps(density))):
        sample = one.sample(9, random_state=0)
        # Constructors of subclasses are in no file.
        plain_kind = pd.DataFrame if kind is Keeper else kind
        assert type(sample) is (kind if one is density else plain_kind)
        assert types_of(sample) == types_of(X)
        expected = plain.sample(9, random_state=0)
        for name in ("count", "real"):
            column = sample[name]
            as_list = getattr(column, "to_list", None) or column.to_pylist
            values = np.array(as_list(), dtype=float)
            np.testing.assert_array_equal(values, expected[name])


@pytest.mark.parametrize("dtype", [">i8", ">u2", "<i4", object])
def test_equal_integers_have_equal_models(dtype):
    X = np.c_[COUNTS, 70_000 % (COUNTS + 7)]
    density, plain = gaussian().fit(X.astype(dtype)), gaussian().fit(X)
    np.testing.assert_array_equal(
        density.score_samples(X.astype(dtype)), plain.score_samples(X)
    )
    sample = density.sample(9, random_state=0)
    assert sample.dtype == dtype
    np.testing.assert_array_equal(sample, plain.sample(9, random_state=0))


def test_objects_are_integers_by_value():
    flags = np.array([True, False] * 30, dtype=object)
    big = np.array([2**70 + k for k in range(60)], dtype=object)
    table = Table.of(pd.DataFrame({"flag": flags, "big": big, "real": big / 3}))
    assert table.is_integer.tolist() == [True, True, False]
    assert table.dtypes == ["object[bool]", "object[int]", "object[float]"]


def test_decimals_keep_their_digits_and_their_bounds():
    cents = np.random.RandomState(0).randint(1, 30, 60)
    values = pl.Series("price", [Decimal(f"{c / 100:.2f}") for c in cents])
    X = pl.DataFrame({"price": values.cast(pl.Decimal(10, 2))})
    density = gaussian(bounds={"price": (0, 0.3)}, discrete=None).fit(X)
    np.testing.assert_array_equal(
        density.score_samples(X),
        gaussian(bounds=[(0, 0.3)], discrete=None)
        .fit(cents[:, np.newaxis] / 100)
        .score_samples(cents[:, np.newaxis] / 100),
    )
    sample = density.sample(500, random_state=0)
    assert sample.dtypes == X.dtypes
    assert Decimal(0) < sample["price"].min()
    assert sample["price"].max() < Decimal("0.3")
    objects = np.array([[Decimal(int(c)) / 100] for c in cents], dtype=object)
    sample = gaussian().fit(objects).sample(4)
    assert all(isinstance(value, Decimal) for value in sample[:, 0])


def test_numbers_are_converted_without_loss():
    X = pd.DataFrame({"big": [2**53 - 1, 1 - 2**53], "small": np.float32([0.1, 0.2])})
    for frame in (X, X.astype(object), pl.DataFrame(dict(X))):
        array = numbers(frame, "Owner")
        assert array[:, 0].tolist() == [2**53 - 1, 1 - 2**53]
        assert array[:, 1].tolist() == np.float32([0.1, 0.2]).tolist()


def test_clean_tables_are_not_copied():
    X = np.random.RandomState(0).standard_normal((50, 2))
    assert numbers(X, "Owner") is X
    frame = pd.DataFrame(X, columns=["a", "b"])
    assert np.shares_memory(numbers(frame, "Owner"), frame.to_numpy())
    one = pl.DataFrame({"a": X[:, 0]})
    assert np.shares_memory(numbers(one, "Owner"), one["a"].to_numpy())
