"""The outlier detector against those of scikit-learn and PyOD, on tables of ADBench.

    SKJKO_BENCH_DATA=folder OMP_NUM_THREADS=1 python benchmarks/outliers.py

Two protocols. One-class: a random half of the normal samples trains, the other half and
all anomalies test. Contaminated: 70 % of all samples train, anomalies among them, and
30 % test. All detectors get the same samples, standardised by the training samples, and
have one set of parameters for all tables. All tables of ADBench were looked at when
those of skjko were chosen. With --images the tables are 30 others, on which they were
checked: 16 principal components of MNIST's images, with one digit normal, or all but
one; and the pixels of scikit-learn's digits, all but one.

Results go into a CSV file, a line a fit; what is in the file is not run again. Markdown
tables are printed at the end, or with --report alone: mean AUROC, average precision,
processor seconds and rank by AUROC (1 is best; ties share) over the tables that all
detectors have.

PyOD is taken if it can be imported: `pip install -r benchmarks/requirements.txt`.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import csv
import os
import platform
import sys
import warnings
from collections import defaultdict
from functools import partial
from importlib import import_module
from pathlib import Path
from time import process_time

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.svm import OneClassSVM

from skjko import JKOFlowOutlierDetector
from skjko.outlier_density import default_density

TABLES = (
    "2_annthyroid",
    "4_breastw",
    "6_cardio",
    "7_Cardiotocography",
    "10_cover",
    "12_fault",
    "18_Ionosphere",
    "19_landsat",
    "20_letter",
    "22_magic.gamma",
    "23_mammography",
    "25_musk",
    "26_optdigits",
    "28_pendigits",
    "29_Pima",
    "31_satimage-2",
    "32_shuttle",
    "38_thyroid",
    "40_vowels",
    "43_WDBC",
    "44_Wilt",
)
IMAGES = tuple(
    f"{kind}_{digit}"
    for kind in ("mnist_only", "mnist_without", "digits_without")
    for digit in range(10)
)
N_COMPONENTS, N_IMAGES, N_ODD = 16, 3000, 200
FIELDS = (
    "protocol",
    "set",
    "method",
    "seed",
    "max_samples",
    "n_train",
    "n_features",
    "auroc",
    "average_precision",
    "seconds",
)
KEY = FIELDS[:5]


class Reconstruction:
    """Squared distance to the principal components that have 90 % of the variance."""

    def __init__(self, seed):
        self.pca = PCA(0.9, svd_solver="full")

    def fit(self, X):
        self.pca.fit(X)
        return self

    def score_samples(self, X):
        back = self.pca.inverse_transform(self.pca.transform(X))
        return -((X - back) ** 2).sum(axis=1)


def flow(seed, **parameters):
    return JKOFlowOutlierDetector(random_state=seed, **parameters)


def of_density(seed, **parameters):
    """Make a detector whose density differs from the default one in some parameters."""
    return flow(seed, density=default_density().set_params(**parameters))


SKLEARN = {
    "sklearn IsolationForest": lambda seed: IsolationForest(random_state=seed),
    "sklearn LOF": lambda seed: LocalOutlierFactor(n_neighbors=20, novelty=True),
    "sklearn OneClassSVM": lambda seed: OneClassSVM(),
    "sklearn GaussianMixture(5)": lambda seed: GaussianMixture(
        5, reg_covar=1e-3, random_state=seed
    ),
    "sklearn KernelDensity(0.5)": lambda seed: KernelDensity(bandwidth=0.5),
    "sklearn PCA": Reconstruction,
}
FLOWS = {"skjko": flow}
# What each choice gains.
ABLATIONS = {
    "skjko, all samples train": partial(flow, calibration_fraction=0.0),
    "skjko, likelihood": partial(flow, statistic="likelihood"),
    "skjko, typicality": partial(flow, statistic="typicality"),
    "skjko, flow behind a Gaussian": partial(of_density, init="gaussian"),
    "skjko, mixture alone": partial(of_density, max_blocks=0),
    "skjko, trim 0": partial(flow, trim=0),
    "skjko, trim 0.1": partial(flow, trim=0.1),
}
PYOD = {
    "IForest": ("iforest", True, {}),
    "ECOD": ("ecod", False, {}),
    "KNN": ("knn", False, {}),
    "LOF": ("lof", False, {}),
    "OCSVM": ("ocsvm", False, {}),
    "KDE": ("kde", False, {}),
    "COPOD": ("copod", False, {}),
    "INNE": ("inne", True, {}),
    "LUNAR": ("lunar", False, {}),
    "DIF": ("dif", True, {}),
    "PCA": ("pca", True, {}),
    "AutoEncoder": ("auto_encoder", True, {"verbose": 0}),
    "DeepSVDD": ("deep_svdd", True, {"verbose": 0}),
}


def pyod_detectors():
    """Those that can be imported; the others are named."""
    found = {}
    for name, (module, seeded, parameters) in PYOD.items():
        try:
            kind = getattr(import_module(f"pyod.models.{module}"), name)
        except ImportError as error:
            print(f"skipped: PyOD {name} ({error})", file=sys.stderr)
            continue

        def make(seed, kind=kind, seeded=seeded, name=name, parameters=parameters):
            settings = dict(parameters)
            if seeded:
                settings["random_state"] = seed
            if name == "DeepSVDD":
                settings["n_features"] = None
            return kind(**settings)

        found[f"PyOD {name}"] = make
    return found


def split(X, y, protocol, seed, max_samples):
    """Training samples, test samples and their labels, all standardised."""
    rng = np.random.default_rng(seed)
    normal = rng.permutation(np.flatnonzero(y == 0))
    odd = rng.permutation(np.flatnonzero(y == 1))
    if protocol == "one-class":
        n_normal, n_odd = len(normal) // 2, 0
    else:
        n_normal, n_odd = round(0.7 * len(normal)), round(0.7 * len(odd))
    train = rng.permutation(np.r_[normal[:n_normal], odd[:n_odd]])[:max_samples]
    # The share of anomalies stays: average precision depends on it.
    test = rng.permutation(np.r_[normal[n_normal:], odd[n_odd:]])[:max_samples]
    mean, spread = X[train].mean(axis=0), X[train].std(axis=0)
    spread = np.where(spread > 1e-12, spread, 1.0)
    return (X[train] - mean) / spread, (X[test] - mean) / spread, y[test]


def scores_of(make, X, T, seed):
    """Outlier scores of T, higher for outliers, and processor seconds for all."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (some of PyOD's draw from it)
    start = process_time()
    detector = make(seed)
    if "n_features" in vars(detector):
        detector.n_features = X.shape[1]
    detector.fit(X)
    if type(detector).__module__.startswith("pyod"):
        scores = detector.decision_function(T)
    else:
        scores = -detector.score_samples(T)
    return np.nan_to_num(scores), process_time() - start


