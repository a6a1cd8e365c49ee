"""Uniform checks of what a user hands in: expected, got, and the cure."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 1e18
"""Largest entry of an array; its square is still finite in float32."""


def positive(name: str, value: Any, cure: str = "") -> float:
    """Return `value` as a float if it is a finite number above zero, else raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise ValueError(f"{name} must be a positive number, got {value!r}.{_sentence(cure)}")
    if not 0 < (value.item() if isinstance(value, np.number) else value) <= sys.float_info.max:
        raise ValueError(f"{name} must be finite and above zero, got {value!r}.{_sentence(cure)}")
    return float(value)


def at_least_zero(name: str, value: Any, cure: str = "") -> float:
    """Return `value` as a float if it is a finite number, zero or above, else raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise ValueError(f"{name} must be a number, zero or above, got {value!r}.{_sentence(cure)}")
    if not 0 <= (value.item() if isinstance(value, np.number) else value) <= sys.float_info.max:
        raise ValueError(f"{name} must be finite and not negative, got {value!r}.{_sentence(cure)}")
    return float(value)


def flag(name: str, value: Any) -> bool:
    """Return `value` as a bool if it is True or False, else raise ValueError."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be True or False, got {value!r}.")
    return bool(value)


def count(name: str, value: Any, cure: str = "", *, least: int = 1) -> int:
    """Return `value` as an int if it is a whole number of at least `least`, else raise ValueError."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}.{_sentence(cure)}")
    return int(value)


def array(name: str, value: Any, rank: int, shape: str, cure: str = "") -> NDArray[np.float64]:
    """Return a read-only float64 copy of `value` if it is finite and real, of that rank, and not empty.

    `shape` is the expected shape in words, e.g. "(P, D)".
    """
    try:
        if np.iscomplexobj(value):
            raise TypeError("it is complex")
        out = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be an array of numbers of shape {shape}: {str(error).rstrip('.')}.{_sentence(cure)}"
        ) from error
    if out.ndim != rank:
        raise ValueError(f"{name} must have shape {shape}, got an array of shape {out.shape}.{_sentence(cure)}")
    if out.size == 0:
        raise ValueError(f"{name} must have shape {shape} with at least one entry, got shape {out.shape}.")
    bad = ~np.isfinite(out)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{name} has {int(bad.sum())} NaN or infinite entries, the first at index {first}. "
            "Remove those samples or fill the gaps before making a Task."
        )
    if (largest := np.abs(out).max()) > LARGEST:
        raise ValueError(f"{name} has entries as large as {largest:.3g}, whose squares overflow. Rescale to order one.")
    out.setflags(write=False)
    return out


def choice(name: str, value: Any, allowed: Any) -> Any:
    """Return `value` if it is one of `allowed`, else raise ValueError that lists them."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}.")
    return value


def instance(name: str, value: Any, kind: type, cure: str = "") -> None:
    """Raise ValueError unless `value` is an object of that kind (the kind itself is not)."""
    if isinstance(value, type) or not isinstance(value, kind):
        raise ValueError(f"{name} must be a {kind.__name__}, got {value!r:.80}.{_sentence(cure)}")


def _sentence(cure: str) -> str:
    return f" {cure}" if cure else ""
