"""Preactivations before and after training: histograms of networks over the single-site density of the limit.

A network of two hidden layers (tanh, gamma0 = 2) learns to tell two digits apart. In the limit the neurons of a layer are
independent draws of one process (dmft, solved by sampled paths: black). The distance of one network from it falls like N^-1/2,
that of N independent draws. The distance of all networks of a width together is their bias, small at every width.
"""

from __future__ import annotations

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import wasserstein_distance

import compare
import dmft
from compare.distributions import Distance
from paper_figures import runs
from paper_figures.figure import THEORY, exponent, mean_and_error, width_colors
from paper_figures.headline import Number
from widthwise import MLP, GradientDescent, Parameterization, Problem, Result, tasks

WIDTHS = (8, 32, 128, 512)
LAYERS = (1, 2)
POINT = 3
"""The test point of the histograms."""


class Data(NamedTuple):
    """What the figure shows."""

    theory: Result
    nets: dict[int, Result]
    together: dict[int, dict[int, Distance]]
    """Layer -> width -> distance of all trained networks of a width, as one sample, from the limit."""
    single: dict[int, tuple[Float[np.ndarray, "widths"], Float[np.ndarray, "widths"]]]
    """Layer -> distance of one trained network from the limit: mean over networks and points, and its error."""


def problem(quick: bool = False) -> Problem:
    """Threes against fives, gamma0 = 2, 8 train and 4 test images, 30 steps; 4, 4 and 15 if quick."""
    P, T = (4, 15) if quick else (8, 30)
    return Problem(MLP(2, "tanh"), Parameterization(gamma0=2.0), tasks.digits(P, 4, classes=(3, 5)), GradientDescent(0.3, T))


