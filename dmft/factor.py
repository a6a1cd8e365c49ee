"""Causal low-rank factor of a kernel: Gram-Schmidt on the functions that span it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

FEW = 8
"""Functions made at a time; most steps need fewer."""


class Basis(NamedTuple):
    """Functions on the paths, orthonormal under the average: <e_k e_l> = delta_kl.

    Attributes:
        e: (S, K) the functions; columns from `size` on are zero.
        size: how many there are.
    """

    e: Float[Array, "paths rank"]
    size: Int[Array, ""]


def extend(
    basis: Basis, F: Float[Array, "paths points"], tol: float | Float[Array, ""], axis_name: str
) -> tuple[Basis, Float[Array, "points rank"]]:
    """Expand the functions F_m in the basis, which grows by as many of them as it takes.

        F_m = sum_k row_mk e_k + a rest of mean square at most tol times that of F

    This is pivoted Cholesky of the kernel <F(t) F(s)>, one time step after the other: the kernel is
    row(t) row(s)^T, the largest rest becomes the next pivot, and rows written at earlier steps keep their meaning as new
    functions come in. Whoever calls sees to it that there is room for M more.

    Args:
        basis: what spans the past.
        F: (S, M) functions at this step.
        tol: relative tolerance.
        axis_name: of the replicas over which this is mapped; they make functions together, so that a step without new
            ones skips the work.

    Returns:
        the basis and the coefficients.
    """
    S, M = F.shape
    capacity = basis.e.shape[1]
    row = F.T @ basis.e / S
    kernel = F.T @ F / S
    least = tol * jnp.trace(kernel) / M
    C, pivots, rank = pivoted_cholesky(kernel - row @ row.T, least, capacity - basis.size)
    places = jnp.where(jnp.arange(M) < rank, basis.size + jnp.arange(M), capacity)  # of new functions; `capacity` is nowhere
    row = row.at[:, places].set(C, mode="drop")

    def make(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        """The next few functions: rests of their pivots, made orthonormal."""
        e, made = carry
        j = made + jnp.arange(min(FEW, M))
        kept, m, place = j < rank, pivots[j], jnp.where(j < rank, places[j], capacity)
        rest = F[:, m] - e @ row[m].T  # e has zeros where functions are still to be made
        triangle = jnp.where(kept[:, None] & kept, C[m][:, j], jnp.eye(len(j), dtype=F.dtype))
        e_new = rest @ jnp.linalg.inv(triangle).T
        return e.at[:, place].set(e_new, mode="drop"), made + len(j)

    most = jax.lax.pmax(rank, axis_name)
    e, _ = jax.lax.while_loop(lambda carry: carry[1] < most, make, (basis.e, jnp.zeros((), int)))
    return Basis(e, basis.size + rank), row


def pivoted_cholesky(
    kernel: Float[Array, "points points"], least: Float[Array, ""], room: Int[Array, ""]
) -> tuple[Float[Array, "points points"], Int[Array, "points"], Int[Array, ""]]:
    """kernel = C C^T + a rest with diagonal at most `least`, largest pivot first, at most `room` columns.

    Returns:
        C (M, M) with columns from `rank` on zero, the pivots, and the rank.
    """
    M = len(kernel)

    def wanting(carry: tuple) -> Array:
        *_, rank, diagonal = carry
        return (jnp.max(diagonal) > least) & (rank < jnp.minimum(room, M))

    def grow(carry: tuple) -> tuple:
        C, pivots, rank, diagonal = carry
        m = jnp.argmax(diagonal)
        c = (kernel[:, m] - C @ C[m]) / jnp.sqrt(diagonal[m])
        diagonal = jnp.maximum(diagonal - c * c, 0.0).at[m].set(0.0)
        return C.at[:, rank].set(c), pivots.at[rank].set(m), rank + 1, diagonal

    start = (jnp.zeros_like(kernel), jnp.zeros(M, int), jnp.zeros((), int), jnp.diagonal(kernel))
    return jax.lax.while_loop(wanting, grow, start)[:3]
