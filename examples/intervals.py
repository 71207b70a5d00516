"""Intervals for waiting times, for each customer their own.

Waiting times are skewed, and vary more where they are longer. Their density is known
here: scores, coverage and widths of a conditional density stand between those of the
true one and of gradient boosting with Gaussian noise.
"""

# SPDX-License-Identifier: BSD-3-Clause

import numpy as np
from scipy.stats import gamma, norm
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import cross_val_predict

from skjko import JKOFlowConditionalDensity


def customers(n, seed):
    """Return hour and queue, waiting times, and their true distributions."""
    rng = np.random.default_rng(seed)
    hour, queue = rng.uniform(8, 20, n), rng.poisson(4, n)
    mean = 2 + 1.5 * queue * (1 + 0.5 * np.sin(hour / 2))
    truth = gamma(4.0, scale=mean / 4.0)
    return np.column_stack([hour, queue]), truth.rvs(random_state=rng), truth


def main():
    """Fit, and print scores, coverage, widths and some customers."""
    X, y, _ = customers(1000, seed=0)
    X_test, y_test, truth = customers(1000, seed=1)

    # Times are positive: the density is zero below.
    model = JKOFlowConditionalDensity(bounds=(0, None), random_state=0).fit(X, y)
    print(model.summary(), end="\n\n")

    boosting = HistGradientBoostingRegressor(random_state=0)
    sigma = np.std(y - cross_val_predict(boosting, X, y))
    mean, half = boosting.fit(X, y).predict(X_test), norm.ppf(0.95) * sigma

    low, high = model.predict_interval(X_test, coverage=0.9).T
    print(f"{'':20}{'log p(y | x)':>14}{'coverage':>10}{'mean width':>12}")
    for name, scores, a, b in (
        ("true density", truth.logpdf(y_test), *truth.interval(0.9)),
        ("conditional density", model.score_samples(X_test, y_test), low, high),
        (
            "boosting, Gaussian",
            norm.logpdf(y_test, mean, sigma),
            mean - half,
            mean + half,
        ),
    ):
        inside = ((a <= y_test) & (y_test <= b)).mean()
        print(f"{name:20}{scores.mean():14.3f}{inside:10.1%}{(b - a).mean():12.1f}")

    print("\nhour  queue  waited  mean   90 % interval  P(more than 15)")
    late = 1 - model.cdf(X_test, np.full(len(X_test), 15.0))
    predicted = model.predict(X_test)
    for i in range(5):
        print(
            f"{X_test[i, 0]:4.1f}{X_test[i, 1]:7.0f}{y_test[i]:8.1f}{predicted[i]:6.1f}"
            f"{low[i]:9.1f} to {high[i]:4.1f}{late[i]:14.2f}"
        )


if __name__ == "__main__":
    main()
