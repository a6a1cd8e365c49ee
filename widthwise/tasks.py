"""Tasks: arrays in, P train points and Q test points out, and constructors for the usual ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from widthwise import check


@dataclass(frozen=True, eq=False)
class Task:
    """Supervised data; train points first, test points ride along with Delta = 0.

    Args:
        X: (P, D) train inputs. The network sees x / sqrt(D); inputs of norm sqrt(D) make Phi^0 = X X^T / D of order one.
        y: (P,) train targets.
        X_test: (Q, D) test inputs, or None.
        y_test: (Q,) test targets, or None (then predictions are recorded, a test loss is not).
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
        y = check.array("y", y, 1, "(P,)", "Networks here have one output; pass one target per sample.")
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
            y_test = check.array("y_test", y_test, 1, "(Q,)")
            _same_length("X_test", X_test, "y_test", y_test)
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
    def X_all(self) -> NDArray[np.float64]:
        """(M, D) train inputs, then test inputs."""
        return self.X if self.X_test is None else np.concatenate([self.X, self.X_test])

    @property
    def Phi0(self) -> NDArray[np.float64]:
        """(M, M) input kernel x.x' / D."""
        X = self.X_all
        return X @ X.T / self.input_dim

    def __repr__(self) -> str:
        return f"Task({self.name!r}, P={self.num_train}, Q={self.num_test}, D={self.input_dim})"


def _same_length(name_a: str, a: Any, name_b: str, b: Any) -> None:
    if len(a) != len(b):
        raise ValueError(f"{name_a} and {name_b} must have one row per sample; got {len(a)} and {len(b)} rows.")


def digits(num_train: int = 24, num_test: int = 24, *, classes: Sequence[int] = (0, 1), seed: int = 0) -> Task:
    """Two classes of scikit-learn's 8 x 8 handwritten digits (D = 64), y = +1 for the first class and -1 for the second.

    The mean image of the two classes is subtracted and each image scaled to norm sqrt(D), so that Phi^0 has unit diagonal.

    Raises:
        ValueError: more points asked for than the two classes have; not two different classes.

    Example:
        >>> digits(8, 4, classes=(3, 8))
        Task('digits 3 vs 8', P=8, Q=4, D=64)
    """
    from sklearn.datasets import load_digits  # imported where used: it costs over a second

    check.count("num_train", num_train)
    check.count("num_test", num_test, least=0)
    if not isinstance(classes, Iterable) or len([*classes]) != 2 or len({*classes} & {*range(10)}) != 2:
        raise ValueError(f"classes must be two different digits 0 ... 9, got {classes!r}.")
    images, labels = load_digits(return_X_y=True)
    keep = np.isin(labels, classes)
    X, y = images[keep], np.where(labels[keep] == classes[0], 1.0, -1.0)
    if num_train + num_test > len(X):
        raise ValueError(
            f"digits {classes[0]} and {classes[1]} have {len(X)} images; asked for {num_train} + {num_test}. Ask for fewer."
        )
    X = X - X.mean(0)
    X *= np.sqrt(X.shape[1]) / np.linalg.norm(X, axis=1, keepdims=True)
    order = _rng(seed).permutation(len(X))[: num_train + num_test]
    return _split(X[order], y[order], num_train, f"digits {classes[0]} vs {classes[1]}")


def gaussian(num_train: int, num_test: int = 0, *, input_dim: int, seed: int = 0) -> Task:
    """Inputs x ~ N(0, 1)^D, targets +-1 at random (pure memorisation).

    Example:
        >>> gaussian(4, 2, input_dim=10)
        Task('gaussian', P=4, Q=2, D=10)
    """
    X, rng = _normal(num_train, num_test, input_dim, seed)
    return _split(X, rng.choice([-1.0, 1.0], size=len(X)), num_train, "gaussian")


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
        y = check.array("link(u)", link(u), 1, f"(n,) for u of shape (n, {num_directions})", "E.g. lambda u: u[:, 0] ** 2.")
        _same_length("u", u, "link(u)", y)
    return _split(X, y, num_train, f"multi-index k={num_directions}")


def _normal(num_train: int, num_test: int, input_dim: int, seed: int) -> tuple[NDArray[np.float64], np.random.Generator]:
    total = check.count("num_train", num_train) + check.count("num_test", num_test, least=0)
    rng = _rng(seed)
    return rng.standard_normal((total, check.count("input_dim", input_dim))), rng


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(check.count("seed", seed, least=0))


def _split(X: NDArray[np.float64], y: NDArray[np.float64], P: int, name: str) -> Task:
    X_test, y_test = (X[P:], y[P:]) if len(X) > P else (None, None)
    return Task(X[:P], y[:P], X_test, y_test, name)
