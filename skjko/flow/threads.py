"""What torch shares between threads, and does not survive in a forked process."""

# SPDX-License-Identifier: BSD-3-Clause

import contextlib
import os
import threading

import torch

# Held while derivatives are taken in forward mode. Their levels belong to torch's
# process, not to a thread: side by side, two threads would take the tangents from each
# other, and get errors or, worse, wrong numbers.
forward_mode = threading.RLock()

if hasattr(os, "register_at_fork"):
    # A process is forked between two derivatives: in one that was forked within, the
    # lock would never be released, nor the level ever be left.
    os.register_at_fork(
        before=forward_mode.acquire,
        after_in_parent=forward_mode.release,
        after_in_child=forward_mode.release,
    )

_IMPORTED_IN = os.getpid()


@contextlib.contextmanager
def fork_safe():
    """Compute in one thread where the process is a fork; a decorator, too.

    The threads of OpenMP do not follow into a forked process, but its library counts on
    them, and waits for them for ever.
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
