"""Networks of finite width in the mean-field parameterization, written out by hand: a control that shares no code with others.

Every weight starts as N(0, 1). With N the width, D the inputs, L the residual blocks and C the outputs,

    input W0 x / sqrt(D),   hidden W x / sqrt(fan in),   readout f = w . x / (N' gamma0),  N' the neurons that it reads
    loss = mean over samples (and tokens) of l(f - f_0, y),   f_0 the network's own output at its start, for the same x
    G = -N gamma0^2 dloss / dtheta,   v <- momentum v + G - decay theta,   theta <- theta + eta0 v

N is the base width for every weight, those of layers with 2N or 4N neurons too. Residual branches carry the factor `branch`
= L^-alpha, and G of the weights inside them the factor L^(2 alpha - 1). Gradients are those of `jax.grad`.

A network is a `Network`: shapes of its weights, and a forward function of a batch. `ensemble` trains many of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Weights = dict[str, Any]
Fields = dict[str, Any]
Phi = Callable[[Any], Any]
Shape = tuple[int, ...]
Shapes = dict[str, Shape]


@dataclass(frozen=True, eq=False)
class Network:
    """Weights by name: (width, shape of a sample, C) -> shapes. Forward: (weights, batch) -> gamma0 f (batch, ..., C), fields.

    Weights whose names begin with "block" learn at `block_rate`; with "readout" they change sign in the twin of a pair. Without
    a readout of its own (`paired` False) a network has no twin.
    """

    shapes: Callable[[int, Shape, int], Shapes]
    forward: Callable[[Weights, Any], tuple[Any, Fields]]
    block_rate: float = 1.0
    paired: bool = True

    def rate(self, name: str) -> float:
        return self.block_rate if name.startswith("block") else 1.0


# --- layers -------------------------------------------------------------------------------------------------------------------


def dense(W: Any, x: Any) -> Any:
    """W x / sqrt(fan in), x (..., inputs)."""
    return jnp.einsum("oi,...i->...o", W, x) / math.sqrt(W.shape[1])


def convolve(W: Any, x: Any, stride: int = 1) -> Any:
    """W (outputs, k, k, channels) over images x (batch, height, width, channels), zeros around."""
    k, (height, width) = W.shape[1], x.shape[1:3]
    before, after = (k - 1) // 2, k // 2
    x = jnp.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
    shifts = [x[:, i : i + height : stride, j : j + width : stride] for i in range(k) for j in range(k)]
    return dense(W.reshape(len(W), -1), jnp.concatenate(shifts, -1))


def pool(x: Any) -> Any:
    """Means over 2 x 2 sites of images (batch, height, width, channels); an odd last row or column is dropped."""
    height, width = (2 * (n // 2) for n in x.shape[1:3])
    x = x[:, :height, :width]
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def normalize(h: Any) -> Any:
    """Mean 0 and mean square 1 over the neurons."""
    h = h - h.mean(-1, keepdims=True)
    return h / jnp.sqrt((h * h).mean(-1, keepdims=True) + 1e-6)


def read(p: Weights, x: Any) -> Any:
    """gamma0 f = w . x / N'"""
    return jnp.einsum("ci,...i->...c", p["readout"], x) / p["readout"].shape[1]


# --- fully connected ----------------------------------------------------------------------------------------------------------


def mlp(depth: int, *, phi: Phi = jnp.tanh, bias: float = 0.0) -> Network:
    """h1 = W0 x + bias b0,   h{l+1} = W phi(h{l}) + bias b,   f = w . phi(h{depth}) + bias b / (sqrt(N) gamma0)."""

    def shapes(N: int, x: Shape, C: int) -> Shapes:
        W = {"W0": (N, math.prod(x)), **{f"W{l}": (N, N) for l in range(1, depth)}, "readout": (C, N)}
        return W | ({f"b{l}": (N,) for l in range(depth)} | {"readout_bias": (C,)} if bias else {})

    def forward(p: Weights, x: Any) -> tuple[Any, Fields]:
        out, fields = x.reshape(len(x), -1), {}
        for l in range(depth):
            h = dense(p[f"W{l}"], out)
            if bias:
                h = h + bias * p[f"b{l}"]
            fields[f"h{l + 1}"], out = h, phi(h)
        f = read(p, out)
        return f + bias * p["readout_bias"] / math.sqrt(out.shape[-1]) if bias else f, fields

    return Network(shapes, forward)


