"""Checkpoints: the result of every task of a fit in a file of its own.

In the folder that the user names, every fit has a folder, named by everything that
decides on its model: data, parameters and versions. Fits that differ do not mix, and
one that is the same finds the results of its tasks. A file is written in one step, and
never changed: whenever a process dies, its files are whole, and fit together.
"""

# SPDX-License-Identifier: BSD-3-Clause

import hashlib
import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.utils import check_random_state

from skjko.data.chunks import fingerprint
from skjko.flow.run import Listener, is_of_hook
from skjko.io import format as file_format
from skjko.io.registry import CLASSES, own_classes
from skjko.io.state import pack, unpack
from skjko.version import __version__

FORMAT_VERSION = 1

_FIT, _TASK = "checkpoint of a fit", "checkpoint of a task"
_FIT_FILE = "fit.safetensors"
# Parameters that the model does not depend on; a warm start is told for itself.
_FREE = ("checkpoint", "device", "verbose", "warm_start")


def begin(estimator, data, support, earlier=None, is_first=True):
    """Return the source of a fit's random numbers, and its checkpoint.

    Parameters
    ----------
    estimator : JKOFlowDensity
        With checked parameters. Without `checkpoint` there is no checkpoint.
    data : dict of str to ndarray or None
        The data, by the names of the arguments of `fit`.
    support : Support
    earlier : Fitted or None
        What the fit goes on from.
    is_first : bool
        Whether this is the first of the processes that fit together: the others have no
        checkpoint.

    Returns
    -------
    rng : RandomState
    checkpoint : Checkpoint or None

    Raises
    ------
    ValueError
        If the path is no folder's, or what is there is damaged.
    OSError
        If the folder cannot be read or written.
    """
    random_state = estimator.random_state
    if estimator.checkpoint is None or not is_first:
        return check_random_state(random_state), None
    owner = type(estimator).__name__
    try:
        fit = _identity(estimator, data, support, earlier)
    except ValueError as error:
        raise ValueError(f"This {owner} cannot have a checkpoint: {error}") from error
    root = Path(estimator.checkpoint)
    folder = root / _digest(fit)[:32]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(
            f"The 'checkpoint' parameter of {owner} must be the path of a folder, or "
            f"of one to be made. Got {str(root)!r} instead, where a file is in the way."
        ) from error
    # Left by a process that died while it wrote.
    for path in folder.glob("*.tmp"):
        path.unlink(missing_ok=True)
    if estimator.verbose:
        print(f"[{owner}] checkpoint {folder}: {_news(root, folder, fit)}")
    if not (folder / _FIT_FILE).exists():
        # Without a seed every fit is another one; this one has to be known again.
        drawn = check_random_state(None).randint(2**31 - 1)
        seed = drawn if random_state is None else None
        _write(folder / _FIT_FILE, _FIT, {"fit": fit, "seed": seed}, {})
    seed = _read(folder / _FIT_FILE, _seed_of, fit)
    rng = check_random_state(random_state if seed is None else seed)
    return rng, Checkpoint(folder, _digest(fit))


@contextmanager
def reading(checkpoint):
    """Say of errors in a fit that goes on from a checkpoint that it may be the reason.

    The files are checked one by one; one that was edited on purpose may not fit.
    """
    try:
        yield
    except (TypeError, LookupError, AttributeError) as error:
        if checkpoint is None or not checkpoint.has_read or is_of_hook(error):
            raise
        raise ValueError(
            f"Cannot go on from {str(checkpoint.folder)!r}: its files do not fit "
            f"together ({error}). Delete the folder to start anew."
        ) from error


class Checkpoint(Listener):
    """The results of the tasks of one fit, a file for each.

    Parameters
    ----------
    folder : Path
    fit : str
        Digest of the fit.
    """

    def __init__(self, folder, fit):
        self.folder, self._fit = folder, fit
        self._known = set()

    @property
    def has_read(self):
        """Whether the result of a task was there."""
        return bool(self._known)

    def on_begin(self, task):
        """Return the result of a task and its seconds, if its file is there.

        Raises
        ------
        ValueError
            If the file is damaged, or belongs to something else.
        """
        path = self._path(task)
        if not path.exists():
            return None
        self._known.add(task.key)
        return _read(path, self._parse, task)

    def on_end(self, task, result, seconds):
        """Write the result of a task to a file.

        Raises
        ------
        RuntimeError
            If another process has done so by now.
        """
        path = self._path(task)
        if task.key in self._known:
            return
        if path.exists():
            raise RuntimeError(
                f"The checkpoint {str(path)!r} was written by another process while "
                "this one ran the same task. Run the same fit only once at a time."
            )
        arrays = {}
        model = {
            "fit": self._fit,
            "task": task.key,
            "seconds": float(seconds),
            "result": pack(result, arrays, "result", CLASSES),
        }
        _write(path, _TASK, model, arrays)

    def _path(self, task):
        name = hashlib.sha256(task.key.encode()).hexdigest()[:16]
        kind = task.info.get("kind", "task")
        return self.folder / f"{kind}-{name}.safetensors"

    def _parse(self, content, task):
        model, arrays = _content(content, _TASK, {"fit", "task", "seconds", "result"})
        if model["fit"] != self._fit:
            raise ValueError("it belongs to another fit")
        if model["task"] != task.key:
            raise ValueError(f"it is of the task {model['task']!r}, not {task.key!r}")
        seconds = model["seconds"]
        if not isinstance(seconds, float) or not 0 <= seconds < 1e9:
            raise ValueError("it has no seconds")
        result = unpack(model["result"], arrays, CLASSES)
        if arrays:
            raise ValueError(f"the array {min(arrays)!r} belongs to nothing")
        return result, seconds


