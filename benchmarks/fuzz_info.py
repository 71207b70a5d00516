"""Describe and load damaged model files: python -m benchmarks.fuzz_info --seconds 600.

Saved models are damaged at random: bits, bytes and blocks of the file, and values of
its JSON, of which others of any type take the place. `skjko info` has to describe the
file or to refuse it with a ValueError, and `load` has to refuse it. Prints how many
files were tried.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import collections
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from skjko import JKOFlowDensity, JKOFlowOutlierDetector, MLPField
from skjko.cli import cli as command

VALUES = [None, True, -1, 0, 3, 2**62, 1e308, -0.5, "", "x", [], {}, [[]], {"a": 1}]


def models(folder):
    """Save one model of each kind; return their bytes with their classes."""
    X = np.random.RandomState(0).exponential(size=(60, 2))
    density = JKOFlowDensity(
        field=MLPField((4, 4)), max_blocks=1, max_iter=3, bounds=[(0, None), None]
    )
    detector = JKOFlowOutlierDetector(density=density)
    for estimator in (density.fit(X), detector.fit(X)):
        path = Path(folder) / "model"
        estimator.save(path)
        yield path.read_bytes(), type(estimator)


def damaged_bytes(content, rng):
    """Change bits, or move, drop or insert a block of bytes."""
    # Most of the file is weights: half of the time, damage the header.
    end = 8 + int.from_bytes(content[:8], "little")
    end = end if rng.rand() < 0.5 else len(content)
    a, b = rng.randint(end, size=2)
    n = rng.randint(1, 40)
    kind = rng.randint(5)
    if kind == 0:
        changed = bytearray(content)
        for i in rng.randint(end, size=rng.choice([1, 1, 2, 8])):
            changed[i] ^= 1 << rng.randint(8)
        return bytes(changed)
    if kind == 1:
        return content[:a]
    if kind == 2:
        return content[:a] + content[b : b + n] + content[a:]
    if kind == 3:
        return content[:a] + content[a + n :]
    return content[:a] + rng.bytes(n) + content[a + n :]


def places(value, found):
    """Collect the pairs of a container and a key of all values in JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        found.append((value, key))
        if isinstance(inner, (dict, list)):
            places(inner, found)
    return found


def damaged_json(content, rng):
    """Put other values, or none, in the place of some in the JSON."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    outer = rng.rand() < 0.2
    model = header if outer else json.loads(header["__metadata__"]["model"])
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        found = places(model, [])
        container, key = found[rng.randint(len(found))]
        if rng.rand() < 0.2:
            del container[key]
        elif rng.rand() < 0.3:
            other, name = found[rng.randint(len(found))]
            container[key] = json.loads(json.dumps(other[name]))
        else:
            container[key] = VALUES[rng.randint(len(VALUES))]
    if not outer:
        header["__metadata__"]["model"] = json.dumps(model, separators=(",", ":"))
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[end:]


def main():
    """Damage files until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, counts = np.random.RandomState(options.seed), collections.Counter()
    runner = CliRunner()
    with tempfile.TemporaryDirectory() as folder:
        kept, path = list(models(folder)), Path(folder) / "damaged"
        stop = time.monotonic() + options.seconds
        while time.monotonic() < stop:
            content, kind = kept[rng.randint(len(kept))]
            damage = damaged_bytes if rng.rand() < 0.4 else damaged_json
            changed = damage(content, rng)
            path.write_bytes(changed)
            counts["files"] += 1
            result = runner.invoke(command, ["info", str(path)])
            counts["described" if result.exit_code == 0 else "refused"] += 1
            if not isinstance(result.exception, (SystemExit, type(None))):
                Path("crash").write_bytes(changed)
                raise result.exception
            try:
                kind.load(path)
            except ValueError:
                continue
            # White space outside of what the checksum covers, or nothing changed.
            counts["loaded, as they say the same"] += 1
            end = 8 + int.from_bytes(changed[:8], "little")
            start = 8 + int.from_bytes(content[:8], "little")
            same = json.loads(changed[8:end]) == json.loads(content[8:start])
            if not same or changed[end:] != content[start:]:
                Path("crash").write_bytes(changed)
                raise AssertionError("a damaged file was loaded")
    print(dict(counts))


if __name__ == "__main__":
    main()
