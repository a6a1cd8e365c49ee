"""Learning rate against feature-learning strength: the largest rate goes from gamma^2 to gamma^(2/L).

Networks of width 64 with L = 2 and L = 3 layers of weights fit 32 points by full-batch gradient descent, at strengths gamma
over five decades and rates eta of the weights (eta = gamma^2 eta0). A point marks the largest rate after which less than a
fifth of the target's variance is left; bars span the networks. Behind them is the solvable model of one datum and L weights:
its loss after as many steps (dark: learned; white: diverged), the rate 2 over the curvature at the solution (full line), and
the time to learn over the number of steps (dashed), below which nothing is learned yet. Prefactors belong to the data; slopes
are what is compared (2410.04642).
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

import finite
from dmft import scaling
from paper_figures.cache import cached_arrays
from paper_figures.figure import THEORY, mean_and_error
from paper_figures.headline import Number
from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks

DEPTHS = (2, 3)
LEFT = 0.2
"""Share of the target's variance below which a network counts as trained."""
ENDS = {"small": (0.0, 0.1), "large": (10.0, np.inf)}
"""Strengths over which slopes are taken."""

Data = dict[int, dict[str, np.ndarray]]
"""By depth: strengths (g,), rates (g, r), share of the variance that is left (g, r, seeds), infinite where it diverged."""


def link(u: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "points"]:
    """Linear in one direction, and its product with another."""
    return (u[:, 0] + u[:, 0] * u[:, 1]) / 2**0.5


def left_over(depth: int, gammas: tuple[float, ...], per_decade: int, steps: int, seeds: int) -> dict[str, Any]:
    """Train at rates around the edge that is expected, two and a half decades of them."""
    task = tasks.multi_index(32, input_dim=10, num_directions=2, link=link)
    ratios = 10 ** (np.arange(-per_decade, per_decade * 3 // 2 + 1) / per_decade)
    rates, left = [], []
    for gamma in gammas:
        for eta0 in min(1.0, gamma ** (2 / depth - 2)) * ratios:
            problem = Problem(MLP(depth - 1, "relu"), Parameterization(gamma0=gamma), task, GradientDescent(eta0, steps))
            run = finite.train(problem, width=64, num_seeds=seeds, save_kernels=[0], progress=False, throw=False)
            loss = run.samples.loss
            rates.append(eta0 * gamma**2)
            left.append(np.where(np.isfinite(loss[:, -1]), loss[:, -1] / loss[:, 0], np.inf))
    shape = (len(gammas), len(ratios))
    return {"gamma": gammas, "eta": np.reshape(rates, shape), "left": np.reshape(left, (*shape, seeds))}


def compute(quick: bool = False) -> Data:
    """Eleven strengths, 200 steps, 4 networks (of full 21, 1000 and 8)."""
    settings = {
        "gammas": tuple(np.logspace(-2.5, 2.5, 11 if quick else 21).tolist()),
        "per_decade": 6 if quick else 10,
        "steps": 200 if quick else 1000,
        "seeds": 4 if quick else 8,
    }
    return {
        L: cached_arrays("largest learning rates", {"depth": L, **settings}, left_over) | {"steps": np.array(settings["steps"])}
        for L in DEPTHS
    }


def largest(run: dict[str, np.ndarray]) -> Float[np.ndarray, "strengths seeds"]:
    """The largest rate of every network that trains it."""
    good = run["left"] < LEFT
    last = good.shape[1] - 1 - good[:, ::-1].argmax(1)
    return np.where(good.any(1), np.take_along_axis(run["eta"], last, 1), np.nan)


def slope(run: dict[str, np.ndarray], end: str) -> tuple[float, float]:
    """d log(largest rate) / d log gamma at one end, mean over networks and its standard error."""
    low, high = ENDS[end]
    part = (run["gamma"] >= low) & (run["gamma"] <= high)
    slopes = np.polyfit(np.log(run["gamma"][part]), np.log(largest(run)[part]), 1)[0]
    return mean_and_error(slopes)


def table(data: Data) -> str:
    """Largest rates of networks and of the model."""
    lines = ["   gamma  " + "".join(f"   L = {L}: networks  model " for L in data)]
    for i, gamma in enumerate(data[2]["gamma"]):
        cells = [
            f"{np.exp(np.log(largest(run)[i]).mean()):17.3g} {scaling.largest_rate(gamma, L)[0]:7.3g}"
            for L, run in data.items()
        ]
        lines.append(f"{gamma:8.3g}  " + "".join(cells))
    return "\n".join(lines)


def numbers(data: Data) -> list[Number]:
    """Slopes at both ends; and that two and three layers part where features move far (twin)."""
    out = [Number(f"slope at {end} gamma, L = {L}", *slope(data[L], end)) for L in data for end in ENDS]
    (two, two_error), (three, three_error) = (slope(data[L], "large") for L in DEPTHS)
    return [*out, Number("slope at large gamma, L = 2 minus L = 3", two - three, np.hypot(two_error, three_error))]


def plot(data: Data) -> Figure:
    """A phase portrait for each depth."""
    figure, axes = plt.subplots(1, 2, figsize=(8.2, 4.0), sharey=True)
    gamma = np.logspace(-2.7, 2.7, 55)
    eta = np.logspace(-8, 4, 121)
    for ax, (L, run) in zip(axes, data.items(), strict=True):
        steps = int(run["steps"])
        portrait = scaling.phase_portrait(gamma, eta, L, steps=steps)
        shade = np.ma.masked_invalid(np.where(np.isfinite(portrait.loss), np.clip(portrait.loss, 1e-3, 1), np.nan))
        look = {"cmap": "Blues_r", "vmin": -3, "vmax": 0.6, "shading": "nearest", "rasterized": True}
        image = ax.pcolormesh(gamma, eta, np.log10(shade).T, **look)
        ax.plot(gamma, scaling.largest_rate(gamma, L), color=THEORY, label="largest rate (solvable model)")
        least = scaling.time_to_learn(gamma, L) / steps
        ax.plot(gamma, least, color=THEORY, ls="--", label="time to learn / steps (solvable model)")
        logs = np.log(largest(run))
        middle = np.exp(logs.mean(1))
        spread = np.abs(np.exp(np.stack([logs.min(1), logs.max(1)])) - middle)
        bars = {"color": "C1", "marker": "o", "ms": 4, "ls": ""}
        ax.errorbar(run["gamma"], middle, spread, label=f"networks, N = 64, {logs.shape[1]} seeds", **bars)
        for end, power in (("small", 2.0), ("large", 2 / L)):
            x = gamma[(gamma >= ENDS[end][0] / 3) & (gamma <= 3 * ENDS[end][1])]
            at = 0 if end == "small" else -1
            guide = middle[at] * (x / run["gamma"][at]) ** power
            ax.plot(x, guide, color="C1", ls=":", lw=1, label=r"$\gamma^2$ and $\gamma^{2/L}$" if end == "small" else None)
        words = ", ".join(f"{slope(run, end)[0]:.2f} at {end}" for end in ENDS)
        ax.set(xscale="log", yscale="log", xlabel=r"strength $\gamma$", title=f"L = {L}: slope {words} $\\gamma$")
        ax.set_ylim(eta[0], eta[-1])
        ax.text(0.004, 300, "diverges", fontsize=8)
        ax.text(30, 1e-7, "not yet learned", fontsize=8, ha="center")
    axes[0].set(ylabel=r"learning rate of the weights $\eta$")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7.5)
    figure.colorbar(image, ax=axes, label="log10 of the share of loss left (solvable model)")
    return figure
