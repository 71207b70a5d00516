"""Checks of an estimator's data, and warnings at the line of the user."""

# SPDX-License-Identifier: BSD-3-Clause

import contextlib
import inspect
import os
import warnings
from numbers import Integral
from typing import Any

import numpy as np
import sklearn
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from skjko.data import chunks
from skjko.data.categories import Categories
from skjko.data.columns import (
    column_name,
    frame_of,
    infinite_message,
    labels_of,
    numbers,
    row_numbers,
    select_message,
)

# Files between a method and the user's line: the package's, and of its decorators.
_OURS = (
    *(
        os.path.join(os.path.dirname(os.path.abspath(file)), "")
        for file in (__file__, sklearn.__file__, torch.__file__)
    ),
    contextlib.__file__,
)


class CheckedInput:
    """Checks of an estimator's data and of the arguments of its methods."""

    n_features_in_: int
    _categories: Categories

    def _checked(
        self,
        X: ArrayLike,
        name: str = "X",
        reset: bool = False,
        ensure_min_samples: int = 1,
        allow_nan: bool = False,
    ) -> NDArray[Any]:
        """Check samples as scikit-learn does, and say more of what is wrong.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        name : str, default="X"
            Of the argument, for messages.
        reset : bool, default=False
            Whether these samples set the number and the names of the features.
        ensure_min_samples : int, default=1
        allow_nan : bool, default=False
            Whether numbers may be missing.
        """
        frame = frame_of(X, name)
        if reset:
            owner = type(self).__name__
            self._categories = Categories.learn(frame, labels_of(frame), owner, name)
        elif frame is not None:
            # Before the values: they may be text only because the column is another.
            self._check_features(frame.to_native(), name)
        array = self._numbers(X, name, ensure_min_samples, self._categories, allow_nan)
        if reset and self._categories:
            self._categories.sort(array)
        if reset:
            table = array if frame is None else frame.to_native()
            validate_data(self, table, reset=True, skip_check_array=True)
            for j in row_numbers(array, frame):
                warn_user(
                    f"Every row of {name} has another integer in "
                    f"{column_name(labels_of(frame), j)}. Leave the column out if it "
                    "numbers the rows."
                )
        elif frame is None:
            self._check_features(array, name)
        return array

    def _check_seen(
        self,
        X: NDArray[Any],
        seen: NDArray[np.bool_],
        name: str = "X",
        why: str = (
            "of which fit saw no missing value. Fill it in, or fit on data that have "
            "some"
        ),
    ) -> None:
        """Raise a ValueError if other features miss values than may.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
        seen : ndarray of bool of shape (n_features,)
            Those that may.
        name : str, default="X"
            Of the samples, in the message.
        why : str
            What to say of a feature that may not.
        """

        def is_new(rows: NDArray[Any]) -> NDArray[np.bool_]:
            return np.isnan(rows) & ~seen

        found = chunks.first_true(is_new, X)
        if found is not None:
            column = column_name(getattr(self, "feature_names_in_", None), found[1])
            raise ValueError(
                f"{name} contains NaN in row {found[0]} of {column}, {why}."
            )

    def _check_features(self, table: ArrayLike, name: str) -> None:
        """Check that a table has the features of the fit, and their order."""
        try:
            validate_data(self, table, reset=False, skip_check_array=True)
        except ValueError as error:
            text = str(error)
            remedy = select_message(table, getattr(self, "feature_names_in_", ()), name)
            if remedy is not None:
                text = f"{text.strip()}\n{remedy}"
            if name != "X":
                starts = text.startswith("X ")
                text = f"{name} {text[2:]}" if starts else f"{name}: {text}"
            raise ValueError(text) from None

    def _numbers(
        self,
        X: ArrayLike,
        name: str,
        ensure_min_samples: int = 1,
        categories: Categories | None = None,
        allow_nan: bool = False,
    ) -> NDArray[Any]:
        """Check that a table has finite numbers, of any number of features."""
        owner = type(self).__name__
        array = numbers(X, owner, name, categories)
        try:
            # Scikit-learn adds all values up, to see whether they are finite.
            with np.errstate(over="ignore", invalid="ignore"):
                return check_array(
                    array,
                    dtype=chunks.dtypes(array),
                    ensure_all_finite="allow-nan" if allow_nan else True,
                    ensure_min_samples=ensure_min_samples,
                    input_name=name,
                    estimator=self,
                )
        except ValueError as error:
            text = str(error)
            if text.startswith(f"Input {name} contains"):
                found = _floats(array)
                if allow_nan:
                    found = np.where(np.isnan(found), 0.0, found)
                text = infinite_message(found, X, owner, name) or text
            elif name == "X" or name in text:
                raise
            else:
                text = f"{name}: {text}"
            raise ValueError(text) from None

    def _check_count(self, value: Any, name: str, method: str, least: int) -> None:
        is_int = isinstance(value, Integral) and not isinstance(value, bool)
        if not is_int or value < least:
            raise ValueError(
                f"The {name!r} parameter of {type(self).__name__}.{method} must be an "
                f"int in the range [{least}, inf). Got {value!r} instead."
            )


def _floats(array: Any) -> NDArray[Any]:
    """A table as an array of floats, without a copy of what is one."""
    kept = isinstance(array, np.ndarray) and array.dtype.kind == "f"
    with np.errstate(over="ignore"):
        return np.asarray(array, dtype=None if kept else np.float64)


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line of the user that led here.

    Parameters
    ----------
    message : str
    category : type, default=UserWarning
    """
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def without_nan(result: NDArray[Any], name: str) -> NDArray[Any]:
    """Return a result, or raise a ValueError if it has NaN.

    Parameters
    ----------
    result : ndarray
    name : str
        Of the argument that it comes from, in which nobody has looked for NaN where
        scikit-learn's `assume_finite` is set.
    """
    if np.isnan(result).any():
        raise ValueError(f"{name} contains NaN. Drop the rows, or fill them in.")
    return result
