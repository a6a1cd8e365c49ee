"""Extrapolation of ensembles to infinite width, an estimator of its own: with statistical error, truncation, goodness of fit.

    <x_N> = x + x_1 / N + x_2 / N^2 + ...        order k:  x = sum_N w_N <x_N>,  sum w_N = 1,  sum w_N N^-j = 0,  j = 1 ... k

with the least variance where Var x ~ 1/N. Statistical error: sum w_N^2 sem_N^2. Truncation: what the next order changes, its
noise taken out; of the quadratic itself it is an upper estimate. Goodness of fit: the sum of squared residuals over all
entries, each in units of its error, against that of random weights of the seeds: entries of one network are correlated, and
the sum is not chi^2 distributed, but the resamples know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from compare import seeds
from compare.gap import everything
from compare.outputs import ensembles_of
from compare.significance import extrapolate, intercept_weights
from widthwise import Result, Trajectory, check
from widthwise.checked import checked

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


@checked
def richardson(nets: Mapping[int, Result], *, num_resamples: int = 400, seed: int = 0) -> Richardson:
    """Extrapolate everything that ensembles share to infinite width, and say how far to trust it.

    Args:
        nets: ensembles at two widths or more; from three on quadratic too, from four on the quadratic law is tested.
        num_resamples: of the weights, for p-values.
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
    check.count("num_resamples", num_resamples, most=check.MANY)
    ensembles = ensembles_of(nets, "richardson")
    for N, net in ensembles.items():
        if net.trajectory.n < 2:
            raise ValueError(f"width {N} has a single seed: an error bar needs two or more.")
    counts = {N: net.trajectory.n for N, net in ensembles.items()}
    orders = [k for k in (1, 2) if k < len(counts)]
    results = [extrapolate(ensembles, order=k) for k in orders]
    weights = [np.array([intercept_weights(counts, k)[N] for N in counts]) for k in (0, *orders)]
    rows = seeds.rows_of(list(ensembles.values()))
    normal = np.random.default_rng(seed).standard_normal((num_resamples, 1 + max(int(r.max()) for r in rows)))
    stacks = [_everything(net.samples) for net in ensembles.values()]
    found = []
    for name in stacks[0]:
        if all(name in stack for stack in stacks):
            runs = [
                np.asarray(stack[name], dtype=np.float64).reshape(n, -1)
                for stack, n in zip(stacks, counts.values(), strict=True)
            ]
            found.append(_observable(name, runs, np.array(list(counts), dtype=float), weights, rows, normal))
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
    name: str,
    runs: list[Float[np.ndarray, "n entries"]],
    N: np.ndarray,
    weights: list[np.ndarray],
    rows: list[Int[np.ndarray, "n"]],
    normal: Float[np.ndarray, "resamples runs"],
) -> Extrapolated:
    means, influences = np.array([x.mean(0) for x in runs]), [seeds.influence(x) for x in runs]

    def joint(w: np.ndarray) -> Float[np.ndarray, "runs entries"]:
        return seeds.joint(rows, [w_N * x for w_N, x in zip(w, influences, strict=True)], normal.shape[1])

    def error(w: np.ndarray) -> float:
        return float(np.sqrt((joint(w) ** 2).sum(0).mean()))

    def difference(v: np.ndarray, w: np.ndarray) -> tuple[float, float]:
        noise = error(v - w)
        return float(np.sqrt(max(np.mean(((v - w) @ means) ** 2) - noise**2, 0.0))), noise

    def goodness(order: int) -> tuple[float | None, float | None]:
        if len(N) < order + 2:
            return None, None
        contrasts = _contrasts(np.sqrt(N * [len(x) for x in runs]), N, order)
        return _goodness(contrasts @ means, [joint(w) for w in contrasts], np.abs(contrasts) @ np.abs(means), normal)

    linear, widest = weights[1], np.eye(len(N))[-1]
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
        *goodness(1),
        goodness(2)[1],
    )


def _contrasts(scale: np.ndarray, N: np.ndarray, order: int) -> Float[np.ndarray, "free widths"]:
    """Combinations of the widths' means that vanish where the law holds, of equal variance where Var x ~ 1 / N."""
    design = scale[:, None] * (N.min() / N[:, None]) ** np.arange(order + 1.0)
    return np.linalg.svd(design)[0][:, order + 1 :].T * scale


def _goodness(
    residual: Float[np.ndarray, "free entries"],
    influences: list[Float[np.ndarray, "runs entries"]],
    magnitude: Float[np.ndarray, "free entries"],
    normal: Float[np.ndarray, "resamples runs"],
) -> tuple[float | None, float | None]:
    """Mean squared residual in units of its error, and its p-value: against influences with random weights N(0, 1)."""
    variance = np.array([(x**2).sum(0) for x in influences])
    moving = (variance > 1e-24 * np.maximum(magnitude**2, 1e-300)).all(0)
    if not moving.any():
        return None, None
    total = float(np.sum(residual[:, moving] ** 2 / variance[:, moving]))
    resampled = np.zeros(len(normal))
    for x, its in zip(influences, variance, strict=True):
        scaled = x[:, moving] / np.sqrt(its[moving])
        resampled += np.einsum("ri,ri->r", normal @ (scaled @ scaled.T), normal)
    value = total / (len(influences) * int(moving.sum()))
    return value, float((1 + np.sum(resampled >= total)) / (1 + len(resampled)))


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
