"""Extrapolation of ensembles to infinite width, an estimator of its own: with statistical error, truncation, goodness of fit.

    <x_N> = x + x_1 / N + x_2 / N^2 + ...        order k:  x = sum_N w_N <x_N>,  sum w_N = 1,  sum w_N N^-j = 0,  j = 1 ... k

with the least variance where Var x ~ 1/N. Statistical error: sum w_N^2 sem_N^2. Truncation: what the next order changes, its
noise taken out; of the quadratic itself it is an upper estimate. Goodness of fit: the sum of squared residuals over all
entries, each in units of its error, against that of resampled seeds: entries of one network are correlated, and the sum is not
chi^2 distributed, but the resamples know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from compare.gap import everything
from compare.outputs import ensembles_of
from compare.significance import extrapolate, intercept_weights
from widthwise import Result, Trajectory, check

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Extrapolated:
    """One observable at infinite width; root mean squares over its entries.

    Attributes:
        name: e.g. "f", "loss", "Phi^1".
        size: of the linear extrapolation.
        error: statistical, of the linear extrapolation.
        change: of the widest ensemble by the linear extrapolation, noise taken out.
        quadratic_error: statistical, of the quadratic extrapolation; None with two widths.
        truncation: of the linear extrapolation by the quadratic one, noise taken out; None with two widths. Zero where noise
            explains it: then it is below about its error.
        truncation_error: what noise alone makes of it.
        chi2: of the linear law, mean over entries and free residuals; about 1 if it holds.
        p_value: of it; None with two widths, which any line meets.
        quadratic_p_value: of the quadratic law; None with fewer than four widths.
    """

    name: str
    size: float
    error: float
    change: float
    quadratic_error: float | None
    truncation: float | None
    truncation_error: float | None
    chi2: float | None
    p_value: float | None
    quadratic_p_value: float | None


@dataclass(frozen=True)
class Richardson:
    """Ensembles at infinite width, by observable; prints as a table, draws itself with `plot`.

    Attributes:
        widths: (W,)
        linear: Result of the extrapolation linear in 1/N, with its statistical errors.
        quadratic: the same, quadratic; None with two widths.
        observables: an `Extrapolated` of everything that all have.
    """

    widths: tuple[int, ...]
    linear: Result
    quadratic: Result | None
    observables: tuple[Extrapolated, ...]

    def __getitem__(self, name: str) -> Extrapolated:
        return {o.name: o for o in self.observables}[name]

    def __str__(self) -> str:
        lines = [
            f"extrapolated in 1/N from widths {', '.join(map(str, self.widths))} (root mean squares; of the linear law)",
            "  observable        size      error     truncation         p linear   error quadratic  p quadratic",
        ]
        for o in self.observables:
            cut = "unknown" if o.truncation is None else f"{o.truncation:.2g} (noise {o.truncation_error:.1g})"
            lines.append(
                f"  {o.name:16s}  {o.size:<8.3g}  {o.error:<8.2g}  {cut:18s} {_or_dash(o.p_value):9s}  "
                f"{_or_dash(o.quadratic_error):15s}  {_or_dash(o.quadratic_p_value)}".rstrip()
            )
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Statistical errors and truncation of every observable, in units of its size."""
        import matplotlib.pyplot as plt

        figure, ax = plt.subplots(figsize=(5.6, 0.8 + 0.35 * len(self.observables)), layout="constrained")
        y = np.arange(len(self.observables))
        size = np.array([o.size or 1.0 for o in self.observables])
        ax.plot(np.array([o.error for o in self.observables]) / size, y, "o", label="error")
        if self.quadratic is not None:
            quadratic = np.array([o.quadratic_error or 0.0 for o in self.observables])
            ax.plot(quadratic / size, y, "s", mfc="none", label="error, quadratic")
            ax.plot(np.array([o.truncation or 0.0 for o in self.observables]) / size, y, "x", label="truncation")
        ax.set_yticks(y, [o.name for o in self.observables])
        ax.set(xlabel="relative to the size")
        ax.legend(fontsize="small")
        return figure


