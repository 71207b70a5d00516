"""Files of fitted estimators: what comes back, and what is refused."""

import copy
import json
import math
import os
import pickle
import stat
import time
import warnings
from dataclasses import is_dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import quick, set_in
from safetensors import safe_open
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn

from skjko import (
    JKOFlowDensity,
    JKOFlowOutlierDetector,
    container,
    persistence,
)
from skjko.datasets import moons
from skjko.flow.fields import VelocityField

DATA = Path(__file__).parent / "data"
GOLDEN = DATA / "density-1.safetensors"
GOLDEN_2 = DATA / "density-2.safetensors"
GOLDEN_3 = DATA / "density-3.safetensors"
GOLDEN_4 = DATA / "density-4.safetensors"
GOLDEN_5 = DATA / "density-5.safetensors"
GOLDEN_DETECTOR = DATA / "detector-1.safetensors"


def normal(n, d, seed=0):
    return np.random.RandomState(seed).standard_normal((n, d))


X = moons().sample(1100, random_state=0)
FRAME = pd.DataFrame(X[:100], columns=["öst\n", 'nord"'])
LUMPY = normal(300, 2, 2)
LUMPY[:, 1] = np.tanh(2 * LUMPY[:, 0]) + 0.5 * LUMPY[:, 1]
LUMPY = np.floor(LUMPY) + 0.1 * normal(300, 2)

# Estimators, what they are fitted to, and what else is given to `fit`.
CASES = {
    "gaussian": (quick(max_blocks=0), X[:100], {}),
    "two rows": (quick(), X[:2], {}),
    "one block": (quick(max_blocks=1), X, {}),
    "cross-validated": (quick(), X[:200], {}),
    "held-out rows given": (quick(), X[:200], {"X_val": X[200:300]}),
    "no early stopping": (quick(early_stopping=False), X[:200], {}),
    "refined twice": (
        quick(early_stopping=False, n_refinements=2, n_reparameterizations=1),
        X[:200],
        {},
    ),
    "refined and cross-validated": (quick(n_refinements=1), X[:300], {}),
    "no free block": (quick(free_block=False, early_stopping=False), X[:50], {}),
    "three layers": (
        quick(hidden_layer_sizes=(6, 5, 4), early_stopping=False),
        X[:100],
        {},
    ),
    "affine": (quick(hidden_layer_sizes=(), early_stopping=False), X[:100], {}),
    "time-dependent": (quick(time_dependent=True, early_stopping=False), X[:100], {}),
    "sizes in a list": (
        quick(hidden_layer_sizes=[8], activation="tanh", early_stopping=False),
        X[:100],
        {},
    ),
    "weighted": (quick(), X[:200], {"sample_weight": np.linspace(0, 1, 200)}),
    "names": (quick(early_stopping=False), FRAME, {}),
    "flat columns": (
        quick(early_stopping=False),
        np.hstack([X[:100], np.ones((100, 1)), X[:100, :1]]),
        {},
    ),
    "only flat columns": (quick(), np.ones((20, 2)), {}),
    "bounds, a lattice and tails": (
        quick(bounds={0: (None, 900), 2: (-9, np.inf)}, early_stopping=False),
        np.c_[np.sinh(2 * normal(150, 2)), normal(150, 1) ** 2, normal(150, 2) > 0],
        {},
    ),
    "lumps": (quick(max_blocks=1, mixture_map="auto"), LUMPY, {}),
    "many sizes": (
        quick(max_blocks=1, mixture_map="auto"),
        normal(300, 6) / np.abs(normal(300, 1, 3)),
        {},
    ),
    "steps given": (
        quick(discrete=[0.5, None], marginal_map=None, bounds=[None, (-9, None)]),
        np.c_[np.round(2 * X[:100, :1]) / 2, X[:100, 1:]],
        {},
    ),
    "integers": (
        quick(max_blocks=1, early_stopping=False),
        np.random.RandomState(0).poisson(2, (100, 2)),
        {},
    ),
    "five columns": (quick(early_stopping=False), normal(50, 5), {}),
    "one column": (quick(early_stopping=False), normal(50, 1), {}),
}


@pytest.fixture(scope="module")
def fitted():
    """Fit every case at most once."""
    known = {}

    def get(case):
        if case not in known:
            estimator, rows, more = CASES[case]
            known[case] = clone(estimator).fit(rows, **more)
        return copy.deepcopy(known[case])

    return get


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def saved_and_loaded(density, path):
    density.save(path)
    return JKOFlowDensity.load(path)


def assert_equal(a, b, where="density"):
    """Compare everything that two objects consist of: types, values, sharing aside."""
    assert type(a) is type(b), where
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype, where
        np.testing.assert_array_equal(a, b, err_msg=where)
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert a.requires_grad == b.requires_grad, where
        np.testing.assert_array_equal(a.detach(), b.detach(), err_msg=where)
    elif isinstance(a, nn.Module):
        assert str(a) == str(b), where
        assert_equal(
            {k: v for k, v in vars(a).items() if k[0] != "_"},
            {k: v for k, v in vars(b).items() if k[0] != "_"},
            where,
        )
        assert_equal(dict(a.state_dict()), dict(b.state_dict()), where)
        assert_equal(list(a.parameters()), list(b.parameters()), where)
        assert_equal(list(a.children()), list(b.children()), where)
    elif isinstance(a, np.random.RandomState):
        assert_equal(a.get_state(legacy=False), b.get_state(legacy=False), where)
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_equal(*pair, f"{where}[{i}]")
    elif is_dataclass(a) or hasattr(a, "__dict__"):
        assert_equal(vars(a), vars(b), where)
    elif isinstance(a, float) and math.isnan(a):
        assert math.isnan(b), where
    else:
        assert a == b, where


