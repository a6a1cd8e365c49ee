"""Residual convolutional networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Array, Float

from widthwise import check
from widthwise.activation import Activation, as_activation
from widthwise.networks.backend import Net
from widthwise.networks.layers import shifts
from widthwise.networks.noun import DEEPEST, RELU, check_image, put, shown


@dataclass(frozen=True)
class ResNet:
    """A residual convolutional network of pre-activation basic blocks (two 3 x 3 convolutions), as ResNet-18 by default.

    Stage s has N 2^s channels, and each stage but the first starts with half the sites per side.

    Args:
        stages: number of blocks of every stage.
        activation: name, elementwise function, or Activation.
        norm: layer norm (over the channels, without parameters) before every activation.

    Raises:
        ValueError: a stage without blocks; unknown activation.

    Example:
        >>> ResNet()
        ResNet(stages=(2, 2, 2, 2), activation='relu', norm=False)
    """

    stages: tuple[int, ...] = (2, 2, 2, 2)
    activation: Activation = RELU
    norm: bool = False

    def __post_init__(self) -> None:
        stages = check.counts("stages", self.stages, "They are numbers of blocks, e.g. (2, 2, 2, 2).")
        check.count("the sum of stages", sum(stages), most=DEEPEST)
        put(self, stages=stages, activation=as_activation(self.activation))
        check.flag("norm", self.norm)

    @property
    def num_blocks(self) -> int:
        """L, of all stages."""
        return sum(self.stages)

    def check_input(self, shape: tuple[int, ...], width: int | None = None) -> None:
        """ValueError unless samples are images."""
        check_image(self, shape)

    def forward(self, net: Net, x: Any) -> Float[Array, "samples outputs"]:
        """f of a batch: blocks h + L^-alpha V * phi(W * phi(h)); where channels change, h goes through a filter of one site."""
        L, l, frm = self.num_blocks, 0, "stream0"

        def phi(h: Any) -> Any:
            return self.activation(net.normalize(h) if self.norm else h)

        h = net.see("h1", net.input("W0", shifts(x, 3), net.population(frm)))
        for stage, count in enumerate(self.stages):
            to = net.population(f"stream{stage}", times=2**stage)
            for _ in range(count):
                l, stride = l + 1, 1 if frm == to else 2
                inner = net.population(f"block{l}", times=2**stage)
                branch = net.hidden(f"W{l}", shifts(phi(h), 3, stride), frm, inner, blocks=L)
                branch = net.hidden(f"V{l}", shifts(phi(branch), 3), inner, to, blocks=L)
                if frm != to:
                    h = net.hidden(f"shortcut{l}", h[:, ::stride, ::stride], frm, to)
                h, frm = net.see(f"h{l + 1}", h + net.branch(L) * branch), to
        return net.readout("w", phi(h).mean((1, 2)), frm)

    __repr__ = shown
