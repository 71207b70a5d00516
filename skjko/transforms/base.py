"""Invertible maps of samples with the log-determinant of their Jacobian."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from collections.abc import Iterator, Sequence
from typing import Any, Self, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone

from skjko.data import chunks
from skjko.typing import Floats, State

T = TypeVar("T")


def normal_log_prob(Z: Floats) -> Floats:
    """Return the standard normal log-density of every sample; zero for no features."""
    with np.errstate(over="ignore"):
        squares = np.square(Z).sum(axis=1)
    return -0.5 * squares - 0.5 * Z.shape[1] * math.log(2 * math.pi)


class Transform(BaseEstimator):
    """Base class of invertible maps; subclass it for one of your own.

    A subclass sets its parameters in `__init__`, as scikit-learn's estimators do, and
    its fitted attributes, whose names end with an underscore, in `fit`. It implements
    `fit`, `forward` and `inverse`; `fit` has to set `n_features_in_`.

    Examples
    --------
    >>> import numpy as np
    >>> from skjko import JKOFlowDensity
    >>> from skjko.transforms import Transform
    >>> class Log1p(Transform):
    ...     def fit(self, X, sample_weight=None):
    ...         self.n_features_in_ = X.shape[1]
    ...         return self
    ...     def forward(self, X):
    ...         return np.log1p(X), -np.log1p(X).sum(axis=1)
    ...     def inverse(self, Y):
    ...         return np.expm1(Y)
    >>> X = np.random.default_rng(0).exponential(size=(500, 2))
    >>> density = JKOFlowDensity(transforms=[Log1p()], init="gaussian", max_blocks=0)
    >>> density.fit(X).transforms_.steps[0]
    Log1p()
    """

    is_identity_: bool = False
    """Whether the fitted map leaves all samples as they are."""

    def fit(self, X: Floats, sample_weight: Floats | None = None) -> Self:
        """Fit the map to samples.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Finite.
        sample_weight : ndarray of shape (n_samples,), default=None
            Positive.

        Returns
        -------
        self : Transform
            The fitted map.
        """
        raise NotImplementedError

    def forward(self, X: Floats) -> tuple[Floats, Floats]:
        """Map samples.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Samples in front of the map.

        Returns
        -------
        Y : ndarray of shape (n_samples, n_features)
            Their images.
        log_det : ndarray of shape (n_samples,)
            The logarithm of |det dy/dx|, in nats.
        """
        raise NotImplementedError

    def inverse(self, Y: Floats) -> Floats:
        """Map samples back.

        Parameters
        ----------
        Y : ndarray of shape (n_samples, n_features)
            Samples behind the map.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            What `forward` maps to them.
        """
        raise NotImplementedError

    def log_prob(self, X: Floats) -> Floats:
        """Return the log-density of samples whose image is standard normal.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Samples in front of the map.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            In nats.
        """
        Y, log_det = self.forward(X)
        return normal_log_prob(Y) + log_det

    def sample(self, n_samples: int, rng: np.random.RandomState) -> Floats:
        """Draw samples whose image is standard normal.

        Parameters
        ----------
        n_samples : int
            Number of samples.
        rng : RandomState
            Source of randomness.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Samples in front of the map.
        """
        return self.inverse(rng.standard_normal((n_samples, self.n_features_in_)))

    def get_state(self) -> State:
        """Return parameters and fitted attributes, for a file.

        Returns
        -------
        state : dict
            Two dicts, "params" and "fitted".
        """
        fitted = {k: v for k, v in vars(self).items() if k.endswith("_")}
        return {"params": self.get_params(deep=False), "fitted": fitted}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return the transform of a state from `get_state`.

        Parameters
        ----------
        state : dict
            As `get_state` returns it.

        Returns
        -------
        transform : Transform
            Of this class.

        Raises
        ------
        ValueError
            If no fit can have had this state.
        """
        names = set(cls._get_param_names())
        if state.keys() != {"params", "fitted"} or state["params"].keys() != names:
            raise ValueError(f"the state of a {cls.__name__} is incomplete")
        self = cls(**state["params"])
        for name, value in state["fitted"].items():
            if not name.endswith("_") or name.startswith("_"):
                raise ValueError(f"{name!r} is no fitted attribute")
            setattr(self, name, value)
        # One that is a parameter need not be fitted.
        if state["fitted"]:
            self._complete()
        return self

    def _complete(self) -> None:
        """Check fitted attributes, and compute what depends on them alone.

        Raises
        ------
        ValueError
            If no fit can have had these attributes.
        """


