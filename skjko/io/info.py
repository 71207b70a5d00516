"""What is inside of a file, by its header alone."""

# SPDX-License-Identifier: BSD-3-Clause

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from skjko.io import format as file_format
from skjko.io.format import FORMAT_VERSION

# Deeper than any state is nested.
_MAX_DEPTH = 60


def file_info(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Describe a saved estimator without loading it.

    Only the header of the file is read: no weights, and no checksum.

    Parameters
    ----------
    path : str or path-like
        A file that `save` wrote.

    Returns
    -------
    info : dict
        With the keys

        - "class", "format_version" and "n_bytes" of the file;
        - "is_complete": whether the file is as long as its header says;
        - "container" that the data were in, and "features": a list of dicts with
          "name", "type" and, where there are any, "categories";
        - "parameters": those of the estimator, with those of its components;
        - "transforms": names of the classes in front of the blocks, and "base", that of
          the base distribution behind them or None;
        - "step_sizes" of the blocks, "rounds" of the training, and
          "validation_score" in nats, None without validation;
        - "n_weights": number of values in all arrays.

        Of an outlier detector, these are those of its density, with "parameters" of
        its own, "threshold", "statistic" and "n_calibration".

    Raises
    ------
    ValueError
        If the file is none of skjko, or from a newer version of it.
    OSError
        If there is no such file, or it cannot be read.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from skjko import JKOFlowDensity
    >>> from skjko.io import file_info
    >>> X = np.random.default_rng(0).normal(size=(50, 2))
    >>> density = JKOFlowDensity(max_blocks=0).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "gaussian.safetensors")
    ...     density.save(path)
    ...     info = file_info(path)
    >>> info["class"], info["step_sizes"], info["is_complete"]
    ('JKOFlowDensity', [], True)
    """
    try:
        header = file_format.read_header(path, FORMAT_VERSION)
        kind, version, model, shapes, (n_bytes, expected) = header
        state = _plain(model.get("state"), shapes)
        described = _described(state, shapes)
        _check(described)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        what = error if isinstance(error, ValueError) else f"its state is odd ({error})"
        raise ValueError(f"Cannot read {os.fspath(path)!r}: {what}") from error
    return {
        "class": kind,
        "format_version": version,
        "n_bytes": n_bytes,
        "is_complete": n_bytes == expected,
        **described,
        "n_weights": sum(math.prod(shape) for shape in shapes.values()),
    }


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check(described: Mapping[str, Any]) -> None:
    """Raise an error if a value of the description is of another type than it has."""

    def is_text(value: object) -> bool:
        return isinstance(value, str)

    def is_feature(value: Any) -> bool:
        named = isinstance(value["name"], (str, int)) and is_text(value["type"])
        return named and isinstance(value.get("categories", []), list)

    def all_are(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
        return lambda values: isinstance(values, list) and all(map(test, values))

    def or_none(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
        return lambda value: value is None or test(value)

    tests = {
        "container": is_text,
        "features": all_are(is_feature),
        "parameters": lambda value: isinstance(value, dict),
        "transforms": all_are(is_text),
        "base": or_none(is_text),
        "step_sizes": all_are(_is_number),
        "validation_score": or_none(_is_number),
        "threshold": _is_number,
        "statistic": is_text,
        "n_calibration": _is_number,
    }
    for name, value in described.items():
        if name in tests and not tests[name](value):
            raise ValueError(f"its {name} is {str(value)[:40]!r}")


def _described(state: Mapping[str, Any], shapes: Mapping[str, tuple]) -> dict[str, Any]:
    """What the state of an estimator says."""
    if "density_" not in state:
        return {"parameters": state["params"], **_density(state)}
    inner = _density(state["density_"])
    inner.update(_features(state))
    parameters = dict(state["params"])
    parameters["density"] = state["density"]
    calibration = state["calibration_scores"]
    n_calibration = 0 if calibration is None else calibration["shape"][0]
    return {
        "parameters": parameters,
        "threshold": state["offset"],
        "statistic": state["statistic"],
        "n_calibration": n_calibration,
        **inner,
    }


def _density(state: Mapping[str, Any]) -> dict[str, Any]:
    fitted = state["fitted"]
    base = [step["class"] for step in fitted["model"]["base"]["steps"]]
    accepted = [one for one in fitted["rounds"] if one["accepted"]]
    records = accepted[-1]["records"] if accepted else []
    scores = list(fitted["base_scores"])
    if records and scores and not base:
        scores.append(records[-1]["validation_score"])
    return {
        **_features(state),
        "transforms": [s["class"] for s in fitted["model"]["transforms"]["steps"]],
        "base": base[0] if base else None,
        "step_sizes": [record["step_size"] for record in records],
        "rounds": [
            one["kind"] + ("" if one["accepted"] else " (rejected)")
            for one in fitted["rounds"]
        ],
        "validation_score": scores[-1] if scores else None,
    }


def _features(state: Mapping[str, Any]) -> dict[str, Any]:
    table = state["table"]
    dtypes, names = table["dtypes"], table["names"]
    coded = table["categories"]["columns"]
    features: list[dict[str, Any]] = []
    for j, dtype in enumerate(dtypes):
        feature = {"name": j if names is None else names[j], "type": dtype}
        if str(j) in coded:
            column = coded[str(j)]
            feature.update(type=column["type"], categories=column["values"])
        features.append(feature)
    return {"container": table["container"], "features": features}


def _plain(value: Any, shapes: Mapping[str, tuple], depth: int = 0) -> Any:
    """A packed state as dicts, lists and plain values, with arrays as their shapes."""
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deeply")

    def inner(value: Any) -> Any:
        return _plain(value, shapes, depth + 1)

    if isinstance(value, list):
        return [inner(one) for one in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"dict"}:
        return {str(key): inner(one) for key, one in value["dict"]}
    if value.keys() == {"tuple"}:
        return [inner(one) for one in value["tuple"]]
    if value.keys() == {"float"}:
        return float(value["float"])
    if value.keys() == {"array"}:
        return {"shape": list(shapes[value["array"]])}
    if value.keys() == {"object", "state"}:
        return {"class": str(value["object"]), **inner(value["state"])}
    return dict(value)


def described(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines of text about a file.

    Parameters
    ----------
    found : dict
        As `file_info` returns it.
    """
    size = f"{found['n_bytes'] / 1000:.0f} kB, format version {found['format_version']}"
    yield f"{found['class']}, {size}"
    if not found["is_complete"]:
        yield "DAMAGED: the file is not as long as its header says"
    yield f"{len(found['features'])} features, fitted on a {found['container']} table:"
    for feature in found["features"]:
        values = feature.get("categories")
        told = "" if values is None else f": {', '.join(map(str, values[:8]))}"
        more = "" if values is None or len(values) <= 8 else ", ..."
        yield f"  {feature['name']} ({feature['type']}){told}{more}"
    n = len(found["step_sizes"])
    names = [*found["transforms"], f"{n} block{'s' * (n != 1)}"]
    if found["base"] is not None:
        names.append(f"base {found['base']}")
    yield f"model: {', '.join(names)}; {found['n_weights']} numbers"
    if found["validation_score"] is not None:
        yield f"validation score: {found['validation_score']:.4f} nats"
    if "threshold" in found:
        yield (
            f"threshold: {found['threshold']:.4f} ({found['statistic']}), "
            f"{found['n_calibration']} calibration samples"
        )
    yield "parameters, without those that are None:"
    for name, value in found["parameters"].items():
        if value is not None:
            yield f"  {name} = {json.dumps(value)}"
