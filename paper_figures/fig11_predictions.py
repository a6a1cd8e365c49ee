"""Outputs on single held-out points along training, and representations of a Transformer, across widths.

Above, networks of two hidden layers on digits: the output on three held-out images over time against the limit (dmft; bands are
the spread of single networks, bars errors of their mean), and how far one network and the mean over networks are from it.
Below, a Transformer with two heads, whose size grows with the width, on text (Adam, the same batches for all): mean attention
maps of one window, and distances of kernels and attention from the widest networks. No limit is solved for the Transformer:
there the reference is the widest network.
"""

from __future__ import annotations

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import compare
import dmft
from compare.distributions import Distance
from paper_figures import runs
from paper_figures.axes import width_axis
from paper_figures.figure import THEORY, exponent, mean_and_error, width_colors
from paper_figures.headline import Number
from widthwise import MLP, Adam, GradientDescent, Parameterization, Problem, Result, Transformer, data, tasks

WIDTHS = (32, 128, 512)
TEXT_WIDTHS = (16, 64, 256)
FIELDS = ("h1", "value1", "mlp1")
CONTEXT = 12
WINDOW = 0
"""The held-out window whose attention is shown."""


class Data(NamedTuple):
    """What the figure shows."""

    theory: Result
    nets: dict[int, Result]
    text: dict[int, Result]


def problem(quick: bool = False) -> Problem:
    """Threes against fives, tanh, 16 train and 8 test images, 40 steps; 8, 8 and 25 if quick."""
    P, T = (8, 25) if quick else (16, 40)
    return Problem(MLP(2, "tanh"), Parameterization(gamma0=1.0), tasks.digits(P, 8, classes=(3, 5)), GradientDescent(0.6, T))


def text_problem(quick: bool = False) -> Problem:
    """One block, two heads, windows of 12 bytes, batches of 32, 200 steps (60 if quick)."""
    training = GradientDescent(0.1, 60 if quick else 200, "cross_entropy", batch_size=32, optimizer=Adam())
    return Problem(Transformer(depth=1, num_heads=2), Parameterization(gamma0=2.0), data.text(context=CONTEXT), training)


