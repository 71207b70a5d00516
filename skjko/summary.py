"""What a fitted flow is, as text."""

# SPDX-License-Identifier: BSD-3-Clause

import math


def summarize(density):
    """Return a table of the blocks of a fitted `JKOFlowDensity`, one line each."""
    scores = density.validation_scores_
    d = density.n_features_in_
    lines = [
        f"{type(density).__name__}: {d} column{'s' * (d != 1)}, "
        f"{density.n_blocks_} block{'s' * (density.n_blocks_ != 1)}, "
        f"{density.n_iter_} iterations",
        f"{'block':>5}  {'step size':>9}  {'movement':>8}  {'iterations':>10}  "
        f"{'ODE steps':>9}  {'solver gap':>10}  {'validation NLL':>14}",
    ]

    def line(*cells):
        widths = (5, 9, 8, 10, 9, 10, 14)
        return "  ".join(
            f"{c:>{w}}" for c, w in zip(cells, widths, strict=True)
        ).rstrip()

    def nll(k):
        return "" if scores is None else f"{-scores[k]:.4f}"

    mixture = density.mixture_map_
    start = "Gaussian" if mixture is None else f"{len(mixture.weights)} parts"
    lines.append(line(0, start, "", "", "", "", nll(0)))
    for k in range(density.n_blocks_):
        h = density.step_sizes_[k]
        lines.append(
            line(
                k + 1,
                "free" if math.isinf(h) else f"{h:.3g}",
                f"{density.movements_[k]:.3f}",
                int(density.n_iter_per_block_[k]),
                int(density.n_ode_steps_[k]),
                f"{density.solver_gaps_[k, 0]:.1e}",
                nll(k + 1),
            )
        )
    rounds = [r for r in density.history_ if r.round != "grow"]
    lines += [
        f"round {r.round}: {'accepted' if r.accepted else 'rejected'}, "
        f"{len(r.step_sizes)} blocks"
        for r in rounds
    ]
    return "\n".join(lines)
