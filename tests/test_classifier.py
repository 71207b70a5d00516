"""The classifier against Bayes' rule with known densities, and its contract."""

# SPDX-License-Identifier: BSD-3-Clause

import copy
import pickle

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from skjko import JKOFlowClassifier
from skjko.transforms import ClassLocationScale
from tests.helpers import quick


def plain(**parameters):
    """A classifier without blocks."""
    return JKOFlowClassifier(quick(max_blocks=0), random_state=0, **parameters)


CLASSES = (
    multivariate_normal([0, 0], [[1.0, 0.8], [0.8, 1.0]]),
    multivariate_normal([2, 0], [[0.3, 0.0], [0.0, 2.0]]),
    multivariate_normal([0, 3], [[2.0, -1.0], [-1.0, 2.0]]),
)
PRIORS = np.array([0.5, 0.3, 0.2])


def gaussians(n, seed=0):
    """Samples of three Gaussians, their classes, and the exact joint densities."""
    rng = np.random.default_rng(seed)
    y = rng.choice(3, n, p=PRIORS)
    X = np.array([CLASSES[k].rvs(random_state=rng) for k in y])
    joint = np.column_stack([one.pdf(X) for one in CLASSES]) * PRIORS
    return X, y, joint


@pytest.fixture(scope="module")
def fitted():
    X, y, _ = gaussians(2000)
    return plain().fit(X, np.array(["a", "b", "c"])[y])


def test_probabilities_are_near_the_exact_ones(fitted):
    X, y, joint = gaussians(4000, seed=1)
    exact = joint / joint.sum(axis=1, keepdims=True)
    found = fitted.predict_proba(X)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert log_loss(y, found) - log_loss(y, exact) < 0.01
    assert fitted.temperature_ < 1.3
    np.testing.assert_allclose(np.exp(fitted.predict_log_proba(X)), found)
    labels = fitted.classes_[found.argmax(axis=1)]
    np.testing.assert_array_equal(fitted.predict(X), labels)
    assert np.mean(np.log(joint.sum(axis=1)) - fitted.score_samples(X)) < 0.02


def test_density_integrates_to_one(fitted):
    axis, step = np.linspace(-9, 12, 211, retstep=True)
    X = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    assert np.exp(fitted.score_samples(X)).sum() * step**2 == pytest.approx(1, abs=0.01)


def test_rejected_are_the_least_likely_at_the_stated_rate(fitted):
    X, _, _ = gaussians(4000, seed=2)
    far = np.array([[30.0, 30.0], [-9.0, 9.0]])
    assert fitted.predict(far, reject=0.01).tolist() == [None, None]
    labels = fitted.predict(X, reject=0.1)
    is_rejected = np.array([label is None for label in labels])
    # 400 calibration samples: a standard deviation of 0.015.
    assert is_rejected.mean() == pytest.approx(0.1, abs=0.05)
    np.testing.assert_array_equal(is_rejected, fitted.p_values(X) <= 0.1)
    scores = fitted.score_samples(X)
    assert scores[is_rejected].max() < scores[~is_rejected].min()
    np.testing.assert_array_equal(labels[~is_rejected], fitted.predict(X)[~is_rejected])


def test_temperature_cools_what_too_few_samples_told():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(1100, 40)), np.arange(1100) % 2
    # There is nothing to know of the class, but means of few samples differ.
    model = plain(calibration_fraction=0.4).fit(X[:100], y[:100])
    raw = plain(calibration_fraction=0).fit(X[:100], y[:100])
    assert model.temperature_ > 2
    assert raw.temperature_ == 1
    losses = [log_loss(y[100:], one.predict_proba(X[100:])) for one in (model, raw)]
    assert losses[0] < 1 < losses[1]
    with pytest.raises(ValueError, match="no calibration samples"):
        raw.p_values(X)


