"""A fitted estimator to and from a file, without pickle.

The file has what a fit cannot be rebuilt without: the parameters, the whitening, the
weights of the blocks, and what was recorded while they were trained. Everything else is
worked out from that, as `fit` does, so that a file cannot contradict itself.

Format version 5 is described by the functions of this module, of `parameters.py` and of
`shelf.py`, in pairs: what one of them puts into the file the other one takes out. A
change of what is in the file needs a new version, and a reader that still understands
the old ones: version 1 had no mixtures, version 2 none of single columns, version 3 no
regularized rounds, version 4 no radial maps.
"""

# SPDX-License-Identifier: BSD-3-Clause

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skjko import container
from skjko.columns import MarginalMap
from skjko.fitting import Fitted
from skjko.flow import devices, history, threads
from skjko.flow.description import checked, is_count, is_flag, is_number
from skjko.lattice import Lattice
from skjko.marginals import MarginalMixtures
from skjko.parameters import (
    plain_parameters,
    put_random_state,
    take_random_state,
    value_of,
)
from skjko.preprocessing import GaussianWhitening, Preprocessing
from skjko.radial import RadialMap
from skjko.rosenblatt import RosenblattMap
from skjko.shelf import Shelf, put_blocks, take_blocks
from skjko.support import Support
from skjko.table import KNOWN, Table

FORMAT_VERSION = 5

# What a file has of every block of a round, an array for each attribute of BlockRecord.
# Its losses and its validation score are told apart, for they are many, or none.
_FLOATS = {"step_sizes": "step_size", "movements": "movement"}
_COUNTS = {"n_iters": "n_iter", "n_planned": "n_planned"}

# Parts of mixtures, in standard deviations of the data, are not as narrow or far out.
_LEAST_DEVIATION, _LARGEST_DEVIATION = 1e-6, 1e12

# Kinds of marginal maps.
_TAILS, _MIXTURES = _MARGINALS = ("tails", "mixtures")

_ROUNDS = (*history.ADDING, history.REPARAMETERIZE, history.REFINE)


class Form(NamedTuple):
    """What the files of a class of estimators have in them.

    Attributes
    ----------
    version : int
        Of what follows.
    dismantle : callable
        `(estimator, arrays) -> model` takes a fitted estimator apart: its arrays go
        into the dict, and all else is plain values.
    assemble : callable
        `(cls, model, shelf, version) -> estimator` makes it again, from a file of any
        version so far.
    """

    version: int
    dismantle: Callable
    assemble: Callable


class Saved:
    """The methods of an estimator that have to do with files.

    A class that has them names the `Form` of its files.
    """

    _form: Form

    def save(self, path):
        """Write the fitted estimator to one file, without pickle.

        Parameters
        ----------
        path : str or path-like
            The file, by custom with the ending ".safetensors". One that is there is
            replaced in one step: a save that fails leaves it as it was.

        Raises
        ------
        ValueError
            If a parameter is of no type that it takes, a weight is not finite, or a
            density inside is of a class derived from `JKOFlowDensity`.
        OSError
            If the file cannot be written.

        See Also
        --------
        load : The way back.

        Notes
        -----
        The file has everything: parameters, weights, what was recorded in training, and
        what `warm_start` needs, but no data. NumPy's numbers among the parameters come
        back as Python's, arrays as tuples, paths as strings, and a RandomState goes on
        where it was. Metadata routing requests are not saved.
        """
        check_is_fitted(self)
        kind = type(self).__name__
        try:
            arrays = {}
            model = self._form.dismantle(self, arrays)
            content = container.dump(kind, self._form.version, model, arrays)
            # What cannot be read is not written: better to learn of it now.
            _parse(type(self), content)
        except ValueError as error:
            raise ValueError(f"This {kind} cannot be saved: {error}") from error
        container.write(path, content)

    @classmethod
    def load(cls, path):
        """Read a fitted estimator from a file that `save` wrote.

        Nothing in the file is executed, so it may come from anywhere.

        Parameters
        ----------
        path : str or path-like
            The file.

        Returns
        -------
        estimator : object
            Of this class. It does what the one that was saved did, bit for bit on the
            same machine; a density can be fitted on with `warm_start=True`.

        Raises
        ------
        ValueError
            If the file is damaged, from a newer version of skjko, or holds something
            else, such as an estimator of another class.
        OSError
            If there is no such file, or it cannot be read.

        Examples
        --------
        >>> import os, tempfile
        >>> import numpy as np
        >>> from skjko import JKOFlowDensity
        >>> X = np.random.default_rng(0).normal(size=(50, 2))
        >>> density = JKOFlowDensity(max_blocks=0).fit(X)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "gaussian.safetensors")
        ...     density.save(path)
        ...     loaded = JKOFlowDensity.load(path)
        >>> loaded.score(X) == density.score(X)
        True
        """
        content = Path(path).read_bytes()
        try:
            return _parse(cls, content)
        except (ValueError, RecursionError) as error:
            what = "it is nested too deeply" if type(error) is RecursionError else error
            raise ValueError(f"Cannot load {str(path)!r}: {what}") from error


