"""The single-site process of one replica: what one step of training does to every path (docs/march.md; 2205.09653).

    h^l_m(t) = u^l_m(t) + gamma0 sum_{s<t,n}  [A^{l-1}_mn(t,s) + eta Delta_n(s) Phi^{l-1}_mn(t,s)] g^l_n(s)
    z^l_m(t) = r^l_m(t) + gamma0 sum_{s<=t,n} [B^l_mn(t,s)     + eta Delta_n(s) G^{l+1}_mn(t,s)]   phi(h^l_n(s))

Kernels are numerically of low rank along training. Let b_k be the orthonormal functions (on the paths of layer l) that span
the features phi(h^l), phi(h^l_m(t)) = sum_k row_mk(t) b_k, and a_k those that span the gradient fields g^{l+1}. Each path of
layer l + 1 carries the images W b_k of the weights W^l, each path of layer l the images W^T a_k:

    (W b)(t)   = eps_u + gamma0 sum_s eta  sum_n Delta_n g_n row_n(s)        (W^T a)(t) likewise from eps_r
    h^{l+1}(t) = row(t) . (W b)(t) + <phi(t) eps_r> . a                      A = <d phi / d eps_r> = <phi eps_r>
    z^l(t)     = row(t) . (W^T a)(t) + <g(t) eps_u> . b                      B = <d g / d eps_u>   = <g eps_u>

The responses are Gaussian integration by parts. That needs no second derivative of phi, so ReLU's kink costs nothing, no
Jacobians, and no term for the diagonal s = t; its sampling noise is tamed by the mirror images of `noise.white_noise`. It is
also what conditioning a random matrix on its past products gives.

The images obey the update rule of the weights themselves (`widthwise.training.move`), whatever that is: momentum, decay and
schedules need no theory of their own. As in any backward pass only g contracted with Delta is needed, and only for the
batch: from here on g_m stands for phi'(h_m) z_m with z^L_m = sum_c Delta_mc w_c, one field per point for any number of outputs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dmft import factor
from dmft.factor import Basis
from dmft.noise import mirrored
from dmft.physics import Form, Physics
from widthwise.training import move

REPLICAS = "replicas"  # the name of the mapped axis

Layers = dict[int, Array]  # one array per layer, by its number l = 1 ... L


class Velocity(NamedTuple):
    """Of Wb, Wa, alpha and beta."""

    Wb: Layers
    Wa: Layers
    alpha: Any
    beta: Any


class State(NamedTuple):
    """What the past leaves behind on each path; a leading axis of replicas outside of `step`.

    Attributes:
        Wb: (W^{l-1} b)(t) (S, K), l = 1 ... L; for l = 1 the images of the input coordinates.
        Wa: (W^{l T} a)(t) (S, K), l = 1 ... L; for l = L the readout weights (S, C).
        b: basis of the features phi(h^l), l = 1 ... L - 1; its coordinates are those of Wb[l + 1].
        a: basis of the gradient fields g^l, l = 2 ... L; its coordinates are those of Wa[l - 1].
        eps_u: what W^{l-1} b owes to the initial weights, in units of alpha, l = 2 ... L.
        eps_r: what W^{l T} a owes to them, l = 1 ... L - 1.
        xi: (S,) one more such coordinate of u^l, for all that lies outside the basis, l = 2 ... L.
        alpha: (L+1,) what weight decay left of the initial weights (with Langevin noise: the standard deviation of all noise).
        size_g: (L,) largest mean square of the fields g^l so far: what a rest of g is compared with.
        beta: (C,) output biases.
        velocity: those of Wb, Wa, alpha, beta; empty without momentum.
        key: of the Langevin noise, as whole numbers.
        f: (M,) output of the NTK-Euler readout, which nothing else uses.
    """

    Wb: Layers
    Wa: Layers
    b: dict[int, Basis]
    a: dict[int, Basis]
    eps_u: Layers
    eps_r: Layers
    xi: Layers
    alpha: Float[Array, "weights"]
    size_g: Float[Array, "layers"]
    beta: Float[Array, "outputs"]
    velocity: Velocity | tuple[()]
    key: Array
    f: Float[Array, "points"]


class Forward(NamedTuple):
    """The forward pass at some points: rows of the factor, fields (S, points), outputs (points, C)."""

    b: dict[int, Basis]
    row_u: Layers
    h: Layers
    phi: Layers
    f: Float[Array, "points outputs"]


class Backward(NamedTuple):
    """The backward pass: rows of the factor, fields (S, points)."""

    a: dict[int, Basis]
    row_r: Layers
    z: Layers
    g: Layers
    size_g: Float[Array, "layers"]


def tolerance(physics: Physics, basis: Basis) -> Array:
    """Relative rest that brings no new direction: `tol` up to a quarter of the directions, `coarse` from three quarters on."""
    filled = jnp.clip(2 * basis.size / physics.widest - 0.5, 0.0, 1.0)
    return physics.tol ** (1 - filled) * physics.coarse**filled


def average(x: Float[Array, "paths i"], y: Float[Array, "paths k"]) -> Float[Array, "i k"]:
    """<x_i y_k> over the paths."""
    return x.T @ y / len(x)


def forward(form: Form, physics: Physics, state: State, root: Float[Array, "points rank"], num_driving: int) -> Forward:
    """h^l, phi(h^l) and f at the points with these input coordinates.

    The basis is for the points whose gradient is taken, the first num_driving. Whatever the features of the others have outside
    of it meets only what is left of the initial weights: noise of known variance, independent of all that the dynamics knows.
    One frozen xi per path gives it to all of them, for f at a point depends on no joint law of two such points.
    """
    dtype = state.Wb[1].dtype
    b, row_u = dict(state.b), {1: root.astype(dtype)}
    h: Layers = {}
    phi: Layers = {}
    for l in range(1, form.L + 1):
        if l > 1:
            size = jnp.mean(phi[l - 1][:, :num_driving] ** 2)
            least = tolerance(physics, b[l - 1]) * size
            b[l - 1], row = factor.extend(b[l - 1], phi[l - 1], num_driving, least, REPLICAS)
            row_u[l] = (row.at[:, 0].set(physics.bias) if form.bias else row).astype(dtype)
        h[l] = state.Wb[l] @ row_u[l].T
        if l > 1 and len(root) > num_driving:
            rest = jnp.mean(phi[l - 1][:, num_driving:] ** 2, axis=0) - jnp.sum(row[num_driving:] ** 2, axis=1)
            size = state.alpha[l - 1] * jnp.sqrt(jnp.maximum(rest, 0.0))
            h[l] = h[l].at[:, num_driving:].add(state.xi[l][:, None] * size.astype(dtype))
        if l > 1:
            A = average(phi[l - 1], state.eps_r[l - 1]) * state.alpha[l - 1].astype(dtype)  # <d phi^{l-1} / d eps_r>
            A = jnp.where(state.a[l].live, A, 0)  # the others are zero but for sampling noise
            h[l] += state.a[l].e @ A.T
        phi[l] = form.act.phi(h[l])
    f = average(phi[form.L], state.Wa[form.L]).astype(float) / physics.gamma0 + state.beta
    return Forward(b, row_u, h, phi, f)


def backward(
    form: Form,
    physics: Physics,
    state: State,
    seen: Forward,
    h: Layers,
    Delta: Float[Array, "fields outputs"],
    relative_to: Float[Array, "layers"],
    num_driving: int,
) -> Backward:
    """g^l and z^l for the fields with these h^l (S, fields), contracted with Delta; the basis is for the first num_driving.

    Rests are compared with the mean square of g, or `relative_to` where that is larger.
    """
    L, dtype = form.L, state.Wb[1].dtype
    a, row_r, size_g = dict(state.a), {L: Delta.astype(dtype)}, relative_to
    z: Layers = {}
    g: Layers = {}
    for l in range(L, 0, -1):
        if l < L:
            size_g = size_g.at[l].max(jnp.mean(g[l + 1].astype(float) ** 2))
            least = tolerance(physics, a[l + 1]) * size_g[l]
            a[l + 1], row = factor.extend(a[l + 1], g[l + 1], num_driving, least, REPLICAS)
            row_r[l] = row.astype(dtype)
        z[l] = state.Wa[l] @ row_r[l].T
        if l < L:
            B = average(g[l + 1], state.eps_u[l + 1]) * state.alpha[l].astype(dtype)  # <d g^{l+1} / d eps_u>, also of s = t
            z[l] += seen.b[l].e @ jnp.where(seen.b[l].live, B, 0).T
        g[l] = form.act.d(h[l]) * z[l]
    return Backward(a, row_r, z, g, size_g)


class Seen(NamedTuple):
    """What a step shows: f (M, C) at the watched points and the loss of the batch."""

    f: Array
    batch_loss: Array


class Gradient(NamedTuple):
    """G of the update rule for Wb, Wa and beta."""

    Wb: Layers
    Wa: Layers
    beta: Array


def evaluate(form: Form, physics: Physics, t: Int[Array, ""], state: State) -> tuple[State, Seen, Gradient]:
    """Fields, outputs and gradients at index t from what came before; the state knows the new functions."""
    if form.ntk_euler:
        return evaluate_ntk_euler(form, physics, t, state)
    index = physics.batch[t - physics.start]
    B = len(index)
    others = physics.watched[B:] if form.full_batch else physics.watched
    seen = forward(form, physics, state, jnp.concatenate([physics.train[index], others]), B)
    f_batch, f = seen.f[:B], seen.f if form.full_batch else seen.f[B:]
    y = physics.y[index]
    noisy = y + (physics.label_noise[t - physics.start] if physics.label_noise.size > 1 else 0.0)
    Delta = form.loss.minus_gradient(f_batch, noisy) / len(index)
    h, phi = ({l: x[:, :B] for l, x in fields.items()} for fields in (seen.h, seen.phi))
    back = backward(form, physics, state, seen, h, Delta, state.size_g, B)
    gamma0 = physics.gamma0.astype(state.Wb[1].dtype)
    G = Gradient(
        Wb={l: gamma0 * g @ seen.row_u[l][:B] for l, g in back.g.items()},
        Wa={l: gamma0 * phi[l] @ row for l, row in back.row_r.items()},
        beta=physics.bias**2 * Delta.sum(0),
    )
    state = state._replace(b=seen.b, a=back.a, size_g=back.size_g)
    return state, Seen(f, jnp.mean(form.loss.of(f_batch, y))), G


def evaluate_ntk_euler(form: Form, physics: Physics, t: Int[Array, ""], state: State) -> tuple[State, Seen, Gradient]:
    """`evaluate` with f(t+1) = f(t) + eta K(t) Delta(t) in place of the average over paths, as the published notebooks have it.

    True to first order in eta only. One output, full batch, plain gradient descent.
    """
    P, M = len(physics.y), len(physics.watched)
    seen = forward(form, physics, state, physics.watched, M)
    back = backward(form, physics, state, seen, seen.h, jnp.ones((M, 1)), state.size_g, M)
    gamma0 = physics.gamma0.astype(state.Wb[1].dtype)
    Phi = {0: physics.watched @ physics.watched.T} | {l: average(phi, phi) for l, phi in seen.phi.items()}
    G = {l: average(g, g) for l, g in back.g.items()} | {form.L + 1: 1.0}
    K = sum(G[l + 1] * Phi[l] for l in range(form.L + 1))
    Delta = form.loss.minus_gradient(state.f[:P, None], physics.y) / P
    weighed = Delta.astype(gamma0.dtype)
    gradient = Gradient(
        Wb={l: gamma0 * (g[:, :P] * weighed[:, 0]) @ seen.row_u[l][:P] for l, g in back.g.items()},
        Wa={l: gamma0 * seen.phi[l][:, :P] @ (row[:P] * weighed) for l, row in back.row_r.items()},
        beta=jnp.zeros_like(state.beta),
    )
    after = state.f + physics.eta[t - physics.start, 0] * K[:, :P].astype(float) @ Delta[:, 0]
    shown = Seen(state.f[:, None], jnp.mean(form.loss.of(state.f[:P, None], physics.y)))
    return state._replace(b=seen.b, a=back.a, size_g=back.size_g, f=after), shown, gradient


def flow(form: Form, physics: Physics, t: Int[Array, ""], state: State) -> tuple[State, Seen]:
    """What `step` is for gradient flow: on to t + 1 by the classical Runge-Kutta rule, each stage a point in time."""
    weight, ahead = jnp.array([1 / 6, 1 / 3, 1 / 3, 1 / 6]), jnp.array([0.5, 0.5, 1.0, 0.0])
    h = 1 / physics.substeps

    def slope(state: State, G: Gradient) -> tuple:
        """eta (G - weight_decay theta) of Wb, Wa, beta and alpha."""
        eta = physics.eta[t - physics.start]

        def of(W: Array, G: Array, eta: Array) -> Array:
            return (eta * h).astype(W.dtype) * (G - physics.weight_decay.astype(W.dtype) * W)

        Wb = {l: of(W, G.Wb[l], eta[l - 1]) for l, W in state.Wb.items()}
        Wa = {l: of(W, G.Wa[l], eta[l]) for l, W in state.Wa.items()}
        return Wb, Wa, of(state.beta, G.beta, eta[-1]), of(state.alpha, 0.0 * state.alpha, eta)

    def stage(j: Array, carry: tuple) -> tuple:
        state, start, total, seen = carry
        state, now, G = evaluate(form, physics, t, state)
        seen = jax.tree.map(lambda first, x: jnp.where(j == 0, x, first), seen, now)
        k, s = slope(state, G), j % 4
        total = jax.tree.map(lambda sum_, k: jnp.where(s == 0, 0.0, sum_) + weight[s].astype(k.dtype) * k, total, k)
        point = jax.tree.map(lambda x, sum_, k: x + jnp.where(s == 3, sum_, ahead[s].astype(k.dtype) * k), start, total, k)
        start = jax.tree.map(lambda x, end: jnp.where(s == 3, end, x), start, point)
        return state._replace(Wb=point[0], Wa=point[1], beta=point[2], alpha=point[3]), start, total, seen

    start = (state.Wb, state.Wa, state.beta, state.alpha)
    M, C = len(physics.watched), len(state.beta)
    carry = (state, start, jax.tree.map(jnp.zeros_like, start), Seen(jnp.zeros((M, C)), jnp.zeros(())))
    state, _, _, seen = jax.lax.fori_loop(0, 4 * physics.substeps, stage, carry)
    return state, seen


def step(form: Form, physics: Physics, t: Int[Array, ""], state: State) -> tuple[State, Seen]:
    """Everything at index t from what came before it; the state that step t + 1 starts from."""
    state, seen, G = evaluate(form, physics, t, state)
    eta = physics.eta[t - physics.start]
    v: Any = state.velocity or Velocity({}, {}, None, None)

    def moved(W: Array, v: Array | None, G: Array, eta: Array) -> tuple[Array, Array]:
        """The update rule, in the precision of W."""
        eta, momentum, decay = (jnp.asarray(x, W.dtype) for x in (eta, physics.momentum, physics.weight_decay))
        return move(W, v, G, eta, momentum, form.nesterov, decay if form.decays else 0.0)

    Wb, vb = _unzip({l: moved(W, v.Wb.get(l), G.Wb[l], eta[l - 1]) for l, W in state.Wb.items()})
    Wa, va = _unzip({l: moved(W, v.Wa.get(l), G.Wa[l], eta[l]) for l, W in state.Wa.items()})
    beta, v_beta = moved(state.beta, v.beta, G.beta, eta[-1])
    alpha, v_alpha = moved(state.alpha, v.alpha, jnp.zeros_like(state.alpha), eta)
    velocity = Velocity(vb, va, v_alpha, v_beta) if form.momentum else ()
    state = state._replace(Wb=Wb, Wa=Wa, beta=beta, alpha=alpha, velocity=velocity)
    return (_kicked(form, physics, t, state) if form.langevin else state), seen


def _kicked(form: Form, physics: Physics, t: Int[Array, ""], state: State) -> State:
    """The state after Langevin noise of variance 2 temperature eta on every weight; alpha is the deviation of all noise."""
    Wb, Wa, eps_u, eps_r, xi = (dict(x) for x in (state.Wb, state.Wa, state.eps_u, state.eps_r, state.xi))
    dtype = Wb[1].dtype
    size = jnp.sqrt(2 * physics.temperature * physics.eta[t - physics.start])
    alpha = jnp.sqrt(state.alpha**2 + size**2)
    for i in range(form.L + 1):  # the weights W^i: from layer i to layer i + 1
        for part, (W, eps, l) in enumerate(((Wb, eps_u, i + 1), (Wa, eps_r, i))):
            if l not in W:
                continue
            key = jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(state.key), t), 2 * l + part)
            S, K = W[l].shape
            kicks = size[i].astype(dtype) * mirrored(key, (S, K + 1), form.act.odd, dtype)[part]
            W[l] += kicks[:, :K]
            if l in eps:
                eps[l] = (state.alpha[i].astype(dtype) * eps[l] + kicks[:, :K]) / alpha[i].astype(dtype)
            if part == 0 and l in xi:
                xi[l] = (state.alpha[i].astype(dtype) * xi[l] + kicks[:, K]) / alpha[i].astype(dtype)
    return state._replace(Wb=Wb, Wa=Wa, eps_u=eps_u, eps_r=eps_r, xi=xi, alpha=alpha)


def _unzip(pairs: dict[int, tuple[Array, Array]]) -> tuple[Layers, Layers]:
    return {l: x for l, (x, _) in pairs.items()}, {l: v for l, (_, v) in pairs.items()}
