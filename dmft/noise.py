"""Frozen white noise of the single-site process: scrambled Sobol points, mirrored and whitened."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt

BLOCK = 32
"""Coordinates per field that share one Sobol sequence; later blocks are permuted against it (padding)."""

BITS = 30


def white_noise(
    num_paths: int, num_u: int, num_r: int, *, odd: bool, key: tuple[int, ...]
) -> tuple[Float[np.ndarray, "paths num_u"], Float[np.ndarray, "paths num_r"]]:
    """Standard normal coordinates eps_u and eps_r of the paths of one layer.

    The points are Sobol points with the coordinates of u and r interleaved, leading coordinates first, scrambled once and
    shifted at random (in base two) for every key. Every point (u, r) comes with its mirror image (u, -r), so that averages
    that are odd in r vanish exactly as they do in the limit: <phi eps_r> and <g eps_u> are then of order gamma0 path by path,
    and so is their sampling noise. Unless the activation is odd, (-u, r) and (-u, -r) come too. Last, the coordinates are
    whitened: <eps eps^T> = 1 to rounding (a linear network's averages, being second moments, are then exact).

    Asking for more coordinates leaves the first ones as they were, to rounding.

    Args:
        num_paths: number of paths S, mirror images included; a multiple of 4.
        num_u, num_r: coordinates of either field, at most S / 4 (S / 2 for odd activations).
        odd: whether the activation is odd.
        key: whole numbers; the same key gives the same noise, another key independent noise.
    """
    from scipy.special import ndtri  # imported where used: it costs a quarter of a second

    n, width = num_paths // num_images(odd), max(num_u, num_r)
    columns = []
    for block in range(-(-width // BLOCK)):
        rng = np.random.default_rng(np.random.SeedSequence([*key, block]))
        points = _sobol(n, block) ^ rng.integers(0, 2**BITS, 2 * BLOCK, dtype=np.uint32)
        columns.append(points if block == 0 else rng.permutation(points))
    points = np.concatenate(columns, axis=1)
    u, r = (_whiten(ndtri((x + 0.5) / 2.0**BITS)) for x in (points[:, 0::2][:, :num_u], points[:, 1::2][:, :num_r]))
    u, r = np.concatenate([u, u]), np.concatenate([r, -r])
    return (u, r) if odd else (np.concatenate([u, -u]), np.concatenate([r, r]))


def mirrored(key: Array, shape: tuple[int, ...], odd: bool, dtype: Any) -> tuple[Float[Array, "S K"], Float[Array, "S K"]]:
    """Fresh standard normal numbers (S, K) with the mirror images of `white_noise`: one array for u, one for r."""
    u, r = jax.random.normal(key, (2, shape[0] // num_images(odd), shape[1]), dtype)
    u, r = jnp.concatenate([u, u]), jnp.concatenate([r, -r])
    return (u, r) if odd else (jnp.concatenate([u, -u]), jnp.concatenate([r, r]))


def num_images(odd: bool) -> int:
    """Paths that share one point: (u, r) and (u, -r), and (-u, r) and (-u, -r) unless the activation is odd."""
    return 2 if odd else 4


@lru_cache(maxsize=64)
def _sobol(n: int, block: int) -> UInt[np.ndarray, "n dims"]:
    """The first n Sobol points in 2 BLOCK dimensions after a random matrix scramble of their digits, as whole numbers."""
    from scipy.stats import qmc  # imported where used: it costs a quarter of a second

    sobol = qmc.Sobol(2 * BLOCK, scramble=True, bits=BITS, rng=np.random.default_rng(block))
    points = sobol.random(1 << (n - 1).bit_length())[:n]  # a power of two, so that SciPy does not warn
    return (points * 2.0**BITS).astype(np.uint32)


def _whiten(x: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """x C^{-T} with C C^T = <x x^T>: column by column, so that the first columns do not depend on the later ones."""
    return np.linalg.solve(np.linalg.cholesky(x.T @ x / len(x)), x.T).T
