"""Training: optimizer, number of steps, loss -> Delta."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from widthwise import check


@dataclass(frozen=True)
class GradientDescent:
    """Full-batch gradient descent with the loss mean over the P train points of (y - f)^2 / 2.

    Args:
        eta0: learning rate in function space, O(1) at every width (the table in `parameterization` turns it into the
            rate of each weight matrix). In the lazy limit training is stable for eta0 < 2 P / lambda_max(NTK).
        num_steps: number T of updates; results have T + 1 states, index t being the state before update t.
        loss: "mse".

    Raises:
        ValueError: eta0 or num_steps not above zero; another loss.

    Example:
        >>> GradientDescent(eta0=0.2, num_steps=100)
        GradientDescent(eta0=0.2, num_steps=100, loss='mse')
    """

    eta0: float
    num_steps: int
    loss: Literal["mse"] = "mse"

    def __post_init__(self) -> None:
        object.__setattr__(self, "eta0", check.positive("eta0", self.eta0))
        object.__setattr__(self, "num_steps", check.count("num_steps", self.num_steps))
        check.choice("loss", self.loss, ("mse",))

    @staticmethod
    def Delta(f: Any, y: Any) -> Any:
        """-d loss / d f = (y - f) / P on the last axis (numpy or jax arrays), P the number of train points."""
        return (y - f) / y.shape[-1]

    @staticmethod
    def loss_of(f: Any, y: Any) -> Any:
        """mean over the last axis of (y - f)^2 / 2; infinite, without a warning, where f has diverged."""
        with np.errstate(over="ignore", invalid="ignore"):
            return ((y - f) ** 2).mean(-1) / 2
