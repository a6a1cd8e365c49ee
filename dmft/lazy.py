"""The lazy limit gamma0 -> 0: features stand still, and training is kernel gradient descent with the initial tangent kernel.

At gamma0 = 0 the single-site process (docs/march.md) has no memory: h^l = u^l, z^l = r^l, and kernels are constant,

    Phi^l = <phi(u) phi(u)>,   G^l = G^{l+1} <phi'(u) phi'(u)>,   u ~ N(0, Phi^{l-1}),   Phi^0 = X X^T / D,   G^{L+1} = 1
    K     = sum_{l=0..L} G^{l+1} Phi^l                                    (the neural tangent kernel, 1806.07572)
    f(t+1) = f(t) + eta0 K Delta(t),   f(0) = 0                           (train and test points alike)

The two Gaussian averages come from neural-tangents where it has them in closed form (linear, relu, erf, gelu), and from a
quadrature in polar coordinates for every other activation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dmft import neural_tangents as nt
from dmft.method import Solution, trajectory_of
from widthwise import Activation, Estimate, Problem, Status, check, memory
from widthwise.activation import NAMED
from widthwise.precision import float64

Kernel = Float[np.ndarray, "points points"]

BATCH = 2**18
"""Quadrature points held in memory at a time."""

CLOSED_FORM = {"linear": "Identity", "relu": "Relu", "erf": "Erf", "gelu": "Gelu"}
"""Named activations whose averages neural-tangents has exactly, and its layers of them."""

RADIUS = 12.0
"""Where the quadrature ends; a Gaussian weight of e^-72 lies beyond."""

RESOLVED = 1e-6
"""Largest relative change of an average under the last increase of the nodes that still counts as resolved."""


@dataclass(frozen=True)
class Lazy:
    """The limit gamma0 -> 0, whatever gamma0 the problem has; also the limit of `kind="ntk"`. Exact, no sampling.

        f(t+1) = f(t) + eta0 K Delta(t),   K = sum_{l=0..L} G^{l+1} Phi^l       (1806.07572; discrete time)

    Args:
        max_nodes: most quadrature nodes per direction, for activations without a closed form. Smooth activations and those
            with a kink at zero need about 50 (tanh 5h: 110) to be exact to 1e-12; a kink elsewhere needs more.

    Raises:
        ValueError: max_nodes below 64.

    Example:
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(2, "relu"), Parameterization(), tasks.sphere(3, input_dim=8), GradientDescent(0.2, 10))
        >>> estimate, status, stats = Lazy().run(problem, seed=0, kernel_steps=np.array([0, 10]), progress=False)
        >>> estimate.mean.f.shape, estimate.mean.G.shape, status.ok
        ((11, 3), (2, 2, 3, 2, 3), True)
    """

    max_nodes: int = 256

    def __post_init__(self) -> None:
        check.count("max_nodes", self.max_nodes, least=64)

    def run(self, problem: Problem, *, seed: int, kernel_steps: Int[np.ndarray, "kept"], progress: bool) -> Solution:
        """Solve `problem`; see `dmft.solve`. Nothing is drawn, so `seed` changes nothing.

        Raises:
            ValueError: kind="ntk" without centering, whose output at initialisation stays random in the limit.
            MemoryError: the kernels would not fit.
        """
        start = time.perf_counter()
        if problem.parameterization.kind == "ntk" and not problem.parameterization.centered:
            raise ValueError(
                "kind='ntk' with centered=False starts from a random output f(0) of order one even at infinite width; "
                "Lazy solves f(0) = 0. Use Parameterization(kind='ntk', centered=True)."
            )
        act, L, task, training = problem.architecture.activation, problem.architecture.depth, problem.task, problem.training
        M, P, T, kept = task.num_points, task.num_train, training.num_steps, len(kernel_steps)
        memory.require(
            8.0 * (4 * L * (kept * M) ** 2 + 2 * T * M + 16 * BATCH),
            f"dmft.Lazy with {M} points and kernels at {kept} steps",
            "Keep kernels at fewer steps, or use fewer points.",
        )
        Phi, G, unresolved = kernels(act, L, task.Phi0, self.max_nodes)
        K = task.Phi0 * G[0] + (Phi[:-1] * G[1:]).sum(0) + Phi[-1]
        with np.errstate(over="ignore", invalid="ignore"):  # diverging training is reported by the status
            f = np.zeros((T + 1, M))
            for t in range(T):
                f[t + 1] = f[t] + training.eta0 * K[:, :P] @ training.Delta(f[t, :P], task.y)
            trajectory = trajectory_of(problem, f[..., None], kernel_steps, _constant(Phi, kept), _constant(G, kept))
            status = Status.of(problem, trajectory, f"solved, {T} steps")
        if not unresolved <= RESOLVED:
            status = Status(
                False,
                f"Gaussian averages of {act.name!r} are resolved to {unresolved:.1g} only, which happens with a kink or a jump "
                f"away from zero: raise Lazy(max_nodes={self.max_nodes}), or use March at a small gamma0.",
            )
        return Solution(Estimate.exact(trajectory), status, {"seconds": time.perf_counter() - start})


def kernels(
    act: Activation, L: int, Phi0: Kernel, max_nodes: int
) -> tuple[Float[np.ndarray, "layers points points"], Float[np.ndarray, "layers points points"], float]:
    """Phi^l and G^l of layers 1 ... L (at index l - 1) at gamma0 = 0, and the relative error of the averages behind them."""
    Phi, slope, worst = [Phi0], [], 0.0
    with float64():
        for _ in range(L):
            phi_phi, d_d, error = averages(act, Phi[-1], max_nodes)
            Phi.append(phi_phi)
            slope.append(d_d)
            worst = max(worst, error)
    G = np.cumprod(slope[::-1], axis=0)[::-1]  # G^l = G^{l+1} <phi' phi'>
    return np.array(Phi[1:]), G, worst


def averages(act: Activation, Phi: Kernel, max_nodes: int) -> tuple[Kernel, Kernel, float]:
    """<phi(u) phi(u)> and <phi'(u) phi'(u)> under u ~ N(0, Phi), each (M, M), and their relative error.

    Singular Phi (equal samples, a zero input) is nothing special. A field of zero variance is zero, and phi' is then the
    activation's own phi'(0), as in a network: 0 for relu.
    """
    if act == NAMED.get(act.name) and act.name in CLOSED_FORM:
        M = len(Phi)
        dense, layer = nt.stax.Dense(1)[-1], getattr(nt.stax, CLOSED_FORM[act.name])()[-1]
        frame = dense(jnp.ones((M, 1)), None)  # a Kernel to put ours in; with ntk = 1 the layer turns ntk into <phi' phi'>
        out = layer(frame.replace(nngp=jnp.asarray(Phi), cov1=jnp.diagonal(Phi), ntk=jnp.ones((M, M))))
        phi_phi, d_d = np.array(out.nngp), np.array(out.ntk)
        if act.name == "relu":
            moves = np.diagonal(Phi) > 0
            d_d *= np.outer(moves, moves)
        return phi_phi, d_d, 0.0
    nodes, change = 32, np.inf
    fine = quadrature(act, nodes, Phi)
    while change > 1e-9 and 3 * nodes // 2 <= max_nodes:
        nodes, coarse = 3 * nodes // 2, fine
        fine = quadrature(act, nodes, Phi)
        size = np.maximum(np.abs(fine).max(axis=(1, 2), keepdims=True), np.finfo(float).tiny)
        change = float(np.max(np.abs(fine - coarse) / size))
    return fine[0], fine[1], change


def quadrature(act: Activation, nodes: int, Phi: Kernel) -> Float[np.ndarray, "2 points points"]:
    """<phi(u) phi(u)> and <phi'(u) phi'(u)> under u ~ N(0, Phi), pair by pair in polar coordinates:

        u_m = sqrt(Phi_mm) r cos(theta),   u_n = sqrt(Phi_nn) r cos(theta - alpha),   cos(alpha) = Phi_mn / sqrt(Phi_mm Phi_nn)
        <F> = int dtheta / 2 pi  int dr r exp(-r^2 / 2)  F(u_m, u_n)

    with Gauss-Legendre rules in r, and in theta between the angles where u_m or u_n changes sign. So a kink or a jump at zero
    sits on an end point of the rules and costs nothing, and steep activations are resolved where they are steep.
    """
    m, n = np.triu_indices(len(Phi))
    out = np.empty((2, *Phi.shape))
    out[:, m, n] = out[:, n, m] = _pairs(act, nodes, Phi[m, m], Phi[n, n], Phi[m, n])
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
        half = jnp.array([jnp.pi - alpha, alpha]) / 2  # of the arcs with u_m > 0 and u_n > 0, and u_m < 0 and u_n > 0
        centre = jnp.array([alpha, jnp.pi + alpha]) / 2
        theta = (centre[:, None] + half[:, None] * x).ravel()
        weight = weight_r[:, None] * (half[:, None] * w).ravel() / (2 * jnp.pi)
        u = jnp.sqrt(a) * r[:, None] * jnp.cos(theta)
        v = jnp.sqrt(b) * r[:, None] * jnp.cos(theta - alpha)

        def average(F: Callable[[Array], Array]) -> Array:
            return jnp.sum(weight * (F(u) * F(v) + F(-u) * F(-v)))  # the other half circle mirrors both

        return jnp.stack([average(act.phi), average(act.d)])

    return jax.lax.map(pair, (a, b, c), batch_size=max(1, BATCH // nodes**2)).T


def _constant(
    kernel: Float[np.ndarray, "layers points points"], kept: int
) -> Float[np.ndarray, "layers kept points kept points"]:
    """The kernel on a grid of `kept` times, axes (t, m, s, n), the same at all of them."""
    L, M, _ = kernel.shape
    return np.array(np.broadcast_to(kernel[:, None, :, None, :], (L, kept, M, kept, M)))
