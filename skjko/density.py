"""The density estimator: scikit-learn's contract around the flow."""

# SPDX-License-Identifier: BSD-3-Clause

import copy
import math
import os
from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, DensityMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import _check_sample_weight

from skjko import completion, config, fitting
from skjko.base import FlowEstimator
from skjko.callback_support import CallbackSupport
from skjko.components import JKOSchedule, RungeKutta, VelocityField
from skjko.data import chunks, repeats
from skjko.data.frames import Table, check_missing, check_values
from skjko.export.estimators import Exported, scorer
from skjko.fitted_flow import record
from skjko.flow import group, threads
from skjko.flow.run import Clock, Run
from skjko.inputs import warn_user
from skjko.io import checkpoint as checkpoints
from skjko.io.persistence import Saved
from skjko.listeners import of_fit
from skjko.missing import Proposal
from skjko.summary import fit_warnings
from skjko.support import Support
from skjko.transforms.base import Transform
from skjko.typing import PerFeature, Seed, typed

# Share of the time limit after which missing values are drawn for the last time before
# the training.
_COMPLETION_SHARE = 0.1


class JKOFlowDensity(
    FlowEstimator, DensityMixin, Saved, Exported, CallbackSupport, BaseEstimator
):
    """Density estimation with a normalizing flow trained block by block (JKO-iFlow).

    Invertible transforms carry the data to about unit scale; a stack of continuous-time
    residual blocks carries them on to a standard normal distribution. Each block is one
    step of the Jordan-Kinderlehrer-Otto scheme and is trained alone, on samples pushed
    through the blocks before it [1]_. Validation decides what stands in front of the
    blocks, for how long a block trains and how many blocks are kept: on the validation
    samples the density is never worse than without blocks.

    Features may have any scale: whitening is part of the model, and scores are in the
    units of the data.

    Parameters
    ----------
    init : {"auto", "gaussian", "mixture"}, default="auto"
        What stands in front of the blocks. "gaussian" is whitening alone: the density
        is that of the flow. "mixture" is a mixture of Gaussians as an invertible map,
        by Rosenblatt's transformation [2]_. "auto" trains both for some time, goes on
        with the mixture if validation prefers it beyond noise, and may fit a
        mixture as the base distribution behind the last block.

    transforms : "auto", None or list of Transform, default="auto"
        What stands in front of the whitening. "auto" tries single features drawn in
        (`Asinh`) or made normal (`MarginalMixtures`) and, with mixtures, long samples
        drawn in (`Radial`); None is nothing. See `skjko.transforms`.

    field : VelocityField or None, default=None
        Velocity field of every block. None is `MLPField()`.

    schedule : JKOSchedule or None, default=None
        Step sizes of the blocks, and rounds of training. None is `JKOSchedule()`.

    solver : RungeKutta or None, default=None
        ODE solver and divergence of the training. None is `RungeKutta()`.

    max_blocks : int, default=4
        Largest number of blocks, the free block included.

    max_iter : int or "auto", default="auto"
        Largest number of minibatch iterations of every block. "auto" is 200 below 2000
        samples and 500 from there on; with a `time_limit` at least 25 epochs there.

    batch_size : int or "auto", default="auto"
        Samples in a minibatch. "auto" is a 16th of the samples, at least 128 and at
        most 1000; for more than three features at most 500, or a 150th of the samples
        if these are more, up to 2000.

    learning_rate_init : float, default=0.01
        Peak learning rate of AdamW; within a block it warms up and falls to zero. The
        matrices between hidden layers are trained by Muon, at ten times this rate, from
        1000 samples on.

    alpha : float, default=0.0
        Decoupled weight decay of all matrices. Where a block overfits, at least 0.5 is
        tried as well, with twice the learning rate, in a free block in place of all.

    early_stopping : bool, default=True
        Whether validation decides on transforms, iterations and blocks. If False, all
        samples train `max_blocks` blocks of `max_iter` iterations each.

    validation_fraction : float, default=0.1
        Share of the samples for validation (at most 5000). Below 1000 samples 3-fold
        cross-validation decides instead, and all samples train the model in the end.
        Not used when `X_val` is given to `fit`.

    time_limit : float or None, default=None
        Seconds that `fit` may take, about; None for no limit. With a limit, the same
        seed no longer means the same model.

    bounds : array-like of pairs, dict or None, default=None
        For every feature a pair (lower, upper), with None for no bound, or None for
        neither; a dict has them for some features, by label or number. Density and
        samples are inside of the bounds, by a logarithm or logit whose derivative is
        part of the score. Only values of discrete features can reach them.

    discrete : "auto", array-like, dict, list of str or None, default="auto"
        For every feature the distance between its values, 0 or None if it is
        continuous; a dict has it for some, by label or number; a list of names alone
        has it found from their values. None is for no feature. "auto" finds features
        whose values are evenly spaced and come at least twice on average, and those of
        an integer or boolean type with at most 1000 steps between their ends; and
        atoms, single values of continuous features that at least 5 % of the samples
        have, such as a zero: they have a probability of their own.

    random_state : int, RandomState instance or None, default=None
        Splits, starting weights, minibatches, and dequantization. Pass an int for a
        reproducible model.

    warm_start : bool, default=False
        Whether `fit` goes on from the fit before it, on the same samples, with larger
        `max_blocks` or more rounds in `schedule`, instead of starting again. Transforms
        and field cannot change.

    verbose : bool, default=False
        Whether to print what selection chose, and a table with a line for every block.

    device : str, default="auto"
        Torch device for training (in float32); "auto" is "cuda" or "mps" where there is
        one, else "cpu". A fitted model is on the CPU.

    checkpoint : str, path-like or None, default=None
        A folder (made if needed) where `fit` writes the result of every task, such as
        the training of a block. A fit that was killed goes on from there when it is
        fitted again, and yields the same model.

    Attributes
    ----------
    n_blocks_ : int
        Number of blocks.

    transforms_ : Chain
        Fitted transforms in front of the blocks, the whitening among them.

    base_ : MixtureMap or None
        The mixture behind the blocks; None if the base is standard normal.

    flow_ : Flow
        The blocks, in float64 on the CPU.

    field_ : VelocityField
        The velocity field, with concrete values in place of "auto".

    support_ : Support
        The `grid` of discrete features, `atoms`, and `lower` and `upper` bounds.

    missing_ : Proposal or None
        Of missing values given the others; None if none was missing. Scores of samples
        with missing values are averages over `n_draws` imputations, with a mean `error`
        in nats; of one completion they are exact. `seen` are the features that may miss
        values, `n_left_out` the incomplete samples that the training left out.

    selection_ : list of Bunch
        Candidates for what stands in front of the blocks: names of their `transforms`,
        their `start` ("gaussian" or "mixture"), the validation `score` that they had
        reached in nats, and whether it was `chosen`.

    step_sizes_ : ndarray of shape (n_blocks_,)
        JKO step size of every block; infinite for a free one.

    movements_ : ndarray of shape (n_blocks_,)
        Root mean squared displacement of the training samples by every block, in
        standard deviations of the whitened data.

    validation_scores_ : ndarray or None
        Mean log-density of the validation samples, in nats and data units: before any
        block, after every block, and with the base if it is a mixture. None without
        early stopping.

    n_iter_ : int
        Number of iterations of all blocks in all rounds, at least 1.

    n_iter_per_block_ : ndarray of shape (n_blocks_,)
        The same for every block, in its last round, with its training for selection.

    loss_curve_ : list of float
        JKO objective of every iteration, round after round and block after block.

    history_ : list of Bunch
        One for every round of training, with `round` ("grow", "extend", "regularize",
        "reparameterize" or "refine"), whether it was `accepted`, the `step_sizes`,
        `movements`, `validation_scores` and `n_iter_per_block` of its flow, the
        `losses` of the blocks that it trained, and its `n_minibatches`, with those of
        dropped blocks and of cross-validation.

    n_ode_steps_ : ndarray of shape (n_blocks_,)
        Solver steps of every block in scoring.

    solver_errors_ : ndarray of shape (n_blocks_, 2)
        Mean and 99th percentile, in nats, of what a finer grid changes in every block,
        on the worst of validation samples, the farthest training samples, own samples
        and a box three times as wide as the data.

    n_features_in_ : int
        Number of features seen during fit.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of features seen during fit, when all of them are strings.

    See Also
    --------
    sklearn.mixture.GaussianMixture : Mixture of Gaussians.
    sklearn.neighbors.KernelDensity : Kernel density estimate.

    Notes
    -----
    Do not put a scaler in front: scores would be in its units, without its Jacobian,
    and not comparable between scalers. `Pipeline` and `GridSearchCV` have no `sample`;
    use that of the fitted estimator inside.

    References
    ----------
    .. [1] C. Xu, X. Cheng, Y. Xie, "Normalizing flow neural networks by JKO scheme",
       NeurIPS 2023. Proposition 3.1 is the objective of a block; Section 4.2 has the
       reparameterization and the refinement, Appendix B.2 the finite differences.

    .. [2] M. Rosenblatt, "Remarks on a multivariate transformation", Annals of
       Mathematical Statistics 23 (1952).

    Examples
    --------
    >>> from skjko import JKOFlowDensity, MLPField
    >>> from skjko.datasets import moons
    >>> X = moons().sample(2000, random_state=0)
    >>> density = JKOFlowDensity(
    ...     init="gaussian", field=MLPField((32, 32)), max_blocks=1, max_iter=40,
    ...     random_state=0,
    ... ).fit(X)
    >>> density.score_samples(X[:3]).shape
    (3,)
    >>> density.sample(5, random_state=0).shape
    (5, 2)
    >>> bool(density.score(X) > density.validation_scores_[0])
    True
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        **config.CONSTRAINTS,
        "warm_start": ["boolean"],
        "checkpoint": [None, str, os.PathLike],
    }

    def __init__(
        self,
        *,
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
        discrete: PerFeature | Literal["auto"] | None = "auto",
        random_state: Seed = None,
        warm_start: bool = False,
        verbose: bool | int = False,
        device: str = "auto",
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
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
        self.warm_start = warm_start
        self.verbose = verbose
        self.device = device
        self.checkpoint = checkpoint

    @typed(_fit_context(prefer_skip_nested_validation=True))
    @torch.inference_mode(False)
    @torch.enable_grad()
    @threads.isolated()
    def fit(
        self,
        X: ArrayLike,
        y: object = None,
        sample_weight: ArrayLike | None = None,
        X_val: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Fit the density to samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The data, in any units. At least two samples. Missing values, as NaN or
            None, are taken to be missing at random given the others: they are drawn
            from a mixture of Gaussians before the training, or their samples are left
            out where that is better.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights. A sample of weight 0 is as good as absent. Samples
            that are equal are one, with their summed weight.
        X_val : array-like of shape (n_val_samples, n_features), default=None
            Validation samples in place of a random part of `X`: for time series, where
            a random split would leak. Needs `early_stopping=True`. Values may be
            missing where some of `X` are.
        groups : array-like of shape (n_samples,), default=None
            Labels of samples that belong together, such as those of one patient: they
            stay on one side of every split. Samples that are equal up to rounding do
            so anyway. Needs `early_stopping=True`, and no `X_val`.

        Returns
        -------
        self : JKOFlowDensity
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data hold infinity, dates, values outside of the bounds, features
            without values or fewer than two samples of positive weight, a parameter is
            invalid, or a file of the checkpoint is damaged.
        """
        clock = Clock(group.current())
        listeners: list = of_fit(self, clock)
        config.check_transforms(self)
        earlier, frame = self._earlier_fit(), X
        X, weight, X_val, groups, incomplete = self._validated_for_fit(
            X, sample_weight, X_val, groups, earlier
        )
        table = Table.of(frame, self._categories)
        owner = type(self).__name__
        everywhere = completion.filled(X, np.random.RandomState(0)) if incomplete else X
        support = Support.learn(everywhere, table, self.bounds, self.discrete, owner)
        support.check(X, table)
        if X_val is not None:
            support.check(X_val, table, "X_val")
        X, weight, groups = repeats.distinct(
            X, weight, groups, support.grid.step == 0, support.is_tied
        )
        n_effective = repeats.effective_number(weight, groups)
        data = {"X": X, "sample_weight": weight, "X_val": X_val, "groups": groups}
        is_first = clock.group.rank == 0
        rng, store = checkpoints.begin(self, data, support, earlier, is_first)
        if store is not None:
            listeners.append(store)
        seed = clock.group.same(rng.randint(2**31 - 1))
        split_seed = seed if earlier is None else earlier.seed
        observed = X
        if incomplete:
            rng = np.random.RandomState([split_seed, 2])
            limit = math.inf if self.time_limit is None else self.time_limit
            parts = X, weight, X_val, support, rng
            X, X_val, trains = completion.complete(
                *parts, table.names, _COMPLETION_SHARE * limit
            )
            weight = chunks.select(weight, trains)
            groups = None if groups is None else groups[trains]
            n_effective = repeats.effective_number(weight, groups)
        fit_config, field = config.fit_config(
            self, len(X), n_effective, support, earlier
        )

        def finish(estimator, fitted, points):
            errors = fitting.choose_steps(
                fitted.model, points, X, split_seed, fit_config.tol
            )
            if incomplete:
                rng = np.random.RandomState([split_seed, 3])
                proposal = Proposal.of(fitted.model, observed, rng)
                proposal.n_left_out = len(observed) - len(X)
                fitted.model.missing = proposal
            fitted.parameters = copy.deepcopy(self.get_params(deep=False))
            estimator._table, estimator.field_ = table, field
            record(estimator, fitted, errors)
            estimator._n_features_out = X.shape[1]
            return errors

        watchers = self._watchers(frame, y, sample_weight, finish)
        run = Run(seed, listeners + watchers, clock)
        work = config.work(fit_config, *X.shape)
        with threads.at_most(threads.useful(work)):
            with checkpoints.reading(store):
                fitted, points = fitting.fit(
                    X, weight, X_val, groups, fit_config, run, split_seed, earlier
                )
            errors = finish(self, fitted, points)
        for watcher in watchers:
            watcher.end()
        sizes = len(X), n_effective
        for message in fit_warnings(fitted, errors, fit_config.tol, *sizes):
            warn_user(message, ConvergenceWarning)
        return self

    def _scoring_module(self):
        return scorer(self, self._table), ("log_density",)

    def __sklearn_tags__(self):
        """Return scikit-learn's tags."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    @property
    def missing_(self) -> Proposal | None:
        """The distribution of missing values given the others, or None."""
        return self._model.missing

    def _earlier_fit(self):
        """The fit to go on from, or None."""
        if not (self.warm_start and hasattr(self, "_fitted") and self._fitted.rounds):
            return None
        if not config.goes_on(self, self._fitted.parameters):
            warn_user(
                f"Nothing to train: with warm_start=True a fit goes on from the one "
                f"before it with larger {', '.join(config.GROWING)}."
            )
        return self._fitted

    def _validated_for_fit(self, X, sample_weight, X_val, groups, earlier):
        """Checked arrays, without samples of weight zero, and if values are missing."""
        owner = type(self).__name__
        table, first = X, earlier is None
        X = self._checked(X, ensure_min_samples=2, reset=first, allow_nan=True)
        for name, given in (("X_val", X_val), ("groups", groups)):
            if given is not None and not self.early_stopping:
                raise ValueError(
                    f"{name} is of no use to {owner} with early_stopping=False. Leave "
                    "it out, or set early_stopping=True."
                )
        if groups is not None:
            if X_val is not None:
                raise ValueError(f"{owner}.fit takes X_val or groups, not both.")
            groups = repeats.check_groups(groups, X, owner)
        weight = np.broadcast_to(1.0, len(X))
        if sample_weight is not None:
            weight = _check_sample_weight(
                sample_weight, X, dtype=np.float64, ensure_non_negative=True
            )
        seen = np.zeros(X.shape[1], dtype=bool)
        incomplete = chunks.first_true(np.isnan, X) is not None
        if incomplete:
            empty = [np.isnan(rows).all(axis=1) for _, rows in chunks.in_float64(X)]
            if all(part.all() for part in empty):
                raise ValueError("X has no values at all: all of them are NaN.")
            # Samples without any value tell nothing.
            weight = np.where(np.concatenate(empty), 0.0, weight)
        if sample_weight is not None or incomplete:
            X, weight, groups = repeats.weighted(X, weight, groups, owner)
        check_values(X, owner, table=table, allow_nan=True)
        if incomplete:
            seen = check_missing(X, owner, table)
        if X_val is not None:
            X_val, table = self._checked(X_val, "X_val", allow_nan=True), X_val
            check_values(X_val, owner, "X_val", table, allow_nan=True)
            self._check_seen(X_val, seen, "X_val")
        if seen.any() and group.current().size > 1:
            raise ValueError(
                f"X has missing values, which {owner} does not take in several "
                "processes. Fill them in, as by sklearn.impute, or drop their rows."
            )
        return X, weight, X_val, groups, bool(seen.any())
