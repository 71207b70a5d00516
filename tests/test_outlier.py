"""JKOFlowOutlierDetector: the contract, p-values, thresholds, reasons, robustness."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2, kstest
from sklearn import neighbors
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import make_scorer, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skjko import JKOFlowDensity, JKOFlowOutlierDetector, MLPField
from skjko.calibration import (
    conformal_p_values,
    false_alarm_threshold,
    weighted_quantile,
)
from skjko.datasets import moons
from skjko.kernel_density import KernelDensity
from skjko.transforms import Whitening

MIXING = np.array([[2.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.5, 0.1]])


def normal(n, d, seed=0):
    return np.random.RandomState(seed).standard_normal((n, d))


def quick(**parameters):
    """A detector that trains in well under a second."""
    own = JKOFlowOutlierDetector().get_params(deep=False)
    flow = {name: parameters.pop(name) for name in {*parameters} - {*own}}
    settings = {
        "init": "gaussian",
        "transforms": None,
        "field": MLPField((16, 16)),
        "max_blocks": 1,
        "max_iter": 20,
        "batch_size": 200,
        "discrete": None,
        "early_stopping": False,
        **flow,
    }
    defaults = {
        "statistic": "likelihood",
        "calibration_fraction": 0.2,
        "random_state": 0,
    }
    density = JKOFlowDensity(**settings)
    return JKOFlowOutlierDetector(**{"density": density, **defaults, **parameters})


def gaussian(**parameters):
    """A detector by a Gaussian, whose answers are known."""
    return quick(**{"max_blocks": 0, **parameters})


@pytest.fixture(scope="module")
def X():
    return moons().sample(600, random_state=0)


@pytest.fixture(scope="module")
def detector(X):
    return quick(max_iter=60).fit(X)


# ------------------------------------------------------------------- the contract


@pytest.mark.parametrize("statistic", ["combined", "likelihood", "typicality"])
def test_contract(X, statistic):
    detector = quick(statistic=statistic).fit(X)
    scores = detector.score_samples(X)
    decision = detector.decision_function(X)
    np.testing.assert_allclose(decision, scores - detector.offset_, atol=1e-9)
    labels = detector.predict(X)
    np.testing.assert_array_equal(labels, np.where(decision < 0, -1, 1))
    np.testing.assert_array_equal(clone(detector).fit_predict(X), labels)
    assert detector.predict([[50.0, 50.0]]) == -1
    assert detector.n_iter_ == 20


@pytest.mark.parametrize("contamination", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("calibration_fraction", [0.0, 0.2])
def test_contamination_is_the_share_of_the_rows(X, contamination, calibration_fraction):
    detector = quick(
        contamination=contamination, calibration_fraction=calibration_fraction
    )
    assert (detector.fit_predict(X) == -1).sum() == round(contamination * len(X))


def test_likelihood_is_the_log_density(detector, X):
    np.testing.assert_array_equal(
        detector.score_samples(X), detector.density_.score_samples(X)
    )


def test_same_seed_same_detector(detector, X):
    again = clone(detector).fit(X)
    np.testing.assert_allclose(again.score_samples(X), detector.score_samples(X))
    assert again.offset_ == pytest.approx(detector.offset_)
    other = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(other.score_samples(X), detector.score_samples(X))


def test_scores_do_not_depend_on_units(X):
    a, b = np.array([0.25, 4096.0]), np.array([3.0, -8192.0])
    scores = quick().fit(X).score_samples(X)
    moved = quick().fit(a * X + b).score_samples(a * X + b)
    # Training in float32 leaves some digits.
    np.testing.assert_allclose(moved, scores - np.log(a).sum(), atol=0.05, rtol=0)


def test_in_a_pipeline_and_a_grid_search(X):
    rows = np.vstack([X, 8 * normal(60, 2, seed=1)])
    y = np.r_[np.ones(len(X)), -np.ones(60)]
    pipeline = make_pipeline(StandardScaler(), quick())
    assert set(pipeline.fit_predict(rows)) == {-1, 1}
    scoring = make_scorer(roc_auc_score, response_method="decision_function")
    # scikit-learn stratifies classifiers only, and the outliers come last here.
    cv = StratifiedKFold(2)
    grid = {"jkoflowoutlierdetector__statistic": ["combined", "likelihood"]}
    search = GridSearchCV(pipeline, grid, scoring=scoring, cv=cv).fit(rows, y)
    assert search.best_score_ > 0.9
    assert search.decision_function(rows).shape == (660,)


def test_rows_of_weight_zero_are_absent(X):
    weight = np.r_[np.ones(300), np.zeros(300)]
    scores = quick().fit(X, sample_weight=weight).score_samples(X)
    np.testing.assert_array_equal(scores, quick().fit(X[:300]).score_samples(X))
    with pytest.raises(ValueError, match="at least 2 samples with a positive"):
        quick().fit(X, sample_weight=np.eye(1, 600)[0])


@pytest.mark.parametrize(
    "name, value",
    [
        ("contamination", 0.0),
        ("contamination", 0.6),
        ("contamination", "all"),
        ("threshold", "likely"),
        ("false_alarm_rate", 0.0),
        ("false_alarm_rate", 1.0),
        ("statistic", "score"),
        ("trim", 0.5),
        ("trim", -0.1),
        ("calibration_fraction", 1.0),
        ("density", "gaussian"),
        ("random_state", "zero"),
    ],
)
def test_bad_parameters(X, name, value):
    with pytest.raises(ValueError, match=f"'{name}'"):
        quick(**{name: value}).fit(X[:50])


def test_every_parameter_has_a_bad_value():
    marks = test_bad_parameters.pytestmark[0].args[1]
    own = JKOFlowOutlierDetector().get_params(deep=False)
    assert {name for name, _ in marks} == set(own)


@pytest.mark.parametrize("name, value", [("max_iter", 0), ("field__frequency", -1.0)])
def test_bad_parameters_of_the_density(X, name, value):
    detector = quick().set_params(**{f"density__{name}": value})
    with pytest.raises(ValueError, match=f"'{name.split('__')[-1]}'"):
        detector.fit(X[:50])


@pytest.mark.parametrize(
    "method",
    [
        "predict",
        "score_samples",
        "decision_function",
        "p_values",
        "typicality",
        "explain",
        "most_likely_values",
        "top",
        "drift_test",
    ],
)
def test_bad_rows_at_use(detector, method):
    use = getattr(detector, method)
    with pytest.raises(ValueError, match="3 features"):
        use(np.zeros((5, 3)))
    with pytest.raises(ValueError, match="NaN"):
        use([[np.nan, 0.0]])
    with pytest.raises(NotFittedError):
        getattr(quick(), method)(np.zeros((5, 2)))


def test_scoring_changes_nothing(detector, X):
    before = pickle.dumps(detector)
    for method in ("predict", "p_values", "typicality", "explain", "top"):
        getattr(detector, method)(X[:3])
    detector.hdr_threshold()
    detector.false_alarm_threshold(0.1)
    assert pickle.dumps(detector) == before


@pytest.mark.parametrize("statistic", ["combined", "likelihood", "typicality"])
@pytest.mark.parametrize("calibration_fraction", [0.0, 0.25])
def test_summary(X, statistic, calibration_fraction, tmp_path):
    detector = gaussian(
        statistic=statistic, calibration_fraction=calibration_fraction, trim=0.1
    ).fit(X)
    text = detector.summary()
    assert text.endswith(detector.density_.summary())
    kernels = f", of the density and {540 if not calibration_fraction else 270} kernels"
    assert f"score: {statistic}{kernels * (statistic == 'combined')}\n" in text
    assert f"threshold: {detector.offset_:.4g}" in text
    assert f"trimmed: {detector.n_trimmed_} training samples" in text
    if calibration_fraction:
        share = (detector.calibration_scores_ < detector.offset_).mean()
        assert f"above {share:.1%} of the calibration samples" in text
        assert "calibration samples: 150, p-values from 0.0066 on" in text
    else:
        assert "no p-values" in text
    # Of what was fitted, whatever the parameters are now, and of a file as well.
    detector.save(tmp_path / "detector")
    detector.set_params(statistic="likelihood", contamination=0.4)
    assert detector.summary() == text
    assert JKOFlowOutlierDetector.load(tmp_path / "detector").summary() == text
    with pytest.raises(NotFittedError):
        quick().summary()


# ------------------------------------------------------------------- p-values


def test_conformal_p_values_by_hand():
    calibration = np.array([1.0, 2.0, 2.0, 3.0])
    p = conformal_p_values(np.array([0.0, 1.0, 2.0, 2.5, 9.0]), calibration)
    np.testing.assert_allclose(p, np.array([1, 2, 4, 4, 5]) / 5)


@pytest.mark.parametrize("n", [9, 19, 20, 99])
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5])
def test_false_alarm_threshold_is_where_p_values_reach_the_rate(n, rate):
    calibration = np.sort(normal(n, 1)[:, 0])
    scores = np.linspace(-4, 4, 1001)
    p = conformal_p_values(scores, calibration)
    threshold = false_alarm_threshold(calibration, rate)
    np.testing.assert_array_equal(scores < threshold, p <= rate + 1e-12)


def test_weighted_quantile():
    values = normal(101, 1)[:, 0]
    for q in (0.0, 0.05, 0.5, 0.93):
        expected = pytest.approx(np.quantile(values, q))
        assert weighted_quantile(values, np.full(101, 3.0), q) == expected
    # Next to no weight: next to no part.
    weight = np.where(values < 0, 1e-9, 1.0)
    median = np.median(values[values >= 0])
    assert weighted_quantile(values, weight, 0.5) == pytest.approx(median, abs=0.05)


def test_p_values_are_uniform_over_calibration_sets():
    """Of one new row and a calibration set redrawn with it, again and again."""
    density = JKOFlowDensity(init="gaussian", max_blocks=0).fit(normal(50, 2))
    rng = np.random.RandomState(1)
    p = []
    for _ in range(400):
        rows = rng.standard_normal((40, 2))
        detector = JKOFlowOutlierDetector.from_density(
            density, rows[1:], random_state=0
        )
        p.append(detector.p_values(rows[:1])[0])
    p = np.array(p)
    # Uniform on 1/40, ..., 1: with a share of the last step it is continuous.
    assert kstest(p - rng.uniform(size=400) / 40, "uniform").pvalue > 0.01
    for rate in (0.05, 0.1, 0.25):
        error = np.sqrt(rate * (1 - rate) / 400)
        assert (p <= rate + 1e-12).mean() < rate + 3 * error


def test_selection_controls_the_rate_of_false_discoveries():
    """Of 90 normal samples and 10 outliers, with the calibration set, redrawn."""
    density = JKOFlowDensity(init="gaussian", max_blocks=0).fit(normal(50, 2))
    rng = np.random.RandomState(1)
    false, found = [], []
    for _ in range(100):
        rows = rng.standard_normal((390, 2))
        rows[-10:] += 6.0
        detector = JKOFlowOutlierDetector.from_density(
            density, rows[:290], random_state=0
        )
        selected = detector.select(rows[290:], fdr=0.2)
        p = detector.p_values(rows[290:])
        # Benjamini and Hochberg by hand.
        k = np.flatnonzero(np.sort(p) <= 0.2 * np.arange(1, 101) / 100 + 1e-12)
        assert selected.sum() == (k[-1] + 1 if len(k) else 0)
        false.append(selected[:90].sum() / max(1, selected.sum()))
        found.append(selected[90:].mean())
    # The rate is 0.2 times the share of normal samples, at most.
    assert np.mean(false) < 0.18 + 3 * np.std(false) / 10
    assert np.mean(found) > 0.8


@pytest.mark.slow
def test_p_values_of_fitted_flows_hold_on_data_that_are_not_gaussian():
    """Fit and calibration anew every time, on a small flow that fits badly."""
    below = []
    for seed in range(25):
        rows = moons().sample(300, random_state=seed)
        detector = quick(max_iter=5, random_state=seed).fit(rows)
        fresh = moons().sample(200, random_state=1000 + seed)
        below.append((detector.p_values(fresh) <= 0.1).mean())
    # A fit's rate is a Beta variable of deviation 0.038, and 25 are averaged.
    assert np.mean(below) == pytest.approx(6 / 61, abs=3 * 0.045 / 5)


def test_calibration_rows_do_not_train(X):
    far = X[:400] + 30.0
    a = quick().fit(X, X_calibration=X[:50])
    b = quick().fit(X, X_calibration=far)
    np.testing.assert_array_equal(a.score_samples(X), b.score_samples(X))
    assert (b.p_values(X[:5]) == 1).all()
    assert len(b.calibration_scores_) == 400
    split = quick(calibration_fraction=0.25).fit(X)
    assert len(split.calibration_scores_) == 150


def test_without_calibration_rows_there_are_no_p_values(X):
    detector = quick(calibration_fraction=0.0).fit(X)
    assert detector.calibration_scores_ is None
    assert (detector.predict(X) == -1).sum() == 30
    with pytest.raises(ValueError, match="no calibration samples"):
        detector.p_values(X)
    with pytest.raises(ValueError, match="no calibration samples"):
        detector.false_alarm_threshold(0.1)
    with pytest.raises(ValueError, match="no calibration samples"):
        detector.select(X)


def test_too_few_calibration_rows_warn(X):
    with pytest.warns(UserWarning, match="takes 19"):
        quick().fit(X[:50])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        quick().fit(X[:100])


# ------------------------------------------------------------------- thresholds


def test_false_alarms(detector):
    fresh = moons().sample(2000, random_state=7)
    flagged = detector.predict(fresh) == -1
    np.testing.assert_array_equal(flagged, detector.p_values(fresh) <= 0.05)
    # 120 calibration samples: a Beta variable of deviation 0.02.
    assert 0.005 < flagged.mean() < 0.11
    assert detector.offset_ == detector.false_alarm_threshold(0.05)


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("mass", [0.5, 0.95])
def test_highest_density_region_of_a_gaussian(d, mass):
    detector = gaussian(threshold="hdr").fit(normal(4000, d))
    mean = detector.density_.transforms_.find(Whitening).mean_
    mode = detector.score_samples(mean[np.newaxis])[0]
    level = detector.hdr_threshold(mass, n_samples=20_000)
    # The level of a quantile of 20,000 samples, to four standard errors.
    q = chi2.ppf(mass, d)
    error = np.sqrt(mass * (1 - mass) / 20_000) / chi2.pdf(q, d)
    assert 2 * (mode - level) == pytest.approx(q, abs=4 * error)


def test_predict_by_highest_density_region():
    detector = gaussian(threshold="hdr", false_alarm_rate=0.2).fit(normal(4000, 3))
    assert (detector.predict(normal(4000, 3, 1)) == -1).mean() == pytest.approx(
        0.2, abs=0.04
    )


@pytest.mark.parametrize("value", [0.0, 1.0, -1, "high", True])
def test_bad_rates(detector, value):
    with pytest.raises(ValueError, match=r"'rate' .*false_alarm_threshold"):
        detector.false_alarm_threshold(value)
    with pytest.raises(ValueError, match=r"'fdr' .*select"):
        detector.select([[0.0, 0.0]], fdr=value)
    with pytest.raises(ValueError, match=r"'mass' .*hdr_threshold"):
        detector.hdr_threshold(value)
    with pytest.raises(ValueError, match=r"'n_samples' .*hdr_threshold"):
        detector.hdr_threshold(n_samples=0.5)


# ------------------------------------------------------------------- typicality


def test_likelihood_misses_what_typicality_sees():
    """The most likely row of all is one that the distribution never draws."""
    d = 100
    rows = normal(2000, d)
    strange = np.zeros((1, d))
    fresh = normal(1000, d, seed=1)
    by_likelihood = gaussian().fit(rows)
    by_typicality = gaussian(statistic="typicality").fit(rows)
    assert by_likelihood.p_values(strange)[0] == 1
    assert (
        by_likelihood.score_samples(strange) > by_likelihood.score_samples(fresh).max()
    )
    assert by_typicality.p_values(strange)[0] < 0.01
    assert (by_typicality.predict(fresh) == -1).mean() < 0.08
    # What is too unlikely is seen by both.
    assert by_typicality.p_values(1.5 * fresh[:1])[0] < 0.01
    np.testing.assert_array_equal(
        by_likelihood.typicality(fresh), by_typicality.score_samples(fresh)
    )


def test_typical_log_density_is_the_negative_entropy():
    detector = gaussian().fit(normal(5000, 4))
    entropy = 2 * np.log(2 * np.pi * np.e)
    assert detector.typical_log_density_ == pytest.approx(-entropy, abs=0.15)


# ------------------------------------------------------------------- reasons


def test_explanation_of_a_gaussian_is_its_conditional():
    rows = normal(4000, 3) @ MIXING.T
    detector = gaussian().fit(rows)
    fresh = normal(20, 3, seed=1) @ MIXING.T
    # Of the fitted Gaussian, whose covariance is shrunk.
    whitening = detector.density_.transforms_.find(Whitening)
    root = (whitening.forward(np.eye(3))[0] - whitening.forward(np.zeros((1, 3)))[0]).T
    precision = root.T @ root
    slope = (fresh - whitening.mean_) @ precision
    np.testing.assert_allclose(
        detector.explain(fresh), 0.5 * slope**2 / np.diag(precision), atol=0.05
    )
    best = fresh - slope / np.diag(precision)
    error = np.abs(detector.most_likely_values(fresh) - best) / rows.std(axis=0)
    assert error.max() < 0.1


def test_explanation_finds_planted_columns():
    n, d = 900, 6
    rng = np.random.RandomState(0)
    factor = rng.standard_normal((n, 2))
    rows = factor @ rng.standard_normal((2, d)) + 0.3 * rng.standard_normal((n, d))
    rows[:, 5] = rows[:, 0] ** 2 + 0.3 * rng.standard_normal(n)
    detector = quick(max_iter=80, field=MLPField((32, 32)))
    detector.fit(rows[:700])
    strange = rows[700:].copy()
    column = rng.randint(d, size=len(strange))
    index = np.arange(len(strange))
    # Within the range of the column, but not with these neighbours.
    jump = 2.5 * rows.std(axis=0)[column]
    strange[index, column] += np.where(strange[index, column] > 0, -jump, jump)
    gains = detector.explain(strange)
    assert (gains >= 0).all()
    assert (gains.argmax(axis=1) == column).mean() > 0.75
    largest_change = np.abs(strange - rows[700:]).argmax(axis=1)
    np.testing.assert_array_equal(largest_change, column)


def test_explanation_has_the_names_and_index_of_a_data_frame(X):
    frame = pd.DataFrame(X, columns=["east", "north"])
    detector = quick().fit(frame)
    strange = pd.DataFrame([[0.0, 9.0]], columns=["east", "north"], index=["odd"])
    gains = detector.explain(strange)
    assert gains.idxmax(axis=1)["odd"] == "north"
    assert detector.most_likely_values(strange).loc["odd", "north"] < 5
    np.testing.assert_array_equal(gains, quick().fit(X).explain(strange.to_numpy()))


# ------------------------------------------------------------------- other densities


@pytest.mark.parametrize("labels", [["east", "north"], [1, 0]])
def test_bounds_of_the_density_are_by_label(X, labels):
    frame = pd.DataFrame(X, columns=labels)
    low = X[:, 1].min() - 1
    density = JKOFlowDensity(max_blocks=0, bounds={labels[1]: (low, None)})
    detector = JKOFlowOutlierDetector(density=density, random_state=0)
    detector.fit(frame)
    assert detector.density_.support_.lower.tolist() == [-np.inf, low]
    assert density.bounds == {labels[1]: (low, None)}
    density.set_params(bounds={"up": (low, None)})
    with pytest.raises(ValueError, match=r"'bounds'.*Density names 'up', .*no column"):
        detector.fit(frame)


def test_from_density(X):
    density = JKOFlowDensity(
        init="gaussian",
        max_blocks=1,
        field=MLPField((8, 8)),
        max_iter=10,
        early_stopping=False,
        random_state=0,
    ).fit(pd.DataFrame(X[:300], columns=["east", "north"]))
    rows = pd.DataFrame(X[300:], columns=["east", "north"])
    before = pickle.dumps(density)
    detector = JKOFlowOutlierDetector.from_density(
        density, rows, contamination=0.1, random_state=0
    )
    assert detector.n_features_in_ == 2
    assert pickle.dumps(density) == before
    assert (detector.predict(rows) == -1).sum() == 30
    assert detector.p_values(rows).min() == pytest.approx(2 / 301)
    assert list(detector.explain(rows[:2]).columns) == ["east", "north"]
    hdr = JKOFlowOutlierDetector.from_density(
        density, rows, threshold="hdr", random_state=0
    )
    assert hdr.offset_ == pytest.approx(hdr.hdr_threshold(), abs=0.3)
    strangers = pd.DataFrame(X, columns=["up", "down"])
    with pytest.raises(ValueError, match="feature names"):
        JKOFlowOutlierDetector.from_density(density, strangers)


def test_what_was_fitted_decides(X, tmp_path):
    """Parameters changed after fit, and a density that is fitted again."""
    density = JKOFlowDensity(init="gaussian", max_blocks=0).fit(X[:300])
    detector = JKOFlowOutlierDetector.from_density(density, X[300:])
    p, decision = detector.p_values(X[:20]), detector.decision_function(X[:20])
    density.fit(100 * X)
    detector.set_params(statistic="combined", threshold="hdr", contamination=0.4)
    detector.save(tmp_path / "detector.skjko")
    for one in (detector, JKOFlowOutlierDetector.load(tmp_path / "detector.skjko")):
        np.testing.assert_array_equal(one.p_values(X[:20]), p)
        np.testing.assert_array_equal(one.decision_function(X[:20]), decision)


def test_infinite_scores():
    X = np.abs(normal(300, 1)) + 0.1
    density = JKOFlowDensity(bounds=[(0, None)], max_blocks=0, random_state=0).fit(X)
    outside = -np.ones((20, 1))
    with pytest.warns(UserWarning, match=r"20 of 120 calibration samples have .* -inf"):
        detector = JKOFlowOutlierDetector.from_density(density, np.r_[X[:100], outside])
    assert detector.offset_ == -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decision = detector.decision_function(np.r_[X[:1], outside[:1]])
        np.testing.assert_array_equal(decision, [np.inf, 0.0])
        np.testing.assert_array_equal(detector.predict(outside), np.ones(20))
        # Fewer of them than may be outliers: the threshold is finite.
        few = JKOFlowOutlierDetector.from_density(density, np.r_[X[:100], outside[:2]])
        assert np.isfinite(few.offset_)
        np.testing.assert_array_equal(few.decision_function(outside[:1]), [-np.inf])
        rated = JKOFlowOutlierDetector.from_density(
            density, np.r_[X[:100], outside], contamination=0.1
        )
        assert rated.offset_ == -np.inf


def test_the_largest_weights():
    X, huge = normal(200, 2), np.full(200, 1e307)
    huge[::2] *= 3
    one = quick(contamination=0.1).fit(X, sample_weight=huge)
    other = quick(contamination=0.1).fit(X, sample_weight=huge / 1e307)
    assert one.offset_ == pytest.approx(other.offset_)
    density = JKOFlowDensity(init="gaussian", max_blocks=0, random_state=0).fit(X)
    assert density.score(X, sample_weight=huge) == pytest.approx(
        density.score(X, sample_weight=huge / 1e307)
    )
    with pytest.raises(ValueError, match="zero"):
        density.score(X, sample_weight=np.zeros(200))


def test_copies_are_on_one_side_of_the_calibration():
    """Five exports of one table: calibration scores are those of fresh samples."""
    X = normal(100, 2)
    rows = np.concatenate([X + 1e-9 * normal(100, 2, seed=i) for i in range(5)])
    many = quick(calibration_fraction=0.5, max_iter=150).fit(rows)
    alarms = (many.p_values(normal(2000, 2, seed=5)) <= 0.1).mean()
    assert alarms < 0.25
    groups = np.arange(100) // 4
    quick(calibration_fraction=0.5).fit(X, groups=groups)
    with pytest.raises(ValueError, match="groups has one label"):
        quick().fit(X, groups=np.zeros(100))


def test_from_density_refuses(X):
    with pytest.raises(ValueError, match=r"'density' .*from_density.* Got 3 instead"):
        JKOFlowOutlierDetector.from_density(3, X)
    with pytest.raises(NotFittedError):
        JKOFlowOutlierDetector.from_density(JKOFlowDensity(), X)
    density = JKOFlowDensity(init="gaussian", max_blocks=0).fit(X)
    with pytest.raises(ValueError, match="'trim'"):
        JKOFlowOutlierDetector.from_density(density, X, trim=-1)
    with pytest.raises(ValueError, match=r"'statistic' .* no training samples"):
        JKOFlowOutlierDetector.from_density(density, X, statistic="combined")


# --------------------------------------------------------------- flow and kernels


def kernels_of(rows, bandwidth=0.5, weight=None, coded=None):
    weight = np.ones(len(rows)) if weight is None else weight
    rng = np.random.RandomState(0)
    return KernelDensity.fit(rows, weight, bandwidth, coded or {}, rng)


def test_kernel_density_is_that_of_scikit_learn():
    """On standardised samples, up to the constant of the kernels."""
    rows, new = normal(50, 3) @ MIXING.T, 2 * normal(30, 3, seed=1)
    weight = np.random.RandomState(2).uniform(0.5, 2, 50)
    mean = np.average(rows, axis=0, weights=weight)
    spread = np.sqrt(np.average((rows - mean) ** 2, axis=0, weights=weight))
    other = neighbors.KernelDensity(bandwidth=0.5)
    other.fit((rows - mean) / spread, sample_weight=weight)
    expected = other.score_samples((new - mean) / spread)
    constant = 1.5 * np.log(2 * np.pi) + 3 * np.log(0.5)
    found = kernels_of(rows, weight=weight).score_samples(new)
    np.testing.assert_allclose(found, expected + constant, rtol=1e-10)


def test_samples_without_their_own_kernel():
    rows, weight = normal(20, 2), np.r_[np.full(10, 2.0), np.ones(10)]
    kernels = kernels_of(rows, weight=weight)
    u = rows / np.sqrt(np.average((rows - np.average(rows, 0, weight)) ** 2, 0, weight))
    squares = ((u[:, None] - u) ** 2).sum(-1) / 0.25
    terms = np.exp(-0.5 * squares) * weight / weight.sum()
    np.fill_diagonal(terms, 0)
    np.testing.assert_allclose(
        kernels.leave_one_out_scores(), np.log(terms.sum(1)), rtol=1e-9
    )


def test_codes_have_no_order():
    codes = np.random.RandomState(0).randint(4, size=200)
    values, renamed = normal(200, 1), np.array([2, 0, 3, 1])[codes]
    one = kernels_of(np.c_[values, codes], coded={1: 4})
    other = kernels_of(np.c_[values, renamed], coded={1: 4})
    np.testing.assert_allclose(
        one.score_samples(np.c_[values, codes]),
        other.score_samples(np.c_[values, renamed]),
    )


def test_bandwidth_is_that_of_scikit_learn():
    """On samples that reach as far as so many of a standard normal."""
    rows, new = normal(50, 3), normal(30, 3, seed=1)
    rows -= rows.mean(axis=0)
    rows *= np.sqrt(2 * np.log(50)) / np.abs(rows).max(axis=0)
    other = neighbors.KernelDensity(bandwidth="silverman").fit(rows).score_samples(new)
    gap = kernels_of(rows, bandwidth=None).score_samples(new) - other
    assert np.ptp(gap) < 1e-10
    # The unit of the weights does not count.
    twice = kernels_of(rows, None, weight=np.full(50, 2.0)).score_samples(new)
    np.testing.assert_allclose(twice, gap + other, rtol=1e-12)


def test_a_rare_value_is_not_the_farther_the_rarer_it_is():
    """In standard deviations of a feature it would be."""
    rows = np.c_[normal(1000, 2), np.zeros(1000)]
    between, far = [0.0, 0.0, 0.5], [6.0, 0.0, 0.0]
    for n in (100, 20, 5):
        rows[:, 2] = np.arange(1000) < n
        scores = kernels_of(rows, None).score_samples(np.array([between, far]))
        assert scores[0] > scores[1]


def test_a_constant_column_does_not_count():
    rows, new = normal(30, 2), normal(10, 2, seed=1)
    found = kernels_of(np.c_[rows, np.full(30, 0.1)]).score_samples(
        np.c_[new, normal(10, 1)]
    )
    np.testing.assert_array_equal(found, kernels_of(rows).score_samples(new))


def test_combined_score_is_the_lower_of_both():
    """Each less its median, in units of the distance to its lower quartile."""
    rows, new = normal(200, 2), 3 * normal(300, 2, seed=1)
    settings = {"statistic": "combined", "calibration_fraction": 0, "trim": 0}
    detector = gaussian(**settings).fit(rows)
    flow, kernels = detector.density_, kernels_of(rows, bandwidth=None)
    expected = []
    for usual, scores in (
        (flow.score_samples(rows), flow.score_samples(new)),
        (kernels.leave_one_out_scores(), kernels.score_samples(new)),
    ):
        lower, median = np.quantile(usual, [0.25, 0.5])
        expected.append((scores - median) / (median - lower))
    assert set(np.argmin(expected, axis=0)) == {0, 1}
    np.testing.assert_allclose(detector.score_samples(new), np.min(expected, axis=0))


def test_combined_scores_are_standardized_by_samples_held_out():
    """A quarter of fresh samples is below -1 by each score, more by either."""
    detector = gaussian(statistic="combined").fit(normal(3000, 5))
    fresh = detector.score_samples(normal(20_000, 5, seed=2))
    assert 0.22 < (fresh < -1).mean() < 0.5
    assert 0.45 < (fresh < 0).mean() < 0.75


def test_combined_score_sees_fine_structure_and_what_is_far():
    """Off a thin line the kernels see nothing; far from all samples both do."""
    x = normal(500, 1)
    line = np.c_[x, x + 0.02 * normal(500, 1, seed=1)]
    detector = gaussian(statistic="combined").fit(line)
    beside, far = [[0.0, 0.2]], [[9.0, 9.0]]
    assert kernels_of(line).score_samples(np.array(beside)) > np.quantile(
        kernels_of(line).score_samples(line), 0.25
    )
    assert detector.predict(beside) == detector.predict(far) == -1


def test_combined_scores_do_not_depend_on_units(X):
    a, b = np.array([0.25, 4096.0]), np.array([3.0, -8192.0])
    scores = gaussian(statistic="combined").fit(X).score_samples(X)
    moved = gaussian(statistic="combined").fit(a * X + b).score_samples(a * X + b)
    np.testing.assert_allclose(moved, scores, rtol=1e-6, atol=1e-6)


# ------------------------------------------------------------------- robustness


def test_trimming_leaves_the_outliers_out():
    clean = normal(450, 3) @ MIXING.T
    cluster = 0.3 * normal(50, 3, seed=2) + [8.0, -8.0, 3.0]
    rows = np.vstack([clean, cluster])
    fresh = normal(500, 3, seed=3) @ MIXING.T
    settings = {"max_iter": 40, "calibration_fraction": 0.0}
    trimmed = quick(trim=0.15, **settings).fit(rows)
    naive = quick(trim=0, **settings).fit(rows)
    assert trimmed.n_trimmed_ == 75
    assert naive.n_trimmed_ == 0

    def gap(detector):
        """Nats between a fresh row at the lowest percent and the cluster's best."""
        usual = np.quantile(detector.score_samples(fresh), 0.01)
        return usual - detector.score_samples(cluster).max()

    assert gap(trimmed) > 5
    assert gap(trimmed) > gap(naive) + 5


