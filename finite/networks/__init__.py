"""Networks of width N, one equinox module per architecture: x of one sample -> outputs, and its fields by name."""

from __future__ import annotations

from typing import Any

import equinox as eqx
from jaxtyping import Array, Key

from finite.networks import conv, mlp, transformer
from finite.networks.weight import Maker, Weight, is_weight
from widthwise import MLP, ConvNet, Parameterization, ResidualMLP, ResNet, Transformer, ViT
from widthwise.architecture import Architecture
from widthwise.parameterization import Optimizer

MODULES: dict[type, Any] = {
    MLP: mlp.Dense,
    ResidualMLP: mlp.Residual,
    ConvNet: conv.Convolutional,
    ResNet: conv.Residual,
    Transformer: transformer.Decoder,
    ViT: transformer.Viewer,
}


def build(
    architecture: Architecture,
    form: Parameterization,
    *,
    width: int,
    input_shape: tuple[int, ...],
    num_outputs: int,
    key: Key[Array, ""],
    optimizer: Optimizer = "sgd",
) -> eqx.Module:
    """A network at its start.

    Args:
        architecture: the noun.
        form: where the powers of the width and the depth come from.
        width: N.
        input_shape: of one sample.
        num_outputs: C, or the vocabulary.
        key: of the initial weights.
        optimizer: whose learning rates the weights carry.

    Raises:
        ValueError: a sample of another shape than the architecture takes.

    Example:
        >>> import jax
        >>> network = build(MLP(2), Parameterization(), width=32, input_shape=(8,), num_outputs=3, key=jax.random.key(0))
        >>> f, fields = network(jax.numpy.ones(8))
        >>> f.shape, {name: h.shape for name, h in fields.items()}
        ((3,), {'h1': (32,), 'h2': (32,)})
    """
    architecture.check_input(input_shape, width)
    make = Maker(form, optimizer, width, key, blocks=architecture.num_blocks)
    return MODULES[type(architecture)](architecture, make, input_shape, num_outputs)


__all__ = ["Weight", "build", "is_weight"]
