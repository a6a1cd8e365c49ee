"""Between lazy and rich: one step moves features by N^(r - 1/2), in every form of the same network.

Networks of two hidden ReLU layers at richness r have gamma0 = N^(r - 1/2) (2404.19719): r = 0 is the tangent kernel's
parameterization, r = 1/2 muP. Left: root mean square change of the second layer's fields after one step, against the width,
beside the infinite-width limit at that gamma0, which is known without a fit; the exponents r - 1/2 follow from the table of
parameterizations alone. Middle: loss of networks of width 200 in three forms, which are the same to rounding. Right: the best
learning rate on a stream of fresh samples, over that of the narrowest network: it hardly moves at r = 1/2, and falls in
"standard", whose steps grow with the width. In "ntk", r = 0, it grows after few steps and does not after many.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import finite
from dmft import scaling
from paper_figures import runs
from paper_figures.axes import width_axis
from paper_figures.cache import cached_arrays
from paper_figures.figure import THEORY, mean_and_error
from paper_figures.headline import Number
from widthwise import MLP, GradientDescent, Parameterization, Problem, Result, data, tasks

RICHNESS = (0.0, 0.25, 0.5)
WIDTHS = (64, 256, 1024)
FORM_WIDTH = 200
SWEPT = {"mean_field": 0.5, "ntk": 2.0, "standard": 0.08}
"""Kinds whose rates are swept, with the middle of the grid."""


class Data(NamedTuple):
    """One step: `steps[r][N]`, `limits[r][N]`. Training: `forms[r][kind]`, their limits `curves[r]`. Sweeps by kind."""

    steps: dict[float, dict[int, Result]]
    limits: dict[float, dict[int, Result]]
    forms: dict[float, dict[str, Result]]
    curves: dict[float, Result]
    sweeps: dict[str, finite.Sweep]


def one_step(form: Parameterization) -> Problem:
    """16 points on a sphere in 32 dimensions."""
    return Problem(MLP(2, "relu"), form, tasks.sphere(16, input_dim=32), GradientDescent(1.0, 1))


def forms_of(richness: float) -> dict[str, Parameterization]:
    """The same network three times; "ntk" has N^r for its gamma0."""
    same = {kind: Parameterization.of_richness(richness, FORM_WIDTH, kind=kind) for kind in ("mean_field", "mup")}
    lazy = Parameterization.of_richness(0.0, FORM_WIDTH).gamma0
    return same | {"ntk": Parameterization(gamma0=same["mup"].gamma0 / lazy, kind="ntk")}


def swept_problem(kind: str, steps: int) -> Problem:
    """A polynomial of two directions, batches of 32 fresh samples."""
    form = Parameterization(kind=kind)  # type: ignore[arg-type]  # a key of SWEPT
    stream = data.multi_index(input_dim=8, num_directions=2, degree=2)
    return Problem(MLP(2, "relu"), form, stream, GradientDescent(SWEPT[kind], steps, batch_size=32))


def rates_of(middle: float) -> Any:
    """Factors of two."""
    return middle * 2.0 ** np.arange(-3, 4)


def swept(kind: str, middle: float, widths: tuple[int, ...], seeds: int, steps: int) -> dict[str, Any]:
    """Losses over rates and widths."""
    of = {"rates": rates_of(middle), "widths": widths, "num_seeds": seeds, "last": 0.2, "progress": False}
    return {"losses": finite.sweep(swept_problem(kind, steps), **of).losses}


def compute(quick: bool = False) -> Data:
    """Some hundred networks of each width for one step; sweeps of four seeds, 80 steps (of full 8 and 300, one width more)."""
    total = 16384 if quick else 65536
    one = {"save": ["update_size"], "save_kernels": [1]}
    steps: dict[float, dict[int, Result]] = {r: {} for r in RICHNESS}
    limits: dict[float, dict[int, Result]] = {r: {} for r in RICHNESS}
    for N in WIDTHS:
        for r in RICHNESS:
            problem = one_step(Parameterization.of_richness(r, N))
            steps[r] |= runs.networks(problem, {N: max(32, total // N)}, progress=False, **one)
            limits[r][N] = runs.limit(problem, progress=False, **one)
    task, training = tasks.sphere(6, input_dim=16), GradientDescent(0.6, 10)
    forms: dict[float, dict[str, Result]] = {}
    for r in RICHNESS:
        for kind, form in forms_of(r).items():
            problem = Problem(MLP(2, "relu"), form, task, training)
            net = runs.networks(problem, {FORM_WIDTH: 16}, dtype="float64", save_kernels=[0], progress=False)
            forms.setdefault(r, {})[kind] = net[FORM_WIDTH]
    curves = {r: runs.limit(nets["mean_field"].problem, save_kernels=[0], progress=False) for r, nets in forms.items()}
    widths, steps_swept, seeds = ((32, 64, 128), 80, 4) if quick else ((32, 64, 128, 256), 300, 8)
    sweeps = {}
    for kind, middle in SWEPT.items():
        grid = {"kind": kind, "middle": middle, "widths": widths, "seeds": seeds, "steps": steps_swept}
        losses = cached_arrays("sweeps between lazy and rich", grid, swept)["losses"]
        sweeps[kind] = finite.Sweep(swept_problem(kind, steps_swept), widths, None, rates_of(middle), losses)
    return Data(steps, limits, forms, curves, sweeps)


def sizes(nets: dict[int, Result]) -> tuple[np.ndarray, np.ndarray]:
    """Change of the second layer's fields at every width, and its standard error over networks."""
    mean, error = np.array([mean_and_error(net.samples["update_size"][:, 0, 1]) for net in nets.values()]).T
    return mean, error


