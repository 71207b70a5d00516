"""The network that the benchmarks write themselves is a density."""

# SPDX-License-Identifier: BSD-3-Clause

import importlib.util
from pathlib import Path

import pytest
import torch

NETWORKS = Path(__file__).parents[1] / "benchmarks/suite/methods/networks.py"


@pytest.fixture(scope="module")
def networks():
    spec = importlib.util.spec_from_file_location("networks", NETWORKS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=[False, True], ids=["in order", "shuffled"])
def mixtures(request, networks):
    torch.manual_seed(1)
    module = networks.MaskedMixtures(2, 16, 3, shuffle=request.param).double()
    # Far from its start, where all conditionals are alike.
    module.last.weight.data *= 10
    return module


def grid():
    x = torch.linspace(-12, 12, 241, dtype=torch.float64)
    return torch.cartesian_prod(x, x), (x[1] - x[0]) ** 2


def test_masked_mixtures_integrate_to_one(mixtures):
    points, area = grid()
    with torch.no_grad():
        mass = mixtures.log_prob(points).exp().sum() * area
    assert mass.item() == pytest.approx(1, abs=1e-3)


def test_samples_of_masked_mixtures_have_the_moments_of_the_density(mixtures):
    points, area = grid()
    with torch.no_grad():
        weight = mixtures.log_prob(points).exp() * area
        samples = mixtures.sample((20_000,))
    for power in (1, 2):
        expected = (weight[:, None] * points**power).sum(0)
        assert torch.allclose((samples**power).mean(0), expected, atol=0.1)
    product = (weight * points.prod(1)).sum()
    assert samples.prod(1).mean().item() == pytest.approx(product.item(), abs=0.1)


def test_conditionals_of_masked_mixtures_see_earlier_features_only(networks):
    torch.manual_seed(2)
    module = networks.MaskedMixtures(4, 16, 2, shuffle=True)
    x = torch.randn(1, 4)
    slopes = torch.autograd.functional.jacobian(lambda x: module.conditionals(x)[1], x)
    seen = slopes[0, :, :, 0].abs().sum(0)[module.order][:, module.order] > 0
    assert torch.equal(seen, torch.ones(4, 4).tril(-1).bool())
