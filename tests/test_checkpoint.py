"""Checkpoints: a fit that was stopped reaches the model that it would have made."""

# SPDX-License-Identifier: BSD-3-Clause

import contextlib
import copy
import dataclasses
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import QUICK, lumps
from sklearn.model_selection import GridSearchCV
from test_persistence import NASTY, Bent, Shifted, edit_arrays, places_in, ring

import skjko
from skjko import (
    JKOFlowDensity,
    JKOSchedule,
    MLPField,
    RungeKutta,
    VelocityField,
)
from skjko.datasets import moons
from skjko.flow.block_training import BlockResult
from skjko.flow.fields import MLP
from skjko.flow.run import Task
from skjko.io import format as file_format
from skjko.io.checkpoint import FORMAT_VERSION, Checkpoint
from skjko.io.registry import CLASSES
from skjko.io.state import pack
from skjko.transforms import Asinh

# Of every case; more on request. Each is a process that is killed, and a fit after it.
N_KILLS = int(os.environ.get("SKJKO_KILLS", "1"))

X = moons().sample(1000, random_state=0)
ROUNDS = JKOSchedule(n_reparameterizations=1, n_refinements=1)
ALL_SAMPLES = {"early_stopping": False, "max_blocks": 2, "schedule": ROUNDS}
CASES = {
    "gaussian, validation split": ({"max_blocks": 3}, X),
    "gaussian, cross-validated": ({"schedule": ROUNDS}, X[:150]),
    "gaussian, all samples": (ALL_SAMPLES, X[:150]),
    "mixture, validation split": ({"init": "mixture"}, X),
    "mixture, cross-validated": ({"init": "mixture"}, X[:90]),
    "mixture, all samples": ({**ALL_SAMPLES, "init": "mixture"}, X[:150]),
    "auto, validation split": ({"init": "auto"}, ring(1000)),
    "auto, cross-validated": (
        {"init": "auto", "max_blocks": 1, "random_state": 1},
        ring(90),
    ),
    "transforms": ({"transforms": "auto", "max_blocks": 1}, lumps()[:80, :2]),
}
# With a limit far below what `max_iter` iterations take, by the clock of the tests.
LIMITED = {"time_limit": 0.2, "max_iter": 10_000}
SMALL = {"early_stopping": False, "max_blocks": 1}


def density(case="gaussian, validation split", **parameters):
    """An estimator that trains in well under a second."""
    settings = {**QUICK, "transforms": None, "max_iter": 3, **CASES[case][0]}
    return JKOFlowDensity(**{**settings, **parameters})


