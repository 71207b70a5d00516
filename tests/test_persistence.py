"""Files of fitted estimators: what comes back, and what is refused."""

# SPDX-License-Identifier: BSD-3-Clause

import copy
import gzip
import json
import math
import os
import pickle
import stat
import warnings
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from helpers import QUICK, lumps, process_state
from safetensors import safe_open
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from torch import nn

from skjko import (
    JKOFlowDensity,
    JKOFlowOutlierDetector,
    JKOSchedule,
    MLPField,
    RungeKutta,
    VelocityField,
)
from skjko.datasets import moons
from skjko.io import file_info
from skjko.io import format as file_format
from skjko.io.format import FORMAT_VERSION
from skjko.transforms import (
    Asinh,
    Chain,
    MarginalMixtures,
    MixtureMap,
    Radial,
    Transform,
    Whitening,
)


def normal(n, d, seed=0):
    return np.random.RandomState(seed).standard_normal((n, d))


def ring(n, seed=0):
    """Samples of a ring, for which a flow with a mixture as its base is chosen."""
    rng = np.random.RandomState(seed)
    radius = 1 + 0.05 * rng.standard_normal(n)
    angle = rng.uniform(0, 2 * np.pi, n)
    return np.c_[radius * np.cos(angle), radius * np.sin(angle)]


def varied(n, seed=0):
    """Samples with heavy tails, a bound at 0, discrete values, lumps and a constant."""
    rng = np.random.RandomState(seed)
    heavy = rng.standard_normal((n, 3)) / np.sqrt(rng.chisquare(2, (n, 1)) / 2)
    lumpy = np.floor(rng.standard_normal(n)) + 0.1 * rng.standard_normal(n)
    return np.c_[
        heavy, rng.exponential(size=n), rng.poisson(2, n), lumpy, np.full(n, 2.0)
    ]


X = moons().sample(1100, random_state=0)
FRAME = pd.DataFrame(X[:100], columns=["öst\n", 'nord"'])
ALL_MAPS = [Asinh(), MarginalMixtures(), Whitening(), Radial()]


def quick(**parameters):
    """A quick estimator whose transforms are selected."""
    return JKOFlowDensity(**{**QUICK, "transforms": "auto", **parameters})


def plain(**parameters):
    """A quick estimator with nothing but whitening in front of the blocks."""
    return quick(**{"transforms": None, "max_iter": 5, **parameters})


def untested(**parameters):
    """A quick estimator without a validation set."""
    return plain(early_stopping=False, **parameters)


# Estimators, what they are fitted to, and what else is given to `fit`.
CASES = {
    "no blocks": (plain(max_blocks=0), X[:100], {}),
    "two samples": (plain(), X[:2], {}),
    "validation split": (plain(max_blocks=1), X, {}),
    "cross-validated": (plain(), X[:150], {}),
    "validation samples given": (plain(), X[:200], {"X_val": X[200:300]}),
    "no validation": (untested(), X[:200], {}),
    "reparameterized and refined": (
        untested(schedule=JKOSchedule(n_refinements=2, n_reparameterizations=1)),
        X[:200],
        {},
    ),
    "refined and cross-validated": (
        plain(max_blocks=1, schedule=JKOSchedule(n_refinements=1)),
        X[:150],
        {},
    ),
    "no free block": (
        untested(schedule=JKOSchedule(step_size=0.3, free_block=False)),
        X[:50],
        {},
    ),
    "estimated divergence": (
        untested(
            solver=RungeKutta(
                n_steps=2, tol=0.1, divergence="finite_difference", n_probes=2
            )
        ),
        X[:50],
        {},
    ),
    "three layers": (untested(field=MLPField((6, 5, 4))), X[:100], {}),
    "one layer": (untested(field=MLPField((8,), activation="silu")), X[:100], {}),
    "affine": (untested(field=MLPField(())), X[:100], {}),
    "time-dependent": (
        untested(field=MLPField([8], "tanh", 2.0, time_dependent=True)),
        X[:100],
        {},
    ),
    "weighted": (untested(), X[:200], {"sample_weight": np.linspace(0, 1, 200)}),
    "names": (untested(), FRAME, {}),
    "polars": (untested(), pl.DataFrame({"a": X[:50, 0], "b": range(50)}), {}),
    "degenerate": (
        untested(),
        np.hstack([X[:100], np.ones((100, 1)), X[:100, :1]]),
        {},
    ),
    "constant": (plain(), np.ones((20, 2)), {}),
    "bounds, discrete values and tails": (
        quick(bounds={0: (None, 900), 2: (-9, np.inf)}, early_stopping=False),
        np.c_[np.sinh(2 * normal(150, 2)), normal(150, 1) ** 2, normal(150, 2) > 0],
        {},
    ),
    "steps given": (
        untested(discrete=[0.5, None], bounds=[None, (-9, None)]),
        np.c_[np.round(2 * X[:100, :1]) / 2, X[:100, 1:]],
        {},
    ),
    "integers": (untested(), np.random.RandomState(0).poisson(2, (100, 2)), {}),
    "five features": (untested(), normal(50, 5), {}),
    "one feature": (untested(), normal(50, 1), {}),
    "transforms by validation": (
        quick(max_blocks=0, init="mixture"),
        lumps()[:150, :2],
        {},
    ),
    "transforms given": (
        quick(
            init="mixture",
            transforms=ALL_MAPS,
            bounds={3: (0, None)},
            max_iter=60,
            random_state=1,
        ),
        varied(240, seed=2),
        {},
    ),
    "scaled": (untested(transforms=(Whitening("scale"),)), X[:150], {}),
    "mixture": (plain(init="mixture"), X, {}),
    "cross-validated mixture": (plain(init="mixture"), X[:150], {}),
    "mixture without validation": (untested(init="mixture"), X[:150], {}),
    "mixture as base": (
        quick(init="auto", transforms=None, random_state=4),
        ring(1100),
        {},
    ),
    "cross-validated mixture as base": (
        quick(init="auto", transforms=None, random_state=1),
        ring(300),
        {},
    ),
}


@pytest.fixture(scope="module")
def fitted():
    """Fit every case at most once."""
    known = {}

    def get(case):
        if case not in known:
            estimator, samples, more = CASES[case]
            known[case] = clone(estimator).fit(samples, **more)
        return copy.deepcopy(known[case])

    return get


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def saved_and_loaded(density, path, **more):
    density.save(path)
    return JKOFlowDensity.load(path, **more)


