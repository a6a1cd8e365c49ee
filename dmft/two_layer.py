"""One hidden layer: the infinite-width limit is a flow of particles, neurons (H, Z) that see each other through f alone.

With one hidden layer no weight matrix lies between two wide layers, so the single-site process (docs/march.md) has no responses
A and B. A neuron is its input weights H ~ N(0, 1) along the directions that the data span, and its readout Z ~ N(0, 1)^C:

    h_m  = x^_m . H                 x^_m the rows of a root of Phi^0:  x^_m . x^_n = x_m . x_n / D + bias^2
    f_mc = <Z_c phi(h_m)> / gamma0 + o_c                 o_c the output bias, one number in the limit, o_c(0) = 0
    G_H  = gamma0 sum_m phi'(h_m) (Z . Delta_m) x^_m      (what gradient descent moves along, G in `GradientDescent`)
    G_Z  = gamma0 sum_m Delta_m phi(h_m)
    G_o  = bias^2 sum_m Delta_m                           Delta_m = -d loss / d f_m, m over the batch

(1804.06561, 1805.00915; 2205.09653.) Neurons are sampled paths, or, where data span at most two directions and there is one
output, nodes of a quadrature: then nothing is sampled.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.ode import odeint
from jaxtyping import Array, Float, Int, Key

from dmft import control
from dmft.inputs import input_root
from dmft.method import Solution, require_applies, trajectory_of
from dmft.noise import mirrored, num_images, white_noise
from dmft.physics import LEAST_GAMMA0
from widthwise import Activation, Estimate, Problem, Status, Trajectory, check, memory
from widthwise.curvature import eigenvalues, sharpness
from widthwise.loss import Loss
from widthwise.precision import float64
from widthwise.training import move

NODES = {1: (48, 72, 108, 162, 243), 2: (36, 54, 81, 122)}
"""Numbers of nodes per direction that are tried, by the rank of the data."""

RESOLVED = 1e-6
"""Largest relative change of f under the last increase of the nodes that counts as resolved."""

FLOW_ERROR = 1e-8
"""Relative and absolute error per interval of gradient flow."""

SAVES = ("NTK", "eigenvalues", "sharpness", "update_size", "h", "z")


class Neurons(NamedTuple):
    """The state, and anything shaped like it: velocities, gradients."""

    H: Float[Array, "paths rank"]
    Z: Float[Array, "paths outputs"]
    o: Float[Array, "outputs"]


class Setting(NamedTuple):
    """What the compiled program is made for."""

    act: Activation
    loss: Loss
    full_batch: bool
    online: bool
    nesterov: bool
    flow: bool
    noisy: bool


class Physics(NamedTuple):
    """The numbers of the problem; traced, so that another value compiles nothing."""

    gamma0: Any
    bias: Any
    momentum: Any
    weight_decay: Any
    temperature: Any
    watched: Float[Array, "points rank"]
    train: Float[Array, "train rank"]


class Flow(NamedTuple):
    """What runs leave behind, a leading axis of replicas: where they start, f, loss of the batches, neurons at kept steps."""

    start: Neurons
    f: Float[np.ndarray, "runs states points outputs"]
    batch_loss: Float[np.ndarray, "runs states"] | None
    kept: Neurons


class Now(NamedTuple):
    """The numbers of one step (a leading axis: of all of them)."""

    rows: Int[Array, "batch"]
    y: Float[Array, "batch outputs"]
    target: Float[Array, "batch outputs"]
    eta: Float[Array, "layers"]
    slot: Int[Array, ""]
    step: Int[Array, ""]


@dataclass(frozen=True)
class TwoLayer:
    """The infinite-width limit with one hidden layer, by a flow of particles; every activation, loss and way of training.

        h += eta gamma0 sum_n Delta_n phi'(h_n) z Phi^0_mn,   z += eta gamma0 sum_n Delta_n phi(h_n),   f = <z phi(h)> / gamma0

    Args:
        num_paths: particles S per replica, a multiple of 4. The error bar falls like S^-1/2 or faster, a bias like 1/S.
        num_replicas: independent replicas R; their spread is the error bar.
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
            flow = _flow(problem, watched, train, kernel_steps, nodes[None], weights)
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
        trajectory = _trajectory(problem, watched, kernel_steps, save, flow, weights).map(itemgetter(0))
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
        flow = _flow(problem, watched, train, kernel_steps, particles, weights, seed)
        if self.control_variate and control.applies(problem, R):
            flow = flow._replace(f=control.corrected(problem, flow.f, _tangent_kernels(problem, watched, particles)))
        estimate = Estimate.of(_trajectory(problem, watched, kernel_steps, save, flow, weights))
        status = Status.of(problem, estimate.mean, f"solved, {problem.training.num_steps} steps")
        return Solution(estimate, status, {"paths": S, "replicas": R})

    def _require(self, problem: Problem, S: int, R: int, K: int, save: tuple[str, ...]) -> None:
        training, M, C = problem.training, problem.num_watched, problem.task.num_outputs
        B = problem.task.num_train if training.batch_size is None else training.batch_size
        rank = min(problem.task.num_points, problem.task.input_dim + 1)
        states = (10 if training.flow else 4) + K
        paths = R * S * ((rank + C) * states + 4 * (M + B) + K * M * (4 + C) + K * M * (1 + C) * (len({*save} & {"h", "z"})))
        outputs = R * ((training.num_steps + 1) * M * C * 4 + 6 * (K * M) ** 2)
        outputs += R * K * (M * C) ** 2 * 4 if "sharpness" in save else 0
        memory.require(
            8.0 * (paths + outputs),
            f"dmft.TwoLayer with {R} x {S} particles, {M} points and kernels at {K} steps",
            "Lower TwoLayer(num_paths=, num_replicas=), keep kernels at fewer steps, or use fewer points.",
        )


