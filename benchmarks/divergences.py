"""Cost of each divergence in training, in seconds and in nats, by dimension.

    OMP_NUM_THREADS=1 python benchmarks/divergences.py

With two hidden layers "exact" is a closed form; with three it costs a Jacobian-vector
product a feature. Data: `skjko.datasets.skewed_copula`, whose density is known. Prints
a Markdown table:

- processor milliseconds of an iteration of 500 samples, the median of 15 (or of as many
  as fit in ten seconds) after two that do not count. With "~", of 50 samples, times
  ten: more would need more memory than most machines have.
- KL: the Kullback-Leibler divergence from the truth of a flow of one free block after
  as many iterations for all, on 2000 test samples, paired, with its standard error;
  that without the block, of a Gaussian behind the default transforms; and what an
  estimate loses to the exact divergence, paired as well. All use the same samples and
  starting weights.

Scores are always exact. With three layers they cost a product a feature too, in double
precision and on fine grids, so that beyond 32 features no such flow is trained here.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import platform
from pathlib import Path
from time import process_time

import numpy as np
import torch

from skjko import JKOFlowDensity, MLPField, RungeKutta, metrics
from skjko.datasets import skewed_copula
from skjko.flow import fields
from skjko.flow.block_training import BlockTrainer
from skjko.flow.blocks import Block
from skjko.flow.samples import Samples
from skjko.flow.training_config import TrainingConfig

KINDS = ("exact", "hutchinson", "finite_difference")
LAYERS = ((64, 64), (64, 64, 64))
BATCH, N_TRAIN, N_TEST = 500, 20_000, 2000
# Features up to which flows with three layers train, and the whole batch is timed.
MOST_TRAINED, MOST_TIMED = 32, 128


def processor():
    """Model of the processor, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def milliseconds(d, sizes, kind, batch):
    """Median processor time of an iteration, on normal samples."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N_TEST, d, generator=generator)
    samples = Samples(x, torch.ones(len(x)))
    field = fields.MLP(d, sizes, "silu", generator=generator)
    block = Block(field, radius=1.25 * samples.radius, step_size=1.0)
    config = TrainingConfig(divergence=kind, batch_size=batch)
    trainer = BlockTrainer(block, samples, config, generator)
    for _ in range(2):
        trainer.step(0.1, 0.1)
    times = []
    while len(times) < 15 and sum(times) < 10:
        start = process_time()
        trainer.step(0.1, 0.1)
        times.append(process_time() - start)
    return 1000 * float(np.median(times))


def timed(d, sizes, kind):
    if kind == "exact" and len(sizes) == 3 and d > MOST_TIMED:
        return f"~{10 * milliseconds(d, sizes, kind, BATCH // 10):.0f}"
    return f"{milliseconds(d, sizes, kind, BATCH):.1f}"


def scores(d, sizes, kind, n_iter, n_blocks=1):
    """Log-densities of the test samples, by the truth and by a flow."""
    truth = skewed_copula(d)
    X, T = truth.sample(N_TRAIN, random_state=0), truth.sample(N_TEST, random_state=1)
    density = JKOFlowDensity(
        init="gaussian",
        field=MLPField(sizes, "silu"),
        solver=RungeKutta(divergence=kind),
        max_blocks=n_blocks,
        batch_size=BATCH,
        max_iter=n_iter,
        early_stopping=False,
        random_state=0,
    ).fit(X)
    return truth.score_samples(T), density.score_samples(T)


def nats(better, worse):
    mean, error = metrics.kl_divergence(better, worse)
    return f"{mean:.3f} ± {error:.3f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 8, 32, 128, 500])
    parser.add_argument("--iterations", type=int, default=200)
    args = parser.parse_args()
    print(
        f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}; "
        f"batches of {BATCH}, {N_TRAIN} samples, {args.iterations} iterations\n"
    )
    print(
        "| hidden layers | d | divergence | ms an iteration | KL without block "
        "| KL of the flow | lost to exact |\n|---|---|---|---|---|---|---|"
    )
    for sizes in LAYERS:
        for d in args.dims:
            for kind in KINDS:
                cells = [len(sizes), d, kind, timed(d, sizes, kind)]
                if len(sizes) == 2 or d <= MOST_TRAINED:
                    truth, flow = scores(d, sizes, kind, args.iterations)
                    if kind == "exact":
                        exact, gaussian = flow, scores(d, sizes, kind, 1, n_blocks=0)[1]
                    lost = "" if kind == "exact" else nats(exact, flow)
                    cells += [nats(truth, gaussian), nats(truth, flow), lost]
                else:
                    cells += ["not trained"] * 2 + [""]
                print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
