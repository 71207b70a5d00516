"""Gain of the radial map, and the transforms that the defaults choose.

    SKJKO_BENCH_DATA=folder python benchmarks/radial.py

For sets of the suite (seed 0, as the suite splits and standardises them), three fits:
without transforms, with `Radial()` behind the whitening, and with `transforms="auto"`.
The columns are their test NLL in nats; the gains over no transforms, paired, with their
standard errors; the seconds of the fits; and the transforms that "auto" chose. Prints a
Markdown table.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
from time import perf_counter

import numpy as np
from suite import machine, sets
from suite.methods.tuning import thinned

from skjko import JKOFlowDensity
from skjko.transforms import Radial, Whitening

SETS = ("breast_cancer", "miniboone_head", "wine_red", "wine", "heavy_tails_10")
CHOICES = (None, [Whitening(), Radial()], "auto")


def measure(case, transforms, args):
    """Return the scores of the test samples, the fitted model and its seconds."""
    start = perf_counter()
    model = JKOFlowDensity(
        transforms=transforms, time_limit=args.seconds, random_state=0
    )
    model.fit(case.train, X_val=thinned(case.val))
    seconds = perf_counter() - start
    return model.score_samples(case.test), model, seconds


def gain(before, after):
    """Return the mean gain in log-density with its standard error, as text."""
    difference = after - before
    error = difference.std() / np.sqrt(len(difference))
    return f"{difference.mean():.3f} ± {error:.3f}"


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--max-test", type=int, default=2000)
    parser.add_argument("--seconds", type=float, help="time limit of a fit")
    args = parser.parse_args()
    print(
        f"{machine.processor()}, commit {machine.commit()}\n\n"
        "| set | NLL: none | radial | auto | gain: radial | auto | seconds "
        "| auto chose |\n|---|---|---|---|---|---|---|---|"
    )
    registry = sets.registry()
    for name in args.sets:
        if name not in registry:
            continue
        case = sets.make(registry[name], 0, args.max_test)
        scores, models, seconds = zip(
            *(measure(case, choice, args) for choice in CHOICES), strict=True
        )
        chosen = next(c.transforms for c in models[-1].selection_ if c.chosen)
        print(
            f"| {name} | {' | '.join(f'{-s.mean():.3f}' for s in scores)} "
            f"| {gain(scores[0], scores[1])} | {gain(scores[0], scores[2])} "
            f"| {', '.join(f'{s:.1f}' for s in seconds)} | {chosen} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
