"""The form of a table: names, types and container, which samples get too."""

# SPDX-License-Identifier: BSD-3-Clause

import numpy as np

from skjko.data import chunks

# Types of columns that samples can have, by the names NumPy, pandas and polars use.
_SIZES = {"int": (8, 16, 32, 64), "uint": (8, 16, 32, 64), "float": (16, 32, 64)}
_NUMPY = {"bool"} | {f"{kind}{size}" for kind, all_ in _SIZES.items() for size in all_}
_PANDAS = _NUMPY | {
    "boolean",
    *(f"{kind}{size}" for kind in ("Int", "UInt") for size in (8, 16, 32, 64)),
    *("Float32", "Float64"),
}
_POLARS = {
    "Boolean",
    *(f"{kind}{size}" for kind in ("Int", "UInt") for size in (8, 16, 32, 64)),
    *("Float32", "Float64"),
}
KNOWN = {"numpy": _NUMPY, "pandas": _PANDAS, "polars": _POLARS}
# The type of samples where that of the data is none of these.
_DEFAULT = {"numpy": "float64", "pandas": "float64", "polars": "Float64"}
_TEXT = "hold categories or text"
# Largest values that a fit accepts: a few times their differences are still finite.
LARGEST_VALUE = 1e300
# The most columns that an error names.
_MOST_NAMED = 5


class Table:
    """Container, names and types of a table.

    Parameters
    ----------
    container : {"numpy", "pandas", "polars"}
        What samples come in.
    names : list of str or None
        Of the columns; None for arrays.
    dtypes : list of str
        One for every column, from `KNOWN`.
    """

    def __init__(self, container, names, dtypes):
        self.container, self.names, self.dtypes = container, names, dtypes

    @classmethod
    def of(cls, X):
        """Return the form of a table that scikit-learn takes."""
        kind = _container(X)
        if kind == "numpy":
            array = np.asarray(X)
            return cls(kind, None, [_known(array.dtype, kind)] * array.shape[1])
        names, dtypes = list(X.columns), list(X.dtypes)
        return cls(
            kind if all(isinstance(name, str) for name in names) else "numpy",
            names if all(isinstance(name, str) for name in names) else None,
            [_known(dtype, kind) for dtype in dtypes],
        )

    def get_state(self):
        """Return what `from_state` needs."""
        names = self.names and [str(name) for name in self.names]
        return {"container": self.container, "names": names, "dtypes": self.dtypes}

    @classmethod
    def from_state(cls, state):
        """Return the form of a table of a state."""
        container, dtypes = state["container"], state["dtypes"]
        if state.keys() != {"container", "names", "dtypes"} or container not in KNOWN:
            raise ValueError("the state of a table is incomplete")
        if not isinstance(dtypes, list) or not set(dtypes) <= KNOWN[container]:
            raise ValueError(f"the types of the columns are not {container}'s")
        return cls(container, state["names"], dtypes)

    def check(self, n_features, names):
        """Raise a ValueError if this is no table of these features."""
        if len(self.dtypes) != n_features:
            raise ValueError(f"the table has not {n_features} columns")
        # A table is told from an array by having the names of the features.
        if self.names != (None if self.container == "numpy" else names):
            raise ValueError("the names of the table are not those of the features")
        if self.container != "numpy" and names is None:
            raise ValueError("there are no names for the data frames that it returns")

    @property
    def is_integer(self):
        """Whether each column is of an integer or boolean type."""
        return np.array([_numpy(d).kind in "iub" for d in self.dtypes], dtype=bool)

    def label(self, j):
        """Return a column's name for messages."""
        return f"column {j}" if self.names is None else f"column {self.names[j]!r}"

    def rebuild(self, n_samples, parts, grid, lower, upper):
        """Give rows the form of the table.

        Parameters
        ----------
        n_samples : int
            Number of rows.
        parts : iterable of (slice, ndarray)
            Which rows, and their values in data units, until all have come.
        grid : DiscreteGrid
            Of the values.
        lower, upper : ndarray of shape (n_features,)
            Bounds of the values: closed in discrete columns, open in others.
        """
        discrete = grid.step > 0
        types = [_numpy(name) for name in self.dtypes]
        if self.container == "numpy":
            dtype = types[0] if len(set(types)) == 1 else np.dtype(float)
            if dtype.kind in "iub" and not discrete.all():
                dtype = np.dtype(float)
            types = [dtype] * len(types)
            table = np.empty((n_samples, len(types)), dtype)
            columns = list(table.T)
        else:
            columns = [np.empty(n_samples, dtype) for dtype in types]
        least, largest = np.array([_limits(t) for t in types]).T
        lower, upper = np.maximum(lower, least), np.minimum(upper, largest)
        for where, rows in parts:
            forms = zip(types, ~discrete, lower, upper, strict=True)
            rows = grid.round(rows, lower, upper)
            for column, x, form in zip(columns, rows.T, forms, strict=True):
                column[where] = _as_type(x, *form)
        if self.container == "numpy":
            return table
        if self.container == "polars":
            import polars as pl

            return pl.DataFrame(
                [
                    pl.Series(name, x, dtype=getattr(pl, dtype))
                    for name, x, dtype in zip(
                        self.names, columns, self.dtypes, strict=True
                    )
                ]
            )
        import pandas as pd

        # By number first: older versions of scikit-learn take names that come twice.
        frame = pd.DataFrame(dict(enumerate(columns)))
        frame = frame.astype(dict(enumerate(self.dtypes)))
        frame.columns = self.names
        return frame


