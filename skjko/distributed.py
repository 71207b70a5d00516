"""Rows that several processes hold in parts, for a fit that they train together."""

# SPDX-License-Identifier: BSD-3-Clause

import os
import socket
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from skjko.data.chunks import CHUNK_VALUES
from skjko.flow import group

__all__ = ["gather_rows"]


def gather_rows(
    shard: ArrayLike | Iterable[ArrayLike], dtype: Any = np.float32
) -> NDArray[Any]:
    """Return the rows of all processes, in one memory map on each machine.

    Under `torchrun`, every process calls it with its own rows. They come in the order
    of the processes. The file is in the folder of `tempfile.gettempdir()`, once on
    each machine whatever the number of its processes, and is gone with the last array
    that looks into it.

    Parameters
    ----------
    shard : array-like of shape (n_rows, n_features), or iterable of such
        Rows of this process: an array, a memory map, or an iterator over parts, such
        as the row groups of a Parquet file. A process may have no rows, as an empty
        list.
    dtype : data-type, default=numpy.float32
        Of the result: float32 or float64. float32 keeps seven digits.

    Returns
    -------
    X : ndarray of shape (n_rows_of_all, n_features)
        To be read only.

    Raises
    ------
    ValueError
        If the parts are not numbers in two dimensions, with as many features in all of
        them, or there are no rows at all. In all processes.

    Examples
    --------
    Of one process, these are its own rows:

    >>> import numpy as np
    >>> from skjko.distributed import gather_rows
    >>> parts = (np.full((3, 2), float(i)) for i in range(4))
    >>> gather_rows(parts).shape
    (12, 2)
    """
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64. Got {dtype} instead.")
    processes = group.current()
    processes.check({"dtype": dtype.name})
    hosts = processes.gather(socket.gethostname())
    first = hosts.index(hosts[processes.rank])
    if first != processes.rank:
        n_features = _exchange(processes, shard, dtype, None)
        path = processes.gather(None)[first]
        X = np.memmap(path, dtype, "r").reshape(-1, n_features)
        # The file has no name after this.
        processes.gather(None)
        return X.view(np.ndarray)
    with tempfile.NamedTemporaryFile(prefix="skjko-", delete=False) as file:
        try:
            n_features = _exchange(processes, shard, dtype, file)
            file.flush()
            processes.gather(file.name)
            X = np.memmap(file.name, dtype, "r").reshape(-1, n_features)
            processes.gather(None)
        finally:
            os.remove(file.name)
    return X.view(np.ndarray)


def _exchange(
    processes: group.Group, shard: Any, dtype: np.dtype[Any], file: Any
) -> int:
    """Write the rows of all processes, one after another; return their features."""
    n_features = None
    for source in range(processes.size):
        own = _parts(shard, dtype) if source == processes.rank else None
        while True:
            part, found = None, None
            if own is not None:
                part, found = _next(own, n_features)
            # The number of rows and features; None at the end; a text is an error.
            found = processes.same(found, source)
            if isinstance(found, str):
                raise ValueError(f"The rows of process {source}: {found}")
            if found is None:
                break
            n_features = found[1]
            if part is None:
                part = np.empty(found, dtype)
            processes.same(torch.from_numpy(part), source)
            if file is not None:
                file.write(part.data)
    if n_features is None:
        raise ValueError("No process has any rows.")
    return n_features


def _next(own: Iterator[Any], n_features: int | None) -> tuple[Any, Any]:
    """The next part of the own rows, and what the others are told of it."""
    try:
        part = next(own, None)
    except (ValueError, TypeError) as error:
        return None, str(error)
    if part is None:
        return None, None
    if n_features is not None and part.shape[1] != n_features:
        return None, f"{part.shape[1]} features, where those before have {n_features}."
    return part, part.shape


def _parts(shard: Any, dtype: np.dtype[Any]) -> Iterator[Any]:
    """Rows as arrays that are not too large, one after another."""
    for rows in [shard] if hasattr(shard, "__array__") else shard:
        # A memory map stays one.
        rows = np.asanyarray(rows)
        if rows.ndim != 2 or rows.dtype.kind not in "fiub":
            raise ValueError(
                "expected numbers in two dimensions. Got an array of shape "
                f"{rows.shape} and dtype {rows.dtype} instead."
            )
        size = max(1, CHUNK_VALUES // max(1, rows.shape[1]))
        for start in range(0, len(rows), size):
            # Writable, for torch: a memory map may not be.
            yield np.array(rows[start : start + size], dtype=dtype, order="C")
