"""Variance and bias over seeds, times N: ensembles of five widths against the 1/N theory, prefactor and all.

Networks of one and of two hidden layers (tanh) learn to tell two digits apart. `dmft.fluctuations` computes N Var f and
N bias f from the limit alone; it is drawn in black with a band of two standard errors. No number is fitted. Networks of
each width have draws of their own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

import compare
from compare.seeds import squares
from paper_figures import runs
from paper_figures.figure import THEORY, exponent, mean_and_error, width_colors
from paper_figures.headline import Number
from widthwise import MLP, Fluctuations, GradientDescent, Parameterization, Problem, Result, tasks

WIDTHS = (64, 128, 256)
NARROW = (16, 32)
"""More widths, where the bias is larger than its noise."""

DEPTHS = (1, 2)


class Case(NamedTuple):
    """Theory and ensembles of one depth."""

    theory: Fluctuations
    nets: dict[int, Result]


Data = dict[int, Case]
"""By depth."""


def problem(depth: int, quick: bool = False) -> Problem:
    """Threes against fives, 8 images, 24 steps; 3 and 12 if quick."""
    P, T = (3, 12) if quick else (8, 24)
    task = tasks.digits(P, 0, classes=(3, 5))  # no test points: their variance lasts, and hides the bias
    return Problem(MLP(depth, "tanh"), Parameterization(gamma0=1.0), task, GradientDescent(0.8, T))


def compute(quick: bool = False) -> Data:
    """Solve the 1/N theory and train the ensembles, a seed per width, or load them."""
    data = {}
    for depth in DEPTHS:
        p = problem(depth, quick)
        num_paths = {1: 1024 if quick else 4096, 2: 1024 if quick else 2048}[depth]
        theory = runs.fluctuations(p, num_paths=num_paths, num_draws=128)
        nets: dict[int, Result] = {}
        for N in NARROW + WIDTHS:
            num_seeds = (2**20 if quick else 2**22) * (4 if N in NARROW else 1) // N
            nets |= runs.networks(p, {N: num_seeds}, seed=N)
        data[depth] = Case(theory, nets)
    return data


def table(data: Data) -> str:
    """Exponent of the variance, mean variance times N against the theory, and the verdict over all points and steps."""
    lines = []
    for depth, (theory, nets) in data.items():
        scaling = compare.width_scaling(_wide(nets))
        expected, error = _mean_variance(theory)
        lines += [f"{depth} hidden layer{'s' * (depth > 1)}", str(scaling)]
        lines.append(f"1/N theory: N Var f {expected:.4f} +- {error:.4f}")
        lines += [f"variance and bias, {compare.deviations(theory, nets)}", ""]
    return "\n".join(lines)


def numbers(data: Data) -> list[Number]:
    """Slope -1, the predicted prefactor, and variance and bias of all points and steps as predicted, and not twice that."""
    out = []
    for depth, (theory, nets) in data.items():
        fit = compare.width_scaling(_wide(nets)).variance_fit
        verdict = compare.deviations(theory, nets)
        late = verdict["N bias f late"]
        doubled = {2 * N: replace(net, stats=net.stats | {"width": 2 * N}) for N, net in nets.items()}
        twice = compare.deviations(theory, doubled)
        out += [
            Number(f"depth {depth}: exponent of the variance", *exponent(fit)),
            Number(f"depth {depth}: p of variance and bias of all points and steps", verdict.p_value),
            Number(f"depth {depth}: late bias over that of the theory", 1 + late.difference, late.error),
            Number(f"depth {depth}: p if the variance were twice as large", twice.p_value),
        ]
    return out


def plot(data: Data) -> Figure:
    """A row per depth: N Var f and N bias f of a test point over time, and the variance against the width."""
    figure, axes = plt.subplots(len(data), 3, figsize=(9.6, 2.9 * len(data)), squeeze=False)
    letters = iter("abcdefghi")
    for (depth, (theory, nets)), (left, middle, right) in zip(data.items(), axes, strict=True):
        colors, steps = width_colors(nets), theory.limit.mean.steps
        m = int(np.argmax(np.abs(theory.bias.mean.f).sum(0))) if theory.bias else 0
        widest = max(nets)
        g = _point(nets[widest], m)
        for i, (N, net) in enumerate(nets.items()):
            f = _point(net, m)
            if N in WIDTHS:
                variance, error = _variance(f)
                left.errorbar(steps, N * variance, 2 * N * error, color=colors[N], marker=".", ls="")
                every, its_error = _mean_variance(net)
                right.errorbar(N, every, 2 * its_error, color=colors[N], marker="o", ms=4)
            if widest > 4 * N:
                slope = 1 / (1 / N - 1 / widest)
                error = slope * np.sqrt(f.var(0) / len(f) + g.var(0) / len(g))
                middle.errorbar(
                    steps + 0.15 * (i - 1), slope * (f.mean(0) - g.mean(0)), 2 * error, color=colors[N], marker=".", ls=""
                )
        for N in nets:
            left.plot([], [], ".", color=colors[N], label=f"N = {N}")
        for axis, result in ((left, theory.variance), (middle, theory.bias)):
            if result is None:
                continue
            value, sem = result.mean.f[:, m], result.sem.f[:, m]
            axis.plot(steps, value, color=THEORY, lw=1, label="1/N theory", zorder=3)
            axis.fill_between(steps, value - 2 * sem, value + 2 * sem, color=THEORY, alpha=0.25, lw=0)
        expected, _ = _mean_variance(theory)
        widths = np.array(WIDTHS)
        right.plot(widths, expected / widths, color=THEORY, lw=1, label="1/N theory, not fitted")
        layers = f"{depth} hidden layer{'s' * (depth > 1)}"
        left.set(xlabel="step", ylabel="N Var f", title=f"({next(letters)}) {layers}: one image")
        middle.set(xlabel="step", ylabel=r"N bias f", title=f"({next(letters)}) its bias, from N and {widest}")
        right.set(
            xscale="log", yscale="log", xlabel="width N", ylabel="mean Var f", title=f"({next(letters)}) all points, steps"
        )
        right.set_xticks(widths, [str(N) for N in widths], minor=False)
        right.set_xticks([], minor=True)
        left.legend()
        right.legend()
    return figure


def _wide(nets: dict[int, Result]) -> dict[int, Result]:
    return {N: nets[N] for N in WIDTHS}


def _point(net: Result, m: int) -> Float[np.ndarray, "runs steps"]:
    return np.asarray(net.samples.f[..., m], dtype=np.float64)


def _variance(f: Float[np.ndarray, "runs *rest"]) -> tuple[np.ndarray, np.ndarray]:
    """Unbiased variance over runs, and its standard error."""
    return f.var(0, ddof=1), mean_and_error((f - f.mean(0)) ** 2)[1]


def _mean_variance(x: Fluctuations | Result) -> tuple[float, float]:
    """Var f of networks, or N Var f of the theory: mean over steps and points, and its error over seeds, or replicas."""
    f = np.asarray((x.variance if isinstance(x, Fluctuations) else x).samples.f, dtype=np.float64)
    each = f if isinstance(x, Fluctuations) else squares(f)
    return mean_and_error(each.reshape(len(f), -1).mean(1))
