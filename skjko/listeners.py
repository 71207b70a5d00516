"""Verbose output of a fit."""

# SPDX-License-Identifier: BSD-3-Clause

from skjko.flow.run import Listener


class Verbose(Listener):
    """Print a line for every block that is kept or dropped.

    Parameters
    ----------
    name : str
        Of the estimator.
    """

    def __init__(self, name):
        self._name = name

    def on_event(self, event):
        """Print what became of a block."""
        if event.kind not in ("kept", "dropped"):
            return
        info, values = event.task.info, event.values
        again = "" if info["kind"] == "grow" else f"{info['kind']}: "
        score = values["score"]
        told = "" if score is None else f", validation score {score:.4f}"
        best, run = values["n_iter"], values["n_run"]
        of = "" if best == run else f" of {run}"
        print(
            f"[{self._name}] {again}block {info['block']} {event.kind} after "
            f"{best}{of} iterations{told}"
        )
