"""Do theory and experiment agree? A p-value, and what the test could have seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy import stats

from compare.gap import observables, same_points
from widthwise import Estimate, Result, Status, Trajectory


@dataclass(frozen=True)
class Statistic:
    """One global number, measured on both sides, in units of the theory's value.

    Attributes:
        name: e.g. "f early", "G^1 size", "Phi^2 change".
        difference, error: experiment minus theory and its standard error.
        p_value: two-sided, Welch's t.
        detectable: the smallest difference that this test would have seen in nine cases of ten.
    """

    name: str
    difference: float
    error: float
    p_value: float
    detectable: float

    def __str__(self) -> str:
        return (
            f"{self.name:13s} {self.difference:+8.2%} +- {self.error:.2%}   p = {self.p_value:.2g}"
            f"   could have seen {self.detectable:.2%}"
        )


@dataclass(frozen=True)
class Agreement:
    """The verdict of `agrees`; true in a condition if theory and experiment agree; prints as a table.

    Attributes:
        statistics: the single comparisons.
        p_value: chance of a discrepancy as large in any of them if both sides have the same mean (Bonferroni).
        alpha: level below which agreement is rejected.
    """

    statistics: tuple[Statistic, ...]
    p_value: float
    alpha: float

    def __bool__(self) -> bool:
        return self.p_value >= self.alpha

    def __getitem__(self, name: str) -> Statistic:
        return next(statistic for statistic in self.statistics if statistic.name == name)

    def __str__(self) -> str:
        verdict = "agree" if self else "DISAGREE"
        return "\n".join([f"theory and experiment {verdict}: p = {self.p_value:.2g}", *(f"  {s}" for s in self.statistics)])


def agrees(theory: Result, nets: Result | Mapping[int, Result], *, alpha: float = 0.01) -> Agreement:
    """Test that networks have the theory's means: of f, and of Phi and G of every layer.

    Each observable x enters by its amplitude <x, d> / <d, d> along a direction d of the theory's mean: for f, its first
    third of the steps ("early") and the rest ("late"); for every kernel its "size" at the last kept step and its "change"
    from the first to the last kept step. These are few, they are in percent, and they see what matters: a wrong speed, a
    wrong scale, wrong feature learning. Amplitudes are linear, so that 1/N can be extrapolated away.

    Args:
        theory: the limit.
        nets: an ensemble, taken as it is; or ensembles by width, extrapolated linearly in 1/N.
        alpha: level of the test.

    Raises:
        ValueError: results do not share steps and points; a single seed.

    Example:
        >>> import dmft, finite
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(1, "linear"), Parameterization(), tasks.sphere(2, input_dim=8), GradientDescent(0.5, 10))
        >>> nets = {N: finite.train(problem, width=N, num_seeds=128, progress=False) for N in (64, 128)}
        >>> bool(agrees(dmft.solve(problem), nets))
        True
    """
    ensembles = {1: nets} if isinstance(nets, Result) else dict(nets)
    for net in ensembles.values():
        same_points(net, theory)
        if net.trajectory.n < 2:
            raise ValueError("agreement within errors needs at least two seeds per ensemble, got one.")
    weights = intercept_weights({N: net.trajectory.n for N, net in ensembles.items()})
    directions = _directions(theory.mean)
    num = len(directions)
    results = []
    for name, direction in directions.items():
        parts = [(weights[N], direction.amplitude(net.samples)) for N, net in ensembles.items()]
        if theory.trajectory.n:
            parts.append((-1.0, direction.amplitude(theory.samples)))
        difference = sum(w * a.mean() for w, a in parts) - (0.0 if theory.trajectory.n else 1.0)
        squares = np.array([w**2 * a.var(ddof=1) / len(a) for w, a in parts])
        error = float(np.sqrt(squares.sum()))
        dof = squares.sum() ** 2 / np.sum(squares**2 / np.array([len(a) - 1 for _, a in parts]))
        p_value = float(2 * stats.t.sf(abs(difference) / error, dof))
        detectable = float(error * (stats.t.isf(alpha / num / 2, dof) + stats.t.isf(0.1, dof)))
        results.append(Statistic(name, float(difference), error, p_value, detectable))
    return Agreement(tuple(results), min(1.0, num * min(s.p_value for s in results)), alpha)


def intercept_weights(counts: Mapping[int, int]) -> dict[int, float]:
    """Weights w_N of ensembles of `counts[N]` networks that extrapolate linearly in 1/N to infinite width.

    sum w_N = 1 and sum w_N / N = 0, with the least variance sum w_N^2 / (N counts[N]). Two widths: Richardson's
    (N_2 x_2 - N_1 x_1) / (N_2 - N_1). One width: 1, no extrapolation.

    Example:
        >>> intercept_weights({100: 8, 200: 8})
        {100: -1.0, 200: 2.0}
    """
    widths = np.array(list(counts), dtype=float)
    if len(widths) == 1:
        return dict.fromkeys(counts, 1.0)
    precision = widths * np.array(list(counts.values()))
    A = np.stack([np.ones_like(widths), 1 / widths])
    w = precision * (A.T @ np.linalg.solve((A * precision) @ A.T, np.array([1.0, 0.0])))
    return dict(zip(counts, (float(x) for x in w.round(12)), strict=True))


def extrapolate(nets: Mapping[int, Result]) -> Result:
    """Networks at infinite width: ensembles extrapolated linearly in 1/N, entry by entry, with standard errors.

    Args:
        nets: ensembles at two widths or more; what is left is of order 1/N^2.

    Raises:
        ValueError: one width only, or results that do not share steps and points.

    Example:
        >>> import finite
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(1, "linear"), Parameterization(), tasks.sphere(2, input_dim=8), GradientDescent(0.5, 10))
        >>> nets = {N: finite.train(problem, width=N, num_seeds=64, progress=False) for N in (32, 64)}
        >>> extrapolate(nets).mean.f.shape
        (11, 2)
    """
    if len(nets) < 2:
        raise ValueError(f"extrapolation in 1/N needs two widths or more, got {len(nets)}.")
    ensembles = list(nets.values())
    for net in ensembles[1:]:
        same_points(net, ensembles[0])
    weights = list(intercept_weights({N: net.trajectory.n for N, net in nets.items()}).values())

    def combine(*means: Float[np.ndarray, "..."]) -> np.ndarray:
        return np.sum([w * np.asarray(x, dtype=np.float64) for w, x in zip(weights, means, strict=True)], axis=0)

    def errors(*sems: Float[np.ndarray, "..."]) -> np.ndarray:
        return np.sqrt(np.sum([(w * np.asarray(x, dtype=np.float64)) ** 2 for w, x in zip(weights, sems, strict=True)], axis=0))

    mean = ensembles[0].mean.map(combine, *(net.mean for net in ensembles[1:]))
    sem = ensembles[0].sem.map(errors, *(net.sem for net in ensembles[1:]))
    widths = ", ".join(map(str, nets))
    return replace(
        ensembles[-1],
        trajectory=Estimate(mean, sem, sum(net.trajectory.n for net in ensembles)),
        status=Status(True, f"extrapolated in 1/N from widths {widths}"),
        stats={"widths": widths},
    )


@dataclass(frozen=True)
class _Direction:
    """One way to turn a trajectory into a number: the amplitude of a part of an observable along d."""

    observable: str
    where: str
    d: Float[np.ndarray, "..."]

    def amplitude(self, runs: Trajectory) -> Float[np.ndarray, "runs"]:
        x = _part(observables(runs)[self.observable], self.where).reshape(-1, self.d.size)
        return x @ self.d.ravel() / np.sum(self.d**2)


def _directions(mean: Trajectory) -> dict[str, _Direction]:
    """Statistics by name. A part that does not move in the theory is left out."""
    out = {}
    for observable, x in observables(mean).items():
        for where in ("early", "late") if observable == "f" else ("size", "change"):
            d = _part(x, where)
            if d.size and np.linalg.norm(d) > 1e-10 * np.linalg.norm(x):
                out[f"{observable} {where}"] = _Direction(observable, where, d)
    return out


def _part(x: Float[np.ndarray, "..."], where: str) -> Float[np.ndarray, "..."]:
    """The part of an observable that a statistic looks at; a leading axis of runs may be there."""
    if where in ("early", "late"):  # f: (..., T+1, M)
        third = -(-x.shape[-2] // 3)
        return x[..., :third, :] if where == "early" else x[..., third:, :]
    last = x[..., -1, :, -1, :]  # a kernel: (..., K, M, K, M)
    return last if where == "size" else last - x[..., 0, :, 0, :]
