"""Training samples with missing values, completed before the training."""

# SPDX-License-Identifier: BSD-3-Clause

import math
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skjko.data import chunks
from skjko.data.columns import column_name
from skjko.missing import Proposal
from skjko.support import Support
from skjko.transforms.asinh import Asinh
from skjko.transforms.base import Chain, Transform
from skjko.transforms.marginals import MarginalMixtures
from skjko.transforms.whitening import Whitening
from skjko.typing import Floats

# First one Gaussian, then mixtures, are fitted and missing values drawn again, so many
# times, on so many samples.
_N_GAUSSIANS, _N_MIXTURES, _N_SAMPLES = 10, 4, 10_000
# Floating-point operations of each of these mixtures.
_OPERATIONS = 3e9
# Directions with so small a deviation, in those of the features, and the share of a
# feature that is in one.
_NARROW, _SHARE = 1e-6, 1e-3
# Fewer complete samples do not train alone; more do if the others cost so much.
_LEAST_SAMPLES, _STANDARD_ERRORS = 100, 2.0


def filled(X: NDArray[Any], rng: np.random.RandomState) -> Floats:
    """Return samples with missing values drawn from those of their feature.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        With NaN for missing values; not all of a feature.
    rng : RandomState

    Returns
    -------
    X : ndarray of shape (n_samples, n_features)
        In float64.
    """
    complete = chunks.empty(X.shape, np.float64)
    complete[:] = X
    for j in range(X.shape[1]):
        missing = np.isnan(complete[:, j])
        if missing.any():
            values = complete[~missing, j]
            complete[missing, j] = values[rng.randint(len(values), size=missing.sum())]
    return complete


def complete(
    X: NDArray[Any],
    weight: Floats,
    X_val: NDArray[Any] | None,
    support: Support,
    rng: np.random.RandomState,
    names: list | None = None,
    seconds: float = math.inf,
) -> tuple[Floats, Floats | None, NDArray[np.bool_]]:
    """Return training and validation samples with missing values drawn.

    Given the observed values, by a mixture of Gaussians behind maps of single
    features: it is fitted to completed samples, and completes them again, in turn.
    What relations such mixtures lack is then lacking in the completed samples, too.
    They train unless a mixture fitted to all samples is worse, beyond noise, than one
    fitted to those that came complete: by the likelihood of observed values of held-out
    samples.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        In data units, with NaN for missing values, in random order.
    weight : ndarray of shape (n_samples,)
    X_val : ndarray of shape (n_val_samples, n_features) or None
    support : Support
    rng : RandomState
    names : list, optional
        Of the features, for messages.
    seconds : float
        After which no other round begins.

    Returns
    -------
    X : ndarray of shape (n_training_samples, n_features)
    X_val : ndarray of shape (n_val_samples, n_features) or None
    trains : ndarray of bool of shape (n_samples,)
        Whether a sample should train.

    Raises
    ------
    ValueError
        If what is missing follows from the others.
    """
    end = time.monotonic() + seconds
    some, share = np.asarray(X[:_N_SAMPLES], dtype=float), weight[:_N_SAMPLES]
    rows, whole = filled(some, rng), ~np.isnan(some).any(axis=1)
    # Whether complete samples tell a covariance.
    is_told = whole.sum() > 2 * X.shape[1]
    ordered = np.setdiff1d(np.arange(X.shape[1]), support.nominal)
    seen = np.isnan(some).any(axis=0)
    # Observed values may be no picture of all: what bends features to it comes
    # behind the rounds in which linear relations have said what is missing.
    stages: list[tuple[Transform, int, float]] = [
        (Asinh(), _N_GAUSSIANS, 0.0),
        (MarginalMixtures(ordered), _N_MIXTURES, _OPERATIONS),
    ]
    for step, n_rounds, operations in stages:
        U = support.dequantize(rows, rng)
        maps = Chain([*support.maps, step]).fit(U, share)
        for i in range(n_rounds):
            U, by = support.dequantize(rows, rng), np.full(len(rows), True)
            # Complete samples first: from values drawn by themselves rounds take long
            # where many are missing.
            if i == 0 and operations == 0 and is_told:
                by = whole
            proposal = Proposal.fit(maps, U[by], share[by], seen, operations)
            rows = proposal.draw(support, some, rng)
            if time.monotonic() > end:
                break
    trains = np.ones(len(X), dtype=bool)
    U = support.dequantize(rows, rng)
    if is_told:
        Y = Chain(support.maps).forward(U[whole])[0]
        _check_directions(Y, share[whole], seen, names)
    if not _pays(maps, U, share, np.isnan(some)):
        for where, part in chunks.in_float64(X):
            trains[where] = ~np.isnan(part).any(axis=1)
    validation = None if X_val is None else proposal.draw(support, X_val, rng)
    completed = proposal.draw(support, chunks.select(X, trains), rng)
    return completed, validation, trains


def _check_directions(
    Y: Floats, weight: Floats, seen: NDArray[np.bool_], names: list | None
) -> None:
    """Raise a ValueError if features with missing values are sums of others.

    The density in such a direction is as good as infinite, and where a value is missing
    there is no telling how far.
    """
    whitening = Whitening().fit(Y, weight)
    narrow = np.abs(whitening.vectors_[:, whitening.deviation_ < _NARROW])
    for j in np.flatnonzero(seen & np.any(narrow > _SHARE, axis=1)):
        raise ValueError(
            f"X contains NaN in {column_name(names, j)}, of which the other values "
            "follow from other columns, as a multiple or a sum of them. Fill it in by "
            "these, or leave the column out."
        )


def _pays(maps: Chain, U: Floats, weight: Floats, missing: NDArray[np.bool_]) -> bool:
    """Whether a mixture loses nothing beyond noise by samples that are not complete."""
    n, seen = len(U) // 4, np.any(missing, axis=0)
    whole = np.flatnonzero(~np.any(missing, axis=1))
    there = np.where(missing, np.nan, U)[:n]
    scores = []
    for rows in (np.arange(n, len(U)), whole[whole >= n]):
        if len(rows) < _LEAST_SAMPLES:
            return True
        mixture = Proposal.fit(maps, U[rows], weight[rows], seen, _OPERATIONS)
        scores.append(mixture.log_marginal(there))
    gains, share = scores[0] - scores[1], weight[:n] / weight[:n].sum()
    mean = share @ gains
    error = np.sqrt(np.square(share) @ np.square(gains - mean))
    return bool(mean > -_STANDARD_ERRORS * error)
