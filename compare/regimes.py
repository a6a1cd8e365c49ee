"""Exponents in the width, step by step: the early 1/N regime apart from a late power law N^-c.

Early in training deviations from infinite width are of order 1/N. Late, the loss of narrow networks exceeds that of wide ones
by N^-c with c of the task and the architecture (2305.18411, 2304.03408, 2402.01092). At every step

    value(N) = offset + a N^-c

is fitted by weighted least squares, c by continuous search: offset 0 for what is a deviation by itself (a variance, a bias);
the limit as a further point, N = infinity, where it is known; a free number where it is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from compare.exponents import NOTHING, Curve, fit
from compare.power_law import WRONG, with_error
from widthwise import check
from widthwise.checked import Numbers, checked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEARCH = -1.0, 4.0
"""Between which exponents c is looked for."""

PerStep: TypeAlias = Float[np.ndarray, "steps"]


@dataclass(frozen=True)
class Regime:
    """An exponent over a window of steps.

    Attributes:
        first, last: steps of the window.
        c, error: mean over its steps of the exponent and of its standard error, as if all steps were one: steps of the same
            networks are not independent. NaN where no step has an exponent.
        p_value: the median over its steps of the goodness of fit; NaN where errors are unknown.
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
        fit = f"steps {self.first} ... {self.last}: N^-({with_error(self.c, self.error)})"
        good = "" if np.isnan(self.p_value) else f", goodness of fit p = {self.p_value:.2g}"
        return fit + good + ": NO POWER LAW" * (self.p_value < WRONG)


@dataclass(frozen=True)
class Regimes:
    """Exponents of a quantity in the width; prints as a table, draws itself with `plot`.

    Attributes:
        steps: (T,)
        widths: (W,)
        c, error: (T,) exponent and standard error (where chi^2 rises by one); NaN where the amplitude is not resolved.
        amplitude: (T,) a.
        limit, limit_error: (T,) the fitted offset, the value at infinite width, and its standard error; None without offset.
        chi2, dof, p_value: (T,) goodness of fit; with dof = 0 the fit says nothing about the law, and p is 1. NaN where errors
            are unknown.
        early, late: Regime of either window.
        departs: the first step from which all later exponents differ from 1 by more than two errors; None if there is none.
    """

    steps: np.ndarray
    widths: tuple[int, ...]
    c: PerStep
    error: PerStep
    amplitude: PerStep
    chi2: PerStep
    dof: int
    p_value: PerStep
    early: Regime
    late: Regime
    departs: int | None
    limit: PerStep | None = None
    limit_error: PerStep | None = None

    def __str__(self) -> str:
        lines = ["   step   exponent c         " + "limit                 " * (self.limit is not None) + "p"]
        for t in np.unique(np.linspace(0, len(self.steps) - 1, 6).round().astype(int)):
            row = with_error(self.c[t], self.error[t]) if np.isfinite(self.c[t]) else "not resolved"
            row = f"{row:16s}   "
            if self.limit is not None and self.limit_error is not None:
                row += f"{with_error(self.limit[t], self.limit_error[t]) if np.isfinite(self.limit[t]) else '-':19s}   "
            lines.append(f"{self.steps[t]:7d}   {row}{'-' if np.isnan(self.p_value[t]) else f'{self.p_value[t]:.2g}'}")
        departs = "does not depart from 1/N for good" if self.departs is None else f"departs from 1/N at step {self.departs}"
        departs = departs if np.isfinite(self.c).any() else "no exponent is resolved: take more seeds"
        lines += [f"early, {self.early}", f"late,  {self.late}", departs]
        if self.early.p_value < WRONG or self.late.p_value < WRONG:
            lines.append(
                'the values are not a power of N within their errors: try limit="fit", or leave out the narrowest widths'
            )
        if np.isfinite(self.c).any() and np.isnan(self.chi2).all():
            lines.append("errors are told by the scatter around the fit, which therefore cannot say how well it fits")
        return "\n".join(lines)

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