@threads.fork_safe()
def _parse(cls, content):
    version, model, arrays = container.parse(content, cls.__name__, cls._form.version)
    shelf = Shelf(arrays)
    estimator = cls._form.assemble(cls, model, shelf, version)
    shelf.check_empty()
    return estimator


# ------------------------------------------------------------------- the estimator


def _dismantle(density, arrays):
    """Return a fitted estimator as plain values; put the rest of it into `arrays`."""
    fitted = density._fitted
    states = []
    names = getattr(density, "feature_names_in_", None)
    output = getattr(density, "_sklearn_output_config", {})
    arrays["solver_gaps"] = density.solver_gaps_
    return {
        "parameters": plain_parameters(density.get_params(deep=False), states),
        "fitted_with": plain_parameters(density._fitted_with, states),
        "random_states": [
            put_random_state(state, f"random_states.{i}", arrays)
            for i, state in enumerate(states)
        ],
        "n_features_in": int(density.n_features_in_),
        "feature_names_in": None if names is None else [str(name) for name in names],
        "table": {
            "container": density._table.container,
            "names": density._table.names and [str(n) for n in density._table.names],
            "dtypes": list(density._table.dtypes),
        },
        "transform_output": output.get("transform"),
        "data": fitted.data,
        "split_seed": int(fitted.split_seed),
        "marginal": _put_columns(density._preprocessing, arrays),
        "has_radial": _put_radial(density.radial_map_, arrays),
        "has_mixture": _put_mixture(density.mixture_map_, arrays),
        "gaussian": _put_gaussian(density.gaussian_, arrays),
        "flow": put_blocks(density.flow_.blocks, "flow", arrays),
        "fold_flows": [
            put_blocks(blocks, f"fold_flows.{i}", arrays)
            for i, blocks in enumerate(fitted.fold_flows)
        ],
        "rounds": [
            _put_round(one, f"rounds.{i}", arrays)
            for i, one in enumerate(fitted.rounds)
        ],
        "has_base_nll": _put_base_nll(fitted.base_nll, arrays),
    }


