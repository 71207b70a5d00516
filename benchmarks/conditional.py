"""Conditional densities on the UCI regression tables, with their standard splits.

For every table: the mean of -log p(y | x) of the test samples in nats and units of y,
its standard error over the splits, coverage of 90 % intervals, CRPS, RMSE of the mean,
and processor seconds of a fit and of all scores. Beside skjko stand its density without
blocks, quantiles by gradient boosting (which have no density), a deep ensemble of five
mean-variance networks, a Gaussian process (at most 2000 training samples), and, if they
are installed, NGBoost and the conditional neural spline flow of zuko.

    python -m benchmarks.conditional --tables yacht,boston --splits 20 --out rows.jsonl
    python -m benchmarks.conditional --report rows.jsonl

The tables come from the folder in SKJKO_BENCH_DATA: `uci/NAME.npz` with X, y and the
packed bits of `test_mask`. What is not there is skipped.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import os
import time
import warnings
from pathlib import Path

import numpy as np

from benchmarks import json_lines

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
        X = file["X"].astype(float)
        # Single precision: 0.95 is 0.949999988, which no interval [0.95, 0.95] covers.
        y = np.array([float(str(value)) for value in file["y"]])
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


def standardized(train, test):
    """Return X and y of zero mean and unit variance in training, and y's scale."""
    (X, y), (X_test, _) = train, test
    centre, width = X.mean(axis=0), X.std(axis=0)
    width[width == 0] = 1
    mean, scale = y.mean(), y.std()
    Z, Z_test = (X - centre) / width, (X_test - centre) / width
    return Z, (y - mean) / scale, Z_test, mean, scale


def gaussian_process(split, train, test):
    """Fit a Gaussian process with a length scale for every feature, and noise."""
    from scipy.stats import norm
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    if len(train[1]) > 2000:
        raise ImportError("too many samples")
    X, t, X_test, mean, scale = standardized(train, test)
    kernel = ConstantKernel() * RBF(np.full(X.shape[1], 2.0)) + WhiteKernel(0.1)
    model = GaussianProcessRegressor(kernel, random_state=split).fit(X, t)
    m, s = model.predict(X_test, return_std=True)
    found, y = norm(mean + scale * m, scale * s), test[1]
    quantiles = np.column_stack([found.ppf(level) for level in LEVELS])
    nll = -float(np.mean(found.logpdf(y)))
    return {"nll": nll, **of_quantiles(y, quantiles, found.mean())}


