"""Every velocity field against automatic differentiation and its symmetries."""

# SPDX-License-Identifier: BSD-3-Clause

from functools import partial

import numpy as np
import pytest
import torch
from engine import block, generator, normal
from helpers import quick
from sklearn.model_selection import GridSearchCV
from torch import nn

from skjko import (
    ConvField,
    GraphField,
    JKOFlowClassifier,
    JKOFlowConditionalDensity,
    JKOFlowDensity,
    MLPField,
    RungeKutta,
    VelocityField,
)
from skjko.flow import divergence, fields, ode
from skjko.flow.base import StandardNormal
from skjko.flow.local_fields import Chebyshev, Windows
from skjko.local_components import build_on_meta
from skjko.transforms import Whitening


class Bump(nn.Module):
    """A field that the library does not know: bumps that move along a matrix."""

    def __init__(self, n_features):
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(n_features))
        self.matrix = nn.Parameter(torch.zeros(n_features, n_features))

    def forward(self, t, x, context=None):
        return torch.tanh(x - self.offset) @ self.matrix.T


class BumpField(VelocityField):
    """What chooses it."""

    def build(self, n_features, generator=None):
        return Bump(n_features)


PATH = np.diag([1.0, 2.0, 0.5], 1) + np.diag([1.0, 2.0, 0.5], -1)
PAIR = np.array([[0.0, 1.0], [1.0, 0.0]])

# Fields with so many features as they are tested with.
FIELDS = {
    "affine": (MLPField((), "silu", 1.0), 3),
    "one layer": (MLPField((6,), "silu", 1.0, time_dependent=True), 3),
    "one layer, fourier": (MLPField((6,), "fourier", 1.0), 2),
    "two layers, fourier": (MLPField((6, 5), "fourier", 1.0), 2),
    "two layers": (MLPField((6, 5), "silu", 1.0, time_dependent=True), 3),
    "deep": (MLPField((6, 5, 4), "tanh", 1.0), 3),
    "residual": (MLPField((5, 5), "tanh", 1.0, residual=True), 3),
    "residual, fourier": (MLPField((6, 6, 6), "fourier", 1.0, True, True), 2),
    "image": (ConvField((3, 4), hidden_channels=4, kernel_size=3), 12),
    "image of two channels": (ConvField((2, 3, 2), 4, 3), 12),
    "two pixels": (ConvField((1, 2), 4, 3), 2),
    "graph": (GraphField(PATH, hidden_channels=4), 4),
    "graph of two features": (GraphField(PATH, 4, order=1), 8),
    "two nodes": (GraphField(PAIR, 4, order=3), 2),
    "own": (BumpField(), 2),
}
GIVEN = [name for name in FIELDS if name != "own"]  # These take a condition.
EVERY = pytest.mark.parametrize("name", FIELDS)


def randomized(module, size=0.4):
    """A module in float64 whose every parameter is random, none of them zero."""
    module = module.double()
    for i, parameter in enumerate(module.parameters()):
        parameter.data = size * normal(*parameter.shape, seed=i)
    return module.requires_grad_(False)


def random_field(name, **kwargs):
    field, d = FIELDS[name]
    return randomized(field.build(d, generator(), **kwargs)), d


def samples(name, n=100, seed=0):
    """Correlated samples of two clusters."""
    d, rng = FIELDS[name][1], np.random.RandomState(seed)
    X = rng.standard_normal((n, d)) @ rng.uniform(-1, 1, (d, d))
    return X + 3 * (rng.uniform(size=n) < 0.5)[:, np.newaxis] + 0.1 * rng.normal()


# ------------------------------------------------------------------- mathematics


@EVERY
def test_a_new_field_is_the_identity(name):
    field, d = FIELDS[name]
    x = normal(4, d).float()
    y, log_det, _ = block(field.build(d, generator()))(x)
    assert torch.equal(y, x)
    assert (log_det == 0).all()