# ------------------------------------------------------------------- round trips


def test_everything_comes_back(fitted, case, path):
    density = fitted(case)
    assert_equal(saved_and_loaded(density, path), density)


def test_use_is_the_same_to_the_last_bit(fitted, case, path):
    density = fitted(case)
    loaded = saved_and_loaded(density, path)
    again = pickle.loads(pickle.dumps(loaded))
    d = density.n_features_in_
    rows = normal(50, d, seed=1)
    if hasattr(density, "feature_names_in_"):
        rows = pd.DataFrame(rows, columns=density.feature_names_in_)
    for other in (loaded, again):
        for method in ("score_samples", "transform", "trajectory"):
            np.testing.assert_array_equal(
                getattr(other, method)(rows), getattr(density, method)(rows)
            )
        sample, expected = (m.sample(20, random_state=0) for m in (other, density))
        assert type(sample) is type(expected)
        np.testing.assert_array_equal(sample, expected)
        assert other.summary() == density.summary()
        assert other.get_params() == density.get_params()
        assert clone(other).get_params() == density.get_params()
        with pytest.raises(NotFittedError):
            clone(other).sample()


def test_cases_are_what_they_are_called(fitted):
    assert fitted("one block").n_blocks_ == 1
    assert fitted("refined twice").n_blocks_ == 8
    assert len(fitted("refined and cross-validated")._fitted.fold_flows) == 3
    assert math.isinf(fitted("no early stopping").step_sizes_[-1])
    assert not math.isinf(fitted("no free block").step_sizes_[-1])
    assert fitted("flat columns").gaussian_.n_flat_ == 2
    assert [fitted(c).n_blocks_ for c in ("gaussian", "two rows")] == [0, 0]


@pytest.mark.parametrize(
    "case, more",
    [
        ("one block", {"n_refinements": 1}),
        ("cross-validated", {"max_blocks": 3}),
        ("refined twice", {"max_blocks": 3}),
    ],
)
def test_a_fit_goes_on_from_a_file(fitted, case, more, path):
    density = fitted(case)
    loaded = saved_and_loaded(density, path)
    rows = CASES[case][1]
    density.set_params(warm_start=True, **more).fit(rows)
    # In another layout: the same values are the same data.
    loaded.set_params(warm_start=True, **more).fit(np.asfortranarray(rows))
    np.testing.assert_array_equal(loaded.score_samples(X), density.score_samples(X))
    assert_equal(loaded, density)
    assert len(loaded.history_) > len(fitted(case).history_)
    with pytest.raises(ValueError, match="must be those of the fit"):
        loaded.set_params(max_blocks=5).fit(X[:70])


def test_a_fit_that_went_on_is_saved(fitted, path):
    density = fitted("cross-validated")
    density.set_params(warm_start=True, max_blocks=4).fit(X[:200])
    assert_equal(saved_and_loaded(density, path), density)


def test_parameters_may_be_numpys(path):
    density = quick(
        max_blocks=np.int64(1),
        step_size=np.float32(0.3),
        free_block=np.bool_(False),
        time_dependent=np.bool_(True),
        early_stopping=False,
        hidden_layer_sizes=np.array([4, 4]),
        activation=np.str_("tanh"),
    ).fit(X[:50])
    loaded = saved_and_loaded(density, path)
    parameters = loaded.get_params()
    assert parameters.pop("hidden_layer_sizes") == (4, 4)
    assert density.get_params().items() >= parameters.items()
    np.testing.assert_array_equal(loaded.score_samples(X), density.score_samples(X))


@pytest.mark.parametrize("random_state", [None, 2**32 - 1])
def test_random_state_as_it_is(random_state, path):
    density = quick(max_blocks=0, random_state=random_state).fit(X[:50])
    assert saved_and_loaded(density, path).random_state == random_state


def test_a_random_state_instance_goes_on_where_it_was(path):
    rng = np.random.RandomState(3)
    rng.standard_normal()  # Keeps a second number back.
    density = quick(max_blocks=0, random_state=rng).fit(X[:50])
    assert rng.get_state()[3] == 1
    loaded = saved_and_loaded(density, path)
    assert loaded.random_state is loaded._fitted_with["random_state"]
    expected = rng.standard_normal(1000)
    np.testing.assert_array_equal(loaded.random_state.standard_normal(1000), expected)


def test_other_generators_are_refused(path):
    rng = np.random.RandomState(np.random.PCG64(0))
    density = quick(max_blocks=0, random_state=rng).fit(X[:50])
    with pytest.raises(ValueError, match=r"cannot be saved.*random_state.*PCG64"):
        density.save(path)
    assert not path.exists()


def test_output_container_stays(fitted, path):
    density = fitted("names").set_output(transform="pandas")
    loaded = saved_and_loaded(density, path)
    pd.testing.assert_frame_equal(loaded.transform(FRAME), density.transform(FRAME))


