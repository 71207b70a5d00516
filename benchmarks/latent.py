"""Densities of MNIST in the latent space of an autoencoder, beside each other.

    SKJKO_BENCH_DATA=folder SKJKO_BENCH_CLOCK=processor OMP_NUM_THREADS=1 \\
        python -m benchmarks.latent --seconds 60 --figure latent.png

The folder has `image/mnist.npz`. An autoencoder with 16 latent features, which has a
little noise on them in training, and a classifier are trained first, on other images
than those whose latents the densities are fitted to. Latents are standardised.

Every method has the same latents and the same time; one setting each, but for the
mixture, whose number of components is the best of three by validation. Rivals are those
of `benchmarks.suite`. The table has

- the mean of -log p of test latents in nats, with its standard error, by an accurate
  solve, and what a tighter solve changes;
- the Fréchet distance of decoded samples to real test images: of Gaussians fitted to
  the last hidden layer of the classifier, and so in its units;
- seconds of the fit and of the samples.

With SKJKO_BENCH_CLOCK=processor seconds are those of the processor: for machines with
other work. The picture has images, samples, samples of classes, and paths of the flow.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from benchmarks import latent_pictures
from benchmarks.suite import machine
from benchmarks.suite.methods import fitter
from skjko import JKOFlowClassifier, JKOFlowDensity

N_PIXELS, N_MAPPED, N_FEATURES, BATCH = 28 * 28, 24 * 7 * 7, 16, 128
N_VALIDATION, N_SCORED = 2000, 2000
NOISE = 0.1  # in standard deviations of the latents

# Names in the suite, and numbers of trials.
DEFAULTS, FLOW = "skjko, defaults", 'skjko, `init="gaussian"`'
METHODS = {
    DEFAULTS: ("skjko", 1),
    FLOW: ("skjko_flow", 1),
    "Gaussian": ("gaussian", 1),
    "mixture, scikit-learn": ("gmm", 3),
    "NSF, zuko": ("nsf", 1),
    "flow matching": ("flow_matching", 1),
    "diffusion": ("diffusion", 1),
}


def load(n_train, seed):
    """Return images and digits of four parts, or None where there is no file.

    Those of the networks, of the densities, and two halves of the test images: one to
    measure distances to, one to score and to decode.
    """
    path = Path(os.environ.get("SKJKO_BENCH_DATA", ".")) / "image" / "mnist.npz"
    if not path.exists():
        return None
    with np.load(path) as file:
        images, digits, part = file["X"], file["y"], file["part"]
    rng = np.random.default_rng(seed)
    train, test = (rng.permutation(np.flatnonzero(part == i)) for i in (0, 2))
    n_fitted = n_train + N_VALIDATION
    rows = train[n_fitted:], train[:n_fitted], *np.array_split(test, 2)
    return [
        (torch.as_tensor(images[i]).float() / 255, torch.as_tensor(digits[i]).long())
        for i in rows
    ]


def convolutions(*rest):
    """A network of images, with other layers behind its convolutions."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        *(nn.Conv2d(1, 12, 4, 2, 1), nn.SiLU()),
        *(nn.Conv2d(12, 24, 4, 2, 1), nn.SiLU(), nn.Flatten()),
        *rest,
    )


def train(module, loss, samples, seconds, seed, rate=4e-3):
    """Train a network by Adam, at a rate that falls to zero with the time."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(module.parameters())
    start, progress = time.perf_counter(), 0.0
    while progress < 1:
        optimizer.param_groups[0]["lr"] = rate * (1 + np.cos(np.pi * progress)) / 2
        rows = torch.randint(len(samples[0]), (BATCH,), generator=generator)
        optimizer.zero_grad()
        loss(*(part[rows] for part in samples)).backward()
        optimizer.step()
        progress = (time.perf_counter() - start) / seconds
    return module.eval().requires_grad_(False)


class Autoencoder(nn.Module):
    """Latents of images, about standardised, and images of latents."""

    def __init__(self):
        super().__init__()
        self.encoder = convolutions(
            *(nn.Linear(N_MAPPED, 128), nn.SiLU(), nn.Linear(128, N_FEATURES)),
            nn.BatchNorm1d(N_FEATURES, affine=False),
        )
        self.decoder = nn.Sequential(
            *(nn.Linear(N_FEATURES, 128), nn.SiLU()),
            *(nn.Linear(128, N_MAPPED), nn.SiLU(), nn.Unflatten(1, (24, 7, 7))),
            *(nn.ConvTranspose2d(24, 12, 4, 2, 1), nn.SiLU()),
            *(nn.ConvTranspose2d(12, 1, 4, 2, 1), nn.Flatten()),
        )

    def loss(self, images, _):
        """Cross-entropy of the pixels, a sample, with noise on the latents."""
        latents = self.encoder(images)
        logits = self.decoder(latents + NOISE * torch.randn_like(latents))
        return N_PIXELS * binary_cross_entropy_with_logits(logits, images)

    def decode(self, latents):
        """Images of an array of latents."""
        return self.decoder(torch.as_tensor(latents).float()).sigmoid()


def frechet(A, B):
    """Squared Fréchet distance of Gaussians fitted to two sets of features."""
    A, B = (np.asarray(part, dtype=np.float64) for part in (A, B))
    product = np.cov(A.T) @ np.cov(B.T)
    roots = np.sqrt(np.maximum(np.linalg.eigvals(product).real, 0)).sum()
    spread = A.var(axis=0, ddof=1).sum() + B.var(axis=0, ddof=1).sum() - 2 * roots
    return np.square(A.mean(axis=0) - B.mean(axis=0)).sum() + spread


def timed(function):
    """Return a result and its seconds."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = function()
    return result, time.perf_counter() - start


