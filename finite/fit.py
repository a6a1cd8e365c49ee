"""Training of real networks: all seeds of one width together on one pass over the batches, recorded at chosen steps.

At each recorded step t the parameters are those before update t, and so is all that is measured: f, loss and accuracy at the
probes, the loss of batch t. Chunks of seeds take turns, so that a few networks stay in the cache of a CPU or many fill a GPU,
and the data are read once.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from tqdm import tqdm

from finite import ensemble
from finite.ensemble import CHUNK, Batch, Feed, Program, State
from widthwise import Problem, Status, Trajectory, check, checkpoint
from widthwise.data import Stream
from widthwise.memory import require

CHUNK_BYTES = {"cpu": 16 * 2**20, "gpu": 2**30}
"""Weights and fields of the networks that train at a time."""

RECORDED = 32
"""Steps that are recorded by default, evenly on a logarithmic scale."""

SAVES = ("update_size", "kernels", "h", "attention")


def recorded_steps(num_steps: int, record: Iterable[int] | None) -> Int[np.ndarray, "states"]:
    """The steps to record: `record`, sorted, or RECORDED of them by default; first and last always.

    Raises:
        ValueError: a step outside 0 ... num_steps, or not a whole number.
    """
    given = np.geomspace(1, num_steps, RECORDED).round() if record is None else [*record]
    if not all(isinstance(t, int | np.integer | np.floating) and 0 <= t <= num_steps and t == int(t) for t in given):
        raise ValueError(f"record must be whole numbers in 0 ... {num_steps} (num_steps), got {record!r}.")
    return np.unique([0, *(int(t) for t in given), num_steps])


def fit(
    problem: Problem,
    *,
    width: int,
    num_seeds: int,
    seed: int,
    steps: Int[np.ndarray, "states"],
    kernel_steps: Int[np.ndarray, "kept"],
    save: tuple[str, ...],
    num_probes: int,
    memory: float | None,
    file: Path | None,
    log: Path | None,
    progress: bool,
) -> tuple[Trajectory, dict[str, Any]]:
    """Train; the Trajectory of all seeds, and numbers about the run. See `finite.train`."""
    began, training, T = time.perf_counter(), problem.training, problem.training.num_steps
    program, numbers = ensemble.program_of(problem.parameterization, training), ensemble.Training.of(training)
    x, y = _probes(problem, num_probes)
    shapes = ensemble.shapes_of(problem)

    def start(keys: Array) -> State:
        return ensemble.start(problem.architecture, problem.parameterization, training, keys, width=width, **shapes)

    parameters, per_seed = _sizes(start, program, x, training.batch_size or len(x))
    recorded = len(steps) * (y.size * (shapes["num_outputs"] if y.ndim == 1 else 1) + 3)
    most = num_seeds * (24 * parameters + 16 * recorded) + per_seed
    require(most, f"training {num_seeds} networks of width {width}", "Lower num_seeds, width or batch_size.", memory)
    each = ensemble.group_size(num_seeds, CHUNK_BYTES["cpu" if jax.default_backend() == "cpu" else "gpu"] // per_seed)
    groups = [np.arange(i, i + each) for i in range(0, num_seeds, each)]  # the last is filled up, unrecorded
    key = jax.random.key(seed, impl="threefry2x32")
    states: list[State] = [start(jax.vmap(partial(jax.random.fold_in, key))(group)) for group in groups]
    record: dict[str, list[np.ndarray]] = {}
    at = 0  # steps[: at] are recorded
    t = 0
    whose = {
        "problem": problem.fingerprint(),
        "run": [width, num_seeds, seed, num_probes, each],
        "steps": steps.tolist(),
        "kernel_steps": kernel_steps.tolist(),
        "save": list(save),
        "jax": jax.__version__,
    }
    if file is not None and (leaves := checkpoint.read(file, whose)) is not None:
        states = jax.tree.map(jnp.asarray, checkpoint.like(states, leaves.pop("states")))
        t, at = (int(n) for n in leaves.pop("clock"))
        record = {name.removeprefix("record."): values for name, values in leaves.items()}
    feed = Feed(ensemble.batches(problem.task, training, t))
    written = time.perf_counter()
    with tqdm(total=T, initial=t, desc=f"width {width}", unit="step", disable=None if progress else True, leave=False) as bar:
        while True:
            if at < len(steps) and t == steps[at]:
                seen = _all(groups, states, num_seeds, partial(_measure, program, x=x, y=y, batch=feed.next()))
                if t in kernel_steps and save:
                    seen |= _all(groups, states, num_seeds, partial(_look, program, save, x=x))
                for name, value in seen.items():
                    record.setdefault(name, []).append(value)
                at += 1
                if not bar.disable:
                    loss = seen["test_loss"]
                    bar.set_postfix_str(f"loss={loss.mean():.4g}")
                if log is not None:
                    _write_line(log, t, width, seen, time.perf_counter() - began)
            if t == T:
                break
            n = int(min(CHUNK, steps[at] - t))
            xs, ys = feed.take(n)
            eta = np.broadcast_to(ensemble.rates(training, t), (each, CHUNK))
            states = ensemble.advance_all(program, numbers, states, xs, ys, eta, n)
            t += n
            bar.update(n)
            if file is not None and time.perf_counter() - written > checkpoint.SECONDS:
                everything = {f"record.{name}": values for name, values in record.items()}
                checkpoint.write(file, whose, {"states": states, "clock": [np.int64(t), np.int64(at)]} | everything)
                written = time.perf_counter()
    seconds = time.perf_counter() - began
    if file is not None:
        file.unlink(missing_ok=True)
    arrays = {name: np.stack(values, axis=1) for name, values in record.items()}
    if arrays["f"].shape[-1] == 1:
        arrays["f"] = arrays["f"][..., 0]
    stats = {
        "width": width,
        "parameters": parameters,
        "probes": len(x),
        "seconds": seconds,
        "seconds_per_step": seconds / max(T, 1),
        "seeds_per_chunk": each,
    }
    return Trajectory.of(steps, kernel_steps, arrays), stats


def status_of(samples: Trajectory, problem: Problem) -> Status:
    """ok unless a network diverged; one that did leaves the others as they are."""
    finite = np.isfinite(samples.f.reshape(*samples.f.shape[:2], -1)).all(-1) & np.isfinite(samples.loss)
    if finite.all():
        return Status(True, f"trained {len(finite)} networks, {problem.training.num_steps} steps")
    bad, step = ~finite.all(1), int(samples.steps[(~finite).any(0).argmax()])
    eta0 = problem.training.eta0
    return Status(
        False,
        f"training of {bad.sum()} of {len(bad)} networks diverged, by step {step}: lower eta0 from {eta0:g} to {eta0 / 2:g}.",
        step,
        eta0 / 2,
    )


def _probes(problem: Problem, num_probes: int) -> Batch:
    task = problem.task
    if isinstance(task, Stream):
        return task.probe(num_probes)
    y = task.y if task.y_test is None else np.concatenate([task.y, task.y_test])
    return task.X_all[: len(y)].astype(np.float32), y.reshape(len(y), -1).astype(np.float32)


def _sizes(start: Any, program: Program, x: np.ndarray, batch: int) -> tuple[int, int]:
    """Parameters of a network, and bytes that one needs while it trains."""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    state = jax.eval_shape(start, keys)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.network))
    one = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    _, fields = jax.eval_shape(lambda s, x: jax.vmap(lambda s: ensemble.outputs(s, x))(s), state.network, one)
    activations = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(fields))
    return parameters, 4 * (6 * parameters + 4 * batch * activations)


def _all(groups: list[np.ndarray], states: list[State], num_seeds: int, look: Any) -> dict[str, np.ndarray]:
    """What `look` sees of every network, one after the other."""
    parts = [jax.tree.map(np.asarray, look(state)) for state in states]
    return {name: np.concatenate([part[name] for part in parts])[:num_seeds] for name in parts[0]}


@partial(jax.jit, static_argnames="program")
def _measure(program: Program, state: State, x: Array, y: Array, batch: tuple[Array, Array]) -> dict[str, Array]:
    """f at the probes; of tokens the centred logit of the token that comes. Losses, and accuracy where there are classes."""

    def one(state: State) -> dict[str, Array]:
        f, _ = ensemble.centred(program, state, x)
        flat, target = ensemble.targets(program, f, y)
        seen = {"f": flat, "test_loss": program.loss.of(flat, target).mean()}
        if f.ndim > 2:
            seen["f"] = jnp.sum((flat - flat.mean(-1, keepdims=True)) * target, axis=-1, keepdims=True)
        if jnp.issubdtype(y.dtype, jnp.integer):
            seen["accuracy"] = jnp.mean(jnp.argmax(flat, -1) == y.ravel())
        of_batch, _ = ensemble.centred(program, state, batch[0])
        seen["loss"] = program.loss.of(*ensemble.targets(program, of_batch, batch[1])).mean()
        return seen

    return jax.vmap(one)(state)


@partial(jax.jit, static_argnames=("program", "save"))
def _look(program: Program, save: tuple[str, ...], state: State, x: Array) -> dict[str, Array]:
    """What `save` names of the fields at the probes."""

    def one(state: State) -> dict[str, Array]:
        _, fields = ensemble.outputs(state.network, x)
        hidden = {name: h for name, h in fields.items() if not name.startswith("attention")}
        out: dict[str, Array] = {}
        if "update_size" in save:
            _, first = ensemble.outputs(state.start, x)
            out |= {f"update_size/{name}": jnp.sqrt(jnp.mean((h - first[name]) ** 2)) for name, h in hidden.items()}
        if "kernels" in save:
            flat = {name: h.reshape(len(h), -1) for name, h in hidden.items()}
            out |= {f"kernels/{name}": h @ h.T / h.shape[1] for name, h in flat.items()}
        if "h" in save:
            out |= {f"h/{name}": h for name, h in hidden.items()}
        if "attention" in save:
            out |= {name: h for name, h in fields.items() if name.startswith("attention")}
        return out

    return jax.vmap(one)(state)


def _write_line(log: Path, t: int, width: int, seen: dict[str, np.ndarray], seconds: float) -> None:
    """One line of JSON: step, width, losses of every network."""
    line: dict[str, Any] = {"step": t, "width": width, "seconds": round(seconds, 3)}
    line |= {name: [float(x) for x in seen[name]] for name in ("loss", "test_loss", "accuracy") if name in seen}
    with open(log, "a") as stream:
        stream.write(json.dumps(line) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def check_save(save: Iterable[str], problem: Problem) -> tuple[str, ...]:
    """The names in `save`, each once.

    Raises:
        ValueError: an unknown name; update_size of networks whose start is not kept.
    """
    given = [save] if isinstance(save, str) else [*save]
    for name in given:
        check.choice("save", name, SAVES)
    if "update_size" in given and not problem.parameterization.centered:
        raise ValueError("update_size compares with the start, which is kept where outputs are centred: centered=True.")
    return tuple(name for name in SAVES if name in given)
