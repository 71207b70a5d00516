"""Regression of a location or of a scale, with predictions out of the folds.

A conditional density starts from these: the flow learns what they leave.
"""

# SPDX-License-Identifier: BSD-3-Clause

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize, nnls
from sklearn.tree import ExtraTreeRegressor

from skjko.predictors import Process, Ridge, Stack, Trees
from skjko.typing import Floats

Draws = np.random.RandomState
Fold = tuple[NDArray[np.int_], NDArray[np.int_]]

# Boosting: learning rate, trees at most, samples that a tree sees at most, and trees
# without an improvement after which it ends.
_RATE, _N_TREES, _PER_TREE, _PATIENCE = 0.1, 400, 5000, 40
# Leaves of a tree, fewest and most, the samples that make one more, and the fewest
# samples in a leaf: a sample tells little of a scale.
_LEAVES = {"square": (16, 64, 64, 5), "gamma": (8, 16, 256, 20)}
# Penalties of a linear regression of a scale, per sample.
_GAMMA_PENALTIES = (0.3, 0.03, 0.003)
# Ridge penalties that are tried, as shares of the number of samples.
_PENALTIES = np.logspace(-6, 1, 15)
# Samples that the hyperparameters of a Gaussian process are learned from, and samples
# that it interpolates: both take time with the cube of their number.
_N_LEARN, _N_PROCESS = 500, 2000
# Range of a logarithm of a length scale, an amplitude, a noise.
_LOWEST, _HIGHEST = -7.0, 5.0


def ridge(
    X: Floats, y: Floats, weight: Floats, folds: list[Fold]
) -> tuple[Ridge, Floats]:
    """Return a ridge regression, and its predictions out of the folds.

    The penalty is the one with the least error there.
    """

    def solve(rows):
        w = weight[rows] / weight[rows].sum()
        mean, centre = w @ X[rows], w @ y[rows]
        A = (X[rows] - mean) * np.sqrt(w)[:, np.newaxis]
        values, vectors = np.linalg.eigh(A.T @ A)
        b = vectors.T @ (A.T @ ((y[rows] - centre) * np.sqrt(w)))
        shrunk = b[:, np.newaxis] / (np.maximum(values, 0)[:, np.newaxis] + _PENALTIES)
        coefficients = vectors @ shrunk
        return coefficients, centre - mean @ coefficients

    every = np.empty((len(y), len(_PENALTIES)))
    for train, rest in folds:
        coefficients, intercept = solve(train)
        every[rest] = X[rest] @ coefficients + intercept
    best = int(np.argmin(weight @ (every - y[:, np.newaxis]) ** 2))
    coefficients, intercept = solve(np.arange(len(y)))
    model = Ridge(coefficients[:, best].copy(), float(intercept[best]))
    return model, every[:, best].copy()


def process(
    X: Floats, y: Floats, weight: Floats, folds: list[Fold], rng: Draws
) -> tuple[Process, Floats]:
    """Return the mean of a Gaussian process, and its predictions out of the folds.

    Hyperparameters maximize the marginal likelihood of some of the samples.
    """
    n = len(X)
    noise_ratio = weight.mean() / weight
    theta = _hyperparameters(X, y, noise_ratio, rng)
    amplitude, slope, noise = np.exp(2 * theta[:3]).tolist()
    lengths = np.exp(theta[3:])
    some = rng.permutation(n)[:_N_PROCESS]
    points = X[some] / lengths
    model = Process(points, np.zeros(len(some)), lengths, amplitude, slope)
    K = model.kernel(points, points)
    K[np.diag_indices(len(K))] += noise * noise_ratio[some] + 1e-8 * (amplitude + slope)
    inverse = cho_solve(cho_factor(K), np.eye(len(K)))
    model.weights = inverse @ y[some]
    # Leaving a fold out changes its predictions by a formula; other samples see all
    # but the points of their fold.
    place = np.full(n, -1)
    place[some] = np.arange(len(some))
    out = np.empty(n)
    for _, rest in folds:
        inside = place[rest][place[rest] >= 0]
        block = inverse[np.ix_(inside, inside)]
        gone = np.linalg.solve(block, model.weights[inside])
        out[some[inside]] = y[some[inside]] - gone
        others = rest[place[rest] < 0]
        if len(others):
            left = model.weights - inverse[:, inside] @ gone
            out[others] = Process(points, left, lengths, amplitude, slope).predict(
                X[others]
            )
    return model, out