def attributes(estimator):
    """Parameters and fitted attributes of an estimator."""
    fitted = {k: v for k, v in vars(estimator).items() if k[0] != "_" and k[-1] == "_"}
    return {**estimator.get_params(deep=False), **fitted}


def assert_equal(a, b, where="estimator"):
    """Compare all that two objects are for their users: types and values."""
    assert type(a) is type(b), where
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype, where
        np.testing.assert_array_equal(a, b, err_msg=where)
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert a.device == b.device, where
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
    elif isinstance(a, (JKOFlowDensity, JKOFlowOutlierDetector)):
        assert_equal(attributes(a), attributes(b), where)
    elif hasattr(a, "get_state"):
        assert_equal(a.get_state(), b.get_state(), where)
    elif isinstance(a, BaseEstimator):
        assert_equal(vars(a), vars(b), where)
    elif isinstance(a, float) and math.isnan(a):
        assert math.isnan(b), where
    else:
        assert a == b, where


# ------------------------------------------------------------------- round trips


def test_attributes_and_parameters_come_back(fitted, case, path):
    density = fitted(case)
    assert_equal(saved_and_loaded(density, path), density)


def test_what_was_loaded_is_saved_as_it_was(fitted, case, path):
    loaded = saved_and_loaded(fitted(case), path)
    before = parts_of(path.read_bytes())
    loaded.save(path)
    assert_equal(parts_of(path.read_bytes()), before)


def test_use_is_the_same_bit_for_bit(fitted, case, path):
    density = fitted(case)
    loaded = saved_and_loaded(density, path)
    again = pickle.loads(pickle.dumps(loaded))
    samples, Z = density.sample(50, random_state=1), normal(20, density.n_features_in_)

    def arrays(model):
        methods = model.score_samples, model.transform, model.trajectory
        return [*(method(samples) for method in methods), model.inverse_transform(Z)]

    of_arrays, expected = arrays(density), density.sample(20, random_state=0)
    for other in (loaded, again):
        for found, one in zip(arrays(other), of_arrays, strict=True):
            np.testing.assert_array_equal(found, one)
        sample = other.sample(20, random_state=0)
        assert type(sample) is type(expected)
        if isinstance(sample, np.ndarray):
            assert sample.dtype == expected.dtype
        else:
            assert list(sample.dtypes) == list(expected.dtypes)
        np.testing.assert_array_equal(sample, expected)
        assert other.summary() == density.summary()
        assert_equal(clone(other), clone(density))
        with pytest.raises(NotFittedError):
            clone(other).sample()


def test_pickle_keeps_everything(fitted, case):
    density = fitted(case)
    assert_equal(pickle.loads(pickle.dumps(density)), density)


def test_cases_are_what_they_are_called(fitted):
    assert fitted("validation split").n_blocks_ == 1
    assert fitted("cross-validated").n_blocks_ > 0
    assert fitted("reparameterized and refined").n_blocks_ == 8
    rounds = [r.round for r in fitted("refined and cross-validated").history_]
    assert "refine" in rounds
    assert math.isinf(fitted("no validation").step_sizes_[-1])
    assert not math.isinf(fitted("no free block").step_sizes_[-1])
    assert fitted("degenerate").transforms_.n_degenerate_ == 2
    assert [fitted(c).n_blocks_ for c in ("no blocks", "two samples")] == [0, 0]
    kinds = {type(step) for step in fitted("transforms given").transforms_}
    assert {Asinh, MarginalMixtures, Radial, Whitening} <= kinds
    assert fitted("transforms by validation").transforms_.find(MarginalMixtures)
    assert fitted("bounds, discrete values and tails").transforms_.find(Asinh)
    for name in ("mixture", "cross-validated mixture", "mixture without validation"):
        assert fitted(name).transforms_.find(MixtureMap) is not None
    for name in ("mixture as base", "cross-validated mixture as base"):
        assert fitted(name).n_blocks_ == 1
        assert fitted(name).base_ is not None


