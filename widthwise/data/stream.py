"""Stream: batches for training real networks, the same for every width and seed of a network, from any step on."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from widthwise import check
from widthwise.checked import checked
from widthwise.memory import room
from widthwise.precision import FLOATS

Batch = tuple[NDArray[Any], NDArray[Any]]

TYPES: dict[str, tuple[type, type]] = {
    "classes": (np.float32, np.int32),
    "tokens": (np.int32, np.int32),
    "values": (np.float32, np.float32),
}
"""Kind of a stream -> types of x and y; float32 is what values are in by default."""


class EndOfStream(ValueError):
    """A finite stream has no more batches; the message says how many there were.

    Example:
        >>> from widthwise import data
        >>> stream = data.from_arrays(np.zeros((6, 2)), np.zeros(6), test=2, epochs=1)
        >>> try:
        ...     batches = [x for x, y in itertools.islice(stream.batches(2), 3)]
        ... except EndOfStream as end:
        ...     print("there is no third batch")
        there is no third batch
    """


@checked
@dataclass(frozen=True, eq=False, repr=False)
class Stream:
    """Batches (x, y) as a function of the step, and held-out points that no batch contains.

    Args:
        name: shown in tables and files.
        input_shape: of one x: (H, W, C) of an image, (context,) of tokens, (D,) of a vector.
        num_outputs: classes, vocabulary, or targets per sample.
        kind: "classes": x (B, *input_shape) float32, y (B,) int32 labels. "tokens": x and y (B, context) int32, y one token
            later. "values": x (B, *input_shape) and y (B, num_outputs) float32.
        source: (batch_size, start) -> generator of the batches of steps start, start + 1, ...; a finite one returns (as
            generators do) the number of batches that there are from step 0 on.
        held_out: num_points -> the first that many held-out points.
        num_held_out: how many there are; None if there is no end of them.
        num_samples: of all batches together; None if there is no end of them, or it is not known.
        settings: what the content depends on, as JSON; for the fingerprint.

    Raises:
        ValueError: an unknown kind, a shape or a number of outputs that is not one.

    Example:
        >>> def source(batch_size, start):
        ...     for step in range(start, 3):
        ...         x = np.full((batch_size, 2), step)
        ...         yield x, x.sum(1, keepdims=True)
        ...     return 3
        >>> stream = Stream("mine", (2,), 1, "values", source, lambda n: (np.ones((n, 2)), np.ones((n, 1))))
        >>> [y.ravel().tolist() for x, y in itertools.islice(stream.batches(2, start=1), 2)]
        [[2.0, 2.0], [4.0, 4.0]]
    """

    name: str
    input_shape: tuple[int, ...]
    num_outputs: int
    kind: str
    source: Callable[[int, int], Generator[Batch, None, int]]
    held_out: Callable[[int], Batch]
    num_held_out: int | None = None
    num_samples: int | None = None
    settings: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check.choice("kind", self.kind, TYPES)
        check.count("num_outputs", self.num_outputs)
        for size in self.input_shape:
            check.count("every entry of input_shape", size)

    @checked
    def batches(self, batch_size: int, start: int = 0, *, dtype: str = "float32") -> Iterator[Batch]:
        """The batches of steps start, start + 1, ..., their values in `dtype`, "float32" or "float64".

        Raises:
            ValueError: a batch of another shape, with NaN or infinite entries, or with labels out of range.
            EndOfStream: after the last batch of a finite stream. A last batch of fewer samples is left out.

        Example:
            >>> from widthwise import data
            >>> stream = data.multi_index(seed=1)
            >>> eighth = next(itertools.islice(stream.batches(4), 7, None))
            >>> bool((next(stream.batches(4, start=7))[0] == eighth[0]).all())
            True
        """
        check.choice("dtype", dtype, FLOATS)
        self._room(check.count("batch_size", batch_size), "batches of", "Lower batch_size.")
        return self._checked(batch_size, check.count("start", start, least=0), dtype)

    def _checked(self, batch_size: int, start: int, dtype: str) -> Iterator[Batch]:
        source = self.source(batch_size, start)
        for step in itertools.count(start):
            try:
                batch = next(source)
            except StopIteration as end:
                raise EndOfStream(
                    f"{self.name} ends: it has {end.value} batches of {batch_size}, and batch {step} (from 0) was asked for. "
                    "Train for fewer steps, take smaller batches, or give it more data or epochs."
                ) from None
            yield self._check(batch, batch_size, f"batch {step}", dtype)

    @checked
    def probe(self, num_points: int, *, dtype: str = "float32") -> Batch:
        """(x, y) of the first `num_points` held-out points, their values in `dtype`; no batch contains them.

        Raises:
            ValueError: more points than are held out; NaN and labels as in `batches`.
        """
        check.count("num_points", num_points, most=check.MANY)
        if self.num_held_out is not None and num_points > self.num_held_out:
            raise ValueError(f"{self.name} holds out {self.num_held_out} points, got num_points={num_points}. Take fewer.")
        check.choice("dtype", dtype, FLOATS)
        self._room(num_points, "a probe of", "Take fewer.")
        return self._check(self.held_out(num_points), num_points, "the probe", dtype)

    def _room(self, size: int, what: str, cure: str) -> None:
        room(12 * size * math.prod(self.input_shape), f"{what} {size} samples", cure)

    def _check(self, batch: Batch, size: int, where: str, dtype: str) -> Batch:
        x_shape = (size, *self.input_shape)
        y_shape = {"classes": (size,), "tokens": x_shape, "values": (size, self.num_outputs)}[self.kind]
        x_type, y_type = (np.dtype(dtype).type if of is np.float32 else of for of in TYPES[self.kind])
        return self._array("x", batch[0], x_shape, x_type, where), self._array("y", batch[1], y_shape, y_type, where)

    def _array(self, name: str, value: Any, shape: tuple[int, ...], dtype: type, where: str) -> NDArray[Any]:
        a = check.numeric(f"{where} of {self.name}: {name}", value)
        if a.shape != shape:
            raise ValueError(f"{where} of {self.name} must have {name} of shape {shape}, got {a.shape}.")
        if dtype is np.int32:
            if not np.issubdtype(a.dtype, np.integer) or a.min() < 0 or a.max() >= self.num_outputs:
                raise ValueError(
                    f"{where} of {self.name} must have whole numbers {name} in 0 ... {self.num_outputs - 1}, got {a.dtype} in "
                    f"{a.min()} ... {a.max()}. Count from 0, or raise num_outputs."
                )
            return a.astype(dtype, copy=False)
        with np.errstate(over="ignore"):  # what overflows float32 is refused, too
            out: NDArray[Any] = a.astype(dtype, copy=False)
        if not np.isfinite(out).all():
            raise ValueError(
                f"{where} of {self.name} has NaN or infinite entries of {name}, the first in sample "
                f"{int(np.argwhere(~np.isfinite(out))[0, 0])}. Remove those samples or fill the gaps."
            )
        if (largest := max(out.max(initial=0), -out.min(initial=0))) > check.LARGEST:
            raise ValueError(
                f"{where} of {self.name} has entries of {name} as large as {largest:.3g}, whose squares overflow. "
                "Rescale to order one."
            )
        return out

    def fingerprint(self) -> str:
        """Sixteen hex digits of name, shapes and settings; of data sets it reads names and sizes of files, not every byte."""
        what = {"name": self.name, "shape": self.input_shape, "outputs": self.num_outputs, "kind": self.kind}
        text = json.dumps(what | {"settings": dict(self.settings or {})}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"Stream({self.name!r}, {self.kind}, {self.input_shape} -> {self.num_outputs})"


# --- the three ways to make batches ----------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Samples that can be had in any order: how many, and int indices (n,) -> (x, y)."""

    number: int
    at: Callable[[NDArray[np.int64]], Batch]


