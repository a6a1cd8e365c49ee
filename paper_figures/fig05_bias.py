"""Bias of narrower width: ensembles of narrow networks learn at a slower rate, linear in 1/N, as the 1/N theory predicts.

Deep linear networks (two hidden layers) learn eight images of two digits. The loss of an infinite ensemble falls at the rate

    R_N = [ln L_N(t_1) - ln L_N(t_2)] / (t_2 - t_1)          L_N of the mean output over seeds, its sampling noise taken out

which is that of the limit (dmft) plus c / N. c comes from `dmft.fluctuations`, L_N = L + (1/N) <l' N bias f>. Nothing is fitted
but the dashed line through the networks, which has to have that slope. Nonlinear networks have such a bias too, of either
sign, depending on the activation, gamma0 and the time: narrow is slower here, and not everywhere.
"""

from __future__ import annotations

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

import compare
from compare.fits import least_squares
from paper_figures import runs
from paper_figures.figure import THEORY, mean_and_error, width_colors
from paper_figures.headline import Number
from widthwise import MLP, Fluctuations, GradientDescent, Parameterization, Problem, Result, tasks

WIDTHS = (16, 32, 64, 128)
FIRST, LAST = 4, 16
"""Steps between which the rate is taken."""


class Data(NamedTuple):
    """The 1/N theory, and ensembles by width."""

    theory: Fluctuations
    nets: dict[int, Result]


def problem() -> Problem:
    """Eight images, threes and fives, 16 steps."""
    digits = tasks.digits(8, 0, classes=(3, 5))
    return Problem(MLP(2, "linear"), Parameterization(gamma0=1.0), digits, GradientDescent(0.4, LAST))


def compute(quick: bool = False) -> Data:
    """Solve the 1/N theory and train the ensembles, or load them."""
    p, n, total = problem(), *((1024, 2**18) if quick else (2048, 2**19))
    return Data(runs.fluctuations(p, num_paths=n), runs.networks(p, {N: total // N for N in WIDTHS}, save_kernels=[]))


def rates(data: Data) -> Float[np.ndarray, "widths 2"]:
    """R_N and its error, of every width."""
    out = []
    for net in data.nets.values():
        found = compare.ensemble(net, points="train")
        L, error = found.infinite[[FIRST, LAST]], found.infinite_error[[FIRST, LAST]]
        out.append((np.log(L[0] / L[1]) / (LAST - FIRST), np.hypot(*(error / L)) / (LAST - FIRST)))
    return np.array(out)


def predicted(data: Data) -> Float[np.ndarray, "replicas 2"]:
    """R of the limit and c, of every replica of the theory."""
    limit, bias = data.theory.limit.samples.loss, data.theory.bias.samples.loss if data.theory.bias else np.nan
    relative = bias / limit
    R = np.log(limit[:, FIRST] / limit[:, LAST]) / (LAST - FIRST)
    return np.stack([R, (relative[:, FIRST] - relative[:, LAST]) / (LAST - FIRST)], axis=1)


def fitted(data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Intercept and slope of R_N in 1/N with a term in 1/N^2, and their errors."""
    N, found = np.array([*data.nets], dtype=float), rates(data)
    line = least_squares(np.stack([N**0, 1 / N, 1 / N**2], axis=1), found[:, 0], np.diag(found[:, 1] ** 2))
    return line.coefficients, line.errors


def table(data: Data) -> str:
    """Rates of all widths, and the line that the theory predicts."""
    theory, (value, error) = predicted(data), fitted(data)
    mean, sem = mean_and_error(theory)
    lines = [f"rate of the loss of infinite ensembles, steps {FIRST} to {LAST}"]
    lines += [f"  N = {N:4d}   {R:.5f} +- {e:.5f}" for N, (R, e) in zip(data.nets, rates(data), strict=True)]
    lines.append(f"  limit      {mean[0]:.5f} +- {sem[0]:.5f}   networks, extrapolated {value[0]:.5f} +- {error[0]:.5f}")
    lines.append(f"  c          {mean[1]:.4f} +- {sem[1]:.4f}     networks {value[1]:.4f} +- {error[1]:.4f}")
    return "\n".join(lines)


def numbers(data: Data) -> list[Number]:
    """Intercept and slope are those of the theory; the slope is below zero."""
    theory, (value, error) = predicted(data), fitted(data)
    mean, sem = mean_and_error(theory)
    both = np.hypot(error[:2], sem)
    slower, its_error = rates(data)[0]
    return [
        Number("rate extrapolated in 1/N, less that of the limit", value[0] - mean[0], both[0]),
        Number("coefficient of 1/N, less that of the 1/N theory", value[1] - mean[1], both[1]),
        Number("coefficient of 1/N by the 1/N theory", mean[1], sem[1]),
        Number(f"rate of N = {min(data.nets)}, less that of the limit", slower - mean[0], np.hypot(sem[0], its_error)),
    ]


def plot(data: Data) -> Figure:
    """Losses of ensembles over time (left), and their rates against 1/N (right)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.3))
    steps = data.theory.limit.mean.steps
    left.plot(steps, data.theory.limit.mean.loss, color=THEORY, lw=1.5, label="limit (dmft)", zorder=5)
    found, theory = rates(data), predicted(data).mean(0)
    for (N, net), color, (R, error) in zip(data.nets.items(), width_colors(data.nets).values(), found, strict=True):
        left.plot(steps, compare.ensemble(net, points="train").infinite, color=color, label=f"N = {N}")
        right.errorbar(1 / N, R, 2 * error, color=color, marker="o", ms=4, capsize=3)
    left.axvspan(FIRST, LAST, color="0.93", zorder=0)
    left.set(xlabel="step", ylabel="loss of infinite ensembles", yscale="log", title="(a) train loss, averaged outputs")
    left.legend()
    x, value = np.linspace(0, 1.05 / min(data.nets), 50), fitted(data)[0]
    right.plot(x, theory[0] + theory[1] * x, color=THEORY, label="limit + c / N (1/N theory, not fitted)")
    right.plot(x, value[0] + value[1] * x + value[2] * x**2, color="0.5", ls="--", label=r"fit to $1/N$, $1/N^2$")
    right.set(xlabel="1 / N", ylabel=r"rate $R_N$", title="(b) narrow networks are slower")
    right.legend()
    return figure
