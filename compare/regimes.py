"""Exponents in the width, step by step: the early 1/N regime apart from a late power law N^-c.

Early in training deviations from infinite width are of order 1/N. Late, the loss of narrow networks exceeds that of wide ones
by N^-c with c of the task and the architecture (2305.18411, 2304.03408, 2402.01092). At every step

    value(N) = offset + a N^-c

is fitted by weighted least squares: offset 0 for what is a deviation by itself (a variance, a bias); the limit as a further
point, N = infinity, where it is known; a free number where it is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from widthwise import check

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GRID = np.linspace(-1.0, 4.0, 501)
"""Exponents c that are tried."""

Numbers: TypeAlias = Float[np.ndarray, "steps"]


@dataclass(frozen=True)
class Regime:
    """An exponent over a window of steps.

    Attributes:
        first, last: steps of the window.
        c, error: mean over its steps of the exponent and of its standard error, as if all steps were one: steps of the same
            networks are not independent. NaN where no step has an exponent.
        p_value: the median over its steps of the goodness of fit.
        num_steps: of the window that have an exponent.
    """

    first: int
    last: int
    c: float
    error: float
    p_value: float
    num_steps: int

    def __str__(self) -> str:
        if not self.num_steps:
            return f"steps {self.first} ... {self.last}: not resolved"
        return (
            f"steps {self.first} ... {self.last}: N^-({self.c:.2f} +- {self.error:.2f}), goodness of fit p = {self.p_value:.2g}"
        )


@dataclass(frozen=True)
class Regimes:
    """Exponents of a quantity in the width; prints as a table, draws itself with `plot`.

    Attributes:
        steps: (T,)
        widths: (W,)
        c, error: (T,) exponent and standard error (where chi^2 rises by one); NaN where the amplitude is not resolved.
        amplitude: (T,) a.
        chi2, dof, p_value: (T,) goodness of fit; with dof = 0 the fit says nothing about the law, and p is 1.
        early, late: Regime of either window.
        departs: the first step from which all later exponents differ from 1 by more than two errors; None if there is none.
    """

    steps: np.ndarray
    widths: tuple[int, ...]
    c: Numbers
    error: Numbers
    amplitude: Numbers
    chi2: Numbers
    dof: int
    p_value: Numbers
    early: Regime
    late: Regime
    departs: int | None

    def __str__(self) -> str:
        lines = ["   step   exponent c         p"]
        for t in np.unique(np.linspace(0, len(self.steps) - 1, 6).round().astype(int)):
            fit = f"{self.c[t]:.2f} +- {self.error[t]:.2f}" if np.isfinite(self.c[t]) else "not resolved"
            lines.append(f"{self.steps[t]:7d}   {fit:16s}   {self.p_value[t]:.2g}")
        departs = "does not depart from 1/N for good" if self.departs is None else f"departs from 1/N at step {self.departs}"
        departs = departs if np.isfinite(self.c).any() else "no exponent is resolved: take more seeds"
        return "\n".join([*lines, f"early, {self.early}", f"late,  {self.late}", departs])

    def plot(self) -> Figure:
        """The exponent against the step, windows shaded."""
        import matplotlib.pyplot as plt

        figure, ax = plt.subplots(figsize=(5.6, 3.8), layout="constrained")
        ax.errorbar(self.steps, self.c, self.error, color="black", marker="o", markersize=3)
        ax.axhline(1, color="grey", lw=0.8)
        for regime, colour in ((self.early, "C0"), (self.late, "C1")):
            ax.axvspan(regime.first, regime.last, color=colour, alpha=0.15)
        ax.set(xlabel="step", ylabel="c of N^-c")
        return figure


def regimes(
    steps: Any,
    values: Mapping[int, tuple[Any, Any]],
    limit: tuple[Any, Any] | Literal["fit"] | None = None,
    *,
    early: float = 0.1,
    late: float = 0.5,
    least_significance: float = 3.0,
) -> Regimes:
    """Exponents of values(N) in N, step by step, and of the early and the late steps.

    Args:
        steps: (T,) recorded steps.
        values: by width, values (T,) and standard errors (T,), independent between widths: variances, losses of infinite
            ensembles ...
        limit: the value (T,) and standard error (T,) at infinite width, exact or not; "fit" where it is not known (four widths
            or more test the law then); None where the values are deviations.
        early: the early window is steps up to this fraction of the last one.
        late: the late window is steps from this fraction on.
        least_significance: amplitudes of fewer standard errors have no exponent.

    Raises:
        ValueError: too few widths (two; three with limit="fit"), shapes that differ, windows that are no fractions.

    Example:
        >>> N, t = np.array([32, 64, 128, 256]), np.arange(11)
        >>> values = {int(n): (np.where(t < 5, 1 / n, n**-0.5), np.full(11, 1e-4)) for n in N}
        >>> result = regimes(t, values)
        >>> round(result.early.c, 2), round(result.late.c, 2), result.departs
        (1.0, 0.5, 5)
    """
    steps = np.asarray(steps)
    free = isinstance(limit, str)
    if free:
        check.choice("limit", limit, ("fit",))
    least = 3 if free else 2
    if not isinstance(values, Mapping) or len(values) < least:
        raise ValueError(f"exponents in the width need a dict {{width: (values, errors)}} of {least} widths or more.")
    for name, fraction in (("early", early), ("late", late)):
        if not 0 < fraction < 1:
            raise ValueError(f"{name} is a fraction of the steps, between 0 and 1; got {fraction!r}.")
    widths = sorted(check.count("every width", N) for N in values)
    points = [values[N] for N in widths]
    if limit is not None and not isinstance(limit, str):
        points.append(limit)
    y, error = (np.array([np.broadcast_to(np.asarray(p[k], float), steps.shape) for p in points]) for k in (0, 1))
    inverse = 1 / np.array(widths, dtype=float)
    c, spread, amplitude, chi2, resolved = _profile(inverse, y, error, offset=limit is not None, least=least_significance)
    c, spread, amplitude = (np.where(resolved, x, np.nan) for x in (c, spread, amplitude))
    dof = len(y) - (3 if limit is not None else 2)
    p_value = np.where(resolved, _p_value(dof, chi2), np.nan)
    first, last = steps[0], steps[-1]
    windows = [steps <= first + early * (last - first), steps >= first + late * (last - first)]
    found = [_regime(steps, window, c, spread, p_value) for window in windows]
    return Regimes(
        steps, tuple(widths), c, spread, amplitude, chi2, dof, p_value, found[0], found[1], _departs(steps, c, spread)
    )


def _profile(inverse: np.ndarray, y: np.ndarray, error: np.ndarray, *, offset: bool, least: float) -> tuple[np.ndarray, ...]:
    """(T,) c of least chi^2, half width of the interval where chi^2 rises by one, a, chi^2, whether a is resolved."""
    weight = 1 / np.maximum(error, 1e-12 * np.abs(y).max() + 1e-300) ** 2
    T = y.shape[1]
    chi2, amplitude, significance = (np.empty((len(GRID), T)) for _ in range(3))
    for k, c in enumerate(GRID):
        x = np.zeros((len(y), 1))
        x[: len(inverse), 0] = (inverse / inverse.max()) ** c
        total = weight.sum(0)
        mx, my = ((weight * x).sum(0) / total, (weight * y).sum(0) / total) if offset else (np.zeros(T), np.zeros(T))
        xx, xy = (weight * (x - mx) ** 2).sum(0), (weight * (x - mx) * (y - my)).sum(0)
        a = np.divide(xy, xx, out=np.zeros(T), where=xx > 1e-12 * total)
        chi2[k] = (weight * (y - my - a * (x - mx)) ** 2).sum(0)
        amplitude[k], significance[k] = a, np.abs(a) * np.sqrt(xx)
    best, at = chi2.argmin(0), np.arange(T)
    least_chi2 = chi2[best, at]
    inside = chi2 <= least_chi2 + 1
    low, high = inside.argmax(0), len(GRID) - 1 - inside[::-1].argmax(0)
    edge = (low == 0) | (high == len(GRID) - 1)
    half = np.maximum((GRID[high] - GRID[low]) / 2, (GRID[1] - GRID[0]) / 2)
    resolved = (significance[best, at] > least) & ~edge
    return GRID[best], half, amplitude[best, at] * inverse.max() ** -GRID[best], least_chi2, resolved


def _p_value(dof: int, chi2: np.ndarray) -> np.ndarray:
    from scipy.special import chdtrc  # imported where used: a third of a second

    return chdtrc(dof, chi2) if dof > 0 else np.ones_like(chi2)


def _regime(steps: np.ndarray, window: np.ndarray, c: Numbers, error: Numbers, p_value: Numbers) -> Regime:
    use = window & np.isfinite(c)
    first, last = int(steps[window][0]), int(steps[window][-1])
    if not use.any():
        return Regime(first, last, np.nan, np.nan, np.nan, 0)
    return Regime(first, last, float(c[use].mean()), float(error[use].mean()), float(np.median(p_value[use])), int(use.sum()))


def _departs(steps: np.ndarray, c: Numbers, error: Numbers) -> int | None:
    known = np.flatnonzero(np.isfinite(c))
    near = np.abs(c[known] - 1) <= 2 * error[known]
    after = known[np.flatnonzero(near)[-1] + 1 :] if near.any() else known
    return int(steps[after[0]]) if len(after) else None