def _hyperparameters(X, y, noise_ratio, rng):
    """Logarithms of amplitude, slope, noise and lengths of a Gaussian process."""
    d = X.shape[1]
    some = rng.permutation(len(X))[:_N_LEARN]
    x, target = torch.tensor(X[some]), torch.tensor(y[some])
    ratio = torch.tensor(noise_ratio[some])
    linear = 1 + x @ x.T
    squares = (x[:, None, :] - x[None, :, :]).square() if d <= 40 else None

    def loss(theta):
        t = torch.tensor(theta, requires_grad=True)
        inverse = torch.exp(-2 * t[3:])
        if squares is None:
            scaled = x * inverse.sqrt()
            lengths = scaled.square().sum(1)
            square = lengths[:, None] + lengths[None, :] - 2 * scaled @ scaled.T
        else:
            square = squares @ inverse
        r = (5 * square).clamp_min(1e-12).sqrt()
        K = torch.exp(2 * t[0]) * (1 + r + r.square() / 3) * torch.exp(-r)
        K = K + torch.exp(2 * t[1]) * linear
        jitter = 1e-8 * (torch.exp(2 * t[0]) + torch.exp(2 * t[1]))
        K = K + torch.diag(torch.exp(2 * t[2]) * ratio + jitter)
        factor, info = torch.linalg.cholesky_ex(K)
        if info:
            return 1e10, np.zeros(len(theta))
        solved = torch.linalg.solve_triangular(factor, target[:, None], upper=False)
        value = 0.5 * solved.square().sum() + factor.diagonal().log().sum()
        # A weak prior: lengths of about the square root of d, some noise.
        value = value + 0.5 * ((t - torch.tensor(start)) / 2).square().sum()
        value.backward()
        return value.item() / len(x), t.grad.numpy() / len(x)

    start = np.concatenate([[0.0, -1.0, -1.0], np.full(d, 0.5 * np.log(d))])
    bounds = [(_LOWEST, _HIGHEST)] * len(start)
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 40}
    )
    return found.x


def boosting(
    X: Floats, y: Floats, weight: Floats, folds: list[Fold], rng: Draws, loss: str
) -> tuple[Trees, Floats]:
    """Return boosted trees, and their predictions out of the folds.

    Parameters
    ----------
    X : ndarray of shape (n, n_features)
    y : ndarray of shape (n,)
    weight : ndarray of shape (n,)
    folds : list of (train, rest)
        The number of trees is that of the least loss out of these.
    rng : RandomState
    loss : {"square", "gamma"}
        "gamma" is that of a positive y whose mean has the prediction as its logarithm.

    Returns
    -------
    model : Trees
    out : ndarray of shape (n,)
        Predictions out of the folds.
    """
    whole = np.arange(len(y))
    sizes = [_Boosting(X, y, weight, train, loss) for train, _ in folds]
    out = np.empty(len(y))

    def predictions():
        for one, (_, rest) in zip(sizes, folds, strict=True):
            out[rest] = one.values[rest]
        return out

    best, n_best, kept = _loss(loss, y, predictions(), weight), 0, out.copy()
    for t in range(1, _N_TREES + 1):
        for one in sizes:
            one.grow(rng)
        value = _loss(loss, y, predictions(), weight)
        if value < best:
            best, n_best, kept = value, t, out.copy()
        elif t - n_best >= _PATIENCE:
            break
    final = _Boosting(X, y, weight, whole, loss)
    for _ in range(n_best):
        final.grow(rng)
    return Trees.of(final.start, final.trees), kept


