"""The causal march: the infinite-width limit of a deep nonlinear network, step by step in time.

Every neuron of layer l is one path of the single-site process (docs/march.md; 2205.09653)

    h^l_m(t) = u^l_m(t) + gamma0 sum_{s<t,n}  [A^{l-1}_mn(t,s) + eta0 Delta_n(s) Phi^{l-1}_mn(t,s)] g^l_n(s)
    z^l_m(t) = r^l_m(t) + gamma0 sum_{s<=t,n} [B^l_mn(t,s)     + eta0 Delta_n(s) G^{l+1}_mn(t,s)]   phi(h^l_n(s))

Kernels are numerically of low rank along training. Let b_k be the orthonormal functions (on the paths of layer l) that span
the features phi(h^l), phi(h^l_m(t)) = sum_k row_mk(t) b_k, so that Phi^l(t,s) = row(t) row(s)^T. White noise eps_k then gives
u^{l+1}(t) = row(t) eps, and every sum over the past collapses into a running vector per path:

    u^l + gamma0 sum eta0 Delta Phi^{l-1} g^l = row_u . (eps_u + gamma0 V),    V = eta0 sum_{s<t,n} row_u(s,n) Delta_n(s) g_n(s)
    gamma0 sum B^l phi(h^l)                   = <d g^{l+1} / d eps_u^{l+1}> . b = <g^{l+1} eps_u^{l+1}> . b

The last step is Gaussian integration by parts. It needs no second derivative of phi, so ReLU's kink costs nothing, no
Jacobians, and no term for the diagonal s = t; its sampling noise is tamed by the mirror images of `noise.white_noise`. It is
also what conditioning a random matrix on its past products gives. Likewise for r, a_k (spanning g^l), U and A.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from tqdm import tqdm

from dmft import factor
from dmft.factor import Basis
from dmft.method import Solution, trajectory_of
from dmft.noise import num_images, white_noise
from widthwise import Activation, Estimate, GradientDescent, Problem, Status, Trajectory, check, memory
from widthwise.precision import float64

LEAST_GAMMA0 = 1e-8
"""Below it rounding of the average shows in f = <z phi> / gamma0; the limit is lazy to 1e-16 there."""

Layers = dict[int, Array]  # one array per layer, by its number ell = 1 ... L


class Noise(NamedTuple):
    """Frozen white noise, (R, S, rank) per layer."""

    eps_u: Layers
    eps_r: Layers


class Rank(NamedTuple):
    """Numbers of directions: of Phi (coordinates of u) and of G (coordinates of r)."""

    Phi: int
    G: int


class State(NamedTuple):
    """What the past leaves behind on each path.

    Attributes:
        V: V^l (S, K), the updates that h^l has received, in the coordinates of u^l.
        U: U^l (S, K), the updates that z^l has received, in the coordinates of r^l.
        b: basis of the features phi(h^l), l = 1 ... L - 1; its coordinates are those of u^{l+1}.
        a: basis of the gradient fields g^l, l = 2 ... L; its coordinates are those of r^{l-1}.
    """

    V: Layers
    U: Layers
    b: dict[int, Basis]
    a: dict[int, Basis]

    def rank(self) -> Rank:
        """Directions known in the largest basis of any layer and replica."""
        return Rank(*(max((int(basis.size.max()) for basis in bases.values()), default=0) for bases in (self.b, self.a)))


class Fields(NamedTuple):
    """What one step shows."""

    f: Float[Array, "points"]
    phi: Layers
    g: Layers


class Physics(NamedTuple):
    """The numbers of the problem; traced, so that another value compiles nothing."""

    gamma0: float
    eta0: float
    y: Float[np.ndarray, "train"]
    root: Float[np.ndarray, "points rank"]
    tol: float


REPLICAS = "replicas"  # the name of the mapped axis


def step(act: Activation, L: int, physics: Physics, noise: Noise, state: State) -> tuple[State, Fields]:
    """One step of one replica: everything at index t from what came before it; the state that step t + 1 starts from."""
    gamma0, eta0, y, root, tol = physics
    eps_u, eps_r = noise
    V, U, b, a = dict(state.V), dict(state.U), dict(state.b), dict(state.a)
    row_u: Layers = {1: jnp.asarray(root)}
    row_r: Layers = {L: jnp.ones((len(root), 1))}
    h: Layers = {}
    phi: Layers = {}
    g: Layers = {}

    def average(x: Array, w: Array) -> Array:
        return x.T @ w / len(x)

    for ell in range(1, L + 1):
        if ell > 1:
            b[ell - 1], row_u[ell] = factor.extend(b[ell - 1], phi[ell - 1], tol, REPLICAS)
        h[ell] = (eps_u[ell] + gamma0 * V[ell]) @ row_u[ell].T
        if ell > 1:
            A = average(phi[ell - 1], eps_r[ell - 1])  # <d phi^{l-1} / d eps_r>
            h[ell] += a[ell].e @ A.T
        phi[ell] = act.phi(h[ell])

    f = jnp.mean(phi[L] * (eps_r[L] + gamma0 * U[L]), axis=0) / gamma0  # <z^L phi^L> / gamma0
    P = len(y)
    Delta = jnp.zeros(len(root)).at[:P].set(GradientDescent.Delta(f[:P], y))

    for ell in range(L, 0, -1):
        if ell < L:
            a[ell + 1], row_r[ell] = factor.extend(a[ell + 1], g[ell + 1], tol, REPLICAS)
        z = (eps_r[ell] + gamma0 * U[ell]) @ row_r[ell].T
        if ell < L:
            B = average(g[ell + 1], eps_u[ell + 1])  # <d g^{l+1} / d eps_u>, the diagonal s = t included
            z += b[ell].e @ B.T
        g[ell] = act.d(h[ell]) * z

    for ell in range(1, L + 1):
        V[ell] += eta0 * (g[ell] * Delta) @ row_u[ell]
        U[ell] += eta0 * (phi[ell] * Delta) @ row_r[ell]
    return State(V, U, b, a), Fields(f, phi, g)


@partial(jax.jit, static_argnames=("act", "L"), donate_argnames="state")
def step_replicas(act: Activation, L: int, physics: Physics, noise: Noise, state: State) -> tuple[State, Fields]:
    """`step` for all replicas."""
    return jax.vmap(lambda noise, state: step(act, L, physics, noise, state), axis_name=REPLICAS)(noise, state)


@dataclass(frozen=True)
class March:
    """The causal march in time with sampled paths; for every depth, activation and gamma0.

    Args:
        num_paths: paths S per replica and layer, a multiple of 4. The error bar falls like S^-1/2 or faster, a bias like 1/S.
        num_replicas: independent replicas R; their spread is the error bar.
        tol: rest of a kernel, relative to its size, below which no new direction is kept.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> March(num_paths=1024)
        March(num_paths=1024, num_replicas=8, tol=0.001)
    """

    num_paths: int = 2048
    num_replicas: int = 8
    tol: float = 1e-3

    def __post_init__(self) -> None:
        cure = "Sobol points come with three mirror images each."
        if check.count("num_paths", self.num_paths, cure, least=16) % 4:
            raise ValueError(f"num_paths must be a multiple of 4, got {self.num_paths}. {cure}")
        check.count("num_replicas", self.num_replicas, "The error bar is the spread of at least two replicas.", least=2)
        check.positive("tol", self.tol)

    def run(self, problem: Problem, *, seed: int, kernel_steps: Int[np.ndarray, "kept"], progress: bool) -> Solution:
        """Solve `problem`; see `dmft.solve`."""
        with float64():
            return self._run(problem, seed, kernel_steps, progress)

    def _run(self, problem: Problem, seed: int, kernel_steps: Int[np.ndarray, "kept"], progress: bool) -> Solution:
        start = time.perf_counter()
        act, L, task = problem.architecture.activation, problem.architecture.depth, problem.task
        M, T = task.num_points, problem.training.num_steps
        physics = Physics(problem.parameterization.gamma0, problem.training.eta0, task.y, _root(task.Phi0), self.tol)
        if physics.gamma0 < LEAST_GAMMA0:
            raise ValueError(
                f"March needs gamma0 of at least {LEAST_GAMMA0:g} (f is an average over gamma0): use method=Lazy()."
            )
        self._require(problem, len(kernel_steps), Rank(M, M))
        capacity, noise, state = Rank(0, 0), Noise({}, {}), State({}, {}, {}, {})
        f = np.full((self.num_replicas, T + 1, M), np.nan)
        kept: list[Fields] = []
        with tqdm(total=T + 1, desc=f"dmft.solve {act.name} L={L}", disable=None if progress else True, leave=False) as bar:
            for t in range(T + 1):
                if t == 0 or any(rank + M > room for rank, room in zip(state.rank(), capacity, strict=True)):
                    capacity = self._capacity(state.rank(), capacity, M, M * (T + 1))
                    self._require(problem, len(kernel_steps), capacity)
                    noise = self._noise(physics, L, capacity, act.odd, seed)
                    state = _with_room(state, noise)
                state, fields = step_replicas(act, L, physics, noise, state)
                f[:, t] = fields.f
                if t in kernel_steps:
                    kept.append(fields)
                if not np.isfinite(f[:, t]).all():
                    break
                bar.update()
                if t % 10 == 0:
                    bar.set_postfix(loss=f"{problem.training.loss_of(f[:, t, : len(task.y)], task.y).mean():.3g}")

        trajectory = _trajectory(problem, f, kept, kernel_steps, L)
        estimate = Estimate.of(trajectory)
        ranks = {
            f"rank {name}": ", ".join(str(int(basis.size.max())) for _, basis in sorted(bases.items()))
            for name, bases in (("Phi", state.b), ("G", state.a))
            if bases
        }
        stats = {"paths": self.num_paths, "replicas": self.num_replicas, **ranks, "seconds": time.perf_counter() - start}
        status = Status.of(problem, estimate.mean, f"solved, {T} steps")
        return Solution(estimate, status, stats)

    @staticmethod
    def _capacity(rank: Rank, capacity: Rank, M: int, most: int) -> Rank:
        """Room for the directions that a step may find, M at most, and for many to come; few different sizes."""

        def enough(rank: int, room: int) -> int:
            return room if rank + M <= room else min(16 * math.ceil((1.5 * rank + 2.5 * M) / 16), most)

        return Rank(*map(enough, rank, capacity))

    def _noise(self, physics: Physics, L: int, capacity: Rank, odd: bool, seed: int) -> Noise:
        """White noise of all replicas: u^1 has the rank of Phi^0, r^L is one number, the others have `capacity`."""

        def replicas(ell: int) -> tuple[Array, Array]:
            num_u = physics.root.shape[1] if ell == 1 else capacity.Phi
            num_r = 1 if ell == L else capacity.G
            draws = [
                white_noise(self.num_paths, num_u, num_r, odd=odd, key=(seed, ell, replica))
                for replica in range(self.num_replicas)
            ]
            return jnp.asarray(np.stack([u for u, _ in draws])), jnp.asarray(np.stack([r for _, r in draws]))

        layers = {ell: replicas(ell) for ell in range(1, L + 1)}
        return Noise({ell: u for ell, (u, _) in layers.items()}, {ell: r for ell, (_, r) in layers.items()})

    def _require(self, problem: Problem, num_kept: int, capacity: Rank) -> None:
        """ValueError if the paths cannot span the directions, MemoryError if memory does not hold them."""
        L, M = problem.architecture.depth, problem.task.num_points
        images, most = num_images(problem.architecture.activation.odd), max(capacity) if L > 1 else M
        if self.num_paths < images * most:
            raise ValueError(
                f"kernels need up to {most} directions, and {self.num_paths} paths in {images} mirror images span "
                f"{self.num_paths // images}. Raise num_paths to {2 * images * most} or more, or raise tol."
            )
        paths = 8 * self.num_replicas * self.num_paths
        hidden = paths * (L - 1) * sum(capacity) * 5  # noise, updates, bases; room to copy the state
        fields = paths * M * L * (6 + 2 * num_kept)
        kernels = 8 * self.num_replicas * 2 * L * (num_kept * M) ** 2
        outputs = 8 * 4 * self.num_replicas * (problem.training.num_steps + 1) * M
        memory.require(
            hidden + fields + kernels + outputs,
            f"dmft.solve with {self.num_replicas} x {self.num_paths} paths, {M} points and ranks {tuple(capacity)}",
            "Lower March(num_paths=, num_replicas=), keep kernels at fewer steps, or raise tol.",
        )


def _with_room(state: State, noise: Noise) -> State:
    """The state with every array padded with zeros to the shape of its noise; from an empty state, the initial one."""
    L = max(noise.eps_u)

    def pad(old: Array | None, like: Array) -> Array:
        return jnp.zeros_like(like) if old is None else jnp.zeros_like(like).at[..., : old.shape[-1]].set(old)

    def basis(old: Basis | None, like: Array) -> Basis:
        return Basis(pad(old and old.e, like), jnp.zeros(len(like), int) if old is None else old.size)

    return State(
        V={ell: pad(state.V.get(ell), e) for ell, e in noise.eps_u.items()},
        U={ell: pad(state.U.get(ell), e) for ell, e in noise.eps_r.items()},
        b={ell: basis(state.b.get(ell), noise.eps_u[ell + 1]) for ell in range(1, L)},
        a={ell: basis(state.a.get(ell), noise.eps_r[ell - 1]) for ell in range(2, L + 1)},
    )


def _trajectory(problem: Problem, f: np.ndarray, kept: list[Fields], kernel_steps: np.ndarray, L: int) -> Trajectory:
    """Samples (leading axis: replica) from the recorded outputs and fields."""
    R, _, M = f.shape
    K = len(kernel_steps)

    def kernels(layers: list[Layers]) -> np.ndarray:
        """<x(t) x(s)> of every layer, (R, L, K, M, K, M); steps that a diverging run did not reach stay NaN."""
        out = np.full((R, L, K, M, K, M), np.nan)
        n = len(layers)
        for ell in range(1, L + 1):
            for i in range(n):
                for j in range(i + 1):
                    x, y = layers[i][ell], layers[j][ell]
                    block = np.asarray(jnp.einsum("rsm,rsn->rmn", x, y) / x.shape[1])
                    out[:, ell - 1, i, :, j, :] = block
                    out[:, ell - 1, j, :, i, :] = np.swapaxes(block, 1, 2)
        return out

    Phi, G = kernels([fields.phi for fields in kept]), kernels([fields.g for fields in kept])
    return trajectory_of(problem, f, kernel_steps, Phi, G)


def _root(Phi0: Float[np.ndarray, "points points"]) -> Float[np.ndarray, "points rank"]:
    """A factor of Phi^0 without its null space, largest direction first: Phi^0 = root root^T."""
    values, vectors = np.linalg.eigh(Phi0)
    keep = values > max(len(Phi0) * np.finfo(np.float64).eps * values[-1], 0.0)
    keep[-1] = True
    return (vectors[:, keep] * np.sqrt(np.maximum(values[keep], 0.0)))[:, ::-1]
