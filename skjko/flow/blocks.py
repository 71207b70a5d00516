"""Blocks of a flow, each the time-one map of a velocity field, and stacks of them."""

# SPDX-License-Identifier: BSD-3-Clause

import copy
import math
from typing import Any, Self

import torch
from torch import Tensor, nn

from skjko.flow import fields, ode
from skjko.flow.divergence import Estimate
from skjko.flow.dynamics import Cutoff, TimeRescaled, padded
from skjko.flow.ode import Dynamics

# Far above any grid that is chosen; more would only keep the reader of a file waiting.
_MAX_STEPS = 4096


def _short(value: Tensor) -> Tensor:
    """Weights on the CPU in single precision, if that holds all of their digits."""
    value = value.detach().cpu()
    short = value.float() if value.is_floating_point() else value
    return short if torch.equal(short.to(value.dtype), value) else value


class Block(nn.Module):
    """One JKO step: a velocity field over unit time, and the grid that solves it.

    Time runs from the data (t = 0) towards the base (t = 1).

    Parameters
    ----------
    field : Module
        As in :mod:`skjko.flow.fields`.
    radius : float
        Where the field fades out; see :class:`skjko.flow.dynamics.Cutoff`.
    step_size : float
        JKO step size h; infinite for a free block.
    n_steps : int
        Runge-Kutta steps of a solve.
    interval : (float, float)
        Start and length of the part of the field's unit of time that is the block's.

    Examples
    --------
    >>> import torch
    >>> from skjko import MLPField
    >>> from skjko.flow.blocks import Block
    >>> field = MLPField((8, 8), "tanh", frequency=1.0).build(n_features=2)
    >>> block = Block(field, radius=10.0, step_size=0.5)
    >>> x = torch.ones(3, 2)
    >>> bool((block.push(x) == x).all())  # A new field is zero.
    True
    """

    def __init__(
        self,
        field: nn.Module,
        radius: float,
        step_size: float,
        n_steps: int = 1,
        interval: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        self.field, self.radius = field, float(radius)
        self.step_size, self.n_steps = float(step_size), int(n_steps)
        self.interval = interval

    def get_state(self) -> dict[str, Any]:
        """Return the weights of the field, and the numbers of the block.

        Returns
        -------
        state : dict
            Of "weights", "radius", "step_size", "n_steps" and "interval".
        """
        weights = self.field.state_dict()
        return {
            "weights": {name: _short(value) for name, value in weights.items()},
            "radius": self.radius,
            "step_size": self.step_size,
            "n_steps": self.n_steps,
            "interval": list(self.interval),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], field: nn.Module) -> Self:
        """Return the block of a state, with a copy of a field of the same form.

        Parameters
        ----------
        state : dict
            As `get_state` returns it.
        field : Module
            Its weights do not matter, and may be on the device "meta".

        Returns
        -------
        block : Block
            Whose weights need no gradients.

        Raises
        ------
        ValueError
            If the state is none, or of a field of another form.
        """
        names = {"weights", "radius", "step_size", "n_steps", "interval"}
        if not isinstance(state, dict) or state.keys() != names:
            raise ValueError("the state of a block is incomplete")
        numbers, interval = (state["radius"], state["step_size"]), state["interval"]
        n_steps = state["n_steps"]
        if not (
            all(isinstance(v, (int, float)) and v > 0 for v in numbers)
            and math.isfinite(state["radius"])
            and isinstance(n_steps, int)
            and 1 <= n_steps <= _MAX_STEPS
            and isinstance(interval, (list, tuple))
            and len(interval) == 2
            and all(isinstance(v, float) and 0 <= v <= 1 for v in interval)
        ):
            raise ValueError("the numbers of a block are out of range")
        expected, found = field.state_dict(), state["weights"]
        if not isinstance(found, dict) or found.keys() != expected.keys():
            raise ValueError("the weights of a block are not those of its field")
        weights = {}
        for name, like in expected.items():
            value = torch.as_tensor(found[name])
            if value.shape != like.shape:
                raise ValueError(
                    f"the weight {name!r} has shape {tuple(value.shape)}, not "
                    f"{tuple(like.shape)}"
                )
            if value.is_floating_point() != like.is_floating_point():
                raise ValueError(f"the weight {name!r} has the dtype {value.dtype}")
            if not torch.isfinite(value).all():
                raise ValueError(f"the weight {name!r} is not finite")
            device = "cpu" if like.device.type == "meta" else like.device
            weights[name] = value.to(device)
        start, length = interval
        block = cls(copy.deepcopy(field), *numbers, n_steps, (start, length))
        block.field.load_state_dict(weights, assign=True)
        return block.requires_grad_(False)

    def extra_repr(self) -> str:
        """Return the numbers of the block, for its repr.

        Returns
        -------
        text : str
            Step size, and number of solver steps.
        """
        return f"step_size={self.step_size:g}, n_steps={self.n_steps}"

    @property
    def grid(self) -> tuple[float, ...]:
        """Times of the fixed-step solver."""
        return ode.uniform_grid(self.n_steps)

    def dynamics(
        self,
        context: Tensor | None = None,
        estimate: Estimate | None = None,
        fast: bool = False,
    ) -> Dynamics:
        """Return `(t, x) -> (velocity, divergence)` for one solve.

        Parameters
        ----------
        context : Tensor of shape (n, n_context), optional
            What the field depends on besides.
        estimate : callable, optional
            Of the divergence, as in :mod:`skjko.flow.divergence`; exact by default.
        fast : bool, default=False
            As in `forward`.

        Returns
        -------
        dynamics : callable
            Of the block's own time, faded out beyond its radius.
        """
        if fast:
            return self._of_block(fields.score_dynamics(self.field, context))
        return self._of_block(fields.dynamics(self.field, context, estimate))

    def velocity(self, context: Tensor | None = None) -> Dynamics:
        """Return the dynamics of positions alone.

        Parameters
        ----------
        context : Tensor of shape (n, n_context), optional
            What the field depends on besides.

        Returns
        -------
        dynamics : callable
            As `dynamics` returns it, with a divergence of zero.
        """
        return self._of_block(fields.velocity(self.field, context))

    def _of_block(self, dynamics: Dynamics) -> Dynamics:
        if self.interval != (0.0, 1.0):
            dynamics = TimeRescaled(dynamics, *self.interval)
        return Cutoff(dynamics, self.radius)

    def forward(
        self, x: Tensor, context: Tensor | None = None, fast: bool = False
    ) -> ode.Solution:
        """Map positions from data to base, with log|det|.

        Parameters
        ----------
        x : Tensor of shape (n, d)
            Positions at time 0.
        context : Tensor of shape (n, n_context), optional
            What the field depends on besides.
        fast : bool, default=False
            Whether velocities of positions in float64 may be rounded to float32, which
            takes half the time: see :func:`skjko.flow.fields.score_dynamics`.

        Returns
        -------
        solution : Solution
            With the positions `y` at time 1, and `log_det`.
        """
        if not (fast and fields.scores_in_float32(self.field)):
            return ode.integrate(self.dynamics(context), x, self.grid)
        rows, context = padded(x, context)
        dynamics = self.dynamics(context, fast=True)
        y, log_det, _ = ode.integrate(dynamics, rows, self.grid)
        return ode.Solution(y[: len(x)], log_det[: len(x)])

    def push(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map positions from data to base.

        Parameters
        ----------
        x : Tensor of shape (n, d)
            Positions at time 0.
        context : Tensor of shape (n, n_context), optional
            What the field depends on besides.

        Returns
        -------
        y : Tensor of shape (n, d)
            Positions at time 1.
        """
        return ode.integrate(self.velocity(context), x, self.grid).y

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Map base to data: the exact inverse of the discrete map of `push`.

        Parameters
        ----------
        y : Tensor of shape (n, d)
            Positions at time 1.
        context : Tensor of shape (n, n_context), optional
            What the field depends on besides.

        Returns
        -------
        x : Tensor of shape (n, d)
            Positions at time 0.
        """
        if context is None:
            return ode.invert(self.velocity(), y, self.grid)
        return ode.invert(self.velocity, y, self.grid, context=context)

    def generate(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Map base to data by one solve backwards, up to the solver's error.

        Parameters
        ----------
        y : Tensor of shape (n, d)
            Positions at time 1.
        context : Tensor of shape (n, n_context), optional
            What the field depends on besides.

        Returns
        -------
        x : Tensor of shape (n, d)
            Positions at time 0.
        """
        return ode.integrate(self.velocity(context), y, self.grid[::-1]).y

    def trajectory(
        self, x: Tensor, context: Tensor | None = None, n_between: int = 0
    ) -> list[Tensor]:
        """Return positions at equally spaced times, the last one 1.

        Parameters
        ----------
        x : Tensor of shape (n, d)
            Positions at time 0.
        context : Tensor of shape (n, n_context), optional
            What the field depends on besides.
        n_between : int, default=0
            Number of positions within a block.

        Returns
        -------
        positions : list of Tensor of shape (n, d)
            Of length `n_between + 1`.
        """
        velocity, n_parts = self.velocity(context), n_between + 1
        positions = []
        for start in range(n_parts):
            grid = tuple((start + t) / n_parts for t in self.grid)
            positions.append(x := ode.integrate(velocity, x, grid).y)
        return positions

    def halves(self) -> "tuple[Block, Block]":
        """Return two blocks that, one after the other, have the flow of this one.

        Returns
        -------
        first, second : Block
            Each with half of this one's interval, and a copy of its field.
        """
        start, length = self.interval
        first, second = (
            Block(
                copy.deepcopy(self.field),
                self.radius,
                self.step_size,
                self.n_steps,
                (start + i * length / 2, length / 2),
            )
            for i in range(2)
        )
        return first, second
