"""Some features of a mixture of Gaussians given the others."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from skjko.transforms.mixture_map import MixtureMap
from skjko.typing import Floats

# Of what is missing given the others, in the units of the mixture.
_LEAST_VARIANCE = 1e-14


class MixtureGiven:
    """A mixture, with some of the features given the others.

    Parameters
    ----------
    mixture : MixtureMap
        Of all features.
    covariances : ndarray of shape (n_components, n_features, n_features)
        Of its components.
    missing : ndarray of bool of shape (n_patterns, n_features)
        The features that are not given, of several patterns.

    Examples
    --------
    >>> import numpy as np
    >>> from skjko.transforms.mixture_given import MixtureGiven
    >>> from skjko.transforms.mixture_map import MixtureMap
    >>> mixture = MixtureMap().fit(np.random.default_rng(0).normal(size=(1000, 2)))
    >>> covariances = mixture.factors_ @ mixture.factors_.transpose(0, 2, 1)
    >>> given = MixtureGiven(mixture, covariances, np.array([[False, True]]))
    >>> given.log_marginal(np.zeros((1, 2)), np.array([0])).round(1)
    array([-0.9])
    """

    def __init__(
        self, mixture: MixtureMap, covariances: Floats, missing: NDArray[np.bool_]
    ) -> None:
        self._missing, self._means = missing, mixture.means_
        gone, there = missing.astype(float), (~missing).astype(float)

        def masked(rows: Floats, columns: Floats) -> Floats:
            mask = rows[:, :, np.newaxis] * columns[:, np.newaxis]
            return covariances * mask[:, np.newaxis]

        # Features that do not take part are independent, of unit variance.
        unit = np.eye(missing.shape[1])
        of_gone = (gone[:, :, np.newaxis] * unit)[:, np.newaxis]
        of_there = (there[:, :, np.newaxis] * unit)[:, np.newaxis]
        factor = np.linalg.cholesky(masked(there, there) + of_gone)
        self._inverse = np.linalg.inv(factor).swapaxes(2, 3)
        self._constant = np.log(mixture.weights_) - _log_det(factor)
        self._constant -= 0.5 * math.log(2 * math.pi) * there.sum(axis=1, keepdims=True)
        # Of missing features on the whitened others.
        self._slopes = masked(gone, there) @ self._inverse
        rest = masked(gone, gone) - self._slopes @ self._slopes.swapaxes(2, 3)
        # Rounding may have made a variance that is next to zero negative.
        self._rest = rest + of_there + _LEAST_VARIANCE * of_gone

    @np.errstate(over="ignore")
    def _joint(self, x: Floats, number: NDArray[np.int_]) -> tuple[Floats, Floats]:
        """Whitened values, (n, n_components, n_features), and logs of components."""
        off = x[:, np.newaxis] - self._means
        off = np.where(self._missing[number, np.newaxis], 0.0, off)
        w = (off[:, :, np.newaxis] @ self._inverse[number])[:, :, 0]
        return w, self._constant[number] - 0.5 * np.square(w).sum(axis=2)

    def log_marginal(self, x: Floats, number: NDArray[np.int_]) -> Floats:
        """Return the log-density of the features that are given.

        Parameters
        ----------
        x : ndarray of shape (n, n_features)
            Whose other features may have any value.
        number : ndarray of int of shape (n,)
            The pattern of every sample.

        Returns
        -------
        log_density : ndarray of shape (n,)
            In nats.
        """
        return logsumexp(self._joint(x, number)[1], axis=1)

    @np.errstate(over="ignore", invalid="ignore")
    def draw(
        self, x: Floats, number: NDArray[np.int_], uniform: Floats, normal: Floats
    ) -> tuple[Floats, Floats]:
        """Draw the features that are not given.

        Parameters
        ----------
        x : ndarray of shape (n, n_features)
            Whose other features may have any value.
        number : ndarray of int of shape (n,)
            The pattern of every sample.
        uniform : ndarray of shape (n, n_draws)
            Uniform numbers, which choose the components.
        normal : ndarray of shape (n, n_draws, n_features)
            Standard normal numbers.

        Returns
        -------
        drawn : ndarray of shape (n, n_draws, n_features)
            With the features that are given as they are.
        log_density : ndarray of shape (n, n_draws)
            Of those that are drawn, given the others, in nats.
        """
        w, logs = self._joint(x, number)
        logs -= logsumexp(logs, axis=1)[:, np.newaxis]
        centres = self._means + (self._slopes[number] @ w[..., np.newaxis])[..., 0]
        factor = np.linalg.cholesky(self._rest)
        inverse = np.linalg.inv(factor).swapaxes(2, 3)
        reached = np.exp(logs).cumsum(axis=1)[:, np.newaxis]
        component = (reached[..., :-1] < uniform[..., np.newaxis]).sum(axis=2)
        of_draw = factor[number[:, np.newaxis], component]
        noise = (of_draw @ normal[..., np.newaxis])[..., 0]
        found = centres[np.arange(len(x))[:, np.newaxis], component] + noise
        # Of every draw, in all components.
        missing = self._missing[number]
        off = np.where(
            missing[:, np.newaxis, np.newaxis],
            found[:, np.newaxis] - centres[:, :, np.newaxis],
            0.0,
        )
        off = off @ inverse[number]
        scale = _log_det(factor)
        scale += 0.5 * math.log(2 * math.pi) * self._missing.sum(axis=1, keepdims=True)
        each = (logs - scale[number])[..., np.newaxis] - 0.5 * (off**2).sum(axis=3)
        drawn = np.where(missing[:, np.newaxis], found, x[:, np.newaxis])
        return drawn, logsumexp(each, axis=1)


def _log_det(factors: NDArray[Any]) -> Floats:
    return np.log(np.diagonal(factors, axis1=2, axis2=3)).sum(axis=2)