@checked
def regimes(
    steps: Any,
    values: Mapping[int, tuple[Numbers, Numbers | None]],
    limit: tuple[Numbers, Numbers | None] | Literal["fit"] | None = None,
    *,
    early: float = 0.1,
    late: float = 0.5,
    least_significance: float = 3.0,
) -> Regimes:
    """Exponents of values(N) in N, step by step, and of the early and the late steps.

    Args:
        steps: (T,) recorded steps.
        values: by width, values (T,) and standard errors (T,), independent between widths: variances, losses of infinite
            ensembles ... None in the place of every error where they are not known: they count as equal parts of the values
            then, and the scatter around the fit tells how large they are. That of few widths tells it badly (Student's t with
            `dof` degrees of freedom).
        limit: the value (T,) and standard error (T,) at infinite width, exact or not; "fit" where it is not known (four widths
            or more test the law then); None where the values are deviations.
        early: the early window is steps up to this fraction of the last one.
        late: the late window is steps from this fraction on.
        least_significance: amplitudes of fewer standard errors have no exponent.

    Raises:
        ValueError: too few widths (two; three with limit="fit"; one more where errors are not known), shapes that differ,
            negative errors, windows that are no fractions.

    Example:
        >>> N, t = np.array([32, 64, 128, 256]), np.arange(11)
        >>> values = {int(n): (np.where(t < 5, 1 / n, n**-0.5), np.full(11, 1e-4)) for n in N}
        >>> result = regimes(t, values)
        >>> round(result.early.c, 2), round(result.late.c, 2), result.departs
        (1.0, 0.5, 5)
    """
    check.array("steps", steps, 1, "(T,)")
    steps = np.asarray(steps)
    free = isinstance(limit, str)
    if free:
        check.choice("limit", limit, ("fit",))
    scatter = isinstance(values, Mapping) and any(isinstance(p, tuple | list) and p[-1] is None for p in values.values())
    least = 2 + free + scatter
    if not isinstance(values, Mapping) or len(values) < least:
        raise ValueError(f"exponents in the width need a dict {{width: (values, errors)}} of {least} widths or more.")
    for name, fraction in (("early", early), ("late", late)):
        if not 0 < fraction < 1:
            raise ValueError(f"{name} is a fraction of the steps, between 0 and 1; got {fraction!r}.")
    widths = sorted(check.count("every width", N) for N in values)
    points = [values[N] for N in widths]
    x = 1 / np.array(widths, dtype=float)
    if limit is not None and not isinstance(limit, str):
        points.append(limit)
        x = np.append(x, 0.0)
    y, error = _numbers(points, scatter, steps.shape)
    offset, least_amplitude = limit is not None, check.at_least_zero("least_significance", least_significance)

    def fitted(at: int) -> Curve:
        if not (np.isfinite(y[:, at]).all() and (error[:, at] >= 0).all()):
            return NOTHING
        return fit(x, y[:, at], error[:, at], offset=offset, search=SEARCH, least=least_amplitude, scatter=scatter)

    curves = [fitted(at) for at in range(len(steps))]
    resolved = np.array([curve.resolved for curve in curves])
    c, spread, amplitude, offsets, offset_error, chi2 = (
        np.where(resolved | (k == 5), [curve[k] for curve in curves], np.nan) for k in range(6)
    )
    dof = len(y) - 2 - offset
    if scatter:
        chi2 = np.full(len(steps), np.nan)
    p_value = np.where(resolved, _p_value(dof, chi2), np.nan)
    first, last = steps[0], steps[-1]
    windows = [steps <= first + early * (last - first), steps >= first + late * (last - first)]
    early_, late_ = (_regime(steps, window, c, spread, p_value) for window in windows)
    limits = (offsets, offset_error) if offset else (None, None)
    return Regimes(
        steps, tuple(widths), c, spread, amplitude, chi2, dof, p_value, early_, late_, _departs(steps, c, spread), *limits
    )


def _numbers(points: list[Any], scatter: bool, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Values and standard errors (points, T); of unknown ones, the values as their scale."""
    if not all(isinstance(p, tuple | list | np.ndarray) and len(p) == 2 for p in points):
        raise ValueError("every width has a pair (values, errors), and so has the limit.")
    if scatter and not all(p[1] is None for p in points):
        raise ValueError("errors are known of all values or of none: pass None in the place of every one, or of none.")
    y = np.array([check.per("values", p[0], shape, "step") for p in points])
    error = np.abs(y) if scatter else np.array([check.per("errors", p[1], shape, "step") for p in points])
    if (error < 0).any():
        raise ValueError(f"standard errors are zero or above, got {error[error < 0][0]:g}.")
    return y, error


def _p_value(dof: int, chi2: np.ndarray) -> np.ndarray:
    from scipy.special import chdtrc  # imported where used: a third of a second

    return chdtrc(dof, chi2) if dof > 0 else np.ones_like(chi2)


def _regime(steps: np.ndarray, window: np.ndarray, c: PerStep, error: PerStep, p_value: PerStep) -> Regime:
    use = window & np.isfinite(c)
    first, last = int(steps[window][0]), int(steps[window][-1])
    if not use.any():
        return Regime(first, last, np.nan, np.nan, np.nan, 0)
    return Regime(first, last, float(c[use].mean()), float(error[use].mean()), float(np.median(p_value[use])), int(use.sum()))


def _departs(steps: np.ndarray, c: PerStep, error: PerStep) -> int | None:
    known = np.flatnonzero(np.isfinite(c))
    near = np.abs(c[known] - 1) <= 2 * error[known]
    after = known[np.flatnonzero(near)[-1] + 1 :] if near.any() else known
    return int(steps[after[0]]) if len(after) else None