@pytest.mark.parametrize(
    "name, has_context", [*((n, False) for n in FIELDS), *((n, True) for n in GIVEN)]
)
def test_the_divergence_is_the_trace_of_the_jacobian(name, has_context):
    spec, d = FIELDS[name]
    kwargs, context = {}, None
    if has_context:
        kwargs = {"n_context": 2 * d + 3}
        context = normal(3, 2 * d + 3, seed=2)
    field, x = randomized(spec.build(d, generator(), **kwargs)), normal(3, d, seed=1)
    velocity, div = fields.dynamics(field, context)(0.3, x)
    torch.testing.assert_close(velocity, field(0.3, x, context))
    for i in range(len(x)):
        given = None if context is None else context[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda row, given=given: field(0.3, row[None], given)[0], x[i]
        )
        torch.testing.assert_close(div[i], jacobian.trace())
    if has_context:
        assert not torch.allclose(field(0.3, x, context + 1), velocity)


@EVERY
def test_the_solver_has_order_four(name):
    field, d = random_field(name)
    dynamics, x = fields.dynamics(field), normal(5, d)
    exact = ode.integrate(dynamics, x, ode.uniform_grid(64))
    steps = [4, 8, 16]
    found = [ode.integrate(dynamics, x, ode.uniform_grid(n)) for n in steps]
    for part in (0, 1):
        errors = [(s[part] - exact[part]).norm().item() for s in found]
        if max(errors) > 1e-12:  # The divergence of an affine field is constant.
            slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
            assert slope == pytest.approx(4.0, abs=0.4)


@EVERY
@pytest.mark.parametrize("kind", ["exact", "hutchinson"])
def test_every_field_runs_on_another_device(name, kind):
    # The device without storage stands in for a GPU: it takes no tensors of the CPU.
    field, d = random_field(name)
    one = block(field.to("meta"), radius=3.0)
    x, estimate = normal(5, d).to("meta"), None
    if kind == "hutchinson":
        probes = divergence.rademacher(1, x, generator())
        estimate = partial(divergence.hutchinson, probes=probes)
    solution = ode.integrate(one.dynamics(estimate=estimate), x, one.grid, True)
    assert {part.device.type for part in solution} == {"meta"}
    assert solution.y.shape == x.shape
    assert solution.log_det.shape == (5,)


@EVERY
def test_a_block_of_it_is_inverted(name):
    field, d = random_field(name)
    one, x = block(field, n_steps=2), normal(20, d)
    y = one.push(x)
    assert (y - x).abs().max() > 0.1
    torch.testing.assert_close(one.inverse(y), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in FIELDS if FIELDS[name][1] == 2])
def test_the_density_of_a_flow_of_it_integrates_to_one(name):
    field, _ = random_field(name)
    ticks = torch.linspace(-10, 10, 81, dtype=torch.float64)
    y, log_det, _ = block(field, n_steps=8)(torch.cartesian_prod(ticks, ticks))
    density = (StandardNormal().log_prob(y) + log_det).exp()
    # A map with a density that differs from the base's.
    assert log_det.abs().max() > 0.1
    assert density.sum() * 0.25**2 == pytest.approx(1.0, abs=1e-3)


# ------------------------------------------------------------------- symmetries


@pytest.mark.parametrize("n_channels", [1, 2])
@pytest.mark.parametrize("n_context", [0, 6])
def test_a_field_on_a_graph_does_not_depend_on_the_order_of_nodes(
    n_channels, n_context
):
    d, n_own = 4 * n_channels, n_context // 6
    n_context = n_context and 2 * d + 4 * n_own + 3
    order = np.array([2, 0, 3, 1])

    def relabelled(values, channels):
        return values.unflatten(1, (4, channels))[:, order].flatten(1)

    edges = (
        GraphField(PATH, 4, 2, n_own),
        GraphField(PATH[order][:, order], 4, 2, n_own),
    )
    one, two = (
        randomized(spec.build(d, generator(), n_context=n_context)) for spec in edges
    )
    x, context, given = normal(5, d), None, None
    if n_context:
        context = normal(5, n_context, seed=3)
        sizes = [d, d, 4 * n_own, 3]
        blocks = context.split(sizes, dim=1)
        channels = (n_channels, n_channels, n_own)
        given = [relabelled(b, c) for b, c in zip(blocks[:3], channels, strict=True)]
        given = torch.cat([*given, blocks[3]], dim=1)
    expected = relabelled(one(0.0, x, context), n_channels)
    found = two(0.0, relabelled(x, n_channels), given)
    torch.testing.assert_close(found, expected)
    # With other edges it is another field.
    assert not torch.allclose(one(0.0, relabelled(x, n_channels), given), expected)


