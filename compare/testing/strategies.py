"""What hypothesis draws problems, tasks and spectra from. hypothesis is imported when a strategy is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from widthwise import MLP, GradientDescent, Parameterization, Problem, Task, check
from widthwise import tasks as constructors
from widthwise.checked import checked

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

ACTIVATIONS = ("tanh", "erf", "relu", "gelu", "softplus", "linear")
"""With |phi'| of order one: the tangent kernel at the start is at most about depth + 1 per sample."""


class Spectrum(NamedTuple):
    """A power-law spectrum: of a kernel and of a target in its eigenbasis.

    Attributes:
        eigenvalues: (n,) lambda_k = k^-decay, k = 1 ... n, divided by their sum.
        power: (n,) squared coefficients of the target, ~ lambda_k^source / k, divided by their sum.
        decay: above one, so that the trace is finite.
        source: how smooth the target is: power beyond k falls like k^-(decay source).
    """

    eigenvalues: Float[np.ndarray, "n"]
    power: Float[np.ndarray, "n"]
    decay: float
    source: float


@checked
def tasks(
    *, num_train: tuple[int, int] = (1, 6), num_test: tuple[int, int] = (0, 3), input_dim: tuple[int, int] = (3, 10)
) -> SearchStrategy[Task]:
    """Small tasks with one output of order one and inputs of norm about sqrt(D).

    Args:
        num_train, num_test, input_dim: least and largest P, Q and D.

    Raises:
        ImportError: hypothesis is not installed.
        ValueError: ranges that are not.

    Example:
        >>> import hypothesis
        >>> @hypothesis.settings(max_examples=5, database=None)
        ... @hypothesis.given(tasks(num_train=(2, 4)))
        ... def test(task):
        ...     assert 2 <= task.num_train <= 4
        >>> test()
    """
    st = _strategies()
    ranges = [_range(*item) for item in (("num_train", num_train), ("num_test", num_test), ("input_dim", input_dim))]

    @st.composite
    def draw_task(draw: DrawFn) -> Task:
        P, Q, D = (draw(st.integers(*r)) for r in ranges)
        kind = draw(st.sampled_from(["sphere", "signs", "multi_index"]))
        seed = draw(st.integers(0, 2**16))
        if kind == "multi_index":
            return constructors.multi_index(P, Q, input_dim=D, link=lambda u: np.sin(2 * u[:, 0]), seed=seed)
        task = constructors.sphere(P, Q, input_dim=D, seed=seed)
        if kind == "sphere":
            return task
        y = np.random.default_rng(seed).choice([-1.0, 1.0], size=P + Q)
        return Task(task.X, y[:P], task.X_test, y[P:] if Q else None, name="signs on a sphere")

    return draw_task()


@checked
def spectra(
    *, size: tuple[int, int] = (20, 200), decay: tuple[float, float] = (1.1, 3.0), source: tuple[float, float] = (0.25, 2.0)
) -> SearchStrategy[Spectrum]:
    """Power laws of eigenvalues and of a target's power.

    Args:
        size, decay, source: least and largest; see `Spectrum`.

    Raises:
        ImportError: hypothesis is not installed.
        ValueError: ranges that are not, or a decay of one or less.

    Example:
        >>> import hypothesis
        >>> @hypothesis.settings(max_examples=5, database=None)
        ... @hypothesis.given(spectra())
        ... def test(spectrum):
        ...     assert abs(spectrum.eigenvalues.sum() - 1) < 1e-12
        >>> test()
    """
    st = _strategies()
    ranges = [_range(*item) for item in (("size", size), ("decay", decay), ("source", source))]
    if decay[0] <= 1:
        raise ValueError(f"decay must be above one for a trace that is finite, got {decay}.")

    def make(n: int, a: float, b: float) -> Spectrum:
        k = np.arange(1.0, n + 1)
        eigenvalues, power = k**-a, k ** -(a * b + 1)
        return Spectrum(eigenvalues / eigenvalues.sum(), power / power.sum(), a, b)

    return st.builds(make, st.integers(*ranges[0]), st.floats(*ranges[1]), st.floats(*ranges[2]))