def residual(L: int, *, block_depth: int = 1, norm: bool = False, phi: Phi = jnp.tanh, alpha: float = 1.0) -> Network:
    """h1 = W0 x,  h <- h + branch W phi(h), of two W' phi(W phi(h)),  f = w . phi(h).  With norm phi(normalize(.)) for phi."""
    act, branch = (lambda h: phi(normalize(h))) if norm else phi, L**-alpha

    def shapes(N: int, x: Shape, C: int) -> Shapes:
        blocks = {f"block{l}.{k}": (N, N) for l in range(L) for k in range(block_depth)}
        return {"W0": (N, math.prod(x)), **blocks, "readout": (C, N)}

    def forward(p: Weights, x: Any) -> tuple[Any, Fields]:
        h = dense(p["W0"], x.reshape(len(x), -1))
        fields = {"h1": h}
        for l in range(L):
            inner = h
            for k in range(block_depth):
                inner = dense(p[f"block{l}.{k}"], act(inner))
            fields[f"h{l + 2}"] = h = h + branch * inner
        return read(p, act(h)), fields

    return Network(shapes, forward, L ** (2 * alpha - 1))


def looped(times: int, *, phi: Phi = jnp.tanh, keep: float = 0.5) -> Network:
    """h1 = W0 x,   h <- keep h + W phi(h) `times` times with one W,   f = w . phi(h)."""

    def forward(p: Weights, x: Any) -> tuple[Any, Fields]:
        h = dense(p["W0"], x.reshape(len(x), -1))
        fields = {"h1": h}
        for t in range(times):
            fields[f"h{t + 2}"] = h = keep * h + dense(p["W"], phi(h))
        return read(p, phi(h)), fields

    return Network(lambda N, x, C: {"W0": (N, math.prod(x)), "W": (N, N), "readout": (C, N)}, forward)


def recurrent(*, phi: Phi = jnp.tanh) -> Network:
    """h1 = U x_1,   h{t+1} = W phi(h{t}) + U x_{t+1},   f = w . phi(h) at the last time; samples x are (time, D)."""

    def forward(p: Weights, x: Any) -> tuple[Any, Fields]:
        h = dense(p["U"], x[:, 0])
        fields = {"h1": h}
        for t in range(1, x.shape[1]):
            fields[f"h{t + 1}"] = h = dense(p["W"], phi(h)) + dense(p["U"], x[:, t])
        return read(p, phi(h)), fields

    return Network(lambda N, x, C: {"U": (N, x[1]), "W": (N, N), "readout": (C, N)}, forward)


def autoencoder(*, phi: Phi = jnp.tanh) -> Network:
    """h1 = W0 x,   m = W phi(h1) / sqrt(N),   h2 = W^T phi(m) / sqrt(N) with the same W,   f = w . phi(h2)."""

    def forward(p: Weights, x: Any) -> tuple[Any, Fields]:
        h1 = dense(p["W0"], x.reshape(len(x), -1))
        m = dense(p["W"], phi(h1))
        h2 = dense(p["W"].T, phi(m))
        return read(p, phi(h2)), {"h1": h1, "m": m, "h2": h2}

    return Network(lambda N, x, C: {"W0": (N, math.prod(x)), "W": (N, N), "readout": (C, N)}, forward)


# --- images -------------------------------------------------------------------------------------------------------------------


def conv2d(depth: int, *, k: int = 3, phi: Phi = jnp.tanh) -> Network:
    """Convolution, phi, 2 x 2 means while more than one row and column are left, `depth` times;   f = w . mean over sites."""

    def forward(p: Weights, x: Any) -> tuple[Any, Fields]:
        fields = {}
        for l in range(depth):
            fields[f"h{l + 1}"] = h = convolve(p[f"W{l}"], x)
            x = phi(h)
            if min(x.shape[1:3]) > 1:
                x = pool(x)
        return read(p, x.mean((1, 2))), fields

    return Network(
        lambda N, x, C: {"W0": (N, k, k, x[2]), **{f"W{l}": (N, k, k, N) for l in range(1, depth)}, "readout": (C, N)}, forward
    )


