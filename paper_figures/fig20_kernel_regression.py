"""Learning curves of kernels and of random features, from their spectra alone.

Top: kernel regression on p samples. (a) Gaussian features with a power-law spectrum: train and test error at two ridges.
(b) The same by mode: a mode is learned once p eta_k passes the effective ridge, and is left with noise from all that is not
learned. (c) The tangent kernel of a wide ReLU network on the sphere in ten dimensions: degrees of the target are learned one
after the other. Dotted: what comes from degree 1, which is not what is in it.
Bottom: k random features on n samples with label noise. (d, e) Test and train error against k at every ridge: without much of
one the test error peaks at k = n. (f) At the best ridge of every point it falls in k and in n; more is better.

Lines are the solvable model (no parameter is fitted), points simulated regressions with two standard errors.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from dmft import scaling, spectra
from dmft.spectra.closed_forms import gegenbauer
from finite import linear_models
from paper_figures.cache import cached_arrays
from paper_figures.figure import THEORY, mean_and_error, shades
from paper_figures.headline import Number
from paper_figures.solvable import Arrays, column, explain, frame, points, ratio, stacked
from widthwise import MLP, Spectrum

MODES = (1, 4, 16, 64)
KERNEL_RIDGES = (0.01, 1.0)
RIDGES = (1e-3, 0.1, 1.0, 10.0)
DIM, DEGREES = 10, {1: 0.6, 2: 0.4}
"""Sphere: dimension, and the target's power by degree."""


class Data(NamedTuple):
    """Arrays of the three simulations, each with its theory."""

    gauss: Arrays
    sphere: Arrays
    features: Arrays


def gaussian(a: float, b: float, M: int, noise: float, sizes: tuple[int, ...], draws: int) -> Arrays:
    """Regression on independent Gaussian features: (sizes, ridges) test and train errors, (sizes, modes) at the first ridge."""
    spectrum, rng = Spectrum.power_law(a, b, M), np.random.default_rng(0)
    target, at, found = np.sqrt(spectrum.power / spectrum.lam), np.array(MODES) - 1, []
    for p in sizes:
        out = []
        for _ in range(draws):
            psi = rng.standard_normal((p, M)) * np.sqrt(spectrum.lam)
            y = psi @ target + noise * rng.standard_normal(p)
            K = psi @ psi.T
            dual = np.stack([np.linalg.solve(K + ridge * np.eye(p), y) for ridge in KERNEL_RIDGES])
            modes = spectrum.lam * (target - dual @ psi) ** 2
            out.append(np.concatenate([modes.sum(1), ((y - dual @ K) ** 2).mean(1), modes[0, at] / spectrum.power[at]]))
        found.append(mean_and_error(np.array(out)))
    curves = [spectra.learning_curve(spectrum, sizes, ridge=ridge, noise=noise) for ridge in KERNEL_RIDGES]
    theory = [c.test for c in curves] + [c.train for c in curves] + [*(curves[0].mode_errors[:, at] / spectrum.power[at]).T]
    return {**stacked(found), "theory": np.stack(theory, 1), "sizes": np.array(sizes)}


def sphere(sizes: tuple[int, ...], noise: float, ridge: float, draws: int, top: int = 20) -> Arrays:
    """Regression with the tangent kernel of a wide ReLU network: (sizes, total and degrees), without test points.

    The part of f = sum_m dual_m K(., x_m) in degree l has <P_l(. x) P_l(. x')> = P_l(x x') / N_l.
    """
    kernel, rng = spectra.ntk(MLP(1, "relu")), np.random.default_rng(1)
    spectrum = spectra.sphere(kernel, DIM, DEGREES)
    order = np.argsort(spectrum.label)[: top + 1]
    eta, many, v = spectrum.lam[order], spectrum.multiplicity[order], (spectrum.power * spectrum.multiplicity)[order]
    found = []
    for p in sizes:
        out = []
        for _ in range(draws):
            x = rng.standard_normal((p + 1, DIM))
            x /= np.linalg.norm(x, axis=1, keepdims=True)
            products = (x[:p] @ x.T).clip(-1, 1)
            P = gegenbauer(top, DIM, products.ravel()).reshape(top + 1, p, p + 1)
            P, at_pole = P[..., :p], P[..., p]  # the target is sum sqrt(v_l N_l) P_l(x pole)
            y = np.sqrt(v * many) @ at_pole + noise * rng.standard_normal(p)
            dual = np.linalg.solve(kernel(products[:, :p].ravel()).reshape(p, p) + ridge * np.eye(p), y)
            error = many * eta**2 * (P @ dual @ dual) - 2 * eta * np.sqrt(many * v) * (at_pole @ dual) + v
            out.append([error.sum(), *error[[*DEGREES]]])
        found.append(mean_and_error(np.array(out)))
    curve = spectra.learning_curve(spectrum, sizes, ridge=ridge, noise=noise)
    at = order[[*DEGREES]]
    inside, source = (spectrum.multiplicity[at] * x[:, at] for x in (curve.mode_errors, curve.by_source))
    theory = np.column_stack([curve.test, inside, source])
    return {**stacked(found), "theory": theory, "sizes": np.array(sizes)}


