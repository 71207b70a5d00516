"""Choice of the torch device."""

# SPDX-License-Identifier: BSD-3-Clause

import torch


def is_available(device):
    """Whether tensors can be put on this device here."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_available()
    if kind == "mps":
        return torch.backends.mps.is_available()
    return kind == "cpu"


def resolve(device):
    """Turn "auto" into the best device here: cuda, then mps, then cpu.

    Raises
    ------
    ValueError
        If a named device does not exist here.
    """
    if device == "auto":
        return next(torch.device(d) for d in ("cuda", "mps", "cpu") if is_available(d))
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"{device!r} is not a torch device.") from error
    if not is_available(found):
        raise ValueError(f"the device {device!r} is not available on this machine.")
    return found


def for_scoring(device):
    """Where float64 scores are computed: `device` if it can and exists, else cpu.

    A model fitted on a GPU still scores on a machine without one; mps has no float64.
    """
    kind = "cpu" if device == "auto" or not is_available(device) else device
    if device == "auto" and is_available("cuda"):
        kind = "cuda"
    return torch.device("cpu" if torch.device(kind).type == "mps" else kind)
