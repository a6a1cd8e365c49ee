"""The entry to the theory of finite width: `fluctuations`."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from dmft.fluctuations.functional import jumps
from dmft.fluctuations.response import Replica, Response, Setting, replicas, respond
from dmft.physics import LEAST_GAMMA0, Form
from widthwise import MLP, Estimate, Fluctuations, Problem, Result, Status, Task, Trajectory, check
from widthwise.checked import checked
from widthwise.memory import require
from widthwise.precision import float64
from widthwise.result import provenance
from widthwise.trajectory import chosen_steps


@checked
def fluctuations(
    problem: Problem,
    *,
    num_paths: int | None = None,
    num_replicas: int = 4,
    tol: float | None = None,
    bias: bool | None = None,
    num_directions: int = 24,
    num_draws: int | None = None,
    seed: int = 0,
    save_kernels: Iterable[int] | None = None,
    progress: bool = True,
) -> Fluctuations:
    """Variance over seeds and bias of networks of width N, times N, to leading order in 1/N; from the limit alone.

        N Cov(x, y) = sum_l < T'_l[x] T'_l[y] >        N (<x_N> - x) = 1/2 sum_l < T''_l[x](s, s) >

    x any output f_m(t) or kernel entry, T the march as a functional of the laws of its neurons
    (`dmft.fluctuations.functional`). It holds at every depth, gamma0 and way of training that is a sequence of steps; all
    outputs and times come together.

    Args:
        problem: an MLP on a Task, `kind="mean_field"` or "mup"; without biases, temperature and gradient flow. Outputs are
            centred, or not, as its parameterization says.
        num_paths: paths of a replica; by default 4096 with one hidden layer, 1024 with more. The variance is good to about
            3 / sqrt(paths times replicas).
        num_replicas: independent replicas, whose spread is the error bar; two or more.
        tol: as in `March`; by default 1e-3, where phi' jumps 1e-2.
        bias: whether to compute the bias too; by default wherever it can be. Where phi' jumps (ReLU) it can with one hidden
            layer. Of G neither variance nor bias has an expansion in 1/N there, and both are None.
        num_directions: gradients that span most of the variance; each takes a backward pass.
        num_draws: random directions for the rest; by default 64, but num_paths / 8 for the bias of two or more hidden layers:
            what they add to its error falls with their number, and not with that of the paths.
        seed: of the paths.
        save_kernels: steps whose kernels are looked at; by default the first and the last.
        progress: show a bar (in a terminal).

    Raises:
        ValueError: a setting out of range, or a problem that it does not know.

    Example:
        >>> from widthwise import GradientDescent, Parameterization, tasks
        >>> problem = Problem(MLP(1, "linear"), Parameterization(), tasks.sphere(2, input_dim=8), GradientDescent(0.5, 5))
        >>> theory = fluctuations(problem, num_paths=256, progress=False)
        >>> bool((theory.variance.mean.f[1:] > 0).all()), theory.variance.trajectory.n
        (True, 4)
    """
    check.outside_jit("dmft.fluctuations")
    _check_applies(problem)
    L, act = problem.architecture.depth, problem.architecture.activation
    kinked = jumps(act)
    bias = (L == 1 or not kinked) if bias is None else check.flag("bias", bias)
    if bias and kinked and L > 1:
        raise ValueError(
            f"the bias of {L} hidden layers is lost in noise where phi' jumps, as that of {act.name} does: pass bias=False, or "
            "a smooth activation."
        )
    num_paths = (4096 if L == 1 else 1024) if num_paths is None else num_paths
    if check.count("num_paths", num_paths, least=16) % 4:
        raise ValueError(f"num_paths must be a multiple of 4, got {num_paths}.")
    check.count("num_replicas", num_replicas, "Their spread is the error bar.", least=2, most=check.MANY)
    check.count("num_directions", num_directions, most=L * num_paths)
    enough = max(num_paths // 8, 32) if bias and L > 1 else 64
    draws = enough if num_draws is None else num_draws
    check.count("num_draws", draws, least=0, most=check.MANY)
    steps = chosen_steps(problem.training.num_steps, save_kernels)
    directions = num_directions + draws
    require(
        _bytes_of(problem, num_paths, num_replicas, directions, len(steps)),
        f"dmft.fluctuations with {num_replicas} x {num_paths} paths, {directions} directions and kernels at {len(steps)} steps",
        "Lower num_paths, num_replicas, num_directions or num_draws, or keep kernels at fewer steps.",
    )
    shown = problem.task.num_train if problem.training.online else 0
    setting = Setting(Form.of(problem), problem.parameterization.centered, len(steps), shown, num_directions, draws)
    began = time.perf_counter()
    with float64():
        tol = (1e-2 if kinked else 1e-3) if tol is None else check.positive("tol", tol)
        keys = [(seed, r) for r in range(num_replicas)]
        given, ranks = replicas(problem, setting, steps, num_paths, tol, keys)
    responses = [*_in_turn(setting, given, seed, progress)]
    stats = {
        "paths": num_paths,
        "replicas": num_replicas,
        "directions": num_directions,
        "draws": draws,
        "rank Phi": ranks[0],
        "rank G": ranks[1],
        "seconds": time.perf_counter() - began,
    }
    method = f"dmft.fluctuations(num_paths={num_paths}, num_replicas={num_replicas}, tol={tol:g})"
    return _assembled(problem, responses, steps, bias, stats, provenance(problem, method, seed))


def _bytes_of(problem: Problem, S: int, R: int, directions: int, K: int) -> float:
    """Derivatives along all directions, three times as they are put together; and what a reverse pass keeps of every step."""
    task, L, states = problem.task, problem.architecture.depth, problem.training.num_steps + 1
    M, C = task.num_points, task.num_outputs
    derivatives = directions * (states * M * C + 2 * L * (K * M) ** 2)
    rank = 2 * M * C + 16  # of the bases, about
    kept = S * states * (6 * (L - 1) * rank + 2 * (min(M, task.input_dim) + C))
    return 8.0 * (3 * R * derivatives + max(min(_cores(), R - 1), 1) * kept + 2 * directions * L * S)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_turn(setting: Setting, given: list[Replica], seed: int, progress: bool) -> Iterable[Response]:
    """The replicas' responses, as many at a time as there are cores."""

    def one(r: int) -> Response:
        with float64():  # of this thread
            return respond(setting, given[r], jax.random.key(np.random.default_rng([seed, r, 7]).integers(2**31)))

    first = one(0)  # compiles
    workers = min(_cores(), len(given))
    with (
        ThreadPoolExecutor(workers if jax.default_backend() == "cpu" else 1) as pool,
        tqdm(
            total=len(given), desc="dmft.fluctuations", unit="replica", disable=None if progress else True, leave=False
        ) as bar,
    ):
        for response in itertools.chain((first,), pool.map(one, range(1, len(given)))):  # each as it comes
            bar.update()
            yield response


