"""Distance of outputs to those of the widest network: slope -1/2 of single networks, steeper as variance is averaged away.

E (f_N - f_M)^2 = S (1/N + 1/M) + b^2 (1/N - 1/M)^2. On fresh data variance dominates. A problem where bias dominates is built
from the repeated data of fig03: the outputs of E networks are averaged, which divides S by E and leaves b^2; as E grows the
slope goes from -1/2 towards -1. Beside them six curves of 2305.18411, read off its published panel by eye.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import compare
from paper_figures import fig03_ensembles
from paper_figures.fig03_ensembles import Data
from paper_figures.figure import exponent, mean_and_error, width_colors
from paper_figures.headline import Number
from widthwise import Result

LITERATURE = {
    64: (0.114, 0.138, 0.210, 0.242, 0.261, 0.276),
    128: (0.084, 0.105, 0.153, 0.188, 0.205, 0.212),
    256: (0.079, 0.085, 0.119, 0.140, 0.150, 0.157),
    512: (0.065, 0.068, 0.087, 0.100, 0.103, 0.111),
    1024: (0.054, 0.057, 0.064, 0.069, 0.070, 0.075),
    2048: (0.036, 0.036, 0.044, 0.048, 0.047, 0.047),
}
"""RMSE of the true logit to N = 4096 at TOKENS, digitised from the panel; no errors are known."""

TOKENS = (4e6, 7.5e6, 2e7, 4e7, 6e7, 9.5e7)
"""Middle of the window of each column."""

MEMBERS = (1, 4, 16, np.inf)


def compute(quick: bool = False) -> Data:
    """The networks of fig03."""
    return fig03_ensembles.compute(quick)


def _points(net: Result) -> Float[np.ndarray, "runs entries"]:
    """Outputs at the train points, all steps."""
    P = net.problem.task.num_train
    f = np.asarray(net.samples.f[..., :P], dtype=np.float64)
    return f.reshape(len(f), -1)


def _means(f: np.ndarray, g: np.ndarray) -> tuple[float, float]:
    """Mean (<f> - <g>)^2, sampling noise taken out, and its jackknife error."""

    def noise(x: np.ndarray) -> float:
        return float(x.var(0, ddof=1).mean() / len(x))

    def value(f: np.ndarray, g: np.ndarray) -> float:
        return float(((f.mean(0) - g.mean(0)) ** 2).mean()) - noise(f) - noise(g)

    square = 0.0
    for left in (
        [value(np.delete(f, i, 0), g) for i in range(len(f))],
        [value(f, np.delete(g, i, 0)) for i in range(len(g))],
    ):
        n = len(left)
        square += (n - 1) * float(np.var(left))
    return value(f, g), float(np.sqrt(square))


def distances(nets: dict[int, Result]) -> dict[float, tuple[np.ndarray, np.ndarray]]:
    """By E, squared distances of averages of E networks to the widest ones, and errors; mean over steps and train points."""
    *narrow, widest = sorted(nets)
    points = {N: _points(net) for N, net in nets.items()}
    bias = np.array([_means(points[N], points[widest]) for N in narrow])
    spread = {N: ((f - f.mean(0)) ** 2).mean(1) * len(f) / (len(f) - 1) for N, f in points.items()}
    variance = {N: mean_and_error(x) for N, x in spread.items()}
    out = {}
    for E in MEMBERS:
        value = bias[:, 0] + np.array([variance[N][0] + variance[widest][0] for N in narrow]) / E
        error = np.sqrt(bias[:, 1] ** 2 + np.array([variance[N][1] ** 2 + variance[widest][1] ** 2 for N in narrow]) / E**2)
        out[E] = value, error
    return out


def slopes(nets: dict[int, Result]) -> dict[float, compare.PowerLaw | None]:
    """Exponents in N of the distance, the widest's share divided out: of its variance (E = 1 ...), of its bias (E = inf)."""
    *narrow, M = sorted(nets)
    N = np.array(narrow, dtype=float)
    out = {}
    for E, (value, error) in distances(nets).items():
        share = (1 - N / M) ** 2 if np.isinf(E) else 1 + N / M
        root = np.sqrt(np.maximum(value / share, 1e-300))
        out[E] = compare.fit_power_law(N, root, error / share / (2 * root))
    return out


