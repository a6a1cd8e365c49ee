"""What every method of `dmft.solve` takes and gives."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from widthwise import Estimate, Problem, Status


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
