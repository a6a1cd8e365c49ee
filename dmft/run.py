"""One march: the loop over time, the room for the factors that grow along it, the record, and the memory that it takes.

No array grows with the number of steps but the record of f.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from threadpoolctl import ThreadpoolController
from tqdm import tqdm

from dmft import control, observe, site
from dmft.factor import Basis
from dmft.method import Solution, trajectory_of
from dmft.noise import num_images, white_noise
from dmft.physics import CHUNK, Form, Physics, along, physics_of
from dmft.sharding import mesh_for, place
from dmft.site import REPLICAS, Layers, Seen, State, Velocity
from dmft.spread import solution_of
from widthwise import Problem, Trajectory, checkpoint, memory
from widthwise.precision import float64
from widthwise.sharding import agreed, host

if TYPE_CHECKING:
    from dmft.march import March

SIZES = sorted({m << k for k in range(20) for m in (8, 12)})
"""Capacities of the factors: few, so that little compiles, and close, so that little is wasted."""

COARSE = 1e-3
"""To which the tolerance rises where it is ours to choose and paths are short of directions."""

CACHE = 4 * 2**20
"""Bytes of replicas that a processor is to keep close by."""


def room_for(num_functions: float) -> int:
    return next(size for size in SIZES if size >= num_functions)


def most_directions(num_paths: int, odd: bool) -> int:
    """How many directions the paths can tell apart; near their number whitening would find no noise left."""
    return 3 * num_paths // (4 * num_images(odd))


def first_room(num_functions: int) -> int:
    """Capacity to begin with, so that what most small problems end with is compiled once or twice."""
    return room_for(2 * num_functions + 16)


def num_driving(form: Form, physics: Physics) -> int:
    """How many points a step takes the gradient of, and so how many functions it may bring."""
    return len(physics.watched) if form.ntk_euler else physics.batch.shape[1]


@lru_cache(maxsize=1)
def blas() -> ThreadpoolController:
    """The thread pools of linear algebra; finding them takes longer than using them."""
    return ThreadpoolController()


class TooFewPaths(ValueError):
    """The paths cannot span the directions that the kernels need.

    Attributes:
        seconds: what a whole march with so many paths would take, or 0.0 if it could not even begin; measured when asked for.
    """

    def __init__(self, message: str, measured: Callable[[], float]):
        super().__init__(message)
        self._measured = measured

    @cached_property
    def seconds(self) -> float:
        return self._measured()


class Rank(NamedTuple):
    """Numbers of directions: of Phi (coordinates of u) and of G (coordinates of r)."""

    Phi: int
    G: int


@partial(jax.jit, static_argnames=("form", "group"), donate_argnames="state")
def run_chunk(
    form: Form, physics: Physics, state: State, start: Int[Any, "R"], stop: int, group: int
) -> tuple[State, Int[Any, "R"], Seen]:
    """Each replica from step `start` to before `stop`, or as far as there is room; one step always, if there is one.

    Replicas go `group` by `group`, each group all its steps: what fits into the cache stays there.

    Returns:
        the state, the first step not done by each, and f (R, CHUNK, M, C) and the loss of the batch (R, CHUNK) from
        `physics.start` on.
    """
    R = len(start)
    if group == R:
        return _run_group(form, physics, state, start, stop)

    def part(i: Array, whole: Any) -> Any:
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, i * group, group), whole)

    def turn(i: Array, carry: tuple) -> tuple:
        """The i-th group, in place."""
        one, start = part(i, carry[:2])
        after = _run_group(form, physics, one, start, stop)
        return jax.tree.map(lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new, i * group, 0), carry, after)

    return jax.lax.fori_loop(0, R // group, turn, (state, start, _nothing_seen(physics, R)))


def _nothing_seen(physics: Physics, R: int) -> Seen:
    M, C = len(physics.watched), physics.y.shape[1]
    return Seen(jnp.zeros((R, CHUNK, M, C)), jnp.zeros((R, CHUNK)))  # no NaN, at which jax_debug_nans would stop


def _run_group(
    form: Form, physics: Physics, state: State, start: Int[Any, "R"], stop: int
) -> tuple[State, Int[Any, "R"], Seen]:
    """`run_chunk` of replicas that are all at the same step."""
    most = num_driving(form, physics)

    def wanting(carry: tuple) -> Any:
        state, t, _ = carry
        roomy = has_room(state.b, most, form.flow) & has_room(state.a, most, form.flow)
        return (t < stop) & ((t == start[0]) | roomy)

    def advance(carry: tuple) -> tuple:
        state, t, record = carry
        move = site.flow if form.flow else site.step
        state, seen = jax.vmap(lambda state: move(form, physics, t, state), axis_name=REPLICAS)(state)
        return state, t + 1, Seen(*(x.at[:, t - physics.start].set(now) for x, now in zip(record, seen, strict=True)))

    state, t, record = jax.lax.while_loop(wanting, advance, (state, start[0], _nothing_seen(physics, len(start))))
    return state, jnp.full_like(start, t), record


def room_wanted(grew: Any, num_functions: int, flow: bool) -> Any:
    """New functions to be ready for: twice what the last step brought and eight more; a flow takes many steps in one."""
    return 8 * num_functions if flow else jnp.minimum(2 * grew + 8, num_functions)


def has_room(bases: dict[int, Basis], num_functions: int, flow: bool) -> Any:
    """Whether every basis has room for what the next step may bring."""
    room = [jnp.max(b.size + room_wanted(b.grew, num_functions, flow)) <= b.e.shape[-1] for b in bases.values()]
    return jnp.all(jnp.array(room)) if room else jnp.array(True)


def bases(state: State) -> list[Basis]:
    return [*state.b.values(), *state.a.values()]


class Run:
    """One solve: what stays the same along it, the state, and the record."""

    def __init__(
        self, method: March, problem: Problem, seed: int, kernel_steps: Int[np.ndarray, "kept"], save: tuple[str, ...]
    ):
        self.method, self.problem, self.seed, self.save = method, problem, seed, save
        self.kernel_steps = kernel_steps
        self.form = Form.of(problem, method.readout == "ntk_euler")
        T, M, C, P = problem.training.num_steps, problem.num_watched, problem.task.num_outputs, problem.task.num_train
        memory.require(
            8 * (T + 1) * (4 * method.num_replicas * (M * C + 1) + P),
            f"the record of {T} steps of {M} points in {method.num_replicas} replicas",
            "Lower March(num_replicas=), the number of steps or of points.",
        )
        self.controlled = method.control_variate and method.readout == "exact" and control.applies(problem, method.num_replicas)
        self.mesh = mesh_for(method.num_replicas, method.num_paths)
        self.widest = most_directions(method.num_paths, self.form.act.odd)
        coarse = COARSE if method.tol is None else None
        self.physics = physics_of(problem, method.tolerance, method.substeps or 1, coarse, self.widest)
        self.kept: list[observe.Fields] = []
        self.first: observe.Start | None = None  # where update_size is to be saved
        self.K0 = np.zeros(0)  # sampled tangent kernels, for the control variate
        self.reached = np.zeros(method.num_replicas, int)  # the step that each replica is at
        self.looked_at = sorted({*kernel_steps.tolist()} | ({0} if "update_size" in save else set()))
        self.num_gradients = observe.num_gradients(M, C, save)
        driving, looked_at = num_driving(self.form, self.physics), M * bool(self.looked_at)
        most = Rank(max(driving, looked_at), max(driving, looked_at * self.num_gradients))
        self.require(most)
        self.f = np.full((method.num_replicas, T + 1, M, C), np.nan)
        self.batch_loss = np.full((method.num_replicas, T + 1), np.nan)
        self.state = self.with_room(Rank(*(min(first_room(n), self.widest) for n in most)), None)

    @property
    def t(self) -> int:
        """The step that all replicas have reached."""
        return int(self.reached.min())

    def solve(self, progress: bool, file: Path | None) -> Solution:
        start, T = time.perf_counter(), self.problem.training.num_steps
        title = f"dmft.solve {self.form.act.name} L={self.form.L}"
        if file is not None:
            self.resume(file)
        written = start
        with tqdm(total=T + 1, initial=self.t, desc=title, disable=None if progress else True, leave=False) as bar:
            while self.t <= T and (self.t == 0 or np.isfinite(self.f[:, self.t - 1]).all()):
                before = self.t
                if self.t == 0 and self.controlled:
                    self.K0 = control.tangent_kernels(self.problem, self.form, self.look(), self.state)
                if self.t in self.looked_at and self.t < T:
                    self.keep_fields(self.t)
                self.advance(min([self.t + CHUNK, T + 1, *(step for step in self.looked_at if self.t < step < T)]))
                bar.update(self.t - before)
                if not bar.disable:
                    bar.set_postfix_str(self.loss_so_far())
                if file is not None and agreed(time.perf_counter() - written > checkpoint.SECONDS):
                    checkpoint.keep(file, self.whose(), self.everything())
                    written = time.perf_counter()
        if T in self.looked_at and self.t == T + 1:  # last of all, so that f does not feel it; weights stay where they are
            self.keep_fields(T)
        return self.solution(time.perf_counter() - start)

    def advance(self, stop: int) -> None:
        """Steps up to `stop`, or until a factor is full."""
        most = num_driving(self.form, self.physics)
        self.make_room(most, most)
        start, before = self.t, self.reached
        chunk = along(self.physics, self.form, start)
        self.state, t, seen = run_chunk(self.form, chunk, self.state, before, int(stop), self.group())
        for basis, forgiven in zip(bases(self.state), self.forgiven, strict=True):
            if basis.e.shape[-1] == self.widest and (host(basis.missed) > forgiven).any():
                self.too_few_paths(self.widest + 1, partial(self.seconds_of, chunk, before, stop))
        self.reached = host(t)
        f, batch_loss = host(seen.f), host(seen.batch_loss)
        for r, (a, b) in enumerate(zip(before, self.reached, strict=True)):
            self.f[r, a:b] = f[r, a - start : b - start]
            self.batch_loss[r, a:b] = batch_loss[r, a - start : b - start]

    def seconds_of(self, chunk: Physics, start: Int[np.ndarray, "R"], stop: int) -> float:
        """Of a whole march, from a chunk that has just been marched: once more, for it is compiled now."""
        with float64():
            began = time.perf_counter()
            self.state, t, _ = run_chunk(self.form, chunk, self.state, start, int(stop), self.group())
            return (time.perf_counter() - began) / int(host(t - start).max()) * len(self.physics.eta)

    def group(self) -> int:
        """How many replicas go together: as many as the cache holds; on several devices, or a GPU, all."""
        R = self.method.num_replicas
        if self.mesh is not None or jax.default_backend() != "cpu":
            return R
        each = sum(x.nbytes for x in jax.tree.leaves(self.state)) / R
        return max(n for n in range(1, R + 1) if R % n == 0 and (n == 1 or n * each <= CACHE))

    def look(self) -> Physics:
        """The physics as a measurement needs it."""
        return along(self.physics, self.form, self.t)

    def keep_fields(self, t: int) -> None:
        """Fields at step t, for the kernels and whatever else is to be saved."""
        M, n = len(self.physics.watched), self.num_gradients
        self.make_room(M, M * n, full=True)
        self.state, fields = observe.fields(self.form, self.look(), self.state, n, self.first)
        if t == 0 and "update_size" in self.save:
            self.first = observe.Start(fields.h, fields.row_u)
        if t in self.kernel_steps:
            self.kept.append(fields)

    # --- room ---------------------------------------------------------------------------------------------------------------

    def make_room(self, num_forward: int, num_backward: int, full: bool = False) -> None:
        """Grow the factors if the next step could fill them."""

        def wanted(bases: dict[int, Basis], most: int) -> tuple[bool, int]:
            size = max((int(host(b.size).max()) for b in bases.values()), default=0)
            grew = max((int(host(b.grew).max()) for b in bases.values()), default=0)
            room = min((b.e.shape[-1] for b in bases.values()), default=0)
            need = int(room_wanted(most if self.t == 0 else grew, most, self.form.flow))
            need = max(need, most) if full else need
            enough = size + need <= room
            wider = room if size + need <= 0.75 * room else min(room_for(1.25 * size + need), self.widest)
            return enough or room == self.widest, wider

        state = self.state
        (enough_b, K_b), (enough_a, K_a) = wanted(state.b, num_forward), wanted(state.a, num_backward)
        if not (enough_b and enough_a):
            self.require(Rank(K_b, K_a))
            self.state = self.with_room(Rank(K_b, K_a), state)

    def with_room(self, capacity: Rank, old: State | None) -> State:
        """The state with every array padded to this capacity: images of functions still to come are noise, bases are zero."""
        form, S, R = self.form, self.method.num_paths, self.method.num_replicas
        L, C, dtype = form.L, self.problem.task.num_outputs, self.method.dtype
        alpha: Any = np.ones((R, L + 1)) if old is None else host(old.alpha)
        v_alpha = host(old.velocity.alpha) if old is not None and isinstance(old.velocity, Velocity) else np.zeros_like(alpha)
        rank_in = self.physics.watched.shape[1]

        def noise(l: int) -> tuple[np.ndarray, np.ndarray]:
            num_u, num_r = rank_in if l == 1 else capacity.Phi, C if l == L else capacity.G
            key = [(self.seed, l, replica) for replica in range(R)]
            draws = [white_noise(S, num_u + (l > 1), num_r, odd=form.act.odd, key=k) for k in key]
            u, r = (np.stack(x).astype(dtype) for x in zip(*draws, strict=True))
            return u, r

        with blas().limit(limits=1, user_api="blas"):  # matrices too small for BLAS threads, which would fight with JAX's
            draws = {l: noise(l) for l in range(1, L + 1)}
        xi: Any = {l: draws[l][0][..., 0] for l in range(2, L + 1)}
        draws = {l: (u[..., l > 1 :], r) for l, (u, r) in draws.items()}

        def padded(known: Any, new: Any) -> Any:
            """The columns known, then those of `new`."""
            if known is None:
                return new
            if self.mesh is None:  # compiles nothing
                return np.concatenate([known, new[..., known.shape[-1] :]], -1)
            return jnp.concatenate([known, place(self.mesh, new[..., known.shape[-1] :], S)], -1)

        def images(part: int, factor: np.ndarray, known: Layers | None) -> Layers:
            """alpha eps for the columns to come; W^{l-1} makes Wb[l], W^l makes Wa[l]."""
            return {
                l: padded(known and known[l], factor[:, l - 1 + part, None, None].astype(dtype) * draws[l][part])
                for l in range(1, L + 1)
            }

        def basis(known: Basis | None, K: int, first: int) -> Basis:
            if known is None:
                return Basis.zeros(R, S, K, dtype, first)
            more = Basis.zeros(R, S, K, dtype)
            return known._replace(e=padded(known.e, more.e), live=padded(known.live, more.live))

        key: Any = np.random.default_rng(self.seed).integers(0, 2**32, (R, 2), dtype=np.uint32) if old is None else old.key

        def zeros(n: int) -> Any:
            return np.zeros((R, n))

        state = State(
            Wb=images(0, alpha, old and old.Wb),
            Wa=images(1, alpha, old and old.Wa),
            b={l: basis(old and old.b[l], capacity.Phi, int(form.bias)) for l in range(1, L)},
            a={l: basis(old and old.a[l], capacity.G, 0) for l in range(2, L + 1)},
            eps_u={l: padded(old and old.eps_u[l], draws[l][0]) for l in range(2, L + 1)},
            eps_r={l: padded(old and old.eps_r[l], draws[l][1]) for l in range(1, L)},
            xi=old.xi if old else xi,
            alpha=alpha,
            size_g=zeros(L + 1) if old is None else old.size_g,
            beta=zeros(C) if old is None else old.beta,
            velocity=(),
            key=key,
            f=zeros(self.problem.num_watched) if old is None else old.f,
        )
        if form.momentum:
            was: Any = None if old is None else old.velocity
            state = state._replace(
                velocity=Velocity(
                    images(0, v_alpha, was and was.Wb),
                    images(1, v_alpha, was and was.Wa),
                    v_alpha,
                    zeros(C) if was is None else was.beta,
                )
            )
        self.forgiven = [np.array(host(basis.missed)) for basis in bases(state)]  # for want of room that there is now
        return place(self.mesh, state, S)

    # --- stop and go on -------------------------------------------------------------------------------------------------------

    def whose(self) -> dict[str, Any]:
        """What must be the same for bits to be the same."""
        return {
            "problem": self.problem.fingerprint(),
            "method": repr(self.method),
            "seed": self.seed,
            "kernel_steps": self.kernel_steps.tolist(),
            "save": list(self.save),
            "jax": jax.__version__,
        }

    def everything(self) -> dict[str, Any]:
        """All that changes along a run."""
        everything = {
            "state": self.state,
            "record": [self.reached, self.f, self.batch_loss],
            "kept": self.kept,
            "first": self.first,
            "K0": self.K0,
        }
        return jax.tree.map(host, everything)

    def resume(self, file: Path) -> None:
        """Go on from a checkpoint, if there is one."""
        leaves = checkpoint.read(file, self.whose())
        if leaves is None:
            return
        self.reached, self.f, self.batch_loss = leaves["record"]
        template = self.state
        self.state = place(self.mesh, checkpoint.like(template, leaves["state"]), self.method.num_paths)
        self.forgiven = [np.array(host(basis.missed)) for basis in bases(self.state)]
        look = partial(observe.fields, self.form, num_gradients=self.num_gradients)
        one = jax.eval_shape(look, self.look(), template)[1]
        kept, each = leaves.get("kept", []), len(jax.tree.leaves(one))
        self.kept = [checkpoint.like(one, kept[i : i + each]) for i in range(0, len(kept), each)]
        self.first = checkpoint.like(observe.Start(one.h, one.row_u), leaves["first"]) if "first" in leaves else None
        (self.K0,) = leaves["K0"]

    def too_few_paths(self, most: int, measured: Callable[[], float] = float) -> NoReturn:
        images = num_images(self.form.act.odd)
        raise TooFewPaths(
            f"kernels need {most} directions or more, and {self.method.num_paths} paths in {images} mirror images are good for "
            f"{self.widest}. Raise num_paths to {2 * images * most} or more, or raise tol.",
            measured,
        )

    # --- memory and result ----------------------------------------------------------------------------------------------------

    def require(self, capacity: Rank) -> None:
        """ValueError if the paths cannot span the directions, MemoryError if memory does not hold them."""
        S, R, K, M = self.method.num_paths, self.method.num_replicas, len(self.kernel_steps), self.problem.num_watched
        rank_in, C = self.physics.watched.shape[1], self.problem.task.num_outputs
        if (most := max(rank_in, C, *(capacity if self.form.L > 1 else ()))) > self.widest:
            self.too_few_paths(most)
        memory.require(
            self.bytes_of(capacity, S, R, K),
            f"dmft.solve with {R} x {S} paths, {M} points, kernels at {K} steps and ranks {tuple(capacity)}",
            memory.cure_among(
                memory.Way(
                    "March(num_paths={})", S, S * most // max(self.widest, 1), lambda S: self.bytes_of(capacity, S, R, K), 4
                ),
                memory.Way("March(num_replicas={})", R, 2, lambda R: self.bytes_of(capacity, S, R, K)),
                memory.Way("Keeping kernels at {} of the steps", K, 1, lambda K: self.bytes_of(capacity, S, R, K)),
                otherwise="Lower March(num_paths=, num_replicas=), keep kernels at fewer steps, or raise tol.",
            ),
        )

    def bytes_of(self, capacity: Rank, S: int, R: int, K: int) -> float:
        """What R x S paths with bases of this capacity take, and kernels at K steps, at the worst moment."""
        form, training, M, C = self.form, self.problem.training, self.problem.num_watched, self.problem.task.num_outputs
        L, T, B = form.L, training.num_steps, self.physics.batch.shape[1]
        number = 4 if self.method.dtype == "float32" else 8
        images_and_noise = (L - 1) * sum(capacity) * (3 + form.momentum) + (self.physics.watched.shape[1] + C) * (
            1 + form.momentum
        )
        fields = L * (4 * (M + B * (not form.full_batch)) + 3 * B) + 2 * (1 + self.num_gradients) * K * L * M
        fields += 2 * K * L * M * len({*self.save} & {*Trajectory.UNAVERAGED})
        kernels = 5 * L * (K * M) ** 2 + ("sharpness" in self.save) * (2 * L + 4) * K * (M * C) ** 2
        outputs = 4 * (T + 1) * (M * C + 1)
        copies = 3 if form.flow else 2
        return number * R * S * (copies * images_and_noise + fields) / len(jax.devices()) + 8 * R * (kernels + outputs)

    def loss_so_far(self) -> str:
        """Loss and error bar at the last step done, for the progress bar."""
        t, task = self.t - 1, self.problem.task
        y = task.y.reshape(task.num_train, -1)
        loss = self.batch_loss[:, t] if self.form.online else self.problem.training.loss_of(self.f[:, t, : len(y)], y)
        return f"loss={loss.mean():.3g} +- {loss.std(ddof=1) / math.sqrt(len(loss)):.1g}"

    def solution(self, seconds: float) -> Solution:
        if self.controlled:
            self.f = control.corrected(self.problem, self.f, self.K0)
        Phi, G, more = observe.saved(self.problem, self.f, self.kept, self.kernel_steps, self.save)
        batch_loss = self.batch_loss if self.form.online else None
        trajectory = trajectory_of(self.problem, self.f, self.kernel_steps, Phi, G, batch_loss, more)
        stats: dict[str, Any] = {"paths": self.method.num_paths, "replicas": self.method.num_replicas}
        for name, bases in (("Phi", self.state.b), ("G", self.state.a)):
            if bases:
                stats[f"rank {name}"] = ", ".join(str(int(host(basis.size).max())) for _, basis in sorted(bases.items()))
                if late := sum(int(host(basis.missed).max()) for basis in bases.values()):
                    stats[f"steps that left directions of {name} to the next"] = late
        return solution_of(self.problem, trajectory, stats | {"seconds": seconds})
