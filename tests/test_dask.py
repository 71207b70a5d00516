"""Scores of dask collections, and searches on a dask cluster."""

# SPDX-License-Identifier: BSD-3-Clause

import numpy as np
import pandas as pd
import pytest
from helpers import killed_once, quick
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import GridSearchCV

from skjko import JKOFlowDensity, JKOFlowOutlierDetector

pytest.importorskip("dask.dataframe")
import dask
import dask.array as da
import dask.dataframe as dd

from skjko.dask import predict, score_samples, transform

RNG = np.random.RandomState(0)
X = RNG.standard_normal((120, 2)) @ [[1.0, 0.5], [0.0, 1.0]]
FRAME = pd.DataFrame(X, columns=["a", "b"], index=np.arange(120) + 7)


@pytest.fixture(autouse=True)
def in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def density():
    return quick(max_blocks=1, early_stopping=False).fit(FRAME)


@pytest.fixture(scope="module")
def detector():
    return JKOFlowOutlierDetector(density=quick(max_blocks=0), random_state=0).fit(X)


def test_array(detector):
    # Features in two chunks as well; the last chunk of rows is short.
    lazy = da.from_array(X, chunks=(50, 1))
    scores = score_samples(detector, lazy)
    assert scores.chunks == ((50, 50, 20),)
    assert_allclose(scores.compute(), detector.score_samples(X))
    labels = predict(detector, lazy)
    assert labels.dtype == int
    assert_array_equal(labels.compute(), detector.predict(X))


def test_latent_positions_of_an_array():
    density = quick(max_blocks=0).fit(X)
    lazy = transform(density, da.from_array(X, chunks=(50, 2)))
    assert lazy.shape == X.shape
    assert_allclose(lazy.compute(), density.transform(X))


def test_frame(density):
    lazy = dd.from_pandas(FRAME, npartitions=3)
    scores = score_samples(density, lazy)
    assert scores.npartitions == lazy.npartitions
    expected = pd.Series(density.score_samples(FRAME), FRAME.index)
    pd.testing.assert_series_equal(scores.compute(), expected, check_names=False)
    Z = transform(density, lazy).compute()
    assert list(Z.columns) == list(density.get_feature_names_out())
    assert_allclose(Z, density.transform(FRAME))
    assert_array_equal(Z.index, FRAME.index)


def test_partition_without_rows(density):
    lazy = dd.from_pandas(FRAME, npartitions=3)
    few = lazy[lazy["a"] > FRAME["a"].quantile(0.99)]
    assert len(score_samples(density, few).compute()) == 2


def test_nothing_is_computed_and_one_partition_at_a_time(density):
    sizes = []

    def load(rows):
        sizes.append(len(rows))
        return rows

    lazy = da.from_array(X, chunks=(40, 2)).map_blocks(
        load, dtype=float, meta=np.empty((0, 2))
    )
    scores = score_samples(quick(max_blocks=0).fit(X), lazy)
    assert sizes == []
    scores.compute()
    assert sizes == [40, 40, 40]


def test_errors_of_a_partition_name_the_column(density):
    bad = FRAME.copy()
    bad.loc[60, "b"] = np.nan
    lazy = score_samples(density, dd.from_pandas(bad, npartitions=3))
    with pytest.raises(ValueError, match="'b'"):
        lazy.compute()


def test_what_is_no_dask_collection(density):
    with pytest.raises(TypeError, match="Got a ndarray instead"):
        score_samples(density, X)
    with pytest.raises(ValueError, match="3 dimensions"):
        score_samples(density, da.zeros((2, 2, 2)))


@pytest.mark.slow
def test_search_and_scores_on_a_cluster_of_two_workers():
    distributed = pytest.importorskip("distributed")
    search = GridSearchCV(quick(max_blocks=0), {"init": ["gaussian", "mixture"]}, cv=3)
    expected = search.fit(X).cv_results_["mean_test_score"]
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        with parallel_config("dask"):
            search.fit(X)
        assert_allclose(search.cv_results_["mean_test_score"], expected)
        best = search.best_estimator_
        scores = score_samples(best, da.from_array(X, chunks=(30, 2)))
        assert_allclose(client.compute(scores).result(), best.score_samples(X))
    assert isinstance(best, JKOFlowDensity)


@pytest.mark.slow
def test_a_killed_worker_costs_its_task_and_not_the_search(tmp_path):
    distributed = pytest.importorskip("distributed")
    path = tmp_path / "killed"
    search = GridSearchCV(
        killed_once(path).set_params(max_blocks=0),
        {"init": ["gaussian", "mixture"]},
        cv=3,
    )
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
        # Every worker has X: it would be lost with the only one that has it.
        parallel_config("dask", scatter=[X]),
    ):
        found = search.fit(X).cv_results_["mean_test_score"]
    assert path.exists()
    assert_allclose(found, search.fit(X).cv_results_["mean_test_score"])
