"""Weighted fits of power laws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from compare.exponents import fit
from compare.fits import chance, least_squares
from widthwise import check
from widthwise.checked import Numbers, checked

SEARCH = -4.0, 4.0
"""Between which exponents a power law with a fitted floor is looked for."""
WRONG = 0.01
"""Goodness of fit below which what is printed says that there is no power law."""


@dataclass(frozen=True)
class PowerLaw:
    """y = floor + prefactor x^exponent.

    Attributes:
        exponent, error: and its standard error.
        prefactor: value above the floor at x = 1.
        p_value: of chi^2, the chance of a worse fit if the power law holds; 1 where nothing is free (two points, or three with
            a fitted floor); NaN where the errors of y are unknown.
        num_points: points that entered the fit.
        floor, floor_error: and its standard error; 0 where it was given.
    """

    exponent: float
    error: float
    prefactor: float
    p_value: float
    num_points: int
    floor: float = 0.0
    floor_error: float = 0.0

    @checked
    def __call__(self, x: Numbers) -> np.ndarray:
        return self.floor + self.prefactor * x**self.exponent

    def __str__(self) -> str:
        law = with_error(self.exponent, self.error, "+")
        if self.floor_error:
            law += f" above a floor of {with_error(self.floor, self.floor_error)}"
        elif self.floor:
            law += f" above a floor of {self.floor:g}"
        if np.isnan(self.p_value):
            return f"{law} (error from the scatter of {self.num_points} points)"
        if self.num_points == 2 + (self.floor_error > 0):
            return f"{law} (by {self.num_points} points: whether it is a power law they cannot tell)"
        if self.p_value >= WRONG:
            return f"{law} (p = {self.p_value:.2g})"
        cure = "leave out points" if self.floor_error else 'fit_power_law(..., floor="fit") fits a floor besides'
        return f"{law} is NO POWER LAW: goodness of fit p = {self.p_value:.2g}; {cure}"


@checked
def fit_power_law(
    x: Numbers,
    y: Numbers,
    y_error: Numbers | None = None,
    *,
    covariance: Numbers | None = None,
    floor: float | Literal["fit"] = 0.0,
    least_significance: float = 2.0,
) -> PowerLaw | None:
    """Fit y = floor + c x^a by weighted least squares: of log(y - floor) on log x, or of y with a floor that is fitted too.

    Args:
        x: (n,) positive.
        y: (n,) with independent standard errors `y_error` (n,). None where errors are not known: they count as equal parts of
            y - floor (of y where the floor is fitted), and the scatter around the fit tells how large they are. That of few
            points tells it badly: the error of the exponent goes with Student's t of as many degrees of freedom as are free.
        covariance: (n, n) of y, in the place of y_error where the errors of points are not independent. Weights are those of
            independent errors; the error of the exponent and the goodness of fit know the rest. Not with a fitted floor.
        floor: what y tends to, a number; or "fit", from three points on (four test the law).
        least_significance: points whose y is less than this many standard errors above the floor are left out; with a floor
            that is fitted, all points count, and this many standard errors is what c must be.

    Returns:
        PowerLaw, or None where fewer than two points (at different x) are resolved; with a fitted floor, where c is not, or no
        exponent fits between -4 and 4, or zero is among those that fit.

    Raises:
        ValueError: x that is not positive; y that is not finite; errors below zero; shapes that differ.

    Example:
        >>> print(fit_power_law([1, 2, 4], [3.0, 1.5, 0.75], [0.3, 0.15, 0.075]))
        -1.00 +- 0.10 (p = 1)
        >>> x = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
        >>> print(fit_power_law(x, 1.7 + 3 * x**-0.7, 0.01, floor="fit"))
        -0.700 +- 0.014 above a floor of 1.700 +- 0.026 (p = 1)
    """
    least = check.at_least_zero("least_significance", least_significance)
    if isinstance(floor, str):
        check.choice("floor", floor, ("fit",))
    if covariance is not None:
        if y_error is not None or isinstance(floor, str):
            raise ValueError("covariance takes the place of y_error, and goes with a floor that is given.")
        C = check.array("covariance", covariance, 2, "(n, n)")
        y_error = np.sqrt(np.maximum(np.diagonal(C), 0.0))
    scatter = y_error is None
    x, y, error = check.broadcast(x=x, y=y, y_error=0.0 if y_error is None else y_error)
    _check(x, y, error)
    if isinstance(floor, str):
        return _with_floor(x, y, np.abs(y) if scatter else error, least, scatter)
    above = y - float(floor)
    use = (above > least * error) & (above > 0) & np.isfinite(error)
    if len(np.unique(x[use])) < 2 or use.sum() < 2 + scatter:
        return None
    u, v = np.log(x[use]), np.log(above[use])
    relative = np.ones(len(v)) if scatter else np.maximum(error[use] / above[use], 1e-12)
    of_logs = np.diag(relative**2) if covariance is None else C[np.ix_(use, use)] / np.outer(above[use], above[use])
    center = np.average(u, weights=relative**-2.0)
    line = least_squares(np.stack([np.ones(len(u)), u - center], axis=1), v, of_logs)
    (level, slope), error_of_slope = line.coefficients, line.errors[1] * (np.sqrt(line.chi2 / line.dof) if scatter else 1.0)
    return PowerLaw(
        float(slope),
        float(error_of_slope),
        float(np.exp(level - slope * center)),
        np.nan if scatter else line.p_value,
        len(v),
        float(floor),
    )


def with_error(value: float, error: float, sign: str = "") -> str:
    """Both to as many digits as the error has, two at least.

    Example:
        >>> with_error(-0.04123, 0.0021), with_error(1.5, 0.25)
        ('-0.0412 +- 0.0021', '1.50 +- 0.25')
    """
    digits = 2 if not 0 < error < np.inf else int(np.clip(1 - np.floor(np.log10(error)), 2, 12))
    return f"{value:{sign}.{digits}f} +- {error:.{digits}f}"


def _check(x: np.ndarray, y: np.ndarray, error: np.ndarray) -> None:
    for name, good, what in (
        ("x", np.isfinite(x) & (x > 0), "finite and above zero"),
        ("y", np.isfinite(y), "finite"),
        ("y_error", error >= 0, "zero or above"),
    ):
        if not good.all():
            bad = np.ravel(~good).argmax()
            value = np.ravel({"x": x, "y": y, "y_error": error}[name])[bad]
            raise ValueError(f"{name} of a power law must be {what}, got {value:g} at index {bad}. Leave that point out.")


def _with_floor(x: np.ndarray, y: np.ndarray, error: np.ndarray, least: float, scatter: bool) -> PowerLaw | None:
    use = np.isfinite(error)
    if len(np.unique(x[use])) < 3 or use.sum() < 3 + scatter:
        return None
    curve = fit(x[use], y[use], error[use], offset=True, search=SEARCH, least=least, scatter=scatter)
    if not curve.resolved or abs(curve.exponent) < curve.error:
        return None
    num = int(use.sum())
    p_value = np.nan if scatter else chance(num - 3, curve.chi2)
    return PowerLaw(curve.exponent, curve.error, curve.amplitude, p_value, num, curve.offset, curve.offset_error)
