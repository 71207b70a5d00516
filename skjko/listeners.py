"""Verbose output of a fit: a table with a line for every block."""

# SPDX-License-Identifier: BSD-3-Clause

import math
import multiprocessing
import threading

from skjko import config
from skjko.flow.run import Listener, TimeLimit
from skjko.summary import told_round
from skjko.transforms.whitening import Whitening

_COLUMNS = (
    ("block", 5),
    ("step size", 9),
    ("displacement", 12),
    ("validation score", 16),
    ("gain", 8),
    ("seconds", 7),
)
# Parameters that may differ between processes that fit together.
_FREE = ("checkpoint", "device", "verbose")
_ROUND_WIDTH = len("reparameterize")


def of_fit(estimator, clock):
    """Return the listeners that the parameters of an estimator ask for.

    Parameters
    ----------
    estimator : JKOFlowDensity or JKOFlowConditionalDensity
    clock : Clock
        Of the fit.

    Raises
    ------
    ValueError
        If processes that fit together have other parameters.
    """
    plain = (int, float, str, tuple, type(None))
    clock.group.check(
        {
            name: value
            for name, value in estimator.get_params().items()
            if isinstance(value, plain) and name not in _FREE
        }
    )
    listeners = []
    if estimator.verbose and clock.group.rank == 0:
        listeners.append(Verbose(estimator))
    if estimator.time_limit is not None:
        seconds = config.training_seconds(estimator.time_limit)
        listeners.append(TimeLimit(seconds, clock))
    return listeners


class Verbose(Listener):
    """Print what selection chose, and a table of the blocks.

    Lines of a process or thread that is not the main one begin with its name, and the
    first one has the parameters that tell the fit from others of that time.

    Parameters
    ----------
    estimator : JKOFlowDensity or JKOFlowConditionalDensity
    """

    def __init__(self, estimator):
        self._estimator = estimator
        self._before, self._seconds = None, math.nan
        self._n_folds, self._has_header = 0, False

    def on_event(self, event):
        """Print what the event says."""
        if event.kind == "split":
            self._split(event.values["n_folds"])
        elif event.kind == "selected":
            self._selected(**event.values)
        elif event.kind in ("kept", "dropped"):
            self._block(event.task.info, event.kind, **event.values)
        elif event.kind == "round" and event.values["round"] != "grow":
            told = told_round(event.values["round"], event.values["accepted"])
            self._print(told)

    def on_end(self, task, result, seconds):
        """Take note of the seconds of a task."""
        self._seconds = seconds

    def _split(self, n_folds):
        how = {0: "no validation", 1: "a validation set"}.get(
            n_folds, f"{n_folds}-fold cross-validation"
        )
        what = repr(self._estimator) if _where() else type(self._estimator).__name__
        self._print(f"fit of {' '.join(what.split())}")
        self._print(f"{how}; scores are mean log-densities in nats, higher is better")
        self._n_folds = n_folds

    def _selected(self, chain, start, candidates, score, **_):
        if score is None and self._n_folds > 1:
            self._print("training on all samples, as cross-validation decided")
        elif self._before is not None:
            self._print(
                "the mixture of Gaussians alone scored higher than this flow: training "
                "starts again, from the mixture"
            )
        else:
            self._print(f"selection: {_front(chain, start)}{_others(candidates)}")
        if score is not None:
            self._print(f"validation score before any block: {score:.4f}")
        self._before, self._has_header = score, False

    def _block(self, info, became, record, blocks, records):
        if not self._has_header:
            titles = [f"{title:>{width}}" for title, width in _COLUMNS]
            self._print("  ".join([f"{'round':<{_ROUND_WIDTH}}", *titles]))
            self._has_header = True
        step = info["step_size"] if record is None else record.step_size
        cells = [str(info["block"]), "free" if math.isinf(step) else f"{step:.3g}"]
        cells += ["-", "-", "-"]
        if record is not None:
            cells[2] = f"{record.displacement:.3f}"
            if record.validation_score is not None:
                cells[3] = f"{record.validation_score:.4f}"
                if (before := self._score_before(info, records)) is not None:
                    cells[4] = f"{record.validation_score - before:+.4f}"
        cells.append(f"{self._seconds:.1f}")
        cells = [f"{c:>{w}}" for c, (_, w) in zip(cells, _COLUMNS, strict=True)]
        end = ["dropped"] if became == "dropped" else []
        self._print("  ".join([f"{info['kind']:<{_ROUND_WIDTH}}", *cells, *end]))

    def _score_before(self, info, records):
        """The validation score of the blocks in front of one."""
        n = info["block"] - 1
        return records[n - 1].validation_score if n else self._before

    def _print(self, text):
        print(f"{_where()}{text}")


def _where():
    """Name of the process and thread, but for the main ones, as a prefix."""
    process, thread = multiprocessing.current_process(), threading.current_thread()
    names = []
    if process.name != "MainProcess":
        names.append(f"{process.name} {process.pid}")
    if thread is not threading.main_thread():
        names.append(thread.name)
    return f"[{', '.join(names)}] " if names else ""


def _front(chain, start):
    names = [type(s).__name__ for s in chain if not isinstance(s, Whitening)]
    kind = "a mixture of Gaussians" if start == "mixture" else "a Gaussian"
    names = [name for name in names if name != "MixtureMap"]
    behind = f" behind {', '.join(names)}" if names else ""
    return f"the flow starts from {kind}{behind}"


def _others(candidates):
    """How the chosen candidate compares with the best other one."""
    chosen = [c for c in candidates if c.chosen]
    others = [c for c in candidates if not c.chosen]
    if not (chosen and others):
        return ""
    best = max(others, key=lambda c: c.score)
    what = "mixture" if best.start == "mixture" else "flow"
    behind = "" if best.transforms == "none" else f" behind {best.transforms}"
    n = f"{len(others)} other candidate{'' if len(others) == 1 else 's'}"
    return f"; preferred to {n}, the best a {what}{behind}"
