"""Where variance begins to limit learning: the number of samples at which it makes half of the error.

With E_g the test loss of single networks and of their infinite ensemble, at P samples (2212.12147):

    R(P) = E_g(ensemble) / E_g(single)       1 - R is the share of variance       R(P_1/2) = 1/2

R falls from 1 as P grows; the onset moves to larger P with the width, with feature learning and with ensembling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compare import given
from compare.ensemble import pseudo_values, votes_of
from widthwise import Result, Task, check
from widthwise.checked import checked

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Onset:
    """Share of the error that ensembling leaves, against the number of samples; prints as a table, draws itself with `plot`.

    Attributes:
        samples: (n,) rising P.
        ratio, error: (n,) R(P) and its standard error.
        half, half_error: P_1/2 and its standard error, by a straight line in log P between the P on either side; None where
            no two P lie on either side.
        bracketed: whether the two lie on either side of 1/2 by two errors each: if not, the error of P_1/2 is a lower bound.
    """

    samples: np.ndarray
    ratio: np.ndarray
    error: np.ndarray
    half: float | None
    half_error: float | None
    bracketed: bool

    def __str__(self) -> str:
        lines = ["samples P   ensemble / single"]
        lines += [f"{P:9d}   {r:.3f} +- {e:.3f}" for P, r, e in zip(self.samples, self.ratio, self.error, strict=True)]
        if self.half is None:
            lines.append("variance makes half of the error at no P between these")
        else:
            sure = "" if self.bracketed else "   (not resolved: the P on either side are within two errors of 1/2)"
            lines.append(f"variance makes half of the error at P = {self.half:.3g} +- {self.half_error:.2g}{sure}")
        return "\n".join(lines)

    def plot(self) -> Figure:
        """The ratio against P, with P_1/2."""
        import matplotlib.pyplot as plt

        figure, ax = plt.subplots(figsize=(5.6, 3.8), layout="constrained")
        ax.errorbar(self.samples, self.ratio, self.error, color="black", marker="o", markersize=4)
        ax.axhline(0.5, color="grey", lw=0.8)
        if self.half is not None:
            ax.errorbar(self.half, 0.5, xerr=self.half_error, color="C3", marker="*", markersize=12)
        ax.set(xlabel="samples P", ylabel="error of the ensemble / of a single network", xscale="log")
        return figure


@checked
def onset(
    nets: Mapping[int, Result | Sequence[Result]],
    y: Any = None,
    *,
    loss: Any = "mse",
    step: int | None = None,
    points: str | None = "test",
) -> Onset:
    """R(P) and the number of samples at which variance makes half of the error.

    Args:
        nets: networks of one width by number of samples P; or a list of them over data sets, whose losses are averaged.
        y: targets, as of `compare.ensemble`.
        loss: with "mse" the ensemble's loss is exact.
        step: a recorded step; by default the last of each.
        points: at which to judge; None where y is given or the task is a Stream.

    Raises:
        ValueError: fewer than two P; fewer than three networks in a result, or networks trained on another number of samples.

    Example:
        >>> import finite
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> def at(P):
        ...     task = tasks.multi_index(P, 16, input_dim=4, link=lambda u: u[:, 0])
        ...     problem = Problem(MLP(1, "relu"), Parameterization(), task, GradientDescent(0.2, 20))
        ...     return finite.train(problem, width=8, num_seeds=8, progress=False)
        >>> onset({P: at(P) for P in (4, 16)}).ratio.shape
        (2,)
    """
    if not isinstance(nets, Mapping) or len(nets) < 2:
        raise ValueError("onset needs a dict {number of samples: Result} of two numbers or more.")
    samples = sorted(check.count("every number of samples", P) for P in nets)
    for P in samples:
        _check_samples(P, nets[P])
    points = None if y is not None else points
    found = np.array([_ratio(nets[P], y, loss, step, points) for P in samples])
    half, half_error, bracketed = _crossing(np.log(samples), *found.T)
    return Onset(np.array(samples), found[:, 0], found[:, 1], half, half_error, bracketed)


def _check_samples(P: int, nets: Result | Sequence[Result]) -> None:
    if not isinstance(nets, Result | Sequence) or not nets:
        raise ValueError(f"onset takes a Result or a list of Results under P = {P}, got {nets!r:.60}.")
    for net in [nets] if isinstance(nets, Result) else nets:
        task = check.result(f"each result under P = {P}", net).problem.task
        trained = given.width_of(net) is not None and isinstance(task, Task) and not net.problem.training.online
        if trained and task.num_train != P:
            raise ValueError(f"the networks under P = {P} were trained on {task.num_train} samples: pass them under those.")


def _ratio(nets: Result | Sequence[Result], y: Any, loss: Any, step: int | None, points: str | None) -> tuple[float, float]:
    """R and its error: from seeds; from data sets too, where there are three or more."""
    sets = [nets] if isinstance(nets, Result) else list(nets)
    values = []
    for net in sets:
        kind, votes, targets = votes_of(net, y, loss, "outputs", points)
        at = len(net.mean.steps) - 1 if step is None else place_of(np.asarray(net.mean.steps), step)
        pseudo, single = pseudo_values(kind, votes[:, at : at + 1], targets)
        values.append((pseudo[:, 0], single[:, 0]))
    of_ensemble, of_single = (np.mean([pair[k].mean() for pair in values]) for k in (0, 1))
    ratio = of_ensemble / of_single
    if len(sets) >= 3:  # residuals of the data sets carry the noise of their seeds
        left = np.array([pseudo.mean() - ratio * single.mean() for pseudo, single in values])
        return float(ratio), float(left.std(ddof=1) / np.sqrt(len(sets)) / of_single)
    squares = [np.var(pseudo - ratio * single, ddof=1) / len(pseudo) for pseudo, single in values]
    return float(ratio), float(np.sqrt(np.sum(squares)) / len(sets) / of_single)


def place_of(steps: np.ndarray, step: int) -> int:
    """Index of a recorded step.

    Raises:
        ValueError: it was not recorded.
    """
    places = np.flatnonzero(steps == step)
    if not len(places):
        raise ValueError(f"step {step} was not recorded; there are {steps.tolist()}.")
    return int(places[0])


def _crossing(x: np.ndarray, ratio: np.ndarray, error: np.ndarray) -> tuple[float | None, float | None, bool]:
    """The first fall of the ratio through 1/2, on a line in x = log P; its error from those of the two ends."""
    falls = np.flatnonzero((ratio[:-1] >= 0.5) & (ratio[1:] < 0.5))
    if not len(falls):
        return None, None, False
    i = int(falls[0])
    (r, s), (dr, ds), length = ratio[i : i + 2], error[i : i + 2], x[i + 1] - x[i]
    share = (r - 0.5) / (r - s)
    spread = length * np.hypot((1 - share) * dr, share * ds) / (r - s)
    half = float(np.exp(x[i] + share * length))
    return half, float(half * spread), bool(r - 2 * dr > 0.5 and s + 2 * ds < 0.5)