def random_features(n: int, sizes: tuple[int, ...], more: tuple[int, ...], M: int, draws: int) -> Arrays:
    """(k, ridges) test and train errors on n samples; at the best ridge, for each of `more` samples, test errors (more, k)."""
    spectrum, noise, k = Spectrum.power_law(1.5, 1.5, M), np.sqrt(0.5), np.array(sizes)
    theory = scaling.random_features(spectrum, n, k[:, None], ridge=np.array(RIDGES), noise=noise)
    ridge, best = scaling.optimal_ridge(spectrum, np.array(more)[:, None], k, noise=noise)
    ridge = np.where(ridge > 0, ridge, 1e-9)
    sweep: list[Any] = []
    at_best: list[Any] = []
    for i, size in enumerate(sizes):
        regression = linear_models.ridge_regression
        draw = regression(spectrum, n, size, ridge=RIDGES, noise=noise, num_draws=draws, seed=i)
        sweep.append([draw.mean("test"), draw.sem("test"), draw.mean("train"), draw.sem("train")])
        each = [
            regression(spectrum, m, size, ridge=ridge[j, i], noise=noise, num_draws=draws, seed=100 + i)
            for j, m in enumerate(more)
        ]
        at_best.append([[x.mean("test"), x.sem("test")] for x in each])
    out = dict(zip(("test", "test_error", "train", "train_error"), np.array(sweep).transpose(1, 0, 2), strict=True))
    out |= {"best": np.array(at_best)[..., 0].T, "best_error": np.array(at_best)[..., 1].T, "theory_best": best}
    return {**out, "theory_test": theory.test, "theory_train": theory.train, "k": k, "n": np.array(more)}


def compute(quick: bool = False) -> Data:
    """Simulate and solve, or load."""
    sizes, draws = (8, 16, 32, 64, 128, 256), 100 if quick else 400
    law: dict[str, Any] = {"a": 2.0, "b": 1.5, "M": 1000, "noise": 0.3}
    gauss = cached_arrays("learning curves, Gaussian", {**law, "sizes": sizes, "draws": draws}, gaussian)
    settings = {"sizes": sizes, "noise": 0.1, "ridge": 0.01, "draws": draws}
    on_sphere = cached_arrays("learning curves, sphere", settings, sphere)
    k, n = ((8, 16, 32, 64, 96, 128, 192, 256, 512), 128) if quick else ((8, 16, 32, 64, 128, 192, 256, 384, 512, 1024), 256)
    settings = {"n": n, "sizes": k, "more": (32, 64, n), "M": 500, "draws": 16 if quick else 60}
    return Data(gauss, on_sphere, cached_arrays("random features", settings, random_features))


def table(data: Data) -> str:
    """Test errors, theory and simulation."""
    lines, rf = [], data.features
    best = (rf["k"], rf["theory_best"][-1], rf["best"][-1], rf["best_error"][-1])
    names = ("sizes", "theory", "mean", "error")
    for title, rows in (
        (f"Gaussian features, ridge {KERNEL_RIDGES[0]}: p", [data.gauss[x].T.reshape(-1, 6)[0] for x in names]),
        ("sphere: p", [data.sphere[x].T.reshape(-1, 6)[0] for x in names]),
        (f"random features at the best ridge, n = {rf['n'][-1]}: k", best),
    ):
        lines.append(f"{title:45s}  theory   simulation")
        lines += [f"{x:45.0f}  {t:.4f}   {m:.4f} +- {e:.4f}" for x, t, m, e in zip(*rows, strict=True)]
    return "\n".join(lines)


