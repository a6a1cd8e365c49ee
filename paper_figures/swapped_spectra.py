"""Are kernels of narrow networks slower by their eigenvalues, or by their eigenfunctions? Each is swapped for the widest's."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

import dmft
from widthwise import Result, Spectrum
from widthwise.jackknife import jackknife

SWAPS = {"own spectrum": (True, True), r"own $\lambda_k$ alone": (True, False), r"own $c_k$ alone": (False, True)}
"""Whose eigenvalues and whose powers are the narrow network's; the others are those of the widest."""

DIFFERENCE = "the second less the third"


def swapped(nets: dict[int, Result]) -> dict[str, Float[np.ndarray, "widths 2"]]:
    """log of the loss implied after training over that of the widest, halfway, and its error, by what is swapped."""
    p = nets[min(nets)].problem
    kernels = [np.asarray(net.samples["NTK"], float)[:, -1, p.task.num_train :, p.task.num_train :] for net in nets.values()]
    y, wide = np.asarray(p.task.y_test), kernels[-1]

    def loss(lam: Spectrum, c: Spectrum) -> float:
        mixed = Spectrum(lam.lam, c.power)
        return float(dmft.spectra.static_training(mixed, p.training).loss[p.training.num_steps // 2])

    def measure(narrow: np.ndarray, widest: np.ndarray) -> Float[np.ndarray, "swaps"]:
        own, other = Spectrum.of_kernel(narrow, y), Spectrum.of_kernel(widest, y)
        mixed = [loss(own if lam else other, own if c else other) for lam, c in SWAPS.values()]
        logs = np.log(mixed) - np.log(loss(other, other))
        return np.append(logs, logs[1] - logs[2])

    rows = []
    for K in kernels[:-1]:
        value, error, _ = jackknife(lambda w, K=K: measure(np.tensordot(w, K, 1), wide.mean(0)), len(K))  # type: ignore[misc]
        its = jackknife(lambda w, K=K: measure(K.mean(0), np.tensordot(w, wide, 1)), len(wide)).error  # type: ignore[misc]
        rows.append((value, np.hypot(error, its)))
    return {name: np.array(rows)[:, :, i] for i, name in enumerate((*SWAPS, DIFFERENCE))}
