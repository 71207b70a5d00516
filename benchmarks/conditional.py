"""Conditional densities on the UCI regression tables, with their standard splits.

For every table: the mean of -log p(y | x) of the test samples in nats and units of y,
its standard error over the splits, coverage of 90 % intervals, CRPS, RMSE of the mean,
and processor seconds of a fit and of all scores. Beside skjko stand its density without
blocks, quantiles by gradient boosting (which have no density), and NGBoost if it is
installed.

    python -m benchmarks.conditional --tables yacht,boston --splits 20 --out rows.jsonl
    python -m benchmarks.conditional --report rows.jsonl

The tables come from the folder in SKJKO_BENCH_DATA: `uci/NAME.npz` with X, y and the
packed bits of `test_mask`. What is not there is skipped.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import json
import os
import time
import warnings
from pathlib import Path

import numpy as np

TABLES = "yacht,boston,energy,concrete,wine_red,power_plant,kin8nm,naval,protein"

# Best credible numbers of published methods, with the same splits.
PUBLISHED = {
    "boston": 2.40,
    "concrete": 2.93,
    "energy": 0.58,
    "kin8nm": -1.28,
    "naval": -6.33,
    "power_plant": 2.77,
    "protein": 2.77,
    "wine_red": 0.91,
    "yacht": 0.20,
}
LEVELS = np.arange(0.05, 0.96, 0.05)


def load(name):
    """Return X, y and the masks of the test samples, or None."""
    path = Path(os.environ.get("SKJKO_BENCH_DATA", ".")) / "uci" / f"{name}.npz"
    if not path.exists():
        return None
    with np.load(path) as file:
        X, y = file["X"].astype(float), file["y"].astype(float)
        masks = np.unpackbits(file["test_mask"], axis=1)[:, : len(X)].astype(bool)
    return X, y, masks


def pinball(y, quantiles):
    """Return the mean quantile loss over the levels, times two: about the CRPS."""
    error = y[:, np.newaxis] - quantiles
    return float(2 * np.maximum(LEVELS * error, (LEVELS - 1) * error).mean())


def of_quantiles(y, quantiles, mean):
    """Return what quantiles at the levels, and a mean, come to."""
    inside = (y >= quantiles[:, 0]) & (y <= quantiles[:, -1])
    return {
        "coverage": float(inside.mean()),
        "crps": pinball(y, quantiles),
        "rmse": float(np.sqrt(np.mean((y - mean) ** 2))),
    }


def skjko(split, train, test, **parameters):
    """Fit the conditional density."""
    from skjko import JKOFlowConditionalDensity

    model = JKOFlowConditionalDensity(random_state=split, **parameters).fit(*train)
    X, y = test
    result = of_quantiles(y, model.predict_quantile(X, LEVELS), model.predict(X))
    shares = [one.weights.round(2).tolist() for one in model.condition_.locations]
    return {
        "nll": -model.score(X, y),
        "worst": -float(model.score_samples(X, y).min()),
        "blocks": model.n_blocks_,
        "gain": float(np.ptp(model.validation_scores_[[0, -1]])),
        "step": float(model.support_.grid.step[0]),
        "transforms": [type(one).__name__ for one in model.transforms_],
        "shares": shares,
        **result,
    }


def no_blocks(split, train, test):
    """Fit the same without a flow."""
    return skjko(split, train, test, max_blocks=0)


def boosted_quantiles(split, train, test):
    """Fit gradient boosting to each level."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    def fitted(**loss):
        one = HistGradientBoostingRegressor(random_state=split, **loss)
        return one.fit(*train).predict(test[0])

    quantiles = [fitted(loss="quantile", quantile=level) for level in LEVELS]
    return of_quantiles(test[1], np.sort(np.column_stack(quantiles), axis=1), fitted())


def ngboost(split, train, test):
    """Fit NGBoost with its defaults."""
    from ngboost import NGBRegressor

    model = NGBRegressor(verbose=False, random_state=split).fit(*train)
    X, y = test
    found = model.pred_dist(X)
    quantiles = np.column_stack([found.ppf(level) for level in LEVELS])
    nll = -float(np.mean(found.logpdf(y)))
    return {"nll": nll, **of_quantiles(y, quantiles, model.predict(X))}


METHODS = {
    "skjko": skjko,
    "no blocks": no_blocks,
    "boosted quantiles": boosted_quantiles,
    "ngboost": ngboost,
}


def run(names, methods, splits, limit):
    """Yield a result for every table, split and method."""
    begin = time.perf_counter()
    for split in splits:
        for name in names:
            data = load(name)
            if data is None or split >= len(data[2]):
                continue
            X, y, masks = data
            test = masks[split]
            for method in methods:
                if time.perf_counter() - begin > limit:
                    return
                start = time.process_time()
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        result = METHODS[method](
                            split, (X[~test], y[~test]), (X[test], y[test])
                        )
                except ImportError:
                    continue
                seconds = round(time.process_time() - start, 1)
                yield {
                    "table": name,
                    "split": split,
                    "method": method,
                    **result,
                    "seconds": seconds,
                }


def report(rows):
    """Print a table of means and standard errors."""
    print(
        "| table | method | splits | -log p | published | coverage | CRPS | RMSE "
        "| seconds |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    keys = dict.fromkeys((r["table"], r["method"]) for r in rows)
    order = {name: i for i, name in enumerate(TABLES.split(","))}
    for table, method in sorted(keys, key=lambda key: order[key[0]]):
        some = [r for r in rows if (r["table"], r["method"]) == (table, method)]

        def told(key, digits, some=some):
            values = np.array([r[key] for r in some if key in r])
            if not len(values):
                return "-"
            error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0
            return f"{values.mean():.{digits}f} ± {error:.{digits}f}"

        coverage = 100 * np.mean([r["coverage"] for r in some])
        print(
            f"| {table} | {method} | {len(some)} | {told('nll', 2)} "
            f"| {PUBLISHED[table]:.2f} | {coverage:.1f} % | {told('crps', 3)} "
            f"| {told('rmse', 3)} | {told('seconds', 0)} |"
        )


def main():
    """Run the benchmark, or report what was run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", default=TABLES)
    parser.add_argument("--methods", default="skjko,no blocks,boosted quantiles")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first split"
    )
    parser.add_argument("--limit", type=float, default=np.inf, help="seconds in all")
    parser.add_argument("--out", help="file that gets a line of JSON for each result")
    parser.add_argument("--report", help="file of such lines; nothing is run")
    options = parser.parse_args()
    if options.report:
        lines = Path(options.report).read_text(encoding="utf-8").splitlines()
        report([json.loads(line) for line in lines])
        return
    rows = []
    splits = range(options.first, options.first + options.splits)
    methods = options.methods.split(",")
    for row in run(options.tables.split(","), methods, splits, options.limit):
        rows.append(row)
        print(json.dumps(row), flush=True)
        if options.out:
            with open(options.out, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    report(rows)


if __name__ == "__main__":
    main()
