"""Displays: what is drawn is what the estimator says."""

# SPDX-License-Identifier: BSD-3-Clause

import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import polars as pl
import pytest
from helpers import quick
from sklearn.base import clone
from sklearn.mixture import GaussianMixture

from skjko import JKOFlowDensity, JKOFlowOutlierDetector, JKOSchedule
from skjko.datasets import moons
from skjko.plots import (
    CalibrationDisplay,
    DensityDisplay,
    FlowDisplay,
    MovementsDisplay,
    PairDisplay,
    ReasonsDisplay,
    TrainingDisplay,
    TrajectoryDisplay,
)

plt.switch_backend("Agg")
X = moons().sample(300, random_state=0)


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def density():
    # Without validation there is a known number of blocks.
    return quick(early_stopping=False).fit(X)


@pytest.fixture(scope="module")
def gaussian():
    return quick(max_blocks=0).fit(X)


@pytest.fixture(scope="module")
def rounds():
    schedule = JKOSchedule(n_reparameterizations=1, n_refinements=1, step_size=0.3)
    return quick(schedule=schedule, max_iter=30).fit(moons().sample(1000, 0))


@pytest.fixture(scope="module")
def evened():
    schedule = JKOSchedule(n_reparameterizations=1, free_block=False)
    return quick(schedule=schedule, early_stopping=False).fit(X)


