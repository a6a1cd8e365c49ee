"""Learning-rate schedules: T factors, one per update, that multiply eta0."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from widthwise import check
from widthwise.checked import checked
from widthwise.memory import room


@checked
def warmup(num_steps: int, warmup_steps: int) -> Float[np.ndarray, "updates"]:
    """1/n, 2/n ... 1 over the first n = `warmup_steps` updates, then 1.

    Example:
        >>> warmup(5, 2).tolist()
        [0.5, 1.0, 1.0, 1.0, 1.0]
    """
    steps = np.arange(1, _possible(num_steps) + 1)
    return np.minimum(steps / max(check.count("warmup_steps", warmup_steps, least=0), 1), 1.0)


@checked
def cosine(num_steps: int, *, warmup_steps: int = 0, final: float = 0.0) -> Float[np.ndarray, "updates"]:
    """Warm-up, then half a cosine from 1 to `final` (1608.03983 without restarts).

    Example:
        >>> cosine(4).round(3).tolist()
        [1.0, 0.854, 0.5, 0.146]
    """
    rise = warmup(num_steps, warmup_steps)
    past = _past(num_steps, warmup_steps)
    final = check.at_least_zero("final", final)
    return rise * (final + (1 - final) * (1 + np.cos(np.pi * past)) / 2)


@checked
def linear(num_steps: int, *, warmup_steps: int = 0, final: float = 0.0) -> Float[np.ndarray, "updates"]:
    """Warm-up, then a straight line from 1 to `final`.

    Example:
        >>> linear(4).tolist()
        [1.0, 0.75, 0.5, 0.25]
    """
    rise = warmup(num_steps, warmup_steps)
    past = _past(num_steps, warmup_steps)
    return rise * (1 + (check.at_least_zero("final", final) - 1) * past)


@checked
def steps(num_steps: int, at: list[int], factor: float = 0.1) -> Float[np.ndarray, "updates"]:
    """1, multiplied by `factor` at each of the updates `at`.

    Example:
        >>> steps(4, at=[2], factor=0.5).tolist()
        [1.0, 1.0, 0.5, 0.5]
    """
    drops = np.array(check.counts("at", at, least=0), dtype=int)
    passed = (np.arange(_possible(num_steps, len(drops)))[:, None] >= drops).sum(1)
    return check.positive("factor", factor) ** passed


def _possible(num_steps: int, columns: int = 1) -> int:
    room((40 + columns) * check.count("num_steps", num_steps), f"a schedule of {num_steps} steps", "Take fewer.")
    return num_steps


def _past(num_steps: int, warmup_steps: int) -> Float[np.ndarray, "updates"]:
    """The share of the updates after the warm-up that lies behind each update."""
    return np.maximum(np.arange(num_steps) - warmup_steps, 0) / max(num_steps - warmup_steps, 1)
