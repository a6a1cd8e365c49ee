"""Random keys: the networks of a seed, independent between widths."""

from __future__ import annotations

import jax
from jaxtyping import Array, Key

WIDEST = 2**32 - 1
"""Largest width: it is part of a key."""


def key_of(seed: int, width: int) -> Key[Array, ""]:
    """Of the networks of this seed and width; fold in the number of one for its own.

    The width is part of it: normal draws of two shapes from one key begin alike, and networks of two widths would share
    neurons. Errors of differences between widths would then not be those of independent networks.
    """
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), width)