def described(fitted):
    """What there is to know of a fit."""
    if hasattr(fitted, "n_blocks"):
        parts = f"start {fitted.start}, blocks {fitted.n_blocks}, base {fitted.base}"
        return f"{parts}, {fitted.note}"
    chosen = ", ".join(f"{name}={value}" for name, value in fitted.chosen.items())
    return getattr(fitted, "note", "") or chosen


def measure(name, latents, distance, options):
    """Fit a method and print its line of the table; return it and its samples."""
    (method, n_trials), (fitting, val, test) = METHODS[name], latents

    def fit():
        deadline = time.perf_counter() + options.seconds
        return fitter(method)(fitting, val, deadline, n_trials, options.seed)

    fitted, seconds = timed(fit)
    samples, of_samples = timed(lambda: fitted.sample(options.n_samples, options.seed))
    nll = -fitted.log_prob(test[:N_SCORED])
    error = nll.std() / np.sqrt(len(nll))
    gap = f"{fitted.gap(test):.0e}" if hasattr(fitted, "gap") else "-"
    values = f"{nll.mean():.2f} ± {error:.2f}", f"{distance(samples):.2f}"
    cells = *values, f"{seconds:.0f}", f"{of_samples:.1f}", gap, described(fitted)
    print(f"| {' | '.join([name, *cells])} |", flush=True)
    return fitted, samples


def of_classes(latents, digits, options):
    """Fit densities of the classes; return 100 samples of each."""
    limit = 0.9 * options.seconds
    density = JKOFlowDensity(init="gaussian", max_blocks=2, time_limit=limit)
    model = JKOFlowClassifier(density, random_state=options.seed)
    model.fit(latents, digits)
    return [model.sample(c, 100, random_state=options.seed) for c in range(10)]


def networks(images, digits, seconds, seed):
    """Train an autoencoder, and a classifier in a quarter of the time."""
    torch.manual_seed(seed)
    coder = Autoencoder()
    judge = convolutions(nn.Linear(N_MAPPED, 64), nn.SiLU(), nn.Linear(64, 10))

    def judge_loss(images, digits):
        return cross_entropy(judge(images), digits)

    train(coder, coder.loss, (images, digits), seconds, seed)
    return coder, train(judge, judge_loss, (images, digits), seconds / 4, seed)


def run(parts, options):
    """Train the networks, measure all methods, and draw."""
    of_networks, (images, digits), (real, real_digits), (test, _) = parts
    coder, judge = networks(*of_networks, options.network_seconds, options.seed)
    encoded = [coder.encoder(part).double() for part in (images, test)]
    mean, width = encoded[0].mean(0), encoded[0].std(0)
    latents, held_out = (((part - mean) / width).float().numpy() for part in encoded)
    split = *np.split(latents, [options.n_train]), held_out
    features = judge[:-1](real)

    def decode(Z):
        return coder.decode(torch.as_tensor(Z) * width + mean)

    def right(images, digits):
        return (judge(images).argmax(1) == digits).float().mean()

    def distance(images):
        return frechet(judge[:-1](images), features)

    print(f"accuracy of the classifier: {right(real, real_digits):.1%}")
    print(f"distance of training images: {distance(images[: options.n_samples]):.2f}")
    print(f"distance of test images, decoded: {distance(decode(held_out)):.2f}\n")
    print(
        "| method | NLL | Fréchet distance | fit, s | samples, s | solver error | fit |"
    )
    print("|---|---|---|---|---|---|---|")
    found = {
        name: measure(name, split, lambda Z: distance(decode(Z)), options)
        for name in options.methods
    }
    classes = of_classes(latents, digits.numpy(), options)
    shares = [right(decode(Z), c) for c, Z in enumerate(classes)]
    print(f"\nsamples of classes that the classifier confirms: {np.mean(shares):.1%}")
    if options.figure:
        flow = found[FLOW][0].model if FLOW in found else None
        samples = {name: Z for name, (_, Z) in found.items()}
        latent_pictures.draw(
            latent_pictures.rows(samples, test, held_out, classes, flow, decode),
            options.figure,
        )


def main():
    """Print the table and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of a fit")
    parser.add_argument("--network-seconds", type=float, default=120.0)
    parser.add_argument("--n-train", type=int, default=15_000)
    parser.add_argument("--n-samples", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--figure", help="file of a picture")
    options = parser.parse_args()
    if machine.on_processor_time():
        # The methods are imported later, and with them the clock.
        time.perf_counter = time.monotonic = time.process_time
    parts = load(options.n_train, options.seed)
    if parts is None:
        sys.exit("There is no image/mnist.npz in SKJKO_BENCH_DATA.")
    print(f"{machine.processor()}, {torch.get_num_threads()} threads\n")
    run(parts, options)


if __name__ == "__main__":
    main()