def test_names_that_json_has_to_escape(path):
    names = ["\ud800", 'a"\\', "\0", "", "名"]
    frame = pd.DataFrame(normal(20, 5), columns=pd.Index(names, dtype=object))
    loaded = saved_and_loaded(quick(max_blocks=0).fit(frame), path)
    assert list(loaded.feature_names_in_) == names


def test_weights_that_are_no_float32_are_kept(fitted, path):
    density = fitted("one block")
    weight = density.flow_.blocks[0].field.field.out_weight
    weight += 1e-12 * weight
    loaded = saved_and_loaded(density, path)
    np.testing.assert_array_equal(loaded.score_samples(X), density.score_samples(X))
    assert load_arrays(path.read_bytes())["flow.0.field.out_weight"].dtype == float


def test_a_device_that_is_not_here(fitted, path):
    density = fitted("one block").set_params(device="cuda")
    loaded = saved_and_loaded(density, path)
    assert loaded.device == "cuda"
    if not torch.cuda.is_available():
        np.testing.assert_array_equal(loaded.score_samples(X), density.score_samples(X))
    assert {p.device.type for p in loaded.flow_.parameters()} == {"cpu"}


def test_size_is_that_of_the_weights(path):
    density = quick(
        hidden_layer_sizes=(64, 64), max_blocks=3, max_iter=3, early_stopping=False
    ).fit(normal(100, 20))
    density.save(path)
    n_weights = sum(p.numel() for p in density.flow_.parameters())
    # Four bytes a weight, eight a number of the Gaussian; half a kilobyte for a block's
    # names and shapes of arrays each, twice; two kilobytes of parameters.
    bound = 4 * n_weights + 8 * 20 * 23 + 3 * 2 * 600 + 4000
    assert 4 * n_weights < path.stat().st_size < bound < 1.25 * 4 * n_weights


def test_saving_and_loading_leave_global_state_alone(fitted, path):
    density = fitted("refined twice")
    before = pickle.dumps(density)
    states = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    loaded = saved_and_loaded(density, path)
    assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    assert torch.get_default_device() == torch.device("cpu")
    assert pickle.dumps(density) == before
    assert_equal(loaded, density)


def test_other_libraries_can_read_the_file(fitted, path):
    density = fitted("one block")
    density.save(path)
    with safe_open(path, "np") as file:
        metadata = file.metadata()
        weight = file.get_tensor("flow.0.field.out_weight")
    assert metadata["kind"] == "JKOFlowDensity"
    assert metadata["format_version"] == str(persistence.FORMAT_VERSION)
    assert json.loads(metadata["model"])["parameters"]["max_blocks"] == 1
    expected = density.flow_.blocks[0].field.field.out_weight
    np.testing.assert_array_equal(weight, expected)


def test_only_fitted_estimators_are_saved(path):
    with pytest.raises(NotFittedError):
        quick().save(path)
    assert not path.exists()


class Twisted(VelocityField):
    """A field that nobody has described."""

    def forward(self, t, x, context=None):
        return x.flip(1)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda d: d.set_params(alpha=math.nan), "'alpha'"),
        (lambda d: d.set_params(activation=Twisted), "'activation'"),
        (lambda d: d.set_params(max_iter=-1), "'max_iter'"),
        (lambda d: d.flow_.blocks[0].field.radius.fill_(math.nan), "radius"),
        (lambda d: setattr(d.flow_.blocks[0], "field", Twisted()), "Twisted"),
        (lambda d: setattr(d.gaussian_, "shrinkage_", math.inf), "JSON"),
        (lambda d: d.gaussian_.scale_.fill(0.0), "Gaussian"),
    ],
)
def test_what_cannot_be_loaded_is_not_saved(fitted, path, damage, message):
    density = fitted("one block")
    damage(density)
    with pytest.raises(ValueError, match=f"This JKOFlowDensity cannot be.*{message}"):
        density.save(path)
    assert not list(path.parent.iterdir())


# ------------------------------------------------------------------- golden files


def test_format_1_is_still_read():
    """Two refined blocks, cross-validated, on three columns.

    The first has a marginal map, the second a bound, and the last one value.

    Made, with the numbers below, by the first version of tests/data/make_density.py.
    """
    assert GOLDEN.stat().st_size < 20_000
    density = JKOFlowDensity.load(GOLDEN)
    rows = [[-1.0, -0.5, 2.0], [0.25, 0.5, 2.0], [3.0, 1.0, 2.001]]
    rows = pd.DataFrame(rows, columns=["a", "b", "c"])
    scores = [10.409857085904163, 11.158836073779739, -306167.6120173522]
    np.testing.assert_allclose(density.score_samples(rows), scores, rtol=1e-9)
    sample = [
        [4.53586151484391, 1.3694495998313307, 2.0],
        [4.098148028304075, 1.778968333075242, 2.0],
    ]
    drawn = density.sample(2, random_state=0)
    assert list(drawn.columns) == ["a", "b", "c"]
    # Samples are as good as the solver; the exact inverse pins what was read.
    np.testing.assert_allclose(drawn, sample, rtol=1e-4)
    Z = np.random.RandomState(0).standard_normal((2, 3))
    exact = density.inverse_transform(Z)
    np.testing.assert_allclose(exact[:, :2], np.array(sample)[:, :2], rtol=1e-9)
    assert density.marginal_map_.columns.tolist() == [0]
    assert density.bounds == {"b": (-6, math.inf)}
    assert (drawn["c"] == 2).all()
    scores = [9.223882675170898, 9.521162986755371, 9.520551681518555]
    np.testing.assert_allclose(density.validation_scores_, scores, rtol=1e-12)
    assert [r.round for r in density.history_] == ["grow", "refine"]
    assert density.hidden_layer_sizes == (6, 4)
    assert density.random_state.randint(1000) == 905
    assert len(density._fitted.fold_flows) == 3


