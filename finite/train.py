"""Train an ensemble of networks of one width."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt
from tqdm import tqdm

from finite import measure, mlp
from widthwise import Activation, Estimate, GradientDescent, Problem, Result, Status, Trajectory, check
from widthwise.memory import available_bytes, require
from widthwise.parameterization import LayerScale, Role
from widthwise.precision import computing_in
from widthwise.result import provenance
from widthwise.trajectory import chosen_steps

CHUNK_BYTES = {"cpu": 2 * 2**20, "gpu": 512 * 2**20}
"""Working set of a chunk: a few networks stay in the cache of a CPU; many of them fill a GPU."""


def train(
    problem: Problem,
    *,
    width: int,
    num_seeds: int,
    seed: int = 0,
    save_kernels: Iterable[int] | None = None,
    dtype: Literal["float32", "float64"] = "float32",
    memory: float | None = None,
    progress: bool = True,
    throw: bool = True,
) -> Result:
    """Train `num_seeds` networks of one width by gradient descent, exactly as the Problem says.

    The equations stand in `finite.mlp`. Networks differ in their initial weights alone. Network i of a seed starts from the
    same normal draws in every parameterization and dtype; on one machine it is the same to the last bit whatever `num_seeds`
    is and however the work is cut into chunks.

    Args:
        problem: network, parameterization, task, training.
        width: N, the number of neurons of every hidden layer.
        num_seeds: number of networks; error bars fall like 1 / sqrt(num_seeds).
        seed: 0 ... 2^32 - 1; another seed gives independent networks.
        save_kernels: steps in 0 ... T at which Phi and G are kept, each with each; by default the first and the last.
        dtype: "float32" or "float64". The outputs of lazy networks are small differences: their rounding error is about
            25 eps / gamma0 (mean-field; gamma0 / sqrt N for "ntk"), in float32 0.3 % at gamma0 = 1e-3.
        memory: bytes that the run may take, all seeds' record included; by default what is free.
        progress: show a progress bar, if there is a terminal.
        throw: raise if a network diverged; False returns what there is.

    Returns:
        Result whose trajectory is the Estimate over the networks, with the networks themselves as its samples: f
        (num_seeds, T+1, M) in units of y, loss and test_loss (num_seeds, T+1), Phi and G (num_seeds, L, K, M, K, M).

    Raises:
        ValueError: width, num_seeds, seed, dtype, memory or save_kernels out of range; gamma0 too small for the dtype.
        MemoryError: one network, or the record of all, does not fit; before anything runs.
        Unsolved: a network diverged; `.result.status` has the step and a learning rate that should train.

    Example:
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(2, "tanh"), Parameterization(gamma0=1.0),
        ...                   tasks.sphere(4, 2, input_dim=8), GradientDescent(eta0=0.2, num_steps=10))
        >>> result = train(problem, width=32, num_seeds=8)
        >>> result.samples.f.shape, result.mean.Phi.shape
        ((8, 11, 6), (2, 2, 6, 2, 6))
        >>> bool(result.mean.loss[10] < 0.5 * result.mean.loss[0])
        True
    """
    check.instance("problem", problem, Problem)
    width = check.count("width", width, "It is the number N of neurons in every hidden layer.")
    num_seeds = check.count("num_seeds", num_seeds, "Two or more give an error bar.")
    seed = check.count("seed", seed, least=0)
    if seed >= 2**32:
        raise ValueError(f"seed must be below 2^32, got {seed}.")
    check.choice("dtype", dtype, ("float32", "float64"))
    if memory is not None:
        memory = check.positive("memory", memory, "It is a number of bytes, e.g. 4e9.")
    _check_rounding(problem, width, dtype)
    task, T = problem.task, problem.training.num_steps
    steps = chosen_steps(T, save_kernels)
    chunk = _seeds_per_chunk(problem, width, num_seeds, len(steps), np.dtype(dtype).itemsize, memory)

    slots = np.full(T + 1, len(steps), np.int32)
    slots[steps] = np.arange(len(steps))
    start_time = time.perf_counter()
    record: dict[str, np.ndarray] = {}
    with computing_in(dtype), jax.default_matmul_precision("highest"):
        arrays = [None if x is None else jnp.asarray(x, dtype) for x in (task.X_all, task.y, task.y_test)]
        shared = (*arrays, _scales(problem, width), problem.training.eta0, problem.parameterization.centered, slots)
        key = jax.random.key(seed, impl="threefry2x32")
        starts = range(0, num_seeds, chunk)
        for start in tqdm(starts, f"width {width}", unit="chunk", disable=None if progress else True, leave=False):
            numbers = np.arange(start, start + chunk, dtype=np.uint32)  # those beyond num_seeds fill the chunk, unrecorded
            seen = _run_chunk(key, numbers, shared, act=problem.architecture.activation, width=width, num_kept=len(steps))
            for name, x in seen.items():
                if x is None:
                    continue
                if name not in record:
                    record[name] = np.empty((num_seeds, *x.shape[1:]), x.dtype)
                record[name][start : start + chunk] = np.asarray(x)[: num_seeds - start]
    seconds = time.perf_counter() - start_time

    samples = Trajectory(
        steps=np.arange(T + 1), kernel_steps=steps, **{name: record.get(name) for name in Trajectory.OBSERVABLES}
    )
    with np.errstate(over="ignore", invalid="ignore"):  # of networks that diverged
        estimate = Estimate.of(samples)
        status = _status(problem, samples, estimate.mean)
    stats = {
        "width": width,
        "parameters": _num_parameters(problem, width),
        "seconds": seconds,
        "seconds_per_step": seconds / (T + 1),
        "chunks": len(starts),
        "seeds_per_chunk": chunk,
    }
    method = f"finite.train(width={width}, num_seeds={num_seeds}, dtype={dtype!r})"
    return Result(problem, estimate, status, stats, provenance(problem, method, seed)).or_raise(throw)


@partial(jax.jit, static_argnames=("act", "width", "num_kept"))
def _run_chunk(
    key: Key[Array, ""], numbers: UInt[Array, "S"], shared: tuple, *, act: Activation, width: int, num_kept: int
) -> measure.Observables:
    """`_run` for the networks with these numbers; the one place where networks become a batch."""
    run = partial(_run, act=act, width=width, num_kept=num_kept)
    return jax.vmap(lambda number: run(jax.random.fold_in(key, number), *shared))(numbers)


def _run(
    key: Key[Array, ""],
    X: Float[Array, "M D"],
    y: Float[Array, "P"],
    y_test: Float[Array, "Q"] | None,
    scales: mlp.Scales,
    eta0: Float[Array, ""],
    centered: Bool[Array, ""],
    slots: Int[Array, "states"],
    *,
    act: Activation,
    width: int,
    num_kept: int,
) -> measure.Observables:
    """Train one network and return what a Trajectory records of it.

    The scan runs over the states 0 ... T. Each is measured first and moved after, so that everything at index t belongs to
    the parameters before update t; where state T would move to is not looked at. `slots` has for each state its place among
    the states whose kernels are kept, or `num_kept` if it is not kept.
    """
    P = len(y)
    weights = mlp.init(key, scales, width=width, input_dim=X.shape[1], dtype=X.dtype)
    kept = jnp.zeros((2, len(scales) - 1, num_kept, len(X), width), X.dtype)  # phi and g

    def step(carry: tuple, now: tuple) -> tuple[tuple, measure.Observables]:
        (weights, f0, kept), (t, slot) = carry, now
        h, phi, f = mlp.forward(weights, scales, act, X)
        g = mlp.backward(weights, scales, act, h)
        f0 = jnp.where(centered & (t == 0), f, f0)
        f = f - f0
        if num_kept:
            fields = jnp.stack([jnp.stack(phi[1:]), jnp.stack(g)])
            keep = partial(jax.lax.dynamic_update_index_in_dim, kept, fields, slot, axis=2)
            kept = jax.lax.cond(slot < num_kept, keep, lambda: kept)
        Delta = GradientDescent.Delta(f[:P], y)
        weights = mlp.update(weights, scales, eta0, [x[:P] for x in phi], [x[:P] for x in g], Delta)
        return (weights, f0, kept), measure.outputs(f, y, y_test)

    start = (weights, jnp.zeros(len(X), X.dtype), kept)
    (_, _, (phi, g)), seen = jax.lax.scan(step, start, (jnp.arange(len(slots)), slots))
    return seen | ({"Phi": measure.kernel(phi), "G": measure.kernel(g)} if num_kept else {})


def _scales(problem: Problem, width: int) -> list[LayerScale]:
    """(a_l, b_l, c_l) of W^0 ... W^{L-1}, w."""
    roles: list[Role] = ["input", *["hidden"] * (problem.architecture.depth - 1), "output"]  # type: ignore[list-item]
    return [problem.parameterization.scale(role, width=width, input_dim=problem.task.input_dim) for role in roles]


def _check_rounding(problem: Problem, width: int, dtype: str) -> None:
    """Raise ValueError where rounding, measured at 25 eps / gamma0 in f, exceeds 5 % of f, which is y and what f starts at."""
    form = problem.parameterization
    gamma0 = form.feature_learning_strength(width)
    error = 25 * float(np.finfo(dtype).eps) / gamma0
    scale = float(np.sqrt(np.mean(problem.task.y**2))) + (0.0 if form.centered else 1 / (gamma0 * width**0.5))
    if error > 0.05 * (scale or 1.0):
        cure = 'Pass dtype="float64".' if dtype == "float32" else "Raise gamma0: the lazy limit is reached long before."
        raise ValueError(
            f"gamma0 = {form.gamma0:g} is too small for {dtype} at width {width}: outputs of order {scale:.1g} would carry a "
            f"rounding error of about {error:.1g}. {cure}"
        )


def _num_parameters(problem: Problem, width: int) -> int:
    return width * (problem.task.input_dim + (problem.architecture.depth - 1) * width + 1)


def _seeds_per_chunk(problem: Problem, width: int, num_seeds: int, K: int, itemsize: int, memory: float | None) -> int:
    """How many networks train at a time; MemoryError if one, with the record of all, does not fit.

    It depends on the shapes alone, unless `memory` is so tight that only less than CHUNK_BYTES are left.
    """
    L, M, T = problem.architecture.depth, problem.task.num_points, problem.training.num_steps
    outputs, kernel = (T + 1) * (M + 2), L * (K * M) ** 2
    recorded = outputs + 2 * kernel
    working = 4 * _num_parameters(problem, width) + (4 + 2 * K) * L * M * width + M * problem.task.input_dim
    per_seed = itemsize * (working + recorded)
    record = num_seeds * (itemsize * recorded + 8 * max(outputs, kernel))  # the standard error needs one float64 copy
    what = f"training networks of width {width} and recording {num_seeds} of them with kernels at {K} steps"
    cure = "Lower num_seeds or width, or keep fewer kernels: save_kernels=[0]."
    require(record + per_seed, what, cure)
    if memory is not None and record + per_seed > memory:
        raise MemoryError(
            f"{what} needs about {(record + per_seed) / 2**30:.3g} GiB, memory={memory:g} allows {memory / 2**30:.3g} GiB. "
            f"{cure} Or raise memory."
        )
    free = available_bytes() if memory is None else memory
    target = min(CHUNK_BYTES["cpu" if jax.default_backend() == "cpu" else "gpu"], free - record)
    return max(1, int(target / per_seed))


def _status(problem: Problem, samples: Trajectory, mean: Trajectory) -> Status:
    """The Status of what the worst network did at each step: not ok if a single one diverged."""
    n = len(samples.f)
    all_f = np.moveaxis(samples.f, 0, 1).reshape(len(samples.steps), -1)
    status = Status.of(problem, replace(mean, f=all_f, loss=samples.loss.max(0)), f"trained {n} networks")
    if status.ok:
        return status
    alone = replace(samples, Phi=None, G=None)
    bad = sum(not Status.of(problem, alone.map(itemgetter(i)), "").ok for i in range(n))
    return replace(status, message=status.message.replace("training", f"training of {bad} of {n} networks", 1))
