"""Networks written out by hand: their first step against plain NumPy and differences, their ensemble against the package's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

import finite
from tests import by_hand
from tests.by_hand import Network, Weights, ensemble, extrapolated
from widthwise import GradientDescent, Parameterization, Problem, ResidualMLP, tasks

N = 4
RNG = np.random.default_rng(0)
VECTORS, IMAGES, SERIES = (RNG.standard_normal((2, *shape)) for shape in ((3,), (4, 4, 1), (3, 2)))
TOKENS = np.array([[0, 2, 1], [2, 2, 0]])
NUMBERS, CLASSES, NEXT = np.array([1.0, -0.5]), np.eye(3)[[0, 2]], np.eye(3)[[[2, 1, 1], [2, 0, 1]]]


# --- gamma0 f in plain NumPy, of K networks at a time: every array has K in front ---------------------------------------------


def mul(W: np.ndarray, x: np.ndarray) -> np.ndarray:
    """W (K, outputs, inputs), x (K, sites, inputs)."""
    return x @ W.swapaxes(1, 2) / math.sqrt(W.shape[2])


def read(p: Weights, x: np.ndarray) -> np.ndarray:
    return x @ p["readout"].swapaxes(1, 2) / x.shape[-1]


def norm(h: np.ndarray) -> np.ndarray:
    return (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6)


def conv(W: np.ndarray, x: np.ndarray, stride: int = 1) -> np.ndarray:
    """W (K, outputs, 3, 3, channels), x (K, samples, height, width, channels); what the windows see of the image."""
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    seen = sliding_window_view(x, (3, 3), (2, 3))[:, :, ::stride, ::stride]  # (..., channels, 3, 3)
    out = mul(W.transpose(0, 1, 4, 2, 3).reshape(*W.shape[:2], -1), seen.reshape(len(x), -1, 9 * x.shape[-1]))
    return out.reshape(*seen.shape[:4], -1)


def mlp(p: Weights, x: np.ndarray) -> np.ndarray:
    h = np.tanh(mul(p["W0"], x) + 0.5 * p["b0"][:, None])
    return read(p, np.tanh(mul(p["W1"], h) + 0.5 * p["b1"][:, None])) + 0.5 * p["readout_bias"][:, None] / math.sqrt(N)


def residual(p: Weights, x: np.ndarray) -> np.ndarray:
    h = mul(p["W0"], x)
    for l in range(2):
        h = h + 2**-0.75 * mul(p[f"block{l}.1"], np.tanh(norm(mul(p[f"block{l}.0"], np.tanh(norm(h))))))
    return read(p, np.tanh(norm(h)))


def looped(p: Weights, x: np.ndarray) -> np.ndarray:
    h = mul(p["W0"], x)
    h = h / 2 + mul(p["W"], np.tanh(h))
    h = h / 2 + mul(p["W"], np.tanh(h))
    return read(p, np.tanh(h))


def recurrent(p: Weights, x: np.ndarray) -> np.ndarray:
    h = np.zeros((len(x), 2, N))
    for t in range(3):
        h = mul(p["W"], np.tanh(h)) + mul(p["U"], x[:, :, t])
    return read(p, np.tanh(h))


def autoencoder(p: Weights, x: np.ndarray) -> np.ndarray:
    m = mul(p["W"], np.tanh(mul(p["W0"], x)))
    return read(p, np.tanh(np.tanh(m) @ p["W"] / math.sqrt(N)))


def conv2d(p: Weights, x: np.ndarray) -> np.ndarray:
    h = np.tanh(conv(p["W0"], x)).reshape(len(x), 2, 2, 2, 2, 2, N).mean((3, 5))
    h = np.tanh(conv(p["W1"], h))
    return read(p, h.mean((2, 3)))


def resnet(p: Weights, x: np.ndarray) -> np.ndarray:
    h = conv(p["W0"], x)
    h = h + conv(p["block0.1"], np.tanh(norm(conv(p["block0.0"], np.tanh(norm(h)))))) / 2
    inner = conv(p["block1.1"], np.tanh(norm(conv(p["block1.0"], np.tanh(norm(h)), 2))))
    kept = mul(p["shortcut1"][:, :, 0, 0], h[:, :, ::2, ::2].reshape(len(x), -1, N)).reshape(inner.shape)
    return read(p, np.tanh(norm(kept + inner / 2)).mean((2, 3)))


def attention(p: Weights, h: np.ndarray, L: int, causal: bool) -> np.ndarray:
    """Blocks of two heads, place by place; h (K, samples, places, N)."""
    K, samples, places, _ = h.shape

    def of_rows(W: np.ndarray, h: np.ndarray) -> np.ndarray:
        return mul(W, h.reshape(K, samples * places, -1)).reshape(K, samples, places, -1)

    for l in range(L):
        q, k, v = (of_rows(p[f"block{l}.{name}"], norm(h)) for name in "qkv")
        out = np.zeros_like(h)
        for t, half in itertools.product(range(places), (slice(0, N // 2), slice(N // 2, N))):
            seen = t + 1 if causal else places
            weight = np.exp((k[:, :, :seen, half] * q[:, :, t : t + 1, half]).sum(-1, keepdims=True) / (N // 2))
            out[:, :, t, half] = (weight * v[:, :, :seen, half]).sum(2) / weight.sum(2)
        h = h + of_rows(p[f"block{l}.o"], out) / L
        h = h + of_rows(p[f"block{l}.B"], np.tanh(of_rows(p[f"block{l}.A"], norm(h)))) / L
    return norm(h)


def transformer(p: Weights, x: np.ndarray, L: int = 1) -> np.ndarray:
    h = attention(p, p["E"][:, x[0]] + p["place"][:, None], L, causal=True)
    return h @ p.get("readout", p["E"])[:, None].swapaxes(2, 3) / N


def vit(p: Weights, x: np.ndarray) -> np.ndarray:
    corners = itertools.product((0, 2), (0, 2))
    patches = [mul(p["W0"], x[:, :, i : i + 2, j : j + 2].reshape(len(x), 2, 4)) for i, j in corners]
    return read(p, attention(p, np.stack(patches, 2) + p["place"][:, None], 1, causal=False).mean(2))


Case = tuple[Network, Callable[..., np.ndarray], np.ndarray, np.ndarray]
HEADS: dict[str, Any] = {"heads": 2, "mlp_ratio": 2}
CASES: dict[str, Case] = {
    "mlp": (by_hand.mlp(2, bias=0.5), mlp, VECTORS, NUMBERS),
    "residual": (by_hand.residual(2, block_depth=2, norm=True, alpha=0.75), residual, VECTORS, CLASSES),
    "looped": (by_hand.looped(2), looped, VECTORS, NUMBERS),
    "recurrent": (by_hand.recurrent(), recurrent, SERIES, NUMBERS),
    "autoencoder": (by_hand.autoencoder(), autoencoder, VECTORS, NUMBERS),
    "conv2d": (by_hand.conv2d(2), conv2d, IMAGES, CLASSES),
    "resnet": (by_hand.resnet((1, 1), norm=True), resnet, IMAGES[:, :2], CLASSES),
    "transformer": (by_hand.transformer(2, **HEADS), partial(transformer, L=2), TOKENS, NEXT),
    "tied": (by_hand.transformer(1, tied=True, head_dim=2, mlp_ratio=2), transformer, TOKENS, NEXT),
    "vit": (by_hand.vit(1, **HEADS), vit, IMAGES, CLASSES),
}
BLOCK_RATES = {"residual": 2**0.5, "resnet": 2.0, "transformer": 2.0}  # L^(2 alpha - 1), L = 2


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Small networks: compiled in half the time, to slower programs."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def stepped(name: str, start: Weights, gamma0: float, *rates: float) -> np.ndarray:
    """f - f_0 after a step at each of these eta0, down the slopes of the loss: its differences over +-1e-5 of every weight."""
    _, forward, X, Y = CASES[name]
    sizes = [W.size for W in start.values()]

    def f(theta: np.ndarray) -> np.ndarray:
        """(K, weights) -> (K, ...), like Y"""
        parts = np.split(theta, np.cumsum(sizes)[:-1], axis=1)
        p = {key: part.reshape(-1, *W.shape) for (key, W), part in zip(start.items(), parts, strict=True)}
        return forward(p, np.broadcast_to(X, (len(theta), *X.shape))).reshape(-1, *Y.shape) / gamma0

    def loss(theta: np.ndarray) -> np.ndarray:
        g = f(theta) - f0
        if Y is NEXT:
            return (np.log(np.exp(g).sum(-1)) - g[..., NEXT == 1].reshape(g.shape[:-1])).mean((1, 2))
        return ((g - Y) ** 2).sum(tuple(range(1, g.ndim))) / 2 / len(Y)

    theta = np.concatenate([W.ravel() for W in start.values()])
    f0, steps = f(theta[None]), 1e-5 * np.eye(len(theta))
    slope = (loss(theta + steps) - loss(theta - steps)) / 2e-5
    factors = [BLOCK_RATES.get(name, 1.0) if key.startswith("block") else 1.0 for key in start]
    return f(theta - np.outer(rates, N * gamma0**2 * np.repeat(factors, sizes) * slope)) - f0


@pytest.mark.parametrize("name", CASES)
def test_first_step(name: str) -> None:
    """f after a step, against plain NumPy and differences, to 1e-7. Half a percent more of eta0 is seen, and half more of
    gamma0, on which a first step hardly depends."""
    network, _, X, Y = CASES[name]
    loss = "cross_entropy" if Y is NEXT else "mse"
    f = ensemble(network, (X, Y), width=N, num_seeds=1, eta0=0.3, gamma0=0.7, num_steps=1, loss=loss)["f"]
    start = by_hand.draw(network, np.random.default_rng((0, N, 0)), N, X.shape[1:], Y.shape[-1] if Y.ndim > 1 else 1)
    twin = {key: -W if key.startswith("readout") else W for key, W in start.items()}
    pair = [start, twin] if network.paired else [start]

    def errors(gamma0: float, *rates: float) -> list[float]:
        expected = np.mean([stepped(name, p, gamma0, *rates) for p in pair], axis=0)
        return [float(np.abs(f[0, 1] - e).max() / np.abs(e).max()) for e in expected]

    assert (f[0, 0] == 0).all()
    right, wrong = errors(0.7, 0.3, 0.3015)
    assert right < 1e-7
    assert wrong > 1e-3
    assert errors(1.05, 0.3)[0] > 1e-6


def test_ensemble_is_that_of_the_package() -> None:
    """Mean f of 64 pairs and of 64 networks of `finite.train`, with momentum and decay; half more of gamma0 is seen."""
    task = tasks.sphere(4, input_dim=5)
    training = GradientDescent(0.5, 16, momentum=0.5, weight_decay=0.05)
    network, sizes = by_hand.residual(2), {"width": 16, "num_seeds": 64}
    problem = Problem(ResidualMLP(2, "tanh"), Parameterization(gamma0=2.0), task, training)
    package = finite.train(problem, **sizes, record=[0, 8, 16], progress=False).samples.f[:, 1:]

    def z(gamma0: float) -> float:
        rule = {"eta0": 0.5, "gamma0": gamma0, "num_steps": 16, "momentum": 0.5, "decay": 0.05}
        f = ensemble(network, (task.X, task.y), **sizes, **rule)["f"][:, [8, 16]]
        error = np.sqrt(f.var(0, ddof=1) / 64 + package.var(0, ddof=1) / 64)
        return float(np.abs((f.mean(0) - package.mean(0)) / error).max())

    assert z(2.0) < 4 < z(3.0)


def test_batches_and_what_is_watched() -> None:
    """A sequence of equal batches is the full batch; kernels are overlaps of fields at the end."""
    network, settings = (
        by_hand.mlp(2),
        {"width": 8, "num_seeds": 2, "eta0": 0.5, "gamma0": 1.0, "num_steps": 3, "momentum": 0.5},
    )
    full = ensemble(network, (VECTORS, NUMBERS), **settings)
    X, Y = (np.broadcast_to(a, (3, *a.shape)) for a in (VECTORS, NUMBERS))
    online = ensemble(network, (X, Y, VECTORS), **settings)
    assert all(np.allclose(full[name], online[name], rtol=1e-12, atol=1e-14) for name in full)
    assert full["f"].shape == (2, 4, 2)
    still = ensemble(network, (VECTORS, NUMBERS), **{**settings, "num_steps": 0})
    h1 = np.random.default_rng((0, 8, 0)).standard_normal((8, 3)) @ VECTORS.T / math.sqrt(3)
    np.testing.assert_allclose(still["H_h1"][0], h1.T @ h1 / 8, rtol=1e-12)
    assert np.abs(full["H_h1"] - still["H_h1"]).max() > 1e-3
    with pytest.raises(ValueError, match="3 steps need as many batches"):
        ensemble(network, (X[:2], Y[:2], VECTORS), **settings)


def test_extrapolation_in_the_width() -> None:
    """Of 1 + 3 / N and noise, 400 times: z is as wide as Student's t, and the mean is one, as that at N = 40 is not."""
    rng = np.random.default_rng(1)
    small, large = ({"width": N, "f": 1 + 3 / N + 0.1 * rng.standard_normal((16, 400))} for N in (20, 40))
    f, error = extrapolated(small, large)
    assert ((f - 1) ** 2 / error**2).mean() == pytest.approx(16 / 14, abs=0.35)
    assert abs((f - 1).mean()) < 4 * error.mean() / 20
    assert abs((large["f"].mean(0) - 1).mean()) > 10 * error.mean() / 20
    with pytest.raises(ValueError, match="twice as wide as the first, got 40 and 20"):
        extrapolated(large, small)
