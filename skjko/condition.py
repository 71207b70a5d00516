"""The condition of a conditional density: features, location and scale, as columns."""

# SPDX-License-Identifier: BSD-3-Clause

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, KFold
from sklearn.utils.validation import has_fit_parameter

from skjko import regression
from skjko.predictors import Stack
from skjko.regression import Fold
from skjko.transforms.asinh import Asinh
from skjko.transforms.base import Chain, is_array
from skjko.typing import Floats, State

# Folds that locations are predicted out of; folds of regressions that need no fit for
# each; and the least samples for a regression.
_N_FOLDS, _N_FINE, _MIN_SAMPLES = 5, 20, 20
# A residual counts as at least this share of their mean: none is known exactly.
_LEAST_SIZE = 1e-3


class Encoder:
    """Features as numbers: categories are one-hot, the others about normal.

    Parameters
    ----------
    counts : ndarray of int of shape (n_features,)
        Number of categories of each column, 0 for numbers.
    """

    def __init__(self, counts: NDArray[np.int_]) -> None:
        self.counts = counts

    def fit(self, X: Floats, weight: Floats) -> Self:
        """Fit the scales."""
        raw = self.one_hot(X)
        self.maps = Chain([Asinh()]).fit_forward(raw, weight)[0]
        Y = self.maps.forward(raw)[0]
        w = weight / weight.sum()
        self.centre, size = w @ Y, np.abs(Y).max(axis=0)
        size[size == 0] = 1.0
        self.centre = (w @ (Y / size)) * size
        width = np.sqrt(w @ ((Y - self.centre) / size) ** 2) * size
        self.varies = np.flatnonzero(width > 1e-12 * size)
        self.centre, self.width = self.centre[self.varies], width[self.varies]
        Z = self.standard(raw)
        self.low, self.high = Z.min(axis=0), Z.max(axis=0)
        return self

    def one_hot(self, X: NDArray[Any]) -> Floats:
        """Return numbers as they are, and a column of 0 and 1 for every category.

        There is none for the second of two. One that is not known has zeros.
        """
        columns = []
        for x, k in zip(np.asarray(X, dtype=np.float64).T, self.counts, strict=True):
            columns += [x == i for i in range(1 if k == 2 else k)] if k else [x]
        return np.column_stack(columns).astype(np.float64)

    def standard(self, raw: Floats) -> Floats:
        """Return features of zero mean and unit variance."""
        Y = self.maps.forward(raw)[0]
        return (Y[:, self.varies] - self.centre) / self.width

    def clip(self, Z: Floats) -> Floats:
        """Return features within the range of those that were fitted."""
        return np.clip(Z, self.low, self.high)

    def get_state(self) -> State:
        """Return what `from_state` needs."""
        return vars(self).copy()

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return the encoder of a state; raise a ValueError if it is none."""
        self = cls(state["counts"])
        names = ("maps", "varies", "centre", "width", "low", "high")
        if state.keys() != {"counts", *names}:
            raise ValueError("the state of the encoder is incomplete")
        vars(self).update(state)
        n, shape = self.n_raw, np.shape(self.varies)
        if not (
            is_array(self.counts, (None,), "i")
            and (self.counts >= 0).all()
            and is_array(self.varies, (None,), "i")
            and ((self.varies >= 0) & (self.varies < n)).all()
            and isinstance(self.maps, Chain)
            and self.maps.n_features_in_ in (None, n)
            and all(is_array(getattr(self, name), shape) for name in names[2:])
            and (self.width > 0).all()
        ):
            raise ValueError("the state of the encoder is none")
        return self

    @property
    def n_raw(self) -> int:
        """Number of columns of numbers and categories."""
        return int(sum(1 if k in (0, 2) else k for k in self.counts))


class Condition:
    """Locations, logarithms of scales, and features, from samples of X.

    Parameters
    ----------
    regressor : "auto", None or a scikit-learn regressor
        Of the location.

    Attributes
    ----------
    encoder : Encoder
    locations, scales : list
        A regression for every target; empty without a regressor.
    range : ndarray of shape (2, n_targets)
        Least and greatest logarithm of a scale.
    """

    def __init__(self, regressor: Any) -> None:
        self.regressor = regressor

    def fit(
        self,
        X: Floats,
        T: Floats,
        weight: Floats,
        groups: NDArray[np.int_] | None,
        counts: NDArray[np.int_],
        rng: np.random.RandomState,
    ) -> Floats:
        """Fit the regressions; return the condition of the samples, out of the folds.

        Parameters
        ----------
        X : ndarray of shape (n, n_features)
            Numbers, and codes of categories.
        T : ndarray of shape (n, n_targets)
            Of about zero mean and unit variance.
        weight : ndarray of shape (n,)
        groups : ndarray of int of shape (n,) or None
            Samples of one group are in one fold.
        counts : ndarray of int of shape (n_features,)
            Number of categories of each column, 0 for numbers.
        rng : RandomState
        """
        n, d = T.shape
        self.encoder = Encoder(counts).fit(X, weight)
        raw = self.encoder.one_hot(X)
        Z = self.encoder.standard(raw)
        self.locations, self.scales = [], []
        M, L = np.zeros((n, d)), np.zeros((n, d))
        n_groups = n if groups is None else len(np.unique(groups))
        if self.regressor is not None and n_groups >= _MIN_SAMPLES and Z.shape[1]:
            seed = rng.randint(2**31 - 1)
            folds, fine = (
                _folds(n, groups, min(k, n_groups), seed) for k in (_N_FOLDS, _N_FINE)
            )
            for j in range(d):
                t, draws = T[:, j], np.random.RandomState([seed, j])
                if self.regressor == "auto":
                    found = regression.location(Z, t, weight, folds, fine, draws)
                else:
                    found = self._by_users(raw, t, weight, folds, draws)
                model, M[:, j] = found
                size = np.abs(t - M[:, j])
                size += _LEAST_SIZE * np.average(size, weights=weight) + 1e-12
                A = np.column_stack([Z, M[:, j]])
                self.locations.append(model)
                model, L[:, j] = regression.scale(A, size, weight, folds, draws)
                self.scales.append(model)
        self.range = np.array([L.min(axis=0), L.max(axis=0)])
        return np.hstack([M, L, self.encoder.clip(Z)])

    def _by_users(
        self,
        raw: Floats,
        t: Floats,
        weight: Floats,
        folds: list[Fold],
        rng: np.random.RandomState,
    ) -> tuple[Any, Floats]:
        """The user's regressor fitted to all samples, and predictions out of folds."""

        def fitted(rows: NDArray[np.int_]) -> Any:
            one = clone(self.regressor)
            for name, value in one.get_params().items():
                if name.endswith("random_state") and value is None:
                    one.set_params(**{name: rng.randint(2**31 - 1)})
            weighted = has_fit_parameter(one, "sample_weight")
            return one.fit(
                raw[rows],
                t[rows],
                **{"sample_weight": weight[rows]} if weighted else {},
            )

        out = np.empty(len(t))
        for train, rest in folds:
            out[rest] = np.ravel(fitted(train).predict(raw[rest]))
        return fitted(np.arange(len(t))), out

    def columns(self, X: NDArray[Any]) -> Floats:
        """Return locations, logarithms of scales, and features of samples.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Numbers, and codes of categories.

        Returns
        -------
        columns : ndarray of shape (n_samples, n_columns)
        """
        raw = self.encoder.one_hot(X)
        Z = self.encoder.standard(raw)
        shape = len(Z), self.range.shape[1]
        M, L = np.zeros(shape), np.zeros(shape)
        for j, (location, scale) in enumerate(
            zip(self.locations, self.scales, strict=True)
        ):
            own = isinstance(location, Stack)
            M[:, j] = np.ravel(location.predict(Z if own else raw))
            L[:, j] = scale.predict(np.column_stack([Z, M[:, j]]))
        return np.hstack([M, np.clip(L, *self.range), self.encoder.clip(Z)])

    @property
    def n_columns(self) -> int:
        """Number of columns of the condition."""
        return 2 * self.range.shape[1] + len(self.encoder.varies)

    def get_state(self) -> State:
        """Return what `from_state` needs; raise a ValueError for a user's regressor."""
        if not all(isinstance(one, Stack) for one in self.locations):
            raise ValueError(
                "A file without pickle cannot hold a regressor of your own, here a "
                f"{type(self.regressor).__name__}. Use regressor='auto', or save the "
                "estimator with pickle or joblib."
            )
        names = ("encoder", "locations", "scales", "range")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return the condition of a state; raise a ValueError if it is none."""
        encoder, ranges = state["encoder"], state["range"]
        models = state["locations"], state["scales"]
        if not (
            isinstance(encoder, Encoder)
            and is_array(ranges, (2, None))
            and all(len(one) in (0, ranges.shape[1]) for one in models)
            and len(models[0]) == len(models[1])
            and all(isinstance(one, Stack) for one in (*models[0], *models[1]))
        ):
            raise ValueError("the state of the condition is none")
        n = len(encoder.varies)
        for location, scale in zip(*models, strict=True):
            location.check(n)
            scale.check(n + 1)
        self = cls("auto" if models[0] else None)
        self.encoder, self.range = encoder, ranges
        self.locations, self.scales = models
        return self


def _folds(
    n: int, groups: NDArray[np.int_] | None, n_folds: int, seed: int
) -> list[Fold]:
    """Pairs of the numbers of the samples of a fold's training and of its rest."""
    kind = KFold if groups is None else GroupKFold
    folds = kind(n_folds, shuffle=True, random_state=seed)
    return list(folds.split(np.empty((n, 1)), groups=groups))
