"""Memory of training: block by block it does not grow with the number of blocks.

    python benchmarks/memory.py

Every figure is from a process of its own: its peak resident size after training, less
the peak after the imports, the data and the training of one small block, so that what
is left is what training took. Beside `JKOFlowDensity` (no rows held out, so that every
block trains) stands one continuous flow of as many such blocks that learns end to end,
by gradients through all of them at once. Prints a Markdown table.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import math
import platform
import resource
import subprocess
import sys

import numpy as np
import torch

from skjko import JKOFlowDensity
from skjko.flow import ode, schedule
from skjko.flow.fields import MLPField
from skjko.flow.objective import jko

N_ROWS, N_COLUMNS, BATCH, WIDTHS, N_ITER = 20_000, 20, 4000, (256, 256), 2


def train_blockwise(X, n_blocks):
    JKOFlowDensity(
        max_blocks=n_blocks,
        hidden_layer_sizes=WIDTHS,
        batch_size=min(BATCH, len(X)),
        max_iter=N_ITER,
        early_stopping=False,
        random_state=0,
    ).fit(X)


def train_end_to_end(X, n_blocks):
    x = torch.as_tensor(X, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    flow = torch.nn.ModuleList(
        MLPField(X.shape[1], WIDTHS, "silu", generator=generator)
        for _ in range(n_blocks)
    )
    adam = torch.optim.AdamW(flow.parameters(), lr=1e-3)
    for batch in x[: N_ITER * BATCH].split(BATCH):
        y, log_det = batch, 0.0
        for field in flow:
            step = ode.integrate(field.dynamics(), y, ode.uniform_grid(2), True)
            y, log_det = step.y, log_det + step.log_det
        adam.zero_grad()
        jko(batch, y, log_det, schedule.FREE).mean().backward()
        adam.step()


TRAIN = {"block by block": train_blockwise, "end to end": train_end_to_end}


def peak():
    """Largest resident size of this process so far, in MB."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (2**20 if sys.platform == "darwin" else 2**10)


def child(kind, n_blocks):
    X = np.random.RandomState(0).standard_normal((N_ROWS, N_COLUMNS))
    TRAIN[kind](X[:500], 1)
    before = peak()
    TRAIN[kind](X, n_blocks)
    print(peak() - before)


def measure(kind, n_blocks, repeats):
    command = [sys.executable, __file__, "--child", kind, str(n_blocks)]
    runs = [float(subprocess.check_output(command, text=True)) for _ in range(repeats)]
    return sorted(runs)[repeats // 2]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--blocks", type=int, nargs="+", default=[2, 16])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if args.child:
        return child(args.child[0], int(args.child[1]))
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} "
        f"threads, torch {torch.__version__}; {N_ROWS} x {N_COLUMNS}, batches of "
        f"{BATCH}, hidden layers {WIDTHS}, median of {args.repeats}\n"
    )
    head = " | ".join(f"{n} blocks, MB" for n in args.blocks)
    print(f"| training | {head} | last / first |\n|---|{'---|' * len(args.blocks)}---|")
    for kind in TRAIN:
        sizes = [measure(kind, n, args.repeats) for n in args.blocks]
        cells = " | ".join(f"{size:.0f}" for size in sizes)
        ratio = sizes[-1] / sizes[0] if sizes[0] else math.inf
        print(f"| {kind} | {cells} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
