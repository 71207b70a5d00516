"""Many samples: chunks, files in place of memory, and what a fit may take."""

# SPDX-License-Identifier: BSD-3-Clause

import errno
import hashlib
import os
import subprocess
import sys
import tempfile
import textwrap
import tracemalloc
from typing import ClassVar

import numpy as np
import pytest
import sklearn
import torch
from sklearn.covariance import ledoit_wolf_shrinkage

from skjko import JKOFlowDensity, JKOSchedule, MLPField, RungeKutta, VelocityField
from skjko.data import chunks, splits
from skjko.flow import samples, spill
from skjko.flow.fields import MLP
from skjko.transforms import Asinh, Bounds, Chain, Whitening
from skjko.transforms.base import Transform
from skjko.transforms.discrete import DiscreteGrid

MIB = 2**20
# Less than the smallest of tables needs.
TINY = 0.001


def table(n=1500, seed=0):
    """Rows with a discrete, a bounded, a skewed and a constant column."""
    rng = np.random.RandomState(seed)
    X = rng.standard_normal((n, 5))
    X[:, 1] += X[:, 0] ** 2
    X[:, 2] = rng.poisson(3, n)
    X[:, 3] = np.exp(2 * X[:, 3])
    X[:, 4] = 7.0
    return X


def quick(**parameters):
    defaults = {
        "max_blocks": 2,
        "field": MLPField((8, 8)),
        "max_iter": 4,
        "learning_rate_init": 0.05,
        "solver": RungeKutta(n_steps=1),
        "bounds": {3: (0, None)},
        "init": "gaussian",
        "transforms": [Asinh()],
        "random_state": 0,
    }
    return JKOFlowDensity(**{**defaults, **parameters})


def weights_of(density):
    return [p.numpy() for p in density.flow_.parameters()]


def two_chunks(d):
    """Rows of d features that make more than two chunks in training."""
    n = 2 * chunks.CHUNK_VALUES // d + 1000
    return np.random.default_rng(0).standard_normal((n, d), dtype=np.float32)


@pytest.fixture
def small_chunks(monkeypatch):
    """Make many chunks of few rows in training."""
    monkeypatch.setattr(chunks, "CHUNK_VALUES", 1000)


