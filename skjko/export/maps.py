"""Transforms as torch modules, one translation each, that export.

A module maps x of shape (n, d) to the pair (y, log_det), in float64, as `forward` of
its transform does. `log_prob` is the log-density of x whose image is standard normal.
What depends on the values of samples is a choice between two results, never a branch.
"""

# SPDX-License-Identifier: BSD-3-Clause

import math
from collections.abc import Sequence
from functools import singledispatch
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from skjko.export import normal
from skjko.transforms.asinh import Asinh
from skjko.transforms.atoms import Atoms
from skjko.transforms.base import Chain, Transform
from skjko.transforms.bounds import Bounds
from skjko.transforms.marginals import MarginalMixtures
from skjko.transforms.mixture_map import MixtureMap
from skjko.transforms.normal_cells import BELOW, WIDTH, NormalCells
from skjko.transforms.radial import Radial
from skjko.transforms.whitening import FARTHEST, Whitening

# As far as the transforms map, in their own units.
_FARTHEST_OF_MIXTURES, _SHORTEST = 1e75, -300.0
_SMALL_LOG = -15.0
# Beyond this a square overflows.
_FARTHEST_SQUARE = 1e150


@singledispatch
def translate(step: Transform) -> "Map":
    """Return the module of a fitted transform.

    Raises
    ------
    NotImplementedError
        That names the transform, if there is no translation of its class.
    """
    raise NotImplementedError(f"the transform {type(step).__name__}")


