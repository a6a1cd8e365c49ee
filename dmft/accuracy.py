"""Accuracy to order: as many paths as the error bar of f asks for, and no march that would end late."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dmft.march import March, is_plain_mlp
from dmft.method import Solution
from dmft.noise import num_images
from dmft.run import TooFewPaths
from dmft.two_layer import TwoLayer
from widthwise import Problem, Status

FIRST_PATHS = 256
SLOPE = 0.6
"""The error bar falls at least like paths^-SLOPE (measured 0.65 to 0.75, docs/benchmarks.md)."""


MOST_PATHS = 2**20
"""Up to which the search for enough paths to span the directions goes on."""


class Clock:
    """Time that has passed, and how much of it went into compiling, which does not grow with the paths."""

    def __init__(self) -> None:
        self.compiling = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith("/jax/core/compile/"):
            self.compiling += duration_secs

    def now(self) -> float:
        return time.perf_counter()


CLOCK = Clock()


def relative_error(solution: Solution) -> float:
    """Standard error of f over f, root mean squares over steps and points."""
    estimate = solution.trajectory
    return float(np.sqrt(np.mean(estimate.sem.f**2) / np.mean(estimate.mean.f**2)))


Sampled = March | TwoLayer


def to_order(
    problem: Problem,
    rtol: float,
    max_seconds: float | None,
    run: Callable[[Sampled], Solution],
    method: Sampled,
    clock: Clock = CLOCK,
) -> tuple[Solution, Sampled]:
    """The solution whose error bar of f is at most rtol of f, by runs with more and more paths.

    The first has few paths; its error bar tells how many more it takes. The tolerance of the factor follows the paths
    (`March.tolerance`), unless it is given. Fields are in float32 unless rtol asks for more.

    Args:
        problem: what to solve.
        rtol: standard error of f over f, root mean squares over steps and points.
        max_seconds: no run is begun that would end later, as far as the last one tells; the first is begun in any case.
        run: solves with the method that it is given.
        method: whose replicas to take.
        clock: what time it is.

    Returns:
        the last solution, and the method that gave it; its status is not ok if the error bar is larger than asked for.

    Raises:
        ValueError: the first paths cannot span the directions, and as many as can would take too long: there is no answer.
    """
    start = clock.now()
    if isinstance(method, March) and is_plain_mlp(problem):
        precision: Any = "float32" if rtol > 1e-4 else "float64"
        method = dataclasses.replace(method, dtype=precision)
    paths, solution, said, solver = FIRST_PATHS, None, "", method
    spent: list[str] = []
    while True:
        method = dataclasses.replace(method, num_paths=paths)
        began, compiled = clock.now(), clock.compiling
        refusal: TooFewPaths | None = None
        try:
            tried = run(method)
        except TooFewPaths as few:
            if 2 * paths > MOST_PATHS:
                raise
            refusal, more = few, 2 * paths  # not a matter of accuracy
        except MemoryError as full:
            if solution is None:
                raise
            said = f"memory ({full})"
            break
        compiling = clock.compiling - compiled
        if refusal is not None:
            marching = refusal.seconds if max_seconds is not None else 0.0
        else:
            marching = max(clock.now() - began - compiling, 0.0)
            solution, solver, error = tried, method, relative_error(tried)
            spent.append(f"{method.num_replicas} x {paths} paths: {error:.2g}")
            if not solution.status.ok:
                return solution, solver
            if error <= rtol:
                said = "sampling: the error bar asked for is reached"
                break
            wanted = paths * (1.15 * error / rtol) ** (1 / SLOPE)
            step = 4 * num_images(is_plain_mlp(problem) and problem.architecture.activation.odd)
            more = max(2 * paths, step * math.ceil(wanted / step))
        expected = compiling + marching * more / paths
        if max_seconds is not None and clock.now() - start + expected > max_seconds:
            said = f"time: {more} paths would take about {expected:.0f} s more, max_seconds={max_seconds:g}"
            if solution is None:
                raise ValueError(
                    f"{refusal} There is no time for that: {said}. Raise max_seconds, or rtol={rtol:g}."
                ) from refusal
            break
        paths = more
    reached = relative_error(solution)
    stats: dict[str, Any] = {"rtol": rtol, "relative error": reached, "limited by": said, "tried": "; ".join(spent)}
    status = solution.status
    if reached > rtol:
        status = Status(False, f"the error bar of f is {reached:.2g}, not rtol={rtol:g}; limited by {said}.")
    return Solution(solution.trajectory, status, solution.stats | stats), solver