def _assembled(
    problem: Problem,
    responses: list[Response],
    steps: Int[np.ndarray, "kept"],
    with_bias: bool,
    stats: dict[str, Any],
    known: dict[str, Any],
) -> Fluctuations:
    """The three Results."""
    limit, rows, bias = (_stacked([getattr(r, part) for r in responses]) for part in ("limit", "rows", "bias"))
    variance = {name: (x**2).sum(1) for name, x in rows.items()}
    if jumps(problem.architecture.activation):
        del rows["G"]
        variance["G"] = bias["G"] = None
    losses = _losses(problem, limit["f"], rows["f"], bias["f"])
    parts = ("limit", "N times the variance over seeds", "N times the bias")
    first = problem.task.num_train if problem.training.online else 0

    def shown(x: dict[str, Any]) -> dict[str, Any]:
        f = x["f"][..., first:, :]
        return x | {"f": f[..., 0] if problem.task.y.ndim == 1 else f}

    def result(name: str, x: dict[str, Any], losses: dict[str, np.ndarray]) -> Result:
        runs = Trajectory.of(np.arange(problem.training.num_steps + 1), steps, shown(x) | losses)
        return Result(problem, Estimate.of(runs), Status(True, f"{name}, {len(responses)} replicas"), stats, known)

    results = [result(*part) for part in zip(parts, (limit, variance, bias), losses, strict=True)]
    return Fluctuations(results[0], results[1], results[2] if with_bias else None, shown(rows))


def _stacked(parts: list) -> dict[str, Any]:
    return {name: np.stack([np.asarray(getattr(part, name)) for part in parts]) for name in ("f", "Phi", "G")}


def _losses(
    problem: Problem,
    f: Float[np.ndarray, "replicas states points outputs"],
    rows: Float[np.ndarray, "replicas n states points outputs"],
    bias: Float[np.ndarray, "replicas states points outputs"],
) -> list[dict[str, np.ndarray]]:
    """Losses of the limit; what variance and bias add, times N: 1/2 tr l'' N Var f and l' N bias f, means over samples."""
    task, training, P = problem.task, problem.training, problem.task.num_train
    y = task.y.reshape(P, -1)
    index = training.batches_of(P, y.shape[1]).index if training.online else np.tile(np.arange(P), (f.shape[1], 1))
    sets = {"loss": (index, y[index])}
    if task.y_test is not None:
        test = np.tile(np.arange(P, f.shape[2]), (f.shape[1], 1))
        sets["test_loss"] = (test, np.broadcast_to(task.y_test.reshape(1, test.shape[1], -1), (*test.shape, y.shape[1])))
    parts: list[dict[str, np.ndarray]] = [{}, {}, {}]

    def at_every_step(of: Callable[..., Any], at: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return np.array([[of(*now) for now in zip(*run, strict=True)] for run in zip(at, targets, strict=True)])

    for name, (points, targets) in sets.items():
        t, n = np.arange(len(points))[:, None], points.shape[1]
        at, part = f[:, t, points], rows[:, :, t, points]
        targets = np.broadcast_to(targets, at.shape)
        parts[0][name] = at_every_step(training.loss_of, at, targets)
        parts[1][name] = np.einsum("rntmc,rtmcd,rntmd->rt", part, training.hessian_of(at, targets), part) / (2 * n)
        parts[2][name] = -np.einsum("rtmc,rtmc->rt", at_every_step(training.Delta, at, targets), bias[:, t, points])
    return parts


def _check_applies(problem: Problem) -> None:
    """ValueError if the theory does not know the problem."""
    architecture, training = problem.architecture, problem.training
    if not (isinstance(architecture, MLP) and isinstance(problem.task, Task) and training.optimizer is None):
        raise ValueError("dmft.fluctuations knows an MLP on a Task under gradient descent: train others with finite.train.")
    if problem.parameterization.limit != "feature_learning" or problem.parameterization.base_width is not None:
        raise ValueError(
            "dmft.fluctuations expands around the feature-learning limit: use kind='mean_field' (small gamma0 is lazy)."
        )
    if problem.parameterization.gamma0 < LEAST_GAMMA0:
        raise ValueError(f"gamma0 must be at least {LEAST_GAMMA0:g}.")
    for name, there in (
        ("MLP(bias=)", architecture.bias),
        ("temperature", training.temperature),
        ("flow=True", training.flow),
    ):
        if there:
            raise ValueError(
                f"dmft.fluctuations does not know {name}: leave it out. (Batches, streams, momentum, decay it does.)"
            )