@pytest.mark.parametrize(
    "case, more",
    [
        ("validation split", {"max_blocks": 2}),
        ("cross-validated", {"max_blocks": 3}),
        ("no validation", {"schedule": JKOSchedule(n_refinements=1)}),
        ("reparameterized and refined", {"max_blocks": 3}),
        ("transforms given", {"max_blocks": 3}),
        ("cross-validated mixture", {"max_blocks": 3}),
        ("mixture without validation", {"max_blocks": 3}),
        ("cross-validated mixture as base", {"max_blocks": 3}),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_fit_goes_on_from_a_file(fitted, case, more, path):
    density = fitted(case)
    if case == "reparameterized and refined":
        more = {**more, "schedule": density.schedule}
    loaded = saved_and_loaded(density, path)
    samples = CASES[case][1]
    density.set_params(warm_start=True, **more).fit(samples)
    # In another layout: the same values are the same data.
    loaded.set_params(warm_start=True, **more).fit(np.asfortranarray(samples))
    np.testing.assert_array_equal(
        loaded.score_samples(samples), density.score_samples(samples)
    )
    assert_equal(loaded, density)
    assert len(loaded.history_) > len(fitted(case).history_)


def test_a_fit_goes_on_from_a_file_only_with_the_same_samples(fitted, path):
    loaded = saved_and_loaded(fitted("no validation"), path)
    loaded.set_params(warm_start=True, max_blocks=3)
    with pytest.raises(ValueError, match="same samples"):
        loaded.fit(X[:70])


def test_a_fit_that_went_on_is_saved(fitted, path):
    density = fitted("cross-validated")
    density.set_params(warm_start=True, max_blocks=4).fit(X[:150])
    assert_equal(saved_and_loaded(density, path), density)


def test_parameters_may_be_numpys(path):
    density = quick(
        max_blocks=np.int64(1),
        learning_rate_init=np.float32(0.03),
        early_stopping=np.bool_(False),
        transforms=None,
        field=MLPField(np.array([4, 4]), np.str_("tanh"), np.float64(2.0)),
        schedule=JKOSchedule(step_size=np.float32(0.3), free_block=np.bool_(False)),
        discrete=np.array([0.0, 0.0]),
    ).fit(X[:50])
    loaded = saved_and_loaded(density, path)
    found, expected = loaded.get_params(), density.get_params()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if not isinstance(value, BaseEstimator):
            np.testing.assert_array_equal(found[name], value, err_msg=name)
    np.testing.assert_array_equal(loaded.score_samples(X), density.score_samples(X))


@pytest.mark.parametrize("random_state", [None, 2**32 - 1])
def test_random_state_as_it_is(random_state, path):
    density = plain(max_blocks=0, random_state=random_state).fit(X[:50])
    assert saved_and_loaded(density, path).random_state == random_state


def test_a_random_state_instance_goes_on_where_it_was(path):
    rng = np.random.RandomState(3)
    rng.standard_normal()  # Keeps a second number back.
    density = plain(max_blocks=0, random_state=rng).fit(X[:50])
    assert rng.get_state()[3] == 1
    loaded = saved_and_loaded(density, path)
    expected = rng.standard_normal(1000)
    np.testing.assert_array_equal(loaded.random_state.standard_normal(1000), expected)


def test_other_generators_are_refused(path):
    rng = np.random.RandomState(np.random.PCG64(0))
    density = plain(max_blocks=0, random_state=rng).fit(X[:50])
    with pytest.raises(ValueError, match=r"cannot be saved.*random_state.*PCG64"):
        density.save(path)
    assert not path.exists()


@pytest.mark.parametrize("container", ["default", "pandas", "polars"])
def test_output_container_stays(fitted, container, path):
    density = fitted("names").set_output(transform=container)
    found, expected = (
        one.transform(FRAME) for one in (saved_and_loaded(density, path), density)
    )
    assert type(found) is type(expected)
    np.testing.assert_array_equal(found, expected)


def test_a_missing_folder_is_named(path):
    folder = path.parent / "missing"
    with pytest.raises(FileNotFoundError, match=r"no such folder.*missing'$"):
        plain(max_blocks=0).fit(X[:50]).save(folder / "model.safetensors")
    assert not folder.exists()


@pytest.mark.parametrize("compress", [None, zlib.compress, gzip.compress])
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_a_pickle_is_called_so(compress, protocol, path):
    content = pickle.dumps(plain(), protocol)
    path.write_bytes(compress(content) if compress else content)
    with pytest.raises(ValueError, match="it is a pickle, of pickle or joblib"):
        JKOFlowDensity.load(path)


def test_names_that_json_has_to_escape(path):
    names = ["\ud800", 'a"\\', "\0", "", "名"]
    frame = pd.DataFrame(normal(20, 5), columns=pd.Index(names, dtype=object))
    loaded = saved_and_loaded(plain(max_blocks=0).fit(frame), path)
    assert list(loaded.feature_names_in_) == names


def test_weights_that_are_no_float32_are_kept(fitted, path):
    density = fitted("validation split")
    weight = density.flow_.blocks[0].field.out_weight
    weight += 1e-12 * weight
    loaded = saved_and_loaded(density, path)
    np.testing.assert_array_equal(loaded.score_samples(X), density.score_samples(X))


def test_a_device_that_is_not_here(fitted, path):
    density = fitted("validation split").set_params(device="cuda")
    loaded = saved_and_loaded(density, path)
    assert loaded.device == "cuda"
    if not torch.cuda.is_available():
        np.testing.assert_array_equal(loaded.score_samples(X), density.score_samples(X))
    assert {p.device.type for p in loaded.flow_.parameters()} == {"cpu"}


def test_size_is_that_of_the_weights(path):
    density = untested(
        field=MLPField((64, 64)), max_blocks=3, max_iter=3, random_state=0
    ).fit(normal(100, 20))
    density.save(path)
    n_weights = sum(p.numel() for p in density.flow_.parameters())
    # Four bytes a weight, eight a number of the whitening; a kilobyte for a block's
    # names and shapes of arrays; eight kilobytes of parameters and history.
    bound = 4 * n_weights + 8 * 20 * 23 + 3 * 2 * 600 + 8000
    assert 4 * n_weights < path.stat().st_size < bound < 1.35 * 4 * n_weights


def test_saving_and_loading_leave_global_state_alone(fitted, path):
    density = fitted("reparameterized and refined")
    before, state = pickle.dumps(density), process_state()
    loaded = saved_and_loaded(density, path)
    assert process_state() == state
    assert pickle.dumps(density) == before
    assert_equal(loaded, density)


def test_other_libraries_can_read_the_file(fitted, path):
    density = fitted("validation split")
    density.save(path)
    with safe_open(path, "np") as file:
        metadata = file.metadata()
        name = next(n for n in file.keys() if n.endswith("out_weight"))  # noqa: SIM118
        weight = file.get_tensor(name)
    assert metadata["kind"] == "JKOFlowDensity"
    assert metadata["format_version"] == str(FORMAT_VERSION)
    assert place(json.loads(metadata["model"]), "state", "params", "max_blocks") == 1
    expected = density.flow_.blocks[0].field.out_weight
    np.testing.assert_array_equal(weight, expected)


def test_only_fitted_estimators_are_saved(path):
    with pytest.raises(NotFittedError):
        quick().save(path)
    assert not path.exists()


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda d: d.set_params(alpha=math.nan), "'alpha'"),
        (lambda d: d.set_params(field=Bent), "Bent"),
        (lambda d: d.set_params(max_iter=-1), "'max_iter'"),
        (lambda d: d.set_params(field=MLPField(activation="sine")), "'activation'"),
        (lambda d: setattr(d.flow_.blocks[0], "radius", math.nan), "block"),
        (lambda d: d.flow_.blocks[0].field.out_bias.fill_(math.nan), "finite"),
        (lambda d: setattr(d.flow_.blocks[0], "field", BentModule()), "weights"),
        (lambda d: d.transforms_.find(Whitening).deviation_.fill(0.0), "whitening"),
    ],
)
def test_what_cannot_be_loaded_is_not_saved(fitted, path, damage, message):
    density = fitted("validation split")
    damage(density)
    with pytest.raises(ValueError, match=f"This JKOFlowDensity cannot be.*{message}"):
        density.save(path)
    assert not list(path.parent.iterdir())


# ------------------------------------------------------------------- own classes


class BentModule(nn.Module):
    """Velocities with a parameter, a buffer and a constant tensor that is neither."""

    def __init__(self, n_features=2, strength=1.0):
        super().__init__()
        self.strength = strength
        self.matrix = nn.Parameter(torch.zeros(n_features, n_features))
        self.register_buffer("offset", torch.linspace(0.1, 0.3, n_features))
        self.signs = torch.tensor([1.0, -1.0]).repeat(n_features)[:n_features]

    def forward(self, t, x, context=None):
        signs = self.strength * self.signs.to(x)
        return (torch.tanh(x - self.offset) * signs) @ self.matrix.T


