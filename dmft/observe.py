"""What is measured on the paths of the march: fields at the kept steps, and the kernels between them."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dmft import site
from dmft.method import trajectory_of
from dmft.physics import Form, Physics
from dmft.site import REPLICAS, Layers, State
from widthwise import Problem, curvature
from widthwise.sharding import host

MOST_FIELDS = 256
"""Gradient fields (points times outputs) up to which those of every output are measured."""

EVERY_OUTPUT = ("sharpness", "z", "phi_r", "g_u")
"""What needs them all."""


def num_gradients(num_points: int, num_outputs: int, save: tuple[str, ...]) -> int:
    """Of how many outputs, or combinations of outputs, the gradient fields of a point are measured."""
    if {*EVERY_OUTPUT} & {*save}:
        return num_outputs
    return min(num_outputs, max(MOST_FIELDS // num_points, 1))


class Fields(NamedTuple):
    """Fields at the watched points at one step, (R, S, M) per layer, and what the responses are made of.

    Attributes:
        h, phi: as in `dmft.site`.
        z, g: (R, S, M n) for n = `num_gradients` outputs, which are all C of them, or else n orthonormal random combinations,
            others in every replica: the mean of g g over them is on average that over outputs.
        row_u, row_r: coordinates (R, M, K) of u^l and (R, M n, K) of r^l.
        phi_eps, g_eps: <phi(h^l) eps_r^l> (R, M, K) and <g^l eps_u^l> (R, M n, K).
        change: (R, L) root mean square over paths and points of h^l(t) - h^l(0), zero where the start is not known.
    """

    h: Layers
    phi: Layers
    z: Layers
    g: Layers
    row_u: Layers
    row_r: Layers
    phi_eps: Layers
    g_eps: Layers
    change: Float[Array, "R layers"]


class Start(NamedTuple):
    """h^l and the coordinates of u^l at the first step, as in `Fields`."""

    h: Layers
    row_u: Layers


@partial(jax.jit, static_argnames=("form", "num_gradients"), donate_argnames="state")
def fields(form: Form, physics: Physics, state: State, num_gradients: int, start: Start | None = None) -> tuple[State, Fields]:
    """The fields at this step, and the state that knows the functions which they brought."""
    return jax.vmap(partial(_fields, form, physics, num_gradients), axis_name=REPLICAS)(state, start)


def _fields(form: Form, physics: Physics, n: int, state: State, start: Start | None) -> tuple[State, Fields]:
    M, C = len(physics.watched), len(state.beta)
    omega = jnp.eye(C)
    if n < C:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), 2**31 - 1)
        omega = jax.random.orthogonal(key, C)[:n]
    seen = site.forward(form, physics, state, physics.watched, M)
    h = {l: jnp.repeat(x, n, axis=1) for l, x in seen.h.items()}
    back = site.backward(form, physics, state, seen, h, jnp.tile(omega, (M, 1)), jnp.zeros_like(state.size_g), M * n)
    dtype = state.Wb[1].dtype
    alpha = state.alpha.astype(dtype)
    phi_eps = {l: site.average(seen.phi[l], eps) * alpha[l] for l, eps in state.eps_r.items()}
    g_eps = {l: site.average(back.g[l], eps) * alpha[l - 1] for l, eps in state.eps_u.items()}
    b, a = (
        {l: basis._replace(live=old[l].live) for l, basis in new.items()}  # nobody is driven by being looked at
        for new, old in ((seen.b, state.b), (back.a, state.a))
    )
    change = jnp.zeros(form.L) if start is None else _change(form, state, start, seen)
    return state._replace(b=b, a=a), Fields(seen.h, seen.phi, back.z, back.g, seen.row_u, back.row_r, phi_eps, g_eps, change)


def _change(form: Form, state: State, start: Start, seen: site.Forward) -> Float[Array, "layers"]:
    """Root mean square of h^l(t) - h^l(0), to the relative accuracy of tol however small it is.

    Rows leave out functions of mean square tol <phi^2>, which may be most of a change. So to the difference of the fields as
    they stand comes the image of what the difference of the rows misses of the change of phi,

        missing = alpha (phi(t) - row(t) . b) - (phi(0) - row(0) . b)

    under the initial weights: known for the part of it along b, and noise of its own, of known variance, for the rest.
    """
    change = {1: seen.h[1] - start.h[1]}
    for l in range(2, form.L + 1):
        b, h = seen.b[l - 1].e, start.h[l - 1]
        first = jnp.pad(start.row_u[l], ((0, 0), (0, b.shape[1] - start.row_u[l].shape[1])))
        now = (form.act.phi(h + change[l - 1]) - b @ seen.row_u[l].T) * state.alpha[l - 1].astype(b.dtype)
        missing = now - (form.act.phi(h) - b @ first.T)
        row = site.average(missing, b)
        rest = jnp.maximum(jnp.mean(missing**2, axis=0) - jnp.sum(row**2, axis=1), 0.0)
        change[l] = seen.h[l] - start.h[l] + state.eps_u[l] @ row.T + state.xi[l][:, None] * jnp.sqrt(rest)
    return jnp.stack([jnp.sqrt(jnp.mean(x.astype(float) ** 2)) for _, x in sorted(change.items())])


def outputs_kernel(kept: list[Fields], C: int) -> Float[np.ndarray, "R kept L M C M C"]:
    """<g^l_mc(t) g^l_nc'(t)> at the kept steps."""
    steps = [np.stack([host(overlap([x], [x])) for _, x in sorted(one.g.items())], axis=1) for one in kept]
    R, L, MC, _ = steps[0].shape
    return np.stack(steps, axis=1).reshape(R, len(steps), L, MC // C, C, MC // C, C)


def saved(
    problem: Problem,
    f: Float[np.ndarray, "R states points outputs"],
    kept: list[Fields],
    kernel_steps: Int[np.ndarray, "kept"],
    save: tuple[str, ...],
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Phi and G (R, L, K, M, K, M), and what else is to be saved; kept steps that a diverging run did not reach are NaN.

    Args:
        f: outputs of every replica.
        kept: fields at the kept steps that were reached.
    """
    training, (R, _, M, C) = problem.training, f.shape
    n = num_gradients(M, C, save)
    L, K, bias = problem.architecture.depth, len(kernel_steps), problem.architecture.bias
    rates = training.rates(L)

    def full(x: np.ndarray) -> np.ndarray:
        """(R, reached, ...) with NaN for the steps not reached."""
        out = np.full((R, K, *x.shape[2:]), np.nan)
        out[:, : x.shape[1]] = x
        return out

    def two_times(rows: list[Layers], columns: list[Layers], product: Any, layers: list[int]) -> np.ndarray:
        """product(row(t), column(s)) of every layer and pair of kept steps: (R, layers, K, M, K, M)."""
        out = np.full((R, len(layers), K, M, K, M), np.nan)
        n = len(rows)
        for place, l in enumerate(layers if n else []):
            blocks = product([x[l] for x in rows], [x[l] for x in columns])
            out[:, place, :n, :, :n] = host(blocks).reshape(R, n, M, n, M)
        return out

    def per_layer(steps: list[Layers]) -> np.ndarray:
        """(R, K, L, M, S)"""
        stacked = [np.stack([np.swapaxes(host(x), 1, 2) for _, x in sorted(step.items())], 1) for step in steps]
        return full(np.stack(stacked, 1)) if stacked else np.zeros((R, K, L, M, 0))

    def first(fields: Layers, axis: int) -> Layers:
        """Of the first output."""
        return {l: x[(slice(None),) * axis + (slice(None, None, n),)] for l, x in fields.items()}

    layers = list(range(1, L + 1))
    phi = [x.phi for x in kept]
    Phi = two_times(phi, phi, overlap, layers)
    each = [[{l: y[..., c::n] for l, y in x.g.items()} for x in kept] for c in range(n)]
    G = sum((two_times(g, g, overlap, layers) for g in each), np.zeros(())) / n
    trajectory = trajectory_of(problem, f, kernel_steps, Phi, G, batch_loss=np.zeros(f.shape[:2]))

    def sharpness_of() -> np.ndarray:
        if C == 1:
            kernel = trajectory.tangent_kernel(problem.Phi0, rates, bias)[:, :, :, None, :, None]
        else:
            G_all = full(outputs_kernel(kept, C))
            Phi_all = np.moveaxis(trajectory.equal_time("Phi"), 1, 2) + bias**2  # (R, K, L, M, M)
            before = np.concatenate([np.broadcast_to(problem.Phi0, (R, K, 1, M, M)), Phi_all[:, :, :-1]], axis=2)
            kernel = np.einsum("l,rklmcnd,rklmn->rkmcnd", rates[:L], G_all, before)
            kernel += rates[L] * np.einsum("rkmn,cd->rkmcnd", Phi_all[:, :, -1], np.eye(C))
        return curvature.sharpness(problem, kernel, f[:, kernel_steps])

    ways = {
        "NTK": lambda: trajectory.tangent_kernel(problem.Phi0, rates, bias),
        "eigenvalues": lambda: curvature.eigenvalues(problem, trajectory.tangent_kernel(problem.Phi0, rates, bias)),
        "sharpness": sharpness_of,
        "update_size": lambda: full(np.stack([host(x.change) for x in kept], axis=1) if kept else np.zeros((R, 0, L))),
        "phi_r": lambda: two_times([x.phi_eps for x in kept], [first(x.row_r, 1) for x in kept], contract, layers[:-1]),
        "g_u": lambda: two_times([first(x.g_eps, 1) for x in kept], [x.row_u for x in kept], contract, layers[1:]),
        "h": lambda: per_layer([x.h for x in kept]),
        "z": lambda: per_layer([first(x.z, 2) for x in kept]),
    }
    return Phi, G, {name: ways[name]() for name in save}


def overlap(xs: list[Float[Array, "R S M"]], ys: list[Float[Array, "R S M"]]) -> Float[Array, "R KM KM"]:
    """<x_m(t) x_n(s)>; exactly symmetric."""
    x = jnp.concatenate(xs, axis=-1)
    product = jnp.einsum("rsm,rsn->rmn", x, x) / x.shape[1]
    return (product + jnp.swapaxes(product, 1, 2)) / 2


def contract(xs: list[Float[Array, "R M K"]], rows: list[Float[Array, "R N K'"]]) -> Float[Array, "R KM KN"]:
    """<x_m(t) eps> . row_n(s), over the directions that both know (x feels no noise that came later)."""
    K = max(x.shape[-1] for x in [*xs, *rows])
    x, row = (jnp.concatenate([jnp.pad(y, ((0, 0), (0, 0), (0, K - y.shape[-1]))) for y in ys], 1) for ys in (xs, rows))
    return jnp.einsum("rmk,rnk->rmn", x, row)
