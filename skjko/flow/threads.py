"""What torch shares between threads, and what does not survive in a forked process."""

# SPDX-License-Identifier: BSD-3-Clause

import contextlib
import os
import threading
from collections.abc import Iterator

import torch

# Held while derivatives are taken in forward mode: their levels belong to torch's
# process, not to a thread, and two threads would take tangents from each other.
forward_mode = threading.RLock()

if hasattr(os, "register_at_fork"):
    # A process forks between two derivatives: forked within one, the lock would never
    # be released, nor the level be left.
    os.register_at_fork(
        before=forward_mode.acquire,
        after_in_parent=forward_mode.release,
        after_in_child=forward_mode.release,
    )

_IMPORTED_IN = os.getpid()


@contextlib.contextmanager
def fork_safe() -> Iterator[None]:
    """Compute in one thread where the process is a fork; a decorator, too.

    The threads of OpenMP do not follow into a forked process, but its library waits for
    them forever.
    """
    n_threads = torch.get_num_threads()
    if os.getpid() == _IMPORTED_IN or n_threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
