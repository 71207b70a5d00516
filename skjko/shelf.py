"""The arrays of a file, each taken once and checked; blocks among them."""

# SPDX-License-Identifier: BSD-3-Clause

import math

import numpy as np
import torch

from skjko.flow import description


class Shelf:
    """The arrays of a file; every one has to be taken, and only once."""

    def __init__(self, arrays):
        self._arrays = dict(arrays)

    def __contains__(self, name):
        return name in self._arrays

    def take(self, name, shape, kind="f", finite=True, least=-math.inf):
        """Return an array in the machine's byte order.

        `shape` may have None for any size; `kind` is NumPy's letter for floats ("f"),
        ints ("i") and unsigned ones ("u").
        """
        if name not in self._arrays:
            raise ValueError(f"the array {name!r} is missing")
        array = self._arrays.pop(name)
        fits = len(array.shape) == len(shape) and all(
            expected in (None, size)
            for size, expected in zip(array.shape, shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"the array {name!r} has shape {array.shape}, not {tuple(shape)}"
            )
        if array.dtype.kind != kind:
            raise ValueError(f"the array {name!r} has dtype {array.dtype}")
        if finite and not np.isfinite(array).all():
            raise ValueError(f"the array {name!r} has values that are not finite")
        if least > -math.inf and not (array >= least).all():
            raise ValueError(f"the array {name!r} has values below {least}")
        return array.astype(array.dtype.newbyteorder("="))

    def take_float64(self, name, shape, **checks):
        """Return an array of floats, widened if they were written as float32."""
        return self.take(name, shape, **checks).astype(np.float64)

    def check_empty(self):
        """Raise ValueError if an array was not taken."""
        if self._arrays:
            name = min(self._arrays)
            raise ValueError(f"the array {name!r} belongs to nothing")


def put_blocks(blocks, prefix, arrays):
    """Return blocks as plain values; put their weights into `arrays`."""
    plain = []
    for i, block in enumerate(blocks):
        plain.append(description.describe(block))
        for name, weight in block.field.state_dict().items():
            arrays[f"{prefix}.{i}.{name}"] = weight.numpy(force=True)
    return plain


def take_blocks(plain, prefix, n_features, shelf):
    """Return blocks; `n_features` may be None for any, the same in all of them."""
    if not isinstance(plain, list):
        raise ValueError(f"{prefix!r} is no list of blocks")
    blocks = []
    for i, described in enumerate(plain):

        def weight(name, shape, i=i):
            return torch.from_numpy(shelf.take(f"{prefix}.{i}.{name}", shape))

        block = description.build(described, weight)
        n_inside, n_context = description.sizes(block)
        n_features = n_inside if n_features is None else n_features
        if (n_inside, n_context) != (n_features, 0):
            raise ValueError(f"block {i} of {prefix!r} is not for {n_features} columns")
        blocks.append(block)
    return blocks