@pytest.fixture
def spilled(monkeypatch):
    """Record the sizes of files that stand in for memory, in bytes."""
    # Not every system has a call that reserves room for a file.
    sizes, fallocate = [], getattr(os, "posix_fallocate", lambda *_: None)

    def recorded(file, offset, size):
        sizes.append(size)
        return fallocate(file, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", recorded, raising=False)
    return sizes


# ------------------------------------------------------------------- files for memory


def test_files_have_no_name_and_keep_what_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    array = spill.empty((100, 3), np.float32)
    assert array.shape == (100, 3)
    array[:] = np.arange(300).reshape(100, 3)
    np.testing.assert_array_equal(array.ravel(), np.arange(300))
    if os.name == "posix":
        assert os.listdir(tmp_path) == []


def test_a_full_disk_is_an_error_that_says_what_to_do(monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    message = r"no room for \d+ bytes.*TMPDIR.*_memory"
    with (
        sklearn.config_context(working_memory=TINY),
        pytest.raises(OSError, match=message),
    ):
        quick().fit(table())


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"early_stopping": False},
        {"schedule": JKOSchedule(n_refinements=1), "max_blocks": 1},
    ],
)
def test_samples_on_disk_train_the_same_model(parameters, spilled):
    X, weight = table(), np.random.RandomState(1).randint(3, size=1500)
    expected = quick(**parameters).fit(X, sample_weight=weight)
    assert not spilled
    with sklearn.config_context(working_memory=TINY):
        density = quick(**parameters).fit(X, sample_weight=weight)
    n_kept = np.count_nonzero(weight)
    # The rows of positive weight, those spread over their cells, and those pushed.
    whole = n_kept * 5 * np.dtype(np.float64).itemsize
    assert spilled.count(whole) >= 2 - parameters.get("early_stopping", True)
    # After cross-validation, all samples train.
    pushed = n_kept * 4 * np.dtype(np.float32).itemsize
    assert spilled.count(pushed) >= expected.n_blocks_ > 0
    assert density.loss_curve_ == expected.loss_curve_
    for a, b in zip(weights_of(density), weights_of(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(density.score_samples(X), expected.score_samples(X))


def test_a_fit_goes_on_with_rows_on_disk(spilled):
    X = table()
    expected = quick(max_blocks=1).fit(X).set_params(warm_start=True, max_blocks=3)
    density = quick(max_blocks=1).fit(X).set_params(warm_start=True, max_blocks=3)
    expected.fit(X)
    with sklearn.config_context(working_memory=TINY):
        density.fit(X)
    assert spilled
    for a, b in zip(weights_of(density), weights_of(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_taken_of_samples_on_disk_goes_to_the_device():
    ones, meta = torch.ones(9, 2), torch.device("meta")
    on_disk = samples.Samples(ones, torch.ones(9), torch.ones(9, 1), meta)
    taken = on_disk.take(torch.tensor([1, 2]))
    for tensor in (taken.x, taken.weight, taken.context, on_disk.some(3).x):
        assert tensor.device.type == "meta"
    assert on_disk.x.device.type == "cpu"


# --------------------------------------------------------------------- many chunks


def test_transforms_of_many_chunks_are_those_of_one(monkeypatch):
    X, weight = table(), np.random.RandomState(1).uniform(size=1500)
    bounds = Bounds(np.r_[[-np.inf] * 3, 0, -np.inf], np.full(5, np.inf))
    one = Chain([bounds, Asinh(), Whitening()]).fit(X, weight)
    monkeypatch.setattr(chunks, "CHUNK_VALUES", 1000)
    many = Chain([bounds, Asinh(), Whitening()]).fit(X, weight)
    assert many.n_degenerate_ == one.n_degenerate_ == 1
    for a, b in zip(many.forward(X), one.forward(X), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


class Counted(Transform):
    """A map that does nothing but count the samples it maps."""

    n_mapped = 0
    is_identity_ = False

    def fit(self, X, sample_weight=None):
        self.n_features_in_ = X.shape[1]
        return self

    def forward(self, X):
        Counted.n_mapped += len(X)
        return X.copy(), np.zeros(len(X))


def test_every_sample_is_mapped_once_for_the_whitening():
    # Through the mixtures of single features that took most of a fit to many samples.
    X = two_chunks(2)
    chain, _ = Chain([Counted(), Whitening()]).fit_forward(X)
    assert Counted.n_mapped == len(X)
    whitening = chain.find(Whitening)
    np.testing.assert_allclose(whitening.mean_, X.mean(axis=0, dtype=float))


def test_a_feature_may_be_constant_in_the_first_chunk():
    # Two features, and so a chunk is half of the rows.
    n = chunks.CHUNK_VALUES
    x = np.r_[np.zeros(n // 2), np.tile([1.0, -1.0], n // 4)]
    whitening = Whitening().fit(np.column_stack([x, x + 5]))
    np.testing.assert_allclose(whitening.scale_, np.sqrt(0.5), rtol=1e-12)


@pytest.mark.parametrize("d", [2, 7, 40])
def test_shrinkage_is_that_of_scikit_learn(d, small_chunks):
    # So few that shrinkage need not be compared with none.
    X = np.random.RandomState(d).standard_normal((2 * d + 2, d)).cumsum(axis=1)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    expected = ledoit_wolf_shrinkage(X, assume_centered=True)
    assert 0 < expected < 1
    assert Whitening().fit(X).shrinkage_ == pytest.approx(expected, rel=1e-9)


def test_grids_of_many_chunks_are_those_of_one(monkeypatch):
    rng = np.random.RandomState(0)
    X = np.column_stack(
        [
            rng.poisson(3, 1500),
            np.round(rng.standard_normal(1500), 1),
            rng.standard_normal(1500),
            np.full(1500, 0.1),
            # Not tied, but no other value in the first chunks.
            np.r_[np.zeros(700), np.arange(800) ** 2],
        ]
    ).astype(np.float32)
    is_integer = np.array([True, False, False, False, False])
    one = DiscreteGrid.detect(X, is_integer, is_integer)
    noise = one.dequantize(X, np.random.RandomState(3))
    monkeypatch.setattr(chunks, "CHUNK_VALUES", 100)
    many = DiscreteGrid.detect(X, is_integer, is_integer)
    np.testing.assert_array_equal(many.step, one.step)
    np.testing.assert_array_equal(many.step, [1, 0.1, 0, np.inf, 0])
    np.testing.assert_array_equal(many.start, one.start)
    np.testing.assert_array_equal(many.dequantize(X, np.random.RandomState(3)), noise)
    # The place of what is off, far behind the first chunk.
    X[1234, 0] += 0.5
    assert DiscreteGrid.given(X, np.array([1.0, 0, 0, 0, 0]))[1] == (1234, 0)
    with pytest.raises(ValueError, match="row 1234 has"):
        quick(discrete={0: 1}, bounds=None).fit(X)


def test_values_outside_of_bounds_are_found_in_every_chunk():
    X = 1 + np.abs(two_chunks(4))
    row = len(X) - 100
    X[row, 3] = -1.0
    with pytest.raises(ValueError, match=rf"bounds: -1 in row {row} of column 3"):
        quick(discrete=None).fit(X)


@pytest.mark.parametrize("dtype", ["float32", "int8", "float64"])
def test_fingerprints_know_values_not_types_and_chunks(dtype):
    X = np.random.RandomState(0).randint(50, size=(2 * 10**6, 3)).astype(dtype)
    assert X.size > chunks.CHUNK_VALUES
    weight = np.ones(500)
    one = chunks.fingerprint(X, np.broadcast_to(1.0, 500), None)
    assert chunks.fingerprint(X.astype(float), weight, None) == one
    # All values at once.
    digest = hashlib.sha256(repr(X.shape).encode() + X.astype(float).tobytes())
    digest.update(repr(weight.shape).encode() + weight.tobytes() + b"None")
    assert digest.hexdigest() == one
    X[-1, 2] += 1
    assert chunks.fingerprint(X, weight, None) != one


def test_many_rows_are_split_in_their_order():
    n = chunks.CHUNK_VALUES // 2 + 1
    X, weight = np.arange(2.0 * n).reshape(-1, 2), np.arange(float(n))

    def split(X):
        rng = np.random.RandomState(0)
        return splits.train_validation_splits(X, weight, None, 0.1, rng)[0]

    # In one chunk, and in two.
    (_, validation), (train, same) = split(X[:, :1]), split(X)
    np.testing.assert_array_equal(same[1], validation[1])
    assert (np.diff(train[0][:, 0]) > 0).all()
    np.testing.assert_array_equal(train[0][:, 0], 2 * train[1])
    np.testing.assert_array_equal(same[0][:, 0], 2 * same[1])
    joined = np.sort(np.r_[train[1], same[1]])
    np.testing.assert_array_equal(joined, weight)


def test_draws_from_many_rows_take_none_twice():
    # Up to 2^22 rows by a permutation of all.
    for n in (2**22, 2**22 + 1):
        drawn = splits.draw(n, 500, np.random.RandomState(0))
        assert len(np.unique(drawn)) == 500
        assert drawn.max() < n
        assert abs(drawn.mean() - n / 2) < 5 * n / np.sqrt(12 * 500)


def test_batches_of_many_rows_come_from_all():
    n = 2**22 + 1
    all_samples = samples.Samples(torch.arange(n)[:, None], torch.ones(n))
    batches = all_samples.minibatches(20, torch.Generator().manual_seed(0))
    seen = torch.cat([next(batches).x for _ in range(100)]).ravel()
    counts = torch.bincount(seen * 101 // n, minlength=101)
    assert len(seen) == 2000
    # Poisson, about 20 each.
    assert counts.min() > 2
    assert counts.max() < 50


def test_a_fit_of_many_chunks_is_as_good(small_chunks):
    X = table(4000)
    density = quick(max_iter=60).fit(X[:3000])
    assert density.n_blocks_ > 0
    assert density.score(X[3000:]) > density.validation_scores_[0]


# ---------------------------------------------------------------------- using it


@pytest.fixture(scope="module")
def fitted():
    return quick().fit(table())


@pytest.mark.parametrize("working_memory", [0.05, 0.5, 1.5])
def test_results_do_not_depend_on_the_working_memory(fitted, working_memory):
    X = table(5000, seed=1)

    def results():
        Z = fitted.transform(X)
        return [
            fitted.score_samples(X[:300]),
            Z,
            fitted.inverse_transform(Z),
            fitted.trajectory(X, 1),
            *fitted.staged_score_samples(X[:300]),
        ]

    expected = results()
    with sklearn.config_context(working_memory=working_memory):
        found = results()
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        # BLAS may round the last bit of a row by how many others there are.
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("working_memory", [0.05, 0.5])
def test_samples_do_not_depend_on_the_working_memory(fitted, working_memory):
    expected = fitted.sample(5000, random_state=0)
    with sklearn.config_context(working_memory=working_memory):
        found = fitted.sample(5000, random_state=0)
    # The same, in the single precision that their way is computed in.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def peak_beyond(function):
    """Return what memory a call takes at once (NumPy's) beyond what it returns."""
    tracemalloc.start()
    try:
        result = function()
        return (tracemalloc.get_traced_memory()[1] - result.nbytes) / MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "n, d, dtype", [(30_000, 7, "f4"), (1500, 200, "f8"), (60_000, 3, "i1")]
)
@pytest.mark.parametrize("max_blocks", [0, 1])
def test_temporaries_stay_within_the_working_memory(n, d, dtype, max_blocks):
    X = (50 * np.random.RandomState(0).standard_normal((n, d))).clip(-99, 99)
    X = X.astype(dtype)
    density = JKOFlowDensity(
        max_blocks=max_blocks,
        field=MLPField((4, 4)),
        max_iter=2,
        early_stopping=False,
        discrete=None,
        random_state=0,
    ).fit(X[:500])
    Z = density.transform(X).astype(np.float32)
    working_memory = 1
    # Of the temporaries tracemalloc sees those of NumPy.
    calls = {
        "score_samples": lambda: density.score_samples(X),
        "transform": lambda: density.transform(X),
        "inverse_transform": lambda: density.inverse_transform(Z),
        "sample": lambda: density.sample(n, random_state=0),
    }
    for name, call in calls.items():
        assert peak_beyond(call) > working_memory, name
        with sklearn.config_context(working_memory=working_memory):
            assert peak_beyond(call) < working_memory, name


class Recording(MLP):
    """A network that knows how many rows begin a solve together."""

    seen: ClassVar = []

    def dynamics(self, context=None):
        inner = super().dynamics(context)

        def evaluate(t, x):
            if t == 0:
                Recording.seen.append(len(x))
            return inner(t, x)

        return evaluate


class RecordingField(VelocityField):
    def build(self, n_features, generator=None):
        return Recording(n_features, (4, 4), generator=generator)


def test_flows_see_chunks_within_the_working_memory():
    settings = {"max_blocks": 1, "max_iter": 2, "early_stopping": False}
    density = quick(field=RecordingField(), **settings).fit(table())
    Recording.seen.clear()
    with sklearn.config_context(working_memory=0.05):
        density.score_samples(table(100))
    # Each of the rows has 16 points of its cell.
    assert sum(Recording.seen) == 1600
    assert max(Recording.seen) * 8 * 5 < 0.05 * MIB


# ------------------------------------------------------------------- larger than memory

LARGE = """
    import resource, sys
    import numpy as np, sklearn, torch
    from skjko import JKOFlowDensity, MLPField

    torch.set_num_threads(1)
    density = JKOFlowDensity(
        max_blocks=2,
        max_iter=30,
        field=MLPField((16, 16)),
        init=INIT,
        random_state=0,
    )

    def status(name):
        lines = open("/proc/self/status")
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

    def use(density, X):
        Z = density.transform(X)
        back = density.inverse_transform(Z[:9000])
        assert np.abs(back - X[:9000]).max() < 1e-3
        assert np.isfinite(density.sample(9000, random_state=0)).all()
        return density.score_samples(X)

    # What a library takes once, whatever the rows.
    few = np.random.RandomState(0).standard_normal((2000, 5))
    use(density.fit(few), few)
    limit = 1024 * status("VmData") + int(sys.argv[2])
    # Of memory that has no file behind it: arrays, stacks, and the allocator's reserve.
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    X = np.load(sys.argv[1], mmap_mode="r")
    assert X.nbytes > 1.4 * int(sys.argv[2])
    X = READ
    with sklearn.config_context(working_memory=16):
        # At once, the temporaries of so many rows would be more than the limit.
        scores = use(density.fit(X), X[:100_000])
    assert density.n_blocks_ > 0
    assert scores.mean() > density.validation_scores_[0]
    print("trained")
"""


@pytest.fixture(scope="module")
def large_file(tmp_path_factory):
    """300 MB of samples."""
    path = tmp_path_factory.mktemp("large") / "X.npy"
    n, d, at_once = 2_500_000, 30, 100_000
    X = np.lib.format.open_memmap(path, "w+", np.float32, (n, d))
    rng = np.random.default_rng(0)
    for start in range(0, n, at_once):
        x = rng.standard_normal((at_once, d), dtype=np.float32)
        x[:, ::2] += x[:, 1:2] ** 2
        X[start : start + at_once] = x
    del X
    yield path
    path.unlink()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on memory")
@pytest.mark.parametrize("read, trains", [("X", True), ("np.array(X)", False)])
def test_a_file_larger_than_the_memory_trains(large_file, read, trains):
    script = textwrap.dedent(LARGE).replace("READ", read)
    # A mixture takes no more memory, but its map of all samples much more time.
    script = script.replace("INIT", repr(os.environ.get("SKJKO_INIT", "gaussian")))
    limit = str(200 * MIB)
    run = subprocess.run(
        [sys.executable, "-c", script, str(large_file), limit],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if trains:
        assert run.stdout == "trained\n", run.stderr
    else:
        assert "MemoryError" in run.stderr
