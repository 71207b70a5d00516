"""Fits and scores at once: in processes, in threads, and in processes forked off."""

import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import joblib
import numpy as np
import pytest
import torch
from helpers import process_state
from joblib import Parallel, delayed
from sklearn.model_selection import GridSearchCV

from skjko import JKOFlowDensity, JKOFlowOutlierDetector, MLPField, RungeKutta
from skjko.datasets import moons

X = moons().sample(120, random_state=0)

# One for every way in which a divergence is computed: in closed form, and in forward
# mode, of which torch has one level for all of its threads.
WAYS = {
    "closed form": {},
    "one layer": {"field": MLPField((8,))},
    "hutchinson": {"solver": RungeKutta(n_steps=1, divergence="hutchinson")},
    "finite differences": {
        "solver": RungeKutta(n_steps=1, divergence="finite_difference")
    },
}


def quick(**parameters):
    settings = {
        "max_blocks": 2,
        "init": "gaussian",
        "field": MLPField((8, 8)),
        "max_iter": 5,
        "solver": RungeKutta(n_steps=1),
        "learning_rate_init": 0.05,
        "early_stopping": False,
        "random_state": 0,
        **parameters,
    }
    return JKOFlowDensity(**settings)


def detector():
    return JKOFlowOutlierDetector(
        density=quick(max_blocks=1), calibration_fraction=0.25, random_state=0
    )


def fit_and_score(estimator, rows):
    fitted = estimator.fit(rows)
    return fitted.score_samples(rows), torch.get_num_threads()


@pytest.fixture
def often_switching():
    """Let threads take turns so often that what they share is seen half done."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def at_once(tasks):
    """Run functions in a thread each, started together; return what they return."""
    start = threading.Barrier(len(tasks))

    def run(task):
        start.wait()
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(run, tasks))


# ------------------------------------------------------------------- joblib


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_fits_under_joblib_are_those_without_it(backend):
    estimators = [quick(random_state=i, **WAYS["one layer"]) for i in range(2)]
    estimators.append(quick())
    expected = [fit_and_score(e, X)[0] for e in estimators]
    before = process_state()
    with joblib.parallel_config(backend, n_jobs=2):
        results = Parallel()(delayed(fit_and_score)(e, X) for e in estimators)
    assert process_state() == before
    for (scores, n_threads), one in zip(results, expected, strict=True):
        np.testing.assert_array_equal(scores, one)
        # Those of the two workers do not get into each other's way.
        if backend == "loky":
            assert n_threads <= max(1, joblib.cpu_count() // 2)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_grid_search_is_the_same(backend):
    grid = {"max_blocks": [0, 1], "field__hidden_layer_sizes": [(8,)]}
    serial = GridSearchCV(quick(), grid, cv=2).fit(X)
    before = process_state()
    with joblib.parallel_config(backend):
        search = GridSearchCV(quick(), grid, cv=2, n_jobs=2).fit(X)
    assert process_state() == before
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], serial.cv_results_["mean_test_score"]
    )
    np.testing.assert_array_equal(search.score_samples(X), serial.score_samples(X))


def mean_log_density(estimator, X, y, sample_weight=None):
    return {"score": estimator.score(X, y, sample_weight)}


def test_callbacks_in_a_grid_search_of_two_processes():
    # Here, and not with those of one process, for starting two takes most of the time.
    callback = pytest.importorskip("sklearn.callback")
    monitor = callback.ScoringMonitor(scoring=mean_log_density)
    density = quick().set_callbacks(monitor)
    with joblib.parallel_config("loky"):
        search = GridSearchCV(density, {"max_blocks": [1, 2]}, cv=2, n_jobs=2).fit(X)
    log = monitor.get_logs().data
    n_blocks = 2 * (1 + 2) + search.best_estimator_.n_blocks_
    assert sum(row["task_name"] == "block" for row in log) == n_blocks
    best = search.best_estimator_.score(X)
    assert [row["score"] for row in log if len(row["task_id_path"]) == 2][-1] == best


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_a_fitted_model_scores_in_workers(backend):
    fitted = quick(**WAYS["one layer"]).fit(X)
    with joblib.parallel_config(backend, n_jobs=2):
        parts = Parallel()(delayed(fitted.score_samples)(X[i::4]) for i in range(4))
    for i, part in enumerate(parts):
        # Of the same samples: among others, products may round otherwise.
        np.testing.assert_array_equal(part, fitted.score_samples(X[i::4]))


# ------------------------------------------------------------------- threads


@pytest.mark.usefixtures("often_switching")
@pytest.mark.parametrize("way", WAYS)
def test_threads_that_fit_do_not_disturb_each_other(way):
    estimators = [quick(random_state=i, **WAYS[way]) for i in range(3)]
    expected = [fit_and_score(e, X)[0] for e in estimators]
    before = process_state()
    results = at_once([lambda e=e: fit_and_score(e, X)[0] for e in estimators])
    assert process_state() == before
    np.testing.assert_array_equal(results, expected)


@pytest.mark.usefixtures("often_switching")
@pytest.mark.parametrize("way", ["closed form", "one layer", "bounds and a grid"])
def test_threads_that_use_one_model_get_the_same_answers(way):
    rows, parameters = X, WAYS.get(way)
    if parameters is None:
        rows = np.c_[np.exp(X[:, 0]), np.round(X[:, 1] / 100)]
        parameters = {"bounds": [(0, None), None]}
    fitted = quick(**parameters).fit(rows)
    tasks = [
        lambda: fitted.score_samples(rows),
        lambda: np.stack(list(fitted.staged_score_samples(rows))),
        lambda: fitted.transform(rows),
        lambda: fitted.inverse_transform(fitted.transform(rows)),
        lambda: fitted.sample(50, random_state=0),
        lambda: fitted.trajectory(rows, n_between=1),
    ]
    content = pickle.dumps(fitted)
    expected = [task() for task in tasks]
    before = process_state()
    results = at_once(2 * tasks)
    assert process_state() == before
    assert pickle.dumps(fitted) == content
    for result, one in zip(results, 2 * expected, strict=True):
        np.testing.assert_array_equal(result, one)


@pytest.mark.usefixtures("often_switching")
def test_newtons_method_in_threads(monkeypatch):
    """Where corrections do not invert a block, derivatives in forward mode do."""
    from skjko.flow import ode

    without_corrections = partial(ode._solve_step, n_corrections=0)
    monkeypatch.setattr(ode, "_solve_step", without_corrections)
    fitted = quick().fit(X)
    Z = fitted.transform(X)
    expected = fitted.inverse_transform(Z)
    np.testing.assert_allclose(expected, X, rtol=1e-6, atol=1e-6)
    for result in at_once(4 * [lambda: fitted.inverse_transform(Z)]):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.usefixtures("often_switching")
def test_threads_that_use_one_detector_get_the_same_answers():
    fitted = detector().fit(X)
    tasks = [
        lambda: fitted.p_values(X),
        lambda: fitted.predict(X),
        lambda: fitted.explain(X[:5]),
        lambda: fitted.hdr_threshold(0.9, 200),
    ]
    expected = [task() for task in tasks]
    for result, one in zip(at_once(2 * tasks), 2 * expected, strict=True):
        np.testing.assert_array_equal(result, one)


# ------------------------------------------------------------------- forks

needs_fork = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="there are no forks on this system"
)


def run_script(body, **environment):
    """Run a script in a process of its own, for it might hang."""
    # From Python 3.12 on a fork beside threads is warned of; here it is what is tested.
    head = """
