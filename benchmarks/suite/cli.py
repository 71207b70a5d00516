"""The suite's command: plan the cases, run those that are missing, report.

    python -m benchmarks.suite --profile quick --out folder

Every case (set, method, budget, seed) runs in a process of its own. It can be stopped:
started again with the same folder, it goes on with the cases that are missing. The
variants "skjko_flow" (init="gaussian") and "skjko_mixture" (init="mixture") run only if
they are among --methods. With SKJKO_BENCH_CLOCK=processor and --threads 1 seconds are
those of the processor, for a machine that has other work.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from threading import Lock
from time import perf_counter

from . import machine, report, results, sets
from .methods import METHODS, VARIANTS

QUICK_SETS = ("moons", "correlated_mixture_10", "breast_cancer", "power_minute")
PROFILES = {
    "quick": {"budgets": ["20"], "seeds": [0], "max_test": 500},
    "full": {
        "budgets": ["20", "60", "300", "none"],
        "seeds": [0, 1, 2],
        "max_test": 2000,
    },
}


def parse():
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/suite",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--profile", choices=PROFILES, default="quick")
    add("--sets", nargs="+", help="names, or families such as uci")
    standard = [method for method in METHODS if method not in VARIANTS]
    add("--methods", nargs="+", choices=METHODS, default=standard)
    add("--budgets", nargs="+", help="seconds, or none for no limit")
    add("--seeds", nargs="+", type=int)
    add("--out", type=Path, default=Path("suite-results"))
    add("--jobs", type=int, default=1, help="cases at once; more than 1 skews times")
    add("--threads", type=int, default=2, help="threads of every case")
    add("--trials", type=int, default=3, help="tuning trials of every method")
    add("--max-test", type=int, help="test samples at most")
    add("--retry", action="store_true", help="run cases that failed again")
    add("--list", action="store_true", help="list the sets and end")
    add("--report-only", action="store_true")
    args = parser.parse_args()
    for name, value in PROFILES[args.profile].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def chosen_sets(args, registry):
    """Specs of the names and families asked for."""
    wanted = args.sets or (QUICK_SETS if args.profile == "quick" else list(registry))
    known = {*registry, *QUICK_SETS, *(s.family for s in registry.values())}
    unknown = set(wanted) - known
    if unknown:
        raise SystemExit(f"no such sets here: {', '.join(sorted(unknown))}")
    return [s for s in registry.values() if s.name in wanted or s.family in wanted]


def plan(args, specs):
    """All cases, short budgets first."""
    cases = []
    for budget in args.budgets:
        # Only one run a set without limit: they take hours.
        limited = args.seeds if budget != "none" else args.seeds[:1]
        for spec in specs:
            for seed, method in product(spec.seeds(limited), args.methods):
                cases.append(
                    {
                        "set": spec.name,
                        "method": method,
                        "budget": budget if budget == "none" else f"{float(budget):g}",
                        "seed": seed,
                        "n_trials": args.trials,
                        "max_test": args.max_test,
                        "threads": args.threads,
                    }
                )
    return cases


def run_case(row, out):
    """Run one case in a fresh process; return its row, whatever happened to it."""
    limit = 6 * 3600
    if row["budget"] != "none" and not machine.on_processor_time():
        limit = 3 * float(row["budget"]) + 900
    command = [sys.executable, str(Path(__file__).parent), "--case"]
    try:
        done = subprocess.run(
            [*command, json.dumps(row), str(out)],
            env=machine.child_environment(row["threads"]),
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {**row, "error": f"stopped after {limit:.0f} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return {**row, "error": f"exit code {done.returncode}: {last}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    """Run the suite."""
    args = parse()
    registry = sets.registry()
    if args.list:
        for spec in registry.values():
            folds = ", 5 folds" if spec.by_folds else ""
            print(f"{spec.name}: {spec.family}, {spec.n_samples} samples{folds}")
        for name, reason in sets.LEFT_OUT.items():
            print(f"left out: {name} ({reason})")
        return
    if not args.report_only:
        run_missing(args, plan(args, chosen_sets(args, registry)))
    report.write(args.out)


def run_missing(args, cases):
    """Run the cases that the results lack, and append theirs as they come."""
    done = {
        results.key(row)
        for row in results.read(args.out)
        if not (args.retry and row["error"])
    }
    missing = [row for row in cases if results.key(row) not in done]
    print(f"{len(cases)} cases, {len(cases) - len(missing)} of them done", flush=True)
    lock, begin = Lock(), perf_counter()

    def work(item):
        n, case = item
        row = run_case(case, args.out)
        outcome = row.get("error") or f"NLL {row['nll']} in {row['fit_seconds']} s"
        with lock:
            results.append(args.out, row)
            print(
                f"[{n}/{len(missing)}, {perf_counter() - begin:.0f} s] {row['set']} "
                f"{row['method']} {row['budget']} {row['seed']}: {outcome}",
                flush=True,
            )

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(work, enumerate(missing, start=1)))
