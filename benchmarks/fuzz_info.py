"""Describe and load damaged model files: python -m benchmarks.fuzz_info --seconds 600.

Saved models are damaged at random: bits, bytes and blocks of the file, and values of
its JSON, of which others of any type take the place. `skjko info` has to describe the
file or to refuse it with a ValueError, and `load` has to refuse it. Prints how many
files were tried. With --guided, atheris damages those files further that reach new
lines of skjko; it has to be installed.
"""

# SPDX-License-Identifier: BSD-3-Clause

import argparse
import collections
import gc
import json
import sys
import tempfile
import time
import types
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
    end = min(8 + int.from_bytes(content[:8], "little"), len(content))
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


def said(content):
    """Return what a file says, whatever the white space of its header."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


class Trial:
    """Describe and load files, and count what became of them.

    Parameters
    ----------
    folder : str
    """

    def __init__(self, folder):
        self.kept, self._path = list(models(folder)), Path(folder) / "damaged"
        self._said = [said(content) for content, _ in self.kept]
        self._kinds = {kind for _, kind in self.kept}
        self._runner, self.counts = CliRunner(), collections.Counter()

    def damage(self, content, rng):
        """Return a file with bytes or JSON that are others."""
        if len(content) < 16:
            content = self.kept[rng.randint(len(self.kept))][0]
        if rng.rand() < 0.4:
            return damaged_bytes(content, rng)
        try:
            return damaged_json(content, rng)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            # Damaged before, so that it has no JSON any more.
            return damaged_bytes(content, rng)

    def __call__(self, content):
        """Raise an error if a file is neither described, or refused, nor the same."""
        self._path.write_bytes(content)
        self.counts["files"] += 1
        result = self._runner.invoke(command, ["info", str(self._path)])
        self.counts["described" if result.exit_code == 0 else "refused"] += 1
        if not isinstance(result.exception, (SystemExit, type(None))):
            raise result.exception
        for kind in self._kinds:
            try:
                kind.load(self._path)
            except ValueError:
                continue
            # White space outside of what the checksum covers, or nothing changed.
            self.counts["loaded, as they say the same"] += 1
            if said(content) not in self._said:
                raise AssertionError("a damaged file was loaded")


def by_chance(trial, seconds, seed):
    """Damage one of the files after another, until the time is over."""
    rng, stop = np.random.RandomState(seed), time.monotonic() + seconds
    while time.monotonic() < stop:
        content = trial.damage(trial.kept[rng.randint(len(trial.kept))][0], rng)
        try:
            trial(content)
        except Exception:
            Path("crash").write_bytes(content)
            raise


def guided(trial, seconds, seed, folder):
    """Let atheris damage the files, and those that reach new lines further."""
    import atheris

    corpus = Path(folder) / "corpus"
    corpus.mkdir()
    for i, (content, _) in enumerate(trial.kept):
        (corpus / str(i)).write_bytes(content)

    def mutate(data, max_size, seed):
        return trial.damage(data, np.random.RandomState(seed))[:max_size]

    longest = 2 * max(len(content) for content, _ in trial.kept)
    flags = [f"-max_total_time={seconds:.0f}", f"-max_len={longest}", f"-seed={seed}"]
    for function in gc.get_objects():
        if isinstance(function, types.FunctionType) and (
            (function.__module__ or "").startswith("skjko.")
        ):
            atheris.instrument_func(function)
    atheris.Setup([sys.argv[0], *flags, str(corpus)], trial, custom_mutator=mutate)
    atheris.Fuzz()


def main():
    """Damage files until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guided", action="store_true", help="by coverage, by atheris")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(folder)
        if options.guided:
            # Atheris prints how it went, and ends the process.
            guided(trial, options.seconds, options.seed, folder)
        by_chance(trial, options.seconds, options.seed)
    print(dict(trial.counts))


if __name__ == "__main__":
    main()
