"""The march as a functional of the law of its neurons, which is what a network of finite width is.

A network of width N, conditioned on its own past, is the march (`dmft.site`) with its N neurons for paths: orthonormal
functions b_k, a_k under the average over the neurons, and images W b_k, W^T a_k that start as white noise. Three things differ
from the limit. The noise is plain, each neuron's its own. Averages are those over N neurons. And noise that comes in with a new
function has no part along the functions that W already maps there, for the response terms hold that part:

    eps_r,j  <-  eps_r,j - sum_k b_k <b_k eps_r,j>        k older than j; likewise eps_u,k less its part along older a_j

(zero in the limit, where new noise is independent of everything). So whatever training makes of a network, f say, is
T[mu^1 ... mu^L], T a functional that knows no width, of the empirical laws mu^l of N independent neurons per layer. To first
and second order in the deviation of those laws

    N Cov(f, f') = sum_l < T'_l[f] T'_l[f'] >            T'_l(s): derivative by the weight of neuron s of layer l, mean zero
    N (<f> - f_inf) = 1/2 sum_l < T''_l(s, s) >          (2304.03408 has the same from an action; here nothing is inverted)

Here the paths of a layer carry weights w_s, and averages are sum_s w_s x_s / sum_s w_s. `dmft.fluctuations.response`
differentiates by them.

Which functions enter the bases, and when, is chosen once at w = 1 (`explore`) and stays: the plan. Along it the functional is
smooth: path by path where phi' is, and as an average over paths where phi' jumps.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dmft.physics import Form, Physics
from widthwise import Activation
from widthwise.training import move

Layers = dict[int, Array]


class Plan(NamedTuple):
    """Where new functions come from: a one at (t, m, k) says that function k is born at step t, from point (or field) m.

    b: of phi(h^l), l = 1 ... L - 1: (T+1, points, K). a: of g^l, l = 2 ... L: (T+1, points C, K).
    """

    b: Layers
    a: Layers


class Noise(NamedTuple):
    """White noise of the paths: eps_u (S, rank of the inputs or K) and eps_r (S, K or C), l = 1 ... L."""

    u: Any
    r: Any


class Images(NamedTuple):
    """What moves as the weights do: images W b, W^T a, and alpha, what decay left of the initial weights."""

    Wb: Layers
    Wa: Layers
    alpha: Float[Array, "weights"]


class State(NamedTuple):
    """What the past leaves behind: images and their velocities (None without momentum), noise without its part along older
    functions, bases, their sizes, largest mean squares of g so far, f at the start; phi and g at the K kept steps (K, S, M) and
    (K, S, M C)."""

    images: Images
    velocity: Images | None
    eps: Noise
    b: Layers
    a: Layers
    size: dict[str, Layers]
    size_g: Layers
    f0: Float[Array, "points outputs"]
    phi: Layers
    g: Layers


class Now(NamedTuple):
    """A step: whether it is the first, its place among the kept ones (K for none), its learning rates, its batch among the
    points, with targets."""

    first: Any
    slot: Any
    eta: Float[Any, "weights"]
    batch: Int[Any, "batch"]
    y: Float[Any, "batch outputs"]


class Seen(NamedTuple):
    """f (T+1, M, C), and two-time kernels Phi and G (L, K, M, K, M) of the kept steps; G is a mean over outputs."""

    f: Any
    Phi: Any
    G: Any


def average(w: Float[Array, "S"], x: Float[Array, "S i"], y: Float[Array, "S k"]) -> Float[Array, "i k"]:
    """<x_i y_k> under the law of these weights."""
    return (x.T * (w / w.sum())) @ y


@cache
def jumps(act: Activation) -> bool:
    """Whether phi' is not the integral of its derivative."""
    h = np.linspace(-4.0, 4.0, 4001)
    with jax.ensure_compile_time_eval():
        d, slope = (np.asarray(x) for x in jax.jvp(act.d, (jnp.asarray(h),), (jnp.ones(len(h)),)))
    rise = np.concatenate([[0.0], np.cumsum((slope[1:] + slope[:-1]) / 2 * np.diff(h))])
    return bool(np.abs(d - d[0] - rise).max() > 0.01)


