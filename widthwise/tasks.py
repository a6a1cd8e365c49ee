"""Tasks: arrays in, P train points and Q test points out, and constructors for the usual ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from widthwise import check
from widthwise.checked import Numbers, checked
from widthwise.memory import room, room_for


@dataclass(frozen=True, eq=False)
class Task:
    """Supervised data; train points first, test points ride along with Delta = 0.

    Args:
        X: (P, D) train inputs. The network sees x / sqrt(D); inputs of norm sqrt(D) make Phi^0 = X X^T / D of order one.
        y: (P,) train targets of a network with one output, or (P, C) of one with C outputs (classes: one-hot rows).
        X_test: (Q, D) test inputs, or None.
        y_test: test targets like y, or None (then predictions are recorded, a test loss is not).
        name: shown in tables and files.

    Raises:
        ValueError: wrong rank, lengths that differ, NaN or infinite entries.

    Example:
        >>> task = Task(X=[[1.0, 0.0], [0.0, 1.0]], y=[1.0, -1.0])
        >>> task.num_train, task.num_test, task.Phi0.tolist()
        (2, 0, [[0.5, 0.0], [0.0, 0.5]])
    """

    X: NDArray[np.float64]
    y: NDArray[np.float64]
    X_test: NDArray[np.float64] | None = None
    y_test: NDArray[np.float64] | None = None
    name: str = "task"

    def __init__(self, X: Any, y: Any, X_test: Any = None, y_test: Any = None, name: str = "task"):
        one_sample = "One sample is X of shape (1, D) and y of shape (1,)."
        X = check.array("X", X, 2, "(P, D)", one_sample)
        y = _targets("y", y, "P")
        _same_length("X", X, "y", y)
        if X_test is not None:
            X_test = check.array("X_test", X_test, 2, "(Q, D)", "Without test points leave X_test out.")
            if X_test.shape[1] != X.shape[1]:
                raise ValueError(
                    f"X_test must have the input dimension of X, D = {X.shape[1]}; got shape {X_test.shape}. "
                    "Apply the same preprocessing to both."
                )
        if y_test is not None:
            if X_test is None:
                raise ValueError("y_test needs X_test: pass the test inputs too, or leave both out.")
            y_test = _targets("y_test", y_test, "Q")
            _same_length("X_test", X_test, "y_test", y_test)
            if y_test.shape[1:] != y.shape[1:]:
                raise ValueError(f"y_test must have the outputs of y, {y.shape[1:]}; got {y_test.shape[1:]}.")
        for name_, value in (("X", X), ("y", y), ("X_test", X_test), ("y_test", y_test), ("name", str(name))):
            object.__setattr__(self, name_, value)

    @property
    def num_train(self) -> int:
        """P"""
        return len(self.X)

    @property
    def num_test(self) -> int:
        """Q"""
        return 0 if self.X_test is None else len(self.X_test)

    @property
    def num_points(self) -> int:
        """M = P + Q"""
        return self.num_train + self.num_test

    @property
    def input_dim(self) -> int:
        """D"""
        return self.X.shape[1]

    @property
    def num_outputs(self) -> int:
        """C; 1 for y of shape (P,)"""
        return 1 if self.y.ndim == 1 else self.y.shape[1]

    @property
    def X_all(self) -> NDArray[np.float64]:
        """(M, D) train inputs, then test inputs."""
        return self.X if self.X_test is None else np.concatenate([self.X, self.X_test])

    @property
    def Phi0(self) -> NDArray[np.float64]:
        """(M, M) input kernel x.x' / D."""
        X = self.X_all
        return X @ X.T / self.input_dim

    def __repr__(self) -> str:
        outputs = "" if self.y.ndim == 1 else f", C={self.num_outputs}"
        return f"Task({self.name!r}, P={self.num_train}, Q={self.num_test}, D={self.input_dim}{outputs})"


def _targets(name: str, y: Any, rows: str) -> NDArray[np.float64]:
    """(n,) or (n, C) targets."""
    cure = f"One target per sample, shape ({rows},), or one row of C targets, shape ({rows}, C)."
    rank = 2 if check.numbers(name, y, f"of shape ({rows},)", cure).ndim == 2 else 1
    return check.array(name, y, rank, f"({rows},)" if rank == 1 else f"({rows}, C)", cure)


def _same_length(name_a: str, a: Any, name_b: str, b: Any) -> None:
    if len(a) != len(b):
        raise ValueError(f"{name_a} and {name_b} must have one row per sample; got {len(a)} and {len(b)} rows.")


