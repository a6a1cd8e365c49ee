"""Weighted least squares of few points whose errors may be correlated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from widthwise.checked import checked


@dataclass(frozen=True)
class Fit:
    """y = design @ coefficients.

    Attributes:
        coefficients: (p,)
        covariance: (p, p) of them.
        chi2, dof: of the residuals, and how many of them are free.
        p_value: the chance of a worse fit if the model holds; 1 where nothing is free.
    """

    coefficients: np.ndarray
    covariance: np.ndarray
    chi2: float
    dof: int
    p_value: float

    @property
    def errors(self) -> np.ndarray:
        """(p,) standard errors of the coefficients."""
        return np.sqrt(np.diagonal(self.covariance))


@checked
def least_squares(design: Float[np.ndarray, "n p"], y: Float[np.ndarray, "n"], covariance: Float[np.ndarray, "n n"]) -> Fit:
    """Fit with weights 1 / variance; errors and chi^2 by the whole covariance of the points.

    Weights that leave correlations out stay unbiased, and stay stable where the covariance is known from a few seeds only.

    Raises:
        ValueError: shapes that do not go together, numbers that are not finite, columns that are not independent.

    Example:
        >>> fit = least_squares(np.array([[1.0], [1.0]]), np.array([1.0, 3.0]), np.eye(2))
        >>> fit.coefficients.item(), round(fit.errors.item() ** 2, 3), round(fit.chi2, 3), fit.dof
        (2.0, 0.5, 2.0, 1)
    """
    n, p = design.shape
    if np.linalg.matrix_rank(design) < p:
        raise ValueError(f"the {p} columns of the design are not independent at {n} points: fit fewer, or take more points.")
    precision = 1 / np.maximum(np.diagonal(covariance), 1e-300)
    solve = np.linalg.solve((design.T * precision) @ design, design.T * precision)
    coefficients = solve @ y
    left = np.eye(n) - design @ solve
    residual, spread = left @ y, left @ covariance @ left.T
    dof, chi2 = n - p, 0.0
    if dof:
        scale = np.sqrt(precision)
        values, vectors = np.linalg.eigh(spread * np.outer(scale, scale))
        projected = vectors[:, -dof:].T @ (residual * scale)
        chi2 = float(np.sum(projected**2 / np.maximum(values[-dof:], 1e-12)))
    return Fit(coefficients, solve @ covariance @ solve.T, chi2, dof, chance(dof, chi2))


def chance(dof: int, chi2: float) -> float:
    """Of a worse fit if the model holds; 1 where nothing is free."""
    from scipy.special import chdtrc  # imported where used: a third of a second

    return float(chdtrc(dof, chi2)) if dof else 1.0
