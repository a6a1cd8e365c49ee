"""What a Problem is to the march: what is compiled in, and the numbers along its steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dmft.inputs import input_root
from widthwise import Activation, Loss, Problem

LEAST_GAMMA0 = 1e-8
"""Below it rounding of the average shows in f = <z phi> / gamma0; the limit is lazy to 1e-16 there."""

CHUNK = 32
"""Steps between two looks of Python at the run."""


@dataclass(frozen=True)
class Form:
    """What is compiled in: another value compiles anew."""

    act: Activation
    L: int
    loss: Loss
    online: bool
    full_batch: bool
    bias: bool
    momentum: bool
    nesterov: bool
    decays: bool
    langevin: bool
    flow: bool
    ntk_euler: bool = False

    @staticmethod
    def of(problem: Problem, ntk_euler: bool = False) -> Form:
        architecture, training = problem.architecture, problem.training
        return Form(
            act=architecture.activation,
            L=architecture.depth,
            loss=training.loss,
            online=training.online,
            full_batch=training.full_batch,
            bias=architecture.bias > 0,
            momentum=training.momentum > 0,
            nesterov=training.nesterov,
            decays=training.weight_decay > 0,
            langevin=training.temperature > 0,
            flow=training.flow,
            ntk_euler=ntk_euler,
        )


class Physics(NamedTuple):
    """The numbers of the problem along some steps; traced, so that another value compiles nothing.

    Attributes:
        gamma0, bias, momentum, weight_decay, temperature: as in the Problem.
        tol: rest of a kernel, relative to its size, below which no new direction is kept; `coarse` is what it rises to as the
            basis comes to hold `widest` directions.
        start: the first of these steps; arrays over time below begin there.
        eta: (steps, L+1) learning rate of W^0 ... W^{L-1} and the readout at each state; zero at the last one.
        watched: (M, rank) input coordinates of the points where f is recorded.
        train: (P, rank) those of the train points.
        y: (P, C) targets.
        batch: (steps, B) train points of the batch of each state.
        label_noise: (steps, B, C), or zeros of shape (1, 1, 1).
        substeps: Runge-Kutta steps per interval of gradient flow.
    """

    gamma0: Any
    bias: Any
    momentum: Any
    weight_decay: Any
    temperature: Any
    tol: Any
    coarse: Any
    widest: Any
    start: Any
    eta: Any
    watched: Any
    train: Any
    y: Any
    batch: Any
    label_noise: Any
    substeps: Any


def along(physics: Physics, form: Form, start: int) -> Physics:
    """The physics of the CHUNK steps from `start` on: what is compiled knows nothing of the number of steps, or of a stream."""
    steps = np.minimum(np.arange(start, start + CHUNK), len(physics.eta) - 1)
    noise = physics.label_noise[steps] if physics.label_noise.size > 1 else physics.label_noise
    chunk = physics._replace(start=np.int64(start), eta=physics.eta[steps], batch=physics.batch[steps], label_noise=noise)
    if not form.online:
        return chunk
    points = chunk.batch.ravel()
    places = np.arange(len(points)).reshape(chunk.batch.shape)
    return chunk._replace(train=physics.train[points], y=physics.y[points], batch=places)


def physics_of(problem: Problem, tol: float, substeps: int = 1, coarse: float | None = None, widest: float = np.inf) -> Physics:
    """The numbers of the problem; with one tol however full the bases are, or a `coarse` one where they are full."""
    task, training, L = problem.task, problem.training, problem.architecture.depth
    root, P = input_root(problem), task.num_train
    batches = training.batches_of(P, task.num_outputs)
    return Physics(
        gamma0=np.float64(problem.parameterization.gamma0),
        bias=np.float64(problem.architecture.bias),
        momentum=np.float64(training.momentum),
        weight_decay=np.float64(training.weight_decay),
        temperature=np.float64(training.temperature),
        tol=np.float64(tol),
        coarse=np.float64(tol if coarse is None else max(tol, coarse)),
        widest=np.float64(widest),
        start=np.int64(0),
        eta=np.concatenate([training.eta(L), np.zeros((1, L + 1))]),
        watched=root[P:] if training.online else root,
        train=root[:P],
        y=task.y.reshape(P, -1),
        batch=batches.index,
        label_noise=np.zeros((1, 1, 1)) if batches.noise is None else batches.noise,
        substeps=np.int64(substeps),
    )
