"""Missing values: their distribution given the observed values."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp, ndtri
from scipy.stats import qmc

from skjko.data import chunks, splits
from skjko.flow.mixture_growth import Growth, Operations, Part
from skjko.support import Support
from skjko.transforms.base import Chain, Elementwise, is_array, is_int
from skjko.transforms.mixture_given import MixtureGiven
from skjko.transforms.mixture_map import MixtureMap
from skjko.transforms.whitening import Whitening
from skjko.typing import Floats, State

TOL = 0.05
"""Mean error of scores of samples with missing values, in nats."""

# Imputations of a sample that its density is averaged over, at least and at most: they
# double until the error is that small.
_N_DRAWS, _MOST_DRAWS = 64, 1024
# Samples of the density that the proposal is fitted to, and floating-point operations.
_N_SAMPLES, _OPERATIONS = 20_000, 3e10
# Parameters of a proposal that are numbers.
_NUMBERS = ("n_draws", "error", "n_left_out")
# Training samples that its error is measured on.
_N_ERROR = 128
# Uniform numbers keep this far from 0 and 1.
_END = 1e-9
# Numbers that are worked on together.
_CHUNK_VALUES = 2**21


class Proposal:
    """Missing values given the others, by a mixture of Gaussians.

    The mixture is one of single features that are mapped, each by itself. Where the
    density is such a mixture, this is its conditional distribution, and the density of
    the observed values is exact. Else it proposes values for importance
    sampling.

    Parameters
    ----------
    maps : Chain
        Of `Elementwise` transforms of opened positions.
    centre, width : ndarray of shape (n_features,)
        Of mapped features: the mixture is of their distances in widths.
    mixture : MixtureMap
        Fitted.
    seen : ndarray of bool of shape (n_features,)
        Features of which values were missing in the fit.
    n_draws : int
        Imputations of a sample; 1 if the density is the mixture.
    error : float
        Mean error of log-densities by importance sampling, in nats.
    n_left_out : int
        Incomplete samples that the training left out.

    References
    ----------
    A. B. Owen, "Monte Carlo theory, methods and examples" (2013), chapter 9, has
    importance sampling; G. Celeux and J. Diebolt, "The SEM algorithm", Computational
    Statistics Quarterly 2 (1985), fits with missing values drawn again and again.

    Examples
    --------
    >>> import numpy as np
    >>> from skjko import JKOFlowDensity
    >>> X = np.random.default_rng(0).normal(size=(500, 2))
    >>> X[::5, 1] = np.nan
    >>> density = JKOFlowDensity(init="gaussian", max_blocks=0, random_state=0).fit(X)
    >>> density.missing_.seen, density.missing_.is_exact
    (array([False,  True]), True)
    """

    def __init__(
        self,
        maps: Chain,
        centre: Floats,
        width: Floats,
        mixture: MixtureMap,
        seen: NDArray[np.bool_],
        n_draws: int = 1,
        error: float = 0.0,
        n_left_out: int = 0,
    ) -> None:
        self.maps, self.centre, self.width = maps, centre, width
        self.mixture, self.seen = mixture, seen
        self.n_draws, self.error, self.n_left_out = n_draws, error, n_left_out
        factors = mixture.factors_
        self._covariances = factors @ factors.transpose(0, 2, 1)

    @classmethod
    def fit(
        cls,
        maps: Chain,
        U: Floats,
        weight: Floats,
        seen: NDArray[np.bool_],
        operations: float,
    ) -> Self:
        """Fit the mixture to complete samples.

        Parameters
        ----------
        maps : Chain
            Fitted.
        U : ndarray of shape (n_samples, n_features)
            Opened positions, in random order.
        weight : ndarray of shape (n_samples,)
            Positive.
        seen : ndarray of bool of shape (n_features,)
            Features of which values are missing in the fit.
        operations : float
            Floating-point operations, at most.

        Returns
        -------
        proposal : Proposal
            With as many components as a quarter of the samples prefer.
        """
        Y = maps.forward(U)[0]
        share = weight / weight.sum()
        centre = share @ Y
        width = np.sqrt(share @ np.square(Y - centre))
        width[width == 0] = 1.0
        x = torch.tensor((Y - centre) / width)
        whole = Part(x, torch.tensor(weight / weight.mean()))
        n = math.ceil(len(x) / 4)
        growth = Growth([(Part(x[n:], whole.weight[n:]), whole.first(n))])
        if len(x) > splits.GAUSSIAN_SAMPLES:
            growth.advance(Operations(operations))
        mixture = MixtureMap.of(growth.grown_again(whole))
        return cls(maps, centre, width, mixture, seen)

    @classmethod
    def of(
        cls,
        model: Any,
        X: NDArray[Any],
        rng: np.random.RandomState,
    ) -> Self:
        """Return the proposal of a fitted density.

        Parameters
        ----------
        model : Model
            The density.
        X : ndarray of shape (n_samples, n_features)
            Training samples in data units, some with missing values: the error is
            measured on them.
        rng : RandomState
            Source of randomness.

        Returns
        -------
        proposal : Proposal
            The mixture that the density is, or one fitted to samples of the density.
        """
        seen, some = np.zeros(X.shape[1], dtype=bool), []
        for _, part in chunks.in_float64(X):
            seen |= np.isnan(part).any(axis=0)
            some.append(part[np.isnan(part).any(axis=1)][:_N_ERROR])
        steps = list(model.transforms)
        maps = list(takewhile(lambda step: isinstance(step, Elementwise), steps))
        kinds = [type(step) for step in steps[len(maps) :]]
        is_one = kinds in ([Whitening], [Whitening, MixtureMap])
        is_simple = not len(model.flow) and model.base.is_identity_
        if is_one and is_simple and not model.transforms.n_degenerate_:
            mixture = steps[-1] if kinds[-1] is MixtureMap else None
            return cls._exact(Chain(maps), steps[len(maps)], mixture, seen)
        rows = np.concatenate([r for _, r in model.sample(_N_SAMPLES, rng)])
        rows = model.support.round(rows, model.support.lower, model.support.upper)
        U = model.support.dequantize(rows, rng)
        self = cls.fit(Chain(maps), U, np.ones(len(U)), seen, _OPERATIONS)
        incomplete = np.concatenate(some)[:_N_ERROR]
        self.n_draws, self.error = _N_DRAWS // 2, math.inf
        while self.error > TOL and self.n_draws < _MOST_DRAWS:
            self.n_draws *= 2
            a, b = (self._log_means(model, incomplete, seed) for seed in (1, 2))
            # The difference of two has twice the variance of one.
            self.error = float(np.abs(a - b).mean() / math.sqrt(2))
        return self

    @property
    def is_exact(self) -> bool:
        """Whether the density is the mixture."""
        return self.n_draws == 1

    @classmethod
    def _exact(
        cls,
        maps: Chain,
        whitening: Any,
        found: MixtureMap | None,
        seen: NDArray[np.bool_],
    ) -> Self:
        """The mixture that a density is, with its whitening undone."""
        d = len(whitening.mean_)
        weights = np.ones(1) if found is None else found.weights_
        means = np.zeros((1, d)) if found is None else found.means_
        factors = np.eye(d)[np.newaxis] if found is None else found.factors_
        rows = whitening.directions.T @ factors
        fitted = {
            "weights_": weights,
            "means_": means @ whitening.directions,
            "factors_": np.linalg.cholesky(rows @ rows.transpose(0, 2, 1)),
            "n_features_in_": d,
        }
        mixture = MixtureMap.from_state({"params": {}, "fitted": fitted})
        return cls(maps, whitening.mean_, whitening.scale_, mixture, seen)

    def log_density(self, model: Any, X: NDArray[Any]) -> Floats:
        """Return the log-density of the observed values.

        Parameters
        ----------
        model : Model
            The density.
        X : ndarray of shape (n_samples, n_features)
            In data units, with NaN for missing values.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            In nats. It does not depend on the samples beside.
        """
        if self.is_exact:
            return model.support.average(self.log_marginal, X)
        return self._log_means(model, X, 0)

    def _log_means(self, model: Any, X: NDArray[Any], seed: int) -> Floats:
        parts = [
            logsumexp(self._log_ratios(model, X[where], seed), axis=1)
            for where in self._slices(len(X))
        ]
        return np.concatenate(parts) - math.log(self.n_draws)

    def impute(
        self, model: Any, X: NDArray[Any], rng: np.random.RandomState
    ) -> NDArray[Any]:
        """Draw the missing values, given the others.

        Parameters
        ----------
        model : Model
            The density.
        X : ndarray of shape (n_samples, n_features)
            In data units, with NaN for missing values.
        rng : RandomState
            Source of randomness.

        Returns
        -------
        completed : ndarray of shape (n_samples, n_features)
            In float64.
        """
        if self.is_exact:
            return self.draw(model.support, X, rng)

        def draw(rows: Floats) -> Floats:
            noise = _random(rows, rng, self.n_draws)
            U, log_q = self._drawn(model.support, rows, *noise)
            logs = _log_density_at(model, U) - log_q
            # The largest with Gumbel noise is one drawn by the weights.
            best = np.argmax(logs + rng.gumbel(size=logs.shape), axis=1)
            return _closed(model.support, U[np.arange(len(U)), best], rows)

        return self._completed(draw, X)

    def draw(
        self, support: Support, X: NDArray[Any], rng: np.random.RandomState
    ) -> NDArray[Any]:
        """Draw the missing values by the proposal alone.

        Parameters
        ----------
        support : Support
            Where values can be.
        X : ndarray of shape (n_samples, n_features)
            In data units, with NaN for missing values.
        rng : RandomState
            Source of randomness.

        Returns
        -------
        completed : ndarray of shape (n_samples, n_features)
            In float64.
        """

        def draw(rows: Floats) -> Floats:
            U, _ = self._drawn(support, rows, *_random(rows, rng))
            return _closed(support, U[:, 0], rows)

        return self._completed(draw, X)

    def _completed(
        self, draw: Callable[[Floats], Floats], X: NDArray[Any]
    ) -> NDArray[Any]:
        """Samples of which those with missing values are drawn."""
        complete = chunks.empty(X.shape, np.float64)
        for where, part in chunks.in_float64(X):
            complete[where] = part
            incomplete = where.start + np.flatnonzero(np.isnan(part).any(axis=1))
            for some in self._slices(len(incomplete)):
                rows = incomplete[some]
                complete[rows] = draw(complete[rows])
        return complete

    def _slices(self, n: int) -> Iterator[slice]:
        k, d = self.mixture.means_.shape
        row_values = self.n_draws * d * (2 + k + d) + 6 * k * d * d
        size = max(1, _CHUNK_VALUES // row_values)
        return (slice(i, i + size) for i in range(0, n, size))

    def _log_ratios(self, model: Any, X: NDArray[Any], seed: int) -> Floats:
        """Densities of imputations over those of the proposal, of shape (n, n_draws).

        With the positions in the cells of discrete values, which are drawn too.
        """
        support, (n, d) = model.support, X.shape
        n_cells = len(support.grid.columns) + len(support.atoms.features)
        # Shifted, which makes every point uniform, and the mean unbiased.
        shift = np.random.RandomState(seed).random_sample(1 + d + n_cells)
        points = qmc.Sobol(len(shift), scramble=False).random(self.n_draws) + shift
        points = np.clip(points % 1.0, _END, 1 - _END)
        uniform = np.broadcast_to(points[:, 0], (n, self.n_draws))
        normal = np.broadcast_to(ndtri(points[:, 1 : d + 1]), (n, self.n_draws, d))
        offsets = points[:, d + 1 :] - 0.5
        U, log_q = self._drawn(support, X, uniform, normal, offsets)
        return _log_density_at(model, U) - log_q

    def _drawn(
        self,
        support: Support,
        X: NDArray[Any],
        uniform: Floats,
        normal: Floats,
        offsets: Floats | None = None,
    ) -> tuple[Floats, Floats]:
        """Imputations as opened positions, (n, n_draws, d), and their log-densities."""
        U, columns, widths = support.cells_of(X)
        missing = np.isnan(X)
        positions, _ = self._positions(U, missing)
        given, number = self._given(missing)
        drawn, log_q = given.draw(positions, number, uniform, normal)
        (n, d), k = X.shape, uniform.shape[1]
        Y = (drawn * self.width + self.centre).reshape(-1, d)
        V = self.maps.inverse(Y).reshape(n, k, d)
        V = np.where(missing[:, np.newaxis], V, U[:, np.newaxis])
        slopes = self._mapped(V.reshape(-1, d))[1].reshape(n, k, d)
        log_q += np.where(missing[:, np.newaxis], slopes, 0.0).sum(axis=2)
        if offsets is not None and len(columns):
            moved = widths[:, np.newaxis] * offsets
            V[:, :, columns] += np.where(missing[:, np.newaxis, columns], 0.0, moved)
        return V, log_q

    def log_marginal(self, U: Floats) -> Floats:
        """Return the log-density of opened positions, of the observed ones.

        Parameters
        ----------
        U : ndarray of shape (n_samples, n_features)
            With NaN for missing values.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            By the mixture, in nats.
        """
        missing = np.isnan(U)
        log_density = np.empty(len(U))
        for where in self._slices(len(U)):
            positions, slopes = self._positions(U[where], missing[where])
            log_density[where] = np.where(missing[where], 0.0, slopes).sum(axis=1)
            given, number = self._given(missing[where])
            log_density[where] += given.log_marginal(positions, number)
        return log_density

    def _positions(
        self, U: Floats, missing: NDArray[np.bool_]
    ) -> tuple[Floats, Floats]:
        """Positions in the mixture, and log-derivatives of single features."""
        # Any value will do where there is none, but one that is mapped.
        inside = self.maps.inverse(self.centre[np.newaxis])
        Y, slopes = self._mapped(np.where(missing, inside, U))
        return (Y - self.centre) / self.width, slopes

    def _mapped(self, U: Floats) -> tuple[Floats, Floats]:
        slopes = np.tile(-np.log(self.width), (len(U), 1))
        for step in self.maps:
            U, increment = step.by_features(U)
            slopes += increment
        return U, slopes

    def _given(
        self, missing: NDArray[np.bool_]
    ) -> tuple[MixtureGiven, NDArray[np.int_]]:
        """The mixture given observed values, and the pattern of every sample."""
        patterns, number = np.unique(missing, axis=0, return_inverse=True)
        given = MixtureGiven(self.mixture, self._covariances, patterns)
        return given, number.ravel()

    def get_state(self) -> State:
        """Return what `from_state` needs.

        Returns
        -------
        state : dict
            The parameters.
        """
        names = ("maps", "centre", "width", "mixture", *_NUMBERS)
        return {
            **{name: getattr(self, name) for name in names},
            "seen": np.flatnonzero(self.seen),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return the proposal of a state.

        Parameters
        ----------
        state : dict
            As `get_state` returns it.

        Returns
        -------
        proposal : Proposal
            As it was.

        Raises
        ------
        ValueError
            If the state is none.
        """
        maps, mixture = state["maps"], state["mixture"]
        centre, width, columns = state["centre"], state["width"], state["seen"]
        if not (
            isinstance(mixture, MixtureMap)
            and isinstance(maps, Chain)
            and all(isinstance(step, Elementwise) for step in maps)
            and maps.n_features_in_ in (None, mixture.n_features_in_)
            and is_array(centre, (mixture.n_features_in_,))
            and is_array(width, centre.shape)
            and (width > 0).all()
            and is_array(columns, (None,), "i")
            and np.isin(columns, np.arange(len(centre))).all()
            and is_int(state["n_draws"], 1, _MOST_DRAWS + 1)
            and isinstance(state["error"], float)
            and is_int(state["n_left_out"], 0, 2**63)
        ):
            raise ValueError("the distribution of missing values is none")
        seen = np.isin(np.arange(len(centre)), columns)
        return cls(maps, centre, width, mixture, seen, *(state[n] for n in _NUMBERS))


def _random(
    X: NDArray[Any], rng: np.random.RandomState, n_draws: int = 1
) -> tuple[Floats, Floats]:
    n, d = X.shape
    return rng.random_sample((n, n_draws)), rng.standard_normal((n, n_draws, d))


def _closed(support: Support, U: Floats, X: NDArray[Any]) -> Floats:
    """Samples in data units: the values of X, and closed positions for others."""
    closed = support.round(support.atoms.close(U), support.lower, support.upper)
    return np.where(np.isnan(X), closed, X)


def _log_density_at(model: Any, U: Floats) -> Floats:
    """Log-densities of opened positions, of shape (n, n_draws, d)."""
    flat = U.reshape(-1, U.shape[2])
    return model.log_density_of_opened(flat).reshape(U.shape[:2])
