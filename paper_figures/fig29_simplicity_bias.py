"""Simplicity bias with one hidden layer: rich networks see one linear feature alone, lazy ones if its margin is large.

Twenty coordinates know the class: the first by a line (x = margin y), nineteen by their size alone (slabs). (a) The share of
the first in the second moment <z^2 W W^T> of the input weights times readouts: 1/20 at initialisation and after lazy
training, nearly all after rich training. (b) Test points get the slabs of a point of the other class. In the rich regime no
prediction changes from margin 1 on; in the lazy regime nearly all do at margin 1 and none at 2, where the weights are still
spread over all coordinates. (c) In the rich regime at margin 1 a second model is trained without the first coordinate
(OrthoP), and tested like the first with noise on its inputs. It is wrong at other points, and the average of the two is
better than the first; the average of two models that saw the same is not. The limit (dmft, particles) is drawn in black,
networks (finite) in colour, with two standard errors.
"""

from __future__ import annotations

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import compare
import dmft
import finite
from paper_figures.cache import cached_arrays
from paper_figures.figure import THEORY, width_colors
from paper_figures.headline import Number
from widthwise import MLP, GradientDescent, Parameterization, Problem, Result, Task, tasks

D = 20
FIRST = np.eye(D)[0]
REGIMES = {"rich": (8.0, 0.2), "lazy": (0.1, 1.0)}  # gamma0 and eta0
WIDTHS = (32, 128, 512)
WIDTH = 256  # of the networks of (b) and (c)
MARGINS = (0.5, 1.0, 1.5, 2.0)
NOISES = (0.5, 1.0, 1.5, 2.0)
PAIRS = ("first alone", "without it", "average (OrthoP)", "average of two that saw the same")
SECONDS = ("OrthoP", "two that saw the same")
LIMIT = "limit"  # in the place of a width


class Data(NamedTuple):
    """Values and their errors, by panel and name."""

    weights: dict[str, np.ndarray]
    swaps: dict[str, np.ndarray]
    pairs: dict[str, np.ndarray]


def problem(task: Task, regime: str, num_steps: int) -> Problem:
    """One hidden layer with biases, logistic loss."""
    gamma0, eta0 = REGIMES[regime]
    return Problem(MLP(1, "relu", bias=1.0), Parameterization(gamma0), task, GradientDescent(eta0, num_steps, "logistic"))


def solve(p: Problem, width: int | str, runs: int, paths: int, seed: int = 0, **settings: object) -> Result:
    """The limit with `paths` particles in each of eight replicas, or networks."""
    if isinstance(width, str):
        return dmft.solve(p, dmft.TwoLayer(paths, 8), seed=seed, progress=False, **settings)  # type: ignore[arg-type]
    return finite.train(p, width=width, num_seeds=runs, seed=seed, progress=False, **settings)  # type: ignore[arg-type]


def weights(points: int, num_steps: int, paths: int, runs: int) -> dict[str, np.ndarray]:
    """Share of the first coordinate at a few steps, by regime and width."""
    kept = np.unique(np.array([0, 0.05, 0.15, 0.4, 1]) * num_steps).round().astype(int)
    out = {"steps": kept}
    for regime in REGIMES:
        p = problem(tasks.independent_features(points, input_dim=D), regime, num_steps)
        for N in (LIMIT, *WIDTHS):
            result = solve(p, N, runs if N in WIDTHS[:1] else 8, paths, save=["h", "z"], save_kernels=kept)
            out[f"{regime} {N}"] = np.array(compare.first_layer(result).share(FIRST))
    return out


def exchanges(points: int, num_steps: int, paths: int, runs: int) -> dict[str, np.ndarray]:
    """Predictions that change with the slabs, and the change of the output (4, margins): each with its error."""

    def of(margin: float, regime: str, N: int | str) -> np.ndarray:
        task = tasks.swapped(tasks.independent_features(points, 100, input_dim=D, margin=margin), FIRST)
        test = compare.swap_test(solve(problem(task, regime, num_steps), N, runs, paths, save_kernels=[]))
        return np.array([x[-1] for x in (*test.rest, *test.rest_output)])

    return {f"{regime} {N}": np.array([of(m, regime, N) for m in MARGINS]).T for regime in REGIMES for N in (LIMIT, WIDTH)}


