"""Callbacks of a fit: those of scikit-learn, and some for densities.

Callbacks need scikit-learn 1.9 or later. See :mod:`sklearn.callback` for the protocol.
"""

# SPDX-License-Identifier: BSD-3-Clause

import copy
from typing import Any, Literal, Self

import numpy as np
import sklearn
from numpy.typing import ArrayLike
from sklearn.utils.validation import _num_samples

from skjko.fitted import Fitted
from skjko.flow.records import Round
from skjko.flow.run import Listener, mark_of_hook

_Mixin: Any
try:
    from sklearn.callback import CallbackSupportMixin as _Mixin
except ImportError:
    _Mixin = None

__all__ = ["EarlyStopping", "Snapshot"]

# Names of the tasks in the tree, by the kinds of the tasks of a fit.
_TASKS = {
    "mixture": "mixture",
    "pretrain": "pretraining",
    "grow": "block",
    "extend": "extend",
    "regularize": "regularize",
    "reparameterize": "reparameterize",
    "refine": "refine",
    "base": "base",
}


class CallbackSupport(_Mixin or object):
    """Callbacks of an estimator, where scikit-learn has them."""

    def set_callbacks(self, *callbacks: Any) -> Self:
        """Set the callbacks of the next fits.

        Parameters
        ----------
        *callbacks : callback instances
            Such as those of `sklearn.callback` and `skjko.callbacks`. None are set
            without arguments.

        Returns
        -------
        self : estimator
            The estimator itself.

        Raises
        ------
        ImportError
            If scikit-learn is older than 1.9.
        TypeError
            If one is no callback.

        See Also
        --------
        skjko.callbacks.EarlyStopping : End a fit by a score of your own.
        skjko.callbacks.Snapshot : Keep positions and samples after every block.

        Notes
        -----
        The tasks are "fit"; in it "mixture", "pretraining" and "base" of the selection,
        and one for every block that is trained: "block", or the round that trains it
        again; in these "iterations", up to the next evaluation on the validation
        samples. A callback that returns True at the end of "iterations" ends the
        training of the block, which keeps its best weights so far. One that does at the
        end of a block ends the fit with the blocks that are there.
        """
        if _Mixin is None:
            raise ImportError(
                "Callbacks need scikit-learn 1.9 or later. This is scikit-learn "
                f"{sklearn.__version__}. Install with: pip install 'scikit-learn>=1.9'"
            )
        return super().set_callbacks(*callbacks)

    def _watchers(self, X, y, sample_weight, finish):
        """Listeners that call the callbacks, if there are any.

        Parameters
        ----------
        X, y, sample_weight
            As given to `fit`.
        finish : callable
            `(estimator, fitted, points)` sets the fitted attributes of an estimator.
        """
        if not getattr(self, "_skl_callbacks", None):
            return []

        def attributes(fitted, points):
            estimator = copy.copy(self)
            finish(estimator, fitted, points)
            own = vars(self)
            return {
                k: v for k, v in vars(estimator).items() if own.get(k, own) is not v
            }

        context = self._init_callback_context(max_subtasks=None)
        # Monitors score only where there is a target.
        n_samples = _num_samples(X)
        given = {
            "estimator": self,
            "X": X,
            "y": (lambda: np.zeros(n_samples)) if y is None else y,
            "metadata": None,
        }
        if sample_weight is not None:
            given["metadata"] = lambda: {"sample_weight": np.array(sample_weight)}
        return [Watcher(context, given, attributes)]


