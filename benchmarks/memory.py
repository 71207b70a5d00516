"""Memory of training block by block does not grow with the number of blocks.

    OMP_NUM_THREADS=1 python benchmarks/memory.py

Every figure is the peak resident size of a process of its own, less the peak of that
process just before training: after the imports, the data in both precisions, and a
warm-up on 64 samples with layers of 8 units, which loads what torch and scikit-learn
load at first use. What is left is what training took: copies of the data, activations,
gradients, optimizers, weights of all blocks, scoring grids.

`JKOFlowDensity` trains all its blocks (without validation samples), with so small a
learning rate that its fields stay near zero and the scoring grids coarse: memory does
not depend on what is learned, seconds do. It is compared with one continuous flow of as
many such blocks, trained end to end by gradients through all of them at once.

Resident size is memory in use and holes that the allocator keeps. Left to itself,
glibc moves arrays of up to 32 MB into its heap, where holes grow with the time a
process runs. "returned" rows run with MALLOC_MMAP_THRESHOLD_ (Linux only) so that every
array above 1 MB goes back to the system when it is freed: they show memory in use.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import os
import platform
import resource
import subprocess
import sys
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np
import torch

from skjko import JKOFlowDensity, MLPField, RungeKutta
from skjko.flow import fields, objective, ode
from skjko.flow.blocks import Block
from skjko.flow.training_config import TrainingConfig

N_SAMPLES, N_FEATURES, BATCH, WIDTHS = 20_000, 20, 4096, (256, 256)
N_ITER, RATE, N_STEPS = 2, 1e-5, 2


def train_blockwise(X, n_blocks, widths):
    JKOFlowDensity(
        init="gaussian",
        transforms=None,
        field=MLPField(widths, "silu"),
        solver=RungeKutta(N_STEPS),
        max_blocks=n_blocks,
        batch_size=min(BATCH, len(X)),
        learning_rate_init=RATE,
        max_iter=N_ITER,
        early_stopping=False,
        random_state=0,
    ).fit(X)


def train_end_to_end(X, n_blocks, widths):
    x = torch.as_tensor(X, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    flow = torch.nn.ModuleList(
        Block(
            fields.MLP(X.shape[1], widths, "silu", generator=generator),
            radius=10.0,
            step_size=np.inf,
            n_steps=N_STEPS,
        )
        for _ in range(n_blocks)
    )
    config = TrainingConfig()
    adam = torch.optim.AdamW(flow.parameters(), lr=RATE)
    for batch in x[: N_ITER * BATCH].split(BATCH):
        y, log_det, error = batch, 0.0, 0.0
        for block in flow:
            solution = ode.integrate(block.dynamics(), y, block.grid, with_error=True)
            y, log_det = solution.y, log_det + solution.log_det
            error = error + solution.error
        nll = objective.negative_log_likelihood(config.base, y, log_det)
        adam.zero_grad()
        (nll + config.error_weight * error).mean().backward()
        adam.step()


TRAIN = {"block by block": train_blockwise, "end to end": train_end_to_end}
ALLOCATORS = {"returned": {"MALLOC_MMAP_THRESHOLD_": str(2**20)}, "default": {}}


def peak():
    """Largest resident size of this process so far, in MB."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (2**20 if sys.platform == "darwin" else 2**10)


def child(kind, n_blocks):
    X = np.random.RandomState(0).standard_normal((N_SAMPLES, N_FEATURES))
    torch.as_tensor(X, dtype=torch.float32)
    TRAIN[kind](X[:64], 1, (8, 8))
    before = peak()
    TRAIN[kind](X, n_blocks, WIDTHS)
    print(peak() - before)


def measure(kind, n_blocks, allocator, repeats):
    command = [sys.executable, __file__, "--child", kind, str(n_blocks)]
    environment = {**os.environ, **ALLOCATORS[allocator]}
    return [
        float(subprocess.check_output(command, text=True, env=environment))
        for _ in range(repeats)
    ]


def processor():
    """Model of the processor, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--blocks", type=int, nargs="+", default=[2, 16])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if args.child:
        return child(args.child[0], int(args.child[1]))
    print(
        f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}; "
        f"{N_SAMPLES} x {N_FEATURES}, batches of {BATCH}, hidden layers {WIDTHS}, "
        f"median of {args.repeats}\n"
    )
    head = " | ".join(f"{n} blocks, MB" for n in args.blocks)
    print(f"| training | freed arrays | {head} | last : first |")
    print("|---|---|" + "---|" * len(args.blocks) + "---|")
    for kind, allocator in product(TRAIN, ALLOCATORS):
        runs = [measure(kind, n, allocator, args.repeats) for n in args.blocks]
        cells = [f"{median(r):.0f} ({min(r):.0f}-{max(r):.0f})" for r in runs]
        ratio = median(runs[-1]) / median(runs[0])
        print(
            f"| {kind} | {allocator} | {' | '.join(cells)} | {ratio:.3f} |", flush=True
        )


if __name__ == "__main__":
    main()