def fitted(estimator, samples, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(samples, **more)


def content(estimator, *own):
    """All that a file would have of a fitted estimator, but where its checkpoint is."""
    state = estimator.get_state()
    fitted = state["fitted"]
    state["params"] = {**state["params"], "checkpoint": None}
    parameters = {**fitted.parameters, "checkpoint": None}
    state["fitted"] = dataclasses.replace(fitted, parameters=parameters)
    arrays = {}
    classes = {**CLASSES, **{cls.__name__: cls for cls in own}}
    model = pack(state, arrays, "model", classes)
    return model, {
        name: (array.dtype, array.shape, array.tobytes())
        for name, array in arrays.items()
    }


def files(folder):
    """Paths of the files of all tasks, in order."""
    return sorted(p for p in Path(folder).glob("*/*") if p.name != "fit.safetensors")


class Died(BaseException):
    """What ends a fit in place of a signal."""


def die():
    raise Died


def interrupt():
    raise KeyboardInterrupt


@contextlib.contextmanager
def writes(number=None, before=None, after=None):
    """Count the files that are written; call something before or after one of them.

    Files change in no other way: whatever ends a fit between two of them leaves the
    same files.
    """
    seen, fsync, replace = [], os.fsync, os.replace

    def counted(file):
        seen.append(None)
        if len(seen) == number and before is not None:
            before()
        return fsync(file)

    def replaced(source, target):
        replace(source, target)
        seen[-1] = Path(target)
        if len(seen) == number and after is not None:
            after()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", counted)
        patch.setattr(os, "replace", replaced)
        yield seen


@contextlib.contextmanager
def ticking():
    """A clock that goes on by a fixed time whenever it is read, and else stands."""
    # A power of two: sums of its readings are exact.
    readings = itertools.count(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: next(readings) * 2.0**-10)
        yield


def clock_of(parameters):
    """The clock of a fit with these parameters: with a limit, that of the tests."""
    return ticking() if "time_limit" in parameters else contextlib.nullcontext()


# What the field below does at every solve.
AT_SOLVE = []


class CountedMLP(MLP):
    def dynamics(self, context=None):
        for action in AT_SOLVE:
            action()
        return super().dynamics(context)


class Counted(VelocityField):
    """A field of the user's own, which knows how often it was used."""

    def build(self, n_features, generator=None):
        return CountedMLP(n_features, (8, 8), generator=generator)


@contextlib.contextmanager
def solves(number=None, action=None):
    """Count the solves of `Counted` fields; call something at one of them."""
    seen = []

    def count():
        seen.append(None)
        if len(seen) == number:
            action()

    AT_SOLVE.append(count)
    try:
        yield seen
    finally:
        AT_SOLVE.remove(count)


@pytest.fixture(scope="module")
def whole():
    """The contents of fits that nothing ends, without a checkpoint."""
    known = {}

    def get(case, **parameters):
        key = case, repr(sorted(parameters.items()))
        if key not in known:
            with clock_of(parameters):
                model = fitted(density(case, **parameters), CASES[case][1])
            known[key] = content(model, Counted)
        return known[key]

    return get


# ------------------------------------------------------------------- stopped fits


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_changes_nothing_and_a_complete_one_has_it_all(
    case, whole, tmp_path
):
    first = tmp_path / "first"
    model = fitted(density(case, checkpoint=first), CASES[case][1])
    assert content(model) == whole(case)
    # The folder may be somewhere else by now.
    first.rename(moved := tmp_path / "moved")
    before = {path: path.read_bytes() for path in files(moved)}
    assert before
    # A copy: it may be one of a grid search, or of another session.
    with writes() as written:
        again = fitted(density(case, checkpoint=str(moved)), CASES[case][1].copy())
    assert not written
    assert {path: path.read_bytes() for path in files(moved)} == before
    assert content(again) == whole(case)


def test_what_does_not_change_a_model_makes_no_other_fit(tmp_path):
    fitted(density(**SMALL, checkpoint=tmp_path), X[:100])
    with writes() as written:
        again = density(**SMALL, checkpoint=tmp_path, verbose=True, device="cpu")
        fitted(again, X[:100])
    assert not written


@pytest.mark.parametrize(
    "case, limits",
    [
        *((case, {}) for case in CASES),
        ("gaussian, cross-validated", LIMITED),
        # It has the tasks of a mixture, too.
        ("auto, cross-validated", LIMITED),
    ],
)
def test_killed_after_every_task_a_fit_goes_on(case, limits, whole, tmp_path):
    """Killed once after every file that it writes, each time by another process."""
    n_files = 0
    for _ in range(100):
        estimator = density(case, checkpoint=tmp_path, **limits)
        with clock_of(limits), writes(1, after=die) as written:
            try:
                resumed = fitted(estimator, CASES[case][1])
            except Died:
                n_files += 1
                continue
        break
    assert not written
    assert n_files == 1 + len(files(tmp_path)) > 2
    assert content(resumed) == whole(case, **limits)


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_changes_nothing_within_a_time_limit(case, whole, tmp_path):
    with ticking():
        model = fitted(density(case, **LIMITED, checkpoint=tmp_path), CASES[case][1])
    assert content(model) == whole(case, **LIMITED)
    # The limit did end the training.
    assert model.n_iter_ < LIMITED["max_iter"]
    # One that was done long ago has had its time.
    with ticking():
        again = fitted(density(case, **LIMITED, checkpoint=tmp_path), CASES[case][1])
    assert content(again) == whole(case, **LIMITED)


@pytest.mark.parametrize(
    "case", ["gaussian, cross-validated", "auto, validation split"]
)
@pytest.mark.parametrize("number", [7, 60])
def test_killed_within_a_task_a_limited_fit_goes_on(case, number, whole, tmp_path):
    limited = {**LIMITED, "field": Counted()}
    with ticking(), solves(number, die), pytest.raises(Died):
        fitted(density(case, **limited, checkpoint=tmp_path), CASES[case][1])
    with ticking():
        model = fitted(density(case, **limited, checkpoint=tmp_path), CASES[case][1])
    assert content(model, Counted) == whole(case, **limited)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def write_half_and_be_killed(file):
    os.ftruncate(file, os.fstat(file).st_size // 2)
    kill()


def fit_and_be_killed(case, folder, point, number):
    """Fit in this process, which ends by SIGKILL at a point of a given number."""
    estimator = density(case, checkpoint=folder, field=Counted())
    with contextlib.ExitStack() as stack:
        if point == "solve":
            stack.enter_context(solves(number, kill))
        elif point == "before a write":
            stack.enter_context(writes(number, before=kill))
        elif point == "after a write":
            stack.enter_context(writes(number, after=kill))
        else:
            stack.enter_context(writes())
            counted, left = os.fsync, itertools.count(1)

            def within(file):
                if next(left) == number:
                    write_half_and_be_killed(file)
                counted(file)

            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setattr(os, "fsync", within)
        fitted(estimator, CASES[case][1])


@pytest.fixture(scope="module")
def run():
    """Run a fit in a fresh process; return its exit code."""
    # Forked from a process that has done nothing but the imports: those take seconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["skjko", "pytest"])

    def run(*arguments):
        process = context.Process(target=fit_and_be_killed, args=arguments)
        process.start()
        process.join()
        return process.exitcode

    return run


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize(
    "point", ["solve", "before a write", "in a write", "after a write"]
)
def test_killed_by_a_signal_a_fit_goes_on(point, whole, run, tmp_path):
    # Files are written alike with folds and without.
    kind = "cross-validated" if point == "solve" else "all samples"
    case = f"gaussian, {kind}"
    rng = np.random.RandomState(len(point))
    for i in range(N_KILLS):
        folder, number = (
            tmp_path / str(i),
            rng.randint(2, 9 if point != "solve" else 90),
        )
        assert run(case, folder, point, number) == -signal.SIGKILL, number
        estimator = density(case, checkpoint=folder, field=Counted())
        model = fitted(estimator, CASES[case][1])
        assert content(model, Counted) == whole(case, field=Counted()), number
        assert not list(folder.glob("*/*.tmp"))


@pytest.mark.parametrize(
    "case",
    [
        "gaussian, validation split",
        "gaussian, all samples",
        "mixture, all samples",
        # It has the tasks of the other cross-validated ones.
        "auto, cross-validated",
    ],
)
def test_interrupted_at_any_write_a_fit_goes_on(case, whole, tmp_path):
    with writes() as written:
        fitted(density(case, checkpoint=tmp_path / "whole"), CASES[case][1])
    for number in range(2, len(written) + 1, 8):
        estimator = density(case, checkpoint=tmp_path / str(number))
        with writes(number, before=interrupt), contextlib.suppress(KeyboardInterrupt):
            fitted(estimator, CASES[case][1])
        assert content(fitted(estimator, CASES[case][1])) == whole(case), number


@pytest.mark.parametrize(
    "case", ["gaussian, cross-validated", "auto, validation split"]
)
def test_interrupted_within_a_task_a_fit_goes_on(case, whole, tmp_path):
    estimator = density(case, field=Counted())
    with solves() as seen:
        fitted(estimator, CASES[case][1])
    for share in (0.3, 0.7):
        estimator = density(case, field=Counted(), checkpoint=tmp_path / str(share))
        with solves(int(share * len(seen)), interrupt):
            first = fitted(estimator, CASES[case][1])
        assert content(first, Counted) != whole(case, field=Counted())
        model = fitted(estimator, CASES[case][1])
        assert content(model, Counted) == whole(case, field=Counted()), share


@pytest.mark.parametrize(
    "parameters",
    [
        {"field": MLPField(())},
        {"field": MLPField([6, 5, 4], "tanh")},
        {"field": MLPField(8, "silu", time_dependent=True)},
        {"field": Bent(2.0)},
        {"solver": RungeKutta(n_steps=1, divergence="hutchinson")},
        {"solver": RungeKutta(divergence="finite_difference", n_probes=2)},
        {"transforms": [Asinh()]},
        {"transforms": [Shifted()], "field": Bent()},
        {"learning_rate_init": 1e9, "field": MLPField(())},
        {"bounds": [(-50, np.inf), None], "discrete": {1: 0.5}},
    ],
    ids=str,
)
def test_everything_that_is_trained_goes_on(parameters, tmp_path):
    samples = np.c_[X[:100, 0], np.round(2 * X[:100, 1]) / 2]
    parameters = {"early_stopping": False, "max_blocks": 2, **parameters}
    expected = fitted(density(**parameters), samples)
    with writes(3, after=die), pytest.raises(Died):
        fitted(density(**parameters, checkpoint=tmp_path), samples)
    assert len(files(tmp_path)) == 2
    resumed = fitted(density(**parameters, checkpoint=tmp_path), samples)
    assert content(resumed, Bent, Shifted) == content(expected, Bent, Shifted)


def test_a_task_whose_file_is_gone_is_done_again(whole, tmp_path):
    case = "gaussian, cross-validated"
    fitted(density(case, checkpoint=tmp_path), CASES[case][1])
    gone = files(tmp_path)[::2]
    before = {path: file_content(path)[1:] for path in gone}
    for path in gone:
        path.unlink()
    with writes() as written:
        model = fitted(density(case, checkpoint=tmp_path), CASES[case][1])
    assert content(model) == whole(case)
    assert sorted(written) == gone
    for path, arrays in before.items():
        np.testing.assert_equal(file_content(path)[1:], arrays)


def file_content(path):
    """Return the model and the arrays of a task's file."""
    parsed = file_format.parse(
        path.read_bytes(), "checkpoint of a task", FORMAT_VERSION
    )
    return parsed[1:]


# ------------------------------------------------------------------- which fit it is


CHANGES = {
    "init": ({"init": "mixture"}, {}),
    "transforms": ({"transforms": [Asinh()]}, {}),
    "field": ({"field": MLPField((8, 6))}, {}),
    "schedule": ({"schedule": JKOSchedule(step_size=0.3)}, {}),
    "solver": ({"solver": RungeKutta(n_steps=2)}, {}),
    "max_iter": ({"max_iter": 9}, {}),
    "alpha": ({"alpha": 0.1}, {}),
    "random_state": ({"random_state": 1}, {}),
    "X": ({}, {"X": X[:90] + 0.01}),
    "sample_weight": ({}, {"sample_weight": np.linspace(0.5, 1, 100)}),
    "X_val": ({}, {"X_val": X[200:300]}),
    "bounds": ({"bounds": [(-100, None), None]}, {}),
    "discrete": ({"discrete": None}, {}),
    "time_limit": ({"time_limit": 1e6}, {}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_fits_that_differ_do_not_mix(name, capsys, tmp_path):
    parameters, arguments = CHANGES[name]
    arguments = {"samples": X[:100], **arguments}
    arguments["samples"] = arguments.pop("X", arguments["samples"])
    # A validation set given is one of its own: for the others there is none.
    common = {"max_blocks": 1, "early_stopping": name == "X_val"}
    fitted(density(**common, checkpoint=tmp_path), X[:100])
    first = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    with writes() as in_other_folder:
        separate = density(**{**common, **parameters}, checkpoint=tmp_path / "other")
        fitted(separate, **arguments)
    expected = fitted(density(**{**common, **parameters}), **arguments)
    shutil.rmtree(tmp_path / "other")
    capsys.readouterr()
    mixed = density(**{**common, **parameters}, checkpoint=tmp_path)
    with writes() as written:
        fitted(mixed, **arguments)
    assert len(written) == len(in_other_folder) > 1
    assert content(mixed) == content(expected)
    assert len(list(tmp_path.iterdir())) == 2
    assert all(path.read_bytes() == data for path, data in first.items())


@pytest.mark.parametrize("name", CHANGES)
def test_verbose_output_says_how_fits_differ(name, capsys, tmp_path):
    parameters, arguments = CHANGES[name]
    arguments = {"samples": X[:100], **arguments}
    arguments["samples"] = arguments.pop("X", arguments["samples"])
    common = {"max_blocks": 0, "early_stopping": name == "X_val", "max_iter": 1}
    fitted(density(**common, checkpoint=tmp_path, verbose=True), X[:100])
    assert capsys.readouterr().out.splitlines()[0].endswith(": a new fit")
    changed = density(**{**common, **parameters}, checkpoint=tmp_path, verbose=True)
    fitted(changed, **arguments)
    said = capsys.readouterr().out.splitlines()[0]
    assert "a new fit" in said
    assert name in said.partition(" has another ")[2].split(", ")


def test_verbose_output_says_how_many_tasks_are_done(capsys, tmp_path):
    for _ in range(2):
        fitted(density(**SMALL, checkpoint=tmp_path, verbose=True), X[:100])
    n = len(files(tmp_path))
    assert f"tasks done before: {n}\n" in capsys.readouterr().out


@pytest.mark.parametrize("module", [torch, np])
def test_other_versions_are_other_fits(module, monkeypatch, tmp_path):
    fitted(density(max_blocks=0, checkpoint=tmp_path), X[:200])
    monkeypatch.setattr(module, "__version__", "99.0")
    fitted(density(max_blocks=0, checkpoint=tmp_path), X[:200])
    assert len(list(tmp_path.iterdir())) == 2


def test_the_version_of_the_library_is_part_of_a_fit(tmp_path):
    fitted(density(max_blocks=0, checkpoint=tmp_path), X[:200])
    (path,) = tmp_path.glob("*/fit.safetensors")
    _, model, _ = file_format.parse(
        path.read_bytes(), "checkpoint of a fit", FORMAT_VERSION
    )
    assert model["fit"]["skjko"] == skjko.__version__


def test_without_a_seed_the_one_that_was_drawn_is_kept(tmp_path):
    unseeded = {"random_state": None, "early_stopping": False}
    with writes(3, after=die), pytest.raises(Died):
        fitted(density(**unseeded, checkpoint=tmp_path / "a"), X[:200])
    assert files(tmp_path / "a")
    first = fitted(density(**unseeded, checkpoint=tmp_path / "a"), X[:200])
    again = fitted(density(**unseeded, checkpoint=tmp_path / "a"), X[:200])
    assert content(again) == content(first)
    other = fitted(density(**unseeded, checkpoint=tmp_path / "b"), X[:200])
    assert other.loss_curve_ != first.loss_curve_


def test_a_random_state_counts_with_its_position(tmp_path):
    def estimator(n_drawn, **more):
        state = np.random.RandomState(3)
        state.rand(n_drawn)
        return density(random_state=state, early_stopping=False, **more)

    with writes(3, after=die), pytest.raises(Died):
        fitted(estimator(0, checkpoint=tmp_path), X[:200])
    assert files(tmp_path)
    resumed = fitted(estimator(0, checkpoint=tmp_path), X[:200])
    assert content(resumed) == content(fitted(estimator(0), X[:200]))
    fitted(estimator(1, checkpoint=tmp_path), X[:200])
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "case, kills",
    [("gaussian, all samples", (3, 4)), ("auto, cross-validated", (7, 7))],
)
def test_a_warm_start_goes_on(case, kills, tmp_path):
    samples, more = CASES[case][1], {"warm_start": True, "max_blocks": 2}

    def both(**parameters):
        estimator = fitted(density(case, max_blocks=1, **parameters), samples)
        return fitted(estimator.set_params(**more), samples)

    expected, n_written = both(), 0
    # In the first of the two fits, and in the second.
    for number in kills:
        with writes(number, after=die) as written, pytest.raises(Died):
            both(checkpoint=tmp_path / "a")
        n_written += len(written)
    with writes() as written:
        assert content(both(checkpoint=tmp_path / "a")) == content(expected)
    # Every file was written once.
    n_written += len(written)
    assert n_written == len(list((tmp_path / "a").glob("*/*"))) > len(written)
    # One that continues another fit is another fit.
    other = density(case, max_blocks=1, checkpoint=tmp_path / "a", alpha=0.5)
    fitted(fitted(other, samples).set_params(**more, alpha=0.0), samples)
    assert len(list((tmp_path / "a").iterdir())) == 4


def test_a_grid_search_goes_on(tmp_path):
    def search(**more):
        grid = {"max_iter": [4, 5], "field__frequency": [1.0, 2.0]}
        return GridSearchCV(density(**SMALL, **more), grid, cv=2, error_score="raise")

    expected = search().fit(X[:100])
    with writes() as written:
        search(checkpoint=tmp_path / "whole").fit(X[:100])
    n_whole = len(written)
    with writes(n_whole // 2, after=die), pytest.raises(Died):
        search(checkpoint=tmp_path / "a").fit(X[:100])
    with writes() as written:
        resumed = search(checkpoint=tmp_path / "a").fit(X[:100])
    assert len(written) == n_whole - n_whole // 2
    np.testing.assert_array_equal(
        resumed.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
    )
    assert content(resumed.best_estimator_) == content(expected.best_estimator_)
    assert len(list((tmp_path / "a").iterdir())) == 9


def test_an_own_field_counts_with_its_parameters(tmp_path):
    for strength in (1.0, 1.0, 2.0):
        estimator = density(**SMALL, field=Bent(strength), checkpoint=tmp_path)
        fitted(estimator, X[:100])
    assert len(list(tmp_path.iterdir())) == 2


# ------------------------------------------------------------------- damaged files


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of a fit with tasks of many kinds, and the estimator of the fit."""
    folder = tmp_path_factory.mktemp("done")
    case = "auto, cross-validated"
    fitted(density(case, checkpoint=folder), CASES[case][1])
    kinds = {path.name.partition("-")[0] for path in files(folder)}
    assert {"mixture", "pretrain", "grow", "plan", "base"} <= kinds
    return folder


def gone_on(folder):
    case = "auto, cross-validated"
    return fitted(density(case, checkpoint=folder), CASES[case][1])


TASK = Task("a/0-grow/0", 1.0, {"kind": "grow"})


def result():
    """A result such as that of a block, with whatever results may hold."""
    weights = {"weight": torch.linspace(0, 1, 6).reshape(2, 3), "n": torch.tensor(3)}
    block = {"weights": weights, "radius": 2.5, "interval": [0.0, 0.5], "n_steps": 2}
    return BlockResult(
        blocks=[block, block],
        failed=False,
        step_size=float("inf"),
        n_iter=4,
        n_planned=5,
        n_minibatches=15,
        losses=[1.0, 0.1 + 0.2, float("nan")],
        evaluations=[(2, 1.5), (4, 1.25)],
        seconds=1e-300,
    )


def packed(value):
    arrays = {}
    plain = json.dumps(pack(value, arrays, "result", CLASSES))
    return plain, {name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()}


@pytest.fixture
def written(tmp_path):
    """A checkpoint with one task, the path of its file, and the bytes of it."""
    store = Checkpoint(tmp_path, "fit")
    assert store.on_begin(TASK) is None
    store.on_end(TASK, result(), 0.1)
    (path,) = tmp_path.iterdir()
    return Checkpoint(tmp_path, "fit"), path, path.read_bytes()


def test_a_result_comes_back(written):
    store, path, before = written
    found, seconds = store.on_begin(TASK)
    assert packed(found) == packed(result())
    assert seconds == 0.1
    # What is there is not written again.
    store.on_end(TASK, found, seconds)
    assert path.read_bytes() == before


def read(store, path, data):
    """The result in some bytes; None if they are refused in the one way there is."""
    path.write_bytes(data)
    try:
        return store.on_begin(TASK)
    except ValueError as error:
        if f"Cannot go on from {str(path)!r}: " not in str(error):
            raise
        return None


def test_damage_is_noticed(written):
    store, path, data = written
    expected = packed(read(store, path, data)[0])
    rng, n_taken = np.random.RandomState(0), 0
    for i in range(1000):
        a, b = sorted(rng.randint(len(data), size=2))
        flipped = bytearray(data)
        # Every other one in the header, where the words are.
        header = 8 + int.from_bytes(data[:8], "little")
        where = rng.randint(header if i % 2 else len(data))
        flipped[where] ^= 1 << rng.randint(8)
        damaged = (bytes(flipped), data[:b], data[:a] + data[b:])[
            rng.choice(3, p=[0.8, 0.1, 0.1])
        ]
        found = read(store, path, damaged)
        if found is not None:
            # White space in the header, or nothing changed at all.
            assert packed(found[0]) == expected
            n_taken += 1
    assert n_taken < 20


@pytest.mark.parametrize(
    "change, message",
    [
        ({"fit": "0" * 64}, "another fit"),
        ({"task": "b"}, "of the task 'b', not"),
        ({"seconds": -1.0}, "no seconds"),
        ({"seconds": None}, "no seconds"),
        ({"more": 1}, "just the entries"),
        ({"result": {"object": "os.system", "state": {"dict": []}}}, "no class"),
        ({"result": {"array": "x"}}, "'x' is missing"),
        ({"result": None}, "belongs to nothing"),
    ],
)
def test_a_wrong_file_is_told_what_is_wrong(change, message, written):
    store, path, data = written
    kind = "checkpoint of a task"
    _, model, arrays = file_format.parse(data, kind, FORMAT_VERSION)
    path.write_bytes(
        file_format.dump(kind, FORMAT_VERSION, {**model, **change}, arrays)
    )
    with pytest.raises(ValueError, match=f"Cannot go on from .*{message}.*Delete the"):
        store.on_begin(TASK)


def edit(model, arrays, rng):
    """Replace one of the values of a result, or one of its arrays, at random."""
    if arrays and rng.rand() < 0.3:
        return edit_arrays(arrays, rng)
    at = list(places_in({"result": model["result"]}))
    *parents, last = at[rng.randint(len(at))]
    parent = model
    for key in parents:
        parent = parent[key]
    # A number of iterations that is taken at its word would not end.
    values = [v for v in NASTY if not (isinstance(v, int) and v > 3)]
    parent[last] = copy.deepcopy(values[rng.randint(len(values))])
    return None


@pytest.mark.parametrize("n", [10, pytest.param(40, marks=pytest.mark.slow)])
def test_edited_files_with_the_right_checksum_are_refused_or_work(n, done, tmp_path):
    rng, kind = np.random.RandomState(n), "checkpoint of a task"
    folder = tmp_path / "copy"
    shutil.copytree(done, folder)
    n_refused = 0
    for i in range(n):
        path = files(folder)[i % len(files(folder))]
        before = path.read_bytes()
        model, arrays = file_content(path)
        edit(model, arrays, rng)
        path.write_bytes(file_format.dump(kind, FORMAT_VERSION, model, arrays))
        try:
            assert np.isfinite(gone_on(folder).score_samples(ring(90))).all()
        except (ValueError, RuntimeError):
            n_refused += 1
        shutil.rmtree(folder)
        shutil.copytree(done, folder)
        assert path.read_bytes() == before
    assert n_refused > 0.2 * n


def test_files_that_changed_places_are_noticed(tmp_path):
    def both():
        for n in (4, 5):
            fitted(density(**SMALL, checkpoint=tmp_path, max_iter=n), X[:100])

    both()
    folders = sorted(tmp_path.iterdir())
    a, b = sorted(folders[0].glob("[!f]*"))[:2]
    before = a.read_bytes()
    a.write_bytes(b.read_bytes())
    with pytest.raises(ValueError, match=r"Cannot go on .* of the task '.*', not"):
        both()
    a.write_bytes(before)
    for name in ("fit.safetensors", a.name):
        one, other = (folder / name for folder in folders)
        before = one.read_bytes()
        one.write_bytes(other.read_bytes())
        with pytest.raises(ValueError, match=r"another fit.*Delete the f"):
            both()
        one.write_bytes(before)


@pytest.mark.parametrize("data", [b"", b"{}", b"\x80\x04K\x01.", None])
def test_other_files_are_refused(data, tmp_path):
    fitted(density(**SMALL, checkpoint=tmp_path), X[:100])
    path = files(tmp_path)[0]
    for one in (path, path.with_name("fit.safetensors")):
        before = one.read_bytes()
        one.write_bytes(before[:-1] if data is None else data)
        with pytest.raises(ValueError, match=r"Cannot go on from .*Delete the f"):
            fitted(density(**SMALL, checkpoint=tmp_path), X[:100])
        # Nothing is overwritten: the user may want to look at it.
        assert one.read_bytes() != before
        one.write_bytes(before)


# ------------------------------------------------------------------- folders


def test_a_file_in_the_way(tmp_path):
    path = tmp_path / "file"
    path.write_text("of somebody else")
    for where in (path, path / "below"):
        with pytest.raises(ValueError, match=r"'checkpoint' parameter .* must be the"):
            fitted(density(**SMALL, checkpoint=where), X[:100])
    assert path.read_text() == "of somebody else"
    with pytest.raises(ValueError, match="'checkpoint' parameter of JKOFlowDensity"):
        fitted(density(**SMALL, checkpoint=3), X[:100])


def test_what_cannot_be_told_from_others_has_no_checkpoint(tmp_path):
    other = np.random.RandomState(np.random.PCG64(0))
    with pytest.raises(ValueError, match=r"cannot have a checkpoint: .* PCG64"):
        fitted(density(random_state=other, checkpoint=tmp_path), X[:100])
    assert not list(tmp_path.iterdir())


def test_two_fits_at_once_are_noticed(whole, tmp_path):
    """One starts and ends within a task of the other."""
    case = "gaussian, cross-validated"

    def fit():
        estimator = density(case, field=Counted(), checkpoint=tmp_path)
        return fitted(estimator, CASES[case][1])

    with solves(20, fit), pytest.raises(RuntimeError, match="only once at a time"):
        fit()
    with writes() as written:
        assert content(fit(), Counted) == whole(case, field=Counted())
    assert not written


def test_what_a_dead_process_left_is_removed(tmp_path):
    fitted(density(**SMALL, checkpoint=tmp_path), X[:100])
    left = files(tmp_path)[0].with_suffix(".0.tmp")
    left.write_bytes(b"half")
    fitted(density(**SMALL, checkpoint=tmp_path), X[:100])
    assert not left.exists()


def test_a_disk_that_is_full_is_told(tmp_path):
    def full():
        raise OSError(28, "No space left on device")

    with writes(2, before=full), pytest.raises(OSError, match="No space"):
        fitted(density(**SMALL, checkpoint=tmp_path), X[:100])
    assert not files(tmp_path)
    assert not list(tmp_path.glob("*/*.tmp"))
    resumed = fitted(density(**SMALL, checkpoint=tmp_path), X[:100])
    assert content(resumed) == content(fitted(density(**SMALL), X[:100]))


def test_a_path_is_saved_as_a_string(tmp_path):
    estimator = fitted(density(**SMALL, checkpoint=tmp_path), X[:100])
    estimator.save(tmp_path / "model.safetensors")
    loaded = JKOFlowDensity.load(tmp_path / "model.safetensors")
    assert loaded.checkpoint == str(tmp_path)


def test_no_checkpoint_writes_nothing(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with writes() as written:
        fitted(density(**SMALL), X[:100])
    assert not written
    assert not list(tmp_path.iterdir())
