"""The form of a table: names, types and container, which samples get too."""

# SPDX-License-Identifier: BSD-3-Clause

from numbers import Integral

import numpy as np

from skjko.data import chunks
from skjko.data.categories import Categories, CategoryType
from skjko.data.column_types import CONTAINERS, ColumnType, known
from skjko.data.columns import (
    column_name,
    container_of,
    frame_of,
    labels_of,
    objects_kind,
)

LARGEST_VALUE = 1e300
"""Largest value that a fit accepts: a few times their differences are still finite."""


class Table:
    """Container, names and types of a table.

    Parameters
    ----------
    container : {"numpy", "pandas", "polars", "pyarrow"}
        What samples come in.
    names : list of str, list of int or None
        Labels of the columns; None for arrays.
    dtypes : list of str
        One for every column, as `ColumnType` takes it.
    constructor : callable, default=None
        Of the pandas data frames, for those of a subclass. Copies and files have none.
    categories : Categories, default=None
        Of the columns that have any.
    """

    def __init__(self, container, names, dtypes, constructor=None, categories=None):
        self.container, self.names, self.dtypes = container, names, dtypes
        self.constructor = constructor
        self.categories = Categories({}) if categories is None else categories
        coded = self.categories.columns
        self._types = [
            CategoryType(coded[j], container != "numpy")
            if j in coded
            else ColumnType(name, container)
            for j, name in enumerate(dtypes)
        ]

    @classmethod
    def of(cls, X, categories=None):
        """Return the form of a table of numbers and categories."""
        frame = frame_of(X)
        if frame is None:
            return cls("numpy", None, _types_of_array(np.asarray(X)))
        labels, container = labels_of(frame), container_of(frame)
        dtypes = [_type_of(series, container) for series in frame.iter_columns()]
        if not any(_all_are(labels, kind) for kind in (str, int)):
            # Neither names nor numbers; arrays have the values as NumPy has them.
            types = [ColumnType(name, container) for name in dtypes]
            container, labels = "numpy", None
            dtypes = [known(t.dtype.newbyteorder("=").name, container) for t in types]
        elif container == "numpy":
            labels = None
        constructor = None
        if container == "pandas":
            constructor = frame.to_native()._constructor
        return cls(container, labels, dtypes, constructor, categories)

    def __getstate__(self):
        """Return what is copied: constructors of subclasses may be local functions."""
        return {**vars(self), "constructor": None}

    def get_state(self):
        """Return what `from_state` needs."""
        names = self.names and list(self.names)
        return {
            "container": self.container,
            "names": names,
            "dtypes": self.dtypes,
            "categories": self.categories,
        }

    @classmethod
    def from_state(cls, state):
        """Return the form of a table of a state."""
        container, dtypes = state["container"], state["dtypes"]
        names = {"container", "names", "dtypes", "categories"}
        complete = state.keys() == names and isinstance(state["categories"], Categories)
        if not complete or container not in CONTAINERS:
            raise ValueError("the state of a table is incomplete")
        if not isinstance(dtypes, list) or not all(
            isinstance(name, str) and known(name, container) == name for name in dtypes
        ):
            raise ValueError(f"the types of the columns are not {container}'s")
        return cls(container, state["names"], dtypes, None, state["categories"])

    def check(self, n_features, names):
        """Raise a ValueError if this is no table of these features.

        Parameters
        ----------
        n_features : int
        names : list of str or None
            What scikit-learn has as names: None if the labels are no strings.
        """
        if len(self.dtypes) != n_features:
            raise ValueError(f"the table has not {n_features} columns")
        if not all(j < n_features for j in self.categories.columns):
            raise ValueError("there are categories of no column")
        if self.container != "numpy" and self.names is None:
            raise ValueError("there are no names for the data frames that it returns")
        # A table is told from an array by having labels of the features.
        numbered = (
            self.container != "numpy"
            and names is None
            and len(self.names) == n_features
            and _all_are(self.names, int)
        )
        if not numbered and self.names != (
            None if self.container == "numpy" else names
        ):
            raise ValueError("the names of the table are not those of the features")

    @property
    def is_integer(self):
        """Whether each column is of an integer or boolean type."""
        return np.array([one.is_integer for one in self._types], dtype=bool)

    def value(self, j, x):
        """Return a value of a column for messages."""
        column = self.categories.columns.get(j)
        if column is None:
            return f"{float(x):.15g}"
        if 0 <= x < len(column.values):
            return repr(column.values[int(x)])
        return "a category that fit has not seen"

    def label(self, j):
        """Return a column's name for messages."""
        return column_name(self.names, j)

    def find(self, key):
        """Return the number of the column that a label or a number means.

        Labels come before numbers. Where labels are integers, numbers mean labels only.

        Parameters
        ----------
        key : object

        Returns
        -------
        j : int

        Raises
        ------
        ValueError
            If there is no such column.
        """
        is_int = isinstance(key, Integral) and not isinstance(key, (bool, np.bool_))
        if self.names is not None and (is_int or isinstance(key, str)):
            if key in self.names:
                return self.names.index(key)
            if is_int and _all_are(self.names, int):
                raise ValueError(
                    f"{key!r}, which is no label of the columns of X. These are "
                    "integers, so that numbers mean labels and not positions"
                )
        if not (is_int and 0 <= key < len(self.dtypes)):
            raise ValueError(f"{key!r}, which is no column of X")
        return int(key)

    def rebuild(self, n_samples, parts, support):
        """Give rows the form of the table.

        Parameters
        ----------
        n_samples : int
            Number of rows.
        parts : iterable of (slice, ndarray)
            Which rows, and their values in data units, until all have come.
        support : Support
            Where values can be.
        """
        discrete = support.grid.step > 0
        types = self._types
        in_array = self.container == "numpy" and not any(t.is_object for t in types)
        if in_array:
            one = types[0] if len(set(self.dtypes)) == 1 else None
            if one is None or (one.is_integer and not discrete.all()):
                one = ColumnType("float64", "numpy")
            types = [one] * len(types)
            table = np.empty((n_samples, len(types)), one.dtype)
            columns = list(table.T)
        else:
            columns = [np.empty(n_samples, t.dtype) for t in types]
        lower = np.maximum(support.lower, [t.lower for t in types])
        upper = np.minimum(support.upper, [t.upper for t in types])
        for where, rows in parts:
            rows = support.round(rows, lower, upper)
            forms = zip(types, support.is_open, lower, upper, strict=True)
            for column, x, (kind, *form) in zip(columns, rows.T, forms, strict=True):
                column[where] = kind.values(x, *form)
        if in_array:
            return table
        columns = [t.native(x) for t, x in zip(types, columns, strict=True)]
        if self.container == "numpy":
            return np.column_stack(columns)
        return _MAKERS[self.container](self, types, columns)


