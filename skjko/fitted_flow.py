"""Attributes of a fitted estimator that has a flow, and their description."""

# SPDX-License-Identifier: BSD-3-Clause

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted

from skjko import config, fitting
from skjko.components import VelocityField
from skjko.data import repeats
from skjko.fitted import Fitted
from skjko.flow import devices, threads
from skjko.flow.blocks import Block
from skjko.flow.records import BlockRecord
from skjko.flow.run import Clock, Listener, Run
from skjko.flow.stack import Flow
from skjko.flow.step_selection import Discretization
from skjko.inputs import warn_user
from skjko.local_components import build_on_meta
from skjko.model import Model
from skjko.summary import fit_warnings, summarize, to_html
from skjko.support import Support
from skjko.typing import Floats, State


class FittedFlow:
    """What a fit leaves on an estimator."""

    device: str
    n_features_in_: int
    field_: VelocityField
    validation_scores_: Floats | None
    get_params: Callable[..., State]
    _model: Model

    @property
    def _scorer(self) -> Model:
        """The model where scores are computed."""
        return self._model.to(devices.for_scoring(self.device))

    def _record(self, fitted: Fitted, errors: list[Discretization]) -> None:
        """Set the fitted attributes."""
        model = fitted.model
        rounds = [r for r in fitted.rounds if r.accepted]
        records = rounds[-1].records if rounds else []
        trained = [record for r in rounds for record in r.records[r.n_kept :]]
        self._model, self._fitted = model, fitted
        self.support_, self.transforms_ = model.support, model.transforms
        self.flow_ = model.flow
        self.base_ = next(iter(model.base), None)
        self.n_blocks_ = len(model.flow)
        self.step_sizes_ = np.array([r.step_size for r in records])
        self.movements_ = np.array([r.displacement for r in records])
        self.n_iter_per_block_ = np.array([r.n_iter for r in records], dtype=int)
        self.n_iter_ = max(1, sum(r.n_iter for r in trained))
        self.loss_curve_ = [loss for r in trained for loss in r.losses]
        first = fitted.base_scores[0] if fitted.base_scores else None
        self.validation_scores_ = scores = _scores(first, records)
        if self.base_ is not None and scores is not None:
            self.validation_scores_ = np.append(scores, fitted.base_scores[1:])
        self.selection_ = [Bunch(**vars(record)) for record in fitted.candidates]
        self.history_ = [
            Bunch(
                round=r.kind,
                accepted=r.accepted,
                step_sizes=np.array([record.step_size for record in r.records]),
                movements=np.array([record.displacement for record in r.records]),
                validation_scores=_scores(first, r.records),
                n_iter_per_block=np.array([record.n_iter for record in r.records], int),
                losses=[np.array(record.losses) for record in r.records[r.n_kept :]],
                n_minibatches=r.n_minibatches,
            )
            for r in fitted.rounds
        ]
        self.n_ode_steps_ = np.array([b.n_steps for b in model.flow.blocks], int)
        self.solver_errors_ = np.array(errors, dtype=float).reshape(-1, 2)

    def _state_of_fit(self) -> State:
        """What states of fitted estimators have in common."""
        names = getattr(self, "feature_names_in_", None)
        return {
            "params": self.get_params(deep=False),
            "n_features_in": int(self.n_features_in_),
            "feature_names_in": None if names is None else [str(n) for n in names],
            "field": self.field_,
            "fitted": self._fitted,
            "blocks": [block.get_state() for block in self._model.flow.blocks],
            "errors": [list(pair) for pair in self.solver_errors_.tolist()],
        }

    def _restore(self, state: State, n_context: int = 0) -> None:
        """Set the fitted attributes by a state, whose fit is checked already."""
        fitted, blocks = state["fitted"], []
        if state["blocks"]:
            like = build_on_meta(state["field"], fitted.model.n_active, n_context)
            blocks = [Block.from_state(one, like) for one in state["blocks"]]
        fitted.check_blocks(blocks)
        fitted.model.flow = Flow(blocks).to(torch.float64).requires_grad_(False)
        errors = [Discretization(*map(float, pair)) for pair in state["errors"]]
        if len(errors) != len(blocks):
            raise ValueError("the errors of the solver are not those of the blocks")
        self.field_ = state["field"]
        self._record(fitted, errors)

    def summary(self) -> str:
        """Describe the fitted model in words.

        Returns
        -------
        summary : str
            What the density is and why: the transforms that were chosen, the mixture,
            and what each block moved and gained. Scores are mean log-densities of the
            validation samples in nats; higher is better.
        """
        check_is_fitted(self)
        return summarize(self, self._fitted.divergence)

    def _repr_html_inner(self) -> str:
        """HTML of the parameters, and of the fitted model if there is one."""
        return to_html(self, super()._repr_html_inner())  # type: ignore[misc]

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        """Text and HTML for notebooks."""
        bundle = super()._repr_mimebundle_(**kwargs)  # type: ignore[misc]
        if "text/html" in bundle:
            bundle["text/html"] = to_html(self, bundle["text/html"])
        return bundle


