"""What does the march cost, and how exact is it, against paths, steps and samples?

    python -m benchmarks.march            # some minutes on two cores; prints the tables of docs/benchmarks.md

Times are of a second run of the same shape, when nothing compiles; the first run's extra time stands beside it. The standard
deviation of f is that of one replica, root mean square over steps and points; that of the mean over R is sqrt(R) smaller.
"""

from __future__ import annotations

import time

import numpy as np

import dmft
from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks

TOTAL_TIME = 30.0
"""eta0 * num_steps, held fixed when the number of steps varies."""


def problem(num_train: int = 4, num_steps: int = 30, activation: str = "tanh", depth: int = 2) -> Problem:
    """Digits, as many test points as train points."""
    task = tasks.digits(num_train, num_train, classes=(3, 5))
    training = GradientDescent(TOTAL_TIME / num_steps, num_steps)
    return Problem(MLP(depth, activation), Parameterization(1.0), task, training)


def measure(p: Problem, method: dmft.March) -> tuple[float, float, float, str]:
    """Seconds, extra seconds of the first run, standard deviation of f of one replica, ranks."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        result = dmft.solve(p, method, progress=False)
        times.append(time.perf_counter() - start)
    std = np.sqrt(np.mean(result.samples.f[:, 1:].var(0, ddof=1)))
    ranks = f"{result.stats.get('rank Phi', '-')} / {result.stats.get('rank G', '-')}"
    return times[1], times[0] - times[1], float(std), ranks


def table(title: str, header: str, rows: list[tuple[float, Problem, dmft.March]]) -> None:
    """Print one table and the exponents of time and std in its variable."""
    print(f"\n### {title}\n\n| {header} | seconds | compiling | std of f | ranks Phi / G |\n|---|---|---|---|---|", flush=True)
    x, seconds, stds = [], [], []
    for value, p, method in rows:
        t, compiling, std, ranks = measure(p, method)
        print(f"| {value:g} | {t:.2f} | {compiling:.1f} | {std:.5f} | {ranks} |", flush=True)
        x.append(value), seconds.append(t), stds.append(std)
    slope = [np.polyfit(np.log(x), np.log(y), 1)[0] for y in (seconds, stds)]
    print(f"\nexponents: seconds {slope[0]:.2f}, std of f {slope[1]:.2f}")


def main() -> None:
    """Print all tables."""
    March = dmft.March
    for activation in ("tanh", "relu"):
        p = problem(activation=activation)
        paths = [(S, p, March(S)) for S in (1024, 2048, 4096, 8192)]
        table(f"paths ({activation}, P = Q = 4, 30 steps)", "paths", paths)
    steps = [(T, problem(num_steps=T), March(1024)) for T in (30, 60, 120, 240, 480)]
    table("steps at fixed total time (tanh, P = Q = 4, 1024 paths)", "steps", steps)
    samples = [(P, problem(num_train=P), March(1024, tol=1e-2)) for P in (2, 4, 8, 16, 32)]
    table("samples (tanh, Q = P, 30 steps, 1024 paths, tol 1e-2)", "train samples", samples)


if __name__ == "__main__":
    main()
