"""The lazy limit gamma0 -> 0: features stand still, and training is kernel gradient descent with the initial tangent kernel.

At gamma0 = 0 the single-site process (docs/march.md) has no memory: h^l = u^l, z^l = r^l, and kernels are constant. With
Phi^0 = X X^T / D, G^{L+1} = 1, s^2 = bias^2 and u ~ N(0, Phi^{l-1} + s^2),

    Phi^l  = <phi(u) phi(u)>,   G^l = G^{l+1} <phi'(u) phi'(u)>
    K      = sum_{l=0..L} rate_l G^{l+1} (Phi^l + s^2)                    (the neural tangent kernel, 1806.07572)
    v      <- momentum v + K Delta,   f <- f + eta v,   f(0) = 0          (the same K for every output, all points alike)

f is linear in the weights here, so whatever gradient descent does to weights it does to f (`widthwise.training.move`).
The two Gaussian averages are those of `dmft.gaussian`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from dmft.gaussian import BATCH, CLOSED_FORM, EXACT, NODES, RESOLVED, Fields, Kernel, averages, unresolved
from dmft.method import Solution, require_applies, trajectory_of
from widthwise import Estimate, Problem, Status, check, memory
from widthwise.activation import NAMED
from widthwise.curvature import eigenvalues, sharpness
from widthwise.precision import float64
from widthwise.training import move
from widthwise.trajectory import tangent_kernel

Kernels = Float[np.ndarray, "layers rows columns"]

SAVES = ("NTK", "eigenvalues", "sharpness")

BLOCK = 2**23
"""Entries of K held in memory at a time, if training is online."""


@dataclass(frozen=True)
class Lazy:
    """The limit gamma0 -> 0, whatever gamma0 the problem has; also the limit of `kind="ntk"`. Exact, no sampling.

        f(t+1) = f(t) + eta0 K Delta(t),   K = sum_{l=0..L} G^{l+1} Phi^l       (1806.07572; discrete time)

    It takes every way of training except weight decay and temperature. Online, K is computed between all points, N^2 averages
    for a stream of N, a block at a time.

    Args:
        max_nodes: most quadrature nodes per direction, 64 to 4096, for activations without a closed form or a short series. A
            kink at zero needs 64, a step at zero of any steepness up to 512; a kink or a narrow feature elsewhere needs more
            than there are, and the status says so.

    Raises:
        ValueError: max_nodes below 64 or above 4096.

    Example:
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(2, "relu"), Parameterization(), tasks.sphere(3, input_dim=8), GradientDescent(0.2, 10))
        >>> estimate, status, stats = Lazy().run(problem, seed=0, kernel_steps=np.array([0, 10]), progress=False)
        >>> estimate.mean.f.shape, estimate.mean.G.shape, status.ok
        ((11, 3), (2, 2, 3, 2, 3), True)
    """

    max_nodes: int = 512

    def __post_init__(self) -> None:
        check.count("max_nodes", self.max_nodes, "Every pair of points takes its square.", least=NODES[0], most=NODES[-1])

    @staticmethod
    def obstacle(problem: Problem) -> str | None:
        """Why this method does not apply to the problem, in one sentence; None if it does."""
        form, training = problem.parameterization, problem.training
        for name in ("weight_decay", "temperature"):
            if getattr(training, name):
                return (
                    f"Lazy solves training without {name}, got {getattr(training, name):g}: it moves weights away from their "
                    "start however small gamma0 is, and the kernel with them. Leave it out, or use March() at a small gamma0."
                )
        if form.kind == "ntk" and not form.centered:
            return (
                "kind='ntk' with centered=False starts from a random output f(0) of order one even at infinite width; "
                "Lazy solves f(0) = 0. Use Parameterization(kind='ntk', centered=True)."
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
        """Solve `problem`; see `dmft.solve`. Nothing is drawn, so `seed` changes nothing.

        Raises:
            ValueError: weight decay or temperature; kind="ntk" without centering; a name in `save` that is not there.
            MemoryError: the kernels would not fit.
        """
        start = time.perf_counter()
        require_applies(self.obstacle(problem), save, SAVES)
        training, kept = problem.training, len(kernel_steps)
        M, T, C = problem.num_watched, training.num_steps, problem.task.num_outputs
        memory.require(
            peak_bytes(problem, kept, save),
            f"dmft.Lazy with {problem.num_watched} points and kernels at {kept} steps",
            "Keep kernels at fewer steps, or use fewer points.",
        )
        kernel = TangentKernel(problem, self.max_nodes)
        Phi, G, K = kernel.between(slice(M), slice(M))
        with np.errstate(over="ignore", invalid="ignore"):  # diverging training is reported by the status
            f, batch_loss = train(problem, K, kernel)
            more = {
                "NTK": lambda: np.array(np.broadcast_to(K, (kept, M, M))),
                "eigenvalues": lambda: eigenvalues(problem, np.broadcast_to(K, (kept, M, M))),
                "sharpness": lambda: sharpness(
                    problem, np.broadcast_to(K[:, None, :, None] * np.eye(C)[:, None], (kept, M, C, M, C)), f[kernel_steps]
                ),
            }
            trajectory = trajectory_of(
                problem,
                f,
                kernel_steps,
                _constant(Phi, kept),
                _constant(G, kept),
                batch_loss,
                {name: more[name]() for name in SAVES if name in save},
            )
            status = Status.of(problem, trajectory, f"solved, {T} steps")
        if not kernel.unresolved <= RESOLVED:
            largest = float((kernel.X**2).sum(1).max())
            cure = f"raise Lazy(max_nodes={self.max_nodes}), or use March at a small gamma0."
            status = Status(False, unresolved(kernel.act, kernel.unresolved, largest, cure))
        return Solution(Estimate.exact(trajectory), status, {"seconds": time.perf_counter() - start})


def peak_bytes(problem: Problem, kept: int, save: tuple[str, ...] = ()) -> float:
    """Memory that `Lazy` takes at its largest, with kernels at `kept` steps: making them, or handing them over."""
    task, training, L, M = problem.task, problem.training, problem.architecture.depth, problem.num_watched
    T, C = training.num_steps + 1, task.num_outputs
    N = M + task.num_train if training.online else M
    act = problem.architecture.activation
    closed = act == NAMED.get(act.name) and act.name in CLOSED_FORM
    entries = 7 * L + 7 if closed else max(7 * L + 7, 2 * L + 15)  # layers, their products, and what one layer takes
    between = entries * M**2 + 4 * N * task.input_dim + (0 if closed else 10**6 + 7 * min(96 * N, 2 * BATCH))
    if training.online:
        between += (entries + 1) * N * min(N, block_width(N, training.batch_size or N))
    recorded = 2 * L * (kept * M) ** 2 + T * M * C + ("NTK" in save) * kept * M**2  # and as much again for their error bars
    more = 5 * kept * M**2 * ("eigenvalues" in save) + 6 * kept * (M * C) ** 2 * ("sharpness" in save)
    more += T * M * (C + 4) * training.flow + T * task.num_train * C * bool(training.label_noise)
    return 8.0 * max(between, (2 * L + 2) * M**2 + 2 * recorded + more)


def block_width(num_points: int, batch_size: int) -> int:
    """Columns of K, whole batches of them, that are held in memory at a time if training is online."""
    return max(BLOCK // (num_points * batch_size), 1) * batch_size


class TangentKernel:
    """Phi^l, G^l and K between points: the watched ones, and after them the stream of batches if training is online.

    Attributes:
        unresolved: the largest relative error so far of an average.
    """

    def __init__(self, problem: Problem, max_nodes: int = 512, tolerance: float = EXACT):
        task, self.bias = problem.task, problem.architecture.bias
        self.X = np.concatenate([problem.X_watched, task.X]) if problem.training.online else problem.X_watched
        self.X = self.X / np.sqrt(task.input_dim)
        self.act, self.depth = problem.architecture.activation, problem.architecture.depth
        self.max_nodes, self.tolerance = max_nodes, tolerance
        self.rates = problem.training.rates(self.depth)
        self.unresolved = 0.0

    def between(self, rows: slice, columns: slice) -> tuple[Kernels, Kernels, Kernel]:
        """Phi^l and G^l of layers 1 ... L (at index l - 1) and K between two ranges of points, (m, n) each."""
        fields = Fields.of_points(self.X[rows], self.X[columns])
        features, slopes = [fields.Phi], []
        with float64():
            for _ in range(self.depth):
                fields, d_d, error = averages(self.act, fields.with_bias(self.bias), self.max_nodes, self.tolerance)
                features.append(fields.Phi)
                slopes.append(d_d)
                self.unresolved = max(self.unresolved, error)
        G = np.cumprod(slopes[::-1], axis=0)[::-1]  # G^l = G^{l+1} <phi' phi'>
        return np.array(features[1:]), G, tangent_kernel(np.array(features) + self.bias**2, G, self.rates)


def train(
    problem: Problem, K: Float[np.ndarray, "*several points points"], kernel: TangentKernel
) -> tuple[Float[np.ndarray, "*several states points outputs"], Float[np.ndarray, "states"] | None]:
    """Training in function space with the kernel K, or several: f at the watched points, and the loss of batches if online."""
    if not problem.training.flow:
        return _descend(problem, K, kernel)
    f = np.stack([_flow(problem, one) for one in K.reshape(-1, *K.shape[-2:])])
    return f.reshape(*K.shape[:-2], *f.shape[1:]), None


def _descend(
    problem: Problem, K: Float[np.ndarray, "*several points points"], kernel: TangentKernel
) -> tuple[Float[np.ndarray, "*several states points outputs"], Float[np.ndarray, "states"] | None]:
    """Gradient descent in function space."""
    task, training, (*several, M, _), N = problem.task, problem.training, K.shape, len(kernel.X)
    index, noise = training.batches_of(task.num_train, task.num_outputs)
    y, etas = task.y.reshape(task.num_train, -1), training.step_sizes
    f = np.zeros((training.num_steps + 1, *several, M, task.num_outputs))
    losses = np.zeros(len(f))
    now, velocity = np.zeros((*several, N, task.num_outputs)), None
    first: int = 0
    columns = K  # K between all points and those from `first` on
    for t, batch in enumerate(index):
        f[t] = now[..., :M, :]
        rows = M + batch if training.online else batch
        if training.online:
            losses[t] = training.loss_of(now[rows], y[batch])
        if t == training.num_steps:
            break
        if training.online and not first <= rows[0] < first + columns.shape[1] - len(batch) + 1:
            first = rows[0]
            columns = kernel.between(slice(N), slice(first, first + block_width(N, len(batch))))[2]
        Delta = training.Delta(now[..., rows, :], y[batch] + (0.0 if noise is None else noise[t]))
        now, velocity = move(
            now, velocity, columns[..., rows - first] @ Delta, etas[t], training.momentum, training.nesterov, 0.0
        )
    return np.moveaxis(f, 0, -3), losses if training.online else None


def _flow(problem: Problem, K: Kernel) -> Float[np.ndarray, "states points outputs"]:
    """Gradient flow df / dtau = K Delta: by the eigenvectors of K where it is linear (mse), else integrated to 1e-10.

    f(tau) = K V [(1 - exp(-lambda tau / P)) / lambda] V^T y,   K = V lambda V^T between train points
    """
    task, training, (P, M, C) = problem.task, problem.training, (problem.task.num_train, len(K), problem.task.num_outputs)
    y, tau = task.y.reshape(P, C), np.concatenate([[0.0], np.cumsum(training.step_sizes)])
    if training.loss.name == "mse":
        values, vectors = np.linalg.eigh(K[:P, :P])
        x = np.maximum(values, 0.0) / P * tau[:, None]
        integral = np.divide(-np.expm1(-x), x, out=np.ones_like(x), where=x > 0) * tau[:, None] / P
        return K[:, :P] @ vectors @ (integral[:, :, None] * (vectors.T @ y))
    from scipy.integrate import solve_ivp  # imported where used: it costs a third of a second

    def speed(_: float, f: Float[np.ndarray, "entries"]) -> Float[np.ndarray, "entries"]:
        return (K[:, :P] @ training.Delta(f.reshape(M, C)[:P], y)).ravel()

    times, state = np.unique(tau, return_inverse=True)
    f = np.zeros((len(times), M, C))
    if len(times) > 1:
        path = solve_ivp(speed, (0.0, times[-1]), np.zeros(M * C), method="DOP853", t_eval=times, rtol=1e-10, atol=1e-12)
        f = np.full((len(times), M, C), np.nan)
        f[: len(path.t)] = path.y.T.reshape(-1, M, C)
    return f[state]


def _constant(
    kernel: Float[np.ndarray, "layers points points"], kept: int
) -> Float[np.ndarray, "layers kept points kept points"]:
    """The kernel on a grid of `kept` times, axes (t, m, s, n), the same at all of them."""
    L, M, _ = kernel.shape
    return np.array(np.broadcast_to(kernel[:, None, :, None, :], (L, kept, M, kept, M)))
