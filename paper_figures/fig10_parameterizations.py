"""Loss across widths in three parameterizations: the same curve in mean_field, not in ntk and standard.

Networks of width 64 are the same in mean_field (gamma0 = 2) and ntk (gamma0 = 2 sqrt 64); wider ones learn features as before
in the first, and ever less in the second, towards the lazy limit. In the standard parameterization, at one learning rate,
networks are faster in proportion to N, until they diverge. Above, an online stream (a polynomial of two directions, held-out
loss), all networks on the same batches; below, digits, with the limits solved by dmft: feature learning (mean_field) and lazy
(ntk).
"""

from __future__ import annotations

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

import dmft
from paper_figures import runs
from paper_figures.figure import THEORY, mean_and_error, width_colors
from paper_figures.headline import Number
from widthwise import MLP, GradientDescent, Parameterization, Problem, Result, data, tasks

WIDTHS = (64, 256, 1024)
GAMMA0 = 2.0
FORMS = {
    "mean_field": Parameterization(gamma0=GAMMA0),
    "ntk": Parameterization(gamma0=GAMMA0 * WIDTHS[0] ** 0.5, kind="ntk"),
    "standard": Parameterization(kind="standard"),
}
RATES = {"stream": (0.2, 1e-3), "digits": (0.3, 2e-4)}
"""eta0 of mean_field and ntk, and of standard, where the rate is in other units."""


class Row(NamedTuple):
    """Ensembles, by parameterization and width, and the limits that there are."""

    nets: dict[str, dict[int, Result]]
    limits: dict[str, Result]


Data = dict[str, Row]
"""By task."""


def problem(task: str, form: str, quick: bool = False) -> Problem:
    """Two hidden layers: relu on the stream, batches of 32; tanh on 16 train and 16 test digits, full batch."""
    eta0 = RATES[task][form == "standard"]
    if task == "stream":
        training = GradientDescent(eta0, 150 if quick else 600, batch_size=32)
        return Problem(MLP(2, "relu"), FORMS[form], data.multi_index(input_dim=8, num_directions=2, degree=2), training)
    digits = tasks.digits(8, 8, classes=(3, 5)) if quick else tasks.digits(16, 16, classes=(3, 5))
    return Problem(MLP(2, "tanh"), FORMS[form], digits, GradientDescent(eta0, 25 if quick else 40))


def compute(quick: bool = False) -> Data:
    """Train the ensembles and solve the limits, or load them."""
    out = {}
    for task in RATES:
        nets, limits = {}, {}
        for form in FORMS:
            p = problem(task, form, quick)
            T = p.training.num_steps
            work = (2**11 if quick else 2**14) * (4 if task == "digits" else 1)
            seeds = {N: max(work // N, 2) for N in WIDTHS}
            settings = {"record": range(0, T + 1, max(T // 30, 1)), "num_probes": 512} if task == "stream" else {}
            nets[form] = runs.networks(p, seeds, throw=False, **settings)  # standard networks may diverge
            if task == "digits" and form != "standard":
                method = dmft.Lazy() if form == "ntk" else dmft.March(num_paths=512 if quick else 2048)
                limits[form] = runs.limit(p, method)
        out[task] = Row(nets, limits)
    return out


def spread(nets: dict[int, Result], N: int) -> tuple[float, float]:
    """How far the loss of width N is from that of the widest: root mean square over steps, relative; and its error."""
    wide = _loss(nets[max(nets)])
    narrow = _loss(nets[N])
    scale = np.sqrt(np.mean(wide.mean(0) ** 2))
    gap = narrow.mean(0) - wide.mean(0)
    noise = narrow.var(0, ddof=1) / len(narrow) + wide.var(0, ddof=1) / len(wide)
    size = np.sqrt(np.mean(gap**2))
    return float(size / scale), float(np.sqrt(np.mean(noise)) / scale)


def table(data: Data) -> str:
    """Relative difference of the loss from that of the widest, by parameterization and width."""
    lines = [f"loss, relative difference from N = {max(WIDTHS)}, root mean square over steps"]
    for task, row in data.items():
        for form, nets in row.nets.items():
            gaps = "   ".join(f"N = {N}: {spread(nets, N)[0]:.4f} +- {spread(nets, N)[1]:.4f}" for N in WIDTHS[:-1])
            lines.append(f"  {task:8s}{form:12s}{gaps}")
        for form, limit in row.limits.items():
            net = row.nets[form][max(WIDTHS)]
            lines.append(f"  final test loss, {form}: N = {max(WIDTHS)} {_last(net)}, limit {_last(limit)}")
    return "\n".join(lines)


def numbers(data: Data) -> list[Number]:
    """In mean_field widths agree, and better the wider; in ntk and standard they differ by far more."""
    out = []
    for task, row in data.items():
        near, error = spread(row.nets["mean_field"], WIDTHS[1])
        out.append(Number(f"{task}, mean_field: loss of N = {WIDTHS[1]} from the widest, relative", near, error))
        narrow, its_error = spread(row.nets["mean_field"], WIDTHS[0])
        for form in ("ntk", "standard"):
            gap, error = spread(row.nets[form], WIDTHS[0])
            ratio = narrow / gap
            name = f"{task}, mean_field: the same of N = {WIDTHS[0]}, over that in {form}"
            out.append(Number(name, ratio, np.hypot(its_error, ratio * error) / gap))
    row = data["digits"]
    for form, limit in row.limits.items():
        net = _loss(row.nets[form][max(WIDTHS)])
        scale = np.mean(_loss(limit).mean(0) ** 2)
        gap = np.sqrt(np.mean((net.mean(0) - _loss(limit).mean(0)) ** 2) / scale)
        error = np.sqrt(np.mean(net.var(0, ddof=1) / len(net)) / scale)
        out.append(Number(f"digits, {form}: loss of the widest from the limit, relative", gap, error))
    return out


def plot(data: Data) -> Figure:
    """A row per task, a column per parameterization; bands are two standard errors."""
    figure, axes = plt.subplots(len(data), len(FORMS), figsize=(9.6, 5.4), sharey="row")
    letters = iter("abcdef")
    for (task, row), line in zip(data.items(), axes, strict=True):
        for (form, nets), axis in zip(row.nets.items(), line, strict=True):
            for N, color in width_colors(nets).items():
                (mean, sem), steps = mean_and_error(_loss(nets[N])), nets[N].mean.steps
                axis.fill_between(steps, mean - 2 * sem, mean + 2 * sem, color=color, alpha=0.25, lw=0)
                axis.plot(steps, mean, color=color, label=f"N = {N}")
            if form in row.limits:
                limit = row.limits[form]
                name = "lazy" if form == "ntk" else "feature-learning"
                axis.plot(limit.mean.steps, _loss(limit).mean(0), color=THEORY, lw=1.2, label=f"{name} limit (dmft)")
            axis.set(yscale="log", xlabel="step", title=f"({next(letters)}) {task}, {form}")
            axis.legend()
        line[0].set(ylabel="test loss")
    return figure


def _loss(result: Result) -> Float[np.ndarray, "runs states"]:
    """Test loss of every network (or replica; of a limit without error its one curve)."""
    loss = np.asarray(result.mean.test_loss)[None] if result.trajectory.n == 0 else np.asarray(result.samples.test_loss)
    return loss.astype(np.float64)


def _last(result: Result) -> str:
    return f"{np.asarray(result.mean.test_loss)[-1]:.4f}"
