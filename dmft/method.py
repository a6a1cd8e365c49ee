"""What every method of `dmft.solve` takes and gives."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from widthwise import Estimate, Problem, Status, Trajectory


class Solution(NamedTuple):
    """What a method gives; `dmft.solve` makes a Result of it."""

    trajectory: Estimate
    status: Status
    stats: dict[str, Any]


@runtime_checkable
class Method(Protocol):
    """A way to solve the infinite-width limit: a small frozen dataclass of its settings."""

    def run(self, problem: Problem, *, seed: int, kernel_steps: Int[np.ndarray, "kept"], progress: bool) -> Solution:
        """Solve `problem`, keeping kernels at `kernel_steps`.

        Raises:
            ValueError: the method does not apply to the problem; says which does.
        """
        ...


def trajectory_of(
    problem: Problem,
    f: Float[np.ndarray, "*runs states points"],
    kernel_steps: Int[np.ndarray, "kept"],
    Phi: Float[np.ndarray, "*runs layers kept points kept points"],
    G: Float[np.ndarray, "*runs layers kept points kept points"],
) -> Trajectory:
    """The Trajectory of outputs f at the states 0 ... T, with its train loss, and its test loss if there are targets."""
    task, P, loss_of = problem.task, problem.task.num_train, problem.training.loss_of
    return Trajectory(
        steps=np.arange(f.shape[-2]),
        f=f,
        loss=loss_of(f[..., :P], task.y),
        test_loss=None if task.y_test is None else loss_of(f[..., P:], task.y_test),
        kernel_steps=kernel_steps,
        Phi=Phi,
        G=G,
    )
