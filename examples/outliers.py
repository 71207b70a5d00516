"""From a data frame to flagged samples, with p-values and reasons.

Half of the benign tumours of scikit-learn's breast cancer table train an outlier
detector that never sees a malignant one. Of the other samples it says which are
outliers, with which p-values, and because of which features.
"""

# SPDX-License-Identifier: BSD-3-Clause

import numpy as np
from scipy.stats import false_discovery_control
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import make_scorer, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skjko import JKOFlowDensity, JKOFlowOutlierDetector, MLPField

FEATURES = [f"mean {name}" for name in ("radius", "texture", "smoothness", "symmetry")]


def novelty_detection():
    """Train on benign tumours, and detect malignant ones."""
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    X = X[FEATURES]
    X_train, benign = train_test_split(X[y == 1], test_size=0.5, random_state=0)
    malignant = X[y == 0]

    # A quarter of the training samples calibrates the p-values.
    detector = JKOFlowOutlierDetector(calibration_fraction=0.25, random_state=0)
    detector.fit(X_train)
    print(f"Novelty detection: {len(X_train)} training samples, {X.shape[1]} features")
    for name, samples in (("benign", benign), ("malignant", malignant)):
        n_outliers = (detector.predict(samples) == -1).sum()
        share = n_outliers / len(samples)
        print(f"{name:10}{n_outliers:4} of {len(samples)} are outliers ({share:.1%})")
    p = detector.p_values(malignant)
    n_discoveries = (false_discovery_control(p) <= 0.1).sum()
    print(
        f"malignant {n_discoveries:4} of {len(p)} are outliers "
        "at a false discovery rate of 10 %"
    )

    lowest = malignant.iloc[np.argsort(detector.score_samples(malignant))[:3]]
    print("\nThe three malignant samples of the lowest score:")
    print(lowest.round(2).to_string())
    print("Gain in score if one feature had its best value:")
    print(detector.explain(lowest).round(1).to_string())
    print("Most likely value of each feature, given the others:")
    print(detector.most_likely_values(lowest).round(2).to_string())


def tuned_pipeline():
    """Tune `trim` by labels, in a pipeline whose training samples have outliers."""
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    # 40 malignant samples among 357 benign ones.
    rows = np.r_[np.flatnonzero(y == 1), np.flatnonzero(y == 0)[:40]]
    X, y = X.iloc[rows][FEATURES], np.where(y.iloc[rows] == 1, 1, -1)
    # Everything about the flow is in `density`. With early_stopping=False all samples
    # train.
    density = JKOFlowDensity(
        init="gaussian",
        field=MLPField((64, 64)),
        max_blocks=1,
        max_iter=100,
        batch_size=250,
        learning_rate_init=0.02,
        early_stopping=False,
    )
    search = GridSearchCV(
        make_pipeline(
            FunctionTransformer(np.log, feature_names_out="one-to-one"),
            JKOFlowOutlierDetector(density=density, random_state=0),
        ),
        {"jkoflowoutlierdetector__trim": [0.0, "auto", 0.1]},
        scoring=make_scorer(roc_auc_score, response_method="decision_function"),
        # KFold, the default for outlier detectors, neither stratifies nor shuffles.
        cv=StratifiedKFold(2, shuffle=True, random_state=0),
    ).fit(X, y)
    print(f"\nPipeline: {len(X)} samples, {(y == -1).sum()} of them outliers")
    results = search.cv_results_
    for params, auroc in zip(
        results["params"], results["mean_test_score"], strict=True
    ):
        trim = params["jkoflowoutlierdetector__trim"]
        print(f"trim={trim}: AUROC {auroc:.3f}")


if __name__ == "__main__":
    novelty_detection()
    tuned_pipeline()
