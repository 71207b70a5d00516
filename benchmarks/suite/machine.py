"""What the machine is and how much of its memory a process has used."""

# SPDX-License-Identifier: BSD-3-Clause

import os
import platform
import resource
import subprocess
import sys
from pathlib import Path


def peak_memory():
    """Largest resident memory of this process so far, in MB.

    From /proc where there is one: `ru_maxrss` of a child starts at the resident memory
    of the process that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def forget_peak():
    """Start `peak_memory` again from what is resident now, where Linux allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def on_processor_time():
    """Whether all seconds are those of the processor: for machines with other work.

    Of one thread, which `--threads 1` asks for.
    """
    return os.environ.get("SKJKO_BENCH_CLOCK") == "processor"


def processor():
    """Model of the processor, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def commit():
    """Commit of the skjko that is imported, or its version outside a repository."""
    import skjko

    try:
        return subprocess.check_output(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=Path(skjko.__file__).parent,
            text=True,
            stderr=subprocess.DEVNULL,
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return getattr(skjko, "__version__", "unknown")


def limit_threads(environment, n_threads):
    """Return a copy of the environment in which libraries start `n_threads` threads."""
    names = ("OMP", "MKL", "OPENBLAS")
    return {**environment, **{f"{n}_NUM_THREADS": str(n_threads) for n in names}}


def child_environment(n_threads):
    """Environment of a fresh process that imports the same modules as this one."""
    path = os.pathsep.join(p for p in sys.path if p)
    return {**limit_threads(os.environ, n_threads), "PYTHONPATH": path}