def _tangent_kernels(
    problem: Problem, watched: Float[np.ndarray, "points rank"], particles: Float[np.ndarray, "R paths coordinates"]
) -> Float[np.ndarray, "R points points"]:
    """K of every replica at t = 0, of one output."""
    act, rates, rank = problem.architecture.activation, problem.training.rates(1), watched.shape[1]
    h = particles[..., :rank] @ watched.T
    phi, g = (np.asarray(x) for x in (act.phi(h), act.d(h) * particles[..., rank:]))
    Phi, G = (np.swapaxes(x, 1, 2) @ x / x.shape[1] for x in (phi, g))
    return rates[0] * G * problem.Phi0 + rates[1] * (Phi + problem.architecture.bias**2)


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


def _flow(
    problem: Problem,
    watched: Float[np.ndarray, "points rank"],
    train: Float[np.ndarray, "train rank"],
    kernel_steps: Int[np.ndarray, "kept"],
    particles: Float[np.ndarray, "runs paths coordinates"],
    weights: Float[np.ndarray, "paths"],
    seed: int = 0,
) -> Flow:
    """Particles or nodes through the whole of training, in their precision; `batch_loss` if it is online."""
    training, task, arch = problem.training, problem.task, problem.architecture
    T, rank = training.num_steps, watched.shape[1]
    index, noise = training.batches_of(task.num_train, task.num_outputs)
    y = task.y.reshape(task.num_train, -1)[index]
    target = y if noise is None else y + noise
    eta = np.concatenate([training.eta(1), np.zeros((1, 2))])  # state T stays where it is
    slots = np.full(T + 1, len(kernel_steps))
    slots[kernel_steps] = np.arange(len(kernel_steps))
    full_batch, online, flow = training.full_batch, training.online, training.flow
    array: Any = partial(np.asarray, dtype=particles.dtype)
    whole: Any = np.asarray
    setting = Setting(
        arch.activation, training.loss, full_batch, online, training.nesterov, flow, noisy=training.temperature > 0
    )
    physics = Physics(
        problem.parameterization.gamma0,
        arch.bias,
        training.momentum,
        training.weight_decay,
        training.temperature,
        array(watched),
        array(train),
    )
    start = Neurons(whole(particles[..., :rank]), whole(particles[..., rank:]), array(np.zeros((len(particles), y.shape[-1]))))
    steps = Now(whole(index), array(y), array(target), array(eta), whole(slots), whole(np.arange(T + 1)))
    f, batch_loss, kept = _run(setting, len(kernel_steps), physics, weights, steps, start, seed)
    return Flow(start, np.asarray(f, float), np.asarray(batch_loss, float) if online else None, kept)


