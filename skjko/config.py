"""From an estimator's parameters to the configuration of a fit."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from functools import partial
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions

from skjko.components import JKOSchedule, MLPField, RungeKutta, VelocityField
from skjko.data.splits import CROSS_VALIDATION_SAMPLES
from skjko.fitted import FitConfig
from skjko.flow import devices
from skjko.flow.pilot import enough_iterations
from skjko.flow.training_config import RoundsConfig, TrainingConfig
from skjko.local_components import OWN_FIELDS
from skjko.transforms.base import Transform

# Share of a time limit that is kept for what follows the training, mostly the choice of
# scoring grids: so much of it up to some seconds, and no less than another share.
_RESERVE, _RESERVED_SECONDS, _LEAST_RESERVE = 0.1, 4.0, 0.04

# A fit with warm_start goes on from an earlier one with more of these ...
GROWING = ("max_blocks", "n_reparameterizations", "n_refinements")
# ... and with these unchanged.
_FIXED = (
    "init",
    "transforms",
    "field",
    "early_stopping",
    "validation_fraction",
    "bounds",
    "discrete",
)


CONSTRAINTS = {
    "init": [StrOptions({"auto", "gaussian", "mixture"})],
    "transforms": "no_validation",
    "field": [None, VelocityField],
    "schedule": [None, JKOSchedule],
    "solver": [None, RungeKutta],
    "max_blocks": [Interval(Integral, 0, None, closed="left")],
    "max_iter": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
    "alpha": [Interval(Real, 0, None, closed="left")],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "time_limit": [None, Interval(Real, 0, None, closed="neither")],
    "bounds": [None, "array-like", dict],
    "discrete": [None, StrOptions({"auto"}), "array-like", dict],
    "random_state": ["random_state"],
    "verbose": ["verbose"],
    "device": [str],
}
"""What parameters of a fit can be, as scikit-learn checks them."""


def parts(estimator):
    """Return field, schedule and solver of an estimator, checked, or the defaults."""
    found = (
        estimator.field or MLPField(),
        estimator.schedule or JKOSchedule(),
        estimator.solver or RungeKutta(),
    )
    for one in found:
        one.check()
    return found


def check_transforms(estimator):
    """Raise an error if the transforms are no list of them."""
    given = estimator.transforms
    if given is None or (isinstance(given, str) and given == "auto"):
        return
    if not isinstance(given, (list, tuple)) or not all(
        isinstance(one, Transform) for one in given
    ):
        raise ValueError(
            f"The 'transforms' parameter of {type(estimator).__name__} must be 'auto', "
            f"None or a list of skjko.transforms. Got {given!r} instead."
        )


def training_seconds(time_limit):
    """Return the seconds of a limit that the training may take."""
    reserve = min(_RESERVE * time_limit, _RESERVED_SECONDS)
    return time_limit - max(reserve, _LEAST_RESERVE * time_limit)


def fit_config(
    estimator, n_samples, n_effective, support, earlier=None, location_scale=None
):
    """Return the configuration of a fit.

    Parameters
    ----------
    estimator : JKOFlowDensity
        With checked parameters.
    n_samples : int
    n_effective : float
        Effective number of samples, by their weights.
    support : Support
    earlier : Fitted or None
        The fit to go on from.
    location_scale : LocationScale or None
        Of a conditional density.

    Returns
    -------
    config : FitConfig
    field : VelocityField
        With concrete parameters.
    """
    p, d = estimator, len(support.lower)
    spec, schedule, solver = parts(p)
    field, context = spec.resolve(n_effective, d), {}
    if location_scale is not None:
        context = {"n_context": location_scale.n_context}
    step_sizes = schedule.step_sizes(p.max_blocks)
    n_reparameterizations = schedule.n_reparameterizations
    n_refinements = schedule.n_refinements
    if earlier is not None:
        old = earlier.parameters["schedule"] or JKOSchedule()
        n_before = earlier.parameters["max_blocks"]
        n_grown = n_before - (old.free_block and n_before > 0)
        step_sizes = step_sizes[n_grown:] if p.max_blocks > n_before else ()
        n_reparameterizations -= old.n_reparameterizations
        n_refinements -= old.n_refinements
    new_field = partial(field.build, **context) if context else field.build
    n_targets = d - context.get("n_context", 0)
    module = new_field(n_targets, torch.Generator())
    divergence = solver.divergence_of(module, n_targets)
    config = FitConfig(
        init=_init(p, field),
        transforms=list(p.transforms)
        if isinstance(p.transforms, tuple)
        else p.transforms,
        support=support,
        rounds=RoundsConfig(
            step_sizes=step_sizes,
            n_reparameterizations=n_reparameterizations,
            n_refinements=n_refinements,
            max_step_size=schedule.max_step_size,
        ),
        validation_fraction=p.validation_fraction if p.early_stopping else None,
        new_field=new_field,
        training=_training(
            p, n_samples, d, n_effective, field, schedule, solver, divergence
        ),
        whitening=field.whitening,
        device=devices.resolve(p.device),
        tol=solver.tol,
        location_scale=location_scale,
    )
    return config, field


def _init(p, field):
    """What may stand in front of the blocks: a mixture's map would mix the features."""
    if field.whitening == "pca":
        return p.init
    if p.init == "mixture":
        raise ValueError(
            f"The 'init' parameter of {type(p).__name__} must be 'auto' or 'gaussian' "
            f"with a {type(field).__name__}: a mixture in front of the blocks would "
            "mix its features. Got 'mixture' instead."
        )
    return "gaussian"


