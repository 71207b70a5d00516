"""The density estimator: scikit-learn's contract around the flow."""

# SPDX-License-Identifier: BSD-3-Clause

import copy
import math
import warnings
from dataclasses import replace
from functools import partial
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
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    validate_data,
)

from skjko.flow import accuracy, devices, fields, scheme
from skjko.flow.flow import Flow, in_chunks
from skjko.flow.training import Options, Rows
from skjko.preprocessing import GaussianWhitening
from skjko.splitting import CROSS_VALIDATION_ROWS, GAUSSIAN_ROWS, held_out_splits

# Rows of each of the sets of points on which the scoring grids are chosen.
N_PROBES = 512


class JKOFlowDensity(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, BaseEstimator
):
    """Density estimation with a normalizing flow trained block by block (JKO-iFlow).

    The density of the data is carried to a standard normal one by a stack of
    continuous-time residual blocks. Each block is one step of the Jordan-Kinderlehrer-
    Otto scheme and is trained alone, on samples pushed through the blocks before it
    [1]_. Block 0 is a full-covariance Gaussian in closed form; held-out rows decide
    for how long a block trains and how many blocks stay, so that on those rows the
    flow is never worse than that Gaussian.

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
        deviations, of the structure that the field sees at once. "auto" is 8 with
        "fourier" and 1 otherwise.

    time_dependent : bool, default=False
        Whether the velocity field of a block changes over its unit of time.

    step_size : float, default=1.0
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
        its gain is within the noise of the held-out rows.

    n_ode_steps : int, default=2
        Runge-Kutta steps through a block in training. Scores use finer grids, chosen at
        fit so that a finer grid still changes nothing.

    batch_size : int or "auto", default="auto"
        Rows in a minibatch; "auto" is `min(1000, n_samples)`.

    learning_rate_init : float, default=0.01
        Peak learning rate of Adam; within a block it warms up and falls to zero.

    alpha : float, default=0.0
        Decoupled weight decay.

    max_iter : int, default=350
        Largest number of minibatch iterations of every block.

    early_stopping : bool, default=True
        Whether held-out rows decide on iterations and blocks. If False, all rows train
        `max_blocks` blocks of `max_iter` iterations each.

    validation_fraction : float, default=0.1
        Share of the rows to hold out (at most 5000 rows). Below 1000 rows no rows are
        lost: 3-fold cross-validation decides, and all rows train the flow. Not used
        when `X_val` is given to `fit`.

    random_state : int, RandomState instance or None, default=None
        Starting weights, minibatches and the validation split. Pass an int for a
        reproducible model.

    verbose : bool, default=False
        Whether to print a line for every block.

    device : str, default="auto"
        torch device for training (in float32); "auto" is "cuda" or "mps" where there is
        one, else "cpu". Scores are float64 everywhere; a fitted model lives on the CPU.

    Attributes
    ----------
    n_blocks_ : int
        Number of flow blocks that stay; 0 is the Gaussian alone.

    step_sizes_ : ndarray of shape (n_blocks_,)
        JKO step size of every block; infinite for a free one.

    movements_ : ndarray of shape (n_blocks_,)
        Root mean square displacement of the training rows by every block, in standard
        deviations of the whitened data.

    n_iter_ : int
        Number of iterations that the blocks trained for, at least 1 (the closed form
        of block 0).

    n_iter_per_block_ : ndarray of shape (n_blocks_,)
        The same for every block.

    loss_curve_ : list of float
        JKO objective of every iteration, block after block.

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
        Block 0.

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
       NeurIPS 2023. Proposition 3.1 is the objective of a block.

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
        "n_ode_steps": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "device": [str],
    }

    def __init__(
        self,
        *,
        max_blocks=4,
        hidden_layer_sizes=(128, 128),
        activation="auto",
        frequency="auto",
        time_dependent=False,
        step_size=1.0,
        step_size_growth=2.0,
        max_step_size=8.0,
        free_block=True,
        movement_tol=0.01,
        n_ode_steps=2,
        batch_size="auto",
        learning_rate_init=0.01,
        alpha=0.0,
        max_iter=350,
        early_stopping=True,
        validation_fraction=0.1,
        random_state=None,
        verbose=False,
        device="auto",
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
        self.n_ode_steps = n_ode_steps
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.alpha = alpha
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.verbose = verbose
        self.device = device

    # ------------------------------------------------------------------ fitting

    @_fit_context(prefer_skip_nested_validation=True)
    @torch.inference_mode(False)
    @torch.enable_grad()
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
            If the data hold NaN, infinity, strings or fewer than two rows of positive
            weight, or a parameter is out of its range.
        """
        from_pandas = hasattr(X, "iloc")
        X, weight, X_val = self._validated_for_fit(X, sample_weight, X_val)
        device = devices.resolve(self.device)
        new_field = self._new_field_factory()
        options = self._options(len(X))

        rng = check_random_state(self.random_state)
        result = None
        plans_flow = options.step_sizes and len(X) > GAUSSIAN_ROWS
        held_out = None
        if plans_flow and self.early_stopping:
            splits = held_out_splits(X, weight, X_val, self.validation_fraction, rng)
            result, held_out = self._train(splits, new_field, options, rng, device)
            if len(splits) == 1:
                X, weight = splits[0][0]
        self.gaussian_ = GaussianWhitening().fit(X, weight)
        if plans_flow and self._n_active and (result is None or len(splits) > 1):
            result = self._replay(X, weight, result, new_field, options, rng, device)

        self._record(result)
        self._n_features_out = X.shape[1]
        self._returns_frame = from_pandas and hasattr(self, "feature_names_in_")
        # To the CPU first: mps has no float64.
        flow = Flow(self._n_active, [] if result is None else result.blocks)
        self.flow_ = flow.to("cpu").to(torch.float64).requires_grad_(False)
        self._choose_grids(X if held_out is None else held_out, X, rng)
        return self

    def _validated_for_fit(self, X, sample_weight, X_val):
        """Checked arrays, without the rows of weight zero."""
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        weight = _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True
        )
        X, weight = X[weight > 0], weight[weight > 0]
        if len(X) < 2:
            raise ValueError(
                f"{type(self).__name__} requires at least 2 samples with a positive "
                f"sample_weight. Got {len(X)} instead."
            )
        # Divided by the largest, so that no sum of weights can overflow.
        weight = weight / weight.max()
        if X_val is not None:
            if not self.early_stopping:
                raise ValueError(
                    f"X_val is of no use to {type(self).__name__} with "
                    "early_stopping=False. Leave it out, or set early_stopping=True."
                )
            X_val = validate_data(self, X_val, dtype=np.float64, reset=False)
        return X, weight, X_val

    def _new_field_factory(self):
        """Return (n_features, generator) -> velocity field, from checked parameters."""
        activation, frequency = self.activation, self.frequency
        if activation == "auto":
            activation = "fourier" if self.n_features_in_ <= 3 else "silu"
        if frequency == "auto":
            frequency = 8.0 if activation == "fourier" else 1.0
        is_sequence = np.ndim(self.hidden_layer_sizes) == 1
        sizes = tuple(self.hidden_layer_sizes) if is_sequence else (None,)
        even = activation == "fourier" and len(sizes) > 0
        if any(not isinstance(m, Integral) or m < 1 for m in sizes) or (
            even and sizes[0] % 2
        ):
            raise ValueError(
                f"The 'hidden_layer_sizes' parameter of {type(self).__name__} must be "
                "a sequence of positive ints"
                f"{', the first of them even' if even else ''}. "
                f"Got {self.hidden_layer_sizes!r} instead."
            )

        def new_field(n_features, generator):
            return fields.MLPField(
                n_features,
                sizes,
                activation,
                frequency,
                self.time_dependent,
                generator=generator,
            )

        return new_field

    def _options(self, n_samples):
        return Options(
            step_sizes=scheme.step_sizes(
                self.step_size,
                self.step_size_growth,
                self.max_step_size,
                self.max_blocks,
                self.free_block,
            ),
            max_iter=self.max_iter,
            batch_size=(
                min(1000, n_samples) if self.batch_size == "auto" else self.batch_size
            ),
            learning_rate=self.learning_rate_init,
            alpha=self.alpha,
            n_ode_steps=self.n_ode_steps,
            movement_tol=self.movement_tol,
            # Small samples overfit, and do not recover; on large ones a pause may be
            # the learning rate's, which a later iteration makes good.
            **(
                {"n_evaluations": 20, "patience": 3}
                if n_samples < CROSS_VALIDATION_ROWS
                else {"n_evaluations": 10, "patience": 5}
            ),
        )

    @staticmethod
    def _rows(Z, weight, n_active, device):
        to = partial(torch.as_tensor, dtype=torch.float32, device=device)
        return Rows(to(Z[:, :n_active]), to(weight / weight.mean()))

    def _fold(self, train, held_out, device):
        gaussian = GaussianWhitening().fit(*train)
        n_active = train[0].shape[1] - gaussian.n_flat_
        Z, _ = gaussian.forward(train[0])
        V, log_det = gaussian.forward(held_out[0])
        return scheme.Fold(
            self._rows(Z, train[1], n_active, device),
            self._rows(V, held_out[1], n_active, device),
            torch.as_tensor(
                log_det + _normal_logpdf(V[:, n_active:]),
                dtype=torch.float32,
                device=device,
            ),
        )

    def _train(self, splits, new_field, options, rng, device):
        folds = [self._fold(train, held_out, device) for train, held_out in splits]
        if min(fold.train.x.shape[1] for fold in folds) == 0:
            # Some fold has nothing that a flow could move: the Gaussian stays alone.
            options = replace(options, step_sizes=())
        result = scheme.train(
            folds, new_field, options, [_generator(rng) for _ in folds], self._report
        )
        return result, np.concatenate([held_out[0] for _, held_out in splits])

    def _replay(self, X, weight, decided, new_field, options, rng, device):
        """Train on all rows: what the folds decided, or the whole schedule."""
        plan = scheme.whole_schedule(options) if decided is None else decided
        Z, _ = self.gaussian_.forward(X)
        rows = self._rows(Z, weight, self._n_active, device)
        return scheme.replay(
            scheme.Fold(rows), new_field, plan, options, _generator(rng), self._report
        )

    def _record(self, result):
        records = [] if result is None else result.records
        self.n_blocks_ = len(records)
        self.step_sizes_ = np.array([r.step_size for r in records])
        self.movements_ = np.array([r.movement for r in records])
        self.n_iter_per_block_ = np.array([r.n_iter for r in records], dtype=int)
        self.n_iter_ = max(1, int(self.n_iter_per_block_.sum()))
        self.loss_curve_ = [loss for r in records for loss in r.losses]
        self.validation_scores_ = (
            None
            if result is None or result.base_nll is None
            else -np.array([result.base_nll, *(r.validation_nll for r in records)])
        )

    def _choose_grids(self, rows, X, rng):
        """Choose the scoring grids; warn of blocks that none will do for."""
        draw = np.random.RandomState(rng.randint(2**31 - 1))
        if len(rows) > N_PROBES:
            rows = rows[draw.choice(len(rows), N_PROBES, replace=False)]
        low, high = X.min(axis=0), X.max(axis=0)
        centre, half = low + (high - low) / 2, (high - low) / 2
        box = centre + 3 * half * draw.uniform(-1, 1, (N_PROBES, X.shape[1]))
        base = draw.standard_normal((N_PROBES, self._n_active))
        own = self.flow_.inverse(torch.as_tensor(base))
        Z = self._whiten(X)[0]
        farthest = Z.square().sum(1).topk(min(N_PROBES // 4, len(Z))).indices
        probes = [self._whiten(rows)[0], Z[farthest], own, self._whiten(box)[0]]
        gaps = accuracy.choose_grids(self.flow_, probes)
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

    def _report(self, event):
        if self.verbose and event.kind != "scored":
            score = (
                ""
                if event.validation_nll is None
                else f", validation score {-event.validation_nll:.4f}"
            )
            print(
                f"[{type(self).__name__}] block {event.block} {event.kind} after "
                f"{event.n_iter} iterations{score}"
            )

    # ------------------------------------------------------------------ using

    @property
    def _n_active(self):
        """Number of whitened directions that the flow moves; the others are flat."""
        return self.n_features_in_ - self.gaussian_.n_flat_

    def _whiten(self, X):
        """Whitened columns that the flow moves, flat ones, and log|det| of each row."""
        Z, log_det = self.gaussian_.forward(X)
        flat = Z[:, self._n_active :]
        moving = torch.as_tensor(Z[:, : self._n_active].copy())
        return moving, flat, log_det

    def _scoring_flow(self):
        device = devices.for_scoring(self.device)
        if device.type == "cpu":
            return self.flow_, device
        # A copy: the fitted model stays on the CPU, and scoring changes nothing in it.
        return copy.deepcopy(self.flow_).to(device), device

    def _validated(self, X):
        check_is_fitted(self)
        return validate_data(self, X, dtype=np.float64, reset=False)

    def _score_samples(self, X):
        z, flat, log_det = self._whiten(X)
        flow, device = self._scoring_flow()
        (log_prob,) = in_chunks(
            lambda x, context: (flow.log_prob(x.to(device), context).cpu(),), z
        )
        scores = log_prob.numpy() + log_det + _normal_logpdf(flat)
        # Beyond about 1e154 standard deviations the square of a length overflows, and
        # so does the logarithm of the density.
        with np.errstate(over="ignore"):
            return np.where(np.isfinite(np.square(z.numpy()).sum(1)), scores, -np.inf)

    def score_samples(self, X):
        """Compute the log-density of every row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the data fitted.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            Log-density in nats, per unit of the data handed in, as float64.
        """
        return self._score_samples(self._validated(X))

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
        return float(np.average(self._score_samples(X), weights=weight))

    def transform(self, X):
        """Map rows to the latent standard normal.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the data fitted.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_features)
            Latent positions; standard normal where the model fits.
        """
        return self._trajectory(self._validated(X))[-1]

    def trajectory(self, X):
        """Follow rows through the blocks.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the data fitted.

        Returns
        -------
        positions : ndarray of shape (n_blocks_ + 1, n_samples, n_features)
            Whitened positions after block 0 and after every flow block; the last are
            those of `transform`.
        """
        return self._trajectory(self._validated(X))

    def _trajectory(self, X):
        z, flat, _ = self._whiten(X)
        flow, device = self._scoring_flow()
        positions = in_chunks(
            lambda x, context: tuple(
                p.cpu() for p in flow.trajectory(x.to(device), context)
            ),
            z,
        )
        return np.stack([np.hstack([p.numpy(), flat]) for p in positions])

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
        Z = check_array(Z, dtype=np.float64, input_name="Z", estimator=self)
        if Z.shape[1] != self.n_features_in_:
            raise ValueError(
                f"Z has {Z.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input."
            )
        return self._inverse_transform(Z)

    def _inverse_transform(self, Z):
        flow, device = self._scoring_flow()
        (moved,) = in_chunks(
            lambda z, context: (flow.inverse(z.to(device), context).cpu(),),
            torch.as_tensor(Z[:, : self._n_active].copy()),
        )
        return self.gaussian_.inverse(
            np.hstack([moved.numpy(), Z[:, self._n_active :]])
        )

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
            Rows in the units of the data fitted; a pandas DataFrame with the columns'
            names if the model was fitted on one.
        """
        check_is_fitted(self)
        if (
            not isinstance(n_samples, Integral)
            or isinstance(n_samples, bool)
            or n_samples < 1
        ):
            raise ValueError(
                f"The 'n_samples' parameter of {type(self).__name__}.sample must be an "
                f"int in the range [1, inf). Got {n_samples!r} instead."
            )
        rng = check_random_state(random_state)
        X = self._inverse_transform(
            rng.standard_normal((n_samples, self.n_features_in_))
        )
        if not self._returns_frame:
            return X
        import pandas as pd

        return pd.DataFrame(X, columns=self.feature_names_in_)


def _normal_logpdf(Z):
    """Standard normal log-density of every row of Z; zero for no columns."""
    return -0.5 * np.square(Z).sum(axis=1) - 0.5 * Z.shape[1] * math.log(2 * math.pi)


def _generator(rng):
    return torch.Generator().manual_seed(int(rng.randint(2**31 - 1)))
