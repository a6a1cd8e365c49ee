"""A random matrix of infinite size, conditioned on all that it has been multiplied with; an operation that JAX differentiates.

W maps fields x of one population to another, W x / sqrt(fan in), with entries N(0, 1) at the start. All that is known of it is
its past products. Let b_k be orthonormal functions (on the paths of the population before W) that span the past x, and a_j
those that span the gradients y of its outputs. Then

    W x   = sum_k <x b_k> (W b_k)    + alpha sum_j <x eps_r,j> a_j
    W^T y = sum_j <y a_j> (W^T a_j)  + alpha sum_k <y eps_u,k> b_k

    W b_k = alpha eps_u,k + updates,   W^T a_j = alpha eps_r,j + updates

with fresh white noise eps_u on the paths behind W and eps_r on those before it; alpha is what decay left of the start. The
second sum of each line is the response of one pass to the other: x depends on eps_r, which is what W^T a_j owes to the start.

`product` is the first line, its custom VJP the second. **The matrix goes through the network as a value and comes back as its
own cotangent**: `product(W, x)` gives, next to W x, the matrix that knows x, which the next use of W takes. The cotangent of
that is the matrix on the way back. It learns the gradients in reverse order and collects, in the places of the images, the
gradients by them: sum_n y_n <x_n b_k> and sum_n x_n <y_n a_j>. So one `jax.vjp` of a network is one step of the theory, with
every product in its place in the order, also where a matrix is used many times or both ways; and an update rule that is linear
in the gradient moves images as it moves weights.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dmft.process.basis import Policy, average, extend


class Matrix(NamedTuple):
    """What the past products of one random matrix say about it.

    As a cotangent: the same, with gradients in the places of Wb and Wa.

    Attributes:
        b: (S_in, K) orthonormal functions that span its inputs; zero from their number on.
        Wb: (S_out, K) their images.
        eps_u: (S_out, K) what these owe to the initial weights, in units of alpha.
        a, Wa, eps_r: (S_out, J), (S_in, J), (S_in, J): likewise of the transpose, S_in/S_out of it being true widths.
        size: (2,) how many b and a there are.
        scale: (2, 2) largest mean square so far of what b and a have been asked to span, features and gradients apart: of a
            matrix that is used both ways each spans both, and gradients are much smaller.
        missed: (2,) largest rest that had no room.
        alpha: what is left of the initial weights.
        policy: when a function is new.
    """

    b: Array
    Wb: Array
    eps_u: Array
    a: Array
    Wa: Array
    eps_r: Array
    size: Array
    scale: Array
    missed: Array
    alpha: Array
    policy: Policy

    @staticmethod
    def fresh(eps_u: Array, eps_r: Array, policy: Policy) -> Matrix:
        """At the start; eps_r (S_in, J) has variance fan in / fan out."""

        def zeros(e: Array, n: int) -> Array:
            return jnp.zeros((len(e), n), e.dtype)

        two, four, one = jnp.zeros(2, eps_u.dtype), jnp.zeros((2, 2), eps_u.dtype), jnp.ones((), eps_u.dtype)
        b, a = zeros(eps_r, eps_u.shape[1]), zeros(eps_u, eps_r.shape[1])
        return Matrix(b, eps_u, eps_u, a, eps_r, eps_r, two, four, two, one, policy)

    @property
    def T(self) -> Matrix:
        """The transpose."""
        size, scale, missed = (x[::-1] for x in (self.size, self.scale, self.missed))
        return Matrix(self.a, self.Wa, self.eps_r, self.b, self.Wb, self.eps_u, size, scale, missed, self.alpha, self.policy)


@jax.custom_vjp
def product(W: Matrix, x: Float[Array, "functions S_in"]) -> tuple[Float[Array, "functions S_out"], Matrix]:
    """W x, and the matrix that knows x."""
    return _forward(W, x)[0]


def _forward(W: Matrix, x: Array) -> tuple[tuple[Array, Matrix], Any]:
    scale = W.scale.at[0, 0].max(jnp.mean(x * x))
    b, row, size, left = extend(W.b, W.size[0], x, W.policy.least(W.size[0], scale[0, 0]))
    out = row @ W.Wb.T + W.alpha * average(x, W.eps_r) @ W.a.T
    after = W._replace(b=b, size=W.size.at[0].set(size), scale=scale, missed=W.missed.at[0].max(left))
    return (out, after), (W, x, row)


def _backward(saved: Any, cotangent: tuple[Array, Matrix]) -> tuple[Matrix, Array]:
    (W, x, row), (ct, back) = saved, cotangent
    y = ct * ct.shape[1]
    scale = back.scale.at[1, 1].max(jnp.mean(y * y))
    a, row_y, size, left = extend(back.a, back.size[1], y, W.policy.least(back.size[1], scale[1, 1]))
    z = row_y @ W.Wa.T + W.alpha * average(y, W.eps_u) @ back.b.T  # back.b: all that the way forward has brought
    back = back._replace(
        a=a,
        Wb=back.Wb + y.T @ row,
        Wa=back.Wa + x.T @ row_y,
        size=back.size.at[1].set(size),
        scale=scale,
        missed=back.missed.at[1].max(left),
    )
    return back, z / x.shape[1]


product.defvjp(_forward, _backward)


def initial(W: Matrix) -> Matrix:
    """The matrix as it was at the start, given what is known of it now."""
    return W._replace(Wb=W.eps_u, Wa=W.eps_r, alpha=jnp.ones_like(W.alpha))


def turned(W: Matrix) -> Matrix:
    """Where the way forward ends the way back begins: the cotangent of a matrix after its last use."""
    zeros = jax.tree.map(jnp.zeros_like, W)
    return W._replace(Wb=zeros.Wb, Wa=zeros.Wa, eps_u=zeros.eps_u, eps_r=zeros.eps_r)


def roomier(W: Matrix, eps_u: Array, eps_r: Array) -> Matrix:
    """The matrix with room for more functions, whose noise this is; whatever room it had counts as used."""
    K, J = W.b.shape[1], W.a.shape[1]

    def beside(x: Array, more: Array) -> Array:
        return jnp.concatenate([x, more.astype(x.dtype)], axis=1)

    def blank(x: Array, more: Array) -> Array:
        return beside(x, jnp.zeros((len(x), more.shape[1])))

    return W._replace(
        b=blank(W.b, eps_u),
        Wb=beside(W.Wb, W.alpha * eps_u),
        eps_u=beside(W.eps_u, eps_u),
        a=blank(W.a, eps_r),
        Wa=beside(W.Wa, W.alpha * eps_r),
        eps_r=beside(W.eps_r, eps_r),
        size=jnp.array([K, J], W.size.dtype),
    )
