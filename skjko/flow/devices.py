"""Choice of the torch device."""

# SPDX-License-Identifier: BSD-3-Clause

import torch


def _is_available(kind):
    if kind == "cuda":
        return torch.cuda.is_available()
    if kind == "mps":
        return torch.backends.mps.is_available()
    return kind == "cpu"


def _parse(device):
    if device == "auto":
        return next(torch.device(d) for d in ("cuda", "mps", "cpu") if _is_available(d))
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            "The 'device' parameter must be 'auto' or the name of a torch device. "
            f"Got {device!r} instead."
        ) from error


def resolve(device):
    """Turn "auto" into the best device here: cuda, then mps, then cpu.

    Raises
    ------
    ValueError
        If a named device is unknown or does not exist here.
    """
    found = _parse(device)
    if not _is_available(found.type):
        raise ValueError(
            "The 'device' parameter must be 'auto' or a device of this machine. "
            f"Got {device!r} instead."
        )
    return found


def for_scoring(device):
    """Where float64 scores are computed: `device` if it can and exists, else cpu.

    A model fitted on a GPU still scores on a machine without one; mps has no float64.
    """
    found = _parse(device)
    return found if found.type == "cuda" and _is_available("cuda") else _parse("cpu")
