"""Time of a step of skjko's optimizers and of torch's, and of their first use.

    OMP_NUM_THREADS=1 python benchmarks/optimizers.py

Two tables. First, the median time of a step, own and torch's in turn in one process:
AdamW on all parameters of a velocity field with two hidden layers, and Muon on the
matrix between them. Second, the median time of the first step, the optimizer's imports
included, in processes of their own that have imported torch and skjko: the first of
torch's optimizers imports torch's compiler.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import subprocess
import sys
from statistics import median
from time import perf_counter

import torch
from memory import processor

from skjko.flow.fields import MLP
from skjko.flow.optimizers import Adam, Muon

N_FEATURES, RATE = 8, 1e-3
FIRST_USE = {
    "own": """
from skjko.flow.optimizers import Adam
Adam([parameter]).step(1e-3)
""",
    "torch.optim.AdamW": "torch.optim.AdamW([parameter], lr=1e-3).step()",
}
MEASURED = """
import torch
import skjko
from time import perf_counter
parameter = torch.nn.Parameter(torch.zeros(8, 8))
parameter.grad = torch.ones(8, 8)
start = perf_counter()
{}
print(perf_counter() - start)
"""


def parameters(width):
    """Return all parameters of a field, and the matrix between its hidden layers."""
    generator = torch.Generator().manual_seed(0)
    field = MLP(N_FEATURES, (width, width), "silu", generator=generator)
    for parameter in field.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return list(field.parameters()), field.weights[1]


def steppers(width):
    """Return a function that makes a step for every optimizer, by its name."""
    found = {}
    for name in ("AdamW", "Muon"):
        everything, hidden = parameters(width)
        own = Adam(everything) if name == "AdamW" else Muon([hidden])
        found[name, "own"] = lambda own=own: own.step(RATE)
        everything, hidden = parameters(width)
        some = everything if name == "AdamW" else [hidden]
        found[name, "torch"] = getattr(torch.optim, name)(some, lr=RATE).step
    return found


def step_milliseconds(width, n_steps):
    """Return the median milliseconds of a step of every optimizer."""
    functions = steppers(width)
    times = {key: [] for key in functions}
    for i in range(n_steps + 3):
        for key, step in functions.items():
            start = perf_counter()
            step()
            # The first steps allocate and, in torch, import.
            if i >= 3:
                times[key].append(1000 * (perf_counter() - start))
    return {key: median(values) for key, values in times.items()}


def first_use(code, repeats):
    """Return the median seconds of the first step of a process."""
    command = [sys.executable, "-c", MEASURED.format(code)]
    return median(
        float(subprocess.check_output(command, text=True)) for _ in range(repeats)
    )


def main():
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3, help="processes")
    args = parser.parse_args()
    print(
        f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}; "
        f"{N_FEATURES} features, median of {args.steps} steps\n"
    )
    print("| hidden layers | optimizer | own, ms | torch, ms |\n|---|---|---|---|")
    for width in args.widths:
        times = step_milliseconds(width, args.steps)
        for name in ("AdamW", "Muon"):
            own, other = times[name, "own"], times[name, "torch"]
            print(f"| {width} x {width} | {name} | {own:.2f} | {other:.2f} |")
    print(f"\n| first step of a process, of {args.repeats} | s |\n|---|---|")
    for name, code in FIRST_USE.items():
        print(f"| {name} | {first_use(code, args.repeats):.2f} |")


if __name__ == "__main__":
    main()
