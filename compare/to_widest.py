"""How far outputs of narrower networks are from those of the widest, and whether variance or bias makes the distance.

Single networks of widths N and M that start independently, at the same data and order (2304.03408, 2305.18411):

    E (f_N - f_M)^2 = S (1/N + 1/M) + b^2 (1/N - 1/M)^2 + ...

averaged over points and outputs: S / N is the variance over seeds, b / N the bias. The root of it falls as N^-1/2 where
variance dominates and as N^-1 where bias does, once the reference's own variance is accounted for: 1/N + 1/M = (1 + N/M) / N.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from compare import seeds
from compare.fits import least_squares
from compare.losses import softmax
from compare.outputs import ensembles_of, outputs_of
from widthwise import Result, check
from widthwise.checked import checked
from widthwise.data import Stream

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OUTPUTS = ("raw", "centred", "correct", "softmax")


@dataclass(frozen=True)
class ToWidest:
    """Distances to the widest networks at every recorded step; prints as a table, draws itself with `plot`.

    Attributes:
        steps: (T,)
        output: which output: see `to_widest`.
        widths: (W,) but the widest.
        widest: M.
        squared: (W, T) E (f_N - f_M)^2 of single networks, mean over points and outputs; unbiased.
        covariance: (T, W, W) of the squared distances at a step: they share the widest networks.
        slope, slope_error: (T,) exponent in N of the root of squared / (1 + N/M); NaN where there are no distances yet.
        slope_p_value: (T,) of the straight line in logarithms: small where variance and bias mix, and there is no one exponent.
        S, S_error: (T,) N times the variance, from the fit.
        b2, b2_error: (T,) N^2 times the squared bias, from the fit; below zero where it is not resolved.
        chi2, p_value: (T,) of the fit; 0 and 1 with two narrower widths; NaN with one, which does not tell S from b.
    """

    steps: np.ndarray
    output: str
    widths: tuple[int, ...]
    widest: int
    squared: np.ndarray
    covariance: np.ndarray
    slope: np.ndarray
    slope_error: np.ndarray
    S: np.ndarray
    S_error: np.ndarray
    b2: np.ndarray
    b2_error: np.ndarray
    chi2: np.ndarray
    p_value: np.ndarray
    slope_p_value: np.ndarray

    @property
    def rmse(self) -> np.ndarray:
        """(W, T) root mean square distance of single networks."""
        return np.sqrt(np.maximum(self.squared, 0))

    @property
    def rmse_error(self) -> np.ndarray:
        """(W, T) its standard error."""
        error = np.sqrt(np.diagonal(self.covariance, axis1=1, axis2=2).T)
        return np.divide(error, 2 * self.rmse, out=np.zeros_like(error), where=self.rmse > 0)

    @property
    def crossover(self) -> np.ndarray:
        """(T,) the width b^2 / S below which bias dominates, above which variance does; NaN where b^2 is not resolved."""
        resolved = (self.b2 > 2 * self.b2_error) & (self.S > 0)
        return np.divide(self.b2, self.S, out=np.full_like(self.S, np.nan), where=resolved)

    @property
    def crossover_error(self) -> np.ndarray:
        """(T,) its standard error; those of b^2 and S count as independent."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.crossover * np.hypot(self.b2_error / self.b2, self.S_error / self.S)

    def __str__(self) -> str:
        shown = np.unique(np.linspace(0, len(self.steps) - 1, 6).round().astype(int))
        lines = [f"RMSE of the {self.output} output to width {self.widest}"]
        lines.append(
            "   step" + "".join(f"   N = {N:<14d}" for N in self.widths) + "  exponent                 N Var, N^2 bias^2 (fit)"
        )
        for t in shown:
            row = "".join(
                f"   {f'{r:.4g} +- {e:.1g}':18s}" for r, e in zip(self.rmse[:, t], self.rmse_error[:, t], strict=True)
            )
            fit = f"{self.S[t]:.3g} +- {self.S_error[t]:.1g}, {self.b2[t]:.3g} +- {self.b2_error[t]:.1g}"
            slope = f"{self.slope[t]:+.2f} +- {self.slope_error[t]:.2f}, p = {self.slope_p_value[t]:<8.2g}"
            law = f"{slope} {fit}, p = {self.p_value[t]:.2g}"
            lines.append(f"{self.steps[t]:7d}{row}  {law if np.isfinite(self.slope[t]) else '-'}")
        lines.append("exponents: -1/2 expected where variance dominates, -1 (and steeper near the widest) where bias does")
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Left: distances against the step; right: against width at the last step, with the fit and the lines -1/2 and -1."""
        import matplotlib.pyplot as plt

        figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.8), layout="constrained")
        colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(self.widths)))
        for width, line, error, colour in zip(self.widths, self.rmse, self.rmse_error, colours, strict=True):
            left.errorbar(self.steps, line, error, color=colour, label=str(width))
        left.set(xlabel="step", ylabel=f"RMSE of the {self.output} output to width {self.widest}")
        left.legend(title="width", fontsize="small")
        N, value = np.array(self.widths, dtype=float), self.rmse[:, -1]
        right.errorbar(N, value, self.rmse_error[:, -1], color="black", marker="o", ls="", markersize=4)
        fit = _design(N, self.widest) @ np.array([self.S[-1], self.b2[-1]])
        right.plot(N, np.sqrt(np.maximum(fit, 0)), color="black", label="fit")
        for power, style in ((-0.5, "--"), (-1.0, ":")):
            right.plot(N, value[0] * (N / N[0]) ** power, color="grey", ls=style, label=f"N^{power:g}")
        right.set(xlabel="width N", xscale="log", title=f"step {self.steps[-1]}")
        right.set_xticks(N, [f"{n:g}" for n in N], minor=False)
        right.set_xticks([], minor=True)
        if (value > 0).all():
            right.set_yscale("log")
        right.legend(fontsize="small")
        return figure


@checked
def to_widest(nets: Mapping[int, Result], output: str = "raw", y: Any = None, *, points: str | None = None) -> ToWidest:
    """Distances of single networks to single networks of the widest width, per step, and what they are made of.

    Args:
        nets: ensembles by width.
        output: "raw" f; "centred" f minus its mean over outputs, of which softmax knows no more; "correct", the centred output
            of the right class (of tokens that is what results keep, "raw" or "correct"); "softmax", probabilities.
        y: as of `compare.ensemble`, for "correct".
        points: "train", "test" or "all"; by default test points if they have targets.

    Raises:
        ValueError: fewer than two widths, fewer than two networks of one, an output that one number per point does not have.

    Example:
        >>> import finite
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(1, "tanh"), Parameterization(), tasks.sphere(3, input_dim=8), GradientDescent(0.5, 10))
        >>> nets = {N: finite.train(problem, width=N, num_seeds=32, progress=False) for N in (16, 32, 64)}
        >>> result = to_widest(nets)
        >>> result.rmse.shape, bool(-0.8 < result.slope[-1] < -0.2)
        ((2, 11), True)
    """
    check.choice("output", output, OUTPUTS)
    *narrow, widest = by_width = ensembles_of(nets, "to_widest")
    shown = {N: _shown(net, output, y, points) for N, net in by_width.items()}
    reference, steps = shown[widest], np.asarray(by_width[widest].mean.steps)
    rows = seeds.rows_of(list(by_width.values()))
    g, G = reference.mean(0), _squared(reference - reference.mean(0)).mean(0)
    num_runs, squared, influences = 1 + int(rows[-1].max()), [], []
    for N, its in zip(narrow, rows, strict=False):
        f = shown[N]
        F = _squared(f - f.mean(0)).mean(0)
        of_f, of_g = _squared(f - g) + G, _squared(reference - f.mean(0)) + F  # means over the networks of the other width
        squared.append(of_f.mean(0))
        influences.append(seeds.joint([its, rows[-1]], [seeds.influence(of_f), seeds.influence(of_g)], num_runs))
    covariance = np.einsum("ist,jst->tij", influences, influences)
    T, distances = len(steps), np.array(squared)
    fits = np.full((T, 9), np.nan)
    for t in range(T):
        fits[t] = _fit(np.array(narrow, dtype=float), widest, distances[:, t], covariance[t])
    return ToWidest(steps, output, tuple(narrow), widest, distances, covariance, *fits.T)


def _fit(N: np.ndarray, M: int, squared: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """slope and error, S and error, b^2 and error, chi^2, p, p of the slope."""
    out = np.full(9, np.nan)
    if len(N) < 2 or not (squared > 0).all() or not (np.diagonal(covariance) > 0).all():
        return out
    line = np.stack([np.ones_like(N), np.log(N)], axis=1)
    slope = least_squares(line, np.log(squared / (1 + N / M)), covariance / np.outer(squared, squared))
    law = least_squares(_design(N, M), squared, covariance)
    (S, b2), (S_error, b2_error) = law.coefficients, law.errors
    exponent, its_error = slope.coefficients[1] / 2, slope.errors[1] / 2
    return np.array([exponent, its_error, S, S_error, b2, b2_error, law.chi2, law.p_value, slope.p_value])


def _design(N: np.ndarray, M: int) -> Float[np.ndarray, "widths 2"]:
    return np.stack([1 / N + 1 / M, (1 / N - 1 / M) ** 2], axis=1)


def _squared(x: Float[np.ndarray, "runs steps points outputs"]) -> Float[np.ndarray, "runs steps"]:
    return (x**2).mean((2, 3))


def _shown(net: Result, output: str, y: Any, points: str | None) -> Float[np.ndarray, "runs steps points outputs"]:
    task = net.problem.task
    tokens = y is None and isinstance(task, Stream) and task.kind == "tokens"
    out = outputs_of(net, y, points, targets=output == "correct" and not tokens, least=2)
    if tokens and output in ("raw", "correct"):
        return out.f
    if output == "raw":
        return out.f
    if tokens or out.f.shape[-1] < 2:
        raise ValueError(f"output={output!r} is of several outputs per point, got one: take output='raw'.")
    if output == "softmax":
        return softmax(out.f)
    f = out.f - out.f.mean(-1, keepdims=True)
    if output == "centred" or out.y is None:
        return f
    return np.take_along_axis(f, out.y.argmax(-1)[None, None, :, None], axis=-1)
