"""Samples of several classes, each of zero mean and about unit covariance."""

# SPDX-License-Identifier: BSD-3-Clause

from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold

from skjko.transforms.base import Transform, is_array, is_int, normal_log_prob
from skjko.typing import Floats

# What is tried of both kinds of shrinkage, on how many samples and folds.
_STRENGTHS, _SHARES = (1.0, 10.0, 100.0, 1000.0), (0.001, 0.01, 0.1, 0.3)
_N_TRIED, _N_FOLDS = 3000, 3
# Share of a feature's variance that counts as variance within every class.
_LEAST = 1e-4


class ClassLocationScale(Transform):
    """Samples of a class less its mean, over a root of its covariance.

    A sample has features, and behind them a column of 0 and 1 for every class: its
    condition, which stays as it is and has no density. Covariances of classes are
    shrunk towards the one within all classes, and that towards a diagonal one [1]_.
    Standard normal images are Gaussian classes: regularized discriminant analysis.

    Parameters
    ----------
    n_context : int
        Number of classes.
    strength : float, default=10.0
        Number of samples that the covariance within all classes counts for in every
        class.
    shrinkage : float, default=0.1
        Share of the diagonal, in (0, 1].

    Attributes
    ----------
    means_ : ndarray of shape (n_context, n_features)
        Of every class, in data units.
    width_ : ndarray of shape (n_features,)
        Standard deviations within the classes, in data units.
    roots_ : ndarray of shape (n_context, n_features, n_features)
        Roots of the covariance of every class, in units of the widths.
    n_features_in_ : int
        Number of features and classes.

    References
    ----------
    .. [1] J. H. Friedman, "Regularized discriminant analysis", Journal of the American
       Statistical Association 84 (1989).

    Examples
    --------
    >>> import numpy as np
    >>> from skjko.transforms import ClassLocationScale
    >>> x = np.random.default_rng(0).normal(size=(2000, 2))
    >>> codes = np.arange(2000) % 2
    >>> x[codes == 1] = 5 + 3 * x[codes == 1]
    >>> X = np.hstack([x, np.eye(2)[codes]])
    >>> Y, log_det = ClassLocationScale(n_context=2).fit(X).forward(X)
    >>> np.abs(Y[codes == 1, :2].mean(axis=0)).round(6)
    array([0., 0.])
    """

    def __init__(
        self, n_context: int, strength: float = 10.0, shrinkage: float = 0.1
    ) -> None:
        self.n_context, self.strength, self.shrinkage = n_context, strength, shrinkage

    @classmethod
    def chosen(
        cls,
        X: Floats,
        codes: NDArray[np.int_],
        weight: Floats,
        n_classes: int,
        rng: np.random.RandomState,
    ) -> Self:
        """Return one, not fitted, with the shrinkage that cross-validation prefers.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Features alone, in data units.
        codes : ndarray of int of shape (n_samples,)
            The class of every sample.
        weight : ndarray of shape (n_samples,)
            Positive.
        n_classes : int
            Number of classes.
        rng : RandomState
            Of the folds.

        Returns
        -------
        transform : ClassLocationScale
            With the greatest mean log-density of Gaussian classes out of the folds.
        """
        some = rng.permutation(len(X))[:_N_TRIED]
        rows = np.hstack([X[some], np.eye(n_classes)[codes[some]]])
        weight = weight[some]
        if len(rows) < 2:
            return cls(n_classes)
        folds = KFold(min(_N_FOLDS, len(rows)), shuffle=True, random_state=rng)
        options = [cls(n_classes, a, b) for a in _STRENGTHS for b in _SHARES]
        scores, d = np.zeros(len(options)), X.shape[1]
        for train, rest in folds.split(rows):
            moments = _Moments(rows[train], weight[train], n_classes)
            for i, one in enumerate(options):
                Y, log_det = one._of(moments).forward(rows[rest])
                scores[i] += weight[rest] @ (normal_log_prob(Y[:, :d]) + log_det)
        return options[int(np.argmax(scores))]

    def fit(self, X: Floats, sample_weight: Floats | None = None) -> Self:
        """Fit means and covariances; see :meth:`Transform.fit`."""
        weight = np.ones(len(X)) if sample_weight is None else sample_weight
        return self._of(_Moments(X, weight, self.n_context))

    def _of(self, moments: "_Moments") -> Self:
        """Set the fitted attributes."""
        k, d = moments.means.shape
        share = self.strength / (self.strength + moments.n)[:, np.newaxis, np.newaxis]
        covariances = (1 - share) * moments.covariances + share * moments.within
        covariances = (1 - self.shrinkage) * covariances + self.shrinkage * np.eye(d)
        values, vectors = np.linalg.eigh(covariances)
        spread = np.sqrt(np.maximum(values, 1e-12))[:, np.newaxis]
        self.means_, self.width_ = moments.means, moments.width
        roots = (vectors * spread) @ vectors.swapaxes(1, 2)
        # No rounding of other features may show in constant ones.
        constant = moments.is_constant
        roots[:, constant[:, np.newaxis] ^ constant] = 0.0
        self.roots_ = roots
        self.n_features_in_ = d + k
        self._complete()
        return self

    def _complete(self) -> None:
        k = self.n_context
        if not (is_int(k, 1) and is_int(self.n_features_in_, k + 1)):
            raise ValueError("the classes have no features")
        d = self.n_features_in_ - k
        if not (
            is_array(self.means_, (k, d))
            and is_array(self.width_, (d,))
            and (self.width_ > 0).all()
            and is_array(self.roots_, (k, d, d))
        ):
            raise ValueError("the means and covariances are not those of the classes")
        sign, log_det = np.linalg.slogdet(self.roots_)
        if not (sign > 0).all():
            raise ValueError("the covariance of a class has no inverse")
        self._log_det = -log_det - np.log(self.width_).sum()
        self._inverse = np.linalg.inv(self.roots_)

    @property
    def n_context_(self) -> int:
        """Number of columns of the condition."""
        return self.n_context

    @property
    def n_degenerate_(self) -> int:
        """Number of columns without a density."""
        return self.n_context

    def forward(self, X: Floats) -> tuple[Floats, Floats]:
        """Map samples; see :meth:`Transform.forward`."""
        d, Y = X.shape[1] - self.n_context, X.copy()
        codes = X[:, d:].argmax(axis=1)
        with np.errstate(over="ignore"):
            for k in np.unique(codes):
                rows = codes == k
                Y[rows, :d] = ((X[rows, :d] - self.means_[k]) / self.width_) @ (
                    self._inverse[k]
                )
        return Y, self._log_det[codes]

    def inverse(self, Y: Floats) -> Floats:
        """Map samples back; what would overflow becomes the largest numbers."""
        d, X, largest = Y.shape[1] - self.n_context, Y.copy(), np.finfo(float).max
        codes = Y[:, d:].argmax(axis=1)
        with np.errstate(over="ignore"):
            for k in np.unique(codes):
                rows = codes == k
                X[rows, :d] = (Y[rows, :d] @ self.roots_[k]) * self.width_
                X[rows, :d] += self.means_[k]
        X[:, :d] = np.clip(X[:, :d], -largest, largest)
        return X


