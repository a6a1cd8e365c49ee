"""Double precision where it is needed, without touching the global configuration."""

from __future__ import annotations

from contextlib import AbstractContextManager

import jax


def float64() -> AbstractContextManager:
    """A context in which JAX computes in double precision.

    Example:
        >>> import jax.numpy as jnp
        >>> with float64():
        ...     jnp.zeros(1).dtype
        dtype('float64')
    """
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # type: ignore[attr-defined]  # before JAX 0.8

    return enable_x64(True)
