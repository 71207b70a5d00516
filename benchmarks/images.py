"""Densities of small images beside each other, in bits per dimension.

    OMP_NUM_THREADS=1 python -m benchmarks.images --seconds 60

scikit-learn's digits have 8 x 8 pixels with integer values from 0 to 16. Uniform noise
over a step makes them continuous; the mean log-density of noisy test images bounds the
log-probability of the images from below. Bits per dimension are -log2 of the density in
steps of the grid, over 64: lower is better.

Every method has the same training, validation and test images and the same time; one
setting each, but for the mixture of scikit-learn, whose number of components and
regularization are chosen by validation. Rivals are those of `benchmarks.suite`.
Prints a Markdown table, with the standard error over the test images, and the
memory of the fit beyond what the process had before.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import warnings
from time import perf_counter

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split

from benchmarks.suite import machine
from benchmarks.suite.methods import classical, fitter, jko
from skjko import ConvField, JKOFlowDensity

SHAPE = (8, 8)


def split(seed):
    """Return train, validation and test images, standardised, and their widths."""
    images, digits = load_digits(return_X_y=True)
    X = images + np.random.default_rng(seed).uniform(size=images.shape)
    X, test, digits, _ = train_test_split(
        X, digits, test_size=0.2, stratify=digits, random_state=seed
    )
    train, val = train_test_split(X, test_size=0.2, stratify=digits, random_state=seed)
    mean, width = train.mean(axis=0), train.std(axis=0)
    parts = [((part - mean) / width).astype(np.float32) for part in (train, val, test)]
    return parts, width


def fit_skjko(train, val, deadline, seed, **parameters):
    """Fit a density of skjko within the time."""
    model = JKOFlowDensity(discrete=None, random_state=seed, **parameters)
    model.set_params(**jko.limited({}, deadline)).fit(train, X_val=val)
    flow = jko.Flow(model)
    flow.note = f"{model.n_blocks_} blocks behind {flow.start}"
    return flow


def fit_convolution(train, val, deadline, seed):
    """Fit a flow with the convolutional field."""
    field = ConvField(SHAPE, hidden_channels=16, kernel_size=3)
    return fit_skjko(train, val, deadline, seed, field=field)


def fit_flow(train, val, deadline, seed):
    """Fit a flow with the default field, without a mixture."""
    return fit_skjko(train, val, deadline, seed, init="gaussian")


def fit_grid(train, val, deadline, seed):
    """Fit the mixture of scikit-learn with the best validation score."""
    best = None
    for n_components in (1, 5, 10, 20, 40):
        for reg_covar in (0.03, 0.1, 0.3):
            if best is not None and perf_counter() > deadline:
                break
            model = GaussianMixture(
                n_components, reg_covar=reg_covar, random_state=seed
            ).fit(train)
            score = model.score(val)
            if best is None or score > best[0]:
                best = score, model
    model = best[1]
    note = f"{model.n_components} components, reg_covar {model.reg_covar}"
    return classical.Scored(model, note)


def of_suite(name):
    """Return how a method of the suite is fitted, by its first setting."""

    def fit(train, val, deadline, seed):
        return fitter(name)(train, val, deadline, 1, seed)

    return fit


METHODS = {
    "skjko, ConvField": fit_convolution,
    "skjko, MLPField": fit_flow,
    "skjko, defaults": fit_skjko,
    "mixture, scikit-learn": fit_grid,
    "NSF, zuko": of_suite("nsf"),
    "MAF, zuko": of_suite("maf"),
    "MADE with mixtures": of_suite("made_mog"),
}


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    options = parser.parse_args()
    (train, val, test), width = split(options.seed)
    print(f"{machine.processor()}, {torch.get_num_threads()} threads\n")
    print("| method | bits per dimension | seconds | memory, MB | fit |")
    print("|---|---|---|---|---|")
    for name in options.methods:
        machine.forget_peak()
        before, start = machine.peak_memory(), perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = METHODS[name](train, val, start + options.seconds, options.seed)
        seconds, memory = perf_counter() - start, machine.peak_memory() - before
        nats = np.log(width).sum() - fitted.log_prob(test)
        bits = nats / np.log(2) / len(width)
        error = bits.std() / np.sqrt(len(bits))
        print(
            f"| {name} | {bits.mean():.3f} ± {error:.3f} | {seconds:.0f} "
            f"| {memory:.0f} | {fitted.note} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
