"""Settings of torch that are the user's, and what threads and forks share."""

# SPDX-License-Identifier: BSD-3-Clause

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator

import torch

_forward_mode = threading.RLock()

if hasattr(os, "register_at_fork"):
    # A process forks between two derivatives: forked within one, the lock would never
    # be released, nor the level be left.
    os.register_at_fork(
        before=_forward_mode.acquire,
        after_in_parent=_forward_mode.release,
        after_in_child=_forward_mode.release,
    )

_IMPORTED_IN = os.getpid()


# Products of numbers in one evaluation of a minibatch, from which on a second thread
# pays: see benchmarks/busy.py.
_LEAST_WORK = 4e6


def useful(work: float) -> int:
    """Return the number of threads that training should have, at most the user's.

    Parameters
    ----------
    work : float
        Samples of a minibatch times weights of a field.

    Returns
    -------
    n_threads : int
        1 if a second thread would buy little: it waits for the first one, which beside
        another busy process takes many times as long.
    """
    return torch.get_num_threads() if work >= _LEAST_WORK else 1


@contextlib.contextmanager
def at_most(n_threads: int) -> Iterator[None]:
    """Compute with at most so many threads of torch."""
    before = torch.get_num_threads()
    if n_threads >= before:
        yield
        return
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def forward_mode() -> Iterator[None]:
    """Take derivatives in forward mode, one thread at a time.

    Their levels belong to torch's process, not to a thread, and two threads would take
    tangents from each other. Torch scripts its decompositions when they are first used,
    which it has deprecated itself.
    """
    with _forward_mode, warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
        warnings.filterwarnings("ignore", message=".torch.jit", category=Warning)
        yield


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Compute with the package's settings of torch; a decorator, too.

    The user's default device and type of numbers, and autocasting, have no influence.
    In a forked process there is one thread: those of OpenMP do not follow into it, but
    its library waits for them forever.
    """
    with contextlib.ExitStack() as stack:
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        dtype = torch.get_default_dtype()
        if dtype != torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, dtype)
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        n_threads = torch.get_num_threads()
        if os.getpid() != _IMPORTED_IN and n_threads > 1:
            torch.set_num_threads(1)
            stack.callback(torch.set_num_threads, n_threads)
        yield