def slope(nets: dict[int, Result]) -> tuple[float, float]:
    """Exponent of the width, and its standard error."""
    mean, error = sizes(nets)
    weights = np.linalg.pinv(np.stack([np.log([*nets]), np.ones(len(nets))], 1))[0]
    return float(weights @ np.log(mean)), float(np.hypot.reduce(weights * error / mean))


def predicted(richness: float) -> float:
    """The exponent from the table of parameterizations, of a root mean square over neurons."""
    return scaling.update_sizes(richness=richness).hidden[1] - 0.5


def apart(nets: dict[str, Result]) -> float:
    """Largest difference of outputs between forms, over the largest output."""
    f = [net.samples.f for net in nets.values()]
    return float(max(np.abs(g - f[0]).max() for g in f) / np.abs(f[0]).max())


def table(data: Data) -> str:
    """Exponents, forms and sweeps."""
    lines = ["one step: exponent of the width, networks and table of parameterizations"]
    lines += [
        f"  r = {r:<4g} {slope(nets)[0]:+.3f} +- {slope(nets)[1]:.3f}  {predicted(r):+.2f}" for r, nets in data.steps.items()
    ]
    lines += [f"three forms at r = {r:g} differ by {apart(nets):.1g} of f" for r, nets in data.forms.items()]
    return "\n".join([*lines, *map(str, data.sweeps.values())])


def numbers(data: Data) -> list[Number]:
    """Exponents, size beside the limit, forms, another richness as twin, drift of the best rate."""
    out, widest = [], max(WIDTHS)
    for r, nets in data.steps.items():
        out.append(Number(f"exponent of one step, r = {r:g}", *slope(nets)))
        mean, error = sizes({widest: nets[widest]})
        theory = data.limits[r][widest].mean["update_size"][0, 1]
        out.append(Number(f"one step over the limit's at N = {widest}, r = {r:g}", mean[0] / theory, error[0] / theory))
    out.append(Number("largest difference between forms", max(map(apart, data.forms.values()))))
    other = {str(r): data.forms[r]["mean_field"] for r in RICHNESS[:2]}
    out.append(Number("difference between r = 0 and r = 0.25", apart(other)))
    (rich, its), (standard, own) = (data.sweeps[kind].drift for kind in ("mean_field", "standard"))
    out.append(Number("drift of the best rate, mean_field", rich, its))
    return [*out, Number("drift of the best rate, standard minus mean_field", standard - rich, np.hypot(own, its))]


def plot(data: Data) -> Figure:
    """One step, three forms, best rates."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10.6, 3.7))
    for i, (r, nets) in enumerate(data.steps.items()):
        mean, error = sizes(nets)
        label = f"networks, r = {r:g}: slope {slope(nets)[0]:+.2f}, table {predicted(r):+.2f}"
        left.errorbar([*nets], mean, 2 * error, color=f"C{i + 1}", marker="o", ms=4, ls="", label=label)
    for r, limits in data.limits.items():
        theory = [limit.mean["update_size"][0, 1] for limit in limits.values()]
        left.plot([*limits], theory, color=THEORY, lw=1, label="limit (dmft) at gamma0 = N^(r - 1/2)" if r == 0 else None)
    width_axis(left, WIDTHS)
    left.set(yscale="log", ylabel=r"rms $h^2(1) - h^2(0)$", title="(a) one step")
    left.set_ylim(top=1)
    left.legend(fontsize=7, loc="upper left")
    _forms(middle, data)
    for i, (kind, sweep) in enumerate(data.sweeps.items()):
        best, error = np.array([*sweep.optimal.values()]).T
        drift = sweep.drift
        label = f"{kind}: N^({drift[0]:+.2f} +- {drift[1]:.2f}), {sweep.losses.shape[-1]} seeds"
        ratio = best / best[0]
        right.errorbar(sweep.widths, ratio, ratio * error * np.log(2), marker="o", ms=4, color=f"C{i}", label=label)
    width_axis(right, data.sweeps["ntk"].widths)
    right.set_yscale("log", base=2)
    right.set(ylabel="best eta0 over that of N = 32", title="(c) learning rate transfer")
    right.legend(fontsize=7)
    return figure


def _forms(axes: Axes, data: Data) -> None:
    for i, (r, nets) in enumerate(data.forms.items()):
        for (kind, net), marker, shift in zip(nets.items(), ("o", "x", "+"), (0, 1, 2), strict=True):
            steps = slice(shift, None, 3)
            axes.plot(net.mean.steps[steps], net.mean.loss[steps], marker, color=f"C{i + 1}", ms=5, mfc="none")
            if i == 0:
                axes.plot([], [], marker, color="0.4", mfc="none", label=f"{kind}, N = {FORM_WIDTH}, 16 seeds")
        limit = data.curves[r].mean
        axes.plot(limit.steps, limit.loss, color=THEORY, lw=1, label="limit (dmft)" if i == 0 else None)
        axes.annotate(
            f"r = {r:g}", (limit.steps[-1], limit.loss[-1]), (4, (6, -10, 0)[i]), textcoords="offset points", color=f"C{i + 1}"
        )
    axes.set(yscale="log", xlabel="step", ylabel="train loss", title="(b) three forms of one network")
    axes.set_xlim(right=11.7)
    axes.legend(fontsize=7)
