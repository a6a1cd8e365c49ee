"""Deviations from infinite width against depth and richness: N Var f and N bias f of the 1/N theory, and of networks.

tanh networks learn to tell two digits apart. `dmft.fluctuations` computes N Var f and N bias f from the limit alone (black,
bars of two standard errors; nothing is fitted). Networks of three widths give the same by their spread over seeds and by the
differences of their means between widths. Both are of the output on the test points, mean over them and over steps; the bias
counts along the target y, so that below zero narrow networks learn less.
"""

from __future__ import annotations

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from compare.seeds import squares
from paper_figures import runs
from paper_figures.figure import THEORY, mean_and_error, width_colors
from paper_figures.headline import Number
from widthwise import MLP, Fluctuations, GradientDescent, Parameterization, Problem, Result, tasks

WIDTHS = (16, 32, 64)
DEPTHS = (1, 2, 3)
RICHNESS = (0.5, 1.0, 2.0)
"""gamma0, at depth 2; depths are compared at gamma0 = 1."""

Key = tuple[int, float]
"""Depth and gamma0."""


class Case(NamedTuple):
    """Theory and ensembles of one depth and gamma0."""

    theory: Fluctuations
    nets: dict[int, Result]


Data = dict[Key, Case]


def problem(key: Key, quick: bool = False) -> Problem:
    """Threes against fives, 4 train and 2 test images, 12 steps; 2, 1 and 8 if quick."""
    (depth, gamma0), (P, Q, T) = key, (2, 1, 8) if quick else (4, 2, 12)
    digits = tasks.digits(P, Q, classes=(3, 5))
    return Problem(MLP(depth, "tanh"), Parameterization(gamma0=gamma0), digits, GradientDescent(0.4, T))


def compute(quick: bool = False) -> Data:
    """Solve the 1/N theory and train the ensembles, a seed per width, or load them."""
    data = {}
    for key in sorted({(depth, 1.0) for depth in DEPTHS} | {(2, gamma0) for gamma0 in RICHNESS}):
        p = problem(key, quick)
        n = (1024 if key[0] == 1 else 256) if quick else (4096 if key[0] == 1 else 1024)
        seeds = dict(zip(WIDTHS, (65536, 32768, 8192) if quick else (2**18, 2**17, 2**15), strict=True))
        data[key] = Case(runs.fluctuations(p, num_paths=n), runs.networks(p, seeds))
    return data


def of_theory(case: Case) -> dict[str, tuple[float, float]]:
    """N Var f and N bias f on the test points, mean over them and over steps; errors over replicas."""
    out = {"variance": mean_and_error(_test(case.theory.variance).mean((1, 2)))}
    return out if case.theory.bias is None else out | {"bias": mean_and_error(_bias(case.theory.bias))}


def of_networks(case: Case) -> dict[str, dict[int, tuple[float, float]]]:
    """The same of networks, by width: N Var f; and the slope of <f> in 1/N between N and 2 N."""
    variance, bias = {}, {}
    for N, net in case.nets.items():
        f = np.asarray(_test(net), dtype=np.float64)
        variance[N] = mean_and_error(N * squares(f).mean((1, 2)))
        if 2 * N in case.nets:
            (a, a_error), (b, b_error) = (mean_and_error(_bias(case.nets[n])) for n in (N, 2 * N))
            bias[N] = 2 * N * (a - b), 2 * N * float(np.hypot(a_error, b_error))
    return {"variance": variance, "bias": bias}


def table(data: Data) -> str:
    """N Var f and N bias f of theory and networks, case by case."""
    lines = ["test points, mean over steps"]
    for (depth, gamma0), case in data.items():
        lines.append(f"depth {depth}, gamma0 = {gamma0:g}")
        theory, nets = of_theory(case), of_networks(case)
        for name, label in (("variance", "N Var f "), ("bias", "N bias f y")):
            rows = "   ".join(f"N = {N}: {v:.4f} +- {e:.4f}" for N, (v, e) in nets[name].items())
            lines.append(f"  {label:10s}  theory {theory[name][0]:.4f} +- {theory[name][1]:.4f}   {rows}")
    return "\n".join(lines)


