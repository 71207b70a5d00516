"""Make the golden file of the current format: python tests/data/make_density.py.

Only for a new format version. Files of older versions stay as they are, for it is them
that users have.
"""

# SPDX-License-Identifier: BSD-3-Clause

from pathlib import Path

import numpy as np
import pandas as pd

from skjko import JKOFlowDensity
from skjko.persistence import FORMAT_VERSION


def main():
    random = np.random.RandomState(3)
    size = np.sqrt(2 / random.chisquare(2, (400, 1)))
    rows = random.standard_normal((400, 5))
    rows[:, 1] += rows[:, 0] ** 2
    frame = pd.DataFrame(size * rows, columns=list("abcde"))
    frame["f"] = 2.0
    density = JKOFlowDensity(
        max_blocks=1,
        hidden_layer_sizes=(12, 8),
        activation="silu",
        time_dependent=True,
        learning_rate_init=0.03,
        batch_size=100,
        max_iter=200,
        bounds={"b": (-900, np.inf)},
        random_state=np.random.RandomState(1),
    ).fit(frame)
    # What the file is to be read for: a radial map, a block, flows of folds.
    assert density.radial_map_ is not None
    assert density.n_blocks_ == 1
    assert len(density._fitted.fold_flows) == 3

    path = Path(__file__).with_name(f"density-{FORMAT_VERSION}.safetensors")
    density.save(path)
    rows = [[-1.0, -0.5, 0, 0, 1, 2], [0.25, 0.5, 0, 0, 0, 2], [3, 1, 0, 0, 0, 2.001]]
    print("bytes", path.stat().st_size)
    print(
        "scores",
        density.score_samples(pd.DataFrame(rows, columns=frame.columns)).tolist(),
    )
    print("sample", density.sample(2, random_state=0).to_numpy().tolist())
    print("validation scores", density.validation_scores_.tolist())
    print("random state", density.random_state.randint(1000))


# pytest imports every module here to look for examples in it.
if __name__ == "__main__":
    main()