def table(n=200, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(n)
    return pd.DataFrame(
        {
            "age": rng.poisson(20 + 4 * np.abs(a)),
            "income": np.exp(1 + 0.5 * a + 0.3 * rng.standard_normal(n)),
            "share": 1 / (1 + np.exp(-a + rng.standard_normal(n))),
            "city": np.where(a > 0.5, "Rome", np.where(a > -0.3, "Oslo", "Cairo")),
        }
    )


@pytest.fixture(scope="module")
def of_table():
    return JKOFlowDensity(init="mixture", max_blocks=0, random_state=0).fit(table())


@pytest.fixture(scope="module")
def detector():
    small = quick(max_blocks=1, early_stopping=False)
    return JKOFlowOutlierDetector(density=small, random_state=0).fit(table())


def of(draw, *args, **kwargs):
    """A display, which has been drawn without warnings or an axes of its own."""
    display = draw(*args, **kwargs)
    display.figure_.canvas.draw()
    return display


# ---------------------------------------------------------------------- blocks


def test_flow_shows_positions_behind_every_step(density):
    display = of(FlowDisplay.from_estimator, density, X, n_between=3)
    assert [ax.get_title() for ax in display.axes_] == [
        "data",
        "after whitening",
        "after block 1",
        "after block 2",
    ]
    for points, positions in zip(
        display.scatters_, density.trajectory(X, 3)[[0, 1, 5, 9]], strict=True
    ):
        np.testing.assert_allclose(points.get_offsets(), positions, rtol=1e-9)
    assert display.arrows_ == [None] * 4
    # Up to the error of the solver, whose steps are shorter here.
    latent = density.transform(X)
    np.testing.assert_allclose(display.scatters_[-1].get_offsets(), latent, atol=2e-3)


def test_arrows_are_displacements_by_the_next_block(density):
    display = of(FlowDisplay.from_estimator, density, X, arrows=True, n_between=0)
    way = density.trajectory(X)
    assert [arrows is None for arrows in display.arrows_] == [True, False, False, True]
    for k in (1, 2):
        arrows = display.arrows_[k]
        drawn = np.column_stack([arrows.U, arrows.V])
        stride = len(X) // len(drawn)
        np.testing.assert_allclose(drawn, (way[k + 1] - way[k])[::stride], rtol=1e-9)
        np.testing.assert_allclose(arrows.XY, way[k][::stride], rtol=1e-9)


def test_without_blocks_nothing_is_called_a_flow(gaussian):
    display = of(FlowDisplay.from_estimator, gaussian, X)
    assert display.titles == ["data", "after whitening"]
    with pytest.raises(ValueError, match="the density has no blocks"):
        display.animate()
    with pytest.raises(ValueError, match="the density has no blocks"):
        TrajectoryDisplay.from_estimator(gaussian, X)
    with pytest.raises(ValueError, match="the density has no blocks"):
        MovementsDisplay.from_estimator(gaussian)


def test_flow_without_transforms(density):
    display = of(FlowDisplay.from_estimator, density, X, transforms=False)
    assert display.titles == ["before the blocks", "after block 1", "after block 2"]
    first = density.trajectory(X, transforms=False)[0]
    np.testing.assert_allclose(display.scatters_[0].get_offsets(), first)


def test_flow_has_names_of_data_and_components(of_table):
    display = of(
        FlowDisplay.from_estimator, of_table, table(), features=["share", "income"]
    )
    labels = [ax.get_xlabel() for ax in display.axes_]
    assert (labels[0], labels[-1]) == ("share", "component 2")
    points = display.scatters_[0].get_offsets()
    np.testing.assert_allclose(points, table()[["share", "income"]])


def test_transforms_that_move_nothing_have_no_panel(of_table):
    # The bounds and the cells are those of the categories.
    steps = [type(step).__name__ for step in of_table.transforms_]
    assert {"Bounds", "NormalCells"} < set(steps)
    display = of(FlowDisplay.from_estimator, of_table, table(), features=[1, 2])
    assert len(display.axes_) == 1 + len(steps) - 2
    assert "after mapping the bounds" not in display.titles


def test_animation_follows_the_trajectory(density, tmp_path):
    _, ax = plt.subplots(figsize=(1, 1), dpi=40)
    display = FlowDisplay.from_estimator(density, X[:50], n_between=1)
    animation = display.animate(ax, hold=2)
    way = density.trajectory(X[:50], n_between=1)[1:]
    frames = list(animation.new_frame_seq())
    assert len(frames) == len(way) + 4
    for frame, positions in zip(frames[2:-2], way, strict=True):
        (points,) = animation._func(frame)
        np.testing.assert_allclose(points.get_offsets(), positions, rtol=1e-9)
        if frame == frames[3]:
            assert display.axes_[0].get_title() == "within block 1, t = 0.50"
    assert display.axes_[0].get_title() == "after block 2"
    animation.save(tmp_path / "blocks.gif", writer="pillow")
    from PIL import Image

    with Image.open(tmp_path / "blocks.gif") as image:
        assert image.n_frames > len(way) / 2
    assert "<img" in animation.to_jshtml(fps=5)


def test_paths_are_the_trajectory(density):
    display = of(TrajectoryDisplay.from_estimator, density, X, n_samples=None)
    way = density.trajectory(X, n_between=15, transforms=False)
    paths = np.stack(display.lines_.get_segments(), axis=1)
    np.testing.assert_allclose(paths, way, rtol=1e-9)
    np.testing.assert_allclose(display.starts_.get_offsets(), way[0])
    np.testing.assert_allclose(display.ends_.get_offsets(), way[-1])
    assert display.ax_.get_title() == "paths of 300 samples through 2 blocks"


def test_fewer_samples_are_rows_of_the_data(density):
    display = of(FlowDisplay.from_estimator, density, X, n_samples=20)
    drawn = display.scatters_[0].get_offsets()
    assert len(drawn) == 20
    assert {tuple(row) for row in drawn} <= {tuple(row) for row in X}


@pytest.mark.parametrize("display", [FlowDisplay, TrajectoryDisplay])
def test_blocks_of_what_has_none(display, detector):
    with pytest.raises(ValueError, match=r"trajectory.*Take its density_"):
        display.from_estimator(detector, table())
    with pytest.raises(ValueError, match="at least two features"):
        display.from_estimator(quick(max_blocks=0).fit(X[:, :1]), X[:, :1])


# --------------------------------------------------------------------- density


@pytest.mark.parametrize("response", ["density", "log_density"])
def test_density_is_that_of_the_samples(density, response):
    display = of(
        DensityDisplay.from_estimator, density, X, response=response, grid_resolution=20
    )
    grid = np.column_stack([display.xx0.ravel(), display.xx1.ravel()])
    expected = density.score_samples(grid).reshape(20, 20)
    expected = np.exp(expected) if response == "density" else expected
    np.testing.assert_allclose(display.surface_.get_array(), expected, rtol=1e-7)
    assert display.xx0.min() < X[:, 0].min()
    assert display.xx1.max() > X[:, 1].max()
    assert display.colorbar_.ax.get_ylabel().startswith(response.replace("_", "-"))


@pytest.mark.parametrize("method", ["contour", "contourf"])
def test_density_as_contours(density, method):
    display = of(
        DensityDisplay.from_estimator,
        density,
        X,
        response="log_density",
        plot_method=method,
        points=True,
    )
    assert len(display.surface_.levels) > 3
    np.testing.assert_array_equal(display.points_.get_offsets(), X)


def test_density_sums_to_one(gaussian):
    display = of(DensityDisplay.from_estimator, gaussian, X, eps=1.0)
    area = np.diff(display.xx0[0])[0] * np.diff(display.xx1[:, 0])[0]
    assert display.response.sum() * area == pytest.approx(1, abs=1e-3)


def test_density_outside_of_bounds_is_blank_without_warnings():
    bounded = quick(bounds={1: (-2, None)}, max_blocks=0).fit(X)
    display = of(DensityDisplay.from_estimator, bounded, X, response="log_density")
    outside = display.xx1 <= -2
    drawn = display.surface_.get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(drawn), outside)
    assert outside.any()