def pairs(points: int, num_steps: int, paths: int, runs: int) -> dict[str, np.ndarray]:
    """Accuracies of `PAIRS` and correlations of errors (OrthoP, two that saw the same), by noise."""
    clean = tasks.independent_features(points, 250, input_dim=D)
    rng = np.random.default_rng(0)
    noisy = [np.asarray(clean.X_test) + s * rng.standard_normal((250, D)) for s in NOISES]
    task = Task(clean.X, clean.y, np.concatenate(noisy), np.tile(np.asarray(clean.y_test), len(NOISES)))
    out, places = {}, [slice(250 * i, 250 * (i + 1)) for i in range(len(NOISES))]
    for N in (LIMIT, WIDTH):
        used = (task, task, tasks.without(task, FIRST))
        first, same, second = (
            solve(problem(t, "rich", num_steps), N, runs, paths, i, save_kernels=[]) for i, t in enumerate(used)
        )
        with_second, with_same = ([compare.joint_errors(first, other, at) for at in places] for other in (second, same))
        lines = [[x.first, x.second, x.average, y.average] for x, y in zip(with_second, with_same, strict=True)]
        out[f"accuracy {N}"] = np.array(lines).transpose(1, 2, 0)  # (pair, value or error, noise)
        correlations = [[x.correlation or (np.nan, np.nan) for x in side] for side in (with_second, with_same)]
        out[f"correlation {N}"] = np.array(correlations).transpose(0, 2, 1)
    return out


def compute(quick: bool = False) -> Data:
    """Solve and train, or load."""
    size = {"points": 192, "num_steps": 80} if quick else {"points": 256, "num_steps": 200}
    size |= {"paths": 512, "runs": 16} if quick else {"paths": 2048, "runs": 64}
    panels = (weights, exchanges, pairs)
    return Data(*(cached_arrays(f"simplicity bias, {panel.__name__}", size, panel) for panel in panels))


def table(data: Data) -> str:
    """Every number of the panels."""

    def row(label: str, values: np.ndarray, errors: np.ndarray) -> str:
        return f"  {label:46s}" + "  ".join(f"{v:.3f} +- {e:.3f}" for v, e in zip(values, errors, strict=True))

    lines = [f"share of the first coordinate at steps {data.weights['steps'].tolist()}, by regime and width"]
    lines += [row(key, *x) for key, x in data.weights.items() if key != "steps"]
    lines += [
        f"predictions that change with the slabs, margins {MARGINS}",
        *(row(key, *x[:2]) for key, x in data.swaps.items()),
    ]
    lines += ["change of the output with the slabs, relative", *(row(key, *x[2:]) for key, x in data.swaps.items())]
    lines.append(f"accuracy, and correlation of errors, at noise {NOISES}")
    for N in (LIMIT, WIDTH):
        lines += [row(f"{pair}, {N}", *x) for pair, x in zip(PAIRS, data.pairs[f"accuracy {N}"], strict=True)]
        lines += [row(f"correlation, {name}, {N}", *data.pairs[f"correlation {N}"][i]) for i, name in enumerate(SECONDS)]
    return "\n".join(lines)


