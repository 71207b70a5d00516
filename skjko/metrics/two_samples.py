"""Distances of two samples, and a test whether they are of one distribution."""

# SPDX-License-Identifier: BSD-3-Clause

from numbers import Integral, Real
from typing import Literal

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist, pdist
from sklearn.utils import Bunch, check_array, check_random_state, gen_batches
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from skjko.typing import Floats, Seed, typed

# Numbers in one block of a kernel matrix, or of projections: 16 megabytes.
_BLOCK_SIZE = 2**21

# Points whose pairwise distances make up the median. Their two million distances leave
# it uncertain by about a percent.
_MEDIAN_ROWS = 2000

# What summation in another order may change in a squared MMD, whose terms are of
# order one. Statistics this close are ties.
_ROUNDING = 1e-12

_BANDWIDTH = [Interval(Real, 0, None, closed="neither"), StrOptions({"median"})]


def _labels(X: ArrayLike, name: str) -> list[str]:
    """Labels of a data frame, which has to have numbers; none of anything else."""
    frame = nw.from_native(X, pass_through=True)
    types = frame.schema if isinstance(frame, nw.DataFrame) else {}
    kinds = (nw.String, nw.Categorical, nw.Enum)
    wrong = [
        repr(label)
        for label, dtype in types.items()
        if isinstance(dtype, kinds) or dtype.is_temporal()
    ]
    if wrong:
        raise ValueError(
            f"{name} has text, categories or dates in these columns: "
            f"{', '.join(wrong)}. Distances need numbers. Encode the columns in X and "
            "Y alike, as by sklearn.preprocessing.OneHotEncoder, and scale the others; "
            "or leave them out."
        )
    return list(types)


def _check_samples(X: ArrayLike, Y: ArrayLike) -> tuple[Floats, Floats]:
    of_X, of_Y = _labels(X, "X"), _labels(Y, "Y")
    if of_X != of_Y and set(of_X) == set(of_Y):
        raise ValueError(
            f"Y must have its columns in the order of X, {of_X}. Got {of_Y} instead."
        )
    X = check_array(X, dtype=np.float64, input_name="X")
    Y = check_array(Y, dtype=np.float64, input_name="Y")
    if X.shape[1] != Y.shape[1]:
        raise ValueError(
            f"Y must have as many features as X, which has {X.shape[1]}. "
            f"Got {Y.shape[1]} instead."
        )
    return X, Y


def _resolve_bandwidth(bandwidth: float | Literal["median"], Z: Floats) -> float:
    if bandwidth != "median":
        return float(bandwidth)
    if len(Z) > _MEDIAN_ROWS:
        # Chosen by their place in the sorted sample, so that neither the order of the
        # points nor their labels matter: permutation tests stay exact.
        Z = Z[np.lexsort(Z.T[::-1])]
        Z = Z[np.linspace(0, len(Z) - 1, _MEDIAN_ROWS).astype(int)]
    median = float(np.median(pdist(Z)))
    if not 0 < median < np.inf:
        raise ValueError(
            "bandwidth='median' needs a median distance between points that is "
            f"positive and finite. Got {median} instead; give the bandwidth as a float."
        )
    return 0.1 * median


def _contrast(n: int, m: int) -> Floats:
    """Weights of the pooled points whose quadratic form in the kernel is the MMD."""
    return np.concatenate([np.full(n, 1 / n), np.full(m, -1 / m)])


def _quadratic_forms(Z: Floats, bandwidth: float, A: Floats) -> Floats:
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


