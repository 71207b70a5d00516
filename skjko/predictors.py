"""Fitted regressions as arrays, so that a file can hold them."""

# SPDX-License-Identifier: BSD-3-Clause

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from skjko.transforms.base import is_array, is_int
from skjko.typing import Floats


@dataclass
class Trees:
    """Sum of regression trees.

    Attributes
    ----------
    start : float
        Prediction without any tree.
    roots : ndarray of int of shape (n_trees,)
    feature, left, right : ndarray of int of shape (n_nodes,)
        The nodes of all trees. A leaf has itself as its children.
    threshold, value : ndarray of shape (n_nodes,)
    depth : int
        Of the deepest tree.
    """

    start: float
    roots: np.ndarray
    feature: np.ndarray
    left: np.ndarray
    right: np.ndarray
    threshold: np.ndarray
    value: np.ndarray
    depth: int

    @classmethod
    def of(cls, start: float, trees: list[tuple[Any, Floats]]) -> "Trees":
        """Return the sum of fitted trees, each with the values of its nodes."""
        parts, roots, n, depth = [], [], 0, 0
        for one, value in trees:
            tree = one.tree_
            own = np.arange(tree.node_count)
            is_leaf = tree.children_left < 0
            left = n + np.where(is_leaf, own, tree.children_left)
            right = n + np.where(is_leaf, own, tree.children_right)
            feature = np.where(is_leaf, 0, tree.feature)
            parts.append((feature, left, right, tree.threshold, value))
            roots.append(n)
            n, depth = n + tree.node_count, max(depth, int(tree.max_depth))
        if not parts:
            none, nothing = np.zeros(0, int), np.zeros(0)
            return cls(start, none, none, none, none, nothing, nothing, 0)
        feature, left, right, threshold, values = map(
            np.concatenate, zip(*parts, strict=True)
        )
        roots_ = np.array(roots)
        return cls(start, roots_, feature, left, right, threshold, values, depth)

    def predict(self, X: Floats) -> Floats:
        """Return one value a sample."""
        total = np.full(len(X), self.start)
        # Thresholds are between numbers in single precision.
        X, rows = X.astype(np.float32), np.arange(len(X))
        for root in self.roots:
            node = np.full(len(X), root)
            for _ in range(self.depth):
                below = X[rows, self.feature[node]] <= self.threshold[node]
                node = np.where(below, self.left[node], self.right[node])
            total += self.value[node]
        return total

    def check(self, n_features: int) -> None:
        """Raise a ValueError if these are no trees of so many features."""
        n = np.size(self.value)
        numbers = (self.feature, self.left, self.right)
        if not (
            np.isfinite(self.start)
            and is_array(self.roots, (None,), "i")
            and all(is_array(a, (n,), "i") for a in numbers)
            and all(is_array(a, (n,)) for a in (self.threshold, self.value))
            and all(((a >= 0) & (a < n)).all() for a in (self.left, self.right))
            and ((self.roots >= 0) & (self.roots < n)).all()
            and ((self.feature >= 0) & (self.feature < n_features)).all()
            and is_int(self.depth, 0, 64)
        ):
            raise ValueError("the trees of a regression are none")


@dataclass
class Ridge:
    """Linear regression.

    Attributes
    ----------
    coefficients : ndarray of shape (n_features,)
    intercept : float
    """

    coefficients: np.ndarray
    intercept: float

    def predict(self, X: Floats) -> Floats:
        """Return one value a sample."""
        # A sum a sample: the result does not depend on the samples beside it.
        return (X * self.coefficients).sum(axis=1) + self.intercept

    def check(self, n_features: int) -> None:
        """Raise a ValueError if this is no regression on so many features."""
        good = is_array(self.coefficients, (n_features,))
        if not (good and np.isfinite(self.intercept)):
            raise ValueError("the coefficients of a regression are none")


@dataclass
class Process:
    """Mean of a Gaussian process, with a linear and a Matern 5/2 kernel.

    Attributes
    ----------
    points : ndarray of shape (n_points, n_features)
        In length scales.
    weights : ndarray of shape (n_points,)
    lengths : ndarray of shape (n_features,)
    amplitude, slope : float
        Variances of the two kernels.
    """

    points: np.ndarray
    weights: np.ndarray
    lengths: np.ndarray
    amplitude: float
    slope: float

    def kernel(self, A: Floats, B: Floats) -> Floats:
        """Return covariances of points in length scales."""
        r = np.sqrt(5) * cdist(A, B)
        matern = (1 + r + r**2 / 3) * np.exp(-r)
        unscaled = (A * self.lengths) @ (B * self.lengths).T
        return self.amplitude * matern + self.slope * (1 + unscaled)

    def predict(self, X: Floats) -> Floats:
        """Return one value a sample."""
        parts = []
        A = X / self.lengths
        linear = self.slope * (self.points * self.lengths).T @ self.weights
        constant = self.slope * self.weights.sum()
        for i in range(0, len(A), 1024):
            r = np.sqrt(5) * cdist(A[i : i + 1024], self.points)
            matern = self.amplitude * (1 + r + r**2 / 3) * np.exp(-r)
            parts.append((matern * self.weights).sum(axis=1))
        affine = (X * linear).sum(axis=1) + constant
        return np.concatenate([*parts, np.zeros(0)]) + affine

    def check(self, n_features: int) -> None:
        """Raise a ValueError if this is no process on so many features."""
        if not (
            is_array(self.lengths, (n_features,))
            and (self.lengths > 0).all()
            and is_array(self.points, (None, n_features))
            and is_array(self.weights, (len(self.points),))
            and np.isfinite([self.amplitude, self.slope]).all()
        ):
            raise ValueError("the parameters of a Gaussian process are none")


@dataclass
class Stack:
    """Weighted sum of regressions.

    Attributes
    ----------
    models : list
    weights : ndarray of shape (n_models,)
    """

    models: list
    weights: np.ndarray

    def predict(self, X: Floats) -> Floats:
        """Return one value a sample."""
        total = np.zeros(len(X))
        for model, weight in zip(self.models, self.weights, strict=True):
            total += weight * model.predict(X)
        return total

    def check(self, n_features: int) -> None:
        """Raise a ValueError if these are no regressions on so many features."""
        kinds = (Trees, Ridge, Process)
        if not (
            all(isinstance(model, kinds) for model in self.models)
            and is_array(self.weights, (len(self.models),))
        ):
            raise ValueError("the regressions of a stack are none")
        for model in self.models:
            model.check(n_features)
