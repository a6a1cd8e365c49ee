"""Bayesian networks of parallel branches at narrow width: each branch finds its own scale (2407.18807).

Branch l of Lb sees its own features X_l of the data (the l-th power of a graph's convolution, say) through N linear neurons:

    f = sum_l (1 / sqrt(N Lb)) a_l . W_l X_l / sqrt(D),    a ~ N(0, s2),  W ~ N(0, 1),   y = f + noise of variance T

Given the readouts f is a Gaussian process whose kernel depends on u_l = |a_l|^2 / N alone,

    K(u) = sum_l u_l K_l + T I,     K_l = X_l X_l^T / (D Lb)
    2 S(u) = sum_l N (u_l / s2 - log u_l) + log det K(u) + Y^T K(u)^{-1} Y              density of log u ~ exp(-S)

and the saddle point in log u, exact for P and N large together, is one equation per branch,

    N (1 - u_l / s2) = Tr[K^{-1} u_l K_l] - Y^T K^{-1} u_l K_l K^{-1} Y

    N >> P:  u_l = s2, the Gaussian process of infinite width        N << P:  the right side vanishes: scales that the data set,
                                                                     whatever s2, and different for each branch
Given the data the mean of f at new points is k^T K^{-1} Y with k = sum_l u_l k_l.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from widthwise import check
from widthwise.checked import Numbers, checked

STEPS = 200
"""Most Newton steps; ten are usual."""

TOLERANCE = 1e-10
"""Largest gradient of S left, over N + P."""


@dataclass(frozen=True)
class BranchingPosterior:
    """What the data make of the branches.

    Attributes:
        scales: (Lb,) u_l, mean square of the readout weights of each branch.
        kernel: (P, P) sum_l u_l K_l, the kernel that the network ends up with, noise left out.
        weights: (P,) K^{-1} Y, of which means at other points are made (`mean`).
        noise: T.
    """

    scales: Float[np.ndarray, "branches"]
    kernel: Float[np.ndarray, "P P"]
    weights: Float[np.ndarray, "P"]
    noise: float

    @checked
    def mean(self, kernels: Numbers) -> Float[np.ndarray, "points"]:
        """Mean of f at new points.

        Args:
            kernels: (Lb, M, P) K_l between new points and those of the data.

        Raises:
            ValueError: another shape.
        """
        return np.einsum("l,lmp,p->m", self.scales, self._kernels(kernels), self.weights)

    @checked
    def variance(self, kernels: Numbers, own: Numbers) -> Float[np.ndarray, "points"]:
        """Variance of f at new points.

        Args:
            kernels: (Lb, M, P), as in `mean`.
            own: (Lb, M) K_l of each new point with itself.

        Raises:
            ValueError: another shape.
        """
        k, each = self._kernels(kernels), check.array("own", own, 2, "(Lb, M)")
        if each.shape != k.shape[:2]:
            raise ValueError(f"own must have shape {k.shape[:2]}, as kernels has; got {each.shape}.")
        k, prior = np.einsum("l,lmp->mp", self.scales, k), self.scales @ each
        return prior - (k * np.linalg.solve(self.kernel + self.noise * np.eye(len(self.kernel)), k.T).T).sum(1)

    def _kernels(self, kernels: Any) -> Float[np.ndarray, "branches points P"]:
        k = check.array("kernels", kernels, 3, "(Lb, M, P)")
        if k.shape[0] != len(self.scales) or k.shape[2] != len(self.weights):
            raise ValueError(f"kernels must have shape ({len(self.scales)}, M, {len(self.weights)}), got {k.shape}.")
        return k


@checked
def branch_kernels(features: Numbers, others: Numbers = None) -> Float[np.ndarray, "branches M P"]:
    """K_l = X_l X_l^T / (D Lb).

    Args:
        features: (Lb, P, D), X_l for each branch.
        others: (Lb, M, D) of other points, for the kernels (Lb, M, P) between them and these.

    Example:
        >>> branch_kernels([[[1.0, 1.0]], [[2.0, 0.0]]]).ravel().tolist()
        [0.5, 1.0]
    """
    X = check.array("features", features, 3, "(Lb, P, D)")
    Z = X if others is None else check.array("others", others, 3, "(Lb, M, D)")
    if Z.shape[::2] != X.shape[::2]:
        raise ValueError(f"others must have shape ({X.shape[0]}, M, {X.shape[2]}), as features has; got {Z.shape}.")
    return np.einsum("lmd,lpd->lmp", Z, X) / (X.shape[0] * X.shape[2])


@checked
def branching_posterior(
    kernels: Numbers, y: Numbers, neurons: float, *, variance: float = 1.0, noise: float = 0.1
) -> BranchingPosterior:
    """The posterior's saddle point: minimum of S over log u, by Newton steps from u = s2, damped where S would rise.

    Means of u over the posterior agree to a few percent from N = 16 on; at smaller N they lie above, for small u_l most.

    Args:
        kernels: (Lb, P, P) K_l.
        y: (P,) targets.
        neurons: N of each branch; a real number, so that N -> 0 can be taken.
        variance: s2, of the readout's prior.
        noise: T, a variance above zero.

    Raises:
        ValueError: shapes that do not fit, kernels that are not symmetric and positive.
        RuntimeError: Newton's steps do not end.

    Example:
        >>> K = branch_kernels([np.eye(3), 2 * np.eye(3)])
        >>> branching_posterior(K, [1.0, -1.0, 1.0], 10**6).scales.round(3).tolist()  # wide: the prior
        [1.0, 1.0]
    """
    K = check.array("kernels", kernels, 3, "(Lb, P, P)")
    Y = check.array("y", y, 1, "(P,)")
    N = check.positive("neurons", neurons)
    s2, T = check.positive("variance", variance), check.positive("noise", noise)
    if K.shape[1:] != (len(Y), len(Y)):
        raise ValueError(f"kernels must have shape (Lb, {len(Y)}, {len(Y)}) for {len(Y)} targets, got {K.shape}.")
    scale = np.abs(K).max()
    if (
        not np.allclose(K, K.transpose(0, 2, 1), rtol=0, atol=1e-8 * scale)
        or np.linalg.eigvalsh(K).min() < -1e-8 * len(Y) * scale
    ):
        raise ValueError("kernels must be symmetric and positive: X_l X_l^T of each branch's features, see branch_kernels.")

    def action(v: Float[np.ndarray, "branches"]) -> tuple[float, Any, Any]:
        """2 S, its gradient and its Hessian in v = log u."""
        u = np.exp(v)
        parts = u[:, None, None] * K
        try:
            L = np.linalg.cholesky(parts.sum(0) + T * np.eye(len(Y)))
        except np.linalg.LinAlgError as error:
            raise ValueError(f"noise={T:g} is lost beside kernels of size {np.abs(parts).max():.1g}: raise it.") from error
        half = np.linalg.inv(L)
        whitened = half @ parts @ half.T  # L^-1 u_l K_l L^-T
        z = half @ Y
        Az = whitened @ z
        value = float((N * (u / s2 - v)).sum() + 2 * np.log(np.diag(L)).sum() + z @ z)
        linear = np.trace(whitened, axis1=1, axis2=2) - Az @ z
        gradient = N * (u / s2 - 1) + linear
        hessian = np.diag(N * u / s2 + linear) - np.einsum("lij,mji->lm", whitened, whitened) + 2 * Az @ Az.T
        return value, gradient, hessian

    v = np.full(len(K), np.log(s2))
    value, gradient, hessian = action(v)
    for _ in range(STEPS):
        if np.abs(gradient).max() < TOLERANCE * (N + len(Y)):
            break
        rates, axes = np.linalg.eigh(hessian)
        step = -axes @ ((axes.T @ gradient) / np.maximum(np.abs(rates), 1e-3 * N))
        step *= min(1.0, 2.0 / np.abs(step).max())
        while True:
            new = action(v + step)
            if new[0] <= value + 1e-12 * abs(value) or np.abs(step).max() < 1e-14:
                break
            step /= 2
        v, (value, gradient, hessian) = v + step, new
    if np.abs(gradient).max() > 1e4 * TOLERANCE * (N + len(Y)):
        raise RuntimeError(f"no saddle point within {STEPS} steps: gradient {np.abs(gradient).max():.2g}. Is the noise tiny?")
    u = np.exp(v)
    kernel = np.einsum("l,lij->ij", u, K)
    return BranchingPosterior(u, kernel, np.linalg.solve(kernel + T * np.eye(len(Y)), Y), T)