def work(config, n_samples, n_features):
    """Return the samples of a minibatch times the weights of a field."""
    weights = config.new_field(n_features, torch.Generator()).parameters()
    batch_size = min(config.training.batch_size, n_samples)
    return batch_size * sum(weight.numel() for weight in weights)


def _training(
    p, n_samples, n_features, n_effective, field, schedule, solver, divergence
):
    is_small = n_effective < 2 * CROSS_VALIDATION_SAMPLES
    batch_size, max_iter = p.batch_size, p.max_iter
    if batch_size == "auto":
        batch_size = _batch_size(n_samples, n_features)
    if max_iter == "auto":
        max_iter = 200 if is_small else 500
        # A limit asks for what can be had in that time.
        if p.time_limit is not None and not is_small:
            max_iter = max(max_iter, enough_iterations(n_samples, batch_size))
    # Small samples overfit, sooner with Muon, and do not recover; on large ones a pause
    # may be due to the learning rate.
    by_size = {"n_evaluations": 10, "patience": 5}
    if is_small:
        by_size = {"n_evaluations": 10, "patience": 2}
    if n_effective < CROSS_VALIDATION_SAMPLES:
        # Cross-validation evaluates on all samples, with little noise.
        by_size = {"n_evaluations": 20, "patience": 1, "muon": False}
    if p.time_limit is not None:
        by_size["regularized_from"] = -math.inf
    n_steps = solver.n_steps
    if n_steps == "auto":
        n_steps = 2 if is_small or _needs_two_steps(field) else 1
    return TrainingConfig(
        max_iter=max_iter,
        batch_size=batch_size,
        learning_rate=p.learning_rate_init,
        alpha=p.alpha,
        n_steps=n_steps,
        divergence=divergence,
        n_probes=solver.n_probes,
        probe_scale=solver.probe_scale,
        movement_tol=schedule.movement_tol,
        **by_size,
    )


def _needs_two_steps(field):
    """Whether the solver's error estimate misses too much of the field."""
    params = field.get_params(deep=False)
    return bool(
        params.get("time_dependent", not isinstance(field, OWN_FIELDS))
        or params.get("activation") == "fourier"
    )


def _batch_size(n_samples, n_features):
    """Return the samples of a minibatch.

    Small ones learn most from few samples. Of very many, where a block starts close to
    what it learns, their noise is all that it sees.
    """
    largest = 1000 if n_features <= 3 else min(2000, max(500, n_samples // 150))
    return min(n_samples, max(128, min(largest, n_samples // 16)))


def goes_on(estimator, before):
    """Return whether a fit has more to train than the one that it goes on from.

    Parameters
    ----------
    estimator : JKOFlowDensity
    before : dict
        Parameters of the fit to go on from.

    Raises
    ------
    ValueError
        If the two do not fit together.
    """
    owner = type(estimator).__name__
    for name in _FIXED:
        old, new = before[name], getattr(estimator, name)
        if not _equal(old, new):
            raise ValueError(
                f"The {name!r} parameter of {owner} cannot change between fits with "
                f"warm_start=True: it was {old!r}. Got {new!r} instead. Set "
                "warm_start=False to start again."
            )
    old, new = _growing(before), _growing(estimator.get_params(deep=False))
    for name in GROWING:
        if new[name] < old[name]:
            raise ValueError(
                f"The {name!r} parameter of {owner} must be at least {old[name]}, that "
                f"of the fit to go on from, with warm_start=True. Got {new[name]!r} "
                "instead."
            )
    return old != new


def _growing(parameters):
    schedule = parameters["schedule"] or JKOSchedule()
    return {
        "max_blocks": parameters["max_blocks"],
        "n_reparameterizations": schedule.n_reparameterizations,
        "n_refinements": schedule.n_refinements,
    }


def _equal(old, new):
    if hasattr(old, "get_params") and type(old) is type(new):
        return _equal(old.get_params(deep=False), new.get_params(deep=False))
    if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
        pairs = zip(old, new, strict=False)
        return len(old) == len(new) and all(_equal(a, b) for a, b in pairs)
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_equal(old[k], new[k]) for k in old)
    return old is new or bool(np.array_equal(old, new))
