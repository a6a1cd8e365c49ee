"""Linear contrasts of logarithms: the statistics behind `assert_scaling`, for one data set or many at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

GROUP = 16
"""Runs per group of a statistic that is not a mean: over so many, a variance is near enough to normal."""

MOST_GROUPS = 64


@dataclass(frozen=True)
class Logs:
    """log y of points at x, with what is known of its errors; leading axes are data sets.

    Attributes:
        value: (..., n) log y.
        square: (..., n) squared standard errors.
        dof: (..., n) degrees of freedom of those; inf where they are exact.
        weight: (..., n) of the points in a fit. It must not depend on errors that are estimated: fits with estimated weights
            are less certain than they say.
        rows: (..., groups, n) where one run gives all points: its contribution to log y, whose mean is `value`; else None.
        scatter: whether the errors are unknown, and to be told from the scatter of the points around the fit.
    """

    value: Float[np.ndarray, "*sets n"]
    square: Float[np.ndarray, "*sets n"]
    dof: Float[np.ndarray, "*sets n"]
    weight: Float[np.ndarray, "*sets n"]
    rows: Float[np.ndarray, "*sets groups n"] | None = None
    scatter: bool = False

    def first(self, k: int) -> Logs:
        """The Logs of the first k points."""
        rows = None if self.rows is None else self.rows[..., :k]
        return Logs(self.value[..., :k], self.square[..., :k], self.dof[..., :k], self.weight[..., :k], rows, self.scatter)


@dataclass(frozen=True)
class Contrast:
    """A contrast sum_i k_i log y_i against its value under a law: difference, standard error, degrees of freedom."""

    difference: Float[np.ndarray, "*sets"]
    error: Float[np.ndarray, "*sets"]
    dof: Float[np.ndarray, "*sets"]
    slack: Float[np.ndarray, "*sets"]

    @property
    def p_value(self) -> Float[np.ndarray, "*sets"]:
        """Two-sided, Welch's t, of a difference beyond the slack."""
        from scipy.special import stdtr  # imported where used: a third of a second

        beyond = np.maximum(np.abs(self.difference) - self.slack, 0.0)
        exact = self.error < 1e-9  # rounding
        t = beyond / np.where(exact, 1.0, self.error)
        return np.where(exact, np.where(beyond < 1e-8, 1.0, 0.0), 2 * stdtr(self.dof, -t))

    def detectable(self, alpha: float) -> Float[np.ndarray, "*sets"]:
        """The smallest difference that is rejected at level alpha in 99 cases of 100."""
        return self.slack + self.error * (quantile(self.dof, alpha / 2) + quantile(self.dof, 0.01))


def quantile(dof: Any, tail: float) -> Any:
    """What Student's t exceeds with the probability `tail`."""
    from scipy.special import stdtrit

    return -stdtrit(np.minimum(dof, 1e8), tail)


def exact_logs(y: Float[np.ndarray, "*sets n"], error: Float[np.ndarray, "*sets n"]) -> Logs:
    """Logs of values with standard errors that are known."""
    relative = error / y
    return Logs(np.log(y), relative**2, np.full(y.shape, np.inf), np.maximum(relative, 1e-12) ** -2.0)


def estimated_logs(y: Float[np.ndarray, "*sets n"], error: Float[np.ndarray, "*sets n"], num: Float[np.ndarray, "n"]) -> Logs:
    """Logs of means with standard errors told from `num` runs."""
    return Logs(np.log(y), (error / y) ** 2, np.broadcast_to(num - 1.0, y.shape), np.broadcast_to(1.0 * num, y.shape))


def unknown_logs(y: Float[np.ndarray, "*sets n"]) -> Logs:
    """Logs of values without errors: alike and independent in log y, they are told from the scatter around the fit."""
    ones = np.ones(y.shape)
    return Logs(np.log(y), ones, ones, ones, scatter=True)


def jackknife(
    samples: Float[np.ndarray, "*sets runs n *entries"], statistic: Callable[[np.ndarray], np.ndarray], group: int
) -> Float[np.ndarray, "*sets groups n"]:
    """Pseudo-values of log statistic over groups of runs: G log T - (G - 1) log T(without the group); nan where T <= 0.

    Their mean is log T without its bias of order 1/runs; their scatter is its error.

    Args:
        samples: runs on the axis 0.
        statistic: (runs, n, ...) -> (n,).
        group: runs per group; what does not fill a group is left out.
    """
    groups = len(samples) // group
    kept = samples[: groups * group]
    parts = np.arange(groups * group) // group
    with np.errstate(invalid="ignore", divide="ignore"):
        whole = np.log(statistic(kept))
        without = np.stack([np.log(statistic(kept[parts != g])) for g in range(groups)])
    return groups * whole - (groups - 1) * without


