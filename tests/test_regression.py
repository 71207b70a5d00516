"""Regressions of location and scale, and their predictions out of folds."""

# SPDX-License-Identifier: BSD-3-Clause

import numpy as np
import pytest
from sklearn.model_selection import KFold

from skjko import regression
from skjko.condition import Condition, Encoder
from skjko.io.registry import CLASSES
from skjko.io.state import pack, unpack


def data(n=150, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    y = np.sin(X[:, 0]) + 0.5 * X[:, 1] + 0.3 * rng.normal(size=n)
    y = (y - y.mean()) / y.std()
    folds = list(KFold(4, shuffle=True, random_state=0).split(X))
    return X, y, rng.uniform(0.5, 1.0, size=n), folds


def test_predictions_of_a_process_are_out_of_the_folds(monkeypatch):
    X, y, weight, folds = data()
    theta = np.array([0.1, -1.0, -1.0, 0.3, 0.2, 1.0])
    monkeypatch.setattr(regression, "_hyperparameters", lambda *args: theta)
    model, out = regression.process(X, y, weight, folds, np.random.RandomState(0))
    noise = np.exp(2 * theta[2]) * weight.mean() / weight
    noise += 1e-8 * (model.amplitude + model.slope)
    for train, rest in folds:
        A = X[train] / model.lengths
        one = regression.Process(
            A, np.zeros(len(A)), model.lengths, model.amplitude, model.slope
        )
        one.weights = np.linalg.solve(
            one.kernel(A, A) + np.diag(noise[train]), y[train]
        )
        np.testing.assert_allclose(out[rest], one.predict(X[rest]), rtol=1e-6)


def test_process_of_some_samples_predicts_the_others(monkeypatch):
    X, y, weight, folds = data(400)
    whole = regression.process(X, y, weight, folds, np.random.RandomState(0))[1]
    monkeypatch.setattr(regression, "_N_PROCESS", 200)
    model, out = regression.process(X, y, weight, folds, np.random.RandomState(0))
    assert len(model.points) == 200
    assert np.isfinite(out).all()
    assert np.mean((out - y) ** 2) < 1.5 * np.mean((whole - y) ** 2)


def test_kernel_and_predictions_of_a_process_agree():
    X, y, weight, folds = data()
    model, _ = regression.process(X, y, weight, folds, np.random.RandomState(0))
    expected = model.kernel(X / model.lengths, model.points) @ model.weights
    np.testing.assert_allclose(model.predict(X), expected, rtol=1e-8)


def test_a_linear_target_is_found_by_ridge():
    X, _, weight, folds = data()
    y = X @ [1.0, -2.0, 0.0]
    model, out = regression.ridge(X, y, weight, folds)
    np.testing.assert_allclose(model.coefficients, [1, -2, 0], atol=1e-4)
    np.testing.assert_allclose(out, y, atol=1e-3)


@pytest.mark.parametrize("loss", ["square", "gamma"])
def test_trees_are_those_of_scikit_learn(loss):
    X, y, weight, folds = data()
    y = y if loss == "square" else np.abs(y) + 0.01
    trees = regression.boosting(X, y, weight, folds, np.random.RandomState(0), loss)
    model, out = trees
    again = regression._Boosting(X, y, weight, np.arange(len(y)), loss)
    for _ in range(5):
        again.grow(np.random.RandomState(3))
    one = regression.Trees.of(again.start, again.trees)
    np.testing.assert_allclose(one.predict(X), again.values, rtol=1e-12)
    none = regression.Trees.of(0.5, [])
    np.testing.assert_array_equal(none.predict(X), np.full(len(X), 0.5))
    assert len(out) == len(model.predict(X)) == len(y)


def test_a_scale_is_found_and_a_constant_one_is_constant():
    X, _, weight, folds = data(800)
    noise = np.abs(np.random.default_rng(1).normal(size=800))
    rng = np.random.RandomState(0)
    _, out = regression.scale(X, np.exp(X[:, 0]) * noise, weight, folds, rng)
    assert np.corrcoef(out, X[:, 0])[0, 1] > 0.95
    _, out = regression.scale(X, noise, weight, folds, rng)
    assert out.std() < 0.1


def test_states_are_there_and_back_and_checked():
    X, y, weight, _ = data()
    condition = Condition("auto")
    counts = np.zeros(3, dtype=int)
    condition.fit(X, y[:, None], weight, None, counts, np.random.RandomState(0))
    arrays = {}
    plain = pack(condition, arrays, registry=CLASSES)
    loaded = unpack(plain, arrays, CLASSES)
    np.testing.assert_array_equal(loaded.columns(X), condition.columns(X))
    trees = regression.Trees.of(0.0, [])
    trees.roots = np.array([3])
    with pytest.raises(ValueError, match="trees"):
        trees.check(3)
    with pytest.raises(ValueError, match="coefficients"):
        regression.Ridge(np.zeros(2), 0.0).check(3)


def test_encoder_has_a_column_for_each_category():
    X = np.array([[0.0, 0, 5.0], [1, 1, 7], [2, 0, 7], [0, 1, 5]])
    encoder = Encoder(np.array([3, 2, 0])).fit(X, np.ones(4))
    raw = encoder.one_hot(np.array([[2.0, 1, 6], [3, 2, 9]]))
    np.testing.assert_array_equal(raw, [[0, 0, 1, 0, 6], [0, 0, 0, 0, 9]])
    assert encoder.n_raw == 5
    Z = encoder.clip(encoder.standard(raw))
    assert np.array_equal(Z, np.minimum(Z, encoder.high))
