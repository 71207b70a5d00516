"""Callbacks: the tree of tasks, requests to stop, and scikit-learn's own ones."""

# SPDX-License-Identifier: BSD-3-Clause

import copy
import importlib.util
import pickle

import numpy as np
import pytest
from helpers import quick
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skjko import JKOFlowDensity, JKOFlowOutlierDetector, JKOSchedule
from skjko.callbacks import EarlyStopping, Snapshot
from skjko.datasets import moons

HAVE = importlib.util.find_spec("sklearn.callback") is not None
pytestmark = pytest.mark.skipif(not HAVE, reason="scikit-learn has no callbacks")

X = moons().sample(1100, random_state=0)
PLAIN = {"early_stopping": False, "max_blocks": 3, "max_iter": 5}


class Probe:
    """Takes note of all hooks, as (hook, names of the tasks from the root on)."""

    def __init__(self, stop_at=(), fail_at=None):
        self.seen, self.models, self.given = [], [], []
        self.stop_at, self.fail_at = stop_at, fail_at

    def note(self, hook, context):
        path = []
        while context is not None:
            path.insert(0, context.task_name)
            context = context.parent
        self.seen.append((hook, *path))
        if self.fail_at == (hook, path[-1]):
            raise KeyError("of the hook")
        return path

    def setup(self, estimator, context):
        self.note("setup", context)

    def teardown(self, estimator, context):
        self.note("teardown", context)

    def on_fit_task_begin(self, estimator, context):
        self.note("begin", context)

    def on_fit_task_end(self, estimator, context, *, X, y, metadata, fitted_estimator):
        path = self.note("end", context)
        self.given.append((X, y, metadata))
        if fitted_estimator is not None:
            self.models.append((path[-1], fitted_estimator))
        return (path[-1], len(self.ends(path[-1]))) in self.stop_at

    def ends(self, task):
        return [path for hook, *path in self.seen if hook == "end" and path[-1] == task]


def values(density):
    """Everything that training decides."""
    blocks = [block.get_state() for block in density.flow_.blocks]
    arrays = [v.tobytes() for b in blocks for v in b.values() if hasattr(v, "tobytes")]
    return arrays, density.loss_curve_, density.score_samples(X[:50]).tobytes()


# --------------------------------------------------------------------- task tree


@pytest.mark.parametrize(
    "parameters, n",
    [(PLAIN, 150), ({}, 1100), ({"max_iter": 3}, 120)],
    ids=["all samples", "validation", "cross-validation"],
)
def test_tasks_are_nested_and_end_in_the_reverse_order(parameters, n):
    probe = Probe()
    density = quick(**parameters).set_callbacks(probe).fit(X[:n])
    hooks = [(hook, tuple(path)) for hook, *path in probe.seen]
    assert hooks[0] == ("setup", ("fit",))
    assert hooks[-1] == ("teardown", ("fit",))
    stack = []
    for hook, path in hooks[1:-1]:
        if hook == "begin":
            stack.append(path[-1])
            assert tuple(stack) == path
        else:
            assert tuple(stack) == path
            stack.pop()
    assert stack == []
    assert {p for _, p in hooks} == {
        ("fit",),
        ("fit", "block"),
        ("fit", "block", "iterations"),
    }
    assert density.n_blocks_ >= 1
    assert probe.models[-1][0] == "fit"
    assert [m.n_blocks_ for _, m in probe.models[-density.n_blocks_ - 1 :]] == [
        *range(1, density.n_blocks_ + 1),
        density.n_blocks_,
    ]


def test_blocks_are_told_of_when_they_are_kept():
    probe = Probe()
    density = quick(**PLAIN).set_callbacks(probe).fit(X[:150])
    assert len(probe.ends("block")) == density.n_blocks_ == 3
    assert len(probe.ends("iterations")) == 3 * density.n_iter_per_block_[0]
    for i, model in enumerate(m for task, m in probe.models if task == "block"):
        expected = list(density.staged_score_samples(X[:20]))[i + 1]
        assert model.score_samples(X[:20]) == pytest.approx(expected, abs=1e-2)
        assert model.loss_curve_ == density.loss_curve_[: len(model.loss_curve_)]
        assert model.sample(3).shape == (3, 2)