def test_marginal_density_is_a_histogram_of_samples(of_table):
    display = of(
        DensityDisplay.from_estimator,
        of_table,
        table(),
        features=["age", "income"],
        n_samples=500,
    )
    # Whole years have one cell each.
    assert np.diff(display.xx0[0]).tolist() == [1.0] * (display.xx0.shape[1] - 1)
    new = of_table.sample(500, random_state=0)
    width = np.diff(display.xx1[:, 0])[0]
    low = display.xx1[0, 0] - width / 2
    inside = (new["income"] >= low) & new["age"].isin(display.xx0[0])
    assert display.response.sum() * width == pytest.approx(inside.mean(), abs=0.01)
    for k in (0, 5, 9):
        share = (inside & (new["age"] == display.xx0[0, k])).mean()
        assert display.response[:, k].sum() * width == pytest.approx(share, abs=0.01)
    assert display.ax_.get_title() == "marginal density, histogram of 500 samples"


def test_density_at_given_values(of_table):
    row = table()[3:4]
    display = of(
        DensityDisplay.from_estimator,
        of_table,
        table(),
        features=["income", "share"],
        at=row,
        grid_resolution=8,
    )
    i, j = 3, 5
    at = row.assign(income=display.xx0[i, j], share=display.xx1[i, j])
    expected = np.exp(of_table.score_samples(at))[0]
    assert display.response[i, j] == pytest.approx(expected, rel=1e-9)


def test_density_of_polars_and_of_arrays_with_names():
    frame = pl.DataFrame(X, schema=["a", "b"])
    fitted = quick(max_blocks=0).fit(frame)
    display = of(DensityDisplay.from_estimator, fitted, frame, features=["b", "a"])
    assert (display.xlabel, display.ylabel) == ("b", "a")
    middle = (X[:, 1].min() + X[:, 1].max()) / 2
    np.testing.assert_allclose(display.xx0.mean(), middle)


def test_density_of_scikit_learn():
    mixture = GaussianMixture(2, random_state=0).fit(X)
    display = of(DensityDisplay.from_estimator, mixture, X, grid_resolution=10)
    grid = np.column_stack([display.xx0.ravel(), display.xx1.ravel()])
    expected = np.exp(mixture.score_samples(grid))
    np.testing.assert_allclose(display.surface_.get_array().ravel(), expected)
    wide = np.hstack([X, X[:, :1] + X[:, 1:] ** 2])
    mixture = GaussianMixture(2, random_state=0).fit(wide)
    assert of(DensityDisplay.from_estimator, mixture, wide).response.max() > 0


