"""The precision that a computation needs, without touching the global configuration."""

from __future__ import annotations

from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp
import numpy as np

FLOATS = ("float32", "float64")
"""The precisions that weights have."""


def computing_in(dtype: str) -> AbstractContextManager:
    """A context in which JAX computes in "float32" or "float64".

    Example:
        >>> import jax.numpy as jnp
        >>> with computing_in("float64"):
        ...     jnp.zeros(1).dtype
        dtype('float64')
    """
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(dtype == "float64")
    from jax.experimental import enable_x64  # type: ignore[attr-defined]  # before JAX 0.8

    return enable_x64(dtype == "float64")


def working() -> np.dtype:
    """The floating type that JAX computes in where this is called.

    Example:
        >>> with computing_in("float64"):
        ...     working()
        dtype('float64')
    """
    return np.dtype(jnp.result_type(float))


def float64() -> AbstractContextManager:
    """A context in which JAX computes in double precision."""
    return computing_in("float64")
