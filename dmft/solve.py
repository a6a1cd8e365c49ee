"""The entry to the theory: `solve`."""

from __future__ import annotations

from collections.abc import Iterable

from dmft.deep_linear import DeepLinear
from dmft.lazy import Lazy
from dmft.march import March
from dmft.method import Method
from widthwise import Problem, Result, check
from widthwise.activation import NAMED
from widthwise.result import provenance
from widthwise.trajectory import chosen_steps


def solve(
    problem: Problem,
    method: Method | None = None,
    *,
    seed: int = 0,
    save_kernels: Iterable[int] | None = None,
    progress: bool = True,
    throw: bool = True,
) -> Result:
    """The infinite-width limit of a Problem.

    Without a `method`: `DeepLinear()` for linear activations, `Lazy()` where the parameterization has a lazy limit,
    `March()` for everything else.

    Args:
        problem: what to solve.
        method: `March(...)`, `DeepLinear()` or `Lazy()`.
        seed: of the sampled paths; the same seed gives the same bits on the same machine.
        save_kernels: steps at which Phi and G are kept, by default the first and the last.
        progress: show a bar (in a terminal).
        throw: raise `Unsolved` unless the status is ok.

    Returns:
        Result with f (T+1, M), loss, test_loss and kernels Phi, G (L, K, M, K, M) at the kept steps.

    Raises:
        ValueError: the parameterization has no limit, or the method does not apply.
        MemoryError: the run would not fit; estimated before it starts.
        Unsolved: training diverges, or the answer is unresolved.

    Example:
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(1, "tanh"), Parameterization(gamma0=1.0),
        ...                   tasks.sphere(3, input_dim=8), GradientDescent(eta0=0.5, num_steps=20))
        >>> theory = solve(problem, March(num_paths=256), progress=False)
        >>> bool(theory.mean.loss[-1] < theory.mean.loss[0])
        True
    """
    check.instance("problem", problem, Problem)
    if method is not None:
        check.instance("method", method, Method, "Pass March(), DeepLinear() or Lazy(), or leave it out.")
    limit = problem.parameterization.limit
    if limit == "none":
        raise ValueError(
            f"kind={problem.parameterization.kind!r} has no infinite-width limit at a fixed learning rate: one step changes "
            "f by an amount that grows like N. Use kind='mean_field' (feature learning) or kind='ntk' (lazy)."
        )
    if method is None:
        method = default_method(problem)
    elif limit == "lazy" and not isinstance(method, Lazy):
        raise ValueError("kind='ntk' has the lazy limit: use method=Lazy(), or kind='mean_field' to learn features.")
    check.count("seed", seed, least=0)
    steps = chosen_steps(problem.training.num_steps, save_kernels)
    solution = method.run(problem, seed=seed, kernel_steps=steps, progress=progress)
    return Result(problem, *solution, provenance(problem, repr(method), seed)).or_raise(throw)


def default_method(problem: Problem) -> Method:
    """The most accurate method that applies."""
    if problem.parameterization.limit == "lazy":
        return Lazy()
    return DeepLinear() if problem.architecture.activation == NAMED["linear"] else March()
