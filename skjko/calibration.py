"""From scores to p-values and thresholds, with the help of samples set aside for it."""

# SPDX-License-Identifier: BSD-3-Clause

import math

import numpy as np
from scipy.stats import ks_2samp

from skjko.typing import Floats

# Products of two numbers of samples up to which the distribution of the statistic of
# Kolmogorov and Smirnov is the exact one: beyond, the asymptotic one is as good.
_MOST_FOR_EXACT = 1_000_000
# In place of minus infinity, where values are interpolated.
_LOWEST = -1e300


def conformal_p_values(scores: Floats, calibration: Floats) -> Floats:
    """Split-conformal p-values: how rarely a normal sample scores as low as these.

    If a sample and the calibration samples are exchangeable and the scoring function
    has seen none of them, the p-value of the sample is at most a with probability at
    most a, for every a, whatever the distribution and however bad the model [1]_. The
    probability is over the calibration samples too: with one fixed calibration set of n
    samples the false alarm rate is a Beta variable around a, of standard deviation
    about sqrt(a (1 - a) / n).

    Parameters
    ----------
    scores : ndarray of shape (n_samples,)
        Higher is more normal.
    calibration : ndarray of shape (n_calibration,)
        Scores of the calibration samples, sorted.

    Returns
    -------
    p : ndarray of shape (n_samples,)
        (1 + number of calibration scores that are no higher) / (n_calibration + 1).

    References
    ----------
    .. [1] S. Bates, E. Candes, L. Lei, Y. Romano, M. Sesia, "Testing for outliers with
       conformal p-values", Annals of Statistics 51(1), 2023.
    """
    n_lower = np.searchsorted(calibration, scores, side="right")
    return (1 + n_lower) / (len(calibration) + 1)


def median_and_spread(scores: Floats) -> tuple[float, float]:
    """Median of scores, and its distance to their lower quartile, their spread.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Finite or -inf.

    Returns
    -------
    median, spread : float
        The spread is 1 where it would be zero, and the median 0 where none is finite.
    """
    finite = scores[np.isfinite(scores)]
    if not len(finite):
        return 0.0, 1.0
    lower, median = np.quantile(finite, [0.25, 0.5])
    return float(median), float(median - lower) or 1.0


def false_alarm_threshold(calibration: Floats, rate: float) -> float:
    """Score below which the conformal p-value is at most `rate`.

    Parameters
    ----------
    calibration : ndarray of shape (n_calibration,)
        Sorted scores.
    rate : float
        Between 0 and 1.

    Returns
    -------
    threshold : float
        A calibration score, or -inf where no score can have so small a p-value: that
        takes at least 1 / rate - 1 calibration samples.
    """
    # The product may fall short of the integer that it is by rounding.
    k = math.floor(rate * (len(calibration) + 1) * (1 + 1e-12))
    return float(calibration[k - 1]) if k > 0 else -math.inf


def two_sample_test(new: Floats, usual: Floats) -> tuple[float, float]:
    """Two-sample test of Kolmogorov and Smirnov; ties make its p-value larger.

    Parameters
    ----------
    new : ndarray of shape (n,)
    usual : ndarray of shape (m,)
        Finite or -inf, as the others.

    Returns
    -------
    statistic, p_value : float
        The largest difference between the two distribution functions, and how often it
        is as large for two samples of one distribution.
    """
    is_small = len(new) * len(usual) <= _MOST_FOR_EXACT
    result = ks_2samp(new, usual, method="exact" if is_small else "asymp")
    return float(result.statistic), float(result.pvalue)


def threshold_of(calibration: Floats, rate: float) -> tuple[float, str | None]:
    """Threshold of a detector for a rate of false alarms, and what to warn of.

    Parameters
    ----------
    calibration : ndarray of shape (n_calibration,)
        Sorted scores.
    rate : float
        Between 0 and 1.

    Returns
    -------
    threshold : float
        The lowest score where there are too few for the rate.
    warning : str or None
    """
    threshold = false_alarm_threshold(calibration, rate)
    if threshold > -math.inf:
        return threshold, None
    n, needed = len(calibration), math.ceil(1 / rate) - 1
    if n >= needed:
        return threshold, (
            f"{np.isneginf(calibration).sum()} of {n} calibration samples have a "
            "log-density of -inf, as outside of the bounds. That is more than a "
            f"false_alarm_rate of {rate} allows, and no sample is an outlier now. "
            "Correct or drop them, or fit with wider bounds."
        )
    return float(calibration[0]), (
        f"{n} calibration samples are too few for a false_alarm_rate of {rate}: that "
        f"takes {needed}. The threshold is the lowest of their scores."
    )


def weighted_quantile(values: Floats, weight: Floats, q: float) -> float:
    """Quantile of weighted values; for equal weights that of NumPy.

    A value stands at the weight of those before it, in shares of the total without one
    mean weight, and between values the quantile is linear.

    Parameters
    ----------
    values : ndarray of shape (n,)
        Finite or -inf.
    weight : ndarray of shape (n,)
        Positive.
    q : float
        Between 0 and 1.

    Returns
    -------
    quantile : float
    """
    order = np.argsort(values, kind="stable")
    # Between infinite values, or sums of the largest weights, there would be NaN.
    values, weight = np.maximum(values[order], _LOWEST), weight[order] / weight.max()
    if (weight == weight[0]).all():
        quantile = float(np.quantile(values, q))
    else:
        position = np.cumsum(weight) - 0.5 * weight
        position -= position[0]
        quantile = float(np.interp(q * position[-1], position, values))
    return -math.inf if quantile <= _LOWEST / 2 else quantile
