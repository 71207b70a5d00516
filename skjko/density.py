"""The density estimator: scikit-learn's contract around the flow."""

# SPDX-License-Identifier: BSD-3-Clause

import copy
import os
import warnings
from dataclasses import replace
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    DensityMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Bunch, check_array, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    validate_data,
)

from skjko import checkpoint as checkpoints
from skjko import chunks, fitting, settings
from skjko.flow import devices, fields, threads
from skjko.flow.flow import Flow
from skjko.flow.pace import Deadline
from skjko.model import Model
from skjko.persistence import DENSITY, Saved
from skjko.summary import summarize
from skjko.support import Support
from skjko.table import Table, check_table, check_values, missing_message


class JKOFlowDensity(
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    DensityMixin,
    Saved,
    BaseEstimator,
):
    """Density estimation with a normalizing flow trained block by block (JKO-iFlow).

    The density of the data is carried to a standard normal one by a stack of
    continuous-time residual blocks. Each block is one step of the Jordan-Kinderlehrer-
    Otto scheme and is trained alone, on samples pushed through the blocks before it
    [1]_. Block 0 is a full-covariance Gaussian in closed form, and behind it, where
    held-out rows prefer that, a mixture of Gaussians by Rosenblatt's transformation
    [2]_. Held-out rows decide for how long a block trains and how many blocks stay, so
    that on those rows the flow is never worse than block 0.

    Columns may have any scale: whitening is part of the model, and scores are in the
    units of the data handed in.

    Parameters
    ----------
    max_blocks : int, default=4
        Largest number of flow blocks, the free block included. 0 leaves the Gaussian.

    hidden_layer_sizes : tuple of int, default=(128, 128)
        Widths of the hidden layers of every block's velocity field. Two hidden layers
        have a divergence in closed form; any other number costs one Jacobian-vector
        product a column. `()` is an affine field.

    activation : {"auto", "fourier", "tanh", "silu"}, default="auto"
        Nonlinearity of the hidden layers. "fourier" starts with random sines and
        cosines, which resolve fine structure, and goes on with tanh; "silu" grows
        linearly, which pulls in heavy tails. "auto" is "fourier" for one to three
        columns and "silu" for more.

    frequency : float or "auto", default="auto"
        Scale of the first layer's weights at the start: the inverse length, in standard
        deviations, of the finest structure that the field sees at once; with "fourier"
        of coarser structure as well. "auto" is 1 without "fourier", and with it rises
        with the number of rows n, which is what fine structure can be told from noise
        by: 3 (n / 1000)^0.26, at least 3 and at most 12.

    time_dependent : bool, default=False
        Whether the velocity field of a block changes over its unit of time.

    step_size : float, default=0.5
        JKO step size h of the first block. Small steps follow the Fokker-Planck
        equation, large ones go straight for the likelihood.

    step_size_growth : float, default=2.0
        Factor from one block's step size to the next one's.

    max_step_size : float, default=8.0
        Largest step size.

    free_block : bool, default=True
        Whether the last block has no transport cost (an infinite step size).

    movement_tol : float, default=0.01
        Training moves on to the free block when a block's mean square displacement,
        relative to the mean square length of the rows it has pushed, is below this and
        its gain is within the noise of the held-out rows. (It does so too after a block
        that lost on held-out rows from their first score on.)

    n_reparameterizations : int, default=0
        Largest number of rounds that train all blocks again with step sizes under which
        their movements are more even. They end when the movements are even, or when
        evenness costs held-out likelihood.

    n_refinements : int, default=0
        Largest number of rounds that split every block's time in two and train the
        halves again. They end when a round does not pay on held-out rows.

    divergence : {"exact", "hutchinson", "finite_difference"}, default="exact"
        How training computes the divergence of the field: exactly, by Hutchinson's
        estimate with random signs, or by its finite-difference form. Two hidden layers
        make the exact one the cheapest. Scores are always exact.

    n_probes : int, default=1
        Random probes of an estimated divergence, fixed within a solve.

    probe_scale : float, default=0.01
        Step sigma_0 of "finite_difference", in standard deviations; divided by the
        square root of the number of columns.

    n_ode_steps : int or "auto", default="auto"
        Runge-Kutta steps through a block in training; "auto" is 1 from 2000 rows on,
        and 2 below, for Fourier features and for fields that depend on time. A block
        that comes to gain by the solver's error goes on with twice as many. Scores use
        grids of their own, chosen at fit so that a finer grid changes nothing.

    batch_size : int or "auto", default="auto"
        Rows in a minibatch; "auto" is a 16th of the rows, but at least 128 and at most
        1000: noisier gradients keep small samples from being learned by heart. For more
        than three columns it is at most 500, or a 150th of the rows if these are more,
        up to 2000.

    learning_rate_init : float, default=0.01
        Peak learning rate of Adam; within a block it warms up and falls to zero. The
        matrices between hidden layers learn by Muon, at ten times this rate, from 1000
        rows on.

    alpha : float, default=0.0
        Decoupled weight decay of all matrices. Where a block was at its best early in
        its training, since it learned noise, at least 0.5 is tried as well, with twice
        the learning rate, in a free block in place of the others.

    max_iter : int or "auto", default="auto"
        Largest number of minibatch iterations of every block. "auto" is 200 below 2000
        rows and 500 from there on; there a `time_limit` makes it 25 passes over the
        rows, if these are more.

    time_limit : float or None, default=None
        Seconds that `fit` may take, about; None for no limit. What time is left is
        shared equally between the blocks to come, and the learning rate of each falls
        to zero within its share: with a large `max_iter`, training goes as far as the
        time allows and ends as if that had been planned. Where there is little time,
        fewer blocks are trained. The same seed then no longer means the same model.

    early_stopping : bool, default=True
        Whether held-out rows decide on iterations and blocks. If False, all rows train
        `max_blocks` blocks of `max_iter` iterations each.

    validation_fraction : float, default=0.1
        Share of the rows to hold out (at most 5000 rows). Below 1000 rows no rows are
        lost: 3-fold cross-validation decides, and all rows train the flow. Not used
        when `X_val` is given to `fit`.

    bounds : array-like of pairs, dict or None, default=None
        For every column a pair (lower, upper), with None for no bound, or None for
        neither; a dict has them for some columns, by name or number. Density and
        samples are inside of the bounds, by a logarithm or logit whose derivative is
        part of the score. Only the values of discrete columns can reach them.

    discrete : "auto", array-like of float, dict or None, default="auto"
        For every column the distance between its values, 0 or None if it is continuous;
        a dict has it for some columns, by name or number. None is for no column. "auto"
        finds columns whose values are evenly spaced and come at least twice on average,
        and those of an integer or boolean type with at most 1000 steps between their
        ends. See the user guide.

    marginal_map : {"auto"} or None, default="auto"
        Whether block 0 may map single columns: draw in skew and heavy tails by an
        asinh, where that pays on held-out halves of the training rows; or, in front of
        a mixture and where held-out rows prefer that, make columns with lumps and gaps
        normal by the distribution function of a mixture of their own.

    radial_map : {"auto"} or None, default="auto"
        Whether block 0 may draw in rows that are long altogether, by their distance
        from the centre, where mixtures of Gaussians behind that are better on held-out
        rows. Tried where mixtures are: not with `mixture_map=None`.

    mixture_map : {"auto"} or None, default="auto"
        Whether block 0 may go from a mixture of Gaussians to the standard normal, where
        that is better on held-out rows than a flow of one block. None leaves all to the
        flow. Not used without early stopping, with `max_blocks=0`, or for more than 128
        columns.

    random_state : int, RandomState instance or None, default=None
        Starting weights, minibatches, the validation split, and where in their cells
        training sees discrete values. Pass an int for a reproducible model.

    warm_start : bool, default=False
        Whether `fit` continues the fit before it, on the same rows, with larger
        `max_blocks`, `n_reparameterizations` or `n_refinements`, instead of starting
        again. The parameters of the field and of the held-out rows cannot change.

    verbose : bool, default=False
        Whether to print a line for every block.

    device : str, default="auto"
        torch device for training (in float32); "auto" is "cuda" or "mps" where there is
        one, else "cpu". Scores are float64 everywhere; a fitted model lives on the CPU.

    checkpoint : str, path-like or None, default=None
        A folder (made if needed) where `fit` writes every block as soon as it is
        trained. A fit that was killed, fitted again, takes from there what it had
        trained, and comes to the same model; one that is whole needs no training at
        all. Fits of other data or parameters have other folders inside. See the user
        guide.

    Attributes
    ----------
    n_blocks_ : int
        Number of flow blocks that stay; 0 is block 0 alone.

    step_sizes_ : ndarray of shape (n_blocks_,)
        JKO step size of every block; infinite for a free one.

    movements_ : ndarray of shape (n_blocks_,)
        Root mean square displacement of the training rows by every block, in standard
        deviations of the whitened data.

    n_iter_ : int
        Number of iterations that the blocks trained for in all rounds, at least 1 (the
        closed form of block 0).

    n_iter_per_block_ : ndarray of shape (n_blocks_,)
        The same for every block, in the last round that trained it.

    loss_curve_ : list of float
        JKO objective of every iteration, round after round and block after block.

    history_ : list of Bunch
        One for every round of training, with `round` ("grow", "regularize",
        "reparameterize" or "refine"), whether it was `accepted`, the `step_sizes`,
        `movements`, `validation_scores` and `n_iter_per_block` of the flow that it
        made, and its `n_minibatches`, with those of dropped blocks and of
        cross-validation.

    validation_scores_ : ndarray of shape (n_blocks_ + 1,) or None
        Mean log-density of the held-out rows, in nats and data units, after block 0 and
        after every flow block. None without early stopping.

    n_ode_steps_ : ndarray of shape (n_blocks_,)
        Runge-Kutta steps of every block in scoring.

    solver_gaps_ : ndarray of shape (n_blocks_, 2)
        Mean and 99th percentile, in nats, of what a finer grid changes in every block,
        on the worst of held-out rows, the farthest training rows, own samples and a box
        three times as wide as the data.

    gaussian_ : GaussianWhitening
        Block 0, behind its maps of single columns.

    marginal_map_ : MarginalMap, MarginalMixtures or None
        Which `columns` are drawn in, or made normal by mixtures of their own (its
        `maps`), and how; None if none is.

    radial_map_ : RadialMap or None
        Of the whitened columns that are not flat: beyond its `radius` rows are drawn
        in. None if none are.

    mixture_map_ : RosenblattMap or None
        Of the whitened columns that are not flat, behind the radial map: its `weights`,
        `means` and lower Cholesky `factors` are those of the Gaussians. None if the
        flow starts from one Gaussian.

    support_ : Support
        The `lattice` of discrete columns (`step` is 0 in continuous ones and infinite
        in those with one value), and `lower` and `upper` bounds.

    flow_ : Flow
        The flow blocks, in float64 on the CPU.

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
    >>> from skjko import JKOFlowDensity
    >>> from skjko.datasets import moons
    >>> X = moons().sample(2000, random_state=0)
    >>> density = JKOFlowDensity(
    ...     max_blocks=1, hidden_layer_sizes=(32, 32), max_iter=40, random_state=0
    ... ).fit(X)
    >>> density.score_samples(X[:3]).shape
    (3,)
    >>> density.sample(5, random_state=0).shape
    (5, 2)
    >>> bool(density.score(X) > density.validation_scores_[0])
    True
    """

    _form = DENSITY

    _parameter_constraints: dict = {  # noqa: RUF012
        "max_blocks": [Interval(Integral, 0, None, closed="left")],
        "hidden_layer_sizes": ["array-like"],
        "activation": [StrOptions({"auto", *fields.ACTIVATIONS})],
        "frequency": [
            StrOptions({"auto"}),
            Interval(Real, 0, None, closed="neither"),
        ],
        "time_dependent": ["boolean"],
        "step_size": [Interval(Real, 0, None, closed="neither")],
        "step_size_growth": [Interval(Real, 1, None, closed="left")],
        "max_step_size": [Interval(Real, 0, None, closed="neither")],
        "free_block": ["boolean"],
        "movement_tol": [Interval(Real, 0, None, closed="left")],
        "n_reparameterizations": [Interval(Integral, 0, None, closed="left")],
        "n_refinements": [Interval(Integral, 0, None, closed="left")],
        "divergence": [StrOptions({"exact", "hutchinson", "finite_difference"})],
        "n_probes": [Interval(Integral, 1, None, closed="left")],
        "probe_scale": [Interval(Real, 0, None, closed="neither")],
        "n_ode_steps": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "batch_size": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "max_iter": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "time_limit": [None, Interval(Real, 0, None, closed="neither")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "bounds": [None, "array-like", dict],
        "discrete": [None, StrOptions({"auto"}), "array-like", dict],
        "marginal_map": [None, StrOptions({"auto"})],
        "radial_map": [None, StrOptions({"auto"})],
        "mixture_map": [None, StrOptions({"auto"})],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "device": [str],
        "checkpoint": [None, str, os.PathLike],
    }

    def __init__(
        self,
        *,
        max_blocks=4,
        hidden_layer_sizes=(128, 128),
        activation="auto",
        frequency="auto",
        time_dependent=False,
        step_size=0.5,
        step_size_growth=2.0,
        max_step_size=8.0,
        free_block=True,
        movement_tol=0.01,
        n_reparameterizations=0,
        n_refinements=0,
        divergence="exact",
        n_probes=1,
        probe_scale=0.01,
        n_ode_steps="auto",
        batch_size="auto",
        learning_rate_init=0.01,
        alpha=0.0,
        max_iter="auto",
        time_limit=None,
        early_stopping=True,
        validation_fraction=0.1,
        bounds=None,
        discrete="auto",
        marginal_map="auto",
        radial_map="auto",
        mixture_map="auto",
        random_state=None,
        warm_start=False,
        verbose=False,
        device="auto",
        checkpoint=None,
    ):
        self.max_blocks = max_blocks
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.frequency = frequency
        self.time_dependent = time_dependent
        self.step_size = step_size
        self.step_size_growth = step_size_growth
        self.max_step_size = max_step_size
        self.free_block = free_block
        self.movement_tol = movement_tol
        self.n_reparameterizations = n_reparameterizations
        self.n_refinements = n_refinements
        self.divergence = divergence
        self.n_probes = n_probes
        self.probe_scale = probe_scale
        self.n_ode_steps = n_ode_steps
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.alpha = alpha
        self.max_iter = max_iter
        self.time_limit = time_limit
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.bounds = bounds
        self.discrete = discrete
        self.marginal_map = marginal_map
        self.radial_map = radial_map
        self.mixture_map = mixture_map
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.device = device
        self.checkpoint = checkpoint

    # ------------------------------------------------------------------ fitting

    @_fit_context(prefer_skip_nested_validation=True)
    @torch.inference_mode(False)
    @torch.enable_grad()
    @threads.fork_safe()
    def fit(self, X, y=None, sample_weight=None, X_val=None):
        """Fit the density to rows of data.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The data, in any units. At least two rows.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows. A row of weight 0 is as good as absent.
        X_val : array-like of shape (n_val_samples, n_features), default=None
            Rows to hold out instead of a random part of `X`: for time series and
            groups, where a random split would leak. Needs `early_stopping=True`.

        Returns
        -------
        self : JKOFlowDensity
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data hold NaN, infinity, strings, values outside of the bounds or
            fewer than two rows of positive weight, a parameter is out of its range, or
            a file of the checkpoint is damaged.
        """
        frame = X
        earlier = self._earlier_fit()
        deadline = Deadline(settings.training_seconds(self.time_limit))
        X, weight, X_val = self._validated_for_fit(X, sample_weight, X_val, earlier)
        table = Table.of(frame)
        owner = type(self).__name__
        support = Support.learn(X, table, self.bounds, self.discrete, owner)
        support.check(X, table)
        if X_val is not None:
            support.check(X_val, table, "X_val")
        data = {"X": X, "sample_weight": weight, "X_val": X_val}
        rng, journal = checkpoints.begin(self, data, support, earlier)
        before = None if earlier is None else self._fitted_with
        work = settings.work(self, len(X), support, deadline, journal, before)
        fitted, rows = fitting.train(X, weight, X_val, work, rng, earlier)
        self._record(fitted)
        self._n_features_out = X.shape[1]
        self._table = table
        for trouble in fitted.troubles:
            warnings.warn(trouble, ConvergenceWarning, stacklevel=2)
        self._choose_grids(rows, X, fitted.split_seed)
        return self

    def _earlier_fit(self):
        """What there is to continue, or None."""
        if not (self.warm_start and hasattr(self, "_fitted") and self._fitted.rounds):
            return None
        if not settings.continues(self, self._fitted_with):
            warnings.warn(
                f"Nothing to train: with warm_start=True a fit continues the one "
                f"before it with larger {', '.join(settings.GROWING)}.",
                stacklevel=3,
            )
        return replace(
            self._fitted,
            preprocessing=self._preprocessing,
            blocks=self.flow_.blocks,
        )

    def _validated_for_fit(self, X, sample_weight, X_val, earlier):
        """Checked arrays, without the rows of weight zero."""
        X = self._checked(X, ensure_min_samples=2, reset=earlier is None)
        weight = np.broadcast_to(1.0, len(X))
        if sample_weight is not None:
            X, weight = self._weighted(X, sample_weight)
        check_values(X, type(self).__name__)
        if X_val is not None:
            if not self.early_stopping:
                raise ValueError(
                    f"X_val is of no use to {type(self).__name__} with "
                    "early_stopping=False. Leave it out, or set early_stopping=True."
                )
            X_val = self._checked(X_val)
            check_values(X_val, type(self).__name__, "X_val")
        return X, weight, X_val

    def _weighted(self, X, sample_weight):
        """Rows of positive weight, with their checked weights, at most 1."""
        weight = _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True
        )
        if not weight.all():
            X, weight = (chunks.select(array, weight > 0) for array in (X, weight))
        if len(X) < 2:
            raise ValueError(
                f"{type(self).__name__} requires at least 2 samples with a positive "
                f"sample_weight. Got {len(X)} instead."
            )
        # Divided by the largest, so that no sum of weights can overflow.
        return X, weight / weight.max()

    def _record(self, fitted):
        rounds = [r for r in fitted.rounds if r.accepted]
        records = rounds[-1].records if rounds else []
        trained = [record for r in rounds for record in r.records[r.n_kept :]]
        self._preprocessing = fitted.preprocessing
        self.support_ = fitted.preprocessing.support
        self.marginal_map_ = fitted.preprocessing.marginal_
        self.radial_map_ = fitted.preprocessing.radial_
        self.mixture_map_ = fitted.preprocessing.mixture_
        self.gaussian_ = fitted.preprocessing.gaussian_
        self.n_blocks_ = len(records)
        self.step_sizes_ = np.array([r.step_size for r in records])
        self.movements_ = np.array([r.movement for r in records])
        self.n_iter_per_block_ = np.array([r.n_iter for r in records], dtype=int)
        self.n_iter_ = max(1, sum(r.n_iter for r in trained))
        self.loss_curve_ = [loss for r in trained for loss in r.losses]
        self.validation_scores_ = _scores(fitted.base_nll, records)
        self.history_ = [
            Bunch(
                round=r.kind,
                accepted=r.accepted,
                step_sizes=np.array([record.step_size for record in r.records]),
                movements=np.array([record.movement for record in r.records]),
                validation_scores=_scores(fitted.base_nll, r.records),
                n_iter_per_block=np.array([record.n_iter for record in r.records], int),
                n_minibatches=r.n_minibatches,
            )
            for r in fitted.rounds
        ]
        n_active = self.n_features_in_ - self.gaussian_.n_flat_
        flow = Flow(n_active, copy.deepcopy(fitted.blocks))
        self.flow_ = flow.to(torch.float64).requires_grad_(False)
        # The weights are in flow_: they need not be kept twice.
        self._fitted = replace(fitted, preprocessing=None, blocks=[], troubles=[])
        self._fitted_with = self.get_params(deep=False)

    def _choose_grids(self, rows, X, seed):
        """Choose the scoring grids; warn of blocks that none will do for."""
        gaps = fitting.choose_grids(self.flow_, self._preprocessing, rows, X, seed)
        self.n_ode_steps_ = np.array([b.n_ode_steps for b in self.flow_.blocks], int)
        self.solver_gaps_ = np.array(gaps).reshape(-1, 2)
        wide = [
            f"{k} (mean {gap.mean:.2g}, 99th percentile {gap.quantile:.2g})"
            for k, gap in enumerate(gaps, start=1)
            if gap.exceeds(1 / len(gaps))
        ]
        if wide:
            warnings.warn(
                "The log-densities of these blocks still change, in nats, on a finer "
                f"solver grid: {', '.join(wide)}. Lower learning_rate_init or "
                "frequency, or raise n_ode_steps.",
                ConvergenceWarning,
                stacklevel=3,
            )

    # ------------------------------------------------------------------ using

    @property
    def _model(self):
        return Model(self._preprocessing, self.flow_, devices.for_scoring(self.device))

    def _validated(self, X):
        check_is_fitted(self)
        return self._checked(X)

    def _validated_inside(self, X):
        X = self._validated(X)
        self.support_.check(X, self._table)
        return X

    def _checked(self, X, reset=False, **kwargs):
        """Check rows as scikit-learn does, and say more of what is missing."""
        owner = type(self).__name__
        check_table(X, owner)
        dtype = chunks.dtypes(X)
        try:
            # Scikit-learn adds all values up, to see whether they are finite.
            with np.errstate(over="ignore", invalid="ignore"):
                return validate_data(self, X, dtype=dtype, reset=reset, **kwargs)
        except ValueError as error:
            message = missing_message(X, owner) if "NaN" in str(error) else None
            if message is None:
                raise
            raise ValueError(message) from None

    def score_samples(self, X):
        """Compute the log-density of every row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the data fitted.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            Log-density in nats, per unit of the data handed in, as float64. It is -inf
            outside of the bounds and beyond 1e154 standard deviations (unless long
            tails are drawn in); in discrete columns it is the average over a cell: with
            the logarithm of all their steps it is a log-probability in them.
        """
        X = self._validated(X)
        return self._model.log_density(X)

    def score(self, X, y=None, sample_weight=None):
        """Compute the mean log-density of the rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the data fitted.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the mean.

        Returns
        -------
        score : float
            Mean log-density in nats, per row.
        """
        X = self._validated(X)
        weight = _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True
        )
        return float(np.average(self._model.log_density(X), weights=weight))

    def transform(self, X):
        """Map rows to the latent standard normal.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the data fitted.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_features)
            Latent positions; standard normal where the model fits. Discrete values
            are at the centre of their cells.
        """
        X = self._validated_inside(X)
        return self._model.transform(X)

    def trajectory(self, X, n_between=0):
        """Follow rows through the blocks.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the data fitted.
        n_between : int, default=0
            Number of positions within every flow block, at equally spaced times.

        Returns
        -------
        positions : ndarray of shape (n_positions, n_samples, n_features)
            Whitened positions after block 0 and, in time, through every flow block:
            `n_positions` is `1 + n_blocks_ * (n_between + 1)`. With none in between
            the last are those of `transform`.
        """
        X = self._validated_inside(X)
        self._check_count(n_between, "n_between", "trajectory", least=0)
        return self._model.trajectory(X, int(n_between))

    def staged_score_samples(self, X):
        """Compute log-densities after every block.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the data fitted.

        Yields
        ------
        log_density : ndarray of shape (n_samples,)
            Log-density in nats if the flow ended after block 0, 1, ..., `n_blocks_`;
            the last is that of `score_samples`.
        """
        # No generator itself: X is checked now, not when the first stage is asked for.
        X = self._validated(X)
        return self._model.staged_log_density(X)

    def summary(self):
        """Describe the fitted flow, one line a block.

        Returns
        -------
        summary : str
            Step size, movement, iterations, solver steps and gap, and the held-out
            negative log-likelihood after every block, in nats.
        """
        check_is_fitted(self)
        return summarize(self)

    def inverse_transform(self, Z):
        """Map latent positions back to data.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_features)
            Latent positions.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Rows in the units of the data fitted.
        """
        check_is_fitted(self)
        dtype = chunks.dtypes(Z)
        with np.errstate(over="ignore", invalid="ignore"):
            Z = check_array(Z, dtype=dtype, input_name="Z", estimator=self)
        if Z.shape[1] != self.n_features_in_:
            raise ValueError(
                f"Z has {Z.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input."
            )
        return self._model.inverse_transform(Z)

    def sample(self, n_samples=1, random_state=None):
        """Draw rows from the fitted density.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        random_state : int, RandomState instance or None, default=None
            Source of randomness.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features), or DataFrame
            Rows in the units of the data fitted, and in its form: a pandas or polars
            DataFrame with its names if the model was fitted on one, the columns' types,
            discrete values on their lattice, all within the bounds.
        """
        check_is_fitted(self)
        self._check_count(n_samples, "n_samples", "sample", least=1)
        rng = check_random_state(random_state)
        parts = self._model.draw(n_samples, rng)
        s = self.support_
        return self._table.rebuild(n_samples, parts, s.lattice, s.lower, s.upper)

    def _check_count(self, value, name, method, least):
        is_int = isinstance(value, Integral) and not isinstance(value, bool)
        if not is_int or value < least:
            raise ValueError(
                f"The {name!r} parameter of {type(self).__name__}.{method} must be an "
                f"int in the range [{least}, inf). Got {value!r} instead."
            )


def _scores(base_nll, records):
    """Mean log-density of the held-out rows after block 0 and every other block."""
    if base_nll is None:
        return None
    return -np.array([base_nll, *(r.validation_nll for r in records)])
