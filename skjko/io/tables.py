"""Tables of the command line: CSV and Parquet files, by polars."""

# SPDX-License-Identifier: BSD-3-Clause

import functools
import io
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from skjko.io import format as file_format

STANDARD = "-"
"""Name of standard input and output."""

# What stands for a missing value in a CSV file, as in pandas.
MISSING = (
    *("", "NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None"),
    *("<NA>", "#N/A", "#NA", "#N/A N/A"),
)
# The most columns and rows that an error names.
_MOST = 5


def file_format_of(path: str, given: str | None) -> str:
    """Return "csv" or "parquet": what is given, else by the ending of a name."""
    if given is not None:
        return given
    return "parquet" if Path(path).suffix.lower() in (".parquet", ".pq") else "csv"


def read_table(path: str, given: str | None = None, text: Sequence[str] = ()) -> Any:
    """Read a table.

    Columns of CSV are separated by semicolons or tabs if its header has more of them
    than commas. Numbers then may have a decimal comma.

    Parameters
    ----------
    path : str
        "-" is standard input.
    given : {"csv", "parquet"} or None
        None goes by the ending of the name.
    text : sequence of str
        Columns that are text, whatever they look like.

    Returns
    -------
    table : polars.DataFrame

    Raises
    ------
    ValueError
        If it is no such file.
    OSError
        If it cannot be read.
    """
    import polars as pl

    standard = path == STANDARD
    content = sys.stdin.buffer.read() if standard else Path(path).read_bytes()
    kind = file_format_of(path, given)
    if kind == "csv" and content[:4] == b"PAR1":
        kind = "parquet"
    try:
        if kind == "parquet":
            return pl.read_parquet(io.BytesIO(content))
        return _read_csv(content, text)
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        what = str(error).strip().partition("\n")[0]
        raise ValueError(f"{_name(path)} is no {kind} table: {what}") from error


def _read_csv(content, text):
    """Read CSV, with the separator of its header and the decimal mark of its values."""
    import polars as pl

    separator = _separator(content)
    header = pl.read_csv(content, separator=separator, n_rows=0, infer_schema_length=0)
    read = functools.partial(
        pl.read_csv,
        content,
        separator=separator,
        # All rows decide on the types.
        infer_schema_length=None,
        null_values=list(MISSING),
        try_parse_dates=True,
        schema_overrides={name: pl.String for name in text if name in header},
    )
    if separator == ",":
        return read()
    # With the wrong mark, numbers are text.
    tables = [read(decimal_comma=comma) for comma in (False, True)]
    return max(tables, key=lambda table: table.dtypes.count(pl.Float64))


def _separator(content):
    """The separator of a CSV file: the most frequent one of its header."""
    line = content.partition(b"\n")[0].decode(errors="replace")
    return max(",;\t", key=re.sub('"[^"]*"', "", line).count)


def table_of(samples: Any) -> Any:
    """Return samples of an estimator as a polars data frame.

    Parameters
    ----------
    samples : ndarray, dict of str to ndarray, or a frame of any library
        The columns of an array are named x0, x1, and so on. NaN is no value.
    """
    import polars as pl

    if isinstance(samples, np.ndarray):
        samples = {f"x{j}": column for j, column in enumerate(samples.T)}
    if isinstance(samples, pl.DataFrame):
        return samples
    if not isinstance(samples, dict):
        labels = getattr(samples, "column_names", None) or list(samples.columns)
        samples = {str(label): np.asarray(samples[label]) for label in labels}
    return pl.DataFrame(samples, strict=False, nan_to_null=True)


def write_table(table: Any, path: str, given: str | None = None) -> None:
    """Write a polars data frame to a file or to standard output, "-".

    A file has all rows or stays as it was.
    """
    content = io.BytesIO()
    if file_format_of(path, given) == "parquet":
        table.write_parquet(content)
    else:
        table.write_csv(content)
    write_bytes(content.getvalue(), path)


def write_bytes(content: bytes, path: str) -> None:
    """Write bytes to a file, which has all of them or stays as it was, or to "-"."""
    if path == STANDARD:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        file_format.write(path, content)


def choose(
    table: Any, path: str, columns: Collection[str], drop: Collection[str]
) -> Any:
    """Return some columns of a table, in the order in which they are named.

    Raises
    ------
    ValueError
        If there is no such column, or none is left.
    """
    for name in (*columns, *drop):
        if name not in table.columns:
            raise ValueError(
                f"{_name(path)} has no column {name!r}. It has "
                f"{_listed(map(repr, table.columns), 20)}."
            )
    kept = [n for n in (columns or table.columns) if n not in set(drop)]
    if not kept:
        raise ValueError(f"No column of {_name(path)} is left.")
    return table.select(kept)


def check_types(table: Any, path: str) -> None:
    """Raise a ValueError if columns are neither numbers nor text nor booleans."""
    import polars as pl

    good = (pl.String, pl.Categorical, pl.Enum, pl.Boolean)
    wrong = [
        name
        for name, dtype in table.schema.items()
        if not dtype.is_numeric() and not isinstance(dtype, good)
    ]
    if wrong:
        kinds = ", ".join(f"{name!r} ({table.schema[name]})" for name in wrong[:_MOST])
        raise ValueError(
            f"{_name(path)} has columns that are neither numbers nor text: {kinds}. "
            f"Leave them out: --drop {','.join(wrong)}. Or turn dates into numbers, "
            "such as days since the first."
        )


def without_missing(table: Any, path: str, drop: bool) -> tuple[Any, Any]:
    """Return the rows of a table that have no missing values, and their numbers.

    Parameters
    ----------
    table : polars.DataFrame
    path : str
    drop : bool
        Whether rows with missing values are left out, or an error.

    Returns
    -------
    table : polars.DataFrame
    rows : ndarray of int
        Numbers of its rows in the file, from 0 on.

    Raises
    ------
    ValueError
        If there are missing values and `drop` is False, or no row is left.
    """
    import polars as pl

    floats = pl.col(pl.Float32, pl.Float64).fill_nan(None)
    is_missing = table.with_columns(floats).select(pl.all().is_null())
    array = is_missing.to_numpy().astype(bool).reshape(len(table), table.width)
    rows = np.flatnonzero(~array.any(axis=1))
    if len(rows) == len(table):
        return table, rows
    if not len(rows):
        raise ValueError(
            f"Every row of {_name(path)} has a missing value. Leave columns out with "
            f"--drop: {_counted(table.columns, array)}."
        )
    if drop:
        return table[rows], rows
    gaps = np.flatnonzero(array.any(axis=1))
    raise ValueError(
        f"{_name(path)} has missing values: {_counted(table.columns, array)}; in "
        f"row{'s' * (len(gaps) > 1)} {_listed(gaps.tolist())} (row 0 is the first "
        "below the header). Leave these rows out with --drop-missing, or the columns "
        "with --drop NAME."
    )


def _counted(names, array):
    counts = array.sum(axis=0)
    columns = np.flatnonzero(counts)
    return _listed(f"{counts[j]} in column {names[j]!r}" for j in columns)


def _listed(items, most=_MOST):
    items = list(map(str, items))
    more = len(items) - most
    text = ", ".join(items[:most])
    return text if more <= 0 else f"{text} and {more} more"


def _name(path):
    return "The standard input" if path == STANDARD else path
