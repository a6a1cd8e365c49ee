"""The causal march: the infinite-width limit of a deep nonlinear network, step by step in time.

`dmft.site` has the equations of one step, `dmft.run` the loop over time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from dmft.method import Solution, require_applies
from dmft.physics import LEAST_GAMMA0
from dmft.process import run as process
from dmft.run import Run
from widthwise import MLP, GradientDescent, Problem, Status, Task, check
from widthwise.checkpoint import remove
from widthwise.outputs import recorded_steps
from widthwise.precision import float64

FINEST = 0.05
"""tol times paths times sqrt(replicas), by default: for tanh the bias is a fifth of the error bar or less (docs/march.md)."""

MOST_SUBSTEPS = 64
"""Runge-Kutta steps per recorded interval at which the search for enough of them gives up."""


@dataclass(frozen=True)
class March:
    """The causal march in time with sampled paths; for every depth, activation, gamma0 and way of training.

    Args:
        num_paths: paths S per replica and layer, a multiple of 4. The error bar falls like S^-1/2 or faster, a bias like 1/S.
        num_replicas: independent replicas R; their spread is the error bar, a bias included (`dmft.spread`).
        tol: rest of a kernel, relative to its size, below which no new direction is kept. None: small enough that this bias
            stays below the error bar of so many paths, or as small as the paths have directions for (`tolerance`).
        dtype: of the fields; the factor is float64 always. "float32" is two to three times faster.
        substeps: Runge-Kutta steps per interval of gradient flow (`GradientDescent(flow=True)`); None doubles them until f
            changes by less than a third of its error bar, or by 1e-4 of f.
        control_variate: take out of f what sampling does to the lazy limit, which is known exactly (`dmft.control`): at gamma0
            = 0.2 the error bar falls fivefold. It serves where gamma0 <= 1, with full batches, one output and four replicas.
        readout: "ntk_euler" takes f(t+1) = f(t) + eta0 K(t) Delta(t), true to first order in eta0 only, as the published
            notebooks do; for comparison with them.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> March(num_paths=1024)
        March(num_paths=1024, num_replicas=8, tol=None, dtype='float64', substeps=None, control_variate=True, readout='exact')
    """

    num_paths: int = 2048
    num_replicas: int = 8
    tol: float | None = None
    dtype: Literal["float32", "float64"] = "float64"
    substeps: int | None = None
    control_variate: bool = True
    readout: Literal["exact", "ntk_euler"] = "exact"

    def __post_init__(self) -> None:
        cure = "Sobol points come with three mirror images each."
        if check.count("num_paths", self.num_paths, cure, least=16) % 4:
            raise ValueError(f"num_paths must be a multiple of 4, got {self.num_paths}. {cure}")
        check.count("num_replicas", self.num_replicas, "The error bar is the spread of at least two replicas.", least=2)
        if self.tol is not None:
            check.positive("tol", self.tol)
        check.choice("dtype", self.dtype, ("float32", "float64"))
        check.flag("control_variate", self.control_variate)
        check.choice("readout", self.readout, ("exact", "ntk_euler"))
        if self.substeps is not None:
            check.count("substeps", self.substeps, most=10**6)

    @property
    def tolerance(self) -> float:
        """tol, or what goes with the paths: the error bar falls like S^-0.7 R^-1/2, the bias like tol^0.7."""
        return self.tol or FINEST / (self.num_paths * self.num_replicas**0.5)

    def run(
        self,
        problem: Problem,
        *,
        seed: int,
        kernel_steps: Int[np.ndarray, "kept"],
        progress: bool,
        save: tuple[str, ...] = (),
        checkpoint: Path | None = None,
        record: Iterable[int] | None = None,
        num_probes: int | None = None,
    ) -> Solution:
        """Solve `problem`; see `dmft.solve`."""
        if not is_plain_mlp(problem):
            return self._run_any(problem, seed, kernel_steps, progress, save, checkpoint, record, num_probes)
        if problem.parameterization.gamma0 < LEAST_GAMMA0:
            raise ValueError(
                f"March needs gamma0 of at least {LEAST_GAMMA0:g} (f is an average over gamma0): use method=Lazy()."
            )
        plain = GradientDescent(problem.training.eta0, problem.training.num_steps)
        if self.readout == "ntk_euler" and (
            problem.training != plain or problem.task.num_outputs > 1 or problem.architecture.bias
        ):
            raise ValueError('readout="ntk_euler" is for full-batch gradient descent with loss="mse", one output, no biases.')
        if problem.training.flow and self.substeps is None:
            settings: Any = {"seed": seed, "kernel_steps": kernel_steps, "progress": progress, "save": save}

            def run(substeps: int) -> Solution:
                file = checkpoint and checkpoint.with_name(f"{checkpoint.name}.{substeps}")
                return replace(self, substeps=substeps).run(problem, **settings, checkpoint=file)

            return resolved_in_time(run)
        with float64():
            solution = Run(self, problem, seed, kernel_steps, save).solve(progress, checkpoint)
        if checkpoint is not None:
            remove(checkpoint)
        return solution

    def _run_any(
        self,
        problem: Problem,
        seed: int,
        kernel_steps: Int[np.ndarray, "kept"],
        progress: bool,
        save: tuple[str, ...],
        checkpoint: Path | None,
        record: Iterable[int] | None,
        num_probes: int | None,
    ) -> Solution:
        """The limit of any network (`dmft.process`)."""
        require_applies(process.obstacle(problem), save, process.SAVES)
        if self.readout != "exact" or self.dtype != "float64" or self.substeps is not None:
            raise ValueError("readout, dtype and substeps are for an MLP on a Task: leave them out.")
        steps = recorded_steps(problem.training.num_steps, record)
        steps = np.union1d(steps, kernel_steps if save else []).astype(int)
        with float64():
            run = process.Run(
                self, problem, seed=seed, steps=steps, kernel_steps=kernel_steps, save=save, num_probes=num_probes
            )
            return run.solve(progress, checkpoint)


def is_plain_mlp(problem: Problem) -> bool:
    """Whether it is an MLP on a Task under gradient descent, with the one rate of mean field."""
    mlp, on_task = isinstance(problem.architecture, MLP), isinstance(problem.task, Task)
    return mlp and on_task and problem.training.optimizer is None and problem.parameterization.base_width is None


def resolved_in_time(run: Callable[[int], Solution]) -> Solution:
    """The gradient flow of `run(substeps)`, with as many substeps as it takes, and the change under their last doubling."""
    substeps, solution = 1, run(1)
    while True:
        substeps *= 2
        finer = run(substeps)
        with np.errstate(invalid="ignore", over="ignore"):
            f, change = (
                np.sqrt(np.mean(x**2))
                for x in (finer.trajectory.mean.f, (finer.trajectory.mean.f - solution.trajectory.mean.f))
            )
            enough = change < max(np.sqrt(np.mean(finer.trajectory.sem.f**2)) / 3, 1e-4 * f)
        if enough or substeps >= MOST_SUBSTEPS:
            break
        solution = finer
    status = finer.status
    if status.ok and not enough:
        status = Status(
            False,
            f"gradient flow is not resolved by {substeps} Runge-Kutta steps per interval: f still changes by {change / f:.1g}. "
            "Lower eta0 and raise num_steps.",
        )
    return Solution(finer.trajectory, status, finer.stats | {"substeps": substeps, "error in time": float(change / f)})
