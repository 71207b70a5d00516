"""What fitted estimators of a density share: checks, scores, samples and maps."""

# SPDX-License-Identifier: BSD-3-Clause

from collections.abc import Iterator
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import validate_parameter_constraints
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
)

from skjko.components import VelocityField
from skjko.data.frames import Table
from skjko.fitted import Fitted
from skjko.fitted_flow import FittedFlow
from skjko.flow import devices
from skjko.flow.blocks import Block
from skjko.inputs import CheckedInput, warn_user, without_nan
from skjko.local_components import build_on_meta
from skjko.support import Support
from skjko.transforms.base import is_int
from skjko.typing import ArrayOrFrame, Floats, Seed, State

E = TypeVar("E", bound=BaseEstimator)


class FlowEstimator(
    FittedFlow, CheckedInput, ClassNamePrefixFeaturesOutMixin, TransformerMixin
):
    """Methods of a fitted estimator that has a `Model` and a `Table`."""

    def _validated(self, X: ArrayLike, incomplete: bool = False) -> NDArray[Any]:
        """Check samples, of which values may be missing as in the fit if asked for."""
        check_is_fitted(self)
        missing = self._model.missing
        if missing is None:
            return self._checked(X)
        X = self._checked(X, allow_nan=True)
        if incomplete:
            self._check_seen(X, missing.seen)
        else:
            why = "but all values are needed here. Draw them first, by impute"
            self._check_seen(X, np.zeros(X.shape[1], dtype=bool), "X", why)
        return X

    def _validated_inside(self, X: ArrayLike, incomplete: bool = False) -> NDArray[Any]:
        X = self._validated(X, incomplete)
        self.support_.check(X, self._table)
        return X

    def score_samples(self, X: ArrayLike) -> Floats:
        """Compute the log-density of every sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples in data units. Values may be missing, as NaN or None, in features of
            which values were missing in `fit`: the density is that of the others.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            Log-density in nats, per data unit, as float64. It is -inf outside of the
            bounds, of which a warning tells, and beyond 1e154 standard deviations
            (unless heavy tails are drawn in). In discrete features it is the average
            over a cell: with the logarithm of all their steps added it is a
            log-probability in them. It is a log-probability in features of which the
            sample has an atom (see `support_`).
        """
        return self._told_scores(self._validated(X, incomplete=True))

    def _told_scores(self, X: NDArray[Any]) -> Floats:
        """Log-densities of validated samples, with a warning of those out of bounds."""
        scores = self._scorer.log_density(X)
        warn_outside(self.support_, X, scores, self._table)
        return scores

    def score(
        self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None
    ) -> float:
        """Compute the mean log-density of the samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples in data units, with values missing as in `score_samples`.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the mean.

        Returns
        -------
        score : float
            Mean log-density in nats, per sample.
        """
        X = self._validated(X, incomplete=True)
        weight = _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True
        )
        return weighted_mean(self._told_scores(X), weight)

    def transform(self, X: ArrayLike) -> Floats:
        """Map samples to the standard normal distribution.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples in data units. Missing values are drawn first, as by `impute` with
            `random_state=0`.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_features)
            Latent positions; standard normal where the model fits. Discrete values are
            at the centre of their cells.
        """
        X = self._completed(self._validated_inside(X, incomplete=True), 0)
        return without_nan(self._scorer.forward(X), "X")

    def _completed(self, X: NDArray[Any], random_state: Seed) -> NDArray[Any]:
        """Samples whose missing values are drawn."""
        rng, model = check_random_state(random_state), self._scorer
        if model.missing is None or not np.isnan(X).any():
            return X
        return model.missing.impute(model, X, rng)

    def inverse_transform(self, Z: ArrayLike) -> Floats:
        """Map latent positions back to data.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_features)
            Latent positions.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Samples in data units.
        """
        check_is_fitted(self)
        Z = self._numbers(Z, "Z")
        if Z.shape[1] != self.n_features_in_:
            raise ValueError(
                f"Z has {Z.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input."
            )
        return without_nan(self._scorer.inverse(Z), "Z")

    def trajectory(
        self, X: ArrayLike, n_between: int = 0, transforms: bool = True
    ) -> Floats:
        """Follow samples from the data to the base distribution.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples in data units.
        n_between : int, default=0
            Number of positions within every block, at equally spaced times.
        transforms : bool, default=True
            Whether to start at the data; else behind the transforms, in standard
            deviations, where the blocks start.

        Returns
        -------
        positions : ndarray of shape (n_positions, n_samples, n_features)
            With `transforms`, first the data in data units, then the positions behind
            every one of `transforms_`. From there on, `n_between + 1` positions for
            every block, and one more if the base is a mixture. With `n_between=0` the
            last ones are those of `transform`. Else every part of a block has as many
            solver steps as the block in `transform`, and the last ones differ from it
            by the solver's error, about 1e-4 or less.
        """
        X = self._validated_inside(X)
        self._check_count(n_between, "n_between", "trajectory", least=0)
        scorer = self._scorer
        return without_nan(scorer.trajectory(X, int(n_between), bool(transforms)), "X")

    def staged_score_samples(self, X: ArrayLike) -> Iterator[Floats]:
        """Compute log-densities after every block.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples in data units.

        Returns
        -------
        log_densities : iterator of ndarray of shape (n_samples,)
            Log-densities in nats if the flow ended after block 0, 1, ..., `n_blocks_`
            (with a standard normal base but for the last); the last is that of
            `score_samples`.
        """
        # No generator itself: X is checked now, not when the first stage is asked for.
        X = self._validated(X)
        return self._scorer.staged_log_density(X)

    def sample(self, n_samples: int = 1, random_state: Seed = None) -> ArrayOrFrame:
        """Draw samples from the fitted density.

        Parameters
        ----------
        n_samples : int, default=1
            Number of samples.
        random_state : int, RandomState instance or None, default=None
            Source of randomness.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features), or DataFrame
            Samples in data units and in the form of the data: a data frame of pandas
            or polars or a table of pyarrow, with its labels, if the model was fitted on
            one, the features' types, discrete values on their grid, all within the
            bounds. Frames whose labels are neither strings nor integers give arrays.
        """
        check_is_fitted(self)
        self._check_count(n_samples, "n_samples", "sample", least=1)
        rng = check_random_state(random_state)
        parts = self._scorer.sample(n_samples, rng)
        return self._table.rebuild(n_samples, parts, self.support_)

    def impute(self, X: ArrayLike, random_state: Seed = None) -> ArrayOrFrame:
        """Draw missing values from their distribution given the others.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples in data units. Values may be missing, as NaN or None, in features
            of which values were missing in `fit`.
        random_state : int, RandomState instance or None, default=None
            Source of randomness.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features), or DataFrame
            The samples, completed, in the form that those of `sample` have. Every call
            draws anew: for the uncertainty of what follows, look at several.

        Notes
        -----
        Of imputations that a mixture of Gaussians proposes, one is drawn by its
        density (sampling-importance resampling, Rubin 1987). Where the density is such
        a mixture itself, the only one is kept.
        """
        X = self._validated_inside(X, incomplete=True)
        completed = self._completed(X, random_state).astype(np.float64)
        rows = [(slice(0, len(X)), completed)]
        return self._table.rebuild(len(X), rows, self.support_)

    def likelihood_error(self, X: ArrayLike) -> Floats:
        """Compare log-densities with those of a tight adaptive solve.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples in data units.

        Returns
        -------
        error : ndarray of shape (n_samples,)
            Log-density of `score_samples` minus that of an adaptive solve (Dormand-
            Prince, by torchdiffeq, tolerance 1e-8) of every block, in nats. Discrete
            values are taken at the centre of their cells.

        Notes
        -----
        The adaptive solve is 10 to 100 times slower than `score_samples`.
        """
        X = self._validated_inside(X)
        return self._scorer.solver_error(X)

    def get_state(self) -> State:
        """Return everything that is saved of the fitted estimator.

        Returns
        -------
        state : dict
            Of plain values, arrays and objects that have a state themselves.
        """
        output = getattr(self, "_sklearn_output_config", {})
        return {
            **self._state_of_fit(),
            "transform_output": output.get("transform"),
            "table": self._table,
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
        d = self._n_features_out = self.n_features_in_
        if state["transform_output"] not in (None, "default", "pandas", "polars"):
            raise ValueError("the output of transform is none that there is")
        if state["transform_output"] is not None:
            self.set_output(transform=state["transform_output"])
        table, field, fitted = state["table"], state["field"], state["fitted"]
        if not (
            isinstance(table, Table)
            and isinstance(field, VelocityField)
            and isinstance(fitted, Fitted)
        ):
            raise ValueError("table, field or fit are missing")
        table.check(d, state["feature_names_in"])
        fitted.check(d)
        fitted.parameters = new_estimator(cls, fitted.parameters).get_params(deep=False)
        for chain, states in fitted.folds:
            if states:
                like = build_on_meta(field, d - chain.n_degenerate_)
                for one in states:
                    Block.from_state(one, like)
        self._table, self._categories = table, table.categories
        self._restore(state)
        return self


def weighted_mean(values: Floats, weight: Floats) -> float:
    """Return a mean to which values of weight zero, infinite or not, add nothing.

    Parameters
    ----------
    values : ndarray of shape (n,)
        Finite or -inf.
    weight : ndarray of shape (n,)
        Non-negative.

    Raises
    ------
    ValueError
        If all weights are zero.
    """
    counts = weight > 0
    if not counts.any():
        raise ValueError("sample_weight is zero for all samples: they have no mean.")
    # Divided by the largest, so that their sum cannot overflow.
    return float(np.average(values[counts], weights=weight[counts] / weight.max()))


def table_of(estimator: FlowEstimator) -> Table:
    """Return the form of the table that an estimator was fitted on."""
    return estimator._table


def warn_outside(
    support: Support, X: NDArray[Any], scores: Floats, table: Table
) -> None:
    """Warn of samples outside of the bounds, whose log-density is -inf.

    Parameters
    ----------
    support : Support
    X : ndarray of shape (n_samples, n_features)
        Validated.
    scores : ndarray of shape (n_samples,)
        Their log-densities.
    table : Table
        Names of the features.
    """
    message = support.outside_message(X, scores, table)
    if message is not None:
        warn_user(message)


def new_estimator(cls: type[E], parameters: State) -> E:
    """Return an estimator with parameters from a file, checked.

    A parameter that the file does not know gets its default.
    """
    if not isinstance(parameters, dict):
        raise ValueError("the parameters are no dict")
    unknown = parameters.keys() - set(cls._get_param_names())
    if unknown:
        raise ValueError(f"{cls.__name__} has no parameter {min(unknown)!r}")
    estimator = cls(**parameters)
    validate_parameter_constraints(
        cls._parameter_constraints, estimator.get_params(deep=False), cls.__name__
    )
    # A name that is no device's; one that is not here will do, for scores.
    devices.for_scoring(getattr(estimator, "device", "cpu"))
    return estimator


def started(cls: type[E], state: State) -> E:
    """Return an estimator with the parameters and features of a state, checked."""
    estimator: Any = new_estimator(cls, state["params"])
    if not is_int(state["n_features_in"], 1):
        raise ValueError("the number of features is none")
    estimator.n_features_in_ = state["n_features_in"]
    set_names(estimator, state["feature_names_in"])
    return estimator


def set_names(estimator: Any, names: list[str] | None) -> None:
    """Set the names of the features from a file, checked."""
    if names is None:
        return
    d = estimator.n_features_in_
    if len(names) != d or not all(isinstance(name, str) for name in names):
        raise ValueError(f"the names of the features are not {d} strings")
    estimator.feature_names_in_ = np.array(names, dtype=object)
