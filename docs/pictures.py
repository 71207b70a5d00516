"""Draw the pictures of the guide: python docs/pictures.py [name ...].

Every picture is one function, and is made of a fit that takes a few seconds.
"""

# SPDX-License-Identifier: BSD-3-Clause

import copy
import io
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import norm
from sklearn.model_selection import GridSearchCV

from skjko import (
    JKOFlowDensity,
    JKOFlowOutlierDetector,
    JKOSchedule,
    MLPField,
)
from skjko.datasets import correlated_mixture, moons, spirals
from skjko.plots import (
    FlowDisplay,
    MovementsDisplay,
    PairDisplay,
    ReasonsDisplay,
    TrainingDisplay,
    TrajectoryDisplay,
)

FOLDER = Path(__file__).parent / "guide" / "images"
BLUE, ORANGE, GREY = "#1f6fb4", "#e07b1f", "#8a8a8a"


def save(fig, name):
    """Write a figure with few colours, which makes a small file."""
    buffer = io.BytesIO()
    fig.savefig(buffer, dpi=90, facecolor="white")
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.png"
    image = Image.open(buffer).convert("RGB")
    image.quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def panels(n, width=2.4, height=2.7):
    """Return a figure and a row of axes."""
    fig = Figure((n * width, height), layout="constrained")
    return fig, np.atleast_1d(fig.subplots(1, n))


def plane(ax, half, title):
    """Make square axes of a plane."""
    ax.set(xlim=(-half, half), ylim=(-half, half), aspect="equal")
    ax.set_title(title, fontsize=10)
    ax.tick_params(labelsize=7)


def grid(half, n=120):
    """Return points on a square grid."""
    ticks = np.linspace(-half, half, n)
    return np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)


def moons_in_blocks(max_blocks=3, **schedule):
    """Return samples, and a flow of blocks that are trained in seconds."""
    X = moons().sample(2000, random_state=0)
    density = JKOFlowDensity(
        init="gaussian",
        transforms=None,
        field=MLPField((32, 32)),
        schedule=JKOSchedule(**schedule),
        max_blocks=max_blocks,
        max_iter=150,
        random_state=0,
    )
    return X, density.fit(X)


def index():
    """Positions of samples from the data to the base distribution."""
    X, density = moons_in_blocks()
    save(FlowDisplay.from_estimator(density, X).figure_, "index")


def plots():
    """Pictures of the page on displays: blocks, paths, training, pairs and reasons."""
    X, density = moons_in_blocks(
        step_size=0.15, free_block=False, n_reparameterizations=1
    )
    save(FlowDisplay.from_estimator(density, X, arrows=True).figure_, "blocks")
    save(TrajectoryDisplay.from_estimator(density, X).figure_, "paths")
    fig, axes = panels(3, 3.6, 3.0)
    TrainingDisplay.from_estimator(density, ax=axes[:2])
    MovementsDisplay.from_estimator(density, ax=axes[2])
    axes[2].set_title("displacement of the samples", fontsize=10)
    save(fig, "training")
    table = customers(1000)
    table = table.assign(city=np.where(table["share"] > 0.6, "Rome", "Oslo"))
    bounds = {"visits": (0, None), "share": (0, 1), "income": (0, None)}
    model = JKOFlowDensity(bounds=bounds, init="mixture", max_blocks=0, random_state=0)
    save(PairDisplay.from_estimator(model.fit(table), table).figure_, "pairs")
    detector = JKOFlowOutlierDetector(random_state=0).fit(X)
    outlier = moons().sample(500, random_state=1)[:1] + np.array([0.0, 2.5])
    save(ReasonsDisplay.from_estimator(detector, outlier).figure_, "reasons")


def density():
    """Samples, the density learned, and new samples."""
    X = spirals(n_turns=1.0, sigma=0.2).sample(2000, random_state=0)
    model = JKOFlowDensity(random_state=0, time_limit=20).fit(X)
    print(model.summary())
    fig, axes = panels(3, 2.5)
    axes[0].scatter(*X.T, s=3, color=BLUE, linewidths=0)
    plane(axes[0], 4, "2000 training samples")
    values = np.exp(model.score_samples(grid(4))).reshape(120, 120)
    extent = (-4, 4, -4, 4)
    axes[1].imshow(values, origin="lower", extent=extent, cmap="Blues")
    plane(axes[1], 4, "density, exp(score_samples)")
    new = model.sample(2000, random_state=0)
    axes[2].scatter(*new.T, s=3, color=ORANGE, linewidths=0)
    plane(axes[2], 4, "2000 new samples")
    save(fig, "density")


def customers(n, seed=0):
    """Return a table with an integer, a bounded and a skewed column."""
    rng = np.random.default_rng(seed)
    loyalty = rng.beta(2, 3, n)
    return pd.DataFrame(
        {
            "visits": rng.poisson(1 + 8 * loyalty),
            "share": np.clip(rng.beta(1 + 4 * loyalty, 2), 1e-6, 1 - 1e-6),
            "income": np.exp(rng.normal(3 + loyalty, 0.5)),
        }
    )