def step(
    form: Form, physics: Physics, w: Layers, state: State, now: Now, plan: Plan | None, centered: bool
) -> tuple[State, Float[Array, "points outputs"], Plan]:
    """One step of training, as in `dmft.site.step`, and f before it; without a plan it is chosen: the largest rests."""
    L, root, gamma0, C = form.L, physics.watched, physics.gamma0, physics.y.shape[1]
    images, eps = state.images, Noise(dict(state.eps.u), dict(state.eps.r))
    velocity = state.velocity
    b, a, size_g = dict(state.b), dict(state.a), dict(state.size_g)
    size = {name: dict(sizes) for name, sizes in state.size.items()}
    chosen = Plan({}, {})

    def without_old(l: int, i: int, old: Array, place: Array, part: str) -> None:
        """Noise of functions born now loses its part along the older ones of layer l, and so do their images by W^i."""
        nonlocal images, velocity
        noise, W = ("u", "Wb") if part == "b" else ("r", "Wa")
        x = (getattr(eps, noise)[l], getattr(images, W)[l], None if velocity is None else getattr(velocity, W)[l])

        def born(x: tuple) -> tuple:
            held = old @ (average(w[l], old, x[0]) * place.sum(0))
            v = None if velocity is None else x[2] - velocity.alpha[i] * held
            return x[0] - held, x[1] - images.alpha[i] * held, v

        getattr(eps, noise)[l], changed, v = jax.lax.cond(place.any(), born, lambda x: x, x)
        images = images._replace(**{W: getattr(images, W) | {l: changed}})
        if velocity is not None:
            velocity = velocity._replace(**{W: getattr(velocity, W) | {l: v}})

    row_u: Layers = {1: root}
    h: Layers = {}
    phi: Layers = {}
    for l in range(1, L + 1):
        if l > 1:
            i, least = l - 1, physics.tol * jnp.mean(phi[l - 1] ** 2)
            b[i], row_u[l], chosen.b[i], size["b"][i] = extend(w[i], b[i], phi[i], plan and plan.b[i], least, size["b"][i])
            without_old(l, i, a[l], chosen.b[i], "b")
        h[l] = images.Wb[l] @ row_u[l].T
        if l > 1:
            h[l] += a[l] @ (images.alpha[l - 1] * average(w[l - 1], phi[l - 1], eps.r[l - 1])).T  # A = <phi eps_r>
        phi[l] = form.act.phi(h[l])
    f = average(w[L], phi[L], images.Wa[L]) / gamma0
    f0 = jnp.where(now.first & centered, f, state.f0)
    f = f - f0

    row_r: Layers = {L: jnp.tile(jnp.eye(C), (len(root), 1))}  # fields (m, c), c fastest
    g: Layers = {}
    for l in range(L, 0, -1):
        if l < L:
            size_g[l + 1] = jnp.maximum(size_g[l + 1], jnp.mean(g[l + 1] ** 2))
            a[l + 1], row_r[l], chosen.a[l + 1], size["a"][l + 1] = extend(
                w[l + 1], a[l + 1], g[l + 1], plan and plan.a[l + 1], physics.tol * size_g[l + 1], size["a"][l + 1]
            )
            without_old(l, l, b[l], chosen.a[l + 1], "a")
        z = images.Wa[l] @ row_r[l].T
        if l < L:
            z += b[l] @ (images.alpha[l] * average(w[l + 1], g[l + 1], eps.u[l + 1])).T  # B = <g eps_u>
        g[l] = jnp.repeat(form.act.d(h[l]), C, axis=1) * z

    Delta = jnp.zeros_like(f).at[now.batch].set(form.loss.minus_gradient(f[now.batch], now.y) / len(now.batch))
    weights = gamma0 * Delta.ravel()
    G = Images(
        {l: g[l] @ (weights[:, None] * jnp.repeat(row_u[l], C, axis=0)) for l in g},
        {l: jnp.repeat(phi[l], C, axis=1) @ (weights[:, None] * row_r[l]) for l in g},
        jnp.zeros(L + 1),
    )
    rates = Images({l: now.eta[l - 1] for l in g}, {l: now.eta[l] for l in g}, now.eta)
    rule: Any = (physics.momentum, form.nesterov, physics.weight_decay if form.decays else 0.0)
    none = [None] * len(jax.tree.leaves(images))
    each = zip(
        *(jax.tree.leaves(x) for x in (images, G, rates)), none if velocity is None else jax.tree.leaves(velocity), strict=True
    )
    moved, kept = zip(*(move(x, v, dx, eta, *rule) for x, dx, eta, v in each), strict=True)
    tree = jax.tree.structure(images)
    images = jax.tree.unflatten(tree, moved)
    velocity = None if velocity is None else jax.tree.unflatten(tree, kept)

    kept_phi, kept_g = (
        {l: x.at[now.slot].set(y[l], mode="drop") if len(x) else x for l, x in old.items()}
        for old, y in ((state.phi, phi), (state.g, g))
    )
    return State(images, velocity, eps, b, a, size, size_g, f0, kept_phi, kept_g), f, chosen


