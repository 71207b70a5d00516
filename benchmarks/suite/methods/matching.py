"""Flow matching with minibatch optimal transport and straight paths (OT-CFM).

After A. Tong et al., "Improving and generalizing flow-based generative models with
minibatch optimal transport", TMLR 2024. With torch alone, because torchcfm depends on
torchvision, pytorch-lightning and Jupyter.
"""

# SPDX-License-Identifier: BSD-3-Clause

import torch
from scipy.optimize import linear_sum_assignment

from . import regression
from .networks import TimedMLP

# The coupling's cost grows as the cube of the batch.
BATCH_SIZE = 256


def coupled_noise(x, generator):
    """Noise in the order that optimally transports it to the samples of x."""
    z = torch.randn(x.shape, generator=generator)
    # In pieces: there are more validation samples than a batch has.
    pieces = []
    for samples, noise in zip(x.split(BATCH_SIZE), z.split(BATCH_SIZE), strict=True):
        cost = torch.cdist(samples, noise).square().numpy()
        pieces.append(noise[torch.as_tensor(linear_sum_assignment(cost)[1])])
    return torch.cat(pieces)


def loss(field, x, generator):
    """Square distance of the field to the straight lines from noise to data."""
    z = coupled_noise(x, generator)
    t = torch.rand(len(x), 1, generator=generator)
    return (field(t, torch.lerp(z, x, t)) - (x - z)).square().sum(1).mean()


def fit(train, val, deadline, n_trials, seed):
    """Time runs from noise at 0 to data at 1."""
    return regression.fit(
        train, val, deadline, n_trials, seed, TimedMLP, loss, (1.0, 0.0), BATCH_SIZE
    )
