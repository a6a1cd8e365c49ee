"""Simplicity bias: whether a network with one hidden layer sees a low-dimensional part Pi x of its inputs alone (2302.00457).

Three measures, each of a Result of either side:

    first_layer    C = <z^2 W W^T>, second moment of the input weights W (D,) of neurons times their readouts z, as they enter
                   f = <z phi(h)> / gamma0: share lambda_1 / tr C, and rank exp(-sum p ln p) with p = lambda / tr C
    swap_test      share of predictions that change if (1 - Pi) x is that of a point of another class, or if Pi x is
    joint_errors   a second model trained on (1 - Pi) x (OrthoP): whether its errors are others, what the average of both gains

Weights come from fields: h = W x / sqrt(D) + bias b at points that span a space gives W's part in that space, and the rest of W
moves no output at these points. Where the points span less than all directions, that part is what is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from compare.outputs import outputs_of
from widthwise import MLP, Result, Task, check
from widthwise.checked import Numbers, checked
from widthwise.jackknife import jackknife


class Measured(NamedTuple):
    """A number, or one per step, and its standard error: zero of an exact result, infinite of a single run."""

    value: Any
    error: Any


@dataclass(frozen=True)
class FirstLayer:
    """Second moments of the input weights of the runs of a Result.

    Attributes:
        steps: (K,) kept steps.
        moments: (n, K, D, D) C of every network, or replica of the theory.
    """

    steps: Int[np.ndarray, "kept"]
    moments: Float[np.ndarray, "runs kept D D"]

    @property
    def direction(self) -> Float[np.ndarray, "D"]:
        """(D,) top eigenvector of the mean C at the last step, its largest entry positive."""
        top = np.linalg.eigh(self.moments[:, -1].mean(0))[1][:, -1]
        return top * np.sign(top[np.abs(top).argmax()])

    @checked
    def share(self, direction: Numbers = None) -> Measured:
        """(K,) share of tr C in a direction (D,), v.C v / (|v|^2 tr C); by default in the top one of each network.

        Raises:
            ValueError: a direction of another shape, or zero.
        """
        if direction is None:
            return _over_runs(self._spectra()[..., -1])
        v, D = np.asarray(direction), self.moments.shape[-1]
        if v.shape != (D,) or not np.linalg.norm(v) > 0:
            raise ValueError(f"direction must be a vector of length D = {D} that is not zero, got shape {v.shape}.")
        v = v / np.linalg.norm(v)
        return _over_runs(np.einsum("d,rkde,e->rk", v, self.moments, v) / np.einsum("rkdd->rk", self.moments))

    def effective_rank(self) -> Measured:
        """(K,) exp(-sum p ln p) of the eigenvalues p of C / tr C: 1 to D."""
        p = self._spectra()
        return _over_runs(np.exp(-np.sum(p * np.log(np.where(p > 0, p, 1.0)), -1)))

    def _spectra(self) -> Float[np.ndarray, "runs kept D"]:
        values = np.maximum(np.linalg.eigvalsh(self.moments), 0.0)
        return values / values.sum(-1, keepdims=True)

    def __str__(self) -> str:
        rows = zip(self.steps, *self.share(), *self.effective_rank(), strict=True)
        lines = [f"{t:6d}   {p:.3f} +- {dp:.3f}      {r:.2f} +- {dr:.2f}" for t, p, dp, r, dr in rows]
        return "\n".join(["  step   top direction        effective rank", *lines])


@checked
def first_layer(result: Result, *, weighted: bool = True) -> FirstLayer:
    """Second moments of the input weights of a network with one hidden layer at the kept steps.

    Args:
        result: of an MLP(1) on a Task, with save=["h", "z"]; "h" alone if not weighted.
        weighted: C = <z^2 W W^T>; else C = <W W^T>. At initialisation both are the identity.

    Raises:
        ValueError: another network, several outputs (whose z are not all saved), fields that were not saved.

    Example:
        >>> import finite
        >>> from widthwise import GradientDescent, Parameterization, Problem, tasks
        >>> task = tasks.independent_features(32, input_dim=6, margin=2.0)
        >>> problem = Problem(MLP(1, "relu", bias=1.0), Parameterization(8.0), task, GradientDescent(0.2, 30, "logistic"))
        >>> nets = finite.train(problem, width=64, num_seeds=8, save=["h", "z"], progress=False)
        >>> layer = first_layer(nets)
        >>> abs(layer.direction).round().tolist()
        [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
        >>> bool(layer.share().value[1] > 0.8 > layer.share().value[0])
        True
    """
    problem = check.result("result", result).problem
    arch, task = problem.architecture, problem.task
    if not isinstance(arch, MLP) or arch.depth != 1 or not isinstance(task, Task):
        raise ValueError(f"first_layer is of an MLP with one hidden layer on a Task, got {arch!r} on {task!r}.")
    if weighted and task.num_outputs > 1:
        raise ValueError(f"the readouts of {task.num_outputs} outputs are not saved: pass weighted=False.")
    more = {} if result.trajectory.samples is None else result.samples.more
    if "h" not in more or (weighted and "z" not in more):
        raise ValueError('first_layer needs the fields of the neurons: pass save=["h", "z"] to the run.')
    X = problem.X_watched / np.sqrt(task.input_dim)
    points = np.concatenate([X, np.full((len(X), 1), arch.bias)], axis=1) if arch.bias else X
    h = np.asarray(more["h"], dtype=np.float64)[:, :, 0]  # (n, K, M, N)
    W = np.einsum("dm,rkmi->rkdi", np.linalg.pinv(points)[: task.input_dim], h, optimize=True)
    if weighted:
        W = W * np.asarray(more["z"], dtype=np.float64)[:, :, 0, :1]  # the same at all points
    return FirstLayer(np.asarray(result.mean.kernel_steps), W @ np.swapaxes(W, -1, -2) / W.shape[-1])


@dataclass(frozen=True)
class SwapTest:
    """What predictions at test points do when parts of the inputs are exchanged, at every recorded step.

    Attributes:
        steps: (T+1,).
        rest, rest_output: predictions that change when (1 - Pi) x is that of a point of another class; and the change of the
            output, |f - f'| / |f|, root mean squares over points.
        directions, directions_output: the same when Pi x is that of a point of another class.
    """

    steps: Int[np.ndarray, "states"]
    rest: Measured
    rest_output: Measured
    directions: Measured
    directions_output: Measured

    def __str__(self) -> str:
        lines = ["at the last step   predictions that change    change of the output"]
        for name, share, size in (
            ("directions", self.directions, self.directions_output),
            ("the rest", self.rest, self.rest_output),
        ):
            lines.append(
                f"{name:10s} swapped       {share.value[-1]:.3f} +- {share.error[-1]:.3f}         "
                f"{size.value[-1]:.3g} +- {size.error[-1]:.1g}"
            )
        return "\n".join(lines)


@checked
def swap_test(result: Result) -> SwapTest:
    """How far predictions depend on Pi x, and how far on (1 - Pi) x, of a result on a task of `widthwise.tasks.swapped`.

    A prediction is the sign of one output, or the largest of several. A function of Pi x alone has `rest` = 0.

    Raises:
        ValueError: the test points are not those of `widthwise.tasks.swapped`; no recorded outputs at them.

    Example:
        >>> import finite
        >>> from widthwise import GradientDescent, Parameterization, Problem, tasks
        >>> task = tasks.swapped(tasks.independent_features(32, 16, input_dim=6, margin=2.0), [1, 0, 0, 0, 0, 0])
        >>> problem = Problem(MLP(1, "relu", bias=1.0), Parameterization(8.0), task, GradientDescent(0.2, 30, "logistic"))
        >>> test = swap_test(finite.train(problem, width=64, num_seeds=8, progress=False))
        >>> bool(test.rest.value[-1] < 0.1 < 0.9 < test.directions.value[-1])
        True
    """
    x = getattr(check.result("result", result).problem.task, "X_test", None)
    if x is None or len(x) % 3 or not _is_swapped(*np.split(x, 3)):
        raise ValueError("swap_test needs the test points of widthwise.tasks.swapped(task, directions): train on that task.")
    steps, outputs, _ = outputs_of(result, points="test")
    f, rest, directions = np.split(outputs, 3, axis=2)  # each (n, T, Q, C)
    exact = result.trajectory.n == 0

    def size(a: Float[np.ndarray, "runs states points outputs"]) -> Float[np.ndarray, "runs states"]:
        return np.sqrt(np.mean(a**2, axis=(2, 3)))

    def compared(other: Float[np.ndarray, "runs states points outputs"]) -> tuple[Measured, Measured]:
        scale = size(f)
        moved = np.divide(size(other - f), scale, out=np.zeros_like(scale), where=scale > 0)
        return _over_runs((_class(other) != _class(f)).mean(2), exact), _over_runs(moved, exact)

    return SwapTest(steps, *compared(rest), *compared(directions))


def _is_swapped(x: Float[np.ndarray, "Q D"], rest: Float[np.ndarray, "Q D"], directions: Float[np.ndarray, "Q D"]) -> bool:
    """Whether rest + directions = x + x' with x' among x."""
    other = rest + directions - x
    nearest = np.abs(other[:, None] - x).max(2).min(1)
    return bool((nearest <= 1e-9 * np.abs(x).max()).all())


@dataclass(frozen=True)
class JointErrors:
    """Two models at the same points, after training.

    Attributes:
        first, second, average: accuracy of either, and of the mean of their outputs.
        correlation: of their errors, over points: 1 if they are wrong at the same points, 0 if independently; None if one of
            them is never, or always, wrong.
    """

    first: Measured
    second: Measured
    average: Measured
    correlation: Measured | None

    def __str__(self) -> str:
        rows = {"first": self.first, "second": self.second, "average": self.average, "correlation of errors": self.correlation}
        return "\n".join(
            f"{name:22s} " + ("no errors" if x is None else f"{x.value:.3f} +- {x.error:.3f}") for name, x in rows.items()
        )


@checked
def joint_errors(a: Result, b: Result, points: Any = slice(None)) -> JointErrors:
    """Accuracies of two models and of their average at the test points, and the correlation of their errors.

    Args:
        a, b: two models, e.g. b trained on `widthwise.tasks.without` the direction that a uses. Run i of one goes with run i of
            the other, so networks of one width should have two seeds.
        points: which test points: a slice or numbers.

    Raises:
        ValueError: other numbers of runs or points, other targets; targets missing.

    Example:
        >>> import finite
        >>> from widthwise import GradientDescent, Parameterization, Problem, tasks
        >>> task = tasks.independent_features(32, 16, input_dim=6, margin=2.0)
        >>> problem = Problem(MLP(1, "relu", bias=1.0), Parameterization(8.0), task, GradientDescent(0.2, 30, "logistic"))
        >>> other = problem.replace(task=tasks.without(task, [1, 0, 0, 0, 0, 0]))
        >>> nets = [finite.train(p, width=64, num_seeds=8, seed=i, progress=False) for i, p in enumerate((problem, other))]
        >>> joint_errors(*nets).first.value
        1.0
    """
    one, other = outputs_of(a, points="test"), outputs_of(b, points="test")
    f, g, y = one.f[:, -1], other.f[:, -1], np.asarray(one.y)
    if f.shape != g.shape or not np.array_equal(y, np.asarray(other.y)):
        raise ValueError(
            f"the two results must have as many runs, and the same test targets; outputs have {f.shape}, {g.shape}."
        )
    at = _chosen(points, len(y))
    assigned = _class(y)[at]
    wrong = [_class(out)[:, at] != assigned for out in (f, g, (f + g) / 2)]  # (n, Q) each
    if not wrong[0].shape[1]:
        raise ValueError("joint_errors needs at least one test point; `points` chooses none.")
    n = a.trajectory.n

    def accuracy(x: Bool[np.ndarray, "runs points"]) -> Measured:
        return Measured(*(float(number[0]) for number in _over_runs(1 - x.mean(1, keepdims=True), n == 0)))

    first, second = (x - x.mean(1, keepdims=True) for x in wrong[:2])
    products = np.stack([(first * second).mean(1), (first**2).mean(1), (second**2).mean(1)])  # (3, n)
    correlation = None
    if products[1].any() and products[2].any():
        correlation = Measured(*map(float, jackknife(lambda w: _ratio(products @ w if n else products[:, 0]), n)[:2]))
    return JointErrors(accuracy(wrong[0]), accuracy(wrong[1]), accuracy(wrong[2]), correlation)


def _chosen(points: Any, number: int) -> Int[np.ndarray, "chosen"]:
    """The numbers of the points that a slice, numbers or a mask choose."""
    mask = np.asarray(points) if isinstance(points, np.ndarray | list) else None
    if mask is not None and mask.dtype == bool and mask.shape == (number,):
        return np.flatnonzero(mask)
    if isinstance(points, slice):
        ends = (check.whole("every end of points", end) for end in (points.start, points.stop, points.step) if end is not None)
        if 0 in (*ends,) and points.step == 0:
            raise ValueError("points must be a slice with a step other than zero.")
        return np.arange(number)[points]
    chosen = check.counts("points", points, f"Pass a slice, or some of 0 ... {number - 1}.", least=0)
    if max(chosen, default=0) >= number:
        raise ValueError(f"points must be some of 0 ... {number - 1}, got {check.shown(points)}.")
    return np.array(chosen, dtype=int)


def _ratio(products: Float[np.ndarray, "3"]) -> float:
    """Covariance over the root of both variances; 0 where one of them is."""
    scale = np.sqrt(products[1] * products[2])
    return float(products[0] / scale) if scale > 0 else 0.0


def _class(f: Float[np.ndarray, "*runs points outputs"]) -> np.ndarray:
    """Sign of one output, number of the largest of several."""
    return f[..., 0] > 0 if f.shape[-1] == 1 else f.argmax(-1)


def _over_runs(x: Float[np.ndarray, "runs steps"], exact: bool = False) -> Measured:
    """Mean and standard error over runs."""
    n, steps = x.shape
    error = np.zeros(steps) if exact else np.full(steps, np.inf) if n == 1 else x.std(0, ddof=1) / np.sqrt(n)
    return Measured(x.mean(0), error)
