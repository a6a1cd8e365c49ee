"""Random features that learn: how it changes the exponents of scaling laws (2409.17858).

Two-layer linear networks f = w . A psi / k whose features move by the projected rule

    w(t+1) = w + eta A g        A(t+1) = A + eta gamma w (g . A(0)^T A(0) / k)        g = mean over samples of (y - f) psi

from w(0) = 0 and A(0) of independent standard normals; gamma = 0 is `dmft.scaling.train`.

At k = n = inf and small eta the predictor p = w* - v0 obeys, mode by mode, with rich = 1 + gamma q, q = |w|^2 / k,

    dv0_k/dt = -rich lam_k v0_k - c p_k        c = gamma sum_j lam_j v0_j p_j / rich
    q = (sqrt(1 + 4 gamma |p|^2) - 1) / (2 gamma)

(from A A^T conserving I + gamma w w^T), whence for tasks outside the kernel's space, beta = (a - 1) / b < 1, the loss falls as
t^-chi with chi = 2 beta / (1 + beta), and beyond as the kernel's, chi = beta.

At finite k and n, `train_features` solves the causal equations of `dmft.scaling.dynamics` with B made self-consistent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dmft.scaling.dynamics import impulse_response, setting, solvable, solve
from dmft.scaling.errors import Errors
from dmft.scaling.laplace import increasing
from dmft.scaling.random_features import Modes
from widthwise import GradientDescent, Spectrum, check
from widthwise.checked import Extended, Numbers, checked

START = 1e-3
"""Where steps in log time begin, over the time scale 1 / lam_1 of the fastest mode."""


@dataclass(frozen=True)
class FeatureFlow:
    """Gradient flow with feature learning, without limits by features and samples.

    Attributes:
        times: (T,).
        loss: (T,) test error <(f - y)^2>, noise-free.
        norm: (T,) q = |w|^2 / k.
        residual: (T, entries) v0_k / w*_k of every entry of the spectrum.
    """

    times: Float[np.ndarray, "times"]
    loss: Float[np.ndarray, "times"]
    norm: Float[np.ndarray, "times"]
    residual: Float[np.ndarray, "times entries"]

    @checked
    def exponent(self, start: float, stop: float) -> float:
        """chi: minus the slope of log loss in log t over the times from `start` to `stop`, by least squares.

        Raises:
            ValueError: fewer than two of the times lie there.
        """
        used = (self.times >= start) & (self.times <= stop)
        if used.sum() < 2:
            raise ValueError(f"only {used.sum()} of the times lie between {start:g} and {stop:g}: ask for more of them.")
        return -float(np.polyfit(np.log(self.times[used]), np.log(self.loss[used]), 1)[0])


@checked
def feature_flow(spectrum: Spectrum, times: Numbers, gamma: float, *, per_decade: int = 80) -> FeatureFlow:
    """The closed equations of the modes above, integrated in log time.

    A step holds rich and c at the mean of their values at its ends (two rounds), and is then exact in every mode: second order,
    whatever the eigenvalues. Modes left out of the spectrum are never learned.

    Args:
        spectrum: with the target; bin it.
        times: (T,) above zero, increasing.
        gamma: strength of feature learning; 0 is the kernel.
        per_decade: steps per factor of ten in time; errors fall with its square (1e-4 of the loss at 80).

    Example:
        >>> spectrum = Spectrum.power_law(1.75, 1.5, 100_000).binned()  # beta = 1/2
        >>> times = np.geomspace(100, 1000, 11)
        >>> [round(feature_flow(spectrum, times, gamma).exponent(100, 1000), 2) for gamma in (0.0, 1.0)]  # 1/2, 2/3
        [0.5, 0.66]
    """
    t, gamma = increasing(times), check.at_least_zero("gamma", gamma)
    check.count("per_decade", per_decade, most=10**5)
    if t.ndim != 1:
        raise ValueError(f"times must have shape (T,), got {t.shape}.")
    modes = Modes.of(spectrum)
    learned = modes.lam > 1e-30 * modes.lam[0]
    lam, many, power = modes.lam[learned], modes.many[learned], modes.power[learned]
    rest = float((modes.many * modes.power)[~learned].sum())
    w2 = power / lam  # w*_k^2; x is the predictor over w*, p = w* x

    def coefficients(x: np.ndarray) -> tuple[float, float]:
        """rich and c: gamma q, with 4 gamma |p|^2 = 4 rich (rich - 1)."""
        rich = (1 + np.sqrt(1 + 4 * gamma * float(many @ (w2 * x**2)))) / 2
        return rich, gamma * float(many @ (power * x * (1 - x))) / rich

    def step(x: np.ndarray, h: float, rich: float, c: float) -> np.ndarray:
        """dx/dt = -g x + rich lam, g = rich lam - c."""
        g = rich * lam - c
        gh = g * h
        whole = np.where(gh == 0, h, -np.expm1(-gh) / np.where(gh == 0, 1.0, g))
        return x * np.exp(-gh) + rich * lam * whole

    x, now = np.zeros(len(lam)), 0.0
    loss, norm, residual = np.empty(len(t)), np.empty(len(t)), np.zeros((len(t), len(modes.lam))) + 1
    for i, end in enumerate(t):
        first = min(end, START / lam[0]) if len(lam) else end
        grid = [now] if now else [0.0, first]  # the first step from 0
        decades = np.log10(end / grid[-1])
        if decades > 0:
            grid += list(grid[-1] * 10 ** (decades * np.linspace(0, 1, max(1, int(np.ceil(per_decade * decades))) + 1)[1:]))
        for h in np.diff(grid):
            before = coefficients(x)
            mean = before
            for _ in range(2):
                after = coefficients(step(x, h, *mean))
                mean = ((before[0] + after[0]) / 2, (before[1] + after[1]) / 2)
            x = step(x, h, *mean)
        now = end
        loss[i] = many @ (power * (1 - x) ** 2) + rest
        rich = coefficients(x)[0]
        norm[i] = (rich - 1) / gamma if gamma else many @ (w2 * x**2)
        residual[i, learned] = 1 - x
    if not np.isfinite(loss).all():
        raise ValueError(
            f"gamma={gamma:g} is too large to integrate with per_decade={per_decade}: lower it, or raise per_decade."
        )
    return FeatureFlow(t, loss, norm, residual[:, : len(spectrum.lam)])


@checked
def train_features(
    spectrum: Spectrum,
    training: GradientDescent,
    gamma: float,
    num_features: Extended = np.inf,
    num_samples: Extended = np.inf,
    *,
    noise: float = 0.0,
) -> Errors:
    """Errors of two-layer linear networks that learn features, state by state, at finite k and n or batch size.

        L = B0 (I + gamma (B0 o C3) L)          w = L v3 for every neuron, B0 the response of the update rule
        B = L + gamma B0 o (L C3 L^T)           v0 = w* 1 - B v4

    in the equations of `dmft.scaling.dynamics`, which give C3 in turn. A has the momentum and schedule of w.

    Args:
        gamma: strength of feature learning; 0 is `train`.
        spectrum, training, num_features, num_samples, noise: as in `train`, without weight decay.

    Example:
        >>> spectrum = Spectrum.power_law(1.75, 1.5, 200).binned(8)
        >>> lazy, rich = (train_features(spectrum, GradientDescent(0.2, 20), gamma, 60, 60) for gamma in (0.0, 1.0))
        >>> bool(rich.test[-1] < lazy.test[-1])
        True
    """
    training_, theory = solvable(training), setting(spectrum, training, num_features, num_samples, noise, gamma)
    if training.weight_decay and gamma:
        raise ValueError("train_features goes without weight_decay: leave it out, or take gamma=0.")
    return solve(theory, impulse_response(training_))