def check_values(X, owner, name="X", table=None, allow_nan=False):
    """Raise a ValueError if values of an array are too large, or missing.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    owner, name : str
        Of the estimator and of the argument, for messages.
    table : array-like or data frame, optional
        What the array was made from.
    allow_nan : bool, default=False
        Whether values may be missing.
    """
    # Without a copy of what may be a file.
    smallest, largest = (np.fmin, np.fmax) if allow_nan else (np.minimum, np.maximum)
    low, high = smallest.reduce(X).astype(float), largest.reduce(X).astype(float)
    size = largest(high, -low)
    j = int((np.nan_to_num(size) if allow_nan else size).argmax())
    if np.isnan(size[j]) and not allow_nan:
        column = column_name(labels_of(frame_of(table)), j)
        raise ValueError(f"Input {name} contains NaN in {column}, as a missing value.")
    if size[j] > LARGEST_VALUE:
        i = int(np.argmax(np.abs(X[:, j].astype(float)) == size[j]))
        column = column_name(labels_of(frame_of(table)), j)
        raise ValueError(
            f"{name} has values beyond {LARGEST_VALUE:g} in {column}, such as "
            f"{float(X[i, j]):.6g} in row {i}. {owner} takes differences of them, "
            "which would overflow. Change the unit."
        )


