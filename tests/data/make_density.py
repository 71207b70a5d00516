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
    random = np.random.RandomState(2)
    a, b = random.standard_normal((300, 2)).T
    columns = [
        np.floor(x) + 0.1 * random.standard_normal(300)
        for x in (a, np.tanh(2 * a) + 0.5 * b)
    ]
    frame = pd.DataFrame({"a": columns[0], "b": columns[1], "c": 2.0})
    density = JKOFlowDensity(
        max_blocks=1,
        hidden_layer_sizes=(12, 8),
        activation="silu",
        time_dependent=True,
        learning_rate_init=0.03,
        batch_size=100,
        max_iter=200,
        bounds={"b": (-9, np.inf)},
        random_state=np.random.RandomState(1),
    ).fit(frame)
    # What the file is to be read for: mixtures, a regularized block, flows of folds.
    assert len(density.mixture_map_.weights) == 5
    assert density.n_blocks_ == 1
    assert [r.round for r in density.history_] == ["grow", "regularize"]
    assert density.history_[1].accepted
    assert len(density._fitted.fold_flows) == 3
    assert density.marginal_map_.columns.tolist() == [0, 1]
    assert len(density.marginal_map_.maps) == 2

    path = Path(__file__).with_name(f"density-{FORMAT_VERSION}.safetensors")
    density.save(path)
    rows = [[-1.0, -0.5, 2.0], [0.25, 0.5, 2.0], [3.0, 1.0, 2.001]]
    print("bytes", path.stat().st_size)
    print(
        "scores",
        density.score_samples(pd.DataFrame(rows, columns=list("abc"))).tolist(),
    )
    print("sample", density.sample(2, random_state=0).to_numpy().tolist())
    print("validation scores", density.validation_scores_.tolist())
    print("random state", density.random_state.randint(1000))


# pytest imports every module here to look for examples in it.
if __name__ == "__main__":
    main()
