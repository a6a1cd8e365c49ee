"""Outputs of a Result as one array, with the targets that go with them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from compare import given
from compare.gap import same_points
from widthwise import Result, check
from widthwise.data import Stream


class Outputs(NamedTuple):
    """Outputs at chosen points.

    Attributes:
        steps: (T,) recorded steps.
        f: (n, T, M, C) of n networks; n = 1 of an exact result.
        y: (M, C) targets, one-hot where they are classes; None if they were not asked for.
    """

    steps: np.ndarray
    f: Float[np.ndarray, "runs steps points outputs"]
    y: Float[np.ndarray, "points outputs"] | None


def outputs_of(result: Result, y: Any = None, points: str | None = None, *, targets: bool = True, least: int = 0) -> Outputs:
    """Outputs and targets of a Result at some of its points, in float64.

    Args:
        result: of `finite.train` or `dmft.solve`.
        y: targets of the points, (M,) or (M, C), or (M,) classes; by default those of the problem.
        points: "train", "test" or "all" of a Task; by default the test points if they have targets, else the train points. Of
            a Stream, whose probes are all held out, all. Where y is given, all.
        targets: whether targets are needed.
        least: runs that there must be; an exact result has no fluctuations and always passes.

    Raises:
        ValueError: too few runs, networks that diverged, points without targets, tokens (of which the output for the token
            that comes is recorded, and no other), targets of another shape.
    """
    exact = check.result("a result", result).trajectory.n == 0
    if not exact and result.trajectory.n < least:
        raise ValueError(f"at least {least} networks are needed for an error bar, got {result.trajectory.n}. Take more seeds.")
    f = np.asarray(result.mean.f[None] if exact else result.samples.f, dtype=np.float64)
    f = f if f.ndim == 4 else f[..., None]
    if not np.isfinite(f).all():
        bad = int((~np.isfinite(f).all((1, 2, 3))).sum())
        raise ValueError(f"{bad} of {len(f)} networks diverged: lower eta0, or leave them out, before they are measured.")
    task, steps = result.problem.task, np.asarray(result.mean.steps)
    if points is not None:
        check.choice("points", points, ("train", "test", "all"))
    tokens = isinstance(task, Stream) and task.kind == "tokens"
    if y is not None or isinstance(task, Stream):
        if points not in (None, "all"):
            raise ValueError(
                f"points={points!r} is for a Task with its own targets; of a Stream, or with y given, leave it out."
            )
        if not targets:
            return Outputs(steps, f, None)
        if y is None and tokens:
            raise ValueError(
                f"{task.name} is a stream of tokens, of which results keep the output for the token that comes: a loss of "
                "an ensemble needs all. Compare outputs (compare.to_widest), or pass y to compare with the mean square error."
            )
        return Outputs(steps, f, _targets(task.probe(f.shape[2])[1] if y is None else y, f))
    at, own = _points_of(result, f.shape[2], points, targets)
    return Outputs(steps, f[:, :, at], None if own is None else _targets(own, f[:, :, at]))


def ensembles_of(nets: Any, what: str, least_widths: int = 2) -> dict[int, Result]:
    """Results by rising width, checked to share steps and points."""
    ensembles = given.by_width(nets, what, least_widths)
    for net in ensembles.values():
        same_points(net, next(iter(ensembles.values())))
    return ensembles


def _points_of(result: Result, M: int, points: str | None, targets: bool) -> tuple[slice, np.ndarray | None]:
    """Where the wanted points of a Task stand among the M watched ones, and their targets."""
    task = result.problem.task
    both = task.num_train + task.num_test == M
    only_test = not both and result.problem.training.online
    train, test = slice(0, 0 if only_test else task.num_train), slice(0 if only_test else task.num_train, M)
    if M not in (task.num_points, task.num_test if only_test else task.num_train):
        raise ValueError(
            f"outputs are at {M} points, the task has {task.num_train} train and {task.num_test} test points: pass y, "
            "the targets of the points that were watched."
        )
    has_test = test.stop > test.start
    if points is None:
        points = "test" if has_test and (task.y_test is not None or only_test) else "train"
    if points == "all":
        parts = [] if only_test else [task.y]
        parts += [task.y_test] if has_test else []
        missing = any(part is None for part in parts)
        own, at = None if missing else np.concatenate(parts), slice(0, M)
    else:
        own, at = (task.y, train) if points == "train" else (task.y_test, test)
    if at.stop <= at.start:
        raise ValueError(f"the result has no {points} points: outputs are at {M} points. Take the others, or pass y.")
    if own is None and targets:
        raise ValueError(f"the task has no y_test, and so no targets of its {points} points: take points='train', or pass y.")
    return at, own


def _targets(y: Any, f: Float[np.ndarray, "runs steps points outputs"]) -> Float[np.ndarray, "points outputs"]:
    """(M, C) targets; whole numbers of several outputs are classes."""
    y, (M, C) = np.asarray(y), f.shape[2:]
    if C > 1 and y.shape == (M,) and np.issubdtype(y.dtype, np.integer):
        if y.min() < 0 or y.max() >= C:
            raise ValueError(f"classes must lie in 0 ... {C - 1}, as there are {C} outputs; got {y.min()} ... {y.max()}.")
        return np.eye(C)[y]
    out = y.astype(np.float64)
    out = out[:, None] if out.ndim == 1 and C == 1 else out
    if out.shape != (M, C):
        raise ValueError(f"targets of {M} points and {C} outputs have shape ({M}, {C}), or ({M},) of classes; got {y.shape}.")
    return out