def numbers(data: Data) -> list[Number]:
    """Shares, swaps and second models, with the lazy regime and two equal models as controls."""

    def difference(name: str, x: np.ndarray, y: np.ndarray) -> Number:
        return Number(name, x[0] - y[0], np.hypot(x[1], y[1]))

    share = {key: x[:, -1] for key, x in data.weights.items() if key != "steps"}
    wide, at, noise = max(WIDTHS), {margin: i for i, margin in enumerate(MARGINS)}, NOISES.index(1.0)
    out, feature = [], "share of the linear feature,"
    for regime in REGIMES:
        of_limit, of_wide = share[f"{regime} {LIMIT}"], share[f"{regime} {wide}"]
        out.append(Number(f"{feature} {regime} limit", *of_limit))
        out.append(difference(f"{feature} {regime} networks of width {wide} less limit", of_wide, of_limit))
    for regime, margin in (("rich", 1.0), ("lazy", 1.0), ("lazy", 2.0)):
        name = f"predictions that change with the slabs, {regime} limit, margin {margin:g}"
        out.append(Number(name, *data.swaps[f"{regime} {LIMIT}"][:2, at[margin]]))
    for regime, margin in (("rich", 0.5), ("lazy", 1.5)):
        sides = [data.swaps[f"{regime} {N}"][2:, at[margin]] for N in (WIDTH, LIMIT)]
        name = f"change of the output with the slabs, networks of width {WIDTH} less limit, {regime}, margin {margin:g}"
        out.append(difference(name, *sides))
    for i, name in enumerate(SECONDS):
        out.append(Number(f"correlation of errors, {name}, limit", *data.pairs[f"correlation {LIMIT}"][i, :, noise]))
        accuracy = data.pairs[f"accuracy {LIMIT}"][..., noise]
        out.append(difference(f"accuracy gained by the average, {name}, limit", accuracy[2 + i], accuracy[0]))
    sides = [data.pairs[f"accuracy {N}"][2, :, noise] for N in (WIDTH, LIMIT)]
    return [*out, difference(f"accuracy of the average, networks of width {WIDTH} less limit", *sides)]


def plot(data: Data) -> Figure:
    """(a) Share of the linear feature, (b) swaps, (c) second models."""
    figure, (a, b, c) = plt.subplots(1, 3, figsize=(11.0, 3.7))
    _weights(a, data)
    color = width_colors(WIDTHS)[max(WIDTHS)]
    for regime, line, marker in zip(REGIMES, ("-", "--"), "os", strict=True):
        b.plot(MARGINS, data.swaps[f"{regime} {LIMIT}"][0], color=THEORY, ls=line, lw=1, label=f"limit (dmft), {regime}")
        value, error = data.swaps[f"{regime} {WIDTH}"][:2]
        b.errorbar(MARGINS, value, 2 * error, color=color, marker=marker, ms=4, ls="", label=f"N = {WIDTH}, {regime}")
    b.set(
        xlabel="margin of the linear feature",
        ylabel="predictions that change",
        title="(b) slabs of the other class",
        xticks=MARGINS,
    )
    b.legend()
    for i, (pair, line, hue) in enumerate(zip(PAIRS, ("-", "--", "-", ":"), ("C0", "C1", "C2", "C3"), strict=True)):
        c.plot(NOISES, data.pairs[f"accuracy {LIMIT}"][i, 0], color=THEORY, ls=line, lw=1)
        value, error = data.pairs[f"accuracy {WIDTH}"][i]
        c.errorbar(NOISES, value, 2 * error, color=hue, marker="osD^"[i], ms=5, ls="", mfc="none", label=pair)
    c.plot([], [], color=THEORY, lw=1, label="limit (dmft)")
    c.set(xlabel="noise of the inputs", ylabel="test accuracy", title=f"(c) second models, N = {WIDTH}", xticks=NOISES)
    c.legend(fontsize="x-small")
    return figure


def _weights(axes: Axes, data: Data) -> None:
    steps, colors = data.weights["steps"], width_colors(WIDTHS)
    for regime, line, marker in zip(REGIMES, ("-", "--"), "os", strict=True):
        for i, N in enumerate(WIDTHS):
            value, error = data.weights[f"{regime} {N}"]
            x, label = (steps + 1) * 1.06 ** (i - 1), f"N = {N}" if regime == "rich" else None
            axes.errorbar(x, value, 2 * error, color=colors[N], marker=marker, ms=4, ls="", label=label)
        axes.plot(steps + 1, data.weights[f"{regime} {LIMIT}"][0], color=THEORY, lw=1, ls=line, label=f"limit (dmft), {regime}")
    axes.set(
        xscale="log", xlabel="step + 1", ylabel="share", ylim=(0, 1), title=r"(a) linear feature in $\langle z^2 W W^T\rangle$"
    )
    axes.legend(loc="upper left")
