"""The network of the rivals that regress a field on samples with noise."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from itertools import pairwise

import torch
from torch import nn


class TimedMLP(nn.Module):
    """Multi-layer perceptron of samples and times: a scalar, or one time a sample."""

    def __init__(self, n_features, width=128, n_layers=3, n_frequencies=4):
        super().__init__()
        frequencies = math.pi * torch.arange(1, n_frequencies + 1)
        self.register_buffer("frequencies", frequencies.to(torch.float32))
        sizes = [n_features + 1 + 2 * n_frequencies, *[width] * n_layers]
        layers = []
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), nn.SiLU()]
        last = nn.Linear(width, n_features)
        nn.init.zeros_(last.weight)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, t, x):
        """Values of shape (n, d)."""
        t = t.reshape(-1, 1).expand(len(x), 1).to(x)
        angles = t * self.frequencies
        return self.layers(torch.cat([x, t, angles.cos(), angles.sin()], dim=1))
