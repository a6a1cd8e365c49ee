"""Uniform checks of what a user hands in: expected, got, and the cure. Every public entry goes through them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from widthwise.result import Result

LARGEST = 1e18
"""Largest entry of an array; its square is still finite in float32."""
HUGE = 1e150
"""Largest number on its own; its square, and one over it squared, are still numbers of float64."""
MANY = 10**7
"""Most repetitions of what takes time each: draws, probes, resamples, steps in a loop."""
SEEDS = 2**32
"""Seeds lie below: a random key of JAX drops the higher bits (without 64-bit mode), and two seeds would give one network."""
LONGEST = 10**7
"""Most entries of a sequence that a user hands in; an iterator without end stops there."""


# --- numbers ---------------------------------------------------------------------------------------------------------------


def number(name: str, value: Any, cure: str = "", *, least: float | None = None, infinite: bool = False) -> float:
    """Return `value` as a float if it is a real number, at least `least`, else raise ValueError. NaN is none."""
    bound = "" if least is None else f" of at least {least:g}"
    x: Any = _real(value, name)
    if x is None or x != x:
        raise _wrong(name, f"a number{bound}", value, cure)
    if not (-HUGE <= x <= HUGE or (infinite and abs(x) == float("inf"))):
        extreme = f" (of size up to {HUGE:g})" if abs(x) < float("inf") else ""
        raise _wrong(name, f"a finite number{bound}{extreme}", value, cure)
    if least is not None and x < least:
        raise _wrong(name, f"a number{bound}", value, cure)
    return _as_float(x)


def positive(name: str, value: Any, cure: str = "") -> float:
    """Return `value` as a float if it is a finite number above zero, else raise ValueError."""
    x = _real(value, name)
    if x is None:
        raise _wrong(name, "a positive number", value, cure)
    if not 1 / HUGE <= x <= HUGE:
        extreme = f" (from {1 / HUGE:g} to {HUGE:g})" if 0 < x < float("inf") else ""
        raise _wrong(name, f"finite and above zero{extreme}", value, cure)
    return float(x)


def at_least_zero(name: str, value: Any, cure: str = "") -> float:
    """Return `value` as a float if it is a finite number, zero or above, else raise ValueError."""
    x = _real(value, name)
    if x is None:
        raise _wrong(name, "a number, zero or above", value, cure)
    if not 0 <= x <= HUGE:
        raise _wrong(name, f"finite and not negative{f' (up to {HUGE:g})' if x > HUGE else ''}", value, cure)
    return float(x)


def whole(name: str, value: Any, cure: str = "") -> int:
    """Return `value` as an int if it is a whole number of 64 bits, of either sign, else raise ValueError."""
    x = _real(value, name)
    if not isinstance(x, int) or not -(2**63) <= x < 2**63:
        raise _wrong(name, "a whole number", value, cure)
    return x


def count(name: str, value: Any, cure: str = "", *, least: int = 1, most: int = 2**63 - 1) -> int:
    """Return `value` as an int if it is a whole number from `least` to `most`, else raise ValueError."""
    x = _real(value, name)
    if not isinstance(x, int) or x < least:
        raise _wrong(name, f"a whole number of at least {least}", value, cure)
    if x > most:
        raise _wrong(name, f"a whole number in {least} ... {most}", value, cure)
    return x


def seed(name: str, value: Any) -> int:
    """Return `value` as an int if it is a whole number that random numbers can start from, else raise ValueError."""
    return count(name, value, least=0, most=SEEDS - 1)


def flag(name: str, value: Any) -> bool:
    """Return `value` as a bool if it is True or False, else raise ValueError."""
    if not isinstance(value, bool | np.bool_):
        raise _wrong(name, "True or False", value)
    return bool(value)


# --- sequences and arrays --------------------------------------------------------------------------------------------------


def sequence(name: str, value: Any, cure: str = "", *, like: str = "[1, 2]") -> list[Any]:
    """Return `value` as a list if it is a finite sequence (or an iterator, a set) but no text and no mapping."""
    _refuse_traced(name, value)
    masked = isinstance(value, np.ma.MaskedArray)
    if (
        isinstance(value, str | bytes | Mapping | type)
        or masked
        or not isinstance(value, Iterable)
        or getattr(value, "ndim", 1) == 0
    ):
        raise _wrong(name, f"a sequence like {like}", value, cure)
    out = list(islice(value, LONGEST + 1))
    if len(out) > LONGEST:
        raise ValueError(f"{name} must be a sequence of at most {LONGEST} entries, got more.{_sentence(cure)}")
    return out


def counts(name: str, value: Any, cure: str = "", *, least: int = 1) -> tuple[int, ...]:
    """Return `value` as a tuple of ints if it is a sequence of whole numbers of at least `least`, else raise ValueError."""
    return tuple(count(f"every entry of {name}", n, cure, least=least) for n in sequence(name, value, cure))


def broadcast(**given: Any) -> list[NDArray[Any]]:
    """The arrays, each in the shape that they have together, else ValueError."""
    try:
        return list(np.broadcast_arrays(*given.values()))
    except ValueError as error:
        shapes = ", ".join(f"{name} {np.shape(x)}" for name, x in given.items())
        raise ValueError(f"shapes must go together (be equal, or one where they are not); got {shapes}.") from error


def array(name: str, value: Any, rank: int | None, shape: str, cure: str = "") -> NDArray[np.float64]:
    """Return a read-only float64 copy of `value` if it is finite and real, of that rank (None is any), and not empty.

    `shape` is the expected shape in words, e.g. "(P, D)".
    """
    out = numbers(name, value, f"of shape {shape}", cure)
    if rank is not None and out.ndim != rank:
        raise ValueError(f"{name} must have shape {shape}, got an array of shape {out.shape}.{_sentence(cure)}")
    if out.size == 0:
        raise ValueError(f"{name} must have shape {shape} with at least one entry, got shape {out.shape}.")
    bad = ~np.isfinite(out)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{name} has {int(bad.sum())} NaN or infinite entries, the first at index {first}. "
            "Remove those samples or fill the gaps."
        )
    if (largest := np.abs(out).max()) > LARGEST:
        raise ValueError(f"{name} has entries as large as {largest:.3g}, whose squares overflow. Rescale to order one.")
    out.setflags(write=False)
    return out


def numbers(name: str, value: Any, kind: str = "of any shape", cure: str = "") -> NDArray[np.float64]:
    """Return a float64 copy of `value` if it is an array of real numbers, NaN and infinite ones included."""
    return np.array(numeric(name, value, kind, cure), dtype=np.float64)


def numeric(name: str, value: Any, kind: str = "of any shape", cure: str = "") -> NDArray[Any]:
    """Return `value` as an array of real numbers of its own type, not copied if it is one; else raise ValueError.

    Text, dates, objects and complex numbers are none, and neither is an array with masked entries: NumPy would drop the mask.
    """
    _refuse_traced(name, value)
    expected = f"an array of numbers {kind}"
    try:
        if np.ma.isMaskedArray(value) and np.ma.getmaskarray(value).any():
            raise TypeError("it has masked entries; fill or remove them")
        given = raw(name, value, cure, expected=expected)
        if given.dtype.kind == "O":  # whole numbers beyond 64 bits, fractions; or anything else
            odd = [x for x in given.ravel() if _real(x, name) is None]
            if odd:
                raise TypeError(f"it holds {shown(odd[0])}")
            return np.array([_as_float(_real(x, name)) for x in given.ravel()]).reshape(given.shape)
        if not (given.dtype.kind in "biuf" or jax.dtypes.issubdtype(given.dtype, np.floating)):
            raise TypeError(f"its entries are {KINDS.get(given.dtype.kind, str(given.dtype))}")
        return given.data if isinstance(given, np.ma.MaskedArray) else given
    except TypeError as error:
        raise ValueError(f"{name} must be {expected}, got {shown(value)}: {reason(error)}.{_sentence(cure)}") from error


def no_empty_row(name: str, value: NDArray[np.float64], cure: str = "") -> None:
    """Raise ValueError if all entries of a row are zero, or so small that their squares are."""
    if not (empty := (np.abs(value).max(1) < 1 / HUGE)).any():
        return
    raise ValueError(f"{name} must have no row of zeros, got one at index {int(empty.argmax())}.{_sentence(cure)}")


def raw(name: str, value: Any, cure: str = "", *, expected: str = "an array") -> NDArray[Any]:
    """Return `value` as an array of whatever it holds, else raise ValueError."""
    try:
        return np.asanyarray(value)
    except MemoryError:
        raise
    except Exception as error:  # whatever an object of the user's does when it is read as an array
        raise ValueError(f"{name} must be {expected}, got {shown(value)}: {reason(error)}.{_sentence(cure)}") from error


def per(name: str, value: Any, shape: tuple[int, ...], each: str) -> NDArray[np.float64]:
    """Return `value` as an array of this shape if it is one number, or one for each, else raise ValueError."""
    out = numbers(name, value)
    try:
        return np.broadcast_to(out, shape)
    except ValueError as error:
        raise ValueError(f"{name} must be one number or one per {each}, shape {shape}; got shape {out.shape}.") from error


def called(name: str, function: Callable[..., Any], *given: Any, shape: tuple[int, ...], cure: str = "") -> NDArray[np.float64]:
    """What a function of the user's gives, as finite numbers of this shape; else ValueError."""
    try:
        value = function(*given)
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"{name} fails with {type(error).__name__}: {reason(error)}.{_sentence(cure)}") from error
    out = numbers(name, value, f"of shape {shape}", cure)
    if out.shape != shape or not np.isfinite(out).all():
        raise ValueError(f"{name} must be finite numbers of shape {shape}, got {shown(out)}.{_sentence(cure)}")
    return out


