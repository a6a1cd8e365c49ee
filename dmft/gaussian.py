"""Averages of an activation and of its slope over two normal variables, <phi(u) phi(v)> and <phi'(u) phi'(v)>, exact.

In closed form from neural-tangents where it has one (linear, relu, erf, gelu), by a series in Hermite polynomials for other
smooth activations, and by a quadrature in polar coordinates for the rest; each with its error.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dmft import neural_tangents as nt
from widthwise import Activation
from widthwise.activation import NAMED

Kernel = Float[np.ndarray, "rows columns"]
Variances = Float[np.ndarray, "points"]

BATCH = 2**18
"""Quadrature points held in memory at a time."""

CLOSED_FORM = {"linear": "Identity", "relu": "Relu", "erf": "Erf", "gelu": "Gelu"}
"""Named activations whose averages neural-tangents has exactly, and its layers of them."""

RADIUS = 12.0
"""Where the quadrature ends; a Gaussian weight of e^-72 lies beyond."""

TERMS = (32, 64, 128, 256)
"""Numbers of Hermite polynomials that are tried."""

EXACT = 1e-12
"""Relative error of an average with which a series is taken for exact."""


class Averages(NamedTuple):
    """<phi(u) phi(v)> and <phi'(u) phi'(v)> (m, n), the variances <phi(u)^2> (m,) and <phi(v)^2> (n,), their relative error."""

    phi_phi: Kernel
    d_d: Kernel
    a: Variances
    b: Variances
    error: float


def averages(act: Activation, Phi: Kernel, a: Variances, b: Variances, max_nodes: int, tolerance: float = EXACT) -> Averages:
    """<phi(u) phi(v)> and <phi'(u) phi'(v)> for u_m, v_n of variances a (m,), b (n,) and covariances Phi (m, n).

    Singular kernels (equal samples, a zero input) are nothing special. A field of zero variance is zero, and phi' is then the
    activation's own phi'(0), as in a network: 0 for relu.
    """
    if act == NAMED.get(act.name) and act.name in CLOSED_FORM:
        phi_phi, d_d, left, right = map(np.array, _closed_form(act.name, Phi, a, b))
        if act.name == "relu":
            d_d *= np.outer(a > 0, b > 0)
        return Averages(phi_phi, d_d, left, right, 0.0)
    for terms in TERMS:
        series = hermite_series(act, terms, Phi, a, b)
        if series.error <= tolerance:
            return series
    nodes, change = 32, np.inf
    fine = quadrature(act, nodes, Phi, a, b)
    while change > 1e-9 and 3 * nodes // 2 <= max_nodes:
        nodes, coarse = 3 * nodes // 2, fine
        fine = quadrature(act, nodes, Phi, a, b)
        size = np.maximum(np.abs(fine).max(axis=(1, 2), keepdims=True), np.finfo(float).tiny)
        change = float(np.max(np.abs(fine - coarse) / size))
    left, right = (np.array(_pairs(act, nodes, x, x, x)[0]) for x in (a, b))
    return Averages(fine[0], fine[1], left, right, change)


@partial(jax.jit, static_argnames="name")
def _closed_form(name: str, Phi: Array, a: Array, b: Array) -> tuple[Array, Array, Array, Array]:
    """`averages` by neural-tangents."""
    dense, layer = nt.stax.Dense(1)[-1], getattr(nt.stax, CLOSED_FORM[name])()[-1]
    frame = dense(jnp.ones((len(a), 1)), jnp.ones((len(b), 1)))  # a Kernel to put ours in
    ones = jnp.ones(Phi.shape)  # with ntk = 1 the layer turns ntk into <phi' phi'>
    out = layer(frame.replace(nngp=Phi, cov1=a, cov2=b, ntk=ones, x1_is_x2=jnp.array(False)))
    return out.nngp, out.ntk, out.cov1, out.cov2


def hermite_series(act: Activation, terms: int, Phi: Kernel, a: Variances, b: Variances) -> Averages:
    """`averages` in normalised Hermite polynomials He_k (Mehler's formula); geometric convergence for smooth activations.

        <phi(u_m) phi(v_n)> = sum_k c_mk c_nk rho_mn^k,   c_mk = <phi(sqrt(a_m) x) He_k(x)>,   rho_mn = Phi_mn / sqrt(a_m b_n)

    and likewise for phi'. What the terms left out can add is known: sum_k c_mk^2 = <phi(u_m)^2>.
    """
    x, w, He = _hermite(terms)
    scale = np.sqrt(np.outer(a, b))
    rho = np.clip(np.divide(Phi, scale, out=np.zeros_like(scale), where=scale > 0), -1.0, 1.0)
    both, variances, error = [], [], 0.0
    for F in (act.phi, act.d):
        u = np.asarray(F(jnp.asarray(np.sqrt(a)[:, None] * x)))
        v = u if np.array_equal(a, b) else np.asarray(F(jnp.asarray(np.sqrt(b)[:, None] * x)))
        fields = (u, v)
        c_m, c_n = (field * w @ He.T for field in fields)
        squares = [field**2 @ w for field in fields]
        rests = [np.maximum(total - (c**2).sum(1), 0.0).max() for total, c in zip(squares, (c_m, c_n), strict=True)]
        error = max(error, float(np.sqrt(np.prod(rests)) / max(*(s.max() for s in squares), np.finfo(float).tiny)))
        kernel, power = np.zeros_like(rho), np.ones_like(rho)
        for k in range(terms):
            kernel += np.outer(c_m[:, k], c_n[:, k]) * power
            power *= rho
        both.append(kernel)
        variances.append(squares)
    return Averages(both[0], both[1], variances[0][0], variances[0][1], error)


@lru_cache
def _hermite(terms: int) -> tuple[Float[np.ndarray, "nodes"], Float[np.ndarray, "nodes"], Float[np.ndarray, "terms nodes"]]:
    """Nodes and weights for averages over N(0, 1), and He_0 ... He_{terms - 1} there."""
    from scipy.special import roots_hermitenorm  # imported where used: it costs a quarter of a second

    x, w = roots_hermitenorm(3 * terms)
    He = np.zeros((terms, len(x)))
    He[0], He[1] = 1.0, x
    for k in range(1, terms - 1):
        He[k + 1] = (x * He[k] - np.sqrt(k) * He[k - 1]) / np.sqrt(k + 1)
    return x, w / w.sum(), He


def quadrature(act: Activation, nodes: int, Phi: Kernel, a: Variances, b: Variances) -> Float[np.ndarray, "2 rows columns"]:
    """<phi(u) phi(v)> and <phi'(u) phi'(v)> of Gaussian u_m, v_n (see `averages`), pair by pair in polar coordinates:

        u_m = sqrt(a_m) r cos(theta),   v_n = sqrt(b_n) r cos(theta - alpha),   cos(alpha) = Phi_mn / sqrt(a_m b_n)
        <F> = int dtheta / 2 pi  int dr r exp(-r^2 / 2)  F(u_m, v_n)

    with Gauss-Legendre rules in r, and in theta between the angles where u_m or v_n changes sign. So a kink or a jump at zero
    sits on an end point of the rules and costs nothing, and steep activations are resolved where they are steep.
    """
    symmetric = np.array_equal(a, b) and np.array_equal(Phi, Phi.T)
    m, n = np.triu_indices(len(Phi)) if symmetric else np.indices(Phi.shape).reshape(2, -1)
    out = np.empty((2, *Phi.shape))
    out[:, m, n] = values = _pairs(act, nodes, a[m], b[n], Phi[m, n])
    if symmetric:
        out[:, n, m] = values
    return out


@partial(jax.jit, static_argnames=("act", "nodes"))
def _pairs(
    act: Activation, nodes: int, a: Float[Array, "pairs"], b: Float[Array, "pairs"], c: Float[Array, "pairs"]
) -> Float[Array, "2 pairs"]:
    """`quadrature` of pairs with variances a, b and covariance c."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    r = RADIUS / 2 * (1 + x)
    weight_r = RADIUS / 2 * w * r * np.exp(-(r**2) / 2)

    def pair(abc: tuple[Array, Array, Array]) -> Array:
        a, b, c = abc
        alpha = jnp.arctan2(jnp.sqrt(jnp.maximum(a * b - c * c, 0.0)), c)
        half = jnp.array([jnp.pi - alpha, alpha]) / 2  # of the arcs with u_m > 0 and v_n > 0, and u_m < 0 and v_n > 0
        centre = jnp.array([alpha, jnp.pi + alpha]) / 2
        theta = (centre[:, None] + half[:, None] * x).ravel()
        weight = weight_r[:, None] * (half[:, None] * w).ravel() / (2 * jnp.pi)
        u = jnp.sqrt(a) * r[:, None] * jnp.cos(theta)
        v = jnp.sqrt(b) * r[:, None] * jnp.cos(theta - alpha)

        def average(F: Callable[[Array], Array]) -> Array:
            return jnp.sum(weight * (F(u) * F(v) + F(-u) * F(-v)))  # the other half circle mirrors both

        return jnp.stack([average(act.phi), average(act.d)])

    return jax.lax.map(pair, (a, b, c), batch_size=max(1, BATCH // nodes**2)).T
