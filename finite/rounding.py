"""Whether the numbers of a dtype are fine enough for a run: f of a lazy network is a small difference of large sums.

With eps the spacing of numbers above one, and f of size S / sqrt(N) at the start, before it is centred (S = 1 / gamma0 in
"mean_field", for features of order one; S = s / gamma0 where inputs are s times as large and the activation is of degree one):

    f is rounded to about eps S;   a step of f by df moves weights by d = df / (3 S) of their size (measured, or so estimated);
    a step of d < eps / 2 is lost, and where n are lost   |error of f| = eps S (1 + 3 LOST n)

Where training slows down steps shrink until they are lost, and f stops short of where it goes. Were it not for that, later
steps would go on shrinking as before: they are worth as many as took the last factor 8, over ln 8, and n is no more than that.
Hidden layers of width N, whose matrices move by d / sqrt N, stop earlier, and the others learn what they would have: HIDDEN of
the error is left. The constants are those of comparisons with float64 (`tests/test_rounding.py`).
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from finite import mlp
from widthwise import MLP, ConvNet, Problem, Status, Task

LARGEST = 0.05
"""Rounding error that is expected before a run, in units of f, which is y and what f starts at; more is refused."""

SEEN = 1e-3
"""Rounding error that is found after a run, in units of y; a Result with more is not ok."""

LOST = 0.075
"""Of a lost step of d = eps, what is missing in f: in the mean d is eps / 4 and less."""

HIDDEN = 0.03
"""Of what hidden layers lose, what is missing in f."""

NODES = 40
"""Of the quadrature over a Gaussian preactivation."""


def eps_of(dtype: str) -> float:
    """Spacing of the weights' numbers above one."""
    return float(np.finfo("float64" if dtype == "float64" else "float32").eps)


def target_size(y: Any) -> float:
    """Root mean square of the largest target of each sample; whole numbers are classes."""
    y = np.asarray(y)
    if np.issubdtype(y.dtype, np.integer):
        return 1.0
    return float(np.sqrt(np.mean(np.max(y.reshape(len(y), -1) ** 2, axis=1))))


def feature_size(problem: Problem) -> float:
    """Root mean square of phi(h^L) of wide networks at their start: <phi(h)^2> of Gaussian h, layer by layer; 1 if not of MLPs.

    Example:
        >>> from widthwise import GradientDescent, Parameterization, tasks
        >>> problem = Problem(MLP(2, "linear"), Parameterization(), tasks.sphere(2, input_dim=8), GradientDescent(0.1, 1))
        >>> round(feature_size(problem), 5)
        1.0
    """
    net, task = problem.architecture, problem.task
    if not (isinstance(net, MLP) and isinstance(task, Task)):
        return 1.0
    x, weight = np.polynomial.hermite_e.hermegauss(NODES)
    square = float(np.mean(task.X_all**2))
    for _ in range(net.depth):
        phi = np.asarray(net.activation.phi(jnp.asarray(math.sqrt(square + net.bias**2) * x)), np.float64)
        with np.errstate(over="ignore"):
            square = float(weight @ phi**2 / weight.sum())
    return math.sqrt(square) if math.isfinite(square) else 1.0


def check_strength(problem: Problem, width: int, dtype: str, y: Any = None) -> None:
    """Raise ValueError where rounding spoils f: gamma0 is too small for the dtype, or inputs are too large.

    Measured, the error of f is 25 eps S. A pass in bfloat16 rounds f, before it is centred, once more.

    Args:
        problem: its parameterization, and its data where they are a Task.
        width: N.
        dtype: "float32", "float64" or "bfloat16".
        y: targets of a Stream.
    """
    form, task = problem.parameterization, problem.task
    gamma0, features = form.feature_learning_strength(width), max(feature_size(problem), 1.0)
    size, start = features / gamma0, features * form.output_size(width)
    error = 25 * eps_of(dtype) * size
    if dtype == "bfloat16":
        error += float(jnp.finfo(dtype).eps) * start
    scale = target_size(task.y if isinstance(task, Task) else y) + (0.0 if form.centered else start)
    if error > LARGEST * (scale or 1.0):
        large = features > 10
        what = f"inputs are too large (features of size {features:.1g})" if large else f"gamma0 = {form.gamma0:g} is too small"
        raise ValueError(
            f"{what} for {dtype} at width {width}: outputs of order {scale:.1g} would carry a rounding error of about "
            f"{error:.1g}. {_cure(dtype, large)}"
        )


