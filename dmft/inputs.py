"""The input layer: coordinates of the points in which the weights W^0 are white noise."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from widthwise import Problem


def input_root(problem: Problem) -> Float[np.ndarray, "points rank"]:
    """Rows x_m / sqrt(D), and the bias, of all points (train, then test) in their principal directions, largest first.

    root root^T = Phi^0 = X X^T / D + bias^2, without its null space.
    """
    task = problem.task
    X = task.X_all / np.sqrt(task.input_dim)
    X = np.concatenate([X, np.full((len(X), 1), problem.architecture.bias)], axis=1) if problem.architecture.bias else X
    U, values, _ = np.linalg.svd(X, full_matrices=False)
    keep = values > max(X.shape) * np.finfo(np.float64).eps * values[0]
    keep[0] = True
    return U[:, keep] * values[keep]
