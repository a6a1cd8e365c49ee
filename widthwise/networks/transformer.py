"""Decoders of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Array, Float

from widthwise import check
from widthwise.activation import Activation
from widthwise.networks.backend import Net
from widthwise.networks.layers import blocks_of_attention
from widthwise.networks.noun import GELU, check_heads, put_attention, shown


@dataclass(frozen=True)
class Transformer:
    """A decoder of tokens: pre-norm blocks of causal attention and a two-layer MLP; learned places; logits q . k / d_head.

    Args:
        depth: number L of blocks.
        num_heads: heads, of N / num_heads channels each; or
        head_dim: channels of a head, N / head_dim heads. Give one of the two; by default four heads.
        activation: of the MLPs.
        mlp_ratio: their hidden width over N.
        tied: the embedding is the readout too.

    Raises:
        ValueError: depth, num_heads, head_dim or mlp_ratio below 1; both num_heads and head_dim; unknown activation.

    Example:
        >>> Transformer(depth=2, head_dim=16)
        Transformer(depth=2, num_heads=None, head_dim=16, activation='gelu', mlp_ratio=4, tied=False)
    """

    depth: int
    num_heads: int | None = None
    head_dim: int | None = None
    activation: Activation = GELU
    mlp_ratio: int = 4
    tied: bool = False

    def __post_init__(self) -> None:
        put_attention(self)
        check.flag("tied", self.tied)

    @property
    def num_blocks(self) -> int:
        """L"""
        return self.depth

    def check_input(self, shape: tuple[int, ...], width: int | None = None) -> None:
        """ValueError unless samples are tokens in a row, and heads divide the width."""
        if len(shape) != 1:
            raise ValueError(f"Transformer takes tokens, samples of shape (context,); got {shape}. For images there is ViT.")
        check_heads(self, width)

    def forward(self, net: Net, x: Any) -> Float[Array, "samples context vocabulary"]:
        """f of a batch: logits of the next token at every place; tied, the embedding is the readout too."""
        E, place = net.vectors("E", "stream", net.num_outputs), net.vectors("place", "stream", x.shape[1])
        h = blocks_of_attention(net, self, E[x] + place, causal=True)
        return net.readout("E" if self.tied else "w", h, "stream")

    __repr__ = shown