@typed(validate_params({"bandwidth": _BANDWIDTH}, prefer_skip_nested_validation=True))
def mmd(
    X: ArrayLike, Y: ArrayLike, *, bandwidth: float | Literal["median"] = "median"
) -> float:
    """Compute the squared maximum mean discrepancy between two samples.

    With the Gaussian kernel k(x, y) = exp(-|x - y|^2 / (2 bandwidth^2)), this is the
    squared distance between the mean embeddings of the two samples, the biased
    V-statistic [1]_ ::

        mean k(x, x') - 2 mean k(x, y) + mean k(y, y')

    where pairs of a point with itself are included. It is 0 for equal samples and at
    most 2. For different samples of the same distribution it is not 0 but, if the
    kernel is narrow, about 1/n + 1/m: `mmd_test` tells what is larger than chance.

    Parameters
    ----------
    X : array-like of shape (n_samples_X, n_features)
        The first sample.
    Y : array-like of shape (n_samples_Y, n_features)
        The second sample, in the same units.
    bandwidth : float or "median", default="median"
        Width of the kernel, in the units of the data. "median" is 0.1 times the median
        distance between the pooled points, the convention of the experiments in [2]_;
        beyond 2000 points, between 2000 of them, evenly spaced in the sorted sample.

    Returns
    -------
    mmd : float
        Squared maximum mean discrepancy, without unit.

    Raises
    ------
    ValueError
        If the data hold NaN, infinity, text or dates, the numbers of features or the
        order of the columns differ, the bandwidth is not positive, or "median" finds
        that half of the distances are zero.

    See Also
    --------
    mmd_test : Whether the discrepancy is larger than chance.

    Notes
    -----
    Values are comparable only at the same bandwidth. The default one suits two or three
    features; distances vary so little in many more that none of them is within a
    tenth of the median, and the kernel then sees each point alone.

    Time is quadratic in the number of points, memory is not.

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


@typed(
    validate_params(
        {
            "bandwidth": _BANDWIDTH,
            "level": [Interval(Real, 0, 1, closed="neither")],
            "n_permutations": [Interval(Integral, 1, None, closed="left")],
            "random_state": ["random_state"],
        },
        prefer_skip_nested_validation=True,
    )
)
def mmd_test(
    X: ArrayLike,
    Y: ArrayLike,
    *,
    bandwidth: float | Literal["median"] = "median",
    level: float = 0.05,
    n_permutations: int = 999,
    random_state: Seed = None,
) -> Bunch:
    """Test whether two samples have the same distribution.

    The statistic is that of `mmd`. Its distribution under the null hypothesis is that
    of the same statistic after random exchanges of points between the two samples, so
    the level is exact for any sample size. One pass over the kernel matrix of the
    pooled points serves all the permutations.

    Parameters
    ----------
    X : array-like of shape (n_samples_X, n_features)
        The first sample, of independent points.
    Y : array-like of shape (n_samples_Y, n_features)
        The second sample, in the same units and independent of the first.
    bandwidth : float or "median", default="median"
        Width of the kernel, as in `mmd`. A float should not come from these points,
        unless it treats both samples alike.
    level : float, default=0.05
        Probability of rejecting when the distributions are the same.
    n_permutations : int, default=999
        Number of random permutations, at least 1 / level - 1. They take 8 bytes of
        memory each for every point of `X` and `Y`.
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
    # Few distinct points give many ties, which rounding must not turn into rejections.
    permuted = np.sort(permuted) + _ROUNDING
    n_exceeding = 1 + int(np.sum(permuted >= statistic))
    return Bunch(
        statistic=max(float(statistic), 0.0),
        threshold=float(permuted[-n_rejecting]),
        p_value=float(p_values[n_exceeding - 1]),
        bandwidth=bandwidth,
    )


def _common_pieces(
    n: int, m: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Pieces on which the quantile functions of n and of m values are constant.

    Returns, for every piece, the index of the value among the n sorted ones, that among
    the m sorted ones, and the length of the piece.
    """
    # Counted in units of 1 / (n m): integers, which no rounding can tell apart.
    ends = np.union1d(
        np.arange(1, n + 1, dtype=np.int64) * m, np.arange(1, m + 1, dtype=np.int64) * n
    )
    return (ends - 1) // m, (ends - 1) // n, np.diff(ends, prepend=0) / (n * m)


@typed(
    validate_params(
        {
            "n_projections": [Interval(Integral, 1, None, closed="left")],
            "random_state": ["random_state"],
        },
        prefer_skip_nested_validation=True,
    )
)
def sliced_wasserstein(
    X: ArrayLike, Y: ArrayLike, *, n_projections: int = 1000, random_state: Seed = None
) -> float:
    """Compute the sliced Wasserstein distance of order 2 between two samples.

    The root mean square, over random directions, of the Wasserstein distance between
    the two samples projected on a line [1]_. There it is the distance between the
    quantile functions, which is computed exactly, for any numbers of points.

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
        Sliced Wasserstein distance, in the units of the data. For a single feature, the
        Wasserstein distance itself; for a shift by c in n_features dimensions,
        |c| / sqrt(n_features) up to the error above.

    Raises
    ------
    ValueError
        If the data hold NaN, infinity, text or dates, the numbers of features or the
        order of the columns differ, or a parameter is out of its range.

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