def tables():
    """Histograms of the columns of a data frame and of new samples."""
    X = customers(2000)
    bounds = {"visits": (0, None), "share": (0, 1), "income": (0, None)}
    model = JKOFlowDensity(bounds=bounds, random_state=0, time_limit=10).fit(X)
    print(model.summary())
    new = model.sample(20_000, random_state=0)
    fig, axes = panels(3, 2.7, 2.5)
    bins = {
        "visits": np.arange(-0.5, 18.5),
        "share": np.linspace(0, 1, 26),
        "income": np.linspace(0, 150, 31),
    }
    kinds = {"visits": "integer", "share": "in (0, 1)", "income": "positive"}
    for ax, name in zip(axes, X.columns, strict=True):
        ax.hist(X[name], bins[name], density=True, color=GREY, alpha=0.5, label="data")
        ax.hist(
            new[name],
            bins[name],
            density=True,
            histtype="step",
            color=ORANGE,
            label="samples",
        )
        ax.set_title(f"{name} ({kinds[name]})", fontsize=10)
        ax.tick_params(labelsize=7, labelleft=False, left=False)
    axes[-1].legend(fontsize=8, frameon=False)
    save(fig, "tables")


def outliers():
    """Regions of p-values, and new samples with a few outliers."""
    normal = moons().sample(2000, random_state=0)
    rng = np.random.default_rng(1)
    new = np.vstack(
        [moons().sample(150, random_state=1), rng.uniform(-3.5, 3.5, (25, 2))]
    )
    detector = JKOFlowOutlierDetector(random_state=0).fit(normal)
    half, n = 3.8, 120
    p = detector.p_values(grid(half, n)).reshape(n, n)
    fig, axes = panels(2, 3.2, 3.2)
    axes[0].scatter(*normal.T, s=3, color=GREY, linewidths=0)
    plane(axes[0], half, "training and calibration samples")
    ticks = np.linspace(-half, half, n)
    axes[1].contourf(
        ticks, ticks, p, [0.05, 0.2, 0.5, 1], colors=["#e3edf6", "#bcd5ea", "#8cb7dc"]
    )
    flagged = detector.predict(new) == -1
    axes[1].scatter(*new[~flagged].T, s=10, color=BLUE, linewidths=0, label="inlier")
    axes[1].scatter(
        *new[flagged].T, s=16, color=ORANGE, marker="x", linewidths=1.2, label="outlier"
    )
    plane(axes[1], half, "new samples; p > 0.05, 0.2, 0.5 shaded")
    axes[1].legend(fontsize=8, loc="upper right")
    save(fig, "outliers")


def n_blocks(estimator, X, y=None):
    """Number of blocks, as a scorer."""
    return estimator.n_blocks_


def log_likelihood(estimator, X, y=None):
    """Mean log-density of validation samples, as a scorer."""
    return estimator.score(X)