def _assemble(cls, model, shelf, version):
    """Make a fitted estimator from what `_dismantle` took it apart into."""
    if version == 1:
        if "has_mixture" in model:
            raise ValueError("there were no mixtures in its version of the format")
        model = {**model, "has_mixture": False}
    if version < 3:
        model = _with_marginal_of_version_3(model)
    if version < 5:
        if "has_radial" in model:
            raise ValueError("there were no radial maps in its version of the format")
        model = {**model, "has_radial": False}
    checked(
        model,
        "model",
        parameters=_is_dict,
        fitted_with=_is_dict,
        random_states=_is_list,
        n_features_in=lambda value: is_count(value, 1),
        feature_names_in=lambda value: value is None or _is_list(value),
        table=_is_dict,
        transform_output=lambda v: v in (None, "default", "pandas", "polars"),
        data=_is_str,
        split_seed=lambda value: is_count(value) and value < 2**31,
        marginal=lambda value: value in (None, *_MARGINALS),
        has_radial=is_flag,
        has_mixture=is_flag,
        gaussian=_is_dict,
        flow=_is_list,
        fold_flows=_is_list,
        rounds=_is_list,
        has_base_nll=is_flag,
    )
    states = [
        take_random_state(plain, f"random_states.{i}", shelf)
        for i, plain in enumerate(model["random_states"])
    ]
    density = new_estimator(cls, model["parameters"], states)
    fitted_with = new_estimator(cls, model["fitted_with"], states)
    fitted_with = fitted_with.get_params(deep=False)
    d = density.n_features_in_ = model["n_features_in"]
    names = model["feature_names_in"]
    if names is not None:
        density.feature_names_in_ = feature_names(names, d)
    if model["transform_output"] is not None:
        density.set_output(transform=model["transform_output"])
    density._n_features_out = d
    density._table = _take_table(model["table"], names, d)

    preprocessing = Preprocessing(_take_support(d, shelf))
    marginal = _take_marginal(model["marginal"], d, shelf)
    gaussian = _take_gaussian(model["gaussian"], d, shelf)
    radial = _take_radial(shelf) if model["has_radial"] else None
    mixture = None
    if model["has_mixture"]:
        mixture = _take_mixture(d - gaussian.n_flat_, shelf)
    preprocessing.complete(marginal, gaussian, radial, mixture)
    rounds = [
        _take_round(plain, f"rounds.{i}", shelf)
        for i, plain in enumerate(model["rounds"])
    ]
    n_active = d - preprocessing.n_flat_
    blocks = take_blocks(model["flow"], "flow", n_active, shelf)
    fold_flows = [
        take_blocks(plain, f"fold_flows.{i}", None, shelf)
        for i, plain in enumerate(model["fold_flows"])
    ]
    _check_agreement(rounds, [blocks, *fold_flows])
    base_nll = None
    if model["has_base_nll"]:
        base_nll = float(shelf.take_float64("base_nll", (), finite=False))
    scored = [r.validation_nll is not None for one in rounds for r in one.records]
    if any(is_scored != (base_nll is not None) for is_scored in scored):
        raise ValueError("only some of the validation scores are there")

    fitted = Fitted(
        preprocessing,
        blocks,
        model["data"],
        model["split_seed"],
        rounds,
        base_nll,
        fold_flows,
    )
    density._record(fitted)
    density._fitted_with = fitted_with
    density.n_ode_steps_ = np.array([b.n_ode_steps for b in blocks], int)
    density.solver_gaps_ = shelf.take_float64(
        "solver_gaps", (len(blocks), 2), finite=False
    )
    return density


def feature_names(names, d):
    """Return a list from a file as names of d features."""
    if len(names) != d or not all(map(_is_str, names)):
        raise ValueError(f"the names of the features are not {d} strings")
    return np.array(names, dtype=object)


DENSITY = Form(FORMAT_VERSION, _dismantle, _assemble)


def _check_agreement(rounds, flows):
    """Check that the flows are what the last accepted round made."""
    accepted = [one for one in rounds if one.accepted]
    sizes = [r.step_size for r in accepted[-1].records] if accepted else []
    if any([block.step_size for block in blocks] != sizes for blocks in flows):
        raise ValueError("the blocks are not those of the last accepted round")


# ------------------------------------------------------------------- parameters


def new_estimator(cls, plain, states):
    """Return an estimator with these parameters, and the default of any new one."""
    unknown = plain.keys() - set(cls._get_param_names())
    if unknown:
        raise ValueError(f"{cls.__name__} has no parameter {min(unknown)!r}")
    values = {name: value_of(value, name, states) for name, value in plain.items()}
    estimator = cls(**values)
    estimator._validate_params()
    # A name that is no device's; one that is not here will do, for scores.
    devices.for_scoring(estimator.device)
    return estimator


# ------------------------------------------------------------------- what was fitted


