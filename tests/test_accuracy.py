"""Accuracy to order within a budget: no run begins that would end late."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dmft
from dmft import accuracy
from dmft.accuracy import CLOCK, Clock, relative_error, to_order
from dmft.march import March
from dmft.method import Solution
from dmft.run import TooFewPaths
from widthwise import MLP, Estimate, GradientDescent, Parameterization, Problem, Status, Trajectory, tasks

PROBLEM = Problem(MLP(2, "tanh"), Parameterization(), tasks.sphere(3, 1, input_dim=6), GradientDescent(0.5, 40))
COMPILING = 7.0


class Told(Clock):
    """A clock that is told what time it is."""

    def __init__(self) -> None:
        self.compiling = self.time = 0.0

    def now(self) -> float:
        return self.time


def answer(error: float) -> Solution:
    """A solution with that relative error."""
    f = np.array([1 + error, 1 - error]).reshape(2, 1, 1)
    runs = Trajectory(np.arange(1), f, np.zeros((2, 1)), None, np.arange(0))
    return Solution(Estimate.of(runs), Status(True, "ok"), {})


def spent(max_seconds: float | None, enough: int = 0, rtol: float = 0.02) -> tuple[list[int], float, str]:
    """Paths of every run, the time of all, and what limited them.

    64 paths march for a second and have an error of 1/8, which falls like paths^-1/2; compiling takes 7 s every time. Fewer
    paths than `enough` stop half-way.
    """
    clock, tried = Told(), []

    def run(method: Any) -> Solution:
        S = method.num_paths
        tried.append(S)
        clock.time += COMPILING + S / 64 * (0.5 if enough > S else 1.0)
        clock.compiling += COMPILING
        if enough > S:
            raise TooFewPaths("kernels need 97 directions or more.", lambda: S / 64)
        return answer(1 / np.sqrt(S))

    try:
        solution, _ = to_order(PROBLEM, rtol, max_seconds, run, March(), clock)
    except ValueError as no_answer:
        return tried, clock.time, str(no_answer)
    return tried, clock.time, solution.stats["limited by"]


def test_a_clock_that_is_told() -> None:
    assert relative_error(answer(0.125)) == pytest.approx(0.125)
    tried, time, said = spent(None)
    assert tried[0] == 256
    assert 1 / np.sqrt(tried[-1]) <= 0.02 < 1 / np.sqrt(tried[-2])
    assert time == pytest.approx(COMPILING * len(tried) + sum(tried) / 64)
    assert said.startswith("sampling")


@pytest.mark.parametrize("enough", [0, 2000])
def test_no_run_begins_that_would_end_late(enough: int) -> None:
    """And none is left out for which there was time."""
    whole, _, _ = spent(None, enough)
    for max_seconds in range(1, 200, 3):
        tried, time, said = spent(max_seconds, enough)
        assert tried == whole[: len(tried)]
        assert time <= max_seconds or len(tried) == 1  # the first is made in any case
        if len(tried) < len(whole):
            expected = time + COMPILING + whole[len(tried)] / 64
            assert expected > max_seconds
            assert f"time: {whole[len(tried)]} paths" in said
            no_answer = enough > tried[-1]
            assert no_answer == said.startswith("kernels need 97")
            assert no_answer == said.endswith(f"max_seconds={max_seconds}. Raise max_seconds, or rtol=0.02.")


def test_other_refusals_are_raised() -> None:
    """By their kind, whatever word stands in them."""
    for refusal in (ValueError("directions"), MemoryError("directions")):

        def run(method: Any) -> Solution:
            raise refusal  # noqa: B023

        with pytest.raises(type(refusal), match="directions"):
            to_order(PROBLEM, 0.02, None, run, March())


def test_too_few_paths_say_how_long_a_march_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 paths span 24 directions, fewer than training takes; the time is that of a step that compiles nothing."""
    monkeypatch.setattr(accuracy, "FIRST_PATHS", 64)
    before, began = CLOCK.compiling, CLOCK.now()
    with pytest.raises(
        ValueError, match=r"There is no time for that: time: 128 paths .* max_seconds=0\.001\. Raise max_s"
    ) as it:
        dmft.solve(PROBLEM, March(64, 2, tol=3e-6), rtol=1e-5, max_seconds=1e-3, progress=False)
    compiling, whole = CLOCK.compiling - before, CLOCK.now() - began
    assert 0.0 < compiling < whole
    few = it.value.__cause__
    assert isinstance(few, TooFewPaths)
    assert 0.0 < few.seconds / 41 < 0.05