def test_the_selection_has_its_tasks():
    probe = Probe()
    quick(init="auto", transforms="auto").set_callbacks(probe).fit(X)
    paths = {tuple(path) for hook, *path in probe.seen if hook == "end"}
    assert {("fit", "mixture"), ("fit", "pretraining"), ("fit", "block")} <= paths
    assert ("fit", "pretraining", "iterations") in paths


def test_rounds_that_train_again_give_a_density_when_they_are_over():
    probe = Probe()
    schedule = JKOSchedule(n_refinements=1, n_reparameterizations=0)
    density = quick(**PLAIN, schedule=schedule).set_callbacks(probe).fit(X[:150])
    again = [m for task, m in probe.models if task == "refine"]
    assert len(probe.ends("refine")) == density.n_blocks_ > 3
    assert [m.n_blocks_ for m in again] == [density.n_blocks_]


def test_hooks_get_the_data_as_given_and_copied_weights():
    pandas = pytest.importorskip("pandas")
    probe, weight = Probe(), np.linspace(1, 2, 200)
    frame = pandas.DataFrame({"a": X[:200, 0], "b": X[:200, 1]})
    quick(**PLAIN).set_callbacks(probe).fit(frame, sample_weight=weight)
    for data, y, metadata in probe.given:
        assert data is frame
        assert y.shape == (200,)
        assert metadata["sample_weight"] is not weight
        np.testing.assert_array_equal(metadata["sample_weight"], weight)


# --------------------------------------------------------------------- requests


def test_a_stop_at_an_evaluation_ends_the_block():
    probe = Probe(stop_at={("iterations", 2)})
    density = quick(**PLAIN).set_callbacks(probe).fit(X[:150])
    whole = quick(**PLAIN).fit(X[:150])
    assert density.n_blocks_ == 3
    assert density.n_iter_per_block_.tolist() == [2, 5, 5]
    assert density.loss_curve_[:2] == whole.loss_curve_[:2]


def test_a_stop_at_an_evaluation_keeps_the_best_weights():
    probe = Probe(stop_at={("iterations", 4)})
    quick(max_blocks=1).set_callbacks(probe).fit(X)
    assert probe.ends("iterations")[:5].count(["fit", "block", "iterations"]) == 4
    _, first = probe.models[0]
    assert 1 <= first.n_iter_per_block_[0] <= 4
    assert first.validation_scores_[1] > first.validation_scores_[0]


@pytest.mark.parametrize(
    "parameters, n, n_ends", [(PLAIN, 150, 1), ({}, 1100, 1), ({"max_iter": 3}, 120, 2)]
)
def test_a_stop_at_the_end_of_a_block_ends_the_fit(parameters, n, n_ends, recwarn):
    probe = Probe(stop_at={("block", 1)})
    density = quick(**parameters).set_callbacks(probe).fit(X[:n])
    assert density.n_blocks_ == 1
    # After cross-validation, all samples train the block.
    assert len(probe.ends("block")) == n_ends
    assert len(density.history_) == 1
    assert not [w for w in recwarn if "interrupted" in str(w.message)]


def test_a_stop_within_a_round_that_trains_again_leaves_the_blocks_before():
    schedule = JKOSchedule(n_refinements=1, n_reparameterizations=0)
    probe = Probe(stop_at={("refine", 2)})
    density = quick(**PLAIN, schedule=schedule).set_callbacks(probe).fit(X[:150])
    assert values(density) == values(quick(**PLAIN).fit(X[:150]))
    assert [r.accepted for r in density.history_] == [True, False]


@pytest.mark.parametrize(
    "hook, task",
    [("setup", "fit")]
    + [(h, t) for h in ("begin", "end") for t in ("fit", "block", "iterations")],
)
def test_errors_in_hooks_go_to_the_user_and_callbacks_are_torn_down(hook, task):
    probe = Probe(fail_at=(hook, task))
    with pytest.raises(KeyError, match="of the hook"):
        quick(**PLAIN).set_callbacks(probe).fit(X[:100])
    assert probe.seen[-1] == ("teardown", "fit")
    assert probe.seen[-2][0 :: len(probe.seen[-2]) - 1] == (hook, task)