def test_p_values_in_the_plane():
    small = quick(max_blocks=0, early_stopping=False)
    fitted = JKOFlowOutlierDetector(density=small, random_state=0).fit(X)
    display = of(
        DensityDisplay.from_estimator, fitted, X, response="p_values", grid_resolution=9
    )
    grid = np.column_stack([display.xx0.ravel(), display.xx1.ravel()])
    expected = fitted.p_values(grid).reshape(9, 9)
    np.testing.assert_allclose(display.surface_.get_array(), expected)


def test_density_errors(density, of_table):
    draw = DensityDisplay.from_estimator
    with pytest.raises(ValueError, match=r"'features'.*'z'.*neither a name"):
        draw(density, X, features=[0, "z"])
    with pytest.raises(ValueError, match="must be 2 features"):
        draw(density, X, features=[0])
    with pytest.raises(ValueError, match=r"'response'.*must be one of"):
        draw(density, X, response="score")
    with pytest.raises(ValueError, match="'plot_method'"):
        draw(density, X, plot_method="imshow")
    with pytest.raises(ValueError, match="'city' has text"):
        draw(of_table, table(), features=["age", "city"])
    with pytest.raises(ValueError, match="needs 'at'"):
        draw(of_table, table(), response="log_density")


# -------------------------------------------------------------------- training


def test_losses_and_scores_are_those_of_the_fit(rounds):
    display = of(TrainingDisplay.from_estimator, rounds)
    drawn = np.concatenate([line.get_ydata() for line in display.losses_])
    np.testing.assert_array_equal(drawn, rounds.loss_curve_)
    steps = np.concatenate([line.get_xdata() for line in display.losses_])
    np.testing.assert_array_equal(steps, 1 + np.arange(rounds.n_iter_))
    for line, r in zip(display.scores_, rounds.history_, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), r.validation_scores)
        assert ("rejected" in line.get_label()) != r.accepted


def test_history_has_the_losses_of_its_blocks(rounds):
    accepted = [r for r in rounds.history_ if r.accepted]
    losses = [one for r in accepted for block in r.losses for one in block]
    assert losses == rounds.loss_curve_
    assert all(len(r.losses) <= len(r.step_sizes) for r in rounds.history_)


def test_training_without_validation_has_losses_only(density):
    display = of(TrainingDisplay.from_estimator, density)
    assert (len(display.axes_), len(display.losses_)) == (1, 2)


def test_training_without_blocks(gaussian):
    display = of(TrainingDisplay.from_estimator, gaussian)
    (line,) = display.scores_
    np.testing.assert_array_equal(line.get_ydata(), gaussian.validation_scores_)
    with pytest.raises(ValueError, match="trained no block"):
        TrainingDisplay.from_estimator(quick(max_blocks=0, early_stopping=False).fit(X))


def test_training_with_a_mixture_as_the_base(rounds):
    scores = np.append(rounds.validation_scores_, rounds.validation_scores_[-1] + 0.1)
    display = TrainingDisplay(rounds.history_, validation_scores=scores, base=True)
    display.plot()
    ticks = [tick.get_text() for tick in display.axes_[1].get_xticklabels()]
    assert ticks[len(scores) - 1] == "base"
    last = display.axes_[1].lines[-1]
    np.testing.assert_array_equal(last.get_ydata(), scores[-2:])


def test_movements_of_every_round(evened):
    display = of(MovementsDisplay.from_estimator, evened)
    history = evened.history_
    assert display.rounds == ["grow", "reparameterize"]
    for bars, r in zip(display.bars_, history, strict=True):
        heights = [bar.get_height() for bar in bars]
        np.testing.assert_array_equal(heights, r.movements)
    accepted = [r for r in history if r.accepted]
    np.testing.assert_array_equal(accepted[-1].movements, evened.movements_)


def test_training_of_the_detector(detector):
    display = of(TrainingDisplay.from_estimator, detector)
    assert len(display.losses_[0].get_ydata()) == detector.n_iter_
    with pytest.raises(ValueError, match="Got GaussianMixture"):
        MovementsDisplay.from_estimator(GaussianMixture().fit(X))


# --------------------------------------------------------------- pairs, reasons