def check_table(X, estimator):
    """Raise a ValueError that says what to do if X has no numbers, or too few.

    Only of data frames; scikit-learn checks the rest.
    """
    if _container(X) == "numpy":
        return
    for what, test, remedy in (
        (_TEXT, _is_category, "Encode them as numbers"),
        ("hold dates or times", _is_time, "Turn them into numbers"),
    ):
        names = [
            name
            for j, (name, dtype) in enumerate(zip(X.columns, X.dtypes, strict=True))
            if test(dtype) or (what == _TEXT and _holds_text(X, j, dtype))
        ]
        if names:
            raise ValueError(
                f"These columns of X {what}: {_listed(map(repr, names))}. {estimator} "
                f"could not convert them to float. {remedy} (in a sense in which "
                "distances mean something), or leave them out."
            )


def check_values(X, estimator, name="X"):
    """Raise a ValueError if values of an array are too large."""
    # Without a copy of what may be a file.
    size = np.maximum(X.max(axis=0).astype(float), -X.min(axis=0).astype(float))
    j = int(size.argmax())
    if size[j] > LARGEST_VALUE:
        raise ValueError(
            f"{name} has values beyond {LARGEST_VALUE:g} in column {j}, "
            f"{size[j]:.6g} in size. {estimator} takes differences of them, which "
            "would overflow. Change the unit."
        )


def missing_message(X, estimator):
    """Return what to say of the missing values of X, or None if it has none."""
    if _container(X) == "numpy":
        try:
            # No copy of what is an array of floats, which may be larger than memory.
            kept = isinstance(X, np.ndarray) and X.dtype.kind == "f"
            array = np.asarray(X, dtype=None if kept else float)
        except (TypeError, ValueError):
            return None
        if array.ndim != 2:
            return None
        counts = sum(np.isnan(x).sum(axis=0) for _, x in chunks.in_float64(array))
        names = range(array.shape[1])
        drop = "X[~np.isnan(X).any(axis=1)]"
    else:
        counts = _missing_counts(X)
        names = map(repr, X.columns)
        drop = "X.dropna()" if _container(X) == "pandas" else "X.drop_nulls()"
    found = [(n, int(c)) for n, c in zip(names, counts, strict=True) if c]
    if not found:
        return None
    total = sum(count for _, count in found)
    values = "a missing value" if total == 1 else f"{total} missing values"
    where = _listed(f"{name} ({count})" for name, count in found)
    return (
        f"Input X contains NaN: {values} in column{'s' * (len(found) > 1)} {where}. "
        f"{estimator} does not accept missing values: drop the rows that have them, as "
        f"by {drop}, or fill them in first, as by sklearn.impute."
    )


def _container(X):
    module = type(X).__module__.partition(".")[0]
    is_frame = hasattr(X, "columns") and hasattr(X, "dtypes")
    return module if is_frame and module in ("pandas", "polars") else "numpy"


def _known(dtype, kind):
    name = str(dtype)
    return name if name in KNOWN[kind] else _DEFAULT[kind]


def _numpy(name):
    """Return the NumPy type of a name in any of the libraries."""
    name = name.lower()
    return np.dtype("bool" if name == "boolean" else name)


def _is_category(dtype):
    name = str(dtype).lower()
    return name.startswith(("category", "categorical", "enum", "str"))


def _holds_text(X, j, dtype):
    """Whether a pandas column of objects has some that are text."""
    return str(dtype) == "object" and any(isinstance(v, str) for v in X.iloc[:, j])


def _is_time(dtype):
    name = str(dtype).lower()
    return name.startswith(("date", "time", "duration", "period"))


def _missing_counts(X):
    if hasattr(X, "iloc"):
        return X.isna().sum(axis=0).to_numpy()
    return [
        column.null_count() + (column.is_nan().sum() if column.dtype.is_float() else 0)
        for column in X.iter_columns()
    ]


def _listed(items):
    items = list(items)
    more = len(items) - _MOST_NAMED
    text = ", ".join(map(str, items[:_MOST_NAMED]))
    return text if more <= 0 else f"{text} and {more} more"


def _limits(dtype):
    """Least and largest number of a type that are floats, too."""
    if dtype.kind == "b":
        return 0.0, 1.0
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    # The largest 64-bit integers are no floats, and round to one beyond them.
    largest = float(limits.max)
    if dtype.kind in "iu" and int(largest) > limits.max:
        largest = np.nextafter(largest, 0.0)
    return float(limits.min), largest


def _as_type(x, dtype, is_open, lower, upper):
    """Values of one column in its own type, within bounds that are in its range."""
    if dtype.kind in "biu":
        return np.clip(np.rint(x), lower, upper).astype(dtype)
    x = np.clip(x, lower, upper).astype(dtype)
    if is_open:
        # Rounding to fewer digits may reach the bound, which no value has.
        above = np.nextafter(dtype.type(lower), dtype.type(np.inf))
        below = np.nextafter(dtype.type(upper), dtype.type(-np.inf))
        x = np.where(x <= lower, above, np.where(x >= upper, below, x))
    return x
