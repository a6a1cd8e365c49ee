"""Activation functions: phi, its derivative, and what a solver may assume of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from widthwise import check
from widthwise.checked import checked
from widthwise.precision import computing_in
from widthwise.traced import key_of

Elementwise = Callable[[jax.Array], jax.Array]


@checked
@dataclass(frozen=True)
class Activation:
    """An elementwise nonlinearity phi and its derivative.

    Attributes:
        name: what `repr` and files show.
        phi: h -> phi(h), elementwise, written with `jax.numpy`.
        d: h -> phi'(h). A kink or a jump (ReLU) is fine: nothing in this package uses phi''.
        odd: whether phi(-h) = -phi(h); the solver then spends no paths on mirrored fields.

    Example:
        >>> import jax.numpy as jnp
        >>> act = as_activation("relu")
        >>> act.phi(jnp.array([-1.0, 2.0])).tolist(), act.d(jnp.array([-1.0, 2.0])).tolist()
        ([0.0, 2.0], [0.0, 1.0])
    """

    name: str
    phi: Elementwise
    d: Elementwise = field(repr=False)
    odd: bool = False

    def __call__(self, h: jax.Array) -> jax.Array:
        return self.phi(h)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A copied or unpickled named activation is the named one, though jitted functions and lambdas do not survive that."""
        named = self == NAMED.get(self.name)
        return (as_activation, (self.name,)) if named else super().__reduce_ex__(protocol)


def _linear(h: jax.Array) -> jax.Array:
    return h


def _relu(h: jax.Array) -> jax.Array:
    return jnp.maximum(h, 0.0)


def _erf_d(h: jax.Array) -> jax.Array:
    return float(2.0 / np.sqrt(np.pi)) * jnp.exp(-h * h)  # a float, not NumPy's, keeps the precision of h


def _erf_of_gelu(h: jax.Array) -> jax.Array:
    """2 Psi(h) - 1"""
    return jax.lax.erf(h * float(np.sqrt(0.5)))


def _gelu(h: jax.Array) -> jax.Array:
    return 0.5 * h * (1.0 + _erf_of_gelu(h))  # in this order: h * (0.5 + 0.5 erf) takes twice as long in XLA's backward pass


def _gelu_d(h: jax.Array) -> jax.Array:
    return 0.5 * (1.0 + _erf_of_gelu(h)) + h * jax.scipy.stats.norm.pdf(h)


def _square(h: jax.Array) -> jax.Array:
    return h * h


NAMED: dict[str, Activation] = {
    a.name: a
    for a in (
        Activation("linear", _linear, jnp.ones_like, odd=True),
        Activation("relu", _relu, lambda h: (h > 0).astype(h.dtype)),
        Activation("tanh", jnp.tanh, lambda h: 1.0 - jnp.tanh(h) ** 2, odd=True),
        Activation("erf", jax.scipy.special.erf, _erf_d, odd=True),
        Activation("gelu", _gelu, _gelu_d),
        Activation("softplus", jax.nn.softplus, jax.nn.sigmoid),
        Activation("quadratic", _square, lambda h: 2.0 * h),
    )
}
"""linear h, relu max(h, 0), tanh h, erf h, gelu h Psi(h) (exact), softplus ln(1 + e^h), quadratic h^2."""


@dataclass(frozen=True)
class _Derivative:
    """phi' of a user's phi by forward-mode differentiation; equal for equal phi, so that nothing compiles twice."""

    phi: Elementwise

    def __call__(self, h: jax.Array) -> jax.Array:
        return jax.jvp(self.phi, (h,), (jnp.ones_like(h),))[1]


@dataclass(frozen=True)
class _Cast:
    """A function whose values have the precision of its argument; equal for equal functions."""

    function: Elementwise

    def __call__(self, h: jax.Array) -> jax.Array:
        return self.function(h).astype(h.dtype)


def _in_its_dtype(function: Elementwise) -> Elementwise:
    """The function, or a `_Cast` if it makes float64 of float32, as one with a number of NumPy's does: np.sqrt(2.0) * h."""
    try:
        with computing_in("float64"):
            made = jax.eval_shape(function, jax.ShapeDtypeStruct((), "float32")).dtype
    except Exception:  # it fails where it is used, with the message of that place
        return function
    return function if made == "float32" else _Cast(function)


def as_activation(spec: str | Elementwise | Activation) -> Activation:
    """The Activation that `spec` names or defines.

    Args:
        spec: one of `NAMED`, an Activation, or an elementwise function written with `jax.numpy`.

    Raises:
        ValueError: unknown name, or a function that is not elementwise or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> as_activation(lambda h: jnp.tanh(0.8 * h) / 0.8).odd
        True
    """
    if isinstance(spec, Activation):
        both = spec.phi, spec.d
        phi, d = both if spec in NAMED.values() else map(_in_its_dtype, both)
        return spec if (phi, d) == both else replace(spec, phi=phi, d=d)
    if isinstance(spec, str):
        if spec not in NAMED:
            raise ValueError(
                f"activation must be one of {', '.join(sorted(NAMED))}, or a function of one array; got {check.shown(spec)}."
            )
        return NAMED[spec]
    if not callable(spec):
        raise ValueError(f"activation must be a name or a function of one array; got {check.shown(spec)}.")
    probe = jnp.array([[-2.3, -0.7], [0.4, 1.9]])
    cure = "Write it elementwise with jax.numpy, e.g. lambda h: jnp.tanh(0.8 * h) / 0.8."
    try:
        value, alone = spec(probe), jax.vmap(jax.vmap(spec))(probe)
        mirrored = spec(-probe)
    except Exception as error:
        raise ValueError(f"activation function fails on an array of shape (2, 2): {check.reason(error)}. {cure}") from error
    if jnp.shape(value) != probe.shape or jnp.result_type(value) != probe.dtype or not bool(jnp.all(jnp.isfinite(value))):
        raise ValueError(
            f"activation must map (2, 2) finite numbers to (2, 2) finite numbers; got {check.shown(value)}. {cure}"
        )
    if not bool(jnp.allclose(value, alone, rtol=1e-5, atol=1e-6)):
        raise ValueError(f"activation must act on every number by itself; alone {alone!r}, in an array {value!r}. {cure}")
    phi = _in_its_dtype(spec)
    odd = bool(jnp.allclose(value, -mirrored, rtol=1e-6, atol=1e-7))
    return _the_one_like(Activation(getattr(spec, "__name__", "custom"), phi, _Derivative(phi), odd))


_OWN: dict[Any, Activation] = {}
"""The first activation of a user's that computes what the key says."""


def _the_one_like(act: Activation) -> Activation:
    """The first activation that computes the same, so that a function made anew compiles nothing anew."""
    key = key_of(lambda h: (act.phi(h), act.d(h)), ())
    return act if key is None else _OWN.setdefault((act.name, act.odd, key), act)