ROWS = [[-1.0, -0.5, 2.0], [0.25, 0.5, 2.0], [3.0, 1.0, 2.001]]


def assert_is_read(density, scores, sample, validation_scores, random_int, rows=ROWS):
    """What golden files from version 2 on have in common, and numbers of their own."""
    assert density.n_blocks_ == 1
    rows = pd.DataFrame(rows, columns=density.feature_names_in_)
    np.testing.assert_allclose(density.score_samples(rows), scores, rtol=1e-9)
    drawn = density.sample(2, random_state=0)
    np.testing.assert_allclose(drawn, sample, rtol=1e-4)
    np.testing.assert_allclose(
        density.validation_scores_, validation_scores, rtol=1e-12
    )
    assert density.random_state.randint(1000) == random_int
    assert len(density._fitted.fold_flows) == 3


def test_format_2_is_still_read():
    """A mixture and one block, cross-validated, on columns as in version 1.

    Made, with the numbers below, by the second version of tests/data/make_density.py.
    """
    assert GOLDEN_2.stat().st_size < 20_000
    density = JKOFlowDensity.load(GOLDEN_2)
    assert len(density.mixture_map_.weights) == 9
    scores = [9.529535359325447, 10.469918210360065, -103662.18239191541]
    sample = [
        [2.7699858268275612, 4.9410436001345985, 2.0],
        [20.457485668533707, 4.550346962147154, 2.0],
    ]
    assert_is_read(density, scores, sample, [8.20975399017334, 8.22061824798584], 129)


def test_format_3_is_still_read():
    """Mixtures of two single columns, one of both, and a block, cross-validated.

    Made, with the numbers below, by the third version of tests/data/make_density.py.
    """
    assert GOLDEN_3.stat().st_size < 20_000
    density = JKOFlowDensity.load(GOLDEN_3)
    assert [len(one.weights) for one in density.marginal_map_.maps] == [14, 9]
    assert len(density.mixture_map_.weights) == 5
    scores = [4.792853261659031, 1.7144032163994103, -156174.33668634068]
    sample = [
        [0.9381247587923482, 1.0481681214171985, 2.0],
        [0.08524303101137698, 1.8638338560617385, 2.0],
    ]
    assert_is_read(
        density, scores, sample, [11.07596206665039, 11.099252700805664], 847
    )


def test_format_4_is_still_read():
    """As that of version 3, with a regularized round.

    Made, with the numbers below, by the fourth version of tests/data/make_density.py.
    """
    assert GOLDEN_4.stat().st_size < 20_000
    density = JKOFlowDensity.load(GOLDEN_4)
    assert [r.round for r in density.history_] == ["grow", "regularize"]
    scores = [4.7706629791229584, 1.6681896413077886, -156174.12573382483]
    sample = [
        [0.9491991781158762, 1.0557417601800942, 2.0],
        [0.09988154735574417, 1.8957691152993714, 2.0],
    ]
    assert_is_read(density, scores, sample, [11.07596206665039, 11.1217622756958], 715)


def test_the_golden_file_of_version_5():
    """A radial map and a block, cross-validated.

    Made, with the numbers below, by tests/data/make_density.py.
    """
    assert GOLDEN_5.stat().st_size < 20_000
    density = JKOFlowDensity.load(GOLDEN_5)
    assert density.radial_map_ is not None
    rows = [[-1.0, -0.5, 0, 0, 1, 2], [0.25, 0.5, 0, 0, 0, 2], [3, 1, 0, 0, 0, 2.001]]
    scores = [3.4218732850038447, 6.937743304216957, -10975.60091386318]
    sample = [
        [
            19.72511907156446,
            10.030107986828057,
            -0.39693718252571203,
            0.9064471152142533,
            1.1379980235045624,
            2.0,
        ],
        [
            0.6094621538936132,
            0.7118752953176681,
            -0.532983350609557,
            -0.30279026824936295,
            0.44382886947760486,
            2.0,
        ],
    ]
    nll = [0.6939800977706909, 1.076900601387024]
    assert_is_read(density, scores, sample, nll, 960, rows)


# ------------------------------------------------------------------- damaged files


def current(cls, path):
    """What a golden file holds, in the current version of the format."""
    form, arrays = cls._form, {}
    model = form.dismantle(cls.load(path), arrays)
    return container.dump(cls.__name__, form.version, model, arrays), form


# Both kinds of files have to withstand the same.
KINDS = {
    JKOFlowDensity: current(JKOFlowDensity, GOLDEN),
    JKOFlowOutlierDetector: current(JKOFlowOutlierDetector, GOLDEN_DETECTOR),
}
CONTENT = KINDS[JKOFlowDensity][0]
MIXTURES = current(JKOFlowDensity, GOLDEN_2)[0]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