class Elementwise(Transform):
    """Base class of maps of single features, each by itself.

    A subclass implements `by_features` in place of `forward`.
    """

    def by_features(self, X: Floats) -> tuple[Floats, Floats]:
        """Map samples.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Samples in front of the map.

        Returns
        -------
        Y : ndarray of shape (n_samples, n_features)
            Their images.
        log_derivatives : ndarray of shape (n_samples, n_features)
            The logarithm of dy/dx of every feature, in nats.
        """
        raise NotImplementedError

    def forward(self, X: Floats) -> tuple[Floats, Floats]:
        """Map samples; see :meth:`Transform.forward`."""
        Y, log_derivatives = self.by_features(X)
        return Y, log_derivatives.sum(axis=1)


class Chain(Transform):
    """Transforms one after another.

    A step that was fitted to fewer features than there are acts on the first of them.

    Parameters
    ----------
    steps : list of Transform
        The first is the one that samples go through first.

    Examples
    --------
    >>> import numpy as np
    >>> from skjko.transforms import Asinh, Chain, Whitening
    >>> X = np.random.default_rng(0).standard_cauchy(size=(1000, 2))
    >>> chain = Chain([Asinh(), Whitening()]).fit(X)
    >>> Z, log_det = chain.forward(X)
    >>> np.allclose(chain.inverse(Z), X)
    True
    """

    def __init__(self, steps: Sequence[Transform]) -> None:
        self.steps = steps

    def fit(self, X: Floats, sample_weight: Floats | None = None) -> "Chain":
        """Fit every step to what comes out of those before it."""
        return self.fit_forward(X, sample_weight)[0]

    def fit_forward(
        self, X: Floats, sample_weight: Floats | None = None
    ) -> tuple["Chain", Floats]:
        """Fit the steps; return the chain and what `forward` maps X to.

        The samples are mapped a chunk at a time; what does not fit into memory is in
        temporary files.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Finite.
        sample_weight : ndarray of shape (n_samples,), default=None
            Positive.

        Returns
        -------
        chain : Chain
            Of clones of the steps, fitted, without those that change nothing.
        Y : ndarray of shape (n_samples, n_features)
            The image of X.
        """
        fitted, n_active = [], X.shape[1]
        for step in self.steps:
            part = X if n_active == X.shape[1] else X[:, :n_active]
            step = clone(step).fit(part, sample_weight)
            if step.is_identity_:
                continue
            Y = chunks.empty(X.shape, np.float64)
            for where, rows in chunks.in_float64(X):
                Y[where] = _apply(step, rows)[0]
            fitted.append(step)
            X, n_active = Y, n_active - getattr(step, "n_degenerate_", 0)
        return Chain(fitted), X

    @property
    def n_features_in_(self) -> int | None:
        """Number of features; None for an empty chain."""
        return self.steps[0].n_features_in_ if self.steps else None

    @property
    def n_degenerate_(self) -> int:
        """Number of features, the last ones, that have no density."""
        return sum(getattr(step, "n_degenerate_", 0) for step in self.steps)

    @property
    def n_context_(self) -> int:
        """Number of those that are a condition, at the end of all."""
        return sum(getattr(step, "n_context_", 0) for step in self.steps)

    @property  # In other transforms an attribute, which `fit` sets.
    def is_identity_(self) -> bool:  # type: ignore[override]
        """Whether there are no steps."""
        return not self.steps

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Transform]:
        return iter(self.steps)

    def find(self, kind: type[T]) -> T | None:
        """Return the first step of a class.

        Parameters
        ----------
        kind : class
            A transform.

        Returns
        -------
        step : Transform or None
            None if there is none of this class.
        """
        return next((step for step in self.steps if isinstance(step, kind)), None)

    def forward(self, X: Floats) -> tuple[Floats, Floats]:
        """Map samples through all steps; see :meth:`Transform.forward`."""
        X, log_det = chunks.as_float64(X), np.zeros(len(X))
        for step in self.steps:
            X, increment = _apply(step, X)
            log_det += increment
        return X, log_det

    def inverse(self, Y: Floats) -> Floats:
        """Map samples back through all steps; see :meth:`Transform.inverse`."""
        for step in reversed(self.steps):
            n = step.n_features_in_
            if n == Y.shape[1]:
                Y = step.inverse(Y)
            else:
                Y = np.hstack([step.inverse(Y[:, :n].copy()), Y[:, n:]])
        return Y

    def log_prob(self, X: Floats) -> Floats:
        """Return the log-density of X in nats if its image is standard normal.

        Given the condition, where there is one.
        """
        if not self.steps:
            return normal_log_prob(X)
        *others, last = self.steps
        Y, log_det = Chain(others).forward(X)
        n, end = last.n_features_in_, Y.shape[1] - self.n_context_
        return log_det + last.log_prob(Y[:, :n]) + normal_log_prob(Y[:, n:end])

    def sample(self, n_samples: int, rng: np.random.RandomState) -> Floats:
        """Draw samples whose image is standard normal."""
        *others, last = self.steps
        Y = last.sample(n_samples, rng)
        n_others = self.n_features_in_ - Y.shape[1]
        if n_others:
            Y = np.hstack([Y, rng.standard_normal((n_samples, n_others))])
        return Chain(others).inverse(Y)

    def get_state(self) -> State:
        """Return the steps, for a file.

        Returns
        -------
        state : dict
            The list of "steps".
        """
        return {"steps": self.steps}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return the chain of a state from `get_state`."""
        steps = state.get("steps")
        if state.keys() != {"steps"} or not isinstance(steps, list):
            raise ValueError("the state of a chain is incomplete")
        if not all(isinstance(step, Transform) for step in steps):
            raise ValueError("a step of the chain is no transform")
        # One that is a parameter need not be fitted.
        fitted = any(hasattr(step, "n_features_in_") for step in steps)
        n_active = steps[0].n_features_in_ if fitted else 0
        for step in steps if fitted else []:
            if step.n_features_in_ != n_active:
                raise ValueError("the steps of the chain do not fit together")
            n_active -= getattr(step, "n_degenerate_", 0)
        return cls(steps)


def _apply(step: Transform, X: Floats) -> tuple[Floats, Floats]:
    """Map samples, of which a step may act on the first features only."""
    n = step.n_features_in_
    if n == X.shape[1]:
        return step.forward(X)
    Y, log_det = step.forward(np.ascontiguousarray(X[:, :n]))
    return np.hstack([Y, X[:, n:]]), log_det


def is_int(value: object, low: int, high: int = 2**31) -> bool:
    """Whether a value is an int in a range, and no bool."""
    return (
        isinstance(value, (int, np.integer))
        and not isinstance(value, bool)
        and low <= int(value) < high
    )


def is_array(
    value: object, shape: Sequence[int | None], kind: str = "f", finite: bool = True
) -> TypeGuard[NDArray[Any]]:
    """Whether a value is an array of a shape, where None is any size, and a kind."""
    return (
        isinstance(value, np.ndarray)
        and value.ndim == len(shape)
        and all(s in (None, n) for s, n in zip(shape, value.shape, strict=True))
        and value.dtype.kind in kind
        and (not finite or bool(np.isfinite(value).all()))
    )