def numbers(data: Data) -> list[Number]:
    """Ratios of simulation to theory, and whether more is better."""
    gauss, rf = data.gauss, data.features
    steps = np.concatenate([np.diff(np.log(rf["theory_best"]), axis=axis).ravel() for axis in (0, 1)])
    peak, (at,) = int(np.argmax(rf["theory_test"][:, 0])), np.flatnonzero(rf["k"] == 64)
    top, low = (np.array([rf["test"][i, 0], rf["test_error"][i, 0]]) for i in (peak, 0))
    more, error = rf["best"][-1], rf["best_error"][-1]
    large, late, p64 = rf["k"] >= 64, slice(3, None), "p >= 64"

    source = [*column(data.sphere, 1, late)[:2], data.sphere["theory"][late, 3]]
    return [
        ratio(f"Gaussian features, {p64}: test error over theory", column(gauss, 0, late)),
        ratio(f"Gaussian features, {p64}: error in mode 1 over theory", column(gauss, 4, late)),
        ratio(f"sphere, {p64}: test error over theory", column(data.sphere, 0, late)),
        ratio(f"sphere, {p64}: error in degree 1 over theory", column(data.sphere, 1, late)),
        ratio(f"sphere, {p64}: error in degree 1 over what comes from degree 1", source),
        ratio(
            "random features, k >= 64: test error over theory", [rf[x][large] for x in ("test", "test_error", "theory_test")]
        ),
        ratio("least ridge: error at k = n over that at k = 8", [*top, low[0]]),
        Number("best ridge, theory: largest step of log error in k or n", steps.max()),
        Number("best ridge: error at the largest k less that at k = 64", more[-1] - more[at], np.hypot(error[-1], error[at])),
    ]


def plot(data: Data) -> Figure:
    """Kernel regression (top), random features (bottom)."""
    figure, axes = plt.subplots(2, 3, figsize=(11, 6.4))
    gauss, rf, p, k = data.gauss, data.features, data.gauss["sizes"], data.features["k"]
    for i, (ridge, color) in enumerate(zip(KERNEL_RIDGES, ("C0", "C1"), strict=True)):
        points(axes[0, 0], p, column(gauss, i), color, label=f"ridge {ridge:g}, test")
        points(axes[0, 0], p, column(gauss, i + 2), color, label=f"ridge {ridge:g}, train", ls="--")
    for i, (mode, color) in enumerate(zip(MODES, shades(len(MODES)), strict=True)):
        points(axes[0, 1], p, column(gauss, 4 + i), color, label=f"mode {mode}")
    for i, (color, label) in enumerate(((THEORY, "total"), ("C0", "degree 1"), ("C1", "degree 2"))):
        points(axes[0, 2], p, column(data.sphere, i), color, label=label)
    axes[0, 2].plot(p, data.sphere["theory"][:, 3], color="C0", ls=":", label="what comes from degree 1")
    for i, (ridge, color) in enumerate(zip(RIDGES, shades(len(RIDGES)), strict=True)):
        for ax, what in ((axes[1, 0], "test"), (axes[1, 1], "train")):
            found = [rf[x][:, i] for x in (what, f"{what}_error", f"theory_{what}")]
            points(ax, k, found, color, label=f"ridge {ridge:g}")
    for i, (n, color) in enumerate(zip(rf["n"], shades(len(rf["n"])), strict=True)):
        points(axes[1, 2], k, [rf[x][i] for x in ("best", "best_error", "theory_best")], color, label=f"n = {n}")
    explain(axes[0, 0])
    titles = ["(a) Gaussian features", "(b) error by mode, ridge 0.01", "(c) ReLU tangent kernel on the sphere"]
    titles += [f"(d) random features, n = {rf['n'][-1]}", "(e) their train error", "(f) at the best ridge"]
    frame(axes, titles, ["samples p"] * 3 + ["features k"] * 3)
    axes[0, 0].set_ylabel("mean squared error")
    axes[0, 1].set_ylabel("share of the mode's power left")
    axes[1, 0].set_ylabel("test error")
    axes[1, 1].set(ylabel="train error", ylim=(1e-6, 5))
    axes[1, 2].set_ylabel("test error")
    return figure
