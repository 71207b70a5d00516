"""How far the training of a block is: by its iterations, or by the clock."""

# SPDX-License-Identifier: BSD-3-Clause

import math
import time


class Clock:
    """A clock that can be told of time that was spent before it started."""

    def __init__(self):
        self._spent = 0.0

    def __call__(self):
        """Return the time in seconds."""
        return time.monotonic() + self._spent

    def spend(self, seconds):
        """Count seconds as if they went by now."""
        self._spent += seconds


class Deadline:
    """A time to be done by, with the clock that tells it.

    Parameters
    ----------
    seconds : float
        From now on; infinite for no limit.
    clock : Clock, optional
    """

    def __init__(self, seconds=math.inf, clock=None):
        self.clock = Clock() if clock is None else clock
        self.until = self.clock() + seconds

    @property
    def left(self):
        """Seconds until then, never negative."""
        return max(self.until - self.clock(), 0.0)

    def part(self, share):
        """Return the deadline after a share of what is left."""
        return Deadline(share * self.left, self.clock)


class Pace:
    """Progress of the training of one block, from 0 to 1.

    The learning rate follows it, so that a block which runs out of time before it runs
    out of iterations ends as calmly as one that does not.

    Parameters
    ----------
    max_iter : int
        Iterations after which the block is done.
    deadline : Deadline, optional
        When the block is done at the latest.
    """

    def __init__(self, max_iter, deadline=None):
        self.max_iter = max_iter
        self._deadline = deadline or Deadline()
        self._seconds = self._deadline.left

    def progress(self, n_iter):
        """Share of the training that is over after `n_iter` iterations."""
        by_iterations = n_iter / self.max_iter
        if math.isinf(self._seconds):
            return min(by_iterations, 1.0)
        left = self._deadline.left
        by_time = 1 - left / self._seconds if left > 0 else 1.0
        return min(max(by_iterations, by_time), 1.0)
