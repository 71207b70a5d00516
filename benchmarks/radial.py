"""What the radial map is worth: fits of the defaults with it and without.

    SKJKO_BENCH_DATA=folder python benchmarks/radial.py

For sets of the suite (seed 0, as the suite splits and standardises them): the test NLL
in nats without and with it, the gain, paired, with its standard error, the seconds of
both fits, and whether the map was used. Prints a Markdown table.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
from time import perf_counter

import numpy as np
from suite import machine, sets
from suite.methods.tuning import thinned

from skjko import JKOFlowDensity

SETS = ("breast_cancer", "miniboone_head", "wine_red", "wine", "heavy_tails_10")


def measure(case, radial_map):
    """Return the scores of the test rows, the fitted model and its seconds."""
    start = perf_counter()
    model = JKOFlowDensity(radial_map=radial_map, random_state=0)
    model.fit(case.train, X_val=thinned(case.val))
    seconds = perf_counter() - start
    return model.score_samples(case.test), model, seconds


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--max-test", type=int, default=2000)
    args = parser.parse_args()
    print(
        f"{machine.processor()}, commit {machine.commit()}\n\n"
        "| set | without | with | gain | seconds | used |\n|---|---|---|---|---|---|"
    )
    registry = sets.registry()
    for name in args.sets:
        if name not in registry:
            continue
        case = sets.make(registry[name], 0, args.max_test)
        without, _, before = measure(case, None)
        scores, model, after = measure(case, "auto")
        gain = scores - without
        error = gain.std() / np.sqrt(len(gain))
        used = "no" if model.radial_map_ is None else "yes"
        print(
            f"| {name} | {-without.mean():.3f} | {-scores.mean():.3f} "
            f"| {gain.mean():.3f} ± {error:.3f} | {before:.1f}, {after:.1f} | {used} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
