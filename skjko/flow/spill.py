"""Arrays on disk, where there is no room for them in memory."""

# SPDX-License-Identifier: BSD-3-Clause

import math
import os
import tempfile

import numpy as np


def empty(shape, dtype):
    """Return an array in a temporary file.

    The file has no name, and is gone with the last array that looks into it. Its pages
    are no memory that a process holds: the system writes them out when it needs room.

    Parameters
    ----------
    shape : tuple of int
        Of at least one element.
    dtype : data-type

    Returns
    -------
    array : ndarray

    Raises
    ------
    OSError
        If the disk has no room for it.
    """
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    with tempfile.TemporaryFile(prefix="skjko-") as file:
        # Files grow as they are written, and a page for which there is no room then
        # would kill the process. This fails with an error, and at once.
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"no room for {n_bytes} bytes of rows in {tempfile.gettempdir()!r}."
                    " Point the environment variable TMPDIR to a larger disk, or raise "
                    "scikit-learn's working_memory if there is memory enough",
                ) from error
        return np.memmap(file, dtype, "w+", shape=shape).view(np.ndarray)
