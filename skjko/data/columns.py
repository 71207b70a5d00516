"""Columns of tables as numbers, and what to say of those that are none."""

# SPDX-License-Identifier: BSD-3-Clause

import datetime
import sys
from decimal import Decimal
from numbers import Integral

import narwhals.stable.v2 as nw
import numpy as np
from narwhals.exceptions import DuplicateError
from scipy import sparse

from skjko.data import chunks

# What objects can be, besides numbers.
_TEXT, _TIME, _MISSING = "hold categories or text", "hold dates or times", "missing"
_REMEDIES = {
    _TEXT: "Encode them as numbers, as by sklearn.preprocessing.OrdinalEncoder",
    _TIME: "Turn them into numbers, such as days since the first",
}
_TIMES = (
    datetime.date,
    datetime.time,
    datetime.timedelta,
    np.datetime64,
    np.timedelta64,
)
_BOOLS = (bool, np.bool_)
# The most columns that an error names.
_MOST_NAMED = 5
# The most that code to leave them out has.
_MOST_SHOWN = 20
# So few different integers, such as years, can be close by chance.
_FEW_ROWS = 100
# How to leave columns out, how to take those of a fit, and how to leave out rows with
# missing values, by the kind of the table.
_DROP_COLUMNS = {
    "pandas": "{name} = {name}.drop(columns={which})",
    "polars": "{name} = {name}.drop({which})",
    "pyarrow": "{name} = {name}.drop_columns({which})",
    "numpy": "{name} = np.delete({name}, {which}, axis=1)",
}
_SELECT_COLUMNS = {
    "pandas": "{name} = {name}[model.feature_names_in_]",
    "polars": "{name} = {name}.select(model.feature_names_in_)",
    "pyarrow": "{name} = {name}.select(list(model.feature_names_in_))",
}
_DROP_ROWS = {
    "pandas": "{name} = {name}.dropna()",
    "polars": "{name} = {name}.fill_nan(None).drop_nulls()",
    "pyarrow": "{name} = {name}.drop_null()",
    "numpy": "{name} = {name}[~np.isnan(np.asarray({name}, float)).any(axis=1)]",
}


def frame_of(X, name="X"):
    """Return a data frame as one of narwhals, or None for anything else.

    Parameters
    ----------
    X : object
    name : str, default="X"
        Of the argument, for messages.

    Raises
    ------
    ValueError
        If the frame is lazy, or two of its columns have the same label.
    """
    if isinstance(X, (np.ndarray, list, tuple)):
        return None
    try:
        frame = nw.from_native(X, pass_through=True)
    except DuplicateError:
        labels = list(getattr(X, "column_names", X.columns))
        label = next(label for label in labels if labels.count(label) > 1)
        raise ValueError(
            f"The label {label!r} occurs {labels.count(label)} times among the "
            f"columns of {name}. Rename them: every column needs a label of its own."
        ) from None
    if isinstance(frame, nw.LazyFrame):
        raise ValueError(
            f"{name} is a lazy frame ({type(X).__name__}), which has no values yet. "
            f"Call its method .collect() first: {name} = {name}.collect()."
        )
    return frame if isinstance(frame, nw.DataFrame) else None


def container_of(frame):
    """Return the name of a frame's library, "numpy" for None and for other ones."""
    library = "numpy" if frame is None else frame.implementation.value
    return library if library in _DROP_ROWS else "numpy"


def labels_of(frame):
    """Return the labels of a frame's columns; None for None."""
    return None if frame is None else [_plain(label) for label in frame.columns]


def column_name(labels, j):
    """Return the name of column j for messages."""
    return f"column {j if labels is None else repr(labels[j])}"


def numbers(X, owner, name="X", categories=None):
    """Return a table as an array of numbers, NaN where values are missing.

    Parameters
    ----------
    X : array-like or data frame
    owner : str
        Name of the estimator, for messages.
    name : str, default="X"
        Of the argument, for messages.
    categories : Categories, optional
        Of the columns that have any.

    Returns
    -------
    X : ndarray or object
        In float64, if it came otherwise than as an array of numbers. What is no table
        at all is returned as it is: scikit-learn says of it what is wrong.

    Raises
    ------
    ValueError
        If there are columns of text, dates or times, or masked entries.
    TypeError
        If there are other objects that are no numbers.
    """
    frame = frame_of(X, name)
    if frame is not None:
        return _numbers_of_frame(frame, owner, name, categories)
    if sparse.issparse(X):
        return X
    if isinstance(X, np.ma.MaskedArray):
        _check_unmasked(X, name)
        X = np.asarray(X)
    array = X
    if not isinstance(X, np.ndarray):
        try:
            array = np.asarray(X)
            if array.dtype.kind in "USmM" and isinstance(X, (list, tuple)):
                # With their own types, not the one that holds them all.
                array = np.asarray(X, dtype=object)
        except (TypeError, ValueError, RuntimeError):
            return X
    if array.ndim != 2 or array.dtype.kind not in "OUSmM":
        return array
    columns = (_from_values(column) for column in array.T)
    return _joined(array.shape, columns, None, "numpy", owner, name)


