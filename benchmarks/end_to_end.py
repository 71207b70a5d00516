"""One flow trained block by block, and end to end: NLL and memory by seconds.

    OMP_NUM_THREADS=1 python -m benchmarks.end_to_end --out end_to_end.jsonl
    python -m benchmarks.end_to_end --report end_to_end.jsonl --figure end_to_end.png

The paper claims that training by blocks takes less memory and less computation than
training one continuous flow of all blocks. Here both have the same blocks (`MLPField`,
two hidden layers of 128 units, one Runge-Kutta step of fourth order in training), the
same optimizer, learning rates that fall to zero with the time, minibatches, running
averages of the weights, and seconds. Block by block is `JKOFlowDensity` without maps of
columns and without a mixture; the number of blocks is the largest that it may take, for
validation may keep fewer. End to end takes the weights that were best on the validation
samples, and its best learning rate of three. Test NLL, with its standard error, is of
the grids that `JKOFlowDensity` chooses, and of eight steps a block end to end.

Sets: 16,000 samples of a copula of 20 features; scikit-learn's digits, 64 features,
with uniform noise over a step; and with `--sets miniboone_head`, of the folder of the
other benchmarks, 43 features of MINIBOONE. All are whitened by the training samples.

Every run is a process of its own; memory is its peak beyond what it had before.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import json
import math
import subprocess
import sys
import time
from itertools import product

import numpy as np
import torch

from benchmarks import json_lines
from benchmarks.images import split as digits
from benchmarks.suite import machine, sets
from skjko import JKOFlowDensity, MLPField, RungeKutta, datasets
from skjko.flow import fields, objective, ode, optimizers
from skjko.flow.blocks import Block
from skjko.flow.training_config import TrainingConfig

WIDTHS, BATCH = (128, 128), 500
RATES = (1e-3, 3e-3, 1e-2)
# Evaluations may not take the time of the training; the test samples have fine grids.
N_EVALUATIONS, N_VALIDATION, N_VALIDATION_STEPS, N_SCORING_STEPS = 10, 250, 2, 8
BY_BLOCKS, END_TO_END = "block by block", "end to end"


def copula(seed):
    """Return train, validation and test samples of a copula."""
    X = datasets.skewed_copula(20).sample(20_000, random_state=seed)
    return np.split(X, (16_000, 18_000))


def whitened(parts):
    """Return sets whose training samples have mean zero and covariance one."""
    mean, (_, scale, axes) = (
        parts[0].mean(0),
        np.linalg.svd(parts[0] - parts[0].mean(0), full_matrices=False),
    )
    root = axes.T / scale * math.sqrt(len(parts[0]))
    return [((part - mean) @ root).astype(np.float32) for part in parts]


def miniboone(seed):
    """Return train, validation and test samples of the folder's part of MINIBOONE."""
    case = sets.make(sets.registry()["miniboone_head"], seed, 10**9)
    return case.train, case.val, case.test


SETS = {
    "copula": copula,
    "digits": lambda seed: digits(seed)[0],
    "miniboone_head": miniboone,
}


def by_blocks(parts, n_blocks, seconds, seed):
    """Return the test losses of a flow that is trained block by block."""
    train, val, test = parts
    model = JKOFlowDensity(
        init="gaussian",
        transforms=None,
        discrete=None,
        field=MLPField(WIDTHS, "silu"),
        solver=RungeKutta(1),
        max_blocks=n_blocks,
        batch_size=min(BATCH, len(train)),
        time_limit=seconds,
        random_state=seed,
    ).fit(train, X_val=val)
    return -model.score_samples(test), {"n_blocks": model.n_blocks_}


def end_to_end(parts, n_blocks, seconds, seed, rate):
    """Return the test losses of a flow whose blocks are trained all at once."""
    begin = time.perf_counter()
    train, val, test = (torch.as_tensor(part) for part in parts)
    d, config = train.shape[1], TrainingConfig(n_steps=1)
    generator = torch.Generator().manual_seed(seed)
    flow = torch.nn.ModuleList(
        Block(
            fields.MLP(d, WIDTHS, "silu", generator=generator),
            radius=1.25 * train.norm(dim=1).max().item(),
            step_size=math.inf,
            n_steps=1,
        )
        for _ in range(n_blocks)
    ).requires_grad_(True)
    parameters = list(flow.parameters())
    averages = [p.detach().clone() for p in parameters]
    pairs = optimizers.of(parameters, d, config)
    best, curve, n_iter, progress = (math.inf, averages), [], 0, 0.0
    while progress < 1:
        batch = train[torch.randint(len(train), (BATCH,), generator=generator)]
        loss = _loss(flow, config, batch)
        for p in parameters:
            p.grad = None
        loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        warm = min(1.0, progress / config.warm_up + 1e-3)
        now = rate * warm * (1 + math.cos(math.pi * progress)) / 2
        n_iter += 1
        with torch.no_grad():
            for optimizer, ratio in pairs:
                optimizer.step(ratio * now)
            keep = min(config.averaging, n_iter / (n_iter + 10))
            for average, p in zip(averages, parameters, strict=True):
                average.lerp_(p, 1 - keep)
        if progress * N_EVALUATIONS >= len(curve) + 1:
            values = _evaluated(flow, averages, val[:N_VALIDATION], N_VALIDATION_STEPS)
            value = values.mean().item()
            curve.append((time.perf_counter() - begin, value))
            if value < best[0]:
                best = value, [average.clone() for average in averages]
            if not math.isfinite(value):
                break
        progress = (time.perf_counter() - begin) / seconds
    losses = _evaluated(flow, best[1], test, N_SCORING_STEPS)
    more = {"n_iter": n_iter, "val": best[0], "curve": curve}
    return losses.double().numpy(), {"n_blocks": n_blocks, **more}


