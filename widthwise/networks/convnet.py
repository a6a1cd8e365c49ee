"""Plain convolutional networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Array, Float

from widthwise import check
from widthwise.activation import Activation, as_activation
from widthwise.networks.backend import Net
from widthwise.networks.layers import pool, shifts
from widthwise.networks.noun import DEEPEST, RELU, check_image, put, shown


@dataclass(frozen=True)
class ConvNet:
    """A plain convolutional network: `depth` convolutions of N channels, means over 2 x 2 sites between, a readout of the mean.

    Args:
        depth: number L of convolutions.
        activation: name, elementwise function, or Activation.
        kernel: k of the k x k kernels.

    Raises:
        ValueError: depth or kernel below 1; unknown activation.

    Example:
        >>> ConvNet(depth=3)
        ConvNet(depth=3, activation='relu', kernel=3)
    """

    depth: int
    activation: Activation = RELU
    kernel: int = 3

    def __post_init__(self) -> None:
        put(self, depth=check.count("depth", self.depth, most=DEEPEST), activation=as_activation(self.activation))
        check.count("kernel", self.kernel, "It is a side of a filter, in pixels.", most=1000)

    @property
    def num_blocks(self) -> None:
        """Residual blocks: none."""
        return None

    def check_input(self, shape: tuple[int, ...], width: int | None = None) -> None:
        """ValueError unless samples are images."""
        check_image(self, shape)

    def forward(self, net: Net, x: Any) -> Float[Array, "samples outputs"]:
        """f of a batch."""
        for l in range(1, self.depth + 1):
            seen = shifts(x, self.kernel)
            h = net.input("W0", seen, "h1") if l == 1 else net.hidden(f"W{l - 1}", seen, f"h{l - 1}", f"h{l}")
            x = self.activation(net.see(f"h{l}", h))
            if min(x.shape[1:3]) > 1:
                x = pool(x)
        return net.readout("w", x.mean((1, 2)), f"h{self.depth}")

    __repr__ = shown
