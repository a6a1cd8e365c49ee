"""Weighted fits of power laws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class PowerLaw:
    """y = prefactor x^exponent, fitted on logarithms.

    Attributes:
        exponent, error: slope and its standard error.
        prefactor: value at x = 1.
        p_value: of chi^2, the chance of a worse fit if the power law holds; 1 with two points.
        num_points: points that entered the fit.
    """

    exponent: float
    error: float
    prefactor: float
    p_value: float
    num_points: int

    def __call__(self, x: ArrayLike) -> np.ndarray:
        return self.prefactor * np.asarray(x, dtype=float) ** self.exponent

    def __str__(self) -> str:
        return f"{self.exponent:+.2f} +- {self.error:.2f}"


def fit_power_law(x: ArrayLike, y: ArrayLike, y_error: ArrayLike, *, least_significance: float = 2.0) -> PowerLaw | None:
    """Fit y = c x^a by weighted least squares of log y on log x.

    Args:
        x: (n,) positive.
        y: (n,) with standard errors `y_error` (n,).
        least_significance: points with y below this many standard errors are left out.

    Returns:
        PowerLaw, or None where fewer than two points (at different x) are resolved.

    Example:
        >>> print(fit_power_law([1, 2, 4], [3.0, 1.5, 0.75], [0.3, 0.15, 0.075]))
        -1.00 +- 0.10
    """
    from scipy.special import chdtrc  # imported where used: a third of a second

    x, y, y_error = np.broadcast_arrays(*(np.asarray(v, dtype=float) for v in (x, y, y_error)))
    use = (y > least_significance * y_error) & (x > 0) & (y > 0) & np.isfinite(y_error)
    if len(np.unique(x[use])) < 2:
        return None
    u, v, weight = np.log(x[use]), np.log(y[use]), np.maximum(y_error[use] / y[use], 1e-12) ** -2.0
    center = np.average(u, weights=weight), np.average(v, weights=weight)
    spread = np.sum(weight * (u - center[0]) ** 2)
    slope = np.sum(weight * (u - center[0]) * (v - center[1])) / spread
    misfit = np.sum(weight * (v - center[1] - slope * (u - center[0])) ** 2)
    dof = int(use.sum()) - 2
    p_value = float(chdtrc(dof, misfit)) if dof else 1.0
    return PowerLaw(float(slope), float(spread**-0.5), float(np.exp(center[1] - slope * center[0])), p_value, int(use.sum()))
