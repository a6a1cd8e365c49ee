"""Tangent kernels across widths: eigenvalues and the target's power in the eigenfunctions, apart, at the start and at the end.

Networks of two hidden ReLU layers tell even from odd digits. Of the mean tangent kernel of every width between held-out images:
eigenvalues lam_k as shares of the trace, and the part 1 - C(k) of the target that lies beyond the first k eigenvectors. Kernels
of the start (top) do not know the width; after training (bottom) those of narrow networks have grown less, by an overall
factor. No sign is presumed for the target's share in the first modes: the table has it with errors.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import compare
from compare import SpectralComparison
from paper_figures import runs
from paper_figures.figure import width_colors
from paper_figures.headline import Number
from widthwise import MLP, GradientDescent, Parameterization, Problem, Result, Task, tasks

WIDTHS = (32, 64, 128, 256)

Data = dict[int, Result]


def problem(quick: bool) -> Problem:
    """Even against odd: 120 train and 80 test images, 100 steps (of quick 60, 40 and 60)."""
    P, Q, T = (60, 40, 60) if quick else (120, 80, 100)
    digits = tasks.digits(P, Q, classes=tuple(range(10)))
    labels = np.concatenate([digits.y, digits.y_test if digits.y_test is not None else digits.y[:0]])
    y = np.where(np.argmax(labels, 1) % 2, -1.0, 1.0)
    task = Task(digits.X, y[:P], digits.X_test, y[P:])
    return Problem(MLP(2, "relu"), Parameterization(gamma0=1.0), task, GradientDescent(0.5, T))


def compute(quick: bool = False) -> Data:
    """Train the ensembles, or load them."""
    p, total = problem(quick), 8192 if quick else 32768
    return runs.networks(p, {N: total // N for N in WIDTHS}, save_kernels=[0, p.training.num_steps], save=["NTK"])


def found(data: Data) -> SpectralComparison:
    """Spectra against those of the widest."""
    return compare.spectral(data, points="test", num_modes=16)


def table(data: Data) -> str:
    """Ratios of eigenvalues and differences of C(k), with errors."""
    return str(found(data))


def numbers(data: Data) -> list[Number]:
    """The start knows no width; after training narrow kernels have grown less."""
    first, last = (found(data)[i] for i in (0, -1))
    out = []
    for i, N in enumerate(sorted(data)[:2]):
        out.append(
            Number(f"N = {N}: trace at the start over that of the widest", first.trace_ratio[i], first.trace_ratio_error[i])
        )
        out.append(
            Number(f"N = {N}: trace after training over that of the widest", last.trace_ratio[i], last.trace_ratio_error[i])
        )
    return out


def plot(data: Data) -> Figure:
    """Shares of the trace (left) and 1 - C(k) (right), at the start (top) and after training (bottom)."""
    comparison = found(data)
    figure, axes = plt.subplots(2, 2, figsize=(8.2, 5.8), sharex=True)
    each = dict(zip(sorted(data), (*comparison.spectra, comparison.reference_spectra), strict=True))
    for row, kept, when in ((0, 0, "at the start"), (1, -1, "after training")):
        for (N, spectra), color in zip(each.items(), width_colors(data).values(), strict=True):
            k = np.arange(1, 17)
            for ax, y, error in (
                (axes[row, 0], spectra.share[kept], spectra.share_error[kept]),
                (axes[row, 1], 1 - spectra.cumulative[kept], spectra.cumulative_error[kept]),
            ):
                ax.plot(k, y[:16], color=color, marker="o", ms=3, label=f"N = {N}, {data[N].trajectory.n} seeds")
                ax.fill_between(k, (y - error)[:16], (y + error)[:16], color=color, alpha=0.25, lw=0)
        axes[row, 0].set(xscale="log", yscale="log", ylabel=r"$\lambda_k$ / trace", title=f"eigenvalues, {when}")
        axes[row, 1].set(xscale="log", ylabel="1 - C(k)", title=f"target beyond k modes, {when}")
    for ax in axes[1]:
        ax.set(xlabel="mode k")
    axes[0, 0].legend()
    return figure