def compute(quick: bool = False) -> Data:
    """Solve the limit and train the ensembles, or load them."""
    p = problem(quick)
    method = dmft.March(num_paths=1024 if quick else 4096)
    theory = runs.limit(p, method, save=["h"])
    nets = runs.networks(p, {N: (2**14 if quick else 2**16) // N for N in WIDTHS}, save=["h"])
    together = {
        layer: {N: compare.preactivations(net, theory, layer, num_resamples=100)[-1] for N, net in nets.items()}
        for layer in LAYERS
    }
    return Data(theory, nets, together, {layer: _single(theory, nets, layer) for layer in LAYERS})


def _single(theory: Result, nets: dict[int, Result], layer: int, num: int = 32) -> tuple[np.ndarray, np.ndarray]:
    paths = np.sort(_all(theory, layer, -1), axis=0)
    each = [
        np.array([np.mean([wasserstein_distance(h[:, m], paths[:, m]) for m in range(h.shape[1])]) for h in networks])
        for networks in (_fields(net, layer, -1)[:num] for net in nets.values())
    ]
    mean, error = np.array([mean_and_error(x) for x in each]).T
    return mean, error


def table(data: Data) -> str:
    """Distances from the limit after training, of one network and of all together."""
    lines = [str(data.theory), "", "W1 from the limit after training", "  width  layer  one network          all networks"]
    for layer in LAYERS:
        mean, sem = data.single[layer]
        lines += [
            f"{N:7d} {layer:6d}  {mean[i]:.4f} +- {sem[i]:.4f}    {d.value:.4f} +- {d.error:.4f}, "
            f"noise alone {d.null:.4f}, p = {d.p_value:.2g}"
            for i, (N, d) in enumerate(data.together[layer].items())
        ]
    return "\n".join(lines)


def numbers(data: Data) -> list[Number]:
    """One network is as far as N draws are; together the widest have the density of the limit, the narrowest nearly."""
    out = []
    narrow, wide = min(data.nets), max(data.nets)
    for layer in LAYERS:
        near, law = data.together[layer][narrow], compare.fit_power_law([*data.nets], *data.single[layer])
        move = compare.wasserstein(*(_fields(data.theory, layer, k) for k in (0, -1)))
        out += [
            Number(f"layer {layer}: exponent of the distance of one network", *exponent(law)),
            Number(f"layer {layer}: p of the density at N = {wide}", data.together[layer][wide].p_value),
            Number(
                f"layer {layer}: distance of all networks of N = {narrow}, over how far training moves the density",
                near.value / move.value,
                near.value / move.value * np.hypot(near.error / near.value, move.error / move.value),
            ),
        ]
    return out


def plot(data: Data) -> Figure:
    """Histograms of one test point per layer, before (top) and after training (bottom); distances from the limit (right)."""
    figure, axes = plt.subplots(2, 3, figsize=(9.6, 5.4))
    letters = iter("abdecf")
    m = data.theory.problem.task.num_train + POINT
    for k, (row, when) in enumerate(zip(axes, ("before training", "after training"), strict=True)):
        for layer, axis in zip(LAYERS, row, strict=False):
            _histograms(axis, data, layer, -k, m)
            axis.set(title=f"({next(letters)}) layer {layer}, {when}", xlabel=rf"$h^{layer}$", ylabel="density")
    axes[0, 0].legend(fontsize="x-small", loc="upper left")
    top, bottom = axes[:, 2]
    for layer, marker, color in zip(LAYERS, "os", ("#0072B2", "#D55E00"), strict=True):
        widths = np.array([*data.nets])
        mean, sem = data.single[layer]
        top.errorbar(widths, mean, 2 * sem, color=color, marker=marker, ms=4, ls="", label=f"layer {layer}")
        ds = [*data.together[layer].values()]
        bottom.errorbar(
            widths,
            [d.value for d in ds],
            [2 * d.error for d in ds],
            color=color,
            marker=marker,
            ms=4,
            ls="",
            label=f"layer {layer}",
        )
        bottom.plot(widths, [d.null for d in ds], color=color, ls=":", lw=1, label=f"noise alone, layer {layer}")
    draws = _draws(data)
    top.plot(widths, draws, color=THEORY, lw=1, label="N draws of the limit, layer 2")
    top.set(title="(c) one network, after training")
    bottom.set(title="(f) all networks together")
    for axis in (top, bottom):
        axis.set(xscale="log", yscale="log", xlabel="width N", ylabel=r"$W_1$ from the limit")
        axis.legend()
    return figure


def _histograms(axes: Axes, data: Data, layer: int, k: int, m: int) -> None:
    density = _all(data.theory, layer, k)[:, m]
    low, high = np.quantile(_all(data.theory, layer, -1)[:, m], [5e-4, 1 - 5e-4]) * 1.1
    bins = np.linspace(low, high, 41)
    middle = (bins[1:] + bins[:-1]) / 2
    for N, color in width_colors(data.nets).items():
        height, _ = np.histogram(_all(data.nets[N], layer, k)[:, m], bins, density=True)
        axes.step(middle, height, where="mid", color=color, lw=1, label=f"N = {N}")
    height, _ = np.histogram(density, bins, density=True)
    axes.plot(middle, height, color=THEORY, lw=1.2, label="limit (dmft)")


def _draws(data: Data, num: int = 16) -> list[float]:
    """Distance of N draws of the limit from the limit, in the last layer after training."""
    paths, rng = _all(data.theory, LAYERS[-1], -1), np.random.default_rng(0)
    out = []
    for N in data.nets:
        picked = [paths[rng.integers(len(paths), size=N)] for _ in range(num)]
        out.append(float(np.mean([wasserstein_distance(x[:, m], paths[:, m]) for x in picked for m in range(x.shape[1])])))
    return out


def _fields(result: Result, layer: int, k: int) -> Float[np.ndarray, "runs neurons points"]:
    """Preactivations of every network, or replica, at a kept step."""
    return np.moveaxis(np.asarray(result.samples["h"][:, k, layer - 1], dtype=np.float64), 1, 2)


def _all(result: Result, layer: int, k: int) -> Float[np.ndarray, "neurons points"]:
    h = _fields(result, layer, k)
    return h.reshape(-1, h.shape[2])
