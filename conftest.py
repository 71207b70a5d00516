"""Which examples in docstrings can run, and how processes share the tests."""

# SPDX-License-Identifier: BSD-3-Clause

import importlib.util
import os
import secrets

import pytest

# Those of adapters need the library that they are for, those of callbacks
# scikit-learn 1.9.
collect_ignore = [
    f"skjko/{name}.py"
    for name in ("dask", "pyod", "ray")
    if importlib.util.find_spec(name) is None
]
if importlib.util.find_spec("sklearn.callback") is None:
    collect_ignore.append("skjko/callbacks.py")

# Clusters of ray, in tests and examples, send no statistics, and leave no token in the
# home folder.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Run the tests of a file in one process: they share fitted models."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)
