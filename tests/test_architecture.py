"""The layers of the library, read from its source.

`skjko/flow` is the engine: torch only. Imports go one way, from the estimators down to
the engine.
"""

# SPDX-License-Identifier: BSD-3-Clause

import ast
import functools
import importlib
import subprocess
import sys
import tomllib
import traceback
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import pytest
import torch

import skjko

ROOT = Path(__file__).parents[1]

# What the modules of a package may import; those of the top level may import all.
MAY_IMPORT = {
    "flow": {"flow"},
    "data": {"data", "flow", "typing"},
    "transforms": {"transforms", "data", "flow", "typing"},
    "datasets": {"datasets", "typing"},
    "export": {
        *("export", "transforms", "data", "flow", "io", "support", "typing", "version")
    },
    "metrics": {"metrics", "typing"},
    "plots": {"plots", "data", "typing"},
}
MAX_LINES = 500
PACKAGE = str(ROOT / "skjko")


def name_of(path):
    """Return the dotted name of a file of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {name_of(path): path for path in sorted((ROOT / "skjko").rglob("*.py"))}
# Packages export names for users; modules import from the module that defines a name.
PACKAGES = {name for name, path in PATHS.items() if path.name == "__init__.py"}
MODULES = sorted(PATHS.keys() - PACKAGES)
ENGINE = [name for name in PATHS if f"{name}.".startswith("skjko.flow.")]


def walk_on_import(node):
    """Walk the nodes that run on import: everything outside functions."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from walk_on_import(child)


@functools.cache
def source_of(name):
    return PATHS[name].read_text(encoding="utf-8")


@functools.cache
def tree_of(name):
    return ast.parse(source_of(name))


def imported(tree, package, on_import_only=False, modules=PATHS):
    """Return the dotted names of the modules that parsed source imports.

    `from a import b` is a.b where that is one of `modules`, and a where b is something
    that a defines.
    """
    walk = walk_on_import if on_import_only else ast.walk
    names = set()
    for node in walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                ancestors = package.split(".")
                above = ancestors[: len(ancestors) - node.level + 1]
                origin = ".".join([*above, *filter(None, [origin])])
            for alias in node.names:
                name = f"{origin}.{alias.name}"
                names.add(name if name in modules else origin)
    return names


def imports_of(name, **kwargs):
    package = name if name in PACKAGES else name.rpartition(".")[0]
    return imported(tree_of(name), package, **kwargs)


def roots(names):
    """Return the distributions that some dotted names belong to."""
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(
    "source, expected",
    [
        ("import torch.nn", {"torch.nn"}),
        ("import a, b as c", {"a", "b"}),
        ("from p.q import m", {"p.q.m"}),
        ("from p.q import f", {"p.q"}),
        ("from . import m, f", {"p.q.m", "p.q"}),
        ("from .m import f", {"p.q.m"}),
        ("from ..r import f", {"p.r"}),
        ("try:\n    import a\nexcept ImportError:\n    pass", {"a"}),
        ("class A:\n    import a", {"a"}),
        ("def f():\n    import a", set()),
    ],
)
def test_imports_are_read(source, expected):
    tree = ast.parse(source)
    found = imported(tree, "p.q", on_import_only=True, modules={"p.q.m"})
    assert found == expected


def test_all_imports_includes_those_in_functions():
    assert imported(ast.parse("def f():\n    import a"), "p.q") == {"a"}


def own_imports(name):
    """Return the modules of the library that a module imports."""
    return {m for m in imports_of(name) if roots({m}) == {"skjko"}}


def test_modules_import_only_from_layers_below():
    for name in MODULES:
        package = name.split(".")[1] if name.count(".") > 1 else None
        for target in own_imports(name):
            assert target in MODULES, f"{name} imports from the package {target}"
            if package in MAY_IMPORT:
                assert target.split(".")[1] in MAY_IMPORT[package], (name, target)