def numbers(data: Data) -> list[Number]:
    """Networks have the variance and bias of the theory in every case; variance grows with depth, falls with gamma0."""
    out = []
    for (depth, gamma0), case in data.items():
        theory, nets = of_theory(case), of_networks(case)
        for name, label in (("variance", "N Var f"), ("bias", "N bias f y")):
            width = max(nets[name]) if name == "variance" else min(nets[name])  # the narrowest know the bias best
            (value, error), (expected, its_error) = nets[name][width], theory[name]
            ratio = value / expected
            spread = abs(ratio) * np.hypot(error / value, its_error / expected)
            where = f"depth {depth}, gamma0 {gamma0:g}: {label} of N = {width}, over that of the theory"
            out.append(Number(where, ratio, spread))
    shallow, deep = (of_theory(data[(depth, 1.0)])["variance"] for depth in (DEPTHS[0], DEPTHS[-1]))
    grows = deep[0] - shallow[0], np.hypot(shallow[1], deep[1])
    lazy, rich = (of_theory(data[(2, gamma0)])["variance"] for gamma0 in (RICHNESS[0], RICHNESS[-1]))
    return [
        *out,
        Number(f"N Var f at depth {DEPTHS[-1]}, less that at depth {DEPTHS[0]}", *grows),
        Number(f"N bias f y of networks of depth {DEPTHS[-1]}", *of_networks(data[(DEPTHS[-1], 1.0)])["bias"][min(WIDTHS)]),
        Number(
            f"N Var f at gamma0 = {RICHNESS[0]:g}, less that at {RICHNESS[-1]:g}", lazy[0] - rich[0], np.hypot(lazy[1], rich[1])
        ),
    ]


def plot(data: Data) -> Figure:
    """Variance (left) and bias (right) against depth (top) and gamma0 (bottom)."""
    figure, ((a, b), (c, d)) = plt.subplots(2, 2, figsize=(8.2, 5.6))
    depths = {depth: data[(depth, 1.0)] for depth in DEPTHS}
    richness = {gamma0: data[(2, gamma0)] for gamma0 in RICHNESS}
    _against(a, depths, "variance")
    _against(b, depths, "bias")
    _against(c, richness, "variance")
    _against(d, richness, "bias")
    a.set(xlabel="hidden layers", ylabel="N Var f", title=r"(a) variance, $\gamma_0 = 1$", xticks=DEPTHS)
    b.set(xlabel="hidden layers", ylabel="N bias f y", title=r"(b) bias, $\gamma_0 = 1$", xticks=DEPTHS)
    c.set(xlabel=r"$\gamma_0$", ylabel="N Var f", title="(c) variance, two hidden layers")
    d.set(xlabel=r"$\gamma_0$", ylabel="N bias f y", title="(d) bias, two hidden layers")
    a.legend()
    b.legend()
    return figure


def _against(axes: Axes, cases: dict[int, Case] | dict[float, Case], name: str) -> None:
    x = np.array([*cases], dtype=float)
    theory = np.array([of_theory(case)[name] for case in cases.values()])
    axes.errorbar(x, theory[:, 0], 2 * theory[:, 1], color=THEORY, lw=1, capsize=3, label="1/N theory (dmft), not fitted")
    for i, (N, color) in enumerate(width_colors(WIDTHS).items()):
        rows = [of_networks(case)[name].get(N) for case in cases.values()]
        seen = np.array([row for row in rows if row is not None])
        if len(seen):
            shift = 0.015 * np.ptp(x) * (i + 1)
            label = f"N = {N}" if name == "variance" else f"from N = {N} and {2 * N}"
            axes.errorbar(x + shift, seen[:, 0], 2 * seen[:, 1], color=color, marker="o", ms=4, ls="", label=label)


def _test(result: Result) -> Float[np.ndarray, "runs states points"]:
    return np.asarray(result.samples.f[..., result.problem.task.num_train :])


def _bias(result: Result) -> Float[np.ndarray, "runs"]:
    """Mean of f y over steps and test points, of every network or replica: below zero where narrow networks learn less."""
    return np.asarray((_test(result) * result.problem.task.y_test).mean((1, 2)), dtype=np.float64)
