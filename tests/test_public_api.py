"""Docstrings and type hints of everything that users get hold of."""

# SPDX-License-Identifier: BSD-3-Clause

import inspect
from pathlib import Path

import pytest

import skjko
import skjko.callbacks
import skjko.datasets
import skjko.distributed
import skjko.io
import skjko.metrics
import skjko.plots
import skjko.transforms
from skjko.flow.blocks import Block
from skjko.flow.fields import MLP
from skjko.flow.local_fields import LocalField
from skjko.flow.stack import Flow
from skjko.missing import Proposal
from skjko.support import Support
from skjko.transforms.discrete import DiscreteGrid

PACKAGES = (
    skjko,
    skjko.callbacks,
    skjko.transforms,
    skjko.metrics,
    skjko.datasets,
    skjko.distributed,
    skjko.plots,
    skjko.io,
)
EXPORTED = [
    getattr(package, name)
    for package in PACKAGES
    for name in package.__all__
    if name != "__version__"
]
FUNCTIONS = [one for one in EXPORTED if inspect.isfunction(one)]
# Fitted attributes are made of the inner ones, which are not exported.
INNER = [Block, Flow, MLP, LocalField, Support, DiscreteGrid, Proposal]
CLASSES = [one for one in EXPORTED if inspect.isclass(one)] + INNER

# What numpydoc would have, and why it is not asked for.
IGNORED = {
    "ES01": "a summary may say it all",
    "RT02": "what is returned has a name here, as parameters have",
    "SA01": "not everything has a relative",
}
OF_METHODS = {"EX01": "the examples of a class show its methods"}


def own_bases(cls):
    return [base for base in cls.__mro__ if base.__module__.startswith("skjko")]


def methods_of(cls):
    """Yield the library's public methods and properties of a class, by name.

    With the class that defines each, and whether that overrides another one's.
    """
    bases = own_bases(cls)
    for name in sorted({name for base in bases for name in vars(base)}):
        definers = [base for base in bases if name in vars(base)]
        member = vars(definers[0])[name]
        is_method = inspect.isroutine(member) or isinstance(
            member, (property, classmethod, staticmethod)
        )
        if is_method and not name.startswith("_") and is_own(member):
            yield name, definers[0], len(definers) > 1


def is_own(member):
    """Whether the library defines a method; scikit-learn adds some to its classes."""
    function = getattr(member, "fget", None) or getattr(member, "__func__", member)
    return getattr(function, "__module__", "").startswith("skjko")


METHODS = {
    f"{definer.__module__}.{definer.__name__}.{name}": (definer, name, overrides)
    for cls in CLASSES
    for name, definer, overrides in methods_of(cls)
}


def errors(path, ignored):
    validate = pytest.importorskip("numpydoc.validate")
    found = validate.validate(path)["errors"]
    return [f"{code}: {text}" for code, text in found if code not in ignored]


@pytest.mark.parametrize("public", CLASSES + FUNCTIONS, ids=lambda one: one.__name__)
def test_docstring_and_example(public):
    assert errors(f"{public.__module__}.{public.__name__}", IGNORED) == []


@pytest.mark.parametrize("path", METHODS)
def test_docstring_of_method(path):
    found = errors(path, IGNORED | OF_METHODS)
    if METHODS[path][2]:
        # What it overrides has the sections; it may be brief.
        found = [error for error in found if error.startswith(("GL", "SS"))]
    assert found == []


def test_every_public_name_is_in_the_reference():
    page = Path(__file__).parents[1] / "docs" / "api.rst"
    package, listed = None, set()
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith(".. currentmodule::"):
            package = line.split()[-1]
        elif line.startswith("   ") and not line.strip().startswith((":", "..")):
            listed.add(f"{package}.{line.strip()}")
    public = {f"{p.__name__}.{name}" for p in PACKAGES for name in p.__all__}
    public |= {f"{one.__module__}.{one.__name__}" for one in INNER}
    assert listed == public - {"skjko.__version__"}


def untyped(function):
    """Return what a function has no type hints of."""
    names = inspect.signature(inspect.unwrap(function)).parameters
    hints = inspect.unwrap(function).__annotations__
    return {*names, "return"} - {"self", "cls"} - set(hints)


@pytest.mark.parametrize("public", FUNCTIONS, ids=lambda one: one.__name__)
def test_function_has_type_hints(public):
    assert untyped(public) == set()


@pytest.mark.parametrize("path", METHODS)
def test_method_has_type_hints(path):
    definer, name, _ = METHODS[path]
    member = vars(definer)[name]
    function = getattr(member, "fget", None) or getattr(member, "__func__", member)
    assert untyped(function) == set()


@pytest.mark.parametrize("cls", CLASSES, ids=lambda one: one.__name__)
def test_parameters_of_class_have_type_hints(cls):
    for base in own_bases(cls):
        if "__init__" in vars(base):
            assert untyped(vars(base)["__init__"]) - {"return"} == set()


def test_type_hints_are_for_users():
    # Without this file, type checkers take no notice of them.
    assert Path(skjko.__file__).with_name("py.typed").exists()
