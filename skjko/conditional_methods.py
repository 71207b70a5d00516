"""Methods of a fitted conditional density."""

# SPDX-License-Identifier: BSD-3-Clause

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import qmc
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from skjko.base import started, warn_outside, weighted_mean
from skjko.components import VelocityField
from skjko.condition import Condition
from skjko.data.categories import Categories
from skjko.data.frames import Table, check_values
from skjko.fitted import Fitted
from skjko.fitted_flow import FittedFlow
from skjko.inputs import CheckedInput, without_nan
from skjko.support import Support
from skjko.transforms.base import is_array
from skjko.transforms.location_scale import LocationScale
from skjko.typing import Floats, Seed, State

# Quantiles that the mean of one column is made of, and samples that those of several
# columns and their marginal quantiles are.
_N_NODES, _N_SAMPLES = 32, 512


class ConditionalMethods(FittedFlow, CheckedInput):
    """Scores, predictions and samples of a conditional density."""

    condition_: Condition
    support_: Support
    _fill: Floats
    _table: Table
    _is_single: bool

    # ------------------------------------------------------------------ checks

    def _features(
        self,
        X: Any,
        name: str = "X",
        reset: bool = False,
        ensure_min_samples: int = 1,
    ) -> NDArray[Any]:
        """Features with no value missing, and columns that tell where any was."""
        X = self._checked(X, name, reset, ensure_min_samples, allow_nan=True)
        is_missing, coded = np.isnan(X), self._categories.columns
        if reset:
            self._fill = np.full(X.shape[1], np.nan)
            for j in np.flatnonzero(is_missing.any(axis=0)):
                values = X[~is_missing[:, j], j]
                # A category that is missing is none of those that there are.
                self._fill[j] = -1.0 if j in coded else 0.0
                if len(values) and j not in coded:
                    self._fill[j] = np.median(values)
        self._check_seen(X, ~np.isnan(self._fill), name)
        if np.isnan(self._fill).all():
            return X
        told = is_missing[:, ~np.isnan(self._fill)]
        return np.hstack([np.where(is_missing, self._fill, X), told])

    def _targets(
        self, y: Any, X: NDArray[Any], reset: bool = False, name: str = "y"
    ) -> tuple[Floats, Table]:
        """Targets as an array of two dimensions, and the form of their table."""
        is_series = hasattr(y, "to_frame")
        if is_series:
            y = y.to_frame()
        if hasattr(y, "columns"):
            is_single = is_series
        else:
            y = np.asarray(y)
            is_single = y.ndim == 1
            y = y.reshape(-1, 1) if is_single else y
        Y = np.asarray(self._numbers(y, name), dtype=np.float64)
        check_consistent_length(X, Y)
        check_values(Y, type(self).__name__, name, y)
        if reset:
            self._is_single, self.n_outputs_ = is_single, Y.shape[1]
        elif Y.shape[1] != self.n_outputs_:
            raise ValueError(
                f"{name} has {Y.shape[1]} columns, but {type(self).__name__} was "
                f"fitted to {self.n_outputs_}."
            )
        return Y, Table.of(y)

    def _condition(self, X: ArrayLike) -> Floats:
        """Columns of the condition of checked samples."""
        check_is_fitted(self)
        return self.condition_.columns(self._features(X))

    def _rows(self, X: ArrayLike, y: ArrayLike) -> Floats:
        """Targets and condition, side by side."""
        C = self._condition(X)
        return np.hstack([self._targets(y, C)[0], C])

    def _shaped(self, Y: Floats) -> Floats:
        """Targets without their last axis, if that is how they came."""
        return Y[..., 0] if self._is_single else Y

    def _one_column(self, method: str) -> None:
        if self.n_outputs_ > 1:
            raise ValueError(
                f"{type(self).__name__}.{method} is for one target. This one was "
                f"fitted to {self.n_outputs_} columns of y, which have no order."
            )

    # ------------------------------------------------------------------ scores

    def score_samples(self, X: ArrayLike, y: ArrayLike) -> Floats:
        """Compute the conditional log-density of every sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            What y depends on.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            Of y given X, in nats per unit of y. It is -inf outside of the bounds. In
            discrete columns it is the average over a cell: with the logarithm of the
            step added it is a log-probability.
        """
        rows = self._rows(X, y)
        scores = self._scorer.log_density(rows)
        warn_outside(self.support_, rows[:, : self.n_outputs_], scores, self._table)
        return scores

    def score(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> float:
        """Compute the mean conditional log-density of the samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            What y depends on.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the mean.

        Returns
        -------
        score : float
            Mean log-density in nats, per sample. Higher is better.
        """
        scores = self.score_samples(X, y)
        weight = _check_sample_weight(
            sample_weight, scores, dtype=np.float64, ensure_non_negative=True
        )
        return weighted_mean(scores, weight)

    def cdf(self, X: ArrayLike, y: ArrayLike) -> Floats:
        """Compute the conditional distribution function of one target.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            What y depends on.
        y : array-like of shape (n_samples,)
            Targets.

        Returns
        -------
        probability : ndarray of shape (n_samples,)
            That the target is at most y, given X. Uniform on (0, 1) for continuous
            targets where the model fits.
        """
        check_is_fitted(self)
        self._one_column("cdf")
        rows = self._rows(X, y)
        support, grid = self.support_, self.support_.grid
        if len(grid.columns):
            # All of the cell counts.
            rows[:, 0] = np.floor((rows[:, 0] - grid.start) / grid.step + 1e-9)
            rows[:, 0] = grid.start + (rows[:, 0] + 0.5) * grid.step
        # All of an atom counts, too, and beyond one at the end there is nothing.
        (low,), (high,) = support.bounds.lower, support.bounds.upper
        opened = support.atoms.open(rows[:, :1], 0.5)[:, 0]
        below, above = opened <= low, opened >= high
        if not support.atoms.is_identity_:
            y, (values, is_end) = (
                rows[:, 0],
                (support.atoms.values, support.atoms.is_end),
            )
            below |= (is_end[0] < 0) & (y < values[0])
            above |= (is_end[-1] > 0) & (y >= values[-1])
        inside = ~(below | above)
        result = np.where(above, 1.0, 0.0)
        if inside.any():
            z = self._scorer.forward(rows[inside], 0.5)[:, 0]
            result[inside] = ndtr(self._sign * without_nan(z, "y"))
        return result

    # ------------------------------------------------------------------ predictions

    def predict(self, X: ArrayLike) -> Floats:
        """Compute the conditional mean.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            What y depends on.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Mean of y given X, by quadrature over 32 quantiles of one target, by 512
            fixed samples of several.
        """
        C = self._condition(X)
        if self.n_outputs_ > 1:
            return self._fixed_samples(C).mean(axis=1)
        nodes, weight = np.polynomial.legendre.leggauss(_N_NODES)
        Y = self._quantiles(C, (nodes + 1) / 2, exact=False)[..., 0]
        # Of the mean of two large numbers, half of each.
        return self._shaped((Y @ (weight / 2))[:, np.newaxis])

    def predict_quantile(self, X: ArrayLike, q: ArrayLike = 0.5) -> Floats:
        """Compute conditional quantiles.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            What y depends on.
        q : float or array-like of shape (n_quantiles,), default=0.5
            Probabilities, more than 0 and less than 1.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_quantiles)
            Of one target by the exact inverse of `cdf`. Of several targets, with one
            more axis of size n_outputs, the marginal quantiles of 512 fixed samples.
            Discrete targets have their own values.
        """
        C, q = self._condition(X), np.asarray(q, dtype=np.float64)
        if q.ndim > 1 or not ((q > 0) & (q < 1)).all():
            raise ValueError(
                f"The 'q' parameter of {type(self).__name__}.predict_quantile must be "
                f"a number in (0, 1), or a list of them. Got {q.tolist()!r} instead."
            )
        levels = np.atleast_1d(q)
        if self.n_outputs_ > 1:
            samples = self._fixed_samples(C)
            Y = np.moveaxis(np.quantile(samples, levels, axis=1), 0, 1)
        else:
            Y = self._quantiles(C, levels)
        Y = self._rounded(Y)
        return self._shaped(Y if q.ndim else Y[:, 0])

    def predict_interval(self, X: ArrayLike, coverage: float = 0.9) -> Floats:
        """Compute central intervals of the conditional distribution.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            What y depends on.
        coverage : float, default=0.9
            Probability of an interval, in (0, 1).

        Returns
        -------
        interval : ndarray of shape (n_samples, 2) or (n_samples, 2, n_outputs)
            Lower and upper ends, in units of y: quantiles, of every target by itself.
        """
        if not (isinstance(coverage, (float, np.floating)) and 0 < coverage < 1):
            raise ValueError(
                f"The 'coverage' parameter of {type(self).__name__}.predict_interval "
                f"must be a float in the range (0, 1). Got {coverage!r} instead."
            )
        return self.predict_quantile(X, [(1 - coverage) / 2, (1 + coverage) / 2])

    def sample(
        self, X: ArrayLike, n_samples: int = 1, random_state: Seed = None
    ) -> Floats:
        """Draw samples of y given X.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
            What y depends on.
        n_samples : int, default=1
            Number of samples for every row of X.
        random_state : int, RandomState instance or None, default=None
            Source of randomness.

        Returns
        -------
        y : ndarray of shape (n_rows, n_samples) or (n_rows, n_samples, n_outputs)
            In units of y, within its bounds, discrete values on their grid.
        """
        C = self._condition(X)
        self._check_count(n_samples, "n_samples", "sample", least=1)
        rng = check_random_state(random_state)
        shape = len(C), n_samples, self.n_outputs_
        Y = np.empty((len(C) * n_samples, self.n_outputs_))
        rows = np.repeat(C, n_samples, axis=0)
        for where, part in self._scorer.sample(len(rows), rng, rows):
            Y[where] = part
        return self._shaped(self._rounded(Y.reshape(shape)))

    def to_latent(self, X: ArrayLike, y: ArrayLike) -> Floats:
        """Map targets to the standard normal distribution, given X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            What y depends on.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_outputs)
            Latent positions; standard normal, and independent of X, where the model
            fits. Discrete values are at the centre of their cells.
        """
        rows = self._rows(X, y)
        self.support_.check(rows[:, : self.n_outputs_], self._table, "y")
        return without_nan(self._scorer.forward(rows), "y")

    def from_latent(self, X: ArrayLike, Z: ArrayLike) -> Floats:
        """Map latent positions back to targets, given X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            What y depends on.
        Z : array-like of shape (n_samples, n_outputs)
            Latent positions.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        """
        C = self._condition(X)
        Z = np.asarray(self._numbers(Z, "Z"), dtype=np.float64)
        check_consistent_length(C, Z)
        if Z.shape[1] != self.n_outputs_:
            raise ValueError(
                f"Z has {Z.shape[1]} columns, but {type(self).__name__} was fitted to "
                f"{self.n_outputs_}."
            )
        return self._shaped(self._inverse(Z, C))

    # ------------------------------------------------------------------ inside

    def _inverse(self, Z: Floats, C: Floats, exact: bool = True) -> Floats:
        """Targets of latent positions and conditions."""
        rows = self._scorer.inverse(np.hstack([Z, C]), exact)
        return rows[:, : self.n_outputs_]

    def _quantiles(self, C: Floats, q: Floats, exact: bool = True) -> Floats:
        """Quantiles of one target, of shape (n_samples, n_quantiles, 1)."""
        Z = np.tile(self._sign * ndtri(q), len(C))[:, np.newaxis]
        return self._inverse(Z, np.repeat(C, len(q), axis=0), exact).reshape(
            len(C), len(q), 1
        )

    def _fixed_samples(self, C: Floats) -> Floats:
        """The same latent positions for all conditions, as targets."""
        d, n = self.n_outputs_, _N_SAMPLES // 2
        u = qmc.Sobol(d, rng=np.random.default_rng(0)).random(n)
        Z = ndtri(np.clip(u, 1e-9, 1 - 1e-9))
        Z = np.concatenate([Z, -Z])
        rows = self._inverse(
            np.tile(Z, (len(C), 1)), np.repeat(C, len(Z), axis=0), exact=False
        )
        return rows.reshape(len(C), len(Z), d)

    def _rounded(self, Y: Floats) -> Floats:
        """Discrete targets on their grid, within the bounds."""
        support, flat = self.support_, Y.reshape(-1, self.n_outputs_)
        return support.round(flat, support.lower, support.upper).reshape(Y.shape)

    def _complete(self, support: Support, C: Floats) -> None:
        """Set what follows from the model, its support, and one condition."""
        self.support_ = support
        self._sign = 1.0
        if self.n_outputs_ == 1:
            # Whitening may turn a feature around.
            low, high = self._inverse(np.array([[-1.0], [1.0]]), C.repeat(2, axis=0))
            self._sign = 1.0 if low <= high else -1.0

    def get_state(self) -> State:
        """Return everything that is saved of the fitted estimator.

        Returns
        -------
        state : dict
            Of plain values, arrays and objects that have a state themselves.

        Raises
        ------
        ValueError
            If the regressor is the user's own.
        """
        return {
            **self._state_of_fit(),
            "categories": self._categories,
            "fill": self._fill,
            "condition": self.condition_,
            "is_single": self._is_single,
            "table": self._table,
            "support": self.support_,
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return the fitted estimator of a state from `get_state`.

        Parameters
        ----------
        state : dict
            As `get_state` returns it.

        Returns
        -------
        estimator : object
            Of this class.

        Raises
        ------
        ValueError
            If no fit can have had this state.
        """
        self = started(cls, state)
        p = self.n_features_in_
        kinds = {
            "categories": Categories,
            "condition": Condition,
            "is_single": bool,
            "table": Table,
            "support": Support,
            "field": VelocityField,
            "fitted": Fitted,
        }
        if not all(isinstance(state[name], kind) for name, kind in kinds.items()):
            raise ValueError("a part of the conditional density is missing")
        condition, support, fitted = (
            state[name] for name in ("condition", "support", "fitted")
        )
        d, n_context = len(support.lower), condition.n_columns
        coded = state["categories"].columns
        counts = [len(coded[j].values) if j in coded else 0 for j in range(p)]
        if not is_array(state["fill"], (p,), finite=False):
            raise ValueError("the values in place of missing ones do not fit")
        counts += [0] * int((~np.isnan(state["fill"])).sum())
        fitted.check(d + n_context)
        scale = fitted.model.transforms.find(LocationScale)
        if not (
            counts == condition.encoder.counts.tolist()
            and condition.range.shape[1] == d == len(state["table"].dtypes)
            and scale is not None
            and scale.n_context == n_context
            and (d == 1 or not state["is_single"])
        ):
            raise ValueError("the targets and their condition do not fit together")
        self._categories, self._table = state["categories"], state["table"]
        self._fill = state["fill"]
        self._is_single, self.n_outputs_ = state["is_single"], d
        self.condition_ = condition
        self._restore(state, n_context)
        self._complete(support, np.zeros((1, n_context)))
        return self