def tuning():
    """Scores and numbers of blocks of a grid search."""
    X = moons().sample(2000, random_state=0)
    sizes, steps = [(8, 8), (32, 32)], [0.1, 0.5, 2.0]
    search = GridSearchCV(
        JKOFlowDensity(
            init="gaussian",
            transforms=None,
            field=MLPField(),
            schedule=JKOSchedule(free_block=False),
            max_blocks=2,
            max_iter=30,
            random_state=0,
        ),
        {"field__hidden_layer_sizes": sizes, "schedule__step_size": steps},
        scoring={"score": log_likelihood, "n_blocks": n_blocks},
        refit="score",
        cv=2,
    ).fit(X)
    shape = len(sizes), len(steps)
    scores = search.cv_results_["mean_test_score"].reshape(shape)
    counts = search.cv_results_["mean_test_n_blocks"].reshape(shape)
    fig, (ax,) = panels(1, 4.8, 2.6)
    image = ax.imshow(scores, cmap="Blues", aspect="auto")
    middle = (scores.min() + scores.max()) / 2
    for (i, j), value in np.ndenumerate(scores):
        ax.text(
            j,
            i,
            f"{value:.2f}\n{counts[i, j]:g} blocks",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if value > middle else "black",
        )
    ax.set_xticks(range(len(steps)), steps, fontsize=8)
    ax.set_yticks(range(len(sizes)), map(str, sizes), fontsize=8)
    ax.set_xlabel("schedule__step_size", fontsize=8)
    ax.set_ylabel("field__hidden_layer_sizes", fontsize=8)
    ax.set_title("mean validation score of the folds, and blocks kept", fontsize=10)
    bar = fig.colorbar(image, ax=ax)
    bar.set_label("nats", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    save(fig, "tuning")


def numerics():
    """Error of the log-density by the number of solver steps."""
    X = moons().sample(2000, random_state=0)
    model = JKOFlowDensity(
        init="gaussian",
        transforms=None,
        field=MLPField((64, 64)),
        max_blocks=1,
        max_iter=150,
        random_state=0,
    ).fit(X)
    points = moons().sample(200, random_state=1)
    chosen = model.n_ode_steps_[0]
    steps = [1, 2, 3, 4, 6, 8, 12, 16, 24]
    steps = sorted({*steps, chosen})
    other, errors = copy.deepcopy(model), []
    for n in steps:
        other.flow_.blocks[0].n_steps = int(n)
        errors.append(np.abs(other.likelihood_error(points)).mean())
    fig, (ax,) = panels(1, 4.4, 2.9)
    ax.loglog(steps, errors, "o-", color=BLUE, ms=4, label="one block")
    order = errors[-1] * (np.array(steps) / steps[-1]) ** -4.0
    ax.loglog(steps, order, "--", color=GREY, lw=1, label="order 4")
    ax.loglog(
        [chosen],
        [errors[steps.index(chosen)]],
        "o",
        color=ORANGE,
        ms=8,
        label="chosen by fit",
    )
    ax.axhline(1e-3, color=GREY, lw=0.8)
    ax.text(steps[-1], 1.15e-3, "tol = 0.001", fontsize=7, ha="right", va="bottom")
    ax.set_xticks(steps[::2], steps[::2], fontsize=7)
    ax.minorticks_off()
    ax.tick_params(labelsize=7)
    ax.set_xlabel("solver steps", fontsize=8)
    ax.set_ylabel("nats", fontsize=8)
    ax.set_title("mean |likelihood_error| of test samples", fontsize=10)
    ax.legend(fontsize=8, frameon=False)
    save(fig, "numerics")


def sizes():
    """Score by the time limit."""
    truth = correlated_mixture(10)
    X = truth.sample(8000, random_state=0)
    X_test = truth.sample(1000, random_state=1)
    limits = [1, 2, 4, 8, 16]
    scores = [
        JKOFlowDensity(init="gaussian", transforms=None, time_limit=s, random_state=0)
        .fit(X)
        .score(X_test)
        for s in limits
    ]
    fig, (ax,) = panels(1, 4.4, 2.8)
    ax.semilogx(limits, scores, "o-", color=BLUE, ms=4, label="flow")
    ax.axhline(truth.score(X_test), color=GREY, lw=1, ls="--", label="true density")
    ax.set_xticks(limits, limits, fontsize=8)
    ax.minorticks_off()
    ax.tick_params(labelsize=7)
    ax.set_xlabel("time_limit, seconds", fontsize=8)
    ax.set_ylabel("mean log-density, nats", fontsize=8)
    ax.set_title("test score, 8000 training samples, 10 features", fontsize=10)
    ax.legend(fontsize=8, frameon=False, loc="lower right")
    save(fig, "sizes")


def theory():
    """Paths of samples in one dimension, from the data to the base."""
    rng = np.random.default_rng(0)
    centres = np.array([-2.0, 0.5, 2.5])
    which = rng.choice(3, 3000, p=[0.4, 0.35, 0.25])
    X = (centres[which] + 0.3 * rng.standard_normal(3000))[:, None]
    model = JKOFlowDensity(
        init="gaussian",
        transforms=None,
        field=MLPField((32, 32), "tanh", 3.0),
        schedule=JKOSchedule(step_size=0.25, growth=1.5),
        max_blocks=4,
        max_iter=150,
        early_stopping=False,
        random_state=0,
    ).fit(X)
    some = np.quantile(X, np.linspace(0.01, 0.99, 41), axis=0)
    way = model.trajectory(some, n_between=9, transforms=False)[..., 0]
    start = model.trajectory(X, transforms=False)[0, :, 0]
    fig = Figure((6.6, 3), layout="constrained")
    left, ax, right = fig.subplots(1, 3, sharey=True, width_ratios=[1, 5, 1])
    left.hist(start, 50, orientation="horizontal", color=BLUE, density=True)
    left.invert_xaxis()
    left.set_title("whitened data", fontsize=10)
    time = np.linspace(0, model.n_blocks_, len(way))
    ax.plot(time, way, color=BLUE, lw=0.7, alpha=0.8)
    for k in range(model.n_blocks_ + 1):
        ax.axvline(k, color=GREY, lw=0.6)
    names = [f"h = {h:.3g}" if np.isfinite(h) else "free" for h in model.step_sizes_]
    ax.set_xticks(np.arange(model.n_blocks_) + 0.5, names, fontsize=8)
    ax.tick_params(bottom=False, labelsize=8)
    ax.set(xlim=(0, model.n_blocks_), ylim=(-3, 3))
    ax.set_title("paths of samples through the blocks", fontsize=10)
    latent = model.transform(X)[:, 0]
    right.hist(latent, 50, orientation="horizontal", color=ORANGE, density=True)
    z = np.linspace(-3, 3, 100)
    right.plot(norm.pdf(z), z, color="black", lw=1)
    right.set_title("latent", fontsize=10)
    for side in (left, right):
        side.tick_params(labelsize=7, labelbottom=False, bottom=False)
    save(fig, "theory")


PICTURES = (index, plots, density, tables, outliers, tuning, numerics, sizes, theory)

if __name__ == "__main__":
    chosen = sys.argv[1:]
    for picture in PICTURES:
        if not chosen or picture.__name__ in chosen:
            picture()
