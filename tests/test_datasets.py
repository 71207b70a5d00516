"""Tests of the two-dimensional distributions with known log-density."""

import doctest
import pickle
import tracemalloc
from dataclasses import FrozenInstanceError
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.special import ive, logsumexp

from skjko.datasets import (
    Distribution,
    base,
    checkerboard,
    eight_gaussians,
    fractal_tree,
    moons,
    planar,
    rings,
    rose,
    spirals,
)
from skjko.datasets.base import BLOCK_SIZE, IsotropicMixture

# Each distribution with the spacing of a grid that resolves it. For a Gaussian of
# standard deviation s, the trapezoidal rule of spacing h has relative error
# 4 exp(-2 (pi s / h)^2) in two dimensions: 1e-8 for h = s, 6e-4 for h = 1.5 s. The
# tree's last twigs are the narrowest thing here, s between 0.017 and 0.021.
CASES = {
    "rose": (rose(), 0.03),
    "fractal_tree": (fractal_tree(), 0.02),
    "spirals": (spirals(), 0.05),
    "moons": (moons(), 0.05),
    "rings": (rings(), 0.04),
    "eight_gaussians": (eight_gaussians(), 0.1),
    "checkerboard": (checkerboard(), 0.05),
}
MIXTURES = ["rose", "fractal_tree", "spirals", "moons", "eight_gaussians"]
HALF_WIDTH = 4.8  # at least five sigma beyond every distribution's outline


@pytest.fixture(params=CASES)
def case(request):
    return request.param, *CASES[request.param]


@pytest.fixture(scope="module")
def grids():
    """Density on a grid of cell midpoints, computed once for each distribution."""
    cache = {}

    def grid(name):
        if name not in cache:
            distribution, spacing = CASES[name]
            n = round(2 * HALF_WIDTH / spacing)
            axis = -HALF_WIDTH + (np.arange(n) + 0.5) * 2 * HALF_WIDTH / n
            points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
            points = points.reshape(-1, 2)
            log_density = np.full(len(points), -np.inf)
            near = np.ones(len(points), dtype=bool)
            if name in ("rose", "fractal_tree"):
                # Most of the grid is empty: score only cells near some sample.
                near = _dilated_occupancy(distribution, n, spacing)
            log_density[near] = distribution.score_samples(points[near])
            cache[name] = log_density.reshape(n, n), (2 * HALF_WIDTH / n) ** 2
        return cache[name]

    return grid


def _dilated_occupancy(distribution, n, spacing):
    """Cells within six grid steps of the occupied ones of a large sample."""
    X = distribution.sample(200_000, random_state=99)
    index = np.floor((X + HALF_WIDTH) * n / (2 * HALF_WIDTH)).astype(int)
    occupied = np.zeros((n, n), dtype=bool)
    occupied[tuple(index.T)] = True
    for axis in (0, 1):
        occupied = np.any(
            [np.roll(occupied, shift, axis) for shift in range(-6, 7)], axis=0
        )
    return occupied.ravel()


def _moments(log_density, area):
    """Integrals of p, of -p log p and of p (log p)^2 over the grid."""
    density = np.exp(log_density)
    log_density = np.where(density > 0, log_density, 0.0)
    return [(density * f).sum() * area for f in (1, -log_density, log_density**2)]


def test_integrates_to_one(case, grids):
    name, _, _ = case
    total = _moments(*grids(name))[0]
    # The mass cut off beyond five sigma is below 1e-6; the trapezoidal error too.
    assert_allclose(total, 1.0, rtol=0, atol=1e-6)


def test_sample_scores_match_quadrature_of_entropy(case, grids):
    name, distribution, _ = case
    _, entropy, second_moment = _moments(*grids(name))
    n_samples = 20_000
    standard_error = np.sqrt(max(second_moment - entropy**2, 0.0) / n_samples)
    X = distribution.sample(n_samples, random_state=1)
    assert abs(-distribution.score(X) - entropy) <= 5 * standard_error + 1e-4