def resnet(stages: tuple[int, ...] = (1, 1), *, norm: bool = False, phi: Phi = jnp.tanh, alpha: float = 1.0) -> Network:
    """h <- h + branch W' * phi(W * phi(h)) in stages of N, 2N, 4N ... channels (with norm phi(normalize(.)) for phi).

    Each stage but the first begins with stride 2, and with h replaced there by a 1 x 1 convolution of it.
    """
    act, L = (lambda h: phi(normalize(h))) if norm else phi, sum(stages)
    changes = [stage > 0 and i == 0 for stage, count in enumerate(stages) for i in range(count)]

    def shapes(N: int, x: Shape, C: int) -> Shapes:
        out, outputs = {"W0": (N, 3, 3, x[2])}, N
        for l, changed in enumerate(changes):
            inputs, outputs = outputs, 2 * outputs if changed else outputs
            out |= {f"block{l}.0": (outputs, 3, 3, inputs), f"block{l}.1": (outputs, 3, 3, outputs)}
            out |= {f"shortcut{l}": (outputs, 1, 1, inputs)} if changed else {}
        return out | {"readout": (C, outputs)}

    def forward(p: Weights, x: Any) -> tuple[Any, Fields]:
        h = convolve(p["W0"], x)
        fields = {"h1": h}
        for l, changed in enumerate(changes):
            stride = 2 if changed else 1
            inner = convolve(p[f"block{l}.1"], act(convolve(p[f"block{l}.0"], act(h), stride)))
            h = convolve(p[f"shortcut{l}"], h, stride) if changed else h
            fields[f"h{l + 2}"] = h = h + L**-alpha * inner
        return read(p, act(h).mean((1, 2))), fields

    return Network(shapes, forward, L ** (2 * alpha - 1))


# --- attention ----------------------------------------------------------------------------------------------------------------


