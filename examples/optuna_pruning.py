"""Tune a density with Optuna, and prune trials after every block.

Optuna draws parameters, and a callback reports the validation score of the density
after every block. A trial that falls behind the others is given up. Needs optuna, and
scikit-learn 1.9 or later. It takes about two minutes on one CPU core.
"""

# SPDX-License-Identifier: BSD-3-Clause

import sys

from skjko import JKOFlowDensity, JKOSchedule, MLPField
from skjko.datasets import rose

try:
    import optuna
except ImportError:
    sys.exit("This example needs optuna. Install it with: pip install optuna")


class Pruning:
    """Reports validation scores after every block, and ends trials that fall behind."""

    def __init__(self, trial):
        self.trial = trial

    def setup(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if context.task_name == "block" and fitted_estimator is not None:
            score = fitted_estimator.validation_scores_[-1]
            self.trial.report(score, step=fitted_estimator.n_blocks_)
            if self.trial.should_prune():
                raise optuna.TrialPruned

    def teardown(self, estimator, context):
        pass


def score(trial, X, X_val):
    """Return the validation score of a density with parameters of a trial."""
    width = trial.suggest_categorical("width", [8, 16, 32, 64])
    density = JKOFlowDensity(
        init="gaussian",
        transforms=None,
        field=MLPField((width, width)),
        schedule=JKOSchedule(step_size=trial.suggest_float("step_size", 0.1, 2.0)),
        learning_rate_init=trial.suggest_float("rate", 1e-3, 3e-2, log=True),
        max_blocks=4,
        max_iter=100,
        random_state=0,
    )
    density.set_callbacks(Pruning(trial)).fit(X, X_val=X_val)
    return density.validation_scores_[-1]


if __name__ == "__main__":
    X = rose().sample(2000, random_state=0)
    X_val = rose().sample(1000, random_state=1)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=3)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    study.optimize(lambda trial: score(trial, X, X_val), n_trials=12)
    n_pruned = sum(t.state == optuna.trial.TrialState.PRUNED for t in study.trials)
    print(f"{n_pruned} of {len(study.trials)} trials were pruned")
    print(f"best: {study.best_value:.4f} nats with {study.best_params}")
