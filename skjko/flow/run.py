"""What happens during a fit: its tasks, and those who listen to them.

A fit is a sequence of tasks, such as growing a mixture or training a block. Everything
that takes long or reads the clock happens inside a task, and the result of a task
depends on nothing but its key, its inputs and the clock. Listeners are told when tasks
begin and end, and how they get on: verbose output, callbacks, the time limit and the
checkpoint are listeners. One that knows the result of a task (the checkpoint) gives it
when the task begins, and the task is not run. One may ask for the end of what an event
is of (callbacks do).
"""

# SPDX-License-Identifier: BSD-3-Clause

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from skjko.flow.group import ALONE


@dataclass(frozen=True)
class Task:
    """One task of a fit.

    Attributes
    ----------
    key : str
        Tells the task from all others of the fit, and seeds its random numbers.
    share : float
        Share of the time left that it may take, where there is a time limit.
    info : dict
        What is known of it when it begins, for listeners: its `kind`, and of a block
        also its number (`block`), `step_size` and the number of evaluations
        (`n_parts`), at most.
    """

    key: str
    share: float = 1.0
    info: dict = field(default_factory=dict)


def part_of(share, i, n):
    """Return the share of the time left for task i of n, which have one of all."""
    return share / n / (1 - i * share / n)


@dataclass(frozen=True)
class Event:
    """A report of a task, or of the fit, where `task` is None.

    Attributes
    ----------
    task : Task or None
    kind : str
        Of the fit: "split" (`n_folds`, validation `points`), "selected" (what stands in
        front of the blocks), "round" (that is over: `round`, `accepted`). Of a task:
        "iterations" (some of them begin), "evaluation" (they are over: `n_iter` so far,
        mean `objective` of the validation samples), and what became of a block, "kept"
        or "dropped": its `record` (None if it failed), the `records` of those that its
        round has so far, and the `blocks` of the first fold: None if it was dropped, or
        if others in it are still to be trained again.
    values : dict
    """

    task: Task | None
    kind: str
    values: dict


class Listener:
    """Base class of listeners; every method may be overridden."""

    def on_begin(self, task):
        """Return the result of a task that need not be run, or None."""

    def on_event(self, event):
        """Take note of an event; return whether to end what it is of.

        An evaluation is of the training of a block, which then has its best weights so
        far. What became of a block is of all training: the blocks so far are kept.
        """

    def on_end(self, task, result, seconds):
        """Take note of the result of a task, and of the seconds that it took."""

    def progress(self):
        """Return the share of the present task's budget that is used, from 0 to 1."""
        return 0.0


def mark_of_hook(error):
    """Mark an error as one of the user's code that a listener called."""
    error.is_of_hook = True


def is_of_hook(error):
    """Return whether an error was raised by the user's code that a listener called."""
    return getattr(error, "is_of_hook", False)


class Clock:
    """Seconds spent on a fit, those of tasks that were not run again included.

    Parameters
    ----------
    group : Group, optional
        Processes that have the same time.
    """

    def __init__(self, group=ALONE):
        self.group, self._before = group, 0.0

    def __call__(self):
        """Return the time in seconds."""
        now = time.monotonic()
        if self.group.size > 1:
            now = self.group.same(torch.tensor(now, dtype=torch.float64)).item()
        return now + self._before

    def add(self, seconds):
        """Count seconds as if they were spent now."""
        self._before += seconds


class TimeLimit(Listener):
    """Give every task its share of the time that is left.

    Parameters
    ----------
    seconds : float
        From now on.
    clock : Clock
    """

    def __init__(self, seconds, clock):
        self._clock, self._end = clock, clock() + seconds
        self._begin, self._until = clock(), self._end

    @property
    def seconds_left(self):
        """Seconds until the end of the fit."""
        return max(self._end - self._clock(), 0.0)

    def on_begin(self, task):
        """Set the time until which the task should end."""
        self._begin = self._clock()
        self._until = self._begin + task.share * self.seconds_left

    def progress(self):
        """Return the share of the present task's time that is over."""
        length = self._until - self._begin
        return min((self._clock() - self._begin) / length, 1.0) if length > 0 else 1.0

    @property
    def seconds(self):
        """Seconds that the present task has left."""
        return max(self._until - self._clock(), 0.0)


class Budget:
    """What a running task may still do.

    Parameters
    ----------
    run : Run
    task : Task
    """

    def __init__(self, run, task):
        self._run, self._task = run, task

    @property
    def progress(self):
        """Share of the task's time that is over; 0 where there is no limit."""
        return max((one.progress() for one in self._run.listeners), default=0.0)

    @property
    def seconds(self):
        """Seconds left for the task; infinite where there is no limit."""
        limits = [o.seconds for o in self._run.listeners if isinstance(o, TimeLimit)]
        return min(limits, default=math.inf)

    @property
    def group(self):
        """Processes that run the task together."""
        return self._run.group

    def clock(self):
        """Return the time in seconds."""
        return self._run.clock()

    def report(self, kind, **values):
        """Tell the listeners of an event; return whether one asks for the end."""
        return self._run.report(self._task, kind, **values)


@dataclass
class Job:
    """A running task: what it may do, its random numbers, and its result."""

    budget: Budget
    generator: torch.Generator
    result: Any = None


class Run:
    """The tasks of one fit.

    Parameters
    ----------
    seed : int
        Of the random numbers of all tasks.
    listeners : sequence of Listener
    clock : Clock, optional
    """

    def __init__(self, seed, listeners=(), clock=None):
        self.seed, self.listeners = seed, list(listeners)
        self.clock = clock or Clock()
        self.group = self.clock.group

    @contextmanager
    def running(self, task: Task) -> Iterator[Job]:
        """Run a task, or take its result from a listener that knows it.

        Parameters
        ----------
        task : Task

        Yields
        ------
        job : Job
            If its `result` is None, what runs in the context has to set it. It may read
            the clock, through the job's budget.
        """
        self.group.check({"task": task.key})
        known = [one.on_begin(task) for one in self.listeners]
        known = next((k for k in known if k is not None), (None, None))
        # Only the first process has a checkpoint.
        result, seconds = self.group.same(known)
        job = Job(Budget(self, task), self.generator(task.key), result)
        start = self.clock()
        yield job
        job.result = self.group.same(job.result)
        if seconds is None:
            seconds = self.clock() - start
        else:
            self.clock.add(seconds)
        for one in self.listeners:
            one.on_end(task, job.result, seconds)

    def do(self, task: Task, compute: Callable[[Budget, torch.Generator], Any]) -> Any:
        """Run a task that a function `(budget, generator) -> result` computes."""
        with self.running(task) as job:
            if job.result is None:
                job.result = compute(job.budget, job.generator)
        return job.result

    def report(self, task, kind, **values):
        """Tell the listeners of an event; return whether one asks for the end."""
        event = Event(task, kind, values)
        # All of them are told.
        answers = [one.on_event(event) for one in self.listeners]
        return self.group.same(any(answers))

    def generator(self, key):
        """Return the source of a task's random numbers: a function of seed and key."""
        digest = hashlib.sha256(f"{self.seed}:{key}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