def deep_ensemble(split, train, test, n_networks=5, n_epochs=40, hidden=50):
    """Train mean-variance networks; the density is one Gaussian, as in the paper.

    B. Lakshminarayanan, A. Pritzel, C. Blundell, NeurIPS 2017: one hidden layer of 50
    units, 40 epochs of Adam, moments of the mixture. The learning rate is the one of
    0.1, 0.03 and 0.01 with the least loss on a fifth of the training samples.
    """
    import torch
    from scipy.stats import norm

    X, t, X_test, mean, scale = standardized(train, test)
    X, t, X_test = (torch.tensor(a, dtype=torch.float32) for a in (X, t, X_test))

    def moments(net, x):
        m, v = net(x).unbind(1)
        return m, torch.nn.functional.softplus(v) + 1e-6

    def loss(net, x, target):
        m, v = moments(net, x)
        return (0.5 * v.log() + 0.5 * (target - m) ** 2 / v).mean()

    def trained(rows, rate, seed):
        torch.manual_seed(seed)
        net = torch.nn.Sequential(
            torch.nn.Linear(X.shape[1], hidden),
            torch.nn.ReLU(),
            torch.nn.Linear(hidden, 2),
        )
        optimizer = torch.optim.Adam(net.parameters(), lr=rate)
        for _ in range(n_epochs):
            for some in rows[torch.randperm(len(rows))].split(100):
                optimizer.zero_grad()
                loss(net, X[some], t[some]).backward()
                optimizer.step()
        return net

    order = torch.randperm(len(t), generator=torch.Generator().manual_seed(split))
    rest, fit = order[: len(t) // 5], order[len(t) // 5 :]
    with torch.random.fork_rng():
        by_rate = {
            rate: float(loss(trained(fit, rate, split), X[rest], t[rest]))
            for rate in (0.1, 0.03, 0.01)
        }
        rate = min(by_rate, key=by_rate.get)
        nets = [trained(order, rate, 100 * split + i) for i in range(n_networks)]
    with torch.no_grad():
        found = [moments(net, X_test) for net in nets]
    m = np.mean([m.numpy() for m, _ in found], axis=0, dtype=float)
    square = np.mean([(v + m**2).numpy() for m, v in found], axis=0, dtype=float)
    one, y = norm(mean + scale * m, scale * np.sqrt(square - m**2)), test[1]
    quantiles = np.column_stack([one.ppf(level) for level in LEVELS])
    return {
        "nll": -float(np.mean(one.logpdf(y))),
        **of_quantiles(y, quantiles, one.mean()),
    }


def spline_flow(split, train, test, n_epochs=200, n_draws=1000):
    """Train zuko's neural spline flow given X; a fifth of the samples stops it."""
    import copy

    import torch
    import zuko

    X, t, X_test, mean, scale = standardized(train, test)
    X, t, X_test = (torch.tensor(a, dtype=torch.float32) for a in (X, t, X_test))
    with torch.random.fork_rng():
        torch.manual_seed(split)
        flow = zuko.flows.NSF(1, X.shape[1], transforms=2, hidden_features=(64, 64))
        order = torch.randperm(len(t))
        rest, fit = order[: len(t) // 5], order[len(t) // 5 :]
        optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3, weight_decay=1e-5)
        best, since, kept = np.inf, 0, None
        for _ in range(n_epochs):
            for some in fit[torch.randperm(len(fit))].split(128):
                optimizer.zero_grad()
                (-flow(X[some]).log_prob(t[some, None]).mean()).backward()
                torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
                optimizer.step()
            with torch.no_grad():
                value = -float(flow(X[rest]).log_prob(t[rest, None]).mean())
            since += 1
            if value < best:
                best, since, kept = value, 0, copy.deepcopy(flow.state_dict())
            if since > 20:
                break
        flow.load_state_dict(kept)
        y = torch.tensor((test[1] - mean) / scale, dtype=torch.float32)[:, None]
        with torch.no_grad():
            log_density = flow(X_test).log_prob(y).double().numpy() - np.log(scale)
            draws = flow(X_test).sample((n_draws,))[..., 0].double().numpy()
    draws = mean + scale * draws
    quantiles = np.quantile(draws, LEVELS, axis=0).T
    nll = -float(np.mean(log_density))
    return {"nll": nll, **of_quantiles(test[1], quantiles, draws.mean(axis=0))}


METHODS = {
    "skjko": skjko,
    "no blocks": no_blocks,
    "boosted quantiles": boosted_quantiles,
    "ngboost": ngboost,
    "deep ensemble": deep_ensemble,
    "gaussian process": gaussian_process,
    "spline flow": spline_flow,
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
    """Print a table of means and standard errors, and of what blocks gained.

    "- skjko" is the difference of -log p to that of skjko on the same splits.
    """
    print(
        "| table | method | splits | -log p | - skjko | published | coverage | CRPS "
        "| RMSE | seconds | fits with blocks | their gain in validation |"
    )
    print(f"|{'---|' * 12}")
    own = {(r["table"], r["split"]): r["nll"] for r in rows if r["method"] == "skjko"}
    for r in rows:
        if "nll" in r and r["method"] != "skjko" and (r["table"], r["split"]) in own:
            r["behind"] = r["nll"] - own[r["table"], r["split"]]
    keys = dict.fromkeys((r["table"], r["method"]) for r in rows)
    order = {name: i for i, name in enumerate(TABLES.split(","))}
    for table, method in sorted(keys, key=lambda key: order[key[0]]):
        some = [r for r in rows if (r["table"], r["method"]) == (table, method)]

        def told(key, digits, some=some):
            values = np.array([r[key] for r in some if key in r])
            if not len(values):
                return "-"
            if len(values) == 1:
                return f"{values[0]:.{digits}f}"
            error = values.std(ddof=1) / np.sqrt(len(values))
            return f"{values.mean():.{digits}f} ± {error:.{digits}f}"

        coverage = 100 * np.mean([r["coverage"] for r in some])
        gains = [r["gain"] for r in some if r.get("blocks")]
        gain = f"{np.mean(gains):.2f}" if gains else "-"
        n_kept = len(gains) if "blocks" in some[0] else "-"
        print(
            f"| {table} | {method} | {len(some)} | {told('nll', 2)} "
            f"| {told('behind', 2)} | {PUBLISHED[table]:.2f} | {coverage:.1f} % "
            f"| {told('crps', 3)} | {told('rmse', 3)} | {told('seconds', 0)} "
            f"| {n_kept} | {gain} |"
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
    json_lines.add_options(parser)
    options = parser.parse_args()
    if options.report:
        report(json_lines.read(options.report))
        return
    splits = range(options.first, options.first + options.splits)
    methods = options.methods.split(",")
    rows = run(options.tables.split(","), methods, splits, options.limit)
    report(json_lines.written(rows, options.out))


if __name__ == "__main__":
    main()
