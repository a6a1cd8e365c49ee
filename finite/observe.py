"""What is seen of a network at the probes: f and losses at every recorded step, what `save` names at the kept ones.

Weights are looked at in units of the gradient-descent rates c_W of the table, whatever the optimizer: with W = W(t) +
sqrt(c_W) delta_W, gradient descent is delta <- delta - eta d loss / d delta, and derivatives by delta at 0 give

    NTK_rs = mean over outputs c of  d f_rc / d delta . d f_sc / d delta                              (1806.07572)
    sharpness = lambda_max(J^T H J),  H = d^2 loss / d f d f',  J = d f / d delta           (Gauss-Newton)
    hessian   = lambda_max(d^2 loss / d delta d delta')          (gradient descent is stable below 2 / eta0: 2103.00065)

    G_mn = mean over outputs c of  g_mc . g_nc / size,  g_mc = d f_mc / d h_m / (a_L b_L)

with a_L, b_L as in `finite.mlp`: NTK, sharpness and G are, of the theory's networks, those of a Trajectory. Of tokens f is what
is recorded of them, one function per place: NTK has a row per place, g is of their sum. Nothing here holds a Jacobian larger
than ROWS_BYTES or a Hessian: NTK is made of blocks of rows, eigenvalues are found by products with vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from finite import ensemble
from finite.ensemble import Program, State
from finite.networks import is_weight
from finite.networks.weight import Fields
from widthwise import Problem, Trajectory, check
from widthwise.curvature import num_trained
from widthwise.data import Stream
from widthwise.outputs import judged, kernel, recorded, targets
from widthwise.precision import working
from widthwise.sharding import host

ROWS_BYTES = 256 * 2**20
"""What the rows of a Jacobian, with the fields that they come from, may take at a time (but two rows there are always)."""

TOLERANCE = 1e-3
"""Of top eigenvalues: |A v - lambda v| < TOLERANCE |lambda|, which bounds the relative error of lambda, mostly by far."""

LANCZOS = 16
"""Vectors of a Lanczos basis."""

RESTARTS = 50
"""Of Lanczos; a top eigenvalue that is not found then is NaN."""


class Looks(NamedTuple):
    """What to look at.

    Attributes:
        program: of the training.
        names: of `NAMES`.
        unit: a_L b_L.
        judged: first and last + 1 of the probes that eigenvalues are of: of a Task the train points (the test points if
            training is online), as in theory; all of a Stream.
    """

    program: Program
    names: tuple[str, ...]
    unit: float
    judged: tuple[int, int]

    @staticmethod
    def of(program: Program, problem: Problem, names: tuple[str, ...], width: int, num_probes: int) -> Looks:
        online = not isinstance(problem.task, Stream) and problem.training.online
        P = num_probes if isinstance(problem.task, Stream) else num_trained(problem)
        judged = (num_probes - P, num_probes) if online else (0, P)
        return Looks(program, names, problem.parameterization.gradient_unit(width), judged)


@dataclass(frozen=True)
class View:
    """One network at the probes x (M, ...), y."""

    looks: Looks
    state: State
    x: Array
    y: Array

    @cached_property
    def seen(self) -> tuple[Float[Array, "M ... outputs"], Fields]:
        """f, not centred, and the fields."""
        return ensemble.outputs(self.state.network, self.x)

    @cached_property
    def NTK(self) -> Float[Array, "rows rows"]:
        return tangent_kernel(self.looks.program, self.state.network, self.x, self.y)

    @property
    def loss(self) -> tuple[Callable, Callable]:
        """delta -> f at the judged probes (samples, outputs); f -> their loss."""
        first, last = self.looks.judged
        x, y, program = self.x[first:last], self.y[first:last], self.looks.program
        near = around(self.state.network)[0]

        def predict(delta: Float[Array, "parameters"]) -> Float[Array, "samples outputs"]:
            f, _ = ensemble.centred(program, self.state._replace(network=near(delta)), x)
            return f.reshape(-1, f.shape[-1])

        return predict, lambda f: program.loss.of(*targets(f, y)).mean()


# --- fields -------------------------------------------------------------------------------------------------------------------


def hidden(fields: Fields) -> Fields:
    """Fields of neurons: all but attention."""
    return {name: h for name, h in fields.items() if not name.startswith("attention")}


def update_size(view: View) -> Fields:
    """rms of h(t) - h(0)."""
    _, first = ensemble.outputs(view.state.start, view.x)
    return {name: jnp.sqrt(jnp.mean((h - first[name]) ** 2)) for name, h in hidden(view.seen[1]).items()}


def gradient_kernels(view: View) -> Fields:
    """G of every field."""
    network, unit = view.state.network, view.looks.unit

    def function(push: Fields, c: Int[Array, ""]) -> Float[Array, ""]:
        f, _ = jax.vmap(network)(view.x, push)
        return recorded(f, view.y)[:, c].sum() / unit

    still = jax.tree.map(jnp.zeros_like, hidden(view.seen[1]))
    C = recorded(view.seen[0], view.y).shape[-1]

    def add(c: Int[Array, ""], total: Fields) -> Fields:
        g = jax.grad(function)(still, c)
        return {name: total[name] + kernel(g[name]) / C for name in total}

    return jax.lax.fori_loop(0, C, add, {name: jnp.zeros((len(h), len(h))) for name, h in still.items()})


# --- the tangent kernel -------------------------------------------------------------------------------------------------------


def around(network: Any) -> tuple[Callable[[Float[Array, "parameters"]], Any], Float[Array, "parameters"]]:
    """delta -> the network with weights W + sqrt(c_W) delta_W; and delta = 0."""
    root = jax.tree.map(lambda W: replace(W, value=jnp.full_like(W.value, W.descent_rate**0.5)), network, is_leaf=is_weight)
    (here, back), there = ravel_pytree(network), ravel_pytree(root)[0]
    return lambda delta: back(here + there * delta), jnp.zeros_like(here)


def rows_at_a_time(network: Any, x: Any, rows: int, budget: float) -> tuple[int, int]:
    """How many rows of the Jacobian, with the fields they come from, take half of `budget` bytes; those of two such blocks."""
    _, fields = jax.eval_shape(lambda network, x: network(x), network, jax.ShapeDtypeStruct(x.shape[1:], x.dtype))
    two = 2 * working().itemsize * (2 * _size(network) + 4 * _size(fields))  # a gradient is there before and after sqrt(c_W)
    b = int(np.clip(budget // two, 1, rows))
    return b, b * two


def tangent_kernel(
    program: Program, network: Any, x: Float[Array, "M ..."], y: Array, budget: float = ROWS_BYTES
) -> Float[Array, "rows rows"]:
    """NTK, a row per sample, of tokens one per place, in blocks of rows that take `budget` bytes."""
    shape = jax.eval_shape(lambda: recorded(ensemble.outputs(network, x)[0], y)).shape
    (R, C), places = shape, shape[0] // len(x)
    near, zero = around(network)

    def row(r: Int[Array, ""], c: Int[Array, ""]) -> Float[Array, "parameters"]:
        m = r // places

        def function(delta: Float[Array, "parameters"]) -> Float[Array, ""]:
            return recorded(ensemble.outputs(near(delta), x[m][None])[0], y[m][None])[r % places, c]

        return jax.grad(function)(zero)

    b, _ = rows_at_a_time(network, x, R, budget)
    n = -(-R // b)

    def rows(i: Int[Array, ""], c: Int[Array, ""]) -> Float[Array, "b parameters"]:
        return jax.vmap(row, (0, None))(jnp.minimum(i * b + jnp.arange(b), R - 1), c)  # the last block is filled up

    def add(k: Int[Array, ""], K: Float[Array, "n n b b"]) -> Float[Array, "n n b b"]:
        i, c = k % n, k // n
        J = rows(i, c)
        K = K.at[i, i].add(J @ J.T)
        return K if n == 1 else jax.lax.fori_loop(i + 1, n, lambda j, K: K.at[i, j].add(J @ rows(j, c).T), K)

    K = jax.lax.fori_loop(0, n * C, add, jnp.zeros((n, n, b, b))) / C
    upper = jnp.triu(K.swapaxes(1, 2).reshape(n * b, n * b)[:R, :R])
    return upper + jnp.triu(upper, 1).T


def eigenvalues(view: View) -> Float[Array, "rows"]:
    """Of NTK / P over the P judged rows, largest first."""
    places = len(view.NTK) // len(view.x)
    judged = slice(*(places * m for m in view.looks.judged))
    K = view.NTK[judged, judged]
    return jnp.linalg.eigvalsh(K / len(K))[::-1]


# --- the loss near the weights ------------------------------------------------------------------------------------------------


def gauss_newton(view: View, v: Float[Array, "parameters"]) -> Float[Array, "parameters"]:
    """J^T H J v"""
    predict, loss = view.loss
    f, Jv = jax.jvp(predict, (zero := jnp.zeros_like(v),), (v,))
    _, HJv = jax.jvp(jax.grad(loss), (f,), (Jv,))
    return jax.vjp(predict, zero)[1](HJv)[0]


def hessian(view: View, v: Float[Array, "parameters"]) -> Float[Array, "parameters"]:
    """(d^2 loss / d delta d delta') v"""
    predict, loss = view.loss
    return jax.jvp(jax.grad(lambda delta: loss(predict(delta))), (jnp.zeros_like(v),), (v,))[1]


def top_eigenvalue(
    product: Callable[[Float[np.ndarray, "n"]], Float[Array, "n"]],
    n: int,
    tolerance: float = TOLERANCE,
    restarts: int = RESTARTS,
    dtype: type = np.float32,
) -> float:
    """Largest eigenvalue of the symmetric matrix with these products with vectors, by Lanczos; NaN if it is not found.

    ARPACK starts in the range of A, and sees no eigenvalue 0: where it finds none above, A + shift is asked for it.

    Args:
        product: v -> A v.
        n: length of v.
        dtype: of v.
        tolerance: of |A v - lambda v| / |lambda|.
        restarts: after which it is given up.

    Example:
        >>> values = np.arange(-400.0, 200.0, dtype=np.float32)
        >>> round(top_eigenvalue(lambda v: values * v, 600), 1)
        199.0
        >>> top_eigenvalue(lambda v: values * v, 600, restarts=1)
        nan
        >>> top_eigenvalue(lambda v: np.minimum(values, 0.0) * v, 600), top_eigenvalue(lambda v: 0.0 * v, 600)
        (0.0, 0.0)
    """
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh  # imported where used

    start: np.ndarray = np.random.default_rng(0).standard_normal(n).astype(dtype)
    first = host(product(start))
    if not np.isfinite(first).all():
        return np.nan
    if not first.any():
        return 0.0
    settings: dict[str, Any] = {"which": "LA", "tol": tolerance, "maxiter": restarts, "return_eigenvectors": False}

    def top(shift: float) -> float:
        A = LinearOperator((n, n), matvec=lambda v: host(product(v.ravel())) + dtype(shift) * v.ravel(), dtype=dtype)
        return float(eigsh(A, 1, v0=start, ncv=min(LANCZOS, n), **settings)[0]) - shift

    try:
        found = top(0.0)
        if found < 0:
            shift = -2 * found
            found = top(shift)
            return found if found < -tolerance * shift else 0.0
        return found
    except ArpackError:
        return np.nan


# --- all together -------------------------------------------------------------------------------------------------------------

OBSERVABLES: dict[str, Callable[[View], Array | Fields]] = {
    "update_size": update_size,
    "kernels": lambda view: {name: kernel(h) for name, h in hidden(view.seen[1]).items()},
    "gradient_kernels": gradient_kernels,
    "h": lambda view: hidden(view.seen[1]),
    "attention": lambda view: {name: h for name, h in view.seen[1].items() if name.startswith("attention")},
    "NTK": lambda view: view.NTK,
    "eigenvalues": eigenvalues,
}
"""By name in `save`; those of fields come by field, as "kernels/h1" (but "attention1" as it is)."""

OPERATORS: dict[str, Callable[[View, Array], Array]] = {"sharpness": gauss_newton, "hessian": hessian}
"""Of which `save` names the top eigenvalue."""

NAMES = (*OBSERVABLES, *OPERATORS)


def check_save(save: Iterable[str], problem: Problem, num_kept: int) -> tuple[str, ...]:
    """The names in `save`, each once.

    Raises:
        ValueError: an unknown name; no kept step to measure at; update_size of networks whose start is not kept; eigenvalues of
            online training without targets at the test points.
    """
    given = [save] if isinstance(save, str) else check.sequence("save", save, like="['sharpness']")
    for name in given:
        if name in Trajectory.NAMES and name not in NAMES:
            raise ValueError(
                f"save={name!r} is of an MLP on a Task under plain gradient descent; of other networks it is one of "
                f"{', '.join(map(repr, NAMES))}."
            )
        check.choice("save", name, NAMES)
    if given and not num_kept:
        raise ValueError(f"save={tuple(given)} is measured at the kept steps, and save_kernels=[] keeps none.")
    if "update_size" in given and not problem.parameterization.centered:
        raise ValueError("update_size compares with the start, which is kept where outputs are centred: centered=True.")
    blind = not isinstance(problem.task, Stream) and problem.training.online and problem.task.y_test is None
    if blind and {"eigenvalues", *OPERATORS} & {*given}:
        raise ValueError("eigenvalues of online training are taken at the test points: give the task y_test.")
    return tuple(name for name in NAMES if name in given)


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def needs(looks: Looks, state: State, x: np.ndarray, y: np.ndarray) -> tuple[int, int]:
    """How many numbers `look` leaves of each network of `state` (shapes suffice), and bytes that it needs to see one."""
    seeds = len(jax.tree.leaves(state.network)[0])
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), state.network)
    _, fields = jax.eval_shape(lambda network, x: jax.vmap(network)(x), one, x)
    floats = 4 * _size(fields)
    if OPERATORS.keys() & {*looks.names}:
        floats += (LANCZOS + 20) * _size(one) + 4 * _size(fields)  # its basis; what a product passes through
    rows = rows_at_a_time(one, x, y.size, ROWS_BYTES)[1] if {"NTK", "eigenvalues"} & {*looks.names} else 0
    numbers = _size(jax.eval_shape(partial(_observe, looks), state, x, y)) // seeds + len(looks.names)
    return numbers, working().itemsize * floats + rows


