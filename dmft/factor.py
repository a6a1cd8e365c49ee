"""Causal low-rank factor of a kernel: Gram-Schmidt on the functions that span it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

FLOOR = 32
"""Least tolerance in units of eps: Gram matrices of fields carry that much rounding."""


class Basis(NamedTuple):
    """Functions on the paths, orthonormal under the average: <e_k e_l> = delta_kl.

    Attributes:
        e: (S, K) the functions; columns from `size` on are zero (and column 0 where it stands for a bias).
        size: how many there are.
        grew: by how many at the last step.
        missed: how many steps left out functions for want of room.
        live: which of them a field that drives the dynamics has used; not those that only a measurement brought in.
    """

    e: Float[Array, "paths rank"]
    size: Int[Array, ""]
    grew: Int[Array, ""]
    missed: Int[Array, ""]
    live: Bool[Array, "rank"]

    @staticmethod
    def zeros(num_replicas: int, num_paths: int, rank: int, dtype: Any, size: int = 0) -> Basis:
        """No functions yet (or `size` columns of zeros that count), with a leading axis of replicas."""
        counts = (np.full(num_replicas, n) for n in (size, 0, 0))
        live: Any = np.zeros((num_replicas, rank), bool)
        return Basis(np.zeros((num_replicas, num_paths, rank), dtype), *counts, live)  # type: ignore[arg-type,call-arg]


def extend(
    basis: Basis, F: Float[Array, "paths points"], num_driving: int, least: Float[Array, ""], axis_name: str
) -> tuple[Basis, Float[Array, "points rank"]]:
    """Expand the functions F_m in the basis, which grows by as many of the driving ones as it takes.

        F_m = sum_k row_mk e_k + a rest, of mean square at most `least` for the first num_driving of them

    This is pivoted Cholesky of the kernel <F(t) F(s)>, one time step after the other: the kernel is
    row(t) row(s)^T, the largest rest becomes the next pivot, and rows written at earlier steps keep their meaning as new
    functions come in. The paths may be in float32: choices are made in float64, and new functions are made orthonormal by
    their own averages, not by differences of kernels.

    Args:
        basis: what spans the past.
        F: (S, M) functions at this step.
        num_driving: how many of them, the first ones, the basis is for; the rest of the others may be any size.
        least: largest mean square of a driving rest; never below FLOOR eps times that of F, where rounding begins.
        axis_name: of the replicas over which this is mapped; they make functions together, so that a step without new
            ones skips the work.

    Returns:
        the basis and the coefficients, in float64.
    """
    S, n = len(F), num_driving
    capacity = basis.e.shape[1]

    def average(x: Array, y: Array) -> Array:
        return (x.T @ y).astype(float) / S

    row = average(F, basis.e)
    if n == 0:
        return basis, row
    squares = jnp.mean(F[:, :n] ** 2, axis=0).astype(float)
    least = jnp.maximum(least, FLOOR * jnp.finfo(F.dtype).eps * jnp.mean(squares))
    largest = jnp.max(squares - jnp.sum(row[:n] ** 2, axis=1))

    def grow(carry: tuple) -> tuple:
        """New functions: the rests of their pivots, made orthonormal."""
        basis, row, _ = carry
        rest = F[:, :n] - basis.e @ row[:n].T.astype(F.dtype)
        again = average(rest, basis.e)  # twice is enough: once leaves rounding over the size of the rest, which would pile up
        rest, row = rest - basis.e @ again.T.astype(F.dtype), row.at[:n].add(again)
        gram = average(rest, rest)  # not the difference of kernels, which has lost its digits to cancellation
        W, rank, left = _orthonormal(gram, least, capacity - basis.size)
        places = jnp.where(jnp.arange(n) < rank, basis.size + jnp.arange(n), capacity)  # `capacity` is nowhere
        new = rest @ W.T.astype(F.dtype)
        e = basis.e.at[:, places].set(new, mode="drop")
        row = row.at[:, places].set(jnp.concatenate([gram @ W.T, average(F[:, n:], new)]), mode="drop")
        return Basis(e, basis.size + rank, rank, basis.missed + (left > least), basis.live), row, jnp.array(False)

    wanting = jax.lax.pmax(largest > least, axis_name)
    start = (basis._replace(grew=jnp.zeros_like(basis.grew)), row, wanting)
    basis, row, _ = jax.lax.while_loop(lambda carry: carry[2], grow, start)  # once at most; in place, as a branch is not
    return basis._replace(live=basis.live | (jnp.max(row[:n] ** 2, axis=0) > least)), row


def _orthonormal(
    gram: Float[Array, "points points"], least: Float[Array, ""], room: Int[Array, ""]
) -> tuple[Float[Array, "points points"], Int[Array, ""], Float[Array, ""]]:
    """Orthonormal combinations W of functions, W gram W^T = 1, by Gram-Schmidt, largest rest first, down to `least`.

    Returns:
        W (M, M) with rows from `rank` on zero, rank <= room, and the largest rest.
    """
    M = len(gram)

    def wanting(carry: tuple) -> Array:
        *_, rank, rest = carry
        return (jnp.max(rest) > least) & (rank < jnp.minimum(room, M))

    def grow(carry: tuple) -> tuple:
        C, W, rank, rest = carry  # C = gram W^T, so that gram = C C^T + a rest of this diagonal
        m = jnp.argmax(rest)
        scale = 1 / jnp.sqrt(rest[m])
        c = (gram[:, m] - C @ C[m]) * scale
        w = (jnp.zeros(M).at[m].set(1.0) - C[m] @ W) * scale
        rest = jnp.maximum(rest - c * c, 0.0).at[m].set(0.0)
        return C.at[:, rank].set(c), W.at[rank].set(w), rank + 1, rest

    start = (jnp.zeros_like(gram), jnp.zeros_like(gram), jnp.zeros((), int), jnp.diagonal(gram))
    _, W, rank, rest = jax.lax.while_loop(wanting, grow, start)
    return W, rank, jnp.max(rest)
