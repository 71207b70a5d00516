"""What a density can be made of: velocity fields, step sizes and solvers, as objects.

Each has `get_params` and `set_params`, so that grids over nested parameters work, such
as `field__hidden_layer_sizes`.
"""

# SPDX-License-Identifier: BSD-3-Clause

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.utils._param_validation import (
    Interval,
    StrOptions,
    validate_parameter_constraints,
)

from skjko.flow import fields, schedule
from skjko.typing import State

Activation: TypeAlias = Literal["auto", "fourier", "tanh", "silu"]
DIVERGENCES = ("exact", "hutchinson", "finite_difference")
# Jacobian-vector products, one a feature, whose cost the noise of an estimate outweighs
# (docs/divergences.md).
_MAX_PRODUCTS = 8


class Component(BaseEstimator):
    """Base class of the objects that describe a part of a density."""

    _parameter_constraints: dict = {}  # noqa: RUF012

    def check(self) -> None:
        """Raise an error if a parameter is invalid."""
        validate_parameter_constraints(
            self._parameter_constraints,
            self.get_params(deep=False),
            caller_name=type(self).__name__,
        )

    def get_state(self) -> State:
        """Return the parameters, for a file.

        Returns
        -------
        state : dict
            Parameters by their names.
        """
        return self.get_params(deep=False)

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Return the object of a state from `get_state`.

        Parameters
        ----------
        state : dict
            As `get_state` returns it.

        Returns
        -------
        component : Component
            Of this class, with checked parameters.

        Raises
        ------
        ValueError
            If the state lacks a parameter, or one is invalid.
        """
        if state.keys() != set(cls._get_param_names()):
            raise ValueError(f"the state of a {cls.__name__} is incomplete")
        self = cls(**state)
        try:
            self.check()
        except (TypeError, ValueError) as error:
            raise ValueError(str(error)) from error
        return self


class VelocityField(Component):
    """Base class of velocity fields; subclass it for one of your own.

    A subclass sets its parameters in `__init__`, as scikit-learn's estimators do, and
    implements `build`. If its features have a place, such as that of a pixel, it also
    sets `whitening`.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skjko import JKOFlowDensity, VelocityField
    >>> class Affine(torch.nn.Module):
    ...     def __init__(self, n_features):
    ...         super().__init__()
    ...         self.layer = torch.nn.Linear(n_features, n_features)
    ...         torch.nn.init.zeros_(self.layer.weight)
    ...         torch.nn.init.zeros_(self.layer.bias)
    ...     def forward(self, t, x, context=None):
    ...         return self.layer(x)
    >>> class AffineField(VelocityField):
    ...     def build(self, n_features, generator=None):
    ...         return Affine(n_features)
    >>> X = np.random.default_rng(0).exponential(size=(500, 2))
    >>> density = JKOFlowDensity(
    ...     field=AffineField(), max_blocks=1, max_iter=10, early_stopping=False
    ... ).fit(X)
    >>> density.field_
    AffineField()
    """

    whitening: Literal["pca", "scale", "zca"] = "pca"
    """Method of the `Whitening` in front of the blocks. With "scale" or "zca" features
    keep their places; `init="auto"` is "gaussian" then."""

    def resolve(self, n_samples: int, n_features: int) -> "VelocityField":
        """Return the field with concrete values in place of "auto".

        Parameters
        ----------
        n_samples, n_features : int
            Of the training data.

        Returns
        -------
        field : VelocityField
            By default a clone of this one.
        """
        return clone(self)

    def build(
        self, n_features: int, generator: torch.Generator | None = None
    ) -> torch.nn.Module:
        """Return a new field for some number of features.

        Parameters
        ----------
        n_features : int
            Dimension d of the positions.
        generator : torch.Generator, optional
            Source of random weights.

        Returns
        -------
        field : torch.nn.Module
            Its `forward(t, x, context=None)` maps a time, and positions of shape
            (n, d), to velocities of shape (n, d), every sample apart from the others.
            It should start as the zero field. A method `dynamics(context)`, if there
            is one, returns `(t, x) -> (velocity, divergence)` with a cheap exact
            divergence, which otherwise takes d Jacobian-vector products.

        Raises
        ------
        ValueError
            If there is no such field for so many features.

        Notes
        -----
        For `JKOFlowConditionalDensity` it needs one more parameter, `n_context=0`, the
        number of columns of the context.
        """
        raise NotImplementedError


class MLPField(VelocityField):
    """Velocity field of a multi-layer perceptron, f = MLP(x, t) + A x + b.

    Parameters
    ----------
    hidden_layer_sizes : int or tuple of int, default=(128, 128)
        Widths of the hidden layers; an int is the width of two. The divergence of up to
        two hidden layers has a closed form; that of more costs one Jacobian-vector
        product a feature. `()` is an affine field.

    activation : {"auto", "fourier", "tanh", "silu"}, default="auto"
        Nonlinearity of the hidden layers. "fourier" starts with random sines and
        cosines, which resolve fine structure, and goes on with tanh; "silu" grows
        linearly, which moves samples in heavy tails. "auto" is "fourier" for one to
        three features and "silu" for more.

    frequency : float or "auto", default="auto"
        Scale of the first layer's weights at the start: the inverse length, in standard
        deviations, of the finest structure that the field resolves; with "fourier"
        coarser structure is resolved as well. "auto" is 1 without "fourier". With it,
        "auto" rises with the number of samples n: 3 (n / 1000)^0.26, at least 3 and at
        most 12.

    time_dependent : bool, default=False
        Whether the velocity changes over a block's unit of time.

    residual : bool, default=False
        Whether every hidden layer but the first adds to what it is given, for networks
        of many layers. All widths have to be equal. There is no closed form.

    Examples
    --------
    >>> from skjko import MLPField
    >>> MLPField((64, 64)).resolve(n_samples=1000, n_features=2)
    MLPField(activation='fourier', frequency=3.0, hidden_layer_sizes=(64, 64))
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        "hidden_layer_sizes": [
            "array-like",
            Interval(Integral, 1, None, closed="left"),
        ],
        "activation": [StrOptions({"auto", *fields.ACTIVATIONS})],
        "frequency": [
            StrOptions({"auto"}),
            Interval(Real, 0, None, closed="neither"),
        ],
        "time_dependent": ["boolean"],
        "residual": ["boolean"],
    }

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (128, 128),
        activation: Activation = "auto",
        frequency: float | Literal["auto"] = "auto",
        time_dependent: bool = False,
        residual: bool = False,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.frequency = frequency
        self.time_dependent = time_dependent
        self.residual = residual

    def check(self) -> None:
        """Raise an error if a parameter is invalid."""
        super().check()
        self._sizes()

    def _sizes(self) -> tuple[int, ...]:
        """Widths of the hidden layers as a tuple."""
        sizes: Any = self.hidden_layer_sizes
        if isinstance(sizes, Integral) or np.ndim(sizes) == 0:
            sizes = (sizes, sizes)
        sizes, even = tuple(sizes), self.activation == "fourier"
        good = all(isinstance(n, Integral) and int(n) > 0 for n in sizes)
        if not good or (even and sizes and sizes[0] % 2):
            raise ValueError(
                f"The 'hidden_layer_sizes' parameter of {type(self).__name__} must be "
                "a positive int, or a sequence of them"
                f"{', the first of them even' if even else ''}. "
                f"Got {self.hidden_layer_sizes!r} instead."
            )
        if self.residual and len(set(sizes)) > 1:
            raise ValueError(
                f"The 'hidden_layer_sizes' parameter of {type(self).__name__} must be "
                "equal widths with residual=True. Got "
                f"{self.hidden_layer_sizes!r} instead."
            )
        return tuple(int(n) for n in sizes)

    def resolve(self, n_samples: int, n_features: int) -> "MLPField":
        """Return the field with concrete values in place of "auto"."""
        activation: Activation = self.activation
        frequency = self.frequency
        if activation == "auto":
            activation = "fourier" if n_features <= 3 else "silu"
        if frequency == "auto":
            frequency = 1.0
            if activation == "fourier":
                frequency = min(12.0, 3.0 * max(1.0, n_samples / 1000) ** 0.26)
        field = MLPField(
            self._sizes(), activation, frequency, self.time_dependent, self.residual
        )
        field._sizes()
        return field

    def build(
        self,
        n_features: int,
        generator: torch.Generator | None = None,
        n_context: int = 0,
    ) -> fields.MLP:
        """Return a new :class:`skjko.flow.fields.MLP`."""
        return fields.MLP(
            n_features,
            self._sizes(),
            self.activation,
            float(self.frequency),
            self.time_dependent,
            n_context,
            bool(self.residual),
            generator=generator,
        )


