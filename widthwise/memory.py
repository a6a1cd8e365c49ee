"""How much memory there is, asked before a run starts."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import NamedTuple

import jax

LITTLE = 2**26
"""Bytes for which nobody asks."""


def available_bytes() -> int:
    """Bytes that the default JAX device can still give: of the GPU, or of the machine (respecting a container's limit)."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"] - stats["bytes_in_use"])
    return machine_bytes()


def machine_bytes() -> int:
    """Bytes that the machine can still give (respecting a container's limit)."""
    try:
        with open("/proc/meminfo") as file:
            kilobytes = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
        free = 1024 * kilobytes
    except (OSError, StopIteration):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as used:
            free = min(free, int(limit.read()) - int(used.read()))
    except (OSError, ValueError):
        pass  # no container, or no limit
    return free


def room_for(shape: tuple[int, ...], what: str, cure: str) -> None:
    """Raise MemoryError if there is no room for an array of float64 of this shape."""
    room(8 * math.prod(shape), f"{what} of shape {shape}", cure)


def room(needed: int | float, what: str, cure: str) -> None:
    """`require` for arrays of numpy, which are the machine's; it starts no device, and lets little pass without a look."""
    if needed > LITTLE:
        _fits(needed, machine_bytes(), what, cure)


class Way(NamedTuple):
    """A setting that memory grows with.

    Attributes:
        words: how to write it, with {} for its value: "num_paths={}".
        value: what it is.
        least: the smallest value that makes sense, and what it must be a multiple of.
        needed: bytes for another value.
    """

    words: str
    value: int
    least: int
    needed: Callable[[int], float]
    multiple: int = 1


def cure_among(*ways: Way, otherwise: str) -> Callable[[float], str]:
    """A setting that fits into so many bytes: the first way that has one, halved as often as it takes.

    Example:
        >>> cure = cure_among(Way("num_paths={}", 4096, 16, lambda n: 2.0**20 * n), otherwise="Ask for less.")
        >>> cure(2.0**31), cure(1.0)
        ('num_paths=2048 would take about 2 GiB.', 'Ask for less.')
    """

    def cure(free: float) -> str:
        for way in ways:
            value = way.value
            while (value := value // 2 // way.multiple * way.multiple) >= way.least:
                if (needed := way.needed(value)) <= free:
                    return f"{way.words.format(value)} would take about {needed / 2**30:.3g} GiB."
        return otherwise

    return cure


def require(needed: int | float, what: str, cure: str | Callable[[float], str], allowed: float | None = None) -> None:
    """Raise MemoryError if `needed` bytes are more than there are, or more than are allowed.

    Args:
        needed: bytes.
        what: what needs them.
        cure: how to need less; or a function that says it for so many bytes (`cure_among`).
        allowed: bytes that it may take, if the user has said so.
    """
    if allowed is not None and needed > allowed:
        raise MemoryError(
            f"{what} needs about {needed / 2**30:.3g} GiB, memory={allowed:g} allows {allowed / 2**30:.3g} GiB. "
            f"{cure if isinstance(cure, str) else cure(allowed)} Or raise memory."
        )
    _fits(needed, available_bytes(), what, cure)


def _fits(needed: int | float, free: int, what: str, cure: str | Callable[[float], str]) -> None:
    if needed > free:
        cure = cure if isinstance(cure, str) else cure(free)
        raise MemoryError(f"{what} needs about {needed / 2**30:.3g} GiB, {free / 2**30:.3g} GiB are free. {cure}")
