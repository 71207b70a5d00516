"""How far samples, densities and latent positions are from what they should be.

Arrays in, numbers out. Everything here judges rows that an estimator has not seen; on
the rows that trained it, the answers flatter.
"""

# SPDX-License-Identifier: BSD-3-Clause

from numbers import Integral, Real

import numpy as np
from scipy.spatial.distance import cdist, pdist
from scipy.stats import chi2, kstwo, norm
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch, check_array, check_random_state, gen_batches
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    StrOptions,
    validate_params,
)

__all__ = [
    "generalization_gap",
    "kl_divergence",
    "latent_normality",
    "mmd",
    "mmd_test",
    "round_trip_error",
    "sliced_wasserstein",
]

# Numbers in one block of a kernel matrix, or of projections: 16 megabytes.
_BLOCK_SIZE = 2**21

# Rows whose pairwise distances make up the median. Their two million distances leave
# it uncertain by about a percent.
_MEDIAN_ROWS = 2000

# What summation in another order may change in a squared MMD, whose terms are of
# order one. Statistics this close are ties.
_ROUNDING = 1e-12

_BANDWIDTH = [Interval(Real, 0, None, closed="neither"), StrOptions({"median"})]


def _check_samples(X, Y):
    X = check_array(X, dtype=np.float64, input_name="X")
    Y = check_array(Y, dtype=np.float64, input_name="Y")
    if X.shape[1] != Y.shape[1]:
        raise ValueError(
            f"Y must have as many features as X, which has {X.shape[1]}. "
            f"Got {Y.shape[1]} instead."
        )
    return X, Y


def _check_log_densities(values, name):
    """Return a float64 vector of at least two; -inf is the only value not finite."""
    values = check_array(
        values,
        dtype=np.float64,
        ensure_2d=False,
        ensure_all_finite=False,
        ensure_min_samples=2,
        input_name=name,
    )
    if values.ndim != 1:
        raise ValueError(
            f"{name} must be one log-density a row, of shape (n_samples,). "
            f"Got shape {values.shape} instead."
        )
    n_nan, n_inf = np.isnan(values).sum(), np.isposinf(values).sum()
    if n_nan or n_inf:
        raise ValueError(
            f"{name} must be log-densities, finite or -inf. "
            f"Got NaN in {n_nan} rows and +inf in {n_inf} rows instead."
        )
    return values


def _mean_and_error(values):
    """Mean and its standard error; an infinite mean has an infinite one."""
    mean = float(values.mean())
    if np.isinf(mean):
        return mean, np.inf
    return mean, float(values.std(ddof=1) / np.sqrt(len(values)))


# ---------------------------------------------------------------- two samples


def _resolve_bandwidth(bandwidth, Z):
    if bandwidth != "median":
        return float(bandwidth)
    if len(Z) > _MEDIAN_ROWS:
        # Chosen by their place in the sorted sample, so that neither the order of the
        # rows nor their labels matter: permutation tests stay exact.
        Z = Z[np.lexsort(Z.T[::-1])]
        Z = Z[np.linspace(0, len(Z) - 1, _MEDIAN_ROWS).astype(int)]
    median = float(np.median(pdist(Z)))
    if not 0 < median < np.inf:
        raise ValueError(
            "bandwidth='median' needs a median distance between rows that is positive "
            f"and finite. Got {median} instead; give the bandwidth as a float."
        )
    return 0.1 * median


def _contrast(n, m):
    """Weights of the pooled rows whose quadratic form in the kernel is the MMD."""
    return np.concatenate([np.full(n, 1 / n), np.full(m, -1 / m)])