def of_images(folder, name):
    """Samples of some digits, with those of the others as anomalies."""
    kind, digit = name.rsplit("_", 1)
    if kind == "digits_without":
        X, y = load_digits(return_X_y=True)
        return X, (y == int(digit)).astype(int)
    with np.load(Path(folder) / "image" / "mnist.npz", allow_pickle=False) as file:
        X, y, is_train = file["X"], file["y"], file["part"] == 0
    is_odd = (y != int(digit)) if kind == "mnist_only" else (y == int(digit))
    pca = PCA(N_COMPONENTS, random_state=0).fit(X[is_train][:10_000].astype(float))
    # Images that the components were not fitted to.
    rows = np.random.default_rng(0).permutation(np.flatnonzero(~is_train))
    rows = np.r_[rows[~is_odd[rows]][:N_IMAGES], rows[is_odd[rows]][:N_ODD]]
    return pca.transform(X[rows].astype(float)), is_odd[rows].astype(int)


def load(folder, name):
    if name in IMAGES:
        return of_images(folder, name)
    path = Path(folder) / "adbench" / f"{name}.npz"
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as file:
        return file["X"].astype(float), file["y"].astype(int)


def read(path):
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run(args, methods):
    done = {tuple(row[k] for k in KEY) for row in read(args.csv)}
    fresh = not args.csv.exists()
    with args.csv.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if fresh:
            writer.writeheader()
        for seed in range(args.seeds):
            for name in args.sets:
                data = load(args.data, name)
                if data is None:
                    print(f"skipped: {name} is not there", file=sys.stderr)
                    continue
                X, T, y = split(*data, args.protocol, seed, args.max_samples)
                for method, make in methods.items():
                    key = (
                        args.protocol,
                        name,
                        method,
                        str(seed),
                        str(args.max_samples),
                    )
                    if key in done:
                        continue
                    try:
                        scores, seconds = scores_of(make, X, T, seed)
                    except Exception as error:  # a failure is a result too
                        if method.startswith("skjko"):
                            raise
                        print(f"failed: {method} on {name}: {error}", file=sys.stderr)
                        continue
                    values = (
                        *key,
                        *X.shape,
                        f"{roc_auc_score(y, scores):.5f}",
                        f"{average_precision_score(y, scores):.5f}",
                        f"{seconds:.2f}",
                    )
                    writer.writerow(dict(zip(FIELDS, values, strict=True)))
                    file.flush()
                    print(*values, file=sys.stderr, flush=True)


