"""Training of real networks: all seeds of one width together on one pass over the batches, recorded at chosen steps.

At each recorded step t the parameters are those before update t, and so is all that is measured: f, loss and accuracy at the
probes, the loss of batch t. Chunks of seeds take turns, so that a few networks stay in the cache of a CPU or many fill a GPU,
and the data are read once.
"""

from __future__ import annotations

import math
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Key
from tqdm import tqdm

from finite import ensemble, observe, rounding
from finite.ensemble import Program, State
from finite.keys import key_of
from finite.log import Log
from widthwise import Estimate, Problem, Result, Status, Trajectory, checkpoint
from widthwise.checked import checked
from widthwise.feed import CHUNK, Batch, Feed, batch_size, batches, rates, watched, without_noise
from widthwise.memory import require
from widthwise.outputs import RECORDED
from widthwise.precision import working
from widthwise.result import provenance
from widthwise.sharding import agreed, devices_as, host, put

CHUNK_BYTES = {"cpu": 16 * 2**20, "gpu": 2**30}
"""Weights and fields of the networks that train at a time."""

RECORD = "record."
"""Before the names of what was recorded, in a checkpoint."""


class Run:
    """One ensemble on its way: what stays the same along it, its networks in groups, and the record."""

    def __init__(
        self,
        problem: Problem,
        *,
        width: int,
        num_seeds: int,
        seed: int,
        steps: Int[np.ndarray, "states"],
        kernel_steps: Int[np.ndarray, "kept"],
        save: tuple[str, ...],
        num_probes: int | None,
        memory: float | None,
        dtype: str,
        accumulate: int,
    ):
        self.began, self.problem, self.width, self.num_seeds = time.perf_counter(), problem, width, num_seeds
        self.steps, self.kernel_steps, self.save = steps, kernel_steps, save
        form, training = problem.parameterization, problem.training
        self.exact = ensemble.program_of(form, training)
        self.program = self.exact._replace(compute=dtype, accumulate=accumulate)
        self.numbers = ensemble.Training.of(training)
        self.x, self.y = watched(problem, num_probes)
        rounding.check_strength(problem, width, dtype, self.y)
        shapes, batch = ensemble.shapes_of(problem), batch_size(problem.task, training)
        self.mesh, sharing = _mesh(num_seeds)
        places = self.mesh and NamedSharding(self.mesh, PartitionSpec("seeds"))

        def start(keys: Array, sharding: Any = None) -> State:
            return ensemble.start(problem.architecture, form, training, keys, width=width, sharding=sharding, **shapes)

        self.parameters, per_seed = sizes(start, self.program, self.x, batch)
        self.looks = observe.Looks.of(self.exact, problem, save, width, len(self.x))
        seen_by_looks, to_look = observe.needs(self.looks, _one(start), self.x, self.y) if save else (0, 0)
        recorded = len(steps) * (self.y.size * (shapes["num_outputs"] if self.y.ndim == 1 else 1) + 3)
        recorded += len(kernel_steps) * seen_by_looks
        itemsize = working().itemsize
        most = num_seeds * itemsize * (6 * self.parameters + 4 * recorded) + max(per_seed, to_look)
        cure = "Lower num_seeds, width, batch_size or num_probes, or save less."
        require(most, f"training {num_seeds} networks of width {width}", cure, memory)
        if batch % (accumulate * sharing):
            raise ValueError(
                f"batches of {batch} cannot be cut into {accumulate} (accumulate) times {sharing} (devices to each network) "
                "equal parts: make batch_size a multiple, or change accumulate."
            )
        turns = self.mesh.shape["seeds"] if self.mesh else 1
        self.each = turns * at_a_time(-(-num_seeds // turns), per_seed)
        key = key_of(seed, width)
        self.states: list[State] = []
        for first in range(0, num_seeds, self.each):  # the last group is filled up, unrecorded
            group = put(self.mesh, np.arange(first, first + self.each, dtype=np.uint32), "seeds")
            keys = jax.vmap(partial(jax.random.fold_in, key))(group)
            self.states.append(start(keys, places))
        self.features = float(host(_output_size(self.states[0].network, self.x))) / form.output_size(width)
        grid = np.searchsorted(steps, np.geomspace(1, max(training.num_steps, 1), RECORDED).round())
        self.marks = {int(t) for t in steps[np.unique([0, *grid])] if t < training.num_steps}
        self.moved: dict[int, float] = {}  # at the marks: d of `rounding`
        self.record: dict[str, list[np.ndarray]] = {}
        self.t = self.at = 0  # steps[: at] are recorded
        self.whose = {
            "problem": problem.fingerprint(),
            "run": [width, num_seeds, seed, len(self.x), self.each, dtype, accumulate],
            "steps": steps.tolist(),
            "kernel_steps": kernel_steps.tolist(),
            "save": list(save),
            "jax": jax.__version__,
        }

    def solve(self, file: Path | None, log: Path | None, progress: bool) -> tuple[Trajectory, dict[str, Any]]:
        """Train; the Trajectory of all seeds, and numbers about the run."""
        T, first = self.problem.training.num_steps, jax.process_index() == 0
        lines = Log(log, self.whose) if log is not None and first else None
        if file is not None:
            self.resume(file)
            if lines is not None:
                lines.forget(int(self.steps[self.at]) if self.at < len(self.steps) else T + 1)
        as_json = self.problem.to_json() if file is not None else None
        feed, written = Feed(batches(self.problem.task, self.problem.training, self.t)), time.perf_counter()
        title, silent = f"width {self.width}", None if progress else True
        with tqdm(total=T, initial=self.t, desc=title, unit="step", disable=silent, leave=False) as bar:
            while True:
                if self.at < len(self.steps) and self.t == self.steps[self.at]:
                    seen = self.look(feed.next())
                    if not bar.disable:
                        bar.set_postfix_str(f"loss={seen['test_loss'].mean():.4g}")
                    if lines is not None:
                        lines.write(self.t, self.width, seen, time.perf_counter() - self.began)
                if self.t == T:
                    break
                n = int(min(CHUNK, self.steps[self.at] - self.t))
                t, before = self.t, self.weights_of_first() if self.t in self.marks else []
                self.advance(feed.take(n), n)
                if before:
                    self.moved[t] = max(map(_relative, self.weights_of_first(), before)) / n
                bar.update(n)
                if file is not None and agreed(time.perf_counter() - written > checkpoint.SECONDS):
                    about = {"problem": as_json, "stats": self.stats()}
                    checkpoint.keep(file, self.whose | {"about": about}, self.everything())
                    written = time.perf_counter()
        if file is not None:
            checkpoint.remove(file)
        return self.trajectory(), self.stats()

    def advance(self, chunk: Batch, n: int) -> None:
        """All networks n steps on, a group at a time."""
        x, y = (put(self.mesh, a, None, "batch") if self.mesh else a for a in chunk)
        eta = put(self.mesh, np.broadcast_to(rates(self.problem.training, self.t), (self.each, CHUNK)), "seeds")
        self.states = ensemble.advance_all(self.program, self.numbers, self.states, x, y, eta, n)
        self.t += n

    def look(self, batch: Batch) -> dict[str, np.ndarray]:
        """Record this step; the loss is that of its batch without label noise."""
        if self.problem.training.label_noise:
            batch = without_noise(self.problem, self.t)
        measure = partial(observe.measure, self.exact, x=self.x, y=self.y, batch=batch)
        seen = self.of_all(ensemble.at_once(measure, self.states))
        if self.t in self.kernel_steps and self.save:
            seen |= self.of_all([observe.look(self.looks, state, self.x, self.y) for state in self.states])
        for name, value in seen.items():
            self.record.setdefault(name, []).append(value)
        self.at += 1
        return seen

    def of_all(self, seen: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        """What was seen of every group, one network after the other."""
        parts = jax.tree.map(host, seen)
        return {name: np.concatenate([part[name] for part in parts])[: self.num_seeds] for name in parts[0]}

    def weights_of_first(self) -> list[np.ndarray]:
        """Those of the first network."""
        return [host(leaf) for leaf in jax.tree.leaves(_first(self.states[0].network))]

    def steps_of_weights(self) -> dict[str, Any]:
        """What `rounding.status_of` asks."""
        times = sorted(self.moved)
        form = self.problem.parameterization
        y = rounding.target_size(self.y) + (0.0 if form.centered else self.features * form.output_size(self.width))
        steps = np.diff([*times, self.problem.training.num_steps]).astype(float)
        size = self.features / form.feature_learning_strength(self.width)
        return {"size": size, "y": y, "moved": np.array([self.moved[t] for t in times]), "steps": steps}

    def everything(self) -> dict[str, Any]:
        """All that changes along a run."""
        record = {RECORD + name: values for name, values in self.record.items()}
        moved = {"moved": [np.array([*self.moved], np.int64), np.array([*self.moved.values()])]}
        return {"states": jax.tree.map(host, self.states), "clock": [np.int64(self.t), np.int64(self.at)]} | record | moved

    def resume(self, file: Path) -> None:
        """Go on from a checkpoint, if there is one."""
        leaves = checkpoint.read(file, self.whose)
        if leaves is None:
            return
        states = checkpoint.like(self.states, leaves.pop("states"))
        self.states = jax.tree.map(lambda x: put(self.mesh, x, "seeds"), states)
        self.t, self.at = (int(n) for n in leaves.pop("clock"))
        self.moved = dict(zip(*(x.tolist() for x in leaves.pop("moved", [np.zeros(0, int), np.zeros(0)])), strict=True))
        self.record = _record(leaves)

    def trajectory(self) -> Trajectory:
        return _trajectory(self.steps, self.kernel_steps, self.record)

    def stats(self) -> dict[str, Any]:
        seconds = time.perf_counter() - self.began
        return {
            "width": self.width,
            "parameters": self.parameters,
            "probes": len(self.x),
            "seconds": seconds,
            "seconds_per_step": seconds / max(self.problem.training.num_steps, 1),
            "seeds_per_chunk": self.each,
        }


@jax.jit
def _first(network: Any) -> Any:
    """The first network of a group."""
    return jax.tree.map(lambda leaf: leaf[0], network)


@jax.jit
def _output_size(network: Any, x: Array) -> Array:
    """Root mean square of f of the first network of a group, not centred."""
    return jnp.sqrt(jnp.mean(ensemble.outputs(_first(network), x)[0] ** 2))


def _relative(now: np.ndarray, before: np.ndarray) -> float:
    """Root mean square of a difference, in units of that of what was before; 0 of nothing."""
    with np.errstate(over="ignore", invalid="ignore"):  # of networks that diverged
        return float(np.linalg.norm(now.astype(np.float64) - before) / (np.linalg.norm(before) or np.inf))


def _mesh(num_seeds: int) -> tuple[Mesh | None, int]:
    """All devices as (seeds, batch), as many as can to the seeds; and how many share the batches of a network."""
    count = len(jax.devices())
    groups = max(n for n in range(1, count + 1) if count % n == 0 and n <= num_seeds)
    return devices_as(("seeds", "batch"), groups), count // groups


def status_of(samples: Trajectory, problem: Problem) -> Status:
    """ok unless a network diverged."""
    return Status.of_samples(problem, samples, f"trained {{}} networks, {problem.training.num_steps} steps", "networks")


def _one(start: Any) -> State:
    """Shapes of an ensemble of one."""
    return jax.eval_shape(start, jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1)))


def at_a_time(num_networks: int, bytes_of_one: int) -> int:
    """How many networks train at a time."""
    return ensemble.group_size(num_networks, CHUNK_BYTES["cpu" if jax.default_backend() == "cpu" else "gpu"] // bytes_of_one)


def drawn(problem: Problem, width: int, num_networks: int, points: np.ndarray | None = None) -> tuple[Any, int]:
    """A function of keys that draws networks of this width, and how many of `num_networks` train at a time.

    Args:
        points: which they are to look at, if not batches.

    Raises:
        MemoryError: so many do not fit; nothing is drawn yet.
    """
    training, form, shapes = problem.training, problem.parameterization, ensemble.shapes_of(problem)

    def start(keys: Key[Array, "networks"]) -> ensemble.State:
        return ensemble.start(problem.architecture, form, training, keys, width=width, **shapes)

    x, _ = next(batches(problem.task, training))
    _, bytes_of_one = sizes(start, ensemble.program_of(form, training), x if points is None else points, len(x))
    each = at_a_time(num_networks, bytes_of_one)
    require(each * bytes_of_one, f"training {each} networks of width {width}", "Lower the widths or batch_size.")
    return start, each


def sizes(start: Any, program: Program, x: np.ndarray, batch: int) -> tuple[int, int]:
    """Parameters of a network, and bytes that one needs while it trains."""
    state = _one(start)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.network))
    one = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    _, fields = jax.eval_shape(lambda s, x: jax.vmap(lambda s: ensemble.outputs(s, x))(s), state.network, one)
    activations = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(fields))
    return parameters, working().itemsize * (6 * parameters + 4 * batch * activations)


