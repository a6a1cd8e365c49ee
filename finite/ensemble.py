"""Training of any network: an ensemble over seeds, one compiled program for all steps.

    loss = mean over the batch of l(f - f_0, y),      f_0 the network's own output at its start (centered), or zero
    W <- W + eta (G - weight_decay W)                 G by the optimizer, from gradients in the units of the table

Seeds are a leading axis of every weight. Batches come in chunks, so that nothing compiled knows how many steps there are, and
no more than a chunk of the data is in memory. On a CPU a network goes through the steps of a chunk alone, so that it stays in
the cache of its core, and each core has networks of its own; accelerators take all at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from finite.networks import build, is_weight
from widthwise import Adam, GradientDescent, Loss, Parameterization, Problem
from widthwise.data import Stream
from widthwise.feed import CHUNK, Feed, batches
from widthwise.networks import Architecture
from widthwise.outputs import targets
from widthwise.precision import computing_in, working
from widthwise.training import move


class Program(NamedTuple):
    """What is compiled in.

    `compute` is the precision of a pass through the network, its weights and their updates being at least in float32; batches
    go through in `accumulate` parts.
    """

    loss: Loss
    centered: bool
    optimizer: Any
    nesterov: bool
    compute: str
    accumulate: int = 1


class Training(NamedTuple):
    """Numbers of the training, traced."""

    momentum: float
    weight_decay: float

    @staticmethod
    def of(training: GradientDescent) -> Training:
        return Training(training.momentum, training.weight_decay)


class State(NamedTuple):
    """An ensemble: its networks, how they started (None where outputs are not centred), what the optimizer remembers (None of
    gradient descent without momentum)."""

    network: Any
    start: Any
    memory: Any


def start(
    architecture: Architecture,
    form: Parameterization,
    training: GradientDescent,
    keys: Key[Array, "seeds"],
    *,
    width: int,
    input_shape: tuple[int, ...],
    num_outputs: int,
    whole: bool | None = None,
    sharding: Any = None,
) -> State:
    """The ensemble at its start, a network per key, on the devices that `sharding` says."""
    rule = training.optimizer, training.rates_of, training.momentum > 0
    return _start(keys, (architecture, form, *rule, width, input_shape, num_outputs, whole), sharding)


@partial(jax.jit, static_argnames=("settings", "sharding"))
def _start(keys: Key[Array, "seeds"], settings: tuple, sharding: Any) -> State:
    architecture, form, optimizer, rates_of, momentum, width, input_shape, num_outputs, whole = settings

    def one(key: Key[Array, ""]) -> State:
        shapes: dict[str, Any] = {"width": width, "input_shape": input_shape, "num_outputs": num_outputs, "whole": whole}
        network = build(architecture, form, key=key, optimizer=rates_of, **shapes)
        transformation = _transformation(optimizer)
        if transformation is not None:
            memory = _memory_of(transformation, network)
        else:
            memory = jax.tree.map(jnp.zeros_like, network) if momentum else None
        return State(network, network if form.centered else None, memory)

    states = jax.vmap(one)(keys)
    return states if sharding is None else jax.lax.with_sharding_constraint(states, sharding)


def _memory_of(transformation: Any, network: Any) -> Any:
    """What the optimizer remembers at the start; ValueError if it does not take what we have."""
    try:
        memory = transformation.init(network)
        jax.eval_shape(transformation.update, network, memory, network)
    except Exception as error:  # whatever a rule of the user's own does with trees that it did not expect
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the optimizer must be a rule of gradient, state and parameters alone, got {type(error).__name__}: {reason:.200} "
            "Rules that ask for the loss, as the line search of optax.lbfgs, cannot train an ensemble."
        ) from error
    return memory


def outputs(network: Any, x: Float[Array, "batch ..."]) -> tuple[Float[Array, "batch outputs"], dict[str, Array]]:
    """f and the fields of a batch, not centred."""
    return jax.vmap(network)(x)


def centred(program: Program, state: State, x: Float[Array, "batch ..."]) -> tuple[Float[Array, "batch outputs"], dict]:
    """f - f_0 and the fields of a batch."""
    x = _in(program.compute, x)
    f, fields = outputs(_in(program.compute, state.network), x)
    f = f.astype(jnp.promote_types(f.dtype, jnp.float32))
    return (f - outputs(_in(program.compute, state.start), x)[0] if program.centered else f), fields


def _in(dtype: str, tree: Any) -> Any:
    """Numbers in this precision; whole ones (tokens) as they are."""
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def descent(program: Program, network: Any, gradient: Any, memory: Any) -> tuple[Any, Any]:
    """G of every weight, and what the optimizer remembers (without one: the velocity, which `move` keeps)."""

    def times(factor: Callable[[Any], float], gradient: Any) -> Any:
        return jax.tree.map(lambda W, g: replace(g, value=factor(W) * g.value), network, gradient, is_leaf=is_weight)

    transformation = _transformation(program.optimizer)
    if transformation is None:
        return times(lambda W: -W.scale.learning_rate, gradient), memory
    if _like_adam(program.optimizer):
        made, memory = transformation.update(times(lambda W: 1 / W.gradient_size, gradient), memory, network)
        return times(lambda W: W.scale.learning_rate, made), memory
    return transformation.update(times(lambda W: W.scale.learning_rate, gradient), memory, network)


def step(
    program: Program, training: Training, state: State, x: Array, y: Array, eta: Float[Array, ""]
) -> tuple[State, Float[Array, ""]]:
    """One network after one step, and the loss of the batch before it."""

    def loss(network: Any, x: Array, y: Array) -> Float[Array, ""]:
        f, _ = centred(program, state._replace(network=network), x)
        return program.loss.of(*targets(f, y)).mean()

    value, gradient = _mean_over_parts(jax.value_and_grad(loss), program.accumulate, state.network, x, y)
    G, memory = descent(program, state.network, gradient, state.memory)
    plain = program.optimizer is None
    leaves, tree = jax.tree.flatten(state.network)
    velocities = jax.tree.leaves(memory) if plain and memory is not None else [None] * len(leaves)
    moved = [
        move(W, v, g, eta, training.momentum, program.nesterov, training.weight_decay)
        for W, v, g in zip(leaves, velocities, jax.tree.leaves(G), strict=True)
    ]
    network = jax.tree.unflatten(tree, [W for W, _ in moved])
    if plain and memory is not None:
        memory = jax.tree.unflatten(tree, [v for _, v in moved])
    return State(network, state.start, memory), value


def _mean_over_parts(of: Callable, parts: int, network: Any, x: Array, y: Array) -> Any:
    """The mean of of(network, x, y) over so many equal parts of the batch, one after the other."""
    if parts == 1:
        return of(network, x, y)
    cut = jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), (x, y))
    total = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(of, network, *(a[0] for a in cut)))
    total, _ = jax.lax.scan(lambda sum_, part: (jax.tree.map(jnp.add, sum_, of(network, *part)), None), total, cut)
    return jax.tree.map(lambda a: a / parts, total)


@partial(jax.jit, static_argnames="program", donate_argnames="state")
def advance(
    program: Program,
    training: Training,
    state: State,
    x: Float[Array, "chunk batch ..."],
    y: Array,
    eta: Float[Array, "seeds chunk"],
    num_steps: int,
) -> tuple[State, Float[Array, "seeds chunk"]]:
    """The ensemble after the first `num_steps` of a chunk of batches, and their losses; every seed has its learning rates."""

    def one(state: State, eta: Float[Array, "chunk"]) -> tuple[State, Float[Array, "chunk"]]:
        def body(t: Array, carry: tuple) -> tuple:
            state, losses = carry
            state, loss = step(program, training, state, x[t], y[t], eta[t])
            return state, losses.at[t].set(loss)

        return jax.lax.fori_loop(0, num_steps, body, (state, jnp.zeros(len(eta))))

    return each(one, state, eta)


def each(work: Callable[..., Any], *networks: Any) -> Any:
    """What `work` makes of every network, their leading axis: one by one on a CPU, all together elsewhere."""
    return jax.lax.map(lambda network: work(*network), networks) if _one_by_one() else jax.vmap(work)(*networks)


def advance_all(
    program: Program, training: Training, groups: list[State], x: Any, y: Any, eta: Any, num_steps: int
) -> list[State]:
    """`advance` of every group."""
    return at_once(lambda state: advance(program, training, state, x, y, eta, num_steps)[0], groups)


def at_once(work: Callable[[Any], Any], groups: Iterable[Any]) -> list[Any]:
    """What `work` makes of every group; on a CPU of as many at a time as there are cores."""
    groups = [*groups]
    if len(groups) == 1 or not _one_by_one():
        return [work(group) for group in groups]
    precision = working().name  # which each thread has for itself

    def alone(group: Any) -> Any:
        with computing_in(precision):
            return jax.block_until_ready(work(group))  # JAX may queue what nobody waits for

    return [*_threads().map(alone, groups)]


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores())


def group_size(num_seeds: int, most: int) -> int:
    """Networks of a group, at most `most`: all groups are as large, and on a CPU every core has equally many."""
    turns = min(cores(), num_seeds) if _one_by_one() else 1
    groups = turns * -(-num_seeds // (turns * max(most, 1)))
    return -(-num_seeds // groups)


def cores() -> int:
    """Of this machine, those that we may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _one_by_one() -> bool:
    """Whether networks train one after the other: on a CPU, unless it is divided into several devices."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def train(
    problem: Problem, state: State, eta: Float[np.ndarray, "seeds updates"]
) -> Iterator[tuple[State, Float[np.ndarray, "seeds steps"]]]:
    """The ensemble after each chunk of the problem's steps, and its losses at them; every seed at its own learning rates."""
    program, numbers = program_of(problem.parameterization, problem.training), Training.of(problem.training)
    feed, T = Feed(batches(problem.task, problem.training)), eta.shape[1]
    eta = np.pad(eta, ((0, 0), (0, CHUNK))).astype(working())
    for t in range(0, T, CHUNK):
        n = min(CHUNK, T - t)
        state, losses = advance(program, numbers, state, *feed.take(n), eta[:, t : t + CHUNK], n)
        yield state, np.asarray(losses)[:, :n]


def shapes_of(problem: Problem) -> dict[str, Any]:
    """What a network has to know of the data."""
    task = problem.task
    shape = task.input_shape if isinstance(task, Stream) else (task.input_dim,)
    return {"input_shape": shape, "num_outputs": task.num_outputs, "whole": problem.whole}


def program_of(form: Parameterization, training: GradientDescent) -> Program:
    """The Program of these settings, which computes in the precision of JAX where this is called."""
    return Program(training.loss, form.centered, training.optimizer, training.nesterov, working().name)


def _like_adam(optimizer: Any) -> bool:
    return isinstance(optimizer, Adam) or (optimizer is not None and optimizer.like == "adam")


def _transformation(optimizer: Any) -> Any:
    """What optax does, with updates that are to be added; None for plain gradient descent."""
    if optimizer is None:
        return None
    if isinstance(optimizer, Adam):
        import optax  # imported where used: it costs a fifth of a second

        return optax.chain(optax.scale_by_adam(optimizer.b1, optimizer.b2, optimizer.epsilon), optax.scale(-1.0))
    return optimizer.transformation
