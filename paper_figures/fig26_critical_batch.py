"""Steps to a loss against the batch: the same curve, and the same critical batch, at every width from 64 on.

Networks of one hidden ReLU layer learn a polynomial from fresh samples (8 dimensions), in the parameterization that has a
feature-learning limit. T(B) is the smallest number of steps, over learning rates, after which the held-out loss is a fifth of
that at the start; it is averaged over networks, streams and the last fifth of the steps, as small batches make it jump. Left:
T(B) of three widths and of the infinite-width limit, which sees the same batches; networks of width 8 are the twin that is not
there yet. Right: least squares in one pass, where T(B) is solved without simulation; circles are simulated at the best rate of
the theory. The critical batch (dashes) is where T is 20% above the line of the smallest batch; it moves with the target, that
is with the data needed, and not with the width (2410.21676).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

import dmft
import finite
from dmft import scaling
from finite import linear_models
from paper_figures.cache import cached_arrays
from paper_figures.figure import THEORY, width_colors
from paper_figures.headline import Number
from widthwise import MLP, GradientDescent, Parameterization, Problem, Spectrum, Task, tasks

D, TARGET = 8, 0.2
WINDOW = 0.2
"""Share of the steps so far over which the loss is averaged."""
STEPS = {4: 200, 8: 120, 16: 80, 32: 60, 128: 40}
"""By batch, how many are trained."""
WIDTHS = (8, 64, 256)
LOSSES = (0.3, 0.1, 0.05)
"""Targets of least squares, of a loss of 1.64 at the start."""
SPECTRUM, NOISE = Spectrum.power_law(2.0, 1.5, 100), 0.5
SIZES = 2 ** np.arange(10)


class Data(NamedTuple):
    """Loss over that at the start (rates, streams, seeds, T + 1) by width and batch, width 0 the limit; least squares."""

    losses: dict[int, dict[int, np.ndarray]]
    squares: dict[str, np.ndarray]


def polynomial(x: Float[np.ndarray, "points D"]) -> Float[np.ndarray, "points"]:
    """Linear in one direction, and its product with another."""
    return (x[:, 0] + x[:, 0] * x[:, 1]) / 2**0.5


def samples(seed: int, batch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """An endless stream of batches."""
    rng = np.random.default_rng([seed, batch])
    while True:
        x = rng.standard_normal((batch, D))
        yield x, polynomial(x)


def losses(width: int, batch: int, steps: int, rates: tuple[float, ...], streams: int, seeds: int) -> dict[str, Any]:
    """Held-out losses of networks, or of the limit (width 0), by rate and stream."""
    x = np.random.default_rng(0).standard_normal((256, D))
    out: list[Any] = []
    for eta0 in rates:
        for stream in range(streams):
            fresh = tasks.stream(samples(stream, batch), steps)
            task = Task(fresh.X, fresh.y, x, polynomial(x))
            training = GradientDescent(eta0, steps, batch_size=batch, sampling="online")
            problem = Problem(MLP(1, "relu"), Parameterization(), task, training)
            if width:
                run = finite.train(problem, width=width, num_seeds=seeds, save_kernels=[0], progress=False, throw=False)
                out.append(run.samples.test_loss)
            else:
                method = dmft.TwoLayer(num_paths=512, num_replicas=2, dtype="float32")
                limit = dmft.solve(problem, method, save_kernels=[0], progress=False, throw=False)
                out.append(np.asarray(limit.mean.test_loss)[None])
    found = np.reshape(out, (len(rates), streams, -1, steps + 1))
    return {"losses": found / found[..., :1]}


def least_squares(draws: int) -> dict[str, Any]:
    """T(B) in theory for every target, and at some batches simulated at the theory's best rate: z of the loss at step T."""
    rates = np.logspace(-3, 0.5, 60)
    steps = [scaling.steps_to_target(SPECTRUM, SIZES, target, rates, noise=NOISE) for target in LOSSES]
    simulated = []
    for target, T in zip(LOSSES, steps, strict=True):
        for batch, last in zip(SIZES[1::3], T[1::3].astype(int), strict=True):
            theory = scaling.sgd_risk(SPECTRUM, rates, int(batch), last, noise=NOISE)[:, -1]
            training = GradientDescent(rates[theory.argmin()], last + 10, batch_size=int(batch), sampling="online")
            found = linear_models.descent(SPECTRUM, training, np.inf, noise=NOISE, num_draws=draws)
            z = (found.mean("test")[last] - theory.min()) / found.sem("test")[last]
            wide = scaling.sgd_risk(SPECTRUM, training.eta0, 2 * int(batch), last, noise=NOISE)[0, -1]
            twin = (found.mean("test")[last] - wide) / found.sem("test")[last]
            simulated.append((target, batch, (found.mean("test") > target).argmin(), z, twin))
    return {"steps": steps, "simulated": simulated}


def compute(quick: bool = False) -> Data:
    """Seven rates, 3 streams of data and 4 networks each (of full 13, 8 and 8)."""
    rates = tuple((2.0 ** np.linspace(-1.5, 1.5, 7 if quick else 13)).tolist())
    settings = {"rates": rates, "streams": 3 if quick else 8, "seeds": 4 if quick else 8}
    found: dict[int, dict[int, np.ndarray]] = {}
    for N in (*WIDTHS, 0):
        for batch, steps in STEPS.items():
            kept = cached_arrays("steps to a loss", {"width": N, "batch": batch, "steps": steps, **settings}, losses)
            found.setdefault(N, {})[batch] = kept["losses"]
    return Data(found, cached_arrays("least squares in one pass", {"draws": 100 if quick else 1000}, least_squares))