def test_pairs_have_data_below_and_samples_above(density):
    display = of(PairDisplay.from_estimator, density, X, random_state=3)
    below, above = display.axes_[1, 0], display.axes_[0, 1]
    np.testing.assert_array_equal(below.collections[0].get_offsets(), X)
    new = density.sample(len(X), random_state=3)
    np.testing.assert_array_equal(above.collections[0].get_offsets(), new[:, ::-1])
    assert below.get_xlabel() == "feature 0"


def test_pairs_of_a_table_with_categories(of_table):
    data = table()
    display = of(PairDisplay.from_estimator, of_table, data, random_state=0)
    ax = display.axes_[3, 3]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["Cairo", "Oslo", "Rome"]
    # The path of a step histogram goes around its bars; of the filled one, too.
    filled = ax.patches[0].get_path().vertices[:, 1]
    for share in data["city"].value_counts(normalize=True):
        assert np.isclose(filled, share).any()
    points = display.axes_[3, 1].collections[0].get_offsets()
    np.testing.assert_array_equal(points[:, 0], data["income"])
    codes = data["city"].map({"Cairo": 0, "Oslo": 1, "Rome": 2})
    np.testing.assert_array_equal(np.round(points[:, 1]), codes)


def test_pairs_of_tables_that_are_there(detector):
    display = of(PairDisplay.from_predictions, X, X[:50] + 1, features=[1, 0])
    np.testing.assert_array_equal(display.samples, X[:50, ::-1] + 1)
    with pytest.raises(ValueError, match="2 and 1 features"):
        PairDisplay.from_predictions(X, X[:, :1])
    with pytest.raises(ValueError, match="Take its density_"):
        PairDisplay.from_estimator(detector, table())


def test_reasons_are_sorted_gains(detector):
    row = table()[:1].assign(income=90.0)
    display = of(ReasonsDisplay.from_estimator, detector, row)
    gains = detector.explain(row).to_numpy()[0]
    order = np.argsort(-gains)
    drawn = [bar.get_width() for bar in display.bars_]
    np.testing.assert_allclose(drawn, gains[order])
    names = [label.get_text() for label in display.ax_.get_yticklabels()]
    likely = detector.most_likely_values(row)["income"].iloc[0]
    assert names[0] == f"income = 90, likely {likely:.4g}"
    assert [name.split(" = ")[0] for name in names] == list(row.columns[order])
    needed = -detector.decision_function(row)[0]
    assert display.needed_.get_xdata()[0] == pytest.approx(needed)
    assert display.ax_.get_title().startswith("outlier, p = ")
    few = of(ReasonsDisplay.from_estimator, detector, row, max_features=2)
    assert len(few.bars_) == 2


def test_reasons_of_an_inlier_and_of_another_statistic(detector):
    data = table()
    inlier = data[detector.predict(data) == 1][:1]
    display = of(ReasonsDisplay.from_estimator, detector, inlier)
    assert display.needed_ is None
    assert display.ax_.get_title().startswith("inlier, p = ")
    density = clone(detector.density).set_params(max_blocks=0)
    typical = JKOFlowOutlierDetector(
        density=density, statistic="typicality", calibration_fraction=0, random_state=0
    ).fit(data)
    row = data[:1].assign(income=90.0)
    display = of(ReasonsDisplay.from_estimator, typical, row)
    assert (display.needed_, display.ax_.get_title()) == (None, "outlier")


def test_infinite_gains_are_drawn():
    display = of(ReasonsDisplay.from_predictions, [np.inf, 2.0], needed=np.inf)
    assert [text.get_text() for text in display.ax_.texts] == ["∞", "2.0"]
    assert display.needed_ is None


def test_reasons_errors(detector, density):
    with pytest.raises(ValueError, match=r"one sample.*Got 2 samples"):
        ReasonsDisplay.from_estimator(detector, table()[:2])
    with pytest.raises(ValueError, match="Got JKOFlowDensity"):
        ReasonsDisplay.from_estimator(density, X[:1])
    with pytest.raises(ValueError, match="2 gains and 1 names"):
        ReasonsDisplay.from_predictions([1.0, 2.0], names=["a"])


# ----------------------------------------------------------------- calibration