def header_of(content):
    """Return the parsed header of a file, and the bytes behind it."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def with_header(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def refused(content, path, match="Cannot load", kind=JKOFlowDensity):
    """Load some bytes, which has to fail in the one way there is."""
    path.write_bytes(content)
    with pytest.raises(ValueError, match=match) as caught:
        kind.load(path)
    assert str(path) in str(caught.value)


def loaded_or_none(content, path, kind):
    """Load some bytes, or be refused in the one way there is."""
    path.write_bytes(content)
    try:
        return kind.load(path)
    except ValueError as error:
        if str(path) not in str(error):
            raise
        return None


def flipped(content, rng):
    content = bytearray(content)
    for i in rng.randint(len(content), size=rng.choice([1, 1, 1, 2, 8])):
        content[i] ^= 1 << rng.randint(8)
    return bytes(content)


def flipped_in_header(content, rng):
    end = 8 + int.from_bytes(content[:8], "little")
    content = bytearray(content)
    content[rng.randint(end)] ^= 1 << rng.randint(8)
    return bytes(content)


def truncated(content, rng):
    return content[: rng.randint(len(content))]


def spliced(content, rng):
    a, b, c = rng.randint(len(content), size=3)
    n = rng.randint(1, 200)
    return [
        content[:a] + content[b : b + n] + content[a:],
        content[:a] + content[b : b + n] + content[a + n :],
        content[:a] + content[a + n :],
        content[:a] + rng.bytes(n) + content[a + n :],
        content[:a] + content[c:],
    ][rng.randint(5)]


@pytest.mark.parametrize("mutate", [flipped, flipped_in_header, truncated, spliced])
def test_no_damage_goes_unnoticed(mutate, kind, path):
    rng = np.random.RandomState(0)
    content, _ = KINDS[kind]
    path.write_bytes(content)
    golden = kind.load(path)
    n_loaded = 0
    for _ in range(1000):
        loaded = loaded_or_none(mutate(content, rng), path, kind)
        if loaded is not None:
            # White space in the header, or nothing changed at all.
            assert_equal(loaded, golden)
            n_loaded += 1
    assert n_loaded < 20


def test_every_bit_counts(kind, path):
    """Every bit of the metadata, and some of every array."""
    whole, _ = KINDS[kind]
    header, data = header_of(whole)
    start = whole.index(b"__metadata__")
    first = next(name for name in header if name != "__metadata__")
    stop = whole.index(f'"{first}"'.encode(), start)
    assert stop - start > 1000
    places = [*range(start, stop, 3), *range(len(whole) - len(data), len(whole), 29)]
    for i in places:
        content = bytearray(whole)
        content[i] ^= 1 << (i % 8)
        refused(bytes(content), path, kind=kind)


NASTY = [
    *(None, True, False, -1, 0, 1, 3, 2**31, 2**53, 10**18, 0.5, -0.5, 1e308, 5e-324),
    *("", "x", "JKOFlowDensity", "mlp", "cuda:99", "__import__('os')", "pandas"),
    *([], [1], [[]], {}, {"tuple": [8, 8]}, {"tuple": 8}, {"random_state": 0}),
    *({"random_state": 9}, {"list": [{}]}, {"kind": "part"}, {"kind": ["mlp"]}),
]


def places_in(value, place=()):
    """Yield the path to everything inside nested dicts and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*place, key)
        if isinstance(inner, (dict, list)):
            yield from places_in(inner, (*place, key))


def edit_model(model, rng):
    places = list(places_in(model))
    *place, last = places[rng.randint(len(places))]
    parent = model
    for key in place:
        parent = parent[key]
    action = rng.randint(8)
    if action == 0:
        del parent[last]
    elif action == 1 and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[last]))
    elif action == 1:
        parent["more"] = copy.deepcopy(parent[last])
    elif action == 2:
        *_, other = places[rng.randint(len(places))]
        parent[last] = other
    else:
        parent[last] = copy.deepcopy(NASTY[rng.randint(len(NASTY))])


def edit_arrays(arrays, rng):
    names = sorted(arrays)
    name, other = (names[i] for i in rng.randint(len(names), size=2))
    array = arrays[name]
    action = rng.randint(8)
    if action == 0:
        del arrays[name]
    elif action == 1:
        arrays["more"] = array
    elif action == 2:
        arrays[name], arrays[other] = arrays[other], arrays[name]
    elif action == 3:
        dtypes = [np.float32, np.float64, np.int64, np.uint32]
        with np.errstate(invalid="ignore"):
            arrays[name] = array.astype(dtypes[rng.randint(4)])
    elif action == 4:
        shapes = [(-1,), (1, *array.shape), array.shape[::-1], (*array.shape, 1)]
        arrays[name] = array.reshape(shapes[rng.randint(4)])
    elif action == 5:
        arrays[name] = np.repeat(np.atleast_1d(array), rng.randint(3), axis=0)
    elif array.size:
        values = [math.nan, math.inf, -math.inf, -1, 0, 1e30, 1e-30, 1e9]
        array = arrays[name] = array.copy()
        with np.errstate(invalid="ignore", over="ignore"):
            value = np.float64(values[rng.randint(8)]).astype(array.dtype)
        array.reshape(-1)[rng.randint(array.size)] = value


def parameters_of(model):
    """Return the dicts in a model that hold parameters."""
    if "density" in model:
        return [model["parameters"], *parameters_of(model["density"])]
    return [model["parameters"], model["fitted_with"]]