def record(estimator: FittedFlow, fitted: Fitted, errors: list[Discretization]) -> None:
    """Set the fitted attributes of an estimator."""
    estimator._record(fitted, errors)


def fit_given(
    estimator: FittedFlow,
    parameters: Any,
    rows: Floats,
    weight: Floats,
    rows_val: Floats | None,
    groups: NDArray[np.int_] | None,
    support: Support,
    first: Any,
    seed: int,
    listeners: list[Listener],
    clock: Clock,
) -> None:
    """Fit a density given a condition; set the fitted attributes, and warn.

    Parameters
    ----------
    estimator : FittedFlow
        What gets the attributes.
    parameters : JKOFlowDensity or JKOFlowConditionalDensity
        What has the parameters.
    rows : ndarray of shape (n, n_targets + n_context)
        Targets, and the columns of their condition.
    weight : ndarray of shape (n,)
    rows_val : ndarray of shape (n_val, n_targets + n_context) or None
    groups : ndarray of int of shape (n,) or None
    support : Support
        Of the targets.
    first : LocationScale or ClassLocationScale
        The transform of the targets given their condition.
    seed : int
    listeners : list of Listener
    clock : Clock
    """
    n, d = len(rows), rows.shape[1] - first.n_context
    n_effective = repeats.effective_number(weight, groups)
    fit_config, estimator.field_ = config.fit_config(
        parameters,
        n,
        n_effective,
        support.with_context(first.n_context),
        location_scale=first,
    )
    run, work = Run(seed, listeners, clock), config.work(fit_config, n, d)
    with threads.at_most(threads.useful(work)):
        fitted, points = fitting.fit(
            rows, weight, rows_val, groups, fit_config, run, seed
        )
        errors = fitting.choose_steps(fitted.model, points, rows, seed, fit_config.tol)
    # Folds are for fits that go on.
    estimator._record(replace(fitted, folds=[]), errors)
    for message in fit_warnings(fitted, errors, fit_config.tol, n, n_effective):
        warn_user(message, ConvergenceWarning)


def log_density(estimator: FittedFlow, X: NDArray[Any]) -> Floats:
    """Return log-densities of samples that are validated already, without warnings."""
    return estimator._scorer.log_density(X)


def draw(estimator: FittedFlow, n_samples: int, rng: np.random.RandomState) -> Floats:
    """Return samples of a fitted density as an array of numbers, not as a table."""
    rows = np.concatenate([r for _, r in estimator._scorer.sample(n_samples, rng)])
    support = estimator.support_
    return support.round(rows, support.lower, support.upper)


def _scores(first: float | None, records: list[BlockRecord]) -> Floats | None:
    """Mean validation log-density before any block and after every one."""
    if first is None:
        return None
    return np.array([first, *(r.validation_score for r in records)])
