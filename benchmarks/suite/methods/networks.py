"""Networks of the rivals: of a field in time, and of autoregressive mixtures."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import linear, silu, softplus


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


class Masked(nn.Linear):
    """Linear layer whose outputs see inputs of at most their own degree."""

    def __init__(self, degrees_in, degrees_out):
        super().__init__(len(degrees_in), len(degrees_out))
        mask = degrees_out[:, None] >= degrees_in
        self.register_buffer("mask", mask.to(torch.float32))
        # As large on average as without a mask.
        seen = mask.sum(1, keepdim=True).clamp(min=1)
        self.weight.data *= (len(degrees_in) / seen).sqrt()

    def forward(self, x):
        """Values of shape (n, number of outputs)."""
        return linear(x, self.mask * self.weight, self.bias)


class MaskedMixtures(nn.Module):
    """Density by the chain rule: every conditional is a mixture of Gaussians.

    After M. Germain et al., "MADE: masked autoencoder for distribution estimation",
    ICML 2015, and G. Papamakarios et al., "Masked autoregressive flow for density
    estimation", NeurIPS 2017 (MADE-MoG), with residual blocks between the layers.
    """

    # No component is narrower than exp of this, in units of the samples.
    LOG_SCALE = -9.0

    def __init__(self, n_features, width, n_components, n_blocks=2, shuffle=False):
        super().__init__()
        self.n_features, self.n_components = n_features, n_components
        order = torch.randperm if shuffle else torch.arange
        degrees = order(n_features) + 1
        # Hidden units of degree d would be seen by no output.
        hidden = torch.arange(width) % max(n_features - 1, 1) + 1
        self.first = Masked(degrees, hidden)
        self.blocks = nn.ModuleList(
            nn.ModuleList([Masked(hidden, hidden), Masked(hidden, hidden)])
            for _ in range(n_blocks)
        )
        # An output sees hidden units of degrees below its own.
        self.last = Masked(hidden, degrees.repeat(3 * n_components) - 1)
        self.register_buffer("order", degrees.argsort())
        self.last.weight.data *= 0.1
        # Equal weights, means from -2 to 2, and scales that let neighbours overlap.
        start = torch.zeros(3, n_components, n_features)
        start[1] = torch.linspace(-2, 2, n_components)[:, None]
        start[2] = math.log(4 / n_components)
        self.last.bias.data = start.flatten()

    def forward(self):
        """Return the distribution, as flows of zuko do."""
        return self

    def conditionals(self, x):
        """Log-weights, means and log-scales, each (n, number of components, d)."""
        h = self.first(x)
        for one, two in self.blocks:
            h = h + two(silu(one(silu(h))))
        outputs = self.last(silu(h)).view(len(x), 3, self.n_components, self.n_features)
        weight, mean, scale = outputs.unbind(1)
        scale = self.LOG_SCALE + softplus(scale - self.LOG_SCALE)
        return weight.log_softmax(1), mean, scale

    def log_prob(self, x):
        """Log-densities of shape (n,)."""
        weight, mean, scale = self.conditionals(x)
        squares = ((x[:, None] - mean) * (-scale).exp()).square()
        terms = weight - 0.5 * (squares + math.log(2 * math.pi)) - scale
        return terms.logsumexp(1).sum(1)

    def sample(self, shape):
        """Draw samples, one column after another."""
        x = self.last.bias.new_zeros(*shape, self.n_features)
        for j in self.order.tolist():
            weight, mean, scale = (part[:, :, j] for part in self.conditionals(x))
            k = torch.multinomial(weight.exp(), 1)
            noise = torch.randn(len(x), 1, dtype=x.dtype)
            x[:, j] = (mean.gather(1, k) + scale.gather(1, k).exp() * noise)[:, 0]
        return x
