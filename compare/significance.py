"""Do theory and experiment agree? A p-value, and what the test could have seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from compare import given
from compare.gap import observables, same_points
from widthwise import Estimate, Result, Status, Trajectory, check
from widthwise.checked import checked

RESOLVED = 0.5
"""Least share of |d|^2, d a mean of the theory, that must be more than sampling noise."""


@dataclass(frozen=True)
class Statistic:
    """One global number, measured on both sides, in units of the theory's value.

    Attributes:
        name: e.g. "f early", "G^1 size", "Phi^2 change".
        difference, error: experiment minus theory and its standard error.
        p_value: two-sided, Welch's t.
        detectable: the smallest difference that this test would have seen in nine cases of ten.
        dof: degrees of freedom of the error.
    """

    name: str
    difference: float
    error: float
    p_value: float
    detectable: float
    dof: float

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
        return {statistic.name: statistic for statistic in self.statistics}[name]

    def __str__(self) -> str:
        verdict = "agree" if self else "DISAGREE"
        return "\n".join([f"theory and experiment {verdict}: p = {self.p_value:.2g}", *(f"  {s}" for s in self.statistics)])


@checked
def agrees(theory: given.Either, nets: given.Either, *, alpha: float = 0.01) -> Agreement:
    """Test that networks have the theory's means: of f, and of Phi and G of every layer.

    Each observable x enters by its amplitude <x, d> / <d, d> along a direction d of the theory's mean: for f, its first
    third of the steps ("early") and the rest ("late"); for every kernel its "size" at the last kept step and its "change"
    from the first to the last kept step. These are few, they are in percent, and they see what matters: a wrong speed, a
    wrong scale, wrong feature learning. Amplitudes are linear, so that 1/N can be extrapolated away. What is zero in the
    theory, or not resolved by its replicas, is left out.

    Args:
        theory: the limit.
        nets: an ensemble, taken as it is; or ensembles by width, extrapolated linearly in 1/N. (The two may change places: a
            Result knows what it is of.)
        alpha: level of the test.

    Raises:
        ValueError: results do not share steps and points; a single seed; one or two replicas of the theory; alpha not in
            (0, 1); nothing in the theory is resolved.

    Example:
        >>> import dmft, finite
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(1, "linear"), Parameterization(), tasks.sphere(2, input_dim=8), GradientDescent(0.5, 10))
        >>> nets = {N: finite.train(problem, width=N, num_seeds=128, progress=False) for N in (64, 128)}
        >>> bool(agrees(dmft.solve(problem), nets))
        True
    """
    theory, nets = given.theory_first(theory, nets)
    check.result("theory", theory)
    ensembles = {1: nets} if isinstance(nets, Result) else given.by_width(nets, "agrees(theory, nets)", 1)
    for net in ensembles.values():
        same_points(net, theory)
        if net.trajectory.n == 0:
            raise ValueError("networks are expected beside the theory, got two exact results: agrees(theory, nets).")
        if net.trajectory.n == 1:
            raise ValueError("agreement within errors needs at least two seeds per ensemble, got one.")
    if theory.trajectory.n in (1, 2):
        raise ValueError(f"the theory's error bar needs at least three replicas, got {theory.trajectory.n}.")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha, the rate of false alarms, must lie between 0 and 1, got {alpha!r}.")
    weights = intercept_weights({N: net.trajectory.n for N, net in ensembles.items()})
    references = _references(theory)
    if not references:
        raise ValueError(
            "nothing to compare: in the theory f and the kernels are zero, absent, or not resolved by its replicas."
        )
    parts = {N: parts_of(net) for N, net in ensembles.items()}
    statistics = tuple(
        statistic(
            name, reference, [parts[N][name] for N in ensembles], [weights[N] for N in ensembles], alpha / len(references)
        )
        for name, reference in references.items()
    )
    return Agreement(statistics, min(1.0, len(statistics) * min(s.p_value for s in statistics)), alpha)


def intercept_weights(counts: Mapping[int, int], order: int = 1) -> dict[int, float]:
    """Weights w_N of ensembles of `counts[N]` networks that extrapolate to infinite width, by default linearly in 1/N.

    sum w_N = 1 and sum w_N N^-j = 0, j = 1 ... order, with the least variance sum w_N^2 / (N counts[N]). Two widths:
    Richardson's (N_2 x_2 - N_1 x_1) / (N_2 - N_1). One width: 1, no extrapolation.

    Example:
        >>> intercept_weights({100: 8, 200: 8})
        {100: -1.0, 200: 2.0}
    """
    if len(counts) == 1:
        return dict.fromkeys(counts, 1.0)
    return {N: round(w, 12) for N, w in coefficient_weights(counts, order, 0).items()}


def coefficient_weights(counts: Mapping[int, int], order: int, power: int) -> dict[int, float]:
    """Weights w_N of the means of ensembles of `counts[N]` networks that give their coefficient of N^-power.

    sum w_N N^-j is one for j = power and zero for the others up to `order`, with the least variance sum w_N^2 / (N counts[N]).

    Example:
        >>> {N: round(w, 6) for N, w in coefficient_weights({100: 8, 200: 8}, 1, 1).items()}
        {100: 200.0, 200: -200.0}
    """
    widths = np.array(list(counts), dtype=float)
    precision = widths * np.array(list(counts.values()))
    A = (widths.min() / widths) ** np.arange(order + 1)[:, None]
    goal = np.eye(order + 1)[power] * widths.min() ** power
    w = precision * (A.T @ np.linalg.solve((A * precision) @ A.T, goal))
    return dict(zip(counts, (float(x) for x in w), strict=True))


@checked
def extrapolate(nets: Mapping[int, Result], order: int = 1) -> Result:
    """Networks at infinite width: ensembles extrapolated in 1/N, entry by entry, with standard errors.

    Everything that all ensembles have, and that is an average over the network, is extrapolated. `compare.richardson` says
    besides how well the law holds.

    Args:
        nets: ensembles at two widths or more; what is left is of order 1/N^2.
        order: 1, linear in 1/N; 2, quadratic, from three widths on: what is left is of order 1/N^3.

    Raises:
        ValueError: one width only, or too few for the order; an exact result; results that do not share steps and points.

    Example:
        >>> import finite
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(1, "linear"), Parameterization(), tasks.sphere(2, input_dim=8), GradientDescent(0.5, 10))
        >>> nets = {N: finite.train(problem, width=N, num_seeds=64, progress=False) for N in (32, 64)}
        >>> extrapolate(nets).mean.f.shape
        (11, 2)
    """
    nets = given.by_width(nets, "extrapolation in 1/N")
    if check.count("order", order) >= len(nets):
        raise ValueError(f"extrapolation of order {order} in 1/N needs {order + 1} widths or more, got {len(nets)}.")
    ensembles = list(nets.values())
    for net in ensembles:
        same_points(net, ensembles[0])
    weights = list(intercept_weights({N: net.trajectory.n for N, net in nets.items()}, order).values())

    def combine(*means: Float[np.ndarray, "..."]) -> np.ndarray:
        return np.sum([w * np.asarray(x, dtype=np.float64) for w, x in zip(weights, means, strict=True)], axis=0)

    def errors(*sems: Float[np.ndarray, "..."]) -> np.ndarray:
        return np.sqrt(np.sum([(w * np.asarray(x, dtype=np.float64)) ** 2 for w, x in zip(weights, sems, strict=True)], axis=0))

    shared = set.intersection(*({*net.mean.observables()} for net in ensembles)) - {*Trajectory.UNAVERAGED}
    means, sems = ([_only(getattr(net, part), shared) for net in ensembles] for part in ("mean", "sem"))
    mean, sem = means[0].map(combine, *means[1:]), sems[0].map(errors, *sems[1:])
    widths = ", ".join(map(str, nets))
    return replace(
        ensembles[-1],
        trajectory=Estimate(mean, sem, sum(net.trajectory.n for net in ensembles)),
        status=Status(True, f"extrapolated in 1/N{'' if order == 1 else f' to order {order}'} from widths {widths}"),
        stats={"widths": widths},
    )


def _only(trajectory: Trajectory, names: set[str]) -> Trajectory:
    return trajectory.without(*({*trajectory.observables()} - names))


Runs: TypeAlias = Float[np.ndarray, "runs entries"]


def statistic(name: str, reference: Runs, nets: list[Runs], weights: list[float], alpha: float) -> Statistic:
    """`amplitude` against one."""
    from scipy.special import stdtr, stdtrit  # imported where used: a third of a second

    difference, error, dof = amplitude(reference, nets, weights)
    if error == 0:  # nothing varies, as where a frozen layer's kernel stands still: equal, or not
        return Statistic(name, difference, error, 1.0 if abs(difference) < 1e-12 else 0.0, 0.0, dof)
    p_value = float(2 * stdtr(dof, -abs(difference) / error))
    detectable = float(-error * (stdtrit(dof, alpha / 2) + stdtrit(dof, 0.1)))
    return Statistic(name, difference, error, p_value, detectable, dof)


def amplitude(reference: Runs, nets: list[Runs], weights: list[float]) -> tuple[float, float, float]:
    """Amplitude <x, d> / |d|^2 of x, the weighted networks, along d, the mean of the reference; minus one.

    Returns:
        That, its standard error from seeds and from the runs of the reference (jackknife), and degrees of freedom (Welch).
    """
    dual, R = _dual(reference), len(reference)
    mean = sum(w * x.mean(0) for w, x in zip(weights, nets, strict=True))
    squares = [w**2 * (x @ dual).var(ddof=1) / len(x) for w, x in zip(weights, nets, strict=True)]
    degrees = [len(x) - 1 for x in nets]
    if R > 1:
        squares.append((R - 1) * np.var([mean @ _dual(np.delete(reference, r, axis=0)) for r in range(R)]))
        degrees.append(R - 1)
    difference, error = float(mean @ dual - 1), float(np.sqrt(np.sum(squares)))
    return difference, error, float(error**4 / np.sum(np.square(squares) / degrees)) if error else np.inf


def _dual(runs: Runs) -> Float[np.ndarray, "entries"]:
    """d / |d|^2, d the mean of the runs: <x, d> / |d|^2 is one where x has their mean."""
    return runs.mean(0) / _square(runs)


def _square(runs: Runs) -> float:
    """|d|^2, between different runs: <x, x'> averaged over pairs. (A single run counts as exact.)

    With the run itself among them it would be larger by the noise of d, and amplitudes smaller by a share that outgrows their
    error where d has many entries.
    """
    d, n = runs.mean(0), len(runs)
    return float(d @ d - (runs.var(0, ddof=1).sum() / n if n > 1 else 0.0))


def _references(theory: Result) -> dict[str, Runs]:
    """The parts of the theory to measure networks against, by name; zero and unresolved ones are left out."""
    parts = parts_of(theory)
    size = {name: np.sum(runs.mean(0) ** 2) for name, runs in parts.items()}
    largest = {name: max(size[other] for other in parts if other.split()[0] == name.split()[0]) for name in parts}
    return {name: runs for name, runs in parts.items() if resolved(runs) and size[name] > 1e-20 * largest[name]}


def resolved(runs: Runs) -> bool:
    """Whether their mean is more than sampling noise, to `RESOLVED` of its square."""
    return bool(_square(runs) > RESOLVED * np.sum(runs.mean(0) ** 2))


def parts_of(result: Result, change: bool = True) -> dict[str, Runs]:
    """What the statistics look at, by name; of every run, or of the mean where the result is exact."""
    exact = result.trajectory.n == 0
    out = {}
    for observable, x in observables(result.mean if exact else result.samples).items():
        runs = x[None] if exact else x
        for where in ("early", "late") if observable == "f" else ("size", "change")[: 1 + change]:
            out[f"{observable} {where}"] = _part(runs, where).reshape(len(runs), -1).astype(np.float64)
    return out


def _part(x: Float[np.ndarray, "runs ..."], where: str) -> Float[np.ndarray, "runs ..."]:
    """The part of an observable that a statistic looks at."""
    if where in ("early", "late"):  # f: (n, T+1, M) or (n, T+1, M, C)
        third = -(-x.shape[1] // 3)
        return x[:, :third] if where == "early" else x[:, third:]
    last = x[..., -1, :, -1, :]  # a kernel: (n, K, M, K, M)
    return last if where == "size" else last - x[..., 0, :, 0, :]
