"""scikit-learn's own estimator checks, on settings under which blocks are trained."""

import numpy as np
import pytest
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from skjko import JKOFlowDensity, JKOFlowOutlierDetector, MLPField, RungeKutta


def small_density(**parameters):
    settings = {
        "field": MLPField((4, 4)),
        "solver": RungeKutta(n_steps=1),
        "max_iter": 3,
        "init": "gaussian",
        "random_state": 0,
    }
    return JKOFlowDensity(**{**settings, **parameters})


def estimators():
    """A density without validation, and detectors."""
    yield small_density(max_blocks=2, early_stopping=False)
    # Some checks want outliers among some hundred samples.
    for density in (
        small_density(max_blocks=1, early_stopping=False),
        small_density(max_blocks=0),
    ):
        yield JKOFlowOutlierDetector(
            density=density, false_alarm_rate=0.2, random_state=0
        )


@parametrize_with_checks(list(estimators()))
def test_sklearn_check(estimator, check):
    check(estimator)


# Those of the fitted model, and of what it is fitted to, for fits with validation. The
# others are about parameters, and about data that are refused before anything is
# selected.
OF_MODELS = [
    "check_dict_unchanged",
    "check_dont_overwrite_parameters",
    "check_estimators_dtypes",
    "check_estimators_pickle",
    "check_fit1d",
    "check_fit2d_1feature",
    "check_fit2d_1sample",
    "check_fit_idempotent",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_n_features_in",
    "check_readonly_memmap_input",
    "check_sample_weights_not_overwritten",
]


@pytest.mark.parametrize("check", OF_MODELS)
@pytest.mark.parametrize(
    "init, transforms", [("gaussian", None), ("mixture", "auto"), ("auto", "auto")]
)
def test_sklearn_check_of_what_is_selected(init, transforms, check):
    density = small_density(init=init, transforms=transforms, max_blocks=1)
    getattr(estimator_checks, check)("JKOFlowDensity", density)


def test_sklearn_check_of_weights_with_validation():
    density = small_density(max_blocks=1, transforms=None)
    estimator_checks.check_sample_weight_equivalence_on_dense_data(
        "JKOFlowDensity", density
    )


def test_checks_run_on_trained_blocks():
    X = np.random.RandomState(0).standard_normal((40, 3))
    density = small_density(max_blocks=2, early_stopping=False).fit(X)
    assert density.n_blocks_ == 2
    np.testing.assert_array_equal(density.n_iter_per_block_, [3, 3])
    assert density.n_iter_ == 6
    assert len(density.loss_curve_) == 6
    assert density.movements_.shape == (2,)
    assert (density.movements_ > 0).all()
