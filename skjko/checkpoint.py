"""Checkpoints: every block of a fit in a file of its own, as soon as it is trained.

In the folder that the user names, every fit has a folder, named by all that decides on
its model: data, parameters and versions. So fits that differ cannot mix, and one that
is the same finds what was trained before. A block's file is written in one step, and
never changed: whenever a process dies, its files are whole, and fit together.
"""

# SPDX-License-Identifier: BSD-3-Clause

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import torch
from sklearn.utils import check_random_state

from skjko import container
from skjko.fitting import fingerprint
from skjko.flow import history
from skjko.flow.description import checked, describe_field, is_count, is_flag
from skjko.flow.journal import Journal, Outcome
from skjko.parameters import plain_parameters, put_random_state
from skjko.shelf import Shelf, put_blocks, take_blocks
from skjko.version import __version__

FORMAT_VERSION = 1

_FIT, _BLOCK = "checkpoint of a fit", "checkpoint of a block"
_FIT_FILE = "fit.safetensors"

# What the model does not depend on; what a warm start goes on from is told for itself.
_FREE = ("checkpoint", "device", "verbose", "warm_start")


def begin(estimator, data, support, earlier=None):
    """Return what a fit draws its random numbers from, and its journal.

    Parameters
    ----------
    estimator : JKOFlowDensity
        With checked parameters. If its `checkpoint` is None, nothing is remembered.
    data : dict of str to ndarray or None
        What it is fitted to, by the names of the arguments of `fit`.
    support : Support
    earlier : Fitted or None
        What it continues.

    Returns
    -------
    rng : RandomState
    journal : Journal

    Raises
    ------
    ValueError
        If the path is no folder's, or what is there is damaged.
    OSError
        If the folder cannot be read or written.
    """
    random_state = estimator.random_state
    if estimator.checkpoint is None:
        return check_random_state(random_state), Journal()
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
    journal = FolderJournal(folder, _digest(fit))
    if estimator.verbose:
        print(f"[{owner}] checkpoint {folder}: {_news(root, folder, fit)}")
    if not (folder / _FIT_FILE).exists():
        # Without a seed every fit is another one, and this one has to be known again.
        drawn = check_random_state(None).randint(2**31 - 1)
        seed = drawn if random_state is None else None
        _write(folder / _FIT_FILE, _FIT, {"fit": fit, "seed": seed}, {})
    seed = _read_fit(folder, fit)
    return check_random_state(random_state if seed is None else seed), journal


