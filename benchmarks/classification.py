"""Classifiers on scikit-learn's own tables: log-loss, accuracy, "none of these".

Means over the folds of a stratified cross-validation. With one class left out of the
training samples (each of the first three in turn), the area under the ROC curve tells
how well samples of it are told from those of the other classes: by the log-density of
JKOFlowClassifier, and by the largest probability of the others.

    OMP_NUM_THREADS=1 python -m benchmarks.classification --tables iris,wine
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import time
import warnings

import numpy as np
from sklearn import datasets
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skjko import JKOFlowClassifier, JKOFlowDensity

METHODS = {
    "JKOFlowClassifier": lambda: JKOFlowClassifier(random_state=0),
    "no blocks": lambda: JKOFlowClassifier(
        JKOFlowDensity(max_blocks=0, init="gaussian", transforms=None), random_state=0
    ),
    "HistGradientBoosting": lambda: HistGradientBoostingClassifier(random_state=0),
    "logistic regression": lambda: make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=1000)
    ),
    "QDA": lambda: QuadraticDiscriminantAnalysis(reg_param=0.1),
    "GaussianNB": GaussianNB,
}


def usual(model, X):
    """Return a score that is low for samples of none of the classes."""
    if hasattr(model, "temperature_"):
        return model.score_samples(X)
    return model.predict_proba(X).max(axis=1)


def results(name, method, n_folds, n_left_out):
    """Return log-loss, accuracy, area under the curve, and seconds of a fit."""
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    rows, areas, start = [], [], time.process_time()
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=0)
    for train, test in folds.split(X, y):
        model = METHODS[method]().fit(X[train], y[train])
        probability = np.clip(model.predict_proba(X[test]), 1e-15, 1)
        probability /= probability.sum(axis=1, keepdims=True)
        rows.append((log_loss(y[test], probability), model.score(X[test], y[test])))
    seconds = (time.process_time() - start) / n_folds
    train, test = next(folds.split(X, y))
    # One class alone has no other to be told from, but by its density.
    for left_out in np.unique(y)[:n_left_out] if len(np.unique(y)) > 2 else []:
        some = train[y[train] != left_out]
        model = METHODS[method]().fit(X[some], y[some])
        areas.append(roc_auc_score(y[test] != left_out, usual(model, X[test])))
    return np.array(rows), areas, seconds


def main():
    """Run, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", default="iris,wine,breast_cancer,digits")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--left-out", type=int, default=3, help="classes, one by one")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| table | method | log-loss | accuracy | AUROC left out | seconds |")
    print("|---|---|---|---|---|---|")
    for name in options.tables.split(","):
        for method in options.methods.split(","):
            rows, areas, seconds = results(
                name, method, options.folds, options.left_out
            )
            error = rows[:, 0].std(ddof=1) / np.sqrt(len(rows))
            area = f"{np.mean(areas):.3f}" if areas else "-"
            print(
                f"| {name} | {method} | {rows[:, 0].mean():.3f} ± {error:.3f} "
                f"| {rows[:, 1].mean():.3f} | {area} | {seconds:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
