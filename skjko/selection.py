"""Selection of what stands in front of the flow, by successive halving.

A candidate is a chain of transforms, with a mixture of Gaussians at its end or without
one. Candidates are trained for a slice of the budget, those that have reached less on
the validation samples are dropped, and the others go on from where they are, until one
is left. Zero blocks behind a mixture are that mixture.
"""

# SPDX-License-Identifier: BSD-3-Clause

from dataclasses import dataclass

import numpy as np
from sklearn.base import clone

from skjko.candidates import Candidate, fold_of
from skjko.data import chunks
from skjko.transforms.asinh import Asinh
from skjko.transforms.base import Chain
from skjko.transforms.marginals import MarginalMixtures
from skjko.transforms.radial import Radial
from skjko.transforms.student import StudentT
from skjko.transforms.whitening import Whitening

# Shares of the time left that a slice of the candidates may take: mixtures with few
# components, a first block, both again, and a block for as long as it may catch up.
_MIXTURE_SHARE, _BLOCK_SHARE, _LAST_SHARE, _LONG_SHARE = 0.04, 0.05, 0.1, 0.5
# Iterations of a first block in the first slice, and in the last.
_N_FIRST, _N_LAST = 50, 100
# Floating-point operations of a mixture in the first slice, and in the last.
_FIRST_OPERATIONS, _LAST_OPERATIONS = 3e10, 2e11
# Training samples that a mixture is fitted to for a first look behind a block.
_N_TRIAL = 10_000
# Candidates that a first block is trained for, with one split and in cross-validation.
_N_KEPT, _N_KEPT_IN_FOLDS = 2, 1
# Mixtures of more features would cost more than they gain.
MAX_MIXTURE_FEATURES = 128
# Standard errors that a radial map has to gain, and a mixture over a flow.
_LEAST_GAIN = 1.0


@dataclass
class CandidateRecord:
    """What a candidate reached before it was dropped, or chosen.

    Attributes
    ----------
    transforms : str
        Names of the transforms in front of the whitening, or "none".
    start : str
        "gaussian" or "mixture": what stands in front of the blocks.
    score : float
        Mean log-density of the validation samples, in nats: of the chosen candidate
        in the end, of others when they were dropped.
    chosen : bool
        Whether the candidate was chosen.
    """

    transforms: str
    start: str
    score: float
    chosen: bool = False


