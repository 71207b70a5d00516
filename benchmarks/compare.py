"""Compare the densities of two checkouts of the project on the tables of the suite.

    SKJKO_BENCH_DATA=folder python benchmarks/compare.py OLD_ROOT NEW_ROOT \
        --seconds 20 --seeds 0 1 2 --tables protein kin8nm --out folder

For every table and seed, each checkout fits JKOFlowDensity(time_limit=seconds,
random_state=seed) to the same samples, one fit after the other; old and new take turns
in being the first. Every fit is a process of its own with PYTHONPATH at the root of its
checkout. The tables and their splits by the seed are those of the suite of this
checkout; the training and validation parts are joined. Every fit has a file in the
folder with the log-densities of the test samples by `score_samples`, in standardised
units; a comparison that was stopped goes on from there. Use one folder for one pair of
checkouts.

Prints a Markdown table: test NLL in nats, and the difference (new - old, negative if
new is better) with two standard errors: of its mean over the seeds, and over the test
samples of all seeds, paired; seconds of `fit`; and the blocks that the new version
kept, by seed.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import math
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from time import perf_counter

import numpy as np

WHICH = ("old", "new")
HEAD = (
    "| table | n | d | NLL old | NLL new | new - old | error, seeds | error, samples "
    "| s old | s new | blocks new |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def child(root, data, seconds, seed, target):
    """Fit and score in this process, by the checkout at a root."""
    import skjko

    if Path(root).resolve() not in Path(skjko.__file__).resolve().parents:
        raise SystemExit(f"skjko is that of {skjko.__file__}, not of {root}")
    with np.load(data) as file:
        X, T = file["X"], file["T"]
    warnings.simplefilter("ignore")
    density = skjko.JKOFlowDensity(time_limit=float(seconds), random_state=int(seed))
    start = perf_counter()
    density.fit(X)
    elapsed = perf_counter() - start
    np.savez(
        target,
        log_density=density.score_samples(T),
        seconds=elapsed,
        n_blocks=density.n_blocks_,
        shape=X.shape,
    )


def fit(root, case, args, seed, target):
    """Fit by a checkout in a fresh process; return whether it went well."""
    from suite import machine

    environment = machine.limit_threads(os.environ, args.threads)
    environment["PYTHONPATH"] = str(root)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        np.savez(data, X=np.concatenate([case.train, case.val]), T=case.test)
        # Renamed when it is complete: a fit that was killed is made again.
        part = Path(folder) / "result.npz"
        given = [str(root), str(data), str(args.seconds), str(seed), str(part)]
        done = subprocess.run(
            [sys.executable, __file__, "--child", *given],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["killed"])[-1]
            print(f"failed: {target.stem}: {last}", file=sys.stderr, flush=True)
            return False
        beside = target.with_suffix(".part")
        beside.write_bytes(part.read_bytes())
        beside.replace(target)
    return True


def path_of(args, name, seed, which):
    """Return where the result of a fit is."""
    settings = f"{args.seconds:g}s-{args.max_test}-{args.threads}"
    return args.out / f"{name}-{seed}-{settings}-{which}.npz"


def run(args, specs):
    """Make the fits that are missing."""
    from suite import sets

    roots = {"old": args.old.resolve(), "new": args.new.resolve()}
    n = 0
    for seed in args.seeds:
        for spec in specs:
            if spec.by_folds and seed >= sets.N_FOLDS:
                continue
            n += 1
            paths = {w: path_of(args, spec.name, seed, w) for w in WHICH}
            if all(path.exists() for path in paths.values()):
                continue
            case = sets.make(spec, seed, args.max_test)
            for which in WHICH if n % 2 else WHICH[::-1]:
                if not paths[which].exists():
                    fit(roots[which], case, args, seed, paths[which])


def line(args, name):
    """Return the line of a table over the seeds that both have, or None."""
    pairs = []
    for seed in args.seeds:
        paths = [path_of(args, name, seed, which) for which in WHICH]
        if all(path.exists() for path in paths):
            pairs.append([dict(np.load(path)) for path in paths])
    if not pairs:
        return None
    nll = [[-one["log_density"] for one in pair] for pair in pairs]
    old, new = (np.mean([pair[i].mean() for pair in nll]) for i in range(2))
    differences = [pair[1] - pair[0] for pair in nll]
    means, pooled = [d.mean() for d in differences], np.concatenate(differences)
    of_seeds = ""
    if len(means) > 1:
        of_seeds = f"{np.std(means, ddof=1) / math.sqrt(len(means)):.3f}"
    of_samples = pooled.std(ddof=1) / math.sqrt(len(pooled))
    seconds = [np.mean([float(pair[i]["seconds"]) for pair in pairs]) for i in range(2)]
    blocks = ", ".join(str(int(pair[1]["n_blocks"])) for pair in pairs)
    n, d = pairs[0][0]["shape"]
    return (
        f"| {name} | {n} | {d} | {old:.3f} | {new:.3f} | {np.mean(means):+.3f} "
        f"| {of_seeds} | {of_samples:.3f} | {seconds[0]:.1f} | {seconds[1]:.1f} "
        f"| {blocks} |"
    )


def main():
    """Make the fits, and print the table."""
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    # The data sets are generated and loaded by this checkout.
    here = Path(__file__).resolve().parent
    sys.path[:0] = [str(here.parent), str(here)]
    from suite import machine, sets

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tables", nargs="+", help="names, or families such as uci")
    parser.add_argument("--max-test", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("compare-results"))
    args = parser.parse_args()
    registry = sets.registry()
    wanted = args.tables or ("density", "uci", "tabular", "sklearn")
    specs = [s for s in registry.values() if s.name in wanted or s.family in wanted]
    unknown = set(wanted) - {s.name for s in specs} - {s.family for s in specs}
    if args.tables and unknown:
        parser.error(f"no such tables here: {', '.join(sorted(unknown))}")
    args.out.mkdir(parents=True, exist_ok=True)
    run(args, specs)
    print(
        f"{machine.processor()}, {args.threads} threads, time_limit={args.seconds:g}, "
        f"seeds {' '.join(map(str, args.seeds))}, at most {args.max_test} test "
        f"samples\n\n{HEAD}"
    )
    for spec in specs:
        text = line(args, spec.name)
        if text is not None:
            print(text)


if __name__ == "__main__":
    main()
