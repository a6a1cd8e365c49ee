"""Network architectures: the graph, never the width."""

from __future__ import annotations

from dataclasses import dataclass

from widthwise import check
from widthwise.activation import Activation, Elementwise, as_activation


@dataclass(frozen=True)
class MLP:
    """A fully connected network with `depth` hidden layers, no biases, and one output.

        h^1 = W^0 x,   h^{l+1} = W^l phi(h^l),   f = w . phi(h^L),     L = depth

    up to the multipliers of `widthwise.parameterization` (2205.09653, eq. 1; theory in `dmft`).

    Args:
        depth: number L of hidden layers, at least 1.
        activation: name, elementwise function, or Activation.

    Raises:
        ValueError: depth below 1; unknown activation.

    Example:
        >>> MLP(depth=2, activation="tanh")
        MLP(depth=2, activation='tanh')
    """

    depth: int
    activation: Activation

    def __init__(self, depth: int, activation: str | Elementwise | Activation = "tanh"):
        object.__setattr__(self, "depth", check.count("depth", depth, "A network has at least one hidden layer."))
        object.__setattr__(self, "activation", as_activation(activation))

    def __repr__(self) -> str:
        return f"MLP(depth={self.depth}, activation={self.activation.name!r})"
