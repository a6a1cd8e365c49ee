"""First and second derivatives of the functional by the laws of the neurons, summed over all of them.

With w the weights of S paths in each of L layers and D^2 T its Hessian there,

    N Cov(f, f') = S sum_i (D_v_i f) (D_v_i f')          N bias f = S/2 tr D^2 f = S/2 sum_i D^2_v_i f

for any orthonormal v_i that span R^(L S). Most of the first lies along few directions: those of the gradients of f. A random
range finder takes them from `num_directions` reverse passes; what is orthogonal to them is estimated without bias by
`num_draws` random directions (Hutch++, 2010.09649).

Both derivatives along v are central differences between marches of the weights 1 +- e v, for all outputs, points and times
together: no derivative of phi' is taken. Where phi' jumps, a shift of h by d carries the share density x d of the paths
across the jump, and from there on each goes the way of the other side, however far. Derivatives path by path know nothing of
that, differences between averages do, with noise for how many paths happen to cross. So steps are large there, and a second
difference of half the size takes away the error of order e^2. Reverse passes leave those paths out: they choose directions
and nothing else.

G itself is out of reach there. Paths at h < 0 stay where those at h > 0 are moved away, so that from the first step on the
density of h jumps where phi' does, and <phi'(h)^2 ...> has one derivative for shifts to the right and another one for those
to the left.
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

STEP, STEP_ACROSS = 0.01, 0.15
"""Of differences along gradients, in standard deviations of networks of width one: without and with jumps of phi' to cross."""

DRAWN, DRAWN_ACROSS = 0.1, 1.0
"""Of those along random directions, in weights of paths."""

MOST = 0.9
"""Largest change of a weight where functions enter bases: these are orthonormal under positive weights only."""


class Setting(NamedTuple):
    """What is compiled in."""

    form: Form
    centered: bool
    num_kept: int
    shown: int
    num_directions: int
    num_draws: int


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


def functional_of(setting: Setting, physics: Physics, noise: Noise, steps: Now, plan: Plan, w: Layers) -> Seen:
    """f and kernels as functions of the weights of the paths."""
    kept = {"num_kept": setting.num_kept, "shown": setting.shown}
    return functional.train(setting.form, physics, w, noise, steps, plan, centered=setting.centered, **kept)


@partial(jax.jit, static_argnames="setting")
def gradients(
    setting: Setting, physics: Physics, noise: Noise, steps: Now, plan: Plan, key: Array
) -> Float[Array, "directions layers paths"]:
    """Gradients of random combinations of outputs, made orthonormal: three of f to one of kernels (the first to f alone).

    Where weights must stay positive along them, the few paths that weigh most are cut to size.
    """
    T = partial(functional_of, setting, physics, noise, steps, plan)
    L, S, kinked = setting.form.L, len(noise.r[setting.form.L]), functional.jumps(setting.form.act)

    def combination(w: Float[Array, "layers paths"], key: Array, of_kernels: Array) -> Array:
        seen = T({l: w[l - 1] for l in range(1, L + 1)})
        keys = jax.random.split(key, 3)
        omega = [jax.random.normal(k, x.shape) for k, x in zip(keys, seen, strict=True)]
        f, Phi, G = (jnp.vdot(o, x) for o, x in zip(omega, seen, strict=True))
        return jnp.where(of_kernels, Phi if kinked else Phi + G, f)

    def one(arguments: tuple) -> Array:
        return jax.grad(combination)(jnp.ones((L, S)), *arguments)

    n = setting.num_directions
    of_kernels = (jnp.arange(n) % 4 == 3) & (setting.num_kept > 0)
    found = jax.lax.map(one, (jax.random.split(key, n), of_kernels)).reshape(n, -1)
    found = found / jnp.sqrt(jnp.mean(found**2, axis=1, keepdims=True))
    if L > 1 and kinked:
        found = jnp.clip(found, -MOST / STEP_ACROSS, MOST / STEP_ACROSS)
    return jnp.linalg.qr(found.T)[0].T.reshape(n, L, S)


@partial(jax.jit, static_argnames="setting")
def march(setting: Setting, physics: Physics, noise: Noise, steps: Now, plan: Plan, v: Float[Array, "layers paths"]) -> Seen:
    """f and kernels of paths of the weights 1 + v."""
    return functional_of(setting, physics, noise, steps, plan, {l + 1: 1 + v[l] for l in range(len(v))})


def marches(setting: Setting, replica: Replica, v: Float[Array, "directions layers paths"]) -> Seen:
    """One march for each direction, by one program however many they are."""
    return jax.tree.map(lambda *x: np.stack(x), *(march(setting, *replica, one) for one in np.asarray(v)))


def differences(
    setting: Setting, replica: Replica, v: Float[Array, "directions layers paths"], e: Float[Array, "directions"], middle: Seen
) -> tuple[Seen, Seen]:
    """(T(1 + e v) - T(1 - e v)) / 2e and (T(1 + e v) - 2 T(1) + T(1 - e v)) / e^2 along each direction."""
    step = e[:, None, None] * v
    above, below = marches(setting, replica, step), marches(setting, replica, -step)

    def over(x: Array, e: Array) -> np.ndarray:
        return np.asarray(x / e.reshape(-1, *[1] * (x.ndim - 1)))

    first = jax.tree.map(lambda a, b: over(a - b, 2 * e), above, below)
    return first, jax.tree.map(lambda a, m, b: over(a - 2 * m + b, e**2), above, middle, below)


def respond(setting: Setting, replica: Replica, key: Array) -> Response:
    """First and second derivatives, summed over all paths."""
    first, second = jax.random.split(key)
    V = gradients(setting, *replica, first)
    k, m, (L, S), kinked = len(V), setting.num_draws, V.shape[1:], functional.jumps(setting.form.act)
    draws = jax.random.rademacher(second, (m, L, S), V.dtype)
    draws = draws - jnp.einsum("ik,kls->ils", jnp.einsum("ils,kls->ik", draws, V), V)
    V = np.sqrt(S) * V
    limit = marches(setting, replica, jnp.zeros((1, L, S)))

    def size(v: Array, step: float) -> Array:
        return jnp.minimum(step, MOST / jnp.abs(v).max((1, 2))) if L > 1 else jnp.full(len(v), step)

    e = size(V, STEP_ACROSS if kinked else STEP)
    along = differences(setting, replica, V, e, limit)
    if kinked:
        along = jax.tree.map(lambda half, x: (4 * half - x) / 3, differences(setting, replica, V, e / 2, limit), along)
    parts = [along]
    if m:
        parts.append(differences(setting, replica, draws, size(draws, DRAWN_ACROSS if kinked else DRAWN), limit))
    slope, curvature = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    share = np.concatenate([np.ones(k), np.full(m, S / max(m, 1))])
    rows = jax.tree.map(lambda x: np.sqrt(share).reshape(-1, *[1] * (x.ndim - 1)) * x, slope)
    bias = jax.tree.map(lambda x: np.tensordot(share, x, 1) / 2, curvature)
    return Response(jax.tree.map(lambda x: np.asarray(x[0]), limit), rows, bias)


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
