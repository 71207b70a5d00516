"""Scores of ray datasets, and searches on a ray cluster."""

# SPDX-License-Identifier: BSD-3-Clause

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from helpers import killed_once, killer, quick
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

from skjko import JKOFlowDensity, JKOFlowOutlierDetector

pytest.importorskip("ray.data")
import ray
from ray.exceptions import RayTaskError
from ray.util.joblib import register_ray

from skjko.ray import predict, score_samples, transform

# ray sorts data frames in a deprecated way of pandas 3.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning:ray"),
]

RNG = np.random.RandomState(0)
X = RNG.standard_normal((120, 2)) @ [[1.0, 0.5], [0.0, 1.0]]
FRAME = pd.DataFrame(X, columns=["a", "b"])


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False):
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield


@pytest.fixture(scope="module")
def density():
    return quick(max_blocks=1, early_stopping=False).fit(FRAME)


@pytest.fixture(scope="module")
def detector():
    return JKOFlowOutlierDetector(density=quick(max_blocks=0), random_state=0).fit(X)


def blocks(frame):
    """Return a dataset of blocks of several sizes."""
    edges = pairwise([0, 47, 80, len(frame)])
    return ray.data.from_pandas([frame.iloc[i:j] for i, j in edges])


def test_columns(density):
    # Columns that the fit has not seen stay, whatever their place.
    frame = FRAME[["b", "a"]].assign(name=[f"row {i}" for i in range(120)])
    scored = score_samples(density, blocks(frame)).to_pandas().sort_values("name")
    assert list(scored.columns) == ["b", "a", "name", "score_samples"]
    expected = frame.assign(score_samples=density.score_samples(FRAME))
    expected = expected.sort_values("name")
    assert_array_equal(scored["name"], expected["name"])
    for column in ["a", "b", "score_samples"]:
        assert_allclose(scored[column].astype(float), expected[column])


def test_tensors(detector):
    labeled = predict(detector, score_samples(detector, ray.data.from_numpy(X)))
    found = labeled.to_pandas()
    assert list(found.columns) == ["data", "score_samples", "predict"]
    rows = np.stack(found["data"])
    assert_allclose(np.sort(rows, axis=0), np.sort(X, axis=0))
    assert_allclose(found["score_samples"].astype(float), detector.score_samples(rows))
    assert found["predict"].dtype.kind == "i"
    assert_array_equal(found["predict"], detector.predict(rows))


def test_latent_positions(density):
    names = list(density.get_feature_names_out())
    found = transform(density, blocks(FRAME)).to_pandas().astype(float)
    assert list(found.columns) == ["a", "b", *names]
    assert_allclose(found[names], density.transform(found[["a", "b"]]))


def test_types_of_parquet(tmp_path):
    # The columns are of pandas in the fit, and of arrow in the tasks.
    frame = FRAME.assign(kind=["u", "v", "w"] * 40, count=np.arange(120) % 5)
    frame["level"] = frame["kind"].astype("category")
    density = quick(max_blocks=0).fit(frame)
    frame.to_parquet(tmp_path / "rows.parquet")
    scored = score_samples(density, ray.data.read_parquet(str(tmp_path)))
    assert_allclose(scored.to_pandas()["score_samples"], density.score_samples(frame))


def test_blocks_without_rows(density):
    def above(limit):
        return blocks(FRAME).map_batches(
            lambda rows: rows[rows["a"] > limit], batch_format="pandas"
        )

    assert score_samples(density, above(FRAME["a"].quantile(0.99))).count() == 2
    assert transform(density, above(1000)).count() == 0


def test_nothing_is_computed_and_one_block_at_a_time(density, tmp_path):
    def load(rows):
        (tmp_path / str(len(rows))).touch()
        return rows

    loaded = blocks(FRAME).map_batches(load, batch_size=None, batch_format="pandas")
    scored = score_samples(density, loaded)
    assert list(tmp_path.iterdir()) == []
    scored.materialize()
    assert {int(path.name) for path in tmp_path.iterdir()} == {33, 40, 47}


def test_estimator_is_stored_once():
    class Counting(JKOFlowDensity):
        def __getstate__(self):
            nonlocal n_copies
            n_copies += 1
            return super().__getstate__()

    n_copies = 0
    density = Counting(max_blocks=0, init="gaussian", transforms=None).fit(FRAME)
    scored = score_samples(density, blocks(FRAME))
    for _ in range(2):
        assert scored.count() == 120
    assert n_copies == 1


def test_errors_of_a_block_name_the_column(density):
    bad = FRAME.copy()
    bad.loc[60, "b"] = np.nan
    with pytest.raises(RayTaskError, match="'b'"):
        score_samples(density, blocks(bad)).materialize()
    with pytest.raises(RayTaskError, match="now missing:\n- b"):
        score_samples(density, blocks(FRAME[["a"]])).materialize()
    twice = score_samples(density, score_samples(density, blocks(FRAME)))
    with pytest.raises(RayTaskError, match="a column 'score_samples' already"):
        twice.materialize()


def test_what_is_refused_before_anything_runs(density):
    with pytest.raises(TypeError, match="Got a ndarray instead"):
        score_samples(density, X)
    with pytest.raises(NotFittedError):
        score_samples(quick(), blocks(FRAME))


def test_a_killed_worker_costs_its_task_and_not_the_scores(density, tmp_path):
    path = tmp_path / "killed"
    kill = killer(path)

    def load(rows):
        kill()
        return rows

    loaded = blocks(FRAME).map_batches(load, batch_format="pandas")
    scores = score_samples(density, loaded).to_pandas()["score_samples"]
    assert path.exists()
    assert_allclose(np.sort(scores), np.sort(density.score_samples(FRAME)))


def search_of(estimator):
    return GridSearchCV(estimator, {"init": ["gaussian", "mixture"]}, cv=3)


def assert_same_results(found, expected):
    assert found.keys() == expected.keys()
    for key in expected:
        if not key.endswith("_time"):
            assert_array_equal(found[key], expected[key])


def test_search_on_a_cluster_of_two_workers():
    register_ray()
    search = search_of(quick(max_blocks=0))
    expected = search.fit(X).cv_results_
    with parallel_config("ray", n_jobs=-1):
        assert_same_results(search.fit(X).cv_results_, expected)


def test_a_killed_worker_costs_its_task_and_not_the_search(tmp_path):
    register_ray()
    path = tmp_path / "killed"
    search = search_of(killed_once(path).set_params(max_blocks=0))
    # The workers are actors, which ray does not restart unless it is told to.
    retry = {"max_restarts": -1, "max_task_retries": -1}
    with parallel_config("ray", n_jobs=-1, ray_remote_args=retry):
        found = search.fit(X).cv_results_
    assert path.exists()
    assert_same_results(found, search.fit(X).cv_results_)
