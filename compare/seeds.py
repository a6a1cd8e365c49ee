"""Errors of what combines several ensembles, which may be the same networks.

Networks of two widths, or of two seeds, are independent; the ensemble that others are compared with enters all comparisons.
Errors are made of what each network adds to the result (`influence`), summed over all its parts (`joint`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from widthwise import Result


def rows_of(nets: Sequence[Result]) -> list[Int[np.ndarray, "runs"]]:
    """For the runs of every result their places in one list of all runs."""
    ends = np.cumsum([net.trajectory.n for net in nets])
    return [np.arange(end - net.trajectory.n, end) for net, end in zip(nets, ends, strict=True)]


def influence(x: Float[np.ndarray, "runs ..."]) -> Float[np.ndarray, "runs ..."]:
    """What each run adds to the mean of x beyond it; the sum of squares is the squared standard error."""
    n = len(x)
    return (x - x.mean(0)) / np.sqrt(n * (n - 1))


def squares(x: Float[np.ndarray, "runs ..."]) -> Float[np.ndarray, "runs ..."]:
    """n / (n - 1) (x - <x>)^2, whose mean over the runs is the unbiased variance."""
    return (x - x.mean(0)) ** 2 * (len(x) / (len(x) - 1))


def joint(
    rows: Sequence[Int[np.ndarray, "runs"]], influences: Sequence[Float[np.ndarray, "runs ..."]], runs: int | None = None
) -> Float[np.ndarray, "runs ..."]:
    """Sum of influences by run, of which there are `runs`, by default as many as occur.

    Example:
        >>> a, b = np.array([[1.0], [-1.0]]), np.array([[-1.0], [1.0]])
        >>> joint([np.arange(2), np.arange(2)], [a, b]).ravel().tolist()
        [0.0, 0.0]
    """
    runs = 1 + max(int(r.max()) for r in rows) if runs is None else runs
    out = np.zeros((runs, *influences[0].shape[1:]))
    for r, x in zip(rows, influences, strict=True):
        out[r] += x
    return out


def size(x: Float[np.ndarray, "runs ..."]) -> Float[np.ndarray, "..."]:
    """Standard error of joint influences."""
    return np.sqrt((x**2).sum(0))