def test_a_node_sees_and_moves_those_within_so_many_edges():
    field = randomized(GraphField(PATH, 4, order=1).build(4))
    x = normal(1, 4)
    jacobian = torch.autograd.functional.jacobian(lambda row: field(0.0, row), x)
    jacobian = jacobian[0, :, 0]
    # Each layer reaches one edge: the ends of the path, three edges apart, do not.
    assert jacobian[0, 3] == jacobian[3, 0] == 0
    assert jacobian[0, 2] != 0


@pytest.mark.parametrize("n_channels", [1, 2])
def test_a_convolutional_field_moves_with_the_image(n_channels):
    field = randomized(ConvField((9, 9, n_channels), 4, 3).build(81 * n_channels))
    image = torch.zeros(9, 9, n_channels, dtype=torch.float64)
    # Two pixels around it are seen, and moved: it stays away from the borders.
    image[3:5, 3:6] = normal(2, 3, n_channels)
    moved = image.roll((1, -1), dims=(0, 1))

    def inner(picture):
        velocity = field(0.0, picture.reshape(1, -1))
        return velocity.reshape(9, 9, n_channels)

    before, after = inner(image), inner(moved)
    torch.testing.assert_close(after[2:8, 1:7], before[1:7, 2:8])
    assert not torch.allclose(after, before)


def test_whitening_by_zca_keeps_the_order_of_features():
    X = samples("graph", 200)
    order = np.array([2, 0, 3, 1])
    whitened = Whitening("zca").fit(X).forward(X)[0]
    relabelled = Whitening("zca").fit(X[:, order]).forward(X[:, order])[0]
    np.testing.assert_allclose(relabelled, whitened[:, order], atol=1e-9)


def test_chebyshev_polynomials_are_those_of_the_laplacian():
    degree = PATH.sum(axis=1)
    scaled = -PATH / np.sqrt(np.outer(degree, degree))
    filters = Chebyshev(PATH, 3).filters.double().numpy()
    values, vectors = np.linalg.eigh(scaled)
    for n, found in enumerate(filters):
        polynomial = np.cos(n * np.arccos(np.clip(values, -1, 1)))
        expected = (vectors * polynomial) @ vectors.T
        np.testing.assert_allclose(found, expected, atol=1e-5)
    lonely = Chebyshev(np.zeros((3, 3)), 1).filters
    assert torch.equal(lonely[1], torch.zeros(3, 3))


def test_windows_see_what_is_around_a_pixel():
    windows = Windows(3, 4, 3)
    x = torch.arange(12.0).reshape(1, 12, 1)
    above = torch.zeros(1, 9)
    above[0, 1] = 1.0
    seen = windows.see(x, above).reshape(3, 4)
    assert torch.equal(seen[0], torch.zeros(4))
    assert torch.equal(seen[1:], x.reshape(3, 4)[:2])
    # All pixels are in their own window, and all but those of a border in that above.
    assert windows.inside.sum(0)[[4, 1, 0]].tolist() == [12, 8, 6]


# ------------------------------------------------------------------- estimators


@pytest.fixture(scope="module")
def fitted():
    """Fit a density with every field at most once."""
    known = {}

    def get(name):
        if name not in known:
            density = quick(
                field=FIELDS[name][0], max_blocks=1, max_iter=3, early_stopping=False
            )
            known[name] = density.fit(samples(name))
        return known[name]

    return get


@EVERY
def test_every_field_comes_back_from_a_file(name, fitted, tmp_path):
    density, X = fitted(name), samples(name, seed=1)
    density.save(tmp_path / "file")
    classes = [BumpField] if name == "own" else []
    loaded = JKOFlowDensity.load(tmp_path / "file", classes=classes)
    assert density.n_blocks_ == 1
    np.testing.assert_array_equal(loaded.score_samples(X), density.score_samples(X))
    assert str(loaded.field_) == str(density.field_)
    Z = loaded.transform(X)
    np.testing.assert_allclose(loaded.inverse_transform(Z), X, atol=1e-8)


