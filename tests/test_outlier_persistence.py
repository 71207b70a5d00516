"""Files of fitted detectors. What damaged ones are up to is in test_persistence.py."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import set_in
from safetensors.numpy import load as load_arrays
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from test_persistence import assert_equal, header_of

from skjko import JKOFlowDensity, JKOFlowOutlierDetector, container
from skjko.datasets import moons

GOLDEN = Path(__file__).parent / "data" / "detector-1.safetensors"
X = moons().sample(300, random_state=0)
FRAME = pd.DataFrame(X, columns=["öst", "nord"])


def quick(**parameters):
    """A detector that trains in well under a second."""
    settings = {
        "hidden_layer_sizes": (8, 8),
        "max_iter": 8,
        "random_state": 0,
        **parameters,
    }
    return JKOFlowOutlierDetector(**settings)


def of_density(rows):
    density = JKOFlowDensity(max_blocks=0, discrete=None).fit(rows[:200])
    return JKOFlowOutlierDetector.from_density(density, rows[200:], threshold="hdr")


CASES = {
    "plain": lambda: quick().fit(X),
    "trimmed": lambda: quick(trim=0.1).fit(X),
    "typicality": lambda: quick(statistic="typicality").fit(X),
    "no calibration rows": lambda: quick(calibration_fraction=0).fit(X),
    "a share of outliers": lambda: quick(contamination=0.1, noise=0).fit(X),
    "names": lambda: quick().fit(FRAME),
    "of a density": lambda: of_density(X),
    "of a density with names": lambda: of_density(FRAME),
    "a random state": lambda: quick(random_state=np.random.RandomState(3)).fit(X),
    "flat columns": lambda: quick().fit(np.c_[X, np.ones(300), X[:, 0]]),
    # A calibration score of -inf.
    "a row without density": lambda: quick().fit(
        X, X_calibration=np.vstack([X[:39], 1e200 * X[:1]])
    ),
}


@pytest.fixture(scope="module", params=CASES)
def detector(request):
    return CASES[request.param]()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "detector.safetensors"


def saved_and_loaded(detector, path):
    detector.save(path)
    return JKOFlowOutlierDetector.load(path)


def test_everything_comes_back(detector, path):
    assert_equal(saved_and_loaded(detector, path), detector)


def test_use_is_the_same_to_the_last_bit(detector, path):
    loaded = saved_and_loaded(detector, path)
    rows = 2 * np.random.RandomState(1).standard_normal((20, detector.n_features_in_))
    if hasattr(detector, "feature_names_in_"):
        rows = pd.DataFrame(rows, columns=detector.feature_names_in_)
    methods = ["score_samples", "decision_function", "predict", "typicality"]
    methods += ["explain", "most_likely_values"]
    if detector.calibration_scores_ is not None:
        methods.append("p_values")
    for method in methods:
        found, expected = (getattr(d, method)(rows) for d in (loaded, detector))
        assert type(found) is type(expected)
        np.testing.assert_array_equal(found, expected)
    assert loaded.hdr_threshold(0.9, 100) == detector.hdr_threshold(0.9, 100)
    found, expected = clone(loaded).get_params(), detector.get_params()
    assert_equal(found, expected, "parameters")


def test_a_loaded_detector_fits_again(path):
    detector = quick().fit(X)
    loaded = saved_and_loaded(detector, path)
    np.testing.assert_array_equal(
        loaded.fit(X).score_samples(X), detector.score_samples(X)
    )


def test_only_fitted_detectors_are_saved(path):
    with pytest.raises(NotFittedError):
        quick().save(path)
    assert not path.exists()


class Derived(JKOFlowDensity):
    """What the file could not bring back."""


def test_densities_of_other_classes_are_refused(path):
    density = Derived(max_blocks=0).fit(X)
    detector = JKOFlowOutlierDetector.from_density(density, X)
    with pytest.raises(ValueError, match="cannot be saved: its density is a Derived"):
        detector.save(path)
    assert not path.exists()


def test_format_1_is_still_read():
    """A trimmed detector of one block on two named columns, scored by typicality.

    Made, with the numbers below, by tests/data/make_detector.py.
    """
    assert GOLDEN.stat().st_size < 10_000
    detector = JKOFlowOutlierDetector.load(GOLDEN)
    rows = pd.DataFrame([[-1.0, -0.5], [0.25, 0.5], [3.0, -1.0]], columns=["a", "b"])
    scores = [-0.7450861010159495, -0.5619256655162093, -8.910921608419134]
    np.testing.assert_allclose(detector.score_samples(rows), scores, rtol=1e-9)
    np.testing.assert_allclose(31 * detector.p_values(rows), [9, 23, 1])
    assert detector.offset_ == pytest.approx(-0.8617186464911208, rel=1e-12)
    explanation = detector.explain(rows)
    assert list(explanation.columns) == ["a", "b"]
    np.testing.assert_allclose(
        explanation.loc[2], [9.758633448275258, 5.891576508867822], rtol=1e-9
    )
    assert detector.n_trimmed_ == 5
    assert detector.n_iter_ == 40
    assert detector.hidden_layer_sizes == (6, 4)
    assert detector.random_state.randint(1000) == 657


def array_to(name, value):
    return lambda model, arrays: arrays.update({f"detector.{name}": np.array(value)})


@pytest.mark.parametrize(
    "change, message",
    [
        (set_in("density_format", value=6), "density has format version 6.* newer"),
        (set_in("density_format", value=0), "'density_format'"),
        (set_in("density", value={}), "entries|missing"),
        (set_in("density", "n_features_in", value=3), "columns are not 3"),
        (set_in("parameters", "trim", value=0.7), "'trim'"),
        (set_in("parameters", "random_state", value=0), "belongs to no parameter"),
        (set_in("parameters", "n_jobs", value=2), "no parameter 'n_jobs'"),
        (set_in("parameters", "device", value="toaster"), "'device'"),
        (set_in("feature_names_in", value=["a"]), "not 2 strings"),
        (set_in("feature_names_in", value=None), "no names"),
        (set_in("n_trimmed", value=-1), "'n_trimmed'"),
        (set_in("has_calibration", value=False), "belongs to nothing"),
        (array_to("offset", math.nan), "no threshold"),
        (array_to("noise", -1.0), "below 0"),
        (array_to("typical_log_density", math.inf), "not finite"),
        (array_to("candidates", np.ones((33, 3))), "shape"),
        (array_to("candidates", np.ones((0, 2))), "no values to try"),
        (array_to("calibration_scores", [1.0, 0.0]), "not in order"),
        (array_to("calibration_scores", [0.0, math.nan]), "not in order"),
        (array_to("calibration_scores", [math.nan]), "not in order"),
        (array_to("calibration_scores", np.ones(0)), "not in order"),
        (array_to("more", 1.0), "belongs to nothing"),
    ],
)
def test_hostile_models_are_refused(change, message, path):
    content = GOLDEN.read_bytes()
    model = json.loads(header_of(content)[0]["__metadata__"]["model"])
    arrays = load_arrays(content)
    change(model, arrays)
    path.write_bytes(container.dump("JKOFlowOutlierDetector", 1, model, arrays))
    with pytest.raises(ValueError, match=f"Cannot load .*({message})"):
        JKOFlowOutlierDetector.load(path)
