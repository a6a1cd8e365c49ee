"""Random features under gradient flow: the loss in time, parameters and data, ensembles, and the best use of compute.

Power-law spectra lam_k = k^-b and targets lam_k w_k^2 = k^-a, (a, b) = (1.75, 1.25) but for (f); N features, P samples, time t.
(a) Test loss for several N at one P, (b) test and train loss (dashed) for several P at one N: what is fewer makes the floor.
(c) How far N features are from infinitely many: as 1/N early in time, as the power N^-(a-1) of the task late. (d) The mean
output of E models of N / E features each, at equal compute: the more members, the worse. (e) Loss against compute C = N t for
every N, and its lower envelope, whose slope is (a-1) / (1+b). (f) The floor of N features at P = t = infinity for easy tasks:
its bias falls as N^-min(a-1, 2b), the whole of it as N^-min(a-1, b) only, since models of different features differ.

Lines are the solvable model (no parameter is fitted), points simulated networks with two standard errors. Networks have 400 to
2000 modes and so do lines through points; thin and dotted lines in (e, f) are of 10^12 modes, whose last ones are never near.
"""

from __future__ import annotations

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import compare
from paper_figures.cache import cached_arrays
from paper_figures.figure import THEORY, exponent, shades
from paper_figures.headline import Number
from paper_figures.scaling_runs import EASY, A, corrections, ensembles, envelope, floors, losses
from paper_figures.solvable import Arrays, explain, frame, points, ratio, slope


class Data(NamedTuple):
    """Arrays of the panels: losses in time, widths, ensembles, compute, floors."""

    time: Arrays
    width: Arrays
    members: Arrays
    compute: Arrays
    floor: Arrays


def compute(quick: bool = False) -> Data:
    """Simulate and solve, or load."""
    few, widths = 24 if quick else 160, (16, 32, 64, 128)
    sizes = ((32, 192), (64, 192), (128, 192), (256, 192), (128, 24), (128, 48), (128, 96), (128, 384))
    each = {"sizes": widths, "modes": 1000, "draws": 16 * few}
    return Data(
        cached_arrays("scaling dynamics, losses", {"sizes": sizes, "modes": 400, "draws": few}, losses),
        cached_arrays("scaling dynamics, corrections", each, corrections),
        cached_arrays("scaling dynamics, members", {"total": 256, "members": (1, 2, 4), "modes": 400, "draws": few}, ensembles),
        cached_arrays("scaling dynamics, compute", {"sizes": (*widths, 256), "modes": 2000, "draws": few}, envelope),
        cached_arrays("scaling dynamics, floors", {"sizes": widths, "modes": 400, "draws": 3 * few}, floors),
    )


def table(data: Data) -> str:
    """Corrections in N and floors, theory and simulation."""
    rows = [("correction, t = 1", data.width["found"][..., 0].T), ("correction, t = infinity", data.width["found"][..., 1].T)]
    rows += [
        (f"floor, a = {a:g}, {what}", x)
        for (a, _), y in zip(EASY, data.floor["found"], strict=True)
        for what, x in zip(("whole", "bias"), y, strict=True)
    ]
    lines = [
        f"{name:25s} {N:5d}   {x:.5f}   {m:.5f} +- {e:.5f}"
        for name, y in rows
        for N, m, e, x in zip(data.width["N"], *y, strict=True)
    ]
    return "\n".join(["N features                    N   theory    simulation", *lines])


def numbers(data: Data) -> list[Number]:
    """Theory against simulation, and the exponents."""
    time, width, members, C = data.time["found"], data.width["found"], data.members["found"], data.compute
    N, exact, late = (
        data.width["N"],
        data.width["exact"] / data.width["N"],
        slope(data.width["N"], data.width["found"][:, 2, 1]),
    )
    (floor, error), (end, its_error), early = (
        exponent(compare.fit_power_law(N, *x)) for x in (data.floor["found"][1, 0, :2], width[:, :2, 1].T, width[:, :2, 0].T)
    )
    ours = slope(N, data.floor["found"][1, 0, 2])
    far, smooth = data.floor["far"][-3:], data.floor["smooth"][1, :, -3:]
    return [
        ratio("test error over theory, N >= 64, P >= 96", [*np.moveaxis(time[[1, 2, 3, 6, 7], 0], 1, 0)]),
        ratio("train error over theory, N >= 64, P >= 96", [*np.moveaxis(time[[1, 2, 3, 6, 7], 1], 1, 0)]),
        ratio("test error over theory of half the features", [time[2, 0, 0], time[2, 0, 1], time[1, 0, 2]]),
        Number("t = 1: exponent in N of the correction, theory", slope(N, width[:, 2, 0])),
        Number("t = 1: exponent in N of the correction", *early),
        ratio("t = 1, N >= 64: correction over its exact 1/N", [*width[2:, :2, 0].T, exact[2:]]),
        Number("t = infinity: exponent in N of the correction, less theory", end - late, its_error),
        ratio("loss of 4 of N = 64 over that of one of N = 256, t >= 100", [*members[2, :2, 4:], members[0, 0, 4:]]),
        Number("exponent in C of the frontier", slope(C["C"][-11:], C["best_far"][-11:])),
        Number("exponent in C of the best N", slope(C["C"][-11:], C["N_far"][-11:])),
        Number("a = 5: exponent of the floor", slope(far, smooth[0])),
        Number("a = 5: exponent of its bias", slope(far, smooth[1])),
        Number("a = 5: exponent of the simulated floor, N <= 128", floor, error),
        Number("a = 5: the same, less theory", floor - ours, error),
    ]


