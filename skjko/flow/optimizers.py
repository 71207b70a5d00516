"""Optimizers: AdamW, and Muon for matrices between hidden layers.

torch has both, and tests compare with them. They are not used: the first of torch's
optimizers in a process imports its compiler, which takes 1.9 s (AMD EPYC), as long as a
fit of few samples; and its Muon works in bfloat16, which takes 27 ms in place of 2 ms
for 128 x 128 on processors without it (`benchmarks/optimizers.py`).
"""

# SPDX-License-Identifier: BSD-3-Clause

import math

import torch


class Adam:
    """Adam with decoupled weight decay (AdamW).

    Kingma and Ba, "Adam: A Method for Stochastic Optimization" (2015), Algorithm 1;
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019), Algorithm 2.

    Parameters
    ----------
    parameters : list of Parameter
    decaying : sequence of Parameter
        Those of them that decay.
    decay : float
        Weight decay, relative to the learning rate.
    """

    _BETAS, _EPS = (0.9, 0.99), 1e-8

    def __init__(self, parameters, decaying=(), decay=0.0):
        self._parameters, self._decay = parameters, decay
        self._decaying = decaying if decay else ()
        self._n_steps = 0
        self._means = [torch.zeros_like(p) for p in parameters]
        self._squares = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self, rate):
        """Move the parameters that have a gradient, at a learning rate."""
        self._n_steps += 1
        first, second = self._BETAS
        grown = math.sqrt(1 - second**self._n_steps)
        length = rate * grown / (1 - first**self._n_steps)
        moving = zip(self._parameters, self._means, self._squares, strict=True)
        moving = [(p, p.grad, *rest) for p, *rest in moving if p.grad is not None]
        if not moving:
            return
        parameters, grads, means, squares = map(list, zip(*moving, strict=True))
        torch._foreach_lerp_(means, grads, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, grads, grads, value=1 - second)
        decaying = [p for p in self._decaying if p.grad is not None]
        if decaying:
            torch._foreach_mul_(decaying, 1 - rate * self._decay)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_add_(roots, self._EPS * grown)
        torch._foreach_addcdiv_(parameters, means, roots, value=-length)

    @property
    def state(self):
        """What the next steps depend on, besides parameters and gradients."""
        return self._n_steps, _copies(self._means), _copies(self._squares)

    @state.setter
    def state(self, state):
        self._n_steps, means, squares = state
        self._means, self._squares = _copies(means), _copies(squares)


class Muon:
    """Momentum, orthogonalized: all directions of a matrix learn at the same rate.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024).

    Parameters
    ----------
    parameters : list of Parameter
        Matrices.
    decay : float
        Weight decay, relative to the learning rate.
    """

    _MOMENTUM = 0.9

    def __init__(self, parameters, decay=0.0):
        self._parameters, self._decay = parameters, decay
        self._means = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self, rate):
        """Move the parameters that have a gradient, at a learning rate."""
        for p, mean in zip(self._parameters, self._means, strict=True):
            if p.grad is None:
                continue
            mean.lerp_(p.grad, 1 - self._MOMENTUM)
            if self._decay:
                p.mul_(1 - rate * self._decay)
            # Nesterov's momentum looks ahead by the present gradient.
            direction = orthogonalized(p.grad.lerp(mean, self._MOMENTUM))
            length = rate * math.sqrt(max(1.0, p.shape[-2] / p.shape[-1]))
            p.add_(direction, alpha=-length)

    @property
    def state(self):
        """What the next steps depend on, besides parameters and gradients."""
        return _copies(self._means)

    @state.setter
    def state(self, state):
        self._means = _copies(state)


def of(parameters, n_features, config):
    """Return pairs of an optimizer and its share of the learning rate.

    Muon trains matrices between hidden layers (larger than d both ways), AdamW the
    rest. Biases do not decay.
    """
    is_hidden = [p.ndim == 2 and min(p.shape) > n_features for p in parameters]
    if not config.muon:
        is_hidden = [False] * len(parameters)
    hidden = [p for p, yes in zip(parameters, is_hidden, strict=True) if yes]
    rest = [p for p, yes in zip(parameters, is_hidden, strict=True) if not yes]
    pairs = [(Adam(rest, [p for p in rest if p.ndim >= 2], config.alpha), 1.0)]
    if hidden:
        ratio = config.muon_rate
        pairs.append((Muon(hidden, config.alpha / ratio), ratio))
    return pairs


def orthogonalized(matrix):
    """Return the matrix with singular values moved near one.

    Five steps of a Newton-Schulz iteration: in each, a singular value s becomes
    a s + b s^3 + c s^5. Small ones grow by a factor of a, and none settles: those above
    0.002 of the Frobenius norm end between 0.68 and 1.21.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    is_tall = matrix.shape[-2] > matrix.shape[-1]
    wide = matrix.mT if is_tall else matrix
    x = wide / torch.linalg.matrix_norm(wide, keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def _copies(tensors):
    return [tensor.clone() for tensor in tensors]
