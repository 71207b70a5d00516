"""How many blocks there is time for, by a few iterations of one."""

# SPDX-License-Identifier: BSD-3-Clause

import math

from skjko.flow.block_training import BlockFit, iterations

# Under a time limit blocks are so few that each gets so many iterations, or sees every
# sample so often. A pilot of some iterations tells how long they take.
_MIN_ITERATIONS, _MIN_EPOCHS, _N_WARM_UP, _N_PILOT = 400, 25, 2, 4


def enough_iterations(n_samples, batch_size):
    """Return the iterations in which a block sees all samples often enough."""
    return iterations(_MIN_EPOCHS, n_samples, batch_size)


def n_affordable(n_blocks, folds, new_blocks, config, job):
    """Return how many of some blocks there is time for.

    Parameters
    ----------
    n_blocks : int
    folds : list of Fold
    new_blocks : callable
        Returns blocks to begin with, one a fold.
    config : TrainingConfig
    job : Job
    """
    if n_blocks == 1 or math.isinf(job.budget.seconds):
        return n_blocks
    pilot = BlockFit(folds, new_blocks(), config, job)
    pilot.run(_N_WARM_UP)
    begin = job.budget.clock()
    pilot.run(_N_WARM_UP + _N_PILOT)
    seconds = (job.budget.clock() - begin) / _N_PILOT
    n = max(len(fold.train) for fold in folds)
    enough = min(enough_iterations(n, config.batch_size), config.max_iter)
    needed = seconds * max(_MIN_ITERATIONS, enough)
    return int(job.budget.seconds / needed) if needed else n_blocks