def objects_kind(objects):
    """Return what a column of objects holds: "bool", "int", "float" or "decimal"."""
    types = {t for t in set(map(type, objects)) if _kind(t) != _MISSING}
    if types and all(issubclass(t, _BOOLS) for t in types):
        return "bool"
    if types and all(issubclass(t, (Integral, *_BOOLS)) for t in types):
        return "int"
    if types and all(issubclass(t, Decimal) for t in types):
        return "decimal"
    return "float"


def infinite_message(array, X, owner, name="X"):
    """Return what to say of NaN and infinity in a table, or None if it has none.

    Parameters
    ----------
    array : ndarray of shape (n_samples, n_features)
        The numbers of the table.
    X : array-like or data frame
        The table itself.
    owner, name : str
        Of the estimator and of the argument.
    """
    frame = frame_of(X, name)
    labels, d = labels_of(frame), array.shape[1]
    tests = {"NaN": np.isnan, "infinity": np.isinf}
    counts = {what: np.zeros(d, dtype=int) for what in tests}
    first = {}
    for where, rows in chunks.in_float64(array):
        for what, test in tests.items():
            found = test(rows)
            counts[what] += found.sum(axis=0)
            if what not in first and found.any():
                first[what] = where.start + int(found.any(axis=1).argmax())
    said = []
    if counts["NaN"].any():
        said.append(
            missing_message(
                counts["NaN"], first["NaN"], labels, container_of(frame), owner, name
            )
        )
    if counts["infinity"].any():
        columns = np.flatnonzero(counts["infinity"])
        where = _listed(
            f"{_short(labels, j)} ({counts['infinity'][j]})" for j in columns
        )
        said.append(
            f"Input {name} contains infinity or a value too large for "
            f"{array.dtype!r} in column{'s' * (len(columns) > 1)} {where}, first in "
            f"row {first['infinity']}. Correct the values, or drop the rows."
        )
    return " ".join(said) or None


def row_numbers(array, frame):
    """Return which columns may number the rows: integers, all different and close.

    Parameters
    ----------
    array : ndarray of shape (n_samples, n_features)
        The numbers of the table.
    frame : narwhals DataFrame or None
        The table itself.
    """
    n, d = array.shape
    if frame is None:
        are_integers = [array.dtype.kind in "iu"] * d
    else:
        are_integers = [dtype.is_integer() for dtype in frame.schema.values()]
    found = []
    for j in np.flatnonzero(are_integers) if n > _FEW_ROWS else ():
        span = float(array[:, j].max()) - float(array[:, j].min())
        # Some rows may have been left out.
        if n <= span + 1 < 2 * n and len(np.unique(array[:, j])) == n:
            found.append(int(j))
    return found


def select_message(X, names, name="X"):
    """Return how to take the columns of a fit, or None if a table has not all of them.

    Parameters
    ----------
    X : array-like or data frame
    names : sequence of str
        Of the columns of the fit.
    name : str
        Of the argument.
    """
    frame = frame_of(X, name)
    code = _SELECT_COLUMNS.get(container_of(frame))
    if code is None or not len(names) or not set(names) <= set(labels_of(frame)):
        return None
    return f"Take the columns of the fit, in their order: {code.format(name=name)}."


def missing_message(counts, row, labels, container, owner, name):
    """Return what to say of missing values.

    Parameters
    ----------
    counts : ndarray of int of shape (n_features,)
        Numbers of missing values.
    row : int
        The first row that has one.
    labels : list or None
        Of the columns.
    container : str
        What the table is.
    owner, name : str
        Of the estimator and of the argument.
    """
    columns, total = np.flatnonzero(counts), counts.sum()
    values = "a missing value" if total == 1 else f"{total} missing values"
    where = _listed(f"{_short(labels, j)} ({counts[j]})" for j in columns)
    return (
        f"Input {name} contains NaN: {values} in column{'s' * (len(columns) > 1)} "
        f"{where}, first in row {row}. {owner} does not accept missing values here. "
        f"Drop the rows that have them: {_DROP_ROWS[container].format(name=name)}; or "
        "fill them in, as by sklearn.impute.SimpleImputer."
    )


def _plain(label):
    if isinstance(label, str):
        return str(label)
    is_int = isinstance(label, Integral) and not isinstance(label, bool)
    return int(label) if is_int else label


def _short(labels, j):
    return str(j) if labels is None else repr(labels[j])


def _listed(items):
    items = list(items)
    more = len(items) - _MOST_NAMED
    text = ", ".join(map(str, items[:_MOST_NAMED]))
    return text if more <= 0 else f"{text} and {more} more"


def _check_unmasked(X, name):
    masked = np.argwhere(np.ma.getmaskarray(X))
    if len(masked):
        at = f"row {masked[0][0]}"
        if X.ndim == 2:
            at += f" of column {masked[0][1]}"
        raise ValueError(
            f"{name} is a masked array with {len(masked)} masked entries, the first in "
            f"{at}. Drop their rows: {name} = np.ma.compress_rows({name}); or fill "
            f"them in, as by sklearn.impute, from {name}.filled(np.nan)."
        )


