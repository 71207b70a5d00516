"""Entry point: `python -m benchmarks.suite` or `python benchmarks/suite`."""

# SPDX-License-Identifier: BSD-3-Clause

import sys
from pathlib import Path

# Whichever way it was started, the package is called `suite`. Run as a folder, the
# folder itself is on the path, where its modules would hide others of the same name.
HERE = Path(__file__).resolve().parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE]
sys.path.insert(0, str(HERE.parent))

if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        from suite.case import main
    else:
        from suite.cli import main
    main()