@pytest.mark.parametrize("edit", ["model", "arrays"])
@pytest.mark.parametrize("n", [250, pytest.param(1000, marks=pytest.mark.slow)])
def test_what_has_the_right_checksum_is_refused_or_taken_at_its_word(
    edit, n, kind, path
):
    """Edited with care: what loads says what the file says, and can be used."""
    content, form = KINDS[kind]
    metadata = header_of(content)[0]["__metadata__"]
    original = load_arrays(content)
    rng = np.random.RandomState(n)
    n_loaded = 0
    for _ in range(n):
        model, arrays = json.loads(metadata["model"]), dict(original)
        for _ in range(rng.choice([1, 1, 2])):
            edit_model(model, rng) if edit == "model" else edit_arrays(arrays, rng)
        content = container.dump(kind.__name__, form.version, model, arrays)
        if (loaded := loaded_or_none(content, path, kind)) is None:
            continue
        n_loaded += 1
        found = {}
        said = form.dismantle(loaded, found)
        for here, there in zip(parameters_of(model), parameters_of(said), strict=True):
            # A parameter that is not there is as old files have it: the default.
            here.update({**there, **here})
        assert said == model
        assert found.keys() == arrays.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, arrays[name])
        rows = normal(3, loaded.n_features_in_)
        if hasattr(loaded, "feature_names_in_"):
            rows = pd.DataFrame(rows, columns=loaded.feature_names_in_)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            assert loaded.score_samples(rows).shape == (3,)
            if kind is JKOFlowOutlierDetector:
                assert loaded.explain(rows).shape == rows.shape
    assert 0.02 * n < n_loaded < 0.5 * n


def edited(change, content=CONTENT):
    """A golden file with one change to its model and arrays, well checksummed."""
    model = json.loads(header_of(content)[0]["__metadata__"]["model"])
    arrays = load_arrays(content)
    change(model, arrays)
    version = persistence.FORMAT_VERSION
    return container.dump("JKOFlowDensity", version, model, arrays)


def array_to(name, value):
    return lambda model, arrays: arrays.update({name: value})


FIELD = ("flow", 0, "field", "field", "field")
OUT = "flow.0.field.field.out_weight"
NAN = np.full((2, 4), np.nan)


@pytest.mark.parametrize(
    "change, message",
    [
        (set_in(*FIELD, "hidden_layer_sizes", value=[2**30, 2**30]), "shape"),
        (set_in(*FIELD, "hidden_layer_sizes", value=[2**31 - 1] * 3), "too large"),
        (set_in(*FIELD, "hidden_layer_sizes", value=[10**18]), "hidden_layer_sizes"),
        (set_in(*FIELD, "hidden_layer_sizes", value=[6, -4]), "hidden_layer_sizes"),
        (set_in(*FIELD, "hidden_layer_sizes", value=[6, 4, 4]), "shape|missing"),
        (set_in(*FIELD, "n_features", value=3), "shape"),
        (set_in(*FIELD, "n_context", value=1), "context_weight' is missing"),
        (set_in(*FIELD, "activation", value="os.system"), "'activation'"),
        (set_in(*FIELD, "kind", value="torch.nn.Linear"), "no kind of field"),
        (set_in("flow", 0, "n_ode_steps", value=10**9), "'n_ode_steps'"),
        (set_in("flow", 0, "n_ode_steps", value=-2), "'n_ode_steps'"),
        (set_in("flow", 0, "step_size", value=0.25), "last accepted round"),
        (set_in("flow", value=[]), "last accepted round|belongs to nothing"),
        (set_in("n_features_in", value=10**9), "names of the features"),
        (set_in("feature_names_in", value=["a", "b", 3]), "names"),
        (set_in("rounds", 0, "n_minibatches", value=-1), "'n_minibatches'"),
        (set_in("rounds", 0, "n_kept", value=7), "keeps more"),
        (set_in("gaussian", "n_flat", value=4), "Gaussian"),
        (set_in("gaussian", "n_flat", value=0), "columns"),
        (set_in("parameters", "n_jobs", value=4), "no parameter 'n_jobs'"),
        (set_in("parameters", "max_blocks", value=-1), "'max_blocks'"),
        (set_in("parameters", "device", value="toaster"), "'device'"),
        (set_in("transform_output", value="exec"), "'transform_output'"),
        (array_to(OUT, NAN), "not finite"),
        (array_to(OUT, np.ones((2, 4), dtype=np.int64)), "dtype"),
        (array_to(OUT, np.ones((4, 2))), "shape"),
        (array_to("flow.0.radius", np.array(-1.0)), "radius"),
        (array_to("flow.9.radius", np.array(1.0)), "'flow.9.radius' belongs to noth"),
        (lambda model, arrays: arrays.pop(OUT), f"'{OUT}' is missing"),
        (array_to("gaussian.vectors", np.ones((3, 3))), "Gaussian"),
        (array_to("gaussian.scale", -np.ones(3)), "Gaussian"),
        (array_to("rounds.0.n_iters", np.array([-80])), "below 0"),
        (array_to("rounds.0.n_losses", np.array([2**62])), "shape"),
        (array_to("rounds.0.movements", np.array([np.nan])), "below 0"),
    ],
)
def test_hostile_models_are_refused(change, message, path):
    start = time.perf_counter()
    refused(edited(change), path, message)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "change, message",
    [
        (set_in("has_mixture", value=False), "belongs to nothing"),
        (set_in("has_mixture", value=1), "'has_mixture'"),
        (array_to("mixture.weights", np.full(9, 0.2)), "mixture"),
        (array_to("mixture.weights", np.eye(9)[0]), "mixture"),
        (array_to("mixture.weights", np.ones(8) / 8), "shape"),
        (array_to("mixture.weights", np.ones(0)), "shape"),
        (array_to("mixture.means", np.full((9, 2), np.inf)), "not finite"),
        (array_to("mixture.means", np.full((9, 2), 1e300)), "mixture"),
        (array_to("mixture.factors", np.ones((9, 2, 2))), "mixture"),
        (array_to("mixture.factors", -np.tile(np.eye(2), (9, 1, 1))), "mixture"),
        (array_to("mixture.factors", np.ones((9, 3, 3))), "shape"),
    ],
)
def test_hostile_mixtures_are_refused(change, message, path):
    refused(edited(change, MIXTURES), path, message)