def richardson(nets: Mapping[int, Result], *, num_resamples: int = 400, seed: int = 0) -> Richardson:
    """Extrapolate everything that ensembles share to infinite width, and say how far to trust it.

    Args:
        nets: ensembles at two widths or more; from three on quadratic too, from four on the quadratic law is tested.
        num_resamples: of the seeds, for p-values.
        seed: of the resamples.

    Raises:
        ValueError: one width, a single seed, results that do not share steps and points.

    Example:
        >>> import finite
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(1, "tanh"), Parameterization(), tasks.sphere(3, input_dim=8), GradientDescent(0.5, 10))
        >>> nets = {N: finite.train(problem, width=N, num_seeds=32, progress=False) for N in (16, 32, 64)}
        >>> found = richardson(nets)
        >>> found["f"].p_value > 1e-3, found.quadratic.mean.f.shape
        (True, (11, 3))
    """
    check.count("num_resamples", num_resamples)
    ensembles = ensembles_of(nets, "richardson")
    for N, net in ensembles.items():
        if net.trajectory.n < 2:
            raise ValueError(f"width {N} has a single seed: an error bar needs two or more.")
    counts = {N: net.trajectory.n for N, net in ensembles.items()}
    orders = [k for k in (1, 2) if k < len(counts)]
    results = [extrapolate(ensembles, order=k) for k in orders]
    weights = [np.array([intercept_weights(counts, k)[N] for N in counts]) for k in (0, *orders)]
    rng = np.random.default_rng(seed)
    shares = _shares(list(counts.values()), num_resamples, rng)
    stacks = [_everything(net.samples) for net in ensembles.values()]
    found = []
    for name in stacks[0]:
        if all(name in stack for stack in stacks):
            runs = [
                np.asarray(stack[name], dtype=np.float64).reshape(n, -1)
                for stack, n in zip(stacks, counts.values(), strict=True)
            ]
            found.append(_observable(name, runs, np.array(list(counts), dtype=float), weights, shares))
    order = {"f": 0, "loss": 1, "test_loss": 2}
    return Richardson(
        tuple(counts),
        results[0],
        results[1] if len(results) > 1 else None,
        tuple(sorted(found, key=lambda o: (order.get(o.name, 3), o.name))),
    )


def _everything(runs: Trajectory) -> dict[str, np.ndarray]:
    losses = {"loss": runs.loss, "test_loss": runs.test_loss}
    return everything(runs) | {name: x for name, x in losses.items() if x is not None}


def _observable(
    name: str, runs: list[Float[np.ndarray, "n entries"]], N: np.ndarray, weights: list[np.ndarray], shares: list[np.ndarray]
) -> Extrapolated:
    means = np.array([x.mean(0) for x in runs])
    sem2 = np.array([x.var(0, ddof=1) / len(x) for x in runs])

    def error(w: np.ndarray) -> float:
        return float(np.sqrt(np.mean(w**2 @ sem2)))

    def difference(v: np.ndarray, w: np.ndarray) -> tuple[float, float]:
        noise = error(v - w)
        return float(np.sqrt(max(np.mean(((v - w) @ means) ** 2) - noise**2, 0.0))), noise

    linear = weights[1]
    widest = np.eye(len(N))[-1]
    chi2, p_value, quadratic_p = None, None, None
    if len(N) > 2:
        chi2, p_value = _goodness(runs, means, N, 1, shares)
    if len(N) > 3:
        _, quadratic_p = _goodness(runs, means, N, 2, shares)
    quadratic = weights[2] if len(weights) > 2 else None
    cut, cut_noise = (None, None) if quadratic is None else difference(quadratic, linear)
    return Extrapolated(
        name,
        float(np.sqrt(np.mean((linear @ means) ** 2))),
        error(linear),
        difference(linear, widest)[0],
        None if quadratic is None else error(quadratic),
        cut,
        cut_noise,
        chi2,
        p_value,
        quadratic_p,
    )


def _goodness(
    runs: list[np.ndarray], means: np.ndarray, N: np.ndarray, order: int, shares: list[np.ndarray]
) -> tuple[float | None, float | None]:
    """Mean squared residual, over entries and free residuals, in units of its error; and its p-value by resampled seeds.

    Residuals are those of the fit with weights n N, in the basis in which they have equal variance s^2 where Var x = s^2 / N.
    """
    counts = np.array([len(x) for x in runs])
    scale = np.sqrt(N * counts)
    design = scale[:, None] * N[:, None] ** -np.arange(order + 1.0)
    free = np.linalg.svd(design)[0][:, order + 1 :].T * scale  # (dof, W)
    deviations = [x - m for x, m in zip(runs, means, strict=True)]
    squares = np.array([(d**2).sum(0) / (n - 1) / n for d, n in zip(deviations, counts, strict=True)])
    variance = free**2 @ squares  # (dof, entries)
    moving = variance.min(0) > 1e-24 * np.maximum((free**2 @ means**2).max(0), 1e-300)
    if not moving.any():
        return None, None
    residual = (free @ means[:, moving]) ** 2 / variance[:, moving]
    total = float(residual.sum())
    resampled = np.zeros(len(shares[0]))
    for row, its in zip(free, variance, strict=True):
        scaled = np.concatenate([r * d[:, moving] for r, d in zip(row, deviations, strict=True)]) / np.sqrt(its[moving])
        u = np.concatenate(shares, axis=1)
        resampled += np.einsum("ri,ri->r", u @ (scaled @ scaled.T), u)
    return total / residual.size, float((1 + np.sum(resampled >= total)) / (1 + len(resampled)))


def _shares(counts: list[int], num: int, rng: np.random.Generator) -> list[Float[np.ndarray, "resamples n"]]:
    """What each network counts in the mean of a resample, scaled so that means of resamples vary as those of samples do."""
    return [rng.multinomial(n, np.full(n, 1 / n), size=num) / n * np.sqrt(n / (n - 1)) for n in counts]


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
