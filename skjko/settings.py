"""From an estimator's parameters to what the training needs to know of them."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from functools import partial
from numbers import Integral

import numpy as np

from skjko import fitting
from skjko.columns import choose_marginal_map
from skjko.flow import devices, fields, history, schedule
from skjko.flow.training import Options, enough_iterations
from skjko.marginals import LARGEST_WORK, choose_marginal_mixtures
from skjko.splitting import CROSS_VALIDATION_ROWS

# What a time limit keeps for what comes after the training, mostly the choice of
# scoring grids: a share of it up to some seconds, and no less than another share, for
# where the rows are many.
_RESERVE, _RESERVED_SECONDS, _LEAST_RESERVE = 0.1, 4.0, 0.04

# What mixtures may take of the time, or in seconds where that has no limit, on a
# machine that does so many operations a second: two cores do at best. They take as
# much only where that pays on held-out rows. In more seconds than the last they would
# only double again, for less than a flow behind them gains in that time.
_MIXTURE_SHARE, _MIXTURE_SECONDS, _RATE = 0.55, 120.0, 6e10
_MOST_MIXTURE_SECONDS = 240.0
# ... and those of single columns, together, of what mixtures may take.
_COLUMNS_SHARE = 0.1

# A fit continues an earlier one with more of these, and with the others unchanged.
GROWING = ("max_blocks", "n_reparameterizations", "n_refinements")
_FIXED = (
    "hidden_layer_sizes",
    "activation",
    "frequency",
    "time_dependent",
    "early_stopping",
    "validation_fraction",
    "bounds",
    "discrete",
    "marginal_map",
    "radial_map",
    "mixture_map",
)


def continues(estimator, before):
    """Whether a fit has more to train than the one that it continues.

    Parameters
    ----------
    estimator : JKOFlowDensity
    before : dict
        Parameters of the fit to continue.

    Raises
    ------
    ValueError
        If the two do not go together.
    """
    owner = type(estimator).__name__
    for name in _FIXED:
        old, new = before[name], getattr(estimator, name)
        nested = isinstance(old, (list, tuple, dict)) and old == new
        if not (nested or np.array_equal(old, new)):
            raise ValueError(
                f"The {name!r} parameter of {owner} cannot change between fits with "
                f"warm_start=True: it was {old!r}. Got {new!r} instead. Set "
                "warm_start=False to start again."
            )
    for name in GROWING:
        old, new = before[name], getattr(estimator, name)
        if new < old:
            raise ValueError(
                f"The {name!r} parameter of {owner} must be at least {old}, that of "
                f"the fit to continue, with warm_start=True. Got {new!r} instead."
            )
    return any(before[name] < getattr(estimator, name) for name in GROWING)


def training_seconds(time_limit):
    """Return the seconds of a limit, None for no limit, that the training may take."""
    if time_limit is None:
        return math.inf
    reserve = min(_RESERVE * time_limit, _RESERVED_SECONDS)
    return time_limit - max(reserve, _LEAST_RESERVE * time_limit)


def work(estimator, n_samples, support, deadline, journal, before=None):
    """Return what there is to train, and what to train it with.

    Parameters
    ----------
    estimator : JKOFlowDensity
        With checked parameters.
    n_samples : int
    support : Support
        Of the columns.
    deadline : Deadline
    journal : Journal
    before : dict or None
        Parameters of the fit to continue.

    Returns
    -------
    work : fitting.Work

    Raises
    ------
    ValueError
        If `hidden_layer_sizes` are none, or the device is not there.
    """
    p = estimator
    step_sizes = schedule.plan(
        p.step_size, p.step_size_growth, p.max_step_size, p.max_blocks, p.free_block
    )
    n_reparameterizations, n_refinements = p.n_reparameterizations, p.n_refinements
    if before is not None:
        n_grown = before["max_blocks"] - before["free_block"]
        more = p.max_blocks > before["max_blocks"]
        step_sizes = step_sizes[n_grown:] if more else ()
        n_reparameterizations -= before["n_reparameterizations"]
        n_refinements -= before["n_refinements"]
    return fitting.Work(
        step_sizes,
        n_reparameterizations,
        n_refinements,
        p.max_step_size,
        p.validation_fraction if p.early_stopping else None,
        _new_field(p, n_samples),
        _options(p, n_samples),
        devices.resolve(p.device),
        _reporter(p),
        deadline,
        support,
        _marginals(p),
        p.radial_map is not None,
        _mixture_work(p),
        journal,
    )


def _mixture_work(p):
    """Return the floating-point operations that mixtures may take, in all."""
    if p.mixture_map is None:
        return 0.0
    seconds = _MIXTURE_SECONDS
    if p.time_limit is not None:
        seconds = min(_MIXTURE_SHARE * p.time_limit, _MOST_MIXTURE_SECONDS)
    return _RATE * seconds


def _marginals(p):
    """Return what may choose marginal maps: for a Gaussian first, then for mixtures."""
    if p.marginal_map is None:
        return (None,)
    work = min(LARGEST_WORK, _COLUMNS_SHARE * _mixture_work(p) / p.n_features_in_)
    return (
        choose_marginal_map,
        None,
        partial(choose_marginal_mixtures, work=work),
    )


def _options(p, n_samples):
    batch_size, max_iter = p.batch_size, p.max_iter
    is_small = n_samples < 2 * CROSS_VALIDATION_ROWS
    if batch_size == "auto":
        batch_size = _batch_size(n_samples, p.n_features_in_)
    if max_iter == "auto":
        max_iter = 200 if is_small else 500
        # Who sets a limit wants what can be had in that time. Without one, few would
        # wait so long for what many tables gain by it.
        if p.time_limit is not None and not is_small:
            max_iter = max(max_iter, enough_iterations(n_samples, batch_size))
    # Small samples overfit, sooner by Muon, and do not recover; on large ones a pause
    # may be the learning rate's, which a later iteration makes good.
    by_size = {"n_evaluations": 10, "patience": 5}
    if is_small:
        by_size = {"n_evaluations": 10, "patience": 3}
    if n_samples < CROSS_VALIDATION_ROWS:
        by_size = {"n_evaluations": 20, "patience": 3, "muon": False}
    return Options(
        max_iter=max_iter,
        batch_size=batch_size,
        learning_rate=p.learning_rate_init,
        alpha=p.alpha,
        n_ode_steps=_n_ode_steps(p, is_small),
        divergence=p.divergence,
        n_probes=p.n_probes,
        probe_scale=p.probe_scale,
        movement_tol=p.movement_tol,
        **by_size,
    )


def _batch_size(n_samples, n_features):
    """Return the rows of a batch.

    Small batches learn most from few rows. Of very many, where a block starts close to
    what it learns, their noise is all that it sees, and drives its units out of reach.
    """
    largest = 1000 if n_features <= 3 else min(2000, max(500, n_samples // 150))
    return min(n_samples, max(128, min(largest, n_samples // 16)))


def _n_ode_steps(p, is_small):
    """Return the solver steps of a block in training.

    One takes five evaluations of the field, and two take nine. But what keeps fields
    from exploiting it, the error estimate, is blind to their dependence on time, and
    does not hold high frequencies. Small samples mostly generalize worse by one, and
    are fitted soon anyway.
    """
    if p.n_ode_steps != "auto":
        return p.n_ode_steps
    needs_two = is_small or p.time_dependent or _activation(p) == "fourier"
    return 2 if needs_two else 1


def _activation(p):
    """Return the name of the nonlinearity of the hidden layers."""
    if p.activation != "auto":
        return p.activation
    return "fourier" if p.n_features_in_ <= 3 else "silu"


def _new_field(p, n_samples):
    """Return (n_features, generator) -> velocity field."""
    activation, frequency = _activation(p), p.frequency
    if frequency == "auto":
        frequency = _frequency(n_samples) if activation == "fourier" else 1.0
    is_sequence = np.ndim(p.hidden_layer_sizes) == 1
    sizes = tuple(p.hidden_layer_sizes) if is_sequence else (None,)
    even = activation == "fourier" and len(sizes) > 0
    if any(not isinstance(m, Integral) or m < 1 for m in sizes) or (
        even and sizes[0] % 2
    ):
        raise ValueError(
            f"The 'hidden_layer_sizes' parameter of {type(p).__name__} must be a "
            f"sequence of positive ints{', the first of them even' if even else ''}. "
            f"Got {p.hidden_layer_sizes!r} instead."
        )

    def new_field(n_features, generator):
        return fields.MLPField(
            n_features,
            sizes,
            activation,
            frequency,
            p.time_dependent,
            generator=generator,
        )

    return new_field


def _frequency(n_samples):
    """Highest frequency that so many rows in few dimensions can tell from noise.

    Chosen on the distributions of `skjko.datasets` at 1,000 to 200,000 rows.
    """
    return min(12.0, 3.0 * max(1.0, n_samples / 1000) ** 0.26)


def _reporter(p):
    """Return what prints a line for every block, if it is wanted."""
    name = type(p).__name__

    def report(event):
        if event.kind == "scored":
            return
        score = (
            ""
            if event.validation_nll is None
            else f", validation score {-event.validation_nll:.4f}"
        )
        again = "" if event.round == "grow" else f"{event.round}: "
        print(
            f"[{name}] {again}block {event.block} {event.kind} after {event.n_iter} "
            f"iterations{score}"
        )

    return report if p.verbose else history.silent
