"""A fitted outlier detector to and from a file, with the density inside.

The file is that of the density, as `persistence.py` has it, with what the detector
knows besides. Format version 1 of the latter is described by the functions at the end
of this module; the version of the density's part is told in the file as well.
"""

# SPDX-License-Identifier: BSD-3-Clause

import numpy as np

from skjko import persistence
from skjko.density import JKOFlowDensity
from skjko.flow.description import checked, is_count, is_flag
from skjko.parameters import plain_parameters, put_random_state, take_random_state

FORMAT_VERSION = 1


def _dismantle(detector, arrays):
    """Return a fitted detector as plain values; put the rest of it into `arrays`."""
    if type(detector.density_) is not JKOFlowDensity:
        raise ValueError(
            f"its density is a {type(detector.density_).__name__}, and would come back "
            "as a JKOFlowDensity"
        )
    states = []
    names = getattr(detector, "feature_names_in_", None)
    calibration = detector.calibration_scores_
    arrays["detector.offset"] = np.float64(detector.offset_)
    arrays["detector.typical_log_density"] = np.float64(detector.typical_log_density_)
    arrays["detector.noise"] = np.float64(detector.noise_)
    arrays["detector.candidates"] = detector._candidates
    if calibration is not None:
        arrays["detector.calibration_scores"] = calibration
    return {
        "parameters": plain_parameters(detector.get_params(deep=False), states),
        "random_states": [
            put_random_state(state, f"detector.random_states.{i}", arrays)
            for i, state in enumerate(states)
        ],
        "feature_names_in": None if names is None else [str(name) for name in names],
        "returns_frame": bool(detector._returns_frame),
        "n_trimmed": int(detector.n_trimmed_),
        "has_calibration": calibration is not None,
        "density_format": persistence.FORMAT_VERSION,
        "density": persistence.DENSITY.dismantle(detector.density_, arrays),
    }


def _assemble(cls, model, shelf, version):
    """Make a fitted detector from what `_dismantle` took it apart into."""
    checked(
        model,
        "model",
        parameters=lambda value: isinstance(value, dict),
        random_states=lambda value: isinstance(value, list),
        feature_names_in=lambda value: value is None or isinstance(value, list),
        returns_frame=is_flag,
        n_trimmed=is_count,
        has_calibration=is_flag,
        density_format=lambda value: is_count(value, 1),
        density=lambda value: isinstance(value, dict),
    )
    if model["density_format"] > persistence.FORMAT_VERSION:
        raise ValueError(
            f"its density has format version {model['density_format']}, and this "
            "version of skjko reads none above "
            f"{persistence.FORMAT_VERSION}. Load it with a newer skjko"
        )
    states = [
        take_random_state(plain, f"detector.random_states.{i}", shelf)
        for i, plain in enumerate(model["random_states"])
    ]
    detector = persistence.new_estimator(cls, model["parameters"], states)
    used = []
    plain_parameters(detector.get_params(deep=False), used)
    if len(used) < len(states):
        raise ValueError("a random state belongs to no parameter")
    density = persistence.DENSITY.assemble(
        JKOFlowDensity, model["density"], shelf, model["density_format"]
    )
    d = detector.n_features_in_ = density.n_features_in_
    names = model["feature_names_in"]
    if names is not None:
        detector.feature_names_in_ = persistence.feature_names(names, d)
    elif model["returns_frame"]:
        raise ValueError("there are no names for the data frames that it returns")
    detector.density_ = density
    detector.n_iter_ = density.n_iter_
    detector.n_trimmed_ = model["n_trimmed"]
    detector._returns_frame = model["returns_frame"]

    detector.offset_ = float(shelf.take_float64("detector.offset", (), finite=False))
    detector.typical_log_density_ = float(
        shelf.take_float64("detector.typical_log_density", ())
    )
    detector.noise_ = float(shelf.take_float64("detector.noise", (), least=0))
    detector._candidates = shelf.take_float64("detector.candidates", (None, d))
    detector.calibration_scores_ = scores = None
    if model["has_calibration"]:
        scores = shelf.take_float64(
            "detector.calibration_scores", (None,), finite=False
        )
        detector.calibration_scores_ = scores
    if scores is not None and not _is_sorted(scores):
        raise ValueError("the calibration scores are none, or not in order")
    if np.isnan(detector.offset_) or not len(detector._candidates):
        raise ValueError("the detector has no threshold, or no values to try")
    return detector


def _is_sorted(scores):
    """Whether there are some, in order, without NaN."""
    order = (scores[1:] >= scores[:-1]).all()
    return len(scores) > 0 and not np.isnan(scores).any() and order


DETECTOR = persistence.Form(FORMAT_VERSION, _dismantle, _assemble)