def test_imports_have_no_cycle():
    TopologicalSorter({name: own_imports(name) for name in MODULES}).prepare()


def users_of(package, names):
    """Return those of some modules that import a package."""
    return [name for name in names if package in roots(imports_of(name))]


def test_engine_does_not_know_scikit_learn():
    assert users_of("sklearn", ENGINE) == []


def test_only_the_engine_solves_odes():
    solving = users_of("torchdiffeq", PATHS)
    assert solving
    assert set(solving) <= set(ENGINE)


def test_modules_are_short():
    n_lines = {name: len(source_of(name).splitlines()) for name in PATHS}
    assert {name: n for name, n in n_lines.items() if n > MAX_LINES} == {}


def private_access(tree):
    """Return the private names that a module takes from others.

    Those of `self` and `cls` are its own, and so are those that it defines or sets.
    """
    own = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute)]
    own |= {n.attr for n in nodes if isinstance(n.ctx, ast.Store)}
    imported = {
        alias.name
        for n in ast.walk(tree)
        if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("skjko")
        for alias in n.names
    }
    taken = {n.attr for n in nodes if ast.unparse(n.value) not in ("self", "cls")}
    return {name for name in (taken - own) | imported if is_private(name)}


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


# Of torch, scikit-learn and pandas, which have no public ones for these.
FOREIGN = ("_foreach_", "_get_param_names", "_constructor")


def test_modules_leave_private_attributes_of_others_alone():
    for name in PATHS:
        taken = private_access(tree_of(name))
        assert {one for one in taken if not one.startswith(FOREIGN)} == set(), name


def test_private_access_is_found():
    source = "class A:\n    def f(self, x):\n        self._a = x._b\n        x._a"
    assert private_access(ast.parse(source)) == {"_b"}


def test_optional_packages_are_imported_in_functions():
    optional = {"matplotlib", "pandas", "polars", "pyarrow"}
    for name in PATHS:
        found = roots(imports_of(name, on_import_only=True))
        assert found.isdisjoint(optional), name


# Refuses to import optional packages, and knows which of them somebody tried to.
WITHOUT = """
import sys
tried = set()
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name in ("click", "matplotlib", "pandas", "polars", "pyarrow"):
            tried.add(name)
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refusing())
import skjko, skjko.plots
# The names of the package are imported when they are asked for.
for name in skjko.__all__:
    getattr(skjko, name)
sys.exit("matplotlib" in tried)
"""


def test_import_needs_no_optional_package_and_loads_no_matplotlib():
    # In a process of its own. Looking for pandas in sys.modules would prove nothing:
    # scikit-learn loads it if it can.
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


SCRIPTS = [
    p for d in ("benchmarks", "docs", "examples") for p in (ROOT / d).rglob("*.py")
]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_import_what_there_is(path):
    # Most of them take too long to run here.
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and roots({node.module or ""}) == {"skjko"}:
            module = importlib.import_module(node.module)
            for alias in node.names:
                if f"{node.module}.{alias.name}" not in PATHS:
                    assert hasattr(module, alias.name), (path, alias.name)


def test_version_is_the_same_everywhere():
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    assert skjko.__version__ == project["version"]


def test_few_calls_in_few_modules_from_fit_to_the_gradient(monkeypatch):
    paths, backward = [], torch.Tensor.backward

    def recorded(tensor, *args, **kwargs):
        stack = traceback.extract_stack()
        paths.append([f.filename for f in stack if f.filename.startswith(PACKAGE)])
        return backward(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", recorded)
    density = skjko.JKOFlowDensity(
        init="gaussian", transforms=None, max_blocks=1, max_iter=2, random_state=0
    )
    density.fit(np.random.RandomState(0).exponential(size=(1000, 2)))
    # That of growing blocks: selection, and a block in place of others, are deeper.
    path = min(paths, key=len)
    assert len(path) - 1 <= 7
    assert len(set(path)) <= 4
