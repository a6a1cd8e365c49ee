"""Features that learn change the exponents of hard tasks: in time from beta to 2 beta / (1 + beta), and in compute with it.

Two-layer linear networks with the projected rule of 2409.17858; lam_k = k^-alpha, alpha = 1.5, and power k^-(alpha beta + 1):
for beta < 1 the target lies outside of the kernel's space. gamma is the strength of feature learning, 0 is the kernel.
(a) The exponent chi of the loss in time, from the mode equations at infinite width, and beta max(1, 2 / (1 + beta)). (b) Loss
of networks with N features on batches of B fresh samples with label noise, step by step. (c) Hard task, beta = 1/2, over long
times: N = infinity, and networks of N features on the whole distribution. (d) The least loss at every compute C = N t.

In (b) lines are the solvable model at finite N and B (no parameter is fitted) and points networks, trained; in (c, d) networks
under gradient flow, exactly: of every draw of N features the kernel is diagonalised, in which its modes move alone but for two
numbers. Bars are two standard errors.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from dmft import scaling
from finite import linear_models
from paper_figures.cache import cached_arrays
from paper_figures.figure import THEORY, mean_and_error, shades
from paper_figures.headline import Number
from paper_figures.solvable import Arrays, explain, points, ratio, slope
from widthwise import GradientDescent, Spectrum

ALPHA, HARD = 1.5, 0.5
GAMMAS = (0.0, 0.5, 2.0)
N, B, NOISE = 60, 40, 0.2
"""Of panel (b)."""


class Data(NamedTuple):
    """Arrays of the panels: exponents, steps, long times and compute."""

    exponents: Arrays
    steps: Arrays
    long: Arrays


def law(beta: Any) -> Any:
    """chi."""
    return beta * np.maximum(1, 2 / (1 + np.asarray(beta)))


def exponents(betas: tuple[float, ...], start: float, stop: float) -> Arrays:
    """(gamma, betas) measured between two times, gamma = 0 and 1."""
    t, out = np.geomspace(start, stop, 11), []
    for gamma in (0.0, 1.0):
        tasks = [scaling.power_law(ALPHA * beta + 1, ALPHA, 1e15, per_decade=16) for beta in betas]
        out.append([scaling.feature_flow(task, t, gamma).exponent(start, stop) for task in tasks])
    return {"beta": np.array(betas), "chi": np.array(out)}


def steps(modes: int, eta: float, num_steps: int, draws: int) -> Arrays:
    """(gamma, 3, steps) test error: mean, error, theory."""
    spectrum, out = Spectrum.power_law(ALPHA * HARD + 1, ALPHA, modes), []
    training = GradientDescent(eta, num_steps, sampling="online", batch_size=B)
    for i, gamma in enumerate(GAMMAS):
        nets = linear_models.descent(spectrum, training, N, noise=NOISE, gamma=gamma, num_draws=draws, seed=i)
        theory = scaling.train_features(spectrum.binned(16), training, gamma, N, noise=NOISE)
        out.append([nets.mean("test"), nets.sem("test"), theory.test])
    return {"found": np.array(out)}


def long(sizes: tuple[int, ...], modes: int, draws: int, most: float) -> Arrays:
    """(gamma, N, 2, times) loss of networks under flow at gamma = 0 and 1, and (gamma, 2, C) the least loss."""
    spectrum = Spectrum.power_law(ALPHA * HARD + 1, ALPHA, modes)
    t, C = np.geomspace(1, 1e5, 41), np.geomspace(30, most, 16)
    curves = [[[_losses(spectrum, size, i, gamma, t) for i in range(draws)] for size in sizes] for gamma in (0.0, 1.0)]
    best, grid = [], np.log(t)
    for every in np.log(curves):
        at_C = [[np.interp(np.log(C / N), grid, y, left=9, right=9) for y in x] for N, x in zip(sizes, every, strict=True)]
        mean, error = mean_and_error(np.exp(at_C).swapaxes(0, 1))
        best.append([np.take_along_axis(x, mean.argmin(0)[None], 0)[0] for x in (mean, error)])
    limit = [scaling.feature_flow(scaling.power_law(ALPHA * HARD + 1, ALPHA), t, gamma).loss for gamma in (0.0, 1.0)]
    frontier = scaling.frontier(spectrum.binned(32), C, np.geomspace(2, 1e4, 41)).test
    found = [[mean_and_error(x) for x in y] for y in curves]
    out = {"t": t, "C": C, "N": np.array(sizes), "found": np.array(found), "best": np.array(best)}
    return {**out, "limit": np.array(limit), "frontier": frontier}


def _losses(spectrum: Spectrum, size: int, seed: int, gamma: float, t: np.ndarray) -> np.ndarray:
    drawn = linear_models.kernel_of_draw(spectrum, size, 1000 * size + seed)
    return scaling.feature_flow(drawn, t, gamma, per_decade=40).loss


def compute(quick: bool = False) -> Data:
    """Simulate and solve, or load."""
    betas = (0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 1.2, 1.5, 1.9)
    sizes = tuple(round(2 ** (i / 2)) for i in range(4, 19))
    settings = {"sizes": sizes, "modes": 4000 if quick else 8000, "draws": 4 if quick else 20, "most": 1e5}
    return Data(
        cached_arrays("feature learning, exponents", {"betas": betas, "start": 1e4, "stop": 1e5}, exponents),
        cached_arrays(
            "feature learning, steps", {"modes": 200, "eta": 0.2, "num_steps": 40, "draws": 40 if quick else 400}, steps
        ),
        cached_arrays("feature learning, compute", settings, long),
    )


def table(data: Data) -> str:
    """Exponents, and the frontier."""
    lines = [" beta   chi    law     kernel"]
    for beta, lazy, rich in zip(data.exponents["beta"], *data.exponents["chi"], strict=True):
        lines.append(f"{beta:5.2f}  {rich:.3f}  {law(beta):.3f}   {lazy:.3f}")
    lines.append("   compute   least loss, kernel      features that learn")
    for C, lazy, rich in zip(data.long["C"], *np.moveaxis(data.long["best"], 2, 1), strict=True):
        lines.append(f"{C:10.3g}   {lazy[0]:.4f} +- {lazy[1]:.4f}      {rich[0]:.4f} +- {rich[1]:.4f}")
    return "\n".join(lines)


def numbers(data: Data) -> list[Number]:
    """Exponents against their laws, networks against the model."""
    beta, (lazy, rich) = data.exponents["beta"], data.exponents["chi"]
    found, C, (kernel, learning) = data.steps["found"], data.long["C"], data.long["best"]
    t, late, large = data.long["t"], data.long["t"] >= 1e3, C >= 300
    # both frontiers are of the same draws: the error of their ratio is below that of either, twice over
    gain = [slope(C[large], y[0, large]) for y in (kernel, learning)]
    spread = (
        np.hypot(*(y[1, large] / y[0, large] for y in (kernel, learning))).mean() / np.log(C[large]).std() / large.sum() ** 0.5
    )
    a, (before, after) = ALPHA * HARD, (HARD, law(HARD))
    expected = a * after / (a + after) - a * before / (a + before)
    return [
        Number("largest distance of chi from its law", np.abs(rich - law(beta)).max()),
        Number("largest distance of the kernel's chi from beta", np.abs(lazy - beta).max()),
        Number("beta = 1/2: chi less that of the kernel", (rich - lazy)[beta == HARD][0]),
        Number("beta = 1.5: chi less that of the kernel", (rich - lazy)[beta == 1.5][0]),
        ratio("N = 60, B = 40: test error over theory, last step", [*found[:, :, -1].T]),
        ratio("gamma = 2: test error over theory of gamma = 0.5, last step", [*found[2, :2, -1], found[1, 2, -1]]),
        Number("beta = 1/2, N = infinity: exponent in time", -slope(t[late], data.long["limit"][1, late])),
        ratio("kernel: least loss over that of theory", [*kernel[:, large], data.long["frontier"][large]]),
        Number("exponent of compute, gain by learning features, less what chi gives", gain[0] - gain[1] - expected, spread),
        Number("exponent of compute, gain by learning features", gain[0] - gain[1], spread),
    ]


def plot(data: Data) -> Figure:
    """Exponents and steps (top), long times and compute (bottom)."""
    figure, ((a, b), (c, d)) = plt.subplots(2, 2, figsize=(8.4, 6.6))
    x = np.linspace(0.1, 2, 100)
    a.plot(x, law(x), color=THEORY, label=r"$\beta\,\max(1, 2/(1+\beta))$")
    a.plot(x, x, color="0.5", ls="--", label=r"$\beta$")
    for chi, name, marker in zip(
        data.exponents["chi"], ("mode equations, kernel", "mode equations, features learn"), "so", strict=True
    ):
        a.plot(data.exponents["beta"], chi, ls="", marker=marker, ms=5, label=name)
    a.set(xlabel=r"$\beta$ (hard below 1)", ylabel=r"exponent $\chi$ of the loss in time", title="(a) exponents in time")
    steps_ = np.arange(data.steps["found"].shape[-1])
    for gamma, found, color in zip(GAMMAS, data.steps["found"], ("C0", "C2", "C1"), strict=True):
        b.plot(steps_, found[2], color=color, label=rf"$\gamma$ = {gamma:g}")
        points(b, steps_[::4], [*found[:2, ::4], np.full(len(steps_[::4]), np.nan)], color)
    explain(b)
    b.set(yscale="log", xlabel="step", ylabel="test error", title=f"(b) N = {N} features, batches of {B}")
    t, sizes = data.long["t"], data.long["N"]
    for gamma, style in ((0, "--"), (1, "-")):
        c.plot(t, data.long["limit"][gamma], color=THEORY, ls=style, label=("kernel", "features learn")[gamma] + ", infinite N")
        for size, color in zip((16, 64, 256), shades(3), strict=True):
            loss, _ = data.long["found"][gamma, [*sizes].index(size)]
            c.plot(t, loss, color=color, ls=style, label=f"networks, N = {size}" if gamma else None)
    c.plot(t, 1.2 * t ** -law(HARD), color="0.5", ls=":", label=r"$t^{-2/3}$")
    c.plot(t, 2.2 * t**-HARD, color="0.5", ls="-.", label=r"$t^{-1/2}$")
    c.set(xscale="log", yscale="log", ylim=(4e-4, 3), xlabel="time t", ylabel="test error", title=r"(c) $\beta$ = 1/2")
    C = data.long["C"]
    d.plot(C, data.long["frontier"], color=THEORY, label="kernel, solvable model")
    for (mean, error), color, name in zip(data.long["best"], ("C0", "C1"), ("kernel", "features learn"), strict=True):
        d.errorbar(C, mean, 2 * error, color=color, ls="", marker="o", ms=3, capsize=2, label=f"networks, {name}")
    for chi, style in ((HARD, "-."), (law(HARD), ":")):
        exponent = ALPHA * HARD * chi / (ALPHA * HARD + chi)
        d.plot(C, (2.6 if chi == HARD else 2.1) * C**-exponent, color="0.5", ls=style, label=rf"$C^{{-{exponent:.2f}}}$")
    d.set(xscale="log", yscale="log", xlabel="compute C = N t", ylabel="least test error", title=r"(d) compute, $\beta$ = 1/2")
    for ax in (a, b, c, d):
        ax.legend(fontsize=7)
    return figure
