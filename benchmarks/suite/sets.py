"""The fixed list of data sets, and the arrays that every method gets of them.

Three sources: the folder named by SKJKO_BENCH_DATA, `skjko.datasets`, where the true
density is known, and scikit-learn. Targets of regression tables are continuous: they
are joined as the last column. Labels of classes are left out.
"""

# SPDX-License-Identifier: BSD-3-Clause

import os
import sys
import zlib
from dataclasses import dataclass
from functools import partial

import numpy as np

LEFT_OUT = {
    "digits": "17 integer levels a pixel, most of them 0: not a density",
    "families graph, image, toy and adbench of the data folder": "for other benchmarks",
}

# Tables of at most so many samples are tested by 5-fold cross-validation: a test set of
# a tenth of them would be too small to compare methods.
FOLD_SAMPLES = 2000
N_FOLDS = 5
GENERATED_SAMPLES = 20_000

# Their preparation has added noise to every feature already.
DEQUANTIZED = {"bsds300_patches", "power_minute"}

# Discrete features of these.
DISCRETE = {"higgs_small": (8, 12, 16, 20)}


@dataclass(frozen=True)
class Spec:
    """A set that can be loaded: `load(seed)` gives samples, or (train, val, test)."""

    name: str
    family: str
    n_samples: int
    load: callable
    truth: callable = None

    @property
    def by_folds(self):
        """Whether every seed is a fold of one cross-validation."""
        return self.n_samples <= FOLD_SAMPLES

    def seeds(self, seeds):
        """Seeds to run: those asked for, or the folds."""
        if not self.by_folds:
            return list(seeds)
        # One seed stays one fold, several become all of them.
        return [s for s in seeds if s < N_FOLDS] if len(seeds) < 2 else range(N_FOLDS)


