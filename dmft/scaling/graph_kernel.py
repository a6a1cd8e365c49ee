"""Graph networks of infinite width whose kernels can adapt: a graph-convolutional deep kernel machine (2402.06525).

Over the Gram matrices G_1 ... G_L of L hidden layers on the n nodes of a graph, the maximum of

    log P(Y | G_L) - sum_l nu KL( N(0, G_l) || N(0, K(G_{l-1})) ),     K(G) = A Phi(G) A^T + jitter,     G_0 = X X^T / D
    log P(Y | G_L) = sum over outputs of log N(y; 0, K(G_L) + s^2) on the labelled nodes

with A the graph's normalised adjacency and Phi the kernel of relu (arc-cosine, Phi(G)_ii = G_ii). nu -> infinity is the
Gaussian process of the infinitely wide graph network, G_l = K(G_{l-1}); at small nu kernels follow the labels. With
K(G_{l-1}) = C C^T and G_l = C V V^T C^T, V lower triangular with a positive diagonal,

    KL = (|V|^2 - n) / 2 - log det V

and V is what is searched over. Written from the line of work on deep kernel machines (2108.13097): the paper's own typography
of this objective was not at hand. Deep processes of finite width, sampled, do concentrate on it (`finite.graph_process`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from widthwise import check
from widthwise.checked import Numbers, checked
from widthwise.precision import float64

JITTER = 1e-6
"""Added to the diagonal of every kernel, times its mean."""


@dataclass(frozen=True)
class GraphKernel:
    """What the objective's maximum says.

    Attributes:
        grams: (L, n, n) G_l.
        kernel: (n, n) K(G_L), without noise.
        mean: (n, outputs) posterior mean at all nodes.
        objective: its value; `start` that of the Gaussian process, G_l = K(G_{l-1}).
        divergence: (L,) KL of each layer.
    """

    grams: Float[np.ndarray, "layers n n"]
    kernel: Float[np.ndarray, "n n"]
    mean: Float[np.ndarray, "n outputs"]
    objective: float
    start: float
    divergence: Float[np.ndarray, "layers"]


@checked
def normalized_adjacency(edges: Numbers) -> Float[np.ndarray, "n n"]:
    """D^{-1/2} (E + I) D^{-1/2}, D the degrees of E + I.

    Example:
        >>> normalized_adjacency([[0, 1], [1, 0]]).round(12).tolist()
        [[0.5, 0.5], [0.5, 0.5]]
    """
    E = check.array("edges", edges, 2, "(n, n)")
    if E.shape[0] != E.shape[1] or (E != E.T).any() or (E < 0).any():
        raise ValueError(f"edges must be a symmetric (n, n) array, zero or above; got shape {E.shape}. Pass (E + E.T) > 0.")
    E = E + np.eye(len(E))
    degrees = E.sum(1)
    return np.asarray(E / np.outer(degrees, degrees) ** 0.5)


@checked
def graph_kernel(
    features: Numbers,
    adjacency: Numbers,
    y: Numbers,
    labelled: Sequence[int],
    *,
    nu: float,
    hidden_layers: int = 1,
    noise: float = 0.1,
    most: int = 500,
) -> GraphKernel:
    """Maximise the objective by L-BFGS over V, from V = 1; for n up to a few hundred nodes.

    Args:
        features: (n, D) X.
        adjacency: (n, n) A, e.g. `normalized_adjacency(edges)`.
        y: (m, outputs) targets of the labelled nodes.
        labelled: (m,) which nodes these are.
        nu: strength of the prior; large is the Gaussian process.
        hidden_layers: L.
        noise: s^2.
        most: iterations of L-BFGS.

    Raises:
        ValueError: shapes that do not fit, a setting out of range.

    Example:
        >>> A = normalized_adjacency([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
        >>> fit = graph_kernel(np.eye(3), A, [[1.0], [-1.0]], [0, 2], nu=1.0)
        >>> fit.objective > fit.start
        True
    """
    from scipy.optimize import minimize

    X, A = check.array("features", features, 2, "(n, D)"), check.array("adjacency", adjacency, 2, "(n, n)")
    Y = check.array("y", y, 2, "(m, outputs)")
    n, L = len(X), check.count("hidden_layers", hidden_layers, most=1000)
    known = np.array(labelled, dtype=int)
    check.no_empty_row("features", X)
    check.no_empty_row("adjacency", A, "Every node is its own neighbour.")
    if A.shape != (n, n) or known.shape != (len(Y),) or not known.size or known.min() < 0 or known.max() >= n:
        raise ValueError(
            f"adjacency must be ({n}, {n}) and labelled name {len(Y)} nodes of 0 ... {n - 1}; got {A.shape} and {known.shape}."
        )
    s2, strength = check.positive("noise", noise), check.positive("nu", nu)
    with float64():
        given = Given(*map(jnp.asarray, (X @ X.T / X.shape[1], A, Y, known, s2, strength)))
        zero = np.zeros(L * (n * (n + 1) // 2))

        def value(v: Any) -> tuple[float, Any]:
            out, slope = _value_and_slope(v, given, L)
            return float(out), np.asarray(slope)

        start = -value(zero)[0] * (1 + strength)
        found = minimize(
            value,
            zero,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": check.count("most", most, most=check.MANY), "gtol": 1e-9, "ftol": 1e-14},
        )
        grams, K, divergence = _layers(jnp.asarray(found.x), given, L)
        k = np.asarray(K)
        mean = k[:, known] @ np.linalg.solve(k[np.ix_(known, known)] + s2 * np.eye(len(Y)), Y)
        best = -float(found.fun) * (1 + strength)
        return GraphKernel(np.asarray(grams), k, mean, best, start, np.asarray(divergence))


class Given(NamedTuple):
    """What the objective is of: G_0, A, targets and places of the labelled nodes, s^2, nu."""

    below: Float[Array, "n n"]
    adjacency: Float[Array, "n n"]
    y: Float[Array, "labelled outputs"]
    labelled: Int[Array, "labelled"]
    noise: Float[Array, ""]
    strength: Float[Array, ""]


def _layers(v: Array, given: Given, L: int) -> tuple[Array, Array, Array]:
    """Gram matrices (L, n, n), K(G_L) and divergences (L,) at v, the entries of V; those of its diagonal by logarithms."""
    A, G = given.adjacency, given.below
    n = len(A)
    rows, columns = np.tril_indices(n)
    diagonal = rows == columns
    v = v.reshape(L, -1)
    V = jnp.zeros((L, n, n)).at[:, rows, columns].set(jnp.where(diagonal, jnp.exp(v), v))
    grams = []
    for l in range(L):
        half = jnp.linalg.cholesky(propagate(A, G)) @ V[l]
        G = half @ half.T
        grams.append(G)
    divergence = ((V**2).sum((1, 2)) - n) / 2 - v[:, diagonal].sum(1)
    return jnp.stack(grams), propagate(A, G), divergence


@partial(jax.jit, static_argnames="L")
@partial(jax.value_and_grad, argnums=0)
def _value_and_slope(v: Array, given: Given, L: int) -> Array:
    """Minus the objective, over 1 + nu; compiled once for graphs of one size."""
    _, K, divergence = _layers(v, given, L)
    Y, known = given.y, given.labelled
    half = jnp.linalg.cholesky(K[jnp.ix_(known, known)] + given.noise * jnp.eye(len(Y)))
    z = jax.scipy.linalg.solve_triangular(half, Y, lower=True)
    log_det = Y.shape[1] * jnp.log(jnp.diag(half)).sum()
    fit = -(z**2).sum() / 2 - log_det - Y.size * np.log(2 * np.pi) / 2
    return -(fit - given.strength * divergence.sum()) / (1 + given.strength)


def propagate(A: Any, G: Any) -> Array:
    """K(G) = A Phi(G) A^T + jitter, Phi the arc-cosine kernel of sqrt(2) relu.

    Example:
        >>> round(float(propagate(np.eye(2), np.eye(2))[0, 1]), 4)  # 1 / pi
        0.3183
    """
    G = jnp.asarray(G)
    size = jnp.sqrt(jnp.diag(G))
    scale = size[:, None] * size
    Phi = scale * _arc_cosine(jnp.clip(G / scale, -1.0, 1.0))
    K = A @ Phi @ A.T
    return K + JITTER * jnp.trace(K) / len(G) * jnp.eye(len(G))


@jax.custom_jvp
def _arc_cosine(c: Array) -> Array:
    """(sin a + (pi - a) cos a) / pi, c = cos a."""
    angle = jnp.arccos(c)
    return (jnp.sin(angle) + (np.pi - angle) * c) / np.pi


@_arc_cosine.defjvp
def _slope(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """(pi - a) / pi, finite where arccos has none."""
    return _arc_cosine(primals[0]), (np.pi - jnp.arccos(primals[0])) / np.pi * tangents[0]
