"""Parameters of an estimator, random states among them, as plain values, and back."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from numbers import Integral, Real

import numpy as np

from skjko.flow.description import checked, is_count, is_flag


def plain_parameters(parameters, states):
    """Return parameters as what JSON has; append their random states to `states`.

    Raises
    ------
    ValueError
        If one is of a type that is not known here.
    """
    return {
        name: _plain(value, name, states) for name, value in sorted(parameters.items())
    }


def _plain(value, name, states):
    """Return the value of a parameter, made of what JSON has; collect random states."""
    if value is None:
        return None
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) and not math.isnan(value):
        # JSON has no infinity; a bound may be one.
        return float(value) if math.isfinite(value) else {"infinite": bool(value > 0)}
    if isinstance(value, np.ndarray) and value.ndim:
        value = tuple(value)
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_plain(item, name, states) for item in value]}
    if isinstance(value, dict):
        # Pairs, for a key may be the number of a column.
        return {
            "dict": [
                [_plain(key, name, states), _plain(item, name, states)]
                for key, item in value.items()
            ]
        }
    if isinstance(value, np.random.RandomState):
        # One that is shared stays shared.
        known = [i for i, state in enumerate(states) if state is value]
        if not known:
            states.append(value)
        return {"random_state": known[0] if known else len(states) - 1}
    raise ValueError(f"the parameter {name!r} is {value!r}")


def value_of(plain, name, states):
    """Return the value of a parameter; the inverse of `_plain`."""
    if not isinstance(plain, (dict, list)):
        return plain
    if isinstance(plain, dict) and len(plain) == 1:
        ((kind, content),) = plain.items()
        if kind in ("list", "tuple") and isinstance(content, list):
            items = [value_of(item, name, states) for item in content]
            return items if kind == "list" else tuple(items)
        if kind == "infinite" and is_flag(content):
            return math.inf if content else -math.inf
        if kind == "dict" and isinstance(content, list):
            return _dict_value(content, name, states)
        if kind == "random_state" and is_count(content) and content < len(states):
            return states[content]
    raise ValueError(f"the value of the parameter {name!r} cannot be read")


def _dict_value(pairs, name, states):
    result = {}
    for pair in pairs:
        if not (
            isinstance(pair, list)
            and len(pair) == 2
            and isinstance(pair[0], (str, int))
            and pair[0] not in result
        ):
            raise ValueError(f"the value of the parameter {name!r} cannot be read")
        result[pair[0]] = value_of(pair[1], name, states)
    return result


def put_random_state(state, prefix, arrays):
    """Return a RandomState as plain values; put the rest of it into `arrays`."""
    values = state.get_state(legacy=False)
    if values["bit_generator"] != "MT19937":
        raise ValueError(
            f"its random_state draws from {values['bit_generator']}; pass an int, or "
            "a RandomState as NumPy makes it"
        )
    arrays[f"{prefix}.keys"] = values["state"]["key"].astype(np.uint32)
    arrays[f"{prefix}.gauss"] = np.array(values["gauss"], dtype=np.float64)
    return {
        "position": int(values["state"]["pos"]),
        "has_gauss": bool(values["has_gauss"]),
    }


def take_random_state(plain, prefix, shelf):
    """Return a RandomState that goes on where the other one was."""
    checked(
        plain,
        prefix,
        position=lambda value: is_count(value) and value <= 624,
        has_gauss=is_flag,
    )
    keys = shelf.take(f"{prefix}.keys", (624,), "u")
    gauss = float(shelf.take_float64(f"{prefix}.gauss", ()))
    state = np.random.RandomState()
    position, has_gauss = plain["position"], int(plain["has_gauss"])
    state.set_state(("MT19937", keys, position, has_gauss, gauss))
    return state
