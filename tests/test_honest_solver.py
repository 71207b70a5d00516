"""A block that comes to gain by its solver's error is trained with finer steps."""

import math

import numpy as np
import pytest
import torch

from skjko.flow import ode
from skjko.flow.fields import MLPField
from skjko.flow.fold import Fold
from skjko.flow.pace import Pace
from skjko.flow.rows import Rows
from skjko.flow.stage import Stage
from skjko.flow.training import BlockTrainer, Options


def expanding(rate):
    """The field rate x, whose exact flow multiplies x by e^rate."""
    field = MLPField(2, (4, 4), "tanh", generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        field.linear.copy_(rate * torch.eye(2))
    return field


def rows(length):
    """Rows of one length."""
    angle = torch.linspace(0, 6, 100)
    x = length * torch.stack([angle.cos(), angle.sin()], 1)
    return Rows(x, torch.ones(100))


def trainer(fields, tables, **options):
    options = Options(max_iter=100, batch_size=50, **options)
    generators = [torch.Generator().manual_seed(i) for i in range(len(fields))]
    return BlockTrainer(fields, tables, math.inf, options, generators)


def factor(rate, n_steps):
    """What so many steps of Runge and Kutta make of e^rate."""
    z = rate / n_steps
    return (1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24) ** n_steps


def length_of_gain(gain, rate, n_steps):
    """Length of rows that gain so many nats by so many steps."""
    coarse, fine = factor(rate, n_steps), factor(rate, 2 * n_steps + 1)
    # The divergence is constant: the solver errs in where rows go alone.
    return math.sqrt(2 * gain / (fine**2 - coarse**2))


@pytest.mark.parametrize("rate, n_steps", [(4.0, 1), (6.0, 2)])
@pytest.mark.parametrize("gain, is_refined", [(1.9, False), (2.1, True)])
def test_steps_are_halved_where_rows_gain_by_them(
    monkeypatch, rate, n_steps, gain, is_refined
):
    length = length_of_gain(gain, rate, n_steps)
    one = trainer([expanding(rate)], [rows(length)], n_ode_steps=n_steps)
    grids = []
    integrate = ode.integrate

    def seen(dynamics, x, grid, with_error=False):
        if with_error:
            grids.append(grid)
        return integrate(dynamics, x, grid, with_error)

    monkeypatch.setattr(ode, "integrate", seen)
    one.advance(1)
    assert one.n_ode_steps == (2 * n_steps if is_refined else n_steps)
    # What is trained on is the grid that was checked.
    assert [len(grid) for grid in grids] == [one.n_ode_steps + 1]


def test_rows_that_lose_by_coarse_steps_do_no_harm():
    # Of a contraction one step makes an expansion, which nothing learns to exploit.
    one = trainer([expanding(-6.0)], [rows(1.0)], n_ode_steps=1)
    one.advance(1)
    assert one.n_ode_steps == 1


def test_folds_get_finer_steps_together():
    fields = [expanding(0.0), expanding(4.0)]
    tables = [rows(1.0), rows(length_of_gain(2.5, 4.0, 1))]
    both = trainer(fields, tables, n_ode_steps=1)
    both.advance(1)
    assert both.n_ode_steps == 2
    # One of them tells, not the mean.
    both = trainer(
        fields, [rows(1.0), rows(length_of_gain(1.5, 4.0, 1))], n_ode_steps=1
    )
    both.advance(1)
    assert both.n_ode_steps == 1


@pytest.mark.parametrize("gain", [5.0, math.nan])
def test_what_came_of_coarse_steps_is_undone(monkeypatch, gain):
    gains = iter([0.0, 0.0, gain, 0.0])
    monkeypatch.setattr(BlockTrainer, "_solver_gain", lambda *args: next(gains))
    one = trainer([expanding(0.0)], [rows(1.0)])
    one.advance(20)
    kept = [p.clone() for p in one.averages[0].parameters()]
    one.advance(20)
    later = [p.clone() for p in one.averages[0].parameters()]
    assert any((a != b).any() for a, b in zip(kept, later, strict=True))
    # The iteration that follows is undone as well, and leaves what was kept.
    original = BlockTrainer.loss
    monkeypatch.setattr(BlockTrainer, "loss", lambda *args: math.nan * original(*args))
    one.advance(1)
    for before, after in zip(kept, one.averages[0].parameters(), strict=True):
        torch.testing.assert_close(before, after, rtol=0, atol=0)
    assert one.n_ode_steps == 4


def test_steps_are_not_refined_without_end(monkeypatch):
    monkeypatch.setattr(BlockTrainer, "_solver_gain", lambda *args: math.inf)
    one = trainer([expanding(0.0)], [rows(1.0)], n_ode_steps=1)
    one.advance(41)
    assert one.n_ode_steps == 8
    assert one.n_rollbacks == 0
    assert np.isfinite(one.losses).all()


def test_movements_are_measured_with_the_steps_of_the_training():
    # A row of no weight, so far out that the field is not faded out before it.
    near, far = rows(0.1), torch.tensor([[100.0, 0.0]])
    table = Rows(torch.cat([near.x, far]), torch.cat([near.weight, torch.zeros(1)]))
    options = Options(max_iter=100, batch_size=50, n_ode_steps=1)
    generators = [torch.Generator().manual_seed(0)]
    stage = Stage([Fold(table)], [expanding(4.0)], 1.0, options, generators, Pace(100))
    stage.trainers[0].n_ode_steps = 8
    coarse = 0.1 * (factor(4.0, 1) - 1)
    assert stage._movement() == pytest.approx(0.1 * (factor(4.0, 8) - 1), rel=1e-2)
    assert abs(stage._movement() / coarse - 1) > 0.3