class FolderJournal(Journal):
    """The journal of one fit, a file for every block.

    Parameters
    ----------
    folder : Path
    fit : str
        Digest of what the fit is.
    part : str
        The crew whose blocks are meant.
    """

    remembers = True

    def __init__(self, folder, fit, part="all"):
        self._folder, self._fit, self._part = folder, fit, part

    def part(self, name):
        """Return the journal of one of several crews."""
        return FolderJournal(self._folder, self._fit, name)

    def n_tasks(self, round_number):
        """Return how many tasks a round had time for, or None if it is not known."""
        path = self._path(round_number, 0)
        if not path.exists():
            return None
        return _read(path, self._read_n_left)

    def recall(self, task):
        """Return the outcome of a task, or None if it is not known.

        Raises
        ------
        ValueError
            If its file is damaged, or belongs to something else.
        """
        path = self._path(task.round, task.attempt)
        if not path.exists():
            return None
        return _read(path, self._read_outcome, task)

    def record(self, task, outcome):
        """Write the outcome of a task to a file of its own.

        Raises
        ------
        RuntimeError
            If somebody else has done so by now.
        """
        path = self._path(task.round, task.attempt)
        if path.exists():
            raise RuntimeError(
                f"The checkpoint {str(path)!r} was written by another process while "
                "this one trained the same block. Run the same fit only once at a time."
            )
        arrays = {
            "seconds": np.array(outcome.seconds, np.float64),
            "step_size": np.array(outcome.step_size, np.float64),
            "losses": np.array(outcome.losses, np.float64),
            "scored": np.array([n for n, _ in outcome.scores], np.int64),
            "scores": np.array([score for _, score in outcome.scores], np.float64),
        }
        for i, state in enumerate(outcome.states):
            arrays[f"states.{i}"] = state.numpy().view(np.uint32)
        blocks = outcome.blocks
        model = {
            "fit": self._fit,
            "task": self._plain(task),
            "blocks": None if blocks is None else put_blocks(blocks, "blocks", arrays),
            "broken": bool(outcome.broken),
            "n_iter": int(outcome.n_iter),
            "n_planned": int(outcome.n_planned),
            "n_minibatches": int(outcome.n_minibatches),
        }
        _write(path, _BLOCK, model, arrays)

    def _path(self, number, attempt):
        return self._folder / f"{self._part}-{number:02}-{attempt:03}.safetensors"

    def _plain(self, task):
        """What tells a task from others, as plain values."""
        return {
            "part": self._part,
            "round": task.round,
            "attempt": task.attempt,
            "kind": task.kind,
            "block": task.block,
            "n_left": task.n_left,
            "step_size": None if math.isinf(task.step_size) else float(task.step_size),
            "n_iter": None if task.n_iter is None else int(task.n_iter),
            "random numbers": fingerprint(*(state.numpy() for state in task.states)),
        }

    def _checked_model(self, content):
        """The model and the arrays of a file, if it is one of this fit."""
        _, model, arrays = container.parse(content, _BLOCK, FORMAT_VERSION)
        checked(
            model,
            "checkpoint",
            fit=lambda value: isinstance(value, str),
            task=lambda value: isinstance(value, dict),
            blocks=lambda value: value is None or isinstance(value, list),
            broken=is_flag,
            n_iter=is_count,
            n_planned=is_count,
            n_minibatches=is_count,
        )
        if model["fit"] != self._fit:
            raise ValueError("it belongs to another fit")
        return model, Shelf(arrays)

    def _read_n_left(self, content):
        model, _ = self._checked_model(content)
        n_left = model["task"].get("n_left")
        if not is_count(n_left, 1):
            raise ValueError(f"'n_left' is {n_left!r}")
        return n_left

    def _read_outcome(self, content, task):
        model, shelf = self._checked_model(content)
        found, expected = model["task"], self._plain(task)
        if changed := _differences(found, expected):
            name = changed[0]
            raise ValueError(
                f"it is of a training that went another way: {name!r} was "
                f"{found.get(name)!r} there, and is {expected.get(name)!r} here"
            )
        step_size = float(shelf.take_float64("step_size", (), finite=False, least=0))
        n_scored = shelf.take("scored", (None,), "i", least=0).tolist()
        scores = shelf.take_float64("scores", (len(n_scored),), finite=False).tolist()
        losses = shelf.take_float64("losses", (None,), finite=False).tolist()
        if len(losses) > model["n_iter"]:
            raise ValueError("it has more losses than iterations")
        outcome = Outcome(
            blocks=_take_blocks_of(task, model["blocks"], step_size, shelf),
            broken=model["broken"],
            step_size=step_size,
            n_iter=model["n_iter"],
            n_planned=model["n_planned"],
            n_minibatches=model["n_minibatches"],
            losses=losses,
            scores=list(zip(n_scored, scores, strict=True)),
            seconds=float(shelf.take_float64("seconds", (), least=0)),
            states=[
                _take_state(f"states.{i}", state, shelf)
                for i, state in enumerate(task.states)
            ],
        )
        shelf.check_empty()
        return outcome


