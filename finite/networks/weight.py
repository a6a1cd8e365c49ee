"""Weights that know their row of the parameterization table.

A network is a tree of `Weight`s (equinox modules). Its forward pass multiplies by `multiplier`, its optimizer reads
`learning_rate` and `gradient_size`: no power of the width or of the depth stands anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from widthwise import Parameterization
from widthwise.networks.backend import Start
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
    made: int = field(default=0, init=False)

    def __call__(
        self, role: Role, shape: tuple[int, ...], fan_in: int, *, blocks: int | None = None, start: Start = "normal"
    ) -> Weight:
        """A weight of this shape, each of whose outputs is a sum over `fan_in` numbers."""
        where: dict[str, Any] = {"width": self.width, "fan_in": fan_in, "blocks": blocks}
        scale = self.form.scale(role, optimizer=self.optimizer, **where)
        descent_rate = self.form.scale(role, **where).learning_rate
        draws: dict[Start, Callable[[], Array]] = {
            "normal": lambda: jax.random.normal(jax.random.fold_in(self.key, self.made), shape, jnp.float32),
            "zero": lambda: jnp.zeros(shape),
            "one": lambda: jnp.ones(shape),
        }
        value = scale.init_std * draws[start]().astype(float)
        self.made += 1
        return Weight(value, role, scale, self.form.gradient_size(role, **where), descent_rate)
