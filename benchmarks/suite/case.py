"""One case in a fresh process: a method on a set, with a budget and a seed."""

# SPDX-License-Identifier: BSD-3-Clause

import json
import math
import sys
import time
import warnings

import numpy as np

from . import machine, results, sets


def warm_up(torch):
    """Take one step of an optimizer: the first one imports 100 MB of torch."""
    weight = torch.zeros(1, requires_grad=True)
    weight.sum().backward()
    torch.optim.Adam([weight]).step()


def run(row, out):
    """Fit and measure; return the row with its results filled in."""
    import sklearn
    import torch
    import zuko

    from .methods import fitter

    torch.set_num_threads(row["threads"])
    # Every method imports the same, so that memory compares.
    row["commit"] = machine.commit()
    row["versions"] = " ".join(
        f"{m.__name__} {m.__version__}" for m in (sklearn, torch, zuko)
    )
    fit = fitter(row["method"])
    warm_up(torch)
    baseline = machine.peak_memory()

    spec = sets.registry()[row["set"]]
    case = sets.make(spec, row["seed"], row["max_test"])
    row |= {
        "family": spec.family,
        "n_train": len(case.train),
        "n_val": len(case.val),
        "n_test": len(case.test),
        "d": case.train.shape[1],
        "n_jittered": case.n_jittered,
        "n_dropped": case.n_dropped,
    }
    if case.truth is not None:
        row["truth"] = f"{case.truth.mean():.5f}"

    # Without the memory that preparing the data took.
    machine.forget_peak()
    start = time.perf_counter()
    limit = math.inf if row["budget"] == "none" else float(row["budget"])
    fitted = fit(case.train, case.val, start + limit, row["n_trials"], row["seed"])
    row["fit_seconds"] = f"{time.perf_counter() - start:.2f}"
    row["peak_mb"] = f"{machine.peak_memory() - baseline:.1f}"
    row["trials"] = fitted.trials
    row["chosen"] = json.dumps(fitted.chosen)
    for name in ("note", "trace", "n_blocks", "start", "base"):
        row[name] = getattr(fitted, name, "")

    start = time.perf_counter()
    nll = -np.asarray(fitted.log_prob(case.test), dtype=np.float64)
    row["score_samples_per_s"] = f"{len(nll) / (time.perf_counter() - start):.1f}"
    row["nll"] = f"{nll.mean():.5f}"
    row["nll_data"] = f"{nll.mean() + case.log_scale:.5f}"
    results.save_nll(out, row, nll)

    # If what follows fails, the likelihood is a result all the same.
    problems = []
    if hasattr(fitted, "gap"):
        try:
            row["solver_gap"] = f"{fitted.gap(case.test):.2g}"
        except (AssertionError, RuntimeError, ValueError) as error:
            problems.append(f"gap: {error}")
    try:
        start = time.perf_counter()
        fitted.sample(len(nll), seed=row["seed"])
        row["samples_per_s"] = f"{len(nll) / (time.perf_counter() - start):.1f}"
    except (AssertionError, RuntimeError, ValueError) as error:
        problems.append(f"sample: {error}")
    if problems:
        row["note"] = "; ".join([row["note"], *problems])
    return row


def main():
    """Read a case from the arguments; print its row as the last line."""
    row, out = json.loads(sys.argv[2]), sys.argv[3]
    if machine.on_processor_time():
        # The methods are imported later, and with them the clock.
        time.perf_counter = time.monotonic = time.time = time.process_time
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            run(row, out)
        except Exception as error:
            # A failure is a result too, and the run goes on.
            row["error"] = f"{type(error).__name__}: {error}"[:500]
    print(json.dumps(row), flush=True)