@partial(jax.jit, static_argnames=("setting", "num_kept"))
def _run(
    setting: Setting,
    num_kept: int,
    physics: Physics,
    weights: Float[Array, "paths"],
    steps: Now,
    start: Neurons,
    seed: Int[Array, ""],
) -> tuple[Float[Array, "runs states points outputs"], Float[Array, "runs states"], Neurons]:
    """The scan over the states 0 ... T, for all replicas; the last slot takes the states that are not kept."""

    def run(start: Neurons, key: Key[Array, ""]) -> tuple[Array, Array, Neurons]:
        def body(carry: tuple, now: Now) -> tuple[tuple, tuple]:
            neurons, velocity, kept = carry
            kept = jax.tree.map(lambda all_, one: all_.at[now.slot].set(one), kept, neurons)
            neurons, velocity, seen = step(setting, physics, weights, now, neurons, velocity, key)
            return (neurons, velocity, kept), seen

        kept = jax.tree.map(lambda x: jnp.zeros((num_kept + 1, *x.shape)), start)
        carry = (start, jax.tree.map(jnp.zeros_like, start), kept)
        (_, _, kept), (f, batch_loss) = jax.lax.scan(body, carry, steps)
        return f, batch_loss, jax.tree.map(lambda x: x[:num_kept], kept)

    return jax.vmap(run)(start, jax.random.split(jax.random.key(seed), len(start.H)))


def step(
    setting: Setting,
    physics: Physics,
    weights: Float[Array, "paths"],
    now: Now,
    neurons: Neurons,
    velocity: Neurons,
    key: Key[Array, ""],
) -> tuple[Neurons, Neurons, tuple[Float[Array, "points outputs"], Float[Array, ""]]]:
    """One step of one replica; f and the loss of the batch before it."""
    gamma0, _, momentum, weight_decay, temperature, watched, train = physics
    act, P, M = setting.act, len(train), len(watched)
    points = jnp.concatenate([watched, train[now.rows]]) if setting.online else watched
    batch: Any = slice(P) if setting.full_batch else M + jnp.arange(len(now.rows)) if setting.online else now.rows

    def outputs(neurons: Neurons, phi: Float[Array, "paths points"]) -> Float[Array, "points outputs"]:
        return phi.T @ (weights[:, None] * neurons.Z) / gamma0 + neurons.o

    def gradient(
        neurons: Neurons, h: Float[Array, "paths batch"], x: Float[Array, "batch rank"], f: Float[Array, "batch outputs"]
    ) -> Neurons:
        Delta = setting.loss.minus_gradient(f, now.target) / len(f)
        return Neurons(
            gamma0 * (act.d(h) * (neurons.Z @ Delta.T)) @ x,
            gamma0 * act.phi(h) @ Delta,
            physics.bias**2 * Delta.sum(0),
        )

    h = neurons.H @ points.T
    f = outputs(neurons, act.phi(h))
    seen = f[:M], setting.loss.of(f[batch], now.y).mean()
    eta = Neurons(now.eta[0], now.eta[1], now.eta[1])

    if setting.flow:

        def speed(neurons: Neurons, _: Array) -> Neurons:
            h = neurons.H @ train.T
            G = gradient(neurons, h, train, outputs(neurons, act.phi(h)))
            return jax.tree.map(lambda x, G, rate: rate * (G - weight_decay * x), neurons, G, eta)

        path = odeint(speed, neurons, jnp.array([0.0, 1.0]), rtol=FLOW_ERROR, atol=FLOW_ERROR)
        return jax.tree.map(lambda x: x[-1], path), velocity, seen

    G = gradient(neurons, h[:, batch], points[batch], f[batch])
    moved = [
        move(x, v, g, rate, momentum, setting.nesterov, weight_decay)
        for x, v, g, rate in zip(neurons, velocity, G, eta, strict=True)
    ]
    neurons, velocity = (Neurons(*parts) for parts in zip(*moved, strict=True))
    if setting.noisy:
        xi = mirrored_noise(jax.random.fold_in(key, now.step), neurons, act.odd)
        neurons = jax.tree.map(lambda x, n, rate: x + jnp.sqrt(2 * temperature * rate) * n, neurons, xi, eta)
    return neurons, velocity, seen


