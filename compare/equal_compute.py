"""One wide network against an ensemble of narrow ones at equal cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from compare import seeds
from compare.ensemble import of_size, plus_minus, pseudo_values, votes_of
from compare.onset import place_of
from compare.outputs import ensembles_of
from widthwise import Result, check
from widthwise.checked import checked


@dataclass(frozen=True)
class EqualCompute:
    """One network of the widest width against ensembles of narrower ones at the same cost; at one step; prints as a table.

    Attributes:
        step: at which.
        by: "parameters" or "neurons".
        wide: the widest width.
        wide_loss, wide_error: of a single network of it.
        widths, sizes: (W,) narrower widths, and members E of an ensemble that cost as much as the wide network.
        losses, errors: (W,) of such ensembles.
        differences, difference_errors: (W,) loss of the ensemble minus that of the one wide network; above zero where wider is
            better.
    """

    step: int
    by: str
    wide: int
    wide_loss: float
    wide_error: float
    widths: tuple[int, ...]
    sizes: tuple[int, ...]
    losses: np.ndarray
    errors: np.ndarray
    differences: np.ndarray
    difference_errors: np.ndarray

    def __str__(self) -> str:
        lines = [f"one network of width {self.wide} at step {self.step}: {plus_minus(self.wide_loss, self.wide_error)}"]
        lines.append(f"  width  members (equal {self.by})  loss                   minus the wide network's")
        for N, E, loss, error, difference, its in zip(
            self.widths, self.sizes, self.losses, self.errors, self.differences, self.difference_errors, strict=True
        ):
            lines.append(
                f"{N:7d}  {E:7d}{' ' * (len(self.by) + 11)}{plus_minus(loss, error)}  {plus_minus(difference, its)}".rstrip()
            )
        return "\n".join(lines)


@checked
def equal_compute(
    nets: Mapping[int, Result],
    y: Any = None,
    *,
    by: str = "parameters",
    step: int | None = None,
    loss: Any = None,
    average: str = "outputs",
    points: str | None = None,
) -> EqualCompute:
    """One wide network against ensembles of narrower ones that cost as much.

    Args:
        nets: ensembles by width.
        y, loss, average, points: as of `ensemble`.
        by: the cost: "parameters" (E N^2 constant, about, of deep networks) or "neurons" (E N constant).
        step: a recorded step; by default the last.

    Raises:
        ValueError: as of `ensemble`; a step that was not recorded; a result that does not say its number of parameters.

    Example:
        >>> import finite
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(1, "tanh"), Parameterization(), tasks.sphere(3, input_dim=8), GradientDescent(0.5, 10))
        >>> nets = {N: finite.train(problem, width=N, num_seeds=8, progress=False) for N in (8, 32)}
        >>> equal_compute(nets, by="neurons").sizes
        (4,)
    """
    check.choice("by", by, ("parameters", "neurons"))
    by_width = ensembles_of(nets, "equal_compute")
    *narrow, wide = by_width
    steps = np.asarray(by_width[wide].mean.steps)
    at = len(steps) - 1 if step is None else place_of(steps, step)
    cost = {N: N if by == "neurons" else _num_parameters(net) for N, net in by_width.items()}
    members_of = {N: max(1, round(cost[wide] / cost[N])) for N in narrow}
    found = {}
    for N, net in by_width.items():
        kind, votes, targets = votes_of(net, y, loss, average, points)
        now = votes[:, at : at + 1]
        found[N] = of_size(kind, now, targets, members_of.get(N, 1), *pseudo_values(kind, now, targets))
    losses, influences = ({N: found[N][0][0] for N in found}, {N: seeds.influence(found[N][1][:, 0]) for N in found})
    rows = dict(zip(by_width, seeds.rows_of(list(by_width.values())), strict=True))
    together = [seeds.joint([rows[N], rows[wide]], [influences[N], -influences[wide]]) for N in narrow]
    return EqualCompute(
        int(steps[at]),
        by,
        wide,
        float(losses[wide]),
        float(seeds.size(influences[wide])),
        tuple(narrow),
        tuple(members_of.values()),
        np.array([losses[N] for N in narrow]),
        np.array([seeds.size(influences[N]) for N in narrow]),
        np.array([losses[N] - losses[wide] for N in narrow]),
        np.array([seeds.size(x) for x in together]),
    )


def _num_parameters(net: Result) -> int:
    if "parameters" not in net.stats:
        raise ValueError("the result does not say how many parameters its networks have: compare by='neurons'.")
    return int(net.stats["parameters"])
