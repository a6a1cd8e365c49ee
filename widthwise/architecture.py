"""Network architectures: the graph, never the width."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, get_args

from widthwise import check
from widthwise.activation import Activation, Elementwise, as_activation

DEEPEST = 10_000
"""Most layers or blocks: each is compiled by itself, and more would not end."""

_ACTIVATION, _GELU = as_activation("relu"), as_activation("gelu")


def _put(noun: Any, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(noun, name, value)


def _shown(noun: Any) -> str:
    """All fields, activations by name."""
    values = {field.name: getattr(noun, field.name) for field in dataclasses.fields(noun)}
    shown = (f"{name}={(x.name if isinstance(x, Activation) else x)!r}" for name, x in values.items())
    return f"{type(noun).__name__}({', '.join(shown)})"


def _check_image(noun: Any, shape: tuple[int, ...]) -> None:
    if len(shape) != 3:
        raise ValueError(f"{type(noun).__name__} takes images, samples of shape (height, width, channels); got {shape}.")


def _put_attention(noun: Transformer | ViT) -> None:
    if noun.num_heads is not None and noun.head_dim is not None:
        raise ValueError(
            f"give num_heads or head_dim, not both: their product is the width. Got {noun.num_heads} and {noun.head_dim}."
        )
    if noun.num_heads is None and noun.head_dim is None:
        _put(noun, num_heads=4)
    for name in ("depth", "num_heads", "head_dim", "mlp_ratio"):
        if getattr(noun, name) is not None:
            check.count(name, getattr(noun, name), most=DEEPEST if name == "depth" else 2**63 - 1)
    _put(noun, activation=as_activation(noun.activation))


def _check_heads(noun: Transformer | ViT, width: int | None) -> None:
    name, value = ("head_dim", noun.head_dim) if noun.num_heads is None else ("num_heads", noun.num_heads)
    if width is not None and width % (value or 1):
        raise ValueError(f"{name}={value} must divide the width, got width={width}.")


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


@dataclass(frozen=True)
class ResidualMLP:
    """A fully connected residual network of `depth` blocks.

        h^1 = W^0 x,   h^{l+1} = h^l + L^-alpha W^l phi(h^l),   f = w . phi(h^{L+1}),     L = depth          (2309.16620)

    Args:
        depth: number L of blocks.
        activation: name, elementwise function, or Activation.
        block_depth: matrices of a block, k; each acts on phi of what came before. 1 goes with alpha = 1/2, 2 with alpha = 1.

    Raises:
        ValueError: depth or block_depth below 1; unknown activation.

    Example:
        >>> ResidualMLP(depth=8, activation="relu")
        ResidualMLP(depth=8, activation='relu', block_depth=1)
    """

    depth: int
    activation: Activation = _ACTIVATION
    block_depth: int = 1

    def __post_init__(self) -> None:
        _put(self, depth=check.count("depth", self.depth, most=DEEPEST), activation=as_activation(self.activation))
        check.count("block_depth", self.block_depth, most=DEEPEST)

    @property
    def num_blocks(self) -> int:
        """L"""
        return self.depth

    def check_input(self, shape: tuple[int, ...], width: int | None = None) -> None:
        """ValueError unless it takes samples of this shape: any, which it reads as one vector."""

    __repr__ = _shown


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
    activation: Activation = _ACTIVATION
    kernel: int = 3

    def __post_init__(self) -> None:
        _put(self, depth=check.count("depth", self.depth, most=DEEPEST), activation=as_activation(self.activation))
        check.count("kernel", self.kernel, "It is a side of a filter, in pixels.", most=1000)

    @property
    def num_blocks(self) -> None:
        """Residual blocks: none."""
        return None

    def check_input(self, shape: tuple[int, ...], width: int | None = None) -> None:
        """ValueError unless samples are images."""
        _check_image(self, shape)

    __repr__ = _shown


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
    activation: Activation = _ACTIVATION
    norm: bool = False

    def __post_init__(self) -> None:
        stages = check.counts("stages", self.stages, "They are numbers of blocks, e.g. (2, 2, 2, 2).")
        check.count("the sum of stages", sum(stages), most=DEEPEST)
        _put(self, stages=stages, activation=as_activation(self.activation))
        check.flag("norm", self.norm)

    @property
    def num_blocks(self) -> int:
        """L, of all stages."""
        return sum(self.stages)

    def check_input(self, shape: tuple[int, ...], width: int | None = None) -> None:
        """ValueError unless samples are images."""
        _check_image(self, shape)

    __repr__ = _shown


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
    activation: Activation = _GELU
    mlp_ratio: int = 4
    tied: bool = False

    def __post_init__(self) -> None:
        _put_attention(self)
        check.flag("tied", self.tied)

    @property
    def num_blocks(self) -> int:
        """L"""
        return self.depth

    def heads_at(self, width: int) -> int:
        """Number of heads at this width."""
        return self.num_heads or width // (self.head_dim or 1)

    def check_input(self, shape: tuple[int, ...], width: int | None = None) -> None:
        """ValueError unless samples are tokens in a row, and heads divide the width."""
        if len(shape) != 1:
            raise ValueError(f"Transformer takes tokens, samples of shape (context,); got {shape}. For images there is ViT.")
        _check_heads(self, width)

    __repr__ = _shown


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
    activation: Activation = _GELU
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        _put_attention(self)
        check.count("patch", self.patch)

    @property
    def num_blocks(self) -> int:
        """L"""
        return self.depth

    def heads_at(self, width: int) -> int:
        """Number of heads at this width."""
        return self.num_heads or width // (self.head_dim or 1)

    def check_input(self, shape: tuple[int, ...], width: int | None = None) -> None:
        """ValueError unless samples are images that patches divide, and heads divide the width."""
        _check_image(self, shape)
        if shape[0] % self.patch or shape[1] % self.patch:
            raise ValueError(f"patch={self.patch} must divide the sides of the images, which are {shape[0]} x {shape[1]}.")
        _check_heads(self, width)

    __repr__ = _shown


Architecture = MLP | ResidualMLP | ConvNet | ResNet | Transformer | ViT
NAMES: dict[str, Any] = {noun.__name__: noun for noun in get_args(Architecture)}
