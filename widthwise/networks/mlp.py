"""Fully connected networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Array, Float

from widthwise import check
from widthwise.activation import Activation, Elementwise, as_activation
from widthwise.networks.backend import Net
from widthwise.networks.noun import DEEPEST


@dataclass(frozen=True)
class MLP:
    """A fully connected network with `depth` hidden layers; the task says how many outputs.

        h^1 = W^0 x + bias b^0,   h^{l+1} = W^l phi(h^l) + bias b^l,   f = w . phi(h^L) + bias b^L,     L = depth

    up to the multipliers of `widthwise.parameterization` (2205.09653, eq. 1; theory in `dmft`).

    Args:
        depth: number L of hidden layers, at least 1.
        activation: name, elementwise function, or Activation.
        bias: multiplier of trainable biases that start as N(0, 1), 0 for none; Phi^l + bias^2 stands wherever Phi^l did.

    Raises:
        ValueError: depth below 1; unknown activation; negative bias.

    Example:
        >>> MLP(depth=2, activation="tanh")
        MLP(depth=2, activation='tanh')
    """

    depth: int
    activation: Activation
    bias: float = 0.0

    def __init__(self, depth: int, activation: str | Elementwise | Activation = "tanh", bias: float = 0.0):
        depth = check.count("depth", depth, "A network has at least one hidden layer.", most=DEEPEST)
        object.__setattr__(self, "depth", depth)
        object.__setattr__(self, "activation", as_activation(activation))
        object.__setattr__(self, "bias", check.at_least_zero("bias", bias))

    def __repr__(self) -> str:
        return f"MLP(depth={self.depth}, activation={self.activation.name!r}{f', bias={self.bias!r}' if self.bias else ''})"

    @property
    def num_blocks(self) -> None:
        """Residual blocks: none."""
        return None

    def check_input(self, shape: tuple[int, ...], width: int | None = None) -> None:
        """ValueError unless it takes samples of this shape: any, which it reads as one vector."""

    def forward(self, net: Net, x: Any) -> Float[Array, "samples outputs"]:
        """f of a batch."""
        L, phi = self.depth, x.reshape(len(x), -1)
        for l in range(1, L + 1):
            h = net.input("W0", phi, "h1") if l == 1 else net.hidden(f"W{l - 1}", phi, f"h{l - 1}", f"h{l}")
            if self.bias:
                h = h + self.bias * net.vectors(f"b{l - 1}", f"h{l}")
            phi = self.activation(net.see(f"h{l}", h))
        f = net.readout("w", phi, f"h{L}")
        return f + self.bias * net.output_bias(f"b{L}") if self.bias else f