def compute(quick: bool = False) -> Data:
    """Solve the limit and train the ensembles, or load them."""
    p = problem(quick)
    theory = runs.limit(p, dmft.March(num_paths=512 if quick else 2048))
    nets = runs.networks(p, {N: max((2**14 if quick else 2**17) // N, 32) for N in WIDTHS})
    q = text_problem(quick)
    record = range(0, q.training.num_steps + 1, 10)
    seeds = dict(zip(TEXT_WIDTHS, (16, 12, 6) if quick else (64, 32, 16), strict=True))
    text = runs.networks(q, seeds, save=["attention", "kernels"], record=record, num_probes=16)
    return Data(theory, nets, text)


def errors(data: Data) -> dict[str, tuple[Float[np.ndarray, "widths"], Float[np.ndarray, "widths"]]]:
    """Root mean square difference of f from the limit over steps and test points, and its error: of one network, of the mean.

    Sampling noise is taken out in the square; what is left below zero is zero.
    """
    P = data.theory.problem.task.num_train
    limit, noise = data.theory.mean.f[:, P:], data.theory.sem.f[:, P:] ** 2
    one, mean = [], []
    for net in data.nets.values():
        f = np.asarray(net.samples.f[..., P:], dtype=np.float64)
        each = np.mean((f - limit) ** 2, axis=(1, 2)) - noise.mean()
        one.append(_root(*mean_and_error(each)))
        squares = (f.mean(0) - limit) ** 2 - f.var(0, ddof=1) / len(f) - noise
        mean.append(_root(squares.mean(), np.sqrt(2) * np.mean(f.var(0, ddof=1) / len(f) + noise)))
    return {
        name: (np.array([x[0] for x in rows]), np.array([x[1] for x in rows])) for name, rows in (("one", one), ("mean", mean))
    }


def narrower(data: Data) -> dict[int, Result]:
    """Transformers of all widths but the widest."""
    return {N: data.text[N] for N in sorted(data.text)[:-1]}


def attention(data: Data) -> dict[int, Distance]:
    """Total variation between mean attention maps after training and those of the widest, by width."""
    wide = _maps(data.text[max(data.text)], -1)
    return {N: compare.attention_distance(_maps(net, -1), wide) for N, net in narrower(data).items()}


def moved(data: Data) -> Distance:
    """The same between start and end of training, of the widest networks."""
    net = data.text[max(data.text)]
    return compare.attention_distance(_maps(net, 0), _maps(net, -1))


def kernels(data: Data, field: str) -> dict[int, tuple[float, float]]:
    """1 - cosine of the kernel of one network after training with the mean one of the widest, by width, and its error."""
    wide = data.text[max(data.text)].mean[f"kernels/{field}"][-1]
    out = {}
    for N, net in narrower(data).items():
        each = [1 - compare.kernel_similarity(K, wide, "alignment").value for K in net.samples[f"kernels/{field}"][:, -1]]
        out[N] = mean_and_error(each)
    return out


def table(data: Data) -> str:
    """Errors of outputs; distances of attention and kernels from the widest Transformer."""
    lines = ["f on test digits from the limit, root mean square", "  width  one network        mean over networks"]
    (one, e), (mean, m) = errors(data).values()
    lines += [f"{N:7d}  {one[i]:.4f} +- {e[i]:.4f}   {mean[i]:.4f} +- {m[i]:.4f}" for i, N in enumerate(data.nets)]
    lines += [str(compare.agrees(data.theory, data.nets)), "", f"Transformer, from N = {max(data.text)}"]
    lines += [f"  N = {N:4d}  attention {d}" for N, d in attention(data).items()]
    lines.append(f"  start to end       {moved(data)}")
    for field in FIELDS:
        rows = "   ".join(f"N = {N}: {v:.4f} +- {e:.4f}" for N, (v, e) in kernels(data, field).items())
        lines.append(f"  1 - alignment of {field:8s} {rows}")
    return "\n".join(lines)


def numbers(data: Data) -> list[Number]:
    """Outputs approach the limit like N^-1/2 and extrapolate to it; kernels and attention approach those of the widest."""
    law = compare.fit_power_law([*data.nets], *errors(data)["one"])
    out = [
        Number("exponent of the error of f of one network", *exponent(law)),
        Number("p of agreement with the limit, extrapolated in 1/N", compare.agrees(data.theory, data.nets).p_value),
    ]
    narrow, middle, wide = sorted(data.text)
    for field in FIELDS:
        (a, a_error), (b, b_error) = (kernels(data, field)[N] for N in (narrow, middle))
        out.append(Number(f"{field}: 1 - alignment, N = {narrow} less N = {middle}", a - b, np.hypot(a_error, b_error)))
    near, far = attention(data)[middle], moved(data)
    name = f"attention: how far it moved in training, less N = {middle} from N = {wide}"
    return [*out, Number(name, far.value - near.value, np.hypot(far.error, near.error))]


def plot(data: Data) -> Figure:
    """Top: (a) predictions, (b) their errors, (c) distances of the Transformer. Bottom: attention maps by width."""
    figure, ((a, b, c), maps) = plt.subplots(2, 3, figsize=(9.6, 6.0))
    _predictions(a, data)
    widths = np.array([*data.nets])
    (one, one_error), (mean, mean_error) = errors(data).values()
    b.errorbar(widths, one, 2 * one_error, marker="o", ms=4, ls="", label="one network")
    b.plot(widths, one[0] * (widths / widths[0]) ** -0.5, color="0.6", ls=":", label=r"$\propto N^{-1/2}$")
    seen = mean > 2 * mean_error
    b.errorbar(widths[seen], mean[seen], 2 * mean_error[seen], marker="s", ms=4, ls="", color="C1", label="mean over networks")
    b.plot(widths[~seen], (mean + 2 * mean_error)[~seen], "v", color="C1", mfc="none", label="mean: at most (2 errors)")
    b.set(yscale="log", ylabel="rms difference from the limit", title="(b) output on test digits")
    width_axis(b, data.nets)
    for field, marker in zip(FIELDS, "osD", strict=True):
        rows = kernels(data, field)
        c.errorbar(
            [*rows],
            [v for v, _ in rows.values()],
            [2 * e for _, e in rows.values()],
            marker=marker,
            ms=4,
            label=f"1 - alignment, {field}",
        )
    ds = attention(data)
    c.errorbar(
        [*ds],
        [d.value for d in ds.values()],
        [2 * d.error for d in ds.values()],
        marker="^",
        ms=4,
        color="k",
        label="attention (TV)",
    )
    c.axhline(moved(data).value, color="k", ls="--", lw=0.8, label="attention, start to end")
    c.set(yscale="log", title=f"(c) Transformer, from N = {max(data.text)}", xlim=(min(ds) / 1.5, max(ds) * 1.5))
    c.set_ylim(c.get_ylim()[0] / 12, None)
    width_axis(c, ds)
    shown = {N: _maps(net, -1).mean((0, 2))[WINDOW] for N, net in data.text.items()}
    top = max(x.max() for x in (m[4:] for m in shown.values()))
    for letter, axis, (N, image) in zip("def", maps, shown.items(), strict=True):
        picture = axis.imshow(image, vmin=0, vmax=top, cmap="cividis")
        axis.set(title=f"({letter}) attention, N = {N}", xlabel="attended site", ylabel="site")
    figure.colorbar(picture, ax=list(maps), shrink=0.85)
    for axis in (a, b, c):
        axis.legend(fontsize="x-small")
    return figure


def _predictions(axes: Axes, data: Data, num_points: int = 3) -> None:
    P = data.theory.problem.task.num_train
    order = P + np.argsort(data.theory.mean.f[-1, P:])
    points = order[np.linspace(0, len(order) - 1, num_points).round().astype(int)]
    for m in points:
        for N, color in width_colors(data.nets).items():
            mean, sem, steps = data.nets[N].mean.f[:, m], data.nets[N].sem.f[:, m], data.nets[N].mean.steps
            spread = data.nets[N].samples.f[..., m].std(0, ddof=1)
            axes.fill_between(steps, mean - spread, mean + spread, color=color, alpha=0.2, lw=0)
            axes.errorbar(
                steps[::2],
                mean[::2],
                2 * sem[::2],
                color=color,
                lw=1,
                elinewidth=0.8,
                label=f"N = {N}" if m == points[0] else None,
            )
        f, sem = data.theory.mean.f[:, m], data.theory.sem.f[:, m]
        axes.fill_between(data.theory.mean.steps, f - 2 * sem, f + 2 * sem, color=THEORY, alpha=0.25, lw=0)
        axes.plot(data.theory.mean.steps, f, color=THEORY, lw=1.2, label="limit (dmft)" if m == points[0] else None)
    axes.set(xlabel="step", ylabel="output f", title=f"(a) {num_points} held-out digits")


def _maps(net: Result, k: int) -> Float[np.ndarray, "runs windows heads sites sites"]:
    return np.asarray(net.samples["attention1"][:, k], dtype=np.float64)


def _root(value: float, error: float) -> tuple[float, float]:
    """sqrt of a square that may be negative by noise, and its error."""
    root = float(np.sqrt(max(value, 0.0)))
    return root, float(error / (2 * root)) if root else float(np.sqrt(error))
