"""Some features of a mixture of Gaussians given the others."""

# SPDX-License-Identifier: BSD-3-Clause

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from skjko.transforms.mixture_map import MixtureMap
from skjko.typing import Floats


class MixtureGiven:
    """A mixture of some features given the others.

    Parameters
    ----------
    mixture : MixtureMap
        Of all features.
    covariances : ndarray of shape (n_components, n_features, n_features)
        Of its components.
    missing : ndarray of bool of shape (n_features,)
        The features that are not given.

    Examples
    --------
    >>> import numpy as np
    >>> from skjko.transforms.mixture_given import MixtureGiven
    >>> from skjko.transforms.mixture_map import MixtureMap
    >>> mixture = MixtureMap().fit(np.random.default_rng(0).normal(size=(1000, 2)))
    >>> covariances = mixture.factors_ @ mixture.factors_.transpose(0, 2, 1)
    >>> given = MixtureGiven(mixture, covariances, np.array([False, True]))
    >>> given.log_marginal(np.zeros((1, 2))).round(1)
    array([-0.9])
    """

    def __init__(
        self, mixture: MixtureMap, covariances: Floats, missing: NDArray[np.bool_]
    ) -> None:
        there = ~missing
        self._there, self._missing = there, missing
        factor = np.linalg.cholesky(covariances[:, there][:, :, there])
        inverse = np.linalg.inv(factor)
        self._means = mixture.means_
        self._inverse = inverse.transpose(0, 2, 1)
        diagonal = np.diagonal(factor, axis1=1, axis2=2)
        self._constant = np.log(mixture.weights_) - np.log(diagonal).sum(axis=1)
        self._constant -= 0.5 * there.sum() * math.log(2 * math.pi)
        # Of missing features on the whitened others.
        self._slopes = covariances[:, missing][:, :, there] @ self._inverse
        rest = covariances[:, missing][:, :, missing]
        self._rest = rest - self._slopes @ self._slopes.transpose(0, 2, 1)

    @np.errstate(over="ignore")
    def _joint(self, x: Floats) -> tuple[Floats, Floats]:
        """Whitened values, (n_components, n, n_there), and logs, (n, n_components)."""
        there = self._there
        w = (x[:, there] - self._means[:, np.newaxis, there]) @ self._inverse
        return w, self._constant - 0.5 * np.square(w).sum(axis=2).T

    def log_marginal(self, x: Floats) -> Floats:
        """Return the log-density of the features that are given.

        Parameters
        ----------
        x : ndarray of shape (n, n_features)
            Whose other features may have any value.

        Returns
        -------
        log_density : ndarray of shape (n,)
            In nats.
        """
        return logsumexp(self._joint(x)[1], axis=1)

    @np.errstate(over="ignore", invalid="ignore")
    def draw(self, x: Floats, uniform: Floats, normal: Floats) -> tuple[Floats, Floats]:
        """Draw the features that are not given.

        Parameters
        ----------
        x : ndarray of shape (n, n_features)
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
        w, logs = self._joint(x)
        logs -= logsumexp(logs, axis=1)[:, np.newaxis]
        missing = self._missing
        centres = self._means[:, np.newaxis, missing]
        centres = (centres + w @ self._slopes.transpose(0, 2, 1)).transpose(1, 0, 2)
        # Rounding may have made a variance that is next to zero negative.
        diagonal = np.einsum("kii->ki", self._rest)
        diagonal[:] = np.maximum(diagonal, 1e-12) + 1e-12
        factor = np.linalg.cholesky(self._rest)
        inverse = np.linalg.inv(factor)
        reached = np.exp(logs).cumsum(axis=1)[:, np.newaxis]
        component = (reached[..., :-1] < uniform[..., np.newaxis]).sum(axis=2)
        rows = np.arange(len(x))[:, np.newaxis]
        noise = np.einsum("nkij,nkj->nki", factor[component], normal[..., missing])
        found = centres[rows, component] + noise
        # Of every draw, in all components.
        off = found[:, :, np.newaxis] - centres[:, np.newaxis]
        off = np.einsum("cij,nkcj->nkci", inverse, off)
        scale = np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)
        scale += 0.5 * missing.sum() * math.log(2 * math.pi)
        each = logs[:, np.newaxis] - 0.5 * np.square(off).sum(axis=3) - scale
        completed = np.repeat(x[:, np.newaxis], uniform.shape[1], axis=1)
        completed[..., missing] = found
        return completed, logsumexp(each, axis=2)
