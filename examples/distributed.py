"""One density, trained by several processes on the same file.

    torchrun --nproc-per-node 2 examples/distributed.py

Every process maps the file into memory and trains on its part of each minibatch. The
model is that of one process up to rounding: python examples/distributed.py
"""

# SPDX-License-Identifier: BSD-3-Clause

import os
import tempfile
from pathlib import Path

import numpy as np

from skjko import JKOFlowDensity
from skjko.datasets import correlated_mixture

FOLDER = Path(tempfile.gettempdir()) / "skjko-distributed"


def main():
    data = correlated_mixture(10)
    path, rank = FOLDER / "samples.npy", int(os.environ.get("RANK", 0))
    FOLDER.mkdir(exist_ok=True)
    if not path.exists():
        # In place of a file of yours. Renamed when it is whole, by whoever is last.
        own = FOLDER / f"{rank}.npy"
        np.save(own, data.sample(20_000, random_state=0).astype(np.float32))
        own.replace(path)
    X = np.load(path, mmap_mode="r")
    density = JKOFlowDensity(
        init="gaussian",
        max_iter=100,
        random_state=0,
        checkpoint=FOLDER / "checkpoint",  # only the first process writes
        verbose=True,  # only the first process prints
    ).fit(X)
    density.save(FOLDER / "model.skjko")  # only the first process writes
    score = density.score(data.sample(1000, random_state=1))
    print(f"process {rank}: {score:.4f} nats a test sample")


if __name__ == "__main__":
    main()