@checked
def digits(
    num_train: int = 24, num_test: int = 24, *, classes: Sequence[int] = (0, 1), one_hot: bool | None = None, seed: int = 0
) -> Task:
    """Classes of scikit-learn's 8 x 8 handwritten digits (D = 64).

    The mean image of the classes is subtracted and each image scaled to norm sqrt(D), so that Phi^0 has unit diagonal.

    Args:
        num_train, num_test: P, Q.
        classes: two digits or more.
        one_hot: targets as rows (P, C) of zeros and a one; by default for more than two classes. Two classes otherwise have
            y = +1 for the first and -1 for the second.
        seed: of the choice of images.

    Raises:
        ValueError: more points asked for than the classes have; not two or more different classes.

    Example:
        >>> digits(8, 4, classes=(3, 8))
        Task('digits 3 vs 8', P=8, Q=4, D=64)
        >>> digits(8, 4, classes=(0, 1, 2))
        Task('digits 0 vs 1 vs 2', P=8, Q=4, D=64, C=3)
    """
    from sklearn.datasets import load_digits  # imported where used: it costs over a second

    check.count("num_train", num_train)
    check.count("num_test", num_test, least=0)
    listed = [*classes] if isinstance(classes, Iterable) else []
    if len(listed) < 2 or len({*listed} & {*range(10)}) != len(listed):
        raise ValueError(f"classes must be two or more different digits 0 ... 9, got {classes!r}.")
    one_hot = len(listed) > 2 if one_hot is None else check.flag("one_hot", one_hot)
    if not one_hot and len(listed) > 2:
        raise ValueError(f"{len(listed)} classes need one_hot targets; leave one_hot out.")
    images, labels = load_digits(return_X_y=True)
    keep = np.isin(labels, listed)
    X, labels = images[keep], labels[keep]
    if num_train + num_test > len(X):
        names = ", ".join(map(str, listed[:-1])) + f" and {listed[-1]}"
        raise ValueError(f"digits {names} have {len(X)} images; asked for {num_train} + {num_test}. Ask for fewer.")
    X = X - X.mean(0)
    X *= np.sqrt(X.shape[1]) / np.linalg.norm(X, axis=1, keepdims=True)
    order = _rng(seed).permutation(len(X))[: num_train + num_test]
    y = (labels[:, None] == np.array(listed)).astype(float) if one_hot else np.where(labels == listed[0], 1.0, -1.0)
    return _split(X[order], y[order], num_train, "digits " + " vs ".join(map(str, listed)))


@checked
def stream(batches: Any, num_steps: int, X_test: Any = None, y_test: Any = None, *, name: str = "stream") -> Task:
    """One-pass ("online") data from any iterator of batches (X (B, D), y (B,) or (B, C)), for `sampling="online"`.

    Args:
        batches: gives num_steps + 1 batches of one size, the last to be measured only; more are left in the iterator.
        num_steps: T of the training.
        X_test, y_test: the points at which results are watched.
        name: shown in tables and files.

    Raises:
        ValueError: the stream ends early; a batch of another size or with NaN; the message says which.

    Example:
        >>> import itertools
        >>> rng = np.random.default_rng(0)
        >>> endless = ((x, x[:, 0]) for x in (rng.standard_normal((4, 8)) for _ in itertools.count()))
        >>> stream(endless, num_steps=10, X_test=rng.standard_normal((3, 8)))
        Task('stream', P=44, Q=3, D=8)
    """
    taken: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    if not isinstance(batches, Iterable) or isinstance(batches, type | str | bytes) or getattr(batches, "ndim", 1) == 0:
        raise ValueError(f"batches must be an iterator of pairs (X, y), got {check.shown(batches)}.")
    source = iter(batches)
    for number in range(check.count("num_steps", num_steps) + 1):
        try:
            pair = next(source)
        except StopIteration:
            raise ValueError(
                f"the stream ends early: after {number} of the {num_steps + 1} batches that {num_steps} steps need "
                f"(the last is only measured). Make it longer, or take num_steps={max(number - 1, 0)}."
            ) from None
        try:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise ValueError(f"it must be a pair (X, y), got {check.shown(pair)}.")
            X, y = pair
            X, y = check.array("X", X, 2, "(B, D)"), _targets("y", y, "B")
            _same_length("X", X, "y", y)
            if taken and (X.shape, y.shape) != (taken[0][0].shape, taken[0][1].shape):
                raise ValueError(f"X and y have shapes {X.shape}, {y.shape}; before {taken[0][0].shape}, {taken[0][1].shape}.")
        except ValueError as error:
            raise ValueError(f"batch {number} of the stream: {error}") from error
        if not taken:
            room(16 * (num_steps + 1) * (X.size + y.size), f"{num_steps + 1} batches of {len(X)}", "Take fewer steps.")
        taken.append((X, y))
    return Task(np.concatenate([X for X, _ in taken]), np.concatenate([y for _, y in taken]), X_test, y_test, name)


