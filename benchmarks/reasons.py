"""Are the reasons for outliers those that were planted, alone and in pairs of columns?

    SKJKO_BENCH_DATA=folder OMP_NUM_THREADS=1 python benchmarks/reasons.py

Two thirds of the normal rows of a table train a detector whose density is a mixture. In
each of the others one column, or two that go together, get the values that another row
has there: normal by themselves, and two of them also together, but not with the rest of
the row. Rows that the detector calls outliers are explained in two ways: by the one or
two columns of the largest gains of `explain`, which are told how many there are, and by
`top`, which is not. A row is right if the columns are exactly the planted ones.

Tables are those of ADBench, where the folder has them, and one with known structure:
three columns that are nearly equal, two more, a parabola, and two of noise.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import os
from pathlib import Path

import numpy as np

from skjko import JKOFlowDensity, JKOFlowOutlierDetector

TABLES = ("6_cardio", "12_fault", "43_WDBC")
N_ROWS, N_EXPLAINED = 1500, 40
# Standard deviations by which a planted value moves, at least.
LEAST_MOVE = 1.5


def made(rng):
    """A table whose columns are linked in known ways."""
    a, b, c, *noise = rng.standard_normal((5, N_ROWS))
    linked = [a, a, a, b, b, c, c**2]
    columns = [one + 0.1 * rng.standard_normal(N_ROWS) for one in linked]
    return np.column_stack([*columns, *noise])


def normal_rows(name, rng):
    if name == "made":
        return made(rng)
    path = Path(os.environ["SKJKO_BENCH_DATA"], "adbench", f"{name}.npz")
    with np.load(path) as file:
        rows = file["X"][file["y"] == 0].astype(float)
    return rows[rng.permutation(len(rows))[:N_ROWS]]


def planted(rows, n_columns, rng):
    """Rows with values of others in some columns, and which these are."""
    spread = rows.std(axis=0)
    varying = np.flatnonzero(spread > 0)
    links = np.abs(np.corrcoef(rows[:, varying].T)) - np.eye(len(varying))
    changed, where = [], []
    for x in rows:
        for _ in range(100):
            j = rng.randint(len(varying))
            columns = [varying[j]]
            if n_columns == 2:
                columns.append(varying[links[j].argmax()])
            other = rows[rng.randint(len(rows)), columns]
            if (np.abs(other - x[columns]) > LEAST_MOVE * spread[columns]).all():
                changed.append(x.copy())
                changed[-1][columns] = other
                where.append(set(columns))
                break
    return np.array(changed), where


def shares(found, truth):
    """Share of rows that are right, of planted columns found, and of found planted."""
    hits = [len(f & t) for f, t in zip(found, truth, strict=True)]
    right = np.mean([f == t for f, t in zip(found, truth, strict=True)])
    recall = np.mean([h / len(t) for h, t in zip(hits, truth, strict=True)])
    precision = sum(hits) / max(1, sum(map(len, found)))
    return f"{right:.2f} / {recall:.2f} / {precision:.2f}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="*", default=[*TABLES, "made"])
    for name in parser.parse_args().tables:
        rng = np.random.RandomState(0)
        rows = normal_rows(name, rng)
        train, test = np.split(rows, [2 * len(rows) // 3])
        density = JKOFlowDensity(init="mixture", max_blocks=0, discrete=None)
        detector = JKOFlowOutlierDetector(density=density, random_state=0).fit(train)
        for n_columns in (1, 2):
            X, where = planted(test, n_columns, rng)
            flagged = np.flatnonzero(detector.predict(X) == -1)[:N_EXPLAINED]
            truth = [where[i] for i in flagged]
            order = np.argsort(-detector.explain(X[flagged]), axis=1)
            single = [set(row[:n_columns]) for row in order]
            found = detector.top(X[flagged], n=len(flagged)).sort_values("row")
            names = found[["reason_1", "reason_2", "reason_3"]].to_numpy()
            top = [{j for j in row if j == j and j is not None} for row in names]
            print(
                f"| {name} | {n_columns} | {len(flagged)} | {shares(single, truth)} "
                f"| {shares(top, truth)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