def test_blocks_share_a_flow_and_bend_what_is_no_gaussian():
    rng = np.random.default_rng(0)
    y = np.arange(1200) % 2
    x = rng.normal(size=1200)
    bent = np.where(y == 1, x**2, -(x**2)) + 0.3 * rng.normal(size=1200)
    X = np.column_stack([x, bent])
    one = plain().fit(X[:800], y[:800])
    density = quick(max_blocks=1, max_iter=30, learning_rate_init=0.1)
    other = JKOFlowClassifier(density, random_state=0).fit(X[:800], y[:800])
    assert other.n_blocks_ == 1
    gain = other.score_samples(X[800:]).mean() - one.score_samples(X[800:]).mean()
    assert gain > 0.1
    samples = other.sample(1, 500, random_state=0)
    assert (samples[:, 1] > -1).mean() > 0.95
    assert "1 flow block" in other.summary()


def test_priors_are_parameters(fitted):
    X, y, joint = gaussians(1000)
    model = plain(priors=[0.2, 0.2, 0.6]).fit(X, y)
    np.testing.assert_array_equal(model.priors_, [0.2, 0.2, 0.6])
    changed = joint / PRIORS * [0.2, 0.2, 0.6]
    changed /= changed.sum(axis=1, keepdims=True)
    # The temperature is that of samples with other priors.
    assert np.abs(model.predict_proba(X) - changed).mean() < 0.06
    for priors in ([0.5, 0.5], [0.5, 0.5, 0.5], [1.5, -0.5, 0.0]):
        with pytest.raises(ValueError, match="'priors'"):
            plain(priors=priors).fit(X, y)


def test_weights_are_copies():
    X, y, _ = gaussians(150)
    weight = np.random.default_rng(0).integers(0, 3, 150)
    rows = np.repeat(np.arange(150), weight)
    weighted, repeated = plain().fit(X, y, weight), plain().fit(X[rows], y[rows])
    expected = repeated.predict_proba(X)
    np.testing.assert_allclose(weighted.predict_proba(X), expected, rtol=1e-6)
    np.testing.assert_allclose(weighted.priors_, np.bincount(y[rows]) / len(rows))


def test_units_do_not_matter():
    X, y, _ = gaussians(300)
    one, other = plain().fit(X, y), plain().fit(X * [1e6, 1e-6] + [1e7, 0], y)
    np.testing.assert_allclose(
        one.predict_proba(X),
        other.predict_proba(X * [1e6, 1e-6] + [1e7, 0]),
        atol=1e-6,
    )


def test_classes_of_few_samples_and_constant_features():
    X, y, _ = gaussians(100)
    X = np.column_stack([X, np.ones(100), X[:, 0]])
    y[:2], y[2] = 5, 6
    model = plain().fit(X, y)
    assert model.classes_.tolist() == [0, 1, 2, 5, 6]
    assert np.isfinite(model.predict_log_proba(X)).all()
    assert model.score(X, y) > 0.7


def test_one_class_alone():
    X, _, _ = gaussians(60)
    model = plain().fit(X, np.zeros(60))
    np.testing.assert_array_equal(model.predict_proba(X), 1)


def test_files_hold_the_model(tmp_path, fitted):
    X, y, _ = gaussians(200)
    path = tmp_path / "model.safetensors"
    trained = JKOFlowClassifier(quick(early_stopping=False), random_state=0)
    trained.fit(X, y)
    assert trained.n_blocks_ == 2
    for model in (fitted, trained):
        model.save(path)
        loaded = JKOFlowClassifier.load(path)
        for copied in (loaded, pickle.loads(pickle.dumps(model)), copy.copy(model)):
            np.testing.assert_array_equal(
                copied.predict_log_proba(X), model.predict_log_proba(X)
            )
            np.testing.assert_array_equal(copied.predict(X), model.predict(X))
            np.testing.assert_array_equal(copied.p_values(X), model.p_values(X))
        assert loaded.get_params().keys() == model.get_params().keys()


