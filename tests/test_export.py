"""Exported scores against those of the estimators."""

# SPDX-License-Identifier: BSD-3-Clause

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from helpers import lumps, quick
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_ndtr

from skjko import JKOFlowOutlierDetector, MLPField, RungeKutta
from skjko.export import normal
from skjko.export.maps import ChainMap, translate
from skjko.export.scorer import Scorer
from skjko.transforms import (
    Asinh,
    Bounds,
    Chain,
    MarginalMixtures,
    MixtureMap,
    NormalCells,
    Radial,
    StudentT,
    Whitening,
)
from skjko.transforms.atoms import Atoms

RNG = np.random.RandomState(0)
LUMPS = lumps()
WHITE = Whitening().fit(LUMPS).forward(LUMPS)[0]


def far(X, scales=(3.0, 10.0, 100.0, 1e4)):
    """Rows of X, and some at so many standard deviations."""
    directions = np.random.RandomState(1).standard_normal((5, X.shape[1]))
    rows = [X.mean(0) + s * X.std(0) * directions for s in scales]
    return np.concatenate([X[:30], *rows])


def score(estimator, X):
    """Scores of rows that no check looks at: NaN has none."""
    with sklearn.config_context(assume_finite=True):
        return estimator.score_samples(X)


def assert_close(found, expected):
    # To 1e-4 nats, and beyond 1e5 nats to rounding.
    assert_array_equal(np.isneginf(found), np.isneginf(expected))
    finite = np.isfinite(expected)
    assert_allclose(found[finite], expected[finite], atol=1e-4, rtol=1e-9)


# -------------------------------------------------------------- normal distribution

POSITIVE = np.logspace(-10, 60, 300)
Y = np.r_[-POSITIVE[::-1], 0.0, POSITIVE]


def test_tails():
    below, above = normal.log_tails(torch.tensor(Y))
    assert_allclose(below.numpy(), log_ndtr(Y), rtol=1e-13, atol=1e-13)
    assert_allclose(above.numpy(), below.numpy()[::-1], rtol=1e-13, atol=1e-13)


def test_normal_scores_are_the_inverse_of_tails():
    z = normal.normal_score(*normal.log_tails(torch.tensor(Y)))
    assert_allclose(z.numpy(), Y, rtol=1e-12, atol=1e-12)


def test_sum_of_exponentials_of_what_underflows():
    logs = torch.tensor([[-1e5, -1e5], [-np.inf, -np.inf], [0.0, -np.inf]]).double()
    expected = [-1e5 + np.log(2), -np.inf, 0.0]
    assert_allclose(normal.log_sum_exp(logs).numpy(), expected)


# ------------------------------------------------------------------------ transforms

INSIDE = (np.abs(LUMPS[:, :3]) + 0.01).clip(max=49.0)
TRANSFORMS = {
    "asinh": (Asinh(), np.sinh(3 * WHITE)),
    "atoms": (Atoms.detect(WHITE.clip(min=0), np.ones(3, bool)), WHITE),
    "bounds": (
        Bounds(np.array([0.0, -np.inf, 0.0]), np.array([np.inf, 50.0, 60.0])),
        INSIDE,
    ),
    "cells": (NormalCells(np.zeros(3), np.array([0.5, 2.0, 0.0])), WHITE),
    "marginals": (MarginalMixtures(), LUMPS),
    "mixture": (MixtureMap(), WHITE),
    "radial": (Radial(), WHITE * np.exp(RNG.standard_normal((300, 1)))),
    "whitening": (Whitening(), LUMPS),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_translation_is_the_transform(name):
    step, X = TRANSFORMS[name]
    step = step.fit(X)
    assert not step.is_identity_
    rows = np.concatenate([far(X), np.zeros((1, X.shape[1]))])
    y, log_det = translate(step)(torch.tensor(rows))
    expected, expected_log_det = step.forward(rows)
    assert_close(log_det.numpy(), expected_log_det)
    inside = np.isfinite(expected_log_det)
    # Logarithms of tails lose digits where both scores are a difference of large ones.
    assert_allclose(y.numpy()[inside], expected[inside], rtol=1e-8, atol=1e-8)
    found = translate(step).log_prob(torch.tensor(rows))
    assert_close(found.numpy(), step.log_prob(rows))


def test_chain_whose_last_step_has_fewer_features():
    X = np.column_stack([WHITE, np.ones(len(WHITE))])
    chain = Chain([Whitening(), MixtureMap()]).fit(X)
    assert chain.n_degenerate_ == 1
    rows = np.concatenate([X[:20], X[:20] + 1e-3])
    found = ChainMap(chain).log_prob(torch.tensor(rows))
    assert_close(found.numpy(), chain.log_prob(rows))


# ---------------------------------------------------------------------------- scorers


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"init": "mixture", "max_blocks": 0},
        {"field": MLPField((6, 6), time_dependent=True)},
        {"discrete": None},
    ],
    ids=str,
)
def test_scorer_is_score_samples(parameters):
    # An atom, a discrete feature, and a bounded one.
    X = np.column_stack(
        [
            RNG.standard_normal(300).clip(min=0),
            np.round(2 * RNG.standard_normal(300)),
            RNG.exponential(size=300),
        ]
    )
    bounds = {"bounds": [None, None, (0, None)]}
    density = quick(max_blocks=1, max_iter=3).set_params(**bounds, **parameters).fit(X)
    base = Chain([] if density.base_ is None else [density.base_])
    scorer = Scorer(density.support_, density.transforms_, density.flow_, base)
    rows = np.concatenate([far(X), [[0.0, 1.0, -1.0], [np.nan, 0.0, 1.0]]])
    with torch.no_grad():
        found = scorer(torch.tensor(rows)).numpy()
    with pytest.warns(UserWarning, match="outside of the bounds"):
        assert_close(found, score(density, rows))