def mirrored_noise(key: Key[Array, ""], like: Neurons, odd: bool) -> Neurons:
    """N(0, 1) for H and Z in the mirror images of `white_noise`; the output bias, a mean over the width, gets none."""
    key_u, key_r = jax.random.split(key)
    dtype = like.H.dtype
    u, r = mirrored(key_u, like.H.shape, odd, dtype)[0], mirrored(key_r, like.Z.shape, odd, dtype)[1]
    return Neurons(u, r, jnp.zeros_like(like.o))


def _trajectory(
    problem: Problem,
    watched: Float[np.ndarray, "points rank"],
    kernel_steps: Int[np.ndarray, "kept"],
    save: tuple[str, ...],
    flow: Flow,
    weights: Float[np.ndarray, "paths"],
) -> Trajectory:
    """Samples (leading axis: replica), with kernels and what else is to be saved."""
    names = tuple(name for name in ("update_size", "h", "z", "sharpness") if name in save)
    more = observe(problem.architecture.activation, names, watched, weights, flow.start.H, flow.kept)
    more = {name: np.array(x, float) for name, x in more.items()}
    Phi, G = more.pop("Phi"), more.pop("G")
    rates, bias = problem.training.rates(1), problem.architecture.bias
    if "sharpness" in save:
        hidden = np.moveaxis(more["sharpness"], -3, -2) * problem.Phi0[:, None, :, None]  # axes (m, c, n, c')
        readout = np.moveaxis(np.diagonal(Phi[:, 0], axis1=1, axis2=3), -1, 1) + bias**2
        K = rates[0] * hidden + rates[1] * readout[..., :, None, :, None] * np.eye(problem.task.num_outputs)[:, None, :]
        more["sharpness"] = sharpness(problem, K, flow.f[:, kernel_steps])
    trajectory = trajectory_of(problem, flow.f, kernel_steps, Phi, G, flow.batch_loss)
    NTK = trajectory.tangent_kernel(problem.Phi0, rates, bias)
    if "NTK" in save:
        more["NTK"] = NTK
    if "eigenvalues" in save:
        more["eigenvalues"] = eigenvalues(problem, NTK)
    return dataclasses.replace(trajectory, more=more)


@partial(jax.jit, static_argnames=("act", "names"))
def observe(
    act: Activation,
    names: tuple[str, ...],
    watched: Float[Array, "points rank"],
    weights: Float[Array, "paths"],
    H0: Float[Array, "runs paths rank"],
    kept: Neurons,
) -> dict[str, Float[Array, "runs ..."]]:
    """`_observe` in every replica."""
    return jax.vmap(partial(_observe, act, names, watched, weights))(H0, kept)


def _observe(
    act: Activation,
    names: tuple[str, ...],
    watched: Float[Array, "points rank"],
    weights: Float[Array, "paths"],
    H0: Float[Array, "paths rank"],
    kept: Neurons,
) -> dict[str, Float[Array, "..."]]:
    """Phi and G between the kept steps, and what else is named, from the neurons of one replica at those steps.

    (Under "sharpness" <phi'_m z_c phi'_n z_c'> at equal times, (K, M, M, C, C).)
    """
    h, h0 = kept.H @ watched.T, H0 @ watched.T
    phi, slope = act.phi(h), act.d(h)
    g = slope[..., None] * kept.Z[:, :, None, :]
    C = g.shape[-1]
    out = {
        "Phi": jnp.einsum("s,tsm,usn->tmun", weights, phi, phi)[None],
        "G": jnp.einsum("s,tsmc,usnc->tmun", weights, g, g)[None] / C,
    }
    if "update_size" in names:
        out["update_size"] = jnp.sqrt(jnp.einsum("s,tsm->t", weights, (h - h0) ** 2) / h.shape[-1])[:, None]
    if "h" in names:
        out["h"] = jnp.swapaxes(h, 1, 2)[:, None]
    if "z" in names:  # of the first output; the same at all points
        out["z"] = jnp.broadcast_to(kept.Z[:, None, None, :, 0], (len(h), 1, len(watched), h.shape[1]))
    if "sharpness" in names:
        out["sharpness"] = jnp.einsum("s,tsmc,tsnd->tmncd", weights, g, g)
    return out