def shuffled(train: Rows, test: Rows, seed: int, epochs: int | None, *, settings: Mapping[str, Any], **fields: Any) -> Stream:
    """Each epoch every train row once, in an order of (seed, epoch); a batch may reach into the next epoch.

    Test rows are probed in one random order, which does not depend on the seed.
    """
    check.seed("seed", seed)
    total = None if epochs is None else train.number * check.count("epochs", epochs, "None goes on for ever.")

    def source(batch_size: int, start: int) -> Generator[Batch, None, int]:
        order = lru_cache(2)(lambda epoch: np.random.default_rng((seed, epoch)).permutation(train.number))
        first = start * batch_size
        while total is None or first + batch_size <= total:
            epoch, row = np.divmod(np.arange(first, first + batch_size), train.number)
            yield train.at(np.concatenate([order(e)[row[epoch == e]] for e in range(epoch[0], epoch[-1] + 1)]))
            first += batch_size
        return total // batch_size

    probes = np.random.default_rng(0).permutation(test.number)
    return Stream(
        source=source,
        held_out=lambda number: test.at(probes[:number]),
        num_held_out=test.number,
        num_samples=total,
        settings={**settings, "seed": seed, "epochs": epochs, "rows": [train.number, test.number]},
        **fields,
    )


def endless(
    draw: Callable[[np.random.Generator, int], Batch],
    seed: int,
    *,
    settings: Mapping[str, Any],
    probe: Callable[[np.random.Generator, int], Batch] | None = None,
    **fields: Any,
) -> Stream:
    """Batch t is draw(generator of (seed, t), batch_size); probe point i is probe(generator of i, 1).

    Without a `probe` that is draw(generator of (seed, i), 1), independent of every batch.
    """
    one, probe_seed = (draw, seed) if probe is None else (probe, 0)

    def source(batch_size: int, start: int) -> Generator[Batch, None, int]:
        while True:
            yield draw(np.random.default_rng((seed, start)), batch_size)
            start += 1

    def held_out(number: int) -> Batch:
        points = [one(generator(probe_seed, 0, i), 1) for i in range(number)]
        return np.concatenate([x for x, _ in points]), np.concatenate([y for _, y in points])

    return Stream(source=source, held_out=held_out, settings={**settings, "seed": seed}, **fields)


def generator(seed: int, *key: int) -> np.random.Generator:
    """Random numbers independent of those of every batch."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def in_order(blocks: Callable[[int], Generator[Batch, None, int]], held_out: Callable[[int], Batch], **fields: Any) -> Stream:
    """One pass over blocks(first): samples first, first + 1, ... in blocks of any size, returning the number of all."""

    def source(batch_size: int, start: int) -> Generator[Batch, None, int]:
        rest = blocks(start * batch_size)
        held: Batch | None = None
        while True:
            try:
                block = next(rest)
            except StopIteration as end:
                return end.value // batch_size
            x, y = block if held is None else (np.concatenate(pair) for pair in zip(held, block, strict=True))
            whole = len(x) // batch_size * batch_size
            for at in range(0, whole, batch_size):
                yield x[at : at + batch_size], y[at : at + batch_size]
            held = x[whole:], y[whole:]

    return Stream(source=source, held_out=held_out, **fields)
