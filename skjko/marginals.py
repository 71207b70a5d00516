"""Columns made normal one by one, each by the distribution of a mixture of its own."""

# SPDX-License-Identifier: BSD-3-Clause

import math

import numpy as np

from skjko import columns
from skjko.growth import choose_mixtures
from skjko.rosenblatt import RosenblattMap, SingleColumns

# A column is looked at more closely if its values seem to lack this much of a normal
# column's entropy, in nats: that of n rows, from 100 to 4000, rarely seems to.
_LEAST_NEGENTROPY, _TIMES_ROWS = 0.01, 16.0
# Floating-point operations that a column is worth, about: some hundredths of a second.
LARGEST_WORK = 2e9


class MarginalMixtures:
    """Columns to normal ones: y = Phi^-1(F((x - centre) / width)), column by column.

    F is the distribution function of a mixture of normals, of as many parts as the
    column's lumps, gaps, skew and tails want.

    Parameters
    ----------
    columns : ndarray of int of shape (n_mapped,)
        Those that are mapped, in increasing order; the others stay as they are.
    centre, width : ndarray of shape (n_mapped,)
        In data units.
    maps : list of RosenblattMap
        Of one column each.
    """

    def __init__(self, columns, centre, width, maps):
        self.columns, self.centre, self.width, self.maps = columns, centre, width, maps
        # Those of about as many parts are worked on at once: on few rows the number of
        # operations is what they cost, on many rows that of the parts.
        sizes = np.array([len(one.weights).bit_length() for one in maps])
        self._groups = [
            (which, SingleColumns([maps[i] for i in which]))
            for which in (np.flatnonzero(sizes == size) for size in np.unique(sizes))
        ]

    def forward(self, X):
        """Map rows; return them and log|det dy/dx| of every row."""
        Y, log_det = X.copy(), np.full(len(X), -np.log(self.width).sum())
        U = columns.in_widths(X, self)
        for which, group in self._groups:
            Y[:, self.columns[which]], increment = group.forward(U[:, which])
            log_det += increment
        return Y, log_det

    def inverse(self, Y):
        """Map back; what would overflow becomes the largest numbers there are."""
        X, largest = Y.copy(), np.finfo(float).max
        for j, centre, width, one in zip(
            self.columns, self.centre, self.width, self.maps, strict=True
        ):
            u = one.inverse(Y[:, j, np.newaxis])[:, 0]
            with np.errstate(over="ignore"):
                X[:, j] = np.clip(centre + width * u, -largest, largest)
        return X


def choose_marginal_mixtures(X, weight, gaussian_of, work=LARGEST_WORK):
    """Return the map of the columns whose mixtures have more than one part, or None.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    weight : ndarray of shape (n_samples,)
        Positive.
    gaussian_of : callable
        Maps rows and weights to a fitted `GaussianWhitening`.
    work : float
        Floating-point operations that the mixture of a column may take, about.

    Returns
    -------
    marginal : MarginalMixtures or None
    """
    n = len(X)
    if n < columns.MIN_ROWS:
        return None
    gaussian = gaussian_of(X, weight)
    # Rows in random order: the first of them are held out.
    order = np.random.RandomState(0).permutation(n)
    weight = weight[order]
    normal = _LEAST_NEGENTROPY + _TIMES_ROWS / n
    which, values = [], []
    for j in np.flatnonzero(~columns.in_flat(gaussian)):
        u = ((X[:, j] - gaussian.mean_[j]) / gaussian.scale_[j])[order]
        if _negentropy(u, weight) >= normal:
            which.append(j)
            values.append(u[:, np.newaxis])
    if not which:
        return None
    chosen = choose_mixtures(np.stack(values), weight, work)
    maps = {
        j: RosenblattMap.of(one.mixture)
        for j, one in zip(which, chosen, strict=True)
        if len(one.mixture.weights) > 1
    }
    if not maps:
        return None
    which = np.array(list(maps))
    return MarginalMixtures(
        which, gaussian.mean_[which], gaussian.scale_[which], list(maps.values())
    )


def _negentropy(u, weight):
    """What values of unit variance lack of a normal column's entropy, in nats, about.

    The entropy by the spacings of their order statistics (Vasicek, "A Test for
    Normality Based on Sample Entropy", 1976).
    """
    order, n = np.argsort(u), len(u)
    # As many quantiles as rows: the rows themselves where all weigh the same.
    reached = np.cumsum(weight[order])
    quantiles = np.searchsorted(reached, (np.arange(n) + 0.5) / n * reached[-1])
    u, m = u[order][quantiles], round(math.sqrt(n))
    padded = np.concatenate([np.full(m, u[0]), u, np.full(m, u[-1])])
    spacings = padded[2 * m :] - padded[: -2 * m]
    # Many equal values have no density at all.
    spacings = np.maximum(spacings, 1e-6)
    entropy = np.log(n / (2 * m) * spacings).mean()
    return 0.5 * math.log(2 * math.pi * math.e) - entropy
