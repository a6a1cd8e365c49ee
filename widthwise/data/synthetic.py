"""Streams without end: batch t is a function of (seed, t), and no sample comes twice."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from widthwise import check
from widthwise.checked import checked
from widthwise.data.stream import Batch, Stream, endless, generator
from widthwise.memory import room, room_for


@checked
def multi_index(input_dim: int = 16, num_directions: int = 3, degree: int = 3, *, seed: int = 0) -> Stream:
    """Inputs x ~ N(0, 1)^D, target a random polynomial of k projections u of x: y (B, 1) of mean 0 and variance 1.

    y = sum_a c_a prod_j He_{a_j}(u_j) / sqrt(a_j!) over 1 <= |a| <= degree. These terms are orthonormal, so that |c|^2 = 1 is
    the variance of y.

    Args:
        input_dim: D.
        num_directions: k, orthonormal directions.
        degree: of the polynomial.
        seed: of directions, coefficients c and inputs.

    Raises:
        ValueError: more directions than dimensions.

    Example:
        >>> stream = multi_index()
        >>> x, y = next(stream.batches(1000))
        >>> x.shape, y.shape, 0.5 < float(y.var()) < 2.0
        ((1000, 16), (1000, 1), True)
    """
    if check.count("num_directions", num_directions) > check.count("input_dim", input_dim):
        raise ValueError(f"num_directions must be at most input_dim = {input_dim}, got {num_directions}.")
    check.count("degree", degree, most=check.MANY)
    room_for((input_dim, num_directions), "directions", "Lower input_dim.")
    logs = [math.lgamma(n + 1) for n in (num_directions + degree, num_directions, degree)]
    many = math.exp(min(logs[0] - logs[1] - logs[2], 80.0))
    room(many * (100 + 30 * num_directions), f"a polynomial of {many:.3g} terms", "Lower degree or num_directions.")
    rng = generator(check.seed("seed", seed), 1)
    directions, _ = np.linalg.qr(rng.standard_normal((input_dim, num_directions)))
    factors = (itertools.combinations_with_replacement(range(num_directions), n) for n in range(1, degree + 1))
    powers = [[term.count(j) for j in range(num_directions)] for term in itertools.chain(*factors)]
    coefficients = rng.standard_normal(len(powers))
    coefficients /= np.linalg.norm(coefficients)

    def draw(rng: np.random.Generator, size: int) -> Batch:
        x = rng.standard_normal((size, input_dim))
        he = _hermite(x @ directions, degree)
        y = sum(c * math.prod(he[n][:, j] for j, n in enumerate(a)) for c, a in zip(coefficients, powers, strict=True))
        return x, np.asarray(y)[:, None]

    return endless(
        draw,
        seed,
        name="multi-index",
        input_shape=(input_dim,),
        num_outputs=1,
        kind="values",
        settings={"directions": num_directions, "degree": degree},
    )


def _hermite(u: NDArray[np.float64], degree: int) -> list[NDArray[np.float64]]:
    """He_n(u) / sqrt(n!) for n = 0 ... degree, each of the shape of u; orthonormal under N(0, 1)."""
    he = [np.ones_like(u), u]
    for n in range(2, degree + 1):
        he.append((u * he[-1] - math.sqrt(n - 1) * he[-2]) / math.sqrt(n))
    return he


Mask = Callable[[NDArray[Any], NDArray[Any]], NDArray[np.bool_]]

SHAPES: dict[str, Mask] = {
    "disk": lambda u, v: u**2 + v**2 < 1,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.75) < 0.3,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) < 0.9,
    "frame": lambda u, v: np.abs(np.maximum(abs(u), abs(v)) - 0.7) < 0.25,
    "triangle": lambda u, v: (v < 0.8) & (abs(u) < (v + 1) / 1.8),
    "diamond": lambda u, v: abs(u) + abs(v) < 1.1,
    "plus": lambda u, v: (np.minimum(abs(u), abs(v)) < 0.3) & (np.maximum(abs(u), abs(v)) < 1),
    "cross": lambda u, v: (np.abs(abs(u) - abs(v)) < 0.4) & (np.maximum(abs(u), abs(v)) < 1),
    "rows": lambda u, v: (np.maximum(abs(u), abs(v)) < 1) & (np.abs(abs(v) - 0.65) < 0.3),
    "columns": lambda u, v: (np.maximum(abs(u), abs(v)) < 1) & (np.abs(abs(u) - 0.65) < 0.3),
}
"""Class -> which points (u to the right, v down, both -1 ... 1 in the shape's own box) it covers."""

SIDE = 16


@checked
def shapes(*, noise: float = 0.3, seed: int = 0) -> Stream:
    """Images (16, 16, 3) of ten shapes (disk, ring, square, ...), for networks that should see what a linear model cannot.

    Position, size, colours of shape and ground, and a grating over the shape are random, and say nothing of the class. Pixels
    are of order one: colours uniform in -1.5 ... 1.5, plus noise.

    Args:
        noise: standard deviation per pixel.
        seed: of the images.

    Example:
        >>> stream = shapes()
        >>> x, y = next(stream.batches(8))
        >>> stream, x.shape, y.shape
        (Stream('shapes', classes, (16, 16, 3) -> 10), (8, 16, 16, 3), (8,))
    """
    check.at_least_zero("noise", noise)
    row, column = np.mgrid[:SIDE, :SIDE] + 0.5

    def draw(rng: np.random.Generator, size: int) -> Batch:
        def uniform(low: float, high: float, *shape: int) -> NDArray[np.float64]:
            return rng.uniform(low, high, (size, *shape))

        y = rng.integers(len(SHAPES), size=size)
        radius = uniform(4.0, 7.0, 1, 1)
        u = (column - SIDE / 2) / radius - uniform(-1, 1, 1, 1) * (SIDE / 2 / radius - 1)
        v = (row - SIDE / 2) / radius - uniform(-1, 1, 1, 1) * (SIDE / 2 / radius - 1)
        inside = np.empty((size, SIDE, SIDE, 1))
        for label, mask in enumerate(SHAPES.values()):
            inside[y == label, ..., 0] = mask(u[y == label], v[y == label])
        angle, phase = uniform(0, np.pi, 1, 1), uniform(0, 2 * np.pi, 1, 1)
        grating = 0.3 * np.sin(6 * (u * np.cos(angle) + v * np.sin(angle)) + phase)[..., None]
        ground, colour = uniform(-1.5, 1.5, 1, 1, 3), uniform(-1.5, 1.5, 1, 1, 3)
        x = ground + inside * (colour - ground + grating)
        return x + noise * rng.standard_normal(x.shape), y

    return endless(
        draw,
        check.seed("seed", seed),
        name="shapes",
        input_shape=(SIDE, SIDE, 3),
        num_outputs=len(SHAPES),
        kind="classes",
        settings={"noise": float(noise)},
    )
