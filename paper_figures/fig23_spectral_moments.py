"""Moments of a kernel's spectrum from few inputs and few features, without bias.

A kernel of Q features is seen at P inputs, in a P x Q matrix. (a) Random Fourier features of a Gaussian kernel in ten
dimensions, P = 30, Q = 60: the moments of the matrix itself are too large; those with different rows alone still have the noise
of Q features; with different rows and columns they are right. (b) The third moment against the number of features.
(c) Features of networks: neurons of the hidden layer (tanh, gamma0 = 2) at held-out digits, after training. Every width has the
moments of the limit's kernel (dmft, black); those of the matrix itself would tell widths apart that are not. (d) A spectrum
that has the four moments found in samples of 60 x 80: how many modes a ridge resolves.

Error bars are two standard errors over samples.
"""

from __future__ import annotations

from math import comb
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from dmft import scaling
from dmft.spectra import rbf
from paper_figures import runs
from paper_figures.cache import cached_arrays
from paper_figures.figure import THEORY, mean_and_error
from paper_figures.headline import Number
from paper_figures.solvable import Arrays, stacked
from widthwise import MLP, GradientDescent, Parameterization, Problem, Result, Spectrum, tasks

DIM, LENGTH = 10, 2.0
WIDTHS = (32, 64, 128, 256)
METHODS = ("different rows and columns", "different rows", "of the matrix itself")
RIDGES = np.geomspace(3e-3, 0.3, 9)


class Data(NamedTuple):
    """Moments of samples, by order and by Q, and of networks over those of the limit; what spectra from moments resolve."""

    orders: Arrays
    features: Arrays
    widths: Arrays
    spectra: Arrays


def rows_alone(K: np.ndarray, order: int) -> np.ndarray:
    """m_1 ... m_n of a kernel matrix between P inputs, over different inputs: tr(U^(n-1) K) / (P over n), U = triu(K)."""
    P, out, power = len(K), [], np.eye(len(K))
    for n in range(1, order + 1):
        out.append(np.sum(power * K) / comb(P, n))
        power = power @ np.triu(K, 1)
    return np.array(out)


def all_methods(X: np.ndarray, order: int) -> np.ndarray:
    """(methods, order) of a P x Q matrix."""
    return np.array(
        [scaling.spectral_moments(X, order), rows_alone(X @ X.T / X.shape[1], order), scaling.plugin_moments(X, order)]
    )


def truth(order: int) -> np.ndarray:
    """Moments of exp(-|x - x'|^2 / (2 LENGTH^2)) for x ~ N(0, 1)^DIM: a Gaussian integral over a ring of n points."""
    rings = [1 + 2 * (1 - np.cos(2 * np.pi * np.arange(n) / n)) / LENGTH**2 for n in range(1, order + 1)]
    return np.array([np.prod(x) ** (-DIM / 2) for x in rings])


def fourier_features(rng: np.random.Generator, P: int, Q: int) -> np.ndarray:
    """(P, Q) random Fourier features of that kernel."""
    x, w = rng.normal(size=(P, DIM)), rng.normal(size=(DIM, Q)) / LENGTH
    return np.asarray(np.sqrt(2) * np.cos(x @ w - rng.uniform(-np.pi / 2, np.pi / 2, Q)))


def moments_of_samples(P: int, sizes: tuple[int, ...], order: int, draws: int) -> Arrays:
    """(sizes, methods, order) moments over the truth."""
    rng, right = np.random.default_rng(0), truth(order)
    found = [mean_and_error([all_methods(fourier_features(rng, P, Q), order) / right for _ in range(draws)]) for Q in sizes]
    return {**stacked(found), "Q": np.array(sizes)}


def spectra_of_samples(P: int, Q: int, order: int, draws: int, groups: int) -> Arrays:
    """(1, methods, ridges) modes that a ridge resolves, from the mean moments of groups of samples."""
    rng, out = np.random.default_rng(1), []
    for _ in range(groups):
        moments = np.array([all_methods(fourier_features(rng, P, Q), order) for _ in range(draws)])
        found = [mean_and_error(moments[:, i]) for i in range(len(METHODS))]
        out.append([resolved(scaling.spectrum_of_moments(mean, error=error)) for mean, error in found])
    return {**stacked([mean_and_error(out)]), "truth": resolved(rbf(DIM, {0: 1.0}, length=LENGTH))}


def resolved(spectrum: Spectrum) -> np.ndarray:
    """sum lam / (lam + ridge), of all ridges."""
    lam, ridges = spectrum.lam, RIDGES[:, None]
    return np.asarray((lam / (lam + ridges)) @ spectrum.multiplicity + spectrum.rest_trace / RIDGES)


def moments_of_networks(theory: Result, nets: dict[int, Result], order: int = 3) -> Arrays:
    """(widths, methods, order) over those of the limit's kernel, at the test points after training."""
    P = theory.problem.task.num_train
    kernels = np.asarray(theory.samples.Phi, dtype=np.float64)[:, 0, -1, P:, -1, P:]
    limit = rows_alone(kernels.mean(0), order)
    _, spread = mean_and_error([rows_alone(K, order) for K in kernels])
    found = []
    for net in nets.values():
        h = np.asarray(net.samples["h"], dtype=np.float64)[:, -1, 0]  # (networks, points, neurons)
        found.append(mean_and_error([all_methods(np.tanh(x[P:]), order) / limit for x in h]))
    return {**stacked(found), "limit": limit, "limit_error": spread / limit}


def problem() -> Problem:
    """Threes against fives, gamma0 = 2: 16 train and 48 test images, 20 steps."""
    task = tasks.digits(16, 48, classes=(3, 5))
    return Problem(MLP(1, "tanh"), Parameterization(gamma0=2.0), task, GradientDescent(0.3, 20))


