"""White noise of the paths of one population: mirrored, whitened jointly over all matrices that end or begin there.

Sobol points with the coordinates of all matrices interleaved, leading coordinates first. Every point (u, r), u behind matrices
and r before them, comes with its mirror image (u, -r): averages that are odd in r vanish exactly as they do in the limit. Then
all coordinates are made orthonormal, to each other and to the constant: second moments are exact, which is most of the gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt

BLOCK = 64
"""Coordinates that share one Sobol sequence; later blocks are permuted against it (padding)."""

BITS = 30

IMAGES = 2
"""Paths that share one point."""


class Noise:
    """Coordinates of one population of one replica, handed out as they are asked for.

    Args:
        num_paths: S, even.
        num_slots: how many matrices (times their parts) take coordinates in turn, on either side.
        key: whole numbers; the same key and the same requests give the same noise.
    """

    def __init__(self, num_paths: int, num_slots: int, key: Sequence[int]):
        self.n, self.num_slots, self.key = num_paths // IMAGES, max(num_slots, 1), [*key]
        self.known = {side: np.ones((self.n, 1 - side)) for side in (0, 1)}  # u is orthogonal to the constant; r by mirrors

    def columns(self, side: int, wanted: list[tuple[int, int]]) -> Float[np.ndarray, "S wanted"]:
        """Coordinates (slot, k) of u (side 0) or r (side 1), orthonormal to all before as long as half the paths allow it."""
        from scipy.special import ndtri  # imported where used: it costs a quarter of a second

        positions = np.array([2 * (k * self.num_slots + slot) + side for slot, k in wanted], np.int64)
        x = np.empty((self.n, len(wanted)))
        for block in np.unique(positions // BLOCK):
            here = positions // BLOCK == block
            rng = np.random.default_rng(np.random.SeedSequence([*self.key, int(block)]))
            points = _sobol(self.n, int(block) % 32) ^ rng.integers(0, 2**BITS, BLOCK, dtype=np.uint32)
            points = points if block == 0 else rng.permutation(points)
            x[:, here] = ndtri((points[:, positions[here] % BLOCK] + 0.5) / 2.0**BITS)
        known = self.known[side]
        q = max(min(len(wanted), self.n // 2 - known.shape[1]), 0)
        if q:
            first = x[:, :q]
            for _ in range(2):
                first = first - known @ (known.T @ first) / self.n
            first = np.linalg.solve(np.linalg.cholesky(first.T @ first / self.n), first.T).T
            x = np.concatenate([first, x[:, q:]], axis=1)
            self.known[side] = np.concatenate([known, first], axis=1)
        return np.concatenate([x, -x if side else x])


@lru_cache(maxsize=64)
def _sobol(n: int, block: int) -> UInt[np.ndarray, "n dims"]:
    """The first n Sobol points in BLOCK dimensions after a random matrix scramble of their digits, as whole numbers."""
    from scipy.stats import qmc  # imported where used: it costs a quarter of a second

    sobol = qmc.Sobol(BLOCK, scramble=True, bits=BITS, rng=np.random.default_rng(block))
    points = sobol.random(1 << (n - 1).bit_length())[:n]  # a power of two, so that SciPy does not warn
    return (points * 2.0**BITS).astype(np.uint32)
