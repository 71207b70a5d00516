"""How far densities, round trips and latent positions are from what they should be."""

# SPDX-License-Identifier: BSD-3-Clause

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import chi2, kstwo, norm
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch, check_array
from sklearn.utils._param_validation import HasMethods, validate_params

from skjko.typing import Floats, typed


def _check_log_densities(values: ArrayLike, name: str) -> Floats:
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
            f"{name} must be one log-density for each sample, of shape (n_samples,). "
            f"Got shape {values.shape} instead."
        )
    n_nan, n_inf = np.isnan(values).sum(), np.isposinf(values).sum()
    if n_nan or n_inf:
        raise ValueError(
            f"{name} must be log-densities, finite or -inf. "
            f"Got NaN in {n_nan} samples and +inf in {n_inf} samples instead."
        )
    return values


def _mean_and_error(values: Floats) -> tuple[float, float]:
    """Mean and its standard error; an infinite mean has an infinite one."""
    mean = float(values.mean())
    if np.isinf(mean):
        return mean, np.inf
    return mean, float(values.std(ddof=1) / np.sqrt(len(values)))


# ---------------------------------------------------------------- two samples


def kl_divergence(log_p: ArrayLike, log_q: ArrayLike) -> tuple[float, float]:
    """Estimate the Kullback-Leibler divergence KL(p || q) from log-densities.

    The samples have to be drawn from p. Scoring the same samples under both densities
    takes most of the noise out of the difference: an honest estimate is negative only
    within its standard error.

    Parameters
    ----------
    log_p : array-like of shape (n_samples,)
        True log-densities of samples drawn from p, in nats. At least two samples.
    log_q : array-like of shape (n_samples,)
        Log-densities of the same samples under the model, in nats and the same units of
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
        If the lengths differ, there are fewer than two samples, one of them is NaN or
        +inf, or p itself has no mass at a sample.

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
            f"log_q must score the same samples as log_p, which has {len(log_p)}. "
            f"Got {len(log_q)} instead."
        )
    n_impossible = np.isneginf(log_p).sum()
    if n_impossible:
        raise ValueError(
            "log_p must be finite at samples drawn from p. "
            f"Got -inf in {n_impossible} samples instead."
        )
    return _mean_and_error(log_p - log_q)


@typed(
    validate_params(
        {"density": [HasMethods("score_samples")]}, prefer_skip_nested_validation=True
    )
)
def generalization_gap(
    density: Any, X_train: ArrayLike, X_val: ArrayLike
) -> tuple[float, float]:
    """Compute by how much a density scores its training samples above others.

    Parameters
    ----------
    density : object with `score_samples`
        A fitted density estimator.
    X_train : array-like of shape (n_train_samples, n_features)
        Samples that it was fitted on. At least two.
    X_val : array-like of shape (n_val_samples, n_features)
        Samples of the same distribution that played no part in fitting, stopping or
        tuning. At least two.

    Returns
    -------
    gap : float
        Mean log-density of the training samples minus that of the others, in nats: the
        overfit. Infinite where a score is -inf, NaN if that happens on both sides.
    standard_error : float
        Standard error of the gap, in nats, for independent samples and the density as
        it is; infinite where a score is -inf.

    Raises
    ------
    ValueError
        If `density` has no `score_samples`, there are fewer than two samples, or a
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


@typed(
    validate_params(
        {"density": [HasMethods(["transform", "inverse_transform"])]},
        prefer_skip_nested_validation=True,
    )
)
def round_trip_error(density: Any, X: ArrayLike) -> float:
    """Compute how far samples end up from where they were after going there and back.

    Parameters
    ----------
    density : object with `transform` and `inverse_transform`
        A fitted density estimator, or any fitted invertible map.
    X : array-like of shape (n_samples, n_features)
        Samples in the units of the data fitted.

    Returns
    -------
    error : float
        Root mean square of `inverse_transform(transform(X)) - X` over all samples and
        features, every feature in units of its standard deviation in `X`, and in its
        own units if it is constant. Infinite if something comes back that is not
        finite.

    Raises
    ------
    ValueError
        If `density` lacks one of the methods, the data hold NaN or infinity, or the
        samples come back in another shape.

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
    # As it was handed in: the density may know its features by name.
    after = np.asarray(density.inverse_transform(density.transform(X)))
    if after.shape != before.shape:
        raise ValueError(
            f"The samples must come back in the shape of X, {before.shape}. "
            f"Got {after.shape} instead."
        )
    if not np.isfinite(after).all():
        return np.inf
    # The scaler knows a constant feature from one that varies by more than rounding.
    scale = StandardScaler().fit(before).scale_
    return float(np.sqrt(np.mean(np.square((after - before) / scale))))


def _kolmogorov_smirnov(U: Floats) -> Floats:
    """Largest distance of each feature's distribution from the uniform on [0, 1]."""
    U = np.sort(U, axis=0)
    steps = np.arange(len(U) + 1)[:, np.newaxis] / len(U)
    return np.maximum(steps[1:] - U, U - steps[:-1]).max(axis=0)


def latent_normality(Z: ArrayLike) -> Bunch:
    """Measure how far latent samples are from the standard normal distribution.

    Four distances, each blind to what another one sees, and p-values under the null
    hypothesis of independent standard normal samples where they are exact. They are
    valid for samples that the model was not fitted on.

    Parameters
    ----------
    Z : array-like of shape (n_samples, n_features)
        Latent samples, as `transform` returns them for held-out data. At least two.

    Returns
    -------
    result : Bunch
        With the attributes

        mean : float
            Euclidean length of the mean sample; about `sqrt(n_features / n_samples)` by
            chance.
        mean_p_value : float
            From the chi-square distribution of its square.
        covariance : float
            Largest distance from 1 of the variance along any direction: the spectral
            norm of the covariance less the identity. By chance about
            `2 * r + r**2`, where `r = sqrt(n_features / n_samples)` [1]_; it has no
            simple exact null distribution, hence no p-value.
        kolmogorov_smirnov : float
            Largest distance between the distribution function of a feature and the
            normal one, over all features.
        kolmogorov_smirnov_p_value : float
            From the exact distribution for one feature, times the number of features
            (Bonferroni), at most 1.
        radius : float
            Distance between the distribution function of the squared lengths of the
            samples and that of a chi-square variable with n_features degrees of
            freedom.
        radius_p_value : float
            From the exact distribution of that distance.

    Raises
    ------
    ValueError
        If `Z` holds NaN or infinity, or fewer than two samples.

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