def plot(data: Data) -> Figure:
    """Losses and corrections (top), ensembles, compute and floors (bottom)."""
    figure, axes = plt.subplots(2, 3, figsize=(11, 6.4))
    time, t, fine, N = data.time["found"], data.time["t"], data.time["fine"], data.width["N"]
    names = [f"N = {n}" for n in (32, 64, 128, 256)] + [f"P = {n}" for n in (24, 48, 96, 384)]
    for i, (name, color) in enumerate(zip(names, [*shades(4), *shades(4)], strict=True)):
        for kind in (0,) if i < 4 else (0, 1):
            ax, style = axes[0, i // 4], ("-", "--")[kind]
            ax.plot(fine, data.time["smooth"][i, kind], color=color, ls=style, label=None if kind else name)
            points(ax, t, [*time[i, kind, :2], t * np.nan], color)
    axes[0, 0].plot(fine, data.time["endless"], color=THEORY, label="infinitely many")
    explain(axes[0, 1])
    for j, (color, when) in enumerate((("C0", "t = 1"), ("C1", "t = infinity"))):
        points(axes[0, 2], N, [*data.width["found"][..., j].T], color, label=when)
    axes[0, 2].plot(N, data.width["exact"] / N, color="C0", ls=":", label="t = 1: exact order 1 / N")
    axes[0, 2].plot(N, 4.0 * N ** (1 - A), color="0.5", ls=":", label=r"$N^{-(a-1)}$")
    for i, (E, color) in enumerate(zip(data.members["E"], shades(3)[::-1], strict=True)):
        name = f"E = {E} of N = {256 // E}"
        axes[1, 0].plot(256 * data.members["fine"], data.members["smooth"][i], color=color, label=name)
        points(axes[1, 0], 256 * data.members["t"], [*data.members["found"][i, :2], data.members["t"] * np.nan], color)
    C = data.compute
    for i, (n, color) in enumerate(zip(C["N"], shades(len(C["N"])), strict=True)):
        axes[1, 1].plot(n * C["fine"], C["smooth"][i], color=color, label=f"N = {n}")
        points(axes[1, 1], n * C["t"], [*C["found"][i, :2], C["t"] * np.nan], color)
    near = C["C"] < 3e4
    axes[1, 1].plot(C["C"][near], C["best"][near], color=THEORY, lw=2, label="frontier")
    axes[1, 1].plot(C["C"], C["best_far"], color="0.5", ls=":", label=r"of $10^{12}$ modes")
    far = data.floor["far"]
    for (a, b), color, both, smooth in zip(EASY, ("C0", "C1"), data.floor["found"], data.floor["smooth"], strict=True):
        for i, (style, what) in enumerate((("-", "whole"), ("--", "bias"))):
            axes[1, 2].plot(far, smooth[i], color=color, ls=style, lw=0.8, label=f"a = {a:g}, b = {b:g}: {what}")
            seen = both[i, 0] > 3 * both[i, 1]
            points(axes[1, 2], data.floor["N"][seen], [*both[i][:, seen]], color, ls=style)
    axes[1, 2].plot(far, 1.5 * smooth[0, 0] * (far / far[0]) ** -b, color="0.5", ls=":", label=r"$N^{-b}$")
    titles = ["(a) test loss, P = 192", "(b) test and train (dashed), N = 128", "(c) loss less that of N = infinity"]
    titles += ["(d) ensembles at equal compute", "(e) frontier of compute", "(f) floors of easy tasks"]
    labels = ["time t", "time t", "features N", "compute C = E N t", "compute C = N t", "features N"]
    frame(axes, titles, labels)
    axes[0, 1].set_ylim(1e-4, 4)
    axes[0, 2].xaxis.set_minor_formatter("")
    axes[1, 2].set_ylim(1e-8)
    for ax in axes[:, 0]:
        ax.set_ylabel("mean squared error")
    return figure
