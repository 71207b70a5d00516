"""Integration of dx/dt = f(t, x) together with the log-determinant of its flow map.

Every solver takes `dynamics`, a callable `(t, x) -> (velocity, divergence)`. On fixed
grids every sample is solved by itself: its result does not depend on its batch.
"""

# SPDX-License-Identifier: BSD-3-Clause

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import torch
from torch.autograd.function import once_differentiable
from torch.func import jacfwd, vmap
from torchdiffeq import odeint

from skjko.flow import threads

Dynamics: TypeAlias = Callable[[float, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Solution(NamedTuple):
    """Positions y, log|det dy/dx| and perhaps an error estimate of every sample."""

    y: torch.Tensor
    log_det: torch.Tensor
    error: torch.Tensor | None = None


def uniform_grid(n_steps):
    """Return the n_steps + 1 equally spaced times from 0 to 1."""
    return tuple(i / n_steps for i in range(n_steps + 1))


def _rk4_step(dynamics, t, h, x, k1, div1):
    """One classic Runge-Kutta step; also its last stage, for the error estimate."""
    k2, div2 = dynamics(t + h / 2, torch.add(x, k1, alpha=h / 2))
    k3, div3 = dynamics(t + h / 2, torch.add(x, k2, alpha=h / 2))
    k4, div4 = dynamics(t + h, torch.add(x, k3, alpha=h))
    sixfold = torch.add(k1, k4).add_(k2 + k3, alpha=2)
    y = torch.add(x, sixfold, alpha=h / 6)
    return y, (div1 + 2 * (div2 + div3) + div4) * (h / 6), k4, div4


def integrate(dynamics, x, grid, with_error=False):
    """Integrate over the grid with classic fourth-order Runge-Kutta.

    Parameters
    ----------
    dynamics : callable
        `(t, x) -> (velocity, divergence)`. If it has a true attribute `has_vjp`, its
        `forward` and `vjp` give the gradients (as in `skjko.flow.dynamics`) with
        respect to x and to its `tensors`; else torch does.
    x : Tensor of shape (n, d)
        Positions at `grid[0]`.
    grid : sequence of float
        Times, increasing or decreasing.
    with_error : bool
        Also estimate every sample's error from the third-order solution embedded in
        the classic method through the next step's first stage, h/6 (k4 - k1_next): the
        absolute value for the log-determinant plus the square for positions, summed
        over steps. One more evaluation for the whole solve. It regularizes training; it
        does not see a field's dependence on time, and does not replace a finer grid.

    Returns
    -------
    Solution
    """
    if _needs_gradients(dynamics, x):
        return Solution(*_Solve.apply(x, dynamics, grid, with_error, *dynamics.tensors))
    return _runge_kutta(dynamics, x, grid, with_error)


def _needs_gradients(dynamics, x):
    if not (torch.is_grad_enabled() and getattr(dynamics, "has_vjp", False)):
        return False
    return any(tensor.requires_grad for tensor in (x, *dynamics.tensors))


def _runge_kutta(dynamics, x, grid, with_error):
    log_det, error = 0.0, 0.0
    k1, div1 = dynamics(grid[0], x)
    for i, (t, t_next) in enumerate(pairwise(grid)):
        h = t_next - t
        x, increment, k4, div4 = _rk4_step(dynamics, t, h, x, k1, div1)
        log_det = log_det + increment
        if with_error or i < len(grid) - 2:
            k1, div1 = dynamics(t_next, x)
        if with_error:
            error = error + (div4 - div1).abs() * abs(h / 6)
            error = error + (k4 - k1).square().sum(-1) * (h / 6) ** 2
    return Solution(x, log_det, error if with_error else None)


class _Solve(torch.autograd.Function):
    """A solve whose gradient is written by hand, evaluation by evaluation."""

    @staticmethod
    def forward(ctx, x, dynamics, grid, with_error, *tensors):
        ctx.dynamics, ctx.grid, ctx.stages = dynamics, grid, []

        def evaluate(t, x):
            ctx.stages.append(dynamics.forward(t, x))
            return ctx.stages[-1][:2]

        y, *rest = _runge_kutta(evaluate, x, grid, with_error)
        # The stages hold y: without a copy, memory is freed only by Python's collector
        # of cycles.
        return y.clone(), *rest

    @staticmethod
    @once_differentiable
    def backward(ctx, *g_solution):
        dynamics = ctx.dynamics
        grads = [torch.zeros_like(tensor) for tensor in dynamics.tensors]
        g_x = _solve_vjp(dynamics, ctx.stages, ctx.grid, *g_solution, grads)
        return g_x, None, None, None, *grads


def _solve_vjp(dynamics, stages, grid, g_x, g_log_det, g_error, grads):
    """Gradient of a solve with respect to its start; adds to `grads`.

    The stages are the method's, four a step, and the one after the last step that the
    error estimate needs.
    """

    def vjp(i, g_velocity, g_divergence):
        return dynamics.vjp(stages[i][2], g_velocity, g_divergence, grads)

    lengths = [t_next - t for t, t_next in pairwise(grid)]
    # Gradients of the error estimate with respect to the fourth stage of every step;
    # those with respect to the stage after it are the opposite.
    of_error = []
    for i, h in enumerate(lengths if g_error is not None else ()):
        (k4, div4, _), (k1, div1, _) = stages[4 * i + 3 : 4 * i + 5]
        g_velocity = (k4 - k1) * (g_error * (2 * (h / 6) ** 2))[:, None]
        of_error.append((g_velocity, (div4 - div1).sign() * g_error * abs(h / 6)))
    if of_error:
        g_x = g_x + vjp(4 * len(lengths), -of_error[-1][0], -of_error[-1][1])
    for i, h in reversed(list(enumerate(lengths))):
        g_v, g_div = (h / 6) * g_x, (h / 6) * g_log_det
        g_v4, g_div4 = g_v, g_div
        if of_error:
            g_v4, g_div4 = g_v + of_error[i][0], g_div + of_error[i][1]
        p4 = vjp(4 * i + 3, g_v4, g_div4)
        p3 = vjp(4 * i + 2, torch.add(2 * g_v, p4, alpha=h), 2 * g_div)
        p2 = vjp(4 * i + 1, torch.add(2 * g_v, p3, alpha=h / 2), 2 * g_div)
        g_v1, g_div1 = torch.add(g_v, p2, alpha=h / 2), g_div
        if of_error and i > 0:
            g_v1, g_div1 = g_v1 - of_error[i - 1][0], g_div - of_error[i - 1][1]
        p1 = vjp(4 * i, g_v1, g_div1)
        g_x = g_x + p1 + p2 + p3 + p4
    return g_x


def invert(dynamics, y, grid, tol=1e-11, context=None):
    """Positions x that :func:`integrate` maps to y on the same grid.

    Integrating backwards returns to solver order only; here the discrete map of each
    step is inverted. The backward step B is nearly its inverse, so that correcting x by
    B(y) - B(step(x)) converges in a few iterations; Newton's method solves for samples
    where it does not. Every sample stops by its own residual, relative to its size.

    With a context, `dynamics(context)` are those of the samples that have it.
    """
    given = y.new_empty((len(y), 0)) if context is None else context

    def of(context):
        return dynamics(context) if context.shape[1] else dynamics

    for t_next, t in pairwise(reversed(grid)):
        h = t_next - t

        def step(x, context, t=t, h=h):
            f = of(context)
            return _rk4_step(f, t, h, x, *f(t, x))[0]

        def back(y, context, t_next=t_next, h=h):
            f = of(context)
            return _rk4_step(f, t_next, -h, y, *f(t_next, y))[0]

        y = _solve_step(step, back, y, given, tol)
    return y


def _solve_step(step, back, y, context, tol, n_corrections=10, n_newton=15):
    start = back(y, context)
    x = start.clone()
    scale = tol * (1 + y.abs().amax(1))
    rows = torch.arange(len(x), device=x.device)
    for iteration in range(n_corrections + n_newton):
        image = step(x[rows], context[rows])
        residual = y[rows] - image
        moving = residual.abs().amax(1) > scale[rows]
        if not moving.any():
            break
        rows = rows[moving]
        if iteration < n_corrections:
            x[rows] += start[rows] - back(image[moving], context[rows])
        else:
            with threads.forward_mode():
                jacobian = vmap(jacfwd(lambda row, c: step(row[None], c[None])[0]))(
                    x[rows], context[rows]
                )
            change, info = torch.linalg.solve_ex(jacobian, residual[moving])
            # Where the Jacobian is singular there is no Newton step.
            x[rows] += torch.where((info == 0)[:, None], change, 0.0)
    return x


def integrate_adaptive(dynamics, x, rtol=1e-8, atol=1e-8):
    """Integrate over unit time with adaptive Dormand-Prince steps, by torchdiffeq.

    Its step-size control couples the samples of a batch: it checks scores, and never
    computes them.
    """

    def joint(t, state):
        velocity, div = dynamics(t, state[0])
        return velocity, div + torch.zeros_like(state[1])

    times = torch.tensor([0.0, 1.0])
    y, log_det = odeint(
        joint, (x, x.new_zeros(len(x))), times.to(x), rtol=rtol, atol=atol,
        method="dopri5",
    )  # fmt: skip
    return Solution(y[-1], log_det[-1])
