"""States: objects as JSON and arrays, and back, without pickle.

Every class that is saved has `get_state()`, which returns plain values, arrays and
other such objects, and `from_state(state)`, which checks what it gets: a file may come
from anywhere. Only classes of a registry are made.
"""

# SPDX-License-Identifier: BSD-3-Clause

import dataclasses
import math
import os
from numbers import Integral, Real

import numpy as np
import torch

# More than any state needs; deeper nesting would exhaust Python's stack.
_MAX_DEPTH = 60
_KINDS = {np.dtype(t).str for t in ("<f4", "<f8", "<i8", "<u4", "|u1")}


def pack(value, arrays, name="state", registry=None):
    """Return a value as what JSON has; put its arrays into a dict.

    Parameters
    ----------
    value : object
        Made of None, bools, numbers, strings, paths, lists, tuples, dicts, arrays,
        tensors, random states, and objects of the registry.
    arrays : dict
        Gets the arrays, by their place in the value.
    name : str
        Of the value.
    registry : dict of str to class

    Raises
    ------
    ValueError
        If the value holds something else.
    """
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        # JSON has no infinity, and no NaN.
        return float(value) if math.isfinite(value) else {"float": str(float(value))}
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return _pack_array(value, arrays, name)
    if isinstance(value, np.random.RandomState):
        return _pack_random_state(value, arrays, name)
    if isinstance(value, (list, tuple)) and not hasattr(value, "get_state"):
        items = [pack(v, arrays, f"{name}.{i}", registry) for i, v in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, dict):
        return {
            "dict": [
                [pack(k, {}, name), pack(v, arrays, f"{name}.{k}", registry)]
                for k, v in value.items()
            ]
        }
    kind = type(value).__name__
    if (registry or {}).get(kind) is not type(value):
        raise ValueError(f"{name} is {value!r}")
    return {"object": kind, "state": pack(_state_of(value), arrays, name, registry)}


def unpack(plain, arrays, registry=None, depth=0):
    """Return the value that was packed; takes its arrays out of the dict.

    Raises
    ------
    ValueError
        If nothing that `pack` returns is like this.
    """
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    if plain is None or isinstance(plain, (str, bool, int, float)):
        return plain

    def inner(value):
        return unpack(value, arrays, registry, depth + 1)

    if isinstance(plain, list):
        return [inner(value) for value in plain]
    keys = set(plain)
    if keys == {"float"} and plain["float"] in ("inf", "-inf", "nan"):
        return float(plain["float"])
    if keys == {"array"} and isinstance(plain["array"], str):
        return _unpack_array(plain["array"], arrays)
    if keys == {"tuple"} and isinstance(plain["tuple"], list):
        return tuple(inner(value) for value in plain["tuple"])
    if keys == {"dict"} and isinstance(plain["dict"], list):
        return _unpack_dict(plain["dict"], inner)
    if keys == {"random_state", "keys", "gauss"}:
        return _unpack_random_state(plain, inner)
    if keys == {"object", "state"}:
        kind = plain["object"]
        if not isinstance(kind, str) or kind not in (registry or {}):
            raise ValueError(f"there is no class {str(kind)[:40]!r} that may be loaded")
        cls, state = registry[kind], inner(plain["state"])
        if not isinstance(state, dict):
            raise ValueError(f"the state of a {kind} is no dict")
        return _from_state(cls, state)
    raise ValueError("a value in it cannot be read")


def _state_of(value):
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {field.name: getattr(value, field.name) for field in fields}
    return value.get_state()


def _from_state(cls, state):
    try:
        if not dataclasses.is_dataclass(cls):
            return cls.from_state(state)
        value = cls(**state)
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise ValueError(f"the state of a {cls.__name__} is none ({error})") from error
    check_fields(value)
    return value


def check_fields(value):
    """Raise a ValueError if a field of a dataclass has not its declared type."""
    for field in dataclasses.fields(value):
        found = getattr(value, field.name)
        if not _has_type(found, str(field.type)):
            raise ValueError(
                f"{field.name!r} of a {type(value).__name__} is {str(found)[:40]}"
            )


def _has_type(found, declared):
    """Whether a value is of one of the types of an annotation, as far as told here."""
    simple = {
        "bool": lambda v: isinstance(v, bool),
        "int": lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 0,
        "float": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
        "str": lambda v: isinstance(v, str),
        "None": lambda v: v is None,
    }
    for one in declared.replace("typing.", "").split(" | "):
        one = one.removeprefix("<class '").removesuffix("'>")
        if one in simple:
            if simple[one](found):
                return True
        elif one.startswith("list[") and one.endswith("]"):
            inner = one[5:-1]
            if isinstance(found, list) and all(_has_type(v, inner) for v in found):
                return True
        elif one.startswith(("tuple", "dict")):
            if isinstance(found, (tuple, dict)):
                return True
        elif type(found).__name__ == one.rpartition(".")[2]:
            return True
    return False


def _pack_array(value, arrays, name):
    if value.dtype.kind in "fiub" and value.ndim:
        as_saved = {"f": np.float64, "i": np.int64, "u": np.uint32, "b": np.uint8}
        kept = value.dtype in (np.float32, np.uint32, np.uint8)
        array = value if kept else value.astype(as_saved[value.dtype.kind])
        arrays[name] = np.ascontiguousarray(array)
        return {"array": name}
    if not value.ndim:
        return pack(value.item(), arrays, name)
    if value.dtype.kind in "OUS":
        return pack(value.tolist(), arrays, name)
    raise ValueError(f"{name} is an array of type {value.dtype}")


def _unpack_array(name, arrays):
    if name not in arrays:
        raise ValueError(f"the array {name!r} is missing")
    array = arrays.pop(name)
    if array.dtype.newbyteorder("<").str not in _KINDS:
        raise ValueError(f"the array {name!r} has dtype {array.dtype}")
    # A copy, aligned as all arrays are: kernels may depend on it.
    return array.astype(array.dtype.newbyteorder("="))


def _unpack_dict(pairs, inner):
    value = {}
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError("a dict in it cannot be read")
        key = inner(pair[0])
        if not isinstance(key, (str, int, float, bool, type(None))) or key in value:
            raise ValueError("a dict in it cannot be read")
        value[key] = inner(pair[1])
    return value


def _pack_random_state(state, arrays, name):
    values = state.get_state(legacy=False)
    if values["bit_generator"] != "MT19937":
        raise ValueError(
            f"{name} draws from {values['bit_generator']}; pass an int, or a "
            "RandomState as NumPy makes it"
        )
    keys = values["state"]["key"].astype(np.uint32)
    return {
        "random_state": int(values["state"]["pos"]),
        "keys": _pack_array(keys, arrays, f"{name}.keys"),
        "gauss": [int(values["has_gauss"]), float(values["gauss"])],
    }


def _unpack_random_state(plain, inner):
    position, keys, gauss = plain["random_state"], inner(plain["keys"]), plain["gauss"]
    good = (
        isinstance(keys, np.ndarray)
        and keys.shape == (624,)
        and isinstance(position, int)
        and 0 <= position <= 624
        and isinstance(gauss, list)
        and len(gauss) == 2
        and gauss[0] in (0, 1)
        and isinstance(gauss[1], float)
    )
    if not good:
        raise ValueError("a random state in it cannot be read")
    state = np.random.RandomState()
    state.set_state(("MT19937", keys, position, *gauss))
    return state
