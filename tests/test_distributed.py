"""Fits that several processes train together: the model of one process.

This file is also the script that the processes run.
"""

# SPDX-License-Identifier: BSD-3-Clause

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import quick

from skjko import JKOFlowDensity, RungeKutta
from skjko.callbacks import EarlyStopping
from skjko.datasets import moons
from skjko.distributed import gather_rows

pytestmark = pytest.mark.slow

X = moons().sample(1100, random_state=0)
WEIGHT = 1 + np.arange(len(X)) % 3
FITS = {
    # Validation; minibatches that the processes cannot share evenly.
    "weights": ({"batch_size": 101}, WEIGHT),
    # Probes are drawn for the whole minibatch.
    "probes": (
        {
            "solver": RungeKutta(n_steps=1, divergence="finite_difference"),
            "early_stopping": False,
            "max_blocks": 1,
        },
        None,
    ),
    # Only one of the processes has a sample of such a minibatch.
    "one sample": ({"batch_size": 1, "early_stopping": False}, None),
}
LIMITED = {
    "early_stopping": False,
    "max_blocks": 1,
    "max_iter": 10**6,
    "time_limit": 1.0,
    "random_state": None,
}
INTERRUPTED = {"early_stopping": False, "max_blocks": 3}


def fitted(name):
    parameters, weight = FITS[name]
    return quick(**parameters).fit(X, sample_weight=weight)


def digest(density):
    weights = [p.numpy().tobytes() for p in density.flow_.parameters()]
    return hashlib.sha256(b"".join(weights)).hexdigest()


class Killer(EarlyStopping):
    """Kills its process at the end of the second block."""

    def _look(self, fit, task, density, *data):
        if density.n_blocks_ == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def run(folder):
    """What every process does, until one is killed."""
    rank, found = int(os.environ["RANK"]), {}
    for name in FITS:
        density = fitted(name)
        density.save(folder / f"{name} of {rank}.skjko")
        found[name] = digest(density), density.n_blocks_
    # One that the clock ends, and a seed that is drawn.
    limited = quick(**LIMITED).fit(X)
    found["limited"] = digest(limited), limited.history_[0].n_minibatches
    try:
        quick(batch_size=50 + rank).fit(X)
    except ValueError as error:
        found["parameters"] = str(error)
    try:
        quick().fit(X[rank:])
    except ValueError as error:
        found["samples"] = str(error)
    # The second process has more rows, in parts, one of them without any.
    own = X[:300] if rank == 0 else iter(np.split(X[300:], [0, 500]))
    shards = quick(batch_size=101).fit(gather_rows(own, np.float64))
    found["shards"] = digest(shards), shards.n_blocks_
    found["whole"] = digest(quick(batch_size=101).fit(X))
    for name, own in {
        "features": X if rank == 0 else X[:, :1],
        "text": X if rank == 1 else np.array([["a", "b"]]),
        "nothing": [],
    }.items():
        try:
            gather_rows(own)
        except ValueError as error:
            found[name] = str(error)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    last = quick(checkpoint=folder / "runs", **INTERRUPTED)
    if rank == 1:
        last.set_callbacks(Killer("score"))
    last.fit(X)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The folder with the files of two processes, and how these ended."""
    pytest.importorskip("sklearn.callback")
    folder = tmp_path_factory.mktemp("together")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # As torchrun starts them; but it ends the others itself where one is killed.
    common = {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": "2"}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **common, **address, "RANK": str(rank)},
        )
        for rank in (0, 1)
    ]
    messages = [process.communicate()[1] for process in processes]
    return folder, [process.returncode for process in processes], messages


@pytest.fixture(scope="module")
def found(together):
    """What the two processes found."""
    folder, _, messages = together
    files = [folder / f"{rank}.json" for rank in (0, 1)]
    assert all(file.exists() for file in files), messages
    return [json.loads(file.read_text()) for file in files]


@pytest.mark.parametrize("name", FITS)
def test_model_is_that_of_one_process(together, found, name):
    folder, (first, second) = together[0], found
    assert first[name] == second[name]
    alone = fitted(name)
    loaded = JKOFlowDensity.load(folder / f"{name} of 0.skjko")
    assert digest(loaded) == first[name][0]
    # Sums of float32 in another order, over tens of iterations.
    assert loaded.n_blocks_ == alone.n_blocks_ >= 1
    assert loaded.loss_curve_ == pytest.approx(alone.loss_curve_, abs=1e-4)
    np.testing.assert_allclose(
        loaded.score_samples(X), alone.score_samples(X), rtol=0, atol=1e-3
    )


def test_model_of_gathered_rows_is_that_of_all_rows(found):
    for one in found:
        weights, n_blocks = one["shards"]
        assert n_blocks >= 1
        assert weights == one["whole"] == found[0]["whole"]


def test_rows_that_do_not_fit_together_are_an_error_in_all(found):
    for one in found:
        assert one["features"].startswith("The rows of process 1: 1 features, where")
        assert one["text"].startswith("The rows of process 0: expected numbers")
        assert one["nothing"] == "No process has any rows."


def test_rows_of_one_process():
    rows = gather_rows(part for part in np.array_split(X, 7))
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, X.astype(np.float32))
    assert not rows.flags.writeable
    with pytest.raises(ValueError, match="Got int64 instead"):
        gather_rows(X, dtype=int)
    with pytest.raises(ValueError, match="two dimensions"):
        gather_rows([X[0]])


def test_clock_and_seed_are_those_of_the_first(found):
    first, second = found
    assert first["limited"] == second["limited"]


def test_only_the_first_saves(together, found):
    folder = together[0]
    assert len(list(folder.glob("* of 0.skjko"))) == len(FITS)
    assert not list(folder.glob("* of 1.skjko"))


def test_other_parameters_or_samples_are_an_error_in_all(found):
    for one in found:
        assert (
            "same batch_size. Process 0 has 50, process 1 has 51" in (one["parameters"])
        )
        assert "must have the same samples" in one["samples"]


def test_others_end_where_one_is_killed_and_one_goes_on(together, capsys):
    folder, codes, messages = together
    assert codes == [1, -signal.SIGKILL]
    assert "Process 0 of 2 that fit together has lost another one" in messages[0]
    again = quick(checkpoint=folder / "runs", verbose=1, **INTERRUPTED).fit(X)
    # A plan and two blocks.
    assert "tasks done before: 3" in capsys.readouterr().out
    expected = quick(**INTERRUPTED).fit(X)
    assert again.n_blocks_ == 3
    assert again.loss_curve_ == pytest.approx(expected.loss_curve_, abs=1e-4)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