# ------------------------------------------------------------------- which fit it is


def _identity(estimator, data, support, earlier):
    """All that decides on the model, as plain values."""
    grid = support.grid
    where = (grid.start, grid.step, support.lower, support.upper)
    classes = {**CLASSES, **own_classes(estimator.get_params(deep=False))}
    before = None
    if earlier is not None:
        arrays = {}
        blocks = [block.get_state() for block in earlier.model.flow.blocks]
        parts = [replace(earlier, parameters={}), blocks]
        pack(parts, arrays, "earlier", classes)
        before = {
            **_plain_parameters(earlier.parameters, classes),
            "blocks": fingerprint(*(arrays[name] for name in sorted(arrays))),
        }
    return {
        "estimator": type(estimator).__name__,
        **_plain_parameters(estimator.get_params(deep=False), classes),
        **{name: fingerprint(array) for name, array in data.items()},
        "bounds and steps of the features": fingerprint(*where),
        "fit before": before,
        "skjko": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _plain_parameters(parameters, classes):
    """Parameters that decide on the model, as plain values."""
    plain = {}
    for name, value in sorted(parameters.items()):
        if name not in _FREE:
            arrays = {}
            packed = pack(value, arrays, f"the parameter {name!r}", classes)
            plain[name] = packed
            if arrays:
                plain[f"{name}, arrays"] = fingerprint(
                    *(arrays[key] for key in sorted(arrays))
                )
    return plain


def _digest(plain):
    text = json.dumps(plain, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _differences(a, b):
    """Names of the entries in which two dicts differ."""
    return [name for name in {**a, **b} if a.get(name, ...) != b.get(name, ...)]


def _seed_of(content, fit):
    """Check what a file says of its fit; return the seed that it drew, or None."""
    model = _parse_fit(content)
    if changed := _differences(model["fit"], fit):
        raise ValueError(f"it is of another fit, with another {changed[0]!r}")
    return model["seed"]


def _parse_fit(content):
    model, arrays = _content(content, _FIT, {"fit", "seed"})
    seed = model["seed"]
    is_seed = isinstance(seed, int) and 0 <= seed < 2**31
    if arrays or not isinstance(model["fit"], dict) or not (seed is None or is_seed):
        raise ValueError("it does not describe a fit")
    return model


def _news(root, folder, fit):
    """Say how many results are there; where there are none, how other fits differ."""
    n_tasks = len([path for path in folder.iterdir() if path.name != _FIT_FILE])
    if n_tasks:
        return f"tasks done before: {n_tasks}"
    nearest = None
    for path in sorted(root.glob(f"*/{_FIT_FILE}")):
        try:
            changed = _differences(_parse_fit(path.read_bytes())["fit"], fit)
        except (ValueError, OSError):
            continue
        if changed and (nearest is None or len(changed) < len(nearest[1])):
            nearest = path.parent.name, changed
    if nearest is None:
        return "a new fit"
    return f"a new fit; that in {nearest[0]} has another {', '.join(nearest[1])}"


# ------------------------------------------------------------------- files


def _content(content, kind, names):
    _, model, arrays = file_format.parse(content, kind, FORMAT_VERSION)
    if model.keys() != names:
        raise ValueError(f"it has not just the entries {', '.join(sorted(names))}")
    return model, arrays


def _write(path, kind, model, arrays):
    content = file_format.dump(kind, FORMAT_VERSION, model, arrays)
    file_format.write(path, content)


def _read(path, parse, *args):
    content = path.read_bytes()
    try:
        return parse(content, *args)
    except (ValueError, RuntimeError) as error:
        what = "it is nested too deeply" if type(error) is RecursionError else error
        remedy = (
            f"the folder {str(path.parent)!r} to start the fit again"
            if path.name == _FIT_FILE
            else "the file to do its task again, or the folder to start anew"
        )
        raise ValueError(
            f"Cannot go on from {str(path)!r}: {what}. Delete {remedy}."
        ) from error
