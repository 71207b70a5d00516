"""Speed of fitted models, of small fits, and of a training step.

    python benchmarks/throughput.py [--budget 60]

Three tables:

1. Samples per second of scoring and sampling, and the milliseconds of scoring one
   sample: skjko's default, zuko's neural splines fitted to the same samples in the same
   seconds, and the flow alone (`init="gaussian"`), by its own solver and by that of
   FFJORD: adaptively (torchdiffeq dopri5 at 1e-5, backwards to sample) with the
   divergence estimated by one random direction or traced exactly by automatic
   differentiation. The last lines compare samples with those of the same normal draws
   by the exact inverse of the flow's discrete map, as `inverse_transform` has it: how
   far they are apart, in standard deviations of the features.
2. Seconds of fits to small tables.
3. The share of the float32 rate of matrix products that a training step reaches. Only
   products that a step cannot do without are counted: those of velocity and divergence
   at every evaluation of the solver, and twice as many for the gradient.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
from statistics import median
from time import perf_counter

import numpy as np
import torch
from sklearn.base import clone
from suite import machine
from suite.methods import autoregressive, solves
from torchdiffeq import odeint

from skjko import JKOFlowDensity, datasets
from skjko.flow.block_training import BlockTrainer
from skjko.flow.blocks import Block
from skjko.flow.fields import MLP
from skjko.flow.samples import Samples
from skjko.flow.training_config import TrainingConfig

TOLERANCE = 1e-5
SETS = {
    "moons": datasets.moons,
    "mixture, d=10": lambda: datasets.correlated_mixture(10),
}


def seconds(function, repeats=3):
    """Median seconds of a call, after one to warm up."""
    function()
    times = []
    for _ in range(repeats):
        start = perf_counter()
        function()
        times.append(perf_counter() - start)
    return median(times)


def field_of(block):
    """Return the velocity field of a block as `(t, x) -> velocity`."""
    velocity = block.velocity()
    return lambda t, x: velocity(t, x)[0]


class Adaptive:
    """A fitted skjko model, solved adaptively block after block."""

    def __init__(self, model, exact):
        self.model, self.exact = model, exact

    @torch.no_grad()
    def log_prob(self, X):
        """Log-densities, or an unbiased estimate of them."""
        Z, log_det = self.model.transforms_.forward(np.asarray(X, dtype=float))
        z = torch.as_tensor(Z)
        axes, factor = solves.directions(z, None if self.exact else 1)
        change = z.new_zeros(len(z))
        for block in self.model.flow_.blocks:
            field = field_of(block)

            def dynamics(t, state, field=field):
                return solves.velocity_and_divergence(field, t, state[0], axes, factor)

            z, change = self._solve(dynamics, (z, change), (0.0, 1.0))
        normal = -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * np.log(2 * np.pi)
        return (normal + change).numpy() + log_det

    @torch.no_grad()
    def sample(self, n, seed):
        """Draw samples."""
        rng = np.random.default_rng(seed)
        z = torch.as_tensor(rng.standard_normal((n, self.model.n_features_in_)))
        for block in reversed(self.model.flow_.blocks):
            field = field_of(block)

            def dynamics(t, state, field=field):
                return (field(t, state[0]),)

            (z,) = self._solve(dynamics, (z,), (1.0, 0.0))
        return self.model.transforms_.inverse(z.numpy())

    def _solve(self, dynamics, state, times):
        solution = odeint(
            dynamics,
            state,
            torch.tensor(times, dtype=torch.float64),
            rtol=TOLERANCE,
            atol=TOLERANCE,
            method="dopri5",
            options=solves.OPTIONS,
        )
        return tuple(part[-1] for part in solution)


def speeds(args):
    """Print the table of scoring and sampling."""
    print(
        "| set | model | score, samples/s | sample, samples/s | one sample, ms "
        "| NLL | fit, s |\n|---|---|---|---|---|---|---|"
    )
    for name, make in SETS.items():
        truth = make()
        X = truth.sample(args.fit_samples, random_state=0)
        V = truth.sample(max(args.fit_samples // 10, 100), random_state=1)
        T = truth.sample(args.samples, random_state=2)
        center, scale = X.mean(axis=0), X.std(axis=0)
        X, V, T = (((A - center) / scale).astype(np.float32) for A in (X, V, T))
        start = perf_counter()
        # skjko first: the splines get the seconds that it has taken.
        model = JKOFlowDensity(random_state=0, time_limit=args.budget, max_iter=5000)
        model.set_params(max_iter=args.iterations or model.max_iter)
        model.fit(X, X_val=V)
        budget = perf_counter() - start
        # The adaptive solver needs blocks.
        flow = clone(model).set_params(init="gaussian")
        start = perf_counter()
        flow.fit(X, X_val=V)
        flow_seconds = perf_counter() - start
        start = perf_counter()
        spline = autoregressive.fit_nsf(X, V, start + budget, 1, 0)
        spline_seconds = perf_counter() - start
        models = {
            "skjko": (model.score_samples, model.sample, budget),
            "NSF (zuko)": (spline.log_prob, spline.sample, spline_seconds),
            "flow alone": (flow.score_samples, flow.sample, flow_seconds),
        }

        def exact_sample(n, seed, flow=flow, d=T.shape[1]):
            Z = np.random.RandomState(seed).standard_normal((n, d))
            return flow.inverse_transform(Z)

        inverse = flow.score_samples, exact_sample, flow_seconds
        models["flow alone, exact inverse"] = inverse
        for title, exact in (("one direction", False), ("exact trace", True)):
            adaptive = Adaptive(flow, exact)
            models[f"flow alone, adaptive, {title}"] = (
                adaptive.log_prob,
                adaptive.sample,
                flow_seconds,
            )
        for title, (score, sample, fit_seconds) in models.items():
            n_calls = args.calls if "adaptive" not in title else min(args.calls, 20)
            rate = len(T) / seconds(lambda f=score, T=T: f(T))
            drawn = len(T) / seconds(lambda f=sample, T=T: f(len(T), 0))
            one = seconds(lambda f=score, T=T: f(T[:1]), n_calls)
            print(
                f"| {name} | {title} | {rate:.0f} | {drawn:.0f} | {1000 * one:.2f} "
                f"| {-score(T).mean():.3f} | {fit_seconds:.1f} |",
                flush=True,
            )
        drawn, exact = flow.sample(len(T), random_state=0), exact_sample(len(T), 0)
        away = np.abs(drawn - exact).max(axis=1) / exact.std()
        print(
            f"| {name} | distance of samples from the exact inverse: {away.mean():.1e} "
            f"in the mean, {away.max():.1e} at most | | | | | |",
            flush=True,
        )


def small_fits(args):
    """Print the seconds of fits to small tables."""
    print("\n| samples, features | fit with the defaults, s |\n|---|---|")
    for n, d in ((1000, 2), (200, 4)):
        truth = datasets.moons() if d == 2 else datasets.correlated_mixture(d)
        X = truth.sample(n, random_state=0)
        model = JKOFlowDensity(random_state=0)
        if args.iterations:
            model.set_params(max_iter=args.iterations)
        start = perf_counter()
        model.fit(X)
        print(f"| {n}, {d} | {perf_counter() - start:.1f} |", flush=True)


def product_rate(m, k, n):
    """Float32 operations a second of an (m, k) by (k, n) product."""
    a, b = torch.randn(m, k), torch.randn(k, n)
    n_calls = max(1, int(2e9 / (2 * m * k * n)))

    def products():
        for _ in range(n_calls):
            torch.mm(a, b)

    return n_calls * 2 * m * k * n / seconds(products, repeats=5)


def step_operations(n, d, width, n_evaluations, first_width):
    """Operations of the matrix products that one training step needs.

    An evaluation of the field with two hidden layers has the products of the velocity
    (d to the first layer, layer to layer, layer to d, and the linear map d to d) and
    one of the divergence (layer to layer again). Each has two more in the gradient,
    with respect to its input and to its weights; not that of the first input at the
    first evaluation, which is counted all the same: below a hundredth.
    """
    velocity = d * first_width + width * width + width * d + d * d
    return n_evaluations * 3 * 2 * n * (velocity + width * width)


def step_shares(args):
    """Print what share of the machine's rate a training step reaches."""
    large = product_rate(2048, 2048, 2048)
    n, d, steps = 1000, 10, 2
    print(
        f"\nLarge product, 2048 cubed: {large / 1e9:.0f} GFLOP/s float32\n\n"
        "| width | step, ms | operations, G | step, GFLOP/s "
        "| (1000, width) product, GFLOP/s | share | share of large |\n"
        "|---|---|---|---|---|---|---|"
    )
    X = datasets.correlated_mixture(d).sample(10 * n, random_state=0)
    x = torch.as_tensor((X - X.mean(axis=0)) / X.std(axis=0), dtype=torch.float32)
    samples = Samples(x, torch.ones(len(x)))
    config = TrainingConfig(batch_size=n, n_steps=steps)
    # Four stages a step of the solver, and one more for its error estimate.
    n_evaluations = 4 * steps + 1
    for width in args.widths:
        generator = torch.Generator().manual_seed(0)
        field = MLP(d, (width, width), "silu", generator=generator)
        block = Block(field, 1.25 * samples.radius, step_size=0.5)
        trainer = BlockTrainer(block, samples, config, generator)
        step = seconds(lambda trainer=trainer: trainer.step(0.1, 0.1), 25)
        operations = step_operations(n, d, width, n_evaluations, width)
        product = product_rate(n, width, width)
        rate = operations / step
        print(
            f"| {width} | {1000 * step:.1f} | {operations / 1e9:.2f} "
            f"| {rate / 1e9:.1f} | {product / 1e9:.1f} | {rate / product:.0%} "
            f"| {rate / large:.0%} |",
            flush=True,
        )


def main():
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=60, help="seconds of a fit")
    parser.add_argument("--fit-samples", type=int, default=20_000)
    parser.add_argument("--samples", type=int, default=5_000, help="scored, sampled")
    parser.add_argument("--calls", type=int, default=200, help="scorings of one sample")
    parser.add_argument("--iterations", type=int, help="of a block, to be quick")
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"{machine.processor()}, {args.threads} threads, torch {torch.__version__}, "
        f"commit {machine.commit()}; medians\n"
    )
    speeds(args)
    small_fits(args)
    step_shares(args)


if __name__ == "__main__":
    main()
