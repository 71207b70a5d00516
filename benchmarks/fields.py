"""Velocity fields beside each other, where they win and where they do not.

    OMP_NUM_THREADS=1 python benchmarks/fields.py

Prints a Markdown table: the Kullback-Leibler divergence from the truth, which is known,
in nats, on 2000 test samples, with its standard error (paired by sample), of flows with
one training set and the same settings; and processor seconds of the fit.

- "chain": 16 nodes in a row. Every one is a bent function of the one before it, the
  same all along, and noise. The graph of the row, "wrong graph" with the nodes of the
  row shuffled, and a convolution along it (an image of one column).
- "copula": 8 features with a dependence of their own for every pair, no places.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import warnings
from time import process_time

import numpy as np
import torch

from skjko import ConvField, GraphField, JKOFlowDensity, MLPField, metrics
from skjko.datasets import skewed_copula

N_TEST = 2000


class Chain:
    """x_p = sin(2 x_{p-1}) + 0.5 z_p, with standard normal z: the density is known."""

    n_features = 16

    def sample(self, n, random_state):
        Z = np.random.RandomState(random_state).standard_normal((n, self.n_features))
        X = Z.copy()
        for p in range(1, self.n_features):
            X[:, p] = np.sin(2 * X[:, p - 1]) + 0.5 * Z[:, p]
        return X

    def score_samples(self, X):
        Z = X.copy()
        Z[:, 1:] = (X[:, 1:] - np.sin(2 * X[:, :-1])) / 0.5
        constant = 0.5 * np.log(2 * np.pi) * X.shape[1]
        return -0.5 * (Z**2).sum(axis=1) - constant - np.log(0.5) * (X.shape[1] - 1)


def path(order):
    """Adjacency of the nodes in a row, in an order."""
    adjacency = np.zeros((len(order), len(order)))
    adjacency[order[:-1], order[1:]] = adjacency[order[1:], order[:-1]] = 1
    return adjacency


def fields(data, d):
    """Fields to compare on a dataset, by name."""
    row, shuffled = np.arange(d), np.random.RandomState(0).permutation(d)
    found = {
        "MLPField()": MLPField(),
        "residual, 3 layers": MLPField((128, 128, 128), residual=True),
        "GraphField": GraphField(path(row)),
    }
    if data == "chain":
        found["GraphField, wrong graph"] = GraphField(path(shuffled))
        found["ConvField"] = ConvField((d, 1), kernel_size=3)
    return found


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("--data", nargs="+", default=["chain", "copula"])
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--only", default="", help="part of a field's name")
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| data | samples | field | KL, nats | seconds |\n|---|---|---|---|---|")
    for data in options.data:
        truth = Chain() if data == "chain" else skewed_copula(8)
        T = truth.sample(N_TEST, random_state=1)
        log_p = truth.score_samples(T)
        for n in options.samples:
            X = truth.sample(n, random_state=0)
            for name, field in fields(data, X.shape[1]).items():
                if options.only not in name:
                    continue
                density = JKOFlowDensity(
                    init="gaussian",
                    transforms=None,
                    field=field,
                    max_blocks=2,
                    max_iter=options.iterations,
                    random_state=0,
                )
                start = process_time()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    density.fit(X)
                seconds = process_time() - start
                mean, error = metrics.kl_divergence(log_p, density.score_samples(T))
                cells = f"{mean:.3f} ± {error:.3f} | {seconds:.0f}"
                print(f"| {data} | {n} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
