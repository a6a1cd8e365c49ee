"""Loss on fresh data against the step, for images, digits and text, in the mean-field and in the standard parameterization.

Every network of a row sees the same batches, and no sample comes twice: images with a handwritten digit at a random place
under noise (a convolutional network, Adam), one pass over the digits themselves (two hidden ReLU layers, gradient descent),
windows of text (the Transformer of fig11, Adam). Curves are the held-out loss, mean over networks; bands are two standard
errors. At the left the mean-field (maximal update) parameterization, in the middle the standard one, at one learning rate for
all widths. At the right what is left between widths in mean_field, over 1/N - 1/M: by the 1/N law the same curve at every N.
No limit is solved for these networks: black is the extrapolation of the loss in 1/N, from the ensembles themselves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import compare
from paper_figures import fig11_predictions as fig11
from paper_figures import runs
from paper_figures.figure import THEORY, mean_and_error, width_colors
from paper_figures.headline import Number
from paper_figures.moving_digits import moving_digits
from widthwise import MLP, Adam, ConvNet, GradientDescent, Parameterization, Problem, Result, data


class Row(NamedTuple):
    """A network and its data; learning rates of mean_field and standard; numbers of networks by width (quick, full)."""

    architecture: ConvNet | MLP
    stream: data.Stream
    rates: tuple[float, float]
    training: dict[str, Any]
    num_steps: int
    seeds: tuple[dict[int, int], dict[int, int]]


ROWS = {
    "moving digits": lambda: Row(
        ConvNet(2),
        moving_digits(),
        (0.5, 0.003),
        {"batch_size": 16, "optimizer": Adam()},
        150,
        ({16: 32, 64: 16, 128: 10}, {16: 128, 64: 64, 128: 32}),
    ),
    "digits": lambda: Row(
        MLP(2, "relu"),
        data.digits(epochs=1),
        (0.2, 0.003),
        {"batch_size": 10},
        140,
        ({32: 512, 128: 256, 512: 96}, {32: 2048, 128: 1024, 512: 384}),
    ),
}
"""Called when wanted: digits are read from a file."""

TEXT_RATE = 0.01
"""Of the standard parameterization; all else of the text is that of fig11."""

FORMS = {"mean_field": Parameterization(gamma0=1.0), "standard": Parameterization(kind="standard")}
Nets = dict[int, Result]
Data = dict[str, dict[str, Nets]]
"""Ensembles by task, parameterization and width."""


def compute(quick: bool = False) -> Data:
    """Train the ensembles, or load them."""
    out: Data = {}
    for task, make in ROWS.items():
        row = make()
        seeds, record, out[task] = row.seeds[not quick], range(0, row.num_steps + 1, 10), {}
        for (form, parameterization), eta0 in zip(FORMS.items(), row.rates, strict=True):
            training = GradientDescent(eta0, row.num_steps, "cross_entropy", **row.training)
            p = Problem(row.architecture, parameterization, row.stream, training)
            some = {N: n if form == "mean_field" else min(max(n // 2, 6), 64) for N, n in seeds.items()}
            out[task][form] = runs.networks(p, some, record=record, num_probes=128, throw=False)
    p = fig11.text_problem(quick)
    standard = GradientDescent(TEXT_RATE, p.training.num_steps, "cross_entropy", batch_size=32, optimizer=Adam())
    q = Problem(p.architecture, FORMS["standard"], p.task, standard)
    settings = {"record": range(0, p.training.num_steps + 1, 10), "num_probes": 16}
    sizes = ((16, 12, 6), (6, 4, 3)) if quick else ((64, 32, 16), (16, 8, 4))
    many, few = (dict(zip(fig11.TEXT_WIDTHS, size, strict=True)) for size in sizes)
    out["text"] = {
        "mean_field": runs.networks(p, many, save=["attention", "kernels"], **settings),  # saved as in fig11: one run for both
        "standard": runs.networks(q, few, throw=False, **settings),
    }
    return out


def gap(nets: Nets, N: int) -> tuple[float, float]:
    """Loss of width N less that of the widest, mean over steps and networks, over the loss of the widest; and its error."""
    (a, da), (b, db) = (mean_and_error(_loss(net).mean(1)) for net in (nets[N], nets[max(nets)]))
    return float((a - b) / b), float(np.hypot(da, db) / b)


def spread(nets: Nets, N: int, learned: bool = False) -> tuple[float, float]:
    """Root mean square over steps of that difference, noise taken out, and its error.

    Over the root mean square of the widest's loss; or of how far it has fallen, if `learned`.
    """
    (a, da), (b, db) = (mean_and_error(_loss(net)) for net in (nets[N], nets[max(nets)]))
    noise = da**2 + db**2
    square = np.mean((a - b) ** 2 - noise)
    scale = np.sqrt(np.mean((b - learned * b[0]) ** 2))
    return float(np.sqrt(max(square, 0.0)) / scale), float(np.sqrt(np.mean(noise)) / scale)


def table(data: Data) -> str:
    """Differences from the widest, and losses at the end."""
    lines = []
    for task, forms in data.items():
        for form, nets in forms.items():
            *narrow, widest = sorted(nets)
            ends = "   ".join("N = {}: {:.4f} +- {:.4f}".format(N, *mean_and_error(_loss(nets[N])[:, -1])) for N in nets)
            lines.append(f"{task}, {form}: loss at the end {ends}")
            for N in narrow:
                (a, da), (b, db) = gap(nets, N), spread(nets, N)
                of_learned = "rms over what is learned {:.3f} +- {:.3f}".format(*spread(nets, N, learned=True))
                rms = f"mean {a:+.4f} +- {da:.4f}, rms {b:.4f} +- {db:.4f}, {of_learned}"
                lines.append(f"  N = {N} less N = {widest}, relative: {rms}")
    return "\n".join(lines)


def numbers(data: Data) -> list[Number]:
    """In mean_field widths agree, and better the wider, and narrow is worse; in standard they differ by far more."""
    out = []
    for task, forms in data.items():
        nets = forms["mean_field"]
        narrow, middle, widest = sorted(nets)
        near, error = spread(nets, middle)
        out.append(Number(f"{task}, mean_field: loss of N = {middle} from the widest, relative", near, error))
        (a, da), (b, db) = gap(nets, narrow), gap(nets, middle)
        law = (1 / middle - 1 / widest) / (1 / narrow - 1 / widest)
        ratio, its_error = b / a / law, abs(b / a / law) * np.hypot(da / a, db / b)
        out.append(Number(f"{task}, mean_field: loss of N = {narrow} less that of the widest, relative", a, da))
        out.append(Number(f"{task}, mean_field: the same of N = {middle}, over what the 1/N law makes of it", ratio, its_error))
        (a, da), (b, db) = (spread(forms[form], narrow, learned=True) for form in ("mean_field", "standard"))
        ratio, error = (a / b, np.hypot(da, db * a / b) / b) if b else (np.inf, 0.0)
        out.append(Number(f"{task}: rest of N = {narrow}, over what is learned, in mean_field over standard", ratio, error))
    return out


def plot(data: Data) -> Figure:
    """A row per task; losses in both parameterizations, and what is left between widths."""
    figure, axes = plt.subplots(len(data), 3, figsize=(11.2, 8.4))
    letters = iter("abcdefghi")
    for (task, forms), line in zip(data.items(), axes, strict=True):
        for (form, nets), axis in zip(forms.items(), line[:2], strict=True):
            for N, color in width_colors(nets).items():
                loss = _loss(nets[N])
                _band(axis, nets[N].mean.steps, *mean_and_error(loss), color=color, label=f"N = {N}, {len(loss)} networks")
            if form == "mean_field":
                limit = compare.extrapolate(nets)
                _band(
                    axis,
                    limit.mean.steps,
                    limit.mean.test_loss,
                    limit.sem.test_loss,
                    color=THEORY,
                    ls="--",
                    label="1/N-extrapolated",
                )
            axis.set(xlabel="step", ylabel="held-out loss", title=f"({next(letters)}) {task}, {form}")
        line[1].sharey(line[0])
        nets = forms["mean_field"]
        *narrow, M = sorted(nets)
        for N in narrow:
            ((a, da), (b, db)), law = (mean_and_error(_loss(nets[n])) for n in (N, M)), 1 / N - 1 / M
            look = {"color": width_colors(nets)[N], "label": f"N = {N}, M = {M}"}
            _band(line[2], nets[N].mean.steps, (a - b) / law, np.hypot(da, db) / law, **look)
        line[2].axhline(0, color="0.7", lw=0.8)
        line[2].set(
            xlabel="step", ylabel=r"$(L_N - L_M)\,/\,(1/N - 1/M)$", title=f"({next(letters)}) {task}: left between widths"
        )
    for axis in axes.flat:
        axis.legend(fontsize="x-small")
    return figure


def _band(axes: Axes, steps: Any, value: Any, error: Any, **how: Any) -> None:
    """A line, and a band of two errors."""
    value, error = (np.asarray(x, dtype=np.float64) for x in (value, error))
    axes.fill_between(steps, value - 2 * error, value + 2 * error, color=how["color"], alpha=0.2, lw=0)
    axes.plot(steps, value, lw=1.2, **how)


def _loss(result: Result) -> Float[np.ndarray, "runs states"]:
    return np.asarray(result.samples.test_loss, dtype=np.float64)
