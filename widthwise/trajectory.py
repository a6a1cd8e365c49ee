"""What a training run, finite or infinite, leaves behind: (time, sample) arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trajectory:
    """Observables of one run, or of many with a leading axis.

    Index t is the state before update t: 0 is initialisation, T the state after the last update. Everything at index t is
    measured on the same parameters. Samples run over the P train points, then the Q test points; M = P + Q.

    Attributes:
        steps: (T+1,) 0 ... T.
        f: (..., T+1, M) network outputs, in units of y.
        loss: (..., T+1) mean over train points of (y - f)^2 / 2.
        test_loss: (..., T+1) the same over test points, or None without test targets.
        kernel_steps: (K,) the steps at which kernels are kept.
        Phi: (..., L, K, M, K, M) feature kernels Phi^l_mn(t, s) = <phi(h^l_m(t)) phi(h^l_n(s))>, l = 1 ... L at index
            l - 1, axes (t, m, s, n); or None.
        G: (..., L, K, M, K, M) gradient kernels G^l_mn(t, s) = <g^l_m(t) g^l_n(s)>, likewise.
    """

    steps: Int[Any, "states"]
    f: Float[Any, "*runs states points"]
    loss: Float[Any, "*runs states"]
    test_loss: Float[Any, "*runs states"] | None
    kernel_steps: Int[Any, "kept"]
    Phi: Float[Any, "*runs layers kept points kept points"] | None = None
    G: Float[Any, "*runs layers kept points kept points"] | None = None

    OBSERVABLES = ("f", "loss", "test_loss", "Phi", "G")

    def map(self, function: Any, *others: Trajectory) -> Trajectory:
        """A Trajectory with `function` applied to every observable (and to those of `others`), absent ones left None."""
        values = {}
        for name in self.OBSERVABLES:
            arrays = [getattr(trajectory, name) for trajectory in (self, *others)]
            values[name] = None if arrays[0] is None else function(*arrays)
        return Trajectory(steps=self.steps, kernel_steps=self.kernel_steps, **values)

    def equal_time(self, kernel: str) -> Float[np.ndarray, "*runs layers kept points points"]:
        """The blocks t = s of "Phi" or "G": (..., L, K, M, M)."""
        return np.moveaxis(np.diagonal(getattr(self, kernel), axis1=-4, axis2=-2), -1, -3)

    def tangent_kernel(self, Phi0: Float[np.ndarray, "points points"]) -> Float[np.ndarray, "*runs kept points points"]:
        """(..., K, M, M) neural tangent kernel K = sum_{l=0..L} G^{l+1} Phi^l at equal times; G^{L+1} = 1, Phi^0 given."""
        Phi, G = self.equal_time("Phi"), self.equal_time("G")
        hidden = (Phi[..., :-1, :, :, :] * G[..., 1:, :, :, :]).sum(-4)
        return Phi[..., -1, :, :, :] + hidden + G[..., 0, :, :, :] * Phi0


def chosen_steps(num_steps: int, wanted: Iterable[int] | None) -> Int[np.ndarray, "kept"]:
    """The steps at which kernels are kept: `wanted`, sorted; by default the first and the last state.

    Raises:
        ValueError: a step outside 0 ... num_steps; not a list of whole numbers.
    """
    default = [0, num_steps]
    kept = default if wanted is None else [*wanted] if isinstance(wanted, Iterable) else [None]
    if not all(isinstance(step, int | np.integer) for step in kept):
        raise ValueError(f"steps at which kernels are kept must be whole numbers in a list, e.g. {default}; got {wanted!r}.")
    steps = np.unique(np.array(kept, dtype=int))
    if steps.size and not (steps[0] >= 0 and steps[-1] <= num_steps):
        raise ValueError(f"steps at which kernels are kept must lie in 0 ... {num_steps} (num_steps), got {steps.tolist()}.")
    return steps
