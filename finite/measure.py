"""What is measured on a network while it trains: outputs and losses at every state, kernels between the chosen ones."""

from __future__ import annotations

from typing import TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float

from widthwise import GradientDescent

Observables: TypeAlias = dict[str, Float[Array, "..."] | None]
"""Fields of a Trajectory by name; None where there is nothing to measure."""


def outputs(f: Float[Array, "M"], y: Float[Array, "P"], y_test: Float[Array, "Q"] | None) -> Observables:
    """f at all points, loss over the train points, test_loss over the test points (None without test targets)."""
    P = len(y)
    test_loss = None if y_test is None else GradientDescent.loss_of(f[P:], y_test)
    return {"f": f, "loss": GradientDescent.loss_of(f[:P], y), "test_loss": test_loss}


def kernel(fields: Float[Array, "L K M N"]) -> Float[Array, "L K M K M"]:
    """Two-time kernel of fields x, which are phi or g kept at K steps: (1 / N) sum_i x^l_mi(t) x^l_ni(s), axes (t, m, s, n).

    Example:
        >>> kernel(jnp.array([[[[1.0, 3.0]], [[1.0, 1.0]]]])).squeeze().round(3).tolist()
        [[5.0, 2.0], [2.0, 1.0]]
    """
    x = fields / fields.shape[-1] ** 0.5
    return jnp.einsum("ltmi,lsni->ltmsn", x, x)
