"""What all tests share."""

# SPDX-License-Identifier: BSD-3-Clause

import os

from hypothesis import settings

# Processes of several threads each, side by side, would wait for each other. Set before
# anything starts a pool of threads, and for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No test depends on how long anything takes.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