def check_missing(X, owner, table=None):
    """Return which features miss values; raise a ValueError if the others do not vary.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    owner : str
        Name of the estimator, for messages.
    table : array-like or data frame, optional
        What the array was made from.
    """
    seen = np.zeros(X.shape[1], dtype=bool)
    for _, rows in chunks.in_float64(X):
        seen |= np.isnan(rows).any(axis=0)
    for j in np.flatnonzero(seen):
        low, high = np.fmin.reduce(X[:, j]), np.fmax.reduce(X[:, j])
        if not low < high:
            column = column_name(labels_of(frame_of(table)), j)
            what = "no values at all" if np.isnan(low) else f"no value but {low:g}"
            raise ValueError(
                f"X contains NaN in {column}, which has {what}: {owner} cannot tell "
                "what is missing. Fill it in, or leave the column out."
            )
    return seen


def _all_are(labels, kind):
    return all(
        isinstance(label, kind) and not isinstance(label, bool) for label in labels
    )


def _types_of_array(array):
    """Names of the types of an array's columns."""
    if array.dtype.kind == "O":
        return [f"object[{objects_kind(column)}]" for column in array.T]
    name = array.dtype.name if array.dtype.isnative else array.dtype.str
    return [known(name, "numpy")] * array.shape[1]


def _type_of(series, container):
    """Name of the type of a frame's column."""
    column = series.to_native()
    if container == "pyarrow":
        name = str(column.type)
    elif str(column.dtype).lower() == "object":
        name = f"object[{objects_kind(column.to_numpy())}]"
    elif container == "pandas" and hasattr(column.dtype, "fill_value"):
        name = f"Sparse[{column.dtype.subtype}, {float(column.dtype.fill_value)}]"
    else:
        name = str(column.dtype)
    return known(name, container)


def _pandas_frame(table, types, columns):
    import pandas as pd

    # By number first: labels may be integers in any order.
    frame = pd.DataFrame(dict(enumerate(map(_pandas_column, types, columns))))
    frame.columns = table.names
    return frame if table.constructor is None else table.constructor(frame)


def _pandas_column(kind, x):
    import pandas as pd

    if isinstance(kind, CategoryType):
        column = kind.column
        if column.every is not None:
            return pd.Categorical(x, categories=column.every, ordered=column.ordered)
        return pd.Series(x, dtype=column.type)
    if kind.is_object:
        return pd.Series(x, dtype=object)
    if kind.fill is not None:
        fill = kind.dtype.type(float(kind.fill)).item()
        return pd.arrays.SparseArray(x, fill_value=fill)
    if kind.arrow and kind.is_decimal:
        return pd.array(x, dtype=pd.ArrowDtype(_arrow_type(kind)))
    return pd.array(x, dtype=kind.name) if kind.name[0] not in "<>" else x


def _polars_frame(table, types, columns):
    import polars as pl

    def series(label, kind, x):
        if isinstance(kind, CategoryType):
            types = {"Categorical": pl.Categorical, "String": pl.String}
            if kind.column.every is not None:
                types["Enum"] = pl.Enum(kind.column.every)
            name = kind.column.type.partition("(")[0]
            return pl.Series(label, list(x), dtype=pl.String).cast(types[name])
        if kind.is_object:
            return pl.Series(label, x, dtype=pl.Object)
        if kind.is_decimal:
            # The type has numbers in its name, and None for no precision.
            precision = None if kind.precision == "None" else int(kind.precision)
            return pl.Series(label, x, dtype=pl.Decimal(precision, kind.decimals))
        dtype = getattr(pl, kind.name)
        if kind.is_integer and kind.dtype.kind == "f":
            return pl.Series(label, x).cast(dtype)
        return pl.Series(label, x, dtype=dtype)

    return pl.DataFrame(list(map(series, table.names, types, columns)))


def _arrow_table(table, types, columns):
    import pyarrow as pa

    def array(kind, x):
        if not isinstance(kind, CategoryType):
            return pa.array(x, type=_arrow_type(kind))
        if kind.column.type.startswith("dictionary"):
            return pa.array(list(x)).dictionary_encode()
        return pa.array(list(x), type=pa.type_for_alias(kind.column.type))

    arrays = list(map(array, types, columns))
    return pa.Table.from_arrays(arrays, names=table.names)


def _arrow_type(kind):
    import pyarrow as pa

    if not kind.is_decimal:
        return pa.type_for_alias(kind.name)
    width = pa.decimal256 if kind.name.startswith("decimal256") else pa.decimal128
    return width(int(kind.precision), kind.decimals)


_MAKERS = {
    "pandas": _pandas_frame,
    "polars": _polars_frame,
    "pyarrow": _arrow_table,
}
