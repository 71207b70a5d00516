"""Rows to train on or to decide by, with their weights."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from dataclasses import dataclass

import torch

from skjko.flow import spill

# Rows looked at together: in training's float32 as many bytes as `flow.CHUNK_SIZE` rows
# are in the float64 of scores.
_CHUNK_SIZE = 2048


@dataclass
class Rows:
    """Rows x of shape (n, d) with weights (n,) of mean 1 and, perhaps, conditions.

    Rows that are too many for memory have `x` in a file (see `spill`). What is taken of
    them goes to the device `to`; it is None for rows that are on their device already.
    """

    x: torch.Tensor
    weight: torch.Tensor
    context: torch.Tensor | None = None
    to: torch.device | None = None

    def __len__(self):
        return len(self.x)

    def take(self, index):
        """Return the rows at `index`."""
        context = None if self.context is None else self.context[index]
        if self.to is None:
            return Rows(self.x[index], self.weight[index], context)
        context = None if context is None else context.to(self.to)
        return Rows(self.x[index].to(self.to), self.weight[index].to(self.to), context)

    def mapped(self, function):
        """Return the rows with `function(x, context)`, of chunks of them, for x.

        They are in memory, or in a file, as these are.
        """
        if self.to is None:
            x = torch.empty_like(self.x)
        else:
            x = torch.from_numpy(spill.empty(self.x.shape, self.x.numpy().dtype))
        for start in range(0, len(x), _CHUNK_SIZE):
            where = slice(start, start + _CHUNK_SIZE)
            part = self.take(where)
            x[where] = function(part.x, part.context)
        return Rows(x, self.weight, self.context, self.to)

    @property
    def radius(self):
        """Largest length of a row."""
        parts = self.x.split(_CHUNK_SIZE)
        return max(part.square().sum(1).max() for part in parts).sqrt().item()

    def mean(self, values):
        """Weighted mean of one value a row."""
        return torch.dot(values, self.weight).item() / self.weight.sum().item()

    def first(self, n):
        """The first n rows, or those of every table if x is a stack of them."""
        context = None if self.context is None else self.context[..., :n, :]
        return Rows(self.x[..., :n, :], self.weight[..., :n], context, self.to)

    def some(self, n):
        """At most n rows, evenly spaced: they may have been handed over in order."""
        return self.take(slice(None, None, math.ceil(len(self) / n)))
