"""What several test modules need."""

# SPDX-License-Identifier: BSD-3-Clause

import copy
import os
import random
import signal

import numpy as np
import torch

from skjko import JKOFlowDensity, MLPField, RungeKutta

QUICK = {
    "max_blocks": 2,
    "field": MLPField((8, 8)),
    "max_iter": 10,
    "learning_rate_init": 0.03,
    "solver": RungeKutta(n_steps=1),
    # What is tested is the flow, unless it is the mixture in front of it.
    "init": "gaussian",
    "transforms": None,
    "random_state": 0,
}


def quick(**parameters):
    """An estimator that trains in well under a second."""
    # A test may change the components of its estimator.
    return JKOFlowDensity(**{**copy.deepcopy(QUICK), **parameters})


def killer(path):
    """Return a function that kills the process of its first call, whichever that is.

    Workers of a cluster get it by value: they need not import this module.
    """

    def kill():
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    return kill


def killed_once(path):
    """An estimator as `quick`, whose first fit kills its process."""
    kill = killer(path)

    class KilledOnce(JKOFlowDensity):
        def fit(self, X, y=None, sample_weight=None):
            kill()
            return super().fit(X, y, sample_weight)

    return KilledOnce(**copy.deepcopy(QUICK))


def lumps(seed=2):
    """Rows with which more than one marginal map is tried, and radial ones behind all.

    Lumps, which have to do with each other: mixtures like columns' own best. And a
    column of heavy tails, which a flow gets a marginal map for.
    """
    rng = np.random.RandomState(seed)
    a, b = rng.standard_normal((2, 300))
    X = np.floor(np.column_stack([a, np.tanh(2 * a) + 0.5 * b]))
    return np.column_stack([X + 0.1 * rng.standard_normal(X.shape), np.sinh(2 * b)])


def process_state():
    """What belongs to the process, and so to everyone in it.

    Not the filters of warnings: scikit-learn sets and restores them, here and there,
    whenever it checks an array, and threads that do so at once may swap them.
    """
    kind, keys, *rest = np.random.get_state()
    return (
        (kind, tuple(keys), *rest),
        random.getstate(),
        tuple(torch.get_rng_state().tolist()),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.is_anomaly_enabled(),
        np.geterr(),
        dict(os.environ),
    )


def set_in(*place, value):
    """Return what sets an entry of a file's model, for files edited on purpose."""

    def change(model, arrays):
        *parents, last = place
        for key in parents:
            model = model[key]
        model[last] = value

    return change
