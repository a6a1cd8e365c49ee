"""Causal low-rank factor of a kernel: Gram-Schmidt on the functions that span it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

FEW = 8
"""Functions made at a time; most steps need fewer."""

FLOOR = 32
"""Least tolerance in units of eps: Gram matrices of fields carry that much rounding."""


class Basis(NamedTuple):
    """Functions on the paths, orthonormal under the average: <e_k e_l> = delta_kl.

    Attributes:
        e: (S, K) the functions; columns from `size` on are zero (and column 0 where it stands for a bias).
        size: how many there are.
        grew: by how many at the last step.
        missed: how many steps left out functions for want of room.
    """

    e: Float[Array, "paths rank"]
    size: Int[Array, ""]
    grew: Int[Array, ""]
    missed: Int[Array, ""]

    @staticmethod
    def zeros(num_replicas: int, num_paths: int, rank: int, dtype: Any, size: int = 0) -> Basis:
        """No functions yet (or `size` columns of zeros that count), with a leading axis of replicas."""
        counts = (jnp.full(num_replicas, n) for n in (size, 0, 0))
        return Basis(jnp.zeros((num_replicas, num_paths, rank), dtype), *counts)


def extend(
    basis: Basis, F: Float[Array, "paths points"], least: Float[Array, ""], axis_name: str
) -> tuple[Basis, Float[Array, "points rank"]]:
    """Expand the functions F_m in the basis, which grows by as many of them as it takes.

        F_m = sum_k row_mk e_k + a rest of mean square at most `least`

    This is pivoted Cholesky of the kernel <F(t) F(s)>, one time step after the other: the kernel is
    row(t) row(s)^T, the largest rest becomes the next pivot, and rows written at earlier steps keep their meaning as new
    functions come in. The paths may be in float32: choices are made in float64, and new functions are made orthonormal by
    their own averages, not by differences of kernels.

    Args:
        basis: what spans the past.
        F: (S, M) functions at this step.
        least: largest mean square of a rest; never below FLOOR eps times that of F, where rounding begins.
        axis_name: of the replicas over which this is mapped; they make functions together, so that a step without new
            ones skips the work.

    Returns:
        the basis and the coefficients, in float64.
    """
    S, M = F.shape
    capacity = basis.e.shape[1]

    def average(x: Array, y: Array) -> Array:
        return (x.T @ y).astype(float) / S

    row, kernel = average(F, basis.e), average(F, F)
    least = jnp.maximum(least, FLOOR * jnp.finfo(F.dtype).eps * jnp.trace(kernel) / M)
    room = capacity - basis.size
    pivots, rank, rest = _pivots(kernel - row @ row.T, least, room)
    places = jnp.where(jnp.arange(M) < rank, basis.size + jnp.arange(M), capacity)  # of new functions; `capacity` is nowhere

    def make(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        """The next few functions: rests of their pivots, made orthonormal."""
        e, row, made = carry
        j = made + jnp.arange(min(FEW, M))
        kept, m, place = j < rank, pivots[j], jnp.where(j < rank, places[j], capacity)
        x = F[:, m] - e @ row[m].T.astype(F.dtype)  # e has zeros where functions are still to be made
        x = jnp.where(kept, x - e @ average(e, x).astype(F.dtype), 0.0)
        gram = average(x, x) + jnp.diag(jnp.where(kept, least * 1e-13, 1.0))
        e_new = x @ _orthonormal(gram).T.astype(F.dtype)
        return e.at[:, place].set(e_new, mode="drop"), row.at[:, place].set(average(F, e_new), mode="drop"), made + len(j)

    most = jax.lax.pmax(rank, axis_name)
    e, row, _ = jax.lax.while_loop(lambda carry: carry[2] < most, make, (basis.e, row, jnp.zeros((), int)))
    missed = basis.missed + ((rest > least) & (rank == room))
    return Basis(e, basis.size + rank, rank, missed), row


def _pivots(
    kernel: Float[Array, "points points"], least: Float[Array, ""], room: Int[Array, ""]
) -> tuple[Int[Array, "points"], Int[Array, ""], Float[Array, ""]]:
    """Pivoted Cholesky: at most `room` points whose functions leave every rest of the kernel's diagonal at most `least`.

    Returns:
        the pivots, how many they are, and the largest rest.
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
    _, pivots, rank, diagonal = jax.lax.while_loop(wanting, grow, start)
    return pivots, rank, jnp.max(diagonal)


def _orthonormal(gram: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """W with W gram W^T = 1, lower triangular: Gram-Schmidt on the coefficients (LAPACK's batched way compiles for seconds)."""

    def row(j: Array, W: Array) -> Array:
        w = jnp.zeros(len(gram)).at[j].set(1.0) - (W @ gram[:, j]) @ W
        return W.at[j].set(w / jnp.sqrt(w @ gram @ w))

    return jax.lax.fori_loop(0, len(gram), row, jnp.zeros_like(gram))
