"""Estimate the density of a rose and of a table, and draw what was learned.

Part one uses a distribution whose density is known exactly, so the estimates can be
compared with the truth. Part two uses a real table that comes with scikit-learn. Both
print the mean log-density of test samples (in nats and in the units of the data: higher
is better) of four estimators:

- JKOFlowDensity with its defaults, which may start with a mixture of Gaussians;
- JKOFlowDensity with init="gaussian": the flow alone, from the data to N(0, I);
- GaussianMixture and KernelDensity of scikit-learn, tuned; of the table a
  GaussianMixture of logarithms as well.

Part one also draws quickstart.png: the density, and how the flow moves samples block by
block. All of it takes about three minutes on one CPU core.
"""

# SPDX-License-Identifier: BSD-3-Clause

from time import perf_counter

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, ShuffleSplit, train_test_split
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits

from skjko import JKOFlowDensity, JKOSchedule, MLPField
from skjko.datasets import rose
from skjko.transforms import MixtureMap

DEFAULT, FLOW = "JKOFlowDensity", 'JKOFlowDensity, init="gaussian"'


def tuned(model, grid, cv):
    """Return a search behind whitening, by held-out likelihood.

    JKOFlowDensity whitens too. KernelDensity needs it most: its kernel is equally wide
    in all directions, and on correlated features that costs several nats.
    """
    step = type(model).__name__.lower()
    grid = {f"{step}__{name}": values for name, values in grid.items()}
    return GridSearchCV(make_pipeline(PCA(whiten=True), model), grid, cv=cv)


def log_density(model, X):
    """Return the log-density of every sample in the units of the data."""
    log_p = model.score_samples(X)
    if isinstance(model, GridSearchCV):
        # Whitening outside the estimator changes the units of the density, so its
        # Jacobian has to be added here. JKOFlowDensity whitens inside.
        log_p = log_p - 0.5 * np.log(model.best_estimator_[0].explained_variance_).sum()
    return log_p


def test_scores(models, X_train, X_test):
    """Fit every model; return log-densities of the test samples and seconds taken."""
    scores, seconds = {}, {}
    for name, model in models.items():
        # The matrices of scikit-learn's models are too small to gain from threads. None
        # leaves torch as it is.
        threads = 1 if isinstance(model, GridSearchCV) else None
        start = perf_counter()
        with threadpool_limits(threads):
            scores[name] = log_density(model.fit(X_train), X_test)
        seconds[name] = perf_counter() - start
    return scores, seconds


def report(title, scores, seconds, reference):
    """Print the mean log-densities, and their differences from the reference's."""
    print(f"\n{title}")
    print(f"{'':34}{'score':>8}{f'from {reference}':>24}{'seconds':>9}")
    for name, score in scores.items():
        # Paired differences have a far smaller standard error than the means.
        gain = score - scores[reference]
        error = gain.std() / np.sqrt(len(gain))
        gap = "" if name == reference else f"{gain.mean():.3f} ± {error:.3f}"
        time = f"{seconds[name]:.1f}" if name in seconds else ""
        print(f"{name:34}{score.mean():8.3f}{gap:>24}{time:>9}", flush=True)


def flower(n_train=30_000):
    """Estimate a rose-shaped density, compare with the truth, and draw both."""
    truth = rose()
    X_train = truth.sample(n_train, random_state=0)
    X_test = truth.sample(10_000, random_state=1)

    # The flow alone takes JKO steps of growing size, and nothing but whitening stands
    # in front of it. Small first steps move samples little, as diffusion would, and
    # show the way. A small network and few iterations save time.
    flow = JKOFlowDensity(
        init="gaussian",
        transforms=None,
        field=MLPField((64, 64)),
        schedule=JKOSchedule(step_size=0.01, growth=4, free_block=False),
        max_blocks=5,
        max_iter=100,
        random_state=0,
    )
    # To save time, n_components is chosen on fewer samples and from two values; more
    # components would do better. The best bandwidth depends on the number of samples,
    # so it is chosen with nearly all of them.
    few = ShuffleSplit(
        1, train_size=n_train // 3, test_size=n_train // 6, random_state=0
    )
    most = ShuffleSplit(1, test_size=0.1, random_state=0)
    mixture = GaussianMixture(init_params="k-means++", random_state=0)
    models = {
        DEFAULT: JKOFlowDensity(random_state=0),
        FLOW: flow,
        "GaussianMixture, tuned": tuned(mixture, {"n_components": [60, 120]}, few),
        "KernelDensity, tuned": tuned(
            KernelDensity(rtol=1e-4), {"bandwidth": np.geomspace(0.005, 0.05, 10)}, most
        ),
    }
    scores, seconds = test_scores(models, X_train, X_test)
    scores = {"true density": truth.score_samples(X_test), **scores}
    report(
        f"Rose: {len(X_train):,} training and {len(X_test):,} test samples, 2 features",
        scores,
        seconds,
        reference="true density",
    )
    for name in (DEFAULT, FLOW):
        print(f"\n{models[name].summary()}")
    draw(truth, models[DEFAULT], flow, X_test[:6000], "quickstart.png")


