"""What the nouns of architectures have in common."""

from __future__ import annotations

import dataclasses
from typing import Any

from widthwise import check
from widthwise.activation import Activation, as_activation

DEEPEST = 10_000
"""Most layers or blocks: each is compiled by itself, and more would not end."""

RELU, GELU = as_activation("relu"), as_activation("gelu")


def put(noun: Any, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(noun, name, value)


def shown(noun: Any) -> str:
    """All fields, activations by name."""
    values = {field.name: getattr(noun, field.name) for field in dataclasses.fields(noun)}
    text = (f"{name}={(x.name if isinstance(x, Activation) else x)!r}" for name, x in values.items())
    return f"{type(noun).__name__}({', '.join(text)})"


def check_image(noun: Any, shape: tuple[int, ...]) -> None:
    if len(shape) != 3:
        raise ValueError(f"{type(noun).__name__} takes images, samples of shape (height, width, channels); got {shape}.")


def put_attention(noun: Any) -> None:
    if noun.num_heads is not None and noun.head_dim is not None:
        raise ValueError(
            f"give num_heads or head_dim, not both: their product is the width. Got {noun.num_heads} and {noun.head_dim}."
        )
    if noun.num_heads is None and noun.head_dim is None:
        put(noun, num_heads=4)
    for name in ("depth", "num_heads", "head_dim", "mlp_ratio"):
        if getattr(noun, name) is not None:
            check.count(name, getattr(noun, name), most=DEEPEST if name == "depth" else 2**63 - 1)
    put(noun, activation=as_activation(noun.activation))


def check_heads(noun: Any, width: int | None) -> None:
    name, value = ("head_dim", noun.head_dim) if noun.num_heads is None else ("num_heads", noun.num_heads)
    if width is not None and width % (value or 1):
        raise ValueError(f"{name}={value} must divide the width, got width={width}.")
