"""The layers of the library, read from its import statements.

`skjko/flow` is the engine: torch only. The top level is the face: it speaks
scikit-learn and solves no ODE. A module imports only from floors below its own.
"""

# SPDX-License-Identifier: BSD-3-Clause

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import skjko

ROOT = Path(__file__).parents[1]

# Modules of one floor do not know each other, so imports cannot form a cycle.
FLOORS = {
    "skjko.datasets.base": 0,
    "skjko.datasets.planar": 1,
    "skjko.datasets.tables": 1,
    "skjko.calibration": 0,
    "skjko.columns": 0,
    "skjko.container": 0,
    "skjko.explanation": 0,
    "skjko.chunks": 1,
    "skjko.lattice": 2,
    "skjko.metrics": 0,
    "skjko.mixture": 0,
    "skjko.growth": 1,
    "skjko.rosenblatt": 1,
    "skjko.marginals": 2,
    "skjko.radial": 0,
    "skjko.preprocessing": 3,
    "skjko.splitting": 2,
    "skjko.support": 3,
    "skjko.table": 2,
    "skjko.flow.activations": 0,
    "skjko.flow.devices": 0,
    "skjko.flow.divergence": 1,
    "skjko.flow.dynamics": 1,
    "skjko.flow.history": 0,
    "skjko.flow.objective": 0,
    "skjko.flow.optimizers": 0,
    "skjko.flow.pace": 0,
    "skjko.flow.rows": 1,
    "skjko.flow.spill": 0,
    "skjko.flow.schedule": 0,
    "skjko.flow.threads": 0,
    "skjko.flow.fields": 2,
    "skjko.flow.ode": 1,
    "skjko.flow.accuracy": 2,
    "skjko.flow.flow": 2,
    "skjko.flow.description": 3,
    "skjko.flow.fold": 3,
    "skjko.flow.journal": 3,
    "skjko.flow.training": 3,
    "skjko.flow.stage": 4,
    "skjko.flow.scheme": 5,
    "skjko.summary": 0,
    "skjko.version": 0,
    "skjko.model": 4,
    "skjko.parameters": 4,
    "skjko.shelf": 4,
    "skjko.trials": 4,
    "skjko.start": 5,
    "skjko.fitting": 6,
    "skjko.checkpoint": 7,
    "skjko.persistence": 7,
    "skjko.settings": 7,
    "skjko.density": 8,
    "skjko.outlier_persistence": 9,
    "skjko.smoothing": 9,
    "skjko.outlier": 10,
}


def name_of(path):
    """Return the dotted name of a file of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {name_of(path): path for path in sorted((ROOT / "skjko").rglob("*.py"))}
# The front doors of the packages stand outside the house: they may import every floor,
# and no module may import them.
FRONTS = {name for name, path in PATHS.items() if path.name == "__init__.py"}
MODULES = sorted(PATHS.keys() - FRONTS)
ENGINE = [name for name in PATHS if f"{name}.".startswith("skjko.flow.")]
FACE = [name for name in PATHS if name not in ENGINE]


def walk_on_import(node):
    """Walk the nodes that run on import: everything outside functions."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from walk_on_import(child)


def imported(source, package, on_import_only=False, modules=PATHS):
    """Return the dotted names of the modules that a source imports.

    `from a import b` is a.b where that is one of `modules`, and a where b is something
    that a defines.
    """
    walk = walk_on_import if on_import_only else ast.walk
    names = set()
    for node in walk(ast.parse(source)):
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
    package = name if name in FRONTS else name.rpartition(".")[0]
    return imported(PATHS[name].read_text(encoding="utf-8"), package, **kwargs)


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
    found = imported(source, "p.q", on_import_only=True, modules={"p.q.m"})
    assert found == expected


def test_all_imports_includes_those_in_functions():
    assert imported("def f():\n    import a", "p.q") == {"a"}


@pytest.mark.parametrize("name", MODULES)
def test_module_imports_only_from_floors_below(name):
    assert name in FLOORS, (
        f"{name} has no floor. Give it one in FLOORS in {Path(__file__).name}, above "
        "every module that it imports and below every module that imports it."
    )
    for target in sorted(imports_of(name)):
        if target.partition(".")[0] != "skjko":
            continue
        assert target not in FRONTS, (
            f"{name} imports from the package {target}. Import from the module that "
            "defines the name."
        )
        assert target in FLOORS, f"{name} imports {target}, which has no floor."
        assert FLOORS[target] < FLOORS[name], (
            f"{name} (floor {FLOORS[name]}) imports {target} (floor {FLOORS[target]}). "
            "A module imports only from floors below its own."
        )


@pytest.mark.parametrize("name", ENGINE)
def test_engine_knows_neither_scikit_learn_nor_the_face(name):
    imports = imports_of(name)
    assert "sklearn" not in roots(imports)
    assert imports.isdisjoint(FACE)


@pytest.mark.parametrize("name", FACE)
def test_face_solves_no_ode(name):
    assert "torchdiffeq" not in roots(imports_of(name))


@pytest.mark.parametrize("name", PATHS)
def test_optional_packages_are_imported_in_functions(name):
    imports = imports_of(name, on_import_only=True)
    assert roots(imports).isdisjoint({"matplotlib", "pandas", "polars"})


def test_import_needs_no_optional_package():
    # In a process of its own, where None in sys.modules makes an import fail. Looking
    # for pandas in sys.modules would prove nothing: scikit-learn loads it if it can.
    names = "matplotlib=None, pandas=None, polars=None"
    code = f"import sys; sys.modules.update({names}); import skjko"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_import_loads_no_matplotlib():
    code = "import sys, skjko; sys.exit('matplotlib' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_version_is_the_same_everywhere():
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    assert skjko.__version__ == project["version"]
