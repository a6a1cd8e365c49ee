"""Memory that solves take at the worst moment, and what they asked for: `python -m tests.peaks NAME ...` prints them.

A process of its own: the largest resident size of the second of two equal runs, less the size before it, so that what is
imported and compiled does not count.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

STATUS, RESET = "/proc/self/status", "/proc/self/clear_refs"

CASES: dict[str, tuple] = {  # method and its settings, depth, points, kept steps, what is saved, more of the problem
    "march": ("March", (8192, 4), 2, 8, 2, (), {"T": 2}),
    "march, kernels": ("March", (512, 2, 0.1), 1, 100, 10, ("NTK",), {"T": 10}),
    "march, depth": ("March", (4096, 4), 5, 16, 1, (), {}),
    "march, replicas": ("March", (2048, 16), 2, 8, 2, (), {}),
    "march, points": ("March", (4096, 4), 2, 64, 2, (), {}),
    "march, outputs": ("March", (4096, 4), 2, 16, 3, ("sharpness",), {"C": 4}),
    "march, float32": ("March", (8192, 4, None, "float32"), 2, 32, 2, (), {}),
    "march, batches": ("March", (4096, 4), 2, 64, 1, (), {"batch_size": 8}),
    "march, stream": ("March", (4096, 4), 2, 104, 1, (), {"T": 12, "batch_size": 8, "sampling": "online"}),
    "march, momentum": ("March", (4096, 4), 3, 16, 1, (), {"momentum": 0.9}),
    "march, flow": ("March", (4096, 4, None, "float64", 2), 3, 8, 1, (), {"T": 1, "flow": True}),
    "march, fields": ("March", (4096, 4), 2, 16, 3, ("h", "z"), {}),
    "march, steps": ("March", (256, 8, 0.1), 2, 20, 1, (), {"T": 3000}),
    "particles": ("TwoLayer", (32768, 4), 1, 20, 2, (), {}),
    "particles, kernels": ("TwoLayer", (1024, 2), 1, 40, 16, ("NTK",), {"T": 15}),
    "particles, points": ("TwoLayer", (8192, 4), 1, 200, 0, (), {"D": 50}),
    "particles, outputs": ("TwoLayer", (4096, 4), 1, 20, 3, ("sharpness",), {"C": 6}),
    "particles, float32": ("TwoLayer", (16384, 4, None, True, "float32"), 1, 40, 2, (), {}),
    "particles, batches": ("TwoLayer", (16384, 4), 1, 64, 1, (), {"batch_size": 8}),
    "particles, flow": ("TwoLayer", (8192, 4), 1, 20, 2, (), {"flow": True}),
    "particles, fields": ("TwoLayer", (16384, 4), 1, 16, 3, ("h", "z"), {}),
    "particles, steps": ("TwoLayer", (64, 8), 1, 20, 1, (), {"T": 3000}),
    "nodes": ("TwoLayer", (), 1, 2, 4, (), {"T": 10}),
}


def case(name: str) -> tuple[Any, Any, int, tuple[str, ...]]:
    """Method, problem, number of kept steps and what is saved."""
    from dmft.march import March
    from dmft.two_layer import TwoLayer
    from widthwise import MLP, GradientDescent, Parameterization, Problem, Task

    method, settings, depth, points, kept, save, more = CASES[name]
    more = {"T": 3, "C": 1, "D": 8} | more
    T, C, D = (more.pop(letter) for letter in "TCD")
    rng = np.random.default_rng(0)
    y = rng.standard_normal((points, C)) if C > 1 else rng.standard_normal(points)
    test = (rng.standard_normal((5, D)), y[:5]) if more.get("sampling") == "online" else ()
    task = Task(rng.standard_normal((points, D)), y, *test)
    problem = Problem(MLP(depth, "tanh"), Parameterization(gamma0=1.0), task, GradientDescent(0.03, T, **more))
    return {"March": March, "TwoLayer": TwoLayer}[method](*settings), problem, kept, save


def measured(name: str) -> dict[str, float]:
    """Bytes asked for, bytes at the peak, and what would have been asked for with no kernels kept."""
    from widthwise import memory

    method, problem, kept, save = case(name)
    asked: list[float] = []
    memory.require = lambda needed, *_: asked.append(float(needed))  # type: ignore[assignment]

    def run(steps: int) -> float:
        asked.clear()
        method.run(problem, seed=0, kernel_steps=np.arange(steps), progress=False, save=save)
        return max(asked)

    without = run(0) if kept > 3 else 0.0
    run(kept)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open(RESET, "w") as file:
        file.write("5")
    before = resident("VmRSS")
    needed = run(kept)
    return {"asked": needed, "peak": resident("VmHWM") - before, "without kernels": without}


def resident(what: str) -> int:
    """Bytes of this process now (VmRSS), or at most so far (VmHWM)."""
    with open(STATUS) as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(what))


def in_a_process(*names: str) -> dict[str, dict[str, float]]:
    """`measured` of every name; blocks of memory go back to the system as soon as they are free."""
    few = {"OMP_NUM_THREADS": "1"} | {f"MALLOC_{name}_THRESHOLD_": "65536" for name in ("MMAP", "TRIM")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.peaks", *names],
        cwd=Path(__file__).parent.parent,
        env=os.environ | few,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name: json.loads(line) for name, line in zip(names, done.stdout.splitlines(), strict=True)}


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(json.dumps(measured(name)), flush=True)
