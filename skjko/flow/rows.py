"""Rows to train on or to decide by, with their weights."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from dataclasses import dataclass

import torch


@dataclass
class Rows:
    """Rows x of shape (n, d) with weights (n,) of mean 1 and, perhaps, conditions."""

    x: torch.Tensor
    weight: torch.Tensor
    context: torch.Tensor | None = None

    def __len__(self):
        return len(self.x)

    def take(self, index):
        """Return the rows at `index`."""
        context = None if self.context is None else self.context[index]
        return Rows(self.x[index], self.weight[index], context)

    def mean(self, values):
        """Weighted mean of one value a row."""
        return torch.dot(values, self.weight).item() / self.weight.sum().item()

    def some(self, n):
        """At most n rows, evenly spaced: they may have been handed over in order."""
        return self.take(slice(None, None, math.ceil(len(self) / n)))