# Of 3000 samples not all have a kernel.
@pytest.mark.parametrize("n, d", [(500, 2), (500, 5), (500, 20), (3000, 5)])
def test_automatic_trimming_leaves_out_what_is_far_and_little_else(n, d):
    clean, far = normal(n, d), normal(n, d, seed=1) + 30.0 * np.eye(d)[0]
    settings = {"calibration_fraction": 0.0, "statistic": "likelihood"}
    assert gaussian(**settings).fit(clean).n_trimmed_ <= 0.01 * n
    rows = np.vstack([clean, far[:10]])
    detector = gaussian(**settings).fit(rows)
    assert 10 <= detector.n_trimmed_ <= 10 + 0.01 * n
    # The density is that of the others.
    of_clean = gaussian(trim=0, **settings).fit(clean)
    gap = detector.score_samples(clean) - of_clean.score_samples(clean)
    assert abs(gap.mean()) < 0.05
    # Whatever the units; and never of next to no samples.
    assert gaussian(**settings).fit(1e-3 * rows + 7).n_trimmed_ == detector.n_trimmed_
    assert gaussian(**settings).fit(rows[-10:]).n_trimmed_ == 0


# ------------------------------------------------------------------- awkward data


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(normal(20, 30), id="more columns than rows"),
        pytest.param(np.c_[normal(40, 2), np.full(40, 7.1)], id="constant column"),
        pytest.param(np.full((40, 2), 0.1), id="all constant"),
        pytest.param(np.repeat(normal(10, 2), 5, axis=0), id="duplicated rows"),
        pytest.param(np.random.RandomState(0).poisson(1, (60, 3)), id="ties"),
        pytest.param(normal(2, 2), id="two rows"),
    ],
)
@pytest.mark.parametrize("statistic", ["combined", "likelihood"])
@pytest.mark.filterwarnings("ignore:.*calibration samples are too few")
def test_awkward_data(rows, statistic):
    detector = quick(max_iter=5, statistic=statistic).fit(rows)
    assert np.isfinite(detector.decision_function(rows)).all()
    assert np.isfinite(detector.explain(rows[:2])).all()
    assert detector.predict(rows[:1] + 1e6) == -1


