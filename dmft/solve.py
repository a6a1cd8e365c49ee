"""The entry to the theory: `solve`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from dmft import deep_linear, two_layer
from dmft.accuracy import to_order
from dmft.deep_linear import DeepLinear
from dmft.lazy import Lazy
from dmft.march import March, is_plain_mlp
from dmft.method import Method, Solution
from dmft.process.run import SAVES
from dmft.two_layer import TwoLayer
from widthwise import Problem, Result, Trajectory, check
from widthwise.activation import NAMED
from widthwise.checked import checked
from widthwise.result import provenance
from widthwise.storage import held
from widthwise.trajectory import chosen_steps

LARGEST_GRID = 3000
"""Steps times points up to which DeepLinear, whose cost is their cube, is chosen."""


@checked
def solve(
    problem: Problem,
    method: Method | None = None,
    *,
    rtol: float | None = None,
    max_seconds: float | None = None,
    seed: int = 0,
    save_kernels: Iterable[int] | None = None,
    save: str | Iterable[str] = (),
    record: Iterable[int] | None = None,
    num_probes: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
    throw: bool = True,
) -> Result:
    """The infinite-width limit of a Problem.

    Without a `method` the most accurate one that applies is taken; `print(result)` says which and why.

    Args:
        problem: what to solve.
        method: `March(...)`, `TwoLayer(...)`, `DeepLinear()` or `Lazy()`.
        rtol: error bar of f that is asked for, relative to f (root mean squares over steps and points): sampled methods
            then take as many paths as that needs, and `stats` say what it came to and what limited it.
        max_seconds: budget for that: the first run is made in any case, and no other begins that would end later. Where it
            is used up, the best answer comes with a status that is not ok.
        seed: of the sampled paths; the same seed gives the same bits on the same machine.
        save_kernels: steps at which Phi and G are kept, by default the first and the last.
        save: more observables at those steps, by the names in `Trajectory.NAMES`: "NTK", "eigenvalues", "sharpness",
            "update_size", "h", "z", "phi_r", "g_u"; of networks other than an MLP on a Task "kernels", "gradient_kernels",
            "attention" and "update_size", by field.
        record: steps to record, of those networks; by default 32 of them, evenly in log t.
        num_probes: held-out points of a Stream at which they are watched; by default 64, or all there are.
        checkpoint: a file in which a long march saves itself every minute; a solve that finds the file goes on from there and
            gives the bits of an uninterrupted one. It is removed at the end.
        progress: show a bar (in a terminal).
        throw: raise `Unsolved` unless the status is ok.

    Returns:
        Result with f (T+1, M), or (T+1, M, C) for C outputs, loss, test_loss and kernels Phi, G (L, K, M, K, M) at the kept
        steps.

    Raises:
        ValueError: the parameterization has no limit, or the method does not apply; another run has the checkpoint.
        OSError: the folder of the checkpoint is missing or cannot be written.
        MemoryError: the run would not fit; estimated before it starts.
        Unsolved: training diverges, or the answer is unresolved.

    Example:
        >>> from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks
        >>> problem = Problem(MLP(2, "tanh"), Parameterization(gamma0=1.0),
        ...                   tasks.sphere(3, input_dim=8), GradientDescent(eta0=0.5, num_steps=20))
        >>> theory = solve(problem, March(num_paths=256), progress=False)
        >>> bool(theory.mean.loss[-1] < theory.mean.loss[0])
        True
    """
    check.outside_jit("dmft.solve")
    plain = is_plain_mlp(problem)
    if not plain and (method is not None and not isinstance(method, March)):
        raise ValueError(f"{type(method).__name__} is for an MLP on a Task under gradient descent: use method=March().")
    if plain and not (record is None and num_probes is None):
        raise ValueError("an MLP on a Task is recorded at every step and at all points: leave out record and num_probes.")
    limit = problem.parameterization.limit
    if limit == "none":
        raise ValueError(
            f"kind={problem.parameterization.kind!r} has no infinite-width limit at a fixed learning rate: one step changes "
            "f by an amount that grows like N. Use kind='mean_field' (feature learning) or kind='ntk' (lazy)."
        )
    if limit == "lazy" and method is not None and not isinstance(method, Lazy):
        raise ValueError("kind='ntk' has the lazy limit: use method=Lazy(), or kind='mean_field' to learn features.")
    check.seed("seed", seed)
    for name, value in (("rtol", rtol), ("max_seconds", max_seconds)):
        if value is not None:
            check.positive(name, value)
    save = (save,) if isinstance(save, str) else tuple(save)
    for name in save:
        check.choice("save", name, Trajectory.NAMES if plain else SAVES)
    why = "as asked for"
    if method is None:
        method, why = choose(problem, save) if plain else (March(), "any network: sampled paths, conditioned matrices")
    steps = chosen_steps(problem.training.num_steps, save_kernels)
    run = partial(
        _run,
        problem,
        seed=seed,
        kernel_steps=steps,
        progress=progress,
        save=save,
        checkpoint=checkpoint,
        several=rtol is not None,
        more={} if plain else {"record": record, "num_probes": num_probes},
    )
    with held(checkpoint, "checkpoint"):
        if rtol is not None and isinstance(method, March | TwoLayer):
            solution, method = to_order(problem, rtol, max_seconds, run, method)
        else:
            solution = run(method)
    known = provenance(problem, repr(method), seed) | {"why": why}
    return Result(problem, *solution, known).or_raise(throw)


def _run(
    problem: Problem,
    method: Method,
    *,
    checkpoint: str | os.PathLike[str] | None,
    several: bool,
    more: dict[str, Any],
    **settings: Any,
) -> Solution:
    """`method.run`; only a march takes long enough for checkpoints, and of `several` marches each has its own."""
    if not isinstance(method, March):
        return method.run(problem, **settings)
    settings |= more
    if checkpoint is None:
        return method.run(problem, **settings)
    path = Path(checkpoint)
    return method.run(problem, **settings, checkpoint=path.with_name(f"{path.name}.{method.num_paths}") if several else path)


def choose(problem: Problem, save: tuple[str, ...] = ()) -> tuple[Method, str]:
    """The most accurate method that applies and knows what is to be saved, and why it is that one."""
    if problem.parameterization.limit == "lazy":
        return Lazy(), "kind='ntk' has the lazy limit"
    grid = (problem.training.num_steps + 1) * problem.num_watched
    if DeepLinear.obstacle(problem) is None and grid <= LARGEST_GRID and {*save} <= {*deep_linear.SAVES}:
        return DeepLinear(), "linear activation: averages close on themselves, no sampling"
    if problem.architecture.depth == 1 and TwoLayer.obstacle(problem) is None and {*save} <= {*two_layer.SAVES}:
        return TwoLayer(), "one hidden layer: particles without responses"
    if problem.architecture.activation == NAMED["linear"]:
        return March(num_paths=1024, tol=1e-8), "linear activation: second moments of the paths are exact"
    return March(), "deep and nonlinear: sampled paths"