class Bent(VelocityField):
    """A field that the library does not know."""

    def __init__(self, strength=1.0):
        self.strength = strength

    def build(self, n_features, generator=None):
        return BentModule(n_features, self.strength)


class Shifted(Transform):
    """A transform that the library does not know."""

    def __init__(self, power=2.0):
        self.power = power

    def fit(self, X, sample_weight=None):
        self.n_features_in_ = X.shape[1]
        self.shift_ = X.mean(axis=0)
        self.label_, self.ranges_ = (
            "shift",
            [(float(x.min()), float(x.max())) for x in X.T],
        )
        return self

    def forward(self, X):
        log_det = np.full(len(X), X.shape[1] * math.log(self.power))
        return self.power * (X - self.shift_), log_det

    def inverse(self, Y):
        return Y / self.power + self.shift_


class Sheared(Transform):
    """Another one."""

    def fit(self, X, sample_weight=None):
        self.n_features_in_ = X.shape[1]
        return self

    def forward(self, X):
        return np.cumsum(X, axis=1), np.zeros(len(X))

    def inverse(self, Y):
        return np.diff(Y, axis=1, prepend=0.0)


OWN = {
    "field": ({"field": Bent(3.0)}, (Bent,)),
    "transform": ({"transforms": [Shifted()]}, (Shifted,)),
    "transforms": ({"transforms": (Shifted(3.0), Sheared())}, (Shifted, Sheared)),
    "transform in a chain": (
        {"transforms": [Chain([Sheared(), Whitening()])]},
        (Sheared,),
    ),
    "both": (
        {"field": Bent(), "transforms": [Shifted(), Asinh()]},
        (Bent, Shifted),
    ),
}


@pytest.fixture(scope="module")
def own():
    """Fit every case of own classes at most once, to few samples or to more."""
    known = {}

    def get(name, n=60):
        if (name, n) not in known:
            settings = {**OWN[name][0], "max_blocks": 1, "max_iter": 3}
            estimator = quick(**settings, early_stopping=n == 1000, random_state=1)
            known[name, n] = estimator.fit(X[:n])
        return copy.deepcopy(known[name, n])

    return get


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("n", [60, 1000])
def test_own_classes_come_back(name, n, own, path):
    density, classes = own(name, n), OWN[name][1]
    loaded = saved_and_loaded(density, path, classes=classes)
    assert density.n_blocks_ == 1
    assert_equal(loaded, density)
    for method in ("score_samples", "transform", "trajectory"):
        np.testing.assert_array_equal(
            getattr(loaded, method)(X[:50]), getattr(density, method)(X[:50])
        )
    np.testing.assert_array_equal(
        loaded.sample(9, random_state=0), density.sample(9, random_state=0)
    )
    # It can be saved again, and pickled.
    before = parts_of(path.read_bytes())
    loaded.save(path)
    assert_equal(parts_of(path.read_bytes()), before)
    assert_equal(pickle.loads(pickle.dumps(loaded)), density)
    # More classes than needed do no harm.
    JKOFlowDensity.load(path, classes=[Bent, Shifted, Sheared])


@pytest.mark.parametrize("name", ["both", "transform in a chain"])
def test_a_fit_with_own_classes_goes_on_from_a_file(name, own, path):
    density = own(name)
    loaded = saved_and_loaded(density, path, classes=OWN[name][1])
    for one in (density, loaded):
        one.set_params(warm_start=True, max_blocks=2).fit(X[:60])
    assert density.n_blocks_ == 2
    assert_equal(loaded, density)


@pytest.mark.parametrize("name", OWN)
def test_own_classes_are_refused_unless_named(name, own, path):
    classes = OWN[name][1]
    own(name).save(path)
    for missing in classes:
        others = [one for one in classes if one is not missing]
        message = f"Cannot load .*no class '{missing.__name__}' that may be loaded"
        with pytest.raises(ValueError, match=message):
            JKOFlowDensity.load(path, classes=others)


def test_a_class_of_the_same_name_with_other_parameters_is_refused(own, path):
    own("field").save(path)
    Other = type("Bent", (VelocityField,), {"build": Bent.build})
    with pytest.raises(ValueError, match=r"Cannot load .*Bent"):
        JKOFlowDensity.load(path, classes=[Other])


class Resolved(VelocityField):
    """A field that decides by the data which other one it is."""

    def resolve(self, n_samples, n_features):
        return Bent(float(n_features))


def test_an_own_field_may_become_another_one(path):
    density = quick(field=Resolved(), max_iter=2, early_stopping=False).fit(X[:60])
    loaded = saved_and_loaded(density, path, classes=[Resolved, Bent])
    assert_equal(loaded, density)
    np.testing.assert_array_equal(loaded.score_samples(X), density.score_samples(X))


def test_info_is_that_of_what_is_loaded(fitted, case, path):
    density = fitted(case)
    density.save(path)
    found = file_info(path)
    assert found["class"] == "JKOFlowDensity"
    assert found["is_complete"]
    assert found["n_bytes"] == path.stat().st_size
    assert found["step_sizes"] == density.step_sizes_.tolist()
    assert found["transforms"] == [type(one).__name__ for one in density.transforms_]
    assert found["base"] == (density.base_ and type(density.base_).__name__)
    assert len(found["features"]) == density.n_features_in_
    assert [r.split()[0] for r in found["rounds"]] == [
        r.round for r in density.history_
    ]
    scores = density.validation_scores_
    assert found["validation_score"] == (None if scores is None else scores[-1])
    assert found["parameters"]["max_blocks"] == density.max_blocks
    json.dumps(found)


def test_info_of_a_detector(path):
    fitted = detector()
    fitted.save(path)
    found = file_info(path)
    assert found["class"] == "JKOFlowOutlierDetector"
    assert found["threshold"] == fitted.offset_
    assert found["n_calibration"] == len(fitted.calibration_scores_)
    assert found["statistic"] == "typicality"
    assert found["step_sizes"] == fitted.density_.step_sizes_.tolist()
    assert [f["name"] for f in found["features"]] == ["a", "b"]
    assert found["container"] == "pandas"
    assert found["parameters"]["density"]["max_iter"] == 5


# ------------------------------------------------------------------- damaged files


