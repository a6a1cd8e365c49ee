"""Weights that know their row of the parameterization table, and the layers made of them.

A network is a tree of `Weight`s (equinox modules). Its forward pass multiplies by `multiplier`, its optimizer reads
`learning_rate` and `gradient_size`: no power of the width or of the depth stands anywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from widthwise import Parameterization
from widthwise.parameterization import LayerScale, Optimizer, Role

Fields = dict[str, Array]


class Weight(eqx.Module):
    """An array that enters the network as `scale.multiplier * value`.

    `descent_rate` is its learning rate under gradient descent, whatever the optimizer: the unit of tangent kernels.
    """

    value: Float[Array, "..."]
    role: Role = eqx.field(static=True)
    scale: LayerScale = eqx.field(static=True)
    gradient_size: float = eqx.field(static=True)
    descent_rate: float = eqx.field(static=True)

    def __call__(self) -> Float[Array, "..."]:
        return self.scale.multiplier * self.value


def is_weight(x: Any) -> bool:
    return isinstance(x, Weight)


@dataclass
class Maker:
    """Draws the weights of one network, one after the other, each from a stream of its own.

    The normal draws depend on the key, the place in the order and the shape alone, and are made in float32: all
    parameterizations and precisions start from the same.
    """

    form: Parameterization
    optimizer: Optimizer
    width: int
    key: Key[Array, ""]
    blocks: int | None = None
    made: int = field(default=0, init=False)

    def __call__(self, role: Role, shape: tuple[int, ...], fan_in: int, *, in_block: bool = False) -> Weight:
        """A weight of this shape, each of whose outputs is a sum over `fan_in` numbers."""
        where: dict[str, Any] = {"width": self.width, "fan_in": fan_in, "blocks": self.blocks if in_block else None}
        scale = self.form.scale(role, optimizer=self.optimizer, **where)
        descent_rate = self.form.scale(role, **where).learning_rate
        value = scale.init_std * jax.random.normal(jax.random.fold_in(self.key, self.made), shape, jnp.float32).astype(float)
        self.made += 1
        return Weight(value, role, scale, self.form.gradient_size(role, **where), descent_rate)


class Watch:
    """Names the fields as the network makes them, and adds `push` to them: a derivative by push is one by the field.

    Example:
        >>> see = Watch({"h1": jnp.ones(2)})
        >>> (2 * see("h1", jnp.zeros(2))).tolist(), see.fields["h1"].tolist()
        ([2.0, 2.0], [1.0, 1.0])
    """

    def __init__(self, push: Fields | None):
        self.push: Fields = push or {}
        self.fields: Fields = {}

    def __call__(self, name: str, h: Float[Array, "..."]) -> Float[Array, "..."]:
        self.fields[name] = h + self.push[name] if name in self.push else h
        return self.fields[name]


def dense(W: Weight, x: Float[Array, "*sites inputs"]) -> Float[Array, "*sites outputs"]:
    """W x for W (outputs, inputs). The multiplier goes to the weight: on its way back XLA would not fuse it with much else."""
    return x @ W().T


def convolve(W: Weight, x: Float[Array, "height width channels"], stride: int = 1) -> Float[Array, "_ _ outputs"]:
    """Cross-correlation with W (outputs, k, k, channels), zeros around, every `stride`-th site.

    As one matrix product over the k^2 shifted images, which stays a batched product where there are many networks.
    """
    k, (height, width, _) = W.value.shape[1], x.shape
    before = (k - 1) // 2
    padded = jnp.pad(x, ((before, k - 1 - before), (before, k - 1 - before), (0, 0)))
    shifted = [padded[i : i + height : stride, j : j + width : stride] for i in range(k) for j in range(k)]
    return jnp.concatenate(shifted, axis=-1) @ W().reshape(len(W.value), -1).T


def pool(x: Float[Array, "height width channels"]) -> Float[Array, "_ _ channels"]:
    """Means over 2 x 2 sites; what is left over at the edges of odd sizes is dropped."""
    height, width, channels = x.shape[0] // 2, x.shape[1] // 2, x.shape[2]
    return x[: 2 * height, : 2 * width].reshape(height, 2, width, 2, channels).mean((1, 3))


def normalize(x: Float[Array, "*sites channels"]) -> Float[Array, "*sites channels"]:
    """Mean zero and mean square one over the channels of each site: layer norm, without parameters, at least in float32."""
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    y = y - y.mean(-1, keepdims=True)
    return (y / jnp.sqrt((y**2).mean(-1, keepdims=True) + 1e-6)).astype(x.dtype)
