"""What a user's function computes, as JAX sees it: by this, functions that are made anew are known again."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np

from widthwise.precision import FLOATS, computing_in


def trace(function: Callable[..., Any], dtype: str, *shapes: tuple[int, ...]) -> tuple[str, list[np.ndarray]]:
    """What the function computes of arrays of these shapes: its jaxpr, and the constants that it closes over.

    Example:
        >>> trace(lambda x: 2 * x, "float32", ())[0]
        '{ lambda ; a:f32[]. let b:f32[] = mul 2.0:f32[] a in (b,) }'
    """
    with computing_in(dtype), jax.disable_jit():  # inner jits are written out, so that no constant hides in them
        closed = jax.make_jaxpr(function)(*(np.zeros(shape, dtype) for shape in shapes))
        return str(closed), [np.asarray(c) for c in closed.consts]


def key_of(function: Callable[..., Any], *shapes: tuple[int, ...]) -> Hashable:
    """Equal for functions that compute the same of arrays of these shapes, in either precision; None if JAX cannot trace it."""
    try:
        texts = [trace(function, dtype, *shapes) for dtype in FLOATS]
    except Exception:  # it fails where it is used, with the message of that place
        return None
    return tuple((jaxpr, *((c.dtype.str, c.shape, c.tobytes()) for c in constants)) for jaxpr, constants in texts)
