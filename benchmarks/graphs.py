"""Sensors on a graph: the density of their next values, given those before.

    SKJKO_BENCH_DATA=folder OMP_NUM_THREADS=1 python -m benchmarks.graphs --seeds 5 \\
        --out rows.jsonl
    python -m benchmarks.graphs --report rows.jsonl

The folder has `graph/solar_ca.npz` (diffuse irradiance of nine cities, hourly) and
`graph/traffic_los.npz` (speeds at 15 loops, every five minutes): X, the values at a
time, and y, the values before and what is known of the time. What is not there is
skipped. Values are on grids, on which a density has no bound: uniform noise over a step
is added for all methods alike. Tests are on later time: the last six days of every
month, or the last of the seven days of traffic. Seeds are those of the noise and of the
fits.

The graph of the roads comes with the data. Cities are joined to the three whose values
are closest to theirs by correlation, in training. "wrong graph" has the same edges
between other nodes.

Flows have one block at most, and the location from a linear regression; that and one
normal distribution of residuals are the vector autoregression. No other transforms are
tried (`transforms=None`): the fields are compared, not what stands in front of them.
NSF is zuko's, of the same residuals. Printed are the mean of -log p of the test samples
in nats a row, in units of the data; the squared maximum mean discrepancy between test
samples and samples given the same condition, both beside the condition and scaled by
its standard deviations; and processor seconds of fit, scores and samples.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import os
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.linear_model import LinearRegression

from benchmarks import json_lines
from skjko import GraphField, JKOFlowConditionalDensity, MLPField, metrics

# Step of the values' grid.
DATA = {"solar_ca": 1.0, "traffic_los": 0.125}
N_LATER = 6  # days of every month
N_PART = 36  # rows, of three hours of traffic


def load(name):
    """Return values, those before, the time, days, which are of tests, and edges."""
    folder = Path(os.environ.get("SKJKO_BENCH_DATA", ".")) / "graph"
    path = folder / f"{name}.npz"
    if not path.exists():
        return None
    with np.load(path) as file:
        Y, given = file["X"].astype(float), file["y"].astype(float)
        edges = None
        if "adj" in file:
            nodes = file["nodes"]
            edges = file["adj"][nodes][:, nodes].astype(float)
            edges = np.maximum(edges, edges.T)
            np.fill_diagonal(edges, 0.0)
    d = Y.shape[1]
    clock = given[:, -1]
    days = np.cumsum(np.diff(clock, prepend=clock[0]) < 0)
    angle = 2 * np.pi * clock / (24 if edges is None else 24 * 60)
    when = np.column_stack([np.sin(angle), np.cos(angle), given[:, d:-1]])
    # The month is the last column but one, where there is more than a week.
    month = given[:, -2] if given.shape[1] > d + 1 else np.zeros(len(given))
    is_test = np.zeros(len(Y), dtype=bool)
    for one in np.unique(month):
        own = np.unique(days[month == one])
        is_test |= np.isin(days, own[-N_LATER if len(own) > 7 else -1 :])
    return Y, given[:, :d], when, days, is_test, edges


def nearest(Y, n_neighbours=3):
    """Edges between nodes whose values are most correlated."""
    correlation = np.corrcoef(Y.T)
    np.fill_diagonal(correlation, -1)
    edges = np.zeros_like(correlation)
    for i, row in enumerate(correlation):
        edges[i, np.argsort(-row)[:n_neighbours]] = 1
    return np.maximum(edges, edges.T)


def split(name, seed):
    """Return training and test samples, their days, and the edges."""
    Y, before, when, days, is_test, edges = load(name)
    step = DATA[name]
    rng = np.random.RandomState(seed)
    # The values before get their own noise: it is the same as that of the row before.
    noise = rng.uniform(0, step, (len(Y) + 1, Y.shape[1]))
    follows = np.append(False, (before[1:] == Y[:-1]).all(axis=1))
    lagged = rng.uniform(0, step, Y.shape)
    lagged[follows] = noise[:-1][np.flatnonzero(follows) - 1]
    X, Y = np.hstack([before + lagged, when]), Y + noise[:-1]
    edges = nearest(Y[~is_test]) if edges is None else edges
    # Validation takes whole days out of many, or parts of a few.
    parts = days if len(np.unique(days)) > 50 else np.arange(len(Y)) // N_PART
    return (
        (X[~is_test], Y[~is_test], parts[~is_test]),
        (X[is_test], Y[is_test]),
        edges,
    )


def flow(field, seed, train, test, iterations):
    """Fit a flow with a field; return log-densities and samples of the test samples."""
    model = JKOFlowConditionalDensity(
        regressor=LinearRegression(),
        field=field,
        init="gaussian",
        transforms=None,
        discrete=None,
        max_blocks=1,
        max_iter=iterations,
        random_state=seed,
    ).fit(*train[:2], groups=train[2])
    X, Y = test
    drawn = model.sample(X, n_samples=1, random_state=seed).reshape(Y.shape)
    return model.score_samples(X, Y), drawn, {"blocks": model.n_blocks_}


def on_graph(seed, train, test, edges, iterations):
    """Fit the field on the graph."""
    field = GraphField(edges, n_node_conditions=1)
    return flow(field, seed, train, test, iterations)


def on_wrong_graph(seed, train, test, edges, iterations):
    """Fit the field on a graph with the same edges between other nodes."""
    order = np.random.RandomState(seed).permutation(len(edges))
    return on_graph(seed, train, test, edges[order][:, order], iterations)


def mlp(seed, train, test, edges, iterations):
    """Fit the default field."""
    return flow(MLPField(), seed, train, test, iterations)


def autoregression(seed, train, test, edges, iterations):
    """Fit a linear regression with normal residuals."""
    X, Y, _ = train
    model = LinearRegression().fit(X, Y)
    residuals = Y - model.predict(X)
    n_free = len(X) - X.shape[1] - 1
    root = np.linalg.cholesky(residuals.T @ residuals / n_free)
    mean = model.predict(test[0])
    Z = np.linalg.solve(root, (test[1] - mean).T).T
    scores = -0.5 * (Z**2).sum(axis=1) - 0.5 * Z.shape[1] * np.log(2 * np.pi)
    scores -= np.log(np.diag(root)).sum()
    rng = np.random.RandomState(seed)
    return scores, mean + rng.standard_normal(Z.shape) @ root.T, {}


def nsf(seed, train, test, edges, iterations, max_epochs=60, patience=10):
    """Fit a conditional neural spline flow to residuals of a linear regression."""
    import torch
    import zuko

    torch.manual_seed(seed)
    X, Y, parts = train
    regression = LinearRegression().fit(X, Y)
    residuals = Y - regression.predict(X)
    width, (centre, spread) = residuals.std(axis=0), (X.mean(axis=0), X.std(axis=0))

    def tensors(X, Y):
        R = (Y - regression.predict(X)) / width
        return torch.tensor(R).float(), torch.tensor((X - centre) / spread).float()

    is_val = np.isin(parts, np.unique(parts)[::10])
    R, C = tensors(X[~is_val], Y[~is_val])
    R_val, C_val = tensors(X[is_val], Y[is_val])
    model = zuko.flows.NSF(
        R.shape[1], C.shape[1], transforms=3, hidden_features=[64] * 2
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    best, state, n_worse = np.inf, None, 0
    for _ in range(max_epochs):
        for index in torch.randperm(len(R)).split(128):
            loss = -model(C[index]).log_prob(R[index]).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
        with torch.no_grad():
            value = -model(C_val).log_prob(R_val).mean().item()
        n_worse += 1
        if value < best:
            best, n_worse = value, 0
            state = {k: v.clone() for k, v in model.state_dict().items()}
        if n_worse >= patience:
            break
    model.load_state_dict(state)
    R, C = tensors(*test)
    with torch.no_grad():
        scores = model(C).log_prob(R).numpy() - np.log(width).sum()
        drawn = model(C).sample().numpy() * width + regression.predict(test[0])
    return scores, drawn, {}


METHODS = {
    "GraphField": on_graph,
    "GraphField, wrong graph": on_wrong_graph,
    "MLPField": mlp,
    "vector autoregression": autoregression,
    "conditional NSF": nsf,
}


def discrepancy(test, drawn, rng):
    """Squared MMD of test samples and drawn ones, beside the same conditions."""
    X, Y = test
    before = X[:, : Y.shape[1]]
    scale = np.tile(Y.std(axis=0), 2)
    real, made = (np.hstack([values, before]) / scale for values in (Y, drawn))
    # The two sets of samples have no rows in common.
    order = rng.permutation(len(Y))
    half = len(Y) // 2
    return float(metrics.mmd(real[order[:half]], made[order[half : 2 * half]]))


def run(names, methods, seeds, iterations):
    """Yield a result for every table, seed and method."""
    for seed in seeds:
        for name in names:
            if load(name) is None:
                continue
            train, test, edges = split(name, seed)
            for method in methods:
                start = time.process_time()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    try:
                        scores, drawn, more = METHODS[method](
                            seed, train, test, edges, iterations
                        )
                    except ImportError:
                        continue
                seconds = time.process_time() - start
                yield {
                    "data": name,
                    "seed": seed,
                    "method": method,
                    "nll": -float(np.mean(scores)),
                    "worst": -float(np.min(scores)),
                    "mmd": discrepancy(test, drawn, np.random.RandomState(seed)),
                    "seconds": round(seconds, 1),
                    **more,
                }


def report(rows):
    """Print a table of means and standard errors over the seeds."""
    print("| data | method | seeds | -log p, nats a row | MMD² | seconds |")
    print("|---|---|---|---|---|---|")
    for data, method in dict.fromkeys((r["data"], r["method"]) for r in rows):
        some = [r for r in rows if (r["data"], r["method"]) == (data, method)]

        def told(key, digits, some=some):
            values = np.array([r[key] for r in some])
            if len(values) == 1:
                return f"{values[0]:.{digits}f}"
            error = values.std(ddof=1) / np.sqrt(len(values))
            return f"{values.mean():.{digits}f} ± {error:.{digits}f}"

        print(
            f"| {data} | {method} | {len(some)} | {told('nll', 2)} | {told('mmd', 4)} "
            f"| {told('seconds', 0)} |"
        )


def main():
    """Run the benchmark, or report what was run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=list(DATA))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=60, help="of a block")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    json_lines.add_options(parser)
    options = parser.parse_args()
    if options.report:
        report(json_lines.read(options.report))
        return
    seeds = range(options.first, options.first + options.seeds)
    rows = run(options.data, options.methods, seeds, options.iterations)
    report(json_lines.written(rows, options.out))


if __name__ == "__main__":
    main()