def look(looks: Looks, state: State, x: Any, y: Any) -> dict[str, Float[Any, "seeds ..."]]:
    """What `looks` names, of one network after the other."""
    seeds, n, dtype = len(jax.tree.leaves(state.network)[0]), _size(state.network), working().type
    tops = {
        name: np.array(
            [top_eigenvalue(partial(_product, name, looks, state, x, y, i), n // seeds, dtype=dtype) for i in range(seeds)],
            dtype,
        )
        for name in looks.names
        if name in OPERATORS
    }
    return _observe(looks, state, x, y) | tops


@partial(jax.jit, static_argnames=("name", "looks"))
def _product(
    name: str, looks: Looks, state: State, x: Array, y: Array, seed: Int[Any, ""], v: Float[Any, "parameters"]
) -> Float[Array, "parameters"]:
    """The operator of this name times v, of one of the networks."""
    with jax.default_matmul_precision("highest"):
        return OPERATORS[name](View(looks, jax.tree.map(lambda leaf: leaf[seed], state), x, y), v)


@partial(jax.jit, static_argnames="looks")
def _observe(looks: Looks, state: State, x: Array, y: Array) -> dict[str, Float[Array, "seeds ..."]]:
    def one(state: State) -> dict[str, Array]:
        view = View(looks, state, x, y)
        out: dict[str, Array] = {}
        for name in (name for name in looks.names if name in OBSERVABLES):
            value = OBSERVABLES[name](view)
            whole = name == "attention"
            out |= {k if whole else f"{name}/{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
        return out

    with jax.default_matmul_precision("highest"):
        return jax.lax.map(one, state)


@partial(jax.jit, static_argnames="program")
def measure(
    program: Program, state: State, x: Array, y: Array, batch: tuple[Array, Array]
) -> dict[str, Float[Array, "seeds ..."]]:
    """f at the probes as `recorded`. Losses, and accuracy where there are classes."""

    def one(state: State) -> dict[str, Array]:
        f, _ = ensemble.centred(program, state, x)
        seen = judged(program.loss, f, y)
        of_batch, _ = ensemble.centred(program, state, batch[0])
        seen["loss"] = program.loss.of(*targets(of_batch, batch[1])).mean()
        return seen

    return ensemble.each(one, state)
