"""Arrays of every shape, scale and pathology: a sound model, or a clear error.

By default the same CASES tables are drawn every time. For more, drawn anew:
`SKJKO_CASES=5000 python -m pytest tests/test_properties.py`.
"""

import contextlib
import os
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning

from skjko import JKOFlowDensity, JKOFlowOutlierDetector, MLPField, RungeKutta
from skjko.transforms import MixtureMap

# Of tables, half of them with two blocks to train. Each other test has a share of that
# number; together they have 300 by default, few enough for half a minute.
CASES = 100
_more = os.environ.get("SKJKO_CASES")


def cases(share=1.0):
    """How many cases, and which."""
    return settings(
        max_examples=round(share * int(_more or CASES)),
        # Without a wish for more, the same cases everywhere, always.
        derandomize=_more is None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


# ------------------------------------------------------------------- tables


def _plain(kind, n, rng):
    """One column of about unit scale."""
    x = rng.standard_normal(n)
    if kind == "uniform":
        x = rng.uniform(size=n)
    elif kind == "skewed":
        x = np.exp(1.5 * x)
    elif kind == "heavy":
        x = rng.standard_cauchy(n)
    elif kind == "outlier":
        x[rng.randint(n)] = 10.0 ** rng.randint(2, 120)
    elif kind == "constant":
        x = np.full(n, x[0])
    elif kind == "nearly constant":
        x = 1 + 10.0 ** rng.randint(-16, -6) * x
    elif kind == "two values":
        x = np.where(x > 0, 1.0, 0.0)
    elif kind == "one differs":
        x = np.zeros(n)
        x[rng.randint(n)] = 1.0
    elif kind == "integers":
        x = np.rint(3 * x)
    elif kind == "tenths":
        x = np.rint(5 * x) / 10
    elif kind == "ties":
        x = rng.choice(x[: max(1, n // 3)], n)
    elif kind == "zeros among others":
        x = np.where(x > 0, x, 0.0)
    elif kind == "wide range":
        x = np.sign(x) * 10.0 ** rng.uniform(-150, 150, n)
    return x


KINDS = (
    *("normal", "normal", "normal", "uniform", "skewed", "heavy", "outlier"),
    *("constant", "nearly constant", "two values", "one differs", "integers"),
    *("tenths", "ties", "zeros among others", "wide range", "copy", "sum", "spare"),
)
SCALES = (
    *(1.0, 1.0, 1.0, 1.0, 1e-3, 1e6, 2.0**40, 1e-12, 1e30, 1e-30, 1e100, 1e-100),
    *(1e150, 1e-150, 1e200, 1e-200, 1e300, 1e-300, 1e-310, 5e-324),
)
OFFSETS = (0.0, 0.0, 0.0, 1.0, -1e3, 1e9, 1e15)


@st.composite
def columns(draw, n, rng, before):
    kind = draw(st.sampled_from(KINDS))
    if kind in ("copy", "sum", "spare") and before:
        # Copies and sums have no density of their own.
        x = before[-1] if kind == "copy" else before[-1] / 2 + before[0] / 2
        return x + (1e-9 * np.abs(x).max() * rng.uniform(size=n) * (kind == "spare"))
    x = _plain(kind, n, rng)
    x = x + draw(st.sampled_from(OFFSETS))
    scale = draw(st.sampled_from(SCALES))
    with np.errstate(all="ignore"):
        return np.clip(x * scale, -1.7e308, 1.7e308)


@st.composite
def tables(draw, least=2, with_spread=False):
    """Rows of finite float64 numbers; with spread, the first column surely has some."""
    few, many = st.integers(least, max(least, 12)), st.integers(max(least, 12), 60)
    n = draw(few | many | st.sampled_from((130,)))
    d = draw(st.integers(1, 8))
    rng = np.random.RandomState(draw(st.integers(0, 2**32 - 1)))
    parts = []
    for _ in range(d):
        parts.append(draw(columns(n, rng, parts)))
    X = np.column_stack(parts)
    shape = draw(st.sampled_from(("as is",) * 10 + ("twice",) * 4 + ("all the same",)))
    if shape == "twice":
        X[n // 2 :] = X[: n - n // 2]
    elif shape == "all the same":
        X[:] = X[0]
    if with_spread:
        X[:, 0] = 10 * rng.standard_normal(n)
    return X


def _narrow(X, dtype):
    if dtype == "bool":
        return np.sort(X, axis=0)[len(X) // 2] < X
    limits = np.iinfo(dtype) if dtype[:3] in ("int", "uin") else np.finfo(dtype)
    # Not to the very largest: those of int64 are no floats.
    low, high = limits.min / 1.01, limits.max / 1.01
    with np.errstate(all="ignore"):
        return np.clip(X, low, high).astype(dtype)


DTYPES = (
    *("float64", "float64", "float64", "float32", "float16"),
    *("int64", "int8", "uint16", "bool"),
)


def _strided(X):
    wide = np.zeros((2 * len(X), 3 * X.shape[1]), X.dtype)
    wide[::2, ::3] = X
    return wide[::2, ::3]


NAMES = list("abcdefgh")
CONTAINERS = {
    "array": lambda X: X,
    "Fortran": np.asfortranarray,
    "strided": _strided,
    "reversed": lambda X: X[::-1].copy()[::-1],
    "read-only": lambda X: np.frombuffer(X.tobytes(), X.dtype).reshape(X.shape),
    "list": lambda X: X.tolist(),
    "pandas": lambda X: pd.DataFrame(X, columns=NAMES[: X.shape[1]]),
    "polars": lambda X: pl.DataFrame(
        {name: pl.Series(x) for name, x in zip(NAMES, X.T.tolist(), strict=False)}
        if X.dtype == np.float16
        else dict(zip(NAMES, np.ascontiguousarray(X.T), strict=False))
    ),
}


@st.composite
def problems(draw, **of_table):
    """A table, what holds it, and what is declared of it and of its rows."""
    X = draw(tables(**of_table))
    dtype = draw(st.sampled_from(DTYPES))
    X = _narrow(X, dtype)
    plain = X.astype(float)
    parameters = {}
    what = draw(st.sampled_from(("nothing",) * 4 + ("bounds", "bounds", "discrete")))
    if what == "bounds":
        low, high = plain.min(axis=0), plain.max(axis=0)
        with np.errstate(all="ignore"):
            room = np.where(high > low, (high - low) / 10, 1.0)
            low, high = low - room, high + room
        open_ = draw(st.sampled_from(("below", "above", "both")))
        parameters["bounds"] = [
            (None if open_ == "above" else a, None if open_ == "below" else b)
            for a, b in zip(low.tolist(), high.tolist(), strict=True)
        ]
    elif what == "discrete":
        parameters["discrete"] = draw(st.sampled_from((None, [1.0] * X.shape[1])))
    weight = None
    if draw(st.integers(0, 3)) == 0:
        weight = np.random.RandomState(len(X)).exponential(size=len(X))
        weight[:: draw(st.integers(2, 5))] = 0.0
        weight *= draw(st.sampled_from((1.0, 1e-200, 1e200)))
    container = draw(st.sampled_from(tuple(CONTAINERS)))
    return X, container, parameters, weight


# ------------------------------------------------------------------- what must hold


def quick(**parameters):
    settings = {
        "max_blocks": 2,
        "field": MLPField((4, 4), frequency=2.0),
        "max_iter": 4,
        "solver": RungeKutta(n_steps=1),
        # Else two blocks need not stay.
        "early_stopping": False,
        "random_state": 0,
        **parameters,
    }
    return JKOFlowDensity(**settings)


@contextlib.contextmanager
def no_leaks():
    """No warnings but our own, of a training that did not converge."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", ".* samples are outside of the bounds")
        yield


# How the errors begin that a sound table may have, for what is declared of it.
EXPECTED = (
    "X has values beyond 1e+300 in column",
    "The 'bounds' parameter of JKOFlowDensity must have for every column",
    "The 'discrete' parameter of JKOFlowDensity says that values of column",
    "X has values outside of the bounds: ",
    "JKOFlowDensity requires at least 2 samples with a positive sample_weight",
    "JKOFlowOutlierDetector requires at least 2 samples with a positive",
)


def fit_or_none(estimator, X, weight=None):
    """Fit; None if there is a clear error instead."""
    try:
        return estimator.fit(X, sample_weight=weight)
    except ValueError as error:
        if not str(error).startswith(EXPECTED):
            raise
        return None


def assert_no_nonsense(scores):
    """Far rows may have no density left, but no other than a number."""
    assert scores.dtype == np.float64
    assert not np.isnan(scores).any(), scores
    assert (scores < np.inf).all(), scores


def far_rows(density, X):
    """Rows beside the data, from near to as far as numbers go, in and out of bounds."""
    directions = np.random.RandomState(0).standard_normal((8, X.shape[1]))
    reach = 10.0 ** np.array([0, 1, 3, 10, 50, 153, 160, 308])[:, np.newaxis]
    size = np.maximum(np.abs(X).max(axis=0), 1e-300)
    with np.errstate(over="ignore"):
        rows = X[:1] + directions * reach * size
    largest = np.finfo(float).max
    return np.vstack([np.clip(rows, -largest, largest), np.zeros((1, X.shape[1]))])


def check_scores(density, X, rows):
    scores = density.score_samples(X)
    assert scores.dtype == np.float64
    assert scores.shape == (len(rows),)
    assert np.isfinite(scores).all(), scores
    assert np.isfinite(density.score(X))
    far = far_rows(density, rows)
    if hasattr(density, "feature_names_in_"):
        far = pd.DataFrame(far, columns=density.feature_names_in_)
    assert_no_nonsense(density.score_samples(far))
    *_, staged = density.staged_score_samples(X)
    close(staged, scores)
    return scores


def close(found, expected, tol=1e-7):
    np.testing.assert_allclose(found, expected, rtol=tol, atol=tol)


def check_order(density, rows, scores):
    """The score of a row does not depend on the rows beside it."""
    if hasattr(density, "feature_names_in_"):
        rows = pd.DataFrame(rows, columns=density.feature_names_in_)
    order = np.random.RandomState(0).permutation(len(rows))
    take = rows.iloc.__getitem__ if hasattr(rows, "iloc") else rows.__getitem__
    close(density.score_samples(take(order)), scores[order])
    for i in order[:2]:
        close(density.score_samples(take([i])), scores[i])


def check_sample(density, X, container):
    sample = density.sample(30, random_state=0)
    same = density.sample(30, random_state=0)
    values = np.asarray(sample, dtype=float)
    np.testing.assert_array_equal(values, np.asarray(same, dtype=float))
    assert values.shape == (30, X.shape[1])
    assert np.isfinite(values).all(), values
    support = density.support_
    discrete = support.grid.step > 0
    if container in ("pandas", "polars"):
        assert list(sample.columns) == NAMES[: X.shape[1]]
        assert type(sample).__module__.startswith(container)
        if X.dtype != np.float16 or container == "pandas":
            kind = str(X.dtype)
            assert {str(dtype).lower() for dtype in sample.dtypes} <= {
                kind if kind != "bool" or container == "pandas" else "boolean"
            }
    elif container != "list":
        is_kept = X.dtype.kind == "f" or discrete.all()
        assert sample.dtype == (X.dtype if is_kept else np.float64)
    rounding = np.finfo(X.dtype).eps if X.dtype.kind == "f" else 1e-15
    np.testing.assert_allclose(
        support.grid.round(values), values, rtol=4 * rounding, atol=1e-300
    )
    assert ((values >= support.lower) & (values <= support.upper))[:, discrete].all()
    assert ((values > support.lower) & (values < support.upper))[:, ~discrete].all()
    assert_no_nonsense(density.score_samples(sample))


def check_round_trip(density, X, rows):
    """To a millionth of the column's size, or of the row's distance from its mean."""
    Z = density.transform(X)
    assert Z.shape == rows.shape
    assert np.isfinite(Z).all()
    back = density.inverse_transform(Z)
    assert np.isfinite(back).all()
    # What is declared of a column counts, too; and one of zeros has a standard
    # deviation of 1e-5.
    size = np.abs(rows).max(axis=0)
    support = density.support_
    for declared in (support.lower, support.upper, support.grid.step):
        size = np.maximum(size, np.where(np.isfinite(declared), np.abs(declared), 0))
    size = np.where(size > 0, size, 1e-5) * (1 + np.abs(Z).max(axis=1, keepdims=True))
    excess = np.abs(back - rows) - 1e-6 * size
    assert (excess <= np.finfo(float).tiny).all(), excess.max()


def check_same_model(density, other, rows):
    assert other.n_blocks_ == density.n_blocks_
    if hasattr(density, "feature_names_in_"):
        named = pd.DataFrame(rows, columns=density.feature_names_in_)
        close(density.score_samples(named), other.score_samples(rows))
    else:
        close(density.score_samples(rows), other.score_samples(rows))


def examine(problem):
    """Return a sound density, or None where there was a clear error."""
    X, container, parameters, weight = problem
    hold = CONTAINERS[container]
    with no_leaks():
        density = fit_or_none(quick(**parameters), hold(X), weight)
        if density is None:
            return None
        # Rows that count for nothing may be as far away as far rows are.
        if weight is not None:
            X, weight = X[weight > 0], weight[weight > 0]
        table, rows = hold(X), X.astype(float)
        scores = check_scores(density, table, rows)
        check_order(density, rows, scores)
        check_sample(density, X, container)
        check_round_trip(density, table, rows)
        # Another layout, without those rows, and with weights in another unit.
        if container != "list":
            again = quick(**parameters).fit(
                X, sample_weight=None if weight is None else 8 * weight
            )
            check_same_model(density, again, rows)
    return density


def test_any_table():
    @cases(0.3)
    @given(problems())
    def check(problem):
        examine(problem)

    check()


def test_any_table_that_may_start_from_a_mixture():
    found = []

    @cases(0.15)
    @given(problems(least=24, with_spread=True))
    def check(problem):
        X, container, parameters, weight = problem
        parameters = {**parameters, "early_stopping": True}
        density = examine((X, container, parameters, weight))
        chain = () if density is None else density.transforms_
        found.append(any(isinstance(step, MixtureMap) for step in chain))

    check()
    assert sum(found) > 1


def test_any_table_in_which_there_is_something_to_train():
    fitted = []

    @cases(0.25)
    @given(problems(least=24, with_spread=True))
    def check(problem):
        fitted.append(False)
        density = examine(problem)
        # With fewer effective samples there is only the Gaussian. Copies are one.
        X, weight = problem[0], problem[-1]
        weight = np.ones(len(X)) if weight is None else weight / weight.max()
        which = np.unique(X.astype(float), axis=0, return_inverse=True)[1].ravel()
        share = np.bincount(which, weight)
        if share.sum() ** 2 <= 10 * np.square(share).sum():
            fitted.pop()
        elif density is not None:
            assert density.n_blocks_ == 2
            fitted[-1] = True

    check()
    assert np.mean(fitted) > 0.6


@st.composite
def scaled(draw):
    """A table without exact zeros' company, and powers of two for its columns."""
    X = draw(tables(least=11))
    powers = draw(
        st.lists(st.integers(-300, 300), min_size=X.shape[1], max_size=X.shape[1])
    )
    factors = 2.0 ** np.array(powers)
    # Away from the ends of the numbers, where a power of two costs digits.
    magnitude = np.abs(X[X != 0]) if X.any() else np.ones(1)
    if not (magnitude.min() > 1e-150 and magnitude.max() < 1e150):
        X = np.random.RandomState(powers[0] + 300).standard_normal(X.shape)
    return X, factors


def test_units_do_not_matter():
    """In other units by powers of two, the same model, and its density in those."""

    @cases(0.1)
    @given(scaled())
    def check(problem):
        X, factors = problem
        with no_leaks():
            # Steps are found in decimals; that columns are zero has no unit.
            one = quick(discrete=None).fit(X)
            other = quick(discrete=None).fit(X * factors)
            counts = X.any(axis=0)
            expected = one.score_samples(X) - np.log(factors[counts]).sum()
            close(other.score_samples(X * factors), expected)
            close(other.transform(X * factors), one.transform(X))

    check()


def test_any_table_for_the_detector():
    @cases(0.25)
    @given(problems())
    def check(problem):
        X, container, _, weight = problem
        table = CONTAINERS[container](X)
        with no_leaks():
            warnings.filterwarnings("ignore", ".* calibration samples are too few")
            density = quick(max_blocks=1, discrete=None, early_stopping=False)
            detector = JKOFlowOutlierDetector(density=density, random_state=0)
            if fit_or_none(detector, table, weight) is None:
                return
            if weight is not None:
                table = CONTAINERS[container](X[weight > 0])
            scores = detector.score_samples(table)
            assert np.isfinite(scores).all()
            assert np.isfinite(detector.offset_)
            assert set(detector.predict(table)) <= {-1, 1}
            if detector.calibration_scores_ is not None:
                p = detector.p_values(table)
                assert ((p > 0) & (p <= 1)).all()

    check()


# ------------------------------------------------------------------- what is refused


def _with(value):
    def spoil(X, place):
        X = X.copy()
        X[place % len(X), place % X.shape[1]] = value
        return X

    return spoil


def _with_none(X, place):
    return _with(None)(X.astype(object), place)


# What makes a table none, and what the error has to name.
SPOILED = {
    "NaN": (_with(np.nan), "NaN"),
    "infinity": (_with(np.inf), "infinity"),
    "minus infinity": (_with(-np.inf), "infinity"),
    "none": (_with_none, "NaN"),
    "text": (lambda X, _: X.astype("U32").astype(object) + "x", "float"),
    "one column alone": (lambda X, _: X[:, 0], "2D array"),
    "three dimensions": (lambda X, _: X[np.newaxis], "dim 3"),
    "no rows": (lambda X, _: X[:0], "0 sample"),
    "no columns": (lambda X, _: X[:, :0], "0 feature"),
    "one row": (lambda X, _: X[:1], "1 sample|at least 2 samples"),
    "complex": (lambda X, _: X + 1j, "Complex"),
}


def test_what_is_no_table_is_refused():
    @cases(1.0)
    @given(
        tables(), st.sampled_from(tuple(SPOILED)), st.integers(0, 1000), st.booleans()
    )
    def check(X, how, place, in_fit):
        spoil, message = SPOILED[how]
        with no_leaks():
            density = quick(max_blocks=0)
            # Values may be missing where some were in the fit.
            may_fit = how in ("NaN", "none")
            if (may_fit or not in_fit) and how != "one row":
                if fit_or_none(density, X) is None:
                    return
                use = density.score_samples
            else:
                use = density.fit
            with pytest.raises(ValueError, match=message):
                use(spoil(X, place))

    check()


@st.composite
def wrong_weights(draw, n):
    weight = np.ones(n)
    how = draw(st.sampled_from(("negative", "NaN", "infinity", "zeros", "too few")))
    if how == "too few":
        return weight[1:], "sample_weight.shape"
    if how == "zeros":
        return 0 * weight, "non-zero"
    value = {"negative": -1e-300, "NaN": np.nan, "infinity": np.inf}[how]
    weight[draw(st.integers(0, n - 1))] = value
    return weight, {"negative": "[Nn]egative", "NaN": "NaN"}.get(how, how)


def test_wrong_weights_are_refused():
    @cases(0.5)
    @given(st.data())
    def check(data):
        X = data.draw(tables())
        weight, message = data.draw(wrong_weights(len(X)))
        with no_leaks(), pytest.raises(ValueError, match=message):
            quick(max_blocks=0).fit(X, sample_weight=weight)

    check()