@checked
def gaussian(num_train: int, num_test: int = 0, *, input_dim: int, seed: int = 0) -> Task:
    """Inputs x ~ N(0, 1)^D, targets +-1 at random (pure memorisation).

    Example:
        >>> gaussian(4, 2, input_dim=10)
        Task('gaussian', P=4, Q=2, D=10)
    """
    X, rng = _normal(num_train, num_test, input_dim, seed)
    return _split(X, rng.choice([-1.0, 1.0], size=len(X)), num_train, "gaussian")


@checked
def sphere(num_train: int, num_test: int = 0, *, input_dim: int, seed: int = 0) -> Task:
    """Inputs uniform on the sphere of radius sqrt(D), target linear: y = beta . x / sqrt(D), |beta|^2 = D.

    Example:
        >>> sphere(4, 2, input_dim=10).Phi0.diagonal().round(12).tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    X, rng = _normal(num_train, num_test, input_dim, seed)
    X *= np.sqrt(input_dim) / np.linalg.norm(X, axis=1, keepdims=True)
    beta = rng.standard_normal(input_dim)
    return _split(X, X @ beta / np.linalg.norm(beta), num_train, "sphere")


@checked
def whitened(num_train: int, *, input_dim: int, seed: int = 0) -> Task:
    """Whitened inputs, Phi^0 = identity (needs P <= D); targets of norm |y|^2 = P along a random direction.

    Example:
        >>> import numpy as np
        >>> np.allclose(whitened(3, input_dim=5).Phi0, np.eye(3))
        True
    """
    check.count("num_train", num_train)
    if num_train > check.count("input_dim", input_dim):
        raise ValueError(
            f"whitened inputs need num_train <= input_dim, got {num_train} > {input_dim}. "
            "Phi0 = X X^T / D has rank at most D; raise input_dim or lower num_train."
        )
    X, rng = _normal(num_train, 0, input_dim, seed)
    y = rng.standard_normal(num_train)
    Q, _ = np.linalg.qr(X.T)
    return Task(np.sqrt(input_dim) * Q.T, y * np.sqrt(num_train) / np.linalg.norm(y), name="whitened")


@checked
def multi_index(
    num_train: int,
    num_test: int = 0,
    *,
    input_dim: int,
    link: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None,
    num_directions: int = 1,
    seed: int = 0,
) -> Task:
    """Inputs x ~ N(0, 1)^D, target y = link(k projections of x on orthonormal directions).

    Args:
        num_train, num_test, input_dim: P, Q, D.
        link: (n, k) array of projections -> (n,) targets; by default the sum of the Hermite polynomials (u^3 - 3 u) / sqrt(6).
        num_directions: k.
        seed: of inputs and directions.

    Raises:
        ValueError: more directions than dimensions; a link that does not give one target per row.

    Example:
        >>> multi_index(8, 8, input_dim=16, num_directions=3)
        Task('multi-index k=3', P=8, Q=8, D=16)
    """
    if check.count("num_directions", num_directions) > check.count("input_dim", input_dim):
        raise ValueError(f"num_directions must be at most input_dim = {input_dim}, got {num_directions}.")
    X, rng = _normal(num_train, num_test, input_dim, seed)
    directions, _ = np.linalg.qr(rng.standard_normal((input_dim, num_directions)))
    u = X @ directions
    y = ((u**3 - 3 * u) / np.sqrt(6 * num_directions)).sum(1)
    if link is not None:
        cure = f"It takes u of shape (n, {num_directions}) to (n,), e.g. lambda u: u[:, 0] ** 2."
        y = check.called("link(u)", link, u, shape=(len(u),), cure=cure)
    return _split(X, y, num_train, f"multi-index k={num_directions}")


@checked
def independent_features(
    num_train: int,
    num_test: int = 0,
    *,
    input_dim: int = 20,
    margin: float = 1.0,
    num_slabs: int | None = None,
    slab: float = 2.0,
    noise: float = 0.3,
    seed: int = 0,
) -> Task:
    """Two classes y = +-1 that the first coordinate tells apart by a line and every other one only by its size (2302.00457).

        x_1 = margin y,   x_j = slab s_j (1 + y) / 2 + noise n_j (slabs),   x_j = n_j (the rest),   s_j = +-1, n_j ~ N(0, 1)

    Given y the coordinates are independent. A slab has mean zero in both classes, so that no linear function of slabs knows y.

    Args:
        num_train, num_test: P, Q; half of each is of either class.
        input_dim: D.
        margin, slab, noise: sizes.
        num_slabs: how many; by default all coordinates but the first.
        seed: of the points.

    Raises:
        ValueError: a size that is not above zero (noise: below zero); more slabs than coordinates.

    Example:
        >>> task = independent_features(8, 4, input_dim=5, num_slabs=2)
        >>> task, bool((task.X[:, 0] == task.y).all())
        (Task('independent features', P=8, Q=4, D=5), True)
    """
    X, rng = _normal(num_train, num_test, input_dim, seed)
    num_slabs = input_dim - 1 if num_slabs is None else check.count("num_slabs", num_slabs, least=0)
    if num_slabs > input_dim - 1:
        raise ValueError(f"num_slabs must be at most input_dim - 1 = {input_dim - 1}, got {num_slabs}.")
    y = np.concatenate([rng.permutation(np.where(np.arange(n) % 2, -1.0, 1.0)) for n in (num_train, num_test)])
    signs = rng.choice([-1.0, 1.0], size=(len(X), num_slabs))
    slabs = slice(1, 1 + num_slabs)
    X[:, slabs] = check.positive("slab", slab) * signs * (y[:, None] > 0) + check.at_least_zero("noise", noise) * X[:, slabs]
    X[:, 0] = check.positive("margin", margin) * y
    return _split(X, y, num_train, "independent features")


@checked
def swapped(task: Task, directions: Numbers, *, seed: int = 0) -> Task:
    """The task with 3 Q test points: x, then Pi x + (1 - Pi) x', then Pi x' + (1 - Pi) x, with x' of another class than x.

    Pi projects on the directions. A function of Pi x alone gives the same on the second third as on the first; targets are
    those of the point that gave Pi x. `compare.swap_test` reads a result on such a task.

    Args:
        task: with test points and their targets: signs of one output, or the largest of several.
        directions: (D,), or (k, D) linearly independent rows.
        seed: of the choice of x', any test point of another class.

    Raises:
        ValueError: no test points or targets, or of one class alone; directions of another shape, or dependent.

    Example:
        >>> swapped(independent_features(8, 4, input_dim=5), [1, 0, 0, 0, 0])
        Task('independent features, swapped', P=8, Q=12, D=5)
    """
    if task.X_test is None or task.y_test is None:
        raise ValueError("swapped needs test points and their targets: give the task X_test and y_test.")
    of = task.y_test > 0 if task.y_test.ndim == 1 else task.y_test.argmax(1)
    if not (of != of[0]).any():
        raise ValueError("swapped needs test points of two classes, got one.")
    rng = _rng(seed)
    other = np.array([rng.choice(np.flatnonzero(of != own)) for own in of])
    x, y = task.X_test, task.y_test
    part = x @ _projector(task, directions)
    X_test = np.concatenate([x, part + (x - part)[other], part[other] + (x - part)])
    return Task(task.X, task.y, X_test, np.concatenate([y, y, y[other]]), f"{task.name}, swapped")


@checked
def without(task: Task, directions: Numbers) -> Task:
    """The task with (1 - Pi) x in the place of every x, Pi the projector on the directions: what they leave for others to use.

    Args:
        task: any.
        directions: (D,), or (k, D) linearly independent rows.

    Raises:
        ValueError: directions of another shape, or dependent.

    Example:
        >>> without(independent_features(8, 4, input_dim=5), [1, 0, 0, 0, 0]).X[:, 0].tolist()
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    rest = np.eye(task.input_dim) - _projector(task, directions)
    X_test = None if task.X_test is None else task.X_test @ rest
    return Task(task.X @ rest, task.y, X_test, task.y_test, f"{task.name}, without")


def _projector(task: Task, directions: Any) -> NDArray[np.float64]:
    """(D, D) projector on the rows."""
    rows = check.array("directions", np.atleast_2d(directions), 2, f"(k, D) or (D,), D = {task.input_dim}")
    if rows.shape[1] != task.input_dim or np.linalg.matrix_rank(rows) < len(rows):
        raise ValueError(f"directions must be independent rows of length D = {task.input_dim}, got shape {rows.shape}.")
    Q, _ = np.linalg.qr(rows.T)
    return Q @ Q.T


def _normal(num_train: int, num_test: int, input_dim: int, seed: int) -> tuple[NDArray[np.float64], np.random.Generator]:
    total = check.count("num_train", num_train) + check.count("num_test", num_test, least=0)
    room_for((3, total, check.count("input_dim", input_dim)), "inputs", "Ask for fewer.")
    rng = _rng(seed)
    return rng.standard_normal((total, input_dim)), rng


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(check.seed("seed", seed))


def _split(X: NDArray[np.float64], y: NDArray[np.float64], P: int, name: str) -> Task:
    X_test, y_test = (X[P:], y[P:]) if len(X) > P else (None, None)
    return Task(X[:P], y[:P], X_test, y_test, name)
