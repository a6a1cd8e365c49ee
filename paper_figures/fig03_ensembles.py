"""Ensembles of narrow networks against one wide network, on fresh data and on repeated data.

Online: a polynomial of three directions of sixteen, degree three, fresh batches of 64. Offline: even against odd digits,
the same 300 images at every step. Losses are those of one network and, without bias, of an infinite ensemble of its width:
E networks whose outputs are averaged, less the variance that is left, V / 2E. Networks of each width have draws of their own.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import compare
from paper_figures import runs
from paper_figures.figure import width_colors
from paper_figures.headline import Number
from widthwise import MLP, GradientDescent, Parameterization, Problem, Result, Task, data

QUICK = {16: 32, 64: 32, 256: 8, 768: 4}
FULL = {16: 64, 64: 48, 256: 16, 768: 8}
"""Networks by width."""

NARROW = 64
"""Whose infinite ensemble is set against one network of the widest."""


def scaled_relu(h: jax.Array) -> jax.Array:
    """sqrt 2 max(h, 0): keeps the variance."""
    return jnp.sqrt(2.0) * jnp.maximum(h, 0)


class Data(NamedTuple):
    """Networks by width, on fresh data and on repeated data."""

    online: dict[int, Result]
    offline: dict[int, Result]


def online(quick: bool = False) -> Problem:
    """Three directions of sixteen; 2000 steps, 800 if quick."""
    training = GradientDescent(0.1, 800 if quick else 2000, batch_size=64)
    return Problem(MLP(2, scaled_relu), Parameterization(gamma0=1.0), data.multi_index(16, 3, 3), training)


def offline(quick: bool = False) -> Problem:
    """Even against odd digits: 300 train and 300 test images; 300 steps, 100 if quick."""
    from sklearn.datasets import load_digits  # imported where used: it costs over a second

    X, labels = load_digits(return_X_y=True)
    X = X - X.mean(0)
    X *= np.sqrt(X.shape[1]) / np.linalg.norm(X, axis=1, keepdims=True)
    first = np.random.default_rng(0).permutation(len(X))[:600]
    X, y = X[first], np.where(labels[first] % 2 == 0, 1.0, -1.0)
    task = Task(X[:300], y[:300], X[300:], y[300:], "digits even vs odd")
    return Problem(MLP(2, scaled_relu), Parameterization(gamma0=1.0), task, GradientDescent(0.5, 100 if quick else 300))


def compute(quick: bool = False) -> Data:
    """Train the networks, or load them."""
    fresh: dict[int, Result] = {}
    repeated: dict[int, Result] = {}
    p, q = online(quick), offline(quick)
    for N, n in (QUICK if quick else FULL).items():
        fresh |= runs.networks(p, {N: n}, seed=N, num_probes=1024)
        repeated |= runs.networks(q, {N: n}, seed=N, save_kernels=[])
    return Data(fresh, repeated)


def table(data: Data) -> str:
    """Losses at the last step, and ensembles at the cost of one wide network."""
    parts = [
        ("fresh data, test points", compare.ensemble(data.online)),
        ("the same, at equal parameters", compare.equal_compute(data.online)),
        ("repeated data, train points", compare.ensemble(data.offline, points="train")),
        ("repeated data, test points", compare.ensemble(data.offline, points="test")),
    ]
    return "\n".join(f"{name}\n{part}\n" for name, part in parts)


def excess(ensembles: compare.Ensembles, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(T,) loss of an infinite ensemble of this width minus that of one network of the widest, and its standard error."""
    narrow, wide = ensembles[width], ensembles[max(ensembles.of_width)]
    return narrow.infinite - wide.single, np.hypot(narrow.infinite_error, wide.single_error)