def table():
    """Compare the estimators on a real table, measurements of cell nuclei."""
    nuclei = load_breast_cancer()
    # Two features are exactly zero in 13 samples: an atom, which has no density.
    atoms = {"mean concavity", "mean concave points"}
    columns = [n.startswith("mean ") and n not in atoms for n in nuclei.feature_names]
    X = nuclei.data[:, columns]
    X_train, X_test = train_test_split(X, test_size=0.25, random_state=0)

    mixture = GaussianMixture(random_state=0)
    models = {
        DEFAULT: JKOFlowDensity(random_state=0),
        FLOW: JKOFlowDensity(init="gaussian", random_state=0),
        "GaussianMixture, tuned": tuned(mixture, {"n_components": range(1, 11)}, cv=5),
        "KernelDensity, tuned": tuned(
            KernelDensity(), {"bandwidth": np.geomspace(0.1, 1, 10)}, cv=5
        ),
    }
    scores, seconds = test_scores(models, X_train, X_test)
    # All measurements are positive: what one would do by hand. Logarithms have their
    # own Jacobian.
    name = "GaussianMixture of logarithms"
    logs = tuned(mixture, {"n_components": range(1, 11)}, cv=5)
    by_hand, took = test_scores({name: logs}, np.log(X_train), np.log(X_test))
    scores[name] = by_hand[name] - np.log(X_test).sum(axis=1)
    seconds |= took
    report(
        f"Breast cancer: {len(X_train)} training and {len(X_test)} test samples, "
        f"{X.shape[1]} features",
        scores,
        seconds,
        reference=DEFAULT,
    )
    for name in (DEFAULT, FLOW):
        print(f"\n{models[name].summary()}")


def description(density):
    """Return in a few words what a fitted density is made of."""
    n = density.n_blocks_
    blocks = f"{n} block{'' if n == 1 else 's'}" if n else "no blocks"
    mixture = density.transforms_.find(MixtureMap) or density.base_
    if mixture is None:
        return f"one Gaussian, {blocks}"
    return f"mixture of {mixture.n_components_} Gaussians, {blocks}"


def draw(truth, density, flow, X, path, resolution=240):
    """Draw the learned density, and how the flow alone moves the data to N(0, I)."""
    # Imported here because only the picture needs it. A bare Figure has no window, so
    # this runs on machines without a display.
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    # The data, whitened, and behind every block.
    way = flow.trajectory(X)
    names = ["data\n", "whitened\n"]
    for k, h in enumerate(flow.step_sizes_, start=1):
        names.append(f"after block {k}\n{'free' if np.isinf(h) else f'h = {h:.3g}'}")

    # Two rows of square panels over the full width, in inches, with room for titles.
    width, room, gap, light = 14, 0.75, 0.1, "0.9"
    sizes = [(width - gap) / n - gap for n in (4, len(way))]
    height = sum(sizes) + 2 * room + 0.5
    fig = Figure((width, height), dpi=120, facecolor="black")

    def panel(row, k, title, half):
        left = gap + k * (sizes[row] + gap)
        bottom = gap if row else height - room - sizes[0]
        box = np.array([left, bottom, sizes[row], sizes[row]])
        ax = fig.add_axes(box / [width, height, width, height])
        ax.set(xlim=(-half, half), ylim=(-half, half))
        ax.set_axis_off()
        ax.set_title(title, color=light, size=12)
        return ax

    half = 1.05 * np.abs(X).max()
    samples = density.sample(len(X), random_state=0)
    title = f"samples of JKOFlowDensity()\n{description(density)}"
    for k, (points, name) in enumerate([(X, "data\n"), (samples, title)]):
        panel(0, k, name, half).scatter(*points.T, s=1, color="#fcb77e", linewidths=0)

    # Both densities share one scale; its square root makes low densities visible.
    ticks = np.linspace(-half, half, resolution)
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    true, learned = (
        np.exp(p.score_samples(grid)).reshape(resolution, resolution)
        for p in (truth, density)
    )
    norm = PowerNorm(0.5, vmin=0, vmax=np.quantile(true, 0.999))
    title = "learned density\nJKOFlowDensity()"
    for k, (values, name) in enumerate([(true, "true density\n"), (learned, title)], 2):
        panel(0, k, name, half).imshow(
            values, origin="lower", extent=2 * (-half, half), cmap="magma", norm=norm
        )

    # A sample keeps the colour of the direction in which it started. Circles are at 1,
    # 2 and 3 standard deviations of N(0, I).
    angle = np.arctan2(X[:, 1], X[:, 0])
    color = 0.62 + 0.38 * np.cos(angle[:, None] - 2 * np.pi / 3 * np.arange(3))
    for k, (points, name) in enumerate(zip(way, names, strict=True)):
        ax = panel(1, k, name, half if k == 0 else 3.6)
        ax.scatter(*points.T, s=0.8, c=color, linewidths=0)
        for radius in (1, 2, 3) if k > 0 else ():
            circle = Circle((0, 0), radius, fill=False, color="white", alpha=0.4)
            circle.set(linewidth=0.6, zorder=3)
            ax.add_patch(circle)
    y = (gap + sizes[1] + room) / height
    title = 'The flow alone, init="gaussian": from the data to N(0, I), block by block'
    fig.text(0.5, y, title, color=light, size=14, ha="center")

    fig.savefig(path)
    print(f"\nThe picture is in {path}.")


if __name__ == "__main__":
    flower()
    table()