def test_cell_counts_match_integrals(case, grids):
    name, distribution, _ = case
    log_density, area = grids(name)
    n = len(log_density)
    step = n // 24
    edges = np.append(np.arange(0, n, step), n)
    cells = np.add.reduceat(np.exp(log_density) * area, edges[:-1], axis=0)
    cells = np.add.reduceat(cells, edges[:-1], axis=1)
    X = distribution.sample(20_000, random_state=2)
    bins = -HALF_WIDTH + edges * 2 * HALF_WIDTH / n
    counts = np.histogram2d(*X.T, bins=[bins, bins])[0]

    # Cells too improbable for the chi-square approximation are taken together.
    expected = cells * len(X)
    usual = expected >= 10
    observed = np.append(counts[usual], len(X) - counts[usual].sum())
    expected = np.append(expected[usual], len(X) - expected[usual].sum())
    observed, expected = observed[expected > 1], expected[expected > 1]
    statistic = ((observed - expected) ** 2 / expected).sum()
    assert len(expected) > 50
    assert stats.chi2.sf(statistic, len(expected) - 1) > 1e-4


def test_sample(case):
    _, distribution, _ = case
    X = distribution.sample(7, random_state=3)
    assert X.shape == (7, 2)
    assert X.dtype == np.float64
    assert distribution.sample().shape == (1, 2)
    assert isinstance(distribution, Distribution)
    assert distribution.n_features == 2
    assert np.isfinite(distribution.score_samples(X)).all()


def test_random_state(case):
    _, distribution, _ = case
    np.random.seed(0)
    before = np.random.get_state()
    X = distribution.sample(50, random_state=4)
    distribution.entropy(10)
    after = np.random.get_state()
    assert_array_equal(before[1], after[1])
    assert before[2:] == after[2:]

    assert_array_equal(X, distribution.sample(50, random_state=4))
    rng = np.random.RandomState(4)
    assert_array_equal(X, distribution.sample(50, random_state=rng))
    assert not np.array_equal(X, distribution.sample(50, random_state=rng))
    assert not np.array_equal(X, distribution.sample(50, random_state=5))
    # None, and None only, is NumPy's global state.
    np.random.seed(4)
    assert_array_equal(X, distribution.sample(50))