class Watcher(Listener):
    """Calls the callbacks of an estimator.

    Parameters
    ----------
    context : CallbackContext
        Of the fit.
    given : dict
        Arguments of all hooks.
    attributes : callable
        `(fitted, points)` returns the fitted attributes of an estimator.
    """

    def __init__(self, context, given, attributes):
        self._fit, self._given, self._attributes = context, given, attributes
        self._task = self._iterations = self._points = self._front = None
        self._n_left = 0
        self._begin(context)

    def on_begin(self, task):
        """Begin a task of the tree."""
        kind = task.info.get("kind")
        if kind not in _TASKS:
            return
        # An interrupted one did not end.
        self._end_task()
        self._n_left = task.info.get("n_parts", 0)
        self._task = self._fit.subcontext(_TASKS[kind], max_subtasks=self._n_left)
        self._begin(self._task)

    def on_event(self, event):
        """Begin or end a task; return whether a callback asks to stop."""
        kind, values = event.kind, event.values
        if kind == "split":
            self._points = values["points"]
        elif kind == "selected":
            self._front = values
        elif self._task is None:
            pass
        elif kind == "iterations" and self._n_left > 0:
            self._n_left -= 1
            self._iterations = self._task.subcontext(kind)
            self._begin(self._iterations)
        elif kind == "evaluation":
            return self._end_iterations()
        elif kind in ("kept", "dropped"):
            return self._end_task(self._so_far(values["blocks"], values["records"]))
        return None

    def on_end(self, task, result, seconds):
        """End a task that is no block's; what became of that comes as an event."""
        if "block" not in task.info and task.info.get("kind") in _TASKS:
            self._end_task()

    def end(self):
        """End the fit, whose estimator is fitted."""
        self._end_task()
        self._end(self._fit, {})

    def _so_far(self, blocks, records):
        """Return what yields the fitted attributes that some blocks would give."""
        if blocks is None:
            return None
        front = self._front
        before, scores = front["score"], []
        if before is not None:
            scores = [before, records[-1].validation_score]

        def attributes():
            fitted = Fitted(
                front["model"](blocks),
                front["start"],
                rounds=[Round("grow", records, 0, True, 0)],
                base_scores=scores,
                candidates=front["candidates"],
            )
            return self._attributes(fitted, self._points())

        return attributes

    def _begin(self, context):
        self._call(context.call_on_fit_task_begin)

    def _end_iterations(self):
        context, self._iterations = self._iterations, None
        return context is not None and self._end(context)

    def _end_task(self, attributes=None):
        self._end_iterations()
        context, self._task = self._task, None
        return context is not None and self._end(context, attributes)

    def _end(self, context, attributes=None):
        hook = context.call_on_fit_task_end
        return self._call(hook, reconstruction_attributes=attributes)

    def _call(self, hook, **more):
        try:
            return hook(**self._given, **more)
        except Exception as error:
            mark_of_hook(error)
            raise


class _OfBlocks:
    """A callback that is called with the density after every block.

    One instance may serve several fits at once, as those of a grid search.
    """

    def __init__(self):
        self._fits = {}

    def __getstate__(self):
        # Fits that are under way belong to their process.
        return {**self.__dict__, "_fits": {}}

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

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
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
        return self._look(fit, context.task_name, X, y, metadata, fitted_estimator)


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

    def _new_fit(self):
        self.scores_: list[float] = []
        return {"scores": self.scores_, "best": -np.inf, "n_worse": 0, "n_blocks": 0}

    def _look(self, fit, task, X, y, metadata, density):
        from sklearn.metrics import check_scoring

        scorer, metadata = check_scoring(density, self.scoring), metadata or {}
        if self.X_val is not None:
            X, y, metadata = self.X_val, None, {}
        score = float(scorer(density, X, y, **metadata))
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

    def _new_fit(self):
        self.n_blocks_: list[int] = []
        self.positions_: list[Any] = []
        self.samples_: list[Any] = []
        return self.n_blocks_, self.positions_, self.samples_

    def _look(self, fit, task, X, y, metadata, density) -> Literal[False]:
        n_blocks, positions, samples = fit
        n_blocks.append(density.n_blocks_)
        if self.X is not None:
            positions.append(density.transform(self.X))
        if self.n_samples is not None:
            samples.append(density.sample(self.n_samples, self.random_state))
        return False