def _record(leaves: dict[str, list[np.ndarray]]) -> dict[str, list[np.ndarray]]:
    """What was recorded, of the leaves of a checkpoint."""
    return {name.removeprefix(RECORD): values for name, values in leaves.items() if name.startswith(RECORD)}


def _trajectory(
    steps: Int[np.ndarray, "states"], kernel_steps: Int[np.ndarray, "kept"], record: dict[str, list[np.ndarray]]
) -> Trajectory:
    arrays = {name: np.stack(values, axis=1) for name, values in record.items()}
    if arrays["f"].shape[-1] == 1:
        arrays["f"] = arrays["f"][..., 0]
    return Trajectory.of(steps, kernel_steps, arrays)


@checked
def partial_result(path: str | os.PathLike[str], **own: Any) -> Result:
    """What a run has recorded so far: the Result of its last checkpoint, for a look while it goes on, or after it was killed.

    Its arrays are those of the Result of the whole run up to the last recorded step before the checkpoint; checkpoints are
    written every minute. `status` says how far the run was.

    Args:
        path: the file given to `finite.train(..., checkpoint=...)`.
        own: activation, loss, stream or optimizer of the user's own, as in `Result.load`; the stream always, as there.

    Raises:
        FileNotFoundError: there is no checkpoint: none was written yet, or the run has ended, which deletes it.
        ValueError: the file is damaged, or of something else; something of the user's own is missing.

    Example:
        >>> partial_result("never_run.ckpt")
        Traceback (most recent call last):
        ...
        FileNotFoundError: no checkpoint never_run.ckpt: the first is written after a minute, and the end of a run deletes it.
    """
    path = Path(path)
    try:
        header, leaves = checkpoint.load(path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no checkpoint {path}: the first is written after a minute, and the end of a run deletes it."
        ) from None
    if "about" not in header:
        raise ValueError(f"checkpoint {path} is not of finite.train: it holds no networks.")
    problem = Problem.from_json(header["about"]["problem"], **own)
    (t, at), (width, num_seeds, seed, *_) = (int(n) for n in leaves["clock"]), header["run"]
    steps, kernel_steps = np.array(header["steps"][:at]), np.array(header["kernel_steps"], int)
    samples = _trajectory(steps, kernel_steps[kernel_steps <= steps[-1]], _record(leaves))
    status = status_of(samples, problem)
    if status.ok:
        status = Status(True, f"step {t} of {problem.training.num_steps}: {num_seeds} networks in training")
    stats, method = header["about"]["stats"], f"finite.train(width={width}, num_seeds={num_seeds}), so far"
    return Result(problem, Estimate.of(samples), status, stats, provenance(problem, method, seed))