def _body(
    depth: int,
    causal: bool,
    *,
    heads: int | None = None,
    head_dim: int | None = None,
    mlp_ratio: int = 4,
    phi: Phi = jnp.tanh,
    alpha: float = 1.0,
) -> tuple[Callable[[int], Shapes], Callable[[Weights, Any], tuple[Any, Fields]], float]:
    """Shapes of the weights in blocks; the stream from the embedding (batch, sites, N) to the last norm; the blocks' rate.

    h <- h + branch O softmax(q . k / d) v,   q, k, v = Q n, K n, V n of n = normalize(h), heads of d channels side by side
    h <- h + branch B phi(A normalize(h)),    A to mlp_ratio N neurons;   one head if neither heads nor head_dim is given
    """

    def shapes(N: int) -> Shapes:
        one = {**dict.fromkeys("qkvo", (N, N)), "A": (mlp_ratio * N, N), "B": (N, mlp_ratio * N)}
        return {f"block{l}.{name}": shape for l in range(depth) for name, shape in one.items()}

    def stream(p: Weights, h: Any) -> tuple[Any, Fields]:
        fields, (sites, N) = {"embedding": h}, h.shape[1:]
        H = heads or N // (head_dim or N)
        earlier = np.arange(sites)[:, None] >= np.arange(sites)
        for l in range(depth):
            q, k, v = (dense(p[f"block{l}.{name}"], normalize(h)).reshape(*h.shape[:2], H, N // H) for name in "qkv")
            logits = jnp.einsum("bthd,bshd->bhts", q, k) / (N // H)
            weights = jnp.exp(logits - logits.max(-1, keepdims=True)) * (earlier if causal else 1)
            attention = weights / weights.sum(-1, keepdims=True)
            value = dense(p[f"block{l}.o"], jnp.einsum("bhts,bshd->bthd", attention, v).reshape(h.shape))
            h = h + depth**-alpha * value
            inner = dense(p[f"block{l}.A"], normalize(h))
            h = h + depth**-alpha * dense(p[f"block{l}.B"], phi(inner))
            fields |= {f"attention{l + 1}": attention, f"value{l + 1}": value, f"mlp{l + 1}": inner, f"h{l + 1}": h}
        return normalize(h), fields

    return shapes, stream, depth ** (2 * alpha - 1)


def transformer(depth: int, *, tied: bool = False, causal: bool = True, **body: Any) -> Network:
    """h = E[token] + place, blocks (settings: `_body`), f = w . normalize(h) at every place; tied: E h / (N gamma0)."""
    of_blocks, stream, rate = _body(depth, causal, **body)

    def shapes(N: int, x: Shape, C: int) -> Shapes:
        return {"E": (C, N), "place": (x[0], N), **of_blocks(N)} | ({} if tied else {"readout": (C, N)})

    def forward(p: Weights, x: Any) -> tuple[Any, Fields]:
        h, fields = stream(p, p["E"][x] + p["place"])
        return read({"readout": p["E"]} if tied else p, h), fields

    return Network(shapes, forward, rate, paired=not tied)


def vit(depth: int, *, patch: int = 2, **body: Any) -> Network:
    """h = W0 patch / sqrt(p^2 channels) + place, blocks (`_body`) without a mask, f = w . mean over patches of normalize(h)."""
    of_blocks, stream, rate = _body(depth, False, **body)

    def shapes(N: int, x: Shape, C: int) -> Shapes:
        sites = (x[0] // patch) * (x[1] // patch)
        return {"W0": (N, patch * patch * x[2]), "place": (sites, N), **of_blocks(N), "readout": (C, N)}

    def forward(p: Weights, x: Any) -> tuple[Any, Fields]:
        rows, columns = (range(0, n, patch) for n in x.shape[1:3])
        patches = [x[:, i : i + patch, j : j + patch].reshape(len(x), -1) for i in rows for j in columns]
        h, fields = stream(p, dense(p["W0"], jnp.stack(patches, 1)) + p["place"])
        return read(p, h.mean(1)), fields

    return Network(shapes, forward, rate)


# --- training -----------------------------------------------------------------------------------------------------------------

LOSSES: dict[str, Callable[[Any, Any], Any]] = {
    "mse": lambda f, y: 0.5 * ((f - y) ** 2).sum(-1),
    "cross_entropy": lambda f, y: -(y * jax.nn.log_softmax(f)).sum(-1),
}


def precision(dtype: str) -> AbstractContextManager:
    """A context in which JAX computes in this precision."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(dtype == "float64")
    from jax.experimental import enable_x64  # type: ignore[attr-defined]  # before JAX 0.8

    return enable_x64(dtype == "float64")


def draw(network: Network, rng: np.random.Generator, width: int, sample: Shape, num_outputs: int) -> Weights:
    """Weights at the start: standard normal, float64."""
    return {name: rng.standard_normal(shape) for name, shape in network.shapes(width, sample, num_outputs).items()}


def ensemble(
    network: Network,
    data: tuple,
    *,
    width: int,
    num_seeds: int,
    eta0: float,
    gamma0: float,
    num_steps: int,
    loss: str = "mse",
    momentum: float = 0.0,
    decay: float = 0.0,
    seed: int = 0,
    dtype: str = "float64",
) -> dict[str, Any]:
    """Train `num_seeds` networks of this width, or pairs of them that start with readouts w and -w.

    Args:
        network: what `mlp(2)`, `residual(3)` and so on return; keep it, as each compiles anew.
        data: (X, Y) for full batches, all points watched; or (X, Y, watched), with X (T, B, ...) and Y the batch of each step.
            Y (..., C), classes as rows of an identity; with one output also without the last axis, which f then lacks too.

    Returns:
        "width"; "f" (num_seeds, T + 1, P, ...), f - f_0 before each step and after the last, means over pairs: independent
        samples; of every field of the network "H_name" (num_seeds, P, P), its overlap at the end over all but the points.
    """
    X, Y, *watched = (np.asarray(a) for a in data)
    online, single = bool(watched), Y.ndim == (2 if watched else 1)
    if online and not len(X) == len(Y) >= num_steps:
        raise ValueError(f"{num_steps} steps need as many batches X (T, B, ...) and Y, got {len(X)} and {len(Y)}.")
    Y = Y[..., None] if single else Y
    points, signs = watched[0] if online else X, (1.0, -1.0) if network.paired else (1.0,)
    if online:  # the state after the last step needs no batch
        X, Y = (np.concatenate([a[:num_steps], a[:1]]) for a in (X, Y))
    seeds = []
    with precision(dtype):
        X, Y, points = (jnp.asarray(a if a.dtype.kind in "iu" else a.astype(dtype)) for a in (X, Y, points))
        fixed = (network, loss, width, num_steps, online)
        for number in range(num_seeds):
            start = draw(network, np.random.default_rng((seed, width, number)), width, points.shape[1:], Y.shape[-1])
            start = {name: W.astype(dtype) for name, W in start.items()}
            twins = [{n: sign * W if n.startswith("readout") else W for n, W in start.items()} for sign in signs]
            trained = [_train(fixed, twin, X, Y, points, (eta0, gamma0, momentum, decay)) for twin in twins]
            seeds.append(jax.tree.map(lambda *a: np.mean(a, axis=0), *trained))
    f, kernels = jax.tree.map(lambda *a: np.stack(a), *seeds)
    return {"width": width, "f": f[..., 0] if single else f, **{f"H_{name}": K for name, K in kernels.items()}}


@partial(jax.jit, static_argnums=0)
def _train(fixed: tuple, start: Weights, X: Any, Y: Any, points: Any, numbers: tuple) -> tuple[Any, Fields]:
    """f of one network at every state, and its kernels at the last. The update of the last state is not used."""
    (network, loss, width, num_steps, online), (eta0, gamma0, momentum, decay) = fixed, numbers

    def look(theta: Weights, x: Any) -> tuple[Any, Fields]:
        """f, not centred, and the overlaps of the points watched, the first of x."""
        f, fields = network.forward(theta, x)
        rows = {name: h[: len(points)].reshape(len(points), -1) for name, h in fields.items()}
        return f / gamma0, {name: h @ h.T / h.shape[1] for name, h in rows.items()}

    def step(carry: tuple, now: tuple) -> tuple:
        theta, v, f0, _ = carry
        t, x, y = (now[0], jnp.concatenate([points, now[1]]), now[2]) if online else (now[0], X, Y)
        if online:
            f0 = look(start, x)[0]

        def objective(theta: Weights) -> tuple[Any, tuple]:
            f, kernels = look(theta, x)
            centre = jnp.where(t == 0, jax.lax.stop_gradient(f), f0)
            return LOSSES[loss]((f - centre)[-len(y) :], y).mean(), (f - centre, centre, kernels)

        gradient, (f, f0, kernels) = jax.grad(objective, has_aux=True)(theta)
        G = {name: -width * gamma0**2 * network.rate(name) * g for name, g in gradient.items()}
        v = {name: momentum * v[name] + G[name] - decay * theta[name] for name in theta}
        return ({name: theta[name] + eta0 * v[name] for name in theta}, v, f0, kernels), f[: len(points)]

    at_zero = jax.eval_shape(look, start, jnp.concatenate([points, X[0]]) if online else X)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (start, *at_zero))
    t = jnp.arange(num_steps + 1)
    (_, _, _, kernels), f = jax.lax.scan(step, (start, *zeros), (t, X, Y) if online else (t,))
    return f, kernels


def extrapolated(small: dict[str, Any], large: dict[str, Any], name: str = "f") -> tuple[np.ndarray, np.ndarray]:
    """2 f_{2N} - f_N, without the term of order 1 / N, and its standard error, from two ensembles."""
    if large["width"] != 2 * small["width"]:
        raise ValueError(f"the second ensemble must be twice as wide as the first, got {small['width']} and {large['width']}.")
    parts = [(2.0, large[name]), (-1.0, small[name])]
    error = np.sqrt(sum(c**2 * f.var(0, ddof=1) / len(f) for c, f in parts))
    return np.asarray(sum(c * f.mean(0) for c, f in parts)), error
