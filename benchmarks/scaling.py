"""Cost of skjko by the number of samples, features and blocks.

    python benchmarks/scaling.py --out folder [--samples 1000 10000] [--features 2 10]

One number grows at a time; the others are at their values below. Every point is a fit
of the flow (`init="gaussian"`) with a fixed number of iterations, in a process of its
own, so that its peak memory is its own. Writes scaling.csv and scaling.png, and prints
the slopes: the power of the number that the seconds and the megabytes grow with, fitted
to the largest sizes, where constant costs weigh less.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
from suite import machine

SAMPLES = (1_000, 10_000, 100_000, 1_000_000)
FEATURES = (2, 5, 10, 50, 200, 500)
BLOCKS = (1, 2, 4, 8, 16)
# The values of the others while one grows.
STANDARD = {"samples": 10_000, "features": 10, "blocks": 2}
MEASURES = {
    "fit_s": "fit, s",
    "score_s": "score_samples, s",
    "sample_s": "sample, s",
    "peak_mb": "peak memory of fit, MB",
}
FIELDS = ("grows", "samples", "features", "blocks", "iterations", "n_blocks", *MEASURES)


def child(point):
    """Measure one point in this process; print it."""
    import torch

    from skjko import JKOFlowDensity, datasets

    torch.set_num_threads(point["threads"])
    truth = datasets.correlated_mixture(point["features"])
    n = point["samples"]
    # The first fit of a process imports more.
    JKOFlowDensity(max_blocks=1, max_iter=1).fit(truth.sample(50, random_state=1))
    X = truth.sample(n, random_state=0)
    machine.forget_peak()
    before = machine.peak_memory()
    # With early stopping the data would decide on the number of blocks.
    model = JKOFlowDensity(
        init="gaussian",
        max_blocks=point["blocks"],
        max_iter=point["iterations"],
        early_stopping=False,
        random_state=0,
    )
    start = perf_counter()
    model.fit(X)
    point["fit_s"] = perf_counter() - start
    point["n_blocks"] = model.n_blocks_
    point["peak_mb"] = max(machine.peak_memory() - before, 0.1)
    start = perf_counter()
    model.score_samples(X)
    point["score_s"] = perf_counter() - start
    start = perf_counter()
    model.sample(n, random_state=0)
    point["sample_s"] = perf_counter() - start
    print(json.dumps(point))


def measure(point):
    """Measure one point in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps(point)],
        env=machine.child_environment(point["threads"]),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["killed"])[-1]
        print(f"failed: {last}", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def slope(sizes, values):
    """Power law fitted to the last three sizes; nan for a single one."""
    if len(sizes) < 2:
        return float("nan")
    return np.polyfit(np.log(sizes[-3:]), np.log(values[-3:]), 1)[0]


def plot(points, path):
    """Log-log plots: a panel for each number that grows and each measure."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(STANDARD), len(MEASURES), figsize=(13, 8), layout="constrained"
    )
    for grows, row in zip(STANDARD, axes, strict=True):
        some = [p for p in points if p["grows"] == grows]
        sizes = np.array([p[grows] for p in some], dtype=float)
        for (name, title), axis in zip(MEASURES.items(), row, strict=True):
            values = np.array([p[name] for p in some])
            axis.set_xlabel(grows)
            axis.set_title(title, fontsize=9)
            if not len(values):
                continue
            axis.loglog(sizes, values, "o-")
            power = slope(sizes, values)
            axis.set_title(f"{title}: power {power:.2f}", fontsize=9)
    figure.savefig(path, dpi=130)


def main():
    """Measure all points."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--samples", type=int, nargs="*", default=SAMPLES)
    parser.add_argument("--features", type=int, nargs="*", default=FEATURES)
    parser.add_argument("--blocks", type=int, nargs="*", default=BLOCKS)
    parser.add_argument("--iterations", type=int, default=50, help="of every block")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("scaling-results"))
    args = parser.parse_args()
    if args.child:
        child(args.child)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    print(f"{machine.processor()}, {args.threads} threads; else {STANDARD}\n")
    points = []
    with (args.out / "scaling.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, extrasaction="ignore")
        writer.writeheader()
        for grows in STANDARD:
            for size in sorted(getattr(args, grows)):
                point = {
                    **STANDARD,
                    grows: size,
                    "grows": grows,
                    "iterations": args.iterations,
                    "threads": args.threads,
                }
                result = measure(point)
                if result is None:
                    continue
                points.append(result)
                writer.writerow(result)
                file.flush()
                shown = ", ".join(f"{k} {result[k]:.3g}" for k in MEASURES)
                print(f"{grows} {size}: {shown}", flush=True)
    print("\n| grows | " + " | ".join(MEASURES.values()) + " |")
    print("|---|" + "---|" * len(MEASURES))
    for grows in STANDARD:
        some = [p for p in points if p["grows"] == grows]
        powers = [
            f"{slope([p[grows] for p in some], [p[name] for p in some]):.2f}"
            for name in MEASURES
        ]
        print(f"| {grows}, power | {' | '.join(powers)} |")
    plot(points, args.out / "scaling.png")


if __name__ == "__main__":
    main()
