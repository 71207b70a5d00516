"""Values of continuous features that have a probability of their own."""

# SPDX-License-Identifier: BSD-3-Clause

import numpy as np
import pandas as pd
import pytest
from helpers import quick
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import trapezoid

from skjko import JKOFlowDensity, MLPField
from skjko.transforms.atoms import Atoms

CONTINUOUS = np.array([True, True])


def rain(n, seed=0):
    """Dry days of 60 %, rain that grows with the second feature, and its truth."""
    rng = np.random.RandomState(seed)
    t = rng.standard_normal(n)
    wet = rng.uniform(size=n) < 0.4
    return np.c_[np.where(wet, np.exp(0.5 * t + 0.3 * rng.standard_normal(n)), 0.0), t]


def mixture(**parameters):
    settings = {"init": "mixture", "transforms": None, "max_blocks": 0}
    return JKOFlowDensity(random_state=0, **{**settings, **parameters})


# ------------------------------------------------------------------- the map


def test_atoms_are_found_with_their_shares():
    X = rain(2000)
    X[:, 1] = X[:, 1].clip(-1, 1.5)
    atoms = Atoms.detect(X, CONTINUOUS)
    assert_array_equal(atoms.columns, [0, 1, 1])
    assert_array_equal(atoms.values, [0, -1, 1.5])
    assert_allclose(atoms.shares, [(X[:, 0] == 0).mean(), 0.16, 0.067], atol=0.02)
    assert_array_equal(atoms.is_end, [-1, -1, 1])


def test_copies_are_no_atoms():
    rng = np.random.RandomState(0)
    # Every row five times; of a few rows, fifty times; a chain that stands still.
    for X in (
        np.repeat(rng.standard_normal((12, 2)), 5, axis=0),
        np.r_[
            np.repeat(rng.standard_normal((3, 2)), 50, axis=0),
            rng.normal(size=(150, 2)),
        ],
        np.repeat(rng.standard_normal((100, 2)), rng.geometric(0.3, 100), axis=0),
    ):
        assert Atoms.detect(X, CONTINUOUS).is_identity_
    # Nor are ties of all values, on no grid.
    ties = np.sqrt(rng.choice([2, 3, 5, 7, 11], (500, 2)))
    assert Atoms.detect(ties, CONTINUOUS).is_identity_


@settings(max_examples=50)
@given(
    values=st.lists(st.integers(-20, 20), min_size=1, max_size=4, unique=True),
    width=st.floats(1e-3, 1e3),
    seed=st.integers(0, 1000),
)
def test_opening_is_undone_by_closing(values, width, seed):
    values = np.sort(np.array(values, dtype=float))
    m, rng = len(values), np.random.RandomState(seed)
    zeros = np.zeros(m, dtype=int)
    atoms = Atoms(zeros, values, np.full(m, width), np.full(m, 0.1), 2, zeros).fit(None)
    X = np.c_[10 * rng.standard_normal(200), rng.standard_normal(200)]
    X[:100, 0] = rng.choice(values, 100)
    U = atoms.open(X, rng.uniform(-0.499, 0.499, (200, 1)))
    assert_array_equal(atoms.close(U)[:100], X[:100])
    assert_allclose(atoms.close(U), X, rtol=1e-12, atol=1e-12 * (1 + m * width))
    # In their order, and cells as far apart as their atoms.
    order = np.argsort(U[:, 0])
    assert (np.diff(X[order, 0]) >= 0).all()
    # The identity, which measures cells in units of their widths.
    image, log_det = atoms.forward(U)
    assert_array_equal(image, U)
    assert_allclose(log_det, np.where(np.arange(200) < 100, np.log(width), 0.0))


def test_beyond_an_atom_at_the_end_is_the_atom():
    atoms = Atoms.detect(rain(1000), CONTINUOUS)
    U = np.array([[-1e3, 0.0], [-1e-9, 0.0], [atoms.widths[0] * 1.001, 0.0]])
    assert_array_equal(atoms.close(U)[:, 0] == 0, [True, True, False])


# ------------------------------------------------------------------- the density


