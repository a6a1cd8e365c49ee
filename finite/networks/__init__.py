"""Networks of width N: a description (`widthwise.networks`) with drawn weights."""

from __future__ import annotations

from jaxtyping import Array, Key

from finite.networks.drawn import Drawn
from finite.networks.weight import Maker, Weight, is_weight
from widthwise import Parameterization, Transformer
from widthwise.networks import Architecture, plan_of
from widthwise.parameterization import Optimizer


def build(
    architecture: Architecture,
    form: Parameterization,
    *,
    width: int,
    input_shape: tuple[int, ...],
    num_outputs: int,
    whole: bool | None = None,
    key: Key[Array, ""],
    optimizer: Optimizer = "sgd",
) -> Drawn:
    """A network at its start.

    Args:
        architecture: the noun.
        form: where the powers of the width and the depth come from.
        width: N.
        input_shape: of one sample.
        num_outputs: C, or the vocabulary.
        whole: whether samples are whole numbers (tokens), by default of a Transformer.
        key: of the initial weights.
        optimizer: whose learning rates the weights carry.

    Raises:
        ValueError: a sample of another shape than the architecture takes.

    Example:
        >>> import jax
        >>> from widthwise import MLP
        >>> network = build(MLP(2), Parameterization(), width=32, input_shape=(8,), num_outputs=3, key=jax.random.key(0))
        >>> f, fields = network(jax.numpy.ones(8))
        >>> f.shape, {name: h.shape for name, h in fields.items()}
        ((3,), {'h1': (32,), 'h2': (32,)})
    """
    architecture.check_input(input_shape, width)
    tokens = isinstance(architecture, Transformer) if whole is None else whole
    plan = plan_of(architecture, input_shape, num_outputs, tokens)
    for name, p in plan.populations.items():
        if p.times * width % (p.parts or 1):
            raise ValueError(f"{p.parts} must divide the {p.times * width} neurons of {name!r}, at width={width}.")
    return Drawn(architecture, plan, Maker(form, optimizer, width, key))


__all__ = ["Drawn", "Weight", "build", "is_weight"]