# ------------------------------------------------------------------------------ files

COARSE = {"max_blocks": 1, "max_iter": 3, "solver": RungeKutta(n_steps=1, tol=10.0)}
FRAME = pd.DataFrame(LUMPS[:, :2], columns=["width", "height"])
FRAME["count"] = np.floor(3 * np.abs(LUMPS[:, 2]))


@pytest.fixture(scope="module")
def density():
    # One hidden layer: its divergence is one of forward mode.
    steps = [Asinh(), MarginalMixtures()]
    return quick(transforms=steps, field=MLPField((6,)), **COARSE).fit(FRAME)


@pytest.fixture(scope="module", params=["combined", "typicality"])
def detector(request):
    density = quick(bounds=[None, None, (0, None)], **COARSE)
    return JKOFlowOutlierDetector(
        density=density, statistic=request.param, random_state=0
    ).fit(FRAME)


@pytest.fixture(scope="module")
def onnx_file(detector, tmp_path_factory):
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("onnx") / "detector.onnx"
    detector.export(path)
    return path


@pytest.mark.slow
def test_file_of_torch(density, tmp_path):
    density.export(tmp_path / "density.pt2", format="torch")
    files = {"skjko.json": ""}
    program = torch.export.load(str(tmp_path / "density.pt2"), extra_files=files)
    metadata = json.loads(files["skjko.json"])
    assert metadata["feature_names"] == ["width", "height", "count"]
    assert metadata["estimator"] == "JKOFlowDensity"
    rows = far(FRAME.to_numpy())
    expected = density.score_samples(pd.DataFrame(rows, columns=FRAME.columns))
    run = program.module()
    assert_close(run(torch.tensor(rows)).numpy(), expected)
    assert_close(run(torch.tensor(rows[:1])).numpy(), expected[:1])


@pytest.mark.slow
def test_file_of_onnx(detector, onnx_file):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(
        onnx_file, providers=["CPUExecutionProvider"]
    )
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["feature_names"]) == list(FRAME.columns)
    assert metadata["estimator"] == "JKOFlowOutlierDetector"
    rows = far(FRAME.to_numpy())
    table = pd.DataFrame(rows, columns=FRAME.columns)
    with pytest.warns(UserWarning, match="outside of the bounds"):
        expected = detector.score_samples(table), detector.decision_function(table)
    for part in (slice(None), slice(1), slice(7)):
        found = session.run(["score", "decision"], {"X": rows[part]})
        assert_close(found[0], expected[0][part])
        assert_close(found[1], expected[1][part])


@pytest.mark.slow
def test_service_over_http(detector, onnx_file):
    for name in ("fastapi", "httpx", "onnxruntime", "uvicorn"):
        pytest.importorskip(name)
    path = Path(__file__).parents[1] / "examples" / "serving.py"
    spec = importlib.util.spec_from_file_location("serving", path)
    serving = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(serving)
    rows = FRAME.to_numpy()[:20]
    with serving.served(serving.application(onnx_file)) as client:
        assert client.get("/columns").json() == list(FRAME.columns)
        reply = client.post("/score", json={"rows": rows.tolist()}).json()
        assert_close(np.array(reply["score"]), detector.score_samples(FRAME[:20]))
        assert_array_equal(reply["outlier"], detector.predict(FRAME[:20]) < 0)
        outside = client.post("/score", json={"rows": [[0.0, 0.0, -9.0]]}).json()
        assert outside == {"score": [None], "outlier": [True]}
        wrong = client.post("/score", json={"rows": [[0.0, 0.0]]})
        assert wrong.status_code == 422
        assert "3 finite numbers" in wrong.text


# ----------------------------------------------------------------------------- errors


def test_what_cannot_be_exported_is_named(tmp_path):
    path = tmp_path / "model.pt2"
    density = quick(max_blocks=0, transforms=[StudentT()]).fit(LUMPS)
    with pytest.raises(ValueError, match="cannot export the transform StudentT"):
        density.export(path, format="torch")
    frame = FRAME.assign(city=np.where(LUMPS[:, 0] > 0, "Rome", "Oslo"))
    coded = quick(max_blocks=0).fit(frame)
    with pytest.raises(ValueError, match=r"categories in column 'city'"):
        coded.export(path, format="torch")
    twice = frame.drop(columns="city").assign(total=FRAME["width"] + FRAME["height"])
    dependent = quick(max_blocks=0).fit(twice)
    with pytest.raises(ValueError, match=r"'width', column 'height', column 'total'"):
        dependent.export(path, format="torch")
    with pytest.raises(ValueError, match="'format' parameter"):
        coded.export(path, format="pmml")
    assert not path.exists()
