"""The classifier: Bayes' rule on class-conditional densities that share one flow."""

# SPDX-License-Identifier: BSD-3-Clause

from numbers import Real
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
from sklearn.utils._param_validation import Interval
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight

from skjko.base import new_estimator, started
from skjko.classifier_methods import ClassifierMethods
from skjko.data import repeats
from skjko.data.frames import Table, check_values
from skjko.density import JKOFlowDensity
from skjko.fitted_flow import fit_given
from skjko.flow import group, threads
from skjko.flow.run import Clock
from skjko.io.persistence import Saved
from skjko.listeners import of_fit
from skjko.support import Support
from skjko.transforms.base import Chain, is_array
from skjko.transforms.class_location_scale import ClassLocationScale
from skjko.typing import Floats, Seed, State, typed

# Temperatures are sought from 1 to this, on a logarithmic scale.
_LOWEST = -6.0


class JKOFlowClassifier(ClassifierMethods, ClassifierMixin, Saved, BaseEstimator):
    """Classification by the density of every class, which can say "none of these".

    A Gaussian for every class, with a covariance shrunk towards that of all [1]_, is
    where the densities start. One flow of blocks, with the class as the context of its
    velocity fields, takes up what they miss; validation decides how many blocks are
    kept. Bayes' rule turns densities and priors into probabilities, which samples set
    aside calibrate. Their densities also tell which samples are like none of the data.

    Parameters
    ----------
    density : JKOFlowDensity or None, default=None
        Its parameters are those of the densities; None is `JKOFlowDensity()`. Its
        `random_state`, `warm_start` and `checkpoint` have no effect.

    priors : array-like of shape (n_classes,) or None, default=None
        Probabilities of the classes, in the order of `classes_`. None is for their
        shares of the samples given to `fit`.

    calibration_fraction : float, default=0.2
        Share of the samples of every class that do not train: for the temperature and
        for p-values. 0 keeps none: probabilities are those of Bayes' rule, and there
        are no p-values.

    random_state : int, RandomState instance or None, default=None
        Calibration samples, splits, starting weights and minibatches. Pass an int for
        a reproducible model.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels of the classes, sorted.

    priors_ : ndarray of shape (n_classes,)
        Their probabilities.

    temperature_ : float
        What log-density ratios are divided by, at least 1; see Notes.

    calibration_scores_ : ndarray of shape (n_calibration,) or None
        Sorted marginal log-densities of the samples that did not train.

    n_blocks_ : int
        Number of blocks.

    transforms_ : Chain
        Fitted transforms in front of the blocks; the first of them is that of the
        classes.

    base_ : MixtureMap or None
        The mixture behind the blocks; None if the base is standard normal.

    flow_ : Flow
        The blocks, in float64 on the CPU.

    field_ : VelocityField
        The velocity field, with concrete values in place of "auto".

    support_ : Support
        The `grid` of discrete features, and `lower` and `upper` bounds.

    selection_ : list of Bunch
        Candidates for what stands in front of the blocks; as in `JKOFlowDensity`.

    step_sizes_ : ndarray of shape (n_blocks_,)
        JKO step size of every block; infinite for a free one.

    movements_ : ndarray of shape (n_blocks_,)
        Root mean squared displacement of the training samples by every block.

    validation_scores_ : ndarray or None
        Mean of log p(x | class) of the validation samples in nats: before any block,
        after every block, and with the base if it is a mixture. None without early
        stopping.

    n_iter_per_block_ : ndarray of shape (n_blocks_,)
        Number of iterations of every block, in its last round.

    loss_curve_ : list of float
        JKO objective of every iteration.

    history_ : list of Bunch
        One for every round of training; as in `JKOFlowDensity`.

    n_ode_steps_ : ndarray of shape (n_blocks_,)
        Solver steps of every block in scoring.

    solver_errors_ : ndarray of shape (n_blocks_, 2)
        Mean and 99th percentile, in nats, of what a finer grid changes in every block.

    n_iter_ : int
        Number of iterations of all blocks in all rounds, at least 1.

    n_features_in_ : int
        Number of features seen during fit.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of features seen during fit, when all of them are strings.

    See Also
    --------
    JKOFlowOutlierDetector : Rejection without classes.
    sklearn.discriminant_analysis.QuadraticDiscriminantAnalysis : Gaussian classes.

    Notes
    -----
    Densities of many features are too sure of themselves: errors that features have in
    common count as often as there are features. Dividing the logarithms of the ratios
    by a temperature leaves the most likely class as it is. The temperature is the one
    under which the calibration samples are most likely, and never less than 1.

    References
    ----------
    .. [1] J. H. Friedman, "Regularized discriminant analysis", Journal of the American
       Statistical Association 84 (1989).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skjko import JKOFlowClassifier, JKOFlowDensity
    >>> X, y = load_iris(return_X_y=True)
    >>> density = JKOFlowDensity(max_blocks=0, init="gaussian")
    >>> model = JKOFlowClassifier(density, random_state=0).fit(X, y)
    >>> bool(model.score(X, y) > 0.95)
    True
    >>> model.predict([[5.0, 3.4, 1.5, 0.2], [9.0, 9.0, 9.0, 9.0]], reject=0.05)
    array([0, None], dtype=object)
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        "density": [None, JKOFlowDensity],
        "priors": [None, "array-like"],
        "calibration_fraction": [Interval(Real, 0, 1, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        density: JKOFlowDensity | None = None,
        *,
        priors: ArrayLike | None = None,
        calibration_fraction: float = 0.2,
        random_state: Seed = None,
    ) -> None:
        self.density = density
        self.priors = priors
        self.calibration_fraction = calibration_fraction
        self.random_state = random_state

    @typed(_fit_context(prefer_skip_nested_validation=False))
    @torch.inference_mode(False)
    @torch.enable_grad()
    @threads.isolated()
    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Fit the densities of the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The data, in any units.
        y : array-like of shape (n_samples,)
            Labels of the classes: numbers or strings.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights. A sample of weight 0 is as good as absent. Samples
            that are equal are one, with their summed weight.

        Returns
        -------
        self : JKOFlowClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data hold NaN, infinity or values outside of the bounds, `y` is
            missing or no label of a class, or a parameter is invalid.
        """
        density, clock = self.density or JKOFlowDensity(), Clock(group.current())
        listeners = of_fit(density, clock)
        owner = type(self).__name__
        X, frame = self._checked(X, ensure_min_samples=2, reset=True), X
        check_values(X, owner, table=frame)
        codes = self._coded(y, X)
        table = Table.of(frame, self._categories)
        support = Support.learn(X, table, density.bounds, density.discrete, owner)
        support.check(X, table)
        weight = _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True
        )
        k, d = len(self.classes_), X.shape[1]
        rows = np.hstack([np.asarray(X, dtype=np.float64), np.eye(k)[codes]])
        rows, weight, _ = repeats.weighted(rows, weight, None, owner)
        is_continuous = np.r_[support.grid.step == 0, np.zeros(k, dtype=bool)]
        rows, weight, groups = repeats.distinct(
            rows, weight, None, is_continuous, lambda rows: support.is_tied(rows[:, :d])
        )
        weight = weight / weight.max()
        self.priors_ = self._checked_priors(weight @ rows[:, d:])
        rng = np.random.RandomState(
            check_random_state(self.random_state).randint(2**31 - 1)
        )
        codes = rows[:, d:].argmax(axis=1)
        train, rest = self._split(codes, groups, rng)
        mapped = Chain(support.maps).forward(support.atoms.open(rows[train, :d]))[0]
        first = ClassLocationScale.chosen(mapped, codes[train], weight[train], k, rng)
        fit_given(
            self,
            density,
            rows[train],
            weight[train],
            None,
            None if groups is None else groups[train],
            support,
            first,
            rng.randint(2**31 - 1),
            listeners,
            clock,
        )
        self._table, self._device = table, density.device
        self.support_ = support
        self._calibrate(rows[rest, :d], codes[rest], weight[rest])
        return self

    def _coded(self, y: Any, X: NDArray[Any]) -> NDArray[np.int_]:
        """Number of the class of every sample; set `classes_`."""
        owner = type(self).__name__
        if y is None:
            raise ValueError(
                f"{owner} requires y to be passed, but the target y is None."
            )
        y = column_or_1d(y, warn=True)
        check_consistent_length(X, y)
        if y.dtype.kind == "O":
            missing = [i for i, one in enumerate(y) if one is None or one != one]
            if missing:
                raise ValueError(
                    f"y has no label in row {missing[0]}. Drop the rows without one."
                )
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        return codes

    def _checked_priors(self, masses: Floats) -> Floats:
        """Probabilities of the classes; those without a sample have none."""
        if self.priors is None:
            return masses / masses.sum()
        priors = np.asarray(self.priors, dtype=np.float64)
        if (
            priors.shape != masses.shape
            or not (priors >= 0).all()
            or not np.isclose(priors.sum(), 1)
        ):
            raise ValueError(
                f"The 'priors' parameter of {type(self).__name__} must be "
                f"{len(masses)} numbers that are not negative and sum to 1, one for "
                f"each class. Got {self.priors!r} instead."
            )
        return priors

    def _split(
        self,
        codes: NDArray[np.int_],
        groups: NDArray[np.int_] | None,
        rng: np.random.RandomState,
    ) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
        """Numbers of the samples that train, and of those that calibrate."""
        is_kept = np.zeros(len(codes), dtype=bool)
        for k in np.unique(codes):
            own = rng.permutation(np.flatnonzero(codes == k))
            is_kept[own[: int(self.calibration_fraction * len(own))]] = True
        if groups is not None:
            # A group with one sample for training trains.
            is_kept &= ~np.isin(groups, groups[~is_kept])
        return np.flatnonzero(~is_kept), np.flatnonzero(is_kept)

    def _calibrate(self, X: Floats, codes: NDArray[np.int_], weight: Floats) -> None:
        """Set the temperature and the scores of the calibration samples."""
        self.temperature_, self.calibration_scores_ = 1.0, None
        if not len(X):
            return
        joint = self._joint(X)
        self.calibration_scores_ = np.sort(logsumexp(joint, axis=1))
        weight = weight * len(weight) / weight.sum()
        possible = self.priors_[codes] > 0

        def loss(log_scale: float) -> float:
            scaled = log_softmax(np.exp(log_scale) * joint[possible], axis=1)
            at_class = scaled[np.arange(len(scaled)), codes[possible]]
            # Few samples leave the temperature near 1.
            return -weight[possible] @ at_class + 0.5 * log_scale**2

        best = minimize_scalar(loss, bounds=(_LOWEST, 0.0), method="bounded")
        if best.fun < loss(0.0):
            self.temperature_ = float(np.exp(-best.x))

    # ------------------------------------------------------------------ files

    @classmethod
    def _classes(cls) -> dict[str, type]:
        return {**super()._classes(), "JKOFlowDensity": JKOFlowDensity}

    def get_state(self) -> State:
        """Return everything that is saved of the fitted estimator.

        Returns
        -------
        state : dict
            Of plain values, arrays and objects that have a state themselves.
        """
        priors, density = self.priors, self.density
        return {
            **self._state_of_fit(),
            "params": {
                **self.get_params(deep=False),
                "density": None,
                "priors": None if priors is None else np.asarray(priors, float),
            },
            "density": None if density is None else density.get_params(deep=False),
            "device": self._device,
            "table": self._table,
            "support": self.support_,
            "classes": self.classes_.tolist(),
            "class_type": self.classes_.dtype.str,
            "priors": self.priors_,
            "temperature": self.temperature_,
            "calibration_scores": self.calibration_scores_,
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
        estimator : JKOFlowClassifier
            As it was.

        Raises
        ------
        ValueError
            If no fit can have had this state.
        """
        params = dict(state["params"])
        if state["density"] is not None:
            params["density"] = new_estimator(JKOFlowDensity, state["density"])
        self = started(cls, {**state, "params": params})
        table, support, fitted = (state[n] for n in ("table", "support", "fitted"))
        classes = np.array(state["classes"], dtype=np.dtype(state["class_type"]))
        k, d, scores = len(classes), self.n_features_in_, state["calibration_scores"]
        if not (isinstance(table, Table) and isinstance(support, Support)):
            raise ValueError("the table or the support is missing")
        table.check(d, state["feature_names_in"])
        first = fitted.model.transforms.find(ClassLocationScale)
        if not (
            len(np.unique(classes)) == k
            and classes.dtype.kind in "iufbUO"
            and len(support.lower) == d
            and is_array(state["priors"], (k,))
            and (state["priors"] >= 0).all()
            and isinstance(state["temperature"], float)
            and state["temperature"] >= 1
            and (scores is None or is_array(scores, (None,)))
            and first is not None
            and first.n_context == k
        ):
            raise ValueError("the classes and their densities do not fit together")
        fitted.check(d + k)
        self.classes_, self.priors_ = classes, state["priors"]
        self.temperature_, self.calibration_scores_ = state["temperature"], scores
        self._table, self._device = table, state["device"]
        self._categories = table.categories
        self._restore(state, k)
        self.support_ = support
        return self