def test_a_row_beyond_all_numbers_is_an_outlier(detector):
    row = [[1e200, 0.0]]
    assert detector.predict(row) == -1
    assert detector.p_values(row)[0] == pytest.approx(1 / 121)
    assert not np.isnan(detector.explain(row)).any()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("unit", [2.0**-900, 2.0**900])
def test_data_in_any_unit(X, unit):
    one, other = quick().fit(X), quick().fit(X * unit)
    expected = one.score_samples(X) - X.shape[1] * np.log(unit)
    np.testing.assert_allclose(other.score_samples(X * unit), expected, rtol=1e-9)


@pytest.mark.filterwarnings("error")
def test_rows_as_far_as_numbers_go(detector, X):
    signs = np.where(np.arange(X.shape[1]) % 2, 1.0, -1.0)
    rows = np.array([signs, -signs, -signs]) * np.finfo(float).max
    assert (detector.score_samples(rows) == -np.inf).all()
    assert (detector.predict(rows) == -1).all()


def test_values_at_a_bound():
    """Counts and atoms reach their bounds; what is beyond them is an outlier."""
    rng = np.random.RandomState(0)
    rows = np.c_[rng.poisson(1, 300), normal(300, 1)[:, 0].clip(0)]
    bounds = [(0, None), (0, None)]
    for statistic in ("combined", "likelihood"):
        detector = quick(
            statistic=statistic, bounds=bounds, max_iter=5, discrete="auto"
        ).fit(rows)
        assert np.isfinite(detector.score_samples(rows)).all()
        assert (detector.most_likely_values(rows[:20]) >= 0).all()
        outside = np.array([[1.0, -1.0]])
        with pytest.warns(UserWarning, match="outside of the bounds"):
            assert detector.score_samples(outside)[0] == -np.inf


def test_values_too_large_are_named():
    with pytest.raises(ValueError, match=r"beyond 1e\+300 in column 1.*OutlierDet"):
        quick().fit([[0.0, 1.0], [1.0, -1e301], [2.0, 3.0]])