@EVERY
def test_fields_of_a_file_take_no_memory_before_it_is_checked(name):
    field, d = FIELDS[name]
    like, real = build_on_meta(field, d), field.build(d)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (like, real)]
    assert shapes[0] == shapes[1]
    if name != "own":
        assert {p.device.type for p in like.parameters()} == {"meta"}
        # What follows from the parameters alone is there.
        assert {b.device.type for b in like.buffers()} <= {"cpu"}
        for one, other in zip(like.buffers(), real.buffers(), strict=True):
            assert torch.equal(one, other)


@EVERY
def test_features_keep_their_places_where_the_field_needs_it(name, fitted):
    density = fitted(name)
    method = density.transforms_.find(Whitening).method
    is_local = isinstance(FIELDS[name][0], (ConvField, GraphField))
    assert method == ("zca" if is_local else "pca")


@pytest.mark.parametrize("field", [ConvField((1, 2), 4, 1), GraphField(PAIR, 4)])
def test_no_mixture_stands_in_front_of_places(field):
    X = samples("two nodes", 60)
    density = quick(field=field, init="auto", max_blocks=1, max_iter=3).fit(X)
    assert {c.start for c in density.selection_} <= {"gaussian"}
    with pytest.raises(ValueError, match=r"'init' .* mix its features"):
        quick(field=field, init="mixture").fit(X)
    own = quick(field=field, transforms=[Whitening("scale")], max_blocks=0).fit(X)
    assert own.transforms_.find(Whitening).method == "scale"


@pytest.mark.parametrize(
    "field, n_features, expected",
    [
        (MLPField((4, 4)), 20, "exact"),
        (MLPField((4,)), 20, "exact"),
        (MLPField((4, 4, 4)), 8, "exact"),
        (MLPField((4, 4, 4)), 9, "hutchinson"),
        (MLPField((4, 4), residual=True), 9, "hutchinson"),
        (ConvField((3, 4), 4, 3), 12, "exact"),
        (GraphField(PATH), 4 * 5, "exact"),
        (BumpField(), 9, "hutchinson"),
    ],
)
def test_training_takes_the_cheapest_divergence_without_bias(
    field, n_features, expected
):
    module = field.resolve(60, n_features).build(n_features)
    assert RungeKutta().divergence_of(module, n_features) == expected
    given = RungeKutta(divergence="finite_difference")
    assert given.divergence_of(module, n_features) == "finite_difference"


@pytest.mark.parametrize(
    "n_features, told", [(8, "exact"), (9, "Hutchinson's estimate")]
)
def test_the_summary_tells_the_divergence(n_features, told):
    X = np.random.RandomState(0).standard_normal((60, n_features))
    density = quick(
        field=MLPField((4, 4, 4)), max_blocks=1, max_iter=2, early_stopping=False
    )
    density.set_params(solver=None).fit(X)
    line = f"  field: MLPField, divergence in training: {told}\n"
    assert line in density.summary()


def test_a_grid_of_a_field_on_a_graph():
    density = quick(
        field=GraphField(PATH, 4), max_blocks=1, max_iter=2, early_stopping=False
    )
    grid = {"field__order": [0, 2], "field__adjacency": [PATH]}
    search = GridSearchCV(density, grid, cv=2).fit(samples("graph", 60))
    assert len(set(search.cv_results_["mean_test_score"])) == 2
    best = search.best_estimator_
    assert best.field_.order == search.best_params_["field__order"]
    np.testing.assert_array_equal(best.field_.adjacency, PATH)


def test_a_conditional_density_on_a_graph(tmp_path):
    rng = np.random.RandomState(0)
    X = rng.standard_normal((120, 5))
    Y = 0.5 * X[:, :4] + 0.1 * X[:, 4:] + 0.2 * rng.standard_normal((120, 4))
    model = JKOFlowConditionalDensity(
        regressor=None, init="gaussian", transforms=None, max_blocks=1, max_iter=30,
        learning_rate_init=0.03, early_stopping=False, random_state=0,
        field=GraphField(PATH, 8, n_node_conditions=1), batch_size=40,
    )  # fmt: skip
    model.fit(X, Y)
    model.save(tmp_path / "file")
    loaded = JKOFlowConditionalDensity.load(tmp_path / "file")
    scores = model.score_samples(X, Y)
    np.testing.assert_array_equal(loaded.score_samples(X, Y), scores)
    # It depends on the node's own condition.
    assert scores.mean() > model.score(X[::-1], Y) + 0.1
    model.set_params(field__n_node_conditions=2)
    with pytest.raises(ValueError, match=r"first 8 columns of X .* but X has 5"):
        model.fit(X, Y)


