"""What does the march cost, and how exact is it, against paths, steps and samples?

    python -m benchmarks.march            # some minutes on two cores; prints the tables of docs/benchmarks.md

Times are the shortest of three more runs of the same shape, when nothing compiles; the first run's extra time stands beside it.
One core shows how the work grows; on two, processor seconds also count what splitting the larger arrays costs.
The standard deviation of f is that of one replica, root mean square over steps and points; that of the mean over R is sqrt(R)
smaller. The curves go to docs/images/benchmarks.png.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

import dmft
from widthwise import MLP, GradientDescent, Parameterization, Problem, tasks

TOTAL_TIME = 30.0
"""eta0 * num_steps, held fixed when the number of steps varies."""

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "benchmarks.png"

Row = tuple[float, Problem, dmft.March]


def problem(num_train: int = 4, num_steps: int = 32, activation: str = "tanh", depth: int = 2) -> Problem:
    """Digits, as many test points as train points."""
    task = tasks.digits(num_train, num_train, classes=(3, 5))
    training = GradientDescent(TOTAL_TIME / num_steps, num_steps)
    return Problem(MLP(depth, activation), Parameterization(1.0), task, training)


def notebook(num_train: int, eta0: float, num_steps: int) -> Problem:
    """The published notebook's network: tanh(0.8 h) / 0.8, three hidden layers, gamma0 = 1."""
    act = MLP(3, lambda h: jnp.tanh(0.8 * h) / 0.8)
    return Problem(act, Parameterization(1.0), tasks.sphere(num_train, input_dim=20), GradientDescent(eta0, num_steps))


def digits_classes(num_classes: int) -> Problem:
    """64 digits, cross-entropy, 300 mini-batch steps with momentum."""
    training = GradientDescent(0.5, 300, "cross_entropy", batch_size=16, momentum=0.9)
    return Problem(MLP(2, "tanh"), Parameterization(1.0), tasks.digits(64, 0, classes=range(num_classes)), training)  # type: ignore[arg-type]


class Cost(NamedTuple):
    """Of one solve: processor seconds and seconds on the clock after compilation, and what else the tables show."""

    processor: float
    clock: float
    compiling: float
    std: float
    ranks: str
    peak: float


def measure(p: Problem, method: dmft.March, runs: int, cores: int) -> Cost:
    """Shortest of the later runs, extra seconds of the first, standard deviation of f of one replica, peak memory in GiB."""
    if hasattr(os, "sched_setaffinity"):  # before JAX makes its threads
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    times = []
    for _ in range(runs):
        start = time.process_time(), time.perf_counter()
        result = dmft.solve(p, method, progress=False)
        times.append((time.process_time() - start[0], time.perf_counter() - start[1]))
    processor, clock = np.min(times, axis=0)
    std = np.sqrt(np.mean(result.samples.f[:, 1:].var(0, ddof=1)))
    ranks = f"{result.stats.get('rank Phi', '-')} / {result.stats.get('rank G', '-')}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return Cost(processor, clock, times[0][0] - processor, float(std), ranks, peak)


Curve = tuple[list[float], list[float], float]
"""Values of the variable, processor seconds, and their exponent."""


def table(title: str, header: str, rows: list[Row], runs: int = 4, cores: int = 2) -> Curve:
    """Print one table and the exponents of time and std in its variable; each row in a process of its own, for its memory."""
    print(
        f"\n### {title}\n\n| {header} | CPU s | seconds | compiling | std of f | ranks Phi / G | peak GiB |\n"
        "|---|---|---|---|---|---|---|",
        flush=True,
    )
    x, costs = [], []
    for value, p, method in rows:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            c = pool.apply(measure, (p, method, runs, cores))
        print(
            f"| {value:g} | {c.processor:.2f} | {c.clock:.2f} | {c.compiling:.1f} | {c.std:.5f} | {c.ranks} | {c.peak:.2f} |",
            flush=True,
        )
        x.append(value), costs.append(c)
    seconds = [c.processor for c in costs]
    if len(x) < 3:
        return x, seconds, np.nan
    slope = [float(np.polyfit(np.log(x), np.log(y), 1)[0]) for y in (seconds, [c.clock for c in costs], [c.std for c in costs])]
    print(f"\nexponents: CPU s {slope[0]:.2f}, seconds {slope[1]:.2f}, std of f {slope[2]:.2f}")
    return x, seconds, slope[0]


