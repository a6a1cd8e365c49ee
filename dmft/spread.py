"""The bias of a mean over replicas, from how far single replicas lie apart.

A replica is off by the sampling noise x of its averages, and f answers to x beyond first order. Where training is unstable,
what is off grows with every step, f_r = f exp(x), and the mean over replicas is off by the second order:

    f_r - f = sd x + (sd^2 / f) x^2 / 2        bias = sd^2 / (2 f)        x: mean 0, variance 1

with sd the standard deviation of single replicas. The scatter of the mean, sd / sqrt(R), knows nothing of it: more replicas
make that smaller and leave the bias, which falls with the paths alone. So the error bar of every observable is

    sem = sd sqrt(1 / R + b^2),        b = r / sqrt(1 / c^2 + r^2)
    r(t) = max_{s<=t} (sd(s)^2 / size(s)) / max_{s<=t} sd(s)            root mean squares over points

r is the scatter of f over the size of what grows: f leaves a saddle at zero, or swings about y. So `size` is |f| or |f - y|,
the smaller; the second over the last three quarters of the time so far, since a swing passes y. What a burst has moved stays
moved, kernels included: hence the largest bias so far over the largest scatter so far. The root keeps b below 1, for the
limit is one curve among those of the replicas. A loss falls by orders of magnitude while f moves no more, and has an r of its
own, sd over mean, besides.

Growth alone has c = 1/2; where it saturates, curvature is larger. c = 3/4 was measured (docs/error_bars.md).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from dmft.method import Solution
from widthwise import Estimate, Problem, Status, Trajectory
from widthwise.trajectory import axes_of

CURVATURE = 0.75
"""c."""

ROUNDING = 1e-9
"""Outputs this small against the largest are zeros with rounding, which say nothing of scatter."""

LARGEST = 1e100
"""Scatter from which on training has diverged."""

LOSSES = ("loss", "test_loss")

States = Float[np.ndarray, "states"]


def over(x: States, y: States) -> States:
    """x / y, and 0 where that is no number."""
    with np.errstate(all="ignore"):
        return np.nan_to_num(x / y, nan=0.0, posinf=0.0)


def scatter(f: Float[np.ndarray, "R states points outputs"], y: Float[np.ndarray, "points outputs"] | None) -> States:
    """r at every state, from the outputs of replicas at points with targets y (None: f goes to no target)."""
    with np.errstate(over="ignore", invalid="ignore"):  # of what diverged: its Status says so
        mean = f.mean(0)
        sd, size = (np.sqrt(x.mean((1, 2))) for x in (f.var(0, ddof=1), mean**2))
        if y is not None:
            square = np.mean((mean - y) ** 2, axis=(1, 2))
            size = np.minimum(size, np.sqrt([square[t // 4 : t + 1].mean() for t in range(len(square))]))
    known = size > ROUNDING * np.max(size, where=np.isfinite(size), initial=0.0)
    known[0] = False  # f(0) is zero, with rounding
    sd = np.where(known & (sd < LARGEST), sd, 0.0)
    return over(np.maximum.accumulate(sd * over(sd, size)), np.maximum.accumulate(sd))


def scatter_of(problem: Problem, samples: Trajectory) -> States:
    """r at every state: at the train points, or all that are watched if training is online."""
    task, training = problem.task, problem.training
    y = task.y_test if training.online else task.y
    points = task.num_test if training.online else task.num_train
    f = np.asarray(samples.f).reshape(*samples.f.shape[:2], problem.num_watched, -1)[:, :, :points]
    return scatter(f, None if y is None or training.loss.name != "mse" else y.reshape(points, -1))


def share(r: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """b: the bias over the standard deviation of a replica."""
    return CURVATURE * r / np.hypot(1, CURVATURE * r)


def widened(plain: Estimate, r: States) -> Estimate:
    """The Estimate with the bias in its error bars."""

    def wider(name: str, sem: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        own = r
        if name in LOSSES:
            own = np.maximum(r, over(np.sqrt(plain.n) * sem, plain.mean[name]))
        at = {"step": share(own), "kept": share(own[np.searchsorted(plain.sem.steps, plain.sem.kernel_steps)])}
        times = [(i, at[axis]) for i, axis in enumerate(axes_of(name, sem.shape)) if axis in at]
        b = np.max(np.broadcast_arrays(*(np.expand_dims(x, [*range(1, sem.ndim - i)]) for i, x in times)), axis=0)
        return sem * np.sqrt(1 + plain.n * b**2)

    sem = {name: wider(name, x) for name, x in plain.sem.observables().items()}
    return replace(plain, sem=Trajectory.of(plain.sem.steps, plain.sem.kernel_steps, sem))


def solution_of(
    problem: Problem, samples: Trajectory, stats: dict[str, Any], r: States | None = None, also: str = ""
) -> Solution:
    """The Solution of replicas: its status says from which step on the bias is most of the error bar, if it is.

    Args:
        r: of a network other than an MLP on a Task; its status is that of samples.
        also: what the status is to say besides.
    """
    plain = r is None
    r = scatter_of(problem, samples) if r is None else r
    estimate = widened(Estimate.of(samples), r)
    done, bias = f"solved, {problem.training.num_steps} steps{also}", share(r) * np.sqrt(estimate.n)
    if (most := bias > 1).any():
        done += (
            f"; from step {samples.steps[most.argmax()]} on replicas part so far that a bias of about {bias.max():.1f} "
            "standard errors is most of the error bar: num_paths lowers it, num_replicas does not"
        )
    status = Status.of(problem, estimate.mean, done) if plain else Status.of_samples(problem, samples, done, "replicas")
    return Solution(estimate, status, stats | {"bias over standard error": float(bias[-1])})