def test_errors_in_hooks_are_not_taken_for_those_of_a_checkpoint(tmp_path):
    density = quick(**PLAIN, checkpoint=tmp_path).fit(X[:100])
    density.set_callbacks(Probe(fail_at=("end", "block")))
    with pytest.raises(KeyError, match="of the hook"):
        density.fit(X[:100])


def test_a_fit_from_a_checkpoint_tells_of_its_blocks(tmp_path):
    quick(**PLAIN, checkpoint=tmp_path).fit(X[:100])
    probe = Probe()
    quick(**PLAIN, checkpoint=tmp_path).set_callbacks(probe).fit(X[:100])
    assert len(probe.ends("block")) == 3
    assert probe.ends("iterations") == []
    assert [m.n_blocks_ for _, m in probe.models] == [1, 2, 3, 3]


# --------------------------------------------------------------------- no fitted state


@pytest.mark.parametrize("n", [120, 1100])
def test_callbacks_do_not_change_the_model(n):
    probe = Probe()
    settings = {"max_blocks": 1 if n < 1000 else 2, "max_iter": 5}
    watched = quick(**settings).set_callbacks(probe, Snapshot(n_samples=5)).fit(X[:n])
    assert values(watched) == values(quick(**settings).fit(X[:n]))


def test_callbacks_are_no_fitted_state(tmp_path):
    stopping = EarlyStopping(X_val=X[:50])
    density = quick(**PLAIN).set_callbacks(stopping).fit(X[:100])
    assert density.get_params().keys() == quick(**PLAIN).get_params().keys()
    assert not any("callback" in name for name in vars(quick(**PLAIN).fit(X[:100])))
    again = pickle.loads(pickle.dumps(density))
    assert values(again) == values(density)
    assert values(copy.deepcopy(density)) == values(density)
    density.save(tmp_path / "a")
    loaded = JKOFlowDensity.load(tmp_path / "a")
    assert values(loaded) == values(density)
    assert not hasattr(loaded, "_skl_callbacks")
    assert values(clone(density).fit(X[:100])) == values(density)
    density.set_callbacks()
    n_scores = len(stopping.scores_)
    density.fit(X[:100])
    assert len(stopping.scores_) == n_scores


# --------------------------------------------------------------------- scikit-learn's


def mean_log_density(estimator, X, y, sample_weight=None):
    return {"score": estimator.score(X, y, sample_weight)}


def monitor():
    from sklearn.callback import ScoringMonitor

    return ScoringMonitor(scoring=mean_log_density)


def test_the_scoring_monitor_ends_with_the_score():
    one, weight = monitor(), np.linspace(0.5, 2, 150)
    density = quick(**PLAIN).set_callbacks(one)
    density.fit(X[:150], sample_weight=weight)
    log = one.get_logs().data
    assert [row["task_name"] for row in log] == ["fit"] + ["block"] * 3
    score = density.score(X[:150], sample_weight=weight)
    assert score != density.score(X[:150])
    assert log[0]["score"] == log[-1]["score"] == score
    assert log[1]["score"] < log[2]["score"] < score


def test_callbacks_in_a_pipeline():
    one, probe = monitor(), Probe()
    density = quick(**PLAIN).set_callbacks(one, probe)
    pipe = make_pipeline(FunctionTransformer(), density).fit(X[:200])
    assert one.get_logs().data[-1]["score"] == pipe.score(X[:200])
    assert probe.seen[0] == ("setup", "fit", "fit")
    assert probe.ends("block") == [["fit", "fit", "block"]] * 3


class Propagated(Probe):
    max_propagation_depth = None


@pytest.mark.filterwarnings("ignore:The estimator FunctionTransformer does not")
def test_callbacks_of_a_pipeline_are_called_for_the_density():
    probe = Propagated()
    pipe = make_pipeline(FunctionTransformer(), quick(**PLAIN)).set_callbacks(probe)
    pipe.fit(X[:100])
    assert len(probe.ends("block")) == 3
    assert [hook for hook, *_ in probe.seen].count("setup") == 1


def test_the_progress_bar(capsys):
    pytest.importorskip("rich")
    from sklearn.callback import ProgressBar

    quick(**PLAIN).set_callbacks(ProgressBar()).fit(X[:100])
    out = capsys.readouterr().out
    assert "JKOFlowDensity - fit" in out
    assert out.count("JKOFlowDensity - block") >= 3


