"""JKOFlowOutlierDetector.drift_test, by simulation and beside scipy."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, ks_2samp

from skjko import JKOFlowDensity, JKOFlowOutlierDetector

D, N_NEW, N_USUAL = 4, 60, 80


@pytest.fixture(scope="module")
def density():
    rows = np.random.RandomState(5).standard_normal((200, D))
    return JKOFlowDensity(init="gaussian", max_blocks=0, random_state=0).fit(rows)


def results(density, change=lambda rows: rows, n=120, seed=0):
    """Tests of new rows and calibration rows, drawn again and again."""
    rng, found = np.random.RandomState(seed), []
    for _ in range(n):
        usual, new = (rng.standard_normal((m, D)) for m in (N_USUAL, N_NEW))
        detector = JKOFlowOutlierDetector.from_density(density, usual, random_state=0)
        found.append(detector.drift_test(change(new)))
    return found


def test_level_without_drift(density):
    """No more small p-values than a binomial variable has once in 10,000 times."""
    found = results(density)
    for level in (0.02, 0.05, 0.2, 0.5):
        most = binom.ppf(1 - 1e-4, len(found), level)
        for p in (
            [one.p_value for one in found],
            [one.score_p_value for one in found],
            [one.feature_p_values.min() for one in found],
        ):
            assert np.sum(np.array(p) <= level) <= most
    # And not next to none: half a level is for the scores, whose test is nearly exact.
    assert np.mean([one.score_p_value <= 0.2 for one in found]) > 0.1
    named = np.sum([len(one.moved) > 0 for one in found])
    assert named <= binom.ppf(1 - 1e-4, len(found), 0.025)


def test_power_on_a_shift_of_the_mean(density):
    found = results(density, lambda rows: rows + np.eye(D)[2], n=40)
    assert np.mean([one.p_value <= 0.05 for one in found]) > 0.85
    assert np.mean([one.moved == [2] for one in found]) > 0.8


def test_power_on_a_change_of_scale(density):
    """It moves no median: the scores tell."""
    found = results(density, lambda rows: 1.6 * rows, n=40)
    assert np.mean([one.p_value <= 0.05 for one in found]) > 0.85
    assert np.mean([one.score_p_value <= 0.05 for one in found]) > 0.85


def test_it_does_not_see_what_moves_no_score(density):
    """Signs that are exchanged leave a symmetric distribution as it was."""
    found = results(density, lambda rows: rows * [1, -1, 1, 1], n=40, seed=3)
    assert np.mean([one.p_value <= 0.05 for one in found]) < 0.2


def test_statistics_are_those_of_scipy(density):
    rng = np.random.RandomState(0)
    usual, new = rng.standard_normal((80, D)), rng.standard_normal((60, D)) + 0.3
    names = [f"column {j}" for j in range(D)]
    plain = JKOFlowDensity(init="gaussian", max_blocks=0, random_state=0)
    fitted = plain.fit(pd.DataFrame(rng.standard_normal((200, D)), columns=names))
    usual, new = (pd.DataFrame(one, columns=names) for one in (usual, new))
    detector = JKOFlowOutlierDetector.from_density(fitted, usual, random_state=0)
    found = detector.drift_test(new, level=0.9)
    expected = [ks_2samp(new[name], usual[name]) for name in names]
    np.testing.assert_allclose(
        found.feature_statistics, [e.statistic for e in expected]
    )
    p = np.minimum([D * e.pvalue for e in expected], 1)
    np.testing.assert_allclose(found.feature_p_values, p)
    of_scores = ks_2samp(detector.score_samples(new), detector.score_samples(usual))
    assert found.statistic == pytest.approx(of_scores.statistic)
    assert found.score_p_value == pytest.approx(of_scores.pvalue)
    assert found.p_value == pytest.approx(min(1, 2 * min(of_scores.pvalue, p.min())))
    assert found.moved == [names[j] for j in np.argsort(p) if p[j] <= 0.45]


def test_many_rows_take_the_asymptotic_distribution(density):
    rng = np.random.RandomState(1)
    usual, new = rng.standard_normal((2000, D)), rng.standard_normal((1500, D))
    detector = JKOFlowOutlierDetector.from_density(density, usual, random_state=0)
    found = detector.drift_test(new)
    exact = ks_2samp(detector.score_samples(new), detector.score_samples(usual))
    assert found.score_p_value == pytest.approx(exact.pvalue, abs=0.03)


@pytest.mark.filterwarnings("ignore:The effective number")
def test_equal_rows_count_once_where_they_did_in_calibration(density):
    """A row that is half of all is no drift: neither here nor there."""
    rng = np.random.RandomState(2)
    table, new = rng.standard_normal((500, D)), rng.standard_normal((100, D))
    table[:250] = new[:50] = 0.0
    plain = JKOFlowDensity(init="gaussian", max_blocks=0, discrete=None)
    detector = JKOFlowOutlierDetector(density=plain, random_state=0).fit(table)
    assert detector.drift_test(new).p_value > 0.05
    # Elsewhere such rows are a change.
    detector = JKOFlowOutlierDetector(density=plain, random_state=0).fit(table[250:])
    assert detector.drift_test(new).p_value < 0.05


def test_drift_of_a_fitted_detector_with_categories():
    rng = np.random.RandomState(0)
    x = rng.standard_normal(800)
    kind = np.where(x + rng.standard_normal(800) > 0, "high", "low")
    table = pd.DataFrame({"x": x, "kind": kind, "y": x + rng.standard_normal(800)})
    plain = JKOFlowDensity(init="gaussian", max_blocks=0, discrete=None)
    detector = JKOFlowOutlierDetector(
        density=plain, calibration_fraction=0.3, random_state=0
    ).fit(table[:600])
    assert detector.drift_test(table[600:]).p_value > 0.05
    found = detector.drift_test(table[600:].assign(kind="high"))
    assert found.moved == ["kind"]
    assert found.p_value < 1e-3


def test_rows_without_density(density):
    """Infinite scores are the lowest."""
    rng = np.random.RandomState(0)
    usual, new = rng.standard_normal((80, D)), rng.standard_normal((60, D))
    detector = JKOFlowOutlierDetector.from_density(density, usual, random_state=0)
    new[:30] = 1e200
    assert detector.drift_test(new).score_p_value < 1e-3


def test_no_drift_test_without_calibration(density):
    rows = np.random.RandomState(0).standard_normal((100, 2))
    plain = JKOFlowDensity(init="gaussian", max_blocks=0)
    detector = JKOFlowOutlierDetector(density=plain, calibration_fraction=0).fit(rows)
    with pytest.raises(ValueError, match="no calibration samples"):
        detector.drift_test(rows)


@pytest.mark.parametrize("level", [0, 1.0, "5 %", True])
def test_bad_levels(density, level):
    rows = np.random.RandomState(0).standard_normal((30, D))
    detector = JKOFlowOutlierDetector.from_density(density, rows, random_state=0)
    with pytest.raises(ValueError, match=r"'level' .*drift_test must be a float"):
        detector.drift_test(rows, level=level)
