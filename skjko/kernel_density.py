"""Kernel density estimation: the smooth side of an outlier score."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skjko.data.repeats import effective_number
from skjko.transforms.base import is_array
from skjko.typing import Floats, State

# Training samples that carry a kernel: more cost time, and say little more of a density
# this smooth.
_MAX_KERNELS = 2000
# Rows that are scored at once: what is computed for them stays in the cache.
_BATCH = 250
# Squares of scaled values stay finite. A tensor, for exporters round other numbers.
_FARTHEST = torch.tensor(1e150, dtype=torch.float64, device="cpu")


class KernelDensity(nn.Module):
    """Log-density, up to a constant, of Gaussian kernels around training samples.

    Distances are in units of every feature (see `fit`). A feature of codes is as many
    indicators as it has codes; one that is constant does not count.

    Parameters
    ----------
    columns : ndarray of int of shape (n_columns,)
        Feature of every column that distances are taken in.
    codes : ndarray of shape (n_columns,)
        The code that a column indicates; NaN for the values of the feature themselves.
    location, scale : ndarray of shape (n_columns,)
        Of the columns. `scale` has the bandwidth in it.
    centers : ndarray of shape (n_kernels, n_columns)
        Located and scaled.
    log_weight : ndarray of shape (n_kernels,)
        Of the kernels.
    """

    columns: Tensor
    codes: Tensor
    is_code: Tensor
    location: Tensor
    scale: Tensor
    centers: Tensor
    log_weight: Tensor

    def __init__(
        self,
        columns: NDArray[np.int_],
        codes: Floats,
        location: Floats,
        scale: Floats,
        centers: Floats,
        log_weight: Floats,
    ) -> None:
        super().__init__()
        for name, value in (
            ("codes", codes),
            ("location", location),
            ("scale", scale),
            ("centers", centers),
            ("log_weight", log_weight),
        ):
            # In one order of memory, for the rounding of products depends on it.
            value = np.ascontiguousarray(value, dtype=np.float64)
            self.register_buffer(name, torch.tensor(value))
        self.register_buffer("columns", torch.as_tensor(columns, dtype=torch.int64))
        self.register_buffer("is_code", ~torch.isnan(self.codes))

    @classmethod
    def fit(
        cls,
        X: Floats,
        weight: Floats,
        bandwidth: float | None,
        coded: dict[int, int],
        rng: np.random.RandomState,
    ) -> Self:
        """Place kernels at samples.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
        weight : ndarray of shape (n_samples,)
            Positive.
        bandwidth : float or None
            Standard deviation of the kernels, in those of every feature. None is that
            of Silverman's rule, by the numbers of kernels and of columns [1]_; its unit
            is the largest distance from the mean over sqrt(2 log n), the standard
            deviation if values are normal. In standard deviations any rare value of a
            feature that is nearly constant would be far from all kernels.
        coded : dict of int to int
            Number of codes of every feature that has some.
        rng : RandomState
            For the samples that get a kernel, if there are many.

        Returns
        -------
        density : KernelDensity

        References
        ----------
        .. [1] B. W. Silverman, "Density estimation for statistics and data analysis",
           1986, section 4.3.2.
        """
        d = X.shape[1]
        plain = [j for j in range(d) if j not in coded]
        pairs = [(j, k) for j, n in coded.items() for k in range(n)]
        columns = np.array([*plain, *(j for j, _ in pairs)], dtype=int)
        codes = np.array([*[math.nan] * len(plain), *(float(k) for _, k in pairs)])
        values = X[:, columns]
        values = np.where(np.isnan(codes), values, values == codes)
        location, spread, reach = _extent(values, weight / weight.sum())
        active = spread > 0
        columns, codes, location = columns[active], codes[active], location[active]
        if bandwidth is None:
            n, n_columns = effective_number(weight), len(columns)
            # The largest of n normal values is so many standard deviations away.
            spread = reach / math.sqrt(2 * math.log(max(n, 2)))
            n = min(n, _MAX_KERNELS)
            bandwidth = (4 / ((n_columns + 2) * n)) ** (1 / (n_columns + 4))
        scale = np.maximum(bandwidth * spread[active], np.finfo(float).tiny)
        if len(X) > _MAX_KERNELS:
            chosen = np.sort(rng.choice(len(X), _MAX_KERNELS, replace=False))
            values, weight = values[chosen], weight[chosen]
        centers = (values[:, active] - location) / scale
        log_weight = np.log(weight / weight.sum())
        return cls(columns, codes, location, scale, centers, log_weight)

    def forward(self, X: Tensor) -> Tensor:
        """Return the log-density of every sample, shape (n,)."""
        x = X.to(torch.float64)[:, self.columns]
        x = torch.where(self.is_code, (x == self.codes).to(torch.float64), x)
        x = (x - self.location) / self.scale
        return torch.logsumexp(
            self._terms_at(torch.clamp(x, -_FARTHEST, _FARTHEST)), -1
        )

    def _terms_at(self, x: Tensor) -> Tensor:
        """Logarithm of every kernel at scaled samples."""
        heights = self.log_weight - 0.5 * (self.centers * self.centers).sum(-1)
        return x @ self.centers.T + heights - 0.5 * (x * x).sum(-1, keepdim=True)

    @torch.no_grad()
    def score_samples(self, X: Floats) -> Floats:
        """Return the log-density of samples, up to a constant.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)

        Returns
        -------
        scores : ndarray of shape (n_samples,)
        """
        parts = torch.tensor(np.ascontiguousarray(X)).split(_BATCH)
        return torch.cat([self(part) for part in parts]).numpy()

    @torch.no_grad()
    def leave_one_out_scores(self) -> Floats:
        """Return the log-density of every sample with a kernel, by the others."""
        x, parts = self.centers, []
        for start in range(0, len(x), _BATCH):
            terms = self._terms_at(x[start : start + _BATCH])
            rows = torch.arange(len(terms))
            terms[rows, start + rows] = -math.inf
            parts.append(torch.logsumexp(terms, -1))
        return torch.cat(parts).numpy()

    def fits(self, n_features: int) -> bool:
        """Whether samples can have so many features."""
        return bool(((self.columns >= 0) & (self.columns < n_features)).all())

    def get_state(self) -> State:
        """Return the arrays that it is made of."""
        names = ("columns", "codes", "location", "scale", "centers", "log_weight")
        return {name: getattr(self, name).numpy() for name in names}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return the density of a state."""
        shape = state["centers"].shape
        if not (
            is_array(state["centers"], (None, None))
            and shape[0] > 0
            and is_array(state["log_weight"], shape[:1])
            and is_array(state["columns"], shape[1:], "i")
            and is_array(state["codes"], shape[1:], finite=False)
            and is_array(state["location"], shape[1:])
            and is_array(state["scale"], shape[1:])
            and (state["scale"] > 0).all()
        ):
            raise ValueError("the kernels are none")
        return cls(**state)


