"""Checkpoints: fits that are killed, and reach the model that they would have made."""

import copy
import io
import math
import multiprocessing
import os
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import QUICK
from sklearn.model_selection import GridSearchCV

from skjko import (
    JKOFlowDensity,
    checkpoint,
    container,
    fitting,
    persistence,
    settings,
)
from skjko.datasets import moons
from skjko.flow import scheme
from skjko.flow.fields import MLPField
from skjko.flow.fold import Fold
from skjko.flow.pace import Clock, Deadline
from skjko.flow.rows import Rows
from skjko.flow.training import BlockTrainer, Options

# Of every case; more on request. Each is a process that dies, and a fit that goes on.
N_KILLS = int(os.environ.get("SKJKO_KILLS", "2"))

X = moons().sample(1100, random_state=0)
ROUNDS = {"n_reparameterizations": 1, "n_refinements": 1}
CASES = {
    "validation split": ({"max_blocks": 3}, X),
    "cross-validated": (ROUNDS, X[:300]),
    "no rows held out": ({"early_stopping": False, **ROUNDS}, X[:300]),
}
WRITES = ("before a write", "within a write", "before a rename", "after a rename")


def density(case="validation split", **parameters):
    """An estimator that trains in well under a second."""
    return JKOFlowDensity(**{**QUICK, "max_iter": 8, **CASES[case][0], **parameters})


