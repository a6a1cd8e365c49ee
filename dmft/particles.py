"""The flow of particles that a network with one hidden layer becomes: neurons (H, Z) that see each other through f alone.

With one hidden layer no weight matrix lies between two wide layers, so the single-site process (docs/march.md) has no responses
A and B. A neuron is its input weights H ~ N(0, 1) along the directions that the data span, and its readout Z ~ N(0, 1)^C:

    h_m  = x^_m . H                 x^_m the rows of a root of Phi^0:  x^_m . x^_n = x_m . x_n / D + bias^2
    f_mc = <Z_c phi(h_m)> / gamma0 + o_c                 o_c the output bias, one number in the limit, o_c(0) = 0
    G_H  = gamma0 sum_m phi'(h_m) (Z . Delta_m) x^_m      (what gradient descent moves along, G in `GradientDescent`)
    G_Z  = gamma0 sum_m Delta_m phi(h_m)
    G_o  = bias^2 sum_m Delta_m                           Delta_m = -d loss / d f_m, m over the batch

(1804.06561, 1805.00915; 2205.09653.)
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.ode import odeint
from jaxtyping import Array, Float, Int, Key

from dmft.method import trajectory_of
from dmft.noise import mirrored
from widthwise import Activation, Problem, Trajectory
from widthwise.curvature import eigenvalues, sharpness
from widthwise.loss import Loss
from widthwise.training import move

FLOW_ERROR = 1e-8
"""Relative and absolute error per interval of gradient flow."""


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


def flow_of(
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


def measured(
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
    """Phi and G between the kept steps, and what else is named, from the neurons at those steps.

    (Under "sharpness" <phi'_m z_c phi'_n z_c'> at equal times, (K, M, M, C, C).)
    """
    h, h0 = kept.H @ watched.T, H0 @ watched.T
    phi, slope = act.phi(h), act.d(h)
    g = slope[..., None] * kept.Z[..., None, :]
    (R, K, S, M), C = h.shape, g.shape[-1]
    out = {
        "Phi": jnp.einsum("s,rtsm,rusn->rtmun", weights, phi, phi)[:, None],
        "G": jnp.einsum("s,rtsmc,rusnc->rtmun", weights, g, g)[:, None] / C,
    }
    if "update_size" in names:
        out["update_size"] = jnp.sqrt(jnp.einsum("s,rtsm->rt", weights, (h - h0[:, None]) ** 2) / M)[..., None]
    if "h" in names:
        out["h"] = jnp.swapaxes(h, 2, 3)[:, :, None]
    if "z" in names:  # of the first output; the same at all points
        out["z"] = jnp.broadcast_to(kept.Z[:, :, None, None, :, 0], (R, K, 1, M, S))
    if "sharpness" in names:
        out["sharpness"] = jnp.einsum("s,rtsmc,rtsnd->rtmncd", weights, g, g)
    return out
