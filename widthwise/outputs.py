"""Outputs of any network, beside their targets."""

from __future__ import annotations

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from widthwise import check
from widthwise.loss import Loss

RECORDED = 32
"""Steps that are recorded by default, evenly on a logarithmic scale."""


def targets(f: Array, y: Array) -> tuple[Float[Array, "samples outputs"], Float[Array, "samples outputs"]]:
    """f and y with an axis of samples and one of outputs; whole numbers y are places of the one among zeros."""
    f = f.reshape(-1, f.shape[-1])
    if jnp.issubdtype(y.dtype, jnp.integer):
        return f, jax.nn.one_hot(y.ravel(), f.shape[-1], dtype=f.dtype)
    return f, y.reshape(f.shape)


def recorded(f: Float[Array, "M ... outputs"], y: Array) -> Float[Array, "samples functions"]:
    """What is recorded of f: itself; of tokens (M, context, vocabulary) the centred logit of the token that comes."""
    flat, target = targets(f, y)
    return flat if f.ndim == 2 else jnp.sum((flat - flat.mean(-1, keepdims=True)) * target, axis=-1, keepdims=True)


def judged(loss: Loss, f: Float[Array, "M ... outputs"], y: Array) -> dict[str, Array]:
    """f as `recorded`, its loss, and its accuracy where there are classes."""
    flat, target = targets(f, y)
    seen = {"f": recorded(f, y), "test_loss": loss.of(flat, target).mean()}
    if jnp.issubdtype(y.dtype, jnp.integer):
        seen["accuracy"] = jnp.mean(jnp.argmax(flat, -1) == y.ravel())
    return seen


def kernel(h: Float[Array, "M ..."]) -> Float[Array, "M M"]:
    """h . h' / size, over neurons and sites.

    Example:
        >>> kernel(jnp.array([[1.0, 3.0], [1.0, 1.0]])).tolist()
        [[5.0, 2.0], [2.0, 1.0]]
    """
    flat = h.reshape(len(h), -1)
    return flat @ flat.T / flat.shape[1]


def recorded_steps(num_steps: int, record: Iterable[int] | None) -> Int[np.ndarray, "states"]:
    """The steps to record: `record`, sorted, or RECORDED of them by default; first and last always.

    Raises:
        ValueError: a step outside 0 ... num_steps, or not a whole number.

    Example:
        >>> recorded_steps(10, [3]).tolist()
        [0, 3, 10]
    """
    given = np.geomspace(1, num_steps, RECORDED).round() if record is None else check.sequence("record", record)
    if not all(isinstance(t, int | np.integer | np.floating) and 0 <= t <= num_steps and t == int(t) for t in given):
        raise ValueError(f"record must be whole numbers in 0 ... {num_steps} (num_steps), got {record!r}.")
    return np.unique([0, *(int(t) for t in given), num_steps])
