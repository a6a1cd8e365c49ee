"""Are kernels of narrow networks slower by their eigenvalues, or by their eigenfunctions? Each is swapped for the widest's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

import dmft
from widthwise import GradientDescent, Spectrum
from widthwise.jackknife import jackknife

SWAPS = {"own spectrum": (True, True), r"own $\lambda_k$ alone": (True, False), r"own $c_k$ alone": (False, True)}
"""Whose eigenvalues and whose powers are the narrow network's; the others are those of the widest."""

DIFFERENCE = "the second less the third"


def swapped(
    kernels: Sequence[Float[np.ndarray, "runs points points"]], y: Any, training: GradientDescent
) -> dict[str, Float[np.ndarray, "widths 2"]]:
    """log of the loss implied halfway over that of the widest, and its error over runs, by what is swapped.

        loss = sum_k c_k^2 (1 - eta0 lam_k)^2t / 2,   lam_k and c_k^2 of the mean kernel: its own, or the widest's in its place

    Args:
        kernels: by rising width, of every run, between n points.
        y: (n,) targets there.
        training: how long, and with what steps.
    """
    *narrow, wide = kernels

    def loss(lam: Spectrum, c: Spectrum) -> float:
        mixed = Spectrum(lam.lam, c.power)
        return float(dmft.spectra.static_training(mixed, training).loss[training.num_steps // 2])

    def measure(K: np.ndarray, widest: np.ndarray) -> Float[np.ndarray, "swaps"]:
        own, other = Spectrum.of_kernel(K, y), Spectrum.of_kernel(widest, y)
        mixed = [loss(own if lam else other, own if c else other) for lam, c in SWAPS.values()]
        logs = np.log(mixed) - np.log(loss(other, other))
        return np.append(logs, logs[1] - logs[2])

    rows = []
    for K in narrow:
        value, error, _ = jackknife(lambda w, K=K: measure(np.tensordot(w, K, 1), wide.mean(0)), len(K))  # type: ignore[misc]
        its = jackknife(lambda w, K=K: measure(K.mean(0), np.tensordot(w, wide, 1)), len(wide)).error  # type: ignore[misc]
        rows.append((value, np.hypot(error, its)))
    return {name: np.array(rows)[:, :, i] for i, name in enumerate((*SWAPS, DIFFERENCE))}
