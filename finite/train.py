"""Train an ensemble of networks of one width."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt
from tqdm import tqdm

from finite import measure, mlp, rounding
from finite.keys import WIDEST, key_of
from finite.log import run_name
from widthwise import MLP, Activation, Estimate, Loss, Problem, Result, Status, Task, Trajectory, check
from widthwise.checked import checked
from widthwise.memory import available_bytes, require
from widthwise.outputs import recorded_steps
from widthwise.parameterization import LayerScale, Role
from widthwise.precision import computing_in
from widthwise.result import provenance
from widthwise.sharding import devices_as, host, put
from widthwise.storage import held
from widthwise.trajectory import chosen_steps

CHUNK_BYTES = {"cpu": 2 * 2**20, "gpu": 512 * 2**20}
"""Working set of a chunk: a few networks stay in the cache of a CPU; many of them fill a GPU."""


HEAT = zlib.crc32(b"heat")
"""Names the stream of the Langevin noise, as their names do those of the weights."""


class Program(NamedTuple):
    """What a program is compiled for; everything else is an argument of it."""

    act: Activation
    loss: Loss
    width: int
    num_kept: int
    save: tuple[str, ...]
    momentum: bool
    nesterov: bool
    hot: bool
    flow: bool


class Settings(NamedTuple):
    """Numbers of the problem, the same at every state."""

    scales: mlp.Scales
    rates: Float[Any, "layers"]
    centered: Bool[Any, ""]
    momentum: Float[Any, ""]
    weight_decay: Float[Any, ""]
    temperature: Float[Any, ""]


class Data(NamedTuple):
    """Watched points with their train and test targets; if training is online there are no train points among them: None."""

    X: Float[Any, "M D"]
    y: Any  # (P, C)
    y_test: Any  # (Q, C)


class Now(NamedTuple):
    """What belongs to one state (or, with a leading axis, to each): None is nothing, and then nothing is stored.

    t; the place `slot` of the state among the K that are kept, or K; learning rates of the layers; the batch as numbers of
    train points, None for all; its targets with label noise, None for `Data.y`; if training is online its X, and its y without
    noise.
    """

    t: Int[Any, ""]
    slot: Int[Any, ""]
    eta: Float[Any, "layers"]
    batch: Any = None  # (B,)
    target: Any = None  # (B, C)
    X: Any = None  # (B, D)
    y: Any = None  # (B, C)


@checked
def train(
    problem: Problem,
    *,
    width: int,
    num_seeds: int,
    seed: int = 0,
    save_kernels: Iterable[int] | None = None,
    save: str | Iterable[str] = (),
    record: Iterable[int] | None = None,
    num_probes: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    log: str | os.PathLike[str] | None = None,
    dtype: Literal["float32", "float64", "bfloat16"] = "float32",
    accumulate: int = 1,
    memory: float | None = None,
    progress: bool = True,
    throw: bool = True,
) -> Result:
    """Train `num_seeds` networks of one width, exactly as the Problem says.

    An MLP on a Task by gradient descent is what the theory solves, and is recorded at every step with two-time kernels. All
    else (other networks, streams, optimizers) is recorded at the steps `record`, as `docs/networks.md` tells.

    The equations stand in `finite.mlp`, one update in `GradientDescent`. Networks differ in their initial weights (and in their
    Langevin noise, at a temperature) alone: batches and label noise are part of the data. Network i of a seed starts from the
    same normal draws in every parameterization and dtype; on one machine it is the same to the last bit whatever `num_seeds`
    is and however the work is cut into chunks. Networks of two widths are independent.

    The points watched are the train and the test points, at every state, whatever the batch. If training is online they are the
    test points; a batch rides along, and `loss` is that of the batch at each state, before its update and without label noise.
    Gradient flow is integrated from state to state (`finite.mlp.flow`).

    Args:
        problem: network, parameterization, task, training.
        width: N, the number of neurons of every hidden layer.
        num_seeds: number of networks; error bars fall like 1 / sqrt(num_seeds).
        seed: 0 ... 2^32 - 1; another seed gives independent networks.
        save_kernels: steps in 0 ... T at which Phi and G are kept, each with each; by default the first and the last.
        save: names of further observables to keep at those steps, of "NTK", "eigenvalues", "sharpness", "update_size", "h" and
            "z": see `Trajectory.NAMES`. NTK and what follows from it are those of the single network, with its layer rates. h
            and z are of all N neurons, z that of output 0: g^l = phi'(h^l) z^l. Of networks that the theory does not solve:
            those of `docs/networks.md`.
        record: steps to record, of networks that the theory does not solve; by default 32 of them, evenly in log t.
        num_probes: held-out points of a Stream at which those networks are watched; by default 64, or all there are.
        checkpoint: a file to go on from, of those networks: written every minute, read if it is there, gone at the end.
            `finite.partial_result` reads what is recorded in it.
        log: a file that gets a line of JSON per recorded step, of those networks: losses of every seed.
        dtype: "float32" or "float64". The outputs of lazy networks are small differences: their rounding error is about
            25 eps / gamma0 (mean-field; gamma0 / sqrt N for "ntk"), in float32 0.3 % at gamma0 = 1e-3. Networks that the theory
            does not solve know "bfloat16": passes in it; weights, updates and what is recorded in float32.
        accumulate: equal parts in which batches go through those networks, one after the other, for want of memory.
        memory: bytes that the run may take, all seeds' record included; by default what is free.
        progress: show a progress bar, if there is a terminal.
        throw: raise if a network diverged; False returns what there is.

    Returns:
        Result whose trajectory is the Estimate over the networks, with the networks themselves as its samples: f
        (num_seeds, T+1, M) in units of y, or (num_seeds, T+1, M, C) if y has two axes; loss and test_loss (num_seeds, T+1), Phi
        and G (num_seeds, L, K, M, K, M); what `save` names as `samples["NTK"]` (num_seeds, K, M, M) and so on.

    Raises:
        ValueError: width, num_seeds, seed, dtype, memory, save_kernels or save out of range; gamma0 too small for the dtype;
            another run has the checkpoint, or writes the same lines into the log.
        OSError: the folder of the checkpoint or of the log is missing or cannot be written.
        MemoryError: one network, or the record of all, does not fit; before anything runs.
        Unsolved: a network diverged; `.result.status` has the step and a learning rate that should train.

    Example:
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(2, "tanh"), Parameterization(gamma0=1.0),
        ...                   tasks.sphere(4, 2, input_dim=8), GradientDescent(eta0=0.4, num_steps=10))
        >>> result = train(problem, width=32, num_seeds=8)
        >>> result.samples.f.shape, result.mean.Phi.shape
        ((8, 11, 6), (2, 2, 6, 2, 6))
        >>> bool(result.mean.loss[10] < 0.5 * result.mean.loss[0])
        True

        Three classes in mini-batches, with momentum and biases:

        >>> problem = Problem(MLP(2, "relu", bias=0.3), Parameterization(gamma0=1.0), tasks.digits(24, 6, classes=(0, 1, 2)),
        ...                   GradientDescent(0.5, 30, "cross_entropy", batch_size=8, momentum=0.9, weight_decay=1e-3))
        >>> result = train(problem, width=32, num_seeds=8, save=["NTK"])
        >>> result.samples.f.shape, result.samples["NTK"].shape
        ((8, 31, 30, 3), (8, 2, 30, 30))
        >>> bool(result.mean.loss[30] < 0.5 * result.mean.loss[0])
        True
    """
    check.outside_jit("finite.train")
    check.instance("problem", problem, Problem)
    width = check.count("width", width, "It is the number N of neurons in every hidden layer.", most=WIDEST)
    num_seeds = check.count("num_seeds", num_seeds, "Two or more give an error bar.")
    seed = check.seed("seed", seed)
    check.choice("dtype", dtype, ("float32", "float64", "bfloat16"))
    accumulate = check.count("accumulate", accumulate)
    if num_probes is not None:
        num_probes = check.count("num_probes", num_probes, most=check.MANY)
    if memory is not None:
        memory = check.positive("memory", memory, "It is a number of bytes, e.g. 4e9.")
    of_theory = isinstance(problem.architecture, MLP) and isinstance(problem.task, Task) and problem.training.optimizer is None
    if not of_theory:
        settings: dict[str, Any] = {
            "width": width,
            "num_seeds": num_seeds,
            "seed": seed,
            "memory": memory,
            "dtype": dtype,
            "accumulate": accumulate,
        }
        return _fit(problem, settings, save_kernels, save, record, num_probes, checkpoint, log, progress).or_raise(throw)
    if record is not None or checkpoint is not None or log is not None or accumulate > 1:
        raise ValueError(
            "an MLP on a Task is recorded at every step and in one go: leave out record, checkpoint, log and accumulate."
        )
    check.choice("dtype", dtype, ("float32", "float64"))
    rounding.check_strength(problem, width, dtype)
    steps = chosen_steps(problem.training.num_steps, save_kernels)
    names = _check_save(problem, save, len(steps))
    mesh = devices_as(("seeds", "none"), len(jax.devices()))
    chunk = _seeds_per_chunk(problem, width, num_seeds, len(steps), names, np.dtype(dtype).itemsize, memory)
    chunk *= len(jax.devices())

    program = _program(problem, width, len(steps), names)
    start_time = time.perf_counter()
    recorded: dict[str, np.ndarray] = {}
    with computing_in(dtype), jax.default_matmul_precision("highest"):
        arguments = (_settings(problem, width), _data(problem), _sequence(problem, steps))
        arguments = jax.tree.map(lambda x: put(mesh, np.asarray(jnp.asarray(x))), arguments)
        key = key_of(seed, width)
        starts = range(0, num_seeds, chunk)
        for start in tqdm(starts, f"width {width}", unit="chunk", disable=None if progress else True, leave=False):
            numbers = np.arange(start, start + chunk, dtype=np.uint32)  # those beyond num_seeds fill the chunk, unrecorded
            for name, x in _run_chunk(key, put(mesh, numbers, "seeds"), *arguments, program=program).items():
                if x is None:
                    continue
                if name not in recorded:
                    recorded[name] = np.empty((num_seeds, *x.shape[1:]), x.dtype)
                recorded[name][start : start + chunk] = host(x)[: num_seeds - start]
    seconds = time.perf_counter() - start_time

    if problem.task.y.ndim == 1:
        recorded["f"] = recorded["f"][..., 0]
    samples = Trajectory.of(np.arange(problem.training.num_steps + 1), steps, recorded)
    with np.errstate(over="ignore", invalid="ignore"):  # of networks that diverged
        estimate = Estimate.of(samples)
        status = _status(problem, samples, estimate.mean)
        status = rounding.status_of(status, problem, width, dtype, **_steps_of(problem, width, samples.f))
    stats = {
        "width": width,
        "parameters": _num_parameters(problem, width),
        "seconds": seconds,
        "seconds_per_step": seconds / len(samples.steps),
        "chunks": len(starts),
        "seeds_per_chunk": chunk,
    }
    method = f"finite.train(width={width}, num_seeds={num_seeds}, dtype={dtype!r})"
    return Result(problem, estimate, status, stats, provenance(problem, method, seed)).or_raise(throw)


def _fit(
    problem: Problem,
    settings: dict[str, Any],
    save_kernels: Iterable[int] | None,
    save: Iterable[str],
    record: Iterable[int] | None,
    num_probes: int | None,
    checkpoint: str | os.PathLike[str] | None,
    log: str | os.PathLike[str] | None,
    progress: bool,
) -> Result:
    """`train` of networks that the theory does not solve."""
    from finite import fit, observe  # imported where used, as equinox costs a fifth of a second

    kept = chosen_steps(problem.training.num_steps, save_kernels)
    names = observe.check_save(save, problem, len(kept))
    file, lines = (None if path is None else Path(path) for path in (checkpoint, log))
    with computing_in("float64" if settings["dtype"] == "float64" else "float32"):
        run = fit.Run(
            problem,
            **settings,
            steps=np.union1d(recorded_steps(problem.training.num_steps, record), kept if names else []).astype(int),
            kernel_steps=kept,
            save=names,
            num_probes=num_probes,
        )
        with held(file, "checkpoint"), held(lines, "log", of=run_name(run.whose)):
            samples, stats = run.solve(file, lines, progress)
    with np.errstate(over="ignore", invalid="ignore"):  # of networks that diverged
        estimate = Estimate.of(samples)
    method = f"finite.train(width={settings['width']}, num_seeds={settings['num_seeds']})"
    known = provenance(problem, method, settings["seed"])
    status = rounding.status_of(
        fit.status_of(samples, problem), problem, settings["width"], settings["dtype"], **run.steps_of_weights()
    )
    return Result(problem, estimate, status, stats, known)


@partial(jax.jit, static_argnames="program")
def _run_chunk(
    key: Key[Array, ""], numbers: UInt[Array, "S"], settings: Settings, data: Data, sequence: Now, *, program: Program
) -> measure.Observables:
    """`_run` for the networks with these numbers; the one place where networks become a batch."""
    return jax.vmap(lambda number: _run(jax.random.fold_in(key, number), settings, data, sequence, program))(numbers)


def _run(key: Key[Array, ""], settings: Settings, data: Data, sequence: Now, program: Program) -> measure.Observables:
    """Train one network and return what a Trajectory records of it.

    The scan runs over the states 0 ... T. Each is measured first and moved after, so that everything at index t belongs to
    the parameters before update t; state T is measured, its learning rates are zero. If training is online the batch of each
    state stands below the M watched points.
    """
    act, loss, save, scales, (X, y, y_test) = program.act, program.loss, program.save, settings.scales, data
    online = sequence.X is not None
    M, P, C = len(X), 0 if online else len(y), (sequence.y[0] if online else y).shape[1]  # P of the M points are train points
    draw = partial(mlp.init, scales=scales, width=program.width, input_dim=X.shape[1], num_outputs=C, dtype=X.dtype)
    start = draw(key)
    forward = partial(mlp.forward, scales=scales, act=act)

    def descent(weights: mlp.Weights, h: list, phi: list, f: Array, target: Array) -> mlp.Weights:
        return mlp.descent(weights, scales, act, h, phi, loss.minus_gradient(f, target) / len(target))

    def look(state: measure.State, h0: list | None) -> dict[str, Array]:
        targets, points = (y_test, M) if online else (y, P)
        return measure.at_state(save, state, scales, act, loss, settings.rates, targets, points, h0)

    def step(carry: tuple, now: Now) -> tuple[tuple, measure.Observables]:
        weights, velocity, first, kept = carry
        h, phi, f = forward(weights, X=jnp.concatenate([X, now.X]) if online else X)
        state = measure.State(weights, [x[:M] for x in h], [x[:M] for x in phi], f[:M])
        f0, h0 = first = jax.tree.map(partial(jnp.where, now.t == 0), (state.f, state.h if first[1] else None), first)
        if online:
            of_batch = jax.lax.cond(settings.centered, lambda: forward(start, X=now.X)[2], lambda: jnp.zeros_like(f[M:]))
            f0 = jnp.concatenate([f0, of_batch])
        f0 = jnp.where(settings.centered, f0, 0)
        f = f - f0
        seen = measure.outputs(loss, f[:M], (f[M:], now.y) if online else (f[:P], y), (f[P:M], y_test))
        if kept:

            def keep() -> dict[str, Array]:
                put = partial(jax.lax.dynamic_update_index_in_dim, index=now.slot, axis=0)
                return jax.tree.map(put, kept, look(state._replace(f=f[:M]), h0))

            kept = jax.lax.cond(now.slot < program.num_kept, keep, lambda: kept)

        target = y if now.target is None else now.target
        if program.flow:

            def force(weights: mlp.Weights) -> mlp.Weights:
                h, phi, f = forward(weights, X=X[:P])
                return descent(weights, h, phi, f - f0[:P], target)

            weights = mlp.flow(weights, scales, force, now.eta, settings.weight_decay)
        else:
            batch = slice(M, None) if online else slice(P) if now.batch is None else now.batch
            G = descent(weights, [x[batch] for x in h], [x[batch] for x in phi], f[batch], target)
            rule = settings.momentum, program.nesterov, settings.weight_decay
            weights, velocity = mlp.move(weights, velocity, G, now.eta, *rule)
        if program.hot:
            noise = draw(jax.random.fold_in(jax.random.fold_in(key, HEAT), now.t))
            weights = mlp.heat(weights, noise, now.eta, settings.temperature)
        return (weights, velocity, first, kept), seen

    def room(shapes: Any, *leading: int) -> Any:
        return jax.tree.map(lambda x: jnp.zeros((*leading, *x.shape), x.dtype), shapes)

    h, phi, f = jax.eval_shape(partial(forward, X=X), start)
    first = (f, h if "update_size" in save else None)
    kept = jax.eval_shape(look, measure.State(start, h, phi, f), first[1]) if program.num_kept else {}
    velocity = room(start) if program.momentum else None
    beginning = (start, velocity, room(first), room(kept, program.num_kept))
    (_, _, _, kept), seen = jax.lax.scan(step, beginning, sequence)
    if kept:
        kept |= {"Phi": measure.kernel(kept.pop("phi")), "G": measure.kernel(kept.pop("g"))}
    return seen | kept


def _program(problem: Problem, width: int, num_kept: int, save: tuple[str, ...]) -> Program:
    training = problem.training
    return Program(
        problem.architecture.activation,
        training.loss,
        width,
        num_kept,
        save,
        momentum=training.momentum > 0,
        nesterov=training.nesterov,
        hot=training.temperature > 0,
        flow=training.flow,
    )


def _settings(problem: Problem, width: int) -> Settings:
    training, form = problem.training, problem.parameterization
    rates = training.rates(problem.architecture.depth)
    return Settings(
        _scales(problem, width), rates, form.centered, training.momentum, training.weight_decay, training.temperature
    )


def _data(problem: Problem) -> Data:
    """Targets (n, C) also of one output."""
    task = problem.task
    y, y_test = (None if y is None else y.reshape(len(y), task.num_outputs) for y in (task.y, task.y_test))
    return Data(problem.X_watched, None if problem.training.online else y, y_test)


def _sequence(problem: Problem, steps: Int[np.ndarray, "kept"]) -> Now:
    """The states 0 ... T."""
    task, training = problem.task, problem.training
    T, P, C = training.num_steps, task.num_train, task.num_outputs
    slots = np.full(T + 1, len(steps), np.int32)
    slots[steps] = np.arange(len(steps))
    eta = np.pad(training.eta(problem.architecture.depth), ((0, 1), (0, 0)))
    now = Now(np.arange(T + 1), slots, eta)
    if training.full_batch and not training.label_noise:
        return now
    batch, noise = training.batches_of(P, C)
    y = task.y.reshape(P, C)[batch]
    now = now._replace(target=y if noise is None else y + noise)
    if training.online:
        return now._replace(X=task.X[batch], y=y)
    return now if training.full_batch else now._replace(batch=batch)


def _scales(problem: Problem, width: int) -> tuple[mlp.Layer, ...]:
    """(a_l, b_l, c_l) of W^0 ... W^{L-1}, w, and of their biases where there are any, whose a_l contains `MLP.bias`."""
    net, form = problem.architecture, problem.parameterization
    at = partial(form.scale, width=width)

    def layer(role: Role, fan_in: int, of_bias: Role) -> mlp.Layer:
        a, b, c = at(of_bias, fan_in=1)
        return mlp.Layer(at(role, fan_in=fan_in), LayerScale(net.bias * a, b, c) if net.bias else None)

    hidden = [layer("hidden", width, "bias")] * (net.depth - 1)
    return (layer("input", problem.task.input_dim, "bias"), *hidden, layer("output", width, "output_bias"))


def _check_save(problem: Problem, save: Iterable[str], num_kept: int) -> tuple[str, ...]:
    names = measure.wanted(save, num_kept)
    if "sharpness" in names and problem.training.online and problem.task.y_test is None:
        raise ValueError("the sharpness of online training is taken at the test points: give the task y_test.")
    return names


def _num_parameters(problem: Problem, width: int) -> int:
    net, task = problem.architecture, problem.task
    biases = net.depth * width + task.num_outputs if net.bias else 0
    return width * (task.input_dim + (net.depth - 1) * width + task.num_outputs) + biases


def _seeds_per_chunk(
    problem: Problem, width: int, num_seeds: int, K: int, save: tuple[str, ...], itemsize: int, memory: float | None
) -> int:
    """How many networks train at a time; MemoryError if one, with the record of all, does not fit.

    It depends on the shapes alone, unless `memory` is so tight that only less than CHUNK_BYTES are left.
    """
    training, task, L = problem.training, problem.task, problem.architecture.depth
    M, P, C, D, states = problem.num_watched, task.num_train, task.num_outputs, task.input_dim, training.num_steps + 1
    B = 0 if training.full_batch else training.batches_of(P, C).index.shape[1]
    judged = M if training.online else P  # points of eigenvalues and sharpness
    sizes = {"NTK": K * M**2, "eigenvalues": K * judged, "sharpness": K, "update_size": K * L}
    sizes |= dict.fromkeys(("h", "z"), K * L * M * width)
    outputs, kernel, more = states * (M * C + 2), L * (K * M) ** 2, [sizes[name] for name in save]
    recorded = outputs + 2 * kernel + sum(more)

    copies = 4 + (training.momentum > 0) + (training.temperature > 0) + 12 * training.flow  # of the parameters; 7 slopes, ...
    fields = (4 + (1 + C) * K) * M + 2 * C * M * (K > 0) + 4 * B + ("update_size" in save) * M  # of N neurons in each layer
    matrices = 4 * (judged * C) ** 2 * ("sharpness" in save) + 3 * M**2 * bool(save)
    working = copies * _num_parameters(problem, width) + fields * L * width + (M + B) * D + matrices
    stream = states * B * (D + 2 * C) if training.online else states * (B + C * (B or P * (training.label_noise > 0)))

    per_seed = itemsize * (working + recorded)
    record = num_seeds * (itemsize * recorded + 8 * max(outputs, kernel, *more))  # standard errors need one float64 copy
    record += (8 + itemsize) * stream
    what = f"training networks of width {width} and recording {num_seeds} of them with kernels at {K} steps"
    cure = "Lower num_seeds or width, or keep fewer kernels: save_kernels=[0]."
    require(record + per_seed, what, cure, memory)
    free = available_bytes() if memory is None else memory
    target = min(CHUNK_BYTES["cpu" if jax.default_backend() == "cpu" else "gpu"], free - record)
    return max(1, int(target / per_seed))


def _steps_of(problem: Problem, width: int, f: Float[np.ndarray, "seeds states ..."]) -> dict[str, Any]:
    """What `rounding.status_of` asks: S, the size of f, and the steps of weights that f tells of."""
    form = problem.parameterization
    features = rounding.feature_size(problem)
    size = features / form.feature_learning_strength(width)
    of_f = [float(np.mean((f[:, t + 1] - f[:, t]) ** 2, dtype=np.float64)) ** 0.5 for t in range(f.shape[1] - 1)]
    moved = np.array(of_f) / (3 * size) if size else np.zeros(len(of_f))
    y = rounding.target_size(problem.task.y) + (0.0 if form.centered else features * form.output_size(width))
    return {"size": size, "y": y, "moved": moved, "steps": np.ones(len(moved))}


def _status(problem: Problem, samples: Trajectory, mean: Trajectory) -> Status:
    """The Status of what the worst network did at each step: not ok if a single one diverged."""
    n = len(samples.f)
    all_f = np.moveaxis(samples.f, 0, 1).reshape(len(samples.steps), -1)
    status = Status.of(problem, replace(mean, f=all_f, loss=samples.loss.max(0)), f"trained {n} networks")
    if status.ok:
        return status
    alone = samples.without("Phi", "G", *samples.more)
    bad = sum(not Status.of(problem, alone.map(itemgetter(i)), "").ok for i in range(n))
    return replace(status, message=status.message.replace("training", f"training of {bad} of {n} networks", 1))
