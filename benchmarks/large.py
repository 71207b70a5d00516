"""Memory of training on files does not grow with the number of samples. Linux only.

    OMP_NUM_THREADS=1 python benchmarks/large.py [--samples 10000000 --scored 10000000]

Every line is a process of its own that maps a float32 file of random samples into
memory and fits a flow of at most two blocks (`init="gaussian"`) to it, then scores its
samples, and draws as many. "Anonymous" is memory without a file behind it,
which a machine can run out of: the largest amount seen, every 10 ms, less that before,
what is returned included. Pages of files, the data's and those of temporary files, are
not in it: the system takes them back when it needs room.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import sklearn
import torch
from memory import processor

from skjko import JKOFlowDensity, MLPField

N_FEATURES, AT_ONCE, WIDTHS = 20, 100_000, (32, 32)


def write(path, n_samples):
    X = np.lib.format.open_memmap(path, "w+", np.float32, (n_samples, N_FEATURES))
    rng = np.random.default_rng(0)
    for start in range(0, n_samples, AT_ONCE):
        part = X[start : start + AT_ONCE]
        part[:] = rng.standard_normal(part.shape, dtype=np.float32)
        part[:, ::2] += part[:, 1::2] ** 2


class Watch(threading.Thread):
    """Watches this process's anonymous memory while a block of code runs."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self._done = 0.0, threading.Event()

    def __enter__(self):
        self._before, self._start = self._now(), time.perf_counter()
        self.start()
        return self

    def __exit__(self, *args):
        self.seconds = time.perf_counter() - self._start
        self._done.set()
        self.join()

    def run(self):
        while not self._done.wait(0.01):
            self.peak = max(self.peak, self._now() - self._before)

    @staticmethod
    def _now():
        """Anonymous memory in MB."""
        lines = Path("/proc/self/status").read_text().splitlines()
        return (
            next(int(li.split()[1]) for li in lines if li.startswith("RssAnon")) / 1e3
        )


def child(path, n_scored):
    X = np.load(path, mmap_mode="r")
    few = np.array(X[:2000])
    density = JKOFlowDensity(
        init="gaussian",
        field=MLPField(WIDTHS),
        max_blocks=2,
        max_iter=100,
        random_state=0,
    )
    density.fit(few).score_samples(few)
    with Watch() as fit:
        density.fit(X)
    with Watch() as score:
        n = len(density.score_samples(X[:n_scored]))
    with Watch() as draw:
        density.sample(n, random_state=0)
    for part in fit, score, draw:
        print(part.peak, part.seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--samples", type=int, nargs="+", default=[10**6, 4 * 10**6])
    parser.add_argument("--scored", type=int, default=300_000)
    parser.add_argument("--working-memory", type=int, nargs="+", default=[64, 1024])
    args = parser.parse_args()
    if args.child:
        path, working_memory, n_scored = args.child
        with sklearn.config_context(working_memory=int(working_memory)):
            return child(path, int(n_scored))
    print(
        f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}; "
        f"{N_FEATURES} features, 2 blocks of {WIDTHS} and 100 iterations, "
        f"at most {args.scored} scored and drawn\n"
    )
    print(
        "| samples | file, MB | working_memory, MiB | fit: anonymous, MB | fit, s "
        "| scoring: anonymous, MB | scoring, s "
        "| sampling: anonymous, MB | sampling, s |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for n_samples in args.samples:
            path = Path(folder) / "X.npy"
            write(path, n_samples)
            for working_memory in args.working_memory:
                given = "--child", str(path), str(working_memory), str(args.scored)
                command = [sys.executable, __file__, *given]
                figures = map(float, subprocess.check_output(command).split())
                cells = " | ".join(f"{figure:.0f}" for figure in figures)
                size = path.stat().st_size / 1e6
                print(
                    f"| {n_samples} | {size:.0f} | {working_memory} | {cells} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