def detector():
    """A quick detector with names and calibration scores."""
    return JKOFlowOutlierDetector(
        density=JKOFlowDensity(
            init="gaussian",
            transforms=None,
            field=MLPField((6, 4), "silu"),
            max_blocks=1,
            max_iter=5,
            batch_size=100,
            early_stopping=False,
        ),
        statistic="typicality",
        calibration_fraction=0.2,
        random_state=np.random.RandomState(0),
    ).fit(pd.DataFrame(X[:150], columns=["a", "b"]))


# Files of all kinds have to withstand the same.
KINDS = {
    "density with a base": JKOFlowDensity,
    "density with transforms": JKOFlowDensity,
    "detector": JKOFlowOutlierDetector,
}


@pytest.fixture(scope="module")
def whole(fitted, tmp_path_factory):
    """The bytes of a file of every kind."""
    path = tmp_path_factory.mktemp("whole") / "file"

    def get(kind):
        if kind == "detector":
            detector().save(path)
        else:
            named = kind.replace("density with", "")
            case = {
                " a base": "cross-validated mixture as base",
                " transforms": "transforms given",
            }[named]
            fitted(case).save(path)
        return path.read_bytes()

    return {kind: get(kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def header_of(content):
    """Return the parsed header of a file, and the bytes behind it."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def with_header(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def parts_of(content):
    """Return the model and the arrays of a file."""
    model = header_of(content)[0]["__metadata__"]["model"]
    return json.loads(model), load_arrays(content)


def of_parts(cls, model, arrays):
    """Return a file of a model and arrays, with the right checksum."""
    return file_format.dump(cls.__name__, FORMAT_VERSION, model, arrays)


def refused(content, path, match="Cannot load", cls=JKOFlowDensity):
    """Load some bytes, which has to fail in the one way there is."""
    path.write_bytes(content)
    with pytest.raises(ValueError, match=match) as caught:
        cls.load(path)
    assert str(path) in str(caught.value)


def loaded_or_none(content, path, cls):
    """Load some bytes, or be refused in the one way there is."""
    path.write_bytes(content)
    try:
        return cls.load(path)
    except ValueError as error:
        if str(path) not in str(error):
            raise
        return None


def described_or_none(path):
    """What a file says of itself, or None if that is refused in the one way."""
    try:
        return file_info(path)
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
def test_damage_is_noticed(mutate, kind, whole, path):
    rng, cls, content = np.random.RandomState(0), KINDS[kind], whole[kind]
    path.write_bytes(content)
    expected = cls.load(path)
    n_loaded = 0
    for _ in range(200):
        loaded = loaded_or_none(mutate(content, rng), path, cls)
        if loaded is not None:
            # White space in the header, or nothing changed at all.
            assert_equal(loaded, expected)
            n_loaded += 1
    assert n_loaded < 6


@pytest.mark.parametrize("mutate", [flipped, flipped_in_header, truncated, spliced])
def test_info_of_damage_is_refused_or_a_description(mutate, kind, whole, path):
    rng, content, n_refused = np.random.RandomState(0), whole[kind], 0
    for _ in range(200):
        path.write_bytes(mutate(content, rng))
        found = described_or_none(path)
        if found is None:
            n_refused += 1
            continue
        assert found["n_bytes"] == path.stat().st_size
        assert found["is_complete"] == (mutate is not truncated) or mutate is spliced
    assert n_refused > 0


def test_every_bit_counts(kind, whole, path):
    """Some bits of the metadata, and some of every array."""
    content = whole[kind]
    header, data = header_of(content)
    start = content.index(b"__metadata__")
    first = next(name for name in header if name != "__metadata__")
    stop = content.index(f'"{first}":'.encode(), start)
    assert stop - start > 1000
    n_before = len(content) - len(data)
    places = [*range(start, stop, 53), *range(n_before, len(content), 59)]
    for i in places:
        damaged = bytearray(content)
        damaged[i] ^= 1 << (i % 8)
        refused(bytes(damaged), path, cls=KINDS[kind])


NUMBERS = [
    None,
    True,
    False,
    -1,
    0,
    1,
    3,
    2**31,
    2**53,
    10**18,
    0.5,
    -0.5,
    1e308,
    5e-324,
]
STRINGS = ["", "x", "JKOFlowDensity", "mlp", "cuda:99", "__import__('os')", "pandas"]
STRUCTURES = [
    *([], [1], [[]], {}, [None, None], {"tuple": [8, 8]}, {"tuple": 8}, {"tuple": []}),
    *({"float": "inf"}, {"float": "nan"}, {"float": "1"}, {"float": []}),
    *({"array": "x"}, {"array": 1}, {"array": []}, {"list": []}, {"more": 1}),
    *({"dict": []}, {"dict": {}}, {"dict": [[]]}, {"dict": [[1, 2]]}),
    *({"dict": [["a", 1], ["a", 1]]}, {"dict": [[[], 1]]}, {"dict": [[{}, 1]]}),
    *({"object": "MLPField", "state": {"dict": []}}, {"object": "Chain", "state": 1}),
    *({"object": "os.system", "state": {"dict": []}}, {"object": [], "state": {}}),
    {"object": "Chain", "state": {"dict": [["steps", []]]}},
    {"object": "Whitening", "state": {"dict": [["params", {"dict": []}]]}},
    {"random_state": 0, "keys": {"array": "x"}, "gauss": [0, 0.0]},
    {"random_state": 9, "keys": None, "gauss": []},
]
NASTY = [*NUMBERS, *STRINGS, *STRUCTURES]


def places_in(value, at=()):
    """Yield the path to everything inside nested dicts and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*at, key)
        if isinstance(inner, (dict, list)):
            yield from places_in(inner, (*at, key))


def edit_model(model, rng):
    """Delete, double, move or replace something of a model, at random."""
    places = list(places_in(model))
    *at, last = places[rng.randint(len(places))]
    parent = model
    for key in at:
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
    """Delete, double, swap, convert or change one of the arrays, at random."""
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
        dtypes = [np.float32, np.float64, np.int64, np.uint32, np.uint8]
        with np.errstate(invalid="ignore", over="ignore"):
            arrays[name] = array.astype(dtypes[rng.randint(5)])
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


def use(estimator, path):
    """Call the methods of a loaded estimator that could come upon what is wrong."""
    samples = normal(3, estimator.n_features_in_)
    if hasattr(estimator, "feature_names_in_"):
        samples = pd.DataFrame(samples, columns=estimator.feature_names_in_)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        scores = estimator.score_samples(samples)
        assert scores.shape == (3,)
        if isinstance(estimator, JKOFlowOutlierDetector):
            assert estimator.explain(samples).shape == samples.shape
            assert estimator.predict(samples).shape == (3,)
        else:
            assert estimator.sample(2, random_state=0).shape == (2, samples.shape[1])
            Z = np.zeros((2, samples.shape[1]))
            assert estimator.inverse_transform(Z).shape == Z.shape
            assert estimator.summary()
        repr(estimator)
        # What it is, it stays.
        again = saved_and_loaded_as(type(estimator), estimator, path)
        assert_equal(again, estimator)
        np.testing.assert_array_equal(again.score_samples(samples), scores)


def saved_and_loaded_as(cls, estimator, path):
    estimator.save(path)
    return cls.load(path)


@pytest.mark.parametrize("edit", [edit_model, edit_arrays])
@pytest.mark.parametrize("n", [20, pytest.param(60, marks=pytest.mark.slow)])
def test_edited_files_with_the_right_checksum_are_refused_or_work(
    edit, n, kind, whole, path
):
    cls, rng, n_loaded = KINDS[kind], np.random.RandomState(n), 0
    text = header_of(whole[kind])[0]["__metadata__"]["model"]
    original = load_arrays(whole[kind])
    for _ in range(n):
        model, arrays = json.loads(text), dict(original)
        for _ in range(rng.choice([1, 1, 2])):
            edit(model if edit is edit_model else arrays, rng)
        loaded = loaded_or_none(of_parts(cls, model, arrays), path, cls)
        if loaded is not None:
            use(loaded, path)
            n_loaded += 1
    assert n_loaded < 0.5 * n


def place(value, *keys):
    """Return what is at some place of a packed state."""
    for key in keys:
        value = entries(value)[key]
    return value


def entries(value):
    """What a packed object, dict or tuple is made of, by names or numbers."""
    if isinstance(value, dict) and "object" in value:
        value = value["state"]
    if isinstance(value, dict) and "dict" in value:
        return dict(value["dict"])
    return value["tuple"] if isinstance(value, dict) and "tuple" in value else value


def to(*keys, value):
    """Return what changes the entry at some place of a packed state."""

    def change(model, arrays):
        *parents, last = keys
        parent = place(model["state"], *parents)
        if isinstance(parent, dict) and "object" in parent:
            parent = parent["state"]
        if isinstance(parent, dict) and "dict" in parent:
            pairs = [pair for pair in parent["dict"] if pair[0] == last]
            if pairs:
                pairs[0][1] = value
            else:
                parent["dict"].append([last, value])
        else:
            entries(parent)[last] = value

    return change


def without(*keys):
    """Return what removes the entry at some place of a packed state."""

    def change(model, arrays):
        *parents, last = keys
        parent = place(model["state"], *parents)
        if isinstance(parent, dict) and "object" in parent:
            parent = parent["state"]
        parent["dict"] = [pair for pair in parent["dict"] if pair[0] != last]

    return change


def array_to(name, value):
    """Return what changes an array."""

    def change(model, arrays):
        assert name in arrays
        arrays[name] = value

    return change


def edited(content, change, cls=JKOFlowDensity):
    """A file with one change to its model and arrays, and the right checksum."""
    model, arrays = parts_of(content)
    change(model, arrays)
    return of_parts(cls, model, arrays)


@pytest.mark.parametrize(
    "change, message",
    [
        (to("table", "container", value=3), "its container is '3'"),
        (to("fitted", "base_scores", value=["high"]), "its validation_score is 'high'"),
        (
            to("fitted", "model", "transforms", "steps", 0, value={"class": 1}),
            "odd|its",
        ),
    ],
)
def test_info_says_nothing_of_another_type(change, message, whole, path):
    kind = "density with a base"
    path.write_bytes(edited(whole[kind], change, KINDS[kind]))
    with pytest.raises(ValueError, match=message):
        file_info(path)


BLOCK = "model.blocks.0"
OUT = f"{BLOCK}.weights.out_weight"
FITTED = "model.fitted.model"
FOLD, LINEAR = ("fitted", "folds", 0, 1, 0), "model.fitted.folds.1.1.0.weights.linear"
CHAIN = ("fitted", "model", "transforms", "steps")
WHITENING = f"{FITTED}.transforms.steps.0.fitted"
MAP = f"{FITTED}.transforms.steps.2.fitted"


@pytest.mark.parametrize(
    "change, message",
    [
        (to("field", "hidden_layer_sizes", value=[2**15, 2**15]), "shape"),
        (to("field", "hidden_layer_sizes", value=[2**31 - 2] * 3), "MLPField"),
        (to("field", "hidden_layer_sizes", value=[10**18]), "MLPField|weights"),
        (to("field", "hidden_layer_sizes", value=[8, -4]), "hidden_layer_sizes"),
        (to("field", "hidden_layer_sizes", value=[8, 8, 8]), "weights"),
        (to("field", "activation", value="os.system"), "'activation'"),
        (to("field", "more", value=1), "MLPField is incomplete"),
        (without("field", "activation"), "MLPField is incomplete"),
        (to("field", value=None), "field .*missing"),
        (to("blocks", 0, "n_steps", value=10**9), "numbers of a block"),
        (to("blocks", 0, "n_steps", value=-2), "numbers of a block"),
        (to("blocks", 0, "radius", value=-1.0), "numbers of a block"),
        (to("blocks", 0, "radius", value={"float": "inf"}), "numbers of a block"),
        (to("blocks", 0, "interval", value=[0.0, 2.0]), "numbers of a block"),
        (to("blocks", 0, "step_size", value=0.25), "last accepted round"),
        (to("blocks", value=[]), "belongs to nothing"),
        (to("blocks", 0, "weights", "out_bias", value=None), "weight"),
        (to("blocks", 0, "weights", "out_bias", value="x"), "weight"),
        (to("blocks", 0, "weights", "out_bias", value=[0.0, "x"]), "weight"),
        (to("errors", value=[]), "errors of the solver"),
        (to("errors", 0, value=[1.0]), "Discretization|errors"),
        (to("n_features_in", value=10**9), "columns|features"),
        (to("n_features_in", value=True), "features"),
        (to("feature_names_in", value=["a", "b", 3]), "names"),
        (to("fitted", "rounds", 0, "n_minibatches", value=-1), "'n_minibatches'"),
        (to("fitted", "rounds", 0, "n_kept", value=-1), "'n_kept'"),
        (to("fitted", "rounds", 0, "accepted", value=1), "'accepted'"),
        (to("fitted", "rounds", value=[]), "last accepted round|scores"),
        (to("fitted", "start", value="middle"), "fit together"),
        (to("fitted", "base_scores", value=[0.0]), "validation scores"),
        (to("fitted", "base_scores", value=[]), "validation scores"),
        (to("fitted", "folds", value=[1]), "folds|state"),
        (to("fitted", "more", value=1), "Fitted is none"),
        (to("params", "n_jobs", value=4), "no parameter 'n_jobs'"),
        (to("params", "max_blocks", value=-1), "'max_blocks'"),
        (to("params", "device", value="toaster"), "'device'"),
        (to("params", value=None), "parameters"),
        (to("fitted", "parameters", "n_jobs", value=4), "no parameter 'n_jobs'"),
        (to("transform_output", value="exec"), "output of transform"),
        (to("table", "container", value="os"), "table"),
        (to("table", "dtypes", value=["float64", "object"]), "types of the columns"),
        (to("table", "names", value=["a", "b"]), "names of the table"),
        (array_to(OUT, np.full((2, 8), np.nan)), "not finite"),
        (array_to(OUT, np.ones((2, 8), dtype=np.int64)), "dtype|weight"),
        (array_to(OUT, np.ones((8, 2))), "shape"),
        (lambda model, arrays: arrays.pop(OUT), f"'{OUT}' is missing"),
        (lambda model, arrays: arrays.update(a=np.ones(1)), "'a' belongs to nothing"),
        (array_to(f"{FITTED}.support.lower", np.full(2, np.inf)), "bounds"),
        (array_to(f"{FITTED}.support.grid.step", -np.ones(2)), "discrete grid"),
        (array_to(f"{FITTED}.support.grid.step", np.ones(3)), "discrete grid"),
        (to(*CHAIN, 0, "fitted", "n_degenerate_", value=4), "whitening"),
        (to(*CHAIN, 0, "fitted", "n_degenerate_", value=1), "fit together|weight"),
        (to(*CHAIN, 0, "fitted", "n_features_in_", value=3), "whitening"),
        (to(*CHAIN, 0, "fitted", "_components", value=3), "no fitted attribute"),
        (to(*CHAIN, 0, "fitted", "__class__", value=3), "no fitted attribute"),
        (to(*CHAIN, 0, "fitted", "fit", value=3), "no fitted attribute"),
        (without(*CHAIN, 0, "fitted", "mean_"), "Whitening is none"),
        (to(*CHAIN, value=[]), "fit together|belongs to nothing"),
        (
            array_to(f"{FITTED}.transforms.steps.0.fitted.vectors_", np.ones((2, 2))),
            "w",
        ),
        (
            array_to(f"{FITTED}.transforms.steps.0.fitted.scale_", -np.ones(2)),
            "whiteni",
        ),
        (
            to("fitted", "model", "base", "steps", 0, "object", value="Radial"),
            "incomplete",
        ),
    ],
)
def test_hostile_states_are_refused(change, message, whole, path):
    content = edited(whole["density with a base"], change)
    refused(content, path, f"(?s)Cannot load .*({message})")


@pytest.mark.parametrize(
    "change, message",
    [
        (array_to("weights_", np.full(9, 0.2)), "mixture"),
        (array_to("weights_", np.eye(9)[0]), "mixture"),
        (array_to("weights_", np.ones(0)), "mixture"),
        (array_to("means_", np.full((9, 2), np.inf)), "mixture"),
        (array_to("means_", np.full((9, 2), 1e300)), "mixture"),
        (array_to("factors_", np.ones((9, 2, 2))), "mixture"),
        (array_to("factors_", -np.tile(np.eye(2), (9, 1, 1))), "mixture"),
        (array_to("factors_", np.ones((9, 3, 3))), "mixture"),
    ],
)
def test_hostile_mixtures_are_refused(change, message, whole, path):
    model, arrays = parts_of(whole["density with a base"])
    prefix = f"{FITTED}.base.steps.0.fitted."
    some = {name: arrays[prefix + name] for name in ("weights_", "means_", "factors_")}
    change(model, some)
    arrays.update({prefix + name: array for name, array in some.items()})
    content = of_parts(JKOFlowDensity, model, arrays)
    refused(content, path, f"Cannot load .*{message}")


@pytest.mark.parametrize(
    "change, message",
    [
        (array_to(f"{MAP}.columns_", np.array([0, 7])), "marginal mixtures"),
        (array_to(f"{MAP}.columns_", np.array([0])), "marginal mixtures"),
        (array_to(f"{MAP}.width_", np.zeros(2)), "marginal mixtures"),
        (array_to(f"{MAP}.maps_.0.fitted.weights_", np.full(9, 0.2)), "mixture"),
        (array_to(f"{MAP}.maps_.0.fitted.means_", np.zeros((9, 2))), "mixture"),
        (to(*CHAIN, 2, "fitted", "maps_", value=[]), "marginal|nothing"),
        (to(*CHAIN, 2, "fitted", "maps_", value=None), "marginal|nothing|none"),
        (to(*CHAIN, 2, "fitted", "n_degenerate_", value=1), "fit together|attribute"),
        (to(*CHAIN, 4, "fitted", "radius_", value=-1.0), "not positive"),
        (to(*CHAIN, 4, "fitted", "scale_", value=0.0), "not positive"),
        (to(*CHAIN, 4, "fitted", "scale_", value={"float": "inf"}), "not positive"),
        (to(*CHAIN, 4, "fitted", "radius_", value=None), "Radial|radial"),
        (to(*CHAIN, 4, "fitted", "n_features_in_", value=7), "fit together"),
        (to(*CHAIN, 3, value=None), "no transform|nothing"),
        (to("fitted", "folds", 0, value={"tuple": []}), "folds|nothing|none"),
        (to("fitted", "folds", 0, 1, 0, "n_steps", value=-1), "numbers of a block"),
        (to("fitted", "folds", 0, 1, 0, "step_size", value=0.1), "accepted round"),
        (
            to("fitted", "folds", 0, 1, 0, "weights", "linear", value=None),
            "weight|noth",
        ),
        (array_to("model.fitted.folds.1.1.0.weights.linear", np.ones((5, 5))), "shape"),
        (
            array_to(
                "model.fitted.folds.1.1.0.weights.linear", np.full((6, 6), np.nan)
            ),
            "f",
        ),
    ],
)
def test_hostile_transforms_and_folds_are_refused(change, message, whole, path):
    content = edited(whole["density with transforms"], change)
    refused(content, path, f"Cannot load .*({message})")


def test_no_checksum_no_model(whole, path):
    header, data = header_of(whole["detector"])
    cls = JKOFlowOutlierDetector
    for name in ("sha256", "model", "kind", "format_version"):
        changed = copy.deepcopy(header)
        del changed["__metadata__"][name]
        refused(with_header(changed, data), path, "metadata", cls)
    changed = copy.deepcopy(header)
    changed["__metadata__"]["more"] = ""
    refused(with_header(changed, data), path, "metadata", cls)
    changed = copy.deepcopy(header)
    changed["__metadata__"]["model"] += " "
    refused(with_header(changed, data), path, "checksum", cls)
    del changed["__metadata__"]
    refused(with_header(changed, data), path, "metadata", cls)


@pytest.mark.parametrize(
    "version, message",
    [
        (str(FORMAT_VERSION + 1), f"version {FORMAT_VERSION + 1}, .* newer skjko"),
        ("", "format_version"),
        ("²", "format_version"),
    ],
)
def test_other_versions_are_named(version, message, whole, path):
    header, data = header_of(whole["density with a base"])
    header["__metadata__"]["format_version"] = version
    refused(with_header(header, data), path, message)


@pytest.mark.parametrize("cls", [JKOFlowDensity, JKOFlowOutlierDetector])
def test_other_kinds_are_named(cls, whole, path):
    content = file_format.dump("Forest", 1, {}, {"tree": np.ones(1)})
    refused(content, path, "holds a Forest, not a JKOFlow", cls)
    for kind, other in KINDS.items():
        if other is not cls:
            message = f"holds a {other.__name__}, not a {cls.__name__}"
            refused(whole[kind], path, message, cls)


def with_text(text, arrays):
    """A file with some text in place of the model, and the right checksum."""
    metadata = {"format_version": "1", "kind": "JKOFlowDensity", "model": text}
    metadata["sha256"] = file_format._digest(metadata, arrays)
    return save_arrays(arrays, metadata)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "JSON"),
        ("[]", "no object"),
        ("null", "no object"),
        ("{}", "no state"),
        ('{"state": {}, "more": 1}', "no state"),
        ('{"state": null}', "state|nothing"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "Infinity"),
        ('{"a": 1e999}', "1e999"),
        ('{"a": 1' + "0" * 10**5 + "}", "100001 digits"),
        ('{"a": 1, "a": 1}', "twice"),
        ('{"a": ' + "[" * 10**5 + "]" * 10**5 + "}", "nested too deeply"),
        ('{"state": ' + "[" * 500 + "]" * 500 + "}", "nested too deeply"),
        ('{"state": ' + '{"tuple": [' * 300 + "]}" * 300 + "}", "nested too deeply"),
        ('{"state": ' + '{"dict": [[1, ' * 90 + "1" + "]]}" * 90 + "}", "too deeply"),
        ("{'a': 1}", "JSON"),
    ],
    ids=range(16),
)
def test_json_is_read_strictly(text, message, whole, path):
    _, arrays = parts_of(whole["density with a base"])
    refused(with_text(text, arrays), path, f"Cannot load .*({message})")


