"""The best use of compute: for each budget C = k t the number of features and the time of least loss (2402.01092)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from dmft.scaling.laplace import flow
from dmft.scaling.random_features import sizes
from widthwise import Spectrum, check
from widthwise.checked import Extended, Numbers, checked


@dataclass(frozen=True)
class Frontier:
    """Least loss at every budget; prints as a table.

    Attributes:
        compute: (c,) C = num_members k t.
        num_features: (c,) k of least loss, between those tried by a parabola in logarithms.
        times: (c,) t = C / (num_members k).
        test: (c,) the least test error.
        tried: (n,) features tried.
        errors: (n, c) test error of each at C.
        inside: (c,) the best k is not the smallest or largest that was tried.
    """

    compute: Float[np.ndarray, "budgets"]
    num_features: Float[np.ndarray, "budgets"]
    times: Float[np.ndarray, "budgets"]
    test: Float[np.ndarray, "budgets"]
    tried: Float[np.ndarray, "sizes"]
    errors: Float[np.ndarray, "sizes budgets"]
    inside: Any

    @property
    def exponent(self) -> Float[np.ndarray, "budgets"]:
        """(c,) local slope - d log test / d log C along the frontier.

        With lam = k^-b and power = k^-a it tends to (a - 1) / (1 + b) where a - 1 < b, without limits by samples. Larger a:
        docs/scaling/dynamics.md.
        """
        return -np.gradient(np.log(self.test), np.log(self.compute))

    def __str__(self) -> str:
        lines = ["     compute    features        time    test MSE   exponent"]
        for row in zip(self.compute, self.num_features, self.times, self.test, self.exponent, self.inside, strict=True):
            lines.append(" ".join(f"{x:11.4g}" for x in row[:4]) + f"   {row[4]:8.4f}" + ("" if row[5] else "   (edge of k)"))
        return "\n".join(lines)


@checked
def frontier(
    spectrum: Spectrum,
    compute: Numbers,
    num_features: Numbers,
    num_samples: Extended = np.inf,
    *,
    noise: float = 0.0,
    num_members: int = 1,
) -> Frontier:
    """Test error at C = E k t for every budget and number of features, and the best of them.

    Args:
        spectrum: bin it first (`Spectrum.binned`).
        compute: (c,) budgets, at least two, increasing.
        num_features: (n,) numbers of features to try, at least three, increasing.
        num_samples: n.
        noise: standard deviation of noise on the targets.
        num_members: E models of k features each, their outputs averaged, out of the same budget.

    Example:
        >>> spectrum = Spectrum.power_law(1.5, 1.25, 100_000).binned(16)
        >>> best = frontier(spectrum, np.geomspace(1e3, 1e7, 5), np.geomspace(4, 16384, 25))
        >>> best.num_features.round().tolist()
        [91.0, 256.0, 706.0, 1910.0, 5058.0]
    """
    C = check.array("compute", compute, 1, "(c,)")
    k = sizes("num_features", check.array("num_features", num_features, 1, "(n,)"))
    E = check.count("num_members", num_members)
    for name, x, least in (("compute", C, 2), ("num_features", k, 3)):
        if len(x) < least or (x <= 0).any() or (np.diff(x) <= 0).any():
            raise ValueError(f"{name} must be {least} numbers above zero or more, increasing; got {x!r:.80}.")
    found = flow(spectrum, C / (E * k[:, None]), k, num_samples, noise=noise)
    errors = found.ensemble(E)
    best = errors.argmin(0)
    inside = (best > 0) & (best < len(k) - 1)
    middle, column = np.clip(best, 1, len(k) - 2), np.arange(len(C))
    x = np.log(k)
    x0, x1, x2 = (x[middle + i] for i in (-1, 0, 1))
    y0, y1, y2 = (np.log(errors[middle + i, column]) for i in (-1, 0, 1))
    d1, d2 = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    curvature = (d2 - d1) / (x2 - x0)
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = np.where(inside & (curvature > 0), (x0 + x1) / 2 - d1 / (2 * curvature), x[best])
    value = np.where(inside, y0 + (vertex - x0) * (d1 + curvature * (vertex - x1)), np.log(errors[best, column]))
    features = np.exp(vertex)
    return Frontier(C, features, C / (E * features), np.exp(value), k, errors, inside)
