"""Processes that train one model together, each on a part of every minibatch.

All of them have the same samples, and do alike what is not training: transforms,
mixtures, splits, validation. Of a minibatch each process takes its part, and the
gradients are summed, so that training is that of one process up to rounding. What may
differ by rounding or by the clock is that of the first process.
"""

# SPDX-License-Identifier: BSD-3-Clause

import multiprocessing
import os
import threading

import torch
from torch import distributed


class Group:
    """A process that trains alone.

    Attributes
    ----------
    rank, size : int
        Number of this process, from 0, and number of processes.
    """

    rank, size = 0, 1

    def part(self, n):
        """Return the slice of n samples that is this process's."""
        return slice(None)

    def sum(self, tensors):
        """Sum tensors over the processes, in place."""

    def same(self, value, source=0):
        """Return the value that one process has: a tensor, or any value."""
        return value

    def gather(self, value):
        """Return the values of all processes."""
        return [value]

    def check(self, values):
        """Check that some values are the same in all processes.

        Parameters
        ----------
        values : dict of str to object
            By the names that errors call them.

        Raises
        ------
        ValueError
            If one is not; in all processes.
        """


ALONE = Group()


class Distributed(Group):
    """The processes of torch's default process group."""

    def __init__(self):
        self.rank = distributed.get_rank()
        self.size = distributed.get_world_size()

    def part(self, n):
        """Return the slice of n samples that is this process's."""
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def sum(self, tensors):
        """Sum tensors over the processes, in place."""
        # One message: many small ones would wait one after another.
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        self._call(distributed.all_reduce, flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def same(self, value, source=0):
        """Return the value that one process has: a tensor, or any value."""
        if isinstance(value, torch.Tensor):
            self._call(distributed.broadcast, value, source)
            return value
        box = [value]
        self._call(distributed.broadcast_object_list, box, source)
        return box[0]

    def gather(self, value):
        """Return the values of all processes."""
        of_all = [None] * self.size
        self._call(distributed.all_gather_object, of_all, value)
        return of_all

    def check(self, values):
        """Check that some values are the same in all processes."""
        of_all = self.gather(values)
        for rank, others in enumerate(of_all):
            for name, value in of_all[0].items():
                if others.get(name) != value:
                    raise ValueError(
                        f"The {self.size} processes of a fit must have the same "
                        f"{name}. Process 0 has {value!r}, process {rank} has "
                        f"{others.get(name)!r}. Give all of them the same data and "
                        "parameters, with an integer as random_state."
                    )

    def _call(self, function, *args):
        try:
            function(*args)
        except RuntimeError as error:
            raise RuntimeError(
                f"Process {self.rank} of {self.size} that fit together has lost "
                "another one, which has ended or failed: its own error says why. "
                "Start all of them again. With the parameter checkpoint the fit goes "
                "on from its last finished task, with any number of processes."
            ) from error


def current(make=True):
    """Return the group that a fit in this thread has.

    That of torch's default process group, which is made where torchrun started the
    process, by all processes at once. Fits in threads, and in processes that these
    processes start, are alone.

    Parameters
    ----------
    make : bool
        Whether to make torch's process group.
    """
    is_main = threading.current_thread() is threading.main_thread()
    is_child = multiprocessing.parent_process() is not None
    if is_child or not is_main or not distributed.is_available():
        return ALONE
    if not distributed.is_initialized():
        if not (make and distributed.is_torchelastic_launched()):
            return ALONE
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group()
    return Distributed() if distributed.get_world_size() > 1 else ALONE
