"""Weighted samples to train on or to validate by, in memory or in a file."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from dataclasses import dataclass

import torch

from skjko.flow import spill

# Samples looked at together.
_CHUNK_SIZE = 2048
# Of more samples, minibatches are drawn with replacement: a permutation of all would
# take memory, and few of so many are drawn twice.
_MAX_SHUFFLED = 2**22


@dataclass
class Samples:
    """Positions x of shape (n, d) with weights (n,) of mean 1 and perhaps a context.

    Samples that do not fit into memory have `x` in a file (see
    :mod:`skjko.flow.spill`). What is taken of them goes to the device `to`, which is
    None for samples that are on their device already.
    """

    x: torch.Tensor
    weight: torch.Tensor
    context: torch.Tensor | None = None
    to: torch.device | None = None

    def __len__(self):
        return len(self.x)

    def take(self, index):
        """Return the samples at `index`."""
        context = None if self.context is None else self.context[index]
        if self.to is None:
            return Samples(self.x[index], self.weight[index], context)
        context = None if context is None else context.to(self.to)
        return Samples(
            self.x[index].to(self.to), self.weight[index].to(self.to), context
        )

    @torch.no_grad()
    def map(self, function):
        """Return the samples with `function(x, context)`, of chunks, in place of x."""
        if self.to is None:
            x = torch.empty_like(self.x)
        else:
            x = torch.from_numpy(spill.empty(self.x.shape, self.x.numpy().dtype))
        for start in range(0, len(x), _CHUNK_SIZE):
            where = slice(start, start + _CHUNK_SIZE)
            part = self.take(where)
            x[where] = function(part.x, part.context)
        return Samples(x, self.weight, self.context, self.to)

    @property
    def radius(self):
        """Largest length of a sample."""
        parts = self.x.split(_CHUNK_SIZE)
        return max(part.square().sum(1).max() for part in parts).sqrt().item()

    def mean(self, values):
        """Return the weighted mean of one value a sample."""
        return torch.dot(values, self.weight).item() / self.weight.sum().item()

    def first(self, n):
        """Return the first n samples."""
        return self.take(slice(n))

    def some(self, n):
        """Return at most n samples, evenly spaced."""
        return self.take(slice(None, None, math.ceil(len(self) / n)))

    def minibatches(self, size, generator):
        """Yield minibatches without end.

        Without replacement within an epoch; an incomplete last one is left out, so that
        all minibatches weigh the same.
        """
        n = len(self)
        while True:
            if n > _MAX_SHUFFLED:
                numbers = torch.randint(n, (size,), generator=generator)
            else:
                numbers = torch.randperm(n, generator=generator)
            for index in numbers[: len(numbers) - len(numbers) % size].split(size):
                yield self.take(index.to(self.x.device))