@pytest.mark.parametrize(
    "change, message",
    [
        (set_in("marginal", value=None), "belongs to nothing"),
        (set_in("marginal", value="tails"), "belongs to nothing"),
        (set_in("marginal", value="lumps"), "'marginal'"),
        (array_to("marginal.columns", np.array([0, 3])), "not one of the columns"),
        (array_to("marginal.columns", np.array([0])), "shape"),
        (array_to("marginal.width", np.zeros(2)), "not one of the columns"),
        (array_to("marginal.0.weights", np.full(14, 0.2)), "mixture"),
        (array_to("marginal.0.means", np.zeros((14, 2))), "shape"),
        (array_to("marginal.1.factors", np.zeros((9, 1, 1))), "mixture"),
    ],
)
def test_hostile_mixtures_of_columns_are_refused(change, message, path):
    content = current(JKOFlowDensity, GOLDEN_3)[0]
    refused(edited(change, content), path, message)


@pytest.mark.parametrize(
    "change, message",
    [
        (set_in("has_radial", value=False), "belongs to nothing"),
        (set_in("has_radial", value=1), "'has_radial'"),
        (array_to("radial", np.array([1.0, 0.0])), "not positive"),
        (array_to("radial", np.array([-1.0, 1.0])), "radial"),
        (array_to("radial", np.array([1.0, np.inf])), "radial"),
        (array_to("radial", np.ones(3)), "shape"),
    ],
)
def test_hostile_radial_maps_are_refused(change, message, path):
    content = current(JKOFlowDensity, GOLDEN_5)[0]
    refused(edited(change, content), path, message)


def test_older_files_have_no_radial_map(path):
    content = GOLDEN_4.read_bytes()
    model = json.loads(header_of(content)[0]["__metadata__"]["model"])
    changed = {**model, "has_radial": False}
    content = container.dump("JKOFlowDensity", 4, changed, load_arrays(content))
    refused(content, path, "no radial maps in its version")


@pytest.mark.parametrize("version", [1, 2])
def test_older_files_have_their_own_flags(version, path):
    content = (DATA / f"density-{version}.safetensors").read_bytes()
    model = json.loads(header_of(content)[0]["__metadata__"]["model"])
    for name in ("has_marginal", "with_marginal"):
        for changed in ({**model, name: 1}, {**model, "marginal": None}):
            arrays = load_arrays(content)
            refused(
                container.dump("JKOFlowDensity", version, changed, arrays),
                path,
                "marginal maps",
            )


def test_no_checksum_no_model(path):
    header, data = header_of(CONTENT)
    for name in ("sha256", "model", "kind", "format_version"):
        changed = copy.deepcopy(header)
        del changed["__metadata__"][name]
        refused(with_header(changed, data), path, "metadata")
    changed = copy.deepcopy(header)
    changed["__metadata__"]["more"] = ""
    refused(with_header(changed, data), path, "metadata")
    changed = copy.deepcopy(header)
    changed["__metadata__"]["model"] += " "
    refused(with_header(changed, data), path, "checksum")
    del changed["__metadata__"]
    refused(with_header(changed, data), path, "metadata")


@pytest.mark.parametrize(
    "version, message",
    [("6", "version 6, .* newer skjko"), ("", "format_version"), ("²", "format_ver")],
)
def test_other_versions_are_named(version, message, path):
    header, data = header_of(CONTENT)
    header["__metadata__"]["format_version"] = version
    refused(with_header(header, data), path, message)


def test_other_kinds_are_named(kind, path):
    content = container.dump("Forest", 1, {}, {"tree": np.ones(1)})
    refused(content, path, "holds a Forest, not a JKOFlow", kind)
    (other,) = KINDS.keys() - {kind}
    message = f"holds a {other.__name__}, not a {kind.__name__}"
    refused(KINDS[other][0], path, message, kind)


