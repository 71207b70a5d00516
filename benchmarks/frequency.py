"""Effect of the highest frequency of a planar field, by the number of samples.

    OMP_NUM_THREADS=1 python benchmarks/frequency.py

For drawings of `skjko.datasets`, whose density is known: the Kullback-Leibler
divergence from the truth on 5000 test samples, paired, and the processor seconds of the
fit by the flow alone (`init="gaussian"`). Prints a Markdown table; the last column is
the default.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import platform
from time import process_time

import torch

from skjko import JKOFlowDensity, MLPField, datasets, metrics

SETS = ("moons", "rings", "eight_gaussians", "checkerboard", "spirals", "rose")


def measure(truth, n, frequency, args):
    """Return a cell of the table."""
    X = truth.sample(n, random_state=args.seed)
    T = truth.sample(5000, random_state=args.seed + 1)
    start = process_time()
    model = JKOFlowDensity(
        init="gaussian",
        field=MLPField(frequency=frequency),
        max_iter=args.max_iter,
        random_state=args.seed,
    ).fit(X)
    seconds = process_time() - start
    kl, error = metrics.kl_divergence(truth.score_samples(T), model.score_samples(T))
    return f"{kl:.3f} ± {error:.3f} ({seconds:.0f} s)"


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--frequencies", type=float, nargs="+", default=[2, 4, 8, 12])
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--max-iter", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"max_iter={args.max_iter}, seed {args.seed}\n"
    )
    choices = [*args.frequencies, "auto"]
    titles = [c if isinstance(c, str) else f"{c:g}" for c in choices]
    print(f"| samples | set | {' | '.join(titles)} |\n|{'---|' * (len(choices) + 2)}")
    for n in args.samples:
        for name in args.sets:
            truth = getattr(datasets, name)()
            cells = [measure(truth, n, choice, args) for choice in choices]
            print(f"| {n} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
