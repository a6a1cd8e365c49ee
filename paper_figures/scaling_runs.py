"""Networks on random features, simulated and solved: what the figure of scaling dynamics is made of."""

from __future__ import annotations

import numpy as np

from dmft import scaling
from dmft.scaling.laplace import talbot
from finite import linear_models
from paper_figures.figure import mean_and_error
from paper_figures.solvable import Arrays
from widthwise import Spectrum

A, B = 1.75, 1.25
"""Exponents of the task and of the kernel."""

EASY = ((3.0, 1.25), (5.0, 1.25))
"""The same of easy tasks."""


def losses(sizes: tuple[tuple[int, int], ...], modes: int, draws: int) -> Arrays:
    """(sizes, times) test and train error of N features on P samples, mean, error and theory."""
    spectrum, fine = Spectrum.power_law(A, B, modes), np.geomspace(0.3, 1e4, 67)
    theory, found = scaling.flow(spectrum.binned(32), fine, *np.array(sizes).T), []
    smooth = np.stack([theory.test, theory.train], 1)
    for i, (N, P) in enumerate(sizes):
        nets = linear_models.flow(spectrum, fine[::6], N, P, num_draws=draws, seed=i)
        found.append([[nets.mean(x), nets.sem(x), y[::6]] for x, y in zip(("test", "train"), smooth[i], strict=True)])
    endless = scaling.flow(spectrum.binned(32), fine, np.inf, sizes[0][1]).test
    return {"t": fine[::6], "fine": fine, "smooth": smooth, "endless": endless, "found": np.array(found)}


def corrections(sizes: tuple[int, ...], modes: int, draws: int) -> Arrays:
    """(N, 3, when) test error less that of infinitely many features, at t = 1 and at the end, P = infinity; exact 1/N at t = 1.

    To first order in 1/N the mean residual of mode k is, exactly, lam_k [S0 + lam_k / (s + lam_k)] / (s + lam_k)^2 in the
    frequency s, S0 = sum lam / (s + lam): the model has S0, the rest is of the same order where few modes lead the sum.
    """
    spectrum, times = Spectrum.power_law(A, B, modes), np.array([1.0, 1e8])
    lam, limit = spectrum.lam, scaling.flow(spectrum.binned(32), times).test
    theory = scaling.flow(spectrum.binned(32), times, np.array(sizes)).test - limit
    found = [mean_and_error([of_draw(spectrum, N, times, N * draws + i) - limit for i in range(draws)]) for N in sizes]
    z, weight = talbot(24)  # the test error at t is the mean residual at 2 t, power by power
    over = 1 / (z[:, None] / 2 + lam)
    exact = (weight * ((lam * over**2 * ((over @ lam)[:, None] + lam * over)) @ spectrum.power)).real.sum() / 2
    return {"N": np.array(sizes), "found": np.array([[*x, y] for x, y in zip(found, theory, strict=True)]), "exact": exact}


def of_draw(spectrum: Spectrum, N: int, times: np.ndarray, seed: int) -> np.ndarray:
    """Test error of one network, P = infinity, from the kernel of its features."""
    drawn = linear_models.kernel_of_draw(spectrum, N, seed)
    return np.exp(-2 * times[:, None] * drawn.lam) @ drawn.power + drawn.rest_power


def ensembles(total: int, members: tuple[int, ...], modes: int, draws: int) -> Arrays:
    """(E, times) test error of the mean output of E models of total / E features, P = infinity."""
    spectrum, t, found = Spectrum.power_law(A, B, modes), np.geomspace(1, 1e4, 9), []
    fine = np.geomspace(t[0], t[-1], 65)
    theory = [scaling.flow(spectrum.binned(32), fine, total / E).ensemble(E) for E in members]
    for E, ours in zip(members, theory, strict=True):
        nets = linear_models.flow(spectrum, t, total // E, np.inf, num_draws=draws, seed=E)
        found.append([*mean_and_error((nets.test + (E - 1) * nets.same_data) / E), ours[::8]])
    return {"t": t, "fine": fine, "smooth": np.array(theory), "found": np.array(found), "E": np.array(members)}


def envelope(sizes: tuple[int, ...], modes: int, draws: int) -> Arrays:
    """(N, 3, times) test error at P = infinity, and the frontier: of these modes, and of 10^12 of them."""
    spectrum, fine = Spectrum.power_law(A, B, modes), np.geomspace(1, 1e4, 81)
    t = fine[::10]
    found = [mean_and_error([of_draw(spectrum, N, t, seed) for seed in range(draws)]) for N in sizes]
    smooth = scaling.flow(spectrum.binned(32), fine, np.array(sizes)).test
    out = {"N": np.array(sizes), "found": np.array([[*x, y[::10]] for x, y in zip(found, smooth, strict=True)])}
    C, tried = np.geomspace(1e2, 1e7, 31), np.geomspace(2, 1e5, 61)
    here, far = (scaling.frontier(x, C, tried) for x in (spectrum.binned(32), scaling.power_law(A, B)))
    best = {"C": C, "best": here.test, "best_far": far.test, "N_far": far.num_features}
    return {**out, **best, "t": t, "fine": fine, "smooth": smooth}


def floors(sizes: tuple[int, ...], modes: int, draws: int) -> Arrays:
    """(tasks, test and bias, N) at P = t = infinity: mean and error of simulations, theory."""
    found = []
    for a, b in EASY:
        spectrum, rows = Spectrum.power_law(a, b, modes), []
        for N in sizes:
            nets = linear_models.ridge_regression(spectrum, np.inf, N, num_draws=draws, seed=N)
            theory = scaling.random_features(spectrum.binned(32), 1e12, N)
            rows.append([[nets.mean(x), nets.sem(x), getattr(theory, x)] for x in ("test", "bias")])
        found.append(np.array(rows).transpose(1, 2, 0))
    far = np.geomspace(sizes[0], 1024 * sizes[0], 11)
    smooth = [scaling.random_features(scaling.power_law(a, b), 1e13, far) for a, b in EASY]
    return {"N": np.array(sizes), "found": np.array(found), "far": far, "smooth": np.array([[x.test, x.bias] for x in smooth])}