# --------------------------------------------------------------------- our own


def test_early_stopping_of_a_metric():
    def blocks(estimator, X, y=None):
        assert X is held_out
        return min(estimator.n_blocks_, 2)

    held_out = X[150:200]
    stopping = EarlyStopping(blocks, X_val=held_out)
    brief = {"early_stopping": False, "max_iter": 2, "max_blocks": 6}
    density = quick(**brief).set_callbacks(stopping)
    assert density.fit(X[:150]).n_blocks_ == 3
    assert stopping.scores_ == [1, 2, 2]
    density.set_callbacks(EarlyStopping(blocks, held_out, min_delta=2, patience=3))
    assert density.fit(X[:150]).n_blocks_ == 4


def test_early_stopping_scores_the_training_samples():
    stopping, weight = EarlyStopping(), np.linspace(0, 2, 200)
    density = quick(**PLAIN).set_callbacks(stopping).fit(X[:200], sample_weight=weight)
    assert stopping.scores_[-1] == density.score(X[:200], sample_weight=weight)
    assert len(stopping.scores_) == 3


def test_early_stopping_starts_again_on_all_samples():
    def fewer(estimator, X, y=None):
        return calls.append(estimator.n_blocks_) or len(calls) + estimator.n_blocks_

    calls = []
    density = quick(max_iter=2).set_callbacks(EarlyStopping(fewer)).fit(X[:120])
    assert density.n_blocks_ == 2
    assert calls == [1, 2, 1, 2]
    # Each score was better than the one before, but less than the best of all: 4, 4.
    calls.clear()

    def falling(estimator, X, y=None):
        calls.append(estimator.n_blocks_)
        return estimator.n_blocks_ - 10 * (len(calls) > 2)

    density = quick(max_iter=2).set_callbacks(EarlyStopping(falling)).fit(X[:120])
    assert density.n_blocks_ == 2


def test_snapshots():
    snapshot = Snapshot(X[:30], n_samples=7)
    density = quick(**PLAIN).set_callbacks(snapshot).fit(X[:150])
    assert snapshot.n_blocks_ == [1, 2, 3]
    np.testing.assert_array_equal(snapshot.positions_[-1], density.transform(X[:30]))
    np.testing.assert_array_equal(snapshot.samples_[-1], density.sample(7, 0))
    assert not np.array_equal(snapshot.positions_[0], snapshot.positions_[1])
    density.fit(X[:100])
    assert len(snapshot.samples_) == 3


def test_parameters_of_callbacks_are_checked():
    with pytest.raises(ValueError, match="Snapshot needs X, n_samples, or both"):
        Snapshot()
    with pytest.raises(ValueError, match="'patience' parameter of EarlyStopping"):
        EarlyStopping(patience=0)
    with pytest.raises(TypeError, match="FitCallback"):
        quick().set_callbacks(7)


class TestDetector:
    def detector(self, **parameters):
        return JKOFlowOutlierDetector(
            density=quick(**PLAIN),
            random_state=0,
            calibration_fraction=0.2,
            **parameters,
        )

    def test_its_callbacks_are_called_for_its_density(self):
        probe = Propagated()
        detector = self.detector(trim=0.1).set_callbacks(probe).fit(X[:150])
        paths = [path for hook, *path in probe.seen if hook == "end"]
        assert paths.count(["fit", "fit", "block"]) == 3
        assert paths[-1] == ["fit"]
        assert probe.seen[-1] == ("teardown", "fit")
        last = probe.models[-1][1]
        np.testing.assert_array_equal(last.predict(X[:50]), detector.predict(X[:50]))
        assert not hasattr(detector.density_, "_skl_callbacks")

    def test_callbacks_do_not_change_it(self):
        watched = self.detector().set_callbacks(Propagated()).fit(X[:150])
        scores = self.detector().fit(X[:150]).score_samples(X[:50])
        np.testing.assert_array_equal(watched.score_samples(X[:50]), scores)

    def test_callbacks_of_its_density_are_called(self):
        probe = Probe()
        detector = self.detector()
        detector.density.set_callbacks(probe)
        detector.fit(X[:150])
        assert len(probe.ends("block")) == 3
