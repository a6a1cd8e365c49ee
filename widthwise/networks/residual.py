"""Fully connected residual networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Array, Float

from widthwise import check
from widthwise.activation import Activation, as_activation
from widthwise.networks.backend import Net
from widthwise.networks.noun import DEEPEST, RELU, put, shown


@dataclass(frozen=True)
class ResidualMLP:
    """A fully connected residual network of `depth` blocks.

        h^1 = W^0 x,   h^{l+1} = h^l + L^-alpha W^l phi(h^l),   f = w . phi(h^{L+1}),     L = depth          (2309.16620)

    Args:
        depth: number L of blocks.
        activation: name, elementwise function, or Activation.
        block_depth: matrices of a block, k; each acts on phi of what came before. 1 goes with alpha = 1/2, 2 with alpha = 1.
        norm: layer norm (over the neurons, without parameters) before every activation.

    Raises:
        ValueError: depth or block_depth below 1; unknown activation.

    Example:
        >>> ResidualMLP(depth=8, activation="relu")
        ResidualMLP(depth=8, activation='relu', block_depth=1, norm=False)
    """

    depth: int
    activation: Activation = RELU
    block_depth: int = 1
    norm: bool = False

    def __post_init__(self) -> None:
        put(self, depth=check.count("depth", self.depth, most=DEEPEST), activation=as_activation(self.activation))
        check.count("block_depth", self.block_depth, most=DEEPEST)
        check.flag("norm", self.norm)

    @property
    def num_blocks(self) -> int:
        """L"""
        return self.depth

    def check_input(self, shape: tuple[int, ...], width: int | None = None) -> None:
        """ValueError unless it takes samples of this shape: any, which it reads as one vector."""

    def forward(self, net: Net, x: Any) -> Float[Array, "samples outputs"]:
        """f of a batch."""

        def phi(h: Any) -> Any:
            return self.activation(net.normalize(h) if self.norm else h)

        h = net.see("h1", net.input("W0", x.reshape(len(x), -1), "stream"))
        for l in range(1, self.depth + 1):
            branch, frm = h, "stream"
            for k in range(1, self.block_depth + 1):
                to = "stream" if k == self.block_depth else f"block{l}.{k}"
                branch, frm = net.hidden(f"W{l}.{k}", phi(branch), frm, to, blocks=self.depth), to
            h = net.see(f"h{l + 1}", h + net.branch(self.depth) * branch)
        return net.readout("w", phi(h), "stream")

    __repr__ = shown