def _take_blocks_of(task, plain, step_size, shelf):
    """Return the blocks that came of a task: its fields, with other weights."""
    if plain is None:
        if task.kind not in history.ADDING:
            raise ValueError(f"there are no blocks, in a round of kind {task.kind}")
        return None
    blocks = take_blocks(plain, "blocks", None, shelf)
    fields = [describe_field(block.field) for block in blocks]
    if fields != [
        {"kind": "confined", "field": describe_field(field)} for field in task.fields
    ]:
        raise ValueError("the fields are not those that this fit trains")
    if any(block.step_size != step_size for block in blocks):
        raise ValueError("the blocks have another step size")
    return blocks


def _take_state(name, like, shelf):
    """Return the state of a generator, if it is one."""
    words = shelf.take(name, (len(like) // 4,), "u")
    state = torch.from_numpy(words.view(np.uint8))
    try:
        torch.Generator().set_state(state)
    except RuntimeError as error:
        raise ValueError(f"{name!r} is no state of a generator") from error
    return state


# ------------------------------------------------------------------- which fit it is


def _identity(estimator, data, support, earlier):
    """All that decides on the model, as plain values."""
    lattice = support.lattice
    where = (lattice.start, lattice.step, support.lower, support.upper)
    return {
        "estimator": type(estimator).__name__,
        **_plain_parameters(estimator.get_params(deep=False)),
        **{name: fingerprint(array) for name, array in data.items()},
        "bounds and steps of the columns": fingerprint(*where),
        "fit before": None if earlier is None else _plain_earlier(estimator, earlier),
        "skjko": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _plain_parameters(parameters):
    """Parameters that decide on the model, as plain values."""
    states, arrays = [], {}
    kept = {name: value for name, value in parameters.items() if name not in _FREE}
    plain = plain_parameters(kept, states)
    if states:
        # There is one parameter that can have one.
        position = put_random_state(states[0], "state", arrays)
        plain["random_state"] = [position, fingerprint(*arrays.values())]
    return plain


def _plain_earlier(estimator, earlier):
    """The fit that this one continues, as plain values."""
    arrays = {}
    for i, blocks in enumerate((earlier.blocks, *earlier.fold_flows)):
        put_blocks(blocks, str(i), arrays)
    return {
        **_plain_parameters(estimator._fitted_with),
        "blocks": fingerprint(*arrays.values()),
        "split_seed": int(earlier.split_seed),
    }


def _digest(plain):
    text = json.dumps(plain, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _differences(a, b):
    """Names of the entries in which two dicts differ."""
    return [name for name in {**a, **b} if a.get(name, ...) != b.get(name, ...)]


def _read_fit(folder, fit):
    """Check what the folder says of its fit; return the seed that it drew, or None."""

    def seed_of(content):
        model = _parse_fit(content)
        if changed := _differences(model["fit"], fit):
            raise ValueError(f"it is of another fit, with another {changed[0]!r}")
        return model["seed"]

    return _read(folder / _FIT_FILE, seed_of)


def _parse_fit(content):
    _, model, arrays = container.parse(content, _FIT, FORMAT_VERSION)
    Shelf(arrays).check_empty()
    return checked(
        model,
        "checkpoint",
        fit=lambda value: isinstance(value, dict),
        seed=lambda value: value is None or (is_count(value) and value < 2**31),
    )


def _news(root, folder, fit):
    """Say how many blocks are there; where there are none, how other fits differ."""
    n_blocks = len([path for path in folder.iterdir() if path.name != _FIT_FILE])
    if n_blocks:
        return f"blocks trained before: {n_blocks}"
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


def _write(path, kind, model, arrays):
    container.write(path, container.dump(kind, FORMAT_VERSION, model, arrays))


def _read(path, parse, *args):
    content = path.read_bytes()
    try:
        return parse(content, *args)
    except (ValueError, RecursionError) as error:
        what = "it is nested too deeply" if type(error) is RecursionError else error
        remedy = (
            f"the folder {str(path.parent)!r} to start the fit again"
            if path.name == _FIT_FILE
            else "the file to train its block again, or the folder to start anew"
        )
        raise ValueError(
            f"Cannot go on from {str(path)!r}: {what}. Delete {remedy}."
        ) from error
