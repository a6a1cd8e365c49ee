"""What every method of `dmft.solve` takes and gives."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from widthwise import Estimate, Problem, Status, Trajectory, check


class Solution(NamedTuple):
    """What a method gives; `dmft.solve` makes a Result of it."""

    trajectory: Estimate
    status: Status
    stats: dict[str, Any]


@runtime_checkable
class Method(Protocol):
    """A way to solve the infinite-width limit: a small frozen dataclass of its settings."""

    def run(
        self, problem: Problem, *, seed: int, kernel_steps: Int[np.ndarray, "kept"], progress: bool, save: tuple[str, ...] = ()
    ) -> Solution:
        """Solve `problem`, keeping kernels, and the observables `save`, at `kernel_steps`.

        Raises:
            ValueError: the method does not apply to the problem; says which does.
        """
        ...


def require_applies(obstacle: str | None, save: tuple[str, ...], saves: tuple[str, ...]) -> None:
    """ValueError if there is an obstacle, or a name in `save` that the method does not have."""
    if obstacle is not None:
        raise ValueError(obstacle)
    for name in save:
        check.choice("save", name, saves)


def trajectory_of(
    problem: Problem,
    f: Float[np.ndarray, "*runs states points outputs"],
    kernel_steps: Int[np.ndarray, "kept"],
    Phi: Float[np.ndarray, "*runs layers kept points kept points"],
    G: Float[np.ndarray, "*runs layers kept points kept points"],
    batch_loss: Float[np.ndarray, "*runs states"] | None = None,
    more: dict[str, np.ndarray] | None = None,
) -> Trajectory:
    """The Trajectory of outputs f at the states 0 ... T, with its losses; `batch_loss` where training is online."""
    task, training, steps = problem.task, problem.training, np.arange(f.shape[-3])
    P = 0 if training.online else task.num_train
    y, y_test = (None if y is None else y.reshape(len(y), -1) for y in (task.y, task.y_test))
    loss = training.loss_of(f[..., :P, :], y) if batch_loss is None else batch_loss
    test_loss = None if y_test is None else training.loss_of(f[..., P:, :], y_test)
    return Trajectory(steps, f[..., 0] if task.y.ndim == 1 else f, loss, test_loss, kernel_steps, Phi, G, more or {})