def scores_by_others(
    X: Floats,
    weight: Floats,
    bandwidth: float | None,
    coded: dict[int, int],
    rng: np.random.RandomState,
) -> Floats:
    """Return the log-density of every sample by kernels at other samples.

    The parameters are those of `KernelDensity.fit`.
    """
    n, has_kernel = len(X), np.ones(len(X), dtype=bool)
    if n > _MAX_KERNELS:
        has_kernel[rng.permutation(n)[_MAX_KERNELS:]] = False
    some = X[has_kernel], weight[has_kernel]
    density, scores = KernelDensity.fit(*some, bandwidth, coded, rng), np.empty(n)
    scores[has_kernel] = density.leave_one_out_scores()
    if not has_kernel.all():
        scores[~has_kernel] = density.score_samples(X[~has_kernel])
    return scores


def _extent(X: Floats, share: Floats) -> tuple[Floats, Floats, Floats]:
    """Weighted mean and standard deviation, and largest distance from the mean."""
    # Near one by a power of two, which changes no digit: squares are taken.
    exponent = np.frexp(np.abs(X).max(axis=0, initial=0.0))[1]
    X = np.ldexp(X, -exponent)
    mean = share @ X
    distance = np.abs(X - mean)
    spread = np.sqrt(share @ distance**2)
    # The mean of equal values may differ from them by rounding.
    spread[np.ptp(X, axis=0) == 0] = 0.0
    reach = distance.max(axis=0)
    return tuple(np.ldexp(one, exponent) for one in (mean, spread, reach))
