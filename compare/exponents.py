"""Least squares of offset + a x^c with a free exponent: c by continuous search, its error where chi^2 rises by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Curve(NamedTuple):
    """y = offset + amplitude x^exponent, fitted; NaN what the points do not determine.

    Attributes:
        exponent, error: where chi^2 is least, and half the width of the interval in which it rises by one.
        amplitude: at x = 1.
        offset, offset_error: and its standard error, to first order.
        chi2: of the points; of unknown errors, that of errors alike in log y, in units of their common square.
        resolved: whether the amplitude is `least` standard errors from zero, and the interval lies within the search.
    """

    exponent: float
    error: float
    amplitude: float
    offset: float
    offset_error: float
    chi2: float
    resolved: bool


NOTHING = Curve(np.nan, np.nan, np.nan, np.nan, np.nan, np.nan, resolved=False)
"""Where there is nothing to fit."""


class _Linear(NamedTuple):
    """The curve at a given exponent, which is linear in the rest: y = o + a basis; every entry as the exponents given."""

    basis: np.ndarray
    o: np.ndarray
    a: np.ndarray
    chi2: np.ndarray
    significance: np.ndarray


def fit(
    x: Float[np.ndarray, "n"],
    y: Float[np.ndarray, "n"],
    error: Float[np.ndarray, "n"],
    *,
    offset: bool,
    search: tuple[float, float] = (-1.0, 4.0),
    least: float = 3.0,
    scatter: bool = False,
) -> Curve:
    """Fit y = offset + a x^c.

    Args:
        x: above zero; 0 is the limit itself, where y is the offset.
        y, error: with independent standard errors.
        offset: whether there is one.
        search: between which exponents.
        least: amplitudes of fewer standard errors are not resolved.
        scatter: errors are known up to a common factor, which the residuals tell: chi^2 of dof is put in the place of one.

    Example:
        >>> x = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
        >>> curve = fit(x, 1.7 + 3 / x**0.7, np.full(5, 1e-3), offset=True, search=(-4.0, 4.0))
        >>> round(curve.exponent, 6), round(curve.amplitude, 6), round(curve.offset, 6)
        (-0.7, 3.0, 1.7)
    """
    from scipy.optimize import minimize_scalar  # imported where used: a third of a second

    at_zero = x == 0
    top = x.max()
    u = np.log(np.where(at_zero, top, x) / top)
    weight = 1 / np.maximum(error, 1e-12 * np.abs(y).max() + 1e-300) ** 2

    def linear(c: float | np.ndarray) -> _Linear:
        return _at(np.asarray(c, dtype=float), u, at_zero, y, weight, offset)

    def chi2(c: float) -> float:
        return float(linear(c).chi2)

    grid = np.linspace(*search, round(20 * (search[1] - search[0])) + 1)
    coarse = linear(grid).chi2
    k = int(coarse.argmin())
    near = grid[max(k - 1, 0)], grid[min(k + 1, len(grid) - 1)]
    c = float(minimize_scalar(chi2, bounds=near, method="bounded", options={"xatol": 1e-10}).x)
    least_chi2 = chi2(c)
    free = len(y) - 2 - offset
    unit = least_chi2 / free if scatter and free else 1.0
    rise = max(unit, 1e-9 * least_chi2, 1e-18)  # below what rounding makes of chi^2 there is no interval
    ends = [_end(chi2, c, least_chi2 + rise, outward) for outward in (grid[grid < c][::-1], grid[grid > c])]
    best = linear(c)
    slope = float(best.a)
    if offset and not at_zero.any():  # a x^c = amplitude, o + a (x^c - 1) / c: see _at
        slope = slope / c if c else np.nan
    scale = float(top) ** -c
    jacobian = np.stack([np.ones_like(y), np.where(at_zero, 0, np.exp(c * u)), np.where(at_zero, 0, slope * u * np.exp(c * u))])
    jacobian = jacobian if offset else jacobian[1:]
    information = (jacobian * weight) @ jacobian.T
    size = np.sqrt(np.maximum(np.diagonal(information), 1e-300))
    covariance = np.linalg.pinv(information / np.outer(size, size), rcond=1e-14) / np.outer(size, size) * unit
    level = float(best.o) - (slope if offset and not at_zero.any() else 0.0) if offset else 0.0
    inside = all(np.isfinite(ends))
    return Curve(
        c,
        (ends[1] - ends[0]) / 2 if inside else np.nan,
        slope * scale,
        level,
        float(np.sqrt(covariance[0, 0])) if offset else 0.0,
        least_chi2,
        bool(inside and best.significance > least * np.sqrt(unit)),
    )


def _end(chi2: Callable[[float], float], c: float, level: float, outward: Float[np.ndarray, "exponents"]) -> float:
    """Where chi^2 reaches the level on one side of the minimum; NaN where it does not within the search."""
    from scipy.optimize import brentq

    inner = c
    for outer in outward:
        if chi2(float(outer)) > level:
            return float(brentq(lambda x: chi2(x) - level, inner, outer, xtol=1e-14))
        inner = outer
    return np.nan


def _at(c: np.ndarray, u: np.ndarray, at_zero: np.ndarray, y: np.ndarray, weight: np.ndarray, offset: bool) -> _Linear:
    """The best curve with the exponents c (...), x = e^u.

    With a free offset the basis is (x^c - 1) / c, which is smooth through c = 0, where it is log x.
    """
    power = c[..., None] * u
    if offset and not at_zero.any():
        basis = np.where(np.abs(power) < 1e-8, u + 0 * power, np.expm1(power) / np.where(c == 0, 1.0, c)[..., None])
    else:
        basis = np.where(at_zero, 0.0, np.exp(power))
    total = weight.sum()
    mean, center = (basis @ weight / total, y @ weight / total) if offset else (np.zeros(c.shape), 0.0)
    moved = basis - mean[..., None]
    square = moved**2 @ weight
    a = np.divide((moved * (y - center)) @ weight, square, out=np.zeros(c.shape), where=square > 1e-24 * total)
    chi2 = ((y - center) - a[..., None] * moved) ** 2 @ weight
    return _Linear(basis, center - a * mean, a, chi2, np.abs(a) * np.sqrt(square))