def table(data: Data) -> str:
    """Distances on fresh data; exponents of averages on repeated data; exponents of the published curves."""
    lines = [str(compare.to_widest(data.online)), "", "averages of E networks on repeated data, train points:"]
    lines += [f"  E = {E:<4g} exponent {fit or 'not resolved'}" for E, fit in slopes(data.offline).items()]
    lines += ["", "2305.18411, digitised, 1 + N/4096 divided out:"]
    lines += [f"  {tokens:.2g} tokens: exponent {slope:+.2f}" for tokens, slope in zip(TOKENS, _published(), strict=True)]
    return "\n".join(lines)


def _published() -> list[float]:
    N = np.array(list(LITERATURE), dtype=float)
    rmse = np.array(list(LITERATURE.values()))
    return [float(np.polyfit(np.log(N), np.log(y / np.sqrt(1 + N / 4096)), 1)[0]) for y in rmse.T]


def numbers(data: Data) -> list[Number]:
    """Slope near -1/2 of single networks on fresh data; near -1 of infinite ensembles; the two differ."""
    found, laws = compare.to_widest(data.online), slopes(data.offline)
    (single, its_error), (infinite, error) = (exponent(laws[E]) for E in (1, np.inf))
    return [
        Number("fresh data: exponent at the last step", found.slope[-1], found.slope_error[-1]),
        Number("repeated data: exponent of infinite ensembles", infinite, error),
        Number("how much steeper than that of single networks", single - infinite, np.hypot(its_error, error)),
    ]


def plot(data: Data) -> Figure:
    """Fresh data over training; against the width; averages on repeated data; the published curves."""
    figure, ((a, b), (c, d)) = plt.subplots(2, 2, figsize=(8.4, 6.4))
    found = compare.to_widest(data.online)
    colors, N = width_colors(found.widths), np.array(found.widths, dtype=float)
    for width, line, error in zip(found.widths, found.rmse, found.rmse_error, strict=True):
        a.errorbar(found.steps, line, 2 * error, color=colors[width], label=f"N = {width}")
    a.set(xlabel="step", ylabel=f"RMSE to N = {found.widest}", title="(a) fresh data")
    a.legend()
    b.errorbar(N, found.rmse[:, -1], 2 * found.rmse_error[:, -1], marker="o", ms=4, ls="", label="last step")
    grid = np.geomspace(N[0], N[-1], 50)
    S = found.rmse[-1, -1] ** 2 / (1 / N[-1] + 1 / found.widest)
    b.plot(
        grid, np.sqrt(S * (1 / grid + 1 / found.widest)), color="black", lw=1, label=r"$\sqrt{S(1/N + 1/M)}$ through the last"
    )
    _log(b, N, "(b) fresh data against width")
    b.set_ylabel(f"RMSE to N = {found.widest}")
    for E, (value, error) in distances(data.offline).items():
        root = np.sqrt(np.maximum(value, 1e-300))
        label = r"$\infty$" if np.isinf(E) else f"{E:g}"
        c.errorbar(N, root, error / root, marker="o", ms=4, label=f"E = {label}: {slopes(data.offline)[E] or '-'}")
    _log(c, N, "(c) repeated data, averages of E networks")
    c.set_ylabel("RMSE, all steps, train points")
    shades = plt.get_cmap("cividis_r")(np.linspace(0.1, 0.95, len(TOKENS)))
    widths = np.array(list(LITERATURE), dtype=float)
    for tokens, y, color in zip(TOKENS, np.array(list(LITERATURE.values())).T, shades, strict=True):
        d.plot(widths, y, "o", ms=4, color=color, label=f"{tokens:.1g} tokens")
    line = np.sqrt(1 / widths + 1 / 4096)
    d.plot(widths, line * LITERATURE[256][-1] / line[2], color="black", lw=1, label=r"$\sqrt{1/N + 1/M}$")
    _log(d, widths, "(d) 2305.18411, digitised")
    d.set_ylabel("RMSE of the true logit to N = 4096")
    return figure


def _log(axes: Axes, widths: np.ndarray, title: str) -> None:
    axes.set(xscale="log", yscale="log", xlabel="width N", title=title)
    axes.set_xticks(widths, [f"{n:g}" for n in widths])
    axes.set_xticks([], minor=True)
    axes.legend()