class _Boosting:
    """Boosted trees of some of the samples, with their predictions for all."""

    def __init__(self, X, y, weight, rows, loss):
        self._X, self._y, self._weight = X.astype(np.float32), y, weight
        self._rows, self._loss = rows, loss
        mean = np.average(y[rows], weights=weight[rows])
        self.start = float(mean if loss == "square" else np.log(mean))
        self.values, self.trees = np.full(len(y), self.start), []

    def grow(self, rng):
        """Add a tree."""
        size = min(_PER_TREE, int(0.7 * len(self._rows)) + 1)
        some = rng.permutation(self._rows)[:size]
        X, w = self._X[some], self._weight[some]
        if self._loss == "square":
            target = self._y[some] - self.values[some]
        else:
            target = self._y[some] * np.exp(-self.values[some]) - 1
        target = target[:, np.newaxis]
        fewest, most, a_leaf, in_leaf = _LEAVES[self._loss]
        tree = ExtraTreeRegressor(
            max_leaf_nodes=min(most, max(fewest, size // a_leaf)),
            min_samples_leaf=in_leaf,
            max_features=1.0,
            random_state=rng.randint(2**31 - 1),
        ).fit(X, target, w, check_input=False)
        value = tree.tree_.value[:, 0, 0].copy()
        if self._loss == "gamma":
            value = np.log1p(np.maximum(value, -0.9))
        value *= _RATE
        self.values += value[tree.tree_.apply(self._X)]
        self.trees.append((tree, value))


def _loss(loss, y, predicted, weight):
    if loss == "square":
        return weight @ (y - predicted) ** 2
    return weight @ (predicted + y * np.exp(-predicted))


def log_linear(
    X: Floats, y: Floats, weight: Floats, folds: list[Fold]
) -> tuple[Ridge, Floats]:
    """Return a linear regression of log E y, and its predictions out of the folds."""
    start = float(np.log(np.average(y, weights=weight)))

    def solve(rows, penalty, b):
        w = weight[rows] / weight[rows].sum()
        A, target = X[rows], y[rows]

        def loss(b):
            eta = A @ b[1:] + b[0]
            ratio = target * np.exp(-np.clip(eta, start - 20, start + 20))
            slope = w * (1 - ratio)
            value = w @ (eta + ratio) + 0.5 * penalty * b[1:] @ b[1:]
            return value, np.r_[slope.sum(), slope @ A + penalty * b[1:]]

        return minimize(loss, b, jac=True, method="L-BFGS-B").x

    best = np.inf
    zero = np.r_[start, np.zeros(X.shape[1])]
    for penalty in _GAMMA_PENALTIES:
        out, whole = np.empty(len(y)), solve(np.arange(len(y)), penalty, zero)
        for train, rest in folds:
            b = solve(train, penalty, whole)
            out[rest] = X[rest] @ b[1:] + b[0]
        value = _loss("gamma", y, out, weight)
        if value < best:
            model, kept, best = Ridge(whole[1:].copy(), float(whole[0])), out, value
    return model, kept


def location(
    X: Floats,
    y: Floats,
    weight: Floats,
    folds: list[Fold],
    fine: list[Fold],
    rng: Draws,
) -> tuple[Stack, Floats]:
    """Return a stack of regressions of y, and its predictions out of the folds.

    Parameters
    ----------
    X : ndarray of shape (n, n_features)
        Of zero mean and unit variance.
    y : ndarray of shape (n,)
        The same.
    weight : ndarray of shape (n,)
        Positive.
    folds, fine : list of (train, rest)
        More of them where they cost little.
    rng : RandomState

    Returns
    -------
    model : Stack
    out : ndarray of shape (n,)
    """
    found = [
        ridge(X, y, weight, fine),
        boosting(X, y, weight, folds, rng, "square"),
        process(X, y, weight, fine, rng),
    ]
    outs = np.column_stack([out for _, out in found])
    root = np.sqrt(weight)
    shares, _ = nnls(outs * root[:, np.newaxis], y * root)
    kept = [i for i, share in enumerate(shares) if share > 0.01]
    model = Stack([found[i][0] for i in kept], shares[kept])
    return model, outs[:, kept] @ shares[kept]


def scale(
    X: Floats, size: Floats, weight: Floats, folds: list[Fold], rng: Draws
) -> tuple[Stack, Floats]:
    """Return a stack of regressions of log E size, and what it is out of the folds.

    Without any gain out of the folds the scale is constant. Parameters and results are
    those of `location`; `size` is positive.
    """
    constant = float(np.log(np.average(size, weights=weight)))
    found = [
        (Ridge(np.zeros(X.shape[1]), constant), np.full(len(size), constant)),
        log_linear(X, size, weight, folds),
        boosting(X, size, weight, folds, rng, "gamma"),
    ]
    trials = [(1.0, 0.0, 0.0)]
    trials += [
        (1 - a, a * b, a * (1 - b)) for a in (0.5, 0.8, 1.0) for b in (0.0, 0.5, 1.0)
    ]
    outs = np.column_stack([out for _, out in found])
    losses = [_loss("gamma", size, outs @ np.array(t), weight) for t in trials]
    shares = np.array(trials[int(np.argmin(losses))])
    kept = np.flatnonzero(shares)
    return Stack([found[i][0] for i in kept], shares[kept]), outs @ shares