def draw(curves: dict[str, dict[str, Curve]]) -> None:
    """Processor seconds against each variable."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(curves), figsize=(9, 3), layout="constrained", sharey=True)
    for ax, (variable, lines) in zip(axes, curves.items(), strict=True):
        for label, (x, seconds, exponent) in lines.items():
            ax.loglog(x, seconds, "o-", label=f"{label}, exponent {exponent:.2f}")
        ax.loglog(x, seconds[0] * np.array(x) / x[0] / 1.5, ":", color="grey", label="linear")
        ax.set(xlabel=variable)
        ax.set_xticks(x, [f"{n:g}" for n in x])
        ax.minorticks_off()
        ax.legend(fontsize="small")
    axes[0].set_ylabel("processor seconds of a solve")
    figure.savefig(PICTURE, dpi=150)


def against_notebook() -> None:
    """The published notebook's settings: 208 CPU s for Delta to 0.85 % and Phi to 3 to 6 %; 21 CPU hours for the default."""
    small = notebook(4, 0.2, 25)
    reference = dmft.solve(small, dmft.March(4096, 16, tol=1e-4), seed=7, progress=False).mean
    every = dmft.March(512, 4, tol=3e-3, dtype="float32")
    rows = []
    for seed in range(5):
        start = time.process_time()
        mean = dmft.solve(small, every, seed=seed, save_kernels=range(26), progress=False).mean
        seconds = time.process_time() - start
        Delta = np.linalg.norm(mean.f - reference.f) / np.linalg.norm(small.task.y - reference.f)
        Phi, exact = (x.equal_time("Phi") for x in (mean, reference))
        worst = max(np.linalg.norm(Phi[l, [0, -1]] - exact[l]) / np.linalg.norm(exact[l]) for l in range(3))
        rows.append((seconds, Delta, worst))
    seconds, Delta, worst = np.median(rows[1:], axis=0)
    print(
        f"\nnotebook, P = 4, T = 25, all kernels: {seconds:.2f} CPU s, error of Delta {Delta:.2%}, of Phi at most {worst:.2%}"
    )
    large = notebook(10, 0.1, 100)
    for label in ("with compilation", "again"):
        start = time.perf_counter()
        result = dmft.solve(large, dmft.March(1024, tol=3e-3, dtype="float32"), progress=False)
        error = np.sqrt(np.mean(result.sem.f**2) / np.mean(result.mean.f**2))
        print(f"notebook's default, P = 10, T = 100, {label}: {time.perf_counter() - start:.1f} s, error bar {error:.2%} of f")


def main() -> None:
    """Print all tables."""
    March = dmft.March
    curves: dict[str, dict[str, Curve]] = {"paths": {}, "steps": {}, "train samples": {}}
    for activation in ("tanh", "relu"):
        p = problem(activation=activation)
        paths: list[Row] = [(S, p, March(S)) for S in (1024, 2048, 4096, 8192)]
        title = f"paths ({activation}, P = Q = 4, 32 steps)"
        curves["paths"][f"{activation}, one core"] = table(f"{title}, one core", "paths", paths, cores=1)
        table(f"{title}, two cores", "paths", paths)
    steps: list[Row] = [(T, problem(num_steps=T), March(1024)) for T in (64, 128, 256, 512, 1024, 2048)]
    curves["steps"]["tanh"] = table("steps at fixed total time (tanh, P = Q = 4, 1024 paths)", "steps", steps)
    samples: list[Row] = [(P, problem(P), March(2048, tol=1e-2)) for P in (4, 8, 16, 32, 64)]
    title = "samples (tanh, Q = P, 32 steps, 2048 paths, tol 1e-2)"
    curves["train samples"]["tanh"] = table(title, "train samples", samples)
    draw(curves)
    for dtype in ("float64", "float32"):
        table(
            f"precision: {dtype} (tanh, P = Q = 16, 2048 paths, tol 1e-2)",
            "train samples",
            [(16, problem(16), March(2048, tol=1e-2, dtype=dtype))],
        )  # type: ignore[arg-type]
    classes: list[Row] = [(C, digits_classes(C), March(2048, tol=1e-2, dtype="float32")) for C in (3, 10)]
    table(
        "64 digits, cross-entropy, 300 mini-batch steps of 16 with momentum (2048 paths, float32)", "classes", classes, runs=1
    )
    against_notebook()


if __name__ == "__main__":
    main()
