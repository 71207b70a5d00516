"""Intervals for the progress of a disease, for each patient their own.

A conditional density is fitted to scikit-learn's diabetes table. Its intervals are
compared with those of a linear regression with Gaussian noise, which are equally wide
for all patients.
"""

# SPDX-License-Identifier: BSD-3-Clause

import numpy as np
from scipy.stats import norm
from sklearn.datasets import load_diabetes
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import train_test_split

from skjko import JKOFlowConditionalDensity


def main():
    """Fit, and print scores, coverage and some patients."""
    X, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)

    # The target is positive: intervals do not reach below zero.
    model = JKOFlowConditionalDensity(bounds=(0, None), random_state=0)
    model.fit(X_train, y_train)
    print(model.summary(), end="\n\n")

    linear = RidgeCV().fit(X_train, y_train)
    sigma = np.std(y_train - linear.predict(X_train))
    mean = linear.predict(X_test)
    gaussian = norm.logpdf(y_test, mean, sigma).mean()
    half = norm.ppf(0.95) * sigma

    low, high = model.predict_interval(X_test, coverage=0.9).T
    print(f"{'':20}{'log p(y | x)':>14}{'coverage':>10}{'mean width':>12}")
    for name, score, a, b in (
        ("ridge, Gaussian", gaussian, mean - half, mean + half),
        ("conditional density", model.score(X_test, y_test), low, high),
    ):
        inside = ((a <= y_test) & (y_test <= b)).mean()
        print(f"{name:20}{score:14.3f}{inside:10.1%}{(b - a).mean():12.1f}")

    print("\npatient  progress  mean   90 % interval   P(progress > 200)")
    above = 1 - model.cdf(X_test, np.full(len(X_test), 200.0))
    predicted = model.predict(X_test)
    for i in np.argsort(high - low)[[0, len(low) // 2, -1]]:
        print(
            f"{X_test.index[i]:7}{y_test.iloc[i]:10.0f}{predicted[i]:6.0f}"
            f"{low[i]:9.0f} to {high[i]:.0f}{above[i]:14.2f}"
        )


if __name__ == "__main__":
    main()
