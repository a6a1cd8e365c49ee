"""One fully connected network of width N: how it starts, answers, differentiates and moves (2205.09653, eqs. 1 to 5).

With a_l, b_l, c_l the multiplier, initial standard deviation and learning rate of W^l, l = L being the readout w (the table in
`widthwise.parameterization`; every power of N is there), a'_l and c'_l those of the biases b^l (a'_l contains `MLP.bias`), and
phi^0 = x:

    h^{l+1}_m = a_l W^l phi^l_m + a'_l b^l       phi^l = phi(h^l)                      l = 0 ... L
    f_m       = h^{L+1}_m  in R^C                [ - its value at initialisation, when centred ]
    z^L_m     = w^T s_m / b_L                    z^l_m = a_l W^{l T} g^{l+1}_m         g^l_m = phi'(h^l_m) z^l_m

z and g are gradient fields of the function sum_c s_c f_c: g^l = d (s . f) / d h^l / (a_L b_L) has entries of order one in every
parameterization. With s_m = Delta_m = -d loss / d f_m one backward pass serves all outputs, as in any training code:

    e^{l+1}_m = a_L b_L g^{l+1}_m                e^{L+1}_m = Delta_m                   (-d loss / d h^{l+1}_m)
    G_{W^l}   = c_l a_l sum_m e^{l+1}_m (phi^l_m)^T                                    G_{b^l} = c'_l a'_l sum_m e^{l+1}_m

and `widthwise.training.move` makes a step of G: W^l <- W^l + eta_l G, with momentum, weight decay ... as GradientDescent
says for theta = W^l / b_l; it is linear, so that W^l itself may stand there. In the code samples are rows, h is (M, N), and
W^l is (N_out, N_in) as above; the lists `h`, `z`, `g` begin with l = 1, `phi` with l = 0.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.experimental.ode import odeint
from jaxtyping import Array, Float, Key

from widthwise import Activation, training
from widthwise.parameterization import LayerScale

FLOW_TOLERANCE = {"float32": 1e-6, "float64": 1e-10}
"""Of one interval of gradient flow, for weights in units of their initial standard deviation."""


class Layer(NamedTuple):
    """Something that W^l and b^l have each: values, scales, rates; None for b^l where there are no biases."""

    W: Any
    b: Any = None


Weights: TypeAlias = tuple[Layer, ...]
"""W^0 (N, D), W^1 ... W^{L-1} (N, N), w (C, N), with their biases (N,), that of w (C,)."""
Scales: TypeAlias = Sequence[Layer]
"""(a_l, b_l, c_l) of each."""


def init(key: Key[Array, ""], scales: Scales, *, width: int, input_dim: int, num_outputs: int, dtype: jnp.dtype) -> Weights:
    """Weights b_l N(0, 1); the normal draws depend on the key, the name of the matrix and its shape alone.

    Each matrix has a stream of its own, and the draws are made in float32 whatever the `dtype`: all parameterizations and
    both precisions start from the same network.
    """
    depth = len(scales) - 1

    def normal(name: str, shape: tuple[int, ...], scale: LayerScale) -> Float[Array, "..."]:
        stream = jax.random.fold_in(key, zlib.crc32(name.encode()))
        return scale.init_std * jax.random.normal(stream, shape, jnp.float32).astype(dtype)

    def layer(l: int, scale: Layer) -> Layer:
        fan_in, fan_out = width if l else input_dim, width if l < depth else num_outputs
        W = normal(f"W{l}" if l < depth else "w", (fan_out, fan_in), scale.W)
        return Layer(W, None if scale.b is None else normal(f"b{l}", (fan_out,), scale.b))

    return tuple(layer(l, scale) for l, scale in enumerate(scales))


def forward(
    weights: Weights, scales: Scales, act: Activation, X: Float[Array, "M D"]
) -> tuple[list[Float[Array, "M N"]], list[Float[Array, "M _"]], Float[Array, "M C"]]:
    """h^1 ... h^L, phi^0 ... phi^L and the output f, not centred."""

    def affine(layer: Layer, scale: Layer, phi: Float[Array, "M _"]) -> Float[Array, "M _"]:
        field = scale.W.multiplier * phi @ layer.W.T
        return field if layer.b is None else field + scale.b.multiplier * layer.b

    *inner, readout = zip(weights, scales, strict=True)
    h, phi = [], [X]
    for layer, scale in inner:
        h.append(affine(layer, scale, phi[-1]))
        phi.append(act.phi(h[-1]))
    return h, phi, affine(*readout, phi[-1])


def backward(
    weights: Weights, scales: Scales, act: Activation, h: Sequence[Float[Array, "M N"]], s: Float[Array, "M C"]
) -> tuple[list[Float[Array, "M N"]], list[Float[Array, "M N"]]]:
    """z^1 ... z^L and g^1 ... g^L of the function sum_c s_mc f_mc of each sample."""
    *inner, (readout, (scale, _)) = zip(weights, scales, strict=True)
    z, g = [s @ readout.W / scale.init_std], []
    for h_l, (layer, (scale, _)) in reversed([*zip(h, inner, strict=True)]):
        g.append(act.d(h_l) * z[-1])
        z.append(scale.multiplier * g[-1] @ layer.W)
    return z[-2::-1], g[::-1]


def errors(scales: Scales, g: Sequence[Float[Array, "*samples N"]], s: Float[Array, "*samples C"]) -> list[Array]:
    """e^1 ... e^{L+1}, the derivatives of sum_c s_c f_c by h^1 ... h^{L+1}."""
    a_L, b_L, _ = scales[-1].W
    return [*(a_L * b_L * g_l for g_l in g), s]


def descent(
    weights: Weights,
    scales: Scales,
    act: Activation,
    h: Sequence[Float[Array, "B N"]],
    phi: Sequence[Float[Array, "B _"]],
    Delta: Float[Array, "B C"],
) -> Weights:
    """G: minus the gradient of the loss, times the learning rate c_l of the table, for the B samples of `h`, `phi`, `Delta`."""

    def pull(layer: Layer, scale: Layer, e: Float[Array, "B _"], phi: Float[Array, "B _"]) -> Layer:
        (a, _, c), bias = scale
        return Layer((c * a * e).T @ phi, None if bias is None else bias.learning_rate * bias.multiplier * e.sum(0))

    _, g = backward(weights, scales, act, h, Delta)
    return tuple(map(pull, weights, scales, errors(scales, g, Delta), phi))


def move(
    weights: Weights, velocity: Weights | None, G: Weights, eta: Float[Array, "layers"], *rule: Any
) -> tuple[Weights, Weights | None]:
    """Weights and velocity after one update by `training.move` with the `rule` momentum, nesterov, weight_decay.

    A velocity None is none, then and ever.
    """
    leaves, tree = jax.tree.flatten(weights)
    old = [None] * len(leaves) if velocity is None else jax.tree.leaves(velocity)
    each = zip(leaves, old, jax.tree.leaves(G), jax.tree.leaves(per_layer(weights, eta)), strict=True)
    moved, v = zip(*(training.move(*one, *rule) for one in each), strict=True)
    return jax.tree.unflatten(tree, moved), None if velocity is None else jax.tree.unflatten(tree, v)


def heat(weights: Weights, noise: Weights, eta: Float[Array, "layers"], temperature: Float[Array, ""]) -> Weights:
    """W + sqrt(2 temperature eta_l) b_l N(0, 1), of which `noise` is the product of the last two, made by `init`."""
    return jax.tree.map(lambda W, e, x: W + jnp.sqrt(2 * temperature * e) * x, weights, per_layer(weights, eta), noise)


def flow(
    weights: Weights,
    scales: Scales,
    force: Callable[[Weights], Weights],
    eta: Float[Array, "layers"],
    weight_decay: Float[Array, ""],
) -> Weights:
    """Weights after d W^l / d tau = eta_l (force - weight_decay W^l) from tau = 0 to 1.

    Solved for theta^l = W^l / b_l by Dormand-Prince steps to FLOW_TOLERANCE, an absolute and relative error of each step.
    """
    unit = jax.tree.map(lambda scale: scale.init_std, tuple(scales), is_leaf=lambda x: isinstance(x, LayerScale))
    rate = per_layer(weights, eta)

    def slope(theta: Weights, _: Float[Array, ""]) -> Weights:
        G = force(jax.tree.map(jnp.multiply, unit, theta))
        return jax.tree.map(lambda e, G, b, x: e * (G / b - weight_decay * x), rate, G, unit, theta)

    theta = jax.tree.map(jnp.divide, weights, unit)
    tolerance = FLOW_TOLERANCE[eta.dtype.name]
    path = odeint(slope, theta, jnp.arange(2, dtype=eta.dtype), rtol=tolerance, atol=tolerance)
    return jax.tree.map(lambda b, x: b * x[-1], unit, path)


def per_layer(weights: Weights, values: Float[Array, "layers"]) -> Weights:
    """The value of the layer in the place of each of its parameters."""
    return tuple(jax.tree.map(lambda _, value=value: value, layer) for layer, value in zip(weights, values, strict=True))
