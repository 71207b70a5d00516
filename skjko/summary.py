"""A fitted density, and a detector, in words; the former as HTML."""

# SPDX-License-Identifier: BSD-3-Clause

import html
import math

import numpy as np

from skjko.missing import TOL
from skjko.transforms.atoms import Atoms
from skjko.transforms.mixture_map import MixtureMap
from skjko.transforms.normal_cells import NormalCells
from skjko.transforms.whitening import Whitening

_COLUMNS = (
    ("block", 5),
    ("step size", 9),
    ("displacement", 12),
    ("iterations", 10),
    ("solver steps", 12),
    ("solver error", 12),
    ("score", 9),
    ("gain", 8),
)
_DIVERGENCES = {
    "exact": "exact",
    "hutchinson": "Hutchinson's estimate",
    "finite_difference": "by finite differences",
}
_ROUNDS = {
    "extend": "the last block, further",
    "regularize": "one block with weight decay, in place of all",
    "reparameterize": "all blocks, with more even displacements",
    "refine": "all blocks, each split in two",
}
# Below this effective number of samples a fit warns.
_FEW_EFFECTIVE = 50


def summarize(density, divergence):
    """Return a description of a fitted density, a few lines of text.

    Parameters
    ----------
    density : FittedFlow
    divergence : str
        That it was trained with.
    """
    lines = [f"{type(density).__name__}: {_what(density)}."]
    lines += [f"  {line}" for line in (*_how(density, divergence), *_why(density))]
    if density.n_blocks_:
        lines += ["", *_table(density)]
    for r in density.history_:
        if r.round != "grow":
            n = f", {_plural(len(r.step_sizes), 'block')}" if r.accepted else ""
            lines.append(told_round(r.round, r.accepted) + n)
    return "\n".join(lines)


def summarize_detector(detector, statistic, n_kernels, scales):
    """Return a description of a fitted outlier detector, a few lines of text.

    Parameters
    ----------
    detector : JKOFlowOutlierDetector
    statistic : str
        That it was fitted with.
    n_kernels : int
    scales : list of pairs of float
        Median and spread of the log-density, and of that by kernels. None without
        kernels.
    """
    lines = [f"score: {statistic}"]
    if n_kernels:
        lines[0] += f", of the density and {_plural(n_kernels, 'kernel')}"
        for name, (median, spread) in zip(("density", "kernels"), scales, strict=True):
            lines.append(
                f"{name}: median {median:.4g}, lower quartile {spread:.3g} less"
            )
    elif statistic == "typicality":
        lines.append(f"typical log-density: {detector.typical_log_density_:.4g} nats")
    lines.append(f"threshold: {detector.offset_:.4g}")
    scores = detector.calibration_scores_
    if scores is None:
        lines.append("no calibration samples: no p-values, no test for drift")
    else:
        n, share = len(scores), np.mean(scores < detector.offset_)
        lines[-1] += f", above {share:.1%} of the calibration samples"
        lines.append(f"calibration samples: {n}, p-values from {1 / (n + 1):.2g} on")
    if detector.n_trimmed_:
        lines.append(f"trimmed: {_plural(detector.n_trimmed_, 'training sample')}")
    text = "\n".join(f"  {line}" for line in lines)
    return f"{type(detector).__name__}:\n{text}\n{detector.density_.summary()}"


def told_round(kind, accepted):
    """Return what became of a round of training, as text."""
    became = "accepted" if accepted else "rejected by the validation score"
    # A file may have any kind.
    return f"round {kind} ({_ROUNDS.get(kind, kind)}): {became}"


def to_html(density, inner):
    """Return HTML with the summary of a fitted density in front of the parameters."""
    if not hasattr(density, "transforms_"):
        return inner
    return f"<pre>{html.escape(density.summary())}</pre>{inner}"


def _plural(n, noun):
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _what(density):
    """What the density is."""
    d, n = density.n_features_in_, density.n_blocks_
    mixture, base = density.transforms_.find(MixtureMap), density.base_
    flow = _plural(n, "flow block") if n else "no flow blocks"
    if mixture is not None:
        kind = f"mixture of {mixture.n_components_} Gaussians, {flow}"
    elif base is not None:
        kind = f"{flow}, mixture of {base.n_components_} Gaussians as the base"
    else:
        kind = flow if n else "Gaussian, no flow blocks"
    return f"{kind}, {_plural(d, 'feature')}"


def _how(density, divergence):
    """What the blocks were trained with."""
    if density.n_blocks_:
        kind = type(density.field_).__name__
        yield f"field: {kind}, divergence in training: {_DIVERGENCES[divergence]}"


