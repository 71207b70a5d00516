"""Modules as files of ONNX and of torch.export."""

# SPDX-License-Identifier: BSD-3-Clause

import io
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from skjko.io import format as file_format

METADATA = "skjko.json"
"""Name of the extra file that has the metadata in files of torch.export."""


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch says of itself: its own deprecations, and torchvision."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def write(
    module: nn.Module,
    n_features: int,
    path: str | os.PathLike[str],
    format: str,
    outputs: Sequence[str],
    metadata: Mapping[str, object],
) -> None:
    """Write a module as one graph, for any number of samples.

    Parameters
    ----------
    module : Module
        Maps float64 samples of shape (n, n_features).
    n_features : int
    path : str or path-like
        Of the file, which is replaced.
    format : {"onnx", "torch"}
    outputs : sequence of str
        Names of what the module returns.
    metadata : dict
        Of values that JSON can hold.
    """
    if format == "onnx":
        _need_onnx()
    # One sample would become a constant of the graph.
    example = (torch.zeros(2, n_features, dtype=torch.float64),)
    rows = {0: torch.export.Dim("n_samples", min=1)}
    with _quietly(), torch.no_grad():
        module = module.requires_grad_(False).eval()
        program = torch.export.export(module, example, dynamic_shapes={"X": rows})
        if format == "torch":
            buffer = io.BytesIO()
            extra = {METADATA: json.dumps(metadata)}
            torch.export.save(program, buffer, extra_files=extra)
            file_format.write(path, buffer.getvalue())
            return
        graph = torch.onnx.export(
            program,
            example,
            input_names=["X"],
            output_names=list(outputs),
            dynamo=True,
            verbose=False,
        )
        assert graph is not None  # It is where the exporter is that of torch.export.
        for key, value in metadata.items():
            text = value if isinstance(value, str) else json.dumps(value)
            graph.model.metadata_props[key] = text
        file_format.write(path, graph.model_proto.SerializeToString())


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise ImportError(
            'export(format="onnx") needs the packages onnx and onnxscript: '
            'pip install "skjko[onnx]"'
        ) from None
