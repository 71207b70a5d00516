"""Files of fitted detectors. What damaged ones are up to is in test_persistence.py."""

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from test_persistence import assert_equal, edited, refused, to

from skjko import JKOFlowDensity, JKOFlowOutlierDetector, MLPField
from skjko.datasets import moons

X = moons().sample(300, random_state=0)
FRAME = pd.DataFrame(X, columns=["öst", "nord"])


def quick(**parameters):
    """A detector that trains in well under a second."""
    density = JKOFlowDensity(
        field=MLPField((8, 8)), max_iter=8, init="gaussian", early_stopping=False
    )
    defaults = {"density": density, "random_state": 0}
    return JKOFlowOutlierDetector(**{**defaults, **parameters})


def of_density(rows):
    density = JKOFlowDensity(init="gaussian", max_blocks=0, discrete=None).fit(
        rows[:200]
    )
    return JKOFlowOutlierDetector.from_density(density, rows[200:], threshold="hdr")


CASES = {
    "plain": lambda: quick().fit(X),
    "trimmed": lambda: quick(trim=0.1).fit(X),
    "typicality": lambda: quick(statistic="typicality").fit(X),
    "no calibration samples": lambda: quick(calibration_fraction=0).fit(X),
    "a share of outliers": lambda: quick(contamination=0.1, statistic="likelihood").fit(
        X
    ),
    "names": lambda: quick().fit(FRAME),
    "of a density": lambda: of_density(X),
    "of a density with names": lambda: of_density(FRAME),
    "the default density": lambda: quick(density=None).fit(X[:100]),
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
    """A class that the library does not know."""


def test_densities_of_other_classes_have_to_be_named(path):
    density = Derived(max_blocks=0).fit(X)
    detector = JKOFlowOutlierDetector.from_density(density, X)
    detector.save(path)
    with pytest.raises(ValueError, match="no class 'Derived'"):
        JKOFlowOutlierDetector.load(path)
    loaded = JKOFlowOutlierDetector.load(path, classes=[Derived])
    assert type(loaded.density_) is Derived
    np.testing.assert_array_equal(loaded.score_samples(X), detector.score_samples(X))


def array_to(name, value):
    return lambda model, arrays: arrays.update({f"model.{name}": np.array(value)})


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("detector") / "detector.safetensors"
    quick().fit(X).save(path)
    return path.read_bytes()


@pytest.mark.parametrize(
    "change, message",
    [
        (to("density_", value=None), "density is missing|belongs to nothing"),
        (to("params", "trim", value=0.7), "'trim'"),
        (to("params", "n_jobs", value=2), "no parameter 'n_jobs'"),
        (to("density", "device", value="toaster"), "'device'"),
        (to("feature_names_in", value=["a"]), "not 2 strings"),
        (to("returns_frame", value=True), "no names"),
        (to("n_trimmed", value=-1), "no threshold"),
        (to("offset", value={"float": "nan"}), "no threshold"),
        (to("scales", value=[]), "scales of the scores"),
        (to("scales", value=[[0.0, 1.0], [0.0, -1.0]]), "scales of the scores"),
        (to("scales", value=[[0.0, 1.0], [{"float": "nan"}, 1.0]]), "scales of the"),
        (to("statistic", value="likelihood"), "has no kernels"),
        (to("kernels", value=None), "kernels are missing|belongs to nothing"),
        (array_to("kernels.scale", [1.0, 0.0]), "kernels are none"),
        (array_to("kernels.columns", [0, 2]), "kernels are missing"),
        (to("calibration_scores", value=None), "belongs to nothing"),
        (array_to("candidates", np.ones((33, 3))), "no values to try"),
        (array_to("candidates", np.ones((0, 2))), "no values to try"),
        (array_to("calibration_scores", [1.0, 0.0]), "calibration samples"),
        (array_to("calibration_scores", [0.0, math.nan]), "calibration samples"),
        (array_to("calibration_scores", np.ones(0)), "calibration samples"),
        (array_to("calibration_rows", np.ones((30, 3))), "calibration samples"),
        (array_to("calibration_rows", np.ones((29, 2))), "calibration samples"),
        (array_to("calibration_rows", np.full((30, 2), math.nan)), "calibration"),
        (to("is_distinct", value="no"), "calibration samples"),
        (array_to("more", 1.0), "belongs to nothing"),
    ],
)
def test_hostile_models_are_refused(change, message, content, path):
    changed = edited(content, change, JKOFlowOutlierDetector)
    refused(changed, path, f"(?s)Cannot load .*({message})", JKOFlowOutlierDetector)
