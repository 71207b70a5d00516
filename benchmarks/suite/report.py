"""A table and plots from the results."""

# SPDX-License-Identifier: BSD-3-Clause

import math
from collections import defaultdict
from pathlib import Path

import numpy as np

from . import machine, results
from .methods import METHODS

# A method is within noise of the best if it is behind by less than so many standard
# errors of the paired difference.
N_ERRORS = 2


def paired_difference(a, b):
    """Mean and standard error of the NLL of `a` over that of `b`, seed by seed.

    The samples of one seed are paired. With several seeds the spread of their means,
    which has the randomness of training in it, counts too: the larger of the two errors
    is taken.
    """
    seeds = sorted(a.keys() & b.keys())
    differences = [a[s] - b[s] for s in seeds]
    with np.errstate(invalid="ignore"):
        means = np.array([d.mean() for d in differences])
        if not len(means) or not np.isfinite(means).all():
            return (math.inf if len(means) else math.nan), math.nan
        variances = [d.var(ddof=1) / len(d) for d in differences]
    of_samples = math.sqrt(np.sum(variances)) / len(seeds)
    of_seeds = means.std(ddof=1) / math.sqrt(len(seeds)) if len(seeds) > 1 else 0.0
    return means.mean(), max(of_samples, of_seeds)


class Comparison:
    """The methods on one set with one budget, on the seeds that all of them have."""

    def __init__(self, rows, out):
        self.nll, self.n_failed = {}, {}
        for method, of_method in rows.items():
            good = [row for row in of_method if not row["error"]]
            self.n_failed[method] = len(of_method) - len(good)
            loaded = {row["seed"]: results.load_nll(out, row) for row in good}
            self.nll[method] = {
                # Not a number counts as an infinite NLL.
                s: np.where(np.isnan(r), np.inf, r)
                for s, r in loaded.items()
                if r is not None
            }
        self.nll = {m: r for m, r in self.nll.items() if r}
        shared = set.intersection(*map(set, self.nll.values())) if self.nll else set()
        self.n_seeds = len(shared)
        self.nll = {m: {s: r[s] for s in shared} for m, r in self.nll.items()}
        self.means = {
            m: float(np.mean([rows.mean() for rows in r.values()]))
            for m, r in self.nll.items()
            if r
        }
        finite = {m: v for m, v in self.means.items() if math.isfinite(v)}
        self.best = min(finite, key=finite.get) if finite else None

    def cell(self, method):
        """NLL, its distance to the best with standard error, and marks."""
        if method not in self.means:
            return "failed" if self.n_failed.get(method) else ""
        failed = self.n_failed[method]
        return self._value(method) + (f", {failed} failed" if failed else "")

    def _value(self, method):
        value = f"{self.means[method]:.3f}"
        if method == self.best:
            return f"**{value}**"
        if self.best is None:
            return value
        gap, error = paired_difference(self.nll[method], self.nll[self.best])
        mark = "≈ " if self.within_noise(method) else ""
        return f"{mark}{value} (+{gap:.3f} ± {error:.3f})"

    def within_noise(self, method):
        """Whether the method is within noise of the best."""
        if method not in self.means or self.best is None:
            return False
        if method == self.best:
            return True
        gap, error = paired_difference(self.nll[method], self.nll[self.best])
        return bool(gap <= N_ERRORS * error)

    def ranks(self):
        """Rank of every method; those that failed share the last."""
        order = sorted(self.means, key=self.means.get)
        return {m: order.index(m) + 1 for m in order}


def group(rows):
    """Rows as budget -> set -> method -> list."""
    groups = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in rows:
        groups[row["budget"]][row["set"]][row["method"]].append(row)
    return {b: groups[b] for b in sorted(groups, key=_seconds)}


def _settings(row):
    return row["n_trials"], row["max_test"], row["threads"]


def _seconds(budget):
    return math.inf if budget == "none" else float(budget)