def fitted(estimator, rows, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(rows, **more)


def told(estimator):
    """All that a file would have of a fitted estimator, but where its checkpoint is."""
    estimator = copy.deepcopy(estimator)
    for parameters in (estimator.__dict__, estimator._fitted_with):
        parameters["checkpoint"] = None
    arrays = {}
    model = persistence._dismantle(estimator, arrays)
    return model, {
        name: (array.dtype, array.shape, array.tobytes())
        for name, array in arrays.items()
    }


@pytest.fixture
def events(monkeypatch):
    """What training reports, in a list."""
    seen = []
    monkeypatch.setattr(settings, "_reporter", lambda p: seen.append)
    return seen


class Died(Exception):
    """What ends a training in place of a signal."""


def at_iteration(monkeypatch, number, action):
    """Call `action` before iteration `number`; return a list with an entry for each."""
    done, advance = [], BlockTrainer.advance

    def counted(self, n_iter):
        done.append(n_iter)
        if len(done) == number:
            action()
        return advance(self, n_iter)

    monkeypatch.setattr(BlockTrainer, "advance", counted)
    return done


def die():
    raise Died


def no_training(monkeypatch):
    at_iteration(monkeypatch, 1, die)


def files(folder):
    """Paths of the files of all blocks, in order."""
    return sorted(p for p in Path(folder).glob("*/*") if p.name != "fit.safetensors")


# ------------------------------------------------------------------- killed


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def fit_and_be_killed(case, folder, point, number):
    """Fit in this process, which ends by SIGKILL at a point of a given number."""
    patch = pytest.MonkeyPatch()
    if point == "iteration":
        at_iteration(patch, number, kill)
    else:
        kill_at_write(patch, point, number)
    fitted(density(case, checkpoint=folder), CASES[case][1])


def kill_at_write(patch, point, number):
    write, replace, begun = container.write, os.replace, []

    def counted(path, content):
        begun.append(path)
        if len(begun) == number:
            if point == "before a write":
                kill()
            if point == "within a write":
                patch.setattr(container, "open", opened, raising=False)
        return write(path, content)

    def opened(path, mode):
        class Half(io.FileIO):
            def write(self, content):
                super().write(content[: len(content) // 2])
                kill()

        return Half(path, mode.replace("b", ""))

    def replaced(source, target):
        if len(begun) == number and point == "before a rename":
            kill()
        replace(source, target)
        if len(begun) == number and point == "after a rename":
            kill()

    patch.setattr(container, "write", counted)
    patch.setattr(os, "replace", replaced)


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


@pytest.fixture(scope="module")
def whole():
    """What fits that nobody ends make and report, and how much work they are."""
    known = {}

    def get(case):
        if case not in known:
            seen = []
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(settings, "_reporter", lambda p: seen.append)
                done = at_iteration(patch, 0, die)
                model = fitted(density(case), CASES[case][1])
            known[case] = told(model), seen, len(done)
        return known[case]

    return get


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("case", CASES)
def test_killed_at_any_point_a_fit_goes_on(case, whole, run, events, tmp_path):
    model, reports, n_iterations = whole(case)
    rng = np.random.RandomState(sorted(CASES).index(case))
    points, n_killed, n_runs = ("iteration", *WRITES), 0, 0
    folder = tmp_path / "0"
    while n_killed < N_KILLS:
        # In turn, from another one on in every case, so that few kills are enough.
        point = points[(n_runs + 2 * sorted(CASES).index(case)) % len(points)]
        number = rng.randint(1, 1 + n_iterations if point == "iteration" else 6)
        exit_code = run(case, folder, point, number)
        n_runs += 1
        # What was left to do may be less than what was drawn.
        assert exit_code in (0, -signal.SIGKILL), (point, number)
        n_killed += exit_code == -signal.SIGKILL
        # Some are killed again, before they are allowed to come to an end.
        if exit_code == 0 or rng.rand() < 0.5:
            events.clear()
            resumed = fitted(density(case, checkpoint=folder), CASES[case][1])
            assert told(resumed) == model, (point, number)
            assert events == reports
            assert not list(folder.glob("*/*.tmp"))
            folder = tmp_path / str(n_runs)
    assert told(fitted(density(case, checkpoint=folder), CASES[case][1])) == model


@pytest.mark.parametrize("case", CASES)
def test_checkpoints_change_nothing_and_a_whole_one_needs_no_training(
    case, whole, events, monkeypatch, tmp_path
):
    model, reports, _ = whole(case)
    first = tmp_path / "first"
    assert told(fitted(density(case, checkpoint=first), CASES[case][1])) == model
    # The folder may be somewhere else by now.
    first.rename(tmp_path := tmp_path / "moved")
    before = {path: path.read_bytes() for path in files(tmp_path)}
    assert before
    no_training(monkeypatch)
    events.clear()
    # A copy: it may be one of a grid search, or of another session.
    again = density(case, checkpoint=str(tmp_path), verbose=True, device="cpu")
    again = fitted(again, CASES[case][1].copy())
    assert events == reports
    for name in ("verbose", "device"):
        again.set_params(**{name: getattr(density(), name)})
        again._fitted_with[name] = getattr(density(), name)
    assert told(again) == model
    assert {path: path.read_bytes() for path in files(tmp_path)} == before


@pytest.mark.parametrize(
    "parameters",
    [
        {"hidden_layer_sizes": ()},
        {"hidden_layer_sizes": [6, 5, 4], "activation": "tanh"},
        {"time_dependent": True},
        {"divergence": "hutchinson"},
        {"learning_rate_init": 1e9},
        {"bounds": [(-50, np.inf), None], "discrete": {1: 0.5}},
    ],
    ids=str,
)
def test_every_field_goes_on(parameters, monkeypatch, tmp_path):
    rows = np.c_[X[:100, 0], np.round(2 * X[:100, 1]) / 2]
    parameters = {"early_stopping": False, **parameters}
    with monkeypatch.context() as patch:
        done = at_iteration(patch, 0, die)
        expected = fitted(density(**parameters), rows)
    with monkeypatch.context() as patch:
        at_iteration(patch, len(done) - 3, die)
        with pytest.raises(Died):
            fitted(density(**parameters, checkpoint=tmp_path), rows)
    resumed = fitted(density(**parameters, checkpoint=tmp_path), rows)
    assert told(resumed) == told(expected)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("number", [20, 60])
def test_a_fit_that_was_interrupted_goes_on(case, number, whole, monkeypatch, tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    estimator = density(case, checkpoint=tmp_path)
    with monkeypatch.context() as patch:
        done = at_iteration(patch, number, interrupt)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            estimator.fit(CASES[case][1])
    n_iterations = whole(case)[2]
    if number < n_iterations:
        assert len(done) < n_iterations
        assert told(estimator) != whole(case)[0]
    assert told(fitted(estimator, CASES[case][1])) == whole(case)[0]


def test_a_block_whose_file_is_gone_is_trained_again(whole, monkeypatch, tmp_path):
    case = "cross-validated"
    fitted(density(case, checkpoint=tmp_path), CASES[case][1])
    for path in files(tmp_path)[::2]:
        path.unlink()
    done = at_iteration(monkeypatch, 0, die)
    model = fitted(density(case, checkpoint=tmp_path), CASES[case][1])
    assert told(model) == whole(case)[0]
    assert 0 < len(done) < whole(case)[2]


# ------------------------------------------------------------------- which fit it is


CHANGES = {
    "max_iter": ({"max_iter": 9}, {}),
    "alpha": ({"alpha": 0.1}, {}),
    "random_state": ({"random_state": 1}, {}),
    "X": ({}, {"X": X[:150] + 0.01}),
    "sample_weight": ({}, {"sample_weight": np.linspace(0.5, 1, 200)}),
    "X_val": ({}, {"X_val": X[200:300]}),
    "bounds": ({"bounds": [(-100, None), None]}, {}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_fits_that_differ_do_not_mix(name, monkeypatch, capsys, tmp_path):
    parameters, arguments = CHANGES[name]
    arguments = {"X": X[:200], **arguments}
    parameters = {"max_blocks": 1, **parameters}
    fitted(density(max_blocks=1, checkpoint=tmp_path), X[:200])
    first = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    other = density(**parameters)
    mixed = density(**parameters, checkpoint=tmp_path)
    done = at_iteration(monkeypatch, 0, die)
    expected, n_expected = fitted(other, arguments.pop("X"), **arguments), len(done)
    rows = CHANGES[name][1].get("X", X[:200])
    done.clear()
    mixed.set_params(verbose=True)
    fitted(mixed, rows, **arguments)
    assert len(done) == n_expected
    said = capsys.readouterr().out.splitlines()[0]
    assert "a new fit" in said
    assert name in said.partition(" has another ")[2].split(", ")
    mixed.set_params(verbose=False)
    mixed._fitted_with["verbose"] = False
    assert told(mixed) == told(expected)
    assert len(list(tmp_path.iterdir())) == 2
    assert all(path.read_bytes() == content for path, content in first.items())


@pytest.mark.parametrize("module", [checkpoint, torch, np])
def test_other_versions_are_other_fits(module, monkeypatch, tmp_path):
    fitted(density(max_blocks=0, checkpoint=tmp_path), X[:200])
    monkeypatch.setattr(module, "__version__", "99.0")
    fitted(density(max_blocks=0, checkpoint=tmp_path), X[:200])
    assert len(list(tmp_path.iterdir())) == 2


def test_without_a_seed_the_one_that_was_drawn_is_kept(monkeypatch, tmp_path):
    unseeded = {"random_state": None, "checkpoint": tmp_path, "early_stopping": False}
    with monkeypatch.context() as patch:
        at_iteration(patch, 12, die)
        with pytest.raises(Died):
            fitted(density(**unseeded), X[:200])
    assert files(tmp_path)
    first = fitted(density(**unseeded), X[:200])
    assert told(fitted(density(**unseeded), X[:200])) == told(first)
    other = fitted(density(**{**unseeded, "checkpoint": tmp_path / "b"}), X[:200])
    assert other.loss_curve_ != first.loss_curve_


def test_a_random_state_counts_with_its_position(monkeypatch, tmp_path):
    def estimator(n_drawn, **more):
        state = np.random.RandomState(3)
        state.rand(n_drawn)
        return density(random_state=state, early_stopping=False, **more)

    with monkeypatch.context() as patch:
        at_iteration(patch, 12, die)
        with pytest.raises(Died):
            fitted(estimator(0, checkpoint=tmp_path), X[:200])
    assert files(tmp_path)
    resumed = fitted(estimator(0, checkpoint=tmp_path), X[:200])
    assert told(resumed) == told(fitted(estimator(0), X[:200]))
    fitted(estimator(1, checkpoint=tmp_path), X[:200])
    assert len(list(tmp_path.iterdir())) == 2


def test_a_warm_start_goes_on(monkeypatch, tmp_path):
    case, more_blocks = "no rows held out", {"warm_start": True, "max_blocks": 3}

    def both(**more):
        estimator = fitted(density(case, **more), X[:100])
        return fitted(estimator.set_params(**more_blocks), X[:100])

    done = at_iteration(monkeypatch, 0, die)
    expected, n_whole = both(), len(done)
    for number in (n_whole // 3, n_whole - n_whole // 3):
        with monkeypatch.context() as patch:
            at_iteration(patch, number, die)
            with pytest.raises(Died):
                both(checkpoint=tmp_path)
    done.clear()
    assert told(both(checkpoint=tmp_path)) == told(expected)
    assert len(done) < n_whole
    # One that continues another fit is another fit.
    estimator = fitted(density(case, checkpoint=tmp_path, alpha=0.5), X[:100])
    fitted(estimator.set_params(**more_blocks, alpha=0.0), X[:100])
    assert len(list(tmp_path.iterdir())) == 4


def test_a_grid_search_goes_on(monkeypatch, tmp_path):
    def search(**more):
        estimator = density(early_stopping=False, max_blocks=1, **more)
        grid = {"max_iter": [6, 8], "alpha": [0.0, 0.1]}
        return GridSearchCV(estimator, grid, cv=2, error_score="raise")

    done = at_iteration(monkeypatch, 0, die)
    expected, n_whole = search().fit(X[:100]), len(done)
    with monkeypatch.context() as patch:
        at_iteration(patch, n_whole // 2, die)
        with pytest.raises(Died):
            search(checkpoint=tmp_path).fit(X[:100])
    done.clear()
    resumed = search(checkpoint=tmp_path).fit(X[:100])
    assert len(done) <= n_whole - n_whole // 2 + 8
    np.testing.assert_array_equal(
        resumed.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
    )
    assert told(resumed.best_estimator_) == told(expected.best_estimator_)
    assert len(list(tmp_path.iterdir())) == 9


# ------------------------------------------------------------------- time


class Ticking(Clock):
    """A clock that goes on by a second whenever it is read, and otherwise stands."""

    def __init__(self):
        super().__init__()
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now + self._spent


def limited_crew(journal):
    rows = Rows(torch.tensor(X[:500], dtype=torch.float32), torch.ones(500))
    return scheme.Crew(
        [Fold(rows)],
        lambda d, g: MLPField(d, (8, 8), "tanh", generator=g),
        Options(max_iter=10**6, batch_size=100),
        [torch.Generator().manual_seed(0)],
        deadline=Deadline(250.0, Ticking()),
        journal=journal,
    )


def test_time_that_was_spent_counts(monkeypatch, tmp_path):
    def trained():
        crew = limited_crew(checkpoint.FolderJournal(tmp_path, "fit"))
        crew.grow((0.5, 1.0, 2.0, math.inf))
        return crew

    whole = trained()
    first, last = sorted(tmp_path.iterdir())
    assert whole.step_sizes == (0.5, math.inf)
    last.unlink()
    # How many blocks there is time for is not asked again.
    monkeypatch.setattr(scheme.Crew, "_n_affordable", die)
    resumed = trained()
    assert resumed.records[0] == whole.records[0]
    # As many blocks as there was time for, and as much time for the last one, but for
    # some readings of the clock: without those spent before, it would be twice as much.
    assert resumed.step_sizes == whole.step_sizes
    expected = whole.records[1].n_iter
    assert abs(resumed.records[1].n_iter - expected) < 0.05 * expected
    assert first.exists()
    assert last.exists()


# ------------------------------------------------------------------- damaged files


def test_what_is_remembered_has_had_its_time(monkeypatch, tmp_path):
    """Whoever comes to it late finds the same model all the same."""
    now, begin = [0.0], fitting.Start.__init__
    monkeypatch.setattr(Clock, "__call__", lambda self: now[0])
    X = moons().sample(1200, random_state=0)
    limited = {"checkpoint": tmp_path, "time_limit": 100.0, "mixture_map": None}
    first = density(**limited).fit(X)
    assert first.n_blocks_ > 0

    def late(self, *args):
        begin(self, *args)
        now[0] = 1e6

    monkeypatch.setattr(fitting.Start, "__init__", late)
    no_training(monkeypatch)
    again = density(**limited).fit(X)
    assert told(again) == told(first)


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    """A journal, its tasks with what came of them, and the bytes of the first."""
    folder, tasks = tmp_path_factory.mktemp("journal"), []

    class Telling(checkpoint.FolderJournal):
        def recall(self, task):
            tasks.append((self._part, task))

        def record(self, task, outcome):
            super().record(task, outcome)

        def part(self, name):
            return Telling(self._folder, self._fit, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "FolderJournal", Telling)
        estimator = density("cross-validated", activation="silu", checkpoint=folder)
        fitted(estimator, X[:300])
    (inside,) = folder.iterdir()
    part, task = tasks[0]
    whole = checkpoint.FolderJournal(inside, fit_of(inside), part)
    assert len(files(folder)) == len(tasks) > 2
    return whole, task, files(folder)


def fit_of(folder):
    path = next(p for p in sorted(folder.iterdir()) if p.name != "fit.safetensors")
    return container.parse(path.read_bytes(), checkpoint._BLOCK, 1)[1]["fit"]


def as_bytes(outcome):
    """An outcome as plain values, to the last bit."""
    arrays = {}
    blocks = outcome.blocks and checkpoint.put_blocks(outcome.blocks, "b", arrays)
    rest = {k: v for k, v in vars(outcome).items() if k not in ("blocks", "states")}
    states = [state.tolist() for state in outcome.states]
    return blocks, {k: a.tobytes() for k, a in arrays.items()}, rest, states


@pytest.fixture
def alone(journal, tmp_path):
    """The first task, its path in a folder of its own, a journal there, its bytes."""
    whole, task, _ = journal
    path = tmp_path / whole._path(task.round, task.attempt).name
    content = whole._path(task.round, task.attempt).read_bytes()
    own = checkpoint.FolderJournal(tmp_path, whole._fit, whole._part)
    return task, path, own, content


def recalled(own, path, task, content):
    """What is recalled of some bytes; None if they are refused in the one way."""
    path.write_bytes(content)
    try:
        return own.recall(task)
    except ValueError as error:
        if f"Cannot go on from {str(path)!r}: " not in str(error):
            raise
        return None


def test_no_damage_goes_unnoticed(alone):
    task, path, own, content = alone
    expected = as_bytes(recalled(own, path, task, content))
    rng, n_taken = np.random.RandomState(0), 0
    for i in range(1000):
        a, b = sorted(rng.randint(len(content), size=2))
        flipped = bytearray(content)
        # Every other one in the header, where the words are.
        header = 8 + int.from_bytes(content[:8], "little")
        where = rng.randint(header if i % 2 else len(content))
        flipped[where] ^= 1 << rng.randint(8)
        damaged = (bytes(flipped), content[:b], content[:a] + content[b:])[
            rng.choice(3, p=[0.8, 0.1, 0.1])
        ]
        outcome = recalled(own, path, task, damaged)
        if outcome is not None:
            # White space in the header, or nothing changed at all.
            assert as_bytes(outcome) == expected
            n_taken += 1
    assert n_taken < 20


def edited(rng, value):
    """A value with one of its leaves replaced, dropped, or added."""
    if isinstance(value, (dict, list)) and value and rng.rand() < 0.8:
        value = copy.copy(value)
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = keys[rng.randint(len(keys))]
        if rng.rand() < 0.1:
            del value[key]
        else:
            value[key] = edited(rng, value[key])
        return value
    others = (None, True, -1, 0, 1, 3, 10**18, 0.5, -2.5, 1e300, "", "grow", [], {})
    return others[rng.randint(len(others))]


def edited_arrays(rng, arrays):
    arrays = dict(arrays)
    name = sorted(arrays)[rng.randint(len(arrays))]
    array = arrays.pop(name)
    kind = rng.randint(5)
    if kind == 0:
        arrays[name + "x"] = array
    elif kind == 1:
        arrays[name] = array.reshape(-1)[: rng.randint(array.size + 1)]
    elif kind == 2:
        arrays[name] = array.astype(rng.choice(["<f4", "<f8", "<i8", "<u4"]))
    elif kind == 3:
        flat = array.reshape(-1).copy()
        values = [0, 1] if flat.dtype.kind in "iu" else [np.nan, np.inf, -1.0, 1e30]
        if flat.size:
            flat[rng.randint(flat.size)] = values[rng.randint(len(values))]
        arrays[name] = flat.reshape(array.shape)
    return arrays


def test_what_has_the_right_checksum_is_refused_or_taken_at_its_word(alone):
    task, path, own, content = alone
    _, model, arrays = container.parse(content, checkpoint._BLOCK, 1)
    rng, n_refused = np.random.RandomState(0), 0
    with np.errstate(all="ignore"):
        for i in range(500):
            edits = (
                (edited(rng, model) if i % 2 else model),
                (arrays if i % 2 else edited_arrays(rng, arrays)),
            )
            if not isinstance(edits[0], dict):
                continue
            written = container.dump(checkpoint._BLOCK, 1, *edits)
            outcome = recalled(own, path, task, written)
            n_refused += outcome is None
            if outcome is not None:
                assert len(outcome.blocks) == len(outcome.states) == 3
                for block, field in zip(outcome.blocks, task.fields, strict=True):
                    assert str(block.field.field) == str(field)
    assert n_refused > 300


@pytest.mark.parametrize(
    "change, message",
    [
        ({"fit": "0" * 64}, "another fit"),
        ({"broken": 1}, "'broken' in 'checkpoint' is 1"),
        ({"n_iter": 0}, "more losses than iterations"),
        ({"more": 1}, "just the entries"),
        ({"blocks": []}, "the fields are not those"),
    ],
)
def test_a_wrong_checkpoint_is_told_what_is_wrong(change, message, alone):
    task, path, own, content = alone
    _, model, arrays = container.parse(content, checkpoint._BLOCK, 1)
    path.write_bytes(container.dump(checkpoint._BLOCK, 1, {**model, **change}, arrays))
    with pytest.raises(ValueError, match=message):
        own.recall(task)


@pytest.mark.parametrize("kind", ["grow", "regularize", "refine"])
def test_only_rounds_that_add_blocks_may_drop_one(kind, alone):
    task, path, own, content = alone
    outcome = replace(recalled(own, path, task, content), blocks=None)
    path.unlink()
    task = replace(task, kind=kind)
    own.record(task, outcome)
    if kind == "refine":
        with pytest.raises(ValueError, match="no blocks, in a round of kind refine"):
            own.recall(task)
    else:
        assert own.recall(task).blocks is None


def test_what_is_no_state_of_a_generator_is_refused(alone):
    task, path, own, content = alone
    _, model, arrays = container.parse(content, checkpoint._BLOCK, 1)
    arrays["states.1"] = np.zeros_like(arrays["states.1"])
    path.write_bytes(container.dump(checkpoint._BLOCK, 1, model, arrays))
    with pytest.raises(ValueError, match=r"'states\.1' is no state of a generator"):
        own.recall(task)


def test_fields_of_another_kind_are_refused(alone):
    task, path, own, content = alone
    _, model, arrays = container.parse(content, checkpoint._BLOCK, 1)
    # The same weights would do for it.
    for block in model["blocks"]:
        assert block["field"]["field"]["activation"] == "silu"
        block["field"]["field"]["activation"] = "tanh"
    path.write_bytes(container.dump(checkpoint._BLOCK, 1, model, arrays))
    with pytest.raises(ValueError, match="the fields are not those"):
        own.recall(task)


def test_files_that_changed_places_are_noticed(monkeypatch, tmp_path):
    fitted(density(early_stopping=False, checkpoint=tmp_path), X[:100])
    a, b = files(tmp_path)[:2]
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    with pytest.raises(ValueError, match=r"went another way: '.*' was"):
        fitted(density(early_stopping=False, checkpoint=tmp_path), X[:100])
    a.write_bytes(content)
    fitted(density(early_stopping=False, checkpoint=tmp_path, max_iter=9), X[:100])
    folders = sorted(tmp_path.iterdir())

    def both():
        for n in (8, 9):
            fitted(
                density(early_stopping=False, checkpoint=tmp_path, max_iter=n), X[:100]
            )

    for name in ("fit.safetensors", a.name):
        one, other = (folder / name for folder in folders)
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        with pytest.raises(ValueError, match=r"another fit.*Delete the f"):
            both()
        one.write_bytes(content)


@pytest.mark.parametrize("content", [b"", b"{}", b"\x80\x04K\x01.", None])
def test_other_files_are_refused(content, tmp_path):
    fitted(density(early_stopping=False, checkpoint=tmp_path), X[:100])
    path = files(tmp_path)[0]
    paths = (path, path.with_name("fit.safetensors"))
    for path in paths:
        before = path.read_bytes()
        path.write_bytes(before[:-1] if content is None else content)
        with pytest.raises(ValueError, match=r"Cannot go on from .*Delete the f"):
            fitted(density(early_stopping=False, checkpoint=tmp_path), X[:100])
        # Nothing is overwritten: the user may want to look at it.
        assert path.read_bytes() != before
        path.write_bytes(before)


def test_a_file_in_the_way(tmp_path):
    path = tmp_path / "file"
    path.write_text("of somebody else")
    for checkpoint_path in (path, path / "below"):
        with pytest.raises(ValueError, match=r"'checkpoint' parameter .* must be the"):
            fitted(density(early_stopping=False, checkpoint=checkpoint_path), X[:100])
    assert path.read_text() == "of somebody else"
    with pytest.raises(ValueError, match="'checkpoint' parameter of JKOFlowDensity"):
        fitted(density(early_stopping=False, checkpoint=3), X[:100])


def test_what_cannot_be_told_from_others_has_no_checkpoint(tmp_path):
    other = np.random.RandomState(np.random.PCG64(0))
    with pytest.raises(ValueError, match=r"cannot have a checkpoint: .* PCG64"):
        fitted(density(random_state=other, checkpoint=tmp_path), X[:100])
    assert not list(tmp_path.iterdir())


def test_two_processes_at_once_are_noticed(alone):
    task, path, own, content = alone
    outcome = recalled(own, path, task, content)
    with pytest.raises(RuntimeError, match="only once at a time"):
        own.record(task, outcome)
    assert path.read_bytes() == content


def test_what_a_dead_process_left_is_removed(tmp_path):
    fitted(density(early_stopping=False, checkpoint=tmp_path), X[:100])
    left = files(tmp_path)[0].with_suffix(".0.tmp")
    left.write_bytes(b"half")
    fitted(density(early_stopping=False, checkpoint=tmp_path), X[:100])
    assert not left.exists()


def test_a_disk_that_is_full_is_told(monkeypatch, tmp_path):
    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            fitted(density(early_stopping=False, checkpoint=tmp_path), X[:100])
    assert not files(tmp_path)
    resumed = fitted(density(early_stopping=False, checkpoint=tmp_path), X[:100])
    assert told(resumed) == told(fitted(density(early_stopping=False), X[:100]))


def test_a_path_is_saved_as_a_string(tmp_path):
    estimator = fitted(density(early_stopping=False, checkpoint=tmp_path), X[:100])
    estimator.save(tmp_path / "model.safetensors")
    loaded = JKOFlowDensity.load(tmp_path / "model.safetensors")
    assert loaded.checkpoint == str(tmp_path)


def test_no_checkpoint_writes_nothing(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(container, "write", die)
    fitted(density(early_stopping=False), X[:100])
    assert not list(tmp_path.iterdir())
