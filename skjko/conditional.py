"""The conditional density: scikit-learn's contract of a regressor around a flow."""

# SPDX-License-Identifier: BSD-3-Clause

from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight

from skjko import config
from skjko.components import JKOSchedule, RungeKutta, VelocityField
from skjko.condition import Condition
from skjko.conditional_methods import ConditionalMethods
from skjko.data import repeats
from skjko.data.frames import Table, check_values
from skjko.fitted_flow import fit_given
from skjko.flow import group, threads
from skjko.flow.run import Clock
from skjko.io.persistence import Saved
from skjko.listeners import of_fit
from skjko.support import Support
from skjko.transforms.base import Chain, Transform
from skjko.transforms.discrete import DiscreteGrid
from skjko.transforms.location_scale import LocationScale
from skjko.typing import Floats, PerFeature, Seed, typed


class JKOFlowConditionalDensity(
    ConditionalMethods, RegressorMixin, Saved, BaseEstimator
):
    """Conditional density p(y | x): regression that tells its uncertainty (JKO-iFlow).

    A regression tells the location of y and another one its scale, both as functions of
    x. What they leave, residuals about zero, gets a density of any form: a flow of
    blocks trained one by one [1]_, on which x acts as the context of every velocity
    field. Validation decides for how long a block trains and how many are kept: without
    any, the density is that of a location and a scale, with residuals of a common
    distribution.

    Parameters
    ----------
    regressor : "auto", None or regressor, default="auto"
        What predicts the location of y. "auto" is a weighted sum of a ridge regression,
        boosted trees and a Gaussian process, with weights by cross-validation. Any
        regressor of scikit-learn will do; it is fitted for each column of y to centred
        and scaled values, behind the `bounds`, on features as numbers in data units,
        categories one-hot. None is for none, and a constant scale: the flow has to
        learn everything. The flow is trained on predictions out of folds.

    init : {"auto", "gaussian", "mixture"}, default="auto"
        What stands in front of the blocks, of residuals. "gaussian" is whitening alone,
        "mixture" a mixture of Gaussians as an invertible map. "auto" tries both.

    transforms : "auto", None or list of Transform, default="auto"
        What stands in front of the whitening of residuals; as in `JKOFlowDensity`.

    field : VelocityField or None, default=None
        Velocity field of every block; its `build` has to take `n_context`. None is
        `MLPField()`.

    schedule : JKOSchedule or None, default=None
        Step sizes of the blocks, and rounds of training. None is `JKOSchedule()`.

    solver : RungeKutta or None, default=None
        ODE solver and divergence of the training. None is `RungeKutta()`.

    max_blocks : int, default=4
        Largest number of blocks, the free block included. With 0 the density is one of
        a location and a scale.

    max_iter : int or "auto", default="auto"
        Largest number of minibatch iterations of every block. "auto" is 200 below 2000
        samples and 500 from there on.

    batch_size : int or "auto", default="auto"
        Samples in a minibatch. "auto" is a 16th of the samples, from 128 to some
        hundreds.

    learning_rate_init : float, default=0.01
        Peak learning rate; within a block it warms up and falls to zero.

    alpha : float, default=0.0
        Decoupled weight decay of all matrices. Where a block overfits, at least 0.5 is
        tried as well, in a free block in place of all.

    early_stopping : bool, default=True
        Whether validation decides on transforms, iterations and blocks. If False, all
        samples train `max_blocks` blocks of `max_iter` iterations each.

    validation_fraction : float, default=0.1
        Share of the samples for validation (at most 5000). Below 1000 samples 3-fold
        cross-validation decides instead. Not used when `X_val` is given to `fit`.

    time_limit : float or None, default=None
        Seconds that `fit` may take, about; None for no limit. With a limit, the same
        seed no longer means the same model. The regressions are not cut short.

    bounds : pair, array-like of pairs, dict or None, default=None
        Bounds (lower, upper) of y, with None for no bound: (0, None) is for positive
        targets. For several columns a pair or None for each, or a dict of some.

    discrete : "auto", float, array-like, dict or None, default="auto"
        Distance between the values of y, 0 or None if they are continuous; for several
        columns one for each, or a dict of some. "auto" finds columns whose values are
        evenly spaced and come at least twice on average, and those of an integer type.

    random_state : int, RandomState instance or None, default=None
        Folds, splits, starting weights, minibatches, and dequantization. Pass an int
        for a reproducible model.

    verbose : bool, default=False
        Whether to print a line for every block.

    device : str, default="auto"
        Torch device for training (in float32); "auto" is "cuda" or "mps" where there is
        one, else "cpu". A fitted model is on the CPU.

    Attributes
    ----------
    n_blocks_ : int
        Number of blocks.

    condition_ : Condition
        The regressions of `locations` and `scales`, one for every column of y.

    transforms_ : Chain
        Fitted transforms in front of the blocks: bounds, location and scale, and what
        follows.

    base_ : MixtureMap or None
        The mixture behind the blocks; None if the base is standard normal.

    flow_ : Flow
        The blocks, in float64 on the CPU.

    field_ : VelocityField
        The velocity field, with concrete values in place of "auto".

    support_ : Support
        The `grid` of discrete columns of y, and `lower` and `upper` bounds.

    selection_ : list of Bunch
        Candidates for what stands in front of the blocks; as in `JKOFlowDensity`.

    step_sizes_ : ndarray of shape (n_blocks_,)
        JKO step size of every block; infinite for a free one.

    movements_ : ndarray of shape (n_blocks_,)
        Root mean squared displacement of the training samples by every block.

    validation_scores_ : ndarray or None
        Mean log-density of the validation samples, in nats and units of y: before any
        block, after every block, and with the base if it is a mixture. None without
        early stopping.

    n_iter_ : int
        Number of iterations of all blocks in all rounds, at least 1.

    n_iter_per_block_ : ndarray of shape (n_blocks_,)
        The same for every block, in its last round.

    loss_curve_ : list of float
        JKO objective of every iteration.

    history_ : list of Bunch
        One for every round of training; as in `JKOFlowDensity`.

    n_ode_steps_ : ndarray of shape (n_blocks_,)
        Solver steps of every block in scoring.

    solver_errors_ : ndarray of shape (n_blocks_, 2)
        Mean and 99th percentile, in nats, of what a finer grid changes in every block.

    n_outputs_ : int
        Number of columns of y.

    n_features_in_ : int
        Number of features seen during fit.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of features seen during fit, when all of them are strings.

    See Also
    --------
    JKOFlowDensity : Density of one table.
    sklearn.linear_model.QuantileRegressor : Linear regression of one quantile.
    sklearn.ensemble.HistGradientBoostingRegressor : Boosted trees, of a mean or of one
        quantile.

    Notes
    -----
    `score` is the mean log-density, not R^2: higher is better, and it has units of y.
    A scaler in front of X is harmless and not needed. Behind
    `TransformedTargetRegressor` predictions are in units of y, but a log-density is not
    corrected for the transformation: use `bounds` in its place.

    References
    ----------
    .. [1] C. Xu, X. Cheng, Y. Xie, "Normalizing flow neural networks by JKO scheme",
       NeurIPS 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from skjko import JKOFlowConditionalDensity
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-1, 1, size=(300, 1))
    >>> y = 3 * X[:, 0] + np.exp(X[:, 0]) * rng.normal(size=300)
    >>> model = JKOFlowConditionalDensity(max_blocks=0, random_state=0).fit(X, y)
    >>> low, high = model.predict_interval([[-0.9], [0.9]], coverage=0.9).T
    >>> bool(high[1] - low[1] > 2 * (high[0] - low[0]))
    True
    >>> model.score_samples(X, y).shape
    (300,)
    >>> model.sample(X[:2], n_samples=5, random_state=0).shape
    (2, 5)
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        "regressor": [StrOptions({"auto"}), None, HasMethods(["fit", "predict"])],
        **config.CONSTRAINTS,
        "discrete": [
            *config.CONSTRAINTS["discrete"],
            Interval(Real, 0, None, closed="left"),
        ],
    }

    def __init__(
        self,
        *,
        regressor: Any = "auto",
        init: Literal["auto", "gaussian", "mixture"] = "auto",
        transforms: Literal["auto"] | Sequence[Transform] | None = "auto",
        field: VelocityField | None = None,
        schedule: JKOSchedule | None = None,
        solver: RungeKutta | None = None,
        max_blocks: int = 4,
        max_iter: int | Literal["auto"] = "auto",
        batch_size: int | Literal["auto"] = "auto",
        learning_rate_init: float = 0.01,
        alpha: float = 0.0,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        time_limit: float | None = None,
        bounds: PerFeature | None = None,
        discrete: PerFeature | Literal["auto"] | float | None = "auto",
        random_state: Seed = None,
        verbose: bool | int = False,
        device: str = "auto",
    ) -> None:
        self.regressor = regressor
        self.init = init
        self.transforms = transforms
        self.field = field
        self.schedule = schedule
        self.solver = solver
        self.max_blocks = max_blocks
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.alpha = alpha
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.time_limit = time_limit
        self.bounds = bounds
        self.discrete = discrete
        self.random_state = random_state
        self.verbose = verbose
        self.device = device

    def __sklearn_tags__(self):
        """Return the estimator's tags: several targets, and a score that is no R^2."""
        tags = super().__sklearn_tags__()
        tags.target_tags.single_output = True
        tags.target_tags.multi_output = True
        tags.regressor_tags.poor_score = True
        tags.input_tags.allow_nan = True
        return tags

    @typed(_fit_context(prefer_skip_nested_validation=False))
    @torch.inference_mode(False)
    @torch.enable_grad()
    @threads.isolated()
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Fit the conditional density to samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            What y depends on. Columns of a data frame that hold categories or text are
            one-hot encoded. Numbers may be missing (NaN): what is missing is one more
            feature.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Numbers, in any units.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights. A sample of weight 0 is as good as absent. Samples
            that are equal are one, with their summed weight.
        X_val : array-like of shape (n_val_samples, n_features), default=None
            Validation samples in place of a random part of `X`: for time series.
        y_val : array-like of shape (n_val_samples,) or (n_val_samples, n_outputs)
            Of the validation samples; goes with `X_val`.
        groups : array-like of shape (n_samples,), default=None
            Labels of samples that belong together, such as those of one patient: they
            stay on one side of every split. Not together with `X_val`.

        Returns
        -------
        self : JKOFlowConditionalDensity
            The fitted estimator.

        Raises
        ------
        ValueError
            If `y` holds NaN, text or values outside of the bounds, `X` holds infinity,
            lengths differ, or a parameter is invalid.
        """
        clock = Clock(group.current())
        listeners: list = of_fit(self, clock)
        config.check_transforms(self)
        owner = type(self).__name__
        if y is None:
            raise ValueError(
                f"{owner} requires y to be passed, but the target y is None."
            )
        X, frame = self._features(X, ensure_min_samples=2, reset=True), X
        check_values(X, owner, table=frame)
        Y, table = self._targets(y, X, reset=True)
        x_table = Table.of(frame, self._categories)
        bounds, discrete = self._parsed()
        support = Support.learn(Y, table, bounds, discrete, owner)
        support.check(Y, table, "y")
        validation = self._validation_data(X_val, y_val, support, table)
        weight, groups = self._weights(X, sample_weight, validation, groups)
        rows = np.hstack([Y, np.asarray(X, dtype=np.float64)])
        rows, weight, groups = repeats.weighted(rows, weight, groups, owner)
        d = Y.shape[1]
        coded = self._categories.columns
        is_missing = np.ones(X.shape[1] - self.n_features_in_, dtype=bool)
        is_integer = np.r_[x_table.is_integer, is_missing]
        is_continuous = _continuous(X, is_integer, list(coded))

        def is_tied(rows):
            return support.is_tied(rows[:, :d]) & (not is_continuous.any())

        rows, weight, groups = repeats.distinct(
            rows, weight, groups, np.r_[support.grid.step == 0, is_continuous], is_tied
        )
        # Copies and weights that mean the same are the same to the last bit.
        weight = weight / weight.max()
        X, Y = rows[:, d:], rows[:, :d]
        rng = np.random.RandomState(self._seed())
        mapped = Chain(support.maps).forward(support.atoms.open(Y))[0]
        centre, width = _scales(mapped, weight)
        counts = np.array(
            [len(coded[j].values) if j in coded else 0 for j in range(X.shape[1])]
        )
        condition = Condition(self.regressor)
        T = (mapped - centre) / width
        C = condition.fit(X, T, weight, groups, counts, rng)
        rows, rows_val = np.hstack([Y, C]), None
        if validation is not None:
            X_val, Y_val = validation
            rows_val = np.hstack([Y_val, condition.columns(X_val)])
        first = LocationScale(centre, width, C.shape[1])
        seed = rng.randint(2**31 - 1)
        fit_given(
            self, self, rows, weight, rows_val, groups, support, first, seed,
            listeners, clock,
        )  # fmt: skip
        self._table, self.condition_ = table, condition
        self._complete(support, C[:1])
        return self

    def _seed(self) -> int:
        """Seed of all of a fit's random numbers."""
        return check_random_state(self.random_state).randint(2**31 - 1)

    def _parsed(self) -> tuple[Any, Any]:
        """Bounds and steps in the form that several columns have."""
        bounds: Any = self.bounds
        discrete: Any = self.discrete
        is_pair = not (bounds is None or isinstance(bounds, dict)) and len(bounds) == 2
        if is_pair and all(b is None or isinstance(b, Real) for b in bounds):
            bounds = [tuple(bounds)] * self.n_outputs_
        if isinstance(discrete, Real):
            discrete = [discrete] * self.n_outputs_
        return bounds, discrete

    def _validation_data(
        self, X_val: Any, y_val: Any, support: Support, table: Table
    ) -> tuple[NDArray[Any], Floats] | None:
        """Checked validation samples, or None."""
        owner = type(self).__name__
        if X_val is None and y_val is None:
            return None
        if X_val is None or y_val is None:
            given, other = ("X_val", "y_val") if y_val is None else ("y_val", "X_val")
            raise ValueError(
                f"{owner}.fit got {given} without {other}. Pass both, or neither."
            )
        if not self.early_stopping:
            raise ValueError(
                f"X_val is of no use to {owner} with early_stopping=False. Leave it "
                "out, or set early_stopping=True."
            )
        X_val, frame = self._features(X_val, "X_val"), X_val
        check_values(X_val, owner, "X_val", frame)
        Y_val, _ = self._targets(y_val, X_val, name="y_val")
        support.check(Y_val, table, "y_val")
        return X_val, Y_val

    def _weights(
        self, X: NDArray[Any], sample_weight: Any, validation: Any, groups: Any
    ) -> tuple[Floats, NDArray[np.int_] | None]:
        """Checked weights and groups."""
        owner = type(self).__name__
        if groups is not None:
            if not self.early_stopping:
                raise ValueError(
                    f"groups is of no use to {owner} with early_stopping=False. Leave "
                    "it out, or set early_stopping=True."
                )
            if validation is not None:
                raise ValueError(f"{owner}.fit takes X_val or groups, not both.")
            groups = repeats.check_groups(groups, X, owner)
        weight = _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True
        )
        return weight, groups


def _continuous(
    X: NDArray[Any], is_integer: NDArray[np.bool_], coded: list[int]
) -> NDArray[np.bool_]:
    """Whether features have no ties but those of copies."""
    none = np.zeros(X.shape[1], dtype=bool)
    is_continuous = DiscreteGrid.detect(X, is_integer, none).step == 0
    is_continuous[coded] = False
    return is_continuous


def _scales(Y: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Weighted means and standard deviations, 1 for constant columns."""
    w, size = weight / weight.sum(), np.abs(Y).max(axis=0)
    size[size == 0] = 1.0
    # Of numbers of about 1, whose squares cannot overflow.
    small = Y / size
    mean = w @ small
    width = np.sqrt(w @ (small - mean) ** 2)
    width = np.where(width > 1e-12, width * size, 1.0)
    return mean * size, width
