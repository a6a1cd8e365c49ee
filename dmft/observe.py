"""What is measured on the paths of the march: fields at the kept steps, and the kernels between them."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dmft import site
from dmft.site import REPLICAS, Form, Layers, Physics, State


class Fields(NamedTuple):
    """Fields at the watched points at one step, (R, S, M) per layer, and what the responses are made of.

    Attributes:
        h, phi: as in `dmft.site`.
        z, g: with one output as there; with C outputs for sum_c w_c omega_c, omega of random signs, another in every replica:
            the mean over replicas of g g is the mean over outputs.
        row_u, row_r: coordinates (R, M, K) of u^l and r^l.
        phi_eps, g_eps: <phi(h^l) eps_r^l> and <g^l eps_u^l>, (R, M, K).
    """

    h: Layers
    phi: Layers
    z: Layers
    g: Layers
    row_u: Layers
    row_r: Layers
    phi_eps: Layers
    g_eps: Layers


@partial(jax.jit, static_argnames="form", donate_argnames="state")
def fields(form: Form, physics: Physics, state: State) -> tuple[State, Fields]:
    """The fields at this step, and the state that knows the functions which they brought."""
    return jax.vmap(partial(_fields, form, physics), axis_name=REPLICAS)(state)


def _fields(form: Form, physics: Physics, state: State) -> tuple[State, Fields]:
    M, C = len(physics.watched), len(state.beta)
    signs = jax.random.rademacher(jax.random.fold_in(state.key, 2**31 - 1), (C,), float) if C > 1 else jnp.ones(1)
    seen = site.forward(form, physics, state, physics.watched)
    omega = jnp.tile(signs / jnp.sqrt(C), (M, 1))
    back = site.backward(form, physics, state, seen, seen.h, omega, jnp.zeros_like(state.size_g))
    dtype = state.Wb[1].dtype
    alpha = state.alpha.astype(dtype)
    phi_eps = {l: site.average(seen.phi[l], eps) * alpha[l] for l, eps in state.eps_r.items()}
    g_eps = {l: site.average(back.g[l], eps) * alpha[l - 1] for l, eps in state.eps_u.items()}
    state = state._replace(b=seen.b, a=back.a)
    return state, Fields(seen.h, seen.phi, back.z, back.g, seen.row_u, back.row_r, phi_eps, g_eps)


def kernels(
    form: Form, physics: Physics, kept: list[Fields], num_kept: int, save: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Phi and G (R, L, K, M, K, M), and what else is to be saved; steps that a diverging run did not reach stay NaN."""
    L, K, M = form.L, num_kept, len(physics.watched)
    R = len(kept[0].h[1]) if kept else 1

    def two_times(products: dict[tuple[int, int, int], Float[Array, "R M M"]]) -> np.ndarray:
        out = np.full((R, L, K, M, K, M), np.nan)
        for (l, i, j), block in products.items():
            out[:, l - 1, i, :, j, :] = np.asarray(block)
        return out

    def overlaps(layers: list[Layers]) -> np.ndarray:
        """<x(t) x(s)> of every layer."""
        products = {}
        for l in range(1, L + 1):
            for i, now in enumerate(layers):
                for j, before in enumerate(layers[: i + 1]):
                    block = jnp.einsum("rsm,rsn->rmn", now[l], before[l]) / now[l].shape[1]
                    products[l, i, j], products[l, j, i] = block, jnp.swapaxes(block, 1, 2)
        return two_times(products)

    return overlaps([x.phi for x in kept]), overlaps([x.g for x in kept]), {}