def _cure(dtype: str, large: bool) -> str:
    finer = {"bfloat16": "float32", "float32": "float64"}.get(dtype)
    scaled = "Scale inputs to |x|^2 = D" if large else ""
    if finer:
        return f'{scaled}{", or pass" if large else "Pass"} dtype="{finer}".'
    return f"{scaled or 'Raise gamma0: the lazy limit is reached long before'}."


def status_of(
    status: Status,
    problem: Problem,
    width: int,
    dtype: str,
    *,
    size: float,
    y: float,
    moved: Float[np.ndarray, "times"],
    steps: Float[np.ndarray, "times"],
) -> Status:
    """`status`, or one that is not ok where `error_of` the run exceeds SEEN.

    Args:
        status: of the run otherwise.
        problem, width, dtype: what ran.
        size: S.
        y: size of f.
        moved, steps: as in `error_of`.
    """
    if not status.ok:
        return status
    net, weights = problem.architecture, "float64" if dtype == "float64" else "float32"
    eps = eps_of(dtype)
    grain = 0.0 if dtype == "bfloat16" else max(eps, mlp.FLOW_TOLERANCE[weights] if problem.training.flow else 0.0)
    hidden = 1 if isinstance(net, MLP | ConvNet) and net.depth == 1 else width
    error = error_of(eps, size, y, moved, steps, hidden=hidden, grain=grain)
    if error < SEEN:
        return status
    cure = 'pass dtype="float64"' if dtype != "float64" else "raise eta0 or gamma0"
    return Status(
        False,
        f"rounding to {weights} leaves an error of about {min(error, 1.0):.1g} in f, in units of y: weights learn by "
        f"{float(moved @ steps):.1g} of their size in all, in steps that are lost below {eps / 2:.1g}. To cure it {cure}, or "
        "scale inputs to |x|^2 = D and targets to order one.",
    )


def error_of(
    eps: float,
    size: float,
    y: float,
    moved: Float[np.ndarray, "times"],
    steps: Float[np.ndarray, "times"],
    *,
    hidden: int = 1,
    grain: float | None = None,
) -> float:
    """Estimated rounding error of f, in units of y, by the equations above.

    Args:
        eps: of the weights.
        size: S.
        y: size of f.
        moved: d at some times.
        steps: how many steps each of these stands for.
        hidden: N, where matrices between hidden layers move by d / sqrt N of their size; 1 where there are none.
        grain: of f, by default eps.

    Example:
        >>> d = 1e-2 * 0.9 ** np.arange(1000)  # slows down until steps are lost
        >>> error_of(1e-7, 100.0, 1.0, d, np.ones(1000)) > 2 * error_of(1e-7, 100.0, 1.0, d[:50], np.ones(50))
        True
    """

    def number_lost(d: Float[np.ndarray, "times"]) -> float:
        low = eps / 2
        lost, near = float(steps[d < low].sum()), float(steps[(d >= low) & (d < 8 * low)].sum())
        return min(lost, max(near, 1.0) / math.log(8)) if d.max(initial=0.0) >= 8 * low else lost

    root = hidden**0.5
    lost = number_lost(moved) + (HIDDEN * root * number_lost(moved / root) if hidden > 1 else 0.0)
    return size / (y or 1.0) * ((eps if grain is None else grain) + 3 * eps * LOST * lost)
