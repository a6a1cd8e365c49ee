"""Losses of one sample, and their gradient in function space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from widthwise import check
from widthwise.checked import checked
from widthwise.traced import key_of

SampleLoss = Callable[[Float[Array, "outputs"], Float[Array, "outputs"]], Float[Array, ""]]

ONE_HOT = "Make labels integers 0 ... C - 1 and of them one-hot rows, np.eye(C)[labels]; or +-1, with loss='logistic'."


@checked
@dataclass(frozen=True)
class Loss:
    """The loss l(f, y) of one sample; the loss of a batch is its mean.

    Attributes:
        name: what `repr` and files show.
        of_sample: (f (C,), y (C,)) -> number, written with `jax.numpy`; C is the number of outputs (1 for y of shape (P,)).

    Example:
        >>> loss = as_loss("mse")
        >>> loss.of(jnp.array([[1.0], [3.0]]), jnp.array([[1.0], [1.0]])).tolist()
        [0.0, 2.0]
        >>> loss.minus_gradient(jnp.array([[1.0], [3.0]]), jnp.array([[1.0], [1.0]])).tolist()
        [[0.0], [-2.0]]
    """

    name: str
    of_sample: SampleLoss

    @partial(jax.jit, static_argnums=0)
    def of(self, f: Any, y: Any) -> Array:
        """l of every sample: f, y (..., C) -> (...)."""
        return _over_samples(self.of_sample, f, y)

    @partial(jax.jit, static_argnums=0)
    def minus_gradient(self, f: Any, y: Any) -> Array:
        """-d l / d f of every sample: f, y (..., C) -> (..., C)."""
        return -_over_samples(jax.grad(self.of_sample), f, y)

    @partial(jax.jit, static_argnums=0)
    def hessian(self, f: Any, y: Any) -> Array:
        """d^2 l / d f d f' of every sample: f, y (..., C) -> (..., C, C)."""
        return _over_samples(jax.hessian(self.of_sample), f, y)

    def check_targets(self, y: NDArray[Any], where: str = "") -> None:
        """ValueError unless the loss takes these targets (n,) or (n, C), wherever they come from: a Task or a stream.

        Example:
            >>> as_loss("logistic").check_targets(np.array([0.0, 1.0]))
            Traceback (most recent call last):
            ...
            ValueError: loss='logistic' needs targets +1 and -1, got 0. For 0 and 1 pass 2 y - 1.
        """
        if self == NAMED["logistic"] and (other := y[np.abs(y) != 1]).size:
            raise ValueError(f"{where}loss='logistic' needs targets +1 and -1, got {other[0]:g}. For 0 and 1 pass 2 y - 1.")
        if self == NAMED["cross_entropy"]:
            if y.ndim < 2 or y.shape[1] < 2:
                raise ValueError(f"{where}loss='cross_entropy' needs targets (P, C), C >= 2. {ONE_HOT}")
            if (y < 0).any() or not np.allclose(y.sum(-1), 1.0):
                needed = "rows of probabilities: not negative, with sum 1"
                raise ValueError(f"{where}loss='cross_entropy' needs {needed}. {ONE_HOT}")


def _over_samples(function: Callable[..., Array], f: Any, y: Any) -> Array:
    f = jnp.asarray(f)
    y = jnp.broadcast_to(jnp.asarray(y, f.dtype), f.shape)
    out = jax.vmap(function)(f.reshape(-1, f.shape[-1]), y.reshape(-1, f.shape[-1]))
    return out.reshape(*f.shape[:-1], *out.shape[1:])


def _mse(f: Array, y: Array) -> Array:
    return jnp.sum((y - f) ** 2) / 2


def _logistic(f: Array, y: Array) -> Array:
    return jnp.sum(jax.nn.softplus(-y * f))


def _cross_entropy(f: Array, y: Array) -> Array:
    return jnp.sum(y) * jax.nn.logsumexp(f) - jnp.sum(y * f)


NAMED: dict[str, Loss] = {
    loss.name: loss for loss in (Loss("mse", _mse), Loss("logistic", _logistic), Loss("cross_entropy", _cross_entropy))
}
"""mse |y - f|^2 / 2; logistic sum_c ln(1 + exp(-y_c f_c)), y = +-1; cross_entropy -sum_c y_c ln softmax(f)_c."""


def as_loss(spec: str | SampleLoss | Loss) -> Loss:
    """The Loss that `spec` names or defines.

    Args:
        spec: one of `NAMED`, a Loss, or a function of one sample's f (C,) and y (C,) written with `jax.numpy`.

    Raises:
        ValueError: unknown name; a function that does not give one number, or not a differentiable one.

    Example:
        >>> as_loss(lambda f, y: jnp.sum(jnp.sqrt(1 + (f - y) ** 2))).of(jnp.zeros((2, 1)), jnp.zeros((2, 1))).tolist()
        [1.0, 1.0]
        >>> one, other = (as_loss(lambda f, y: jnp.sum((f - y) ** 4)) for _ in range(2))
        >>> one is other
        True
    """
    if isinstance(spec, Loss):
        return spec
    if isinstance(spec, str):
        if spec not in NAMED:
            raise ValueError(
                f"loss must be one of {', '.join(sorted(NAMED))}, or a function of f and y; got {check.shown(spec)}."
            )
        return NAMED[spec]
    cure = "Write it for one sample with jax.numpy, e.g. lambda f, y: jnp.sum((f - y) ** 4)."
    if not callable(spec):
        raise ValueError(f"loss must be a name or a function of f and y; got {check.shown(spec)}. {cure}")
    try:
        value, slope = jax.value_and_grad(spec)(jnp.array([0.3]), jnp.array([1.0]))
    except Exception as error:
        raise ValueError(f"the loss function fails on f and y of shape (1,): {check.reason(error)}. {cure}") from error
    if not (jnp.isfinite(value).all() and jnp.isfinite(slope).all()):
        raise ValueError(f"the loss function gives {value} with gradient {slope} at f = 0.3, y = 1. {cure}")
    loss = Loss(getattr(spec, "__name__", "custom"), spec)
    keys = [key_of(spec, (C,), (C,)) for C in OUTPUTS]
    key = loss.name, getattr(spec, "__code__", None), *keys
    return loss if None in key else _OWN.setdefault(key, loss)


OUTPUTS = (1, 2, 3, 10)
"""Numbers of outputs at which losses of the same code are compared."""

_OWN: dict[Any, Loss] = {}
"""The first loss of a user's that computes what the key says, so that a function made anew compiles nothing anew."""
