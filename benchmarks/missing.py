"""Densities of tables with missing values, beside what one would do by hand.

    SKJKO_BENCH_DATA=folder OMP_NUM_THREADS=1 python benchmarks/missing.py

For sets of the suite (seed 0, as the suite splits and standardises them) every value of
the training samples is missing with a probability of `--share`, at random. Fits under
the same time limit, on the same samples: "none missing" sees all values; "as they are"
has the missing ones as NaN; "complete rows" drops rows that lack any; "imputed" fills
them by scikit-learn's IterativeImputer with draws from its posterior; "mean" by their
features' means. The columns are NLL in nats of complete test samples, then of "as they
are" the distance to "none missing" with its paired standard error; the number of
imputations that scores of incomplete samples average over, their error, and how many
samples a second are scored, complete and not. Prints a Markdown table.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import warnings
from time import perf_counter

import numpy as np
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, SimpleImputer
from suite import machine, sets

from skjko import JKOFlowDensity

SETS = ("kin8nm", "power_plant", "wine_red", "protein", "abalone")
WAYS = ("none missing", "as they are", "complete rows", "imputed", "mean")


def training_samples(way, complete, incomplete):
    """Return the training samples that a way of treating missing values fits to."""
    if way == "none missing":
        return complete
    if way == "as they are":
        return incomplete
    if way == "complete rows":
        return incomplete[~np.isnan(incomplete).any(axis=1)]
    if way == "mean":
        return SimpleImputer().fit_transform(incomplete)
    imputer = IterativeImputer(sample_posterior=True, random_state=0)
    with warnings.catch_warnings():
        # That it has not converged after its ten rounds.
        warnings.simplefilter("ignore")
        return imputer.fit_transform(incomplete)


def rate(model, X):
    """Return how many samples a second are scored."""
    start = perf_counter()
    model.score_samples(X)
    return len(X) / (perf_counter() - start)


def line(name, case, args):
    """Return one row of the table."""
    rng = np.random.default_rng(0)
    incomplete = case.train.astype(float)
    incomplete[rng.random(incomplete.shape) < args.share] = np.nan
    scores, models = {}, {}
    for way in WAYS:
        model = JKOFlowDensity(time_limit=args.seconds, random_state=0)
        X = training_samples(way, case.train, incomplete)
        models[way] = model.fit(X)
        scores[way] = model.score_samples(case.test)
    model = models["as they are"]
    difference = scores["none missing"] - scores["as they are"]
    error = difference.std() / np.sqrt(len(difference))
    test = case.test.astype(float)
    test[rng.random(test.shape) < args.share] = np.nan
    some = test[np.isnan(test).any(axis=1)][:500]
    cells = [
        name,
        "{}, {}".format(*case.train.shape),
        *(f"{-scores[way].mean():.3f}" for way in WAYS),
        f"{difference.mean():+.3f} ± {error:.3f}",
        model.missing_.n_draws,
        f"{model.missing_.error:.3f}",
        f"{rate(model, case.test):.0f}",
        f"{rate(model, some):.0f}",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--max-test", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20, help="limit of a fit")
    parser.add_argument("--share", type=float, default=0.1, help="of missing values")
    args = parser.parse_args()
    columns = (
        *("set", "rows, columns", *WAYS, "as they are - none missing", "draws"),
        *("error", "rows/s", "incomplete rows/s"),
    )
    print(f"{machine.processor()}, commit {machine.commit()}\n")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    registry = sets.registry()
    for name in args.sets:
        if name in registry:
            case = sets.make(registry[name], 0, args.max_test)
            print(line(name, case, args), flush=True)


if __name__ == "__main__":
    main()
