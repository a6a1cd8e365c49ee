"""Critical batch size: beyond which larger batches no longer save steps (2410.21676).

T(B) is the smallest number of steps to a target loss, over learning rates. Small batches have T ~ 1/B, as every sample counts
the same; large ones have T flat. The critical batch is where T is 20% above the line T(B_0) B_0 / B of the smallest batch.
In the parameterizations with a feature-learning limit training converges to a process that does not know the width, at every
batch: T(B), and with it the critical batch, stops moving with the width (theorem 3.1). It moves with the data.

The model in which T(B) is exact is least squares in one pass, of Gaussian features of variance lam_k, w(0) = 0:

    c_k = <(w_k - w*_k)^2>,   loss = sum_k lam_k c_k
    c_k <- c_k (1 - 2 eta lam_k + eta^2 lam_k^2 (1 + 1/B)) + eta^2 lam_k (loss + sigma^2) / B
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float

from widthwise import Spectrum, check
from widthwise.checked import Numbers, checked


@checked
def sgd_risk(
    spectrum: Spectrum, eta: Numbers, batch: int, steps: int, *, noise: float = 0.0
) -> Float[np.ndarray, "rates times"]:
    """Mean test loss of one-pass SGD on least squares before each step and after the last (equations above).

    Modes that the spectrum left out are never learned: their power is noise, and stays in the loss.

    Args:
        spectrum: variances lam_k of the features, with the target.
        eta: (e,) learning rates.
        batch: B, fresh samples per step.
        steps: T.
        noise: standard deviation sigma of noise on the targets.

    Returns:
        (e, T + 1); infinite from where training diverges.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> sgd_risk(Spectrum([1.0], [1.0]), [0.5], batch=1, steps=1).tolist()  # 1 - 2/2 + 2/4 + 1/4
        [[1.0, 0.75]]
    """
    return np.stack(list(_losses(spectrum, _rates(eta), batch, check.count("steps", steps, most=check.MANY), noise)), 1)


@checked
def steps_to_target(
    spectrum: Spectrum, batches: Iterable[int], target: float, eta: Numbers, *, noise: float = 0.0, most: int = 10_000
) -> Float[np.ndarray, "batches"]:
    """T(B): fewest steps of one-pass SGD to a loss, over learning rates; NaN where `most` steps are not enough.

    Args:
        spectrum: variances of the features, with the target.
        batches: (b,) batch sizes.
        target: the loss to reach.
        eta: (e,) learning rates to choose from; a dense grid (20% apart or less) makes T smooth.
        noise: sigma.
        most: where to give up.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> steps_to_target(Spectrum([1.0], [1.0]), [1, 2, 100], 0.1, np.linspace(0.05, 1, 20)).tolist()
        [6.0, 4.0, 1.0]
    """
    rates = _rates(eta)
    check.positive("target", target)
    out = []
    for batch in batches:
        losses = _losses(spectrum, rates, batch, check.count("most", most, most=check.MANY), noise)
        out.append(next((float(t) for t, loss in enumerate(losses) if (loss <= target).any()), np.nan))
    return np.array(out)


@checked
def critical_batch(batches: Numbers, steps: Numbers, *, overhead: float = 0.2) -> float:
    """The batch at which steps exceed T(B_0) B_0 / B, B_0 the smallest, by this share; between sizes by interpolation in logs.

    Args:
        batches: (b,) rising.
        steps: (b,) T(B), above zero.
        overhead: 0.2 in the paper.

    Returns:
        The batch; infinity if the overhead stays below.

    Raises:
        ValueError: batches that do not rise, steps that are NaN.

    Example:
        >>> B = np.arange(1.0, 100.0)
        >>> round(critical_batch(B, 1000 / B + 10), 1)  # where (1000 + 10 B) / 1010 = 1.2
        21.2
    """
    B, T = check.array("batches", batches, 1, "(b,)"), check.array("steps", steps, 1, "(b,)")
    if B.shape != T.shape or (np.diff(B) <= 0).any() or B[0] <= 0 or (T <= 0).any():
        raise ValueError(f"batches must rise, with steps above zero for each; got {B.tolist()!r:.60} and {T.tolist()!r:.60}.")
    excess = np.log(T * B / (T[0] * B[0])) - np.log1p(check.positive("overhead", overhead))
    above = np.flatnonzero(excess > 0)
    if not len(above):
        return float("inf")
    i = above[0]
    share = excess[i - 1] / (excess[i - 1] - excess[i])
    return float(np.exp(np.log(B[i - 1]) + share * np.log(B[i] / B[i - 1])))


def _rates(eta: Any) -> Float[np.ndarray, "rates"]:
    rates = check.array("eta", np.atleast_1d(np.asarray(eta)), 1, "(e,)")
    if (rates <= 0).any():
        raise ValueError(f"eta must be above zero, got {rates.min():g}.")
    return rates


def _losses(spectrum: Spectrum, eta: Float[np.ndarray, "rates"], batch: int, steps: int, noise: float) -> Any:
    """Losses (e,) before each step and after the last."""
    check.instance("spectrum", spectrum, Spectrum)
    B = check.count("batch", batch)
    used = spectrum.lam > 0
    lam, many = spectrum.lam[used], spectrum.multiplicity[used]
    rest = spectrum.rest_power + float(spectrum.multiplicity[~used] @ spectrum.power[~used])
    sigma2 = check.at_least_zero("noise", noise) ** 2 + rest
    step = eta[:, None] * lam
    keep, add = 1 - 2 * step + step**2 * (1 + 1 / B), step**2 / B
    power = np.broadcast_to(spectrum.power[used], keep.shape)  # lam_k c_k
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(steps + 1):
            loss = power @ many
            yield np.where(np.isfinite(loss), loss + rest, np.inf)
            if t < steps:
                power = keep * power + add * (loss + sigma2)[:, None]