def write(out):
    """Write report.md, nll.png and rank.png into the folder."""
    found = results.read(out)
    if not found:
        print("no results to report")
        return
    # Only cases with the same settings compare: those of the latest one.
    trials, max_test, threads = settings = _settings(found[-1])
    rows = [row for row in found if _settings(row) == settings]
    groups = group(rows)
    compared = {
        budget: {name: Comparison(methods, out) for name, methods in by_set.items()}
        for budget, by_set in groups.items()
    }
    methods = [m for m in METHODS if any(row["method"] == m for row in rows)]
    commits = ", ".join(sorted({row["commit"] for row in rows} - {""}))
    lines = [
        "# Density estimators, same samples, same seconds",
        "",
        f"{machine.processor()}; commit {commits}; "
        f"{trials} trials, at most {max_test} test samples, {threads} threads"
        + (", seconds of the processor" if machine.on_processor_time() else ""),
        "",
        "Mean NLL of the test samples in nats, features standardised by the training "
        "samples; in brackets the distance to the best (bold) with its paired standard "
        f"error. ≈ is within {N_ERRORS} standard errors of the best. A star: features "
        "with ties were dequantized.",
    ]
    if len(rows) < len(found):
        lines += ["", f"{len(found) - len(rows)} results of other settings left out."]
    for budget, by_set in compared.items():
        lines += ["", *table(budget, by_set, methods, rows)]
    lines += ["", *costs(rows, methods), "", *starts(rows, methods), *failures(rows)]
    Path(out, "report.md").write_text("\n".join(lines) + "\n")
    plot(Path(out), compared, methods, rows)
    print(f"wrote {Path(out, 'report.md')}")


def table(budget, by_set, methods, rows):
    """Lines of one budget's table, and how often each method is best."""
    unit = "" if budget == "none" else " s"
    facts = {row["set"]: row for row in rows if row["d"]}
    truths = defaultdict(dict)
    for row in rows:
        if row["truth"]:
            truths[row["set"]][row["seed"]] = float(row["truth"])
    yield f"## Budget: {budget}{unit}"
    yield ""
    yield f"| set | samples, features | seeds | truth | {' | '.join(methods)} |"
    yield "|---|---|---|---|" + "---|" * len(methods)
    for name, comparison in by_set.items():
        fact = facts.get(name, {"n_train": "?", "d": "?", "n_jittered": "0"})
        star = "*" if fact["n_jittered"] not in ("", "0") else ""
        truth = list(truths[name].values())
        cells = " | ".join(comparison.cell(m) for m in methods)
        yield (
            f"| {name}{star} | {fact['n_train']}, {fact['d']} | {comparison.n_seeds} "
            f"| {f'{np.mean(truth):.3f}' if truth else ''} | {cells} |"
        )
    yield ""
    comparisons = list(by_set.values())
    counts = [
        f"{m} {sum(c.best == m for c in comparisons)}, "
        f"{sum(c.within_noise(m) for c in comparisons)}"
        for m in methods
    ]
    yield f"Best, and best or within noise, of {len(by_set)} sets: " + "; ".join(counts)