def numbers(data: Data) -> list[Number]:
    """An infinite ensemble of narrow networks does not reach one wide network, on fresh data and on train points."""
    out = []
    for name, found in (
        ("fresh data: loss", compare.ensemble(data.online)),
        ("repeated data: train loss", compare.ensemble(data.offline, points="train")),
    ):
        difference, error = excess(found, NARROW)
        out.append(Number(f"{name} of infinite ensembles of N = {NARROW} minus that of one widest", difference[-1], error[-1]))
    test = compare.ensemble(data.offline, points="test")[NARROW]
    noise = np.hypot(test.single_error[-1], test.infinite_error[-1])
    gain = test.single[-1] - test.infinite[-1]
    return [*out, Number(f"repeated data: what ensembles of N = {NARROW} gain in test loss", gain, noise)]


def plot(data: Data) -> Figure:
    """Rows: fresh data, repeated data. Losses against the step and against E; ensembles minus one wide network."""
    figure, ((a, b, c), (d, e, f)) = plt.subplots(2, 3, figsize=(10.4, 6.2))
    fresh = compare.ensemble(data.online)
    train, test = (compare.ensemble(data.offline, points=points) for points in ("train", "test"))
    _losses(a, fresh, "(a) fresh data: test loss")
    a.plot([], [], color="0.4", label="one network")
    a.plot([], [], color="0.4", ls="--", label="infinite ensemble")
    a.legend()
    _members(b, fresh, "(b) the same, last step")
    _excess(c, {"": fresh}, "(c) infinite ensemble minus one widest")
    _losses(d, train, "(d) repeated data: train loss")
    d.set_yscale("log")
    _losses(e, test, "(e) repeated data: test loss")
    _excess(f, {", train": train, ", test": test}, "(f) infinite ensemble minus one widest")
    return figure


def _losses(axes: Axes, found: compare.Ensembles, title: str) -> None:
    colors = width_colors(found.of_width)
    for N, one in found.of_width.items():
        axes.plot(one.steps, one.single, color=colors[N], label=f"N = {N}")
        axes.plot(one.steps, one.infinite, color=colors[N], ls="--")
        low, high = one.infinite - 2 * one.infinite_error, one.infinite + 2 * one.infinite_error
        axes.fill_between(one.steps, low, high, color=colors[N], alpha=0.2, lw=0)
    axes.set(xlabel="step", ylabel="loss", title=title)


def _members(axes: Axes, found: compare.Ensembles, title: str) -> None:
    colors, widest = width_colors(found.of_width), max(found.of_width)
    for N, one in found.of_width.items():
        axes.errorbar(one.sizes, one.of_size[:, -1], 2 * one.of_size_error[:, -1], color=colors[N], marker=".")
        axes.errorbar([100], one.infinite[-1:], 2 * one.infinite_error[-1:], color=colors[N], marker="o", mfc="none")
    axes.axhline(found[widest].single[-1], color="black", lw=0.8, ls=":", label=f"one network, N = {widest}")
    sizes = [1, 4, 16, 100]
    axes.set(xscale="log", yscale="log", xlabel="members E", ylabel="loss", title=title)
    axes.set_xticks(sizes, [*map(str, sizes[:-1]), r"$\infty$"])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_minor_formatter("{x:.2g}")
    axes.legend(loc="upper center")


def _excess(axes: Axes, all_found: dict[str, compare.Ensembles], title: str) -> None:
    for (what, found), style in zip(all_found.items(), ("-", ":"), strict=False):
        colors, widest = width_colors(found.of_width), max(found.of_width)
        for N in [N for N in found.of_width if N >= NARROW and widest > N]:
            difference, error = excess(found, N)
            steps = found[N].steps
            axes.plot(steps, difference, color=colors[N], ls=style, label=f"N = {N}{what}")
            axes.fill_between(steps, difference - 2 * error, difference + 2 * error, color=colors[N], alpha=0.2, lw=0)
    axes.axhline(0, color="black", lw=0.8)
    axes.set(xlabel="step", ylabel=r"$L_{ens}(\infty; N) - L_1$", title=title)
    axes.legend()
