"""Onset of variance on repeated data: with more samples, variance over initial weights makes ever more of the test error.

Networks of two hidden ReLU layers learn a polynomial of degree two of one direction, on the sphere in six dimensions, from P
samples that come at every step: lazy ones (kind="ntk"), and rich ones, that learn features (mean_field). Their test error
against P, of single networks and of infinite ensembles of them; the share R(P) that ensembles leave; the number P_1/2 of
samples at which it is one half (stars); and N Var f. Errors are over data sets and seeds. In black, exactly solved lazy
networks of infinite width on the same data (dmft), and the solvable model of 2212.12147: kernel regression in the spectrum of
the infinitely wide kernel, with feature noise of variance c/N; c is one number, set by the error of the widest lazy networks
at the largest P, and all else of these curves follows.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dmft import scaling, spectra
from paper_figures import onset_runs
from paper_figures.axes import width_axis
from paper_figures.cache import cached_arrays
from paper_figures.figure import THEORY, mean_and_error, width_colors
from paper_figures.headline import Number
from paper_figures.onset_runs import INPUT_DIM, REGIMES, Arrays
from widthwise import MLP, Spectrum

WIDTHS = (16, 32, 64)


class Data(NamedTuple):
    """Samples; by regime and width errors and onset; errors of the lazy limit."""

    samples: tuple[int, ...]
    nets: dict[str, dict[int, Arrays]]
    limit: np.ndarray


def compute(quick: bool = False) -> Data:
    """Train the networks and solve the lazy limit, or load what they gave: 6 data sets, 8 seeds of each; 12 and 16 in full."""
    samples = tuple(2**k for k in (range(4, 9) if quick else range(3, 10)))
    size = {"samples": samples, "data_sets": 6 if quick else 12, "num_steps": 200 if quick else 400}
    nets = {
        regime: {
            N: cached_arrays(
                "fig14 lazy and rich networks",
                {"regime": regime, "width": N, "num_seeds": 8 if quick else 16, **size},
                onset_runs.networks,
            )
            for N in WIDTHS
        }
        for regime in REGIMES
    }
    limit = cached_arrays("fig14 limit", size, onset_runs.limit)["error"]
    return Data(samples, nets, limit)


@functools.cache
def spectrum() -> Spectrum:
    """Of the tangent kernel of infinite width on the sphere, with the target in degree 2."""
    return spectra.sphere(spectra.ntk(MLP(2, "relu")), INPUT_DIM, {2: 1.0})


def noise(data: Data) -> float:
    """c of the feature noise c / N: the error of the widest lazy networks at the largest P is (c / N) / (1 + c / N)."""
    error = data.nets["lazy"][WIDTHS[-1]]["single"][-1]
    return float(WIDTHS[-1] * error / (1 - error))


def exponent(data: Data, regime: str) -> tuple[float, float]:
    """Of P_1/2 in the width, between the narrowest and the widest, and its error."""
    (a, da), (b, db) = (data.nets[regime][N]["half"] for N in (WIDTHS[0], WIDTHS[-1]))
    length = np.log(WIDTHS[-1] / WIDTHS[0])
    return float(np.log(b / a) / length), float(np.hypot(da / a, db / b) / length)


def table(data: Data) -> str:
    """Errors, shares and onsets, and those of the solvable model."""
    lines = [f"test error over P = {', '.join(map(str, data.samples))}: single, infinite ensemble, share that it leaves"]
    for regime, nets in data.nets.items():
        for N, net in nets.items():
            for what in ("single", "ensemble", "ratio"):
                pairs = zip(net[what], net[f"{what}_error"], strict=True)
                lines.append(f"  {regime} N = {N:3d} {what:9s}" + "  ".join(f"{v:.4f} +- {e:.4f}" for v, e in pairs))
            lines.append(f"  {regime} N = {N:3d} P_1/2 = {net['half'][0]:.1f} +- {net['half'][1]:.1f}")
        lines.append(f"  {regime}: P_1/2 ~ N^{exponent(data, regime)[0]:.2f} +- {exponent(data, regime)[1]:.2f}")
    lines.append("  lazy limit (dmft)      " + "  ".join(f"{x:.4f}" for x in data.limit.mean(1)))
    model = scaling.onset_of_variance(spectrum(), noise(data) / np.array(WIDTHS), largest=1e4)
    slope = np.log(model[-1] / model[0]) / np.log(WIDTHS[-1] / WIDTHS[0])
    lines.append(f"  solvable model, c = {noise(data):.3g}: P_1/2 = {', '.join(f'{p:.1f}' for p in model)}, ~ N^{slope:.2f}")
    return "\n".join(lines)


def numbers(data: Data) -> list[Number]:
    """Variance sets in, later for wider networks; it is ~ 1/N and smaller where features are learned."""
    out, (middle, wide) = [], WIDTHS[-2:]
    for regime, nets in data.nets.items():
        name = f"{regime}, N = {wide}: share that ensembles leave"
        for i, which in ((0, "smallest"), (-1, "largest")):
            out.append(Number(f"{name}, {which} P", nets[wide]["ratio"][i], nets[wide]["ratio_error"][i]))
        out.append(Number(f"{regime}: exponent of P_1/2 in N", *exponent(data, regime)))
        variance, error = (np.array([nets[N][x] for N in (middle, wide)]) for x in ("variance", "variance_error"))
        slope = np.log(variance[1] / variance[0]) / np.log(wide / middle)
        spread = np.hypot(*(error / variance)) / np.log(wide / middle)
        weights = spread**-2 / (spread**-2).sum()
        name = f"{regime}: exponent of Var f in N, mean over P"
        out.append(Number(name, weights @ slope, weights @ spread))  # the same initial weights at every P
    lazy, rich = (data.nets[regime][wide] for regime in ("lazy", "rich"))
    out.append(
        Number(f"N = {wide}, largest P: Var f of rich networks over that of lazy ones", *_ratio(rich, lazy, "variance", -1))
    )
    (a, da), (b, db) = (np.array([net["half"] for net in data.nets[regime].values()]).T for regime in ("lazy", "rich"))
    later, spread = np.log(b / a), np.hypot(da / a, db / b) / len(WIDTHS)
    name = "log of P_1/2 of rich networks over that of lazy ones, mean over N"
    out.append(Number(name, later.mean(), np.sqrt(spread @ spread)))
    limit, P = {"single": data.limit.mean(1), "single_error": 0 * data.limit.mean(1)}, data.samples.index(64)
    name = f"rich, N = {wide}, P = 64: error of one network over that of the lazy limit"
    out.append(Number(name, *_ratio(rich, limit, "single", P)))
    pairs = lazy["ensembles"][0] - data.limit[0]
    value, error = (x / data.limit[0].mean() for x in mean_and_error(pairs))
    out.append(Number(f"lazy, N = {wide}, smallest P: error of infinite ensembles over that of the limit", 1 + value, error))
    return out


def _ratio(a: Arrays, b: Arrays, what: str, i: int) -> tuple[float, float]:
    x, y = a[what][i], b[what][i]
    return x / y, x / y * float(np.hypot(a[f"{what}_error"][i] / x, b[f"{what}_error"][i] / y))


def plot(data: Data) -> Figure:
    """Errors (left), shares (middle), onset and variance (right)."""
    figure, axes = plt.subplots(2, 3, figsize=(11.4, 6.2))
    for row, (regime, letters) in enumerate(zip(REGIMES, ("ab", "de"), strict=True)):
        _errors(axes[row, 0], data, regime, f"({letters[0]}) {regime}: test error")
        _shares(axes[row, 1], data, regime, f"({letters[1]}) {regime}: what ensembles leave")
    c, f = axes[:, 2]
    grid = np.geomspace(WIDTHS[0], WIDTHS[-1], 5)
    model = scaling.onset_of_variance(spectrum(), noise(data) / grid, largest=1e4)
    c.plot(grid, model, color=THEORY, ls="--", label="solvable model, lazy")
    for regime, marker, color in (("lazy", "o", "C0"), ("rich", "s", "C3")):
        half = np.array([net["half"] for net in data.nets[regime].values()])
        law = f"{exponent(data, regime)[0]:.2f}({100 * exponent(data, regime)[1]:.0f})"
        c.errorbar(WIDTHS, half[:, 0], 2 * half[:, 1], marker=marker, ms=4, color=color, label=f"{regime}: $N^{{{law}}}$")
        for N, alpha in zip(WIDTHS, (0.4, 0.7, 1.0), strict=True):
            net = data.nets[regime][N]
            value, error = N * net["variance"], 2 * N * net["variance_error"]
            f.errorbar(data.samples, value, error, marker=marker, ms=3, color=color, alpha=alpha, label=f"{regime}, N = {N}")
    c.set(yscale="log", ylabel=r"$P_{1/2}$", title="(c) onset of variance", ylim=(15, 220))
    c.set_yticks([20, 40, 80, 160], [20, 40, 80, 160])
    c.set_yticks([], minor=True)
    width_axis(c, WIDTHS)
    _samples(f, data, "(f) variance over initial weights")
    f.set(yscale="log", ylabel="N Var f, mean over test points")
    for ax in axes.flat:
        ax.legend(fontsize="x-small")
    return figure


def _samples(axes: Axes, data: Data, title: str) -> None:
    axes.set(xscale="log", xlabel="samples P", title=title)
    axes.set_xticks(data.samples, [str(P) for P in data.samples])
    axes.set_xticks([], minor=True)


def _errors(axes: Axes, data: Data, regime: str, title: str) -> None:
    grid = np.geomspace(data.samples[0], data.samples[-1], 40)
    for N, color in width_colors(WIDTHS).items():
        net = data.nets[regime][N]
        for what, style in (("single", "-"), ("ensemble", "--")):
            value, error = net[what], 2 * net[f"{what}_error"]
            name = f"N = {N}" if what == "single" else None
            seen = value > error / 2
            axes.errorbar(np.array(data.samples)[seen], value[seen], error[seen], color=color, ls=style, marker=".", label=name)
        if regime == "lazy":
            curve, name = scaling.noisy_curve(spectrum(), grid, noise(data) / N), "solvable model, noise c / N"
            axes.plot(grid, curve, color=THEORY, ls=":", lw=0.8, label=name if WIDTHS[-1] == N else None)
    axes.plot([], [], color="0.4", ls="--", label="infinite ensembles")
    axes.plot(data.samples, data.limit.mean(1), color=THEORY, lw=1.2, label="lazy limit (dmft)")
    axes.plot(grid, scaling.noisy_curve(spectrum(), grid, 0.0), color=THEORY, lw=1, ls="-.", label="solvable model, no noise")
    axes.set(yscale="log", ylabel="mean square error", ylim=(2e-4, 3))
    _samples(axes, data, title)


def _shares(axes: Axes, data: Data, regime: str, title: str) -> None:
    for N, color in width_colors(WIDTHS).items():
        net = data.nets[regime][N]
        axes.errorbar(data.samples, net["ratio"], 2 * net["ratio_error"], color=color, marker="o", ms=4, label=f"N = {N}")
        if np.isfinite(net["half"][0]):
            axes.plot(net["half"][:1], [0.5], "*", ms=10, color=color)
        if regime == "lazy":
            grid = np.geomspace(data.samples[0], data.samples[-1], 40)
            clean, noisy = (scaling.noisy_curve(spectrum(), grid, s2) for s2 in (0.0, noise(data) / N))
            axes.plot(grid, clean / noisy, color=THEORY, ls=":", lw=0.8, label="solvable model" if WIDTHS[-1] == N else None)
    axes.axhline(0.5, color="0.7", lw=0.8)
    axes.set(ylabel="error: ensemble / single", ylim=(0, 1.05))
    _samples(axes, data, title)
