"""What a figure is, and how it is drawn."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure as Canvas

import paper_figures
from paper_figures.cache import writable
from paper_figures.claim import Claim, ClaimFailed

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

    def claims(self, data: Any) -> list[Claim]:
        """What it shows, each a number with its tolerance; the figure fails if one does not hold."""


def names() -> list[str]:
    """All figures, by name."""
    return sorted(module.name for module in pkgutil.iter_modules(paper_figures.__path__) if re.match(r"fig\d\d_", module.name))


def find(name: str) -> Figure:
    """The figure of that name.

    Raises:
        ValueError: there is none; lists those there are.
    """
    if name not in names():
        raise ValueError(f"no figure {name!r}; there are: {', '.join(names())}.")
    return importlib.import_module(f"paper_figures.{name}")


def draw(name: str, *, quick: bool, folder: Path) -> Iterator[str | Path]:
    """Compute, print-out and files of one figure: yields its table, its claims, then the paths written (PNG and PDF).

    Raises:
        ClaimFailed: a claim does not hold; after everything is written.
        ValueError: there is no figure of that name.
        OSError: the folder cannot be made or written.
    """
    figure = find(name)
    writable(folder)  # before hours of computing, not after
    data = figure.compute(quick)
    yield figure.table(data)
    claims = figure.claims(data)
    yield "\n".join(map(str, claims))
    with plt.style.context(STYLE):
        canvas = figure.plot(data)
        for suffix in ("png", "pdf"):
            path = folder / f"{name}.{suffix}"
            canvas.savefig(path)
            yield path
        plt.close(canvas)
    if failed := [claim for claim in claims if not claim]:
        raise ClaimFailed(f"{name} does not show what it claims: {'; '.join(claim.text for claim in failed)}")


def width_colors(widths: Any) -> dict[int, Any]:
    """A colour per width, light for narrow and dark for wide."""
    shades = plt.get_cmap("viridis_r")(np.linspace(0.12, 0.95, len(widths)))
    return dict(zip(sorted(widths), shades, strict=True))
