"""Large learning rates: losses of wide networks jump and spike at the same steps, those of the limit.

Above: a linear network of one hidden layer and one sample, y = 1. Its output f and tangent kernel K obey a map that is exact at
every width; the width enters through their start alone, f(0) ~ N(0, 1 / (gamma0^2 N)) and K(0) = 2 + N(0, 4 / N):

    f' = f + eta K D + (eta gamma0)^2 f D^2,    K' = K + 4 eta gamma0^2 f D + (eta gamma0)^2 K D^2,    D = y - f

(solvable model). Where eta K > 2 the loss rises first, K falls, and then the loss falls: the catapult. Below: tanh networks of
one hidden layer on eight and sixteen digits, full batch and in shared batches of four, over the limit solved by dmft.
Lines are medians over networks, bands their middle half.
"""

from __future__ import annotations

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import dmft
from paper_figures import runs
from paper_figures.fig08_edge_of_stability import raw_digits
from paper_figures.figure import THEORY, mean_and_error, width_colors
from paper_figures.headline import Number
from widthwise import MLP, GradientDescent, Parameterization, Problem, Result, Task

LINEAR_WIDTHS = (64, 512, 4096)
WIDTHS = (32, 128, 512)
GAMMA0 = 0.25
ETA0 = 1.1


class Data(NamedTuple):
    """What the figure shows."""

    linear: dict[int, Result]
    full: tuple[Result, dict[int, Result]]
    batches: tuple[Result, dict[int, Result]]


def linear_problem() -> Problem:
    """One sample with |x|^2 = D = 1, not centred, so that the output is f itself."""
    form = Parameterization(gamma0=GAMMA0, centered=False)
    return Problem(MLP(1, "linear"), form, Task([[1.0]], [1.0]), GradientDescent(ETA0, 12))


def problem(batches: bool) -> Problem:
    """tanh, gamma0 = 1: 8 digits and eta0 = 3, or 16 in batches of 4 and eta0 = 1.6."""
    training = GradientDescent(1.6, 50, batch_size=4) if batches else GradientDescent(3.0, 20)
    return Problem(MLP(1, "tanh"), Parameterization(gamma0=1.0), raw_digits(16 if batches else 8), training)


def compute(quick: bool = False) -> Data:
    """Solve the limits and train the ensembles, or load them."""
    n = 16 if quick else 256
    linear = runs.networks(linear_problem(), dict.fromkeys(LINEAR_WIDTHS, n), save=["NTK"])
    method = dmft.TwoLayer(num_paths=2048 if quick else 16384)
    pairs = []
    for batches in (False, True):
        p = problem(batches)
        pairs.append((runs.limit(p, method), runs.networks(p, dict.fromkeys(WIDTHS, n))))
    return Data(linear, *pairs)


def catapult_map(f: Float[np.ndarray, "*runs"], K: Float[np.ndarray, "*runs"], steps: int) -> Float[np.ndarray, "*runs states"]:
    """f of the map above, from these starts."""
    out = [f]
    for _ in range(steps):
        D = 1 - f
        move = ETA0 * K * D + (ETA0 * GAMMA0) ** 2 * f * D**2
        K = K + 4 * ETA0 * GAMMA0**2 * f * D + (ETA0 * GAMMA0) ** 2 * K * D**2
        f = f + move
        out.append(f)
    return np.stack(out, -1)


def own_map(net: Result) -> Float[np.ndarray, "runs states"]:
    """f of every network by the map from its own f(0) and K(0)."""
    f, K = (np.asarray(x, dtype=np.float64) for x in (net.samples.f[:, 0, 0], net.samples["NTK"][:, 0, 0, 0]))
    return catapult_map(f, K, net.problem.training.num_steps)


def table(data: Data) -> str:
    """How far the map is from the networks; steps and heights of peaks; correlation of losses with the limit."""
    lines = ["linear network: largest difference to the map from its own start"]
    for N, net in data.linear.items():
        height, error = _highest(net)
        lines.append(f"  N = {N:5d}  {_off(net):.1e}   highest loss {height:.3f} +- {error:.3f}")
    lines.append(f"  limit      highest loss {_limit_loss().max():.3f}")
    for name, (theory, nets) in (("full batch", data.full), ("batches", data.batches)):
        lines.append(f"tanh, {name}: highest median loss after the start, at step; correlation of log loss with the limit")
        for label, result in [*((f"N = {N}", net) for N, net in nets.items()), ("limit", theory)]:
            loss = median(result)
            peak = 1 + int(np.argmax(loss[1:]))
            lines.append(f"  {label:9s} {loss[peak]:.3f} at {peak}   {correlation(result, theory):.4f}")
    return "\n".join(lines)


