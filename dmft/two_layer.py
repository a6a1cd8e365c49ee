"""One hidden layer: the infinite-width limit is a flow of particles (`dmft.particles`), sampled or nodes of a quadrature.

Where data span at most two directions and there is one output, the particles are the nodes of a quadrature: nothing is sampled.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from operator import itemgetter
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from dmft import control
from dmft.inputs import input_root
from dmft.method import Solution, require_applies
from dmft.noise import num_images, white_noise
from dmft.particles import flow_of, measured
from dmft.physics import LEAST_GAMMA0
from dmft.spread import solution_of
from widthwise import Estimate, Problem, Status, Trajectory, check, memory
from widthwise.precision import float64
from widthwise.trajectory import tangent_kernel

NODES = {1: (48, 72, 108, 162, 243), 2: (36, 54, 81, 122)}
"""Numbers of nodes per direction that are tried, by the rank of the data."""

RESOLVED = 1e-6
"""Largest relative change of f under the last increase of the nodes that counts as resolved."""

SAVES = ("NTK", "eigenvalues", "sharpness", "update_size", "h", "z")


@dataclass(frozen=True)
class TwoLayer:
    """The infinite-width limit with one hidden layer, by a flow of particles; every activation, loss and way of training.

        h += eta gamma0 sum_n Delta_n phi'(h_n) z Phi^0_mn,   z += eta gamma0 sum_n Delta_n phi(h_n),   f = <z phi(h)> / gamma0

    Args:
        num_paths: particles S per replica, a multiple of 4. The error bar falls like S^-1/2 or faster, a bias like 1/S.
        num_replicas: independent replicas R; their spread is the error bar, a bias included (`dmft.spread`).
        quadrature: nodes and weights instead of sampled particles: no sampling error. It takes one output, data of rank one or
            two (e.g. two samples), a smooth activation and no temperature. None: where that is so.
        control_variate: of sampled particles, as in `March`.
        dtype: of sampled particles; "float32" is about twice as fast. Gradient flow needs "float64".

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(1, "erf"), Parameterization(), tasks.sphere(2, input_dim=8), GradientDescent(0.5, 10))
        >>> estimate, status, stats = TwoLayer().run(problem, seed=0, kernel_steps=np.array([0, 10]), progress=False)
        >>> estimate.n, estimate.mean.f.shape, status.ok, stats["quadrature error"] < 1e-6
        (0, (11, 2), True, True)
    """

    num_paths: int = 4096
    num_replicas: int = 8
    quadrature: bool | None = None
    control_variate: bool = True
    dtype: Literal["float32", "float64"] = "float64"

    def __post_init__(self) -> None:
        cure = "Sobol points come with three mirror images each."
        if check.count("num_paths", self.num_paths, cure, least=16) % 4:
            raise ValueError(f"num_paths must be a multiple of 4, got {self.num_paths}. {cure}")
        check.count("num_replicas", self.num_replicas, "The error bar is the spread of at least two replicas.", least=2)
        if self.quadrature is not None:
            check.flag("quadrature", self.quadrature)
        check.flag("control_variate", self.control_variate)
        check.choice("dtype", self.dtype, ("float32", "float64"))

    @staticmethod
    def obstacle(problem: Problem) -> str | None:
        """Why this method does not apply to the problem, in one sentence; None if it does."""
        if (L := problem.architecture.depth) != 1:
            return f"TwoLayer solves networks with one hidden layer, depth=1, not {L}: use March()."
        if (gamma0 := problem.parameterization.gamma0) < LEAST_GAMMA0:
            return (
                f"TwoLayer needs gamma0 of at least {LEAST_GAMMA0:g}, got {gamma0:g} (f is an average over gamma0): use Lazy()."
            )
        return None

    def run(
        self,
        problem: Problem,
        *,
        seed: int,
        kernel_steps: Int[np.ndarray, "kept"],
        progress: bool,
        save: tuple[str, ...] = (),
    ) -> Solution:
        """Solve `problem`; see `dmft.solve`.

        Raises:
            ValueError: more than one hidden layer; too few paths for the rank of the data; quadrature=True where there is none.
            MemoryError: the particles would not fit.
        """
        require_applies(self.obstacle(problem), save, SAVES)
        if problem.training.flow and self.dtype != "float64":
            raise ValueError('gradient flow needs TwoLayer(dtype="float64"): its steps adapt to an error of 1e-8.')
        start = time.perf_counter()
        root = input_root(problem)
        watched, train = root[-problem.num_watched :], root[: problem.task.num_train]
        rank = watched.shape[1]
        with float64():
            solution = None
            if self._by_quadrature(problem, rank, save):
                solution = self._quadrature(problem, watched, train, kernel_steps, save)
            if solution is None:
                solution = self._particles(problem, watched, train, kernel_steps, save, seed)
        return solution._replace(stats=solution.stats | {"seconds": time.perf_counter() - start})

    def _by_quadrature(self, problem: Problem, rank: int, save: tuple[str, ...]) -> bool:
        """Whether to try; ValueError if it is asked for and there is none."""
        obstacles = {
            f"{problem.task.num_outputs} outputs": problem.task.num_outputs > 1,
            f"data of rank {rank}": rank not in NODES,
            "temperature": bool(problem.training.temperature),
            "fields to save (nodes are no sample)": bool({*save} & {*Trajectory.UNAVERAGED}),
        }
        if self.quadrature and any(obstacles.values()):
            raise ValueError(
                "TwoLayer(quadrature=True) takes one output, data of rank one or two and no temperature; the problem has "
                f"{', '.join(name for name, there in obstacles.items() if there)}. Leave quadrature out: particles take all."
            )
        return self.quadrature is not False and not any(obstacles.values())

    def _quadrature(
        self,
        problem: Problem,
        watched: Float[np.ndarray, "points rank"],
        train: Float[np.ndarray, "train rank"],
        kernel_steps: Int[np.ndarray, "kept"],
        save: tuple[str, ...],
    ) -> Solution | None:
        """With more and more nodes until f stands still; None if it does not, and quadrature is not insisted on."""
        f, change, n = np.zeros(0), np.inf, 0
        for n in NODES[watched.shape[1]]:
            nodes, weights = trapezoid(n, watched.shape[1] + 1)
            self._require(problem, len(nodes), 1, len(kernel_steps), save)
            flow = flow_of(problem, watched, train, kernel_steps, nodes[None], weights)
            last, f, last_change = f, flow.f, change
            if not np.isfinite(f).all():
                break  # diverging training is reported by the status
            if last.size:
                change = float(np.abs(f - last).max() / max(np.abs(f).max(), np.finfo(float).tiny))
            slow = change > last_change / 3 > RESOLVED  # what is smooth converges exponentially
            if change < 1e-3 * RESOLVED or (slow and self.quadrature is None):
                break
        unresolved = np.isfinite(f).all() and not change <= RESOLVED
        if unresolved and self.quadrature is None:
            return None
        trajectory = measured(problem, watched, kernel_steps, save, flow, weights).map(itemgetter(0))
        status = Status.of(problem, trajectory, f"solved, {problem.training.num_steps} steps")
        if unresolved:
            status = Status(
                False, f"{n} nodes resolve f to {change:.1g} only (a kink, or steep features): leave quadrature=True out."
            )
        return Solution(Estimate.exact(trajectory), status, {"nodes": len(weights), "quadrature error": change})

    def _particles(
        self,
        problem: Problem,
        watched: Float[np.ndarray, "points rank"],
        train: Float[np.ndarray, "train rank"],
        kernel_steps: Int[np.ndarray, "kept"],
        save: tuple[str, ...],
        seed: int,
    ) -> Solution:
        S, R, C, rank = self.num_paths, self.num_replicas, problem.task.num_outputs, watched.shape[1]
        odd = problem.architecture.activation.odd
        if num_images(odd) * (most := max(rank, C)) > S:
            raise ValueError(
                f"the data and the outputs have {most} directions, and {S} paths in {num_images(odd)} mirror images span "
                f"{S // num_images(odd)}. Raise num_paths to {2 * num_images(odd) * most} or more."
            )
        self._require(problem, S, R, len(kernel_steps), save)
        draws = [white_noise(S, rank, C, odd=odd, key=(seed, 1, replica)) for replica in range(R)]
        particles = np.stack([np.concatenate(draw, axis=1) for draw in draws]).astype(self.dtype)
        weights = np.full(S, 1 / S, self.dtype)
        flow = flow_of(problem, watched, train, kernel_steps, particles, weights, seed)
        if self.control_variate and control.applies(problem, R):
            flow = flow._replace(f=control.corrected(problem, flow.f, _tangent_kernels(problem, watched, particles)))
        samples = measured(problem, watched, kernel_steps, save, flow, weights)
        return solution_of(problem, samples, {"paths": S, "replicas": R})

    def _require(self, problem: Problem, S: int, R: int, K: int, save: tuple[str, ...]) -> None:
        memory.require(
            self._bytes(problem, S, R, K, save),
            f"dmft.TwoLayer with {R} x {S} particles, {problem.num_watched} points and kernels at {K} steps",
            memory.cure_among(
                memory.Way("TwoLayer(num_paths={})", self.num_paths, 16, lambda S: self._bytes(problem, S, R, K, save), 4),
                memory.Way("TwoLayer(num_replicas={})", R, 2, lambda R: self._bytes(problem, S, R, K, save)),
                memory.Way("Keeping kernels at {} of the steps", K, 1, lambda K: self._bytes(problem, S, R, K, save)),
                otherwise="Lower TwoLayer(num_paths=, num_replicas=), keep kernels at fewer steps, or use fewer points.",
            ),
        )

    def _bytes(self, problem: Problem, S: int, R: int, K: int, save: tuple[str, ...]) -> float:
        """What R x S particles take: as they move, or as they are looked at, which is in float64."""
        training, M, C = problem.training, problem.num_watched, problem.task.num_outputs
        rank = min(problem.task.num_points, problem.task.input_dim + (problem.architecture.bias > 0))
        B = 0 if training.full_batch else problem.task.num_train if training.batch_size is None else training.batch_size
        moving = (rank + C) * ((20 if training.flow else 4) + K) + 4 * (M + B)
        looking = (rank + C) * (K + 1) + M + K * M * (2 + 3 * C)
        looking += K * M * (2 * C * ("sharpness" in save) + 2 * len({*save} & {*Trajectory.UNAVERAGED}))
        number = 4 if self.dtype == "float32" else 8
        outputs = 7 * (training.num_steps + 1) * M * C + 5 * (K * M) ** 2
        outputs += 4 * K * (M * C) ** 2 * ("sharpness" in save)
        return float(R * S * max(number * moving, 8 * looking) + 8 * R * outputs)


def _tangent_kernels(
    problem: Problem, watched: Float[np.ndarray, "points rank"], particles: Float[np.ndarray, "R paths coordinates"]
) -> Float[np.ndarray, "R points points"]:
    """K of every replica at t = 0, of one output."""
    act, rank = problem.architecture.activation, watched.shape[1]
    h = particles[..., :rank] @ watched.T
    phi, g = (np.asarray(x) for x in (act.phi(h), act.d(h) * particles[..., rank:]))
    Phi, G = (np.swapaxes(x, 1, 2) @ x / x.shape[1] for x in (phi, g))
    below = np.broadcast_to(problem.Phi0, Phi.shape)
    layers = np.stack([below, Phi + problem.architecture.bias**2], axis=1)
    return tangent_kernel(layers, G[:, None], problem.training.rates(1))


def trapezoid(n: int, dim: int) -> tuple[Float[np.ndarray, "nodes dim"], Float[np.ndarray, "nodes"]]:
    """Nodes and weights of the product trapezoidal rule for N(0, 1)^dim, nodes of weight below 1e-18 left out.

    For what is analytic in a strip of half width d its error falls like exp(-2 pi d n / 17); Gauss-Hermite's only like
    exp(-d sqrt(8 n)) (2104.13170). From n = 36 on polynomials of low degree are exact to 1e-10.

    Example:
        >>> x, w = trapezoid(36, 2)
        >>> float(w @ (x[:, 0] ** 2 * x[:, 1] ** 4)).__round__(9)
        3.0
    """
    x = np.linspace(-8.5, 8.5, n)
    w = np.exp(-(x**2) / 2)
    weights = np.prod(np.meshgrid(*[w / w.sum()] * dim, indexing="ij"), axis=0).ravel()
    keep = weights > 1e-18
    return np.stack(np.meshgrid(*[x] * dim, indexing="ij"), axis=-1).reshape(-1, dim)[keep], weights[keep]