import multiprocessing, os, sys, threading, warnings
import numpy as np
import torch
from skjko import JKOFlowDensity, MLPField
warnings.simplefilter("ignore", DeprecationWarning)
context = multiprocessing.get_context("fork")
def in_child(function, *args):
    receiver, sender = context.Pipe(duplex=False)
    def run():
        sender.send(function(*args))
    child = context.Process(target=run, daemon=True)
    child.start()
    if not receiver.poll(60):
        child.kill()
        sys.exit("the child hangs")
    result = receiver.recv()
    child.join()
    return result
X = np.random.RandomState(0).standard_normal((700, 2))
def quick(sizes):
    return JKOFlowDensity(
        init="gaussian",
        field=MLPField(sizes),
        max_blocks=1,
        max_iter=2,
        early_stopping=False,
        random_state=0,
    )
"""
    done = subprocess.run(
        [sys.executable, "-c", head + body],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr


@needs_fork
def test_a_forked_process_does_not_wait_for_threads_it_lost(tmp_path):
    # Two threads even where there is one processor, or the caller asked for one.
    run_script(
        """
torch.set_num_threads(2)
density = quick((64, 64)).fit(X)
path = os.environ["MODEL"]
density.save(path)
def use():
    again = quick((64, 64)).fit(X)
    *_, staged = density.staged_score_samples(X)
    return {
        "scores": density.score_samples(X),
        "staged": staged,
        "latent": density.transform(X),
        "sample": density.sample(700, random_state=0),
        "fitted": again.score_samples(X),
        "loaded": JKOFlowDensity.load(path).score_samples(X),
        "threads": torch.get_num_threads(),
    }
expected, found = use(), in_child(use)
assert found["threads"] == 2, found["threads"]
for name in expected:
    np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-6)
""",
        MODEL=str(tmp_path / "model"),
        # Where all processors are busy, threads that spin while they wait take minutes.
        OMP_WAIT_POLICY="passive",
    )


@needs_fork
def test_a_fork_waits_for_derivatives_under_way():
    """Or the child would wait for a thread that it does not have."""
    run_script(
        """
density = quick((8, 8, 8)).fit(X)
expected = density.score_samples(X[:10])
stop = threading.Event()
def work():
    while not stop.is_set():
        density.score_samples(X[:200])
thread = threading.Thread(target=work)
thread.start()
try:
    for _ in range(3):
        found = in_child(density.score_samples, X[:10])
        np.testing.assert_array_equal(found, expected)
finally:
    stop.set()
    thread.join()
""",
        OMP_NUM_THREADS="1",
    )
