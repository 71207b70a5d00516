"""The optimizers: what they are to do, and that torch's do the same."""

# SPDX-License-Identifier: BSD-3-Clause

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skjko.flow.optimizers import Adam, Muon, orthogonalized


def descended(make, shapes, n_steps=30):
    """Parameters after some steps on a quadratic, with another rate in each."""
    generator = torch.Generator().manual_seed(0)
    targets = [torch.randn(s, generator=generator) for s in shapes]
    parameters = [torch.nn.Parameter(torch.zeros(s)) for s in shapes]
    step = make(parameters)
    for i in range(n_steps):
        loss = sum(
            ((p - t) ** 2).sum() for p, t in zip(parameters, targets, strict=True)
        )
        for p in parameters:
            p.grad = None
        loss.backward()
        step(0.01 * (1 + i % 3))
    return [p.detach() for p in parameters]


def of_torch(kind, **settings):
    def make(parameters):
        optimizer = kind(parameters, **settings)

        def step(rate):
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()

        return step

    return make


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adam_is_that_of_torch(decay):
    shapes = [(3, 2), (4,), (1, 1)]
    ours = descended(lambda p: Adam(p, p, decay).step, shapes)
    kind = of_torch(torch.optim.AdamW, betas=(0.9, 0.99), weight_decay=decay)
    for a, b in zip(ours, descended(kind, shapes), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_what_does_not_decay_is_as_without_decay():
    shapes = [(3, 2), (4,)]
    plain = descended(lambda p: Adam(p).step, shapes)
    some = descended(lambda p: Adam(p, p[:1], 0.3).step, shapes)
    assert torch.equal(some[1], plain[1])
    # The steps of both go to the same targets, and the decay back towards zero.
    assert (some[0].abs() < plain[0].abs()).all()


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_muon_is_that_of_torch(decay):
    shapes = [(8, 8), (6, 12), (12, 6)]
    ours = descended(lambda p: Muon(p, decay).step, shapes)
    kind = of_torch(torch.optim.Muon, momentum=0.9, weight_decay=decay)
    for a, b in zip(ours, descended(kind, shapes), strict=True):
        # torch works in bfloat16, of three digits.
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**16))
@settings(max_examples=40)
def test_singular_values_become_about_one(n, m, seed):
    matrix = torch.randn(n, m, generator=torch.Generator().manual_seed(seed))
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    lifted = u.T @ orthogonalized(matrix) @ v.T
    values = lifted.diagonal()
    large = s > 0.0025 * s.norm()
    assert ((values[large] > 0.67) & (values[large] < 1.22)).all()
    # The singular vectors stay.
    assert (lifted - torch.diag(values)).abs().max() < 1e-3


def test_nothing_comes_of_nothing():
    assert (orthogonalized(torch.zeros(3, 2)) == 0).all()


@pytest.mark.parametrize("kind", [Adam, Muon])
def test_a_step_is_repeated_from_its_state(kind):
    p = torch.nn.Parameter(torch.zeros(3, 2))
    optimizer = kind([p])
    gradients = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))

    def steps(some):
        for gradient in some:
            p.grad = gradient
            optimizer.step(0.1)
        return p.detach().clone()

    before, state = steps(gradients[:2]), optimizer.state
    once = steps(gradients[2:])
    with torch.no_grad():
        p.copy_(before)
    optimizer.state = state
    assert (steps(gradients[2:]) == once).all()


@pytest.mark.parametrize("kind", [Adam, Muon])
def test_parameters_without_gradient_stay(kind):
    p = torch.nn.Parameter(torch.ones(3, 2))
    kind([p]).step(0.1)
    assert (p == 1).all()


def test_a_fit_does_not_wait_for_the_compiler():
    code = (
        "import sys, numpy as np; from skjko import JKOFlowDensity, MLPField\n"
        "X = np.random.RandomState(0).standard_normal((1200, 2)) ** 3\n"
        "density = JKOFlowDensity(field=MLPField((8, 8)), max_blocks=1, max_iter=2)\n"
        "density.fit(X).sample(3)\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
