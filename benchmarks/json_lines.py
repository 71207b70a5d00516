"""Results of a benchmark as lines of JSON in a file."""

# SPDX-License-Identifier: BSD-3-Clause

import json
from pathlib import Path


def add_options(parser):
    """Add --out and --report to the options of a command."""
    parser.add_argument("--out", help="file that gets a line of JSON for each result")
    parser.add_argument("--report", help="file of such lines; nothing is run")


def read(path):
    """Return the results of a file."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def written(rows, path=None):
    """Return results as they come, printed, and written to a file if there is one."""
    done = []
    for row in rows:
        done.append(row)
        print(json.dumps(row), flush=True)
        if path:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    return done
