"""Training in function space with kernels that are given: one that stands still, or a measured sequence of moving ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from widthwise import check
from widthwise.checked import Numbers, checked
from widthwise.problem import Problem
from widthwise.tasks import Task
from widthwise.training import move

UNEVEN, NEGATIVE = 1e-4, 1e-2
"""How far from symmetric, over the largest entry, and how negative, over the largest eigenvalue, noise may make a kernel."""


@checked
def kernel_descent(problem: Problem, K: Numbers, kernel_steps: Numbers = None) -> Float[np.ndarray, "states points"]:
    """f of a model with tangent kernel K, trained as the Problem says, from f(0) = 0.

        v <- momentum v + K(t) Delta,   f <- f + eta(t) v            (Delta = -d loss / d f at the train points)
        flow:  df / dtau = K Delta, exactly if K stands still

    Networks have such an equation up to terms of order eta^2, with K their tangent kernel "NTK" at every step; here K is
    interpolated linearly between the steps at which it is known, and kept constant outside of them. With several outputs
    the same K (their mean) is taken for each.

    Args:
        problem: its task and training; the architecture is not looked at.
        K: (M, M) kernel between the P train and Q test points, static; or (k, M, M), known at the steps `kernel_steps`.
        kernel_steps: (k,) steps, increasing; with K (k, M, M) alone.

    Returns:
        (T+1, M), or (T+1, M, C) with C outputs.

    Raises:
        ValueError: online training, decay or temperature; a flow of another loss than mse; shapes that do not fit; a kernel
            that is not symmetric and positive.

    Example:
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, Task
        >>> problem = Problem(MLP(1), Parameterization(), Task([[1.0]], [1.0]), GradientDescent(0.5, 2))
        >>> kernel_descent(problem, [[1.0]])[:, 0].tolist()
        [0.0, 0.5, 0.75]
    """
    task, training = problem.task, problem.training
    if not isinstance(task, Task) or training.online or training.optimizer is not None:
        raise ValueError("kernel_descent trains on the points of a Task that is seen again and again, by gradient descent.")
    for name in ("weight_decay", "temperature"):
        if getattr(training, name):
            raise ValueError(f"{name} acts on weights, which kernel_descent does not have: leave it out.")
    if training.flow and training.loss.name != "mse":
        raise ValueError(f"flow in function space is known for loss='mse', got {training.loss.name!r}. Take small steps.")
    kernels, steps = _checked(task, K, kernel_steps)
    P, M, C, T = task.num_train, task.num_points, task.num_outputs, training.num_steps
    y, etas = task.y.reshape(P, C), training.step_sizes
    index, noise = training.batches_of(P, C)
    f, velocity, factors, factors_of = np.zeros((T + 1, M, C)), None, None, -1
    for t in range(T):
        at = t + 0.5 * training.flow  # the middle of a step of the flow is right to second order
        now, constant = _interpolated(kernels, steps, at)
        if training.flow:
            if factors is None or constant is None or constant != factors_of:
                factors, factors_of = np.linalg.eigh(now[:P, :P]), -1 if constant is None else constant
            f[t + 1] = f[t] + now[:, :P] @ _integral(*factors, etas[t] / P) @ (y - f[t, :P])
            continue
        batch = index[t]
        Delta = training.Delta(f[t, batch], y[batch] + (0.0 if noise is None else noise[t]))
        f[t + 1], velocity = move(f[t], velocity, now[:, batch] @ Delta, etas[t], training.momentum, training.nesterov, 0.0)
    return f if task.y.ndim == 2 else f[..., 0]


def _checked(task: Task, K: Any, kernel_steps: Any) -> tuple[Float[np.ndarray, "kept points points"], np.ndarray]:
    M = task.num_points
    if np.ndim(K) == 2:
        kernels, steps = check.array("K", K, 2, "(M, M)")[None], np.zeros(1)
        if kernel_steps is not None:
            raise ValueError("kernel_steps goes with K of shape (k, M, M), got one kernel. Leave it out: K is static.")
    else:
        kernels = check.array("K", K, 3, "(M, M) or (k, M, M)")
        if kernel_steps is None:
            raise ValueError("K of shape (k, M, M) needs kernel_steps, the k steps at which it is known.")
        steps = check.array("kernel_steps", kernel_steps, 1, "(k,)")
        if len(steps) != len(kernels) or (np.diff(steps) <= 0).any():
            raise ValueError(f"kernel_steps must be {len(kernels)} increasing steps, one per kernel; got {steps.tolist()}.")
    if kernels.shape[1:] != (M, M):
        raise ValueError(f"K must be between the M = {M} train and test points, got shape {kernels.shape[1:]}.")
    P, size = task.num_train, np.abs(kernels).max()
    if np.abs(kernels - kernels.swapaxes(1, 2)).max() > UNEVEN * size:
        raise ValueError("K must be symmetric, K[m, n] = K[n, m]. Pass (K + K.T) / 2.")
    values = np.linalg.eigvalsh(kernels[:, :P, :P])
    if (values[:, 0] < -NEGATIVE * values[:, -1]).any():
        worst = int((values[:, 0] / np.maximum(values[:, -1], 1e-300)).argmin())
        raise ValueError(
            f"K must be positive; its eigenvalues (train points) go from {values[worst, 0]:.3g} to {values[worst, -1]:.3g}"
            f"{f' at step {steps[worst]:g}' if len(steps) > 1 else ''}; along the first f would run away."
        )
    return kernels, steps


def _interpolated(
    kernels: Float[np.ndarray, "kept points points"], steps: np.ndarray, at: float
) -> tuple[Float[np.ndarray, "points points"], int | None]:
    """The kernel at a time; before the first and after the last step also the index of the one that stands still."""
    i = int(np.searchsorted(steps, at, side="right"))
    if i == 0 or i == len(steps):
        still = min(i, len(steps) - 1)
        return kernels[still], still
    share = (at - steps[i - 1]) / (steps[i] - steps[i - 1])
    return (1 - share) * kernels[i - 1] + share * kernels[i], None


def _integral(
    values: Float[np.ndarray, "train"], vectors: Float[np.ndarray, "train train"], tau: float
) -> Float[np.ndarray, "train train"]:
    """int_0^tau exp(-K s) ds = V [(1 - exp(-lambda tau)) / lambda] V^T."""
    x = np.maximum(values, 0.0) * tau
    weight = tau * np.divide(-np.expm1(-x), x, out=np.ones_like(x), where=x > 0)
    return (vectors * weight) @ vectors.T
