"""The log-density of raw columns as one torch module."""

# SPDX-License-Identifier: BSD-3-Clause

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skjko.export import blocks, normal
from skjko.export.maps import ChainMap, Map
from skjko.flow.stack import Flow
from skjko.support import Support
from skjko.transforms.base import Chain
from skjko.transforms.discrete import cell_rule


class Scorer(nn.Module):
    """Log-densities of samples in data units, as `score_samples` computes them.

    Parameters
    ----------
    support : Support
        Discrete grid and atoms of the features.
    transforms : Chain
        From opened positions to the flow.
    flow : Flow
        In float64.
    base : Chain
        Behind the flow.
    """

    steps: Tensor

    def __init__(
        self, support: Support, transforms: Chain, flow: Flow, base: Chain
    ) -> None:
        super().__init__()
        self.transforms, self.base = ChainMap(transforms), ChainMap(base)
        self.is_plain = not len(flow) and base.is_identity_
        self.n_active = len(support.lower) - transforms.n_degenerate_
        self.blocks = nn.ModuleList(
            [
                blocks.translate(block, self.n_active)
                for block in copy.deepcopy(flow).cpu().blocks
            ]
        )
        grid, atoms = support.grid, support.atoms
        self.atoms = None if atoms.is_identity_ else _Atoms(support)
        self.cells = _Cells(grid.columns, len(grid.step))
        self.atom_cells = _Cells(np.r_[grid.columns, atoms.features], len(grid.step))
        self.register_buffer("steps", torch.tensor(grid.step[grid.columns]))

    def forward(self, X: Tensor) -> Tensor:
        """Return the log-density of every sample, in nats, shape (n,)."""
        X = X.to(torch.float64)
        steps = self.steps.expand(X.shape[0], -1)
        atoms: Any = self.atoms
        if atoms is None:
            score = self.cells(self._log_density, X, steps)
        else:
            opened, widths, is_atom = atoms(X)
            # Both for all samples: which of them is right depends on the values.
            score = torch.where(
                is_atom,
                self.atom_cells(
                    self._log_density, opened, torch.cat([steps, widths], -1)
                ),
                self.cells(self._log_density, opened, steps),
            )
        return torch.where(torch.isnan(score), -math.inf, score)

    def _log_density(self, x: Tensor) -> Tensor:
        """Log-densities of opened positions."""
        if self.is_plain:
            return self.transforms.log_prob(x)
        y, log_det = self.transforms(x)
        z, degenerate = y[:, : self.n_active], y[:, self.n_active :]
        # A length that overflows, or is no number.
        is_far = ~((z * z).sum(-1) < math.inf)
        for block in self.blocks:
            z, increment = block(z)
            log_det = log_det + increment
        score = self.base.log_prob(z) + log_det + normal.log_prob(degenerate)
        return torch.where(is_far, -math.inf, score)


class _Cells(Map):
    """The density averaged over cells around samples, at the points of a rule."""

    def __init__(self, columns: np.ndarray, n_features: int) -> None:
        self.n_points = 0
        if not len(columns):
            super().__init__()
            return
        offsets, weight = cell_rule(len(columns))
        super().__init__(
            offsets=offsets,
            log_weight=np.log(weight),
            placed=np.eye(n_features)[columns],
        )
        self.n_points = len(weight)

    def forward(
        self, log_density: Callable[[Tensor], Tensor], x: Tensor, widths: Tensor
    ) -> Tensor:
        if not self.n_points:
            return log_density(x)
        moved = (widths[:, None, :] * self.offsets) @ self.placed
        points = normal.finite(x[:, None, :] + moved)
        values = log_density(points.reshape(-1, x.shape[-1]))
        values = values.reshape(-1, self.n_points) + self.log_weight
        return normal.log_sum_exp(values)


class _Atoms(Map):
    """The line opened at atoms: positions, widths of cells, and what is an atom."""

    def __init__(self, support: Support) -> None:
        atoms = support.atoms
        of_feature = np.eye(len(support.lower))[atoms.columns]
        super().__init__(
            columns=atoms.columns,
            values=atoms.values,
            widths=atoms.widths,
            of_feature=of_feature,
            # Of the atoms' features alone.
            of_cell=of_feature[:, atoms.features],
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        at = x.index_select(-1, self.columns)
        is_at = (at == self.values).to(x.dtype)
        below = (at > self.values).to(x.dtype)
        # Cells that are wholly below, and half of that which the sample is in.
        opened = x + ((below + 0.5 * is_at) * self.widths) @ self.of_feature
        cells = (is_at * self.widths) @ self.of_cell
        return opened, cells, is_at.sum(-1) > 0


class Detector(nn.Module):
    """Score and decision of samples, as an outlier detector computes them.

    Parameters
    ----------
    log_density : Scorer
        Of the detector's density.
    typical : float or None
        Log-density whose distance is the score, if it is one.
    kernels : Module or None
        Another log-density. The score is the lower of both then.
    scales : list of pairs of float
        Median and spread of each of them.
    offset : float
        Score of the threshold.
    rounding : float
        A decision of at most this size is 0.
    """

    typical: Tensor
    scales: Tensor
    offset: Tensor
    rounding: Tensor

    def __init__(
        self,
        log_density: Scorer,
        typical: float | None,
        kernels: nn.Module | None,
        scales: list[tuple[float, float]],
        offset: float,
        rounding: float,
    ) -> None:
        super().__init__()
        self.log_density, self.kernels = log_density, kernels
        self.is_typicality = typical is not None
        # Exporters round numbers that are no tensors.
        for name, value in (
            ("typical", typical or 0.0),
            ("scales", scales),
            ("offset", offset),
            ("rounding", rounding),
        ):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))

    def forward(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores and decisions of shape (n,)."""
        score = self.log_density(X)
        if self.is_typicality:
            score = -(score - self.typical).abs()
        if self.kernels is not None:
            both = torch.stack([score, self.kernels(X)], -1)
            score = ((both - self.scales[:, 0]) / self.scales[:, 1]).amin(-1)
        decision = score - self.offset
        is_zero = (score == self.offset) | (decision.abs() <= self.rounding)
        return score, torch.where(is_zero, 0.0, decision)
