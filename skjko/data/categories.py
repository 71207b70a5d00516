"""Columns of categories: their values, and the codes that a density has of them."""

# SPDX-License-Identifier: BSD-3-Clause

import math
import re
from dataclasses import asdict, dataclass

import narwhals.stable.v2 as nw
import numpy as np

# More categories than this need so many rows each, on average.
_FEW, _LEAST_ROWS = 10, 5
# What a category can be.
_VALUES = (str, bool, int, float)
# Texts that are dates, year first or last, or numbers with a decimal point or comma.
_DATE = re.compile(r"(\d{4}([-/.])\d\d?\2\d\d?|\d\d?([-/.])\d\d?\3\d{4})(?!\d)")
_NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?")


@dataclass
class CategoryColumn:
    """One column of categories.

    Attributes
    ----------
    values : list
        Those that occur, in the order of their codes.
    every : list or None
        All that the type of the column has; None for text.
    ordered : bool
        Whether the type has an order.
    type : str
        Name of the type in the library of the frame.
    """

    values: list
    every: list | None
    ordered: bool
    type: str


class Categories:
    """The columns of a data frame that hold categories or text.

    A category has a code, its place in an order: that of the type if it has one, else
    by the mean of the feature that tells most of the categories apart.

    Parameters
    ----------
    columns : dict of int to CategoryColumn
    """

    def __init__(self, columns):
        self.columns = columns

    def __bool__(self):
        """Whether there are any."""
        return bool(self.columns)

    @classmethod
    def learn(cls, frame, labels, owner, name):
        """Return the categories of a data frame; of None there are none.

        Parameters
        ----------
        frame : narwhals DataFrame or None
        labels : list or None
            Of its columns.
        owner, name : str
            Of the estimator and of the argument, for messages.

        Raises
        ------
        ValueError
            If there are too many for the rows, or values of another kind.
        """
        columns = {}
        for j, series in enumerate([] if frame is None else frame.iter_columns()):
            if not _is_category(series):
                continue
            column = _learn(series)
            if column is None:
                raise ValueError(
                    f"Column {labels[j]!r} of {name} has categories that are neither "
                    f"text nor numbers. {owner} could not save them. Turn them into "
                    "text, as by .astype(str)."
                )
            n, k = len(series), len(column.values)
            if k == 1:
                raise ValueError(
                    f"Column {labels[j]!r} of {name} is {column.values[0]!r} in every "
                    f"row, and {owner} could not convert it: one category tells "
                    "nothing. Leave the column out."
                )
            if k > max(_FEW, n / _LEAST_ROWS):
                raise ValueError(
                    f"Column {labels[j]!r} of {name} has {k} categories in {n} rows, "
                    f"and {owner} could not convert it: less than {_LEAST_ROWS} rows a "
                    "category tell nothing of their probabilities. Leave the column "
                    "out if it is a name or a number of the rows, else merge rare "
                    f"categories into one.{_looks_like(column.values)}"
                )
            columns[j] = column
        return cls(columns)

    def encode(self, j, series):
        """Return the codes of a column; NaN where there is none.

        A category that is not known has the code after the last.
        """
        known = self.columns[j].values
        codes = {value: code for code, value in enumerate(known)}
        objects = (_plain(value) for value in series.to_list())
        return np.fromiter(
            (
                np.nan if value is None else codes.get(value, len(known))
                for value in objects
            ),
            dtype=np.float64,
            count=len(series),
        )

    def sort(self, array):
        """Find an order for categories without one, and change their codes to it.

        Parameters
        ----------
        array : ndarray of shape (n_samples, n_features)
            With the codes so far; it is changed.
        """
        others = [j for j in range(array.shape[1]) if j not in self.columns]
        numbers = array[:, others]
        numbers = numbers[:, np.isfinite(numbers).all(axis=0)]
        for j, column in self.columns.items():
            there, k = ~np.isnan(array[:, j]), len(column.values)
            if column.ordered or k < 3:
                continue
            codes = array[there, j].astype(int)
            order = np.argsort(_places(codes, k, numbers[there]), kind="stable")
            column.values = [column.values[i] for i in order]
            array[there, j] = np.argsort(order)[codes]

    def get_state(self):
        """Return what `from_state` needs."""
        return {"columns": {str(j): asdict(c) for j, c in self.columns.items()}}

    @classmethod
    def from_state(cls, state):
        """Return the categories of a state."""
        columns = {}
        for j, one in state["columns"].items():
            column = CategoryColumn(**one)
            every = column.values if column.every is None else column.every
            if not (
                j.isdigit()
                and isinstance(column.values, list)
                and isinstance(every, list)
                and all(isinstance(v, _VALUES) for v in (*column.values, *every))
                and 0 < len(column.values) == len(set(column.values))
                and set(column.values) <= set(every)
                and isinstance(column.ordered, bool)
                and isinstance(column.type, str)
            ):
                raise ValueError("the categories of a column are none")
            columns[int(j)] = column
        return cls(columns)


