"""Tangent kernels across widths: eigenvalues, the target's power in the eigenfunctions, and the loss curves they imply.

Networks of two hidden ReLU layers tell even from odd digits. Of the mean tangent kernel of every width between held-out
images: eigenvalues lam_k as shares of the trace, and the part 1 - C(k) of the target beyond the first k eigenvectors, at the
start (top) and after training (bottom). Beside them the test loss of the networks, and that of their mean kernel of this time,
held still and trained on the same images; at the start that of the lazy limit too. At the right the loss that a spectrum
implies for training on the held-out distribution, sum_k c_k^2 (1 - eta0 lam_k)^2t / 2; and what makes it larger for narrow
networks: the loss, halfway, of all of their spectrum, of their lam_k alone, or of their c_k alone, the rest being the
widest's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import compare
import dmft
from compare import SpectralComparison
from paper_figures import runs
from paper_figures.axes import width_axis
from paper_figures.cache import cached_arrays
from paper_figures.figure import THEORY, width_colors
from paper_figures.headline import Number
from paper_figures.swapped_spectra import DIFFERENCE, SWAPS, swapped
from widthwise import MLP, GradientDescent, Parameterization, Problem, Result, Spectrum, Task, tasks
from widthwise.kernel_spectra import KernelSpectra

WIDTHS = (32, 64, 128, 256)
MODES = 16
Curves = dict[str, np.ndarray]


class Data(NamedTuple):
    """What the figure shows: spectra, losses of kernels held still, the swaps."""

    comparison: SpectralComparison
    lazy: Result
    static: dict[int, dict[int, Curves]]
    swaps: Curves
    training: GradientDescent


def problem(quick: bool) -> Problem:
    """Even against odd: 120 train and 80 test images, 100 steps (of quick 60, 40 and 60)."""
    P, Q, T = (60, 40, 60) if quick else (120, 80, 100)
    digits = tasks.digits(P, Q, classes=tuple(range(10)))
    labels = np.concatenate([digits.y, digits.y_test if digits.y_test is not None else digits.y[:0]])
    y = np.where(np.argmax(labels, 1) % 2, -1.0, 1.0)
    task = Task(digits.X, y[:P], digits.X_test, y[P:])
    return Problem(MLP(2, "relu"), Parameterization(gamma0=1.0), task, GradientDescent(0.5, T))


def compute(quick: bool = False) -> Data:
    """Train the ensembles and solve the lazy limit, and train with the kernels; or load them."""
    p, total = problem(quick), 8192 if quick else 32768
    ends = (0, p.training.num_steps)
    nets = runs.networks(p, {N: total // N for N in WIDTHS}, save_kernels=ends, save=["NTK"])
    lazy = runs.limit(p, dmft.Lazy(), save=["NTK"], save_kernels=ends[:1])

    def kept(what: str, function: Any, **settings: int) -> Curves:
        words = {"problem": p.fingerprint(), "networks": total, **settings}
        return cached_arrays(what, words, lambda **_: function(**settings))

    def static(N: int, step: int) -> Curves:
        found = compare.static_kernel(nets[N], step=step)
        (net, _), (value, error) = found["network"], found["mean_kernel"]
        return {"networks": net, "kernel": value, "error": error}

    def swaps() -> Curves:
        P, y = p.task.num_train, np.asarray(p.task.y_test)
        kernels = [np.asarray(net.samples["NTK"][:, -1, P:, P:], dtype=np.float64) for net in nets.values()]
        return swapped(kernels, y, p.training)

    curves = {step: {N: kept("fig06 kernels held still", static, N=N, step=step) for N in WIDTHS} for step in ends}
    comparison = compare.spectral(nets, points="test", num_modes=MODES)
    return Data(comparison, lazy, curves, kept("fig06 spectra, swapped", swaps), p.training)


def table(data: Data) -> str:
    """Ratios of eigenvalues and differences of C(k); losses of kernels; what makes narrow kernels slow."""
    lines = [str(data.comparison), ""]
    for step, kernels in data.static.items():
        lines.append(f"kernel of step {step}, held still: test loss halfway and at the end")
        for N, kernel in kernels.items():
            value, error = kernel["kernel"], kernel["error"]
            middle = len(value) // 2
            lines.append(f"  N = {N:4d}  {value[middle]:.4f} +- {error[middle]:.1g}   {value[-1]:.4f} +- {error[-1]:.1g}")
    lines.append("loss implied after training over that of the widest, log, halfway")
    for name, rows in data.swaps.items():
        shown = "   ".join(f"N = {N}: {v:+.4f} +- {e:.4f}" for N, (v, e) in zip(WIDTHS[:-1], rows, strict=True))
        lines.append(f"  {name:24s}{shown}")
    return "\n".join(lines)


def numbers(data: Data) -> list[Number]:
    """The start knows no width and is that of the limit; after training narrow kernels have grown less, and learn less."""
    first, last = (data.comparison[i] for i in (0, -1))
    out = []
    for i, N in enumerate(WIDTHS[:2]):
        for when, d in (("at the start", first), ("after training", last)):
            out.append(Number(f"N = {N}: trace {when} over that of the widest", d.trace_ratio[i], d.trace_ratio_error[i]))
    (start, end), narrow, wide = data.static, WIDTHS[0], WIDTHS[-1]
    middle = end // 2
    limit, of_start = np.asarray(data.lazy.mean.test_loss), data.static[start][wide]
    name = f"N = {wide}: test loss of the kernel of the start over that of the lazy limit"
    out.append(Number(name, of_start["kernel"][-1] / limit[-1], of_start["error"][-1] / limit[-1]))
    (a, da), (b, db) = ([data.static[step][wide][x] for x in ("kernel", "error")] for step in (end, start))
    ratio = a[middle] / b[middle]
    name = f"N = {wide}: test loss of the kernel after training, halfway, over that of the start"
    out.append(Number(name, ratio, ratio * np.hypot(da[middle] / a[middle], db[middle] / b[middle])))
    names = (
        "log of the loss that its spectrum implies, over that of the widest",
        "the same of its eigenvalues alone",
        "of its eigenvalues alone, less that of its eigenfunctions alone",
    )
    rows = (data.swaps[name][0] for name in ("own spectrum", r"own $\lambda_k$ alone", DIFFERENCE))
    return out + [Number(f"N = {narrow}: {name}", *row) for name, row in zip(names, rows, strict=True)]


def plot(data: Data) -> Figure:
    """Columns: shares of the trace, 1 - C(k), losses of kernels held still, implied losses. Rows: start, after training."""
    comparison, (start, end) = data.comparison, data.static
    figure, axes = plt.subplots(2, 4, figsize=(13.2, 5.8))
    each = dict(zip(WIDTHS, (*comparison.spectra, comparison.reference_spectra), strict=True))
    k = np.arange(1, MODES + 1)
    for row, kept, when, names in ((0, 0, "at the start", "abc"), (1, -1, "after training", "efg")):
        for (N, spectra), color in zip(each.items(), width_colors(WIDTHS).values(), strict=True):
            for ax, y, error in (
                (axes[row, 0], spectra.share[kept], spectra.share_error[kept]),
                (axes[row, 1], 1 - spectra.cumulative[kept], spectra.cumulative_error[kept]),
            ):
                ax.plot(k, y[:MODES], color=color, marker="o", ms=3, label=f"N = {N}, {spectra.num_runs} seeds")
                ax.fill_between(k, (y - error)[:MODES], (y + error)[:MODES], color=color, alpha=0.25, lw=0)
        axes[row, 0].set(yscale="log", ylabel=r"$\lambda_k$ / trace", title=f"({names[0]}) eigenvalues, {when}")
        axes[row, 1].set(ylabel="1 - C(k)", title=f"({names[1]}) target beyond k modes, {when}")
        for ax in axes[row, :2]:
            ax.set(xscale="log", xlabel="mode k")
            ax.set_xticks([1, 2, 4, 8, 16], [1, 2, 4, 8, 16])
            ax.set_xticks([], minor=True)
        _losses(axes[row, 2], data, start if row == 0 else end, f"({names[2]}) kernel {when}, held still")
    lazy = dmft.spectra.of(data.lazy, "test")[0]
    axes[0, 0].plot(k, (lazy.lam / lazy.trace)[:MODES], color=THEORY, lw=1, ls="--", label="lazy limit (dmft)")
    axes[0, 1].plot(k, lazy.tail[:MODES], color=THEORY, lw=1, ls="--")
    axes[0, 0].legend()
    _implied(axes[0, 3], data, each, lazy)
    for name, color in zip(SWAPS, ("0.2", "C0", "C1"), strict=True):
        rows = data.swaps[name]
        axes[1, 3].errorbar(WIDTHS[:-1], rows[:, 0], 2 * rows[:, 1], color=color, marker="o", ms=4, label=name)
    axes[1, 3].axhline(0, color="0.7", lw=0.8)
    axes[1, 3].set(ylabel=f"log loss, less that of N = {WIDTHS[-1]}", title="(h) after training: why narrow is slow")
    width_axis(axes[1, 3], WIDTHS[:-1])
    axes[1, 3].legend()
    return figure


def _losses(axes: Axes, data: Data, step: int, title: str) -> None:
    for N, color in width_colors(WIDTHS).items():
        net, value, error = (data.static[step][N][name] for name in ("networks", "kernel", "error"))
        steps, last = np.arange(len(net)), WIDTHS[-1] == N
        axes.plot(steps, net, color=color, ls=":", label="networks" if last else None)
        axes.plot(steps, value, color=color, label="their mean kernel" if last else None)
        axes.fill_between(steps, value - 2 * error, value + 2 * error, color=color, alpha=0.25, lw=0)
    if step == 0:
        axes.plot(steps, np.asarray(data.lazy.mean.test_loss), color=THEORY, lw=1, ls="--", label="lazy limit (dmft)")
    axes.set(xlabel="step", ylabel="test loss", title=title)
    axes.legend()


def _implied(axes: Axes, data: Data, spectra: dict[int, KernelSpectra], lazy: Spectrum) -> None:
    for (N, each), color in zip(spectra.items(), width_colors(WIDTHS).values(), strict=True):
        for kept, style in ((0, ":"), (-1, "-")):
            loss = dmft.spectra.static_training(each[kept], data.training).loss
            last = "after training" if kept else "at the start"
            axes.plot(loss, color=color, ls=style, label=last if WIDTHS[-1] == N else None)
    loss = dmft.spectra.static_training(lazy, data.training).loss
    axes.plot(loss, color=THEORY, lw=1, ls="--", label="lazy limit (dmft)")
    axes.set(yscale="log", xlabel="step", ylabel="loss, held-out distribution", title="(d) losses that the spectra imply")
    axes.legend()
