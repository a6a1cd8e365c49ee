"""Do networks have the theory's means? `compare.agrees` as a check for pytest, which refuses where it could see little."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from compare import given
from compare.significance import Agreement, agrees, extrapolate
from compare.testing.contrasts import quantile
from compare.testing.verdict import ALPHA, CannotTell, draw, fail, more_of
from widthwise import Result, check
from widthwise.checked import checked

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAR = 4.0
"""Standard errors by which an entry of f is called different in a message; the verdict does not rest on it."""


@checked
def assert_agrees(
    theory: given.Either,
    experiment: given.Either,
    *,
    detect: float = 0.2,
    alpha: float = ALPHA,
    plot: str | os.PathLike[str] | None = None,
) -> Agreement:
    """Check that networks have the theory's means, by `compare.agrees`; silent where they do.

    Args:
        theory: the limit.
        experiment: an ensemble, taken as it is; or ensembles by width, extrapolated linearly in 1/N.
        detect: relative difference of any amplitude (of f early and late, of size and change of every kernel) that must be
            seen, with probability 0.99.
        alpha: rate of false alarms.
        plot: a file to draw the losses into, whatever the verdict.

    Raises:
        AssertionError: they disagree; the table of `agrees`, and the first step and point at which f differs.
        CannotTell: a difference of `detect` could pass.
        ValueError: as `agrees`.

    Example:
        >>> import dmft, finite
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(1, "linear"), Parameterization(), tasks.sphere(2, input_dim=8), GradientDescent(0.5, 10))
        >>> nets = {N: finite.train(problem, width=N, num_seeds=1024, progress=False) for N in (64, 128)}
        >>> _ = assert_agrees(dmft.solve(problem), nets)
    """
    check.positive("detect", detect)
    theory, experiment = given.theory_first(theory, experiment)
    verdict = agrees(theory, experiment, alpha=alpha)
    draw(plot, lambda ax: _paint(ax, theory, experiment))
    if not verdict:
        fail(str(verdict), _first_difference(theory, experiment))
    level = alpha / len(verdict.statistics)
    reach, worst = max(
        (float(s.error * (quantile(s.dof, level / 2) + quantile(s.dof, 0.01))), s.name) for s in verdict.statistics
    )
    if not reach <= detect:
        raise CannotTell(
            f"cannot tell: {worst} off by {reach:.1%} may pass, and that should be {detect:.0%} at most. Take "
            f"{more_of('seeds', (reach / detect) ** 2)} (and replicas of the theory), or raise detect.\n{verdict}"
        )
    return verdict


def _limit(experiment: Result | Mapping[int, Result]) -> Result:
    if isinstance(experiment, Result):
        return experiment
    return extrapolate(experiment) if len(experiment) > 1 else next(iter(experiment.values()))


def _first_difference(theory: Result, experiment: Result | Mapping[int, Result]) -> str:
    nets = _limit(experiment)
    a, b = theory.mean.f, nets.mean.f
    sem = np.hypot(theory.sem.f, nets.sem.f)
    far = np.abs(b - a) > FAR * sem + 1e-6 * np.abs(a).max()
    if not far.any():
        return "  No single output differs by more than 4 standard errors: it is seen in many together, or in the kernels."
    at = tuple(int(i) for i in np.argwhere(far)[0])
    where = "".join(f", {axis} {i}" for axis, i in zip(("point", "output"), at[1:], strict=False))
    return (
        f"  f differs first at step {theory.mean.steps[at[0]]}{where}: theory {a[at]:.4g} +- {theory.sem.f[at]:.2g}, "
        f"networks {b[at]:.4g} +- {nets.sem.f[at]:.2g} ({int(far.sum())} of {far.size} entries beyond 4 standard errors)."
    )


def _paint(ax: Axes, theory: Result, experiment: Result | Mapping[int, Result]) -> None:
    for name, result, colour in (("networks", _limit(experiment), "tab:red"), ("theory", theory, "black")):
        mean, sem = result.mean.loss, result.sem.loss
        ax.plot(result.mean.steps, mean, color=colour, label=name)
        ax.fill_between(result.mean.steps, mean - sem, mean + sem, color=colour, alpha=0.3, linewidth=0)
    ax.set(xlabel="step t", ylabel="train loss")
    ax.legend(frameon=False)
