"""First and second derivatives of the functional by the laws of the neurons, summed over all of them.

With w the weights of S paths in each of L layers and D^2 T its Hessian there,

    N Cov(f, f') = S sum_i (D_v_i f) (D_v_i f')          N bias f = S/2 tr D^2 f = S/2 sum_i D^2_v_i f

for any orthonormal v_i that span R^(L S). Most of it lies along few directions: those of the gradients of f. A random range
finder takes them from `num_directions` reverse passes; what is orthogonal to them is estimated without bias by `num_draws`
random directions (Hutch++, 2010.09649). First and second derivatives along a direction come from one forward pass, for all
outputs, points and times together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dmft.fluctuations import functional
from dmft.fluctuations.functional import Layers, Noise, Now, Plan, Seen
from dmft.inputs import input_root
from dmft.noise import white_noise
from dmft.physics import Form, Physics, physics_of
from dmft.run import most_directions, room_for
from widthwise import Problem

FIRST_RANK = 16
"""Functions per basis that are tried first; what does not suffice is doubled."""


class Setting(NamedTuple):
    """What is compiled in."""

    form: Form
    centered: bool
    num_kept: int
    shown: int
    num_directions: int
    num_draws: int
    second: bool


def functional_of(setting: Setting, physics: Physics, noise: Noise, steps: Now, plan: Plan, w: Layers) -> Seen:
    """f and kernels as functions of the weights of the paths."""
    kept = {"num_kept": setting.num_kept, "shown": setting.shown}
    return functional.train(setting.form, physics, w, noise, steps, plan, centered=setting.centered, **kept)


@partial(jax.jit, static_argnames="setting")
def gradients(
    setting: Setting, physics: Physics, noise: Noise, steps: Now, plan: Plan, key: Array
) -> Float[Array, "directions layers paths"]:
    """Gradients of random combinations of outputs, made orthonormal: three of f to one of kernels (the first to f alone)."""
    T = partial(functional_of, setting, physics, noise, steps, plan)
    L, S = setting.form.L, len(noise.r[setting.form.L])

    def combination(w: Float[Array, "layers paths"], key: Array, of_kernels: Array) -> Array:
        seen = T({l: w[l - 1] for l in range(1, L + 1)})
        keys = jax.random.split(key, 3)
        omega = [jax.random.normal(k, x.shape) for k, x in zip(keys, seen, strict=True)]
        f, Phi, G = (jnp.vdot(o, x) for o, x in zip(omega, seen, strict=True))
        return jnp.where(of_kernels, Phi + G, f)

    def one(arguments: tuple) -> Array:
        return jax.grad(combination)(jnp.ones((L, S)), *arguments)

    n = setting.num_directions
    of_kernels = (jnp.arange(n) % 4 == 3) & (setting.num_kept > 0)
    found = jax.lax.map(one, (jax.random.split(key, n), of_kernels)).reshape(n, -1)
    found = found / jnp.linalg.norm(found, axis=1, keepdims=True)
    return jnp.linalg.qr(found.T)[0].T.reshape(n, L, S)


@partial(jax.jit, static_argnames="setting")
def along(
    setting: Setting, physics: Physics, noise: Noise, steps: Now, plan: Plan, v: Float[Array, "directions layers paths"]
) -> tuple[Seen, Seen, Seen]:
    """f, its first and its second derivatives along each direction."""
    T = partial(functional_of, setting, physics, noise, steps, plan)

    def one(v: Float[Array, "layers paths"]) -> tuple[Seen, Seen, Seen]:
        def at(e: Array) -> Seen:
            return T({l + 1: 1.0 + e * v[l] for l in range(len(v))})

        def slope(e: Array) -> tuple[Seen, Seen]:
            return jax.jvp(at, (e,), (jnp.ones(()),))

        zero, unit = jnp.zeros(()), jnp.ones(())
        if not setting.second:
            value, first = slope(zero)
            return value, first, jax.tree.map(jnp.zeros_like, first)
        (value, first), (_, second) = jax.jvp(slope, (zero,), (unit,))
        return value, first, second

    return jax.lax.map(one, v)


class Response(NamedTuple):
    """Of one replica: the limit; rows such that N Cov = rows^T rows; N times the bias."""

    limit: Seen
    rows: Seen
    bias: Seen


class Replica(NamedTuple):
    """What the functional of one replica is of."""

    physics: Physics
    noise: Noise
    steps: Now
    plan: Plan


def respond(setting: Setting, replica: Replica, key: Array) -> Response:
    """First and second derivatives, summed over all paths."""
    first, second = jax.random.split(key)
    V = gradients(setting, *replica, first)
    k, m, S = len(V), setting.num_draws, V.shape[-1]
    draws = jax.random.normal(second, (m, *V.shape[1:]))
    draws = draws - jnp.einsum("ik,kls->ils", jnp.einsum("ils,kls->ik", draws, V), V)
    value, slope, curvature = jax.tree.map(np.asarray, along(setting, *replica, jnp.concatenate([V, draws])))
    share = S * np.concatenate([np.ones(k), np.full(m, 1 / max(m, 1))])
    rows = jax.tree.map(lambda x: np.sqrt(share).reshape(-1, *[1] * (x.ndim - 1)) * x, slope)
    return Response(jax.tree.map(lambda x: x[0], value), rows, jax.tree.map(lambda x: np.tensordot(share, x, 1) / 2, curvature))


def replicas(
    problem: Problem, setting: Setting, kernel_steps: np.ndarray, num_paths: int, tol: float, keys: Sequence[tuple[int, ...]]
) -> tuple[list[Replica], tuple[int, int]]:
    """Noise and plan of every replica, in bases of one size; and the largest number of functions in one.

    Raises:
        ValueError: there are too few paths for so many functions.
    """
    form, steps = setting.form, steps_of(problem, kernel_steps)
    physics = physics_of(problem, tol)._replace(watched=input_root(problem))  # all points, those of a stream too
    L, rank_in, C = form.L, physics.watched.shape[1], physics.y.shape[1]
    widest = most_directions(num_paths, form.act.odd)
    rank: tuple[int, int] = (FIRST_RANK, FIRST_RANK) if L > 1 else (0, 0)

    def noise(key: tuple[int, ...]) -> Noise:
        num = {l: (rank_in if l == 1 else rank[0], C if l == L else rank[1]) for l in range(1, L + 1)}
        draws = {l: white_noise(num_paths, *n, odd=form.act.odd, key=(*key, l)) for l, n in num.items()}
        return Noise({l: u for l, (u, _) in draws.items()}, {l: r for l, (_, r) in draws.items()})

    while (most := max(*rank, rank_in, C)) <= widest:
        given = [noise(key) for key in keys]
        explored = [functional.explore(form, physics, n, steps, centered=setting.centered, rank=rank) for n in given]
        sizes = [jax.tree.leaves(size[name]) for _, size in explored for name in ("b", "a")]
        most_b, most_a = (max((int(n) for size in sizes[i::2] for n in size), default=0) for i in (0, 1))
        if most_b <= rank[0] and most_a <= rank[1]:
            return [Replica(physics, n, steps, plan) for n, (plan, _) in zip(given, explored, strict=True)], (most_b, most_a)
        rank_b, rank_a = (K if n <= K else room_for(K + 1) for n, K in zip((most_b, most_a), rank, strict=True))
        rank = (rank_b, rank_a)
    raise ValueError(
        f"kernels need {most} functions or more, {num_paths} paths are good for {widest}: raise num_paths, or tol."
    )


def steps_of(problem: Problem, kernel_steps: np.ndarray) -> Now:
    """The steps of training."""
    task, training, T, L = problem.task, problem.training, problem.training.num_steps, problem.architecture.depth
    batches = training.batches_of(task.num_train, task.num_outputs)
    y = task.y.reshape(task.num_train, -1)[batches.index]
    slots = np.full(T + 1, len(kernel_steps))
    slots[kernel_steps] = np.arange(len(kernel_steps))
    eta = np.concatenate([training.eta(L), np.zeros((1, L + 1))])
    return Now(np.arange(T + 1) == 0, slots, eta, batches.index, y if batches.noise is None else y + batches.noise)
