"""The results on disk: a CSV row for every case, and the NLL of its test samples."""

# SPDX-License-Identifier: BSD-3-Clause

import csv
from pathlib import Path

import numpy as np

# A case is done when a row agrees in all of these.
KEY = ("set", "method", "budget", "seed", "n_trials", "max_test", "threads")
FIELDS = (
    *KEY,
    "family",
    "n_train",
    "n_val",
    "n_test",
    "d",
    "nll",  # mean over the test samples, nats, standardised units
    "nll_data",  # the same in the units of the data
    "truth",  # of the true density on the same samples, standardised units
    "fit_seconds",  # tuning included
    "trials",  # tuning trials that were finished
    "chosen",
    "score_samples_per_s",  # of the solve that gives the NLL, however tight
    "samples_per_s",
    "peak_mb",  # of data and fit, above the bare imports
    "solver_gap",  # mean absolute difference to a tighter solve, nats
    "n_blocks",  # of skjko's model
    "start",  # what its selection chose in front of the blocks
    "base",  # behind them: normal or mixture
    "trace",  # how the scoring solve computes the divergence: exact or hutchinson
    "n_jittered",
    "n_dropped",
    "note",
    "commit",
    "versions",
    "error",
)


def key(row):
    """What makes a case, as text, so that rows read and rows planned compare."""
    return tuple(str(row[name]) for name in KEY)


def nll_path(out, row):
    """Return where the negative log-likelihoods of a case's test samples are."""
    return Path(out) / "nll" / f"{'-'.join(key(row))}.npz"


def save_nll(out, row, nll):
    """Save the negative log-likelihoods, in standardised units."""
    path = nll_path(out, row)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, nll=np.asarray(nll, dtype=np.float64))


def load_nll(out, row):
    """Load them, or None where they are missing."""
    path = nll_path(out, row)
    if not path.exists():
        return None
    with np.load(path) as file:
        return file["nll"]


def append(out, row):
    """Append one row to the CSV, with a header if it is the first."""
    path = Path(out) / "results.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, restval="")
        if new:
            writer.writeheader()
        writer.writerow({k: v for k, v in row.items() if k in FIELDS})


def read(out):
    """All rows as dicts of text; of several rows of one case the last."""
    path = Path(out) / "results.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return list({key(row): row for row in rows}.values())
