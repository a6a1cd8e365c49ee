"""Transformers of image patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Array, Float

from widthwise import check
from widthwise.activation import Activation
from widthwise.networks.backend import Net
from widthwise.networks.layers import blocks_of_attention
from widthwise.networks.noun import GELU, check_heads, check_image, put_attention, shown


@dataclass(frozen=True)
class ViT:
    """A transformer of image patches: no mask, and a readout of the mean over patches.

    Args:
        depth: number L of blocks.
        patch: sites per side of a patch.
        num_heads, head_dim, activation, mlp_ratio: as in `Transformer`.

    Raises:
        ValueError: a number below 1; both num_heads and head_dim; unknown activation.

    Example:
        >>> ViT(depth=2, patch=2, num_heads=2)
        ViT(depth=2, patch=2, num_heads=2, head_dim=None, activation='gelu', mlp_ratio=4)
    """

    depth: int
    patch: int = 4
    num_heads: int | None = None
    head_dim: int | None = None
    activation: Activation = GELU
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        put_attention(self)
        check.count("patch", self.patch)

    @property
    def num_blocks(self) -> int:
        """L"""
        return self.depth

    def check_input(self, shape: tuple[int, ...], width: int | None = None) -> None:
        """ValueError unless samples are images that patches divide, and heads divide the width."""
        check_image(self, shape)
        if shape[0] % self.patch or shape[1] % self.patch:
            raise ValueError(f"patch={self.patch} must divide the sides of the images, which are {shape[0]} x {shape[1]}.")
        check_heads(self, width)

    def forward(self, net: Net, x: Any) -> Float[Array, "samples outputs"]:
        """f of a batch."""
        p, (samples, height, width, channels) = self.patch, x.shape
        patches = (
            x.reshape(samples, height // p, p, width // p, p, channels).swapaxes(2, 3).reshape(samples, -1, p * p * channels)
        )
        h = net.input("W0", patches, "stream") + net.vectors("place", "stream", patches.shape[1])
        return net.readout("w", blocks_of_attention(net, self, h, causal=False).mean(1), "stream")

    __repr__ = shown
