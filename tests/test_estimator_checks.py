"""scikit-learn's own estimator checks, on settings under which blocks are trained."""

import numpy as np
from sklearn.utils.estimator_checks import parametrize_with_checks

from skjko import JKOFlowDensity, JKOFlowOutlierDetector, MLPField


def small_density(**parameters):
    return JKOFlowDensity(
        field=MLPField((8, 8)), max_iter=8, random_state=0, **parameters
    )


def estimators():
    """Densities of every start, with validation and without, and detectors."""
    yield small_density(max_blocks=2, early_stopping=False)
    yield small_density(max_blocks=1)
    yield small_density(max_blocks=1, init="mixture")
    # Some checks want outliers among some hundred samples.
    for density in (
        small_density(init="gaussian", max_blocks=1, early_stopping=False),
        small_density(init="gaussian", max_blocks=0),
    ):
        yield JKOFlowOutlierDetector(
            density=density, false_alarm_rate=0.2, random_state=0
        )


@parametrize_with_checks(list(estimators()))
def test_sklearn_check(estimator, check):
    check(estimator)


def test_checks_run_on_trained_blocks():
    X = np.random.RandomState(0).standard_normal((40, 3))
    density = small_density(max_blocks=2, early_stopping=False).fit(X)
    assert density.n_blocks_ == 2
    np.testing.assert_array_equal(density.n_iter_per_block_, [8, 8])
    assert density.n_iter_ == 16
    assert len(density.loss_curve_) == 16
    assert density.movements_.shape == (2,)
    assert (density.movements_ > 0).all()