def compute(quick: bool = False) -> Data:
    """Draw, train and solve, or load."""
    draws = 200 if quick else 2000
    one = {"P": 30, "sizes": (60,), "order": 6, "draws": 3 * draws}
    many = {"P": 30, "sizes": (15, 30, 60, 120, 240, 480), "order": 3, "draws": draws}
    p = problem()
    theory = runs.limit(p)
    nets = runs.networks(p, {N: (2**13 if quick else 2**15) // N for N in WIDTHS}, save=["h"])
    of = {"problem": p.fingerprint(), "seeds": tuple(net.trajectory.n for net in nets.values())}
    settings = {"P": 60, "Q": 80, "order": 4, "draws": 24, "groups": 6 if quick else 32}
    return Data(
        cached_arrays("spectral moments, orders", one, moments_of_samples),
        cached_arrays("spectral moments, features", many, moments_of_samples),
        cached_arrays("spectral moments, networks", of, lambda **_: moments_of_networks(theory, nets)),
        cached_arrays("spectral moments, spectra", settings, spectra_of_samples),
    )


def table(data: Data) -> str:
    """Moments over the truth, or the limit."""
    lines = []
    for head, x in (("order, P = 30, Q = 60", data.orders), ("order, networks of N = 32 over the limit", data.widths)):
        lines.append(f"{head:42s}" + "".join(f"{method:>28s}" for method in METHODS))
        for i in range(x["mean"].shape[2]):
            columns = zip(x["mean"][0, :, i], x["error"][0, :, i], strict=True)
            lines.append(f"{i + 1:42d}" + "".join(f"{m:18.3f} +- {e:6.3f}" for m, e in columns))
    return "\n".join(lines)


def numbers(data: Data) -> list[Number]:
    """What is unbiased, and what is not."""
    m, e = data.orders["mean"][0], data.orders["error"][0]
    of_Q, Q_error = data.features["mean"], data.features["error"]
    nets, error = data.widths["mean"], np.hypot(data.widths["error"], data.widths["limit_error"])
    spectrum, its_error = data.spectra["mean"][0] / data.spectra["truth"], data.spectra["error"][0] / data.spectra["truth"]
    middle = len(RIDGES) // 2
    return [
        *(Number(f"P = 30, Q = 60: moment {n} over truth", m[0, n - 1], e[0, n - 1]) for n in (2, 4, 6)),
        Number("the same of the matrix itself, moment 4", m[2, 3], e[2, 3]),
        Number("the same of different rows, moment 4", m[1, 3], e[1, 3]),
        Number("Q = 15: moment 3 over truth", of_Q[0, 0, 2], Q_error[0, 0, 2]),
        Number("Q = 480, of the matrix itself: moment 3 over truth", of_Q[-1, 2, 2], Q_error[-1, 2, 2]),
        Number("networks, N = 32: moment 3 over that of the limit", nets[0, 0, 2], error[0, 0, 2]),
        Number("networks, N = 256: moment 3 over that of the limit", nets[-1, 0, 2], error[-1, 0, 2]),
        Number("networks, N = 32, of the matrix itself", nets[0, 2, 2], error[0, 2, 2]),
        Number("modes that a ridge of 0.03 resolves, over truth", spectrum[0, middle], its_error[0, middle]),
        Number("the same of the matrix itself", spectrum[2, middle], its_error[2, middle]),
    ]


def plot(data: Data) -> Figure:
    """Moments by order and by Q (top), of networks, and spectra from moments (bottom)."""
    figure, ((a, b), (c, d)) = plt.subplots(2, 2, figsize=(8.4, 6.4))
    for i, (method, color, marker) in enumerate(zip(METHODS, ("C0", "C4", "C1"), "o^s", strict=True)):
        style: dict[str, Any] = {"color": color, "marker": marker, "ms": 4, "capsize": 2, "label": method}
        x = data.orders
        a.errorbar(np.arange(x["mean"].shape[2]) + 1, x["mean"][0, i], 2 * x["error"][0, i], **style)
        x = data.features
        b.errorbar(x["Q"], x["mean"][:, i, 2], 2 * x["error"][:, i, 2], **style)
        x = data.widths
        c.errorbar(np.array(WIDTHS) * (1 + 0.04 * (i - 1)), x["mean"][:, i, 2], 2 * x["error"][:, i, 2], **style)
        x = data.spectra
        d.errorbar(RIDGES * (1 + 0.04 * (i - 1)), x["mean"][0, i], 2 * x["error"][0, i], **{**style, "ls": ""})
    for ax in (a, b):
        ax.axhline(1, color=THEORY, zorder=0, label="truth")
        ax.set(yscale="log", ylabel="moment over truth")
    spread = 2 * data.widths["limit_error"][2]
    c.axhline(1, color=THEORY, zorder=0, label="limit (dmft)")
    c.axhspan(1 - spread, 1 + spread, color="0.9", zorder=0)
    d.plot(RIDGES, data.spectra["truth"], color=THEORY, label="truth")
    a.set(xlabel="order n", title="(a) Fourier features, P = 30, Q = 60")
    b.set(xlabel="features Q", xscale="log", title="(b) moment 3, P = 30")
    c.set(xlabel="width N", xscale="log", ylabel="moment 3 over that of the limit", title="(c) hidden features of networks")
    for ax, sizes in ((b, data.features["Q"]), (c, WIDTHS)):
        ax.set_xticks(sizes, [str(size) for size in sizes])
        ax.xaxis.set_minor_formatter("")
    d.set(xlabel="ridge", xscale="log", yscale="log", ylabel="modes resolved", title="(d) spectra from four moments, 60 x 80")
    for ax in (a, b, c, d):
        ax.legend(fontsize=7)
    return figure
