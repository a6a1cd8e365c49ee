"""What a check says when it fails, and when it cannot tell."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALPHA = 3e-4
"""Default level: false alarms stay below 1 in 1000 where few seeds tell the errors, too, and logarithms are not normal."""


class CannotTell(ValueError):
    """The data are too few or too noisy to see what the check is to see; a pass would mean nothing. Says what it needs.

    Example:
        >>> issubclass(CannotTell, AssertionError)  # pytest shows an error of the test, not a law that is broken
        False
    """


def fail(*lines: str) -> NoReturn:
    """Raise AssertionError with these lines."""
    raise AssertionError("\n".join(lines))


def more_of(what: str, factor: float) -> str:
    """e.g. "about 3 times as many seeds"."""
    return f"about {math.ceil(min(factor, 1e6) + 0.5)} times as many {what}"


def draw(path: str | os.PathLike[str] | None, paint: Callable[[Axes], Any]) -> None:
    """Write a figure of one panel to `path`, if there is one."""
    if path is None:
        return
    from matplotlib.figure import Figure  # not pyplot: no window, no state

    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    paint(figure.add_subplot())
    figure.savefig(path, dpi=150)
