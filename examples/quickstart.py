"""Fit a flow to a flower and to a table, and look at what it learned.

Part one uses a distribution whose density is known exactly, so that the estimate can
be held against the truth; part two a real table that comes with scikit-learn. Both
print the mean negative log-likelihood of rows that no model has seen (NLL, in nats and
in the units of the data: lower is better) beside two classic density estimators.
Part one also draws quickstart.png.
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

from skjko import JKOFlowDensity
from skjko.datasets import rose


def tuned(model, grid, cv):
    """Whiten the columns, choose by held-out likelihood, refit on all rows.

    The flow whitens too. A kernel as wide in all directions needs it more than anyone:
    on correlated columns, scaling each by itself would cost it several nats.
    """
    step = type(model).__name__.lower()
    grid = {f"{step}__{name}": values for name, values in grid.items()}
    return GridSearchCV(make_pipeline(PCA(whiten=True), model), grid, cv=cv)


def log_density(model, X):
    """Return the log-density of every row in the units of the data."""
    log_p = model.score_samples(X)
    if isinstance(model, GridSearchCV):
        # Whitening outside the estimator changes the units of the density, so its
        # Jacobian has to be added by hand. JKOFlowDensity whitens inside.
        log_p = log_p - 0.5 * np.log(model.best_estimator_[0].explained_variance_).sum()
    return log_p


def held_out_losses(models, X_train, X_test):
    """Fit every model and return its loss at every test row, and the seconds taken."""
    losses, seconds = {}, {}
    for name, model in models.items():
        # The matrices of the classic models are too small to gain from threads, and
        # on a busy machine they lose a factor of ten by them. None leaves torch alone.
        threads = 1 if isinstance(model, GridSearchCV) else None
        start = perf_counter()
        with threadpool_limits(threads):
            losses[name] = -log_density(model.fit(X_train), X_test)
        seconds[name] = perf_counter() - start
    return losses, seconds


def report(title, losses, seconds, reference):
    """Print the mean losses, and how far they are above the reference's."""
    print(f"\n{title}")
    print(f"{'':24}{'NLL':>9}{f'above {reference}':>26}{'seconds':>10}")
    for name, loss in losses.items():
        # The difference of two losses at the same rows has far less noise than either.
        above = loss - losses[reference]
        error = above.std() / np.sqrt(len(above))
        gap = "" if name == reference else f"{above.mean():.3f} ± {error:.3f}"
        time = f"{seconds[name]:.1f}" if name in seconds else ""
        print(f"{name:24}{loss.mean():9.3f}{gap:>26}{time:>10}")


def flower():
    """Learn a rose-shaped density, compare it with the truth, and draw both."""
    truth = rose()
    X_train = truth.sample(30_000, random_state=0)
    X_test = truth.sample(10_000, random_state=1)

    # To save time, the number of components is chosen on fewer rows, and stops at 120
    # although more would do better, and blocks train for fewer iterations than by
    # default. The best bandwidth depends on the number of rows, so it is chosen with
    # nearly all of them.
    few_rows = ShuffleSplit(1, train_size=10_000, test_size=5_000, random_state=0)
    most_rows = ShuffleSplit(1, test_size=0.1, random_state=0)
    components = {"n_components": [60, 120]}
    bandwidths = {"bandwidth": np.geomspace(0.005, 0.05, 10)}
    models = {
        "JKOFlowDensity": JKOFlowDensity(max_iter=200, random_state=0),
        "GaussianMixture, tuned": tuned(
            GaussianMixture(init_params="k-means++", random_state=0),
            components,
            few_rows,
        ),
        "KernelDensity, tuned": tuned(KernelDensity(rtol=1e-4), bandwidths, most_rows),
    }
    losses, seconds = held_out_losses(models, X_train, X_test)
    losses = {"true density": -truth.score_samples(X_test), **losses}
    report(
        f"Rose: {len(X_train):,} training rows, {len(X_test):,} test rows, 2 columns",
        losses,
        seconds,
        reference="true density",
    )
    draw(truth, models["JKOFlowDensity"], X_test[:4000], "quickstart.png")


