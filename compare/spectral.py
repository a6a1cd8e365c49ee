"""Tangent kernels of networks of several widths: eigenvalues and eigenfunctions compared apart.

A narrow network's kernel can differ from a wide one's in how fast modes are learned (eigenvalues) and in which functions they
are (the target's power in them). Both are measured here, neither is presumed, and signs come out as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from compare import given
from widthwise import KernelSpectra, Task, check
from widthwise.checked import checked
from widthwise.kernel_spectra import Points, shown_modes


@dataclass(frozen=True)
class Deformation:
    """How the kernel spectra at one step differ from those of the reference, mode by mode (n widths, k modes).

    Attributes:
        step: the kept step.
        ratio, ratio_error: (n, k) lam_k(N) / lam_k(reference).
        share_ratio, share_ratio_error: (n, k) the same of lam_k / trace.
        cumulative_gap, cumulative_gap_error: (n, k) C_N(k) - C_reference(k); below zero: the target lies in later modes.
        trace_ratio, trace_ratio_error: (n,) of the traces.
        cumulative: (k,) C(k) of the reference.
    """

    step: int
    ratio: Float[np.ndarray, "widths modes"]
    ratio_error: Float[np.ndarray, "widths modes"]
    share_ratio: Float[np.ndarray, "widths modes"]
    share_ratio_error: Float[np.ndarray, "widths modes"]
    cumulative_gap: Float[np.ndarray, "widths modes"]
    cumulative_gap_error: Float[np.ndarray, "widths modes"]
    trace_ratio: Float[np.ndarray, "widths"]
    trace_ratio_error: Float[np.ndarray, "widths"]
    cumulative: Float[np.ndarray, "modes"]


@dataclass(frozen=True)
class SpectralComparison:
    """What `spectral` found; prints as a table, `plot()` draws it.

    Attributes:
        widths: (n,) widths N, ascending, without the reference if it is one of them.
        num_runs: (n,) networks at each.
        reference: what they are compared with, in words.
        points: "train", "test" or "all".
        deformations: one `Deformation` per kept step.
        spectra: the `KernelSpectra` of every width.
        reference_spectra: those of the reference.
    """

    widths: np.ndarray
    num_runs: np.ndarray
    reference: str
    points: Points
    deformations: tuple[Deformation, ...]
    spectra: tuple[KernelSpectra, ...]
    reference_spectra: KernelSpectra

    def __getitem__(self, kept: int) -> Deformation:
        """The Deformation at a kept step, by index: 0 the first, -1 the last (of the after-kernel)."""
        return self.deformations[kept]

    def __str__(self) -> str:
        lines = [f"tangent kernels of ensembles between {self.points} points, against {self.reference}"]
        for each in self.deformations:
            shown = shown_modes(each.ratio.shape[1], 6)
            head = "".join(f"      k = {k + 1:<6d}" for k in shown)
            lines.append(f"step {each.step}")
            blocks = (
                ("eigenvalues lam_k, ratio", each.ratio, each.ratio_error),
                ("lam_k / trace, ratio", each.share_ratio, each.share_ratio_error),
                ("task power C(k), difference", each.cumulative_gap, each.cumulative_gap_error),
            )
            for name, value, error in blocks:
                lines.append(f"  {name:28s}{head}")
                for i, N in enumerate(self.widths):
                    row = "".join(f"  {value[i, k]:+.3f} +- {error[i, k]:.3f}" for k in shown)
                    lines.append(f"    N = {N:<5d} ({self.num_runs[i]} runs){'':8s}{row}")
            for i, N in enumerate(self.widths):
                lines.append(f"  trace ratio at N = {N}: {each.trace_ratio[i]:.3f} +- {each.trace_ratio_error[i]:.3f}")
        return "\n".join(lines)

    def plot(self, kept: int = -1) -> Any:
        """A matplotlib Figure of one kept step: lam_k, lam_k / trace and 1 - C(k) against k, bands of one standard error."""
        import matplotlib.pyplot as plt  # imported where used: heavy

        figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.2), layout="constrained")
        colors = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(self.widths)))
        names = [f"N = {N}" for N in self.widths] + [self.reference]
        for each, name, color in zip((*self.spectra, self.reference_spectra), names, [*colors, "black"], strict=True):
            k = np.arange(1, each.lam.shape[1] + 1)
            for ax, y, error in (
                (axes[0], each.lam[kept], each.lam_error[kept]),
                (axes[1], each.share[kept], each.share_error[kept]),
                (axes[2], 1 - each.cumulative[kept], each.cumulative_error[kept]),
            ):
                ax.plot(k, y, color=color, lw=1.2, label=name)
                if np.isfinite(error).all():
                    ax.fill_between(k, y - error, y + error, color=color, alpha=0.25, lw=0)
        for ax, label in zip(axes, (r"$\lambda_k$", r"$\lambda_k\,/\,$trace", r"$1 - C(k)$"), strict=True):
            ax.set(xscale="log", yscale="log", xlabel="mode $k$", ylabel=label)
            drawn = np.concatenate([line.get_ydata()[:-1] for line in ax.lines])
            if (seen := drawn[drawn > 1e-6 * drawn.max()]).size:  # the last mode's 1 - C is zero but for rounding
                ax.set_ylim(bottom=0.5 * seen.min())
        axes[0].legend(frameon=False)
        figure.suptitle(f"step {self.deformations[kept].step}")
        return figure


@checked
def spectral(
    nets: given.Either,
    reference: given.Either = None,
    *,
    points: Points | None = None,
    y: Any = None,
    num_modes: int | None = None,
) -> SpectralComparison:
    """Spectra of the mean tangent kernel at every width, against those of the limit or of the widest network.

        Kbar_N = mean over seeds,   Kbar v_k = n lam_k v_k,   C(k) = share of y in v_1 ... v_k

    Errors are by jackknife over seeds, those of ratios to first order. What errors do not hold: noise of the kernel spreads
    eigenvalues, and tilts eigenvectors, by order 1 / (N seeds), in the same sense at every width. Take num_seeds ~ 1 / N, so
    that it is alike everywhere, and look at `spectra[i].lam_unbiased` beside `lam`.

    Args:
        nets: ensembles by width, with save=["NTK"], all of one problem.
        reference: a theory's Result, or another ensemble's; by default the widest of the nets.
        points: between which points; by default the test points if there are some with targets, else the train points.
        y: other targets at these points than the problem's: see `KernelSpectra.of`.
        num_modes: how many modes, by default those whose eigenvalue at the reference is above 1e-6 of the largest.

    Raises:
        ValueError: no tangent kernels, widths too few, or results that do not share kept steps and points.

    Example:
        >>> import finite
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(1, "tanh"), Parameterization(), tasks.sphere(6, input_dim=8), GradientDescent(0.5, 10))
        >>> settings = dict(num_seeds=8, save=["NTK"], progress=False)
        >>> nets = {N: finite.train(problem, width=N, **settings) for N in (16, 64)}
        >>> found = spectral(nets)
        >>> found.widths.tolist(), found[-1].ratio.shape
        ([16], (1, 6))
    """
    if reference is not None:
        reference, nets = given.theory_first(reference, nets)
    nets = given.by_width(nets, "spectral", 2 if reference is None else 1)
    widths = [*nets]
    if reference is None:
        widest = widths.pop()
        reference, name = nets[widest], f"N = {widest} ({nets[widest].trajectory.n} runs)"
    else:
        check.result("reference", reference)
        name = reference.provenance.get("method", "the reference").split("(")[0]
        name = f"{name} ({reference.trajectory.n or 'exact'} runs)" if reference.trajectory.n else f"{name} (exact)"
    if points is None:
        task = reference.problem.task
        points = "train" if isinstance(task, Task) and task.y_test is None else "test"
    limit = KernelSpectra.of(reference, points, y)
    spectra = tuple(KernelSpectra.of(nets[N], points, y) for N in widths)
    for N, each in zip(widths, spectra, strict=True):
        if not np.array_equal(each.steps, limit.steps) or each.lam.shape != limit.lam.shape:
            raise ValueError(
                f"results must share kept steps and points: width {N} has steps {each.steps.tolist()} and "
                f"{each.lam.shape[1]} points, the reference {limit.steps.tolist()} and {limit.lam.shape[1]}."
            )
    resolved = int((limit.lam > 1e-6 * limit.lam[:, :1]).all(0).sum())
    k = max(resolved, 1) if num_modes is None else check.count("num_modes", num_modes)
    if k > limit.lam.shape[1]:
        raise ValueError(f"num_modes must be at most the number of points, {limit.lam.shape[1]}; got {k}.")
    deformations = tuple(_deformation(i, spectra, limit, k) for i in range(len(limit.steps)))
    counts = np.array([nets[N].trajectory.n for N in widths])
    return SpectralComparison(np.array(widths), counts, name, points, deformations, spectra, limit)


def _deformation(i: int, spectra: tuple[KernelSpectra, ...], limit: KernelSpectra, k: int) -> Deformation:
    """At the kept step i, for the first k modes."""

    def stack(name: str) -> Float[np.ndarray, "widths modes"]:
        return np.array([getattr(each, name)[i] for each in spectra])

    lam, lam_error = _ratio(stack("lam"), stack("lam_error"), limit.lam[i], limit.lam_error[i])
    share, share_error = _ratio(stack("share"), stack("share_error"), limit.share[i], limit.share_error[i])
    trace, trace_error = _ratio(stack("trace"), stack("trace_error"), limit.trace[i], limit.trace_error[i])
    gap = stack("cumulative") - limit.cumulative[i]
    gap_error = np.hypot(stack("cumulative_error"), limit.cumulative_error[i])
    return Deformation(
        int(limit.steps[i]),
        lam[:, :k],
        lam_error[:, :k],
        share[:, :k],
        share_error[:, :k],
        gap[:, :k],
        gap_error[:, :k],
        trace,
        trace_error,
        limit.cumulative[i, :k],
    )


def _ratio(a: np.ndarray, a_error: np.ndarray, b: np.ndarray, b_error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a / b of independent numbers, with the standard error to first order; NaN where b vanishes."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(b > 0, a / b, np.nan)
        return ratio, np.where(b > 0, np.hypot(a_error, ratio * b_error) / b, np.nan)