def group_size(runs: int, least: int) -> int:
    """Runs per group of a jackknife: at least so many, and more where there would be more than `MOST_GROUPS` groups."""
    return max(least, runs // MOST_GROUPS)


def logs_of_rows(pseudo: Float[np.ndarray, "*sets groups n"]) -> Logs:
    """Logs from runs that give all points each."""
    groups = pseudo.shape[-2]
    value = pseudo.mean(-2)
    square = pseudo.var(-2, ddof=1) / groups
    return Logs(value, square, np.full(value.shape, groups - 1.0), np.ones(value.shape), pseudo)


def logs_of_columns(pseudo: Sequence[Float[np.ndarray, "*sets groups"]], runs: Sequence[int]) -> Logs:
    """Logs from independent runs at every point, weighted by their number."""
    value = np.stack([p.mean(-1) for p in pseudo], -1)
    square = np.stack([p.var(-1, ddof=1) / p.shape[-1] for p in pseudo], -1)
    dof = np.array([p.shape[-1] - 1.0 for p in pseudo])
    return Logs(value, square, np.broadcast_to(dof, value.shape), np.broadcast_to(np.array(runs, float), value.shape))


# --- the tests -------------------------------------------------------------------------------------------------------------


def next_order(logs: Logs, x: Float[np.ndarray, "n"], exponent: float) -> Float[np.ndarray, "*sets 1"]:
    """d of y = c x^exponent (1 + d / x): least squares in log y by Gauss and Newton, with 1 + d / x kept above 1/10."""
    d = np.zeros((*logs.value.shape[:-1], 1))
    for _ in range(20):
        columns = np.stack([np.ones(logs.value.shape), 1 / (x + d)], -1)
        residual = logs.value - exponent * np.log(x) - np.log1p(d / x)
        step = (_solve(columns, logs.weight) @ residual[..., None])[..., 1, :]
        d = np.clip(d + step, -0.9 * x.min(), 10 * x.max())
    return d


def slope_test(logs: Logs, x: Float[np.ndarray, "n"], exponent: float, tolerance: float, corrections: bool) -> Contrast:
    """The exponent of a fit minus the one of the law; with what is of next order left free, if asked."""
    columns, residual = _law(logs, x, exponent, corrections)
    u = np.log(x)
    full = np.concatenate([columns, np.broadcast_to((u - u.mean())[:, None], (*columns.shape[:-1], 1))], -1)
    solve = _solve(full, logs.weight)
    lost = residual - (full @ (solve @ residual[..., None]))[..., 0]
    return _test(logs, solve[..., -1, :], residual, lost, full.shape[-1], np.asarray(tolerance, float))


def point_tests(logs: Logs, x: Float[np.ndarray, "n"], exponent: float, tolerance: float, corrections: bool) -> list[Contrast]:
    """log of every point minus that of the law through the others; none where they are too few, or errors are unknown."""
    n = len(x)
    columns, residual = _law(logs, x, exponent, corrections)
    if logs.scatter or n < columns.shape[-1] + 2:
        return []
    tests = []
    for i in range(n):
        others = np.arange(n) != i
        k = np.zeros(logs.value.shape)
        k[..., i] = 1.0
        solve = _solve(columns[..., others, :], logs.weight[..., others])
        k[..., others] = -(columns[..., i, None, :] @ solve)[..., 0, :]
        tests.append(_test(logs, k, residual, residual, 0, tolerance * np.abs(k @ np.log(x))))
    return tests


def combined(slope: Contrast, points: list[Contrast]) -> Float[np.ndarray, "*sets"]:
    """Chance that any of them is as far off, if the law holds: half for the slope, half for the points (Bonferroni).

    Where there are no tests of points their half is left as a reserve, for logarithms that are not quite normal.
    """
    worst = np.min([len(points) * test.p_value for test in points], axis=0) if points else 1.0
    return np.minimum(1.0, 2 * np.minimum(slope.p_value, worst))


def slope_level(alpha: float) -> float:
    """The level of the test of the slope among those that `combined` takes together."""
    return alpha / 2


def _law(logs: Logs, x: Float[np.ndarray, "n"], exponent: float, corrections: bool) -> tuple[np.ndarray, np.ndarray]:
    """Columns of what the law leaves free (..., n, 1 or 2), and log y without the rest."""
    ones = np.ones((*logs.value.shape, 1))
    residual = logs.value - exponent * np.log(x)
    if not corrections:
        return ones, residual
    d = next_order(logs, x, exponent)
    tangent = 1 / (x + d)
    return np.concatenate([ones, (tangent / tangent.mean(-1, keepdims=True) - 1)[..., None]], -1), residual - np.log1p(d / x)


def _solve(columns: Float[np.ndarray, "*sets n p"], weight: Float[np.ndarray, "*sets n"]) -> Float[np.ndarray, "*sets p n"]:
    """(A^T W A)^-1 A^T W"""
    root = np.sqrt(weight / weight.max(-1, keepdims=True))[..., None]
    return np.linalg.pinv(columns * root, rcond=1e-12) * np.swapaxes(root, -1, -2)


def _test(logs: Logs, k: np.ndarray, residual: np.ndarray, lost: np.ndarray, fitted: int, slack: np.ndarray) -> Contrast:
    difference = np.sum(k * residual, -1)
    if logs.rows is not None:
        along = np.sum(k[..., None, :] * (logs.rows - logs.value[..., None, :]), -1)
        groups = along.shape[-1]
        square, dof = along.var(-1, ddof=1) / groups, np.full(difference.shape, groups - 1.0)
    elif logs.scatter:
        dof = np.full(difference.shape, logs.value.shape[-1] - float(fitted))
        square = np.sum(lost**2, -1) / dof * np.sum(k**2, -1)
    else:
        parts = k**2 * logs.square
        square = parts.sum(-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            dof = np.where(square > 0, square**2 / np.sum(parts**2 / logs.dof, -1), np.inf)
    return Contrast(difference, np.sqrt(square), dof, np.broadcast_to(slack, difference.shape))
