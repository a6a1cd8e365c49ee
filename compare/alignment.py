"""Alignment of kernels."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from compare import given
from compare.gap import same_points
from widthwise import Result, Trajectory, check
from widthwise.checked import checked


@checked
def alignment(a: Result, b: Result, kernel: str = "Phi") -> Float[np.ndarray, "layers kept"]:
    """Cosine Tr(K_a K_b) / (|K_a| |K_b|) of the equal-time kernels of two results, per layer and kept step.

    Insensitive to the size of a kernel, and forgiving: 0.997 can hide relative errors of 5 to 10 % (`gap` does not).

    Args:
        a, b: Results on the same kept steps and points.
        kernel: "Phi" or "G".

    Returns:
        (L, K) alignments of the mean kernels.

    Raises:
        ValueError: steps or points differ; kernels were not kept.

    Example:
        >>> import finite
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(2, "tanh"), Parameterization(), tasks.sphere(3, input_dim=8), GradientDescent(0.5, 10))
        >>> net = finite.train(problem, width=32, num_seeds=8, progress=False)
        >>> alignment(net, net).round(6).tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """
    same_points(a, b)
    x, y = _equal_time(a.mean, kernel), _equal_time(b.mean, kernel)
    return (x * y).sum((-2, -1)) / np.linalg.norm(x, axis=(-2, -1)) / np.linalg.norm(y, axis=(-2, -1))


@checked
def alignment_of_runs(a: Result, b: Result, kernel: str = "Phi") -> Float[np.ndarray, "runs layers kept"]:
    """The same cosine between every single run of one result and the mean kernel of another: (n, L, K).

    Args:
        a, b: Results on the same kept steps and points: the theory, of which the mean is taken, and networks with their single
            runs, in either order; or two of a kind, runs of a and the mean of b.
        kernel: "Phi" or "G".

    Raises:
        ValueError: steps or points differ; kernels or runs were not kept.

    Example:
        >>> import finite
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(1, "tanh"), Parameterization(), tasks.sphere(3, input_dim=8), GradientDescent(0.5, 10))
        >>> net = finite.train(problem, width=32, num_seeds=8, progress=False)
        >>> alignment_of_runs(net, net).shape
        (8, 1, 2)
    """
    b, a = given.theory_first(b, a)
    same_points(a, b)
    x, y = _equal_time(a.samples, kernel), _equal_time(b.mean, kernel)
    return (x * y).sum((-2, -1)) / np.linalg.norm(x, axis=(-2, -1)) / np.linalg.norm(y, axis=(-2, -1))


def _equal_time(trajectory: Trajectory, kernel: str) -> Float[np.ndarray, "*runs layers kept points points"]:
    check.choice("kernel", kernel, ("Phi", "G"))
    if getattr(trajectory, kernel) is None or not len(trajectory.kernel_steps):
        raise ValueError(f"the result has no kernels {kernel}: save_kernels was empty. Keep some, e.g. save_kernels=[0, 10].")
    return trajectory.equal_time(kernel)