KINDS = {"c": "complex", "U": "text", "S": "bytes", "T": "text", "M": "dates", "m": "differences of dates", "V": "records"}
"""What the entries of an array are that are no numbers, by the kind of its dtype."""


# --- everything else -------------------------------------------------------------------------------------------------------


def choice(name: str, value: Any, allowed: Any) -> Any:
    """Return `value` if it is one of the words `allowed`, else raise ValueError that lists them."""
    words = tuple(allowed)
    if not isinstance(value, str) or str(value) not in words:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, words))}; got {shown(value)}.")
    return str(value)


def instance(name: str, value: Any, kind: type, cure: str = "") -> None:
    """Raise ValueError unless `value` is an object of that kind (the kind itself is not)."""
    if isinstance(value, type) or not isinstance(value, kind):
        raise _wrong(name, f"a {kind.__name__}", value, cure)


def result(name: str, value: Any, cure: str = "It is what dmft.solve and finite.train return.") -> Result:
    """Return `value` if it is a Result, else raise ValueError."""
    from widthwise.result import Result

    instance(name, value, Result, cure)
    return value


def function(name: str, value: Any, cure: str = "") -> Callable[..., Any]:
    """Return `value` if it can be called, else raise ValueError."""
    if not callable(value):
        raise _wrong(name, "a function", value, cure)
    return value


