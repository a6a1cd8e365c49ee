"""What a training run, finite or infinite, leaves behind: (time, sample) arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from widthwise import check
from widthwise.checked import Numbers, checked

_KERNEL, _TWO_TIMES = ("kept", "point", "point"), ("layer", "kept", "point", "kept", "point")
AXES = {
    "f": ("step", "point", "output"),
    **dict.fromkeys(("loss", "test_loss", "accuracy"), ("step",)),
    **dict.fromkeys(("Phi", "G", "phi_r", "g_u"), _TWO_TIMES),
    **dict.fromkeys(("NTK", "kernels", "gradient_kernels"), _KERNEL),
    "eigenvalues": ("kept", "eigenvalue"),
    **dict.fromkeys(("sharpness", "hessian", "update_size/"), ("kept",)),
    "update_size": ("kept", "layer"),
    **dict.fromkeys(("h", "z"), ("kept", "layer", "point", "neuron")),
    "h/": ("kept", "point", "neuron"),
    "attention": ("kept", "point", "head", "site", "site"),
}
"""Axes of the observables of one run, by name; "name/" those of one field."""


def axes_of(name: str, shape: Sequence[int]) -> list[str]:
    """A name for every axis of an observable; what has more than we know of is numbered.

    Example:
        >>> axes_of("loss", (11,)), axes_of("h/h1", (2, 8, 4, 4, 16))
        (['step'], ['kept', 'point', 'site', 'site', 'neuron'])
    """
    plain, _, of_field = name.partition("/")
    axes = AXES.get(f"{plain}/" if of_field else "", AXES.get(plain.rstrip("0123456789"), ()))
    more = len(shape) - len(axes)
    if plain == "h" and of_field:
        return [*axes[:-1], *["site"] * more, axes[-1]]
    return [*axes[: len(shape)], *(f"axis {i}" for i in range(len(axes), len(shape)))]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trajectory:
    """Observables of one run, or of many with a leading axis.

    Index t is the state before update t: 0 is initialisation, T the state after the last update. Everything at index t is
    measured on the same parameters. Samples run over the P train points, then the Q test points; M = P + Q.

    Attributes:
        steps: (T+1,) 0 ... T.
        f: (..., T+1, M) network outputs, in units of y; (..., T+1, M, C) where y has C outputs. (Online training is watched at
            the test points alone, M = Q.)
        loss: (..., T+1) the loss, mean over train points; of the batch of each step, before its update and without label
            noise, if training is online.
        test_loss: (..., T+1) the same over test points, or None without test targets.
        kernel_steps: (K,) the steps at which kernels are kept.
        Phi: (..., L, K, M, K, M) feature kernels Phi^l_mn(t, s) = <phi(h^l_m(t)) phi(h^l_n(s))>, l = 1 ... L at index
            l - 1, axes (t, m, s, n); or None.
        G: (..., L, K, M, K, M) gradient kernels G^l_mn(t, s) = <g^l_m(t) g^l_n(s)>, likewise; with C outputs their mean.
        more: other observables by name, at the kept steps: see `NAMES`.
    """

    steps: Int[Any, "states"]
    f: Float[Any, "*runs states points"]
    loss: Float[Any, "*runs states"]
    test_loss: Float[Any, "*runs states"] | None
    kernel_steps: Int[Any, "kept"]
    Phi: Float[Any, "*runs layers kept points kept points"] | None = None
    G: Float[Any, "*runs layers kept points kept points"] | None = None
    more: dict[str, Any] = field(default_factory=dict)

    OBSERVABLES = ("f", "loss", "test_loss", "Phi", "G")

    NAMES = ("NTK", "eigenvalues", "sharpness", "update_size", "phi_r", "g_u", "h", "z")
    """What `more` may hold, besides, at the K kept steps:

    NTK (K, M, M): sum over layers of rate_l G^{l+1} (Phi^l + bias^2), mean over outputs. eigenvalues (K, P): of NTK / P over
    the train points (all watched points if online), largest first. sharpness (K,): top eigenvalue of the Gauss-Newton operator
    in function space, K times the Hessian of the loss; full-batch gradient descent on a quadratic is stable below 2 / eta0.
    update_size (K, L): root mean square over neurons and points of h^l(t) - h^l(0). phi_r, g_u (L - 1, K, M, K, M): the
    responses A and B as averages, <phi(h^l(t)) r^l(s)> = sum A G^{l+1}, l = 1 ... L - 1, and <g^l(t) u^l(s)> =
    sum B Phi^{l-1}, l = 2 ... L (theory only).
    h, z (K, L, M, n): the fields of n neurons or paths, z of the first output, for histograms (samples alone: no mean).
    """
    UNAVERAGED = ("h", "z")

    @staticmethod
    def of(steps: Any, kernel_steps: Any, observables: dict[str, Any]) -> Trajectory:
        """The Trajectory of these observables by name."""
        plain = {name: observables.get(name) for name in Trajectory.OBSERVABLES}
        more = {name: x for name, x in observables.items() if name not in Trajectory.OBSERVABLES}
        return Trajectory(steps=steps, kernel_steps=kernel_steps, **plain, more=more)

    def observables(self) -> dict[str, Any]:
        """All that there are, by name."""
        plain = {name: getattr(self, name) for name in self.OBSERVABLES}
        return {name: x for name, x in (plain | self.more).items() if x is not None}

    def __getitem__(self, name: str) -> Any:
        """An observable by name.

        Raises:
            KeyError: it was not saved.
        """
        there = self.observables()
        if name not in there:
            raise KeyError(f"{name!r} was not saved; there are {', '.join(there)}. Pass save=({name!r},).")
        return there[name]

    def map(self, function: Any, *others: Trajectory) -> Trajectory:
        """A Trajectory with `function` applied to every observable (and to those of `others`), absent ones left out."""
        rest = [other.observables() for other in others]
        values = {name: function(x, *(other[name] for other in rest)) for name, x in self.observables().items()}
        return Trajectory.of(self.steps, self.kernel_steps, values)

    def without(self, *names: str) -> Trajectory:
        """A Trajectory without these observables."""
        return Trajectory.of(
            self.steps, self.kernel_steps, {name: x for name, x in self.observables().items() if name not in names}
        )

    def equal_time(self, kernel: str) -> Float[np.ndarray, "*runs layers kept points points"]:
        """The blocks t = s of "Phi" or "G": (..., L, K, M, M)."""
        stack = getattr(self, check.choice("kernel", kernel, ("Phi", "G")))
        if stack is None:
            raise ValueError(f"{kernel} was not kept: pass save_kernels to the run.")
        return np.moveaxis(np.diagonal(stack, axis1=-4, axis2=-2), -1, -3)

    @checked
    def tangent_kernel(
        self, Phi0: Numbers, rates: Numbers = None, bias: float = 0.0
    ) -> Float[np.ndarray, "*runs kept points points"]:
        """(..., K, M, M) neural tangent kernel at equal times, the mean over outputs.

            K = sum_{l=0..L} rate_l G^{l+1} (Phi^l + bias^2)        G^{L+1} = 1

        Args:
            Phi0: (M, M) input kernel, bias^2 included (`problem.Phi0`).
            rates: L + 1 factors, by default 1 (`problem.training.rates(L)`).
            bias: of the architecture.
        """
        Phi, G = (np.moveaxis(self.equal_time(name), -4, -3) for name in ("Phi", "G"))
        if Phi0.shape != Phi.shape[-2:]:
            raise ValueError(f"Phi0 must be between the {Phi.shape[-1]} points of the kernels, got shape {Phi0.shape}.")
        below = np.broadcast_to(Phi0, (*Phi.shape[:-3], 1, *np.shape(Phi0)))
        L = Phi.shape[-3]
        if rates is not None and np.shape(rates) != (L + 1,):
            raise ValueError(f"rates must be L + 1 = {L + 1} numbers, got shape {np.shape(rates)}.")
        return tangent_kernel(np.concatenate([below, Phi + bias**2], axis=-3), G, np.ones(L + 1) if rates is None else rates)


def tangent_kernel(
    Phi: Float[Any, "*runs layers_and_input points points_"],
    G: Float[Any, "*runs layers points points_"],
    rates: Sequence[float] | np.ndarray,
) -> Float[np.ndarray, "*runs points points_"]:
    """K = sum_{l=0..L} rate_l G^{l+1} Phi^l,  G^{L+1} = 1, from Phi^0 ... Phi^L, bias^2 included, and G^1 ... G^L.

    Example:
        >>> Phi, G = np.array([3.0, 2.0]), np.array([0.5])  # one hidden layer, one point
        >>> tangent_kernel(Phi[:, None, None], G[:, None, None], rates=[1, 1]).item()
        3.5
    """
    above = np.concatenate([G, np.ones_like(G[..., :1, :, :])], axis=-3)
    return np.einsum("l,...lmn->...mn", np.asarray(rates), above * Phi)


def chosen_steps(num_steps: int, wanted: Iterable[int] | None) -> Int[np.ndarray, "kept"]:
    """The steps at which kernels are kept: `wanted`, sorted; by default the first and the last state.

    Raises:
        ValueError: a step outside 0 ... num_steps; not a list of whole numbers.
    """
    default = [0, num_steps]
    kept = default if wanted is None else [*wanted] if isinstance(wanted, Iterable) else [None]
    if not all(isinstance(step, int | np.integer) for step in kept):
        raise ValueError(f"steps of kept kernels must be whole numbers in a list, e.g. {default}; got {check.shown(wanted)}.")
    steps = np.unique(np.array(kept, dtype=int))
    if steps.size and not (steps[0] >= 0 and steps[-1] <= num_steps):
        raise ValueError(f"steps at which kernels are kept must lie in 0 ... {num_steps} (num_steps), got {steps.tolist()}.")
    return steps