@checked
def problems(
    *,
    depths: tuple[int, int] = (1, 3),
    activations: Sequence[str] = ACTIVATIONS,
    gamma0: tuple[float, float] = (0.25, 1.5),
    num_steps: tuple[int, int] = (4, 12),
    task: SearchStrategy[Task] | None = None,
    full_batch: bool = False,
    **fixed: Any,
) -> SearchStrategy[Problem]:
    """Small MLPs, mean-field, with training that is stable at every width.

    Per sample the tangent kernel is at most about (depth + 1) |x|^2 / D at the start, so that gradient descent on the squared
    loss is stable for eta0 < 2 / ((depth + 1) max |x|^2 / D). Rates are drawn from 0.1 to 0.35 of that, times 1 - momentum,
    over 1 + gamma0^2 / 2: kernels grow as features are learned.

    Args:
        depths, gamma0, num_steps: least and largest.
        activations: names to draw from.
        task: where tasks are drawn from, by default `tasks()`.
        full_batch: no mini-batches, momentum or weight decay.
        fixed: fields of the Problem's parts that are not drawn, e.g. centered=False, kind="ntk".

    Raises:
        ImportError: hypothesis is not installed.
        ValueError: ranges that are not.

    Example:
        >>> import hypothesis
        >>> @hypothesis.settings(max_examples=5, database=None)
        ... @hypothesis.given(problems(depths=(2, 2), kind="ntk"))
        ... def test(problem):
        ...     assert problem.architecture.depth == 2 and problem.parameterization.kind == "ntk"
        >>> test()
    """
    st = _strategies()
    ranges = [_range(*item) for item in (("depths", depths), ("gamma0", gamma0), ("num_steps", num_steps))]
    from_tasks = tasks() if task is None else task
    check.flag("full_batch", full_batch)

    @st.composite
    def draw_problem(draw: DrawFn) -> Problem:
        drawn = draw(from_tasks)
        depth, richness, steps = draw(st.integers(*ranges[0])), draw(st.floats(*ranges[1])), draw(st.integers(*ranges[2]))
        batch, momentum, decay = None, 0.0, 0.0
        if not full_batch:
            batch = draw(st.one_of(st.none(), st.integers(1, drawn.num_train)))
            momentum, decay = draw(st.sampled_from([0.0, 0.5, 0.9])), draw(st.sampled_from([0.0, 0.01]))
        losses = ["mse", "logistic"] if (np.abs(drawn.y) == 1).all() and _signs(drawn.y_test) else ["mse"]
        training = GradientDescent(
            draw(st.floats(0.1, 0.35)) * _stable(drawn, depth) * (1 - momentum) / _growth(drawn, richness),
            steps,
            draw(st.sampled_from(losses)),
            batch_size=batch,
            momentum=momentum,
            weight_decay=decay,
        )
        problem = Problem(MLP(depth, draw(st.sampled_from(activations))), Parameterization(richness), drawn, training)
        return problem.replace(**fixed) if fixed else problem

    return draw_problem()


def _signs(y: np.ndarray | None) -> bool:
    return y is None or bool((np.abs(y) == 1).all())


def _stable(task: Task, depth: int) -> float:
    """2 / ((depth + 1) max |x|^2 / D)"""
    return float(2 / ((depth + 1) * max(1.0, task.Phi0.diagonal().max())))


def _growth(task: Task, gamma0: float) -> float:
    """1 + gamma0^2 max(1, y^2) / 2"""
    return float(1 + gamma0**2 * max(1.0, np.max(task.y**2)) / 2)


def _range(name: str, value: Any) -> Any:
    if not (isinstance(value, tuple) and len(value) == 2 and value[0] <= value[1]):
        raise ValueError(f"{name} must be a pair (least, largest), got {value!r}.")
    return value


def _strategies() -> Any:
    try:
        from hypothesis import strategies
    except ImportError as error:
        raise ImportError(
            "strategies need hypothesis, which comes with the extra `test`: pip install 'widthwise[test]', or it alone."
        ) from error
    return strategies
