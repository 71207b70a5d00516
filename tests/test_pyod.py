"""The detector with PyOD's API: what PyOD tests of its own detectors."""

# SPDX-License-Identifier: BSD-3-Clause

import numpy as np
import pytest
from helpers import quick
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import rankdata
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score

from skjko import JKOFlowOutlierDetector

pytest.importorskip("pyod")
from pyod.utils.data import generate_data

from skjko.pyod import JKOFlow

CONTAMINATION = 0.1


@pytest.fixture(scope="module")
def data():
    return generate_data(
        n_train=200, n_test=100, contamination=CONTAMINATION, random_state=42
    )


@pytest.fixture(scope="module")
def model(data):
    detector = JKOFlowOutlierDetector(
        density=quick(max_blocks=1), calibration_fraction=0.0
    )
    return JKOFlow(CONTAMINATION, detector, random_state=0).fit(data[0])


def test_scores_and_labels_of_the_training_samples(model, data):
    X = data[0]
    assert_allclose(model.decision_scores_, -model.detector_.score_samples(X))
    assert_array_equal(model.labels_, model.decision_scores_ > model.threshold_)
    assert model.labels_.sum() == CONTAMINATION * len(X)
    assert_array_equal(model.predict(X), model.labels_)


def test_outliers_have_higher_scores(model, data):
    _, X_test, _, y_test = data
    assert roc_auc_score(y_test, model.decision_function(X_test)) > 0.9


@pytest.mark.parametrize("method", ["linear", "unify"])
def test_probabilities(model, data, method):
    scores = model.decision_function(data[1])
    p = model.predict_proba(data[1], method=method)
    assert p.shape == (len(scores), 2)
    assert_allclose(p.sum(axis=1), 1)
    assert p.min() >= 0
    order = np.argsort(scores)
    assert (np.diff(p[order, 1]) >= 0).all()


def test_confidence(model, data):
    labels, confidence = model.predict(data[1], return_confidence=True)
    assert_array_equal(labels, model.predict(data[1]))
    assert ((confidence >= 0) & (confidence <= 1)).all()


def test_ranks(model, data):
    scores = model.decision_function(data[1])
    ranks = model._predict_rank(data[1])
    assert (np.diff(ranks[np.argsort(scores)]) >= 0).all()
    assert rankdata(ranks).shape == scores.shape


def test_clone_and_parameters(model):
    other = clone(model)
    assert other.get_params()["contamination"] == CONTAMINATION
    assert not hasattr(other, "detector_")
    with pytest.raises(NotFittedError):
        other.decision_function([[0.0, 0.0]])
    with pytest.raises(ValueError, match="contamination"):
        JKOFlow(contamination=0.6)


def test_samples_outside_of_bounds_are_outliers():
    X = np.random.RandomState(0).exponential(size=(100, 1))
    detector = JKOFlowOutlierDetector(
        density=quick(bounds=[(0, None)], max_blocks=0),
        calibration_fraction=0.0,
    )
    model = JKOFlow(detector=detector, random_state=0).fit(X)
    with pytest.warns(UserWarning, match="outside of the bounds"):
        p = model.predict_proba(np.array([[-1.0]]))
    assert_allclose(p, [[0, 1]])