def outside_jit(name: str) -> None:
    """Raise TypeError inside `jax.jit` (or a scan, ...), where what JAX computes has no value yet."""
    if isinstance(jnp.zeros(()), jax.core.Tracer):
        raise TypeError(f"{name} computes numbers as it goes and compiles by itself: call it outside jax.jit.")


def path(name: str, value: Any) -> str:
    """Return `value` as text if it is a path, else raise ValueError."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise _wrong(name, "a path", value)
    return str(text)


def shown(value: Any) -> str:
    """`value` in at most 80 characters, on one line; arrays by their shape."""
    kind = type(value).__name__
    try:
        if isinstance(value, np.ndarray | jax.Array) and value.size > 8:
            return f"an array of shape {value.shape} and dtype {value.dtype}"
        text = " ".join(repr(value).split())
    except Exception:  # an object that cannot be printed, a number of too many digits
        return f"an object of type {kind}"
    return text if len(text) <= 80 else f"{text[:60]}... ({kind})"[:80]


def _real(value: Any, name: str) -> int | float | Fraction | None:
    """The number that `value` is, or None if it is not one: a number of Python, NumPy or JAX, or an array of rank 0 of one."""
    _refuse_traced(name, value)
    if isinstance(value, bool | np.timedelta64 | np.ma.MaskedArray):
        return None
    if isinstance(value, np.ndarray | jax.Array | np.number) and value.ndim == 0:
        if value.dtype.kind not in "iuf" and not jax.dtypes.issubdtype(value.dtype, np.floating):
            return None
        item = value.item()
        return float(item) if not isinstance(item, int | float) else item  # np.longdouble's is itself
    return value if isinstance(value, int | float | Fraction) else None


def _as_float(x: Any) -> float:
    try:
        return float(x)
    except OverflowError:
        return float("inf") if x > 0 else -float("inf")


def _refuse_traced(name: str, value: Any) -> None:
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{name} is traced by JAX (inside jit, grad or vmap), but this function computes with NumPy: "
            "it needs numbers and has no derivative. Call it outside."
        )


def _wrong(name: str, expected: str, value: Any, cure: str = "") -> ValueError:
    return ValueError(f"{name} must be {expected}, got {shown(value)}.{_sentence(cure)}")


def reason(error: Exception) -> str:
    """What an exception says, on one line."""
    try:
        return " ".join(str(error).split()).rstrip(".") or type(error).__name__
    except Exception:
        return type(error).__name__


def _sentence(cure: str) -> str:
    return f" {cure}" if cure else ""
