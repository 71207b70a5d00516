"""What each part of JKO-iFlow buys, against a plain flow given the same seconds.

    SKJKO_BENCH_DATA=folder python benchmarks/ablation.py --out docs

Four flows behind a whitening, each the one before it trained on: plain (no free block),
with a free block, reparameterized, refined. Every one is compared with a control: the
plain flow with so many iterations a block that it takes the same seconds in all. Sets:
those of the folder, and generated ones; at most 50,000 training samples. Prints and
writes `ablation.md`: test NLL in nats (a tight adaptive solve, torchdiffeq dopri5 at
1e-8 in float64, on at most 2000 test samples) and the gain over the control, paired,
with its standard error; seconds of training; field evaluations (samples times
evaluations a sample, in millions); minibatches; blocks; evenness (largest over smallest
displacement, without the free block). Draws `ablation.png`: displacements before and
after reparameterization. One seed; one thread a set.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import os
import platform
import sys
from time import perf_counter

import numpy as np
import torch
from joblib import Parallel, delayed

from skjko import JKOFlowDensity, JKOSchedule, RungeKutta
from skjko.datasets import correlated_mixture, eight_gaussians, skewed_copula

N_TEST = 2000
MAX_SAMPLES = 50_000
# Solver steps of a block in training.
N_STEPS = 2


def generated(distribution, n=20_000):
    X = [
        distribution.sample(m, random_state=i)
        for i, m in enumerate((n, n // 10, N_TEST))
    ]
    return *X, -distribution.score(X[2])


def picture(load, name):
    X = [load.toy(name, m, seed=i) for i, m in enumerate((MAX_SAMPLES, 2_000, N_TEST))]
    return *X, -load.toy_logpdf(name, X[2]).mean()


def table(load, name):
    data = load.load(name)
    split = load.split_part if "part" in data else lambda d: load.split(d["X"], seed=0)
    train, val, test, _ = split(data)
    return train[:MAX_SAMPLES], val[:2000], test[:N_TEST], None


def sets(folder):
    """Return name -> function that makes the three sets, and the NLL of the truth."""
    found = {
        "eight Gaussians": lambda: generated(eight_gaussians()),
        "correlated mixture, d=10": lambda: generated(correlated_mixture(10)),
        "skewed copula, d=20": lambda: generated(skewed_copula(20)),
    }
    if folder and os.path.exists(os.path.join(folder, "load.py")):
        sys.path.insert(0, folder)
        import load

        found |= {name: lambda n=name: picture(load, n) for name in ("rose", "tree")}
        tables = ("power_minute", "miniboone_head", "bsds300_patches")
        found |= {name: lambda n=name: table(load, n) for name in tables}
    else:
        print("skipped the sets of the folder: none with load.py; set SKJKO_BENCH_DATA")
    return found


def evenness(density):
    moved = density.movements_[np.isfinite(density.step_sizes_)]
    return moved.max() / moved.min() if len(moved) > 1 else 1.0


def fit(density, train, val):
    start = perf_counter()
    density.fit(train, X_val=val)
    return perf_counter() - start


def measurements(density, test, seconds):
    evaluations = 4 * N_STEPS + 1
    n_minibatches = sum(r.n_minibatches for r in density.history_)
    return {
        "log_density": density.score_samples(test) - density.likelihood_error(test),
        "seconds": seconds,
        "evaluations": n_minibatches * density.batch_size * evaluations / 1e6,
        "minibatches": n_minibatches,
        "blocks": density.n_blocks_,
        "evenness": evenness(density),
        "movements": density.movements_,
        "step_sizes": density.step_sizes_,
    }


def ablate(name, make, max_iter, sizes):
    """All lines of one set: (variant, its measurements, those of its control)."""
    torch.set_num_threads(1)
    *parts, truth = make()
    train, val, test = (X[:n] for X, n in zip(parts, sizes, strict=True))
    batch_size = min(500, len(train))
    settings = {
        "max_iter": max_iter,
        "batch_size": batch_size,
        "solver": RungeKutta(n_steps=N_STEPS),
        "init": "gaussian",
        "transforms": None,
        "random_state": 0,
    }

    def plain(iterations):
        density = JKOFlowDensity(
            **settings | {"max_iter": iterations},
            schedule=JKOSchedule(free_block=False),
        )
        return density, fit(density, train, val)

    density, seconds = plain(max_iter)
    rate = seconds / max_iter
    rows = [("plain", measurements(density, test, seconds), None)]

    density = JKOFlowDensity(**settings, schedule=JKOSchedule(), warm_start=True)
    seconds = 0.0
    for variant, more in [
        ("+ free block", {}),
        ("+ reparameterization", {"schedule__n_reparameterizations": 2}),
        ("+ refinement", {"schedule__n_refinements": 1}),
    ]:
        seconds += fit(density.set_params(**more), train, val)
        control, control_seconds = plain(round(seconds / rate))
        rows.append(
            (
                variant,
                measurements(density, test, seconds),
                measurements(control, test, control_seconds),
            )
        )
    return name, truth, rows


def line(name, truth, variant, flow, control):
    gain = ""
    if control is not None:
        difference = control["log_density"] - flow["log_density"]
        error = difference.std() / np.sqrt(len(difference))
        gain = f"{-difference.mean():+.3f} ± {error:.3f}"
    cells = [
        name,
        variant,
        f"{-flow['log_density'].mean():.3f}",
        "" if control is None else f"{-control['log_density'].mean():.3f}",
        gain,
        "" if truth is None else f"{truth:.3f}",
        f"{flow['seconds']:.0f}",
        "" if control is None else f"{control['seconds']:.0f}",
        f"{flow['evaluations']:.1f}",
        str(flow["minibatches"]),
        str(flow["blocks"]),
        f"{flow['evenness']:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


HEAD = (
    "| set | flow | NLL | NLL of control | gain | truth | seconds | control | "
    "evaluations (M) | minibatches | blocks | max/min displacement |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def draw(results, path):
    """Draw the displacements of the blocks before and after, a panel a set."""
    from matplotlib.figure import Figure

    n_columns = 4
    n_rows = -(-len(results) // n_columns)
    fig = Figure((3.2 * n_columns, 2.6 * n_rows), dpi=110, layout="constrained")
    axes = np.atleast_1d(fig.subplots(n_rows, n_columns)).ravel()
    for ax in axes[len(results) :]:
        ax.set_axis_off()
    for ax, (name, _, rows) in zip(axes, results, strict=False):
        for (variant, flow, _), color, shift in zip(
            rows[1:3], ("0.65", "tab:blue"), (-0.2, 0.2), strict=True
        ):
            finite = np.isfinite(flow["step_sizes"])
            k = np.arange(1, finite.sum() + 1)
            label = "geometric" if variant == "+ free block" else "reparameterized"
            ax.bar(k + shift, flow["movements"][finite], 0.4, color=color, label=label)
        ax.set(title=name, xlabel="block", ylabel="displacement", xticks=k)
    axes[0].legend(fontsize=8)
    fig.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("SKJKO_BENCH_DATA"))
    parser.add_argument("--out", default=".", help="folder of ablation.md and .png")
    parser.add_argument("--max-iter", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--sets", nargs="*", help="names, or all that there are")
    parser.add_argument("--max-samples", type=int, default=MAX_SAMPLES)
    parser.add_argument("--max-test", type=int, default=N_TEST)
    args = parser.parse_args()
    sizes = args.max_samples, max(args.max_samples // 10, 100), args.max_test
    chosen = sets(args.data)
    if args.sets:
        chosen = {name: chosen[name] for name in args.sets}
    lines = [
        f"{platform.processor() or platform.machine()}, one thread a set, "
        f"{args.jobs} at once; torch {torch.__version__}; max_iter={args.max_iter}",
        "",
        HEAD,
    ]
    print("\n".join(lines), flush=True)
    results = []
    work = (delayed(ablate)(*item, args.max_iter, sizes) for item in chosen.items())
    for name, truth, rows in Parallel(args.jobs, return_as="generator")(work):
        results.append((name, truth, rows))
        for variant, flow, control in rows:
            lines.append(line(name, truth, variant, flow, control))
            print(lines[-1], flush=True)
    with open(os.path.join(args.out, "ablation.md"), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    draw(results, os.path.join(args.out, "ablation.png"))


if __name__ == "__main__":
    main()