def with_text(text):
    """A file with some text in place of the model, well checksummed."""
    arrays = load_arrays(CONTENT)
    metadata = {"format_version": "1", "kind": "JKOFlowDensity", "model": text}
    metadata["sha256"] = container._digest(metadata, arrays)
    return save_arrays(arrays, metadata)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "JSON"),
        ("[]", "no object"),
        ("null", "no object"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "Infinity"),
        ('{"a": 1e999}', "1e999"),
        ('{"a": 1' + "0" * 10**5 + "}", "100001 digits"),
        ('{"a": 1, "a": 1}', "twice"),
        ('{"a": ' + "[" * 10**5 + "]" * 10**5 + "}", "nested too deeply"),
        ('{"a": ' + "[" * 500 + "]" * 500 + "}", "entries"),
        ("{'a': 1}", "JSON"),
    ],
)
def test_json_is_read_strictly(text, message, path):
    refused(with_text(text), path, message)


def test_fields_nested_deeply_are_refused(path):
    # As deep as the parser lets through, and deeper than what builds fields would go.
    for depth in (10, 300, 900):
        model = json.loads(header_of(CONTENT)[0]["__metadata__"]["model"])
        field = model["flow"][0]["field"]
        for _ in range(depth):
            field = {"kind": "confined", "field": field}
        model["flow"][0]["field"] = field
        try:
            content = with_text(json.dumps(model))
        except RecursionError:
            continue
        refused(content, path, "missing|deeply")


def test_headers_are_read_strictly(path):
    header, data = header_of(CONTENT)
    text = json.dumps(header).encode()
    twice = text.replace(b'"__metadata__"', b'"base_nll": 1, "__metadata__"', 1)
    refused(with_header(twice, data), path)
    entry = json.dumps(header["base_nll"]).encode()
    twice = text[:-1] + b', "base_nll": ' + entry + b"}"
    refused(with_header(twice, data), path, "twice|safetensors")
    for change in (
        {"dtype": "BF16"},
        {"dtype": "I32"},
        {"dtype": "F64"},
        {"shape": [2**40, 2**40]},
        {"shape": [-1]},
        {"shape": [0, 2**62], "data_offsets": [0, 0]},
        {"data_offsets": [0, 2**63]},
        {"data_offsets": [8, 0]},
    ):
        changed = copy.deepcopy(header)
        changed["base_nll"].update(change)
        refused(with_header(changed, data), path)
    refused(with_header(b"[" * 10**6, data), path, "safetensors")
    refused((2**63).to_bytes(8, "little") + CONTENT[8:], path, "safetensors")


OTHERS = [b"", b"{}", b"\0" * 8, b"\0" * 1000, b"PK\x03\x04", pickle.dumps([1])]


@pytest.mark.parametrize("content", [*OTHERS, CONTENT[8:]], ids=range(len(OTHERS) + 1))
def test_other_files_are_refused(content, kind, path):
    refused(content, path, "safetensors", kind)


def test_safetensors_of_others_are_refused(path):
    refused(save_arrays({"weight": np.ones(3)}), path, "metadata")
    refused(save_arrays({"weight": np.ones(3)}, {"format": "pt"}), path, "metadata")
    half = save_arrays({"weight": np.ones(3, dtype=np.float16)})
    refused(half, path, "metadata")


def test_errors_of_the_file_system_stay_themselves(fitted, tmp_path):
    with pytest.raises(FileNotFoundError):
        JKOFlowDensity.load(tmp_path / "absent")
    with pytest.raises(OSError, match=r".") as caught:
        JKOFlowDensity.load(tmp_path)
    assert not isinstance(caught.value, FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        fitted("gaussian").save(tmp_path / "absent" / "model")


def test_nothing_is_executed(monkeypatch):
    def executed(*args, **kwargs):
        raise AssertionError("executed")

    for module, name in (
        (pickle, "load"),
        (pickle, "loads"),
        (pickle, "Unpickler"),
        (torch, "load"),
        (np, "load"),
    ):
        monkeypatch.setattr(module, name, executed)
    for name in ("eval", "exec", "compile"):
        monkeypatch.setattr(f"builtins.{name}", executed)
    JKOFlowDensity.load(GOLDEN)
    JKOFlowOutlierDetector.load(GOLDEN_DETECTOR)


# ------------------------------------------------------------------- writing


class Full(OSError):
    """What a full disk raises."""


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("exists", [False, True])
def test_a_save_that_fails_leaves_the_old_file(fitted, path, monkeypatch, step, exists):
    if exists:
        fitted("gaussian").save(path)
    before = path.read_bytes() if exists else None

    def fail(*args):
        # By now the new content is written, beside the old one.
        assert len(list(path.parent.iterdir())) == 1 + exists
        raise Full

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(Full):
        fitted("one block").save(path)
    assert list(path.parent.iterdir()) == ([path] if exists else [])
    if exists:
        assert path.read_bytes() == before


def test_the_old_file_is_there_until_the_new_one_is(fitted, path, monkeypatch):
    fitted("gaussian").save(path)
    before, replace, seen = path.read_bytes(), os.replace, []

    def spy(source, target):
        seen.append((Path(source).parent, Path(target), path.read_bytes()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    fitted("one block").save(str(path))
    assert seen == [(path.parent, path, before)]
    assert JKOFlowDensity.load(str(path)).n_blocks_ == 1


@pytest.mark.skipif(os.name != "posix", reason="permissions and links of POSIX")
def test_permissions_and_links_stay(fitted, path):
    density = fitted("gaussian")
    density.save(path)
    plain = path.with_name("plain")
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    path.chmod(0o600)
    link = path.with_name("link")
    link.symlink_to(path)
    fitted("one block").save(link)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert JKOFlowDensity.load(path).n_blocks_ == 1
