"""Fields and blocks as plain values beside their weights, and back.

A description holds names, numbers and bools alone, so that JSON can carry it. It is
read with suspicion: it decides what is built, and may come from anywhere.
"""

# SPDX-License-Identifier: BSD-3-Clause

import math
from functools import partial

import torch

from skjko.flow.fields import ACTIVATIONS, Confined, MLPField, Part
from skjko.flow.flow import Block

# Far above any grid that scores or decides; more would only keep the reader waiting.
_MOST_STEPS = 4096


def describe(block):
    """Return what :func:`build` needs to make a block again, beside its weights.

    Parameters
    ----------
    block : Block

    Returns
    -------
    description : dict

    Raises
    ------
    ValueError
        If a field is none of those known here.
    """
    return {
        "step_size": None if math.isinf(block.step_size) else block.step_size,
        "n_ode_steps": block.n_ode_steps,
        "field": describe_field(block.field),
    }


def describe_field(field):
    """Return what a field is, as plain values, beside its weights."""
    for kind, (cls, _, entries) in _KINDS.items():
        if type(field) is cls:
            plain = {
                name: to_plain(getattr(field, name))
                for name, (to_plain, _) in entries.items()
            }
            return {"kind": kind, **plain}
    raise ValueError(f"a {type(field).__name__} has no description")


def build(description, weights):
    """Make the block that was described.

    Parameters
    ----------
    description : dict
        As from :func:`describe`; anything else is refused.
    weights : callable
        Maps the name and the shape of a weight to its tensor.

    Returns
    -------
    block : Block
        Frozen.

    Raises
    ------
    ValueError
        If nothing can be built from the description.
    """
    values = checked(
        description,
        "block",
        step_size=lambda value: value is None or _is_positive(value),
        n_ode_steps=lambda value: is_count(value, 1) and value <= _MOST_STEPS,
        field=lambda value: isinstance(value, dict),
    )
    try:
        # Nothing is allocated there: what is asked for may be of any size.
        with torch.device("meta"):
            field = _build_field(values["field"])
    except (RuntimeError, OverflowError) as error:
        raise ValueError("the field is too large or nested too deeply") from error
    state = {
        name: weights(name, tuple(expected.shape))
        for name, expected in field.state_dict().items()
    }
    field.load_state_dict(state, assign=True)
    for module in field.modules():
        if isinstance(module, Confined) and not module.radius > 0:
            raise ValueError("the radius of a field is not positive")
    step_size = math.inf if values["step_size"] is None else values["step_size"]
    return Block(field, step_size, values["n_ode_steps"]).requires_grad_(False)


def sizes(block):
    """Return the numbers of columns of a block's positions and of its condition."""
    field = block.field
    while not isinstance(field, MLPField):
        field = field.field
    return field.n_features, field.n_context


def checked(mapping, name, /, **checks):
    """Return a mapping that has just the keys and passes the checks of its values.

    Raises
    ------
    ValueError
        If it does not, or is no mapping.
    """
    if not isinstance(mapping, dict) or mapping.keys() != checks.keys():
        raise ValueError(f"{name!r} has not just the entries {', '.join(checks)}")
    for key, is_valid in checks.items():
        if not is_valid(mapping[key]):
            raise ValueError(f"{key!r} in {name!r} is {_short(mapping[key])}")
    return mapping


def is_count(value, least=0):
    """Whether a value is an int of at least so much, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value):
    """Whether a value is an int or a finite float, and no bool."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def is_flag(value):
    """Whether a value is True or False."""
    return isinstance(value, bool)


def _is_positive(value):
    return is_number(value) and value > 0


def _is_size(value, least=1):
    return is_count(value, least) and value < 2**31


def _is_sizes(value):
    return isinstance(value, list) and all(map(_is_size, value))


def _ints(values):
    return [int(value) for value in values]


def _is_activation(value):
    return isinstance(value, str) and value in ACTIVATIONS


def _is_share(value):
    return is_number(value) and 0 <= value <= 1


def _is_field(value):
    return isinstance(value, dict)


# How to make every kind of field, and what of: the attributes of those names, which are
# the constructor's arguments too, as plain values and checked. The radius of a confined
# field is among its weights.
_KINDS = {
    "mlp": (
        MLPField,
        MLPField,
        {
            "n_features": (int, _is_size),
            "hidden_layer_sizes": (_ints, _is_sizes),
            "activation": (str, _is_activation),
            "time_dependent": (bool, is_flag),
            "n_context": (int, partial(_is_size, least=0)),
        },
    ),
    "part": (
        Part,
        Part,
        {
            "field": (describe_field, _is_field),
            "start": (float, _is_share),
            "length": (float, _is_share),
        },
    ),
    "confined": (
        Confined,
        partial(Confined, radius=1.0),
        {"field": (describe_field, _is_field)},
    ),
}


def _build_field(description):
    kind = description.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"there is no kind of field {_short(kind)}")
    _, make, entries = _KINDS[kind]
    values = {name: value for name, value in description.items() if name != "kind"}
    checks = {name: is_valid for name, (_, is_valid) in entries.items()}
    checked(values, kind, **checks)
    widths = values.get("hidden_layer_sizes")
    if widths and values["activation"] == "fourier" and widths[0] % 2:
        raise ValueError(f"a first layer of {widths[0]} sines and cosines is not even")
    if "field" in values:
        values["field"] = _build_field(values["field"])
    return make(**values)


def _short(value):
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