class Selection:
    """Successive halving of the candidates of one fit.

    Parameters
    ----------
    splits : list
        Pairs of training and validation sets, each (samples, weights).
    config : FitConfig
    run : Run

    Attributes
    ----------
    records : list of CandidateRecord
    base_gains : bool
        Whether a mixture as the base gained behind the first block.
    fallback : Candidate or None
        A mixture that was dropped, for a flow that ends worse.
    """

    def __init__(self, splits, config, run):
        self._splits, self._config, self._run = _subset(splits), config, run
        self.records, self.base_gains, self.fallback = [], False, None

    def choose(self):
        """Return the chosen candidate, and "gaussian" or "mixture".

        A mixture that was chosen has grown for some time, and may grow on.
        """
        options = self._options()
        n_active = min(o.folds[0].train.x.shape[1] for o in options)
        may_mix = self._config.init != "gaussian" and (
            0 < n_active <= MAX_MIXTURE_FEATURES
        )
        if may_mix:
            options = self._with_radial(self._grown(options))
        options.sort(key=lambda option: -option.score)
        mixture = options[0] if may_mix else None
        has_flow = self._config.rounds.step_sizes and n_active > 0
        if may_mix and (self._config.init == "mixture" or not has_flow):
            return self._chosen(mixture, "mixture")
        if not has_flow:
            return self._chosen(options[0], "gaussian")
        if len(options) == 1 and not may_mix:
            return self._chosen(options[0], "gaussian")
        n_kept = _N_KEPT if len(self._splits) == 1 else _N_KEPT_IN_FOLDS
        gaussian = self._best_flow(options[:n_kept] if may_mix else options)
        if mixture is None:
            return self._chosen(gaussian, "gaussian")
        gaussian.pretrain(_LAST_SHARE, _N_LAST)
        gains = self._base_gains(gaussian)
        mixture.grow_mixture(self._run, _LAST_SHARE, _LAST_OPERATIONS)
        while mixture.gain_over(gaussian) > _LEAST_GAIN and gaussian.may_reach(
            mixture.score, self._run, _LONG_SHARE
        ):
            gaussian.pretrain(_LONG_SHARE, gaussian.trainer.n_pretrained)
            gains = self._base_gains(gaussian)
            # Else the block would be compared with a mixture that has stopped.
            mixture.grow_mixture(self._run, _LONG_SHARE, _LAST_OPERATIONS)
        if mixture.gain_over(gaussian) > _LEAST_GAIN:
            self._note(gaussian, "gaussian")
            return self._chosen(mixture, "mixture")
        self._note(mixture, "mixture")
        self.base_gains, self.fallback = gains, mixture
        return self._chosen(gaussian, "gaussian")

    def _base_gains(self, flow):
        """Whether a mixture as the base gains; if it does, it has grown like others."""
        few = _MIXTURE_SHARE, _FIRST_OPERATIONS, _N_TRIAL
        if not flow.try_base(self._run, "first", *few):
            return False
        flow.try_base(self._run, "last", _LAST_SHARE, _LAST_OPERATIONS)
        return True

    def _options(self):
        """Candidates with all column maps that change anything."""
        # What would map peaks of categories to one normal distribution undoes them.
        nominal, columns = self._config.support.nominal, None
        if len(nominal):
            columns = np.setdiff1d(np.arange(self._splits[0][0][0].shape[1]), nominal)
        maps = [MarginalMixtures(columns)]
        lists = {"none": [], "asinh": [Asinh()], "mixtures": maps}
        if self._config.transforms is None:
            lists = {"none": []}
        elif self._config.transforms != "auto":
            lists = {"given": list(self._config.transforms)}
        options = [self._candidate(name, maps) for name, maps in lists.items()]
        return [o for o in options if o is not None]

    def _candidate(self, name, maps):
        """A candidate with some maps in front of the whitening."""
        chains, folds, config = [], [], self._config
        for (X, weight), validation in self._splits:
            chain, mapped = fit_chain(config, maps, X, weight)
            chains.append(chain)
            if name in ("asinh", "mixtures") and not chain.find(type(maps[0])):
                return None
            folds.append(fold_of(chain, X, weight, validation, config.device, mapped))
        return Candidate(name, chains, folds, len(self._splits[0][0][0]))

    def _grown(self, options):
        for option in options:
            option.grow_mixture(self._run, _MIXTURE_SHARE, _FIRST_OPERATIONS)
        return options

    def _with_radial(self, options):
        """Add radial maps behind the best transforms, and behind none."""
        if self._config.transforms != "auto":
            return options
        best = max(options, key=lambda option: option.score)
        behind = {id(o): o for o in (best, *options) if o is best or o.name == "none"}
        for option in behind.values():
            radial = option.behind(Radial(), "radial")
            if radial is not None:
                self._grown([radial])
                if radial.gain_over(best) > _LEAST_GAIN:
                    options = [*options, radial]
        return options

    def _best_flow(self, options):
        """Train a first block behind each; return the best."""
        flows = [
            Candidate(f"{o.name}+flow", o.chains, o.folds, o.n_samples) for o in options
        ]
        for flow in flows:
            flow.start_flow(self._config.new_field, self._config.training, self._run)
            if len(flows) > 1:
                flow.pretrain(_BLOCK_SHARE, _N_FIRST)
        best = max(flows, key=lambda flow: flow.score)
        for flow in flows:
            if flow is not best:
                self._note(flow, "gaussian")
        return best

    def _note(self, candidate, start, chosen=False):
        maps = [m for m in candidate.chains[0] if not isinstance(m, Whitening)]
        names = " + ".join(type(m).__name__ for m in maps) or "none"
        self.records.append(CandidateRecord(names, start, candidate.score, chosen))

    def _chosen(self, candidate, start):
        self._note(candidate, start, chosen=True)
        return candidate, start


def fit_chain(config, maps, X, weight):
    """Return fitted bounds, maps and whitening, and what they map X to."""
    steps = config.support.maps
    if config.location_scale is not None:
        # A residual far out may come, even if none has come yet.
        steps += [config.location_scale, StudentT()]
    steps += [clone(step) for step in maps]
    if not any(isinstance(step, Whitening) for step in maps):
        steps.append(Whitening(config.whitening))
    return Chain(steps).fit_forward(X, weight)


def plain_candidate(splits, config):
    """Return the candidate without maps in front of the whitening."""
    chains = [fit_chain(config, [], *train)[0] for train, _ in splits]
    folds = [
        fold_of(chain, *train, validation, config.device)
        for chain, (train, validation) in zip(chains, splits, strict=True)
    ]
    return Candidate("none", chains, folds, len(splits[0][0][0]))


def _subset(splits):
    """Splits with so many training samples as selection looks at.

    Samples with the extreme values of a feature are always among them, with the weight
    that they have among all: a feature that is constant but for them has to show it.
    """
    d = splits[0][0][0].shape[1]
    size = max(50_000, min(150 * d * (d + 3) // 2, 2 * 10**7 // d))
    chosen = []
    for (X, weight), validation in splits:
        if len(X) > size:
            some = np.linspace(0, len(X) - 1, size).astype(int)
            extreme = np.setdiff1d(chunks.extremes(X), some)
            scale = np.r_[np.full(size, len(X) / size), np.ones(len(extreme))]
            some = np.r_[some, extreme]
            order = np.argsort(some)
            X, weight = X[some[order]], (weight[some] * scale)[order]
        chosen.append(((X, weight), validation))
    return chosen