def _take_table(plain, names, d):
    checked(
        plain,
        "table",
        container=lambda value: _is_str(value) and value in KNOWN,
        names=lambda value: value is None or _is_list(value),
        dtypes=_is_list,
    )
    container, dtypes = plain["container"], plain["dtypes"]
    if len(dtypes) != d or not all(
        _is_str(dtype) and dtype in KNOWN[container] for dtype in dtypes
    ):
        raise ValueError(f"the types of the columns are not {d} of {container}'s")
    # Names are those of the features: a table is told from an array by having them.
    if plain["names"] != (None if container == "numpy" else names):
        raise ValueError("the names of the table are not those of the features")
    if container != "numpy" and names is None:
        raise ValueError("there are no names for the data frames that it returns")
    return Table(container, plain["names"], dtypes)


def _put_columns(preprocessing, arrays):
    """Put support and marginal map into the arrays; return what map there is."""
    support, marginal = preprocessing.support, preprocessing.marginal_
    arrays["support.start"] = support.lattice.start
    arrays["support.step"] = support.lattice.step
    arrays["support.lower"] = support.lower
    arrays["support.upper"] = support.upper
    if marginal is None:
        return None
    arrays["marginal.columns"] = marginal.columns.astype(np.int64)
    arrays["marginal.centre"] = marginal.centre
    arrays["marginal.width"] = marginal.width
    if isinstance(marginal, MarginalMap):
        return _TAILS
    for i, one in enumerate(marginal.maps):
        _put_mixture(one, arrays, f"marginal.{i}")
    return _MIXTURES


def _take_support(d, shelf):
    start = shelf.take_float64("support.start", (d,))
    step = shelf.take_float64("support.step", (d,), finite=False, least=0)
    lower = shelf.take_float64("support.lower", (d,), finite=False)
    upper = shelf.take_float64("support.upper", (d,), finite=False)
    lattice = Lattice(start, step)
    with np.errstate(over="ignore", invalid="ignore"):
        cells = lattice.widened(lower, upper)
    if not ((lower < upper).all() and (cells[0] < cells[1]).all()):
        raise ValueError("the lower bounds are not below the upper ones")
    return Support(lattice, lower, upper)


def _with_marginal_of_version_3(model):
    """The plain values of an older file, with its flags in today's form."""
    names = ("with_marginal", "has_marginal")
    if not all(name in model for name in names):
        # That something is missing is told with all else that is wrong.
        return model
    model = dict(model)
    flags = [model.pop(name) for name in names]
    if "marginal" in model or not all(map(is_flag, flags)):
        raise ValueError("its flags of marginal maps are not those of its version")
    return {**model, "marginal": _TAILS if flags[1] else None}


def _take_marginal(kind, d, shelf):
    if kind is None:
        return None
    columns = shelf.take("marginal.columns", (None,), "i", least=0)
    size = (len(columns),)
    centre = shelf.take_float64("marginal.centre", size)
    width = shelf.take_float64("marginal.width", size, least=0)
    if not ((np.diff(columns) > 0).all() and (columns < d).all() and (width > 0).all()):
        raise ValueError("the marginal map is not one of the columns")
    columns = columns.astype(int)
    if kind == _TAILS:
        return MarginalMap(columns, centre, width)
    maps = [_take_mixture(1, shelf, f"marginal.{i}") for i in range(len(columns))]
    return MarginalMixtures(columns, centre, width, maps)


def _put_gaussian(gaussian, arrays):
    parts = gaussian.parts
    for name in ("mean", "scale", "vectors", "deviation"):
        arrays[f"gaussian.{name}"] = parts[name]
    return {"n_flat": parts["n_flat"], "shrinkage": parts["shrinkage"]}


def _take_gaussian(plain, d, shelf):
    checked(plain, "gaussian", n_flat=is_count, shrinkage=is_number)
    shapes = {"mean": (d,), "scale": (d,), "vectors": (d, d), "deviation": (d,)}
    parts = {
        name: shelf.take_float64(f"gaussian.{name}", shape)
        for name, shape in shapes.items()
    }
    return GaussianWhitening.from_parts(
        **parts, n_flat=plain["n_flat"], shrinkage=float(plain["shrinkage"])
    )


def _put_radial(radial, arrays):
    if radial is not None:
        arrays["radial"] = np.array([radial.radius, radial.scale])
    return radial is not None


def _take_radial(shelf):
    radius, scale = shelf.take_float64("radial", (2,), least=0).tolist()
    if not min(radius, scale) > 0:
        raise ValueError("the radius and the scale of the radial map are not positive")
    return RadialMap(radius, scale)