def table():
    """Compare the models on a real table, measurements of cell nuclei."""
    nuclei = load_breast_cancer()
    # 13 rows are exactly zero in these two columns: an atom, which has no density.
    atoms = {"mean concavity", "mean concave points"}
    columns = [n.startswith("mean ") and n not in atoms for n in nuclei.feature_names]
    X = nuclei.data[:, columns]
    X_train, X_test = train_test_split(X, test_size=0.25, random_state=0)

    components = {"n_components": range(1, 11)}
    bandwidths = {"bandwidth": np.geomspace(0.1, 1, 10)}
    models = {
        "JKOFlowDensity": JKOFlowDensity(random_state=0),
        "GaussianMixture, tuned": tuned(
            GaussianMixture(random_state=0), components, cv=5
        ),
        "KernelDensity, tuned": tuned(KernelDensity(), bandwidths, cv=5),
    }
    losses, seconds = held_out_losses(models, X_train, X_test)
    report(
        f"Breast cancer: {len(X_train)} training rows, {len(X_test)} test rows, "
        f"{X.shape[1]} columns",
        losses,
        seconds,
        reference="JKOFlowDensity",
    )


def draw(truth, flow, X, path, resolution=150):
    """Draw the data, the learned density and the way of the points to the Gaussian."""
    # Imported here because only pictures need it. A bare Figure has no window, so this
    # runs on machines without a display.
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    way = flow.trajectory(X)
    # Of many blocks, show eight positions: the first, the last and some between.
    blocks = np.unique(np.linspace(0, len(way) - 1, 8).round().astype(int))

    # Square panels over the full width, and room for the titles.
    width = 14
    heights = [width / 4 + 0.5, width / max(4, len(blocks)) + 0.5]
    fig = Figure((width, sum(heights)), dpi=120, layout="constrained")
    above, below = fig.subfigures(2, 1, height_ratios=heights)
    top = above.subplots(1, 4)
    bottom = below.subplots(1, len(blocks), squeeze=False)[0]
    for canvas in (fig, above, below):
        canvas.set_facecolor("black")

    half = 1.05 * np.abs(X).max()
    for ax, points, title in [
        (top[0], X, "data"),
        (top[1], flow.sample(len(X), random_state=0), "samples from the flow"),
    ]:
        ax.scatter(*points.T, s=1, color="#fcb77e", linewidths=0)
        ax.set(title=title, xlim=(-half, half), ylim=(-half, half))

    # Both densities share one scale; its square root brings out the faint parts.
    ticks = np.linspace(-half, half, resolution)
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    true, learned = (
        np.exp(p.score_samples(grid)).reshape(resolution, resolution)
        for p in (truth, flow)
    )
    norm = PowerNorm(0.5, vmin=0, vmax=np.quantile(true, 0.999))
    for ax, density, title in [
        (top[2], true, "true density"),
        (top[3], learned, "learned density"),
    ]:
        ax.imshow(
            density, origin="lower", extent=2 * (-half, half), cmap="magma", norm=norm
        )
        ax.set(title=title)

    # A point keeps the colour of the direction in which it started.
    angle = np.arctan2(X[:, 1], X[:, 0])
    color = 0.62 + 0.38 * np.cos(angle[:, None] - 2 * np.pi / 3 * np.arange(3))
    for ax, block in zip(bottom, blocks, strict=True):
        ax.scatter(*way[block].T, s=1.6, c=color, linewidths=0)
        for radius in (1, 2, 3):
            ax.add_patch(Circle((0, 0), radius, fill=False, color="0.4", lw=0.5))
        title = f"after block {block}"
        ax.set(title=title, xlim=(-3.6, 3.6), ylim=(-3.6, 3.6))

    for ax in [*top, *bottom]:
        ax.set_aspect("equal")
        ax.set_axis_off()
        ax.title.set(color="0.85", size=12)
    fig.get_layout_engine().set(h_pad=0.1)
    fig.savefig(path)
    print(f"\nThe picture is in {path}.")


if __name__ == "__main__":
    flower()
    table()
