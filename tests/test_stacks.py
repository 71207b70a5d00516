"""Fields trained on several folds at once are those trained one by one."""

# SPDX-License-Identifier: BSD-3-Clause

import math

import numpy as np
import pytest
import torch

from skjko import datasets
from skjko.flow import ode, training
from skjko.flow.fields import Confined, MLPField, Part, VelocityField, stack, unstack
from skjko.flow.optimizers import orthogonalized
from skjko.flow.rows import Rows
from skjko.flow.training import BlockTrainer, Options
from tests.helpers import quick

N_FOLDS = 3


def generators(first):
    return [torch.Generator().manual_seed(first + i) for i in range(N_FOLDS)]


def some_fields(activation="silu", sizes=(6, 8), wrap=None, **options):
    fields = [
        MLPField(2, sizes, activation, generator=g, **options).double()
        for g in generators(0)
    ]
    with torch.no_grad():
        for field, g in zip(fields, generators(10), strict=True):
            for p in field.parameters():
                p.add_(0.3 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return [wrap(field) if wrap else field for field in fields]


def some_rows(*sizes):
    return [
        Rows(
            torch.randn(n, 2, generator=g, dtype=torch.float64),
            torch.rand(n, generator=g, dtype=torch.float64) + 0.5,
        )
        for n, g in zip(sizes, generators(20), strict=True)
    ]


WRAPS = {
    "plain": None,
    "confined": lambda field: Confined(field, 2.0).double(),
    "part": lambda field: Part(field, 0.25, 0.5),
}


@pytest.mark.parametrize("n_fields", [1, N_FOLDS])
def test_matrices_decay_and_biases_do_not(n_fields):
    fields, rows = some_fields()[:n_fields], some_rows(40, 40, 40)[:n_fields]
    plain, decayed = (
        BlockTrainer(fields, rows, 1.0, Options(alpha=alpha), generators(30)[:n_fields])
        for alpha in (0.0, 0.5)
    )
    for trainer in (plain, decayed):
        trainer.advance(1)
    for a, b in zip(plain.averages, decayed.averages, strict=True):
        weights = dict(b.named_parameters())
        for name, weight in a.named_parameters():
            assert torch.equal(weight, weights[name]) == (weight.ndim == 1), name


def test_a_stack_comes_apart_into_what_it_was_made_of():
    fields = some_fields()
    for field, again in zip(fields, unstack(stack(fields), N_FOLDS), strict=True):
        for a, b in zip(field.parameters(), again.parameters(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("activation", ["fourier", "tanh", "silu"])
@pytest.mark.parametrize("time_dependent", [False, True])
def test_a_stack_moves_rows_as_its_fields_do(wrap, activation, time_dependent):
    fields = some_fields(activation, wrap=WRAPS[wrap], time_dependent=time_dependent)
    together = stack(fields).requires_grad_(True)
    x = torch.stack([rows.x for rows in some_rows(5, 5, 5)]).requires_grad_(True)
    grid = (0.0, 0.4, 1.0)
    solution = ode.integrate(together.dynamics(), x, grid, with_error=True)
    sum(part.sin().sum() for part in solution).backward()
    for i, field in enumerate(fields):
        field.requires_grad_(True)
        own = x[i].detach().requires_grad_(True)
        alone = ode.integrate(field.dynamics(), own, grid, with_error=True)
        sum(part.sin().sum() for part in alone).backward()
        for a, b in zip(solution, alone, strict=True):
            torch.testing.assert_close(a[i], b)
        torch.testing.assert_close(x.grad[i], own.grad)
        for a, b in zip(together.parameters(), field.parameters(), strict=True):
            torch.testing.assert_close(a.grad[i], b.grad)


@pytest.mark.parametrize("sizes", [(40, 40, 40), (40, 41, 44)])
@pytest.mark.parametrize("batch_size", [16, 1000])
@pytest.mark.parametrize("max_grad_norm", [0.1, 10.0])
def test_training_together_is_training_alone(sizes, batch_size, max_grad_norm):
    fields, rows = some_fields(wrap=WRAPS["confined"]), some_rows(*sizes)
    # One step has no end inside to draw.
    options = Options(
        batch_size=min(batch_size, *sizes), n_ode_steps=1, max_grad_norm=max_grad_norm
    )
    together = BlockTrainer(fields, rows, 1.0, options, generators(30))
    together.advance(30)
    for i, g in enumerate(generators(30)):
        alone = BlockTrainer([fields[i]], [rows[i]], 1.0, options, [g])
        alone.advance(30)
        own = together.averages[i], alone.averages[0]
        for a, b in zip(*(field.parameters() for field in own), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)
    assert together.n_minibatches == N_FOLDS * alone.n_minibatches


def test_what_explodes_on_one_fold_is_undone_on_all(monkeypatch):
    original, count = BlockTrainer.loss, iter(range(100))

    def loss(self, batch):
        one = torch.tensor([1.0, math.nan, 1.0]) if next(count) == 25 else 1.0
        return original(self, batch) * one

    monkeypatch.setattr(BlockTrainer, "loss", loss)
    rows = some_rows(30, 30, 30)
    trainer = BlockTrainer(some_fields(), rows, 1.0, Options(), generators(30))
    trainer.advance(20)
    kept = trainer.averages
    trainer.advance(6)
    for before, after in zip(kept, trainer.averages, strict=True):
        for a, b in zip(before.parameters(), after.parameters(), strict=True):
            assert torch.equal(a, b)
    assert trainer.n_rollbacks == 1
    trainer.advance(20)
    assert np.isfinite(trainer.losses).all()


class Bare(VelocityField):
    def __init__(self):
        super().__init__()
        self.matrix = torch.nn.Parameter(torch.zeros(2, 2).double())

    def forward(self, t, x, context=None):
        return x @ self.matrix


@pytest.mark.parametrize(
    "fields, options",
    [
        ([Bare() for _ in range(N_FOLDS)], {}),
        (some_fields(sizes=(6,)), {}),
        (some_fields(), {"divergence": "hutchinson"}),
        ([*some_fields()[:2], MLPField(3, (6, 8)).double()], {}),
    ],
    ids=["bare", "one layer", "estimate", "columns"],
)
def test_what_does_not_stack_is_trained_one_by_one(fields, options):
    rows, options = some_rows(9, 9, 9), Options(max_iter=3, **options)
    for own, field in zip(rows, fields, strict=True):
        d = getattr(field, "n_features", 2)
        own.x = own.x[:, [0, 1, 1][:d]]
    made = training.trainers(fields, rows, 1.0, options, generators(0))
    assert len(made) == N_FOLDS
    for one in made:
        one.advance(3)
        assert len(one.averages) == 1
        assert np.isfinite(one.losses).all()


@pytest.mark.parametrize("shape", [(3, 5, 8), (2, 8, 5), (4, 6, 6)])
def test_a_stack_of_matrices_is_orthogonalized_one_by_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([orthogonalized(matrix) for matrix in matrices])
    torch.testing.assert_close(orthogonalized(matrices), expected)


def test_a_fit_to_few_rows_trains_its_folds_together(monkeypatch):
    sizes, original = [], BlockTrainer.__init__

    def counted(self, velocity_fields, *args, **kwargs):
        sizes.append(len(velocity_fields))
        original(self, velocity_fields, *args, **kwargs)

    monkeypatch.setattr(BlockTrainer, "__init__", counted)
    X = datasets.moons().sample(300, random_state=0)
    quick(max_blocks=1).fit(X)
    # Three folds decide, and all rows follow.
    assert sizes == [N_FOLDS, 1]
