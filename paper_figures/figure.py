"""What a figure is, and what figures share."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any, Protocol

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure as Canvas

import paper_figures
from compare import PowerLaw
from paper_figures.headline import Number

STYLE = Path(__file__).with_name("style.mplstyle")
THEORY = "black"
"""Theory is always drawn in this colour."""


class Figure(Protocol):
    """A module `figNN_phenomenon` of this package."""

    __doc__: str | None

    def compute(self, quick: bool) -> Any:
        """The saved or newly computed results that the figure shows."""

    def plot(self, data: Any) -> Canvas:
        """The figure, from results only."""

    def table(self, data: Any) -> str:
        """The numbers behind it, for the terminal."""

    def numbers(self, data: Any) -> list[Number]:
        """What it claims, as numbers with their errors; headlines.toml has the bounds, and outside of them the figure fails."""


def names() -> list[str]:
    """All figures, by name."""
    return sorted(module.name for module in pkgutil.iter_modules(paper_figures.__path__) if re.match(r"fig\d\d_", module.name))


def starting_with(beginning: str) -> list[str]:
    """The figures whose names begin so; none for an empty beginning."""
    return [name for name in names() if beginning and name.startswith(beginning)]


def find(name: str) -> Figure:
    """The figure of that name.

    Raises:
        ValueError: there is none; lists those there are.
    """
    if name not in names():
        raise ValueError(f"no figure {name!r}; there are: {', '.join(names())}.")
    return importlib.import_module(f"paper_figures.{name}")


def shades(number: int) -> Any:
    """Colours of sizes, light for small and dark for large."""
    return plt.get_cmap("viridis_r")(np.linspace(0.12, 0.95, number))


def width_colors(widths: Any) -> dict[int, Any]:
    """A colour per width, light for narrow and dark for wide."""
    return dict(zip(sorted(widths), shades(len(widths)), strict=True))


def mean_and_error(x: Any) -> tuple[Any, Any]:
    """Over runs, the first axis, and its standard error: numbers, or arrays of the other axes.

    Example:
        >>> mean_and_error([1.0, 3.0])
        (np.float64(2.0), np.float64(1.0))
    """
    runs = np.asarray(x)
    return runs.mean(0), runs.std(0, ddof=1) / np.sqrt(len(runs))


def exponent(law: PowerLaw | None) -> tuple[float, float]:
    """Of a fitted law, and its error; where none was resolved not a number, which no bounds hold."""
    return (law.exponent, law.error) if law else (np.nan, 0.0)
