"""Seconds of fits with one thread and with two, alone and beside a busy process.

    python benchmarks/busy.py [--repeats 3]

Every fit is `JKOFlowDensity(random_state=0).fit` in a process of its own. It has one
thread of torch, or two, whatever the size; or the default, by which a fit has so many
as pay (at most the user's). The busy process multiplies matrices with two threads. Also
prints the time of a training step with two threads over that with one, by batch size
and width, which the default's rule was made from.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import os
import subprocess
import sys
from contextlib import contextmanager
from statistics import median
from time import perf_counter

SHAPES = ((200, 4), (1000, 2), (1000, 10), (3000, 4), (10_000, 10))
STEPS = (
    (128, 2, 128),
    (128, 10, 128),
    (250, 4, 64),
    (250, 10, 128),
    (500, 10, 128),
    (625, 10, 128),
    (1000, 2, 128),
    (1000, 20, 128),
    (2000, 20, 256),
)

BUSY = """
import torch
torch.set_num_threads(2)
a = torch.randn(1500, 1500)
while True:
    a @ a
"""

FIT = """
import sys, time, warnings
import numpy as np, torch
from skjko import JKOFlowDensity
from skjko.flow import threads
warnings.simplefilter("ignore")
n, d, how = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
rng = np.random.RandomState(0)
X = rng.standard_normal((n, d))
X[:, 0] = X[:, 0] ** 2 + 0.3 * np.sin(3 * X[:, 1])
torch.set_num_threads(1 if how == "1" else 2)
if how != "auto":
    threads.useful = lambda work: torch.get_num_threads()
JKOFlowDensity(max_blocks=1, max_iter=2, random_state=0).fit(X[:100])
start = time.perf_counter()
JKOFlowDensity(random_state=0).fit(X)
print(time.perf_counter() - start)
"""


@contextmanager
def busy(is_busy):
    """Run beside a process with two busy threads, or not."""
    process = subprocess.Popen([sys.executable, "-c", BUSY]) if is_busy else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def seconds(n, d, how):
    """Seconds of a fit in a fresh process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1" if how == "1" else "2"}
    command = [sys.executable, "-c", FIT, str(n), str(d), how]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=True
    )
    return float(done.stdout)


def step_ratio(n, d, width, repeats=40):
    """Milliseconds of a training step with one thread, and with two."""
    import torch

    from skjko.flow.block_training import BlockTrainer
    from skjko.flow.blocks import Block
    from skjko.flow.fields import MLP
    from skjko.flow.samples import Samples
    from skjko.flow.training_config import TrainingConfig

    generator = torch.Generator().manual_seed(0)
    field = MLP(d, (width, width), "silu", generator=generator)
    config = TrainingConfig(max_iter=10**6, batch_size=n, n_steps=1)
    samples = Samples(torch.randn(n, d, generator=generator), torch.ones(n))
    trainer = BlockTrainer(Block(field, 10.0, float("inf")), samples, config, generator)
    times = {1: [], 2: []}
    for i in range(2 * repeats + 8):
        torch.set_num_threads(1 + i % 2)
        start = perf_counter()
        trainer.step(0.1, 0.01)
        if i >= 8:
            times[1 + i % 2].append(1000 * (perf_counter() - start))
    work = n * sum(p.numel() for p in field.parameters())
    return work, median(times[1]), median(times[2])


def main():
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    print("| batch | features | width | batch x weights | ms, 1 thread | 2 | ratio |")
    print("|---|---|---|---|---|---|---|")
    for n, d, width in STEPS:
        work, one, two = step_ratio(n, d, width)
        print(
            f"| {n} | {d} | {width} | {work:.1e} | {one:.2f} | {two:.2f} "
            f"| {one / two:.2f} |",
            flush=True,
        )
    print("\n| samples | features | beside | s, 1 thread | s, 2 threads | s, default |")
    print("|---|---|---|---|---|---|")
    for n, d in SHAPES:
        for is_busy in (False, True):
            with busy(is_busy):
                runs = {
                    how: [seconds(n, d, how) for _ in range(args.repeats)]
                    for how in ("1", "2", "auto")
                }
            cells = " | ".join(f"{median(times):.1f}" for times in runs.values())
            beside = "a busy process" if is_busy else "nothing"
            print(f"| {n} | {d} | {beside} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
