"""The rose of the paper's first experiment, with the defaults of JKOFlowDensity.

    SKJKO_BENCH_DATA=folder python benchmarks/rose.py

Needs a folder with `load.py`, whose `toy("rose", n, seed)` draws from the picture and
whose `toy_logpdf("rose", X)` is its exact log-density. Prints one line of Markdown a
seed: test NLL by `score_samples` and the truth's on the same 10,000 rows; the mean
absolute difference to a tight adaptive solve (torchdiffeq dopri5, float64, 1e-8) on the
first 1,000 of them; the seconds of `fit`; and the validation NLL after every block.
"""

import argparse
import os
import sys
from time import perf_counter

import numpy as np
import torch

from skjko import JKOFlowDensity
from skjko.flow import accuracy


def tight_log_density(model, X):
    """Log-density of rows through every block by an adaptive solve."""
    Z, log_det = model.gaussian_.forward(np.asarray(X, dtype=np.float64))
    return accuracy.tight_log_prob(model.flow_, torch.as_tensor(Z)).numpy() + log_det


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("SKJKO_BENCH_DATA"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rows", type=int, default=200_000)
    args = parser.parse_args()
    if not args.data or not os.path.exists(os.path.join(args.data, "load.py")):
        print("skipped: no folder with load.py; set SKJKO_BENCH_DATA")
        return
    sys.path.insert(0, args.data)
    import load

    X = load.toy("rose", args.rows, seed=0)
    T = load.toy("rose", 10_000, seed=1)
    truth = -load.toy_logpdf("rose", T).mean()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    print("| seed | NLL | truth | solver gap | seconds | validation NLL by block |")
    print("|---|---|---|---|---|---|")
    for seed in range(args.seeds):
        start = perf_counter()
        model = JKOFlowDensity(random_state=seed).fit(X)
        seconds = perf_counter() - start
        scores = model.score_samples(T)
        gap = np.abs(scores[:1000] - tight_log_density(model, T[:1000])).mean()
        blocks = ", ".join(f"{-s:.4f}" for s in model.validation_scores_)
        print(
            f"| {seed} | {-scores.mean():.4f} | {truth:.4f} | {gap:.5f} "
            f"| {seconds:.1f} | {blocks} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
