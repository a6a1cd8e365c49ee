"""Kernels too large for a full eigen-decomposition: the top modes by Lanczos, and traces of functions by quadrature.

Only products K v are needed. `KernelMatrix` makes them of a kernel function block by block, so that K is never held.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from widthwise import Spectrum, check
from widthwise.checked import Numbers, checked
from widthwise.memory import room_for

Vector = Float[np.ndarray, "points"]
Multiply = Callable[[Vector], Vector]

BLOCK = 2**23
"""Entries of K held in memory at a time."""


@checked
@dataclass(frozen=True)
class KernelMatrix:
    """K v for a kernel between n points, with a block of rows of K in memory at a time.

    Args:
        between: takes two slices of points and gives the block (rows, columns) of K, e.g.
            `lambda rows, columns: k(X[rows] @ X[columns].T)`, or the last of `dmft.lazy.TangentKernel(problem).between`.
        size: n.

    Example:
        >>> X = np.eye(3)
        >>> KernelMatrix(lambda rows, columns: X[rows] @ X[columns].T, 3)(np.arange(3.0)).tolist()
        [0.0, 1.0, 2.0]
    """

    between: Callable[[slice, slice], Float[np.ndarray, "rows columns"]]
    size: int

    def __call__(self, v: Vector) -> Vector:
        n = check.count("size", self.size)
        if np.shape(v) != (n,):
            raise ValueError(f"v must have shape ({n},), as many numbers as there are points; got {np.shape(v)}.")
        out = np.empty(n)
        step = max(1, BLOCK // n)
        for i in range(0, n, step):
            rows = slice(i, min(i + step, n))
            out[rows] = self._block(rows, slice(0, n)) @ v
        return out

    def trace(self) -> float:
        """Sum of the diagonal, exactly."""
        step = max(1, int(BLOCK**0.5) // 4)
        slices = [slice(i, min(i + step, self.size)) for i in range(0, self.size, step)]
        return float(sum(np.trace(self._block(rows, rows)) for rows in slices))

    def _block(self, rows: slice, columns: slice) -> Float[np.ndarray, "rows columns"]:
        block = np.asarray(self.between(rows, columns))
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        if block.shape != shape or block.dtype.kind not in "biuf":
            raise ValueError(f"between(rows, columns) must be numbers of shape {shape} there, got {check.shown(block)}.")
        return block


@checked
def top(
    multiply: Multiply, y: Numbers, num_modes: int, *, trace: float, tol: float = 1e-8, seed: int = 0
) -> tuple[Spectrum, Float[np.ndarray, "modes"]]:
    """The first modes of a kernel between P points by Lanczos iterations (ARPACK), with bounds on the errors.

        |lam_k - an eigenvalue of K / P| <= |K v_k - P lam_k v_k| / P

    The modes left out go into the rests: `rest_trace` = trace / P - sum lam, `rest_power` = |y|^2 / P - sum power.

    Args:
        multiply: v (P,) -> K v, e.g. a `KernelMatrix`, or `K.__matmul__`.
        y: (P,) or (P, C) targets.
        num_modes: how many; fewer than P.
        trace: tr K.
        tol: relative accuracy asked of ARPACK.
        seed: of the start vector.

    Returns:
        Spectrum with the points standing for the distribution, as `Spectrum.of_kernel`; and the bounds (num_modes,).

    Raises:
        ValueError: as many modes as points, or more; a trace below the sum of the modes found.

    Example:
        >>> K = np.diag([3.0, 2.0, 1.0, 0.5])
        >>> spectrum, bound = top(K.__matmul__, np.ones(4), 2, trace=6.5)
        >>> (4 * spectrum.lam).round(6).tolist(), round(4 * spectrum.rest_trace, 6), bool((bound < 1e-8).all())
        ([3.0, 2.0], 1.5, True)
    """
    from scipy.sparse.linalg import LinearOperator, eigsh  # imported where used, as everything heavy of scipy

    y = check.array("y", y, np.ndim(y) if np.ndim(y) == 2 else 1, "(P,) or (P, C)")
    P = len(y)
    check.count("num_modes", num_modes)
    if num_modes >= P:
        raise ValueError(f"Lanczos finds fewer modes than points, P = {P}; got num_modes={num_modes}. Use Spectrum.of_kernel.")
    multiply = _product(multiply, P)
    operator = LinearOperator((P, P), matvec=lambda v: multiply(np.ravel(v)), dtype=np.float64)
    start = np.random.default_rng(check.seed("seed", seed)).standard_normal(P)
    check.at_least_zero("tol", tol)
    if multiply(start).any():
        values, vectors = eigsh(operator, k=num_modes, which="LA", tol=tol, v0=start)
        values, vectors = values[::-1], vectors[:, ::-1]
    else:  # of the kernel 0 every vector is a mode, and ARPACK finds none
        values, vectors = np.zeros(num_modes), np.eye(P, num_modes)
    residual = np.stack([multiply(v) for v in vectors.T], axis=1) - vectors * values
    lam, power = np.maximum(values, 0.0) / P, ((vectors.T @ y.reshape(P, -1)) ** 2).sum(1) / P
    rest = check.at_least_zero("trace", trace) / P - lam.sum()
    if rest < -1e-6 * trace / P:
        raise ValueError(f"trace must be tr K, at least the sum of the modes found, {P * lam.sum():.6g}; got {trace:.6g}.")
    rest_power = float((y**2).sum() / P - power.sum())
    spectrum = Spectrum(lam, power, None, max(rest, 0.0), max(rest_power, 0.0))
    return spectrum, np.linalg.norm(residual, axis=0) / P


@dataclass(frozen=True)
class TraceEstimate:
    """tr F(K) by stochastic Lanczos quadrature.

    Attributes:
        value: mean over probes.
        error: standard error over probes (of the sampling).
        quadrature_error: change of the value between num_steps - 1 and num_steps Lanczos steps (of the quadrature).
        num_probes: random vectors.
    """

    value: float
    error: float
    quadrature_error: float
    num_probes: int

    def __str__(self) -> str:
        return f"{self.value:.5g} +- {self.error:.1g} ({self.num_probes} probes; quadrature {self.quadrature_error:.1g})"


@checked
def trace_of(
    function: Callable[[Vector], Vector],
    multiply: Multiply,
    size: int,
    *,
    num_steps: int = 30,
    num_probes: int = 16,
    seed: int = 0,
) -> TraceEstimate:
    """tr F(K) of a symmetric n x n matrix from products alone (Golub and Meurant; 1706.04607).

        tr F(K) = <z^T F(K) z>,  z = +-1;     z^T F(K) z = n sum_j tau_j^2 F(theta_j)

    theta_j the eigenvalues of the Lanczos matrix started from z, tau_j the first entries of its eigenvectors. Exact in the
    steps for polynomials up to degree 2 num_steps - 1.
    F(x) = x / (x + ridge) counts the degrees of freedom of a regression.

    Args:
        function: F, of an array of eigenvalues; called at the Ritz values, which rounding can put slightly below zero.
        multiply: v (n,) -> K v.
        size: n.
        num_steps: of Lanczos; at most n.
        num_probes: two or more.
        seed: of the probes.

    Example:
        >>> K = np.diag(np.arange(1.0, 51.0))
        >>> estimate = trace_of(lambda x: x**2, K.__matmul__, 50)
        >>> bool(abs(estimate.value - 42925) < 4 * estimate.error + 1e-6)
        True
    """
    size = check.count("size", size)
    steps = min(check.count("num_steps", num_steps, least=2), size)
    probes = check.count("num_probes", num_probes, "The error bar needs two.", least=2, most=check.MANY)
    room_for((steps + 4, size), "the Lanczos vectors", "Lower num_steps or size.")
    multiply = _product(multiply, size)
    rng = np.random.default_rng(check.seed("seed", seed))
    values = np.zeros((2, probes))
    for i in range(probes):
        alpha, beta = _lanczos(multiply, rng.choice([-1.0, 1.0], size), steps)
        for which, m in enumerate((max(len(alpha) - 1, 1), len(alpha))):
            theta, vectors = np.linalg.eigh(np.diag(alpha[:m]) + np.diag(beta[: m - 1], 1) + np.diag(beta[: m - 1], -1))
            values[which, i] = size * (vectors[0] ** 2 @ check.called("function(x)", function, theta, shape=theta.shape))
    error = values[1].std(ddof=1) / np.sqrt(probes)
    return TraceEstimate(float(values[1].mean()), float(error), float(abs(np.diff(values.mean(1))[0])), probes)


def _product(multiply: Multiply, size: int) -> Multiply:
    """`multiply`, what it gives checked."""
    return lambda v: check.called("multiply(v)", multiply, v, shape=(size,), cure=f"It takes v ({size},) to K v.")


def _lanczos(multiply: Multiply, z: Vector, steps: int) -> tuple[Float[np.ndarray, "steps"], Float[np.ndarray, "steps"]]:
    """Diagonal and off-diagonal of the Lanczos matrix, with full re-orthogonalisation, up to the end of the space."""
    basis = np.zeros((steps, len(z)))
    alpha, beta = [], []
    v = z / np.linalg.norm(z)
    for j in range(steps):
        basis[j] = v
        w = multiply(v)
        alpha.append(float(v @ w))
        for _ in range(2):
            w = w - basis[: j + 1].T @ (basis[: j + 1] @ w)
        size = float(np.linalg.norm(w))
        if size <= 1e-12 * max(map(abs, alpha)):
            break
        beta.append(size)
        v = w / size
    return np.array(alpha), np.array(beta)
