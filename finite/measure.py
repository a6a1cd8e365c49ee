"""What is measured on a network while it trains: outputs and losses at every state, kernels and fields at the chosen ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from finite import mlp
from widthwise import Activation, Loss, Trajectory, check

Observables: TypeAlias = dict[str, Float[Array, "..."] | None]
"""Fields of a Trajectory by name; None where there is nothing to measure."""

THEORY_ONLY = ("phi_r", "g_u")
NOT_OF_THEORY = ("hessian", "kernels", "gradient_kernels", "attention")
"""Of networks that the theory does not solve (`finite.observe`)."""


class State(NamedTuple):
    """A network at one state: weights, h^1 ... h^L, phi^0 ... phi^L and f at M points."""

    weights: mlp.Weights
    h: Sequence[Float[Array, "M N"]]
    phi: Sequence[Float[Array, "M _"]]
    f: Float[Array, "M C"]


def wanted(save: Iterable[str], num_kept: int) -> tuple[str, ...]:
    """The names in `save`, each once.

    Raises:
        ValueError: an unknown name, one that only the theory has, or no kept step to measure at.
    """
    there = [name for name in Trajectory.NAMES if name not in THEORY_ONLY]
    given = [save] if isinstance(save, str) else check.sequence("save", save, like="['NTK']")
    for name in given:
        if name in NOT_OF_THEORY:
            raise ValueError(
                f"save={name!r} is of networks that the theory does not solve. Of an MLP on a Task under gradient descent "
                f"it is one of {', '.join(map(repr, there))}: Phi and G are the kernels, sharpness is the curvature."
            )
        if name in THEORY_ONLY:
            raise ValueError(
                f"{name!r} is a response of the theory's process, which networks do not have: leave it to dmft.solve."
            )
        check.choice("save", name, there)
    if given and not num_kept:
        raise ValueError(f"save={tuple(given)} is measured at the kept steps, and save_kernels=[] keeps none.")
    return tuple(name for name in there if name in given)


def outputs(
    loss: Loss,
    f: Float[Array, "M C"],
    train: tuple[Float[Array, "P C"], Float[Array, "P C"]],
    test: tuple[Float[Array, "Q C"], Float[Array, "Q C"] | None],
) -> Observables:
    """f; loss over the train points (f, y); test_loss over the test points (None without test targets)."""
    return {"f": f, "loss": loss.of(*train).mean(), "test_loss": None if test[1] is None else loss.of(*test).mean()}


def kernel(fields: Float[Array, "K L M N"]) -> Float[Array, "L K M K M"]:
    """Two-time kernel of fields x, which are phi or g kept at K steps: (1 / N) sum_i x^l_mi(t) x^l_ni(s), axes (t, m, s, n).

    Fields of C outputs stand side by side, C N of them: then it is the mean over outputs.

    Example:
        >>> kernel(jnp.array([[[[1.0, 3.0]]], [[[1.0, 1.0]]]])).squeeze().round(3).tolist()
        [[5.0, 2.0], [2.0, 1.0]]
    """
    x = fields / fields.shape[-1] ** 0.5
    return jnp.einsum("tlmi,slni->ltmsn", x, x)


def at_state(
    names: Sequence[str],
    state: State,
    scales: mlp.Scales,
    act: Activation,
    loss: Loss,
    rates: Float[Array, "layers"],
    y: Float[Array, "P C"] | None,
    P: int,
    first: Sequence[Float[Array, "M N"]] | None,
) -> dict[str, Float[Array, "..."]]:
    """phi (L, M, N) and g (L, M, C N) for the kernels, and the observables `names` of `Trajectory.NAMES` at one state.

    Args:
        names: from `wanted`.
        state: the network at the M watched points.
        scales, act, loss, rates: of the problem.
        y: targets of the first P points, for the sharpness.
        P: number of points of which eigenvalues and sharpness are taken.
        first: h at state 0, for the update size.
    """
    weights, h, phi, f = state
    M, C = f.shape
    s = jnp.broadcast_to(jnp.eye(C, dtype=f.dtype), (M, C, C))  # one function f_c per c: e_c at every sample
    each_output = jax.vmap(partial(mlp.backward, weights, scales, act, h), in_axes=1, out_axes=1)
    z, g = each_output(s)  # lists of (M, C, N)
    K = partial(tangent_kernel, mlp.errors(scales, g, s), phi, scales, rates)
    measure: dict[str, Any] = {
        "NTK": lambda: K("mci,nci->mn") / C,
        "eigenvalues": lambda: jnp.linalg.eigvalsh(K("mci,nci->mn")[:P, :P] / (C * P))[::-1],
        "sharpness": lambda: sharpness(K("mci,ndi->mcnd")[:P, :, :P], loss.hessian(f[:P], y)),
        "update_size": lambda: jnp.sqrt(((jnp.stack(h) - jnp.stack(list(first or ()))) ** 2).mean((1, 2))),
        "h": lambda: jnp.stack(h),
        "z": lambda: jnp.stack(z)[:, :, 0],
    }
    fields = {"phi": jnp.stack(phi[1:]), "g": jnp.stack(g).reshape(len(g), M, -1)}
    return fields | {name: measure[name]() for name in names}


def tangent_kernel(
    e: Sequence[Float[Array, "M C _"]],
    phi: Sequence[Float[Array, "M _"]],
    scales: mlp.Scales,
    rates: Float[Array, "layers"],
    pairs: str,
) -> Float[Array, "..."]:
    """sum_l rate_l [c_l a_l^2 phi^l_m . phi^l_n + c'_l a'_l^2] e^{l+1}_mc . e^{l+1}_nd: gradients of f times rates.

    `pairs` says for which: "mci,ndi->mcnd" for all pairs of outputs, "mci,nci->mn" for the sum over equal ones.
    """
    total = jnp.zeros(())
    for rate, ((a, _, c), bias), phi_l, e_l in zip(rates, scales, phi, e, strict=True):
        inputs = c * a**2 * phi_l @ phi_l.T + (0.0 if bias is None else bias.learning_rate * bias.multiplier**2)
        between = jnp.einsum(pairs, e_l, e_l)
        total = total + rate * (inputs if between.ndim == 2 else inputs[:, None, :, None]) * between
    return total


def sharpness(K: Float[Array, "P C P C"], H: Float[Array, "P C C"]) -> Float[Array, ""]:
    """Largest eigenvalue of K H / P, by way of the symmetric R^T H R with K = R R^T; H need not be positive."""
    P, C = H.shape[:2]
    values, vectors = jnp.linalg.eigh(K.reshape(P * C, P * C))
    R = vectors * jnp.sqrt(jnp.maximum(values, 0.0))
    HR = jnp.einsum("pcd,pdk->pck", H, R.reshape(P, C, -1)).reshape(P * C, -1)
    return jnp.linalg.eigvalsh(R.T @ HR / P)[-1]