def test_calibration_is_the_distribution_of_p_values(detector):
    new = table(60, seed=1)
    display = of(CalibrationDisplay.from_estimator, detector, new)
    p = np.sort(detector.p_values(new))
    np.testing.assert_array_equal(display.line_.get_xdata()[1:-1], p)
    shares = display.line_.get_ydata()[1:-1]
    np.testing.assert_allclose(shares, np.arange(1, 61) / 60)
    assert display.n_calibration == len(detector.calibration_scores_)


def test_calibration_of_a_density(gaussian):
    display = of(CalibrationDisplay.from_estimator, gaussian, X)
    length = np.square(gaussian.transform(X)).sum(axis=1)
    expected = np.sort(1 - np.exp(-length / 2))
    np.testing.assert_allclose(display.values, expected)


@pytest.mark.parametrize("n_calibration", [None, 80])
def test_band_holds_uniform_values(n_calibration):
    rng, inside = np.random.RandomState(0), []
    for _ in range(300):
        u = rng.uniform(size=120)
        if n_calibration is not None:
            ranks = np.searchsorted(np.sort(rng.uniform(size=n_calibration)), u)
            u = (1 + ranks) / (n_calibration + 1)
        display = CalibrationDisplay(np.sort(u), n_calibration=n_calibration)
        counts = 120 if n_calibration is None else 120 * 80 / 200
        half = np.sqrt(np.log(2 / 0.05) / (2 * counts))
        line = np.linspace(0, 1, 200)
        shares = np.searchsorted(display.values, line, side="right") / 120
        inside.append(np.abs(shares - line).max() <= half)
    # The standard error of the share is 0.013.
    assert np.mean(inside) > 0.91
    display = of(CalibrationDisplay.from_predictions, u, n_calibration=n_calibration)
    vertices = display.band_.get_paths()[0].vertices
    middle = vertices[np.isclose(vertices[:, 0], 0.5), 1]
    np.testing.assert_allclose([middle.min(), middle.max()], [0.5 - half, 0.5 + half])


def test_calibration_errors():
    for values in ([], [0.5, 1.5], [np.nan]):
        with pytest.raises(ValueError, match="between 0 and 1"):
            CalibrationDisplay.from_predictions(values)
    with pytest.raises(ValueError, match="p_values or transform"):
        CalibrationDisplay.from_estimator(GaussianMixture().fit(X), X)


# ------------------------------------------------------------------------- all


def test_displays_draw_on_given_axes(density):
    figure, axes = plt.subplots(2, 2)
    display = FlowDisplay.from_estimator(density, X, ax=axes)
    assert display.figure_ is figure
    assert list(display.axes_) == list(axes.ravel())
    with pytest.raises(ValueError, match=r"'ax'.*must be 4 axes. Got 3 instead"):
        FlowDisplay.from_estimator(density, X, ax=axes.ravel()[:3])
    figure, ax = plt.subplots()
    for draw, args in (
        (DensityDisplay.from_estimator, (density, X)),
        (TrajectoryDisplay.from_estimator, (density, X)),
        (MovementsDisplay.from_estimator, (density,)),
        (CalibrationDisplay.from_predictions, ([0.5],)),
        (ReasonsDisplay.from_predictions, ([0.5],)),
    ):
        display = draw(*args, ax=ax)
        assert (display.ax_, display.figure_) == (ax, figure)


def test_displays_leave_the_estimator_alone(density):
    before = dict(vars(density))
    FlowDisplay.from_estimator(density, X)
    DensityDisplay.from_estimator(density, X, grid_resolution=5)
    assert vars(density) == before


def test_without_matplotlib_there_is_a_clear_error(density, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw, args in (
        (FlowDisplay.from_estimator, (density, X)),
        (DensityDisplay.from_estimator, (density, X)),
        (PairDisplay.from_predictions, (X, X)),
        (TrainingDisplay.from_estimator, (density,)),
        (CalibrationDisplay.from_predictions, ([0.5],)),
        (ReasonsDisplay.from_predictions, ([0.5],)),
    ):
        with pytest.raises(ImportError, match="requires matplotlib"):
            draw(*args)