class Map(nn.Module):
    """Base class of the modules: arrays of the transform as buffers in float64."""

    if TYPE_CHECKING:
        # The buffers, and modules of parts.
        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, **arrays: Any) -> None:
        super().__init__()
        for name, array in arrays.items():
            array = np.asarray(array)
            kind = torch.float64 if array.dtype.kind == "f" else None
            self.register_buffer(name, torch.tensor(array, dtype=kind))

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density of x whose image is standard normal."""
        y, log_det = self(x)
        return normal.log_prob(y) + log_det


class _Bounds(Map):
    def __init__(self, step: Bounds) -> None:
        low, high = np.isfinite(step.lower), np.isfinite(step.upper)
        lower, upper = np.where(low, step.lower, 0.0), np.where(high, step.upper, 0.0)
        # Halves, for the width itself may overflow.
        half = np.where(low & high, upper / 2 - lower / 2, 0.5)
        super().__init__(
            lower=lower,
            upper=upper,
            has_lower=low,
            has_upper=high,
            constant=(np.log(half) + math.log(2)).sum(),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        above, below = x - self.lower, self.upper - x
        inside = (~self.has_lower | (above > 0)) & (~self.has_upper | (below > 0))
        # What is not inside of the bounds has no density, and any image.
        is_in = inside.all(-1, keepdim=True)
        from_lower = torch.log(torch.where(self.has_lower & is_in, above, 1.0))
        from_upper = torch.log(torch.where(self.has_upper & is_in, below, 1.0))
        y = torch.where(self.has_lower | self.has_upper, from_lower - from_upper, x)
        log_det = self.constant - (from_lower + from_upper).sum(-1)
        return y, torch.where(is_in[:, 0], log_det, -math.inf)


class _Atoms(Map):
    """The identity of opened positions; cells are in units of their widths."""

    def __init__(self, step: Atoms) -> None:
        before = np.zeros(len(step.values))
        for j in step.features:
            at = step.columns == j
            before[at] = np.r_[0, step.widths[at].cumsum()[:-1]]
        super().__init__(
            columns=step.columns,
            start=step.values + before,
            end=step.values + (before + step.widths),
            log_width=np.log(step.widths),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        at = x.index_select(-1, self.columns)
        is_in = (at >= self.start) & (at <= self.end)
        return x, torch.where(is_in, self.log_width, 0.0).sum(-1)


class _NormalCells(Map):
    def __init__(self, step: NormalCells) -> None:
        cells = step.step > 0
        super().__init__(
            start=step.start, step=np.where(cells, step.step, 1.0), cells=cells
        )
        self.constant = cells.sum() * math.log(
            WIDTH * (1 - 2 * BELOW) * math.sqrt(2 * math.pi)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        centres = self.start + torch.round((x - self.start) / self.step) * self.step
        inside = torch.where(self.cells, (x - centres) / self.step, 0.0)
        share = 0.5 + inside.clamp(-0.5, 0.5) * (1 - 2 * BELOW)
        z = normal.normal_score(torch.log(share), torch.log(1 - share))
        y = torch.where(self.cells, centres + z * (WIDTH * self.step), x)
        return y, self.constant + 0.5 * (z * z).sum(-1)


class _Columns(Map):
    """Some features relative to their centres, in widths; the others stay."""

    def __init__(self, step: Asinh | MarginalMixtures, **arrays: np.ndarray) -> None:
        order = np.full(step.n_features_in_, -1)
        order[step.columns_] = np.arange(len(step.columns_))
        super().__init__(
            columns=step.columns_,
            centre=step.centre_,
            width=step.width_,
            constant=np.log(step.width_).sum(),
            **arrays,
        )
        self.order = order.tolist()

    def in_widths(self, x: Tensor) -> Tensor:
        u = (x.index_select(-1, self.columns) - self.centre) / self.width
        return normal.finite(u)

    def placed(self, x: Tensor, mapped: Tensor) -> Tensor:
        parts = [
            x[:, j : j + 1] if k < 0 else mapped[:, k : k + 1]
            for j, k in enumerate(self.order)
        ]
        return torch.cat(parts, -1)


class _Asinh(_Columns):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u = self.in_widths(x)
        size = u.abs()
        is_far = size > _FARTHEST_SQUARE
        near = torch.where(is_far, 1.0, size)
        root = torch.sqrt(1 + near * near)
        far = torch.log(torch.where(is_far, size, 1.0))
        log_root = torch.where(is_far, far, torch.log(root))
        # Without the difference of numbers of like size in the middle.
        drawn = torch.log(1 + (near + near * near / (1 + root)))
        drawn = torch.where(is_far, far + math.log(2), drawn)
        y = torch.where(u < 0, -drawn, drawn)
        return self.placed(x, y), -log_root.sum(-1) - self.constant


class _MarginalMixtures(_Columns):
    def __init__(self, step: MarginalMixtures) -> None:
        n = max(len(m.weights_) for m in step.maps_)

        def padded(arrays: list[np.ndarray], value: float) -> np.ndarray:
            return np.array([np.r_[a, np.full(n - len(a), value)] for a in arrays])

        deviations = padded([m.factors_[:, 0, 0] for m in step.maps_], 1.0)
        means = padded([m.means_[:, 0] for m in step.maps_], 0.0)
        # Components that only fill up the table have next to no weight.
        logs = padded([np.log(m.weights_) for m in step.maps_], -1e100)
        super().__init__(
            step, slopes=1 / deviations, offset=means / deviations, logs=logs
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u = self.in_widths(x)
        near = u.abs() <= _FARTHEST_OF_MIXTURES
        at = torch.where(near, u, 0.0)[..., None]
        y = at * self.slopes - self.offset
        z = _score(self.logs, y)
        log_density = normal.log_sum_exp(self.logs + torch.log(self.slopes) - y * y / 2)
        change = torch.where(near, log_density + 0.5 * z * z, 0.0)
        placed = self.placed(x, torch.where(near, z, u))
        return placed, change.sum(-1) - self.constant


class _Whitening(Map):
    def __init__(self, step: Whitening) -> None:
        components = (step.vectors_ / step.deviation_).T
        reach = np.abs(components).sum(axis=1).max(initial=1.0)
        log_det = -np.log(step.deviation_).sum() - np.log(step.scale_).sum()
        super().__init__(
            mean=step.mean_,
            scale=step.scale_,
            components=components.T.copy(),
            log_det=log_det,
            farthest=np.float64(FARTHEST / reach),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u = (x - self.mean) / self.scale
        u = torch.maximum(torch.minimum(u, self.farthest), -self.farthest)
        y = u @ self.components
        return y, self.log_det + torch.zeros_like(y[:, 0])


class _Radial(Map):
    def __init__(self, step: Radial) -> None:
        super().__init__(shortest=np.exp(_SHORTEST))
        self.log_radius = math.log(step.radius_)
        self.log_growth = math.log(step.scale_) - self.log_radius

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        size = torch.maximum(x.abs().amax(-1, keepdim=True), self.shortest)
        relative = x / size
        square = torch.log((relative * relative).sum(-1)) / 2
        log_length = torch.clamp_min(torch.log(size[:, 0]) + square, _SHORTEST)
        log_square = 2 * (log_length - self.log_radius)
        positive = torch.clamp_min(log_square, 0.0)
        drawn = positive + torch.log(1 + torch.exp(-log_square.abs()))
        # log(log(1 + q) / q) is -q / 2 for small q, of which 1 + q keeps few digits.
        small = log_square < _SMALL_LOG
        ratio = torch.log(torch.where(small, 1.0, drawn)) - log_square
        shrunk = torch.where(small, -0.5 * torch.exp(log_square), ratio)
        d = x.shape[-1]
        y = x * torch.exp(self.log_growth + shrunk / 2)[:, None]
        return y, d * self.log_growth + (d / 2 - 1) * shrunk - drawn


class _MixtureMap(Map):
    def __init__(self, step: MixtureMap) -> None:
        inverse = np.linalg.inv(step.factors_)
        offset = (inverse @ step.means_[..., np.newaxis])[..., 0]
        slopes = np.diagonal(inverse, axis1=1, axis2=2)
        super().__init__(
            # Of shape (d, d * n_components): all of feature 0 first.
            inverse=inverse.transpose(2, 1, 0).reshape(len(offset[0]), -1),
            offset=offset.T.ravel(),
            log_slopes=np.log(slopes).T.copy(),
            log_weights=np.log(step.weights_),
        )

    def _images(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where x is near enough; it, or 0; and its image by every component."""
        near = (x.abs() <= _FARTHEST_OF_MIXTURES).all(-1)
        at = torch.where(near[:, None], x, 0.0)
        y = at @ self.inverse - self.offset
        return near, at, y.reshape(-1, x.shape[-1], len(self.log_weights))

    def _log_density(self, y: Tensor) -> Tensor:
        logs = self.log_weights + (self.log_slopes - 0.5 * y * y).sum(1)
        return normal.log_sum_exp(logs) - 0.5 * y.shape[1] * math.log(2 * math.pi)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        near, _, y = self._images(x)
        logs, scores = self.log_weights, []
        for j in range(x.shape[-1]):
            scores.append(_score(logs, y[:, j]))
            logs = logs + self.log_slopes[j] - 0.5 * y[:, j] * y[:, j]
        z = torch.where(near[:, None], torch.stack(scores, -1), x)
        log_det = self._log_density(y) - normal.log_prob(z)
        return z, torch.where(near, log_det, 0.0)

    def log_prob(self, x: Tensor) -> Tensor:
        near, _, y = self._images(x)
        return torch.where(near, self._log_density(y), normal.log_prob(x))