@dataclass
class Case:
    """Standardised float32 arrays, and what converts results to other units.

    `log_scale` is what to add to a negative log-likelihood in standardised units to
    have it in data units; `truth` is the true one of the test samples or None.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    log_scale: float
    truth: np.ndarray | None
    n_jittered: int
    n_dropped: int


def registry():
    """All sets that are there, as a dict of name -> Spec, in the order of reports."""
    specs = [*_folder(), *_generated(), *_sklearn()]
    return {spec.name: spec for spec in specs}


def make(spec, seed, max_test):
    """Split, standardise by the training part, and thin out the test part."""
    samples = spec.load(seed)
    if isinstance(samples, tuple):
        ends = np.cumsum([len(part) for part in samples])
        rng = np.random.default_rng(seed)
        # Shuffled, as the other sets are: methods may take the first samples.
        parts = [rng.permutation(p) for p in np.split(np.arange(ends[2]), ends[:2])]
        samples = np.concatenate(samples)
    elif spec.by_folds:
        parts = _fold(len(samples), seed)
    else:
        parts = _shuffled(len(samples), seed)
    n_jittered = n_dropped = 0
    raw = np.asarray(samples, dtype=np.float64)
    if spec.truth is None and spec.name not in DEQUANTIZED:
        raw, n_dropped = drop_degenerate(raw)
        raw, n_jittered = jitter(raw, zlib.crc32(spec.name.encode()))
    train, val, test = (raw[index] for index in parts)
    if len(test) > max_test:
        rng = np.random.default_rng(seed)
        test = test[np.sort(rng.choice(len(test), max_test, replace=False))]
    center, scale = train.mean(axis=0), train.std(axis=0)
    log_scale = float(np.log(scale).sum())
    truth = None if spec.truth is None else -spec.truth(test) - log_scale
    standard = [((p - center) / scale).astype(np.float32) for p in (train, val, test)]
    return Case(*standard, log_scale, truth, n_jittered, n_dropped)


def jitter(X, seed):
    """Dequantize features whose values repeat, by uniform noise of one grid step.

    On tied values a likelihood has no upper bound. A feature repeats if a tenth of its
    samples share their value with others, or if one value has a hundredth of them. Its
    step is the median, over the samples that share, of the distance to the next larger
    value, so that gaps in its tails do not count.

    Returns
    -------
    X : ndarray
        A copy.
    n_jittered : int
        Number of features changed.
    """
    X, n_jittered = X.copy(), 0
    for j, column in enumerate(X.T):
        values, inverse, counts = np.unique(
            column, return_inverse=True, return_counts=True
        )
        shared = counts[inverse] > 1
        if shared.mean() <= 0.1 and counts.max() <= max(5, 0.01 * len(column)):
            continue
        gaps = np.diff(values)
        step = np.median(np.append(gaps, gaps[-1])[inverse[shared]])
        rng = np.random.default_rng((seed, j))
        X[:, j] += step * rng.random(len(X))
        n_jittered += 1
    return X, n_jittered


def drop_degenerate(X):
    """Drop features that are constant or equal to an earlier one; count them."""
    keep = []
    for j, column in enumerate(X.T):
        constant = np.ptp(column) == 0
        if not constant and not any(np.array_equal(column, X[:, k]) for k in keep):
            keep.append(j)
    return X[:, keep], X.shape[1] - len(keep)


def _shuffled(n, seed):
    """Training, validation and test samples: 80, 10 and 10 percent."""
    order = np.random.default_rng(seed).permutation(n)
    return np.split(order, [int(0.8 * n), int(0.9 * n)])


def _fold(n, fold):
    """One fold is the test part; an eighth of the others is the validation part."""
    folds = np.array_split(np.random.default_rng(0).permutation(n), N_FOLDS)
    test = folds.pop(fold)
    rest = np.random.default_rng(1 + fold).permutation(np.concatenate(folds))
    val, train = np.split(rest, [len(rest) // 8])
    return train, val, test


def _folder():
    folder = os.environ.get("SKJKO_BENCH_DATA")
    if not folder or not os.path.exists(os.path.join(folder, "load.py")):
        print(
            "skipped the sets of the data folder: SKJKO_BENCH_DATA names none",
            file=sys.stderr,
        )
        return
    if folder not in sys.path:
        sys.path.append(folder)
    import load

    for family in ("density", "uci", "tabular"):
        for name in load.names(family):
            n_samples = load.info(name)["rows"]
            yield Spec(
                name, family, n_samples, partial(_from_folder, load, name, family)
            )


def _from_folder(load, name, family, seed):
    data = load.load(name)
    if name == "bsds300_patches":
        return tuple(load.split_part(data)[:3])
    X = np.delete(data["X"], DISCRETE.get(name, ()), axis=1)
    if family == "density":
        return X
    return np.column_stack([X, data["y"]])


def _generated():
    from skjko import datasets

    makers = {
        "rose": datasets.rose,
        "fractal_tree": datasets.fractal_tree,
        "spirals": datasets.spirals,
        "moons": datasets.moons,
        "rings": datasets.rings,
        "eight_gaussians": datasets.eight_gaussians,
        "checkerboard": datasets.checkerboard,
        "correlated_mixture_10": partial(datasets.correlated_mixture, 10),
        "correlated_mixture_30": partial(datasets.correlated_mixture, 30),
        "heavy_tails_10": partial(datasets.heavy_tails, 10),
        "funnel_10": partial(datasets.funnel, 10),
        "skewed_copula_10": partial(datasets.skewed_copula, 10),
        "skewed_copula_20": partial(datasets.skewed_copula, 20),
        "noisy_manifold_10": partial(datasets.noisy_manifold, 10),
    }
    for name, maker in makers.items():
        truth = maker()
        yield Spec(
            name,
            "generated",
            GENERATED_SAMPLES,
            lambda seed, t=truth: t.sample(GENERATED_SAMPLES, random_state=seed),
            truth.score_samples,
        )


def _sklearn():
    from sklearn import datasets

    for name, n_samples in (
        ("iris", 150),
        ("wine", 178),
        ("diabetes", 442),
        ("breast_cancer", 569),
    ):
        loader = getattr(datasets, f"load_{name}")
        yield Spec(
            name, "sklearn", n_samples, lambda seed, load=loader: _with_target(load())
        )


def _with_target(bunch):
    """Columns, and the target as one of them where it is not a class."""
    if "target_names" in bunch:
        return bunch.data
    return np.column_stack([bunch.data, bunch.target])