def summary(rows, names):
    """Markdown lines over the sets that every method has, best mean AUROC first."""
    table = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["set"] in names:
            numbers = [float(row[k]) for k in FIELDS[-3:]]
            table[row["method"]][row["set"], row["seed"]].append(numbers)
    if not table:
        return []
    shared = sorted(set.intersection(*(set(cells) for cells in table.values())))
    methods = list(table)
    values = np.array([[table[m][c][0] for c in shared] for m in methods])
    if not shared:
        return ["(no table that all detectors have)"]
    ranks = np.stack([rankdata(-v.round(4)) for v in values[:, :, 0].T], axis=1)
    lines = [
        f"{len(shared)} runs on {len({s for s, _ in shared})} tables",
        "",
        "| detector | AUROC | average precision | mean rank | seconds |",
        "|---|---|---|---|---|",
    ]
    means = values.mean(axis=1)
    for i in np.argsort(-means[:, 0]):
        a, p, seconds = means[i]
        lines.append(
            f"| {methods[i]} | {a:.3f} | {p:.3f} | {ranks[i].mean():.2f} "
            f"| {seconds:.1f} |"
        )
    return lines


def by_set(rows, names, methods):
    """AUROC of every set, in Markdown."""
    cells = defaultdict(list)
    for row in rows:
        cells[row["set"], row["method"]].append(float(row["auroc"]))
    lines = [f"| table | {' | '.join(methods)} |", "|---" * (len(methods) + 1) + "|"]
    for name in names:
        values = [cells.get((name, m)) for m in methods]
        texts = ["" if v is None else f"{np.mean(v):.3f}" for v in values]
        lines.append(f"| {name} | {' | '.join(texts)} |")
    return lines


def report(args, methods):
    rows = [
        row
        for row in read(args.csv)
        if row["protocol"] == args.protocol
        and row["max_samples"] == str(args.max_samples)
        and row["method"] in methods
    ]
    have = [m for m in methods if any(row["method"] == m for row in rows)]
    print(
        f"{args.protocol}; at most {args.max_samples} samples to train and to test; "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )
    print(
        "\n".join(["", *summary(rows, args.sets), "", *by_set(rows, args.sets, have)])
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("SKJKO_BENCH_DATA"))
    parser.add_argument(
        "--protocol", choices=["one-class", "contaminated"], default="one-class"
    )
    parser.add_argument("--sets", nargs="+", default=TABLES)
    parser.add_argument(
        "--images", dest="sets", action="store_const", const=IMAGES, help="as tables"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--max-samples", type=int, default=5000)
    parser.add_argument("--ablations", action="store_true", help="of the flow instead")
    parser.add_argument("--methods", nargs="+", help="only those with one of these")
    parser.add_argument("--csv", type=Path, default=Path("outliers.csv"))
    parser.add_argument(
        "--report", action="store_true", help="run nothing, report all of the file"
    )
    args = parser.parse_args()
    if args.report:
        methods = dict.fromkeys(row["method"] for row in read(args.csv))
    elif args.ablations:
        methods = FLOWS | ABLATIONS
    else:
        methods = FLOWS | SKLEARN | pyod_detectors()
    if args.methods:
        methods = {
            m: v for m, v in methods.items() if any(k in m for k in args.methods)
        }
    warnings.simplefilter("ignore")
    if not args.report:
        if args.data is None:
            parser.error("name the folder of data: --data or SKJKO_BENCH_DATA")
        run(args, methods)
    report(args, methods)


if __name__ == "__main__":
    main()
