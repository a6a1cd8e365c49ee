"""Edge of stability: sharpness along training, networks of four widths over the limit, below and at the line 2 / eta0.

Full-batch gradient descent on raw images of two digits, whose mean makes one direction sharp. Learning the rest sharpens it
(progressive sharpening): at a small learning rate up to a value of its own, at a larger one up to 2 / eta0, where it hovers
while the loss goes up and down. The sharpness is the top eigenvalue of the tangent kernel times the Hessian of the loss, in
units of the learning rates, so that the edge is 2 / eta0 at every width. The limit (dmft) is solved at these step sizes.

At the edge a small difference grows from step to step, so the step at which the loss turns up moves with the width, like log N.
"""

from __future__ import annotations

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import dmft
from paper_figures import runs
from paper_figures.figure import THEORY, mean_and_error, width_colors
from paper_figures.headline import Number
from widthwise import MLP, GradientDescent, Parameterization, Problem, Result, Task

WIDTHS = (32, 128, 512)
CASES = {"below": (1, 0.7), "at": (1, 1.2), "deep": (2, 1.0)}
"""Depth and eta0."""

EVERY = 2
"""Steps between those at which the sharpness is taken."""


class Case(NamedTuple):
    """Theory and ensembles of one depth and learning rate."""

    theory: Result
    nets: dict[int, Result]


Data = dict[str, Case]


def raw_digits(num_train: int = 8) -> Task:
    """Threes (1) and fives (-1), each image scaled to norm sqrt(D), the mean image left in."""
    digits = load_digits()
    chosen = np.flatnonzero(np.isin(digits.target, (3, 5)))[:num_train]
    X = digits.data[chosen]
    X = X / np.linalg.norm(X, axis=1, keepdims=True) * np.sqrt(X.shape[1])
    return Task(X, np.where(digits.target[chosen] == 3, 1.0, -1.0), name="raw digits")


def problem(case: str) -> Problem:
    """tanh, gamma0 = 1, 8 images, 100 steps, and 40 with two hidden layers."""
    depth, eta0 = CASES[case]
    T = 40 if depth == 2 else 100
    return Problem(MLP(depth, "tanh"), Parameterization(gamma0=1.0), raw_digits(), GradientDescent(eta0, T))


def compute(quick: bool = False) -> Data:
    """Solve the limits and train the ensembles, or load them."""
    data = {}
    for case, (depth, _) in CASES.items():
        p = problem(case)
        kept = range(0, p.training.num_steps + 1, EVERY)
        method = (
            dmft.TwoLayer(num_paths=2048 if quick else 8192) if depth == 1 else dmft.March(num_paths=512 if quick else 2048)
        )
        theory = runs.limit(p, method, save=["sharpness"], save_kernels=kept)
        seeds = {N: (8 if quick else 64) for N in WIDTHS}
        data[case] = Case(theory, runs.networks(p, seeds, save=["sharpness"], save_kernels=kept))
    return data


def table(data: Data) -> str:
    """Sharpness at the start, its largest and its mean over the last half, times eta0."""
    lines = [f"{'eta0 sharpness':26s} start            largest   last half"]
    for case, (theory, nets) in data.items():
        depth, eta0 = CASES[case]
        lines.append(f"{depth} hidden, eta0 = {eta0}")
        for label, result in [*((f"N = {N}", net) for N, net in nets.items()), ("limit", theory)]:
            x = scaled(result)
            late, error = last_half(result)
            start = "{:.3f} +- {:.3f}".format(*mean_and_error(x[:, 0]))
            lines.append(f"  {label:24s} {start}   {x.mean(0).max():.3f}     {late:.3f} +- {error:.3f}")
    return "\n".join(lines)


def numbers(data: Data) -> list[Number]:
    """Below the edge networks follow the limit; at the edge all hover at 2; widths coincide."""
    out = []
    for name, result in _wide(data["at"]):
        out += [
            Number(f"{name}: eta0 sharpness at the edge, last half", *last_half(result)),
            Number(f"{name}: eta0 sharpness at the start", scaled(result)[:, 0].mean()),
            Number(f"{name}: largest step up of the loss at the edge", np.diff(result.mean.loss).max()),
        ]
    for name, result in _wide(data["below"]):
        out += [
            Number(f"{name}: largest eta0 sharpness below the edge", scaled(result).mean(0).max()),
            Number(f"{name}: largest step up of the loss below the edge", np.diff(result.mean.loss).max()),
        ]
    for case, (theory, nets) in data.items():
        wide = scaled(nets[max(nets)])
        gap = np.abs(wide.mean(0) - scaled(theory).mean(0)).mean()
        name = f"{case}: eta0 sharpness of N = {max(nets)} from the limit, mean over steps"
        out.append(Number(name, gap, mean_and_error(wide)[1].mean()))
    return out


def plot(data: Data) -> Figure:
    """Sharpness times eta0 (top) and train loss (bottom); bars are two standard errors of the mean over networks."""
    figure, axes = plt.subplots(2, len(data), figsize=(9.6, 5.0), sharex="col", height_ratios=(3, 2))
    for column, (case, (theory, nets)) in enumerate(data.items()):
        depth, eta0 = CASES[case]
        top, bottom = axes[:, column]
        colors, kept = width_colors(nets), np.asarray(theory.mean.kernel_steps)
        for N, net in nets.items():
            x = scaled(net)
            mean, error = mean_and_error(x)
            top.errorbar(kept, mean, 2 * error, color=colors[N], lw=1, elinewidth=0.6, label=f"N = {N}")
            bottom.plot(net.mean.steps, net.mean.loss, color=colors[N])
        top.plot(kept, scaled(theory).mean(0), color=THEORY, lw=1.2, label="limit (dmft)")
        bottom.plot(theory.mean.steps, theory.mean.loss, color=THEORY, lw=1.2)
        top.axhline(2, color="#D55E00", ls="--", lw=1, label=r"edge, $2/\eta_0$")
        layers = f"{depth} hidden layer{'s' * (depth > 1)}"
        top.set(title=rf"({'abc'[column]}) {layers}, $\eta_0 = {eta0}$", ylabel=r"$\eta_0\,\times$ sharpness")
        bottom.set(yscale="log", xlabel="step", ylabel="train loss", title=f"({'def'[column]})")
    axes[0, 0].legend()
    return figure


def scaled(result: Result) -> Float[np.ndarray, "runs kept"]:
    """eta0 times the sharpness of each network, or replica."""
    return result.problem.training.eta0 * np.asarray(result.samples["sharpness"], dtype=np.float64)


def last_half(result: Result) -> tuple[float, float]:
    """Mean of the same over the last half of training, and its error."""
    x = scaled(result)
    late = x[:, x.shape[1] // 2 :].mean(1)
    return mean_and_error(late)


def _wide(case: Case) -> list[tuple[str, Result]]:
    return [*((f"N = {N}", net) for N, net in case.nets.items() if N >= 128), ("limit", case.theory)]
