"""From a data frame to flagged rows, with p-values and reasons.

The breast cancer table of scikit-learn: half of the benign tumours are what is normal,
and the detector has never seen a malignant one. It is asked which of the other rows are
unusual, how sure that is, and by which columns.
"""

# SPDX-License-Identifier: BSD-3-Clause

import numpy as np
from scipy.stats import false_discovery_control
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import make_scorer, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skjko import JKOFlowOutlierDetector

COLUMNS = [f"mean {name}" for name in ("radius", "texture", "smoothness", "symmetry")]


def novelties():
    """Flag malignant tumours by what is usual for benign ones."""
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    X = X[COLUMNS]
    normal, rest = train_test_split(X[y == 1], test_size=0.5, random_state=0)
    malignant = X[y == 0]

    # A quarter of the normal rows does not train, so that p-values hold.
    detector = JKOFlowOutlierDetector(calibration_fraction=0.25, random_state=0)
    detector.fit(normal)
    for name, rows in (("benign", rest), ("malignant", malignant)):
        flagged = (detector.predict(rows) == -1).mean()
        print(f"{name:10} {flagged:6.1%} flagged at a false-alarm rate of 5 %")

    p = detector.p_values(malignant)
    alarms = (false_discovery_control(p) <= 0.1).sum()
    print(f"{alarms} of {len(p)} flagged with at most 10 % of the flags false\n")

    strangest = malignant.iloc[np.argsort(detector.score_samples(malignant))[:3]]
    print("Nats that the strangest rows would gain from another value of one column:")
    print(detector.explain(strangest).round(1).to_string())
    print("The values:")
    print(strangest.round(2).to_string())
    print("The most likely ones, given the other columns:")
    print(detector.most_likely_values(strangest).round(2).to_string(), "\n")


def tuned_pipeline():
    """Choose a parameter behind another step, where some labels are known."""
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    # Every tenth row is an outlier, in training too.
    rows = np.r_[np.flatnonzero(y == 1), np.flatnonzero(y == 0)[:40]]
    X, y = X.iloc[rows][COLUMNS], np.where(y.iloc[rows] == 1, 1, -1)
    pipeline = make_pipeline(
        FunctionTransformer(np.log, feature_names_out="one-to-one"),
        JKOFlowOutlierDetector(max_iter=100, random_state=0),
    )
    search = GridSearchCV(
        pipeline,
        {"jkoflowoutlierdetector__trim": [0.0, 0.2]},
        scoring=make_scorer(roc_auc_score, response_method="decision_function"),
        # For detectors KFold is the default, without shuffling.
        cv=StratifiedKFold(2, shuffle=True, random_state=0),
    ).fit(X, y)
    for trim, auroc in zip(
        (0.0, 0.2), search.cv_results_["mean_test_score"], strict=True
    ):
        print(f"trained with outliers, trim={trim}: AUROC {auroc:.3f}")


if __name__ == "__main__":
    novelties()
    tuned_pipeline()
