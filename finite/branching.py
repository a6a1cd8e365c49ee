"""Bayesian networks of parallel linear branches, sampled: the experiment to 2407.18807.

    f = sum_l (1 / sqrt(N Lb)) a_l . W_l X_l / sqrt(D),    a ~ N(0, s2),  W ~ N(0, 1),   y = f + noise of variance T

Gibbs sampling: given W, f is linear in a, and given a, in W; each is drawn exactly. For a linear model y = A t + noise with
t ~ N(0, s2): draw t0 and noise from the prior, then t = t0 + s2 A^T (s2 A A^T + T)^{-1} (y - A t0 - noise).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from widthwise import Parameterization, check
from widthwise.checked import Numbers, checked
from widthwise.memory import room_for


@dataclass(frozen=True)
class BranchingSamples:
    """Draws from the posterior.

    Attributes:
        scales: (samples, Lb) |a_l|^2 / N.
        outputs: (samples, P) f on the data.
        others: (samples, M) f on further points, or None.
    """

    scales: Float[np.ndarray, "samples branches"]
    outputs: Float[np.ndarray, "samples P"]
    others: Float[np.ndarray, "samples M"] | None = None


@checked
def sample_branching(
    features: Numbers,
    y: Numbers,
    neurons: int,
    *,
    samples: int = 1000,
    burn_in: int = 200,
    variance: float = 1.0,
    noise: float = 0.1,
    seed: int = 0,
    others: Numbers = None,
) -> BranchingSamples:
    """Gibbs sampling of readouts and hidden weights in turn (equations above).

    Args:
        features: (Lb, P, D).
        y: (P,).
        neurons: N of each branch.
        samples, burn_in: sweeps kept, and dropped before.
        variance: s2.
        noise: T.
        seed: of the draws.
        others: (Lb, M, D) features of further points, at which f is wanted too.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> drawn = sample_branching(np.ones((2, 3, 4)), [1.0, 1.0, 1.0], 8, samples=5, burn_in=0)
        >>> drawn.scales.shape, drawn.outputs.shape
        ((5, 2), (5, 3))
    """
    X = check.array("features", features, 3, "(Lb, P, D)")
    Y = check.array("y", y, 1, "(P,)")
    N = check.count("neurons", neurons)
    s2, T = check.positive("variance", variance), check.positive("noise", noise)
    branches, P, D = X.shape
    if len(Y) != P:
        raise ValueError(f"y must have one entry per row of the features, {P}; got {len(Y)}.")
    Z = X[:, :0] if others is None else check.array("others", others, 3, "(Lb, M, D)")
    if Z.shape[::2] != X.shape[::2]:
        raise ValueError(f"others must have shape ({branches}, M, {D}), as features has; got {Z.shape}.")
    room_for((4, branches, N, D + P), "weights", "Lower neurons.")
    ntk = Parameterization(kind="ntk")
    X, Z = (x * ntk.scale("input", width=N, fan_in=D).multiplier for x in (X, Z))
    m = ntk.scale("output", width=N, fan_in=N * branches).multiplier
    gram = np.einsum("lpd,lqd->lpq", X, X)
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(branches, N, D))
    scales, outputs = [], []
    points = np.concatenate([X, Z], 1)

    def residual_weights(covariance: Any, f: Any) -> Any:
        """(cov + T)^{-1} (y - f - noise)."""
        return np.linalg.solve(covariance + T * np.eye(P), Y - f - T**0.5 * rng.normal(size=P))

    for sweep in range(
        check.count("burn_in", burn_in, least=0, most=check.MANY) + check.count("samples", samples, most=check.MANY)
    ):
        A = m * (X @ W.transpose(0, 2, 1)).transpose(1, 0, 2).reshape(P, -1)  # f = A a
        a = s2**0.5 * rng.normal(size=branches * N)
        a = a + s2 * A.T @ residual_weights(s2 * A @ A.T, A @ a)
        rows = a.reshape(branches, N)
        W = rng.normal(size=W.shape)
        f = m * np.einsum("lpd,ln,lnd->p", X, rows, W, optimize=True)
        r = residual_weights(m**2 * np.einsum("l,lpq->pq", (rows**2).sum(1), gram), f)
        W = W + m * rows[:, :, None] * (r @ X)[:, None, :]
        if sweep >= burn_in:
            scales.append((rows**2).mean(1))
            outputs.append(m * np.einsum("lpd,ln,lnd->p", points, rows, W, optimize=True))
    f = np.array(outputs)
    return BranchingSamples(np.array(scales), f[:, :P], None if others is None else f[:, P:])