def _loss(flow, config, batch):
    """Losses of a minibatch, with the estimate of the solver's error in training."""
    y, log_det, error = batch, 0.0, 0.0
    for block in flow:
        solution = ode.integrate(block.dynamics(), y, block.grid, with_error=True)
        y, log_det = solution.y, log_det + solution.log_det
        error = error + solution.error
    nll = objective.negative_log_likelihood(config.base, y, log_det)
    return nll + config.error_weight * error


@torch.no_grad()
def _evaluated(flow, weights, x, n_steps):
    """Losses of samples by other weights, by so many steps a block."""
    own = [p.clone() for p in flow.parameters()]
    _set(flow, weights)
    log_det, base = 0.0, TrainingConfig().base
    for block in flow:
        grid = ode.uniform_grid(n_steps)
        solution = ode.integrate(block.dynamics(), x, grid)
        x, log_det = solution.y, log_det + solution.log_det
    _set(flow, own)
    return objective.negative_log_likelihood(base, x, log_det)


def _set(flow, weights):
    for p, weight in zip(flow.parameters(), weights, strict=True):
        p.copy_(weight)


def child(case):
    """Run one case in this process; print its result."""
    if machine.on_processor_time():
        time.perf_counter = time.monotonic = time.process_time
    parts = whitened(SETS[case["set"]](case["seed"]))
    # What torch and scikit-learn load at first use is not of the training.
    few = [part[:200] for part in parts]
    by_blocks(few, 1, 1.0, 0)
    machine.forget_peak()
    before, settings = machine.peak_memory(), (case["seconds"], case["seed"])
    if case["training"] == BY_BLOCKS:
        losses, more = by_blocks(parts, case["max_blocks"], *settings)
    else:
        losses, more = end_to_end(parts, case["max_blocks"], *settings, case["rate"])
    error = losses.std() / math.sqrt(len(losses))
    megabytes = machine.peak_memory() - before
    row = {"nll": losses.mean(), "error": error, "megabytes": megabytes}
    print(json.dumps({**case, **row, **more}))


def run(args):
    """Return the results of all cases, one after the other."""
    for name, n, seconds in product(args.sets, args.blocks, args.seconds):
        case = {"set": name, "max_blocks": n, "seconds": seconds, "seed": args.seed}
        for more in [
            {"training": BY_BLOCKS},
            *({"training": END_TO_END, "rate": rate} for rate in RATES),
        ]:
            command = [sys.executable, "-m", "benchmarks.end_to_end", "--child"]
            out = subprocess.check_output([*command, json.dumps({**case, **more})])
            yield json.loads(out.splitlines()[-1])


def chosen(rows):
    """Return the results by set, blocks, seconds and training, by the best rate."""
    best = {}
    for row in rows:
        key = row["set"], row["max_blocks"], row["seconds"], row["training"]
        if key not in best or row.get("val", 0) < best[key].get("val", 0):
            best[key] = row
    return best


def report(rows):
    """Print the table."""
    best = chosen(rows)
    print(
        "| set | blocks | seconds | training | test NLL | peak MB | blocks in the end |"
    )
    print("|---|---|---|---|---|---|---|")
    for (name, n, seconds, training), row in best.items():
        nll = f"{row['nll']:.3f} ± {row['error']:.3f}"
        memory = f"{row['megabytes']:.0f}"
        cells = name, n, f"{seconds:g}", training, nll, memory, row["n_blocks"]
        print(f"| {' | '.join(map(str, cells))} |")


def draw(rows, path):
    """Draw NLL and memory against the number of blocks."""
    from matplotlib.figure import Figure

    best = chosen(rows)
    names = list(dict.fromkeys(key[0] for key in best))
    seconds = max(key[2] for key in best)
    figure = Figure(figsize=(4.2 * len(names), 6), layout="constrained")
    axes = figure.subplots(2, len(names), sharex=True, squeeze=False)
    for (above, below), name in zip(axes.T, names, strict=True):
        for training, marker in ((BY_BLOCKS, "o-"), (END_TO_END, "s--")):
            of = {
                key[1]: row
                for key, row in best.items()
                if (key[0], *key[2:]) == (name, seconds, training)
            }
            losses, errors = ([row[k] for row in of.values()] for k in ("nll", "error"))
            above.errorbar(list(of), losses, errors, fmt=marker, label=training)
            below.plot(list(of), [r["megabytes"] for r in of.values()], marker)
        above.set(title=name, ylabel=f"test NLL after {seconds:g} s, nats")
        below.set(xlabel="blocks", ylabel="memory of the training, MB")
        below.set_ylim(bottom=0)
        below.set_xscale("log", base=2)
    axes[0, 0].legend()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    json_lines.add_options(parser)
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--figure", help="file of a picture")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS)[:2])
    parser.add_argument("--blocks", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--seconds", type=float, nargs="+", default=[60.0])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.child:
        return child(args.child)
    if args.report:
        rows = json_lines.read(args.report)
    else:
        rows = json_lines.written(run(args), args.out)
    report(rows)
    if args.figure:
        draw(rows, args.figure)


if __name__ == "__main__":
    main()