def test_score_samples_does_not_depend_on_blocks(case):
    _, distribution, _ = case
    # More rows than one block, in a number which no block size divides.
    X = distribution.sample(BLOCK_SIZE // distribution._n_terms + 13, 6)
    X = X[: 2 * 10**4 + 13]
    log_density = distribution.score_samples(X)
    assert log_density.shape == (len(X),)
    assert log_density.dtype == np.float64
    some = np.r_[0:5, len(X) - 5 : len(X)]
    one_by_one = [distribution.score_samples(X[[i]])[0] for i in some]
    assert_allclose(log_density[some], one_by_one, rtol=1e-13, atol=1e-13)
    assert_allclose(distribution.score(X), log_density.mean(), rtol=1e-13)
    assert isinstance(distribution.score(X), float)


def test_memory_is_bounded():
    flower = rose()
    X = flower.sample(2_000, random_state=17)
    tracemalloc.start()
    try:
        flower.score_samples(X)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # All rows against all components at once would take 47 MB.
    assert peak < 8 * 10**6


@pytest.mark.parametrize("name", MIXTURES)
def test_mixture_against_reference(name):
    mixture = CASES[name][0]
    X = np.vstack(
        [mixture.sample(40, 7), np.random.RandomState(8).uniform(-5, 5, (40, 2))]
    )
    sigmas = mixture.sigmas
    terms = stats.norm.logpdf(X[:, None, :], mixture.centers, sigmas[:, None]).sum(
        axis=2
    )
    expected = logsumexp(terms, axis=1, b=mixture.weights)
    assert_allclose(mixture.weights.sum(), 1.0, rtol=1e-12)
    assert_allclose(mixture.score_samples(X), expected, rtol=1e-12, atol=1e-12)


def test_eight_gaussians_against_scipy():
    radius, sigma = 2.0, 0.7
    distribution = eight_gaussians(radius=radius, sigma=sigma)
    X = distribution.sample(200, random_state=9)
    density = np.zeros(len(X))
    for j in range(8):
        mean = [radius * np.cos(j * np.pi / 4), radius * np.sin(j * np.pi / 4)]
        density += stats.multivariate_normal(mean, sigma**2 * np.eye(2)).pdf(X) / 8
    assert_allclose(distribution.score_samples(X), np.log(density), rtol=1e-12)


def test_rings_against_numerical_convolution():
    radii, sigma = [0.5, 1.7], 0.15
    X = np.random.RandomState(10).uniform(-2.5, 2.5, size=(200, 2))
    # The trapezoidal rule converges exponentially for a periodic smooth function.
    angle = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    density = np.zeros(len(X))
    for radius in radii:
        x = X[:, :1] - radius * np.cos(angle)
        y = X[:, 1:] - radius * np.sin(angle)
        gaussian = stats.norm.pdf(x, scale=sigma) * stats.norm.pdf(y, scale=sigma)
        density += gaussian.mean(axis=1) / len(radii)
    log_density = rings(radii=radii, sigma=sigma).score_samples(X)
    assert_allclose(log_density, np.log(density), rtol=1e-10, atol=1e-10)


def test_one_ring_in_closed_form():
    radius, s = 2.0, 0.1
    X = rings(radii=[radius], sigma=s).sample(100, random_state=11)
    r = np.linalg.norm(X, axis=1)
    expected = -np.log(2 * np.pi * s**2) - (r - radius) ** 2 / (2 * s**2)
    expected += np.log(ive(0, r * radius / s**2))
    log_density = rings(radii=[radius], sigma=s).score_samples(X)
    assert_allclose(log_density, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("n_cells, n_dark", [(1, 1), (2, 2), (3, 5), (4, 8)])
def test_checkerboard(n_cells, n_dark):
    board = checkerboard(n_cells=n_cells, cell_size=0.5)
    expected = np.log(n_dark * 0.5**2)
    assert_allclose(board.entropy()[0], expected, rtol=1e-14)
    assert board.entropy()[1] == 0.0
    axis = 0.5 * (np.arange(-1, n_cells + 1) + 0.5 - n_cells / 2)
    centers = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    log_density = board.score_samples(centers.reshape(-1, 2)).reshape(len(axis), -1)
    dark = np.add.outer(np.arange(n_cells), np.arange(n_cells)) % 2 == 0
    assert_allclose(log_density[1:-1, 1:-1][dark], -expected, rtol=1e-14)
    assert np.isneginf(log_density).sum() == log_density.size - n_dark


def test_monte_carlo_entropy():
    estimate, standard_error = moons().entropy(20_000, random_state=12)
    X = moons().sample(20_000, random_state=12)
    log_density = moons().score_samples(X)
    assert_allclose(estimate, -log_density.mean(), rtol=1e-12)
    assert_allclose(standard_error, stats.sem(log_density), rtol=1e-12)
    assert moons().entropy(50) == moons().entropy(50)


def _rotate(X, angle):
    c, s = np.cos(angle), np.sin(angle)
    return X @ np.array([[c, s], [-s, c]])


@pytest.mark.parametrize(
    "distribution, order",
    [
        (rose(), 10),
        (rose(k=4, n_layers=1, sigma=0.1), 8),
        (rose(k=3, sigma=0.1), 3),
        (rose(k=Fraction(7, 3), sigma=0.1), 7),
        (rose(k=Fraction(1, 2), sigma=0.1), 2),
        (eight_gaussians(), 8),
        (spirals(), 2),
        (spirals(n_arms=3), 3),
        (moons(), 2),
        (rings(), 17),
    ],
)
def test_rotation_symmetry(distribution, order):
    X = distribution.sample(100, random_state=13)
    log_density = distribution.score_samples(X)
    turned = distribution.score_samples(_rotate(X, 2 * np.pi / order))
    assert_allclose(turned, log_density, rtol=0, atol=1e-9)
    if distribution.name != "rings":  # half of that rotation is not a symmetry
        turned = distribution.score_samples(_rotate(X, np.pi / order))
        assert np.abs(turned - log_density).max() > 0.1


@pytest.mark.parametrize("k", [1, 4, Fraction(5, 2), Fraction(5, 3), Fraction(1, 2)])
def test_rose_lies_on_the_polar_curve(k):
    mixture = rose(k=k, n_layers=1, radius=2.0, sigma=0.05)
    r = np.linalg.norm(mixture.centers, axis=1)
    theta = np.arctan2(*mixture.centers.T[::-1])
    # The curve passes a direction once in each half turn, with r of either sign.
    half_turns = np.arange(4 * Fraction(k).denominator)
    theta = theta[:, None] + np.pi * half_turns
    signed_r = 2.0 * np.cos(float(k) * theta) * (-1.0) ** half_turns
    assert_allclose(np.abs(signed_r - r[:, None]).min(axis=1), 0.0, atol=1e-9)
    assert_allclose(r.max(), 2.0, atol=1e-2)
    assert_allclose(mixture.weights, r / r.sum(), rtol=1e-9)


def test_fractal_tree_shape():
    tree = fractal_tree()
    assert_allclose(tree.weights @ tree.centers, 0.0, atol=1e-12)
    # Thick at the foot and thin in the twigs, which are the tips of eight tapers.
    x, y = tree.centers.T
    assert tree.sigmas[y.argmin()] == tree.sigmas.max()
    assert_allclose(tree.sigmas.max(), 0.07, rtol=0.01)
    assert_allclose(tree.sigmas.min(), 0.07 * 0.84**8, rtol=0.05)
    # Mass per unit of length is proportional to width, here with three branches.
    small = fractal_tree(depth=1, angle=0.3, shrink=0.5, taper=0.5, sigma=0.01)
    trunk = small.sigmas > 0.005
    length = 2 * 0.5  # of both children, beside a trunk of length one
    assert_allclose(small.weights[trunk].sum(), 1 / (1 + 0.5 * length), rtol=1e-6)
    # Without forks there is only an upright trunk of length 1.4.
    x, y = fractal_tree(depth=0).centers.T
    assert_allclose(x, 0.0, atol=1e-12)
    assert_allclose(np.ptp(y) * len(y) / (len(y) - 1), 1.4, rtol=1e-12)


def test_components_overlap_along_curves():
    # No beads on the string: the density is the same at and between the centers.
    trunk = fractal_tree(depth=0, taper=1.0, sigma=0.02)
    inner = trunk.centers[8:-8]
    between = (inner[1:] + inner[:-1]) / 2
    log_density = trunk.score_samples(np.vstack([inner, between]))
    assert_allclose(log_density, log_density[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("make", [moons, spirals])
def test_components_are_equally_spaced(make):
    centers = make(sigma=0.02).centers
    first = centers[: len(centers) // 2]
    gaps = np.linalg.norm(np.diff(first, axis=0), axis=1)
    # Chords of equal arcs; those near the spiral's tight start are a little shorter.
    assert gaps.max() <= 0.02 * 1.25 * (1 + 1e-6)
    assert_allclose(gaps, gaps.max(), rtol=1e-2)


@given(
    name=st.sampled_from([*MIXTURES, "rings"]),
    log10_distance=st.floats(-3, 6),
    angle=st.floats(0, 7),
)
def test_finite_far_away(name, log10_distance, angle):
    distribution = CASES[name][0]
    distance = 10.0**log10_distance
    x = [distance * np.cos(angle), distance * np.sin(angle)]
    (log_density,) = distribution.score_samples([x])
    assert np.isfinite(log_density)
    if distance > 100:
        # The tail is that of the component nearest to x.
        widest = np.max(getattr(distribution, "sigmas", 0.08))
        assert log_density < 10 - 0.5 * ((distance - 5) / widest) ** 2


def test_no_nan_where_squares_overflow(case):
    _, distribution, _ = case
    with np.errstate(all="raise", under="ignore"):
        log_density = distribution.score_samples([[1e200, -1e300], [1.7e308, 1.7e308]])
    assert np.isneginf(log_density).all()


def test_immutable(case):
    _, distribution, _ = case
    with pytest.raises(FrozenInstanceError):
        distribution.name = "other"
    for value in vars(distribution).values():
        if isinstance(value, np.ndarray):
            with pytest.raises(ValueError, match="read-only"):
                value[0] = 0.0
    assert repr(distribution) == f"<Distribution {distribution.name!r}, n_features=2>"


def test_pickle(case):
    _, distribution, _ = case
    copy = pickle.loads(pickle.dumps(distribution))
    X = distribution.sample(20, random_state=14)
    assert_array_equal(copy.sample(20, random_state=14), X)
    assert_array_equal(copy.score_samples(X), distribution.score_samples(X))


@pytest.mark.parametrize(
    "make, parameter, value",
    [
        (rose, "k", 0),
        (rose, "k", 2.5),
        (rose, "k", -1),
        (rose, "n_layers", 0),
        (rose, "radius", -1.0),
        (rose, "sigma", 0.0),
        (fractal_tree, "depth", -1),
        (fractal_tree, "depth", 13),
        (fractal_tree, "depth", 2.0),
        (fractal_tree, "angle", -0.1),
        (fractal_tree, "shrink", 1.0),
        (fractal_tree, "taper", 1.1),
        (fractal_tree, "sigma", np.nan),
        (spirals, "n_arms", 1.5),
        (spirals, "n_turns", 0),
        (spirals, "radius", np.inf),
        (spirals, "sigma", "thin"),
        (moons, "radius", None),
        (moons, "sigma", -0.1),
        (rings, "radii", []),
        (rings, "radii", 1.0),
        (rings, "radii", [1.0, -1.0]),
        (rings, "radii", [1.0, np.nan]),
        (rings, "radii", [[1.0, 2.0]]),
        (rings, "radii", "many"),
        (rings, "radii", None),
        (rings, "sigma", True),
        (eight_gaussians, "radius", 0),
        (eight_gaussians, "sigma", [1.0]),
        (checkerboard, "n_cells", 0),
        (checkerboard, "n_cells", True),
        (checkerboard, "cell_size", 0.0),
    ],
)
def test_bad_shape_parameters(make, parameter, value):
    match = (
        rf"The '{parameter}' parameter of {make.__name__} must be .*\. Got .*instead"
    )
    with pytest.raises(ValueError, match=match):
        make(**{parameter: value})


def test_error_message_in_full():
    expected = (
        r"^The 'n_samples' parameter of moons\.sample must be an int in the range "
        r"\[1, inf\)\. Got 0 instead\.$"
    )
    with pytest.raises(ValueError, match=expected):
        moons().sample(0)


@pytest.mark.parametrize("n_samples", [0, -1, 1.0, "2", None, True])
def test_bad_n_samples(case, n_samples):
    _, distribution, _ = case
    with pytest.raises(ValueError, match=r"'n_samples' parameter of .*sample must be"):
        distribution.sample(n_samples)


def test_bad_entropy_parameter():
    with pytest.raises(ValueError, match=r"'n_samples' parameter of moons\.entropy"):
        moons().entropy(1)


@pytest.mark.parametrize(
    "X, message",
    [
        (np.zeros((3, 3)), "X has 3 features, but .* is expecting 2 features"),
        (np.zeros(2), "Expected 2D array"),
        (np.zeros((0, 2)), "Found array with 0 sample"),
        ([[np.nan, 0.0]], "Input X contains NaN"),
        ([[np.inf, 0.0]], "Input X contains infinity"),
    ],
)
def test_bad_points(case, X, message):
    _, distribution, _ = case
    for method in (distribution.score_samples, distribution.score):
        with pytest.raises(ValueError, match=message):
            method(X)


def test_lists_and_float32_are_accepted():
    X = moons().sample(5, random_state=15).astype(np.float32)
    expected = moons().score_samples(X.astype(np.float64))
    assert_array_equal(moons().score_samples(X), expected)
    assert_array_equal(moons().score_samples(X.tolist()), expected)


def test_base_class_serves_other_dimensions():
    class Cube(Distribution):
        name, n_features = "cube", 5

        def _sample(self, n_samples, rng):
            return rng.uniform(size=(n_samples, 5))

        def _log_density(self, X):
            return np.where(np.all((X >= 0) & (X < 1), axis=1), 0.0, -np.inf)

    cube = Cube()
    assert cube.sample(4, random_state=0).shape == (4, 5)
    assert_array_equal(
        cube.score_samples(np.full((2, 5), [[0.5], [1.5]])), [0, -np.inf]
    )
    assert cube.entropy(10) == (0.0, 0.0)
    with pytest.raises(TypeError, match="abstract"):
        Distribution()


def test_isotropic_mixture_in_three_dimensions():
    centers = [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]
    mixture = IsotropicMixture("pair", centers, [0.5, 2.0], [1.0, 3.0])
    X = mixture.sample(50, random_state=16)
    density = 0.25 * stats.multivariate_normal(centers[0], 0.25 * np.eye(3)).pdf(X)
    density += 0.75 * stats.multivariate_normal(centers[1], 4.0 * np.eye(3)).pdf(X)
    assert_allclose(mixture.score_samples(X), np.log(density), rtol=1e-12)


@pytest.mark.parametrize("module", [base, planar])
def test_doctests(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