def test_headers_are_read_strictly(whole, path):
    content = whole["density with a base"]
    header, data = header_of(content)
    first = next(name for name in header if name != "__metadata__")
    text = json.dumps(header).encode()
    name = json.dumps(first).encode()
    twice = text.replace(b'"__metadata__"', name + b': 1, "__metadata__"', 1)
    refused(with_header(twice, data), path)
    entry = json.dumps(header[first]).encode()
    twice = text[:-1] + b", " + name + b": " + entry + b"}"
    refused(with_header(twice, data), path, "twice|safetensors")
    for change in (
        {"dtype": "BF16"},
        {"dtype": "I32"},
        {"dtype": "BOOL"},
        {"shape": [2**40, 2**40]},
        {"shape": [-1]},
        {"shape": [0, 2**62], "data_offsets": [0, 0]},
        {"data_offsets": [0, 2**63]},
        {"data_offsets": [8, 0]},
    ):
        changed = copy.deepcopy(header)
        changed[first].update(change)
        refused(with_header(changed, data), path)
    refused(with_header(b"[" * 10**6, data), path, "safetensors")
    refused((2**63).to_bytes(8, "little") + content[8:], path, "safetensors")


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"\0" * 8, b"\0" * 1000, b"PK\x03\x04", pickle.dumps([1]), None],
    ids=range(7),
)
def test_other_files_are_refused(content, kind, whole, path):
    content = whole[kind][8:] if content is None else content
    refused(content, path, "safetensors", KINDS[kind])


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
        fitted("no blocks").save(tmp_path / "absent" / "model")