def test_state_of_another_model_is_refused(fitted):
    X, y, _ = gaussians(100)
    other = plain().fit(X[:, :1], y > 0).get_state()
    for name in ("classes", "fitted", "table", "priors", "support"):
        with pytest.raises(ValueError, match=r"fit together|columns"):
            JKOFlowClassifier.from_state({**fitted.get_state(), name: other[name]})


def test_pipelines_grids_and_frames():
    pandas = pytest.importorskip("pandas")
    X, y, _ = gaussians(200)
    frame = pandas.DataFrame(
        {"x": X[:, 0], "z": X[:, 1], "kind": np.where(y == 0, "u", "v")}
    )
    grid = GridSearchCV(
        make_pipeline(StandardScaler(), plain()),
        {"jkoflowclassifier__calibration_fraction": [0.0, 0.3]},
        cv=2,
        scoring="neg_log_loss",
    ).fit(X, y)
    assert grid.best_score_ > -1
    model = clone(plain()).fit(frame, pandas.Series(y).map({0: "a", 1: "b", 2: "c"}))
    assert model.feature_names_in_.tolist() == ["x", "z", "kind"]
    assert (model.predict(frame)[y == 0] == "a").mean() > 0.9
    samples = model.sample("a", 500, random_state=0)
    assert samples.columns.tolist() == ["x", "z", "kind"]
    assert (samples["kind"] == "u").mean() > 0.8
    with pytest.raises(ValueError, match="'label' parameter"):
        model.sample("d")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"X": [[np.nan, 0.0]] * 40}, "contains NaN"),
        ({"y": None}, "requires y"),
        ({"y": np.linspace(0, 1, 40)}, "[Uu]nknown label type"),
        ({"y": np.array(["a", None] * 20, dtype=object)}, "no label in row 1"),
        ({"y": np.zeros(39)}, "inconsistent numbers of samples"),
        ({"sample_weight": np.full(40, -1.0)}, "[Nn]egative"),
    ],
)
def test_errors_of_fit(change, message):
    X, y, _ = gaussians(40)
    with pytest.raises(ValueError, match=message):
        plain().fit(**{"X": X, "y": y, **change})


def test_errors_of_rejection(fitted):
    X, y, _ = gaussians(40)
    for rate in (0, 1.5, "a", True):
        with pytest.raises(ValueError, match="'reject' parameter"):
            fitted.predict(X, reject=rate)
    with pytest.raises(ValueError, match="too few for reject"):
        plain().fit(X, y).predict(X, reject=0.01)


# ------------------------------------------------------------------- parts


def test_location_and_scale_of_classes():
    X, y, joint = gaussians(20_000)
    rows = np.hstack([X, np.eye(3)[y]])
    one = ClassLocationScale(3, strength=1.0, shrinkage=1e-6).fit(rows)
    Y, log_det = one.forward(rows)
    np.testing.assert_array_equal(Y[:, 2:], rows[:, 2:])
    np.testing.assert_allclose(one.inverse(Y), rows, atol=1e-9)
    for k in range(3):
        np.testing.assert_allclose(np.cov(Y[y == k, :2].T), np.eye(2), atol=0.01)
    exact = joint[np.arange(len(y)), y] / PRIORS[y]
    found = -0.5 * (Y[:, :2] ** 2).sum(axis=1) - np.log(2 * np.pi) + log_det
    assert np.abs(found - np.log(exact)).mean() < 0.05


def test_shrinkage_follows_the_samples():
    rng = np.random.RandomState(0)
    codes = np.arange(120) % 4
    same = rng.standard_normal((120, 20))
    other = same * np.geomspace(0.1, 10, 4)[codes][:, np.newaxis]
    few, many = (
        ClassLocationScale.chosen(X, codes, np.ones(120), 4, np.random.RandomState(0))
        for X in (same, other)
    )
    assert few.strength > many.strength


@parametrize_with_checks(
    [
        JKOFlowClassifier(
            quick(max_blocks=1, max_iter=3, early_stopping=False), random_state=0
        ),
    ]
)
def test_sklearn_check(estimator, check):
    check(estimator)
