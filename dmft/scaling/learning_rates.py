"""Learning rate against feature-learning strength: where training works, in a model of one datum (2410.04642).

The output of L weights that all start at 1, trained towards y > 0 by gradient descent at rate eta on (f - y)^2 / 2:

    f = (w_1 w_2 ... w_L - 1) / gamma,    w <- w - eta (f - y) w^{L-1} / gamma     (the weights stay equal)

The curvature along the weights is L w^{2(L-1)} / gamma^2, and w^L = 1 + gamma y where f = y. Hence, exactly,

    largest rate    eta = 2 gamma^2 / (L (1 + gamma y)^{2 - 2/L})    -> 2 gamma^2 / L                          (gamma -> 0)
                                                                   -> (2/L) y^{-2 + 2/L} gamma^{2/L}         (gamma -> inf)
    time to leave a share e of y,  t = gamma^2 / L int_0^{log 1/e} ds / (1 + gamma y (1 - exp(-s)))^{2 - 2/L}
                                                                   -> gamma^2 log(1/e) / L                   (gamma -> 0)
                                                                   -> gamma / ((L - 2) y)     (gamma -> inf, L > 2)

so that T steps need eta > t / T: below that line nothing is learned yet, above the first line the solution is unstable. The
wedge between them is open where T is well above gamma^{1 - 2/L} (gamma large). Now and then a step above the largest rate ends
well all the same, as the way leads through flatter places ("catapults").

Here eta is the rate of the weights themselves. `GradientDescent(eta0)` in widthwise counts in units of gamma0^2:
eta = gamma0^2 eta0, so its largest eta0 is flat where features hardly move, and falls as gamma0^{2/L - 2} where they do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from widthwise import check
from widthwise.checked import Numbers, checked

NODES = 400
"""Gauss-Legendre nodes of the integral over time, whose integrand is smooth in log(1 + gamma y s)."""


@dataclass(frozen=True)
class PhasePortrait:
    """Loss after training, over strengths and rates.

    Attributes:
        gamma: (g,) strengths.
        eta: (e,) rates.
        loss: (g, e) (f - y)^2 / 2 after the last step over y^2 / 2; infinite where training diverged.
        steps, depth, target: T, L, y.
    """

    gamma: Float[np.ndarray, "strengths"]
    eta: Float[np.ndarray, "rates"]
    loss: Float[np.ndarray, "strengths rates"]
    steps: int
    depth: int
    target: float

    @checked
    def edges(self, loss: float = 0.01) -> tuple[Float[np.ndarray, "strengths"], Float[np.ndarray, "strengths"]]:
        """Smallest and largest rate on the grid with a loss below this, NaN where there is none."""
        good = self.loss < check.positive("loss", loss)
        first, last = good.argmax(1), good.shape[1] - 1 - good[:, ::-1].argmax(1)
        none = ~good.any(1)
        return np.where(none, np.nan, self.eta[first]), np.where(none, np.nan, self.eta[last])

    def __str__(self) -> str:
        low, high = self.edges()
        theory = largest_rate(self.gamma, self.depth, self.target)
        lines = [
            f"rates with loss below 1% after {self.steps} steps, L = {self.depth}",
            "   gamma      from        to   stable to",
        ]
        rows = zip(self.gamma, low, high, theory, strict=True)
        return "\n".join([*lines, *(f"{g:8.3g}  {a:8.3g}  {b:8.3g}    {t:8.3g}" for g, a, b, t in rows)])


@checked
def largest_rate(gamma: Numbers, depth: int, target: float = 1.0) -> Float[np.ndarray, "strengths"]:
    """2 over the curvature at the solution: above it the solution is unstable.

    Example:
        >>> largest_rate([1e-3, 1e3], depth=2).round(8).tolist()  # gamma^2, gamma / y
        [1e-06, 999.000999]
    """
    g, L, y = _check(gamma, depth, target)
    return 2 * g**2 / (L * (1 + g * y) ** (2 - 2 / L))


@checked
def time_to_learn(gamma: Numbers, depth: int, target: float = 1.0, *, left: float = 0.1) -> Float[np.ndarray, "strengths"]:
    """Time eta T until y - f = left y, under gradient flow; over T it is the smallest useful rate.

    Example:
        >>> (time_to_learn([1e-4], depth=3) * 3 / 1e-8).round(3).tolist()  # log 10
        [2.302]
    """
    g, L, y = _check(gamma, depth, target)
    if not 0 < check.positive("left", left) < 1:
        raise ValueError(f"left must be between 0 and 1, the share of the target that is left; got {left!r}.")
    x, weight = np.polynomial.legendre.leggauss(NODES)
    end = np.log1p(g * y * np.log(1 / left))[:, None]
    v = end * (1 + x) / 2
    s = np.expm1(v) / (g * y)[:, None]
    rate = np.exp(v) / (g * y)[:, None] / (1 + (g * y)[:, None] * -np.expm1(-s)) ** (2 - 2 / L)
    return g**2 / L * ((rate * end / 2) @ weight)


@checked
def phase_portrait(gamma: Numbers, eta: Numbers, depth: int, *, steps: int = 1000, target: float = 1.0) -> PhasePortrait:
    """Train the model for all strengths and rates at once.

    Args:
        gamma: (g,) strengths, above zero.
        eta: (e,) rates, above zero, rising.
        depth: L >= 2.
        steps: T.
        target: y > 0.

    Raises:
        ValueError: a setting out of range, rates that do not rise.

    Example:
        >>> portrait = phase_portrait([0.01], [1e-8, 0.9e-4, 1e-2], depth=2, steps=100)
        >>> (portrait.loss < 0.01).tolist()
        [[False, True, False]]
    """
    g, L, y = _check(gamma, depth, target)
    rates = check.array("eta", eta, 1, "(e,)")
    if (rates <= 0).any() or (np.diff(rates) <= 0).any():
        raise ValueError(f"eta must be above zero and rising, got {rates.tolist()!r:.80}.")
    check.count("steps", steps, most=check.MANY)
    f = train_weights(np.ones((len(g), len(rates))), g[:, None], rates, L, y, steps)
    with np.errstate(over="ignore"):
        loss = np.where(np.isfinite(f), (f / y - 1) ** 2, np.inf)
    return PhasePortrait(g, rates, loss, steps, L, y)


def train_weights(w: Any, gamma: Any, eta: Any, depth: int, target: float, steps: int) -> Any:
    """f after gradient descent from weights that all equal w (equations above); arrays broadcast.

    Example:
        >>> train_weights(1.0, 1.0, 0.25, depth=2, target=1.0, steps=1)  # w = 1.25
        0.5625
    """
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(steps):
            w = w - eta * ((w**depth - 1) / gamma - target) * w ** (depth - 1) / gamma
        return (w**depth - 1) / gamma


def _check(gamma: Any, depth: int, target: float) -> tuple[Float[np.ndarray, "strengths"], int, float]:
    g = check.array("gamma", np.atleast_1d(np.asarray(gamma)), 1, "(g,)")
    if (g <= 0).any():
        raise ValueError(f"gamma must be above zero, got {g.min():g}. The lazy limit is gamma -> 0 at fixed eta / gamma^2.")
    check.count("depth", depth, least=2)
    return g, depth, check.positive("target", target)
