"""Callbacks for densities, beside those of scikit-learn.

They follow the protocol of :mod:`sklearn.callback`, and need scikit-learn 1.9 or later.
"""

# SPDX-License-Identifier: BSD-3-Clause

from abc import ABC, abstractmethod
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["EarlyStopping", "Snapshot"]


class _OfBlocks(ABC):
    """A callback that is called with the density after every block.

    One instance may serve several fits at once, as those of a grid search.
    """

    def __init__(self):
        self._fits: dict[int, Any] = {}

    def __getstate__(self):
        # Fits that are under way belong to their process.
        return {**self.__dict__, "_fits": {}}

    @abstractmethod
    def _new_fit(self) -> Any:
        """What is known of a fit when it begins."""

    @abstractmethod
    def _look(self, fit: Any, task: str, density: Any, *data: Any) -> bool:
        """Look at the density after a block; return whether to stop."""

    def setup(self, estimator: Any, context: Any) -> None:
        """Begin a fit.

        Parameters
        ----------
        estimator : estimator
            That is fitted.
        context : CallbackContext
            Of the fit.
        """
        self._fits[id(context)] = self._new_fit()

    def teardown(self, estimator: Any, context: Any) -> None:
        """End a fit.

        Parameters
        ----------
        estimator : estimator
            That is fitted.
        context : CallbackContext
            Of the fit.
        """
        self._fits.pop(id(context), None)

    def on_fit_task_begin(  # noqa: B027
        self, estimator: Any, context: Any
    ) -> None:
        """Do nothing.

        Parameters
        ----------
        estimator : estimator
            That is fitted.
        context : CallbackContext
            Of the task.
        """

    def on_fit_task_end(
        self,
        estimator: Any,
        context: Any,
        *,
        X: Any = None,
        y: Any = None,
        metadata: Any = None,
        fitted_estimator: Any = None,
    ) -> bool:
        """Look at the density if the task is a block.

        Parameters
        ----------
        estimator : estimator
            That is fitted.
        context : CallbackContext
            Of the task.
        X : array-like
            The training data.
        y : array-like
            The target, if there is one.
        metadata : dict
            Sample weights, if there are any.
        fitted_estimator : estimator
            The density with the blocks so far; None after other tasks.

        Returns
        -------
        stop : bool
            Whether to end the fit.
        """
        fit = self._fits.get(id(context.parent))
        if fitted_estimator is None or fit is None:
            return False
        return self._look(fit, context.task_name, fitted_estimator, X, y, metadata)


