"""Which examples in docstrings can run."""

# SPDX-License-Identifier: BSD-3-Clause

import importlib.util

# Those of callbacks need scikit-learn 1.9.
collect_ignore = []
if importlib.util.find_spec("sklearn.callback") is None:
    collect_ignore.append("skjko/callbacks.py")