class _Moments:
    """Means and covariances of classes, in units of the deviations within them."""

    def __init__(self, rows: Floats, weight: Floats, n_classes: int) -> None:
        d = rows.shape[1] - n_classes
        X, codes = rows[:, :d], rows[:, d:].argmax(axis=1)
        share = weight / weight.sum()
        # Of numbers of about 1, whose squares cannot overflow.
        size = np.abs(X).max(axis=0)
        size[size == 0] = 1.0
        U = X / size
        centre = share @ U
        total = share @ (U - centre) ** 2
        means = np.tile(centre, (n_classes, 1))
        # A class that is not there has the mean of all, and their covariance.
        self.n, masses = np.zeros(n_classes), np.zeros(n_classes)
        for k in np.unique(codes):
            own = codes == k
            masses[k] = share[own].sum()
            self.n[k] = weight[own].sum() ** 2 / np.square(weight[own]).sum()
            means[k] = share[own] @ U[own] / masses[k]
        R = U - means[codes]
        within = share @ R**2 + _LEAST * total
        self.is_constant = total <= 1e-24
        R[:, self.is_constant] = 0.0
        width = np.where(self.is_constant, 1.0, np.sqrt(within))
        R /= width
        self.covariances = np.zeros((n_classes, d, d))
        for k in np.unique(codes):
            own = codes == k
            part = R[own] * np.sqrt(share[own] / masses[k])[:, np.newaxis]
            self.covariances[k] = part.T @ part
        self.within = np.einsum("k,kij->ij", masses, self.covariances)
        self.means, self.width = means * size, width * size
