"""Batches on their way to whoever trains on them, the same for networks of every width and for the limit."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float

from widthwise.data import Stream
from widthwise.loss import Loss
from widthwise.precision import working
from widthwise.problem import Problem
from widthwise.tasks import Task
from widthwise.training import GradientDescent

CHUNK = 16
"""Steps whose batches lie on the device at a time."""

Batch = tuple[np.ndarray, np.ndarray]


class Feed:
    """Batches, one look ahead."""

    def __init__(self, batches: Iterable[Batch]):
        self.source: Iterator[Batch] = iter(batches)
        self.ahead: deque[Batch] = deque()

    def next(self) -> Batch:
        """The next batch, which stays the next."""
        if not self.ahead:
            self.ahead.append(next(self.source))
        return self.ahead[0]

    def take(self, n: int) -> Batch:
        """The next n batches, stacked; CHUNK rows always (the last ones repeated), so that one program serves them all."""
        taken = []
        for _ in range(n):
            self.next()
            taken.append(self.ahead.popleft())
        rows = [*taken, *(taken[-1],) * (CHUNK - n)]
        return np.stack([x for x, _ in rows]), np.stack([y for _, y in rows])


def batches(task: Task | Stream, training: GradientDescent, start: int = 0) -> Iterator[Batch]:
    """The batches of steps start, start + 1, ..., the same for all networks."""
    dtype = working()
    if isinstance(task, Stream):
        return _with_targets_for(training.loss, task, task.batches(batch_size(task, training), start, dtype=dtype.name), start)
    index, noise = training.batches_of(task.num_train, task.num_outputs)
    y = task.y.reshape(task.num_train, -1)[index] + (0.0 if noise is None else noise)
    X = task.X.astype(dtype)
    return ((X[rows], target.astype(dtype)) for rows, target in zip(index[start:], y[start:], strict=True))


def _with_targets_for(loss: Loss, stream: Stream, batches: Iterable[Batch], start: int) -> Iterator[Batch]:
    """The batches; ValueError at one whose targets the loss does not take."""
    for t, batch in enumerate(batches, start):
        if stream.kind == "values":
            loss.check_targets(batch[1], f"batch {t} of {stream.name}: ")
        yield batch


def probes(stream: Stream, loss: Loss, num_probes: int | None, most: int) -> Batch:
    """Held-out points: `num_probes`, by default `most`, or all if they are fewer.

    Raises:
        ValueError: more than are held out; targets that the loss does not take.
    """
    there = stream.num_held_out
    number = min(most, there or most) if num_probes is None else num_probes
    if there is not None and number > there:
        raise ValueError(f"num_probes must be at most the {there} points that {stream.name} holds out, got {number}.")
    points = stream.probe(number, dtype=working().name)
    if stream.kind == "values":
        loss.check_targets(points[1], f"the probe of {stream.name}: ")
    return points


def without_noise(problem: Problem, t: int) -> Batch:
    """Batch t of a Task with the targets of the task, which training sees with label noise."""
    task, dtype = problem.task, working()
    rows = problem.training.batches_of(task.num_train, task.num_outputs).index[t]
    return task.X[rows].astype(dtype), task.y.reshape(task.num_train, -1)[rows].astype(dtype)


def batch_size(task: Task | Stream, training: GradientDescent) -> int:
    """Samples of a batch."""
    if isinstance(task, Stream):
        return training.batch_size or 1
    return training.batches_of(task.num_train, task.num_outputs).index.shape[1]


def rates(training: GradientDescent, t: int) -> Float[np.ndarray, "chunk"]:
    """Learning rates of the CHUNK steps from t on; zero after the last."""
    return np.append(training.step_sizes[t : t + CHUNK], np.zeros(CHUNK))[:CHUNK].astype(working())


NUM_PROBES = 64
"""Held-out points of a stream at which networks are watched by default."""


def trained(problem: Problem, num_probes: int | None, most: int = NUM_PROBES) -> Batch:
    """The train points of a Task; held-out points of a Stream."""
    task = problem.task
    if isinstance(task, Stream):
        return probes(task, problem.training.loss, num_probes, most)
    return task.X.astype(working()), task.y


def watched(problem: Problem, num_probes: int | None) -> Batch:
    """The points that are watched: all of a Task, train points first; held-out ones of a Stream."""
    task, dtype = problem.task, working()
    if isinstance(task, Stream):
        return probes(task, problem.training.loss, num_probes, NUM_PROBES)
    y = task.y if task.y_test is None else np.concatenate([task.y, task.y_test])
    return task.X_all[: len(y)].astype(dtype), y.reshape(len(y), -1).astype(dtype)
