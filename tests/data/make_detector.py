"""Make the golden file of a detector: python tests/data/make_detector.py.

Only for a new format version, of detectors or of densities. Files of older versions
stay as they are, for it is them that users have.
"""

# SPDX-License-Identifier: BSD-3-Clause

from pathlib import Path

import numpy as np
import pandas as pd

from skjko import JKOFlowOutlierDetector
from skjko.outlier_persistence import FORMAT_VERSION


def main():
    base = np.random.RandomState(0).standard_normal((300, 2))
    bent = np.tanh(2 * base[:, 0]) + 0.3 * base[:, 1]
    frame = pd.DataFrame({"a": base[:, 0], "b": bent})
    detector = JKOFlowOutlierDetector(
        hidden_layer_sizes=(6, 4),
        max_iter=40,
        trim=0.02,
        statistic="typicality",
        false_alarm_rate=0.1,
        random_state=np.random.RandomState(1),
    ).fit(frame)
    # What the file is to be read for.
    assert detector.density_.n_blocks_ == 1
    assert detector.n_trimmed_ == 5
    assert len(detector.calibration_scores_) == 30

    path = Path(__file__).with_name(f"detector-{FORMAT_VERSION}.safetensors")
    detector.save(path)
    rows = pd.DataFrame([[-1.0, -0.5], [0.25, 0.5], [3.0, -1.0]], columns=["a", "b"])
    print("bytes", path.stat().st_size)
    print("scores", detector.score_samples(rows).tolist())
    print("p-values", detector.p_values(rows).tolist())
    print("offset", detector.offset_)
    print("explanation", detector.explain(rows).to_numpy().tolist())
    print("random state", detector.random_state.randint(1000))


# pytest imports every module here to look for examples in it.
if __name__ == "__main__":
    main()
