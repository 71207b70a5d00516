"""What tests of the engine share: random fields, samples, and trainers of them."""

import torch
from torch import nn

from skjko.flow.blocks import Block
from skjko.flow.fields import MLP
from skjko.flow.flow_trainer import FlowTrainer
from skjko.flow.folds import Fold
from skjko.flow.run import Budget, Run, Task
from skjko.flow.samples import Samples
from skjko.flow.training_config import TrainingConfig


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def random_field(n_features=3, sizes=(16, 16), activation="tanh", seed=0, **kwargs):
    """A field in float64 whose every parameter is random, none of them zero."""
    field = MLP(
        n_features, sizes, activation, generator=generator(seed), **kwargs
    ).double()
    for i, parameter in enumerate(field.parameters()):
        parameter.data = 0.4 * normal(*parameter.shape, seed=seed + i)
    return field.requires_grad_(False)


class Linear(nn.Module):
    """f = A x, whose flow is known: expm(A), log-determinant tr A."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(matrix, requires_grad=False)

    def forward(self, t, x, context=None):
        return x @ self.matrix.T


class Pulsing(nn.Module):
    """f = size sin(x + w t): depends on time, and fast."""

    def __init__(self, frequency, size=2.0):
        super().__init__()
        self.frequency, self.size = frequency, size

    def forward(self, t, x, context=None):
        return self.size * torch.sin(x + self.frequency * t)


def block(field, step_size=1.0, n_steps=4, radius=1e6, interval=(0.0, 1.0)):
    """A block whose field fades out far from all samples."""
    return Block(field, radius, step_size, n_steps, interval)


def samples(x):
    """Samples of weight one."""
    return Samples(x, torch.ones(len(x), dtype=x.dtype))


def fold(train, validation=None):
    """A fold with nothing in front of it."""
    if validation is None:
        return Fold(samples(train))
    zeros = torch.zeros(len(validation), dtype=validation.dtype)
    return Fold(samples(train), samples(validation), zeros)


def small_field(n_features, generator):
    return MLP(n_features, (16, 16), "tanh", 2.0, generator=generator)


def budget():
    """The budget of a task without limits."""
    return Budget(Run(0), Task("test"))


def flow_trainer(
    folds, new_field=small_field, name="flow", rounds=(), flows=None, run=None, **config
):
    return FlowTrainer(
        folds, new_field, TrainingConfig(**config), run or Run(0), name, flows, rounds
    )
