"""Rates of false alarms and of false discoveries, by simulation of fits."""

import numpy as np
import pytest

from skjko import JKOFlowDensity, JKOFlowOutlierDetector

D = 2


def fits(n, n_fits, n_calibration, n_outliers=0, weighted=False):
    """Yield detectors of tables that are drawn anew, and what draws more rows.

    Of a scaled exponential, which no Gaussian fits, with outliers at random places.
    """
    rng = np.random.RandomState(n + n_outliers + weighted)
    density = JKOFlowDensity(init="gaussian", max_blocks=0, discrete=None)
    for seed in range(n_fits):
        rows = rng.exponential(size=(n, D))
        rows[:n_outliers] += rng.uniform(5, 15, (n_outliers, D))
        detector = JKOFlowOutlierDetector(
            density=density,
            false_alarm_rate=0.1,
            calibration_fraction=(n_calibration + 0.5) / n,
            random_state=seed,
        )
        weight = rng.uniform(0.1, 10, n) if weighted else None
        detector.fit(rows, sample_weight=weight)
        assert len(detector.calibration_scores_) == n_calibration
        yield detector, rng


def rates(n_calibration, n_fits=20, n=100, **kwargs):
    """Share of false alarms among clean rows, of every fit, at a rate of 0.1."""
    found = []
    for detector, rng in fits(n, n_fits, n_calibration, **kwargs):
        fresh = rng.exponential(size=(300, D))
        alarms = detector.p_values(fresh) <= 0.1
        np.testing.assert_array_equal(alarms, detector.predict(fresh) == -1)
        found.append(alarms.mean())
    return np.array(found)


@pytest.mark.parametrize("n_calibration, weighted", [(10, False), (20, True)])
def test_rate_of_false_alarms(n_calibration, weighted):
    """Of each fit it is a Beta variable; weights of training rows change nothing."""
    k = int(0.1 * (n_calibration + 1))
    a, b = k, n_calibration + 1 - k
    mean, variance = a / (a + b), a * b / ((a + b) ** 2 * (a + b + 1))
    found = rates(n_calibration, weighted=weighted)
    error = np.sqrt((variance + mean * (1 - mean) / 300) / len(found))
    assert found.mean() == pytest.approx(mean, abs=3.5 * error)
    assert found.std() == pytest.approx(np.sqrt(variance), rel=0.5)


def test_outliers_in_the_table_make_fewer_false_alarms():
    """They take the lowest places among the calibration samples."""
    found = rates(20, n_outliers=10)
    assert 0.005 < found.mean() < 0.08


@pytest.mark.parametrize("n_outliers", [0, 15])
def test_rate_of_false_discoveries(n_outliers):
    """Of 90 normal samples and 10 outliers, by a table with and without outliers."""
    false, found = [], []
    for detector, rng in fits(300, 20, 120, n_outliers):
        rows = rng.exponential(size=(100, D))
        rows[90:] += 12.0
        selected = detector.select(rows, fdr=0.1)
        false.append(selected[:90].sum() / max(1, selected.sum()))
        found.append(selected[90:].mean())
    assert np.mean(false) <= 0.1 + 3 * np.std(false) / np.sqrt(len(false))
    # Outliers among the calibration samples hide those in new ones.
    assert np.mean(found) > 0.7 if n_outliers == 0 else np.mean(found) < 0.7
