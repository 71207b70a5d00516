"""The results on disk: one CSV row a case, and the test rows' NLL beside it."""

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
    "nll",  # mean over the test rows, nats, standardised units
    "nll_data",  # the same in the units of the data
    "truth",  # of the true density on the same rows, standardised units
    "fit_seconds",  # tuning included
    "trials",  # tuning trials that were finished
    "chosen",
    "score_rows_per_s",  # of the solve that gives the NLL, however tight
    "sample_rows_per_s",
    "peak_mb",  # of data and fit, above the bare imports
    "solver_gap",  # mean absolute difference to a tighter solve, nats
    "trace",  # how the scoring solve has its divergence: exact or hutchinson
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


def rows_path(out, row):
    """Where the negative log-likelihoods of a case's test rows are."""
    return Path(out) / "rows" / f"{'-'.join(key(row))}.npz"


def save_rows(out, row, nll):
    """Save the negative log-likelihoods, in standardised units."""
    path = rows_path(out, row)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, nll=np.asarray(nll, dtype=np.float64))


def load_rows(out, row):
    """Load them, or None where they are missing."""
    path = rows_path(out, row)
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
