"""Fitted estimators to and from files, without pickle."""

# SPDX-License-Identifier: BSD-3-Clause

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skjko.flow import group, threads
from skjko.io import format as file_format
from skjko.io.format import FORMAT_VERSION
from skjko.io.registry import CLASSES, own_classes
from skjko.io.state import pack, unpack
from skjko.typing import State

S = TypeVar("S", bound="Saved")


class Saved:
    """Methods that write a fitted estimator to a file, and read it.

    An estimator implements `get_state` and `from_state`.
    """

    get_state: Callable[[], State]
    from_state: Callable[[State], Self]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimator to one file, without pickle.

        Parameters
        ----------
        path : str or path-like
            The file, by custom with the ending ".safetensors". One that is there is
            replaced in one step: a save that fails leaves it as it was.

        Raises
        ------
        ValueError
            If a parameter has a type that files cannot hold, or a weight is not finite.
        OSError
            If the file cannot be written.

        See Also
        --------
        load : The way back.

        Notes
        -----
        The file holds parameters, weights, the history, and what `warm_start` needs,
        but no data. Of a field or transform of your own it holds the parameters and the
        fitted attributes; `load` has to be given the class. Metadata routing requests
        are not saved. Of processes that fit together, the first one alone writes.
        """
        check_is_fitted(self)
        kind = type(self).__name__
        own = own_classes(self.get_state())
        try:
            arrays: dict[str, np.ndarray] = {}
            state = pack(self.get_state(), arrays, "model", {**self._classes(), **own})
            content = file_format.dump(kind, FORMAT_VERSION, {"state": state}, arrays)
            # What cannot be read is not written: better to learn of it now.
            _parse(type(self), content, own)
        except ValueError as error:
            raise ValueError(f"This {kind} cannot be saved: {error}") from error
        if group.current(make=False).rank == 0:
            file_format.write(path, content)

    @classmethod
    def load(cls, path: str | os.PathLike[str], classes: Iterable[type] = ()) -> Self:
        """Read a fitted estimator from a file that `save` wrote.

        Nothing in the file is executed: it may come from anywhere.

        Parameters
        ----------
        path : str or path-like
            The file.
        classes : sequence of class, default=()
            Velocity fields and transforms of your own that the file may hold.

        Returns
        -------
        estimator : object
            Of this class. It does what the one that was saved did, bit for bit on the
            same machine; a density can be fitted on with `warm_start=True`.

        Raises
        ------
        ValueError
            If the file is damaged, from a newer version of skjko, or holds something
            else, such as an estimator of another class.
        OSError
            If there is no such file, or it cannot be read.

        Examples
        --------
        >>> import os, tempfile
        >>> import numpy as np
        >>> from skjko import JKOFlowDensity
        >>> X = np.random.default_rng(0).normal(size=(50, 2))
        >>> density = JKOFlowDensity(max_blocks=0).fit(X)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "gaussian.safetensors")
        ...     density.save(path)
        ...     loaded = JKOFlowDensity.load(path)
        >>> loaded.score(X) == density.score(X)
        True
        """
        content = Path(path).read_bytes()
        own = {one.__name__: one for one in classes}
        try:
            return _parse(cls, content, own)
        except (ValueError, RuntimeError) as error:
            what = "it is nested too deeply" if type(error) is RecursionError else error
            raise ValueError(f"Cannot load {str(path)!r}: {what}") from error

    @classmethod
    def _classes(cls) -> dict[str, type]:
        """Classes that the state of the estimator may hold."""
        return CLASSES


@threads.isolated()
def _parse(cls: type[S], content: bytes, own: dict[str, type]) -> S:
    _, model, arrays = file_format.parse(content, cls.__name__, FORMAT_VERSION)
    if model.keys() != {"state"}:
        raise ValueError("it has no state")
    state = unpack(model["state"], arrays, {**cls._classes(), **own})
    if arrays:
        raise ValueError(f"the array {min(arrays)!r} belongs to nothing")
    if not isinstance(state, dict):
        raise ValueError("the state is no dict")
    try:
        return cls.from_state(state)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"its state is none of a {cls.__name__} ({error})") from error
