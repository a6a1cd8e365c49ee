"""What tangent kernels say of the loss: how fast modes learn, and how sharp the loss is."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from widthwise.problem import Problem


def num_trained(problem: Problem) -> int:
    """P, the watched points that come first and are trained on; if training is online all watched points stand for them."""
    return problem.task.num_test if problem.training.online else problem.task.num_train


def eigenvalues(problem: Problem, K: Float[np.ndarray, "*runs points points"]) -> Float[np.ndarray, "*runs train"]:
    """(..., P) eigenvalues of K / P over the train points, largest first; NaN where K (..., M, M) is not finite.

    Example:
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(1), Parameterization(), tasks.sphere(2, 1, input_dim=8), GradientDescent(0.2, 10))
        >>> eigenvalues(problem, np.diag([2.0, 6.0, 9.0])).tolist()
        [3.0, 1.0]
    """
    P = num_trained(problem)
    return _of_finite(K[..., :P, :P] / P)[..., ::-1]


def sharpness(
    problem: Problem, K: Float[np.ndarray, "*runs points outputs points outputs"], f: Float[np.ndarray, "*runs points outputs"]
) -> Float[np.ndarray, "*runs"]:
    """Top eigenvalue of K H: K the tangent kernel, H = d^2 loss / d f d f' block by block, loss the mean over train points.

    For one output and loss="mse" it is the top one of `eigenvalues`.

    Args:
        problem: its loss and targets.
        K: (..., M, C, M, C) d f_mc / d theta . d f_nc' / d theta, in units of the learning rates.
        f: (..., M, C).

    Raises:
        ValueError: online training without y_test: the loss has no targets at the watched points.
    """
    P, C, training = num_trained(problem), problem.task.num_outputs, problem.training
    y = problem.task.y_test if training.online else problem.task.y
    if y is None:
        raise ValueError("the sharpness of online training is that at the test points: give the task y_test.")
    H = training.hessian_of(f[..., :P, :], y.reshape(P, C)) / P
    flat = K[..., :P, :, :P, :].reshape(*K.shape[:-4], P * C, P * C)
    finite = np.isfinite(flat).all((-2, -1), keepdims=True) & np.isfinite(H).all((-3, -2, -1))[..., None, None]
    values, vectors = np.linalg.eigh(np.where(finite, flat, 0.0))
    root = vectors * np.sqrt(np.maximum(values, 0.0))[..., None, :]  # K = root root^T
    Hroot = np.einsum("...mcd,...mdk->...mck", H, root.reshape(*root.shape[:-2], P, C, P * C)).reshape(root.shape)
    return _of_finite(np.where(finite, np.swapaxes(root, -1, -2) @ Hroot, np.nan))[..., -1]


def _of_finite(x: Float[np.ndarray, "*runs n n"]) -> Float[np.ndarray, "*runs n"]:
    """Eigenvalues of symmetric matrices, smallest first; NaN of those that are not finite."""
    finite = np.isfinite(x).all((-2, -1))
    return np.where(finite[..., None], np.linalg.eigvalsh(np.where(finite[..., None, None], x, 0.0)), np.nan)
