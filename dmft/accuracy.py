"""Accuracy to order: as many paths as the error bar of f asks for."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from dmft.march import March
from dmft.method import Solution
from dmft.noise import num_images
from dmft.two_layer import TwoLayer
from widthwise import Problem, Status

FIRST_PATHS = 256
SLOPE = 0.6
"""The error bar falls at least like paths^-SLOPE (measured 0.65 to 0.75, docs/benchmarks.md)."""


def relative_error(solution: Solution) -> float:
    """Standard error of f over f, root mean squares over steps and points."""
    estimate = solution.trajectory
    return float(np.sqrt(np.mean(estimate.sem.f**2) / np.mean(estimate.mean.f**2)))


Sampled = March | TwoLayer


def to_order(
    problem: Problem, rtol: float, max_seconds: float | None, run: Callable[[Sampled], Solution], method: Sampled
) -> tuple[Solution, Sampled]:
    """The solution whose error bar of f is at most rtol of f, by runs with more and more paths.

    The first has few paths; its error bar tells how many more it takes. The factor's tolerance is a third of rtol, so that what
    it cuts off stays below the error bar, and fields are in float32 unless rtol asks for more.

    Args:
        problem: what to solve.
        rtol: standard error of f over f, root mean squares over steps and points.
        max_seconds: no run is begun that would end later.
        run: solves with the method that it is given.
        method: whose replicas to take.

    Returns:
        the last solution, and the method that gave it; its status is not ok if the error bar is larger than asked for.
    """
    start = time.perf_counter()
    if isinstance(method, March):
        precision: Any = "float32" if rtol > 1e-4 else "float64"
        tol = min(1e-2, rtol / 3) if method.tol == March.tol else method.tol  # another than the default was meant
        method = dataclasses.replace(method, tol=tol, dtype=precision)
    paths, solution, said, solver = FIRST_PATHS, None, "", method
    spent: list[str] = []
    while True:
        method = dataclasses.replace(method, num_paths=paths)
        began = time.perf_counter()
        try:
            tried = run(method)
        except (ValueError, MemoryError) as refusal:
            if "directions" in str(refusal) and paths < 2**20:
                paths *= 2  # too few paths to span the directions: not a matter of accuracy
                continue
            if solution is None or isinstance(refusal, ValueError):
                raise
            said = f"memory ({refusal})"
            break
        seconds = time.perf_counter() - began
        solution, solver, error = tried, method, relative_error(tried)
        spent.append(f"{method.num_replicas} x {paths} paths: {error:.2g}")
        if not solution.status.ok:
            return solution, solver
        if error <= rtol:
            said = "sampling: the error bar asked for is reached"
            break
        wanted = paths * (1.15 * error / rtol) ** (1 / SLOPE)
        step = 4 * num_images(problem.architecture.activation.odd)
        more = max(2 * paths, step * math.ceil(wanted / step))
        if max_seconds is not None and time.perf_counter() - start + seconds * more / paths > max_seconds:
            said = f"time: {more} paths would take about {seconds * more / paths:.0f} s more, max_seconds={max_seconds:g}"
            break
        paths = more
    reached = relative_error(solution)
    stats: dict[str, Any] = {"rtol": rtol, "relative error": reached, "limited by": said, "tried": "; ".join(spent)}
    status = solution.status
    if reached > rtol:
        status = Status(False, f"the error bar of f is {reached:.2g}, not rtol={rtol:g}; limited by {said}.")
    return Solution(solution.trajectory, status, solution.stats | stats), solver
