"""Orthonormal functions on the paths that span what a random matrix has been multiplied with."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

ROUNDING = 32
"""Least tolerance in units of eps: Gram matrices carry that much."""


class Policy(NamedTuple):
    """When a function is new.

    Attributes:
        tol: rest of a function, relative to the largest mean square so far, below which it brings nothing new, up to a quarter
            of `widest` functions; from three quarters on it is `coarse`, and in between it rises from the one to the other.
        coarse: see there.
        widest: how many functions the paths can tell apart.
        floor: mean square below which a function is rounding: what vanishes in the limit is not zero.
    """

    tol: Any
    coarse: Any
    widest: Any
    floor: Any

    def least(self, size: Float[Array, ""], scale: Float[Array, ""]) -> Float[Array, ""]:
        """Mean square of a rest that is left out."""
        filled = jnp.clip(2 * size / self.widest - 0.5, 0.0, 1.0)
        return jnp.maximum(self.tol ** (1 - filled) * self.coarse**filled * scale, self.floor)


def average(x: Float[Array, "functions paths"], e: Float[Array, "paths rank"]) -> Float[Array, "functions rank"]:
    """<x_m e_k> over the paths."""
    return x @ e / len(e)


def extend(
    e: Float[Array, "paths rank"], size: Float[Array, ""], F: Float[Array, "functions paths"], least: Float[Array, ""]
) -> tuple[Float[Array, "paths rank"], Float[Array, "functions rank"], Float[Array, ""], Float[Array, ""]]:
    """Expand the functions F_m in the basis, which takes in as many combinations of them as it needs.

        F_m = sum_k row_mk e_k + a rest, of mean square at most `least`

    Pivoted Cholesky of the Gram matrix of the rests: the largest becomes the next pivot, so that the same functions come in the
    same order on every machine, and noise stays with them.

    Returns:
        the basis, the coefficients, how many functions it has, and the largest rest that had no room.
    """
    F = F.astype(e.dtype)
    squares = jnp.mean(F * F, axis=1)
    least = jnp.maximum(least, ROUNDING * jnp.finfo(e.dtype).eps * jnp.mean(squares))
    row = average(F, e)
    n = min(e.shape[1], len(F))

    def grow(operands: tuple) -> tuple:
        e, row = operands
        rest = F - row @ e.T
        again = average(rest, e)  # once leaves rounding over the size of the rest
        rest, row = rest - again @ e.T, row + again
        gram = rest @ rest.T / len(e)
        W, rank, left = _orthonormal(gram, least, e.shape[1] - size, n)
        place = jnp.where(jnp.arange(n) < rank, size.astype(int) + jnp.arange(n), e.shape[1])  # which is nowhere
        e, row = e.at[:, place].set((W @ rest).T, mode="drop"), row.at[:, place].set(gram @ W.T, mode="drop")
        return e, row, size + rank, jnp.where(left > least, left, 0.0)

    def nothing(operands: tuple) -> tuple:
        e, row = operands
        return e, row, size, jnp.zeros_like(least)

    wanting = jnp.max(squares - jnp.sum(row * row, axis=1)) > least
    return jax.lax.cond(wanting, grow, nothing, (e, row))


def _orthonormal(
    gram: Float[Array, "functions functions"], least: Float[Array, ""], room: Float[Array, ""], n: int
) -> tuple[Float[Array, "n functions"], Array, Float[Array, ""]]:
    """Orthonormal combinations W of functions, W gram W^T = 1, largest rest first, down to `least`.

    Returns:
        W with rows from `rank` on zero, rank <= min(room, n), and the largest rest.
    """
    M = len(gram)

    def wanting(carry: tuple) -> Array:
        *_, rank, rest = carry
        return (jnp.max(rest) > least) & (rank < jnp.minimum(room, n))

    def grow(carry: tuple) -> tuple:
        C, W, rank, rest = carry  # C = W gram, so that gram = C^T C + a rest of this diagonal
        m = jnp.argmax(rest)
        scale = jax.lax.rsqrt(rest[m])
        c = (gram[m] - C[:, m] @ C) * scale
        w = (jnp.zeros(M, gram.dtype).at[m].set(1.0) - C[:, m] @ W) * scale
        return C.at[rank].set(c), W.at[rank].set(w), rank + 1, jnp.maximum(rest - c * c, 0.0).at[m].set(0.0)

    start = (jnp.zeros((n, M), gram.dtype), jnp.zeros((n, M), gram.dtype), jnp.zeros((), int), jnp.diagonal(gram))
    _, W, rank, rest = jax.lax.while_loop(wanting, grow, start)
    return W, rank, jnp.max(rest)
