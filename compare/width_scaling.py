"""Variance and bias of the output against width."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from compare import given
from compare.gap import same_points
from compare.power_law import PowerLaw, fit_power_law
from compare.seeds import squares
from widthwise import Result, check
from widthwise.checked import checked


@dataclass(frozen=True)
class WidthScaling:
    """Variance over seeds and squared bias of f against width, averaged over steps, points and outputs; prints as a table.

    Attributes:
        widths: (n,) widths N.
        num_seeds: (n,) networks at each.
        variance, variance_error: (n,) mean over (t, m) of Var f_m(t), unbiased; standard errors from the spread over seeds,
            of one relative size sqrt(kappa / seeds) at all widths, which few seeds at one width would tell badly. Infinite
            where no width has three seeds.
        bias2, bias2_error: (n,) mean over (t, m) of (<f_m(t)> - limit)^2 with the sampling noise taken out (can come out
            below zero where it is not resolved); None without theory.
        variance_fit, bias2_fit: power laws; exponents -1 and -2 are expected at large width. None if not resolved.
    """

    widths: np.ndarray
    num_seeds: np.ndarray
    variance: np.ndarray
    variance_error: np.ndarray
    variance_fit: PowerLaw | None
    bias2: np.ndarray | None = None
    bias2_error: np.ndarray | None = None
    bias2_fit: PowerLaw | None = None

    def __str__(self) -> str:
        lines = ["  width  seeds   N Var f" + ("" if self.bias2 is None else "               N |bias f|")]
        for i, N in enumerate(self.widths):
            row = f"{N:7d} {self.num_seeds[i]:6d}   {N * self.variance[i]:.4f} +- {N * self.variance_error[i]:.4f}"
            if self.bias2 is not None and self.bias2_error is not None:
                bias2, error = self.bias2[i], self.bias2_error[i]
                size = np.sqrt(max(bias2, 0.0))
                bound = "" if bias2 > 2 * error else "   (not resolved)"
                row += f"    {N * size:.3f} +- {N * error / (2 * np.sqrt(max(bias2, error)) or 1.0):.3f}{bound}"
            lines.append(row)
        lines.append(f"exponent of the variance in N: {self.variance_fit or 'not resolved'}   (expected -1)")
        if self.bias2 is not None:
            lines.append(f"exponent of the squared bias:  {self.bias2_fit or 'not resolved'}   (expected -2)")
        return "\n".join(lines)


@checked
def width_scaling(
    nets: given.Either,
    theory: given.Either = None,
    *,
    num_resamples: int = 400,
    seed: int = 0,
) -> WidthScaling:
    """How variance and bias of the output fall with the width.

    Over seeds, f = limit + bias(N) + fluctuation, with bias ~ 1/N and Var ~ 1/N (2304.03408). Widths share data and order,
    seeds differ in their initialisation only.

    Args:
        nets: ensembles by width.
        theory: their limit; without it only the variance is measured. (The two may change places.)
        num_resamples: two or more, of the bootstrap of the bias over seeds (and over replicas of the theory).
        seed: of the bootstrap.

    Raises:
        ValueError: fewer than two widths, an ensemble or a theory of one, or results that do not share steps and points.

    Example:
        >>> import finite
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(1, "tanh"), Parameterization(), tasks.sphere(3, input_dim=8), GradientDescent(0.5, 10))
        >>> nets = {N: finite.train(problem, width=N, num_seeds=64, progress=False) for N in (16, 64)}
        >>> -1.6 < width_scaling(nets).variance_fit.exponent < -0.4
        True
    """
    check.count("num_resamples", num_resamples, least=2, most=check.MANY)
    if theory is not None:
        theory, nets = given.theory_first(theory, nets)
        check.result("theory", theory)
    nets = given.by_width(nets, "width_scaling")
    widths = np.array([*nets])
    for N in widths:
        if nets[N].trajectory.n < 2:
            raise ValueError(f"width {N} has fewer than two seeds: a variance over seeds needs two or more.")
        same_points(nets[N], nets[widths[0]] if theory is None else theory)
    if theory is not None and theory.trajectory.n == 1:
        raise ValueError("the theory has one replica only: its noise is the spread of two or more.")
    counts = np.array([nets[N].trajectory.n for N in widths])
    spread = [_spread(nets[N]) for N in widths]
    value = np.array([x.mean() for x in spread])
    relative = np.sqrt(_kappa(spread) / counts)
    if np.isfinite(relative).all():
        low = np.exp(-(relative**2) / 2)  # so much the logarithm of a noisy number is off
        fit = fit_power_law(widths, value / low, value / low * relative)
    else:
        fit = None
    if theory is None:
        return WidthScaling(widths, counts, value, value * relative, fit)
    rng = np.random.default_rng(seed)
    limit, limit_noise = _resampled(theory, num_resamples, rng)
    bias2 = np.empty((len(widths), num_resamples + 1))
    for i, N in enumerate(widths):
        mean, noise = _resampled(nets[N], num_resamples, rng)
        noise += limit_noise
        noise[1:] *= 2  # a resample carries the noise of the sample besides its own
        bias2[i] = ((mean - limit) ** 2 - noise).mean(-1)
    bias, covariance = bias2[:, 0], np.cov(bias2[:, 1:])  # all widths share the noise of the theory
    bias_error = np.sqrt(np.diagonal(covariance))
    bias_fit = fit_power_law(widths, bias, covariance=covariance)
    return WidthScaling(widths, counts, value, value * relative, fit, bias, bias_error, bias_fit)


def _spread(net: Result) -> Float[np.ndarray, "runs"]:
    """What every network adds to the variance: mean over steps and points of (f - <f>)^2, n / (n - 1) times."""
    return squares(np.asarray(net.samples.f, dtype=np.float64).reshape(net.trajectory.n, -1)).mean(1)


def _kappa(squares: list[Float[np.ndarray, "runs"]]) -> float:
    """n times the squared relative error of a variance over n runs, by the jackknife, pooled over widths.

    The law in 1/N has the same at every large width. Two runs are equally far from their mean and know nothing of it.
    """
    known = [x for x in squares if len(x) > 2]
    spread = [np.sum(((len(x) - 1) / (len(x) - 2) * (x / (x.mean() or 1.0) - 1)) ** 2) for x in known]
    return float(np.sum(spread) / np.sum([len(x) - 1 for x in known])) if known else np.inf


def _resampled(result: Result, num: int, rng: np.random.Generator) -> tuple[Float[np.ndarray, "resamples entries"], ...]:
    """Mean and squared standard error of every entry of f; row 0 of the sample, the rest of resamples.

    Means of resamples scatter by 1 - 1/n too little, and are moved apart by the root of it.
    """
    n = result.trajectory.n
    if n == 0:  # exact
        mean = np.repeat(result.mean.f.reshape(1, -1), num + 1, axis=0)
        return mean, np.zeros_like(mean)
    f = np.asarray(result.samples.f, dtype=np.float64).reshape(n, -1)
    center = f.mean(0)
    counts = np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), size=num)])
    mean = counts @ (f - center) / n
    var = np.maximum(counts @ (f - center) ** 2 / n - mean**2, 0.0) * (n / (n - 1))
    var[1:] *= n / (n - 1)  # a resample's variance is smaller by 1 - 1/n once more
    mean[1:] *= np.sqrt(n / (n - 1))
    return mean + center, var / n