class CategoryType:
    """Type of the samples' values in a column of categories.

    It has what `ColumnType` has: its values are codes.

    Parameters
    ----------
    column : CategoryColumn
    in_frame : bool
        Whether samples come in a data frame, whose library makes the column.
    """

    dtype, is_integer, is_decimal = np.dtype(float), True, False
    decimals = fill = arrow = None
    name = "category"

    def __init__(self, column, in_frame):
        self.column, self.is_object = column, not in_frame
        self.lower, self.upper = 0.0, len(column.values) - 1.0

    def values(self, x, is_open, lower, upper):
        """Return codes as such."""
        return np.clip(np.rint(x), self.lower, self.upper)

    def native(self, x):
        """Return the categories of codes, as objects."""
        known = np.empty(len(self.column.values), dtype=object)
        known[:] = self.column.values
        return known[x.astype(int)]


def _is_category(series):
    dtype = series.dtype
    if isinstance(dtype, (nw.String, nw.Categorical, nw.Enum)):
        return True
    if not isinstance(dtype, nw.Object):
        return False
    values = [v for v in series.to_list() if _plain(v) is not None]
    return bool(values) and all(isinstance(v, str) for v in values)


def _looks_like(values):
    """What to say of categories that are dates or numbers as text."""
    texts = [v.strip() for v in values if isinstance(v, str)]
    if len(texts) < len(values):
        return ""
    such = f", such as {values[0]!r}"
    if all(_DATE.match(text) for text in texts):
        return (
            f" Its values look like dates{such}: read them, as by pandas.to_datetime, "
            "and turn them into numbers, such as days since the first."
        )
    if all(_NUMBER.fullmatch(text) for text in texts):
        with_comma = any("," in text for text in texts)
        how = " with a decimal point in place of the comma" if with_comma else ""
        return (
            f" Its values look like numbers{such}: convert them{how}, as by "
            "pandas.to_numeric."
        )
    return ""


def _learn(series):
    """Return a column of categories, or None if they can not be saved."""
    native = series.to_native()
    dtype = getattr(native, "dtype", None)
    every, ordered = None, False
    if hasattr(dtype, "ordered"):
        # Of pandas.
        every, ordered = [_plain(v) for v in dtype.categories], bool(dtype.ordered)
    elif isinstance(series.dtype, nw.Enum):
        every, ordered = list(series.dtype.categories), True
    found = {_plain(v) for v in series.unique().to_list()} - {None}
    if not found or not all(isinstance(v, _VALUES) for v in (*found, *(every or ()))):
        return None
    if every is None:
        values = sorted(found)
    else:
        values = [value for value in every if value in found]
    name = str(getattr(native, "type", dtype) if dtype is None else dtype)
    return CategoryColumn(values, every, ordered, name)


def _plain(value):
    """Return a category as Python has it; None where it is missing."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return str(value)
    is_nan = isinstance(value, float) and math.isnan(value)
    return None if is_nan or type(value).__name__ in ("NAType", "NaTType") else value


def _places(codes, k, numbers):
    """Where categories are, on the feature that tells most of them apart.

    That has the largest share of its variance between the categories. Without any
    feature, frequent categories come first.
    """
    counts = np.bincount(codes, minlength=k)
    if not numbers.shape[1]:
        return -counts
    spread = numbers.std(axis=0)
    scaled = (numbers - numbers.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    sums = np.stack([np.bincount(codes, column, k) for column in scaled.T])
    means = sums / np.maximum(counts, 1)
    return means[np.square(means) @ counts == (np.square(means) @ counts).max()][0]
