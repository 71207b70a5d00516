"""Attributes of a fitted estimator that has a flow, and their description."""

# SPDX-License-Identifier: BSD-3-Clause

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted

from skjko.components import VelocityField
from skjko.fitted import Fitted
from skjko.flow import devices
from skjko.flow.records import BlockRecord
from skjko.flow.step_selection import Discretization
from skjko.model import Model
from skjko.summary import summarize, to_html
from skjko.typing import Floats, State


class FittedFlow:
    """What a fit leaves on an estimator."""

    device: str
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
        return summarize(self)

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


def log_density(estimator: FittedFlow, X: NDArray[Any]) -> Floats:
    """Return log-densities of samples that are validated already, without warnings."""
    return estimator._scorer.log_density(X)


def _scores(first: float | None, records: list[BlockRecord]) -> Floats | None:
    """Mean validation log-density before any block and after every one."""
    if first is None:
        return None
    return np.array([first, *(r.validation_score for r in records)])