def costs(rows, methods):
    """Lines of a table of what the methods cost, medians over all cases."""
    yield "## Cost, medians over the sets"
    yield ""
    yield (
        "| method | budget | fit, s | worst fit, s | trials | score, samples/s "
        "| sample, samples/s | peak, MB | worst solver gap |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    budgets = sorted({row["budget"] for row in rows}, key=_seconds)
    for method in methods:
        for budget in budgets:
            some = [r for r in rows if (r["method"], r["budget"]) == (method, budget)]
            some = [r for r in some if not r["error"]]
            if not some:
                continue

            def numbers(name, some=some):
                return [float(r[name]) for r in some if r[name]] or [math.nan]

            yield (
                f"| {method} | {budget} | {np.median(numbers('fit_seconds')):.1f} "
                f"| {max(numbers('fit_seconds')):.1f} "
                f"| {np.mean(numbers('trials')):.1f} "
                f"| {np.median(numbers('score_samples_per_s')):.0f} "
                f"| {np.median(numbers('samples_per_s')):.0f} "
                f"| {np.median(numbers('peak_mb')):.0f} "
                f"| {max(numbers('solver_gap')):.2g} |"
            )


def starts(rows, methods):
    """Lines of a table of what skjko's fits consist of, by method and budget."""
    made = [row for row in rows if row["n_blocks"] and not row["error"]]
    if not made:
        return
    yield "## Fits of skjko: what validation chose"
    yield ""
    yield (
        "| method | budget | fits | with blocks | blocks, mean | start: gaussian "
        "| start: mixture | mixture as base |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    budgets = sorted({row["budget"] for row in made}, key=_seconds)
    for method in methods:
        for budget in budgets:
            some = [r for r in made if (r["method"], r["budget"]) == (method, budget)]
            if not some:
                continue
            n_blocks = np.array([int(row["n_blocks"]) for row in some])
            shares = [(n_blocks > 0).mean()]
            shares += [
                np.mean([row["start"] == start for row in some])
                for start in ("gaussian", "mixture")
            ]
            shares.append(np.mean([row["base"] == "mixture" for row in some]))
            with_blocks, *others = (f"{share:.0%}" for share in shares)
            yield (
                f"| {method} | {budget} | {len(some)} | {with_blocks} "
                f"| {n_blocks.mean():.2f} | {' | '.join(others)} |"
            )
    yield ""


def failures(rows):
    """Lines that name what failed."""
    failed = [row for row in rows if row["error"]]
    yield f"## Failures: {len(failed)}"
    yield ""
    for row in failed:
        yield (
            f"- {row['set']}, {row['method']}, {row['budget']}, seed {row['seed']}: "
            f"{row['error'].splitlines()[0]}"
        )


def plot(out, compared, methods, rows):
    """Draw NLL against budget for every set, and the mean rank against budget."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    budgets = list(compared)
    names = list(dict.fromkeys(n for by_set in compared.values() for n in by_set))
    colors = dict(zip(METHODS, plt.get_cmap("tab20").colors, strict=False))
    n_columns = min(4, len(names))
    n_rows = math.ceil(len(names) / n_columns)
    figure, axes = plt.subplots(
        n_rows, n_columns, figsize=(3.4 * n_columns, 2.8 * n_rows), squeeze=False
    )
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for name, axis in zip(names, axes.flat, strict=False):
        values = [
            [by_set[name].means.get(m, math.nan) if name in by_set else math.nan
             for by_set in compared.values()]
            for m in methods
        ]  # fmt: skip
        for method, series in zip(methods, values, strict=True):
            axis.plot(budgets, series, "o-", color=colors[method], label=method, ms=3)
        truth = [float(r["truth"]) for r in rows if r["set"] == name and r["truth"]]
        if truth:
            axis.axhline(np.mean(truth), color="black", ls=":", lw=1)
        # Values far behind would hide all other differences.
        finite = np.sort([v for s in [*values, truth] for v in s if math.isfinite(v)])
        if len(finite) > 2:
            low, high = finite[0], finite[-1]
            middle = np.median(finite)
            margin = 0.1 * (middle - low) + 1e-3
            top = min(high, middle + 3 * (middle - low) + 1e-2)
            axis.set_ylim(low - margin, top + margin)
        axis.set_title(name, fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel("test NLL, nats")
    for axis in axes[-1]:
        axis.set_xlabel("budget, s")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, fontsize=8)
    figure.set_layout_engine("constrained")
    figure.savefig(out / "nll.png", dpi=130)
    plt.close(figure)

    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for method in methods:
        means = [
            np.mean([c.ranks().get(method, len(methods)) for c in by_set.values()])
            for by_set in compared.values()
        ]
        axis.plot(budgets, means, "o-", color=colors[method], label=method)
    axis.set_xlabel("budget, s")
    axis.set_ylabel(f"mean rank over {len(names)} sets, 1 is best")
    axis.invert_yaxis()
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(out / "rank.png", dpi=130)
    plt.close(figure)