# Behind a logarithm the density is less smooth, and 16 points of a cell are less exact.
@pytest.mark.parametrize("bounds, atol", [(None, 1e-3), ({0: (0, None)}, 2e-2)])
def test_the_density_beside_an_atom_and_its_probability_sum_to_one(bounds, atol):
    x = rain(2000)[:, :1]
    density = mixture(bounds=bounds).fit(x)
    grid = np.linspace(-5, 40, 200_001)[:, np.newaxis]
    # At a node of the grid there is the probability, and it has no width.
    grid = grid[np.abs(grid[:, 0]) > 1e-9]
    if bounds is not None:
        grid = grid[grid[:, 0] > 0]
    beside = trapezoid(np.exp(density.score_samples(grid)), grid[:, 0])
    at = np.exp(density.score_samples([[0.0]]))[0]
    assert at == pytest.approx(0.6, abs=0.03)
    # Some of the mass is left of the cell, where samples are dry.
    assert beside + at == pytest.approx(1, abs=atol)


@pytest.mark.parametrize(
    "parameters",
    [
        {"transforms": "auto"},
        {
            "init": "gaussian",
            "max_blocks": 1,
            "max_iter": 150,
            "field": MLPField((32, 32)),
        },
    ],
)
def test_scores_are_near_the_entropy_of_the_truth(parameters):
    density = mixture(**parameters).fit(rain(3000))
    X = rain(3000, seed=1)
    dry = X[:, 0] == 0
    wet = np.where(dry, 1.0, X[:, 0])
    logs = np.log(0.4) - 0.5 * ((np.log(wet) - 0.5 * X[:, 1]) / 0.3) ** 2
    logs -= np.log(0.3 * np.sqrt(2 * np.pi) * wet)
    truth = np.where(dry, np.log(0.6), logs)
    truth += -0.5 * X[:, 1] ** 2 - 0.5 * np.log(2 * np.pi)
    assert density.score(X) == pytest.approx(truth.mean(), abs=0.1)
    assert density.score(X) < truth.mean() + 0.03
    # What is claimed of validation samples is no more than fresh ones get.
    assert density.validation_scores_[-1] < density.score(X) + 0.1


def test_samples_keep_the_atom_and_the_rest():
    X = pd.DataFrame(rain(2000), columns=["rain", "t"])
    density = mixture(bounds={"rain": (0, None)}).fit(X)
    sample = density.sample(10_000, random_state=0)
    assert (sample["rain"] == 0).mean() == pytest.approx(0.6, abs=0.03)
    assert sample["rain"].min() == 0
    assert sample["rain"].nunique() > 3000
    assert "atom: feature 'rain' at 0, 59% of the samples" in density.summary()


def test_atoms_go_through_all_methods(tmp_path):
    X = rain(400)
    density = quick(early_stopping=False).fit(X)
    assert density.n_blocks_ > 0
    back = density.inverse_transform(density.transform(X))
    assert_allclose(back, X, atol=1e-5)
    assert_array_equal(back[X[:, 0] == 0, 0], 0)
    scores = density.score_samples(X)
    *_, last = density.staged_score_samples(X)
    assert_allclose(last, scores, atol=1e-9)
    # A score is that of its row alone, whatever rows are beside it.
    assert_allclose(density.score_samples(X[::-1])[::-1], scores, rtol=1e-9)
    assert_allclose(density.score_samples(X[:1]), scores[:1], rtol=1e-9)
    assert np.abs(density.likelihood_error(X)).mean() < 0.01
    assert_allclose(density.trajectory(X)[-1], density.transform(X))
    path = tmp_path / "rain.skjko"
    density.save(path)
    assert_array_equal(JKOFlowDensity.load(path).score_samples(X), scores)
    assert density.support_.atoms.values.tolist() == [0.0]


def test_rows_of_atoms_alone_are_no_copies():
    X = rain(1000)
    X[:, 1] = np.random.RandomState(3).standard_normal(1000).clip(min=0)
    both = (X == 0).all(axis=1).mean()
    density = mixture().fit(X)
    sample = density.sample(20_000, random_state=0)
    assert (sample == 0).all(axis=1).mean() == pytest.approx(both, abs=0.05)
    assert np.exp(density.score_samples([[0.0, 0.0]]))[0] == pytest.approx(
        both, abs=0.05
    )


def test_without_discrete_there_are_no_atoms():
    density = quick(discrete=None, max_blocks=0).fit(rain(500))
    assert density.support_.atoms.is_identity_
