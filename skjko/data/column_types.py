"""Types of columns: their names, and values of samples in them."""

# SPDX-License-Identifier: BSD-3-Clause

import re
from decimal import Decimal

import numpy as np

_INT = "int(?:8|16|32|64)"
_ARROW = rf"(?P<number>bool|u?{_INT}|halffloat|float|double)"
_ARROW_DECIMAL = r"(?P<number>decimal)(?:128|256)\((?P<precision>\d+), (?P<scale>\d+)\)"
# Python objects, by what they are.
_OBJECTS = r"(?P<object>object)\[(?P<number>bool|int|float|decimal)\]"
_NUMPY = (
    rf"(?P<number>bool|u?{_INT}|float(?:16|32|64))",
    # Of the other byte order.
    r"[<>](?P<number>[iuf][248])",
    _OBJECTS,
)
# The names of types that samples can have, in every library.
_PATTERNS = {
    "numpy": _NUMPY,
    "pandas": (
        *_NUMPY,
        r"(?P<number>boolean|U?Int(?:8|16|32|64)|Float(?:32|64))",
        rf"{_ARROW}\[(?P<arrow>pyarrow)\]",
        rf"{_ARROW_DECIMAL}\[(?P<arrow>pyarrow)\]",
        rf"Sparse\[(?P<number>bool|u?{_INT}|float(?:16|32|64)), (?P<fill>[-+.\w]+)\]",
    ),
    "polars": (
        _OBJECTS,
        r"(?P<number>Boolean|U?Int(?:8|16|32|64|128)|Float(?:16|32|64))",
        r"(?P<number>Decimal)"
        r"\(precision=(?P<precision>\d+|None), scale=(?P<scale>\d+)\)",
    ),
    "pyarrow": (_ARROW, _ARROW_DECIMAL),
}
CONTAINERS = tuple(_PATTERNS)
"""What samples can come in."""

# The type of samples where that of the data is none of these.
_DEFAULT = {"numpy": "float64", "pandas": "float64", "polars": "Float64"}
_NUMPY_NAMES = {
    "boolean": "bool",
    "halffloat": "float16",
    "float": "float32",
    "double": "float64",
}
# Digits of the widest decimals, where a type does not tell.
_MOST_DIGITS = 38


def known(name, container):
    """Return the name of a type if samples can have it, else that of floats."""
    known = any(re.fullmatch(p, name) for p in _PATTERNS[container])
    return name if known else _DEFAULT.get(container, "double")


class ColumnType:
    """Type of the samples' values in one column.

    Parameters
    ----------
    name : str
        In the words of the container's library; of objects with what they are, as in
        "object[int]".
    container : {"numpy", "pandas", "polars", "pyarrow"}

    Attributes
    ----------
    dtype : numpy.dtype
        Of the values, before `native`.
    is_integer : bool
        Whether there are integers, or booleans, only.
    lower, upper : float
        Limits of the values.
    decimals : int or None
        Number of decimals, for types that have one.
    """

    def __init__(self, name, container):
        found = (re.fullmatch(p, name) for p in _PATTERNS[container])
        match = next(filter(None, found), None)
        if match is None:
            raise ValueError(f"{name!r} is no type of {container}'s numbers")
        parts = match.groupdict()
        self.name, self.container = name, container
        self.is_object = "object" in parts
        self.fill, self.arrow = parts.get("fill"), parts.get("arrow")
        number = parts["number"].lower()
        self.decimals, self.precision = None, parts.get("precision")
        self.is_decimal = number == "decimal"
        if self.is_decimal:
            self.dtype, self.lower, self.upper = np.dtype(float), -np.inf, np.inf
            if "scale" in parts:
                self.decimals = int(parts["scale"])
                digits = _digits(self.precision) - self.decimals
                self.upper = 10.0**digits - 10.0**-self.decimals
                # Beyond the digits of a float the last one is lost.
                if self.upper >= 10.0**digits:
                    self.upper = np.nextafter(10.0**digits, 0.0)
                self.lower = -self.upper
            self.is_integer = self.decimals == 0
        elif number == "int" or number.endswith("int128"):
            self.dtype, self.is_integer = np.dtype(float), True
            self.lower, self.upper = -np.inf, np.inf
            if number != "int":
                unsigned = number.startswith("u")
                self.lower = 0.0 if unsigned else -(2.0**127)
                self.upper = np.nextafter(2.0 ** (128 if unsigned else 127), 0.0)
        else:
            if not self.is_object:
                number = _NUMPY_NAMES.get(number, number)
            swapped = name[0] in "<>"
            self.dtype = np.dtype(name if swapped else number)
            self.is_integer = self.dtype.kind in "iub"
            self.lower, self.upper = _limits(self.dtype)

    def values(self, x, is_open, lower, upper):
        """Return numbers as values of the type.

        Parameters
        ----------
        x : ndarray of float64
        is_open : bool
            Whether the bounds are no values.
        lower, upper : float
            Bounds of the values, within those of the type.
        """
        if self.is_integer:
            return np.clip(np.rint(x), lower, upper).astype(self.dtype)
        x = np.clip(x, lower, upper)
        if self.decimals is not None:
            x = np.round(x, self.decimals)
            step = 10.0**-self.decimals
            above, below = lower + step, upper - step
        else:
            # Rounding to fewer digits may reach the bound, which no value has.
            native = self.dtype.newbyteorder("=")
            x, one = x.astype(native), native.type
            above = np.nextafter(one(lower), one(np.inf))
            below = np.nextafter(one(upper), one(-np.inf))
        if is_open:
            x = np.where(x <= lower, above, np.where(x >= upper, below, x))
        return x.astype(self.dtype, copy=False)

    def native(self, x):
        """Return values as what the container's library makes a column of."""
        if self.is_object:
            if self.is_decimal:
                x = [Decimal(repr(v)) for v in x.tolist()]
            elif self.is_integer and self.dtype.kind == "f":
                x = [int(v) for v in x.tolist()]
            objects = np.empty(len(x), dtype=object)
            objects[:] = x if isinstance(x, list) else x.tolist()
            return objects
        if self.is_decimal:
            return [Decimal(f"{v:.{self.decimals}f}") for v in x.tolist()]
        return x


def _digits(precision):
    return _MOST_DIGITS if precision in (None, "None") else int(precision)


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
