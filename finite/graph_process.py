"""Graph networks of finite width with adapting features, sampled: the experiment to the graph kernels of 2402.06525.

A deep Gaussian process on the n nodes of a graph, with one hidden layer of N features F and the targets R times over:

    F (n, N) ~ N(0, K(G_0)) in each column,   G_1 = F F^T / N,   y_1 = ... = y_R = y ~ N(0, K(G_1) + s^2)
    K(G) = A Phi(G) A^T + jitter,   Phi the kernel of relu,   G_0 = X X^T / D

At large N and R with N / R = nu its posterior concentrates on the maximum of

    log N(y; 0, K(G_1) + s^2) - nu KL( N(0, G_1) || N(0, K(G_0)) )

and at R = 1 and large N on the Gaussian process of infinite width. Sampled by elliptical slices (1001.0175): every step turns F
towards a draw from the prior, by an angle that the likelihood accepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from widthwise import check
from widthwise.checked import Numbers, checked
from widthwise.memory import room_for

JITTER = 1e-6
"""Added to the diagonal of every kernel, times its mean."""


@dataclass(frozen=True)
class GraphSamples:
    """Draws from the posterior.

    Attributes:
        grams: (samples, n, n) G_1.
        means: (samples, n) mean of the output at every node given F.
    """

    grams: Float[np.ndarray, "samples n n"]
    means: Float[np.ndarray, "samples n"]


@checked
def sample_graph_process(
    features: Numbers,
    adjacency: Numbers,
    y: Numbers,
    labelled: Sequence[int],
    width: int,
    *,
    copies: int,
    noise: float = 0.1,
    samples: int = 1000,
    burn_in: int = 500,
    thin: int = 1,
    seed: int = 0,
) -> GraphSamples:
    """Elliptical slice sampling of the hidden features (equations above).

    Args:
        features: (n, D) X.
        adjacency: (n, n) A, normalised.
        y: (m,) targets of the labelled nodes.
        labelled: (m,) which nodes these are.
        width: N.
        copies: R, N / nu.
        noise: s^2.
        samples, burn_in: draws kept, and dropped before.
        thin: steps of the sampler per draw.
        seed: of the draws.

    Raises:
        ValueError: shapes that do not fit, a setting out of range.

    Example:
        >>> drawn = sample_graph_process(np.eye(3), np.eye(3), [1.0, -1.0], [0, 2], 8, copies=8, samples=5, burn_in=0)
        >>> drawn.grams.shape, drawn.means.shape
        ((5, 3, 3), (5, 3))
    """
    X, A = check.array("features", features, 2, "(n, D)"), check.array("adjacency", adjacency, 2, "(n, n)")
    Y, known = check.array("y", y, 1, "(m,)"), np.array(labelled, dtype=int)
    n, N, R = len(X), check.count("width", width), check.count("copies", copies)
    check.no_empty_row("features", X)
    check.no_empty_row("adjacency", A, "Every node is its own neighbour.")
    if A.shape != (n, n) or known.shape != Y.shape or not known.size or known.min() < 0 or known.max() >= n:
        raise ValueError(
            f"adjacency must be ({n}, {n}) and labelled name {len(Y)} nodes of 0 ... {n - 1}; got {A.shape} and {known.shape}."
        )
    s2 = check.positive("noise", noise)
    room_for((4, n, N), "fields", "Lower width.")
    for name, value, at_least in (("burn_in", burn_in, 0), ("samples", samples, 1), ("thin", thin, 1)):
        check.count(name, value, least=at_least)
    check.count("(burn_in + samples) * thin", (burn_in + samples) * thin, most=check.MANY)
    rng = np.random.default_rng(check.seed("seed", seed))
    root = np.linalg.cholesky(propagate(A, X @ X.T / X.shape[1]))

    def look(F: Any) -> tuple[float, Any, Any]:
        """Log likelihood of all copies, G_1, mean output."""
        G = F @ F.T / F.shape[1]
        K = propagate(A, G)
        half = np.linalg.cholesky(K[np.ix_(known, known)] + s2 * np.eye(len(Y)))
        z = np.linalg.solve(half, Y)
        mean = K[:, known] @ np.linalg.solve(half.T, z)
        return -R * float(z @ z / 2 + np.log(np.diag(half)).sum()), G, mean

    F = root @ rng.standard_normal((n, N))
    likelihood, G, mean = look(F)
    grams, means = [], []
    for draw in range(burn_in + samples):
        for _ in range(thin):
            other = root @ rng.standard_normal((n, N))
            least = likelihood - rng.exponential()
            angle = rng.uniform(0, 2 * np.pi)
            low, high = angle - 2 * np.pi, angle
            while True:
                moved = F * np.cos(angle) + other * np.sin(angle)
                likelihood, G, mean = look(moved)
                if likelihood > least:
                    break
                low, high = (angle, high) if angle < 0 else (low, angle)
                angle = rng.uniform(low, high)
            F = moved
        if draw >= burn_in:
            grams.append(G)
            means.append(mean)
    return GraphSamples(np.array(grams), np.array(means))


def propagate(A: Any, G: Any) -> Float[np.ndarray, "n n"]:
    """K(G) = A Phi(G) A^T + jitter, Phi the arc-cosine kernel of sqrt(2) relu.

    Example:
        >>> round(float(propagate(np.eye(2), np.eye(2))[0, 1]), 4)  # 1 / pi
        0.3183
    """
    size = np.sqrt(np.diag(G))
    scale = size[:, None] * size
    angle = np.arccos(np.clip(G / scale, -1.0, 1.0))
    K = A @ (scale * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / np.pi) @ A.T
    return np.asarray(K + JITTER * np.trace(K) / len(G) * np.eye(len(G)))
