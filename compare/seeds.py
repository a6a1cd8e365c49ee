"""Which networks of different widths start from the same draws, and errors that know it.

Networks of one seed and number that differ in width share draws: the narrower starts as a part of the wider, and its output is
correlated with the other's by up to sqrt(N / M). So errors of what combines widths are made of what each seed and number,
with all its widths, adds to the result (`joint`); and pairs of independent networks are pairs of different numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from widthwise import Result


def rows_of(nets: Sequence[Result]) -> list[Int[np.ndarray, "runs"]]:
    """For the runs of every result their places in one list of draws; the same draws have the same place.

    Results of `finite.train` with the same seed share draws, network by network; all others do not.
    """
    first: dict[int, int] = {}
    out, total = [], 0
    longest: dict[int, int] = {}
    for net in nets:
        seed = seed_of(net)
        if seed is not None:
            longest[seed] = max(longest.get(seed, 0), net.trajectory.n)
    for net in nets:
        seed, n = seed_of(net), net.trajectory.n
        if seed is None or seed not in first:
            start, total = total, total + (n if seed is None else longest[seed])
            if seed is not None:
                first[seed] = start
        else:
            start = first[seed]
        out.append(start + np.arange(n))
    return out


def seed_of(net: Result) -> int | None:
    """The seed of a result of `finite.train`, else None."""
    trained = str(net.provenance.get("method", "")).startswith("finite.train")
    return net.provenance.get("seed") if trained else None


def influence(x: Float[np.ndarray, "runs ..."]) -> Float[np.ndarray, "runs ..."]:
    """What each run adds to the mean of x beyond it; the sum of squares is the squared standard error."""
    n = len(x)
    return (x - x.mean(0)) / np.sqrt(n * (n - 1))


def joint(
    rows: Sequence[Int[np.ndarray, "runs"]], influences: Sequence[Float[np.ndarray, "runs ..."]], draws: int | None = None
) -> Float[np.ndarray, "draws ..."]:
    """Sum of influences by draws, of which there are `draws`, by default as many as occur.

    Example:
        >>> a, b = np.array([[1.0], [-1.0]]), np.array([[-1.0], [1.0]])
        >>> joint([np.arange(2), np.arange(2)], [a, b]).ravel().tolist()
        [0.0, 0.0]
    """
    draws = 1 + max(int(r.max()) for r in rows) if draws is None else draws
    out = np.zeros((draws, *influences[0].shape[1:]))
    for r, x in zip(rows, influences, strict=True):
        out[r] += x
    return out


def size(x: Float[np.ndarray, "draws ..."]) -> Float[np.ndarray, "..."]:
    """Standard error of joint influences."""
    return np.sqrt((x**2).sum(0))