class JKOSchedule(Component):
    """Step sizes of the JKO scheme, and rounds that train the blocks again.

    Parameters
    ----------
    step_size : float, default=0.5
        JKO step size h of the first block. Small steps follow the Fokker-Planck
        equation, large ones go straight for the likelihood.

    growth : float, default=2.0
        Factor from one block's step size to the next one's.

    max_step_size : float, default=8.0
        Largest step size.

    free_block : bool, default=True
        Whether the last block has no transport cost (an infinite step size).

    movement_tol : float, default=0.01
        Training moves on to the free block when a block's mean squared displacement,
        relative to the mean squared length of the samples that it has moved, is below
        this and its gain is within the noise of validation.

    n_reparameterizations : int, default=0
        Largest number of rounds that train all blocks again, with step sizes under
        which their displacements are more even (Section 4.2 of Xu, Cheng, Xie, 2023).
        They end when displacements are even, or when that costs validation likelihood.

    n_refinements : int, default=0
        Largest number of rounds that split every block's time in two and train the
        halves again (same section). They end when validation likelihood gains no more.

    Examples
    --------
    >>> from skjko import JKOSchedule
    >>> JKOSchedule(step_size=0.5, growth=2.0).step_sizes(max_blocks=4)
    (0.5, 1.0, 2.0, inf)
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        "step_size": [Interval(Real, 0, None, closed="neither")],
        "growth": [Interval(Real, 1, None, closed="left")],
        "max_step_size": [Interval(Real, 0, None, closed="neither")],
        "free_block": ["boolean"],
        "movement_tol": [Interval(Real, 0, None, closed="left")],
        "n_reparameterizations": [Interval(Integral, 0, None, closed="left")],
        "n_refinements": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        step_size: float = 0.5,
        growth: float = 2.0,
        max_step_size: float = 8.0,
        free_block: bool = True,
        movement_tol: float = 0.01,
        n_reparameterizations: int = 0,
        n_refinements: int = 0,
    ) -> None:
        self.step_size = step_size
        self.growth = growth
        self.max_step_size = max_step_size
        self.free_block = free_block
        self.movement_tol = movement_tol
        self.n_reparameterizations = n_reparameterizations
        self.n_refinements = n_refinements

    def step_sizes(self, max_blocks: int) -> tuple[float, ...]:
        """Return the step sizes of so many blocks.

        Parameters
        ----------
        max_blocks : int
            Number of blocks, the free one included.

        Returns
        -------
        step_sizes : tuple of float
            One for every block; infinite for the free one.
        """
        return schedule.plan(
            self.step_size, self.growth, self.max_step_size, max_blocks, self.free_block
        )


class RungeKutta(Component):
    """Fixed-step solver of fourth order, and the divergence in training.

    Parameters
    ----------
    n_steps : int or "auto", default="auto"
        Steps through a block in training. "auto" is 1 from 2000 samples on, and 2
        below, for Fourier features and for fields that depend on time. They are doubled
        where a block gains by the solver's error.

    tol : float, default=5e-3
        Largest mean change of a log-density, in nats, by a finer grid. Scores use grids
        that are chosen by this at the end of `fit`.

    divergence : {"auto", "exact", "hutchinson", "finite_difference"}, default="auto"
        How training computes the divergence of the field: exactly, by Hutchinson's
        estimate with random signs, or by its finite-difference form (Appendix B.2 of
        Xu, Cheng, Xie, 2023). "auto" is exact where the field has a closed form, or up
        to 8 features, and Hutchinson's estimate, which is unbiased, elsewhere. Scores
        are always exact.

    n_probes : int, default=1
        Random probes of an estimated divergence, fixed within a solve.

    probe_scale : float, default=0.01
        Step sigma_0 of "finite_difference", in standard deviations; divided by the
        square root of the number of features.

    Examples
    --------
    >>> from skjko import JKOFlowDensity, RungeKutta
    >>> JKOFlowDensity(solver=RungeKutta(tol=1e-2)).get_params()["solver__tol"]
    0.01
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        "n_steps": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "divergence": [StrOptions({"auto", *DIVERGENCES})],
        "n_probes": [Interval(Integral, 1, None, closed="left")],
        "probe_scale": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(
        self,
        n_steps: int | Literal["auto"] = "auto",
        tol: float = 5e-3,
        divergence: Literal[
            "auto", "exact", "hutchinson", "finite_difference"
        ] = "auto",
        n_probes: int = 1,
        probe_scale: float = 0.01,
    ) -> None:
        self.n_steps = n_steps
        self.tol = tol
        self.divergence = divergence
        self.n_probes = n_probes
        self.probe_scale = probe_scale

    def divergence_of(self, field: torch.nn.Module, n_features: int) -> str:
        """Return the divergence in training, with a concrete value for "auto".

        Parameters
        ----------
        field : torch.nn.Module
            From `VelocityField.build`.
        n_features : int
            Dimension of the positions.

        Returns
        -------
        divergence : {"exact", "hutchinson", "finite_difference"}
            The cheapest without a bias, for "auto".
        """
        if self.divergence != "auto":
            return self.divergence
        is_cheap = fields.has_closed_form(field) or n_features <= _MAX_PRODUCTS
        return "exact" if is_cheap else "hutchinson"
