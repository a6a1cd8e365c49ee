"""Do networks of several widths behave alike, up to the 1/N law?"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from compare import given
from compare.gap import same_points
from compare.significance import amplitude, resolved
from compare.testing import contrasts
from compare.testing.contrasts import Contrast
from compare.testing.verdict import ALPHA, CannotTell, draw, fail, more_of
from widthwise import Result, check
from widthwise.checked import checked

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEWEST_SEEDS = 16
SPREAD = -1.0, 0.1, 0.3
"""Exponent in N of the variance over seeds; what it may be off by; and what it may be off by unseen."""
LARGEST_SPREAD_ERROR = 0.35
ROUNDING = 1e-5
"""Of what networks compute, relative to its size."""


@dataclass(frozen=True)
class Consistency:
    """What `assert_consistent_across_widths` measured: of every part, chance and reach; prints as a table.

    Attributes:
        parts: name -> (p-value, Bonferroni over what it holds; smallest difference seen in 99 cases of 100). "outputs",
            "losses" and "features" in units of their size, "spread" an exponent.
    """

    parts: dict[str, tuple[float, float]]

    @property
    def p_value(self) -> float:
        """Of all parts together (Bonferroni)."""
        return min(1.0, len(self.parts) * min(p for p, _ in self.parts.values()))

    def __str__(self) -> str:
        return "\n".join(f"{name:9s} p = {p:.2g}   could have seen {seen:.2g}" for name, (p, seen) in self.parts.items())


@checked
def assert_consistent_across_widths(
    results: Mapping[int, Result],
    *,
    early: float = 1 / 3,
    constant: float = 8.0,
    detect: float = 0.5,
    alpha: float = ALPHA,
    plot: str | os.PathLike[str] | None = None,
) -> Consistency:
    """Check that networks of these widths behave alike up to the 1/N law; silent where they do.

        outputs, losses    |<x_N> - <x_W>| <= constant (1/N - 1/W) size   at every early state and point; W the widest
        spread             the variance of f over seeds falls like N^a, |a + 1| <= 0.1: single networks agree point-wise
        features           the change of every Phi^l from the first to the last kept step has the same size, within
                           constant (1/N_min - 1/N): what networks in the NTK or standard parameterization lose with the width

    size is the root mean square of f over early states and points, and the largest early loss. Each part is tested at the
    level alpha / (number of parts), Bonferroni within. Features need kernels at two steps or more; without them networks that
    turn lazy can only be told from the other parts.

    Args:
        results: ensembles by width, of the same Problem.
        early: share of the steps that is looked at.
        constant: how large a coefficient of 1/N is taken for "order one".
        detect: relative difference that must be seen, with probability 0.99.
        alpha: rate of false alarms.
        plot: a file to draw the losses into, whatever the verdict.

    Raises:
        AssertionError: they do not; says at which width, step and point first.
        CannotTell: too few seeds, or widths too small for the law to say anything.
        ValueError: fewer than two widths, results on different steps or points.

    Example:
        >>> import finite
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(1, "tanh"), Parameterization(), tasks.sphere(3, input_dim=8), GradientDescent(0.5, 12))
        >>> nets = {N: finite.train(problem, width=N, num_seeds=512, progress=False) for N in (32, 64, 256)}
        >>> checked = assert_consistent_across_widths(nets)
        >>> sorted(checked.parts)
        ['features', 'losses', 'outputs', 'spread']
    """
    ensembles, last = _checked(results, early, constant, detect, alpha)
    draw(plot, lambda ax: _paint_losses(ax, ensembles, last))
    _finite(ensembles, last)
    level = alpha / (4 if _has_features(ensembles) else 3)
    parts: dict[str, tuple[float, float]] = {}
    wrong: list[str] = []
    for name in ("outputs", "losses"):
        parts[name] = _overlay(name, ensembles, last, constant, level, wrong)
    parts["spread"] = _spread(ensembles, last, level, wrong)
    if _has_features(ensembles):
        parts["features"] = _features(ensembles, constant, level, wrong)
    if wrong:
        fail(f"networks of widths {', '.join(map(str, ensembles))} do not behave alike (level {alpha:g}):", *wrong)
    for name, (_, seen) in parts.items():
        most, free = (SPREAD[2], SPREAD[1]) if name == "spread" else (detect, constant * _gap_of(ensembles))
        if not seen <= most:
            seeds = more_of("seeds", ((seen - free) / (most - free)) ** 2) + ", or " if free < most else ""
            raise CannotTell(
                f"cannot tell: {name} off by {seen:.2g} may pass, and that should be {most:g} at most (the law allows "
                f"{free:.2g}). Take {seeds}{'a wider range of widths' if name == 'spread' else 'wider networks'}."
            )
    return Consistency(parts)


def _checked(
    results: Mapping[int, Result], early: float, constant: float, detect: float, alpha: float
) -> tuple[dict[int, Result], int]:
    """Ensembles by rising width, and how many states are early."""
    check.positive("constant", constant)
    check.positive("detect", detect)
    if not 0 < check.positive("early", early) <= 1:
        raise ValueError(f"early is a share of the steps, in (0, 1]; got {early:g}.")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha, the rate of false alarms, must lie between 0 and 1, got {alpha!r}.")
    ensembles = given.by_width(results, "assert_consistent_across_widths")
    for N, result in ensembles.items():
        same_points(result, ensembles[min(ensembles)])
        if result.trajectory.n < FEWEST_SEEDS:
            raise CannotTell(f"width {N} has {result.trajectory.n} seeds; {FEWEST_SEEDS} at least are needed, better 64.")
    states = len(result.mean.steps)
    return ensembles, max(2, int(np.ceil(early * states)))


def _gap_of(ensembles: dict[int, Result]) -> float:
    return 1 / min(ensembles) - 1 / max(ensembles)


def _finite(ensembles: dict[int, Result], last: int) -> None:
    for N, result in ensembles.items():
        if not result.status.ok:
            fail(f"networks of width {N} did not train: {result.status}")
        f = result.samples.f[:, :last]
        good = np.isfinite(f).all(axis=(0, *range(2, f.ndim))) & np.isfinite(result.samples.loss[:, :last]).all(0)
        if not good.all():
            fail(f"networks of width {N} diverged: their outputs are not finite at step {result.mean.steps[good.argmin()]}.")


# --- outputs and losses ----------------------------------------------------------------------------------------------------


def _early(result: Result, name: str, last: int) -> Float[np.ndarray, "runs states ..."]:
    x = result.samples.f if name == "outputs" else result.samples.loss
    return np.asarray(x[:, :last], dtype=np.float64)


def _size(name: str, mean: np.ndarray) -> float:
    return float(np.sqrt(np.mean(mean**2)) if name == "outputs" else np.abs(mean).max())


def _overlay(
    name: str, ensembles: dict[int, Result], last: int, constant: float, level: float, wrong: list[str]
) -> tuple[float, float]:
    """p-value and reach of the means at every early state (and point); into `wrong` the first that differs."""
    widest = max(ensembles)
    b = _early(ensembles[widest], name, last)
    size = _size(name, b.mean(0))
    if size == 0:
        raise CannotTell(f"the {name} are zero in all the early states: take more steps, or a larger share `early`.")
    tests = {}
    for N in ensembles:
        if widest > N:
            a = _early(ensembles[N], name, last)
            slack = constant * (1 / N - 1 / widest) + ROUNDING
            tests[N] = welch(a / size, b / size, slack)
    count = sum(test.difference.size for test in tests.values())
    p = {N: test.p_value for N, test in tests.items()}
    rejected = [(*at, N) for N in p for at in np.argwhere(p[N] < level / count)]
    if rejected:
        *index, N = min(rejected, key=lambda at: (at[0], at[-1], *at[1:-1]))
        at = tuple(int(i) for i in index)
        where = "".join(f", {axis} {i}" for axis, i in zip(("point", "output"), at[1:], strict=False))
        a = _early(ensembles[N], name, last)
        wrong.append(
            f"  {name}: first at step {ensembles[N].mean.steps[at[0]]}{where}, width {N}: {_of(a, at)}, and {_of(b, at)} at "
            f"width {widest}; apart by {float(tests[N].difference[at]):+.2f} of their size {size:.3g}, the 1/N law allows "
            f"{float(tests[N].slack[at]):.2f} (p = {float(p[N][at]):.1g}; {len(rejected)} of {count} differ)."
        )
    smallest = min(float(x.min()) for x in p.values())
    return min(1.0, count * smallest), max(float(test.detectable(level / count).max()) for test in tests.values())


def _of(runs: np.ndarray, at: tuple[int, ...]) -> str:
    x = np.array([run[at] for run in runs])
    return f"{x.mean():.4g} +- {x.std(ddof=1) / np.sqrt(len(x)):.2g}"


def welch(a: Float[np.ndarray, "runs *entries"], b: Float[np.ndarray, "runs_ *entries"], slack: float) -> Contrast:
    """Difference of the means of independent runs, entry by entry."""
    squares = [x.var(0, ddof=1) / len(x) for x in (a, b)]
    square = squares[0] + squares[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        dof = square**2 / (squares[0] ** 2 / (len(a) - 1) + squares[1] ** 2 / (len(b) - 1))
    difference = a.mean(0) - b.mean(0)
    return Contrast(difference, np.sqrt(square), np.where(square > 0, dof, np.inf), np.full(difference.shape, slack))


# --- spread and features ---------------------------------------------------------------------------------------------------


def _spread(ensembles: dict[int, Result], last: int, level: float, wrong: list[str]) -> tuple[float, float]:
    """p-value and reach of the exponent of the variance over seeds."""
    exponent, tolerance, _ = SPREAD
    widths = np.array([*ensembles], dtype=float)
    runs = [_early(result, "outputs", last) for result in ensembles.values()]

    def variance(x: np.ndarray) -> np.ndarray:
        return x.var(0, ddof=1).mean()

    pseudo = [contrasts.jackknife(x, variance, contrasts.group_size(len(x), min(contrasts.GROUP, len(x) // 8))) for x in runs]
    logs = contrasts.logs_of_columns(pseudo, [len(x) for x in runs])
    if not np.isfinite(logs.value).all() or np.sqrt(logs.square).max() > LARGEST_SPREAD_ERROR:
        raise CannotTell("cannot tell: the variance of f over seeds is not resolved at every width. Take more seeds.")
    test = contrasts.slope_test(logs, widths, exponent, tolerance, corrections=False)
    p_value = float(test.p_value)
    if p_value < level:
        wrong.append(
            f"  spread: the variance of f over seeds goes like N^({exponent + float(test.difference):.2f} +- "
            f"{float(test.error):.2f}), it should fall like N^-1 (p = {p_value:.1g}): "
            + ", ".join(f"{v:.3g} at {N}" for N, v in zip(ensembles, np.exp(logs.value), strict=True))
            + "."
        )
        for N, W in pairwise(range(len(widths))):
            pair = contrasts.slope_test(_points(logs, [N, W]), widths[[N, W]], exponent, tolerance, corrections=False)
            if float(pair.p_value) < level:
                wrong[-1] += f" It shows from width {int(widths[N])} to {int(widths[W])} already."
                break
    return p_value, float(test.detectable(level))


def _points(logs: contrasts.Logs, which: list[int]) -> contrasts.Logs:
    return contrasts.Logs(logs.value[which], logs.square[which], logs.dof[which], logs.weight[which])


def _has_features(ensembles: dict[int, Result]) -> bool:
    return all(r.samples.Phi is not None and r.samples.Phi.shape[-2] > 1 for r in ensembles.values())


def _changes(result: Result) -> Float[np.ndarray, "layers runs entries"]:
    """Of Phi^1 ... Phi^L, from the first kept step to the last."""
    Phi = np.asarray(result.samples.Phi, dtype=np.float64)  # (n, L, K, M, K, M)
    change = Phi[..., -1, :, -1, :] - Phi[..., 0, :, 0, :]
    return np.moveaxis(change, 1, 0).reshape(change.shape[1], len(change), -1)


def _features(ensembles: dict[int, Result], constant: float, level: float, wrong: list[str]) -> tuple[float, float]:
    """p-value and reach of the amplitude of every layer's change along that of the narrowest networks."""
    narrowest = min(ensembles)
    reference = _changes(ensembles[narrowest])
    for ell, runs in enumerate(reference, start=1):
        if not np.isfinite(runs).all() or not resolved(runs):
            raise CannotTell(
                f"cannot tell: the change of Phi^{ell} at width {narrowest} is not resolved. Take more seeds, or keep kernels "
                "at later steps, where features have moved (save_kernels=[] leaves them out)."
            )
    count = len(reference) * (len(ensembles) - 1)
    p, seen, first = [], [], True
    for N in [*ensembles][1:]:
        slack = constant * (1 / narrowest - 1 / N) + ROUNDING
        for ell, (runs, x) in enumerate(zip(reference, _changes(ensembles[N]), strict=True), start=1):
            difference, error, dof = amplitude(runs, [x], [1.0])
            test = Contrast(*(np.array(v, dtype=float) for v in (difference, error, dof, slack)))
            p.append(float(test.p_value))
            seen.append(float(test.detectable(level / count)))
            if p[-1] < level / count and first:
                first = False
                wrong.append(
                    f"  features: first at width {N}, Phi^{ell}: it changes by {1 + difference:.2f} +- {error:.2f} of what it "
                    f"does at width {narrowest}, the 1/N law allows 1 +- {slack:.2f} (p = {p[-1]:.1g})."
                )
    return min(1.0, count * min(p)), max(seen)


def _paint_losses(ax: Axes, ensembles: dict[int, Result], last: int) -> None:
    import matplotlib

    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(ensembles)))
    for colour, (N, result) in zip(colours, ensembles.items(), strict=True):
        mean, sem = result.mean.loss, result.sem.loss
        ax.plot(result.mean.steps, mean, color=colour, label=f"N = {N}")
        ax.fill_between(result.mean.steps, mean - sem, mean + sem, color=colour, alpha=0.3, linewidth=0)
    ax.axvspan(ensembles[N].mean.steps[0], ensembles[N].mean.steps[last - 1], color="0.93", zorder=0)
    ax.set(xlabel="step t", ylabel="train loss")
    ax.legend(frameon=False)