def _numbers_of_frame(frame, owner, name, categories):
    X = frame.to_native()
    if frame.implementation.is_pandas_like() and all(
        isinstance(dtype, np.dtype) and dtype.kind in "biuf" for dtype in X.dtypes
    ):
        # Without a copy where there is one type, which is float64.
        return X.to_numpy(dtype=np.float64)
    if frame.implementation.is_polars() and all(
        dtype == nw.Float64 for dtype in frame.schema.values()
    ):
        return X.to_numpy()
    coded = {} if categories is None else categories.columns
    columns = [
        (categories.encode(j, series), None, None)
        if j in coded
        else _from_series(series)
        for j, series in enumerate(frame.iter_columns())
    ]
    kinds = [None if values is None else values.dtype.kind for values, *_ in columns]
    if "c" in kinds:
        # For scikit-learn's error.
        return columns[kinds.index("c")][0].reshape(-1, 1)
    labels, container = labels_of(frame), container_of(frame)
    return _joined(frame.shape, columns, labels, container, owner, name)


def _from_series(series):
    """Values of a column; or None, what it holds instead, and in which row if known."""
    dtype = series.dtype
    if len(series) and series.is_null().all():
        # Of whatever type.
        return np.full(len(series), np.nan), None, None
    if dtype.is_temporal():
        return None, _TIME, None
    if isinstance(dtype, (nw.String, nw.Categorical, nw.Enum, nw.Binary)):
        return None, _TEXT, None
    if isinstance(dtype, (nw.Int128, nw.UInt128)):
        # NumPy has no such integers.
        series = series.cast(nw.Float64)
    return _from_values(series.to_numpy())


def _from_values(values):
    """Numbers of one column; or None, what it holds instead, and in which row."""
    kind = values.dtype.kind
    if kind in "USmM":
        return None, _TIME if kind in "mM" else _TEXT, None
    if kind != "O":
        return values, None, None
    kinds = {t: _kind(t) for t in set(map(type, values))}
    for what in (_TEXT, _TIME):
        if what in kinds.values():
            row = next(i for i, v in enumerate(values) if kinds[type(v)] == what)
            return None, what, row
    if _MISSING in kinds.values():
        missing = np.array([kinds[type(v)] == _MISSING for v in values], dtype=bool)
        values = np.where(missing, np.nan, values)
    try:
        return values.astype(np.float64), None, None
    except (TypeError, ValueError, OverflowError):
        return _first_failure(values)


def _first_failure(values):
    for i, value in enumerate(values):
        try:
            float(value)
        except (TypeError, ValueError, OverflowError) as error:
            return None, error, i
    # What is no single number, such as an array with one element.
    return None, TypeError("its values must be real numbers"), 0


def _kind(type_):
    """What objects of a type are: text, times or missing; None for all others."""
    if issubclass(type_, (str, bytes)):
        return _TEXT
    pandas = sys.modules.get("pandas")
    if issubclass(type_, _TIMES) or (pandas and issubclass(type_, pandas.Period)):
        return _TIME
    if type_ is type(None) or (pandas and type_ is type(pandas.NA)):
        return _MISSING
    return None


def _joined(shape, columns, labels, container, owner, name):
    """Columns as one array in float64, or an error that names all that are none."""
    # Column after column in memory, as they come.
    array = np.empty(shape[::-1]).T
    wrong = {_TEXT: [], _TIME: []}
    for j, (values, what, row) in enumerate(columns):
        if isinstance(what, Exception):
            kind = TypeError if isinstance(what, TypeError) else ValueError
            raise kind(
                f"{name} has a value that is no number in row {row} of "
                f"{column_name(labels, j)}: {what}. {owner} takes numbers only. "
                "Convert or leave out the column."
            )
        if what is not None:
            wrong[what].append((j, row))
            array[:, j] = 0.0
        else:
            with np.errstate(over="ignore"):
                array[:, j] = values
    said = [
        _wrong_message(what, found, labels, container, owner, name)
        for what, found in wrong.items()
        if found
    ]
    if said:
        missing = np.isnan(array)
        if missing.any():
            row = int(missing.any(axis=1).argmax())
            counts = missing.sum(axis=0)
            said.append(missing_message(counts, row, labels, container, owner, name))
        raise ValueError(" ".join(said))
    return array


def _wrong_message(what, found, labels, container, owner, name):
    where = _listed(
        _short(labels, j) + ("" if row is None else f" (first in row {row})")
        for j, row in found
    )
    which = [int(j) if labels is None else labels[j] for j, _ in found]
    drop = ""
    if len(which) <= _MOST_SHOWN:
        drop = ": " + _DROP_COLUMNS[container].format(name=name, which=which)
    return (
        f"These columns of {name} {what}: {where}. {owner} could not convert them to "
        f"float. {_REMEDIES[what]} (in a sense in which distances mean something), or "
        f"leave them out{drop}."
    )
