"""Settings of torch that are the user's have no influence, and stay as they are."""

import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch
from helpers import quick

from skjko import VelocityField
from skjko.flow.fields import MLP

X = np.random.RandomState(0).standard_normal((300, 2))


def everything():
    """Results of all public calls, and of a fit by every start."""
    results = []
    for init in ("gaussian", "mixture"):
        density = quick(init=init, max_blocks=1, max_iter=3).fit(X)
        results += [
            density.score_samples(X[:5]),
            density.transform(X[:5]),
            density.inverse_transform(X[:5]),
            density.trajectory(X[:5]),
            density.likelihood_error(X[:5]),
            density.sample(5, random_state=0),
            *density.staged_score_samples(X[:5]),
        ]
    return results


@pytest.fixture(scope="module")
def expected():
    return everything()


@pytest.fixture
def float64_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def check(expected):
    for one, other in zip(everything(), expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "context",
    [
        lambda: torch.device("meta"),
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        torch.inference_mode,
    ],
)
def test_contexts(context, expected):
    with context():
        check(expected)


def test_type_by_default(float64_by_default, expected):
    check(expected)
    assert torch.get_default_dtype() == torch.float64


def test_device_by_default(expected):
    torch.set_default_device("meta")
    try:
        check(expected)
        assert torch.get_default_device().type == "meta"
    finally:
        torch.set_default_device(None)


def test_deterministic_algorithms(expected):
    torch.use_deterministic_algorithms(True)
    try:
        check(expected)
    finally:
        torch.use_deterministic_algorithms(False)


def test_stages_leave_the_settings_alone_between_them():
    density = quick(init="gaussian", max_blocks=1, max_iter=3).fit(X)
    with torch.device("meta"):
        for _ in density.staged_score_samples(X[:5]):
            assert torch.ones(1).device.type == "meta"


def test_no_warning_of_torch_comes_through():
    """In a new process: torch warns of some things once."""
    code = """
import numpy as np
from skjko import JKOFlowDensity, MLPField
X = np.random.RandomState(0).standard_normal((300, 3))
for sizes in ((8, 8), (8, 8, 8)):
    settings = {"init": "gaussian", "max_iter": 10, "random_state": 0}
    model = JKOFlowDensity(field=MLPField(sizes), max_blocks=1, **settings).fit(X)
    model.inverse_transform(10 * X[:5])
    model.likelihood_error(X[:5])
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


class Watched(MLP):
    """A field that notes with how many threads it is computed."""

    seen: ClassVar[set] = set()

    def dynamics(self, context=None):
        self.seen.add(torch.get_num_threads())
        return super().dynamics(context)


class WatchedField(VelocityField):
    """Of any width."""

    def __init__(self, width=8):
        self.width = width

    def build(self, n_features, generator=None):
        return Watched(n_features, (self.width, self.width), generator=generator)


# A minibatch of 100 samples times 40,000 weights is where two threads begin to pay.
@pytest.mark.parametrize("width, n_threads", [(8, 1), (128, 1), (256, 2)])
@pytest.mark.parametrize("given", [1, 2])
def test_a_second_thread_only_where_it_pays(width, n_threads, given):
    before, state = torch.get_num_threads(), torch.get_rng_state()
    Watched.seen.clear()
    torch.set_num_threads(given)
    try:
        settings = {"batch_size": 100, "max_blocks": 1, "max_iter": 1}
        quick(field=WatchedField(width), early_stopping=False, **settings).fit(X)
        assert torch.get_num_threads() == given
    finally:
        torch.set_num_threads(before)
    assert Watched.seen == {min(given, n_threads)}
    assert torch.equal(torch.get_rng_state(), state)
