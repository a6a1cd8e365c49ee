"""Width consistency on handwritten digits: loss, point-wise predictions, kernels, variance and bias against the limit.

A network of two hidden layers learns to tell two digits apart. The infinite-width limit (dmft) is drawn in black, with a band
of two standard errors where it can be seen; ensembles of five widths (finite) in colour.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import compare
import dmft
from paper_figures import runs
from paper_figures.axes import width_axis
from paper_figures.figure import THEORY, exponent, mean_and_error, width_colors
from paper_figures.headline import Number
from widthwise import MLP, GradientDescent, Parameterization, Problem, Result, tasks

WIDTHS = (64, 128, 256, 512, 1024)


class Data(NamedTuple):
    """What the figure shows."""

    theory: Result
    nets: dict[int, Result]


def problem(quick: bool = False) -> Problem:
    """Threes against fives, 24 train and 24 test images; fewer and shorter if quick."""
    points, steps = (8, 20) if quick else (24, 50)
    task = tasks.digits(points, points, classes=(3, 5))
    return Problem(MLP(2, "gelu"), Parameterization(gamma0=1.0), task, GradientDescent(eta0=0.8, num_steps=steps))


def compute(quick: bool = False) -> Data:
    """Solve the limit and train the ensembles, or load them."""
    p = problem(quick)
    theory = runs.limit(p, dmft.March(num_paths=2048, tol=1e-2))
    work = 2**20 if quick else 2**23  # about the same at every width
    return Data(theory, runs.networks(p, {N: int(np.clip(work // N**2, 16, 1024)) for N in WIDTHS}))


def table(data: Data) -> str:
    """Losses, scaling of variance and bias, and the verdict."""
    theory, nets = data
    lines = [str(theory), "", "  width  seeds   final train loss        final test loss"]
    rows = [(f"{N:7d} {net.trajectory.n:6d}", net) for N, net in nets.items()]
    for label, result in [*rows, ("  limit       ", theory)]:
        mean, sem = result.mean, result.sem
        lines.append(f"{label}   {_last(mean.loss, sem.loss)}      {_last(mean.test_loss, sem.test_loss)}")
    verdict = compare.agrees(theory, nets)
    return "\n".join([*lines, "", str(compare.width_scaling(nets, theory)), "", f"Extrapolated in 1/N, {verdict}"])


def numbers(data: Data) -> list[Number]:
    """Variance falls like 1/N, and networks extrapolate to the limit."""
    fit = compare.width_scaling(data.nets, data.theory).variance_fit
    return [
        Number("exponent of the variance", *exponent(fit)),
        Number("p of agreement with the limit, extrapolated in 1/N", compare.agrees(data.theory, data.nets).p_value),
    ]


def _last(mean: Any, sem: Any) -> str:
    return f"{mean[-1]:.5f} +- {sem[-1]:.5f}"


def plot(data: Data) -> Figure:
    """Four panels: (a) loss, (b) predictions of held-out digits, (c) kernel alignment, (d) variance and bias."""
    figure, ((a, b), (c, d)) = plt.subplots(2, 2, figsize=(8.2, 6.0))
    _losses(a, data)
    _predictions(b, data)
    _alignment(c, data)
    _scaling(d, data)
    return figure


def _losses(axes: Axes, data: Data) -> None:
    colors = width_colors(data.nets)
    for N, net in data.nets.items():
        axes.plot(net.mean.steps, net.mean.loss, color=colors[N], label=f"N = {N}")
        axes.plot(net.mean.steps, np.asarray(net.mean.test_loss), color=colors[N], ls="--")
    mean = data.theory.mean
    axes.plot(mean.steps, mean.loss, color=THEORY, lw=1, label="limit (dmft)")
    axes.plot(mean.steps, np.asarray(mean.test_loss), color=THEORY, lw=1, ls="--")
    axes.set(yscale="log", xlabel="step", ylabel="loss", title="(a) train (full) and test (dashed) loss")
    axes.legend(ncols=2)


def _predictions(axes: Axes, data: Data, num_points: int = 4) -> None:
    theory, colors = data.theory, width_colors(data.nets)
    P = theory.problem.task.num_train
    order = P + np.argsort(theory.mean.f[-1, P:])
    points = order[np.linspace(0, len(order) - 1, num_points).round().astype(int)]
    for m in points:
        for N, net in data.nets.items():
            axes.plot(net.mean.steps, net.mean.f[:, m], color=colors[N])
        f, sem = theory.mean.f[:, m], theory.sem.f[:, m]
        axes.fill_between(theory.mean.steps, f - 2 * sem, f + 2 * sem, color=THEORY, alpha=0.25, lw=0)
        axes.plot(theory.mean.steps, f, color=THEORY, lw=1)
    axes.set(xlabel="step", ylabel="output f", title=f"(b) predictions of {num_points} held-out digits")


def _alignment(axes: Axes, data: Data) -> None:
    widths = np.array(list(data.nets))
    depth = data.theory.problem.architecture.depth
    for ell in range(1, depth + 1):
        each = [1 - compare.alignment_of_runs(net, data.theory, "Phi")[:, ell - 1, -1] for net in data.nets.values()]
        mean, sem = np.array([mean_and_error(x) for x in each]).T
        axes.errorbar(widths, mean, 2 * sem, marker="o", ms=4, label=rf"$\Phi^{ell}$ of one network")
    axes.plot(widths, mean[0] * widths[0] / widths, color="0.6", ls=":", label=r"$\propto 1/N$")
    axes.set(yscale="log", ylabel="1 - alignment", title="(c) feature kernels at the last step")
    width_axis(axes, data.nets)
    axes.legend()


def _scaling(axes: Axes, data: Data) -> None:
    scaling = compare.width_scaling(data.nets, data.theory)
    for value, error, fit, marker, label in (
        (scaling.variance, scaling.variance_error, scaling.variance_fit, "o", "variance"),
        (scaling.bias2, scaling.bias2_error, scaling.bias2_fit, "s", "squared bias"),
    ):
        if value is None or error is None:
            continue
        seen = value > 2 * error
        points = axes.errorbar(scaling.widths[seen], value[seen], 2 * error[seen], marker=marker, ms=4, ls="", label=label)
        color = points[0].get_color()
        hidden = scaling.widths[~seen]
        bounds = (np.maximum(value, 0) + 2 * error)[~seen]
        bounded = "at most (2 standard errors)" if len(hidden) else None
        axes.plot(hidden, bounds, "v", color=color, mfc="none", ms=5, label=bounded)
        if fit:
            axes.plot(scaling.widths, fit(scaling.widths), color=color, lw=1, label=f"exponent {fit}")
    axes.set(yscale="log", ylabel="mean over steps and points", title="(d) output f over seeds")
    axes.set_ylim(axes.get_ylim()[0] / 12, None)  # room for the legend
    width_axis(axes, data.nets)
    axes.legend(loc="lower left", ncols=2)
