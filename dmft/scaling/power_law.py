"""Power-law spectra of as many modes as wanted: exponents show where no last mode is near."""

from __future__ import annotations

import numpy as np

from widthwise import Spectrum, check
from widthwise.checked import checked
from widthwise.memory import room

EXACT = 64
"""Modes that stay entries of their own."""


@checked
def power_law(a: float, b: float, num_modes: float = 1e12, per_decade: int = 32) -> Spectrum:
    """lam_k = k^-b, power_k = k^-a for k = 1 ... M, in bins: `Spectrum.power_law(a, b, M).binned()` for any M.

    The first modes stay apart; then a bin is a factor of 10^(1 / per_decade) in lam at least, and holds the exact sums of both.

    Args:
        a, b: exponents above 1.
        num_modes: M, up to 1e15.
        per_decade: bins per factor of ten in lam.

    Raises:
        ValueError: exponents of 1 or below.

    Example:
        >>> spectrum = power_law(2.0, 1.5)
        >>> len(spectrum.lam) < 700, round(spectrum.total_power, 9)  # pi^2 / 6
        (True, 1.644934067)
    """
    from scipy.special import zeta  # imported where used: it costs a quarter of a second

    Spectrum.power_law(a, b, 1)  # its checks of the exponents
    M = np.floor(check.positive("num_modes", num_modes))
    if not 1 <= M <= 1e15:
        raise ValueError(f"num_modes must be from 1 to 1e15, where counting in float64 ends; got {num_modes:g}.")
    check.count("per_decade", per_decade, most=check.MANY)
    room(min(M, EXACT + per_decade * b * np.log10(M)) * 150, f"{per_decade} entries per decade", "Lower per_decade.")
    ratio = 10 ** (1 / (per_decade * b))
    edges = [float(k) for k in range(1, min(EXACT, int(M)) + 2)]
    while edges[-1] < M + 1:
        edges.append(min(np.floor(max(edges[-1] + 1, edges[-1] * ratio)), M + 1))
    k = np.array(edges)
    many = np.diff(k)
    lam, power = (np.where(many == 1, k[:-1] ** -x, (zeta(x, k[:-1]) - zeta(x, k[1:])) / many) for x in (b, a))
    return Spectrum(lam, power, many)