class EarlyStopping(_OfBlocks):
    """Callback that ends a fit when blocks no longer improve a score.

    The density itself keeps a block only if it gains on validation samples. This is for
    a score of your own, or samples of your own in addition.

    Parameters
    ----------
    scoring : str, callable or None, default=None
        The score, higher is better: a callable `(estimator, X, y)`, or a name of
        scikit-learn's. None is `score`, the mean log-density.

    X_val : array-like of shape (n_samples, n_features) or None, default=None
        Samples to score. None are the training samples, with their weights.

    min_delta : float, default=0.0
        What counts as an improvement: more than that.

    patience : int, default=1
        Number of blocks in a row without improvement after which the fit ends.

    Attributes
    ----------
    scores_ : list of float
        Scores after every block of the latest fit in this process.

    See Also
    --------
    Snapshot : Keep positions and samples after every block.

    Notes
    -----
    The blocks that did not improve the score stay in the density. In cross-validation
    the density is that of the first fold; on all samples the score starts again.

    Examples
    --------
    >>> from skjko import JKOFlowDensity
    >>> from skjko.callbacks import EarlyStopping
    >>> from skjko.datasets import moons
    >>> X = moons().sample(600, random_state=0)
    >>> stopping = EarlyStopping(X_val=X[500:], min_delta=10.0)
    >>> density = JKOFlowDensity(
    ...     init="gaussian", max_blocks=4, max_iter=20, early_stopping=False,
    ...     random_state=0,
    ... ).set_callbacks(stopping)
    >>> density.fit(X[:500]).n_blocks_
    2
    """

    def __init__(
        self,
        scoring: Any = None,
        X_val: ArrayLike | None = None,
        min_delta: float = 0.0,
        patience: int = 1,
    ) -> None:
        super().__init__()
        if patience < 1:
            raise ValueError(
                "The 'patience' parameter of EarlyStopping must be an int of at least "
                f"1. Got {patience!r} instead."
            )
        self.scoring, self.X_val = scoring, X_val
        self.min_delta, self.patience = min_delta, patience

    def _new_fit(self) -> dict[str, Any]:
        self.scores_: list[float] = []
        return {"scores": self.scores_, "best": -np.inf, "n_worse": 0, "n_blocks": 0}

    def _look(self, fit: Any, task: str, density: Any, *data: Any) -> bool:
        from sklearn.metrics import check_scoring

        scorer = check_scoring(density, self.scoring)
        X, y, metadata = data
        if self.X_val is not None:
            X, y, metadata = self.X_val, None, None
        score = float(scorer(density, X, y, **metadata or {}))
        fit["scores"].append(score)
        n_blocks, before = density.n_blocks_, fit["n_blocks"]
        if task == "block" and n_blocks <= before:
            # All samples train the blocks that cross-validation decided on.
            fit.update(best=-np.inf, n_worse=0)
        fit["n_blocks"] = n_blocks
        if score > fit["best"] + self.min_delta:
            fit.update(best=score, n_worse=0)
            return False
        fit["n_worse"] += 1
        return fit["n_worse"] >= self.patience


class Snapshot(_OfBlocks):
    """Callback that keeps positions of samples, or own samples, after every block.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features) or None, default=None
        Samples whose latent positions are kept.

    n_samples : int or None, default=None
        Number of samples to draw from the density.

    random_state : int, default=0
        Of the samples: the same after every block.

    Attributes
    ----------
    n_blocks_ : list of int
        Numbers of blocks of the density at every snapshot of the latest fit in this
        process.

    positions_ : list of ndarray of shape (n_samples, n_features)
        Latent positions of `X`; empty without.

    samples_ : list of ndarray or DataFrame
        Samples; empty without `n_samples`.

    See Also
    --------
    EarlyStopping : End a fit by a score of your own.
    JKOFlowDensity.trajectory : Positions in a fitted density.

    Examples
    --------
    >>> from skjko import JKOFlowDensity
    >>> from skjko.callbacks import Snapshot
    >>> from skjko.datasets import moons
    >>> X = moons().sample(500, random_state=0)
    >>> snapshot = Snapshot(X[:20], n_samples=10)
    >>> density = JKOFlowDensity(
    ...     init="gaussian", max_blocks=2, max_iter=20, early_stopping=False,
    ...     random_state=0,
    ... ).set_callbacks(snapshot).fit(X)
    >>> snapshot.n_blocks_
    [1, 2]
    >>> snapshot.positions_[0].shape, snapshot.samples_[0].shape
    ((20, 2), (10, 2))
    """

    def __init__(
        self,
        X: ArrayLike | None = None,
        n_samples: int | None = None,
        random_state: int = 0,
    ) -> None:
        super().__init__()
        if X is None and n_samples is None:
            raise ValueError("Snapshot needs X, n_samples, or both. Got neither.")
        self.X, self.n_samples, self.random_state = X, n_samples, random_state

    def _new_fit(self) -> tuple[list[Any], ...]:
        self.n_blocks_: list[int] = []
        self.positions_: list[Any] = []
        self.samples_: list[Any] = []
        return self.n_blocks_, self.positions_, self.samples_

    def _look(self, fit: Any, task: str, density: Any, *data: Any) -> Literal[False]:
        n_blocks, positions, samples = fit
        n_blocks.append(density.n_blocks_)
        if self.X is not None:
            positions.append(density.transform(self.X))
        if self.n_samples is not None:
            samples.append(density.sample(self.n_samples, self.random_state))
        return False
