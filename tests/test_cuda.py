"""Fits on a GPU, where there is one, and their files on the CPU."""

# SPDX-License-Identifier: BSD-3-Clause

import numpy as np
import pytest
import torch
from helpers import quick
from sklearn.utils import estimator_checks

from skjko import (
    ConvField,
    GraphField,
    JKOFlowConditionalDensity,
    JKOFlowDensity,
    MLPField,
)

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a machine with CUDA"
)

FIELDS = {
    "two layers": MLPField((8, 8)),
    "deep": MLPField((8, 8, 8)),
    "image": ConvField((2, 2), 4, 3),
    "graph": GraphField(np.ones((4, 4)), 4),
}


def samples(n=300, d=4):
    rng = np.random.RandomState(0)
    return np.exp(rng.standard_normal((n, d)) @ rng.uniform(-0.5, 0.5, (d, d)))


@pytest.mark.parametrize("name", FIELDS)
def test_a_density_of_a_gpu_is_the_same_on_the_cpu(name, tmp_path):
    X = samples()
    density = quick(field=FIELDS[name], device="cuda", max_blocks=1).fit(X)
    density.save(tmp_path / "file")
    loaded = JKOFlowDensity.load(tmp_path / "file").set_params(device="cpu")
    np.testing.assert_allclose(loaded.score_samples(X), density.score_samples(X))
    Z = density.transform(X)
    np.testing.assert_allclose(loaded.transform(X), Z, atol=1e-9)
    np.testing.assert_allclose(loaded.inverse_transform(Z), X, rtol=1e-6)
    one, other = (m.sample(50, random_state=0) for m in (density, loaded))
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
    assert {p.device.type for p in density.flow_.parameters()} <= {"cpu"}


def test_a_conditional_density_of_a_gpu_is_the_same_on_the_cpu(tmp_path):
    X = samples()
    model = JKOFlowConditionalDensity(
        regressor=None,
        init="gaussian",
        field=MLPField((8, 8)),
        max_iter=10,
        device="cuda",
        random_state=0,
    ).fit(X[:, 1:], X[:, 0])
    model.save(tmp_path / "file")
    loaded = JKOFlowConditionalDensity.load(tmp_path / "file").set_params(device="cpu")
    np.testing.assert_allclose(
        loaded.score_samples(X[:, 1:], X[:, 0]), model.score_samples(X[:, 1:], X[:, 0])
    )


@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_methods_subset_invariance,
        estimator_checks.check_methods_sample_order_invariance,
        estimator_checks.check_dict_unchanged,
        estimator_checks.check_estimators_pickle,
        estimator_checks.check_fit2d_1sample,
    ],
)
def test_estimator_checks(check):
    check("JKOFlowDensity", quick(device="cuda", max_blocks=1, max_iter=3))