def _score(logs: Tensor, y: Tensor) -> Tensor:
    """Phi^-1 of the weighted mean of Phi(y) over the last dimension."""
    below, above = normal.log_tails(y)
    total = normal.log_sum_exp(logs)
    log_below = normal.log_sum_exp(logs + below) - total
    return normal.normal_score(log_below, normal.log_sum_exp(logs + above) - total)


for _kind, _module in (
    (Bounds, _Bounds),
    (NormalCells, _NormalCells),
    (Atoms, _Atoms),
    (Asinh, _Asinh),
    (MarginalMixtures, _MarginalMixtures),
    (Whitening, _Whitening),
    (Radial, _Radial),
    (MixtureMap, _MixtureMap),
):
    translate.register(_kind, _module)


class ChainMap(nn.Module):
    """The modules of a chain; one of fewer features acts on the first of them."""

    def __init__(self, chain: Chain) -> None:
        super().__init__()
        self.maps = nn.ModuleList([translate(step) for step in chain])
        self.widths: Sequence[int] = [step.n_features_in_ for step in chain]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image and log|det|."""
        return self._through(x, len(self.maps))

    def _through(self, x: Tensor, n_maps: int) -> tuple[Tensor, Tensor]:
        log_det = torch.zeros_like(x[:, 0])
        for i in range(n_maps):
            d = self.widths[i]
            one: Any = self.maps[i]
            y, increment = one(x[:, :d])
            x = y if d == x.shape[-1] else torch.cat([y, x[:, d:]], -1)
            log_det = log_det + increment
        return x, log_det

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density of x whose image is standard normal."""
        if not len(self.maps):
            return normal.log_prob(x)
        y, log_det = self._through(x, len(self.maps) - 1)
        d = self.widths[-1]
        last: Any = self.maps[-1]
        log_det = log_det + last.log_prob(y[:, :d])
        return log_det + normal.log_prob(y[:, d:])
