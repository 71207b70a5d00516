"""Callbacks of an estimator, as a listener of its fit.

They are those of scikit-learn 1.9 and later: see :mod:`sklearn.callback`.
"""

# SPDX-License-Identifier: BSD-3-Clause

import copy
from contextlib import contextmanager, nullcontext
from typing import Any, Self

import numpy as np
import sklearn
from sklearn.utils.validation import _num_samples

from skjko.fitted import Fitted
from skjko.flow.records import Round
from skjko.flow.run import Listener, mark_of_hook

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:
    CallbackSupportMixin = None
_Base: Any = CallbackSupportMixin or object

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


class CallbackSupport(_Base):
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
        if CallbackSupportMixin is None:
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
        return [Watcher(context, _given(self, X, y, sample_weight), attributes)]

    @contextmanager
    def _around_fits(self, X, y, sample_weight, n_fits):
        """Fit an estimator that fits others; callbacks are propagated to those.

        Parameters
        ----------
        X, y, sample_weight
            As given to `fit`.
        n_fits : int
            Number of other fits, at most.

        Yields
        ------
        around : callable
            `(estimator)` returns a context in which an estimator is fitted.
        """
        if not getattr(self, "_skl_callbacks", None):
            yield nullcontext
            return
        context = self._init_callback_context(max_subtasks=n_fits)
        given = _given(self, X, y, sample_weight)
        context.call_on_fit_task_begin(**given)

        @contextmanager
        def around(estimator):
            task = context.subcontext("density")
            with task.propagate_callback_context(estimator):
                task.call_on_fit_task_begin(**given)
                yield
            task.call_on_fit_task_end(**given)

        yield around
        context.call_on_fit_task_end(**given, reconstruction_attributes={})


def _given(estimator, X, y, sample_weight):
    """Return the arguments of all hooks."""
    n_samples = _num_samples(X)
    given = {"estimator": estimator, "X": X}
    # Monitors score only where there is a target.
    given["y"] = (lambda: np.zeros(n_samples)) if y is None else y
    if sample_weight is not None:
        given["metadata"] = lambda: {"sample_weight": np.array(sample_weight)}
    return given


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
                front["divergence"],
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