def extend(
    w: Float[Array, "S"], e: Float[Array, "S K"], F: Float[Array, "S n"], place: Any, least: Array, size: Array
) -> tuple[Array, Array, Array, Array]:
    """Expand the functions F in the basis e, which the plan lets grow: e, rows (n, K), plan (n, K), size.

    New functions are the rests of their points, made orthonormal by the Cholesky factor of their Gram matrix.
    """
    n = F.shape[1]
    row = average(w, F, e)

    def rests(row: Array) -> tuple[Array, Array]:
        rest = F - e @ row.T
        again = average(w, rest, e)
        return rest - e @ again.T, row + again

    if place is None:
        rest, _ = rests(row)
        order = pivots(average(w, rest, rest), least)
        place = jax.nn.one_hot(jnp.where(order < n, size + order, -1), e.shape[1])
        size = size + jnp.sum(order < n)

    def grow(_: None) -> tuple[Array, Array]:
        rest, longer = rests(row)
        chosen = place.sum(1)
        gram = average(w, rest, rest) * chosen * chosen[:, None] + jnp.diag(1 - chosen)
        new = jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(gram), (rest * chosen).T, lower=True).T
        return e + new @ place, longer + average(w, F, new) @ place

    e, row = jax.lax.cond(place.any(), grow, lambda _: (e, row), None)
    return e, row, place, size


def pivots(gram: Float[Array, "n n"], least: Array) -> Array:
    """Turn (0, 1, ...) at which each function is taken, largest rest first, down to `least`; n for those that are not."""
    n = len(gram)

    def body(i: Array, carry: tuple) -> tuple:
        gram, order = carry
        m = jnp.argmax(jnp.diagonal(gram))
        enough = gram[m, m] > least
        c = gram[:, m] / jnp.sqrt(jnp.where(enough, gram[m, m], 1.0))
        return jnp.where(enough, gram - jnp.outer(c, c), gram), jnp.where(enough, order.at[m].set(i), order)

    return jax.lax.fori_loop(0, n, body, (gram, jnp.full(n, n)))[1]


def start(form: Form, physics: Physics, noise: Noise, rank: tuple[int, int], num_kept: int) -> State:
    """Before the first step: no functions, images are noise."""
    L, (M, C), S = form.L, (len(physics.watched), physics.y.shape[1]), len(noise.r[form.L])
    images = Images(noise.u, noise.r, jnp.ones(L + 1))
    b = {l: jnp.zeros((S, rank[0])) for l in range(1, L)}
    a = {l: jnp.zeros((S, rank[1])) for l in range(2, L + 1)}
    sizes = {"b": dict.fromkeys(b, jnp.zeros((), int)), "a": dict.fromkeys(a, jnp.zeros((), int))}
    velocity = jax.tree.map(jnp.zeros_like, images) if form.momentum else None
    phi, g = ({l: jnp.zeros((num_kept, S, n)) for l in range(1, L + 1)} for n in (M, M * C))
    return State(images, velocity, noise, b, a, sizes, dict.fromkeys(a, jnp.zeros(())), jnp.zeros((M, C)), phi, g)


@partial(jax.jit, static_argnames=("form", "centered", "rank"))
def explore(
    form: Form, physics: Physics, noise: Noise, steps: Now, *, centered: bool, rank: tuple[int, int]
) -> tuple[Plan, dict[str, Layers]]:
    """The plan, and the sizes that the bases come to (more than `rank` says: it was too little)."""
    w = {l: jnp.ones(len(noise.r[l])) for l in range(1, form.L + 1)}

    def body(state: State, now: Now) -> tuple[State, Plan]:
        state, _, plan = step(form, physics, w, state, now, None, centered)
        return state, plan

    state, plan = jax.lax.scan(body, start(form, physics, noise, rank, 0), steps)
    return plan, state.size


def train(
    form: Form, physics: Physics, w: Layers, noise: Noise, steps: Now, plan: Plan, *, centered: bool, num_kept: int, shown: int
) -> Seen:
    """What training shows, as a smooth function of the weights w of the paths of each layer; kernels from point `shown` on."""
    rank = tuple(next((x.shape[-1] for x in basis.values()), 0) for basis in plan)

    @jax.checkpoint
    def body(state: State, now: tuple[Now, Plan]) -> tuple[State, Array]:
        state, f, _ = step(form, physics, w, state, *now, centered)
        return state, f

    state, f = jax.lax.scan(body, start(form, physics, noise, (rank[0], rank[1]), num_kept), (steps, plan))

    def kernels(kept: Layers, outputs: int) -> Array:
        stacked = []
        for l, x in kept.items():  # (K, S, M C)
            fields = x.reshape(*x.shape[:2], x.shape[2] // outputs, outputs)[:, :, shown:]
            stacked.append(jnp.einsum("s,ksmc,jsnc->kmjn", w[l] / w[l].sum(), fields, fields) / outputs)
        return jnp.stack(stacked)

    return Seen(f, kernels(state.phi, 1), kernels(state.g, physics.y.shape[1]))
