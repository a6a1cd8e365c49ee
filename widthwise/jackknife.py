"""The jackknife: error and bias of what is computed from a mean over runs, whatever is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float


class Jackknife(NamedTuple):
    """Value at the mean over n runs, its standard error, and the value with the bias of order 1/n taken out.

    The error is zero for n = 0 (nothing was sampled) and infinite for n = 1, where `unbiased` is the value.
    """

    value: Any
    error: Any
    unbiased: Any


def jackknife(function: Callable[[Float[np.ndarray, "runs"]], Any], n: int) -> Jackknife:
    """Leave-one-out error of F(weighted mean of n runs) (Quenouille, Tukey).

        error^2 = (n - 1) / n sum_i (F_i - mean F_i)^2        unbiased = n F - (n - 1) mean F_i,   F_i without run i

    `unbiased` is exact for F linear or quadratic in the mean: the value for infinitely many runs.

    Args:
        function: takes weights (n,) of the runs, which sum to one, and gives an array.
        n: number of runs.

    Example:
        >>> runs = np.array([1.0, 2.0, 4.0, 5.0])
        >>> [round(float(x), 12) for x in jackknife(lambda w: w @ runs, 4)]  # mean, standard error, mean
        [3.0, 0.912870929175, 3.0]
        >>> round(float(jackknife(lambda w: (w @ runs) ** 2, 4).unbiased), 12)  # 3^2 - Var / 4
        8.166666666667
    """
    if n == 0:
        value = np.asarray(function(np.ones(0)))
        return Jackknife(value, np.zeros_like(value), value)
    value = np.asarray(function(np.full(n, 1 / n)))
    if n == 1:
        return Jackknife(value, np.full_like(value, np.inf), value)
    without = np.array([function((np.arange(n) != i) / (n - 1)) for i in range(n)])
    error = np.sqrt((n - 1) * without.var(0))
    return Jackknife(value, error, n * value - (n - 1) * without.mean(0))