def test_nothing_is_executed(kind, whole, path, monkeypatch):
    path.write_bytes(whole[kind])

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
    KINDS[kind].load(path)


# ------------------------------------------------------------------- writing


class Full(OSError):
    """What a full disk raises."""


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("exists", [False, True])
def test_a_save_that_fails_leaves_the_old_file(fitted, path, monkeypatch, step, exists):
    if exists:
        fitted("no blocks").save(path)
    before = path.read_bytes() if exists else None

    def fail(*args):
        # By now the new content is written, beside the old one.
        assert len(list(path.parent.iterdir())) == 1 + exists
        raise Full

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(Full):
        fitted("validation split").save(path)
    assert list(path.parent.iterdir()) == ([path] if exists else [])
    if exists:
        assert path.read_bytes() == before


def test_the_old_file_is_there_until_the_new_one_is(fitted, path, monkeypatch):
    fitted("no blocks").save(path)
    before, replace, seen = path.read_bytes(), os.replace, []

    def spy(source, target):
        seen.append((Path(source).parent, Path(target), path.read_bytes()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    fitted("validation split").save(str(path))
    assert seen == [(path.parent, path, before)]
    assert JKOFlowDensity.load(str(path)).n_blocks_ == 1


@pytest.mark.skipif(os.name != "posix", reason="permissions and links of POSIX")
def test_permissions_and_links_stay(fitted, path):
    density = fitted("no blocks")
    density.save(path)
    empty = path.with_name("empty")
    empty.touch()
    assert path.stat().st_mode == empty.stat().st_mode
    path.chmod(0o600)
    link = path.with_name("link")
    link.symlink_to(path)
    fitted("validation split").save(link)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert JKOFlowDensity.load(path).n_blocks_ == 1
