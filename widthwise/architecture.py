"""Network architectures: the graph, never the width."""

from __future__ import annotations

from dataclasses import dataclass

from widthwise import check
from widthwise.activation import Activation, Elementwise, as_activation


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
        object.__setattr__(self, "depth", check.count("depth", depth, "A network has at least one hidden layer."))
        object.__setattr__(self, "activation", as_activation(activation))
        object.__setattr__(self, "bias", check.at_least_zero("bias", bias))

    def __repr__(self) -> str:
        return f"MLP(depth={self.depth}, activation={self.activation.name!r}{f', bias={self.bias!r}' if self.bias else ''})"