def steps_to_target(loss: Float[np.ndarray, "rates streams seeds states"]) -> float:
    """log of the least number of steps over rates, of the averaged loss; between two states by interpolation."""
    total = np.cumsum(np.where(np.isfinite(loss), loss, np.inf).mean((1, 2)), -1)
    t = np.arange(1, total.shape[1])
    start = np.floor((1 - WINDOW) * t).astype(int)
    with np.errstate(invalid="ignore"):
        mean = (total[:, t] - total[:, start]) / (t - start)  # of the states start + 1 ... t
    first = (mean < TARGET).argmax(-1)
    found = np.flatnonzero(first)
    above, below = (np.log(mean[found, first[found] - k]) for k in (1, 0))
    steps = t[first[found]] - (np.log(TARGET) - below) / (above - below)
    return float(np.log(steps.min())) if len(steps) else np.inf


def curve(runs: dict[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """log T(B), and its standard error by leaving out one network of each stream at a time."""
    mean, error = [], []
    for loss in runs.values():
        n = loss.shape[2]
        mean.append(steps_to_target(loss))
        without = [steps_to_target(np.delete(loss, i, 2)) for i in range(n)] if n > 1 else [0.0]
        error.append(np.std(without) * (n - 1) ** 0.5)
    return np.array(mean), np.array(error)


def table(data: Data) -> str:
    """T(B) and critical batches."""
    lines = ["width    " + "".join(f"B = {B:<8d}" for B in STEPS) + "critical batch"]
    for N, of_width in data.losses.items():
        T, error = curve(of_width)
        cells = (f"{np.exp(t):5.1f}+-{np.exp(t) * e:3.1f} " for t, e in zip(T, error, strict=True))
        lines.append(f"{N or 'limit':<9}" + " ".join(cells) + f"{scaling.critical_batch([*STEPS], np.exp(T)):.3g}")
    return "\n".join(lines)


def numbers(data: Data) -> list[Number]:
    """Steps over those of the limit; critical batches; the model's simulation, with half the noise as twin."""
    limit, out = curve(data.losses[0])[0], []
    for N in WIDTHS:
        T, error = curve(data.losses[N])
        worst = np.abs(T - limit).argmax()
        if min(WIDTHS) < N:
            out.append(Number(f"largest |log T(B) - log T of the limit|, N = {N}", abs(T - limit)[worst], error[worst]))
        else:
            mean, its = (T - limit).mean(), np.hypot.reduce(error) / len(error)
            out.append(Number(f"mean of log T(B) - log T of the limit, N = {N}", mean, its))
    ours, its = (scaling.critical_batch([*STEPS], np.exp(curve(data.losses[N])[0])) for N in (max(WIDTHS), 0))
    out.append(Number(f"critical batch at N = {max(WIDTHS)} over the limit's", ours / its))
    critical = [scaling.critical_batch(SIZES, T) for T in data.squares["steps"]]
    out.append(Number("least squares: critical batch, lowest target over highest", critical[-1] / critical[0]))
    z, twin = data.squares["simulated"][:, 3:].T
    return [
        *out,
        Number("least squares: rms z", (z**2).mean() ** 0.5),
        Number("the same, noise of twice the batch", (twin**2).mean() ** 0.5),
    ]


def plot(data: Data) -> Figure:
    """Networks and the limit; least squares."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.8))
    B = np.array([*STEPS])
    limit = np.exp(curve(data.losses[0])[0])
    left.plot(B, limit, color=THEORY, label="limit (dmft)")
    left.plot(B, limit[0] * B[0] / B, color="0.6", ls=":", label="as many samples (1/B)")
    left.axvline(scaling.critical_batch(B, limit), color=THEORY, ls="--", lw=1)
    for N, color in width_colors(WIDTHS).items():
        T, error = curve(data.losses[N])
        bars = 2 * np.exp(T) * error
        look = {"marker": "o", "ms": {8: 5, 64: 8, 256: 4}[N], "ls": "", "color": color}
        left.errorbar(B, np.exp(T), bars, label=f"networks, N = {N}, {data.losses[N][4].shape[2]} seeds", **look)
    left.set(title=f"(a) steps to {TARGET:g} of the loss", ylabel="steps T(B), best learning rate")
    for i, (target, T) in enumerate(zip(LOSSES, data.squares["steps"], strict=True)):
        right.plot(SIZES, T, color=THEORY, lw=1, label="solvable model" if i == 0 else None)
        right.axvline(scaling.critical_batch(SIZES, T), color=f"C{i}", ls="--", lw=1)
        seen = data.squares["simulated"][data.squares["simulated"][:, 0] == target]
        right.plot(seen[:, 1], seen[:, 2], "o", ms=5, mfc="none", color=f"C{i}", label=f"simulated, loss {target:g}")
    right.set(title="(b) least squares in one pass")
    for ax in (left, right):
        ax.set_xscale("log", base=2)
        ax.set(yscale="log", xlabel="batch B")
        ax.legend(fontsize=7)
    return figure
