"""Time, memory and likelihood of one fit by several processes. Linux only.

    python benchmarks/scale.py [--rows 1000000 --iterations 100 --processes 1 2]

Simulated rows of 20 features are written to a file that every process maps into memory.
torchrun starts the processes, of one thread each. For every number of them:

- the least processor time of one iteration of a block in a process, for two sizes of
  the minibatch, and the least seconds of the sum of the gradients;
- the processor time of a whole fit of one block, the largest anonymous memory of a
  process (see large.py), and the negative log-likelihood of test rows, less that of the
  true density.

Processor time is about that of a core that has nothing else to do, also where there are
more processes than cores. A process that waits for another one takes none.

Beside the measured times of an iteration are those that the model of docs/scale.md
predicts from the iterations of one process and the seconds of the sum.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from large import Watch
from memory import processor

from skjko import JKOFlowDensity
from skjko.datasets import correlated_mixture
from skjko.flow import fields, group
from skjko.flow.block_training import BlockTrainer
from skjko.flow.blocks import Block
from skjko.flow.samples import Samples
from skjko.flow.training_config import TrainingConfig

N_FEATURES, AT_ONCE, N_TEST, N_TIMED = 20, 100_000, 10_000, 60
BATCHES = (500, 2000)
DATA = correlated_mixture(N_FEATURES)


def write(path, n_rows):
    X = np.lib.format.open_memmap(path, "w+", np.float32, (n_rows, N_FEATURES))
    for start in range(0, n_rows, AT_ONCE):
        n = min(AT_ONCE, n_rows - start)
        X[start : start + n] = DATA.sample(n, random_state=start)


def least(clock, function, n=N_TIMED):
    """Return the least time of a call."""
    times = []
    for _ in range(n):
        begin = clock()
        function()
        times.append(clock() - begin)
    return min(times)


def child(path, out, n_iterations):
    together, steps = group.current(), {}
    x = torch.from_numpy(DATA.sample(20_000, random_state=1)).float()
    for batch in BATCHES:
        field = fields.MLP(N_FEATURES, generator=torch.Generator().manual_seed(0))
        trainer = BlockTrainer(
            Block(field, 10.0, float("inf")),
            Samples(x, torch.ones(len(x))),
            TrainingConfig(batch_size=batch),
            torch.Generator().manual_seed(0),
            together,
        )
        steps[batch] = least(
            time.process_time, lambda trainer=trainer: trainer.step(0.5, 0.01)
        )
    gradients = [torch.zeros_like(p) for p in field.parameters()]
    summed = least(time.perf_counter, lambda: together.sum(gradients))
    X = np.load(path, mmap_mode="r")
    density = JKOFlowDensity(
        init="gaussian",
        transforms=None,
        max_blocks=1,
        max_iter=n_iterations,
        batch_size=BATCHES[-1],
        random_state=0,
    )
    # What torch and scikit-learn load at first use.
    JKOFlowDensity(max_blocks=0, random_state=0).fit(np.array(X[:1000]))
    begin = time.process_time()
    with Watch() as watch:
        density.fit(X)
    found = {
        "steps": steps,
        "sum": summed,
        "n_parameters": sum(g.numel() for g in gradients),
        "fit": time.process_time() - begin,
        "memory": watch.peak,
        "n_iter": sum(r.n_minibatches for r in density.history_),
        "nll": -density.score(DATA.sample(N_TEST, random_state=2)),
    }
    (out / f"{together.rank}.json").write_text(json.dumps(found))


def measured(path, n, n_iterations):
    """Return what every one of n processes found."""
    with tempfile.TemporaryDirectory() as out:
        torchrun = ["-m", "torch.distributed.run", "--standalone"]
        own = [__file__, "--child", path, out, "--iterations", str(n_iterations)]
        subprocess.run(
            [sys.executable, *torchrun, f"--nproc-per-node={n}", *own],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        return [json.loads((Path(out) / f"{i}.json").read_text()) for i in range(n)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child[0], Path(args.child[1]), args.iterations)
        return
    print(f"{processor()}, {os.cpu_count()} cores, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "rows.npy")
        write(path, args.rows)
        results = {
            n: measured(path, n, args.iterations) for n in sorted({1, *args.processes})
        }
    report(results, args.rows)


def report(results, n_rows):
    small, large = map(str, BATCHES)
    alone = results[1][0]["steps"]
    a_row = (alone[large] - alone[small]) / (BATCHES[1] - BATCHES[0])
    fixed = alone[small] - a_row * BATCHES[0]
    print(f"an iteration: {1e3 * fixed:.1f} ms + {1e6 * a_row:.2f} us a row\n")
    print(
        "| processes | rows in a minibatch | iteration, ms | predicted | efficiency |"
    )
    print("|---|---|---|---|---|")
    for n, found in results.items():
        for batch in BATCHES:
            step = max(one["steps"][str(batch)] for one in found)
            predicted = fixed + a_row * batch / n
            predicted += max(one["sum"] for one in found) if n > 1 else 0.0
            print(
                f"| {n} | {batch:,} | {1e3 * step:.1f} | {1e3 * predicted:.1f} "
                f"| {alone[str(batch)] / (n * step):.2f} |"
            )
    print("\n| processes | sum, ms | bytes sent a process and iteration |", end="")
    print(f" fit of {n_rows:,} rows, s a process | iterations |", end="")
    print(" memory a process, MB | NLL, less the true one |")
    print("|---|---|---|---|---|---|---|")
    truth = -DATA.score_samples(DATA.sample(N_TEST, random_state=2)).mean()
    for n, found in results.items():
        n_bytes = 4 * (found[0]["n_parameters"] + 1) * 2 * (n - 1) / n
        seconds, memory = (max(one[k] for one in found) for k in ("fit", "memory"))
        print(
            f"| {n} | {1e3 * max(one['sum'] for one in found):.2f} | {n_bytes:,.0f} "
            f"| {seconds:.1f} | {found[0]['n_iter']} | {memory:.0f} "
            f"| {found[0]['nll'] - truth:.4f} |"
        )


if __name__ == "__main__":
    main()