def _why(density):
    """Which transforms there are, and what selection preferred."""
    names = density._table.names
    for step in density.transforms_:
        if isinstance(step, (Atoms, NormalCells, Whitening, MixtureMap)):
            continue
        columns = getattr(step, "columns_", None)
        where = "" if columns is None else f" of {_features(columns, names)}"
        yield f"transform: {type(step).__name__}{where}"
    support = density.support_
    bounded = np.flatnonzero(np.isfinite(support.lower) | np.isfinite(support.upper))
    for what, which in (
        ("bounded", bounded),
        ("discrete", support.grid.columns),
        ("constant", support.grid.constant),
    ):
        if len(which):
            yield f"{what}: {_features(which, names)}"
    atoms = support.atoms
    told = zip(atoms.columns, atoms.values, atoms.shares, strict=True)
    for j, value, share in told:
        yield f"atom: {_features([j], names)} at {value:g}, {share:.0%} of the samples"
    n_degenerate = density.transforms_.n_degenerate_ - density.transforms_.n_context_
    if n_degenerate:
        yield f"{_plural(n_degenerate, 'degenerate direction')}, outside of the flow"
    missing = getattr(density, "missing_", None)
    if missing is not None:
        how = "exact"
        if not missing.is_exact:
            how = f"by {missing.n_draws} imputations, {missing.error:.2g} nats off"
        where = _features(np.flatnonzero(missing.seen), names)
        yield f"missing values: in {where}, scores of the others {how}"
        if missing.n_left_out:
            n = _plural(missing.n_left_out, "incomplete sample")
            yield f"left out of the training: {n}, which a mixture is better without"
    chosen = [c for c in density.selection_ if c.chosen]
    others = [c for c in density.selection_ if not c.chosen]
    if chosen and others:
        best = max(others, key=lambda c: c.score)
        yield (
            f"selection: validation preferred the {_start(chosen[0], _kind(density))} "
            f"to the {_start(best)} by {chosen[0].score - best.score:.3f} nats"
        )
    scores = density.validation_scores_
    if scores is not None:
        yield f"validation score: {scores[-1]:.4f} nats"


def _kind(density):
    """The fitted density in a word."""
    if density.transforms_.find(MixtureMap) is not None:
        return "mixture"
    return "flow" if density.n_blocks_ else "Gaussian"


def _start(candidate, what=None):
    """A candidate in words."""
    what = what or ("mixture" if candidate.start == "mixture" else "flow")
    maps = "" if candidate.transforms == "none" else f" behind {candidate.transforms}"
    return what + maps


def _features(columns, names, most=6):
    columns = list(columns)
    told = [str(j) if names is None else repr(names[j]) for j in columns[:most]]
    more = f" and {len(columns) - most} more" if len(columns) > most else ""
    return f"{'feature' if len(columns) == 1 else 'features'} {', '.join(told)}{more}"


def _table(density):
    """Lines of a table of the blocks."""

    def line(*cells):
        pairs = zip(cells, _COLUMNS, strict=True)
        return "  ".join(f"{cell:>{width}}" for cell, (_, width) in pairs).rstrip()

    scores = density.validation_scores_
    yield line(*(name for name, _ in _COLUMNS))
    first = "" if scores is None else f"{scores[0]:.4f}"
    yield line(0, "", "", "", "", "", first, "")
    for k in range(density.n_blocks_):
        h = density.step_sizes_[k]
        has_scores = scores is not None
        yield line(
            k + 1,
            "free" if math.isinf(h) else f"{h:.3g}",
            f"{density.movements_[k]:.3f}",
            int(density.n_iter_per_block_[k]),
            int(density.n_ode_steps_[k]),
            f"{density.solver_errors_[k, 0]:.1e}",
            f"{scores[k + 1]:.4f}" if has_scores else "",
            f"{scores[k + 1] - scores[k]:.4f}" if has_scores else "",
        )
    if density.base_ is not None and scores is not None:
        gain = f"{scores[-1] - scores[-2]:.4f}"
        yield line("base", "", "", "", "", "", f"{scores[-1]:.4f}", gain)


def fit_warnings(fitted, errors, tol, n_samples, n_effective):
    """Yield what to warn of after a fit.

    Parameters
    ----------
    fitted : Fitted
    errors : list of Discretization
        One a block.
    tol : float
        Of the log-density, in nats, for all blocks together.
    n_samples : int
    n_effective : float
        Effective number of samples, by their weights.
    """
    if n_effective < min(_FEW_EFFECTIVE, n_samples / 2):
        yield (
            f"The effective number of samples, by their weights, is {n_effective:.1f} "
            f"of {n_samples}. So few cannot tell a density from noise."
        )
    missing = fitted.model.missing
    if missing is not None and missing.error > TOL:
        yield (
            f"Scores of samples with missing values are {missing.error:.2g} nats off "
            f"in the mean, as averages over {missing.n_draws} imputations. They are "
            "exact with max_blocks=0 and no Radial among the transforms."
        )
    for k in fitted.failed:
        yield (
            f"Block {k} was left out: its training exploded again and again, at "
            "ever smaller learning rates. Lower learning_rate_init or the field's "
            "frequency, or look for extreme values in the data."
        )
    if fitted.interrupted:
        yield (
            f"The training was interrupted. The model has the {len(fitted.model.flow)} "
            "flow blocks that were finished."
        )
    wide = [
        f"{k} (mean {error.mean:.2g}, 99th percentile {error.quantile:.2g})"
        for k, error in enumerate(errors, start=1)
        if error.exceeds(tol / len(errors))
    ]
    if wide:
        yield (
            "The log-densities of these blocks still change, in nats, on a finer "
            f"solver grid: {', '.join(wide)}. Lower learning_rate_init or the "
            "field's frequency, or raise the solver's n_steps."
        )