def numbers(data: Data) -> list[Number]:
    """Every linear network follows the map; peaks of wide networks are where those of the limit are."""
    out = [Number(f"linear, N = {N}: largest difference to the map", _off(net)) for N, net in data.linear.items()]
    wide, limit = max(data.linear), _limit_loss()
    height, error = _highest(data.linear[wide])
    out.append(Number(f"linear, N = {wide}: highest loss, less that of the limit", height - limit.max(), error))
    out.append(Number("linear, limit: highest loss over that of the start", limit.max() / limit[0]))
    for name, (theory, nets) in (("full batch", data.full), ("batches", data.batches)):
        net = nets[max(nets)]
        peaks = [1 + int(np.argmax(median(x)[1:8])) for x in (net, theory)]
        out.append(Number(f"{name}: first peak of N = {max(nets)}, steps after that of the limit", peaks[0] - peaks[1]))
        out.append(Number(f"{name}: correlation of log loss with the limit", correlation(net, theory)))
    late = correlation(data.batches[1][max(WIDTHS)], data.batches[0], shift=1)
    return [*out, Number("batches: the same, a step late", late)]


def correlation(a: Result, b: Result, shift: int = 0) -> float:
    """Of log loss (median over networks, or replicas) less its trend, over steps."""
    x, y = (np.log(median(r)) for r in (a, b))
    x, y = x[shift:], y[: len(y) - shift]
    t = np.arange(len(x))
    x, y = (z - np.polyval(np.polyfit(t, z, 1), t) for z in (x, y))
    return float(np.corrcoef(x, y)[0, 1])


def median(result: Result) -> Float[np.ndarray, "states"]:
    """Median loss over networks: at large learning rates the mean is that of a few that nearly diverge."""
    return np.median(np.asarray(result.samples.loss, dtype=np.float64), axis=0)


def plot(data: Data) -> Figure:
    """(a) catapult of linear networks, (b) each against the map from its own start, (c) full batch, (d) batches."""
    figure, ((a, b), (c, d)) = plt.subplots(2, 2, figsize=(8.6, 6.0))
    colors = width_colors(data.linear)
    for N, net in data.linear.items():
        _band(a, net, colors[N], f"N = {N}")
        highest = [np.max((1 - f) ** 2 / 2, axis=1) for f in (own_map(net), np.asarray(net.samples.f[..., 0]))]
        b.plot(*highest, "o", ms=3, color=colors[N], label=f"N = {N}")
    a.plot(_limit_loss(), color=THEORY, lw=1.2, label=r"solvable map, $N \to \infty$")
    a.set(xlabel="step", ylabel="loss", title=r"(a) linear, one sample, $\eta_0 K(0) = 2.2$")
    ends = np.array(b.get_xlim())
    b.plot(ends, ends, color=THEORY, lw=0.8, zorder=0, label="equal")
    b.plot(*[_limit_loss().max()] * 2, "k*", ms=9, label=r"$N \to \infty$")
    b.set(xlabel="by the map from its own f(0), K(0)", ylabel="of the network", title="(b) highest loss of each linear network")
    for axis, title, (theory, nets) in (
        (c, r"(c) tanh, 8 digits, full batch, $\eta_0 = 3$", data.full),
        (d, r"(d) tanh, 16 digits in batches of 4, $\eta_0 = 1.6$", data.batches),
    ):
        for N, color in width_colors(nets).items():
            _band(axis, nets[N], color, f"N = {N}")
        axis.plot(theory.mean.steps, median(theory), color=THEORY, lw=1.2, label="limit (dmft)")
        axis.set(yscale="log", xlabel="step", ylabel="train loss", title=title)
    for axis in (a, b, c, d):
        axis.legend()
    return figure


def _band(axes: Axes, net: Result, color: object, label: str) -> None:
    """Median loss over networks, and the middle half of them."""
    low, high = np.quantile(np.asarray(net.samples.loss), [0.25, 0.75], axis=0)
    axes.fill_between(net.mean.steps, low, high, color=color, alpha=0.25, lw=0)
    axes.plot(net.mean.steps, median(net), color=color, label=label)


def _limit_loss() -> Float[np.ndarray, "states"]:
    return (1 - catapult_map(np.array(0.0), np.array(2.0), linear_problem().training.num_steps)) ** 2 / 2


def _off(net: Result) -> float:
    return float(np.abs(own_map(net) - np.asarray(net.samples.f[..., 0])).max())


def _highest(net: Result) -> tuple[float, float]:
    return mean_and_error(np.asarray(net.samples.loss).max(1))
