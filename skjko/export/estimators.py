"""The method `export` of fitted estimators."""

# SPDX-License-Identifier: BSD-3-Clause

import os
from typing import Any, Literal

import numpy as np
from sklearn.utils.validation import check_is_fitted
from torch import nn

from skjko.data.categories import Categories
from skjko.data.frames import Table
from skjko.export import files
from skjko.export.scorer import Scorer
from skjko.transforms.base import Chain
from skjko.transforms.whitening import Whitening
from skjko.version import __version__


class Exported:
    """An estimator whose scores can be written as a graph for other engines."""

    n_features_in_: int
    _categories: Categories
    _table: Table

    def _scoring_module(self) -> tuple[nn.Module, tuple[str, ...]]:
        """Module of the scores, and names of its outputs."""
        raise NotImplementedError

    def export(
        self,
        path: str | os.PathLike[str],
        format: Literal["onnx", "torch"] = "onnx",
    ) -> None:
        """Write the scores as one graph, which runs without this library.

        The graph maps raw columns "X", float64 of shape (n_samples, n_features) with
        any number of samples, to float64 of shape (n_samples,): "log_density" in nats
        as `score_samples` computes it, and for a detector "score" and "decision". It
        has the bounds, discrete cells, transforms, blocks with exact divergence, and
        the base. Samples with NaN have a log-density of -inf.

        Parameters
        ----------
        path : str or path-like
            File to write, such as "model.onnx" or "model.pt2".
        format : {"onnx", "torch"}, default="onnx"
            "onnx" is for ONNX Runtime and others, and needs `skjko[onnx]`; "torch" is
            what `torch.export.load` reads.

        Raises
        ------
        ValueError
            If a part of the model cannot be exported, such as columns of categories.
        ImportError
            If a package is missing.

        Notes
        -----
        Names of the columns, class and version are in the file: as `metadata_props` of
        ONNX, as the extra file "skjko.json" of torch. Integers beyond 2^53 and decimals
        have to be converted to float64 by the caller, as `fit` did.
        """
        check_is_fitted(self)
        owner = type(self).__name__
        if format not in ("onnx", "torch"):
            raise ValueError(
                f"The 'format' parameter of {owner}.export must be 'onnx' or 'torch'. "
                f"Got {format!r} instead."
            )
        coded = self._categories.columns
        if coded:
            names = ", ".join(self._table.label(j) for j in coded)
            raise ValueError(
                f"{owner}.export takes columns of numbers, but the model has "
                f"categories in {names}. Encode them before fit."
            )
        try:
            module, outputs = self._scoring_module()
        except NotImplementedError as error:
            raise ValueError(f"{owner}.export cannot export {error}.") from error
        names = getattr(self, "feature_names_in_", None)
        metadata = {
            "estimator": owner,
            "skjko_version": __version__,
            "n_features": str(self.n_features_in_),
            "feature_names": None if names is None else [str(n) for n in names],
            "unit": "nats, per data unit",
        }
        files.write(module, self.n_features_in_, path, format, outputs, metadata)


def scorer(estimator: Any, table: Table) -> Scorer:
    """Return the module of a fitted density.

    Parameters
    ----------
    estimator : JKOFlowDensity
        Fitted.
    table : Table
        Names of its features.

    Raises
    ------
    NotImplementedError
        That names what cannot be exported.
    """
    whitening = estimator.transforms_.find(Whitening)
    if whitening is not None and whitening.n_degenerate_:
        last = whitening.vectors_[:, -whitening.n_degenerate_ :]
        # Those of constant features are of one feature each.
        if ((last != 0).sum(axis=0) > 1).any():
            mixed = np.flatnonzero(whitening.degenerate_features_)
            names = ", ".join(table.label(int(j)) for j in mixed)
            raise NotImplementedError(
                f"columns that depend linearly on each other ({names}): their scores "
                "are in units of rounding, which other engines do not repeat. Drop "
                "one of them before fit"
            )
    base = Chain([] if estimator.base_ is None else [estimator.base_])
    return Scorer(estimator.support_, estimator.transforms_, estimator.flow_, base)