def _put_mixture(mixture, arrays, prefix="mixture"):
    if mixture is not None:
        arrays[f"{prefix}.weights"] = mixture.weights
        arrays[f"{prefix}.means"] = mixture.means
        arrays[f"{prefix}.factors"] = mixture.factors
    return mixture is not None


def _take_mixture(d, shelf, prefix="mixture"):
    weights = shelf.take_float64(f"{prefix}.weights", (None,), least=0)
    n = len(weights)
    means = shelf.take_float64(f"{prefix}.means", (n, d))
    factors = shelf.take_float64(f"{prefix}.factors", (n, d, d))
    diagonals = np.diagonal(factors, axis1=1, axis2=2)
    if not (
        n > 0
        and d > 0
        and (weights > 0).all()
        and abs(weights.sum() - 1) < 1e-6
        and (diagonals > _LEAST_DEVIATION).all()
        and (np.triu(factors, 1) == 0).all()
        and max(np.abs(means).max(), np.abs(factors).max()) < _LARGEST_DEVIATION
    ):
        raise ValueError("the parts of the mixture do not make one")
    return RosenblattMap(weights, means, factors)


def _put_round(one, prefix, arrays):
    records = one.records
    floats = {name: [getattr(r, x) for r in records] for name, x in _FLOATS.items()}
    counts = {name: [getattr(r, x) for r in records] for name, x in _COUNTS.items()}
    floats["losses"] = [loss for r in records for loss in r.losses]
    counts["n_losses"] = [len(r.losses) for r in records]
    scores = [r.validation_nll for r in records if r.validation_nll is not None]
    if scores:
        floats["validation_nlls"] = scores
    for columns, dtype in ((floats, np.float64), (counts, np.int64)):
        for name, column in columns.items():
            arrays[f"{prefix}.{name}"] = np.array(column, dtype=dtype)
    return {
        "kind": one.kind,
        "n_kept": int(one.n_kept),
        "accepted": bool(one.accepted),
        "n_minibatches": int(one.n_minibatches),
    }


def _take_round(plain, prefix, shelf):
    checked(
        plain,
        prefix,
        kind=lambda value: _is_str(value) and value in _ROUNDS,
        n_kept=is_count,
        accepted=is_flag,
        n_minibatches=is_count,
    )
    n_losses = shelf.take(f"{prefix}.n_losses", (None,), "i", least=0).tolist()
    n = len(n_losses)
    if plain["n_kept"] > n:
        raise ValueError(f"{prefix!r} keeps more blocks than it has")
    columns = {
        attribute: shelf.take_float64(
            f"{prefix}.{name}", (n,), finite=False, least=0
        ).tolist()
        for name, attribute in _FLOATS.items()
    }
    for name, attribute in _COUNTS.items():
        columns[attribute] = shelf.take(f"{prefix}.{name}", (n,), "i", least=0).tolist()
    losses = shelf.take_float64(f"{prefix}.losses", (sum(n_losses),), finite=False)
    ends = np.cumsum(n_losses, dtype=int).tolist()
    columns["losses"] = [
        losses[end - n_own : end].tolist()
        for end, n_own in zip(ends, n_losses, strict=True)
    ]
    columns["validation_nll"] = [None] * n
    if (name := f"{prefix}.validation_nlls") in shelf:
        scores = shelf.take_float64(name, (n,), finite=False)
        columns["validation_nll"] = scores.tolist()
    records = [
        history.BlockRecord(**{name: column[k] for name, column in columns.items()})
        for k in range(n)
    ]
    return history.Round(
        plain["kind"],
        records,
        plain["n_kept"],
        plain["accepted"],
        plain["n_minibatches"],
    )


def _put_base_nll(base_nll, arrays):
    if base_nll is not None:
        arrays["base_nll"] = np.array(base_nll, dtype=np.float64)
    return base_nll is not None


def _is_dict(value):
    return isinstance(value, dict)


def _is_list(value):
    return isinstance(value, list)


def _is_str(value):
    return isinstance(value, str)
