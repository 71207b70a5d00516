"""Run the code of the guide and of README.md: python docs/run_code.py [page ...].

The Python blocks of a page run in one namespace, in a temporary folder, and so do those
of the shell that use the command `skjko`; the first block of Python comes first. Fits
in Python get a time limit of a few seconds if they have none.
"""

# SPDX-License-Identifier: BSD-3-Clause

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from skjko import JKOFlowDensity

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "docs" / "five_minutes.md",
    *sorted((ROOT / "docs" / "guide").glob("*.md")),
]
SECONDS = 4.0
COMMAND = f'skjko() {{ "{sys.executable}" -m skjko "$@"; }}\n'


def run(page):
    """Run all blocks of a page; return whether none raises an error."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.M | re.S)
    shell = re.compile("^skjko ", re.M)
    blocks = [b for b in found if b[0] == "python" or shell.search(b[1])]
    # The shell may use files that the first block of Python makes.
    first = next((k for k, block in enumerate(blocks) if block[0] == "python"), None)
    if first is not None:
        blocks.insert(0, blocks.pop(first))
    space = {"__name__": "__main__"}
    for i, (language, block) in enumerate(blocks, start=1):
        start = time.perf_counter()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                if language == "bash":
                    subprocess.run(
                        ["bash", "-euo", "pipefail", "-c", COMMAND + block],
                        check=True,
                        capture_output=True,
                        text=True,
                    )
                else:
                    exec(compile(block, f"{page.name}, block {i}", "exec"), space)
        except Exception as error:
            traceback.print_exc()
            print(getattr(error, "stderr", ""))
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
