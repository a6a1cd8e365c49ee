"""One fully connected network of width N: how it starts, answers, differentiates and moves (2205.09653, eqs. 1 to 5).

With a_l, b_l, c_l the multiplier, initial standard deviation and learning rate of W^l, and a_L, b_L, c_L those of w (the
table in `widthwise.parameterization`; every power of N is there), phi^0 = x and Delta_m = -d loss / d f_m:

    h^{l+1}_m = a_l W^l phi^l_m          phi^l = phi(h^l)                          l = 0 .. L-1
    f_m       = a_L w . phi^L_m          [ - its value at initialisation, when centred ]
    g^l_m     = phi'(h^l_m) z^l_m        z^L = w / b_L,   z^l = a_l W^{l T} g^{l+1}
    W^l      <- W^l + eta0 c_l a_l (a_L b_L) sum_m Delta_m g^{l+1}_m (phi^l_m)^T
    w        <- w   + eta0 c_L a_L           sum_m Delta_m phi^L_m

so that g^l = (df / dh^l) / (a_L b_L) has entries of order one in every parameterization. In the code samples are rows,
h is (M, N), and W^l is (N_out, N_in) as above; arrays `phi`, `g` list their layers from l = 0 and l = 1.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from widthwise import Activation
from widthwise.parameterization import LayerScale

Weights: TypeAlias = tuple[Float[Array, "..."], ...]
"""W^0 (N, D), W^1 ... W^{L-1} (N, N), w (N,)."""
Scales: TypeAlias = Sequence[LayerScale]
"""(a_l, b_l, c_l) for l = 0 ... L."""


def init(key: Key[Array, ""], scales: Scales, *, width: int, input_dim: int, dtype: jnp.dtype) -> Weights:
    """Weights b_l N(0, 1); the normal draws depend on the key, the name of the matrix and its shape alone.

    Each matrix has a stream of its own, and the draws are made in float32 whatever the `dtype`: all parameterizations and
    both precisions start from the same network.
    """
    depth = len(scales) - 1
    shapes = {f"W{l}": (width, width if l else input_dim) for l in range(depth)} | {"w": (width,)}

    def normal(name: str, shape: tuple[int, ...]) -> Float[Array, "..."]:
        stream = jax.random.fold_in(key, zlib.crc32(name.encode()))
        return jax.random.normal(stream, shape, jnp.float32).astype(dtype)

    return tuple(b * normal(name, shape) for (name, shape), (_, b, _) in zip(shapes.items(), scales, strict=True))


def forward(
    weights: Weights, scales: Scales, act: Activation, X: Float[Array, "M D"]
) -> tuple[list[Float[Array, "M N"]], list[Float[Array, "M _"]], Float[Array, "M"]]:
    """h^1 ... h^L, phi^0 ... phi^L and the output f, not centred."""
    *Ws, w = weights
    h, phi = [], [X]
    for W, (a, _, _) in zip(Ws, scales, strict=False):
        h.append(a * phi[-1] @ W.T)
        phi.append(act.phi(h[-1]))
    return h, phi, scales[-1].multiplier * phi[-1] @ w


def backward(weights: Weights, scales: Scales, act: Activation, h: Sequence[Float[Array, "M N"]]) -> list[Float[Array, "M N"]]:
    """g^1 ... g^L, one row per sample."""
    *Ws, w = weights
    z, g = w / scales[-1].init_std, []
    for h_l, W, (a, _, _) in reversed([*zip(h, Ws, scales, strict=False)]):
        g.append(act.d(h_l) * z)
        z = a * g[-1] @ W
    return g[::-1]


def update(
    weights: Weights,
    scales: Scales,
    eta0: float | Float[Array, ""],
    phi: Sequence[Float[Array, "P _"]],
    g: Sequence[Float[Array, "P N"]],
    Delta: Float[Array, "P"],
) -> Weights:
    """The weights after one step of gradient descent on the P samples of `phi`, `g` and `Delta`."""
    *Ws, w = weights
    *inner, (a_L, b_L, c_L) = scales
    moved = [
        W + eta0 * c * a * a_L * b_L * (Delta[:, None] * g_next).T @ phi_l
        for W, (a, _, c), g_next, phi_l in zip(Ws, inner, g, phi, strict=False)
    ]
    return (*moved, w + eta0 * c_L * a_L * Delta @ phi[-1])
