"""Run the code of the guide and of README.md: python docs/run_code.py [page ...].

The blocks of a page run in their order in one namespace, in a temporary folder. Fits
get a time limit of a few seconds if they have none.
"""

# SPDX-License-Identifier: BSD-3-Clause

import contextlib
import io
import os
import re
import sys
import tempfile
import time
import traceback
from pathlib import Path

from skjko import JKOFlowDensity

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]
SECONDS = 4.0


def run(page):
    """Run all blocks of a page; return whether none raises an error."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
    space = {"__name__": "__main__"}
    for i, block in enumerate(blocks, start=1):
        start = time.perf_counter()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block, f"{page.name}, block {i}", "exec"), space)
        except Exception:
            traceback.print_exc()
            print(f"{page.name}, block {i}: FAILED", flush=True)
            return False
        seconds = time.perf_counter() - start
        print(f"{page.name}, block {i}: {seconds:.1f} s", flush=True)
    return True


if __name__ == "__main__":
    JKOFlowDensity.__init__.__kwdefaults__["time_limit"] = SECONDS
    names = sys.argv[1:]
    pages = [p for p in PAGES if not names or p.stem in names]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        results = [run(page) for page in pages]
    sys.exit(not all(results))