@pytest.mark.parametrize("field", [ConvField((2, 2), 8, 3), GraphField(PATH, 8)])
def test_classes_of_places(field, tmp_path):
    # Lumps, and a Gaussian of about the same mean and covariance.
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((400, 4)), np.arange(400) % 2
    signs = rng.choice([-1.0, 1.0], size=(400, 2))
    X[:, :2] = 0.2 * X[:, :2] + np.where(y[:, None] == 1, signs, np.sqrt(2) * X[:, 2:])
    X[:, 2:] = rng.standard_normal((400, 2))
    density = quick(
        field=field, max_iter=60, learning_rate_init=0.03, early_stopping=False
    )
    model = JKOFlowClassifier(density, random_state=0).fit(X, y)
    assert model.score(X, y) > 0.7  # Gaussians have about 0.5.
    model.save(tmp_path / "file")
    loaded = JKOFlowClassifier.load(tmp_path / "file")
    np.testing.assert_array_equal(loaded.score_samples(X), model.score_samples(X))


BAD = [
    (ConvField((2, 2)), "image_shape", 4),
    (ConvField((2, 2)), "image_shape", (4,)),
    (ConvField((2, 2)), "image_shape", (2, 0)),
    (ConvField((2, 2)), "image_shape", (2, 2.0)),
    (ConvField((2, 2)), "image_shape", (2, 2, 1, 1)),
    (ConvField((2, 2)), "hidden_channels", 0),
    (ConvField((2, 2)), "kernel_size", 2),
    (ConvField((2, 2)), "kernel_size", 5),
    (GraphField(PATH), "adjacency", None),
    (GraphField(PATH), "adjacency", [1.0, 2.0]),
    (GraphField(PATH), "adjacency", [["a", "b"], ["b", "a"]]),
    (GraphField(PATH), "adjacency", np.zeros((0, 0))),
    (GraphField(PATH), "adjacency", PATH[:3]),
    (GraphField(PATH), "adjacency", -PATH),
    (GraphField(PATH), "adjacency", PATH * np.nan),
    (GraphField(PATH), "adjacency", np.triu(PATH)),
    (GraphField(PATH), "hidden_channels", 1.5),
    (GraphField(PATH), "order", -1),
    (GraphField(PATH), "order", 11),
    (GraphField(PATH), "n_node_conditions", -1),
]


@pytest.mark.parametrize("field, name, value", BAD)
def test_bad_parameters(field, name, value):
    settings = {"kernel_size": 3} if isinstance(field, ConvField) else {}
    bad = type(field)(**{**field.get_params(), **settings, name: value})
    with pytest.raises(ValueError, match=f"'{name}' parameter of {type(bad).__name__}"):
        quick(field=bad).fit(samples("graph"))


@pytest.mark.parametrize("kind", [ConvField, GraphField])
def test_every_parameter_has_a_bad_value(kind):
    names = {name for field, name, _ in BAD if type(field) is kind}
    assert names == set(kind._get_param_names())


@pytest.mark.parametrize("field", [ConvField((1, 3), 4, 1), GraphField(np.eye(3))])
def test_features_have_to_be_those_of_the_places(field):
    kind = type(field).__name__
    X = samples("graph")
    with pytest.raises(ValueError, match=rf"{kind} .* is for 3 features.* not 4"):
        quick(field=field).fit(X)
    X[:, 0] = 1.5
    with pytest.raises(ValueError, match="Constant features"):
        quick(field=field).fit(X[:, :3])


def test_widths_of_a_residual_network_are_equal():
    with pytest.raises(ValueError, match=r"'hidden_layer_sizes' .* equal widths"):
        quick(field=MLPField((4, 6), residual=True)).fit(samples("graph"))
