"""The experiment: ensembles of networks of finite width, trained exactly as the Problem says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finite.train import train

if TYPE_CHECKING:
    from finite.coordinates import CoordinateCheck, coordinate_check

__all__ = ["CoordinateCheck", "coordinate_check", "train"]


def __getattr__(name: str) -> Any:
    """What needs equinox, which takes a fifth of a second to import: when it is asked for."""
    if name in __all__:
        from finite import coordinates

        return getattr(coordinates, name)
    raise AttributeError(f"module 'finite' has no attribute {name!r}")
