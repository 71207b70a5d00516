"""How close fits come to densities that are known.

    SKJKO_BENCH_DATA=folder python benchmarks/quality.py

First the paper's pictures, a rose and a fractal tree, with the defaults and with
settings for quality; they need a folder with `load.py`, whose `toy(name, n, seed)`
draws from a picture and whose `toy_logpdf(name, X)` is its exact log-density. Then
distributions of `skjko.datasets`, from 50,000 samples. One line of Markdown each: test
NLL by `score_samples`, and the truth's on the same 10,000 samples; the Kullback-Leibler
divergence from the truth, paired, with its standard error; the mean absolute
`likelihood_error` on the first 1,000 samples; the p-value of the two-sample test by
maximum mean discrepancy between 5,000 samples of the model and as many of the truth;
the seconds of `fit`; the start that was chosen; and the validation NLL by block.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import os
import platform
import sys
from time import perf_counter

import numpy as np
import torch

from skjko import JKOFlowDensity, MLPField, datasets, metrics

# Settings for quality in the plane: the flow alone, and more iterations.
QUALITY = {
    "rose": {"init": "gaussian", "max_iter": 1000},
    "tree": {
        "init": "gaussian",
        "max_blocks": 3,
        "max_iter": 1500,
        "field": MLPField(frequency=16.0),
    },
}
KNOWN = {
    "eight Gaussians": lambda: datasets.eight_gaussians(),
    "correlated mixture, d=2": lambda: datasets.correlated_mixture(2),
    "correlated mixture, d=5": lambda: datasets.correlated_mixture(5),
    "correlated mixture, d=10": lambda: datasets.correlated_mixture(10),
}


def pictures(load, n):
    """Yield name, parameters, size, and functions to draw samples and to score them."""
    for name, quality in QUALITY.items():
        for title, parameters in (("defaults", {}), ("quality", quality)):
            yield (
                f"{name}, {title}",
                parameters,
                n or 200_000,
                lambda n, seed, name=name: load.toy(name, n, seed=seed),
                lambda X, name=name: load.toy_logpdf(name, X),
            )


def known(n):
    """Yield the same for the distributions of `skjko.datasets`."""
    for name, make in KNOWN.items():
        truth = make()
        yield name, {}, n or 50_000, truth.sample, truth.score_samples


def measure(name, parameters, n, draw, log_density, seed):
    X, T = draw(n, 0), draw(10_000, 1)
    start = perf_counter()
    model = JKOFlowDensity(random_state=seed, **parameters).fit(X)
    seconds = perf_counter() - start
    scores, truth = model.score_samples(T), log_density(T)
    kl, error = metrics.kl_divergence(truth, scores)
    solver_error = np.abs(model.likelihood_error(T[:1000])).mean()
    test = metrics.mmd_test(
        T[:5000], model.sample(5000, random_state=2), random_state=0
    )
    blocks = ", ".join(f"{-s:.3f}" for s in model.validation_scores_)
    start = next((c.start for c in model.selection_ if c.chosen), "gaussian")
    settings = ", ".join(f"{k}={v}" for k, v in parameters.items())
    return (
        f"| {name} | {settings} | {-scores.mean():.4f} | {-truth.mean():.4f} "
        f"| {kl:.4f} ± {error:.4f} | {solver_error:.5f} | {test.p_value:.3f} "
        f"| {seconds:.0f} | {start} | {blocks} |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("SKJKO_BENCH_DATA"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of the names to run")
    parser.add_argument("--samples", type=int, help="training samples, to be quick")
    args = parser.parse_args()
    cases = list(known(args.samples))
    if args.data and os.path.exists(os.path.join(args.data, "load.py")):
        sys.path.insert(0, args.data)
        import load

        cases = [*pictures(load, args.samples), *cases]
    else:
        print("skipped the pictures: no folder with load.py; set SKJKO_BENCH_DATA\n")
    print(
        f"{platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    print(
        "| set | settings | NLL | truth | KL | solver error | MMD p | seconds "
        "| start | validation NLL by block |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for case in cases:
        if args.only in case[0]:
            print(measure(*case, args.seed), flush=True)


if __name__ == "__main__":
    main()
