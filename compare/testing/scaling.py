"""Does y follow a power of x? At a stated rate of false alarms, and only where a wrong power would be seen."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from compare.testing import contrasts
from compare.testing.contrasts import GROUP, Contrast, Logs
from compare.testing.verdict import ALPHA, CannotTell, draw, fail, more_of
from widthwise import check
from widthwise.checked import Numbers, checked

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LARGEST_ERROR = 0.15
"""Largest relative error of a point: beyond it the logarithm is no longer near to normal."""
FEWEST_GROUPS = 4

Statistic = Literal["mean", "variance"] | Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Scaling:
    """What `assert_scaling` measured.

    Attributes:
        exponent, error: of the fit, and its standard error.
        p_value: chance of a deviation as large if the law holds.
        detectable: the deviation of the exponent that would have been seen in 99 cases of 100.
    """

    exponent: float
    error: float
    p_value: float
    detectable: float

    def __str__(self) -> str:
        return (
            f"exponent {self.exponent:+.3f} +- {self.error:.2g}   p = {self.p_value:.2g}"
            f"   a deviation of {self.detectable:.2g} would have been seen"
        )


@checked
def assert_scaling(
    x: Numbers,
    y: Numbers | None = None,
    exponent: float = -1.0,
    *,
    y_error: Numbers | None = None,
    num_seeds: Numbers | None = None,
    samples: Any = None,
    statistic: Statistic = "mean",
    corrections: bool = False,
    tolerance: float = 0.0,
    detect: float = 0.3,
    alpha: float = ALPHA,
    plot: str | os.PathLike[str] | None = None,
) -> Scaling:
    """Check that y = c x^exponent, from values with errors or from single runs; silent where it holds.

    Two tests share the level alpha (Bonferroni): of the slope of log y in log x, and of every point against the law through
    the others. Estimated errors are paid for by Student's t with Welch's degrees of freedom, and the fit weights points by
    what is known of them beforehand. A law that holds fails with probability alpha at most; an exponent off by `detect` passes
    with probability 0.01 at most, for where it could pass more often, the check refuses.

    Args:
        x: (n,) positive, different.
        y: (n,) positive; left out where `samples` are given.
        exponent: the power that is claimed.
        y_error: (n,) independent standard errors of y. Without these and without samples, errors are told from the scatter
            around the fit: alike and independent in log y (0.0 says that y is exact).
        num_seeds: of how many runs y_error is the standard error, a number or (n,); without it y_error counts as known.
        samples: (runs, n), each run giving all points (which may depend on each other); or a list of n arrays, independent
            runs at every x, of shape (runs_i,) or (runs_i, entries).
        statistic: y of samples: "mean"; "variance" over runs, unbiased; or a function (runs, ...) -> (...), over the axis 0.
            Entries are averaged after it. Its error is by jackknife, over groups of at
            least 16 runs (single ones for "mean"), 64 groups at most.
        corrections: y = c x^exponent (1 + d / x), d free.
        tolerance: deviations of the exponent up to this are accepted.
        detect: the deviation of the exponent that must be seen.
        alpha: rate of false alarms. In a property test of k examples take alpha / k.
        plot: a file to draw data and law into, whatever the verdict.

    Raises:
        AssertionError: the law does not hold; says the smallest range of x in which it fails, and the point furthest off.
        CannotTell: an exponent off by `detect` would pass too often, or a point has an error beyond 15 %.
        ValueError: arguments that do not make sense.

    Example:
        >>> print(assert_scaling([1, 2, 4], [3.0, 1.52, 0.74], y_error=[0.06, 0.03, 0.015]))
        exponent -1.010 +- 0.021   p = 1   a deviation of 0.13 would have been seen
        >>> assert_scaling([1, 2, 4], [3.0, 1.5, 0.75], -0.5, y_error=[0.06, 0.03, 0.015])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        AssertionError: y ~ x^-0.5 is rejected: exponent -1.000 +- 0.02, p = ...
        It fails already on the 2 smallest x, 1 ... 2: exponent -1.000 +- 0.041.
        Furthest off is x = 1: y = 3 +- 0.06, where the law through the others has 1.784.
        ...
    """
    x, order = _positions(x)
    exponent, tolerance = float(exponent), check.at_least_zero("tolerance", tolerance)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha, the rate of false alarms, must lie between 0 and 1, got {alpha!r}.")
    if check.positive("detect", detect) <= tolerance:
        raise ValueError(f"detect must be above tolerance, got {detect:g} and {tolerance:g}: what is accepted is not seen.")
    check.flag("corrections", corrections)
    given = [name for name, value in (("y", y), ("samples", samples)) if value is not None]
    if len(given) != 1:
        raise ValueError(f"pass y, or samples: one of the two; got {' and '.join(given) or 'neither'}.")
    if samples is not None:
        if y_error is not None or num_seeds is not None:
            raise ValueError("samples bring their own errors: leave y_error and num_seeds out.")
        logs = _of_samples(samples, statistic, x, order)
    else:
        logs = _of_values(np.asarray(y, dtype=float), y_error, num_seeds, x, order)
    need = 3 + corrections if logs.scatter else 2 + corrections
    if len(x) < need:
        raise CannotTell(
            f"{len(x)} points are too few: a slope{' and a correction' * corrections}"
            f"{' without errors of y' * logs.scatter} need {need} different x at least."
        )
    slope, points = judge(logs, x, exponent, tolerance, corrections)
    p_value, level = float(contrasts.combined(slope, points)), contrasts.slope_level(alpha)
    seen = Scaling(exponent + float(slope.difference), float(slope.error), p_value, float(slope.detectable(level)))
    draw(plot, lambda ax: _paint(ax, logs, x, exponent, seen))
    if p_value < alpha:
        fail(*_counterexample(logs, x, exponent, tolerance, corrections, alpha, seen))
    if not seen.detectable <= detect:
        cure = _cure(logs, seen, detect, tolerance)
        raise CannotTell(
            f"cannot tell: the exponent is {seen.exponent:.3g} +- {seen.error:.2g}, and one off by less than "
            f"{seen.detectable:.2g} may pass; that should be {detect:g} at most. Take {cure}, or a wider range of x."
        )
    return seen


def judge(
    logs: Logs, x: Float[np.ndarray, "n"], exponent: float, tolerance: float = 0.0, corrections: bool = False
) -> tuple[Contrast, list[Contrast]]:
    """The test of the slope and those of the points, of one data set or of many (leading axes)."""
    return (
        contrasts.slope_test(logs, x, exponent, tolerance, corrections),
        contrasts.point_tests(logs, x, exponent, tolerance, corrections),
    )


# --- what comes in ---------------------------------------------------------------------------------------------------------


def _positions(x: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x = check.array("x", x, 1, "(n,)")
    if (x <= 0).any() or len(np.unique(x)) < len(x):
        raise ValueError(f"x must be positive and different (average what is measured at one x), got {x.tolist()}.")
    order = np.argsort(x)
    return x[order], order


def _of_values(y: np.ndarray, y_error: Any, num_seeds: Any, x: np.ndarray, order: np.ndarray) -> Logs:
    if y.shape != x.shape:
        raise ValueError(f"y must have one value per x, shape {x.shape}; got {y.shape}.")
    y = y[order]
    if not (np.isfinite(y) & (y > 0)).all():
        bad = int(np.argmin(np.isfinite(y) & (y > 0)))
        raise CannotTell(f"y must be above zero to follow a power law; at x = {x[bad]:g} it is {y[bad]:.3g}.")
    if y_error is None:
        if num_seeds is not None:
            raise ValueError("num_seeds says what y_error is told from: pass y_error too.")
        return contrasts.unknown_logs(y)
    error = check.per("y_error", y_error, x.shape, "x")[order]
    if not (error >= 0).all():
        raise ValueError(f"y_error must be zero or above, got {error.tolist()}.")
    if num_seeds is None:
        return _resolved(contrasts.exact_logs(y, error), x)
    num = check.per("num_seeds", num_seeds, x.shape, "x")[order]
    if not np.isfinite(num).all():
        raise ValueError(f"num_seeds must be finite, got {num.tolist()}. Leave it out where y_error is known exactly.")
    if not (num >= 2).all():
        raise CannotTell(f"a standard error needs two seeds or more at every x, got num_seeds {num.tolist()}.")
    return _resolved(contrasts.estimated_logs(y, error, num), x)


def _of_samples(samples: Any, statistic: Statistic, x: np.ndarray, order: np.ndarray) -> Logs:
    function, group = _statistic(statistic)
    together = isinstance(samples, np.ndarray)
    runs = [check.numbers("samples", r) for r in ([samples] if together else check.sequence("samples", samples))]
    if any(r.ndim < 1 for r in runs):
        raise ValueError("samples must be an array (runs, n) or a list of n arrays of runs, got a list of numbers.")
    if (runs[0].ndim < 2 or runs[0].shape[1] != len(x)) if together else len(runs) != len(x):
        got = runs[0].shape if together else f"{len(runs)} arrays"
        raise ValueError(f"samples must be an array (runs, n) or a list of n arrays, n = {len(x)} as x; got {got}.")
    fewest = min(len(r) for r in runs) // group
    if fewest < FEWEST_GROUPS:
        raise CannotTell(
            f"too few runs to know their error: {FEWEST_GROUPS * group} at every x are needed at least"
            f"{' (four groups of 16, but for means)' * (group > 1)}, got {min(len(r) for r in runs)}."
        )

    def size(samples: np.ndarray) -> int:
        return contrasts.group_size(len(samples), group)

    if together:
        logs = contrasts.logs_of_rows(contrasts.jackknife(runs[0][:, order], lambda s: _entries(function(s), 1), size(runs[0])))
    else:
        pseudo = [contrasts.jackknife(runs[i], lambda s: _entries(function(s), 0), size(runs[i])) for i in order]
        logs = contrasts.logs_of_columns(pseudo, [len(runs[i]) for i in order])
    if not np.isfinite(logs.value).all():
        bad = int(np.argmin(np.isfinite(logs.value)))
        raise CannotTell(f"the {_name(statistic)} of the samples at x = {x[bad]:g} is not above zero, or not resolved from it.")
    return _resolved(logs, x)


def _entries(y: np.ndarray, keep: int) -> np.ndarray:
    return y.reshape(*y.shape[:keep], -1).mean(-1)


def _statistic(statistic: Statistic) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    if callable(statistic):
        return statistic, GROUP
    check.choice("statistic", statistic, ("mean", "variance"))
    return (lambda s: s.mean(0), 1) if statistic == "mean" else (lambda s: s.var(0, ddof=1), GROUP)


def _name(statistic: Statistic) -> str:
    return getattr(statistic, "__name__", "statistic") if callable(statistic) else statistic


def _resolved(logs: Logs, x: np.ndarray) -> Logs:
    """`logs`, if every point is known well enough to take its logarithm."""
    relative = np.sqrt(logs.square)
    worst = int(relative.argmax())
    if relative[worst] > LARGEST_ERROR:
        raise CannotTell(
            f"cannot tell: y at x = {x[worst]:g} has an error of {relative[worst]:.0%}; {LARGEST_ERROR:.0%} is the most that a "
            f"logarithm bears. Take {more_of('seeds', (relative[worst] / LARGEST_ERROR) ** 2)}, or leave that x out."
        )
    return logs


# --- what goes out ---------------------------------------------------------------------------------------------------------


def _cure(logs: Logs, seen: Scaling, detect: float, tolerance: float) -> str:
    factor = ((seen.detectable - tolerance) / (detect - tolerance)) ** 2
    return "more points" if logs.scatter else more_of("seeds", factor) + " (smaller errors of y)"


def _counterexample(
    logs: Logs, x: np.ndarray, exponent: float, tolerance: float, corrections: bool, alpha: float, seen: Scaling
) -> list[str]:
    lines = [
        f"y ~ x^{exponent:g}{' (1 + d / x)' * corrections} is rejected: exponent {seen.exponent:.3f} +- {seen.error:.2g}, "
        f"p = {seen.p_value:.2g}, level {alpha:g}."
    ]
    for k in range(2 + corrections + logs.scatter, len(x)):
        slope, points = judge(logs.first(k), x[:k], exponent, tolerance, corrections)
        if contrasts.combined(slope, points) < alpha:
            lines.append(
                f"It fails already on the {k} smallest x, {x[0]:g} ... {x[k - 1]:g}: "
                f"exponent {exponent + float(slope.difference):.3f} +- {float(slope.error):.2g}."
            )
            break
    else:
        lines.append(f"It takes all {len(x)} points, up to x = {x[-1]:g}, to see it.")
    points = contrasts.point_tests(logs, x, exponent, tolerance, corrections)
    y, error = np.exp(logs.value), np.exp(logs.value) * np.sqrt(logs.square)
    if points:
        i = int(np.argmin([float(test.p_value) for test in points]))
        law = y[i] * np.exp(-float(points[i].difference))
        lines.append(
            f"Furthest off is x = {x[i]:g}: y = {y[i]:.4g} +- {error[i]:.2g}, where the law through the others has {law:.4g}."
        )
    shown = [f"  x = {x[i]:<8g} y = {y[i]:.4g}" + f" +- {error[i]:.2g}" * (not logs.scatter) for i in range(len(x))]
    return lines + shown


def _paint(ax: Axes, logs: Logs, x: np.ndarray, exponent: float, seen: Scaling) -> None:
    y = np.exp(logs.value)
    error = None if logs.scatter else y * np.sqrt(logs.square)
    c = np.exp(np.average(logs.value - exponent * np.log(x), weights=logs.weight))
    ax.errorbar(x, y, error, fmt="o", color="black", markersize=4, label=f"exponent {seen.exponent:.3f} ± {seen.error:.2g}")
    ax.plot(x, c * x**exponent, color="tab:red", label=f"c x^{exponent:g},  p = {seen.p_value:.2g}")
    ax.set(xscale="log", yscale="log", xlabel="x", ylabel="y")
    ax.legend(frameon=False)