def _quadratic_forms(Z, bandwidth, A):
    """Return a' K a for every column a of A, with the kernel matrix K of Z's rows."""
    # Differences before squares, as cdist takes them: expanding |x - y|^2 into products
    # would be wrong where the bandwidth is small beside |x|.
    Z = Z / bandwidth
    forms = np.zeros(A.shape[1])
    for rows in gen_batches(len(Z), max(1, _BLOCK_SIZE // len(Z))):
        K = cdist(Z[rows], Z[rows.start :], "sqeuclidean")
        K *= -0.5
        np.exp(K, out=K)
        # K is symmetric: what stands right of the diagonal block counts for what
        # stands below it as well.
        K[:, len(K) :] *= 2
        forms += np.einsum("ij,ij->j", A[rows], K @ A[rows.start :])
    return forms


@validate_params({"bandwidth": _BANDWIDTH}, prefer_skip_nested_validation=True)
def mmd(X, Y, *, bandwidth="median"):
    """Compute the squared maximum mean discrepancy between two samples.

    With the Gaussian kernel k(x, y) = exp(-|x - y|^2 / (2 bandwidth^2)), this is the
    squared distance between the mean embeddings of the two samples, the biased
    V-statistic [1]_ ::

        mean k(x, x') - 2 mean k(x, y) + mean k(y, y')

    where pairs of a row with itself are included. It is 0 for equal samples and at most
    2. For different samples of the same distribution it is not 0 but, if the kernel is
    narrow, about 1/n + 1/m: `mmd_test` tells what is larger than chance.

    Parameters
    ----------
    X : array-like of shape (n_samples_X, n_features)
        The first sample.
    Y : array-like of shape (n_samples_Y, n_features)
        The second sample, in the same units.
    bandwidth : float or "median", default="median"
        Width of the kernel, in the units of the data. "median" is 0.1 times the median
        distance between the pooled rows, the convention of the experiments in [2]_;
        beyond 2000 rows, between 2000 of them, evenly spaced in the sorted sample.

    Returns
    -------
    mmd : float
        Squared maximum mean discrepancy, without unit.

    Raises
    ------
    ValueError
        If the data hold NaN or infinity, the numbers of features differ, the bandwidth
        is not positive, or "median" finds that half of the distances are zero.

    See Also
    --------
    mmd_test : Whether the discrepancy is larger than chance.

    Notes
    -----
    Values are comparable only at the same bandwidth. The default one suits two or three
    columns; distances vary so little in many more that none of them is within a
    tenth of the median, and the kernel then sees each row alone.

    Time is quadratic in the number of rows, memory is not.

    References
    ----------
    .. [1] A. Gretton, K. M. Borgwardt, M. J. Rasch, B. Schölkopf, A. Smola, "A kernel
       two-sample test", JMLR 13, 2012. Section 2.2, the biased estimate, squared.
    .. [2] C. Xu, X. Cheng, Y. Xie, "Normalizing flow neural networks by JKO scheme",
       NeurIPS 2023.

    Examples
    --------
    Two point masses at distance r: 2 - 2 exp(-r^2 / 2).

    >>> from skjko.metrics import mmd
    >>> round(mmd([[0.0]], [[2.0]], bandwidth=1.0), 4)
    1.7293
    """
    X, Y = _check_samples(X, Y)
    Z = np.concatenate([X, Y])
    weights = _contrast(len(X), len(Y))[:, np.newaxis]
    (value,) = _quadratic_forms(Z, _resolve_bandwidth(bandwidth, Z), weights)
    return max(float(value), 0.0)


@validate_params(
    {
        "bandwidth": _BANDWIDTH,
        "level": [Interval(Real, 0, 1, closed="neither")],
        "n_permutations": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def mmd_test(
    X, Y, *, bandwidth="median", level=0.05, n_permutations=999, random_state=None
):
    """Test whether two samples have the same distribution.

    The statistic is that of `mmd`. Its distribution under the null hypothesis is that
    of the same statistic after random exchanges of rows between the two samples, so
    the level is exact for any sample size. One pass over the kernel matrix of the
    pooled rows serves all the permutations.

    Parameters
    ----------
    X : array-like of shape (n_samples_X, n_features)
        The first sample: independent rows.
    Y : array-like of shape (n_samples_Y, n_features)
        The second sample, in the same units and independent of the first.
    bandwidth : float or "median", default="median"
        Width of the kernel, as in `mmd`. A float should not come from these rows,
        unless it treats both samples alike.
    level : float, default=0.05
        Probability of rejecting when the distributions are the same.
    n_permutations : int, default=999
        Number of random permutations, at least 1 / level - 1. They take 8 bytes of
        memory each for every row of `X` and `Y`.
    random_state : int, RandomState instance or None, default=None
        Source of the permutations. Pass an int for a reproducible test.

    Returns
    -------
    result : Bunch
        With the attributes

        statistic : float
            Squared maximum mean discrepancy.
        threshold : float
            The test rejects when the statistic is above this value, which is the same
            as `p_value <= level`.
        p_value : float
            Share of the permutations, and of the identity with them, whose statistic
            is at least the observed one. Never 0 [2]_.
        bandwidth : float
            Width of the kernel that was used, in the units of the data.

    Raises
    ------
    ValueError
        If the data are not as `mmd` needs them, or a parameter is out of its range.

    References
    ----------
    .. [1] A. Gretton, K. M. Borgwardt, M. J. Rasch, B. Schölkopf, A. Smola, "A kernel
       two-sample test", JMLR 13, 2012.
    .. [2] B. Phipson, G. K. Smyth, "Permutation p-values should never be zero",
       Statistical Applications in Genetics and Molecular Biology 9(1), 2010.

    Examples
    --------
    >>> from skjko.datasets import moons, rings
    >>> from skjko.metrics import mmd_test
    >>> X = moons().sample(200, random_state=0)
    >>> same = moons().sample(200, random_state=1)
    >>> other = rings().sample(200, random_state=1)
    >>> mmd_test(X, same, random_state=0).p_value > 0.05
    True
    >>> mmd_test(X, other, random_state=0).p_value
    0.001
    """
    # The largest number of exceedances, the observed statistic included, that rejects.
    p_values = np.arange(1, n_permutations + 2) / (n_permutations + 1)
    n_rejecting = int(np.sum(p_values <= level))
    if n_rejecting == 0:
        raise ValueError(
            "The 'n_permutations' parameter of mmd_test must be at least 1 / level - 1 "
            f"= {1 / level - 1:g}, or no p-value could reach the level. "
            f"Got {n_permutations} instead."
        )
    X, Y = _check_samples(X, Y)
    Z = np.concatenate([X, Y])
    bandwidth = _resolve_bandwidth(bandwidth, Z)

    rng = check_random_state(random_state)
    A = np.empty((len(Z), n_permutations + 1), order="F")
    A[:, 0] = _contrast(len(X), len(Y))
    for k in range(1, n_permutations + 1):
        A[:, k] = rng.permutation(A[:, 0])
    statistic, *permuted = _quadratic_forms(Z, bandwidth, A)
    # Few distinct rows give many ties, which rounding must not turn into rejections.
    permuted = np.sort(permuted) + _ROUNDING
    n_exceeding = 1 + int(np.sum(permuted >= statistic))
    return Bunch(
        statistic=max(float(statistic), 0.0),
        threshold=float(permuted[-n_rejecting]),
        p_value=float(p_values[n_exceeding - 1]),
        bandwidth=bandwidth,
    )


def _common_pieces(n, m):
    """Pieces on which the quantile functions of n and of m values are constant.

    Returns, for every piece, the index of the value among the n sorted ones, that among
    the m sorted ones, and the length of the piece.
    """
    # Counted in units of 1 / (n m): integers, which no rounding can tell apart.
    ends = np.union1d(
        np.arange(1, n + 1, dtype=np.int64) * m, np.arange(1, m + 1, dtype=np.int64) * n
    )
    return (ends - 1) // m, (ends - 1) // n, np.diff(ends, prepend=0) / (n * m)


@validate_params(
    {
        "n_projections": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def sliced_wasserstein(X, Y, *, n_projections=1000, random_state=None):
    """Compute the sliced Wasserstein distance of order 2 between two samples.

    The root mean square, over random directions, of the Wasserstein distance between
    the two samples projected on a line [1]_. There it is the distance between the
    quantile functions, which is computed exactly, for any numbers of rows.

    Parameters
    ----------
    X : array-like of shape (n_samples_X, n_features)
        The first sample.
    Y : array-like of shape (n_samples_Y, n_features)
        The second sample, in the same units.
    n_projections : int, default=1000
        Number of random directions. The result's relative standard error is below
        `(2 * n_projections) ** -0.5` for samples that differ by a shift.
    random_state : int, RandomState instance or None, default=None
        Source of the directions. Pass the same int wherever values are compared.

    Returns
    -------
    distance : float
        Sliced Wasserstein distance, in the units of the data. For a single column, the
        Wasserstein distance itself; for n_features columns and a shift by c,
        |c| / sqrt(n_features) up to the error above.

    Raises
    ------
    ValueError
        If the data hold NaN or infinity, the numbers of features differ, or a parameter
        is out of its range.

    Notes
    -----
    Samples of the same distribution are not at distance 0 either; compare with that
    between two samples of the data.

    References
    ----------
    .. [1] N. Bonneel, J. Rabin, G. Peyré, H. Pfister, "Sliced and Radon Wasserstein
       barycenters of measures", Journal of Mathematical Imaging and Vision 51, 2015.

    Examples
    --------
    >>> from skjko.metrics import sliced_wasserstein
    >>> sliced_wasserstein([[0.0], [1.0]], [[5.0], [6.0], [5.0], [6.0]])
    5.0
    """
    X, Y = _check_samples(X, Y)
    in_X, in_Y, lengths = _common_pieces(len(X), len(Y))
    rng = check_random_state(random_state)
    directions = rng.standard_normal((n_projections, X.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    total = 0.0
    for batch in gen_batches(n_projections, max(1, _BLOCK_SIZE // len(lengths))):
        x = np.sort(directions[batch] @ X.T, axis=1)[:, in_X]
        y = np.sort(directions[batch] @ Y.T, axis=1)[:, in_Y]
        total += (np.square(x - y) @ lengths).sum()
    return float(np.sqrt(total / n_projections))


# ---------------------------------------------------------------- log-densities


def kl_divergence(log_p, log_q):
    """Estimate the Kullback-Leibler divergence KL(p || q) from log-densities.

    The rows have to be drawn from p. Scoring the same rows under both densities takes
    most of the noise out of the difference: an honest estimate is negative only within
    its standard error.

    Parameters
    ----------
    log_p : array-like of shape (n_samples,)
        True log-densities of rows drawn from p, in nats. At least two rows.
    log_q : array-like of shape (n_samples,)
        Log-densities of the same rows under the model, in nats and the same units of
        the data; -inf where the model has no mass.

    Returns
    -------
    divergence : float
        Mean of `log_p - log_q`, in nats; infinite if any of `log_q` is -inf.
    standard_error : float
        Standard error of the mean, in nats; infinite with the divergence.

    Raises
    ------
    ValueError
        If the lengths differ, there are fewer than two rows, one of them is NaN or
        +inf, or p itself has no mass at a row.

    References
    ----------
    .. [1] S. Kullback, R. A. Leibler, "On information and sufficiency", Annals of
       Mathematical Statistics 22, 1951.

    Examples
    --------
    >>> from skjko.datasets import eight_gaussians, moons
    >>> from skjko.metrics import kl_divergence
    >>> p, q = moons(sigma=0.1), moons(sigma=0.2)
    >>> X = p.sample(1000, random_state=0)
    >>> kl, standard_error = kl_divergence(p.score_samples(X), q.score_samples(X))
    >>> kl > 5 * standard_error
    True
    """
    log_p = _check_log_densities(log_p, "log_p")
    log_q = _check_log_densities(log_q, "log_q")
    if len(log_p) != len(log_q):
        raise ValueError(
            f"log_q must score the same rows as log_p, which has {len(log_p)}. "
            f"Got {len(log_q)} instead."
        )
    n_impossible = np.isneginf(log_p).sum()
    if n_impossible:
        raise ValueError(
            "log_p must be finite at rows drawn from p. "
            f"Got -inf in {n_impossible} rows instead."
        )
    return _mean_and_error(log_p - log_q)


@validate_params(
    {"density": [HasMethods("score_samples")]}, prefer_skip_nested_validation=True
)
def generalization_gap(density, X_train, X_val):
    """Compute by how much a density scores its training rows above others.

    Parameters
    ----------
    density : object with `score_samples`
        A fitted density estimator.
    X_train : array-like of shape (n_train_samples, n_features)
        Rows that it was fitted on. At least two.
    X_val : array-like of shape (n_val_samples, n_features)
        Rows of the same distribution that played no part in fitting, stopping or
        tuning. At least two.

    Returns
    -------
    gap : float
        Mean log-density of the training rows minus that of the others, in nats: the
        overfit. Infinite where a score is -inf, NaN if that happens on both sides.
    standard_error : float
        Standard error of the gap, in nats, for independent samples and the density as
        it is; infinite where a score is -inf.

    Raises
    ------
    ValueError
        If `density` has no `score_samples`, a sample has fewer than two rows, or a
        score is NaN or +inf.

    Examples
    --------
    >>> from sklearn.neighbors import KernelDensity
    >>> from skjko.datasets import moons
    >>> from skjko.metrics import generalization_gap
    >>> X = moons().sample(400, random_state=0)
    >>> narrow = KernelDensity(bandwidth=0.02).fit(X[:200])
    >>> gap, standard_error = generalization_gap(narrow, X[:200], X[200:])
    >>> gap > 5 * standard_error
    True
    """
    (train_mean, train_error), (val_mean, val_error) = (
        _mean_and_error(_check_log_densities(density.score_samples(X), name))
        for X, name in [
            (X_train, "The scores of X_train"),
            (X_val, "The scores of X_val"),
        ]
    )
    return train_mean - val_mean, float(np.hypot(train_error, val_error))


# ---------------------------------------------------------------- invertible maps


@validate_params(
    {"density": [HasMethods(["transform", "inverse_transform"])]},
    prefer_skip_nested_validation=True,
)
def round_trip_error(density, X):
    """Compute how far rows end up from where they were after going there and back.

    Parameters
    ----------
    density : object with `transform` and `inverse_transform`
        A fitted density estimator, or any fitted invertible map.
    X : array-like of shape (n_samples, n_features)
        Rows in the units of the data fitted.

    Returns
    -------
    error : float
        Root mean square of `inverse_transform(transform(X)) - X` over all rows and
        columns, every column in units of its standard deviation in `X`, and in its own
        units if it is constant. Infinite if something comes back that is not finite.

    Raises
    ------
    ValueError
        If `density` lacks one of the methods, the data hold NaN or infinity, or the
        rows come back in another shape.

    Examples
    --------
    >>> from sklearn.preprocessing import PowerTransformer
    >>> from skjko.datasets import moons
    >>> from skjko.metrics import round_trip_error
    >>> X = moons().sample(100, random_state=0)
    >>> round_trip_error(PowerTransformer().fit(X), X) < 1e-12
    True
    """
    before = check_array(X, dtype=np.float64, input_name="X")
    # As it was handed in: the density may know its columns by name.
    after = np.asarray(density.inverse_transform(density.transform(X)))
    if after.shape != before.shape:
        raise ValueError(
            f"The rows must come back in the shape of X, {before.shape}. "
            f"Got {after.shape} instead."
        )
    if not np.isfinite(after).all():
        return np.inf
    # The scaler knows a constant column from one that varies by more than rounding.
    scale = StandardScaler().fit(before).scale_
    return float(np.sqrt(np.mean(np.square((after - before) / scale))))


def _kolmogorov_smirnov(U):
    """Largest distance of each column's distribution from the uniform on [0, 1]."""
    U = np.sort(U, axis=0)
    steps = np.arange(len(U) + 1)[:, np.newaxis] / len(U)
    return np.maximum(steps[1:] - U, U - steps[:-1]).max(axis=0)


def latent_normality(Z):
    """Measure how far latent rows are from the standard normal distribution.

    Four distances, each blind to what another one sees, and p-values under the null
    hypothesis of independent standard normal rows where they are exact. They are valid
    for rows that the model was not fitted on.

    Parameters
    ----------
    Z : array-like of shape (n_samples, n_features)
        Latent rows, as `transform` returns them for held-out data. At least two.

    Returns
    -------
    result : Bunch
        With the attributes

        mean : float
            Euclidean length of the mean row; about `sqrt(n_features / n_samples)` by
            chance.
        mean_p_value : float
            From the chi-square distribution of its square.
        covariance : float
            Largest distance from 1 of the variance along any direction: the spectral
            norm of the covariance less the identity. By chance about
            `2 * r + r**2`, where `r = sqrt(n_features / n_samples)` [1]_; it has no
            simple exact null distribution, hence no p-value.
        kolmogorov_smirnov : float
            Largest distance between the distribution function of a column and the
            normal one, over all columns.
        kolmogorov_smirnov_p_value : float
            From the exact distribution for one column, times the number of columns
            (Bonferroni), at most 1.
        radius : float
            Distance between the distribution function of the squared lengths of the
            rows and that of a chi-square variable with n_features degrees of freedom.
        radius_p_value : float
            From the exact distribution of that distance.

    Raises
    ------
    ValueError
        If `Z` holds NaN or infinity, or fewer than two rows.

    References
    ----------
    .. [1] Z. D. Bai, Y. Q. Yin, "Limit of the smallest eigenvalue of a large
       dimensional sample covariance matrix", Annals of Probability 21, 1993.

    Examples
    --------
    >>> import numpy as np
    >>> from skjko.metrics import latent_normality
    >>> Z = np.random.RandomState(0).standard_normal((1000, 3))
    >>> latent_normality(Z).radius_p_value > 0.05
    True
    >>> latent_normality(1.2 * Z).radius_p_value < 0.001
    True
    """
    Z = check_array(Z, dtype=np.float64, input_name="Z", ensure_min_samples=2)
    n, d = Z.shape
    mean = float(np.linalg.norm(Z.mean(axis=0)))
    covariance = np.cov(Z, rowvar=False).reshape(d, d)
    marginal = float(_kolmogorov_smirnov(norm.cdf(Z)).max())
    squared_length = np.square(Z).sum(axis=1, keepdims=True)
    (radius,) = _kolmogorov_smirnov(chi2.cdf(squared_length, d))
    return Bunch(
        mean=mean,
        mean_p_value=float(chi2.sf(n * mean**2, d)),
        covariance=float(np.abs(np.linalg.eigvalsh(covariance) - 1).max()),
        kolmogorov_smirnov=marginal,
        kolmogorov_smirnov_p_value=float(min(1.0, d * kstwo.sf(marginal, n))),
        radius=float(radius),
        radius_p_value=float(kstwo.sf(radius, n)),
    )
