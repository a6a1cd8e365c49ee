"""The march of any network: the loop over time, the room for what its matrices learn, the record.

Replicas are independent, and stand in groups, one for every core. A step that finds no room for a function is not taken: room
is made, and the step is tried again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from tqdm import tqdm

from dmft.method import Solution
from dmft.physics import LEAST_GAMMA0
from dmft.process.basis import Policy
from dmft.process.matrix import Matrix, roomier
from dmft.process.noise import IMAGES
from dmft.process.paths import Form, Paths, Rank, Source
from dmft.process.step import Look, Numbers, Rule, State, is_matrix, look, moving, step, subtracts
from dmft.run import TooFewPaths, first_room, room_for
from dmft.spread import scatter, solution_of
from widthwise import Problem, Trajectory, checkpoint
from widthwise.feed import CHUNK, Batch, Feed, batch_size, batches, rates, watched, without_noise
from widthwise.memory import require
from widthwise.precision import computing_in

if TYPE_CHECKING:
    from dmft.march import March

FIRST_ROOM = 64
"""For functions, to begin with."""

SPARE = 1 << 16
"""Coordinates from which on noise belongs to what is only looked at."""

FINE = 10.0
"""tol times paths times sqrt(replicas), by default: the bias is then a fifth of the error bar (docs/any_network.md)."""

COARSE = 3e-2
"""To which the tolerance rises where it is ours to choose and paths are short of directions."""

FLOOR = 1e-20
"""Mean square, in units of that of targets over gamma0, below which a gradient is rounding."""


@partial(jax.jit, static_argnames=("form", "rule"))
def march(
    form: Form,
    rule: Rule,
    numbers: Numbers,
    states: State,
    t: Int[Array, "R"],
    x: Array,
    y: Array,
    eta: Float[Array, "chunk"],
    first: Int[Any, ""],
    stop: Int[Any, ""],
) -> tuple[State, Int[Array, "R"], Float[Array, "R chunk"], dict[str, Float[Array, "R 2"]]]:
    """Every replica from its step t on to before `stop`, or to the first step that finds no room.

    Returns:
        states, steps, losses at the steps from `first` on, and what had no room, by matrix.
    """
    names = [name for name, W in states.weights.items() if is_matrix(W)]

    def replica(operands: tuple) -> tuple:
        state, t = operands

        def wanting(carry: tuple) -> Array:
            _, t, _, missed = carry
            return (t < stop) & (sum(jnp.sum(m) for m in missed.values()) == 0)

        def advance(carry: tuple) -> tuple:
            state, t, losses, _ = carry
            i = t - first
            new, loss, missed = step(form, rule, numbers, state, x[i], y[i], eta[i])
            taken = sum((jnp.sum(m) for m in missed.values()), jnp.zeros(())) == 0
            state = jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, state)
            return state, t + taken, losses.at[i].set(jnp.where(taken, loss, losses[i])), missed

        missed = {name: jnp.zeros(2) for name in names}
        return jax.lax.while_loop(wanting, advance, (state, t, jnp.zeros(CHUNK), missed))

    return jax.lax.map(replica, (states, t))


@partial(jax.jit, static_argnames=("form", "rule", "what"))
def look_at(form: Form, rule: Rule, what: Look, states: State, spare: Any, x: Array, y: Array) -> tuple[Any, Array]:
    """`look` of every replica."""
    return jax.lax.map(lambda both: look(form, rule, what, both[0], both[1], x, y), (states, spare))


@jax.jit
def _roomier(states: State, more: dict[str, tuple[Array, Array]]) -> State:
    """States with room for more functions in the matrices named in `more`."""

    def one(state: State, more: dict[str, tuple[Array, Array]]) -> State:
        def grown(name: str, W: Any) -> Any:
            if name not in more:
                return W
            new = roomier(W, *more[name])
            return new._replace(size=W.size)

        weights = {name: grown(name, W) for name, W in state.weights.items()}
        velocity = state.velocity
        if velocity is not None:
            velocity = dict(velocity)
            for name, (u, r) in more.items():
                Wb, Wa, alpha = velocity[name]
                pads = (jnp.pad(v, ((0, 0), (0, e.shape[1]))) + _tail(alpha, e, v) for v, e in ((Wb, u), (Wa, r)))
                velocity[name] = (*pads, alpha)
        return State(weights, velocity, state.start)

    return jax.vmap(one)(states, more)


def _tail(alpha: Array, e: Array, v: Array) -> Array:
    """alpha e in the new columns: what the velocity of an image owes to the decay of the initial weights."""
    return jnp.concatenate([jnp.zeros((len(e), v.shape[1])), alpha * e], axis=1)


SAVES = ("kernels", "gradient_kernels", "attention", "update_size")
"""What `save` may name."""


def obstacle(problem: Problem) -> str | None:
    """Why the process does not apply to the problem; None if it does."""
    if problem.training.optimizer is not None:
        return "the limit is known of gradient descent, whose updates are linear in the gradient: leave out the optimizer."
    if problem.parameterization.limit != "feature_learning":
        return f"kind={problem.parameterization.kind!r} has a lazy limit, known of an MLP on a Task: use kind='mean_field'."
    if problem.parameterization.gamma0 < LEAST_GAMMA0:
        return f"March needs gamma0 of at least {LEAST_GAMMA0:g}: f is an average over gamma0."
    return None


class Run:
    """One solve: what stays the same along it, the replicas, and the record."""

    def __init__(
        self,
        method: March,
        problem: Problem,
        *,
        seed: int,
        steps: Int[np.ndarray, "states"],
        kernel_steps: Int[np.ndarray, "kept"],
        save: tuple[str, ...],
        num_probes: int | None,
    ):
        self.method, self.problem, self.seed, self.save = method, problem, seed, save
        self.steps, self.kernel_steps = steps, kernel_steps
        self.form, training = Form.of(problem), problem.training
        self.rule = Rule(
            training.loss,
            training.momentum > 0,
            training.nesterov,
            training.weight_decay > 0,
            problem.parameterization.centered,
        )
        self.numbers = Numbers(np.float64(training.momentum), np.float64(training.weight_decay))
        self.x, self.y = watched(problem, num_probes)
        S, R = method.num_paths, method.num_replicas
        self.widest = 3 * S // 4
        self.hidden = {name: w for name, w in self.form.plan.weights.items() if w.kind == "hidden"}
        one_site = len(problem.input_shape) == 1 and not problem.whole
        few = min(first_room(batch_size(problem.task, training)), FIRST_ROOM) if one_site else FIRST_ROOM
        self.ranks: dict[str, Rank] = {name: (min(few, self.widest),) * 2 for name in self.hidden}
        self.spares: dict[str, Rank] = {name: (min(few, self.widest) // 2,) * 2 for name in self.hidden}
        self.require()
        self.sources = [Source(self.form, S, (seed, r)) for r in range(R)]
        floor = FLOOR * self.form.gradient_size**2
        tol = method.tol or min(FINE / (S * R**0.5), COARSE)
        coarse = COARSE if method.tol is None else tol
        policy = Policy(*(np.float64(v) for v in (tol, coarse, S / IMAGES, floor)))
        weights = [source.start(self.ranks, {name: policy for name in self.hidden}) for source in self.sources]
        self.groups = self.grouped(weights, lambda w: self.state_of(w))
        self.drawn: list[dict[str, tuple[range, range]]] = []
        self.spare = self.more(self.ranges(SPARE, self.spares))
        self.t = [np.zeros(len(group), np.int64) for group in self.of_groups]
        self.losses = np.full((R, training.num_steps + 1), np.nan)
        self.record: dict[str, list[np.ndarray]] = {}
        self.at = 0  # steps[: at] are recorded

    # --- replicas -------------------------------------------------------------------------------------------------------------

    @property
    def of_groups(self) -> list[list[int]]:
        """Replicas of every group."""
        R, devices = self.method.num_replicas, len(jax.local_devices())
        cores = os.cpu_count() or 1 if jax.default_backend() == "cpu" else 1
        n = max(k for k in range(1, min(max(devices, cores), R) + 1) if R % k == 0)
        return [list(range(i * R // n, (i + 1) * R // n)) for i in range(n)]

    def grouped(self, each: list[Any], of: Callable[[Any], Any] = lambda x: x) -> list[Any]:
        """What belongs to every replica, stacked in the groups."""
        devices, groups = jax.local_devices(), []
        for i, group in enumerate(self.of_groups):
            stacked = jax.tree.map(lambda *x: np.stack(x), *(of(each[r]) for r in group))
            groups.append(jax.device_put(stacked, devices[i % len(devices)]) if len(devices) > 1 else stacked)
        return groups

    def state_of(self, weights: Any) -> State:
        """A replica at its start."""
        velocity = None
        if self.rule.momentum:
            velocity = {name: jax.tree.map(np.zeros_like, moving(W)) for name, W in weights.items()}
        keeps = "update_size" in self.save or subtracts(self.form, self.rule)
        start = {name: W for name, W in weights.items() if not is_matrix(W)} if keeps else None
        return State(weights, velocity, start)

    def at_once(self, work: Callable[[int], Any]) -> list[Any]:
        """What `work` makes of every group."""
        groups = range(len(self.groups))
        if len(groups) == 1:
            return [work(0)]

        def alone(i: int) -> Any:
            with computing_in("float64"):
                return jax.block_until_ready(work(i))

        with ThreadPoolExecutor(len(groups)) as pool:
            return [*pool.map(alone, groups)]

    # --- room -----------------------------------------------------------------------------------------------------------------

    def ranges(self, first: int, ranks: dict[str, Rank]) -> dict[str, tuple[range, range]]:
        return {name: (range(first, first + K), range(first, first + J)) for name, (K, J) in ranks.items()}

    def more(self, wanted: dict[str, tuple[range, range]]) -> list[Any]:
        """Noise of further functions, in the groups."""
        self.drawn.append(wanted)
        return self.grouped([source.more(wanted) for source in self.sources])

    def make_room(self, missed: list[dict[str, Array]]) -> None:
        """More room where a function found none; and where there will soon be none, so that little compiles."""
        wanted, sizes = {}, self.sizes()
        for name, old in self.ranks.items():
            lacks = np.any([np.asarray(group[name]) > 0 for group in missed], axis=(0, 1))
            if any(lack and n == self.widest for n, lack in zip(old, lacks, strict=True)):
                self.too_few_paths()
            full = (n if lack else size for n, lack, size in zip(old, lacks, sizes[name], strict=True))
            new = tuple(max(n, min(room_for(1.75 * f), self.widest)) for n, f in zip(old, full, strict=True))
            if new != old:
                wanted[name] = (range(old[0], new[0]), range(old[1], new[1]))
                self.ranks[name] = new  # type: ignore[assignment]
        self.require()
        more = self.more(wanted)
        self.groups = [_roomier(group, new) for group, new in zip(self.groups, more, strict=True)]

    def sizes(self) -> dict[str, np.ndarray]:
        """Functions of every hidden weight, forward and back: the most of all replicas."""
        return {
            name: np.max([np.asarray(group.weights[name].size).max(0) for group in self.groups], axis=0) for name in self.hidden
        }

    def too_few_paths(self) -> NoReturn:
        S = self.method.num_paths
        raise TooFewPaths(
            f"the network's matrices meet more than {self.widest} directions, which is what {S} paths can tell apart. Raise "
            f"num_paths to {2 * S} or more, or raise tol.",
            lambda: 0.0,
        )

    def require(self) -> None:
        """MemoryError if the replicas do not fit."""
        S, R, form = self.method.num_paths, self.method.num_replicas, self.form
        floats = 0
        for name, w in self.hidden.items():
            (K, J), (k, j) = self.ranks[name], self.spares[name]
            ins, outs = w.count * form.parts(w.frm or ""), form.parts(w.to or "")
            floats += S * ((ins + 2 * outs) * (K + k) + (outs + 2 * ins) * (J + j))
        samples = max(batch_size(self.problem.task, self.problem.training), len(self.x))
        shapes = jax.eval_shape(self._fields_of_one)
        fields = samples * sum(np.prod(x.shape) for x in jax.tree.leaves(shapes))
        require(
            8 * (3 * R * floats + 6 * len(self.of_groups) * fields),
            f"dmft.solve with {R} x {S} paths and ranks up to {max((max(r) for r in self.ranks.values()), default=0)}",
            "Lower March(num_paths=, num_replicas=), the batch_size or num_probes, or raise tol.",
        )

    def _fields_of_one(self) -> Any:
        """Shapes of the fields of one sample."""
        S, form = self.method.num_paths, self.form
        weights: dict[str, Any] = {}
        for name, w in form.plan.weights.items():
            to, frm = (form.parts(p) * S if p else form.num_outputs for p in (w.to, w.frm))
            if w.kind == "hidden":
                policy = Policy(*(jnp.ones(()),) * 4)
                weights[name] = Matrix.fresh(jnp.ones((to, 1)), jnp.ones((frm * w.count, 1)), policy)
            elif w.kind == "vectors":
                weights[name] = jnp.ones(to if w.inputs is None else (w.inputs, to))
            else:
                weights[name] = jnp.ones(
                    {"input": (to, w.count), "readout": (frm, form.num_outputs)}.get(w.kind, (form.num_outputs,))
                )
        net = Paths(form, weights)
        form.architecture.forward(net, jnp.zeros((1, *self.x.shape[1:]), self.x.dtype))
        return net.fields

    # --- along ----------------------------------------------------------------------------------------------------------------

    def solve(self, progress: bool, file: Path | None = None) -> Solution:
        began, T = time.perf_counter(), self.problem.training.num_steps
        if file is not None:
            self.resume(file)
        feed, written = Feed(batches(self.problem.task, self.problem.training, self.now)), began
        title, silent = f"dmft.solve {type(self.form.architecture).__name__}", None if progress else True
        with tqdm(total=T, initial=self.now, desc=title, disable=silent, leave=False) as bar:
            while self.at < len(self.steps):
                t, n = self.now, int(min(CHUNK, self.steps[self.at] - self.now))
                if n == 0:
                    self.look(t)
                    if not np.isfinite(self.record["f"][-1]).all():
                        break
                    continue
                self.advance(feed.take(n), t, n)
                bar.update(n)
                if not bar.disable:
                    loss = self.losses[:, t + n - 1]
                    bar.set_postfix_str(f"loss={loss.mean():.3g} +- {loss.std(ddof=1) / len(loss) ** 0.5:.1g}")
                if file is not None and time.perf_counter() - written > checkpoint.SECONDS:
                    checkpoint.keep(file, self.whose(), self.everything())
                    written = time.perf_counter()
        if self.now == T:
            self.advance(feed.take(1), T, 1)  # for the loss of the last batch: the rate is zero after the last step
        if file is not None:
            checkpoint.remove(file)
        return self.solution(time.perf_counter() - began)

    @property
    def now(self) -> int:
        """The step that all replicas have reached."""
        return int(self.t[0][0])

    def whose(self) -> dict[str, Any]:
        """What must be the same for bits to be the same."""
        return {
            "problem": self.problem.fingerprint(),
            "method": repr(self.method),
            "run": [self.seed, len(self.x), len(self.groups)],
            "steps": self.steps.tolist(),
            "kernel_steps": self.kernel_steps.tolist(),
            "save": [*self.save],
            "jax": jax.__version__,
        }

    def everything(self) -> dict[str, Any]:
        """All that changes along a run."""
        record = {f"record.{name}": values for name, values in self.record.items()}
        drawn = json.dumps([{name: [[u.start, u.stop], [r.start, r.stop]] for name, (u, r) in x.items()} for x in self.drawn])
        clock = [np.int64(self.now), np.int64(self.at), self.losses, np.array(drawn)]
        return {"groups": self.groups, "spare": self.spare, "clock": clock} | record

    def resume(self, file: Path) -> None:
        """Go on from a checkpoint, if there is one; noise that was drawn is drawn again, so that more of it is what it was."""
        leaves = checkpoint.read(file, self.whose())
        if leaves is None:
            return
        now, at, self.losses, drawn = leaves.pop("clock")
        self.at, self.t = int(at), [np.full_like(t, int(now)) for t in self.t]
        for wanted in json.loads(str(drawn))[len(self.drawn) :]:
            self.more({name: (range(*u), range(*r)) for name, (u, r) in wanted.items()})
        self.groups = checkpoint.like(self.groups, leaves.pop("groups"))
        self.spare = checkpoint.like(self.spare, leaves.pop("spare"))
        for name, r in self.ranks.items():
            W = self.groups[0].weights[name]
            self.ranks[name] = (W.b.shape[-1], W.a.shape[-1])
            u, r = self.spare[0][name]
            self.spares[name] = (u.shape[-1], r.shape[-1])
        self.record = {name.removeprefix("record."): values for name, values in leaves.items()}

    def advance(self, chunk: Batch, first: int, n: int) -> None:
        """All replicas n steps on."""
        x, y = chunk
        stop, settings = first + n, (x, y, rates(self.problem.training, first), np.int64(first), np.int64(first + n))

        def on(i: int) -> Any:
            return march(self.form, self.rule, self.numbers, self.groups[i], self.t[i], *settings)

        while True:
            out = self.at_once(on)
            missed = []
            for i, (state, t, losses, lacking) in enumerate(out):
                self.groups[i] = state
                for j, r in enumerate(self.of_groups[i]):
                    a, b = int(self.t[i][j]), int(t[j])
                    self.losses[r, a:b] = np.asarray(losses)[j, a - first : b - first]
                self.t[i] = np.asarray(t)
                missed.append(lacking)
            if all((t == stop).all() for t in self.t):
                return
            self.make_room(missed)

    def look(self, t: int) -> None:
        """Record this step."""
        what = Look(*(name in self.save for name in SAVES))  # the same at every step, so that one program serves them all
        for name, value in self.seen(what, self.x, self.y).items():
            if t in self.kernel_steps or name in ("f", "test_loss", "accuracy"):
                self.record.setdefault(name, []).append(value)
        if self.problem.training.label_noise:
            self.record.setdefault("loss", []).append(self.seen(Look(), *without_noise(self.problem, t))["test_loss"])
        self.at += 1

    def seen(self, what: Look, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        """What there is to see of all replicas; room for what is looked at is made as it needs."""
        while True:
            out = self.at_once(lambda i: look_at(self.form, self.rule, what, self.groups[i], self.spare[i], x, y))
            missed = max(float(np.max(m)) for _, m in out)
            most = max((max(r) for r in self.spares.values()), default=0)
            if missed == 0 or most >= self.widest:
                return {name: np.concatenate([np.asarray(part[name]) for part, _ in out]) for name in out[0][0]}
            old = dict(self.spares)
            self.spares = {name: tuple(min(room_for(2 * n), self.widest) for n in r) for name, r in old.items()}  # type: ignore[misc]
            self.require()
            wanted = {
                name: tuple(range(SPARE + a, SPARE + b) for a, b in zip(old[name], new, strict=True))
                for name, new in self.spares.items()
            }
            more = self.more(wanted)  # type: ignore[arg-type]
            self.spare = [
                jax.tree.map(lambda a, b: np.concatenate([a, b], axis=-1), known, new)
                for known, new in zip(self.spare, more, strict=True)
            ]

    def solution(self, seconds: float) -> Solution:
        steps = self.steps[: len(self.record["f"])]
        arrays = {name: np.stack(values, axis=1) for name, values in self.record.items()}
        if arrays["f"].shape[-1] == 1:
            arrays["f"] = arrays["f"][..., 0]
        if "loss" not in arrays:  # that which steps have seen has no noise in it
            arrays["loss"] = self.losses[:, steps]
        samples = Trajectory.of(steps, self.kernel_steps[self.kernel_steps <= steps[-1]], arrays)
        stats: dict[str, Any] = {"paths": self.method.num_paths, "replicas": self.method.num_replicas, "seconds": seconds}
        for i, name in enumerate(("forward", "backward")):
            stats[f"rank {name}"] = ", ".join(f"{w} {int(r[i])}" for w, r in self.sizes().items())
        f = samples.f.reshape(*samples.f.shape[:2], -1, 1)
        of_values = self.rule.loss.name == "mse" and not np.issubdtype(self.y.dtype, np.integer)
        r = scatter(f, self.y.reshape(-1, 1) if of_values else None)
        rank, S = max((int(max(n)) for n in self.sizes().values()), default=0), self.method.num_paths
        full = (
            f"; matrices have met {rank} directions, many for {S} paths: num_paths lowers what that costs"
            if 3 * rank > S
            else ""
        )
        return solution_of(self.problem, samples, stats, r, full)
